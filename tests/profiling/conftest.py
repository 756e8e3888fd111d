"""A document to read, without measuring: as `icmh profile` writes it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from icmh_rt.profiling import schema
from icmh_rt.profiling.statistics import describe

ROUNDS = 15


def operation(ms: float, stages: dict[str, float], spread: float = 0.01) -> dict[str, Any]:
    """An operation that takes about ``ms``; its rounds lie ``spread`` of it apart."""
    times = [ms * (1.0 + spread * (n % 5 - 2) / 2) for n in range(ROUNDS)]
    total = sum(stages.values())
    return {
        "headline_ms": ms,
        "stable": True,
        "reason": "",
        "end_to_end": describe(times),
        "ns_per_pixel": 1e6 * ms / (512 * 768),
        "stages": [
            {
                "stage": name,
                "by": "clock",
                "covers": [name],
                "statistics": describe([value] * ROUNDS),
                "share": value / total,
            }
            for name, value in stages.items()
        ],
        "stage_sum": {
            "ms": total,
            "ratio": {"value": 1.0, "low": 0.99, "high": 1.01},
            "of_call": 1.0,
            "within_bar": True,
        },
        "overhead": {"value": 1.002, "low": 0.99, "high": 1.01},
        "windows": [{"calls": 5, "p50_ms": ms, "per_second": 1e3 / ms} for _ in range(3)],
        "rounds_ms": times,
    }


def configuration(width: float = 1.0, ms: float = 40.0) -> dict[str, Any]:
    parts = ("g_a", "h_a", "h_s", "g_s", "adapters_g_a", "adapters_g_s")
    work = dict.fromkeys(parts, 10)
    kinds = ("parameters", "macs_per_pixel", "bytes_per_pixel")
    return {
        "name": f"torch cpu 512x768 width {width:g} human",
        "backend": "torch",
        "device": "cpu",
        "dtype": "auto",
        "width": width,
        "task": "human",
        "size": [512, 768],
        "quality": 50,
        "stream_bytes": 12000,
        "bits_per_pixel": 0.244,
        "encode": operation(ms, {"read": 0.1, "g_a": 0.8 * ms, "h_s": 0.2 * ms - 0.1}),
        "decode": operation(0.9 * ms, {"parse": 0.1, "g_s": 0.9 * ms - 0.1}),
        "throughput": [],
        "memory": None,
        "costs": {
            **{kind: dict(work) for kind in kinds},
            **{f"{which}_{kind}": 30 for which in ("encode", "decode") for kind in kinds},
        },
        "energy": None,
    }


_DOCUMENT = {
    "schema": schema.SCHEMA,
    "schema_version": schema.SCHEMA_VERSION,
    "provenance": {
        "command": "icmh profile",
        "created": "2026-11-22T12:00:00+00:00",
        "versions": {"python": "3.11.7", "icmh-rt": "0.1.0"},
        "machine": {"system": "Linux", "architecture": "x86_64", "cpu": "A CPU", "cores": 2},
    },
    "machine": {
        "cpu": {
            "cores": 2,
            "allowed": 2,
            "quota": None,
            "governor": None,
            "mhz": 2600.0,
            "max_mhz": None,
        },
        "memory_bytes": 1 << 34,
        "gpus": [],
        "jetson": None,
        "threads": {"icmh": 2, "torch": 2},
        "environment": {},
    },
    "settings": {
        "model": "default",
        "fingerprint": "0011223344556677",
        "quality": 50,
        "image": "photograph.png",
        "input": "array",
        "iterations": 10,
        "warmup_calls": 2,
        "max_windows": 10,
        "rounds_per_window": 5,
        "agreement": 0.1,
    },
    "conditions": {"quiet": True, "others_busy": 0.01, "throttled": False, "notes": []},
    "growth": [],
    "cold_start": [],
    "problems": [],
}


@pytest.fixture
def document() -> dict[str, Any]:
    """Two widths that have settled."""
    configurations = [configuration(0.25, 10.0), configuration(1.0, 40.0)]
    return copy.deepcopy({**_DOCUMENT, "configurations": configurations})


@pytest.fixture(scope="session")
def adapted():
    """The default bundle with adapters for one task only, which change nothing yet."""
    pytest.importorskip("torch")
    from dataclasses import replace

    from icmh_rt.adapter_files import TrainedAdapters
    from icmh_rt.bundle import load
    from icmh_rt.models.adapters import adapter_parameters, attach_adapters
    from icmh_rt.models.slimmable_hyperprior import (
        SlimmableHyperprior,
        SlimmableHyperpriorConfig,
    )

    bundle = load("default")
    model = SlimmableHyperprior(SlimmableHyperpriorConfig.from_dict(bundle.config))
    attach_adapters(model, "detection", middle=32)
    task = "detection"
    parameters = adapter_parameters(model, task)
    attached = model.attached_adapters.detection
    trained = TrainedAdapters(
        arrays={k.removeprefix(f"{task}."): p.detach().numpy() for k, p in parameters.items()},
        factor=1.0,
        middle=32,
        places={t: tuple(place.name for place in ps) for t, ps in attached.places.items()},
        fingerprint="01234567",
    )
    tasks = ("human", task)
    # Another fingerprint than the default's: backends are shared by it.
    return replace(bundle, tasks=tasks, adapters={task: trained}, fingerprint="76543210")
