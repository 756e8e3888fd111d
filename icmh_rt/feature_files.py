"""Files of trained feature heads as numpy arrays, without torch.

A feature head turns the dequantized latents of a task's streams of one width straight into
intermediate features of a vision network, so that no picture is drawn for a machine ("Slimmable
multi-task image compression", Cao et al., IEEE Access 2023, section III: the feature decoder of the
narrowest width). Streams do not depend on it: a head may be replaced, streams stay valid.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icmh_rt._files import replace_file
from icmh_rt._tensor_files import described, read_tensors, safetensors_numpy
from icmh_rt.bitstream import FINGERPRINT_BYTES
from icmh_rt.errors import BundleError

METADATA = "icmh_features"
FORMAT = 1

BOUND = 4.0
"""What goes into a block, and comes out of the last, is clipped to plus and minus this. A block is
a product of what it sees: without, six of them multiply what is unusual to anything.
"""


@dataclass(frozen=True, eq=False)
class TrainedFeatureHead:
    """One task's feature head.

    Args:
        arrays: by the names that they have in ``models.feature_head.FeatureHead``.
        width: the width multiplier whose latents it takes.
        channels, blocks: of its depth-conv blocks.
        outputs: names of the features, the layers of the network that would have made them, with
            their channels; all have a position for each of the latent's.
        size: (height, width) that the network takes: what pictures are resized to before they are
            encoded. None: any.
        latents: fingerprint of the streams whose latents it was trained on.
    """

    arrays: Mapping[str, NDArray[Any]]
    width: float
    channels: int
    blocks: int
    outputs: tuple[tuple[str, int], ...]
    size: tuple[int, int] | None
    latents: str

    @cached_property
    def fingerprint(self) -> str:
        """Hex digits that identify the head."""
        digest = hashlib.sha256(json.dumps(self._described(), sort_keys=True).encode())
        for name in sorted(self.arrays):
            digest.update(f"{name} {self.arrays[name].dtype}".encode())
            digest.update(np.ascontiguousarray(self.arrays[name]).tobytes())
        return digest.hexdigest()[: 2 * FINGERPRINT_BYTES]

    def _described(self) -> dict[str, Any]:
        """What the file's metadata say of it."""
        return {
            "format": FORMAT,
            "width": self.width,
            "channels": self.channels,
            "blocks": self.blocks,
            "outputs": [list(output) for output in self.outputs],
            "size": self.size and list(self.size),
            "latents": self.latents,
        }

    def split(self, features: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """All features, ``(C, h, w)`` one behind the other, by name."""
        ends = np.cumsum([channels for _, channels in self.outputs])
        parts = np.split(features, ends[:-1])
        return {name: part for (name, _), part in zip(self.outputs, parts, strict=True)}


def read_feature_head(path: str | os.PathLike[str]) -> tuple[str, TrainedFeatureHead]:
    """The task and the head of a file.

    Raises:
        BundleError: the file cannot be read or is damaged.
        BackendUnavailableError: safetensors is not installed.
    """
    _, arrays, texts = read_tensors(path, "feature head")
    shown = repr(os.fspath(path))
    found = described(texts.get(METADATA), shown, "feature head", FORMAT, "`icmh train features`")
    try:
        size = found["size"]
        head = TrainedFeatureHead(
            arrays,
            float(found["width"]),
            int(found["channels"]),
            int(found["blocks"]),
            tuple((str(name), int(channels)) for name, channels in found["outputs"]),
            None if size is None else (int(size[0]), int(size[1])),
            str(found["latents"]),
        )
        task = str(found["task"])
    except (KeyError, TypeError, ArithmeticError, ValueError, IndexError):
        raise BundleError(f"feature head file {shown} has damaged metadata") from None
    _check(head, shown)
    return task, head


def _check(head: TrainedFeatureHead, shown: str) -> None:
    """That the arrays are those that the description speaks of."""
    total = sum(channels for _, channels in head.outputs)
    sizes = [channels for _, channels in head.outputs] + list(head.size or (1, 1))
    names = {name for name, _ in head.outputs}
    # A block has twelve arrays: what the description claims is no reason to count to it.
    if not 0 <= head.blocks <= len(head.arrays) or min(sizes) < 1 or len(names) < len(head.outputs):
        raise BundleError(f"feature head file {shown} does not fit its metadata: impossible sizes")
    stem = head.arrays.get("stem.weight")
    latent = stem.shape[1] if stem is not None and stem.ndim == 2 else 0
    c = head.channels
    shapes: dict[str, tuple[int, ...]] = {"stem.weight": (c, latent), "stem.bias": (1, c)}
    shapes |= {"out.weight": (total, c), "out.bias": (1, total)}
    for index in range(head.blocks):
        for layer in ("mix_in", "mix_out", "ffn_gate", "ffn_value", "ffn_out"):
            shapes[f"blocks.{index}.{layer}.weight"] = (c, c)
            shapes[f"blocks.{index}.{layer}.bias"] = (1, c)
        shapes[f"blocks.{index}.mix_spatial.weight"] = (c, 1, 3, 3)
        shapes[f"blocks.{index}.mix_spatial.bias"] = (1, c)
    found = {name: array.shape for name, array in head.arrays.items()}
    if found != shapes or not latent or not head.outputs:
        wrong = sorted(set(found.items()) ^ set(shapes.items()))
        raise BundleError(f"feature head file {shown} does not fit its metadata: {wrong[:2]}")
    for name, array in head.arrays.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise BundleError(f"feature head file {shown}: {name!r} is not finite numbers")


def save_feature_head(path: str | os.PathLike[str], task: str, head: TrainedFeatureHead) -> None:
    """Write ``head`` to a file; equal heads give equal files.

    Raises:
        BackendUnavailableError: safetensors is not installed.
        OSError: the file cannot be written.
    """
    metadata = {"task": task, **head._described()}
    arrays = {name: np.ascontiguousarray(head.arrays[name]) for name in sorted(head.arrays)}
    data = safetensors_numpy().save(arrays, {METADATA: json.dumps(metadata)})
    with replace_file(path) as file:
        file.write(data)
