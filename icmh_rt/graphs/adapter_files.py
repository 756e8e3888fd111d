"""Trained adapters as `graphs.build` takes them."""

from __future__ import annotations

import os

import numpy as np

from icmh_rt import adapter_files
from icmh_rt.adapter_files import TrainedAdapters
from icmh_rt.bundle import Bundle
from icmh_rt.errors import OptionError
from icmh_rt.graphs._sfma import PLACES


def read_adapters(path: str | os.PathLike[str], bundle: Bundle) -> dict[str, dict[str, np.ndarray]]:
    """The adapters of a file by task: arrays as `graphs.build` takes them, "factor" included.

    Raises:
        BundleError: the file cannot be read, or its adapters belong to other weights than the
            bundle's.
        OptionError: they sit at other places than the default codec's own.
        BackendUnavailableError: safetensors is not installed.
    """
    found = adapter_files.read_adapters(path, bundle.transforms, bundle.fingerprint)
    return {task: arrays_of(task, trained) for task, trained in found.items()}


def arrays_of(task: str, trained: TrainedAdapters) -> dict[str, np.ndarray]:
    """One task's.

    Raises:
        OptionError: they sit at other places than the default codec's own.
    """
    for part, transform in adapter_files.PARTS.items():
        places = tuple(trained.places[transform])
        if places != PLACES[part]:
            raise OptionError(
                f"the file adapts {', '.join(places) or 'nothing'} in {transform} for task "
                f"{task!r}: graphs have adapters at {', '.join(PLACES[part])}"
            )
    return {**trained.arrays, "factor": np.array(trained.factor)}
