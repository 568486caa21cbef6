"""The rule by which a kernel equals torch, and the runs that it compares.

The oracle is the reference in float64 on the same rounded inputs. A kernel passes when
its error is at most twice that of torch's own layer at the same dtype, plus a floor.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import random
import zlib
from dataclasses import dataclass, replace
from typing import Any

import torch

import fastrnn
from fastrnn import _C, functional
from fastrnn.cells import CELLS
from fastrnn.forms import weight_shapes

# How far an error may lie beyond twice torch's, in ulps of the dtype (`torch.finfo.eps`).
#
# Two sums of the same numbers round differently by chance: where torch happens to be all
# but exact, twice its error is no bound. What is left to chance are some roundings of the
# input product, the gates and the weight products. In float64 the oracle rounds too, and
# often just as torch does, whose error then reads as nearly none. In the narrow dtypes
# everything is added in float32 and rounded once.
#
# Measured 2026-11-21 on an AMD EPYC (Zen 4, AVX-512) with torch 2.13: the CASES of
# test_equality.py, three instruction sets, 22 seeds, 60,000 errors a dtype. The most that
# was needed: float32 8.0, float64 9.2, bfloat16 0.6, float16 0.5. Below is at least 1.7 times
# that, for fresh inputs not to fail by chance.
FLOOR_IN_ULPS = {torch.float32: 16, torch.float64: 16, torch.bfloat16: 2, torch.float16: 2}
FLOOR = {dtype: ulps * torch.finfo(dtype).eps for dtype, ulps in FLOOR_IN_ULPS.items()}
DTYPES = tuple(FLOOR)

# Instruction sets whose kernels differ: the recurrent ones of avx512bf16 are those of avx512, but
# for bfloat16.
ISAS = [isa for isa in _C.isas() if isa != "avx512" or "avx512bf16" not in _C.isas()]

# Inputs are fresh in every session; a failure prints this, to be set for a repetition.
SEED = int(os.environ.get("FASTRNN_TEST_SEED") or random.SystemRandom().randrange(2**31))


@dataclass(frozen=True)
class Case:
    """One call of a stack of layers."""

    cell: str
    dtype: torch.dtype
    hidden: int
    batch: int = 3
    steps: int = 4
    features: int = 5
    layers: int = 1
    bidirectional: bool = False
    projection: int = 0
    bias: bool | str = True  # or "single"
    form: str = "dense"  # or "batch_first" or "packed"
    hx: bool = True

    def __str__(self) -> str:
        parts = [self.cell, str(self.dtype).removeprefix("torch.")]
        parts += [f"T{self.steps}", f"B{self.batch}", f"I{self.features}", f"H{self.hidden}"]
        parts += [f"P{self.projection}"] * bool(self.projection)
        parts += [f"{self.layers}layers"] * (self.layers > 1)
        parts += ["bidirectional"] * self.bidirectional + ["nobias"] * (not self.bias)
        parts += ["single"] * (self.bias == "single")
        parts += [self.form] * (self.form != "dense") + ["nohx"] * (not self.hx)
        return "-".join(parts)

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def width(self) -> int:
        """Of h: K in the shapes of `fastrnn.reference`."""
        return self.projection or self.hidden

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Each weight's shape, in torch's order."""
        found = {}
        for layer, direction in itertools.product(range(self.layers), range(self.directions)):
            below = self.directions * self.width if layer else self.features
            shapes = weight_shapes(CELLS[self.cell], self.bias, below, self.hidden, self.projection)
            suffix = f"_l{layer}" + "_reverse" * direction
            found |= {name + suffix: shape for name, shape in shapes.items()}
        return found

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        count = self.layers * self.directions
        widths = (self.width, *[self.hidden] * (len(CELLS[self.cell].states) - 1))
        states = zip(CELLS[self.cell].states, widths, strict=True)
        return {name: (count, self.batch, width) for name, width in states}


@dataclass(frozen=True)
class Arguments:
    """What a call gets, and the gradients that come back to its results."""

    input: torch.Tensor
    batch_sizes: torch.Tensor | None
    states: tuple[torch.Tensor, ...]
    weights: tuple[torch.Tensor, ...]
    grads: tuple[torch.Tensor, ...]

    def to(self, dtype: torch.dtype) -> Arguments:
        return replace(
            self,
            input=self.input.to(dtype),
            states=tuple(tensor.to(dtype) for tensor in self.states),
            weights=tuple(tensor.to(dtype) for tensor in self.weights),
            grads=tuple(tensor.to(dtype) for tensor in self.grads),
        )


