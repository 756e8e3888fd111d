"""The published slimmable codecs: recorded outputs, and widths that are nothing but prefixes."""

from __future__ import annotations

import copy
import threading

import pytest

torch = pytest.importorskip("torch")
from codec_cases import below, load_golden, relative_error, scramble  # noqa: E402
from torch import nn  # noqa: E402

from icmh_rt.errors import OptionError  # noqa: E402
from icmh_rt.models.gdn import SwitchableGDN  # noqa: E402
from icmh_rt.models.slimmable_published import (  # noqa: E402
    SlimmableConv2d,
    SlimmableConvTranspose2d,
    SlimmableFactorized,
    SlimmableHyper,
    Widths,
)

FAMILIES = (SlimmableFactorized, SlimmableHyper)
FILES = {SlimmableFactorized: "slimmable_factorized", SlimmableHyper: "slimmable_hyper"}


def _model(family, n=10, widths=(0.5, 1.0), seed=0):
    return scramble(family(n, widths), seed).eval().requires_grad_(False)


def _image(seed=0, size=(64, 128)):
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def _flat(out):
    rest = {key: value for key, value in out.items() if key != "likelihoods"}
    return {**rest, **{f"likelihood_{k}": v for k, v in out["likelihoods"].items()}}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("width", [0.67, 1])
@torch.no_grad()
def test_golden_tensors(family, width):
    golden = load_golden(FILES[family])
    expected = below(golden, f"w{width:g}.")
    model = family(24).eval()
    model.load_state_dict(below(golden, "state."), strict=True)
    y = model.g_a(golden["x"], width=width)
    assert relative_error(y, expected.pop("y")) < 1e-4
    # On with the recorded latent: another processor may round one near a half the other way.
    recorded = golden[f"w{width:g}.y"]
    model.g_a.register_forward_hook(lambda *_: recorded)
    found = _flat(model(golden["x"], width=width))
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        assert relative_error(found[key], tensor) < 1e-4, key


@pytest.mark.parametrize("family", FAMILIES)
def test_published_names(family):
    golden = below(load_golden(FILES[family]), "state.")
    ours = family(24).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in golden.items()}


# -- widths are prefixes ---------------------------------------------------------------------------


def _plain(layer: nn.Module, index: int) -> nn.Module:
    """An ordinary layer with the weights that ``layer`` has at a width: the slow twin."""
    if isinstance(layer, SwitchableGDN):
        return copy.deepcopy(layer.bn[index])
    if isinstance(layer, SlimmableConv2d):
        used_in, used_out = layer.used[index]
        plain = nn.Conv2d(
            used_in, used_out, layer.kernel_size, layer.stride, layer.padding,
            bias=layer.bias is not None,
        )  # fmt: skip
    elif isinstance(layer, SlimmableConvTranspose2d):
        used_in = used_out = layer.used[index]
        plain = nn.ConvTranspose2d(
            used_in, used_out, layer.kernel_size, layer.stride, layer.padding,
            layer.output_padding, bias=layer.bias is not None,
        )  # fmt: skip
    else:
        return copy.deepcopy(layer)
    # Equally many inputs as outputs in transposed convolutions, so the order of axes is no matter.
    plain.weight.data = layer.weight.data[:used_out, :used_in].clone()
    if layer.bias is not None:
        plain.bias.data = layer.bias.data[:used_out].clone()
    return plain


@pytest.mark.parametrize("index", [0, 1, 2])
@torch.no_grad()
def test_transforms_equal_plain_networks_of_the_first_channels(index):
    width = (0.3, 0.55, 1.0)[index]
    model = _model(SlimmableHyper, 10, (0.3, 0.55, 1.0), seed=1)
    x = _image(2)
    for name in ("g_a", "h_a", "h_s"):
        transform = getattr(model, name)
        plain = nn.Sequential(*(_plain(layer, index) for layer in transform))
        expected = plain(x.abs() if name == "h_a" else x)
        found = transform(x, width=width)
        assert found.shape[1] == model.channels_at(width) == int(10 * width)
        assert relative_error(found, expected) < 1e-6
        x = found


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_nothing_beyond_a_width_is_touched(family):
    model = _model(family)
    before = _flat(model(_image(), width=0.5))
    for name, parameter in model.named_parameters():
        if name.startswith(("g_s.", "entropy_bottleneck.")) or ".bn.1." in name:
            parameter.fill_(float("nan"))
        elif name.startswith(("g_a.", "h_a.", "h_s.")) and ".bn." not in name:
            parameter[5:] = float("nan")
            if parameter.ndim == 4 and parameter.shape[1] == 10:
                parameter[:, 5:] = float("nan")
    after = _flat(model(_image(), width=0.5))
    for key, tensor in before.items():
        assert torch.equal(tensor, after[key]), key
    full = model(_image(), width=1)
    assert torch.isnan(full["y_hat"]).any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n", [7, 24, 192])
