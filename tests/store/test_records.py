import dataclasses
import errno
import math
import os

import numpy as np
import pytest

from pruner_jax.store.records import (
    Metrics,
    keep_only,
    read_graded,
    read_rollouts,
    write_columns,
    write_rollouts,
)
from pruner_jax.types import Graded, Problem, Prompts, Purpose, Rollouts, Verdict, Weighted


def hand_made():
    prompts = Prompts(
        problems=(
            Problem("a", "1+1?", "2", difficulty=2),
            Problem("b", "2+2?", "4"),
        ),
        text=("Q: 1+1?", "Q: 2+2?"),
        tokens=(np.array([1, 2]), np.array([1, 3, 4])),
        purpose=Purpose.TRAIN,
        visit_P=np.array([0, 3]),
    )
    rollouts = Rollouts(
        prompts=prompts,
        group_B=np.array([0, 1], np.int32),
        sample_B=np.array([0, 0], np.int32),
        tokens_BT=np.array([[5, 6, 0], [7, 8, 9]], np.int32),
        logp_BT=np.array([[-0.5, -0.25, 0], [-1, -2, -3]], np.float32),
        origin_BT=np.array([[2, 2, 0], [2, 3, 2]], np.uint8),
        length_B=np.array([2, 3], np.int32),
        thinking_B=np.array([1, 3], np.int32),
        finished_B=np.array([True, False]),
        text=("2", "hm"),
        temperature=1.0,
        limit=3,
        mode_B=np.zeros(2, np.int32),
        budget_B=np.full(2, -1, np.int32),
        parent_B=np.full(2, -1, np.int32),
    )
    return Graded(
        rollouts=rollouts,
        verdict_B=np.array([Verdict.CORRECT, Verdict.UNFINISHED], np.int8),
        score_B=np.array([1, 0], np.float32),
        extracted=("2", None),
    )


def test_rollouts_come_back_as_written(tmp_path):
    graded = hand_made()
    weighted = Weighted(
        graded=graded,
        weight_BT=np.array([[0.5], [-1.0]], np.float32),
        train_BT=np.array([[True, True, False], [True, False, True]]),
        keep_B=np.array([True, False]),
    )
    write_rollouts(tmp_path / "x.parquet", graded, round=1, step=7, weighted=weighted)
    back = read_rollouts(tmp_path / "x.parquet")
    assert back["problem_id"] == ["a", "b"]
    assert back["difficulty"] == [2.0, None]
    assert back["visit"] == [0, 3]
    assert back["tokens"] == [[5, 6], [7, 8, 9]]
    assert back["origin"] == [[2, 2], [2, 3, 2]]
    assert back["verdict"] == ["correct", "unfinished"]
    assert back["weight"] == [0.5, None]
    assert back["round"] == [1, 1] and back["step"] == [7, 7]


def test_metrics_are_cut_back_to_a_checkpoint(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    for step in range(3):
        metrics.append({"step": np.int64(step), "reward": np.float32(0.5), "kl": math.nan})
    with open(metrics.path, "a") as file:
        file.write('{"step": 3, "rew')  # killed in the middle of a line
    again = Metrics(metrics.path)
    again.cut(2)
    assert again.read() == [
        {"step": 0, "reward": 0.5, "kl": None},
        {"step": 1, "reward": 0.5, "kl": None},
    ]
    with pytest.raises(ValueError, match="has 2 lines, but its checkpoint was saved after 5"):
        again.cut(5)


def test_a_failed_write_names_its_file(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.path.symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        metrics.append({"step": 0})
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(metrics.path)
    (tmp_path / ".x.parquet.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        write_rollouts(tmp_path / "x.parquet", hand_made(), round=1, step=7)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "x.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_unknown_rollout_files_are_dropped(tmp_path):
    for name in ("a.parquet", "b.parquet", ".c.parquet.tmp"):
        (tmp_path / name).write_text("")
    keep_only(tmp_path, ["a.parquet"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_records_are_on_the_disk_before_anything_counts_on_them(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(handle):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_rollouts(tmp_path / "x.parquet", hand_made(), round=1, step=7)
    assert synced == [".x.parquet.tmp", tmp_path.name]  # the content first, then the name
    synced.clear()
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.sync()
    metrics.append({"step": 1})
    assert synced == []
    metrics.sync()
    assert synced == ["metrics.jsonl", tmp_path.name]


def test_graded_rows_of_several_files_come_back_whole(tmp_path):
    graded = hand_made()
    graded = dataclasses.replace(graded, detail=("", "said"))
    moved = dataclasses.replace(graded.rollouts, parent_B=np.array([-1, 0], np.int32))
    for name in "xy":
        write_rollouts(
            tmp_path / name, dataclasses.replace(graded, rollouts=moved), round=0, step=0
        )
    problems = {problem.id: problem for problem in moved.prompts.problems}
    one = read_graded([tmp_path / "x"], problems)
    for field in dataclasses.fields(one.rollouts):
        got, given = getattr(one.rollouts, field.name), getattr(moved, field.name)
        if field.name != "prompts":
            np.testing.assert_array_equal(got, given, err_msg=field.name)
    assert one.rollouts.prompts.problems == moved.prompts.problems
    assert [t.tolist() for t in one.rollouts.prompts.tokens] == [[1, 2], [1, 3, 4]]
    assert (one.extracted, one.detail) == (("2", None), ("", "said"))
    np.testing.assert_array_equal(one.verdict_B, graded.verdict_B)
    two = read_graded([tmp_path / "x", tmp_path / "y"], problems)
    assert two.rollouts.group_B.tolist() == [0, 1, 2, 3]
    assert two.rollouts.parent_B.tolist() == [-1, 0, -1, 2]
    bare = read_graded([tmp_path / "x", tmp_path / "y"], problems, tokens=False)
    assert bare.rollouts.tokens_BT.shape == (4, 0) and bare.rollouts.text == ("",) * 4
    np.testing.assert_array_equal(bare.rollouts.length_B, two.rollouts.length_B)
    np.testing.assert_array_equal(bare.verdict_B, two.verdict_B)


def test_columns_are_a_file(tmp_path):
    write_columns(tmp_path / "x", {"a": [[1, 2], []], "b": [0.5, None]})
    assert read_rollouts(tmp_path / "x") == {"a": [[1, 2], []], "b": [0.5, None]}
