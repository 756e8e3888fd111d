"""The document of a profile: `icmh_rt.profile`, version 1. docs/profiling.md explains every field.

A new field that readers may ignore keeps the version; anything else raises it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from icmh_rt.errors import IcmhError
from icmh_rt.evaluation.results import read_document

SCHEMA = "icmh_rt.profile"
SCHEMA_VERSION = 1

HOW = ("clock", "events", "hooks", "difference", "share")
"""How a stage's time came about."""


@dataclass(frozen=True)
class Maybe:
    """What it is of, or null."""

    of: Any


@dataclass(frozen=True)
class Each:
    """An object of any keys whose values are all of that kind."""

    of: Any


@dataclass(frozen=True)
class OneOf:
    """One of these texts."""

    texts: tuple[str, ...]


_NUMBER = float
QUANTILE = {"value": _NUMBER, "low": Maybe(_NUMBER), "high": Maybe(_NUMBER)}
STATISTICS = {
    "calls": int,
    "p50": QUANTILE,
    "p90": QUANTILE,
    "p99": QUANTILE,
    "mean": _NUMBER,
    "min": _NUMBER,
    "max": _NUMBER,
}
OPERATION = {
    "headline_ms": Maybe(_NUMBER),
    "stable": bool,
    "reason": str,
    "end_to_end": STATISTICS,
    "ns_per_pixel": _NUMBER,
    "stages": [
        {
            "stage": str,
            "by": OneOf(HOW),
            "covers": [str],
            "statistics": STATISTICS,
            "share": _NUMBER,
        }
    ],
    "stage_sum": {"ms": _NUMBER, "ratio": QUANTILE, "of_call": _NUMBER, "within_bar": bool},
    "overhead": QUANTILE,
    "windows": [{"calls": int, "p50_ms": _NUMBER, "per_second": _NUMBER}],
    "rounds_ms": [_NUMBER],
}
_COSTS = {
    "parameters": Each(int),
    "macs_per_pixel": Each(_NUMBER),
    "bytes_per_pixel": Each(_NUMBER),
    "encode_parameters": int,
    "encode_macs_per_pixel": _NUMBER,
    "encode_bytes_per_pixel": _NUMBER,
    "decode_parameters": int,
    "decode_macs_per_pixel": _NUMBER,
    "decode_bytes_per_pixel": _NUMBER,
}
CONFIGURATION = {
    "name": str,
    "backend": str,
    "device": str,
    "dtype": str,
    "width": _NUMBER,
    "task": str,
    "size": [int],
    "quality": int,
    "stream_bytes": int,
    "bits_per_pixel": _NUMBER,
    "encode": OPERATION,
    "decode": OPERATION,
    "throughput": [
        {
            "images": int,
            "workers": int,
            "images_per_s": QUANTILE,
            "loop_images_per_s": QUANTILE,
            "speedup": QUANTILE,
            "stable": bool,
        }
    ],
    "memory": Maybe(
        {
            "host_base_bytes": Maybe(int),
            "encode_host_peak_bytes": Maybe(int),
            "decode_host_peak_bytes": Maybe(int),
            "encode_device_peak_bytes": Maybe(int),
            "decode_device_peak_bytes": Maybe(int),
        }
    ),
    "costs": Maybe(_COSTS),
    "energy": Maybe(
        {
            "source": str,
            "idle_w": _NUMBER,
            "encode_w": Maybe(_NUMBER),
            "encode_mj_per_image": Maybe(_NUMBER),
            "decode_w": Maybe(_NUMBER),
            "decode_mj_per_image": Maybe(_NUMBER),
        }
    ),
}
_GROWTH = {
    "operation": OneOf(("encode", "decode")),
    "quantity": OneOf(("time", "memory")),
    "backend": str,
    "device": str,
    "width": _NUMBER,
    "task": str,
    "points": [
        {"size": [int], "pixels": int, "value": _NUMBER, "per_pixel": _NUMBER, "stable": bool}
    ],
    "fixed": _NUMBER,
    "per_pixel": _NUMBER,
    "exponent": _NUMBER,
    "flat": Maybe(_NUMBER),
    "flat_within_bar": Maybe(bool),
}
_COLD_START = {
    "backend": str,
    "device": str,
    "width": _NUMBER,
    "task": str,
    "size": [int],
    "processes": int,
    "process_ms": QUANTILE,
    "import_ms": QUANTILE,
    "load_ms": QUANTILE,
    "first_encode_ms": QUANTILE,
    "second_encode_ms": QUANTILE,
    "total_ms": QUANTILE,
}
DOCUMENT = {
    "schema": str,
    "schema_version": int,
    "provenance": {
        "command": str,
        "created": str,
        "versions": Each(str),
        "machine": {"system": str, "architecture": str, "cpu": str, "cores": int},
    },
    "machine": {
        "cpu": {
            "cores": int,
            "allowed": int,
            "quota": Maybe(_NUMBER),
            "governor": Maybe(str),
            "mhz": Maybe(_NUMBER),
            "max_mhz": Maybe(_NUMBER),
        },
        "memory_bytes": Maybe(int),
        "gpus": [
            {
                "index": int,
                "name": str,
                "driver": Maybe(str),
                "memory_bytes": Maybe(int),
                "power_limit_w": Maybe(_NUMBER),
                "clock_mhz": Maybe(_NUMBER),
                "max_clock_mhz": Maybe(_NUMBER),
            }
        ],
        "jetson": Maybe({"model": Maybe(str), "release": str, "power_mode": Maybe(str)}),
        "threads": {"icmh": int, "torch": Maybe(int)},
        "environment": Each(str),
    },
    "settings": {
        "model": str,
        "fingerprint": str,
        "quality": int,
        "image": str,
        "input": str,
        "iterations": int,
        "warmup_calls": int,
        "max_windows": int,
        "rounds_per_window": int,
        "agreement": _NUMBER,
    },
    "conditions": {
        "quiet": bool,
        "others_busy": Maybe(_NUMBER),
        "throttled": bool,
        "notes": [str],
    },
    "configurations": [CONFIGURATION],
    "growth": [_GROWTH],
    "cold_start": [_COLD_START],
    "problems": [str],
}


