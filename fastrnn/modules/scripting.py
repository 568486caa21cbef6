"""What `torch.jit.script` is told: it cannot read these layers."""

from __future__ import annotations

from typing import NoReturn

from torch import nn


def refuse_scripting(module: nn.Module) -> NoReturn:
    """As a class's ``__prepare_scriptable__``, which `torch.jit.script` calls before it reads.

    That hook could hand over a layer of torch's instead, but `torch.jit.script` would put it into
    the caller's own model as well.
    """
    raise RuntimeError(
        f"torch.jit.script cannot read {type(module).__name__}: script "
        "fastrnn.to_torch(copy.deepcopy(model)), where torch has such a layer, or use "
        "torch.jit.trace, torch.export or torch.compile, which can"
    )
