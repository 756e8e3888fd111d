"""CUDA graphs: what is recorded, kept and replayed, on a machine that only pretends; and on a GPU,
where there is one, that a replay gives what eager calls give.
"""

from __future__ import annotations

import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
from PIL import Image  # noqa: E402

from icmh_rt import bundle  # noqa: E402
from icmh_rt.backends import _cuda_graphs  # noqa: E402
from icmh_rt.backends._cuda_graphs import GraphRunner, Recording, is_enabled  # noqa: E402
from icmh_rt.backends.torch import TorchBackend, dtype_of  # noqa: E402
from icmh_rt.codec import Decoder, Encoder  # noqa: E402
from icmh_rt.errors import OptionError  # noqa: E402

PHOTO = Path(__file__).resolve().parents[1] / "examples" / "kodim23.png"
CPU = torch.device("cpu")


class FakeGraph:
    """Runs the function anew on the fixed input, into the fixed output."""

    def __init__(self, machine: FakeMachine, body, source: torch.Tensor) -> None:
        self.machine, self.body, self.source = machine, body, source
        self.result = torch.full_like(body(source), 7)  # not what a replay gives
        self.replays = 0

    def replay(self) -> None:
        with self.machine.launching():
            self.replays += 1
            self.result.copy_(self.body(self.source))


