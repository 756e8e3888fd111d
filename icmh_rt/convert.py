"""`icmh convert`: a published checkpoint becomes a bundle that encodes and decodes.

Everything that decoding depends on is fixed here: integer tables (those of the checkpoint if it
has them, else computed from its parameters), medians and the scale table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from icmh_rt.bitstream import TASKS, width_to_id
from icmh_rt.bundle import MANIFEST
from icmh_rt.errors import BundleError, OptionError
from icmh_rt.models.checkpoints import describe, load_checkpoint
from icmh_rt.models.entropy import STORED_PRECISION
from icmh_rt.published import FAMILIES, GAUSSIAN, PublishedBundle


def bundle_of(
    model: nn.Module, *, name: str, task: str | None = None, training: dict[str, Any] | None = None
) -> PublishedBundle:
    """The bundle of a model that `icmh_rt.models.checkpoints` loaded.

    Args:
        model: a published codec.
        name: the bundle's.
        task: what the checkpoint's adapters are for; streams of task "human" then run without
            them. None: the checkpoint is run as it is, under the task "human".
        training: where it is from, for information.

    Raises:
        OptionError: the task is unknown, or the checkpoint has no adapters that it could name.
        BundleError: the checkpoint cannot be coded; says what its tensors lack.
    """
    description = describe(model)
    tasks, adapted = _tasks(task, has_adapters=hasattr(model, "encoder_sfmas"))
    state = {key: _stored(key, value.cpu()) for key, value in model.state_dict().items()}
    widths, tables, medians = {}, {}, {}
    for width, channels, output in zip(
        description.widths, description.latent_channels, description.outputs, strict=True
    ):
        if output == "none":  # a width that g_a runs at, but nothing decodes
            continue
        try:
            width_to_id(width)
        except OptionError as error:
            raise BundleError(f"the checkpoint cannot be converted: {error}") from None
        bottleneck = _bottleneck(model, width)
        module = model.get_submodule(bottleneck)
        tables[bottleneck] = _tables(module, bottleneck)
        medians[bottleneck] = module.medians.detach().float().cpu().numpy()
        widths[width] = {"latent_channels": channels, "output": output, "bottleneck": bottleneck}
    scales = None
    if description.entropy_model != "factorized":
        module = model.get_submodule(GAUSSIAN)
        tables[GAUSSIAN] = _tables(module, GAUSSIAN)
        scales = module.scales().detach().float().cpu().numpy()
    return PublishedBundle.assemble(
        name=name,
        family=description.family,
        config={
            "N": getattr(model, "N", model.hyper_channels),
            "M": max(description.latent_channels),
        },
        tasks=tasks,
        adapted_tasks=adapted,
        state=state,
        widths=widths,
        tables=tables,
        medians=medians,
        scales=scales,
        padding=FAMILIES[description.family],
        training=training or {},
    )


def convert(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    task: str | None = None,
    name: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Convert a checkpoint file to a bundle folder.

    Args:
        checkpoint: a file that `load_checkpoint` takes.
        folder: of the bundle; appears when it is complete.
        task, name: as for `bundle_of`; the name is the folder's unless given.
        force: replace a bundle that is there.

    Returns:
        What `icmh convert --json` prints.

    Raises:
        BundleError: the checkpoint cannot be read or converted, or something is at ``folder``.
        OptionError: as `bundle_of`.
        OSError: the bundle cannot be written.
    """
    folder = Path(folder)
    # Both before the checkpoint is read, which takes longer.
    _check_place(folder, force)
    if task is not None and task not in TASKS:
        raise OptionError(f"task {task!r} is unknown: use one of {', '.join(TASKS)}")
    model = load_checkpoint(checkpoint)
    source = {"checkpoint": Path(checkpoint).name, "sha256": _sha256(checkpoint)}
    bundle = bundle_of(
        model, name=folder.resolve().name if name is None else name, task=task, training=source
    )
    with _new_folder(folder) as temporary:
        fingerprint = bundle.save(temporary)
        size = sum(file.stat().st_size for file in temporary.iterdir())
    return {
        "bundle": str(folder),
        "name": bundle.name,
        "family": bundle.family,
        "sizes": bundle.config,
        "widths": {str(width): part.output for width, part in bundle.widths.items()},
        "tasks": list(bundle.tasks),
        "adapted_tasks": list(bundle.adapted_tasks),
        "stored_tables": describe(model).stored_tables,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": size,
        "fingerprint": fingerprint,
    }


