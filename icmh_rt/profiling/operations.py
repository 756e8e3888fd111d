"""Encoding and decoding of a workload as subjects of rounds, and what is inside of transforms that
run as one: what a backend gives no laps for is found by other calls.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from icmh_rt.bitstream import BASE_TASK
from icmh_rt.profiling import rounds, stages, throttling
from icmh_rt.profiling.nvtx import Ranges, ranges
from icmh_rt.profiling.plan import Plan
from icmh_rt.profiling.workload import Workload

Progress = Callable[[str], None]


def measure_group(
    group: Sequence[Workload], plan: Plan, nvml: Any, progress: Progress
) -> tuple[dict[str, tuple[Operation, rounds.Measured]], throttling.Findings]:
    """What was measured of each operation, by name, and how the machine was meanwhile."""
    named_ranges = ranges()
    operations = [
        Operation(workload, kind, named_ranges)
        for workload in group
        for kind in ("encode", "decode")
    ]
    gpu = next((w.backend.device for w in group if w.backend.device != "cpu"), "")
    index = int(gpu.partition(":")[2] or 0)
    watch = throttling.Watch(nvml=nvml if gpu.startswith("cuda") else None, gpu=index)
    found = rounds.measure(
        {operation.name: operation.subject() for operation in operations},
        calls_a_turn=-(-plan.iterations // plan.rounds),
        max_windows=plan.max_windows,
        rounds=plan.rounds,
        warmup=plan.warmup,
        most_s=plan.most_s,
        between=watch.look,
        progress=lambda windows, what: progress(f"window {windows + 1}, {what}"),
    )
    findings = watch.findings()
    return {o.name: (o, found[o.name]) for o in operations}, findings


class Operation:
    """Encoding or decoding of a workload, and how stages are taken apart that have no laps.

    Attributes:
        main: the stage of the image's transform, "g_a" or "g_s".
        covers: the stages in it that have no laps of their own.
    """

    def __init__(self, workload: Workload, kind: str, named_ranges: Ranges) -> None:
        self.workload, self.kind = workload, kind
        self.name = f"{workload.name}, {kind}"
        backend = workload.backend
        encodes = kind == "encode"
        self.main = "g_a" if encodes else "g_s"
        self.covers = tuple(backend.analysis_covers if encodes else backend.synthesis_covers)
        self._instruments = stages.instruments_for(backend, named_ranges)
        self._eager: dict[str, float] = {}

    def subject(self) -> rounds.Subject:
        """What rounds measure; of CUDA graphs this looks into them first."""
        if getattr(self.workload.backend, "graphs", None) is not None:
            self._look_eagerly()
        call = self.workload.operations()[self.kind]
        return rounds.Subject(call, self._instrumented, self._extras())

    def _instrumented(self) -> tuple[float, dict[str, float]]:
        backend, task = self.workload.backend, self.workload.setting.task
        # Hooked for these calls only, and outside of their time: others run as they are.
        with stages.adapters_hooked(backend, task):
            return self._instruments.run(self.name, self._detailed)

    def _detailed(self) -> Any:
        workload = self.workload
        if self.kind == "encode":
            return workload.encoder.encode_detailed(workload.source)
        return workload.decode()

    @property
    def _has_adapters(self) -> bool:
        setting = self.workload.setting
        return setting.task in getattr(self.workload.backend.bundle, "adapters", {})

    def _extras(self) -> dict[str, Callable[[], Any]]:
        """Calls whose times tell what is inside of a transform that runs as one."""
        backend, setting = self.workload.backend, self.workload.setting
        image = self.workload.image
        found: dict[str, Callable[[], Any]] = {}
        if self.kind == "encode" and self.covers == ("g_a", "h_a"):
            found["alone"] = lambda: backend.latent_alone(image, setting.width, setting.task)
        if self._has_adapters and backend.module_of(setting.task) is None:
            if self.kind == "encode":
                found["base"] = lambda: backend.analysis(image, setting.width, BASE_TASK)
            else:
                y_hat = self.workload.decoder.latents(self.workload.data).y_hat
                found["base"] = lambda: backend.synthesis(
                    y_hat, setting.width, BASE_TASK, setting.size
                )
        return found

    def _look_eagerly(self, calls: int = 5) -> None:
        """Of a transform that runs as a CUDA graph: the shares of what is in it, by events of calls
        without the graph.
        """
        from icmh_rt.backends._cuda_graphs import ENVIRONMENT, is_enabled

        if not is_enabled():
            return
        before = os.environ.get(ENVIRONMENT)
        os.environ[ENVIRONMENT] = "0"
        try:
            seen = [self._instrumented()[1] for _ in range(calls)][1:]
        finally:
            os.environ.pop(ENVIRONMENT)
            if before is not None:
                os.environ[ENVIRONMENT] = before
        parts = [part for part in ("g_a", "adapters", "h_a", "g_s") if part in seen[0]]
        medians = {part: statistics.median(times[part] for times in seen) for part in parts}
        if self.kind == "decode":
            ends = ("transforms", "transforms_end")
            rest = statistics.median(sum(times.get(end, 0.0) for end in ends) for times in seen)
            medians["g_s"] = medians.get("g_s", 0.0) + rest
        total = sum(medians.values())
        self._eager = {part: value / total for part, value in medians.items()} if total else {}

    def shares(self, turns: Sequence[rounds.Turn]) -> dict[str, float]:
        """Of the main stage: what belongs to others."""
        whole = [
            statistics.median(t[self.main] for t in turn.stages) for turn in turns if turn.stages
        ]
        found: dict[str, float] = {}
        if not whole or self.main not in (turns[0].stages[0] if turns[0].stages else {}):
            return found
        for extra, stage in (("alone", "h_a"), ("base", "adapters")):
            if extra in turns[0].extras:
                ratios = [t.extras[extra] / w for t, w in zip(turns, whole, strict=True)]
                found[stage] = max(0.0, 1.0 - statistics.median(ratios))
        total = sum(found.values())  # of noise it may be more than there is
        return {stage: share / max(1.0, total) for stage, share in found.items()}

    def taken_apart(
        self, times: Mapping[str, float], shares: Mapping[str, float]
    ) -> dict[str, float]:
        """One call's stages."""
        found = dict(times)
        found = stages.divided(found, "transforms", self._eager or {self.main: 1.0})
        end = "download" if self.kind == "encode" else self.main  # latents are gathered at it
        found = stages.divided(found, "transforms_end", {end: 1.0})
        return stages.divided(found, self.main, shares)

    def how(self, stage: str, shares: Mapping[str, float]) -> str:
        """How a stage's time came about: one of `schema.HOW`."""
        if stage in shares or (shares and stage == self.main):
            return "difference"
        if self._eager and stage in self._eager:
            return "share"
        if stage == "adapters":
            return "hooks"
        on_device = self._instruments.event is not None
        return "events" if on_device and stage in stages.ON_DEVICE else "clock"

    def inside(self, stage: str, shares: Mapping[str, float]) -> list[str]:
        """The stages that are in it, itself for most."""
        if stage != self.main:
            return [stage]
        return [part for part in self.covers if part not in shares]
