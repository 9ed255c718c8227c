"""Force hooks: everything unusual that happens to a row while it is being written.

A hook is a pure function ``hook(state) -> Forced`` of one row and one token, traced under jit and
mapped over the rows. It sees the token that the policy drew and says which one is written, with
which log-probability, and whether it trains. What is not in the loss becomes ``Origin.FORCED``;
what is in the loss stays ``Origin.SAMPLED``, a decision of the behaviour policy like any other.

A hook is static under jit, so it is a frozen dataclass with hashable fields: equal hooks share a
compiled program. Three attributes say what it needs, all 0 if absent: ``window`` (how many earlier
tokens it looks at, the prompt's last ones included), ``memory`` (how many int32 numbers it carries
from token to token). The memory it returns may depend on anything but the drawn token (what was
written shows in ``recent`` one step later); so it can be worked out again for a row that goes on
from a cut.

Ready here: ``begin_with``, ``in_mode``, ``end_thinking_at``, ``noise``, ``chain``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp

# A sequence to look for: at each place an id, or the several ids that may stand there.
Sequences = tuple[int | tuple[int, ...], ...]


@flax.struct.dataclass
class Forced:
    """What a hook decides about one token."""

    token: jax.Array  # int32
    logp: jax.Array  # float32; NaN: what the policy gives to the token
    in_loss: jax.Array  # bool
    memory: jax.Array  # int32 [memory]


@flax.struct.dataclass
class ForceState:
    """What a hook sees: one row, about to write its token number ``count`` (the first is 0)."""

    token: jax.Array  # int32, as it stands: drawn by the policy, or written by a hook before
    logp: jax.Array  # float32, NaN: the policy's
    in_loss: jax.Array  # bool
    count: jax.Array  # int32
    recent: jax.Array  # int32 [window], the last tokens; the newest is recent[-1]; -1 before any
    mode: jax.Array  # int32
    budget: jax.Array  # int32, -1 if the row has none
    limit: jax.Array  # int32, most tokens of the row
    memory: jax.Array  # int32 [memory], zeros at first
    key: jax.Array  # of this hook, row and position: ``jax.random.uniform(state.key)``

    def keep(self, memory: jax.Array | None = None) -> Forced:
        """The token as it stands."""
        return Forced(
            self.token, self.logp, self.in_loss, self.memory if memory is None else memory
        )

    def write(
        self,
        when: jax.Array,
        token: jax.Array | int,
        *,
        logp: float | None = None,
        in_loss: bool = False,
        memory: jax.Array | None = None,
    ) -> Forced:
        """``token`` where ``when``, else as it stands; ``logp`` None: what the policy gives."""
        return Forced(
            jnp.where(when, token, self.token),
            jnp.where(when, math.nan if logp is None else logp, self.logp),
            jnp.where(when, in_loss, self.in_loss),
            self.memory if memory is None else memory,
        )

    def ends_with(self, sequence: Sequences) -> jax.Array:
        """Whether the row's last tokens are this sequence; bool."""
        hit = jnp.array(True)
        for place, allowed in zip(range(-len(sequence), 0), sequence):
            hit &= jnp.isin(self.recent[place], jnp.array(allowed, jnp.int32))
        return hit


Hook = Callable[[ForceState], Forced]


def window_of(hook: Hook | None) -> int:
    """How many earlier tokens a hook looks at."""
    return getattr(hook, "window", 0)


def memory_of(hook: Hook | None) -> int:
    """How many int32 numbers a hook carries."""
    return getattr(hook, "memory", 0)


@dataclasses.dataclass(frozen=True)
class BeginWith:
    """See ``begin_with``."""

    tokens: tuple[int, ...]
    logp: float | None
    in_loss: bool

    def __call__(self, state: ForceState) -> Forced:
        """The next of the tokens, while the row begins."""
        place = jnp.minimum(state.count, len(self.tokens) - 1)
        token = jnp.array(self.tokens, jnp.int32)[place]
        when = state.count < len(self.tokens)
        forced = state.write(when, token, logp=self.logp, in_loss=self.in_loss)
        if self.logp is None:
            return forced
        later = when & (state.count > 0)
        return forced.replace(logp=jnp.where(later, 0.0, forced.logp))


def begin_with(
    tokens: Sequence[int], *, logp: float | None = None, in_loss: bool = True
) -> BeginWith:
    """The row begins with ``tokens``. ``logp`` is that of all of them in the importance ratio: the
    first bears it, the others count as certain. None: what the policy gives to each.

    AdaptThink (arXiv 2505.13417): think and no-think in halves of the group (see ``in_mode``), each
    beginning with ``logp = log(1/2)``.
    """
    if not len(tokens):
        raise ValueError("begin_with: tokens is empty; give the ids that a row begins with")
    return BeginWith(tuple(tokens), logp, in_loss)


