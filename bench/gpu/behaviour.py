"""How the backend behaves beside its numbers: graphs, compilation, streams, devices, autocast,
options of sequences; and that a launch which cannot run at once is refused.

On a CPU each goes the same way with something simpler in the device's place, so that what is
written here has run before it meets a GPU.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import fastrnn
from fastrnn import scan as boundary
from fastrnn.cells import CELLS
from fastrnn.options import Options

from .checks import Found

Check = Callable[[torch.device], str | None]


def _sizes(device: torch.device) -> list[tuple[int, int, int]]:
    """Hidden size, batch and steps, such that each form serves once."""
    if device.type != "cuda":
        return [(5, 3, 4)]
    return [(64, 16, 20), (512, 16, 20), (1024, 256, 8)]


def _layer(device: torch.device, hidden: int, **options: Any) -> Any:
    torch.manual_seed(0)
    return fastrnn.LSTM(24, hidden, backend="triton", **options).to(device, torch.bfloat16)


def _input(device: torch.device, batch: int, steps: int) -> Tensor:
    return torch.randn(steps, batch, 24, device=device).to(torch.bfloat16)


@contextlib.contextmanager
def _without_waiting(device: torch.device) -> Iterator[None]:
    """Whoever waits for the device in here gets an error."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _replayed(
    call: Callable[[], Tensor], change: Callable[[], None], device: torch.device
) -> Tensor:
    """What a captured call gives once its input has changed."""
    if device.type != "cuda":
        call()
        change()
        return call()
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call()
    change()
    graph.replay()
    torch.cuda.synchronize(device)
    return found


def graphs(device: torch.device) -> str | None:
    """A packed forward and backward in a CUDA graph, replayed on another input."""
    for hidden, batch, steps in _sizes(device):
        layer, x = _layer(device, hidden), _input(device, batch, steps)
        sizes = torch.arange(batch, batch - steps, -1).clamp(min=1)
        rows = int(sizes.sum())
        data = x.flatten(0, 1)[:rows].clone().requires_grad_()
        other = torch.randn_like(data)

        def call(layer: Any = layer, data: Tensor = data, sizes: Tensor = sizes) -> Tensor:
            output = layer(nn.utils.rnn.PackedSequence(data, sizes))[0].data
            (grad,) = torch.autograd.grad(output, data, torch.ones_like(output))
            return torch.cat([output.flatten(), grad.flatten()])

        def change(data: Tensor = data, other: Tensor = other) -> None:
            with torch.no_grad():
                data.copy_(other)

        found = _replayed(call, change, device)
        if not torch.equal(found, call()):
            return f"H {hidden}: a replayed graph gives other bits"
    return None


def compiled(device: torch.device) -> str | None:
    """``torch.compile`` in one graph, on a GPU; the interpreter cannot be compiled."""
    layer, x = _layer(device, _sizes(device)[0][0]), _input(device, 3, 4)
    expected = layer(x)[0]
    run = torch.compile(layer, fullgraph=True) if device.type == "cuda" else layer
    found = run(x)[0]
    found.sum().backward()
    wrong = float((found - expected).abs().max().detach())
    return None if wrong <= 0.02 else f"differs by {wrong}"


def autocast(device: torch.device) -> str | None:
    """float32 weights under autocast give autocast's dtype."""
    layer = _layer(device, 5).float()
    with torch.autocast(device.type, torch.bfloat16):
        output = layer(_input(device, 3, 4).float())[0]
    output.float().sum().backward()
    return None if output.dtype == torch.bfloat16 else f"gives {output.dtype}"


def waits_for_nothing(device: torch.device) -> str | None:
    """Forward and backward of packed sequences, with the host never held up."""
    for hidden, batch, steps in _sizes(device):
        layer, x = _layer(device, hidden, bidirectional=True), _input(device, batch, steps)
        lengths = torch.arange(batch, 0, -1).clamp(max=steps)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths)
        layer(packed)[0].data.sum().backward()  # compiled, and its constants in place
        with _without_waiting(device):
            layer(packed)[0].data.sum().backward()
    return None


def several_devices(device: torch.device) -> str | None:
    """The last device, while the first is the current one."""
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    last = torch.device("cuda", count - 1) if device.type == "cuda" else device
    hidden, batch, steps = _sizes(device)[0]
    x = _input(torch.device("cpu"), batch, steps)
    with torch.no_grad():
        found = [_layer(each, hidden)(x.to(each))[0].cpu() for each in (device, last)]
    return None if torch.equal(*found) else f"{last} gives other bits than {device}"


