"""Bundles of converted checkpoints: the published codecs, one rate each.

Such a bundle holds the checkpoint's tensors under their published names, and everything that
decoding depends on in the form in which it is used: the integer tables of the entropy coder, the
medians and the scale table. What remains of h_s is computed by the reference path, with the same
bits everywhere. `icmh_rt.convert` makes these bundles; nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icmh_rt import rans
from icmh_rt._bundle_schema import PUBLISHED_BUNDLE_FORMAT
from icmh_rt.bitstream import TASKS
from icmh_rt.bundle import CodecBundle, checked_weights, part_of, write
from icmh_rt.errors import BundleError, OptionError
from icmh_rt.models import reference_synthesis
from icmh_rt.models.reference_synthesis import ReferenceSynthesis

QUALITY = 50
"""What the one rate of a checkpoint is called: `icmh_rt.Encoder`'s default."""

LATENT_STRIDE = 16
HYPER_STRIDE = 64
"""Pixels of the padded image a position of y and of z, along each side: equal in all families."""

GAUSSIAN = "gaussian_conditional"
_MAX_GAUSSIAN_ROWS = 256  # indexes are uint8

_STATE, _TABLES, _MEDIANS, _SCALES = "state.", "tables.", "medians.", "scales"


@dataclass(frozen=True)
class Padding:
    """How an image becomes one whose sides are multiples of ``multiple``: with black pixels.

    ``centred``: as many before as behind it, one more behind where they are odd; else all behind.
    """

    multiple: int
    centred: bool

    def size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the padded image."""
        height, width = image_size
        return -(-height // self.multiple) * self.multiple, -(
            -width // self.multiple
        ) * self.multiple

    def start(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(row, column) of the image's first pixel in the padded one."""
        padded = self.size(image_size)
        if not self.centred:
            return 0, 0
        return (padded[0] - image_size[0]) // 2, (padded[1] - image_size[1]) // 2


_TIC = Padding(256, centred=False)  # its evaluation pads with zeros behind
_COMPRESSAI = Padding(64, centred=True)  # so does `compressai.utils.eval_model`
# The slimmable codecs were evaluated on 256x256 crops only. Behind, so that a feature's position
# (i, j) is about the pixels from (8i, 8j) on.
_SLIMMABLE = Padding(64, centred=False)

FAMILIES = {
    "tic": _TIC,
    "tic-sfma": _TIC,
    "slimmable-factorized": _SLIMMABLE,
    "slimmable-hyper": _SLIMMABLE,
    "bmshj2018-factorized": _COMPRESSAI,
    "bmshj2018-hyperprior": _COMPRESSAI,
    "mbt2018-mean": _COMPRESSAI,
}
"""Every kind of checkpoint, and how its images are padded. docs/models.md names the sources."""


@dataclass(frozen=True, eq=False)
class PublishedWidth:
    """What a published model has at one width.

    Args:
        latent_channels: M, of y.
        output: ``"image"`` or ``"feature"``: what a latent of this width is decoded to.
        bottleneck: name of the entropy bottleneck, whose tables have one row a channel.
        tables: of the bottleneck.
        medians: float32 ``(C,)``, of the bottleneck.
        gaussian: tables of y with a hyperprior, one row a scale index; None without.
        synthesis: h_s; None without a hyperprior. The bottleneck then codes y and not z.
    """

    latent_channels: int
    output: str
    bottleneck: str
    tables: rans.Tables
    medians: NDArray[Any]
    gaussian: rans.Tables | None
    synthesis: ReferenceSynthesis | None

    def __post_init__(self) -> None:
        channels = len(self.medians)
        if self.medians.dtype != np.float32 or self.medians.shape != (self.tables.num_tables,):
            raise BundleError(
                f"{self.bottleneck} has {self.tables.num_tables} tables and medians "
                f"{self.medians.dtype} {self.medians.shape}: a float32 for each is needed"
            )
        if not np.isfinite(self.medians).all():
            raise BundleError(f"{self.bottleneck} has a median that is not finite")
        if self.output not in ("image", "feature"):
            raise BundleError(f"output {self.output!r} is unknown: image and feature are known")
        if self.synthesis is None and channels != self.latent_channels:
            raise BundleError(
                f"{self.bottleneck} has {channels} channels, the latent {self.latent_channels}"
            )


