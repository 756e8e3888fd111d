"""A set of measured curves with where they came from, and its JSON form.

Schema `icmh_rt.rate_distortion`, version 1. Raw figures (bytes, squared error and, where it was
measured, MS-SSIM of every image) are what is read back; points, comparisons and checks are written
for other programs to use, and computed anew when a file is loaded. JSON has no infinity: a PSNR of
null beside a squared error of 0 means that the image was reproduced exactly.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from icmh_rt._files import replace_file
from icmh_rt.errors import IcmhError, OptionError
from icmh_rt.evaluation import bd
from icmh_rt.evaluation.curves import (
    Checks,
    Comparison,
    Curve,
    ImageRecord,
    Point,
    check,
    compare,
)

SCHEMA = "icmh_rt.rate_distortion"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Results:
    """Curves measured on the same images. provenance: command, date, versions, machine."""

    curves: tuple[Curve, ...]
    provenance: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.curves:
            raise OptionError(
                "results need at least one curve: give widths, anchors or a reference"
            )
        names = [curve.name for curve in self.curves]
        for curve in self.curves:
            if names.count(curve.name) > 1:
                raise OptionError(f"two curves are named {curve.name!r}: leave one out")
            if curve.images != self.images:
                raise IcmhError(
                    f"curve {curve.name!r} was measured on other images than {names[0]!r}:"
                    " their names, sizes and contents must agree"
                )

    @property
    def images(self) -> tuple[ImageRecord, ...]:
        return self.curves[0].images

    @property
    def codec_curves(self) -> list[Curve]:
        return [curve for curve in self.curves if curve.kind == "codec"]

    @property
    def comparisons(self) -> list[Comparison]:
        """Every width against every anchor, and against the widest one measured."""
        ours = self.codec_curves
        anchors = [curve for curve in self.curves if curve.kind != "codec"]
        if ours:
            anchors.append(max(ours, key=lambda curve: float(curve.settings.get("width", 0))))
        return [compare(test, anchor) for test in ours for anchor in anchors if test is not anchor]

    @property
    def checks(self) -> list[Checks]:
        return [check(curve) for curve in self.codec_curves]


def provenance(command: str) -> dict[str, object]:
    """Where figures come from: the command, the date (UTC), library versions, the machine."""
    versions = {"python": platform.python_version()}
    for package in ("icmh-rt", "numpy", "pillow", "torch", *[bd.PACKAGE] * bd.package_is_used()):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": command,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions,
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
        },
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.lower().startswith(("model name", "hardware")):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def to_json(results: Results) -> str:
    """The results as JSON text, one row of numbers a line."""
    document = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "provenance": results.provenance,
        "images": [asdict(image) for image in results.images],
        "curves": [_curve_to_dict(curve) for curve in results.curves],
        "comparisons": [asdict(comparison) for comparison in results.comparisons],
        "checks": [asdict(checks) for checks in results.checks],
    }
    return _format(_without_infinities(document)) + "\n"


def _curve_to_dict(curve: Curve) -> dict[str, object]:
    """The curve's fields without its images; its derived points rounded to a millionth."""
    points = [
        {key: _rounded(value, 6) for key, value in asdict(point).items()} for point in curve.points
    ]
    result: dict[str, object] = {
        "name": curve.name,
        "kind": curve.kind,
        "settings": curve.settings,
        "points": points,
    }
    if curve.has_images:
        result["qualities"] = curve.qualities
        result["byte_counts"] = curve.byte_counts
        result["squared_errors"] = curve.squared_errors
    if curve.estimated_bits is not None:
        result["estimated_bits"] = curve.estimated_bits
    if curve.ms_ssims is not None:
        result["ms_ssims"] = curve.ms_ssims
    for key in ("encode_ms", "decode_ms"):
        values = getattr(curve, key)
        if values is not None:
            result[key] = values
    return result


def _rounded(value: object, digits: int) -> object:
    return round(value, digits) if isinstance(value, float) and math.isfinite(value) else value


def _without_infinities(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_infinities(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_infinities(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _format(value: object, indent: str = "") -> str:
    """JSON with nested structure indented, and whatever holds only scalars on one line."""
    inner = indent + " "
    items = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(items, list) or not any(isinstance(i, (dict, list)) for i in items):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        lines = [f"{inner}{json.dumps(key)}: {_format(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _format(item, inner) for item in items) + f"\n{indent}]"


def read_document(path: str | os.PathLike[str], schema: str, schema_version: int) -> dict[str, Any]:
    """A JSON file of that schema and version. Raises IcmhError naming the file if it is none."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise IcmhError(f"cannot read results {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise IcmhError(f"{path} is not a JSON results file: {error}") from error
    found = document.get("schema") if isinstance(document, dict) else None
    if found != schema:
        raise IcmhError(f"{path} is not a results file: its schema is {found!r}, not {schema!r}")
    if document.get("schema_version") != schema_version:
        version = document.get("schema_version")
        raise IcmhError(f"{path} has schema version {version}, this release reads {schema_version}")
    return document


def load(path: str | os.PathLike[str]) -> Results:
    """Read a results file. Raises IcmhError naming the file if it is not one of this schema."""
    document = read_document(path, SCHEMA, SCHEMA_VERSION)
    try:
        images = tuple(ImageRecord(**image) for image in document["images"])
        curves = tuple(_curve_from_dict(curve, images) for curve in document["curves"])
        return Results(curves, dict(document.get("provenance", {})))
    except (KeyError, TypeError, ValueError) as error:  # OptionError is a ValueError
        raise IcmhError(f"{path} is not a sound results file: {error!s}") from error


def _curve_from_dict(curve: dict, images: tuple[ImageRecord, ...]) -> Curve:
    def rows(key: str) -> tuple | None:
        return tuple(tuple(row) for row in curve[key]) if key in curve else None

    def values(key: str) -> tuple | None:
        return tuple(curve[key]) if key in curve else None

    published = () if "byte_counts" in curve else tuple(Point(**p) for p in curve["points"])
    return Curve(
        name=curve["name"],
        kind=curve["kind"],
        settings=dict(curve["settings"]),
        images=images,
        qualities=values("qualities") or (),
        byte_counts=rows("byte_counts"),
        squared_errors=rows("squared_errors"),
        estimated_bits=rows("estimated_bits"),
        ms_ssims=rows("ms_ssims"),
        encode_ms=values("encode_ms"),
        decode_ms=values("decode_ms"),
        published=published,
    )


def merge(results: Sequence[Results], provenance: dict[str, object]) -> Results:
    """All curves of several results over the same images. Raises IcmhError if they differ."""
    return Results(tuple(curve for part in results for curve in part.curves), provenance)


def write_text(text: str, path: str) -> None:
    """Write a text file whole or not at all; "-" is standard output.

    Raises IcmhError if it cannot be written.
    """
    if path == "-":
        sys.stdout.write(text)
        return
    try:
        with replace_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise IcmhError(f"cannot write {path}: {error.strerror or error}") from error
