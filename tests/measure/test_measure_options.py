"""Contradictory settings are refused by name."""

import pytest

from pruner_jax.measure.options import AutoOptions, EvaluateOptions, GuardOptions, PickOptions


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: EvaluateOptions(samples=0), "samples"),
        (lambda: EvaluateOptions(top_p=0.0), "top_p"),
        (lambda: EvaluateOptions(temperature=0.0, samples=4), "samples"),
        (lambda: EvaluateOptions(limit=8, budget=8), "budget"),
        (lambda: PickOptions(tolerance=0.0), "tolerance"),
        (lambda: PickOptions(confidence=95), "confidence"),
        (lambda: AutoOptions(quantile=1.5), "quantile"),
        (lambda: AutoOptions(shrink=1.0), "shrink"),
        (lambda: GuardOptions(action="explode"), "action"),
        (lambda: GuardOptions(answer_growth=0.5), "answer_growth"),
        (lambda: GuardOptions(entropy=2.0), "entropy"),
    ],
)
def test_refused_by_name(make, field):
    with pytest.raises(ValueError, match=rf"^{field} is "):
        make()


def test_defaults_and_greedy_are_allowed():
    EvaluateOptions(temperature=0.0, samples=1)
    EvaluateOptions(limit=8, budget=7)
    assert GuardOptions(repetition=None).repetition is None
