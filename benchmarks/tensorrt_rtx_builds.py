"""Claim: TensorRT-RTX builds every engine of the default bundle on a machine without a GPU.

    pip install tensorrt-rtx-cu13-bindings onnxruntime-ep-nv-tensorrt-rtx-cu13    # both --no-deps
    python benchmarks/tensorrt_rtx_builds.py [--json F] [--markdown F] [--quick]

Builds the roles encoder, analysis, hyper_synthesis and synthesis at four widths for compute
capability 8.0, 8.6 and 8.9: without adapters, with adapters of random weights, and in eight bits
(fp8 where the GPU has it). Every engine takes images from 1x1 to 4096x4096. Prints what each took.
Exit code 1 if an engine was refused or not built, 2 if TensorRT-RTX is not installed.
Nothing is run: that takes a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from icmh_rt import bundle as bundles
from icmh_rt import graphs
from icmh_rt._files import replace_file
from icmh_rt.backends import _tensorrt_builder, _tensorrt_graph, _tensorrt_library
from icmh_rt.backends._tensorrt_builder import BuildOptions
from icmh_rt.errors import BackendUnavailableError, IcmhError

ROLES = ("encoder", "analysis", "hyper_synthesis", "synthesis")
CAPABILITIES = ("8.0", "8.6", "8.9")
KINDS = ("fp16", "fp32", "fp16 with adapters", "int8", "fp8")
FP8_SINCE = "8.9"
ADAPTED_TASK, MIDDLE = "detection", 48
SCHEMA, SCHEMA_VERSION = "icmh_rt.tensorrt_rtx_builds", 1


def random_adapters(bundle: bundles.Bundle) -> dict[str, np.ndarray]:
    """Six adapters of the paper's shape, with random weights."""
    channels = max(bundle.config["channels"]), max(bundle.config["latent_channels"])
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part in ("encoder_sfmas", "decoder_sfmas"):
        for i, outer in enumerate((channels[0], *channels)):
            shapes = dict.fromkeys(("s_down1", "s_down2", "f_down"), (MIDDLE, outer, 1, 1))
            shapes |= {"s_dw": (MIDDLE, 1, 5, 5), "f_dw": (MIDDLE, 1, 3, 3)}
            shapes["f_inter"] = (MIDDLE, MIDDLE, 1, 1)
            shapes |= dict.fromkeys(("s_up", "f_up"), (outer, MIDDLE, 1, 1))
            for layer, shape in shapes.items():
                weight = random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
                arrays[f"{part}.{i}.{layer}.weight"] = weight.astype(np.float32)
                bias = random.normal(0, 0.05, shape[0])
                arrays[f"{part}.{i}.{layer}.bias"] = bias.astype(np.float32)
    return arrays


def cases(quick: bool) -> Iterator[tuple[str, float, str, str]]:
    """(kind, width, role, compute capability)"""
    widths, capabilities = ((0.25,), ("8.6",)) if quick else ((0.25, 0.5, 0.75, 1.0), CAPABILITIES)
    for kind in KINDS[:1] if quick else KINDS:
        for width in widths:
            for role in ROLES:
                if kind != "fp16" and role == "hyper_synthesis":
                    continue  # it is the same engine in all
                for capability in capabilities:
                    if kind != "fp8" or capability >= FP8_SINCE:
                        yield kind, width, role, capability


class Graphs:
    """What engines are built from, made once."""

    def __init__(self) -> None:
        self._bundle = bundles.load("default")
        self._adapters = random_adapters(self._bundle)
        self._kept: tuple[tuple, bytes] | None = None
        self._limits: dict[tuple, Any] = {}

    def get(self, kind: str, width: float, role: str) -> bytes:
        key = kind, width, role
        if self._kept is None or self._kept[0] != key:
            self._kept = key, self._made(*key)
        return self._kept[1]

    def _made(self, kind: str, width: float, role: str) -> bytes:
        task, options = "human", {"precision": "fp32" if kind == "fp32" else "fp16"}
        if kind.endswith("adapters"):
            task, options = ADAPTED_TASK, {**options, "adapters": self._adapters}
        if kind in ("int8", "fp8"):
            options["eight_bits"] = self._eight_bits(kind, width)
        model = graphs.build(self._bundle, role, width, task, **options)
        if role == "synthesis":
            model = _tensorrt_graph.with_magnitude(model)
        return _tensorrt_graph.for_parser(model)

    def _eight_bits(self, kind: str, width: float) -> Any:
        from icmh_rt.export._calibration import calibrate
        from icmh_rt.export.onnx import PHOTOGRAPH
        from icmh_rt.images import load_image

        if (kind, width) not in self._limits:
            images = [load_image(PHOTOGRAPH)]
            self._limits[kind, width] = calibrate(self._bundle, width, "human", kind, images)
        return self._limits[kind, width]


