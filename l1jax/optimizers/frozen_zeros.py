"""The support: holding zeros where they are, and fitting again what is not zero."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from l1jax.leaves import require_same_tree
from l1jax.masks import Mask, selected, weights_only
from l1jax.solvers import Solution, require_arrays, solve


def freeze_zeros(
    optimizer: optax.GradientTransformation, *, mask: Mask = weights_only
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer leave weights of exactly 0 where they are, from now on.

    It takes their gradients for 0, and their updates: neither momentum nor Adam's
    moments from before, nor weight decay move them. The others are trained as if the
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


def refit(
    loss: Callable[[Any], jax.Array],
    params: Any,
    *,
    mask: Mask = weights_only,
    tol: float = 1e-6,
    max_iterations: int = 10_000,
) -> Solution:
    """Minimises the loss without its penalty over the weights that are not zero.

    A penalty pulls the weights that it keeps towards zero as well. This takes the bias
    out (Belloni and Chernozhukov, 2013: least squares after the lasso): weights of
    exactly 0 stay so, all others are fitted by `solve`, on the full batch. In a
    training by minibatches take `freeze_zeros` and a strength of 0 instead.

    Args:
      loss: the mean loss without penalty, a function from the parameters to a scalar.
      params: where the zeros are, and where to begin.
      mask: the leaves whose zeros are held, see `weights_only`; `None` for all.
      tol: the largest element of the gradient on the support at which to stop, in
        [0, 1).
      max_iterations: when to give up, with a warning.

    Returns:
      The `Solution` of strength 0; its `residual` is the gradient on the support.

    Raises:
      TypeError, ValueError: as `solve`.

    Example:
      >>> def loss(params):
      ...     return jnp.sum((params["w"] - jnp.array([3.0, 1.0])) ** 2)
      >>> print(refit(loss, {"w": jnp.array([2.5, 0.0])}).params["w"].round(3))
      [3. 0.]
    """
    require_arrays(params)
    leaves, treedef = jax.tree.flatten(params, is_leaf=_is_none)
    held = [
        jnp.asarray(x) == 0 if chosen and x is not None else None
        for x, chosen in zip(leaves, selected(mask, params), strict=True)
    ]

    def on_support(params: Any) -> jax.Array:
        kept = [
            x if zeros is None else jnp.where(zeros, jnp.zeros_like(x), x)
            for x, zeros in zip(
                jax.tree.leaves(params, is_leaf=_is_none), held, strict=True
            )
        ]
        return loss(jax.tree.unflatten(treedef, kept))

    return solve(
        on_support, params, 0.0, mask=mask, tol=tol, max_iterations=max_iterations
    )


def _without_zeros(updates: Any, params: Any, mask: Mask) -> Any:
    """Takes updates for 0 where the parameter is."""
    leaves, treedef = jax.tree.flatten(updates, is_leaf=_is_none)
    weights = jax.tree.leaves(params, is_leaf=_is_none)
    for i in itertools.compress(range(len(leaves)), selected(mask, params)):
        if leaves[i] is not None:
            zero = jnp.zeros_like(leaves[i])
            leaves[i] = jnp.where(jnp.asarray(weights[i]) == 0, zero, leaves[i])
    return jax.tree.unflatten(treedef, leaves)


def _is_none(x: Any) -> bool:
    return x is None