def _tasks(task: str | None, has_adapters: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(tasks, those of them that run with the adapters)."""
    human = TASKS[0]
    if task is not None and task not in TASKS:
        raise OptionError(f"task {task!r} is unknown: use one of {', '.join(TASKS)}")
    if task in (None, human):
        return (human,), (human,) if has_adapters else ()
    if not has_adapters:
        raise OptionError(
            f"task {task!r} names adapters, and the checkpoint has none: leave it out"
        )
    return (human, task), (task,)


def _bottleneck(model: nn.Module, width: float) -> str:
    """Name of the entropy bottleneck that belongs to a width."""
    if not hasattr(model, "bottleneck"):
        return "entropy_bottleneck"
    wanted = model.bottleneck(width)
    return next(name for name, module in model.named_modules() if module is wanted)


def _tables(module: Any, name: str) -> Any:
    try:
        return module.tables(STORED_PRECISION)
    except OptionError as error:
        raise BundleError(f"the checkpoint's {name} cannot be used: {error}") from None


def _stored(key: str, value: Any) -> NDArray[Any]:
    """A tensor as a bundle keeps it: numbers as float32, positions and tables as integers."""
    if not value.is_floating_point():
        return value.numpy()
    array = value.float().numpy()
    if not np.isfinite(array).all():
        raise BundleError(f"the checkpoint's {key} has a value that is not finite: it is damaged")
    return array


def _sha256(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


# -- writing ---------------------------------------------------------------------------------------


def _check_place(folder: Path, force: bool) -> None:
    """BundleError where writing would destroy what is not ours to replace."""
    if not os.path.lexists(folder):
        return
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder} exists and is no bundle: choose another name")
    if not force:
        raise BundleError(f"{folder} exists: choose another name, or give --force to replace it")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``folder`` when the block ends well, and else vanishes.

    A folder that is there stays until then, and comes back where the exchange fails.
    """
    target = Path(os.path.realpath(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{os.getpid()}.{os.urandom(4).hex()}.tmp"
    temporary, old = (target.with_name(f".{target.name[:80]}.{x}.{mark}") for x in ("new", "old"))
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            os.rename(target, old)
        try:
            os.rename(temporary, target)
        except BaseException:
            if old.exists():
                os.rename(old, target)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


# -- the command -----------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``icmh convert``."""
    parser.description = (
        "Make a bundle of a checkpoint of TIC, TIC with SFMA adapters, the slimmable codecs, or "
        "CompressAI's bmshj2018-factorized, bmshj2018-hyperprior and mbt2018-mean."
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="file of the trained weights")
    parser.add_argument(
        "-o", "--output", metavar="BUNDLE", required=True, help="folder of the bundle"
    )
    parser.add_argument(
        "--task",
        choices=TASKS,
        help="what the checkpoint's adapters are for; streams for people then run without them "
        "(default: the checkpoint runs as it is, under the task human)",
    )
    parser.add_argument("--name", metavar="N", help="the bundle's name (default: the folder's)")
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Run ``icmh convert``; returns the exit code."""
    if not options.output:
        raise OptionError("-o has an empty name: give a folder")
    report = convert(
        options.checkpoint,
        options.output,
        task=options.task,
        name=options.name,
        force=options.force,
    )
    print(json.dumps(report) if options.json else _text(report))
    return 0


def _text(report: dict[str, Any]) -> str:
    tasks = ", ".join(
        f"{task} (with adapters)" if task in report["adapted_tasks"] else task
        for task in report["tasks"]
    )
    rows = {
        "family": report["family"],
        "sizes": ", ".join(f"{key}={value}" for key, value in report["sizes"].items()),
        "widths": ", ".join(f"{width} ({output})" for width, output in report["widths"].items()),
        "tasks": tasks,
        "tables": "the checkpoint's" if report["stored_tables"] else "from its parameters",
        "parameters": f"{report['parameters']:,}",
        "on disk": f"{report['bytes']:,} bytes",
        "fingerprint": report["fingerprint"],
    }
    lines = (f"  {name + ':':<16}{value}" for name, value in rows.items())
    return "\n".join([f"{report['bundle']}:", *lines])