def draw(case: Case, seed: int) -> Arguments:
    """Fresh arguments: normal inputs, states and gradients, weights as torch draws them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(case.dtype)

    def uniform(*shape):
        drawn = torch.rand(shape, dtype=torch.float64, generator=generator)
        return ((2 * drawn - 1) * case.hidden**-0.5).to(case.dtype)

    batch_sizes, leading = None, (case.steps, case.batch)
    if case.form == "batch_first":
        leading = (case.batch, case.steps)
    if case.form == "packed":
        lengths = torch.randint(1, case.steps + 1, (case.batch,), generator=generator)
        lengths[0] = case.steps
        batch_sizes = (lengths > torch.arange(case.steps).unsqueeze(1)).sum(1)
        leading = (int(batch_sizes.sum()),)
    return Arguments(
        input=normal(*leading, case.features),
        batch_sizes=batch_sizes,
        states=tuple(
            # A normaliser is a sum of exponentials.
            normal(*shape).abs() + 0.5 if name == "n" else normal(*shape)
            for name, shape in case.state_shapes.items()
            if case.hx
        ),
        weights=tuple(uniform(*shape) for shape in case.weight_shapes.values()),
        grads=(
            normal(*leading, case.directions * case.width),
            *(normal(*shape) for shape in case.state_shapes.values()),
        ),
    )


# --- who computes ---------------------------------------------------------------------------


def call_fastrnn(
    case: Case, arguments: Arguments, backend: str | None = "cpp"
) -> tuple[torch.Tensor, ...]:
    """Output and final states of `fastrnn.functional`."""
    options: dict[str, object] = {
        "bias": case.bias,
        "num_layers": case.layers,
        "bidirectional": case.bidirectional,
        "batch_first": case.form == "batch_first",
        "batch_sizes": arguments.batch_sizes,
        "backend": backend,
    }
    hx = arguments.states or None
    if CELLS[case.cell].torch_layer is None or case.bias == "single":
        output, finals = functional.recurrent(
            case.cell, arguments.input, hx, arguments.weights, **options
        )
        return output, *finals
    name, _, nonlinearity = case.cell.partition("_")
    if nonlinearity:
        options["nonlinearity"] = nonlinearity
    hx = hx[0] if hx and len(case.state_shapes) == 1 else hx
    output, finals = getattr(functional, name)(arguments.input, hx, arguments.weights, **options)
    return (output, finals) if isinstance(finals, torch.Tensor) else (output, *finals)


def call_reference(case: Case, arguments: Arguments) -> tuple[torch.Tensor, ...]:
    return call_fastrnn(case, arguments, "reference")


def _has_torch(case: Case) -> bool:
    layer = CELLS[case.cell].torch_layer
    return layer is not None and (layer == "LSTM" or not case.projection) and case.bias != "single"


def call_torch(case: Case, arguments: Arguments) -> tuple[torch.Tensor, ...]:
    """Output and final states of torch's layer."""
    states = arguments.states or tuple(
        arguments.input.new_zeros(shape) for shape in case.state_shapes.values()
    )
    hx = states if len(states) > 1 else states[0]
    weights = (list(arguments.weights), case.bias, case.layers, 0.0, False, case.bidirectional)
    layer = getattr(torch._VF, case.cell)
    if arguments.batch_sizes is not None:
        return layer(arguments.input, arguments.batch_sizes, hx, *weights)
    return layer(arguments.input, hx, *weights, case.form == "batch_first")


def infer(case: Case, arguments: Arguments) -> dict[str, torch.Tensor]:
    """Output and final states without gradients, of torch's layers by the shortest way."""
    if CELLS[case.cell].torch_layer is None:
        with torch.no_grad():
            found = call_fastrnn(case, arguments)
        names = ["output", *(f"{name}_n" for name in case.state_shapes)]
        return dict(zip(names, found, strict=True))
    nonlinearity = case.cell.partition("_")[2]
    options: dict[str, object] = {"nonlinearity": nonlinearity} if nonlinearity else {}
    layer = getattr(fastrnn, CELLS[case.cell].torch_layer)(
        case.features,
        case.hidden,
        case.layers,
        bias=case.bias,
        bidirectional=case.bidirectional,
        batch_first=case.form == "batch_first",
        proj_size=case.projection,
        dtype=case.dtype,
        **options,
    )
    layer.load_state_dict(dict(zip(case.weight_shapes, arguments.weights, strict=True)))
    hx = arguments.states or None
    with torch.no_grad():
        output, finals = layer(arguments.input, hx[0] if hx and len(case.state_shapes) == 1 else hx)
    finals = (finals,) if isinstance(finals, torch.Tensor) else finals
    names = ["output", *(f"{name}_n" for name in case.state_shapes)]
    return dict(zip(names, (output, *finals), strict=True))


