"""Plays gcloud, the workers of a pod, and the program on them, for tests of launch/tpu_pod.sh.

``stand_in.py ROLE ARGUMENTS...``; the folder WORLD holds ``plan.json`` (what is to happen),
``world.json`` (where things are), ``calls.txt`` (gcloud's calls) and a home for each worker. Remote
commands are really run there by bash, so what the script sends has to be right; python3 and
pruner-jax on the workers are this file again. As in gcloud, ssh to several workers ends with the
first exit code that is not 0, in the order of the workers.

plan.json: {"lives": [life, ...]}, one for each time the pod is created. A life has "states" (of the
queued resource before it is ACTIVE) and "runs", one for each start of the program: {"codes": [of
each worker]}, {"taken": true} (the pod is preempted, ssh hangs), {"codes": ..., "late": N} (the pod
is preempted, the service says so N looks later), {"breaks": true, ...} (ssh breaks, the program
goes on); "seconds" is how long it runs; with "waits" it runs until there is a file "go". "fails":
what never works, of gcloud ("delete", "describe tpu-vm", "rsync" ...) or the workers ("install").
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

WORLD = pathlib.Path(os.environ["WORLD"])
WORKERS = 2


@contextlib.contextmanager
def world():
    """The state of things, locked, written back."""
    with open(WORLD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = WORLD / "world.json"
        empty = {"queue": "ABSENT", "node": "ABSENT", "created": 0, "states": [], "late": None}
        now = json.loads(path.read_text()) if path.exists() else empty
        yield now
        (WORLD / "world.new").write_text(json.dumps(now))
        os.replace(WORLD / "world.new", path)  # a caller may be killed at any time


def planned(key):
    return json.loads((WORLD / "plan.json").read_text())[key]


def plan(created):
    return planned("lives")[created - 1]


def fails(what):
    if what in planned("fails"):
        print(f"ERROR: no permission to {what}", file=sys.stderr)
        return True
    return False


def home(worker):
    return WORLD / f"worker{worker}"


def gcloud(*args):
    with world(), open(WORLD / "calls.txt", "a") as calls:
        calls.write(shlex.join(["gcloud", *args]) + "\n")
    words = [a for a in args if not a.startswith("-")]
    options = dict(a[2:].split("=", 1) for a in args if a.startswith("--") and "=" in a)
    words = words[words[0] == "alpha" :]
    verb = words[2:4] if words[0] == "compute" else words[:2]
    if fails(verb[1]) or fails(f"{verb[1]} {verb[0]}"):
        return 1
    if verb == ["queued-resources", "create"]:
        return create()
    if verb == ["queued-resources", "delete"]:
        return delete()
    if verb[1] == "describe":
        return describe(verb[0], options["format"])
    if verb == ["tpu-vm", "scp"]:
        return scp(words[4], words[5], options["worker"])
    if verb == ["tpu-vm", "ssh"]:
        return ssh(options["worker"], options["command"])
    return 0 if words == ["storage", "rsync", *words[2:]] else 2


def create():
    with world() as now:
        if now["queue"] != "ABSENT":
            return 1
        now.update(queue="ACTIVE", node="READY", created=now["created"] + 1, late=None)
        now["states"] = plan(now["created"]).get("states", [])
        now["starts"] = 0
    for worker in range(WORKERS):
        home(worker).mkdir()
    return 0


def delete():
    with world() as now:
        now.update(queue="ABSENT", node="ABSENT")
    for worker in range(WORKERS):
        for pid in home(worker).glob("pruner_jax/runs/.launch/*.pid"):
            with contextlib.suppress(OSError, IndexError):  # it may just be ending
                os.killpg(int(pid.read_text().split()[0]), signal.SIGKILL)
        shutil.rmtree(home(worker), ignore_errors=True)
    return 0


def describe(kind, field):
    with world() as now:
        if now["late"] is not None:
            now["late"] -= 1
            if now["late"] < 0:
                now.update(queue="SUSPENDED", node="PREEMPTED", late=None)
        state = now["queue" if kind == "queued-resources" else "node"]
        if kind == "queued-resources" and now["states"]:
            state = now["states"].pop(0)
            if state in ("FAILED", "SUSPENDED"):
                now["states"].insert(0, state)
    if state == "ABSENT":
        print("ERROR: (gcloud) NOT_FOUND: Resource was not found", file=sys.stderr)
        return 1
    print("out of quota for v6e" if "failedData" in field else state)
    return 0


def scp(source, target, workers):
    if workers != "all":
        if fails("scp from"):
            return 1
        shutil.copy(home(workers) / source.partition(":")[2], target)
        return 0
    for worker in range(WORKERS):
        shutil.copy(source, home(worker) / target.partition(":")[2])
    return 0


def ssh(workers, command):
    with world() as now:
        if now["node"] != "READY":
            return 255
        number = now["starts"]
        runs = plan(now["created"]).get("runs", [])
        attempt = " attempt " in command
        breaks = attempt and runs[min(number, len(runs) - 1)].pop("breaks", False)
        breaks = breaks and not now.get("broken")
        now["broken"] = now.get("broken") or breaks
    shells = []
    for worker in range(WORKERS) if workers == "all" else [int(workers)]:
        place = {"HOME": str(home(worker)), "WORKER": str(worker)}
        shell = ["bash", "-c", command]
        shells.append(subprocess.Popen(shell, cwd=home(worker), env={**os.environ, **place}))
    if breaks:
        time.sleep(1)
        for shell in shells:
            shell.kill()
        return 255
    codes = [shell.wait() for shell in shells]
    return next((code for code in codes if code), 0)


def python3(*args):
    """Of the workers, whose system manages their Python; as uv too: makes an environment whose
    pruner-jax is `program`."""
    if fails("install") or "--user" in args:
        return 1
    made = {"venv": {"python": "python3", "pruner-jax": "program"}, "--target": {"uv": "python3"}}
    for how in set(made).intersection(args):
        where = pathlib.Path(args[args.index("--target") + 1 if how == "--target" else -1]) / "bin"
        where.mkdir(parents=True)
        for name, role in made[how].items():
            script = f'#!/bin/bash\nexec {sys.executable} -S {__file__} {role} "$@"\n'
            (where / name).write_text(script)
            (where / name).chmod(0o755)
    with world(), open(WORLD / "installs.txt", "a") as installs:
        installs.write(shlex.join(args) + "\n")
    return 0


def program(*args):
    worker = int(os.environ["WORKER"])
    mine = pathlib.Path(os.environ["HOME"]) / "starts"
    number = int(mine.read_text()) if mine.exists() else 0
    mine.write_text(str(number + 1))
    with world() as now:
        run = plan(now["created"])["runs"][number]
        now["starts"] = max(now["starts"], number + 1)
        said = {"worker": worker, "args": args, "pod": os.environ.get("PRUNER_POD")}
        with open(WORLD / "program.txt", "a") as starts:
            starts.write(json.dumps(said) + "\n")
        if run.get("taken"):
            now.update(queue="SUSPENDED", node="PREEMPTED")
        if "late" in run:
            now["late"] = run["late"]
    print("step 1 of worker", worker, flush=True)
    out = pathlib.Path(next(a for a in args if a.startswith("--out=")).partition("=")[2])
    if not str(out).startswith("gs:"):
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        (out / "summary.json").write_text("{}")
        (out / "checkpoints" / "big").write_text("weights")
    if run.get("taken"):
        time.sleep(100)
    time.sleep(run.get("seconds", 0))
    while run.get("waits") and not (WORLD / "go").exists():
        time.sleep(0.1)
    return run.get("codes", [0, 0])[worker]


if __name__ == "__main__":
    role = {"gcloud": gcloud, "python3": python3, "program": program}[sys.argv[1]]
    sys.exit(role(*sys.argv[2:]))
