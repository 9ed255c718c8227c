"""One GPU in at most eight minutes: parity with the CPU, a model of 1.5B, the quickstart; one JSON.

    benchmarks/gpu.sh                               # python with what the machine needs; then this
    python benchmarks/gpu.py --out runs/gpu.json --budget 480 --peers ENV/bin/python
    python benchmarks/gpu.py --cpu-smoke            # the script itself, on any machine: tiny sizes

Parts, each in a process of its own with its share of the budget, and what earlier ones left over:

* parity: the tiny reasoner of this repository in float32, on the GPU and on the CPU of the same
  process: logits, greedy tokens, and tokens drawn with the same seed; with the GPU's own precision
  of products (TF32 where it has it) and with the full one. The promise is for the full one.
* sampler: Qwen2.5-1.5B's shape, random weights in bfloat16, the whole sampler; tokens a second, and
  the bytes that it had to read (weights, and every slot of the cache) against a measured copy.
* learner: an update of the same shape on packed rows; its FLOPs against a measured product.
* step: whole steps of ``prune`` on that shape, with a reference.
* peers: generation of ``transformers`` and steps of TRL on the same GPU, by ``--peers``, the Python
  of an environment with torch for CUDA, transformers and trl (default: this one). What it lacks for
  either of them is said in that one's rows. "times_ours" is ours over theirs, in tokens a second.
* quickstart: configs/quickstart.yaml as it stands, or as many of its steps as there is time for.

How much each does, and what it takes by roofline: gpu_sizes.py. What it is to reach:
gpu_targets.py, whose table is printed last (to the standard error). What there was no time for is
"not measured (time)". Exits with 1 if a part failed or parity is not kept, not where a target is
missed; with 2, before anything starts, where this Python lacks a package.

The JSON is written after each part. SIGTERM or Ctrl-C ends the part that runs, keeps what it noted
and writes what there is.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import gpu_sizes  # benchmarks/gpu_sizes.py
import gpu_targets  # benchmarks/gpu_targets.py

ROOT = pathlib.Path(__file__).parents[1]
SHARES = {
    "parity": 0.07,
    "sampler": 0.15,
    "learner": 0.11,
    "step": 0.33,
    "peers": 0.29,  # to load both, generate for half a minute, and one step of TRL's larger two
    "quickstart": 0.05,  # has what the others leave
}
LATE = "not measured (time)"
CUT = "not measured (ended by a signal)"
VERSIONS = (
    *("jax", "jaxlib", "jax-cuda13-plugin", "nvidia-cudnn-cu13"),
    *("flax", "optax", "orbax-checkpoint", "numpy", "transformers", "jsonargparse"),
    *("torch", "trl"),  # the peers', where --peers names no other Python
)
# What the parts import, and what that imports: setup.cfg asks for it, but for what only programs as
# answers and the data sets of TFDS need.
NEEDED = (
    *("jax", "flax", "optax", "orbax.checkpoint", "etils.epath", "numpy", "importlib_resources"),
    *("transformers", "tokenizers", "safetensors", "huggingface_hub", "jinja2", "pyarrow", "rich"),
    *("jsonargparse", "docstring_parser", "typeshed_client", "yaml"),
    *("math_verify", "latex2sympy2_extended", "antlr4", "sympy"),
)
SMOKE = "a smoke run on a CPU at tiny sizes: its figures mean nothing"

# Of a smoke run, which has little to compute and much to compile.
HASTE = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
QUICK = (
    "--problems.options={train: 64, monitor: 16, test: 16}",
    "--rounds={limits: [24], steps: 1, prompts: 2, evaluate_every: 1, save_every: 1}",
    "--method.options.samples=2",
    "--sample.rows=16",
    "--monitor={samples: 1, limit: 24}",
    "--test={samples: 1, limit: 24}",
    "--pick.rule=last",
    "--verify.workers=1",
)

Note = Callable[[str, Any], None]
"""Keeps a figure: what is noted stays, also when the part is ended."""


def main() -> int:
    """All parts, one after the other; the JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="runs/gpu.json")
    parser.add_argument("--budget", type=float, default=480, help="seconds for everything")
    parser.add_argument("--cpu-smoke", action="store_true", help=SMOKE)
    parser.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--peers", help="Python of an environment with torch for CUDA and trl")
    parser.add_argument("--commit", help="what is measured, where there is no .git")
    parser.add_argument("--work", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        return play(args)
    if gone := lacking():
        print(
            f"gpu.py: {sys.executable} lacks {', '.join(gone)}. Install them, or fetch wheels "
            "(benchmarks/gpu_wheels.sh .whl) and set WHEELS=.whl for benchmarks/gpu.sh.",
            file=sys.stderr,
        )
        return 2
    signals: list[int] = []  # that ask for an end
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals.append(number))
    found, bad = {}, []
    about = {
        "command": "benchmarks/gpu.py " + " ".join(sys.argv[1:]),
        **({"smoke": SMOKE} if args.cpu_smoke else {}),
        "commit": args.commit or commit(),
        "device": nvidia(),
        "versions": {"python": platform.python_version(), **versions()},
        "budget_s": args.budget,
    }
    began, deadline = time.monotonic(), 0.0

    def written() -> dict[str, Any]:
        """All there is so far, which is kept."""
        gpu_targets.beside(found)
        whole = {
            **about,
            "seconds": round(time.monotonic() - began, 1),
            "failed": bad,
            "targets": gpu_targets.judged(found, gpu_sizes.of(args.cpu_smoke)),
            **found,
        }
        out = pathlib.Path(args.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_name(out.name + ".new").write_text(json.dumps(whole, indent=1) + "\n")
        out.with_name(out.name + ".new").replace(out)
        return whole

    written()  # fails now, where it cannot be written
    with tempfile.TemporaryDirectory() as work:
        for name in args.parts:
            if signals:
                break
            deadline += SHARES[name] / sum(SHARES[part] for part in args.parts) * args.budget
            seconds = deadline - (time.monotonic() - began)
            found[name], code = part(name, seconds, pathlib.Path(work), args, signals)
            about["device"] |= found[name].pop("device", {})
            if code:
                bad.append(name)
            written()
    whole = written()
    print(json.dumps(whole, indent=1))
    print(gpu_targets.table(whole["targets"], found), file=sys.stderr)
    if args.cpu_smoke:
        print(SMOKE, file=sys.stderr)
    return 128 + signals[0] if signals else 1 if bad else 0


def lacking() -> list[str]:
    """The modules among those needed that are not there."""
    gone = []
    for name in NEEDED:
        try:
            there = importlib.util.find_spec(name)
        except ModuleNotFoundError:  # of what it lies in
            there = None
        if there is None:
            gone.append(name)
    return gone


def part(
    name: str,
    seconds: float,
    work: pathlib.Path,
    args: argparse.Namespace,
    signals: list[int],
) -> tuple[dict[str, Any], int]:
    """What a part noted in so many seconds, and its exit code (0 also where it ran out of them).
    ``work``: a folder of all parts. A signal that comes ends it."""
    smoke = args.cpu_smoke
    with tempfile.TemporaryDirectory() as folder:
        notes = pathlib.Path(folder) / "notes"
        command = [sys.executable, __file__, "--part", name, str(notes), f"--budget={seconds}"]
        command += [f"--work={work}", *[f"--peers={args.peers}"] * bool(args.peers)]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        env = {**os.environ, "PYTHONPATH": path} | (HASTE if smoke else {})
        if not smoke:
            env.pop("JAX_PLATFORMS", None)  # parity needs the CPU beside the GPU
        began = time.monotonic()
        process = subprocess.Popen(
            command + ["--cpu-smoke"] * smoke,
            env=env,
            stdout=sys.stderr,
            start_new_session=True,
        )
        late = ""
        while (code := process.poll()) is None:
            if signals or time.monotonic() - began >= seconds:
                late, code = CUT if signals else LATE, 0
                end(process)
                break
            time.sleep(0.05)
        lines = notes.read_text().splitlines() if notes.exists() else []
    found = dict(json.loads(line) for line in lines)
    for key in found.pop("planned", [name]):
        found.setdefault(key, late or f"failed with exit code {code}")
    return {**found, "seconds": round(time.monotonic() - began, 1)}, code


def end(process: subprocess.Popen) -> None:
    """Kill a part and all that it has started; the next one wants the GPU's memory for itself."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 5  # for those that nobody collects are never gone
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.1)


def play(args: argparse.Namespace) -> int:
    """One part, in this process."""
    name, notes = args.part[0], pathlib.Path(args.part[1])
    smoke, seconds, began = args.cpu_smoke, args.budget, time.monotonic()
    sizes = gpu_sizes.of(smoke)

    def note(key: str, value: Any) -> None:
        with notes.open("a") as file:
            file.write(json.dumps([key, value]) + "\n")

    def left() -> float:
        return seconds - (time.monotonic() - began)

    import gpu_step

    # In these the GPU is another process's; this one does not touch it.
    if name == "quickstart":
        return quickstart(note, smoke, left)
    if name == "step":
        return gpu_step.step(note, sizes, args.work)
    if name == "peers":
        import gpu_peers

        return gpu_peers.peers(note, sizes, args.work, args.peers)
    import gpu_parity
    import gpu_speed

    device = gpu_step.device(sizes)
    note("device", {"platform": device.platform, "kind": device.device_kind})
    if name == "parity":
        return gpu_parity.compare(note, smoke)
    return {"sampler": gpu_speed.sampler, "learner": gpu_speed.learner}[name](note, sizes)


def nvidia() -> dict[str, str]:
    """Driver and memory, where there is such a GPU."""
    if shutil.which("nvidia-smi") is None:
        return {}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    said = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
    return {"nvidia-smi": said[0]} if said else {}


def commit() -> str | None:
    """Of this checkout, with -dirty where files were changed."""
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:  # no git
        return None
    return done.stdout.strip() or None


def versions() -> dict[str, str]:
    """Of the packages that matter."""
    there = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return {name: there[name] for name in VERSIONS if name in there}


# -- quickstart ------------------------------------------------------------------------------------


def quickstart(note: Note, smoke: bool, left: Callable[[], float]) -> int:
    """The command of the README; stopped with what it has, where it takes too long."""
    note("planned", ["run"])
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "run"
        command = [sys.executable, "-m", "pruner_jax", "prune", "configs/quickstart.yaml"]
        command += [f"--out={out}", *QUICK * smoke]
        process = subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr)
        try:
            code, late = process.wait(timeout=max(1.0, left() - 10)), False
        except subprocess.TimeoutExpired:
            process.terminate()
            code, late = 0, True
        figures = seen(out) | {"finished": not late}
        if late:
            figures["summary"] = LATE
        elif not code:
            summary = json.loads((out / "summary.json").read_text())
            keys = ("token_ratio", "accuracy_change", "seconds")
            figures["summary"] = {key: summary[key] for key in keys}
        if not code:
            note("run", figures)
        process.wait()  # what is being saved
    return code


def seen(out: pathlib.Path) -> dict[str, Any]:
    """What a run wrote down of its steps so far."""
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    steps = [line for line in map(json.loads, lines) if "time/learn" in line]
    keys = ("time/rollout", "time/verify", "time/learn", "perf/sample_tokens_per_second")
    medians = {f"median {key}": _median([step.get(key) for step in steps]) for key in keys}
    return {"steps": len(steps), **medians}


def _median(values: list[float | None]) -> float | None:
    there = sorted(value for value in values if value is not None)
    return there[len(there) // 2] if there else None


if __name__ == "__main__":
    sys.exit(main())
