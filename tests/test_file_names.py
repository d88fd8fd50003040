"""Names of files whose bytes are no text: every command takes them, and its results name the same files."""

from __future__ import annotations

import os
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
from test_cryosparc import M, columns, save_cs

import mpirecon as mr
from mpirecon.io.cs_file import read_cs
from mpirecon.io.given_weights import read_weights
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.particle_writer import ParticleWriter
from mpirecon.io.star import write_star

ODD = os.fsdecode(b"by\xff\xfetes")


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder of such a name with particles, a STAR file of them, and a .cs file that names a stack in it."""
    folder = tmp_path_factory.mktemp("names") / ODD
    folder.mkdir()
    mr.simulate(mr.phantom(24, 5.0), 60, snr=0.5, seed=3).save(folder / "p.h5")
    images = np.random.default_rng(0).normal(size=(M, 24, 24)).astype("f4")
    with mrcfile.new(folder / "a.mrcs") as mrc:
        mrc.set_data(images)
        mrc.set_image_stack()
    save_cs(folder.parent / "p.cs", columns(
        blob__path=np.array([os.fsencode(f"{ODD}/a.mrcs")] * M), blob__shape=np.full((M, 2), 24, "u4")))
    return folder


def done(cli, *words):
    result = cli(*words)
    assert result.returncode == 0 and "defect of mpirecon" not in result.stderr, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def run(odd, cli):
    done(cli, "reconstruct", odd / "p.h5", "-o", odd / "run", "--loss", "sorted", "--keep", "0.8", "--iterations",
         "2")
    return odd / "run"


def test_a_run_and_what_reads_it(odd, run, cli):
    halves = (run / "half1.mrc", run / "half2.mrc")
    assert mr.Result(run).particles.dtype.names
    done(cli, "export", run, "--star", odd / "k.star", "--stack", odd / "k.mrcs")
    for words in (("logs", run), ("report", run), ("forecast", odd / "p.h5"),
                  ("job", "slurm", odd / "p.h5", "-o", odd / "r"),
                  ("view", run / "volume.mrc", "-o", odd / "v.html"), ("compare", run, run, "-o", odd / "c.html"),
                  ("fsc", *halves, "--csv", odd / "f.csv", "--plot", odd / "f.svg"),
                  ("postprocess", *halves, "-o", odd / "pp"), ("mask", run / "volume.mrc", "-o", odd / "m.mrc"),
                  ("project", run / "volume.mrc", odd / "p.h5", "-o", odd / "pr.mrcs"),
                  ("simulate", "--map", run / "volume.mrc", "--particles", "20", "-o", odd / "s.h5"),
                  ("import", odd / "k.star", "-o", odd / "i.h5"),
                  ("import", odd / "k.star", "-o", odd / "l.h5", "--link"),
                  ("score", *halves, odd / "k.star", "-o", odd / "s.csv", "--star", odd / "s.star"),
                  ("path", odd / "p.h5", "-o", odd / "path"),
                  ("null", odd / "p.h5", "-o", odd / "null", "--iterations", "1"),
                  ("reconstruct", odd / "l.h5", "-o", odd / "run2", "--mask", odd / "m.mrc", "--reference",
                   run / "volume.mrc", "--solver", "gradient", "--iterations", "1"),
                  ("reconstruct", odd / "k.star", "-o", odd / "run3")):  # fmt: skip
        done(cli, *words)
    with ParticleFile(odd / "l.h5") as file:
        assert Path(file.source()[0]) == odd / "k.star"
        assert odd / "k.mrcs" in [Path(read.path) for read in file.origins()]


def test_tables_name_the_same_files(odd, cli):
    """In STAR, .cs and CSV files such names are bytes, as RELION and cryoSPARC read them."""
    name, base = os.fsencode(ODD), odd.parent
    done(cli, "import", base / "p.cs", "-o", base / "p.h5")
    done(cli, "reconstruct", base / "p.h5", "-o", base / "run", "--no-postprocess")
    done(cli, "export", base / "run", "--star", base / "k.star", "--cs", base / "k.cs")
    assert b"000001@" + name + b"/a.mrcs" in (base / "k.star").read_bytes()
    done(cli, "export", base / "run", "--star", base / "t.star", "--cs", base / "t.cs", "--stack", odd / "t.mrcs")
    assert name + b"/t.mrcs" in (base / "t.star").read_bytes()
    assert read_cs(base / "t.cs")["blob/path"][0] == name + b"/t.mrcs"
    done(cli, "score", base / "run/half1.mrc", base / "run/half2.mrc", base / "p.h5", "-o", base / "s.csv")
    assert name in (base / "s.csv").read_bytes()
    with ParticleFile(base / "p.h5") as file:
        assert read_weights(file, f"{base / 's.csv'}:sigma_own").values.shape == (M,)
    refused = cli("import", base / "k.star", "-o", base / "k.h5")  # a STAR file must be UTF-8
    assert refused.returncode == 1 and "rename such a file" in refused.stderr


def test_a_name_is_what_it_was(tmp_path):
    """Whatever writes texts into HDF5 and STAR files."""
    path = tmp_path / "x.star"
    write_star(path, {"particles": pd.DataFrame({"rlnImageName": [f"1@{ODD}/é.mrcs"]})}, overwrite=False)
    assert os.fsencode(ODD) + "/é.mrcs".encode() in path.read_bytes()
    p = mr.simulate(mr.phantom(16, 5.0), 4, seed=1)
    with p.file() as file, ParticleWriter(tmp_path / "y.h5", 4, 16, 5.0, overwrite=False,
                                          source=(f"{ODD}/é.star", {})) as writer:
        writer.write_metadata(file.metadata())
    with ParticleFile(tmp_path / "y.h5") as file:
        assert os.fsencode(file.source()[0]) == os.fsencode(f"{ODD}/é.star")
