"""The steps of scripts/check_gpu.sh, which says what it is for; its report as JSON and Markdown."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
SCHEMA, SCHEMA_VERSION = "icmh_rt.gpu_check", 1
TOTAL_S = 465.0  # of all steps together: eight minutes less what the rest takes
_GPU_MARK = re.compile(r"\bmark\.gpu\b")
_TAIL_LINES = 30

# Run by the interpreter that the steps use, apart from this one: a broken torch is a finding.
_PROBE = """
import json, torch
found = {"torch": torch.__version__, "cuda": torch.version.cuda,
         "available": torch.cuda.is_available()}
try:
    import triton
    found["triton"] = triton.__version__
except ImportError:
    found["triton"] = None
if found["available"]:
    p = torch.cuda.get_device_properties(0)
    found |= {"name": p.name, "capability": f"{p.major}.{p.minor}", "memory_bytes": p.total_memory,
              "multiprocessors": p.multi_processor_count, "cudnn": torch.backends.cudnn.version()}
    x = torch.arange(1000, device="cuda", dtype=torch.float64)
    assert x.sum().item() == 499500
print(json.dumps(found))
"""


@dataclass
class Step:
    """One command.

    status: ok, failed, timed out or not run · reason: why it is not ok · result: figures that it
    wrote · tail: end of its output · page: Markdown that it wrote.
    """

    name: str
    command: list[str]
    limit_s: float
    status: str = "not run"
    reason: str = ""
    exit_code: int | None = None
    seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)
    tail: list[str] = field(default_factory=list)
    page: list[str] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    out = Path(options.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    device = _device()
    on_gpu = bool(device.get("available"))
    end = begin + (TOTAL_S if on_gpu else math.inf)  # a rehearsal may build on a slow machine
    if on_gpu and options.rehearse:
        print("check_gpu: there is a GPU here: leave --rehearse out", file=sys.stderr)
        return 2
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "checked_on_a_gpu": on_gpu,
        "rehearsal": options.rehearse,
        "device": device,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "nvcc": _first_line(["nvcc", "--version"], "release"),
        "commit": _first_line(["git", "describe", "--always", "--dirty"], ""),
    }
    if on_gpu:
        print(f"check_gpu: {device['name']}, torch {device['torch']}", flush=True)
    else:
        cause = device.get("error") or "torch.cuda.is_available() is False"
        print(f"check_gpu: THERE IS NO GPU HERE ({cause}): nothing is checked on one", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        steps = _steps(Path(folder), on_gpu)
        for step in steps:
            if not on_gpu and not options.rehearse:
                step.reason = "no GPU"
            else:
                _run(step, out / f"{step.name}.log", end)
                _read_result(step, Path(folder), on_gpu)
            step.command = [_short(part, folder) for part in step.command]
            note = f": {step.reason}" if step.reason else ""
            print(f"check_gpu: {step.name}: {step.status}, {step.seconds:.0f} s{note}", flush=True)
    document["steps"] = [asdict(step) for step in steps]
    document["seconds"] = time.monotonic() - begin
    (out / "report.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (out / "report.md").write_text(_markdown(document), encoding="utf-8")
    failed = [step.name for step in steps if step.status in ("failed", "timed out")]
    what = f"failed: {', '.join(failed)}" if failed else "no step failed"
    print(f"check_gpu: {what}; {document['seconds']:.0f} s; see {out / 'report.md'}")
    if not on_gpu:
        print("check_gpu: NOTHING WAS CHECKED ON A GPU")
    return 1 if failed else 0 if on_gpu else 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="check_gpu.sh", description="Check and time it on a GPU.")
    parser.add_argument("--out", default=str(ROOT / "build" / "gpu_report"), metavar="FOLDER")
    parser.add_argument("--rehearse", action="store_true", help="in small on a CPU, without a GPU")
    return parser


def _device() -> dict[str, Any]:
    """What torch says of the first GPU, and the driver's version."""
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=90
        )
    except subprocess.TimeoutExpired:
        return {"available": False, "error": "asking torch for it took over 90 s"}
    if probe.returncode:
        lines = probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"]
        return {"available": False, "error": f"torch cannot use one: {lines[-1]}"}
    found = json.loads(probe.stdout.splitlines()[-1])
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    found["driver"] = _first_line(query, "")
    return found


