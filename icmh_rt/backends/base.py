"""The interface between the codec and whatever runs the transforms.

Arrays at this border are numpy on the host, channels-last. Quantization, the hyper-synthesis and
the dequantized latent are a `Coding`'s, one for all backends, so that backends can only differ in
how they compute ``g_a``, ``h_a`` and ``g_s``: nothing that entropy decoding depends on.
"""

from __future__ import annotations

import contextvars
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from icmh_rt._threads import work_alone
from icmh_rt.bundle import CodecBundle
from icmh_rt.coding import Coding, Prediction, coding_of
from icmh_rt.images import size_of


@dataclass(frozen=True, eq=False)
class Latents:
    """Everything that is entropy coded, and what codes it.

    symbols_z: int32 ``(hz, wz, Z)``, empty in models without a hyperprior · symbols_y: int32
    ``(h, w, M)`` · prediction: of y, what z tells · times: seconds by stage,
    of all images that were encoded together.
    """

    symbols_z: NDArray[Any]
    symbols_y: NDArray[Any]
    prediction: Prediction
    times: dict[str, float] = field(default_factory=dict)

    @property
    def indexes_y(self) -> NDArray[Any]:
        """uint8 or uint16 ``(h, w, M)``, the table row of each symbol of y."""
        return self.prediction.indexes


@dataclass(frozen=True, eq=False)
class HostLatents:
    """What one pass of g_a and h_a left on the host: float32 ``(h, w, M)`` and ``(hz, wz, Z)``."""

    y: NDArray[Any]
    z: NDArray[Any]


class Stopwatch:
    """Seconds between calls, by stage."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """The time since the last lap was that stage's."""
        now = time.perf_counter()
        self.times[stage] = self.times.get(stage, 0.0) + now - self._last
        self._last = now

    def device_lap(self, stage: str) -> None:
        """What the device was given since the last one is that stage; "" begins. Only stopwatches
        that look at devices do something with it.
        """
        return None

    def take_over(self, times: dict[str, float]) -> None:
        """Count stages that another stopwatch measured meanwhile; the next lap starts here."""
        self.times |= times
        self._last = time.perf_counter()


_watch: contextvars.ContextVar[Stopwatch | None] = contextvars.ContextVar(
    "icmh_rt_stopwatch", default=None
)


@contextmanager
def measured_by(watch: Stopwatch) -> Iterator[None]:
    """Let the codec's calls in this block (of this thread) use ``watch``."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def stopwatch() -> Stopwatch:
    """What measures here: that of `measured_by`, or a new one."""
    return _watch.get() or Stopwatch()


def lap(stage: str) -> None:
    """The time since the last lap was that stage's, if anybody measures."""
    watch = _watch.get()
    if watch is not None:
        watch.lap(stage)


def device_lap(stage: str) -> None:
    """`Stopwatch.device_lap`, if anybody measures."""
    watch = _watch.get()
    if watch is not None:
        watch.device_lap(stage)