def test_channels_of_other_sizes(family, n):
    with torch.device("meta"):
        model = family(n)
        assert model.channels_at(0.67) == int(n * 0.67)
        out = model(torch.zeros(2, 3, 64, 64), width=0.67)
        assert out["fea"].shape == (2, 256, 8, 8)
        assert out["y_hat"].shape == (2, int(n * 0.67), 4, 4)
        assert model(torch.zeros(2, 3, 64, 64))["x_hat"].shape == (2, 3, 64, 64)


@pytest.mark.parametrize(("family", "count"), [(FAMILIES[0], 8_161_923), (FAMILIES[1], 12_512_835)])
def test_full_size_has_the_published_number_of_parameters(family, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in family().parameters()) == count


# -- what goes where -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_each_width_has_its_own_bottleneck_and_decoder(family):
    model = _model(family, 12, (0.25, 0.5, 1.0))
    assert model.feature_widths == (0.25, 0.5)
    for width, bottleneck, decoder in (
        (0.25, "entropy_bottleneck_fea", "latent_transform"),
        (0.5, "entropy_bottleneck_fea1", "latent_transform1"),
        (1.0, "entropy_bottleneck", "g_s"),
    ):
        assert model.bottleneck(width) is model.get_submodule(bottleneck)
        out = model(_image(), width=width)
        assert list(out) == ["y_hat", "x_hat" if width == 1 else "fea", "likelihoods"]
        y_hat = out["y_hat"]
        assert y_hat.shape == (1, int(12 * width), 4, 8)
        if width == 1:
            assert torch.equal(out["x_hat"], model.g_s(y_hat, width=width))
        else:
            assert torch.equal(out["fea"], model.feature(y_hat, width=width))
            assert torch.equal(out["fea"], model.get_submodule(decoder)(y_hat))
            assert out["fea"].shape == (1, 256, 8, 16)


@torch.no_grad()
def test_factorized_symbols_are_offset_by_the_medians():
    model = _model(SlimmableFactorized)
    for width in (0.5, 1.0):
        y, medians = model.g_a(_image(), width), model.bottleneck(width).quantiles[:, 0, 1]
        medians = medians[:, None, None]
        assert medians.abs().max() > 0.1
        expected = torch.round(y - medians) + medians
        assert torch.equal(model(_image(), width=width)["y_hat"], expected)


