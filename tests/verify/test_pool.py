"""The worker pool: poisoned items cost one verdict each, nothing hangs, nothing is left behind."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from pruner_jax.types import Problem, Verdict
from pruner_jax.verify.options import VerifyOptions
from pruner_jax.verify.pool import Verifier

POISONS = pathlib.Path(__file__).with_name("poisons.py")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="uses /proc or RLIMIT_AS")


def problem(answer="", checker=f"{POISONS}:check", **columns):
    return Problem(f"p{answer}", "q?", answer, checker, columns=columns)


def pool(**changes):
    return Verifier(VerifyOptions(**{"workers": 2, "timeout_s": 3.0, **changes}))


def children():
    """Direct children of this process that exist, zombies included."""
    found = set()
    for thread in pathlib.Path(f"/proc/{os.getpid()}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found.update(map(int, (thread / "children").read_text().split()))
    return found


# -- poisons ---------------------------------------------------------------------------------------

POISONED = {
    "hang in C": (Verdict.TIMEOUT, "took more than 3 s checking, twice"),
    "hang holding the lock": (Verdict.TIMEOUT, "took more than 3 s"),
    "sleep": (Verdict.TIMEOUT, "took more than 3 s"),
    "ignore signals and hang": (Verdict.TIMEOUT, "took more than 3 s"),
    "segfault": (Verdict.ERROR, "died of SIGSEGV, twice"),
    "abort": (Verdict.ERROR, "died of SIGABRT, twice"),
    "leave": (Verdict.ERROR, "exited with code 3, twice"),
    "close everything": (Verdict.ERROR, "twice"),
    "allocate": (Verdict.ERROR, "ran out of memory (see verify.memory_mb), twice"),
    "sys.exit": (Verdict.ERROR, "SystemExit: enough"),
    "raise": (Verdict.ERROR, "KeyError: 'gold'"),
    "interrupt": (Verdict.ERROR, "KeyboardInterrupt"),
    "return None": (Verdict.ERROR, "TypeError: the checker returned None"),
    "return nan": (Verdict.ERROR, "ValueError: the checker returned the score nan"),
    "recurse": (Verdict.ERROR, "RecursionError"),
    "print": (Verdict.CORRECT, ""),
    "thread": (Verdict.CORRECT, ""),
    "child": (Verdict.CORRECT, ""),
}


@LINUX
def test_each_poison_costs_one_verdict():
    """All in one batch of the same workers, with good and wrong neighbours between them."""
    texts = []
    for poison in POISONED:
        texts += ["12", poison, "13"]
    before = children()
    with pool() as verifier:
        tickets = [verifier.submit(problem("12"), text, None) for text in texts]
        outcomes = verifier.collect(tickets)
        assert verifier.stats["retried"] >= 9  # more where the machine was too busy for a neighbour
        assert verifier.stats["killed"] == verifier.stats["retried"] + 9
    for text, outcome in zip(texts, outcomes):
        expected = POISONED.get(text, (Verdict.CORRECT if text == "12" else Verdict.WRONG, ""))
        assert outcome.verdict == expected[0], (text, outcome)
        assert expected[1] in outcome.detail, (text, outcome)
    assert children() <= before


@LINUX
def test_out_of_memory_through_a_neighbour_is_not_the_items_fault():
    """What fits alone gets its verdict, though an earlier item left no room in that worker."""
    with pool(workers=1, memory_mb=700, timeout_s=60) as verifier:
        tickets = [verifier.submit(problem("1"), text, None) for text in ("hoard", "need room")]
        assert [o.verdict for o in verifier.collect(tickets)] == [Verdict.CORRECT, Verdict.CORRECT]
        assert verifier.stats["retried"] == 1


def test_an_endless_comparison_costs_one_verdict():
    """The real thing: sympy would evaluate this until the machine is out of memory."""
    golds, texts = ["5", "5", r"\frac{1}{2}"], ["5", "9^{9^{9^{9}}}", "0.5"]
    with pool(workers=1) as verifier:
        tickets = [verifier.submit(problem(g, "math"), "", t) for g, t in zip(golds, texts)]
        verdicts = [outcome.verdict for outcome in verifier.collect(tickets)]
    assert verdicts[0] == verdicts[2] == Verdict.CORRECT
    assert verdicts[1] in (Verdict.TIMEOUT, Verdict.ERROR)


def test_the_clock_of_an_item_starts_when_a_worker_begins_it():
    """Fourteen items of 0.5 s wait in one queue for seven seconds under a deadline of six."""
    slow = problem("", f"{POISONS}:slow")
    with pool(workers=1, timeout_s=6) as verifier:
        outcomes = verifier.collect([verifier.submit(slow, "", "0.5") for _ in range(14)])
        assert {outcome.verdict for outcome in outcomes} == {Verdict.CORRECT}
        assert verifier.stats["retried"] == 0


# -- order, cache, equal questions -----------------------------------------------------------------


def test_outcomes_come_in_the_order_asked_for():
    slow = problem("", f"{POISONS}:slow")
    with pool(workers=2) as verifier:
        first, second = verifier.submit(slow, "", "0.6"), verifier.submit(problem("b"), "b", None)
        third = verifier.submit(problem("c", "exact"), "", "not c")
        verdicts = [outcome.verdict for outcome in verifier.collect([third, first, second])]
    assert verdicts == [Verdict.WRONG, Verdict.CORRECT, Verdict.CORRECT]


@pytest.mark.parametrize("workers", [1, 3])
def test_outcomes_do_not_depend_on_the_number_of_workers(workers):
    answers = [str(n % 7) for n in range(60)]
    with pool(workers=workers) as verifier:
        tickets = [
            verifier.submit(problem(str(n % 5), "number"), "", a) for n, a in enumerate(answers)
        ]
        outcomes = verifier.collect(tickets)
    expected = [
        Verdict.CORRECT if int(a) == n % 5 else Verdict.WRONG for n, a in enumerate(answers)
    ]
    assert [outcome.verdict for outcome in outcomes] == expected


def test_equal_questions_are_asked_once():
    with pool(workers=1) as verifier:
        for _ in range(2):  # the second time from the cache, the first while still waiting
            tickets = [verifier.submit(problem("3", "exact"), t, "4") for t in "abcd"]
            assert {o.verdict for o in verifier.collect(tickets)} == {Verdict.WRONG}
        assert verifier.stats["cached"] == 7
        for gold, name, answer in [("4", "exact", "4"), ("3", "number", "4"), ("3", "exact", "5")]:
            verifier.collect([verifier.submit(problem(gold, name), "", answer)])
        assert verifier.stats["cached"] == 7
        assert verifier.stats["submitted"] == 11


def test_checkers_that_see_the_whole_response_are_never_cached():
    with pool(workers=1) as verifier:
        whole = problem("3", f"{POISONS}:whole")
        tickets = [verifier.submit(whole, text, "4") for text in ("one", "two", "two")]
        details = [outcome.detail for outcome in verifier.collect(tickets)]
        assert details == ["q?|one|4|{}", "q?|two|4|{}", "q?|two|4|{}"]
        assert verifier.stats["cached"] == 0


def test_the_cache_is_bounded_and_can_be_off():
    for size, hits in ((0, 0), (1, 1), (2, 2)):
        with pool(workers=1, cache=size) as verifier:
            for answer in ("1", "2", "2", "1"):
                verifier.collect([verifier.submit(problem("3", "exact"), "", answer)])
            assert verifier.stats["cached"] == hits


def test_a_timeout_is_not_remembered():
    """A busy machine must not decide over the rest of the run."""
    endless = "def solution():\n    while True: pass"
    with pool(workers=1, settings={"program": {"seconds": 0.1}}) as verifier:
        for _ in range(2):
            ticket = verifier.submit(problem("5", "program"), "", endless)
            assert verifier.collect([ticket])[0].verdict == Verdict.TIMEOUT
        assert verifier.stats["cached"] == 0


# -- checkers of users -----------------------------------------------------------------------------


def test_settings_reach_the_checker_and_scores_come_back():
    spec = f"{POISONS}:whole"
    with pool(workers=1, settings={spec: {"bonus": 0.25}}, correct_from=0.7) as verifier:
        outcome = verifier.collect([verifier.submit(problem("3", spec, level=2), "t", None)])[0]
    assert outcome == (Verdict.CORRECT, 0.75, "q?|t|None|{'level': 2}")


def test_the_option_replaces_every_checker():
    with pool(workers=1, checker="exact") as verifier:
        ticket = verifier.submit(problem("0.5", "math"), "", r"\frac12")
        assert verifier.collect([ticket])[0].verdict == Verdict.WRONG


def test_prepare_loads_checkers_before_anything_is_sampled():
    with pool(workers=1) as verifier:
        verifier.prepare([problem("1"), problem("2"), problem("3", "exact")])
        assert verifier.stats["submitted"] == 0


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import nosuchmodule\ndef check(problem, text, answer): return True", "nosuchmodule"),
        ("def other(problem, text, answer): return True", "no function 'check'"),
        ("def check(:", "SyntaxError"),
        ("raise SystemExit('no')", "SystemExit: no"),
        ("import os\nos._exit(5)", "its worker exited with code 5"),
    ],
)
def test_a_checker_that_cannot_be_loaded_stops_everything(tmp_path, code, complaint):
    path = tmp_path / "broken.py"
    path.write_text(code + "\n")
    with pool() as verifier:
        with pytest.raises(ValueError, match="cannot be loaded: ") as error:
            verifier.prepare([problem("1", f"{path}:check")])
        assert complaint in str(error.value)
        with pytest.raises(ValueError, match="cannot be loaded"):
            verifier.submit(problem("1"), "1", None)


def test_a_file_may_import_its_neighbours(tmp_path):
    (tmp_path / "neighbour.py").write_text("GOOD = True\n")
    (tmp_path / "mine.py").write_text(
        "import neighbour\ndef check(problem, text, answer): return neighbour.GOOD\n"
    )
    with pool(workers=1) as verifier:
        ticket = verifier.submit(problem("1", f"{tmp_path}/mine.py:check"), "", None)
        assert verifier.collect([ticket])[0].verdict == Verdict.CORRECT


def test_workers_know_neither_jax_nor_an_accelerator():
    names = "jax jaxlib flax torch transformers tensorflow sympy math_verify"
    with pool(workers=1) as verifier:
        ticket = verifier.submit(problem("1", f"{POISONS}:modules"), names, None)
        assert verifier.collect([ticket])[0].detail == "[] cpu 1"
        verifier.collect([verifier.submit(problem("1", "math"), "", "x+1")])
        ticket = verifier.submit(problem("1", f"{POISONS}:modules"), names, None)
        assert verifier.collect([ticket])[0].detail == "['sympy', 'math_verify'] cpu 1"


def test_wrong_use_is_an_error():
    with pool(workers=1) as verifier:
        ticket = verifier.submit(problem("1", "exact"), "", "1")
        verifier.collect([ticket])
        for nonsense in (ticket, ticket + 1, -1):
            with pytest.raises(ValueError, match="never given out or collected before"):
                verifier.collect([nonsense])
        with pytest.raises(ValueError, match="picklable"):
            verifier.submit(problem("1", f"{POISONS}:check", f=lambda: 0), "", "1")
    verifier.close()
    with pytest.raises(RuntimeError, match="closed"):
        verifier.submit(problem("1"), "", "1")
    with pytest.raises(ValueError, match="'maths' is not known"):
        Verifier(VerifyOptions(checker="maths"))
    with pytest.raises(ValueError, match="'maths' is not known"):
        Verifier(VerifyOptions(settings={"maths": {}}))


# -- nothing is left behind ------------------------------------------------------------------------


def run_script(tmp_path, code, **options):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    return subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, **options
    )


def alive(pid):
    """Whether a process still runs (a zombie that nobody has reaped does not)."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids, within=5.0):
    end = time.monotonic() + within
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


