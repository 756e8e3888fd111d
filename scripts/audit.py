"""Ask the advisory database for known holes in what each extra brings along.

    python scripts/audit.py                      # every extra, as pip resolves it today
    python scripts/audit.py core onnx            # these
    python scripts/audit.py --minimums           # the oldest releases that pyproject.toml allows
    python scripts/audit.py --service osv        # osv.dev instead of PyPI

pip resolves each extra for itself, without installing anything, and pip-audit looks up every
release that it found. One that the service does not know is a failure like a hole is: no answer is
no acquittal. Needs the registry, pip-audit (`pip install pip-audit`) and the service, PyPI's
JSON interface (https://pypi.org/pypi) or https://api.osv.dev.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Its wheels are fetched from NVIDIA's own index, of which advisory databases know nothing.
ELSEWHERE = {"tensorrt"}


def minimums_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "test_minimums", ROOT / "scripts" / "test_minimums.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def resolved(requirements: list[str]) -> dict[str, str]:
    """The releases that pip would install today for these, by name."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--quiet", "--report", "-", *requirements]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"pip cannot resolve them: {result.stderr.strip()[-2000:]}")
    found = json.loads(result.stdout)["install"]
    return {item["metadata"]["name"]: item["metadata"]["version"] for item in found}


def verdict(document: dict[str, Any]) -> list[str]:
    """What is wrong, of pip-audit's JSON: holes, and releases that it could not look up."""
    lines = []
    for package in document["dependencies"]:
        if "skip_reason" in package:
            lines.append(f"{package['name']}: not looked up: {package['skip_reason']}")
        for hole in package.get("vulns", ()):
            names = ", ".join([hole["id"], *hole.get("aliases", ())][:3])
            fixed = ", ".join(hole.get("fix_versions", ())) or "no release"
            lines.append(f"{package['name']} {package['version']}: {names}; fixed in {fixed}")
    return lines


def audit(releases: dict[str, str], service: str) -> list[str]:
    """What is wrong with these releases."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        lines = (f"{name}=={version.partition('+')[0]}\n" for name, version in releases.items())
        listed.write_text("".join(lines), encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip"]
        command += ["--vulnerability-service", service, "--format", "json", "-r", str(listed)]
        result = subprocess.run(command, capture_output=True, text=True)
    try:
        document = json.loads(result.stdout)
    except ValueError:
        last = result.stderr.strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"pip-audit failed: {last[-1]}") from None
    if len(document["dependencies"]) != len(releases):
        raise RuntimeError("pip-audit did not look at every release")
    return verdict(document)


def main() -> int:
    minimums = minimums_script()
    project, _ = minimums.read()
    extras = ["core", *(e for e in project["optional-dependencies"] if e not in ELSEWHERE)]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"of {', '.join(extras)}")
    parser.add_argument("--minimums", action="store_true", help="the oldest that are allowed")
    parser.add_argument("--service", choices=("pypi", "osv"), default="pypi")
    options = parser.parse_args()
    unknown = sorted(set(options.extras) - set(extras))
    if unknown:
        parser.error(f"unknown extra {unknown[0]!r}: use {', '.join(extras)}")
    failed = []
    for extra in options.extras or extras:
        wanted = minimums.requirements(project, () if extra == "core" else (extra,))
        try:
            releases = minimums.minimums(wanted)
            if not options.minimums:
                releases = resolved([str(requirement) for requirement in wanted])
            problems = audit(releases, options.service)
        except RuntimeError as error:
            problems = [str(error)]
            releases = {}
        print(f"{extra}: {len(releases)} releases, {len(problems) or 'no'} problem(s)", flush=True)
        for line in problems:
            print(f"  {line}")
        failed += [extra] if problems else []
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
