"""What has to be the same on all hosts, and that what differs is named."""

import contextlib
import dataclasses
import importlib.metadata
import itertools
import threading
import types

import jax
import numpy as np
import pytest
from board import meet

from pruner_jax.config import PruneConfig, load
from pruner_jax.learn.rows import Rows
from pruner_jax.pod import likeness as module
from pruner_jax.pod.likeness import LIKE, check_rows, digests_of_problems, likeness
from pruner_jax.pod.together import ALONE, Unlike
from pruner_jax.run import prune as main_job
from pruner_jax.run.surroundings import Surroundings
from pruner_jax.types import Problem


def of(out="a"):
    return likeness(load(PruneConfig, None, ["--model=m", f"--out={out}"]))


def told(*values, what="the hosts' settings"):
    """What processes with these values are told, all the same; None where they may go on."""
    found = meet(*(lambda pod, own=own: pod.agree(what, lambda: own, LIKE) for own in values))
    assert len({(type(one), str(one)) for one in found}) == 1, found
    assert found[0] is None or isinstance(found[0], Unlike)
    return found[0] and str(found[0])


def test_an_address_is_the_same_on_all_hosts_a_path_need_not_be():
    assert told(of("a"), of("/b/a")) is None and told(of("gs://b/a"), of("gs://b/a")) is None
    for other in ("a", "gs://b/c"):
        assert 'out is "gs://b/a" on process 0 and ' in told(of("gs://b/a"), of(other))


def test_the_process_that_differs_is_named_and_long_values_are_cut():
    long = {"x": "y" * 1000}
    assert told(long, long, long) is None
    said = told(long, long, {"x": "y" * 999 + "z"})
    assert "the hosts' settings differ: x is yyy" in said and "on process 2; start all" in said
    assert len(said) < 400


def test_other_code_is_refused(monkeypatch, tmp_path):
    (tmp_path / "pod").mkdir()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "pod" / "likeness.py"))
    found = []
    for name, text in (("a", "x = 1"), ("a", "x = 1"), ("a", "x = 2"), ("b", "x = 2")):
        (tmp_path / f"{name}.py").write_text(text)
        found.append(of())
        (tmp_path / f"{name}.py").unlink()
    assert told(*found[:2]) is None
    assert all("differ: program is " in told(*pair) for pair in itertools.pairwise(found[1:]))


@pytest.mark.parametrize(
    "package",
    ["jax", "jinja2", "math-verify", "pydantic-monty", "reasoning-gym", "tensorstore"],
)
def test_other_versions_are_refused(monkeypatch, package):
    here = of()
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.0" if name == package else real(name)
    )
    assert f"version of {package} is {real(package)} on process 0 and 0.0 on" in told(here, of())


@contextlib.contextmanager
def told_to_jax(name, value):
    before = jax.config.values[name]
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("jax_threefry_partitionable", False, True),
        ("jax_default_matmul_precision", "float32", True),
        ("jax_numpy_dtype_promotion", "strict", True),
        ("jax_debug_nans", True, True),
        ("jax_compilation_cache_dir", "/of/this/host", False),
        ("jax_platforms", "tpu,cpu", False),
        ("jax_num_cpu_devices", None, False),
        ("jax_log_compiles", True, False),
        ("jax_traceback_filtering", "off", False),
    ],
)
def test_of_jax_what_changes_numbers_is_compared(name, value, refused):
    here = of()
    assert (name in here) is refused
    if value is not None and name != "jax_platforms":
        with told_to_jax(name, value):
            said = told(here, of())
        assert f"{name} is " in said if refused else said is None


def test_other_devices_are_refused(monkeypatch):
    found = []
    for kind, count in (("TPU v5 lite", 4), ("TPU v5 lite", 8), ("TPU v6 lite", 8)):
        chips = [types.SimpleNamespace(device_kind=kind)] * count
        monkeypatch.setattr(jax, "local_devices", lambda chips=chips: chips)
        found.append(of())
    assert "number of devices is 4 on process 0 and 8 on process 1" in told(*found[:2])
    assert "kind of the devices is TPU v5 lite on process 0 and TPU v6" in told(*found[1:])


