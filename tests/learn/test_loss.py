"""Losses on packed rows, without a model: literal numbers, the unpacked formulas, torch."""

import dataclasses
import functools
import math

import handmade
import jax
import jax.numpy as jnp
import little
import numpy as np
import pytest
from little import SPECS

from pruner_jax.learn import pack
from pruner_jax.learn.loss import k2, k3, loss_of
from pruner_jax.learn.rows import rows_of
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.types import Origin, Weighted


def packed_loss(logp_BT, entropy_BT, rows, spec, sizes):
    """Loss and metrics of rows whose log-probabilities are given, through packing."""
    batch, places = pack.pack(rows, spec, sizes)
    T = rows.train_BT.shape[1]
    origin_MRN = np.zeros(batch.micro.target_RN.shape, int)
    for b, spot in pack.spots(rows, places):
        origin_MRN[spot] = b * T + np.flatnonzero(rows.train_BT[b])
    return _packed_loss(logp_BT, entropy_BT, origin_MRN, batch, spec)


@functools.partial(jax.jit, static_argnames="spec")
def _packed_loss(logp_BT, entropy_BT, origin_MRN, batch, spec):
    """All micro-batches side by side, the empty ones too: they must add nothing."""
    logp_MRN, entropy_MRN = (x.reshape(-1)[origin_MRN] for x in (logp_BT, entropy_BT))
    parts = jax.vmap(functools.partial(loss_of(spec.kind), spec))(
        logp_MRN, entropy_MRN, batch.micro
    )
    means = {name: total.sum() / number.sum() for name, (total, number) in parts.means.items()}
    peaks = {name: values.max() for name, values in parts.peaks.items()}
    return parts.loss.sum() / batch.count, means | peaks


@pytest.mark.parametrize("name", SPECS)
def test_packed_is_the_formula(name):
    spec = SPECS[name]
    rows = little.rows_for(spec, 10)
    draw = np.random.default_rng(1)
    logp = jnp.asarray(draw.normal(-3.5, 0.3, rows.train_BT.shape), jnp.float32)
    entropy = jnp.asarray(draw.uniform(0, 3, rows.train_BT.shape), jnp.float32)
    wanted = jax.value_and_grad(little.aggregate, (0, 1))(logp, entropy, little.plain(rows), spec)
    for sizes in (pack.Sizes(tokens=12, rows=2), pack.Sizes(tokens=40, rows=8)):
        run = jax.value_and_grad(packed_loss, (0, 1), has_aux=True)
        (loss, _), slopes = run(logp, entropy, rows, spec, sizes)
        assert float(loss) == pytest.approx(float(wanted[0]), rel=1e-5)
        little.assert_close(slopes, wanted[1])


def one_row(ratios, weights, spec, entropy=0.0, ref=None, limit=10):
    """The loss of a row whose tokens have these ratios and weights; old log-probability -1."""
    n = len(ratios)
    rows = little.Rows(
        prompt=(np.array([1]),),
        response=(np.arange(n),),
        train_BT=np.ones((1, n), bool),
        weight_BT=np.array([weights], np.float32),
        old_logp_BT=np.full((1, n), -1, np.float32),
        ref_logp_BT=None if ref is None else np.array([ref], np.float32),
        limit=limit,
    )
    logp = jnp.asarray([np.log(ratios) - 1], jnp.float32)
    sizes = pack.Sizes(8, 1)
    return packed_loss(logp, jnp.full((1, n), entropy), rows, spec, sizes)


@pytest.mark.parametrize(
    ("ratio", "weight", "loss"),
    [
        (1.0, 2.0, -2.0),
        (1.1, 1.0, -1.1),  # inside the band
        (1.5, 1.0, -1.2),  # gains no more above 1 + 0.2
        (0.5, 1.0, -0.5),  # a loss is not cut
        (0.5, -1.0, 0.8),  # falls no further below 1 - 0.2
        (1.5, -1.0, 1.5),  # and here it is not cut
        (4.0, -1.0, 3.0),  # except by the dual clip of 3
        (4.0, 1.0, -1.2),
    ],
)
def test_clip_by_hand(ratio, weight, loss):
    found, _ = one_row([ratio], [weight], LossSpec(clip_dual=3.0))
    assert float(found) == pytest.approx(loss, rel=1e-6)


