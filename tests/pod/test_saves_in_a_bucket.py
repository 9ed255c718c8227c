"""Two hosts save into a bucket, and two others go on from there."""

import pathlib

from buckets import served
from processes import run

SCRIPT = pathlib.Path(__file__).with_name("saves_in_a_bucket.py")


def test_two_processes_save_in_a_bucket_and_two_others_go_on(tmp_path):
    with served() as environment:

        def on(machine, saves):
            env = environment | {"XDG_CACHE_HOME": str(tmp_path / machine)}
            return run(
                [SCRIPT, "gs://open/runs/two", saves], 2, tmp_path / machine, devices=2, env=env
            )

        assert on("first", "3") == ["None\n3\n"] * 2
        assert on("second", "1") == ["3\n5\n"] * 2
