"""JAX on eight devices: the same zeros as on one, and no communication for the prox."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import l1jax
from parity_tests.oracles import problems
from parity_tests.report import tpu_report as tpu

HIDDEN, STEPS, SAMPLES = 32, 60, 1792  # 8 devices divide the samples
AXES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}

REPLICATED = {"kernel_1": P(), "bias_1": P(), "kernel_2": P(), "bias_2": P()}
SPLIT = {
    "kernel_1": P(None, "model"),
    "bias_1": P("model"),
    "kernel_2": P("model", None),
    "bias_2": P(),
}
# The shape of the mesh, and how its axes share out the parameters; data are shared out
# over the axis "data".
LAYOUTS = {
    "data": ((8, 1), REPLICATED),
    "tensor": ((1, 8), SPLIT),
    "data and tensor": ((4, 2), SPLIT),
    "fully sharded": (
        (4, 2),
        {
            "kernel_1": P("data", "model"),
            "bias_1": P(("model", "data")),
            "kernel_2": P(("model", "data"), None),
            "bias_2": P("model"),
        },
    ),
}
OPTIMIZERS = {
    "adam": lambda: l1jax.proximal(optax.adam, 0.01, 0.003),
    "momentum": lambda: l1jax.proximal(optax.sgd, 0.05, 0.006, momentum=0.9),
    "window": lambda: l1jax.proximal(optax.rmsprop, 0.003, 0.01, window=10),
    "tensor metric": lambda: l1jax.proximal(optax.adam, 0.01, 0.01, metric="tensor"),
    "chain": lambda: optax.chain(
        l1jax.add_subgradient(0.003), optax.sgd(0.2), l1jax.proximal_step(0.01, 0.2)
    ),
}


def start():
    rng = np.random.default_rng(0)
    return {
        "kernel_1": rng.normal(0, 0.1, (64, HIDDEN)),
        "bias_1": np.zeros(HIDDEN),
        "kernel_2": rng.normal(0, 0.1, (HIDDEN, 10)),
        "bias_2": np.zeros(10),
    }


def digits():
    X, Y = problems.digits()
    return X[:SAMPLES], Y[:SAMPLES]


def loss(params, X, Y, explicit=False):
    """Cross-entropy of two layers; an explicit mesh wants to be told what to gather."""
    if explicit:
        # Fully sharded parameters are gathered along the axis of the data for use.
        params = {k: jax.sharding.reshard(x, SPLIT[k]) for k, x in params.items()}
    out = {"out_sharding": P("data", None)} if explicit else {}
    hidden = jnp.tanh(X @ params["kernel_1"] + params["bias_1"])
    scores = (
        jnp.einsum("ij,jk->ik", hidden, params["kernel_2"], **out) + params["bias_2"]
    )
    return -(jax.nn.log_softmax(scores) * Y).sum(1).mean()


def train(tx, params, state, X, Y, explicit=False):
    """Return the parameters of all steps, and the last ones with their state."""

    def body(carry, _):
        params, state = carry
        grads = jax.grad(loss)(params, X, Y, explicit)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(body, (params, state), length=STEPS)


@functools.cache
def unsharded(name):
    tx, params = OPTIMIZERS[name](), jax.tree.map(jnp.asarray, start())
    _, trail = jax.jit(functools.partial(train, tx))(params, tx.init(params), *digits())
    return jax.tree.map(np.asarray, trail)


def assert_same_trail(trail, name):
    expected = unsharded(name)
    for key, want in expected.items():
        found = np.asarray(trail[key])
        np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(found == 0, want == 0)
        assert not np.signbit(found[found == 0]).any()
    weights = np.concatenate(
        [expected[k].reshape(STEPS, -1) for k in ("kernel_1", "kernel_2")], 1
    )
    zeros = (weights == 0).mean(1)
    assert 0.2 < zeros[-1] < 0.9
    assert len(np.unique(zeros)) > STEPS // 2  # they come and go


def of_parameters(state, params):
    """List the arrays of a state that belong to parameters, with their names."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        if names and names[-1] in params:
            yield names[-1], leaf


