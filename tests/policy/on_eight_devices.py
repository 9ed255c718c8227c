"""Run by test_mesh.py with eight forced CPU devices: every mesh gives what one device gives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import tiny

from pruner_jax.mesh import DECODE_RULES, LEARN_RULES, make_mesh, shardings
from pruner_jax.policy.cache import init_cache
from pruner_jax.policy.config import from_hf
from pruner_jax.policy.forward import forward, unembed
from pruner_jax.policy.weights import unstack, weight_shardings

ROWS, LENGTH = 8, 12


def learn(params, config, tokens, positions):
    """Mean log-probability and its gradient."""

    def loss(params):
        hidden, _ = forward(params, config, tokens, positions, remat="full")
        logp = jax.nn.log_softmax(unembed(params, config, hidden[:, :-1]))
        return jnp.take_along_axis(logp, tokens[:, 1:, None], -1).mean()

    return jax.value_and_grad(loss)(params)


def decode(params, config, tokens, positions):
    """Logits of a prefill of all but the last token and one decode step."""
    cache = init_cache(config, ROWS, LENGTH, jnp.float32)
    _, cache = forward(params, config, tokens[:, :-1], positions[:, :-1], cache=cache)
    hidden, _ = forward(params, config, tokens[:, -1:], positions[:, -1:], cache=cache)
    return unembed(params, config, hidden)


def main() -> None:
    # All sizes divide: 64 = vocabulary, 4 key/value heads.
    config = from_hf(tiny.CONFIGS["qwen3"] | {"vocab_size": 64, "num_key_value_heads": 4})
    params = tiny.params(config)
    tokens = jnp.asarray(tiny.tokens(ROWS, LENGTH))
    positions = jnp.broadcast_to(jnp.arange(LENGTH), (ROWS, LENGTH))
    wanted = jax.jit(learn, static_argnums=1)(params, config, tokens, positions)
    wanted_logits = jax.jit(decode, static_argnums=1)(
        unstack(params, jnp.float32), config, tokens, positions
    )
    mesh = make_mesh(2, 2, 2)
    placed = jax.device_put(params, weight_shardings(config, mesh, LEARN_RULES))
    up = placed["layers"]["up"]
    assert up.addressable_shards[0].data.size * 4 == up.size  # split over fsdp and tensor
    inputs = jax.device_put((tokens, positions), shardings(("rows", None), mesh, LEARN_RULES))
    with jax.set_mesh(mesh):
        found = jax.jit(learn, static_argnums=1)(placed, config, *inputs)
    gaps = jax.tree.leaves(jax.tree.map(tiny.relative, found, wanted))
    assert max(gaps) < 1e-5, max(gaps)
    for size in ((8, 1, 1), (2, 2, 2)):
        mesh = make_mesh(*size)
        there = weight_shardings(config, mesh, DECODE_RULES, stacked=False)
        listed = jax.jit(unstack, static_argnums=1, out_shardings=there)(placed, jnp.float32)
        inputs = jax.device_put((tokens, positions), shardings(("rows", None), mesh, DECODE_RULES))
        with jax.set_mesh(mesh):
            compiled = jax.jit(decode, static_argnums=1).lower(listed, config, *inputs).compile()
        logits = compiled(listed, *inputs)
        assert tiny.relative(logits, wanted_logits) < 1e-5, size
        # Whole replicas decode without a word between devices; a tensor axis must speak.
        speaks = any(word in compiled.as_text() for word in ("all-reduce", "all-gather", "permute"))
        assert speaks == (size[2] > 1), size
    print("all meshes agree")


if __name__ == "__main__":
    main()
