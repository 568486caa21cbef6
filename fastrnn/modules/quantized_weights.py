"""What layers and cells with int8 weights share: the weights, their checks, the call."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import int8
from ..cells import CELLS, CellSpec
from .scripting import refuse_scripting
from .states import State, as_states

__all__ = ["Quantized"]


class Quantized(nn.Module):
    """Quantised weights of one or more recurrences, as buffers.

    Of ``weight_ih_l0 [G*H, I]`` there are ``weight_ih_l0``, uint8 as `fastrnn.int8.pack` lays them
    out, and ``scale_ih_l0 [G*H]``, float32; and so for ``weight_hh`` and ``weight_hr``. Biases
    stay as they are.
    """

    __prepare_scriptable__ = refuse_scripting

    _title: ClassVar[str]

    def __init__(self, cell: str, input_size: int, hidden_size: int, proj_size: int = 0) -> None:
        super().__init__()
        self.cell = cell
        self.input_size, self.hidden_size, self.proj_size = input_size, hidden_size, proj_size
        self._suffixes: tuple[str, ...] = ("",)
        self.training = False
        # Weights lie padded, so that their shapes do not tell.
        self.register_buffer("sizes", torch.tensor([input_size, hidden_size, proj_size]))

    def _spec(self) -> CellSpec:
        return CELLS[self.cell]

    def _take(self, module: nn.Module, suffixes: tuple[str, ...]) -> None:
        """The weights of a float module, recurrence after recurrence."""
        self._suffixes = suffixes
        spec = self._spec()
        for suffix in suffixes:
            for kind in ("ih", "hh", *["hr"] * bool(self.proj_size)):
                weight = getattr(module, f"weight_{kind}{suffix}").detach()
                quanta, scale = int8.quantise_rows(weight)
                gates = 1 if kind == "hr" else spec.num_gates
                self.register_buffer(f"weight_{kind}{suffix}", int8.pack(quanta, gates))
                self.register_buffer(f"scale_{kind}{suffix}", scale)
            for kind in ("ih", "hh"):
                bias = getattr(module, f"bias_{kind}{suffix}", None)
                bias = None if bias is None else bias.detach().clone()
                self.register_buffer(f"bias_{kind}{suffix}", bias)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        name = f"{prefix}sizes"
        given, own = state_dict.get(name), self._buffers["sizes"]
        if isinstance(given, Tensor) and own is not None and not torch.equal(given.cpu(), own):
            error_msgs.append(
                "size mismatch: input_size, hidden_size and proj_size are "
                f"{given.tolist()} in the checkpoint, {own.tolist()} in the current model."
            )
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    @property
    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Of each weight, units and depth, of the first recurrence."""
        k = self.proj_size or self.hidden_size
        return {
            "ih": (self.hidden_size, self.input_size),
            "hh": (self.hidden_size, k),
            "hr": (k, self.hidden_size),
        }

    def _tensors(self) -> list[Tensor | None]:
        of = self._buffers
        kinds = ["weight_ih", "scale_ih", "weight_hh", "scale_hh", "bias_ih", "bias_hh"]
        if self.proj_size:
            kinds += ["weight_hr", "scale_hr"]
        return [of[kind + suffix] for suffix in self._suffixes for kind in kinds]

    def dequantized(self) -> dict[str, Tensor]:
        """The weights that this layer computes with, float32, by their names in a float layer."""
        found = {}
        for name, buffer in self._buffers.items():
            if buffer is None or not name.startswith(("weight_", "bias_")):
                continue
            if name.startswith("bias_"):
                found[name] = buffer
                continue
            scale = self._buffers[f"scale_{name.removeprefix('weight_')}"]
            assert scale is not None
            units = scale.shape[0] // buffer.shape[2]
            found[name] = int8.unpack(buffer, units, self._depth(name)) * scale.unsqueeze(1)
        return found

    def _depth(self, name: str) -> int:
        return self._sizes[name.removeprefix("weight_")[:2]][1]

    def _check_tensor(self, name: str, tensor: Tensor) -> None:
        if tensor.dtype != torch.float32:
            raise ValueError(
                f"{self._title}: Expected {name} to be float32, got {tensor.dtype} instead"
            )
        if torch.is_grad_enabled() and tensor.requires_grad:
            raise RuntimeError(
                f"{self._title} is for inference, but {name} requires grad: call it under "
                "torch.no_grad(), or train the float layer and quantize it afterwards"
            )

    def _as_state(self, hx: Any) -> State:
        return as_states(self._title, self._spec().states, hx)

    def _check_state(self, hx: State, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
        """The states as a tuple; leading sizes, then K or H."""
        states = hx if isinstance(hx, tuple) else (hx,)
        for index, state in enumerate(states):
            name = "hx" if len(states) == 1 else f"hidden[{index}]"
            width = self.hidden_size if index else self.proj_size or self.hidden_size
            if state.shape != (*shape, width):
                raise RuntimeError(
                    f"Expected {name} size {(*shape, width)}, got {list(state.shape)}"
                )
            self._check_tensor(name, state)
        return tuple(state.contiguous() for state in states)

    def _check_features(self, input: Tensor) -> None:
        self._check_tensor("input", input)
        if input.shape[-1] != self.input_size:
            raise RuntimeError(
                "input.size(-1) must be equal to input_size. "
                f"Expected {self.input_size}, got {input.shape[-1]}"
            )

    def _run(
        self,
        rows: Tensor,
        states: tuple[Tensor, ...],
        steps: int,
        batch: int,
        batch_sizes: Tensor | None,
        num_layers: int = 1,
        reverse: tuple[bool, ...] = (False,),
    ) -> tuple[Tensor, State]:
        output, finals = int8.layers(
            rows, states, cell=self.cell, tensors=self._tensors(), hidden_size=self.hidden_size,
            proj_size=self.proj_size, num_layers=num_layers, reverse=reverse, steps=steps,
            batch=batch, batch_sizes=batch_sizes,
        )  # fmt: skip
        return output, tuple(finals) if len(finals) > 1 else finals[0]
