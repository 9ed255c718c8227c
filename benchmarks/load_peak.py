"""What loading a folder costs a host in memory: one shard of one weight beside what it keeps.

    python benchmarks/load_peak.py

Writes a folder of random bfloat16 weights (Qwen2 shapes, 1.4 GB; ``--layers`` makes it larger) and
loads it in processes of their own, whose forced CPU devices hold their arrays in the same memory:
by one process for eight devices, and by two processes for four devices each. Printed for each
process, in MB of 10^6 bytes:

read       what it converted, counted at ``hf.read_part``
held       its devices' arrays
peak       most of its own memory (RssAnon, looked at before and after every part) since its start
beside     peak less held: what loading took for a while
part       the largest part that it converted at a time
weight     the largest weight, whole and in float32: what would lie beside, were it not split
file       most pages of files that were mapped (RssFile), which the kernel takes back when it likes
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import ml_dtypes
import numpy as np

CONFIG = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 32_768,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
# Name, processes, devices of each, mesh, table of rules, dtype. No mesh: one device has all.
CASES = (
    ("learner, one device", 1, 1, None, "learn", "float32"),
    ("learner, fsdp 8", 1, 8, (1, 8, 1), "learn", "float32"),
    ("learner, data 2 fsdp 2 tensor 2", 1, 8, (2, 2, 2), "learn", "float32"),
    ("learner, fsdp 8 on two hosts", 2, 4, (1, 8, 1), "learn", "float32"),
    ("sampler, fsdp 4 tensor 2", 1, 8, (1, 4, 2), "decode", "bfloat16"),
    ("sampler, data 4 tensor 2, two hosts", 2, 4, (4, 1, 2), "decode", "bfloat16"),
)
COLUMNS = ("read", "held", "peak", "beside", "part", "weight", "file", "seconds")


def make_folder(folder: pathlib.Path, layers: int) -> int:
    """A folder of random weights; its size in bytes."""
    from pruner_jax.policy.config import from_hf
    from pruner_jax.policy.tensorfile import write_tensors
    from pruner_jax.policy.weights import tensors

    raw = CONFIG | {"num_hidden_layers": layers}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    kind = np.dtype(ml_dtypes.bfloat16)
    shapes = {name: (weight.hf_shape, kind) for name, _, _, weight in tensors(from_hf(raw))}
    draw = np.random.default_rng(0).standard_normal

    def numbers(name: str) -> np.ndarray:
        return (0.02 * draw(shapes[name][0], np.float32)).astype(kind)

    write_tensors(folder / "model.safetensors", shapes, numbers)
    return (folder / "model.safetensors").stat().st_size


def memory(field: str) -> int:
    """Bytes of this process now, by a field of its status."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}; this script needs Linux")


def load_here(case: int, folder: pathlib.Path, address: str, process: int) -> dict[str, float]:
    """Loads the folder as one process of a case; what it took."""
    import jax

    _, processes, _, sizes, rules, dtype = CASES[case]
    if processes > 1:
        jax.distributed.initialize(address, num_processes=processes, process_id=process)
    from pruner_jax.mesh import DECODE_RULES, LEARN_RULES, make_mesh
    from pruner_jax.policy import hf
    from pruner_jax.policy.weights import abstract, weight_shardings

    config, stacked = hf.read_config(folder), rules == "learn"
    places = None
    if sizes is not None:
        table = LEARN_RULES if stacked else DECODE_RULES
        places = weight_shardings(config, make_mesh(*sizes), table, stacked=stacked)
    read_part, parts, seen = hf.read_part, [], []

    def look() -> None:
        seen.append([memory("RssAnon"), memory("RssFile")])

    def counted(*arguments):
        look()  # the part before is on its devices
        part = read_part(*arguments)
        look()
        parts.append(part.nbytes)
        return part

    hf.read_part = counted
    jax.block_until_ready(jax.device_put(np.zeros(1)))
    before, began = memory("RssAnon"), time.perf_counter()
    params = hf.read_weights(folder, config, dtype, places, stacked=stacked)
    jax.block_until_ready(params)
    seconds = time.perf_counter() - began
    look()
    held = sum(s.data.nbytes for x in jax.tree.leaves(params) for s in x.addressable_shards)
    peak, files = np.max(seen, axis=0) - [before, 0]
    whole = max(4 * x.size for x in jax.tree.leaves(abstract(config, dtype, stacked=stacked)))
    megabytes = {
        "read": sum(parts),
        "held": held,
        "peak": float(peak),
        "beside": float(peak - held),
        "part": max(parts),
        "weight": whole,
        "file": float(files),
    }
    if processes > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices("loaded")
    return {name: size / 1e6 for name, size in megabytes.items()} | {"seconds": seconds}


def measure(case: int, folder: pathlib.Path) -> list[dict[str, float]]:
    """What each process of a case took."""
    _, processes, devices, *_ = CASES[case]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    flags = {
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    words = [sys.executable, __file__, "--folder", folder, "--case", str(case), "--at", address]
    running = [
        subprocess.Popen([*words, str(i)], env=os.environ | flags, stdout=subprocess.PIPE)
        for i in range(processes)
    ]
    try:
        outs = [process.communicate(timeout=600)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    if any(process.returncode for process in running):
        raise SystemExit(f"a process of case {case} failed")
    return [json.loads(out.splitlines()[-1]) for out in outs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=14, help="of the model")
    parser.add_argument("--folder", type=pathlib.Path, help="a folder that such a model lies in")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--at", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case is not None:
        address, process = given.at
        print(json.dumps(load_here(given.case, given.folder, address, int(process))))
        return
    with tempfile.TemporaryDirectory() as room:
        folder = given.folder or pathlib.Path(room) / "model"
        if given.folder is None:
            size = make_folder(folder, given.layers)
            print(f"{size / 1e6:.0f} MB of bfloat16, {2 * size / 1e6:.0f} MB in float32\n")
        print(f"{'':36}", *(f"{name:>7}" for name in COLUMNS))
        for case, (name, processes, *_) in enumerate(CASES):
            for process, found in enumerate(measure(case, folder)):
                said = name if processes == 1 else f"{name}: {process}"
                print(f"{said:36}", *(f"{found[column]:7.0f}" for column in COLUMNS), flush=True)


if __name__ == "__main__":
    main()