@dataclass(frozen=True, eq=False)
class PublishedBundle(CodecBundle):
    """One converted checkpoint, in memory.

    Args:
        name: what it is called.
        family: one of `FAMILIES`.
        config: its sizes; information only, the tensors tell them.
        tasks: tasks of its streams.
        adapted_tasks: those of the tasks that run with the checkpoint's adapters.
        state: the checkpoint's tensors under their published names; numbers as float32.
        widths: what there is of each width multiplier.
        scales: float32 ``(T,)``, the scale table; None without a hyperprior.
        padding: of images.
        training: where it is from; information only.
        fingerprint: hex digits that identify it in streams.
    """

    name: str
    family: str
    config: dict[str, Any]
    tasks: tuple[str, ...]
    adapted_tasks: tuple[str, ...]
    state: dict[str, NDArray[Any]]
    widths: dict[float, PublishedWidth]
    scales: NDArray[Any] | None
    padding: Padding
    qualities: tuple[int, ...] = (QUALITY,)
    training: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        unknown = sorted({*self.tasks, *self.adapted_tasks} - set(TASKS))
        if unknown or not self.tasks or not self.widths:
            raise BundleError(f"bundle has tasks {list(self.tasks)} and widths {list(self.widths)}")
        if self.qualities != (QUALITY,):
            raise BundleError(
                f"bundle has qualities {list(self.qualities)}; this icmh_rt reads bundles of one "
                f"rate, {[QUALITY]}"
            )

    def quality(self, quality: int) -> int:
        if quality in self.qualities:
            return quality
        raise OptionError(
            f"quality {quality} is not in bundle {self.name!r}, which is a checkpoint of one rate: "
            f"leave quality at {QUALITY}, or convert the checkpoint of another rate"
        )

    @classmethod
    def assemble(
        cls,
        *,
        widths: Mapping[float, Mapping[str, Any]],
        tables: Mapping[str, rans.Tables],
        medians: Mapping[str, NDArray[Any]],
        scales: NDArray[Any] | None,
        family: str,
        state: dict[str, NDArray[Any]],
        **rest: Any,
    ) -> PublishedBundle:
        """Make a bundle of its parts.

        Args:
            widths: ``latent_channels``, ``output`` and ``bottleneck`` of each width.
            tables: by the name of the bottleneck, and `GAUSSIAN` with a hyperprior.
            medians: float32, by the name of the bottleneck.
            scales, family, state, rest: as for the class.

        Raises:
            BundleError: they do not fit together.
            KeyError: one is missing.
        """
        if family not in FAMILIES:
            raise BundleError(
                f"architecture {family!r} is unknown to this icmh_rt; it knows "
                f"{', '.join(FAMILIES)}"
            )
        gaussian = tables.get(GAUSSIAN)
        if (gaussian is None) != (scales is None):
            raise BundleError("bundle has only one of a scale table and the tables of its scales")
        if scales is not None and gaussian is not None:
            rising = scales.ndim == 1 and np.isfinite(scales).all() and (np.diff(scales) > 0).all()
            if not rising or not len(scales) == gaussian.num_tables <= _MAX_GAUSSIAN_ROWS:
                raise BundleError(
                    f"bundle has a scale table {scales.shape} for {gaussian.num_tables} tables: "
                    f"it must rise, and have one scale for each of at most {_MAX_GAUSSIAN_ROWS}"
                )
        made = {}
        for width, values in widths.items():
            name, channels = values["bottleneck"], values["latent_channels"]
            made[width] = PublishedWidth(
                latent_channels=channels,
                output=values["output"],
                bottleneck=name,
                tables=tables[name],
                medians=medians[name],
                gaussian=gaussian,
                synthesis=None
                if scales is None
                else reference_synthesis.build(family, state, channels, scales),
            )
        return cls(family=family, state=state, widths=made, scales=scales, **rest)

    @classmethod
    def from_arrays(
        cls, manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> PublishedBundle:
        """The bundle that `save` wrote. Raises as `assemble`."""
        tables = {
            name: _unpack(part_of(arrays, f"{_TABLES}{name}.")) for name in manifest["entropy"]
        }
        return cls.assemble(
            name=manifest["name"],
            family=manifest["architecture"],
            config=manifest["config"],
            tasks=tuple(manifest["tasks"]),
            adapted_tasks=tuple(manifest["adapted_tasks"]),
            state=checked_weights(part_of(arrays, _STATE)),
            widths={float(width): values for width, values in manifest["widths"].items()},
            tables=tables,
            medians=part_of(arrays, _MEDIANS),
            scales=arrays.get(_SCALES),
            padding=Padding(**manifest["padding"]),
            qualities=tuple(manifest["qualities"]),
            training=manifest.get("training", {}),
            fingerprint=manifest["fingerprint"],
        )

    def save(self, folder: str | Path) -> str:
        """Write it to ``folder`` and return its fingerprint; equal bundles give equal files."""
        tables = {width.bottleneck: width.tables for width in self.widths.values()}
        arrays = {_STATE + name: array for name, array in self.state.items()}
        for width in self.widths.values():
            arrays[_MEDIANS + width.bottleneck] = width.medians
            if width.gaussian is not None:
                tables[GAUSSIAN] = width.gaussian
        if self.scales is not None:
            arrays[_SCALES] = self.scales
        for name, table in tables.items():
            arrays |= {f"{_TABLES}{name}.{k}": v for k, v in _pack(table).items()}
        manifest = {
            "bundle_format": PUBLISHED_BUNDLE_FORMAT,
            "name": self.name,
            "architecture": self.family,
            "config": self.config,
            "tasks": list(self.tasks),
            "adapted_tasks": list(self.adapted_tasks),
            "qualities": list(self.qualities),
            "padding": {"multiple": self.padding.multiple, "centred": self.padding.centred},
            "entropy": sorted(tables),
            "widths": {
                str(value): {
                    "latent_channels": width.latent_channels,
                    "output": width.output,
                    "bottleneck": width.bottleneck,
                }
                for value, width in self.widths.items()
            },
            "training": self.training,
        }
        return write(folder, manifest, arrays)


def _pack(tables: rans.Tables) -> dict[str, NDArray[Any]]:
    """Tables as arrays, the rows of the CDFs one after the other: the last rows of a scale table
    are a hundred times as long as the first.
    """
    arrays = tables.to_arrays()
    rows = [row[:length] for row, length in zip(arrays["cdfs"], tables.lengths, strict=True)]
    return {**arrays, "cdfs": np.concatenate(rows)}


def _unpack(arrays: Mapping[str, NDArray[Any]]) -> rans.Tables:
    flat, lengths = arrays["cdfs"], arrays["lengths"].astype(np.int64)
    if lengths.ndim != 1 or flat.shape != (lengths.sum(),) or not (lengths > 0).all():
        raise BundleError(f"bundle has CDFs {flat.shape} for rows of {lengths.sum()} entries")
    cdfs = np.zeros((len(lengths), lengths.max(initial=0)), flat.dtype)
    cdfs[np.arange(cdfs.shape[1]) < lengths[:, None]] = flat
    return rans.Tables.from_arrays({**arrays, "cdfs": cdfs})
