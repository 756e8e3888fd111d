"""CompressAI's C++ rANS coder as a callable without Python lists: built from its own source.

The wheel exports only functions of lists, whose conversion takes longer than the coding. So its
source distribution is fetched (`pip download`, the version that is installed) or named by the
caller, and `compressai_core.cpp` is compiled against it with the flags of its setup.py. Nothing of
that source is part of this repository.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from icmh_rt.errors import OptionError

SHIM = Path(__file__).resolve().parent / "compressai_core.cpp"
_INCLUDES = ("compressai/cpp_exts/rans", "third_party/ryg_rans")
_INTERFACE = "compressai/cpp_exts/rans/rans_interface.cpp"
_DOWNLOAD_LIMIT_S = 300
# setup.py of 1.2.x gives -std=c++17 and -O3; setuptools puts Python's own flags before them, which
# hold -DNDEBUG (without it every call would check every table), and pybind11 adds the last two.
_FLAGS = ("-std=c++17", "-O3", "-fvisibility=hidden", "-g0")


class CoreUnavailableError(Exception):
    """Why CompressAI's core cannot be built here, in one line."""


def default_cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "icmh_rt_benchmarks"


def build(source: str | None, cache: Path, download: bool) -> tuple[Path, str]:
    """Return the compiled library and, in words, what it was made of.

    Args:
        source: folder of an unpacked source distribution of CompressAI, or None to fetch it.
        cache: folder for what is fetched and built.
        download: whether fetching is allowed.

    Raises:
        OptionError: `source` does not hold it.
        CoreUnavailableError: it cannot be fetched or compiled.
    """
    cache.mkdir(parents=True, exist_ok=True)
    if source is not None:
        root = Path(source)
        if not (root / _INTERFACE).is_file():
            raise OptionError(f"{source} has no {_INTERFACE}: give CompressAI's unpacked sdist")
    else:
        root = _fetch(cache, download)
    flags = [*_python_flags(), *_FLAGS, "-fPIC", "-shared"]
    includes = [f"-I{root / folder}" for folder in _INCLUDES]
    includes += [f"-I{_pybind11_include()}", f"-I{sysconfig.get_paths()['include']}"]
    compiler = os.environ.get("CXX", "g++")
    text = "\0".join([compiler, *flags, *includes, sys.version])
    digest = hashlib.sha256(text.encode() + SHIM.read_bytes() + (root / _INTERFACE).read_bytes())
    library = cache / f"compressai_core_{digest.hexdigest()[:16]}.so"
    if not library.exists():
        # To a name of its own first: another run may look for it meanwhile.
        partial = library.with_suffix(f".{os.getpid()}")
        command = [compiler, *flags, *includes, str(SHIM), "-o", str(partial)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise CoreUnavailableError(f"there is no compiler {compiler}: set CXX") from None
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or ["no message"])[0]
            raise CoreUnavailableError(f"the core does not compile: {reason}") from None
        partial.replace(library)
    return library, f"{root.name}, {_compiler_version(compiler)}, {' '.join(flags)}"


