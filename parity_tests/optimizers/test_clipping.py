"""Clipping by the global L1 norm: numpy's, torch's own, and what it is not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import l1jax
import l1torch
from parity_tests.frameworks.twins import DTYPES, JAX, TORCH, TWINS
from parity_tests.oracles import optima, problems

# Units in the last place. Half precision is summed and scaled in single: rounded once.
CLOSE = {
    "float64": 4 * 2.0**-52,
    "float32": 4 * 2.0**-23,
    "bfloat16": 0.501 * 2.0**-7,
    "float16": 0.501 * 2.0**-10,
}


def arrays():
    rng = np.random.default_rng(0)
    return {"w": rng.normal(size=(30, 7)), "bias": rng.normal(size=5), "u": np.ones(())}


def norm(tree):
    return sum(np.abs(np.asarray(x, np.float64)).sum() for x in tree.values())


def clipped(twin, tree, max_norm):
    clip = twin.lib.clip_by_global_l1_norm(max_norm)
    new, _ = twin.jit(clip.update)(tree, clip.init(tree))
    return new


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("twin", TWINS)
def test_gradients_have_the_norm_and_keep_their_direction(twin, dtype):
    tree = twin.tree(arrays(), dtype)
    before = {name: twin.numpy(x) for name, x in tree.items()}
    after = clipped(twin, tree, 3.0)
    assert {twin.dtype(x) for x in after.values()} == {dtype}
    scale = 3.0 / norm(before)
    for name, x in after.items():
        wanted = np.asarray(before[name], np.float64) * scale
        np.testing.assert_allclose(twin.numpy(x), wanted, rtol=CLOSE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_twins_agree(dtype):
    ours, theirs = (
        clipped(twin, twin.tree(arrays(), dtype), 3.0) for twin in (JAX, TORCH)
    )
    for name in ours:
        # What is rounded to half precision can fall on either side.
        np.testing.assert_allclose(
            JAX.numpy(ours[name]), TORCH.numpy(theirs[name]), rtol=2 * CLOSE[dtype]
        )


@pytest.mark.parametrize("twin", TWINS)
def test_below_the_norm_nothing_changes_in_a_single_bit(twin):
    tree = twin.tree({"w": np.array([0.3, -0.1]), "u": np.array([-0.0])})
    after = clipped(twin, tree, 0.4)
    assert twin.numpy(after["w"]).tobytes() == twin.numpy(tree["w"]).tobytes()
    assert np.signbit(twin.numpy(after["u"])).all()
    zero = clipped(twin, twin.tree({"w": np.zeros(3)}), 1.0)
    np.testing.assert_array_equal(twin.numpy(zero["w"]), 0)


def test_as_torch_clips_parameters():
    tree = TORCH.tree(arrays())
    params = {name: torch.nn.Parameter(torch.zeros_like(x)) for name, x in tree.items()}
    for name, param in params.items():
        param.grad = tree[name].clone()
    torch.nn.utils.clip_grad_norm_(params.values(), 3.0, norm_type=1)
    for name, x in clipped(TORCH, tree, 3.0).items():
        torch.testing.assert_close(x, params[name].grad, rtol=1e-7, atol=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e308])
@pytest.mark.parametrize("twin", TWINS)
def test_what_has_no_norm_becomes_nan(twin, bad):
    tree = twin.tree({"w": np.array([1.0, bad, bad]), "u": np.ones(2)})
    for x in clipped(twin, tree, 1.0).values():
        assert np.isnan(twin.numpy(x)).all()


def test_a_norm_that_is_not_positive_inside_a_step_becomes_nan():
    tree = {"w": jnp.ones(3)}
    for max_norm in (0.0, -1.0):
        made = jax.jit(lambda m: l1jax.clip_by_global_l1_norm(m).update(tree, ())[0])
        assert np.isnan(made(max_norm)["w"]).all()
        given = l1torch.clip_by_global_l1_norm(torch.tensor(max_norm))
        assert given.update({"w": torch.ones(3)}, ())[0]["w"].isnan().all()


@pytest.mark.parametrize("twin", TWINS)
def test_leaves_without_a_gradient_stay_so(twin):
    tree = twin.tree({"w": np.array([2.0, 2.0])}) | {"u": None}
    after = clipped(twin, tree, 1.0)
    assert after["u"] is None
    np.testing.assert_array_equal(twin.numpy(after["w"]), [0.5, 0.5])
    assert clipped(twin, {}, 1.0) == {}


@pytest.mark.parametrize("twin", TWINS)
def test_mixed_and_complex_gradients_count_by_their_size(twin):
    tree = twin.tree({"w": np.array([3.0])}, "float32")
    tree |= twin.tree({"v": np.array([1.0])}, "float64")
    tree |= {"z": twin.array(np.array([3.0])) * 1j + 4.0}
    after = clipped(twin, tree, 0.9)  # 3 + 1 + |4 + 3i|
    assert twin.dtype(after["w"]) == "float32"
    np.testing.assert_allclose(twin.numpy(after["z"]), 0.4 + 0.3j, rtol=1e-7)
    np.testing.assert_allclose(twin.numpy(after["v"]), 0.1, rtol=1e-7)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("max_norm", [0, -1.0, np.inf, np.nan])
def test_a_norm_that_cannot_be_is_refused(twin, max_norm):
    with pytest.raises(ValueError, match="max_norm must be .*got"):
        twin.lib.clip_by_global_l1_norm(max_norm)


@pytest.mark.parametrize("twin", TWINS)
def test_other_arguments_are_refused(twin):
    with pytest.raises(TypeError, match="max_norm must be .*got 'big'"):
        twin.lib.clip_by_global_l1_norm("big")
    with pytest.raises(ValueError, match="max_norm must be a scalar"):
        twin.lib.clip_by_global_l1_norm(twin.array(np.ones(2)))


def test_a_sparse_gradient_is_refused():
    clip = l1torch.clip_by_global_l1_norm(1.0)
    with pytest.raises(TypeError, match="updates\\['w'\\] has layout"):
        clip.update({"w": torch.eye(2).to_sparse()}, clip.init({}))


def test_in_a_chain_with_a_schedule():
    """`max_norm` falls below the gradient's norm of 2 in the third step."""
    made = optax.inject_hyperparams(l1jax.clip_by_global_l1_norm)(lambda t: 4.0 - t)
    tx = optax.chain(made, optax.scale(-1.0))
    params, sizes = {"w": jnp.ones(2)}, []
    state = tx.init(params)
    for _ in range(4):
        updates, state = jax.jit(tx.update)(params, state, params)
        sizes.append(float(jnp.abs(updates["w"]).sum()))
    np.testing.assert_allclose(sizes, [2, 2, 2, 1])


