"""What inference keeps of weights follows every change of them."""

from __future__ import annotations

import copy
import gc
import io

import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
from torch import nn  # noqa: E402

from icmh_rt.models import slimmable  # noqa: E402
from icmh_rt.models.kept_weights import KeptWeights  # noqa: E402
from icmh_rt.models.slimmable import DepthConvBlock  # noqa: E402


def block(seed: int = 0) -> DepthConvBlock:
    torch.manual_seed(seed)
    made = DepthConvBlock([32, 48])
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made.requires_grad_(False)


def inference(made: DepthConvBlock, x: torch.Tensor, width: int = 1) -> torch.Tensor:
    with torch.inference_mode():
        return made(x, width)


def plain(made: DepthConvBlock, x: torch.Tensor, width: int = 1) -> torch.Tensor:
    with torch.enable_grad():  # the form that keeps nothing
        return made(x, width).detach()


def picture(channels: int = 48) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(1, channels, 9, 11, generator=rng)
    return x.contiguous(memory_format=torch.channels_last)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max())


@pytest.mark.parametrize("name", [name for name, _ in block().named_parameters()])
def test_every_parameters_change_is_noticed(name) -> None:
    made, x = block(), picture()
    before = inference(made, x)
    assert close(before, plain(made, x))
    made.get_parameter(name).mul_(1.5)
    after = inference(made, x)
    assert close(after, plain(made, x)) and not torch.equal(before, after)


def test_other_ways_to_change_weights_are_noticed() -> None:
    made, other, x = block(), block(1), picture()
    inference(made, x)
    made.load_state_dict(other.state_dict())
    assert torch.equal(inference(made, x), inference(other, x))
    made.mix_in.weight.data = made.mix_in.weight.data.clone() * 2
    assert close(inference(made, x), plain(made, x))
    made.mix_out = block(2).mix_out
    assert close(inference(made, x), plain(made, x))
    with torch.inference_mode():
        made.ffn_out.weight.add_(0.1)
    assert close(inference(made, x), plain(made, x))


def test_weights_of_inference_mode_are_not_kept() -> None:
    x = picture()
    with torch.inference_mode():
        made = block()
        made(x, 1)
        made.ffn_out.weight.mul_(2.0)
        assert close(made(x, 1), plain(made, x))


def test_widths_are_kept_apart() -> None:
    made = block()
    for width, channels in ((1, 48), (0, 32), (1, 48)):
        x = picture(channels)
        assert close(inference(made, x, width), plain(made, x, width))


def test_weights_are_packed_once(monkeypatch) -> None:
    made, x = block(), picture()
    packed = []

    class Counted(slimmable.PackedDepthConv):
        def __init__(self, *arguments, **options) -> None:
            packed.append(1)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(slimmable, "PackedDepthConv", Counted)
    results = [inference(made, x) for _ in range(3)]
    assert all(torch.equal(results[0], r) for r in results)
    from icmh_rt.kernels.depth_conv_block import depth_conv_block

    on_cpu = depth_conv_block.chosen(x, *made._weights(1)) == "cpu"
    assert len(packed) == (1 if on_cpu else 0)


def test_modules_carry_nothing() -> None:
    made, x = block(), picture()
    state = set(made.__dict__)
    inference(made, x)
    assert set(made.__dict__) == state
    again = copy.deepcopy(made)
    again.mix_in.weight.mul_(3.0)
    assert close(inference(again, x), plain(again, x))
    assert close(inference(made, x), plain(made, x))
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    assert file.tell() < 8 * sum(p.numel() for p in made.parameters()) + 20_000


def test_what_is_kept_goes_with_its_module() -> None:
    kept: KeptWeights[object] = KeptWeights()
    module = nn.Linear(2, 2)
    kept.get(module, 0, (module.weight,), object)
    assert len(kept._kept) == 1
    del module
    gc.collect()
    assert len(kept._kept) == 0
