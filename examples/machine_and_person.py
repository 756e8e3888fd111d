"""One small stream for the machine; the full-width stream only when a person asks.

A camera reduces its picture to what a detector sees and encodes it at the width and for the task of
the bundle's feature head. The server decodes that stream to the detector's features, draws no
picture, and says what is there. Only if someone wants to look, the camera sends the same picture at
full size, full width and good quality.

    python examples/machine_and_person.py --detector FastestDet.onnx [--look CLASS] [PICTURE]

The detector is FastestDet as ONNX (https://github.com/dog-qiuqiu/FastestDet). Needs the extras
[torch] and [train].
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

import icmh_rt
from icmh_rt import bundle as bundles
from icmh_rt.evaluation.task_data import reducer
from icmh_rt.images import load_image, save_image
from icmh_rt.tasks.fastestdet import Detections, FastestDet

PHOTOGRAPH = Path(__file__).resolve().parent / "kodim23.png"
TASK = "detection"
LEAST_SCORE = 0.3


class Camera:
    """Has the picture and two encoders: a fast, narrow one, and the one for people."""

    def __init__(self, picture: np.ndarray, model: str, detector: FastestDet, width: float) -> None:
        self.picture = picture
        self._small = reducer(detector)(picture)
        self._for_machines = icmh_rt.Encoder(width, TASK, quality=16, model=model)
        self._for_people = icmh_rt.Encoder(1.0, quality=50, model=model)

    def small_stream(self) -> bytes:
        return self._for_machines.encode(self._small)

    def full_stream(self) -> bytes:
        return self._for_people.encode(self.picture)


class Server:
    """Has streams: knows what is in them before it has seen them."""

    def __init__(self, model: str, detector: FastestDet) -> None:
        self._decoder = icmh_rt.Decoder(model)
        self._detector, self._rest = detector, detector.remainder()

    def detect(self, stream: bytes) -> Detections:
        features = self._decoder.features(stream)
        with torch.inference_mode():
            output = self._rest({k: torch.from_numpy(v)[None] for k, v in features.items()})
        (found,) = self._detector.interpret([output])
        return found

    def picture(self, stream: bytes) -> np.ndarray:
        return self._decoder.decode(stream)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("picture", nargs="?", default=str(PHOTOGRAPH), help="default: %(default)s")
    parser.add_argument("--detector", required=True, metavar="FILE", help="FastestDet as ONNX")
    parser.add_argument("--model", default="default", help="bundle (default: %(default)s)")
    parser.add_argument(
        "--look", type=int, metavar="CLASS", help="ask for the picture if this is there"
    )
    parser.add_argument("--output", default="seen.png", help="the picture, if it was asked for")
    options = parser.parse_args()

    bundle = bundles.load(options.model)
    head = getattr(bundle, "feature_heads", {}).get(TASK)
    if head is None:
        raise icmh_rt.OptionError(f"bundle {bundle.name!r} has no feature head for {TASK}")
    detector = FastestDet(options.detector, [name for name, _ in head.outputs])
    camera = Camera(load_image(options.picture), options.model, detector, head.width)
    server = Server(options.model, detector)
    server.detect(camera.small_stream())  # once unmeasured: the first call makes kernels ready

    small = camera.small_stream()
    started = time.perf_counter()
    found = server.detect(small)
    milliseconds = 1e3 * (time.perf_counter() - started)
    print(f"small stream: {len(small):,} bytes; what is there, after {milliseconds:.1f} ms:")
    seen = found.scores >= LEAST_SCORE
    for label, score, box in zip(
        found.labels[seen], found.scores[seen], found.boxes[seen], strict=True
    ):
        print(f"  class {label}, score {score:.2f}, at {', '.join(f'{v:.2f}' for v in box)}")
    if not seen.any():
        print("  nothing")
    if options.look is None or options.look not in found.labels[seen]:
        print("nobody asked for the picture: nothing more is sent")
        return 0
    full = camera.full_stream()
    save_image(server.picture(full), options.output)
    print(
        f"full stream: {len(full):,} bytes, {len(full) / len(small):.0f} times the small one; "
        f"the picture is in {options.output}"
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (icmh_rt.IcmhError, OSError) as error:
        sys.exit(f"machine_and_person: error: {error}")
