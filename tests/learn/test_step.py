"""The compiled update against the same loss without packing, and what it must not do."""

import dataclasses

import jax
import jax.numpy as jnp
import little
import numpy as np
import pytest
from little import CONFIG, PLAIN, SPECS

from pruner_jax.learn import pack, step
from pruner_jax.learn.learn import learn
from pruner_jax.learn.optimizer import learning_rate, make_optimizer
from pruner_jax.learn.options import LearnOptions, OptimizerOptions
from pruner_jax.learn.rows import rows_of_examples
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.policy.weights import unstack

CUT = dict(row_tokens=16, micro_tokens=32, logp_chunk=6, remat="full", unrolled_layers=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ppo", {"row_tokens": 64, "micro_tokens": 10_000}),
        ("ppo", CUT),
        ("ppo", CUT | {"attention": "splash_interpreted"}),
        ("gspo", CUT),
        ("dpo", CUT),
    ],
)
def test_packed_and_cut_is_unpacked_and_whole(name, options):
    """Packing, micro-batches, chunks, remat, scan, kernel: no choice of the machine's is seen."""
    spec, tree = SPECS[name], little.params()
    made = little.rows_for(spec, 12)
    wanted_loss, wanted = little.dense_gradient(tree, made, spec)
    loss, grads = little.learned_gradient(tree, made, spec, **options)
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    little.assert_close(grads, wanted, 3e-5)


def test_rows_of_weight_zero_are_left_out_but_counted():
    spec, tree, made = SPECS["gspo"], little.params(), little.rows(8)
    weight_BT = made.weight_BT.copy()
    weight_BT[[1, 4, 5]] = 0
    made = dataclasses.replace(made, weight_BT=weight_BT)
    after, metrics = little.learn_once(tree, made, spec)
    assert metrics["prune/rows_skipped"] == 3 / 8
    assert metrics["prune/trained_tokens"] == made.train_BT[[0, 2, 3, 6, 7]].sum()
    wanted_loss, wanted = little.dense_gradient(tree, made, spec)
    assert metrics["loss"] == pytest.approx(wanted_loss, rel=1e-5)
    found = jax.tree.map(lambda a, b: a - b, tree, after.params)
    little.assert_close(found, wanted, 3e-5)


def test_rows_without_a_trained_token_move_nothing():
    """A minibatch of them has a count of 0; a collection of them makes no update."""
    train = little.rows(4).train_BT.copy()
    train[1:] = False
    spec = LossSpec(minibatches=2)
    made = little.rows(4, train_BT=train)
    after, metrics = little.learn_once(little.params(), made, spec)
    assert metrics["prune/updates"] == 2 and metrics["prune/rows_skipped"] == 3 / 4
    assert not [name for name, value in metrics.items() if np.isnan(value)]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))
    made = dataclasses.replace(made, train_BT=np.zeros_like(train))
    after, metrics = little.learn_once(little.params(), made, spec)
    assert metrics == {"prune/updates": 0}
    little.assert_close(after.params, little.params(), 1e-12)


def test_weights_of_zero_move_nothing():
    made = little.rows(4, weight_BT=np.zeros((4, 9), np.float32))
    after, metrics = little.learn_once(little.params(), made, LossSpec())
    assert metrics["loss"] == 0 and metrics["prune/rows_skipped"] == 1
    assert not [name for name, value in metrics.items() if np.isnan(value)]
    little.assert_close(after.params, little.params(), 1e-12)


def test_score_is_the_dense_forward():
    tree, made = little.params(), little.rows(9, temperature=0.6)
    wanted, _ = little.dense_logp(tree, made)
    for options in (LearnOptions(), LearnOptions(**CUT)):
        found = step.score(tree, CONFIG, made, options=options, mesh=little.mesh())
        assert (np.isnan(found) == ~made.train_BT).all()
        np.testing.assert_allclose(
            found[made.train_BT], np.asarray(wanted)[made.train_BT], atol=2e-5
        )
    sampler = unstack(tree, jnp.float32)
    again = step.score(sampler, CONFIG, made, options=LearnOptions(**CUT), mesh=little.mesh())
    np.testing.assert_allclose(again, found, atol=1e-5)


