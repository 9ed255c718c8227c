"""States in a bucket of which an earlier run knows, a later one, or both."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from pruner_jax.store.checkpoints import Checkpoints
from pruner_jax.store.folder import DURABLE, FolderError
from pruner_jax.store.mirror import Mirror

TREE = {"w": jnp.arange(3.0)}


@pytest.fixture
def start(played, tmp_path, monkeypatch):
    """``start(machine)``: the checkpoints of a run that has just taken the folder."""
    opened = []

    def on(machine):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        mirror = Mirror(f"gs://open/runs/{tmp_path.name}")
        mirror.claim()

        store = Checkpoints(epath.Path(mirror.address) / "checkpoints", mirror=mirror)
        opened.append(store)
        return store

    yield on
    for store in opened:
        store._uncounted = None
        store._states.close()


def save(store, *parameters):
    store.save(TREE, {"parameters": parameters})
    store.wait()
    return store.latest()


def test_a_run_that_was_taken_over_drops_and_writes_nothing(start):
    old = start("first")
    for name in ("start", "early"):
        old.save_parameters(name, TREE)
    save(old, "start", "early")
    save(old, "start")
    new = start("second")
    new.save_parameters("late", TREE)  # of which no state speaks yet
    new.wait()
    for act in (
        lambda: save(old, "start"),
        lambda: old.save_parameters("late", {"w": jnp.zeros(3)}),
        lambda: old._drop(set()),
        old._tidy,
    ):
        with pytest.raises(FolderError, match="taken over"):
            act()
        assert new.names() == {"start", "early", "late"}
    back = new.load_parameters("late", jax.eval_shape(lambda: TREE))
    np.testing.assert_array_equal(back["w"], TREE["w"])


def test_a_state_that_a_later_run_tidied_away_is_no_file_that_is_missing(start, monkeypatch):
    old = start("first")
    save(old)

    def tidied(position):  # after the owner was asked for
        new = start("second")
        (new._states_folder / str(position)).rmtree()
        return meta(position)

    meta = old.meta
    monkeypatch.setattr(old, "meta", tidied)
    with pytest.raises(FolderError, match="taken over"):
        save(old)


def test_a_mark_that_comes_late_counts_for_nothing(start):
    old = start("first")
    whole = save(old)
    old.save(TREE, {"parameters": []})
    old._states.wait_until_finished()  # and the mark is to come
    late, old._uncounted = old._uncounted, None
    new = start("second")
    assert not (new._states_folder / str(late)).exists()
    (new._states_folder / str(late) / DURABLE).touch()
    assert new.latest() == whole
    third = start("third")
    assert third.latest() == whole
    np.testing.assert_array_equal(third.arrays(whole, jax.eval_shape(lambda: TREE))["w"], TREE["w"])


def test_the_one_before_is_kept_and_loses_its_mark_before_it_goes(start, monkeypatch):
    store = start("first")
    counted = [save(store), save(store)]
    store = start("second")
    assert store._found() == dict.fromkeys(counted, True)
    begin, seen = store._states.save, []
    monkeypatch.setattr(
        store._states, "save", lambda *a, **k: seen.append(store._found()) or begin(*a, **k)
    )
    newest = save(store)
    assert seen == [{counted[0]: False, counted[1]: True}]
    assert store._found() == {counted[1]: True, newest: True}


def test_no_two_runs_write_the_same_state(start):
    first = start("first")
    written = [save(first)]
    for machine in ("second", "third"):  # each stopped while its first state has no mark
        store = start(machine)
        store.save(TREE, {"parameters": []})
        store._states.wait_until_finished()
        written.append(store._uncounted)
        store._uncounted = None
    assert written == sorted(set(written))
    assert min(b - a for a, b in itertools.pairwise(written)) >= 2  # one may be on its way
