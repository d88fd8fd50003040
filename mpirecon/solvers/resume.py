"""Saving a run after an iteration, and resuming from there, on any number of ranks.

Only what the next iteration is decided from is kept: each particle's pose and statistics, the noise spectrum and, for
gradients, the maps on their way. The normal equations are accumulated again.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.checkpoint import Checkpoint, writing_checkpoint
from mpirecon.io.run_kinds import CHECKPOINT as NAME
from mpirecon.io.image_levels import LevelsFound
from mpirecon.parallel.comm import together
from mpirecon.parallel.select import median
from mpirecon.robust.nearby import NearbyPoses
from mpirecon.robust.selection import RandomPoses
from mpirecon.robust.statistics import Statistics
from mpirecon.solvers.normalise import Normaliser
from mpirecon.solvers.problem import digest_of
from mpirecon.solvers.state import Scores, State, Survey


#: what is kept of NearbyPoses, row by row
_NEARBY = ("turn", "sums", "slope", "curvature")

#: relative difference of two powers of one image, which are relative to the median of all
_SAME_POWER = 1e-5


def save(run, folder: Path, state: State) -> None:
    """Write a run's state to its folder; collective. Rank 0 holds one array of all particles at a time."""
    total, comm, identity, survey, scores = len(run.file), run.comm, run.identity, state.survey, state.scores
    nearby, random_poses = scores.nearby, scores.random_poses
    local = {
        "power": survey.power, "valid": state.valid, "quaternion": state.pose.quaternion, "shift": state.pose.shift,
        "inside": scores.inside.sums, "held_out": scores.held_out.sums, **run.poses.state(),
    }  # fmt: skip
    if scores.at_given is not None:
        local["at_given"] = scores.at_given.sums
    if nearby is not None:
        local |= {f"nearby_{name}": getattr(nearby, name) for name in _NEARBY}
    arrays = {"noise_power": survey.noise_power, "samples": scores.held_out.samples, "fsc": state.fsc,
              "largest": survey.largest, **run.solver.state()}  # fmt: skip
    if survey.shell_power is not None:
        arrays["shell_power"] = survey.shell_power
    if nearby is not None:
        arrays |= {name: getattr(nearby, name) for name in ("profile", "band_profile")}
    if random_poses is not None:  # of a few thousand
        some = comm.gather((run.slab.start + random_poses.rows, random_poses.statistics.sums))
        if comm.rank == 0:
            arrays["random_rows"], arrays["random"] = map(np.concatenate, zip(*some))
    # sums are rounded as their terms come: a resumed run has its order, whatever the memory it finds
    facts = {"iteration": state.iteration, "rounds": run.config.rounds, "records": state.records,
             "search_nearby": state.search_nearby,
             "by_view": survey.by_view, "levels": None if survey.levels is None else survey.levels.as_dict(),
             "normalisation": run.slab.normaliser.as_dict(), "search": run.poses.facts, **identity}  # fmt: skip
    with ExitStack() as stack:
        with together(comm):
            store = stack.enter_context(writing_checkpoint(folder / NAME, facts)) if comm.rank == 0 else None
            for name, values in arrays.items() if store else ():
                store(name, values)
        for name, values in local.items():
            whole = comm.gather_slabs(np.ascontiguousarray(values), total)
            with together(comm):
                if store:
                    store(name, whole)
            del whole
        with together(comm):
            stack.close()


def load(run, folder: Path) -> State:
    """The state that was saved in `folder`, with the run's slab and solver ready to continue from it. Collective.

    Raises UserError, on all ranks, for a checkpoint of other particles or other options, which it names.
    """
    now = run.identity
    with together(run.comm):
        with Checkpoint(folder / NAME) as checkpoint:
            check_identity(run, now, checkpoint)
            first, last = run.slab.start, run.slab.stop
            facts, levels = checkpoint.facts, checkpoint.facts["levels"]
            survey = Survey(checkpoint.rows("power", first, last), checkpoint.array("noise_power"),
                            checkpoint.array("largest"),
                            checkpoint.array("shell_power") if "shell_power" in checkpoint else None,
                            None if levels is None else LevelsFound.of_dict(levels), facts["by_view"])  # fmt: skip
            run.slab.restore(*(checkpoint.rows(name, first, last) for name in ("valid", "quaternion", "shift")))
            run.slab.normalise_as(Normaliser.of_summary(facts, run.file.box))
            run.begin(survey)
            run.poses.restore(lambda name: checkpoint.rows(name, first, last), facts.get("search"))
            state = State(facts["iteration"], survey, run.slab.valid, run.slab.pose, facts["search_nearby"],
                          fsc=checkpoint.array("fsc"),
                          scores=_scores(checkpoint, first, last), records=tuple(facts["records"]))  # fmt: skip
            saved = {name: checkpoint.array(name) for name in run.solver.state_names() if name in checkpoint}
            written_since = facts["file"] != now["file"]
    if run.comm.allreduce_scalar(int(written_since), "max"):
        _look_again(run, state, folder / NAME)
    run.solver.restore(saved, state.iteration, state.fsc)
    return state


