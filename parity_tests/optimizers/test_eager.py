"""JAX steps that are not compiled as a whole: each part is compiled once, not anew."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l1jax
from parity_tests.oracles.convergence_matrix import ROWS

COMPILED = []
PARAMS = {"a": np.linspace(-1, 1, 60).reshape(6, 10), "b": np.linspace(2, -1, 20)}
STRENGTH = 0.01


@jax.monitoring.register_event_duration_secs_listener
def listen(event, duration, **_):
    if event.endswith("backend_compile_duration"):
        COMPILED.append(duration)


def adam(strength=STRENGTH, **settings):
    return l1jax.proximal(optax.adam, 0.01, strength, **settings)


def target(**settings):
    return l1jax.target_sparsity(0.5, 12, begin=0.0, end=0.4, **settings)


def injected():
    make = optax.inject_hyperparams(
        l1jax.proximal, static_args=("factory", "mask", "window")
    )
    return make(optax.adam, learning_rate=0.01, strength=STRENGTH)


class Weighted(l1jax.Penalty):
    """A penalty without a hash."""

    __hash__ = None
    takes_metric = True

    def __init__(self):
        self.inner = l1jax.l1()

    def value(self, x, strength=1.0):
        return self.inner.value(x, strength)

    def subgradient(self, x, strength=1.0):
        return self.inner.subgradient(x, strength)

    def prox(self, x, threshold):
        return self.inner.prox(x, threshold)

    def optimality_distance(self, x, grad, strength=1.0):
        return self.inner.optimality_distance(x, grad, strength)


TRANSFORMS = {
    "schedules": lambda: l1jax.proximal(
        optax.adam,
        optax.cosine_decay_schedule(0.01, 9),
        l1jax.strength_schedule(STRENGTH, warm_up=4),
    ),
    "injected": injected,
    "tensor": lambda: adam(metric="tensor"),
    "window": lambda: adam(window=3),
    "target": lambda: adam(target()),
    "snap": lambda: adam(target(snap=0.5)),
    "snap, array": lambda: adam(target(snap=0.5, scope="array")),
    "target, mcp": lambda: adam(target(), penalty=l1jax.mcp(3.0)),
    "l1 ball": lambda: adam(penalty=l1jax.l1_ball(1.0)),
    "l1 ball, tree": lambda: adam(penalty=l1jax.l1_ball(1.0, scope="tree")),
    "top k": lambda: adam(penalty=l1jax.top_k(5)),
    "top k, tree": lambda: adam(penalty=l1jax.top_k(5, scope="tree")),
    "n of m": lambda: adam(penalty=l1jax.n_of_m(2, 5)),
    "group": lambda: adam(penalty=l1jax.group_l1(-1)),
    "weights": lambda: adam(penalty=l1jax.weighted_l1({"a": 0.5, "b": 2.0})),
    "no hash": lambda: adam(penalty=Weighted()),
    "total variation": lambda: optax.chain(
        optax.sgd(0.1),
        l1jax.proximal_step(STRENGTH, 0.1, penalty=l1jax.total_variation()),
    ),
    "subgradient": lambda: optax.chain(
        l1jax.add_subgradient(STRENGTH, penalty=l1jax.group_l1(-1)), optax.sgd(0.1)
    ),
    "freeze": lambda: l1jax.freeze_zeros(optax.adam(0.1)),
    "clip": lambda: optax.chain(l1jax.clip_by_global_l1_norm(1.0), optax.sgd(0.1)),
}
for _name, _row in ROWS.items():
    # optax's own radam compiles a power anew at each step.
    if _row.jax is not None and _name != "radam":
        _factory, _settings = _row.jax
        TRANSFORMS[_name] = lambda factory=_factory, settings=_settings: l1jax.proximal(
            factory, 0.01, STRENGTH, **settings
        )


@pytest.mark.parametrize("name", TRANSFORMS)
def test_no_step_compiles_again_what_the_first_ones_did(name):
    tx = TRANSFORMS[name]()
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = tx.init(params)
    for step in range(8):
        if step == 2:
            jax.block_until_ready(params)
            before = len(COMPILED)
        updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
        params = optax.apply_updates(params, updates)
    jax.block_until_ready(params)
    assert before > 0
    assert len(COMPILED) == before
