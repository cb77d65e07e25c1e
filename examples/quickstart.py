"""L1-logistic regression in Flax, in torch and in scikit-learn: the same zeros.

    python examples/quickstart.py

Which of 30 measurements of a cell nucleus tell a malignant tumour from a benign one?
The same model is trained twice, from the same weights, by proximal gradient descent on
`mean logistic loss + strength * |w|_1`; scikit-learn's solver gives the truth.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import l1jax
import l1torch

STRENGTH = 0.02  # lambda, per unit of the mean loss
STEPS, REPORTS = 30_000, 30
Advance = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Data:
    """Standardised measurements and labels, 0 for malignant and 1 for benign."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    names: list[str]

    @property
    def learning_rate(self) -> float:
        """1/L for the Lipschitz constant L of the mean loss's gradient."""
        with_bias = np.column_stack([self.X, np.ones(len(self.X))])
        return float(4 * len(self.X) / np.linalg.norm(with_bias, 2) ** 2)


@dataclasses.dataclass(frozen=True)
class Fit:
    """A trained classifier `benign if X @ coef + bias > 0`."""

    coef: np.ndarray
    bias: float

    def accuracy(self, data: Data) -> float:
        """The fraction of the test set that it gets right."""
        return float(((data.X_test @ self.coef + self.bias > 0) == data.y_test).mean())


def load() -> Data:
    """Split breast_cancer, and scale it by what the training part knows."""
    bunch = load_breast_cancer()
    X, X_test, y, y_test = train_test_split(
        bunch.data,
        bunch.target,
        random_state=0,
        stratify=bunch.target,
    )
    scaler = StandardScaler().fit(X)
    X, X_test = (scaler.transform(part).astype(np.float32) for part in (X, X_test))
    return Data(X, y.astype(np.float32), X_test, y_test, list(bunch.feature_names))


def initial_params() -> dict[str, dict[str, jax.Array]]:
    """The Flax model's initial parameters, which the torch model is given too."""
    return nn.Dense(1).init(jax.random.key(0), jnp.zeros((1, 30)))


def train_flax(
    data: Data,
    tx: optax.GradientTransformation,
    advance: Advance,
    penalty: Callable[[dict], jax.Array] = lambda params: jnp.zeros([]),
) -> Fit:
    """Train a Flax model; `penalty` is for the usual way, a term in the loss."""
    model, params = nn.Dense(1), initial_params()
    X, y = jnp.asarray(data.X), jnp.asarray(data.y)

    def loss(params: dict) -> jax.Array:
        logits = model.apply(params, X)[:, 0]
        losses = optax.sigmoid_binary_cross_entropy(logits, y)
        return losses.mean() + penalty(params)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def many_steps(carry):
        return jax.lax.scan(step, carry, length=STEPS // REPORTS)[0]

    carry = (params, tx.init(params))
    for _ in range(REPORTS):
        carry = jax.block_until_ready(many_steps(carry))
        advance(STEPS // REPORTS)
    dense = carry[0]["params"]
    return Fit(np.asarray(dense["kernel"])[:, 0], float(dense["bias"][0]))


def train_torch(data: Data, advance: Advance) -> Fit:
    """Train a torch module with `l1torch.Proximal`."""
    dense = initial_params()["params"]
    model = torch.nn.Linear(30, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(np.asarray(dense["kernel"]).T))
        model.bias.copy_(torch.tensor(np.asarray(dense["bias"])))
    X, y = torch.tensor(data.X), torch.tensor(data.y)
    base = torch.optim.SGD(model.named_parameters(), lr=data.learning_rate)
    optimizer = l1torch.Proximal(base, strength=STRENGTH)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        logits = model(X)[:, 0]
        torch.nn.functional.binary_cross_entropy_with_logits(logits, y).backward()
        optimizer.step()
        if step % (STEPS // REPORTS) == 0:
            advance(STEPS // REPORTS)
    return Fit(model.weight.detach().numpy()[0], model.bias.item())


def solve_sklearn(data: Data) -> Fit:
    """Solve the same problem by coordinate descent, to twelve digits.

    liblinear penalises the bias as one more weight; scaled by 1e4 it costs nothing.
    """
    model = LogisticRegression(
        C=1 / (len(data.y) * STRENGTH),
        l1_ratio=1.0,
        solver="liblinear",
        intercept_scaling=1e4,
        tol=1e-12,
        max_iter=100_000,
        random_state=0,
    ).fit(data.X.astype(np.float64), data.y)
    return Fit(model.coef_[0], float(model.intercept_[0]))


def coefficients(data: Data, fits: dict[str, Fit]) -> Table:
    """List the features that any of the fits keeps."""
    table = Table("feature", title="Features kept, of 30, and their coefficients")
    for name in fits:
        table.add_column(name, justify="right")
    kept = np.any([fit.coef != 0 for fit in fits.values()], axis=0)
    for i in np.flatnonzero(kept):
        table.add_row(data.names[i], *(f"{fit.coef[i]:+.4f}" for fit in fits.values()))
    table.add_section()
    table.add_row("bias", *(f"{fit.bias:+.4f}" for fit in fits.values()))
    nnz = (str(np.count_nonzero(fit.coef)) for fit in fits.values())
    table.add_row("features kept (nnz)", *nnz)
    table.add_row(
        "test accuracy", *(f"{fit.accuracy(data):.1%}" for fit in fits.values())
    )
    return table


def main() -> None:
    """Train, compare and print."""
    console, data = Console(), load()
    lr = data.learning_rate
    with Progress(
        TextColumn("{task.description:<36}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:

        def bar(description: str) -> Advance:
            task = progress.add_task(description, total=STEPS)
            return lambda steps: progress.advance(task, steps)

        exact = optax.chain(
            optax.sgd(lr), l1jax.proximal_step(STRENGTH, learning_rate=lr)
        )
        fits = {
            "JAX": train_flax(data, exact, bar("JAX: sgd + proximal_step")),
            "torch": train_torch(data, bar("torch: Proximal(SGD)")),
            "scikit-learn": solve_sklearn(data),
        }
        naive = train_flax(
            data,
            optax.adam(1e-2),
            bar("JAX: adam on loss + l1 * sum(abs)"),
            lambda params: STRENGTH * jnp.sum(jnp.abs(params["params"]["kernel"])),
        )

    console.print(coefficients(data, fits))
    difference = np.abs(fits["JAX"].coef - fits["torch"].coef).max()
    console.print(f"largest difference between the twins: {difference:.1e}")
    zeros = np.count_nonzero(naive.coef == 0)
    console.print(f"Adam on loss + l1 * sum(abs) instead: zeros: {zeros} of 30")
    supports = [fit.coef != 0 for fit in fits.values()]
    if not all(np.array_equal(support, supports[0]) for support in supports):
        raise SystemExit("The supports differ, which should not happen.")
    console.print("JAX, torch and scikit-learn keep the same features.")


if __name__ == "__main__":
    main()
