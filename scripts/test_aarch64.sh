#!/usr/bin/env bash
# Cross-compiles the C++ core and its native tests for 64-bit Arm and runs them under qemu-user.
#
#   scripts/test_aarch64.sh [--install] [--full]
#
#   --install   first installs what is missing from Debian (needs root or sudo, and apt-get)
#   --full      10000 random cases, as scripts/test_native.sh does; otherwise 300
#
# Exit code 3: it cannot run here, and one line says what is missing. Builds in build/native/, or in
# ICMH_NATIVE_BUILD.
set -euo pipefail
cd "$(dirname "$0")/.."

install=no
cases=300
mutations=2000
while [ $# -gt 0 ]; do
  case $1 in
    --install) install=yes ;;
    --full) cases=10000 mutations=20000 ;;
    *) echo "test_aarch64.sh: unknown argument $1; see the head of this script" >&2; exit 2 ;;
  esac
  shift
done

missing_packages() {
  command -v aarch64-linux-gnu-g++ >/dev/null || echo g++-aarch64-linux-gnu
  command -v qemu-aarch64 >/dev/null || echo qemu-user
  { command -v cmake && command -v ctest; } >/dev/null || echo cmake
  { command -v ninja || command -v make; } >/dev/null || echo ninja-build
}

mapfile -t missing < <(missing_packages)
if [ "${#missing[@]}" -gt 0 ] && [ $install = yes ] && command -v apt-get >/dev/null; then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo -n)
  export DEBIAN_FRONTEND=noninteractive
  { "${as_root[@]}" apt-get update && "${as_root[@]}" apt-get install -y "${missing[@]}"; } \
    >/dev/null 2>&1 </dev/null || true
  mapfile -t missing < <(missing_packages)
fi
if [ "${#missing[@]}" -gt 0 ]; then
  echo "test_aarch64.sh: cannot run here: these Debian packages are missing: ${missing[*]}" >&2
  exit 3
fi

flags=()
command -v ninja >/dev/null && flags+=(-G Ninja)
folder=${ICMH_NATIVE_BUILD:-build/native}/aarch64
mkdir -p "$folder"
rm -f "$folder/CMakeCache.txt"
cmake -S . -B "$folder" -DCMAKE_BUILD_TYPE=Release -DICMH_BUILD_PYTHON=OFF -DICMH_BUILD_TESTS=ON \
  -DCMAKE_TOOLCHAIN_FILE=tests/native/aarch64-linux-gnu.cmake \
  -DICMH_TEST_CASES=$cases -DICMH_FUZZ_MUTATIONS=$mutations \
  "${flags[@]}" >"$folder/configure.log" || { cat "$folder/configure.log" >&2; exit 1; }
cmake --build "$folder" --parallel "${ICMH_BUILD_JOBS:-2}"
cd "$folder"

# qemu-user cannot fork a process that has threads, and takes memory for every page that a program
# only reserves: a test that asks for an absurd stack must be refused it, not use up the machine.
export ICMH_TEST_NO_FORK=1
ulimit -v $((40 * 1024 * 1024))
exec ctest --output-on-failure
