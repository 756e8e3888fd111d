"""Which backend is taken, why, and what is said where none can be. No backend runs here."""

from __future__ import annotations

import sys
import types

import pytest

from icmh_rt import bundle
from icmh_rt.backends import (
    _cuda_runtime,
    _devices,
    _tensorrt_library,
    available,
    choose,
    create,
    presence,
    registry,
)
from icmh_rt.errors import BackendUnavailableError, OptionError
from icmh_rt.published import PublishedBundle

GPU = {"torch": None, "onnxruntime": None, "tensorrt": None}


class Machine:
    """Stands in for a machine: what is installed, how many CUDA devices there are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cpu: dict[str, str | None] = dict.fromkeys(GPU)
        self.cuda: dict[str, str | None] = dict.fromkeys(GPU)
        self.devices = 0
        monkeypatch.setattr(_devices, "driver", lambda: _devices.Driver(self.devices))
        entries = {
            name: registry._Entry(
                f"fake_{name}",
                lambda place, name=name: getattr(self, place)[name],
                f"fake_{name}" if name == "torch" else None,
            )
            for name in GPU
        }
        self.cpu["tensorrt"] = "TensorRT runs on GPUs only"
        monkeypatch.setattr(registry, "_BACKENDS", entries)
        monkeypatch.setattr(registry, "_broken", {})
        monkeypatch.setattr(registry, "_instances", {})
        for name in GPU:
            module = types.ModuleType(f"fake_{name}")
            module.create = lambda *arguments, name=name: (name, *arguments[1:])
            monkeypatch.setitem(sys.modules, f"fake_{name}", module)


@pytest.fixture
def machine(monkeypatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture(scope="module")
def default():
    pytest.importorskip("safetensors", reason="neither torch nor onnx extra is installed")
    return bundle.load()


@pytest.mark.parametrize(
    ("devices", "device", "expected"),
    [
        (0, "auto", ("torch", "cpu")),
        (0, "cpu", ("torch", "cpu")),
        (1, "auto", ("tensorrt", "cuda")),
        (1, "cuda", ("tensorrt", "cuda")),
        (1, "cuda:0", ("tensorrt", "cuda")),
        (1, "cpu", ("torch", "cpu")),
    ],
)
def test_auto_takes_the_fastest(machine, default, devices, device, expected):
    machine.devices = devices
    choice = choose(default, "auto", device)
    assert (choice.backend, choice.place) == expected
    assert choice.reason == f"{expected[0]} on {expected[1]}: the fastest there is here"
    assert not choice.passed_over
    assert create(default, "auto", device) == (expected[0], device, "auto")


def test_auto_says_what_it_passed_over(machine, default):
    machine.cpu["torch"] = "torch not installed: pip install it"
    choice = choose(default)
    assert choice.backend == "onnxruntime"
    assert choice.passed_over == {"torch on cpu": "torch not installed: pip install it"}
    assert choice.reason == (
        "onnxruntime on cpu: torch on cpu would come first, but torch not installed: pip install it"
    )


def test_a_gpu_comes_before_any_cpu(machine, default):
    machine.devices = 1
    machine.cuda["torch"] = "torch is built without CUDA"
    machine.cuda["tensorrt"] = "not installed"
    choice = choose(default)
    assert (choice.backend, choice.place) == ("onnxruntime", "cuda")
    machine.cuda["onnxruntime"] = "no provider"
    choice = choose(default)
    assert (choice.backend, choice.place) == ("torch", "cpu")
    assert list(choice.passed_over) == ["tensorrt on cuda", "torch on cuda", "onnxruntime on cuda"]


def test_auto_leaves_what_would_take_minutes(machine, default, monkeypatch):
    machine.devices = 1
    entry = registry._BACKENDS["tensorrt"]
    slow = registry._Entry(entry.module, entry.presence, None, lambda bundle: "no engines yet")
    monkeypatch.setitem(registry._BACKENDS, "tensorrt", slow)
    choice = choose(default)
    assert choice.backend == "torch"
    assert choice.passed_over == {"tensorrt on cuda": "no engines yet"}
    assert choose(default, "tensorrt").backend == "tensorrt"


def test_a_name_is_a_name(machine, default):
    choice = choose(default, "onnxruntime")
    assert (choice.backend, choice.place) == ("onnxruntime", "cpu")
    assert choice.reason == "onnxruntime on cpu: asked for by name"
    machine.devices = 1
    assert choose(default, "onnxruntime").place == "cuda"
    machine.cuda["onnxruntime"] = "no provider"
    choice = choose(default, "onnxruntime")
    assert choice.place == "cpu"
    assert choice.reason == (
        "onnxruntime on cpu: onnxruntime on cuda would come first, but no provider"
    )
    with pytest.raises(BackendUnavailableError, match=r"'onnxruntime' cannot be used: no provider"):
        choose(default, "onnxruntime", "cuda")
    with pytest.raises(BackendUnavailableError, match="GPUs only"):
        choose(default, "tensorrt", "cpu")


def test_no_backend_is_one_line_with_all_reasons(machine, default):
    machine.cpu = {"torch": "no torch", "onnxruntime": "no onnxruntime", "tensorrt": "no GPU"}
    with pytest.raises(BackendUnavailableError) as error:
        create(default)
    assert str(error.value) == (
        "no backend can be used here (torch on cpu: no torch; onnxruntime on cpu: no onnxruntime)"
    )


def test_converted_checkpoints_run_in_torch_only(machine):
    published = PublishedBundle.__new__(PublishedBundle)
    object.__setattr__(published, "name", "tic")
    assert choose(published).backend == "torch"
    with pytest.raises(BackendUnavailableError, match=r"'onnxruntime' does not run converted"):
        choose(published, "onnxruntime")


def test_what_does_not_load_is_passed_over_aloud(machine, default, monkeypatch):
    monkeypatch.delitem(sys.modules, "fake_torch")
    with pytest.warns(RuntimeWarning, match="backend 'torch' is passed over: it is installed and"):
        assert create(default)[0] == "onnxruntime"
    assert create(default)[0] == "onnxruntime"  # in silence
    assert "does not load" in choose(default).passed_over["torch on cpu"]
    assert "does not load" in available()["torch"]
    with pytest.raises(BackendUnavailableError, match=r"'torch' cannot be used: .*icmh doctor"):
        create(default, "torch")


def test_a_named_backend_that_does_not_load_is_an_error(machine, default, monkeypatch, recwarn):
    monkeypatch.delitem(sys.modules, "fake_onnxruntime")
    with pytest.raises(BackendUnavailableError, match="No module named 'fake_onnxruntime'"):
        create(default, "onnxruntime")
    assert not recwarn


@pytest.mark.parametrize("name", ["toaster", "meta", "cuda:x", "cuda:-1", "CPU", "", None, 3])
def test_unknown_devices(machine, default, name):
    with pytest.raises(OptionError, match="use auto, cpu, cuda or cuda:N"):
        choose(default, "auto", name)


def test_devices_that_are_not_here(machine, default):
    with pytest.raises(BackendUnavailableError, match=r"'cuda:99' is not here: .* 0 CUDA device"):
        choose(default, "auto", "cuda:99")
    machine.devices = 2
    with pytest.raises(BackendUnavailableError, match=r"'cuda:2' is not here: .* 2 CUDA device"):
        choose(default, "onnxruntime", "cuda:2")
    assert choose(default, "onnxruntime", "cuda:1").place == "cuda"


def test_equal_arguments_share_an_object_and_few_are_kept(machine, default):
    first = create(default, "torch", "cpu")
    assert create(default, "auto", "cpu") is first
    assert create(default, "torch", "cpu", "fp32") is not first
    machine.devices = 50
    for index in range(20):
        create(default, "onnxruntime", f"cuda:{index}")
    assert len(registry._instances) == registry._MAX_INSTANCES


# -- what is here ----------------------------------------------------------------------------------


class Library:
    """Stands in for NVIDIA's driver."""

    def __init__(self, code: int, count: int) -> None:
        self._code, self._count = code, count

    def cuInit(self, flags: int) -> int:
        return self._code

    def cuDeviceGetCount(self, pointer) -> int:
        pointer._obj.value = self._count
        return 0


