"""What the Python fuzzer runs: each target takes any bytes, and only a bug lets an exception out.

    stream     containers: any bytes, and any fields and sections under a right checksum, parsed and
               decoded down to the latents
    parts      bundle manifests, metadata of adapter and feature head files: any JSON, under a right
               fingerprint
    tensors    the files themselves: weights, adapters, feature heads
    images     image files
    rans       the entropy coder's Python face

`Targets(folder)` keeps its files below ``folder``. tests/fuzz/README.md tells how to run them.
"""

from __future__ import annotations

import io
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import icmh_rt
from icmh_rt import _native, adapter_files, bitstream, bundle, feature_files, images, rans
from icmh_rt.errors import BitstreamError, BundleError, IcmhError, ImageError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reliability"))
import small_bundle

MAX_PIXELS = 2**14
"""So that an input takes a millisecond."""


class Targets:
    """The targets by name, with the small bundle that they are about."""

    def __init__(self, folder: Path) -> None:
        self.folder = small_bundle.write(folder / "bundle")
        self.scratch = folder / "scratch"
        self.decoder = icmh_rt.Decoder(
            self.folder, backend="torch", device="cpu", max_pixels=MAX_PIXELS
        )
        self._bundle = bundle.load(self.folder)
        self._prints = [bytes.fromhex(self._bundle.fingerprint_of(t)) for t in self._bundle.tasks]
        self._manifest = json.loads((self.folder / bundle.MANIFEST).read_text())
        self._weights = (self.folder / bundle.WEIGHTS).read_bytes()
        self._parts = {
            "adapters": (self.folder / "adapters" / "detection.safetensors").read_bytes(),
            "features": (self.folder / "features" / "detection.safetensors").read_bytes(),
        }
        self._tables = self._bundle.tables
        self._rows = (np.arange(4096) % self._tables.num_tables).astype(np.uint8)
        self.all: dict[str, Callable[[bytes], None]] = {
            "stream": self.stream,
            "parts": self.parts,
            "tensors": self.tensors,
            "images": self.images,
            "rans": self.rans,
        }

    # -- streams ---------------------------------------------------------------------------------

    def stream(self, data: bytes) -> None:
        """First byte: 0 mod 3 raw bytes; 1 a container whose checksum is mended; 2 fields and
        sections that fit this bundle.
        """
        kind, rest = (data[0] % 3, data[1:]) if data else (0, b"")
        if kind == 1 and len(rest) >= 4:
            rest = rest[:-4] + struct.pack("<I", _native.crc32c(rest[:-4]))
        elif kind == 2:
            rest = self._fitting(rest)
        try:
            stream = bitstream.parse(rest, max_pixels=MAX_PIXELS)
        except BitstreamError as error:
            _one_line(error)
            return
        if bitstream.pack(stream.header, stream.z_section, stream.y_section) != rest:
            raise AssertionError("a stream has two encodings")
        try:
            latents = self.decoder.latents(rest)
        except IcmhError as error:
            _one_line(error)
            return
        height, width = stream.header.image_size
        if latents.y_hat.shape[:2] != (-(-height // 16), -(-width // 16)):
            raise AssertionError(f"latents {latents.y_hat.shape} of {height}x{width} pixels")
        if not np.isfinite(latents.y_hat).all():
            raise AssertionError("latents that are not finite")

    def _fitting(self, rest: bytes) -> bytes:
        if len(rest) < 6:
            return rest
        which, quality, height, width, cut, flags = rest[:6]
        task = which % len(self._prints)
        task_id = bitstream.TASKS.index(self._bundle.tasks[task])
        fields = struct.pack(
            "<4sBB4sBBB",
            bitstream.MAGIC,
            1,
            flags & 1,
            self._prints[task],
            50 if which & 64 else 100,
            task_id,
            quality % 101,
        )
        body = rest[6:]
        cut = min(cut, len(body))
        sizes = b"".join(map(bitstream._varint, (height + 1, width + 1, cut, len(body) - cut)))
        whole = fields + sizes + body
        return whole + struct.pack("<I", _native.crc32c(whole))

    def rans(self, data: bytes) -> None:
        """Two bytes: how many symbols; the rest: a stream."""
        count = int.from_bytes(data[:2], "little") % len(self._rows)
        try:
            symbols = rans.decode(data[2:], self._rows[:count], self._tables)
        except BitstreamError as error:
            _one_line(error)
            return
        again = rans.encode(symbols, self._rows[:count], self._tables)
        if not np.array_equal(rans.decode(again, self._rows[:count], self._tables), symbols):
            raise AssertionError("symbols do not survive")

    # -- bundles ---------------------------------------------------------------------------------

    def parts(self, data: bytes) -> None:
        """First byte: which description; the rest: its JSON."""
        which, text = (data[0] % 3, data[1:]) if data else (0, b"")
        if which == 0:
            self._load_manifest(text)
            return
        part = ("adapters", "features")[which - 1]
        name = (adapter_files.METADATA, feature_files.METADATA)[which - 1]
        whole = self._parts[part]
        length = int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8 : 8 + length])
        header["__metadata__"] = {name: text.decode("utf-8", "replace")}
        new = json.dumps(header).encode()
        self._read_part(part, len(new).to_bytes(8, "little") + new + whole[8 + length :])

    def tensors(self, data: bytes) -> None:
        """First byte: which file; the rest: its bytes."""
        which, rest = (data[0] % 3, data[1:]) if data else (0, b"")
        if which == 0:
            self._load_folder(self._manifest, rest)
        else:
            self._read_part(("adapters", "features")[which - 1], rest)

    def _load_manifest(self, text: bytes) -> None:
        try:
            manifest = json.loads(text)
            manifest["fingerprint"] = bundle._fingerprint(manifest, self._weights)
        except (ValueError, TypeError, AttributeError, RecursionError):
            self._load_folder(text, self._weights)
        else:
            self._load_folder(manifest, self._weights)

    def _load_folder(self, manifest: dict | bytes, weights: bytes) -> None:
        self.scratch.mkdir(exist_ok=True)
        if isinstance(manifest, dict):
            found = bundle._fingerprint(manifest, weights)
            manifest = json.dumps({**manifest, "fingerprint": found}).encode()
        (self.scratch / bundle.MANIFEST).write_bytes(manifest)
        (self.scratch / bundle.WEIGHTS).write_bytes(weights)
        try:
            loaded = bundle._load(self.scratch)
            icmh_rt.Decoder(loaded, backend="torch", device="cpu")
        except IcmhError as error:
            _one_line(error)

    def _read_part(self, part: str, data: bytes) -> None:
        self.scratch.mkdir(exist_ok=True)
        path = self.scratch / f"{part}.safetensors"
        path.write_bytes(data)
        try:
            if part == "adapters":
                bundle.with_adapters(bundle.replace(self._bundle, tasks=("human",)), [path])
            else:
                bundle.with_feature_heads(self._bundle, [path])
        except BundleError as error:
            _one_line(error)

    # -- images ----------------------------------------------------------------------------------

    def images(self, data: bytes) -> None:
        """A file's bytes."""
        self.scratch.mkdir(exist_ok=True)
        path = self.scratch / "image"
        path.write_bytes(data)
        try:
            pixels = images.load_image(path, max_pixels=MAX_PIXELS)
        except ImageError as error:
            _one_line(error)
            return
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise AssertionError(f"an image of {pixels.dtype} {pixels.shape}")

    # -- where to begin --------------------------------------------------------------------------

    def seeds(self, target: str) -> list[bytes]:
        """Inputs that get far."""
        if target in ("stream", "rans"):
            return self._stream_seeds(target)
        if target == "parts":
            manifest = (self.folder / bundle.MANIFEST).read_bytes()
            found = [b"\0" + manifest]
            for code, (part, name) in enumerate(
                (("adapters", adapter_files.METADATA), ("features", feature_files.METADATA)), 1
            ):
                whole = self._parts[part]
                header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
                found.append(bytes([code]) + header["__metadata__"][name].encode())
            return found
        if target == "tensors":
            return [b"\1" + self._parts["adapters"], b"\2" + self._parts["features"]]
        from PIL import Image

        rng = np.random.default_rng(1)
        picture = Image.fromarray(rng.integers(0, 255, (9, 13, 3), dtype=np.uint8))
        found = []
        for image_format in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "TGA", "PCX"):
            for mode in ("RGB", "L", "P"):
                file = io.BytesIO()
                try:
                    picture.convert(mode).save(file, image_format)
                except OSError:
                    continue
                found.append(file.getvalue())
        return found

    def _stream_seeds(self, target: str) -> list[bytes]:
        found = []
        rng = np.random.default_rng(1)
        for width, task, size in (
            (0.5, "human", (5, 7)),
            (1.0, "human", (40, 70)),
            (0.5, "detection", (17, 33)),
        ):
            encoder = icmh_rt.Encoder(width, task, model=self.folder, backend="torch", device="cpu")
            data = encoder.encode(rng.integers(0, 255, (*size, 3), dtype=np.uint8))
            parsed = bitstream.parse(data)
            if target == "rans":
                found.append(struct.pack("<H", 100) + parsed.z_section)
                continue
            found += [b"\0" + data, b"\1" + data]
            which = self._bundle.tasks.index(task) + (64 if width == 0.5 else 0)
            fields = (which, 50, size[0] - 1, size[1] - 1, len(parsed.z_section), 0)
            found.append(b"\2" + bytes(fields) + parsed.z_section + parsed.y_section)
        return found


def _one_line(error: Exception) -> None:
    text = str(error)
    if not text or "\n" in text or len(text) > 2000:
        raise AssertionError(f"not one line: {text[:3000]!r}") from error


__all__ = ["MAX_PIXELS", "Targets"]
