"""What a source of problems does to a response while it is being written, as a force hook.

A source may have a function ``noise_rule(options)``, which says in token ids where its environment
replaces what the policy drew, and how often (the noisy testbed). The environment is there in
training and in every measurement; what it writes does not train.
"""

from __future__ import annotations

from collections.abc import Sequence

from pruner_jax.problems import source
from pruner_jax.problems.options import ProblemsOptions
from pruner_jax.sample import force


def environment(options: ProblemsOptions, close_ids: Sequence[Sequence[int]]) -> force.Hook | None:
    """The hook of a source's environment, None where it has none; ``close_ids`` end a thought
    (`text.tag_spellings`), and with it the noise."""
    module = source.find(options.name)
    if not hasattr(module, "noise_rule"):
        return None
    rule = module.noise_rule(source.resolve(module.Options, options.options, "problems.options"))
    if not rule.probability:
        return None
    until = tuple(map(tuple, close_ids))
    return force.noise(rule.probability, rule.values, after=rule.after, until=until)