@pytest.mark.parametrize(
    ("library", "devices", "problem"),
    [
        (Library(0, 3), 3, None),
        (Library(100, 0), 0, None),
        (Library(803, 0), 0, "error 803"),
        (None, 0, None),
    ],
)
def test_the_driver_is_asked_without_torch(monkeypatch, library, devices, problem):
    def load(name: str):
        if library is None:
            raise OSError("no such library")
        return library

    monkeypatch.setattr(_devices.ctypes, "CDLL", load)
    found = _devices.driver.__wrapped__()
    assert found.devices == devices
    assert (found.problem or "").endswith(problem or "")
    monkeypatch.setattr(_devices, "driver", lambda: found)
    if problem:
        assert problem in _devices.missing(_devices.parse("cuda"))
        monkeypatch.setattr(_tensorrt_library, "missing", lambda name: None)
        assert problem in presence.tensorrt("cuda")


def test_reasons_name_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(presence, "installed", lambda package: False)
    assert presence.torch("cpu") == (
        "torch, safetensors not installed: pip install 'icmh-rt[torch]'"
    )
    assert presence.onnxruntime("cuda") == (
        "onnxruntime, onnx, safetensors not installed: pip install 'icmh-rt[onnx]'"
    )
    monkeypatch.setattr(_tensorrt_library, "missing", lambda name: f"{name}: not installed")
    assert presence.tensorrt("cuda") == "auto: not installed"
    monkeypatch.setenv("ICMH_TENSORRT", "tensorrt_rtx")
    assert presence.tensorrt("cuda") == "tensorrt_rtx: not installed"
    assert presence.tensorrt("cpu") == "TensorRT runs on GPUs only"


