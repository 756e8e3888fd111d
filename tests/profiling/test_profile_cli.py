"""`icmh profile` from one end to the other, on pictures small enough to be quick."""

from __future__ import annotations

import json

import pytest

from icmh_rt.cli import main
from icmh_rt.profiling import children, cold_start, memory, schema

pytest.importorskip("torch")

_QUICK = ["--widths", "0.25", "--iterations", "1", "--rounds", "1", "--max-windows", "3"]


def _run(capsys, *arguments):
    code = main(["profile", *arguments])
    return code, *capsys.readouterr()


def test_a_profile_of_two_widths(capsys, tmp_path):
    path = tmp_path / "profile.json"
    code, out, err = _run(
        capsys,
        *_QUICK,
        *("--widths", "0.25,0.5", "--sizes", "48x80", "--batch", "2", "--no-memory"),
        *("--no-energy", "--json", str(path)),
    )
    assert code == 0
    for words in ("encode, ms", "decode, stages", "throughput", "kMAC/pixel", "48x80"):
        assert words in out
    assert "loading" in err and "{" not in out
    document = schema.load(path)
    assert [record["width"] for record in document["configurations"]] == [0.25, 0.5]
    for record in document["configurations"]:
        assert record["size"] == [48, 80]
        assert record["throughput"][0]["images"] == 2
        assert record["costs"]["encode_parameters"] > 0
        for operation in ("encode", "decode"):
            found = record[operation]
            assert found["end_to_end"]["calls"] >= 3
            assert len(found["windows"]) == 3
            assert (found["headline_ms"] is None) is bool(found["reason"])
            shares = sum(stage["share"] for stage in found["stages"])
            assert shares == pytest.approx(1.0)
            assert found["stage_sum"]["of_call"] == pytest.approx(1.0, abs=0.05)
    assert document["provenance"]["command"] == (
        "icmh profile --widths 0.25 0.5 --sizes 48x80 --batch 2 --iterations 1 --max-windows 3"
        " --rounds 1 --no-memory --no-energy"
    )


def test_the_document_alone_goes_to_standard_output(capsys, tmp_path):
    code, out, err = _run(
        capsys, *_QUICK, "--sizes", "32x32", "--no-memory", "--quiet", "--json", "-"
    )
    assert (code, err) == (0, "")
    assert schema.checked(json.loads(out))["schema"] == schema.SCHEMA


def test_files_are_read_when_they_are_what_is_given(capsys):
    code, out, _ = _run(
        capsys, *_QUICK, "--sizes", "64x64", "--input", "png", "--no-memory", "--json", "-"
    )
    found = json.loads(out)["configurations"][0]["encode"]
    stages = {stage["stage"]: stage["statistics"]["p50"]["value"] for stage in found["stages"]}
    assert code == 0
    assert stages["read"] > 0.1  # ms; of pixels in memory it is a tenth of that


