"""Run by test_verbs.py as processes of a pod: verbs one after the other, or one that is stopped.

verbs.py each FOLDER JSON     a list of commands, each with an --out of this process's own; the
                              last once more with other data on one, and stopped
verbs.py stopped WORDS...     one command; the last process gets SIGTERM in the second part
"""

import contextlib
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
from processes import print_alone

from pruner_jax import cli, config
from pruner_jax.learn.options import PodOptions
from pruner_jax.pod.start import start
from pruner_jax.pod.together import Unlike
from pruner_jax.pod.watch import Interrupted
from pruner_jax.run import evaluate, imitate
from pruner_jax.run.engine import Engine

VERBS = {
    "evaluate": (config.EvaluateConfig, evaluate.evaluate),
    "warmup": (config.WarmupConfig, imitate.warm_up),
}


def play(verb, words, pod, out):
    kind, function = VERBS[verb]
    return function(config.load(kind, None, [*words, f"--out={out}"]), pod)


def each(folder, commands):
    options = PodOptions(
        coordinator=os.environ["POD_ADDRESS"],
        processes=int(os.environ["POD_COUNT"]),
        process=int(os.environ["POD_PROCESS"]),
    )
    with start(options) as pod:
        for name, verb, words in commands:
            print(json.dumps(play(verb, words, pod, folder / f"{name}-{pod.index}")))
        verb, words = commands[-1][1:]
        with other_weights(pod.index == 1):
            try:
                play(verb, words, pod, folder / f"unlike-{pod.index}")
            except Unlike as unlike:
                print(unlike)
        stop_at(imitate, "_batch", 2, pod.index == 1)
        try:
            play(verb, words, pod, folder / f"stopped-{pod.index}")
        except Interrupted as stop:
            print(stop)


@contextlib.contextmanager
def other_weights(here):
    """From the second step on what is learnt from is worth more, on one process."""
    real, calls = imitate._batch, []

    def batch(*args):
        rows = real(*args)
        calls.append(rows)
        more = 1 + (here and len(calls) > 1)
        return dataclasses.replace(rows, weight_BT=rows.weight_BT * np.float32(more))

    imitate._batch = batch
    yield
    imitate._batch = real


def stop_at(module, name, call, here):
    """SIGTERM at a call of a function, on one process."""
    real, calls = getattr(module, name), []

    def stopped(*args, **kwargs):
        calls.append(name)
        if here and len(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return real(*args, **kwargs)

    setattr(module, name, stopped)


if __name__ == "__main__":
    if sys.argv[1] == "each":
        print_alone()
        each(Path(sys.argv[2]), json.loads(sys.argv[3]))
    else:
        Engine.rows_together = lambda self, limit: 4  # two problems a part
        stop_at(evaluate, "measure", 2, os.environ["POD_PROCESS"] == "1")
        sys.exit(cli.main(sys.argv[2:]))
