"""Which threshold solves the Lasso? The answer differs from optimizer to optimizer.

    python examples/thresholds.py

Each row trains the same 220 weights, 20 of which matter, on the whole data for 4000
steps in double precision, the learning rate falling to zero as a cosine, and compares
with scikit-learn's Lasso: exact zeros found, and `(F(w) - F*) / F*` for the objective
`F = loss + strength |w|_1`. The threshold must be the optimizer's own step times the
strength. `l1torch.Proximal` knows the step of plain SGD; for momentum and Adam it is
written out below.
"""

from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import make_regression
from sklearn.linear_model import Lasso

import l1torch

STRENGTH, STEPS = 0.03, 4_000
Weights = torch.nn.Parameter


def problem() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Makes 400 samples of 220 features and solves their Lasso by scikit-learn."""
    X, y = make_regression(
        n_samples=400, n_features=220, n_informative=20, noise=30.0, random_state=0
    )
    y /= y.std()
    lasso = Lasso(alpha=STRENGTH, fit_intercept=False, tol=1e-14, max_iter=100_000)
    return torch.tensor(X), torch.tensor(y), lasso.fit(X, y).coef_


class ByHand:
    """A base optimizer, then the soft threshold by a step size of one's own."""

    def __init__(
        self,
        base: torch.optim.Optimizer,
        step_size: Callable[[torch.optim.Optimizer, Weights], float | torch.Tensor],
    ) -> None:
        self.base, self.step_size = base, step_size

    @torch.no_grad()
    def step(self) -> None:
        """Takes one step."""
        self.base.step()
        (w,) = self.base.param_groups[0]["params"]
        w.copy_(l1torch.soft_threshold(w, self.step_size(self.base, w) * STRENGTH))


def momentum_step(base: torch.optim.Optimizer, w: Weights) -> float:
    """A constant gradient moves the weights by `lr / (1 - momentum)` a step."""
    group = base.param_groups[0]
    return group["lr"] / (1 - group["momentum"])


def adam_step(base: torch.optim.Optimizer, w: Weights) -> torch.Tensor:
    """A constant gradient moves each weight by `lr / (sqrt(v_hat) + eps)`."""
    group, state = base.param_groups[0], base.state[w]
    v_hat = state["exp_avg_sq"] / (1 - group["betas"][1] ** state["step"].item())
    return group["lr"] / (v_hat.sqrt() + group["eps"])


def optimizers(lr: float) -> dict[tuple[str, str], tuple[Callable, Callable]]:
    """The rows of the table: (optimizer, threshold), its base and its wrapper."""

    def sgd(**kwargs) -> Callable:
        scale = 1 - kwargs.get("momentum", 0)
        return lambda w: torch.optim.SGD(w, lr=lr * scale, **kwargs)

    def adam(w: list) -> torch.optim.Optimizer:
        return torch.optim.Adam(w, lr=1e-2)

    def exact(base: torch.optim.Optimizer) -> l1torch.Proximal:
        return l1torch.Proximal(base, STRENGTH)

    def decoupled(base: torch.optim.Optimizer) -> l1torch.Proximal:
        return l1torch.Proximal(base, STRENGTH, step_size="learning_rate")

    def subgradient(base: torch.optim.Optimizer) -> l1torch.Subgradient:
        return l1torch.Subgradient(base, STRENGTH)

    def with_momentum(base: torch.optim.Optimizer) -> ByHand:
        return ByHand(base, momentum_step)

    heavy, nesterov = sgd(momentum=0.9), sgd(momentum=0.9, nesterov=True)
    return {
        ("SGD", "lr*l1"): (sgd(), exact),
        ("SGD, momentum 0.9", "lr*l1"): (heavy, decoupled),
        ("SGD, momentum 0.9", "lr*l1/(1-0.9)"): (heavy, with_momentum),
        ("SGD, Nesterov 0.9", "lr*l1/(1-0.9)"): (nesterov, with_momentum),
        ("Adam", "lr*l1"): (adam, decoupled),
        ("Adam", "lr*l1/(sqrt(v_hat)+eps)"): (
            adam,
            lambda base: ByHand(base, adam_step),
        ),
        ("SGD on loss + l1*|w|", "none"): (sgd(), subgradient),
        ("Adam on loss + l1*|w|", "none"): (adam, subgradient),
    }


def main() -> None:
    """Trains every row and prints the table."""
    console = Console()
    X, y, optimum = problem()

    def objective(w: np.ndarray) -> float:
        residual = X.numpy() @ w - y.numpy()
        return residual @ residual / (2 * len(y)) + STRENGTH * np.abs(w).sum()

    best, zeros = objective(optimum), optimum == 0
    lr = float(len(y) / torch.linalg.matrix_norm(X, 2) ** 2)
    table = Table("optimizer", "threshold", "zeros found", "gap")
    table.title = f"Lasso: scikit-learn has {zeros.sum()} zeros among 220 weights"
    rows = optimizers(lr)
    for key, (make, wrap) in track(rows.items(), "training", console=console):
        w = Weights(torch.full((220,), 0.01, dtype=torch.float64))
        base = make([("w", w)])
        optimizer = wrap(base)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(base, STEPS)
        for _ in range(STEPS):
            w.grad = X.T @ (X @ w.detach() - y) / len(y)
            optimizer.step()
            cosine.step()
        found = w.detach().numpy()
        gap = abs(objective(found) - best) / best
        right = np.count_nonzero((found == 0) & zeros)
        table.add_row(*key, f"{right} of {zeros.sum()}", f"{gap:.0e}")
    console.print(table)


if __name__ == "__main__":
    main()
