"""Modules with more than parameters: running statistics and random keys count nowhere.

They must do so with flax 0.10.6 too, where a module is no tree of arrays.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import l1jax
import l1torch
from l1jax.parameters.trees import named_leaves


class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.linear = nnx.Linear(6, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.norm(self.linear(x)))


X = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
PARAMS = {"linear.bias", "linear.kernel", "norm.bias", "norm.scale"}


def forms(model):
    """What the parameters of a model may come in."""
    return {
        "module": model,
        "nested": {"net": model},
        "state": nnx.state(model),
        "params": nnx.state(model, nnx.Param),
    }


@pytest.fixture(params=["module", "nested", "state", "params"])
def form(request):
    return forms(Net())[request.param]


def kernel():
    params = dict(named_leaves(nnx.state(Net(), nnx.Param)))
    return np.asarray(params["linear.kernel"])


def names(paths):
    return {path.removeprefix("net.") for path in paths}


def test_values_count_parameters_alone(form):
    total = np.abs(kernel()).sum()
    assert float(l1jax.implied_radius(form)) == pytest.approx(total, rel=1e-6)
    assert float(l1jax.penalty_value(form, 0.5)) == pytest.approx(total / 2, rel=1e-6)
    # The scales of the normalisation are 4 ones; the variances would be 4 more.
    everything = float(l1jax.penalty_value(form, 1.0, mask=None))
    assert everything == pytest.approx(total + 4, rel=1e-6)


def test_reports_count_parameters_alone(form):
    report = l1jax.sparsity_report(form)
    assert names(row.path for row in report.arrays) == PARAMS
    assert report.size == 24 + 3 * 4
    dense = l1jax.sparsity_report(form, mask=l1jax.weights_only)
    assert (dense.size, dense.sparsity) == (24, 0)
    assert set(map(str, l1jax.layouts(form).values())) == {"io"}


def test_residuals_count_parameters_alone():
    model = Net()
    grads = nnx.grad(lambda m: jnp.mean(jnp.square(m(X))))(model)
    wanted = l1jax.optimality_residual(grads, nnx.state(model, nnx.Param), 0.1)
    found = l1jax.optimality_residual(grads, model, 0.1)
    assert found == wanted
    assert found.norm > 0


def test_masks_and_pilots_take_parameters_alone(form):
    for mask in (l1jax.weights_only, l1jax.by_path(["*kernel", "*scale"])):
        flags = mask(form)
        chosen = {path for path, flag in named_leaves(flags) if flag}
        both = {"linear.kernel", "norm.scale"}
        expected = both if mask is not l1jax.weights_only else {"linear.kernel"}
        assert names(chosen) == expected
    with pytest.raises(ValueError, match="'norm.mean' matches no"):
        l1jax.by_path("norm.mean")(Net())
    penalty = l1jax.adaptive_l1(form)
    assert "mean" not in repr(penalty)


def test_transforms_leave_statistics_alone():
    state = nnx.filter_state(nnx.state(Net()), lambda path, x: "rngs" not in path)
    tx = l1jax.proximal_step(1.0, 1.0)
    zeros = jax.tree.map(jnp.zeros_like, state)
    updates, _ = tx.update(zeros, tx.init(state), state)
    new = dict(named_leaves(optax.apply_updates(state, updates)))
    assert not new["linear.kernel"].any()
    assert new["norm.var"].all()


def squares(params):
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "solved",
    [
        lambda form: l1jax.solve(squares, form, 0.1),
        lambda form: l1jax.refit(squares, form),
        lambda form: l1jax.lambda_max(squares, form),
        lambda form: l1jax.regularisation_path(squares, form, [0.1]),
    ],
)
@pytest.mark.parametrize("form", ["module", "nested", "state"], indirect=True)
def test_solvers_ask_for_the_parameters_alone(solved, form):
    with pytest.raises(TypeError, match=r"nnx.split\(model, nnx.Param, ...\)"):
        solved(form)


def test_the_remedy_of_the_solvers_works():
    graphdef, params, rest = nnx.split(
        nnx.Linear(6, 1, rngs=nnx.Rngs(0)), nnx.Param, ...
    )

    def loss(params):
        return jnp.mean((nnx.merge(graphdef, params, rest)(X)[:, 0] - X[:, 0]) ** 2)

    found = l1jax.solve(loss, params, 0.1, tol=1e-4)
    assert found.converged
    assert l1jax.sparsity_report(found.params, l1jax.weights_only).nnz == 1


def test_variables_of_a_users_own_kind_stay():
    class Phase(nnx.Param):
        pass

    class Own(nnx.Variable):
        pass

    class Model(nnx.Module):
        def __init__(self):
            self.phase = Phase(jnp.ones(3))
            self.own = Own(jnp.ones(2))

    assert float(l1jax.implied_radius(Model())) == 3
    assert float(l1jax.implied_radius(nnx.state(Model(), (Phase, Own)))) == 5


@torch.no_grad()
def test_buffers_of_torch_modules_count_nowhere():
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4))
    total = float(model[0].weight.abs().sum())
    assert float(l1torch.implied_radius(model)) == pytest.approx(total, rel=1e-6)
    model[0].bias.zero_()
    everything = float(l1torch.penalty_value(model, 1.0, mask=None))
    assert everything == pytest.approx(total + 4, rel=1e-6)
    assert l1torch.sparsity_report(model).size == 24 + 3 * 4
    with pytest.raises(TypeError, match=r"Pass dict\(model.named_parameters"):
        l1torch.regularisation_path(lambda p: p["0.weight"].sum(), model, [0.1])
