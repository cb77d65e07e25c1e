"""Independent truths: scikit-learn's optima, grid searches, inequalities, residuals."""

import math
from collections.abc import Callable

import numpy as np
from scipy.special import entr, expit, logsumexp, softmax
from sklearn.linear_model import ElasticNet, LogisticRegression

from parity_tests.oracles.problems import Problem, multinomial_gradient

PenaltyValue = Callable[[np.ndarray], np.ndarray]
"""The penalty of each element of an array, written for numpy."""


def l1_value(u: np.ndarray) -> np.ndarray:
    """|u|."""
    return np.abs(u)


def elastic_net_value(l1_ratio: float) -> PenaltyValue:
    """scikit-learn's elastic net."""
    return lambda u: l1_ratio * np.abs(u) + 0.5 * (1 - l1_ratio) * u**2


def nonnegative_l1_value(u: np.ndarray) -> np.ndarray:
    """u for u >= 0, else infinity."""
    return np.where(u < 0, np.inf, u)


def grid_argmin(x: float, threshold: float, value: PenaltyValue) -> float:
    """Minimise `(u - x)^2/2 + threshold * value(u)` on a grid that holds 0.

    Three grids, each around the best point of the one before it: within 2e-9 |x|.
    """
    centre, radius = 0.0, 2 * abs(x) + 1
    for _ in range(3):
        grid = np.append(np.linspace(centre - radius, centre + radius, 8001), 0.0)
        grid = grid[np.isfinite(value(grid))]
        centre = float(grid[np.argmin((grid - x) ** 2 / 2 + threshold * value(grid))])
        radius /= 1000
    return centre


def sklearn_lasso(problem: Problem, l1_ratio: float = 1.0) -> np.ndarray:
    """The Lasso's or elastic net's optimum, to a duality gap of 1e-15."""
    model = ElasticNet(
        alpha=problem.strength,
        l1_ratio=l1_ratio,
        fit_intercept=False,
        tol=1e-15,
        max_iter=1_000_000,
    )
    return model.fit(problem.X, problem.y).coef_


def sklearn_logistic(problem: Problem) -> np.ndarray:
    """The L1-logistic optimum by liblinear: without an intercept it penalises none."""
    model = LogisticRegression(
        C=1 / (len(problem.y) * problem.strength),
        l1_ratio=1.0,
        solver="liblinear",
        fit_intercept=False,
        tol=1e-12,
        max_iter=1_000_000,
        random_state=0,
    )
    return model.fit(problem.X, problem.y).coef_[0]


def multinomial_optimum(
    X: np.ndarray, Y: np.ndarray, strength: float
) -> dict[str, np.ndarray]:
    """The L1-penalised multinomial regression's optimum, biases unpenalised.

    FISTA with restarts (Beck and Teboulle, 2009; O'Donoghue and Candes, 2015) in numpy,
    to a KKT residual of 1e-13: scikit-learn's saga stops far from it.
    """
    design = np.c_[X, np.ones(len(X))]
    rate = 2 * len(X) / np.linalg.norm(design, 2) ** 2
    point = {"w": np.zeros((X.shape[1], Y.shape[1])), "b": np.zeros(Y.shape[1])}
    ahead, inertia = point, 1.0
    for _ in range(20_000):
        if multinomial_kkt_residual(X, Y, strength, point) <= 1e-13:
            return point
        slope = multinomial_gradient(np, X, Y, ahead)
        moved = {k: ahead[k] - rate * slope[k] for k in point}
        new = {
            "w": np.sign(moved["w"])
            * np.maximum(np.abs(moved["w"]) - rate * strength, 0),
            "b": moved["b"],
        }
        if sum(((ahead[k] - new[k]) * (new[k] - point[k])).sum() for k in point) > 0:
            inertia = 1.0
        following = (1 + math.sqrt(1 + 4 * inertia**2)) / 2
        weight = (inertia - 1) / following
        ahead = {k: new[k] + weight * (new[k] - point[k]) for k in point}
        point, inertia = new, following
    raise RuntimeError("the oracle has not converged")


def multinomial_kkt_residual(
    X: np.ndarray, Y: np.ndarray, strength: float, params: dict[str, np.ndarray]
) -> float:
    """The largest violation of the optimality conditions, of the biases too."""
    slope = multinomial_gradient(np, X, Y, params)
    g, w = slope["w"], params["w"]
    at_zero = np.maximum(np.abs(g) - strength, 0)
    residual = np.where(w == 0, at_zero, np.abs(g + strength * np.sign(w)))
    return float(max(residual.max(), np.abs(slope["b"]).max()))


def objective(problem: Problem, w: np.ndarray, value: PenaltyValue = l1_value) -> float:
    """The objective in numpy."""
    loss = problem.loss(np, problem.X, problem.y, w)
    return float(loss + problem.strength * value(w).sum())


def relative_gap(
    problem: Problem,
    w: np.ndarray,
    optimum: np.ndarray,
    value: PenaltyValue = l1_value,
) -> float:
    """`(F(w) - F(optimum)) / F(optimum)`."""
    best = objective(problem, optimum, value)
    return (objective(problem, w, value) - best) / best


def l1_kkt_residual(problem: Problem, w: np.ndarray) -> float:
    """The largest violation of the optimality conditions of `loss + strength |w|_1`."""
    g = problem.gradient(np, problem.X, problem.y, w)
    at_zero = np.maximum(np.abs(g) - problem.strength, 0)
    return float(
        np.where(w == 0, at_zero, np.abs(g + problem.strength * np.sign(w))).max()
    )


def linear_bounds(
    loss: str,
    X: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    b: np.ndarray,
    slope: float,
    groups: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[float, float]:
    """The objective of a linear model with an intercept, and a bound of its minimum.

    The penalty is `slope |w|_1`, and for groups the sum over g of `norms_g |w_g|`: each
    element's group, in the shape of w, and each group's factor. The bound is Fenchel's
    dual at the residual, whose mean is taken off and which is shrunk until it fits.
    """
    scores = X @ w + b
    owners, norms = groups if groups else (np.zeros(w.shape, int), np.zeros(1))

    def sizes(x: np.ndarray) -> np.ndarray:
        return np.sqrt(np.bincount(owners.ravel(), (x**2).ravel(), len(norms)))

    Y = np.eye(scores.shape[-1])[y] if loss == "multinomial" else y
    if loss == "squared":
        value, residual = (scores - y) ** 2 / 2, scores - y
    elif loss == "logistic":
        value = np.logaddexp(0, scores) - y * scores
        residual = expit(scores) - y
    else:
        value, residual = logsumexp(scores, 1) - (scores * Y).sum(1), softmax(scores, 1)
        residual = residual - Y
    primal = np.mean(value) + slope * np.abs(w).sum() + norms @ sizes(w)
    residual = residual - residual.mean(0)
    pull = np.abs(X.T @ residual) / len(y)

    def fits(share: float) -> bool:
        left = np.maximum(share * pull - slope, 0)
        return bool((sizes(left) <= norms).all())

    low, high = 0.0, 1.0
    for _ in range(0 if fits(1.0) else 100):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    theta = residual * (1.0 if fits(1.0) else low)
    if loss == "squared":
        return primal, -float(np.mean(theta * (theta / 2 + y)))
    chances = theta + Y
    entropies = entr(chances) + (entr(1 - chances) if loss == "logistic" else 0)
    return primal, float(entropies.sum() / len(y))
