"""How float32 products are done on matrix units.

Torch has two switches. ``torch.set_float32_matmul_precision`` is for products, and says "highest"
unless asked; ``torch.backends.cudnn.rnn.fp32_precision`` (or ``torch.backends.cudnn.allow_tf32``)
is for recurrent layers, and allows TF32 unless asked. Here:

- ``tf32`` (10 bits of mantissa) where both allow it;
- ``ieee`` where the recurrent one forbids it, which nobody does by accident: the simple form, whose
  products are torch's, serves;
- ``tf32x3`` else: each number is the sum of two of TF32, and three of the four products of these
  are kept. What is lost is 2^-22 of each product, as much as float32's own sum loses soon. Where an
  infinity makes the small terms NaN, Triton takes the large ones alone, which is what IEEE gives.
  A number within 2^-12 of the largest of float32 rounds to an infinity there, and denormal ones
  keep their large part alone.

The simple form's products follow the first switch alone.
"""

from __future__ import annotations

import torch


def float32_product() -> str:
    """``"tf32"``, ``"tf32x3"`` or ``"ieee"``."""
    rnn = getattr(torch.backends.cudnn, "rnn", None)
    allowed = getattr(rnn, "fp32_precision", None)
    if allowed is None:  # torch before 2.9
        allowed = "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"
    if allowed != "tf32":  # "ieee", or "none" once the older switch is off
        return "ieee"
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
