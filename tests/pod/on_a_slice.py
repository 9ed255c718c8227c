"""Compiles for TPUs that are not there, in a process of its own; prints JSON."""

import dataclasses
import json
import re
import sys

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from pruner_jax import config
from pruner_jax.pod import chips, hlo, programs
from pruner_jax.pod.compiled import compile_program
from pruner_jax.run import finding, traffic


def memory_of(chip):
    """What the compiler says a device gives, in GiB."""
    place = SingleDeviceSharding(chips.devices(chip.slices()[0])[0])
    large = jax.ShapeDtypeStruct((400, 1 << 30), jnp.bfloat16, sharding=place)
    try:
        jax.jit(jnp.sin).lower(large).compile()
    except jax.errors.JaxRuntimeError as error:
        return float(re.search(r"available HBM \(([\d.]+)G\)", str(error))[1])


def turned_over(shape):
    """Copies in a loop that turns two large arrays over at every step."""
    place = SingleDeviceSharding(chips.devices("v5e:1x1")[0])

    def turn(x, y, steps):
        body = lambda i, carry: (carry[1].T + i.astype(jnp.bfloat16), carry[0].T)  # noqa: E731
        return jax.lax.fori_loop(0, steps, body, (x, y))

    arrays = [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=place) for s in (shape, shape[::-1])]
    steps = jax.ShapeDtypeStruct((), jnp.int32, sharding=place)
    text = jax.jit(turn).lower(*arrays, steps).compile().as_text()
    return len(hlo.copies(hlo.parse(text), [shape, shape[::-1]], "bf16"))


def shared(settings):
    """The sampler where two chips share their rows and heads."""
    mesh = dataclasses.replace(settings.mesh, tensor=2)
    return finding.sampling(finding.prepare(dataclasses.replace(settings, mesh=mesh)), "train")


def decode_block(here, config, rows, **sizes):
    """That of so many rows a device, before and after it is compiled."""
    _, options = programs.for_tpu(here.settings.learn, here.settings.sample)
    sizes = {"count": rows * here.mesh.size, "end_ids": (0,), **sizes}
    made = programs.sampler(config, options, here.mesh, **sizes).decode
    return made, compile_program(made)


def grouped(here, group):
    """A decode block whose rows share the slots of their prompt, so many of them."""
    made, done = decode_block(here, here.config, 512, prompt=1024, limit=1024, group=group)
    given = made.arguments
    found = traffic.of_decode(done.text, given["weights"], given["cache"])
    kept = {"arguments": done.arguments, "temporaries": done.temporaries}
    return kept | {name: found[name] for name in ("collectives", "cache_copies", "step_bytes")}


def turned_logits(here):
    """Copies in the decode loop of logits that are too large for the memory on the chip."""
    config = dataclasses.replace(here.config, vocab_size=1 << 17)
    _, done = decode_block(here, config, 256, prompt=64, limit=64)
    return len(hlo.copies(hlo.parse(done.text), [(256, 1 << 17)], "f32"))


def main(file, *words):
    settings = config.load(config.PlanConfig, file, words)
    here = finding.prepare(settings)
    found = {
        "backend": jax.default_backend(),
        "devices": {s: len(chips.devices(s)) for chip in chips.CHIPS for s in chip.slices()},
        "memory": {chip.name: memory_of(chip) for chip in chips.CHIPS},
        "turned_over": turned_over((8192, 16384)),
        # A cache that does not fit into the memory on the chip's core.
        "monitor": finding.sampling(here, "monitor").plain(here.chip.memory),
        "turned_logits": turned_logits(here),
        "grouped": [grouped(here, group) for group in (1, 8)],
        "shared": shared(settings).plain(here.chip.memory),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
