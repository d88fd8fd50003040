"""A table of RELION or cryoSPARC is reconstructed as it is:
as its import with --link would be, whatever ends the run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
import test_cryosparc
from conftest import _SMALL_MACHINE, _clean_environment

import mpirecon
from mpirecon import cli as command_line
from mpirecon.errors import UserError
from mpirecon.io.export_tables import new_tables
from mpirecon.io.mrc import write_stack
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.run_output import read_summary
from mpirecon.io.star import read_star, write_star

M, N = 90, 24


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """run_data.star and particles.cs of the same simulated particles, in a stack; and simulated.h5."""
    home = tmp_path_factory.mktemp("made")
    words = ["simulate", "--phantom", "--particles", M, "--box", N, "--pixel-size", 8, "--snr", 1, "-o",
             home / "simulated.h5", "-q"]
    assert command_line.run(list(map(str, words))) == 0
    with ParticleFile(home / "simulated.h5") as file:
        particles = file.metadata()
        (home / "Extract").mkdir()
        with write_stack(home / "Extract/a.mrcs", N, 8.0, overwrite=False) as append:
            append(file.images(slice(None)))
    tables = new_tables(particles, particles.pose, [f"{i + 1:06d}@Extract/a.mrcs" for i in range(M)])
    tables["particles"]["rlnClassNumber"] = [str(1 + i % 3) for i in range(M)]
    tables["particles"]["rlnRandomSubset"] = [str(1 + i // 2 % 2) for i in range(M)]
    write_star(home / "run_data.star", tables, overwrite=False)
    ctf = particles.ctf
    fields = {
        "uid": np.arange(M, dtype="u8") + 9, "blob/path": np.array([b"Extract/a.mrcs"] * M),
        "blob/idx": np.arange(M, dtype="u4"),
        "blob/shape": np.full((M, 2), N, "u4"), "blob/psize_A": np.full(M, 8, "f4"), "blob/sign": np.ones(M, "f4"),
        "alignments3D/pose": particles.pose.rotation_vectors().astype("f4"),
        "alignments3D/shift": (-particles.pose.shift / 8).astype("f4"),
        "alignments3D/split": (np.arange(M) // 2 % 2).astype("u4"), "ctf/accel_kv": ctf["voltage_kv"].astype("f4"),
        "ctf/cs_mm": ctf["cs_mm"].astype("f4"), "ctf/amp_contrast": ctf["amplitude_contrast"].astype("f4"),
        "ctf/df1_A": ctf["defocus_u"].astype("f4"), "ctf/df2_A": ctf["defocus_v"].astype("f4"),
        "ctf/df_angle_rad": ctf["astigmatism"].astype("f4"), "ctf/phase_shift_rad": ctf["phase_shift"].astype("f4"),
        "ctf/exp_group_id": np.zeros(M, "u4"),
    }
    test_cryosparc.save_cs(home / "particles.cs", fields)
    return home


def run(*words) -> int:
    return command_line.run([*map(str, words)])


def maps(folder) -> np.ndarray:
    return np.stack([mrcfile.read(Path(folder) / f"{name}.mrc") for name in ("half1", "half2", "volume")])


def state(folder) -> dict:
    """What is in a folder: path → (inode, time of change)."""
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in Path(folder).rglob("*")}


def test_a_table_gives_the_map_of_its_import_and_says_what_import_says(project, capsys):
    chosen = ["--select", "rlnClassNumber=1,3", "--first", 50, "--new-halves", "--family", "none"]
    assert run("import", "run_data.star", "--link", "-o", "p.h5", "--seed", 7, *chosen) == 0
    imported = capsys.readouterr()
    assert run("reconstruct", "p.h5", "-o", "a", "--seed", 7, "--no-postprocess", "-q") == 0
    capsys.readouterr()
    assert run("reconstruct", "run_data.star", "-o", "b", "--seed", 7, "--no-postprocess", *chosen) == 0
    said = capsys.readouterr()
    assert "b: volume.mrc" in said.out and "linked.h5" in said.out
    for line in imported.out.splitlines():
        assert line.replace("p.h5", "run_data.star") in said.out
    for line in imported.err.splitlines():
        assert not line.startswith("Warning") or line in said.err
    assert imported.err.count("Warning: rlnClassNumber has 2 classes") == 1  # there is a warning to compare
    np.testing.assert_array_equal(maps("a"), maps("b"))
    with ParticleFile("b/linked.h5") as linked, ParticleFile("p.h5") as wanted:
        assert linked.linked and len(linked) == 50
        np.testing.assert_array_equal(linked.halves(), wanted.halves())
    about = read_summary("b")
    assert about["particles"]["file"] == "b/linked.h5" and "linked.h5" in about["files"]
    assert run("export", "b", "--star", "k.star") == 0
    kept = read_star("k.star")["particles"]
    assert kept["rlnImageName"].tolist() == [f"{i + 1:06d}@Extract/a.mrcs" for i in range(M) if i % 3 != 1][:50]


def test_a_cs_file_gives_the_map_of_the_star_file(project):
    assert run("reconstruct", "run_data.star", "-o", "a", "--no-postprocess", "-q") == 0
    assert run("reconstruct", "particles.cs", "-o", "b", "--no-postprocess", "-q") == 0
    a, b = maps("a"), maps("b")
    assert np.abs(a - b).max() < 1e-4 * np.abs(a).max()
    assert run("export", "b", "--cs", "k.cs") == 0 and len(np.load("k.cs")) == M


def test_the_first_rows_of_those_selected_are_read(project, mpirun):
    for name in ("run_data.star", "particles.cs"):
        column = "rlnDefocusU" if name.endswith("star") else "ctf/df1_A"
        all_rows = mpirecon.read_star(name) if name.endswith("star") else mpirecon.read_cs(name)
        read = mpirecon.read_star if name.endswith("star") else mpirecon.read_cs
        middle = float(np.median(all_rows.metadata().ctf["defocus_u"]))
        above = np.flatnonzero(all_rows.metadata().ctf["defocus_u"] >= middle)[:7]
        few = read(name, select=f"{column}={middle}:", first=7)
        assert len(few) == 7 and any("--first 7: 7 of 45 selected rows" in note for note in few.notes)
        np.testing.assert_array_equal(few.metadata().pose.quaternion, all_rows.metadata().pose.quaternion[above])
        np.testing.assert_array_equal(few.images(), all_rows.images(above))
        assert len(read(name, first=10_000)) == M
        with pytest.raises(UserError, match="--first 0: at least 1"):
            read(name, first=0)
    done = mpirun(3, ["-m", "mpirecon", "import", "run_data.star", "--first", 40, "-o", "p.h5"])
    assert done.returncode == 0, done.stderr
    with ParticleFile("p.h5") as file:
        wanted = mpirecon.read_star("run_data.star").metadata().pose.quaternion[:40]
        np.testing.assert_allclose(file.metadata().pose.quaternion, wanted, rtol=1e-14)


def test_ranks_share_one_linked_file_and_end_together(project, mpirun):
    words = ["--loss", "sorted", "--keep", "0.8", "--iterations", "2", "--no-postprocess", "--select",
             "rlnClassNumber=1,2"]
    assert run("reconstruct", "run_data.star", "-o", "a", "-q", *words) == 0
    done = mpirun(2, ["-m", "mpirecon", "reconstruct", "run_data.star", "-o", "b", *words])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run_data.star: 60 particles of 24 x 24") == 1 and done.stderr.count("has 2 classes") == 1
    a, b = maps("a"), maps("b")
    assert np.abs(a - b).max() < 1e-4 * np.abs(a).max()
    assert sorted(os.listdir("b")) == sorted(os.listdir("a"))
    done = mpirun(2, ["-m", "mpirecon", "reconstruct", "run_data.star", "-o", "c", "--select", "rlnClassNumber=8"])
    assert done.returncode == 1 and done.stderr.count("no row has the value 8") == 1 and not Path("c").exists()


@pytest.mark.parametrize(("words", "message"), [
    (["run_data.star", "--select", "rlnClassNumber=8"], "no row has the value 8"),
    (["run_data.star", "--mask", "Extract/a.mrcs"], "a map must be a cube"),
    (["run_data.star", "--stack", "simulated.h5"], "simulated.h5"),
    (["run_data.star", "--group-by", "rlnNone", "--loss", "posterior"], "run_data.star: there is no column rlnNone"),
    (["run_data.star", "--passthrough", "particles.cs"], "--passthrough is for cryoSPARC files"),
    (["run_data.star", "--scale-defocus"], "give that too"),
    (["particles.cs", "--ctf-premultiplied", "--no-ctf-premultiplied"], "contradict each other"),
    (["simulated.h5", "--first", "8", "--unit", "defocus=um"],
     "--unit, --first must be given when a table is imported"),
])
def test_what_fails_leaves_no_folder(project, capsys, words, message):
    assert run("reconstruct", *words, "-o", "out/run") == 1
    assert message in capsys.readouterr().err and not Path("out/run").exists()
    Path("out").mkdir(exist_ok=True)
    Path("out/run").mkdir()
    assert run("reconstruct", *words, "-o", "out/run") == 1 and not os.listdir("out/run")


def test_an_earlier_run_is_whole_until_the_next_one_is(project, capsys):
    assert run("reconstruct", "run_data.star", "-o", "out", "--first", 60, "--no-postprocess", "-q") == 0
    before = state("out")
    assert run("reconstruct", "run_data.star", "-o", "out", "-q") == 1 and "pass --overwrite" in capsys.readouterr().err
    assert run("reconstruct", "run_data.star", "-o", "out", "--overwrite", "--mask", "Extract/a.mrcs", "-q") == 1
    assert state("out") == before
    assert run("reconstruct", "out/linked.h5", "-o", "out", "--overwrite", "-q") == 1  # what it reads
    assert "is the particle file that this run reads" in capsys.readouterr().err and state("out") == before
    assert run("reconstruct", "run_data.star", "-o", "out", "--overwrite", "--no-postprocess", "-q") == 0
    with ParticleFile("out/linked.h5") as file:
        assert len(file) == M and read_summary("out")["particles"]["count"] == M
    assert run("reconstruct", "simulated.h5", "-o", "out", "--overwrite", "--no-postprocess", "-q") == 0
    assert not Path("out/linked.h5").exists()


def test_a_run_never_writes_over_its_table(project, capsys):
    Path("out").mkdir()
    os.link("Extract/a.mrcs", "out/half1.mrc")  # a stack of its own by another name
    assert run("reconstruct", "run_data.star", "-o", "out", "--overwrite", "-q") == 1
    assert "out/half1.mrc is the stack of images" in capsys.readouterr().err and os.listdir("out") == ["half1.mrc"]


def stopped(*words) -> None:
    """A run that was told to stop after it had saved its state."""
    command = [sys.executable, "-m", "mpirecon", "reconstruct", "run_data.star", "-o", "out", *words]
    process = subprocess.Popen(command, env=_clean_environment(**_SMALL_MACHINE), stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not Path("out/checkpoint.h5").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(60) == 75, process.stderr.read()


def test_a_run_goes_on_with_the_file_that_it_had_made(project, capsys):
    words = ["--loss", "sorted", "--keep", "0.8", "--iterations", "12", "--no-postprocess", "-q", "--family", "none"]
    stopped(*words)
    made = Path("out/unfinished/linked.h5").stat()
    assert run("reconstruct", "run_data.star", "-o", "out", *words, "--first", 70, "--resume") == 1
    assert ("made from other particles than run_data.star" in capsys.readouterr().err
            and Path("out/checkpoint.h5").exists())
    assert run("reconstruct", "run_data.star", "-o", "whole", *words) == 0
    assert run("reconstruct", "run_data.star", "-o", "out", *words, "--resume") == 0
    np.testing.assert_allclose(maps("out"), maps("whole"), atol=1e-5 * np.abs(maps("whole")).max())
    # the refused try made another
    assert not Path("out/unfinished").exists() and Path("out/linked.h5").stat().st_mtime_ns > made.st_mtime_ns

    shutil.rmtree("out")
    stopped(*words)
    made = Path("out/unfinished/linked.h5").stat()
    assert run("reconstruct", "run_data.star", "-o", "out", *words, "--resume") == 0
    again = Path("out/linked.h5").stat()
    assert (again.st_ino, again.st_mtime_ns) == (made.st_ino, made.st_mtime_ns)


def test_a_table_that_was_written_since_is_linked_anew_and_its_images_compared(project, capsys):
    words = ["--loss", "sorted", "--keep", "0.8", "--iterations", "12", "--no-postprocess", "--family", "none"]
    stopped(*words)
    os.utime("run_data.star")
    assert run("reconstruct", "run_data.star", "-o", "out", *words, "--resume") == 0
    assert "its images are compared with what they were" in capsys.readouterr().out


def test_a_run_is_exported_where_it_was_moved_to_with_its_stacks(project, tmp_path, monkeypatch):
    assert run("reconstruct", "run_data.star", "-o", "out", "--no-postprocess", "-q") == 0
    monkeypatch.chdir(tmp_path)
    shutil.move("project", "elsewhere")
    assert run("export", "elsewhere/out", "--star", "k.star", "--stack", "k.mrcs") == 0
    np.testing.assert_array_equal(mrcfile.read("k.mrcs"), mrcfile.read("elsewhere/Extract/a.mrcs"))


def test_python_takes_tables_too(project):
    assert run("reconstruct", "run_data.star", "-o", "a", "--no-postprocess", "-q", "--select", "rlnClassNumber=1,2",
               "--new-halves") == 0
    result = mpirecon.reconstruct("run_data.star", "b", select="rlnClassNumber=1,2", new_halves=True, postprocess=False)
    np.testing.assert_array_equal(maps("a"), maps("b"))
    assert len(result.particles) == 60 and Path("b/linked.h5").exists()
    alone = mpirecon.reconstruct(Path("particles.cs"), first=60, postprocess=False)
    assert len(alone.kept) == 60
    steps = mpirecon.Reconstruction("run_data.star", first=60)
    assert len(steps.particles) == 60 and len(steps.result(postprocess=False).kept) == 60
    with pytest.raises(UserError, match="an array has no pixel size"):
        mpirecon.reconstruct("run_data.star", mask=np.ones((N, N, N), np.float32))
    with pytest.raises(UserError, match="--first must be given when a table is imported"):
        mpirecon.reconstruct("simulated.h5", first=3)
    with pytest.raises(TypeError, match="no setting 'frist'"):
        mpirecon.reconstruct("run_data.star", frist=3)


def test_commands_that_ask_for_sizes_take_tables(project, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mpirecon", "job"])
    assert run("forecast", "run_data.star", "--first", 60, "--pixel-size", 7, "--max-resolution", 30) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert (said.startswith("60 particles, box 24") and "reconstruct run_data.star -o run1" in said
            and "--pixel-size 7.0 " in said)
    assert "--first 60" in said and "--max-resolution 30.0" in said
    assert run("reconstruct", "particles.cs", "-o", "out", "--dry-run", "--first", 60) == 0
    assert "60 particles, box 24, 1 iteration" in capsys.readouterr().out and not Path("out").exists()
    assert run("job", "slurm", "run_data.star", "-o", "out", "--", "--first", 60, "--loss", "posterior") == 0
    script = capsys.readouterr()
    assert "run_data.star -o" in script.out and "--first 60" in script.out
    assert run("null", "run_data.star", "-o", "null", "--first", 80, "--family", "none") in (0, 1)
    assert read_summary_of_null()["particles"] == {"file": "null/linked.h5", "count": 80, "box": N, "pixel_size": 8.0}


def read_summary_of_null() -> dict:
    return json.loads(Path("null/null.json").read_text())


def test_a_particle_file_may_have_any_name(project):
    shutil.copy("simulated.h5", "odd.star")
    assert run("reconstruct", "odd.star", "-o", "out", "--no-postprocess", "-q") == 0
    with h5py.File("out/particles.h5") as file:
        assert file.attrs["particles"] == "odd.star"
