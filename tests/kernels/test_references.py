"""The references against other statements of the same mathematics, and how ops are registered."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import EXACT, OPS, REGISTERED, Case, arguments, cases, check, relative_error, wide

from icmh_rt.errors import BackendUnavailableError, OptionError
from icmh_rt.kernels._op import Implementation
from icmh_rt.models.gdn import GDN
from icmh_rt.models.slimmable import DepthConvBlock


@pytest.mark.parametrize("op", OPS)
def test_in_every_precision(op: str) -> None:
    for case in cases(op):
        check(case, "reference")


# -- the same by other means -----------------------------------------------------------------------


def test_spatial_modulation_by_its_definition() -> None:
    x, other, weight, bias = (wide(a) for a in arguments(Case("spatial_modulation", channels=3)))
    padded = F.pad(x, (2, 2, 2, 2))
    expected = torch.zeros_like(x)
    for n, c, i, j in torch.cartesian_prod(*(torch.arange(side) for side in x.shape)).tolist():
        window = padded[n, c, i : i + 5, j : j + 5]
        mixed = (window * weight[c, 0]).sum() + bias[c]
        expected[n, c, i, j] = max(0.0, float(mixed * other[n, c, i, j]))
    found = REGISTERED["spatial_modulation"](x, other, weight, bias)
    torch.testing.assert_close(found, expected)


def test_frequency_gate_scales_amplitudes_and_keeps_angles() -> None:
    given = [wide(a) for a in arguments(Case("frequency_gate"))]
    spectrum, dw_weight, dw_bias, mix_weight, mix_bias = given
    amplitude, angle = spectrum.abs(), spectrum.angle()
    smooth = F.relu(F.conv2d(amplitude, dw_weight, dw_bias, padding=1, groups=20))
    gate = torch.einsum("ck,nkhw->nchw", mix_weight, smooth) + mix_bias[:, None, None]
    amplitude = amplitude / (1 + torch.exp(-gate))
    expected = torch.complex(amplitude * torch.cos(angle), amplitude * torch.sin(angle))
    torch.testing.assert_close(REGISTERED["frequency_gate"](*given), expected)


@pytest.mark.parametrize("amplitude", [0.0, 1e-15, 1e15])
def test_frequency_gate_at_the_ends_of_its_range(amplitude: float) -> None:
    given = list(arguments(Case("frequency_gate", channels=1)))
    given[0] = torch.polar(torch.tensor(amplitude), torch.tensor(2.0)).expand(1, 1, 4, 3)
    given[3] = given[3].abs()
    given[1] = given[1].abs()
    out = REGISTERED["frequency_gate"](*given)
    assert bool(torch.isfinite(torch.view_as_real(out)).all())
    if amplitude != 1e-15:  # the gate is open, or there is nothing to let through
        torch.testing.assert_close(out, given[0].contiguous())


def test_projections_by_matrix_products() -> None:
    x, weight, bias = (wide(a) for a in arguments(Case("project_down")))
    expected = (weight @ x.flatten(2) + bias[:, None]).view(2, -1, 7, 9)
    torch.testing.assert_close(REGISTERED["project_down"](x, weight, bias), expected)
    given = [wide(a) for a in arguments(Case("project_up", layout="sliced"))]
    spatial, planes, weight, bias, residual, factor = given
    both = torch.cat((spatial, planes.clamp(min=0)), 1).flatten(2)
    added = (weight @ both + bias[:, None]).view_as(residual)
    torch.testing.assert_close(REGISTERED["project_up"](*given), residual + factor * added)


def test_depth_conv_block_is_the_models() -> None:
    block = DepthConvBlock((6, 10)).double()
    torch.manual_seed(0)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for width, channels in enumerate((6, 10)):
        x = torch.randn(2, channels, 5, 7, dtype=torch.float64)
        mix, spatial = (block.mix_in, block.mix_out), block.mix_spatial
        pairs = [
            (mix[0].matrix(width), mix[0]),
            (spatial.weight[:channels], spatial),
            (mix[1].matrix(width), mix[1]),
            *((m.matrix(width), m) for m in (block.ffn_gate, block.ffn_value, block.ffn_out)),
        ]
        weights = [part for w, module in pairs for part in (w, module.bias[width, :channels])]
        found = REGISTERED["depth_conv_block"](x, *weights)
        torch.testing.assert_close(found, block(x, width))


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_is_the_models(inverse: bool) -> None:
    torch.manual_seed(0)
    module = GDN(6, inverse).double()
    torch.nn.init.uniform_(module.gamma, 0.0, 0.5)
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    beta, gamma = module.beta_reparam(module.beta), module.gamma_reparam(module.gamma)
    torch.testing.assert_close(REGISTERED["gdn"](x, beta, gamma, inverse), module(x))


def test_quantize_index_one_value_at_a_time() -> None:
    latent, mean, gain, scales, thresholds = arguments(Case("quantize_index", values="large"))
    symbols, indexes, bad = REGISTERED["quantize_index"](latent, mean, gain, scales, thresholds)
    count = 0
    for n, c, i, j in torch.cartesian_prod(*(torch.arange(s) for s in latent.shape)).tolist():
        value = float((latent[n, c, i, j] * gain[c]) - mean[n, c, i, j])
        scale = float(scales[n, c, i, j])
        count += (not math.isfinite(value)) + math.isnan(scale)
        symbol = 0 if math.isnan(value) else round(max(-(2.0**17), min(2.0**17, value)))
        row = 63 if math.isnan(scale) else sum(t < scale for t in thresholds.tolist())
        assert (int(symbols[n, c, i, j]), int(indexes[n, c, i, j])) == (symbol, row)
    assert bad.tolist() == [count] and count >= 5


def test_quantize_index_does_not_fuse() -> None:
    """(1 + e)(1 - e) is 1 - e², which rounds to 1 alone and to -e² when fused with minus 1; times
    2**30 the difference is whole symbols.
    """
    e = 2.0**-13
    latent = torch.full((1, 1, 3, 7), (1 + e) * 2.0**30)
    gain, mean = torch.tensor([1 - e]), torch.full((1, 1, 3, 7), 2.0**30)
    symbols, _, bad = REGISTERED["quantize_index"](latent, mean, gain, None, None)
    assert symbols.unique().tolist() == [0] and bad.tolist() == [0]


def test_images_there_and_back() -> None:
    image = torch.randint(0, 256, (2, 13, 21, 3), dtype=torch.uint8)
    for dtype in (torch.float32, torch.float64):
        for edge in (False, True):
            planes = REGISTERED["image_in"](image, 3, 2, 24, 32, edge, 8, 0.5, dtype, True)
            assert planes.shape == (2, 192, 3, 4)
            back = REGISTERED["image_out"](planes, 3, 2, 13, 21, 8, 0.5)
            assert torch.equal(back, image)
            whole = REGISTERED["image_out"](planes, 0, 0, 24, 32, 8, 0.5)
            corner = image[:, :1, :1] if edge else torch.zeros(2, 1, 1, 3, dtype=torch.uint8)
            assert torch.equal(whole[:, :3, :2], corner.expand(2, 3, 2, 3))


def test_image_in_is_what_the_torch_backend_computes() -> None:
    image = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 8, 32, 3)
    planes = REGISTERED["image_in"](image, 0, 0, 8, 32, True, 8, 0.5, torch.float32, True)
    patches = image[0].view(1, 8, 4, 8, 3).permute(0, 2, 4, 1, 3).reshape(1, 1, 4, 192)
    patches = patches.to(torch.float32).div_(255.0).sub_(0.5).permute(0, 3, 1, 2)
    assert torch.equal(planes, patches)


@pytest.mark.parametrize("op", [op for op in OPS if op not in (*EXACT,)])
def test_not_a_number_stays_visible(op: str) -> None:
    """A ReLU must not turn it into a zero: what is behind could no longer refuse it."""
    given = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments(Case(op))]
    given[0][0, 0, 3, 3] = math.nan
    assert bool(REGISTERED[op](*given).isnan().any())


# -- registration ----------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("shape", ["odd", "tiny", "empty"])
def test_is_a_sound_library_op(op: str, shape: str, layout: str) -> None:
    """Schema, fake implementation and autograd registration, by PyTorch's own checks."""
    given = arguments(Case(op, shape, layout, channels=4))
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(
        getattr(torch.ops.icmh_rt, op).default, (*given, "reference"), test_utils=checks
    )


