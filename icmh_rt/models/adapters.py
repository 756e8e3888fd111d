"""Adapters that plug into a finished codec: small trained parts for a task, beside frozen weights.

The adapter is the SFMA of Li et al., "Image compression for machine and human vision with
spatial-frequency adaptation", ECCV 2024: three in the analysis transform, three mirrored in the
synthesis transform, a few percent of the codec's parameters, one set a task.

    attach_adapters(model, ["detection", "segmentation"])   # freezes the model
    optimizer = torch.optim.Adam(adapter_parameters(model, "detection").values(), lr=1e-4)
    with use_task(model, "detection"):
        y = model.g_a(x)
    y = model.g_a(x)                                         # the base again, bit for bit

**Where.** As published for TIC: in g_a after the last layer at 1/2, 1/4 and 1/8 of the image (just
before the next downsampling), in g_s after the first layer at 1/8, 1/4 and 1/2 (just after the
upsampling). The layers are found by running g_a and g_s once on a small blank image and looking at
the sizes of what the layers give; so are the channel counts. In a stack of convolutions and GDNs
that is after GDN in g_a and, mirrored, between transposed convolution and inverse GDN in g_s.

The default codec goes to 1/8 in its first layer, so it has no maps at 1/2 and 1/4. Its three
places are the three seams between its stages: stem | blocks at 1/8 | down | blocks at 1/16, and
the mirrored ones in g_s. Other places can be given by the names of modules.

**How.** Each place is a forward hook, which does nothing unless `use_task` chose its task. The
choice lives in a `contextvars.ContextVar`: threads and asyncio tasks do not see each other's, and a
new thread starts with the base. The adapters are one child module of the model,
``attached_adapters``, which leaves no trace in ``state_dict()`` and wants nothing from
``load_state_dict(..., strict=True)``: checkpoints of the base stay what they are. Everything that
walks over children takes them along: ``.to()``, ``.half()``, ``parameters()``, ``zero_grad()``,
``copy.deepcopy``, pickling, ``DistributedDataParallel``. (``DataParallel`` runs its replicas in new
threads, which begin with the base: it does not work here.)

**Start.** Published adapters start from random projections and so change the codec from step 0.
These start as identities: the weights and biases of the two up-projections are zero. Their
gradients are not (they are products with the hidden maps, which are random), so the first step
moves them and the second one everything else. A factor of 0 would be an identity too, but it would
also zero every gradient.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from icmh_rt._files import replace_file
from icmh_rt.adapter_files import FORMAT, METADATA, TrainedAdapters, checked_metadata
from icmh_rt.bitstream import BASE_TASK
from icmh_rt.errors import BackendUnavailableError, BundleError, OptionError
from icmh_rt.models.adapter_modules import (
    ACTIVE,
    AfterHook,
    AttachedAdapters,
    BeforeHook,
    SlimmableSFMA,
    TaskAdapters,
    active_task,
)
from icmh_rt.models.adapter_places import CHILD, TRANSFORMS, Place, find_places
from icmh_rt.models.sfma import SFMA

__all__ = [
    "AdapterReport",
    "Place",
    "SlimmableSFMA",
    "adapter_parameters",
    "adapter_report",
    "adapters_by_place",
    "attach_adapters",
    "attach_trained",
    "attached_tasks",
    "current_task",
    "detach_adapters",
    "load_adapters",
    "save_adapters",
    "use_task",
]


@dataclass(frozen=True)
class AdapterReport:
    """What is attached to a model; ``print`` it for a table.

    Args:
        architecture: the class of the base.
        base_parameters: how many numbers the base learned.
        parameters: how many the adapters of each task have.
        places: of each task, those of g_a and then those of g_s, nearest the image first.
    """

    architecture: str
    base_parameters: int
    parameters: dict[str, int]
    places: dict[str, tuple[Place, ...]]

    def percent(self, task: str) -> float:
        """Parameters of the task's adapters in percent of the base's."""
        return 100.0 * self.parameters[task] / self.base_parameters

    def __str__(self) -> str:
        lines = [f"{self.architecture}: {self.base_parameters:,} frozen parameters"]
        for task, count in self.parameters.items():
            where = ", ".join(f"{p.name} ({p.channels} at 1/{p.stride})" for p in self.places[task])
            lines.append(f"{task}: {count:,} parameters, {self.percent(task):.2f} %, at {where}")
        return "\n".join(lines)


def _has_adapters(model: nn.Module) -> bool:
    return any(isinstance(module, AttachedAdapters) for module in model.modules())


def _find(model: nn.Module) -> tuple[nn.Module, AttachedAdapters]:
    """The module that adapters were attached to (``model`` or one inside it), and these."""
    if not isinstance(model, nn.Module):
        raise OptionError(f"model is a {type(model).__name__}: give a torch module")
    own = dict(model.named_children()).get(CHILD)
    if isinstance(own, AttachedAdapters):  # the common case, without a walk over all modules
        return model, own
    found = [
        (module, child)
        for module in model.modules()
        for child in module.children()
        if isinstance(child, AttachedAdapters)
    ]
    if len(found) != 1:
        what = "no adapters" if not found else f"adapters in {len(found)} places"
        raise OptionError(
            f"{type(model).__name__} has {what}: give the model that attach_adapters was given"
        )
    return found[0]


def _task_of(attached: nn.Module, task: str) -> TaskAdapters:
    tasks = dict(attached.named_children())
    if task not in tasks:
        raise OptionError(
            f"task {task!r} has no adapters here: use one of {', '.join(tasks)}, or None for the "
            "base"
        )
    return tasks[task]


# -- the public face -------------------------------------------------------------------------------


def _task_names(tasks: str | Sequence[str]) -> list[str]:
    if not isinstance(tasks, (str, list, tuple)):
        raise OptionError(f"tasks is {tasks!r}: give a name or a list of names")
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    for name in names:
        if (
            not isinstance(name, str)
            or not name.isidentifier()
            or hasattr(AttachedAdapters(()), name)
        ):
            raise OptionError(f"task {name!r} cannot be a name: use letters, such as 'detection'")
        if name == BASE_TASK:
            raise OptionError(f"task {BASE_TASK!r} is the base itself: it takes no adapters")
    if not names or len(set(names)) != len(names):
        raise OptionError(f"tasks are {names}: give at least one, each once")
    return names


def _attach(model: nn.Module, tasks: Mapping[str, TaskAdapters]) -> None:
    children = dict(model.named_children())
    if CHILD not in children:
        trainable = [name for name, p in model.named_parameters() if p.requires_grad]
        model.requires_grad_(False)
        children[CHILD] = AttachedAdapters(trainable).train(model.training)
        model.add_module(CHILD, children[CHILD])
    attached = children[CHILD]
    for task, adapters in tasks.items():
        attached.add_module(task, adapters)
        for place, sfma in adapters.sites():
            module = model.get_submodule(place.module)
            if place.is_input:
                before = BeforeHook(attached, task, sfma)
                adapters.handles.append(module.register_forward_pre_hook(before))
            else:
                after = AfterHook(attached, task, sfma)
                adapters.handles.append(module.register_forward_hook(after))


def _make(
    model: nn.Module,
    tasks: Sequence[str],
    middle: int,
    factor: float,
    names: Mapping[str, Sequence[str]] | None,
) -> dict[str, TaskAdapters]:
    own = [name for name, module in model.named_modules() if isinstance(module, SFMA)]
    own = [name for name in own if not name.startswith(f"{CHILD}.")]
    if own:
        raise OptionError(
            f"{type(model).__name__} has adapters of its own ({own[0]}, ...): build it without"
        )
    places = find_places(model, names)
    return {task: TaskAdapters(places, middle, factor).train(model.training) for task in tasks}


def attach_adapters(
    model: nn.Module,
    tasks: str | Sequence[str],
    *,
    middle: int = 64,
    factor: float = 1.0,
    places: Mapping[str, Sequence[str]] | None = None,
) -> AdapterReport:
    """Freeze ``model`` and give it untrained adapters for ``tasks``, which change nothing yet.

    Can be called again with further tasks. The adapters come on the device and in the dtype of the
    model. A `use_task` block chooses them.

    Args:
        model: TIC, the default codec, CompressAI's codecs or ours like them; or any codec of four
            stages with ``g_a`` and ``g_s``; or, with ``places``, any module.
        tasks: their names, at least one. Streams know those of ``icmh_rt.bitstream.TASKS``.
        middle: channels inside the adapters.
        factor: what their change is multiplied with, the published ``adapt_factor``.
        places: names of modules in the encoder and in the decoder, whose outputs are adapted, or
            with ``":input"`` behind a name its first input: ``{"g_a": ["g_a.1"], "g_s":
            ["g_s.0", "g_s.4:input"]}``; nearest the image first. None finds them.

    Raises:
        OptionError: no places can be found (says what was looked for and what there is), a place
            does not run exactly once, a task has adapters already or none by its nature ("human"),
            or the model has adapters built in. The model is unchanged.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"model is a {type(model).__name__}: give a torch module")
    if _has_adapters(model):
        model = _find(model)[0]
    names = _task_names(tasks)
    if isinstance(middle, bool) or not isinstance(middle, int) or middle < 1:
        raise OptionError(f"middle is {middle!r}: give a number of channels, 1 or more")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or factor - factor != 0:
        raise OptionError(f"factor is {factor!r}: give a finite number")
    for name in names:
        if name in attached_tasks(model):
            raise OptionError(f"task {name!r} has adapters already: detach_adapters takes them off")
    _attach(model, _make(model, names, middle, float(factor), places))
    return adapter_report(model)


