"""Pictures side by side under a slider, and where the bits of a stream go.

Pictures are in the page once, exactly as decoded: streams that browsers read (JPEG, WebP, AVIF) as
they are, others as lossless WebP. A large picture is shown by its middle.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, features

from icmh_rt.evaluation.bit_map import BitMap
from icmh_rt.evaluation.exhibits import Exhibit, Picture
from icmh_rt.reports.markup import Markup, h, join

WHOLE_PIXELS = 768 * 512
"""Pictures of at most so many pixels are shown whole, others by a part of PART (width, height)."""
PART = (512, 384)
LARGEST_GALLERY = 6_000_000
"""Characters that pictures may take; noise does not compress, and is shown by SMALL_PART."""
SMALL_PART = (320, 208)
ENLARGED = 4
"""How much the button enlarges a picture."""
MAX_MAPPED = 20_000
"""Positions of a bit map that the page can hold."""

# From few bits to many: dark violet, red, orange, light yellow.
_RAMP = np.array([(13, 8, 50), (94, 20, 110), (190, 55, 82), (249, 145, 20), (252, 250, 170)])


@dataclass(frozen=True)
class Part:
    """What is shown of a picture: rows and columns from (top, left) on."""

    top: int
    left: int
    height: int
    width: int
    whole: bool

    def of(self, pixels: np.ndarray) -> np.ndarray:
        """The part of uint8 (H, W, 3)."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]


