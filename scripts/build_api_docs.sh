#!/usr/bin/env bash
# Pages of the public API, from its docstrings, in build/api; a warning is an error. Some ten seconds.
#
#   scripts/build_api_docs.sh [FOLDER]      # then open FOLDER/index.html
#
# Needs the extras docs, torch and train: the modules are imported. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-build/api}
exec "${PYTHON:-.venv/bin/python}" -m sphinx --fail-on-warning --keep-going --quiet \
  --builder html --doctree-dir "$target/.doctrees" docs/api "$target"
