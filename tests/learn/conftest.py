"""Programs of these tests run for milliseconds, so what counts is how long they compile."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def quick(quick_to_compile):
    """All of them."""
