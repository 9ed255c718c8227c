"""Second models of a run: an expander that finishes thoughts, a teacher that writes responses.

Both are frozen, live on the run's own devices, and bring their own tokenizer and template. What
they write is graded by the run's verifier. A teacher's rows become rows of the student: the same
text in the student's tokens, without log-probabilities.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from pruner_jax import text
from pruner_jax.expansion import ask, mask
from pruner_jax.mesh import DECODE_RULES, local_mesh
from pruner_jax.pod.together import ALONE, Pod
from pruner_jax.policy import handle, hf
from pruner_jax.policy.weights import weight_shardings
from pruner_jax.problems.options import ProblemsOptions
from pruner_jax.run.engine import Engine, Progress
from pruner_jax.sample.options import SampleOptions
from pruner_jax.sample.records import Given
from pruner_jax.sample.second import ExpanderOptions, TeacherOptions
from pruner_jax.store.folder import write_atomically
from pruner_jax.store.records import read_graded, seconds_of, write_rollouts
from pruner_jax.text import TextOptions
from pruner_jax.types import Graded, Origin, Problem, Prompts, Purpose, Rollouts, Verdict
from pruner_jax.verify.pool import Verifier

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Second:
    """A frozen model, ready to sample."""

    engine: Engine
    params: PyTree | None  # decode parameters; None: not loaded


def load_second(
    folder: str,
    *,
    text_options: TextOptions,
    sampling: SampleOptions,
    verifier: Verifier | None,
    seed: int,
    mesh: jax.sharding.Mesh,
    problems: ProblemsOptions | None = None,
    checked_only: bool = False,
    pod: Pod = ALONE,
) -> Second:
    """A model from its folder, in the sampler's form only: nothing else of it is ever on a device.
    ``problems`` as in ``Engine.of``; ``checked_only``: all is checked and no weight is loaded."""
    policy = handle.describe(folder)
    engine = Engine.of(
        policy,
        text_options=text_options,
        sampling=sampling,
        verifier=verifier,
        seed=seed,
        mesh=mesh,
        problems=problems,
        pod=pod,
    )
    places = weight_shardings(policy.config, local_mesh(mesh), DECODE_RULES, stacked=False)
    if checked_only:
        hf.open_weights(policy.folder, policy.config)
        return Second(engine, None)
    params = hf.read_weights(policy.folder, policy.config, engine.dtype, places, stacked=False)
    return Second(engine, params)


# -- the expander ----------------------------------------------------------------------------------


def load_expander(options: ExpanderOptions, **shared: Any) -> Second:
    """The expander of a run; ``shared`` as in ``load_second``.

    Raises:
      ValueError: it has no chat template and was not given a plain one.
    """
    sampling = dataclasses.replace(
        shared.pop("sampling"), temperature=options.temperature, top_p=options.top_p, top_k=0
    )
    second = load_second(options.model, text_options=options.text, sampling=sampling, **shared)
    if options.text.template != "plain" and not second.engine.tokenizer.chat_template:
        raise ValueError(
            f"the expander {options.model!r} has no chat template; take an instruction-tuned "
            "model, or set expander.text.template to plain and expander.text.plain to its prompt"
        )
    return second


def check_room(
    second: Second,
    options: ExpanderOptions,
    problems: Sequence[Problem],
    limit: int,
    setting: str,
) -> None:
    """The expander's context holds every question, a thought of ``limit`` tokens (which is what
    ``setting`` says) and an answer.

    Raises:
      ValueError: with the longest question. (A thought may take more tokens in the expander's own
        vocabulary than in that of the model that wrote it; `answer_limits` sees to those.)
    """
    asked = [
        dataclasses.replace(p, question=ask(options.prompt, p.question, ""), messages=None)
        for p in problems
    ]
    prompts = second.engine.prompts(asked, purpose=Purpose.TRAIN, limit=options.limit)
    longest, problem = max((len(ids), p.id) for ids, p in zip(prompts.tokens, problems))
    context = second.engine.config.context
    if longest + limit + options.limit > context:
        raise ValueError(
            f"the expander {options.model!r} has a context of {context} tokens; a question of "
            f"{longest} (problem {problem!r}), a thought of up to {limit} ({setting}) and an "
            f"answer of up to {options.limit} (expander.limit) do not fit: lower one of the limits"
        )


def thoughts_of(engine: Engine, rollouts: Rollouts) -> list[str]:
    """The thought of each row that the engine wrote, tags left out."""
    opened_P = engine.opened(rollouts.prompts)
    return [
        text.split_thought(said, engine.text, bool(opened_P[group]))[0]
        for said, group in zip(rollouts.text, rollouts.group_B)
    ]


def expand(
    second: Second,
    options: ExpanderOptions,
    rollouts: Rollouts,
    thoughts: Sequence[str],
    mask_answers: bool = False,
    on_progress: Progress | None = None,
) -> Graded:
    """What the expander makes of each row's thought: one graded row for each, in their order.

    With ``mask_answers`` every literal gold answer in a thought is replaced first, so that the
    expander has to find it again. A thought that does not fit into its context is not answered:
    that row has no token and is unfinished (`too_long`).
    """
    prompts = expander_prompts(second, options, rollouts, thoughts, mask_answers)
    expanded, _ = second.engine.rollout(
        second.params,
        prompts,
        samples=1,
        limit=answer_limits(second, options, prompts),
        on_progress=on_progress,
    )
    return expanded


def answer_limits(second: Second, options: ExpanderOptions, prompts: Prompts) -> np.ndarray:
    """Most tokens of the expander's answer to each prompt, int32 [P]; 0 where prompt and answer do
    not fit into its context, as can be where a thought has more tokens in its vocabulary."""
    room = second.engine.config.context - options.limit
    fits_P = np.array([len(tokens) <= room for tokens in prompts.tokens], bool)
    return np.where(fits_P, options.limit, 0).astype(np.int32)


def too_long(answers: Rollouts) -> np.ndarray:
    """Which of the expander's rows were never begun because the thought did not fit, bool [B]."""
    return answers.length_B == 0


