"""Which execution providers of onnxruntime run a session, and sessions that run on no others."""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icmh_rt._onnxruntime import ort
from icmh_rt.backends import _devices, presence
from icmh_rt.backends._devices import Device
from icmh_rt.errors import BackendUnavailableError, OptionError

CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
_ON_GPU = frozenset({CUDA, TENSORRT})
_WARNING, _FATAL = 2, 4  # onnxruntime's levels of messages; the first is its default

Provider = tuple[str, dict[str, Any]]
"""Its name and its options."""


def providers_for(device: Device) -> tuple[list[Provider], Device]:
    """The providers for a device, the preferred one first, and the device that they run on.

    ICMH_ONNXRUNTIME_PROVIDERS names them instead, with or without the "ExecutionProvider" of their
    names: "tensorrt,cuda".

    Raises:
        OptionError: a name that this onnxruntime does not have.
        BackendUnavailableError: the device cannot be used; says why.
    """
    requested = presence.requested_providers()
    if requested:
        names = [_full_name(name) for name in requested]
        kind = "cuda" if _ON_GPU & {*names} else "cpu"
        if device.kind not in ("auto", kind):
            raise OptionError(
                f"{presence.PROVIDERS_VARIABLE} is {','.join(requested)!r}, which does not run on "
                f"device {str(device)!r}: unset it, or use device={kind!r}"
            )
    else:
        reason = presence.onnxruntime("cuda") if device.kind != "cpu" else None
        if device.kind == "cuda" and reason is not None:
            raise BackendUnavailableError(f"backend 'onnxruntime' cannot use {device}: {reason}")
        on_gpu = device.kind != "cpu" and reason is None
        kind, names = ("cuda", [CUDA]) if on_gpu else ("cpu", [])
    index = (device.index or 0) if kind == "cuda" else None
    place = Device(kind, index)
    missing = _devices.missing(place)
    if missing is not None:
        raise BackendUnavailableError(missing)
    if CPU not in names:
        names.append(CPU)  # onnxruntime's own place for what others leave out
    return [(name, _options(name, index)) for name in names], place


def _full_name(name: str) -> str:
    known = ort.get_available_providers()
    for provider in known:
        if name.lower() in (provider.lower(), provider.removesuffix("ExecutionProvider").lower()):
            return provider
    short = (provider.removesuffix("ExecutionProvider").lower() for provider in known)
    raise OptionError(
        f"{presence.PROVIDERS_VARIABLE} names {name!r}, this onnxruntime has {', '.join(short)}"
    )


def _options(name: str, index: int | None) -> dict[str, Any]:
    if name == CUDA:
        return {
            "device_id": index or 0,
            "use_tf32": 0,  # fp32 means fp32
            "cudnn_conv_algo_search": "HEURISTIC",  # the default measures again for every size
        }
    if name == TENSORRT:
        return {"device_id": index or 0}
    return {}


def session(model: bytes, providers: Sequence[Provider], threads: int) -> ort.InferenceSession:
    """A session whose first provider is the one that was asked for.

    Args:
        model: a serialized ONNX model.
        threads: that one call uses on a CPU.

    Raises:
        BackendUnavailableError: onnxruntime took another provider; says what kept it from this one.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Patterns are kept for every size of image that was ever seen.
    options.enable_mem_pattern = False
    # Threads that wait for work by spinning take the CPU from the entropy coder's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    first = providers[0][0]
    if first == CPU:
        return ort.InferenceSession(model, options, providers=[CPU])
    _preload()
    # What a provider lacks its loaders say in many lines, and then another takes its place.
    problem = None
    ort.set_default_logger_severity(_FATAL)
    try:
        made = ort.InferenceSession(model, options, providers=list(providers))
        if made.get_providers()[0] == first:
            return made
    except Exception as error:  # of many classes, each version's own
        problem = _one_cause(str(error))
    finally:
        ort.set_default_logger_severity(_WARNING)
    raise BackendUnavailableError(
        f"onnxruntime's {first} does not start: "
        f"{problem or loading_problem(first) or 'onnxruntime gives no reason'}"
    )


def loading_problem(provider: str) -> str | None:
    """What the system's loader says of a provider's library, which onnxruntime keeps to itself;
    None if it loads.
    """
    _preload()
    folder = Path(ort.__file__).parent / "capi"
    short = provider.removesuffix("ExecutionProvider").lower()
    try:
        for name in ("shared", short):  # the first is what the others expect to be there
            library = folder / f"libonnxruntime_providers_{name}.so"
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except OSError as error:
        return _one_cause(str(error))
    return None


def _preload() -> None:
    """Load CUDA's libraries out of NVIDIA's wheels, where they are; says nothing."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()


def _one_cause(text: str) -> str:
    """The library that is missing, if the text names one, else its last line."""
    library = re.search(r"(lib[\w.+-]+?\.so[\d.]*): cannot open shared object file", text)
    if library:
        return (
            f"{library[1]} is not on this machine; pip install 'onnxruntime-gpu[cuda,cudnn]' "
            "brings CUDA's libraries"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
