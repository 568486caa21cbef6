"""Products of float32 in terms of bfloat16, in PyTorch: what csrc/split.h's are held against."""

import torch


def narrow(tensor):
    return tensor.bfloat16().float()


def terms_of(tensor, count):
    """So many numbers of bfloat16, the largest first, whose sum is nearly or wholly the tensor."""
    found = []
    for _ in range(count):
        found.append(narrow(tensor))
        tensor = tensor - found[-1]
    return found


def pairs(count):
    """Which terms are multiplied with which, the smallest products first."""
    found = [(i, j) for i in range(count) for j in range(count) if i + j < count]
    return sorted(found, key=lambda pair: -sum(pair))


def multiply(a, b, count):
    x, y = terms_of(a, count), terms_of(b, count)
    return sum(x[i] @ y[j] for i, j in pairs(count))


class InTerms(torch.overrides.TorchFunctionMode):
    """Products in so many terms, forward and backward, and nothing else."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, b, count):
            ctx.save_for_backward(a, b)
            ctx.count = count
            return multiply(a, b, count)

        @staticmethod
        def backward(ctx, grad):
            a, b = ctx.saved_tensors
            grad_a = multiply(grad, b.transpose(-1, -2), ctx.count)
            return grad_a, multiply(a.transpose(-1, -2), grad, ctx.count), None

    def __init__(self, count):
        super().__init__()
        self.count = count

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = function.__name__
        if name in ("matmul", "__matmul__"):
            return self.Product.apply(*args, self.count)
        if name == "linear":
            product = self.Product.apply(args[0], args[1].t(), self.count)
            return product if len(args) < 3 or args[2] is None else product + args[2]
        return function(*args, **(kwargs or {}))