def _first_line(command: list[str], containing: str) -> str | None:
    """The first line of the command's output with that in it; None if there is no such command."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line.strip() for line in ran.stdout.splitlines() if containing in line]
    return lines[0] if lines and ran.returncode == 0 else None


def _steps(scratch: Path, on_gpu: bool) -> list[Step]:
    """What is done, writing to ``scratch``; without a GPU, the same in small."""
    python = sys.executable
    jobs = str(min(16, os.cpu_count() or 1))
    tests = _gpu_tests()
    pytest = [python, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-rs"]
    sfma = [python, "benchmarks/sfma.py", *_written(scratch / "sfma")]
    latency = [python, "benchmarks/graph_latency.py", *_written(scratch / "latency")]
    if on_gpu:
        sfma += ["--device", "cuda", "--threads", "0"]
    else:
        sfma += ["--quick", "--rounds", "3"]
        latency += ["--device", "cpu", "--quick", "--rounds", "3"]
    build = [python, "setup.py", "build_ext", "--inplace", "--parallel", jobs]
    return [
        Step("build", build, 150.0 if on_gpu else 1200.0),
        Step("tests", [*pytest, f"--junitxml={scratch / 'tests.xml'}", *tests], 130.0),
        Step("latency", latency, 75.0),
        Step("sfma", sfma, 105.0),
    ]


def _written(stem: Path) -> list[str]:
    return ["--json", f"{stem}.json", "--markdown", f"{stem}.md"]


def _gpu_tests() -> list[str]:
    """The files that have gpu-marked tests: no others are imported."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [f for f in files if _GPU_MARK.search(f.read_text(encoding="utf-8"))]
    return [str(f.relative_to(ROOT)) for f in marked]


