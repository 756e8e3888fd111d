"""Encoders and decoders shared by threads, carried into processes, and interrupted.

Programs run in interpreters of their own: what forks or is interrupted should not be the tests.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the torch extra is not installed")
if not hasattr(os, "fork"):
    pytest.skip("this system has no fork", allow_module_level=True)

BACKENDS = ["torch", *(["onnxruntime"] if importlib.util.find_spec("onnxruntime") else [])]

_COMMON = """
import hashlib, os, signal, sys, threading, time
import numpy as np
import icmh_rt
from icmh_rt.bundle import load

MODEL, BACKEND = {model!r}, {backend!r}

def pictures():
    generator, sizes = np.random.default_rng(1), ((33, 47), (64, 16), (5, 90))
    return [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes[:{pictures}]]

def codecs():
    bundle = load(MODEL)
    encoders = [
        icmh_rt.Encoder(width, task, quality, bundle, BACKEND, "cpu")
        for task in bundle.tasks for width, quality in zip(bundle.widths, (30, 60, 80, 100))
    ]
    return encoders, icmh_rt.Decoder(bundle, BACKEND, "cpu")

def digests(encoder, decoder):
    '''What one round trip of every picture gives.'''
    found = hashlib.sha256()
    for picture in pictures():
        data = encoder.encode(picture)
        found.update(data)
        found.update(decoder.decode(data))
    return found.hexdigest()