def expander_prompts(
    second: Second,
    options: ExpanderOptions,
    rollouts: Rollouts,
    thoughts: Sequence[str],
    mask_answers: bool = False,
) -> Prompts:
    """What the expander is asked: each row's question and thought. A row's random numbers depend on
    its problem, visit and sample, not on the thought."""
    asked = []
    for b, thought in enumerate(thoughts):
        problem = rollouts.prompts.problems[rollouts.group_B[b]]
        if mask_answers:
            thought = mask(thought, problem.answer, options.mask)
        asked.append(
            dataclasses.replace(
                problem,
                id=f"{problem.id}#{rollouts.sample_B[b]}",
                question=ask(options.prompt, problem.question, thought),
                messages=None,
            )
        )
    return second.engine.prompts(
        asked,
        purpose=rollouts.prompts.purpose,
        limit=options.limit,
        visit_P=rollouts.prompts.visit_P[rollouts.group_B],
    )


# -- the teacher -----------------------------------------------------------------------------------


def in_the_students_words(graded: Graded, teacher: Engine, student: Engine) -> Graded:
    """A teacher's rows as rows of the student: the same texts in its tokens, under its prompts.

    The tags of a thought become the student's; an opening one goes or comes, as the two templates
    have it in their prompts. Graded again; log-probabilities are NaN, for the student drew none.
    """
    old = graded.rollouts
    prompts = student.prompts(
        old.prompts.problems,
        purpose=old.prompts.purpose,
        limit=old.limit,
        visit_P=old.prompts.visit_P,
    )
    before_P, after_P = teacher.opened(old.prompts), student.opened(prompts)
    texts = [
        _retagged(said, teacher.text, student.text, bool(before_P[group]), bool(after_P[group]))
        for said, group in zip(old.text, old.group_B)
    ]
    return student.grade(
        written(student, prompts, old.group_B, old.sample_B, texts, old.finished_B)
    )


