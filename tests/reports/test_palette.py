from __future__ import annotations

import pytest

from icmh_rt.reports import palette


def luminance(color: str) -> float:
    """WCAG 2.2's relative luminance."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


SCHEMES = {"light": (palette.LIGHT, 0), "dark": (palette.DARK, 1)}


def test_black_on_white_is_21():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("name", SCHEMES)
def test_text_can_be_read(name):
    colors, _ = SCHEMES[name]
    for text in ("text", "quiet", "warn", "accent"):
        for ground in ("ground", "panel"):
            assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)


@pytest.mark.parametrize("name", SCHEMES)
def test_lines_can_be_seen(name):
    colors, index = SCHEMES[name]
    for kind, schemes in palette.SERIES.items():
        for color in schemes[index]:
            assert contrast(color, colors["ground"]) >= 3, (kind, color)
            assert contrast(color, colors["panel"]) >= 2.7, (kind, color)


def test_both_schemes_have_the_same_names():
    assert set(palette.LIGHT) == set(palette.DARK)
    assert all(len(light) == len(dark) for light, dark in palette.SERIES.values())
    css = palette.css()
    for kind, (colors, _) in palette.SERIES.items():
        for i in range(len(colors)):
            assert css.count(f"--{kind}-{i}: ") == 3 and f".{kind}-{i} {{" in css


@pytest.mark.parametrize("count", range(1, 9))
def test_codecs_go_from_weak_to_strong(count):
    shades = [int(palette.style("codec", i, count)[-1]) for i in range(count)]
    assert shades == sorted(shades) and shades[-1] == 3
    assert len(set(shades)) == min(count, 4)


def test_other_styles_go_round():
    assert palette.style("anchor", 6) == palette.style("anchor", 0)
