"""Adapter files (``models.adapters.save_adapters``) as numpy arrays, without torch."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import numpy as np

from icmh_rt.bundle import Bundle
from icmh_rt.errors import BackendUnavailableError, BundleError, OptionError
from icmh_rt.graphs._sfma import PLACES

_METADATA = "icmh_adapters"
_FORMAT = 1
_TRANSFORMS = {"encoder_sfmas": "g_a", "decoder_sfmas": "g_s"}


def read_adapters(path: str | os.PathLike[str], bundle: Bundle) -> dict[str, dict[str, np.ndarray]]:
    """The adapters of a file by task: arrays as `graphs.build` takes them, "factor" included.

    Raises:
        BundleError: the file cannot be read, or its adapters belong to other weights than the
            bundle's.
        OptionError: they sit at other places than the default codec's own.
        BackendUnavailableError: safetensors is not installed.
    """
    try:
        import safetensors
    except ImportError:
        raise BackendUnavailableError(
            "adapter files need safetensors: pip install 'icmh-rt[onnx]'"
        ) from None
    shown = repr(os.fspath(path))
    try:
        with safetensors.safe_open(os.fspath(path), framework="np") as file:
            text = (file.metadata() or {}).get(_METADATA)
            arrays = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, TypeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"adapter file {shown} cannot be read: {reason}") from None
    if text is None:
        raise BundleError(f"{shown} is not an adapter file: save_adapters makes them")
    try:
        metadata = json.loads(text)
        if metadata["format"] != _FORMAT:
            raise BundleError(
                f"adapter file {shown} is of format {metadata['format']!r}; this icmh_rt reads "
                f"{_FORMAT}"
            )
        found = metadata["base"]["weights"]
        if found != weights_of(bundle):
            raise BundleError(
                f"adapter file {shown} was trained for other weights (fingerprint {found}) than "
                f"bundle {bundle.name!r} has ({weights_of(bundle)})"
            )
        tasks = metadata["tasks"]
        for task, description in tasks.items():
            _check_places(shown, task, description)
        factors = {task: np.array(float(d["factor"])) for task, d in tasks.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, OptionError):
            raise
        raise BundleError(f"adapter file {shown} has damaged metadata") from None
    return {
        task: {
            **{
                k.removeprefix(f"{task}."): v for k, v in arrays.items() if k.startswith(f"{task}.")
            },
            "factor": factor,
        }
        for task, factor in factors.items()
    }


def weights_of(bundle: Bundle) -> str:
    """What adapter files call the weights that they belong to: a hash of g_a and g_s as halves."""
    digest = hashlib.sha256()
    for name in sorted(bundle.transforms):
        if name.startswith(tuple(_TRANSFORMS.values())):
            array = np.ascontiguousarray(bundle.transforms[name], np.float16)
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _check_places(shown: str, task: str, description: dict[str, Any]) -> None:
    for part, transform in _TRANSFORMS.items():
        places = tuple(name for name, _ in description["places"][transform])
        if places != PLACES[part]:
            raise OptionError(
                f"adapter file {shown} adapts {', '.join(places) or 'nothing'} in {transform} for "
                f"task {task!r}: graphs have adapters at {', '.join(PLACES[part])}"
            )
