"""Kill a run at seeded instants and continue it: it must end as if nothing had happened.

    python benchmarks/resume.py configs/resume.yaml --kills 30 --seed 0

One run goes through undisturbed. Then, kill after kill, another run of the same configuration is
started, killed with signal 9 inside a chosen phase (rollout, verify, learn, save, evaluate, pick:
each in turn, at a random one of its visits and a random moment of it), and started again by the
same command until it ends. Compared: tokens and everything else in ``rollouts/``, ``metrics.jsonl``
and ``summary.json`` (times and speeds aside), and every byte of ``export/``. Prints one line per
kill and exits with 1 if any run ended differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

PHASES = ("rollout", "verify", "learn", "save", "evaluate", "pick")
TIMES = ("time/", "perf/", "seconds", "timestamp")


def child(arguments: list[str]) -> None:
    """The command itself, with a phase clock that kills this process at the chosen instant."""
    from pruner_jax import cli
    from pruner_jax.run.clock import Clock

    phase, visit, delay = json.loads(os.environ["PRUNER_JAX_KILL"])
    seen = 0
    whole = Clock.phase

    def watched(self: Clock, name: str):
        nonlocal seen
        if name == phase:
            seen += 1
            if seen == visit:
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return whole(self, name)

    Clock.phase = watched
    sys.exit(cli.main(arguments))


def start(arguments: list[str], kill: tuple[str, int, float] | None = None) -> int:
    """Run the command in a process of its own; its exit code (-9: killed)."""
    if kill is None:
        command = [sys.executable, "-m", "pruner_jax", *arguments]
        environment = dict(os.environ)
    else:
        command = [sys.executable, __file__, "--child", *arguments]
        environment = {**os.environ, "PRUNER_JAX_KILL": json.dumps(kill)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, -signal.SIGKILL):
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.returncode


def timeless(value: object) -> object:
    """A JSON value without the fields that measure time."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not k.startswith(TIMES)}
    if isinstance(value, list):
        return [timeless(part) for part in value]
    return value


def fingerprint(out: pathlib.Path) -> dict[str, str]:
    """What has to be equal, by name."""
    import pyarrow.parquet as pq

    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()[:16]

    lines = (out / "metrics.jsonl").read_text().splitlines()
    found = {
        f"metrics line {n}": json.dumps(timeless(json.loads(line))) for n, line in enumerate(lines)
    }
    found["summary"] = json.dumps(timeless(json.loads((out / "summary.json").read_text())))
    for path in sorted((out / "rollouts").iterdir()):
        table = pq.read_table(path)
        found[f"rollouts/{path.name}"] = digest(json.dumps(table.to_pylist()).encode())
    for path in sorted(path for path in (out / "export").rglob("*") if path.is_file()):
        found[str(path.relative_to(out))] = digest(path.read_bytes())
    return found


def differences(a: dict[str, str], b: dict[str, str]) -> list[str]:
    """Names whose value is not the same on both sides."""
    return [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]


def main() -> int:
    """The campaign."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("config")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", default=None, help="folder for the runs; a temporary one if absent"
    )
    parser.add_argument("overrides", nargs="*", help="settings after --, such as --seed=1")
    options = parser.parse_args()
    root = pathlib.Path(options.out or tempfile.mkdtemp(prefix="resume-"))
    root.mkdir(parents=True, exist_ok=True)

    def command(name: str) -> list[str]:
        return ["prune", options.config, f"--out={root / name}", *options.overrides]

    began = time.perf_counter()
    start(command("whole"))
    whole = fingerprint(root / "whole")
    print(f"undisturbed: {time.perf_counter() - began:.0f} s, {len(whole)} things to compare")

    chance = random.Random(options.seed)
    failed = 0
    for number in range(options.kills):
        phase = PHASES[number % len(PHASES)]
        # Phases are visited some ten times in a short run; a visit that never comes ends
        # undisturbed, which is reported and not counted as a kill.
        visit = chance.randint(1, {"pick": 2, "save": 4, "evaluate": 4}.get(phase, 10))
        delay = chance.random() * {"pick": 0.02, "save": 0.2}.get(phase, 0.5)
        out = root / f"kill-{number:02d}"
        code = start(command(out.name), (phase, visit, delay))
        if code == -signal.SIGKILL:
            start(command(out.name))
        changed = differences(whole, fingerprint(out))
        failed += bool(changed)
        how = "killed" if code == -signal.SIGKILL else "NOT KILLED"
        verdict = f"DIFFERENT: {', '.join(changed[:5])}" if changed else "same"
        print(f"{number:3d}  {how} in {phase} (visit {visit}, after {delay:.3f} s): {verdict}")
        sys.stdout.flush()
        shutil.rmtree(out)
    if options.out is None and not failed:
        shutil.rmtree(root)
    print(f"{options.kills - failed} of {options.kills} runs ended as the undisturbed one")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    sys.exit(main())
