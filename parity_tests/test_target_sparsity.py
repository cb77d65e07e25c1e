"""Target sparsity: the zeros follow the ramp, by a strength that is a quantile."""

import importlib
import io
import math
import pickle
import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import l1jax
import l1jax.quantiles
import l1jax.targets
import l1torch
import l1torch.quantiles
import l1torch.targets
from parity_tests.twins import JAX, TORCH

STEPS, MORE, RATE = 40, 6, 0.03
SHAPES = {"u": (20, 9), "bias": (9,), "w": (15, 12)}
SIZES = {"u": 180, "w": 180}
OPTIMIZERS = {
    "adam": (optax.adam, {}, torch.optim.Adam, {}),
    "momentum": (optax.sgd, {"momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9}),
}
WAYS = {
    "adam": ("adam", {}),
    "adam, tensor": ("adam", {"metric": "tensor"}),
    "adam, none": ("adam", {"metric": "none"}),
    "momentum": ("momentum", {}),
}


def target_sparsity(twin, *args, **kwargs):
    module = importlib.import_module(f"{twin.lib.__name__}.targets")
    return module.target_sparsity(*args, **kwargs)


def data(steps=STEPS + MORE, noise=1.0):
    """The start, and for each step the place that the gradient points away from."""
    rng = np.random.default_rng(0)
    start = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    places = {
        name: rng.normal(size=shape) ** 3 + noise * rng.normal(size=(steps, *shape))
        for name, shape in SHAPES.items()
    }
    return start, places


def ramp(step, target, steps=STEPS, begin=0.05, end=0.6):
    """The fraction of zeros wanted after a step, as it is written down."""
    u = min(max((step / steps - begin) / (end - begin), 0), 1)
    return target * (1 - (1 - u) ** 3)


def train(twin, target, way="adam", steps=STEPS + MORE, noise=1.0, **kwargs):
    """Gives of every step the weights, by name, and the strength in use."""
    start, places = data(steps, noise)
    optimizer, options = WAYS[way]
    factory, settings, cls, torch_settings = OPTIMIZERS[optimizer]
    options = options | kwargs
    if twin is JAX:
        tx = l1jax.proximal(factory, RATE, target, **settings, **options)

        @jax.jit
        def run(params, places):
            def body(carry, place):
                params, state = carry
                grads = jax.tree.map(jnp.subtract, params, place)
                updates, state = tx.update(grads, state, params)
                params = optax.apply_updates(params, updates)
                return (params, state), (params, state.control.strength)

            return jax.lax.scan(body, (params, tx.init(params)), places)[1]

        trail, strengths = run(twin.tree(start), twin.tree(places))
        trail = {name: np.asarray(x) for name, x in trail.items()}
        return trail, jax.tree.map(np.asarray, strengths)
    params = {k: torch.nn.Parameter(x) for k, x in twin.tree(start).items()}
    base = cls(params.items(), lr=RATE, **torch_settings)
    proximal = l1torch.Proximal(base, target, **options)
    trail, strengths = {name: [] for name in params}, []
    for step in range(steps):
        for name, param in params.items():
            param.grad = param.detach() - torch.tensor(places[name][step])
        proximal.step()
        for name, param in params.items():
            trail[name].append(param.detach().clone().numpy())
        strengths.append(proximal.param_groups[0]["l1"])
    if isinstance(strengths[0], dict):
        strengths = {k: np.array([s[k] for s in strengths]) for k in SHAPES}
    return {k: np.stack(x) for k, x in trail.items()}, strengths


def zeros(trail, names=tuple(SIZES)):
    """Counts, after each step, the zeros of some arrays together."""
    return sum((trail[name] == 0).sum((1, 2)) for name in names)


@pytest.mark.parametrize("way", WAYS)
def test_the_zeros_follow_the_ramp_exactly_and_alike(way):
    trails, found = [], []
    for twin in (JAX, TORCH):
        trail, strengths = train(twin, target_sparsity(twin, 0.9, STEPS), way)
        steps = range(1, STEPS + MORE + 1)
        wanted = [round(ramp(step, 0.9) * 360) for step in steps]
        np.testing.assert_array_equal(zeros(trail), wanted)
        assert zeros(trail)[-1] == 324  # and stays after `steps`
        assert not (trail["bias"] == 0).any()
        trails.append(trail)
        found.append(strengths)
    np.testing.assert_allclose(*found, rtol=1e-10)
    for name in SHAPES:
        np.testing.assert_array_equal(*(trail[name] == 0 for trail in trails))
        np.testing.assert_allclose(*(trail[name] for trail in trails), atol=1e-12)


def test_each_array_has_its_own_strength():
    found = []
    for twin in (JAX, TORCH):
        target = target_sparsity(twin, 0.8, STEPS, scope="array")
        trail, strengths = train(twin, target)
        for name in SIZES:
            wanted = [round(ramp(t, 0.8) * 180) for t in range(1, STEPS + MORE + 1)]
            np.testing.assert_array_equal(zeros(trail, (name,)), wanted)
        assert not np.any(strengths["bias"])
        assert not np.allclose(strengths["u"], strengths["w"])
        found.append(strengths)
    for name in SIZES:
        np.testing.assert_allclose(*(x[name] for x in found), rtol=1e-10)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_the_strength_is_the_least_that_makes_the_zeros(twin, share):
    rng = np.random.default_rng(1)
    w, u = rng.normal(size=(2, 7, 30))
    w[0] = u[0] = 0  # zeros that are there already
    rate = 0.25
    target = target_sparsity(twin, share, 1, begin=0, end=0.5)
    step = twin.lib.proximal_step(target, rate)
    params = twin.tree({"w": w})
    updates, state = step.update(twin.tree({"w": u}), step.init(params), params)
    ratios = np.sort(np.abs(w + u).ravel() / rate)
    quantile = ratios[round(share * 210) - 1]
    strength = float(state.control.strength)
    np.testing.assert_allclose(strength, quantile, rtol=2e-15)
    assert strength >= quantile
    new = twin.numpy(twin.apply_updates(params, updates)["w"])
    assert (new == 0).sum() == round(share * 210)
    expected = np.sign(w + u) * np.maximum(np.abs(w + u) - rate * quantile, 0)
    np.testing.assert_allclose(new, expected, atol=1e-14)
    # Fewer zeros than there are make no strength.
    few = target_sparsity(twin, 0.1, 1, begin=0, end=0.5)
    step = twin.lib.proximal_step(few, rate)
    _, state = step.update(twin.tree({"w": u}), step.init(params), params)
    assert state.control.strength == 0


@pytest.mark.parametrize(
    ("make", "unit"),
    [
        (lambda lib: lib.elastic_net(0.5), 1),
        (lambda lib: lib.mcp(0.5, 3.0), 1),
        pytest.param(lambda lib: lib.lp(0.5), 1, marks=pytest.mark.slow),
        pytest.param(lambda lib: lib.group_l1(1), 12, marks=pytest.mark.slow),
    ],
    ids=["elastic_net", "mcp", "lp", "group_l1"],
)
def test_other_penalties_follow_it_too(twin, make, unit):
    target = target_sparsity(twin, 0.7, STEPS)
    trail, _ = train(twin, target, "momentum", penalty=make(twin.lib))
    wanted = np.array([ramp(t, 0.7) * 360 for t in range(1, STEPS + MORE + 1)])
    surplus = zeros(trail) - wanted
    assert -0.51 < surplus.min() <= surplus.max() < unit - 0.49  # rounded, whole groups


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["global", "array"])
def test_the_controller_ends_within_a_point(scope):
    strengths = []
    for twin in (JAX, TORCH):
        for way in ("adam", "momentum"):
            target = target_sparsity(twin, 0.8, 1500, method="pi", scope=scope)
            trail, strength = train(twin, target, way, 1500, noise=0.3)
            assert abs(zeros(trail)[-300:] / 360 - 0.8).max() < 0.02
            assert abs(zeros(trail)[-1] / 360 - 0.8) < 0.01
            strengths.append(strength)
    if scope == "global":
        np.testing.assert_allclose(strengths[0], strengths[2], rtol=1e-9)


def test_the_controller_moves_by_what_lacks():
    for twin in (JAX, TORCH):
        target = target_sparsity(twin, 0.8, STEPS, method="pi")
        trail, strengths = train(twin, target, "momentum")
        before, error = 0.0, 0.0
        fractions = [0, *zeros(trail) / 360]
        for i, strength in enumerate(strengths):
            if before:
                lacks = ramp(i + 1, 0.8) - fractions[i]
                move = np.clip(5 * (lacks - error) + 0.05 * lacks, -0.1, 0.1)
                np.testing.assert_allclose(math.log(strength / before), move, atol=1e-9)
                error = lacks
            before = float(strength)
        assert before > 0


@pytest.mark.parametrize("method", ["quantile", "pi"])
@pytest.mark.parametrize("scope", ["global", "array"])
def test_the_snap_prunes_to_the_target_and_freezes_it(twin, method, scope):
    options = {"method": method, "scope": scope, "snap": 0.75}
    target = target_sparsity(twin, 0.8, STEPS, **options)
    trail, strengths = train(twin, target)
    at = 29  # the 30th step of 40
    assert (zeros(trail)[at:] == 288).all()
    for name in SIZES:
        if scope == "array":
            assert (zeros(trail, (name,))[at:] == 144).all()
            np.testing.assert_array_equal(strengths[name][at:], 0)
        after = trail[name][at:] == 0
        assert (after == after[0]).all()
        assert (trail[name][at + 1] != trail[name][at])[~after[0]].all()  # refitted
    if scope == "global":
        np.testing.assert_array_equal(strengths[at:], 0)
        assert strengths[at - 1] > 0


def test_what_takes_no_step_is_not_counted(twin):
    target = target_sparsity(twin, 0.5, 1, begin=0, end=0.5)
    start, _ = data()
    params = twin.tree(start)
    updates = {name: 0 * x for name, x in params.items()} | {"u": None}
    step = twin.lib.proximal_step(target, 0.1)
    updates, _ = step.update(updates, step.init(params), params)
    assert updates["u"] is None
    new = twin.numpy(params["w"] + updates["w"])
    assert (new == 0).sum() == 90


def test_a_learning_rate_of_zero_keeps_the_strength(twin):
    target = target_sparsity(twin, 0.5, 2, begin=0, end=0.5)
    params = twin.tree({"w": np.linspace(1, 2, 10)})
    rates = [0.5, 0.0]
    if twin is JAX:
        step = l1jax.proximal_step(target, lambda t: jnp.asarray(rates)[t])
    else:
        step = l1torch.proximal_step(target, rates.__getitem__)
    state, still = step.init(params), {"w": 0 * params["w"]}
    _, state = step.update(still, state, params)
    first = float(state.control.strength)
    updates, state = step.update(still, state, params)
    assert first > 0
    assert float(state.control.strength) == first
    assert not twin.numpy(updates["w"]).any()


floats = st.floats(0, 2.0**99, width=32) | st.sampled_from([0.0, 1.0, math.inf])


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    st.lists(floats, min_size=12, max_size=12), st.integers(1, 12), floats
)
def test_the_quantile_is_the_kth_smallest(values, k, guess):
    values = np.array(values, np.float32)
    values[values < np.finfo(np.float32).tiny] = 0  # XLA would
    wanted = np.sort(values)[k - 1]
    parts = [jnp.asarray(values[:5]), jnp.asarray(values[5:])]
    assert KTH(parts, jnp.asarray(k), jnp.asarray(guess, jnp.float32)) == wanted
    tensors = [torch.tensor(values[:5]), torch.tensor(values[5:])]
    for few in (0, 4, 1 << 16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(l1torch.quantiles, "_FEW", few)
            found = l1torch.quantiles.kth_smallest(
                lambda: tensors, k, guess, 12, torch.float32
            )
        assert found == wanted


KTH = jax.jit(l1jax.quantiles.kth_smallest)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_quantile_of_many_numbers(twin, dtype):
    rng = np.random.default_rng(0)
    values = np.exp(3 * rng.normal(size=200_000)).astype(dtype)
    values[:5] = np.nan
    x = twin.array(values, dtype)
    for k in (1, 1000, 123_456, 199_995, 199_996):
        wanted = np.sort(values)[k - 1]
        wanted = math.inf if np.isnan(wanted) else wanted
        for guess in (0.0, wanted * 1.01, 1e-3):
            if twin is JAX:
                found = KTH([x], jnp.asarray(k), jnp.asarray(guess, dtype))
            else:
                found = l1torch.quantiles.kth_smallest(
                    lambda: x.split(64_000), k, float(guess), x.numel(), x.dtype
                )
            assert float(found) == float(wanted)


def proximal_and_params(target, **kwargs):
    start, places = data()
    params = {k: torch.nn.Parameter(x) for k, x in TORCH.tree(start).items()}
    base = torch.optim.Adam(params.items(), lr=RATE)
    return l1torch.Proximal(base, target, **kwargs), params, places


def take(optimizer, params, places, steps):
    for step in steps:
        for name, param in params.items():
            param.grad = param.detach() - torch.tensor(places[name][step])
        optimizer.step()


@pytest.mark.parametrize("scope", ["global", "array"])
@pytest.mark.parametrize("method", ["quantile", "pi"])
def test_torch_goes_on_from_a_checkpoint_bitwise(method, scope):
    target = l1torch.targets.target_sparsity(
        0.9, STEPS, method=method, scope=scope, snap=0.7
    )
    optimizer, params, places = proximal_and_params(target)
    take(optimizer, params, places, range(13))
    file = io.BytesIO()
    torch.save((optimizer.state_dict(), params), file)
    file.seek(0)
    saved, copies = torch.load(file, weights_only=True)
    assert saved["param_groups"][0]["l1"] == optimizer.param_groups[0]["l1"]
    base = torch.optim.Adam(copies.items(), lr=RATE)
    restored = l1torch.Proximal(base, target)
    restored.load_state_dict(saved)
    take(optimizer, params, places, range(13, STEPS))
    take(restored, copies, places, range(13, STEPS))
    assert all(torch.equal(params[name], copies[name]) for name in params)
    groups = [each.param_groups[0] for each in (optimizer, restored)]
    assert groups[0]["l1"] == groups[1]["l1"]
    assert groups[0]["l1_count"] == groups[1]["l1_count"] == STEPS


def test_torch_takes_a_checkpoint_without_target():
    fixed, _, _ = proximal_and_params(0.1)
    target = l1torch.targets.target_sparsity(0.9, STEPS)
    optimizer, params, places = proximal_and_params(target)
    optimizer.load_state_dict(fixed.state_dict())
    take(optimizer, params, places, range(STEPS))
    count = sum((params[name] == 0).sum() for name in SIZES)
    assert count == 324


def test_torch_groups_with_a_strength_of_their_own_keep_it():
    start, places = data()
    params = {k: torch.nn.Parameter(x) for k, x in TORCH.tree(start).items()}
    own = {"params": [("u", params["u"])], "l1": 0.0}
    rest = {"params": [(k, p) for k, p in params.items() if k != "u"]}
    target = l1torch.targets.target_sparsity(0.9, STEPS)
    optimizer = l1torch.Proximal(torch.optim.Adam([own, rest], lr=RATE), target)
    take(optimizer, params, places, range(STEPS))
    assert (params["u"] == 0).sum() == 0
    assert (params["w"] == 0).sum() == 162
    assert optimizer.param_groups[0]["l1"] == 0
    params["u"].grad = params["w"].grad = None  # zeros are kept
    optimizer.step()
    assert (params["w"] == 0).sum() == 162


def test_torch_counts_over_processes():
    """With DTensors of one process, whose counts are summed over it."""
    import torch.distributed as dist
    from torch.distributed.tensor import Shard, distribute_tensor

    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = dist.init_device_mesh("cpu", (1,))
        for method in ("quantile", "pi"):
            target = l1torch.targets.target_sparsity(
                0.9, STEPS, method=method, snap=0.75
            )
            plain, params, places = proximal_and_params(target)
            sharded = {
                name: torch.nn.Parameter(
                    distribute_tensor(param.detach().clone(), mesh, [Shard(0)])
                )
                for name, param in params.items()
            }
            base = torch.optim.Adam(sharded.items(), lr=RATE)
            optimizer = l1torch.Proximal(base, target)
            for step in range(STEPS):
                take(plain, params, places, [step])
                for name, param in sharded.items():
                    place = torch.tensor(places[name][step])
                    grad = param.detach() - distribute_tensor(place, mesh, [Shard(0)])
                    param.grad = grad
                optimizer.step()
                for name, param in sharded.items():
                    assert torch.equal(param.detach().to_local(), params[name])
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("scope", ["global", "array"])
def test_jax_goes_on_from_a_checkpoint_bitwise(scope):
    target = l1jax.targets.target_sparsity(
        0.9, STEPS, scope=scope, method="pi", snap=0.7
    )
    tx = l1jax.proximal(optax.adam, RATE, target)
    start, places = data()

    @jax.jit
    def step(params, state, place):
        grads = jax.tree.map(jnp.subtract, params, place)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def run(carry, steps):
        for i in steps:
            carry = step(*carry, {name: x[i] for name, x in places.items()})
        return carry

    carry = JAX.tree(start)
    carry = run((carry, tx.init(carry)), range(13))
    assert step._cache_size() == 1  # no shape or dtype changes
    leaves, treedef = jax.tree.flatten(carry)
    restored = treedef.unflatten(pickle.loads(pickle.dumps([*map(np.asarray, leaves)])))
    for a, b in zip(
        jax.tree.leaves(run(carry, range(13, STEPS))),
        jax.tree.leaves(run(restored, range(13, STEPS))),
        strict=True,
    ):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    with pytest.raises(ValueError, match="state must be that of this optimizer"):
        l1jax.proximal(optax.adam, RATE, 0.1).update(carry[0], carry[1], carry[0])


def test_jax_vmaps_and_accumulates():
    target = l1jax.targets.target_sparsity(0.5, 8, begin=0, end=0.5)
    tx = optax.MultiSteps(l1jax.proximal(optax.adam, 0.1, target), 2)
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 40)))}

    @jax.jit
    @jax.vmap
    def run(params):
        def body(carry, _):
            params, state = carry
            updates, state = tx.update(params, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, tx.init(params)), length=16)[0][0]

    np.testing.assert_array_equal((run(params)["w"] == 0).sum(1), [20, 20, 20])


