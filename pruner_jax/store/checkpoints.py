"""Checkpoints of a run, by Orbax: full states to continue from, and parameters alone to pick from.

A full state is a tree of arrays and a JSON-able ``meta``; the two latest are kept. Parameters alone
(the start of the run and of the round, the candidates of a round) are kept under a name for as long
as a full state speaks of them. Both are saved in the background, at most one of each at a time: a
state counts only once all of it, and the parameters it speaks of, would survive a power cut.

In a bucket (``gs://``) the same (`media`), though a run that a later one has taken over may still
be writing there. Its states have numbers of their own; a mark that comes late, of a state that was
tidied away, counts for nothing; before it writes or drops a whole thing it asks who owns the
folder. What remains: parameters under a name that it had begun to write then, which the later run
writes too.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax

from pruner_jax.store.folder import DURABLE
from pruner_jax.store.media import Bucket, Disk, inside
from pruner_jax.store.mirror import FolderError, Mirror
from pruner_jax.store.service import Away

PyTree = Any

LONGEST = 3600  # seconds that a save may take; Orbax's own 1200 are too few for a slow bucket

# What an array takes on the disk beside its numbers: three blocks (its folder, its header, the end
# of its last block).
_PER_ARRAY = 3 * 4096


def _alone(work: Callable[..., Any], *args: Any) -> Any:
    return work(*args)


def _holds_up(method: Callable[..., None]) -> Callable[..., None]:
    """A method of `Checkpoints` in which a save holds up whoever calls."""

    @functools.wraps(method)
    def measured(self: Checkpoints, *args: Any) -> None:
        with self._held_up():
            method(self, *args)

    return measured


class Checkpoints:
    """The ``checkpoints`` folder of a run.

    ``read_only`` leaves everything as it is, so that the folder may be looked at while its run goes
    on; otherwise what a failed or interrupted save left half-written is removed.

    Where a run has several processes all of them call the same methods: arrays are written and read
    by all, the rest is done by one, by ``lead(work, *args)``. ``mirror``: of a run in a bucket,
    whose other files must be there before a state counts. ``held_up``: what is entered for as long
    as a save holds up the caller.
    """

    def __init__(
        self,
        folder: pathlib.PurePath,
        keep: int = 2,
        *,
        read_only: bool = False,
        lead: Callable[..., Any] = _alone,
        mirror: Mirror | None = None,
        held_up: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ):
        import orbax.checkpoint as ocp

        self._medium = Disk(folder) if mirror is None else Bucket(folder, mirror)
        self._parameters = self._medium.folder / "parameters"
        states = self._medium.folder / "states"
        if read_only and not states.is_dir():
            raise ValueError(f"{str(folder)!r} holds no checkpoints")
        self._read_only, self._states_folder, self._lead = read_only, states, lead
        self._keep, self._held_up = keep, held_up
        with self._writing():
            self._first = 0 if read_only else lead(self._tidy)  # the least position of a new state
        # What is on its way: a state, by its position; parameters, by their name; their bytes.
        self._uncounted: int | None = None
        self._unflushed: str | None = None
        self._saving = 0
        logging.getLogger("absl").addFilter(_worth_saying)
        patience = ocp.options.AsyncOptions(timeout_secs=LONGEST)
        self._states = ocp.CheckpointManager(
            states,
            item_handlers={"arrays": _handler(), "meta": ocp.JsonCheckpointHandler()},
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else keep,
                create=not read_only,
                read_only=read_only,
                save_interval_steps=0 if read_only else 1,
                enable_async_checkpointing=not read_only,
                async_options=patience,
            ),
        )
        self._writer = ocp.AsyncCheckpointer(  # its barriers are not those of the states
            _handler(),
            async_options=patience,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                barrier_sync_key_prefix="parameters"
            ),
        )

    def latest(self) -> int | None:
        """Position of the newest complete state, or None."""
        return self._lead(self._latest)

    def _latest(self) -> int | None:
        return max((position for position, counts in self._found().items() if counts), default=None)

    def _found(self) -> dict[int, bool]:
        """Positions of the states that are there, and whether each counts."""
        paths = [path for path in inside(self._states_folder) if path.name.isdecimal()]
        whole = self._medium.is_whole
        return {int(path.name): (path / DURABLE).exists() and whole(path) for path in paths}

    @_holds_up
    def save(self, arrays: PyTree, meta: Mapping[str, Any]) -> None:
        """Start saving a full state; call ``release`` before its arrays are donated.

        ``meta["parameters"]`` lists the named parameters this state needs; others are dropped once
        no kept state speaks of them.
        """
        import orbax.checkpoint as ocp

        if self._uncounted is not None:  # else parameters may be on their way: they go together
            self.wait()
        self._lead(self._medium.check_owner)
        with self._writing():
            self._drop_unused(meta["parameters"])
            position = self._lead(self._next)
        self._saving += self._lead(self._check_room, _bytes_of(arrays))
        parts = ocp.args.Composite(
            arrays=ocp.args.PyTreeSave(arrays), meta=ocp.args.JsonSave(dict(meta))
        )
        with self._writing():
            self._states.save(position, args=parts)
        self._uncounted = position

    def _next(self) -> int:
        """Position of a new state, for which the oldest will be dropped."""
        counted = sorted(position for position, counts in self._found().items() if counts)
        for position in counted[: max(0, len(counted) - self._keep + 1)]:
            self._medium.retire(self._states_folder / str(position))
        return max(self._first, counted[-1] + 1 if counted else 0)

    def meta(self, position: int) -> dict[str, Any]:
        """What was saved beside the arrays."""
        import orbax.checkpoint as ocp

        restored = self._states.restore(
            position, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
        )
        return restored.meta

    def arrays(self, position: int, like: PyTree) -> PyTree:
        """The arrays of a state, with the shapes, dtypes and shardings of ``like``."""
        import orbax.checkpoint as ocp

        restored = self._states.restore(position, args=ocp.args.Composite(arrays=_restore(like)))
        return restored.arrays

    @_holds_up
    def save_parameters(self, name: str, parameters: PyTree) -> None:
        """Start keeping parameters under a name, whole or not at all; a later save replaces them.
        Call ``release`` before they are donated. What was on its way is waited for, so that a state
        which fails, or is the first to speak of them, is told from those before."""
        import orbax.checkpoint as ocp

        self.wait()
        self._saving = self._lead(self._check_room, _bytes_of(parameters))
        with self._writing():
            self._writer.save(
                self._parameters / name, args=ocp.args.PyTreeSave(parameters), force=True
            )
        self._unflushed = name

    def load_parameters(self, name: str, like: PyTree) -> PyTree:
        """Parameters kept under a name, with the shapes, dtypes and shardings of ``like``."""
        if self._unflushed is not None:
            self.wait()
        path = self._parameters / name
        if not self._lead(path.is_dir):
            raise ValueError(
                f"checkpoint {str(path)!r} is not there; the run has {sorted(self.names())}"
            )
        return self._writer.restore(path, args=_restore(like))

    def names(self) -> set[str]:
        """Names of the kept parameters."""
        return {path.name for path in inside(self._parameters) if "." not in path.name}

    def release(self) -> None:
        """Return when the arrays of a save that goes on may be donated; called at every step.

        On a CPU it reads them where they are, and an update would have to copy them all; elsewhere
        they have been copied to the host.
        """
        state = self._uncounted is not None
        if jax.default_backend() == "cpu":
            over = state or self._unflushed is not None
        else:
            over = state and not self._lead(self._states.is_saving_in_progress)
        if over:
            self.wait()

    @_holds_up
    def wait(self) -> None:
        """Return when nothing is being saved any more; a failed save raises here."""
        with self._writing():
            try:
                self._writer.wait_until_finished()
                self._states.wait_until_finished()
                if not self._read_only:
                    self._lead(self._make_durable)
            finally:  # what has failed does not count, whatever is there of it
                self._uncounted, self._unflushed, self._saving = None, None, 0

    def _make_durable(self) -> None:
        """Count the newest state, now that all have written their part of it."""
        if self._unflushed is not None:
            self._medium.flush(self._parameters / self._unflushed)
        if self._uncounted is not None:
            self._medium.count(self._states_folder / str(self._uncounted))

    def close(self) -> None:
        """Finish what is being saved and stop the background threads."""
        try:
            self.wait()
            # After a failure here another start may already write there: its own tidies up.
            if self._medium.locked and not self._read_only:
                self._lead(self._remove_half_written)
        finally:
            self._states.close()
            self._writer.close()

    def _tidy(self) -> int:
        """Remove what does not count; the least position of a new state."""
        self._medium.check_owner()
        self._medium.make(self._parameters)
        self._remove_half_written()
        found = self._found()
        for position, counts in found.items():
            if not counts:
                (self._states_folder / str(position)).rmtree(missing_ok=True)
        return self._medium.first(found)

    def _remove_half_written(self) -> None:
        self._medium.remove_half_written(self._parameters, self._states_folder)

    def _check_room(self, arrays: int) -> int:
        """Bytes that a save of ``arrays`` will take; refused now where it could not end."""
        return self._medium.check_room(arrays, self._saving, self._writer.wait_until_finished)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A full disk shows as the OSError it is: Orbax tells of it in words only. What fails
        because a later run has tidied it away, the bucket is away, or a save or a host that is
        waited for in it takes too long, shows as that."""
        try:
            yield
        except Exception as error:
            if _says_disk_full(error):
                where = str(self._medium.folder)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where) from error
            if not isinstance(error, FolderError):
                self._medium.check_owner()
            if isinstance(error, TimeoutError):
                raise Away(
                    f"{self._medium.folder}: a checkpoint was not written in time ({error}); "
                    "start the same command again, it goes on from the one before"
                ) from error
            raise

    def _drop_unused(self, needed: Iterable[str]) -> None:
        used = set(needed)
        for position in self._states.all_steps():
            used.update(self.meta(position)["parameters"])
        self._lead(self._drop, used)

    def _drop(self, used: set[str]) -> None:
        unused = self.names() - used - {self._unflushed}
        if unused:
            self._medium.check_owner()
        for name in unused:
            (self._parameters / name).rmtree()


