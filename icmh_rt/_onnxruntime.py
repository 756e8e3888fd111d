"""ONNX Runtime without its telemetry: the only place that imports it.

Its release 1.31.1 for Linux writes an identifier of the machine, names of processes and what was
loaded into the user's cache, for sending to its makers. Here no network is used (SECURITY.md). A
program that imports onnxruntime first, or sets the variable, decides for itself.
"""

from __future__ import annotations

import os

# Read once, when the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

__all__ = ["ort"]
