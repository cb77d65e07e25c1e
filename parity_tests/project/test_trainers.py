"""The recipes for other trainers: one problem, one answer; and their checkpoints."""

import functools
import importlib
import pathlib
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
from flax import nnx

from parity_tests.oracles import optima, problems

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "trainers"
RECIPES = {
    "nnx_optimizer": "flax",
    "linen_train_state": "flax",
    "equinox_filter": "equinox",
    "lightning_module": "lightning",
    "accelerate_loop": "accelerate",
}
# Lightning's own: it counts worker processes, and uses what torch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


@pytest.fixture
def recipe(monkeypatch):
    """Import a recipe by its name, as the scripts import what they share."""
    monkeypatch.syspath_prepend(FOLDER)

    def load(name):
        package = RECIPES.get(name, "sklearn")
        remedy = f'{package} is not installed; it comes with pip install ".[trainers]"'
        pytest.importorskip(package, reason=remedy)
        if package == "lightning":
            # It puts back the handlers of all signals as Python knew them. The compiler
            # for TPUs, where it is installed, has one that Python does not know, and
            # its profiler's signal would end this process.
            signal.signal(signal.SIGPROF, signal.SIG_IGN)
        return importlib.import_module(name)

    return load


@functools.cache
def one_hot(problem):
    [(X, y)] = problem.batches()
    return X.astype(np.float64), np.eye(problem.CLASSES)[y]


@functools.cache
def optimum(problem):
    """The oracle's weights and biases, in float64."""
    return optima.multinomial_optimum(*one_hot(problem), problem.STRENGTH)


def assert_optimal(weights, problem):
    best = optimum(problem)["w"]
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights != 0, best != 0)
    np.testing.assert_allclose(weights, best, rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_it_ends_at_the_optimum_with_its_zeros(recipe, name):
    module, problem = recipe(name), recipe("digits")
    assert np.count_nonzero(optimum(problem)["w"] == 0) == 584  # as its docstring says
    assert_optimal(module.coefficients(module.train()), problem)


@pytest.mark.parametrize("name", list(RECIPES)[1:])
def test_in_minibatches_all_take_the_same_steps(recipe, name):
    # Of 100 samples, 10 may be of one class: from equal weights the gradient of its
    # bias is then rounding alone, which Adam blows up to a step.
    other, module = recipe("nnx_optimizer"), recipe(name)
    ours, theirs = (m.coefficients(m.train(2, batch_size=64)) for m in (module, other))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    assert np.count_nonzero((ours == 0) != (theirs == 0)) <= 1
    assert 100 < np.count_nonzero(ours == 0) < 584


@pytest.mark.parametrize("name", RECIPES)
def test_it_prints_the_zeros(recipe, name, monkeypatch, capsys):
    module = recipe(name)
    monkeypatch.setattr(sys, "argv", [name, "--epochs", "9", "--batch-size", "900"])
    module.main()
    [row] = [line for line in capsys.readouterr().out.splitlines() if " 640 " in line]
    assert 0 < int(row.split()[3]) < 640


def test_batches_hold_every_sample_once(recipe):
    problem = recipe("digits")
    [(X, y)] = problem.batches()
    parts = problem.batches(100)
    assert [len(part[1]) for part in parts] == [100] * 17 + [97]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), X)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), y)
    with pytest.raises(ValueError, match="size must be >= 1, got 0"):
        problem.batches(0)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("lightning_module", "accumulate_grad_batches"),
        ("accelerate_loop", "accumulate"),
    ],
)
def test_accumulated_thirds_are_the_full_batch(recipe, name, argument):
    module = recipe(name)
    thirds = module.coefficients(module.train(20, batch_size=599, **{argument: 3}))
    whole = module.coefficients(module.train(20))
    np.testing.assert_allclose(thirds, whole, rtol=0, atol=2e-5)
    assert np.count_nonzero((thirds == 0) != (whole == 0)) <= 1


def test_lightning_in_mixed_precision(recipe):
    module, problem = recipe("lightning_module"), recipe("digits")
    model = module.train(precision="bf16-mixed")
    weights, best = module.coefficients(model), optimum(problem)
    bias = model.linear.bias.detach().numpy()
    assert weights.dtype == bias.dtype == np.float32

    def objective(w, b):
        loss = problems.multinomial_loss(*one_hot(problem), {"w": w, "b": b})
        return loss + problem.STRENGTH * np.abs(w).sum()

    assert np.abs(weights - best["w"]).max() > 1e-4  # it is less precise
    assert objective(weights, bias) <= (1 + 1e-4) * objective(best["w"], best["b"])
    assert np.count_nonzero((weights == 0) != (best["w"] == 0)) <= 10