BUSY = f"""
    import os, pathlib, signal, time
    from pruner_jax.types import Problem
    from pruner_jax.verify.options import VerifyOptions
    from pruner_jax.verify.pool import Verifier

    signal.signal(signal.SIGINT, signal.default_int_handler)  # background shells ignore it
    print("top level")
    verifier = Verifier(VerifyOptions(workers=2, timeout_s=60))
    code = "def solution():\\n    return 1"
    print(verifier.collect([verifier.submit(Problem("p", "", "1", "program"), "", code)])[0][0])
    hanging = Problem("p", "", "1", "{POISONS}:check")
    tickets = [verifier.submit(hanging, "hang in C", None) for _ in range(2)]
    while any(w.phase.value != "checking" for w in verifier._supervisor._workers) or len(
        verifier._supervisor._workers
    ) < 2:
        time.sleep(0.05)
    print(*(w.process.pid for w in verifier._supervisor._workers), flush=True)
"""


def test_a_script_without_main_guard_just_works(tmp_path):
    """It must run once, not once per worker."""
    process = run_script(
        tmp_path,
        """
        from pruner_jax.types import Problem
        from pruner_jax.verify.options import VerifyOptions
        from pruner_jax.verify.pool import Verifier

        print("top level")
        with Verifier(VerifyOptions(workers=2)) as verifier:
            tickets = [verifier.submit(Problem("p", "", "1"), "", str(n)) for n in range(3)]
            print([outcome.verdict.name for outcome in verifier.collect(tickets)])
        """,
    )
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == "top level\n['WRONG', 'CORRECT', 'WRONG']\n"


