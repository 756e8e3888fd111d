"""From nothing to the first stream, in fresh processes: what a command, a lambda or a restart pays.

The files are in the system's cache already, unless the machine has just been started.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

from icmh_rt.profiling import children
from icmh_rt.profiling.statistics import with_interval

PROCESSES = 5
STEPS = ("process_ms", "import_ms", "load_ms", "first_encode_ms", "second_encode_ms", "total_ms")


def measure(settings: dict[str, Any], size: tuple[int, int], processes: int) -> dict[str, Any]:
    """What the schema calls a cold start, but for what it is of.

    Args:
        settings: backend, device, dtype, model, width, task, quality, image.
        size: (height, width) of the picture.

    Raises:
        IcmhError: a process failed.
    """
    found = [
        children.run("icmh_rt.profiling.cold_start", **settings, size=size)
        for _ in range(processes)
    ]
    for times in found:
        times["total_ms"] = sum(times[step] for step in STEPS[:4])
    return {
        "processes": processes,
        **{step: with_interval([times[step] for times in found]) for step in STEPS},
    }


def child(began: float, size: list[int], image: str | None, **settings: Any) -> dict[str, Any]:
    """What runs in a process: milliseconds of its steps."""
    import icmh_rt  # noqa: F401, what is timed
    from icmh_rt.codec import Encoder

    marks = [began, time.perf_counter()]
    encoder = Encoder(**settings)
    marks.append(time.perf_counter())
    from icmh_rt.profiling.workload import picture

    pixels = picture((size[0], size[1]), image)
    unmeasured = time.perf_counter() - marks[-1]
    for _ in range(2):
        encoder.encode(pixels)
        marks.append(time.perf_counter() - unmeasured)
    steps = [1e3 * (later - earlier) for earlier, later in itertools.pairwise(marks)]
    names = ("import_ms", "load_ms", "first_encode_ms", "second_encode_ms")
    return {"began_s": began, **dict(zip(names, steps, strict=True))}
