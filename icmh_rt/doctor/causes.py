"""What went wrong with a component, as one cause, and how to mend it."""

from __future__ import annotations

import re
import signal

from icmh_rt.errors import IcmhError

_REINSTALL = "pip install --force-reinstall --no-cache-dir {package}"

# What a message says -> how to mend it, the surest first. {package} is the component's package,
# {0}, {1}, ... are the groups.
_MENDS = (
    (r"environment variable (\w+)", "unset {0}, or give it one of the values it takes"),
    (r"(libcuda\.so\.1|nvcuda\.dll)", "install NVIDIA's driver; icmh_rt runs on the CPU without"),
    (
        r"(lib(?:nvinfer|nvonnxparser|tensorrt)[\w.-]*\.so[\d.]*)",
        "install TensorRT's libraries, of the version of its Python module: docs/deploy.md",
    ),
    (
        r"(lib(?:cudart|cublas|cublasLt|cudnn\w*|cufft|curand|cusparse|cusolver|nvrtc|nvJitLink)"
        r"\.so[\d.]*)",
        "install the CUDA libraries that {package} was built with (for onnxruntime: pip install "
        "'onnxruntime-gpu[cuda,cudnn]'), or its build for CPUs",
    ),
    (
        r"(lib[\w+.-]+?\.so[\d.]*): cannot open shared object file",
        "install the system package that has {0}, or: " + _REINSTALL,
    ),
    (
        r"(GLIBC(?:XX)?_[\d.]+)' not found",
        "this system's C library is older than the package wants: use a newer system, or an older "
        "{package}",
    ),
    (
        r"compiled using NumPy 1|[Nn]um[Pp]y is not available|numpy\.dtype size changed|"
        r"_ARRAY_API not found|multiarray failed to import",
        "it was built for another numpy: pip install --upgrade {package}, or pip install 'numpy<2'",
    ),
    (r"wrong ELF class|invalid ELF header|[Ee]xec format", _REINSTALL),
    (
        r"(\S+): cannot allocate memory in static TLS block",
        "set LD_PRELOAD={0} before starting Python",
    ),
    (r"[Oo]ut of memory|bad_alloc|MemoryError", "free memory, or use another device"),
    (r"are both installed", "pip uninstall onnxruntime onnxruntime-gpu, then install one of them"),
)

_SIGNALS = {
    "SIGILL": "this processor lacks instructions that it was built for",
    "SIGSEGV": "it crashed",
    "SIGABRT": "it aborted",
    "SIGBUS": "it crashed",
    "SIGKILL": "it was killed, as a system does that runs out of memory",
}


def root_of(error: BaseException) -> str:
    """One cause in one line: our own message, else the first failure to load in the chain of
    exceptions, of which the later ones only tell.
    """
    if isinstance(error, IcmhError):
        return one_line(str(error))
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    loading = [link for link in chain if isinstance(link, (ImportError, OSError))]
    root = loading[-1] if loading else error
    return one_line(f"{type(root).__name__}: {root}")


def of_exit(code: int, stderr: str) -> str:
    """Why a process ended without an answer."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"{_SIGNALS.get(name, 'it was ended')} ({name})"
    lines = [line for line in stderr.splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else f"it ended with exit code {code} and no message"


def mend_for(cause: str, package: str) -> str:
    """What to do about ``cause``; ``package`` is how pip calls the component."""
    for pattern, mend in _MENDS:
        match = re.search(pattern, cause)
        if match:
            return mend.format(*match.groups(), package=package)
    return _REINSTALL.format(package=package)


def one_line(text: str) -> str:
    """``text`` in one line of at most 300 characters; the middle goes, the end often says most."""
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:190]} ... {text[-105:]}"
