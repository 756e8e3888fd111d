"""Arguments of ``icmh export``; each kind's own are beside its code."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from icmh_rt.errors import IcmhError, OptionError

OK, FAILED, USAGE = 0, 1, 2

KINDS = {
    "onnx": "ONNX graphs, compared with torch",
    "tensorrt": "TensorRT engines",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what follows `icmh export` to its parser."""

    class KindParser(type(parser)):  # type: ignore[misc]
        """Imports its kind when it is used: one kind's packages may be missing."""

        kind = ""

        def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
            if self.kind:
                module = importlib.import_module(f"icmh_rt.export.{self.kind}")
                self.kind = ""
                module.add_arguments(self)
                self.set_defaults(run_export=module.run)
            return super().parse_known_args(*args, **kwargs)

    kinds = parser.add_subparsers(
        dest="kind", required=True, metavar="|".join(KINDS), parser_class=KindParser
    )
    for name, summary in KINDS.items():
        kinds.add_parser(name, help=summary).kind = name


def run(options: argparse.Namespace) -> int:
    """Do what was parsed; returns the exit code."""
    return options.run_export(options)


def run_script(
    kind: str,
    add: Callable[[argparse.ArgumentParser], None],
    do: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None,
) -> int:
    """``icmh export KIND`` for those who run its file; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"icmh export {kind}")
    add(parser)
    try:
        return do(parser.parse_args(argv))
    except OptionError as error:
        print(f"icmh: error: {error}", file=sys.stderr)
        return USAGE
    except (IcmhError, OSError) as error:
        print(f"icmh: error: {error}", file=sys.stderr)
        return FAILED
