"""A program compiled: what it holds on a device, how much it computes, what it prints.

Numbers are those of one device, as XLA gives them. A program that does not fit its device is an
answer too: the compiler's own words. Leaves out what else lies in the memory meanwhile.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time

import jax

from pruner_jax.pod.programs import Program


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program. All of it is of one device."""

    seconds: float  # that it took to compile
    refusal: str | None = None  # why it would not; then nothing else is known
    arguments: int = 0  # bytes
    results: int = 0  # bytes that do not lie where arguments were
    temporaries: int = 0  # bytes
    code: int = 0  # bytes
    flops: float | None = None  # what stands in a loop is counted once
    text: str | None = None  # HLO; None: the compiler cannot print it

    @property
    def bytes(self) -> int:
        """What it needs to run: all that it is given, makes and uses."""
        return self.arguments + self.results + self.temporaries + self.code


_COMPILED: dict[str, Compiled] = {}  # of this process: the sets of a run often share a sampler


def compile_program(program: Program) -> Compiled:
    """Compile; that the program does not fit into the memory is no error, anything else is. The
    same program for the same devices is compiled once."""
    lowered = program.lower()
    mesh = jax.tree.leaves(program.arguments)[0].sharding.mesh
    devices = [f"{device.device_kind} {device!r}" for device in mesh.devices.flat]
    told = hashlib.sha256("\n".join([lowered.as_text(), *devices]).encode()).hexdigest()
    if told not in _COMPILED:
        _COMPILED[told] = _compile(lowered)
    return _COMPILED[told]


def _compile(lowered: jax.stages.Lowered) -> Compiled:
    began = time.monotonic()
    try:
        done = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Compiled(time.monotonic() - began, str(error).strip().splitlines()[0])
    seconds = time.monotonic() - began
    memory = done.memory_analysis()
    return Compiled(
        seconds=seconds,
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=(done.cost_analysis() or {}).get("flops"),
        text=_text(done),
    )


def _text(done: jax.stages.Compiled) -> str | None:
    try:
        return done.as_text()
    except jax.errors.JaxRuntimeError:  # v5p with libtpu 0.0.52, where chips gather in steps
        return None
