"""Read-only file systems for one process: it gets mounts of its own, which nobody else sees."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# linux/sched.h and linux/mount.h.
_NEW_MOUNTS, _NEW_USERS = 0x00020000, 0x10000000
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
# What a bind mount has to keep, or a process without rights outside of its namespace may not
# remount it: statvfs has the same bits as mount (nosuid, nodev, noexec, the times of access).
_KEPT = 2 | 4 | 8 | 1024 | 2048
_RELATIVE_TIMES = (4096, 1 << 21)  # the one flag whose bits differ


def own_mounts() -> None:
    """From here on this process's mounts are its own; it may have no other threads.

    Raises:
        OSError: the system refuses it.
    """
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", _NEW_MOUNTS)
    except PermissionError:  # no rights: those of a namespace in which this user is root
        _call("unshare", _NEW_MOUNTS | _NEW_USERS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _call("mount", None, b"/", None, _RECURSIVE | _PRIVATE, None)


def make_read_only(folder: Path) -> None:
    """Of `own_mounts` alone. Raises OSError where the system refuses it."""
    path = os.fsencode(folder)
    _call("mount", path, path, None, _BIND | _RECURSIVE, None)
    flags = os.statvfs(folder).f_flag
    kept = flags & _KEPT | (_RELATIVE_TIMES[1] if flags & _RELATIVE_TIMES[0] else 0)
    _call("mount", None, path, None, _REMOUNT | _BIND | _READ_ONLY | kept, None)


def make_everything_read_only() -> None:
    """All that is mounted, but what the kernel makes up. Of `own_mounts` alone.

    Raises:
        OSError: the system refuses it.
    """
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place = line.split()[1].encode().decode("unicode_escape")
        if not place.startswith(("/proc", "/sys")) and os.access(place, os.X_OK):
            make_read_only(Path(place))


def make_empty(folder: Path) -> None:
    """An empty file system that can be written to in place of a folder, of `own_mounts` alone."""
    _call("mount", b"none", os.fsencode(folder), b"tmpfs", 0, None)


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    function = getattr(libc, name)
    if name == "mount":
        text = ctypes.c_char_p
        function.argtypes = (text, text, text, ctypes.c_ulong, text)
    if function(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
