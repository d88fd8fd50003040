"""The output folder of a run: results are made aside, and take the place of older ones when all of them are there.

While a run continues, ``OUT/unfinished/`` holds what it has written of its results, and ``OUT/checkpoint.h5`` its
state. Results of an earlier run stay what they are beside them, whole and of use, until the new ones are complete; a
run that fails, or is killed, never touches them. Its logs are in ``OUT/logs/``, or, where that holds an earlier run's,
in ``OUT/unfinished/logs/``.

The marker (summary.json) is the last file that is written aside: from then on the results are complete, and whoever
comes next can put them in their place if the run was killed before it had done so.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mpirecon.errors import UserError
from mpirecon.io import folder_lock
from mpirecon.io.atomic import hidden_name_of, refuse_unwritable, temporary_name, write_failed
from mpirecon.io.inputs import Input, inputs_among
from mpirecon.io.run_kinds import CHECKPOINT, KINDS, LINKED, Kind
from mpirecon.io.run_traces import REPLACED, foreign_files, kind_of_unfinished, left_in, listed_in
from mpirecon.io.unfinished import UNFINISHED, state_of

#: what a run leaves that was ended before it had anything to keep
_LEFTOVERS = {"logs", UNFINISHED, folder_lock.NAME}


class RunFolder:
    """Where one run writes, a context manager that lets go of the folder at its end. Used by rank 0 alone.

    Making one touches nothing: it finds out what is there. ``check()`` refuses what cannot be, ``begin()`` makes
    folders, ``commit()`` puts the results in their place.
    ``claim()`` makes the folder before that, for a file that the run reads itself.

    path : the folder
    staging : where results are to be written
    logs : where logs go
    resumes : whether there is a checkpoint to resume from
    """

    def __init__(self, path: str | os.PathLike, kind: Kind, inputs: Iterable[Input], *, overwrite: bool,
                 resume: bool = False, all_inputs: bool = True) -> None:
        """all_inputs : whether `inputs` are all that the run reads; else `also_reads` gets the others"""
        self.path, self.kind, self._inputs = Path(path), kind, list(inputs)
        self._overwrite, self._resume, self._all_inputs = overwrite, resume, all_inputs
        self.staging = self.path / UNFINISHED
        self.logs = (self.staging if self.finished else self.path) / "logs"
        self._lock = folder_lock.FolderLock(self.path)
        self._claimed = self._made = self._ours = False

    @property
    def finished(self) -> bool:
        """Whether results of an earlier run are in the folder."""
        return self.kind.finished_in(self.path)

    @property
    def resumes(self) -> bool:
        """Whether there is a state to resume from, and that is requested."""
        return self._resume and (self.path / CHECKPOINT).exists()

    @property
    def unused(self) -> bool:
        """Whether the folder is not there, or holds no more than what a run leaves that was ended before it had
        anything."""
        return not self.path.is_dir() or (self._content() <= _LEFTOVERS
                                          and not any(kind.finished_in(self.staging) for kind in KINDS))

    def _content(self) -> set[str]:
        return {entry.name for entry in self.path.iterdir() if not _is_temporary(entry.name, self.kind)}

    @property
    def complete(self) -> bool:
        """Whether an earlier run had all its results, and was ended before they were in their place."""
        return self.kind.finished_in(self.staging)

    def check(self) -> None:
        """Raise UserError where this run must not, or cannot, write into the folder. Nothing is touched."""
        path = self.path
        if os.path.lexists(path) and not path.is_dir():
            raise UserError(f"{path} exists and is not a folder; choose another name for -o")
        self.refuse_inputs()
        if not path.is_dir():
            above = next(p for p in path.absolute().parents if p.exists())
            if not above.is_dir():
                raise UserError(f"cannot make the folder {path}: {above} is a file")
            return refuse_unwritable(path, above)
        refuse_unwritable(path, path)
        if (holder := folder_lock.held_by(path)) is not None:
            raise UserError(f"another run is writing into {path} ({holder}); wait for its end, or choose another "
                            f"folder")
        self._refuse_content()
        if self._all_inputs:  # others are named as what they are
            self.refuse_foreign()

    def refuse_inputs(self) -> None:
        """No file that the run reads may be one that it would write, but for a mask, which is kept as it is."""
        ours = [folder / name for folder in (self.path, self.staging) for name in self.kind.files]
        for target, read in inputs_among(ours, self._inputs).items():
            if not (read.what == "mask" and target == self.path / "mask.mrc"):
                raise UserError(f"{target} is the {read.what} that this run reads, and a run writes a file of that "
                                "name into its folder; choose another folder for -o")

    def _refuse_content(self) -> None:
        """What is in the folder must be what was asked to be replaced, or to be resumed."""
        path = self.path
        content = self._content()
        if self.resumes or (self.complete and (self._resume or self._overwrite)):
            return
        if self._resume and self.finished:
            raise UserError(f"the run in {path} is finished; there is nothing to resume. For more iterations start a "
                            f"new run, in another folder or with --overwrite")
        if self.unused:
            return
        if not self._overwrite:
            if CHECKPOINT in content or self.complete:
                raise UserError(f"{state_of(path)}; or choose another folder, or start a new run with --overwrite")
            raise UserError(f"the output folder {path} exists and is not empty; choose another, or pass --overwrite")
        for other in KINDS:
            if other is not self.kind and (other.finished_in(path) or other.finished_in(self.staging)):
                raise UserError(f"{path} holds a {other.name}, which a {self.kind.name} does not replace; choose "
                                f"another folder")
        for name in self.kind.files:
            if (path / name).is_dir():
                raise UserError(f"{path / name} is a folder, and a run writes a file of that name; choose another "
                                f"folder for -o")
        if (begun := kind_of_unfinished(path)) not in (None, self.kind):
            raise UserError(f"{path} holds an unfinished {begun.name}, which a {self.kind.name} does not replace; "
                            "choose another folder")

    def refuse_foreign(self) -> None:
        """No file that a run writes may take the place of one that no run of its kind left; a mask that it reads stays
        as it is."""
        found = foreign_files(self.path, self.kind)
        read = inputs_among(found, self._inputs)
        if names := [path for path in found if path not in read]:
            other = (self.path / "postprocess.json").exists()
            made = " (postprocess.json beside them is that of mpirecon postprocess)" if other else ""
            raise UserError(f"{self.path} holds {_listing(names, self.path)}, which a {self.kind.name} would replace, "
                            f"and no {self.kind.name} wrote{made}: --overwrite and --resume replace what an earlier "
                            "one left, and nothing else; choose another folder for -o, or move what is there")

    def claim(self) -> Path | None:
        """Lock the folder, and make room in it for LINKED, whose path is returned;
        what was made goes again unless the run begins.

        None where there is nothing left to do, as of `begin`.
        """
        self._made = not self.path.is_dir()
        with self._closed_on_failure():
            if not self._occupy(claim=True):
                return None
            self.staging.mkdir(exist_ok=True)
        return self.staging / LINKED

    def also_reads(self, inputs: Iterable[Input]) -> None:
        """More that the run reads, as soon as it is known. Raises UserError where it would write over any of it."""
        self._inputs += inputs
        self.refuse_inputs()
        self.refuse_foreign()

    def begin(self, ranks: int) -> bool:
        """Lock the folder and make what is in it;
        False where there is nothing left to do, as all results were there already.

        Raises UserError where it cannot be made, or another run has begun here meanwhile.
        """
        with self._closed_on_failure():
            if not self._occupy():
                return False
            self.logs = (self.staging if self.finished else self.path) / "logs"
            left = [] if self.finished else sorted(left_in(self.path, self.kind))
            if not self.resumes:
                (self.path / CHECKPOINT).unlink(missing_ok=True)
                self._clear(ranks)
            self._claimed = False  # what was made stays from here on, for --resume
            for pulse in (self.logs / ".pulse").glob("*"):  # of ranks that were killed
                pulse.unlink()
            self.staging.mkdir(exist_ok=True)
            if there := [name for name in left if (self.path / name).exists()]:
                # of a run that lost its marker; the logs by which that is known are begun again
                (self.staging / REPLACED).write_text(json.dumps({"files": there}), encoding="utf-8")
            self.logs.mkdir(exist_ok=True)
        return True

    def _occupy(self, claim: bool = False) -> bool:
        """Make and lock the folder, and put complete results in their place; False where nothing is left to do then.

        claim : what is made goes again when the folder is let go of
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        self._ours = True
        self._claimed |= claim
        self._refuse_content()
        if self.complete or not claim:
            self.refuse_foreign()
        if self.complete:
            self.commit()
            if not self._resume:  # of what is there now, nothing but what the two runs left is replaced
                self.refuse_foreign()
            return not self._resume
        return True

    @contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        """Lets go of the folder when the block fails; what the system refuses is a UserError."""
        try:
            yield
        except OSError as error:
            self.close()
            raise write_failed(self.path, error) from error
        except BaseException:
            self.close()
            raise

    def _clear(self, ranks: int) -> None:
        """Take away what a run that had not finished left: of ours, and nothing else."""
        for folder in (self.path, self.staging):
            for entry in list(folder.iterdir()) if folder.is_dir() else []:
                if _is_temporary(entry.name, self.kind):
                    entry.unlink()
        for name in {*self.kind.files, REPLACED} - ({LINKED} if self._claimed else set()):
            (self.staging / name).unlink(missing_ok=True)
        for logs in {self.logs, self.staging / "logs"}:
            for log in logs.glob("rank*.jsonl"):
                if logs != self.logs or int(log.stem[4:] or 0) >= ranks:  # those of this run's ranks are begun again
                    log.unlink()

    def commit(self) -> None:
        """Put complete results in the place of earlier ones. What the earlier run had and this one has not goes away.

        Each step can be done again: a run that is killed here is put in its place by the next.
        """
        marker, path = self.kind.marker, self.path
        replaced = self.staging / REPLACED
        new = self._listed(self.staging / marker)
        kept = {target.name for target in inputs_among([path / name for name in self.kind.files], self._inputs)}
        try:
            if self.finished:  # from here on the folder holds no finished run, until it holds the new one
                os.replace(path / marker, replaced)
            for name in self._listed(replaced) if replaced.exists() else []:
                if name not in new and name not in kept:
                    (path / name).unlink(missing_ok=True)
            self._move_logs()
            for name in new:
                if name != marker and (self.staging / name).exists():
                    if name in kept:  # a mask that was given is what the run would write
                        (self.staging / name).unlink()
                    else:
                        move(self.staging / name, path / name)
            (path / CHECKPOINT).unlink(missing_ok=True)
            replaced.unlink(missing_ok=True)
            move(self.staging / marker, path / marker)
        except OSError as error:
            raise UserError(f"cannot put the results in {self.staging} in the place of those in {path}: "
                            f"{error.strerror.lower()}. They are complete: when the cause is corrected, the same "
                            f"command with --resume moves them") from error

    def _listed(self, marker: Path) -> list[str]:
        """The files that a finished run says it left, in its marker;
        all that it may have left where it does not say."""
        names = listed_in(marker, self.kind)
        return list(self.kind.files) if names is None else names

    def _move_logs(self) -> None:
        """Those of an earlier run's ranks go first; that this is done, the folder's other name says from then on."""
        ours, moving, theirs = self.staging / "logs", self.staging / "logs-moving", self.path / "logs"
        if ours.is_dir():
            new = {log.name for log in ours.glob("rank*.jsonl")}
            for log in theirs.glob("rank*.jsonl"):
                if log.name not in new:
                    log.unlink()
            os.replace(ours, moving)
        if moving.is_dir():
            theirs.mkdir(exist_ok=True)
            for log in sorted(moving.glob("rank*.jsonl")):
                move(log, theirs / log.name)

    def close(self) -> None:
        """Let go of the folder, and of what is empty in it; a second call does nothing.

        Nor does one of a run that never had the folder: what is in it is another run's.
        """
        if not self._ours:
            return
        self._ours = False
        if self._claimed and not (self.path / CHECKPOINT).exists():
            with suppress(OSError):
                (self.staging / LINKED).unlink(missing_ok=True)
        for folder in (self.staging / "logs", self.staging / "logs-moving", self.staging):
            with suppress(OSError):
                folder.rmdir()
        with suppress(OSError):
            self._lock.release()
        if self._claimed and self._made:
            with suppress(OSError):
                self.path.rmdir()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _is_temporary(name: str, kind: Kind) -> bool:
    """Whether a file is one that a run was killed while it had it: half-written (io.atomic), or for hosts to see."""
    return hidden_name_of(name) in kind.files or name.startswith(folder_lock.SEEN)


def _listing(paths: list[Path], folder: Path) -> str:
    """Names of files in a folder, as many as one reads."""
    names = [str(path.relative_to(folder)) for path in paths]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def move(source: Path, target: Path) -> None:
    """Rename, or where a link leads to another file system, copy and rename."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        temporary = temporary_name(target)
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
        source.unlink()
