"""What pyproject.toml promises: small core, and no extra that brings torch by surprise."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
# Packages that are torch or require it.
BRING_TORCH = {"torch", "torchvision", "timm", "accelerate", "compressai", "triton"}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(project, extra):
    """Names of the packages that an extra asks for, through extras of our own."""
    found = set()
    for requirement in project["optional-dependencies"][extra]:
        own = re.match(r"icmh-rt\[(.*)\]", requirement)
        if own:
            for other in own.group(1).split(","):
                found |= names(project, other.strip())
        else:
            found.add(re.match(r"[\w-]+", requirement).group().lower())
    return found


def test_the_core_needs_numpy_and_pillow_only(project):
    assert {re.match(r"\w+", name).group() for name in project["dependencies"]} == {
        "numpy",
        "pillow",
    }


@pytest.mark.parametrize("extra", ["onnx", "onnx-gpu", "export", "tensorrt", "dev"])
def test_extras_for_devices_leave_torch_alone(project, extra):
    assert not names(project, extra) & BRING_TORCH


def test_all_is_everything_from_the_registry(project):
    extras = set(project["optional-dependencies"]) - {"all", "tensorrt", "onnx-gpu"}
    everything = set().union(*(names(project, extra) for extra in extras))
    assert names(project, "all") == everything
    assert "tensorrt" not in everything


def test_the_two_builds_of_onnxruntime_are_for_one_or_the_other(project):
    assert names(project, "onnx") ^ names(project, "onnx-gpu") == {"onnxruntime", "onnxruntime-gpu"}


def test_the_source_distribution_takes_every_file_of_tests_and_documents():
    """A kind of file that MANIFEST.in does not name would be missing there only."""
    lines = [line.split() for line in (ROOT / "MANIFEST.in").read_text().splitlines()]
    grafts = [ROOT / line[1] for line in lines if line[0] == "graft"]
    for folder in ("tests", "docs", "csrc"):
        patterns = {p for line in lines if line[:2] == ["recursive-include", folder] for p in line}
        for path in (ROOT / folder).rglob("*"):
            made = "__pycache__" in path.parts or path.name.startswith(".")
            if path.is_dir() or made or any(graft in path.parents for graft in grafts):
                continue
            assert f"*{path.suffix}" in patterns, path


@pytest.fixture(scope="module")
def check_wheel():
    return script("check_wheel")


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GOOD_WHEEL = {
    "icmh_rt/__init__.py",
    "icmh_rt/py.typed",
    "icmh_rt/_C.cpython-311-x86_64-linux-gnu.so",
    "icmh_rt-1.0.dist-info/METADATA",
    "icmh_rt-1.0.dist-info/RECORD",
    "icmh_rt-1.0.dist-info/WHEEL",
    "icmh_rt-1.0.dist-info/entry_points.txt",
    "icmh_rt-1.0.dist-info/licenses/LICENSE",
}


@pytest.mark.parametrize(
    ("more", "less", "problem"),
    [
        ("", "", None),
        ("icmh_rt/_cuda_kernels.so", "", None),
        ("tests/test_cli.py", "", "has tests/test_cli.py"),
        ("icmh_rt/rans/tables.cpp", "", "has icmh_rt/rans/tables.cpp"),
        ("icmh_rt.libs/libgomp.so", "", "has icmh_rt.libs/libgomp.so"),
        ("icmh_rt/_C.cpython-312-x86_64-linux-gnu.so", "", "has 2 compiled modules"),
        ("", "icmh_rt/py.typed", "lacks icmh_rt/py.typed"),
        ("", "icmh_rt/_C.cpython-311-x86_64-linux-gnu.so", "has 0 compiled modules"),
        ("", "icmh_rt-1.0.dist-info/licenses/LICENSE", "lacks licenses/LICENSE"),
    ],
)
def test_what_a_wheel_must_hold(check_wheel, more, less, problem):
    names = (GOOD_WHEEL | {more} if more else set(GOOD_WHEEL)) - {less}
    found = check_wheel.wheel_problems(names, {"icmh_rt/__init__.py", "icmh_rt/py.typed"})
    assert found == [] if problem is None else problem in "; ".join(found)


def test_what_a_wheel_must_say(check_wheel):
    good = "License-Expression: Apache-2.0\nRequires-Dist: numpy>=1.22\nRequires-Dist: pillow\n"
    assert check_wheel.metadata_problems(good + 'Requires-Dist: torch; extra == "torch"\n') == []
    assert check_wheel.metadata_problems(good + "Requires-Dist: torch\n")
    assert check_wheel.metadata_problems(good.replace("Apache-2.0", "MIT"))


@pytest.fixture(scope="module")
def minimums():
    return script("test_minimums")


def test_every_requirement_has_one_lower_bound(project, minimums):
    """Over all extras, so that one environment can have all minimums; on every Python."""
    extras = sorted(set(project["optional-dependencies"]) - {"onnx-gpu"})
    found = minimums.requirements(project, extras)
    assert {"numpy", "torch", "sphinx"} <= {requirement.name for requirement in found}
    for version in ("3.10", "3.13"):
        markers = {**minimums.default_environment(), "python_version": version}
        lowest = minimums.minimums(found, markers)
        assert ("compressai" in lowest) == (version == "3.10")


def test_every_group_and_its_tests_are_there(project, minimums):
    for extras, tests in minimums.GROUPS.values():
        assert set(extras) <= set(project["optional-dependencies"])
        assert all((ROOT / test).exists() for test in tests)
    tested = {extra for extras, _ in minimums.GROUPS.values() for extra in extras}
    everything = {"torch", "onnx", "export", "train", "ray", "eval"}
    assert tested == everything


@pytest.mark.parametrize(
    "lines",
    [["a"], ["a<2"], ["a>1"], ["a==1"], ["a>=1,>=2"], ["a>=1", "b>=3", "a>=2"]],
)
def test_a_missing_or_second_lower_bound_is_refused(minimums, lines):
    with pytest.raises(ValueError, match="lower bound"):
        minimums.minimums(map(minimums.Requirement, lines))


def test_lower_bounds_are_what_is_said(minimums):
    lines = ["b[x]>=2.0,<3", "a>=1.5", "c>=1; python_version < '3'", "a>=1.5"]
    assert minimums.minimums(map(minimums.Requirement, lines)) == {"a": "1.5", "b": "2.0"}


def test_what_an_audit_does_not_know_is_no_acquittal():
    document = {
        "dependencies": [
            {"name": "good", "version": "1", "vulns": []},
            {"name": "gone", "skip_reason": "not found"},
            {
                "name": "bad",
                "version": "2",
                "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"]}],
            },
        ]
    }
    assert script("audit").verdict(document) == [
        "gone: not looked up: not found",
        "bad 2: PYSEC-1, CVE-1; fixed in 3",
    ]


def test_the_command_is_the_cli(project):
    assert project["scripts"] == {"icmh": "icmh_rt.cli:main"}


def test_the_wheel_takes_every_data_file():
    """A data file that no pattern names would be missing in the wheel only."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]["icmh_rt"]
    package = ROOT / "icmh_rt"
    taken = {path for pattern in patterns for path in package.glob(pattern)}
    code = {".py", ".pyc", ".so", ".pyd"}
    data = {path for path in package.rglob("*") if path.is_file() and path.suffix not in code}
    assert data <= taken