def test_clipped_branches_have_no_gradient():
    def slope(ratio, weight, spec):
        def loss(log_ratio):
            rows = dataclasses.replace(little.rows(1, most=1), weight_BT=np.float32([[weight]]))
            rows = dataclasses.replace(rows, old_logp_BT=np.zeros((1, 1), np.float32))
            return packed_loss(log_ratio, jnp.zeros((1, 1)), rows, spec, pack.Sizes(8, 1))[0]

        return float(jax.grad(loss)(jnp.full((1, 1), math.log(ratio)))[0, 0])

    assert slope(1.5, 1.0, LossSpec()) == 0 and slope(0.5, -1.0, LossSpec()) == 0
    assert slope(1.0, 2.0, LossSpec()) == pytest.approx(-2)  # the policy gradient itself
    assert slope(1.5, -1.0, LossSpec()) == pytest.approx(1.5)
    assert slope(1.5, 1.0, LossSpec(clip_high=None)) == pytest.approx(-1.5)
    assert slope(4.0, -1.0, LossSpec(clip_dual=3.0)) == 0
    # A ratio far past float32 is clipped away without a NaN.
    assert slope(1e38, 1.0, LossSpec(ratio="sequence_sum")) == 0


def test_sequence_ratio_is_the_exponential_of_the_mean():
    """Ratios 2 and 1/2 cancel in the row's ratio, and clip in that of the tokens."""
    ratios, weights = [2.0, 0.5, 1.5], [1.0, 1.0, 1.0]
    mean = math.exp((math.log(2) + math.log(0.5) + math.log(1.5)) / 3)
    wide = {"clip_low": 0.9, "clip_high": 9.0}
    found = {
        ratio: one_row(ratios, weights, LossSpec(ratio=ratio, **wide))
        for ratio in ("token", "sequence", "sequence_sum")
    }
    assert float(found["token"][0]) == pytest.approx(-4 / 3, rel=1e-6)
    assert float(found["sequence"][0]) == pytest.approx(-mean, rel=1e-6)
    assert float(found["sequence_sum"][0]) == pytest.approx(-1.5, rel=1e-6)
    assert float(found["sequence"][1]["prune/ratio_mean"]) == pytest.approx(mean, rel=1e-6)


def test_aggregations_by_hand():
    """Two rows of 1 and 3 tokens with losses -1 and -3 per token, on policy."""
    rows = little.rows(2, most=3)
    rows = dataclasses.replace(
        rows,
        response=(np.array([5]), np.array([5, 6, 7])),
        train_BT=np.array([[True, False, False], [True, True, True]]),
        weight_BT=np.array([[1, 0, 0], [3, 3, 3]], np.float32),
        old_logp_BT=np.zeros((2, 3), np.float32),
        limit=6,
    )

    def loss(**axes):
        zeros = jnp.zeros((2, 3))
        return float(packed_loss(zeros, zeros, rows, LossSpec(**axes), pack.Sizes(8, 2))[0])

    assert loss(aggregation="token") == pytest.approx(-(1 + 9) / 4)
    assert loss(aggregation="sequence") == pytest.approx(-(1 + 3) / 2)
    assert loss(aggregation="constant", constant=5) == pytest.approx(-(1 + 9) / (2 * 5))
    assert loss(aggregation="constant") == pytest.approx(-(1 + 9) / (2 * 6))


