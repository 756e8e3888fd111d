"""A user's mistakes, each of which a type checker must find.

mypy warns of every "type: ignore" that nothing needs: were one of these mistakes not found, the
check of this file would fail. It is never run.
"""

from __future__ import annotations

import numpy as np

import icmh_rt
from icmh_rt import tasks
from icmh_rt.images import save_image

encoder = icmh_rt.Encoder(quality="high")  # type: ignore[arg-type]
icmh_rt.Encoder(1.0, "human", 50, depth=2)  # type: ignore[call-arg]
icmh_rt.Encodr()  # type: ignore[attr-defined]

encoder.encode(3)  # type: ignore[arg-type]
encoder.encode(b"the bytes of a file")  # type: ignore[arg-type]
floats = np.zeros((8, 8, 3), np.float32)
encoder.encode(floats)  # type: ignore[arg-type]
text: str = encoder.encode("picture.png")  # type: ignore[assignment]
encoder.encode_many("picture.png").save()  # type: ignore[attr-defined]

decoder = icmh_rt.Decoder("default", width=1.0)  # type: ignore[call-arg]
decoder.decode("picture.icmh")  # type: ignore[arg-type]
tensor: list[int] = decoder.decode(b"")  # type: ignore[assignment]
decoder.features(b"")["fea"].names  # type: ignore[attr-defined]  # noqa: B018

icmh_rt.read_header("picture.icmh")  # type: ignore[arg-type]
icmh_rt.read_header(b"").image_size + 1  # type: ignore[operator]
icmh_rt.set_num_threads("all")  # type: ignore[arg-type]

tables = icmh_rt.rans.Tables.from_cdfs([[0, 65536]], [2])  # type: ignore[call-arg]
icmh_rt.rans.encode([0], [0], tables.cdfs)  # type: ignore[arg-type]
icmh_rt.rans.decode("stream", [0], tables)  # type: ignore[arg-type]
save_image(np.zeros((8, 8), np.uint8))  # type: ignore[call-arg]

icmh_rt.models.load_chekpoint("model.pth")  # type: ignore[attr-defined]
icmh_rt.models.load_checkpoint()  # type: ignore[call-arg]
tasks.create(kind="fastestdet")  # type: ignore[call-arg]
tasks.Creator()  # type: ignore[attr-defined]
