"""A trace of the steps that were asked for, with the phases of the clock in it."""

import collections
import gzip
import json

from pruner_jax.run.profile import Profile
from pruner_jax.run.prune import prune


def test_a_profile_holds_the_phases_of_its_steps_and_does_not_make_another_run(
    settings, tmp_path, capsys
):
    out = tmp_path / "run"
    words = (f"--out={out}", "--rounds.limits=[16]", "--rounds.evaluate_every=4")
    prune(settings(*words, "--profile", "--profile_steps=[2,3]"))
    assert f"profile of step 2 to 3 of this start: {out / 'profile'}" in capsys.readouterr().err
    (trace,) = (out / "profile").rglob("*.trace.json.gz")
    assert list((out / "profile").rglob("*.xplane.pb"))
    with gzip.open(trace) as file:
        events = json.load(file)["traceEvents"]
    names = collections.Counter(event.get("name") for event in events)
    assert names["step"] == 2
    assert {event["args"]["step_num"] for event in events if event.get("name") == "step"} == {
        "2",
        "3",
    }
    # Rows are weighed once in a step, and learnt from; a save follows the second one.
    assert names["weigh"] == names["learn"] / 2 == 2
    assert names["rollout"] >= 2 and names["verify"] >= 2 and names["save"] >= 2
    assert names["evaluate"] == 0
    assert any("decode" in str(name) for name in names)  # the programs too
    # The run is the same one without it.
    (out / "summary.json").unlink()
    prune(settings(*words))
    assert len(list((out / "profile").rglob("*.trace.json.gz"))) == 1


def test_a_start_that_ends_before_its_profile_says_so(tmp_path):
    said = []
    for steps, made in (([3, 4], 2), ([2, 4], 3), ([], 2)):
        profile = Profile(steps, tmp_path / str(made), said.append)
        for number in range(made):
            with profile.step(number, lambda: ()):
                pass
        profile.close()
    assert len(said) == 2
    assert "nothing was traced, for this start made 2 steps" in said[0]
    assert "it ends after step 3" in said[1]
    assert not (tmp_path / "2").exists() and list((tmp_path / "3").rglob("*.xplane.pb"))
