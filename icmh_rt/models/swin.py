"""Residual Swin blocks: windowed self-attention with a relative position bias.

Liu et al., "Swin Transformer: hierarchical vision transformer using shifted windows" (ICCV 2021),
without the attention mask of the shifted windows: windows that wrap around the border attend
freely, as in the published code of Adapt-ICMH (Li et al., ECCV 2024), whose TIC
("Transformer-based image compression", Lu et al., DCC 2022) this is.

There are two forms of the same computation. The plain one is a few lines, differentiable, and for
every device. The other one is for inference on a CPU, where the plain form spends most of its time
moving memory: every intermediate of a large image is larger than the caches, and the allocator
returns it to the system at once, so that each is also paged in anew. It takes a few windows at a
time through a whole block and writes the result in place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icmh_rt.errors import OptionError
from icmh_rt.kernels._parallel import for_each

TILE_TOKENS = 3072
"""Tokens that a thread takes through a block at a time. Their intermediates stay in its cache and,
some MiB at most, in the allocator's hands; fewer tokens would only show what a call costs."""


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows of ``window`` × ``window`` tokens."""

    relative_position_index: Tensor

    def __init__(self, channels: int, window: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise OptionError(
                f"{channels} channels do not divide into {heads} heads; give a multiple"
            )
        self.heads = heads
        side = 2 * window - 1
        self.relative_position_bias_table = nn.Parameter(torch.empty(side * side, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        steps = torch.arange(window)
        y, x = (axis.flatten() for axis in torch.meshgrid(steps, steps, indexing="ij"))
        down = y[:, None] - y + window - 1
        right = x[:, None] - x + window - 1
        self.register_buffer("relative_position_index", down * side + right)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def bias(self) -> Tensor:
        """(heads, tokens, tokens): what is added to the scores."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)

    def mix(self, x: Tensor, bias: Tensor) -> Tensor:
        """Attention before its projection: (windows, tokens, channels) -> the same."""
        windows, tokens, channels = x.shape
        q, k, v = (
            self.qkv(x)
            .view(windows, tokens, 3, self.heads, channels // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)[None])
        return mixed.transpose(1, 2).reshape(windows, tokens, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, tokens, channels) -> the same."""
        return self.proj(self.mix(x, self.bias()))


class Mlp(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Attention and a two-layer perceptron, each behind a LayerNorm and beside a shortcut.

    Args:
        shift: how far the windows are moved down and right, cyclically.
        drop_path: probability that an image skips a branch in training (stochastic depth).
    """

    def __init__(
        self, channels: int, window: int, heads: int, shift: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.window, self.shift, self.drop_path = window, shift, drop_path
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, window, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> the same."""
        x = x + self._maybe_drop(self._attend(self.norm1(x)))
        return x + self._maybe_drop(self.mlp(self.norm2(x)))

    def apply_(self, x: Tensor, bias: Tensor) -> None:
        """Run the block on whole windows ``(windows, tokens, channels)`` in place; no gradients.

        ``bias`` is ``attn.bias()``, the same for every call on one image.
        """
        flat = x.view(-1, x.shape[2])
        mixed = self.attn.mix(self.norm1(x), bias)
        flat.add_(self.attn.proj.bias).addmm_(mixed.view_as(flat), self.attn.proj.weight.t())
        hidden = torch.ops.aten.gelu_(self.mlp.fc1(self.norm2(flat)))
        flat.add_(self.mlp.fc2.bias).addmm_(hidden, self.mlp.fc2.weight.t())

    def _attend(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        side = self.window
        grid = (n, height // side, side, width // side, side, channels)
        shifted = torch.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
        windows = shifted.reshape(grid).transpose(2, 3).reshape(-1, side * side, channels)
        mixed = self.attn(windows).reshape(n, grid[1], grid[3], side, side, channels)
        mixed = mixed.transpose(2, 3).reshape(x.shape)
        return torch.roll(mixed, (self.shift, self.shift), (1, 2)) if self.shift else mixed

    def _maybe_drop(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = 1.0 - self.drop_path
        mask = branch.new_empty(branch.shape[0], 1, 1, 1).bernoulli_(keep)
        return branch * (mask / keep)


class ResidualSwin(nn.Module):
    """Swin blocks, every second one with shifted windows, and a shortcut around them all.

    Args:
        shifted: False leaves the windows of every block where they are; the published code does
            so where a window is as large as its training crops.
        drop_path: one probability a block, or none.
    """

    def __init__(
        self,
        channels: int,
        depth: int,
        heads: int,
        window: int,
        shifted: bool = True,
        drop_path: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.window = window
        rates = [0.0] * depth if drop_path is None else drop_path
        blocks = [
            SwinBlock(channels, window, heads, window // 2 if shifted and i % 2 else 0, rates[i])
            for i in range(depth)
        ]
        # The published names: the level between holds nothing else.
        self.residual_group = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})

    @property
    def blocks(self) -> nn.ModuleList:
        return self.residual_group["blocks"]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same, channels last in memory.

        Raises:
            OptionError: H or W is no multiple of the window.
        """
        if x.shape[2] % self.window or x.shape[3] % self.window:
            raise OptionError(
                f"features of {x.shape[2]} x {x.shape[3]} do not divide into windows of "
                f"{self.window}; pad the image to a multiple of the model's stride"
            )
        tokens = x.permute(0, 2, 3, 1)
        if runs_in_tiles(x) and not self.training:
            return self._in_tiles(tokens.contiguous()).permute(0, 3, 1, 2)
        out = tokens
        for block in self.blocks:
            out = block(out)
        return (tokens + out).permute(0, 3, 1, 2)

    def _in_tiles(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        # Windows are moved by nothing or by half their side, so half a row of a window is the
        # unit that they are gathered from and scattered to.
        unit = self.window // 2
        shortcut = x.view(-1, unit * channels)
        units_a_window = 2 * self.window
        # As many tiles as the threads take in whole rounds, none larger than TILE_TOKENS.
        threads = torch.get_num_threads()
        rounds = math.ceil(len(shortcut) * unit / (TILE_TOKENS * threads))
        tile = math.ceil(len(shortcut) / (rounds * threads * units_a_window)) * units_a_window
        out = torch.empty_like(shortcut)
        for i, block in enumerate(self.blocks):
            source = out if i else shortcut
            last = i == len(self.blocks) - 1
            order = window_order(n, height, width, self.window, block.shift)
            run = partial(self._run_tile, block, block.attn.bias().contiguous(), source, out)
            # A block's windows partition the tokens: no tile overwrites what another one reads.
            for_each(partial(run, shortcut if last else None), order.split(tile))
        return out.view(x.shape)

    @staticmethod
    def _run_tile(
        block: SwinBlock,
        bias: Tensor,
        source: Tensor,
        out: Tensor,
        shortcut: Tensor | None,
        where: Tensor,
    ) -> None:
        """``out[where] = block(source[where]) + shortcut[where]``, ``where``: whole windows."""
        tokens = torch.index_select(source, 0, where)
        block.apply_(tokens.view(-1, block.window**2, block.norm1.normalized_shape[0]), bias)
        if shortcut is not None:
            tokens.add_(torch.index_select(shortcut, 0, where))
        out.index_copy_(0, where, tokens)


def runs_in_tiles(x: Tensor) -> bool:
    """Whether the form for CPU inference applies: nothing differentiates, traces or recasts."""
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


@lru_cache(maxsize=64)
def window_order(n: int, height: int, width: int, side: int, shift: int) -> Tensor:
    """int64 (n·height·width·2 / side,): windows' places in (n, height, width), one by one.

    The places count runs of side / 2 tokens; ``shift`` is 0 or side / 2.
    """
    unit = side // 2
    with torch.inference_mode(False):
        places = torch.arange(n * height * width // unit).view(n, height, width // unit)
        places = places.roll((-shift, -shift // unit), (1, 2))
        grid = places.view(n, height // side, side, width // side, 2)
        return grid.transpose(2, 3).reshape(-1)
