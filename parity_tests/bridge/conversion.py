"""Parameters and running statistics from Flax to torch and back, bit by bit."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch

from parity_tests.bridge import flax_tree, torch_modules
from parity_tests.bridge.matching import match
from parity_tests.bridge.pairs import Matching, Pairs


def to_torch(
    variables: Any, torch_model: torch.nn.Module, *, pairs: Pairs | None = None
) -> dict[str, torch.Tensor]:
    """Return a Flax model's parameters and running statistics as torch's state dict.

    No number is computed: converted back by `to_flax` they are the same bit by bit, and
    so are a state dict's own numbers, unless it has biases of LSTMs or GRUs that Flax
    adds up (see `parity_tests.bridge.layers`, where the layouts are).

    Args:
      variables: linen variables, with their collections or the parameters alone, an nnx
        model or an nnx state.
      torch_model: the module that is to take them, which is not changed. Buffers
        without a twin in Flax (`num_batches_tracked`, constants; running statistics,
        where `variables` has none) are taken from it.
      pairs: which layers belong together where `match` cannot know, and what else is to
        be said about a layer, such as `{"Dense_0": Layer(flattened=(4, 4, 16))}`.

    Returns:
      A complete state dict, for `torch_model.load_state_dict`, of copies with the
      dtypes and devices of `torch_model`'s.

    Raises:
      ValueError: layers that do not pair up, see `match`; a dtype that torch's cannot
        hold without rounding.

    Example:
      >>> import flax.linen as nn, jax
      >>> variables = nn.Dense(3).init(jax.random.key(0), jnp.zeros([1, 2]))
      >>> variables = jax.tree.map(lambda x: x.astype(jnp.float32), variables)
      >>> layer = torch.nn.Linear(2, 3)
      >>> layer.load_state_dict(to_torch(variables, layer))
      <All keys matched successfully>
    """
    return state_dict_by(match(variables, torch_model, pairs), variables, torch_model)


def state_dict_by(
    matching: Matching, variables: Any, torch_model: torch.nn.Module
) -> dict[str, torch.Tensor]:
    """Return the result of `to_torch` for layers that are paired already."""
    arrays = {path: np.asarray(x) for path, x in flax_tree.arrays_of(variables).items()}
    state = {k: x.detach().clone() for k, x in torch_model.state_dict().items()}
    for name, x in matching.to_torch(arrays).items():
        state[name] = _tensor(name, x, state[name])
    shared = torch_modules.shared_names(torch_model)
    return state | {name: state[first] for name, first in shared.items()}


def to_flax(
    torch_model: torch.nn.Module,
    like: Any,
    *,
    pairs: Pairs | None = None,
    state_dict: Mapping[str, torch.Tensor] | None = None,
) -> Any:
    """Return a torch model's parameters and running statistics as a Flax tree.

    Args:
      torch_model: a torch module.
      like: linen variables, an nnx state or an nnx model, whose structure, dtypes and
        devices the result gets, and what is neither parameter nor running statistic.
        Arrays of variables may be abstract, as `jax.eval_shape` gives them.
      pairs: as in `to_torch`.
      state_dict: other numbers for the model, from a checkpoint; its own by default.

    Returns:
      A tree like `like`; of an nnx model its state, for `nnx.update`.

    Raises:
      ValueError: layers that do not pair up, see `match`; numbers that the Flax layer
        cannot express; a dtype that Flax's cannot hold without rounding; a state dict
        of another model.
    """
    matching = match(like, torch_model, pairs)
    own = torch_model.state_dict()
    state = own if state_dict is None else state_dict
    if state.keys() != own.keys():
        raise ValueError(
            "state_dict must have torch_model's names; it lacks "
            f"{sorted(own.keys() - state.keys())} and adds "
            f"{sorted(state.keys() - own.keys())}."
        )
    arrays = matching.to_flax({k: numpy_array(x) for k, x in state.items()})
    wanted = flax_tree.arrays_of(like)
    for path, x in arrays.items():
        _require_exact("/".join(path), x.dtype, wanted[path].dtype)
        if x.shape != wanted[path].shape:
            raise ValueError(
                f"state_dict makes {'/'.join(path)} of shape {x.shape}, the Flax model "
                f"wants {wanted[path].shape}. Pass a state dict of torch_model."
            )
    return flax_tree.replaced(like, arrays)


def numpy_array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's values as numpy, bfloat16 too."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()


def _tensor(name: str, x: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    dtype = jnp.dtype(str(like.dtype).removeprefix("torch."))
    _require_exact(name, x.dtype, dtype)
    x = np.array(x, dtype, order="C")
    if like.dtype == torch.bfloat16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16).to(like.device)
    return torch.from_numpy(x).to(like.device)


def _require_exact(name: str, given: np.dtype, wanted: np.dtype) -> None:
    if not np.can_cast(given, wanted, "safe"):
        raise ValueError(
            f"{name} would be rounded from {given} to {wanted}. Convert one of the "
            "models first."
        )
