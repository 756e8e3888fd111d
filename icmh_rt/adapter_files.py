"""Files of trained adapters (``models.adapters.save_adapters``) as numpy arrays, without torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icmh_rt._tensor_files import described, read_tensors
from icmh_rt.bitstream import FINGERPRINT_BYTES
from icmh_rt.errors import BundleError

METADATA = "icmh_adapters"
FORMAT = 1
PARTS = {"encoder_sfmas": "g_a", "decoder_sfmas": "g_s"}


@dataclass(frozen=True, eq=False)
class TrainedAdapters:
    """One task's adapters.

    arrays: by the names that they have in ``models.adapters``, without the task · factor: what
    their change is multiplied with · middle: channels inside, at the largest width · places: names
    of the layers that are adapted, by transform, nearest the image first · fingerprint: hex digits
    that identify them with their base.
    """

    arrays: Mapping[str, NDArray[Any]]
    factor: float
    middle: int
    places: Mapping[str, tuple[str, ...]]
    fingerprint: str


def fingerprint_of(base: str, data: bytes) -> str:
    """Of the adapters in a file's bytes beside the base of that fingerprint."""
    digest = hashlib.sha256(base.encode() + hashlib.sha256(data).digest())
    return digest.hexdigest()[: 2 * FINGERPRINT_BYTES]


def weights_of(transforms: Mapping[str, NDArray[Any]]) -> str:
    """What adapter files call the weights that they belong to: a hash of g_a and g_s as halves."""
    digest = hashlib.sha256()
    for name in sorted(transforms):
        if name.startswith(tuple(PARTS.values())):
            digest.update(np.ascontiguousarray(transforms[name], np.float16).tobytes())
    return digest.hexdigest()[:16]


def read_adapters(
    path: str | os.PathLike[str], transforms: Mapping[str, NDArray[Any]], base: str = ""
) -> dict[str, TrainedAdapters]:
    """The adapters of a file, by task.

    Args:
        path: the file.
        transforms: the base's arrays, by name.
        base: its fingerprint.

    Raises:
        BundleError: the file cannot be read, is damaged, or its adapters belong to other weights.
        BackendUnavailableError: safetensors is not installed.
    """
    data, arrays, metadata_texts = read_tensors(path, "adapter")
    shown = repr(os.fspath(path))
    metadata = checked_metadata(metadata_texts.get(METADATA), shown)
    try:
        found, wanted = metadata["base"]["weights"], weights_of(transforms)
        if found != wanted:
            raise BundleError(
                f"adapter file {shown} was trained for other weights (fingerprint {found}) than "
                f"these ({wanted})"
            )
        tasks = {task: _described(description) for task, description in metadata["tasks"].items()}
    except (KeyError, TypeError, ArithmeticError, ValueError, AttributeError):
        raise BundleError(f"adapter file {shown} has damaged metadata") from None
    fingerprint = fingerprint_of(base, data)
    made = {}
    for task, description in tasks.items():
        its = {k.removeprefix(f"{task}."): v for k, v in arrays.items() if k.startswith(f"{task}.")}
        made[task] = TrainedAdapters(its, *description, fingerprint)
        _check(made[task], shown)
    return made


def _check(adapters: TrainedAdapters, shown: str) -> None:
    """That the arrays are numbers, and of the size that the description speaks of: whoever runs
    them allocates by it.
    """
    for name, array in adapters.arrays.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise BundleError(f"adapter file {shown}: {name!r} is not finite numbers")
    rows = {v.size for k, v in adapters.arrays.items() if k.endswith(".s_down1.bias")}
    if rows != {adapters.middle}:
        raise BundleError(
            f"adapter file {shown} says {adapters.middle} middle channels, its arrays have "
            f"{sorted(rows)}"
        )


def checked_metadata(text: str | None, shown: str) -> dict[str, Any]:
    """What an adapter file says of itself; BundleError, naming it as ``shown``, if it is none."""
    return described(text, shown, "adapter", FORMAT, "save_adapters")


def _described(
    description: Mapping[str, Any],
) -> tuple[float, int, dict[str, tuple[str, ...]]]:
    factor, middle = float(description["factor"]), int(description["middle"])
    if not np.isfinite(factor) or middle < 1:
        raise ValueError
    places = {
        transform: tuple(str(name) for name, _ in description["places"][transform])
        for transform in PARTS.values()
    }
    return factor, middle, places