@torch.no_grad()
def test_hyper_rounds_y_and_offsets_z_by_the_medians():
    model = _model(SlimmableHyper)
    for width in (0.5, 1.0):
        y, bottleneck = model.g_a(_image(), width), model.bottleneck(width)
        z, medians = model.h_a(y, width), bottleneck.quantiles[:, 0, 1][:, None, None]
        assert torch.equal(z, model.h_a(y.abs(), width))
        z_hat = torch.round(z - medians) + medians
        scales, means = model.scales_and_means(model.h_s(z_hat, width))
        assert means is None
        assert (scales < 0).any()  # the bound takes care of them
        out = model(_image(), width=width)
        assert torch.equal(out["y_hat"], torch.round(y))
        expected = model.gaussian_conditional(y, scales.clamp(min=0.11))[1]
        assert torch.equal(out["likelihoods"]["y"], expected)
        assert torch.equal(out["likelihoods"]["z"], bottleneck(z)[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_training_mode_adds_noise_and_moves_only_the_width(family):
    model = scramble(family(10, (0.5, 1.0)), 3).train()
    torch.manual_seed(0)
    y = model.g_a(_image(), 0.5)
    out = model(_image(), width=0.5)
    difference = out["y_hat"] - y
    assert 0.4 < difference.abs().max() <= 0.5001
    loss = out["fea"].square().mean()
    for likelihood in out["likelihoods"].values():
        loss = loss - likelihood.log().mean()
    loss.backward()
    weight = model.g_a[2].weight
    assert weight.grad[:5, :5].abs().sum() > 0
    assert weight.grad[5:].abs().sum() == weight.grad[:, 5:].abs().sum() == 0
    assert model.g_a[1].bn[0].gamma.grad is not None and model.g_a[1].bn[1].gamma.grad is None
    assert all(p.grad is None for p in model.g_s.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_auxiliary_loss_is_of_all_bottlenecks(family):
    model = scramble(family(12, (0.25, 0.5, 1.0)), 0)
    loss = model.aux_loss()
    expected = sum(model.bottleneck(width).loss() for width in (0.25, 0.5, 1.0))
    assert torch.allclose(loss, expected)
    loss.backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    suffixes = ("", "_fea", "_fea1")
    assert moved == {f"entropy_bottleneck{suffix}.quantiles" for suffix in suffixes}


# -- threads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_two_threads_at_two_widths(family):
    """The published code keeps the width in the modules; here it must not leak between calls."""
    model, x = _model(family, seed=4), _image(4, (64, 64))
    expected = {width: _flat(model(x, width=width)) for width in (0.5, 1.0)}
    barrier = threading.Barrier(2)
    failures: list[str] = []

    def work(width: float) -> None:
        try:
            with torch.no_grad():
                for _ in range(20):
                    barrier.wait(timeout=60)
                    found = _flat(model(x, width=width))
                    for key, tensor in expected[width].items():
                        if relative_error(found[key], tensor) > 1e-5:
                            failures.append(f"{width} {key}")
        except Exception as error:
            failures.append(repr(error))
            barrier.abort()

    threads = [threading.Thread(target=work, args=(width,)) for width in (0.5, 1.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_calls_leave_no_trace_in_the_modules():
    model = _model(SlimmableHyper)

    def attributes():
        return {
            name: {k: repr(v) for k, v in vars(module).items() if not k.startswith("_")}
            for name, module in model.named_modules()
        }

    before = attributes()
    model(_image(), width=0.5)
    assert attributes() == before


# -- errors ----------------------------------------------------------------------------------------


def test_a_width_is_known_by_its_channels():
    widths = Widths(192, (0.67, 1))
    assert widths.channels == (128, 192)
    for width in (0.67, 0.67 + 1e-9, 128 / 192 + 1e-9, 0.669):
        assert widths.index(width) == 0
    assert widths.index(1) == widths.index(1.0) == 1
    assert Widths(24, (0.67, 1)).index(0.68) == 0  # 16 of 24 channels, as at 0.67


@pytest.mark.parametrize("width", [0, -0.67, 0.5, 1.01, 2, True, None, "1", float("nan")])
def test_unknown_widths(width):
    model = _model(SlimmableHyper, 24, (0.67, 1.0))
    for call in (model.g_a, model.h_a, model.h_s, model.g_s, model.feature, model):
        with pytest.raises(OptionError, match="is not one of this model's"):
            call(torch.zeros(1, 3, 64, 64), width=width)


@pytest.mark.parametrize(
    ("n", "widths"),
    [
        (24, ()),
        (24, (0.5,)),
        (24, (1.0, 0.5)),
        (24, (0.5, 0.5, 1.0)),
        (24, (0.5, 0.51, 1.0)),
        (24, (0.01, 1.0)),
        (24, (-0.5, 1.0)),
        (24, (0.5, 1.5)),
        (0, (0.5, 1.0)),
    ],
)
def test_impossible_widths(n, widths):
    with pytest.raises(OptionError, match="widths"):
        SlimmableFactorized(n, widths)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_width_does_not_have(family):
    model = family(12, (0.25, 0.5, 1.0), feature_widths=(0.25,))
    keys = set(model.state_dict())
    assert not any("fea1" in key or "transform1" in key for key in keys)
    with pytest.raises(OptionError, match="no image decoder"):
        model.g_s(torch.zeros(1, 3, 4, 4), width=0.25)
    with pytest.raises(OptionError, match="no feature transform"):
        model.feature(torch.zeros(1, 12, 4, 4), width=1.0)
    assert model.g_a(torch.zeros(1, 3, 64, 64), width=0.5).shape[1] == 6
    for call in (model, model.feature):
        with pytest.raises(OptionError, match="no bottleneck and decoder"):
            call(torch.zeros(1, 3, 64, 64), width=0.5)


def test_one_width_gives_images_or_features():
    image = SlimmableFactorized(6, (1.0,))
    assert "x_hat" in image(torch.zeros(1, 3, 64, 64))
    feature = SlimmableFactorized(6, (1.0,), feature_widths=(1.0,))
    assert "fea" in feature(torch.zeros(1, 3, 64, 64))
