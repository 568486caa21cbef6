"""Swap the layers of a whole model: torch's for these, and back."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from . import modules

__all__ = ["convert", "to_torch"]

Filter = Callable[[nn.Module, str], bool]
Classes = Mapping[type[nn.Module], type[nn.Module]]

_TO_FASTRNN: Classes = {
    getattr(nn, name): getattr(modules, name) for name in modules.__all__ if hasattr(nn, name)
}
_TO_TORCH: Classes = {ours: theirs for theirs, ours in _TO_FASTRNN.items()}


def convert(model: nn.Module, filter_fn: Filter | None = None) -> nn.Module:
    """Swap torch's RNN, LSTM, GRU, their cells and MultiheadAttention for fastrnn's, in place.

    A new layer shares the old one's parameters, buffers, hooks and whatever else was set on
    it, and its training flag: optimizers, hook handles and state_dicts stay good. A layer
    that is used in several places stays one layer. Swapped are instances of exactly torch's
    classes, also under `torch.nn.utils.parametrize`. Left alone are instances of other
    subclasses, whose ``forward`` may differ, layers whose ``forward`` was replaced on the
    instance, and layers that are not submodules (in a plain list, say). Convert before
    `torch.compile`: what was compiled keeps calling what it was compiled from.

    Args:
        model: a module, possibly itself such a layer.
        filter_fn: ``filter_fn(layer, qualified_name) -> bool`` says which layers to swap;
            names are those of ``model.named_modules()``, called once a layer. None: all.

    Returns:
        ``model``; where ``model`` itself is such a layer, the new one, and the old one stays as
        it was: ``layer = fastrnn.convert(layer)``.
    """
    return _swap(model, _TO_FASTRNN, filter_fn)


def to_torch(model: nn.Module, filter_fn: Filter | None = None) -> nn.Module:
    """The way back of `convert`: swap fastrnn's layers for torch's, in place.

    A ``backend`` that was set on a layer is forgotten. Left alone is also what torch has not:
    layers with heads or a single bias, other cells (``MinGRU``, ``LayerNormLSTM``), attentions of
    recurrent models; a warning lists them. The rest is as in `convert`.

    Raises:
        RuntimeError: a layer has settings that torch's has not, such as ``zoneout``; then nothing
            was swapped.
    """
    return _swap(model, _TO_TORCH, filter_fn)


def _swap(model: nn.Module, classes: Classes, filter_fn: Filter | None) -> nn.Module:
    # All are chosen, and asked whether they can, before the first is swapped. The list also holds
    # the old ones, whose identities might otherwise pass to new modules.
    chosen, left = [], []
    for name, module in model.named_modules():
        target = _target(module, classes)
        if target is None:
            if classes is _TO_TORCH and _is_ours(module):
                left.append(f"{name} ({type(module).__name__})".lstrip())
        elif filter_fn is None or filter_fn(module, name):
            _refuse_more(module, target, classes)
            chosen.append((module, target))
    if left:
        warnings.warn("to_torch left what torch has not: " + ", ".join(left), stacklevel=3)
    swapped = {id(module): _rebuild(module, target) for module, target in chosen}
    # What was swapped stays as it was.
    for module in [swapped.get(id(each), each) for each in model.modules()]:
        for name, child in module._modules.items():
            if child is not None and id(child) in swapped:
                module._modules[name] = swapped[id(child)]
    return swapped.get(id(model), model)


def _target(module: nn.Module, classes: Classes) -> type[nn.Module] | None:
    if "forward" in vars(module) or not getattr(module, "plain", True):
        return None
    return classes.get(parametrize.type_before_parametrizations(module))


def _is_ours(module: nn.Module) -> bool:
    kinds = (nn.RNNBase, nn.RNNCellBase, modules.Attention)
    return isinstance(module, kinds) and type(module).__module__.startswith(__package__ + ".")


def _refuse_more(module: nn.Module, target: type[nn.Module], classes: Classes) -> None:
    beyond = getattr(module, "beyond_torch", "")
    if beyond and classes is _TO_TORCH:
        raise RuntimeError(
            f"{type(module).__name__} with {beyond} cannot become torch.nn.{target.__name__}, "
            "which has no such thing"
        )


def _rebuild(module: nn.Module, target: type[nn.Module]) -> nn.Module:
    """An instance of ``target`` with everything that ``module`` has."""
    if parametrize.is_parametrized(module):
        # Parametrized weights are properties on a class made for this one instance.
        namespace = dict(vars(type(module)))
        target = type(f"Parametrized{target.__name__}", (target,), namespace)
    new = target.__new__(target)
    state = vars(module).copy()
    for key in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        state[key] = state[key].copy()
    state.pop("backend", None)
    state.pop("_compiled_call_impl", None)
    if isinstance(module, nn.RNNBase):
        # What torch's layers keep beside their parameters; ours read them by name.
        state["_flat_weights"] = list(module._flat_weights)
    new.__setstate__(state)
    _rebind_hooks(new)
    return new


def _rebind_hooks(module: nn.Module) -> None:
    """Hooks that torch itself has bound to a module shall get the new one."""
    hook: Any
    for hook in module._load_state_dict_pre_hooks.values():
        if getattr(hook, "with_module", False):
            hook.module = weakref.ref(module)
