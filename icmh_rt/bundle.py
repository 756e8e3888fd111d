"""A model bundle: one folder with ``bundle.json`` (what it is), ``model.safetensors`` (its arrays)
and, in ``adapters`` and ``features``, a file for each task that has some.

`Bundle` is the default architecture; `icmh_rt.published.PublishedBundle` is a converted checkpoint.
``name_of`` and ``installed`` read the JSON only; they need neither torch nor safetensors. Nothing
is ever unpickled. The fingerprint is the start of a SHA-256 over both files' contents, so two
bundles that would code differently never share one.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icmh_rt import rans
from icmh_rt._bundle_parts import (
    ADAPTERS,
    FEATURES,
    file_of,
    files,
    with_adapters,
    with_feature_heads,
)
from icmh_rt._bundle_schema import BUNDLE_FORMAT, PUBLISHED_BUNDLE_FORMAT, check
from icmh_rt._files import replace_file
from icmh_rt._foreign import MAX_JSON_BYTES, MAX_TENSORS_BYTES, one_line, parse_json, read_file
from icmh_rt._tensor_files import arrays_of, safetensors_numpy
from icmh_rt.adapter_files import TrainedAdapters, fingerprint_of, read_adapters
from icmh_rt.bitstream import (
    BASE_TASK,
    FINGERPRINT_BYTES,
    MAX_QUALITY,
    MIN_QUALITY,
    TASKS,
    width_to_id,
)
from icmh_rt.errors import BundleError, OptionError
from icmh_rt.feature_files import TrainedFeatureHead, read_feature_head
from icmh_rt.models.integer_network import IntegerHyperSynthesis

MANIFEST = "bundle.json"
WEIGHTS = "model.safetensors"
INSTALLED = Path(__file__).resolve().parent / "bundles"
DEFAULT_BUNDLE = "default"
ARCHITECTURE = "slimmable_hyperprior"
QUALITIES = MAX_QUALITY - MIN_QUALITY + 1


@dataclass(frozen=True, eq=False)
class WidthTables:
    """What quality means at one width; row ``quality - 1`` of every table. Q = 100.

    Args:
        gain: float32 ``(Q, M)``, what the encoder multiplies the latent with before rounding.
        inverse_gain: float32 ``(Q, M)``, what the decoder multiplies with; part of the format.
        hyper_gain: float32 ``(Q, Z)``, the same as ``gain`` for the hyper-latent.
        hyper_index: uint8 ``(Q, Z)``, the table row that codes each hyper-latent channel.
        hyper_synthesis: the integer network h_s.
    """

    gain: NDArray[np.float32]
    inverse_gain: NDArray[np.float32]
    hyper_gain: NDArray[np.float32]
    hyper_index: NDArray[np.uint8]
    hyper_synthesis: IntegerHyperSynthesis

    def __post_init__(self) -> None:
        m, z = self.hyper_synthesis.latent_channels, self.hyper_synthesis.z_channels
        wanted = {
            "gain": (np.float32, m),
            "inverse_gain": (np.float32, m),
            "hyper_gain": (np.float32, z),
            "hyper_index": (np.uint8, z),
        }
        for name, (dtype, channels) in wanted.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != (QUALITIES, channels):
                raise BundleError(
                    f"bundle table {name!r} is {array.dtype} {array.shape}, not "
                    f"{np.dtype(dtype)} {(QUALITIES, channels)}"
                )
            if array.dtype == np.float32 and not (np.isfinite(array).all() and array.min() > 0):
                raise BundleError(f"bundle table {name!r} has a value that is not positive")


class CodecBundle:
    """What the codec asks of a bundle of any architecture.

    Attributes:
        name: what it is called.
        tasks: the tasks it has weights for.
        widths: what there is of each width multiplier.
        fingerprint: hex digits that identify it in streams; empty until it is saved.
    """

    name: str
    tasks: tuple[str, ...]
    widths: dict[float, Any]
    fingerprint: str

    def width(self, width: float) -> tuple[float, Any]:
        """The bundle's own value of ``width`` and its tables; OptionError when it has no such
        width.
        """
        if isinstance(width, (int, float)) and not isinstance(width, bool):
            for value, tables in self.widths.items():
                if abs(value - width) < 1e-6:
                    return value, tables
        raise OptionError(
            f"width {width!r} is not in bundle {self.name!r}: use one of "
            f"{', '.join(map(str, self.widths))}"
        )

    def task(self, task: str) -> str:
        """``task`` if the bundle has it; OptionError otherwise."""
        if task in self.tasks:
            return task
        what = "not in bundle" if task in TASKS else "unknown; not in bundle"
        raise OptionError(
            f"task {task!r} is {what} {self.name!r}: use one of {', '.join(self.tasks)}"
        )

    def fingerprint_of(self, task: str) -> str:
        """What identifies the weights for one of the bundle's tasks in streams."""
        return self.fingerprint

    @property
    def weights_identity(self) -> tuple[str, ...]:
        """What tells all of its weights, those of every task, from others'; empty if that is not
        known.
        """
        return (self.fingerprint,) if self.fingerprint else ()

    def quality(self, quality: int) -> int:
        """``quality``, of 1 to 100, if the bundle has it; OptionError otherwise."""
        return quality

    def feature_head(self, width: float, task: str) -> TrainedFeatureHead:
        """The feature head for latents of ``width`` and ``task``; OptionError without one."""
        raise OptionError(
            f"bundle {self.name!r} has no feature head for task {task!r}: decode the image instead"
        )