class Backend(ABC):
    """Runs one bundle's transforms on one device.

    Subclasses give the transforms; everything else is shared. Thread-safe: no call changes the
    object.
    """

    name: str
    device: str
    analysis_covers: tuple[str, ...] = ("g_a",)
    synthesis_covers: tuple[str, ...] = ("g_s",)
    """Stages that are inside of `analysis` and of `synthesis` without laps of their own."""

    def __init__(self, bundle: CodecBundle) -> None:
        self.bundle = bundle

    # -- what a backend implements -----------------------------------------------------------------

    @abstractmethod
    def analysis(self, image: NDArray[Any], width: float, task: str) -> Any:
        """g_a of uint8 ``(H, W, 3)``: the unquantized latent, as the backend keeps it."""

    def latent_to_host(self, y: Any) -> NDArray[Any]:
        """What `analysis` returned as float32 ``(h, w, M)``; as it is for `HostLatents`."""
        return y.y

    def hyper_analysis(self, y: Any, width: float, task: str) -> NDArray[Any]:
        """h_a of what `analysis` returned: float32 ``(hz, wz, Z)``, empty in models without; of
        `HostLatents` what they hold.
        """
        return y.z

    def analyses(self, images: Sequence[NDArray[Any]], width: float, task: str) -> list[Any]:
        """`analysis` of several images of any sizes."""
        return [self.analysis(image, width, task) for image in images]

    def hyper_analyses(self, ys: Sequence[Any], width: float, task: str) -> list[NDArray[Any]]:
        """`hyper_analysis` of what `analyses` returned."""
        return [self.hyper_analysis(y, width, task) for y in ys]

    @abstractmethod
    def synthesis(
        self, y_hat: NDArray[Any], width: float, task: str, image_size: tuple[int, int]
    ) -> NDArray[Any]:
        """g_s of float32 ``(h, w, M)``: uint8 ``(H, W, 3)``.

        Raises:
            OptionError: latents of this width have no image.
        """

    def features(
        self, y_hat: NDArray[Any], width: float, task: str, image_size: tuple[int, int]
    ) -> dict[str, NDArray[Any]]:
        """Features of a vision network from float32 ``(h, w, M)``: float32 ``(C, H', W')`` each.

        Raises:
            OptionError: latents of this width and task have none.
        """
        self.check_features(width, task)
        raise NotImplementedError(f"{type(self).__name__} claims features and gives none")

    def check_features(self, width: float, task: str) -> None:
        """OptionError where `features` would raise it."""
        self.bundle.feature_head(width, task)

    def check_image(self, width: float, task: str) -> None:
        """OptionError where `synthesis` would raise it."""
        return None

    def workers(self, count: int) -> ThreadPoolExecutor:
        """``count`` threads that encode or decode an image each at the same time; the caller's to
        shut down.
        """
        return ThreadPoolExecutor(count, "icmh_rt-images", initializer=work_alone)

    def pixels_together(self, width: float, task: str) -> int:
        """Images of so many pixels in all take less time by `encode_transforms_together` than one
        after the other; 0 where none do.
        """
        return 0

    def module_of(self, task: str) -> Any:
        """The torch module that runs a task's transforms, for instruments; None without torch."""
        return None

    def latent_alone(self, image: NDArray[Any], width: float, task: str) -> None:
        """g_a without the rest of `analysis_covers`, for instruments.

        Raises:
            NotImplementedError: the backend cannot run it alone.
        """
        raise NotImplementedError

    # -- the codec's side --------------------------------------------------------------------------

    def coding(self, width: float, quality: int) -> Coding:
        """How latents of this width become symbols; OptionError if the bundle lacks it."""
        return coding_of(self.bundle, width, quality)

    def encode_transforms(
        self, image: NDArray[Any], width: float, task: str, quality: int
    ) -> Latents:
        """uint8 ``(H, W, 3)`` to everything that is entropy coded.

        Raises:
            ImageError: the transforms gave a value that is not finite.
        """
        return self.encode_transforms_together([image], width, task, quality)[0]

    def encode_transforms_together(
        self, images: Sequence[NDArray[Any]], width: float, task: str, quality: int
    ) -> list[Latents]:
        """`encode_transforms` of each image, the same bits, in less time where that is to be had.

        Raises:
            ImageError: the transforms gave a value that is not finite, for any of them.
        """
        watch = stopwatch()
        width, _ = self.bundle.width(width)
        coding = self.coding(width, quality)
        ys = self.analyses(images, width, task)
        watch.lap("g_a")
        zs = self.hyper_analyses(ys, width, task)
        watch.lap("h_a")
        found = []
        for image, y, z in zip(images, ys, zs, strict=True):
            symbols_z = coding.quantize_hyper(z)
            watch.lap("quantize")
            latent = self.latent_to_host(y)
            watch.lap("download")
            prediction = coding.predict(symbols_z, size_of(image))
            watch.lap("h_s")
            symbols_y = coding.quantize(latent, prediction)
            watch.lap("quantize")
            found.append(Latents(symbols_z, symbols_y, prediction, watch.times))
        return found
