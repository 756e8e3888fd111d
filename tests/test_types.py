"""Type hints that users see: they are shipped, they are those of the compiled module, and a program
that is written by them runs. Whether they hold in the package, and whether a type checker finds a
user's mistakes, mypy tells, which lint runs over the package and tests/typed_programs.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from icmh_rt import _native

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def writer():
    path = ROOT / "scripts" / "write_native_stub.py"
    spec = importlib.util.spec_from_file_location("write_native_stub", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_package_says_that_it_has_types():
    assert (ROOT / "icmh_rt" / "py.typed").read_text() == ""


def test_the_stub_is_that_of_the_compiled_module(writer):
    made = writer.signatures(writer.stub_of(_native.module()))
    kept = writer.signatures(writer.STUB.read_text(encoding="utf-8"))
    assert made == kept, "run scripts/write_native_stub.py and ruff format"
    assert "crc32c(buffer, initial=0)" in kept
    assert "class CorruptStream(ValueError)" in kept


def test_the_stub_is_compared_by_names_order_and_defaults(writer):
    assert writer.signatures("def f(a: int, b: int = 0) -> int: ...") == {"f(a, b=0)"}
    assert writer.signatures("def f(a: object, b: int = 0) -> str: ...") == {"f(a, b=0)"}
    for other in ("def f(b, a=0): ...", "def f(a, b=1): ...", "def f(a, *, b=0): ...", "f: int"):
        assert writer.signatures(other) != {"f(a, b=0)"}


def test_older_and_newer_pybind11_spell_types_alike(writer):
    new = (
        "f(arg0: typing.SupportsInt | typing.SupportsIndex, arg1: typing.Annotated["
        'collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], "FixedSize(2)"], '
        "arg2: typing_extensions.Buffer) -> list"
    )
    old = "f(arg0: int, arg1: Annotated[list[int], FixedSize(2)], arg2: buffer) -> list"
    wanted = "def f(arg0: int, arg1: Sequence[int], arg2: Buffer, /) -> list[str]: ...\n"
    assert writer._function(new, "") == wanted
    assert writer._function(old, "") == wanted


@pytest.mark.parametrize("package", ["models", "tasks"])
def test_a_type_checker_sees_every_lazy_name(package):
    """Each is imported once for type checkers, from where it is loaded."""
    tree = ast.parse((ROOT / "icmh_rt" / package / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    module = importlib.import_module(f"icmh_rt.{package}")
    assert seen == {name: f"{module.__name__}.{home}" for name, home in module._HOMES.items()}


def test_a_typed_program_runs():
    program = ROOT / "tests" / "typed_programs" / "uses.py"
    spec = importlib.util.spec_from_file_location("typed_program", program)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()


@pytest.mark.slow
def test_a_type_checker_finds_no_error_and_every_mistake(tmp_path):
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
