"""Masks by patterns of names."""

import pickle

import jax.numpy as jnp
import pytest
import torch

import l1jax
import l1torch
from parity_tests.parameters.penalised_paths import penalised


def test_by_path(twin):
    params = twin.tree({"a.kernel": [1.0], "a.bias": [1.0], "b.c.kernel": [1.0]})
    cases = {
        "a.*": {"a.kernel", "a.bias"},
        "*.kernel": {"a.kernel", "b.c.kernel"},
        "b.?.kernel": {"b.c.kernel"},
        ("a.bias", "b*"): {"a.bias", "b.c.kernel"},
    }
    for patterns, expected in cases.items():
        mask = twin.lib.by_path(patterns)
        assert {n for n, flag in mask(params).items() if flag} == expected
        assert pickle.loads(pickle.dumps(mask)) == mask


def test_by_path_on_nested_trees():
    params = {"encoder": {"layers": [{"kernel": jnp.ones(2)}, {"kernel": jnp.ones(2)}]}}
    assert penalised(l1jax.by_path("encoder.layers.1.*"), params) == {
        "encoder.layers.1.kernel"
    }


def test_names_are_needed_for_patterns():
    with pytest.raises(ValueError, match="need parameter names, got 1 parameters"):
        l1torch.by_path("w")([torch.ones(2, 2)])
