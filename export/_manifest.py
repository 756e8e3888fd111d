"""manifest.json: what a folder of graphs holds, for those who load them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

import icmh_rt
from icmh_rt._files import replace_file
from icmh_rt.bundle import Bundle

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1


def borders(model: onnx.ModelProto) -> dict[str, list[dict[str, Any]]]:
    """Inputs and outputs of a graph: name, dtype and shape, with words for sides that vary."""
    found = {}
    for kind in ("input", "output"):
        values = []
        for value in getattr(model.graph, kind):
            tensor = value.type.tensor_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            shape = [side.dim_param or side.dim_value for side in tensor.shape.dim]
            values.append({"name": value.name, "dtype": dtype.name, "shape": shape})
        found[f"{kind}s"] = values
    return found


def describe(model: onnx.ModelProto, data: bytes) -> dict[str, Any]:
    """What the manifest says of every graph; ``data`` are the bytes of its file."""
    return {
        **borders(model),
        "opset": next(i.version for i in model.opset_import if i.domain in ("", "ai.onnx")),
        "ir_version": model.ir_version,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def hash_of(arrays: Mapping[str, Any] | None) -> str | None:
    """Tells adapters apart: a hash of names and values, None of none."""
    if arrays is None:
        return None
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()[:16]


def write(folder: Path, bundle: Bundle, graphs: Sequence[Mapping[str, Any]]) -> Path:
    """Write the manifest of ``graphs`` and of what earlier exports of this bundle left there."""
    path = folder / MANIFEST
    earlier = _read(path)
    if (earlier.get("bundle"), earlier.get("fingerprint")) != (bundle.name, bundle.fingerprint):
        earlier = {}
    kept = {g["file"]: g for g in earlier.get("graphs", []) if (folder / g["file"]).is_file()}
    kept |= {graph["file"]: dict(graph) for graph in graphs}
    document = {
        **earlier,
        "manifest_format": MANIFEST_FORMAT,
        "bundle": bundle.name,
        "fingerprint": bundle.fingerprint,
        "icmh_rt": icmh_rt.__version__,
        "onnx": onnx.__version__,
        "graphs": [kept[name] for name in sorted(kept)],
    }
    with replace_file(path) as file:
        file.write((json.dumps(document, indent=1, sort_keys=True) + "\n").encode())
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if all("file" in g for g in found.get("graphs", [])) else {}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
