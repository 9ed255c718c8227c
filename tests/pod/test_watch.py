"""How a process of a pod ends, on a board in memory and with short seconds."""

import signal
import threading
import time

import pytest

from pruner_jax.pod import watch as module
from pruner_jax.pod.watch import AGAIN, Gone, Interrupted, PodError, Watch
from pruner_jax.store.service import Away

SECOND = 0.04
PATIENCE = 20 * SECOND  # a busy machine may hold a thread up


@pytest.fixture
def watched(monkeypatch):
    """A process, the first of two, that is watched: with the board, and the codes that its threads
    would have ended it with."""
    for name in ("_LOOK", "_LEAVE", "_END", "_BYE"):
        monkeypatch.setattr(module, name, getattr(module, name) * SECOND)
    ended = []
    monkeypatch.setattr(module, "leave", lambda code: (ended.append(code), one._done.set()))
    board = {"host/1": b"b"}
    one = object.__new__(Watch)
    one._index, one._count, one._patience = 0, 2, PATIENCE
    one._trouble, one._own, one._ending, one._unheard = None, None, False, 0
    one._beat, one._gone, one._done = {}, set(), threading.Event()
    one.left, one.stop, one.noted = {}, None, None
    one.put = board.__setitem__
    one._all = lambda room: {
        int(key.rpartition("/")[2]): value
        for key, value in list(board.items())
        if key.startswith(room + "/")
    }
    threads = [threading.Thread(target=work, daemon=True) for work in (one._look, one._guard)]
    for thread in threads:
        thread.start()
    yield one, board, ended
    one._done.set()


def until(happened):
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < 20
        time.sleep(SECOND / 4)


def beats(board, of, while_):
    """Signs of life of another process, while something is so."""

    def work():
        count = 0
        while while_():
            count += 1
            board[f"alive/{of}"] = b"%d" % count
            time.sleep(SECOND / 4)

    threading.Thread(target=work, daemon=True).start()


def test_one_that_is_alive_and_well_is_let_alone(watched):
    one, board, ended = watched
    beats(board, 1, lambda: not one._done.is_set())
    time.sleep(40 * SECOND)
    one.check()
    assert not ended and board["alive/0"] > b"1" and board["host/0"]


def test_one_that_is_not_heard_of_is_gone_and_who_does_not_notice_is_ended(watched):
    one, _, ended = watched
    until(lambda: one._trouble)
    assert isinstance(one._trouble, Gone) and "host b) has not been heard of" in str(one._trouble)
    until(lambda: ended)
    assert ended == [AGAIN]


def test_one_that_has_left_is_told_with_what_it_ended_with(watched):
    one, board, ended = watched
    board["left/1"] = module._note(KeyboardInterrupt("stopped without saving"))
    until(lambda: ended)  # it waits inside a collective
    assert ended == [130] and "process 1 (host b) has ended: Keyboard" in str(one._trouble)


def test_who_waits_hears_of_one_that_has_left_at_once(watched):
    one, board, _ = watched
    beats(board, 1, lambda: not one._done.is_set())
    board["left/1"] = module._note(Interrupted(signal.SIGTERM))
    until(lambda: one.left)
    one.check()  # whoever does not wait for it goes on
    with pytest.raises(PodError, match=r"process 1 .* has ended: Interrupted: stopped") as caught:
        one.check(one.left)
    assert caught.value.exit_code == AGAIN


def test_a_failure_is_told_before_its_process_leaves(watched):
    one, board, _ = watched
    board["failed/1"] = module._note(Away("it was not written in time"))
    board["left/1"] = module._note(Away("it was not written in time"))
    until(lambda: one.left)
    with pytest.raises(PodError, match=r"process 1 .* failed: Away: it was not") as caught:
        one.check(one.left)
    assert caught.value.exit_code == AGAIN


def test_who_has_failed_alone_and_does_not_come_to_an_end_is_ended(watched):
    one, board, ended = watched
    one.tell(ValueError("alone"))
    assert board["failed/0"] == b"1 ValueError: alone"
    board["left/1"] = b"1 PodError: process 0 failed"  # the other has ended over it
    began = time.monotonic()
    until(lambda: ended)
    assert ended == [1] and one._trouble is None
    assert time.monotonic() - began > 50 * SECOND  # it had time to close what it has open


def test_who_ends_with_the_others_may_take_longer_than_they(watched):
    one, board, ended = watched
    error = ValueError("of all")
    error.shared = True
    one.tell(error)
    board["left/1"] = module._note(error)
    time.sleep(50 * SECOND)
    assert not ended and "failed/0" not in board


def test_a_board_that_does_not_answer_is_noticed(watched):
    one, board, ended = watched
    board["alive/1"] = b"1"
    one.put = lambda *_: one._done.wait()  # as a request without a deadline
    until(lambda: ended)
    assert ended == [AGAIN] and "the first process of the pod has not been" in str(one._trouble)
