"""benchmarks/sfma.py and graph_latency.py: small runs give every figure that their pages need."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"


def _run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("ICMH_KERNELS", None)
    return subprocess.run(
        [sys.executable, BENCHMARKS / script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )


def _quick(folder: Path, script: str, *arguments: str) -> tuple[dict, str]:
    """The JSON document and the page of a run with ``--quick``."""
    files = folder / "figures.json", folder / "page.md"
    written = ["--json", files[0], "--markdown", files[1]]
    ran = _run(script, "--quick", "--rounds", "3", *arguments, *written)
    assert ran.returncode == 0, ran.stderr
    page = files[1].read_text(encoding="utf-8")
    assert page in ran.stdout
    return json.loads(files[0].read_text()), page


@pytest.fixture(scope="module")
def contestants(monkeypatch_module):
    monkeypatch_module.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("sfma_contestants")


@pytest.fixture(scope="module")
def report(monkeypatch_module):
    monkeypatch_module.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("sfma_report")


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


# -- the adapter -----------------------------------------------------------------------------------


def test_quick_run(tmp_path) -> None:
    document, page = _quick(tmp_path, "sfma.py")
    assert document["schema"] == "icmh_rt.sfma" and document["device"] == "cpu"
    assert document["threads"] == 2
    (case,) = document["cases"]
    assert case["bytes"] == 2 * 4 * 16 * 24 * 36
    assert len(case["copy_s"]) == 3 and min(case["copy_s"]) > 0
    names = {row["name"] for row in case["rows"]}
    assert {"eager formula", "algebraic", "icmh_rt", "icmh_rt, cpu"} <= names
    for row in case["rows"]:
        assert len(row["times_s"]) == 3 and min(row["times_s"]) > 0
        assert 0 < row["error"] <= 1e-5 and row["error"] < row["change_error"] < 1e-4
        assert f"| {row['name']} |" in page
    for name, reason in case["missing"].items():
        assert name not in names and f"- {name}: {reason}" in page
    assert {"torch.compile", "icmh_rt, cuda"} <= set(case["missing"])
    assert len(document["bars"]) == 1 + 2 and all(bar["met"] for bar in document["bars"])


def test_the_eager_formula_is_the_definition(contestants) -> None:
    """It takes another way than the op's reference, and comes to the same."""
    module = contestants.adapter(12, 6, torch.device("cpu"), torch.float64)
    x = torch.randn(2, 12, 7, 10, dtype=torch.float64)
    arguments = contestants.arguments_of(module)
    expected = contestants.reference(x, *arguments)
    torch.testing.assert_close(contestants.eager_formula(x, *arguments), expected)
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("channels", [3, 6, 11, 12])
def test_slimmed_adapters_take_prefixes(contestants, channels: int) -> None:
    from icmh_rt.models.adapters import SlimmableSFMA

    torch.manual_seed(2)
    module = SlimmableSFMA(12, 8).eval()
    x = torch.randn(1, channels, 9, 6)
    with torch.no_grad():
        arguments = contestants.arguments_of(module, channels)
        found = contestants.eager_formula(x, *arguments)
        torch.testing.assert_close(found, module(x), rtol=1e-4, atol=1e-5)


def test_half_precision_formula_stays_half(contestants) -> None:
    module = contestants.adapter(8, 4, torch.device("cpu"), torch.float16)
    x = torch.randn(1, 8, 6, 5).half()
    arguments = contestants.arguments_of(module)
    found = contestants.eager_formula(x, *arguments)
    assert found.dtype == torch.float16
    exact = [v.double() if isinstance(v, torch.Tensor) else v for v in arguments]
    expected = contestants.eager_formula(x.double(), *exact)
    assert (found.double() - expected).norm() <= 5e-3 * expected.norm()


def _case(report, seconds: dict[str, float], error: float, bars: dict) -> dict:
    rows = [
        {"name": name, "times_s": [value] * 3, "error": error, "change_error": error}
        for name, value in seconds.items()
    ]
    return {"name": "case", "rows": rows, "speed_bars": bars, "error_bar": 1e-5}


@pytest.mark.parametrize(
    ("ours", "error", "met"),
    [(1.0, 1e-6, [True, True]), (1.1, 1e-6, [False, True]), (0.5, 2e-5, [True, False])],
)
def test_bars(report, ours: float, error: float, met: list[bool]) -> None:
    case = _case(report, {"eager formula": 4.0, "icmh_rt": ours}, error, {"eager formula": [4, 6]})
    bars = report.bars_of([case])
    assert [bar["met"] for bar in bars] == met
    assert bars[0]["value"] == pytest.approx(4.0 / ours) and bars[0]["aim"] == 6


def test_a_missing_rival_or_a_nan_meets_no_bar(report) -> None:
    case = _case(report, {"icmh_rt": 1.0}, float("nan"), {"torch.compile": [2, None]})
    assert [bar["met"] for bar in report.bars_of([case])] == [False, False]


# -- whole encodes ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_quick_whole_encode(tmp_path) -> None:
    document, page = _quick(tmp_path, "sfma.py", "--whole-encode")
    assert [case["kind"] for case in document["cases"]] == ["encode", "encode"]
    for case in document["cases"]:
        rows = {row["name"]: row for row in case["rows"]}
        assert set(rows) == {"icmh_rt", "eager modules", "eager SFMA alone"}
        assert all(len(row["times_s"]) == 3 and row["bytes"] > 60 for row in rows.values())
        assert case["name"] in page
    assert len(document["bars"]) == 2


# -- graphs ----------------------------------------------------------------------------------------


def test_quick_latency_on_a_cpu(tmp_path) -> None:
    document, page = _quick(tmp_path, "graph_latency.py", "--device", "cpu")
    assert document["problems"] == [] and document["graphs"] is None
    stages = [(row["width"], row["stage"]) for row in document["rows"]]
    names = ("encode", "g_a + h_a", "decode", "g_s")
    assert stages == [(width, stage) for width in (0.25, 0.5) for stage in names]
    assert all(len(row["times_s"]["eager"]) == 3 for row in document["rows"])
    assert "none on this device" in page


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("sfma.py", ["--rounds", "2"], "--rounds must be at least 3, got 2"),
        ("sfma.py", ["--device", "tpu"], "device 'tpu' is"),
        ("graph_latency.py", ["--rounds", "1"], "--rounds must be at least 3, got 1"),
        ("graph_latency.py", ["--device", "cuda:99"], "device 'cuda:99' is not here"),
    ],
)
def test_mistakes_are_one_line(script: str, arguments: list[str], message: str) -> None:
    ran = _run(script, *arguments)
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"{script.removesuffix('.py')}: error: ")
    assert message in ran.stderr and ran.stderr.count("\n") == 1
