"""A folder in a bucket, as another program plays one: what is there after which step."""

import json
import os

import google_crc32c
import pytest
from buckets import _Handler, served

from pruner_jax.pod.watch import AGAIN
from pruner_jax.store import service
from pruner_jax.store.folder import FolderError, RunFolder, begun_with, check_folder, open_folder
from pruner_jax.store.mirror import Mirror, local

CONFIG = {"out": "a", "seed": 0}


@pytest.fixture
def bucket(played, tmp_path, monkeypatch):
    """``bucket(machine)``: the run's address, as seen from a machine of that name."""

    def on(machine="first"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        return f"gs://open/runs/{tmp_path.name}"

    return on


def there(address):
    """What the bucket holds, by name, as a start on a new machine finds it."""
    mirror = Mirror(address)
    return {name: blob.download_as_bytes() for name, blob in mirror._blobs().items()}


def test_files_go_there_and_come_back(bucket, monkeypatch):
    with open_folder(bucket("first"), CONFIG, commits={"owner/name": "aa"}) as folder:
        assert set(there(bucket())) == {"config.yaml", "inputs.json"}
        folder.metrics.write_text("{}\n")
        (folder.rollouts / "a.parquet").write_bytes(bytes(range(256)) * 50)
        (folder.rollouts / ".b.parquet.tmp").write_bytes(b"half")
        folder.publish()
        first = there(bucket())
    assert set(first) == {"config.yaml", "inputs.json", "metrics.jsonl", "rollouts/a.parquet"}
    other = RunFolder.at(bucket("second"))
    assert not other.root.exists() and other.root != folder.root
    assert begun_with(bucket("second"), "owner/name") == "owner/name@aa"
    with open_folder(bucket("second"), CONFIG, commits={"owner/name": "aa"}) as other:
        assert {name: (other.root / name).read_bytes() for name in first} == first
        other.metrics.write_text("{}\n{}\n")
        other.publish()
    # The first machine has an older file, and one more than the bucket.
    (folder.root / "strange").write_text("x")
    unchanged = (folder.rollouts / "a.parquet").stat()
    read, known = google_crc32c.Checksum, []
    monkeypatch.setattr(google_crc32c, "Checksum", lambda *a: known.append(1) or read(*a))
    for _ in range(3):
        known.clear()
        assert check_folder(bucket("first"), CONFIG).root == folder.root
    assert not known  # nothing was read again to see that it is the same
    assert folder.metrics.read_text() == "{}\n{}\n" and not (folder.root / "strange").exists()
    assert (folder.rollouts / "a.parquet").stat() == unchanged  # which was not fetched again


def test_what_vanished_goes_after_the_mark_and_the_summary_comes_last(bucket, monkeypatch):
    with open_folder(bucket(), CONFIG) as folder:
        old = folder.root / "old"
        old.write_text("of the state before")
        folder.publish()
        old.unlink()
        folder.summary.write_text("{}")
        os.utime(folder.summary, (1, 1))
        (folder.root / "export").mkdir()
        folder.metrics.write_text("{}\n")
        os.utime(folder.metrics, (2, 2))
        (folder.root / "export" / "model").write_text("m")
        sent, blob = [], folder.mirror._blob
        monkeypatch.setattr(folder.mirror, "_blob", lambda name: sent.append(name) or blob(name))
        with folder.mirror.counting():
            assert "old" in there(bucket())
        assert "old" not in there(bucket())
        written = [name for name in sent if name not in (".owner", "old")]
        assert written == ["metrics.jsonl", "export/model", "summary.json"]
        with pytest.raises(KeyError), folder.mirror.counting():  # a mark that fails
            folder.summary.unlink()
            raise KeyError
        assert "summary.json" in there(bucket())
    # An export is not fetched; nor is it lost where there is none here.
    with open_folder(bucket("second"), CONFIG) as folder:
        assert not folder.export.exists()
        folder.metrics.unlink()
        folder.publish()
        assert {"export/model"} == set(there(bucket())) - {"config.yaml", "inputs.json"} - {
            "summary.json"
        }


def test_a_later_start_stops_the_earlier_one(bucket):
    with open_folder(bucket("first"), CONFIG) as folder:
        folder.metrics.write_text("{}\n")
        folder.publish()
        with pytest.raises(FolderError, match=rf"pid {os.getpid()}\) is writing to 'gs://open/"):
            check_folder(bucket("first"), CONFIG)  # on one machine the lock says so at once
        with pytest.raises(FolderError, match=r"seed: was 0, now 1"):
            (folder.root / "kept").write_text("")
            folder.publish()
            with open_folder(bucket("second"), {**CONFIG, "seed": 1}):
                pass
        folder.publish()  # the one that was refused has stopped nobody
        with open_folder(bucket("second"), CONFIG) as other:
            folder.metrics.write_text("of the first\n")
            with pytest.raises(FolderError, match=r"(?s)taken over by another start.*pid.*nothing"):
                folder.publish()
            assert there(bucket())["metrics.jsonl"] == b"{}\n"
            other.publish()


def test_a_push_that_is_under_way_writes_over_nothing_of_a_later_run(bucket, monkeypatch):
    with open_folder(bucket("first"), CONFIG) as folder:
        folder.metrics.write_text("{}\n")
        folder.publish()
        folder.metrics.write_text("of the first\n")
        folder.summary.write_text("of the first")
        here = folder.mirror._here

        def meanwhile():  # after the first one has asked whose the folder is
            with open_folder(bucket("second"), CONFIG) as other:
                other.metrics.write_text("of the second\n")
                other.summary.write_text("of the second")
                other.publish()
            return here()

        monkeypatch.setattr(folder.mirror, "_here", meanwhile)
        with pytest.raises(FolderError, match="taken over"):
            folder.mirror.push()
        found = there(bucket())
        assert found["metrics.jsonl"] == b"of the second\n"
        assert found["summary.json"] == b"of the second"
        folder.mirror._generations["summary.json"] = 1  # as of before
        with pytest.raises(FolderError, match="taken over"):
            folder.mirror._delete("summary.json")
        assert "summary.json" in there(bucket())


def test_the_owner_writes_over_what_came_late_and_drops_it(bucket):
    with open_folder(bucket(), CONFIG) as folder:
        folder.metrics.write_text("{}\n")
        folder.publish()
        for name in ("metrics.jsonl", "new"):
            Mirror(bucket())._blob(name).upload_from_string("late")
            (folder.root / name).write_text("{}\n{}\n")
        folder.publish()
        found = there(bucket())
        assert found["metrics.jsonl"] == found["new"] == b"{}\n{}\n"
        for name in ("metrics.jsonl", "new"):
            Mirror(bucket())._blob(name).upload_from_string("late")
            (folder.root / name).unlink()
        folder.publish()
        assert set(there(bucket())) == {"config.yaml"}


def test_what_is_overwritten_while_it_is_fetched_is_fetched_again(bucket, monkeypatch):
    with open_folder(bucket("first"), CONFIG) as folder:
        folder.metrics.write_text("{}\n")
        folder.publish()
        mirror, seen = Mirror(bucket("second")), []
        listed = mirror._blobs

        def blobs():
            found = listed()
            if not seen:
                folder.metrics.write_text("{}\n{}\n")
                folder.publish()
            seen.append(found)
            return found

        monkeypatch.setattr(mirror, "_blobs", blobs)
        mirror.pull()
        assert (mirror.root / "metrics.jsonl").read_text() == "{}\n{}\n" and len(seen) == 2


def test_settings_are_judged_again_once_the_folder_is_claimed(bucket, monkeypatch):
    claim = Mirror.claim

    def late(mirror):  # another start has made its steps since they were judged
        with monkeypatch.context() as patch:
            patch.setattr(Mirror, "claim", claim)
            with open_folder(bucket("second"), {**CONFIG, "seed": 1}) as other:
                (other.root / "kept").write_text("")
                other.publish()
        claim(mirror)

    bucket("first")
    mine = Mirror(bucket("first"))
    monkeypatch.setattr(Mirror, "claim", late)
    with pytest.raises(FolderError, match=r"seed: was 1, now 0"):
        with open_folder(mine.address, CONFIG):
            pass
    assert b"seed: 1" in there(mine.address)["config.yaml"]


def test_an_empty_folder_is_no_export_and_goes(bucket):
    with open_folder(bucket("first"), CONFIG) as folder:
        folder.export.mkdir()
        (folder.export / "model").write_text("m")
        folder.publish()
    with open_folder(bucket("first"), CONFIG) as folder:
        assert not folder.export.exists()
        folder.export.mkdir()
        folder.publish()
        assert "export/model" in there(bucket())


def test_every_host_tries_to_write(bucket):
    Mirror(bucket()).check()
    assert not list(Mirror(bucket())._bucket.list_blobs(prefix=Mirror(bucket())._prefix))
    with pytest.raises(FolderError, match=r"does not let this account write"):
        Mirror("gs://shown/run").check()


def test_a_service_that_is_away_is_waited_for_and_then_to_be_started_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = Mirror("gs://open/run")
    with served() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        run.claim()
        run.root.mkdir(parents=True)
        (run.root / "old").write_text("old")
        run.push()
    (run.root / "new").write_text("new")
    monkeypatch.setattr(service, "PATIENCE", 0.05)
    away = [
        run.check,
        run.pull,
        run.claim,
        run.check_owner,
        lambda: run._upload("new"),
        lambda: run._delete("old"),
        Mirror("gs://other/run").check,
    ]
    for act in away:
        with pytest.raises(service.Away, match=r"cannot .*start the same command again") as caught:
            act()
        assert caught.value.exit_code == AGAIN


def test_a_service_that_comes_back_is_asked_again(bucket, monkeypatch):
    run, refuse = Mirror(bucket()), _Handler._refusal
    busy = set()

    def refusal(handler):  # every request once
        key = (handler.command, handler.path.partition("?")[0])
        return refuse(handler) if key in busy else busy.add(key) or 503

    patient = service.patient
    monkeypatch.setattr(service, "patient", lambda: patient().with_delay(0.01, 0.02))
    monkeypatch.setattr(_Handler, "_refusal", refusal)
    for act in (run.check, run.claim, run.pull, run.push, run.check_owner):
        busy.clear()
        act()
        assert busy or act == run.push  # which had nothing to bring
    (run.root / "config.yaml").write_text("new")
    busy.clear()
    run.push()
    assert there(bucket()) == {"config.yaml": b"new"}


def test_folders_that_cannot_be_used_say_why(played, bucket, tmp_path):
    said = {
        "gs://closed/run": r"not let this account open.*you may not GET.*roles Storage Object User",
        "gs://shown/run": r"does not let this account write.*may not POST.*Storage Object User",
        "gs://nowhere/run": r"there is no bucket 'nowhere'.*--out",
        "gs://open": r"no address of a folder in a bucket; allowed: a path, or gs://BUCKET/FOLDER",
        "gs://open/runs/../run": r"no address of a folder in a bucket",
        "gs://open/run#1": r"letters, digits",
        "s3://bucket/run": r"allowed: a path, or gs://.*mounted as a folder",
    }
    bucket()
    for address, words in said.items():
        with pytest.raises(FolderError, match=words):
            with open_folder(address, CONFIG):
                pass
    Mirror(bucket())._blob("thesis.txt").upload_from_string("of value")
    with pytest.raises(FolderError, match=r"holds objects but no config.yaml"):
        check_folder(bucket(), CONFIG)
    with pytest.raises(FolderError, match=r"run='gs://a/b' is an address.*gcloud storage cp"):
        local("gs://a/b", "run")


def test_the_packages_are_asked_for(monkeypatch):
    monkeypatch.setattr(service.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FolderError, match=r"pip install 'pruner-jax\[gcs\]'"):
        check_folder("gs://bucket/run", CONFIG)


def test_nobody_logged_in(tmp_path, monkeypatch):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key.json").write_text(json.dumps({"type": "strange"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(FolderError, match=r"not logged in.*application-default login"):
        check_folder("gs://bucket/run", CONFIG)
