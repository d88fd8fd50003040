"""``score``: particles compared with half maps that are given, each with the map of its own half set,
and with the other's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.mrc import read_map
from mpirecon.io.particle_file import ParticleFile, open_together
from mpirecon.io.run_log import RankLog
from mpirecon.io.run_output import read_particle_table, read_summary
from mpirecon.model.arrays import Volume
from mpirecon.parallel.comm import Communicator, run_together, together
from mpirecon.parallel.select import median
from mpirecon.report.verdict import declared
from mpirecon.robust.distances import scores_by
from mpirecon.robust.particle_noise import particle_sigma
from mpirecon.robust.statistics import Statistics, matched_filter
from mpirecon.solvers.config import Config
from mpirecon.solvers.given_maps import GivenMaps
from mpirecon.solvers.half_order import order_warning
from mpirecon.solvers.observers import Observer
from mpirecon.solvers.run import Reconstruction
from mpirecon.solvers.shift_check import shift_warnings
from mpirecon.validate.grids import check_same_grid
from mpirecon.validate.map_warnings import same_map_warning

#: factors between which the grey scale of maps is that of the images: more is another program's convention
_OWN_SCALE = 0.5, 2.0

#: options of a run that its scores depend on …
_SCORING = ("distance", "mask", "diameter", "max_resolution", "score_resolution", "normalise", "padding", "weights")

#: … and that are taken from it beside them where it compares its particles with its half maps
_WORKING = ("threads", "memory", "half_precision", "backend", "transport", "skip_bad", "seed")

#: what scores against half maps cannot be used for
_LEAKS = ("A particle is in its own half's map, if that was made of these particles, and finds itself there: noise "
          "scores above 0, too. The other half's map is free of it, but whoever selects by that lets the half maps see "
          "each other. reconstruct scores against folds, which do neither.")


@dataclass(frozen=True)
class Scores:
    """Particles against two half maps.

    columns : by name, (m,) each, on rank 0: id, half, what identifies a particle (uid, rlnImageName), and score,
        distance, residual, scale and sigma against the map of the ``_own`` half set and of the ``_other``; NaN of
        images that were skipped
    fsc : of the maps in the mask, (n // 2 + 1,)
    resolution : Å where it falls below 0.143, None where it never does
    grey_scale : what the maps were multiplied by
    notes, warnings : sentences
    """

    columns: dict[str, np.ndarray]
    fsc: np.ndarray
    resolution: float | None
    grey_scale: float
    notes: list[str]
    warnings: list[str]

    def as_dict(self) -> dict:
        """For JSON: what there is to say of all particles together."""
        def typical(name: str) -> float | None:
            values = self.columns[name][np.isfinite(self.columns[name])]
            return float(np.median(values)) if len(values) else None

        names = ("score_own", "score_other", "distance_own", "distance_other", "residual_own", "residual_other")
        return {
            "particles": len(self.columns["id"]), "skipped": int((~np.isfinite(self.columns["score_own"])).sum()),
            "resolution_0143": self.resolution, "grey_scale": self.grey_scale,
            "median": {name: typical(name) for name in names},
            "notes": self.notes, "warnings": self.warnings,
        }  # fmt: skip


    def print(self, console, written: Sequence) -> None:
        """Print it; written : files."""
        for text in self.warnings:
            console.warn(text)
        about = self.as_dict()
        at = f"falls below 0.143 at {self.resolution:.2f} Å" if self.resolution else "stays above 0.143"
        console.say(f"FSC of the two maps {at}")
        console.say(f"{'median over particles':24} {'score':>9} {'distance':>11} {'residual':>11}")
        for which, words in (("own", "own half's map"), ("other", "other half's map")):
            medians = (about["median"][f"{name}_{which}"] for name in ("score", "distance", "residual"))
            score, distance, residual = ("–" if value is None else f"{value:.4g}" for value in medians)
            console.say(f"{words:24} {score:>9} {distance:>11} {residual:>11}")
        for text in (_LEAKS, *self.notes, *(f"wrote {path}" for path in written)):
            console.say(text)


class Scoring(Reconstruction):
    """A run that makes no maps: one iteration, of which the statistics are all there is."""

    def _announcers(self) -> list[Observer]:
        """There is no iteration to report."""
        return []


def score_particles(
    comm: Communicator, half1, half2, particles: Path, config: Config, console, *, filtered: bool = True,
    star: Path | None = None,
    cs: Path | None = None, weights: np.ndarray | None = None, shown: Path | None = None,
) -> Scores:
    """Compare the particles of a file with two half maps. Collective.

    Parameters
    ----------
    half1, half2 : Volume, or path of a map
    config : of an L2 run: mask, bands and distance count, nothing else does
    filtered : whether the maps are filtered by their FSC in the mask, as a run's are before particles are compared with
        them
    star, cs : tables that are to be written afterwards: what cannot be is refused before any image is read
    weights : (m,), in place of what ``config.weights`` names; particles of weight 0 are ignored, as in a run, and
        have no numbers
    shown : what the particle file is called

    Returns
    -------
    Scores
        columns on rank 0, none elsewhere

    Raises
    ------
    UserError
        on all ranks, where maps and particles differ in box or pixel size, or a file cannot be read.
    """
    from mpirecon.io.score_tables import check_tables, identities  # slow to load (pandas), and runs score without

    with open_together(comm, particles, shown) as file, ExitStack() as log:
        halves, names, doubts = None, None, []
        with together(comm):
            if comm.rank == 0:
                doubts = check_tables(file, star, cs)
                maps = [given if isinstance(given, Volume) else read_map(given) for given in (half1, half2)]
                names = [f"map {h + 1}" if isinstance(given, Volume) else str(given) for h,
                         given in enumerate((half1, half2))]
                for volume, name in zip(maps, names):
                    check_same_grid(volume, name, file, f"the particles of {file.path}")
                halves = tuple(_finite(volume, name) for volume, name in zip(maps, names))
        run, columns, scale = _compared(log, comm, file, config, console, halves, filtered, weights)
        state = run.state
        notes, warnings = [], []
        with together(comm):
            if comm.rank == 0:
                columns = {"id": np.arange(len(file)), "half": file.halves(), **identities(file), **columns}
                unmatched = _no_match(columns)
                notes = _notes(half1, half2, run, scale, columns)
                warnings = [*doubts, *filter(None, [same_map_warning(*halves)]),
                            *(unmatched or _order(half1, half2, columns)), *shift_warnings(state.records)]
                file.refuse_changed()
        return Scores({} if comm.rank else columns, state.fsc, state.record["resolution_0143"], scale, notes, warnings)


def half_map_columns(run: Reconstruction, halves: tuple[np.ndarray, np.ndarray] | None) -> dict[str, np.ndarray]:
    """What `score` on the half maps of this run would find of its particles, at their given poses, by name,
    (m,) each, on rank 0.

    halves : as they are written, on rank 0. Every image is read again, twice. Collective.
    """
    asked = {name: getattr(run.config, name) for name in (*_SCORING, *_WORKING)}
    weights = None if run.given is None else run.given.values
    with ExitStack() as log:
        return _compared(log, run.comm, run.file, Config(loss="l2", **asked), run.console, halves, True, weights)[1]


def _compared(
    stack: ExitStack, comm: Communicator, file: ParticleFile, config: Config, console, halves, filtered: bool,
    weights: np.ndarray | None,
) -> tuple[Scoring, dict[str, np.ndarray], float]:
    """The run that compares particles with half maps, which are on rank 0;
    the numbers of all of them there, and the grey scale."""
    log = stack.enter_context(RankLog.for_rank(None, comm, particles="none"))
    config = replace(config, particle_scores=True)  # of all of them
    run = Scoring(comm, file, config, log, console, weights=weights,
                  solver=lambda engine, settled: GivenMaps(engine, settled, halves, filtered))
    (state,) = run.iterations()
    scale, local = _grey_scale(run), {}
    for which, statistics in (("own", state.scores.inside), ("other", state.scores.held_out)):
        local |= {f"{name}_{which}": values for name, values in _columns(run, _scaled(statistics, scale)).items()}
    columns = {name: comm.gather_slabs(np.ascontiguousarray(values), len(file)) for name, values in local.items()}
    return run, ({} if comm.rank else columns), scale


def _finite(volume: Volume, name: str) -> np.ndarray:
    array = np.asarray(volume.to_numpy(), np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{name} holds NaN or infinity; particles cannot be compared with it")
    if not np.ptp(array) > 0:
        raise UserError(f"{name} is constant; particles cannot be compared with it")
    return array


def _grey_scale(run: Reconstruction) -> float:
    """What the maps must be multiplied by to be of the images' scale; 1 where they are, but for noise. Collective."""
    sums = run.comm.allreduce(run.state.scores.held_out.sums[run.slab.valid].sum(axis=(0, 1)))
    fitted = float(sums[1] / sums[2]) if sums[2] > 0 else 0.0
    return 1.0 if fitted <= 0 or _OWN_SCALE[0] <= fitted <= _OWN_SCALE[1] else fitted


def _scaled(statistics: Statistics, scale: float) -> Statistics:
    return (
        statistics if scale == 1 else Statistics(statistics.sums * np.array([1.0, scale, scale**2]), statistics.samples)
    )


def _columns(run: Reconstruction, statistics: Statistics) -> dict[str, np.ndarray]:
    """What a run's table has of its particles, against one map each. Collective."""
    comm, valid = run.comm, run.slab.valid
    sigma = particle_sigma(comm, statistics, valid)
    typical = median(comm, statistics.yy[valid])
    columns = {
        "score": matched_filter(statistics, sigma),
        "distance": run_together(comm, lambda: scores_by(run.problem.distance, statistics, sigma, typical, valid)),
        "residual": statistics.residual, "scale": statistics.contrast, "sigma": sigma,
    }  # fmt: skip
    return {name: np.where(valid, values, np.nan) for name, values in columns.items()}


def _notes(half1, half2, run: Reconstruction, scale: float, columns: dict[str, np.ndarray]) -> list[str]:
    """What a reader of the numbers should know."""
    notes = []
    if scale != 1:
        notes.append(f"the maps were multiplied by {scale:.4g}: their grey scale is not the images'")
    folder = _folder_of(half1, half2)
    return notes if folder is None else notes + _against_run(folder, run, columns)


def _folder_of(half1, half2) -> Path | None:
    """The folder that both are in, where they are named as a run names its half maps."""
    if isinstance(half1, Volume) or isinstance(half2, Volume):
        return None
    first, second = Path(half1), Path(half2)
    together = first.parent.resolve() == second.parent.resolve()
    return first.parent if together and (first.name, second.name) == ("half1.mrc", "half2.mrc") else None


def _against_run(folder: Path, run: Reconstruction, columns: dict[str, np.ndarray]) -> list[str]:
    """How these numbers compare with those of the run whose half maps they are of."""
    try:
        summary = read_summary(folder)
    except UserError:
        return []
    theirs, ours = summary.get("configuration") or {}, run.config.as_dict()
    other = [name for name in _SCORING if name in theirs and _plain(theirs[name]) != _plain(ours[name])]
    notes = [f"the run in {folder} scored otherwise: its {name.replace('_', ' ')} is {_words(theirs[name])}, here "
             f"{_words(ours[name])}"
             for name in other]
    try:
        table = read_particle_table(folder / "particles.h5")
    except UserError:
        return notes
    return notes + _beside_table(folder / "particles.h5", table, bool(theirs) and not declared(summary)["scores"],
                                 columns)


def _beside_table(path: Path, table: dict[str, np.ndarray], unfolded: bool,
                  columns: dict[str, np.ndarray]) -> list[str]:
    """How the numbers of a run's table that are of its half maps differ from these."""
    pairs = {name: name for name in ("score_own", "score_other") if name in table} or (
        {"score": "score_other"} if unfolded else {}
    )
    notes = []
    if not unfolded:
        notes.append(f"the scores in {path} are of maps without each particle's fold, which its half maps do not show: "
                     f"these are others"
                     + ("" if pairs else "; a run with --half-map-scores has these beside them"))
    if len(table["id"]) != len(columns["id"]):
        return notes + [f"{path} is of {len(table['id'])} particles, these are {len(columns['id'])}"]
    for theirs, ours in pairs.items():
        difference = np.abs(table[theirs] - columns[ours])
        if np.isfinite(difference).any():
            notes.append(f"{theirs} in {path} and {ours} here differ by at most {np.nanmax(difference):.2g}")
    return notes


def _words(value) -> str:
    return "the default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value):
    return list(value) if isinstance(value, (list, tuple)) else value


def _no_match(columns: dict[str, np.ndarray]) -> list[str]:
    """A warning where the maps are not of these particles, whose scores then say nothing of the maps' order: of
    inverted maps that of the own half looks worse."""
    score = columns["score_other"][np.isfinite(columns["score_other"])]
    if len(score) and np.median(score) <= 0:
        return ["half of the particles or more do not show the other half's map at all: are the maps of these "
                "particles, of the same hand and contrast (protein bright), and in the order of the half sets?"]
    return []


def _order(half1, half2, columns: dict[str, np.ndarray]) -> list[str]:
    """A warning where the maps were exchanged: by their names, or by what the particles show."""
    folder = _folder_of(half2, half1)
    if folder is not None and (folder / "summary.json").exists():
        return [f"{half1} and {half2} are the half maps of one run in the other order: numbers of the own half are "
                "those of the other. Give half1.mrc first, unless the half sets were exchanged, too"]
    return list(filter(None, [order_warning(columns)]))
