"""`icmh export onnx`: ONNX graphs of a bundle, one for each role, width and task, proven.

Every graph is written, read again, run by onnxruntime on pictures, and compared with torch; one
that differs is withheld, with everything else of that export. Results go to standard output,
progress and errors to standard error. Exit codes: 0 done, 1 a graph failed its proof or could not
be made, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Python puts a script's folder first, where this file would pass for the package onnx.
    _here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _here]

import numpy as np

from icmh_rt import bundle as bundles
from icmh_rt.bitstream import BASE_TASK
from icmh_rt.bundle import Bundle, CodecBundle
from icmh_rt.errors import OptionError
from icmh_rt.export._cli import OK, run_script
from icmh_rt.images import load_image

ALL_ROLES = ("encoder", "analysis", "hyper_synthesis", "synthesis", "features")
ROLES = ALL_ROLES[:-1]
"""Those that every width and task has."""

PRECISIONS = ("fp32", "fp16")
KINDS = ("int8", "fp8")
PHOTOGRAPH = Path(__file__).resolve().parent / "photograph.png"
ODD_SIZE = (83, 101)  # of a cutting that needs padding everywhere

Adapters = Mapping[str, np.ndarray]


# -- arguments -------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what follows `icmh export onnx` to its parser."""
    parser.description = (
        "Write ONNX graphs and manifest.json, and prove every graph: onnxruntime's results on"
        " pictures are compared with torch's. A graph that differs is withheld."
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
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
        default=",".join(ROLES),
        metavar="R,...",
        help="encoder: image to symbols and indexes; analysis: image to latents; hyper_synthesis:"
        " z to indexes and means; synthesis: latent to image; features: latent to features, where"
        " there is a feature head (default: %(default)s)",
    )
    parser.add_argument(
        "--adapters", type=Path, metavar="F", help="a file of save_adapters, for its tasks"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of the transforms; symbols and indexes are computed in fp32 (default: %(default)s)",
    )
    parser.add_argument(
        "--eight-bits",
        choices=tuple(KINDS),
        metavar="|".join(KINDS),
        help="compute the blocks of g_a and g_s in eight bits: for TensorRT; costs rate"
        " (docs/onnx.md)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        action="append",
        default=[],
        metavar="F",
        help="picture for --eight-bits to see what values there are; may be repeated (default: "
        "those of the proof)",
    )
    parser.add_argument(
        "--size",
        type=parse_size,
        metavar="HxW",
        help="images of one size only: smaller and faster graphs",
    )
    parser.add_argument("--batch", type=int, metavar="N", help="N images at once (default: any)")
    parser.add_argument(
        "--image",
        type=Path,
        action="append",
        default=[],
        metavar="F",
        help="picture to prove the graphs on; may be repeated (default: a photograph of our own)",
    )
    parser.add_argument(
        "--unproven", action="store_true", help="leave the proof out; the manifest says so"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def parse_size(text: str) -> tuple[int, int]:
    """``512x768`` -> (512, 768)."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no HEIGHTxWIDTH such as 512x768")
    return int(parts[0]), int(parts[1])


def run(options: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    bundle = bundles.load(options.model)
    tasks = tasks_of(bundle, options.task, options.adapters)
    written = export(
        bundle,
        options.output,
        widths=widths_of(bundle, options.width),
        tasks=tasks,
        roles=tuple(options.role.split(",")),
        precision=options.precision,
        size=options.size,
        batch=options.batch,
        eight_bits=options.eight_bits,
        calibration=[load_image(path) for path in options.calibration],
        images=[load_image(path) for path in options.image],
        proven=not options.unproven,
        report=lambda line: print(line, file=sys.stderr),
    )
    if options.json:
        print(json.dumps(written, indent=1))
    else:
        print(_table(written))
    return OK


def widths_of(bundle: bundles.CodecBundle, text: str) -> list[float]:
    if text == "all":
        return sorted(bundle.widths)
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"--width {text!r} is no list of numbers such as 0.25,1.0") from None
    return [bundle.width(number)[0] for number in numbers]


def tasks_of(
    bundle: bundles.CodecBundle, task: str | None, path: Path | None
) -> dict[str, Adapters | None]:
    if path is None:
        return {bundle.task(task or BASE_TASK): None}
    if not isinstance(bundle, Bundle):
        raise OptionError(f"bundle {bundle.name!r} has its adapters in it: leave --adapters out")
    from icmh_rt.graphs.adapter_files import read_adapters

    found = read_adapters(path, bundle)
    if task is None:
        return dict(found)
    if task not in found:
        raise OptionError(f"--adapters has no task {task!r}: it has {', '.join(found)}")
    return {task: found[task]}


def _table(written: Sequence[Mapping[str, Any]]) -> str:
    """As Markdown."""
    lines = ["| file | MB | tensors | symbols | indexes | levels |", "|---|---|---|---|---|---|"]
    for graph in written:
        proof = graph["proof"] or {}
        symbols, indexes = "", ""
        if "symbols" in proof:
            symbols = f"{proof['symbols_that_differ']} of {proof['symbols']:,} differ"
        if "indexes" in proof:
            indexes = f"{proof['indexes']:,} equal"
        tensors = proof.get("largest_tensor_difference", "")
        levels = proof.get("largest_level_difference", "")
        lines.append(
            f"| {graph['file']} | {graph['bytes'] / 1e6:.1f} | {tensors} | {symbols} | {indexes} |"
            f" {levels} |"
        )
    return "\n".join(lines)


# -- work ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """What all graphs of an export share."""

    precision: str
    eight_bits: str | None
    size: tuple[int, int] | None
    batch: int | None

    def file_name(self, role: str, width: float, task: str) -> str:
        parts = [role, f"w{width:g}", task, self.precision]
        parts += [self.eight_bits] if self.eight_bits else []
        parts += [f"{self.size[0]}x{self.size[1]}"] if self.size else []
        parts += [f"b{self.batch}"] if self.batch else []
        return "-".join(parts) + ".onnx"


def export(
    bundle: bundles.CodecBundle,
    folder: str | os.PathLike[str],
    *,
    widths: Sequence[float] | None = None,
    tasks: Mapping[str, Adapters | None] | None = None,
    roles: Sequence[str] = ROLES,
    precision: str = "fp32",
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    eight_bits: str | None = None,
    calibration: Sequence[np.ndarray] = (),
    images: Sequence[np.ndarray] = (),
    proven: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Write graphs and their manifest to ``folder``, all of them or none.

    Args:
        bundle: of the default architecture.
        widths: None for all of the bundle's.
        tasks: adapters of each task, None for one that is the bundle's own. Default: human.
        precision, size, batch: see `graphs.build`.
        eight_bits: "int8" or "fp8" for the blocks of g_a and g_s; None for neither.
        calibration: uint8 (H, W, 3), what they see to know their values; none: ``images``.
        images: uint8 (H, W, 3), what the graphs are proven on; none: a photograph of our own.
        proven: whether they are.
        report: takes a line after every graph.

    Returns:
        What the manifest says of each graph.

    Raises:
        VerificationError: a graph computes something else than the networks it was made from.
        BackendUnavailableError: onnx or onnxruntime is not installed.
        OptionError: see `graphs.build`.
    """
    from icmh_rt import graphs
    from icmh_rt.export import _manifest
    from icmh_rt.export._calibration import calibrate
    from icmh_rt.export._references import reference_of

    for role in roles:
        if role not in ALL_ROLES:
            raise OptionError(f"role {role!r} is unknown: use {', '.join(ALL_ROLES)}")
    if eight_bits not in (None, *KINDS):
        raise OptionError(f"eight_bits is {eight_bits!r}: use {' or '.join(KINDS)}")
    kind = _Kind(precision, eight_bits, size, batch)
    images = list(images) or [load_image(PHOTOGRAPH)]
    batches = batches_of(images, size, batch) if proven else []
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory(prefix=".unproven-", dir=folder) as waiting:
        for task, adapters in (tasks or {BASE_TASK: None}).items():
            for width in widths if widths is not None else sorted(bundle.widths):
                pictures: _Pictures | None = None
                limits = None
                if eight_bits:
                    limits = calibrate(
                        bundle, width, task, eight_bits, calibration or images, adapters
                    )
                for role in roles:
                    started = time.perf_counter()
                    name = kind.file_name(role, width, task)
                    path = Path(waiting, name)
                    model = graphs.build(
                        bundle,
                        role,
                        width,
                        task,
                        size=size,
                        batch=batch,
                        precision=precision,
                        adapters=adapters,
                        eight_bits=limits,
                    )
                    graphs.save(model, path)
                    record = {
                        "file": name,
                        "role": role,
                        "width": width,
                        "task": task,
                        "precision": precision,
                        "eight_bits": eight_bits,
                        "size": list(size) if size else None,
                        "batch": batch,
                        "adapters": _manifest.hash_of(adapters),
                        **_manifest.describe(model, path.read_bytes()),
                        "proof": None,
                    }
                    if proven:
                        if pictures is None:
                            reference = reference_of(bundle, width, task, adapters)
                            pictures = _Pictures.of(batches, reference)
                        record["proof"] = _prove(
                            path, role, eight_bits or precision, bundle, width, pictures
                        )
                    written.append(record)
                    seconds = time.perf_counter() - started
                    state = "proven" if proven else "written, not proven"
                    report(f"{name}: {state} in {seconds:.1f} s")
        for record in written:
            os.replace(Path(waiting, record["file"]), folder / record["file"])
    _manifest.write(folder, bundle, written)
    return written


@dataclass(frozen=True)
class _Pictures:
    """Batches of images with the latents that the reference has of them."""

    reference: Any
    batches: list[tuple[list[np.ndarray], list[tuple[np.ndarray, np.ndarray]]]]

    @classmethod
    def of(cls, batches: Sequence[list[np.ndarray]], reference: Any) -> _Pictures:
        return cls(reference, [(b, [reference.latents(image) for image in b]) for b in batches])


def _prove(
    path: Path,
    role: str,
    precision: str,
    bundle: CodecBundle,
    width: float,
    pictures: _Pictures,
) -> dict[str, Any]:
    """Check the file as a graph and run it; what was found."""
    import onnx

    from icmh_rt._onnxruntime import ort
    from icmh_rt.export._references import session_of
    from icmh_rt.export._verify import Proof

    session = session_of(path)
    onnx.checker.check_model(str(path), full_check=True)
    proof = Proof(session, path.name, role, precision, bundle, width, pictures.reference)
    for images, latents in pictures.batches:
        proof.check(images, latents)
    return {
        "against": pictures.reference.name,
        "runtime": f"onnxruntime {ort.__version__}",
        "pictures": sum(len(images) for images, _ in pictures.batches),
        **proof.finish(),
    }


def batches_of(
    images: Sequence[np.ndarray], size: tuple[int, int] | None, batch: int | None
) -> list[list[np.ndarray]]:
    """What the graphs are run on: the images, and a cutting of odd size, and more than one at once
    where that can be.
    """
    if size is not None:
        images = [_fitted(image, size) for image in images]
    else:
        images = [*images, *(image[: ODD_SIZE[0], : ODD_SIZE[1]] for image in images[:1])]
    batches = []
    for image in images:
        mirrored = np.ascontiguousarray(image[:, ::-1])
        count = batch or (2 if image is images[-1] else 1)
        batches.append([(np.ascontiguousarray(image), mirrored)[i % 2] for i in range(count)])
    return batches


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut, or continued by its mirror image, to ``size``."""
    image = image[: size[0], : size[1]]
    pad = [(0, side - have) for side, have in zip(size, image.shape, strict=False)]
    return np.pad(image, [*pad, (0, 0)], mode="symmetric")


def main(argv: Sequence[str] | None = None) -> int:
    """As a script."""
    return run_script("onnx", add_arguments, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
