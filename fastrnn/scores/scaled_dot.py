"""``q . k / sqrt(E)`` (Vaswani et al., *Attention is all you need*, 2017)."""

from . import ScoreSpec
from .dot import check, prepare

SPEC = ScoreSpec(
    "scaled_dot", "dot", prepare, check, scale=lambda width: width**-0.5 if width else 1.0
)