PROBLEM = Problem(
    "1",
    "q",
    "4",
    source="s",
    difficulty=1.0,
    messages=({"role": "user", "content": "a prompt"},),
    columns={"tests": np.arange(2000), "of": {"b", "a"}, "more": {"x": 1, (1, 2): b"y"}},
)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "2"},
        {"question": "Q"},
        {"answer": "5"},
        {"checker": "exact"},
        {"source": "t"},
        {"difficulty": 2.0},
        {"messages": ({"role": "user", "content": "another"},)},
        {"columns": PROBLEM.columns | {"tests": np.where(np.arange(2000) == 999, 0, 1)}},
        {"columns": PROBLEM.columns | {"more": {"x": 1, (1, 2): b"z"}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_problems_that_differ_in_anything_are_refused(change):
    other = dataclasses.replace(PROBLEM, **change)
    first, second = (digests_of_problems({"train": [one]}) for one in (PROBLEM, other))
    assert "the set train (1 problems) is " in told(first, second)


def test_problems_that_are_the_same_are_found_so():
    again = dataclasses.replace(
        PROBLEM, columns=dict(reversed(PROBLEM.columns.items())) | {"of": {"a", "b"}}
    )
    sets = [{"train": [PROBLEM]}, {"train": [again]}]
    assert told(*map(digests_of_problems, sets)) is None
    sets = [{"train": [dataclasses.replace(PROBLEM, columns={"x": object()})]} for _ in range(2)]
    assert told(*map(digests_of_problems, sets)) is None


def test_models_that_differ_are_refused(tmp_path):
    """In a number of the weights' first megabyte, in weights at large, in the tokenizer."""
    weights = np.random.default_rng(0).integers(0, 255, 3 << 20, np.uint8)
    first = weights.copy()
    first[1 << 19] ^= 1
    files = {"config.json": b"{}", "tokenizer.json": b"[1]", "model.safetensors": weights.tobytes()}
    others = {
        "same": {},
        "one": {"model.safetensors": first.tobytes()},
        "all": {"model.safetensors": (weights ^ 1).tobytes()},
        "longer": {"model.safetensors": weights.tobytes() + b"0"},
        "tokenizer": {"tokenizer.json": b"[2]"},
        "template": {"chat_template.jinja": b"x"},
    }
    for name, changed in {"base": {}, **others}.items():
        (tmp_path / name).mkdir()
        for file, data in (files | changed).items():
            (tmp_path / name / file).write_bytes(data)

    def check(name):
        def work(pod):
            around = Surroundings(None, pod, None, None, None, None)
            around.check_models({"model": str(tmp_path / name)})

        return work

    for name, changed in others.items():
        for error in meet(check("base"), check(name)):
            assert (error is None) is (not changed), name
            for file in changed:
                assert isinstance(error, Unlike) and f"model: {file} is " in str(error)


ROWS = Rows(
    prompt=(np.array([7, 7], np.int32), np.array([7], np.int32)),
    response=(np.array([1, 2, 9], np.int32), np.array([3, 9], np.int32)),
    train_BT=np.array([[True, True, True], [True, True, False]]),
    weight_BT=np.array([[1, 1, 1], [-1, -1, 0]], np.float32),
    old_logp_BT=np.full((2, 3), -0.5, np.float32),
    ref_logp_BT=np.full((2, 3), -0.25, np.float32),
    limit=3,
)


def changed(name, place, value):
    array = getattr(ROWS, name).copy()
    array[place] = value
    return dataclasses.replace(ROWS, **{name: array})


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (dataclasses.replace(ROWS, prompt=ROWS.response, response=ROWS.prompt), "prompt"),
        (dataclasses.replace(ROWS, response=(ROWS.response[0], ROWS.prompt[0])), "response"),
        (changed("train_BT", (0, 0), False), "train"),
        (changed("weight_BT", (1, 0), -2), "weight"),
        (changed("old_logp_BT", (1, 1), np.nextafter(np.float32(-0.5), 0)), "old logp"),
        (changed("ref_logp_BT", (0, 2), np.nan), "ref logp"),
        (dataclasses.replace(ROWS, ref_logp_BT=None), "ref logp"),
        (dataclasses.replace(ROWS, pair_B=np.zeros(2, np.int32)), "pair"),
        (dataclasses.replace(ROWS, temperature=0.5), "temperature"),
        (dataclasses.replace(ROWS, limit=4), "limit"),
        (ROWS.take(np.array([0])), "rows"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_rows_that_differ_never_reach_the_devices(other, says):
    found = meet(*(lambda pod, rows=rows: check_rows(pod, "it", rows) for rows in (ROWS, other)))
    for error in found:
        assert isinstance(error, Unlike) and f"{says} is " in str(error)
        assert "on process 0 and " in str(error) and "on process 1" in str(error)


def test_numbers_that_go_with_rows_are_compared_and_padding_is_not():
    works = [lambda pod, n=n: check_rows(pod, "rows", None, part=(n, 2)) for n in range(2)]
    assert all("part is (0, 2) on process 0 and (1, 2)" in str(error) for error in meet(*works))
    padded = [ROWS, changed("weight_BT", (1, 2), 5)]
    works = [lambda pod, rows=rows: check_rows(pod, "rows", rows) for rows in padded]
    assert meet(*works) == [None, None]


def test_a_process_alone_works_out_nothing(monkeypatch):
    monkeypatch.setattr(module, "digests_of_rows", None)
    check_rows(ALONE, "rows", ROWS)


def test_hosts_agree_on_their_programs_before_anything_else(monkeypatch):
    """They would not even meet, did one have to ask for a finished run in another way."""
    settings, count = load(PruneConfig, None, ["--model=m", "--out=nowhere"]), itertools.count()
    pods = {}
    monkeypatch.setattr(module, "digest", lambda *_: next(count))
    monkeypatch.setattr(main_job, "use_processors", lambda *_: None)
    own = lambda _: contextlib.nullcontext(pods[threading.get_ident()])  # noqa: E731
    monkeypatch.setattr(main_job, "start_pod", own)

    def work(pod):
        pods[threading.get_ident()] = pod
        return main_job.prune(settings)

    for error in meet(work, work):
        assert isinstance(error, Unlike) and "program is " in str(error)
