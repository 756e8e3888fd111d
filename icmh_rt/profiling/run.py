"""`icmh profile`, without its command line: measures what was asked for, and makes the document."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from icmh_rt.bitstream import BASE_TASK
from icmh_rt.bundle import CodecBundle, find
from icmh_rt.errors import OptionError
from icmh_rt.profiling import (
    cold_start,
    machine,
    memory,
    power,
    records,
    schema,
    throttling,
    throughput,
)
from icmh_rt.profiling.operations import Progress, measure_group
from icmh_rt.profiling.plan import Plan
from icmh_rt.profiling.workload import Workload, picture

LARGEST_GROUP = 16
"""Sessions of onnxruntime, and CUDA graphs, that backends keep: what is measured in turns must fit,
or every turn would make them anew."""


def profile(
    plan: Plan, command: str = "", progress: Progress = lambda text: None
) -> dict[str, Any]:
    """Measure, and return the document (docs/profiling.md), which is valid.

    Raises:
        OptionError, BackendUnavailableError, BundleError, ImageError: what was asked for cannot be
            measured here.
    """
    progress("loading")
    workloads = list(_workloads(plan))
    nvml = power.nvml()
    configurations: list[dict[str, Any]] = []
    conditions = records.Conditions()
    for group in _groups(workloads):
        measured, found = measure_group(group, plan, nvml, progress)
        conditions.add(found)
        for workload in group:
            configurations.append(records.configuration(workload, measured, found))
    for workload, record in zip(workloads, configurations, strict=True):
        for images in plan.batches:
            progress(f"throughput of {images} images, {workload.name}")
            record["throughput"].append(throughput.measure(workload, images))
        source = power.meter(workload.backend.device) if plan.with_energy else None
        if source is not None:
            progress(f"power of {workload.name}")
            record["energy"] = power.energy(source, workload.operations())
    if plan.with_memory:
        _add_memory(workloads, configurations, plan, progress)
    starts = _cold_starts(workloads, plan, progress)
    conditions.add_note(throttling.power_mode_note(throttling.jetson_power_mode()))
    document = {
        "schema": schema.SCHEMA,
        "schema_version": schema.SCHEMA_VERSION,
        "provenance": machine.origin(command),
        "machine": machine.facts(nvml),
        "settings": records.settings(plan, workloads),
        "conditions": conditions.record(),
        "configurations": configurations,
        "growth": records.growths(configurations),
        "cold_start": starts,
        "problems": [],
    }
    document["problems"] = list(records.problems(document))
    return schema.checked(document)


def _workloads(plan: Plan) -> Iterator[Workload]:
    names: set[str] = set()
    image, last = None, None
    for setting in plan.settings():
        if image is None or last != setting.size:
            image, last = picture(setting.size, plan.image), setting.size
        workload = Workload(setting, image, plan.given_as)
        if workload.name not in names:  # "auto" beside the name of what it takes
            names.add(workload.name)
            yield workload


def _groups(workloads: Sequence[Workload]) -> Iterator[list[Workload]]:
    """Those that take turns with each other."""
    group: list[Workload] = []
    weight = 0
    for workload in workloads:
        cost = 0
        if workload.backend.name != "torch" or workload.backend.device != "cpu":
            cost = 2 if workload.setting.task == BASE_TASK else 4
        if group and weight + cost > LARGEST_GROUP:
            yield group
            group, weight = [], 0
        group.append(workload)
        weight += cost
    if group:
        yield group


def _child_settings(workload: Workload, plan: Plan) -> dict[str, Any]:
    setting = workload.setting
    if isinstance(plan.model, CodecBundle):
        raise OptionError("memory and cold starts are measured of bundles on disk: name one")
    return {
        "backend": workload.backend.name,
        "device": workload.backend.device,
        "dtype": setting.dtype,
        "width": setting.width,
        "task": setting.task,
        "quality": setting.quality,
        "model": str(find(plan.model).resolve()),
        "image": None if plan.image is None else str(Path(plan.image).resolve()),
    }


def _kinds(workloads: Sequence[Workload]) -> Iterator[list[int]]:
    """Numbers of the workloads that differ in nothing but size."""
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for number, workload in enumerate(workloads):
        setting, backend = workload.setting, workload.backend
        key = (backend.name, backend.device, setting.width, setting.task)
        kinds.setdefault(key, []).append(number)
    yield from kinds.values()


def _add_memory(
    workloads: Sequence[Workload],
    configurations: list[dict[str, Any]],
    plan: Plan,
    progress: Progress,
) -> None:
    with tempfile.TemporaryDirectory(prefix="icmh-profile-") as folder:
        for numbers in _kinds(workloads):
            same = [workloads[number] for number in numbers]
            sizes = [workload.setting.size for workload in same]
            paths = []
            for number, workload in zip(numbers, same, strict=True):
                paths.append(str(Path(folder) / f"{number}.icmh"))
                Path(paths[-1]).write_bytes(workload.data)
            progress(f"memory of {same[0].name}")
            settings = _child_settings(same[0], plan)
            encode = memory.measure(settings, sizes)
            decode = memory.measure(settings, sizes, paths) if same[0].has_image else {}
            for number, size in zip(numbers, sizes, strict=True):
                back = decode.get(size, {})
                configurations[number]["memory"] = {
                    "host_base_bytes": encode[size]["base_bytes"],
                    "encode_host_peak_bytes": encode[size]["host_peak_bytes"],
                    "decode_host_peak_bytes": back.get("host_peak_bytes"),
                    "encode_device_peak_bytes": encode[size]["device_peak_bytes"],
                    "decode_device_peak_bytes": back.get("device_peak_bytes"),
                }


def _cold_starts(
    workloads: Sequence[Workload], plan: Plan, progress: Progress
) -> list[dict[str, Any]]:
    """Of every backend, width and task, at the first size."""
    found = []
    for numbers in _kinds(workloads) if plan.cold_starts else ():
        workload = workloads[numbers[0]]
        setting, backend = workload.setting, workload.backend
        progress(f"cold start of {workload.name}")
        settings = _child_settings(workload, plan)
        record = cold_start.measure(settings, setting.size, plan.cold_starts)
        found.append(
            {
                "backend": backend.name,
                "device": backend.device,
                "width": setting.width,
                "task": setting.task,
                "size": list(setting.size),
                **record,
            }
        )
    return found
