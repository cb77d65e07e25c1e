"""How the arrays of LSTM and GRU cells are laid out in Flax and in torch.

torch packs the gates' weights into `weight_ih` of (gates * hidden, in) and `weight_hh`;
Flax has a kernel for each gate (linen, nnx.LSTMCell) or packs them as well, transposed,
into `dense_i` and `dense_h` (nnx's other cells). The order of the gates is the same.
"""

from collections.abc import Iterable

import numpy as np

from parity_tests.bridge.layers import Arrays, Rule, Shapes


def lstm() -> Rule:
    """LSTM cells. torch has two biases, of which only the sum matters, Flax has one.

    To torch, `bias_ih` becomes zero. To Flax, the two are added.
    """

    def to_torch(flax: Arrays, shapes: Shapes) -> Arrays:
        bias = _gates(flax, "h", "ifgo", "bias")
        return _kernels(flax, "ifgo") | {
            "bias_hh": bias,
            "bias_ih": np.zeros_like(bias),
        }

    def to_flax(torch: Arrays, shapes: Shapes) -> Arrays:
        flax = _from_weights(torch, shapes, "ifgo")
        bias = _sum(torch["bias_hh"], torch["bias_ih"])
        return flax | _from_gates(bias, shapes, "h", "ifgo", "bias")

    return Rule(to_torch, to_flax)


def gru() -> Rule:
    """GRU cells, of gates r, z, n. torch has two biases for each gate.

    Of r and z only the sum matters: to torch, the second becomes zero; to Flax, the two
    are added. The second bias of n has no sum with the first: nnx's cell has none, and
    other values than zero are refused.
    """

    def to_torch(flax: Arrays, shapes: Shapes) -> Arrays:
        bias = _gates(flax, "i", "rzn", "bias")
        second = np.zeros_like(bias)
        if "hn/bias" in flax:
            np.split(second, 3)[2][:] = flax["hn/bias"]
        return _kernels(flax, "rzn") | {"bias_ih": bias, "bias_hh": second}

    def to_flax(torch: Arrays, shapes: Shapes) -> Arrays:
        (r, z, n), second = (
            np.split(torch[name], 3) for name in ("bias_ih", "bias_hh")
        )
        bias = np.concatenate([_sum(r, second[0]), _sum(z, second[1]), n])
        flax = _from_weights(torch, shapes, "rzn")
        flax |= _from_gates(bias, shapes, "i", "rzn", "bias")
        if "hn/bias" in shapes:
            flax["hn/bias"] = second[2]
        elif (second[2] != 0).any():
            raise ValueError(
                "the last third of bias_hh is not zero, and nnx.GRUCell has no such "
                "bias. Set it to zero, or use flax.linen.GRUCell."
            )
        return flax

    return Rule(to_torch, to_flax)


def gate_names(side: str, gates: str) -> list[set[str]]:
    """The names that cells without packed kernels give a side's gates: if or if_."""
    return [{f"{side}{gate}", f"{side}{gate}_"} for gate in gates]


def _gates(flax: Arrays, side: str, gates: str, leaf: str) -> np.ndarray:
    if f"dense_{side}/{leaf}" in flax:
        return flax[f"dense_{side}/{leaf}"]
    names = _names(flax, side, gates, leaf)
    return np.concatenate([flax[name] for name in names], axis=-1)


def _from_gates(
    packed: np.ndarray, shapes: Shapes, side: str, gates: str, leaf: str
) -> Arrays:
    if f"dense_{side}/{leaf}" in shapes:
        return {f"dense_{side}/{leaf}": packed}
    names = _names(shapes, side, gates, leaf)
    parts = np.split(packed, len(gates), axis=-1)
    return dict(zip(names, parts, strict=True))


def _names(known: Iterable[str], side: str, gates: str, leaf: str) -> list[str]:
    return [
        next(f"{name}/{leaf}" for name in sorted(both) if f"{name}/{leaf}" in known)
        for both in gate_names(side, gates)
    ]


def _kernels(flax: Arrays, gates: str) -> Arrays:
    return {f"weight_{s}h": _gates(flax, s, gates, "kernel").T for s in "ih"}


def _from_weights(torch: Arrays, shapes: Shapes, gates: str) -> Arrays:
    flax: Arrays = {}
    for side in "ih":
        weight = torch[f"weight_{side}h"].T
        flax |= _from_gates(weight, shapes, side, gates, "kernel")
    return flax


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # -0.0 + 0.0 is 0.0: what is zero is left out, so that nothing changes a bit.
    return np.where(b == 0, a, np.where(a == 0, b, a + b))
