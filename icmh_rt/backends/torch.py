"""The torch backend: the transforms in eager PyTorch on a CPU or a GPU."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from icmh_rt.backends.base import Backend
from icmh_rt.bundle import Bundle
from icmh_rt.coding import DEFAULT_HYPER_STRIDE, DEFAULT_LATENT_STRIDE
from icmh_rt.errors import BackendUnavailableError, BundleError, OptionError
from icmh_rt.models.slimmable_hyperprior import (
    PATCH,
    SlimmableHyperprior,
    SlimmableHyperpriorConfig,
)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def create(bundle: Bundle, device: str, dtype: str) -> TorchBackend:
    """The entry point that the registry calls."""
    return TorchBackend(bundle, device_of(device), dtype_of(dtype))


def dtype_of(name: str) -> torch.dtype:
    """One of the registry's names of dtypes."""
    return _DTYPES["fp32" if name == "auto" else name]


def device_of(name: str) -> torch.device:
    """The device of that name; OptionError or BackendUnavailableError if there is none."""
    if not isinstance(name, str):
        raise OptionError(f"device is {name!r}: use auto, cpu, cuda or cuda:N")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise OptionError(f"device {name!r} is unknown: use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"device {name!r} is not supported: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendUnavailableError(
            f"device {name!r} is not here: torch sees {torch.cuda.device_count()} CUDA device(s); "
            "use device='cpu'"
        )
    return device


class TorchBackend(Backend):
    """Eager PyTorch; ``dtype`` is that of the transforms, the border is always float32."""

    name = "torch"

    def __init__(self, bundle: Bundle, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(bundle)
        self.device = str(device)
        self._device = device
        self._dtype = dtype
        state = {k: torch.from_numpy(v.astype(np.float32)) for k, v in bundle.transforms.items()}
        try:
            self._config = SlimmableHyperpriorConfig.from_dict(bundle.config)
            model = SlimmableHyperprior(self._config)
            missing, unexpected = model.load_state_dict(state, strict=False)
        except (OptionError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise BundleError(f"bundle {bundle.name!r} does not fit its config: {reason}") from None
        # h_s runs as integers and the quality tables are folded: neither is in a bundle.
        lacking = [k for k in missing if not k.startswith(("h_s.", "quality_tables."))]
        if lacking or unexpected:
            raise BundleError(
                f"bundle {bundle.name!r} does not fit its config: lacks {lacking[:3]}, "
                f"has unknown {unexpected[:3]}"
            )
        del model.h_s, model.quality_tables
        model = model.to(device=device, dtype=dtype, memory_format=torch.channels_last)
        self._model = model.eval().requires_grad_(False)

    @torch.inference_mode()
    def analysis(self, image: np.ndarray, width: float, task: str) -> Tensor:
        pad = [(0, -side % DEFAULT_LATENT_STRIDE) for side in image.shape[:2]]
        if any(after for _, after in pad):
            image = np.pad(image, (*pad, (0, 0)), mode="edge")
        height, columns = image.shape[0] // PATCH, image.shape[1] // PATCH
        # Unshuffled while a pixel is still a byte: a quarter of the memory traffic of later.
        patches = torch.from_numpy(image).to(self._device)
        patches = patches.view(height, PATCH, columns, PATCH, 3).permute(0, 2, 4, 1, 3)
        patches = patches.reshape(1, height, columns, 3 * PATCH * PATCH).to(self._dtype)
        patches = patches.div_(255.0).sub_(0.5).permute(0, 3, 1, 2)
        return self._model.g_a.from_patches(patches, self._config.width_index(width))

    @torch.inference_mode()
    def latent_to_host(self, y: Tensor) -> np.ndarray:
        return y[0].permute(1, 2, 0).float().cpu().numpy()

    @torch.inference_mode()
    def hyper_analysis(self, y: Tensor, width: float, task: str) -> np.ndarray:
        pad = (0, -y.shape[3] % DEFAULT_HYPER_STRIDE, 0, -y.shape[2] % DEFAULT_HYPER_STRIDE)
        y = F.pad(y, pad, mode="replicate") if any(pad) else y
        z = self._model.h_a(y, self._config.width_index(width))
        return self.latent_to_host(z)

    @torch.inference_mode()
    def synthesis(
        self, y_hat: np.ndarray, width: float, task: str, image_size: tuple[int, int]
    ) -> np.ndarray:
        y = torch.from_numpy(y_hat).to(self._device).permute(2, 0, 1)[None].to(self._dtype)
        x = self._model.g_s(y, self._config.width_index(width))
        height, columns = image_size
        x = x[0, :, :height, :columns].float().add_(0.5).mul_(255.0).round_().clamp_(0.0, 255.0)
        return x.permute(1, 2, 0).to(torch.uint8).contiguous().cpu().numpy()

    def __repr__(self) -> str:
        return f"TorchBackend(device={self.device!r}, dtype={self._dtype})"
