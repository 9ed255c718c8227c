"""What a run's trackers get: of backends that are there, that are not, and that fail."""

import sys
import types

import pytest

from pruner_jax.config import PruneConfig, load
from pruner_jax.report import track
from pruner_jax.report.track import Tracker, TrackOptions, check_installed
from pruner_jax.store.records import Metrics


def step(n, **others):
    return {"kind": "step", "round": 1, "step": n, "loss": n / 2, "prune/kept": True, **others}


def evaluation(n):
    return {"kind": "evaluate", "round": 1, "step": n, "accuracy": 0.5, "parameters": "start"}


def opened(root, *to, first=0, log=None, **options):
    """The metrics of a start of the run in this folder, with its trackers; ``first``: its step."""
    tracker = Tracker(TrackOptions(list(to), **options), root, {"seed": 0}, log or print)
    tracker.open(first)
    return Metrics(root / "metrics.jsonl", tracker), tracker


class Backend(types.ModuleType):
    """A stand-in for wandb or trackio, which share this much of their interface."""

    def __init__(self, fails=()):
        super().__init__("backend")
        self.started, self.logged, self.finished, self.fails = [], [], 0, fails

    def init(self, **settings):
        self._may_fail("init")
        print("hello")  # as trackio does
        self.started.append(settings)
        return self

    def log(self, numbers, step):
        self._may_fail("log")
        self.logged.append((step, numbers))

    def finish(self):
        self._may_fail("finish")
        self.finished += 1

    def _may_fail(self, what):
        if what in self.fails:
            raise OSError(f"no {what}")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_numbers_of_steps_and_evaluations_are_sent(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, backend := Backend())
    root = tmp_path / "my run"
    root.mkdir()
    metrics, tracker = opened(root, name, project="p")
    metrics.append(evaluation(0))
    metrics.append(step(1, reason="words", broken=float("nan")))
    metrics.append({"kind": "pick", "round": 1, "step": 0, "kept": True})
    tracker.close()
    assert backend.logged == [
        (0, {"monitor/round": 1, "monitor/accuracy": 0.5}),
        (1, {"round": 1, "loss": 0.5}),
    ]
    assert backend.finished == 1
    (settings,) = backend.started
    assert settings["project"] == "p" and settings["config"] == {"seed": 0}
    assert settings["resume"] == "allow"
    assert capsys.readouterr().out == ""

    # The next start is the same run there, whatever it is called now.
    metrics, tracker = opened(root, name, first=2, name="other")
    metrics.append(step(2))
    key = {"wandb": "id", "trackio": "name"}[name]
    assert backend.started[1][key] == settings[key] and settings[key].startswith("my-run-")
    assert backend.logged[2:] == [(2, {"round": 1, "loss": 1.0})]


def test_a_start_between_a_step_and_its_evaluation_sends_the_step_again(tmp_path, monkeypatch):
    """For TensorBoard forgets all that it has of the step."""
    monkeypatch.setitem(sys.modules, "wandb", backend := Backend())
    Metrics(tmp_path / "metrics.jsonl").append(step(1))
    Metrics(tmp_path / "metrics.jsonl").append(step(2))
    metrics, _ = opened(tmp_path, "wandb", first=2)
    metrics.append(evaluation(2))
    assert [(n, "loss" in numbers) for n, numbers in backend.logged] == [(2, True), (2, False)]


def test_what_fails_is_told_once_and_stops_nothing(tmp_path, monkeypatch):
    for when in ("log", "finish"):
        monkeypatch.setitem(sys.modules, "wandb", Backend(fails=(when,)))
        monkeypatch.setitem(sys.modules, "trackio", well := Backend())
        told, root = [], tmp_path / when
        root.mkdir()
        metrics, tracker = opened(root, "wandb", "trackio", log=told.append)
        for n in range(3):
            metrics.append(step(n))
        tracker.close()
        assert len(told) == 1 and "wandb failed" in told[0] and f"no {when}" in told[0]
        assert len(well.logged) == 3 and metrics.count == 3


def test_one_that_cannot_be_opened_stops_the_start(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", Backend(fails=("init",)))
    monkeypatch.setitem(sys.modules, "trackio", well := Backend())
    with pytest.raises(ValueError, match=r"'wandb', which cannot be opened .*no init.*track\.to"):
        opened(tmp_path, "trackio", "wandb")
    assert well.started and not well.logged
    opened(tmp_path)  # none is asked for
    assert len(well.started) == 1


def test_a_package_that_is_not_there_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(track.PACKAGES, "wandb", "no_such_package")
    with pytest.raises(ValueError, match=r"track\.to has 'wandb'.*pip install 'pruner-jax\[track"):
        check_installed(TrackOptions(["wandb"]))
    check_installed(TrackOptions())


def test_settings_name_the_trackers():
    words = ["--model=m", "--out=o", "--track.to=[tensorboard,wandb]", "--track.project=mine"]
    assert load(PruneConfig, None, words).track == TrackOptions(["tensorboard", "wandb"], "mine")
    with pytest.raises(ValueError, match=r"track\.to.*mlflow"):
        load(PruneConfig, None, ["--model=m", "--out=o", "--track.to=[mlflow]"])


def test_tensorboard_shows_each_step_once_after_a_restart(tmp_path):
    pytest.importorskip("tensorboardX")
    metrics, tracker = opened(tmp_path, "tensorboard")
    for n in (1, 2, 3):
        metrics.append(step(n))
    tracker.close()
    metrics.cut(1)  # killed; the checkpoint was of step 1
    metrics, tracker = opened(tmp_path, "tensorboard", first=2)
    metrics.append(step(2, loss=10.0))
    tracker.close()
    assert shown(tmp_path / "tensorboard", "loss") == [(1, 0.5), (2, 10.0)]


def shown(folder, name):
    """What TensorBoard shows of a number: a file that starts at a step hides what earlier files
    have of it and of later steps."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    values = {}
    for path in sorted(folder.iterdir()):
        data, place = path.read_bytes(), 0
        while place < len(data):  # a record: length (8), its check (4), event, its check (4)
            size = int.from_bytes(data[place : place + 8], "little")
            event = Event.FromString(data[place + 12 : place + 12 + size])
            place += 16 + size
            if event.session_log.status == SessionLog.START:
                values = {n: value for n, value in values.items() if n < event.step}
            for value in event.summary.value:
                if value.tag == name:
                    values[event.step] = value.simple_value
    return sorted(values.items())