def test_metrics_on_policy():
    """Scores of the policy itself as old log-probabilities: ratio 1, no clipping, no difference;
    and the parameters that a state was made from survive its donation."""
    tree, made = little.params(), little.rows(6, temperature=0.9)
    own = step.score(tree, CONFIG, made, options=LearnOptions(), mesh=little.mesh())
    made = dataclasses.replace(made, old_logp_BT=own, ref_logp_BT=own - 0.1)
    _, metrics = little.learn_once(tree, made, LossSpec(kl=0.5), micro_tokens=16)
    assert metrics["prune/ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert metrics["clip_ratio/region_mean"] == 0
    assert metrics["sampling/sampling_logp_difference/mean"] < 1e-5
    assert metrics["sampling/sampling_logp_difference/max"] < 1e-4
    assert metrics["kl"] == pytest.approx(np.exp(-0.1) + 0.1 - 1, rel=1e-3)
    assert metrics["prune/trained_tokens"] == made.train_BT.sum()
    assert metrics["lr"] == 1
    entropy = np.asarray(little.dense_logp(tree, made)[1])[made.train_BT].mean()
    assert metrics["entropy"] == pytest.approx(entropy, rel=1e-4)
    weight = made.weight_BT[made.train_BT].mean()
    assert metrics["loss"] == pytest.approx(-weight + 0.5 * metrics["kl"], rel=1e-3)


def test_the_logits_of_a_batch_never_exist():
    """The temporary memory of an update stays below the logits alone, where chunks are small."""
    config = dataclasses.replace(CONFIG, vocab_size=8192)
    rows, tokens = 16, 64
    made = little.rows(rows, most=tokens - 4)
    spec, mesh = LossSpec(entropy=0.1), little.mesh()
    batch, _ = pack.pack(made, spec, pack.Sizes(tokens, rows))
    places = batch.micro.target_RN[0].size
    assert places >= made.train_BT.sum()

    def temporary(chunk):
        options = LearnOptions(row_tokens=tokens, micro_tokens=rows * tokens, logp_chunk=chunk)
        update = step.make_update(config, spec, options, PLAIN, mesh)
        state = step.init_state(little.params(config=config), config, PLAIN, mesh)
        compiled = update.lower(state, step.to_devices(batch, mesh), 1.0).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = places * config.vocab_size * 4
    assert temporary(places) > logits
    assert temporary(16) < logits / 2


def test_a_batch_of_another_size_needs_no_other_program():
    spec, options = LossSpec(kind="ce"), LearnOptions(row_tokens=16, micro_tokens=32)
    mesh = little.mesh()
    state = step.init_state(little.params(), CONFIG, PLAIN, mesh)
    update = step.make_update(CONFIG, spec, options, PLAIN, mesh)
    for count in (6, 9, 12):
        made = little.rows(count, seed=count, most=12)
        state, _ = learn(
            state, made, update, spec=spec, options=options, mesh=mesh, seed=0, rate=lambda *_: 1.0
        )
    assert update._cache_size() == 1


def test_bfloat16_follows_float32():
    tree, made, spec = little.params(), little.rows(12), LossSpec(kind="ce")
    wanted_loss, wanted = little.dense_gradient(tree, made, spec)
    loss, grads = little.learned_gradient(tree, made, spec, dtype="bfloat16")
    assert loss == pytest.approx(wanted_loss, rel=0.02) and loss != pytest.approx(wanted_loss, 1e-6)
    little.assert_close(grads, wanted, 0.2)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(grads))


def test_a_kernel_for_tpus_needs_tpus():
    options, mesh = LearnOptions(attention="splash"), little.mesh()
    with pytest.raises(ValueError, match=r"attention is 'splash'.* platform 'cpu'; set it to auto"):
        step.make_update(CONFIG, LossSpec(), options, PLAIN, mesh)
    with pytest.raises(ValueError, match="attention is 'splash'"):
        step.score(little.params(), CONFIG, little.rows(2), options=options, mesh=mesh)


def test_memorises_a_sequence():
    examples = [([1, 2, 3], [7, 5, 9, 4, 11, 2], 1.0), ([3, 2, 1], [8, 8, 1, 30], 1.0)]
    rows = rows_of_examples([(np.array(p), np.array(r), w) for p, r, w in examples])
    spec = LossSpec(kind="ce", epochs=60)
    falling = OptimizerOptions(learning_rate=0.02, schedule="cosine")
    optimizer = make_optimizer(falling, CONFIG)
    mesh, options = little.mesh(), LearnOptions()
    state = step.init_state(little.params(), CONFIG, optimizer, mesh)
    update = step.make_update(CONFIG, spec, options, optimizer, mesh)
    seen = []
    state, metrics = learn(
        state, rows, update, spec=spec, options=options, mesh=mesh, seed=0,
        rate=lambda begin, end: learning_rate(falling, begin, end, 1),
        on_update=lambda i, m: seen.append((float(m["loss"]), float(m["lr"]))),
    )  # fmt: skip
    assert len(seen) == metrics["prune/updates"] == 60
    losses, rates = zip(*seen)
    assert losses[0] > 2 and losses[-1] < 0.05
    assert rates[0] == pytest.approx(0.02) and 0 < rates[-1] < 1e-4
    scored = step.score(state.params, CONFIG, rows, options=options, mesh=mesh)
    assert np.exp(np.nanmin(scored)) > 0.8
