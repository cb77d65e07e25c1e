"""Random weights for Flax's trees, and what equal ones must satisfy."""

import jax
import jax.numpy as jnp
import numpy as np

from parity_tests.frameworks.twins import assert_bitwise

F64 = {"param_dtype": jnp.float64}


def quickly(function):
    """Compile without optimizing, which takes a tenth of the time."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def random_like(tree, seed=0):
    """Random numbers with signs, but for variances, for a tree that may be abstract."""
    rng = np.random.default_rng(seed)

    def draw(path, x):
        values = rng.normal(size=x.shape)
        values = values**2 if "var" in str(path) else values
        values.flat[0] *= -0.0 if "bias" in str(path) else 1
        return jnp.asarray(values)

    return jax.tree_util.tree_map_with_path(draw, tree)


def assert_close(a, b):
    """Fail unless arrays agree to 1e-12 and are not all small."""
    assert np.abs(b).max() > 0.1
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def assert_same_arrays(tree, other):
    """Fail unless two trees hold the same bits."""
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jnp.floating):
            assert_bitwise(np.asarray(a), np.asarray(b))
        else:
            assert (a == b).all()
