"""The transformations that are compiled for TPUs, and what each may cost."""

import dataclasses
import functools

import jax
import optax

import l1jax
from parity_tests.oracles.convergence_matrix import ROWS

LR, STRENGTH = 1e-3, 1e-4
# The step count, which plain SGD has not, takes 6 kB with its padding, and a schedule
# of each argument 24 kB: beside these arrays they weigh less than a thousandth.
SIDE = 4096
# Smaller arrays are copied to on-chip memory where a step takes several kernels, and
# the compiler counts these copies too.
LARGE = 16384


@dataclasses.dataclass(frozen=True)
class Case:
    """A transformation of ours, the optimizer without it, and what it may cost."""

    ours: optax.GradientTransformation
    base: optax.GradientTransformation
    arrays: int = 0
    """How many arrays of the parameters' size it reads and writes more."""
    temporaries: int = 0
    """How many of them are temporaries."""
    all_reduces: int = 0
    """How many sums over all chips, where the parameters are sharded."""
    dtype: str = "float32"
    side: int = SIDE
    """Of the square kernel; there is a bias too."""
    gathers: bool = False
    """Whether it needs a whole array on every chip, and calls outside XLA: then only
    that it compiles is asked for."""


def _separable() -> dict[str, l1jax.Penalty]:
    return {
        "elastic net": l1jax.elastic_net(0.5),
        "nonnegative": l1jax.nonnegative_l1(),
        "weighted": l1jax.weighted_l1(0.5),
        "mcp": l1jax.mcp(0.1),
        "scad": l1jax.scad(0.1),
        "capped": l1jax.capped_l1(0.1),
        "log sum": l1jax.log_sum(0.1),
        "lp, 1/2": l1jax.lp(1 / 2),
        "lp, 2/3": l1jax.lp(2 / 3),
        "l0": l1jax.l0(),
    }


@functools.cache
def cases() -> dict[str, Case]:
    """Every transformation, penalty and metric, and every optimizer that is known."""
    adam, prox = optax.adam(LR), functools.partial(l1jax.proximal, strength=STRENGTH)
    ours = functools.partial(prox, optax.adam, LR)
    found = {}
    for name, row in ROWS.items():
        if row.jax is not None:
            factory, settings = row.jax
            found[name] = Case(prox(factory, LR, **settings), factory(LR, **settings))

    def decayed(count: jax.Array) -> jax.Array:
        return LR / (1 + count)

    scheduled = l1jax.proximal(optax.adam, decayed, lambda count: STRENGTH * count)
    after, before = l1jax.proximal_step(STRENGTH, LR), l1jax.add_subgradient(STRENGTH)
    sgd = optax.sgd(LR)
    return found | {
        "proximal_step": Case(optax.chain(adam, after), adam),
        "add_subgradient": Case(optax.chain(before, adam), adam),
        **{
            name: Case(ours(penalty=penalty), adam)
            for name, penalty in _separable().items()
        },
        "scheduled": Case(scheduled, optax.adam(decayed)),
        "metric none": Case(ours(metric="none"), adam),
        "sgd, bfloat16": Case(prox(optax.sgd, LR), sgd, dtype="bfloat16"),
        "adam, bfloat16": Case(ours(), adam, dtype="bfloat16"),
        # The mean square of D must be known before the prox: one sum over the chips,
        # and the step in two parts, of which both read D's second moments and the
        # gradient.
        "metric tensor": Case(
            ours(metric="tensor"), adam, arrays=2, all_reduces=1, side=LARGE
        ),
        # Two budgets are read and written. After Adam the compiler cuts the step in two
        # besides, with two temporaries in between.
        "sgd, window": Case(prox(optax.sgd, LR, window=10), sgd, arrays=4, side=LARGE),
        "adam, window": Case(
            ours(window=10), adam, arrays=11, temporaries=2, side=LARGE
        ),
    }


@functools.cache
def structured() -> dict[str, Case]:
    """The penalties that look at more than one weight, and take passes of their own."""
    adam, sgd = optax.adam(LR), optax.sgd(LR)
    kernel = l1jax.by_path("kernel")

    def in_metric(penalty: l1jax.Penalty, arrays: int, sums: int) -> Case:
        ours = l1jax.proximal(optax.adam, LR, STRENGTH, penalty=penalty, mask=kernel)
        return Case(ours, adam, arrays=arrays, temporaries=6, all_reduces=sums)

    def gathered(penalty: l1jax.Penalty, side: int) -> Case:
        ours = l1jax.proximal(
            optax.sgd, LR, STRENGTH, penalty=penalty, metric="tensor", mask=kernel
        )
        return Case(ours, sgd, side=side, gathers=True)

    groups = l1jax.group_l1(0)
    ours = l1jax.proximal(optax.sgd, LR, STRENGTH, penalty=groups, mask=kernel)
    return {
        "group": Case(ours, sgd, arrays=16, all_reduces=2),
        "group, metric": in_metric(groups, 27, 7),
        "sparse group": in_metric(l1jax.sparse_group_l1(0.5, 0), 27, 7),
        "l1 ball": in_metric(l1jax.l1_ball(100.0), 34, 5),
        "l1 ball, tree": in_metric(l1jax.l1_ball(100.0, scope="tree"), 34, 5),
        "top k": in_metric(l1jax.top_k(1000), 33, 4),
        "top k, tree": in_metric(l1jax.top_k(1000, scope="tree"), 33, 4),
        "n of m": in_metric(l1jax.n_of_m(2, 4, axis=-2), 54, 1),
        "nuclear": gathered(l1jax.nuclear(), 64),
        "slope": gathered(l1jax.slope(0.1), 32),
        "total variation": gathered(l1jax.total_variation(), 128),
        "fused lasso": gathered(l1jax.fused_lasso(0.5), 128),
    }


# What most people use, each of our transformations, and the two that a whole training
# step is compiled with.
QUICK = (
    "sgd",
    "sgd, momentum",
    "adam",
    "rmsprop",
    "proximal_step",
    "add_subgradient",
    "metric tensor",
)
TRAINING = ("sgd, momentum", "adam")