def sequences(device: torch.device) -> str | None:
    """Lengths, resets, zoneout, dropout: against the float64 reference."""
    for hidden, batch, steps in _sizes(device):
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)

        def coin(*shape: int, generator: torch.Generator = generator) -> Tensor:
            return (torch.rand(shape, generator=generator) < 0.3).to(device)

        rows = steps * batch
        options = Options(
            lengths=torch.randint(0, steps + 1, (batch,), generator=generator).to(device),
            reset=coin(rows, 1),
            reset_to="given",
            reset_states=[normal(rows, 1, hidden), normal(rows, 1, hidden)],
            dropout=coin(1, batch, hidden).double() * 1.4,
            zoneout=[coin(rows, 1, hidden), coin(rows, 1, hidden)],
            all_states=True,
        )
        given = [normal(rows, 1, 4 * hidden), normal(4 * hidden, hidden) * hidden**-0.5]
        states = [normal(1, batch, hidden), normal(1, batch, hidden)]
        found = []
        for dtype, backend in ((torch.float64, "reference"), (torch.float32, "triton")):
            gates_x, weight, *first = [
                tensor.to(dtype).requires_grad_() for tensor in (*given, *states)
            ]
            narrow = replace(
                options,
                reset_states=[tensor.to(dtype) for tensor in options.reset_states],
                dropout=options.dropout.to(dtype) if options.dropout is not None else None,
            )
            out, finals, others = boundary.scan(
                CELLS["lstm"], gates_x, [weight], None, None, first, options=narrow,
                backend=backend,
            )  # fmt: skip
            total = out.sum() + sum(t.sum() for t in (*finals, *others))
            gradients = torch.autograd.grad(total, [gates_x, weight, *first])
            found.append([out, *finals, *others, *gradients])
        for index, (right, ours) in enumerate(zip(*found, strict=True)):
            wrong = float(((ours.double() - right).norm() / right.norm()).detach())
            if not wrong <= 2e-5:
                return f"H {hidden}: result {index} is off by {wrong:.2g}"
    return None


def refusal(device: torch.device) -> str | None:
    """More programs than run at once: an error, and the device works on."""
    from fastrnn.gpu import forms

    choose = forms.choose
    hidden, batch, steps = _sizes(device)[-1]
    layer, x = _layer(device, hidden), _input(device, batch, steps)

    def oversized(*arguments: Any) -> Any:
        plan = choose(*arguments)
        return replace(plan, programs=1 << 20) if plan.form == "stream" else plan

    if device.type == "cuda":
        forms.choose = oversized  # type: ignore[assignment]
        try:
            with torch.no_grad():
                layer(x)
            torch.cuda.synchronize(device)
            return "a million programs were not refused"
        except RuntimeError as error:
            print(f"      refused: {str(error)[:80]}", flush=True)
        finally:
            forms.choose = choose
    with torch.no_grad():
        layer(x)
    return None


def own_graphs(device: torch.device) -> str | None:
    """The simple form by a graph of its own, recorded at the second call: the bits of the steps."""
    torch.manual_seed(0)
    layer = fastrnn.LSTM(24, 33, backend="triton").to(device, torch.float64)
    inputs = [torch.randn(6, 3, 24, device=device, dtype=torch.float64) for _ in range(4)]

    def both(x: Tensor) -> list[Tensor]:
        output = layer(x)[0]
        return [output, *torch.autograd.grad(output.sum(), list(layer.parameters()))]

    expected = [both(x) for x in inputs]
    with fastrnn.use_cuda_graphs(), warnings.catch_warnings():
        warnings.simplefilter("error")  # that one could not be recorded
        found = [both(x) for x in inputs]
    same = all(torch.equal(a, b) for f, e in zip(found, expected, strict=True)
               for a, b in zip(f, e, strict=True))  # fmt: skip
    return None if same else "a replay gives other bits than the steps"


CHECKS: tuple[Check, ...] = (
    sequences, waits_for_nothing, graphs, own_graphs, compiled, autocast, several_devices, refusal,
)  # fmt: skip


def run_all(
    device: torch.device,
    deadline: float,
    say: Callable[[str], None],
    found: Found,
    after_fault: Callable[[], None],
) -> None:
    """Run the checks that ``found`` lacks, until the time is up."""
    for check in CHECKS:
        name = check.__name__
        if name in found:
            continue
        if time.monotonic() > deadline:
            break
        try:
            problem = check(device)
        except Exception as error:  # others follow
            problem = f"{type(error).__name__}: {error}"
        found[name] = [f"{name}: {problem}"] * (problem is not None)
        say(f"{'fails' if problem else 'ok':6}{name}")
        if problem:
            say(f"      {problem}")
            after_fault()