@dataclass(frozen=True, eq=False)
class Bundle(CodecBundle):
    """One model, in memory.

    Args:
        name: what it is called.
        config: sizes of the network, as ``SlimmableHyperpriorConfig.to_dict`` gives them.
        tasks: the tasks it has weights for.
        transforms: float16 or float32 arrays of g_a, h_a and g_s, keyed like their state dict.
        widths: the quality tables and integer network of each width multiplier.
        tables: the quantized CDF tables, one row a scale index.
        training: how it was trained; information only.
        fingerprint: hex digits that identify it in streams.
        adapters: of the tasks that have some, which then are among ``tasks``.
        feature_heads: of the tasks that have one.
    """

    name: str
    config: dict[str, Any]
    tasks: tuple[str, ...]
    transforms: dict[str, NDArray[Any]]
    widths: dict[float, WidthTables]
    tables: rans.Tables
    training: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    adapters: Mapping[str, TrainedAdapters] = field(default_factory=dict)
    feature_heads: Mapping[str, TrainedFeatureHead] = field(default_factory=dict)

    def fingerprint_of(self, task: str) -> str:
        """That of the base, or of the task's adapters with it."""
        return self.adapters[task].fingerprint if task in self.adapters else self.fingerprint

    @property
    def weights_identity(self) -> tuple[str, ...]:
        if not self.fingerprint:
            return ()
        heads = (f"{task} {head.fingerprint}" for task, head in self.feature_heads.items())
        return (self.fingerprint, *map(self.fingerprint_of, self.adapters), *heads)

    def feature_head(self, width: float, task: str) -> TrainedFeatureHead:
        head = self.feature_heads.get(task)
        if head is None:
            return super().feature_head(width, task)
        if abs(head.width - width) > 1e-6:
            raise OptionError(
                f"bundle {self.name!r} has a feature head for task {task!r} at width {head.width} "
                f"and none at {width}: decode the image instead, or encode at {head.width}"
            )
        return head

    def __post_init__(self) -> None:
        for width, tables in self.widths.items():
            network = tables.hyper_synthesis
            used = max(network.scales - 1, int(tables.hyper_index.max()))
            if used >= self.tables.num_tables:
                raise BundleError(
                    f"width {width} uses scale index {used}, the bundle has "
                    f"{self.tables.num_tables} tables"
                )
        unknown = sorted(set(self.tasks) - set(TASKS))
        if unknown or not self.tasks or not self.widths:
            raise BundleError(f"bundle has tasks {list(self.tasks)} and widths {list(self.widths)}")


# -- finding ---------------------------------------------------------------------------------------


def installed() -> Iterator[tuple[str, Path]]:
    """(name, folder) of the bundles that came with the package."""
    if INSTALLED.is_dir():
        for folder in sorted(INSTALLED.iterdir()):
            if (folder / MANIFEST).is_file():
                yield folder.name, folder


def name_of(fingerprint: str) -> str | None:
    """Name of the installed bundle with this fingerprint, or None."""
    for name, folder in installed():
        base = _read_manifest(folder).get("fingerprint")
        if base == fingerprint:
            return name
        for path in files(folder, ADAPTERS):
            if fingerprint_of(str(base), path.read_bytes()) == fingerprint:
                return name
    return None


def find(model: str | Path) -> Path:
    """Folder of ``model``: an installed bundle's name or a path to a bundle folder.

    Raises:
        BundleError: there is neither.
    """
    names = dict(installed())
    if str(model) in names:
        return names[str(model)]
    folder = Path(model)
    if (folder / MANIFEST).is_file():
        return folder
    raise BundleError(
        f"no bundle {str(model)!r}: installed ones are {', '.join(names) or 'none'}; or give the "
        f"path of a folder with {MANIFEST}"
    )


