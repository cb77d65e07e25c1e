"""Odd values for the fuzz of the public surface: the same names in both twins."""

import decimal
import fractions
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import scipy.sparse

from parity_tests.frameworks.twin import Twin

PLAIN: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "np.True_": lambda: np.True_,
    "0": lambda: 0,
    "1": lambda: 1,
    "2": lambda: 2,
    "-1": lambda: -1,
    "7": lambda: 7,
    "10**30": lambda: 10**30,
    "10**400": lambda: 10**400,
    "0.0": lambda: 0.0,
    "-0.0": lambda: -0.0,
    "0.5": lambda: 0.5,
    "1.0": lambda: 1.0,
    "1.5": lambda: 1.5,
    "-0.5": lambda: -0.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "-inf": lambda: -math.inf,
    "1e308": lambda: 1e308,
    "1e-320": lambda: 1e-320,
    "Fraction": lambda: fractions.Fraction(1, 2),
    "Decimal": lambda: decimal.Decimal("0.5"),
    "complex": lambda: 0.5 + 0j,
    "1j": lambda: 1j,
    "''": lambda: "",
    "'a'": lambda: "a",
    "'0.5'": lambda: "0.5",
    "'w'": lambda: "w",
    "b'a'": lambda: b"a",
    "[]": list,
    "[0.5]": lambda: [0.5],
    "[2.0, 0.5, 0.25]": lambda: [2.0, 0.5, 0.25],
    "['w']": lambda: ["w"],
    "[None]": lambda: [None],
    "()": tuple,
    "(1, 2)": lambda: (1, 2),
    "{}": dict,
    "{'w': 0.1}": lambda: {"w": 0.1},
    "{'a': 1}": lambda: {"a": 1},
    "{1: 2}": lambda: {1: 2},
    "set()": set,
    "{1}": lambda: {1},
    "object": object,
    "lambda x": lambda: lambda x: x,
    "lambda x, y": lambda: lambda x, y: x,
    "int": lambda: int,
    "range": lambda: range(3),
    "iter": lambda: iter([1.0]),
    "...": lambda: ...,
    "np.float32": lambda: np.float32(0.5),
    "np.float16": lambda: np.float16(0.5),
    "np.int64": lambda: np.int64(2),
    "bfloat16": lambda: ml_dtypes.bfloat16(0.5),
    "np 0-d": lambda: np.array(0.5),
    "np 0-d -1": lambda: np.array(-1.0),
    "np 0-d int": lambda: np.array(2),
    "np 0-d bool": lambda: np.array(True),
    "np 0-d str": lambda: np.array("a"),
    "np (1,)": lambda: np.array([0.5]),
    "np (5,)": lambda: np.ones(5),
    "np (2, 3)": lambda: np.ones((2, 3)),
    "np (0,)": lambda: np.zeros(0),
    "np (0, 3)": lambda: np.zeros((0, 3)),
    "np int": lambda: np.array([2, 1, 0]),
    "np bool": lambda: np.array([True, False, True]),
    "np object": lambda: np.array([1.0, None, "a"], object),
    "np complex": lambda: np.array([1j, 1, 0]),
    "np str": lambda: np.array(["a", "b", "c"]),
    "np nan": lambda: np.array([1.0, math.nan, 0.0]),
    "np float16": lambda: np.array([2, 1, 0], np.float16),
    "np datetime": lambda: np.array(["2020-01-01"] * 3, "datetime64[D]"),
    "np timedelta": lambda: np.timedelta64(1),
    "scipy sparse": lambda: scipy.sparse.eye(3, format="csr"),
}

DTYPES = ("float64", "float32", "bfloat16", "int64", "bool", "complex128")


def values(twin: Twin, other: Twin) -> dict[str, Callable[[], Any]]:
    """Return functions by name, each of which makes one odd value anew."""
    lib = twin.lib

    def own(values: Any, dtype: str) -> Callable[[], Any]:
        return lambda: twin.array(values, dtype)

    found = dict(PLAIN)
    for dtype in DTYPES:
        found[f"own 0-d {dtype}"] = own(2, dtype)
        found[f"own {dtype}"] = own([2, 1, 0], dtype)
    for name in ("nan", "inf", "-1"):
        found[f"own 0-d {name}"] = own(float(name), "float64")
    found["own nan"] = own([1, math.nan, 0], "float64")
    found["own (1, 3)"] = own([[2, 1, 0]], "float64")
    found["own (0,)"] = own([], "float64")
    found["own float8"] = own([2, 1, 0], "float8_e4m3fn")
    found["other 0-d"] = lambda: other.array(0.5)
    found["other"] = lambda: other.array([2, 1, 0])
    found["{'w': other}"] = lambda: {"w": other.array([2, 1, 0])}
    for dtype in ("float64", "int64", "complex128", "bool", "float8_e4m3fn"):
        found[f"{{'w': own {dtype}}}"] = lambda d=dtype: {"w": twin.array([2, 1, 0], d)}
    found["{'w': own nan}"] = lambda: {"w": twin.array([1, math.nan, 0])}
    found["{'w': own (5,)}"] = lambda: {"w": twin.array(np.ones(5))}
    found["{'w': own, 'a': own}"] = lambda: twin.tree({"w": np.ones(3), "a": 1.0})
    found["{'w': np}"] = lambda: {"w": np.ones(3)}
    found["{'w': list}"] = lambda: {"w": [2.0, 1.0, 0.0]}
    found["{'w': None}"] = lambda: {"w": None}
    found["{'w': True}"] = lambda: {"w": True}
    found["{'w': 'a'}"] = lambda: {"w": "a"}
    found["l1()"] = lib.l1
    found["l1"] = lambda: lib.l1
    found["weights_only"] = lambda: lib.weights_only
    found["target"] = lambda: lib.target_sparsity(0.5, 4)
    return found
