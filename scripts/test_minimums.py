"""Test the oldest releases that pyproject.toml allows: each requirement at its lower bound.

    python scripts/test_minimums.py                       # core, then every group of GROUPS
    python scripts/test_minimums.py onnx eval             # these groups
    python scripts/test_minimums.py --list                # what would be installed; no network

Every group gets a fresh virtual environment below build/minimums, in which the package is built by
the oldest build tools and installed with the oldest of what it requires, and runs the tests that
matter to it. --python names the interpreter: by default the oldest that pyproject.toml allows, if
it is found: later ones have no wheels of the oldest releases. Needs the package registry;
torch alone is some GB.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "minimums"
OWN = "icmh-rt"

# The extras that are installed together, and the tests that need no others.
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "core": (
        (),
        (
            "tests/test_bitstream.py",
            "tests/test_gaussian.py",
            "tests/test_images.py",
            "tests/test_native.py",
            "tests/test_simd.py",
            "tests/rans/test_rans_coder.py",
            "tests/rans/test_rans_tables.py",
        ),
    ),
    "onnx": (
        ("onnx", "export"),
        (
            "tests/test_bundle.py",
            "tests/test_cli_codec.py",
            "tests/reliability/test_golden_streams.py",
            "tests/backends/test_onnxruntime_backend.py",
        ),
    ),
    "eval": (("onnx", "eval"), ("tests/evaluation",)),
    "torch": (
        ("torch", "onnx"),
        (
            "tests/graphs",
            "tests/test_codec.py",
            "tests/test_feature_heads.py",
            "tests/kernels/test_references.py",
            "tests/kernels/test_implementations.py",
            "tests/reliability/test_golden_streams.py",
        ),
    ),
    "train": (
        ("torch", "onnx", "train"),
        ("tests/models", "tests/training", "tests/tasks", "tests/test_convert.py"),
    ),
    "ray": (("onnx", "ray"), ("tests/test_distributed.py", "tests/test_places.py")),
}
# What runs the tests, at any version: what is tested is the rest.
TOOLS = ("pytest", "hypothesis", "tomli; python_version < '3.11'")


def requirements(project: Mapping[str, Any], extras: Iterable[str]) -> list[Requirement]:
    """What the core and ``extras`` ask for, through extras of our own."""
    found = [Requirement(line) for line in project["dependencies"]]
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if requirement.name == OWN:
                found += requirements(project, sorted(requirement.extras))
            else:
                found.append(requirement)
    return found


def lower_bound(requirement: Requirement) -> str:
    """The lowest version that it allows, by what it says: it must say ``>=``.

    Raises:
        ValueError: it does not.
    """
    bounds = [item.version for item in requirement.specifier if item.operator == ">="]
    if len(bounds) != 1:
        raise ValueError(f"{requirement} has no lower bound: say >=")
    return bounds[0]


def minimums(
    found: Iterable[Requirement], environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The lowest version of each package, where its marker holds in ``environment``.

    Raises:
        ValueError: a requirement has no lower bound, or two that differ.
    """
    lowest: dict[str, str] = {}
    for requirement in found:
        if requirement.marker is not None and not requirement.marker.evaluate(
            dict(environment or default_environment())
        ):
            continue
        version = lower_bound(requirement)
        if lowest.setdefault(requirement.name, version) != version:
            raise ValueError(f"{requirement.name} has two lower bounds")
    return dict(sorted(lowest.items()))


