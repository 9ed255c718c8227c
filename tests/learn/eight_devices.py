"""Run by test_learn_devices.py in a process of its own: the same updates on meshes of 8 devices."""

import functools

import jax
import jax.numpy as jnp
import little
import numpy as np
from little import CONFIG, SPECS

from pruner_jax.learn import step
from pruner_jax.learn.learn import learn
from pruner_jax.learn.optimizer import make_optimizer
from pruner_jax.learn.options import LearnOptions, OptimizerOptions
from pruner_jax.mesh import make_mesh

jax.config.update("jax_disable_most_optimizations", True)


def run(mesh, spec, tree, **said):
    """State, scores and metrics after several updates; the tree is used again, so it must live."""
    options = LearnOptions(row_tokens=16, micro_tokens=32, **said)
    made = little.rows_for(spec, 24)
    optimizer = make_optimizer(OptimizerOptions(eps=1e-4), CONFIG)
    state = step.init_state(tree, CONFIG, optimizer, mesh)
    update = step.make_update(CONFIG, spec, options, optimizer, mesh)
    for seed in range(2):
        state, metrics = learn(
            state,
            made,
            update,
            spec=spec,
            options=options,
            mesh=mesh,
            seed=seed,
            rate=lambda *_: 1e-2,
        )
    scores = step.score(state.params, CONFIG, made, options=options, mesh=mesh)
    return state, np.nan_to_num(scores), metrics


@functools.cache
def run_alone(name):
    return run(little.mesh(), SPECS[name], little.params())


def compare(name, *shape, **said):
    """Eight devices, and what is ``said`` there, against one."""
    before, one = little.params(), run_alone(name)
    eight = run(make_mesh(*shape), SPECS[name], before, **said)
    for (path, a), b, c in zip(
        jax.tree_util.tree_leaves_with_path(one[0].params),
        jax.tree.leaves(eight[0].params),
        jax.tree.leaves(before),
    ):
        moved, apart = jnp.abs(a - c).max(), np.abs(np.asarray(a) - np.asarray(b)).max()
        assert moved > 1e-3 and apart < 1e-5, (name, shape, path, apart, moved)
    np.testing.assert_allclose(one[1], eight[1], atol=1e-4)
    for key, value in one[2].items():
        if not key.startswith("perf/"):
            np.testing.assert_allclose(value, eight[2][key], rtol=1e-3, atol=1e-5, err_msg=key)
    return eight[0]


assert jax.device_count() == 8
compare("ppo", 8, 1, 1)
compare("dpo", 1, 8, 1)
compare("ppo", 2, 2, 2, attention="splash_interpreted")  # each device mixes its rows and heads
state = compare("gspo", 2, 2, 2)
# Parameters and moments are cut alike: a device of the last mesh holds a quarter of the embedding.
embed = state.params["embed"]
moments = [x for x in jax.tree.leaves(state.opt_state) if x.shape == embed.shape]
assert len(moments) == 2
for x in (embed, *moments):
    assert x.addressable_shards[0].data.size == x.size // 4, x.sharding
