"""For which problems the empty chain was chosen: the records of a run, and the study's script."""

import json
import pathlib

import numpy as np
import pytest

from pruner_jax.measure.frontier import subsets
from pruner_jax.run.prune import prune
from pruner_jax.store.records import read_rollouts

ROOT = pathlib.Path(__file__).parents[2]
EMPTY = -1

pytestmark = pytest.mark.usefixtures("quick_to_compile")


@pytest.fixture(scope="module")
def script(benchmark):
    """benchmarks/empty_chain.py."""
    return benchmark("empty_chain")


def shares(difficulty, chosen):
    """Share of the chosen among all, the easiest and the hardest problems."""
    inside_PU = subsets(np.array([difficulty[name] for name in difficulty]))
    chosen_P = np.array([name in chosen for name in difficulty])
    return [chosen_P[inside_P].mean() for inside_P in inside_PU.T]


def test_the_share_by_difficulty_is_in_the_records_and_read_from_the_store(
    settings, tmp_path, script, monkeypatch, capsys
):
    out = tmp_path / "all" / "ram-seed0"
    options = {"samples": 3, "problems": 24, "hints": False, "gamma": 2.4, "temperature": 1.0}
    prune(
        settings(
            f"--out={out}",
            f"--model={ROOT / 'configs' / 'tiny_reasoner'}",
            "--method.name=rational_metareasoning",
            f"--method.options={json.dumps(options)}",
            "--problems.options.max_terms=4",
            "--rounds.limits=[48]",
            "--rounds.steps=2",
            "--rounds.log_rollouts_every=1",
        )
    )
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    steps = [line for line in lines if line["kind"] == "step"]
    added, whoever = [], []
    for number, step in enumerate(steps, 1):
        columns = read_rollouts(out / "rollouts" / f"round-01-step-{number:05d}.parquet")
        rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
        difficulty = {row["problem_id"]: row["difficulty"] for row in rows}
        kept = [row for row in rows if row["weight"] is not None]
        chosen = {row["problem_id"] for row in kept if row["mode"] == EMPTY}
        added.append(shares(difficulty, chosen))
        names = [f"prune/kept_mode/-1{end}" for end in ("", "/easy", "/hard")]
        assert [step[name] for name in names] == pytest.approx(added[-1])
        said = {row["problem_id"] for row in kept if row["text"].startswith("</think>")}
        whoever.append(shares(difficulty, said))
    assert added[0] == [0, 0, 0]  # it cannot be chosen before the second iteration
    assert len({0, *added[1], 1}) == 5  # then for some problems, not alike at the two ends
    found = script.shares_of(out)
    np.testing.assert_allclose(found, np.array(whoever)[:, 1:])
    monkeypatch.setattr("sys.argv", ["empty_chain.py", str(out)])
    script.main()
    easy, hard = 100 * found[1]
    row = f"| {easy:.1f} | {hard:.1f} | {easy - hard:+.1f} |"
    assert f"| all/ram | 1 | {' / '.join(f'{100 * x:.1f}' for x in found[0])} {row}" in (
        capsys.readouterr().out
    )


def test_seeds_of_a_point_have_an_interval(script):
    later = [0.9, 0.8, 0.7]
    each = [np.array([[0.1, 0.0], [easy, 0.1], [easy, 0.1]]) for easy in later]
    line = script.line_of("x", each)
    assert line.startswith("| x | 3 | 10.0 / 0.0 | 80.0 (")
    low, high = line.split("80.0 (")[1].split(")")[0].split(" to ")
    # Student's t with two degrees of freedom: 4.303 standard errors of 0.1 / sqrt(3); at most 1.
    assert float(low) == pytest.approx(80 - 24.8, abs=1.5) and float(high) == 100
    assert line.endswith("| 10.0 (10.0 to 10.0) | +70.0 " + line.split("| +70.0 ")[1])
