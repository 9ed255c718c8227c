"""Reading one ``config.json``, field by field: what changes the mathematics is honoured or refused.

``Fields`` hands out the values a family asks for, checked; ``finish`` then refuses every field that
nobody asked for, unless it is known to be harmless or switched off (null, false, empty).
"""

from __future__ import annotations

import math
import re
from typing import Any

from pruner_jax.policy.config import RopeConfig

_MISSING = object()

# Fields that say nothing about the forward pass: bookkeeping, special tokens, defaults of
# generation, how a library should run the model. Names that start with "_" or end in "version"
# count as well.
_HARMLESS = frozenset(
    re.findall(
        r"\w+",
        """
        architectures model_type name_or_path torch_dtype dtype tokenizer_class finetuning_task
        problem_type task_specific_params id2label label2id num_labels model_max_length
        bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id prefix
        use_cache use_bfloat16 torchscript return_dict output_attentions output_hidden_states
        output_scores return_dict_in_generate chunk_size_feed_forward pretraining_tp tf_legacy_loss
        is_decoder attn_implementation experts_implementation unsloth_fixed
        max_length min_length max_new_tokens do_sample early_stopping num_beams num_beam_groups
        diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty
        no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences
        forced_bos_token_id forced_eos_token_id remove_invalid_values suppress_tokens
        begin_suppress_tokens exponential_decay_length_penalty
        """,
    )
)

# Fields of a rope dictionary, by kind.
_ROPE_FIELDS = {
    "default": {},
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast"),
        *("beta_slow", "mscale", "mscale_all_dim", "truncate"),
    },
}


class Fields:
    """One ``config.json`` being read."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.taken: set[str] = set()

    def take(self, name: str, missing: Any = _MISSING) -> Any:
        """The value; where it is absent or null ``missing``, or an error if that is not given."""
        self.taken.add(name)
        value = self.raw.get(name)
        if value is not None:
            return value
        if missing is _MISSING:
            raise ValueError(f"config.json: field {name!r} is missing")
        return missing

    def count(self, name: str, missing: Any = _MISSING) -> int:
        """A positive whole number."""
        value = self.take(name, missing)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"config.json: {name} = {value!r}; allowed: a positive whole number")
        return value

    def number(self, name: str, missing: Any = _MISSING) -> float:
        """A positive number."""
        return _positive(name, self.take(name, missing))

    def flag(self, name: str) -> bool:
        """True or false; false where absent."""
        value = self.take(name, False)
        if not isinstance(value, bool):
            raise ValueError(f"config.json: {name} = {value!r}; allowed: true, false")
        return value

    def only(self, name: str, allowed: Any, why: str) -> None:
        """Refuses any value but ``allowed`` (absent counts as allowed)."""
        value = self.take(name, allowed)
        if value != allowed:
            raise ValueError(f"config.json: {name} = {value!r}; allowed: {allowed!r} ({why})")

    def common(
        self, *, context: int, kv_heads: int | None = None, head_width: int | None = None
    ) -> dict[str, Any]:
        """What all families spell alike, as keywords of ModelConfig; arguments are defaults."""
        self.only("hidden_act", "silu", "no other activation is implemented")
        self.only("attention_dropout", 0, "dropout is not implemented")
        self.only("is_encoder_decoder", False, "only decoders are implemented")
        self.only("quantization_config", None, "load the weights before quantisation instead")
        width, heads = self.count("hidden_size"), self.count("num_attention_heads")
        if head_width is None:
            head_width = width // heads
        most = self.count("max_position_embeddings", context)
        return {
            "model_type": self.take("model_type"),
            "vocab_size": self.count("vocab_size"),
            "width": width,
            "layers": self.count("num_hidden_layers"),
            "heads": heads,
            "kv_heads": self.count(
                "num_key_value_heads", _MISSING if kv_heads is None else kv_heads
            ),
            "head_width": self.count("head_dim", head_width),
            "mlp_width": self.count("intermediate_size"),
            "context": most,
            "rope": self.rope(most),
            "norm_eps": self.number("rms_norm_eps", 1e-6),
            "tied": self.flag("tie_word_embeddings"),
            "init_std": self.number("initializer_range", 0.02),
        }

    def rope(self, context: int) -> RopeConfig:
        """Rotary positions: ``rope_theta`` and ``rope_scaling``, or ``rope_parameters`` (new)."""
        self.only("partial_rotary_factor", 1, "the whole head is rotated")
        old, new = self.take("rope_scaling", {}), self.take("rope_parameters", {})
        given = {**new, **old}
        for name in new.keys() & old.keys():
            if new[name] != old[name]:
                raise ValueError(
                    f"config.json: rope_parameters.{name} = {new[name]!r}, but "
                    f"rope_scaling.{name} = {old[name]!r}; they must agree"
                )
        theta = given.pop("rope_theta", None)
        outer = self.take("rope_theta", theta if theta is not None else 10000.0)
        if theta is not None and theta != outer:
            raise ValueError(
                f"config.json: rope_theta = {outer!r}, but rope_parameters.rope_theta = {theta!r}; "
                "they must agree"
            )
        kind = given.pop("rope_type", None) or given.get("type") or "default"
        given.pop("type", None)
        return _rope(kind, _positive("rope_theta", outer), given, context)

    def window(self, missing: int | None) -> int | None:
        """``sliding_window``: a positive count, or None where it is null."""
        absent = "sliding_window" not in self.raw
        value = missing if absent else self.take("sliding_window", None)
        return None if value is None else self.count("sliding_window", missing)

    def windows_by_layer(self, layers: int) -> tuple[int | None, ...]:
        """Qwen's windows: ``use_sliding_window``, ``max_window_layers`` (or ``layer_types``)."""
        used = self.flag("use_sliding_window")
        first = self.take("max_window_layers", 28)
        window = self.window(missing=4096)
        default = [
            "sliding_attention" if used and window and layer >= first else "full_attention"
            for layer in range(layers)
        ]
        types = self.take("layer_types", default)
        if len(types) != layers or set(types) - {"sliding_attention", "full_attention"}:
            raise ValueError(
                f"config.json: layer_types = {types!r}; allowed: one of 'full_attention', "
                f"'sliding_attention' for each of the {layers} layers"
            )
        if "sliding_attention" not in types:
            return ()
        if not used or window is None:
            raise ValueError(
                "config.json: layer_types holds 'sliding_attention', which needs "
                f"use_sliding_window = true and a sliding_window; found {used} and {window}"
            )
        return tuple(window if kind == "sliding_attention" else None for kind in types)

    def same_layer_types(self, kind: str) -> None:
        """Refuses ``layer_types`` that differ from what the window already says."""
        types = self.take("layer_types", [kind])
        if set(types) != {kind}:
            raise ValueError(
                f"config.json: layer_types = {types!r}; allowed with this sliding_window: "
                f"only {kind!r}"
            )

    def finish(self) -> None:
        """Refuses whatever was neither read, nor harmless, nor switched off."""
        for name, value in self.raw.items():
            known = name in self.taken or name in _HARMLESS
            if known or name.startswith("_") or name.endswith("version"):
                continue
            if value not in (None, False, "", [], {}):
                raise ValueError(
                    f"config.json: field {name!r} = {value!r} is not known for model_type "
                    f"{self.raw.get('model_type')!r} and might change what the model computes; "
                    "remove it or set it to null if it does not"
                )


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"config.json: {name} = {value!r}; allowed: a positive number")
    return float(value)


