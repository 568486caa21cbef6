"""Lengths, resets, zoneout and the other options of a scan: the reference, and the kernels."""

import itertools

import pytest
import torch
from sequences import FEATURES, by_hand, draw_scan, results

from fastrnn import reference
from fastrnn.cells import CELLS

CPU = torch.device("cpu")


def run_reference(scan):
    return reference.scan(
        CELLS[scan.cell], scan.gates_x, scan.weight_hh, scan.bias_hh, scan.weight_hr, scan.states,
        scan.batch_sizes, scan.reverse, (), scan.options,
    )  # fmt: skip


def possible(cell, features, projection, packed):
    """Of two kinds of resets, or of zoneout, a scan has one."""
    if sum(name.startswith("reset") for name in features) > 1:
        return False
    if {"zoneout", "zoneout_p"} <= set(features) or (packed and "lengths" in features):
        return False
    if projection and CELLS[cell].reads_h:
        return False
    return True


# --- the reference ----------------------------------------------------------------------------


@pytest.mark.parametrize("features", [(), *itertools.combinations(FEATURES, 1), FEATURES], ids=str)
@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "lstm", "gru"])
def test_the_reference_does_what_is_said(cell, features):
    """Outputs and gradients of every sequence, against a loop over it alone."""
    if features == FEATURES:  # all that go together
        features = [f for f in FEATURES if f not in ("reset zero", "reset initial", "zoneout_p")]
    tried = 0
    for projection, packed, reverse in itertools.product(
        (0, 2), (False, True), ([False], [True, False])
    ):
        if not possible(cell, features, projection, packed):
            continue
        tried += 1
        scan = draw_scan(
            cell, features, projection=projection, packed=packed, reverse=reverse, seed=tried
        )
        found, expected = results(run_reference, scan), results(by_hand, scan)
        for name in expected:
            torch.testing.assert_close(
                found[name], expected[name], msg=lambda m, n=name: f"{n}: {m}"
            )
    assert tried
