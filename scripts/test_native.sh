#!/usr/bin/env bash
# Builds the C++ core with its native tests, without Python, and runs them.
#
#   scripts/test_native.sh [--sanitize | --thread-sanitizer | --valgrind | --scalar] [--quick]
#                          [-- CTEST_ARGUMENT...]
#
#   --sanitize           AddressSanitizer and UndefinedBehaviorSanitizer
#   --thread-sanitizer   ThreadSanitizer
#   --valgrind           valgrind also sees gathers, which sanitizers do not; not AVX-512
#   --scalar             build without the loops that are written for an instruction set
#   --quick              300 random cases instead of 10000, fewer mutated fuzz inputs, and without
#                        rans_tables_test; the default with --thread-sanitizer and --valgrind
#
# CXX chooses the compiler. Builds in build/native/, or in ICMH_NATIVE_BUILD, with ICMH_BUILD_JOBS
# processes (default 2).
set -euo pipefail
cd "$(dirname "$0")/.."

jobs=${ICMH_BUILD_JOBS:-2}
variant=release
quick=no
valgrind=no
flags=()
while [ $# -gt 0 ]; do
  case $1 in
    --sanitize) variant=sanitize ;;
    --thread-sanitizer)
      variant=thread quick=yes
      flags=("-DCMAKE_CXX_FLAGS=-fsanitize=thread -g -fno-omit-frame-pointer"
        -DCMAKE_CXX_FLAGS_RELEASE=-O1) ;;
    --valgrind) valgrind=yes quick=yes ;;
    --scalar) variant=scalar flags=(-DICMH_SIMD=OFF) ;;
    --quick) quick=yes ;;
    --) shift; break ;;
    *) echo "test_native.sh: unknown argument $1; see the head of this script" >&2; exit 2 ;;
  esac
  shift
done
for program in cmake ctest; do
  command -v "$program" >/dev/null ||
    { echo "test_native.sh: there is no $program; please install cmake" >&2; exit 1; }
done
if [ $valgrind = yes ]; then
  command -v valgrind >/dev/null ||
    { echo "test_native.sh: there is no valgrind; please install it" >&2; exit 1; }
fi
if [ $# = 0 ]; then
  set -- --output-on-failure --parallel "$jobs"
  # Exhaustive arithmetic, in which instrumented code takes most of the time and finds least.
  [ $quick = no ] || set -- "$@" -E '^rans_tables_test$'
fi
if [ $quick = yes ]; then
  flags+=(-DICMH_TEST_CASES=300 -DICMH_FUZZ_MUTATIONS=1000)
  [ $variant != sanitize ] || variant=sanitize-quick
else
  flags+=(-DICMH_TEST_CASES=10000 -DICMH_FUZZ_MUTATIONS=20000)
fi
# With sanitizers, optimised code takes ten times as long to compile as it saves in the tests.
case $variant in
  sanitize) flags+=(-DICMH_SANITIZE=ON -DCMAKE_CXX_FLAGS_RELEASE=-O1) ;;
  sanitize-quick) flags+=(-DICMH_SANITIZE=ON -DCMAKE_CXX_FLAGS_RELEASE=-O0) ;;
esac
command -v ninja >/dev/null && flags+=(-G Ninja)

folder=${ICMH_NATIVE_BUILD:-build/native}/$variant
mkdir -p "$folder"
# A cache made with another build environment holds paths that may be gone by now.
rm -f "$folder/CMakeCache.txt"
cmake -S . -B "$folder" -DCMAKE_BUILD_TYPE=Release -DICMH_BUILD_PYTHON=OFF \
  -DICMH_BUILD_TESTS=ON "${flags[@]}" >"$folder/configure.log" ||
  { cat "$folder/configure.log" >&2; exit 1; }
cmake --build "$folder" --parallel "$jobs"
cd "$folder"

if [ $valgrind = yes ]; then
  # Every read of memory that was never allocated or set; the other programs bring their own guards.
  exec valgrind --quiet --error-exitcode=1 ./rans_levels_test --cases 300
fi
exec ctest "$@"
