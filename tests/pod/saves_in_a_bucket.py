"""Run by test_saves_in_a_bucket.py as several processes: states of split arrays in a bucket.

They are saved, and read again where some are there. Prints the newest before and after.
"""

import os
import sys
from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from processes import print_alone

from pruner_jax.learn.options import PodOptions
from pruner_jax.pod.likeness import check_shared
from pruner_jax.pod.start import start
from pruner_jax.store.checkpoints import Checkpoints
from pruner_jax.store.folder import RunFolder, open_folder

print_alone()
address, saves = sys.argv[1], int(sys.argv[2])
options = PodOptions(
    coordinator=os.environ["POD_ADDRESS"],
    processes=int(os.environ["POD_COUNT"]),
    process=int(os.environ["POD_PROCESS"]),
)


def tree(scale):
    mesh = jax.make_mesh((jax.device_count(),), ("x",))
    split, same = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("x",), ()))
    whole = {"w": jnp.arange(24.0).reshape(8, 3) * scale, "step": jnp.int32(scale)}
    return jax.device_put(whole, {"w": split, "step": same})


with start(options) as pod, ExitStack() as stack:
    folder = RunFolder.at(address)
    pod.each(folder.mirror.check)

    def take():
        global folder
        folder = stack.enter_context(open_folder(address, {"a": 1}))
        folder.metrics.write_text(f"of {options.coordinator}\n")

    pod.lead(take)
    check_shared(pod, folder.checkpoints)
    checkpoints = Checkpoints(folder.checkpoints, lead=pod.lead, mirror=folder.mirror)
    newest = checkpoints.latest()
    print(newest)
    if newest is not None:
        state = checkpoints.arrays(newest, tree(0))
        parameters = checkpoints.load_parameters("start", tree(0))
        for arrays, scale in ((state, newest), (parameters, 7)):
            for name, x in arrays.items():
                for one, other in zip(x.addressable_shards, tree(scale)[name].addressable_shards):
                    np.testing.assert_array_equal(one.data, other.data)
        assert checkpoints.meta(newest)["position"] == newest
    else:
        checkpoints.save_parameters("start", tree(7))
    for number in range(saves):
        position = (0 if newest is None else newest + 1) + 1 + number
        checkpoints.save(tree(position), {"parameters": ["start"], "position": position})
    checkpoints.wait()
    print(checkpoints.latest())
    checkpoints.close()