def read() -> tuple[dict[str, Any], list[Requirement]]:
    """The project, and what its build needs."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    build = [
        Requirement(line)
        for line in content["build-system"]["requires"]
        if Requirement(line).specifier  # wheel and ninja: any
    ]
    return content["project"], build


def find_python(project: Mapping[str, Any]) -> str:
    """The oldest interpreter that is allowed, if there is one here, else this one."""
    oldest = re.search(r">=(\d+\.\d+)", project["requires-python"]).group(1)
    candidates = [shutil.which(f"python{oldest}") or ""]
    candidates += map(str, sorted(Path.home().glob(f".pyenv/versions/{oldest}.*/bin/python")))
    for candidate in filter(None, candidates):  # pyenv has programs that run nothing
        if subprocess.run([candidate, "-V"], capture_output=True).returncode == 0:
            return candidate
    return sys.executable


def markers_of(python: str) -> dict[str, str]:
    """What markers see in that interpreter."""
    code = "import sys; print('%d.%d' % sys.version_info[:2], '%d.%d.%d' % sys.version_info[:3])"
    short, full = subprocess.check_output([python, "-c", code], text=True).split()
    return {**default_environment(), "python_version": short, "python_full_version": full}


class Environment:
    """A fresh virtual environment in which everything has the version of ``pins``."""

    def __init__(self, name: str, python: str, pins: Mapping[str, str]) -> None:
        self.folder = FOLDER / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        constraints = self.folder / "constraints.txt"
        constraints.write_text("".join(f"{n}=={v}\n" for n, v in pins.items()), encoding="utf-8")
        self.run(python, "-m", "venv", str(self.folder / "venv"))
        self.python = str(self.folder / "venv" / "bin" / "python")
        self._constraints = str(constraints)

    def run(self, *command: str) -> None:
        """CalledProcessError if it fails."""
        tools = str(self.folder / "venv" / "bin")
        variables = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
        variables.setdefault("ICMH_CMAKE_ARGS", "-DICMH_CUDA=OFF")
        variables.pop("PYTHONPATH", None)
        subprocess.run(command, cwd=self.folder, env=variables, check=True)

    def install(self, *packages: str) -> None:
        constraints = ("--constraint", self._constraints)
        self.run(self.python, "-m", "pip", "install", "--quiet", *constraints, *packages)


def build_wheel(python: str, build: list[Requirement]) -> Path:
    """The package, built by the oldest tools and not by what isolation would fetch."""
    pins = minimums(build, markers_of(python))
    print(f"build: {shown(pins)}", flush=True)
    environment = Environment("build", python, pins)
    # Copied, so that builds of other interpreters in this checkout stay as they are.
    source = environment.folder / "source"
    ignored = shutil.ignore_patterns("build", "dist", "tests", ".*", "__pycache__", "*.so")
    shutil.copytree(ROOT, source, ignore=ignored)
    environment.install(*map(str, build), "wheel", "ninja")
    into = ("--no-deps", "--no-build-isolation", "--wheel-dir", str(environment.folder))
    environment.run(environment.python, "-m", "pip", "wheel", "--quiet", *into, str(source))
    (wheel,) = environment.folder.glob("*.whl")
    return wheel


def test(name: str, project: Mapping[str, Any], wheel: Path, python: str) -> None:
    """Install a group and run its tests; CalledProcessError if that fails."""
    extras, tests = GROUPS[name]
    pins = minimums(requirements(project, extras), markers_of(python))
    print(f"{name}: {shown(pins)}", flush=True)
    environment = Environment(name, python, pins)
    # One call, so that pip finds versions of what they require that fit all of them.
    own = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
    environment.install(own, *TOOLS)
    environment.run(environment.python, "-m", "pip", "check")
    # Away from the package's sources, which would be found before what is installed.
    folder = environment.folder
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "examples", "docs", "scripts", "export", "benchmarks", "csrc"):
        (folder / part).symlink_to(ROOT / part)
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests)
    environment.run(environment.python, *command)


def shown(pins: Mapping[str, str]) -> str:
    return " ".join(f"{name}=={version}" for name, version in pins.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--python", help="interpreter")
    parser.add_argument("--wheel", type=Path, help="test this one instead of building one")
    parser.add_argument("--list", action="store_true", help="print the versions, install nothing")
    options = parser.parse_args()
    unknown = sorted(set(options.groups) - set(GROUPS))
    if unknown:
        parser.error(f"unknown group {unknown[0]!r}: use {', '.join(GROUPS)}")
    project, build = read()
    python = options.python or find_python(project)
    names = options.groups or list(GROUPS)
    if options.list:
        print(f"build: {shown(minimums(build, markers_of(python)))}")
        for name in names:
            found = requirements(project, GROUPS[name][0])
            print(f"{name}: {shown(minimums(found, markers_of(python)))}")
        return 0
    wheel = build_wheel(python, build) if options.wheel is None else options.wheel.resolve()
    failed = []
    for name in names:
        start = time.monotonic()
        try:
            test(name, project, wheel, python)
        except subprocess.CalledProcessError as error:
            print(f"{name}: FAILED: {' '.join(error.cmd)}")
            failed.append(name)
        else:
            print(f"{name}: passed in {time.monotonic() - start:.0f} s", flush=True)
    print(f"minimums: failed: {', '.join(failed)}" if failed else "minimums: all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
