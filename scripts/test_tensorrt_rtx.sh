#!/usr/bin/env bash
# Builds real engines with TensorRT-RTX, which needs no GPU for that: makes a virtual environment
# of its own, installs TensorRT-RTX from the registry (350 MB) and this package's
# dependencies, and runs tests/export/test_tensorrt_rtx.py. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-build/venv-tensorrt-rtx}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet -e '.[export,onnx,dev]'
# The usual package's libraries come from elsewhere; those of onnxruntime's provider are the same.
"$venv/bin/pip" install --quiet --no-deps \
  tensorrt-rtx-cu13-bindings onnxruntime-ep-nv-tensorrt-rtx-cu13
ICMH_REQUIRE_TENSORRT_RTX=1 "$venv/bin/python" -m pytest tests/export/test_tensorrt_rtx.py "$@"