def fault(value: Any, kind: Any = DOCUMENT, where: str = "") -> str | None:
    """What is wrong with a value of a kind, in words, the first thing; None if nothing is. Fields
    that the schema does not know are let through.
    """
    if isinstance(kind, Maybe):
        return None if value is None else fault(value, kind.of, where)
    if isinstance(kind, OneOf):
        if value in kind.texts:
            return None
        return f"{where} is {value!r}, not one of {', '.join(kind.texts)}"
    if isinstance(kind, list):
        if not isinstance(value, list):
            return f"{where} is no list"
        return _first(fault(item, kind[0], f"{where}[{n}]") for n, item in enumerate(value))
    if isinstance(kind, (dict, Each)):
        if not isinstance(value, Mapping):
            return f"{where or 'the document'} is no object"
        fields = {key: kind.of for key in value} if isinstance(kind, Each) else kind
        missing = [key for key in fields if key not in value]
        if missing:
            return f"{where}.{missing[0]} is missing".lstrip(".")
        return _first(
            fault(value[key], of, f"{where}.{key}".lstrip(".")) for key, of in fields.items()
        )
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = {
        float: number and math.isfinite(value),
        int: number and isinstance(value, int),
        bool: isinstance(value, bool),
        str: isinstance(value, str),
    }[kind]
    return None if fits else f"{where} is {value!r}, not a {kind.__name__}"


def _first(faults: Any) -> str | None:
    return next((found for found in faults if found is not None), None)


def checked(document: dict[str, Any], name: str = "the document") -> dict[str, Any]:
    """The document, if it is one of this schema.

    Raises:
        IcmhError: it is not; says what is wrong first.
    """
    found = fault(document)
    if found is None and not document["configurations"]:
        found = "configurations are none"
    if found is not None:
        raise IcmhError(f"{name} is not a sound profile: {found}")
    return document


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a profile.

    Raises:
        IcmhError: the file cannot be read or is none of this schema and version; names it.
    """
    return checked(read_document(path, SCHEMA, SCHEMA_VERSION), os.fspath(path))
