"""Measured rate-distortion curves: the raw figures of each image, and what is derived from them.

A curve keeps what was counted (bytes, squared error; both exact integers) for every quality and
image. Bits per pixel, PSNR, means, Bjontegaard deltas and checks are derived, never stored twice.
Curves taken from a publication have means only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from icmh_rt.errors import OptionError
from icmh_rt.evaluation import metrics
from icmh_rt.evaluation.bd import BdResult, bd_psnr, bd_rate
from icmh_rt.evaluation.ms_ssim import decibels

# What a stream may take over the model's own estimate, and what the quality range must cover.
ESTIMATE_FACTOR_BAR, ESTIMATE_FACTOR_AIM, ESTIMATE_EXTRA_BYTES = 1.01, 1.003, 32
SPAN_BAR, SPAN_AIM = 8.0, 15.0


@dataclass(frozen=True)
class ImageRecord:
    """One image of the measured set. sha256: 16 hex digits over its uint8 (H, W, 3) RGB samples."""

    name: str
    height: int
    width: int
    sha256: str

    @property
    def samples(self) -> int:
        return self.height * self.width * metrics.CHANNELS


@dataclass(frozen=True)
class Point:
    """A curve's mean over the images at one quality.

    bpp: mean of the images' bits per pixel.  psnr: mean of their PSNRs, dB (infinite if one is
    lossless).  psnr_of_mean_mse: the other convention, None where it was not published.  ms_ssim:
    mean of the images' MS-SSIM, None where it is not known of every image.
    """

    quality: float | None
    bpp: float
    psnr: float
    psnr_of_mean_mse: float | None = None
    ms_ssim: float | None = None


@dataclass(frozen=True)
class Curve:
    """One codec at several qualities over one set of images.

    name: shown in tables.  kind: "codec", "anchor" or "published".  settings: what was run.
    qualities (Q,).  byte_counts, squared_errors: Q rows of one integer per image, or None for a
    published curve, which has `published` points instead.  estimated_bits: Q rows of the model's
    own estimate, where it gives one.  ms_ssims: Q rows, None for an image too small to have one; or
    None where it was not measured.  encode_ms, decode_ms: Q medians over the images, wall clock.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    images: tuple[ImageRecord, ...]
    qualities: tuple[int, ...] = ()
    byte_counts: tuple[tuple[int, ...], ...] | None = None
    squared_errors: tuple[tuple[int, ...], ...] | None = None
    estimated_bits: tuple[tuple[float, ...], ...] | None = None
    encode_ms: tuple[float, ...] | None = None
    decode_ms: tuple[float, ...] | None = None
    published: tuple[Point, ...] = field(default=())
    ms_ssims: tuple[tuple[float | None, ...], ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("codec", "anchor", "published"):
            raise OptionError(f"curve {self.name!r} has the unknown kind {self.kind!r}")
        if (self.byte_counts is None) != (self.squared_errors is None):
            raise OptionError(f"curve {self.name!r} needs both bytes and squared errors, or none")
        if not self.has_images and not self.published:
            raise OptionError(f"curve {self.name!r} has no measurements")
        for rows in (self.byte_counts, self.squared_errors, self.estimated_bits, self.ms_ssims):
            if rows is None:
                continue
            if len(rows) != len(self.qualities) or any(len(r) != len(self.images) for r in rows):
                raise OptionError(
                    f"curve {self.name!r} needs {len(self.qualities)} rows of {len(self.images)}"
                )
        for values in (self.encode_ms, self.decode_ms):
            if values is not None and len(values) != len(self.qualities):
                raise OptionError(f"curve {self.name!r} needs {len(self.qualities)} times")
        if list(self.qualities) != sorted(set(self.qualities)):
            raise OptionError(f"curve {self.name!r}: qualities must rise, got {self.qualities}")

    @property
    def has_images(self) -> bool:
        """Whether figures of single images are there, and not only published means."""
        return self.byte_counts is not None

    @property
    def points(self) -> tuple[Point, ...]:
        """Means over the images, in the order of the qualities."""
        if self.byte_counts is None or self.squared_errors is None:
            return self.published
        samples = [image.samples for image in self.images]
        points = []
        similarities = self.ms_ssims or [(None,)] * len(self.qualities)
        for quality, counts, errors, similar in zip(
            self.qualities, self.byte_counts, self.squared_errors, similarities, strict=True
        ):
            rates = [
                metrics.bits_per_pixel(n, image.height, image.width)
                for n, image in zip(counts, self.images, strict=True)
            ]
            points.append(
                Point(
                    quality,
                    sum(rates) / len(rates),
                    metrics.mean_psnr(errors, samples),
                    metrics.psnr_of_mean_mse(errors, samples),
                    _mean(similar),
                )
            )
        return tuple(points)

    def of_image(self, index: int) -> tuple[list[float], list[float]]:
        """Rates in bits per pixel and PSNRs in dB of one image, in the order of the qualities."""
        if self.byte_counts is None or self.squared_errors is None:
            raise OptionError(f"curve {self.name!r} has no figures of single images")
        image = self.images[index]
        rates = [
            metrics.bits_per_pixel(row[index], image.height, image.width)
            for row in self.byte_counts
        ]
        psnrs = [
            metrics.psnr_from_squared_error(row[index], image.samples)
            for row in self.squared_errors
        ]
        return rates, psnrs


@dataclass(frozen=True)
class Comparison:
    """One curve against an anchor.

    rate, rate_akima (percent) and psnr (dB): of the mean curves, or None where `problem` says why
    there is none.  mean_image_rate: the mean of the single images' BD-rates, over `image_count` of
    the images (those whose curves overlap and are functions); None without such figures.
    ms_ssim_rate: percent at equal MS-SSIM in decibels, of the mean curves; None where either curve
    has no MS-SSIM or they share no interval.
    """

    test: str
    anchor: str
    rate: BdResult | None
    rate_akima: BdResult | None
    psnr: BdResult | None
    mean_image_rate: float | None
    image_count: int
    problem: str | None = None
    ms_ssim_rate: BdResult | None = None


@dataclass(frozen=True)
class Checks:
    """What the codec promises about its rates, as measured.

    monotone: the mean rate rises strictly with quality.  images_monotone: for how many images it
    does.  span: the mean rate at the highest quality over that at the lowest.  estimate_ratio: all
    bytes over all estimated bytes; estimate_worst_extra_bytes: the most by which a stream exceeds
    1.01 x its estimate (both None without estimates).
    """

    name: str
    monotone: bool
    images_monotone: int
    image_count: int
    span: float
    estimate_ratio: float | None = None
    estimate_worst_extra_bytes: float | None = None

    @property
    def within_estimate(self) -> bool | None:
        extra = self.estimate_worst_extra_bytes
        return None if extra is None else extra <= ESTIMATE_EXTRA_BYTES


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def finite_points(points: Sequence[Point]) -> list[Point]:
    """The points that a curve can be fitted through: those without a lossless image."""
    return [point for point in points if math.isfinite(point.psnr)]


def compare(test: Curve, anchor: Curve) -> Comparison:
    """Bjontegaard deltas of `test` against `anchor`: of the mean curves, and the images' mean.

    Raises OptionError if the two were not measured on the same images.
    """
    if test.images != anchor.images:
        raise OptionError(
            f"{test.name!r} and {anchor.name!r} were measured on different images:"
            f" {_image_set(test)} and {_image_set(anchor)}"
        )
    ours, theirs = finite_points(test.points), finite_points(anchor.points)
    arguments = (
        [p.bpp for p in theirs],
        [p.psnr for p in theirs],
        [p.bpp for p in ours],
        [p.psnr for p in ours],
    )
    results: tuple[BdResult | None, BdResult | None, BdResult | None] = (None, None, None)
    problem = None
    try:
        results = (bd_rate(*arguments), bd_rate(*arguments, "akima"), bd_psnr(*arguments))
    except OptionError as error:
        problem = str(error)
    per_image = _image_bd_rates(test, anchor)
    mean = sum(per_image) / len(per_image) if per_image else None
    return Comparison(
        test.name,
        anchor.name,
        *results,
        mean,
        len(per_image),
        problem,
        _ms_ssim_bd_rate(test, anchor),
    )


def _ms_ssim_bd_rate(test: Curve, anchor: Curve) -> BdResult | None:
    pairs: list[tuple[list[float], list[float]]] = []
    for curve in (anchor, test):
        known = [(p.bpp, decibels(p.ms_ssim)) for p in curve.points if p.ms_ssim is not None]
        finite = [point for point in known if math.isfinite(point[1])]
        pairs.append(([rate for rate, _ in finite], [value for _, value in finite]))
    try:
        return bd_rate(*pairs[0], *pairs[1], quantity="MS-SSIM")
    except OptionError:
        return None


def _image_bd_rates(test: Curve, anchor: Curve) -> list[float]:
    if not (test.has_images and anchor.has_images):
        return []
    values = []
    for index in range(len(test.images)):
        pairs: list[tuple[list[float], list[float]]] = []
        for curve in (anchor, test):
            finite = [(r, p) for r, p in zip(*curve.of_image(index), strict=True) if p < math.inf]
            pairs.append(([r for r, _ in finite], [p for _, p in finite]))
        try:
            values.append(bd_rate(*pairs[0], *pairs[1]).value)
        except OptionError:
            continue  # no overlap, or flat: left out, which image_count shows
    return values


def check(curve: Curve) -> Checks:
    """Rate against quality and against the estimate, from a curve measured here."""
    if curve.byte_counts is None:
        raise OptionError(f"curve {curve.name!r} has no figures of single images to check")
    rates = [point.bpp for point in curve.points]
    by_image = [[row[i] for row in curve.byte_counts] for i in range(len(curve.images))]
    ratio = extra = None
    if curve.estimated_bits is not None:
        pairs = [
            (count, bits / 8)
            for counts, row in zip(curve.byte_counts, curve.estimated_bits, strict=True)
            for count, bits in zip(counts, row, strict=True)
        ]
        estimated = sum(estimate for _, estimate in pairs)
        ratio = sum(count for count, _ in pairs) / estimated if estimated > 0 else math.inf
        extra = max(count - ESTIMATE_FACTOR_BAR * estimate for count, estimate in pairs)
    return Checks(
        name=curve.name,
        monotone=_rises(rates),
        images_monotone=sum(_rises(counts) for counts in by_image),
        image_count=len(curve.images),
        span=rates[-1] / rates[0],
        estimate_ratio=ratio,
        estimate_worst_extra_bytes=extra,
    )


def _rises(values: Sequence[float]) -> bool:
    return all(b > a for a, b in pairwise(values))


def _image_set(curve: Curve) -> str:
    names = [image.name for image in curve.images]
    return f"{len(names)} ({names[0]} ...)" if names else "none"
