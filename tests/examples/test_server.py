"""examples/server.py: its answers, and what gunicorn does with it: workers forked after loading or
before, requests side by side, a worker that is killed, and an end that lets requests finish.

The second half needs gunicorn (`pip install gunicorn`) and takes a minute.
"""

from __future__ import annotations

import dataclasses
import http.client
import importlib.util
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the torch extra is not installed")

import icmh_rt
from icmh_rt import bitstream

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "examples" / "server.py"
MAX_PIXELS = 2**24  # its limit


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """Folder of a bundle that loads quickly."""
    sys.path.insert(0, str(ROOT / "tests" / "reliability"))
    import small_bundle

    return small_bundle.write(tmp_path_factory.mktemp("small") / "small")


@pytest.fixture(scope="module")
def requests(small) -> list[tuple[str, bytes, bytes]]:
    """Paths, bodies and what one thread here makes of them."""
    where = {"model": small, "device": "cpu"}
    encoder, decoder = icmh_rt.Encoder(1.0, **where), icmh_rt.Decoder(**where)
    random, made = np.random.default_rng(0), []
    for size in ((40, 50), (64, 16), (5, 90)):
        pixels = random.integers(0, 256, (*size, 3), np.uint8)
        data = encoder.encode(pixels)
        made.append(("/encode", png(pixels), data))
        made.append(("/decode", data, png(decoder.decode(data))))
    return made


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


