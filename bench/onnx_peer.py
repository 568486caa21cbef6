"""onnxruntime as a peer: the model from torch's weights, and a call of it at its fastest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cases import GATES, Case
from .workload import Workload

# Where ONNX's gates (i o f c; z r h) lie among torch's (i f g o; r z n).
ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}
STATES = {"lstm": ("h", "c"), "gru": ("h",), "rnn": ("h",)}


def why_not(case: Case) -> str | None:
    """Why onnxruntime has no part in a case."""
    if case.mode != "inference":
        return "it only infers"
    if case.dtype != "float32":
        return "its recurrent operators are float32 only"
    if case.packed:
        return "it has no packed sequences"
    if case.layers > 1 or case.bidirectional:
        return "compared on single layers only"
    if case.form != "layer":
        return "it has no cells; its step is among those of the layers"
    return None


def model(workload: Workload) -> bytes:
    """The case as a serialised ONNX model of one node."""
    from onnx import TensorProto, helper, numpy_helper

    case, states = workload.case, STATES[workload.case.cell]

    def tensor(name: str, *parts: str) -> Any:
        stacked = torch.cat([_reorder(case, workload.weights[f"{part}_l0"]) for part in parts])
        return numpy_helper.from_array(stacked.unsqueeze(0).numpy(), name)

    weights = [
        tensor("W", "weight_ih"),
        tensor("R", "weight_hh"),
        tensor("B", "bias_ih", "bias_hh"),
    ]
    shape = [1, case.batch, case.hidden]
    given = [f"{name}_0" for name in states] if workload.states else []
    # torch resets after the recurrent product, ONNX by default before it.
    options: dict[str, Any] = {"linear_before_reset": 1} if case.cell == "gru" else {}
    node = helper.make_node(
        case.cell.upper(),
        ["x", "W", "R", "B", *([""] if given else []), *given],  # "": no sequence lengths
        ["y", *(f"{name}_n" for name in states)],
        hidden_size=case.hidden,
        **options,
    )

    def value(name: str, shape: list[int]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node],
        case.name,
        [
            value("x", [case.steps, case.batch, case.hidden]),
            *(value(name, shape) for name in given),
        ],
        [
            value("y", [case.steps, 1, case.batch, case.hidden]),
            *(value(f"{name}_n", shape) for name in states),
        ],
        weights,
    )
    # Older than what any onnxruntime of today reads.
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    serialized: bytes = found.SerializeToString()
    return serialized


def _reorder(case: Case, weight: Tensor) -> Tensor:
    gates = weight.chunk(GATES[case.cell])
    return torch.cat([gates[index] for index in ORDER[case.cell]])


def prepare(workload: Workload) -> Callable[[], Any]:
    """A call on buffers bound once, which spares it copies and Python's dictionaries."""
    import onnxruntime

    case = workload.case
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Between calls its threads would spin on for tens of milliseconds, in the others' turns.
    # Within a call they still may: measured back to back, this costs it nothing.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        model(workload), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    names = STATES[case.cell]
    state = (1, case.batch, case.hidden)
    shapes = {"y": (case.steps, *state), **{f"{name}_n": state for name in names}}
    # The runtime works in these very arrays. NaN: what a call leaves unwritten shows.
    results = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
    for name, array in results.items():
        binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    assert isinstance(workload.input, Tensor)
    given = {"x": workload.input.numpy()}
    given |= {f"{name}_0": s.numpy() for name, s in zip(names, workload.states, strict=False)}
    for name, array in given.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    views = (
        torch.from_numpy(results["y"]).squeeze(1),
        tuple(torch.from_numpy(results[f"{name}_n"]) for name in names),
    )

    def infer(_keep: Any = given) -> Any:
        session.run_with_iobinding(binding)
        return views

    return infer
