"""Where checkpoints lie, on a file system or in a bucket, and what makes them whole there.

On a file system Orbax completes a folder by its name, and what is in it has to be flushed. In a
bucket it completes it by a last object in it; a run that a later one has taken over may still be
writing, so the owner is asked for before a whole thing is written or dropped.
"""

from __future__ import annotations

import errno
import pathlib
import shutil
from collections.abc import Callable, Iterable

from etils import epath

from pruner_jax.store.folder import DURABLE, flush_to_disk
from pruner_jax.store.mirror import Mirror

_PARTIAL = "*.orbax-checkpoint-tmp*"  # what Orbax calls a checkpoint until it is complete

_COMPLETE = "commit_success.txt"  # what Orbax writes last into a checkpoint in a bucket

# What a save takes on the disk beside its numbers: once its metadata; a share for what the run
# writes meanwhile.
_METADATA, _MEANWHILE = 1_000_000, 0.05


class Disk:
    """A folder on a file system, which whoever writes has locked."""

    locked = True

    def __init__(self, folder: pathlib.PurePath):
        self.folder = epath.Path(folder).absolute()

    def check_owner(self) -> None:
        """Nobody else may write here."""

    def check_room(self, arrays: int, saving: int, finish: Callable[[], None]) -> int:
        """Bytes that a save of ``arrays`` will take beside those that are still on their way, which
        ``finish`` waits for.

        Raises:
          OSError: the disk cannot hold them. Once a save goes on, each of its threads would print
            what it failed with.
        """
        needed = int((1 + _MEANWHILE) * arrays) + _METADATA
        if needed + saving > shutil.disk_usage(self.folder).free:
            finish()  # what goes on has not taken all that it will
            free = shutil.disk_usage(self.folder).free
            if needed > free:
                room = f"a checkpoint needs {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free"
                raise OSError(errno.ENOSPC, room, str(self.folder))
        return needed

    def is_whole(self, checkpoint: epath.Path) -> bool:
        """Whether a checkpoint with its name is complete."""
        return True

    def make(self, folder: epath.Path) -> None:
        """Make a folder."""
        folder.mkdir(parents=True, exist_ok=True)

    def remove_half_written(self, parameters: epath.Path, states: epath.Path) -> None:
        """Remove what saves that failed or were interrupted have left in the two folders."""
        for folder in (parameters, states):
            for path in folder.glob(_PARTIAL):
                shutil.rmtree(path, ignore_errors=True)

    def flush(self, checkpoint: epath.Path) -> None:
        """Return once a checkpoint, and its name, would survive a power cut."""
        folder = pathlib.Path(checkpoint)
        for path in (*folder.rglob("*"), folder, folder.parent):
            flush_to_disk(path)

    def count(self, state: epath.Path) -> None:
        """Let a state count."""
        self.flush(state)
        (state / DURABLE).touch()
        flush_to_disk(pathlib.Path(state))

    def retire(self, state: epath.Path) -> None:
        """Before a state is dropped, which is not the newest that counts."""

    def first(self, found: Iterable[int]) -> int:
        """The least position of a new state, where those found are there."""
        return 0


class Bucket(Disk):
    """A folder in a bucket, of a run whose other files the ``mirror`` brings there."""

    locked = False

    def __init__(self, folder: pathlib.PurePath, mirror: Mirror):
        self.folder, self._mirror = epath.Path(folder), mirror

    def check_owner(self) -> None:
        """Stop where a later start has taken over the run."""
        self._mirror.check_owner()

    def check_room(self, arrays: int, saving: int, finish: Callable[[], None]) -> int:
        """There always is; but of a run that a later start has taken over no save begins."""
        self.check_owner()
        return 0

    def is_whole(self, checkpoint: epath.Path) -> bool:
        """Whether its last object is there."""
        return (checkpoint / _COMPLETE).exists()

    def make(self, folder: epath.Path) -> None:
        """It has no folders of their own."""

    def remove_half_written(self, parameters: epath.Path, states: epath.Path) -> None:
        """What has a name but not its last object; of states whoever counts them does."""
        for path in inside(parameters):
            if not self.is_whole(path):
                path.rmtree(missing_ok=True)

    def flush(self, checkpoint: epath.Path) -> None:
        """It has nothing that could be lost."""

    def count(self, state: epath.Path) -> None:
        """Let a state count, once all files that it speaks of are there."""
        with self._mirror.counting():
            (state / DURABLE).touch()

    def retire(self, state: epath.Path) -> None:
        """It goes object by object, so it loses its mark before."""
        self.check_owner()
        (state / DURABLE).unlink()

    def first(self, found: Iterable[int]) -> int:
        """One is left out: a run that was stopped by this one may still begin the state after the
        newest."""
        return max(found, default=-1) + 2


def inside(folder: epath.Path) -> list[epath.Path]:
    """What lies in a folder, if it is there."""
    return list(folder.iterdir()) if folder.is_dir() else []