def attach_trained(model: nn.Module, task: str, trained: TrainedAdapters) -> None:
    """Attach the adapters of a bundle.

    Raises:
        OptionError: they do not fit the model. It is unchanged.
    """
    attach_adapters(
        model, task, middle=trained.middle, factor=trained.factor, places=trained.places
    )
    parameters = {k.removeprefix(f"{task}."): p for k, p in adapter_parameters(model, task).items()}
    shapes = {k: tuple(p.shape) for k, p in parameters.items()}
    if shapes != {k: v.shape for k, v in trained.arrays.items()}:
        detach_adapters(model, task)
        raise OptionError(f"the adapters of task {task!r} have other arrays than the model takes")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(trained.arrays[name].astype("float32")))


def detach_adapters(model: nn.Module, tasks: str | Sequence[str] | None = None) -> None:
    """Take off the adapters of ``tasks``, or all of them; after the last, the model is as before.

    As before: no hooks, no child module, and those parameters learn that did before.

    Raises:
        OptionError: there are no adapters, or none for one of the tasks.
    """
    base, attached = _find(model)
    names = attached_tasks(base) if tasks is None else _task_names(tasks)
    found = {name: _task_of(attached, name) for name in names}
    for name, adapters in found.items():
        for handle in adapters.handles:
            handle.remove()
        adapters.handles.clear()
        delattr(attached, name)
    if not attached_tasks(base):
        delattr(base, CHILD)
        parameters = dict(base.named_parameters())
        for name in attached.trainable:
            if name in parameters:
                parameters[name].requires_grad_(True)


