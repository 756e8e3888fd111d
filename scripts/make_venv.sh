#!/usr/bin/env bash
# Make a virtual environment and install icmh_rt from this checkout into it.
#
#   scripts/make_venv.sh FOLDER PIP_ARGUMENT...
#
# for example: scripts/make_venv.sh .venv -e ".[torch,dev]"
# PYTHON names the interpreter (default python3). What Debian packages are missing is said in one
# line; run as root, the script installs them.
set -euo pipefail

folder=$1
shift
python=${PYTHON:-python3}

missing() {
  command -v "$python" >/dev/null || { echo python3 python3-venv python3-dev; }
  command -v "$python" >/dev/null && {
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    "$python" -c 'import os, sysconfig
raise SystemExit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
      echo python3-dev
  }
  { command -v g++ || command -v c++; } >/dev/null || echo g++
}

packages=$(missing | tr '\n' ' ')
packages=${packages% }
if [ -n "$packages" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing Debian packages: $packages"
  apt-get update -qq </dev/null
  # Word splitting is wanted: one argument a package.
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages \
    </dev/null >/dev/null
  packages=$(missing | tr '\n' ' ')
  packages=${packages% }
fi
if [ -n "$packages" ]; then
  echo "icmh_rt cannot be built here yet; please run: sudo apt-get install $packages" >&2
  exit 1
fi
if ! "$python" -c 'import sys; raise SystemExit(not (3, 10) <= sys.version_info < (3, 14))'; then
  echo "icmh_rt needs Python 3.10 to 3.13, $python is $("$python" -V): set PYTHON=/path/to/python3" >&2
  exit 1
fi

[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
echo "Installing icmh_rt and what it needs into $folder (the first time this takes minutes: the"
echo "registry's torch for Linux brings its CUDA libraries along)"
"$folder/bin/python" -m pip install --quiet --no-input --disable-pip-version-check "$@" </dev/null
