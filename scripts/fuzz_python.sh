#!/usr/bin/env bash
# Fuzzes what Python does with foreign bytes (streams, bundles, adapter and feature head files,
# images) with atheris, then reduces what was found to the smallest corpus of the same coverage, in
# tests/fuzz/corpus/python-TARGET/.
#
#   scripts/fuzz_python.sh [TARGET [RUNS [SECONDS]]]     default: all 1000000 3600
#
# TARGET is stream, rans, parts, tensors, images or all (each gets so many runs, and at most so many
# seconds). Needs atheris and the torch extra; PYTHON chooses the interpreter. Exit code 3: it cannot
# run here. A failing input is kept in build/fuzz/python/, the counts in its logs.
set -euo pipefail
cd "$(dirname "$0")/.."

known=(stream rans parts tensors images)
case ${1:-all} in
  all) targets=("${known[@]}") ;;
  *)
    [[ " ${known[*]} " == *" $1 "* ]] ||
      { echo "fuzz_python.sh: unknown target $1; see the head of this script" >&2; exit 2; }
    targets=("$1")
    ;;
esac
runs=${2:-1000000}
seconds=${3:-3600}
for number in "$runs" "$seconds"; do
  [[ $number =~ ^[0-9]+$ ]] ||
    { echo "fuzz_python.sh: $number is no number; see the head of this script" >&2; exit 2; }
done
python=${PYTHON:-python3}
"$python" -c "import atheris, torch, safetensors" 2>/dev/null ||
  { echo "fuzz_python.sh: cannot run here: $python lacks atheris, torch or safetensors" >&2
    exit 3; }

export OMP_NUM_THREADS=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
folder=build/fuzz/python
# An input that takes more memory than this is a finding: the libraries themselves take half of it.
options=(-max_len=4096 -timeout=20 -rss_limit_mb=1500)
for target in "${targets[@]}"; do
  corpus=tests/fuzz/corpus/python-$target
  found=$folder/found/$target
  seeds=$folder/seeds/$target
  smallest=$folder/smallest/$target
  rm -rf "$smallest" "$seeds"
  mkdir -p "$found" "$corpus" "$smallest" "$seeds"
  fuzzer=("$python" tests/fuzz/python_fuzz.py "$target" "$folder/work-$target")
  echo "== $target"
  "${fuzzer[@]}" --seeds "$seeds"
  "${fuzzer[@]}" "${options[@]}" -runs="$runs" -max_total_time="$seconds" -print_final_stats=1 \
    -artifact_prefix="$folder/$target-" "$found" "$corpus" "$seeds" 2>&1 |
    tee "$folder/$target.log" | awk '/NEW|REDUCE|RELOAD/ && ++seen % 500 != 0 { next } { print }'
  "${fuzzer[@]}" "${options[@]}" -merge=1 -use_counters=0 "$smallest" "$corpus" "$found" "$seeds" \
    >"$folder/merge.log" 2>&1 ||
    { tail -20 "$folder/merge.log" >&2; exit 1; }
  find "$corpus" -type f -delete
  cp "$smallest"/* "$corpus/"
  echo "fuzz_python.sh: $corpus has $(find "$corpus" -type f | wc -l) inputs," \
    "$(cat "$corpus"/* | wc -c) bytes"
done