def run(call, case: Case, arguments: Arguments) -> dict[str, torch.Tensor]:
    """Results and gradients by name: output, final states, and every gradient."""
    names = ["input", *(f"{name}_0" for name in case.state_shapes if case.hx), *case.weight_shapes]
    given = (arguments.input, *arguments.states, *arguments.weights)
    leaves = [tensor.detach().clone().requires_grad_() for tensor in given]
    count = 1 + len(arguments.states)
    results = call(
        case,
        replace(
            arguments,
            input=leaves[0],
            states=tuple(leaves[1:count]),
            weights=tuple(leaves[count:]),
        ),
    )
    gradients = torch.autograd.grad(results, leaves, arguments.grads)
    found = dict(
        zip(["output", *(f"{name}_n" for name in case.state_shapes)], results, strict=True)
    )
    found |= {f"d{name}": grad for name, grad in zip(names, gradients, strict=True)}
    return {name: tensor.detach() for name, tensor in found.items()}


# --- the rule -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """Arguments, what the oracle makes of them, and what torch does."""

    arguments: Arguments
    oracle: dict[str, torch.Tensor]
    torch: dict[str, torch.Tensor]


class _Kink(torch.overrides.TorchFunctionMode):
    """Notes how near to relu's kink a pre-activation came, against the largest of its step."""

    nearest = math.inf

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.relu:
            sizes = args[0].detach().abs()
            sizes = sizes[sizes != 0]  # a sum of nothing but zeros is zero for everybody
            if sizes.numel():
                self.nearest = min(self.nearest, float(sizes.min() / sizes.max()))
        return function(*args, **(kwargs or {}))


