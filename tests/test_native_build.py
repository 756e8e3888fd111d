"""The C++ core with its own tests, built and run without Python, in the ways that scripts/ offers.

What the programs check is said at the head of each of tests/native/*_test.cpp; what is built stays
in build/native/, so a second run takes seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CANNOT_RUN_HERE = 3
# cmake, ctest and ninja may come from this environment, activated or not.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run scripts/<name>; its output is the message of a failing assertion."""
    return subprocess.run(
        [str(ROOT / "scripts" / name), *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": PATH},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=3600,
    )


@pytest.fixture(scope="module", autouse=True)
def tools():
    """The package is built with the same tools, but its wheel may be tested where they are not."""
    missing = [name for name in ("cmake", "ctest") if not shutil.which(name, path=PATH)]
    if not any(shutil.which(name, path=PATH) for name in (os.environ.get("CXX", "c++"), "g++")):
        missing.append("a C++ compiler")
    if missing:
        pytest.skip(f"the native tests are built here, and there is no {', no '.join(missing)}")


def test_under_address_and_undefined_behaviour_sanitizers():
    done = run_script("test_native.sh", "--sanitize", "--quick")
    assert done.returncode == 0, done.stdout
    for name in ("rans_levels_test", "rans_safety_test", "rans_fuzz_replay", "compat_fuzz_replay"):
        assert f"{name} ." in done.stdout


@pytest.mark.slow
def test_in_release():
    """All 10000 cases: every SIMD level of this machine writes the committed bytes."""
    done = run_script("test_native.sh")
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_under_the_thread_sanitizer():
    done = run_script("test_native.sh", "--thread-sanitizer")
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_on_aarch64_under_qemu():
    done = run_script("test_aarch64.sh")
    if done.returncode == CANNOT_RUN_HERE:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout


def test_scripts_refuse_unknown_arguments():
    for name in ("test_native.sh", "test_aarch64.sh", "fuzz.sh"):
        done = run_script(name, "--no-such-option")
        assert done.returncode == 2, f"{name}: {done.stdout}"
        assert "--no-such-option" in done.stdout and done.stdout.count("\n") == 1
