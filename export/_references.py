"""What exported graphs are compared with: the same networks, run by torch or without it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from icmh_rt import graphs
from icmh_rt.bundle import Bundle
from icmh_rt.errors import BackendUnavailableError
from icmh_rt.graphs.adapter_files import arrays_of

Adapters = Mapping[str, np.ndarray]


class Reference(Protocol):
    """One width and task of a bundle in single precision. name: what runs it."""

    name: str

    def latents(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (H, W, 3) -> y float32 (h, w, M) and z float32 (hz, wz, Z)."""

    def picture(self, y_hat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """float32 (h, w, M) -> uint8 (*size, 3)."""

    def features(self, y_hat: np.ndarray) -> dict[str, np.ndarray]:
        """float32 (h, w, M) -> features float32 (C, h, w) by name; OptionError without a head."""


def reference_of(bundle: Bundle, width: float, task: str, adapters: Adapters | None) -> Reference:
    """torch where it is installed, else onnxruntime. adapters: None for the bundle's own."""
    if adapters is None and task in bundle.adapters:
        adapters = arrays_of(task, bundle.adapters[task])
    if find_spec("torch") is None:
        return GraphReference(bundle, width, task, adapters)
    return TorchReference(bundle, width, task, adapters)


def session_of(model: Any, threads: int = 0) -> Any:
    """An onnxruntime session of a graph, a file's path or bytes, on the CPU.

    Raises:
        BackendUnavailableError: onnxruntime is not installed.
    """
    try:
        from icmh_rt._onnxruntime import ort
    except ImportError as error:
        raise BackendUnavailableError(
            f"proving a graph needs onnxruntime ({error}): pip install 'icmh-rt[onnx]', or give "
            "--unproven"
        ) from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Several sessions live at once: those that wait must not keep the cores busy.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # As written: its rewriting of eight-bit graphs gives fp8 to operators that refuse it.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    source = model.SerializeToString() if hasattr(model, "SerializeToString") else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class TorchReference:
    """The modules that trained the weights, operation by operation."""

    def __init__(self, bundle: Bundle, width: float, task: str, adapters: Adapters | None) -> None:
        import torch

        from icmh_rt.models.adapters import adapter_parameters, attach_adapters
        from icmh_rt.models.slimmable_hyperprior import (
            SlimmableHyperprior,
            SlimmableHyperpriorConfig,
        )

        self.name = f"torch {torch.__version__}"
        self._head_of = lambda: bundle.feature_head(width, task)
        config = SlimmableHyperpriorConfig.from_dict(bundle.config)
        self._index = config.width_index(width)
        self._model = SlimmableHyperprior(config)
        state = {k: torch.from_numpy(v.astype(np.float32)) for k, v in bundle.transforms.items()}
        self._model.load_state_dict(state, strict=False)
        self._model.eval().requires_grad_(False)
        self._task = None
        if adapters is not None:
            arrays = {k.removeprefix(f"{task}."): np.asarray(v) for k, v in adapters.items()}
            middle = len(arrays["encoder_sfmas.0.s_down1.bias"])
            factor = float(arrays.get("factor", np.array(1.0)))
            attach_adapters(self._model, task, middle=middle, factor=factor)
            with torch.no_grad():
                for name, parameter in adapter_parameters(self._model, task).items():
                    value = arrays[name.removeprefix(f"{task}.")].astype(np.float32)
                    parameter.copy_(torch.from_numpy(value))
            self._task = task

    def latents(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            x = _padded(x, 16).div(255.0).sub(0.5)
            y = self._run("g_a", x)
            return _channels_last(y), _channels_last(self._run("h_a", _padded(y, 4)))

    def picture(self, y_hat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        import torch

        y = torch.from_numpy(np.ascontiguousarray(y_hat)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            x = self._run("g_s", y).add(0.5).mul(255.0).round().clamp(0.0, 255.0)
        return _channels_last(x)[: size[0], : size[1]].astype(np.uint8)

    def features(self, y_hat: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        from icmh_rt.models.feature_head import module_of

        head = module_of(self._head_of())
        y = torch.from_numpy(np.ascontiguousarray(y_hat)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            return {name: x[0].numpy() for name, x in head.split(head(y)).items()}

    def _run(self, transform: str, x: Any) -> Any:
        from icmh_rt.models.adapters import use_task

        run = getattr(self._model, transform)
        if self._task is None:
            return run(x, self._index)
        with use_task(self._model, self._task):
            return run(x, self._index)


def _padded(x: Any, multiple: int) -> Any:
    import torch.nn.functional as F

    pad = (0, -x.shape[3] % multiple, 0, -x.shape[2] % multiple)
    return F.pad(x, pad, mode="replicate") if any(pad) else x


def _channels_last(x: Any) -> np.ndarray:
    return np.ascontiguousarray(x[0].permute(1, 2, 0).numpy())


class GraphReference:
    """The graphs for any size in single precision. Not an independent judge of themselves."""

    def __init__(self, bundle: Bundle, width: float, task: str, adapters: Adapters | None) -> None:
        from icmh_rt._onnxruntime import ort

        self.name = f"onnxruntime {ort.__version__} alone, without torch"
        self._analysis, self._synthesis = (
            session_of(graphs.build(bundle, role, width, task, adapters=adapters))
            for role in ("analysis", "synthesis")
        )
        self._features = lambda: session_of(graphs.build(bundle, "features", width, task))

    def latents(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y, z = self._analysis.run(None, {"image": image[None]})
        return y[0], z[0]

    def picture(self, y_hat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        sides = {"height": np.array(size[0]), "width": np.array(size[1])}
        return self._synthesis.run(None, {"y_hat": y_hat[None], **sides})[0][0]

    def features(self, y_hat: np.ndarray) -> dict[str, np.ndarray]:
        session = self._features()
        names = [value.name for value in session.get_outputs()]
        found = session.run(names, {"y_hat": y_hat[None]})
        return {name: x[0] for name, x in zip(names, found, strict=True)}
