"""The optimality residual: numpy's formulas, as a metric in training, and on shards."""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.distributed as dist
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import l1jax.solvers.optimality
import l1torch.solvers.optimality
from parity_tests.frameworks.twins import DTYPES, JAX, TORCH

RESIDUAL = {
    "jax": l1jax.solvers.optimality.optimality_residual,
    "torch": l1torch.solvers.optimality.optimality_residual,
}
STRENGTH = 0.5


def values(seed=0):
    """Parameters with zeros and gradients of all sizes, with a free bias."""
    rng = np.random.default_rng(seed)
    params = {"u": rng.normal(size=(6, 4)), "w": rng.normal(size=9), "b": np.ones(3)}
    for name in ("u", "w"):
        params[name][rng.random(params[name].shape) < 0.5] = 0
    params["u"][2] = 0
    grads = {name: rng.normal(size=value.shape) for name, value in params.items()}
    return params, grads


def l1(x, g, s):
    return np.where(x == 0, np.maximum(np.abs(g) - s, 0), np.abs(g + s * np.sign(x)))


def elastic_net(x, g, s):
    slope = s * (0.4 * np.sign(x) + 0.6 * x)
    return np.where(x == 0, np.maximum(np.abs(g) - 0.4 * s, 0), np.abs(g + slope))


def nonnegative(x, g, s):
    at_zero = np.maximum(-(g + s), 0)
    return np.where(x < 0, np.inf, np.where(x == 0, at_zero, np.abs(g + s)))


def rows(x, g, s):
    """Of groups of one row the distance is a vector; its length is what counts."""
    size, slope = np.linalg.norm(x, axis=1), np.linalg.norm(g, axis=1)
    weight = s * np.sqrt(x.shape[1])
    inside = g + weight * x / np.where(size, size, 1)[:, None]
    shrunk = np.maximum(1 - weight / slope, 0)[:, None] * g
    return np.abs(np.where(size[:, None] == 0, shrunk, inside))


FORMULAS = {
    "l1": (lambda lib: lib.l1(), l1),
    "elastic net": (lambda lib: lib.elastic_net(0.4), elastic_net),
    "weighted": (lambda lib: lib.weighted_l1(3.0), lambda x, g, s: l1(x, g, 3 * s)),
    "non-negative": (lambda lib: lib.nonnegative_l1(), nonnegative),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_formulas_in_numpy(twin, name):
    make, formula = FORMULAS[name]
    params, grads = values()
    if name == "non-negative":
        params["w"] = np.abs(params["w"])
    wanted = [formula(params[k], grads[k], STRENGTH).ravel() for k in ("u", "w")]
    wanted = np.concatenate([*wanted, np.abs(grads["b"])])
    found = RESIDUAL[twin.name](
        twin.tree(grads), twin.tree(params), STRENGTH, penalty=make(twin.lib)
    )
    np.testing.assert_allclose(float(found.largest), wanted.max(), rtol=1e-14)
    np.testing.assert_allclose(float(found.norm), np.linalg.norm(wanted), rtol=1e-14)


def test_groups_and_strengths_by_leaf(twin):
    params, grads = values()
    wanted = rows(params["u"], grads["u"], 0.3)
    found = RESIDUAL[twin.name](
        twin.tree(grads),
        twin.tree(params),
        {"u": 0.3, "w": 7.0, "b": 0.0},
        penalty=twin.lib.group_l1(1),
        mask={"u": True, "w": False, "b": False},
    )
    rest = np.concatenate([wanted.ravel(), grads["w"], grads["b"]])
    np.testing.assert_allclose(float(found.norm), np.linalg.norm(rest), rtol=1e-14)


def test_of_a_constraint_it_is_the_distance_to_the_normal_cone(twin):
    # At a corner of the ball -grad may be any multiple of what the corner's cone holds.
    w, grad = np.array([2.0, 0.0]), np.array([-1.5, 0.4])
    ball = twin.lib.l1_ball(2.0)

    def largest(w, grad):
        given = (twin.tree({"w": np.array(v)}) for v in (grad, w))
        return float(RESIDUAL[twin.name](*given, 0.0, penalty=ball).largest)

    assert largest(w, grad) == pytest.approx(0, abs=1e-14)
    # Within the ball a gradient must vanish, and outside nothing is optimal.
    assert largest(w / 2, grad) == pytest.approx(1.5)
    assert largest(2 * w, grad) == np.inf


def test_what_has_no_gradient_is_not_there(twin):
    params, grads = values()
    given = twin.tree(grads) | {"u": None}
    found = RESIDUAL[twin.name](given, twin.tree(params), STRENGTH)
    wanted = np.concatenate([l1(params["w"], grads["w"], STRENGTH), grads["b"]])
    np.testing.assert_allclose(float(found.norm), np.linalg.norm(wanted), rtol=1e-14)
    with pytest.raises(ValueError, match="got None for \\['u'\\]"):
        RESIDUAL[twin.name](
            given, twin.tree(params), 0.0, penalty=twin.lib.l1_ball(1.0, scope="tree")
        )


def test_nan_stays_visible(twin):
    params, grads = values()
    for tree in (params, grads):
        for name in ("w", "b") if tree is grads else ("w",):
            kept = tree[name][0]
            tree[name][0] = np.nan
            given = twin.tree(grads), twin.tree(params)
            found = RESIDUAL[twin.name](*given, STRENGTH)
            assert np.isnan(float(found.largest))
            assert np.isnan(float(found.norm))
            tree[name][0] = kept
    found = RESIDUAL[twin.name](
        twin.tree(grads), twin.tree(params), twin.array(np.array(-1.0))
    )
    assert np.isnan(float(found.largest))


@pytest.mark.parametrize("dtype", DTYPES)
def test_scalars_of_at_least_single_precision(twin, dtype):
    params, grads = values()
    given = [twin.tree({"w": tree["w"]}, dtype) for tree in (grads, params)]
    found = RESIDUAL[twin.name](*given, STRENGTH)
    wide = dtype if dtype == "float64" else "float32"
    assert {twin.dtype(value) for value in found} == {wide}
    assert {tuple(value.shape) for value in found} == {()}
    g, x = (twin.numpy(tree["w"]) for tree in given)
    wanted = l1(x, g, np.float32(STRENGTH)).max()
    assert float(found.largest) == pytest.approx(float(wanted), rel=1e-6)


def test_as_a_metric_of_training_the_frameworks_agree():
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(40, 5)), rng.normal(size=(40, 2))
    kernel = np.where(rng.random((5, 2)) < 0.5, 0, rng.normal(size=(5, 2)))
    model = nn.Dense(2)
    variables = {"params": {"kernel": jnp.asarray(kernel), "bias": jnp.ones(2)}}
    calls = []

    @jax.jit
    def metric(variables, strength):
        calls.append(None)
        loss = lambda v: jnp.mean((model.apply(v, X) - y) ** 2)  # noqa: E731
        return RESIDUAL["jax"](jax.grad(loss)(variables), variables, strength)

    ours = [metric(variables, s) for s in (0.01, 0.1)]
    assert len(calls) == 1
    together = jax.vmap(metric, in_axes=(None, 0))(variables, jnp.array([0.01, 0.1]))
    linear = torch.nn.Linear(5, 2).double()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(kernel.T))
        linear.bias.fill_(1)
    loss = ((linear(torch.tensor(X)) - torch.tensor(y)) ** 2).mean()
    loss.backward()
    residual = X @ kernel + 1 - y
    slopes = X.T @ residual / 40, residual.mean(0)
    for i, strength in enumerate((0.01, 0.1)):
        grads = {name: p.grad for name, p in linear.named_parameters()}
        theirs = RESIDUAL["torch"](grads, linear, strength)
        wanted = max(l1(kernel, slopes[0], strength).max(), np.abs(slopes[1]).max())
        for found in (ours[i].largest, theirs.largest, together.largest[i]):
            assert float(found) == pytest.approx(wanted, rel=1e-13)
        assert float(ours[i].norm) == pytest.approx(float(theirs.norm), rel=1e-13)
        assert not theirs.norm.requires_grad


