"""Data sets of the linear models' tests, and scikit-learn's path."""

import numpy as np
from sklearn import datasets
from sklearn.linear_model import lasso_path
from sklearn.preprocessing import StandardScaler

from parity_tests.oracles import problems

EXACT = {"tol": 1e-12}


def call(twin, name, X, y, *args, **kwargs):
    """Call a function of the data: X in double precision, y as it is."""
    dtype = "int64" if y.dtype.kind in "iu" else "float64"
    data = twin.array(X), twin.array(y, dtype)
    return getattr(twin.lib, name)(*data, *args, **kwargs)


def diabetes():
    """Return the diabetes data, with labels that need an intercept."""
    problem = problems.diabetes()
    return problem.X, problem.y + 1.5


def products():
    """Diabetes with its 45 products and 9 squares, sex being binary: 442 x 64."""
    X = datasets.load_diabetes().data
    pairs = [(i, j) for i in range(10) for j in range(i, 10) if not i == j == 1]
    more = [X[:, i] * X[:, j] for i, j in pairs]
    return StandardScaler().fit_transform(np.column_stack([X, *more])), diabetes()[1]


def digits(classes=3, rows=150):
    """Return images of the first few digits, and which digit each is."""
    X, Y = problems.digits()
    chosen = (Y[:, :classes].sum(1) == 1).nonzero()[0][:rows]
    return X[chosen], Y[chosen].argmax(1)


def breast_cancer():
    """Return the breast cancer data, with labels 0 and 1."""
    problem = problems.breast_cancer()
    return problem.X, (problem.y > 0).astype(float)


def spaced(X, y, count, ratio=1e-3):
    """Return strengths from the Lasso's largest down, evenly in the logarithm."""
    largest = np.abs(X.T @ (y - y.mean())).max() / len(y)
    return largest * ratio ** (np.arange(count) / (count - 1))


def sklearn_path(X, y, strengths):
    """Return the Lasso's coefficients by scikit-learn, a row for each strength."""
    settings = {"alphas": strengths, "tol": 1e-14, "max_iter": 1_000_000}
    return lasso_path(X - X.mean(0), y - y.mean(), **settings)[1].T