def test_it_does_not_regularise():
    """Clipped at every step far from the solution, it ends at the least squares'."""
    problem = problems.diabetes(fraction=0.02)
    X, y = jnp.asarray(problem.X), jnp.asarray(problem.y)
    free, *_ = np.linalg.lstsq(problem.X, problem.y, rcond=None)
    rate = 1 / problem.lipschitz
    most = 0.08
    clip = l1jax.clip_by_global_l1_norm(most)
    ends = {}
    for name, last in {
        "clipped": optax.sgd(rate),
        "clipped, prox": l1jax.proximal(optax.sgd, rate, problem.strength),
    }.items():
        tx = optax.chain(clip, last)

        def step(carry, _, tx=tx):
            params, state = carry
            grads = {"w": X.T @ (X @ params["w"] - y) / len(y)}
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), grads

        params = {"w": jnp.zeros(10)}
        run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=20_000))
        (params, _), grads = run((params, tx.init(params)))
        assert float(jnp.abs(grads["w"][0]).sum()) > most  # it was active
        ends[name] = np.asarray(params["w"])
    np.testing.assert_allclose(ends["clipped"], free, atol=1e-6)
    assert np.count_nonzero(ends["clipped"]) == 10
    # At a Lasso's solution the gradient of the loss is not 0. Where clipping scales it
    # by s there, the solution is that of strength / s.
    found = ends["clipped, prox"]
    size = np.abs(problem.gradient(np, problem.X, problem.y, found)).sum()
    assert size > most
    stronger = dataclasses.replace(problem, strength=problem.strength * size / most)
    wanted = optima.sklearn_lasso(stronger)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_array_equal(found == 0, wanted == 0)
    assert 0 < np.count_nonzero(found) < 10
