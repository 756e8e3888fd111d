#!/usr/bin/env bash
# Make a virtual environment and install icmh_rt from this checkout into it.
#
#   scripts/make_venv.sh FOLDER PIP_ARGUMENT...
#
# for example: scripts/make_venv.sh .venv -e ".[torch,dev]"
# PYTHON names the interpreter (default python3). What Debian packages are missing is said in one
# line; nothing is installed outside FOLDER.
set -euo pipefail

folder=$1
shift
python=${PYTHON:-python3}

stop() {
  echo "icmh_rt cannot be installed here yet: $1" >&2
  exit 1
}

missing=()
if command -v "$python" >/dev/null; then
  "$python" -c 'import sys; raise SystemExit(not (3, 10) <= sys.version_info < (3, 14))' ||
    stop "it needs Python 3.10 to 3.13 and $python is $("$python" -V 2>&1); set PYTHON=..."
  "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  "$python" -c 'import os, sysconfig
raise SystemExit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
    missing+=(python3-dev)
elif [ -n "${PYTHON:-}" ]; then
  stop "PYTHON=$PYTHON is no program"
else
  missing+=(python3 python3-venv python3-dev)
fi
command -v g++ >/dev/null || command -v c++ >/dev/null || missing+=(g++)
if [ "${#missing[@]}" -gt 0 ]; then
  as_root="sudo "
  [ "$(id -u)" != 0 ] || as_root=""
  stop "please run: ${as_root}apt-get update && ${as_root}apt-get install -y ${missing[*]}"
fi

[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
echo "Installing icmh_rt and what it needs into $folder (the first time this takes minutes: the"
echo "registry's torch for Linux brings its CUDA libraries along)"
"$folder/bin/python" -m pip install --quiet --no-input --disable-pip-version-check "$@" </dev/null
