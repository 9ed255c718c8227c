"""What it costs that all hosts get all rows, and what it gains: packing from all rows.

    python benchmarks/pod.py [--processes 4] [--rows 2048] [--limit 4096] [--mean 1500]

Starts processes on the loopback interface, each with a share of made-up rows of a step, and times
the exchange (`run.spread`): bytes, seconds, and what a step's metrics would show; and the digests
of a step's rows, which the hosts compare before they learn from them. Beside it, for
more and more hosts, how full the learner's micro-batches are when it packs from the rows of all
hosts, and when each host packs its own and all run as many micro-batches as the fullest has.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np


def lengths(rows: int, mean: int, limit: int, seed: int) -> np.ndarray:
    """Log-normal lengths, some cut at the limit, as of reasoning models; int [B]."""
    draws = np.random.default_rng(seed).lognormal(np.log(mean) - 0.32, 0.8, rows)
    return np.clip(draws, 16, limit).astype(np.int32)


# -- the exchange ----------------------------------------------------------------------------------


def made_up(length_B: np.ndarray, samples: int):
    """Graded rows of such lengths, without their prompts."""
    from pruner_jax.run.spread import ragged
    from pruner_jax.types import Graded, Origin, Rollouts

    B, T = len(length_B), int(length_B.max())
    inside_BT = np.arange(T) < length_B[:, None]
    group_B = (np.arange(B) // samples).astype(np.int32)
    some_B = np.zeros(B, np.int32)
    rollouts = Rollouts(
        prompts=None,
        group_B=group_B,
        sample_B=(np.arange(B) % samples).astype(np.int32),
        tokens_BT=np.where(inside_BT, np.arange(T), 0).astype(np.int32),
        logp_BT=np.where(inside_BT, -0.5, np.nan).astype(np.float32),
        origin_BT=np.where(inside_BT, Origin.SAMPLED, Origin.PAD).astype(np.uint8),
        length_B=length_B,
        thinking_B=length_B,
        finished_B=np.ones(B, bool),
        text=tuple("word " * int(n) for n in length_B),
        temperature=1.0,
        limit=T,
        mode_B=some_B,
        budget_B=some_B - 1,
        parent_B=some_B - 1,
    )
    verdict_B = np.zeros(B, np.int8)
    return Graded(ragged(rollouts), verdict_B, verdict_B.astype(np.float32), (None,) * B)


def one_process(options: argparse.Namespace) -> None:
    """A process of the pod: exchange its rows three times, print the last."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    from pruner_jax.learn.options import PodOptions
    from pruner_jax.pod import wire
    from pruner_jax.pod.start import start

    pod_options = PodOptions(
        coordinator=options.address, processes=options.processes, process=options.process
    )
    with start(pod_options) as pod:
        each = options.rows // pod.count
        own = made_up(lengths(each, options.mean, options.limit, pod.index), options.samples)
        size = len(wire.pack(own))
        for _ in range(3):
            pod.gather(None, "begin")
            began = time.perf_counter()
            parts = pod.gather(own, "rows")
            seconds = time.perf_counter() - began
        sizes = pod.gather(size, "sizes")
        tokens = sum(int(part.rollouts.length_B.sum()) for part in parts)
        if pod.leads:
            found = {"rows": options.rows, "tokens": tokens, "bytes": sum(sizes)}
            print(json.dumps(found | {"bytes_per_token": sum(sizes) / tokens, "seconds": seconds}))


def exchange(options: argparse.Namespace) -> dict[str, float]:
    """What the first of several processes prints."""
    words = [sys.executable, os.path.abspath(__file__), f"--processes={options.processes}"]
    for name in ("rows", "limit", "mean", "samples"):
        words.append(f"--{name}={getattr(options, name)}")
    address = f"127.0.0.1:{20000 + os.getpid() % 20000}"
    running = [
        subprocess.Popen(
            [*words, f"--process={i}", f"--address={address}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(options.processes)
    ]
    said = [process.communicate()[0] for process in running]
    lines = [line for line in said[0].splitlines() if line.startswith("{")]
    return json.loads(lines[-1])


# -- what is compared ------------------------------------------------------------------------------


def comparison(options: argparse.Namespace) -> float:
    """Processor seconds for the digests of a step's rows, which every host compares first."""
    from pruner_jax.learn.rows import Rows
    from pruner_jax.pod.likeness import digests_of_rows

    length_B = lengths(options.rows, options.mean, options.limit, seed=1)
    train_BT = np.arange(length_B.max()) < length_B[:, None]
    number_BT = np.random.default_rng(1).normal(size=train_BT.shape).astype(np.float32)
    rows = Rows(
        prompt=tuple(np.zeros(200, np.int32) for _ in length_B),
        response=tuple(np.arange(n, dtype=np.int32) for n in length_B),
        train_BT=train_BT,
        weight_BT=number_BT,
        old_logp_BT=number_BT,
        ref_logp_BT=number_BT,
    )
    began = time.process_time()
    digests_of_rows(rows)
    return time.process_time() - began


# -- packing ---------------------------------------------------------------------------------------


def fill(options: argparse.Namespace, hosts: int, rows: int) -> tuple[float, float]:
    """Shares of the computed slots that hold tokens: packed from all rows, and host by host."""
    from pruner_jax.learn import pack
    from pruner_jax.learn.options import LearnOptions
    from pruner_jax.learn.rows import rows_of_examples
    from pruner_jax.objective.loss_spec import LossSpec

    shards = 4 * hosts  # chips of a host
    length_B = lengths(rows, options.mean, options.limit, seed=1)
    prompt = np.zeros(200, np.int32)
    rows_all = rows_of_examples([(prompt, np.zeros(n, np.int32), 1.0) for n in length_B])
    spec, learn = LossSpec(kind="ce"), LearnOptions().resolve("tpu")
    sizes = pack.plan(rows_all, spec, learn, shards=shards)
    used = pack.used(rows_all).sum()

    def micro_batches(index: np.ndarray, sizes: pack.Sizes) -> int:
        return int(pack.first_fit(rows_all.take(index), spec, sizes).micro_B.max()) + 1

    together = micro_batches(np.arange(rows), sizes)
    own = dataclasses.replace(sizes, rows=sizes.rows // hosts)
    apart = max(micro_batches(np.arange(h, rows, hosts), own) for h in range(hosts))
    slots = sizes.rows * sizes.tokens
    return used / (together * slots), used / (apart * slots)


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rows", type=int, default=2048, help="of a step, on all hosts")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--limit", type=int, default=4096)
    parser.add_argument("--mean", type=int, default=1500)
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process is not None:
        return one_process(options)
    found = exchange(options)
    print(
        f"{options.processes} processes, {found['rows']} rows, {found['tokens']:,} tokens: "
        f"{found['bytes'] / 1e6:.1f} MB ({found['bytes_per_token']:.1f} bytes a token) "
        f"in {found['seconds']:.2f} s"
    )
    print(f"digests of a step's rows: {comparison(options):.3f} s of a processor")
    for hosts in (1, 2, 4, 8, 16, 32):
        together, apart = fill(options, hosts, options.rows)
        print(f"{hosts:>3} hosts of 4 chips: fill {together:.3f} from all rows, {apart:.3f} apart")


if __name__ == "__main__":
    main()
