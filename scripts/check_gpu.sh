#!/usr/bin/env bash
# Everything that only a GPU can show, in one command of less than eight minutes: builds the native
# code (with nvcc if there is one), runs all gpu-marked tests, times the adapter's kernels, and
# encoding and decoding with and without CUDA graphs. Fetches nothing and installs nothing.
#
#   scripts/check_gpu.sh [--out FOLDER] [--rehearse]
#
#   --out FOLDER  for report.json, report.md and the steps' logs; build/gpu_report by default
#   --rehearse    on a machine without a GPU: build, and run every step in small on the CPU, to see
#                 that it works. The report says that it is no check of a GPU.
#
# Each step has a time limit of its own, and one that fails does not stop the rest. Exit code 0: all
# is well; 1: a step failed or ran out of time; 3: there is no GPU here, so nothing was checked.
# PYTHON names the interpreter; else .venv's, else python3. It needs numpy, pillow, torch, safetensors,
# pybind11, cmake, pytest and hypothesis.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-}
if [ -z "$python" ]; then
  python=python3
  [ ! -x "${VENV:-.venv}/bin/python" ] || python=${VENV:-.venv}/bin/python
fi
exec "$python" scripts/check_gpu.py "$@"