def minibatches(problem, count):
    chosen = problem.batches(64)[:count]
    return [(jnp.asarray(X), jnp.asarray(y)) for X, y in chosen]


def assert_same_leaves(actual, desired):
    """Bitwise, and tree by tree."""
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True)
    for a, b in pairs:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)


def test_nnx_goes_on_from_a_checkpoint(recipe, tmp_path):
    module = recipe("nnx_optimizer")
    batches = minibatches(recipe("digits"), 20)
    straight, resumed = module.start(20), module.start(20)
    for batch in batches[:10]:
        module.step(*straight, *batch)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "nnx", nnx.state(straight))
        checkpointer.wait_until_finished()
        nnx.update(resumed, checkpointer.restore(tmp_path / "nnx", nnx.state(resumed)))
    assert_same_leaves(nnx.state(resumed), nnx.state(straight))
    for batch in batches[10:]:
        module.step(*straight, *batch)
        module.step(*resumed, *batch)
    assert_same_leaves(nnx.state(resumed), nnx.state(straight))


def test_linen_goes_on_from_a_checkpoint(recipe, tmp_path):
    module = recipe("linen_train_state")
    batches = minibatches(recipe("digits"), 20)
    straight = module.start(20)
    for batch in batches[:10]:
        straight = module.step(straight, *batch)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "linen", straight)
        checkpointer.wait_until_finished()
        resumed = checkpointer.restore(tmp_path / "linen", module.start(20))
    assert_same_leaves(resumed.opt_state, straight.opt_state)
    for batch in batches[10:]:
        straight = module.step(straight, *batch)
        resumed = module.step(resumed, *batch)
    for part in ("step", "params", "opt_state"):
        assert_same_leaves(getattr(resumed, part), getattr(straight, part))


def test_equinox_goes_on_from_a_checkpoint(recipe, tmp_path):
    module = recipe("equinox_filter")
    import equinox as eqx

    batches = minibatches(recipe("digits"), 20)
    straight, step = module.start(20)
    for batch in batches[:10]:
        straight = step(straight, *batch)
    eqx.tree_serialise_leaves(tmp_path / "half.eqx", straight)
    resumed = eqx.tree_deserialise_leaves(tmp_path / "half.eqx", module.start(20)[0])
    assert_same_leaves(resumed, straight)
    for batch in batches[10:]:
        straight, resumed = step(straight, *batch), step(resumed, *batch)
    assert_same_leaves(resumed, straight)


def test_lightning_goes_on_from_a_checkpoint_at_its_strength(
    recipe, tmp_path, monkeypatch
):
    module = recipe("lightning_module")
    import lightning

    class Save(lightning.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 4:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    straight, resumed = module.Classifier(), module.Classifier()
    trainer, other = module.trainer(10, callbacks=[Save()]), module.trainer(10)
    trainer.fit(straight, module.loader(600))
    monkeypatch.setattr(module, "STRENGTH", 0.5)
    other.fit(resumed, module.loader(600), ckpt_path=tmp_path / "half.ckpt")
    assert other.global_step == trainer.global_step == 30
    assert other.optimizers[0].param_groups[0]["l1"] == recipe("digits").STRENGTH
    assert_same_leaves(
        *(t.optimizers[0].state_dict()["state"] for t in (other, trainer))
    )
    assert_same_leaves(*(m.state_dict() for m in (resumed, straight)))


def test_accelerate_goes_on_from_a_checkpoint_at_its_strength(
    recipe, tmp_path, monkeypatch
):
    module = recipe("accelerate_loop")
    straight = module.prepare(10, 600)
    for _ in range(5):
        module.train_epoch(straight)
    straight.accelerator.save_state(tmp_path)
    for _ in range(5):
        module.train_epoch(straight)
    monkeypatch.setattr(module, "STRENGTH", 0.5)
    resumed = module.prepare(10, 600)
    resumed.accelerator.load_state(tmp_path)
    assert resumed.optimizer.param_groups[0]["l1"] == recipe("digits").STRENGTH
    for _ in range(5):
        module.train_epoch(resumed)
    assert_same_leaves(
        *(t.optimizer.state_dict()["state"] for t in (resumed, straight))
    )
    assert_same_leaves(*(t.model.state_dict() for t in (resumed, straight)))
