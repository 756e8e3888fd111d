"""What make_streams.py and tests/reliability/test_golden_streams.py share: the corpus, its bundles,
and decoding down to the latents without any backend.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from icmh_rt import bundle as bundles
from icmh_rt import codec
from icmh_rt.backends.base import Backend
from icmh_rt.bundle import CodecBundle
from icmh_rt.codec import DecodedLatents, Decoder

FOLDER = Path(__file__).resolve().parent
STREAMS = FOLDER / "streams.json"
BUNDLES = FOLDER / "bundles.zip"
"""Bundles of a few kilobytes, so that the corpus outlives the installed one."""

INSTALLED = "default"


@dataclass(frozen=True)
class Golden:
    """A stream that every version decodes.

    bundle: a folder in `BUNDLES`, or `INSTALLED` · made_by: the backend that encoded it · latents:
    `digest` of what it decodes to · stream: base64.
    """

    bundle: str
    task: str
    width: float
    quality: int
    image_size: tuple[int, int]
    made_by: str
    latents: str
    stream: str

    @property
    def name(self) -> str:
        size = "x".join(map(str, self.image_size))
        return f"{self.bundle}-{self.task}-{self.width}-q{self.quality}-{size}"

    @property
    def data(self) -> bytes:
        return base64.b64decode(self.stream)


def read() -> list[Golden]:
    """The corpus."""
    found = json.loads(STREAMS.read_text())
    return [Golden(**{**entry, "image_size": tuple(entry["image_size"])}) for entry in found]


def write(entries: list[Golden]) -> None:
    """One line a stream, so that a change shows as one."""
    lines = ",\n".join(json.dumps(asdict(entry)) for entry in entries)
    STREAMS.write_text(f"[\n{lines}\n]\n")


def unpack_bundles(folder: Path) -> Path:
    """Extract the corpus' own bundles."""
    with zipfile.ZipFile(io.BytesIO(BUNDLES.read_bytes())) as archive:
        archive.extractall(folder)
    return folder


def model_of(entry: Golden, unpacked: Path) -> str | Path:
    """What `Decoder` takes for an entry's bundle."""
    return INSTALLED if entry.bundle == INSTALLED else unpacked / entry.bundle


def digest(latents: DecodedLatents) -> str:
    """SHA-256 over the symbols, the scale indexes and the dequantized latent, with their shapes."""
    found = hashlib.sha256()
    for array, dtype in (
        (latents.symbols_z, "<i4"),
        (latents.symbols_y, "<i4"),
        (latents.indexes_y, "<u2"),
        (latents.y_hat, "<f4"),
    ):
        found.update(str(array.shape).encode())
        found.update(np.ascontiguousarray(array, dtype).tobytes())
    return found.hexdigest()


class LatentsOnly(Backend):
    """A backend without transforms: latents need none, and then not even torch."""

    name, device = "none", "cpu"

    def analysis(self, image, width, task):
        raise NotImplementedError

    def synthesis(self, y_hat, width, task, image_size):
        raise NotImplementedError


def latents_decoder(bundle: CodecBundle) -> Decoder:
    """A decoder for `Decoder.latents` alone."""
    with mock.patch.object(codec, "create", lambda *_: LatentsOnly(bundle)):
        return Decoder(bundle)


def digests(unpacked: Path, threads: int = 1) -> dict[str, str]:
    """What every stream of the corpus decodes to here, by name, without a backend."""
    import icmh_rt

    icmh_rt.set_num_threads(threads)
    decoders: dict[str, Decoder] = {}
    found = {}
    for entry in read():
        if entry.bundle not in decoders:
            loaded = bundles.load(model_of(entry, unpacked))
            decoders[entry.bundle] = latents_decoder(loaded)
        found[entry.name] = digest(decoders[entry.bundle].latents(entry.data))
    return found