def _scores(checkpoint: Checkpoint, first: int, last: int) -> Scores:
    samples, random_poses, nearby = checkpoint.array("samples"), None, None
    if "random" in checkpoint:
        rows = checkpoint.array("random_rows")
        here = (rows >= first) & (rows < last)
        random_poses = RandomPoses(rows[here] - first, Statistics(checkpoint.array("random")[here], samples))
    if "profile" in checkpoint:
        found = (checkpoint.rows(f"nearby_{name}", first, last) for name in _NEARBY)
        nearby = NearbyPoses(*found, checkpoint.array("profile"), checkpoint.array("band_profile"))
    names = ("inside", "held_out", *(["at_given"] if "at_given" in checkpoint else []))
    inside, held_out, *given = (Statistics(checkpoint.rows(n, first, last), samples) for n in names)
    return Scores(inside, held_out, random_poses, nearby, *given)


def identify(run) -> dict:
    """What must be the same for a checkpoint to be continued: the options that matter, particles, mask. Collective."""
    file = run.file
    digest = np.array([run.slab.digest()], np.uint64).view(np.int64)
    run.comm.allreduce(digest)  # wraps round, as a hash may
    start = None if run.start is None else run.comm.gather_slabs(np.ascontiguousarray(run.start), len(file))
    with together(run.comm):
        few = file.images(np.unique([0, len(file) // 2, len(file) - 1])) if run.comm.rank == 0 else np.zeros(0)
        start = None if start is None else digest_of(start)
    options = run.config.as_dict()
    for name in ("iterations", "threads", "memory"):  # more may be asked for, and the result is the same
        options.pop(name)
    options.pop("transport")  # sums are the same whichever way they travel
    if run.config.masked_by_file:
        options["mask"] = "given"  # what is in it says which, wherever it is now
    return run.comm.bcast({
        "options": json.loads(json.dumps(options)),
        "particles": {"count": len(file), "box": file.box, "rows": f"{digest[0]:x}", "images": digest_of(few)},
        "mask": run.engine.masking.digest(),
        "weights": None if run.given is None else digest_of(run.given.values),
        "start_weights": start,
        "own": {option: meaning.digest for option, meaning in run.config.meant.items()},
        "file": file.state(),
    })  # fmt: skip


def _look_again(run, state: State, checkpoint: Path) -> None:
    """Compare every image with what the checkpoint knows of it: its power. For files that were written, moved or copied
    since; they may hold the same. Collective; raises UserError where they do not."""
    before, valid = state.survey.power, state.valid.copy()
    run.console.say(f"{run.file.path} was written or moved since the checkpoint: its images are compared with what "
                    f"they were")
    ratio = run.engine.survey()[0].power / np.where(before > 0, before, 1)
    # powers are relative to their group's median, which one image may have moved
    for group in range(run.slab.noise_groups):
        member = valid & (run.slab.noise_group == group)
        if run.comm.allreduce_scalar(int(member.sum())):
            ratio[member] /= median(run.comm, ratio[member])
    changed = run.slab.ids[valid & ~np.isclose(ratio, 1, rtol=_SAME_POWER, atol=0)]
    counts = run.comm.allgather((len(changed), int(changed[0]) if len(changed) else -1))
    if total := sum(count for count, _ in counts):
        first = next(first for count, first in counts if count)
        raise UserError(f"{checkpoint} was made from other particles than {run.file.path}: {total} images differ, the "
                        f"first of particle {first}; resume with the same particle file, or start a new run with "
                        "--overwrite")
    run.slab.restore(valid, state.pose.quaternion, state.pose.shift)


#: options that are called otherwise in a Config
_SPELLED = {"score_resolution": "score_band"}


def check_identity(run, now: dict, checkpoint: Checkpoint) -> None:
    """Raise UserError where a checkpoint is not of what `now` identifies."""
    if checkpoint.facts.get("kind") != now.get("kind"):
        was, wanted = (facts.get("kind") or "reconstruction" for facts in (checkpoint.facts, now))
        raise UserError(f"{checkpoint.path} is the state of a {was} and cannot be resumed by a {wanted}; choose "
                        f"another folder")
    if checkpoint.facts["particles"] != now["particles"]:
        raise UserError(f"{checkpoint.path} was made from other particles than {run.file.path}; resume with the same "
                        "particle file, or start a new run with --overwrite")
    before = checkpoint.facts["options"]
    changed = [name for name in now["options"] if before.get(name) != now["options"][name]]
    if changed:
        how = ", ".join(f"--{_SPELLED.get(n, n).replace('_', '-')} was {_in_words(before.get(n))} and is "
                         f"{_in_words(now['options'][n])}" for n in changed)
        raise UserError(f"{checkpoint.path} was made with other options: {how}; resume with the same, or start a new "
                        "run with --overwrite")
    if checkpoint.facts["mask"] != now["mask"]:
        raise UserError(f"{checkpoint.path} was made with another mask than that of now ({run.config.mask_called}); "
                        "resume with the same, or start a new run with --overwrite")
    if checkpoint.facts.get("weights") != now["weights"]:
        raise UserError(f"{checkpoint.path} was made with other weights of the particles than {run.given.source} has "
                        "now; resume with the same, or start a new run with --overwrite")
    for what, meaning in run.config.meant.items():
        if checkpoint.facts.get("own", {}).get(what) != now["own"][what]:
            raise UserError(f"{checkpoint.path} was made with another {what} {meaning.thing.name} than it is now: its "
                            "code, its default values, or variables that it refers to are others; resume with the "
                            "same, or start a new run with --overwrite")
    if checkpoint.facts.get("start_weights") != now["start_weights"]:
        raise UserError(f"{checkpoint.path} was made with other starting weights; resume with the same, or start a new "
                        "run with --overwrite")


def _in_words(value) -> str:
    return "the default" if value is None else str(value)
