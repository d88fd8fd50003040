"""Files of every kind that mpirecon reads, damaged by chance from a seed, and how each is read.

A reading must end in a UserError or in a sane result:
all numbers finite where they must be, in bounded time and memory.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import mrcfile
import numpy as np
import pandas as pd
from click.testing import CliRunner
from test_cryosparc import columns, save_cs

from mpirecon.cli import run as command_line
from mpirecon.cli.job import command as job_command
from mpirecon.cli.logs import command as logs_command
from mpirecon.errors import UserError
from mpirecon.io.checkpoint import Checkpoint
from mpirecon.io.export import ExportOptions, export_run
from mpirecon.io.import_options import ImportOptions
from mpirecon.io.importer import import_particles
from mpirecon.io.mrc import read_map
from mpirecon.io.optics_table import read_mtf
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.run_output import read_summary
from mpirecon.io.star import write_star
from mpirecon.parallel.agree import as_user_error
from mpirecon.report.html import write_report

BOX, COUNT = 16, 12

#: what one reading may take
SECONDS, BYTES = 20, 2 * 2**30

_BYTES = [0, 255, 32, 10, 13, 45, 46, 48, 57, 34, 35, 39, 95, 64, 91, 93, 123, 125]
_NUMBERS = ["nan", "inf", "-inf", "-1", "0", "1e300", "-1e300", "1e-320", "99999999999999999999", "2147483648", "",
            "null", "true",
            '"x"', "[]", "{}", "0.5", "1e9"]  # fmt: skip


#: what is changed, and how often
_HOW = {"bit": 0.3, "byte": 0.18, "lost": 0.08, "blank": 0.08, "random": 0.06, "moved": 0.08, "end": 0.04,
        "number": 0.18}


class Kind(NamedTuple):
    """make(folder) : writes a good file and returns it;
    read(path) : what must end well with a damaged one in its place;
    text : damaged as text is, too; weight : readings per seed, less than 1 for slow ones; head : bytes where most
        damage goes"""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    text: bool = False
    weight: float = 1.0
    head: int | None = None


def damage(data: bytes, rng: np.random.Generator, text: bool, head: int | None = None) -> bytes:
    """One to four changes: of a bit, a byte, a number, a stretch that is lost, blank, random or a copy of another,
    or the end."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if not out:
            break
        at = int(rng.integers(len(out) if head is None or rng.random() < 0.2 else min(head, len(out))))
        length = int(min(rng.geometric(0.05), len(out) - at))
        how = rng.choice(list(_HOW), p=list(_HOW.values()))
        place = slice(at, at + length)
        if how == "bit":
            out[at] ^= 1 << int(rng.integers(7 if text else 8))
        elif how == "byte":
            out[at] = int(rng.choice(_BYTES))
        elif how == "blank":
            out[place] = bytes([int(rng.choice([0, 32, 255]))]) * length
        elif how == "random":
            out[place] = rng.integers(32 if text else 0, 127 if text else 256, length, dtype=np.uint8).tobytes()
        # a block of somewhere else, of the same length in binary files, in which nothing would be found else
        elif how == "moved":
            other = int(rng.integers(len(out)))
            out[place if not text else slice(at, at)] = out[other : other + length].ljust(0 if text else length, b"\0")
        elif how == "lost" and (text or rng.random() < 0.2):
            del out[place]
        elif how == "end":
            del out[at:]
        elif text:
            _replace_number(out, at, rng)
        else:  # as numbers are stored
            number = np.array(rng.choice([np.nan, np.inf, -1.0, 1e300, 0.0, 2.0**63]))
            kind = rng.choice(["f4", "f8", "i4", "i8"])
            with np.errstate(all="ignore"):
                new = number.astype(kind).tobytes()
            at -= at % len(new)
            out[at : at + len(new)] = new
    return bytes(out)


def _replace_number(out: bytearray, at: int, rng: np.random.Generator) -> None:
    """The number at or after a place becomes another, or a word."""
    digits = b"0123456789+-.eE"
    while at < len(out) and out[at] not in digits:
        at += 1
    end = at
    while end < len(out) and out[end] in digits:
        end += 1
    out[at:end] = str(rng.choice(_NUMBERS)).encode()


