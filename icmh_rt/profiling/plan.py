"""What `icmh profile` was asked to measure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from icmh_rt.bitstream import BASE_TASK
from icmh_rt.bundle import DEFAULT_BUNDLE, CodecBundle, load
from icmh_rt.errors import OptionError
from icmh_rt.profiling import rounds
from icmh_rt.profiling.workload import INPUTS, Setting


@dataclass(frozen=True)
class Plan:
    """What to measure; empty ``widths`` are all of the bundle's.

    sizes: (height, width) · batches: numbers of images for throughput · iterations: calls of a
    window, at least · rounds: of a window · most_s: for the rounds of one group · with_memory,
    with_energy: whether to · cold_starts: processes.
    """

    widths: tuple[float, ...] = ()
    tasks: tuple[str, ...] = (BASE_TASK,)
    backends: tuple[str, ...] = ("auto",)
    sizes: tuple[tuple[int, int], ...] = ((512, 768),)
    batches: tuple[int, ...] = ()
    iterations: int = 10
    max_windows: int = 10
    rounds: int = rounds.ROUNDS
    warmup: int = 2
    most_s: float | None = None
    device: str = "auto"
    dtype: str = "auto"
    quality: int = 50
    model: str | Path | CodecBundle = DEFAULT_BUNDLE
    image: str | None = None
    given_as: str = "array"
    with_memory: bool = True
    with_energy: bool = True
    cold_starts: int = 0

    def __post_init__(self) -> None:
        for name, least in (("iterations", 1), ("max_windows", 3), ("rounds", 1), ("warmup", 1)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        for height, width in self.sizes:
            if min(height, width) < 1:
                raise OptionError(f"size {height}x{width} is no size: give HEIGHTxWIDTH")
        if any(images < 1 for images in self.batches):
            raise OptionError(f"batches are {list(self.batches)}: each must be at least 1")
        if self.given_as not in INPUTS:
            raise OptionError(f"input {self.given_as!r} is unknown: use {', '.join(INPUTS)}")
        for name in ("tasks", "backends", "sizes"):
            if not getattr(self, name):
                raise OptionError(f"no {name} to measure: give at least one")

    def settings(self) -> Iterator[Setting]:
        """Every configuration; those of one size follow each other."""
        bundle = load(self.model)
        widths = [bundle.width(width)[0] for width in self.widths] or list(bundle.widths)
        for task in self.tasks:
            bundle.task(task)
        for size in dict.fromkeys(self.sizes):
            for backend in dict.fromkeys(self.backends):
                for task in dict.fromkeys(self.tasks):
                    for width in dict.fromkeys(widths):
                        yield Setting(
                            size=size,
                            width=width,
                            task=task,
                            backend=backend,
                            device=self.device,
                            dtype=self.dtype,
                            quality=self.quality,
                            model=self.model,
                        )
