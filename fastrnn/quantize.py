"""int8 weights for inference: the recurrent layers of a whole model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from . import cpp, int8, modules
from .cells import CELLS
from .modules import quantized, quantized_cells
from .sequences import OFF, Settings, as_keywords

__all__ = ["quantize_dynamic"]

Filter = Callable[[nn.Module, str], bool]

_CLASSES = {
    getattr(library, name.removeprefix("Quantized")): getattr(made, name)
    for made in (quantized, quantized_cells)
    for name in made.__all__
    for library in (nn, modules)
}
# Hooks that write a weight before each forward; `remove_weight_norm` and so on leave the weight.
_MAKES_WEIGHTS = (WeightNorm, SpectralNorm, BasePruningMethod)
# Settings that do nothing without gradients in evaluation, or that the quantised layer has too.
_HARMLESS = (
    "recurrent_dropout", "weight_dropout", "grad_clip", "checkpoint_every", "recompute",
    "reverse",
)  # fmt: skip


def quantize_dynamic(
    module: nn.Module,
    dtype: torch.dtype = torch.qint8,
    *,
    inplace: bool = False,
    filter_fn: Filter | None = None,
) -> nn.Module:
    r"""A copy of a model whose recurrent layers and cells have int8 weights, for inference.

    As `torch.ao.quantization.quantize_dynamic`, for every RNN, LSTM and GRU, layer or cell, of
    ``fastrnn`` and of ``torch.nn``. They become ``fastrnn.modules.quantized.QuantizedLSTM`` and so
    on, with a quarter of the bytes and the calls of the layer: batched, unbatched and packed input,
    several layers, both directions, projections, an initial state, ``lengths``. Calls are as in
    evaluation, without dropout. Save and load a ``state_dict`` by quantising a model of the same
    form first, as with torch's; a whole model pickles.

    **What is computed.** Each row of a weight, and each row of what it is multiplied with (an
    input :math:`x_t`, a state :math:`h_{t-1}`, what enters a projection), becomes integers within
    127 and one scale, :math:`\max|row| / 127`; that of a state is found anew at every step. The
    integers' products are summed exactly, so all instruction sets agree on the sum; biases, gates
    and states are float32. Results do not depend on the number of threads or on neighbours in the
    batch. A product of K numbers is off by at most :math:`s_x/2\,\sum|w| + s_w/2\,\sum|x| +
    K/4\,s_w s_x` (`fastrnn.int8.product_bound`), typically by some :math:`\sqrt K` such halves in
    place of K. Measured, weights as torch draws them, normal inputs, 100 steps, H 64 to 1024:
    outputs are off by 0.7 to 1 % of their root mean square; those of
    `torch.ao.quantization.quantize_dynamic`, with one scale a matrix and seven bits for what
    enters, by 2 %. A sequence with a number that is not finite gives NaN from that step on.

    Args:
        module: a model, or such a layer itself.
        dtype: ``torch.qint8``.
        inplace: change ``module`` and return it, in place of a copy. Where it is itself such a
            layer, the new one is returned and it stays as it was.
        filter_fn: ``filter_fn(layer, qualified_name) -> bool`` says which layers; None: all.

    Returns:
        the model. Recurrent layers that are left as they are, other cells for example, are listed
        in a warning, with the reasons; all other modules are left alone in silence.

    Raises:
        TypeError: ``module`` is no module.
        ValueError: another ``dtype``; a weight with a number that is not finite.
        RuntimeError: ``module`` is itself a layer that cannot be quantised; the compiled extension
            is not there.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module should be a torch.nn.Module, got {type(module).__name__}")
    if dtype != torch.qint8:
        raise ValueError(f"dtype should be torch.qint8, got: {dtype}")
    missing = cpp.why_not_at_all(torch.device("cpu"), torch.float32)
    if missing is not None:
        raise RuntimeError(f"quantize_dynamic: {missing}")
    if not inplace:
        module = copy.deepcopy(module)
    met: dict[int, tuple[nn.Module, nn.Module]] = {}
    left: list[str] = []

    def visit(old: nn.Module, name: str) -> nn.Module:
        if id(old) in met:
            return met[id(old)][1]
        new = old
        if isinstance(old, (nn.RNNBase, nn.RNNCellBase)) and (
            filter_fn is None or filter_fn(old, name)
        ):
            reason = _why_not(old)
            if reason is None:
                new = _quantized(old, name)
            elif not name:
                raise RuntimeError(f"quantize_dynamic: {reason}")
            else:
                left.append(f"{name}: {reason}")
        met[id(old)] = old, new
        for child_name, child in list(new._modules.items()):
            if child is not None:
                new._modules[child_name] = visit(child, f"{name}.{child_name}".lstrip("."))
        return new

    module = visit(module, "")
    if left:
        warnings.warn(
            "quantize_dynamic left these layers as they are: " + "; ".join(left), stacklevel=2
        )
    return module


def _why_not(layer: nn.Module) -> str | None:
    kind = parametrize.type_before_parametrizations(layer)
    if kind not in _CLASSES:
        return f"{kind.__name__} has no kernel with int8 weights"
    if "forward" in vars(layer):
        return f"the forward of this {kind.__name__} was replaced"
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, _MAKES_WEIGHTS):
            return f"{type(hook).__name__} makes a weight of this {kind.__name__} anew in each call"
    if getattr(layer, "num_heads", 1) != 1:
        return f"{kind.__name__} with num_heads={layer.num_heads}"
    mode = getattr(layer, "mode", "GRU").lower()
    if mode not in CELLS or mode == "gru_reset_before" or not getattr(layer, "reset_after", True):
        return f"{kind.__name__} with reset_after=False"
    if getattr(layer, "nonlinearity", "tanh") not in ("tanh", "relu"):
        return f"{kind.__name__} with nonlinearity={layer.nonlinearity!r}"
    settings = getattr(layer, "settings", OFF)
    other = {n: v for n, v in as_keywords(settings).items() if n not in _HARMLESS}
    if getattr(layer, "learn_initial_state", False) or Settings(**other).described():
        return f"{kind.__name__} with {layer.beyond_torch}"
    for name, weight in _weights(layer):
        if weight.dtype != torch.float32 or weight.device.type != "cpu":
            return (
                f"{name} of this {kind.__name__} is {weight.dtype} on {weight.device}, and only "
                "float32 on the CPU is quantised: layer.float().cpu() first"
            )
        if weight.dim() == 2 and weight.shape[1] > int8.MOST_DEPTH:
            return f"{name} of this {kind.__name__} has rows longer than {int8.MOST_DEPTH}"
    return None


def _weights(layer: nn.Module) -> list[tuple[str, torch.Tensor]]:
    names = getattr(layer, "_flat_weights_names", ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    found = ((name, getattr(layer, name)) for name in names)
    return [(name, weight) for name, weight in found if weight is not None]


def _quantized(layer: nn.Module, name: str) -> nn.Module:
    for weight_name, weight in _weights(layer):
        if not weight.isfinite().all():
            raise ValueError(
                f"{f'{name}.{weight_name}'.lstrip('.')} has numbers that are not finite"
            )
    new: nn.Module = _CLASSES[parametrize.type_before_parametrizations(layer)].from_float(layer)
    for hooks in vars(layer):
        if hooks.startswith(("_forward_hooks", "_forward_pre_hooks")):
            setattr(new, hooks, getattr(layer, hooks))
    return new
