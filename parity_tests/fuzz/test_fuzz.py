"""Odd values in every argument of the public surface: sensible, or a clear error."""

import collections
import fractions
import math

import numpy as np
import pytest
import scipy.sparse

from parity_tests.fuzz import sweep
from parity_tests.fuzz.cases import cases


@pytest.mark.slow
def test_every_argument_takes_or_refuses_every_odd_value():
    lines = sweep.left(sweep.sweep())
    assert not lines, "\n".join([f"{len(lines)} are left", *lines])


def test_a_few_odd_values():
    lines = sweep.left(sweep.sweep(every=FEW))
    assert not lines, "\n".join(lines)


FEW = 397
"""Of all calls, each of so many is made in the default suite."""


def test_every_public_function_is_in_it(twin):
    names = {name.split(".")[0].split(" ")[0] for name in cases(twin)}
    results = {  # what functions give, and are not called by users
        "AddSubgradientState",
        "ArraySparsity",
        "Control",
        "CrossValidation",
        "DualityGap",
        "EffectiveStep",
        "KeptFeatures",
        "LinearSolution",
        "OptimalityResidual",
        "PathPoint",
        "ProximalState",
        "ProximalStepState",
        "Solution",
        "SparsityReport",
        "__version__",
        "GradientTransformation",
        "Penalty",  # abstract; its methods are those of every penalty
        "PenaltyFormula",
    }
    assert set(twin.lib.__all__) - results <= names


# Case, argument, value, the class of the error, and what it says.
DIRECT = [
    ("solve", "tol", 1.0, ValueError, r"tol must be .* in \[0, 1\), got 1.0"),
    ("solve_linear", "tol", 2, ValueError, r"tol must be .* in \[0, 1\), got 2"),
    ("solve", "tol", np.array(-0.5), ValueError, "tol must be .* got .*-0.5"),
    ("solve", "tol", np.ones(2), TypeError, "tol must be a Python number"),
    ("solve_linear", "tol", [1e-6], TypeError, "tol must be a Python number"),
    ("solve_linear", "fit_intercept", "abc", TypeError, "fit_intercept must be True"),
    ("linear_path", "fit_intercept", np.ones(2), TypeError, "fit_intercept must be"),
    ("keep_features", "fit_intercept", 1, TypeError, "fit_intercept must be True"),
    ("cross_validate", "fit_intercept", None, TypeError, "fit_intercept must be True"),
    ("regularisation_path", "warm_start", "no", TypeError, "warm_start must be True"),
    ("regularisation_path", "vectorised", 0, TypeError, "vectorised must be True or"),
    ("regularisation_path", "count", 5, ValueError, "count and ratio must be left out"),
    ("linear_path", "ratio", 0.5, ValueError, "count and ratio must be left out"),
    ("cross_validate", "count", 5, ValueError, "count and ratio must be left out"),
    ("linear_path counted", "count", 10**30, ValueError, "count must be .* <= 1000000"),
    ("target_sparsity", "steps", 10**30, ValueError, "steps must be .* <= 2147483647"),
    ("strength_schedule", "hold", 10**30, ValueError, "hold must be .* <= 2147483647"),
    ("laplace_scale", "strength", np.array([-1.0]), ValueError, "strength must be .*>"),
    ("laplace_scale", "n", np.array([1j]), TypeError, "n must be .* real .*complex128"),
    (
        "laplace_strength",
        "scale",
        np.array([math.nan]),
        ValueError,
        "scale must be .*>",
    ),
    ("TargetSparsity.count", "size", 10**400, ValueError, "size must be .* <= 92233"),
    ("weighted_l1", "weights", {1.0}, TypeError, "weights must be .*real numbers"),
    ("adaptive_l1", "pilot", ["a"], TypeError, "pilot must be .*real numbers"),
    ("strength_schedule()", "count", -1, ValueError, "count must be .* got -1"),
    ("strength_schedule()", "count", math.nan, ValueError, "count must be .* got nan"),
    ("layouts", "params", object(), TypeError, "params"),
    ("layouts", "params", "abc", TypeError, "params"),
    ("plot_path", "named", -1, ValueError, "named must be a Python int >= 0, got -1"),
    ("plot_path", "labels", "abc", TypeError, "labels must be a sequence of names"),
    ("plot_path", "classes", 3, TypeError, "classes must be a sequence of names"),
    ("plot_path", "classes", "abc", TypeError, "classes must be a sequence of names"),
    ("sparsity_report", "control", 3, TypeError, "control must be a Control, got 3"),
    ("adaptive_l1", "pilot", None, TypeError, "pilot must be .* real numbers, got Non"),
    ("regularisation_path", "params", {}, ValueError, "params must hold at least one"),
    ("regularisation_path", "loss", lambda p: p, TypeError, "loss must return a .*sca"),
    ("plot_path", "path", 3, TypeError, "path must be a RegularisationPath, got 3"),
    ("information_criterion", "path", [1], TypeError, "path must be a Regularisation"),
    (
        "information_criterion",
        "n",
        True,
        TypeError,
        "n must be a Python int >= 1 .*got",
    ),
    ("information_criterion", "gamma", True, TypeError, "gamma must be .* got True"),
    (
        "mcp",
        "scale",
        1e308,
        ValueError,
        r"scale must be .* \[1e-18, 1e18\], got 1e\+30",
    ),
    (
        "scad",
        "scale",
        1e-320,
        ValueError,
        r"scale must be .* \[1e-18, 1e18\], got 1e-3",
    ),
    (
        "strength_schedule",
        "strength",
        np.ones(2),
        TypeError,
        "strength must be a Python",
    ),
    ("proximal_step", "mask", ["w"], TypeError, r"mask must be .* Pass by_path\(...\)"),
    ("proximal_step", "mask", "w", TypeError, r"mask must be .* Pass by_path\(...\)"),
    (
        "solve",
        "mask",
        lambda name, p: True,
        TypeError,
        r"mask .*missing.*by_path\(...\)",
    ),
    ("proximal_step.update", "state", {}, TypeError, "state must be the ProximalStepS"),
    (
        "add_subgradient.update",
        "state",
        (),
        TypeError,
        "state must be the AddSubgradie",
    ),
    ("soft_threshold", "x", [1.0], TypeError, "x must be real floating point"),
    ("l1.prox", "x", [1.0], TypeError, "x must be real floating point, a.* got .*list"),
    (
        "l1.prox",
        "x",
        {},
        TypeError,
        "x must be real floating point, .* got {} of type d",
    ),
    ("l1.optimality_distance", "grad", [1.0], TypeError, "grad must be real floating"),
    (
        "l1_ball.optimality_distance",
        "grad",
        [1.0],
        TypeError,
        "grad must be real float",
    ),
    (
        "solve_linear",
        "X",
        scipy.sparse.eye(12),
        TypeError,
        r"X must be .*\.toarray\(\)",
    ),
    ("solve_linear", "y", np.array(["a"] * 12), TypeError, "y must be .* Encode words"),
    ("solve_linear", "X", [["a"] * 3] * 12, TypeError, "X must be .* Encode words"),
]


