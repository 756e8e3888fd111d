"""What the doctor looks at, each in a process of its own: a broken library may take its process
with it, and what one loads must not help another.

`run` starts such a process, `main` is what runs in it: it prints one JSON object as its last line.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from icmh_rt.doctor import causes

TIMEOUT_S = 120.0
_ROOT = str(Path(__file__).resolve().parents[2])
# Without the folder that the command was given in, whose files could pass for packages.
_PROGRAM = (
    "import sys; sys.path[0:1] = []; sys.path.append({root!r}); "
    "from icmh_rt.doctor.probes import main; main()"
)

Finding = dict[str, Any]
"""state: "ok", "absent" or "broken" · version, detail: of what is ok · cause: of what is not."""


def run(name: str, *arguments: str) -> Finding:
    """The finding of one probe."""
    command = [sys.executable, "-c", _PROGRAM.format(root=_ROOT), name, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return broken(f"no answer within {TIMEOUT_S:.0f} s")
    lines = done.stdout.splitlines()
    try:
        finding = json.loads(lines[-1])
        if isinstance(finding, dict) and "state" in finding:
            return finding
    except (IndexError, ValueError):
        pass
    return broken(causes.of_exit(done.returncode, done.stderr))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the probe that the arguments name, and print its finding."""
    name, *rest = sys.argv[1:] if arguments is None else arguments
    try:
        finding = PROBES[name](*rest)
    except BaseException as error:
        finding = broken(causes.root_of(error))
    print("\n" + json.dumps(finding), flush=True)


def ok(version: str = "", detail: str = "", **more: Any) -> Finding:
    return {"state": "ok", "version": version, "detail": detail, **more}


def absent(cause: str = "not installed") -> Finding:
    return {"state": "absent", "cause": cause}


def broken(cause: str) -> Finding:
    return {"state": "broken", "cause": cause}


# -- components ------------------------------------------------------------------------------------


def _package(module: str, detail: Callable[[Any], str] = lambda _: "") -> Callable[[], Finding]:
    """A probe that imports ``module``."""

    def probe() -> Finding:
        from icmh_rt.backends.presence import installed

        if not installed(module):
            return absent()
        loaded = importlib.import_module(module)
        return ok(getattr(loaded, "__version__", ""), detail(loaded))

    return probe


def _native() -> Finding:
    from icmh_rt import _native as native

    module = native.module()
    crc = native.crc32c(b"123456789")
    if crc != 0xE3069283:  # the check value of RFC 3720's polynomial
        return broken(f"icmh_rt._C computes a CRC-32C of 0x{crc:08x} where 0xe3069283 is right")
    return ok("", f"{module.simd_level()}, {module.num_threads()} thread(s)")


def _driver() -> Finding:
    from icmh_rt.backends import _devices

    found = _devices.driver()
    if found.problem is not None:
        return broken(found.problem)
    if not found.devices:
        return absent("no CUDA device")
    return ok("", f"{found.devices} CUDA device(s)", devices=found.devices)


def _bundle(model: str) -> Finding:
    from icmh_rt.bundle import load

    bundle = load(model)
    widths = ", ".join(map(str, bundle.widths))
    return ok("", f"{bundle.fingerprint}, widths {widths}, tasks {', '.join(bundle.tasks)}")


def _torch() -> Finding:
    from icmh_rt.backends.presence import installed

    if not installed("torch"):
        return absent()
    import numpy as np
    import torch

    if torch.from_numpy(np.arange(3.0)).sum().item() != 3.0:
        return broken("torch cannot add")
    cuda = torch.version.cuda or torch.version.hip
    if cuda is None:
        return ok(torch.__version__, "built for CPUs", gpu=False)
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ok(torch.__version__, f"built for CUDA {cuda}, sees {seen} device(s)", gpu=seen > 0)


def _onnxruntime() -> Finding:
    from icmh_rt.backends.presence import installed

    if not installed("onnxruntime"):
        return absent()
    # They share one folder: what was installed last overwrote half of the other.
    installed_names = {str(d.metadata["Name"]).lower() for d in importlib.metadata.distributions()}
    both = sorted(installed_names & {"onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"})
    if len(both) > 1:
        return broken(f"{' and '.join(both)} are both installed, in the same folder")
    from icmh_rt._onnxruntime import ort

    names = [p.removesuffix("ExecutionProvider") for p in ort.get_available_providers()]
    gpu = bool({"CUDA", "Tensorrt"} & {*names})
    return ok(ort.__version__, f"providers {', '.join(names)}", gpu=gpu)


def _tensorrt() -> Finding:
    from icmh_rt.backends import _tensorrt_library

    reason = _tensorrt_library.missing()
    if reason is not None:
        return absent(reason)
    library = _tensorrt_library.load()
    return ok(library.version, library.name)


# -- backends --------------------------------------------------------------------------------------


def _choice(model: str, device: str) -> Finding:
    """What "auto" takes, having made it."""
    from icmh_rt.backends import choose, create
    from icmh_rt.bundle import load

    bundle = load(model)
    create(bundle, "auto", device)
    choice = choose(bundle, "auto", device)
    return ok("", choice.reason, backend=choice.backend, place=choice.place)


def _backend(name: str, place: str, model: str) -> Finding:
    """Encode and decode a small picture; its latents must come out as they went in."""
    import numpy as np

    from icmh_rt.bundle import load
    from icmh_rt.codec import Decoder, Encoder

    bundle = load(model)
    width = max(bundle.widths)
    started = time.perf_counter()
    encoder = Encoder(model=bundle, backend=name, device=place, width=width, task=bundle.tasks[0])
    decoder = Decoder(model=bundle, backend=name, device=place)
    image = _picture()
    report = encoder.encode_detailed(image)
    latents = decoder.latents(report.data)
    if not np.array_equal(latents.symbols_y, report.latents.symbols_y):
        return broken("it decodes other symbols than it encoded")
    decoded = decoder.decode(report.data)
    seconds = time.perf_counter() - started
    error = float(np.abs(decoded.astype(np.float64) - image).mean())
    if decoded.shape != image.shape or not error < 16.0:
        return broken(f"it decodes another picture than it encoded: {error:.0f} of 255 off")
    height, columns, _ = image.shape
    return ok(
        "",
        f"encoded and decoded {columns}x{height} at width {width} in {seconds:.1f} s with loading",
        device=encoder.backend.device,
        latents=hashlib.sha256(latents.y_hat.tobytes()).hexdigest()[:16],
        seconds=round(seconds, 3),
    )


def _picture() -> Any:
    """Waves in three colours, uint8 (80, 112, 3)."""
    import numpy as np

    y, x = np.mgrid[0:80, 0:112] / 16.0
    waves = [np.sin(x + k) * np.cos(0.7 * y - k) for k in range(3)]
    return np.clip(127 + 90 * np.stack(waves, axis=2), 0, 255).astype(np.uint8)


PROBES: dict[str, Callable[..., Finding]] = {
    "numpy": _package("numpy"),
    "pillow": _package("PIL"),
    "native": _native,
    "safetensors": _package("safetensors"),
    "bundle": _bundle,
    "driver": _driver,
    "torch": _torch,
    "triton": _package("triton"),
    "onnx": _package("onnx"),
    "onnxruntime": _onnxruntime,
    "tensorrt": _tensorrt,
    "choice": _choice,
    "backend": _backend,
}