class _RoundedOperands(torch.overrides.TorchFunctionMode):
    """Products of what the dtype can hold, forward and backward, as torch's layers have them.

    The reference keeps h and the gates' gradients wide. Kernels do as well for float16, but for
    the factors of a projection's gradient, which they return in float16: of the products it is
    the one that makes h narrower.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, function, types, args=(), kwargs=None):
        rounds = function.__name__ in ("matmul", "__matmul__")
        if rounds and self.dtype == torch.float16:
            row_by_matrix = args[1].dim() > 1  # else a matrix by a column
            given, made = args[1].shape[-2:] if row_by_matrix else reversed(args[0].shape[-2:])
            rounds = made < given
        if not rounds:
            return function(*args, **(kwargs or {}))
        product = function(*(self.rounded(tensor) for tensor in args))
        if product.requires_grad:
            product.register_hook(self.rounded)
        return product

    def rounded(self, tensor):
        return tensor.to(self.dtype).to(tensor.dtype)


def kink_allows(case: Case) -> bool:
    """Whether a draw may be expected that keeps all pre-activations away from relu's kink.

    At the kink the derivative jumps, and the last bit decides to which side: there
    torch's layer and the oracle are as far apart as can be, and nothing is to be learnt.
    """
    values = case.batch * case.hidden * case.steps * case.directions * case.layers
    return (
        "relu" not in CELLS[case.cell].step.__code__.co_names
        or values * torch.finfo(case.dtype).eps < 1
    )


@functools.lru_cache(maxsize=4)  # the instruction sets take their turns on one case
def samples(case: Case, seed: int = SEED) -> list[Sample]:
    """As many draws as make the error of a small tensor more than a matter of luck.

    One recurrence's state counts: all that comes after it has the error of its few numbers.
    """
    states = (shape[1:] for shape in case.state_shapes.values())
    input = (case.steps, case.batch, case.features)
    shapes = (*case.weight_shapes.values(), *states, input)
    wanted = math.ceil(32 / min(math.prod(shape) for shape in shapes))
    found: list[Sample] = []
    for attempt in itertools.count():
        arguments = draw(case, zlib.crc32(f"{case} {seed} {attempt}".encode()))
        with threads(1), _Kink() as kink:  # many small steps: a team would only be in the way
            oracle = run(call_reference, case, arguments.to(torch.float64))
            theirs = _theirs(case, arguments, oracle)
        if kink.nearest > torch.finfo(case.dtype).eps:
            found.append(Sample(arguments, oracle, theirs))
        if len(found) == wanted:
            return found
        assert attempt < 1000, f"no draw of {case} keeps away from relu's kink"


def of_reference(compute, arguments, dtype: torch.dtype, oracle: dict[str, torch.Tensor]):
    """What stands for torch's results where it has no such layer; ``compute`` runs the reference.

    In float64 the reference is the oracle and would seem free of error, however ill-conditioned
    the draw (LayerNorm of a row of nearly equal numbers). Its error is then that of float32 on the
    same numbers, scaled to float64's rounding.
    """
    if dtype in (torch.bfloat16, torch.float16):
        with _RoundedOperands(dtype):
            return compute(arguments)
    if dtype != torch.float64:
        return compute(arguments)
    narrow = arguments.to(torch.float32)
    rounded, exact = compute(narrow), compute(narrow.to(torch.float64))
    scale = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    return {
        name: value + (rounded[name].double() - exact[name]) * scale
        for name, value in oracle.items()
    }


def _theirs(case: Case, arguments: Arguments, oracle: dict[str, torch.Tensor]):
    if _has_torch(case):
        return run(call_torch, case, arguments)
    return of_reference(
        lambda given: run(call_reference, case, given), arguments, case.dtype, oracle
    )


def error(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> tuple[float, float]:
    """Of all tensors together: relative in the Frobenius norm, and largest to largest."""
    right = torch.cat([tensor.flatten() for tensor in expected])
    wrong = torch.cat([tensor.double().flatten() for tensor in actual]) - right
    if not right.any():
        return float(wrong.norm()), float(wrong.abs().max())
    return float(wrong.norm() / right.norm()), float(wrong.abs().max() / right.abs().max())


def assert_equal(case: Case, call=call_fastrnn, seed: int = SEED) -> None:
    """Hold a call against the rule: outputs, final states and every gradient."""
    _hold(case, seed, lambda arguments: run(call, case, arguments))


def assert_inference_equal(case: Case, seed: int = SEED) -> None:
    """Hold a layer without gradients against the rule: outputs and final states."""
    _hold(case, seed, lambda arguments: infer(case, arguments))


def _hold(case: Case, seed: int, computed) -> None:
    drawn = samples(case, seed)
    found = [computed(sample.arguments) for sample in drawn]
    faults = []
    for name in found[0]:
        for results, sample in zip(found, drawn, strict=True):
            assert results[name].shape == sample.torch[name].shape, name
            assert results[name].dtype == sample.torch[name].dtype, name
        expected = [sample.oracle[name] for sample in drawn]
        ours = error([results[name] for results in found], expected)
        theirs = error([sample.torch[name] for sample in drawn], expected)
        for norm, our, their in zip(("norm", "largest"), ours, theirs, strict=True):
            bound = 2 * their + FLOOR[case.dtype]
            if not our <= bound:
                faults.append(f"{name}: {norm} {our:.3g}, allowed {bound:.3g}, torch {their:.3g}")
    heading = f"{case} with {_C.isa()}, FASTRNN_TEST_SEED={seed}, relative errors:"
    assert not faults, "\n  ".join([heading, *faults])


@contextlib.contextmanager
def threads(count: int):
    """So many threads for torch and the kernels; afterwards again as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def use_isa(name: str):
    """The kernels of one instruction set; afterwards again those that were in use."""
    before = _C.isa()
    _C.use_isa(name)
    try:
        yield
    finally:
        _C.use_isa(before)


def has_isa(name: str) -> bool:
    """Whether it was built and this processor runs it; `amx_emulated` is listed nowhere."""
    try:
        with use_isa(name):
            return True
    except ValueError:
        return False


def flat(results: Any) -> list[torch.Tensor]:
    """Nested tuples of tensors as one list."""
    if isinstance(results, torch.Tensor):
        return [results]
    return [tensor for result in results for tensor in flat(result)]


def equal(found: Any, expected: Any) -> bool:
    """To the bit."""
    return all(torch.equal(a, b) for a, b in zip(flat(found), flat(expected), strict=True))
