"""ONNX graphs of a bundle's transforms, written node by node from its arrays: no torch.

    model = graphs.build(bundle.load(), "analysis", width=0.5)
    graphs.save(model, "analysis.onnx")

One graph has one role, width and task, and the weights of that width only. Images are bytes as
they come (uint8, channels last); padding and cropping are inside. Equal bundles and options give
equal bytes.

- "analysis": image uint8 (N, H, W, 3) -> y float32 (N, h, w, M), z float32 (N, hz, wz, Z). What
  backends run, whose hyper-synthesis is the native one.
- "encoder": image, quality int64 () -> symbols_y int32 and indexes_y uint8 (N, h, w, M), symbols_z
  int32 (N, hz, wz, Z). All that the entropy coder takes.
- "hyper_synthesis": symbols_z, quality -> mean_y float32 and indexes_y uint8 (N, 4 hz, 4 wz, M), of
  which a latent has the first h rows and w columns. A decoder adds symbols_y, multiplies with the
  inverse gain and has y_hat.
- "synthesis": y_hat float32 (N, h, w, M), height and width int64 () -> image uint8
  (N, height, width, 3).
- "features": y_hat -> features float32 (N, C, h, w) by their names, of tasks and widths that have a
  feature head.

h = ceil(H / 16), hz = ceil(h / 4), and alike for widths. The means and indexes are exact on every
runtime that computes the nodes named ``exact/...`` in plain float32, without TF32.
"""

from __future__ import annotations

from icmh_rt.graphs._eight_bits import EightBits
from icmh_rt.graphs._roles import ROLES, build, save

__all__ = ["ROLES", "EightBits", "build", "save"]
