"""The `icmh` command: arguments, files and messages; the work is done elsewhere.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 bad
input or data (with many inputs: of at least one), 2 usage, 130 interrupted. A user's mistake is one
line, never a traceback; a traceback is a bug in icmh_rt.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import icmh_rt
from icmh_rt import bitstream
from icmh_rt._files import replace_file
from icmh_rt.errors import BitstreamError, IcmhError, OptionError

IMAGE_SUFFIX = ".png"
OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

# A stream of the largest image at 24 bits a pixel stays below this; a file above it is no stream,
# and is not read into memory to find that out.
_MAX_STREAM_BYTES = 2**30

# Commands whose arguments live with their code: module (add_arguments, run), extra, summary.
_ELSEWHERE = {
    "doctor": ("icmh_rt.doctor.cli", "onnx", "look at this installation and say what to mend"),
    "convert": ("icmh_rt.convert", "torch", "make a bundle of a published checkpoint"),
    "export": ("icmh_rt.export._cli", "export", "make ONNX graphs and TensorRT engines"),
    "profile": ("icmh_rt.profiling.cli", "onnx", "measure speed and where the time goes"),
    "eval": ("icmh_rt.evaluation.cli", "torch", "measure rate, distortion and BD-rate"),
    "train": ("icmh_rt.training.cli", "train", "train a codec"),
    "bundle": ("icmh_rt.training.bundle_cli", "train", "fold a training checkpoint into a bundle"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. `argv` defaults to the process's arguments."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names need not be valid in the terminal's charset
            stream.reconfigure(errors="backslashreplace")
    try:
        options = _parser(arguments).parse_args(arguments)
        code = options.run(options)
        sys.stdout.flush()
        return code
    except OptionError as error:
        _complain(error)
        return USAGE
    except BrokenPipeError:
        # The reader (`| head`) has gone. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (IcmhError, OSError) as error:
        _complain(error)
        return FAILED
    except KeyboardInterrupt:
        print("icmh: interrupted", file=sys.stderr)
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse prints the whole usage first."""
        self.exit(USAGE, f"icmh: error: {_one_line(message)} (see: {self.prog} --help)\n")


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for this command line; only the command that is run is imported."""
    parser = _Parser(
        prog="icmh",
        description="Learned image compression for machines and humans.",
        epilog="Exit codes: 0 done, 1 bad input or data, 2 usage.",
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_encode(commands.add_parser("encode", help="images to streams", description=_ENCODE_TEXT))
    _add_decode(commands.add_parser("decode", help="streams to images", description=_DECODE_TEXT))
    _add_info(commands.add_parser("info", help="what a stream says about itself"))
    for name, (module, extra, summary) in _ELSEWHERE.items():
        command = commands.add_parser(name, help=summary)
        if arguments[:1] == [name]:
            implementation = _import(module, extra, f"icmh {name}")
            implementation.add_arguments(command)
            command.set_defaults(run=implementation.run)
    return parser


class _Version(argparse.Action):
    """`--version`, looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(f"icmh {icmh_rt.__version__}")
        parser.exit(OK)


