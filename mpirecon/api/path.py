"""Paths of nested selections in scripts: computed, and inspected afterwards."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from mpirecon.api.agreement import same_on_all
from mpirecon.api.arguments import as_communicator, console_of, structured
from mpirecon.api.maps import FSC, Volume, read_map
from mpirecon.api.options import by_name, configuration, source_of, unnamed
from mpirecon.api.scratch import Scratch
from mpirecon.errors import UserError, spoken
from mpirecon.io.named_path import NamedPath
from mpirecon.io.run_kinds import PATH
from mpirecon.io.run_output import read_particle_table, read_summary
from mpirecon.io.run_summary import WALKED
from mpirecon.kinds import AnyPath, Count, NonNegative, checked
from mpirecon.parallel.agree import run_first, run_together
from mpirecon.robust.nested import checked_fractions


@checked
def path(
    particles, output: AnyPath | None = None, *, schedule: str = "once", steps: tuple[float, ...] | None = None,
    random_draws: Count = 1, high_pass: tuple[float, float] | None = None, null: bool = True, weights=None, comm=None,
    overwrite: bool = False, resume: bool = False, checkpoint_signal: str = "USR1", grace: NonNegative = 240.0,
    stall_timeout: NonNegative = 1800.0, began: float | None = None, verbose: bool | int = False, **options,
) -> SelectionPath:
    """Maps of the best-scored 100, 90 … 10 % of the particles beside random discards:
    where does leaving out pay? Collective.

    Particles are scored against maps that they did not build: those of the other folds of their own half set.

    Parameters
    ----------
    particles : Particles, or path of a particle file, of a RELION STAR file or of a cryoSPARC .cs file
        images of a STAR or .cs file stay in their stacks, which ``linked.h5`` in the path's folder refers to
    output : path, optional
        folder, as ``mpirecon path -o`` writes it; a temporary one, gone with the result, when left out
    schedule : {"once", "rescore", "sieve"}
        scored by one first run; again at each step;
        again, above a high-pass that moves, as CryoSieve (Zhu et al. 2023) does
    steps : sequence of float, optional
        fractions that are kept, in (0, 1]; 1, 0.9 … 0.1 (of a sieve 0.8ᵏ) when left out
    random_draws : int
        random discards of each size, 1 or more
    high_pass : (float, float), optional
        first and last high-pass of a sieve, Å; 50 and 3 when left out
    null : bool
        also walk the path on pure noise of the same spectra, poses and CTFs
    weights : (m,) float, or str, optional
        of the particles in all maps, as `reconstruct` takes them; 0: as if the particle were not there
    comm : optional
        ``mpirecon.world()``, or a communicator of mpi4py; None: this process alone
    overwrite, resume : bool
        as the options of the command
    checkpoint_signal, grace, stall_timeout, began : str, float, float, float
        as of `reconstruct`
    verbose : bool or int
        print what the command prints; 2: also what it prints with ``--verbose``
    **options
        those of ``mpirecon.reconstruct`` that concern its result: loss (of the first run, ``"posterior"`` when left
        out), keep, distance, folds, symmetry, mask (``"auto"``: one made of the map of all particles, in which all
        selections are compared), diameter, seed …; for a STAR or .cs file also how it is read, as ``read_star`` takes
        it

    Returns
    -------
    SelectionPath
        the finished path, from its folder

    Raises
    ------
    UserError
        on all ranks, for what the caller can mend.
    """
    from mpirecon.solvers.endurance import Endurance
    from mpirecon.solvers.path import run_path
    from mpirecon.solvers.path_options import checked_options, first_run

    comm = as_communicator(comm)
    same_on_all(comm, output=output, schedule=schedule, steps=steps, random_draws=random_draws, high_pass=high_pass,
                null=null, weights=weights, overwrite=overwrite, resume=resume, **options)
    source, reading = run_together(comm, lambda: source_of(particles, options))
    scratch = Scratch(comm)
    options["loss"] = by_name(options.get("loss"))
    config = configuration(particles, scratch, comm, weights=weights, **first_run(schedule, **options))
    chosen = checked_options(schedule, None if steps is None else checked_fractions(steps), random_draws, high_pass,
                             null)
    endurance = run_together(comm, lambda: Endurance(signal=checkpoint_signal, grace=grace,
                                                     stall_timeout=stall_timeout, kept=output is not None))
    folder = scratch.path / "path" if output is None else Path(output)
    run_path(comm, source, folder, config, chosen, console_of(comm, verbose), overwrite=overwrite, resume=resume,
             endurance=endurance, began=began, weights=unnamed(weights), reading=reading)
    summary = comm.bcast(run_first(comm, lambda: read_summary(folder)))
    return SelectionPath(folder, _scratch=scratch if output is None else None, _summary=summary)


class SelectionPath:
    """A finished path, from the folder that ``mpirecon.path`` or the command wrote.

    Parameters
    ----------
    folder : path
        that a path was written to

    Attributes
    ----------
    folder : Path
    summary : dict
        summary.json: the steps and random discards with their FSC curves, the verdict, the path on noise …

    Raises
    ------
    UserError
        when the folder does not hold a finished path, or its summary.json lacks something, being of another version.
    """

    @checked
    def __init__(self, folder: AnyPath, *, _scratch: Scratch | None = None,
                 _summary: dict | None = None) -> None:
        self._named, self._scratch = NamedPath(folder), _scratch
        self.summary = read_summary(folder, needs=WALKED, kind=PATH) if _summary is None else _summary

    @property
    def folder(self) -> Path:
        """As it was given; absolute where the current folder has changed since."""
        return self._named.path

    @property
    def verdict(self) -> dict:
        """``best`` and ``best_resolution`` (fractions), ``pays``, ``gain`` and ``limit`` of the mean half-map FSC,
        ``bfactor`` (Å²), and the ``sentence`` that says so."""
        return self.summary["verdict"]

    @property
    def best(self) -> float:
        """Fraction of the particles whose half maps agree best."""
        return self.verdict["best"]

    @property
    def pays(self) -> bool:
        """Whether the best step is better than all particles, beyond what random discards reach by chance."""
        return self.verdict["pays"]

    @property
    def sentence(self) -> str:
        """Where leaving out pays, in words."""
        return spoken(self.verdict["sentence"])

    @property
    def fractions(self) -> list[float]:
        """Fractions that were kept, from 1 down."""
        return [step["fraction"] for step in self.summary["steps"]]

    @cached_property
    def table(self) -> np.ndarray:
        """path.csv as a structured array, which ``pandas.DataFrame`` takes: fraction, particles, chosen ("score" or
        "random"), draw, resolution_0143, resolution_fitted and its resolution_error, resolution_05 (Å), mean_fsc,
        fsc_to_all, bfactor (Å²), area_ratio, sphericity …; NaN where not known."""
        return np.genfromtxt(self.folder / "path.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")

    @checked
    def fsc(self, fraction: float) -> FSC:
        """Half-map FSC of a step, in the mask.

        Parameters
        ----------
        fraction : float
            of the step

        Returns
        -------
        FSC

        Raises
        ------
        UserError
            if no step has this fraction.
        """
        about = self.summary["particles"]
        return FSC(np.array(self._step(fraction)["fsc"]), about["box"], about["pixel_size"])

    @cached_property
    def particles(self) -> np.ndarray:
        """A structured array with a row per particle: id, half, kept (at the best step), kept_to (the smallest fraction
        that it is kept in), distance, score …"""
        return structured(read_particle_table(self.folder / "particles.h5"))

    @checked
    def kept(self, fraction: float | None = None) -> np.ndarray:
        """The particles of a step.

        Parameters
        ----------
        fraction : float, optional
            of the step; the best one by default

        Returns
        -------
        (m,) bool

        Raises
        ------
        UserError
            if no step has this fraction.
        """
        step = self._step(self.best if fraction is None else fraction)["fraction"]
        kept_to = self.particles["kept_to"]
        return (kept_to > 0) & (kept_to <= step)

    @cached_property
    def volume(self) -> Volume:
        """The filtered map of the best step."""
        return read_map(self.folder / "volume.mrc")

    @cached_property
    def half_maps(self) -> tuple[Volume, Volume]:
        """The half maps of the best step, unfiltered."""
        return read_map(self.folder / "half1.mrc"), read_map(self.folder / "half2.mrc")

    @property
    def report(self) -> Path:
        """The page about the path."""
        return self.folder / "report.html"

    @property
    def warnings(self) -> list[str]:
        """What the path warned of."""
        return [spoken(warning) for warning in self.summary["warnings"]]

    def plot(self):
        """Resolution, mean half-map FSC, FSC to the map of all and anisotropy over the fraction that is kept,
        as a matplotlib Figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(15, 3.4), layout="constrained")
        named = {"resolution_fitted": "FSC 0.143, all curves together (Å)", "mean_fsc": "mean half-map FSC",
                 "fsc_to_all": "mean FSC to the map of all",
                 "area_ratio": "ratio of areas of conical FSCs"}
        for axes, (name, label) in zip(figure.subplots(1, len(named)), named.items()):
            for records, style, what in ((self.summary["steps"], "-o", "best-scored"),
                                         (self.summary["random"], "o", "at random")):
                values = [self.summary["nyquist"] if r[name] is None else r[name] for r in records]
                axes.plot([100 * r["fraction"] for r in records], values, style, label=what, markersize=4)
            axes.axvline(100 * self.best, color="grey", linestyle=":", linewidth=1)
            axes.set(xlabel="kept (%)", ylabel=label)
            if name == "resolution_fitted":
                axes.invert_yaxis()
                axes.legend(frameon=False)
        return figure

    def _repr_png_(self) -> bytes:
        from mpirecon.report.figures import png_bytes

        return png_bytes(self.plot(), dpi=90)

    def __repr__(self) -> str:
        return f"SelectionPath({self.folder}: {self.sentence})"

    def _step(self, fraction: float) -> dict:
        found = [step for step in self.summary["steps"] if abs(step["fraction"] - fraction) < 5e-4]
        if not found:
            raise UserError(f"{fraction:g} is no step of the path in {self.folder}: those are "
                            f"{', '.join(f'{x:.3g}' for x in self.fractions)}")
        return found[0]
