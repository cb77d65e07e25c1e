"""A user's program of both twins as a type checker sees it; it is never run.

`test_types` checks it. Arrays and gradients come as arguments, because the functions of
jax and torch that make them are not wholly typed.
"""
# pyright: strict, reportMissingTypeStubs=false

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jax.typing import ArrayLike
from numpy.typing import NDArray

import l1jax
import l1torch


@dataclasses.dataclass(frozen=True)
class JaxPenalty(l1jax.Penalty):
    """A user's own penalty in JAX, twice the L1 norm."""

    def value(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        """Return twice the norm."""
        return 2 * l1jax.l1().value(x, strength)

    def subgradient(self, x: ArrayLike, strength: ArrayLike = 1.0) -> jax.Array:
        """Return twice the sign."""
        return 2 * l1jax.l1().subgradient(x, strength)

    def prox(self, x: ArrayLike, threshold: ArrayLike) -> jax.Array:
        """Return the soft threshold at twice the threshold."""
        return l1jax.soft_threshold(x, jnp.multiply(2, threshold))

    def optimality_distance(
        self, x: ArrayLike, grad: ArrayLike, strength: ArrayLike = 1.0
    ) -> jax.Array:
        """Return the distance for twice the strength."""
        return l1jax.l1().optimality_distance(x, grad, jnp.multiply(2, strength))


@dataclasses.dataclass(frozen=True)
class TorchPenalty(l1torch.Penalty):
    """The same penalty in torch."""

    def value(
        self, x: torch.Tensor, strength: float | torch.Tensor = 1.0
    ) -> torch.Tensor:
        """Return twice the norm."""
        return 2 * l1torch.l1().value(x, strength)

    def subgradient(
        self, x: torch.Tensor, strength: float | torch.Tensor = 1.0
    ) -> torch.Tensor:
        """Return twice the sign."""
        return 2 * l1torch.l1().subgradient(x, strength)

    def prox(self, x: torch.Tensor, threshold: float | torch.Tensor) -> torch.Tensor:
        """Return the soft threshold at twice the threshold."""
        return l1torch.soft_threshold(x, 2 * threshold)

    def optimality_distance(
        self,
        x: torch.Tensor,
        grad: torch.Tensor,
        strength: float | torch.Tensor = 1.0,
    ) -> torch.Tensor:
        """Return the distance for twice the strength."""
        return l1torch.l1().optimality_distance(x, grad, 2 * strength)


def train_jax(
    x: jax.Array, y: jax.Array, params: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Train with every kind of strength, mask and penalty."""
    grads = params

    def loss(p: dict[str, jax.Array]) -> jax.Array:
        return jnp.mean((x @ p["w"] + p["bias"] - y) ** 2)

    schedule = l1jax.strength_schedule(1e-3, warm_up=10)
    optimizers = [
        l1jax.proximal(optax.adam, 1e-3, 1e-4, b1=0.8),
        l1jax.proximal(optax.adam, optax.cosine_decay_schedule(1e-3, 100), schedule),
        l1jax.proximal(optax.sgd, 1e-3, x.mean(), penalty=JaxPenalty()),
        l1jax.proximal(optax.sgd, 1e-3, {"w": 1e-4, "bias": schedule}, mask=None),
        l1jax.proximal(
            optax.adamw,
            1e-3,
            l1jax.target_sparsity(0.9, 100),
            penalty=l1jax.group_l1(axis=0),
            mask=l1jax.by_path("w"),
            metric="tensor",
        ),
        optax.chain(
            l1jax.add_subgradient(1e-3, mask={"w": True, "bias": False}),
            l1jax.clip_by_global_l1_norm(1.0),
            optax.adam(1e-3),
        ),
        optax.chain(
            optax.sgd(0.1),
            l1jax.proximal_step(1e-3, learning_rate=0.1, mask=lambda tree: tree),
        ),
        l1jax.freeze_zeros(optax.adam(1e-3)),
    ]
    for optimizer in optimizers:
        state = optimizer.init(params)
        updates, state = optimizer.update(grads, state, params)
        optax.apply_updates(params, updates)
    report = l1jax.sparsity_report(params, mask=l1jax.weights_only)
    total: float = report.sparsity + float(l1jax.penalty_value(params, 1e-3))
    residual = l1jax.optimality_residual(grads, params, 1e-3)
    largest: jax.Array = l1jax.lambda_max(loss, params)
    solution = l1jax.solve(loss, params, 0.1 * largest, tol=1e-6)
    refitted = l1jax.refit(loss, params)
    path = l1jax.regularisation_path(loss, params, count=10)
    smallest: float = float(path.strengths[-1]) + total
    print(residual.largest, solution.converged, refitted.objective, smallest)
    return params


def train_torch(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Train with every kind of strength, mask and penalty."""
    model = torch.nn.Linear(x.shape[1], 1)
    adam = torch.optim.Adam(model.named_parameters(), lr=1e-3)
    schedule = l1torch.strength_schedule(1e-3, warm_up=10)
    optimizers: list[torch.optim.Optimizer] = [
        l1torch.Proximal(adam, 1e-4),
        l1torch.Proximal(adam, schedule, penalty=TorchPenalty(), fused=True),
        l1torch.Proximal(adam, {"weight": torch.tensor(1e-4)}, mask=None),
        l1torch.Proximal(
            adam,
            l1torch.target_sparsity(0.9, 100),
            penalty=l1torch.group_l1(axis=0),
            mask=l1torch.by_path("weight"),
            metric="tensor",
        ),
        l1torch.Subgradient(adam, 1e-3, mask={"weight": True, "bias": False}),
        l1torch.freeze_zeros(adam),
    ]
    for optimizer in optimizers:
        optimizer.zero_grad()
        optimizer.step()
    report = l1torch.sparsity_report(model, mask=l1torch.weights_only)
    total: float = report.sparsity + l1torch.penalty_value(model, 1e-3).item()

    def loss(p: dict[str, torch.Tensor]) -> torch.Tensor:
        return ((x @ p["w"] - y) ** 2).mean()

    params = {"w": torch.zeros(x.shape[1])}
    step = l1torch.proximal_step(1e-3, learning_rate=0.1)
    updates, _ = step.update({"w": torch.ones(x.shape[1])}, step.init(params), params)
    params = l1torch.apply_updates(params, updates)
    grads = {"w": torch.ones(x.shape[1])}
    residual = l1torch.optimality_residual(grads, params, 1e-3)
    largest: torch.Tensor = l1torch.lambda_max(loss, params)
    solution = l1torch.solve(loss, params, 0.1 * largest, tol=1e-6)
    refitted = l1torch.refit(loss, params)
    path = l1torch.regularisation_path(loss, params, count=10)
    smallest: float = float(path.strengths[-1]) + total
    print(residual.largest, solution.converged, refitted.objective, smallest)
    return params


def fit_linear(
    x: NDArray[np.float64], y: NDArray[np.float64], a: torch.Tensor, b: torch.Tensor
) -> float:
    """Fit linear models of numpy's data in JAX, and of tensors in torch."""
    ours = l1jax.solve_linear(x, y, 0.1, penalty=l1jax.elastic_net(0.5))
    gap = l1jax.duality_gap(x, y, ours.coef, 0.1)
    chosen = l1jax.cross_validate(x, y, folds=3, rule="one_se")
    theirs = l1torch.solve_linear(a, b, 0.1, loss="squared")
    path = l1torch.linear_path(a, b, np.geomspace(1, 0.01, 20))
    criterion = l1torch.information_criterion(path, len(y), kind="bic")
    kept = l1torch.keep_features(a, b, 5)
    numbers = [gap.relative, chosen.strength, theirs.gap, float(criterion.min())]
    return sum(numbers) + kept.strength + kept.solution.objective


def weights(x: jax.Array) -> list[l1jax.Penalty | l1torch.Penalty]:
    """Make the penalties that take arrays."""
    return [
        l1jax.weighted_l1({"w": x}),
        l1jax.weighted_l1([1.0, 2.0]),
        l1jax.adaptive_l1(np.ones(3), power=2.0),
        l1torch.weighted_l1({"w": torch.ones(3)}),
        l1torch.weighted_l1(np.ones(3)),
        l1torch.adaptive_l1(torch.nn.Linear(2, 2)),
        l1jax.owl(np.ones(3)),
        l1torch.owl([2.0, 1.0]),
    ]


def priors(x: jax.Array, n: int) -> tuple[float, jax.Array]:
    """Convert strengths of floats and of arrays."""
    scale: float = l1torch.laplace_scale(1e-3, n)
    return scale, l1jax.laplace_strength(x, n)


def own_step(optimizer: Callable[..., optax.GradientTransformation]) -> None:
    """Register the effective steps of an optimizer of one's own."""

    def step(*, learning_rate: float) -> l1jax.EffectiveStep:
        return l1jax.EffectiveStep(scale=learning_rate)

    l1jax.register_step_size(optimizer, lambda *args, **kwargs: step(**kwargs))
