"""What a run tells of its method at the start."""

import contextlib
import types

import pytest

from pruner_jax import methods
from pruner_jax.methods import MethodOptions
from pruner_jax.run.checks import cap, check_method, check_settings, idle_hosts, idle_parts
from pruner_jax.run.prune import prune, say_what_can_be_told


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["gdpo", "[48]"], "prune.length.0: the target is 4000 tokens"),
        (["gdpo", "[4001]"], None),
        (["gdpo", "[8000,4000,2000]"], "(rounds.limits 4000, 2000)"),
        (
            ["elastic", "[1024]"],
            "prune.condition.force: thoughts are ended after 1024",
        ),
        (["elastic", "[1025]"], None),
        (
            ["dot", "[71]"],
            "none of 32 responses can exceed their mean and 3 standard",
        ),
        (["dot", "[73]"], None),
        (["dot", "[4000]", "samples=10"], "prune.shape.0: nothing is cut, as none of 10 responses"),
        (["dot", "[8000]", "samples=11"], None),
        (
            ["harmonic", "[48]", "samples=10"],
            "prune.shape.0: nothing is cut, as none of 10 responses",
        ),
        (["harmonic", "[48]"], None),
        (["l1_exact", "[48]"], "prune.condition.budget: budgets are 100 to 4000"),
        (["l1_max", "[100]"], "budgets are 100 to 4000 tokens, and no response can exceed its own"),
        (["l1_max", "[4096]"], None),
        *(([name, "[48]"], None) for name in ("thinkprune", "grpo", "dapo", "adaptthink")),
    ],
)
def test_parts_that_are_inert_under_the_limits(settings, words, says):
    name, limits, *options = words
    given = settings(
        f"--method.name={name}",
        "--method.options={}",
        f"--rounds.limits={limits}",
        *(f"--method.options.{option}" for option in options),
    )
    method = methods.build(MethodOptions.of(given.method))
    told = list(idle_parts(method, given))
    assert len(told) == (says is not None) and all(says in line for line in told)


def test_hosts_without_prompts_are_told(settings):
    given = settings("--rounds.prompts=32")
    method = methods.build(MethodOptions.of(given.method))
    (told,) = idle_hosts(given, method, 64)
    assert "32 prompts a step (rounds.prompts) for 64 hosts" in told and "32 of them" in told
    assert not list(idle_hosts(given, method, 32))


def test_settings_without_which_a_method_does_nothing_are_demanded(settings):
    lenient = ("--method.options.lenient=true", "--verify.after_thought=false")
    loose = ("--verify.answer=anywhere", "--verify.unfinished_is_wrong=false")
    for words, missing in ((lenient, True), ((*lenient, *loose), False)):
        given = settings(*words)
        method = methods.build(MethodOptions.of(given.method))
        with contextlib.ExitStack() as stack:
            if missing:
                says = (
                    r"verify.answer='anywhere' \(it is 'last_boxed'\), "
                    r"verify.unfinished_is_wrong=False \(it is True\); set these"
                )
                stack.enter_context(pytest.raises(ValueError, match=says))
            check_method(given, method)


def test_they_are_told_at_the_start(settings, tmp_path, capfd):
    words = ("--method.name=gdpo", "--method.options.samples=4", "--dry_run=true")
    prune(settings(f"--out={tmp_path / 'run'}", *words))
    told = capfd.readouterr().err
    assert "gdpo: prune.length.0: the target is 4000 tokens" in told
    assert "(rounds.limits 24, 16)" in told


@pytest.mark.parametrize(
    ("words", "asks"),
    [
        ([], True),
        (["--pick.rule=last"], False),
        (["--pick.rule=last", "--method.name=harmonic"], True),  # its controller asks
        (["--pick.rule=last", "--rounds.limits=auto", "--monitor.limit=8", "--test.limit=8"], True),
    ],
)
def test_a_tolerance_that_nothing_asks_for_is_not_refused(settings, words, asks):
    given = settings("--monitor.samples=1", "--pick.tolerance=0.001", *words)
    method = methods.build(MethodOptions.of(given.method))
    with contextlib.ExitStack() as stack:
        if asks:
            stack.enter_context(pytest.raises(ValueError, match=r"monitor\.samples is 1"))
        check_settings(given, method)
    run = types.SimpleNamespace(settings=given, method=method)  # has measured nothing
    with contextlib.ExitStack() as stack:
        if asks:
            stack.enter_context(pytest.raises(AttributeError, match="outcomes"))
        say_what_can_be_told(run, None)


def test_an_empty_limit_is_that_of_the_longest_round(settings):
    """Also where the rounds go up, so that no round is longer than what is measured."""
    given = settings("--rounds.limits=[16,24,20]", "--test.limit=12")
    assert cap(given, "monitor") == 24 and cap(given, "test") == 12
