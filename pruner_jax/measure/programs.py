"""The settings of answering with programs while a model is measured; `run.programs` does it."""

from __future__ import annotations

import dataclasses
import re

from pruner_jax.objective.inject import TEMPLATE, check_template

_SCORER = re.compile(r".+\.py:\w+")


@dataclasses.dataclass(frozen=True)
class ProgramsOptions:
    """How programs are searched for, repaired and put to the vote (PaD); all of it is off unless
    asked for, and wants problems whose answers are programs."""

    refine: int = 0
    """Rounds in which every program that failed visibly is asked for again, with its error."""

    template: str = TEMPLATE
    """That question; may use {question}, {attempt}, {verdict} and {detail}. "{question}" alone
    samples once more, which is what refinement has to be compared with."""

    vote: bool = False
    """Take for each problem the value that most of its samples return."""

    beams: int = 0
    """Answer by a beam search over lines that keeps so many beginnings. 0: by sampling."""

    chains: int = 4
    """Lines that each beginning of the beam search goes on with: the likeliest, others sampled."""

    scorer: str | None = None
    """What tells the beam search how far a step can be trusted, in place of whether the program so
    far runs: path/to/file.py:function, a function of the problem and the response up to the end of
    a line that gives a number in (0, 1]."""

    def __post_init__(self) -> None:
        check_template(self.template)
        if self.scorer is not None and not _SCORER.fullmatch(self.scorer):
            raise ValueError(
                f"programs.scorer is {self.scorer!r}; allowed: path/to/file.py:function, or null"
            )
        if self.scorer is not None and not self.beams:
            raise ValueError(
                f"programs.scorer is {self.scorer!r}, but nothing is scored without a beam search; "
                "set programs.beams, or scorer to null"
            )
        for name, least in (("refine", 0), ("beams", 0), ("chains", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"programs.{name} is {getattr(self, name)}; allowed: {least} or more"
                )
        if self.vote and self.beams:
            raise ValueError(
                f"programs.vote is true and beams {self.beams}: a beam search gives one response "
                "to each problem, so there is nothing to vote on; set one of them"
            )

    @property
    def asked(self) -> bool:
        """Whether anything of it is on."""
        return bool(self.refine or self.vote or self.beams)

    def check_samples(self, samples: int, temperature: float) -> None:
        """Refuse an evaluation whose samples do not go with what is asked."""
        if self.vote and samples < 2:
            raise ValueError(
                f"programs.vote is true and test.samples {samples}; a vote needs 2 or more"
            )
        if self.beams and samples != 1:
            raise ValueError(
                f"programs.beams is {self.beams} and test.samples {samples}: a beam search gives "
                "one response to each problem; set test.samples to 1"
            )
        if self.beams and self.chains > 1 and temperature == 0:
            raise ValueError(
                f"programs.chains is {self.chains} and test.temperature 0, at which all lines of a "
                "beginning are equal; raise test.temperature (the likeliest line is always among "
                "them), or set chains to 1"
            )