def test_a_script_may_forget_to_close(tmp_path):
    process = run_script(tmp_path, BUSY)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    lines = out.splitlines()
    assert lines[:2] == ["top level", "0"]
    assert gone([int(pid) for pid in lines[2].split()])


@LINUX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_workers_die_with_their_parent(tmp_path, number):
    """Even those that hang in C while the parent has no time to say goodbye."""
    process = run_script(tmp_path, BUSY + "    verifier.collect(tickets)\n", stderr=-3)
    lines = [process.stdout.readline() for _ in range(3)]
    pids = [int(pid) for pid in lines[2].split()]
    assert len(pids) == 2 and all(alive(pid) for pid in pids)
    process.send_signal(number)
    process.wait(timeout=90)
    assert process.returncode != 0
    assert gone(pids)
    process.stdout.close()


@LINUX
def test_closing_takes_the_workers_and_what_they_started_along():
    before = children()
    verifier = pool(timeout_s=60)
    code = "def solution():\n    return 1"
    verifier.collect([verifier.submit(problem("1", "program"), "", code)])
    verifier.submit(problem("1"), "sleep", None)
    time.sleep(0.5)
    ours = children() - before
    theirs = {
        int(pid)
        for child in ours
        for pid in pathlib.Path(f"/proc/{child}/task/{child}/children").read_text().split()
    }
    assert ours and theirs  # the sandbox is a process of its own
    start = time.monotonic()
    verifier.close()
    assert time.monotonic() - start < 3
    assert children() <= before
    assert gone(theirs)


def test_a_program_is_stopped_by_its_sandbox_before_its_worker_is():
    """Or each that runs without end would cost a worker, twice."""
    says = r"timeout_s is 2, but a program may run for 1 .*a timeout_s of 2\.5 or more"
    for named in ({"checker": "program"}, {"settings": {"program": {"memory_mb": 32}}}):
        with pytest.raises(ValueError, match=says):
            VerifyOptions(timeout_s=2.0, **named)
    with pytest.raises(ValueError, match=r"may run for 3 .*of 6\.5 or more"):
        VerifyOptions(settings={"program": {"seconds": 3}})
    VerifyOptions(timeout_s=6.5, settings={"program": {"seconds": 3}})
    with pool(timeout_s=2.0) as verifier, pytest.raises(ValueError, match=says):
        verifier.prepare([problem("1", "program")])
    with pool(timeout_s=2.0) as verifier:
        verifier.prepare([problem("1", "exact")])