# The program --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def post(small) -> Callable[..., tuple[int, bytes]]:
    """Status and body of an answer of the application, without a server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICMH_SERVER_MODEL", str(small))
        spec = importlib.util.spec_from_file_location("example_server", SERVER)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

    def answer(path: str, body: bytes = b"", **environ: str) -> tuple[int, bytes]:
        given: list = []
        environ = {"CONTENT_LENGTH": str(len(body)), "REQUEST_METHOD": "POST", **environ}
        environ |= {"PATH_INFO": path, "wsgi.input": io.BytesIO(body)}
        (found,) = module.application(environ, lambda *status: given.append(status))
        ((status, headers),) = given
        assert dict(headers)["Content-Length"] == str(len(found))
        return int(status.split()[0]), found

    return answer


def test_it_encodes_and_decodes(post, requests):
    for path, body, expected in requests:
        assert post(path, body) == (200, expected)


@pytest.mark.parametrize(
    ("path", "body", "environ", "status", "text"),
    [
        ("/encode", b"no image", {}, 400, "the image: cannot be read as an image"),
        ("/encode", b"", {}, 400, "the image: is empty"),
        ("/decode", b"no stream", {}, 400, "stream"),
        ("/", b"", {}, 404, "POST to /encode or /decode"),
        ("/encode", b"", {"REQUEST_METHOD": "GET"}, 405, "POST it"),
        ("/encode", b"", {"CONTENT_LENGTH": ""}, 411, "Content-Length"),
        ("/encode", b"", {"CONTENT_LENGTH": "-1"}, 411, "Content-Length"),
        ("/encode", b"", {"CONTENT_LENGTH": "9" * 5000}, 411, "Content-Length"),
        ("/encode", b"", {"CONTENT_LENGTH": str(2**26 + 1)}, 413, "at most"),
    ],
)
def test_what_it_refuses_is_one_line(post, path, body, environ, status, text):
    found, line = post(path, body, **environ)
    assert found == status and text in line.decode() and line.count(b"\n") == 1


def test_large_claims_are_refused(post, requests):
    """Before anything of their size is made."""
    stream = bitstream.parse(requests[1][1])
    header = dataclasses.replace(stream.header, image_size=(2**13, 2**13))
    data = bitstream.pack(header, stream.z_section, stream.y_section)
    status, line = post("/decode", data)
    assert status == 400 and b"above the limit" in line and line.count(b"\n") == 1


# Under gunicorn -----------------------------------------------------------------------------------


class Gunicorn:
    """A master and its workers, on a port of this machine."""

    def __init__(self, model: str, arguments: tuple[str, ...], log: Path) -> None:
        self._log = log
        # Bound here, so that no one else can have taken the port.
        with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
            self.port = listener.getsockname()[1]
            number = listener.fileno()
            command = [sys.executable, "-m", "gunicorn", "--bind", f"fd://{number}"]
            command += ["--workers", "2", "--graceful-timeout", "60"]
            self.process = subprocess.Popen(
                [*command, *arguments, "server:application"],
                cwd=SERVER.parent,
                env={**os.environ, "ICMH_SERVER_MODEL": model, "ICMH_NUM_THREADS": "1"},
                pass_fds=(number,),
                stdout=output,
                stderr=output,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def workers(self) -> set[int]:
        task = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return {*map(int, Path(task).read_text().split())}

    def ask(self, path: str, body: bytes) -> bytes | None:
        """The answer, None where the connection broke."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=200)
        try:
            connection.request("POST", path, body)
            response = connection.getresponse()
            found = response.read()
        except (ConnectionError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        assert response.status == 200, found
        return found


@contextmanager
def gunicorn(model: str, arguments: tuple[str, ...], folder: Path) -> Iterator[Gunicorn]:
    server = Gunicorn(model, arguments, folder / "log")
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def until(condition: Callable[[], bool], seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


CLIENTS, TURNS = 6, 12


def under_gunicorn(test: Callable[..., None]) -> Callable[..., None]:
    """Marks of a test that starts one."""
    found = importlib.util.find_spec("gunicorn") is not None
    test = pytest.mark.skipif(not found, reason="gunicorn is not installed")(test)
    linux = Path("/proc/self/task").exists()
    test = pytest.mark.skipif(not linux, reason="workers are found in /proc")(test)
    return pytest.mark.slow(test)


@under_gunicorn
@pytest.mark.parametrize(
    "arguments",
    [("--preload",), (), ("--preload", "--threads", "4")],
    ids=["loaded before", "loaded by each", "with threads"],
)
def test_gunicorn(small, requests, arguments, tmp_path):
    with gunicorn(str(small), arguments, tmp_path) as server:
        path, body, expected = requests[0]
        assert server.ask(path, body) == expected, server.log
        assert until(lambda: len(server.workers()) == 2), server.log
        first = server.workers()

        # Side by side, while a worker is killed: what was in its hands is lost and asked again.
        lost, wrong, done = [], [], threading.Semaphore(0)

        def client(start: int) -> None:
            for turn in range(start, start + TURNS):
                path, body, expected = requests[turn % len(requests)]
                while (found := server.ask(path, body)) is None and len(lost) < 50:
                    lost.append(turn)
                if found != expected:
                    wrong.append(turn)
                done.release()

        clients = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
        for thread in clients:
            thread.start()
        for _ in range(CLIENTS * TURNS // 4):
            done.acquire()
        os.kill(min(first), signal.SIGKILL)
        for thread in clients:
            thread.join()
        assert not wrong, server.log
        # No more than one worker had accepted; sockets in its backlog go to the others.
        assert len(lost) <= CLIENTS, server.log
        assert until(lambda: len(server.workers() - {min(first)}) == 2), server.log
        assert max(first) in server.workers()

        # The end: a request that is half here when it begins is answered.
        path, body, expected = requests[1]
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=200)
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        connection.send(body[: len(body) // 2])
        time.sleep(1.0)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        connection.send(body[len(body) // 2 :])
        assert connection.getresponse().read() == expected, server.log
        connection.close()
        assert server.process.wait(120) == 0, server.log
        assert "Traceback" not in server.log


@under_gunicorn
def test_gunicorn_ends_what_takes_too_long(tmp_path):
    """A worker in the midst of compiled code, which no signal handler of Python interrupts; the
    largest picture that the server takes, at full width.
    """
    side = int(MAX_PIXELS**0.5)
    large, little = (png(np.zeros((n, n, 3), np.uint8)) for n in (side, 16))
    with gunicorn("default", ("--preload", "--timeout", "1"), tmp_path) as server:
        expected = server.ask("/encode", little)
        assert expected, server.log
        assert server.ask("/encode", large) is None, server.log
        assert "WORKER TIMEOUT" in server.log
        for _ in range(4):  # on a busy machine these may take too long as well, once
            assert until(lambda: server.ask("/encode", little) == expected), server.log
        assert until(lambda: len(server.workers()) == 2), server.log
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(120) == 0, server.log