@pytest.mark.parametrize("op", [op for op in OPS if op not in EXACT])
def test_gradients(op: str) -> None:
    given = [wide(a) for a in arguments(Case(op, shape="even", channels=2))]
    place = [i for i, a in enumerate(given) if isinstance(a, torch.Tensor)]
    given = [
        a[:1, :, :3, :2].detach().requires_grad_()
        if isinstance(a, torch.Tensor) and a.dim() == 4 and a.shape[-2:] == (8, 16)
        else a.detach().requires_grad_()
        if i in place
        else a
        for i, a in enumerate(given)
    ]
    assert torch.autograd.gradcheck(REGISTERED[op], given)


@pytest.mark.parametrize("op", OPS)
def test_compiles_without_a_graph_break(op: str) -> None:
    given = arguments(Case(op, channels=4))
    call = REGISTERED[op]
    torch.compiler.reset()
    compiled = torch.compile(lambda *a: call(*a), fullgraph=True, backend="aot_eager")
    found, expected = compiled(*given), call(*given)
    for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (found, expected)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("op", OPS)
def test_exports(op: str) -> None:
    given = arguments(Case(op, channels=4))
    tensors = tuple(a for a in given if isinstance(a, torch.Tensor))

    class Module(torch.nn.Module):
        def forward(self, *maps: torch.Tensor) -> torch.Tensor:
            rest = iter(maps)
            return REGISTERED[op](
                *(next(rest) if isinstance(a, torch.Tensor) else a for a in given)
            )

    height, width = torch.export.Dim("height", min=2), torch.export.Dim("width", min=2)
    maps = [t.dim() == 4 and t.shape[0] == 2 for t in tensors]  # weights have more or fewer rows
    sides = {1: height, 2: width} if op == "image_in" else {2: height, 3: width}
    dynamic = tuple(sides if is_map else None for is_map in maps)
    program = torch.export.export(Module(), tensors, dynamic_shapes=(dynamic,))
    assert any(f"icmh_rt.{op}" in str(node.target) for node in program.graph.nodes)
    for height, width in [(7, 9)] if op.startswith("image") else [(7, 9), (5, 4)]:
        cut = [
            t[:, :, :height, :width].contiguous() if is_map and op != "image_in" else t
            for t, is_map in zip(tensors, maps, strict=True)
        ]
        found, expected = program.module()(*cut), Module()(*cut)
        first = (found[0], expected[0]) if isinstance(found, tuple | list) else (found, expected)
        assert torch.equal(*first)