def test_jax_counts_over_devices():
    target = l1jax.targets.target_sparsity(0.75, 4, begin=0, end=0.5)
    tx = l1jax.proximal(optax.adam, 0.1, target)
    w = np.random.default_rng(0).normal(size=(16, 24))
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))

    @jax.jit
    def run(params):
        def body(carry, _):
            params, state = carry
            updates, state = tx.update(params, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, tx.init(params)), length=4)[0]

    one, state = run({"w": jnp.asarray(w)})
    sharded = {"w": jax.device_put(w, sharding)}
    many, many_state = run(sharded)
    assert many["w"].sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_array_equal(one["w"], many["w"])
    np.testing.assert_array_equal(state.control.strength, many_state.control.strength)
    assert (one["w"] == 0).sum() == 288
    text = run.lower(sharded).compile().as_text()
    # Scalars are exchanged, one of each device.
    gathered = set(re.findall(r"= \(?(\w+\[[\d,]*\])\S* all-(?:gather|reduce)", text))
    assert gathered <= {"s32[8,1]", "s32[8]", "s64[8,1]", "s64[]", "s32[]", "pred[]"}


def test_a_target_is_a_value(twin):
    target = target_sparsity(twin, 0.9, 100, snap=0.75)
    assert pickle.loads(pickle.dumps(target)) == target
    assert hash(target) == hash(target_sparsity(twin, 0.9, 100, snap=0.75))
    assert target.snap_step == 75
    assert float(target.fraction(0)) == 0
    assert float(target.fraction(100)) == 0.9
    with pytest.raises(AttributeError):
        target.steps = 5


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"target": 1.0}, ValueError, r"target must be a number in \[0, 1\), got 1.0"),
        ({"target": -0.1}, ValueError, "target must be"),
        ({"target": math.nan}, ValueError, "target must be"),
        ({"target": "0.9"}, ValueError, "target must be"),
        ({"steps": 0}, ValueError, "steps must be >= 1, got 0"),
        ({"steps": 10.0}, TypeError, "steps must be a whole number"),
        ({"begin": 0.6, "end": 0.6}, ValueError, "begin and end"),
        ({"begin": -0.1}, ValueError, "begin and end"),
        ({"end": 1.1}, ValueError, "begin and end"),
        ({"scope": "layer"}, ValueError, "scope must be one of"),
        ({"method": "pid"}, ValueError, "method must be one of"),
        ({"snap": 0.5}, ValueError, "snap must be None or a number in"),
        ({"snap": 1.5}, ValueError, "snap must be"),
    ],
)
def test_bad_targets_are_refused(twin, kwargs, error, match):
    with pytest.raises(error, match=match):
        target_sparsity(twin, **({"target": 0.9, "steps": 10} | kwargs))


