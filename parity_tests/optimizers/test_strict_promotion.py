"""All works under JAX's strict promotion of dtypes, trees of several dtypes too.

optax.adam itself does not, so that other optimizers stand here for all.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l1jax

MIXED = ("float32", "bfloat16", "float64")
DTYPES = (("float32",), ("bfloat16",), MIXED)
WEIGHTS = np.linspace(0.1, 1, 16).reshape(4, 4)
PENALTIES = {
    "l1": l1jax.l1(),
    "elastic_net": l1jax.elastic_net(0.5),
    "nonnegative_l1": l1jax.nonnegative_l1(),
    "mcp": l1jax.mcp(3.0),
    "scad": l1jax.scad(3.7),
    "capped_l1": l1jax.capped_l1(1.0),
    "l0": l1jax.l0(),
    "log_sum": l1jax.log_sum(1.0),
    "lp": l1jax.lp(0.5),
    "group_l1": l1jax.group_l1(0),
    "group_l1, blocks": l1jax.group_l1(0, block=2),
    "sparse_group_l1": l1jax.sparse_group_l1(0.5, 0),
    "nuclear": l1jax.nuclear(),
    "owl": l1jax.owl(WEIGHTS.ravel()[::-1]),
    "slope": l1jax.slope(0.1),
    "total_variation": l1jax.total_variation(),
    "fused_lasso": l1jax.fused_lasso(0.5),
    "l1_ball": l1jax.l1_ball(1.0),
    "l1_ball, tree": l1jax.l1_ball(1.0, scope="tree"),
    "top_k": l1jax.top_k(3),
    "top_k, tree": l1jax.top_k(3, scope="tree"),
    "n_of_m": l1jax.n_of_m(),
    "weighted_l1": l1jax.weighted_l1(WEIGHTS),
}
NO_SUBGRADIENT = ("nonnegative_l1", "l0")


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def tree(dtypes):
    weights = {
        f"w{i}": jnp.asarray(np.linspace(-1, 1, 16).reshape(4, 4), dtype)
        for i, dtype in enumerate(dtypes)
    }
    return weights | {"bias": jnp.ones(4, dtypes[0])}


def take(tx, dtypes):
    """Trace two steps, where promotion happens; to compute them would take longer."""
    params = tree(dtypes)

    def steps(params):
        state = tx.init(params)
        for _ in range(2):
            _, state = tx.update(params, state, params)
        return state

    jax.eval_shape(steps, params)


@pytest.mark.parametrize("dtypes", DTYPES, ids="-".join)
@pytest.mark.parametrize("name", PENALTIES)
def test_penalties(name, dtypes):
    penalty, params = PENALTIES[name], tree(dtypes)
    take(l1jax.proximal_step(0.01, 0.1, penalty=penalty), dtypes)
    if penalty.separable:
        rate = optax.constant_schedule(0.1)
        take(l1jax.proximal(optax.rmsprop, rate, 0.01, penalty=penalty), dtypes)
    if name not in NO_SUBGRADIENT and not penalty.constraint:
        take(l1jax.add_subgradient(0.01, penalty=penalty), dtypes)
    jax.eval_shape(lambda p: l1jax.penalty_value(p, 0.1, penalty), params)
    jax.eval_shape(
        lambda p: l1jax.optimality_residual(p, p, 0.1, penalty=penalty), params
    )


@pytest.mark.parametrize("dtypes", DTYPES, ids="-".join)
@pytest.mark.parametrize("scope", ["global", "array"])
@pytest.mark.parametrize("snap", [None, 0.75])
def test_targets(scope, snap, dtypes):
    target = l1jax.target_sparsity(0.5, steps=4, scope=scope, snap=snap)
    take(l1jax.proximal_step(target, 0.1), dtypes)
    take(l1jax.proximal(optax.sgd, 0.1, target, momentum=0.9), dtypes)
    group = l1jax.group_l1(0)
    take(l1jax.proximal(optax.rmsprop, 0.1, target, penalty=group), dtypes)


@pytest.mark.parametrize("dtypes", DTYPES, ids="-".join)
@pytest.mark.parametrize(
    "factory", [optax.sgd, optax.rmsprop, optax.adagrad, optax.adadelta]
)
def test_optimizers(factory, dtypes):
    take(factory(0.1), dtypes)  # the base works
    schedule = l1jax.strength_schedule(0.1, start=0.01, warm_up=2, hold=2, cool_down=2)
    for metric in ("coordinate", "tensor", "none"):
        take(l1jax.proximal(factory, 0.1, schedule, metric=metric), dtypes)
    take(l1jax.proximal(factory, 0.1, 0.01, window=2), dtypes)
    take(l1jax.freeze_zeros(factory(0.1)), dtypes)
    take(l1jax.clip_by_global_l1_norm(0.1), dtypes)
    l1jax.sparsity_report(tree(dtypes))


@pytest.mark.parametrize("loss", ["squared", "logistic", "multinomial"])
def test_linear_models(loss):
    rng = np.random.default_rng(0)
    X = jnp.asarray(rng.normal(size=(20, 4)))
    y = jnp.asarray(rng.integers(0, 2, 20))
    for penalty in (l1jax.l1(), l1jax.group_l1(0, block=2)):
        l1jax.solve_linear(X, y, 0.05, loss=loss, penalty=penalty)


def test_solvers():
    target = jnp.array([1.0, 0.1])

    def loss(params):
        return jnp.sum(jnp.square(params["w"] - target))

    start = {"w": jnp.zeros(2)}
    found = l1jax.solve(loss, start, 0.5)
    l1jax.refit(loss, found.params)
    l1jax.regularisation_path(loss, start, count=3)
    l1jax.regularisation_path(loss, start, count=3, vectorised=True)
