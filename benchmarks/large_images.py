"""Claim: a 16384x16384 picture is encoded and decoded within 4 GB of memory, the picture included.

    python benchmarks/large_images.py [--size HxW] [--widths W,W] [--threads N] [--backend B]
        [--json F] [--markdown F]

Every operation runs in a process of its own, from a file to a file, as `icmh encode` and
`icmh decode` run it, on a photograph that is repeated with other brightness and grain. Reported are
the seconds and the most resident memory, of which Python and its libraries take the first column.
At 4096x3072, where there is room for the whole picture, streams and pictures of both ways are
compared byte by byte. Exit code 1 if a byte differs or the memory is above 4 GB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from command import run, set_threads

BAR = 4.0e9
EQUAL_SIZE = (3072, 4096)
PHOTO = Path(__file__).resolve().parents[1] / "examples" / "kodim23.png"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    set_threads(options.threads)
    if options.child:
        print(json.dumps(_child(**json.loads(options.child))))
        return 0
    return run("large_images", _measure, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="16384x16384", help="height x width")
    parser.add_argument("--widths", default="0.25,1.0")
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--json", help="write what was found to this file")
    parser.add_argument("--markdown", help="write it as a page to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def _measure(options: argparse.Namespace) -> int:
    from icmh_rt.evaluation.results import provenance, write_text

    size = tuple(int(side) for side in options.size.split("x"))
    common = {"threads": options.threads, "backend": options.backend}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for width in options.widths.split(","):
            setting = {**common, "width": float(width), "folder": folder}
            same = _same(folder, setting)
            _write(Path(folder) / "in.ppm", size)
            row: dict[str, Any] = {"width": float(width), "size": size, "same": same}
            row["encode"] = _in_child({**setting, "operation": "encode"})
            (Path(folder) / "in.ppm").unlink()
            row["decode"] = _in_child({**setting, "operation": "decode"})
            rows.append(row)
            print(table([row]), flush=True)
    command = f"python benchmarks/large_images.py --size {options.size} --threads {options.threads}"
    document = {"provenance": provenance(command), **common, "rows": rows}
    if options.json:
        write_text(json.dumps(document, indent=1) + "\n", options.json)
    if options.markdown:
        write_text(page(document), options.markdown)
    return 0 if all(_passes(row) for row in rows) else 1


def _passes(row: dict[str, Any]) -> bool:
    peaks = [row[operation]["peak"] for operation in ("encode", "decode")]
    return row["same"] and max(peaks) <= BAR


def _same(folder: str, setting: dict[str, Any]) -> bool:
    """Whether tiles and the whole give the same stream and picture."""
    _write(Path(folder) / "in.ppm", EQUAL_SIZE)
    found = []
    for tile in (0, 1024):
        part = {**setting, "tile": tile}
        encoded = _in_child({**part, "operation": "encode"})
        decoded = _in_child({**part, "operation": "decode"})
        found.append((encoded["digest"], decoded["digest"]))
    return found[0] == found[1]


def _in_child(setting: dict[str, Any]) -> dict[str, Any]:
    threads = ["--threads", str(setting["threads"])]
    command = [sys.executable, __file__, *threads, "--child", json.dumps(setting)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{setting['operation']} failed: {result.stderr.strip()[-500:]}")
    return json.loads(result.stdout.splitlines()[-1])


def _child(
    operation: str,
    folder: str,
    width: float,
    threads: int,  # set by `main`, before anything was loaded
    backend: str,
    tile: int | None = None,
) -> dict[str, Any]:
    """One operation; what it took."""
    import icmh_rt
    from icmh_rt.images import save_image
    from icmh_rt.profiling.memory import peak_bytes

    options: dict[str, Any] = {"backend": backend, "device": "cpu"}
    if tile is not None:
        options["tile"] = tile
    source, stream, out = (Path(folder) / name for name in ("in.ppm", "s.icmh", "out.ppm"))
    small = np.zeros((64, 64, 3), np.uint8)
    encoder = icmh_rt.Encoder(width, **options)
    decoder = icmh_rt.Decoder(**options)
    decoder.decode(encoder.encode(small))
    base = peak_bytes()
    started = time.perf_counter()
    if operation == "encode":
        stream.write_bytes(encoder.encode(source))
    else:
        save_image(decoder.decode(stream.read_bytes()), out)
    seconds = time.perf_counter() - started
    return {
        "seconds": round(seconds, 2),
        "base": base,
        "peak": peak_bytes(),
        "bytes": stream.stat().st_size,
        "digest": _digest(stream if operation == "encode" else out),
    }


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write(path: Path, size: tuple[int, int]) -> None:
    """A picture of this size as PPM, a band at a time."""
    from PIL import Image

    photo = np.asarray(Image.open(PHOTO).convert("RGB")).astype(np.int16)
    height, width = size
    generator = np.random.default_rng(0)
    with open(path, "wb") as file:
        file.write(b"P6 %d %d 255\n" % (width, height))
        for top in range(0, height, photo.shape[0]):
            parts = [
                photo[:, :: 1 - 2 * (top // photo.shape[0] % 2)] + generator.integers(-30, 31)
                for _ in range(-(-width // photo.shape[1]))
            ]
            band = np.concatenate(parts, 1)[: height - top, :width]
            band = band + generator.integers(-3, 4, band.shape, np.int8)
            file.write(band.clip(0, 255).astype(np.uint8).tobytes())


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| width | picture | stream, MB | libraries, GB | encode: peak, GB | s "
        "| decode: peak, GB | s | equal to untiled at 4096x3072 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        encode, decode = row["encode"], row["decode"]
        height, width = row["size"]
        lines.append(
            f"| {row['width']} | {width}x{height} | {encode['bytes'] / 1e6:.1f} "
            f"| {encode['base'] / 1e9:.2f} | {encode['peak'] / 1e9:.2f} | {encode['seconds']:.0f} "
            f"| {decode['peak'] / 1e9:.2f} | {decode['seconds']:.0f} "
            f"| {'yes' if row['same'] else 'NO'} |"
        )
    return "\n".join(lines)


def page(document: dict[str, Any]) -> str:
    from icmh_rt.evaluation.report import page_head

    met = all(_passes(row) for row in document["rows"])
    lines = page_head("Large images", document["provenance"])
    lines += [
        "From a PPM file to a stream and back to a PPM file, each in a process of its own; GB are "
        "10^9 bytes, the picture has 0.81 of them where it is 16384x16384.",
        "",
        table(document["rows"]),
        "",
        f"The bar of {BAR / 1e9:.1f} GB and equal bytes is {'met' if met else 'missed'}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