@pytest.mark.parametrize(
    ("name", "argument", "value", "error", "match"),
    DIRECT,
    ids=[f"{name}-{argument}-{i}" for i, (name, argument, *_) in enumerate(DIRECT)],
)
def test_errors_name_the_argument(twin, name, argument, value, error, match):
    case = cases(twin)[name]
    with pytest.raises(error, match=match):
        case.call(**case.arguments() | {argument: value})


def test_values_that_need_a_framework(twin):
    found = cases(twin)
    for name, argument, value, error, match in (
        ("clip_by_global_l1_norm.update", "updates", "a", TypeError, "updates"),
        ("solve", "tol", twin.array(-1.0), TypeError, "tol must be a Python number"),
        ("proximal", "metric", twin.array(1.0), TypeError, "metric must be one of"),
        ("proximal", "strength", 10**400, ValueError, "strength must be a finite"),
        (
            "l1.optimality_distance",
            "grad",
            twin.array(np.ones(2)),
            ValueError,
            r"grad must have the shape of x, \(3,\), got \(2,\)",
        ),
        (
            "l1_ball.optimality_distance",
            "grad",
            twin.array(np.ones(2)),
            ValueError,
            r"grad must have the shape of x, \(3,\), got \(2,\)",
        ),
        (
            "proximal_step.update",
            "updates",
            twin.tree({"w": np.ones(3) * 1j, "b": 0.0}, "complex128"),
            TypeError,
            r"updates\['[wb]'\] must be .* real floating point, .*complex128",
        ),
        (
            "optimality_residual",
            "grads",
            twin.tree({"w": np.ones(3) * 1j, "b": 0.0}, "complex128"),
            TypeError,
            r"grads\['[wb]'\] must be .* real floating point, .*complex128",
        ),
        (
            "owl.lambda_max",
            "grad",
            twin.array([1.0]),
            ValueError,
            "owl has 3 weights, but 'grad' has 1 elements",
        ),
        (
            "add_subgradient.update",
            "params",
            {"w": "a"},
            TypeError,
            r"params\['w'\] must be an? (array|tensor), got 'a'",
        ),
        (
            "soft_threshold",
            "x",
            twin.array([1.0], "float8_e4m3fn"),
            TypeError,
            "x must be real floating point, .* 16 bits at least, got dtype .*float8",
        ),
    ):
        case = found[name]
        with pytest.raises(error, match=match):
            case.call(**case.arguments() | {argument: value})
    found["fused_lasso.lambda_max"].call(grad=twin.array([1.0, 2.0]))
    proximal = found["proximal"]
    proximal.call(**proximal.arguments() | {"window": np.array(2)})
    for name in ("proximal_step", "proximal", "solve"):
        case = found[name]
        case.call(**case.arguments() | {"strength": 10**30})
    for name in ("lambda_max", "solve", "refit", "regularisation_path", "solve_linear"):
        case = found[name]
        case.call(**case.arguments() | {"tol": fractions.Fraction(1, 2)})


def test_the_judge_sees_what_is_wrong(twin):
    counts = collections.Counter()
    for result, value in (
        (lambda x: 1 / 0, 1),
        (lambda x: math.nan, 1),
        (lambda x: twin.array(1j, "complex128"), 1),
        (lambda x: int("a"), 1),
        (lambda x: 1.0, 2),
    ):
        case = sweep.Case(result, lambda: {}, {"x": lambda value: value == 1})
        counts[sweep.outcome(twin, case, "x", value).kind] += 1
    assert counts == {"unclear": 2, "silent": 3}
