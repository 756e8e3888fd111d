"""What a bundle's folder may hold beside its base, one file a task: adapters and feature heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from icmh_rt.adapter_files import TrainedAdapters, read_adapters
from icmh_rt.errors import BundleError
from icmh_rt.feature_files import TrainedFeatureHead, read_feature_head

if TYPE_CHECKING:
    from icmh_rt.bundle import Bundle

ADAPTERS = "adapters"
"""Folder of the adapters that were trained for the bundle: beside the base, which stays what it is
without them, fingerprint and streams included.
"""

FEATURES = "features"
"""Folder of the feature heads; streams do not depend on them."""

_SUFFIX = ".safetensors"


def file_of(folder: Path, part: str, task: str) -> Path:
    """Where a task's file of a part (`ADAPTERS`, `FEATURES`) is or would be."""
    return folder / part / f"{task}{_SUFFIX}"


def files(folder: Path, *parts: str) -> Iterator[Path]:
    """Those of the parts that are there."""
    for part in parts:
        yield from sorted((folder / part).glob(f"*{_SUFFIX}"))


def with_adapters(bundle: Bundle, paths: Iterable[Path]) -> Bundle:
    """The bundle with the adapters in files.

    Raises:
        BundleError: a file is damaged, does not belong to it, or has a task once more.
    """
    adapters: dict[str, TrainedAdapters] = {}
    for path in paths:
        for task, found in read_adapters(path, bundle.transforms, bundle.fingerprint).items():
            if task in bundle.tasks or task in adapters:
                raise BundleError(f"{str(path)!r} has adapters for task {task!r} once more")
            adapters[task] = found
    return replace(bundle, tasks=(*bundle.tasks, *adapters), adapters=adapters)


def with_feature_heads(bundle: Bundle, paths: Iterable[Path]) -> Bundle:
    """The bundle with the feature heads in files. Raises as `with_adapters`."""
    heads: dict[str, TrainedFeatureHead] = {}
    for path in paths:
        task, head = read_feature_head(path)
        if task not in bundle.tasks or task in heads:
            why = "once more" if task in heads else f"that bundle {bundle.name!r} does not have"
            raise BundleError(f"{str(path)!r} is a feature head for task {task!r} {why}")
        wanted = bundle.fingerprint_of(task)
        if head.latents != wanted:
            raise BundleError(
                f"{str(path)!r} was trained on latents of {head.latents}, those of task {task!r} "
                f"in bundle {bundle.name!r} are of {wanted}: train it again"
            )
        channels = [
            tables.hyper_synthesis.latent_channels
            for width, tables in bundle.widths.items()
            if width == head.width
        ]
        if channels != [head.arrays["stem.weight"].shape[1]]:
            raise BundleError(
                f"{str(path)!r} does not fit width {head.width} of bundle {bundle.name!r}"
            )
        heads[task] = head
    return replace(bundle, feature_heads=heads)
