"""`icmh export tensorrt`: TensorRT engines of a bundle, one for each role, width and task, proven.

Every engine is built from the graphs of `icmh export onnx`. What it was built from is run by
onnxruntime and compared with torch, and so is the engine itself where the GPU that it is for is
here; one that differs is withheld. Results go to standard output, progress and errors to standard
error. Exit codes: 0 done, 1 an engine could not be built or failed its proof, 2 usage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Python puts a script's folder first, where this file would pass for the package tensorrt.
    _here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _here]

import numpy as np

from icmh_rt import bundle as bundles
from icmh_rt._files import replace_file
from icmh_rt.backends import _tensorrt_builder, _tensorrt_library, _tensorrt_plans
from icmh_rt.backends._tensorrt_builder import BuildOptions, ImageSizes
from icmh_rt.backends._tensorrt_library import Library
from icmh_rt.backends._tensorrt_plans import Identity, Plan, Target
from icmh_rt.backends.tensorrt import LIBRARY, device_of, graph_of
from icmh_rt.bitstream import BASE_TASK
from icmh_rt.bundle import Bundle
from icmh_rt.errors import IcmhError, OptionError
from icmh_rt.export import _tensorrt_gate
from icmh_rt.export import onnx as graph_export
from icmh_rt.export._cli import FAILED, OK, run_script
from icmh_rt.images import load_image

MANIFEST = "engines.json"
PRECISIONS = ("fp16", "fp32")
KINDS = ("int8", "fp8")  # of eight bits, as graphs.EightBits has them
ROLES = graph_export.ALL_ROLES
BACKEND_ROLES = ("analysis", "synthesis")
"""What ``Encoder(backend="tensorrt")`` and ``Decoder`` run."""

Adapters = Mapping[str, np.ndarray]


# -- arguments -------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what follows `icmh export tensorrt` to its parser."""
    parser.description = (
        "Build TensorRT engines and prove them. Plans that are there already and up to date are"
        " kept. Without -o they go where the backend tensorrt looks first."
    )
    size = graph_export.parse_size
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder of the plans")
    parser.add_argument(
        "--model", default="default", help="bundle: a name or a folder (default: %(default)s)"
    )
    parser.add_argument(
        "--width", default="all", metavar="W,...", help="widths (default: those of the bundle)"
    )
    parser.add_argument(
        "--task", metavar="T", help="human, or of --adapters (default: all of the file's)"
    )
    parser.add_argument(
        "--role",
        default=",".join(BACKEND_ROLES),
        metavar="R,...",
        help=f"from {', '.join(ROLES)}; the backend runs the default (default: %(default)s)",
    )
    parser.add_argument(
        "--adapters", type=Path, metavar="F", help="a file of save_adapters, for its tasks"
    )
    parser.add_argument(
        "--library",
        default=os.environ.get(LIBRARY) or "auto",
        help="tensorrt, tensorrt_rtx or auto (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp16",
        help="of the transforms; symbols and indexes are computed in fp32 (default: %(default)s)",
    )
    parser.add_argument(
        "--eight-bits",
        choices=KINDS,
        help="compute the blocks of g_a and g_s in eight bits; costs rate",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        action="append",
        default=[],
        metavar="F",
        help="picture for --eight-bits to see what values there are; may be repeated (default:"
        " those that the engines are proven on)",
    )
    parser.add_argument(
        "--gate",
        choices=_tensorrt_gate.GATES,
        default="native",
        help="of adapters: the graph's own nodes, the Triton kernel as PTX in the plan, or the"
        " plugin over the CUDA kernel (default: %(default)s)",
    )
    parser.add_argument(
        "--compute-capability",
        default="",
        metavar="C,...",
        help="of GPUs to build for, such as 8.6: TensorRT-RTX only (default: the GPU here)",
    )
    parser.add_argument("--device", default="cuda", help="GPU to build on (default: %(default)s)")
    sizes = parser.add_argument_group("image sizes")
    usual = ImageSizes()
    sizes.add_argument(
        "--size", type=size, metavar="HxW", help="one size only: smaller and faster engines"
    )
    for name, default in (("min", usual.least), ("opt", usual.best), ("max", usual.most)):
        sizes.add_argument(
            f"--{name}-size",
            type=size,
            default=default,
            metavar="HxW",
            help=f"default: {default[0]}x{default[1]}",
        )
    sizes.add_argument(
        "--batch", type=int, default=1, metavar="N", help="most images at once (default: 1)"
    )
    build = parser.add_argument_group("building")
    build.add_argument(
        "--workspace", type=int, default=0, metavar="MIB", help="most scratch memory of a kernel"
    )
    build.add_argument(
        "--optimization-level", type=int, default=-1, metavar="0-5", help="default: TensorRT's"
    )
    build.add_argument(
        "--aux-streams", type=int, default=-1, metavar="N", help="most streams beside the main one"
    )
    build.add_argument(
        "--version-compatible", action="store_true", help="for later versions of TensorRT, too"
    )
    build.add_argument(
        "--any-ampere", action="store_true", help="for all of compute capability 8.0 and above"
    )
    build.add_argument("--timing-cache", type=Path, metavar="F", help="default: beside the plans")
    build.add_argument(
        "--pin-tactics",
        action="store_true",
        help="take only tactics that the timing cache has, and fail where it has none",
    )
    build.add_argument("--force", action="store_true", help="build also what is up to date")
    parser.add_argument(
        "--image",
        type=Path,
        action="append",
        default=[],
        metavar="F",
        help="picture to prove the engines on; may be repeated (default: a photograph of our own)",
    )
    parser.add_argument(
        "--unproven", action="store_true", help="leave the proof out; the manifest says so"
    )
    parser.add_argument(
        "--layers", type=Path, metavar="F", help="write what became of every layer, as JSON"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


# -- work ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One engine to make. adapters: of its task, None without."""

    identity: Identity
    adapters: Adapters | None


@dataclass(frozen=True)
class Result:
    """One engine. status: "built" or "kept" · why: it was."""

    plan: Plan
    identity: Identity
    status: str
    why: str

    def to_dict(self) -> dict[str, Any]:
        """What the manifest says of it."""
        identity, record = self.identity, self.plan.record
        sizes = identity.options.sizes
        return {
            "file": self.plan.path.name,
            "role": identity.role,
            "width": identity.width,
            "task": identity.task,
            "precision": identity.precision,
            "eight_bits": identity.eight_bits or None,
            "adapters": identity.adapters or None,
            "gate": identity.gate,
            "target": vars(identity.target),
            "sizes": {n: list(getattr(sizes, n)) for n in ("least", "best", "most")},
            "batch": sizes.batch,
            "bytes": record["size_bytes"],
            "sha256": record["sha256"],
            "graph_sha256": record["graph_sha256"],
            "build_seconds": record["build_seconds"],
            "layers": record["layers"],
            "exact_layers": record.get("exact_layers", 0),
            "inputs": record.get("inputs", []),
            "outputs": record.get("outputs", []),
            "status": self.status,
            "why": self.why,
            "proof": record.get("proof"),
        }


def run(options: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    bundle = bundles.load(options.model)
    if not isinstance(bundle, Bundle):
        raise OptionError(
            f"bundle {bundle.name!r} is a converted checkpoint: engines are made of the default "
            "architecture only"
        )
    library = _tensorrt_library.load(options.library)
    jobs = list(_jobs(bundle, library, options))
    folder = options.output or _tensorrt_plans.cache_folder()
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)  # for the backend, which looks
    maker = Maker(bundle, library, folder, options)
    results: list[Result] = []
    failures: list[dict[str, str]] = []
    for job in jobs:
        name = job.identity.name
        try:
            result = maker.make(job)
        except OptionError:
            raise
        except IcmhError as error:
            failures.append({"file": name, "error": str(error)})
            print(f"icmh: {name}: {error}", file=sys.stderr)
            continue
        results.append(result)
        print(f"{name}: {result.status}, {result.why}", file=sys.stderr)
    if results:
        write_manifest(folder, bundle, results)
    if options.layers:
        with replace_file(options.layers) as file:
            file.write((json.dumps(maker.layers, indent=1) + "\n").encode())
    if options.json:
        found = [result.to_dict() for result in results]
        print(json.dumps({"engines": found, "failures": failures}, indent=1))
    else:
        print(table(results))
    return FAILED if failures else OK


class Maker:
    """Makes the engines of one command.

    Attributes:
        layers: what became of every layer, by plan.
    """

    def __init__(
        self, bundle: Bundle, library: Library, folder: Path, options: argparse.Namespace
    ) -> None:
        self._bundle, self._library, self._folder = bundle, library, folder
        self._options = options
        self._judge: tuple[tuple[float, str], Any] | None = None
        self._calibrated: dict[tuple[float, str], Any] = {}
        self._images = [load_image(p) for p in options.image or [graph_export.PHOTOGRAPH]]
        self.layers: dict[str, Any] = {}

    def make(self, job: Job) -> Result:
        """One engine, unless the one that is there will do.

        Raises:
            VerificationError: it, or what it was built from, computes something else.
            BackendUnavailableError: TensorRT cannot build it.
        """
        identity, options = job.identity, self._options
        native = self._graph(job)
        graph = native if identity.gate == "native" else self._with_plugin(native, identity.gate)
        path = self._folder / identity.name
        why = _tensorrt_plans.stale(path, identity, hashlib.sha256(graph).hexdigest())
        if not why:
            plan = _tensorrt_plans.load(path)
            if not options.force and (plan.record.get("proof") or options.unproven):
                return Result(plan, identity, "kept", "up to date")
            why = "asked for" if options.force else "it was not proven"
        cache = options.timing_cache or _tensorrt_plans.timing_cache_path(
            self._folder, identity.target
        )
        # TensorRT-RTX measures nothing when it builds, and says so whenever it is given a cache.
        measured = None if self._library.builds_for_others else cache
        built = _tensorrt_builder.build(self._library, graph, identity.options, measured)
        # Only TensorRT can run a plugin: of its graph the proof is that of the nodes it replaces.
        proof = None if options.unproven else self._prove(job, native, built.plan)
        self.layers[identity.name] = {"network": built.layers, **self._inspected(built, proof)}
        inputs, outputs = borders(graph)
        plan = _tensorrt_plans.save(
            self._folder,
            identity,
            built,
            graph,
            exact_layers=_tensorrt_builder.check_exact(built.layers),
            inputs=inputs,
            outputs=outputs,
            proof=proof,
        )
        return Result(plan, identity, "built", why)

    def _graph(self, job: Job) -> bytes:
        """Of the graph's own nodes only."""
        identity = job.identity
        made_of: dict[str, Any] = {"adapters": job.adapters}
        if identity.eight_bits:
            made_of["eight_bits"] = self._limits(job)
        return graph_of(self._bundle, identity, **made_of)

    def _limits(self, job: Job) -> Any:
        """What eight-bit products need to know; found once for each width and task."""
        from icmh_rt.export._calibration import calibrate

        identity = job.identity
        key = identity.width, identity.task
        if key not in self._calibrated:
            images = [load_image(path) for path in self._options.calibration] or self._images
            self._calibrated[key] = calibrate(
                self._bundle, *key, identity.eight_bits, images, job.adapters
            )
        return self._calibrated[key]

    def _with_plugin(self, graph: bytes, gate: str) -> bytes:
        import onnx

        _tensorrt_gate.prepare(self._library, gate)
        model = _tensorrt_gate.with_gates(onnx.load_from_string(graph), gate)
        return model.SerializeToString(deterministic=True)

    def _prove(self, job: Job, graph: bytes, plan: bytes) -> dict[str, Any]:
        from icmh_rt.export import _tensorrt_proof
        from icmh_rt.export._references import reference_of

        identity, options = job.identity, self._options
        key = identity.width, identity.task
        if self._judge is None or self._judge[0] != key:
            batches = graph_export.batches_of(self._images, options.size, 1)
            reference = reference_of(self._bundle, *key, job.adapters)
            judge = _tensorrt_proof.Judge(
                self._bundle, self._library, reference, batches, options.device
            )
            self._judge = key, judge
        return self._judge[1].prove(identity, graph, plan)

    def _inspected(
        self, built: _tensorrt_builder.Built, proof: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """What the inspector tells of a plan, which it does on the plan's own GPU only."""
        if proof is None or proof["engine"] is None:
            reason = "the plan was not run" if proof is None else proof["engine_not_run"]
            return {"engine": None, "engine_not_inspected": reason}
        return {"engine": _tensorrt_builder.inspect(self._library, built.plan)}


def _jobs(bundle: Bundle, library: Library, options: argparse.Namespace) -> Iterator[Job]:
    from icmh_rt.export._manifest import hash_of

    if options.size:
        sizes = ImageSizes(options.size, options.size, options.size, options.batch)
    else:
        sizes = ImageSizes(options.min_size, options.opt_size, options.max_size, options.batch)
    roles = options.role.split(",")
    for role in roles:
        if role not in ROLES:
            raise OptionError(f"role {role!r} is unknown: use {', '.join(ROLES)}")
    tasks = graph_export.tasks_of(bundle, options.task, options.adapters)
    common = BuildOptions(
        sizes=sizes,
        workspace_mib=options.workspace,
        optimization_level=options.optimization_level,
        aux_streams=options.aux_streams,
        version_compatible=options.version_compatible,
        any_ampere=options.any_ampere,
        pin_tactics=options.pin_tactics,
    )
    places = targets(library, options)
    widths = graph_export.widths_of(bundle, options.width)
    for (task, adapters), width, role, target in product(tasks.items(), widths, roles, places):
        capability = target.compute_capability if library.builds_for_others else ""
        identity = Identity(
            bundle=bundle.name,
            weights=_tensorrt_plans.weights_of(
                bundle, task if adapters is None else BASE_TASK, role
            ),
            role=role,
            width=width,
            task=task,
            precision=options.precision,
            target=target,
            options=replace(common, compute_capability=capability),
            eight_bits=options.eight_bits or "",
            gate=options.gate,
            adapters=hash_of(adapters) or "",
        )
        yield Job(identity, adapters)


def targets(library: Library, options: argparse.Namespace) -> list[Target]:
    """The GPUs to build for: those that were asked for, or the one here."""
    if not options.compute_capability:
        return [_tensorrt_plans.target_here(library, device_of(options.device))]
    if not library.builds_for_others:
        raise OptionError(
            f"{library.name} builds for the GPU that is here: leave --compute-capability out, or "
            "use --library tensorrt_rtx"
        )
    version = f"{library.name} {library.version}"
    return [Target("any", c, "any", version) for c in options.compute_capability.split(",")]


# -- results ---------------------------------------------------------------------------------------


def borders(graph: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Inputs and outputs of a graph: name, dtype, shape with words for open sides."""
    import onnx

    from icmh_rt.export import _manifest

    found = _manifest.borders(onnx.load_from_string(graph))
    return found["inputs"], found["outputs"]


def write_manifest(folder: Path, bundle: Bundle, results: Sequence[Result]) -> None:
    """All plans of this bundle that lie in the folder, from this command and earlier ones."""
    path = folder / MANIFEST
    entries: dict[str, Any] = {}
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        if (old["bundle"], old["fingerprint"]) == (bundle.name, bundle.fingerprint):
            entries = {e["file"]: e for e in old["engines"] if (folder / e["file"]).is_file()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # there is none, or none of ours
    entries |= {result.plan.path.name: result.to_dict() for result in results}
    document = {
        "bundle": bundle.name,
        "fingerprint": bundle.fingerprint,
        "icmh_rt": results[0].identity.version,
        "engines": [entries[name] for name in sorted(entries)],
    }
    with replace_file(path) as file:
        file.write((json.dumps(document, indent=1) + "\n").encode())


def table(results: Sequence[Result]) -> str:
    """Sizes, times and what was proven, as Markdown."""
    lines = [
        "| engine | width | task | precision | target | layers | exact | MB | seconds | proven |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        identity, record = result.identity, result.plan.record
        proof = record.get("proof")
        precision = "-".join(filter(None, (identity.precision, identity.eight_bits)))
        proven = "no" if proof is None else "graph" if proof["engine"] is None else "graph, engine"
        lines.append(
            f"| {identity.role} | {identity.width:g} | {identity.task} | {precision} | "
            f"{identity.target.label} | {record['layers']} | {record.get('exact_layers', 0)} | "
            f"{record['size_bytes'] / 1e6:.2f} | {record['build_seconds']:.2f} | {proven} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """As a script."""
    return run_script("tensorrt", add_arguments, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
