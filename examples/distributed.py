"""The language model in two processes: the loss of one, by DDP and by FSDP.

Each process takes half of the batch. DistributedDataParallel keeps the weights everywhere and
averages gradients; fully_shard keeps a half of the weights and of Adam's state in each process. By
gloo on CPUs, by nccl on GPUs. Starts `torchrun` itself; or:

    torchrun --nproc-per-node 2 examples/distributed.py [--steps 60 --hidden 128 --layers torch]
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fastrnn
from data import Alphabet, manual
from fastrnn.cli import rounding
from fastrnn.models.language_model import EMBEDDING, LanguageModel
from harness import Metric, Options, Result, build, compare, main, picture, table

PROCESSES, LENGTH, BATCH = 2, 64, 32
KINDS = ("DDP", "FSDP")


class Text:
    """The manual in random windows, the same in every process."""

    def __init__(self, options: Options) -> None:
        text = "\n\n".join(manual()[0])
        self.alphabet, self.device = Alphabet(text), options.device
        self.tokens = self.alphabet.encode(text)

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        first = torch.randint(len(self.tokens) - LENGTH - 1, (BATCH,), generator=generator)
        window = self.tokens[first + torch.arange(LENGTH + 1)[:, None]].to(self.device)
        return window[:-1], window[1:]

    def model(self, options: Options) -> LanguageModel:
        def make() -> LanguageModel:
            layer = fastrnn.LSTM(EMBEDDING, options.hidden)
            return LanguageModel(len(self.alphabet), layer, options.hidden)

        return build(options, make)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0])[0].flatten(0, 1), batch[1].flatten())


def train(model: nn.Module, text: Text, options: Options, rank: int, processes: int) -> list[float]:
    """The losses of the whole batch, of which each process sees its share."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(options.seed)
    losses = []
    for _ in range(options.steps):
        inputs, targets = (part.chunk(processes, 1)[rank] for part in text.batch(generator))
        value = loss(model, (inputs, targets))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        mean = value.detach() / processes
        if processes > 1:
            distributed.all_reduce(mean)
        losses.append(mean.item())
    return losses


def work(kind: str, options: Options) -> list[float]:
    """What each process of torchrun does."""
    cuda = options.device.startswith("cuda")
    if cuda:
        options = dataclasses.replace(options, device=f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(options.device)
    distributed.init_process_group("nccl" if cuda else "gloo")
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    text = Text(options)
    model: nn.Module = text.model(options)
    if kind == "FSDP":
        mesh = distributed.init_device_mesh("cuda" if cuda else "cpu", (processes,))
        fully_shard(model, mesh=mesh)
    else:
        model = DistributedDataParallel(model)
    try:
        return train(model, text, options, rank, processes)
    finally:
        distributed.destroy_process_group()


def launch(kind: str, options: Options) -> list[float]:
    """Run this file under torchrun and read what its first process found."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "losses.json"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        arguments = [
            f"--{name}={getattr(options, name)}"
            for name in ("steps", "hidden", "layers", "device", "seed")
        ]
        command = [*torchrun, f"--nproc-per-node={PROCESSES}", __file__, *arguments]
        environment = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **os.environ}
        environment |= {"FASTRNN_KIND": kind, "FASTRNN_LOSSES": str(path)}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        found: list[float] = json.loads(path.read_text())
        return found


def run(options: Options) -> Result:
    if "RANK" in os.environ:
        return worker(options)
    text = Text(options)
    result = Result()
    result.comparisons["LSTM"] = compare(text.model(options), text.batch, loss, options)
    one = train(text.model(options), text, options, 0, 1)
    nudged = text.model(options)
    rounding.nudge(nudged, torch.Generator().manual_seed(options.seed))
    control = rounding.relative_differences(train(nudged, text, options, 0, 1), one)
    result.losses["one process"] = one
    rows = [["one process", f"{one[-1]:.6f}", ""]]
    bound = rounding.bounds(control)
    for kind in KINDS:
        found = result.losses[f"two processes, {kind}"] = launch(kind, options)
        difference = rounding.relative_differences(found, one)
        over = max(d / b for d, b in zip(difference, bound, strict=True))
        name = f"{kind}: loss's difference from one process, over what rounding explains"
        result.metrics.append(Metric(name, over, 1.0, False))
        rows.append([f"two, {kind}", f"{found[-1]:.6f}", f"{max(difference):.1e}"])
    header = ["", f"loss of step {options.steps}", "largest relative difference"]
    result.details.append(table(header, rows))

    with picture(options, 1, 2, (10, 3.6)) as axes:
        for (name, losses), width in zip(result.losses.items(), (5, 2.5, 1), strict=True):
            axes[0, 0].plot(losses, linewidth=width, label=name)
            difference = rounding.relative_differences(losses, one)
            if name != "one process":
                axes[0, 1].plot(difference, ".", label=name)
        axes[0, 1].plot(bound, label="what rounding explains")
        axes[0, 1].set_yscale("log", nonpositive="mask")
        axes[0, 0].set(xlabel="step", ylabel="loss, nats a character")
        axes[0, 1].set(xlabel="step", ylabel="relative difference")
        for axis in axes[0]:
            axis.legend(fontsize=8)
    return result


def worker(options: Options) -> Result:
    """One of torchrun's processes; without `launch`, torchrun's user sees the losses printed."""
    result = Result()
    for kind in [os.environ["FASTRNN_KIND"]] if "FASTRNN_KIND" in os.environ else KINDS:
        losses = result.losses[kind] = work(kind, options)
        result.metrics.append(Metric(f"loss of the last step, {kind}", losses[-1]))
        if os.environ["RANK"] == "0" and "FASTRNN_LOSSES" in os.environ:
            Path(os.environ["FASTRNN_LOSSES"]).write_text(json.dumps(losses))
    return result


if __name__ == "__main__":
    main(run, steps=60, hidden=128)
