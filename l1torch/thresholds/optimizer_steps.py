"""The effective steps of the optimizers that torch brings.

They are in the registry once this module is imported, as `l1torch.thresholds` does.
"""

import torch

from l1torch.numerics.checks import as_number
from l1torch.numerics.elementwise import Number
from l1torch.numerics.second_moments import SecondMomentRoot
from l1torch.parameters.trees import Group
from l1torch.thresholds.effective_steps import (
    REGISTRY,
    EffectiveStep,
    KnownStep,
    State,
    never,
)


def _always(state: State, group: Group) -> bool:
    del state, group
    return True


def _sgd(state: State, group: Group) -> EffectiveStep:
    del state
    momentum, lr = as_number(group["momentum"]), as_number(group["lr"])
    if isinstance(momentum, float) and momentum == 0:
        return EffectiveStep(lr)
    return EffectiveStep(lr * (1 - as_number(group["dampening"])) / (1 - momentum))


def _adam(state: State, group: Group) -> EffectiveStep:
    second = state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]
    correction = 1 - as_number(group["betas"][1]) ** as_number(state["step"])
    root = SecondMomentRoot(second, correction, as_number(group["eps"]))
    return EffectiveStep(as_number(group["lr"]), root, 1.0)


def _nadam(state: State, group: Group) -> EffectiveStep:
    # The momentum grows from step to step, and the gain with it, up to 1.
    step, product = as_number(state["step"]), as_number(state["mu_product"])
    now, then = (
        as_number(group["betas"][0]) * (1 - 0.5 * 0.96 ** (k * group["momentum_decay"]))
        for k in (step, step + 1)
    )
    gain = (1 - now) / (1 - product) + then / (1 - product * then)
    adam = _adam(state, group)
    return adam._replace(scale=adam.scale * gain)


def _is_uncentered(state: State, group: Group) -> bool:
    del state
    return not group["centered"]


def _rmsprop(state: State, group: Group) -> EffectiveStep:
    scale = as_number(group["lr"]) / (1 - as_number(group["momentum"]))
    eps, square = as_number(group["eps"]), state["square_avg"]
    second = SecondMomentRoot(square, 1.0, eps)
    if not group["centered"]:
        return EffectiveStep(scale, second, 1.0)
    mean = state["grad_avg"]
    deviation = square.addcmul(mean, mean, value=-1).sqrt_().add_(eps)
    return EffectiveStep(scale, deviation, second.tensor() / deviation)


def _adagrad(state: State, group: Group) -> EffectiveStep:
    decay = 1 + (as_number(state["step"]) - 1) * as_number(group["lr_decay"])
    root = SecondMomentRoot(state["sum"], 1.0, as_number(group["eps"]))
    return EffectiveStep(as_number(group["lr"]) / decay, root, 1.0)


def _adadelta(state: State, group: Group) -> EffectiveStep:
    eps, rho = as_number(group["eps"]), as_number(group["rho"])
    square = state["square_avg"] + eps
    # The step used acc_delta as it was before. That follows from what it is now, if the
    # square of the gradient has settled to square_avg.
    settled = rho + (1 - rho) * (state["square_avg"] / square)
    reach = ((state["acc_delta"] + rho * eps) / settled).sqrt_()
    denominator = square.sqrt_().div_(reach)
    return EffectiveStep(as_number(group["lr"]), denominator, reach)


def _adamax(state: State, group: Group) -> EffectiveStep:
    return EffectiveStep(as_number(group["lr"]), state["exp_inf"], 1.0)


def _radam_length(state: State, group: Group) -> Number:
    """The length of the second moment's average; above 5 it can be trusted."""
    beta2, step = as_number(group["betas"][1]), as_number(state["step"])
    return 2 / (1 - beta2) - 1 - 2 * step * beta2**step / (1 - beta2**step)


def _is_rectified(state: State, group: Group) -> bool:
    length = _radam_length(state, group)
    return isinstance(length, float) and length > 5


def _radam(state: State, group: Group) -> EffectiveStep:
    lr, eps = as_number(group["lr"]), as_number(group["eps"])
    beta2, step = as_number(group["betas"][1]), as_number(state["step"])
    correction = 1 - beta2**step
    longest = 2 / (1 - beta2) - 1
    length = _radam_length(state, group)
    square = (
        (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    )
    # torch corrects the sum of root and eps, a SecondMomentRoot the root alone.
    root = SecondMomentRoot(state["exp_avg_sq"], correction, eps / correction**0.5)
    # Until the second moment can be trusted, RAdam steps by momentum alone.
    if isinstance(length, float):
        if length > 5:
            return EffectiveStep(lr * square**0.5, root, 1.0)
        return EffectiveStep(lr, 1.0, root.tensor())
    rectified, denominator = length > 5, root.tensor()
    return EffectiveStep(
        scale=lr * torch.where(rectified, square.sqrt(), 1.0),
        denominator=torch.where(rectified, denominator, 1.0),
        reach=torch.where(rectified, 1.0, denominator),
    )


REGISTRY.update(
    {
        torch.optim.SGD: KnownStep(_sgd, is_lazy=_always),
        torch.optim.Adam: KnownStep(_adam, is_lazy=_always),
        torch.optim.AdamW: KnownStep(_adam, is_lazy=_always),
        torch.optim.NAdam: KnownStep(_nadam, is_lazy=_always),
        torch.optim.RMSprop: KnownStep(_rmsprop, is_lazy=_is_uncentered),
        torch.optim.Adagrad: KnownStep(_adagrad, is_lazy=_always),
        torch.optim.Adadelta: KnownStep(_adadelta, is_lazy=never),
        torch.optim.Adamax: KnownStep(_adamax, is_lazy=never),
        torch.optim.RAdam: KnownStep(_radam, is_lazy=_is_rectified),
    }
)