def _import(module: str, extra: str, command: str) -> Any:
    """Import what a command needs; a missing extra is a line that says which."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("", "icmh_rt"):
            raise
        raise IcmhError(
            f"{command} needs the package {missing!r}, which is not installed: "
            f"pip install 'icmh-rt[{extra}]'"
        ) from error


# -- encode and decode -----------------------------------------------------------------------------

_ENCODE_TEXT = (
    "Encode images. X.png becomes X.icmh beside it; with -o, what OUT says: a file for one input, "
    "a folder (made if missing) for many or where OUT ends in a slash. A folder, a quoted pattern, "
    "a list (.txt, one path a line), - (such a list on standard input) or a URI "
    "(s3://bucket/photos) as IN, or --jobs, encodes into the folder or URI OUT: trees are "
    "mirrored, several images are in work at a time, what an earlier run did is left out, nothing "
    "else is overwritten, and images that cannot be encoded are listed in OUT/icmh-failed.jsonl. "
    "With --ray the machines of a Ray cluster share the work."
)
_DECODE_TEXT = (
    "Decode streams. X.icmh becomes X.png beside it; with -o, what OUT says, as for encode. "
    "An existing image is replaced only where -o names it, or with --force."
)


def _add_encode(parser: argparse.ArgumentParser) -> None:
    _add_files(parser, "image")
    parser.add_argument(
        "--width",
        type=float,
        default=1.0,
        metavar="W",
        help="channel multiplier, the compute; the default bundle has 0.25, 0.5, 0.75 and 1.0"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--task",
        choices=bitstream.TASKS,
        default=bitstream.TASKS[0],
        help="what the stream is for (default: %(default)s)",
    )
    parser.add_argument(
        "--quality",
        type=int,
        default=50,
        metavar="Q",
        help=f"{bitstream.MIN_QUALITY} (smallest) to {bitstream.MAX_QUALITY} (best)"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="images in work at a time (0: as many as threads)"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="encode on a Ray cluster, --jobs actors: auto, HOST:PORT, or local for one here",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace streams that an earlier run did not make"
    )
    _add_codec(parser)
    parser.set_defaults(run=_encode)


def _add_decode(parser: argparse.ArgumentParser) -> None:
    _add_files(parser, "stream")
    parser.add_argument("--force", action="store_true", help="replace existing images")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="of a stream that was cut, draw what is there and say how much that is",
    )
    _add_codec(parser)
    parser.set_defaults(run=_decode)


def _add_files(parser: argparse.ArgumentParser, kind: str) -> None:
    parser.add_argument("inputs", nargs="+", metavar="IN", help=f"{kind} file")
    parser.add_argument("-o", "--output", metavar="OUT", help="output file or folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def _add_codec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="default", help="bundle: a name or a folder (default: %(default)s)"
    )
    parser.add_argument(
        "--backend",
        default="auto",
        metavar="B",
        help="auto, torch, onnxruntime or tensorrt; `icmh doctor` says what auto takes and why"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:N (default: auto)"
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=bitstream.DEFAULT_MAX_PIXELS,
        metavar="N",
        help="refuse larger images and streams (default: %(default)s)",
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="N",
        help="compute images of more than four tiles of NxN pixels by tiles, in bounded memory and"
        " with the same result; 0: never (default: 2048)",
    )


def _encode(options: argparse.Namespace) -> int:
    _check_quality(options.quality)
    folders = _import("icmh_rt.folder_encoding", "torch", "icmh encode")
    many = options.jobs is not None or options.ray is not None
    many = many or (options.output is not None and folders.is_uri(options.output))
    if many or any(map(folders.is_many, options.inputs)):
        return _encode_folder(options, folders)
    if options.force:
        raise OptionError("--force is for folders: a stream named here is replaced as it is")
    jobs = _plan(options.inputs, options.output, bitstream.STREAM_SUFFIX)
    encoder = _encoder(options)

    def encode(job: _Job, progress: Callable[[float], None]) -> dict[str, Any]:
        target = job.checked_target()
        started = time.perf_counter()
        data = encoder.encode(job.source, progress=progress)
        seconds = time.perf_counter() - started
        with replace_file(target) as file:
            file.write(data)
        return {
            "output": str(target),
            **_describe(data, options.max_pixels),
            "seconds": round(seconds, 4),
            "backend": encoder.backend.name,
        }

    return _run(jobs, encode, _encode_line, options.json)


def _encoder(options: argparse.Namespace) -> Any:
    return _codec("encode").Encoder(
        width=options.width,
        task=options.task,
        quality=options.quality,
        model=options.model,
        backend=options.backend,
        device=options.device,
        max_pixels=options.max_pixels,
        **_tile(options),
    )


def _tile(options: argparse.Namespace) -> dict[str, int]:
    return {} if options.tile is None else {"tile": options.tile}


def _encode_folder(options: argparse.Namespace, folders: Any) -> int:
    """Many images into one folder, several at a time."""
    if not options.output:
        raise OptionError("encoding folders, patterns and lists needs -o FOLDER")
    if options.jobs is not None and options.jobs < 0:
        raise OptionError(f"--jobs is {options.jobs}: give 1 or more, or 0 for all threads")
    if sys.stdin is not None and hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # paths are any bytes
    jobs = folders.find_jobs(options.inputs, options.output, sys.stdin or ())
    encoding = _folder_encoding(options, folders)
    counts = {"encoded": 0, "skipped": 0, "failed": 0}
    progress = _Progress(len(jobs))
    for done, finished in enumerate(encoding.run(jobs)):
        progress.clear()
        if finished.record is None:
            counts["failed"] += 1
            print(f"icmh: error: {finished.error}", file=sys.stderr)
            record = {"input": finished.job.source, "error": finished.error}
        else:
            counts["skipped" if finished.skipped else "encoded"] += 1
            record = {**finished.record, "skipped": finished.skipped}
        if options.json:
            print(json.dumps(record), flush=True)
        elif finished.record is not None and not finished.skipped:
            print(
                f"{record['input']} -> {os.path.join(options.output, record['output'])}: "
                f"{record['stream_bytes']:,} bytes",
                flush=True,
            )
        progress.show(done + 1, finished.job.source)
    progress.clear()
    summary = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    if counts["failed"]:
        summary += f" (listed in {os.path.join(options.output, folders.FAILED)})"
    print(f"icmh: {summary}", file=sys.stderr)
    return FAILED if counts["failed"] else OK


def _folder_encoding(options: argparse.Namespace, folders: Any) -> Any:
    """On this machine, or on a cluster."""
    jobs = options.jobs or 0
    if options.ray is None:
        return folders.FolderEncoding(_encoder(options), options.output, jobs, force=options.force)
    distributed = _import("icmh_rt.distributed", "ray", "icmh encode --ray")
    return distributed.RayEncoding(
        options.output,
        options.width,
        options.task,
        options.quality,
        options.model,
        backend=options.backend,
        device=options.device,
        address=options.ray,
        actors=jobs,
        max_pixels=options.max_pixels,
        force=options.force,
        **_tile(options),
    )


def _encode_line(record: dict[str, Any]) -> str:
    height, width = record["image_size"]
    return (
        f"{record['input']} -> {record['output']}: {width}x{height}, {record['stream_bytes']:,} "
        f"bytes, {record['bits_per_pixel']:.3f} bpp, {record['seconds']:.2f} s"
    )


def _decode(options: argparse.Namespace) -> int:
    from icmh_rt.images import check_writable_suffix, save_image

    jobs = _plan(options.inputs, options.output, IMAGE_SUFFIX)
    for job in jobs:
        try:
            check_writable_suffix(job.target)
        except IcmhError as error:
            raise OptionError(str(error)) from error
    decoder = _codec("decode").Decoder(
        model=options.model,
        backend=options.backend,
        device=options.device,
        max_pixels=options.max_pixels,
        **_tile(options),
    )

    def decode(job: _Job, progress: Callable[[float], None]) -> dict[str, Any]:
        target = job.checked_target()
        # The default name may be that of the original photograph, which is better than what comes
        # out here.
        if os.path.lexists(target) and not (options.force or job.target_is_named):
            raise OSError(f"{target} exists: name it with -o, or give --force to replace it")
        data = _read_stream(job.source)
        started = time.perf_counter()
        partial: dict[str, Any] = {}
        if options.partial:
            found = decoder.decode_partial(data, progress=progress)
            image, described = found.image, _described(found.header, len(data))
            partial["partial"] = {
                "rows": found.rows,
                "exact": round(float(found.exact.mean()), 6),
                "fraction": round(found.fraction, 6),
            }
        else:
            image = decoder.decode(data, progress=progress)
            described = _describe(data, options.max_pixels)
        seconds = time.perf_counter() - started
        save_image(image, target)
        return {
            "output": str(target),
            **described,
            **partial,
            "seconds": round(seconds, 4),
            "backend": decoder.backend.name,
        }

    return _run(jobs, decode, _decode_line, options.json)


def _decode_line(record: dict[str, Any]) -> str:
    height, width = record["image_size"]
    line = f"{record['input']} -> {record['output']}: {width}x{height}, {record['seconds']:.2f} s"
    partial = record.get("partial", {"fraction": 1.0})
    if partial["fraction"] < 1.0:
        line += (
            f", cut: {partial['fraction']:.1%} of the latent arrived; "
            f"{partial['exact']:.1%} of the picture is exact, "
            f"from the top {partial['rows']} of {height} rows"
        )
    return line


def _codec(command: str) -> Any:
    return _import("icmh_rt.codec", "torch", f"icmh {command}")


def _check_quality(quality: int) -> None:
    """Here already, because finding it out from the codec would first load torch."""
    if not bitstream.MIN_QUALITY <= quality <= bitstream.MAX_QUALITY:
        raise OptionError(
            f"quality is {quality}: it must be from {bitstream.MIN_QUALITY} to "
            f"{bitstream.MAX_QUALITY}"
        )


# -- info ------------------------------------------------------------------------------------------


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print what streams say about themselves. Works without torch."
    parser.add_argument("inputs", nargs="+", metavar="IN", help="stream file")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.set_defaults(run=_info)


def _info(options: argparse.Namespace) -> int:
    jobs = [_Job(path) for path in options.inputs]
    return _run(jobs, lambda job, _: _describe(_read_stream(job.source)), _info_text, options.json)


def _info_text(record: dict[str, Any]) -> str:
    height, width = record["image_size"]
    rows = {
        "format version": record["format_version"],
        "model": record["model"] or "not installed here",
        "fingerprint": record["fingerprint"],
        "image": f"{width}x{height} pixels (width x height)",
        "width": record["width"],
        "task": record["task"],
        "quality": record["quality"],
        "size": f"{record['stream_bytes']:,} bytes, {record['bits_per_pixel']:.3f} bpp",
    }
    return "\n".join(
        [f"{record['input']}:", *(f"  {name + ':':<16}{value}" for name, value in rows.items())]
    )


def _describe(data: bytes, max_pixels: int | None = None) -> dict[str, Any]:
    """A stream's header and size, as `--json` prints them. image_size is [height, width]."""
    return _described(icmh_rt.read_header(data, max_pixels=max_pixels), len(data))


