#!/usr/bin/env bash
# Whole streams between x86-64 and 64-bit Arm: the Python package with numpy, PyTorch and
# onnxruntime for aarch64 under qemu-user, against the corpus in tests/golden and this machine.
#
#   scripts/test_aarch64_streams.sh [--latents]
#
#   --latents   only the corpus down to its latents, without PyTorch and onnxruntime
#
# Nothing is installed on this machine: Debian's Python 3.11 for arm64 and the wheels are unpacked
# into build/aarch64/ (about 1 GB, of which the next run downloads nothing). Needs apt-get and
# dpkg-deb, Debian's g++-aarch64-linux-gnu and qemu-user, cmake, and a Python (PYTHON=...) with this
# package, its torch and onnx extras and pybind11. Exit code 3: it cannot run here, and one line
# says what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

with_backends=yes
case ${1:-} in
  "") ;;
  --latents) with_backends=no ;;
  *) echo "test_aarch64_streams.sh: unknown argument $1; see the head of this script" >&2; exit 2 ;;
esac
python=${PYTHON:-python3}
missing=()
for program in aarch64-linux-gnu-g++ qemu-aarch64 cmake apt-get dpkg-deb "$python"; do
  command -v "$program" >/dev/null || missing+=("$program")
done
for module in pip pybind11 icmh_rt._C safetensors; do
  "$python" -c "import $module" 2>/dev/null || missing+=("$python's $module")
done
if [ "${#missing[@]}" -gt 0 ]; then
  echo "test_aarch64_streams.sh: cannot run here, these are missing: ${missing[*]}" >&2
  exit 3
fi

folder=$PWD/build/aarch64
root=$folder/root          # Debian's files
site=$folder/site-packages # wheels
package=$folder/package    # this checkout, with its own native module
mkdir -p "$folder"

# Debian 12's Python with an apt of its own: that of this machine stays as it is.
unpack_python() {
  local apt=$folder/apt keyring=/usr/share/keyrings/debian-archive-keyring
  [ -e "$keyring.gpg" ] && keyring=$keyring.gpg || keyring=$keyring.pgp
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
  : >"$apt/status"
  echo "deb [signed-by=$keyring] http://deb.debian.org/debian bookworm main" >"$apt/sources.list"
  cat >"$apt/apt.conf" <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Debug::NoLocking "true";
Dir::State "$apt";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "$apt/none";
END
  export APT_CONFIG=$apt/apt.conf
  apt-get update
  apt-get install -y --download-only \
    python3.11-minimal libpython3.11-stdlib libpython3.11-dev libgomp1 libstdc++6
  rm -rf "$root" "$root.part"
  for file in "$apt"/cache/archives/*.deb; do
    dpkg-deb -x "$file" "$root.part"
  done
  # Libraries that look for what the processor can do find an Arm here. Without these files
  # onnxruntime 1.32 reads the x86 ones, and its import ends in a segmentation fault.
  mkdir -p "$root.part/proc"
  : >"$root.part/proc/cpuinfo"
  for core in 0 1; do
    local identification=$root.part/sys/devices/system/cpu/cpu$core/regs/identification
    mkdir -p "$identification"
    echo 0x00000000410fd0c1 >"$identification/midr_el1"
    cat >>"$root.part/proc/cpuinfo" <<END
processor	: $core
Features	: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x3
CPU part	: 0xd0c
CPU revision	: 1

END
  done
  mv "$root.part" "$root"
}

# Every name, as --no-deps asks for: pip would judge what they need by this machine's processor.
unpack_wheels() {
  local platforms=()
  for platform in manylinux_2_28 manylinux_2_27 manylinux_2_26 manylinux_2_17 manylinux2014; do
    platforms+=(--platform "${platform}_aarch64")
  done
  rm -rf "$site.part"
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
    --only-binary=:all: --implementation cp --python-version 3.11 "${platforms[@]}" \
    --target "$site.part" "$@"
  mkdir -p "$site"
  cp -r "$site.part"/. "$site"
  rm -rf "$site.part"
}

[ -d "$root" ] || unpack_python >"$folder/debian.log" 2>&1 || {
  tail -3 "$folder/debian.log" >&2
  echo "test_aarch64_streams.sh: cannot run here: no Python for arm64, see above" >&2
  exit 3
}
unpack_or_stop() {
  unpack_wheels "$@" >"$folder/wheels.log" 2>&1 || {
    tail -3 "$folder/wheels.log" >&2
    echo "test_aarch64_streams.sh: cannot run here: no wheels for aarch64, see above" >&2
    exit 3
  }
}
[ -d "$site/safetensors" ] || unpack_or_stop numpy pillow safetensors
# Newer PyTorch (2.15) wants CUDA's libraries on Arm too.
if [ $with_backends = yes ] && [ ! -d "$site/torch" ]; then
  unpack_or_stop onnxruntime onnx protobuf ml_dtypes flatbuffers packaging torch==2.10.0 filelock \
    typing-extensions sympy mpmath networkx jinja2 markupsafe fsspec
fi

echo "== building icmh_rt._C for aarch64"
generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
rm -rf "$package" "$folder/cmake/CMakeCache.txt"
mkdir -p "$package"
cp -r icmh_rt "$package/"
rm -f "$package"/icmh_rt/*.so
# Debian's pyconfig.h includes one from beside Python's own headers. -idirafter, for the C library's
# headers are there too, and the compiler has its own.
cmake -S . -B "$folder/cmake" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DICMH_CUDA=OFF \
  -DCMAKE_TOOLCHAIN_FILE=tests/native/aarch64-linux-gnu.cmake \
  -DCMAKE_CXX_FLAGS="-idirafter $root/usr/include" \
  -DPython_EXECUTABLE="$(command -v "$python")" \
  -DPython_INCLUDE_DIR="$root/usr/include/python3.11" \
  -DPYTHON_MODULE_EXTENSION=.cpython-311-aarch64-linux-gnu.so \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
  -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$package/icmh_rt" >"$folder/configure.log" ||
  { cat "$folder/configure.log" >&2; exit 1; }
cmake --build "$folder/cmake" --parallel "${ICMH_BUILD_JOBS:-2}" >"$folder/build.log" ||
  { tail -30 "$folder/build.log" >&2; exit 1; }

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Without bytecode every start would compile all of PyTorch's Python under emulation.
unset PYTHONDONTWRITEBYTECODE
ulimit -c 0
on_arm() {
  # qemu's own choice of a processor signs every return address, in software.
  QEMU_CPU=${QEMU_CPU:-neoverse-n1} PYTHONPATH=$package:$site PYTHONPYCACHEPREFIX=$folder/bytecode \
    qemu-aarch64 -L "$root" "$root/usr/bin/python3.11" tests/golden/across_machines.py "$@"
}
here() {
  PYTHONPATH=$PWD "$python" tests/golden/across_machines.py "$@"
}

echo "== the corpus on aarch64, down to its latents"
for level in scalar neon; do
  ICMH_SIMD=$level on_arm latents --threads 1 2 5
done
[ $with_backends = yes ] || exit 0
echo "== the corpus on aarch64 through PyTorch and onnxruntime"
on_arm record "$folder/aarch64.npz"
echo "== streams and pictures of aarch64 here"
here compare "$folder/aarch64.npz"
echo "== streams and pictures of this machine on aarch64"
here record "$folder/here.npz"
on_arm compare "$folder/here.npz"
