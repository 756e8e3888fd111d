"""benchmarks/rans.py: a small run gives every figure that its page needs, and sizes in the bar."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "rans.py"


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[dict, str, str]:
    """(the JSON document, the page, what was printed) of `--quick`."""
    folder = tmp_path_factory.mktemp("rans")
    files = folder / "rans.json", folder / "rans.md"
    ran = _run("--quick", "--cache", folder, "--json", files[0], "--markdown", files[1])
    assert ran.returncode == 0, ran.stderr
    return json.loads(files[0].read_text()), files[1].read_text(encoding="utf-8"), ran.stdout


def test_quick_run_has_all_keys(quick):
    document, _, _ = quick
    assert document["schema"] == "icmh_rt.rans_benchmark"
    assert {"provenance", "packages", "compressai_core", "precision", "tail_mass"} < set(document)
    assert {"planes", "sizes", "runs", "bars"} < set(document)
    (run,) = document["runs"]
    assert {plane["name"] for plane in document["planes"]} == {"gaussian", "laplacian"}
    for row in run["rows"]:
        assert len(row["encode_s"]) == len(row["decode_s"]) == document["rounds"]
        assert min(row["encode_s"] + row["decode_s"]) > 0.0
    names = {row["name"] for row in run["rows"]}
    assert {"icmh_rt, int32", "icmh_rt, int8, out=", "memory copy, int16"} < names


def test_what_cannot_run_is_named_with_its_reason(quick):
    document, page, printed = quick
    assert "--no-download" in document["compressai_core"]["reason"] or (
        "not installed" in document["compressai_core"]["reason"]
    )
    (run,) = document["runs"]
    measured = {row["name"] for row in run["rows"]}
    for name in ("CompressAI API", "constriction", "torch-ans"):
        assert any(row.startswith(name) for row in measured) != (name in run["missing"])
    for name, reason in run["missing"].items():
        assert f"{name}: {reason}" in page and f"{name}: {reason}" in printed


def test_sizes_are_close_to_the_true_models_entropy(quick):
    document, _, _ = quick
    assert {row["plane"] for row in document["sizes"]} == {"gaussian", "laplacian"}
    for row in document["sizes"]:
        assert row["symbols"] >= 100_000
        assert row["ideal_bits"] / row["symbols"] == pytest.approx(1.0, abs=0.02)
        # Fewer bytes than the information under the coder's own tables would be a false figure.
        assert 8 * row["bytes"] >= row["table_bits"]
        assert 8 * row["bytes"] <= 1.002 * row["ideal_bits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "2"], "--rounds is 2; give at least 3"),
        (["--compressai-source", "nowhere"], "nowhere has no"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path):
    ran = _run(*arguments, "--cache", tmp_path)
    assert ran.returncode == 2
    assert ran.stderr.startswith("rans: error: ") and message in ran.stderr
    assert ran.stderr.count("\n") == 1
