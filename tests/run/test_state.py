"""What is saved of a run's state, and read again."""

import types

import numpy as np
import pytest

from pruner_jax.learn.step import LearnState
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Phase
from pruner_jax.run import prune
from pruner_jax.run.clock import Clock
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
    for name in ("store", "reference", "kept"):
        less = {**meta, "start": {k: x for k, x in meta["start"].items() if k != name}}
        with pytest.raises(ValueError, match=f"older version, which did not note '{name}'"):
            state_of(less, None, None)
    meta["start"]["weather"] = "fair"
    with pytest.raises(ValueError, match="another version, which noted 'weather'"):
        state_of(meta, None, None)


# -- the end of a round ----------------------------------------------------------------------------


def remembers(step):
    """What a method with all kinds of memory knows after a step."""
    return {
        "monitor": {"mask": np.full((1, 1), step)},
        "history": {"length": {"min": np.array([100 - step])}},
        "controllers": {"prune-beta": np.array(step / 100)},
    }


def stored(step):
    """Rows of a phase that keeps them, of one that collects anew and of one that did it once."""
    files = {"star": tuple(f"star-{n}" for n in range(0, step + 1, 10)), "anew": (f"anew-{step}",)}
    return Store({**files, "once": ("once-0",)}, {"star": step, "anew": step, "once": 0})


def mark(step, store=None):
    return Mark(
        step,
        f"step-{step}",
        f"{step}.parquet",
        method=remembers(step),
        store=stored(step) if store is None else store,
        reference=f"reference-{step}",
    )


def collects(name, **how):
    return Phase(name=name, collect=Collect(samples=1, **how), loss=LossSpec(kind="ce"))


@pytest.fixture
def end_round(monkeypatch):
    """The end of a round of 20 steps at which a step is picked; its state."""

    def ended(step, origin, alarmed=False):
        candidates = [mark(10), mark(20)]
        state = RunState(
            LearnState({}, ()),
            None,
            method=remembers(20),
            store=stored(20),
            reference_parameters="reference-20",
            limit=64, step=20, length=20, steps=20, alarmed=alarmed,
            start=mark(0), origin=origin, candidates=candidates,
        )  # fmt: skip
        kept = step == origin.step
        picked = types.SimpleNamespace(step=step, kept=kept, reason="", judgements=())
        monkeypatch.setattr(prune, "pick", lambda *_: picked)
        for name in ("save", "goes_back"):
            monkeypatch.setattr(prune, name, lambda *_: None)
        for name in ("accuracy", "mean_tokens"):
            monkeypatch.setattr(prune.stats, name, lambda _: 0.0)
        loaded = []
        run = types.SimpleNamespace(
            clock=Clock(),
            history=[],
            training=[
                collects("star", every="iteration", keep=True),
                collects("anew", every="iteration"),
                collects("once", every="once"),
            ],
            checkpoints=types.SimpleNamespace(load_parameters=lambda name, _: loaded.append(name)),
            settings=types.SimpleNamespace(
                pick=None, rounds=types.SimpleNamespace(limits=[64], steps=20)
            ),
            progress=types.SimpleNamespace(log=lambda _: None),
            parameters_like=None,
            fresh_optimizer=lambda _: None,
            **{name: lambda *_: None for name in ("candidate", "outcomes", "record", "resets")},
        )
        prune.end_round(run, state)
        assert loaded == [f"step-{step}"]
        return state

    return ended


@pytest.mark.parametrize("step", [0, 10, 20])
def test_what_is_of_a_policy_goes_on_with_it_and_what_is_of_the_run_stays(end_round, step):
    state = end_round(step, mark(0))
    assert state.method["monitor"]["mask"] == step
    assert state.method["history"]["length"]["min"] == 80  # the shortest that was ever seen
    assert state.method["controllers"]["prune-beta"] == 0.2
    assert state.store.shards["star"] == ("star-0", "star-10", "star-20")
    assert state.store.shards["anew"] == (f"anew-{step}",)
    assert state.store.shards["once"] == ("once-0",)
    assert state.store.since == {"star": 20, "anew": step, "once": 0}
    assert state.reference_parameters == f"reference-{step}"


def test_rows_of_before_the_first_collection_are_collected_anew(end_round):
    state = end_round(0, mark(0, Store()))
    assert set(state.store.shards) == set(state.store.since) == {"star", "once"}
    assert Collect(samples=1, every="iteration").due(20, state.store.since.get("anew"))


def test_after_an_alarm_everything_goes_back(end_round):
    state = end_round(10, mark(0), alarmed=True)
    assert meta_of(state)["method"] == meta_of(RunState(None, None, method=remembers(10)))["method"]
    assert state.store == stored(10) and state.reference_parameters == "reference-10"
