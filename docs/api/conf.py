"""How Sphinx makes pages of the public API's docstrings: scripts/build_api_docs.sh."""

import re
from typing import Any

import icmh_rt

project = "icmh_rt"
author = "the authors of icmh_rt"
copyright = f"{author}, Apache-2.0"  # Sphinx's own name for it
release = icmh_rt.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "py:obj"  # `name` in a docstring is a link where the name has a page
autodoc_default_options = {"members": True}
autodoc_mock_imports = ["ray"]  # large, and not in every environment that builds these pages
highlight_language = "none"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {
    "ArrayLike": "ArrayLike",
    "Buffer": "Buffer",
    "DTypeLike": "DTypeLike",
    "Encoder": "icmh_rt.Encoder",
    "ImageLike": "icmh_rt.images.ImageLike",
    "TablesLike": "TablesLike",
}
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "alabaster"
html_title = f"icmh_rt {release}: the Python interface"
html_show_sphinx = False
html_theme_options = {
    "description": "Learned image compression for machines and humans",
    "fixed_sidebar": True,
    "page_width": "1100px",
    "sidebar_width": "240px",
}


def mark_literal_blocks(
    app: Any, what: str, name: str, it: Any, options: Any, lines: list[str]
) -> None:
    """Let what is indented behind an empty line of a docstring's text stand as it is: programs and
    tables, which need no marks for people who read the source.
    """
    marked: list[str] = []
    indent = 0  # of the text before
    literal = False
    for line in lines:
        here = len(line) - len(line.lstrip())
        if line.strip():
            begins = not literal and marked and not marked[-1].strip() and here >= indent + 4
            if begins and not re.match(r"\s*([-*·]|\d+\.) ", line):
                marked += [" " * indent + "::", ""]
                literal = True
            elif literal and here <= indent:
                literal = False
            if not literal:
                indent = here
        marked.append(line)
    lines[:] = marked


def keep_sentences(app: Any, what: str, name: str, it: Any, options: Any, lines: list[str]) -> None:
    """Of attributes and properties napoleon takes what is before a colon for a type, unless the
    first line is empty: here it is the beginning of a sentence.
    """
    if what in ("attribute", "data", "property") and lines:
        lines.insert(0, "")


def name_aliases(
    app: Any, what: str, name: str, it: Any, options: Any, signature: str, result: str
) -> tuple[str | None, str | None]:
    """Types that are named by `autodoc_type_aliases`, inside of other types, by their names."""

    def plain(text: str | None) -> str | None:
        return text and re.sub(r"TypeAliasForwardRef\('(?:[\w.]+\.)?(\w+)'\)", r"\1", text)

    return plain(signature), plain(result)


def setup(app: Any) -> None:
    """Before napoleon, to which indentation means something after a heading only."""
    app.connect("autodoc-process-docstring", mark_literal_blocks, priority=100)
    app.connect("autodoc-process-docstring", keep_sentences, priority=101)
    app.connect("autodoc-process-signature", name_aliases)
