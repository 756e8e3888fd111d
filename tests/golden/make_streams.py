"""Add what is missing to streams.json: `make_streams.py [--bundles] [--drop TASK]`.

The corpus holds streams of version 1 and a hash of the latents that each decodes to. An entry that
is there is never changed: it is decoded, and must give the latents that it says. What is added is
one stream for every width, some qualities and odd sizes of every task that a bundle has, made by
the backends in turn.

--bundles makes the corpus' own small bundles (bundles.zip) first, and only where there are none.
--drop TASK forgets the installed bundle's streams of a task whose adapters were replaced before
they were ever released. There is no other reason to forget a stream.
"""

from __future__ import annotations

import argparse
import base64
import sys
import tempfile
import zipfile
from pathlib import Path

import golden_streams
import numpy as np
from golden_streams import BUNDLES, INSTALLED, STREAMS, Golden

import icmh_rt
from icmh_rt import bundle as bundles

sys.path[:0] = [
    str(golden_streams.FOLDER.parent),
    str(golden_streams.FOLDER.parent / "reliability"),
]

SMALL, PUBLISHED = "small", "mbt2018-mean"
SIZES = ((1, 1), (33, 17), (50, 70))
QUALITIES = (1, 50, 100)
LARGE = (131, 97)
"""Of one stream a bundle: several lanes of the entropy coder."""


def picture(height: int, width: int) -> np.ndarray:
    """Edges, gradients and texture from integers alone."""
    y, x = np.mgrid[:height, :width]
    red = (x * 255) // max(width - 1, 1)
    green = ((x // 7 + y // 5) % 2) * 160 + (y * 60) // height
    blue = (x * x + 3 * y * y + x * y) % 251
    return np.stack([red, green, blue], -1).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundles", action="store_true")
    parser.add_argument("--drop", metavar="TASK")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder)
        if arguments.bundles and not BUNDLES.exists():
            _make_bundles(unpacked / "new")
        golden_streams.unpack_bundles(unpacked)
        entries = golden_streams.read() if STREAMS.exists() else []
        entries = [e for e in entries if not (e.bundle == INSTALLED and e.task == arguments.drop)]
        golden_streams.write(entries)
        for name, found in golden_streams.digests(unpacked).items():
            expected = next(e.latents for e in entries if e.name == name)
            if found != expected:
                sys.exit(f"{name} decodes to other latents than it did: nothing was written")
        added = [e for name in _bundle_names(unpacked) for e in _missing(name, unpacked, entries)]
        golden_streams.write(entries + added)
    print(f"{len(added)} streams added to {len(entries)}; {STREAMS.stat().st_size} bytes")


def _bundle_names(unpacked: Path) -> list[str]:
    return [INSTALLED, *sorted(p.parent.name for p in unpacked.glob(f"*/{bundles.MANIFEST}"))]


def _missing(bundle: str, unpacked: Path, entries: list[Golden]) -> list[Golden]:
    model = INSTALLED if bundle == INSTALLED else unpacked / bundle
    loaded = bundles.load(model)
    have = {entry.name for entry in entries}
    decoder = golden_streams.latents_decoder(loaded)
    backends = ["torch"]
    if bundle == INSTALLED:
        backends.append("onnxruntime")
    added = []
    for number, (task, width, quality, size) in enumerate(_cases(loaded)):
        made_by = backends[number % len(backends)]
        entry = Golden(bundle, task, width, quality, size, made_by, "", "")
        if entry.name in have:
            continue
        encoder = icmh_rt.Encoder(width, task, quality, model, made_by, "cpu")
        data = encoder.encode(picture(*size))
        added.append(
            Golden(
                bundle,
                task,
                width,
                quality,
                size,
                made_by,
                golden_streams.digest(decoder.latents(data)),
                base64.b64encode(data).decode(),
            )
        )
    return added


def _cases(bundle: bundles.CodecBundle) -> list[tuple[str, float, int, tuple[int, int]]]:
    qualities = getattr(bundle, "qualities", QUALITIES)
    cases = []
    for task in bundle.tasks:
        for index, width in enumerate(bundle.widths):
            for quality in qualities:
                # Adapters change the transforms and nothing that decoding depends on: fewer.
                sizes = SIZES if task == "human" else [SIZES[(index + quality) % len(SIZES)]]
                cases += [(task, width, quality, size) for size in sizes]
    # Padding to 64 or 256 pixels makes every size a large one.
    large = LARGE if bundle.name != PUBLISHED else SIZES[-1]
    cases.append(("human", max(bundle.widths), qualities[len(qualities) // 2], large))
    return list(dict.fromkeys(cases))


def _make_bundles(folder: Path) -> None:
    import published_models
    import small_bundle

    from icmh_rt.convert import bundle_of

    small_bundle.write(folder / SMALL)
    bundle_of(published_models.make(PUBLISHED), name=PUBLISHED).save(folder / PUBLISHED)
    with zipfile.ZipFile(BUNDLES, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, path.read_bytes())


if __name__ == "__main__":
    main()
