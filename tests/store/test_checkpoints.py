import errno
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruner_jax.run.clock import Clock
from pruner_jax.store import media
from pruner_jax.store.checkpoints import LONGEST, Checkpoints
from pruner_jax.store.folder import DURABLE
from pruner_jax.store.service import Away


def tree(scale):
    return {"w": jnp.arange(6.0).reshape(2, 3) * scale, "step": jnp.int32(scale)}


def test_states_come_back_and_two_are_kept(tmp_path):
    store = Checkpoints(tmp_path)
    for position in range(4):
        store.save(tree(position), {"parameters": [], "round": position, "note": "é"})
    store.close()

    store = Checkpoints(tmp_path)
    assert store.latest() == 3
    assert store.meta(3) == {"parameters": [], "round": 3, "note": "é"}
    abstract = jax.eval_shape(lambda: tree(0))
    jax.tree.map(np.testing.assert_array_equal, store.arrays(3, abstract), tree(3))
    assert store.meta(2)["round"] == 2
    with pytest.raises(FileNotFoundError):
        store.meta(1)
    store.close()


def test_named_parameters_live_as_long_as_a_state_speaks_of_them(tmp_path):
    store = Checkpoints(tmp_path)
    store.save_parameters("start", tree(1))
    store.save_parameters("candidate", tree(2))
    store.save(tree(0), {"parameters": ["start", "candidate"]})
    store.save(tree(0), {"parameters": ["start"]})
    store.wait()
    assert store.names() == {"start", "candidate"}  # state 1 is still kept
    store.save(tree(0), {"parameters": ["start"]})
    store.save(tree(0), {"parameters": ["start"]})
    assert store.names() == {"start"}
    back = store.load_parameters("start", jax.eval_shape(lambda: tree(0)))
    np.testing.assert_array_equal(back["w"], tree(1)["w"])
    with pytest.raises(ValueError, match=r"candidate.*is not there; the run has \['start'\]"):
        store.load_parameters("candidate", tree(0))
    store.close()


