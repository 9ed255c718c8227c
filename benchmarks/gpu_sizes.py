"""How much each part of gpu.py does, and what its figures are called: on a GPU, and in a smoke run.

No JAX here: processes that leave the GPU to others, and the peers, read the same sizes.

What a part takes on an H200 at the least, by the maker's 4.8 TB/s and 989 TFLOP/s in bfloat16, and
at the shares that gpu_targets.py asks of a plain copy and product (taken as 4.2 TB/s, 750 TFLOP/s):

* sampler, 256 rows x 1,024 tokens after 256: a step reads the weights (3.09 GB) and 28 KiB for each
  of 256 x 512 live slots and of 32 x 256 that 8 rows share (4.0 GB): 1.5 ms, so 1.5 s in all or
  173,000 tokens/s; at 55 % 3.1 s.
* learner, 104,000 tokens x 9.7 GFLOP: 1.0 s; at 45 % 3.0 s. Whole layers are computed again in the
  backward pass, 8 products for 6 that count: 75 % at the most. And attention's scores, in float32,
  go through memory, some 13 times 14 GB for a row of 4,096 tokens: by estimate 44 ms beside 71 of
  products, 53 of which count. So the limit is about 46 %, hardly more than what is asked; of rows
  of 16,384 tokens, whose scores are four times as many for a token, about 22 %.
* step, 512 rows x 1,024 tokens: decoding reads 10.6 GB a step, 2.3 s; 536,000 tokens x 9.5 GFLOP to
  learn, 5.2 s; a third of it for the reference, 1.7 s. Together 9 s; at the shares above 24 s.

The rest of the eight minutes is the compiler's, and a second run finds its programs on disk. Of the
peers, ``generate`` is bound by its host (one launch after the other, some 25 ms a token whatever
the GPU does), so 1,024 tokens take about half a minute.

Memory, of 141 GB: while it samples, a step holds 51 GB (learner 18.5, reference 6.2, sampler 3.1,
cache 23.4: ``prune --dry-run``, which counts it as if nothing were shared). An update holds 18.5
and 6.2, and beside them at most 31 GB with gradients and activations; 73 GB where ``dots`` are kept
(``memory_analysis`` of the same programs compiled for a CPU, which widens much of the bfloat16). On
the disk: 3 GB of model, 25 of the run.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of all parts. Pairs are tried in this order: the first one is done sooner."""

    model: str  # of learn.py
    dtype: str
    prompts: int  # of the sampler, and of the peers' generation
    prompt: int  # tokens of each
    limits: tuple[int, int]  # tokens of a response
    slots: int  # the cache's sizes are multiples of it: a few to compile, little read in vain
    rows: int  # of the learner
    row_prompt: int
    row_mean: int  # tokens of a response, a quarter of it their deviation
    remats: tuple[str, ...]  # what is computed again; first what a run does
    step_prompts: int
    step_limit: int
    step_slots: int  # half of what a response of a step takes
    step_row: int  # tokens of its packed rows
    peers_limits: tuple[int, int]  # of TRL's steps
    steps: int  # of a run: the first one compiles, the last one counts
    samples: int = 8

    def sampled(self, limit: int) -> str:
        """What is sampled, as the tables call it."""
        return f"{self.prompts} prompts x {self.samples}, {self.prompt} + {limit} tokens"

    def learned(self, remat: str) -> str:
        """An update."""
        return f"{self.rows} rows" + (f", remat {remat}" if remat != "auto" else "")

    def stepped(self, limit: int) -> str:
        """A step of training."""
        return f"{self.step_prompts} prompts x {self.samples} x {limit} tokens"


GPU = Sizes(
    model="1.5b",
    dtype="bfloat16",
    prompts=32,
    prompt=256,
    limits=(128, 1024),
    slots=256,
    rows=64,
    row_prompt=128,
    row_mean=1500,
    remats=("auto", "dots"),
    step_prompts=64,
    step_limit=1024,
    step_slots=512,
    step_row=1152,
    peers_limits=(256, 1024),
    steps=3,
)
# Of the steps, such that every one has the programs of the first, whatever it draws.
SMOKE = Sizes(
    model="tiny",
    dtype="float32",
    prompts=4,
    prompt=17,
    limits=(16, 32),
    slots=16,
    rows=8,
    row_prompt=12,
    row_mean=20,
    remats=("auto",),
    step_prompts=2,
    step_limit=24,
    step_slots=32,
    step_row=64,
    peers_limits=(8, 24),
    steps=2,
)


def of(smoke: bool) -> Sizes:
    """The ones to play."""
    return SMOKE if smoke else GPU
