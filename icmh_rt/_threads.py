"""How many threads the native loops use, for the whole process."""

from __future__ import annotations

import operator
import threading

from icmh_rt import _native
from icmh_rt.errors import OptionError

_own = threading.local()


def work_alone() -> None:
    """Let loops that the calling thread starts use that thread alone, from now on."""
    _own.limit = 1


def set_num_threads(threads: int) -> None:
    """Let every native loop (entropy coder, integer network) use at most this many threads.

    They are the calling thread and threads of one pool that the whole process shares, made when
    first needed. Results do not depend on their number. onnxruntime uses as many, of its own;
    PyTorch's are another matter: `torch.set_num_threads`.

    Args:
        threads: 1 or more, of which at most 64 are used; 0 for the default, which is what the
            environment variable ICMH_NUM_THREADS says, else as many as the CPUs that the calling
            thread may run on.

    Raises:
        OptionError: not a whole number, or negative.
        BackendUnavailableError: no native module.
    """
    try:
        number = -1 if isinstance(threads, bool) else operator.index(threads)
    except TypeError:
        number = -1
    if number < 0:
        raise OptionError(
            f"the number of threads is {threads!r}; give a whole number of 1 or more, or 0 for "
            "the default"
        )
    native = _native.module()
    native.set_num_threads(min(number, native.MAX_THREADS))


def get_num_threads() -> int:
    """Threads that a native loop uses at most, 1 to 64; see `set_num_threads`.

    Raises:
        BackendUnavailableError: no native module.
    """
    return min(_native.module().num_threads(), getattr(_own, "limit", _native.module().MAX_THREADS))
