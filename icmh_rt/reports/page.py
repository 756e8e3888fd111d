"""The frame of a page: head, title, sections, and where the figures come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from icmh_rt.reports import palette
from icmh_rt.reports.markup import Markup, h, join

# Nothing is fetched, sent or run but what is written here.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
LONG = 48
"""Characters of a cell from which on it is broken into lines."""


def page(
    title: str, lead: str, sections: Sequence[Markup | None], origin: Mapping[str, Any]
) -> str:
    """A whole document; origin: provenance as `icmh_rt.evaluation.results.provenance` gives it."""
    assets = resources.files("icmh_rt.reports") / "assets"
    style = palette.css() + (assets / "page.css").read_text(encoding="utf-8")
    script = (assets / "page.js").read_text(encoding="utf-8")
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", name="color-scheme", content="light dark"),
        h("meta", http_equiv="Content-Security-Policy", content=POLICY),
        h("link", rel="icon", href="data:,"),
        h("title", title),
        h("style", Markup(style)),
    )
    theme = h("button", "Dark or light", type="button", class_="theme", data_theme_switch=True)
    body = h(
        "body",
        h("header", h("div", h("h1", title), h("p", lead, class_="lead")), theme),
        h("main", *sections, _source(origin)),
        h("script", Markup(script)),
    )
    return f"<!doctype html>\n{h('html', head, body, lang='en')}\n"


def section(title: str, *children: Markup | str | None, note: str | None = None) -> Markup:
    """A part of the page under a heading; None where nothing is in it would be the caller's."""
    return h("section", h("h2", title), h("p", note, class_="note") if note else None, *children)


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str, class_: str | None = None
) -> Markup:
    """A table that scrolls sideways in its own box. Columns of numbers stand to the right."""
    columns = [[row[i] for row in rows] for i in range(len(heads))]
    kinds = ["number" if any(map(_is_number, column)) else None for column in columns]
    body = [
        h(
            "tr",
            *(
                h("td", cell, class_="long" if len(cell) > LONG else kind)
                for cell, kind in zip(row, kinds, strict=True)
            ),
        )
        for row in rows
    ]
    first = h(
        "tr",
        *(h("th", cell, scope="col", class_=kind) for cell, kind in zip(heads, kinds, strict=True)),
    )
    return h(
        "div",
        h("table", h("thead", first), h("tbody", *body), class_=class_),
        class_="scroll",
        role="region",
        aria_label=caption,
        tabindex="0",
    )


def _is_number(cell: str) -> bool:
    """Whether a cell begins with a figure, and is no sentence that does."""
    return cell == "inf" or (cell.lstrip("+-−")[:1].isdigit() and len(cell) < 24)


def tiles(items: Sequence[tuple[str, str, str]]) -> Markup | None:
    """Key figures: (value, what it is, a word more)."""
    if not items:
        return None
    return h(
        "div",
        *(
            h("div", h("strong", value), h("span", what), h("small", more), class_="tile")
            for value, what, more in items
        ),
        class_="tiles",
    )


def notes(lines: Sequence[str]) -> Markup | None:
    """Remarks as a list."""
    return h("ul", *(h("li", line) for line in lines), class_="notes") if lines else None


def folded(title: str, *children: Markup | str | None, open_: bool = False) -> Markup:
    """What is there for whoever looks for it."""
    return h("details", h("summary", title), *children, open=open_)


def _source(origin: Mapping[str, Any]) -> Markup:
    """The command, the machine and the versions."""
    parts: list[Markup] = []
    if "command" in origin:
        parts.append(h("pre", h("code", str(origin["command"])), tabindex="0"))
    facts = []
    if "created" in origin:
        facts.append(
            ("measured", str(origin["created"]).replace("T", " ").replace("+00:00", " UTC"))
        )
    machine, versions = origin.get("machine") or {}, origin.get("versions") or {}
    if machine:
        where = [f"{machine.get('cores')} cores of {machine.get('cpu')}"]
        where += [str(machine[key]) for key in ("architecture", "system") if machine.get(key)]
        facts.append(("machine", ", ".join(where)))
    if versions:
        facts.append(("versions", ", ".join(f"{name} {text}" for name, text in versions.items())))
    parts += [h("dl", *(join(h("dt", name), h("dd", text)) for name, text in facts))]
    return section("Where these figures come from", *parts)
