"""``python -m pruner_jax`` is the same as ``pruner-jax``."""

from pruner_jax.cli import console

console()
