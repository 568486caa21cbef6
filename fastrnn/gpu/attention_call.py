"""One call of attention as its kernels see it: tensors they can walk, constants, what to launch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import philox
from ..reference_attention import Inputs
from .attention_plan import Problem, Tiles, block, choose
from .forms import _device
from .plan import Device

# A tile's offsets are 32 bits: of 128 rows so far apart they fit.
_FARTHEST = 1 << 23
_PAD = 128  # columns end with a whole tile

# A device, and a precision, to plan for in place of what is there (`fastrnn.gpu.aot`).
planned_for: tuple[Device, str] | None = None
# Whether two tanh of the additive score share a reciprocal where their size allows it.
PAIRED = True


def float32_product() -> str:
    """As torch's own matrix products: TF32 by leave alone, else split in three."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def walkable(tensor: Tensor) -> Tensor:
    """Rows dense, and near enough to each other."""
    dense = tensor.stride(-1) == 1 or tensor.shape[-1] < 2
    return tensor if dense and tensor.stride(-2) < _FARTHEST else tensor.contiguous()


class Call:
    """Sizes, tensors and constants; letters as in `fastrnn.reference_attention`."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        query, key, value = inputs.query, inputs.key, inputs.value
        self.B, self.H, self.Tq, self.E = query.shape
        self.Hk, self.Tk, self.Ev = value.shape[1:]
        self.groups = self.H // max(self.Hk, 1)
        self.additive = inputs.kind == "additive"
        device, precision = planned_for or (_device(query.device), float32_product())
        self.device = device
        self.precision = precision if query.dtype == torch.float32 else "tf32"
        self.problem = Problem(
            query.dtype, inputs.kind, self.B * self.H, self.groups, self.Tq, self.Tk, self.E,
            self.Ev, self.precision,
            inputs.dropout_p > 0 or inputs.centre is not None or inputs.extra > 0,
            inputs.mask is not None or bool(inputs.softcap),
        )  # fmt: skip
        self.value = walkable(value)
        self.nothing = value  # in place of what there is not
        if self.additive:
            self._lay_out_columns()
        else:
            self.query, self.key = walkable(query), walkable(key)
            self.E2 = 0
            self.tops = (self.nothing, self.nothing)
            self.vector = self.nothing
            self.query_steps = self.query.stride()[:3]
            self.key_steps = self.key.stride()[:3]
        self._lay_out_options()

    def _lay_out_columns(self) -> None:
        from ..kernels import attention_additive as kernels

        inputs = self.inputs
        assert inputs.vector is not None
        self.E2 = self.E + self.E % 2
        self.vector = inputs.query.new_zeros(self.B, self.H, self.E2, dtype=torch.float32)
        self.vector[..., : self.E] = inputs.vector
        found = []
        for tensor in (inputs.query, inputs.key):
            tensor = walkable(tensor)
            batch, heads, length, _ = tensor.shape
            padded = -(-length // _PAD) * _PAD
            columns = self.vector.new_empty(batch, heads, 2, self.E2, padded)
            blocks = padded // kernels.TOP.value
            top = self.vector.new_empty(batch, heads, blocks)
            if columns.numel():
                kernels.columns[(batch * heads * blocks,)](
                    tensor, columns, top, *tensor.stride()[:3], heads, length, E=self.E, E2=self.E2,
                    BLOCK_E=32, TOP=kernels.TOP.value, num_warps=4, enable_fp_fusion=True,
                )  # fmt: skip
            found.append((columns, top))
        (self.query, query_top), (self.key, key_top) = found
        self.tops = (query_top, key_top)
        self.query_steps = (0, 0, self.query.shape[-1])
        self.key_steps = (0, 0, self.key.shape[-1])

    def _lay_out_options(self) -> None:
        inputs = self.inputs
        self.ranged = inputs.first is not None
        self.first = self.last = self.nothing
        self.range_steps: tuple[int, ...] = (0, 0, 0)
        if inputs.first is not None and inputs.last is not None:
            self.first, self.last = inputs.first, inputs.last
            if self.first.stride() != self.last.stride():
                self.first, self.last = self.first.contiguous(), self.last.contiguous()
            self.range_steps = self.first.stride()
        self.mask = self.nothing
        self.mask_kind = 0
        self.mask_steps: tuple[int, ...] = (0, 0, 0, 0)
        if inputs.mask is not None:
            boolean = inputs.mask.dtype == torch.bool
            self.mask = inputs.mask.view(torch.uint8) if boolean else inputs.mask
            self.mask_kind = 1 if boolean else 2
            self.mask_steps = tuple(
                0 if size == 1 else step
                for size, step in zip(self.mask.shape, self.mask.stride(), strict=True)
            )
        self.centre = self.width = self.nothing
        if inputs.centre is not None and inputs.width is not None:
            self.centre = inputs.centre.float().contiguous()
            self.width = inputs.width.float().contiguous()
        self.seed = self.nothing if inputs.seed is None else inputs.seed
        p = inputs.dropout_p
        # Less 2^31, as the kernels compare; all bits are below the last.
        self.threshold = min(philox.threshold(p), 2**32 - 1) - 2**31
        self.rescale = 1.0 if p == 0 else 1 / (1 - p) if p < 1 else 0.0

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return self.H, self.groups, self.Tq, self.Tk

    @property
    def noise(self) -> tuple[int, int]:
        return max(self.inputs.drawn_heads, 1), self.threshold

    @property
    def score(self) -> tuple[float, float, float]:
        return self.inputs.scale, self.inputs.softcap or 1.0, self.rescale

    def tiles(self, which: str) -> Tiles:
        return choose(self.problem, self.device, which)

    def constants(self, tiles: Tiles) -> dict[str, Any]:
        """Those that all kernels take."""
        return {
            "KIND": self.inputs.kind, "E": self.E, "E2": self.E2,
            "BLOCK_E": block(self.E) if not self.additive else 16,
            "BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n, "RANGED": self.ranged,
            "CAPPED": bool(self.inputs.softcap), "PAIRED": self.additive and PAIRED,
            "PART": tiles.part, "PRECISION": self.precision,
            "GAUSS": self.inputs.centre is not None, "DROP": self.inputs.dropout_p > 0,
            "num_warps": tiles.warps, "num_stages": tiles.stages, "enable_fp_fusion": True,
        }  # fmt: skip