@functools.lru_cache(maxsize=4)
def _load_cached(folder: Path, stamp: tuple[int, ...]) -> CodecBundle:
    return _load(folder)


def load(model: str | Path | CodecBundle = DEFAULT_BUNDLE) -> CodecBundle:
    """A bundle by name, path, or as it is; the last few are kept in memory until they change on
    disk.

    Raises:
        BundleError: it does not exist, is damaged, or fails the integer network's proof.
        BackendUnavailableError: safetensors is not installed.
    """
    if isinstance(model, CodecBundle):
        return model
    if not isinstance(model, (str, Path)):
        raise OptionError(f"model is a {type(model).__name__}; give a bundle's name or path")
    folder = find(model).resolve()
    try:
        paths = (folder / MANIFEST, folder / WEIGHTS, *files(folder, ADAPTERS, FEATURES))
        stamp = tuple(path.stat().st_mtime_ns for path in paths)
    except OSError as error:
        raise BundleError(f"bundle {str(folder)!r} cannot be read: {error}") from None
    return _load_cached(folder, stamp)


# -- reading and writing ---------------------------------------------------------------------------


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = parse_json(read_file(path, MAX_JSON_BYTES).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{str(path)!r} cannot be read: {one_line(error)}") from None
    return check(manifest, repr(str(path)))


def _fingerprint(manifest: Mapping[str, Any], weights: bytes) -> str:
    """Of everything that can change a stream or a picture; notes on the training cannot."""
    kept = {k: v for k, v in manifest.items() if k not in ("fingerprint", "training", "name")}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    digest.update(hashlib.sha256(weights).digest())
    return digest.hexdigest()[: 2 * FINGERPRINT_BYTES]


def _prefix(width: float) -> str:
    return f"width.{width_to_id(width)}."


_TRANSFORMS = "transforms."
_TABLES = "tables."
_WIDTH_ARRAYS = ("gain", "inverse_gain", "hyper_gain", "hyper_index")


def _load(folder: Path) -> CodecBundle:
    manifest = _read_manifest(folder)
    try:
        weights = read_file(folder / WEIGHTS, MAX_TENSORS_BYTES)
    except OSError as error:
        raise BundleError(f"bundle {str(folder)!r} cannot be read: {one_line(error)}") from None
    fingerprint = _fingerprint(manifest, weights)
    if fingerprint != manifest.get("fingerprint"):
        raise BundleError(
            f"bundle {str(folder)!r} is damaged: its contents have fingerprint {fingerprint}, it "
            f"says {manifest.get('fingerprint')!r}; install it again"
        )
    arrays = arrays_of(weights, f"the weights of bundle {str(folder)!r}")
    try:
        if manifest["bundle_format"] == PUBLISHED_BUNDLE_FORMAT:
            from icmh_rt.published import PublishedBundle

            return PublishedBundle.from_arrays(manifest, arrays)
        bundle = _from_arrays(manifest, arrays)
        bundle = with_adapters(bundle, files(folder, ADAPTERS))
        return with_feature_heads(bundle, files(folder, FEATURES))
    except KeyError as error:
        raise BundleError(f"bundle {str(folder)!r} lacks {one_line(error)}") from None
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise BundleError(f"bundle {str(folder)!r} cannot be read: {one_line(error)}") from None


def _from_arrays(manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Bundle:
    if manifest["architecture"] != ARCHITECTURE:
        raise BundleError(
            f"architecture {manifest['architecture']!r} is unknown to this icmh_rt; bundles of "
            f"format {BUNDLE_FORMAT} are of {ARCHITECTURE!r}"
        )
    widths = {}
    for width in manifest["widths"]:
        prefix = _prefix(width)
        network = IntegerHyperSynthesis.from_tensors(
            arrays, manifest["hyper_synthesis"][str(width)], prefix + "h_s."
        )
        tables = {name: arrays[prefix + name] for name in _WIDTH_ARRAYS}
        widths[width] = WidthTables(hyper_synthesis=network, **tables)
    _check_config(manifest["config"], widths)
    return Bundle(
        name=manifest["name"],
        config=manifest["config"],
        tasks=tuple(manifest["tasks"]),
        transforms=checked_weights(part_of(arrays, _TRANSFORMS)),
        widths=widths,
        tables=rans.Tables.from_arrays(part_of(arrays, _TABLES)),
        training=manifest.get("training", {}),
        fingerprint=manifest["fingerprint"],
    )


def _check_config(config: Mapping[str, Any], widths: Mapping[float, WidthTables]) -> None:
    """That what the transforms are made by and what codes their latents have the same sizes."""
    networks = [tables.hyper_synthesis for tables in widths.values()]
    for key, wanted in (
        ("widths", list(widths)),
        ("latent_channels", [network.latent_channels for network in networks]),
        ("hyper_latent_channels", [network.z_channels for network in networks]),
    ):
        if config[key] != wanted or any(type(value) is bool for value in config[key]):
            raise BundleError(f"its config has {key} {config[key]!r}, its networks {wanted}")


def _base_in(folder: Path) -> Bundle:
    """The bundle in ``folder`` with all that it has; BundleError if it takes no parts."""
    bundle = _load(folder)
    if not isinstance(bundle, Bundle):
        raise BundleError(
            f"bundle {bundle.name!r} is a converted checkpoint: it takes no adapters and no "
            "feature heads"
        )
    return bundle


def add_adapters(folder: str | Path, path: str | Path) -> tuple[str, ...]:
    """Put an adapter file into the bundle in ``folder``; returns its tasks, whose former adapters
    it replaces. A feature head that was trained on the former ones goes.

    Raises:
        BundleError: the bundle or the file is damaged, or they do not belong together.
    """
    folder = Path(folder)
    bundle = _base_in(folder)
    found = read_adapters(path, bundle.transforms, bundle.fingerprint)
    if len(found) != 1:
        raise BundleError(f"{str(path)!r} has {len(found)} tasks: give a file of one")
    ((task, adapters),) = found.items()
    with_adapters(replace(bundle, tasks=(BASE_TASK,), adapters={}), [Path(path)])
    data = Path(path).read_bytes()
    (folder / ADAPTERS).mkdir(exist_ok=True)
    if task in bundle.feature_heads and bundle.fingerprint_of(task) != adapters.fingerprint:
        file_of(folder, FEATURES, task).unlink()
    with replace_file(file_of(folder, ADAPTERS, task)) as file:
        file.write(data)
    return (task,)


def add_feature_head(folder: str | Path, path: str | Path) -> str:
    """Put a feature head's file into the bundle in ``folder``; returns its task, whose former head
    it replaces.

    Raises:
        BundleError: the bundle or the file is damaged, or they do not belong together.
    """
    folder = Path(folder)
    with_feature_heads(_base_in(folder), [Path(path)])
    task, _ = read_feature_head(path)
    data = Path(path).read_bytes()
    (folder / FEATURES).mkdir(exist_ok=True)
    with replace_file(file_of(folder, FEATURES, task)) as file:
        file.write(data)
    return task


def checked_weights(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """``arrays`` if all their floats are finite; BundleError otherwise."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BundleError(f"bundle array {name!r} has a value that is not finite")
    return arrays


def part_of(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """The arrays whose names begin with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def save(bundle: Bundle, folder: str | Path) -> str:
    """Write the base of ``bundle`` to ``folder`` and return its fingerprint; equal bundles give
    equal files. Adapters and feature heads are files of their own: `add_adapters`,
    `add_feature_head`.
    """
    arrays = {_TRANSFORMS + k: v for k, v in bundle.transforms.items()}
    arrays |= {_TABLES + k: v for k, v in bundle.tables.to_arrays().items()}
    described = {}
    for width, tables in bundle.widths.items():
        prefix = _prefix(width)
        tensors, described[str(width)] = tables.hyper_synthesis.to_tensors(prefix + "h_s.")
        arrays |= tensors
        arrays |= {prefix + name: getattr(tables, name) for name in _WIDTH_ARRAYS}
    manifest = {
        "bundle_format": BUNDLE_FORMAT,
        "name": bundle.name,
        "architecture": ARCHITECTURE,
        "config": bundle.config,
        "tasks": [task for task in bundle.tasks if task not in bundle.adapters],
        "widths": list(bundle.widths),
        "hyper_synthesis": described,
        "training": bundle.training,
    }
    return write(folder, manifest, arrays)


def write(
    folder: str | Path, manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> str:
    """Write the two files of a bundle, and return the fingerprint that its manifest gets."""
    folder = Path(folder)
    contiguous = {k: np.ascontiguousarray(v) for k, v in sorted(arrays.items())}
    weights = safetensors_numpy().save(contiguous)
    manifest = {**manifest, "fingerprint": _fingerprint(manifest, weights)}
    folder.mkdir(parents=True, exist_ok=True)
    # Both are complete before either is replaced.
    with replace_file(folder / MANIFEST) as description, replace_file(folder / WEIGHTS) as file:
        file.write(weights)
        description.write((json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
        file.flush()
        description.flush()
    return manifest["fingerprint"]