def _retagged(said: str, old: TextOptions, new: TextOptions, before: bool, after: bool) -> str:
    """A response under other tags; ``before`` and ``after``: the prompt has the opening one."""
    said = said.replace(old.think_close, new.think_close, 1)
    bare = said.lstrip()
    if before:
        thought = said
    elif bare.startswith(old.think_open):
        thought = bare.removeprefix(old.think_open)
    else:
        return said
    return thought if after else new.think_open + thought


def written(
    engine: Engine,
    prompts: Prompts,
    group_B: np.ndarray,
    sample_B: np.ndarray,
    texts: Sequence[str],
    finished_B: np.ndarray,
) -> Rollouts:
    """Rows of given texts in the engine's tokens."""
    tokens = [
        np.append(text.encode(engine.tokenizer, said), [engine.end_id] if done else []).astype(
            np.int32
        )
        for said, done in zip(texts, finished_B)
    ]
    length_B = np.array([len(ids) for ids in tokens], np.int32)
    inside_BT = np.arange(length_B.max(initial=1)) < length_B[:, None]
    tokens_BT = np.zeros(inside_BT.shape, np.int32)
    tokens_BT[inside_BT] = np.concatenate(tokens) if tokens else []
    return Rollouts(
        prompts=prompts,
        group_B=group_B,
        sample_B=sample_B,
        tokens_BT=tokens_BT,
        logp_BT=np.full(inside_BT.shape, np.nan, np.float32),
        origin_BT=np.where(inside_BT, Origin.SAMPLED, Origin.PAD).astype(np.uint8),
        length_B=length_B,
        thinking_B=text.thinking_lengths(
            tokens_BT, length_B, engine.close_ids, engine.opened(prompts)[group_B], engine.open_ids
        ),
        finished_B=np.asarray(finished_B, bool),
        text=tuple(texts),
        temperature=1.0,
        limit=int(length_B.max(initial=0)),
        mode_B=np.zeros(len(texts), np.int32),
        budget_B=np.full(len(texts), -1, np.int32),
        parent_B=np.full(len(texts), -1, np.int32),
    )


@dataclasses.dataclass(frozen=True)
class Responses:
    """A teacher's file of responses, by problem, and the lines that cannot be used."""

    of_problem: dict[str, list[str]]
    rejects: list[dict[str, Any]]