# -- the choice ------------------------------------------------------------------------------------


def test_forcing_an_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    op, given = REGISTERED["gdn"], arguments(Case("gdn"))
    assert op.chosen(*given, implementation="reference") == "reference"
    with pytest.raises(OptionError, match="implementation is 'fast': use auto, reference, triton"):
        op(*given, implementation="fast")
    monkeypatch.setenv("ICMH_KERNELS", "slow")
    with pytest.raises(OptionError, match="ICMH_KERNELS is 'slow'"):
        op(*given)
    monkeypatch.setenv("ICMH_KERNELS", "triton")
    with pytest.raises(BackendUnavailableError, match="the triton kernel of gdn cannot run: "):
        op(*given)
    assert op.chosen(*given, implementation="reference") == "reference"


@pytest.mark.parametrize("op", OPS)
def test_every_obstacle_says_why(op: str) -> None:
    for name, obstacle in REGISTERED[op].obstacles(*arguments(Case(op))).items():
        assert obstacle is None or (len(obstacle) > 8 and "\n" not in obstacle), (name, obstacle)


def test_needs_no_triton() -> None:
    """A Jetson has none: all modules import, and say why their Triton kernels cannot run."""
    program = """
import sys
sys.modules["triton"] = None
import torch
import icmh_rt.kernels.depth_conv_block, icmh_rt.kernels.frequency_gate, icmh_rt.kernels.images
import icmh_rt.kernels.projections, icmh_rt.kernels.quantize_index
import icmh_rt.kernels.spatial_modulation
from icmh_rt.kernels.gdn import gdn
given = torch.ones(1, 2, 3, 4), torch.ones(2), torch.ones(2, 2), False
print(gdn(*given, implementation="reference").sum().item() > 0, gdn.obstacles(*given)["triton"])
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.startswith("True Triton cannot be imported ("), found.stderr


def test_the_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = torch.ones(10)
    found = expected.clone()
    found[3] += 1e-3
    assert relative_error(found, expected) == pytest.approx(1e-3 / math.sqrt(10), rel=1e-3)
    assert relative_error(torch.ones(2), torch.zeros(2)) > 1
    op = REGISTERED["gdn"]
    wrong = Implementation(lambda *a: op.reference(*a) * 1.0001, lambda *a: None)
    monkeypatch.setitem(op._twins, "cpu", wrong)
    with pytest.raises(AssertionError, match="relative error"):
        check(Case("gdn"), "cpu")
