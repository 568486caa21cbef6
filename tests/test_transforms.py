"""The modules under what PyTorch does to a model: compiles it, exports it, maps it, watches it."""

import io

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, stack_module_state, vmap
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import fastrnn
from fastrnn import backends, cpp

FLOAT64 = {"dtype": torch.float64}
# Between them: every cell, every option that changes what is called.
MODULES = {
    "LSTM": ("LSTM", {}),
    "LSTM-projected": ("LSTM", {"proj_size": 2}),
    "LSTM-two-ways": ("LSTM", {"num_layers": 2, "bidirectional": True}),
    "GRU": ("GRU", {"batch_first": True}),
    "GRU-two-ways": ("GRU", {"bidirectional": True, "bias": False}),
    "RNN": ("RNN", {}),
    "RNN-relu": ("RNN", {"nonlinearity": "relu", "num_layers": 2}),
}
modules = pytest.mark.parametrize("kind", MODULES.values(), ids=MODULES)


def build(kind, seed=0, **options):
    """A module with 3 features and 4 units."""
    name, own = kind
    torch.manual_seed(seed)
    return getattr(fastrnn, name)(3, 4, **own, **{**FLOAT64, **options})


def uniform(*shape, dtype=torch.float64, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def flat(result):
    """The tensors of a result, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, PackedSequence):
        return [result.data]
    return [tensor for part in result for tensor in flat(part)]


def loss_of(result):
    """In which every number counts, and differently."""
    return sum(
        (t.double() * torch.linspace(-1, 2, t.numel(), dtype=torch.float64).view_as(t)).sum()
        for t in flat(result)
    )


def assert_same(found, expected, **tolerance):
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, **tolerance)


def step(call, module, *inputs):
    """Results, and the gradients of parameters and inputs, of one training step."""
    leaves = [t for t in flat(inputs) if t.is_floating_point()]
    for leaf in leaves:
        leaf.requires_grad_()
    results = flat(call(*inputs))
    gradients = torch.autograd.grad(loss_of(results), [*module.parameters(), *leaves])
    return [*results, *gradients]


# --- torch.compile ----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()


def compiled(function, **options):
    return torch.compile(function, fullgraph=True, **{"backend": "aot_eager", **options})


def states_of(module, *batch):
    count = module.num_layers * (2 if module.bidirectional else 1)
    h = uniform(count, *batch, module.proj_size or module.hidden_size, seed=1)
    if not isinstance(module, fastrnn.LSTM):
        return h
    return h, uniform(count, *batch, module.hidden_size, seed=2)


FORMS = {
    "batched": lambda module: [uniform(5, 2, 3)],
    "states": lambda module: [uniform(2, 2, 3), states_of(module, 2)],
    "unbatched": lambda module: [uniform(5, 3), states_of(module)],
    "packed": lambda module: [pack_sequence([uniform(t, 3) for t in (2, 4)], enforce_sorted=False)],
}


@pytest.mark.parametrize(
    ("name", "form"),
    [*((name, "batched") for name in MODULES)]
    + [(name, form) for name in ("LSTM-two-ways", "GRU") for form in list(FORMS)[1:]],
)
def test_compiled_training(name, form):
    module = build(MODULES[name])
    inputs = FORMS[form](module)
    if form == "packed":  # its data is a leaf to the compiler as well
        inputs[0].data.requires_grad_()
    assert_same(step(compiled(module), module, *inputs), step(module, module, *inputs))


@modules
def test_compiled_inference(kind):
    module = build(kind)
    x = uniform(5, 2, 3)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert_same(flat(compiled(module)(x)), flat(module(x)))


@pytest.mark.parametrize("shape", [(2, 3), (3,)])
@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_compiled_cells(name, shape):
    module = build((name, {}))
    x = uniform(*shape)
    assert_same(step(compiled(module), module, x), step(module, module, x))


@pytest.mark.slow  # the first time, when C++ headers are compiled
def test_compiled_by_inductor():
    """By default, that is; and with a mode."""
    module = build(MODULES["LSTM-two-ways"], dtype=torch.float32)
    x = uniform(5, 2, 3, dtype=torch.float32)
    options = {"backend": "inductor", "mode": "reduce-overhead"}
    assert_same(step(compiled(module, **options), module, x), step(module, module, x))


def test_compiled_autocast():
    module = build(MODULES["GRU"], dtype=torch.float32)

    def run(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return module(x)

    x = uniform(5, 2, 3, dtype=torch.float32)
    found = step(compiled(run), module, x)
    assert found[0].dtype == torch.bfloat16
    assert_same(found, step(run, module, x))


@pytest.mark.parametrize("form", ["batched", "packed"])
@pytest.mark.parametrize(("options", "needed"), [({"dynamic": True}, 1), ({}, 2)])
def test_not_compiled_for_each_length(form, options, needed):
    """Once where told that lengths differ; else for the first, and when another shows it."""
    module = build(MODULES["LSTM-two-ways"])
    counter = CompileCounterWithBackend("aot_eager")
    run = compiled(module, backend=counter, **options)
    compilations = []
    for length in [5, 7, 4, 9, 12]:
        x = uniform(length, 2, 3)
        if form == "packed":
            x = pack_sequence([uniform(length, 3), uniform(2, 3)])
        loss_of(run(x)).backward()
        compilations.append(counter.frame_count)
    assert compilations[0] > 0
    assert compilations[needed - 1 :] == [compilations[-1]] * (6 - needed)


@pytest.fixture
def runs(monkeypatch):
    """The kernels as they run: forward with what it is told about saving, backward."""
    found = []

    def watch(name, tell):
        original = getattr(cpp, name)
        monkeypatch.setattr(cpp, name, lambda *a: found.append(tell(a)) or original(*a))

    watch("layers", lambda a: False)
    for name in ("scan", "layer"):
        watch(name, lambda a: a[-1])
    for name in ("scan_backward", "layer_backward"):
        watch(name, lambda a: "backward")
    return found


@pytest.mark.parametrize("how", [lambda module: module, compiled], ids=["eager", "compiled"])
def test_nothing_runs_twice(how, runs):
    """Nor is anything saved that no backward will read."""
    module = build(MODULES["LSTM"])
    run = how(module)
    loss_of(run(uniform(5, 2, 3))).backward()
    assert runs == [True, "backward"]
    runs.clear()
    with torch.no_grad():
        run(uniform(5, 2, 3))
    assert runs == [False]


def test_compiled_backends(runs, monkeypatch):
    module, x = build(MODULES["LSTM"]), uniform(5, 2, 3)
    run = compiled(module)
    expected = flat(run(x))
    assert len(runs) == 1
    with fastrnn.use_backend("reference"):
        assert_same(flat(run(x)), expected)
    assert len(runs) == 1  # compiled anew, and without the kernel
    run(x)
    assert len(runs) == 2
    with fastrnn.use_backend("triton"), pytest.raises(Exception, match="cannot serve"):
        run(x)

    def inside(x):
        with fastrnn.use_backend("reference"):
            return module(x)

    assert_same(flat(compiled(inside)(x)), expected)
    with monkeypatch.context() as patch:
        patch.setattr(backends, "_from_environment", "reference")
        assert_same(flat(run(x)), expected)
    module.backend = "reference"
    assert_same(step(compiled(module), module, x)[:3], expected)
    assert len(runs) == 2


def test_compiled_transforms():
    """`torch.func` within `torch.compile`."""
    module, x = build(MODULES["LSTM"]), uniform(4, 5, 3)
    parameters = dict(module.named_parameters())
    run = vmap(grad(lambda p, x: loss_of(functional_call(module, p, (x,)))), (None, 0))
    assert_same(compiled(run)(parameters, x).values(), run(parameters, x).values())


def test_compiled_autograd():
    module, x = build(MODULES["GRU-two-ways"]), uniform(5, 2, 3)
    expected = step(module, module, x)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        assert_same(step(module, module, x), expected)


# --- export and tracing -----------------------------------------------------------------------


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = build(MODULES["LSTM-two-ways"], batch_first=True)
        self.head = nn.Linear(8, 2, **FLOAT64)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    model = Tagger()
    shapes = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("time")}}
    program = torch.export.export(model, (uniform(2, 5, 3),), dynamic_shapes=shapes, strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    many = uniform(60, 9, 3)  # rows, where a layer outside of a trace takes another way
    for form in (program, torch.export.load(file), program.run_decompositions()):
        run = form.module()
        for x in (uniform(3, 9, 3), many):
            assert_same([run(x)], [model(x)])
    x = uniform(3, 9, 3)
    assert_same(step(run, run, x), step(model, model, x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.jit")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # the checks compare sizes
@pytest.mark.parametrize("kind", [*MODULES.values(), ("LSTMCell", {})], ids=[*MODULES, "LSTMCell"])
def test_jit_trace(kind):
    module = build(kind)
    shape = (2,) if kind[0].endswith("Cell") else (5, 2)
    traced = torch.jit.trace(module, uniform(*shape, 3))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    longer = uniform(*(size + 2 for size in shape), 3)
    for form in (traced, torch.jit.load(file)):
        assert_same(flat(form(longer)), flat(module(longer)))
    # It was traced as one that saves nothing, and yet can be trained.
    assert_same(step(traced, module, longer), step(module, module, longer))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.jit")
@pytest.mark.parametrize(
    "make",
    [
        lambda: fastrnn.LSTM(3, 4),
        lambda: fastrnn.LSTMCell(3, 4),
        lambda: fastrnn.MinGRU(3, 4),
        lambda: fastrnn.MinGRUCell(3, 4),
        lambda: fastrnn.MultiheadAttention(4, 2),
        lambda: fastrnn.Attention(4, 4),
        lambda: fastrnn.quantize_dynamic(fastrnn.LSTM(3, 4)),
        lambda: fastrnn.quantize_dynamic(fastrnn.LSTMCell(3, 4)),
    ],
)
def test_jit_script_says_the_way(make):
    layer = make()
    model = nn.Sequential(layer)
    with pytest.raises(RuntimeError, match=r"cannot read \w+: script fastrnn.to_torch\("):
        torch.jit.script(model)
    assert model[0] is layer


# --- torch.func -------------------------------------------------------------------------------


def results_of(module):
    """A function of parameters and input."""
    return lambda parameters, x: functional_call(module, parameters, (x,))


def detached(module):
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


@modules
def test_vmap_over_inputs(kind):
    module, x = build(kind), uniform(3, 4, 2, 3)
    for dim in range(3):
        each = [flat(module(part)) for part in x.unbind(dim)]
        assert_same(flat(vmap(module, dim)(x)), map(torch.stack, zip(*each, strict=True)))
    with torch.no_grad():
        twice = flat(vmap(vmap(module, 1), 0)(x))
    assert_same([result[2, 1] for result in twice], flat(module(x[2, :, 1])))


@modules
def test_an_ensemble(kind):
    """`stack_module_state`: results, and gradients by autograd and by `torch.func`."""
    members, x = [build(kind, seed) for seed in range(3)], uniform(5, 2, 3)
    expected = [torch.stack(e) for e in zip(*(step(m, m, x) for m in members), strict=True)]
    parameters, _ = stack_module_state(members)
    run = results_of(members[0])

    results = flat(vmap(run, (0, None))(parameters, x))
    count = len(results)
    assert_same(results, expected[:count])
    loss = sum(loss_of(part) for part in zip(*results, strict=True))
    assert_same(torch.autograd.grad(loss, parameters.values()), expected[count:-1])
    found = vmap(grad(lambda p, x: loss_of(run(p, x))), (0, None))(parameters, x)
    assert_same(found.values(), expected[count:-1])


@modules
def test_gradients_of_each_sample(kind):
    module, x = build(kind), uniform(2, 3, 4, 3)
    parameters, run = detached(module), results_of(module)
    sample = grad(lambda p, x: loss_of(run(p, x)))

    found = vmap(vmap(sample, (None, 0)), (None, 0))(parameters, x)
    for i in range(2):
        for j in range(3):
            expected = torch.autograd.grad(loss_of(module(x[i, j])), list(module.parameters()))
            assert_same((gradient[i, j] for gradient in found.values()), expected)
    whole = grad(lambda p: vmap(lambda x: loss_of(run(p, x)))(x[0]).sum())(parameters)
    assert_same(whole.values(), (gradient[0].sum(0) for gradient in found.values()))


@modules
def test_packed_under_vmap(kind):
    """Where calls share their sizes; over data, and over weights with it."""
    members, sizes, data = (
        [build(kind, i) for i in range(3)],
        torch.tensor([2, 2, 1]),
        uniform(3, 5, 3),
    )
    parameters, _ = stack_module_state(members)

    def loss(parameters, data):
        packed = PackedSequence(data, sizes)
        return loss_of(functional_call(members[0], parameters, (packed,)))

    for in_dims, p in (((None, 0), detached(members[0])), ((0, 0), parameters)):
        found = vmap(grad(loss), in_dims)(p, data)
        for i, member in enumerate(members):
            one = dict(member.named_parameters()) if in_dims[0] == 0 else p
            expected = grad(loss)(one, data[i])
            assert_same((found[name][i] for name in one), expected.values())


@modules
def test_jacobians_and_hessians(kind):
    module, x = build(kind), uniform(2, 3)

    def function(x):
        return module(x)[0]

    jacobian = torch.autograd.functional.jacobian(function, x)
    vectorized = torch.autograd.functional.jacobian(function, x, vectorize=True)
    assert_same([jacrev(function)(x), jacfwd(function)(x), vectorized], [jacobian] * 3)

    def value(x):
        return function(x).square().sum()

    expected = torch.autograd.functional.hessian(value, x)
    assert_same([hessian(value)(x), jacrev(jacrev(value))(x)], [expected] * 2)
    batch = torch.stack([x, -x])
    assert_same([vmap(jacrev(jacrev(value)))(batch)[0]], [expected])


def test_forward_mode_goes_by_the_reference():
    module, x = build(MODULES["LSTM"]), uniform(4, 2, 3)
    tangent = uniform(4, 2, 3, seed=1)
    _, expected = torch.autograd.functional.jvp(lambda x: module(x)[0], x, tangent)
    for context in (torch.no_grad, torch.enable_grad):
        with context(), torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, tangent)
            found = torch.autograd.forward_ad.unpack_dual(module(dual)[0]).tangent
            assert_same([found], [expected])
            with fastrnn.use_backend("cpp"), pytest.raises(RuntimeError, match="forward-mode"):
                module(dual)


def test_dropout_under_vmap():
    module, x = build(MODULES["LSTM-two-ways"], dropout=0.5), uniform(4, 3).expand(2, 4, 3)
    same, _ = vmap(module, randomness="same")(x)
    assert torch.equal(same[0], same[1])
    different, _ = vmap(module, randomness="different")(x)
    assert not torch.equal(different[0], different[1])
    with pytest.raises(RuntimeError, match="random"):
        vmap(module)(x)


def test_empty_under_vmap():
    module = build(MODULES["GRU-two-ways"])
    assert vmap(module)(uniform(3, 4, 0, 3))[0].shape == (3, 4, 0, 8)
    assert vmap(module)(uniform(0, 4, 2, 3))[0].shape == (0, 4, 2, 8)
    loss = grad(lambda p, x: loss_of(functional_call(module, p, (x,))))
    for gradient in vmap(loss, (None, 0))(detached(module), uniform(3, 4, 0, 3)).values():
        assert gradient.shape[0] == 3
        assert not gradient.any()


# --- autograd's tools -------------------------------------------------------------------------


@modules
def test_double_backward_of_a_module(kind):
    """A gradient penalty."""
    module = build(kind)

    def penalty_gradients(call):
        x = uniform(4, 2, 3).requires_grad_()
        (gradient,) = torch.autograd.grad(loss_of(call(x)), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), list(module.parameters()))

    found = penalty_gradients(module)
    with fastrnn.use_backend("reference"):
        expected = penalty_gradients(module)
    assert_same(found, expected)


def test_checkpointing():
    module, x = build(MODULES["LSTM-two-ways"]), uniform(4, 2, 3)

    def output(x):
        return module(x)[0]

    expected = step(output, module, x)
    for reentrant in (False, True):
        x.grad = None
        module.zero_grad()
        result = checkpoint(output, x, use_reentrant=reentrant)
        loss_of(result).backward()
        found = [result, *(p.grad for p in module.parameters()), x.grad]
        assert_same(found, expected)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_hooks():
    module, x = build(MODULES["LSTM"]), uniform(4, 2, 3)
    expected = step(module, module, x)
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: packed.append(t.shape) or t.clone(), lambda t: t
    ):
        assert_same(step(module, module, x), expected, rtol=0, atol=0)
    assert torch.Size([8, 1, 20]) in packed  # gates and c of all steps
    with torch.autograd.graph.save_on_cpu(), torch.autograd.detect_anomaly(check_nan=True):
        assert_same(step(module, module, x), expected, rtol=0, atol=0)

    output, (h, c) = module(x)
    h.retain_grad()
    output.register_hook(lambda g: 2 * g)
    (output.sum() + c.sum() + 3 * h.sum()).backward()
    assert torch.equal(h.grad, torch.full_like(h, 3))
    (doubled,) = torch.autograd.grad(
        (lambda o, s: 2 * o.sum() + s[1].sum() + 3 * s[0].sum())(*module(x)), x
    )
    assert_same([x.grad], [doubled])


def test_graphs_kept_and_used_again():
    module, x = build(MODULES["GRU-two-ways"]).eval(), uniform(4, 2, 3)  # eval: cuDNN refuses
    expected = step(module, module, x)[2:]
    results = module(x)
    leaves = [*module.parameters(), x]
    twice = torch.autograd.grad(loss_of(results) + loss_of(results), leaves, retain_graph=True)
    assert_same(twice, [2 * gradient for gradient in expected])
    assert_same(torch.autograd.grad(loss_of(results), leaves), expected, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss_of(results), leaves)


def test_a_changed_output_is_noticed():
    """The backward reads it: changed in place, it would give wrong gradients."""
    output, _ = build(MODULES["LSTM"])(uniform(4, 2, 3))
    output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@modules
def test_frozen_parts(kind):
    module, x = build(kind), uniform(4, 2, 3)
    expected = dict(
        zip(detached(module), step(module, module, x)[-1 - len(detached(module)) : -1], strict=True)
    )
    x = x.detach()
    for chosen in ("weight_hh_l0", "weight_ih_l0", *(["weight_hr_l0"] if module.proj_size else [])):
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name == chosen)
            parameter.grad = None
        loss_of(module(x)).backward()
        for name, parameter in module.named_parameters():
            assert (parameter.grad is not None) == (name == chosen)
        assert_same([module.get_parameter(chosen).grad], [expected[chosen]])


def test_inference_mode():
    module, x = build(MODULES["LSTM"]), uniform(4, 2, 3)
    expected = flat(module(x))
    with torch.inference_mode():
        results = flat(module(x))
        born = build(MODULES["LSTM"])
        inside = uniform(4, 2, 3)
    assert all(result.is_inference() for result in results)
    assert_same(results, expected)
    with torch.no_grad():
        assert_same(flat(born(x)), expected)
        assert_same(flat(module(inside)), expected)
    for call in (lambda: module(inside), lambda: born(x)):  # as torch's
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
            call()


# --- autocast ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "kind",
    [*MODULES.values(), ("GRUCell", {}), ("LSTMCell", {})],
    ids=[*MODULES, "GRUCell", "LSTMCell"],
)
def test_autocast(kind, dtype):
    """As if all were cast by hand; gradients are the parameters'."""
    module = build(kind, dtype=torch.float32)
    shape = (2, 3) if kind[0].endswith("Cell") else (5, 2, 3)
    x = uniform(*shape, dtype=torch.float32)

    def cast(x):
        narrow = {name: parameter.to(dtype) for name, parameter in module.named_parameters()}
        return functional_call(module, narrow, (x.to(dtype),))

    expected = step(cast, module, x)
    with torch.autocast("cpu", dtype=dtype):
        results = flat(module(x))
        within = step(module, module, x)
    assert {result.dtype for result in results} == {dtype}
    leaves = [*module.parameters(), x]
    found = [*results, *torch.autograd.grad(loss_of(results), leaves)]
    assert {gradient.dtype for gradient in found[len(results) :]} == {torch.float32}
    assert_same(found, expected, rtol=0, atol=0)
    assert_same(within, expected)


def test_autocast_leaves_float64():
    module, x = build(MODULES["LSTM"]), uniform(4, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(flat(module(x)), flat(module(x)))
        assert module(x)[0].dtype == torch.float64


# --- modes and subclasses ---------------------------------------------------------------------


class Recorded(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_a_mode_sees_the_operators():
    module, x = build(MODULES["LSTM"]), uniform(4, 2, 3)
    expected = step(module, module, x)
    with Recorded() as mode:
        found = step(module, module, x)
    assert_same(found, expected)
    assert [name for name in mode.names if "fastrnn" in name] == [
        "fastrnn.scan.default",
        "fastrnn.scan_backward.default",
    ]


class Logged(torch.Tensor):
    """Written to in its constructor, read by `__torch_dispatch__`: a wrapper of a tensor."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, requires_grad=inner.requires_grad
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        unwrap, wrap = (
            lambda t: t.inner if isinstance(t, cls) else t,
            lambda t: cls(t) if isinstance(t, torch.Tensor) else t,
        )
        tree_map = torch.utils._pytree.tree_map
        return tree_map(wrap, function(*tree_map(unwrap, args), **tree_map(unwrap, kwargs or {})))


def test_tensors_of_a_class_of_their_own():
    """Without an address; the results are of that class."""
    module, x = build(MODULES["LSTM"]), uniform(4, 2, 3)
    results = flat(module(Logged(x)))
    assert {type(result) for result in results} == {Logged}
    assert_same([result.inner for result in results], flat(module(x)))
    with torch.no_grad():
        assert_same([result.inner for result in flat(module(Logged(x)))], flat(module(x)))


def test_fake_and_meta_tensors():
    module = build(MODULES["LSTM-two-ways"], device="meta")
    output, _ = module(torch.empty(5, 2, 3, device="meta", **FLOAT64))
    output.sum().backward()
    assert output.shape == (5, 2, 8)
    assert module.weight_hh_l1.grad.is_meta
    module = build(MODULES["LSTM"])
    traced = torch.fx.experimental.proxy_tensor.make_fx(lambda x: module(x)[0])(uniform(5, 2, 3))
    assert_same([traced(uniform(5, 2, 3))], [module(uniform(5, 2, 3))[0]])
    assert "fastrnn.scan.default" in traced.code
