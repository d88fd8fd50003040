"""A run that was interrupted goes on from its checkpoint to the map it would have made."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

import h5py
import mrcfile
import numpy as np
import pytest

import mpirecon as mr
from mpirecon.parallel.console import Console
from mpirecon.errors import UserError
from mpirecon.io.particle_file import ParticleFile
from mpirecon.model import Pose
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.robust import distances
from mpirecon.solvers.config import Config
from mpirecon.solvers.endurance import Checkpoints, Endurance
from mpirecon.solvers.groups import WHOLE, half_map
from mpirecon.solvers.kinds import SolverKind, add_solver
from mpirecon.solvers.normal import NormalSolver
from mpirecon.solvers.run import Reconstruction

RUNS = {
    "posterior": ("--loss", "posterior", "--iterations", "4"),
}


@pytest.fixture(scope="module")
def particles(tmp_path_factory, cli):
    path = tmp_path_factory.mktemp("resume") / "particles.h5"
    result = cli("simulate", "--phantom", "--particles", 160, "--box", 20, "--pixel-size", 7, "--snr", 0.5,
                 "--error-rate", 0.3, "-o", path)
    assert result.returncode == 0, result.stderr
    return path


def interrupted_after(checkpoints, particles, out, *options):
    """Start a run and kill it (SIGKILL) once it has written so many checkpoints."""
    command = [sys.executable, "-m", "mpirecon", "reconstruct", particles, "-o", out, *options]
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    seen, last = 0, None
    while seen < checkpoints and process.poll() is None and time.monotonic() < deadline:
        stamp = (out / "checkpoint.h5").stat().st_mtime_ns if (out / "checkpoint.h5").exists() else None
        if stamp != last:
            seen, last = seen + 1, stamp
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (out / "checkpoint.h5").exists(), "the run ended before it could be interrupted"
    assert not (out / "summary.json").exists()


def interrupted(particles, out, name, after):
    """A run killed after an iteration; returns the iteration of its checkpoint."""
    interrupted_after(after, particles, out, *RUNS[name])
    with h5py.File(out / "checkpoint.h5") as file:
        return json.loads(file.attrs["facts"])["iteration"]


def test_a_run_resumes_on_another_number_of_ranks(particles, cli, mpirun, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert cli("reconstruct", particles, "-o", whole, *RUNS["posterior"]).returncode == 0
    interrupted(particles, broken, "posterior", 1)
    result = mpirun(3, ["-m", "mpirecon", "reconstruct", particles, "-o", broken, *RUNS["posterior"], "--resume"])
    assert result.returncode == 0, result.stderr
    x, y = (mrcfile.read(folder / "volume.mrc").astype(float) for folder in (whole, broken))
    assert np.linalg.norm(x - y) <= 1e-5 * np.linalg.norm(x)
    logged = (broken / "logs" / "rank0000.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["event"] == "start" for line in logged) == 2, "the first run's log is kept"


def test_a_checkpoint_of_other_options_or_particles_is_refused_by_name(particles, cli, tmp_path):
    out = tmp_path / "out"
    interrupted(particles, out, "posterior", 1)
    result = cli("reconstruct", particles, "-o", out, "--loss", "huber", "--iterations", "4", "--resume")
    assert result.returncode == 1 and "loss was posterior and is huber" in result.stderr
    other = shutil.copy(particles, tmp_path / "other.h5")
    with h5py.File(other, "r+") as file:
        file["shift"][0] += 1
    result = cli("reconstruct", other, "-o", out, *RUNS["posterior"], "--resume")
    assert result.returncode == 1 and "other particles" in result.stderr
    result = cli("reconstruct", particles, "-o", out, *RUNS["posterior"])
    assert result.returncode == 1 and "--overwrite" in result.stderr
    (out / "checkpoint.h5").write_bytes(b"nothing of the kind")
    result = cli("reconstruct", particles, "-o", out, *RUNS["posterior"], "--resume")
    assert result.returncode == 1 and "checkpoint.h5" in result.stderr and "Traceback" not in result.stderr


def test_resume_begins_where_there_is_nothing_and_refuses_what_is_finished(particles, cli, tmp_path):
    out = tmp_path / "out"
    options = ("--loss", "sorted", "--keep", "0.7", "--iterations", "2", "--resume")
    assert cli("reconstruct", particles, "-o", out, *options).returncode == 0
    assert not (out / "checkpoint.h5").exists()
    result = cli("reconstruct", particles, "-o", out, *options)
    assert result.returncode == 1 and "finished" in result.stderr
    assert os.path.exists(out / "volume.mrc")

# within one process: every loss and solver


EVERY = {
    **{loss: {"loss": loss} for loss in ("l1", "huber", "cauchy", "geman-mcclure", "welsch", "tukey", "posterior")},
    "sorted": {"loss": "sorted", "keep": 0.7},
    "auto": {"loss": "sorted", "keep": "auto"},
    "correlation": {"loss": "sorted", "keep": 0.7, "distance": "correlation"},
    "single-fold": {"loss": "tukey", "folds": 1},
    "several-l2": {"loss": "l2"},
    "first-look": {"loss": "posterior", "iterations": 5},
    "looked-before": {"loss": "posterior", "iterations": 5, "ended": 3},
    "rescue": {"loss": "posterior", "poses": "rescue", "iterations": 4, "ended": 3, "search_offset": 0.0},
    "refine": {"loss": "posterior", "poses": "refine", "iterations": 4, "ended": 3, "search_offset": 0.0},
    "gradient": {"solver": "gradient", "momentum": 0.6},
    "gradient-huber": {"solver": "gradient", "loss": "huber", "momentum": 0.5},
    "gradient-posterior": {"solver": "gradient", "loss": "posterior"},
    "gradient-batches": {"solver": "gradient", "loss": "sorted", "keep": 0.7, "batch_size": 50, "sort_scope": "batch"},
}


class Ended(Exception):
    pass


class EndedAfter(Checkpoints):
    """Ends the run when the state after an iteration is saved."""

    last = 2

    def after(self, state):
        super().after(state)
        if state.iteration == self.last:
            raise Ended


def reconstruction(file, config, tmp_path, quiet=True):
    class Silent:
        def __getattr__(self, name):
            return lambda *args, **more: None

    comm = SerialCommunicator()
    return Reconstruction(comm, file, config, Silent(), Console(comm, quiet=quiet))


def test_a_resumed_run_says_what_the_whole_one_says(particles, tmp_path, capsys):
    config = Config(loss="posterior", poses="rescue", iterations=5, search_offset=0.0)
    with ParticleFile(particles) as file:
        run = reconstruction(file, config, tmp_path, quiet=False)
        with pytest.raises(Ended):  # saved before the last iteration, which uses the poses that were found
            stop = EndedAfter(run, tmp_path, Endurance())
            stop.last = 4
            run.run(stop)
        reconstruction(file, config, tmp_path, quiet=False).run()
        whole = [line for line in capsys.readouterr().out.splitlines() if line.startswith("iteration 5/5")]
        again = reconstruction(file, config, tmp_path, quiet=False)
        again.run(Checkpoints(again, tmp_path, Endurance()), resume=True)
    assert len(whole) == 1 and "wrong at the pose used" in whole[0]
    assert whole[0] in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", EVERY)
def test_every_loss_and_solver_goes_on_to_the_same_bits(particles, tmp_path, name):
    options = {"iterations": 3, "ended": 2} | EVERY[name]
    ended = options.pop("ended")
    config = Config(**options)
    with ParticleFile(particles) as file:
        whole = reconstruction(file, config, tmp_path).run()
        first = reconstruction(file, config, tmp_path)
        with pytest.raises(Ended):
            stop = EndedAfter(first, tmp_path, Endurance())
            stop.last = ended
            first.run(stop)
        second = reconstruction(file, config, tmp_path)
        resumed = second.run(Checkpoints(second, tmp_path, Endurance()), resume=True)
    for made_of in (WHOLE, half_map(1), half_map(2)):
        np.testing.assert_array_equal(whole.maps.get(made_of), resumed.maps.get(made_of))
    assert json.dumps(whole.records) == json.dumps(resumed.records)
    np.testing.assert_array_equal(whole.selection.weight, resumed.selection.weight)
    np.testing.assert_array_equal(whole.selection.distance, resumed.selection.distance)


def test_poses_that_changed_are_in_the_checkpoint(particles, tmp_path):
    """A resumed run goes on at the poses that the run before had moved its particles to."""
    config, rng = Config(iterations=3, loss="sorted", keep=0.7), np.random.default_rng(1)
    rows, pose = np.arange(0, 160, 3), Pose(rng.standard_normal((54, 4)), rng.uniform(-9, 9, (54, 2)))

    class Moving(EndedAfter):
        def after(self, state):
            if state.iteration == 1:
                self.run.slab.move(rows, pose.quaternion, pose.shift)
                state = replace(state, pose=self.run.slab.pose)
            super().after(state)

    with ParticleFile(particles) as file:
        still = reconstruction(file, config, tmp_path).run()
        first = reconstruction(file, config, tmp_path)
        moving = Moving(first, tmp_path, Endurance())
        moving.last = 99
        whole = first.run(moving)
        with pytest.raises(Ended):
            run = reconstruction(file, config, tmp_path)
            run.run(Moving(run, tmp_path, Endurance()))
        second = reconstruction(file, config, tmp_path)
        resumed = second.run(Checkpoints(second, tmp_path, Endurance()), resume=True)
    for name in ("quaternion", "shift"):
        np.testing.assert_array_equal(getattr(second.slab.pose, name), getattr(first.slab.pose, name))
        np.testing.assert_allclose(getattr(second.slab.pose, name)[rows], getattr(pose, name), rtol=1e-14)
    volumes = [outcome.maps.get(WHOLE) for outcome in (whole, resumed, still)]
    np.testing.assert_array_equal(*volumes[:2])
    assert np.linalg.norm(volumes[2] - volumes[0]) > 0.1 * np.linalg.norm(volumes[0])


def test_a_checkpoint_of_an_earlier_version_is_refused_by_name(particles, tmp_path):
    config = Config(iterations=3, loss="sorted", keep=0.7)
    with ParticleFile(particles) as file, pytest.raises(Ended):
        run = reconstruction(file, config, tmp_path)
        run.run(EndedAfter(run, tmp_path, Endurance()))
    with h5py.File(tmp_path / "checkpoint.h5", "r+") as checkpoint:
        checkpoint.attrs["version"] = 2
    with (
        ParticleFile(particles) as file,
        pytest.raises(UserError, match="checkpoint.h5 .*version 2; expected .*--overwrite"),
    ):
        run = reconstruction(file, config, tmp_path)
        run.run(Checkpoints(run, tmp_path, Endurance()), resume=True)


@pytest.mark.parametrize(("name", "change"), [
    ("ctf", lambda file: file["ctf"].__setitem__(150, file["ctf"][0])),
    ("pixels", lambda file: file["images"].__setitem__((80, 3, 3), 7.0)),
    ("half", lambda file: file["half"].__setitem__(99, 3 - file["half"][99])),
])
def test_a_change_anywhere_in_the_particles_is_noticed(particles, tmp_path, name, change):
    config = Config(iterations=3, loss="sorted", keep=0.7)
    other = shutil.copy(particles, tmp_path / "other.h5")
    with h5py.File(other, "r+") as opened:
        change(opened)
    with ParticleFile(particles) as file, pytest.raises(Ended):
        run = reconstruction(file, config, tmp_path)
        run.run(EndedAfter(run, tmp_path, Endurance()))
    with ParticleFile(other) as file, pytest.raises(UserError, match="other particles than .*other.h5"):
        run = reconstruction(file, config, tmp_path)
        run.run(Checkpoints(run, tmp_path, Endurance()), resume=True)


def test_checkpoints_are_as_rare_as_asked(particles, tmp_path):
    config = Config(iterations=5, loss="sorted", keep=0.7)
    saved = []

    class Noting(Checkpoints):
        def after(self, state):
            super().after(state)
            saved.append(self.saved)

    with ParticleFile(particles) as file:
        for endurance in (Endurance(every=2), Endurance(every_seconds=3600)):
            run = reconstruction(file, config, tmp_path)
            run.run(Noting(run, tmp_path, endurance))
    assert saved == [None, 2, 2, 4, 4, None, None, None, None,
                     None], "after the last iteration there is nothing to go on with"


# what scripts give


ENDS = []  # after so many calls


def weight_of(power):
    """A loss that ends the run when it is called so often."""
    calls = 0

    def weight(d):
        nonlocal calls
        calls += 1
        if ENDS and calls > ENDS[0]:
            raise Ended
        return 1 / (1 + (d / np.median(d)) ** power)

    return weight


def scaled(factor):
    return distances.Distance("mine", True, lambda s, sigma, typical: factor * s.residual,
                       lambda s, typical: np.sqrt(factor * s.residual))


def test_another_function_or_array_is_refused_and_the_same_goes_on(particles, tmp_path, monkeypatch):
    """Of one name, of one shape."""
    monkeypatch.setattr("mpirecon.robust.distances.DISTANCES", dict(distances.DISTANCES))
    box = ParticleFile(particles).box
    mask, weights, starting = np.zeros((box,) * 3), np.ones(160), np.linspace(1, 2, 160)
    mask[4:-4, 4:-4, 4:-4] = 1
    given = {"mask": mask, "weights": weights, "start_weights": starting, "iterations": 3}
    monkeypatch.setattr(sys.modules[__name__], "ENDS", [6])
    with pytest.raises(Ended):
        mr.reconstruct(particles, tmp_path / "run", loss=weight_of(2), **given)
    assert (tmp_path / "run" / "checkpoint.h5").exists()
    for changed, words in (
        ({"loss": weight_of(3)}, "made with another loss weight than it is now"),
        ({"loss": lambda d: 1 / (1 + d)}, "loss was weight and is own"),
        ({"mask": mask / 2}, "another mask than that of now"), ({"mask": None}, "mask was given and is the default"),
        ({"weights": weights * 2}, "other weights of the particles"), ({"weights": None}, "weights was an array"),
        ({"start_weights": starting[::-1]}, "other starting weights"), ({"start_weights": None}, "starting weights"),
    ):
        with pytest.raises(UserError, match=words) as error:
            mr.reconstruct(particles, tmp_path / "run", resume=True, **{"loss": weight_of(2), **given, **changed})
        assert tempfile.gettempdir() not in str(error.value).replace(str(tmp_path), "")
    ENDS.clear()
    # another process' copies of the same; a mask in a file is as good as the array that it was made of
    mr.Volume(np.asarray(mask, np.float32), 7).write(tmp_path / "mask.mrc")
    given |= {"mask": tmp_path / "mask.mrc", "weights": weights.copy(), "start_weights": starting.tolist()}
    resumed = mr.reconstruct(particles, tmp_path / "run", resume=True, loss=weight_of(2), **given)
    whole = mr.reconstruct(particles, loss=weight_of(2), **given)
    np.testing.assert_array_equal(resumed.volume.to_numpy(), whole.volume.to_numpy())


def test_another_distance_of_ones_own_is_refused(particles, tmp_path, monkeypatch):
    known = dict(distances.DISTANCES)
    monkeypatch.setattr(sys.modules[__name__], "ENDS", [6])
    for factor, resume, end in ((1.0, False, Ended), (2.0, True, UserError), (1.0, True, Ended)):
        monkeypatch.setattr("mpirecon.robust.distances.DISTANCES", dict(known))  # as in another process
        with pytest.raises(end) as error:
            mr.reconstruct(particles, tmp_path / "run", loss=weight_of(2), distance=scaled(factor), iterations=3,
                           resume=resume)
        assert end is Ended or "made with another distance mine than it is now" in str(error.value)


def test_another_registered_loss_or_solver_is_refused(particles, tmp_path, monkeypatch):
    """Of the same name: what it does counts."""
    def register(power=2, parts=1):
        mr.losses.register("named", weight_of(power))
        return add_solver(SolverKind("mine", lambda engine, config: parts and NormalSolver(engine, config)))

    asked = {"loss": "named", "solver": register(), "iterations": 3}
    monkeypatch.setattr(sys.modules[__name__], "ENDS", [6])
    with pytest.raises(Ended):
        mr.reconstruct(particles, tmp_path / "run", **asked)
    for changed, what in (({"power": 3}, "loss named"), ({"parts": 2}, "solver mine")):
        register(**changed)
        with pytest.raises(UserError, match=f"made with another {what} than it is now"):
            mr.reconstruct(particles, tmp_path / "run", resume=True, **asked)
    register()
    ENDS.clear()
    assert mr.reconstruct(particles, tmp_path / "run", resume=True, **asked).iterations


def test_a_mask_that_is_an_array_is_no_file_in_messages(particles, tmp_path):
    mask = np.zeros((20,) * 3, np.float32)
    mask[4:-4, 4:-4, 4:-4] = 1
    for given, words in ((mr.Volume(mask, 3), r"given as an array: .*give it as mpirecon.Volume\(array, 7\)"),
                         (mask[:18, :18, :18], "given as an array: the mask has box 18 and pixels of 7 Å")):
        with pytest.raises(UserError, match=words):
            mr.reconstruct(particles, mask=given)
    made = mr.reconstruct(particles, mask=mask)
    assert made.summary["configuration"]["mask"] == made.summary["used"]["mask"] == "given as an array"
    assert "given_mask" not in made.report.read_text()
    made.save(tmp_path / "saved")
