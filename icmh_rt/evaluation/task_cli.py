"""`icmh eval task`: rate against the accuracy of a machine task."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from icmh_rt.bitstream import BASE_TASK
from icmh_rt.errors import BackendUnavailableError, OptionError
from icmh_rt.evaluation import results
from icmh_rt.evaluation.anchors import SETTINGS, PillowAnchor
from icmh_rt.evaluation.options import (
    add_list,
    add_outputs,
    check_outputs,
    figure_beside,
    parse_anchors,
    parse_qualities,
    parse_widths,
)
from icmh_rt.evaluation.rd import CodecSource, Source
from icmh_rt.feature_files import TrainedFeatureHead

if TYPE_CHECKING:
    from icmh_rt.evaluation.exhibits import Exhibit
    from icmh_rt.evaluation.task_curves import TaskResults
    from icmh_rt.tasks import TaskNetwork

TASKS = ("classification", "detection", "segmentation")
ANCHOR_QUALITIES = {
    "JPEG": (2, 5, 10, 15, 20, 30, 50, 75),
    "WEBP": (0, 5, 10, 20, 30, 50, 75),
    "AVIF": (5, 15, 25, 35, 45, 55, 65, 75),
    "JXL": (1, 5, 10, 20, 30, 50, 75),
}

Progress = Callable[[int, int, str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.description = (
        "Encode and decode labelled pictures at several widths and qualities, with the task's "
        "adapters and without, show them to a task network, and compare its accuracy at equal "
        "bytes with anchors."
    )
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="classification: a folder for each class; detection: pictures, or images and YOLO's "
        "labels; segmentation: SPLIT and SPLIT_labels",
    )
    parser.add_argument("--annotations", default="", metavar="F", help="COCO's file, of detection")
    parser.add_argument(
        "--split", default="val", help="the part of the data to measure (default: %(default)s)"
    )
    parser.add_argument(
        "--net",
        required=True,
        metavar="[KIND:]FILE",
        help="the task network: an ONNX file, or KIND fastestdet, resnet50, ... with its file",
    )
    parser.add_argument(
        "--net-size",
        metavar="HxW",
        help="of its input, where the file leaves it open",
    )
    parser.add_argument(
        "--classes", type=int, default=0, help="of segmentation: labels from it on are void"
    )
    add_list(parser, "--widths", parse_widths, "1.0", metavar="W", help="of this codec, or 'none'")
    add_list(
        parser,
        "--qualities",
        parse_qualities,
        "1,8,16,25,35,50",
        metavar="Q",
        help="1-100; 'a,b,...,z' goes on in steps of b-a",
    )
    add_list(
        parser,
        "--anchors",
        parse_anchors,
        "jpeg,webp",
        metavar="NAME",
        help=f"from {', '.join(SETTINGS)}; 'all' that are installed, or 'none'",
    )
    parser.add_argument(
        "--reduce",
        action="store_true",
        help="pictures are made as large as the network's input before they are encoded",
    )
    parser.add_argument(
        "--features",
        action="store_true",
        help="also the bundle's feature head: streams are decoded to the network's features; "
        "with --reduce",
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="of the pictures, N")
    parser.add_argument("--model", default="default", help="bundle name or path (default: default)")
    parser.add_argument("--backend", default="auto", help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="default: %(default)s")
    parser.add_argument("--json", metavar="F", help="write all figures; '-': to standard output")
    add_outputs(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(arguments: argparse.Namespace, progress: Callable[[], Progress]) -> int:
    """Measure; returns the process's exit code."""
    from icmh_rt.evaluation import task_curves, task_report

    check_outputs(arguments)
    found, exhibits = _measure(arguments, None if arguments.quiet else progress())
    title = arguments.title or f"{arguments.task} on {Path(arguments.data).resolve().name}"
    if arguments.json:
        results.write_text(task_curves.to_json(found), arguments.json)
    if arguments.plot:
        task_report.draw(found, arguments.plot, title)
    if arguments.markdown:
        page = task_report.markdown(found, title, figure_beside(arguments))
        results.write_text(page, arguments.markdown)
    if arguments.html:
        page = importlib.import_module("icmh_rt.reports").task_page(found, title, exhibits)
        results.write_text(page, arguments.html)
    if "-" not in (arguments.json, arguments.markdown, arguments.html):
        sys.stdout.write(task_report.table(found))
    return 0


