from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys

import pytest

from icmh_rt.evaluation import cli
from icmh_rt.evaluation.__main__ import main
from icmh_rt.evaluation.anchors import installed


def rd(folder, *options: str) -> int:
    return main(["rd", "--data", str(folder), "--quiet", *options])


def test_measures_widths_and_anchors_and_writes_everything(folder, fake_codec, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    code = rd(
        folder,
        *("--widths", "0.25,1.0", "--qualities", "1,34,...,100"),
        *("--json", str(out / "r.json"), "--plot", str(out / "r.svg")),
        *("--csv", str(out / "r.csv")),
        *("--markdown", str(out / "r.md"), "--title", "Three photos"),
    )
    shown = capsys.readouterr()
    assert (code, shown.err) == (0, "")
    assert "icmh_rt width 0.25" in shown.out and "webp" in shown.out
    document = json.loads((out / "r.json").read_text())
    assert [c["name"] for c in document["curves"]] == [
        "icmh_rt width 0.25",
        "icmh_rt width 1",
        "jpeg",
        "webp",
    ]
    assert document["curves"][0]["qualities"] == [1, 34, 67, 100]
    assert str(tmp_path) not in (out / "r.json").read_text()
    assert document["provenance"]["command"].startswith(
        "icmh eval rd --data photos --widths 0.25,1"
    )
    assert "![Rate-distortion curves](r.svg)" in (out / "r.md").read_text()
    assert sorted(p.name for p in out.iterdir()) == ["r.csv", "r.json", "r.md", "r.svg"]
    assert (out / "r.csv").read_text().splitlines()[1].startswith("icmh_rt width 0.25,codec,1,,")

    # The page can be made again from the file, and the file can stand in for the measurement.
    assert main(["report", str(out / "r.json"), "--markdown", str(out / "again.md")]) == 0
    assert capsys.readouterr().out == shown.out
    code = rd(
        folder, "--widths", "none", "--anchors", "webp-slow", "--reference", str(out / "r.json")
    )
    assert code == 0
    assert "webp-slow" in capsys.readouterr().out


def test_json_on_standard_output_is_alone_there(folder, capsys):
    assert (
        main(["rd", "--data", str(folder), "--widths", "none", "--anchors", "jpeg", "--json", "-"])
        == 0
    )
    shown = capsys.readouterr()
    assert json.loads(shown.out)["curves"][0]["name"] == "jpeg"
    assert "[19/19] jpeg, quality 95" in shown.err


def test_lists_take_spaces_commas_or_both(folder, capsys):
    assert (
        rd(folder, "--widths", "none", "--anchors", "webp-slow,", "jpeg", "--published", "none")
        == 0
    )
    shown = capsys.readouterr().out
    assert "webp-slow (" in shown and "jpeg (" in shown and "webp (" not in shown
    assert rd(folder, "--widths", "none", "--anchors", "all") == 0
    shown = capsys.readouterr().out
    assert all(f"{name} (" in shown for name in installed())


def test_published_curves_of_other_images_are_a_usage_error(folder, capsys):
    code = rd(folder, "--widths", "none", "--published", "mbt2018-mean")
    assert "published curves are means over the 24 Kodak images" in failed(capsys, code, 2)


def test_standard_output_takes_one_document(folder, capsys):
    code = rd(folder, "--widths", "none", "--json", "-", "--html", "-")
    assert "standard output takes only one" in failed(capsys, code, 2)


def test_the_html_page_has_pictures_when_measured_and_none_when_made_again(
    folder, tmp_path, capsys
):
    (folder / "photo1.png").rename(folder / "a <b> & 'c'.png")
    first, again = tmp_path / "r.html", tmp_path / "again.html"
    options = ("--widths", "none", "--anchors", "jpeg", "webp", "--json", str(tmp_path / "r.json"))
    assert rd(folder, *options, "--html", str(first)) == 0
    page = first.read_text()
    assert page.startswith("<!doctype html>") and str(tmp_path) not in page
    assert "<b> &" not in page
    assert page.count('src="data:image/') == 2 * 3  # two pictures: original, JPEG, WebP
    assert main(["report", str(tmp_path / "r.json"), "--html", str(again)]) == 0
    assert 'src="data:image/' not in again.read_text()


def failed(capsys, code: int, expected: int) -> str:
    shown = capsys.readouterr()
    assert code == expected
    assert shown.out == ""
    assert shown.err.count("\n") == 1 and shown.err.startswith("icmh: error: ")
    return shown.err


def test_bad_data_is_one_line_and_exit_code_1(folder, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    anchors = ("--widths", "none")
    assert "has no images" in failed(capsys, rd(empty, *anchors), 1)
    assert "is not a folder" in failed(capsys, rd(tmp_path / "none", *anchors), 1)
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "bad.png" in failed(capsys, rd(folder, *anchors), 1)


def test_a_reference_over_other_images_is_refused_before_measuring(folder, tmp_path, capsys):
    path = tmp_path / "r.json"
    options = ("--widths", "none", "--anchors", "jpeg")
    assert rd(folder, *options, "--json", str(path)) == 0
    (folder / "photo1.png").unlink()
    capsys.readouterr()
    message = failed(capsys, rd(folder, *options, "--reference", str(path)), 1)
    assert "measured on other images" in message


def test_what_cannot_be_written_is_refused_before_measuring(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "measure", lambda *_, **__: pytest.fail("measured"))
    lost = str(tmp_path / "none" / "r.json")
    assert "its folder does not exist" in failed(capsys, rd(folder, "--json", lost), 1)
    assert "must end in" in failed(capsys, rd(folder, "--plot", str(tmp_path / "r.gif")), 2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "icmh-rt[eval]" in failed(capsys, rd(folder, "--plot", str(tmp_path / "r.svg")), 1)


def test_a_codec_error_is_one_line(folder, fake_codec, capsys):
    assert "no bundle 'missing'" in failed(capsys, rd(folder, "--model", "missing"), 2)


def test_nothing_to_measure_is_a_usage_error(folder, capsys):
    code = rd(folder, "--widths", "none", "--anchors", "none")
    assert "nothing to measure" in failed(capsys, code, 2)


@pytest.mark.parametrize(
    "options",
    [
        ["--qualities", "0"],
        ["--qualities", "1,...,10"],
        ["--widths", "wide"],
        ["--anchors", "bpg"],
        ["--published", "bpg"],
        ["--anchors"],
        ["--jobs", "0"],
        ["--nonsense"],
    ],
)
def test_bad_options_are_usage_errors(folder, options, capsys):
    with pytest.raises(SystemExit) as caught:
        rd(folder, *options)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    "text, values",
    [
        ("50", (50,)),
        ("1,10,20,...,100", (1, *range(10, 101, 10))),
        ("5, 10, ..., 20, 50", (5, 10, 15, 20, 50)),
        ("90,10,90", (10, 90)),
    ],
)
def test_qualities(text, values):
    assert cli.parse_qualities(text) == values


@pytest.mark.parametrize(
    "text",
    ["", "101", "1.5", "-1", "...", "1,2,...", "1,2,...,x", "9,5,...,1", "1,11,...,100", "١"],
)
def test_qualities_that_mean_nothing(text):
    with pytest.raises(argparse.ArgumentTypeError):
        cli.parse_qualities(text)


def test_widths_and_anchors():
    assert cli.parse_widths("1.0,0.25,1") == (0.25, 1.0)
    assert cli.parse_widths("none") == cli.parse_anchors("none") == ()
    assert cli.parse_anchors("webp, jpeg,webp") == ("webp", "jpeg")
    for text in ("0", "-1", "2.5", "nan", "inf", "a", ""):
        with pytest.raises(argparse.ArgumentTypeError):
            cli.parse_widths(text)


def test_importing_the_command_loads_neither_torch_nor_matplotlib():
    code = "import sys, icmh_rt.evaluation.cli; print([m for m in sys.modules if m in %r])"
    heavy = ("torch", "matplotlib", "scipy")
    done = subprocess.run(
        [sys.executable, "-c", code % (heavy,)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
