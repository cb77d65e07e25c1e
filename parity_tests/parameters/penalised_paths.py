"""The parameters that a mask selects, by their dotted paths."""

import l1jax
import l1jax.parameters.masks
from l1jax.parameters.trees import named_leaves


def penalised(mask, params):
    """Return the dotted paths that a mask selects in a JAX tree."""
    flags = l1jax.parameters.masks.selected(mask, params)
    return {
        path
        for (path, _), flag in zip(named_leaves(params), flags, strict=True)
        if flag
    }
