"""Run by test_processes.py: every device of every process adds its number to one sum."""

import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from processes import join

process, count = join()
if sys.argv[1:] == ["fail"] and process == 1:
    raise SystemExit("process 1 was told to fail")
mesh = jax.make_mesh((jax.device_count(),), ("all",))
numbers = np.arange(jax.device_count(), dtype=np.float32)
spread = jax.make_array_from_callback(
    numbers.shape, NamedSharding(mesh, PartitionSpec("all")), lambda index: numbers[index]
)
total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))(spread)
print(process, count, jax.local_device_count(), float(total), os.getpid())
