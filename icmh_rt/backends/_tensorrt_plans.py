"""Plans on disk: what they are called, what they are good for, and whether they still are.

Beside every plan lies a JSON file that says what it was made of. A plan is used only if all of that
is as it would be now and its bytes are those that were written. Plans are programs: they are read
only from folders that nobody else can write to.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

import icmh_rt
from icmh_rt._files import replace_file
from icmh_rt.backends._tensorrt_builder import BuildOptions, Built, ImageSizes
from icmh_rt.backends._tensorrt_engine import Device
from icmh_rt.backends._tensorrt_library import Library
from icmh_rt.bitstream import BASE_TASK
from icmh_rt.bundle import Bundle, CodecBundle
from icmh_rt.errors import BackendUnavailableError, IcmhError, OptionError

FOLDER = "ICMH_TENSORRT_CACHE"
"""Environment variable: where plans are kept, instead of ~/.cache/icmh_rt/tensorrt."""

PLANS = "ICMH_TENSORRT_PLANS"
"""Environment variable: more folders with plans, as ``icmh export tensorrt -o`` makes them."""

SUFFIX = ".plan"
_FORMAT = 1
_PRIVATE = 0o700
_SAFE = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True)
class Target:
    """What plans are built for.

    gpu: its name, "any" for every one of that compute capability · compute_capability: "8.6" ·
    driver: its version, "any" where plans do not depend on it · library: "tensorrt 10.3.0".
    """

    gpu: str
    compute_capability: str
    driver: str
    library: str

    @property
    def label(self) -> str:
        """For file names: ``nvidia-a10-sm86``, ``sm86``."""
        code = "sm" + self.compute_capability.replace(".", "")
        return code if self.gpu == "any" else f"{_slug(self.gpu)}-{code}"


def target_of(library: Library, gpu: str, capability: tuple[int, int], driver: str) -> Target:
    """What ``library`` builds for a GPU that is here. Plans of TensorRT-RTX run on every GPU of
    their compute capability: it compiles kernels for the very one when it runs them.
    """
    code = f"{capability[0]}.{capability[1]}"
    version = f"{library.name} {library.version}"
    if library.builds_for_others:
        return Target("any", code, "any", version)
    return Target(gpu, code, driver, version)


def target_here(library: Library, device: Device) -> Target:
    """What ``library`` builds for a GPU that is here."""
    cuda, index = device.cuda, device.index
    name, driver = cuda.device_name(index), cuda.driver_version()
    return target_of(library, name, cuda.compute_capability(index), driver)


@dataclass(frozen=True)
class Identity:
    """What a plan is made of; equal identities mean an interchangeable plan.

    bundle: name · weights: fingerprint or hash of the arrays · role, width, task, precision,
    eight_bits, gate: of the graph · adapters: hash of their weights, empty without · target ·
    options: how it was built, sizes among them · version: of icmh_rt.
    """

    bundle: str
    weights: str
    role: str
    width: float
    task: str
    precision: str
    target: Target
    options: BuildOptions
    eight_bits: str = ""
    gate: str = "native"
    adapters: str = ""
    version: str = icmh_rt.__version__

    @property
    def name(self) -> str:
        """The plan's file name."""
        parts = (*self._stem, self.options.sizes.label, *self._end)
        return "_".join(parts) + SUFFIX

    @property
    def pattern(self) -> str:
        """Glob of the plans that are the same but for the sizes that they take."""
        return "_".join((*self._stem, "*", *self._end)) + SUFFIX

    @property
    def _stem(self) -> tuple[str, ...]:
        model = f"{_slug(self.bundle)}-{self.weights[:8]}"
        kind = [self.precision, self.eight_bits, self.gate if self.gate != "native" else ""]
        return model, self.task, f"w{self.width:g}", self.role, "-".join(filter(None, kind))

    @property
    def _end(self) -> tuple[str, ...]:
        library, _, version = self.target.library.partition(" ")
        return self.target.label, f"{'rtx' if library == 'tensorrt_rtx' else 'trt'}{version}"

    def to_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))


