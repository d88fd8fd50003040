"""Exports that are refused, and those in which nobody is kept or discarded."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from exporting import export, finish, refused
from importing import make, run, table
from test_cryosparc import make as make_cs
from test_cryosparc import run as import_cs
from test_export import needs_relion

from mpirecon.errors import UserError
from mpirecon.io.relion import read_relion

def test_what_is_refused(tmp_path):
    folder = finish(run(make(tmp_path))[0].path, tmp_path / "out")
    star = tmp_path / "k.star"
    refused(folder, "nothing to export: give --star FILE")
    refused(folder, "name the same file", "--star", star, "--discarded", star)
    refused(folder, "d.txt: the name must end in .star or .cs", "--discarded", tmp_path / "d.txt")
    refused(folder, "k.mrc: the name must end in .mrcs", "--star", star, "--stack", tmp_path / "k.mrc")
    refused(folder, "would replace what it is made from", "--star", tmp_path / "p.star", "--overwrite")
    star.write_text("mine")
    refused(folder, "k.star exists already.*--overwrite", "--star", star, "--discarded", tmp_path / "d.star")
    assert star.read_text() == "mine" and not (tmp_path / "d.star").exists()
    refused(tmp_path / "nowhere", "no such folder", "--star", tmp_path / "n.star")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "not the folder of a finished run", "--star", tmp_path / "n.star")
    (folder / "particles.h5").unlink()
    refused(folder, "no particles.h5, so this is not the folder of a finished run", "--star", tmp_path / "n.star")


@pytest.mark.parametrize("name", ["my#stack.mrcs", "a:b.mrcs", "of#1/s.mrcs"])
@pytest.mark.parametrize("option", ["--star", "--discarded"])
def test_a_stack_that_relion_cannot_read_by_its_name_is_refused(tmp_path, name, option):
    """By the name that the table has of it: a folder above both is in none."""
    (tmp_path / "up:1" / "of#1").mkdir(parents=True)
    folder = finish(run(make(tmp_path))[0].path, tmp_path / "out")
    star, stack = tmp_path / "up:1" / "k.star", tmp_path / "up:1" / name
    refused(folder, f"k.star would name it {name}, and RELION reads no stack with # or : in its name", option, star,
            "--stack", stack)
    assert not star.exists() and not stack.exists()
    export(folder, option, star, "--stack", tmp_path / "up:1" / "s.mrcs")
    assert "@s.mrcs" in star.read_text()


def test_a_name_that_says_another_format_is_refused(tmp_path):
    folder = finish(run(make(tmp_path))[0].path, tmp_path / "out")
    refused(folder, "--star .*k.cs: the name must end in .star; a cryoSPARC file is written with --cs",
            "--star", tmp_path / "k.cs")
    refused(folder, "--star .*k.txt: the name must end in .star$", "--star", tmp_path / "k.txt")
    refused(folder, "--cs .*k.star: the name must end in .cs; a STAR file is written with --star",
            "--cs", tmp_path / "k.star")
    for name in ("k.txt", "k"):  # a STAR file was written under them
        refused(folder, f"--cs .*{name}: the name must end in .cs$", "--cs", tmp_path / name)
    assert not list(tmp_path.glob("k*"))
    assert "particles" in export(folder, "--star", tmp_path / "named")


def test_nothing_kept_or_discarded(tmp_path):
    folder = finish(run(make(tmp_path))[0].path, tmp_path / "out", np.ones(8, bool))
    refused(folder, r"d.star: there are no such particles \(the run kept 8 of 8\)", "--discarded", tmp_path / "d.star")


def test_an_empty_file_beside_one_with_particles(tmp_path):
    """Whoever scripts --star and --discarded gets both, though nobody, or everybody, was left out;
    stale files are replaced."""
    particles = run(make(tmp_path))[0].path
    for kept, full, empty in ((np.ones(8, bool), "kept", "rest"), (np.zeros(8, bool), "rest", "kept")):
        folder = finish(particles, tmp_path / f"all-{full}", kept)
        paths = {name: tmp_path / f"{name}.star" for name in ("kept", "rest")}
        paths[empty].write_text("stale")
        text = export(folder, "--star", paths["kept"], "--discarded", paths["rest"], "--overwrite")
        assert (
            f"{full}.star: 8 of 8 particles" in text
            and f"{empty}.star has no rows: the run kept {kept.sum()} of 8" in text
        )
        text = paths[empty].read_text()
        assert ("stale" not in text and "_rlnImageName" in text and "@stacks" not in text
                and paths[full].read_text().count("@stacks") == 8)
        refused(folder, rf"there are no such particles \(the run kept {kept.sum()} of 8\)",
                *(("--star", tmp_path / "x.star") if empty == "kept" else ("--discarded", tmp_path / "x.star")))
        with pytest.raises(UserError, match="no particles"):
            read_relion(paths[empty])


def test_a_cs_file_without_particles(tmp_path):
    file, _ = import_cs(make_cs(tmp_path))
    folder = finish(file.path, tmp_path / "out", np.ones(len(file), bool))
    assert "rest.cs has no rows" in export(folder, "--cs", tmp_path / "kept.cs", "--discarded", tmp_path / "rest.cs")
    kept, rest = np.load(tmp_path / "kept.cs"), np.load(tmp_path / "rest.cs")
    assert len(kept) == len(file) and len(rest) == 0 and rest.dtype == kept.dtype


@needs_relion
def test_relion_reads_an_empty_table(tmp_path):
    folder = finish(run(make(tmp_path))[0].path, tmp_path / "out", np.ones(8, bool))
    export(folder, "--star", tmp_path / "kept.star", "--discarded", tmp_path / "rest.star")
    read = subprocess.run(["relion_star_handler", "--i", "rest.star", "--o", "again.star"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    assert "@" not in (tmp_path / "again.star").read_text()


def test_a_particle_file_that_moved_or_changed(tmp_path):
    file, _ = run(make(tmp_path))
    folder = finish(file.path, tmp_path / "out")
    moved = file.path.rename(tmp_path / "moved.h5")
    refused(folder, r"out.h5, does not exist; was it moved\? Give it with --particles", "--star", tmp_path / "k.star")
    export(folder, "--star", tmp_path / "k.star", "--particles", moved)
    other, _ = run(make(tmp_path, table(7)), output=tmp_path / "other.h5")
    refused(folder, "other.h5 is not the particle file of the run .*its count is 7, the run's 8", "--star",
            tmp_path / "j.star", "--particles", other.path)
    other, _ = run(make(tmp_path, table(rlnRandomSubset=1)), "--overwrite", output=tmp_path / "other.h5")
    refused(folder, "its particles or half sets are others", "--star", tmp_path / "j.star", "--particles", other.path)


def test_a_particle_file_named_relative_to_the_run(tmp_path, monkeypatch):
    file, _ = run(make(tmp_path))
    folder = finish(file.path, tmp_path / "out")
    summary = json.loads((folder / "summary.json").read_text())
    summary["particles"]["file"] = "out.h5"
    (folder / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    export(folder, "--star", tmp_path / "k.star")