def test_grpo_of_one_right_answer_in_four():
    """Advantages [1.5, -.5, -.5, -.5]: rows of equal length cancel, a longer right one does not."""
    weight = np.array([[1.5], [-0.5], [-0.5], [-0.5]], np.float32)

    def loss(lengths, aggregation):
        inside = np.arange(4) < np.array(lengths)[:, None]
        rows = dataclasses.replace(
            little.rows(4, most=4),
            response=tuple(np.arange(n) for n in lengths),
            train_BT=inside,
            weight_BT=np.broadcast_to(weight, (4, 4)),
            old_logp_BT=np.zeros((4, 4), np.float32),
        )
        zeros = jnp.zeros((4, 4))
        spec = LossSpec(aggregation=aggregation)
        return float(packed_loss(zeros, zeros, rows, spec, pack.Sizes(16, 2))[0])

    assert loss([2, 2, 2, 2], "token") == pytest.approx(0, abs=1e-6)
    assert loss([4, 2, 2, 2], "token") == pytest.approx(-(1.5 * 4 - 0.5 * 6) / 10)
    assert loss([4, 2, 2, 2], "sequence") == pytest.approx(0, abs=1e-6)


def test_kl_and_entropy_by_hand():
    assert float(k3(jnp.float32(0.1))) == pytest.approx(math.exp(0.1) - 0.1 - 1, rel=1e-4)
    assert float(k3(jnp.float32(0.1))) == pytest.approx(0.00517, abs=1e-5)
    assert float(k2(jnp.float32(0.1))) == pytest.approx(0.005)
    plain, _ = one_row([1.0], [1.0], LossSpec())
    squared = LossSpec(kl=0.5, kl_estimator="k2")
    found, metrics = one_row([1.0], [1.0], squared, ref=[-1 + 0.1])
    assert float(metrics["kl"]) == pytest.approx(0.005, rel=1e-4)
    assert float(found - plain) == pytest.approx(0.5 * 0.005, rel=1e-4)
    spec = LossSpec(kl=0.5, entropy=0.25)
    found, metrics = one_row([1.0], [1.0], spec, entropy=2.0, ref=[-1 + 0.1])
    assert float(metrics["kl"]) == pytest.approx(0.00517, abs=1e-5)
    assert float(found - plain) == pytest.approx(0.5 * 0.00517 - 0.25 * 2, abs=1e-5)


def test_clip_metrics_follow_trl():
    """Low: below the band with a negative advantage; high: above it with a positive one."""
    ratios, weights = [0.5, 0.5, 1.0, 1.5, 1.5], [-1.0, 1.0, 1.0, 1.0, -1.0]
    _, metrics = one_row(ratios, weights, LossSpec())
    assert float(metrics["clip_ratio/low_mean"]) == pytest.approx(1 / 5)
    assert float(metrics["clip_ratio/high_mean"]) == pytest.approx(1 / 5)
    assert float(metrics["clip_ratio/region_mean"]) == pytest.approx(2 / 5)
    gap = np.abs(np.log(ratios))
    name = "sampling/sampling_logp_difference"
    assert float(metrics[f"{name}/mean"]) == pytest.approx(gap.mean(), rel=1e-5)
    assert float(metrics[f"{name}/max"]) == pytest.approx(gap.max(), rel=1e-5)