def weights_of(bundle: CodecBundle, task: str = BASE_TASK, role: str = "") -> str:
    """What identifies the arrays for a task and role: the fingerprint, that of the bundle's
    adapters or feature head where it has some; or a hash where it has none yet.
    """
    base = cast(Bundle, bundle)  # TensorRT runs no other
    if role == "features" and task in base.feature_heads:
        return base.feature_heads[task].fingerprint
    if bundle.fingerprint:
        return bundle.fingerprint_of(task)
    digest = hashlib.sha256(json.dumps(base.config, sort_keys=True).encode())
    for name, array in sorted(base.transforms.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class Plan:
    """A plan on disk. path: of it · record: what the file beside it says."""

    path: Path
    record: dict[str, Any]

    @property
    def sizes(self) -> ImageSizes:
        fields = self.record["identity"]["options"]["sizes"]
        least, best, most = (tuple(fields[n]) for n in ("least", "best", "most"))
        return ImageSizes(least, best, most, fields["batch"])

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            BackendUnavailableError: they are not those that were written.
        """
        data = self.path.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.record["sha256"]:
            raise BackendUnavailableError(
                f"{self.path} is damaged: remove it, and it is built anew"
            )
        return data


def cache_folder() -> Path:
    """Where plans are kept that nobody asked to be elsewhere; made if missing, for this user only.

    Raises:
        BackendUnavailableError: others could put plans there.
    """
    own = os.environ.get(FOLDER)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(own) if own else Path(base) / "icmh_rt" / "tensorrt"
    try:
        folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    except OSError as error:
        raise BackendUnavailableError(
            f"plans cannot be kept in {folder} ({error.strerror}): name a folder in {FOLDER}"
        ) from None
    check_private(folder)
    return folder


def folders() -> list[Path]:
    """Where plans are looked for, in this order."""
    named = [Path(part) for part in os.environ.get(PLANS, "").split(os.pathsep) if part]
    for folder in named:
        if not folder.is_dir():
            raise OptionError(f"{PLANS} names {folder}, which is no folder")
        check_private(folder)
    return [*named, cache_folder()]


def check_private(folder: Path) -> None:
    """Raise BackendUnavailableError if others than this user and root can write to ``folder``."""
    if not hasattr(os, "getuid"):
        return
    status = folder.stat()
    if status.st_uid not in (os.getuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BackendUnavailableError(
            f"{folder} can be written by others, and plans are programs: chmod go-w it, or name "
            f"another folder in {FOLDER}"
        )


def stale(plan: Path, identity: Identity, graph_hash: str = "", any_driver: bool = False) -> str:
    """Why the plan at that path cannot be used for ``identity``; empty: it can.

    Args:
        graph_hash: SHA-256 of the graph, where that is known.
        any_driver: a plan made under another driver will do.
    """
    if not plan.exists():
        return "there is none"
    try:
        record = _record(plan)
    except (OSError, ValueError) as error:
        return f"what it was made of cannot be read ({error})"
    if record.get("format") != _FORMAT:
        return f"it is of format {record.get('format')!r}"
    changes = sorted(_differences(record.get("identity", {}), identity.to_dict()))
    if any_driver:
        changes = [change for change in changes if not change.startswith("target.driver")]
    if changes:
        return f"changed: {', '.join(changes)}"
    if graph_hash and record.get("graph_sha256") != graph_hash:
        return "the graph has changed"
    try:
        Plan(plan, record).read()
    except (OSError, IcmhError):
        return "it is damaged"
    return ""


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        if old != new:
            yield f"{prefix} {old} -> {new}"
        return
    for name in {*old, *new}:
        inner = f"{prefix}.{name}" if prefix else name
        yield from _differences(old.get(name), new.get(name), inner)


def find(identity: Identity, sizes: Iterable[tuple[int, int]] = ()) -> Plan | None:
    """A plan for ``identity`` that takes images of all ``sizes``, whatever else it takes: of
    several the one made for the least. None: there is none.
    """
    found = []
    cache = cache_folder()
    for folder in folders():
        for path in sorted(folder.glob(identity.pattern)):
            try:
                plan = Plan(path, _record(path))
                wanted = _with_options(identity, plan)
                if all(plan.sizes.holds(size) for size in sizes):
                    if not stale(path, wanted, any_driver=folder != cache):
                        found.append(plan)
            except (OSError, ValueError, KeyError, TypeError, OptionError):
                continue  # not one of ours, or half written by an older version
    return min(found, key=lambda plan: plan.sizes.most[0] * plan.sizes.most[1], default=None)


def _with_options(identity: Identity, plan: Plan) -> Identity:
    """``identity`` with the plan's own options: how it was built is its owner's business."""
    fields = dict(plan.record["identity"]["options"])
    options = BuildOptions(**{**fields, "sizes": plan.sizes})
    return Identity(**{**vars(identity), "options": options})


def save(folder: Path, identity: Identity, built: Built, graph: bytes, **more: Any) -> Plan:
    """Write a plan and what it was made of."""
    path = folder / identity.name
    record = {
        "format": _FORMAT,
        "identity": identity.to_dict(),
        "graph_sha256": hashlib.sha256(graph).hexdigest(),
        "sha256": hashlib.sha256(built.plan).hexdigest(),
        "size_bytes": len(built.plan),
        "build_seconds": round(built.seconds, 3),
        "layers": len(built.layers),
        "warnings": built.warnings,
        **more,
    }
    # The record first: a plan without one is not used, a record of another plan tells.
    with replace_file(record_path(path)) as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())
    with replace_file(path) as file:
        file.write(built.plan)
    return Plan(path, record)


def load(path: Path) -> Plan:
    return Plan(path, _record(path))


def record_path(plan: Path) -> Path:
    return plan.with_name(plan.name + ".json")


def timing_cache_path(folder: Path, target: Target) -> Path:
    """Tactics that were measured for a target."""
    return folder / f"tactics_{target.label}_{_slug(target.library)}.cache"


def kernels_path(folder: Path, plan: Path) -> Path:
    """Kernels that TensorRT-RTX compiled for a plan."""
    return folder / f"{plan.name}.kernels"


def _record(plan: Path) -> dict[str, Any]:
    record = json.loads(record_path(plan).read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise ValueError("it is not a JSON object")
    return record


def _slug(text: str) -> str:
    return _SAFE.sub("-", text).strip("-").lower()
