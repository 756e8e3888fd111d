"""Where images come from and streams go: folders here, and those of buckets (``s3://``, ``gs://``,
``abfs://``, ``hdfs://``, ``file://`` and what else pyarrow or fsspec knows), by one interface.

Names are relative to a place and have slashes. Whatever is written appears under its name only when
it is complete. pyarrow is imported with the first URI.
"""

from __future__ import annotations

import functools
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote

from icmh_rt._files import remove_leftovers, replace_file
from icmh_rt.errors import BackendUnavailableError, OptionError

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WHOLE = ("s3", "gcs", "gs", "abfs", "abfss", "az")
"""Object stores: what is uploaded appears when it is complete, and there are no folders to make."""

_PART_SECONDS = 10.0
"""At most so much of the lines that are appended is lost with a process, where appending is writing
further parts.
"""


def is_uri(name: str) -> bool:
    """Whether ``name`` is a URI rather than a path of this machine."""
    return _URI.match(name) is not None


def place_of(name: str | os.PathLike[str]) -> Place:
    """The folder of that path or URI; made when something is written.

    Raises:
        OptionError: it is a file, or a URI of an unknown kind.
        BackendUnavailableError: a package that the URI needs is not installed.
    """
    text = os.fspath(name)
    return BucketPlace(text) if is_uri(text) else LocalPlace(Path(text))


class Place(ABC):
    """A folder. Failures are OSErrors; what is missing is a FileNotFoundError."""

    @abstractmethod
    def join(self, name: str) -> str:
        """For people."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """In bytes, None where there is no such file."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """All of a file."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """A whole file, which appears when it is complete; one that was there is replaced."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Nothing where there is no such file."""

    @abstractmethod
    def lines(self, name: str) -> Iterator[str]:
        """Of a file that `appending` made; of a missing one none."""

    @abstractmethod
    def appending(self, name: str) -> AbstractContextManager[Callable[[str], None]]:
        """A function that adds a line; lines outlive the process that added them."""

    def tidy(self, names: Iterable[str]) -> None:
        """Remove what killed processes left half written beside ``names``."""
        return None


class LocalPlace(Place):
    """A folder of this machine's file system."""

    def __init__(self, root: Path) -> None:
        if root.exists() and not root.is_dir():
            raise OptionError(f"-o {root} is a file: a folder is needed here")
        self._root = root

    def __str__(self) -> str:
        return str(self._root)

    def join(self, name: str) -> str:
        return str(self._root / name)

    def size(self, name: str) -> int | None:
        path = self._root / name
        with suppress(FileNotFoundError):
            return path.stat().st_size if path.is_file() else None
        return None

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write(data)

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def lines(self, name: str) -> Iterator[str]:
        with (
            suppress(FileNotFoundError),
            open(self._root / name, encoding="utf-8", errors="replace") as file,
        ):
            yield from file

    @contextmanager
    def appending(self, name: str) -> Iterator[Callable[[str], None]]:
        self._root.mkdir(parents=True, exist_ok=True)
        with open(self._root / name, "a", encoding="utf-8") as file:
            _end_line(file)

            def append(line: str) -> None:
                file.write(line + "\n")
                file.flush()

            yield append

    def tidy(self, names: Iterable[str]) -> None:
        for folder in {(self._root / name).parent for name in names}:
            remove_leftovers(folder)