def test_on_eight_devices_it_is_that_of_one():
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(16, 4)), "b": rng.normal(size=8)}
    grads = {name: rng.normal(size=value.shape) for name, value in params.items()}
    mesh = jax.make_mesh((8,), ("x",))
    placed = jax.device_put((grads, params), NamedSharding(mesh, P("x")))
    run = jax.jit(lambda g, p: RESIDUAL["jax"](g, p, STRENGTH))
    found, wanted = run(*placed), run(grads, params)
    assert float(found.largest) == float(wanted.largest)
    assert float(found.norm) == pytest.approx(float(wanted.norm), rel=1e-14)


PENALTIES = {
    "l1": lambda: l1torch.l1(),
    "group_l1": lambda: l1torch.group_l1(0),
    "l1_ball": lambda: l1torch.l1_ball(100.0, scope="tree"),
}


def of_shards(rank, folder):
    """What each of two processes runs: the residual of halves, uneven ones too."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    found = {}
    for name, make in PENALTIES.items():
        grads, params = (
            {
                k: distribute_tensor(torch.tensor(v), mesh, [Shard(0)])
                for k, v in tree.items()
            }
            for tree in reversed(values())
        )
        found[name] = RESIDUAL["torch"](grads, params, STRENGTH, penalty=make())
    torch.save(found, pathlib.Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_in_two_processes_it_is_that_of_one(tmp_path):
    torch.multiprocessing.spawn(of_shards, (str(tmp_path),), nprocs=2)
    params, grads = (TORCH.tree(tree) for tree in values())
    for name, make in PENALTIES.items():
        wanted = RESIDUAL["torch"](grads, params, STRENGTH, penalty=make())
        for rank in range(2):
            found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)[name]
            torch.testing.assert_close(tuple(found), tuple(wanted), rtol=1e-13, atol=0)


def test_bad_input_is_named(twin):
    params, grads = (twin.tree(tree) for tree in values())
    residual = RESIDUAL[twin.name]
    with pytest.raises(TypeError, match="Call a schedule with your step count"):
        residual(grads, params, lambda step: 0.1)
    with pytest.raises(TypeError, match="strength must be a number"):
        residual(grads, params, "strong")
    with pytest.raises(ValueError, match="strength must be a finite"):
        residual(grads, params, -0.1)
    with pytest.raises(TypeError, match="penalty must be a Penalty"):
        residual(grads, params, 0.1, penalty=twin.lib.l1)
    with pytest.raises(ValueError, match="the gradients of these very parameters"):
        residual({"w": grads["w"]}, params, 0.1)
    with pytest.raises(ValueError, match="selects nothing to penalise"):
        residual({"b": grads["b"]}, {"b": params["b"]}, 0.1)
    whole = {"w": twin.array([1, 2], "int32")}
    with pytest.raises(TypeError, match="must be real floating point"):
        residual(whole, whole, 0.1)


def test_the_result_is_a_tree_of_scalars():
    params, grads = (JAX.tree(tree) for tree in values())
    found = RESIDUAL["jax"](grads, params, STRENGTH)
    assert found._fields == ("largest", "norm")
    assert len(jax.tree.leaves(found)) == 2
