"""How time and memory grow with the number of pixels: a line, a power, and how flat it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

FLAT_BAR = 0.25
FLAT_RANGE = (256 * 256, 2048 * 2048)
"""Pixels between which the time per pixel is held to `FLAT_BAR`."""

LEAST = 3
"""Sizes that a fit takes."""


def fit(pixels: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """``fixed`` and ``per_pixel`` of ``value = fixed + per_pixel * pixels``, fitted so that
    relative errors count, or else the largest size would decide alone; neither is negative; and
    ``exponent`` of ``value ~ pixels ** exponent``.

    Raises:
        ValueError: fewer than two different sizes, or a value that is not positive.
    """
    x, y = np.asarray(pixels, np.float64), np.asarray(values, np.float64)
    if len(set(pixels)) < 2 or not (y > 0).all():
        raise ValueError("a fit takes two sizes and positive values")
    columns = np.stack([1.0 / y, x / y], axis=1)
    (fixed, slope), *_ = np.linalg.lstsq(columns, np.ones(len(y)), rcond=None)
    if fixed < 0:
        ratio = x / y
        fixed, slope = 0.0, float(ratio.sum() / (ratio**2).sum())
    exponent = np.polyfit(np.log(x), np.log(y), 1)[0]
    return {"fixed": float(fixed), "per_pixel": float(slope), "exponent": float(exponent)}


def flatness(pixels: Sequence[float], values: Sequence[float]) -> float | None:
    """The largest over the smallest value per pixel, less one, of the sizes in `FLAT_RANGE`; None
    if these are fewer than two.
    """
    low, high = FLAT_RANGE
    found = [v / p for p, v in zip(pixels, values, strict=True) if low <= p <= high]
    return max(found) / min(found) - 1.0 if len(found) > 1 else None


def growth(points: Sequence[dict[str, Any]], quantity: str) -> dict[str, Any]:
    """What the schema calls a growth, but for what it is of.

    Args:
        points: "size", "value" (ms, or bytes) and "stable" of each.
        quantity: "time" or "memory".
    """
    scale = 1e6 if quantity == "time" else 1.0  # ns a pixel
    points = sorted(points, key=lambda point: point["size"][0] * point["size"][1])
    pixels = [point["size"][0] * point["size"][1] for point in points]
    values = [point["value"] for point in points]
    fitted = fit(pixels, values)
    flat = flatness(pixels, values) if quantity == "time" else None
    return {
        "quantity": quantity,
        "points": [
            {**point, "pixels": count, "per_pixel": scale * point["value"] / count}
            for point, count in zip(points, pixels, strict=True)
        ],
        "fixed": fitted["fixed"],
        "per_pixel": scale * fitted["per_pixel"],
        "exponent": fitted["exponent"],
        "flat": flat,
        "flat_within_bar": None if flat is None else flat <= FLAT_BAR,
    }
