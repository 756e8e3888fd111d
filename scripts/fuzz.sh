#!/usr/bin/env bash
# Fuzzes the entropy coders with libFuzzer under AddressSanitizer and UndefinedBehaviorSanitizer,
# then reduces what was found to the smallest corpus of the same coverage, in tests/fuzz/corpus/.
#
#   scripts/fuzz.sh [TARGET [RUNS [SECONDS]]]     default: all 1000000 3600
#
# TARGET is rans, compat or all (each gets so many runs, and at most so many seconds). Needs clang++
# with its run-time libraries (Debian: clang, libclang-rt-dev). Exit code 3: it cannot run here. CXX
# chooses another clang++. A failing input is kept in build/fuzz/.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-all} in
  all) targets=(rans compat) ;;
  rans | compat) targets=("$1") ;;
  *) echo "fuzz.sh: unknown target $1; see the head of this script" >&2; exit 2 ;;
esac
runs=${2:-1000000}
seconds=${3:-3600}
for number in "$runs" "$seconds"; do
  [[ $number =~ ^[0-9]+$ ]] ||
    { echo "fuzz.sh: $number is no number; see the head of this script" >&2; exit 2; }
done
compiler=${CXX:-clang++}
command -v "$compiler" >/dev/null ||
  { echo "fuzz.sh: cannot run here: there is no $compiler (Debian: clang)" >&2; exit 3; }
command -v cmake >/dev/null ||
  { echo "fuzz.sh: cannot run here: there is no cmake (Debian: cmake)" >&2; exit 3; }

folder=build/fuzz
mkdir -p "$folder"
if ! echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }' |
  "$compiler" -x c++ -fsanitize=fuzzer,address,undefined -o "$folder/probe" - 2>"$folder/probe.log"
then
  echo "fuzz.sh: cannot run here: $compiler cannot link libFuzzer (Debian: libclang-rt-dev)" >&2
  exit 3
fi
# Without trace-cmp: it takes half the time, and these formats have no magic numbers to guess.
flags=("-DCMAKE_CXX_FLAGS=-fsanitize=fuzzer-no-link -fno-sanitize-coverage=trace-cmp")
command -v ninja >/dev/null && flags+=(-G Ninja)
rm -f "$folder/CMakeCache.txt"
cmake -S . -B "$folder" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O1 \
  -DCMAKE_CXX_COMPILER="$compiler" -DICMH_BUILD_PYTHON=OFF -DICMH_BUILD_TESTS=ON \
  -DICMH_BUILD_FUZZERS=ON -DICMH_SANITIZE=ON "${flags[@]}" >"$folder/configure.log" ||
  { cat "$folder/configure.log" >&2; exit 1; }
cmake --build "$folder" --parallel "${ICMH_BUILD_JOBS:-2}" --target "${targets[@]/%/_fuzz}"

# Fast rather than telling: a failing input tells where it allocated when it is run again without
# these options.
export ASAN_OPTIONS=malloc_context_size=1:quarantine_size_mb=16
options=(-max_len=1024 -len_control=20 -entropic=0 -timeout=20 -rss_limit_mb=2048)
for target in "${targets[@]}"; do
  fuzzer=$folder/${target}_fuzz
  corpus=tests/fuzz/corpus/$target
  found=$folder/found/$target
  smallest=$folder/smallest/$target
  echo "== $target"
  mkdir -p "$found" "$corpus"
  "$fuzzer" "${options[@]}" -runs="$runs" -max_total_time="$seconds" -print_final_stats=1 \
    -artifact_prefix="$folder/" "$found" "$corpus" 2>&1 | tee "$folder/$target.log" |
    awk '/NEW|REDUCE|RELOAD/ && ++seen % 500 != 0 { next } { print }'

  rm -rf "$smallest"
  mkdir -p "$smallest"
  # By edges without their counts: a few hundred inputs instead of thousands.
  "$fuzzer" "${options[@]}" -set_cover_merge=1 -use_counters=0 "$smallest" "$corpus" "$found" \
    2>"$folder/merge.log" || { tail -20 "$folder/merge.log" >&2; exit 1; }
  find "$corpus" -type f -delete
  cp "$smallest"/* "$corpus/"
  echo "fuzz.sh: $corpus has $(find "$corpus" -type f | wc -l) inputs," \
    "$(cat "$corpus"/* | wc -c) bytes"
done
