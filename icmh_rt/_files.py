"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = re.compile(r"\..+\.(\d+)\.[0-9a-f]{8}\.tmp")


@contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file next to `path`; it takes that name when the block ends well.

    Where the block raises (Ctrl-C included) the temporary file is removed and whatever was at
    `path` stays untouched. A symbolic link is followed: its target is replaced.

    Raises:
        OSError: the folder is missing or not writable, or `path` is not an ordinary file
            (replacing a device such as /dev/null would destroy it).
    """
    target = Path(os.path.realpath(path))
    with suppress(FileNotFoundError):
        mode = target.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{path} is a folder: name a file in it")
        if not stat.S_ISREG(mode):
            raise OSError(f"{path} is not an ordinary file: choose another name")
    # Same folder, because only a rename inside one file system is atomic. Made with os.open and
    # not tempfile, whose files are private to the user whatever the umask says.
    temporary = target.with_name(f".{target.name[:80]}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(temporary, flags, 0o666)
    except OSError as error:  # the user knows the file by its own name
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(FileNotFoundError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None  # as above
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of `replace_file` whose process, on this machine, is gone."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = _TEMPORARY.fullmatch(entry.name)
            if name and not _runs(int(name[1])):
                with suppress(OSError):
                    os.unlink(entry.path)


def _runs(process: int) -> bool:
    """Whether there is such a process; True where that cannot be found out."""
    if os.name != "posix":
        return True  # os.kill would end it there
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
