from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icmh_rt.reports.chart import Axis, Chart, Point, Series, draw, linear_ticks, log_ticks


def series(*values: tuple[float, float], name: str = "a") -> Series:
    return Series(name, "codec-3", tuple(Point(x, y, f"{x}, {y}") for x, y in values))


def chart(*lines: Series, **axes) -> str:
    x, y = axes.pop("x", Axis("x")), axes.pop("y", Axis("y"))
    return draw(Chart("title", x, y, lines, **axes))


def numbers(text: str) -> list[float]:
    found = re.findall(r'(?:d|x\d?|y\d?|cx|cy|width|height)="([^"]*)"', text)
    return [float(n) for part in found for n in re.findall(r"-?[\d.]+(?:e-?\d+)?", part)]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e9), st.integers(1, 12))
def test_linear_ticks_are_round_and_inside(low, reach, count):
    ticks = linear_ticks(low, low + reach, count)
    values = [value for value, _ in ticks]
    assert len(ticks) <= 2 * count + 2
    assert all(low - 1e-6 * reach <= v <= low + reach * (1 + 1e-6) for v in values)
    for (value, text), (after, _) in pairwise(ticks):
        step = after - value
        assert float(text) == pytest.approx(value, abs=0.51 * step)
        assert f"{step:.0e}"[0] in "125"


def test_ticks_of_usual_ranges():
    assert [text for _, text in linear_ticks(0, 1, 5)] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert [text for _, text in linear_ticks(25.3, 37.4, 7)] == ["26", "28", "30", "32", "34", "36"]
    assert log_ticks(0.9, 30) == [1, 2, 5, 10, 20]
    assert log_ticks(1, 1e6) == [10.0**p for p in range(7)]


@pytest.mark.parametrize("points", [[], [(math.nan, 1.0)], [(1.0, math.inf)]])
def test_nothing_to_draw_is_a_sentence(points):
    assert chart(series(*points)) == '<p class="note">title: no figures to draw.</p>'


@pytest.mark.parametrize(
    "points",
    [
        [(0.5, 30.0)],
        [(0.5, 30.0), (0.5, 30.0)],
        [(0.0, 0.0), (1e-9, 1e-9)],
        [(1e9, -1e9), (2e9, 5.0)],
        [(0.1, 30.0), (0.2, math.nan), (0.3, 31.0), (math.inf, 3.0)],
    ],
)
@pytest.mark.parametrize("log", [False, True])
def test_ugly_points_are_drawn_inside_or_left_out(points, log):
    text = chart(series(*points), x=Axis("x", log=log))
    assert "nan" not in text and "inf," not in text
    for value in numbers(text):
        assert math.isfinite(value) and abs(value) <= 1e5
    drawn = sum(math.isfinite(x) and math.isfinite(y) for x, y in points)
    assert 0 < text.count("<title>") <= 2 * drawn  # wide and narrow


def test_points_outside_the_frame_have_no_mark_and_lines_are_cut():
    text = chart(series((0.1, 1.0), (0.5, 2.0), (9.0, 3.0)), x=Axis("x", 0.0, 1.0))
    assert text.count('class="point" data-x') == 2 * 2
    assert text.count("clip-path=") == 2
    assert len(set(re.findall(r'clipPath id="([^"]*)"', text))) == 2


def test_points_are_where_they_belong():
    text = chart(series((0.0, 0.0), (1.0, 10.0)), x=Axis("x", 0.0, 1.0), y=Axis("y", 0.0, 10.0))
    wide = text[text.index("chart-wide") : text.index("chart-narrow")]
    places = re.findall(r'data-x="([\d.]+)" data-y="([\d.]+)"', wide)
    assert [tuple(map(float, place)) for place in places] == [(52, 386), (868, 12)]


def test_intervals_levels_and_names_are_there_and_escaped():
    line = Series("<n>", "stage-0", (Point(1.0, 2.0, "<t>", 1.5, 2.5), Point(2.0, 3.0, "u")))
    text = draw(Chart("<c>", Axis("<x>"), Axis("<y>"), (line,), ((2.2, "<level>"),)))
    assert text.count('class="interval"') == text.count('class="level"') == 2
    for name in ("n", "t", "c", "x", "y", "level"):
        assert f"&lt;{name}&gt;" in text and f"<{name}>" not in text


def test_the_same_chart_is_the_same_text():
    one = chart(series((0.1, 1.0), (0.5, 2.0)))
    assert one == chart(series((0.5, 2.0), (0.1, 1.0)))  # the order of points does not matter
