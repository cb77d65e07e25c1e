"""Training a model in both frameworks, and comparing every step."""

import contextlib
import itertools
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import torch
from flax import nnx

from parity_tests.bridge import flax_tree
from parity_tests.bridge.comparison import Comparison
from parity_tests.bridge.conversion import state_dict_by
from parity_tests.bridge.matching import match
from parity_tests.bridge.measure import Meter
from parity_tests.bridge.pairs import Matching, Pairs
from parity_tests.bridge.sides import NO_DROPOUT, FlaxModel, FlaxSide, TorchSide

TorchOptimizer = (
    torch.optim.Optimizer
    | Callable[[list[tuple[str, torch.nn.Parameter]]], torch.optim.Optimizer]
)
Losses = tuple[
    Callable[[jax.Array, jax.Array], jax.Array],
    Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
]
_TOLERANCES = {"float64": (1e-10, 0.0), "float32": (5e-6, 1e-4)}
_DROPOUTS = (
    torch.nn.Dropout,
    torch.nn.Dropout1d,
    torch.nn.Dropout2d,
    torch.nn.Dropout3d,
    torch.nn.AlphaDropout,
    torch.nn.FeatureAlphaDropout,
)


def channels_first(x: np.ndarray) -> np.ndarray:
    """Turn Flax's (batch, ..., channels) into torch's (batch, channels, ...)."""
    return np.moveaxis(x, -1, 1)


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """Turn torch's (batch, channels, ...) into Flax's (batch, ..., channels)."""
    return x.movedim(1, -1)