def on_mesh(layout, axes):
    """A mesh, the parameters' shardings, and that of the data."""
    shape, specs = LAYOUTS[layout]
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(AXES[axes],) * 2)
    shardings = {k: NamedSharding(mesh, spec) for k, spec in specs.items()}
    return mesh, shardings, NamedSharding(mesh, P("data", None))


def assert_sharded(arrays, shardings):
    for name, array in arrays:
        assert array.sharding.is_equivalent_to(shardings[name], array.ndim)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        *(
            pytest.param(name, layout, marks=pytest.mark.slow)
            for name in ("adam", "momentum")
            for layout in list(LAYOUTS)[:-1]
        ),
        *((name, list(LAYOUTS)[-1]) for name in OPTIMIZERS),
    ],
)
def test_the_zeros_are_those_of_one_device(name, layout, axes):
    mesh, shardings, of_data = on_mesh(layout, axes)
    tx = OPTIMIZERS[name]()
    run = jax.jit(functools.partial(train, tx, explicit=axes == "explicit"))
    with jax.set_mesh(mesh):
        params = jax.device_put(start(), shardings)
        data = jax.device_put(digits(), of_data)
        # These devices share the CPU's threads: one program at a time.
        arguments = jax.block_until_ready((params, tx.init(params), *data))
        (params, state), trail = run(*arguments)
    assert_same_trail(trail, name)
    assert_sharded(params.items(), shardings)
    states = [*of_parameters(state, params)]
    per_parameter = {"adam": 2, "momentum": 1, "window": 3, "tensor metric": 2}
    assert len(states) == 4 * per_parameter.get(name, 0)
    assert_sharded(states, shardings)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_keeps_its_sharding_and_communicates_nothing(name, axes):
    mesh, shardings, _ = on_mesh("fully sharded", axes)
    tx = OPTIMIZERS[name]()
    with jax.set_mesh(mesh):
        params = jax.device_put(start(), shardings)
        arguments = params, tx.init(params), params  # the last for gradients
        update = jax.jit(tpu.update(tx)).lower(*arguments).compile()
        params, state = update(*arguments)
    assert_sharded(params.items(), shardings)
    assert_sharded(of_parameters(state, params), shardings)
    sums = {"all-reduce"} if name == "tensor metric" else set()
    assert set(tpu.figures(update).collectives) == sums


@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_a_state_sharded_by_itself_stays_so(name):
    """ZeRO: whole parameters everywhere, and a part of their state on each device."""
    mesh, _, of_data = on_mesh("data", "auto")
    tx = OPTIMIZERS[name]()
    params = jax.device_put(start(), NamedSharding(mesh, P()))
    # Of the last bias ten is no multiple of eight.
    parts = {k: P("data") if len(x) % 8 == 0 else P() for k, x in params.items()}
    parts = {k: NamedSharding(mesh, spec) for k, spec in parts.items()}
    state = tx.init(params)
    placements = jax.tree_util.tree_map_with_path(
        lambda path, x: parts.get(
            getattr(path[-1], "key", None), NamedSharding(mesh, P())
        ),
        state,
    )
    run = jax.jit(
        functools.partial(train, tx),
        out_shardings=((NamedSharding(mesh, P()), placements), None),
    )
    state = jax.device_put(state, placements)
    data = jax.device_put(digits(), of_data)
    arguments = jax.block_until_ready((params, state, *data))
    (params, state), trail = run(*arguments)
    assert_same_trail(trail, name)
    assert_sharded(of_parameters(state, params), parts)
    assert all(x.sharding.is_fully_replicated for x in params.values())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in tpu.QUICK else pytest.mark.slow)
        for name in tpu.cases()
    ],
)
def test_the_prox_communicates_nothing(name):
    case = tpu.cases()[name]
    compiled, _ = tpu.compile_step(case.ours, case, "sharded", jax.devices())
    found = tpu.figures(compiled).collectives
    sums = 2 * case.all_reduces  # here one axis of the mesh after the other
    assert found == ({"all-reduce": sums} if sums else {})