def try_one(kind: Kind, good: Path, seed: int) -> str:
    """Damage a copy of `good` in its place and read it: "refused" or "accepted"; any other end is raised."""
    data = good.read_bytes()
    try:
        good.write_bytes(damage(data, np.random.default_rng(seed), kind.text, kind.head))
        with limits(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_sane(kind.read(good))
        return "accepted"
    except Exception as error:
        expected = as_user_error(error)
        if expected is None or isinstance(error, MemoryError):
            raise
        assert 20 < len(str(expected)) < 1500, "a sentence was expected"
        return "refused"
    finally:
        good.write_bytes(data)


class TooLong(BaseException):
    """A reading that does not end."""


@contextmanager
def limits():
    """Raise TooLong after a while, MemoryError for giant arrays."""

    def stop(*_):
        raise TooLong(f"no end after {SECONDS} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, hard))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def check_sane(found) -> None:
    """All numbers are finite, and none is absurd."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, (list, tuple)):
        for part in found:
            check_sane(part)
    elif isinstance(found, np.ndarray) and found.dtype.names:
        check_sane([found[name] for name in found.dtype.names])
    elif isinstance(found, (np.ndarray, float)) and np.asarray(found).dtype.kind == "f":
        assert np.isfinite(found).all() and (np.abs(found) < 1e30).all(), f"{found} was accepted"


# the kinds


def _images(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(COUNT, BOX, BOX)).astype(np.float32)


def _save_stack(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, data=_images(), overwrite=True) as file:
        file.set_image_stack()
        file.voxel_size = 2.5
    return path


def _save_map(path: Path) -> Path:
    with mrcfile.new(path, data=np.random.default_rng(2).normal(size=(BOX,) * 3).astype(np.float32),
                     overwrite=True) as file:
        file.voxel_size = 2.5
    return path


def _star(folder: Path) -> Path:
    """RELION 3.1's tables with everything that is read of them."""
    _save_stack(folder / "s.mrcs")
    rng = np.random.default_rng(3)
    optics = pd.DataFrame({
        "rlnOpticsGroup": ["1", "2"], "rlnOpticsGroupName": ["a", "b"], "rlnVoltage": ["300.0", "200.0"],
        "rlnSphericalAberration": ["2.7", "2.7"], "rlnAmplitudeContrast": ["0.1", "0.1"],
        "rlnImagePixelSize": ["2.5", "2.5"],
        "rlnImageSize": [str(BOX)] * 2, "rlnImageDimensionality": ["2", "2"], "rlnBeamTiltX": ["0.1", "0"],
        "rlnBeamTiltY": ["0", "-0.2"], "rlnOddZernike": ["[0,0,0.5,0,0,0]", "[0,0,0,0,0,0]"],
        "rlnEvenZernike": ["[0,0,0,0,0,0,0.1,0,0]", "[0,0,0,0,0,0,0,0,0]"], "rlnMagMat00": ["1.01", "1"],
        "rlnMagMat01": ["0", "0"], "rlnMagMat10": ["0", "0"], "rlnMagMat11": ["1", "0.99"],
    })  # fmt: skip
    particles = pd.DataFrame({
        "rlnImageName": [f"{i + 1:06d}@s.mrcs" for i in range(COUNT)],
        "rlnMicrographName": [f"m{i // 4}.mrc" for i in range(COUNT)],
        **{f"rlnAngle{name}": [f"{v:.3f}" for v in rng.uniform(0, 180, COUNT)] for name in ("Rot", "Tilt", "Psi")},
        **{f"rlnOrigin{x}Angst": [f"{v:.3f}" for v in rng.normal(0, 4, COUNT)] for x in "XY"},
        "rlnDefocusU": [f"{v:.1f}" for v in rng.uniform(8000, 20000, COUNT)],
        "rlnDefocusV": [f"{v:.1f}" for v in rng.uniform(8000, 20000, COUNT)], "rlnDefocusAngle": ["30.0"] * COUNT,
        "rlnPhaseShift": ["0"] * COUNT, "rlnCtfBfactor": ["10"] * COUNT, "rlnCtfScalefactor": ["1"] * COUNT,
        "rlnOpticsGroup": [str(1 + i % 2) for i in range(COUNT)],
        "rlnRandomSubset": [str(1 + i // 2 % 2) for i in range(COUNT)],
        "rlnMaxValueProbDistribution": ["0.5"] * COUNT, "rlnGroupNumber": ["1"] * COUNT,
    })  # fmt: skip
    write_star(folder / "p.star", {"optics": optics, "particles": particles}, overwrite=True)
    return folder / "p.star"


def _cs(folder: Path) -> Path:
    _save_stack(folder / "s.mrcs")
    found = columns(COUNT)
    found |= {"blob/path": np.array([b">J1/s.mrcs"] * COUNT), "blob/shape": np.full((COUNT, 2), BOX, "u4")}
    _save_stack(folder / "J1" / "s.mrcs")
    passthrough = {"uid": found["uid"], "location/micrograph_uid": np.arange(COUNT, dtype="u8") // 4,
                   "location/micrograph_path": np.array([f"m{i // 4}.mrc".encode() for i in range(COUNT)]),
                   "location/center_x_frac": np.linspace(0.1, 0.9, COUNT).astype("f4"),
                   "location/center_y_frac": np.linspace(0.1, 0.9, COUNT).astype("f4"),
                   "location/micrograph_shape": np.full((COUNT, 2), 4000, "u4"),
                   "location/micrograph_psize_A": np.full(COUNT, 1, "f4")}
    save_cs(folder / "through.cs", passthrough)
    return save_cs(folder / "p.cs", found)


def _mtf(folder: Path) -> Path:
    write_star(folder / "mtf.star", {"": pd.DataFrame({
        "rlnResolutionInversePixel": [f"{x:.3f}" for x in np.linspace(0, 0.5, 21)],
        "rlnMtfValue": [f"{1 - x:.3f}" for x in np.linspace(0, 0.9, 21)],
    })}, overwrite=True)
    return folder / "mtf.star"


def _particle_file(folder: Path, link: bool = False, of: Callable[[Path], Path] = _star) -> Path:
    options = ImportOptions(overwrite=True, link=link, error_rate=0.3)
    import_particles(of(folder), folder / "good.h5", options)
    return folder / "good.h5"


def _import(path: Path, **options):
    import_particles(path, path.with_name("made.h5"), ImportOptions(overwrite=True, **options))
    return _open(path.with_name("made.h5"))


def _open(path: Path) -> list:
    """Everything that commands read of a particle file."""
    with ParticleFile(path) as file:
        known, beyond = file.metadata(), file.aberrations()
        file.images(slice(None)), file.images(np.arange(0, len(file), 3))
        file.source(), file.source_arrays(), file.extra("uid"), file.halves()
        found = [known.pose.quaternion, known.pose.shift, known.ctf, known.true_quaternion, file.pixel_size]
        return found + ([] if beyond is None else [beyond.magnification, beyond.odd, beyond.even, beyond.mtf])


def _run_folder(folder: Path) -> Path:
    """A finished run of simulated particles, with logs that list them."""
    if not (folder / "out").exists():
        particles, out = str(folder / "particles.h5"), str(folder / "out")
        simulate = ["simulate", "--phantom", "--particles", "60", "--box", str(BOX), "--pixel-size", "7", "--snr",
                    "0.5", "--error-rate", "0.3"]
        assert command_line([*simulate, "-o", particles, "--quiet"]) == 0
        options = ["--loss", "posterior", "--iterations", "3", "--log-particles", "all", "--quiet"]
        assert command_line(["reconstruct", particles, "-o", out, *options]) == 0
    return folder / "out"


def _report(path: Path) -> None:
    folder = path.parent
    write_report(folder, read_summary(folder), target=folder.parent / "report.html")


def _report_and_export(path: Path) -> None:
    folder = path.parent
    try:
        write_report(folder, read_summary(folder), target=folder.parent / "report.html")
    except UserError:
        pass  # the export does not depend on it
    star, stack = folder.parent / "kept.star", folder.parent / "kept.mrcs"
    export_run(folder, ExportOptions(star=star, stack=stack, overwrite=True))


def _logs(path: Path) -> None:
    """All that ``mpirecon logs`` prints."""
    for options in ([], ["--json"], ["--iteration", "last"], ["--particle", "3"]):
        _invoke(logs_command, [str(path.parent.parent), *options])


def _site(folder: Path) -> Path:
    (folder / "site.toml").write_text(
        'account = "p123"\npartition = "long"\nmodules = ["gcc/12", "openmpi"]\nsetup = ["source env"]\nlauncher = '
        '"srun"\n'
        'cores_per_node = 64\nmemory_per_node = "256G"\ngpus_per_node = 4\nmax_time = "2-00:00:00"\nwarning = '
        '300\nspeed = 1.25\n'
        '[gpu]\npartition = "gpu"\n'
    )
    _particle_file(folder)
    return folder / "site.toml"


def _job(path: Path) -> None:
    for more in ([], ["--gpus", "2"]):
        _invoke(job_command, ["slurm", str(path.with_name("good.h5")), "-o", "out", "--nodes", "2", "--site", str(path),
                              *more])


def _invoke(command, arguments: list[str]) -> None:
    found = CliRunner().invoke(command, arguments)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception


def _checkpoint(folder: Path) -> Path:
    """As a run of several kinds of state leaves it."""
    from test_resume import Ended, EndedAfter, reconstruction

    from mpirecon.solvers.config import Config
    from mpirecon.solvers.endurance import Endurance

    _run_folder(folder)
    with ParticleFile(folder / "particles.h5") as file:
        run = reconstruction(file, Config(iterations=3, loss="posterior"), folder)
        try:
            run.run(EndedAfter(run, folder, Endurance()))
        except Ended:
            pass
    return folder / "checkpoint.h5"


def _load(path: Path):
    """What ``--resume`` takes from a checkpoint."""
    from test_resume import reconstruction

    from mpirecon.solvers import resume
    from mpirecon.solvers.config import Config

    with Checkpoint(path) as checkpoint:
        names = ("power", "inside", "held_out", "noise_power", "fsc")
        arrays = [checkpoint.array(name) for name in names if name in checkpoint]
    with ParticleFile(path.with_name("particles.h5")) as file:
        run = reconstruction(file, Config(iterations=3, loss="posterior"), path.parent)
        resume.load(run, path.parent)
        json.dumps(run.slab.by_view)
    return [np.nan_to_num(array, nan=0.0) for array in arrays]  # unknown shells are NaN


def _of_run(name: str) -> Callable[[Path], Path]:
    return lambda folder: _run_folder(folder) / name


KINDS = {
    "star": Kind(_star, _import, text=True),
    "cs": Kind(_cs, _import, head=1700),
    "cs-rows": Kind(_cs, _import),
    "passthrough": Kind(lambda f: _cs(f).with_name("through.cs"),
                        lambda p: _import(p.with_name("p.cs"), passthrough=[p]), head=700),
    "stack": Kind(lambda f: _star(f).with_name("s.mrcs"), lambda p: _import(p.with_name("p.star")), head=1024),
    "mtf": Kind(_mtf, read_mtf, text=True),
    "mask": Kind(lambda f: _save_map(f / "mask.mrc"), lambda p: read_map(p).array, head=1024),
    "particles": Kind(_particle_file, _open),
    "particles-of-cs": Kind(lambda f: _particle_file(f, of=_cs), _open),
    "linked": Kind(lambda f: _particle_file(f, link=True), _open),
    "checkpoint": Kind(_checkpoint, _load, weight=0.5),
    "site": Kind(_site, _job, text=True, weight=0.5),
    "logs": Kind(_of_run("logs/rank0000.jsonl"), _logs, text=True, weight=0.5),
    "summary": Kind(_of_run("summary.json"), _report_and_export, text=True, weight=0.2),
    "run-particles": Kind(_of_run("particles.h5"), _report_and_export, weight=0.2),
    "fsc": Kind(_of_run("fsc.csv"), _report, text=True, weight=0.2),
    "map": Kind(_of_run("volume.mrc"), _report, head=1024, weight=0.2),
}  # fmt: skip


def prepare(kind: str, shared: Path, folder: Path) -> Path:
    """The good file of a kind in a folder of its own; runs are made once, in `shared`, and copied."""
    if kind in ("checkpoint", "logs", "summary", "run-particles", "fsc", "map"):
        _run_folder(shared)
        shutil.copytree(shared, folder, dirs_exist_ok=True)
    return KINDS[kind].make(folder)