def compare_training(
    flax_model: FlaxModel,
    torch_model: torch.nn.Module,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    optimizers: tuple[optax.GradientTransformation, TorchOptimizer],
    steps: int,
    *,
    loss: str | Losses = "cross_entropy",
    pairs: Pairs | None = None,
    torch_inputs: Callable[[np.ndarray], np.ndarray] = lambda x: x,
    torch_outputs: Callable[[Any], torch.Tensor] = lambda x: x,
    call: Mapping[str, Any] | None = None,
    after_step: Callable[[], Any] = lambda: None,
    tolerance: float | None = None,
    support_tolerance: float | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = lambda steps: steps,
) -> Comparison:
    """Train a model in Flax and in torch, side by side, and compare every step.

    Both start at the Flax model's weights, which the torch model is given, and see the
    same batches, in training mode. Entries of torch parameters that Flax does not have,
    such as an LSTM's second bias, are held where they are: the models are the same.

    Args:
      flax_model: an nnx model, or a linen module with its variables,
        `(module, variables)`. It stays as it is; a copy is trained.
      torch_model: the same model in torch. It is changed: it gets Flax's weights, is
        set to training, and trained.
      batches: of inputs and targets, in numpy, with Flax's order of axes. Floating
        numbers get the parameters' dtype. The first `steps` are read at once.
      optimizers: a transform of optax's, and an optimizer of the torch model's
        parameters that has taken no step yet, or what makes one of a list of named
        parameters: `lambda named: l1torch.Proximal(Adam(named), 1e-4)`.
      steps: how many.
      loss: "cross_entropy" (its mean; labels are integers), "squared" (the mean of the
        squared differences), or a function of outputs and targets for Flax and another
        for torch.
      pairs: see `match`: which layers belong together, and which are to be flattened.
      torch_inputs: turns a batch of inputs into torch's, such as `channels_first`.
      torch_outputs: turns what the torch model gives into what the Flax model gives,
        such as `channels_last`.
      call: keyword arguments of the Flax model's call, such as `{"train": True}`; an
        nnx model is set to training without.
      after_step: called after each of torch's steps, such as `scheduler.step`.
      tolerance: how large a difference may be, of outputs, loss, gradients, updates,
        parameters and running means: relative to the largest number of an array where
        that exceeds 1, else absolute. By default 1e-10 in float64, 5e-6 in float32.
        Networks in float32 exceed that soon if the optimizer divides by small
        gradients, as Adam does: compare them in float64.
      support_tolerance: the fraction of weights that may be zero on one side only; by
        default 0 in float64, 1e-4 in float32.
      progress: wraps the range of steps, as `rich.progress.track` does.

    Returns:
      A `Comparison`: print it, or ask for `agree` and `first_parting`. Running
      variances are reported, but do not count: torch's are unbiased, Flax's are not.

    Raises:
      ValueError: models that do not pair up, whose dtypes differ, or with dropout, as
        the frameworks' random numbers differ; outputs of another shape; fewer batches
        than steps; an optimizer of other parameters, or one that has taken steps;
        `steps`, `loss`, or tolerances that make no sense.
    """
    steps = operator.index(steps)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    chosen = [
        (np.asarray(x), np.asarray(y)) for x, y in itertools.islice(batches, steps)
    ]
    if len(chosen) < steps:
        raise ValueError(
            f"batches ends after {len(chosen)} of {steps} steps. Pass more, or "
            "itertools.cycle(batches)."
        )
    variables = _variables(flax_model)
    with warnings.catch_warnings():
        # The outputs of the first step tell whether the pairs are right.
        warnings.filterwarnings("ignore", "Paired by their numbers")
        matching = match(variables, torch_model, pairs)
    dtype = _common_dtype(matching, variables, torch_model)
    weights = state_dict_by(matching, variables, torch_model)
    tolerances = _tolerances(dtype, tolerance, support_tolerance)
    _require_no_dropout(torch_model)
    tx, optimizer = optimizers
    if isinstance(optimizer, torch.optim.Optimizer):
        _require_fresh(optimizer, torch_model)
    losses = _losses(loss)
    if loss == "cross_entropy" and not np.issubdtype(chosen[0][1].dtype, np.integer):
        raise ValueError(
            "loss='cross_entropy' needs integer labels as targets, got "
            f"{chosen[0][1].dtype} of shape {chosen[0][1].shape}. Pass two functions "
            "as loss= for others."
        )
    if not any(p.requires_grad for p in torch_model.parameters()):
        raise ValueError(
            "torch_model has no parameter to train: none has requires_grad. Unfreeze "
            "what the Flax model trains."
        )
    ours = FlaxSide(flax_model, tx, losses[0], call or {}, dtype)
    theirs = TorchSide(torch_model, losses[1], torch_inputs, torch_outputs)
    shape = ours.check(*chosen[0])
    order = theirs.check(chosen[0][0], shape)

    torch_model.load_state_dict(weights)
    torch_model.train()
    if not isinstance(optimizer, torch.optim.Optimizer):
        optimizer = optimizer(list(torch_model.named_parameters()))
        _require_fresh(optimizer, torch_model)
    meter = Meter(
        matching, order, dtype, tolerances[0], ours.arrays(matching), theirs.arrays()
    )
    found = []
    with _held(torch_model, meter.entries):
        for i in progress(range(steps)):
            pair = ours.step(matching, *chosen[i]), theirs.step(optimizer, *chosen[i])
            after_step()
            found.append(meter.measure(i + 1, *pair))
    return Comparison(
        steps=tuple(found),
        layers=meter.layers,
        arrays=meter.arrays,
        size=meter.size,
        dtype=dtype,
        tolerance=tolerances[0],
        support_tolerance=tolerances[1],
        flattened=meter.flattened,
    )


def _variables(flax_model: FlaxModel) -> Any:
    if isinstance(flax_model, nnx.Module):
        return flax_model
    if not (
        isinstance(flax_model, tuple)
        and len(flax_model) == 2
        and isinstance(flax_model[0], nn.Module)
        and "params" in flax_model[1]
    ):
        raise TypeError(
            "flax_model must be an nnx model, or a linen module with its variables, "
            f"(module, {{'params': ...}}); got {type(flax_model).__name__}."
        )
    return flax_model[1]