class BucketPlace(Place):
    """A folder that a URI names. What is appended goes into parts, ``NAME.<number>``, that are put
    together when appending ends: objects cannot grow.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._files, self._root = _open(uri)

    def __str__(self) -> str:
        return self._uri

    def join(self, name: str) -> str:
        return _below(self._uri, name)

    def size(self, name: str) -> int | None:
        with _plain_errors(self.join(name)):
            info = self._files.get_file_info(self._path(name))
        return info.size if info.is_file else None

    def read(self, name: str) -> bytes:
        return _read(self._files, self._path(name), self.join(name))

    def write(self, name: str, data: bytes) -> None:
        files, path = self._files, self._path(name)
        with _plain_errors(self.join(name)):
            if files.type_name.split("+")[-1] in _WHOLE:
                _put(files, path, data)
                return
            folder, _, file = path.rpartition("/")
            files.create_dir(folder, recursive=True)
            temporary = f"{folder}/.{file[:80]}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
            try:
                _put(files, temporary, data)
                files.move(temporary, path)
            except BaseException:
                with suppress(Exception):
                    files.delete_file(temporary)
                raise

    def remove(self, name: str) -> None:
        with _plain_errors(self.join(name)), suppress(FileNotFoundError):
            self._files.delete_file(self._path(name))

    def lines(self, name: str) -> Iterator[str]:
        for part in self._parts(name):
            with suppress(FileNotFoundError):
                yield from self.read(part).decode("utf-8", "replace").splitlines(keepends=True)

    @contextmanager
    def appending(self, name: str) -> Iterator[Callable[[str], None]]:
        waiting: list[str] = []
        written = time.monotonic()

        def write() -> None:
            nonlocal written
            if waiting:
                self.write(f"{name}.{time.time_ns():020}", "".join(waiting).encode())
            waiting.clear()
            written = time.monotonic()

        def append(line: str) -> None:
            waiting.append(line + "\n")
            if time.monotonic() - written >= _PART_SECONDS:
                write()

        try:
            yield append
        finally:
            write()
            self._put_together(name)

    def _put_together(self, name: str) -> None:
        parts = self._parts(name)
        if len(parts) > 1:
            lines = (line if line.endswith("\n") else line + "\n" for line in self.lines(name))
            self.write(name, "".join(lines).encode())
            for part in parts[1:]:
                self.remove(part)

    def _parts(self, name: str) -> list[str]:
        """The file itself and what was added to it since, in this order."""
        from pyarrow.fs import FileSelector

        with _plain_errors(self._uri):
            found = self._files.get_file_info(FileSelector(self._root, allow_not_found=True))
        number = re.compile(re.escape(name) + r"\.\d{20}")
        return [name, *sorted(i.base_name for i in found if number.fullmatch(i.base_name))]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


# -- images ----------------------------------------------------------------------------------------


def images_of(uri: str, suffixes: tuple[str, ...], left_out: str) -> Iterator[tuple[str, str]]:
    """The image of a URI, or all images below it without hidden ones and those below ``left_out``:
    the URI of each, and its name below ``uri``.
    """
    files, root = _open(uri)
    from pyarrow.fs import FileSelector

    with _plain_errors(uri):
        info = files.get_file_info(root)
        if info.is_file:
            yield uri, info.base_name
            return
        found = files.get_file_info(FileSelector(root, allow_not_found=True, recursive=True))
    outside = f"{left_out.rstrip('/')}/"
    for info in sorted(found, key=lambda info: info.path):
        name = info.path[len(root) :].strip("/")
        hidden = any(part.startswith(".") for part in name.split("/"))
        if info.is_file and not hidden and name.lower().endswith(suffixes):
            place = _below(uri, name)
            if not place.startswith(outside):
                yield place, name


def read_uri(uri: str) -> bytes:
    """The file that a URI names."""
    files, path = _open(uri)
    return _read(files, path, uri)


def _read(files: Any, path: str, name: str) -> bytes:
    with _plain_errors(name), files.open_input_stream(path, compression=None) as file:
        return file.read()


def _put(files: Any, path: str, data: bytes) -> None:
    with files.open_output_stream(path, compression=None) as file:
        file.write(data)


def _open(uri: str) -> tuple[Any, str]:
    """The file system of a URI, and the path in it without a slash at the end."""
    scheme, _, rest = uri.partition("://")
    rest, _, query = rest.partition("?")
    host, _, path = rest.partition("/")
    files, root = _file_system(f"{scheme}://{host}/" + (f"?{query}" if query else ""))
    return files, f"{root.rstrip('/')}/{unquote(path)}".rstrip("/")


@functools.lru_cache(maxsize=64)
def _file_system(root: str) -> tuple[Any, str]:
    """Kept, because making one may ask the network where the bucket is."""
    try:
        from pyarrow import fs
    except ImportError as error:
        raise BackendUnavailableError(
            f"{root} needs pyarrow, which cannot be imported ({' '.join(str(error).split())}): "
            "pip install 'icmh-rt[ray]'"
        ) from error
    problem = ""
    try:
        return fs.FileSystem.from_uri(root)
    except (ValueError, NotImplementedError) as error:  # pyarrow itself does not know it
        problem = str(error)
    try:
        from fsspec.core import url_to_fs

        files, path = url_to_fs(root)
        return fs.PyFileSystem(fs.FSSpecHandler(files)), path
    except (ImportError, ValueError) as error:
        problem = " ".join(f"{problem}; {error}".split())
    raise OptionError(f"{root} is no place that pyarrow or fsspec knows: {problem}")


def _below(uri: str, name: str) -> str:
    place, mark, query = uri.partition("?")
    return f"{place.rstrip('/')}/{quote(name, safe='/ !$&()*+,;=:@[]')}{mark}{query}"


@contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    """OSErrors, of one line, whatever the file system raises."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(2, os.strerror(2), name) from None
    except (OSError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise OSError(reason if name in reason else f"{name}: {reason}") from error


def _end_line(file: IO[str]) -> None:
    """Begin a new line where a killed run left one torn."""
    with open(file.name, "rb") as again:
        size = again.seek(0, os.SEEK_END)
        if size:
            again.seek(size - 1)
            if again.read(1) != b"\n":
                file.write("\n")
