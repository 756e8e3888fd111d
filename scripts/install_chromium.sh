#!/usr/bin/env bash
# Puts a headless Chromium where tests/reports finds it, if there is none: from Debian, or where that
# has none from playwright's own builds.
#
#   scripts/install_chromium.sh
#
# Needs root or sudo, and apt-get; for playwright VENV (default .venv). Exit code 3: it cannot be had
# here, and one line says why.
set -euo pipefail
cd "$(dirname "$0")/.."

found() {
  [ -n "${ICMH_CHROMIUM:-}" ] && return
  for name in chromium-headless-shell chromium chromium-browser google-chrome google-chrome-stable; do
    command -v "$name" >/dev/null && return
  done
  return 1
}

found && exit 0
if command -v apt-get >/dev/null; then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo -n)
  export DEBIAN_FRONTEND=noninteractive
  for package in chromium-headless-shell chromium; do
    { "${as_root[@]}" apt-get update &&
      timeout 300 "${as_root[@]}" apt-get install -y --no-install-recommends "$package"; } \
      >/dev/null 2>&1 </dev/null || true
    found && exit 0
  done
fi
if timeout 300 "${VENV:-.venv}/bin/python" -m playwright install --with-deps chromium-headless-shell \
  >/dev/null 2>&1 </dev/null; then
  exit 0
fi
echo "install_chromium.sh: neither Debian's chromium-headless-shell nor playwright's Chromium can be" \
  "installed here" >&2
exit 3
