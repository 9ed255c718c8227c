"""Run by test_folders.py as several processes: a folder read by its slices, and written again."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import jax
import numpy as np
from processes import join

from pruner_jax.mesh import DECODE_RULES, LEARN_RULES, make_mesh
from pruner_jax.pod.together import Pod
from pruner_jax.pod.watch import Watch
from pruner_jax.policy import export, hf
from pruner_jax.policy.handle import load, save


def main(source: Path, room: Path) -> None:
    process, _ = join()
    read_part, sizes = hf.read_part, []

    def counted(*arguments):
        part = read_part(*arguments)
        sizes.append(part.nbytes)
        return part

    hf.read_part = counted
    for name, rules, shape in (
        ("fsdp", LEARN_RULES, (1, -1, 1)),
        ("tensor", LEARN_RULES, (1, -1, 2)),
        ("replicas", DECODE_RULES, (-1, 1, 2)),
    ):
        sizes.clear()
        mesh = make_mesh(*shape)
        here = np.vectorize(lambda device: device.process_index == process)(mesh.devices).ravel()
        first, length = process * jax.local_device_count(), jax.local_device_count()
        assert here[first : first + length].all() and here.sum() == length
        policy = load(source, mesh=mesh, rules=rules)
        arrays = jax.tree.leaves(policy.params)
        distinct = {
            (i, str(shard.index)): shard.data.nbytes
            for i, x in enumerate(arrays)
            for shard in x.addressable_shards
        }
        held = sum(distinct.values())
        assert sum(sizes) == held
        print(name, held / sum(x.nbytes for x in arrays))
        save(policy, room / name)  # every process is told the same place
        save(policy, room / f"{name}_half", dtype="bfloat16")
    (room / "full").mkdir(exist_ok=True)
    (room / "full" / "thesis.txt").write_text("of value")
    with Watch(60) as watch:
        pod = Pod(process, jax.process_count(), watch)
        refused(policy, room, "full", pod)
        if process == 0:
            export.write_tensors = breaks
        refused(policy, room, "broken", pod)
    try:
        make_mesh(1, 1, -1)
    except ValueError as error:
        print(error)


def breaks(path, tensors, numbers) -> None:
    """A disk that is full after three tensors."""
    for name in list(tensors)[:3]:
        path.write_bytes(numbers(name).tobytes())
    raise OSError(errno.ENOSPC, "full")


def refused(policy, room: Path, name: str, pod: Pod) -> None:
    """What process 0 cannot write, none has written, and all know why; and all go on."""
    try:
        save(policy, room / name, each=pod.each)
    except (ValueError, OSError) as error:
        print(type(error).__name__, str(error).replace(str(room), "ROOM"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
