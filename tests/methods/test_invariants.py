"""The invariants of the algebra on every method that they apply to, told by its slots alone.

A new file in methods/ is tested here without being named; `test_each_invariant_reaches` names the
methods that each predicate must find, so that none of them runs on nothing. Rows have up to 60
tokens, and constants of a method in the thousands of tokens are brought down to them.
"""

import dataclasses
import itertools

import numpy as np
import pytest
from handmade import Row, graded, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from test_properties import PHASES as PUBLISHED
from test_properties import context, looks_across_groups

from pruner_jax.learn.rows import count, rows_of, share
from pruner_jax.objective import memory, schedules, slots, statistics
from pruner_jax.objective.advantage import Clip, Decoupled, Fused, Guard, Norm, Whiten
from pruner_jax.objective.context import Context, Scene
from pruner_jax.objective.groups import Groups
from pruner_jax.objective.kernels import (
    Clipped,
    Cosine,
    Distance,
    Hyperbolic,
    One,
    Sigmoid,
    Step,
    Triangle,
)
from pruner_jax.objective.length import Length, length_channel
from pruner_jax.objective.selection import AtLeast, DropFlat, TopK
from pruner_jax.objective.shape import Cut
from pruner_jax.objective.statistics import Budget
from pruner_jax.objective.task import Outcome
from pruner_jax.objective.weigh import weigh

SOME = settings(max_examples=20, deadline=None)
BOUNDED = (One, Clipped, Sigmoid, Step, Cosine, Triangle, Hyperbolic)
PEAKED = (Distance, Triangle)


def shrunk(phase):
    """The numbers of this step in place of schedules, and small enough for short rows."""

    def smaller(path, slot):
        large = {
            name: getattr(slot, name) / 100
            for name in ("target", "scale", "plus")
            if isinstance(getattr(slot, name, None), int | float) and getattr(slot, name) > 100
        }
        return dataclasses.replace(slot, **large) if large else slot

    return slots.transform(schedules.at(phase, Context(limit=40), {}), smaller)


PHASES = [pytest.param(shrunk(p.values[0]), id=p.id) for p in PUBLISHED]
PAST = graded(  # earlier rows of the problems a, b and c, which are the monitor set as well
    [Row(12, True), Row(30, True)],
    [Row(10, True), Row(40)],
    [Row(20, True), Row(8), Row(45), Row(50, finished=False)],
)


def those(applies):
    return [p for p in PHASES if applies(p.values[0])]


def past(phase):
    groups = Groups.of(PAST)
    return memory.observe(statistics.after({}, phase, groups), groups)


def weighed(phase, rows, limit=40):
    return weigh(phase, rows, past(phase), context(rows, limit))[0]


def advantage(phase, rows, **more):
    return weights(weighed(phase, rows, **more))


def channel(phase, rows):
    """The length channel of the only group, beside correctness."""
    scene = Scene.of(rows, context(rows), past(phase))
    scene = scene.replace(task_PG=Outcome()(scene))
    return length_channel(phase.length, scene)[0]


def times(phase, factor):
    """The phase with all its length terms so much stronger."""
    terms = (dataclasses.replace(term, weight=term.weight * factor) for term in phase.length)
    return dataclasses.replace(phase, length=tuple(terms))


def exact(phase):
    """The phase without the epsilons of its norms."""

    def change(path, slot):
        return dataclasses.replace(slot, epsilon=0.0) if isinstance(slot, Norm) else slot

    return slots.transform(phase, change)


def bare(phase, **changes):
    """The phase with nothing behind its rewards, which become the weights."""
    raw = Fused(norm=Norm(baseline="none", scale="none"))
    cleared = {"select": (), "adjust": (), "finish": (), "advantage": raw}
    return dataclasses.replace(phase, **{**cleared, **changes})


def norms(phase):
    """The norms through which length goes, and those of correctness."""
    made = phase.advantage
    if isinstance(made, Fused):
        return (made.norm,)
    return (made.task, made.length) if isinstance(made, Decoupled) else ()


def compares_within_groups(phase):
    here = ("group", "leave_one_out")
    return bool(norms(phase)) and all(norm.baseline in here for norm in norms(phase))


