"""Data and tensor parallel training in JAX: the zeros are those of one device.

    python examples/scale_out_jax.py
    python examples/scale_out_jax.py --axes explicit

Uses all accelerators of this machine if there are several, and else eight devices that
JAX makes of the CPU. A network of 64, 256 and 10 units learns scikit-learn's digits:
every minibatch is shared out over one axis of the mesh, every layer over the other.

Nothing in the optimizer knows of it. The prox is elementwise, and needs of each weight
what is on the weight's device already.
"""

import argparse
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import l1jax

STRENGTH = 2e-4  # lambda, per unit of the mean loss
LEARNING_RATE, BATCH, HIDDEN = 2e-3, 128, 256
Params = dict[str, jax.Array]
Step = Callable[..., tuple[Params, Any]]

# How the axis "model" shares out the layers: the first one's outputs, which are the
# second one's inputs.
SPECS = {
    "kernel_1": P(None, "model"),
    "bias_1": P("model"),
    "kernel_2": P("model", None),
    "bias_2": P(),
}


def make_mesh(axis_type: AxisType) -> Mesh:
    """Arrange the devices: pairs share a layer, and the pairs a minibatch."""
    found = jax.devices()
    if len(found) == 1:
        found = jax.devices("cpu")
    shape = (len(found) // 2, 2) if len(found) % 2 == 0 else (len(found), 1)
    return jax.make_mesh(
        shape, ("data", "model"), axis_types=(axis_type,) * 2, devices=found
    )


def initial_params() -> dict[str, np.ndarray]:
    """Draw the initial weights (He, normal); biases are 0."""
    rng = np.random.default_rng(0)
    return {
        "kernel_1": rng.normal(0, math.sqrt(2 / 64), (64, HIDDEN)),
        "bias_1": np.zeros(HIDDEN),
        "kernel_2": rng.normal(0, math.sqrt(2 / HIDDEN), (HIDDEN, 10)),
        "bias_2": np.zeros(10),
    }


def minibatches(X: np.ndarray, y: np.ndarray, steps: int) -> Iterator[Any]:
    """Shuffle the samples in every epoch."""
    rng = np.random.default_rng(1)
    order = np.zeros(0, int)
    for _ in range(steps):
        if len(order) < BATCH:
            order = rng.permutation(len(y))
        chosen, order = order[:BATCH], order[BATCH:]
        yield X[chosen], y[chosen]


def forward(params: Params, X: jax.Array, out: P | None = None) -> jax.Array:
    """Apply the network. An explicit mesh must be told how to share out the sums."""
    hidden = jax.nn.relu(X @ params["kernel_1"] + params["bias_1"])
    scores = jnp.einsum("nh,hk->nk", hidden, params["kernel_2"], out_sharding=out)
    return scores + params["bias_2"]


def make_optimizer(steps: int) -> optax.GradientTransformationExtraArgs:
    """Make Adam with the prox, a strength that warms up, a rate that decays."""
    return l1jax.proximal(
        optax.adam,
        optax.cosine_decay_schedule(LEARNING_RATE, steps),
        optax.linear_schedule(0.0, STRENGTH, max(1, steps // 10)),
    )


def make_step(tx: optax.GradientTransformationExtraArgs, out: P | None = None) -> Step:
    """Compile a training step. The shardings come with the arguments."""

    def loss(params: Params, X: jax.Array, targets: jax.Array) -> jax.Array:
        scores = forward(params, X, out)
        return optax.losses.softmax_cross_entropy(scores, targets).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(
        params: Params, state: Any, X: jax.Array, targets: jax.Array
    ) -> tuple[Params, Any]:
        gradient = jax.grad(loss)(params, X, targets)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return step


def train(
    X: np.ndarray, y: np.ndarray, steps: int, mesh: Mesh | None = None
) -> tuple[Params, Any]:
    """Train on one device, or on a mesh; return the parameters and the state."""
    tx, place, params = make_optimizer(steps), jnp.asarray, initial_params()
    if mesh is None:
        params, out = jax.tree.map(jnp.asarray, params), None
    else:
        params = jax.device_put(
            params, {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
        )
        explicit = AxisType.Explicit in mesh.axis_types
        out = P("data", None) if explicit else None
        of_data = NamedSharding(mesh, P("data", None))
        place = functools.partial(jax.device_put, device=of_data)
    step, state = make_step(tx, out), tx.init(params)
    for batch, labels in minibatches(X, y, steps):
        targets = np.eye(10)[labels]
        params, state = step(params, state, place(batch), place(targets))
        # Devices made of one CPU share its threads: a second step under way might hold
        # those that the first one waits for.
        jax.block_until_ready(params)
    return params, state


def show(console: Console, params: Params, state: Any) -> None:
    """Print where the parameters and Adam's second moments are, and the zeros."""
    table = Table(title="Parameters, shared out over the mesh")
    for column in ("array", "shape", "on each device", "sharding", "second moment"):
        table.add_column(column)
    table.add_column("zeros", justify="right")
    moments = optax.tree_utils.tree_get(state, "nu")
    for name, x in params.items():
        table.add_row(
            name,
            str(x.shape),
            str(x.sharding.shard_shape(x.shape)),
            str(x.sharding.spec),
            str(moments[name].sharding.spec),
            f"{float((x == 0).mean()):.1%}",
        )
    console.print(table)


def main() -> None:
    """Train on a mesh and on one device, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--axes", choices=("auto", "explicit"), default="auto")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    # Devices add up in another order than one does. In double precision this does not
    # reach the zeros; in single precision a few weights in a hundred thousand may be
    # zero in one run and not in the other.
    jax.config.update("jax_enable_x64", True)

    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(
        X / 16, y, test_size=0.25, random_state=0, stratify=y
    )
    kinds = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
    mesh, console = make_mesh(kinds[args.axes]), Console()
    with jax.set_mesh(mesh):
        params, state = train(X, y, args.steps, mesh)
    with jax.default_device(mesh.devices.flat[0]):
        alone, _ = train(X, y, args.steps)

    kind = mesh.devices.flat[0].device_kind
    console.print(f"{mesh.size} devices ({kind}), mesh {dict(mesh.shape)}, {args.axes}")
    show(console, params, state)
    found, expected = jax.device_get((params, alone))
    weights = l1jax.sparsity_report(found, l1jax.weights_only)
    accuracy = np.mean(np.asarray(forward(found, X_test)).argmax(1) == y_test)
    console.print(f"{weights.sparsity:.1%} zeros, test accuracy {accuracy:.1%}")
    differing = sum(int(((found[k] == 0) != (expected[k] == 0)).sum()) for k in found)
    largest = max(float(np.abs(found[k] - expected[k]).max()) for k in found)
    console.print(
        f"Against one device: {differing} zeros differ, weights by {largest:.0e}."
    )


if __name__ == "__main__":
    main()