def _described(header: bitstream.Header, stream_bytes: int) -> dict[str, Any]:
    height, width = header.image_size
    return {
        "format_version": header.format_version,
        "model": header.model,
        "fingerprint": header.fingerprint,
        "width": header.width,
        "task": header.task,
        "quality": header.quality,
        "image_size": [height, width],
        "stream_bytes": stream_bytes,
        "bits_per_pixel": round(8 * stream_bytes / (height * width), 6),
    }


def _read_stream(path: str) -> bytes:
    """The file's bytes; of one that is no stream only the start, which is enough to refuse it."""
    if os.path.isdir(path):
        raise BitstreamError(f"{path} is a folder, not a stream")
    with open(path, "rb") as file:
        start = file.read(len(bitstream.MAGIC))
        if start != bitstream.MAGIC:
            return start
        data = start + file.read(_MAX_STREAM_BYTES)
    if len(data) > _MAX_STREAM_BYTES:
        raise BitstreamError(f"{path} is larger than {_MAX_STREAM_BYTES} bytes: it is no stream")
    return data


# -- many inputs -----------------------------------------------------------------------------------


@dataclass
class _Job:
    """One input. `target` is "" where nothing is written; `target_is_named`: by -o FILE."""

    source: str
    target: str = ""
    target_is_named: bool = False
    problem: str = ""
    inputs: frozenset[str] = field(default=frozenset(), repr=False)

    def checked_target(self) -> Path:
        """The output's path, its folder made; OSError where writing it would destroy an input."""
        if self.problem:
            raise OSError(self.problem)
        if os.path.realpath(self.target) in self.inputs:
            raise OSError(f"{self.target} is an input: choose another name with -o")
        target = Path(self.target)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target


