"""Arguments and execution of ``icmh train base``."""

from __future__ import annotations

import argparse
import dataclasses

from icmh_rt.errors import BackendUnavailableError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``base`` and its options to the ``train`` parser."""
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    base = commands.add_parser("base", help="train the slimmable base codec")
    base.add_argument("--config", required=True, metavar="YAML", help="training configuration")
    base.add_argument("--resume", action="store_true", help="go on from the output's checkpoint")
    base.add_argument("--data", metavar="DIR", help="image folder; replaces data.folder")
    base.add_argument("--output", metavar="DIR", help="run folder; replaces output")
    base.add_argument("--steps", type=int, metavar="N", help="replaces optimizer.steps")


def missing_extra(error: ImportError) -> BackendUnavailableError:
    """What to say when a package of the train extra is not installed."""
    return BackendUnavailableError(
        f"training cannot import {error.name or error}: pip install 'icmh-rt[train]'"
    )


def run(args: argparse.Namespace) -> int:
    """Train; returns the process's exit code."""
    # Here, so that `icmh train --help` needs no extra.
    try:
        from icmh_rt.training.base import BaseTrainer
        from icmh_rt.training.config import load_config
    except ImportError as error:
        raise missing_extra(error) from None

    config = load_config(args.config)
    if args.data:
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, folder=args.data)
        )
    if args.output:
        config = dataclasses.replace(config, output=args.output)
    if args.steps:
        config = dataclasses.replace(
            config, optimizer=dataclasses.replace(config.optimizer, steps=args.steps)
        )
    BaseTrainer(config, resume=args.resume).run()
    return 0