def _measure(
    arguments: argparse.Namespace, progress: Progress | None
) -> tuple[TaskResults, list[Exhibit]]:
    """The curves, and pictures to look at where a page is wanted."""
    from icmh_rt.evaluation import task_run
    from icmh_rt.evaluation.exhibits import task_exhibits
    from icmh_rt.evaluation.task_curves import TaskResults

    try:
        data = importlib.import_module("icmh_rt.evaluation.task_data")
    except ImportError as error:
        raise BackendUnavailableError(
            f"task networks need {error.name}: pip install 'icmh-rt[train]'"
        ) from None
    network = _network(arguments)
    samples = data.samples(
        arguments.task, arguments.data, arguments.annotations, arguments.split, arguments.classes
    )
    count = arguments.limit or len(samples.paths)
    paths, truths = samples.paths[:count], samples.truths[:count]
    sources = _sources(arguments)
    prepare = [data.reducer(network)] if arguments.reduce else []
    curves = task_run.measure(
        sources,
        paths,
        truths,
        data.predictor(arguments.task, network),
        samples.metric,
        progress,
        *prepare,
    )
    found = TaskResults(
        arguments.task,
        samples.metric().figures[0],
        tuple(curves),
        task_run.digest(paths),
        results.provenance(_command(arguments)),
    )
    if not arguments.html:
        return found, []
    return found, task_exhibits(found, [source for source, _ in sources], paths, *prepare)


def _sources(arguments: argparse.Namespace) -> list[tuple[Source, tuple[int, ...]]]:
    from icmh_rt.bundle import load

    bundle = load(arguments.model)
    tasks = [BASE_TASK, *([arguments.task] if arguments.task in bundle.tasks else [])]
    sources: list[tuple[Source, tuple[int, ...]]] = [
        (
            CodecSource(width, arguments.model, arguments.backend, arguments.device, task),
            arguments.qualities,
        )
        for width in arguments.widths
        for task in tasks
    ]
    if arguments.features:
        sources.append((_features(arguments), arguments.qualities))
    for name in arguments.anchors:
        anchor = PillowAnchor(name)
        sources.append((anchor, ANCHOR_QUALITIES[anchor.format]))
    if not sources:
        raise OptionError("nothing to measure: give --widths, --anchors or both")
    return sources


def _head(arguments: argparse.Namespace) -> tuple[str, TrainedFeatureHead]:
    """The bundle's feature head for the task, or for the base task, with its task."""
    from icmh_rt.bundle import load

    if not arguments.reduce:
        raise OptionError("--features needs --reduce: heads are for pictures of the network's size")
    bundle = load(arguments.model)
    heads = getattr(bundle, "feature_heads", {})
    for task in (arguments.task, BASE_TASK):
        if task in heads:
            return task, heads[task]
    raise OptionError(f"bundle {bundle.name!r} has no feature head for task {arguments.task!r}")


def _features(arguments: argparse.Namespace) -> Source:
    from icmh_rt.evaluation.task_run import FeatureSource

    task, head = _head(arguments)
    return FeatureSource(head.width, arguments.model, arguments.backend, arguments.device, task)


def _network(arguments: argparse.Namespace) -> TaskNetwork:
    from icmh_rt.tasks import KINDS, NetworkConfig, create

    kind, separator, path = arguments.net.partition(":")
    if not separator or kind not in KINDS:
        kind, path = "onnx", arguments.net
    size: tuple[int, ...] = ()
    if arguments.net_size:
        try:
            height, width = map(int, arguments.net_size.split("x"))
            size = (height, width)
        except ValueError:
            raise OptionError(f"--net-size is {arguments.net_size!r}: give HxW") from None
    if arguments.features:
        layers = tuple(name for name, _ in _head(arguments)[1].outputs)
    else:
        layers = _last_layer(path) if kind == "onnx" else ()
    return create(NetworkConfig(kind=kind, weights=path, layers=layers, size=size))


def _last_layer(path: str) -> tuple[str, ...]:
    """Some layer: a network has to have one whose features are looked at."""
    import onnx

    try:
        return (onnx.load(path, load_external_data=False).graph.node[-1].name,)
    except Exception as error:  # protobuf and onnx share no exception
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OptionError(f"{path} cannot be read as an ONNX file: {reason[:200]}") from None


def _command(arguments: argparse.Namespace) -> str:
    """The command that gives these figures again, with names in place of this machine's paths."""
    kind, _, path = arguments.net.rpartition(":")
    net = f"{kind}:{Path(path).name}" if kind else Path(path).name
    parts = [
        f"icmh eval task --task {arguments.task}",
        f"--data {Path(arguments.data).resolve().name}",
        f"--net {net}",
        "--widths " + (",".join(f"{width:g}" for width in arguments.widths) or "none"),
        "--qualities " + ",".join(map(str, arguments.qualities)),
        "--anchors " + (",".join(arguments.anchors) or "none"),
        f"--model {Path(arguments.model).name}",
    ]
    if arguments.annotations:
        parts.append(f"--annotations {Path(arguments.annotations).name}")
    if arguments.net_size:
        parts.append(f"--net-size {arguments.net_size}")
    if arguments.classes:
        parts.append(f"--classes {arguments.classes}")
    parts += [f"--{name}" for name in ("reduce", "features") if getattr(arguments, name)]
    if arguments.limit:
        parts.append(f"--limit {arguments.limit}")
    return " ".join(parts)