def _losses(loss: str | Losses) -> Losses:
    if loss == "cross_entropy":
        return (
            lambda outputs, targets: optax.softmax_cross_entropy_with_integer_labels(
                outputs, targets
            ).mean(),
            lambda outputs, targets: torch.nn.functional.cross_entropy(
                outputs.flatten(0, -2), targets.flatten().long()
            ),
        )
    if loss == "squared":
        return _squared, _squared
    if isinstance(loss, str):
        raise ValueError(
            f"loss must be 'cross_entropy', 'squared' or two functions, got {loss!r}."
        )
    return loss


def _squared(outputs: Any, targets: Any) -> Any:
    if outputs.shape != targets.shape:
        raise ValueError(
            f"loss='squared' needs targets of the outputs' shape "
            f"{tuple(outputs.shape)}, got {tuple(targets.shape)}. Reshape them."
        )
    return ((outputs - targets) ** 2).mean()


def _common_dtype(
    matching: Matching, variables: Any, torch_model: torch.nn.Module
) -> str:
    arrays = {
        path: np.broadcast_to(np.zeros((), x.dtype), x.shape)
        for path, x in flax_tree.arrays_of(variables).items()
    }
    ours = {name: str(x.dtype) for name, x in matching.to_torch(arrays).items()}
    theirs = {
        name: str(p.dtype).removeprefix("torch.")
        for name, p in torch_model.named_parameters()
    }
    other = [
        f"{name} {ours[name]} in Flax, {dtype} in torch"
        for name, dtype in theirs.items()
        if ours[name] != dtype
    ]
    if other:
        raise ValueError(
            f"The dtypes of the parameters differ: {'; '.join(other)}. Convert one of "
            "the models: torch_model.double() or .float(), param_dtype= in Flax."
        )
    # The coarsest: the tolerances are for it.
    return min(theirs.values(), key=lambda name: getattr(torch, name).itemsize)


def _tolerances(
    dtype: str, tolerance: float | None, support_tolerance: float | None
) -> tuple[float, float]:
    given = {"tolerance": tolerance, "support_tolerance": support_tolerance}
    for default, (name, value) in zip(
        _TOLERANCES.get(dtype, (None, None)), given.items(), strict=True
    ):
        given[name] = value = default if value is None else value
        if value is None or not value >= 0:
            raise ValueError(
                f"{name} must be a number not below 0, got {value}. There are defaults "
                f"for float32 and float64; the parameters are {dtype}."
            )
    return given["tolerance"], given["support_tolerance"]


def _require_no_dropout(model: torch.nn.Module) -> None:
    for name, module in model.named_modules():
        rate = module.p if isinstance(module, _DROPOUTS) else 0
        if isinstance(module, torch.nn.MultiheadAttention | torch.nn.RNNBase):
            rate = module.dropout
        if rate:
            raise ValueError(
                f"torch_model's {name or type(module).__name__} drops {rate:g} of its "
                f"inputs. {NO_DROPOUT}"
            )


def _require_fresh(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> None:
    """Raise ValueError unless it has the model's parameters and taken no step."""
    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    wanted = {n: p for n, p in model.named_parameters() if p.requires_grad}
    missing = [name for name, p in wanted.items() if id(p) not in own]
    if missing or len(own) > len(list(model.parameters())):
        raise ValueError(
            f"The torch optimizer lacks torch_model's {', '.join(missing) or 'nothing'}"
            ", or has other parameters. Build it on torch_model.named_parameters(), "
            "after the last conversion of the model's dtype or device."
        )
    for state in optimizer.state.values():
        if state.get("momentum_buffer") is not None or float(state.get("step", 0)):
            raise ValueError(
                "The torch optimizer has taken steps, and optax's has not. Make a new "
                "one."
            )


@contextlib.contextmanager
def _held(model: torch.nn.Module, entries: Mapping[str, np.ndarray]) -> Iterator[None]:
    """Set gradients to zero of entries that Flax does not have, while this is open."""

    def hold(own: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda gradient: gradient.where(own, 0.0)

    hooks = [
        p.register_hook(hold(torch.tensor(entries[name], device=p.device)))
        for name, p in model.named_parameters()
        if p.requires_grad and not entries[name].all()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