def test_blocked_packages_count_as_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not presence.installed("torch")
    assert not presence.installed("a_package.that_is.not_there")


def test_gpus_need_builds_for_them(monkeypatch):
    monkeypatch.setattr(presence, "installed", lambda package: True)
    monkeypatch.setattr(_tensorrt_library, "missing", lambda name: None)
    assert presence.torch("cpu") is presence.onnxruntime("cpu") is None
    monkeypatch.setattr(_devices, "driver", lambda: _devices.Driver(0))
    for backend in (presence.torch, presence.onnxruntime, presence.tensorrt):
        assert backend("cuda") == "this machine has no CUDA device"
    monkeypatch.setattr(_devices, "driver", lambda: _devices.Driver(1))
    cuda = types.SimpleNamespace(is_available=lambda: False)
    torch = types.SimpleNamespace(
        __version__="2.9", cuda=cuda, version=types.SimpleNamespace(cuda=None)
    )
    runtime = types.SimpleNamespace(__version__="1.30", get_available_providers=lambda: ["CPU"])
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    assert presence.torch("cuda") == "torch 2.9 is built without CUDA"
    torch.version.cuda = "13.2"
    assert "cannot use this GPU's driver" in presence.torch("cuda")
    cuda.is_available = lambda: True
    assert presence.torch("cuda") is None
    assert "pip install onnxruntime-gpu" in presence.onnxruntime("cuda")
    runtime.get_available_providers = lambda: ["CUDAExecutionProvider"]
    providers = types.ModuleType("providers")
    monkeypatch.setitem(sys.modules, "icmh_rt.backends._onnxruntime_providers", providers)
    monkeypatch.delattr("icmh_rt.backends._onnxruntime_providers", raising=False)
    for problem in (None, "libcublasLt.so.13 is not on this machine"):
        providers.loading_problem = lambda provider, problem=problem: problem
        assert presence.onnxruntime("cuda") == problem
    assert presence.tensorrt("cuda") is None
    monkeypatch.setattr(
        presence.importlib, "import_module", lambda name: (_ for _ in ()).throw(OSError("lib.so"))
    )
    assert presence.torch("cuda") == (
        "torch is installed and does not load: lib.so (see `icmh doctor`)"
    )


def test_tensorrt_is_taken_once_it_has_plans(default, monkeypatch, tmp_path):
    """Of this bundle, for this kind of GPU."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ICMH_TENSORRT_CACHE", str(tmp_path))
    monkeypatch.delenv("ICMH_TENSORRT_PLANS", raising=False)
    runtime = types.SimpleNamespace(compute_capability=lambda device: (8, 6))
    monkeypatch.setattr(_cuda_runtime, "runtime", lambda: runtime)
    assert "no plans of bundle 'default' for compute capability 8.6 yet" in presence.no_plans(
        default
    )
    weights = default.fingerprint[:8]
    for name in (f"default-{weights}_human_sm89_trt10.plan", "default-00000000_sm86_trt10.plan"):
        (tmp_path / name).touch()
    assert presence.no_plans(default) is not None
    (tmp_path / f"default-{weights}_human_w1_analysis_fp16_any_a10-sm86_trt10.3.plan").touch()
    assert presence.no_plans(default) is None
    tmp_path.chmod(0o777)
    assert "can be written by others" in presence.no_plans(default)


def test_plans_have_the_names_that_are_looked_for(default, monkeypatch, tmp_path):
    from icmh_rt.backends import _tensorrt_plans as plans
    from icmh_rt.backends._tensorrt_builder import BuildOptions

    target = plans.Target("any", "8.6", "any", "tensorrt_rtx 1.7")
    identity = plans.Identity(
        default.name,
        plans.weights_of(default),
        "analysis",
        1.0,
        "human",
        "fp16",
        target,
        BuildOptions(),
    )
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ICMH_TENSORRT_CACHE", str(tmp_path))
    runtime = types.SimpleNamespace(compute_capability=lambda device: (8, 6))
    monkeypatch.setattr(_cuda_runtime, "runtime", lambda: runtime)
    (tmp_path / identity.name).touch()
    assert presence.no_plans(default) is None
