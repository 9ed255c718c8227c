"""The settings of answering with programs while a model is measured; `run.programs` does it."""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.inject import TEMPLATE, check_template


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

    def __post_init__(self) -> None:
        check_template(self.template)
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
