"""Work of converted checkpoints: against a count by hand, torch's counter, and their tensors."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the torch extra is not installed")
import published_models
import torch
from torch.utils.flop_counter import FlopCounterMode

from icmh_rt.convert import bundle_of
from icmh_rt.profiling import costs
from icmh_rt.profiling.costs import PARTS


def bundle(family, task=None):
    model = published_models.make(family)
    return model, bundle_of(model, name="test", task=task)


def test_by_hand():
    """bmshj2018's transforms and mbt2018's hyper-transforms at N = 8, M = 12."""
    found = costs.costs(bundle("mbt2018-mean")[1], 1.0, "human")
    n, m = 8, 12
    macs = {
        "g_a": (75 * n + n * n) / 4 + 26 * n * n / 16 + 26 * n * n / 64 + 25 * n * m / 256,
        "h_a": 9 * m * n / 256 + 25 * n * n / 1024 + 25 * n * n / 4096,
        # Of a transposed convolution every input is multiplied by every weight.
        "h_s": 25 * n * m / 4096 + 25 * m * 18 / 1024 + 9 * 18 * 24 / 256,
        "g_s": 25 * m * n / 256 + 26 * n * n / 64 + 26 * n * n / 16 + (n * n + 75 * n) / 4,
        "adapters_g_a": 0,
        "adapters_g_s": 0,
    }
    assert found["macs_per_pixel"] == pytest.approx(macs)
    # Pixels in; each of seven layers writes, and the next one reads it.
    maps = 4 * n / 4 + 4 * n / 16 + 4 * n / 64 + m / 256
    assert found["bytes_per_pixel"]["g_a"] == pytest.approx(4 * (3 + maps))
    assert found["parameters"]["h_a"] == 9 * m * n + n + 2 * (25 * n * n + n)
    assert found["decode_macs_per_pixel"] == pytest.approx(macs["h_s"] + macs["g_s"])


# Without adapters, which do half a spectrum where the counter sees more.
@pytest.mark.parametrize("family", sorted({*published_models.FAMILIES} - {"tic-sfma"}))
def test_as_torch_counts_it(family):
    model, made = bundle(family)
    side = made.padding.multiple
    for width, part in made.widths.items():
        arguments = (width,) if family in published_models.SLIMMABLE else ()
        x, found = torch.zeros(1, 3, side, side), costs.costs(made, width, "human")
        outputs = {"": x}
        order = [("g_a", "g_a", "")]
        if part.synthesis is not None:
            order += [("h_a", "h_a", "g_a"), ("h_s", "h_s", "h_a")]
        order.append(("g_s", "g_s" if part.output == "image" else "feature", "g_a"))
        for name, transform, source in order:
            with FlopCounterMode(display=False) as counter:
                outputs[name] = getattr(model, transform)(outputs[source], *arguments)
            counted = counter.get_total_flops() / 2 / side**2
            assert found["macs_per_pixel"][name] == pytest.approx(counted), (width, name)


@pytest.mark.parametrize("family", published_models.FAMILIES)
def test_no_parameter_is_left_out(family):
    """At full width, where nothing but the entropy models and narrow widths is unused."""
    model, made = bundle(family)
    found = costs.costs(made, 1.0, "human")["parameters"]
    unused = ("entropy_bottleneck", "gaussian_conditional", "latent_transform")
    total = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not name.startswith(unused) and ".bn.0." not in name
    )
    assert sum(found[part] for part in PARTS) == total


def test_adapters_of_a_task_alone():
    made = bundle("tic-sfma", task="detection")[1]
    base, adapted = (costs.costs(made, 1.0, task) for task in ("human", "detection"))
    assert base["macs_per_pixel"]["adapters_g_a"] == base["parameters"]["adapters_g_s"] == 0
    outer, middle = 16, 64
    one = 5 * outer * middle + 25 * middle + (9 * middle + middle**2) / 2
    expected = pytest.approx(one / 4 + one / 16 + one / 64)
    for part in ("adapters_g_a", "adapters_g_s"):
        assert adapted["macs_per_pixel"][part] == expected
    for part in ("g_a", "h_a", "h_s", "g_s"):
        assert adapted["macs_per_pixel"][part] == base["macs_per_pixel"][part] > 0


def test_without_torch_there_are_none(monkeypatch):
    monkeypatch.setattr(costs.importlib.util, "find_spec", lambda name: None)
    assert costs.costs(bundle("tic")[1], 1.0, "human") is None