@dataclasses.dataclass(frozen=True)
class InMode:
    """See ``in_mode``."""

    mode: int
    hook: Hook

    @property
    def window(self) -> int:
        """The hook's."""
        return window_of(self.hook)

    @property
    def memory(self) -> int:
        """The hook's."""
        return memory_of(self.hook)

    def __call__(self, state: ForceState) -> Forced:
        """What the hook says, in rows of the mode."""
        forced, mine = self.hook(state), state.mode == self.mode
        kept = state.keep(forced.memory)
        return jax.tree.map(lambda ours, theirs: jnp.where(mine, ours, theirs), forced, kept)


def in_mode(mode: int, hook: Hook) -> InMode:
    """The hook acts on rows of one mode only."""
    return InMode(mode, hook)


@dataclasses.dataclass(frozen=True)
class EndThinkingAt:
    """See ``end_thinking_at``."""

    cap: int | None
    tokens: tuple[int, ...]
    close: Sequences
    memory: int = dataclasses.field(default=1, init=False)

    @property
    def window(self) -> int:
        """As long as the closing sequence."""
        return len(self.close)

    def __call__(self, state: ForceState) -> Forced:
        """The next token of the sequence, once the cap is reached or the sequence begun."""
        # Memory: tokens of the sequence written so far; all of them once the thought is closed.
        done = len(self.tokens)
        cap = state.budget if self.cap is None else self.cap
        ours = state.ends_with(self.close) & (state.count >= len(self.close))
        place = jnp.where(ours & (state.memory[0] == 0), done, state.memory[0])
        when = (place < done) & (state.count >= cap) & (cap >= 0)
        token = jnp.array(self.tokens, jnp.int32)[jnp.minimum(place, done - 1)]
        return state.write(when, token, memory=(place + when)[None])


def end_thinking_at(
    cap: int | None, tokens: Sequence[int], *, close: Sequences = ()
) -> EndThinkingAt:
    """A thought that is still open after ``cap`` tokens is ended by writing ``tokens``.

    ``close`` is what ends a thought by itself (default: ``tokens``; see ``text.tag_spellings``).
    ``cap`` None: the row's budget; rows without one are left alone. The thought is taken to be open
    from the first token. Split caps as in Elastic Reasoning (arXiv 2505.05315), exits as in S-GRPO
    (arXiv 2505.07686).
    """
    if not tokens:
        raise ValueError("end_thinking_at: tokens is empty; give the ids that end a thought")
    return EndThinkingAt(cap, tuple(tokens), tuple(close) or tuple(tokens))


@dataclasses.dataclass(frozen=True)
class Noise:
    """See ``noise``."""

    probability: float
    values: tuple[int, ...]
    after: tuple[int, ...]
    until: Sequences

    @property
    def window(self) -> int:
        """As long as what it looks for."""
        return max(1, len(self.until))

    @property
    def memory(self) -> int:
        """Whether the noise is over."""
        return 1 if self.until else 0

    def __call__(self, state: ForceState) -> Forced:
        """Another value, by the dice."""
        whether, which = jax.random.split(state.key)
        strikes = jax.random.uniform(whether) < self.probability
        if self.after:
            strikes &= state.ends_with((self.after,))
        memory = state.memory
        if self.until:  # memory: whether it has come
            ended = state.ends_with(self.until) & (state.count >= len(self.until))
            memory = memory | ended.astype(jnp.int32)
            strikes &= memory[0] == 0
        value = jax.random.choice(which, jnp.array(self.values, jnp.int32))
        return state.write(strikes, value, memory=memory)


def noise(
    probability: float, values: Sequence[int], *, after: Sequence[int] = (), until: Sequences = ()
) -> Noise:
    """The environment writes one of ``values``, drawn evenly, with this probability, not trained.

    Only right after a token of ``after`` (empty: anywhere), and only as long as the sequence
    ``until`` (a closing tag) has not been written. The dice are the hook's own: the policy's draws
    are what they would have been.
    """
    if not 0 <= probability <= 1 or not values:
        raise ValueError(
            f"noise: probability is {probability}, values {tuple(values)}; allowed: a share from 0 "
            "to 1, at least one value"
        )
    return Noise(probability, tuple(values), tuple(after), tuple(until))


@dataclasses.dataclass(frozen=True)
class Chain:
    """See ``chain``."""

    hooks: tuple[Hook, ...]

    @property
    def window(self) -> int:
        """The longest that a hook wants."""
        return max(map(window_of, self.hooks), default=0)

    @property
    def memory(self) -> int:
        """All that the hooks carry, side by side."""
        return sum(map(memory_of, self.hooks))

    def __call__(self, state: ForceState) -> Forced:
        """What the last hook leaves."""
        memories, first, forced = [], 0, state.keep()
        for number, hook in enumerate(self.hooks):
            own = state.memory[first : first + memory_of(hook)]
            first += memory_of(hook)
            forced = hook(
                state.replace(
                    token=forced.token,
                    logp=forced.logp,
                    in_loss=forced.in_loss,
                    memory=own,
                    key=jax.random.fold_in(state.key, number),
                )
            )
            memories.append(forced.memory)
        memory = jnp.concatenate(memories) if memories else state.memory
        return forced.replace(memory=memory)


def chain(*hooks: Hook) -> Chain:
    """Hooks one after the other: each sees what the one before it wrote, and the last word wins."""
    return Chain(tuple(hooks))
