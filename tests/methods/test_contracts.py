"""Six methods that ask for what GRPO never needs, each on rollouts weighed by hand.

Likelihoods of answers, a second model, a reference table, programs, forced modes, rows that are cut
or written anew: the contract of the objective has a place for all of it.
"""

import dataclasses

import numpy as np
import pytest
from handmade import END, Row, graded, weights

from pruner_jax import methods
from pruner_jax.objective.advantage import Clip
from pruner_jax.objective.context import Context
from pruner_jax.objective.groups import Groups
from pruner_jax.objective.method import check, needs
from pruner_jax.objective.weigh import weigh
from pruner_jax.types import Origin, Verdict


def ids(text):
    """An encoder for tests: one token a letter."""
    return np.array([ord(letter) for letter in text], np.int32)


# -- Rational Metareasoning ------------------------------------------------------------------------

RAM = methods.load("rational_metareasoning", {"hints": False, "answer": "{answer}"})


def ram_case():
    rows = graded(
        [Row(60, True, thinking=49), Row(20, True, thinking=9), Row(110, thinking=99)],
        [Row(60, True, thinking=49), Row(40, thinking=30), Row(40, thinking=30)],
        [Row(60, thinking=49), Row(40, thinking=30), Row(40, thinking=30)],
    )
    likelihood_B = [0.5, 0.3, 0.01, 0.05] + [0.9, 0.2, 0.2, 0.88] + [0.9, 0.9, 0.9, 0.1]

    def score(policy, wanted, what, template):
        assert (policy, what, template, len(wanted)) == ("current", "answer", "{answer}", 12)
        return np.log(np.array(likelihood_B, np.float32))

    offers = {"score": score, "encode": ids, "decode": str, "end_token": END}
    offers["closing"] = lambda rollouts: [ids("")] * len(rollouts)
    context = Context(limit=512, step=1, **offers)  # the second iteration
    return RAM.phases[0], rows, context


def test_ram_keeps_the_chain_that_pays_most_or_none():
    phase, rows, context = ram_case()
    weighted, _, metrics = weigh(phase, rows, {}, context)
    # a: the rewards are 1.9096, 1.5598, -2.0620 and 0 for the empty chain (the fourth row);
    # b: ln(.9001/.8801) - .1 ln 50 = -.3687 and worse: the empty chain wins; c: nobody is right.
    np.testing.assert_array_equal(np.flatnonzero(weighted.keep_B), [0, 7])
    np.testing.assert_array_equal(weights(weighted)[[0, 7]], [1.0, 1.0])
    assert weighted.loss == "ce"
    every = [1.9096, 1.5598, -2.0620, 0, -0.3687, -1.8246, -1.8246, 0]
    cost = 0.1 * np.log([50, 31, 31])
    every += [*(np.log(0.9001 / 0.1001) - cost), 0]
    assert metrics["reward"] == pytest.approx(np.mean(every), abs=1e-4)


def test_ram_trains_the_thought_with_the_gold_answer():
    phase, rows, context = ram_case()
    weighted, _, _ = weigh(phase, rows, {}, context)
    edited = weighted.graded.rollouts
    answer = [*ids("gold a"), END]
    assert edited.length_B[0] == 49 + len(answer)
    np.testing.assert_array_equal(edited.tokens_BT[0, :49], 100 + np.arange(49))
    np.testing.assert_array_equal(edited.tokens_BT[0, 49:56], answer)
    assert (edited.origin_BT[0, 49:56] == Origin.EDITED).all()
    np.testing.assert_array_equal(edited.tokens_BT[7, :7], [*ids("gold b"), END])
    np.testing.assert_array_equal(weighted.train_BT.sum(1)[[0, 7]], [56, 7])


def test_ram_starts_every_iteration_from_the_start_model_with_all_rows_so_far():
    phase = RAM.phases[0]
    assert phase.reset.parameters == phase.reset.optimiser == "iteration"
    assert phase.collect.keep and phase.collect.policy == "current"
    assert phase.collect.due(0, since=None) and phase.collect.due(1, since=0)