def linear_in_their_weight(terms):
    """Whether task + length is a straight line in a common factor of these length terms."""
    first = not terms or terms[0].combine != "replace"
    return first and all(term.combine == "add" for term in terms[1:])


def selects_by_reward(phase):
    return any(
        isinstance(step, AtLeast)
        or (isinstance(step, DropFlat) and step.channel == "reward")
        or (isinstance(step, TopK) and step.by == "reward")
        for step in phase.select
    )


# -- the predicates: which slots make an invariant apply -------------------------------------------


def only_the_batch_scale_is_shared(phase):
    return looks_across_groups(phase) and not looks_across_groups(without_batch_scale(phase))


def std_cancels_the_weight(phase):
    """A phase that drops groups without a spread in correctness never sees a solved one (DAPO)."""
    return (
        isinstance(phase.advantage, Fused)
        and compares_within_groups(phase)
        and phase.advantage.norm.scale == "group"
        and linear_in_their_weight(phase.length)
        and bool(phase.length)
        and not any(isinstance(step, DropFlat) for step in phase.select)
    )


def weight_is_a_knob(phase):
    return (
        isinstance(phase.advantage, Fused)
        and phase.advantage.norm.scale == "none"
        and linear_in_their_weight(phase.length)
        and bool(phase.length)
        and not selects_by_reward(phase)
        and not any(isinstance(step, Clip | Whiten | Guard) for step in phase.adjust)
    )


def decoupled(phase):
    return isinstance(phase.advantage, Decoupled)


def bounded_below_a_group_mean(phase):
    """On rows of mode 0; also true where there is no length term at all."""
    return (
        isinstance(phase.advantage, Fused)
        and compares_within_groups(phase)
        and isinstance(phase.task, Outcome)
        and linear_in_their_weight(acting(phase))
        and all(isinstance(term.kernel, BOUNDED) and term.times == 1 for term in acting(phase))
    )


def reaches_its_bounds(phase):
    """A z-score cannot: a row's distance from the mean is bounded by the size of its group."""
    deviations = [s for _, s in slots.walk(phase.length) if getattr(s, "reduce", "") == "std"]
    acts = bounded_below_a_group_mean(phase) and bool(acting(phase))
    return acts and not deviations


def falls_with_length(phase):
    """A peaked kernel falls from its peak on, which the tests can move where it is a budget."""
    return bool(phase.length) and all(
        not isinstance(term.kernel, PEAKED) or isinstance(term.target, Budget)
        for term in phase.length
    )


def length_leaves_correctness_alone(phase):
    """At equal lengths: it moves right and wrong rows alike, or compares right ones only."""
    if isinstance(phase.advantage, Decoupled):
        return compares_within_groups(phase) and phase.advantage.length.over == "correct"
    alike = all(t.gate.correct == t.gate.wrong and t.combine == "add" for t in phase.length)
    return bool(phase.length) and compares_within_groups(phase) and alike


def cuts(phase):
    return any(isinstance(step, Cut) for step in phase.shape)


def adds_up_tokens(phase):
    return phase.loss.kind != "pairs"


def prefers(phase):
    return phase.loss.kind == "pairs"


PLAIN = {"dler", "dot", "dr_grpo", "elastic", "gfpo", "grpo", "thinkprune"}
ENDS = {"dapo", "hapo", "kimi_k15", "l1_max", "laser_d"}
STD = {"alp", "hapo", "hawkeye", "l1_exact", "l1_max", "laser_d"}
COMPARING = {*PLAIN, *ENDS, *STD, "ddca", "gdpo", "harmonic", "tlmre"}
REACH = {
    only_the_batch_scale_is_shared: {"dler", "gdpo", "harmonic", "o1_pruner"},
    std_cancels_the_weight: STD,
    weight_is_a_knob: {"adaptthink", "kimi_k15", "tlmre"},
    decoupled: {"ddca", "gdpo", "harmonic", "o1_pruner"},
    bounded_below_a_group_mean: {*PLAIN, *ENDS, "tlmre"},
    reaches_its_bounds: ENDS,
    falls_with_length: {
        *(*ENDS, *STD, "adaptthink", "ddca", "dpo_shortest", "gdpo", "harmonic", "o1_pruner"),
        *("rational_metareasoning", "tlmre"),
    },
    compares_within_groups: COMPARING,
    length_leaves_correctness_alone: {"alp", "dapo", "ddca", "harmonic", "hawkeye", "l1_exact"},
    cuts: {"dler", "dot", "elastic", "harmonic", "thinkprune"},
    adds_up_tokens: {*COMPARING, "adaptthink", "o1_pruner", "sft_shortest", "star", "pad"},
    prefers: {"dpo_shortest"},
}


