"""One training in either framework, which can be saved in its middle and restored."""

import copy
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import torch

import l1jax
import l1torch

STEPS, SAVED = 11, 5
RATE, STRENGTH, OTHER = 0.1, 0.3, 0.7
OPTIONS = {
    "window": {"window": 5},
    "window without end": {"window": math.inf},
    "tensor": {"metric": "tensor"},
    "none": {"metric": "none", "strength": 0.5},
    "half precision": {"window": 5},
}


def data():
    """Return a minibatch for each step, and where the training starts."""
    rng = np.random.default_rng(0)
    X, truth = rng.normal(size=(STEPS, 8, 6)), rng.normal(size=(6, 4))
    Y = X @ (truth * (np.abs(truth) > 0.7)) + rng.normal(size=(STEPS, 8, 4)) / 2
    return X, Y, {"kernel": rng.normal(size=(6, 4)) / 40, "bias": np.zeros(4)}


def gradient(X, Y, params):
    """Return that of half the mean squared error, for arrays of JAX and torch."""
    residual = (X @ params["kernel"] + params["bias"] - Y) / len(X)
    return {"kernel": X.T @ residual, "bias": residual.sum(0)}


def bits(tree):
    """Return the leaves of a tree as bytes, by their paths, to compare them exactly."""

    def of_leaf(leaf):
        if isinstance(leaf, torch.Tensor):
            flat = leaf.detach().reshape(-1).view(torch.uint8)
            return str(leaf.dtype), tuple(leaf.shape), flat.numpy().tobytes()
        if isinstance(leaf, jax.Array):
            return str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()
        return leaf

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): of_leaf(leaf) for path, leaf in leaves}


def decaying(step):
    """Return the learning rate of a step."""
    return RATE * (1 - step / STEPS)


def growing(step):
    """Return the strength of a step."""
    return STRENGTH * (step + 1) / STEPS


def proximal(factory=optax.adam, rate=RATE, strength=STRENGTH, **kwargs):
    """Return a proximal optimizer with this training's defaults."""
    return l1jax.proximal(factory, rate, strength, **kwargs)


def injected(strength=STRENGTH, **kwargs):
    """Return one whose strength stands in its state."""
    static = ("factory", "mask", "window")
    inject = optax.inject_hyperparams(l1jax.proximal, static_args=static)
    return inject(optax.adam, RATE, strength, **kwargs)


class JaxTraining:
    """A transform, and the parameters and state that it trains."""

    def __init__(self, tx, dtype="float64"):
        X, Y, start = data()
        self.X, self.Y = jnp.asarray(X, dtype), jnp.asarray(Y, dtype)
        params = {k: jnp.asarray(v, dtype) for k, v in start.items()}
        self.carry = params, tx.init(params)

        @jax.jit
        def step(carry, X, Y):
            params, state = carry
            updates, state = tx.update(gradient(X, Y, params), state, params)
            return optax.apply_updates(params, updates), state

        self.step = step

    def run(self, first, stop):
        """Train, and return parameters and state after each step."""
        trail = []
        for t in range(first, stop):
            self.carry = self.step(self.carry, self.X[t], self.Y[t])
            trail.append(self.carry)
        return trail

    def save(self, folder):
        """Write a checkpoint."""
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / "checkpoint", self.carry)

    def restore(self, folder, target):
        """Read the checkpoint."""
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            self.carry = checkpointer.restore(folder / "checkpoint", target)


def dtype_of(name):
    """Return the precision in which a case is trained."""
    # torch loads NAdam's float32 product of momenta in the parameter's own dtype.
    special = {"half precision": "bfloat16", "nadam": "float32", "nadamw": "float32"}
    return special.get(name, "float64")


def assert_has_zeros(name, kernel):
    """Fail unless the kernel has zeros, where the optimizer makes them."""
    without = ("add_subgradient", "Subgradient")
    assert ((kernel == 0).sum() == 0) == (name in without)
    assert (kernel != 0).sum() > 4


class TorchTraining:
    """An optimizer, its scheduler, and the parameters that it trains."""

    def __init__(self, make, dtype="float64", schedule=False):
        dtype = getattr(torch, dtype)
        X, Y, start = data()
        self.X, self.Y = torch.tensor(X, dtype=dtype), torch.tensor(Y, dtype=dtype)
        self.model = torch.nn.ParameterDict(
            {name: torch.tensor(value, dtype=dtype) for name, value in start.items()}
        )
        self.optimizer = make(list(self.model.named_parameters()))
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda t: decaying(t) / RATE if schedule else 1.0
        )

    def run(self, first, stop):
        """Train, and return parameters and state after each step."""
        trail = []
        for t in range(first, stop):
            detached = {k: v.detach() for k, v in self.model.items()}
            for k, grad in gradient(self.X[t], self.Y[t], detached).items():
                self.model[k].grad = grad
            self.optimizer.step()
            self.scheduler.step()
            trail.append(copy.deepcopy(self.parts()))
        return trail

    def parts(self):
        """Return all that a checkpoint holds."""
        whole = (self.model, self.optimizer, self.scheduler)
        return [part.state_dict() for part in whole]

    def save(self, folder):
        """Write a checkpoint."""
        torch.save(self.parts(), folder / "checkpoint.pt")

    def restore(self, folder):
        """Read the checkpoint."""
        parts = torch.load(folder / "checkpoint.pt", weights_only=True)
        whole = (self.model, self.optimizer, self.scheduler)
        for part, saved in zip(whole, parts, strict=True):
            part.load_state_dict(saved)


def wrapped(cls=torch.optim.Adam, strength=STRENGTH, settings=None, **kwargs):
    """Return a function that wraps an optimizer of some parameters."""

    def make(params, lr=RATE, **other):
        base = cls(params, lr=lr, **(settings or {}))
        return l1torch.Proximal(base, **{"strength": strength, **kwargs, **other})

    return make
