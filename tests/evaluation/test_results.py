from __future__ import annotations

import json
from pathlib import Path

import pytest

from icmh_rt.errors import IcmhError, OptionError
from icmh_rt.evaluation import published, report, results
from icmh_rt.evaluation.curves import Curve, ImageRecord, Point

IMAGES = (ImageRecord("a.png", 30, 20, "0" * 16), ImageRecord("b.png", 20, 30, "1" * 16))
DOCS = Path(__file__).parents[2] / "docs" / "results"


def curve(name="icmh_rt width 1", kind="codec", factor=1.0, images=IMAGES, lossless=False):
    counts = [(100, 200), (200, 400), (400, 700), (900, 1600)]
    errors = [(90000, 150000), (40000, 70000), (9000, 20000), (0 if lossless else 4000, 9000)]
    return Curve(
        name,
        kind,
        {"width": 1.0} if kind == "codec" else {"program": "Pillow"},
        images,
        (1, 10, 50, 100),
        tuple(tuple(round(factor * n) for n in row) for row in counts),
        tuple(errors),
        estimated_bits=tuple((8.0 * a, 8.0 * b) for a, b in counts) if kind == "codec" else None,
        ms_ssims=((0.85, 0.8), (0.9, 0.92), (0.97, 0.96), (1.0, 0.99)) if kind == "codec" else None,
        encode_ms=(1.25, 2.5, 3.0, 4.0) if kind == "codec" else None,
        decode_ms=(1.0, 2.0, 3.0, 4.0) if kind == "codec" else None,
    )


def everything(**change) -> results.Results:
    published = Curve(
        "paper",
        "published",
        {"source": "somewhere"},
        IMAGES,
        published=(Point(None, 2.0, 25.0), Point(None, 8.0, 38.0)),
    )
    curves = (curve(**change), curve("jpeg", "anchor", 2.0), published)
    return results.Results(curves, results.provenance("icmh eval rd --data x"))


def test_json_gives_the_same_results_back(tmp_path):
    before = everything()
    path = tmp_path / "r.json"
    results.write_text(results.to_json(before), str(path))
    after = results.load(path)
    assert after == before
    assert results.to_json(after) == results.to_json(before)
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_json_holds_what_programs_need():
    document = json.loads(results.to_json(everything()))
    assert (document["schema"], document["schema_version"]) == ("icmh_rt.rate_distortion", 1)
    assert set(document["provenance"]) == {"command", "created", "versions", "machine"}
    against = {c["anchor"]: c for c in document["comparisons"]}
    assert against["jpeg"]["rate"]["value"] == pytest.approx(-50.0)
    assert against["paper"]["rate"]["warnings"] == ["anchor curve has only 2 points"]
    assert document["checks"][0]["monotone"] is True


def test_an_infinite_psnr_is_null_in_json_and_infinite_again_when_read(tmp_path):
    text = results.to_json(everything(lossless=True))
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert document["curves"][0]["points"][-1]["psnr"] is None
    (tmp_path / "r.json").write_text(text)
    assert results.load(tmp_path / "r.json").curves[0].points[-1].psnr == float("inf")
    assert " inf" in report.table(everything(lossless=True))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "not a JSON results file"),
        ("[1, 2", "not a JSON results file"),
        ("[1, 2]", "its schema is None"),
        ('{"schema": "other", "schema_version": 1}', "its schema is 'other'"),
        ('{"schema": "icmh_rt.rate_distortion", "schema_version": 2}', "schema version 2"),
        ('{"schema": "icmh_rt.rate_distortion", "schema_version": 1}', "not a sound results file"),
    ],
)
def test_what_is_no_results_file_is_one_clear_error(tmp_path, text, message):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(IcmhError, match=message) as caught:
        results.load(path)
    assert "r.json" in str(caught.value)


def test_damaged_curves_are_one_clear_error(tmp_path):
    document = json.loads(results.to_json(everything()))
    document["curves"][0]["byte_counts"].pop()
    (tmp_path / "r.json").write_text(json.dumps(document))
    with pytest.raises(IcmhError, match=r"r.json is not a sound results file.*4 rows of 2"):
        results.load(tmp_path / "r.json")


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(IcmhError, match="cannot read results"):
        results.load(tmp_path / "none.json")


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    with pytest.raises(IcmhError, match="cannot write"):
        results.write_text("x", str(tmp_path / "no folder" / "r.json"))
    assert list(tmp_path.iterdir()) == []


