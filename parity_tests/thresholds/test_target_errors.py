"""What cannot go with a target sparsity is refused."""

import numpy as np
import optax
import pytest
import torch

import l1jax
import l1torch
from parity_tests.frameworks.twins import JAX


def test_a_report_wants_a_control(twin):
    with pytest.raises(TypeError, match="control must be a Control, got 0.9"):
        twin.lib.sparsity_report(twin.tree({"w": np.ones(3)}), control=0.9)


def test_what_cannot_go_with_a_target_is_refused(twin):
    lib, target = twin.lib, twin.lib.target_sparsity(0.9, 10)
    params = twin.tree({"w": np.ones(4), "bias": np.ones(4)})

    def proximal(strength=target, params=params, **kwargs):
        if twin is JAX:
            return l1jax.proximal(optax.adam, 0.1, strength, **kwargs).init(params)
        params = {name: torch.nn.Parameter(x) for name, x in params.items()}
        base = torch.optim.Adam(params.items(), lr=0.1)
        return l1torch.Proximal(base, strength, **kwargs)

    for penalty in (lib.l1_ball(1.0), lib.top_k(2), lib.elastic_net(0.0)):
        with pytest.raises(ValueError, match="penalty must set single weights"):
            proximal(penalty=penalty)
        with pytest.raises(ValueError, match="penalty must set single weights"):
            lib.proximal_step(target, 0.1, penalty=penalty)
    with pytest.raises(ValueError, match="penalty must set single weights"):
        proximal(penalty=lib.total_variation(), metric="tensor")
    with pytest.raises(ValueError, match="window must be 1 under target_sparsity"):
        proximal(window=10)
    with pytest.raises(ValueError, match="selects nothing to penalise"):
        proximal(params={"bias": params["bias"]})
    with pytest.raises(TypeError, match="whole strength"):
        proximal({"w": target, "bias": 0.1})
    with pytest.raises(TypeError, match="whole strength"):
        lib.add_subgradient(target)


def test_torch_wants_names_for_strengths_by_array():
    target = l1torch.target_sparsity(0.9, 10, scope="array")
    base = torch.optim.Adam([torch.nn.Parameter(torch.ones(2, 2))])
    with pytest.raises(ValueError, match=r"named_parameters"):
        l1torch.Proximal(base, target)
    named = torch.optim.Adam([("w", torch.nn.Parameter(torch.ones(2, 2)))])
    with pytest.raises(TypeError, match="whole strength"):
        l1torch.Subgradient(named, target)