class Core:
    """One plane of symbols with its tables, held as CompressAI's C++ wants them.

    Args:
        library: what `build` returned.
        symbols, indexes: int32 (N,).
        cdfs, lengths, offsets: int32 (T, K), (T,), (T,), 16-bit tables in CompressAI's layout.
    """

    def __init__(
        self,
        library: Path,
        symbols: np.ndarray,
        indexes: np.ndarray,
        cdfs: np.ndarray,
        lengths: np.ndarray,
        offsets: np.ndarray,
    ) -> None:
        # PyDLL keeps the GIL, which the encoder's bytes object needs.
        dll = ctypes.PyDLL(str(library))
        dll.case_new.restype = ctypes.c_void_p
        for name, result in (
            ("case_delete", None),
            ("case_encode", ctypes.c_size_t),
            ("case_prepare", ctypes.c_size_t),
            ("case_decode", ctypes.c_int32),
            ("case_check", ctypes.c_bool),
        ):
            getattr(dll, name).argtypes = [ctypes.c_void_p]
            getattr(dll, name).restype = result
        dll.case_stream.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        dll.case_stream.restype = None
        arrays = [np.ascontiguousarray(a, np.int32) for a in (symbols, indexes, cdfs)]
        tail = [np.ascontiguousarray(a, np.int32) for a in (lengths, offsets)]
        pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (*arrays, *tail)]
        sizes = [ctypes.c_size_t(size) for size in (symbols.size, *cdfs.shape)]
        self._dll = dll
        self._case = dll.case_new(
            pointers[0], pointers[1], sizes[0], pointers[2], sizes[1], sizes[2], *pointers[3:]
        )
        size = dll.case_prepare(self._case)
        buffer = ctypes.create_string_buffer(size)
        dll.case_stream(self._case, buffer)
        self.stream = buffer.raw
        if not dll.case_check(self._case):
            raise CoreUnavailableError("CompressAI's core does not decode its own stream")

    def encode(self) -> int:
        """Encode once; returns the bytes it took."""
        return self._dll.case_encode(self._case)

    def decode(self) -> int:
        """Decode `stream` once; returns the last symbol."""
        return self._dll.case_decode(self._case)

    def __del__(self) -> None:
        case = getattr(self, "_case", None)
        if case is not None:
            self._dll.case_delete(case)


def _fetch(cache: Path, download: bool) -> Path:
    try:
        version = metadata.version("compressai")
    except metadata.PackageNotFoundError:
        raise CoreUnavailableError(
            "compressai is not installed (pip install compressai): no version to build"
        ) from None
    root = cache / f"compressai-{version}"
    if (root / _INTERFACE).is_file():
        return root
    if not download:
        raise CoreUnavailableError(
            f"the source of compressai {version} is not in the cache and --no-download is given"
        )
    # Without build isolation pip would still run setup.py for metadata; torch and pybind11, which
    # that needs, are there when compressai is.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary"]
    command += [":all:", "--no-build-isolation", "-d", str(cache), f"compressai=={version}"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise CoreUnavailableError(
            f"pip took more than {_DOWNLOAD_LIMIT_S} s for the source of compressai {version}: "
            "name its folder with --compressai-source"
        ) from None
    archive = cache / f"compressai-{version}.tar.gz"
    if not archive.is_file():
        reason = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        raise CoreUnavailableError(
            f"pip cannot download the source of compressai {version} ({reason}): "
            "name its folder with --compressai-source"
        )
    wanted = [f"compressai-{version}/{folder}/" for folder in _INCLUDES]
    with tarfile.open(archive) as tar:
        members = [m for m in tar.getmembers() if m.isfile() and _below(m.name, wanted)]
        for member in members:
            target = cache / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(tar.extractfile(member).read())
    if not (root / _INTERFACE).is_file():
        raise CoreUnavailableError(f"{archive.name} has no {_INTERFACE}: another layout")
    return root


def _below(name: str, folders: Sequence[str]) -> bool:
    return ".." not in name and any(name.startswith(folder) for folder in folders)


def _python_flags() -> list[str]:
    """The optimisation flags that setuptools would pass: those that this Python was built with."""
    words = shlex.split(sysconfig.get_config_var("CFLAGS") or "")
    kept = [word for word in words if word in ("-DNDEBUG", "-fwrapv", "-fno-strict-aliasing")]
    return kept if "-DNDEBUG" in kept else [*kept, "-DNDEBUG"]


def _pybind11_include() -> str:
    try:
        import pybind11
    except ImportError:
        raise CoreUnavailableError(
            "pybind11 is not installed (pip install pybind11): the core's source includes it"
        ) from None
    return pybind11.get_include()


def _compiler_version(compiler: str) -> str:
    ran = subprocess.run([compiler, "--version"], capture_output=True, text=True)
    return ran.stdout.splitlines()[0] if ran.stdout else compiler
