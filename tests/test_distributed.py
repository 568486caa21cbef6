"""DistributedDataParallel over gloo: two processes find the gradients that one finds alone."""

import os

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import fastrnn

PROCESSES = 2


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lstm = fastrnn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=4)
        self.gru = fastrnn.GRU(8, 4)
        self.cell = fastrnn.RNNCell(4, 2)

    def forward(self, x):
        return self.cell(self.gru(self.lstm(x)[0])[0][-1])


def inputs():
    return torch.rand(6, 4 * PROCESSES, 3, generator=torch.Generator().manual_seed(1))


def work(rank, folder):
    """Its share of the batch; saves its gradients."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES
    )
    model = DistributedDataParallel(Model())
    for _ in range(2):  # the second time with the buckets in the order of the first backward
        model.zero_grad()
        model(inputs().chunk(PROCESSES, dim=1)[rank]).square().sum().backward()
    torch.save([p.grad for p in model.parameters()], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="torch was built without it")
def test_two_processes(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=PROCESSES)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES)]

    model = Model()
    model(inputs()).square().sum().backward()
    for one, other, parameter in zip(*found, model.parameters(), strict=True):
        assert torch.equal(one, other)
        # DistributedDataParallel takes the mean over processes.
        torch.testing.assert_close(one * PROCESSES, parameter.grad)