def test_what_cannot_go_with_a_target_is_refused(twin):
    lib, target = twin.lib, target_sparsity(twin, 0.9, 10)
    params = twin.tree({"w": np.ones(4), "bias": np.ones(4)})

    def proximal(strength=target, params=params, **kwargs):
        if twin is JAX:
            return l1jax.proximal(optax.adam, 0.1, strength, **kwargs).init(params)
        params = {name: torch.nn.Parameter(x) for name, x in params.items()}
        base = torch.optim.Adam(params.items(), lr=0.1)
        return l1torch.Proximal(base, strength, **kwargs)

    for penalty in (lib.l1_ball(1.0), lib.top_k(2), lib.elastic_net(0.0)):
        with pytest.raises(ValueError, match="penalty must set single weights"):
            proximal(penalty=penalty)
        with pytest.raises(ValueError, match="penalty must set single weights"):
            lib.proximal_step(target, 0.1, penalty=penalty)
    with pytest.raises(ValueError, match="penalty must set single weights"):
        proximal(penalty=lib.total_variation(), metric="tensor")
    with pytest.raises(ValueError, match="window must be 1 under target_sparsity"):
        proximal(window=10)
    with pytest.raises(ValueError, match="selects nothing to penalise"):
        proximal(params={"bias": params["bias"]})
    with pytest.raises(TypeError, match="whole strength"):
        proximal({"w": target, "bias": 0.1})
    with pytest.raises(TypeError, match="whole strength"):
        lib.add_subgradient(target)


def test_torch_wants_names_for_strengths_by_array():
    target = l1torch.targets.target_sparsity(0.9, 10, scope="array")
    base = torch.optim.Adam([torch.nn.Parameter(torch.ones(2, 2))])
    with pytest.raises(ValueError, match=r"named_parameters"):
        l1torch.Proximal(base, target)
    named = torch.optim.Adam([("w", torch.nn.Parameter(torch.ones(2, 2)))])
    with pytest.raises(TypeError, match="whole strength"):
        l1torch.Subgradient(named, target)