def _plan(inputs: Sequence[str], output: str | None, suffix: str) -> list[_Job]:
    """Decide every output's name before anything is done.

    Raises:
        OptionError: one output file for several inputs.
    """
    if output == "":
        raise OptionError("-o has an empty name: give a file or a folder")
    real_inputs = frozenset(os.path.realpath(path) for path in inputs)
    named = False
    if output is not None:
        is_folder = os.path.isdir(output) or output.endswith((os.sep, "/"))
        named = len(inputs) == 1 and not is_folder
        if not named and os.path.isfile(output.rstrip("/" + os.sep)):
            raise OptionError(f"-o {output} is a file: a folder is needed here")
    jobs: list[_Job] = []
    taken: dict[str, str] = {}
    for source in inputs:
        job = _Job(source, output if named and output else "", named, inputs=real_inputs)
        if not named:
            default = os.path.splitext(source)[0] + suffix
            job.target = os.path.join(output, os.path.basename(default)) if output else default
        place = os.path.realpath(job.target)
        if place in taken:
            job.problem = f"{job.target} is already the output of {taken[place]}: do it separately"
        taken.setdefault(place, source)
        jobs.append(job)
    return jobs


def _run(
    jobs: Sequence[_Job],
    work: Callable[[_Job, Callable[[float], None]], dict[str, Any]],
    text: Callable[[dict[str, Any]], str],
    as_json: bool,
) -> int:
    """Do every job; a failed one is a line on stderr and does not stop the others. ``work`` also
    gets what to call with the share of the job that is done.
    """
    code = OK
    progress = _Progress(len(jobs))
    for done, job in enumerate(jobs):
        progress.show(done, job.source)
        try:
            record = {"input": job.source, **work(job, progress.part)}
            line = json.dumps(record) if as_json else text(record)
        except (IcmhError, OSError) as error:
            code = FAILED
            progress.clear()
            message = _message(error, job.source)
            print(f"icmh: error: {message}", file=sys.stderr)
            if not as_json:
                continue
            line = json.dumps({"input": job.source, "error": message})
        progress.clear()
        print(line, flush=True)
    progress.clear()
    return code