class FakeMachine:
    """A device in the host's memory. It fails calls outside of `section`, and those of a thread
    while another one launches.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.graphs: list[FakeGraph] = []
        self.error: Exception | None = None
        self._inside = threading.local()
        self._busy = threading.Lock()

    @contextmanager
    def launching(self):
        assert getattr(self._inside, "depth", 0) == 1
        assert self._busy.acquire(blocking=False), "two threads launch at once"
        try:
            yield
        finally:
            self._busy.release()

    @contextmanager
    def section(self):
        self._inside.depth = getattr(self._inside, "depth", 0) + 1
        try:
            with torch.inference_mode():
                yield
        finally:
            self._inside.depth -= 1

    def stage(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.copy())

    def upload(self, staged, target=None):
        with self.launching():
            self.log.append("upload")
            return staged.clone() if target is None else target.copy_(staged)

    def record(self, body, staged) -> Recording:
        with self.launching():
            self.log.append("record")
            if self.error is not None:
                raise self.error
            self.graphs.append(FakeGraph(self, body, torch.zeros_like(staged)))
        return Recording(self.graphs[-1], self.graphs[-1].source, self.graphs[-1].result)

    def download(self, result):
        with self.launching():
            self.log.append("download")
            return result.clone(), len(self.log)

    def wait(self, ticket) -> None:
        assert ticket <= len(self.log)

    def synchronize(self) -> None:
        with self.launching():
            self.log.append("synchronize")


def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def numbers(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


# -- what is recorded and replayed -----------------------------------------------------------------


def test_warm_up_then_one_recording_then_replays(machine) -> None:
    runner = GraphRunner(machine, warmup_calls=2)
    for call in range(6):
        assert runner("a", double, numbers(call, 1)).tolist() == [2 * call, 2]
    assert len(machine.graphs) == 1 and machine.graphs[0].replays == 4
    assert runner.counts == {"eager": 2, "replayed": 4, "recorded": 1, "evicted": 0, "kept": 1}


def test_one_copy_each_way_and_buffers_are_used_again(machine) -> None:
    runner = GraphRunner(machine, warmup_calls=0)
    addresses = set()
    for call in range(3):
        machine.log.clear()
        runner("a", double, numbers(call))
        assert [step for step in machine.log if step != "record"] == ["upload", "download"]
        (graph,) = machine.graphs
        addresses.add((graph.source.data_ptr(), graph.result.data_ptr()))
    assert len(addresses) == 1


def test_results_are_not_overwritten_by_the_next_call(machine) -> None:
    runner = GraphRunner(machine, warmup_calls=0)
    first = runner("a", double, numbers(1))
    runner("a", double, numbers(5))
    assert first.tolist() == [2]


def test_the_input_is_not_kept(machine) -> None:
    runner = GraphRunner(machine, warmup_calls=0)
    array = numbers(1, 2)
    runner("a", double, array)
    array[:] = 9
    assert machine.graphs[0].source.tolist() == [1, 2]


def test_each_key_warms_up_for_itself(machine) -> None:
    runner = GraphRunner(machine, warmup_calls=1)
    for key in ("a", "b", "a", "b", "a"):
        runner(key, double, numbers(1))
    assert runner.counts["recorded"] == 2
    assert [graph.replays for graph in machine.graphs] == [2, 1]


def test_no_key_is_never_recorded(machine) -> None:
    runner = GraphRunner(machine, warmup_calls=0)
    for _ in range(5):
        assert runner(None, double, numbers(3)).tolist() == [6]
    assert runner.counts["eager"] == 5 and not machine.graphs


def test_large_inputs_are_never_recorded(machine, monkeypatch) -> None:
    monkeypatch.setattr(_cuda_graphs, "_LARGEST_INPUT_BYTES", 8)
    runner = GraphRunner(machine, warmup_calls=0)
    runner("large", double, numbers(1, 2, 3))
    assert not machine.graphs
    runner("small", double, numbers(1, 2))
    assert len(machine.graphs) == 1


# -- what is kept ----------------------------------------------------------------------------------


def test_the_graph_used_longest_ago_makes_room(machine) -> None:
    runner = GraphRunner(machine, capacity=2, warmup_calls=0)
    for key in ("a", "b", "a", "c"):
        runner(key, double, numbers(1))
    assert runner.counts["kept"] == 2 and runner.counts["evicted"] == 1
    runner("a", double, numbers(1))  # still there
    assert runner.counts["recorded"] == 3
    runner("b", double, numbers(1))  # gone: recorded anew
    assert runner.counts["recorded"] == 4


def test_the_device_is_idle_before_a_graph_goes(machine) -> None:
    runner = GraphRunner(machine, capacity=1, warmup_calls=0)
    runner("a", double, numbers(1))
    machine.log.clear()
    runner("b", double, numbers(1))
    assert machine.log[:2] == ["synchronize", "record"]


def test_clear_forgets_and_begins_anew(machine) -> None:
    runner = GraphRunner(machine, warmup_calls=1)
    for _ in range(2):
        runner("a", double, numbers(1))
    runner.clear()
    assert runner.counts["kept"] == 0
    runner("a", double, numbers(1))
    assert runner.counts["recorded"] == 1  # warms up again
    runner("a", double, numbers(1))
    assert runner.counts["recorded"] == 2


def test_many_kinds_of_calls_are_forgotten(machine, monkeypatch) -> None:
    monkeypatch.setattr(_cuda_graphs, "_REMEMBERED", 3)
    runner = GraphRunner(machine, warmup_calls=1)
    for key in range(10):
        runner(key, double, numbers(1))
    assert len(runner._calls) == 3
    runner(9, double, numbers(1))
    runner(0, double, numbers(1))  # forgotten: as if for the first time
    assert runner.counts["recorded"] == 1


# -- what fails ------------------------------------------------------------------------------------


def test_a_failed_recording_runs_eagerly_and_says_why_once(machine) -> None:
    runner = GraphRunner(machine, warmup_calls=0)
    machine.error = RuntimeError("operation not permitted\nwhen stream is capturing")
    with pytest.warns(RuntimeWarning, match="not permitted when stream is capturing"):
        assert runner("a", double, numbers(4)).tolist() == [8]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runner("a", double, numbers(5)).tolist() == [10]
        assert runner("b", double, numbers(6)).tolist() == [12]
    reason = "RuntimeError: operation not permitted when stream is capturing"
    assert runner.reasons == {"a": reason, "b": reason}
    assert machine.log.count("record") == 2  # "a" was tried once


@pytest.mark.filterwarnings("ignore:no CUDA graph")
def test_after_three_failures_no_more_are_tried(machine) -> None:
    runner = GraphRunner(machine, warmup_calls=0)
    runner("good", double, numbers(1))
    machine.error = ValueError("no")
    for key in range(8):
        assert runner(key, double, numbers(1)).tolist() == [2]
    assert machine.log.count("record") == 1 + 3
    runner("good", double, numbers(1))
    assert machine.graphs[0].replays == 2  # what there is goes on


def test_an_error_of_the_function_itself_is_raised(machine) -> None:
    runner = GraphRunner(machine, warmup_calls=1)

    def wrong(x: torch.Tensor) -> torch.Tensor:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        runner("a", wrong, numbers(1))
    assert runner("b", double, numbers(1)).tolist() == [2]  # and nothing stays locked


@pytest.mark.parametrize("value", ["0", "1", ""])
def test_environment(machine, monkeypatch, value: str) -> None:
    monkeypatch.setenv("ICMH_CUDA_GRAPHS", value)
    assert is_enabled() == (value != "0")
    runner = GraphRunner(machine, warmup_calls=0)
    runner("a", double, numbers(1))
    assert len(machine.graphs) == (value != "0")


def test_environment_is_checked(machine, monkeypatch) -> None:
    monkeypatch.setenv("ICMH_CUDA_GRAPHS", "yes")
    with pytest.raises(OptionError, match="ICMH_CUDA_GRAPHS is 'yes': use 1, or 0"):
        GraphRunner(machine)("a", double, numbers(1))


# -- threads ---------------------------------------------------------------------------------------


def test_threads_get_their_own_results(machine) -> None:
    runner = GraphRunner(machine, capacity=2, warmup_calls=1)
    failures = []

    def slow(x: torch.Tensor) -> torch.Tensor:
        time.sleep(1e-4)  # lets another thread run
        return x * 2

    def work(number: int) -> None:
        try:
            for call in range(30):
                key = (number + call) % 4
                value = 100 * number + call
                if runner(key, slow, numbers(value, key)).tolist() != [2 * value, 2 * key]:
                    failures.append((number, call))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    counts = runner.counts
    assert counts["eager"] + counts["replayed"] == 6 * 30
    assert counts["kept"] <= 2


# -- the backend through it ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.array(Image.open(PHOTO).convert("RGB"))


@pytest.fixture(scope="module")
def default() -> bundle.Bundle:
    return bundle.load("default")


def backend_with_graphs(default, machine, dtype=torch.float32, **options) -> TorchBackend:
    backend = TorchBackend(default, CPU, dtype)
    backend.graphs = GraphRunner(machine, **options)
    return backend


def coded(backend: TorchBackend, image: np.ndarray, width: float):
    """What a stream holds, and the decoded picture."""
    latents = backend.encode_transforms(image, width, "human", 60)
    y_hat = backend.coding(width, 60).dequantize(latents.symbols_y, latents.prediction)
    return latents, backend.synthesis(y_hat, width, "human", image.shape[:2])


@pytest.mark.parametrize("size", [(64, 64), (37, 91), (1, 3)])
@pytest.mark.parametrize("width", [0.25, 1.0])
def test_replays_equal_the_plain_backend(default, photo, machine, size, width: float) -> None:
    plain = TorchBackend(default, CPU, torch.float32)
    backend = backend_with_graphs(default, machine, warmup_calls=1)
    for call in range(3):
        image = np.ascontiguousarray(photo[call : call + size[0], : size[1]])
        mine, picture = coded(backend, image, width)
        expected, decoded = coded(plain, image, width)
        assert np.array_equal(mine.symbols_y, expected.symbols_y)
        assert np.array_equal(mine.symbols_z, expected.symbols_z)
        assert np.array_equal(picture, decoded)
    assert backend.graphs.counts["replayed"] == 4 and backend.graphs.counts["recorded"] == 2


def test_a_graph_for_each_shape_width_and_direction(default, photo, machine, monkeypatch) -> None:
    monkeypatch.delenv("ICMH_KERNELS", raising=False)
    backend = backend_with_graphs(default, machine, warmup_calls=0)
    for size in ((32, 48), (33, 48)):  # the same padded size
        for width in (0.25, 0.5):
            coded(backend, np.ascontiguousarray(photo[: size[0], : size[1]]), width)
    assert backend.graphs.counts["recorded"] == 2 * 2 * 2
    monkeypatch.setenv("ICMH_KERNELS", "reference")  # asks for other kernels
    coded(backend, np.ascontiguousarray(photo[:32, :48]), 0.25)
    assert backend.graphs.counts["recorded"] == 2 * 2 * 2 + 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_is_close(default, photo, machine, dtype: torch.dtype) -> None:
    image = np.ascontiguousarray(photo[:96, :128])
    latents, picture = coded(backend_with_graphs(default, machine, dtype), image, 0.5)
    expected, decoded = coded(TorchBackend(default, CPU, torch.float32), image, 0.5)
    assert (latents.symbols_y != expected.symbols_y).mean() < 0.1
    assert np.abs(picture.astype(int) - decoded).mean() < 1.5


def checkerboard(side: int) -> np.ndarray:
    """Full contrast at a distance of a pixel: what overflows half precision in the default
    bundle.
    """
    board = (np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(board[:, :, None], 3, axis=2))


@pytest.mark.parametrize("graphs", [True, False])
def test_what_overflows_is_computed_in_float32(default, machine, graphs: bool) -> None:
    image = checkerboard(128)
    exact = TorchBackend(default, CPU, torch.float32)
    expected, _ = coded(exact, image, 1.0)
    backend = TorchBackend(default, CPU, torch.float16)
    if graphs:
        backend.graphs = GraphRunner(machine, warmup_calls=0)
    assert backend._analyse(image, 1.0, "human", backend._model) is None  # it does overflow
    latents, _ = coded(backend, image, 1.0)
    assert np.array_equal(latents.symbols_y, expected.symbols_y)
    assert np.array_equal(latents.symbols_z, expected.symbols_z)
    y_hat = np.full((8, 8, 320), 3e5, np.float32)
    picture = backend.synthesis(y_hat, 1.0, "human", (128, 128))
    assert np.array_equal(picture, exact.synthesis(y_hat, 1.0, "human", (128, 128)))


def test_not_even_float32_helps_what_is_infinite(default, photo, machine) -> None:
    """An image must not come out of it: the codec says that the values are not finite."""
    from icmh_rt.errors import ImageError

    backend = backend_with_graphs(default, machine, torch.float16)
    for model in (backend._model, backend._in_float32()):
        model.g_a.stem.bias.fill_(float("nan"))
    with pytest.raises(ImageError, match="not finite"):
        backend.encode_transforms(np.ascontiguousarray(photo[:32, :32]), 0.25, "human", 50)


def test_auto_is_half_precision_on_a_gpu_alone() -> None:
    assert dtype_of("auto") == torch.float32
    assert dtype_of("auto", torch.float16) == torch.float16
    assert dtype_of("fp32", torch.float16) == torch.float32


def test_no_graphs_on_a_cpu(default) -> None:
    assert TorchBackend(default, CPU, torch.float32).graphs is None


# -- the calls of CUDA, pretended ------------------------------------------------------------------


class PretendedCuda:
    """Stands in for ``torch.cuda``: remembers what was called; "graphs" run at once."""

    def __init__(self, monkeypatch) -> None:
        self.log: list[tuple] = []
        self.streams = 0
        self.pools = 0
        self.fails = False
        for name in ("Stream", "stream", "device", "graph", "graph_pool_handle", "set_stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: "graph")
        empty = torch.empty

        def without_pinning(*arguments, pin_memory: bool = False, **options):
            self.log.append(("pinned",) if pin_memory else ("plain",))
            return empty(*arguments, **options)

        monkeypatch.setattr(torch, "empty", without_pinning)

    def Stream(self, device):
        self.streams += 1
        return PretendedStream(self, f"stream {self.streams}")

    @contextmanager
    def stream(self, stream):
        self.log.append(("on", stream.name))
        yield
        self.log.append(("off", stream.name))

    @contextmanager
    def device(self, device):
        yield

    @contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        self.log.append(("record", pool, stream.name, capture_error_mode))
        yield
        if self.fails:
            raise RuntimeError("capture failed")

    def graph_pool_handle(self):
        self.pools += 1
        return f"pool {self.pools}"

    def set_stream(self, stream) -> None:
        self.log.append(("set", stream.name))


class PretendedStream:
    def __init__(self, cuda: PretendedCuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def record_event(self):
        self.cuda.log.append(("event", self.name))
        return self

    def synchronize(self) -> None:
        self.cuda.log.append(("synchronize", self.name))


@pytest.fixture
def cuda(monkeypatch) -> PretendedCuda:
    return PretendedCuda(monkeypatch)


def test_calls_of_an_eager_run(cuda) -> None:
    runner = GraphRunner(_cuda_graphs.CudaMachine(CPU))
    result = runner(None, double, numbers(1, 2))
    assert result.tolist() == [2, 4]
    pinned = [("on", "stream 1"), ("pinned",), ("pinned",), ("event", "stream 1")]
    assert cuda.log == [*pinned, ("synchronize", "stream 1"), ("off", "stream 1")]


def test_recordings_share_a_pool_and_have_their_own_stream(cuda) -> None:
    machine = _cuda_graphs.CudaMachine(CPU)
    for _ in range(2):
        recording = machine.record(double, torch.ones(3))
        assert recording.graph == "graph" and recording.source.shape == (3,)
    recorded = [entry for entry in cuda.log if entry[0] == "record"]
    assert recorded == [("record", "pool 1", "stream 2", "thread_local")] * 2


def test_a_failed_recording_leaves_stream_and_pool_usable(cuda) -> None:
    machine = _cuda_graphs.CudaMachine(CPU)
    cuda.fails = True
    with pytest.raises(RuntimeError, match="capture failed"):
        machine.record(double, torch.ones(3))
    assert cuda.log[-1] == ("set", "stream 1")
    cuda.fails = False
    machine.record(double, torch.ones(3))  # and the lock is free
    assert cuda.log[-1][1] == "pool 2"


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_strided_and_read_only_arrays_are_staged(cuda, dtype) -> None:
    array = np.arange(24).reshape(4, 6).astype(dtype)[::-2, ::3]
    array.flags.writeable = False
    staged = _cuda_graphs.CudaMachine(CPU).stage(array)
    assert np.array_equal(staged.numpy(), array) and staged.numpy().dtype == dtype


# -- on a GPU --------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture(scope="module")
def gpu_backend(default) -> TorchBackend:
    return TorchBackend(default, torch.device("cuda"), torch.float16)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("size", [(256, 384), (37, 91)])
@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.0])
def test_gpu_replays_equal_eager(gpu_backend, photo, monkeypatch, size, width: float) -> None:
    for call in range(5):
        image = np.ascontiguousarray(photo[call : call + size[0], : size[1]])
        monkeypatch.setenv("ICMH_CUDA_GRAPHS", "1")
        latents, picture = coded(gpu_backend, image, width)
        monkeypatch.setenv("ICMH_CUDA_GRAPHS", "0")
        expected, decoded = coded(gpu_backend, image, width)
        assert (latents.symbols_y != expected.symbols_y).mean() < 1e-3
        assert np.abs(picture.astype(int) - decoded).max() <= 2
    assert gpu_backend.graphs.reasons == {}
    assert gpu_backend.graphs.counts["replayed"] > 0


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_gpu_streams_decode_on_the_cpu(photo, dtype: str) -> None:
    """The latents are the same bits, whoever decodes; the pictures are close."""
    image = np.ascontiguousarray(photo[:200, :301])
    encoder = Encoder(width=0.5, device="cuda", dtype=dtype)
    gpu, cpu = Decoder(device="cuda", dtype=dtype), Decoder(device="cpu")
    for _ in range(5):
        data = encoder.encode(image)
        assert np.array_equal(gpu.latents(data).y_hat, cpu.latents(data).y_hat)
        assert np.abs(gpu.decode(data).astype(int) - cpu.decode(data)).max() <= 4


@pytest.mark.gpu
@needs_gpu
def test_gpu_same_input_same_bytes(photo) -> None:
    """Eager while it warms up and replayed afterwards: nobody can tell from a stream."""
    image = np.ascontiguousarray(photo[:150, :222])
    encoder, decoder = Encoder(width=0.75, device="cuda"), Decoder(device="cuda")
    data = encoder.encode(image)
    picture = decoder.decode(data)
    for _ in range(5):
        assert encoder.encode(image) == data
        assert np.array_equal(decoder.decode(data), picture)


@pytest.mark.gpu
@needs_gpu
def test_gpu_threads(gpu_backend, photo) -> None:
    images = {n: np.ascontiguousarray(photo[n : n + 64 + 8 * n, :128]) for n in range(4)}
    expected = {n: coded(gpu_backend, image, 0.25)[1] for n, image in images.items()}
    failures = []

    def work(number: int) -> None:
        try:
            for call in range(12):
                n = (number + call) % 4
                picture = coded(gpu_backend, images[n], 0.25)[1]
                if np.abs(picture.astype(int) - expected[n]).max() > 2:
                    failures.append((number, n))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.gpu
@needs_gpu
def test_gpu_evicted_graphs_leave_the_others_alone(default, photo) -> None:
    backend = TorchBackend(default, torch.device("cuda"), torch.float16)
    backend.graphs = GraphRunner(_cuda_graphs.CudaMachine(torch.device("cuda")), 2, 1)
    sizes = [(64, 64), (64, 96), (96, 64)]
    images = [np.ascontiguousarray(photo[:h, :w]) for h, w in sizes]
    expected = [coded(backend, image, 0.5)[1] for image in images]
    for _ in range(4):
        for image, picture in zip(images, expected, strict=True):
            assert np.abs(coded(backend, image, 0.5)[1].astype(int) - picture).max() <= 2
    assert backend.graphs.counts["evicted"] > 0 and backend.graphs.reasons == {}


@pytest.mark.gpu
@needs_gpu
def test_gpu_what_reads_back_falls_back(default) -> None:
    """A function that a graph cannot hold runs eagerly, and the next one is recorded."""
    runner = GraphRunner(_cuda_graphs.CudaMachine(torch.device("cuda")), warmup_calls=0)

    def reads_back(x: torch.Tensor) -> torch.Tensor:
        return x * float(x.sum())

    with pytest.warns(RuntimeWarning, match="no CUDA graph could be recorded"):
        assert runner("bad", reads_back, numbers(1, 2)).tolist() == [3, 6]
    for value in (2, 5):
        assert runner("good", double, numbers(value)).tolist() == [2 * value]
    assert runner.counts["replayed"] == 2


@pytest.mark.gpu
@needs_gpu
def test_gpu_what_overflows_is_computed_in_float32(gpu_backend, default) -> None:
    image = checkerboard(128)
    latents, _ = coded(gpu_backend, image, 1.0)
    expected, _ = coded(TorchBackend(default, CPU, torch.float32), image, 1.0)
    assert (latents.symbols_z != expected.symbols_z).mean() < 0.5
    assert np.isfinite(latents.prediction.mean).all()
