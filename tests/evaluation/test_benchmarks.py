from __future__ import annotations

import importlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_fakes import photograph
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Import a benchmark by name the way it runs: with its own folder on the path."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_every_contestant_runs_once_a_round_in_changing_order(load):
    timing = load("timing")
    calls = []
    ticks = itertools.count(step=0.5)
    found = timing.interleaved(
        {name: lambda n=name: calls.append(n) or n for name in "abc"},
        rounds=6,
        warmup=2,
        clock=lambda: next(ticks),
    )
    assert calls[:6] == list("abcabc")
    rounds = [tuple(calls[6 + 3 * i : 9 + 3 * i]) for i in range(6)]
    assert all(sorted(r) == list("abc") for r in rounds)
    assert len(set(rounds)) > 1
    assert found["b"] == [(0.5, "b")] * 6


def test_intervals_hold_the_median_and_narrow_to_it(load):
    timing = load("timing")
    noisy = list(np.random.default_rng(1).normal(10, 1, 40))
    interval = timing.median_interval(noisy)
    assert interval.low < interval.value < interval.high
    assert 9 < interval.low and interval.high < 11
    assert timing.median_interval([3.0] * 5) == timing.Interval(3.0, 3.0, 3.0)


def test_a_drift_common_to_a_round_does_not_reach_the_ratio(load):
    timing = load("timing")
    drift = np.linspace(1, 2, 21)
    interval = timing.ratio_interval(list(8 * drift), list(drift))
    assert (interval.value, interval.low, interval.high) == pytest.approx((8, 8, 8))


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photograph(1, 512, 768)).save(path)
    return path


def test_encode_widths_reports_every_width(load, fake_codec, picture, tmp_path, capsys):
    path = tmp_path / "r.json"
    code = load("encode_widths").main(
        ["--image", str(picture), "--rounds", "3", "--json", str(path)]
    )
    shown = capsys.readouterr().out
    assert code in (0, 1) and ("MISSES the bar" in shown) == (code == 1)
    document = json.loads(path.read_text())
    assert [row["width"] for row in document["widths"]] == [0.25, 0.5, 0.75, 1.0]
    assert document["widths"][0]["stages_ms"] == pytest.approx({"g_a": 4.0, "entropy": 1.0})
    assert document["widths"][-1]["ratio"] == 1.0
    assert len(document["widths"][0]["times_ms"]) == 3


def test_encode_widths_refuses_a_small_image(load, fake_codec, tmp_path, capsys):
    small = tmp_path / "small.png"
    Image.fromarray(photograph(1)).save(small)
    assert load("encode_widths").main(["--image", str(small)]) == 2
    assert "need at least 512x768" in capsys.readouterr().err


def test_kodak_figures_and_their_verdicts(load, fake_codec, folder, tmp_path, capsys, monkeypatch):
    """The whole command on three small images, against anchors made for them."""
    module = load("kodak_rate_distortion")
    from icmh_rt.evaluation.__main__ import main

    reference = tmp_path / "results"
    reference.mkdir()
    stored = str(reference / "kodak_anchors.json")
    options = ["--widths", "none", "--anchors", "jpeg,webp,webp-slow", "--json", stored]
    assert main(["rd", "--data", str(folder), "--quiet", *options]) == 0
    monkeypatch.setattr(module, "RESULTS", reference)
    code = module.main(["--data", str(folder), "--output", str(tmp_path)])
    shown = capsys.readouterr().out
    assert code == 1  # a JPEG in a container is not 40 % smaller than a JPEG
    assert "MISS  icmh_rt width 1 against jpeg: BD-rate" in shown
    assert "ok    icmh_rt width 0.5: worst stream" in shown
    for name in ("kodak.json", "kodak.svg", "kodak.md"):
        assert (tmp_path / name).stat().st_size > 1000
    assert module.main(["--data", str(tmp_path / "none"), "--output", str(tmp_path)]) == 2
