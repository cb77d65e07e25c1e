"""Leaves that cannot be penalised are refused by name, before anything moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import l1jax

NARROW = ("float8_e4m3fn", "float8_e5m2")


def small(twin, dtype):
    if twin.name == "jax":
        return jnp.ones((2, 2), dtype)
    return torch.ones(2, 2).to(getattr(torch, dtype))


def narrow_calls(twin):
    lib = twin.lib
    yield lambda params: lib.proximal_step(0.1, 0.1).init(params)
    yield lambda params: lib.add_subgradient(0.1).init(params)
    target = lib.target_sparsity(0.5, steps=10)
    yield lambda params: lib.proximal_step(target, 0.1).init(params)
    yield lambda params: lib.penalty_value(params, 0.1)
    yield lib.implied_radius
    yield lambda params: lib.optimality_residual(
        {name: twin.array(np.ones((2, 2))) for name in params}, params, 0.1
    )
    yield lib.sparsity_report
    loss = lambda params: 0.0 * params["free.bias"].sum()  # noqa: E731
    yield lambda params: lib.solve(loss, params, 0.1)
    if twin.name == "jax":
        yield lib.proximal(optax.adam, 1e-3, 0.1).init
    else:
        for wrapper in (lib.Proximal, lib.Subgradient):
            yield lambda params, wrapper=wrapper: wrapper(sgd(params), 0.1)


def sgd(params):
    return torch.optim.SGD(
        [(k, torch.nn.Parameter(x, requires_grad=False)) for k, x in params.items()]
    )


@pytest.mark.parametrize("dtype", NARROW)
def test_floats_of_8_bits_are_refused_by_name(twin, dtype):
    message = rf"params\['layer.w'\] must have 16 bits or more, got dtype {dtype}"
    params = {
        "layer.w": small(twin, dtype),
        "free.bias": twin.array(np.ones((2, 2)), "float32"),
    }
    for call in narrow_calls(twin):
        with pytest.raises(TypeError, match=message):
            call(params)
    free = {"w": params["free.bias"], "bias": params["layer.w"]}
    twin.lib.proximal_step(0.1, 0.1).init(free)  # what is not penalised may be so
    with pytest.raises(TypeError, match=r"params\['bias'\] must have 16 bits"):
        twin.lib.solve(lambda params: (params["w"] ** 2).sum(), free, 0.1)


@pytest.mark.parametrize("dtype", NARROW)
def test_operators_refuse_floats_of_8_bits(twin, dtype):
    x = small(twin, dtype)
    penalty = twin.lib.l1()
    for call in (
        lambda: twin.lib.soft_threshold(x, 0.1),
        lambda: penalty.prox(x, 0.1),
        lambda: penalty.value(x, 0.1),
        lambda: penalty.subgradient(x, 0.1),
        lambda: penalty.lambda_max(x),
        lambda: twin.lib.top_k(1).prox(x, 0.1),
        lambda: twin.lib.group_l1(0).prox(x, 0.1),
    ):
        with pytest.raises(TypeError, match=f"16 bits .*got dtype .*{dtype}"):
            call()


def test_a_report_needs_numbers(twin):
    if twin.name == "jax":
        shapes = {"w": jax.ShapeDtypeStruct((3, 2), jnp.float32)}
    else:
        shapes = torch.nn.ParameterDict({"w": torch.empty(3, 2, device="meta")})
    with pytest.raises(
        TypeError, match=r"params\['w'\] must hold numbers, got a .*3, 2"
    ):
        twin.lib.sparsity_report(shapes)
    # Those that are not asked for need none.
    params = dict(shapes.items()) | {"v": twin.array(np.ones(2))}
    assert twin.lib.sparsity_report(params, mask=twin.lib.by_path("v")).nnz == 2
    if twin.name == "jax":
        assert l1jax.weights_only(shapes) == {"w": True}
