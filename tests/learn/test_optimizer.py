"""Schedules at their corners, decay of matrices alone, AdamW as torch has it."""

import jax
import jax.numpy as jnp
import little
import numpy as np
import pytest
from little import CONFIG

from pruner_jax.learn.optimizer import learning_rate, make_optimizer, warmup
from pruner_jax.learn.options import OptimizerOptions


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [1, 1, 1, 1, 1]),
        ({"warmup_steps": 2}, [0.5, 1, 1, 1, 1]),
        ({"warmup_fraction": 0.4}, [0.25, 0.5, 0.75, 1, 1]),
        ({"schedule": "linear"}, [1, 0.9, 0.8, 0.7, 0.6]),
        ({"schedule": "cosine"}, [(1 + np.cos(np.pi * i / 10)) / 2 for i in range(5)]),
        ({"schedule": "linear", "warmup_steps": 1}, [1, 1, 8 / 9, 7 / 9, 6 / 9]),
    ],
)
def test_schedules(options, wanted):
    options = OptimizerOptions(learning_rate=1.0, **options)
    found = [learning_rate(options, i, i + 1, 10) for i in range(5)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_schedule_follows_steps_however_many_updates_they_have():
    options = OptimizerOptions(learning_rate=1.0, schedule="linear", warmup_steps=2)
    four = [learning_rate(options, i / 4, (i + 1) / 4, 10) for i in range(40)]
    np.testing.assert_allclose(four[:8], (1 + np.arange(8)) / 8)
    np.testing.assert_allclose(four[8::4], 1 - np.arange(8) / 8)
    assert 0 < four[-1] < 1 / 16
    assert learning_rate(options, 12, 13, 10) == 0
    # An optimiser that was made after 6 steps rises anew, on the way down.
    anew = [learning_rate(options, i, i + 1, 10, fresh=6) for i in (6, 7, 8)]
    np.testing.assert_allclose(anew, [0.5 * 0.5, 1 - 5 / 8, 1 - 6 / 8])


def test_a_schedule_needs_more_steps_than_its_warmup():
    with pytest.raises(ValueError, match=r"optimizer\.warmup_steps is 10 but there are only 10"):
        warmup(OptimizerOptions(schedule="cosine", warmup_steps=10), 10)
    assert warmup(OptimizerOptions(warmup_steps=10), 10) == 10


def test_only_matrices_decay():
    options = OptimizerOptions(weight_decay=0.5)
    optimizer, tree = make_optimizer(options, CONFIG), little.params()
    nothing = jax.tree.map(jnp.zeros_like, tree)
    changes, _ = optimizer.update(nothing, optimizer.init(tree), tree)
    for path, change in jax.tree_util.tree_leaves_with_path(changes):
        assert (np.abs(change).max() > 0) == ("norm" not in str(path)), path
    np.testing.assert_allclose(changes["embed"], -0.5 * tree["embed"], rtol=1e-5)


def test_the_gradient_is_clipped_to_its_global_norm():
    """With Adam's eps large, a step is the gradient over eps."""
    options = OptimizerOptions(eps=1e6, grad_clip=2.0, beta1=0.0, beta2=0.0)
    optimizer, tree = make_optimizer(options, CONFIG), little.params()
    changes, _ = optimizer.update(tree, optimizer.init(tree), tree)
    norm = np.sqrt(sum((np.asarray(c) ** 2).sum() for c in jax.tree.leaves(changes)))
    assert 1e6 * norm == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parity
def test_adamw_is_that_of_torch():
    torch = pytest.importorskip("torch")
    options = OptimizerOptions(weight_decay=0.1, grad_clip=None)
    optimizer = make_optimizer(options, CONFIG)
    tree = little.params()
    theirs = torch.tensor(np.asarray(tree["embed"]), requires_grad=True)
    adamw = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    state = optimizer.init(tree)
    for seed in range(3):
        grads = little.params(seed + 1)
        theirs.grad = torch.tensor(np.asarray(grads["embed"]))
        adamw.step()
        changes, state = optimizer.update(grads, state, tree)
        tree = jax.tree.map(lambda x, change: x + 0.01 * change, tree, changes)
    np.testing.assert_allclose(tree["embed"], theirs.detach().numpy(), rtol=1e-4, atol=1e-6)
