"""The CUDA runtime through ctypes: the twenty functions that running an engine takes.

No package is needed for them. cuda-python would be another wheel, of CUDA's own major version,
which Jetson does not ship; torch is what this backend is there to do without. The functions used
here have the same signatures in CUDA 11.4 to 13.
"""

from __future__ import annotations

import ctypes
import glob
import importlib.util
import os
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from functools import cache
from pathlib import Path

from icmh_rt.errors import BackendUnavailableError

ENVIRONMENT = "ICMH_CUDART"
"""Names the library if it is none of those that are looked for."""

_NAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
_FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/aarch64-linux/lib")
# Wheels that carry it: package, and where in it.
_WHEELS = (
    ("nvidia.cu13", "lib"),
    ("nvidia.cuda_runtime", "lib"),
    ("onnxruntime_ep_nv_tensorrt_rtx", ""),
)

_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_NON_BLOCKING = 1  # cudaStreamNonBlocking
_THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal: what other threads do does not matter
_MAJOR, _MINOR = 75, 76  # cudaDevAttrComputeCapability...

_OUT = POINTER(c_void_p)
_SIGNATURES = {
    "cudaGetDeviceCount": (POINTER(c_int),),
    "cudaSetDevice": (c_int,),
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaDriverGetVersion": (POINTER(c_int),),
    "cudaMalloc": (_OUT, c_size_t),
    "cudaFree": (c_void_p,),
    "cudaHostAlloc": (_OUT, c_size_t, c_uint),
    "cudaFreeHost": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (_OUT, c_uint),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, _OUT),
    "cudaGraphInstantiateWithFlags": (_OUT, c_void_p, c_ulonglong),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,),
}


class CudaError(BackendUnavailableError):
    """A call of the CUDA runtime failed; the message names it."""


