"""One training step in each framework, with what is to be compared."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx

from parity_tests.bridge import flax_tree
from parity_tests.bridge.conversion import numpy_array
from parity_tests.bridge.pairs import Matching

FlaxModel = nnx.Module | tuple[nn.Module, Mapping[str, Any]]
Arrays = dict[str, np.ndarray]
NO_DROPOUT = (
    "The frameworks draw different random numbers. Set the rate to zero for the "
    "comparison."
)


class Seen(NamedTuple):
    """What one step shows, the arrays by their names in torch's state dict."""

    loss: float
    outputs: np.ndarray
    gradients: Arrays
    arrays: Arrays
    """Parameters and running statistics after the update."""


class FlaxSide:
    """Trains a copy of a linen or nnx model.

    Args:
      model: an nnx model, or a linen module and its variables; none is changed.
      tx: the optimizer.
      loss: of outputs and targets.
      call: keyword arguments of the model's call.
      dtype: of floating inputs and targets.
    """

    def __init__(
        self,
        model: FlaxModel,
        tx: optax.GradientTransformation,
        loss: Callable[[jax.Array, jax.Array], jax.Array],
        call: Mapping[str, Any],
        dtype: Any,
    ) -> None:
        self._dtype = dtype
        self._linen = not isinstance(model, nnx.Module)
        if self._linen:
            self._forward, self._params, self._rest = _linen_parts(*model, call)
        else:
            self._forward, self._params, self._rest = _nnx_parts(model, call)
        # Flax has statistics in single precision, whatever the parameters are in.
        self._rest = jax.tree.map(self._promoted, self._rest)
        self._state = tx.init(self._params)

        def step(params: Any, rest: Any, state: Any, inputs: Any, targets: Any) -> Any:
            def value(params: Any) -> tuple[jax.Array, Any]:
                outputs, changed = self._forward(params, rest, inputs)
                return loss(outputs, targets), (outputs, changed)

            (cost, (outputs, rest)), gradients = jax.value_and_grad(
                value, has_aux=True
            )(params)
            updates, state = tx.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            return cost, outputs, gradients, (params, rest, state)

        self._step = jax.jit(step)

    def check(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[int, ...]:
        """Return the outputs' shape, and raise what a step would raise."""
        batch = self._batch(inputs, targets)
        try:
            return jax.eval_shape(self._step, *self._carry(), *batch)[1].shape
        except flax.errors.InvalidRngError as error:
            raise ValueError(
                f"flax_model wants random numbers: {error} {NO_DROPOUT}"
            ) from error

    def step(self, matching: Matching, inputs: np.ndarray, targets: np.ndarray) -> Seen:
        """Take one step."""
        # Accelerators may multiply matrices in less than single precision otherwise.
        with jax.default_matmul_precision("highest"):
            loss, outputs, gradients, carry = self._step(
                *self._carry(), *self._batch(inputs, targets)
            )
        self._params, self._rest, self._state = carry
        arrays = self._arrays(self._params, self._rest)
        zeros = {path: np.zeros_like(x) for path, x in arrays.items()}
        return Seen(
            float(loss),
            np.asarray(outputs),
            matching.to_torch(zeros | self._arrays(gradients, {})),
            matching.to_torch(arrays),
        )

    def arrays(self, matching: Matching) -> Arrays:
        """Return the parameters and running statistics, by torch's names."""
        return matching.to_torch(self._arrays(self._params, self._rest))

    def _promoted(self, x: Any) -> Any:
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(jnp.promote_types(x.dtype, self._dtype)) if floating else x

    def _arrays(self, params: Any, rest: Any) -> dict[flax_tree.Path, np.ndarray]:
        trees = [{"params": params, **rest}] if self._linen else [params, rest]
        found: dict[flax_tree.Path, Any] = {}
        for tree in trees:
            found |= flax_tree.arrays_of(tree)
        return {path: np.asarray(x) for path, x in jax.device_get(found).items()}

    def _carry(self) -> tuple[Any, Any, Any]:
        return self._params, self._rest, self._state

    def _batch(self, *arrays: np.ndarray) -> list[jax.Array]:
        return [
            jnp.asarray(x, self._dtype if np.issubdtype(x.dtype, np.floating) else None)
            for x in arrays
        ]


class TorchSide:
    """Trains a torch model, in place.

    Args:
      model: the module.
      loss: of outputs and targets.
      inputs: turns a numpy batch into the model's order of axes.
      outputs: turns the model's outputs into Flax's.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        inputs: Callable[[np.ndarray], np.ndarray],
        outputs: Callable[[Any], torch.Tensor],
    ) -> None:
        self._model, self._loss = model, loss
        self._inputs, self._outputs = inputs, outputs

    def check(
        self, inputs: np.ndarray, shape: tuple[int, ...]
    ) -> list[torch.nn.Module]:
        """Return the modules in the order of the forward pass, which it tries.

        Raises:
          ValueError: outputs of another shape than Flax's.
        """
        called: dict[torch.nn.Module, None] = {}
        training = {module: module.training for module in self._model.modules()}
        hooks = [
            module.register_forward_pre_hook(lambda m, _: called.setdefault(m))
            for module in training
        ]
        try:
            self._model.eval()
            with torch.no_grad():
                outputs = self._forward(inputs)
        finally:
            for hook in hooks:
                hook.remove()
            for module, flag in training.items():
                module.training = flag
        if tuple(outputs.shape) != shape:
            raise ValueError(
                f"torch_model gives outputs of shape {tuple(outputs.shape)}, the Flax "
                f"model of {shape}. Pass torch_outputs=, such as channels_last."
            )
        return list(called)

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        inputs: np.ndarray,
        targets: np.ndarray,
    ) -> Seen:
        """Take one step."""
        # As in Flax: convolutions on a GPU have less than single precision otherwise.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            outputs = self._forward(inputs)
            loss = self._loss(outputs, self._tensor(targets))
            optimizer.zero_grad()
            loss.backward()
        gradients = {
            name: numpy_array(_gradient(p)).copy()
            for name, p in self._model.named_parameters()
        }
        optimizer.step()
        return Seen(loss.item(), numpy_array(outputs), gradients, self.arrays())

    def arrays(self) -> Arrays:
        """Return parameters and buffers."""
        return {k: numpy_array(x).copy() for k, x in self._model.state_dict().items()}

    def _forward(self, inputs: np.ndarray) -> torch.Tensor:
        return self._outputs(self._model(self._tensor(self._inputs(inputs))))

    def _tensor(self, x: np.ndarray) -> torch.Tensor:
        like = next(self._model.parameters())
        tensor = torch.from_numpy(np.ascontiguousarray(x)).to(like.device)
        return tensor.to(like.dtype) if tensor.is_floating_point() else tensor


def _linen_parts(
    module: nn.Module, variables: Mapping[str, Any], call: Mapping[str, Any]
) -> tuple[Callable[[Any, Any, Any], tuple[Any, Any]], Any, Any]:
    rest = {name: x for name, x in variables.items() if name != "params"}

    def forward(params: Any, rest: Any, inputs: Any) -> tuple[Any, Any]:
        variables = {"params": params, **rest}
        outputs, changed = module.apply(variables, inputs, mutable=list(rest), **call)
        return outputs, {**rest, **changed}

    return forward, variables["params"], rest


def _nnx_parts(
    model: nnx.Module, call: Mapping[str, Any]
) -> tuple[Callable[[Any, Any, Any], tuple[Any, Any]], Any, Any]:
    for _, module in nnx.iter_graph(model):
        rate = getattr(module, "rate", 0) if isinstance(module, nnx.Dropout) else 0
        if isinstance(module, nnx.MultiHeadAttention):
            rate = module.dropout_rate
        if rate:
            raise ValueError(
                f"flax_model has a {type(module).__name__} that drops {rate:g} of its "
                f"inputs. {NO_DROPOUT}"
            )
    model = nnx.clone(model)
    model.train()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def forward(params: Any, rest: Any, inputs: Any) -> tuple[Any, Any]:
        # Copied, since variables can only change inside the trace that made them.
        model = nnx.merge(graphdef, params, jax.tree.map(lambda x: x, rest))
        outputs = model(inputs, **call)
        return outputs, nnx.split(model, nnx.Param, ...)[2]

    return forward, params, rest


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return parameter.grad.to_dense()