@pytest.mark.parametrize("applies", REACH, ids=lambda applies: applies.__name__)
def test_each_invariant_reaches(applies):
    found = {p.id.rsplit("-", 1)[0] for p in those(applies)}
    assert found >= REACH[applies]


@pytest.mark.parametrize("phase", those(lambda phase: phase.length))
def test_rows_as_short_as_these_feel_every_length_term(phase):
    rows = [Row(2, True, budget=1, mode=1), Row(60, True, budget=1), Row(60, True, budget=50)]
    for term in phase.length:
        one = dataclasses.replace(phase, length=(term,))
        found = [channel(one, graded([*rows, *[Row(2)] * wrong]))[:3] for wrong in (0, 3, 9)]
        assert max(map(np.ptp, found)) > 0


# -- 1: groups -------------------------------------------------------------------------------------


def without_batch_scale(phase):
    def change(path, slot):
        if isinstance(slot, Norm) and slot.scale in ("batch", "varying"):
            return dataclasses.replace(slot, scale="none")
        return slot

    kept = (s for s in phase.adjust if not (isinstance(s, Whiten) and s.over == "batch"))
    return slots.transform(dataclasses.replace(phase, adjust=tuple(kept)), change)


drawn = st.builds(Row, length=st.integers(1, 60), correct=st.booleans(), finished=st.booleans())
group = st.lists(drawn, min_size=1, max_size=6)


@pytest.mark.parametrize("phase", those(only_the_batch_scale_is_shared))
@SOME
@given(group, group)
def test_neighbours_share_the_scale_of_the_batch_and_nothing_else(phase, one, other):
    phase = without_batch_scale(phase)
    alone = advantage(phase, graded(one))
    together = advantage(phase, graded(one, other))
    np.testing.assert_array_equal(together[: len(alone)], alone)


# -- 2: what the weight of length does -------------------------------------------------------------

# Two rows that every length term tells apart, and others; of even lengths, so that the expander of
# the tests is right as well.
APART = [Row(2, True, budget=1, mode=1), Row(60, True, budget=1)]
solved = st.lists(
    st.builds(
        Row,
        length=st.integers(1, 30).map(lambda n: 2 * n),
        correct=st.just(True),
        mode=st.integers(0, 1),
        budget=st.integers(1, 60),
    ),
    max_size=5,
).map(lambda rows: APART + rows)
factors = st.floats(0.1, 10)


@pytest.mark.parametrize("phase", those(std_cancels_the_weight))
@SOME
@given(solved, factors)
def test_the_std_of_a_solved_group_cancels_the_weight_of_length(phase, rows, factor):
    rows = graded(rows)
    one = advantage(exact(phase), rows)
    assert np.abs(one).max() > 0.5
    stronger = advantage(exact(times(phase, factor)), rows)
    np.testing.assert_allclose(stronger, one, rtol=1e-4, atol=1e-5)


def assert_straight(at, factor):
    """``at``: advantages by a strength, those of `APART` first."""
    zero, one = at(0.0), at(1.0)
    np.testing.assert_allclose(at(factor), zero + factor * (one - zero), rtol=1e-5, atol=1e-5)
    assert np.ptp((one - zero)[:2]) > 1e-3


@pytest.mark.parametrize("phase", those(weight_is_a_knob))
@SOME
@given(solved, group, factors)
def test_without_std_the_advantage_is_a_straight_line_in_the_weight(phase, right, mixed, factor):
    rows = graded(right, mixed)
    assert_straight(lambda weight: advantage(times(phase, weight), rows), factor)


@pytest.mark.parametrize("phase", those(decoupled))
@SOME
@given(solved, group, factors)
def test_decoupled_is_a_straight_line_in_beta(phase, right, mixed, factor):
    """Up to the steps that follow: a clip bends it, and whitening the batch takes its unit away."""

    def at(beta):
        made = dataclasses.replace(phase.advantage, beta=beta)
        made = dataclasses.replace(phase, advantage=made, adjust=())
        return advantage(made, graded(right, mixed))

    assert_straight(at, factor)