class CudaRuntime:
    """The CUDA runtime of one shared library. Addresses and handles are whole numbers.

    Every method raises `CudaError` if the call fails. CUDA's current device is a thread's: who
    uses this from many threads calls `set_device` in each.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.cudaGetErrorString.restype = c_char_p
        library.cudaGetErrorString.argtypes = (c_int,)
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = c_int, arguments

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            text = (self._library.cudaGetErrorString(code) or b"?").decode(errors="replace")
            # The error stays with the thread until it is read; the next caller has its own.
            self._library.cudaGetLastError()
            raise CudaError(f"{name}: {text} (CUDA error {code})")

    def _made(self, name: str, *arguments: object) -> int:
        """Of functions whose first argument is where they write a pointer."""
        out = c_void_p()
        self._call(name, ctypes.byref(out), *arguments)
        return out.value or 0

    def _number(self, name: str, *arguments: object) -> int:
        out = c_int()
        self._call(name, ctypes.byref(out), *arguments)
        return out.value

    # -- devices -----------------------------------------------------------------------------------

    def device_count(self) -> int:
        return self._number("cudaGetDeviceCount")

    def set_device(self, device: int) -> None:
        self._call("cudaSetDevice", device)

    def compute_capability(self, device: int) -> tuple[int, int]:
        major = self._number("cudaDeviceGetAttribute", _MAJOR, device)
        return major, self._number("cudaDeviceGetAttribute", _MINOR, device)

    def driver_version(self) -> str:
        """The newest CUDA that the driver knows, "12.8", and the driver's own version if it is
        told: "12.8 (570.86.15)".
        """
        number = self._number("cudaDriverGetVersion")
        version = f"{number // 1000}.{number % 1000 // 10}"
        own = _driver_release()
        return f"{version} ({own})" if own else version

    def device_name(self, device: int) -> str:
        """As the driver calls it, "NVIDIA A10"; the runtime's own way has a structure that differs
        from version to version.
        """
        try:
            driver = ctypes.CDLL("libcuda.so.1")
        except OSError:
            return "unknown GPU"
        text = ctypes.create_string_buffer(256)
        if driver.cuInit(0) or driver.cuDeviceGetName(text, 256, device):
            return "unknown GPU"
        return text.value.decode(errors="replace")

    # -- memory ------------------------------------------------------------------------------------

    def allocate(self, size_bytes: int) -> int:
        return self._made("cudaMalloc", size_bytes)

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def allocate_pinned(self, size_bytes: int) -> int:
        """On the host, where the device can fetch it by itself."""
        return self._made("cudaHostAlloc", size_bytes, 0)

    def free_pinned(self, address: int) -> None:
        self._call("cudaFreeHost", address)

    def upload(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        self._call("cudaMemcpyAsync", target, source, size_bytes, _TO_DEVICE, stream)

    def download(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        self._call("cudaMemcpyAsync", target, source, size_bytes, _TO_HOST, stream)

    # -- streams and graphs ------------------------------------------------------------------------

    def make_stream(self) -> int:
        return self._made("cudaStreamCreateWithFlags", _NON_BLOCKING)

    def synchronize(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def begin_capture(self, stream: int) -> None:
        self._call("cudaStreamBeginCapture", stream, _THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """What was recorded, ready to `launch`."""
        graph = c_void_p()
        self._call("cudaStreamEndCapture", stream, ctypes.byref(graph))
        try:
            return self._made("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def abandon_capture(self, stream: int) -> None:
        """End one that something in it has broken; raises nothing."""
        graph = c_void_p()
        self._library.cudaStreamEndCapture(stream, ctypes.byref(graph))
        self._library.cudaGetLastError()
        if graph.value:
            self._library.cudaGraphDestroy(graph)

    def launch(self, executable: int, stream: int) -> None:
        self._call("cudaGraphLaunch", executable, stream)

    def destroy_graph(self, executable: int) -> None:
        self._call("cudaGraphExecDestroy", executable)


@cache
def runtime() -> CudaRuntime:
    """The first CUDA runtime that can be loaded.

    Raises:
        BackendUnavailableError: there is none; says where it was looked for.
    """
    own = os.environ.get(ENVIRONMENT)
    for name in (own,) if own else _candidates():
        try:
            return CudaRuntime(ctypes.CDLL(name))
        except (OSError, AttributeError):
            continue
    where = f"{ENVIRONMENT}={own}" if own else "the loader's path, /usr/local/cuda and wheels"
    raise BackendUnavailableError(
        f"no CUDA runtime (libcudart) can be loaded from {where}: install it "
        f"(pip install nvidia-cuda-runtime), or name the file in {ENVIRONMENT}"
    )


def usable_devices() -> int:
    """How many devices there are to run on.

    Raises:
        BackendUnavailableError: none; says what CUDA says.
    """
    try:
        count = runtime().device_count()
    except CudaError as error:
        raise BackendUnavailableError(
            f"there is no CUDA device to run on ({error}): check the driver with nvidia-smi"
        ) from None
    if not count:
        raise BackendUnavailableError("there is no CUDA device to run on: CUDA sees 0")
    return count


def _candidates() -> list[str]:
    found = list(_NAMES)
    folders = list(_FOLDERS)
    for package, inner in _WHEELS:
        try:
            spec = importlib.util.find_spec(package)
        except ImportError:
            continue
        for place in (spec.submodule_search_locations or ()) if spec else ():
            folders.append(os.path.join(place, inner))
    for folder in folders:
        found += sorted(glob.glob(os.path.join(folder, "libcudart.so*")), reverse=True)
    return found


def _driver_release() -> str:
    """The driver's version; Jetson's is that of its Linux."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(errors="replace")
    except OSError:
        try:
            return Path("/etc/nv_tegra_release").read_text(errors="replace").split(", GCID")[0]
        except OSError:
            return ""
    words = [word for word in text.split() if word.count(".") >= 1 and word[0].isdigit()]
    return words[0] if words else ""
