"""Claim: of a stream that was cut, about as large a share of the latent is decoded as of its bytes.

    python benchmarks/cut_streams.py [--images FILE ...] [--shares S,S,...] [--width W]
        [--quality Q] [--threads N] [--json F] [--markdown F]

Encodes each photograph, cuts the stream and draws what there is (`Decoder.decode_partial`). Every
square that is called exact is compared with the whole stream's picture. Exit code 1 if one differs,
or if the share of symbols is more than three points below that of the bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from command import run, set_threads

PHOTO = Path(__file__).resolve().parents[1] / "examples" / "kodim23.png"
SHARES = "0.25,0.5,0.75,0.92"
BAR = 0.03


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", nargs="+", default=[str(PHOTO)], metavar="FILE")
    parser.add_argument("--shares", default=SHARES, help="of the bytes (default: %(default)s)")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--quality", type=int, default=50)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="0: as the libraries choose")
    parser.add_argument("--json", help="write what was found to this file")
    parser.add_argument("--markdown", help="write it as a page to this file")
    options = parser.parse_args(arguments)
    set_threads(options.threads)
    return run("cut_streams", _measure, options)


def _measure(options: argparse.Namespace) -> int:
    import icmh_rt
    from icmh_rt.evaluation.results import provenance, write_text

    encoder = icmh_rt.Encoder(
        options.width, quality=options.quality, backend=options.backend, device="cpu"
    )
    decoder = icmh_rt.Decoder(backend=options.backend, device="cpu")
    shares = [float(share) for share in options.shares.split(",")]
    rows = [
        {"image": Path(path).stem, **row}
        for path in options.images
        for row in cuts(decoder, encoder.encode(path), shares)
    ]
    names = " ".join(Path(path).name for path in options.images)
    document = {
        "provenance": provenance(f"python benchmarks/cut_streams.py --images {names}"),
        "width": options.width,
        "quality": options.quality,
        "backend": repr(decoder.backend),
        "rows": rows,
    }
    print(table(rows))
    if options.json:
        write_text(json.dumps(document, indent=1) + "\n", options.json)
    if options.markdown:
        write_text(page(document), options.markdown)
    return 0 if passes(rows) else 1


def cuts(decoder: Any, data: bytes, shares: list[float]) -> list[dict[str, Any]]:
    """What is told by so large shares of a stream of the task human."""
    from icmh_rt import bitstream, rans, tiles
    from icmh_rt.bundle import load

    whole, latents = decoder.decode(data), decoder.latents(data)
    header = latents.header
    coding = decoder.backend.coding(header.width, header.quality)
    reach = tiles.reach_of(load(decoder.model), header.width, header.task)
    steps = latents.symbols_y - coding.tables_y.offsets[latents.indexes_y]
    # Of the entries of a row one is the end, and one begins the escape.
    outside = (steps < 0) | (steps >= coding.tables_y.lengths[latents.indexes_y] - 2)
    rows = []
    for share in shares:
        part = data[: round(share * len(data))]
        found = decoder.decode_partial(part)
        section = bitstream.parse_beginning(part)[0].y_section
        known = rans.decode_beginning(section, latents.indexes_y, coding.tables_y)[1]
        # Rows of y in which nothing is missing but such values.
        arrived = int(np.logical_and.accumulate((known | outside).all((1, 2))).sum())
        above = max(0, arrived - reach.synthesis) * coding.latent_stride
        pixels = np.kron(found.exact, np.ones((coding.latent_stride,) * 2, bool))
        pixels = pixels[: whole.shape[0], : whole.shape[1]]
        rows.append(
            {
                "bytes": len(data),
                "outside": int(outside.sum()),
                "share": share,
                "symbols": found.fraction,
                "in_one_piece": int(np.logical_and.accumulate(known.ravel()).sum()) / known.size,
                "exact": float(found.exact.mean()),
                "rows": found.rows,
                "psnr": _psnr(found.image, whole),
                "above": above,
                "psnr_above": _psnr(found.image[:above], whole[:above]),
                "same": bool((found.image[pixels] == whole[pixels]).all()),
            }
        )
    return rows


def _psnr(first: np.ndarray, second: np.ndarray) -> float | None:
    """None: equal, or there are no pixels."""
    error = float(np.square(first.astype(float) - second).sum())
    return 10.0 * float(np.log10(255.0**2 * first.size / error)) if error else None


def passes(rows: list[dict[str, Any]]) -> bool:
    """Whether the claim holds."""
    return all(row["same"] and row["symbols"] >= row["share"] - BAR for row in rows)


def table(rows: list[dict[str, Any]]) -> str:
    """The page's table."""
    lines = [
        "| picture | bytes | values outside | bytes there | symbols known | in one piece "
        "| squares exact | rows exact | PSNR | rows above the cut: PSNR |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        psnr, above = (
            "equal" if value is None else f"{value:.1f} dB"
            for value in (row["psnr"], row["psnr_above"])
        )
        above = f"{row['above']}: {above}" if row["above"] else "none"
        lines.append(
            f"| {row['image']} | {row['bytes']} | {row['outside']} | {row['share']:.0%} "
            f"| {row['symbols']:.1%} | {row['in_one_piece']:.1%} | {row['exact']:.1%} "
            f"| {row['rows']} | {psnr} | {above} |"
        )
    return "\n".join(lines)


def page(document: dict[str, Any]) -> str:
    from icmh_rt.evaluation.report import page_head

    lines = page_head("Streams that were cut", document["provenance"])
    lines += [
        f"Width {document['width']}, quality {document['quality']}. Symbols of the latent y: how "
        "many are outside of their tables, the share of those that are known, and of those before "
        "the first that is not. Squares and rows of the picture that are those of the whole "
        "stream's, and the PSNR against that: of the whole picture, and of the rows above the cut, "
        "where nothing is missing but values outside of their tables.",
        "",
        table(document["rows"]),
        "",
        f"The bar, known symbols at most {100 * BAR:.0f} points behind the bytes and exact squares "
        f"equal, is {'met' if passes(document['rows']) else 'missed'}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
