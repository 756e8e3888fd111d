"""Where the time of one call goes: laps on the host's clock, and events on a GPU's.

The codec laps a stopwatch between its stages (`icmh_rt.backends.base.measured_by`). Here that
stopwatch also looks into the transforms: hooks around adapters, and on a GPU events between what
was given to it. All stages of a call add up to the call, because each is the time since the last.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from icmh_rt.backends.base import Stopwatch, device_lap, lap, measured_by
from icmh_rt.profiling.nvtx import Ranges

ENCODE = (
    "read",
    "upload",
    "g_a",
    "adapters",
    "h_a",
    "launch",
    "download",
    "quantize",
    "h_s",
    "entropy_coding",
    "pack",
)
"""Stages of an encode; each configuration has those of them that happen in it."""

DECODE = (
    "parse",
    "entropy_decoding",
    "h_s",
    "dequantize",
    "upload",
    "g_s",
    "adapters",
    "launch",
    "download",
)
"""Stages of a decode."""

BAR = 0.05
"""The sum of the stages may be this far from the end-to-end time."""

ON_DEVICE = ("upload", "g_a", "h_a", "g_s", "launch", "download")
"""Stages that a device's events tell, where there are some."""

_PARTS = {"g_a", "adapters", "h_a", "g_s"}
_TRANSFORMS = {"encoder_sfmas": "g_a", "decoder_sfmas": "g_s"}


class StageWatch(Stopwatch):
    """The stopwatch of one instrumented call.

    Args:
        ranges: for Nsight.
        event: makes and records an event on the device's current stream, with ``synchronize()``
            and ``elapsed_time(other)`` in ms; None without a device.
        synchronize: waits for the device, at every lap; for what has laps on the host only and
            gives the device work that it does not wait for.
    """

    def __init__(
        self,
        ranges: Ranges | None = None,
        event: Callable[[], Any] | None = None,
        synchronize: Callable[[], None] | None = None,
    ) -> None:
        self._ranges = ranges or None  # asked once, not at every lap
        self._event, self._synchronize = event, synchronize
        self._events: list[tuple[str, Any]] = []
        super().__init__()

    def lap(self, stage: str) -> None:
        if self._synchronize is not None:
            self._synchronize()
        super().lap(stage)
        if self._ranges is not None:
            self._ranges.lap(stage)

    def device_lap(self, stage: str) -> None:
        if self._event is not None:
            event = self._event()
            if event is not None:  # none while a graph is recorded
                self._events.append((stage, event))

    def seconds(self) -> dict[str, float]:
        """By stage. The host's lap "device", in which it waited, is divided into what the events
        say, and "launch": what the device did not work of it.

        The device's lap "transforms" is a whole graph; behind parts of one that have laps of their
        own it is "transforms_end".
        """
        worked: dict[str, float] = {}
        for (_, before), (stage, event) in itertools.pairwise(self._events):
            if stage:
                event.synchronize()
                worked[stage] = worked.get(stage, 0.0) + before.elapsed_time(event) / 1e3
        if not _PARTS.isdisjoint(worked) and "transforms" in worked:
            worked["transforms_end"] = worked.pop("transforms")
        times = dict(self.times)
        waited = times.pop("device", 0.0)
        for stage, seconds in worked.items():
            times[stage] = times.get(stage, 0.0) + seconds
        if waited:
            times["launch"] = max(0.0, waited - sum(worked.values()))
        return times


@dataclass(frozen=True)
class Instruments:
    """What instrumented calls of a backend are measured with."""

    ranges: Ranges = field(default_factory=Ranges)
    event: Callable[[], Any] | None = None
    synchronize: Callable[[], None] | None = None

    def run(self, name: str, call: Callable[[], Any]) -> tuple[float, dict[str, float]]:
        """Seconds of one call on the host's clock, and of each of its stages."""
        with self.ranges.call(name):
            watch = StageWatch(self.ranges, self.event, self.synchronize)
            with measured_by(watch):
                start = time.perf_counter()
                call()
                end = time.perf_counter()
        return end - start, watch.seconds()


def instruments_for(backend: Any, ranges: Ranges) -> Instruments:
    """Those that fit a backend: events for torch's graphs, waiting laps for torch without them."""
    if backend.name != "torch" or not backend.device.startswith("cuda"):
        return Instruments(ranges)
    import torch

    if getattr(backend, "graphs", None) is None:
        return Instruments(ranges, synchronize=lambda: torch.cuda.synchronize(backend.device))

    def event() -> Any:
        if torch.cuda.is_current_stream_capturing():
            return None
        made = torch.cuda.Event(enable_timing=True)
        made.record()
        return made

    return Instruments(ranges, event=event)


@contextmanager
def adapters_hooked(backend: Any, task: str) -> Iterator[str]:
    """Laps before and after every adapter of a task, as long as the block lasts.

    Yields:
        "hooks" where there are adapters that can be hooked, else "".
    """
    module = backend.module_of(task)
    found = [] if module is None else list(_adapters(module, task))
    mark = lap if getattr(backend, "graphs", None) is None else device_lap
    handles = []
    for transform, adapter in found:
        handles.append(adapter.register_forward_pre_hook(_before(mark, transform)))
        handles.append(adapter.register_forward_hook(_after(mark)))
    try:
        yield "hooks" if found else ""
    finally:
        for handle in handles:
            handle.remove()


def _adapters(module: Any, task: str) -> Iterator[tuple[str, Any]]:
    """(transform, adapter) of a task: built in, or attached under the task's name."""
    for name, child in module.named_modules():
        outer, part = ("", "", *name.split("."))[-3:-1]
        if part in _TRANSFORMS and outer in ("", task):
            yield _TRANSFORMS[part], child


def _before(mark: Callable[[str], None], transform: str) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        mark(transform)

    return hook


def _after(mark: Callable[[str], None]) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        mark("adapters")

    return hook


def divided(
    times: Mapping[str, float], whole: str, shares: Mapping[str, float]
) -> dict[str, float]:
    """``times`` with the stage ``whole`` divided among stages; the shares' rest stays with it."""
    if whole not in times:
        return dict(times)
    found = dict(times)
    total = found.pop(whole)
    kept = 1.0 - sum(shares.values())
    if kept > 1e-9:
        found[whole] = total * kept
    for stage, share in shares.items():
        if share > 0:
            found[stage] = found.get(stage, 0.0) + total * share
    return found


def ordered(names: Sequence[str], order: Sequence[str]) -> list[str]:
    """Stages in the order in which they happen; unknown ones last."""
    known = [name for name in order if name in names]
    return known + [name for name in names if name not in known]