def read_responses(options: TeacherOptions, problems: Sequence[Problem]) -> Responses:
    """The responses of a file to these problems, which it names by id or question; where a line has
    both, by the one that is known, its id first.

    Raises:
      ValueError: a line is not a JSON object with a response and the problem it answers, or none
        answers any of these.
    """
    known = {problem.question: problem.id for problem in problems}
    known |= {problem.id: problem.id for problem in problems}
    found, rejects = {}, []
    path = pathlib.Path(options.file)
    if not path.is_file():
        raise ValueError(f"teacher.file is {options.file!r}, which is not there")
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            response = entry["response"]
            names = [str(entry[key]) for key in ("id", "question") if key in entry]
            if not names:
                raise KeyError("id")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{path}, line {number}: allowed is a JSON object {{"question" or "id": ..., '
                f'"response": ...}}, found {line[:80].decode(errors="replace")!r}'
            ) from error
        name = next((name for name in names if name in known), None)
        if name is not None and isinstance(response, str):
            found.setdefault(known[name], []).append(response)
        else:
            why = "no problem of the train set" if isinstance(response, str) else "not a text"
            rejects.append({"line": number, "why": why, **entry})
    if not found:
        first = f" (line {rejects[0]['line']}: {rejects[0]['why']})" if rejects else ""
        raise ValueError(
            f"teacher.file {options.file!r} answers none of the {len(problems)} problems of the "
            f"train set{first}; its lines name them by id or question"
        )
    return Responses(found, rejects)


def unusable(graded: Graded, limit: int) -> list[dict[str, Any]]:
    """Rows that nothing can be learnt from: no program or answer in them, one that does not parse,
    or longer than the limit."""
    rollouts, found = graded.rollouts, []
    detail = graded.detail or ("",) * len(graded)
    for b in range(len(graded)):
        why = ""
        if rollouts.length_B[b] > limit:
            why = f"{rollouts.length_B[b]} tokens, the limit is {limit}"
        elif graded.verdict_B[b] == Verdict.UNPARSED:
            why = "no answer was found in it"
        elif detail[b].startswith("Syntax"):
            why = detail[b]
        if why:
            problem = rollouts.prompts.problems[rollouts.group_B[b]]
            found.append({"id": problem.id, "why": why, "response": rollouts.text[b]})
    return found


def add_rejects(path: pathlib.Path, rejects: Sequence[dict[str, Any]]) -> None:
    """Responses that cannot be used, with the reason, as JSON lines behind those that are there;
    none twice."""
    before = path.read_text().splitlines() if path.exists() else []
    lines = dict.fromkeys([*before, *map(json.dumps, rejects)])
    write_atomically(path, "".join(line + "\n" for line in lines))


# -- asking again ----------------------------------------------------------------------------------


def ask_again(
    engine: Engine,
    params: PyTree,
    graded: Graded,
    prompt_tokens: Sequence[np.ndarray],
    limit: int,
    on_progress: Progress | None = None,
    folder: pathlib.Path | None = None,
) -> tuple[Graded, float]:
    """One new row in place of each given one, under another prompt; problems, groups and sample
    numbers stay, the random numbers are others. With a folder they are written there part by part,
    as they were sampled, and those that are there already are not sampled again; the second result
    is the seconds that these had taken."""
    old = graded.rollouts

    def ask(asked: Prompts, sample_B: np.ndarray) -> Graded:
        nothing = (np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.uint8))
        given = {b: Given(*nothing, sample=int(sample)) for b, sample in enumerate(sample_B)}
        found, _ = engine.rollout(
            params, asked, samples=1, limit=limit, given=given, on_progress=on_progress
        )
        return found

    every, seconds = np.arange(len(old)), 0.0
    if folder is None:
        found = ask(_asked_again(engine, old, prompt_tokens, every), old.sample_B)
    else:
        paths, at_once = [], engine.rows_together(limit)
        for rows in np.split(every, every[at_once::at_once]):
            asked = _asked_again(engine, old, prompt_tokens, rows)
            paths.append(folder / f"again-{_digest(asked, old.sample_B[rows], limit)}.parquet")
            if engine.pod.lead(paths[-1].exists):
                seconds += engine.pod.lead(seconds_of, paths[-1])
                continue
            begun = time.perf_counter()
            part = ask(asked, old.sample_B[rows])
            spent = time.perf_counter() - begun
            write = functools.partial(write_rollouts, round=0, step=0, seconds=spent)
            engine.pod.lead(write, paths[-1], part)
        by_id = {problem.id: problem for problem in old.prompts.problems}
        found = engine.pod.lead(read_graded, paths, by_id)
    rollouts = dataclasses.replace(
        found.rollouts,
        prompts=old.prompts,
        group_B=old.group_B,
        logp_BT=np.full_like(found.rollouts.logp_BT, np.nan),  # not those under the old prompt
    )
    return dataclasses.replace(found, rollouts=rollouts), seconds


def _asked_again(
    engine: Engine, old: Rollouts, prompt_tokens: Sequence[np.ndarray], rows: np.ndarray
) -> Prompts:
    """The prompts of these rows, one each."""
    groups, tokens = old.group_B[rows], [prompt_tokens[b] for b in rows]
    return Prompts(
        problems=tuple(old.prompts.problems[g] for g in groups),
        text=tuple(text.decode(engine.tokenizer, ids) for ids in tokens),
        tokens=tuple(np.asarray(ids, np.int32) for ids in tokens),
        purpose=old.prompts.purpose,
        visit_P=old.prompts.visit_P[groups] + _AGAIN,
    )


def _digest(asked: Prompts, sample_B: np.ndarray, limit: int) -> str:
    """Of what rows that are sampled again depend on beside their folder."""
    ids, tokens = [p.id for p in asked.problems], [ids.tolist() for ids in asked.tokens]
    said = json.dumps([ids, tokens, asked.visit_P.tolist(), sample_B.tolist(), limit])
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


_AGAIN = 1 << 21  # added to the visits of a problem: draws that no plain visit makes
