"""Images a second: `Encoder.encode_many`, which overlaps the work of several, and a plain loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from icmh_rt._threads import get_num_threads
from icmh_rt.profiling.statistics import paired_ratio, with_interval
from icmh_rt.profiling.windows import Window, disagreement

PASSES = 5


def measure(
    workload: Any,
    images: int,
    passes: int = PASSES,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """What the schema calls a throughput: ``images`` pictures at a time, all the same one, in
    passes that do both, in turn the one or the other first.
    """
    pictures = [workload.source] * images

    def many() -> None:
        for _ in workload.encoder.encode_many(pictures):
            pass

    def loop() -> None:
        for picture in pictures:
            workload.encoder.encode(picture)

    contestants = {"many": many, "loop": loop}
    workload.encoder.encode(workload.source)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(passes):
        for name in list(contestants)[:: 1 if number % 2 == 0 else -1]:
            start = clock()
            contestants[name]()
            seconds[name].append(clock() - start)
    windows = [Window(images, 1e3 * s / images, images / s) for s in seconds["many"]]
    return {
        "images": images,
        "workers": get_num_threads(),
        "images_per_s": with_interval([images / s for s in seconds["many"]]),
        "loop_images_per_s": with_interval([images / s for s in seconds["loop"]]),
        "speedup": paired_ratio(seconds["loop"], seconds["many"]),
        "stable": not disagreement(windows),
    }