def _run(step: Step, log: Path, end: float) -> None:
    """Run it within its limit and until ``end``; its output goes to ``log``."""
    left = end - time.monotonic()
    if left < 5:
        step.reason = "no time was left"
        step.status = "timed out"
        return
    limit = min(step.limit_s, left)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }
    started = time.monotonic()
    with log.open("w", encoding="utf-8", errors="replace") as file:
        try:
            process = subprocess.Popen(
                step.command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            step.exit_code = process.wait(limit)
            step.status = "failed" if step.exit_code else "ok"
        except OSError as error:
            step.status, step.reason = "failed", str(error)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and what it started
            process.wait()
            step.status, step.reason = "timed out", f"it took over {limit:.0f} s"
    step.seconds = time.monotonic() - started
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    step.tail = text.rstrip().splitlines()[-_TAIL_LINES:]
    if step.status == "failed" and not step.reason:
        step.reason = f"exit code {step.exit_code}"


def _read_result(step: Step, scratch: Path, on_gpu: bool) -> None:
    """What the step wrote for us, and whether it did what it is for."""
    if step.name == "build":
        built = sorted(p.name for p in (ROOT / "icmh_rt").glob("_*.so"))
        nvcc = shutil.which("nvcc")
        step.result = {"nvcc": nvcc, "built": built}
        lacking = [] if any(name.startswith("_C.") for name in built) else ["_C"]
        lacking += ["_cuda_kernels.so"] if nvcc and "_cuda_kernels.so" not in built else []
        if step.status == "ok" and lacking:
            step.status, step.reason = "failed", f"there is no icmh_rt/{lacking[0]}"
    elif step.name == "tests":
        step.result = _counts(scratch / "tests.xml")
        if not on_gpu:
            _accept_skips(step)
        elif step.status == "ok" and not step.result.get("passed"):
            step.status, step.reason = "failed", "no test ran"
    else:
        try:
            step.result = json.loads((scratch / f"{step.name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            if step.status == "ok":
                step.status, step.reason = "failed", f"it wrote no figures: {error}"
            return
        page = (scratch / f"{step.name}.md").read_text(encoding="utf-8").splitlines()
        step.page = page[1:]  # its title says what this report's heading does
        missed = [bar["what"] for bar in step.result.get("bars", []) if not bar["met"]]
        missed += step.result.get("problems", [])
        if step.status == "failed" and missed:
            step.reason = f"missed: {'; '.join(missed)}"


def _accept_skips(step: Step) -> None:
    """In a rehearsal every gpu test must be there, and be skipped."""
    if step.status == "ok" and not step.result.get("skipped"):
        step.status, step.reason = "failed", "there are no gpu-marked tests"


def _counts(path: Path) -> dict[str, Any]:
    """How many tests passed, failed and were skipped; names of the failed, reasons of the skipped.

    A run that was cut short wrote nothing.
    """
    try:
        cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return {}
    found: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "failures": [], "reasons": {}}
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        bad = [child for child in case if child.tag in ("failure", "error")]
        skipped = case.find("skipped")
        if bad:
            found["failed"] += 1
            found["failures"].append({"name": name, "message": bad[0].get("message", "")[:500]})
        elif skipped is not None:
            found["skipped"] += 1
            reason = skipped.get("message", "")
            found["reasons"][reason] = found["reasons"].get(reason, 0) + 1
        else:
            found["passed"] += 1
    return found


def _markdown(document: dict[str, Any]) -> str:
    device = document["device"]
    lines = ["# GPU check", ""]
    if document["checked_on_a_gpu"]:
        lines.append(
            f"{device['name']} (sm_{device['capability'].replace('.', '')}, "
            f"{device['memory_bytes'] / 2**30:.0f} GiB), driver {device['driver']}, "
            f"torch {device['torch']}, Triton {device['triton']}, "
            f"{document['nvcc'] or 'no nvcc'}; commit {document['commit'] or 'unknown'}, "
            f"{document['created']}, {document['seconds']:.0f} s."
        )
    else:
        lines.append(
            "**There is no GPU on this machine: nothing here was checked on one.** "
            + ("It is a rehearsal: every step in small on the CPU." * document["rehearsal"])
        )
    lines += ["", "| step | status | seconds | |", "|---|---|---|---|"]
    for step in document["steps"]:
        lines.append(
            f"| {step['name']} | {step['status']} | {step['seconds']:.0f} | {step['reason']} |"
        )
    for step in document["steps"]:
        lines += ["", *_section(step)]
    return "\n".join(lines).rstrip() + "\n"


def _section(step: dict[str, Any]) -> list[str]:
    """The step's own page, or what it counted; of one that failed, the end of its log."""
    name, result = step["name"], step["result"]
    lines = [f"## {name}", "", f"`{' '.join(step['command'])}`"]
    if name == "build" and result:
        lines += ["", f"There are {', '.join(result['built'])}; nvcc: {result['nvcc'] or 'none'}."]
    if name == "tests" and result:
        lines += ["", f"{result['passed']} passed, {result['failed']} failed, "]
        lines[-1] += f"{result['skipped']} skipped."
        lines += [f"- FAILED {f['name']}: {_one_line(f['message'])}" for f in result["failures"]]
        lines += [f"- skipped {n}: {_one_line(r)}" for r, n in result["reasons"].items()]
    lines += [f"#{line}" if line.startswith("#") else line for line in step["page"]]
    if step["status"] in ("failed", "timed out"):
        lines += ["", "```", *step["tail"], "```"]
    return lines


def _short(part: str, scratch: str) -> str:
    return part.replace(scratch, "OUT").replace(sys.executable, "python")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


if __name__ == "__main__":
    sys.exit(main())
