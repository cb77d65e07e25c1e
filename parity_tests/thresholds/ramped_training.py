"""A training that a target sparsity leads, in either framework."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import l1jax
import l1torch
from parity_tests.frameworks.twins import JAX

STEPS, MORE, RATE = 40, 6, 0.03
SHAPES = {"u": (20, 9), "bias": (9,), "w": (15, 12)}
SIZES = {"u": 180, "w": 180}
OPTIMIZERS = {
    "adam": (optax.adam, {}, torch.optim.Adam, {}),
    "momentum": (optax.sgd, {"momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9}),
}
WAYS = {
    "adam": ("adam", {}),
    "adam, tensor": ("adam", {"metric": "tensor"}),
    "adam, none": ("adam", {"metric": "none"}),
    "momentum": ("momentum", {}),
}


def data(steps=STEPS + MORE, noise=1.0):
    """Return the start, and the place each step's gradient points away from."""
    rng = np.random.default_rng(0)
    start = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    places = {
        name: rng.normal(size=shape) ** 3 + noise * rng.normal(size=(steps, *shape))
        for name, shape in SHAPES.items()
    }
    return start, places


def ramp(step, target, steps=STEPS, begin=0.05, end=0.6):
    """Return the fraction of zeros wanted after a step, as the docstring writes it."""
    u = min(max((step / steps - begin) / (end - begin), 0), 1)
    return target * (1 - (1 - u) ** 3)


def train(twin, target, way="adam", steps=STEPS + MORE, noise=1.0, **kwargs):
    """Return the weights after every step, by name, and the strengths in use."""
    start, places = data(steps, noise)
    optimizer, options = WAYS[way]
    factory, settings, cls, torch_settings = OPTIMIZERS[optimizer]
    options = options | kwargs
    if twin is JAX:
        tx = l1jax.proximal(factory, RATE, target, **settings, **options)

        @jax.jit
        def run(params, places):
            def body(carry, place):
                params, state = carry
                grads = jax.tree.map(jnp.subtract, params, place)
                updates, state = tx.update(grads, state, params)
                params = optax.apply_updates(params, updates)
                return (params, state), (params, state.control.strength)

            return jax.lax.scan(body, (params, tx.init(params)), places)[1]

        trail, strengths = run(twin.tree(start), twin.tree(places))
        trail = {name: np.asarray(x) for name, x in trail.items()}
        return trail, jax.tree.map(np.asarray, strengths)
    params = {k: torch.nn.Parameter(x) for k, x in twin.tree(start).items()}
    base = cls(params.items(), lr=RATE, **torch_settings)
    proximal = l1torch.Proximal(base, target, **options)
    trail, strengths = {name: [] for name in params}, []
    for step in range(steps):
        for name, param in params.items():
            param.grad = param.detach() - torch.tensor(places[name][step])
        proximal.step()
        for name, param in params.items():
            trail[name].append(param.detach().clone().numpy())
        strengths.append(proximal.param_groups[0]["l1"])
    if isinstance(strengths[0], dict):
        strengths = {k: np.array([s[k] for s in strengths]) for k in SHAPES}
    return {k: np.stack(x) for k, x in trail.items()}, strengths


def zeros(trail, names=tuple(SIZES)):
    """Count, after each step, the zeros of some arrays together."""
    return sum((trail[name] == 0).sum((1, 2)) for name in names)
