"""Results, pictures and profiles for pages: usual ones, and ugly ones."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from icmh_rt.evaluation.bit_map import BitMap
from icmh_rt.evaluation.curves import Curve, ImageRecord, Point
from icmh_rt.evaluation.exhibits import Exhibit, Picture
from icmh_rt.evaluation.metrics import psnr
from icmh_rt.evaluation.results import Results
from icmh_rt.evaluation.task_curves import TaskCurve, TaskPoint, TaskResults

NASTY = """<img src=x onerror="alert('1')">&amp;</script><b>'\u2028.png"""
ORIGIN = {
    "command": "icmh eval rd --data a&b",
    "created": "2026-01-02T03:04:05+00:00",
    "versions": {"numpy": "2.0"},
    "machine": {"system": "Linux", "architecture": "x86_64", "cpu": "a <cpu>", "cores": 2},
}


def pixels(height: int = 96, width: int = 144, seed: int = 0) -> np.ndarray:
    """Something smooth with an edge and noise."""
    y, x = np.mgrid[0:height, 0:width]
    base = 120 + 70 * np.sin(x / 11) + 40 * np.cos(y / 9) + 25 * (x > width / 2)
    noise = np.random.default_rng(seed).normal(0, 4, (height, width, 3))
    return np.clip(base[..., None] * (1.0, 0.85, 0.7) + noise, 0, 255).astype(np.uint8)


def curve(
    name: str, kind: str, factor: float, images: tuple[ImageRecord, ...], similar: bool = True
) -> Curve:
    """Four qualities whose bytes and errors behave."""
    qualities = (1, 10, 50, 90)
    rows = range(len(images))
    return Curve(
        name,
        kind,
        {"width": 0.25 if "0.25" in name else 1.0} if kind == "codec" else {"program": "Pillow"},
        images,
        qualities,
        tuple(
            tuple(round(factor * n * (10 + i) / 10) for i in rows) for n in (150, 300, 700, 1500)
        ),
        tuple(tuple(n * (i + 1) for i in rows) for n in (4_000_000, 2_000_000, 900_000, 300_000)),
        ms_ssims=tuple((value,) * len(images) for value in (0.85, 0.93, 0.97, 0.99))
        if similar
        else None,
    )


def results(name: str = "photo.png", count: int = 3) -> Results:
    images = tuple(ImageRecord(f"{i}{name}", 96, 144, f"{i:016x}") for i in range(count))
    published = Curve(
        "paper <&>",
        "published",
        {"source": "somewhere"},
        images,
        published=(Point(None, 0.1, 24.0), Point(None, 0.9, 36.0, ms_ssim=0.99)),
    )
    curves = (
        curve("icmh_rt width 0.25", "codec", 1.3, images),
        curve("icmh_rt width 1", "codec", 1.0, images),
        curve("jpeg", "anchor", 2.0, images),
        curve("webp", "anchor", 1.4, images, similar=False),
        published,
    )
    return Results(curves, dict(ORIGIN))


