"""The main job: one photograph, encoded and decoded at all four widths.

Prints the bytes, bits per pixel, PSNR and times of every width and writes the streams and the
reconstructions. Run `python examples/quickstart.py --help` for its options.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

import icmh_rt
from icmh_rt.images import load_image, save_image

WIDTHS = (0.25, 0.5, 0.75, 1.0)
PHOTOGRAPH = Path(__file__).resolve().parent / "kodim23.png"


def psnr(original: np.ndarray, decoded: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all samples of two uint8 arrays of equal shape."""
    error = np.mean((original.astype(np.float64) - decoded) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def main() -> int:
    parser = argparse.ArgumentParser(description="Encode and decode one image at all four widths.")
    parser.add_argument("image", nargs="?", default=str(PHOTOGRAPH), help="default: %(default)s")
    parser.add_argument("--quality", type=int, default=50, help="1..100 (default: %(default)s)")
    parser.add_argument("--output", default="out", help="folder for results (default: %(default)s)")
    parser.add_argument("--backend", default="auto", help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="default: %(default)s")
    options = parser.parse_args()

    pixels = load_image(options.image)
    height, width = pixels.shape[:2]
    folder, stem = Path(options.output), Path(options.image).stem
    folder.mkdir(parents=True, exist_ok=True)
    where = {"backend": options.backend, "device": options.device}
    decoder = icmh_rt.Decoder(**where)
    print(f"{options.image}: {width}x{height}, quality {options.quality}, {decoder!r}")
    print(f"{'width':>5} {'bytes':>9} {'bpp':>7} {'PSNR dB':>8} {'encode s':>9} {'decode s':>9}")
    for multiplier in WIDTHS:
        encoder = icmh_rt.Encoder(width=multiplier, quality=options.quality, **where)
        # Once unmeasured: the first call of a width pays for memory and lazy initialisation.
        decoder.decode(encoder.encode(pixels))
        started = time.perf_counter()
        data = encoder.encode(pixels)
        encoded = time.perf_counter()
        decoded = decoder.decode(data)
        finished = time.perf_counter()
        name = folder / f"{stem}_w{multiplier:.2f}_q{options.quality}"
        name.with_name(name.name + ".icmh").write_bytes(data)
        save_image(decoded, name.with_name(name.name + ".png"))
        print(
            f"{multiplier:5.2f} {len(data):9,} {8 * len(data) / (height * width):7.3f} "
            f"{psnr(pixels, decoded):8.2f} {encoded - started:9.3f} {finished - encoded:9.3f}"
        )
    print(f"streams and reconstructions: {folder.resolve()}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (icmh_rt.IcmhError, OSError) as error:
        sys.exit(f"quickstart: error: {error}")
