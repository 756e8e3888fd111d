"""The benchmarks of large images, cut streams and many round trips: what they conclude."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = str(Path(__file__).resolve().parents[1] / "benchmarks")


@pytest.fixture
def round_trips(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("round_trips")


@pytest.fixture
def large_images(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("large_images")


@pytest.fixture
def cut_streams(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("cut_streams")


def samples(module, resident, files=6, threads=3) -> list:
    """200 of them; each figure a number or a function of the sample's number."""
    figures = [value if callable(value) else lambda _, v=value: v for value in (files, threads)]
    return [
        module.Sample(10 * (n + 1), int(resident(n)), *(figure(n) for figure in figures))
        for n in range(200)
    ]


def test_what_counts_as_growth(round_trips):
    flat = round_trips.verdict(samples(round_trips, lambda n: 1_000_000 + 900 * (n % 3)))
    assert flat["passed"] and abs(flat["growth"]) < 0.001
    # What the warm-up takes does not count.
    assert round_trips.verdict(samples(round_trips, lambda n: 1_000_000 if n > 19 else 500_000))[
        "passed"
    ]
    assert not round_trips.verdict(samples(round_trips, lambda n: 1_000_000 + 100 * n))["passed"]
    # Nor do single samples that are high.
    spike = round_trips.verdict(
        samples(round_trips, lambda n: 1_500_000 if n == 100 else 1_000_000)
    )
    assert spike["passed"] and spike["resident_peak"] == 1_500_000


def test_leaks_of_files_and_threads_are_seen(round_trips):
    found = round_trips.verdict(samples(round_trips, lambda n: 10**6, files=lambda n: n // 150))
    assert not found["passed"]
    found = round_trips.verdict(
        samples(round_trips, lambda n: 10**6, threads=lambda n: 3 + (n > 190))
    )
    assert not found["passed"]


@pytest.mark.slow
def test_round_trips_for_real(round_trips, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch", reason="the torch extra is not installed")
    monkeypatch.setattr(round_trips, "SAMPLES", 20)
    monkeypatch.setattr(round_trips, "set_threads", lambda count: None)
    record, shown = tmp_path / "r.json", tmp_path / "r.md"
    arguments = ["--count", "200", "--json", str(record), "--markdown", str(shown)]
    assert round_trips.main(arguments) in (0, 1)
    document = json.loads(record.read_text())
    assert document["count"] == 200 and len(document["samples"]) == 20
    assert capsys.readouterr().out.strip() in shown.read_text()


@pytest.mark.slow
def test_large_images_for_real(large_images, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="the torch extra is not installed")
    monkeypatch.setattr(large_images, "EQUAL_SIZE", (1100, 700))
    record, shown = tmp_path / "r.json", tmp_path / "r.md"
    arguments = ["--size", "300x200", "--widths", "0.25", "--threads", "1"]
    assert large_images.main([*arguments, "--json", str(record), "--markdown", str(shown)]) == 0
    row = json.loads(record.read_text())["rows"][0]
    assert row["same"] and row["size"] == [300, 200]
    assert 10**8 < row["encode"]["base"] <= row["encode"]["peak"] < 4e9
    assert "| 0.25 | 200x300 |" in shown.read_text()


def test_what_cut_streams_must_tell(cut_streams):
    row = {"image": "p", "bytes": 999, "outside": 7, "share": 0.5, "symbols": 0.48}
    row |= {"in_one_piece": 0.1, "exact": 0.25, "rows": 16, "psnr": 20.0}
    row |= {"above": 64, "psnr_above": None, "same": True}
    assert cut_streams.passes([row])
    assert "| p | 999 | 7 | 50% | 48.0% | 10.0% | 25.0% | 16 | 20.0 dB | 64: equal |" in (
        cut_streams.table([row])
    )
    assert not cut_streams.passes([row, {**row, "symbols": 0.46}])
    assert not cut_streams.passes([{**row, "same": False}])
    assert cut_streams.table([{**row, "above": 0}]).endswith("| none |")


@pytest.mark.slow
def test_cut_streams_for_real(cut_streams, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="the torch extra is not installed")
    monkeypatch.setattr(cut_streams, "set_threads", lambda count: None)
    record, shown = tmp_path / "r.json", tmp_path / "r.md"
    arguments = ["--width", "0.25", "--shares", "0.3,0.9", "--json", str(record)]
    assert cut_streams.main([*arguments, "--markdown", str(shown)]) == 0
    rows = json.loads(record.read_text())["rows"]
    assert [row["share"] for row in rows] == [0.3, 0.9]
    assert rows[0]["symbols"] < rows[1]["symbols"] < 1.0 and rows[1]["psnr_above"] > 30
    assert "| kodim23 |" in shown.read_text()
