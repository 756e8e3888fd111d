"""The spatial-frequency modulation adapter.

Li et al., "Image compression for machine and human vision with spatial-frequency adaptation"
(ECCV 2024): a small residual branch beside a frozen codec's features. The mathematics, and how it
is computed, is in `icmh_rt.kernels.sfma`; here are its parameters.
"""

from __future__ import annotations

from torch import Tensor, nn

from icmh_rt.kernels.sfma import LAYERS, sfma


class SFMA(nn.Module):
    """The adapter; its parameters carry the published names.

    Args:
        in_channels: C of the features.
        middle: channels of both branches.
        factor: weight of the adapter's output; 0 leaves the features as they are.
    """

    def __init__(self, in_channels: int = 128, middle: int = 64, factor: float = 1) -> None:
        super().__init__()
        self.factor = factor
        self.s_down1 = nn.Conv2d(in_channels, middle, 1)
        self.s_down2 = nn.Conv2d(in_channels, middle, 1)
        self.s_dw = nn.Conv2d(middle, middle, 5, padding=2, groups=middle)
        self.s_up = nn.Conv2d(middle, in_channels, 1)
        self.f_down = nn.Conv2d(in_channels, middle, 1)
        self.f_up = nn.Conv2d(middle, in_channels, 1)
        self.f_dw = nn.Conv2d(middle, middle, 3, padding=1, groups=middle)
        self.f_inter = nn.Conv2d(middle, middle, 1)

    def forward(self, x: Tensor, implementation: str | None = None) -> Tensor:
        """(N, C, H, W) of any size -> the same, in the memory format of ``x``.

        ``implementation``: see `icmh_rt.kernels`.
        """
        if self.factor == 0:
            return x
        return sfma(x, *self.tensors(), float(self.factor), implementation=implementation)

    def tensors(self) -> list[Tensor]:
        """Weights and biases in the order of the op's arguments."""
        layers = [getattr(self, name) for name in LAYERS]
        return [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
