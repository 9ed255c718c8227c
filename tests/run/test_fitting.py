"""The search for the largest that fits."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pruner_jax.mesh import make_mesh
from pruner_jax.pod import chips
from pruner_jax.pod.compiled import Compiled, compile_program
from pruner_jax.pod.programs import Program
from pruner_jax.run.finding import Finding
from pruner_jax.run.fitting import TRIES, Answer, Wanted, _most, largest

GIB = 1 << 30


def tried(total):
    seen = []

    def note(n):
        seen.append(n)
        return total(n)

    return note, seen


def test_along_a_line_a_few_tries_find_it():
    total, seen = tried(lambda n: 100 + 7 * n)
    assert largest(total, 1000, 4096) == (128, 129)  # 7 * 128 = 896
    assert len(seen) <= TRIES
    total, seen = tried(lambda n: 100 + 7 * n)
    assert largest(total, 1000, 4096, {1: 107, 2: 114}) == (128, 129)
    assert seen == [128, 129]


def test_what_the_compiler_refuses_does_not_fit_and_has_no_size():
    total, seen = tried(lambda n: 100 * n if n < 13 else None)
    assert largest(total, 5000, 64) == (8, 14)
    assert seen == [1, 2, 50, 26, 14, 8]  # where the line leads, and halves of what is left
    total, seen = tried(lambda n: 100 * n if n < 13 else None)
    assert largest(total, 1250, 64, {0: 0, 3: 300}) == (12, 13)
    assert seen == [12, 13]


@pytest.mark.parametrize(
    ("held", "slope", "most", "known", "truth"),
    [(6.9, 2.6, 512, 3, 3), (2.4, 1.9, 128, 3, 7), (5.1, 1.0, 128, 3, 10), (9.0, 1.5, 32, 3, 4)],
)
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("less", [0, 2])
def test_one_known_size_and_refusals_above_leave_nothing_between(
    held, slope, most, known, truth, told, less
):
    """Of 16 GiB chips: what lies there without rows, as far as it is counted (``less`` is not), and
    one size; the compiler says of what it refuses how large it is (``told``), or does not."""
    room = 15.75

    def line(n):
        size = held + slope * n
        return size if told or size <= room else None

    total, seen = tried(line)
    found = largest(total, room, most, {0: held - less, known: line(known)})
    assert found == (truth, truth + 1) and len(seen) < TRIES


def test_a_first_size_that_is_too_much():
    total, seen = tried(lambda n: 6.8 + 0.3 * n)
    assert largest(total, 15.75, 64, {0: 6.8, 40: 18.8}) == (29, 30)
    assert seen == [29, 30]
    total, seen = tried(lambda n: 6.8 + 0.3 * n if n < 30 else None)
    assert largest(total, 15.75, 64, {0: 6.8, 40: None}) == (29, 30)
    assert len(seen) < TRIES


def test_sizes_far_off_the_line_lead_nowhere():
    total, seen = tried(lambda n: 6 + 0.1 * n + 5 * max(0, n - 40))
    assert largest(total, 9.05, 64, {0: 6, 50: 61, 60: 112}) == (30, 31)
    assert len(seen) < TRIES


def test_what_is_not_there_at_all_is_not_compiled():
    total, seen = tried(lambda n: 20 + n)
    assert largest(total, 16, 64, {0: 20, 3: 23}) == (0, 1) and not seen


class Log:
    def __init__(self):
        self.lines = []

    def log(self, line):
        self.lines.append(line)


def wanted(refusal, most=64):
    """Settings in units of 8; each takes 0.5 GiB of a program beside 10 GiB that it does not see,
    and from 10 on the compiler refuses."""

    def find(n):
        used = 0.5 * n
        told = refusal.format(used) if n >= 10 else None
        program = Compiled(1.0, told, arguments=0 if told else int(used * GIB))
        return [Finding({"held": 10 * GIB}, 10 * GIB, {}, {"decode": program})]

    return Wanted("sample.rows", 8, most, find, {0: 10 * GIB})


def test_the_size_of_what_is_refused_is_read_and_each_try_is_told():
    log = Log()
    said = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used {:.2f}G of 5.10G hbm."
    assert wanted(said).answer(15 * GIB, log) == Answer(72, 80, 0)
    assert log.lines == [
        "search: trying sample.rows 8",
        "search: sample.rows 8 takes 10.5 GiB: fits",
        "search: trying sample.rows 80",
        "search: sample.rows 80 takes 15.0 GiB: does not fit",  # to the byte it would
        "search: trying sample.rows 72",
        "search: sample.rows 72 takes 14.5 GiB: fits",
        "search: sample.rows 72 fits, 80 does not",
    ]


def test_a_refused_size_is_read_with_what_lies_beside():
    said = (
        "the total memory required for HLO temporaries ({{:.2f}}{}) exceeds available HBM (5.00G)"
    )
    assert _most(wanted(said.format("G")).find(40), 15 * GIB) == 30 * GIB
    assert _most(wanted(said.format("M")).find(40), 15 * GIB) == 15 * GIB + 1
    assert _most(wanted("no word of {:.2f}G").find(40), 15 * GIB) is None


def test_the_compiler_says_it_like_this():
    pytest.importorskip("libtpu", reason="compiling for TPUs needs libtpu")
    place = NamedSharding(make_mesh(1, 4, 1, chips.devices("v5e:2x2")), PartitionSpec())
    numbers = jax.ShapeDtypeStruct((20 << 18, 1024), jnp.float32, sharding=place)  # 20 GiB
    program = Program(lambda: jax.jit(lambda x: (2 * x).sum(0)).lower(numbers), {"x": numbers})
    finding = Finding({}, GIB, {}, {"update": compile_program(program)})
    assert finding.refusal
    assert 21.0 * GIB <= _most([finding], chips.find("v5e:2x2").memory) < 21.1 * GIB


def test_where_the_tries_do_not_reach_it_says_so():
    log = Log()
    answer = wanted("RESOURCE_EXHAUSTED: {:.0f}", 4096).answer(2000 * GIB, log)
    assert (answer.fits, answer.untried > 0) == (8, True)
    assert answer.untried == (answer.too_many - answer.fits) // 8 - 1
    assert "takes more than the compiler could say: does not fit" in log.lines[3]
    assert log.lines[-1].endswith(f"does not; not narrowed further after {TRIES} tries")


def test_the_ends():
    assert largest(lambda n: 10, 9, 4) == (0, 1)
    assert largest(lambda n: 10 * n, 40, 4) == (4, 5)
    assert largest(lambda n: 10 * n, 40, 4, {2: 20, 4: 40}) == (4, 5)
    assert largest(lambda n: None, 40, 4, {2: None}) == (0, 1)