def _rope(kind: str, theta: float, given: dict[str, Any], context: int) -> RopeConfig:
    """RopeConfig of one kind from the rest of its dictionary."""
    if kind not in RopeConfig.KINDS:
        raise ValueError(
            f"config.json: rope_type {kind!r} is not supported; supported: "
            f"{', '.join(RopeConfig.KINDS)}"
        )
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("partial_rotary_factor") == 1:
        given.pop("partial_rotary_factor")
    unknown = sorted(given.keys() - _ROPE_FIELDS[kind])
    if unknown:
        allowed = ", ".join(sorted(_ROPE_FIELDS[kind])) or "none"
        raise ValueError(
            f"config.json: rope field {unknown[0]!r} = {given[unknown[0]]!r} does not belong to "
            f"rope_type {kind!r}; allowed: {allowed}"
        )
    if kind == "default":
        return RopeConfig(theta)
    original = int(
        _positive(
            "rope original_max_position_embeddings",
            given.get("original_max_position_embeddings", context),
        )
    )
    needed = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
    for name in needed.get(kind, ()):
        if name not in given:
            raise ValueError(f"config.json: rope_type {kind!r} needs the field {name!r}")
    factor = _positive("rope factor", given.get("factor", context / original))
    if kind == "linear":
        return RopeConfig(theta, kind, factor)
    if kind == "llama3":
        low = _positive("rope low_freq_factor", given["low_freq_factor"])
        high = _positive("rope high_freq_factor", given["high_freq_factor"])
        return RopeConfig(theta, kind, factor, original, low, high)
    return RopeConfig(
        theta,
        kind,
        factor,
        original,
        beta_fast=_positive("rope beta_fast", given.get("beta_fast") or 32.0),
        beta_slow=_positive("rope beta_slow", given.get("beta_slow") or 1.0),
        truncate=bool(given.get("truncate", True)),
        attention_factor=_yarn_attention(factor, given),
    )


def _yarn_attention(factor: float, given: dict[str, Any]) -> float:
    """What YaRN multiplies cos and sin with: 0.1 ln(factor) + 1 (arXiv 2309.00071, section 3.4)."""

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if "attention_factor" in given:
        return float(given["attention_factor"])
    if given.get("mscale") and given.get("mscale_all_dim"):
        return mscale(given["mscale"]) / mscale(given["mscale_all_dim"])
    return mscale(1.0)
