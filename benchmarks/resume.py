"""Kill a run at seeded instants and continue it: it must end as if nothing had happened.

    python benchmarks/resume.py configs/resume.yaml --kills 30 --seed 0

One run goes through undisturbed, a second one is timed (by then everything is compiled and kept on
disk) and must be the same. Then, kill after kill, another run of the same configuration is started,
killed with signal 9 in a chosen phase (rollout, verify, learn, save, evaluate, pick: each in turn,
at a random one of its visits and a random moment of it), and started again by the same command,
which ends it. Compared: tokens and everything else in ``rollouts/``, ``metrics.jsonl`` and
``summary.json`` (times and speeds aside), and every byte of ``export/``. Prints one line per kill.
Exits with 1 if any run ended differently, or if fewer runs than asked for were really killed.
"""

from __future__ import annotations

import argparse
import contextlib
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
INSIDE, AFTER = b"killed inside", b"killed soon after"
TIMES = ("time/", "perf/", "seconds", "timestamp")


def child(arguments: list[str]) -> None:
    """The command itself, with a phase clock that is watched: by ``PRUNER_JAX_WATCH`` it writes how
    long every visit of every phase took, or kills this process at the chosen instant."""
    from pruner_jax import cli
    from pruner_jax.run.clock import Clock

    order = json.loads(os.environ["PRUNER_JAX_WATCH"])
    visits: dict[str, list[float]] = {}
    running: list[str] = []
    whole = Clock.phase

    def kill() -> None:
        # Written at once, for nothing is flushed after it.
        os.write(2, b"\n" + (INSIDE if order["phase"] in running else AFTER) + b"\n")
        os.kill(os.getpid(), signal.SIGKILL)

    @contextlib.contextmanager
    def watched(self: Clock, name: str):
        seconds = visits.setdefault(name, [])
        if (order.get("phase"), order.get("visit")) == (name, len(seconds) + 1):
            timer = threading.Timer(order["delay"], kill)
            timer.daemon = True
            timer.start()
        began = time.perf_counter()
        running.append(name)
        with whole(self, name):
            yield
        running.pop()
        seconds.append(time.perf_counter() - began)

    Clock.phase = watched
    code = cli.main(arguments)
    if "write" in order:
        pathlib.Path(order["write"]).write_text(json.dumps(visits))
    sys.exit(code)


def start(arguments: list[str], watch: dict | None = None) -> str:
    """Run the command in a process of its own; how it ended: done, or killed inside or after the
    chosen visit. Ends this program if the command failed."""
    if watch is None:
        command = [sys.executable, "-m", "pruner_jax", *arguments]
        environment = dict(os.environ)
    else:
        command = [sys.executable, __file__, "--child", *arguments]
        environment = {**os.environ, "PRUNER_JAX_WATCH": json.dumps(watch)}
    done = subprocess.run(command, env=environment, capture_output=True)
    if done.returncode == 0:
        return "done"
    for how in (INSIDE, AFTER):
        if done.returncode == -signal.SIGKILL and how in done.stderr:
            return how.decode()
    said = done.stderr.decode(errors="replace")[-4000:]
    sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{said}")


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
    parser.epilog = "Settings may follow after --, such as -- --seed=1"
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    options, overrides = parser.parse_args(words[:end]), words[end + 1 :]
    root = pathlib.Path(options.out or tempfile.mkdtemp(prefix="resume-"))
    root.mkdir(parents=True, exist_ok=True)

    def command(name: str) -> list[str]:
        return ["prune", options.config, f"--out={root / name}", *overrides]

    began = time.perf_counter()
    start(command("whole"))
    whole = fingerprint(root / "whole")
    print(f"undisturbed: {time.perf_counter() - began:.0f} s, {len(whole)} things to compare")
    began = time.perf_counter()
    start(command("timed"), {"write": str(root / "visits.json")})
    changed = differences(whole, fingerprint(root / "timed"))
    if changed:
        print(f"not even an undisturbed run comes out the same twice: {', '.join(changed[:5])}")
        return 1
    visits = json.loads((root / "visits.json").read_text())
    phases = [phase for phase in PHASES if visits.get(phase)]
    counted = ", ".join(f"{len(visits[phase])} x {phase}" for phase in phases)
    print(f"once more:   {time.perf_counter() - began:.0f} s, {counted}")

    chance = random.Random(options.seed)
    killed = failed = 0
    for number in range(2 * options.kills):
        if killed == options.kills:
            break
        phase = phases[killed % len(phases)]
        visit = chance.randrange(len(visits[phase]))
        delay = 0.8 * chance.random() * visits[phase][visit]
        out = root / f"kill-{number:02d}"
        watch = {"phase": phase, "visit": visit + 1, "delay": delay}
        how = start(command(out.name), watch)
        if how != "done":
            killed += 1
            start(command(out.name))
        changed = differences(whole, fingerprint(out))
        failed += bool(changed)
        how = f"NOT KILLED in {phase}" if how == "done" else f"{how} {phase}"
        verdict = f"DIFFERENT: {', '.join(changed[:5])}" if changed else "same"
        print(f"{number:3d}  {how} (visit {visit + 1}, {delay:.3f} s after it began): {verdict}")
        sys.stdout.flush()
        shutil.rmtree(out)
    if options.out is None and not failed:
        shutil.rmtree(root)
    print(f"{killed} of {options.kills} kills happened; {failed} runs ended differently")
    return 1 if failed or killed < options.kills else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    sys.exit(main())