def test_results_refuse_what_cannot_be_compared():
    with pytest.raises(OptionError, match="at least one curve"):
        results.Results(())
    with pytest.raises(OptionError, match="two curves are named 'jpeg'"):
        results.Results((curve("jpeg", "anchor"), curve("jpeg", "anchor")))
    with pytest.raises(IcmhError, match="measured on other images"):
        results.Results((curve(), curve("jpeg", "anchor", images=IMAGES[::-1])))


def test_every_width_is_compared_with_anchors_and_the_widest():
    narrow = curve("icmh_rt width 0.25", factor=1.5)
    narrow.settings["width"] = 0.25
    found = results.Results((narrow, curve(), curve("jpeg", "anchor", 2.0))).comparisons
    assert [(c.test, c.anchor) for c in found] == [
        ("icmh_rt width 0.25", "jpeg"),
        ("icmh_rt width 0.25", "icmh_rt width 1"),
        ("icmh_rt width 1", "jpeg"),
    ]


def test_the_table_shows_points_deltas_and_checks():
    text = report.table(everything())
    assert "2 images (30x20)" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["1", "2.0000", "30.032", "29.892", "0.82500", "1.0000", "1.2", "1.0"] in lines
    assert any(line[:5] == ["icmh_rt", "width", "1", "jpeg", "-50.00"] for line in lines)
    assert "icmh_rt width 1 against paper: anchor curve has only 2 points" in text
    assert any(line[:6] == ["icmh_rt", "width", "1", "yes", "2/2", "8.3"] for line in lines)
    assert all(len(line) == len(line.rstrip()) for line in text.splitlines())


def test_the_table_shouts_where_a_check_fails():
    flat = Curve(
        "flat",
        "codec",
        {},
        IMAGES,
        (1, 2),
        ((100, 200), (100, 200)),
        ((900, 900), (800, 800)),
        estimated_bits=((8.0, 8.0), (8.0, 8.0)),
    )
    text = report.table(results.Results((flat,)))
    assert "NO" in text and "BELOW BAR" in text and "ABOVE BAR" in text


def test_the_page_has_command_figure_and_sound_tables():
    page = report.markdown(everything(), "Photos", "photos.svg")
    assert page.startswith("# Photos\n")
    assert "icmh eval rd --data x" in page
    assert "![Rate-distortion curves](photos.svg)" in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert "| icmh_rt width 1 | jpeg | -50.00 | -50.00 | -50.00 (2) |" in page
    starts = [i for i, line in enumerate(tables) if line.startswith(("| ---", "| ---:"))]
    assert len(starts) == 5
    for start, stop in zip(starts, [*[s - 1 for s in starts[1:]], len(tables)], strict=True):
        assert len({line.count("|") for line in tables[start - 1 : stop]}) == 1


@pytest.mark.parametrize("path", [DOCS / "kodak_anchors.json", published.FILE])
def test_the_stored_kodak_curves_are_sound(path):
    stored = results.load(path)
    assert [image.name for image in stored.images] == [f"kodim{i:02d}.png" for i in range(1, 25)]
    for one in stored.curves:
        rates = [point.bpp for point in one.points]
        psnrs = [point.psnr for point in one.points]
        assert rates == sorted(rates) and psnrs == sorted(psnrs)


def test_the_stored_anchors_are_what_others_publish():
    # CompressAI's results/image/kodak/{jpeg,webp}.json: bits per pixel and PSNR at these qualities.
    # JPEG's PSNR differs by decoder (chroma upsampling): a tenth of a dB.
    stored = {c.name: {p.quality: p for p in c.points} for c in everything_stored()}
    jpeg, webp = stored["jpeg"][50], stored["webp"][50]
    assert (jpeg.bpp, jpeg.psnr) == (
        pytest.approx(0.9060, rel=2e-3),
        pytest.approx(32.06, abs=0.15),
    )
    assert (webp.bpp, webp.psnr) == (
        pytest.approx(0.7218, rel=2e-3),
        pytest.approx(33.24, abs=0.01),
    )


def everything_stored() -> tuple[Curve, ...]:
    parts = [results.load(path) for path in (DOCS / "kodak_anchors.json", published.FILE)]
    return results.merge(parts, {}).curves
