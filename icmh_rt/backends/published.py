"""The torch backend for converted checkpoints: their transforms in eager PyTorch."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from icmh_rt.backends.base import lap
from icmh_rt.backends.torch import ComputesWithTorch, device_of, dtype_of
from icmh_rt.errors import BundleError, IcmhError, OptionError
from icmh_rt.images import size_of
from icmh_rt.models.checkpoints import from_state_dict
from icmh_rt.published import PublishedBundle

_FEATURE_STRIDE = 8
_NOT_RUN = ("entropy_bottleneck", "gaussian_conditional", "h_s")


def create(bundle: PublishedBundle, device: str, dtype: str) -> PublishedBackend:
    """The entry point that the registry calls."""
    return PublishedBackend(bundle, device_of(device), dtype_of(dtype))


class PublishedBackend(ComputesWithTorch):
    """Eager PyTorch; ``dtype`` is that of the transforms, the border is always float32."""

    name = "torch"

    def __init__(self, bundle: PublishedBundle, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(bundle)
        self.device = str(device)
        self._bundle = bundle
        self._device = device
        self._dtype = dtype
        state = {name: torch.from_numpy(array.copy()) for name, array in bundle.state.items()}
        try:
            model = from_state_dict(state)
        except IcmhError as error:
            raise BundleError(f"bundle {bundle.name!r} has other tensors: {error}") from None
        self._slimmable = hasattr(model, "widths")
        # What codes the symbols is in the bundle as integers, and h_s is the coding's.
        for name in [n for n, _ in model.named_children() if n.startswith(_NOT_RUN)]:
            delattr(model, name)
        model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._models = {task: model for task in bundle.tasks}
        if hasattr(model, "encoder_sfmas"):
            base = _without_adapters(model)
            for task in set(bundle.tasks) - set(bundle.adapted_tasks):
                self._models[task] = base

    def module_of(self, task: str) -> nn.Module:
        return self._models[task]

    @torch.inference_mode()
    def analysis(self, image: np.ndarray, width: float, task: str) -> Tensor:
        size = size_of(image)
        height, columns = self._bundle.padding.size(size)
        top, left = self._bundle.padding.start(size)
        x = torch.zeros(1, 3, height, columns, dtype=self._dtype, device=self._device)
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self._device)
        place = x[0, :, top : top + size[0], left : left + size[1]]
        place.copy_(pixels.permute(2, 0, 1).float().div_(255.0))
        lap("upload")
        return self._run("g_a", x, width, task)

    @torch.inference_mode()
    def latent_to_host(self, y: Tensor) -> np.ndarray:
        return y[0].permute(1, 2, 0).float().contiguous().cpu().numpy()

    @torch.inference_mode()
    def hyper_analysis(self, y: Tensor, width: float, task: str) -> np.ndarray:
        if self._bundle.widths[width].synthesis is None:
            return np.zeros((0, 0, 0), np.float32)
        return self.latent_to_host(self._run("h_a", y, width, task))

    def check_image(self, width: float, task: str) -> None:
        if self._bundle.widths[width].output != "image":
            raise OptionError(
                f"streams of width {width} of bundle {self._bundle.name!r} hold a feature and no "
                "image: use Decoder.features, or encode at width 1.0"
            )

    def check_features(self, width: float, task: str) -> None:
        if self._bundle.widths[width].output != "feature":
            narrow = [w for w, part in self._bundle.widths.items() if part.output == "feature"]
            if not narrow:
                super().check_features(width, task)
            raise OptionError(
                f"streams of width {width} of bundle {self._bundle.name!r} hold an image and no "
                f"feature: decode it, or encode at width {narrow[0]}"
            )

    @torch.inference_mode()
    def synthesis(
        self, y_hat: np.ndarray, width: float, task: str, image_size: tuple[int, int]
    ) -> np.ndarray:
        self.check_image(width, task)
        x = self._run("g_s", self._to_device(y_hat), width, task)
        top, left = self._bundle.padding.start(image_size)
        height, columns = image_size
        x = x[0, :, top : top + height, left : left + columns]
        x = x.float().mul(255.0).round_().clamp_(0.0, 255.0)
        return x.permute(1, 2, 0).to(torch.uint8).contiguous().cpu().numpy()

    @torch.inference_mode()
    def features(
        self, y_hat: np.ndarray, width: float, task: str, image_size: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        """``fea``: YOLOv3's feature of 256 channels, without what lies wholly in the padding."""
        self.check_features(width, task)
        fea = self._models[task].feature(self._to_device(y_hat), width)[0]
        height, columns = (-(-side // _FEATURE_STRIDE) for side in image_size)
        fea = fea[:, :height, :columns].float()
        return {"fea": fea.contiguous().cpu().numpy()}

    def _to_device(self, y_hat: np.ndarray) -> Tensor:
        y = torch.from_numpy(y_hat).to(self._device).permute(2, 0, 1)[None]
        return y.to(self._dtype).contiguous()

    def _run(self, transform: str, x: Tensor, width: float, task: str) -> Tensor:
        run = getattr(self._models[task], transform)
        return run(x, width) if self._slimmable else run(x)

    def __repr__(self) -> str:
        return f"PublishedBackend(device={self.device!r}, dtype={self._dtype})"


def _without_adapters(model: nn.Module) -> nn.Module:
    """The same layers in a model that has no SFMAs."""
    base = copy.copy(model)
    base._modules = {k: v for k, v in model._modules.items() if not k.endswith("_sfmas")}
    return base
