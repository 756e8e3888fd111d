"""TIC: the published tensors, names and sizes; the fast form equals the plain one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from icmh_rt.errors import OptionError  # noqa: E402
from icmh_rt.kernels._parallel import for_each  # noqa: E402
from icmh_rt.models import swin  # noqa: E402
from icmh_rt.models.swin import ResidualSwin, window_order  # noqa: E402
from icmh_rt.models.tic import TIC, round_straight_through  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden"


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    tensors = {}
    for name in ("tic_encoder", "tic_decoder"):
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            tensors |= {key: torch.from_numpy(arrays[key]) for key in arrays}
    return tensors


@pytest.fixture(scope="module")
def state(golden) -> dict[str, torch.Tensor]:
    return {key[6:]: value for key, value in golden.items() if key.startswith("state.")}


@pytest.fixture(scope="module")
def model(state) -> TIC:
    model = TIC(32, 48, adapters=True).eval()
    model.load_state_dict(state, strict=True)
    return model


@pytest.fixture(params=["differentiable", "inference"])
def grad_mode(request):
    with torch.set_grad_enabled(request.param == "differentiable"):
        yield request.param


def test_golden_transforms(grad_mode, model, golden) -> None:
    assert relative(model.g_a(golden["x0"]), golden["y0"]) <= 1e-5
    for i in "01":
        assert relative(model.h_a(golden[f"y{i}"]), golden[f"z{i}"]) <= 1e-5
        z_hat, z_likelihood = model.entropy_bottleneck(golden[f"z{i}"])
        assert relative(z_hat, golden[f"z_hat{i}"]) <= 1e-5
        assert relative(z_likelihood, golden[f"z_likelihood{i}"]) <= 1e-5
        params = model.h_s(golden[f"z_hat{i}"])
        assert relative(params, golden[f"gaussian_params{i}"]) <= 1e-5
        scales, means = params.chunk(2, 1)
        _, y_likelihood = model.gaussian_conditional(golden[f"y{i}"], scales, means)
        assert relative(y_likelihood, golden[f"y_likelihood{i}"]) <= 1e-5
    scales, means = golden["gaussian_params0"].chunk(2, 1)
    y_hat = model.gaussian_conditional.quantize(golden["y0"], "dequantize", means)
    assert relative(model.g_s(y_hat), golden["x_hat0"]) <= 1e-5


def test_golden_forward(grad_mode, model, golden) -> None:
    out = model(golden["x0"])
    assert set(out) == {"x_hat", "likelihoods", "attn_a", "attn_s"}
    assert relative(out["x_hat"], golden["x_hat0"]) <= 1e-4
    assert relative(out["likelihoods"]["y"], golden["y_likelihood0"]) <= 1e-4
    assert relative(out["likelihoods"]["z"], golden["z_likelihood0"]) <= 1e-4
    assert [len(blocks) for blocks in out["attn_a"]] == [2, 4, 6, 2]
    assert [len(blocks) for blocks in out["attn_s"]] == [2, 6, 4, 2]


def test_names_are_the_published_ones(model, state) -> None:
    assert set(model.state_dict()) == set(state)
    fresh = TIC(32, 48, adapters=True).state_dict()
    for key, value in fresh.items():
        if key.endswith("relative_position_index"):
            assert torch.equal(value, state[key]), key
    assert fresh["encoder_sfmas.0.s_down1.weight"].shape == (64, 32, 1, 1)


def test_the_base_codec_lacks_only_the_adapters(model, state) -> None:
    base = {key: value for key, value in state.items() if "_sfmas." not in key}
    codec = TIC(32, 48).eval()
    assert not codec.has_adapters
    codec.load_state_dict(base, strict=True)
    adapted = TIC(32, 48, adapters={"factor": 0}).eval()
    missing = adapted.load_state_dict(base, strict=False)
    assert not missing.unexpected_keys
    assert all("_sfmas." in key for key in missing.missing_keys)
    x = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        assert torch.equal(codec.g_a(x), adapted.g_a(x))
        assert not torch.allclose(codec.g_a(x), model.g_a(x))


def test_sizes() -> None:
    codec = TIC(adapters=True)
    adapters = sum(p.numel() for name, p in codec.named_parameters() if "_sfmas." in name)
    assert adapters == 287_232
    assert sum(p.numel() for p in codec.parameters()) - adapters == 7_510_723
    assert (codec.stride, codec.latent_stride) == (256, 16)
    assert (codec.latent_channels, codec.hyper_channels) == (192, 128)
    small = TIC(32, 48, adapters=16)
    assert small.decoder_sfmas[2].f_down.out_channels == 16


def test_a_size_that_does_not_divide_is_said(grad_mode, model) -> None:
    with pytest.raises(OptionError, match="72 x 60 do not divide into windows of 8"):
        model.g_a1(torch.zeros(1, 32, 72, 60))
    with pytest.raises(OptionError, match="multiple"):
        TIC(40, 48)


@pytest.mark.parametrize("window,depth,shifted", [(8, 3, True), (4, 2, True), (4, 2, False)])
@pytest.mark.parametrize("size", [(1, 8, 8), (2, 16, 24), (1, 8, 40)])
@pytest.mark.parametrize("tile", [1, 192, 2048])
def test_tiles_equal_the_plain_form(monkeypatch, window, depth, shifted, size, tile) -> None:
    torch.manual_seed(7)
    monkeypatch.setattr(swin, "TILE_TOKENS", tile)
    blocks = ResidualSwin(24, depth, 3, window, shifted).eval()
    n, height, width = size
    x = torch.randn(n, 24, height, width)
    before = x.clone()
    plain = blocks(x).detach()
    for layout in (torch.contiguous_format, torch.channels_last):
        with torch.no_grad():
            assert relative(blocks(x.contiguous(memory_format=layout)), plain) <= 1e-5
    assert torch.equal(x, before)
    with torch.inference_mode():
        assert relative(blocks(x), plain) <= 1e-5


def test_large_scores_do_not_overflow() -> None:
    torch.manual_seed(8)
    blocks = ResidualSwin(24, 2, 3, 8).eval()
    with torch.no_grad():
        for block in blocks.blocks:
            block.attn.qkv.weight.mul_(40)
    x = torch.randn(1, 24, 16, 16)
    plain = blocks(x).detach()
    with torch.no_grad():
        # The scores' own roundings are large: 1.1e-4 with PyTorch 2.10.
        assert relative(blocks(x), plain) <= 3e-4
    assert torch.isfinite(plain).all()


def test_the_whole_model_in_tiles_and_threads(model, monkeypatch) -> None:
    x = torch.rand(2, 3, 128, 256)
    plain = model.g_a(x).detach()
    image = model.g_s(plain).detach()
    monkeypatch.setattr(swin, "TILE_TOKENS", 256)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            with torch.no_grad():
                assert relative(model.g_a(x), plain) <= 1e-5
                assert relative(model.g_s(plain), image) <= 1e-5
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)


def test_new_weights_are_seen_at_once(model, state) -> None:
    """Nothing of an earlier state stays behind, however the weights change."""
    blocks = ResidualSwin(24, 2, 3, 8).eval()
    x = torch.randn(1, 24, 16, 16)
    with torch.no_grad():
        blocks(x)
        blocks.blocks[1].attn.relative_position_bias_table.data.normal_()
        fast = blocks(x)
    assert relative(fast, blocks(x).detach()) <= 1e-5


@pytest.mark.parametrize("shift", [0, 2])
def test_window_order_is_that_of_rolled_windows(shift: int) -> None:
    n, height, width, side = 2, 8, 12, 4
    runs = window_order(n, height, width, side, shift)
    tokens = (2 * runs[:, None] + torch.arange(2)).flatten()
    assert tokens.tolist() == [
        (b * height + (i + y + shift) % height) * width + (j + x + shift) % width
        for b in range(n)
        for i in range(0, height, side)
        for j in range(0, width, side)
        for y in range(side)
        for x in range(side)
    ]


def test_training_skips_branches_and_keeps_gradients() -> None:
    torch.manual_seed(9)
    blocks = ResidualSwin(24, 2, 3, 8, drop_path=[0.0, 0.5]).train()
    x = torch.randn(4, 24, 16, 16, requires_grad=True)
    first, second = blocks(x), blocks(x)
    assert not torch.equal(first, second)
    with torch.no_grad():  # training without gradients still drops
        assert not torch.equal(blocks(x), blocks(x))
    first.sum().backward()
    assert torch.isfinite(x.grad).all()
    blocks.eval()
    assert torch.equal(blocks(x), blocks(x))


def test_straight_through_rounding() -> None:
    x = torch.tensor([0.4, 1.6], requires_grad=True)
    rounded = round_straight_through(x)
    assert rounded.tolist() == [0.0, 2.0]
    rounded.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_gradients_reach_every_parameter_that_the_published_model_trains(model) -> None:
    model.zero_grad()
    out = model(torch.rand(1, 3, 256, 256))
    rate = sum(part.log().sum() for part in out["likelihoods"].values())
    (out["x_hat"].square().mean() - rate + model.aux_loss()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
    model.zero_grad()


@pytest.mark.parametrize("threads", [1, 3])
def test_for_each_runs_all_and_raises_what_failed(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    seen = []

    def work(item: int) -> None:
        assert not torch.is_grad_enabled()
        seen.append(item)
        if item == 5:
            raise OptionError("five")

    try:
        with torch.no_grad():
            for_each(seen.append, range(0))
            with pytest.raises(OptionError, match="five"):
                for_each(work, range(20))
            assert 5 in seen
            if threads > 1:  # alone, the first failure ends it
                assert sorted(seen) == list(range(20))
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_starts_threads_of_its_own() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.no_grad():
            for_each(int, range(4))
        child = os.fork()
        if child == 0:
            done = []
            with torch.no_grad():
                for_each(done.append, range(4))
            os._exit(0 if sorted(done) == [0, 1, 2, 3] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(before)