def test_a_pair_by_hand():
    """Preferred gains .3 + .1 over the reference, rejected .1: margin beta * .3."""
    rows = dataclasses.replace(
        little.rows(2, most=2),
        response=(np.array([5, 6]), np.array([7])),
        train_BT=np.array([[True, True], [True, False]]),
        weight_BT=np.array([[1, 1], [-1, -1]], np.float32),
        ref_logp_BT=np.float32([[-1, -1], [-1, 0]]),
        pair_B=np.array([0, 0]),
    )
    logp = jnp.float32([[-0.7, -0.9], [-0.9, 0]])
    spec = LossSpec(kind="pairs", pair_beta=2.0)
    loss, metrics = packed_loss(logp, jnp.zeros((2, 2)), rows, spec, pack.Sizes(8, 2))
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-0.6)), rel=1e-5)
    assert float(metrics["rewards/margins"]) == pytest.approx(0.6, rel=1e-5)
    assert float(metrics["rewards/accuracies"]) == 1
    mean = dataclasses.replace(spec, aggregation="sequence")
    loss, _ = packed_loss(logp, jnp.zeros((2, 2)), rows, mean, pack.Sizes(8, 2))
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-2 * (0.2 - 0.1))), rel=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["ppo", "gspo", "dpo"])
def test_gradient_is_that_of_torch(name):
    """d loss / d logits, with the loss written in torch as TRL writes it."""
    torch = pytest.importorskip("torch")
    spec = SPECS[name]
    rows = little.rows_for(spec, 6)
    B, T = rows.train_BT.shape
    logits = np.random.default_rng(2).normal(size=(B, T, 32)).astype(np.float32)
    target = np.zeros((B, T), np.int64)
    for b, response in enumerate(rows.response):
        target[b, : len(response)] = response

    def ours(logits):
        logp_all = jax.nn.log_softmax(logits)
        logp = jnp.take_along_axis(logp_all, jnp.asarray(target)[..., None], 2)[..., 0]
        entropy = -(jnp.exp(logp_all) * logp_all).sum(-1)
        return packed_loss(logp, entropy, rows, spec, pack.Sizes(16, 4))[0]

    x = torch.tensor(logits, requires_grad=True)
    train, w, old, ref, members, _ = (torch.tensor(v) for v in little.plain(rows))
    logp_all = torch.log_softmax(x, -1)
    logp = logp_all.gather(2, torch.tensor(target)[..., None])[..., 0]
    mask = train.float()
    if spec.kind == "pairs":
        gain = ((logp - ref) * mask).sum(1)
        margin = spec.pair_beta * (gain[members[:, 0]] - gain[members[:, 1]])
        loss = (-torch.nn.functional.logsigmoid(margin) * w[members[:, 0], 0]).mean()
    else:
        log_ratio = (logp - old) * mask
        if spec.ratio == "sequence":
            log_ratio = (log_ratio.sum(1) / mask.sum(1))[:, None].expand(B, T)
        ratio = log_ratio.exp()
        per_token = -torch.min(ratio * w, ratio.clamp(1 - spec.clip_low, 1 + spec.clip_high) * w)
        if spec.clip_dual:
            per_token = torch.where(w < 0, torch.min(per_token, -w * spec.clip_dual), per_token)
        d = ref - logp
        per_token = per_token + spec.kl * (torch.exp(d) - d - 1)
        per_token = per_token + spec.entropy * (logp_all.exp() * logp_all).sum(-1)
        if spec.aggregation == "token":
            loss = (per_token * mask).sum() / mask.sum()
        else:
            loss = ((per_token * mask).sum(1) / mask.sum(1)).mean()
    loss.backward()
    found, slope = jax.value_and_grad(ours)(jnp.asarray(logits))
    assert float(found) == pytest.approx(loss.item(), rel=1e-5)
    little.assert_close(slope, x.grad.numpy())


def test_the_rows_of_a_collection():
    """The forced token of a rollout is not trained; the sampler's log-probabilities are the old."""
    graded = handmade.graded([handmade.Row(4, correct=True, forced=1), handmade.Row(2)])
    rollouts = graded.rollouts
    weighted = Weighted(
        graded=graded,
        weight_BT=np.float32([[1], [-1]]),
        train_BT=rollouts.origin_BT == Origin.SAMPLED,
        keep_B=np.ones(2, bool),
    )
    rows = rows_of(weighted, LossSpec())
    loss, metrics = packed_loss(
        jnp.full((2, 4), -0.5), jnp.zeros((2, 4)), rows, LossSpec(), pack.Sizes(8, 1)
    )
    assert float(loss) == pytest.approx(-(3 - 2) / 5)
    assert float(metrics["sampling/sampling_logp_difference/max"]) == 0
