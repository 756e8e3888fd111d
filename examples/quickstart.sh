#!/usr/bin/env bash
# The main job, from a bare machine: set up .venv, then run quickstart.py with the given options.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/make_venv.sh "${VENV:-.venv}" ".[torch]"
exec "${VENV:-.venv}/bin/python" examples/quickstart.py "$@"
