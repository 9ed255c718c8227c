"""Claims of a comparison."""

import pytest

from pruner_jax.measure.bootstrap import Estimate
from pruner_jax.measure.comparison import Effect


@pytest.mark.parametrize(
    ("low", "high", "more", "less"),
    [(0.1, 0.3, "yes", "no"), (-0.3, -0.1, "no", "yes"), (-0.1, 0.1, "undecided", "undecided")],
)
def test_a_claim_holds_where_the_interval_is_on_its_side(low, high, more, less):
    difference = Estimate((low + high) / 2, low, high)
    assert Effect("c", "a", "more").holds(difference) == more
    assert Effect("c", "a", "less").holds(difference) == less


@pytest.mark.parametrize(
    ("low", "high", "holds"),
    [(-0.005, 0.3, "yes"), (-0.02, 0.3, "undecided"), (-0.3, -0.02, "no")],
)
def test_what_may_be_lost_is_allowed_for(low, high, holds):
    assert Effect("c", "a", "more", within=0.01).holds(Estimate(low, low, high)) == holds
    assert Effect("c", "a", "less", within=0.01).holds(Estimate(low, -high, -low)) == holds
    with pytest.raises(ValueError, match=r"within is -0.01; allowed: 0 or more"):
        Effect("c", "a", "more", within=-0.01)


def test_a_claim_names_a_measure_that_exists():
    with pytest.raises(ValueError, match="measure is 'token'; allowed: accuracy, tokens"):
        Effect("c", "a", "more", measure="token")
