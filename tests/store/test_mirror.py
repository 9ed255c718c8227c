"""A folder in a bucket, as another program plays one: what is there after which step."""

import json
import os

import pytest
from buckets import served

from pruner_jax.store import mirror, service
from pruner_jax.store.folder import FolderError, RunFolder, begun_with, check_folder, open_folder
from pruner_jax.store.mirror import Mirror, local

CONFIG = {"out": "a", "seed": 0}


@pytest.fixture(scope="module")
def played():
    with served() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(mirror, "_SETTLES", 0.01)
        yield


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


def test_files_go_there_and_come_back(bucket):
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
    assert check_folder(bucket("first"), CONFIG).root == folder.root
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