def exhibit(name: str = "photo.png", height: int = 96, width: int = 144) -> Exhibit:
    """Original, a posterized version as this codec's, and a JPEG."""
    original = pixels(height, width)
    coarse = (original // 32 * 32 + 16).astype(np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(original).save(jpeg, "JPEG", quality=10)
    decoded = np.asarray(Image.open(io.BytesIO(jpeg.getvalue())))
    pictures = (
        Picture("icmh_rt width 1", "codec", 30, b"x" * 900, coarse, psnr(original, coarse), None),
        Picture("jpeg", "anchor", 10, jpeg.getvalue(), decoded, psnr(original, decoded), 0.9),
    )
    rows, columns = -(-height // 16), -(-width // 16)
    bits = np.arange(rows * columns, dtype=np.float64).reshape(rows, columns)
    return Exhibit(name, original, pictures, BitMap(bits, 16, (0, 0)))


def task_results() -> TaskResults:
    def points(factor: float) -> tuple[TaskPoint, ...]:
        return tuple(
            TaskPoint(q, factor * bpp, {"top1": top, "top5": min(1.0, top + 0.1)}, (100, 200))
            for q, bpp, top in ((1, 0.1, 0.3), (20, 0.3, 0.6), (50, 0.6, 0.7), (80, 1.0, 0.72))
        )

    curves = (
        TaskCurve("original", "original", {}, (TaskPoint(0, 0.0, {"top1": 0.75, "top5": 0.9}),)),
        TaskCurve("icmh_rt width 1", "codec", {"width": 1.0}, points(1.0)),
        TaskCurve("icmh_rt width 1, classification", "codec", {"width": 1.0}, points(0.7)),
        TaskCurve("jpeg", "anchor", {"program": "Pillow"}, points(1.6)),
    )
    return TaskResults("classification", "top1", curves, ("a.png 0", "b.png 1"), dict(ORIGIN))


# -- profiles --------------------------------------------------------------------------------------


def quantile(value: float | None, spread: float | None = 0.02) -> dict[str, float | None]:
    if value is None or spread is None:
        return {"value": value, "low": None, "high": None}
    return {"value": value, "low": value * (1 - spread), "high": value * (1 + spread)}


def statistics(value: float) -> dict[str, Any]:
    return {
        "calls": 150,
        "p50": quantile(value),
        "p90": quantile(1.1 * value),
        "p99": quantile(1.3 * value, None),
        "mean": value,
        "min": 0.9 * value,
        "max": 1.5 * value,
    }


def operation(value: float, stages: dict[str, float], stable: bool = True) -> dict[str, Any]:
    return {
        "headline_ms": value if stable else None,
        "stable": stable,
        "reason": "" if stable else "three windows in a row never agreed within 10 %",
        "end_to_end": statistics(value),
        "ns_per_pixel": 25.2,
        "stages": [
            {
                "stage": name,
                "by": "clock",
                "covers": [name],
                "statistics": statistics(value * share),
                "share": share,
            }
            for name, share in stages.items()
        ],
        "stage_sum": {"ms": 0.99 * value, "ratio": quantile(0.99), "within_bar": True},
        "overhead": quantile(1.004),
        "windows": [{"calls": 50, "p50_ms": value, "per_second": 1000 / value}] * 3,
        "rounds_ms": [value, value],
    }


def configuration(width: float, size: tuple[int, int], stable: bool = True) -> dict[str, Any]:
    encode = {"read": 0.01, "g_a": 0.7, "h_a": 0.1, "quantize": 0.02, "h_s": 0.1, "pack": 0.07}
    return {
        "name": f"torch cpu {size[0]}x{size[1]} width {width:g} human",
        "backend": "torch",
        "device": "cpu",
        "dtype": "auto",
        "width": width,
        "task": "human",
        "size": list(size),
        "quality": 50,
        "stream_bytes": 12802,
        "bits_per_pixel": 0.26,
        "encode": operation(20 * width + 5, encode, stable),
        "decode": operation(18 * width + 4, {"parse": 0.01, "h_s": 0.2, "g_s": 0.79}),
        "throughput": [
            {
                "images": 16,
                "workers": 2,
                "images_per_s": quantile(60.0),
                "loop_images_per_s": quantile(40.0),
                "speedup": quantile(1.5),
                "stable": True,
            }
        ],
        "memory": {
            "host_base_bytes": 3e8,
            "encode_host_peak_bytes": 4e8,
            "decode_host_peak_bytes": 4.1e8,
            "encode_device_peak_bytes": None,
            "decode_device_peak_bytes": None,
        },
        "costs": {
            "parameters": {"g_a": 123456, "adapters_g_a": None},
            "macs_per_pixel": {"g_a": 20000.0},
            "bytes_per_pixel": {"g_a": 700.0},
        },
        "energy": {
            "source": "nvml",
            "idle_w": 30.0,
            "encode_w": 95.0,
            "encode_mj_per_image": 420.0,
            "decode_w": 90.0,
            "decode_mj_per_image": None,
        },
    }


def profile(sizes: tuple[tuple[int, int], ...] = ((512, 768),), stable: bool = True) -> dict:
    configurations = [
        configuration(width, size, stable) for size in sizes for width in (0.25, 0.5, 1.0)
    ]
    growth = [
        {
            "operation": "encode",
            "quantity": quantity,
            "backend": "torch",
            "device": "cpu",
            "width": 1.0,
            "task": "human",
            "points": [
                {
                    "size": [side, side],
                    "pixels": side * side,
                    "value": 1.0,
                    "per_pixel": 20 + side / 500,
                    "stable": True,
                }
                for side in (256, 512, 1024, 2048, 4096)
            ],
            "fixed": 0.4,
            "per_pixel": 21.0,
            "exponent": 1.02,
            "flat": 0.18,
            "flat_within_bar": True,
        }
        for quantity in ("time", "memory")
    ]
    return {
        "schema": "icmh_rt.profile",
        "schema_version": 1,
        "provenance": {**ORIGIN, "command": "icmh profile"},
        "machine": {
            "cpu": {"name": "a <cpu>", "cores": 2, "allowed": 2, "governor": None, "mhz": 2600.0},
            "memory_bytes": 2**34,
            "gpus": [{"index": 0, "name": "some & GPU", "driver": "1", "power_limit_w": None}],
            "jetson": None,
            "threads": {"icmh": 2},
            "environment": {"OMP_NUM_THREADS": "1"},
        },
        "settings": {"model": "default", "quality": 50, "image": "photograph.png"},
        "conditions": {"quiet": True, "others_busy": 0.0, "throttled": False, "notes": []},
        "configurations": configurations,
        "growth": growth if len(sizes) > 1 else [],
        "cold_start": [
            {
                "backend": "torch",
                "device": "cpu",
                "width": 1.0,
                "task": "human",
                "size": [512, 768],
                "processes": 5,
                "import_ms": quantile(400.0),
                "load_ms": quantile(50.0),
                "first_encode_ms": quantile(120.0, None),
                "second_encode_ms": quantile(None),
                "total_ms": quantile(570.0),
            }
        ],
        "problems": [] if stable else ["no headline: <b>noise</b>"],
    }
