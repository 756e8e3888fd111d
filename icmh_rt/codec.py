"""The codec: image -> transforms -> symbols -> bytes, and back.

`Encoder` and `Decoder` hold settings and a backend and no other state; one object may be used by
many threads. A stream names the bundle that made it and carries checksums of its bytes and of its
decoded symbols, so a decoder gives the right latents or an error, never a wrong picture.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from icmh_rt import _native, bitstream, rans, tiles
from icmh_rt._threads import get_num_threads
from icmh_rt.backends import Backend, Latents, choose, create
from icmh_rt.backends.base import lap, measured_by, stopwatch
from icmh_rt.bundle import DEFAULT_BUNDLE, CodecBundle, load
from icmh_rt.coding import Coding, Prediction
from icmh_rt.errors import BitstreamError, ImageError, ModelMismatchError, OptionError
from icmh_rt.images import ImageLike, load_image, size_of
from icmh_rt.pipeline import map_ordered
from icmh_rt.tiles import Progress

if TYPE_CHECKING:
    from typing_extensions import Buffer


@dataclass(frozen=True, eq=False)
class EncodeReport:
    """What `Encoder.encode_detailed` returns.

    data: the stream · times: seconds by stage · latents: what was coded · indexes_z: the table row
    of each hyper-latent symbol · coding: how latents became symbols.
    """

    data: bytes
    times: dict[str, float]
    latents: Latents = field(repr=False)
    indexes_z: NDArray[Any] = field(repr=False)
    coding: Coding = field(repr=False)

    @cached_property
    def estimated_bits(self) -> float:
        """-log2 likelihood of all symbols under the trained densities: the rate research code
        reports.
        """
        latents = self.latents
        return self.coding.estimated_bits(
            latents.symbols_z, self.indexes_z, latents.symbols_y, latents.indexes_y
        )


@dataclass(frozen=True, eq=False)
class DecodeReport:
    """What `Decoder.decode_detailed` returns: uint8 ``(H, W, 3)``, and seconds by stage."""

    image: NDArray[np.uint8]
    times: dict[str, float]


@dataclass(frozen=True, eq=False)
class PartialPicture:
    """What `Decoder.decode_partial` returns.

    image: uint8 ``(H, W, 3)``, of all symbols that arrived; the others are taken as the
    hyper-latent predicts them · exact: bool ``(h, w)``, by positions of the latent: the squares of
    16×16 pixels that are those of the whole stream's picture, as no missing symbol reaches into
    them · rows: so many rows from the top are exact over their whole width, all H if every square
    is · fraction: of the latent's symbols, those that arrived, wherever they stand, 0 to 1 ·
    header: of the stream.
    """

    image: NDArray[np.uint8]
    exact: NDArray[np.bool_]
    rows: int
    fraction: float
    header: bitstream.Header


@dataclass(frozen=True, eq=False)
class DecodedLatents:
    """What `Decoder.latents` returns: everything exact that a stream holds.

    y_hat: float32 ``(h, w, M)``, the dequantized latent, equal bits on every device · symbols_z,
    symbols_y: int32 · indexes_y: uint8 or uint16, scale indexes or table rows · header: of the
    stream.
    """

    y_hat: NDArray[np.float32]
    symbols_z: NDArray[np.int32]
    symbols_y: NDArray[np.int32]
    indexes_y: NDArray[Any]
    header: bitstream.Header


class _Codec:
    """What an encoder and a decoder have in common: a bundle, a backend and a limit."""

    def __init__(
        self,
        model: str | Path | CodecBundle,
        backend: str,
        device: str,
        dtype: str,
        max_pixels: int,
        tile: int,
    ) -> None:
        self._bundle = load(model)
        self.max_pixels = _whole("max_pixels", max_pixels, 1, None)
        self.tile = tiles.checked_tile(tile)
        self._backend = create(self._bundle, backend, device, dtype)
        self._asked_for = (backend, device)

    @property
    def model(self) -> str:
        """Name of the bundle."""
        return self._bundle.name

    @property
    def backend(self) -> Backend:
        """What runs the transforms."""
        return self._backend

    @property
    def backend_reason(self) -> str:
        """Why it is this backend, and what keeps others from being it."""
        return choose(self._bundle, *self._asked_for).reason


class Encoder(_Codec):
    """Turns images into streams.

    Args:
        width: channel multiplier of the transforms: compute. One of the bundle's widths.
        task: what the stream is for; one of the bundle's tasks.
        quality: 1 (smallest stream) to 100 (best picture), a whole number: rate. A converted
            checkpoint has one rate, called 50.
        model: name of an installed bundle, path of a bundle folder, or a bundle in memory.
        backend: "auto" (the fastest that is installed) or a name of
            ``icmh_rt.backends.available()``.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:N".
        dtype: what the transforms compute in: "fp32", "bf16", "fp16", or "auto": fp16 on a GPU
            (fp32 for a picture that leaves its range, and for converted checkpoints), fp32 on a
            CPU. Streams of every dtype decode everywhere.
        max_pixels: refuse larger images.
        tile: side in pixels of the tiles by which images of more than four such tiles are computed,
            in bounded memory and with the same stream; 64 or more, or 0 to compute every image
            whole. Tasks with adapters have no tiles: their images are refused above 2²⁶ pixels,
            unless this is 0.

    Raises:
        OptionError: a value that is not allowed; the message lists those that are.
        BundleError: the bundle does not exist or is damaged.
        BackendUnavailableError: the backend or the device cannot be used here.
    """

    def __init__(
        self,
        width: float = 1.0,
        task: str = "human",
        quality: int = 50,
        model: str | Path | CodecBundle = DEFAULT_BUNDLE,
        backend: str = "auto",
        device: str = "auto",
        *,
        dtype: str = "auto",
        max_pixels: int = bitstream.DEFAULT_MAX_PIXELS,
        tile: int = tiles.DEFAULT_TILE,
    ) -> None:
        super().__init__(model, backend, device, dtype, max_pixels, tile)
        self.width, _ = self._bundle.width(width)
        self.task = self._bundle.task(task)
        self.quality = self._bundle.quality(
            _whole("quality", quality, bitstream.MIN_QUALITY, bitstream.MAX_QUALITY)
        )
        self._coding = self._backend.coding(self.width, self.quality)

    @property
    def fingerprint(self) -> str:
        """Hex digits that identify the weights in streams: the bundle's, or with its adapters."""
        return self._bundle.fingerprint_of(self.task)

    def encode(self, image: ImageLike, *, progress: Progress | None = None) -> bytes:
        """Encode one image.

        Args:
            image: path, PIL.Image, uint8 array ``(H, W, 3)`` or ``(H, W)``, or uint8 torch tensor
                ``(3, H, W)``.
            progress: called with the share of the transforms that is done, up to 1.0, after every
                tile of an image that is computed by tiles. What it raises ends the encoding.

        Returns:
            The stream (docs/bitstream.md).

        Raises:
            ImageError: it cannot be read or has no safe meaning as 8-bit RGB.
        """
        return self.encode_detailed(image, progress=progress).data

    def encode_batch(self, images: Iterable[ImageLike]) -> list[bytes]:
        """Encode images of any mix of sizes, in order; the same bytes as `encode` gives each.

        Raises:
            ImageError: one of them cannot be encoded.
        """
        return [data for _, data in self.encode_many(images)]

    def encode_many(
        self,
        images: Iterable[ImageLike],
        *,
        workers: int = 0,
        on_error: Callable[[int, ImageError], None] | None = None,
    ) -> Iterator[tuple[int, bytes]]:
        """Encode a stream of images, several at a time: reading, transforms and entropy coding of
        different images overlap.

        Args:
            images: anything that `encode` takes, any mix of sizes; taken from the iterable by the
                calling thread, at most four a worker ahead of what is yielded.
            workers: images in work at a time; 0 for as many as there are threads
                (`set_num_threads`).
            on_error: called with an image's number and its error, after which the image is left
                out. None raises the error in the image's place, and ends.

        Yields:
            The number of each image, from 0, and its stream, in order; the same bytes as `encode`.

        Raises:
            ImageError: without ``on_error``, of the first image that cannot be encoded.
        """
        if isinstance(images, (str, bytes, Path, np.ndarray)):
            raise ImageError(
                f"images is a single {type(images).__name__}; give a list, or use encode"
            )
        count = _whole("workers", workers, 0, 1024) or get_num_threads()
        return self._encode_many(images, count, on_error)

    def _encode_many(
        self,
        images: Iterable[ImageLike],
        workers: int,
        on_error: Callable[[int, ImageError], None] | None,
    ) -> Iterator[tuple[int, bytes]]:
        with self._backend.workers(workers) as executor:
            # Closed here, not when it is collected: the executor would wait for all it was given.
            calls = map_ordered(
                self.encode_together, images, executor, workers, self.images_together
            )
            with closing(calls):
                for index, (_, call) in enumerate(calls):
                    try:
                        data = call.result()
                    except ImageError as error:
                        if on_error is None:
                            raise
                        on_error(index, error)
                        continue
                    yield index, data

    @property
    def images_together(self) -> int:
        """How many images `encode_together` is best given, 1 where it gains nothing."""
        return _TOGETHER if self._backend.pixels_together(self.width, self.task) else 1

    def encode_together(self, images: Sequence[ImageLike]) -> list[bytes | ImageError]:
        """The stream of each image, or why it has none: what a thread of `encode_many` does with
        the images that it takes. Small ones go through the transforms together where that takes
        less time; the bytes are those of `encode`.
        """
        most = self._backend.pixels_together(self.width, self.task)
        results: list[bytes | ImageError] = []
        group: list[NDArray[Any]] = []
        for image in images:
            try:
                pixels = load_image(image, max_pixels=self.max_pixels)
            except ImageError as error:
                results += [*self._encode_group(group), error]
                group = []
                continue
            if group and sum(each.size for each in group) + pixels.size > 3 * most:
                results += self._encode_group(group)
                group = []
            group.append(pixels)
        return results + self._encode_group(group)

    def _encode_group(self, group: list[NDArray[Any]]) -> list[bytes | ImageError]:
        if len(group) > 1:
            with suppress(ImageError):  # of one: that one has it again below
                latents = self._backend.encode_transforms_together(
                    group, self.width, self.task, self.quality
                )
                return [
                    self._coded(size_of(pixels), each, self._coding.indexes_z(size_of(pixels)))
                    for pixels, each in zip(group, latents, strict=True)
                ]
        results: list[bytes | ImageError] = []
        for pixels in group:
            try:
                results.append(self.encode(pixels))
            except ImageError as error:
                results.append(error)
        return results

    def encode_detailed(
        self, image: ImageLike, *, progress: Progress | None = None
    ) -> EncodeReport:
        """`encode` with the model's rate estimate, the time of each stage and the latents."""
        watch = stopwatch()
        pixels = load_image(image, max_pixels=self.max_pixels)
        size = size_of(pixels)
        watch.lap("read")
        coding = self._coding
        tiling = tiles.plan(self._bundle, self.width, self.task, size, self.tile, ImageError)
        if tiling is None:
            settings = self.width, self.task, self.quality
            latents = self._backend.encode_transforms(pixels, *settings)
            watch.take_over(latents.times)
        else:
            with measured_by(watch):
                transforms = self._backend, pixels, self.width, self.task
                y, symbols_z = tiles.analysis(*transforms, coding, tiling, progress)
                del image, pixels, transforms
                latents = tiles.quantize(coding, y, symbols_z, size, tiling, progress)
        indexes_z = coding.indexes_z(size)
        with measured_by(watch):
            data = self._coded(size, latents, indexes_z)
        return EncodeReport(data, watch.times, latents, indexes_z, coding)

    def _coded(self, size: tuple[int, int], latents: Latents, indexes_z: NDArray[Any]) -> bytes:
        """The stream of an image of that size."""
        coding = self._coding
        low, high = _seals(latents, coding)
        z_section = rans.encode(latents.symbols_z, indexes_z, coding.tables_z, seal=low)
        y_section = rans.encode(latents.symbols_y, latents.indexes_y, coding.tables_y, seal=high)
        lap("entropy_coding")
        header = bitstream.Header(
            format_version=bitstream.FORMAT_VERSION,
            flags=coding.flags,
            fingerprint=self._bundle.fingerprint_of(self.task),
            width=self.width,
            task=self.task,
            quality=self.quality,
            image_size=size,
        )
        data = bitstream.pack(header, z_section, y_section)
        lap("pack")
        return data

    def __repr__(self) -> str:
        return (
            f"Encoder(width={self.width}, task={self.task!r}, quality={self.quality}, "
            f"model={self.model!r}, backend={self._backend!r})"
        )


