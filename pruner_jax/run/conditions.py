"""From a condition of the objective to a hook of the sampler: what is written into rows in the
policy's place, in the tokens of the model at hand."""

from __future__ import annotations

from pruner_jax import text
from pruner_jax.objective.condition import Begin, Condition, EndThought, Force
from pruner_jax.run.engine import Engine
from pruner_jax.sample import force as hooks


def force_hook(condition: Condition, engine: Engine) -> hooks.Hook | None:
    """What the condition writes into rows in the policy's place, as one hook of the sampler."""

    def hook(force: Force) -> hooks.Hook | None:
        tags = {"{think_open}": engine.text.think_open, "{think_close}": engine.text.think_close}
        said = force.text
        if said is None:
            return None
        for name, tag in tags.items():
            said = said.replace(name, tag)
        tokens = tuple(map(int, text.encode(engine.tokenizer, said)))
        if isinstance(force, Begin):
            return hooks.begin_with(tokens, logp=force.logp, in_loss=force.in_loss)
        assert isinstance(force, EndThought)
        return hooks.end_thinking_at(force.after, tokens, close=engine.close_ids)

    found = [
        hooks.in_mode(number, made)
        for number, mode in enumerate(condition.modes)
        if mode.force is not None and (made := hook(mode.force)) is not None
    ]
    if condition.force is not None and (made := hook(condition.force)) is not None:
        found.append(made)
    return hooks.chain(*found) if found else None