def test_ram_declares_what_it_needs():
    assert set(needs(RAM.phases[0])) == {"answers"}
    with pytest.raises(
        ValueError, match="'rational_metareasoning', phase 'imitate': task needs 'answers'"
    ):
        check(RAM, offers=())
    check(RAM, offers={"answers"})


# -- Hawkeye ---------------------------------------------------------------------------------------

HAWKEYE = methods.load("hawkeye")


def hawkeye_case():
    rows = graded([Row(41, thinking=40), Row(11, True, thinking=10), Row(19, thinking=18)])
    reference = Groups.of(graded([Row(51, thinking=50), Row(71, True, thinking=70)]))
    expanded = graded([Row(5, True), Row(5, False), Row(5, True)])
    context = Context(limit=100, reference=reference, expand=lambda chains, mask_answers: expanded)
    return HAWKEYE.phases[1], rows, context


def test_hawkeye_rewards_what_the_second_model_makes_of_the_chain():
    phase, rows, context = hawkeye_case()
    weighted, _, metrics = weigh(phase, rows, {}, context)
    # The start model thinks 60 tokens, so the target is 18. Rewards: 1 - .01 * 22^2 = -3.84 for the
    # chain of 40; 0 for the one that the expander gets wrong; 1 for the one on target.
    # mean -.94667, unbiased std 2.55510
    assert metrics["reward"] == pytest.approx(-0.94667, abs=1e-5)
    np.testing.assert_allclose(weights(weighted), [-1.13238, 0.37050, 0.76187], atol=2e-5)


def test_hawkeye_needs_the_expander_and_gathers_its_own_table():
    assert set(needs(HAWKEYE.phases[1])) == {"expander", "reference", "group"}
    with pytest.raises(ValueError, match="needs 'expander'"):
        check(HAWKEYE, offers={"answers"})
    with pytest.raises(ValueError, match="needs a reference table"):
        dataclasses.replace(HAWKEYE, phases=HAWKEYE.phases[1:])


# -- O1-Pruner -------------------------------------------------------------------------------------

O1_PRUNER = methods.load("o1_pruner")
O1_WEIGHTS = [  # Lbar/L - 1 + 2 (A - Abar), by hand
    *(2.0, -1.5, 0.0, 1.0),  # Lbar 1000, Abar .5
    *(4.0, -0.2307692, -0.2307692, -0.2307692),  # Lbar 1000, Abar 0; the first is 9, clipped
    *(2.75, 2.75, 2.75, -2.0),  # Lbar 1300, Abar .75; the last is .325 - 1 - 1.5, clipped
]


def o1_case():
    rows = graded(
        [Row(500, True), Row(2000), Row(500), Row(1000, True)],
        [Row(100), Row(1300), Row(1300), Row(1300)],
        [Row(400, True), Row(400, True), Row(400, True), Row(4000)],
    )
    return O1_PRUNER.phases[0], rows, Context(limit=8192, reference=Groups.of(rows))


def test_o1_pruner_weights():
    phase, rows, context = o1_case()
    bare = dataclasses.replace(phase, adjust=(Clip(-2.0, 4.0),))
    weighted, _, metrics = weigh(bare, rows, {}, context)
    np.testing.assert_allclose(weights(weighted), O1_WEIGHTS, atol=1e-6)
    assert metrics["prune/wrong_pushed_up"] == pytest.approx(1 / 7)  # the wrong but short one


def test_o1_pruner_keeps_two_of_each_and_whitens_them_all():
    phase, rows, context = o1_case()
    weighted, _, _ = weigh(phase, rows, {}, context)
    keep_B = weighted.keep_B
    np.testing.assert_array_equal(keep_B.reshape(3, 4).sum(1), [2, 2, 2])
    kept = np.array(O1_WEIGHTS)[keep_B]
    expected = (kept - kept.mean()) / kept.std()
    np.testing.assert_allclose(weights(weighted)[keep_B], expected, atol=1e-6)
    other = weigh(phase, rows, {}, dataclasses.replace(context, seed=1))[0]
    assert (other.keep_B != keep_B).any()