class Decoder(_Codec):
    """Turns streams into images; width, task and quality come from the stream.

    Args:
        model, backend, device, dtype, tile: as for `Encoder`.
        max_pixels: refuse streams that claim larger images, before anything is allocated.

    Raises:
        As for `Encoder`.
    """

    def __init__(
        self,
        model: str | Path | CodecBundle = DEFAULT_BUNDLE,
        backend: str = "auto",
        device: str = "auto",
        *,
        dtype: str = "auto",
        max_pixels: int = bitstream.DEFAULT_MAX_PIXELS,
        tile: int = tiles.DEFAULT_TILE,
    ) -> None:
        super().__init__(model, backend, device, dtype, max_pixels, tile)

    def decode(self, data: Buffer, *, progress: Progress | None = None) -> NDArray[np.uint8]:
        """Decode one stream to uint8 ``(H, W, 3)``.

        Args:
            data: the stream, as bytes, bytearray or memoryview.
            progress: as for `Encoder.encode`.

        Raises:
            BitstreamError: truncated, altered, of another version, or larger than ``max_pixels``.
            ModelMismatchError: made by another bundle than this decoder's.
            OptionError: the stream holds features and no image.
        """
        stream, coding = self._parse(data, self._backend.check_image)
        tiling = self._tiling(stream.header)
        symbols_z, symbols_y, prediction = self._symbols(stream, coding, tiling)
        if tiling is not None:
            prediction = _UNKNOWN  # indexes of a large image, half as large as its picture
        return self._picture(
            stream.header, coding, tiling, symbols_z, symbols_y, prediction, progress
        )

    def decode_partial(self, data: Buffer, *, progress: Progress | None = None) -> PartialPicture:
        """Decode what there is of a stream that was cut: the symbols that arrived are the
        stream's, the others are taken as predicted. With a cut are lost the symbols behind it and,
        of those before it, the values outside of their tables, which stand at the end.

        A cut stream has lost its checksums: that what is there was not altered is for the caller to
        know. One that is all there is checked and decoded as by `decode`.

        Args:
            data: the beginning of a stream, with all of its hyper-latent.
            progress: as for `Encoder.encode`.

        Raises:
            BitstreamError: nothing can be decoded, as the cut lies before the latent; or what is
                there, or a stream that is all there, is damaged. Otherwise as `decode`.
        """
        stream, missing = bitstream.parse_beginning(data, max_pixels=self.max_pixels)
        header = stream.header
        coding = self._coding_of(header)
        self._backend.check_image(header.width, header.task)
        tiling = self._tiling(header)
        if missing:
            symbols_z, prediction, _ = self._hyper_symbols(stream, coding, tiling)
            symbols_y, known = rans.decode_beginning(
                stream.y_section, prediction.indexes, coding.tables_y
            )
        else:
            symbols_z, symbols_y, prediction = self._symbols(stream, coding, tiling)
            known = np.ones(symbols_y.shape, np.bool_)
        fraction = float(known.mean())
        reach = tiles.reach_of(self._bundle, header.width, header.task)
        exact = tiles.exact_squares(np.asarray(known.all(-1)), reach)
        whole = int(np.logical_and.accumulate(exact.all(1)).sum())
        rows = min(header.image_size[0], whole * coding.latent_stride)
        if tiling is not None:
            prediction = _UNKNOWN  # as in `decode`
        del known
        image = self._picture(header, coding, tiling, symbols_z, symbols_y, prediction, progress)
        return PartialPicture(image, exact, rows, fraction, header)

    def decode_detailed(self, data: Buffer, *, progress: Progress | None = None) -> DecodeReport:
        """`decode` with the time of each stage. Raises as it does."""
        watch = stopwatch()
        with measured_by(watch):
            image = self.decode(data, progress=progress)
        return DecodeReport(image, watch.times)

    def features(self, data: Buffer) -> dict[str, NDArray[np.float32]]:
        """Intermediate features of a vision network, for streams that hold some.

        Returns:
            float32 ``(C, H', W')`` by name; of the slimmable codecs ``fea``, YOLOv3's feature of
            256 channels at stride 8, of ``(ceil(H / 8), ceil(W / 8))`` positions.

        Raises:
            OptionError: the bundle has no feature head for such streams; otherwise as `decode`.
        """
        stream, coding = self._parse(data, self._backend.check_features)
        header = stream.header
        y_hat = self._latents(stream, coding).y_hat
        found = self._backend.features(y_hat, header.width, header.task, header.image_size)
        lap("g_s")
        return found

    def latents(self, data: Buffer) -> DecodedLatents:
        """The decoded latents of a stream, without drawing the picture. Raises as `decode`."""
        stream, coding = self._parse(data)
        return self._latents(stream, coding)

    def _parse(
        self, data: Buffer, check: Callable[..., None] | None = None
    ) -> tuple[bitstream.Stream, Coding]:
        """A stream of this bundle's and its coding; ``check`` says before decoding if what is
        wanted cannot be had.
        """
        stream = bitstream.parse(data, max_pixels=self.max_pixels)
        coding = self._coding_of(stream.header)
        if check is not None:
            check(stream.header.width, stream.header.task)
        lap("parse")
        return stream, coding

    def _tiling(self, header: bitstream.Header) -> tiles.Tiling | None:
        place = header.width, header.task, header.image_size
        return tiles.plan(self._bundle, *place, self.tile, BitstreamError)

    def _latents(self, stream: bitstream.Stream, coding: Coding) -> DecodedLatents:
        header = stream.header
        tiling = self._tiling(header)
        symbols_z, symbols_y, prediction = self._symbols(stream, coding, tiling)
        if tiling is None:
            y_hat = coding.dequantize(symbols_y, prediction)
        else:
            size = header.image_size
            y_hat = tiles.dequantize(coding, symbols_z, symbols_y, size, tiling)
        lap("dequantize")
        return DecodedLatents(y_hat, symbols_z, symbols_y, prediction.indexes, header)

    def _symbols(
        self, stream: bitstream.Stream, coding: Coding, tiling: tiles.Tiling | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], Prediction]:
        """Symbols of z and y and what z tells of y, by tiles without the means; compared with the
        encoder's checksum.
        """
        symbols_z, prediction, low = self._hyper_symbols(stream, coding, tiling)
        symbols_y, high = rans.decode_sealed(stream.y_section, prediction.indexes, coding.tables_y)
        found = _seals(Latents(symbols_z, symbols_y, prediction), coding)
        if found != (low, high):
            raise BitstreamError(
                f"decoded latents have checksum 0x{found[1]:04x}{found[0]:04x}, the encoder's had "
                f"0x{high:04x}{low:04x}: this decoder disagrees with the encoder; "
                "report it with both versions of icmh_rt"
            )
        lap("entropy_decoding")
        return symbols_z, symbols_y, prediction

    def _hyper_symbols(
        self, stream: bitstream.Stream, coding: Coding, tiling: tiles.Tiling | None
    ) -> tuple[NDArray[np.int32], Prediction, int]:
        """Symbols of z, what they tell of y, and the seal of their section."""
        size = stream.header.image_size
        indexes_z = coding.indexes_z(size)
        symbols_z, low = rans.decode_sealed(stream.z_section, indexes_z, coding.tables_z)
        lap("entropy_decoding")
        if tiling is None:
            prediction = coding.predict(symbols_z, size)
        else:
            prediction = tiles.predict_indexes(coding, symbols_z, size, tiling)
        lap("h_s")
        return symbols_z, prediction, low

    def _picture(
        self,
        header: bitstream.Header,
        coding: Coding,
        tiling: tiles.Tiling | None,
        symbols_z: NDArray[np.int32],
        symbols_y: NDArray[np.int32],
        prediction: Prediction,
        progress: Progress | None,
    ) -> NDArray[np.uint8]:
        """g_s of decoded symbols; by tiles the prediction is made anew."""
        place = header.width, header.task, header.image_size
        if tiling is not None:
            return tiles.synthesis(
                self._backend, coding, symbols_z, symbols_y, *place, tiling, progress
            )
        y_hat = coding.dequantize(symbols_y, prediction)
        lap("dequantize")
        image = self._backend.synthesis(y_hat, *place)
        lap("g_s")
        return image

    def _coding_of(self, header: bitstream.Header) -> Coding:
        """Refuse streams of another bundle, naming both sides."""
        bundle = self._bundle
        ours = bundle.fingerprint_of(header.task)
        if header.fingerprint != ours:
            raise ModelMismatchError(
                f"stream was made with bundle {header.fingerprint}, this decoder has {ours} "
                f"({bundle.name!r}): load the stream's bundle with model=..."
            )
        try:
            bundle.task(header.task)
            coding = self._backend.coding(header.width, header.quality)
        except OptionError as error:
            raise BitstreamError(f"stream cannot be decoded: {error}") from None
        if header.flags != coding.flags:
            raise BitstreamError(
                f"stream has flags 0x{header.flags:02x}, those of bundle {bundle.name!r} have "
                f"0x{coding.flags:02x}: it is not what an encoder makes"
            )
        return coding

    def __repr__(self) -> str:
        return f"Decoder(model={self.model!r}, backend={self._backend!r})"


_TOGETHER = 2  # images; with three, each takes as long again
_UNKNOWN = Prediction(None, np.empty((0, 0, 0), np.uint8))


def _whole(name: str, value: Any, low: int, high: int | None) -> int:
    allowed = (
        f"a whole number of at least {low}" if high is None else f"a whole number {low} to {high}"
    )
    try:
        # 50.0, as JSON and arithmetic give it, is a whole number; 50.5 is not.
        whole = isinstance(value, float) and value.is_integer()
        number = operator.index(int(value) if whole else value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < low or (high and number > high):
        raise OptionError(f"{name} is {value!r}: it must be {allowed}")
    return number


def _seals(latents: Latents, coding: Coding) -> tuple[int, int]:
    """What seals the sections of z and y: low and high half of the latents' checksum, a CRC-32C.

    A section without symbols has no room for a seal.
    """
    value = 0
    for array in coding.checked(latents.symbols_z, latents.symbols_y, latents.prediction):
        value = _native.crc32c(array, value)
    return value & 0xFFFF if latents.symbols_z.size else 0, value >> 16