class _Progress:
    """A bar on a terminal: of the inputs where there are several, and of one that takes long."""

    LONG_SECONDS = 2.0

    def __init__(self, total: int) -> None:
        self._total = total
        self._terminal = sys.stderr.isatty()
        self._done, self._name, self._since = 0, "", time.monotonic()
        self._drawn = False

    def show(self, done: int, name: str) -> None:
        """So many inputs are done; ``name`` is the next, or the last one."""
        self._done, self._name, self._since = done, name, time.monotonic()
        if self._total > 1:
            self._draw(0.0)

    def part(self, share: float) -> None:
        """So much of the next input is done."""
        if time.monotonic() - self._since >= self.LONG_SECONDS:
            self._draw(share)

    def _draw(self, share: float) -> None:
        if not self._terminal:
            return
        filled = int(20 * (self._done + share) / self._total)
        bar = "#" * filled + "." * (20 - filled)
        of = f"{self._done}/{self._total} " if self._total > 1 else ""
        percent = f" {share:.0%}" if share else ""
        name = os.path.basename(self._name)[:40]
        print(f"\r\x1b[K[{bar}] {of}{name}{percent}", end="", file=sys.stderr, flush=True)
        self._drawn = True

    def clear(self) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._drawn = False


def _complain(error: Exception) -> None:
    print(f"icmh: error: {_message(error)}", file=sys.stderr)


def _message(error: Exception, source: str = "") -> str:
    """One line that names the file."""
    if isinstance(error, OSError) and error.strerror:
        parts = [str(error.filename or source), error.strerror]
        return _one_line(": ".join(part for part in parts if part))
    text = str(error)
    return _one_line(text if source in text else f"{source}: {text}")


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