def test_o1_pruner_collects_once_and_uses_the_row_ratio():
    phase = O1_PRUNER.phases[0]
    assert phase.collect.due(0, since=None) and not phase.collect.due(1, since=0)
    assert (phase.loss.ratio, phase.loss.needs_reference) == ("sequence", False)
    assert set(needs(phase)) == {"reference"}


# -- Program-aided distillation --------------------------------------------------------------------

PAD = methods.load(
    "pad", {"refine": "attempts", "template": "{question}|{attempt}|{verdict}|{detail}"}
)


def pad_case():
    rows = graded(
        [
            Row(30, True, text="long"),
            Row(20, True, text="short"),
            Row(25, verdict=Verdict.ERROR, text="broken"),
            Row(25, verdict=Verdict.WRONG, text="off by one"),
        ],
        [Row(30, verdict=Verdict.TIMEOUT), Row(20, verdict=Verdict.UNSUPPORTED)],
    )
    rows = dataclasses.replace(rows, detail=("", "", "NameError: n", "", "", ""))
    return PAD.phases[0], rows, Context(limit=256, prompt=lambda problem, text: ids(text))


def test_pad_trains_on_programs_that_ran_and_on_repairs_of_those_that_did_not():
    phase, rows, context = pad_case()
    weighted, _, metrics = weigh(phase, rows, {}, context)
    assert len(weighted.graded) == 8  # two repairs joined the first group
    np.testing.assert_array_equal(np.flatnonzero(weighted.keep_B), [0, 1, 4, 5])
    np.testing.assert_array_equal(weights(weighted), [1, 1, 0, 0, 1, 1, 0, 0])
    rollouts = weighted.graded.rollouts
    np.testing.assert_array_equal(rollouts.parent_B, [-1, -1, -1, -1, 2, 3, -1, -1])
    np.testing.assert_array_equal(rollouts.length_B[[4, 5]], [20, 20])
    assert rollouts.text[4] == "short"
    prompts = rollouts.train_tokens
    assert [prompt is None for prompt in prompts] == [True] * 4 + [False] * 2 + [True] * 2
    assert "".join(map(chr, prompts[4])) == "question a?|broken|error|NameError: n"
    assert "".join(map(chr, prompts[5])) == "question a?|off by one|wrong|"
    assert metrics["prune/kept"] == pytest.approx(4 / 8)


def test_pad_needs_a_teacher():
    with pytest.raises(ValueError, match=r"collect.policy needs 'teacher'"):
        check(PAD, offers={"answers"})


# -- AdaptThink ------------------------------------------------------------------------------------

ADAPT_THINK = methods.load("adaptthink")


def adapt_think_case():
    phase = ADAPT_THINK.phases[1]
    mode_G = phase.condition.modes_of(["a"], 4, seed=0, step=0)[0]
    rows = [
        Row(50, True, mode=int(mode_G[0])),
        Row(50, False, mode=int(mode_G[1])),
        Row(10, True, mode=int(mode_G[2])),
        Row(10, False, mode=int(mode_G[3])),
    ]
    rows = graded(rows, rows)
    rows.rollouts.logp_BT[:, 0] = np.log(0.5)  # what `Begin` says
    solved, half = [Row(9, True)] * 3 + [Row(9)], [Row(9, True), Row(9)]
    return phase, rows, Context(limit=100, reference=Groups.of(graded(solved, half)))


def test_adapt_think_compares_with_the_start_model():
    phase, rows, context = adapt_think_case()
    np.testing.assert_array_equal(phase.condition.modes_of(["a"], 4, 0, 0), [[0, 0, 1, 1]])
    weighted, _, _ = weigh(phase, rows, {}, context)
    # c - accuracy of the start model (.75, then .5) + .05 for the rows that did not think
    expected = [0.25, -0.75, 0.30, -0.70, 0.5, -0.5, 0.55, -0.45]
    np.testing.assert_allclose(weights(weighted), expected, atol=1e-6)


