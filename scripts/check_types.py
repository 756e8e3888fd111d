"""Check the type hints by NumPy's own of several releases: they differ from release to release.

    python scripts/check_types.py              # RELEASES, and every Python that their hints know
    python scripts/check_types.py 2.3.5        # these

Each release of NumPy gets an environment below build/types, with mypy beside it, from the registry.
mypy reads hints of another Python than the one that runs it, so one interpreter does for all.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "types"

# The last NumPy 1, and the minor releases of 2: the newest for each Python is among them.
RELEASES = {
    "1.26.4": ("3.10", "3.11", "3.12"),
    "2.0.2": ("3.10", "3.11", "3.12"),
    "2.1.3": ("3.10", "3.13"),
    "2.2.6": ("3.10", "3.13"),
    "2.3.5": ("3.11", "3.13"),
    "2.4.6": ("3.11", "3.13"),
}


def environment(release: str) -> Path:
    """The interpreter of an environment with that NumPy."""
    folder = FOLDER / release
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    packages = (f"numpy=={release}", "pillow>=12.3", "mypy>=1.15", "typing_extensions")
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def main(releases: list[str]) -> int:
    failed = []
    for release in releases or RELEASES:
        python = environment(release)
        for version in RELEASES.get(release, ("3.12",)):
            command = [str(python), "-m", "mypy", "--python-version", version]
            command += ["--cache-dir", str(FOLDER / release / "cache")]
            print(f"NumPy {release}, Python {version}: ", end="", flush=True)
            if subprocess.run(command, cwd=ROOT).returncode:
                failed.append(f"NumPy {release} with Python {version}")
    for line in failed:
        print(f"errors with {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
