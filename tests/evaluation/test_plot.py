from __future__ import annotations

import importlib.util

import pytest
from test_results import IMAGES, curve, everything

from icmh_rt.errors import BackendUnavailableError, IcmhError, OptionError
from icmh_rt.evaluation import plot, results


@pytest.mark.parametrize(
    "suffix, start", [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")]
)
def test_the_figure_is_drawn_and_the_same_every_time(tmp_path, suffix, start):
    first, second = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    for path in (first, second):
        plot.draw(everything(), path, "Photos")
    assert first.read_bytes().startswith(start)
    assert first.read_bytes() == second.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_anchors_alone_and_lossless_points_can_be_drawn(tmp_path):
    plot.draw(results.Results((curve("jpeg", "anchor"),)), tmp_path / "a.svg", "Anchors")
    plot.draw(everything(lossless=True), tmp_path / "b.svg", "With a lossless image")
    flat = results.Curve("exact", "codec", {}, IMAGES, (1,), ((9, 9),), ((0, 0),))
    plot.draw(results.Results((flat,)), tmp_path / "c.svg", "Nothing to draw")
    assert len(list(tmp_path.iterdir())) == 3


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"must end in \.svg, \.png, \.pdf"):
        plot.draw(everything(), tmp_path / "a.gif", "Photos")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'icmh-rt\[eval\]'"):
        plot.draw(everything(), tmp_path / "a.svg", "Photos")


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(IcmhError, match="cannot write"):
        plot.draw(everything(), tmp_path / "none" / "a.svg", "Photos")
