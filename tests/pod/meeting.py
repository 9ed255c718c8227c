"""What processes of a pod do together, in the way the first word says; prints what came of it."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import NamedSharding, PartitionSpec
from processes import print_alone

from pruner_jax.learn.options import PodOptions
from pruner_jax.learn.rows import rows_of_examples
from pruner_jax.pod import likeness
from pruner_jax.pod.likeness import check_rows, check_shared
from pruner_jax.pod.start import start
from pruner_jax.pod.together import Unlike
from pruner_jax.pod.watch import Interrupted
from pruner_jax.run.interrupts import Interrupts
from pruner_jax.run.session import _closing
from pruner_jax.store.checkpoints import Checkpoints
from pruner_jax.types import Problem
from pruner_jax.verify.options import VerifyOptions
from pruner_jax.verify.pool import Verifier

print_alone()

how, folder = sys.argv[1], Path(sys.argv[2])
options = PodOptions(
    coordinator=os.environ["POD_ADDRESS"],
    processes=int(os.environ["POD_COUNT"]),
    process=int(os.environ["POD_PROCESS"]),
    patience=3,
)


def fail_on_last(pod):
    if pod.index == pod.count - 1:
        raise ValueError("the last one failed")
    return pod.index


def run_out_of_memory(pod):
    if pod.index == 1:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")


def stop_first(pod):
    if pod.index == 0:
        raise Interrupted(signal.SIGTERM)


with start(options) as pod:
    if how == "saving":
        # One fails alone while a state is being saved, which the others cannot complete then.
        mesh = jax.make_mesh((pod.count,), ("x",))
        place = NamedSharding(mesh, PartitionSpec("x"))
        tree = jax.jit(lambda: {"w": np.zeros(8)}, out_shardings={"w": place})()
        checkpoints = Checkpoints(folder / "checkpoints", lead=pod.lead)
        with _closing(checkpoints, pod):
            checkpoints.save(tree, {"parameters": []})
            checkpoints.wait()
            checkpoints.save(tree, {"parameters": []})
            if pod.index == int(sys.argv[3]):
                raise ValueError("failed where nobody waits for it")
            for _ in range(3):
                pod.lead(lambda: time.sleep(0.5))
    if how == "frozen":
        pod.gather(None, "before")
        if pod.index == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGSTOP)
        pod.lead(lambda: None)
    if how == "gather":
        # Small and large, of different sizes; text, numbers, arrays and nothing.
        tokens = np.arange(pod.index * 1_000_000, dtype=np.int32)
        parts = pod.gather({"text": ("é", None), "of": pod.index, "x": tokens, "y": 0.5}, "parts")
        assert [part["of"] for part in parts] == list(range(pod.count))
        for index, part in enumerate(parts):
            assert part["text"] == ("é", None) and part["y"] == 0.5
            np.testing.assert_array_equal(part["x"], np.arange(index * 1_000_000))
        shares = pod.each(lambda: pod.share(10))
        assert sorted(np.concatenate(shares)) == list(range(10))
        written = pod.lead(lambda: (folder / "note").write_text(f"by {pod.index}"))
        assert written == 4 and (folder / "note").read_text() == "by 0"
        check_shared(pod, folder)
        # Rows of which the last process has another weight reach no device, and all are told so.
        same = np.arange(3)
        for weight in (1.0, 1.0 + (pod.index == pod.count - 1)):
            try:
                check_rows(pod, "the rows", rows_of_examples([(same, same, weight)]))
            except Unlike as error:
                print(error)
        print("met")
    if how == "slow":
        # One that works for longer than a dead one would be waited for.
        began = time.monotonic()
        pod.each(lambda: time.sleep(8 * pod.index))
        print("waited", time.monotonic() - began > 7)
    if how == "hang":
        # A checker that never ends, on one host: it costs a verdict there, and all go on.
        poisons = Path(__file__).parents[1] / "verify" / "poisons.py"
        problem = Problem("p", "q?", "fine", f"{poisons}:check")
        with Verifier(VerifyOptions(workers=1, timeout_s=3)) as verifier:
            said = "ignore signals and hang" if pod.index else "fine"
            ticket = verifier.submit(problem, said, said)
            found = pod.each(lambda: verifier.collect([ticket])[0].verdict)
        print(*(verdict.name for verdict in found))
    if how in ("fail", "stop"):
        try:
            pod.each(fail_on_last if how == "fail" else stop_first, pod)
        except BaseException as error:
            print(type(error).__name__, error)
        pod.gather(None, "after it")  # all have failed at the same place, and may go on
        print("went on")
    if how == "alone" and pod.index == int(sys.argv[3]):
        raise ValueError("failed where nobody waits for it")
    if how == "memory":
        pod.each(run_out_of_memory, pod)
    if how == "collective":
        process_allgather(np.zeros(3))
        if pod.index == pod.count - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            process_allgather(np.zeros(3))
    if how == "impatient" and pod.index == 1:
        raise KeyboardInterrupt
    if how == "impatient":
        interrupts = Interrupts(pod)
        while True:
            interrupts.check()
            time.sleep(0.1)
    if how == "led":
        # The signal comes to one that waits for the first, which works alone.
        with Interrupts(pod) as interrupts:
            if pod.index == 1:
                threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
            pod.lead(lambda: [(interrupts.check(), time.sleep(0.05)) for _ in range(2000)])
    if how == "astray":
        pod.each(stop_first if pod.index else fail_on_last, pod)
    if how == "unshared":
        own = folder / str(pod.index)
        own.mkdir()
        likeness._APPEARS = 1.0
        check_shared(pod, own)
    if how in ("alone", "dead"):
        if how == "dead" and pod.index == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        pod.lead(lambda: None)