def attached_tasks(model: nn.Module) -> tuple[str, ...]:
    """The tasks that ``model`` has adapters for, in the order in which they came."""
    if not _has_adapters(model):
        return ()
    return tuple(name for name, _ in _find(model)[1].named_children())


@contextmanager
def use_task(model: nn.Module, task: str | None) -> Iterator[None]:
    """Run ``model`` with the adapters of ``task`` inside a ``with`` block; blocks nest.

    It holds for this thread (this asyncio task) alone: others run with what they chose, and new
    ones begin with the base. ``torch.export`` and ``torch.onnx.export`` inside the block record
    the model with the adapters in it.

    Args:
        model: what `attach_adapters` was given, or a module around it.
        task: its name; None or "human" for the base.

    Raises:
        OptionError: the task has no adapters here, or the model has none at all.
    """
    _, attached = _find(model)
    if task == BASE_TASK:
        task = None
    if task is not None:
        _task_of(attached, task)
    token = ACTIVE.set((*ACTIVE.get(), (attached, task)))
    try:
        yield
    finally:
        ACTIVE.reset(token)


def current_task(model: nn.Module) -> str | None:
    """The task that a call of ``model`` would run with here and now; None for the base."""
    return active_task(_find(model)[1])


def adapters_by_place(model: nn.Module, task: str) -> dict[str, nn.Module]:
    """The adapters of a task by the names of their places, as `attach_adapters` takes them.

    Raises:
        OptionError: the task has no adapters here.
    """
    _, attached = _find(model)
    return {place.name: sfma for place, sfma in _task_of(attached, task).sites()}


