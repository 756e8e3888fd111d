from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icmh_rt.reports.markup import Markup, h, join


class Reader(HTMLParser):
    """What a browser would see."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


@given(st.text(), st.text())
def test_text_and_attributes_come_back_and_add_no_element(text, value):
    reader = read(h("p", text, title=value))
    assert [tag for tag, _ in reader.tags] == ["p"]
    assert reader.text == text
    assert reader.tags[0][1]["title"] == value


def test_children_are_markup_text_lists_or_nothing():
    inner = h("b", "x & y")
    assert h("p", inner, None, ["<", [1, 2.5]], (inner,)) == (
        "<p><b>x &amp; y</b>&lt;12.5<b>x &amp; y</b></p>"
    )
    assert isinstance(join("a", inner), Markup)
    assert join("<i>", Markup("<i>")) == "&lt;i&gt;<i>"


@pytest.mark.parametrize(
    "attributes, expected",
    [
        ({"class_": "a", "data_key": 'x"y'}, '<p class="a" data-key="x&quot;y"></p>'),
        ({"hidden": True, "open_": False, "id": None}, "<p hidden></p>"),
        ({"x": 0, "name": ""}, '<p x="0" name=""></p>'),
    ],
)
def test_attributes(attributes, expected):
    assert h("p", **attributes) == expected


def test_void_elements_have_no_end():
    assert h("br") == "<br>" and h("img", src="data:,") == '<img src="data:,">'
