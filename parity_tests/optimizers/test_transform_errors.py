"""Bad input to the transformations."""

import numpy as np
import pytest
import torch

from parity_tests.frameworks.twins import TORCH


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), -1])
def test_bad_numbers(twin, bad):
    with pytest.raises(ValueError, match=f"strength must .* got {bad}.*Pass"):
        twin.lib.add_subgradient(bad)
    with pytest.raises(ValueError, match=f"strength must .* got {bad}.*Pass"):
        twin.lib.proximal_step(bad, 0.1)
    with pytest.raises(ValueError, match=f"strength must .* got {bad}.*Pass"):
        twin.lib.proximal_step({"w": 0.1, "v": bad}, 0.1)
    with pytest.raises(ValueError, match=f"learning_rate must .* got {bad}.*Pass"):
        twin.lib.proximal_step(0.1, bad)


def test_bad_numbers_from_schedules(twin):
    params = twin.tree({"w": [1.0]})
    for bad, error in ((-0.1, ValueError), ("x", TypeError), (None, TypeError)):
        for tx in (
            twin.lib.add_subgradient(lambda t, bad=bad: bad),
            twin.lib.proximal_step(lambda t, bad=bad: bad, 0.1),
            twin.lib.proximal_step(0.1, lambda t, bad=bad: bad),
        ):
            with pytest.raises(error, match=f"must be a finite real .* got {bad!r}"):
                tx.init(params)


@pytest.mark.parametrize("bad", ["0.1", None, True, 1j, {}])
def test_not_numbers(twin, bad):
    with pytest.raises(TypeError, match="strength must be a finite real number"):
        twin.lib.add_subgradient(bad)
    with pytest.raises(TypeError, match="strength must be a finite real number"):
        twin.lib.proximal_step(bad, 0.1)
    with pytest.raises(TypeError, match="learning_rate must be a finite real number"):
        twin.lib.proximal_step(0.1, bad)


def test_shapes_that_do_not_fit(twin):
    params = twin.tree({"w": np.ones((2, 3))})
    wrong = twin.array(np.ones(2))
    for strength in (wrong, lambda t: wrong):
        for tx in (
            twin.lib.add_subgradient(strength),
            twin.lib.proximal_step(strength, 0.1),
        ):
            with pytest.raises(
                ValueError,
                match=r"strength of shape \(2,\) does not broadcast to the "
                r"parameter 'w' of shape \(2, 3\). Pass \(or return from the schedule",
            ):
                tx.init(params)
    with pytest.raises(ValueError, match="learning_rate must be a scalar; the sched"):
        twin.lib.proximal_step(0.1, lambda t: wrong).init(params)
    with pytest.raises(ValueError, match="learning_rate must be a scalar; got shape"):
        twin.lib.proximal_step(0.1, wrong)
    with pytest.raises(ValueError, match="strength does not fit the parameters"):
        twin.lib.proximal_step({"v": 0.1}, 0.1).init(params)


def test_bad_parameters_and_updates(twin):
    params = twin.tree({"w": np.ones(3), "bias": np.ones(3)})
    for tx in (twin.lib.add_subgradient(0.1), twin.lib.proximal_step(0.1, 0.1)):
        state = tx.init(params)
        with pytest.raises(ValueError, match="params must be given, got None. Call"):
            tx.update(params, state, None)
        with pytest.raises(ValueError, match="updates must have the same.*'v' .*'w' "):
            tx.update({"v": params["w"], "bias": params["bias"]}, state, params)
        with pytest.raises(ValueError, match="updates must have the same"):
            tx.update({"w": params["w"]}, state, params)
        wrong = {"w": twin.array(np.ones(4)), "bias": params["bias"]}
        with pytest.raises(ValueError, match=r"updates\['w'\] has shape \(4,\)"):
            tx.update(wrong, state, params)
        for dtype in ("int32", "complex64", "bool"):
            with pytest.raises(TypeError, match=rf"params\['w'\] has dtype .*{dtype}"):
                tx.init({"w": twin.array(np.ones(3), dtype)})
        # An integer leaf that is not penalised is none of our business.
        tx.init(params | {"bias": twin.array(np.ones(3), "int32")})


def test_bad_penalties(twin):
    with pytest.raises(TypeError, match="penalty must be a Penalty, got"):
        twin.lib.proximal_step(0.1, 0.1, penalty=twin.lib.l1)
    with pytest.raises(TypeError, match="penalty must be a Penalty, got 'l1'"):
        twin.lib.add_subgradient(0.1, penalty="l1")
    with pytest.raises(ValueError, match="holds a constraint.*Use proximal_step"):
        twin.lib.add_subgradient(0.1, penalty=twin.lib.nonnegative_l1())


def test_sparse_gradients_are_refused():
    params = {"w": torch.ones(3)}
    sparse = {"w": torch.ones(3).to_sparse()}
    for tx in (TORCH.lib.add_subgradient(0.1), TORCH.lib.proximal_step(0.1, 0.1)):
        with pytest.raises(TypeError, match=r"updates\['w'\] has layout torch.sparse"):
            tx.update(sparse, tx.init(params), params)
    tx = TORCH.lib.proximal_step(0.1, 0.1, mask={"w": False, "v": True})
    params, sparse = params | {"v": torch.ones(3)}, sparse | {"v": torch.ones(3)}
    assert tx.update(sparse, tx.init(params), params)[0]["w"] is sparse["w"]
