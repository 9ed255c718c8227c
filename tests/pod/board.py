"""A pod whose processes are threads of this one, with a board in memory and no network of devices.

``meet`` gives what each thread's work came to. For what processes agree on: its words and its
order, without starting any.
"""

import threading

from pruner_jax.pod.together import Pod


class Board:
    """What `watch.Watch` keeps at the coordination service; nobody is ever in trouble."""

    def __init__(self):
        self.left = {}
        self._notes, self._news = {}, threading.Condition()

    def put(self, key, value):
        with self._news:
            self._notes[key] = value
            self._news.notify_all()

    def get(self, key, seconds):
        with self._news:
            self._news.wait_for(lambda: key in self._notes, seconds)
            return self._notes.get(key)

    def drop(self, key):
        with self._news:
            del self._notes[key]

    def check(self, left):
        pass

    def wait_for_trouble(self):
        pass

    def say(self, words):
        pass


def meet(*works):
    """``work(pod)`` on a thread each: what it gave, or the error that it ended with."""
    board, found = Board(), [None] * len(works)

    def play(index):
        try:
            found[index] = works[index](Pod(index, len(works), board))
        except (Exception, KeyboardInterrupt) as error:
            found[index] = error

    threads = [
        threading.Thread(target=play, args=(index,), daemon=True) for index in range(len(works))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "it waits for another for ever"
    return found