def in_threads(encoders, decoder, expected, threads, rounds):
    '''The number of round trips that differ, of ``threads`` threads on shared objects.'''
    wrong = []
    def work(start):
        for turn in range(rounds):
            kind = (start + turn) % len(encoders)
            if digests(encoders[kind], decoder) != expected[kind]:
                wrong.append(kind)
    workers = [threading.Thread(target=work, args=(start,)) for start in range(threads)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    return len(wrong)
"""


def run(
    program: str,
    model: Path | str,
    tmp_path: Path,
    backend: str = "torch",
    pictures: int = 3,
    **values: object,
) -> None:
    """Let a program run that must end well."""
    script = tmp_path / "program.py"
    body = textwrap.dedent(program)
    for name, value in values.items():
        body = body.replace(f"<{name}>", repr(value))
    common = _COMMON.format(model=str(model), backend=backend, pictures=pictures)
    script.write_text(common + body)
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]


# Threads times processes --------------------------------------------------------------------------

_FORKED = """
encoders, decoder = codecs()
expected = [digests(encoder, decoder) for encoder in encoders]
children = []
for _ in range(<processes>):
    child = os.fork()
    if child == 0:
        os._exit(min(99, in_threads(encoders, decoder, expected, <threads>, <rounds>)))
    children.append(child)
wrong = in_threads(encoders, decoder, expected, <threads>, <rounds>)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
assert (wrong, codes) == (0, [0] * <processes>), (wrong, codes)
"""


def test_threads_times_forked_processes(small, tmp_path):
    """32 threads in the parent and in each of two children, on objects made before the forks."""
    run(_FORKED, small, tmp_path, pictures=1, processes=2, threads=32, rounds=1)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_times_forked_processes_of_the_default_bundle(tmp_path, backend):
    run(_FORKED, "default", tmp_path, backend, processes=4, threads=32, rounds=4)


@pytest.mark.slow
def test_threads_times_spawned_processes(small, tmp_path):
    run(
        """
        import multiprocessing

        def child(expected):
            encoders, decoder = codecs()
            return in_threads(encoders, decoder, expected, 32, 2)

        if __name__ == "__main__":
            encoders, decoder = codecs()
            expected = [digests(encoder, decoder) for encoder in encoders]
            with multiprocessing.get_context("spawn").Pool(3) as pool:
                assert pool.map(child, [expected] * 3) == [0, 0, 0]
        """,
        small,
        tmp_path,
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader(small, tmp_path, method):
    """Streams are decoded in the workers by a decoder that each has from the parent, or makes."""
    run(
        """
        import torch

        class Streams(torch.utils.data.Dataset):
            '''A decoder is made in the parent where it can be inherited, else in the worker.'''

            def __init__(self, streams):
                self.streams = streams
                self.decoder = codecs()[1] if <method> == "fork" else None

            def __len__(self):
                return len(self.streams)

            def __getitem__(self, index):
                if self.decoder is None:
                    self.decoder = codecs()[1]
                return index, torch.from_numpy(self.decoder.decode(self.streams[index]))

        if __name__ == "__main__":
            encoders, decoder = codecs()
            picture = pictures()[0]
            streams = [encoder.encode(picture) for encoder in encoders] * 10
            loader = torch.utils.data.DataLoader(
                Streams(streams), batch_size=4, num_workers=3, multiprocessing_context=<method>
            )
            seen = 0
            for indexes, images in loader:
                for index, image in zip(indexes.tolist(), images):
                    assert np.array_equal(image.numpy(), decoder.decode(streams[index]))
                    seen += 1
            assert seen == len(streams)
        """,
        small,
        tmp_path,
        method=method,
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_server_that_loads_before_it_forks(small, tmp_path, backend):
    """As gunicorn --preload does: the parent loads and decodes once, children share its socket."""
    run(
        """
        import http.client, http.server, io, socket

        encoders, decoder = codecs()
        picture = pictures()[0]
        streams = [encoder.encode(picture) for encoder in encoders]
        expected = [hashlib.sha256(decoder.decode(data)).hexdigest() for data in streams]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                data = self.rfile.read(int(self.headers["Content-Length"]))
                body = f"{os.getpid()} {hashlib.sha256(decoder.decode(data)).hexdigest()}".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        port = server.server_address[1]
        children = []
        for _ in range(3):
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
                server.serve_forever()
            children.append(child)

        def ask(kind):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/", streams[kind])
            return connection.getresponse().read().decode().split()

        pids = set()
        def client(start):
            for turn in range(20):
                kind = (start + turn) % len(streams)
                pid, found = ask(kind)
                assert found == expected[kind]
                pids.add(int(pid))
        clients = [threading.Thread(target=client, args=(n,)) for n in range(8)]
        failures = []
        threading.excepthook = lambda args: failures.append(repr(args.exc_value))
        for thread in clients: thread.start()
        for thread in clients: thread.join()
        assert not failures, failures
        assert pids <= set(children) and len(pids) > 1, pids

        lost = children.pop()  # one is killed while the others work
        os.kill(lost, signal.SIGKILL)
        os.waitpid(lost, 0)
        for kind in range(len(streams)):
            pid, found = ask(kind)
            assert found == expected[kind] and int(pid) in children
        for child in children:
            os.kill(child, signal.SIGTERM)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        """,
        small,
        tmp_path,
        backend,
    )


# Signals ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_interrupt_ends_the_call_and_nothing_else(small, tmp_path, backend):
    """Ctrl-C in the main thread, while others work: it is raised there, the others go on, the
    program's handlers stay, and the same objects work afterwards.
    """
    run(
        """
        encoders, decoder = codecs()
        expected = [digests(encoder, decoder) for encoder in encoders]
        seen = []
        signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
        handlers = [signal.getsignal(number) for number in range(1, 32)]
        stop, counts, failures = threading.Event(), [0] * 4, []

        def work(place):
            while not stop.is_set():
                kind = (place + counts[place]) % len(encoders)
                if digests(encoders[kind], decoder) != expected[kind]:
                    failures.append(kind)
                counts[place] += 1

        workers = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(4)]
        for worker in workers: worker.start()
        large = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
        tiled = icmh_rt.Encoder(1.0, model=MODEL, backend=BACKEND, device="cpu", tile=64)
        data = tiled.encode(large)
        reader = icmh_rt.Decoder(MODEL, BACKEND, "cpu", tile=64)

        def send(number, calling):
            calling.wait()
            time.sleep(0.05)
            os.kill(os.getpid(), number)

        for call in (lambda: tiled.encode(large), lambda: reader.decode(data)):
            for number in (signal.SIGUSR1, signal.SIGINT):
                # On a busy machine much time may pass between a thread's start and the try.
                calling = threading.Event()
                threading.Thread(target=send, args=(number, calling)).start()
                try:
                    calling.set()
                    until = time.monotonic() + 200
                    while time.monotonic() < until and not (number == signal.SIGUSR1 and seen):
                        call()
                    assert number == signal.SIGUSR1, "the interrupt was lost"
                except KeyboardInterrupt:
                    assert number == signal.SIGINT
            assert seen
            seen.clear()
        before = list(counts)
        assert tiled.encode(large) == data
        deadline = time.monotonic() + 200
        while min(c - b for c, b in zip(counts, before)) < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert min(c - b for c, b in zip(counts, before)) >= 1, "a thread stopped"
        stop.set()
        for worker in workers: worker.join(100)
        assert not any(worker.is_alive() for worker in workers) and not failures
        assert handlers == [signal.getsignal(number) for number in range(1, 32)]
        """,
        small,
        tmp_path,
        backend,
    )
