"""Options of learning that are the machine's or the optimiser's (no JAX here).

``MeshOptions`` says how devices are arranged, ``PodOptions`` how the processes of several hosts
find each other, ``OptimizerOptions`` how gradients become steps,
``LearnOptions`` how rows are packed and in which precision they are computed; none of its fields
changes the gradient beyond rounding. What a method decides is ``objective.loss_spec.LossSpec``.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

SCHEDULES = ("constant", "cosine", "linear")
REMATS = ("auto", "none", "dots", "full")
DTYPES = ("auto", "float32", "bfloat16")
ATTENTIONS = ("auto", "xla", "splash", "splash_interpreted")


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """How the devices are arranged. One of the sizes may be -1: whatever is left."""

    data: int = -1
    """Replicas of the parameters; each takes its share of the rows."""

    fsdp: int = 1
    """Devices over which parameters and optimiser state are cut; each has its share of the rows."""

    tensor: int = 1
    """Devices over which heads, MLP and vocabulary are cut; they share their rows."""

    def __post_init__(self) -> None:
        sizes = dataclasses.asdict(self)
        for name, size in sizes.items():
            if size != -1 and size < 1:
                raise ValueError(f"mesh.{name} is {size}; allowed: 1 or more, or -1 for the rest")
        if sum(size == -1 for size in sizes.values()) > 1:
            raise ValueError(f"mesh is {sizes}; only one of its sizes may be -1")


@dataclasses.dataclass(frozen=True)
class PodOptions:
    """How the processes of a run on several hosts find each other. The same command runs on all."""

    start: Literal["auto", "pod", "none"] = "auto"
    """auto: look for others where the environment speaks of them (several TPU workers, tasks of
    Slurm or MPI, JAX_COORDINATOR_ADDRESS) or a coordinator is given. pod: look in any case, as on
    the hosts of a Cloud TPU slice, which JAX asks for. none: run alone. The environment's
    PRUNER_POD goes before this setting."""

    coordinator: str | None = None
    """Address and port of the first process, where the cluster does not tell."""

    processes: int | None = None
    """How many there are, where the cluster does not tell."""

    process: int | None = None
    """Number of this one, from 0, where the cluster does not tell."""

    wait: int = 300
    """Seconds in which all must have come."""

    patience: int = 30
    """Seconds without a sign of life after which a process is taken for dead, and the others end
    (exit code 75: the same command continues)."""

    def __post_init__(self) -> None:
        for name in ("wait", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"pod.{name} is {getattr(self, name)}; allowed: 1 or more seconds")
        if self.coordinator is not None and ":" not in self.coordinator:
            raise ValueError(
                f"pod.coordinator is {self.coordinator!r}; allowed: an address and a port, such as "
                "10.0.0.2:1234"
            )


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """AdamW with float32 master weights."""

    learning_rate: float = 1e-6
    """Peak learning rate."""

    schedule: str = "constant"
    """``constant``, or after the warm-up along a ``cosine`` or a ``linear`` line to 0: at the last
    step of the run, or of the round or iteration after which the optimiser is fresh again."""

    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""

    warmup_fraction: float = 0.0
    """The same as a share of all steps; one of the two at most."""

    beta1: float = 0.9
    """Decay of the mean of the gradient."""

    beta2: float = 0.999
    """Decay of the mean of its square."""

    eps: float = 1e-8
    """Added to the root of the mean square."""

    weight_decay: float = 0.0
    """Decoupled weight decay of the matrices; norms and biases are left alone."""

    grad_clip: float | None = 1.0
    """The gradient is scaled down to this global norm. null: never."""

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"optimizer.schedule is {self.schedule!r}; allowed: {', '.join(SCHEDULES)}"
            )
        for name in ("learning_rate", "eps"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"optimizer.{name} is {getattr(self, name)}; allowed: above 0")
        for name in ("beta1", "beta2", "warmup_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"optimizer.{name} is {getattr(self, name)}; allowed: from 0, below 1"
                )
        for name in ("warmup_steps", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"optimizer.{name} is {getattr(self, name)}; allowed: 0 or above")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ValueError(f"optimizer.grad_clip is {self.grad_clip}; allowed: above 0, or null")
        if self.warmup_steps and self.warmup_fraction:
            raise ValueError(
                f"optimizer.warmup_steps is {self.warmup_steps} and optimizer.warmup_fraction is "
                f"{self.warmup_fraction}; set one of them"
            )


@dataclasses.dataclass(frozen=True)
class LearnOptions:
    """Packing, memory and precision of the learner."""

    row_tokens: int | None = None
    """Tokens of a packed row; a longer row is an error, never cut. null: the size that costs least
    for the lengths at hand: a power of two, three quarters of one, or a tight fit."""

    attention_tokens: int | None = None
    """Row length at which attention costs as much as the rest of the model, for the automatic
    ``row_tokens``. null: 400 on a CPU (measured: 340 with 0.2 M parameters, 470 with 0.85 M),
    8192 elsewhere."""

    micro_tokens: int | None = None
    """Tokens a device works on at once (at least one packed row; two for pairs); more are
    accumulated over micro-batches. null: 512 on a CPU, 16384 elsewhere."""

    logp_chunk: int = 4096
    """Tokens whose logits a device holds at once; times the vocabulary times 4 bytes of memory."""

    remat: str = "auto"
    """What the backward pass computes again instead of keeping: ``none``, all but the products with
    weights (``dots``), or a whole layer (``full``). ``auto``: none on a CPU, full elsewhere."""

    attention: str = "auto"
    """How packed rows attend: as products that XLA compiles anywhere (``xla``), or by JAX's kernel
    for TPUs (``splash``), which keeps no scores. ``auto``: splash on a TPU, xla elsewhere.
    ``splash_interpreted``: that kernel on any device, slowly, to compare values."""

    unrolled_layers: int | None = None
    """Models of at most this many layers run layer by layer instead of as a scan: a little faster,
    longer to compile. null: 4 on a CPU, 0 elsewhere."""

    dtype: str = "auto"
    """Precision of the forward and backward pass; master weights, gradients and loss are float32.
    ``auto``: float32 on a CPU, bfloat16 elsewhere."""

    def __post_init__(self) -> None:
        for name in ("row_tokens", "attention_tokens", "micro_tokens", "logp_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"learn.{name} is {value}; allowed: 1 or more")
        if self.unrolled_layers is not None and self.unrolled_layers < 0:
            raise ValueError(
                f"learn.unrolled_layers is {self.unrolled_layers}; allowed: 0 or more, or null"
            )
        for name, allowed in (("remat", REMATS), ("attention", ATTENTIONS), ("dtype", DTYPES)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"learn.{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}"
                )

    def chunk(self, rows: int) -> int:
        """Tokens of each of the ``rows`` of a device whose logits it holds at once."""
        return max(1, self.logp_chunk // rows)

    def resolve(self, backend: str) -> LearnOptions:
        """The same with the automatic choices made for that JAX backend, ``row_tokens`` apart."""
        cpu = backend == "cpu"
        # Measured on two cores. 0.2 M parameters: an update of 256 rows of 57 tokens with layers
        # unrolled 417 ms, as a scan 473; us a slot with row_tokens 96 14.8, 128 16.4, 256 19.2, 512
        # 28.2. 0.85 M: with row_tokens 160 46.1, 192 47.8, 256 52.1, 512 71.7; an update of 256
        # rows of 140 with micro_tokens 288 1850 ms, 512 1900, 1024 2000, 2048 2300.
        unrolled = 4 if cpu else 0
        fastest = "splash" if backend == "tpu" else "xla"
        return dataclasses.replace(
            self,
            attention_tokens=self.attention_tokens or (400 if cpu else 8192),
            unrolled_layers=unrolled if self.unrolled_layers is None else self.unrolled_layers,
            micro_tokens=self.micro_tokens or (512 if cpu else 16384),
            remat=("none" if cpu else "full") if self.remat == "auto" else self.remat,
            attention=fastest if self.attention == "auto" else self.attention,
            dtype=("float32" if cpu else "bfloat16") if self.dtype == "auto" else self.dtype,
        )
