"""Fresh processes for what a process can be measured for only once: its first steps, its peak."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from icmh_rt.errors import IcmhError

TIMEOUT_S = 600.0
_ROOT = str(Path(__file__).resolve().parents[2])
# Without the folder that the command was given in, whose files could pass for packages. The clock
# is read before anything is imported.
_PROGRAM = (
    "import time; began = time.perf_counter(); import sys; sys.path[0:1] = []; "
    "sys.path.append({root!r}); from {module} import child; import json; "
    "print(json.dumps(child(began, **json.loads(sys.argv[1]))))"
)


def run(module: str, **arguments: Any) -> dict[str, Any]:
    """What ``child(began, **arguments)`` of a module returns in a fresh process, through JSON, with
    "process_ms": how long the interpreter took to start.

    Raises:
        IcmhError: it failed; with its last line.
    """
    command = [sys.executable, "-c", _PROGRAM.format(root=_ROOT, module=module)]
    started = time.perf_counter()
    try:
        done = subprocess.run(
            [*command, json.dumps(arguments)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise IcmhError(
            f"a process that was measured ran for more than {TIMEOUT_S:.0f} s"
        ) from None
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode or not lines:
        last = " ".join(lines[-1].split()) if lines else f"exit code {done.returncode}"
        raise IcmhError(f"a process that was measured failed: {last[:300]}")
    found: dict[str, Any] = json.loads(lines[-1])
    if "began_s" in found:
        # One clock for all processes of a machine, on Linux: CLOCK_MONOTONIC.
        found["process_ms"] = max(0.0, 1e3 * (found.pop("began_s") - started))
    return found