# -- 3: how strong length may be before it pushes correct rows down --------------------------------


def acting(phase, rate=None):
    """Its length terms on rows of mode 0, in a group of that solve rate."""
    return tuple(
        term
        for term in phase.length
        if (term.gate.modes is None or 0 in term.gate.modes)
        and (rate is None or term.gate.solve_rate[0] <= rate <= term.gate.solve_rate[1])
    )


def moved(term, value, bounds):
    """What a term adds to a reward of that value, whatever the length."""
    if bounds is None:
        return np.zeros(1)
    phi = np.clip(term.kernel(np.linspace(-100, 100, 2001)), *bounds)
    return term.weight * (value * (phi - 1) if term.combine == "multiply" else phi)


def ends(phase, rate=None):
    """Least and most that length adds to a correct row, the most that it adds to a wrong one, and
    what lies between the two without it."""
    task, terms = phase.task, acting(phase, rate)
    values = (task.wrong, task.unparsed, task.unfinished)
    wrong = max(value for value in values if value is not None)
    right = [moved(term, task.correct, term.gate.correct) for term in terms]
    least, most = sum(x.min() for x in right), sum(x.max() for x in right)
    best_wrong = sum(moved(term, wrong, term.gate.wrong).max() for term in terms)
    return least, most, best_wrong, task.correct - wrong


def share_taken(phase, rate=None):
    """By how much length can tell correct rows apart, in units of the best one's lead on a wrong
    one: the alpha of r = c (1 - alpha f) with f in [0, 1]."""
    least, most, wrong, gap = ends(phase, rate)
    return (most - least) / (gap + most - wrong)


def with_share(phase, alpha, rate=None):
    """The phase with its length terms so strong that this is their share."""
    least, most, wrong, gap = ends(phase, rate)
    left = (most - least) - alpha * (most - wrong)
    return times(phase, alpha * gap / left) if left > 0 else phase


@pytest.mark.parametrize("phase", those(bounded_below_a_group_mean))
@SOME
@given(st.lists(drawn, max_size=8), st.integers(1, 60), st.floats(0, 1))
def test_length_within_the_bound_never_pushes_a_correct_row_down(phase, rows, budget, part):
    """alpha <= 1 / (G - 1) suffices in every mixed group."""
    rows = [Row(1, True), Row(20), *rows]
    rows = graded([dataclasses.replace(row, budget=budget) for row in rows])
    right = weighed(phase, rows).graded.correct_B
    phase = with_share(phase, part / (len(rows) - 1), right.mean())
    assert (advantage(phase, rows)[right] >= -1e-6).all()


@pytest.mark.parametrize("G", [3, 8])
@pytest.mark.parametrize("phase", those(reaches_its_bounds))
def test_and_just_above_it_there_is_one_that_it_does(phase, G):
    short, long = Row(1, True, budget=250), Row(500, True, budget=250)
    rows = graded([Row(1, budget=250), long] + [short] * (G - 2))
    rate = 1 - 1 / G
    at, above = (
        advantage(with_share(phase, x / (G - 1), rate), rows, limit=499)[1] for x in (1, 1.02)
    )
    assert above < 0 and at >= -1e-6


def test_most_published_weights_lie_above_the_bound():
    """In units of it, in a group of which nearly all are correct; HAPO has two rows in a group."""
    found = {
        p.id.rsplit("-", 1)[0]: share_taken(p.values[0], 0.99) * (p.values[0].collect.samples - 1)
        for p in those(bounded_below_a_group_mean)
    }
    assert all(found[name] == 0 for name in PLAIN)
    assert found["tlmre"] == pytest.approx(0.7) and found["hapo"] == pytest.approx(0.85)
    above = {"laser_d": 1.75, "kimi_k15": 7 / 3, "dapo": 7.5, "l1_max": 15}
    assert {name: found[name] for name in above} == pytest.approx(above)


