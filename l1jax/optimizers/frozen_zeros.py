"""Hold zeros where they are while the other weights are fitted."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from l1jax.parameters.masks import Mask, selected, weights_only
from l1jax.parameters.trees import is_none, require_same_tree


def freeze_zeros(
    optimizer: optax.GradientTransformation, *, mask: Mask = weights_only
) -> optax.GradientTransformationExtraArgs:
    """Make an optimizer leave weights of exactly 0 where they are, from now on.

    Their gradients and updates become 0: neither momentum nor Adam's moments from
    before, nor weight decay move them. The others are trained as if the
    zeros had been cut out of the model. Which weights are zero is read off the
    parameters at every step, so that one that becomes zero later stays so too, and a
    checkpoint needs nothing beside them. Under a `target_sparsity`, whose count knows
    nothing of what is held, more than the target would become zero: there pass `snap=`.

    The state is the optimizer's own. To freeze zeros in the midst of a training, go on
    with the state that you have::

      tx = l1jax.proximal(optax.adam, 1e-3, strength)  # until the zeros are found
      frozen = l1jax.freeze_zeros(optax.adam(1e-3))  # then fit without shrinking
      state = frozen.init(params)  # of the same optimizer, keep the state instead

    Args:
      optimizer: any transformation whose updates are added to the parameters.
      mask: the leaves whose zeros are held, see `weights_only`; `None` for all, biases
        that begin at 0 among them.

    Returns:
      A transformation with the state of `optimizer`. It must come last in a chain.

    Raises:
      TypeError: what is not a transformation.
      ValueError: at `init`, a mask that does not fit, or selects nothing; at `update`,
        missing parameters, or updates of another tree.

    Example:
      >>> tx = freeze_zeros(optax.sgd(0.1))
      >>> params, grads = {"w": jnp.array([0.0, 2.0])}, {"w": jnp.ones(2)}
      >>> updates, _ = tx.update(grads, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates)["w"])
      [0.  1.9]
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer must be an optax transformation, got {optimizer!r} of type "
            f"{type(optimizer).__name__}. Pass one that is built, such as "
            "optax.adam(1e-3)."
        )
    inner = optax.with_extra_args_support(optimizer)

    def init_fn(params: Any) -> Any:
        selected(mask, params)
        return inner.init(params)

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        if params is None:
            raise ValueError(
                "params must be given, got None. Call update(updates, state, params)."
            )
        require_same_tree(updates, params)
        updates = _without_zeros(updates, params, mask)
        updates, state = inner.update(updates, state, params, **extra_args)
        return _without_zeros(updates, params, mask), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _without_zeros(updates: Any, params: Any, mask: Mask) -> Any:
    """Set updates to 0 where the parameter is 0."""
    leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
    weights = jax.tree.leaves(params, is_leaf=is_none)
    for i in itertools.compress(range(len(leaves)), selected(mask, params)):
        if leaves[i] is not None:
            zero = jnp.zeros_like(leaves[i])
            leaves[i] = jnp.where(jnp.asarray(weights[i]) == 0, zero, leaves[i])
    return jax.tree.unflatten(treedef, leaves)
