"""Runs one target of python_targets.py under atheris.

    python_fuzz.py TARGET WORK --seeds FOLDER        only writes the inputs to begin with
    python_fuzz.py TARGET WORK [libFuzzer options]

WORK is a folder for the files that the target reads. `scripts/fuzz_python.sh` calls both.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def main() -> None:
    target, folder = sys.argv[1], Path(sys.argv[2])
    if sys.argv[3:4] == ["--seeds"]:
        from python_targets import Targets

        place = Path(sys.argv[4])
        place.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(Targets(folder).seeds(target)):
            (place / f"seed-{number:02}").write_bytes(seed)
        return
    import atheris

    # Branches in these modules are the coverage; what they call (numpy, torch, Pillow) is not ours.
    with atheris.instrument_imports(include=["icmh_rt", "PIL", "python_targets"]):
        from python_targets import Targets
    run = Targets(folder).all[target]
    # libFuzzer starts itself again to merge corpora, through a shell, by its first argument.
    again = shlex.join([sys.executable, *sys.argv[:3]])
    atheris.Setup([again, *sys.argv[3:]], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
