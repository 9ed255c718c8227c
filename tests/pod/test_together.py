"""What the processes of a pod do together, and how they end when one of them cannot."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import board
import processes
import pytest

from pruner_jax.learn.options import PodOptions
from pruner_jax.pod import wire
from pruner_jax.pod.notice import Notices
from pruner_jax.pod.start import wanted
from pruner_jax.pod.together import ALONE, Pod, PodError, _note
from pruner_jax.pod.watch import AGAIN
from pruner_jax.run.interrupts import Interrupted, Interrupts
from pruner_jax.store.folder import DURABLE
from pruner_jax.store.service import Away

MEETING = Path(__file__).parent / "meeting.py"
ENV = {"PYTHONPATH": str(Path(__file__).parents[2])}


def meet(how, count, folder):
    return processes.run([MEETING, how, folder], count, folder / "logs", timeout=120, env=ENV)


def ends(how, count, folder, who):
    """Exit codes, and what all processes wrote to stderr."""
    command = [MEETING, how, folder, str(who)]
    with processes.started(command, count, folder / "logs", env=ENV) as group:
        return group.wait(120), [group.err(index) for index in range(count)]


def test_four_give_share_write_and_compare(tmp_path):
    outs = [out.splitlines() for out in meet("gather", 4, tmp_path)]
    assert all(
        re.match("the rows differ: weight is .* 0 and .* process 3;", out[0]) for out in outs
    )
    assert [out[1:] for out in outs] == [["met"]] * 4


def test_a_slow_one_is_waited_for(tmp_path):
    assert [out.strip() for out in meet("slow", 2, tmp_path)] == ["waited True"] * 2


def test_a_verifier_that_hangs_on_one_delays_all(tmp_path):
    assert [out.strip() for out in meet("hang", 2, tmp_path)] == ["CORRECT TIMEOUT"] * 2


def test_what_one_fails_with_all_fail_with(tmp_path):
    first, last = meet("fail", 2, tmp_path)
    assert first.splitlines() == [
        "PodError process 1 failed: ValueError: the last one failed",
        "went on",
    ]
    assert last.splitlines() == ["ValueError the last one failed", "went on"]


def test_a_request_to_stop_reaches_all(tmp_path):
    said = "Interrupted stopped by SIGTERM; the same command continues"
    assert [out.splitlines()[0] for out in meet("stop", 2, tmp_path)] == [said, said]


DEAD = "has not been heard of for 3 s .*same command"


@pytest.mark.parametrize(
    ("how", "who", "codes", "words"),
    [
        # What each process ends with, and what it says.
        ("alone", 1, [1, 1], ["process 1 .* failed: ValueError: failed where", "nobody waits"]),
        ("alone", 0, [1, 1], ["nobody waits", "process 0 .* failed: ValueError: failed where"]),
        ("saving", 1, [1, 1], ["process 1 .* failed: ValueError: failed where", "nobody waits"]),
        ("saving", 0, [1, 1], ["nobody waits", "process 0 .* failed: ValueError: failed where"]),
        ("dead", 1, [75, -9], [f"process 1 .* {DEAD}", ""]),
        ("dead", 0, [-9, -6], ["", "leader task was preempted"]),  # JAX itself ends the others
        ("memory", 1, [1, 1], ["process 1 failed: RuntimeError: RESOURCE_EX", "RESOURCE_EXH"]),
        ("collective", 2, [75, 75, -9], [f"process 2 .* {DEAD}", f"process 2 .* {DEAD}", ""]),
        ("impatient", 1, [130, 130], ["stopped by SIGINT", "KeyboardInterrupt"]),
        ("led", 1, [75, 75], ["stopped by SIGTERM", "stopped by SIGTERM"]),
        ("astray", 1, [1, 1], ["process 1 is at stop_first, this one at fail_on_last", ""]),
        ("unshared", 1, [1, 1], ["not the same folder on all .*processes .1. do not see", ""]),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_all_end_and_say_why(tmp_path, how, who, codes, words):
    found, said = ends(how, len(codes), tmp_path, who)
    for pattern, err in zip(words, said):
        assert re.search(pattern, err), said
    assert found == codes, said
    if how == "saving":  # what nobody could complete does not count, what came before stands
        marks = (tmp_path / "checkpoints" / "states").glob(f"*/{DURABLE}")
        assert [mark.parent.name for mark in marks] == ["0"]


def test_a_first_one_that_hangs_is_noticed_by_the_others(tmp_path):
    """It is there, and holds the line, but answers nothing, as a machine that lost its network."""
    with processes.started(
        [MEETING, "frozen", tmp_path, "0"], 2, tmp_path / "logs", env=ENV
    ) as all_:
        assert all_.processes[1].wait(90) == AGAIN, all_.story()
        assert re.search(f"the first process of the pod {DEAD}", all_.err(1))


def test_others_that_do_not_come_are_told(tmp_path):
    address = f"127.0.0.1:{processes.free_port()}"
    given = PodOptions(coordinator=address, processes=2, process=1, wait=2)
    script = (
        "from pruner_jax.learn.options import PodOptions; from pruner_jax.pod.start import start"
    )
    script += f"\nstart({given!r}).__enter__()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | ENV, capture_output=True, text=True
    )
    assert done.returncode == AGAIN
    assert re.search(f"not found .coordinator_address = {address}.*waited for 2 s", done.stderr)


def test_all_are_started_again_where_one_has_to_be():
    """The second of two processes, of which the first finds no bucket."""
    away = {"value": None, "failed": _note(Away("cannot be reached"))}
    pod = Pod(1, 2, watch=object())
    pod.gather = lambda value, at: [wire.unpack(wire.pack(away)), value]
    with pytest.raises(PodError, match="process 0 failed: Away: cannot be reached") as caught:
        pod.lead(print)
    assert caught.value.exit_code == AGAIN


def test_who_is_to_stop_at_once_takes_all_along():
    """A second signal on one host, while the others are asked to save first."""

    def at_once():
        stop = KeyboardInterrupt("stopped without saving")
        stop.exit_code = AGAIN
        raise stop

    def with_a_save():
        raise Interrupted(signal.SIGTERM)

    def together(*works):
        def each(pod):
            pod.each(lambda: works[pod.index]())

        return board.meet(*[each] * len(works))

    for works in ((at_once, with_a_save, int), (int, at_once, with_a_save)):
        found = together(*works)
        assert [type(error) for error in found] == [KeyboardInterrupt] * 3
        assert {(str(error), error.exit_code, error.shared) for error in found} == {
            ("stopped without saving", AGAIN, True)
        }
    found = together(int, with_a_save)
    assert [(type(error), error.exit_code) for error in found] == [(Interrupted, AGAIN)] * 2


def test_a_process_alone_is_a_pod():
    assert ALONE.each(lambda: 3) == [3] and ALONE.lead(json.dumps, {}) == "{}"
    assert ALONE.gather((1, 2), "here") == [(1, 2)] and list(ALONE.share(3)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("start", "environment", "found"),
    [
        ("auto", {}, False),
        ("auto", {"SLURM_NTASKS": "2"}, False),  # of a job that runs one command
        ("auto", {"SLURM_STEP_NUM_TASKS": "1"}, False),
        ("auto", {"SLURM_STEP_NUM_TASKS": "2"}, True),
        ("auto", {"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ("auto", {"TPU_WORKER_HOSTNAMES": "WARNING: not found, set it"}, False),
        ("none", {"SLURM_STEP_NUM_TASKS": "2"}, False),
        ("none", {"PRUNER_POD": "pod"}, True),
        ("pod", {"PRUNER_POD": "none"}, False),
    ],
)
def test_when_others_are_looked_for(start, environment, found):
    assert wanted(PodOptions(start=start), environment) is found


def test_a_notice_of_maintenance_stops_a_run(monkeypatch):
    """A stand-in of the metadata server, which answers a question when something has changed, or
    when it has waited for long. That there will be maintenance was said before the run began."""
    coming = threading.Event()

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["Metadata-Flavor"] == "Google"
            if "wait_for_change" in self.path:
                coming.wait(0.1)
                assert "last_etag=1" in self.path
            if "maintenance-event" in self.path:
                said = b"TERMINATE_ON_HOST_MAINTENANCE"
            else:
                said = b"TRUE" if coming.is_set() else b"FALSE"
            self.send_response(200)
            self.send_header("ETag", "1")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(Interrupted) as stopped, Interrupts() as interrupts:
            time.sleep(0.5)
            interrupts.check()  # nothing is new
            coming.set()
            until = time.monotonic() + 20
            while time.monotonic() < until:
                interrupts.check()
                time.sleep(0.02)
        assert stopped.value.exit_code == 75
    finally:
        server.shutdown()
    assert Notices()._server == f"127.0.0.1:{server.server_port}"
