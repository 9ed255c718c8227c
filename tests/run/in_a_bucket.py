"""Run by test_bucket.py, each time in a process of its own: a run in a bucket, and what befalls it.

in_a_bucket.py refused WORDS...       # commands with buckets that cannot be used
in_a_bucket.py first ADDRESS WORDS... # taken over by another start, then killed while it saves
in_a_bucket.py second ADDRESS WORDS...# killed as soon as a state counts
in_a_bucket.py last ADDRESS WORDS...  # played to its end, and shown again
in_a_bucket.py whole OUT WORDS...     # in a local folder, without interruption
"""

import contextlib
import os
import signal
import sys

from pruner_jax import cli
from pruner_jax.config import PruneConfig, load
from pruner_jax.run.prune import prune
from pruner_jax.store.checkpoints import Checkpoints
from pruner_jax.store.folder import FolderError
from pruner_jax.store.mirror import Mirror

COUNTING, SAVE = Mirror.counting, Checkpoints.save


def play(out, words):
    prune(load(PruneConfig, None, [*words, f"--out={out}"]))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def take_over(visit):
    """Another start comes before the state is counted at that visit; the first one counts none."""
    seen = []

    @contextlib.contextmanager
    def counting(mirror):
        seen.append(1)
        if len(seen) == visit:
            Mirror(mirror.address).claim()
        with COUNTING(mirror):
            yield

    Mirror.counting = counting


def die_while_saving(visit):
    """Some of the state's arrays are there."""
    seen = []

    def save(store, *args):
        SAVE(store, *args)
        seen.append(1)
        while len(seen) == visit:
            if any((store._states_folder / str(store._uncounted) / "arrays").glob("*/*")):
                die()

    Checkpoints.save = save


def die_after_mark(visit):
    seen = []

    @contextlib.contextmanager
    def counting(mirror):
        with COUNTING(mirror):
            yield
            seen.append(1)
            if len(seen) == visit:
                die()

    Mirror.counting = counting


def refused(words):
    for address in ("gs://closed/run", "gs://nowhere/run"):
        print(cli.main(["prune", *words, f"--out={address}"]))


def main(act, out, words):
    if act == "first":
        take_over(3)
        try:
            play(out, words)
        except FolderError as error:
            print(error)
        Mirror.counting = COUNTING
        die_while_saving(1)
    elif act == "second":
        die_after_mark(3)
    whole, words = (words[0], words[1:]) if act == "last" else (None, words)
    play(out, words)
    if whole:
        play(out, words)
        play(whole, words)


if __name__ == "__main__":
    if sys.argv[1] == "refused":
        refused(sys.argv[2:])
    else:
        main(sys.argv[1], sys.argv[2], sys.argv[3:])
