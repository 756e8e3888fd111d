"""The adapter as one op: every level of the C++ against the reference in float64."""

from __future__ import annotations

import pytest
import torch

from icmh_rt import _native
from icmh_rt.errors import BackendUnavailableError, OptionError
from icmh_rt.kernels import _cpu_adapter, _memory
from icmh_rt.kernels.sfma import LAYERS, reference, sfma

LEVELS = _native.module().kernel_levels()
SHAPES = [(1, 1), (1, 2), (2, 1), (3, 2), (1, 97), (97, 1), (7, 400), (33, 31), (17, 64), (121, 26)]


def tolerance(level: str) -> float:
    """Relative L2 error of the adapter's own contribution; tiles have 16 bits of precision."""
    return 1e-5 if level == "amx" else 1e-6


def make(channels: int = 12, middle: int = 10, factor: float = 0.7, seed: int = 0) -> list:
    """Weights that keep both branches alive, and the factor."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        **dict.fromkeys(("s_down1", "s_down2", "f_down"), (middle, channels, 1, 1)),
        "s_dw": (middle, 1, 5, 5),
        "f_dw": (middle, 1, 3, 3),
        "f_inter": (middle, middle, 1, 1),
        **dict.fromkeys(("s_up", "f_up"), (channels, middle, 1, 1)),
    }
    tensors = []
    for name in LAYERS:
        fan_in = shapes[name][1] * shapes[name][2] * shapes[name][3]
        weight = torch.randn(shapes[name], generator=generator) * fan_in**-0.5
        tensors += [weight, 0.3 * torch.randn(shapes[name][0], generator=generator)]
    return [*tensors, factor]


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def error(result: torch.Tensor, x: torch.Tensor, arguments: list) -> float:
    """Relative L2, of what the adapter adds."""
    *tensors, factor = arguments
    exact = reference(x.double(), *(tensor.double() for tensor in tensors), factor)
    return ((result.double() - exact).norm() / (exact - x.double()).norm()).item()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_reference(level: str, layout: torch.memory_format, shape) -> None:
    arguments = make()
    x = image(2, 12, *shape).contiguous(memory_format=layout)
    result = _cpu_adapter.sfma(x, *arguments, level=level)
    assert result.stride() == x.stride()
    assert error(result, x, arguments) <= tolerance(level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("channels", "middle"), [(1, 1), (3, 2), (8, 8), (33, 17), (64, 16), (128, 64), (40, 70)]
)
def test_any_number_of_channels(level: str, channels: int, middle: int) -> None:
    arguments = make(channels, middle)
    x = image(1, channels, 13, 50)
    assert error(_cpu_adapter.sfma(x, *arguments, level=level), x, arguments) <= tolerance(level)


@pytest.mark.parametrize("level", LEVELS)
def test_lengths_of_every_radix_and_those_without_a_transform(level: str) -> None:
    """Products of 2, 3, 4, 5 and larger primes; 37 and 401 are left to PyTorch."""
    native = _native.module()
    arguments = make(2, 2)
    for length in (*range(1, 41), 49, 60, 77, 96, 121, 128, 143, 169, 210, 240, 289, 360, 401, 961):
        x = image(1, 2, 3, length)
        assert error(_cpu_adapter.sfma(x, *arguments, level=level), x, arguments) <= tolerance(
            level
        ), length
        x = x.transpose(2, 3).contiguous()
        assert error(_cpu_adapter.sfma(x, *arguments, level=level), x, arguments) <= tolerance(
            level
        ), length
    assert not native.sfma_has_fft((2, 2, 3, 37, 1.0))
    assert not native.sfma_has_fft((2, 2, 401, 8, 1.0))
    assert native.sfma_has_fft((2, 2, 31, 544, 1.0))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_parts_of_few_rows_meet_without_seams(monkeypatch, level: str, rows: int) -> None:
    monkeypatch.setattr(_cpu_adapter, "_MIN_ROWS", rows)
    monkeypatch.setattr(_cpu_adapter, "_PARTS", 100)
    arguments = make()
    x = image(1, 12, 23, 21)
    whole = _cpu_adapter.sfma(x, *arguments, level=level)
    assert error(whole, x, arguments) <= tolerance(level)
    monkeypatch.setattr(_cpu_adapter, "_PARTS", 1)
    assert torch.equal(whole, _cpu_adapter.sfma(x, *arguments, level=level))


@pytest.mark.parametrize("level", LEVELS)
def test_extreme_values(level: str) -> None:
    arguments = make()
    zero = torch.zeros(1, 12, 9, 8)
    assert torch.isfinite(_cpu_adapter.sfma(zero, *arguments, level=level)).all()
    for scale in (1e-12, 1e-3, 1e4):
        x = scale * image(1, 12, 9, 8)
        assert error(_cpu_adapter.sfma(x, *arguments, level=level), x, arguments) <= tolerance(
            level
        )
    broken = image(1, 12, 9, 8)
    broken[0, 3, 4, 5] = float("nan")
    assert (
        _cpu_adapter.sfma(broken, *arguments, level=level).isnan().all()
    )  # the transform spreads it


@pytest.mark.parametrize("level", LEVELS)
def test_without_an_effect_every_bit_stays(level: str) -> None:
    arguments = make()
    for name in ("s_up", "f_up"):
        at = 2 * LAYERS.index(name)
        arguments[at], arguments[at + 1] = arguments[at] * 0, arguments[at + 1] * 0
    x = image(2, 12, 19, 23)
    assert torch.equal(_cpu_adapter.sfma(x, *arguments, level=level), x)


def test_strided_and_empty_inputs_and_the_input_stays() -> None:
    arguments = make()
    x = image(2, 24, 18, 10)[:, ::2, ::2]
    before = x.clone()
    assert error(_cpu_adapter.sfma(x, *arguments), before, arguments) <= 1e-5
    assert torch.equal(x, before)
    assert _cpu_adapter.sfma(x[:0], *arguments).shape == (0, 12, 9, 10)


@pytest.mark.parametrize("threads", [1, 3])
def test_bits_do_not_depend_on_threads(threads: int) -> None:
    arguments, x = make(), image(1, 12, 64, 48)
    expected = _cpu_adapter.sfma(x, *arguments)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(_cpu_adapter.sfma(x, *arguments), expected)
    finally:
        torch.set_num_threads(before)


def test_many_threads_at_once() -> None:
    from concurrent.futures import ThreadPoolExecutor

    arguments = make()
    images = [image(1, 12, 20 + i, 30) for i in range(12)]
    expected = [_cpu_adapter.sfma(x, *arguments) for x in images]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda x: _cpu_adapter.sfma(x, *arguments), images))
    assert all(map(torch.equal, found, expected))


def test_kept_memory_is_bounded(monkeypatch) -> None:
    _memory.release()
    monkeypatch.setattr(_memory, "KEPT_BYTES", 16000)
    monkeypatch.setattr(_memory, "_HUGE", 0)
    with _memory.workspace(1200) as first, _memory.workspace(3000) as second:
        assert first.numel() == 1200 and first.data_ptr() != second.data_ptr()
    assert [buffer.nbytes for buffer in _memory._free] == [12000]  # 16800 were too many
    with _memory.workspace(2500) as again:
        assert again.data_ptr() == second.data_ptr()
    with _memory.workspace(5000):
        pass
    assert not _memory._free  # alone it is too much
    _memory.release()
    assert not _memory._free


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_results_memory_is_kept_until_its_last_tensor_is_gone(monkeypatch, layout) -> None:
    _memory.release()
    monkeypatch.setattr(_memory, "_HUGE", 16)
    like = torch.empty(1, 2, 5, 6).contiguous(memory_format=layout)
    result = _memory.empty_result_maps(like, 3)
    assert result.shape == (1, 3, 5, 6) and result.dtype == torch.float32
    assert result.is_contiguous(memory_format=layout)
    address = result.data_ptr()
    view = result.fill_(7)[:, :1]
    del result
    assert not _memory._free and _memory.empty_result_maps(like, 3).data_ptr() != address
    assert (view == 7).all()
    _memory.release()
    del view
    assert [buffer.ctypes.data for buffer in _memory._free] == [address]
    assert _memory.empty_result_maps(like, 3).data_ptr() == address
    _memory.release()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_runs_the_reference(half: torch.dtype) -> None:
    arguments = [a.to(half) if isinstance(a, torch.Tensor) else a for a in make()]
    x = image(1, 12, 16, 18).to(half)
    assert sfma.chosen(x, *arguments) == "reference"
    bound = 5e-3 if half == torch.float16 else 4e-2
    assert error(sfma(x, *arguments), x, arguments) <= bound


def test_what_runs_and_why_not(monkeypatch) -> None:
    arguments, x = make(), image(1, 12, 4, 4)
    assert sfma.chosen(x, *arguments) == "cpu"
    assert sfma.chosen(x, *arguments, implementation="reference") == "reference"
    monkeypatch.setenv("ICMH_KERNELS", "reference")
    assert sfma.chosen(x, *arguments) == "reference"
    monkeypatch.setenv("ICMH_KERNELS", "fastest")
    with pytest.raises(OptionError, match="ICMH_KERNELS is 'fastest': use auto, reference"):
        sfma(x, *arguments)
    monkeypatch.delenv("ICMH_KERNELS")
    with pytest.raises(OptionError, match="implementation is 'gpu'"):
        sfma(x, *arguments, implementation="gpu")
    double = [a.double() if isinstance(a, torch.Tensor) else a for a in arguments]
    with pytest.raises(BackendUnavailableError, match="float64, and this kernel computes"):
        sfma(x.double(), *double, implementation="cpu")


def test_gradients_of_the_fast_kernel() -> None:
    """The forced op recomputes the reference on the way back; unforced training records it."""
    arguments, x = make(4, 3), image(1, 4, 5, 6)
    leaves = [x, *arguments[:-1]]
    gradients = []
    for implementation in (None, "cpu"):
        for leaf in leaves:
            leaf.requires_grad_(True)
        out = sfma(x, *arguments, implementation=implementation)
        gradients.append(torch.autograd.grad(out.square().sum(), leaves))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_gradcheck() -> None:
    arguments, x = make(2, 2), image(1, 2, 3, 4)
    tensors = [a.double().requires_grad_(True) for a in (x, *arguments[:-1])]
    assert torch.autograd.gradcheck(lambda *t: sfma(*t, 0.7, implementation="reference"), tensors)


class Module(torch.nn.Module):
    def forward(self, x: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        return 2 * sfma(x, *tensors, 0.7)


def test_compiles_and_exports_as_one_op() -> None:
    arguments, x = make(), image(1, 12, 9, 10)
    with torch.no_grad():
        expected = Module()(x, *arguments[:-1])
        compiled = torch.compile(Module(), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, *arguments[:-1]), expected)
    program = torch.export.export(Module(), (x, *arguments[:-1]))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert "icmh_rt.sfma.default" in names
    torch.testing.assert_close(program.module()(x, *arguments[:-1]), expected)
    torch.library.opcheck(torch.ops.icmh_rt.sfma.default, (x, *arguments, "auto"))
