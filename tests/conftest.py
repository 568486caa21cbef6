"""Triton's kernels are tested in its interpreter, where no GPU is; asked for before its import."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
