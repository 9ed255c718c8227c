"""Weight merges, on numpy and on JAX arrays."""

import jax.numpy as jnp
import numpy as np
import pytest

from pruner_jax.objective.merge import Average, TopDelta

START = np.array([1.0, 1.0, 1.0, 1.0])
END = np.array([1.1, 3.0, 0.8, 1.0])


@pytest.mark.parametrize("xp", [np, jnp])
def test_merges(xp):
    start, end = xp.asarray(START), xp.asarray(END)
    np.testing.assert_allclose(Average(0.25)(start, end), [1.025, 1.5, 0.95, 1.0], rtol=1e-6)
    np.testing.assert_allclose(TopDelta(0.25, 0.7)(start, end), [1, 2.4, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(TopDelta(0.5, 0.5)(start, end), [1, 2, 0.9, 1], rtol=1e-6)
