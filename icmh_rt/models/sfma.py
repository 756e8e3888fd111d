"""The spatial-frequency modulation adapter.

Li et al., "Image compression for machine and human vision with spatial-frequency adaptation"
(ECCV 2024): a small residual branch beside a frozen codec's features x (N, C, H, W),

    x + factor · (s_up(relu(dw5x5(s_down1 x) · s_down2 x)) + f_up(relu(irfft2(Y'))))
    Y = rfft2(f_down x),  |Y'| = |Y| · gate,  angle Y' = angle Y,
    gate = sigmoid(f_inter(relu(dw3x3 |Y|)))

Scaling an amplitude by a real gate is scaling the complex number by it, Y' = Y · gate: no angle, no
cosine and sine. That also holds where Y = 0 and the angle has no meaning.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icmh_rt.models._parallel import for_each
from icmh_rt.models.swin import runs_in_tiles

_FFT_CHANNELS = 8  # transformed together: two planes of a large image still fit into a cache
_STRIP_TOKENS = 4096  # rows of about so many tokens go through the spatial branch together


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

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """(N, C, H, W) of any size -> the same.

        ``inplace``: the caller needs ``x`` no more; the result may take its memory.
        """
        if self.factor == 0:
            return x
        if runs_in_tiles(x) and x.dtype in (torch.float32, torch.float64):
            return self._in_strips(x, inplace)
        weight, bias = _stacked((self.s_down1, self.s_down2, self.f_down), 0)
        spatial, other, planes = F.conv2d(x, weight, bias).chunk(3, 1)
        spatial = torch.relu(self.s_dw(spatial) * other)
        # The FFT knows no bfloat16; its amplitudes would leave half precision anyway.
        planes = planes if planes.dtype == torch.float64 else planes.float()
        spectrum = torch.fft.rfft2(planes)
        gate = torch.sigmoid(_wide(self.f_inter, torch.relu(_wide(self.f_dw, spectrum.abs()))))
        planes = torch.fft.irfft2(spectrum * gate.to(planes.dtype), s=x.shape[-2:])
        weight, _ = _stacked((self.s_up, self.f_up), 1)
        bias = self.s_up.bias + self.f_up.bias
        modulation = F.conv2d(
            torch.cat((spatial, torch.relu(planes).to(spatial.dtype)), 1), weight, bias
        )
        return x + modulation * self.factor

    def _in_strips(self, x: Tensor, inplace: bool) -> Tensor:
        """The same for inference on a CPU, with few passes over large memory."""
        tokens = x.permute(0, 2, 3, 1).contiguous()
        out = tokens if inplace else torch.empty_like(tokens)
        for image, result in zip(tokens, out, strict=True):
            near, planes = self._down(image)
            self._modulate(planes)
            self._up(image, near, planes, result)
        return out.permute(0, 3, 1, 2)

    def _down(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """s_down1 (H, W, middle) and f_down (middle, H, W), without its bias, of (H, W, C)."""
        height, width, channels = image.shape
        middle = len(self.f_down.bias)
        tokens = image.view(-1, channels)
        weight, _ = _stacked((self.s_down1, self.f_down), 0)
        weight = weight[:, :, 0, 0].t()
        near = image.new_empty(height * width, middle)
        planes = image.new_empty(middle, height * width)

        def run(part: slice) -> None:
            both = torch.mm(tokens[part], weight)
            torch.add(both[:, :middle], self.s_down1.bias, out=near[part])
            planes[:, part] = both[:, middle:].t()

        for_each(run, _parts(height * width, _STRIP_TOKENS))
        return near.view(height, width, middle), planes.view(middle, height, width)

    def _modulate(self, planes: Tensor) -> None:
        """The frequency branch between its two 1x1 convolutions, in place."""
        middle, height, width = planes.shape
        features = planes.new_empty(middle, height, width // 2 + 1)
        groups = _parts(middle, _FFT_CHANNELS)
        spectra = {}

        def analyse(group: slice) -> None:
            spectrum = torch.fft.rfft2(planes[group])
            # The bias is constant over the plane: all of it is in the first coefficient.
            spectrum[:, 0, 0] += self.f_down.bias[group] * (height * width)
            part = torch.view_as_real(spectrum)
            # The plain root is several times faster than abs(), which guards against overflow;
            # these amplitudes are sums of features, far from both ends of the range.
            power = part[..., 0].square().addcmul_(part[..., 1], part[..., 1])
            weight, bias = self.f_dw.weight[group], self.f_dw.bias[group]
            smooth = F.conv2d(power.sqrt_()[None], weight, bias, padding=1, groups=len(weight))
            torch.clamp(smooth[0], min=0.0, out=features[group])
            spectra[group.start] = spectrum

        for_each(analyse, groups)
        flat = features.view(middle, -1)
        weight, bias = self.f_inter.weight[:, :, 0, 0], self.f_inter.bias[:, None]

        def gate(part: slice) -> None:
            flat[:, part] = torch.addmm(bias, weight, flat[:, part]).sigmoid_()

        for_each(gate, _parts(flat.shape[1], _STRIP_TOKENS))

        def synthesise(group: slice) -> None:
            spectrum = spectra.pop(group.start).mul_(features[group])
            # irfft2 in its two steps is faster than in one: it copies its input less often.
            rows = torch.fft.irfft(torch.fft.ifft(spectrum, dim=1), n=width)
            torch.clamp(rows, min=0.0, out=planes[group])

        for_each(synthesise, groups)

    def _up(self, image: Tensor, near: Tensor, planes: Tensor, out: Tensor) -> None:
        """``out = image + both branches``, rows by rows; ``out`` may be ``image``."""
        height, width, channels = image.shape
        middle = len(planes)
        down = self.s_down2.weight[:, :, 0, 0].t()
        s_up, f_up = (
            (layer.weight[:, :, 0, 0] * self.factor).t() for layer in (self.s_up, self.f_up)
        )
        bias = (self.s_up.bias + self.f_up.bias) * self.factor
        tokens, result = image.view(-1, channels), out.view(-1, channels)
        columns = planes.view(middle, -1).t()

        def run(rows: slice) -> None:
            top, bottom = rows.start, min(rows.stop, height)
            # The 5x5 window of these rows; beyond the border it sees zeros.
            first, last = max(0, top - 2), min(height, bottom + 2)
            seen = near[None, first:last].permute(0, 3, 1, 2)
            above, below = 2 - (top - first), 2 - (last - bottom)
            if above or below:
                seen = F.pad(seen, (0, 0, above, below))
            mixed = F.conv2d(seen, self.s_dw.weight, self.s_dw.bias, padding=(0, 2), groups=middle)
            part = slice(top * width, bottom * width)
            gated = torch.addmm(self.s_down2.bias, tokens[part], down)
            gated.mul_(mixed[0].permute(1, 2, 0).reshape(-1, middle)).relu_()
            strip = torch.add(tokens[part], bias, out=result[part])
            strip.addmm_(gated, s_up).addmm_(columns[part], f_up)

        for_each(run, _parts(height, max(1, _STRIP_TOKENS // width)))


def _parts(length: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, length, step)]


def _wide(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """``layer`` in the precision of ``x``, whatever its parameters have."""
    weight, bias = layer.weight.to(x.dtype), layer.bias.to(x.dtype)
    return F.conv2d(x, weight, bias, padding=layer.padding, groups=layer.groups)


def _stacked(layers: tuple[nn.Conv2d, ...], dim: int) -> tuple[Tensor, Tensor]:
    weight = torch.cat([layer.weight for layer in layers], dim)
    return weight, torch.cat([layer.bias for layer in layers])
