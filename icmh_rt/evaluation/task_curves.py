"""Rate-accuracy curves, their Bjontegaard deltas and their JSON form.

BD-rate at equal accuracy is what `icmh_rt.evaluation.bd` says with accuracy in percent in PSNR's
place. Accuracy is measured on few pictures and saturates, so a curve may fall a little as its rate
rises, which no function of accuracy can do. So each curve is first made to rise: pool-adjacent-
violators (isotonic regression of accuracy over the rate's order, each point of equal weight), and
of points that become equal the cheapest one is kept. Raw and fitted points are both in the file.

Schema `icmh_rt.rate_accuracy`, version 1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from icmh_rt.errors import IcmhError, OptionError
from icmh_rt.evaluation.bd import BdResult, bd_psnr, bd_rate
from icmh_rt.evaluation.results import read_document

SCHEMA = "icmh_rt.rate_accuracy"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class TaskPoint:
    """One quality over all pictures.

    bpp: mean over pictures of bits per pixel, whole files · figures: of the metric, 0 to 1 ·
    byte_counts: of every picture.
    """

    quality: int
    bpp: float
    figures: dict[str, float]
    byte_counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class TaskCurve:
    """One codec. kind: "codec", "anchor" or "original", which has one point, without a rate."""

    name: str
    kind: str
    settings: dict[str, Any]
    points: tuple[TaskPoint, ...]

    def fitted(self, figure: str) -> list[tuple[float, float]]:
        """(bpp, accuracy in percent), rising strictly in both."""
        return rising([(p.bpp, 100.0 * p.figures[figure]) for p in self.points])


@dataclass(frozen=True)
class TaskComparison:
    """A curve against an anchor: percent of rate at equal accuracy, points of accuracy at equal
    rate; None with the reason in its place where there is none.
    """

    test: str
    anchor: str
    rate: BdResult | None
    accuracy: BdResult | None
    problem: str = ""


@dataclass(frozen=True)
class TaskResults:
    """Curves over the same pictures with the same network. figure: the one that is compared."""

    task: str
    figure: str
    curves: tuple[TaskCurve, ...]
    images: tuple[str, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def comparisons(self) -> list[TaskComparison]:
        """Every codec against every curve before it and every anchor."""
        coded = [curve for curve in self.curves if curve.kind != "original"]
        ours = [curve for curve in coded if curve.kind == "codec"]
        return [
            compare(test, anchor, self.figure)
            for test in ours
            for anchor in coded
            if anchor is not test
        ]


def rising(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The isotonic regression of values over rates, strictly rising."""
    blocks: list[list[float]] = []  # cheapest rate, sum of values, count
    for rate, value in sorted(points):
        blocks.append([rate, value, 1])
        while len(blocks) > 1 and blocks[-2][1] / blocks[-2][2] >= blocks[-1][1] / blocks[-1][2]:
            _, total, count = blocks.pop()
            blocks[-1][1] += total
            blocks[-1][2] += count
    fitted = [(rate, total / count) for rate, total, count in blocks]
    return fitted[:1] + [b for a, b in pairwise(fitted) if b[0] > a[0] and b[1] > a[1]]


def compare(test: TaskCurve, anchor: TaskCurve, figure: str) -> TaskComparison:
    """Bjontegaard deltas of ``test`` against ``anchor``."""
    theirs, ours = anchor.fitted(figure), test.fitted(figure)
    arguments = (
        [rate for rate, _ in theirs],
        [value for _, value in theirs],
        [rate for rate, _ in ours],
        [value for _, value in ours],
    )
    rate = accuracy = None
    problems = []
    try:
        rate = bd_rate(*arguments)
    except OptionError as error:
        problems.append(str(error))
    try:
        accuracy = bd_psnr(*arguments)
    except OptionError as error:
        problems.append(str(error))
    return TaskComparison(test.name, anchor.name, rate, accuracy, "; ".join(problems))


def to_json(results: TaskResults) -> str:
    """As text; `load` reads it."""
    document = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "provenance": results.provenance,
        "task": results.task,
        "figure": results.figure,
        "images": list(results.images),
        "curves": [
            {**asdict(curve), "fitted": curve.fitted(results.figure)} for curve in results.curves
        ],
        "comparisons": [asdict(comparison) for comparison in results.comparisons],
    }
    return json.dumps(document, indent=1) + "\n"


def load(path: str | Path) -> TaskResults:
    """Read a file of `to_json`; IcmhError if it is none."""
    document = read_document(path, SCHEMA, SCHEMA_VERSION)
    try:
        curves = tuple(
            TaskCurve(
                curve["name"],
                curve["kind"],
                dict(curve["settings"]),
                tuple(
                    TaskPoint(p["quality"], p["bpp"], dict(p["figures"]), tuple(p["byte_counts"]))
                    for p in curve["points"]
                ),
            )
            for curve in document["curves"]
        )
        return TaskResults(
            document["task"],
            document["figure"],
            curves,
            tuple(document["images"]),
            dict(document.get("provenance", {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise IcmhError(f"{path} is not a sound results file: {error!s}") from error
