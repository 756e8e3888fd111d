"""The onnxruntime backend: against torch, its sessions, and the providers that it takes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
pytest.importorskip("onnx", reason="the onnx extra is not installed")

from icmh_rt import bundle, codec
from icmh_rt.backends import _devices, create, presence
from icmh_rt.backends import _onnxruntime_providers as providers
from icmh_rt.backends import onnxruntime as backend_module
from icmh_rt.backends.onnxruntime import OnnxruntimeBackend
from icmh_rt.errors import BackendUnavailableError, OptionError

WIDTHS = (0.25, 0.5, 0.75, 1.0)
CPU = [(providers.CPU, {})]
SIZES = ((1, 1), (3, 200), (16, 16), (64, 48), (65, 97), (130, 50))


@pytest.fixture(scope="module")
def default() -> bundle.Bundle:
    return bundle.load()


@pytest.fixture
def backend(default) -> OnnxruntimeBackend:
    return OnnxruntimeBackend(default, CPU, _devices.Device("cpu"))


# -- against torch ---------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_symbols_are_those_of_torch(default, photo, width):
    """Of whole photographs, but for ties of rounding; indexes wherever z is the same."""
    pytest.importorskip("torch", reason="the torch extra is not installed")
    ours, theirs = create(default, "onnxruntime", "cpu"), create(default, "torch", "cpu")
    for quality in (1, 50, 100):
        found = ours.encode_transforms(photo, width, "human", quality)
        expected = theirs.encode_transforms(photo, width, "human", quality)
        assert (found.symbols_z != expected.symbols_z).mean() <= 1e-4
        if np.array_equal(found.symbols_z, expected.symbols_z):
            assert np.array_equal(found.indexes_y, expected.indexes_y)
            assert (found.symbols_y != expected.symbols_y).mean() <= 1e-4
            assert np.abs(found.symbols_y - expected.symbols_y).max() <= 1


@pytest.mark.parametrize("size", SIZES)
def test_transforms_are_those_of_torch_at_any_size(default, photo, size):
    pytest.importorskip("torch", reason="the torch extra is not installed")
    ours, theirs = create(default, "onnxruntime", "cpu"), create(default, "torch", "cpu")
    image = photo[100 : 100 + size[0], 300 : 300 + size[1]]  # not contiguous
    width = WIDTHS[sum(size) % 4]
    y = ours.analysis(image, width, "human")
    expected = theirs.analysis(np.ascontiguousarray(image), width, "human")
    np.testing.assert_allclose(y.y, theirs.latent_to_host(expected), rtol=1e-3, atol=1e-4)
    z = theirs.hyper_analysis(expected, width, "human")
    np.testing.assert_allclose(ours.hyper_analysis(y, width, "human"), z, rtol=1e-3, atol=1e-4)
    found = ours.synthesis(y.y, width, "human", size)
    picture = theirs.synthesis(y.y, width, "human", size)
    assert found.shape == (*size, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - picture).max() <= 1


def test_half_precision_is_close_and_decodes(default, photo):
    image = np.ascontiguousarray(photo[:80, :112])
    half = create(default, "onnxruntime", "cpu", "fp16")
    full = create(default, "onnxruntime", "cpu")
    y, expected = (b.analysis(image, 0.5, "human").y for b in (half, full))
    assert 0 < np.abs(y - expected).max() < 0.05 * np.abs(expected).max()
    data = codec.Encoder(0.5, backend="onnxruntime", device="cpu", dtype="fp16").encode(image)
    decoded = codec.Decoder(backend="onnxruntime", device="cpu").decode(data)
    assert np.abs(decoded.astype(int) - image).mean() < 8


def test_what_overflows_in_half_precision_is_computed_in_full(default, monkeypatch):
    """onnxruntime computes fp16 in fp32 on a CPU, so that nothing overflows here by itself."""
    noise = np.random.default_rng(5).integers(0, 2, (64, 60, 3), np.uint8) * 255
    half = OnnxruntimeBackend(default, CPU, _devices.Device("cpu"), "fp16")
    full = create(default, "onnxruntime", "cpu")
    session, asked = half._session, []

    def overflowing(role, width, task, precision):
        made = session(role, width, task, precision)
        asked.append((role, precision))

        def run(names, feed):
            results = made.run(names, feed)
            bad = ("y", "magnitude") if precision == "fp16" else ()
            return [
                np.full_like(result, np.inf) if name in bad else result
                for name, result in zip(names, results, strict=True)
            ]

        return types.SimpleNamespace(run=run)

    monkeypatch.setattr(half, "_session", overflowing)
    found, expected = (b.analysis(noise, 0.25, "human") for b in (half, full))
    assert np.array_equal(found.y, expected.y) and np.array_equal(found.z, expected.z)
    picture, expected = (b.synthesis(found.y, 0.25, "human", (64, 60)) for b in (half, full))
    assert np.array_equal(picture, expected)
    roles = ("analysis", "synthesis")
    assert asked == [(role, precision) for role in roles for precision in ("fp16", "fp32")]


def test_the_magnitude_tells_what_is_not_finite(default):
    half = OnnxruntimeBackend(default, CPU, _devices.Device("cpu"), "fp16")
    session = half._session("synthesis", 0.25, "human", "fp16")
    for value, finite in ((1.0, True), (np.nan, False), (np.inf, False)):
        y_hat = np.zeros((1, 4, 4, 192), np.float32)
        y_hat[0, 2, 1, 7] = value
        feed = {"y_hat": y_hat, "height": np.array(64), "width": np.array(60)}
        image, magnitude = session.run(["image", backend_module.MAGNITUDE], feed)
        assert image.shape == (1, 64, 60, 3)
        assert np.isfinite(magnitude) == finite


def test_a_batch_of_sizes_gives_the_bytes_of_each(photo):
    """Also where each is encoded on one thread, beside the others."""
    from icmh_rt import get_num_threads, set_num_threads

    images = [photo[:h, :w] for h, w in ((40, 70), (64, 64), (17, 5), (200, 330), (40, 70))]
    before = get_num_threads()
    set_num_threads(3)
    try:
        for width in (0.25, 1.0):
            encoder = codec.Encoder(width, backend="onnxruntime", device="cpu")
            assert encoder.encode_batch(images) == [encoder.encode(image) for image in images]
        used = {key.threads for key in encoder.backend._sessions}
    finally:
        set_num_threads(before)
    assert {1, 3} <= used


# -- sessions --------------------------------------------------------------------------------------


def test_sessions_are_made_when_needed_and_kept(backend, photo, monkeypatch):
    image = np.ascontiguousarray(photo[:32, :32])
    made = []
    build = backend_module.graphs.build
    monkeypatch.setattr(
        backend_module.graphs,
        "build",
        lambda b, role, width, *a, **k: (
            made.append((role, width)) or build(b, role, width, *a, **k)
        ),
    )
    y = backend.analysis(image, 0.25, "human").y
    backend.analysis(image, 0.25, "human")
    assert made == [("analysis", 0.25)]
    backend.synthesis(y, 0.25, "human", (32, 32))
    backend.analysis(image, 0.5, "human")
    assert made == [("analysis", 0.25), ("synthesis", 0.25), ("analysis", 0.5)]


def test_the_session_that_was_used_longest_ago_makes_room(backend, photo, monkeypatch):
    monkeypatch.setattr(backend_module, "CAPACITY", 2)
    image = np.ascontiguousarray(photo[:16, :16])
    for width in (0.25, 0.5, 0.25, 0.75):
        backend.analysis(image, width, "human")
    assert [key.width for key in backend._sessions] == [0.25, 0.75]


def test_threads_share_sessions(backend, photo):
    images = [np.ascontiguousarray(photo[i : i + 40, i : i + 56]) for i in range(0, 320, 40)]
    expected = [backend.analysis(image, 0.25, "human").y for image in images]
    backend._sessions.clear()
    found: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(
            target=lambda i=i: found.update({i: backend.analysis(images[i], 0.25, "human").y})
        )
        for i in range(len(images))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(backend._sessions) == 1
    assert all(np.array_equal(found[i], expected[i]) for i in range(len(images)))


def test_the_number_of_threads_is_that_of_the_library(backend, photo):
    from icmh_rt import get_num_threads, set_num_threads

    image = np.ascontiguousarray(photo[:48, :48])
    before = get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            set_num_threads(threads)
            results.append(backend.analysis(image, 0.25, "human").y)
    finally:
        set_num_threads(before)
    assert [key.threads for key in backend._sessions] == [1, 3]
    assert np.array_equal(*results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_processes_go_on():
    """A session's threads do not follow it into a new process. It ends as multiprocessing's do:
    onnxruntime's own threads make a usual end hang, as soon as it is imported.
    """
    program = (
        "import os, sys, numpy as np\n"
        "from icmh_rt.codec import Encoder\n"
        "encoder = Encoder(0.25, backend='onnxruntime', device='cpu')\n"
        "image = np.arange(120 * 90 * 3).reshape(120, 90, 3).astype(np.uint8)\n"
        "expected = encoder.encode(image)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    inherited = len(encoder.backend._sessions)\n"
        "    same = encoder.encode(image) == expected\n"
        "    os._exit(0 if same and not inherited else 3)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    environment = {**os.environ, "ICMH_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, timeout=60)
    assert done.returncode == 0


# -- providers -------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch) -> types.SimpleNamespace:
    """A machine with one GPU and an onnxruntime for it, of which nothing runs."""
    state = types.SimpleNamespace(
        devices=1,
        known=[providers.TENSORRT, providers.CUDA, providers.CPU],
        first=None,  # the provider that sessions take; None: the one that was asked for
        error=None,
        made=[],
    )
    monkeypatch.delenv(presence.PROVIDERS_VARIABLE, raising=False)
    monkeypatch.setattr(_devices, "driver", lambda: _devices.Driver(state.devices))
    monkeypatch.setattr(providers.ort, "get_available_providers", lambda: state.known)
    if hasattr(providers.ort, "preload_dlls"):
        monkeypatch.setattr(providers.ort, "preload_dlls", lambda: print("cannot load lib.so"))

    def session(model, options, providers):
        if state.error:
            raise RuntimeError(state.error)
        names = [p if isinstance(p, str) else p[0] for p in providers]
        state.made.append((model, options, providers))
        return types.SimpleNamespace(get_providers=lambda: [state.first or names[0]])

    monkeypatch.setattr(providers.ort, "InferenceSession", session)
    monkeypatch.setattr(providers.ctypes, "CDLL", lambda path, mode: None)
    return state


def test_auto_is_a_gpu_where_onnxruntime_has_one(machine):
    chosen, device = providers.providers_for(_devices.parse("auto"))
    assert [name for name, _ in chosen] == [providers.CUDA, providers.CPU]
    assert str(device) == "cuda:0"
    options = dict(chosen)[providers.CUDA]
    assert options["use_tf32"] == 0 and options["device_id"] == 0
    machine.known = [providers.CPU]
    chosen, device = providers.providers_for(_devices.parse("auto"))
    assert chosen == CPU and str(device) == "cpu"
    with pytest.raises(BackendUnavailableError, match="has no CUDA provider: pip uninstall"):
        providers.providers_for(_devices.parse("cuda"))


def test_devices_have_numbers(machine):
    machine.devices = 3
    chosen, device = providers.providers_for(_devices.parse("cuda:2"))
    assert dict(chosen)[providers.CUDA]["device_id"] == 2 and str(device) == "cuda:2"
    with pytest.raises(BackendUnavailableError, match=r"cuda:3.* 3 CUDA device"):
        providers.providers_for(_devices.parse("cuda:3"))
    assert providers.providers_for(_devices.parse("cpu")) == (CPU, _devices.Device("cpu"))


def test_providers_can_be_asked_for(machine, monkeypatch):
    monkeypatch.setenv(presence.PROVIDERS_VARIABLE, "tensorrt, CUDAExecutionProvider")
    chosen, device = providers.providers_for(_devices.parse("auto"))
    assert [name for name, _ in chosen] == [providers.TENSORRT, providers.CUDA, providers.CPU]
    assert str(device) == "cuda:0"
    with pytest.raises(OptionError, match=r"does not run on device 'cpu': unset it"):
        providers.providers_for(_devices.parse("cpu"))
    monkeypatch.setenv(presence.PROVIDERS_VARIABLE, "openvino")
    with pytest.raises(OptionError, match=r"'openvino', this onnxruntime has tensorrt, cuda, cpu"):
        providers.providers_for(_devices.parse("auto"))
    monkeypatch.setenv(presence.PROVIDERS_VARIABLE, "cpu")
    assert providers.providers_for(_devices.parse("auto")) == (CPU, _devices.Device("cpu"))


def test_a_provider_that_does_not_start_is_one_line(machine, monkeypatch, capfd):
    chosen, _ = providers.providers_for(_devices.parse("cuda"))
    assert providers.session(b"", chosen, 2).get_providers() == [providers.CUDA]

    def message() -> str:
        with pytest.raises(BackendUnavailableError) as error:
            providers.session(b"", chosen, 2)
        assert "\n" not in str(error.value)
        return str(error.value)

    start = "onnxruntime's CUDAExecutionProvider does not start: "
    missing = "is not on this machine; pip install 'onnxruntime-gpu[cuda,cudnn]' brings"
    machine.error = (
        "LoadLibrary failed\n[E] libonnxruntime_providers_cuda.so: libcudnn.so.9: cannot open "
        "shared object file: No such file or directory\nFalling back"
    )
    assert message().startswith(f"{start}libcudnn.so.9 {missing}")
    machine.error = "some words\nCUDA failure 35: the driver is too old ; GPU=0"
    assert message() == f"{start}CUDA failure 35: the driver is too old ; GPU=0"
    # Where it takes another provider in silence, the system's loader knows why.
    machine.error, machine.first = None, providers.CPU

    def load(path: str, mode: int) -> None:
        if path.endswith("_cuda.so"):
            raise OSError("libcublasLt.so.13: cannot open shared object file: No such file")

    monkeypatch.setattr(providers.ctypes, "CDLL", load)
    assert message().startswith(f"{start}libcublasLt.so.13 {missing}")
    monkeypatch.setattr(providers.ctypes, "CDLL", lambda path, mode: None)
    assert message() == f"{start}onnxruntime gives no reason"
    assert capfd.readouterr() == ("", "")


def test_options(default):
    with pytest.raises(OptionError, match="computes in fp32 or fp16, not in 'bf16'"):
        create(default, "onnxruntime", "cpu", "bf16")
    with pytest.raises(OptionError, match="no feature head"):
        create(default, "onnxruntime", "cpu").features(np.zeros((1, 1, 320)), 1.0, "human", (1, 1))
