#!/usr/bin/env bash
# All tests, from a bare machine: set up .venv, then run pytest with the given options.
# Editable, so that what is tested is this checkout; the wheel is tested by tests/test_build.py.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/make_venv.sh "${VENV:-.venv}" -e ".[torch,onnx,train,dev]"
exec "${VENV:-.venv}/bin/python" -m pytest "$@"
