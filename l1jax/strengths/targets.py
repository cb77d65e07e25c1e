"""Target sparsity: say which fraction of the weights is to be zero, not how strongly.

Few know a strength; many know that they want 90 % zeros. A `TargetSparsity` stands in
the place of the strength of a proximal optimizer, which then finds the strength itself,
anew at every step.
"""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from l1jax.numerics.checks import LARGEST, check_choice, check_int, check_real
from l1jax.strengths.ramps import ramp, step_count

Scope = Literal["global", "array"]


@dataclasses.dataclass(frozen=True)
class TargetSparsity:
    """The result of `target_sparsity`; its fields are the arguments of it."""

    target: float
    steps: int
    begin: float
    end: float
    scope: Scope
    snap: float | None

    def fraction(self, step: ArrayLike) -> jax.Array:
        """Return the fraction of zeros wanted after `step` steps, on the cubic ramp.

        Args:
          step: how many steps have been taken, this one included.
        """
        step = step_count("step", step)
        first, last = self.begin * self.steps, self.end * self.steps
        return ramp(step, first, last, 0.0, self.target, 3.0)

    def count(self, step: ArrayLike, size: int) -> jax.Array:
        """Return the number of zeros wanted among `size` weights, an integer.

        After the ramp it is exact; before, it is rounded as a float is.
        """
        step = step_count("step", step)
        integer = jnp.result_type(int)
        most = int(jnp.iinfo(integer).max)
        size = check_int("size", size, "how many weights there are", least=0, most=most)
        ramp = jnp.round(self.fraction(step) * float(size)).astype(integer)
        full = jnp.asarray(round(self.target * size), integer)
        step = jnp.asarray(step, jnp.result_type(float))
        return jnp.where(step >= self.end * self.steps, full, jnp.minimum(ramp, full))

    @property
    def snap_step(self) -> int | None:
        """The step, counted from 1, that prunes to the target; None for never."""
        return None if self.snap is None else max(1, round(self.snap * self.steps))


def target_sparsity(
    target: float,
    steps: int,
    *,
    begin: float = 0.05,
    end: float = 0.6,
    scope: Scope = "global",
    snap: float | None = None,
) -> TargetSparsity:
    """Return a target fraction of zeros, to be passed in place of a strength.

    `proximal` and `proximal_step` take it wherever they take a strength. Of the
    penalised weights the fraction `s(t)` is zero after step t, counted from 1::

      s(t) = target * (1 - (1 - u)^3)
      u = (t / steps - begin) / (end - begin), clipped to [0, 1]

    (Zhu and Gupta, 2017). From `end * steps` on, also after `steps`, it is the target.

    At each step the strength is the least at which the prox makes so many zeros: for L1
    the s(t)-quantile of `|z| / E` over the penalised weights, `z` being the weights
    after the optimizer's own step and `E` its effective step, so that `E * strength` is
    the threshold. Nothing needs tuning. The number of zeros is `round(s(t) * N)`,
    exactly, apart from ties: zeros that are there already, and weights whose `|z| / E`
    agree to some units in the last place, of which a large float32 model has a few. The
    quantile is found by counting, in about five passes that start from the strength
    before; nothing is sorted. For penalties other than `l1()` the zeros of the prox are
    counted, which takes one prox a pass, some twenty of them; of groups a whole number
    is zero, so that there may be up to one more than asked for. `max_ratio` does not
    act: the ramp does its work.

    With `snap`, the step `snap * steps` keeps the largest `|z|` and sets the others to
    zero, so that exactly `round(target * N)` are. From then on the strength is 0 and a
    weight that is zero stays so, through momentum and Adam: the others are refitted
    without their bias.

    An array without update (`None`) at a step is not counted, keeps its zeros, and is
    not pruned if that is the step of `snap`. In bfloat16 ties may leave up to 0.12
    points more zeros than asked for at some steps, never fewer; the pruning of `snap`
    ends that. A weight that `freeze_zeros` holds at zero, but that momentum has moved,
    counts as not zero in the quantile, so that more become zero than asked for: 91 to
    92.4 % for 90 %. Use `snap` in its place.

    The strength in use stands in the optimizer's state, as `state.control.strength`,
    and may serve a run of fixed strength. `state.control`, which `sparsity_report`
    takes, has beside it the fractions asked for by now and in the end: a run of fewer
    steps than `end * steps` ends below the target, and that is where one sees it.
    A deep network has no largest useful strength to start a search from, since its
    gradients vanish at zero; a target needs none.

    Args:
      target: the fraction of the penalised weights to be zero, in [0, 1).
      steps: the steps of the training, >= 1.
      begin: when the zeros begin, as a fraction of `steps`.
      end: when the target is reached, likewise; `0 <= begin < end <= 1`.
      scope: `"global"` counts all penalised weights together, by one strength;
        `"array"` counts in each array, with a strength of its own.
      snap: when to prune and freeze, as a fraction of `steps`, in [end, 1]; 0.75 is a
        good choice. `None`: never.

    Returns:
      A `TargetSparsity`, to be passed as a strength; it can be hashed and pickled.

    Raises:
      TypeError: `steps` is no whole number.
      ValueError: any argument out of its range.

    Example:
      >>> import l1jax, optax
      >>> target = target_sparsity(0.5, steps=10)
      >>> tx = l1jax.proximal(optax.sgd, 0.1, target)
      >>> params = {"w": jnp.array([3.0, -0.1, 2.0, 0.3])}
      >>> state, update = tx.init(params), jax.jit(tx.update)
      >>> for _ in range(10):
      ...     updates, state = update({"w": jnp.zeros(4)}, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print((params["w"] == 0).mean())
      0.5
    """
    target = check_real(
        "target", target, "[0, 1)", "the fraction of zeros, 0.9 for 90 %"
    )
    steps = check_int("steps", steps, "the number of optimizer steps", most=LARGEST)
    begin = check_real("begin", begin, "[0, 1)", "a fraction of steps such as 0.05")
    end = check_real("end", end, "(0, 1]", "a fraction of steps such as 0.6")
    if not begin < end:
        raise ValueError(
            f"begin must be less than end, got {begin!r} and {end!r}. Pass fractions "
            "of steps, such as 0.05 and 0.6."
        )
    scope = check_choice("scope", scope, get_args(Scope))
    if snap is not None:
        snap = check_real("snap", snap, f"[{end}, 1]", "0.75, or a smaller end")
    return TargetSparsity(
        target,
        steps,
        float(begin),
        float(end),
        scope,
        snap,
    )