def test_adapt_think_trains_the_first_token_against_one_half():
    phase, rows, context = adapt_think_case()
    weighted, _, _ = weigh(phase, rows, {}, context)
    np.testing.assert_array_equal(weighted.train_BT.sum(1), [50, 50, 10, 10] * 2)
    np.testing.assert_allclose(np.exp(weighted.graded.rollouts.logp_BT[:, 0]), 0.5)
    assert phase.loss.kl == 0 and phase.loss.ratio == "sequence"


# -- DOT -------------------------------------------------------------------------------------------

DOT = methods.load("dot")


def dot_case():
    usual = [Row(100, True)] * 15
    rows = graded(
        [*usual, Row(1000, True)],  # mean 156.25, std 225: cut at floor(831.25)
        [*usual, Row(260, True)],  # d = 160: the cut would be at 230, 30 tokens below: too few
        [*usual[:-1], Row(100), Row(1000, True)],  # not all correct
    )
    return DOT.phases[0], rows, Context(limit=8192, decode=lambda tokens: f"{len(tokens)} tokens")


def test_dot_cuts_outliers_of_solved_groups_and_then_compares():
    phase, rows, context = dot_case()
    weighted, _, metrics = weigh(phase, rows, {}, context)
    cut = weighted.graded
    np.testing.assert_array_equal(cut.rollouts.length_B[[15, 31, 47]], [831, 260, 1000])
    assert cut.verdict_B[15] == Verdict.UNFINISHED and not cut.rollouts.finished_B[15]
    assert cut.rollouts.text[15] == "831 tokens" and cut.rollouts.text[31] == "text"
    assert not weighted.train_BT[15, 831:].any() and weighted.train_BT[15, :831].all()
    # 15 of 16 correct: (1 - 15/16) / (1/4) = .25 and (0 - 15/16) / (1/4) = -3.75
    expected = [*[0.25] * 15, -3.75, *[0.0] * 16, *[0.25] * 14, -3.75, 0.25]
    np.testing.assert_allclose(weights(weighted), expected, atol=2e-5)
    np.testing.assert_array_equal(weighted.keep_B, [True] * 16 + [False] * 16 + [True] * 16)
    assert metrics["completions/clipped_ratio"] == 0.0  # as sampled, before the cut


# -- no slot falls back to GRPO's ------------------------------------------------------------------

CASES = {
    "ram": ram_case,
    "hawkeye": hawkeye_case,
    "o1_pruner": o1_case,
    "pad": pad_case,
    "adapt_think": adapt_think_case,
    "dot": dot_case,
}
WEIGHED = ("shape", "task", "length", "select", "advantage", "adjust", "finish", "train")


def outcome(phase, rows, context):
    """All that the learner would see."""
    weighted, _, _ = weigh(phase, rows, {}, context)
    rollouts = weighted.graded.rollouts
    arrays = (weighted.weight_BT, weighted.train_BT, weighted.keep_B, rollouts.tokens_BT)
    prompts = [None if p is None else p.tolist() for p in rollouts.train_tokens or ()]
    return [x.tolist() for x in arrays], prompts, weighted.loss


@pytest.mark.parametrize("name", CASES)
def test_every_slot_of_a_contract_does_something(name):
    """With any one slot taken from GRPO instead, the learner gets something else, or an error."""
    phase, rows, context = CASES[name]()
    grpo = methods.load("grpo").phases[0]
    right = outcome(phase, rows, context)
    differing = [s for s in WEIGHED if getattr(phase, s) != getattr(grpo, s)]
    for slot in differing:
        try:
            fallen = dataclasses.replace(phase, **{slot: getattr(grpo, slot)})
            wrong = outcome(fallen, rows, context)
        except (ValueError, AssertionError):
            continue
        assert wrong != right, f"{name}: {slot} fell back to GRPO's and nobody noticed"


def test_the_contracts_use_every_slot_that_weighs():
    grpo = methods.load("grpo").phases[0]
    phases = [case()[0] for case in CASES.values()]
    for slot in WEIGHED:
        assert any(getattr(phase, slot) != getattr(grpo, slot) for phase in phases), slot
