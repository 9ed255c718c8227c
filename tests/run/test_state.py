"""What is saved of a run's state, and read again."""

import numpy as np
import pytest

from pruner_jax.run.state import Mark, RunState, Store, meta_of, state_of


def test_a_state_comes_back_as_it_was():
    memory = {"controller": {"beta": np.float32(0.2), "lengths": np.arange(3)}}
    mark = Mark(
        4, "step-4", "monitor-4.parquet", method=memory, store=Store({"a": ("x",)}, {"a": 3})
    )
    state = RunState(None, None, method=memory, steps=5, start=mark, origin=mark, candidates=[mark])
    again = state_of(meta_of(state), None, None)
    assert meta_of(again) == meta_of(state)
    assert again.candidates[0].store == mark.store and again.steps == 5
    np.testing.assert_array_equal(again.origin.method["controller"]["lengths"], [0, 1, 2])


def test_a_state_of_a_version_that_noted_less_is_refused():
    meta = meta_of(RunState(None, None, start=Mark(0, "start", "base-monitor.parquet")))
    del meta["start"]["store"]
    with pytest.raises(ValueError, match="older version, which did not note 'store'"):
        state_of(meta, None, None)
