"""Arguments and execution of ``icmh bundle``."""

from __future__ import annotations

import argparse
import json
import sys

from icmh_rt import feature_files
from icmh_rt._tensor_files import read_tensors
from icmh_rt.bundle import add_adapters, add_feature_head, save
from icmh_rt.errors import OptionError
from icmh_rt.training.cli import missing_extra


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``icmh bundle`` to its parser."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="what `icmh train base` saved; or the adapters or the feature head that `icmh train "
        "adapter` or `features` saved (.safetensors), which join the bundle in DIR",
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="bundle folder")
    parser.add_argument("--data", metavar="DIR", help="images to calibrate on, of a checkpoint")
    parser.add_argument("--name", default="default", help="name of the bundle (%(default)s)")
    parser.add_argument("--crops", type=int, default=48, metavar="N", help="crops (%(default)s)")
    parser.add_argument("--weights", choices=("ema", "model"), default="ema")


def run(args: argparse.Namespace) -> int:
    """Fold, write, and print what was written; returns the process's exit code."""
    if args.checkpoint.endswith(".safetensors"):
        print(json.dumps(_add(args.output, args.checkpoint)))
        return 0
    if not args.data:
        raise OptionError("folding a checkpoint needs --data DIR, images to calibrate on")
    try:
        from icmh_rt.training.fold import describe, fold
    except ImportError as error:
        raise missing_extra(error) from None

    bundle = fold(
        args.checkpoint,
        args.data,
        args.name,
        args.crops,
        args.weights,
        report=lambda text: print(text, file=sys.stderr),
    )
    fingerprint = save(bundle, args.output)
    print(json.dumps({"fingerprint": fingerprint, **describe(bundle)}, indent=1))
    return 0


def _add(folder: str, path: str) -> dict[str, object]:
    """Adapters or a feature head join a bundle; what joined."""
    _, _, texts = read_tensors(path, "adapter")
    if feature_files.METADATA in texts:
        return {"features": [add_feature_head(folder, path)]}
    return {"tasks": list(add_adapters(folder, path))}
