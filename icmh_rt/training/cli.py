"""Arguments and execution of ``icmh train base``, ``adapter`` and ``features``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from icmh_rt.errors import BackendUnavailableError

CONFIGS = Path(__file__).resolve().parent / "configs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``base``, ``adapter``, ``features`` and their options to the ``train`` parser."""
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    base = commands.add_parser("base", help="train the slimmable base codec")
    _add_common(base)
    base.add_argument("--data", metavar="DIR", help="image folder; replaces data.folder")
    adapter = commands.add_parser("adapter", help="train a task's adapters for a finished codec")
    _add_common(adapter)
    adapter.add_argument(
        "--task",
        choices=("classification", "detection", "segmentation"),
        help="whose adapters; replaces task",
    )
    features = commands.add_parser(
        "features", help="train a head that gives a network's features from small streams"
    )
    _add_common(features)
    features.add_argument("--task", help="whose streams; replaces task")
    for parser in (adapter, features):
        parser.add_argument("--data", metavar="DIR", help="dataset's folder; replaces data.folder")
        parser.add_argument(
            "--annotations", metavar="JSON", help="COCO annotations; replaces data.annotations"
        )
        parser.add_argument(
            "--weights", metavar="FILE", help="the task network's file; replaces network.weights"
        )
        parser.add_argument("--bundle", metavar="MODEL", help="name or folder of the base")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, metavar="YAML", help="a file, or the name of a shipped one"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the output's checkpoint")
    parser.add_argument("--output", metavar="DIR", help="run folder; replaces output")
    parser.add_argument("--steps", type=int, metavar="N", help="replaces optimizer.steps")


def missing_extra(error: ImportError) -> BackendUnavailableError:
    """What to say when a package of the train extra is not installed."""
    return BackendUnavailableError(
        f"training cannot import {error.name or error}: pip install 'icmh-rt[train]'"
    )


def config_path(name: str) -> Path:
    """The file of that name, or the shipped configuration."""
    path, shipped = Path(name), CONFIGS / f"{Path(name).stem}.yaml"
    return shipped if not path.exists() and path.name == name and shipped.is_file() else path


def run(args: argparse.Namespace) -> int:
    """Train; returns the process's exit code."""
    return {"adapter": _run_adapter, "base": _run_base, "features": _run_features}[args.what](args)


def _run_base(args: argparse.Namespace) -> int:
    # Here, so that `icmh train --help` needs no extra.
    try:
        from icmh_rt.training.base import BaseTrainer
        from icmh_rt.training.config import load_config
    except ImportError as error:
        raise missing_extra(error) from None

    config = load_config(config_path(args.config))
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


def _run_adapter(args: argparse.Namespace) -> int:
    try:
        from icmh_rt.training.adapter import AdapterTrainer
        from icmh_rt.training.adapter_config import from_dict
        from icmh_rt.training.fields import read_yaml
    except ImportError as error:
        raise missing_extra(error) from None

    values = _replaced(read_yaml(config_path(args.config)), args)
    trainer = AdapterTrainer(from_dict(values), resume=args.resume)
    if trainer.accelerator.is_main_process:
        print(trainer.report)
    trainer.run()
    return 0


def _run_features(args: argparse.Namespace) -> int:
    try:
        from icmh_rt.training.feature_config import from_dict
        from icmh_rt.training.features import FeatureTrainer
        from icmh_rt.training.fields import read_yaml
    except ImportError as error:
        raise missing_extra(error) from None

    values = _replaced(read_yaml(config_path(args.config)), args)
    FeatureTrainer(from_dict(values), resume=args.resume).run()
    return 0


def _replaced(values: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """A configuration's values with what the command line says instead."""
    _replace(values, "task", args.task)
    _replace(values, "bundle", args.bundle)
    _replace(values, "output", args.output)
    _replace(values, "data.folder", args.data)
    _replace(values, "data.annotations", args.annotations)
    _replace(values, "network.weights", args.weights)
    _replace(values, "optimizer.steps", args.steps)
    return values


def _replace(values: dict[str, Any], key: str, value: Any) -> None:
    """Set ``part.name`` of plain values that are not checked yet; None leaves it."""
    if value is None:
        return
    part, _, name = key.rpartition(".")
    inner = values.setdefault(part, {}) if part else values
    if isinstance(inner, dict):  # otherwise from_dict says what is wrong
        inner[name] = value