def test_the_bound_is_not_sharp_for_a_z_score():
    """TLMRE, 8 rows: one wrong, one long, the others equally short. The sigmoid is .9062 at
    6 / sqrt(7) and .4066 at -1 / sqrt(7), so alpha may be 1 / (7 * .9062 - 6 * .4066) = .2562."""
    rows = graded([Row(1), Row(500, True)] + [Row(1, True)] * 6)
    (tlmre,) = (p.values[0] for p in PHASES if p.id == "tlmre-prune")
    below, above = (advantage(times(tlmre, 10 * alpha), rows)[1] for alpha in (0.256, 0.257))
    assert above < 0 < below


# -- 4: length itself ------------------------------------------------------------------------------

alike = st.builds(
    lambda mode, rows: [Row(2 * n, c, finished=f, mode=mode, budget=1) for n, c, f in rows],
    st.integers(0, 1),
    st.lists(
        st.tuples(st.integers(1, 30), st.booleans(), st.sampled_from([True, True, False])),
        min_size=2,
        max_size=8,
    ),
)


def rises_with_length(x, length, among):
    """Whether some value is above that of a shorter row, of those rows."""
    pairs = itertools.permutations(np.flatnonzero(among), 2)
    return any(length[i] < length[j] and x[i] < x[j] - 1e-6 for i, j in pairs)


@pytest.mark.parametrize("phase", those(falls_with_length))
@SOME
@given(alike)
def test_the_length_channel_of_correct_rows_never_rises_with_length(phase, rows):
    rows = graded(rows)
    x = channel(phase, rows)
    assert not rises_with_length(x / max(np.ptp(x), 1e-9), rows.rollouts.length_B, rows.correct_B)


@pytest.mark.parametrize("phase", PHASES)
@SOME
@given(alike)
def test_a_correct_row_never_weighs_more_than_a_shorter_one(phase, rows):
    weighted = weighed(phase, graded(rows))
    after = weighted.graded
    kept = after.correct_B & weighted.keep_B
    assert not rises_with_length(weights(weighted), after.rollouts.length_B, kept)


# O1-Pruner and AdaptThink compare with a reference, so their rows have an advantage even where all
# are equal.
same = {"length": st.integers(1, 60), "budget": st.integers(1, 60), "mode": st.integers(0, 1)}


@pytest.mark.parametrize("phase", those(compares_within_groups))
@SOME
@given(st.builds(Row, correct=st.booleans(), finished=st.booleans(), **same), st.integers(1, 6))
def test_rows_that_are_all_equal_have_no_advantage(phase, row, size):
    np.testing.assert_allclose(advantage(phase, graded([row] * size)), 0, atol=1e-6)


@pytest.mark.parametrize("phase", those(lambda p: compares_within_groups(p) and p.length))
@SOME
@given(st.builds(Row, **same), st.integers(1, 5), st.integers(1, 5))
def test_at_equal_lengths_correctness_alone_decides(phase, row, right, wrong):
    correct = dataclasses.replace(row, correct=True)
    rows = graded([correct] * right + [row] * wrong)
    found = advantage(phase, rows)
    plain = advantage(dataclasses.replace(phase, length=()), rows)
    factor = found @ plain / max(plain @ plain, 1e-9)
    assert factor >= 0
    np.testing.assert_allclose(found, factor * plain, atol=1e-5)
    if length_leaves_correctness_alone(phase):
        np.testing.assert_allclose(found, plain, atol=1e-5)


