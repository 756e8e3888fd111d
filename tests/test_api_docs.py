"""The pages of the public API (docs/api): every public module is on one, every name has a
docstring, and Sphinx makes them without a warning.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import icmh_rt

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "api").glob("*.rst"))
# What commands and codecs are made of, and no caller's business.
INTERNAL = {"adapter_files", "cli", "coding", "feature_files", "gaussian"}


def documented_modules() -> list[str]:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    return re.findall(r"^\.\. automodule:: (\S+)", text, re.MULTILINE)


def names_without_docstring(module) -> list[str]:
    """Public classes and functions that the module defines, and their public members; members that
    override others have the docstrings of those.
    """
    lacking = []
    for name, value in vars(module).items():
        is_own = getattr(value, "__module__", None) == module.__name__
        if name.startswith("_") or not is_own:
            continue
        if inspect.isfunction(value) and not value.__doc__:
            lacking.append(name)
        if inspect.isclass(value):
            own = vars(value).get("__doc__") or ""
            if not own or own.startswith(f"{name}("):  # what dataclasses make
                lacking.append(name)
            for member, found in vars(value).items():
                function = found.fget if isinstance(found, property) else found
                function = getattr(function, "__func__", function)
                public = inspect.isfunction(function) and not member.startswith("_")
                if public and not inspect.getdoc(getattr(value, member)):
                    lacking.append(f"{name}.{member}")
    return lacking


def test_every_public_module_has_a_page():
    there = {path.stem for path in (ROOT / "icmh_rt").glob("*.py") if path.stem[0] != "_"}
    there |= {"backends", "models", "rans", "tasks"}
    shown = {name.split(".")[1] for name in documented_modules() if "." in name}
    assert shown == there - INTERNAL
    toctree = (ROOT / "docs" / "api" / "index.rst").read_text(encoding="utf-8").split()
    assert {page.stem for page in PAGES} - {"index"} <= {*toctree}


def test_every_public_name_has_a_docstring():
    lacking = {}
    for name in documented_modules():
        try:
            found = names_without_docstring(importlib.import_module(name))
        except icmh_rt.BackendUnavailableError:
            assert name == "icmh_rt.distributed"  # needs ray
            continue
        if found:
            lacking[name] = found
    assert lacking == {}
    assert all(inspect.getdoc(getattr(icmh_rt, name)) for name in icmh_rt.__all__)


def test_lacking_docstrings_are_seen(monkeypatch):
    module = type(sys)("made")
    monkeypatch.setitem(sys.modules, "made", module)  # where dataclasses look
    exec(
        "import dataclasses\n"
        "def bare(): pass\n"
        "def told(): 'Says.'\n"
        "class Base:\n    'Says.'\n    def one(self): 'Says.'\n    def two(self): pass\n"
        "class Child(Base):\n    'Says.'\n    def one(self): pass\n"
        "@dataclasses.dataclass\nclass Data:\n    x: int\n",
        vars(module),
    )
    assert names_without_docstring(module) == ["bare", "Base.two", "Data"]


@pytest.mark.slow
def test_the_pages_are_made_without_a_warning(tmp_path):
    result = subprocess.run(
        [str(ROOT / "scripts" / "build_api_docs.sh"), str(tmp_path)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "codec.html").read_text(encoding="utf-8")
    assert "icmh_rt.Encoder.encode_many" in page and "TypeAliasForwardRef" not in page
