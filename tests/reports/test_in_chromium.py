"""Pages in a real headless Chromium: nothing loaded, nothing complained of, everything works."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
import report_samples as samples
from PIL import Image

from icmh_rt.reports import evaluation_page, profile_page, task_page


@cache
def rd_page() -> str:
    return evaluation_page(
        samples.results(samples.NASTY),
        f"A title {samples.NASTY}",
        [samples.exhibit(samples.NASTY), samples.exhibit("tall.png", 160, 64)],
    )


PAGES = {
    "rd": rd_page,
    "task": lambda: task_page(samples.task_results(), "Classification", [samples.exhibit()]),
    "profile": lambda: profile_page(samples.profile(((256, 256), (512, 768)))),
    "unstable profile": lambda: profile_page(samples.profile(stable=False)),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_quiet_fits_and_shows_its_pictures(open_page, name, width, scheme):
    opened = open_page(PAGES[name](), width, scheme)
    page = opened.page
    # Folded tables are a part of the page that must fit.
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Nothing but what scrolls in its own box, or is cut by it, reaches beyond the page.
    wide = page.evaluate(
        """(boxes) => [...document.querySelectorAll("body *")]
            .filter(e => e.matches(boxes) || !e.closest(boxes + ", svg"))
            .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)
            .map(e => e.outerHTML.slice(0, 120))""",
        ".scroll, pre, .stage",
    )
    assert wide == []
    broken = page.evaluate(
        "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
    )
    assert broken == []
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    brightness = sum(int(part) for part in ground.strip("rgb()").split(",")) / 3
    assert brightness > 200 if scheme == "light" else brightness < 60
    shown = page.locator(".chart-narrow svg" if width == 390 else ".chart-wide svg")
    assert all(shown.nth(i).is_visible() for i in range(shown.count()))
    if shown.count():  # text is of a size that can be read, whatever the screen's
        height = shown.first.locator("text").first.bounding_box()["height"]
        assert 11 <= height <= 24
    opened.check()


def test_names_are_text_and_never_markup(open_page):
    opened = open_page(rd_page())
    page = opened.page
    assert page.title() == f"A title {samples.NASTY}".replace("\u2028", page.title()[-5])
    assert page.locator("h1 b, h3 b, h1 img, h3 img").count() == 0
    assert "onerror=" in page.locator("h3").first.inner_text()
    opened.check()


def test_the_policy_forbids_to_load_anything(open_page):
    opened = open_page(rd_page())
    refused = opened.page.evaluate(
        "fetch('https://example.com/x').then(() => 'loaded', () => 'refused')"
    )
    assert refused == "refused"
    assert any("Content Security Policy" in text for text in opened.complaints)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_slider_moves_the_border(open_page, width):
    opened = open_page(rd_page(), width)
    stage = opened.page.locator(".stage").first
    stage.scroll_into_view_if_needed()
    left, right = stage.locator(".pane.left"), stage.locator(".pane.right")
    assert left.locator("img").get_attribute("alt") == "original"
    assert right.locator("img").get_attribute("alt") == "icmh_rt width 1, quality 30"
    box = stage.bounding_box()

    def border() -> float:
        handle = stage.locator(".handle").bounding_box()
        return (handle["x"] + handle["width"] / 2 - box["x"]) / box["width"]

    assert border() == pytest.approx(0.5, abs=0.02)
    opened.page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + box["height"] / 2)
    assert border() == pytest.approx(0.25, abs=0.06)
    clip = left.evaluate("image => getComputedStyle(image).clipPath")
    assert clip.startswith(f"inset(0px {100 - float(stage.locator('.at').input_value()):g}% ")
    before = border()
    stage.locator(".at").press("ArrowRight")
    assert border() > before
    opened.check()


def test_what_is_left_of_the_border_is_the_left_picture(open_page):
    opened = open_page(rd_page())
    compare = opened.page.locator(".compare").first
    stage = compare.locator(".stage")
    stage.scroll_into_view_if_needed()
    alone = {}
    for index in (0, 1):  # either picture on both sides
        compare.locator("select").nth(0).select_option(str(index))
        compare.locator("select").nth(1).select_option(str(index))
        alone[index] = _columns(stage)
    compare.locator("select").nth(0).select_option("0")
    both = _columns(stage)
    assert both[0] == alone[0][0] and both[0] != alone[1][0]
    assert both[1] == alone[1][1] and both[1] != alone[0][1]
    facts = compare.locator(".facts span")
    assert facts.nth(0).inner_text() == "original, uncompressed"
    assert "900 bytes · 0.521 bpp" in facts.nth(1).inner_text()
    opened.check()


def _columns(stage) -> list[bytes]:
    """The left and the right quarter of what is shown."""
    shown = _shown(stage)
    quarter = shown.shape[1] // 4
    inner = slice(10, -10)  # rounded corners
    return [shown[inner, 10:quarter].tobytes(), shown[inner, -quarter:-10].tobytes()]


def test_enlarging_shows_the_place_touched_last(open_page):
    opened = open_page(rd_page())
    compare = opened.page.locator(".compare").first
    stage = compare.locator(".stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert (box["width"], box["height"]) == (144, 96)  # its own pixels
    before = _shown(stage)
    opened.page.mouse.click(box["x"] + 140, box["y"] + 4)  # the border moves away, to the right
    compare.locator(".zoom").click()
    assert compare.locator(".zoom").get_attribute("aria-pressed") == "true"
    large = _shown(stage)
    # Four times around (140, 4): 35 pixels' worth left of it and 24 below fill the stage.
    original = samples.pixels().astype(int)
    for x, y in ((62, 50), (98, 18), (22, 82)):
        row, column = round(4 + (y - 4) / 4), round(140 + (x - 140) / 4)
        near = original[row - 1 : row + 2, column - 1 : column + 2].reshape(-1, 3)
        assert np.abs(near - large[y, x]).max(axis=1).min() <= 2
    # Every pixel is a square of equal ones.
    assert len(np.unique(large[40:72, 20:52].reshape(-1, 3), axis=0)) <= 9 * 9
    stage.dblclick(position={"x": 140, "y": 4})
    assert np.array_equal(_shown(stage)[10:-10, 10:50], before[10:-10, 10:50])
    opened.check()


def _shown(stage) -> np.ndarray:
    """uint8 (H, W, 3) as on the screen."""
    return np.asarray(Image.open(io.BytesIO(stage.screenshot())).convert("RGB"))


def test_the_bit_map_lies_over_the_picture_and_says_its_bits(open_page):
    opened = open_page(rd_page())
    page = opened.page
    compare = page.locator(".compare").first
    heat = compare.locator(".heat")
    assert not heat.is_visible()
    compare.locator("[data-heat]").check()
    assert heat.is_visible()
    stage = compare.locator(".stage").bounding_box()
    drawn = heat.bounding_box()
    assert drawn["width"] == pytest.approx(stage["width"], abs=1)  # 9 positions of 16 pixels
    scale = stage["width"] / 144
    page.mouse.move(stage["x"] + 40 * scale, stage["y"] + 20 * scale)  # row 1, column 2: 11 bits
    reading = compare.locator(".reading")
    assert reading.inner_text() == "row 1, column 2: 11 bits, 0.043 bits per pixel"
    compare.locator(".opacity").evaluate(
        "range => { range.value = 20; range.dispatchEvent(new Event('input')); }"
    )
    assert heat.evaluate("image => image.style.opacity") == "0.2"
    compare.locator("[data-heat]").uncheck()
    assert not heat.is_visible()
    opened.check()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["rd", "task", "profile"])
def test_a_point_under_the_pointer_says_its_value(open_page, name, width):
    opened = open_page(PAGES[name](), width)
    page = opened.page
    chart = page.locator("figure.chart").first
    svg = chart.locator(".chart-narrow svg" if width == 390 else ".chart-wide svg")
    svg.scroll_into_view_if_needed()
    tip = chart.locator(".tip")
    assert not tip.is_visible()
    point = svg.locator(".series").first.locator(".point").nth(1).bounding_box()
    page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    assert tip.is_visible()
    said = {
        "rd": "icmh_rt width 0.25 · quality 10 · 0.248 bpp",
        "task": "icmh_rt width 1 · quality 20 · 0.300 bpp · 60.0 %",
        "profile": "encode · torch cpu 256x256 width 0.5 human · 15.0 (14.7–15.3) ms",
    }[name]
    assert tip.inner_text().startswith(said)
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    page.mouse.move(2, 2)
    assert not tip.is_visible()
    svg.focus()
    page.keyboard.press("ArrowRight")
    assert not tip.inner_text().startswith(said)
    page.keyboard.press("ArrowRight")
    assert tip.inner_text().startswith(said)
    opened.check()


def test_a_line_goes_and_comes_with_its_button(open_page):
    opened = open_page(rd_page())
    chart = opened.page.locator("figure.chart").first
    button = chart.get_by_role("button", name="jpeg")
    line = chart.locator(".chart-wide .series").nth(2)
    assert line.is_visible()
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert not line.is_visible()
    button.click()
    assert line.is_visible()
    opened.check()


def test_the_button_changes_the_scheme(open_page):
    opened = open_page(rd_page())
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = opened.page.evaluate(ground)
    opened.page.locator(".theme").click()
    assert opened.page.evaluate(ground) != light
    opened.page.locator(".theme").click()
    assert opened.page.evaluate(ground) == light
    opened.check()


def test_a_page_says_everything_without_its_script(open_page):
    opened = open_page(rd_page(), java_script_enabled=False)
    page = opened.page
    assert page.locator(".chart-wide svg").first.is_visible()
    assert page.locator("table").first.is_visible()
    assert page.locator(".stage img").first.is_visible()
    opened.check()
