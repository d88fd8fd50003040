"""How much memory and time a reconstruction will take, before it runs: what `job` and `reconstruct --dry-run` go by.

Both follow from the arrays and loops of the solvers, times constants that are measured: by this user on this machine
(``mpirecon forecast --calibrate``), else by tools/scaling, which keeps them in model.json (docs/scaling.md). Memory is
good to 15 %, or up to a third more than large boxes of noisy images need; a test compares it with what finished runs
report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mpirecon.batch.calibration import calibration
from mpirecon.model.symmetry import point_group
from mpirecon.operators.fourier import SMALL_BOX, TINY_BOX, padded_size, padding_for
from mpirecon.solvers.kinds import SolverKind, solver_kind
from mpirecon.solvers.nearby_schedule import NearbySchedule
from mpirecon.solvers.slab_data import batch_length

#: what a forecast is multiplied by before it becomes a request, and what starting a job takes, seconds
_MARGIN, _START_UP = 2.0, 300.0

#: what is to be said of a forecast for GPUs
GPUS_UNKNOWN = ("the time is forecast for CPUs, a core a rank: passes on GPUs are not modelled, and mpirecon has not "
                "been run on a GPU yet. Try a few iterations first")

#: time of summing a Fourier grid over a point group's rotations of it, a point, and more for each rotation: in times of
#: adding a sample, the first constant of "accumulate"
_TURNS = (0.548, 0.0119)

#: bytes a second that each rank is taken to get from a shared file system
SHARED = 100e6

#: grid points beyond the farthest sample that its taps reach
_TAPS_REACH = 3.5

#: arrays as large as a map that rank 0 has when it corrects the FSC for the mask, the sums being gone
_AFTERWARDS = 9

#: fraction of a batch's arrays that are there at the same time
_AT_ONCE = 0.8


def constants() -> dict:
    """What was measured: ``seconds`` (phase → constant for each term of `work`), ``memory``, ``threads``."""
    return calibration().model


@dataclass(frozen=True)
class Task:
    """What is to be reconstructed: `particles` images of `box` pixels a side, by `rounds` outer iterations.

    samples : Fourier samples of an image that are used; all below Nyquist when left out
    copies : poses at which each image is summed, for the point group's sake
    turns : rotations of the group that the grid itself is summed over
    padding : Fourier grid over box
    kept : bytes that a rank may keep images in
    half_precision : as float16
    refining : steps of conjugate gradients on the final maps
    deterministic : accumulators of int64 while they are filled
    mixes : whether a mixture of correct and wrong poses decides which particles count
    compared : particles that are compared with the maps, None: all
    nearby : particles that are compared at poses near theirs, over all particles, summed over the iterations
    searches : whether poses of rejected particles are searched
    group_size : rows of a group, on average, that are searched together
    sums_at_once : whether first maps are made of sums that are added up in the survey
    """

    particles: int
    box: int
    folds: int = 4
    rounds: int = 5
    solver: str = "normal"
    samples: int | None = None
    copies: int = 1
    turns: int = 1
    padding: float | None = None
    kept: float = 0
    half_precision: bool = False
    refining: int | None = None
    deterministic: bool = False
    mixes: bool = False
    compared: int | None = None
    nearby: float = 0.0
    searches: bool = False
    group_size: float = 1.0
    sums_at_once: bool = False

    @classmethod
    def of(cls, file, config, kept: float) -> Task:
        """That of a ParticleFile and a Config;
        `kept` where the config does not say how many bytes of images a rank keeps."""
        samples = None
        if config.max_resolution is not None:
            limit = min(file.box / 2, file.box * file.pixel_size / config.max_resolution + 0.5)
            samples = round(math.pi / 2 * limit**2)
        turns, copies = (len(part) for part in point_group(config.symmetry).split())
        kept = kept if config.memory is None else config.memory
        kept = 0.0 if config.visits_once(len(file), file.has_truth) else kept
        config = config.settled(file)
        together = config.searches and config.group_by is not None
        size = file.group_size(config.group_by) if together else 1.0
        nearby = NearbySchedule(config.settling).most(config.rounds, len(file)) if config.searches_nearby else 0.0
        return cls(len(file), file.box, config.scoring_folds, config.rounds, config.solver, samples, copies, turns,
                   config.padding, kept,
                   config.half_precision, config.solve_iterations, config.deterministic, config.mixes,
                   config.compared(len(file), file.has_truth), nearby,
                   config.searches, size, config.sums_at_once)

    @property
    def groups(self) -> int:
        return 2 * self.folds

    @property
    def references(self) -> int:
        """Maps that particles are compared with: of each half, and without each fold."""
        return 2 + (self.groups if self.folds > 1 else 0)

    @property
    def kind(self) -> SolverKind:
        """What the solver asks of a run."""
        return solver_kind(self.solver)

    @property
    def references_solved(self) -> int:
        """Those that are maps of their own:
        without folds and by normal equations, they are filtered half maps, made on rank 0."""
        return 0 if self.folds == 1 and self.kind.filters_halves else self.references

    @property
    def samples_of_an_image(self) -> int:
        return self.samples or round(math.pi / 2 * (self.box / 2) ** 2)

    @property
    def padded(self) -> int:
        """Side of the Fourier grid."""
        return padded_size(self.box, padding_for(self.box) if self.padding is None else self.padding)

    @property
    def finishing(self) -> tuple[int, int]:
        """Final maps that are solved, and steps of conjugate gradients on each;
        those that were not requested as by noise."""
        if self.refining is None:
            if self.box <= TINY_BOX:
                return 3, 6  # eight on each half, two on all
            return 1, 2 if self.box <= SMALL_BOX else 0
        return (3, self.refining) if self.refining else (1, 0)

    def images_kept(self, ranks: int) -> float:
        """Bytes of prepared images that a rank keeps: transform and CTF of each sample, as many as fit."""
        return min(
            self.kept, math.ceil(self.particles / ranks) * self.samples_of_an_image * (6 if self.half_precision else 12)
        )

    def share_kept(self, ranks: int) -> float:
        """Which fraction of its images a rank keeps."""
        whole = math.ceil(self.particles / ranks) * self.samples_of_an_image * (6 if self.half_precision else 12)
        return self.images_kept(ranks) / whole


def folded_bytes(p: int) -> int:
    """One accumulator on the folded grid, (p, p, p // 2 + 1, 3) float32."""
    return 12 * p * p * (p // 2 + 1)


def extended_bytes(p: int) -> int:
    """One accumulator while it is filled, with the margin that the interpolation kernel needs."""
    return 12 * (p + 8) ** 2 * (p // 2 + 9)


def packed_bytes(task: Task) -> int:
    """One accumulator as it is kept: of each point that images' samples and their taps reach, within a ball."""
    p = task.padded
    reach = math.sqrt(2 * task.samples_of_an_image / math.pi) * p / task.box + _TAPS_REACH
    return min(folded_bytes(p), round(12 * 2 * math.pi / 3 * reach**3))


def memory_parts(task: Task, ranks: int, threads: int = 1, known: dict | None = None) -> dict[str, float]:
    """Bytes of a rank at its worst moment, by what they are for; known : in place of `constants`."""
    known = (known or constants())["memory"]
    p, volume = task.padded, 4 * task.box**3
    folded, extended, packed = folded_bytes(p), extended_bytes(p), packed_bytes(task)
    planes = 8 * task.box * p * (p // 2 + 1)  # a map's transform on its way to the grid and back
    stores = 1 + task.kind.begins
    # one rank keeps the sums of a group where they were made; several send them from a buffer, and keep a slab each
    alone = ranks == 1 and not task.deterministic
    kept = stores * task.groups * packed / ranks
    maps = volume * ((2 if task.folds > 1 else 1) + math.ceil((task.references_solved + 3) / ranks))
    sent = packed if ranks > 1 else 0
    solving = planes + sent
    if task.kind.begins or task.finishing[1]:
        solving = known["solve"].get(task.solver, max(known["solve"].values())) * folded
    filling = extended - packed if alone else (extended + sent) * (2 if task.deterministic else 1)
    comparing = 2 * extended * 2 / 3 + planes  # two grids of complex numbers, one just transformed
    afterwards = _AFTERWARDS * volume - kept - maps
    images = math.ceil(task.particles / ranks)
    batch = _AT_ONCE * 20 * task.box**2 * min(images, batch_length(task.box, threads))
    return {
        "program": known["program"] + (known["mpi"] if ranks > 1 else 0),
        "batch": batch,
        "threads": known["threads"] * folded if threads > 1 else 0.0,
        "sums of groups": kept,
        "maps": maps,
        "grids": max(solving, filling, comparing, afterwards),
        "images": task.images_kept(ranks),
        "search": _search_bytes(task) if task.searches else 0.0,
        "particles": task.particles * (
            (known["particle"] + (task.folds > 1) * known["scores"] + task.mixes * known["mixture"]) / ranks
            + known["particle_table"]
        ),
    }


def _search_bytes(task: Task) -> float:
    """The slices' grid of one map, at most, and the table that it is folded from;
    scores of a batch of images, and its samples."""
    grid = 8 * (2 * task.box + 9) ** 3
    return 1.5 * grid + 4 * task.box**3 + constants()["memory"]["search"]


def memory_per_rank(task: Task, ranks: int, threads: int = 1, known: dict | None = None) -> float:
    """Most bytes one of `ranks` ranks will hold at a time."""
    return sum(memory_parts(task, ranks, threads, known).values())


def reduced_bytes(task: Task, ranks: int) -> float:
    """Bytes of arrays that each rank's messages carry in all: what its traffic counts."""
    if ranks == 1:
        return 0.0
    sums_of_one, volume = packed_bytes(task), 4 * task.box**3
    maps = 2 + task.references_solved  # unfiltered halves, and what particles are compared with
    sums = task.groups + 2 * task.kind.begins
    fetched = 1 + task.references  # of the halves that are compared, one is on rank 0 already
    per_round = (sums + maps) * sums_of_one + fetched * volume
    begin = (task.groups + task.references_solved + 1) * sums_of_one if task.kind.begins else 0.0
    finishing = task.finishing[0] * sums_of_one + (1 if task.finishing[0] == 1 else 2) * volume
    return begin + task.rounds * per_round + finishing


def work(task: Task, ranks: int, threads: int = 1, known: dict | None = None) -> dict[str, tuple[float, ...]]:
    """Phase → amounts of work of a rank, each of which a constant of model.json turns into seconds.

    Particles are shared by ranks and their threads; maps are solved on one rank each, and transformed on all.
    """
    p = task.padded
    fft = p**3 * math.log2(p**3)
    images = math.ceil(task.particles / ranks)
    share = images / (1 + {**constants(), **(known or {})}["threads"] * (threads - 1))
    samples = task.samples_of_an_image
    deciding = float(task.particles if task.deterministic else images)
    passes = task.rounds * task.kind.passes
    comparing = task.rounds * (1 if task.compared is None else task.compared / task.particles)
    # the survey, and what is not in memory afterwards
    brought = 1 + (passes - task.rounds - task.sums_at_once + comparing) * (1 - task.share_kept(ranks))
    spread = math.log2(max(task.box, 32) / 32)  # larger volumes miss the caches more often
    direct = math.ceil(2 / ranks) + math.ceil(task.references_solved / ranks)
    final_maps, steps = task.finishing
    finished = math.ceil(final_maps / ranks) * (2 * steps + 1)
    return {
        "read": (brought * images * task.box**2,),
        "prepare": (brought * share * task.box**2 * math.log2(task.box), (passes + 1) * share, 1.0),
        "survey": (share * samples,),
        "accumulate": (
            task.copies * (passes - task.rounds) * share * samples,
            task.copies * (passes - task.rounds) * share * samples * spread,
            (passes - task.rounds) * task.groups * p**3,
        ),
        "statistics": (
            comparing * share * samples, comparing * share * samples * spread, task.nearby * share * samples,
            float(task.rounds),
        ),
        # a mixture is fitted in steps; joint decisions are every rank's, over all particles
        "select": tuple(task.rounds * amount for amount in (
            (task.folds > 1) * deciding, task.mixes * deciding, float(task.mixes),
        )),
        "solve": (
            (task.rounds * direct + finished) * fft, task.rounds * task.references * fft,
            task.rounds * fft * task.kind.begins,
            # references of robust losses are freed of the noise about the particle
            task.rounds * math.ceil(task.references / ranks) * fft if task.folds > 1 else 0.0, 1.0,
            task.rounds * _summed(task, ranks) if task.sums_at_once else 0.0,
        ),
        "reduce": (reduced_bytes(task, ranks), 0.0 if ranks == 1 else passes * task.groups * math.log2(ranks)),
        **({"search": _search_work(task, images, samples)} if task.searches else {}),
        "postprocess": (float(task.box**3) * math.log2(task.box), 1.0),
        "rest": (1.0, float(task.box**3), float(task.particles), 0.0 if ranks == 1 else 1.0),
    }  # fmt: skip


#: box from which on the maps that losses are summed of are coarser than it where images are noisy, and the fraction of
#: that work that each of several ranks has: both maps' transforms, and one half's matrix
_FINEST_SUMMED, _OF_ONE_HALF = 128, 0.75


def _summed(task: Task, ranks: int) -> float:
    """Transforms by which losses follow from sums."""
    p = task.padded * min(1.0, _FINEST_SUMMED / task.box)
    return p**3 * math.log2(p**3) * (1.0 if ranks == 1 else _OF_ONE_HALF)


#: searches of a run, fraction of the particles that each is taken to search, particles of control and decoys, and maps
_SEARCHES, _SEARCHED, _CONTROLS, _SEARCH_MAPS = 2, 0.4, 600, 8
#: what an image of a group costs: slices are cut for it alone, where those of single images are cut for all at once
_GROUPED = 15.0


def _search_work(task: Task, images: int, samples: int) -> tuple[float, ...]:
    """Searched images, their samples, and points of the grids that slices are cut from;
    threads share the least of it."""
    # control and decoys are counted in groups: of few ones, each is searched in both
    part = min(_SEARCHED + _CONTROLS * task.group_size / task.particles, 2.0)
    part *= _GROUPED if task.group_size > 1 else 1.0
    searched = _SEARCHES * part * images
    return searched, searched * samples, float(_SEARCHES * _SEARCH_MAPS * (2 * task.box) ** 3)


def seconds_by_phase(
    task: Task, ranks: int, speed: float = 1.0, threads: int = 1, known: dict | None = None, rate: float = math.inf
) -> dict[str, float]:
    """Wall seconds of the slowest rank, phase by phase, on cores `speed` times as fast as those measured.

    rate : bytes a second that a rank gets from the disk; infinite where the file is in the host's cache, as when
        measured
    """
    amounts = work(task, ranks, threads, known)
    known = (known or constants())["seconds"]
    waiting = 4 * amounts["read"][0] / rate
    network = ("reduce", "read")
    found = {
        phase: sum(c * w for c, w in zip(known[phase], amount)) / (1.0 if phase in network else speed)
        for phase, amount in amounts.items()
    }
    summing = 0.0
    if task.turns > 1:
        sums = task.rounds * (task.kind.passes - 1) * task.groups
        summing = sums * task.padded**3 * (_TURNS[0] + _TURNS[1] * task.turns) * known["accumulate"][0] / speed
    return found | {"read": found["read"] + waiting, "accumulate": found["accumulate"] + summing}


def seconds(task: Task, ranks: int, speed: float = 1.0, threads: int = 1, rate: float = SHARED) -> float:
    """Wall seconds expected on cores `speed` times as fast as the reference, images from a shared file system;
    no margin."""
    return sum(seconds_by_phase(task, ranks, speed, threads, rate=rate).values())


def wall_time(task: Task, ranks: int, speed: float = 1.0, threads: int = 1) -> int:
    """Seconds to ask a batch system for: the expected time with a margin, in steps of ten minutes."""
    wanted = _MARGIN * seconds(task, ranks, speed, threads) + _START_UP
    return 600 * math.ceil(wanted / 600)