def test_what_others_write_by_now_is_left_alone(tmp_path, monkeypatch):
    first = Checkpoints(tmp_path)
    follower = Checkpoints(tmp_path, lead=lambda work, *args: None)
    half = tmp_path / "states" / "2.orbax-checkpoint-tmp-123"  # of a pod that was just started
    half.mkdir()
    follower.close()
    assert half.exists()
    monkeypatch.setattr(first, "wait", lambda: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        first.close()
    assert half.exists()


FULL = (
    'RESOURCE_EXHAUSTED: Error writing "w/0.0" in OCDBT database: Failed to write 8 bytes to file '
    "7: No space left on device [os_error_code='28']"
)


def test_a_full_disk_is_an_oserror_wherever_orbax_tells_of_it(tmp_path, monkeypatch):
    """Orbax raises ValueErrors like this one; so it was seen on a file system of 8 MB."""

    def full(*_, **__):
        raise ValueError(FULL)

    store = Checkpoints(tmp_path)
    for owner, name, act in (
        (store._writer, "save", lambda: store.save_parameters("start", tree(1))),
        (store._states, "save", lambda: store.save(tree(1), {"parameters": []})),
        (store._states, "wait_until_finished", store.wait),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(OSError) as caught:
                act()
            assert caught.value.errno == errno.ENOSPC
            assert caught.value.filename == str(tmp_path)
    monkeypatch.setattr(store._writer, "save", lambda *_, **__: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):  # other errors stay what they are
        store.save_parameters("start", tree(1))
    store.close()


def test_a_save_that_takes_too_long_is_to_be_started_again(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    for writer in (store._writer, store._states._checkpointer):
        assert writer._async_manager._timeout_secs == LONGEST

    def slow():
        raise TimeoutError("Timed out while waiting for async_write_complete barrier.")

    for writer in (store._writer, store._states):
        store.save(tree(1), {"parameters": []})
        store._states.wait_until_finished()
        with monkeypatch.context() as patch:
            patch.setattr(writer, "wait_until_finished", slow)
            with pytest.raises(Away, match=r"not written in time.*same command") as caught:
                store.wait()
        assert caught.value.exit_code == 75
    store.close()
    assert store.latest() is None  # what was not seen to be whole does not count


def test_too_little_room_is_seen_before_a_save_begins(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    free = type("Usage", (), {"free": 900_000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    for act in (
        lambda: store.save_parameters("start", tree(1)),
        lambda: store.save(tree(1), {"parameters": []}),
    ):
        with pytest.raises(OSError, match=r"needs 1\.0 MB, 0\.9 MB are free") as caught:
            act()
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(tmp_path)
    store.close()
    assert store.names() == set() and not list((tmp_path / "states").iterdir())


def test_what_an_interrupted_save_left_is_removed_by_the_next_writer_only(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(tree(1), {"parameters": []})
    store.save_parameters("start", tree(1))
    store.close()
    halves = [
        tmp_path / "parameters" / "candidate.orbax-checkpoint-tmp",
        tmp_path / "states" / "2.orbax-checkpoint-tmp-123",
    ]
    for half in halves:
        (half / "d").mkdir(parents=True)
    # Complete for all one sees, but a power cut could still take some of it.
    halves.append(tmp_path / "states" / "1")
    shutil.copytree(tmp_path / "states" / "0", halves[-1])
    (halves[-1] / DURABLE).unlink()

    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.latest() == 0 and reader.names() == {"start"}
    assert reader.meta(0) == {"parameters": []}
    reader.close()
    assert all(half.exists() for half in halves)

    store = Checkpoints(tmp_path)
    assert not any(half.exists() for half in halves)
    assert store.latest() == 0 and store.names() == {"start"}
    halves[0].mkdir()  # and what its own failed save leaves goes when it closes
    store.close()
    assert not halves[0].exists()
    with pytest.raises(ValueError, match="holds no checkpoints"):
        Checkpoints(tmp_path / "nowhere", read_only=True)


@pytest.fixture
def held(monkeypatch):
    """``held(writer)``: the writes of an Orbax writer last until the event that it gives."""

    def until(writer):
        event, real = threading.Event(), writer._handler.finalize
        monkeypatch.setattr(
            writer._handler, "finalize", lambda folder: event.wait(20) and real(folder)
        )
        return event

    return until


def test_parameters_go_in_the_background_and_a_state_counts_after_them(tmp_path, held):
    store = Checkpoints(tmp_path)
    event = held(store._writer)
    store.save_parameters("candidate", tree(2))
    store.save(tree(0), {"parameters": ["candidate"]})  # waits for neither
    store._states.wait_until_finished()
    assert store.names() == set() and store.latest() is None
    threading.Timer(0.1, event.set).start()
    store.wait()
    assert store.names() == {"candidate"} and store.latest() == 0
    # They are there when they are asked for, though on their way.
    event.clear()
    store.save_parameters("other", tree(3))
    threading.Timer(0.1, event.set).start()
    back = store.load_parameters("other", jax.eval_shape(lambda: tree(0)))
    np.testing.assert_array_equal(back["w"], tree(3)["w"])
    store.close()


def test_where_parameters_fail_no_state_that_speaks_of_them_counts(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    store.save(tree(0), {"parameters": []})

    def fail(folder):
        raise ValueError(FULL)

    monkeypatch.setattr(store._writer._handler, "finalize", fail)
    store.save_parameters("candidate", tree(2))
    store.save(tree(0), {"parameters": ["candidate"]})
    with pytest.raises(OSError, match="No space left"):
        store.wait()
    store.close()
    assert store.latest() == 0 and store.names() == set()


def test_a_state_whose_files_could_not_be_flushed_never_counts(tmp_path, monkeypatch):
    """The system tells of it once: the next flush succeeds, and the numbers are lost."""
    store = Checkpoints(tmp_path)
    store.save(tree(0), {"parameters": []})
    store.save(tree(1), {"parameters": []})

    def fail_once(path):
        monkeypatch.undo()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(media, "flush_to_disk", fail_once)
    with pytest.raises(OSError, match="Input/output"):
        store.wait()
    store.close()
    assert store.latest() == 0


def test_what_an_update_donates_is_waited_for(tmp_path, held):
    """On a CPU, where it is read where it lies; of parameters alone, too."""
    store, donated = Checkpoints(tmp_path), jax.jit(lambda x: x * 0, donate_argnums=0)
    event = held(store._writer)
    params = tree(2)
    store.save_parameters("candidate", params)
    threading.Timer(0.1, event.set).start()
    store.release()
    assert store.names() == {"candidate"}
    jax.block_until_ready(jax.tree.map(donated, params))
    back = store.load_parameters("candidate", jax.eval_shape(lambda: tree(0)))
    np.testing.assert_array_equal(back["w"], tree(2)["w"])
    store.close()


def test_all_seconds_in_which_a_save_holds_up_the_caller_are_counted(tmp_path, held):
    clock = Clock()
    store = Checkpoints(tmp_path, held_up=lambda: clock.phase("save"))
    like = jax.eval_shape(lambda: tree(0))
    for act in (store.wait, store.release, lambda: store.load_parameters("last", like)):
        event = held(store._writer)
        store.save_parameters("last", tree(1))
        clock.lap()
        threading.Timer(0.1, event.set).start()
        act()
        assert clock.lap()["time/save"] > 0.05
    store.close()
