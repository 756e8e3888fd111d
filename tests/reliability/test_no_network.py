"""No network at import or at run: SECURITY.md promises it. Every process here, and those that it
starts, is refused the network and keeps a list of its attempts (`no_network.py`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import icmh_rt
from icmh_rt.images import save_image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


class Cut:
    """Runs Python without a network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "network.log"
        (folder / "sitecustomize.py").write_bytes((HERE / "no_network.py").read_bytes())

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = [str(self.folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
                "NETWORK_LOG": str(self.log),
                "ICMH_NUM_THREADS": "1",
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )

    def attempts(self) -> str:
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""


@pytest.fixture
def cut(tmp_path):
    return Cut(tmp_path)


USES = (
    "import socket; socket.create_connection(('192.0.2.1', 9))",
    "import socket; socket.getaddrinfo('example.invalid', 80)",
    "import socket; socket.gethostbyname('example.invalid')",
    "import socket; socket.socket().bind(('0.0.0.0', 0))",
    "import _socket; s = _socket.socket(2, _socket.SOCK_DGRAM); s.sendto(b'', ('192.0.2.1', 9))",
    "import urllib.request; urllib.request.urlopen('http://example.invalid')",
    "import subprocess, sys; subprocess.run([sys.executable, '-c', "
    "'import socket; socket.gethostbyname(str(1))'])",
)


def test_uses_are_seen(cut):
    """What the other tests rely on: also where the program hides the refusal."""
    attempts = [f"try:\n    {use}\nexcept Exception: pass\n" for use in USES]
    assert cut.run("-c", "".join(attempts)).returncode == 0
    events = [line.split()[0] for line in cut.attempts().splitlines()]
    assert events == [
        *("socket.getaddrinfo", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind"),
        *("socket.sendto", "urllib.Request", "socket.gethostbyname"),
    ]


def test_what_stays_in_the_machine_is_no_use(cut):
    program = (
        "import socket\n"
        "socket.socketpair()\n"
        "socket.socket(socket.AF_UNIX).bind('here')\n"
        "socket.socket().bind(('127.0.0.1', 0))\n"
    )
    assert cut.run("-c", program).returncode == 0
    assert cut.attempts() == ""


def public_modules() -> list[str]:
    """All but those without a caller's name, and those that run when they are imported."""
    found = pkgutil.walk_packages(icmh_rt.__path__, "icmh_rt.", onerror=lambda name: None)
    names = [module.name for module in found]
    return [name for name in names if not any(part.startswith("_") for part in name.split(".")[1:])]


@pytest.mark.slow
def test_importing_everything_uses_none(cut):
    names = public_modules()
    assert {"icmh_rt.codec", "icmh_rt.images", "icmh_rt.rans.coder", "icmh_rt.doctor"} <= {*names}
    code = (
        "import importlib, json, sys\n"
        "lacking = []\n"
        f"for name in {names!r}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except (ImportError, sys.modules['icmh_rt'].IcmhError) as error:\n"
        "        lacking.append(f'{name}: {error}')\n"
        "print(json.dumps(lacking))\n"
    )
    result = cut.run("-c", f"import icmh_rt\n{code}")
    assert result.returncode == 0, result.stderr
    # For want of a package, and of nothing that the network has.
    assert all("install" in line or "No module" in line for line in json.loads(result.stdout))
    assert cut.attempts() == ""


def test_encoding_decoding_and_asking_use_none(cut):
    save_image(np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3), cut.folder / "a.png")
    program = (
        "from icmh_rt.cli import main\n"
        "for line in ('encode a.png -o a.icmh --width 0.25 --device cpu', 'info a.icmh --json',\n"
        "             'decode a.icmh -o b.png --device cpu'):\n"
        "    code = main(line.split())\n"
        "    assert code == 0, (line, code)\n"
    )
    result = cut.run("-c", program)
    assert result.returncode == 0, result.stderr
    assert (cut.folder / "b.png").exists()
    assert cut.attempts() == ""


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="the onnx extra is not installed"
)
def test_onnxruntime_keeps_no_records_for_its_makers(cut):
    """Some releases do, in the user's cache, and send them."""
    program = (
        "import os\n"
        "os.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
        "for name in ('HOME', 'XDG_CACHE_HOME', 'XDG_DATA_HOME', 'XDG_STATE_HOME'):\n"
        "    os.environ[name] = os.path.abspath('home')\n"
        "os.mkdir('home')\n"
        "import numpy as np, icmh_rt\n"
        "encoder = icmh_rt.Encoder(0.25, backend='onnxruntime', device='cpu')\n"
        "encoder.encode(np.zeros((16, 16, 3), np.uint8))\n"
    )
    result = cut.run("-c", program)
    assert result.returncode == 0, result.stderr
    assert list((cut.folder / "home").rglob("*")) == []


def test_onnxruntime_is_imported_where_that_is_switched_off():
    importing = re.compile(r"^\s*(import|from) onnxruntime\b", re.MULTILINE)
    files = [path for folder in ("icmh_rt", "export") for path in (ROOT / folder).rglob("*.py")]
    found = [path.name for path in files if importing.search(path.read_text(encoding="utf-8"))]
    assert found == ["_onnxruntime.py"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "doctor --json",
        "profile --widths 0.25 --sizes 32x32 --iterations 1 --max-windows 3 --rounds 1 "
        "--max-seconds 1 --cold-start 1 --device cpu --json p.json --html p.html",
        "eval rd --data pictures --widths 0.25 --qualities 50 --anchors jpeg --json e.json "
        "--html e.html",
        "train base --help",
        "export onnx --help",
    ],
)
def test_other_commands_use_none(cut, command):
    (cut.folder / "pictures").mkdir()
    save_image(np.full((64, 64, 3), 90, np.uint8), cut.folder / "pictures" / "a.png")
    result = cut.run("-m", "icmh_rt", *command.split())
    assert result.returncode in (0, 1), result.stderr  # 1: profile's figures had no time to settle
    assert "Traceback" not in result.stderr
    assert cut.attempts() == ""
