"""Chunked log-probabilities against jax.nn.log_softmax over all logits."""

import jax
import jax.numpy as jnp
import little
import numpy as np
import pytest
from little import CONFIG

from pruner_jax.learn.logprob import logp_of
from pruner_jax.policy.forward import unembed


def dense(tree, hidden, place, target, temperature):
    logp = jax.nn.log_softmax(unembed(tree, CONFIG, hidden) / temperature)
    logp = jnp.take_along_axis(logp, place[..., None], 1)
    entropy = -(jnp.exp(logp) * logp).sum(-1)
    return jnp.take_along_axis(logp, target[..., None], 2)[..., 0], entropy


@pytest.mark.parametrize("chunk", [1, 3, 4, 5, 11, 100])
def test_chunked_is_dense(chunk):
    """Values, and gradients to the hidden states and the unembedding, whatever the chunk."""
    draw = np.random.default_rng(0)
    tree, hidden = little.params(), jnp.asarray(draw.normal(size=(3, 14, 16)), jnp.float32)
    place = jnp.asarray(np.sort(draw.permuted(np.tile(np.arange(14), (3, 1)), axis=1)[:, :11]))
    target = jnp.asarray(draw.integers(0, 32, (3, 11)))
    slope = jnp.asarray(draw.normal(size=(2, 3, 11)), jnp.float32)

    def run(function, **options):
        def total(tree, hidden):
            scored = function(tree, hidden, place, target, **options)
            return (jnp.stack(scored) * slope).sum(), scored

        return jax.jit(jax.grad(total, (0, 1), has_aux=True))(tree, hidden)

    wanted = run(dense, temperature=0.7)
    found = run(
        lambda tree, *rest, **options: logp_of(tree, CONFIG, *rest, **options),
        temperature=0.7, chunk=chunk, differentiate_entropy=True,
    )  # fmt: skip
    little.assert_close(found, wanted, 2e-6)


def test_entropy_has_a_gradient_only_where_asked():
    draw = np.random.default_rng(0)
    tree, hidden = little.params(), jnp.asarray(draw.normal(size=(1, 4, 16)), jnp.float32)
    place, target = jnp.arange(4)[None], jnp.zeros((1, 4), jnp.int32)

    def slope(asked):
        def entropy(hidden):
            return logp_of(
                tree, CONFIG, hidden, place, target, temperature=1.0, chunk=2,
                differentiate_entropy=asked,
            )[1].sum()  # fmt: skip

        return np.abs(jax.grad(entropy)(hidden)).max()

    assert slope(True) > 1e-3 and slope(False) == 0
