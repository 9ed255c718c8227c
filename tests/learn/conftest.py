"""Programs of these tests run for milliseconds, so what counts is how long they compile."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def quick_to_compile():
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)
