"""The rows the learner works on, still ragged and on the host (numpy only).

Takes ``Weighted`` rollouts, or (prompt, response, weight) examples for imitation, or rollouts to be
scored. Gives ``Rows``, checked: what is trained has finite weights and the log-probabilities that
its loss needs; and the order of the updates: which rows go into which. Leaves packing to ``pack``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.types import Rollouts, Weighted


@dataclasses.dataclass(frozen=True)
class Rows:
    """B prompts with their responses. ``*_BT`` arrays run over response tokens, right-padded."""

    prompt: tuple[np.ndarray, ...]  # int32, ragged
    response: tuple[np.ndarray, ...]  # int32, ragged
    train_BT: np.ndarray  # bool, which response tokens enter the loss
    weight_BT: np.ndarray  # float32
    old_logp_BT: np.ndarray | None = None  # float32
    ref_logp_BT: np.ndarray | None = None  # float32
    pair_B: np.ndarray | None = None  # int32
    temperature: float = 1.0  # the logits are divided by it
    limit: int = 0  # the most tokens a response could have
    prompt_limit: int = 0  # the same of a prompt; 0: nothing is known but those here

    def __len__(self) -> int:
        return len(self.response)

    def take(self, index: np.ndarray) -> Rows:
        """The rows of an index array, in its order."""
        cut = {
            name: tuple(getattr(self, name)[i] for i in index) for name in ("prompt", "response")
        }
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith(("_B", "_BT")) and value is not None:
                cut[field.name] = value[index]
        return dataclasses.replace(self, **cut)


def rows_of(weighted: Weighted, spec: LossSpec) -> Rows:
    """The rows of a collection that reach the learner (``keep_B``), with what ``spec`` needs.

    Raises:
      ValueError: a kind, shape, weight or log-probability does not fit the loss.
    """
    rollouts = weighted.graded.rollouts
    if weighted.loss != spec.kind:
        raise ValueError(
            f"the rows are weighted for loss {weighted.loss!r} but loss.kind is {spec.kind!r}; "
            "a phase must weigh its rows for the loss it uses"
        )
    kept = np.flatnonzero(weighted.keep_B)
    shape = rollouts.tokens_BT.shape
    inside = np.arange(shape[1]) < rollouts.length_B[:, None]
    rows = Rows(
        prompt=_prompts(rollouts),
        response=tuple(t[:n] for t, n in zip(rollouts.tokens_BT, rollouts.length_B)),
        train_BT=np.broadcast_to(weighted.train_BT, shape) & inside,
        weight_BT=np.broadcast_to(np.asarray(weighted.weight_BT, np.float32), shape),
        old_logp_BT=rollouts.logp_BT if spec.kind == "pg" else None,
        ref_logp_BT=weighted.ref_logp_BT if spec.needs_reference else None,
        pair_B=weighted.pair_B if spec.kind == "pairs" else None,
        temperature=spec.temperature_of(rollouts.temperature),
        limit=rollouts.limit,
    ).take(kept)
    _check(rows, spec, kept)
    return rows


def rows_of_examples(
    examples: Sequence[tuple[np.ndarray, np.ndarray, float]], temperature: float = 1.0
) -> Rows:
    """(prompt tokens, response tokens, weight) examples; every response token is trained."""
    if not examples:
        raise ValueError("there are no examples to learn from")
    prompt, response, weight = zip(*examples)
    length_B = np.array([len(tokens) for tokens in response])
    inside = np.arange(length_B.max()) < length_B[:, None]
    rows = Rows(
        prompt=tuple(np.asarray(tokens, np.int32) for tokens in prompt),
        response=tuple(np.asarray(tokens, np.int32) for tokens in response),
        train_BT=inside,
        weight_BT=np.broadcast_to(np.array(weight, np.float32)[:, None], inside.shape),
        temperature=temperature,
        limit=int(length_B.max()),
    )
    _check(rows, LossSpec(kind="ce"), np.arange(len(rows)))
    return rows


def rows_of_rollouts(rollouts: Rollouts, temperature: float | None = None) -> Rows:
    """Every row and token of a collection, to be scored; the temperature is that of its sampling
    unless given."""
    length_B = rollouts.length_B
    inside = np.arange(rollouts.tokens_BT.shape[1]) < length_B[:, None]
    return Rows(
        prompt=_prompts(rollouts),
        response=tuple(t[:n] for t, n in zip(rollouts.tokens_BT, length_B)),
        train_BT=inside,
        weight_BT=inside.astype(np.float32),
        temperature=rollouts.temperature if temperature is None else temperature,
        limit=rollouts.limit,
    )


def _prompts(rollouts: Rollouts) -> tuple[np.ndarray, ...]:
    """What each row is trained under: its own prompt where it has one, else that of its group."""
    prompts = rollouts.prompts.tokens
    own = rollouts.train_tokens or (None,) * len(rollouts)
    return tuple(prompts[g] if p is None else p for g, p in zip(rollouts.group_B, own))


def _check(rows: Rows, spec: LossSpec, number_B: np.ndarray) -> None:
    """Refuse rows that would poison the update; ``number_B`` is how the caller numbers them."""
    train = rows.train_BT
    _finite("weight", rows.weight_BT, train, number_B, "see the method's objective")
    if not 0 < rows.temperature < np.inf:
        raise ValueError(
            f"the rollouts were sampled at temperature {rows.temperature}, which leaves nothing to "
            "learn from; sample above 0 or set loss.temperature"
        )
    for b, tokens in enumerate(rows.prompt):
        if not len(tokens) and train[b, :1].any():
            raise ValueError(
                f"row {number_B[b]} has no prompt, so its first token has no log-probability; "
                "give it a prompt or do not train that token"
            )
    if spec.kind == "pg":
        _finite("old log-probability", rows.old_logp_BT, train, number_B, "score these rows first")
    if spec.needs_reference:
        if rows.ref_logp_BT is None:
            raise ValueError(
                "the loss compares with a reference policy (loss.kl above 0 or loss.kind 'pairs') "
                "but the rows have no ref_logp_BT; score them under the reference first"
            )
        _finite("reference log-probability", rows.ref_logp_BT, train, number_B, "score these rows")
    if spec.kind == "pairs":
        _check_pairs(rows, number_B)


def _finite(
    what: str, x_BT: np.ndarray, train_BT: np.ndarray, number_B: np.ndarray, advice: str
) -> None:
    bad = np.argwhere(train_BT & ~np.isfinite(x_BT))
    if len(bad):
        b, t = bad[0]
        raise ValueError(
            f"the {what} of token {t} of row {number_B[b]} is {x_BT[b, t]} (so are {len(bad) - 1} "
            f"more), but the token is to be trained; {advice}"
        )


def _check_pairs(rows: Rows, number_B: np.ndarray) -> None:
    """Each pair is two rows, one weighted +w and one -w."""
    if rows.pair_B is None:
        raise ValueError("loss.kind is 'pairs' but the rows have no pair_B")
    for pair in np.unique(rows.pair_B):
        members = np.flatnonzero(rows.pair_B == pair)
        weights = [np.unique(rows.weight_BT[b][rows.train_BT[b]]) for b in members]
        if (
            pair < 0
            or len(members) != 2
            or any(len(w) != 1 for w in weights)
            or weights[0][0] != -weights[1][0]
            or weights[0][0] == 0
        ):
            raise ValueError(
                f"pair {pair} has rows {number_B[members].tolist()} with weights "
                f"{[w.tolist() for w in weights]}; a pair is two rows, one with weight w > 0 "
                "(preferred) and one with -w; rows of no pair must have keep_B False"
            )


def updates(rows: Rows, spec: LossSpec, seed: int, part: tuple[int, int] = (0, 1)) -> Iterator:
    """The rows of every optimiser update, epoch after epoch, each an ascending index array.

    A pass is cut into equal shares (sizes differ by one row at most) in an order drawn from
    ``seed`` and the number of the pass; the two rows of a pair stay together. ``part`` (i, n): of
    all updates only the i-th of n equal parts.
    """
    units, unit_B = _update_units(rows)
    rows_of_unit = np.split(np.argsort(unit_B, kind="stable"), np.cumsum(np.bincount(unit_B))[:-1])
    each = shares(rows, spec)
    first, last = (each * spec.epochs * place // part[1] for place in (part[0], part[0] + 1))
    for epoch in range(first // each, -(-last // each)):
        order = np.random.default_rng([seed, epoch]).permutation(len(units))
        split = np.array_split(order, each)
        for share in split[max(0, first - epoch * each) : last - epoch * each]:
            yield np.sort(np.concatenate([rows_of_unit[unit] for unit in share]))


def shares(rows: Rows, spec: LossSpec) -> int:
    """Into how many updates a pass over the rows is cut."""
    wanted = spec.minibatches
    if spec.update_rows is not None:
        wanted = -(-len(rows) // spec.update_rows)
    return min(wanted, len(_update_units(rows)[0]))


def _update_units(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """What stays together in an update (rows, or pairs), and to which each row belongs."""
    unit_B = np.arange(len(rows)) if rows.pair_B is None else rows.pair_B
    return np.unique(unit_B, return_inverse=True)


def count(rows: Rows, spec: LossSpec) -> float:
    """What the summed loss of an update is divided by: its tokens, rows, rows * constant, or pairs.

    Rows whose weights are zero count; rows with ``keep_B`` False are not here and do not.
    """
    if spec.kind == "pairs":
        return len(rows) / 2
    if spec.aggregation == "token":
        return float(rows.train_BT.sum())
    if spec.aggregation == "sequence":
        return float(len(rows))
    return float(len(rows) * (spec.constant or rows.limit))


def share(rows: Rows, spec: LossSpec) -> np.ndarray:
    """What each token's loss is multiplied by before summing, float32 [B, T]; 0: not trained."""
    if spec.aggregation != "sequence":
        return rows.train_BT.astype(np.float32)
    return (rows.train_BT / np.maximum(rows.train_BT.sum(1, keepdims=True), 1)).astype(np.float32)


def active(rows: Rows, spec: LossSpec) -> np.ndarray:
    """Which rows contribute to the gradient, bool [B].

    A row whose weights are all zero moves nothing unless KL or entropy act on it, so its forward
    pass is left out; it stays in ``count``.
    """
    if spec.kl or spec.entropy:
        return rows.train_BT.any(1)
    return (rows.train_BT & (rows.weight_BT != 0)).any(1)