def measure(quick: bool) -> dict[str, Any]:
    library = _tensorrt_library.load("tensorrt_rtx")
    made, engines = Graphs(), []
    for kind, width, role, capability in cases(quick):
        entry = {"kind": kind, "width": width, "role": role, "compute_capability": capability}
        try:
            graph = made.get(kind, width, role)
            options = BuildOptions(compute_capability=capability)
            start = time.process_time()
            built = _tensorrt_builder.build(library, graph, options)
            cpu_seconds = time.process_time() - start
            entry |= {
                "bytes": len(built.plan),
                "seconds": round(built.seconds, 2),
                "cpu_seconds": round(cpu_seconds, 2),
                "layers": len(built.layers),
                "exact_layers": _tensorrt_builder.check_exact(built.layers),
                "refused": None,
            }
        except BackendUnavailableError as error:
            entry["refused"] = str(error)
        engines.append(entry)
        state = entry["refused"] or f"{entry['bytes'] / 1e6:.2f} MB in {entry['cpu_seconds']:.2f} s"
        print(f"{role} {width:g} {kind} {capability}: {state}", file=sys.stderr)
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "library": f"{library.name} {library.version}",
        "bundle": made._bundle.fingerprint,
        "engines": engines,
    }


def markdown(document: dict[str, Any]) -> str:
    """A row for each kind, width and role: the three GPUs differ by little."""
    engines = document["engines"]
    refused = [e for e in engines if e["refused"]]
    lines = [
        "# Engines of TensorRT-RTX, built without a GPU",
        "",
        f"{document['library']}, bundle `{document['bundle']}`: {len(engines)} engines for compute "
        f"capability {', '.join(sorted({e['compute_capability'] for e in engines}))}, "
        f"{len(refused)} refused. Images from 1×1 to 4096×4096. None of them has been run.",
        "",
        "Written by `python benchmarks/tensorrt_rtx_builds.py --json tensorrt_rtx_builds.json "
        "--markdown tensorrt_rtx_builds.md`. MB and seconds are the largest of the row's GPUs; the "
        "seconds are of processor time, parsing included. Exact: layers of the integer network, "
        "all in fp32 or whole numbers.",
        "",
        "| kind | width | role | GPUs | layers | exact | MB | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows: dict[tuple, list[dict[str, Any]]] = {}
    for engine in engines:
        if not engine["refused"]:
            rows.setdefault((engine["kind"], engine["width"], engine["role"]), []).append(engine)
    for (kind, width, role), row in rows.items():
        places = ", ".join(e["compute_capability"] for e in row)
        lines.append(
            f"| {kind} | {width:g} | {role} | {places} | {row[0]['layers']} | "
            f"{row[0]['exact_layers']} | {max(e['bytes'] for e in row) / 1e6:.1f} | "
            f"{max(e['cpu_seconds'] for e in row):.1f} |"
        )
    lines += [f"- refused: {e['role']} {e['width']:g} {e['kind']}: {e['refused']}" for e in refused]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="F")
    parser.add_argument("--markdown", type=Path, metavar="F")
    parser.add_argument("--quick", action="store_true", help="one width and GPU, for tests")
    options = parser.parse_args()
    try:
        document = measure(options.quick)
    except IcmhError as error:
        print(f"tensorrt_rtx_builds: {error}", file=sys.stderr)
        return 2
    text = markdown(document)
    print(text, end="")
    files = ((options.json, json.dumps(document, indent=1) + "\n"), (options.markdown, text))
    for path, content in files:
        if path:
            with replace_file(path) as file:
                file.write(content.encode())
    return 1 if any(engine["refused"] for engine in document["engines"]) else 0


if __name__ == "__main__":
    raise SystemExit(main())
