"""Write icmh_rt/_C.pyi, what type checkers know of the compiled module, from the module itself.

    python scripts/write_native_stub.py            # write it
    python scripts/write_native_stub.py --check    # only compare; exit code 1 where it differs

pybind11 puts every function's signature into its docstring; the ways in which its releases spell
types are made one here. Parameters without a name are positional.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path
from types import ModuleType

STUB = Path(__file__).resolve().parents[1] / "icmh_rt" / "_C.pyi"

_HEAD = '''\
"""Types of the compiled module, written by scripts/write_native_stub.py. Import it through
icmh_rt._native only.
"""

from collections.abc import Sequence
from typing import Any

import numpy
import numpy.typing
from typing_extensions import Buffer

'''

_SPELLINGS = (
    (r"\btyping\.SupportsInt( \| typing\.SupportsIndex)?", "int"),
    (r"\btyping\.SupportsFloat( \| typing\.SupportsIndex)?", "float"),
    (r"\b(?<!numpy\.)(typing_extensions|collections\.abc|typing)\.", ""),
    (r"\bicmh_rt\._C\.", ""),
    (r"\bnumpy\.ndarray\[", "numpy.typing.NDArray["),
    (r"\b[Ll]ist\[", "Sequence["),
    (r"-> list$", "-> list[str]"),  # what is given back are names
    (r"\blist\b(?!\[)", "list[Any]"),
    (r"\btuple\b(?!\[)", "tuple[Any, ...]"),
    (r"\bbuffer\b(?=[,)])", "Buffer"),
)
_FIXED_SIZE = re.compile(r'Annotated\[((?:[^\[\]]|\[[^\[\]]*\])*), "?FixedSize\(\d+\)"?\]')


def stub_of(module: ModuleType) -> str:
    """The stub, not yet formatted."""
    parts = [_HEAD]
    for name, value in sorted(vars(module).items()):
        if name.startswith("__"):
            continue
        if isinstance(value, type):
            bases = f"({value.__base__.__name__})" if issubclass(value, Exception) else ""
            parts.append(f"class {name}{bases}:\n" + (_members(value) or "    ...\n"))
        elif callable(value):
            parts.append(_function(value.__doc__ or "", ""))
        else:
            parts.append(f"{name}: {type(value).__name__}\n")
    return "".join(parts)


def signatures(stub: str) -> set[str]:
    """What callers depend on, of every function: names, order and kinds of parameters, defaults."""
    found = set()
    for node in ast.parse(stub).body:
        if isinstance(node, ast.ClassDef):
            found.add(f"class {node.name}({', '.join(ast.unparse(base) for base in node.bases)})")
            found |= {f"{node.name}.{line}" for line in map(_signature, node.body) if line}
        else:
            found.add(_signature(node))
    return found - {""}


def _signature(node: ast.stmt) -> str:
    if isinstance(node, ast.AnnAssign):
        return ast.unparse(node.target)
    if not isinstance(node, ast.FunctionDef):
        return ""
    arguments = node.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        argument.annotation = None
    return f"{node.name}({ast.unparse(arguments)})"


def _members(kind: type) -> str:
    lines = []
    for name, value in sorted(vars(kind).items()):
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(value, property):
            read = (value.fget.__doc__ or "").strip().splitlines()[0]
            result = _spelt(read.rpartition("->")[2].strip())
            lines.append(f"    @property\n    def {name}(self) -> {result}: ...\n")
        elif value.__doc__ and "(self" in value.__doc__.splitlines()[0]:
            lines.append(_function(value.__doc__, "    "))
    return "".join(lines)


def _function(documentation: str, indent: str) -> str:
    signature = _spelt(documentation.splitlines()[0])
    signature = re.sub(r"\(self: \w+", "(self", signature)
    unnamed = re.findall(r"\barg\d+: ", signature)
    if unnamed:  # pybind11's own names for what has none: keywords cannot be given
        signature = signature.replace(") ->", ", /) ->")
    return f"{indent}def {signature}: ...\n"


def _spelt(text: str) -> str:
    for pattern, plain in _SPELLINGS:
        text = re.sub(pattern, plain, text)
    while _FIXED_SIZE.search(text):
        text = _FIXED_SIZE.sub(r"\1", text)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    options = parser.parse_args()
    sys.path.insert(0, str(STUB.parents[1]))
    from icmh_rt import _native

    made = stub_of(_native.module())
    if not options.check:
        STUB.write_text(made, encoding="utf-8")
        print(f"{STUB} is written: format it with ruff format")
        return 0
    different = sorted(signatures(made) ^ signatures(STUB.read_text(encoding="utf-8")))
    if different:
        print(f"{STUB.name} and the module differ in {', '.join(different)}", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
