"""How the learner uses weighted rows: the loss slot of a method.

Holds what a *method* decides about the loss: kind, ratio, clipping, aggregation, KL, entropy and
the number of updates. Leaves out what the machine decides (packing, precision) and the optimiser,
which are in ``learn.options``. ``learn.loss`` has the formulas.
"""

from __future__ import annotations

import dataclasses

KINDS = ("pg", "ce", "pairs")
RATIOS = ("token", "sequence", "sequence_sum")
AGGREGATIONS = ("token", "sequence", "constant")
KL_ESTIMATORS = ("k2", "k3")


@dataclasses.dataclass(frozen=True)
class LossSpec:
    """The loss axes of a method. The defaults: one clipped update over the mean of all tokens."""

    kind: str = "pg"
    """What the weights of the rows mean: ``pg`` advantages of a clipped policy gradient, ``ce``
    example weights of a cross-entropy, ``pairs`` preferred (+) and rejected (-) rows of DPO."""

    ratio: str = "token"
    """Importance ratio of ``pg``: ``token`` exp(log-ratio) of each token; ``sequence`` exp(mean
    log-ratio) of the row (GSPO; O1-Pruner's released code); ``sequence_sum`` exp(summed log-ratio)
    of the row (O1-Pruner's paper)."""

    clip_low: float | None = 0.2
    """The ratio is clipped from below at ``1 - clip_low``. null: not clipped."""

    clip_high: float | None = 0.2
    """The ratio is clipped from above at ``1 + clip_high``. null: not clipped."""

    clip_dual: float | None = None
    """Dual clip: where the advantage is negative the loss of a token is at most ``clip_dual`` times
    its absolute value. Above 1; null: off."""

    aggregation: str = "token"
    """``token`` mean over all trained tokens of the update; ``sequence`` mean over rows of the mean
    over their tokens (GRPO); ``constant`` sum over tokens divided by rows * ``constant`` (Dr.
    GRPO). For ``pairs``: ``token`` compares summed log-probabilities (DPO), ``sequence`` their
    means."""

    constant: int | None = None
    """Tokens that ``aggregation: constant`` divides by. null: the token limit of the rollouts."""

    kl: float = 0.0
    """Weight of the KL divergence to the reference policy, added to the loss. 0: no reference is
    kept. Below 0 divergence is rewarded, as a known bug of early trainers had it (`thinkprune` has
    it as a switch)."""

    kl_estimator: str = "k3"
    """Of the divergence at a token, from d = log(reference / policy): ``k3`` exp(d) - d - 1, ``k2``
    d^2 / 2, whose expected gradient is that of the divergence."""

    entropy: float = 0.0
    """Weight of the entropy bonus (subtracted from the loss)."""

    pair_beta: float = 0.1
    """DPO's beta, the strength of the reference in ``pairs``."""

    temperature: float | None = None
    """The logits are divided by it. null: the temperature of the rollouts for ``pg``, 1 for ``ce``
    and ``pairs``."""

    epochs: int = 1
    """Passes over the collected rows."""

    minibatches: int = 1
    """Optimiser updates per pass, on equal shares of the rows."""

    update_rows: int | None = None
    """Rows per optimiser update, in place of ``minibatches`` (offline data). null: ``minibatches``
    decides."""

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, KINDS)
        _one_of("ratio", self.ratio, RATIOS)
        _one_of("aggregation", self.aggregation, AGGREGATIONS)
        _one_of("kl_estimator", self.kl_estimator, KL_ESTIMATORS)
        if self.clip_low is not None and not 0 < self.clip_low <= 1:
            raise ValueError(f"loss.clip_low is {self.clip_low}; allowed: above 0 up to 1, or null")
        if self.clip_high is not None and not self.clip_high > 0:
            raise ValueError(f"loss.clip_high is {self.clip_high}; allowed: above 0, or null")
        if self.clip_dual is not None and not self.clip_dual > 1:
            raise ValueError(f"loss.clip_dual is {self.clip_dual}; allowed: above 1, or null")
        for name in (
            "constant",
            "temperature",
            "pair_beta",
            "epochs",
            "minibatches",
            "update_rows",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"loss.{name} is {value}; allowed: above 0")
        if not 0 <= self.entropy < float("inf"):
            raise ValueError(f"loss.entropy is {self.entropy}; allowed: 0 (off) or above")
        if not abs(self.kl) < float("inf"):
            raise ValueError(f"loss.kl is {self.kl}; allowed: a finite number, 0 for none")
        self._check_together()

    def _check_together(self) -> None:
        for name in ("kl", "entropy"):
            if getattr(self, name) and self.kind != "pg":
                raise ValueError(
                    f"loss.{name} is {getattr(self, name)} but loss.kind is {self.kind!r}; "
                    f"only 'pg' has that term: set loss.{name} to 0"
                )
        if self.constant is not None and self.aggregation != "constant":
            raise ValueError(
                f"loss.constant is {self.constant} but loss.aggregation is {self.aggregation!r}; "
                "set loss.aggregation to 'constant' or leave loss.constant out"
            )
        if self.kind == "pairs" and self.aggregation == "constant":
            raise ValueError(
                "loss.aggregation is 'constant' but loss.kind is 'pairs'; allowed: token, sequence"
            )
        if self.update_rows is not None and self.minibatches != 1:
            raise ValueError(
                f"loss.update_rows is {self.update_rows} and loss.minibatches is "
                f"{self.minibatches}; set one of them"
            )

    @property
    def needs_reference(self) -> bool:
        """The rows must carry log-probabilities under a reference policy."""
        return self.kind == "pairs" or self.kl != 0

    def temperature_of(self, sampling_temperature: float) -> float:
        """What the learner divides the logits by, for rows sampled at that temperature."""
        if self.temperature is not None:
            return self.temperature
        return sampling_temperature if self.kind == "pg" else 1.0


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"loss.{name} is {value!r}; allowed: {', '.join(allowed)}")