SUBSETS_MISSING = {
    "correct": [Row(9), Row(50), Row(60, finished=False)],
    "wrong": [Row(9, True), Row(50, True)],
    "finished": [Row(30, finished=False), Row(60, finished=False)],
    "others": [Row(7, True)],
    "spread": [Row(7, True), Row(7, True), Row(7)],
    "rows": [],
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("remembers", [False, True])
def test_an_empty_subset_gives_finite_numbers(phase, remembers):
    one_by_one = [(SUBSETS_MISSING[what], [Row(8, True), Row(9)]) for what in SUBSETS_MISSING]
    for groups in (*one_by_one, tuple(SUBSETS_MISSING.values())):
        rows = graded(*groups)
        state = past(phase) if remembers else {}
        weighted, state, metrics = weigh(phase, rows, state, context(rows))
        assert np.isfinite(weighted.weight_BT).all() and np.isfinite(list(metrics.values())).all()


# -- 5: cuts ---------------------------------------------------------------------------------------

thoughts = st.builds(
    lambda thinking, answer, correct: Row(thinking + answer, correct, thinking=thinking),
    *(st.integers(0, 40), st.integers(1, 20), st.booleans()),
)


@pytest.mark.parametrize("phase", those(cuts))
@SOME
@given(st.lists(thoughts, min_size=1, max_size=6), st.integers(0, 40), st.integers(0, 20))
def test_a_tighter_cut_never_makes_a_row_correct(phase, rows, less, still_less):
    def under(less):
        def change(path, slot):
            if isinstance(slot, Cut):
                return dataclasses.replace(slot, at=(*slot.at, -less))
            return slot

        after = weighed(slots.transform(phase, change), rows).graded
        return after.correct_B, after.rollouts.length_B

    rows = graded(rows)
    (wide, long), (tight, short) = under(float(less)), under(float(less + still_less))
    assert (tight <= wide).all() and (short <= long).all()
    np.testing.assert_array_equal(tight, rows.correct_B & (short == rows.rollouts.length_B))


# No method sums the outcomes at several cuts (REO-RL); its slots are put into every one.
@pytest.mark.parametrize("phase", PHASES)
@settings(max_examples=8, deadline=None)
@given(group, st.sets(st.integers(1, 60), min_size=3, max_size=4).map(sorted))
def test_the_sum_over_cuts_is_the_area_under_accuracy_by_limit(phase, rows, at):
    rows = graded(rows)
    width = np.convolve(np.diff(at), [0.5, 0.5])  # of the trapezoid rule
    terms = tuple(Length(kernel=Step(), target=float(n), weight=w) for n, w in zip(at, width))
    summed = advantage(bare(phase, task=Outcome(correct=0.0), length=terms), rows)
    accuracy = [
        advantage(
            bare(phase, shape=(*phase.shape, Cut(at=(float(n),))), task=Outcome(), length=()), rows
        ).mean()
        for n in at
    ]
    np.testing.assert_allclose(summed.mean(), np.trapezoid(accuracy, at), rtol=1e-5)


# -- 6: means over tokens and over rows ------------------------------------------------------------


def factors_of(phase, weighted, aggregation, **axes):
    """What the loss of every token is multiplied by, and the rows that the learner gets."""
    spec = dataclasses.replace(
        phase.loss, kl=0.0, aggregation=aggregation, **{"constant": None, **axes}
    )
    rows = rows_of(weighted, spec)
    return share(rows, spec) / max(count(rows, spec), 1), rows


equal = st.lists(st.booleans(), min_size=2, max_size=6)


@pytest.mark.parametrize("phase", those(adds_up_tokens))
@SOME
@given(equal, st.integers(1, 60))
def test_at_equal_lengths_all_means_are_the_same(phase, verdicts, length):
    weighted = weighed(phase, graded([Row(length, c) for c in verdicts]))
    by_token, rows = factors_of(phase, weighted, "token")
    by_row, _ = factors_of(phase, weighted, "sequence")
    np.testing.assert_allclose(by_row, by_token, rtol=1e-6)
    if len(rows):
        (tokens,) = set(rows.train_BT.sum(1).tolist())
        by_constant, _ = factors_of(phase, weighted, "constant", constant=tokens)
        np.testing.assert_allclose(by_constant, by_token, rtol=1e-6)


@pytest.mark.parametrize("phase", those(prefers))
@SOME
@given(st.lists(st.integers(1, 60), min_size=2, max_size=6, unique=True), st.integers(1, 60))
def test_at_equal_lengths_means_in_pairs_are_sums_of_another_beta(phase, lengths, length):
    """Pairs are made of rows that differ in length, which are then given the same one."""
    rows = [Row(length, True) for length in lengths]
    weighted = weighed(phase, graded(rows))
    rollouts = graded([dataclasses.replace(row, length=length) for row in rows]).rollouts
    weighted = dataclasses.replace(
        weighted,
        graded=dataclasses.replace(weighted.graded, rollouts=rollouts),
        train_BT=np.isfinite(rollouts.logp_BT),
        ref_logp_BT=rollouts.logp_BT,
    )
    summed, _ = factors_of(phase, weighted, "token")
    mean, _ = factors_of(phase, weighted, "sequence")
    np.testing.assert_allclose(length * mean, summed, rtol=1e-6)
