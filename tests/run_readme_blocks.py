"""Run the README's own code: `python tests/run_readme_blocks.py [FILE]`, from anywhere.

Blocks marked ```python run in order and share their names; blocks marked ```bash run as they stand
(```sh blocks, which install things, do not). Everything happens in a temporary folder that holds
`photo.png`, with the commands of this interpreter's environment first on the path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[int, str, str]]:
    """(line of the first line of code, language, code) of every block that is to be run."""
    return [
        (text.count("\n", 0, match.start(2)) + 1, match[1], match[2])
        for match in _BLOCK.finditer(text)
    ]


def run(language: str, code: str, name: str, line: int, names: dict[str, Any]) -> bool:
    """Run one block; a failure is printed with its line in the document."""
    if language == "bash":
        return subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=False).returncode == 0
    try:
        exec(compile("\n" * (line - 1) + code, name, "exec"), names)
    except Exception:
        traceback.print_exc()
        return False
    return True


def main() -> int:
    document = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "README.md").resolve()
    found = blocks(document.read_text(encoding="utf-8"))
    if not found:
        print(f"{document.name} has no code blocks to run", file=sys.stderr)
        return 1
    scripts = str(Path(sys.executable).parent)
    os.environ["PATH"] = scripts + os.pathsep + os.environ.get("PATH", "")
    names: dict[str, Any] = {"__name__": "__readme__"}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / "examples" / "kodim23.png", Path(folder, "photo.png"))
        os.chdir(folder)
        try:
            for line, language, code in found:
                print(f"-- {document.name}:{line} ({language})", flush=True)
                if not run(language, code, document.name, line, names):
                    print(f"{document.name}:{line}: this block fails", file=sys.stderr)
                    return 1
        finally:
            os.chdir(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