def adapter_parameters(model: nn.Module, task: str | None = None) -> dict[str, nn.Parameter]:
    """The adapters' parameters by name, of one task or of all: what an optimiser is given.

    Raises:
        OptionError: the task has no adapters here.
    """
    _, attached = _find(model)
    if task is None:
        return dict(attached.named_parameters())
    return {f"{task}.{name}": p for name, p in _task_of(attached, task).named_parameters()}


def _base_parameters(base: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(n, p) for n, p in base.named_parameters() if not n.startswith(f"{CHILD}.")]


def adapter_report(model: nn.Module) -> AdapterReport:
    """What is attached where, and how many parameters it has."""
    base, attached = _find(model)
    tasks = dict(attached.named_children())
    return AdapterReport(
        architecture=type(base).__name__,
        base_parameters=sum(p.numel() for _, p in _base_parameters(base)),
        parameters={t: sum(p.numel() for p in a.parameters()) for t, a in tasks.items()},
        places={t: tuple(place for place, _ in a.sites()) for t, a in tasks.items()},
    )


# -- files -----------------------------------------------------------------------------------------


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise BackendUnavailableError(
            "adapter files need safetensors: pip install 'icmh-rt[torch]'"
        ) from None
    return safetensors


def _base_identity(base: nn.Module) -> dict[str, Any]:
    """Tells bases apart: by the names and shapes of the parameters in g_a and g_s, and by values.

    Not by class: twins of a codec in two packages share their adapters. Values are hashed as half
    floats, so a codec and its half-precision copy are the same base.
    """
    parameters = _base_parameters(base)
    transforms = [(n, p) for n, p in parameters if n.startswith(TRANSFORMS)] or parameters
    shapes, weights = hashlib.sha256(), hashlib.sha256()
    for name, parameter in sorted(transforms, key=lambda item: item[0]):
        shapes.update(f"{name} {tuple(parameter.shape)}\n".encode())
        weights.update(parameter.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return {
        "architecture": type(base).__name__,
        "parameters": sum(p.numel() for _, p in transforms),
        "shapes": shapes.hexdigest()[:16],
        "weights": weights.hexdigest()[:16],
    }


def save_adapters(
    model: nn.Module, path: str | os.PathLike[str], tasks: str | Sequence[str] | None = None
) -> None:
    """Write the adapters of ``tasks`` (None: of all) to one .safetensors file, without the base.

    Tensors are called ``<task>.encoder_sfmas.0.s_down1.weight`` and so on; the metadata say which
    base they belong to, their sizes and their places. Equal adapters give equal files.

    Raises:
        OptionError: a task has no adapters here.
        BackendUnavailableError: safetensors is not installed.
        OSError: the file cannot be written.
    """
    base, attached = _find(model)
    names = attached_tasks(base) if tasks is None else _task_names(tasks)
    found = {name: _task_of(attached, name) for name in names}
    metadata = {
        "format": FORMAT,
        "base": _base_identity(base),
        "tasks": {name: adapters.description() for name, adapters in found.items()},
    }
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, adapters in found.items()
        for key, value in adapters.state_dict().items()
    }
    data = _safetensors().torch.save(
        dict(sorted(tensors.items())), {METADATA: json.dumps(metadata)}
    )
    with replace_file(path) as file:
        file.write(data)


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    safetensors = _safetensors()
    shown = repr(os.fspath(path))
    try:
        with safetensors.safe_open(os.fspath(path), framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA)
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"adapter file {shown} cannot be read: {reason}") from None
    return checked_metadata(text, shown), tensors