@pytest.mark.slow
def test_adapters_and_two_backends(capsys, adapted, tmp_path):
    pytest.importorskip("onnxruntime")
    from icmh_rt.profiling.plan import Plan
    from icmh_rt.profiling.run import profile

    plan = Plan(
        widths=(0.25,),
        tasks=("human", "detection"),
        backends=("torch", "onnxruntime", "auto"),
        sizes=((64, 64),),
        model=adapted,
        iterations=1,
        rounds=1,
        max_windows=3,
        with_memory=False,
        with_energy=False,
    )
    document = profile(plan)
    assert [(r["backend"], r["task"]) for r in document["configurations"]] == [
        ("torch", "human"),
        ("torch", "detection"),
        ("onnxruntime", "human"),
        ("onnxruntime", "detection"),
    ]
    for record in document["configurations"]:
        for operation in ("encode", "decode"):
            by = {stage["stage"]: stage["by"] for stage in record[operation]["stages"]}
            on_torch = record["backend"] == "torch"
            if record["task"] == "detection" and on_torch:
                assert by["adapters"] == "hooks"
            elif record["task"] == "detection":
                assert by.get("adapters", "difference") == "difference"  # noise may leave nothing
            else:
                assert "adapters" not in by
            if operation == "encode":
                assert by["h_a"] == ("clock" if on_torch else "difference")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sizes", "512"], "size '512' is none: give HEIGHTxWIDTH"),
        (["--sizes", "0x5"], "size 0x5 is no size"),
        (["--widths", "wide"], "width 'wide' is not a number"),
        (["--widths", "0.3"], "width 0.3 is not in bundle"),
        (["--tasks", "dreams"], "task 'dreams' is unknown"),
        (["--backends", "abacus"], "backend 'abacus' is unknown"),
        (["--device", "tpu"], "device 'tpu' is unknown"),
        (["--quality", "0"], "quality is 0"),
        (["--batch", "0"], "each must be at least 1"),
        (["--iterations", "0"], "iterations is 0: it must be at least 1"),
        (["--max-windows", "2"], "max_windows is 2: it must be at least 3"),
        (["--cold-start", "-1"], "--cold-start is -1"),
        (["--input", "film"], "input 'film' is unknown: use array, png, jpeg"),
        (["--plot-widths", "x.gif"], "the name must end in"),
        (["--json", "-", "--html", "-"], "cannot both"),
        (["--compare", "a", "b", "--html", "x.html"], "--html does not go with --compare"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, words):
    code, out, err = _run(capsys, *arguments, "--quiet")
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--compare", "missing.json", "missing.json"], "cannot read results missing.json"),
        (["--report", "missing.json"], "cannot read results missing.json"),
        (["--json", "/nowhere/x.json"], "its folder does not exist"),
        (["--image", "missing.png"], "missing.png"),
        (["--model", "missing"], "no bundle 'missing'"),
    ],
)
def test_what_is_missing_is_one_line(capsys, arguments, words):
    code, out, err = _run(capsys, *arguments, "--quiet")
    assert (code, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_comparison_ends_with_an_exit_code(capsys, tmp_path, document):
    paths = [tmp_path / name for name in ("a.json", "b.json")]
    for path in paths:
        path.write_text(json.dumps(document))
    code, out, _ = _run(capsys, "--compare", *map(str, paths))
    assert code == 0
    assert "Nothing is slower" in out
    for record in document["configurations"]:
        for end, value in record["decode"]["end_to_end"]["p50"].items():
            record["decode"]["end_to_end"]["p50"][end] = 1.5 * value
    paths[1].write_text(json.dumps(document))
    code, out, _ = _run(capsys, "--compare", *map(str, paths))
    assert code == 1
    assert out.count("SLOWER") == 2
    code, out, _ = _run(capsys, "--compare", *map(str, paths), "--json", "-", "--tolerance", "60")
    assert code == 0
    assert json.loads(out)["schema"] == "icmh_rt.profile_comparison"


def test_tables_and_figures_of_an_earlier_file(capsys, tmp_path, document):
    pytest.importorskip("matplotlib")
    path = tmp_path / "profile.json"
    points = [
        {"size": [s, s], "pixels": s * s, "value": 1e-4 * s * s, "per_pixel": 100.0, "stable": True}
        for s in (256, 512, 1024)
    ]
    of = {"backend": "torch", "device": "cpu", "width": 1.0, "task": "human", "points": points}
    of |= {"fixed": 0.0, "per_pixel": 100.0, "exponent": 1.0}
    document["growth"] = [
        {"operation": "encode", "quantity": "time", "flat": 0.0, "flat_within_bar": True, **of},
        {"operation": "encode", "quantity": "memory", "flat": None, "flat_within_bar": None, **of},
    ]
    path.write_text(json.dumps(document))
    figures = {name: tmp_path / f"{name}.svg" for name in ("widths", "growth")}
    code, out, _ = _run(
        capsys,
        *("--report", str(path), "--plot-widths", str(figures["widths"])),
        *("--plot-growth", str(figures["growth"]), "--html", str(tmp_path / "page.html")),
    )
    assert code == 0
    assert "All figures have settled." in out and "growth with pixels" in out
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>") and "A CPU" in page
    assert "1024×1024" in figures["growth"].read_text()
    assert "encode, 768×512" in figures["widths"].read_text()
    document["growth"] = []
    path.write_text(json.dumps(document))
    code, _, err = _run(capsys, "--report", str(path), "--plot-growth", str(figures["growth"]))
    assert code == 2
    assert "three sizes" in err


_CHILD = {
    "backend": "torch",
    "device": "cpu",
    "dtype": "auto",
    "width": 0.25,
    "task": "human",
    "quality": 50,
    "model": "default",
    "image": None,
}


@pytest.mark.slow
def test_peaks_of_memory_rise_with_the_size():
    found = memory.measure(_CHILD, [(1024, 1024), (64, 64)])
    large, small = found[1024, 1024], found[64, 64]
    assert small["base_bytes"] > 20 << 20
    # The picture alone takes 3 MiB, and its latents more.
    assert large["host_peak_bytes"] > max(small["host_peak_bytes"], large["base_bytes"]) + (6 << 20)
    assert small["device_peak_bytes"] is None


@pytest.mark.slow
def test_a_cold_start_has_all_its_steps():
    found = cold_start.measure(_CHILD, (64, 64), 1)
    times = {step: found[step]["value"] for step in cold_start.STEPS}
    assert min(times.values()) > 0
    parts = ("process_ms", "import_ms", "load_ms", "first_encode_ms")
    assert times["total_ms"] == pytest.approx(sum(times[part] for part in parts))


def test_a_process_that_fails_is_one_line():
    from icmh_rt.errors import IcmhError

    with pytest.raises(IcmhError, match="cannot import name 'child' from 'json'") as error:
        children.run("json")
    assert "\n" not in str(error.value)
