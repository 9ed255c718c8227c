"""A bucket service for the tests of this room that need one."""

import pytest
from buckets import served

from pruner_jax.store import mirror


@pytest.fixture(scope="module")
def played():
    """The emulated service, to which the environment points; a takeover hardly waits."""
    with served() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(mirror, "_SETTLES", 0.01)
        yield
