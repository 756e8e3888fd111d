"""Work counted from the bundle: against a count by hand, and against torch's own counter."""

from __future__ import annotations

import pytest

from icmh_rt.bundle import load
from icmh_rt.errors import OptionError
from icmh_rt.profiling import costs


def test_width_one_by_hand():
    """C = 256, M = 320, h = 96, Z = 64, three blocks each; from the default bundle's config."""
    found = costs.costs(load("default"), 1.0, "human")
    c, m, h, z = 256, 320, 96, 64
    block_c, block_m = 5 * c * c + 9 * c, 5 * m * m + 9 * m
    macs = {
        "g_a": (192 * c + 3 * block_c) / 64 + (9 * c * m + 3 * block_m) / 256,
        "h_a": m * h / 256 + 9 * h * h / 1024 + 9 * h * z / 4096,
        "h_s": (9 * z * h + 4 * h * h) / 4096
        + (9 * h * h + 4 * h * h) / 1024
        + (9 * h + 2 * h * m) / 256,
        "g_s": 3 * block_m / 256 + 4 * m * c / 256 + (3 * block_c + 192 * c) / 64,
        "adapters_g_a": 0,
        "adapters_g_s": 0,
    }
    assert found["macs_per_pixel"] == pytest.approx(macs)
    assert found["encode_macs_per_pixel"] == pytest.approx(macs["g_a"] + macs["h_a"] + macs["h_s"])
    assert found["decode_macs_per_pixel"] == pytest.approx(macs["h_s"] + macs["g_s"])
    weights = 192 * c + 9 * c * m + 3 * block_c + 3 * block_m
    assert found["parameters"]["g_a"] == weights + c + m + 3 * 6 * c + 3 * 6 * m
    # g_a: pixels in, three blocks read and write C, the stem writes C, down reads C and writes M.
    traffic = 3 + 4 * (c + 3 * 2 * c + c) / 64 + 4 * (m + 3 * 2 * m) / 256
    assert found["bytes_per_pixel"]["g_a"] == pytest.approx(traffic)


@pytest.mark.parametrize("index", range(4))
def test_every_width_as_torch_counts_it(index):
    """torch's counter sees the layers that run, in the form for training: plain convolutions."""
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from icmh_rt.models.slimmable_hyperprior import (
        SlimmableHyperprior,
        SlimmableHyperpriorConfig,
    )

    bundle = load("default")
    width = list(bundle.widths)[index]
    model = SlimmableHyperprior(SlimmableHyperpriorConfig.from_dict(bundle.config))
    side = 128
    found = costs.costs(bundle, width, "human")
    x = torch.zeros(1, 3, side, side)
    for part in ("g_a", "h_a", "h_s", "g_s"):
        with FlopCounterMode(display=False) as counter:
            out = getattr(model, part)(x, index)
        if part == "g_a":
            y = out
        x = {"g_a": out, "h_a": out, "h_s": y}.get(part)
        counted = counter.get_total_flops() / 2 / side**2
        assert found["macs_per_pixel"][part] == pytest.approx(counted), part


@pytest.mark.parametrize("width", [0.25, 1.0])
def test_parameters_are_those_that_a_width_uses(width):
    bundle = load("default")
    found = costs.costs(bundle, width, "human")["parameters"]
    if width == 1.0:
        # At the widest a layer uses all of its weights, and its own one of four rows of biases.
        for part in ("g_a", "h_a", "g_s"):
            names = [name for name in bundle.transforms if name.startswith(f"{part}.")]
            sizes = {name: bundle.transforms[name].size for name in names}
            rows = len(bundle.widths)
            total = sum(n // rows if name.endswith("bias") else n for name, n in sizes.items())
            assert found[part] == total
    network = bundle.widths[width].hyper_synthesis
    assert found["h_s"] == sum(layer.weight.size + layer.bias.size for layer in network.layers)


def test_h_s_is_what_the_integer_network_says():
    bundle = load("default")
    for width in bundle.widths:
        network = bundle.widths[width].hyper_synthesis
        found = costs.costs(bundle, width, "human")["macs_per_pixel"]["h_s"]
        whole = network.multiply_adds(2, 3)
        # mean and scale hang on the same map, so none is run on a larger one.
        assert found * 64 * 64 * 6 == pytest.approx(whole)


def test_adapters_are_counted_where_they_sit(adapted):
    found = costs.costs(adapted, 1.0, "detection")
    base = costs.costs(adapted, 1.0, "human")
    assert found["macs_per_pixel"]["g_a"] == base["macs_per_pixel"]["g_a"]

    def macs(outer, middle):
        return 5 * outer * middle + 25 * middle + (9 * middle + middle**2) / 2

    one = 2 * macs(256, 32) / 64 + macs(320, 32) / 256
    assert found["macs_per_pixel"]["adapters_g_a"] == pytest.approx(one)
    assert found["macs_per_pixel"]["adapters_g_s"] == pytest.approx(one)
    arrays = adapted.adapters["detection"].arrays
    for part, prefix in (("adapters_g_a", "encoder"), ("adapters_g_s", "decoder")):
        total = sum(array.size for name, array in arrays.items() if name.startswith(prefix))
        assert found["parameters"][part] == total
    narrow = costs.costs(adapted, 0.25, "detection")["macs_per_pixel"]["adapters_g_a"]
    assert narrow == pytest.approx(2 * macs(64, 8) / 64 + macs(192, 20) / 256)


def test_what_the_bundle_does_not_have():
    with pytest.raises(OptionError, match=r"width 0\.3"):
        costs.costs(load("default"), 0.3, "human")
    with pytest.raises(OptionError, match="task"):
        costs.costs(load("default"), 1.0, "dreams")
