"""Arguments of ``icmh export``; each kind's own are beside its code."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

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
