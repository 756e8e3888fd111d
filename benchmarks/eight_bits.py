"""Figures, not a claim: the rate that eight-bit products in g_a and g_s cost.

    python benchmarks/eight_bits.py --data DIR --calibration DIR [--json F] [--markdown F]

Encodes and decodes every image of a folder with the graphs of `icmh export onnx` in single
precision and with `--eight-bits int8` and `fp8`, run by onnxruntime, which computes with the values
that eight bits can hold. Bytes are those of the entropy-coded symbols, without headers. Prints the
BD-rate of each against single precision, for both sides and for the encoder alone (pictures then
come from g_s in single precision). Exit code 2 if it could not run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from icmh_rt._files import replace_file
from icmh_rt.errors import IcmhError

QUALITIES = (10, 30, 50, 70, 90, 100)
KINDS = ("int8", "fp8")
SCHEMA, SCHEMA_VERSION = "icmh_rt.eight_bits", 1
# Encoder and decoder of what is measured.
PAIRS = (("fp32", "fp32"), *((k, k) for k in KINDS), *((k, "fp32") for k in KINDS))


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except IcmhError as error:
        print(f"eight_bits: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="images to measure on")
    parser.add_argument(
        "--calibration", required=True, metavar="DIR", help="other images, to find the limits on"
    )
    parser.add_argument("--calibration-images", type=int, default=8, metavar="N")
    parser.add_argument("--images", type=int, metavar="N", help="the first N of --data only")
    parser.add_argument("--widths", default="0.25,0.5,0.75,1.0", metavar="W,...")
    parser.add_argument("--model", default="default")
    parser.add_argument("--json", metavar="F", help="write all figures")
    parser.add_argument("--markdown", metavar="F", help="write a page")
    return parser


def _run(options: argparse.Namespace) -> int:
    from icmh_rt import bundle
    from icmh_rt.evaluation.rd import find_images
    from icmh_rt.images import load_image

    codec = bundle.load(options.model)
    seen = find_images(options.calibration)
    seen = seen[:: max(1, len(seen) // options.calibration_images)][: options.calibration_images]
    paths = find_images(options.data)[: options.images]
    images = [load_image(path) for path in paths]
    calibration = [load_image(path) for path in seen]
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for width in map(float, options.widths.split(",")):
        curves[str(width)] = measure(codec, width, images, calibration)
        for line in table({str(width): curves[str(width)]})[2:]:
            print(line, flush=True)
    document = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "command": f"python benchmarks/eight_bits.py {' '.join(sys.argv[1:])}",
        "fingerprint": codec.fingerprint,
        "images": [path.name for path in paths],
        "calibration": [path.name for path in seen],
        "qualities": QUALITIES,
        "bits_per_pixel_and_psnr_db": curves,
    }
    if options.json:
        with replace_file(options.json) as file:
            file.write((json.dumps(document, indent=1) + "\n").encode())
    if options.markdown:
        with replace_file(options.markdown) as file:
            file.write(page(document).encode())
    return 0


def measure(
    codec: Any,
    width: float,
    images: Sequence[np.ndarray],
    calibration: Sequence[np.ndarray],
) -> dict[str, list[tuple[float, float]]]:
    """(bits per pixel, PSNR) at every quality, means over images, by encoder and decoder."""
    from icmh_rt import graphs, rans
    from icmh_rt.coding import coding_of
    from icmh_rt.export._calibration import calibrate
    from icmh_rt.export._references import session_of

    sessions = {}
    for kind in ("fp32", *KINDS):
        bits = None
        if kind != "fp32":
            bits = calibrate(codec, width, "human", kind, calibration)
        for role in ("analysis", "synthesis"):
            model = graphs.build(codec, role, width, eight_bits=bits)
            sessions[kind, role] = session_of(model)
    points: dict[str, list[list[tuple[float, float]]]] = {}
    for image in images:
        size = image.shape[:2]
        sides = {"height": np.array(size[0]), "width": np.array(size[1])}
        latents = {
            kind: sessions[kind, "analysis"].run(None, {"image": image[None]})
            for kind in ("fp32", *KINDS)
        }
        for encoder, decoder in PAIRS:
            of_image = []
            for quality in QUALITIES:
                y, z = latents[encoder]
                coding = coding_of(codec, width, quality)
                symbols_z = coding.quantize_hyper(z[0])
                prediction = coding.predict(symbols_z, size)
                symbols_y = coding.quantize(y[0], prediction)
                length = len(rans.encode(symbols_z, coding.indexes_z(size), coding.tables_z))
                length += len(rans.encode(symbols_y, prediction.indexes, coding.tables_y))
                y_hat = coding.dequantize(symbols_y, prediction)
                feed = {"y_hat": y_hat[None], **sides}
                picture = sessions[decoder, "synthesis"].run(None, feed)[0][0]
                error = np.mean((picture.astype(np.float64) - image) ** 2)
                of_image.append((8 * length / (size[0] * size[1]), 10 * np.log10(255**2 / error)))
            points.setdefault(f"{encoder}-{decoder}", []).append(of_image)
    return {
        pair: [tuple(map(float, point)) for point in np.mean(values, axis=0)]
        for pair, values in points.items()
    }


def table(curves: dict[str, dict[str, list[tuple[float, float]]]]) -> list[str]:
    """BD-rates against single precision, and the loss at both ends, as Markdown."""
    from icmh_rt.evaluation.bd import bd_rate

    lines = [
        "| width | encoder | decoder | BD-rate | at quality 10 | at quality 100 |",
        "|---|---|---|---|---|---|",
    ]
    for width, of_width in curves.items():
        anchor = of_width["fp32-fp32"]
        for pair, points in of_width.items():
            if pair == "fp32-fp32":
                continue
            rate = bd_rate(*zip(*anchor, strict=True), *zip(*points, strict=True)).value
            ends = []
            for i in (0, -1):
                bits = 100 * (points[i][0] / anchor[i][0] - 1)
                ends.append(f"{bits:+.1f} % bits, {points[i][1] - anchor[i][1]:+.2f} dB")
            encoder, decoder = pair.split("-")
            lines.append(
                f"| {width} | {encoder} | {decoder} | {rate:+.1f} % | {' | '.join(ends)} |"
            )
    return lines


def page(document: dict[str, Any]) -> str:
    rows = "\n".join(table(document["bits_per_pixel_and_psnr_db"]))
    return (
        "# What eight-bit products cost\n\n"
        "The blocks of g_a and g_s in eight bits (`icmh export onnx --eight-bits`), against single"
        f" precision: {len(document['images'])} images, qualities"
        f" {', '.join(map(str, document['qualities']))}, limits found on"
        f" {len(document['calibration'])} other images. Bytes are those of the symbols; the"
        " graphs were run by onnxruntime, which computes with the values that eight bits can"
        " hold. No training was done for eight bits.\n\n"
        f"{rows}\n\n"
        f"`{document['command']}`\n"
    )


if __name__ == "__main__":
    sys.exit(main())
