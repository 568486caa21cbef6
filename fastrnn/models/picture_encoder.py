"""A picture as a memory: its regions, for a decoder to look at one after the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .encoder import Encoded

__all__ = ["PictureEncoder"]


class PictureEncoder(nn.Module):
    """Convolutions, and each point of the last map as one state (Xu et al., *Show, attend and
    tell*, 2015).

    Every stage is a convolution of 3 x 3 points, a batch norm, ReLU; the stages but the last
    end with the largest of each 2 x 2 points. A learned vector for each place is added, since
    attention knows none.

    Args:
        height, width: of the pictures.
        channels: of the stages' outputs; the last is M.
        dropout: of the states, in training.

    Attributes:
        rows, columns: of the map; region ``r * columns + c`` is its point ``(r, c)``.
        memory_size: M.
    """

    def __init__(
        self, height: int, width: int, channels: tuple[int, ...], *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        before = 1
        for stage, after in enumerate(channels):
            stages += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
            if stage < len(channels) - 1:
                stages.append(nn.MaxPool2d(2))
            before = after
        self.stages = nn.Sequential(*stages)
        halvings = len(channels) - 1
        self.rows, self.columns = height >> halvings, width >> halvings
        self.memory_size = before
        self.places = nn.Parameter(torch.randn(self.rows * self.columns, before) * before**-0.5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pictures: Tensor, lengths: Tensor | None = None) -> Encoded:
        """Pictures ``[B, height, width]`` as ``rows * columns`` states; their mean is the last.

        All regions count: ``lengths`` is there because other encoders have it, and not read.
        """
        found = self.stages(pictures.unsqueeze(1)).flatten(2).transpose(1, 2)
        states = self.dropout(found + self.places)
        regions = states.new_full((len(states),), states.shape[1], dtype=torch.int64)
        return Encoded(states, regions, states.mean(1).unsqueeze(0))