def shown_part(height: int, width: int, small: bool = False) -> Part:
    """The whole picture or its middle."""
    size = SMALL_PART if small else PART
    if height * width <= (size[0] * size[1] if small else WHOLE_PIXELS):
        return Part(0, 0, height, width, True)
    part_width, part_height = size if width >= height else size[::-1]
    rows, columns = min(height, part_height), min(width, part_width)
    return Part((height - rows) // 2, (width - columns) // 2, rows, columns, False)


def exhibit(item: Exhibit, number: int, small: bool = False) -> Markup:
    """One picture with everything that codecs made of it."""
    height, width = item.original.shape[:2]
    part = shown_part(height, width, small)
    reference = item.pictures[0]
    facts = ["original, uncompressed"]
    images = [_pane(h("img", src=_source(item.original, None, part), alt="original"), "left")]
    for picture in item.pictures:
        image = h("img", src=_source(picture.pixels, picture.data, part), alt=label(picture))
        images.append(_pane(image, "right" if picture is reference else ""))
        facts.append(_facts(picture, reference))
    names = ["original", *(label(picture) for picture in item.pictures)]
    panels: list[Markup | None] = [_comparison(images, names, facts, part, item, number)]
    size = f"{width}×{height}"
    if not part.whole:
        size += f", its middle {part.width}×{part.height} shown"
    return h("article", h("h3", item.name, " ", h("small", size)), *panels, class_="exhibit")


def _pane(image: Markup, side: str) -> Markup:
    """A picture in what is cut at the border, in what is enlarged."""
    return h("div", h("div", image, class_="enlarged"), class_=f"pane {side}".rstrip())


def label(picture: Picture) -> str:
    return f"{picture.name}, quality {picture.quality}"


def _comparison(
    images: list[Markup],
    names: list[str],
    facts: list[str],
    part: Part,
    item: Exhibit,
    number: int,
) -> Markup:
    def choice(side: str, chosen: int) -> Markup:
        options = [
            h("option", name, value=i, selected=i == chosen, data_facts=facts[i])
            for i, name in enumerate(names)
        ]
        return h("label", h("span", side), h("select", *options, data_side=side))

    bits = item.bit_map
    stage = h(
        "div",
        *images,
        _heat(bits, part) if bits is not None else None,
        h("div", class_="handle", aria_hidden="true"),
        h(
            "input",
            type="range",
            min="0",
            max="100",
            step="0.5",
            value="50",
            class_="at",
            aria_label=f"Where left and right picture meet, {item.name}",
        ),
        class_="stage",
    )
    zoom = h(
        "button", f"Enlarge {ENLARGED} times", type="button", aria_pressed="false", class_="zoom"
    )
    size = f"--ratio: {part.width} / {part.height}; --natural: {part.width}px"
    return h(
        "div",
        h("div", choice("left", 0), choice("right", 1), class_="choices"),
        stage,
        h("p", class_="facts"),
        h("p", zoom, " around the last place touched", class_="note"),
        _bits(bits, item, number) if bits is not None else None,
        class_="compare",
        style=f"{size}; --enlarged: {ENLARGED}; --at: 50%",
    )


def _facts(picture: Picture, reference: Picture) -> str:
    facts = [f"{len(picture.data):,} bytes".replace(",", " "), f"{picture.bpp:.3f} bpp"]
    if picture is not reference:
        more = 100 * (len(picture.data) / len(reference.data) - 1)
        facts[0] += f" ({more:+.0f} %)"
    facts.append("exact" if np.isinf(picture.psnr) else f"{picture.psnr:.2f} dB")
    if picture.ms_ssim is not None:
        facts.append(f"MS-SSIM {picture.ms_ssim:.4f}")
    return " · ".join(facts)


# -- bits by position ------------------------------------------------------------------------------


def _bits(found: BitMap, item: Exhibit, number: int) -> Markup:
    """The control of the bit map over a picture, and what it says in a sentence."""
    bits = found.bits
    values = np.sort(bits.reshape(-1))[::-1]
    total = float(values.sum())
    busiest = float(values[: -(-len(values) // 10)].sum()) / total if total else 0.0
    square = f"{found.stride}×{found.stride}"
    legend = h(
        "span",
        "0 ",
        h("span", class_="ramp", aria_hidden="true"),
        f" {_peak(bits):.0f} bits and more per {square} pixels",
        class_="key",
    )
    name = label(item.pictures[0])
    return h(
        "div",
        h(
            "label",
            h("input", type="checkbox", data_heat=True),
            f" where the bits of {name} go",
        ),
        h(
            "label",
            "opacity ",
            h("input", type="range", min="0", max="100", value="65", class_="opacity"),
        ),
        legend,
        h(
            "p",
            f"{total / 8:.0f} bytes of symbols in {bits.shape[1]}×{bits.shape[0]} positions; the "
            f"busiest tenth of them takes {100 * busiest:.0f} %.",
            class_="note",
        ),
        h("p", class_="reading", role="status"),
        class_="bits",
        id=f"bits-{number}",
    )


def _heat(found: BitMap, part: Part) -> Markup:
    """The map as a picture of one pixel a position, laid over the shown part."""
    bits, stride = found.bits, found.stride
    # Positions that the part touches.
    spans = []
    for start, length, origin, count in zip(
        (part.top, part.left), (part.height, part.width), found.origin, bits.shape, strict=True
    ):
        first = max(0, (start - origin) // stride)
        last = min(count, -(-(start + length - origin) // stride))
        spans.append((first, last, origin + first * stride - start))
    (row, row_end, top), (column, column_end, left) = spans
    shown = bits[row:row_end, column:column_end]
    place = (
        f"left: {100 * left / part.width:.4f}%; top: {100 * top / part.height:.4f}%; "
        f"width: {100 * shown.shape[1] * stride / part.width:.4f}%; "
        f"height: {100 * shown.shape[0] * stride / part.height:.4f}%"
    )
    values = None
    if shown.size <= MAX_MAPPED:
        values = " ".join(str(round(value)) for value in shown.reshape(-1).tolist())
    image = h(
        "img",
        src=data_uri(_png(ramp(shown / _peak(bits))), "image/png"),
        alt="",
        class_="heat",
        style=place,
        hidden=True,
        data_columns=shown.shape[1],
        data_stride=stride,
        data_bits=values,
    )
    return _pane(image, "over")


def _peak(bits: np.ndarray) -> float:
    """What has the last colour: a few positions above it must not make all others dark."""
    return float(np.quantile(bits, 0.99)) or float(bits.max()) or 1.0


def ramp(values: np.ndarray) -> np.ndarray:
    """(h, w), 0 to 1 and above, to uint8 (h, w, 3)."""
    steps = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(values, steps, _RAMP[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


# -- pictures as data ------------------------------------------------------------------------------


def _source(pixels: np.ndarray, stream: bytes | None, part: Part) -> str:
    kind = browser_type(stream) if stream is not None and part.whole else None
    if stream is None or kind is None:
        stream, kind = lossless(part.of(pixels))
    return data_uri(stream, kind)


def browser_type(stream: bytes) -> str | None:
    """The media type of a stream that browsers show, or None."""
    if stream[:3] == b"\xff\xd8\xff":
        return "image/jpeg"
    if stream[:4] == b"RIFF" and stream[8:12] == b"WEBP":
        return "image/webp"
    return "image/avif" if stream[4:12] == b"ftypavif" else None


def lossless(pixels: np.ndarray) -> tuple[bytes, str]:
    """uint8 (H, W, 3) as the smallest file that keeps every pixel, and its media type."""
    if not features.check("webp"):
        return _png(pixels), "image/png"
    target = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(target, "WEBP", lossless=True, quality=60)
    return target.getvalue(), "image/webp"


def _png(pixels: np.ndarray) -> bytes:
    target = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(target, "PNG", optimize=True)
    return target.getvalue()


def data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def gallery(exhibits: list[Exhibit]) -> Markup:
    """All of them, by smaller parts if the page would become too large to send around."""
    whole = join(exhibit(item, number) for number, item in enumerate(exhibits))
    if len(whole) <= LARGEST_GALLERY:
        return whole
    return join(exhibit(item, number, small=True) for number, item in enumerate(exhibits))