def _bytes_of(tree: PyTree) -> int:
    """What arrays take in files of their own."""
    return sum(leaf.nbytes + _PER_ARRAY for leaf in jax.tree.leaves(tree))


def _handler() -> Any:
    """One plain file per array and device: what is written needs no memory of its own.

    Orbax's own choice (OCDBT, compressed) holds what it has encoded until 2 GB have come together
    and gains 8 % of float32 weights: 3.2 GB took 12.1 s and 2.3 GB of memory, this way 6.1 s and
    none. It is what many hosts write with all the same: a file for each array and device would be
    tens of thousands.
    """
    import orbax.checkpoint as ocp

    return ocp.PyTreeCheckpointHandler(use_ocdbt=jax.process_count() > 1, use_compression=False)


def _restore(like: PyTree) -> Any:
    import orbax.checkpoint as ocp

    return ocp.args.PyTreeRestore(
        item=like, restore_args=ocp.checkpoint_utils.construct_restore_args(like)
    )


def _worth_saying(record: logging.LogRecord) -> bool:
    """Orbax warns at each save that there is no OCDBT database, which there should not be, and of a
    folder that was opened to be read only."""
    known = ("Skipping merge of OCDBT", "Given directory is read only")
    return not any(words in str(record.msg) for words in known)


def _says_disk_full(error: BaseException | None) -> bool:
    """Whether the error, or the one that it comes from, speaks of a full disk or a used quota."""
    while error is not None:
        for code in (errno.ENOSPC, errno.EDQUOT):
            tensorstore = f"os_error_code='{code}'"
            if getattr(error, "errno", None) == code or tensorstore in str(error):
                return True
            if os.strerror(code) in str(error):
                return True
        error = error.__cause__ or error.__context__
    return False