def load_adapters(
    model: nn.Module,
    path: str | os.PathLike[str],
    tasks: str | Sequence[str] | None = None,
    *,
    check_weights: bool = True,
) -> tuple[str, ...]:
    """Attach the adapters in a file that `save_adapters` wrote; returns their tasks.

    A task that ``model`` has adapters for already, of the same sizes at the same places, gets the
    values in the file. The file decides places and sizes; nothing is pickled.

    Args:
        model: the base, with or without adapters.
        path: the file.
        tasks: which of the file's tasks; None for all.
        check_weights: refuse a base of the same sizes but with other weights than the one that the
            adapters were trained for.

    Raises:
        BundleError: the file is missing, damaged, of another base or lacks a task, or the model's
            adapters of a task have other sizes. The model is unchanged.
        OptionError: ``model`` is no module, or ``tasks`` cannot be names.
        BackendUnavailableError: safetensors is not installed.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"model is a {type(model).__name__}: give a torch module")
    asked = None if tasks is None else _task_names(tasks)
    metadata, tensors = _read(path)
    shown = repr(os.fspath(path))
    base = _find(model)[0] if _has_adapters(model) else model
    try:
        theirs, described = dict(metadata["base"]), dict(metadata["tasks"])
        ours = _base_identity(base)
        if theirs["shapes"] != ours["shapes"]:
            raise BundleError(
                f"adapter file {shown} is for a {theirs['architecture']} with "
                f"{theirs['parameters']} parameters in g_a and g_s, not for this "
                f"{ours['architecture']} with {ours['parameters']}"
            )
        if check_weights and theirs["weights"] != ours["weights"]:
            raise BundleError(
                f"adapter file {shown} was trained for a {theirs['architecture']} with other "
                f"weights (fingerprint {theirs['weights']}, here {ours['weights']}); "
                "check_weights=False takes it all the same"
            )
        wanted = list(described) if asked is None else asked
        for task in wanted:
            if task not in described:
                raise BundleError(
                    f"adapter file {shown} has no task {task!r}: it has {', '.join(described)}"
                )
        made = {task: _from_file(base, task, described[task], tensors, shown) for task in wanted}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, OptionError):
            raise BundleError(f"adapter file {shown} does not fit: {error}") from None
        raise BundleError(f"adapter file {shown} has damaged metadata") from None
    known = {f"{task}." for task in described}
    stray = [key for key in tensors if not any(key.startswith(prefix) for prefix in known)]
    if stray:
        raise BundleError(f"adapter file {shown} has an unknown tensor {stray[0]!r}")
    for task, adapters in made.items():
        _check_tensors(shown, task, adapters, tensors)
    _attach(base, {t: a for t, a in made.items() if t not in attached_tasks(base)})
    for task, adapters in made.items():
        with torch.no_grad():
            for name, parameter in adapters.named_parameters():
                parameter.copy_(tensors[f"{task}.{name}"])
    return tuple(made)


def _from_file(
    base: nn.Module,
    task: str,
    description: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    shown: str,
) -> TaskAdapters:
    """The model's adapters of ``task``, or new ones as described; not attached yet."""
    if task in attached_tasks(base):
        adapters = _task_of(dict(base.named_children())[CHILD], task)
    else:
        _task_names(task)
        middle, factor = int(description["middle"]), float(description["factor"])
        # Before anything of the size that the metadata claim is allocated.
        rows = {
            len(value) if value.dim() else 0
            for key, value in tensors.items()
            if key.startswith(f"{task}.") and key.endswith(".s_down1.bias")
        }
        if rows != {middle}:
            raise BundleError(
                f"adapter file {shown} says {middle} middle channels for task {task!r}, its "
                f"tensors have {sorted(rows)}"
            )
        names = {t: [str(name) for name, _ in description["places"][t]] for t in TRANSFORMS}
        adapters = _make(base, [task], middle, factor, names)[task]
    if adapters.description() != description:
        raise BundleError(
            f"adapter file {shown} has other sizes or places for task {task!r} than this model: "
            "detach_adapters first"
        )
    return adapters


def _check_tensors(
    shown: str, task: str, adapters: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    expected = {f"{task}.{name}": p.shape for name, p in adapters.named_parameters()}
    for key, shape in expected.items():
        if key not in tensors:
            raise BundleError(f"adapter file {shown} lacks {key!r}")
        value = tensors[key]
        if value.shape != shape or not value.is_floating_point():
            raise BundleError(
                f"adapter file {shown} has {value.dtype} {tuple(value.shape)} for {key!r}, not "
                f"floats {tuple(shape)}"
            )
        if not torch.isfinite(value).all():
            raise BundleError(f"adapter file {shown} has a value in {key!r} that is not finite")
    unknown = [key for key in tensors if key.startswith(f"{task}.") and key not in expected]
    if unknown:
        raise BundleError(f"adapter file {shown} has an unknown tensor {unknown[0]!r}")
