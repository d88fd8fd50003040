"""Imports of some rows (--select): the right ones, with all their columns, on any number of ranks;
and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from exporting import export, finish
from importing import OPTICS, make, pixels, refused, run, save_stack, table
from test_cryosparc import columns, save_cs
from test_cryosparc import run as run_cs
from test_import_mpi import same

from mpirecon.cli.import_ import command
from mpirecon.io.import_options import ImportOptions
from mpirecon.io.importer import import_particles
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.row_selection import parse_selection
from mpirecon.io.star import read_star, write_star

M = 40
ROW = np.arange(M)
TWO = {**{label: values * 2 for label, values in OPTICS.items()}, "rlnOpticsGroup": [1, 2],
       "rlnOpticsGroupName": ["old", "new"]}


def made(tmp_path):
    """Classes 1, 2, 3 in turn, two optics groups, ten micrographs, uids of 64 bits."""
    particles = table(
        M,
        rlnClassNumber=1 + ROW % 3,
        rlnOpticsGroup=1 + ROW // 25,
        rlnMicrographName=[f"MotionCorr/job2/m{i // 4}.mrc" for i in ROW],
        ucsfUid=[str(2**63 + int(i)) for i in ROW],
        rlnRandomSubset=None,
        rlnFigure=[f"{x:.3f}" for x in ROW / 40],
    )
    return make(tmp_path, particles, TWO), particles


def kept(file) -> np.ndarray:
    """The rows of the table that a file has, by the first pixel of their images;
    checked against poses, CTF and source."""
    rows = file.images(slice(None))[:, 0, 0].astype(int)
    found = file.metadata()
    np.testing.assert_array_equal(found.ctf["defocus_u"], 10000 + rows)
    np.testing.assert_array_equal(found.pose.shift[:, 1], rows)
    assert [int(name.split("@")[0]) - 1 for name in file.source()[1]["particles"]["rlnImageName"]] == rows.tolist()
    return rows


@pytest.mark.parametrize(("values", "wanted"), [
    (["rlnClassNumber=1"], ROW % 3 == 0),
    (["ClassNumber=1,3"], ROW % 3 != 1),
    (["rlnClassNumber=2:3"], ROW % 3 != 0),
    (["rlnClassNumber=2.0"], ROW % 3 == 1),
    (["rlnOpticsGroupName=new"], ROW >= 25),
    (["rlnOpticsGroup=2", "rlnClassNumber=1"], (ROW >= 25) & (ROW % 3 == 0)),
    (["rlnMicrographName=MotionCorr/job2/m3.mrc,m5.mrc"], np.isin(ROW // 4, [3, 5])),
    (["rlnFigure=0.25:0.5"], (ROW >= 10) & (ROW <= 20)),
    (["rlnFigure=:0.1,0.900,0.95:"], (ROW <= 4) | (ROW == 36) | (ROW >= 38)),
    ([f"ucsfUid={2**63 + 3},{2**63 + 4}"], np.isin(ROW, [3, 4])),  # equal as float64
    (["row=0,7:9,39"], np.isin(ROW, [0, 7, 8, 9, 39])),
    (["rlnAnglePsi=-40:-35"], (ROW >= 5) & (ROW <= 10)),
])
def test_rows_by_any_column(tmp_path, values, wanted):
    star, particles = made(tmp_path)
    options = [part for value in values for part in ("--select", value)]
    file, text = run(star, *options)
    np.testing.assert_array_equal(kept(file), np.flatnonzero(wanted))
    assert f"of {M} rows" in text and f"{wanted.sum()} of {M} rows" in text
    whole = run(star, output=tmp_path / "whole.h5")[0]
    if wanted.sum() > 9:  # fewer may have to be dealt
        np.testing.assert_array_equal(file.halves(), whole.halves()[wanted])  # a draw depends on no other row
    source = file.source()[1]["particles"]
    for label in particles:
        assert list(source[label]) == particles[label][wanted].astype(str).tolist()


def test_values_from_files(tmp_path):
    star, particles = made(tmp_path)
    (tmp_path / "names.txt").write_text("# the good ones\nm3.mrc\n\nMotionCorr/job2/m5.mrc\nmissing.mrc\n")
    assert set(kept(run(star, "--select", f"rlnMicrographName=@{tmp_path}/names.txt")[0]) // 4) == {3, 5}
    np.save(tmp_path / "rows.npy", [3, 30])
    np.testing.assert_array_equal(kept(run(star, "--select", f"row=@{tmp_path}/rows.npy", "--overwrite")[0]), [3, 30])
    write_star(tmp_path / "some.star", {"particles": particles.iloc[[4, 8]]}, False)
    np.testing.assert_array_equal(kept(run(star, "--select", f"rlnImageName=@{tmp_path}/some.star", "--overwrite")[0]),
                                  [4, 8])
    (tmp_path / "none.txt").write_text("x\ny\n")
    refused(star, "no row has any of the 2 values of .*none.txt in rlnMicrographName; there are .*m0.mrc .4 rows",
            "--select", f"rlnMicrographName=@{tmp_path}/none.txt")
    refused(star, "cannot read the values in .*gone.txt", "--select", "row=@gone.txt")


@pytest.mark.parametrize(("value", "message"), [
    ("rlnClasNumber=1", r"has no such column \(did you mean rlnClassNumber\?\); it has rlnImageName"),
    ("rlnClassNumber=7",
     r"no row has the value 7 in rlnClassNumber; there are 1 \(14 rows\), 2 \(13 rows\), 3 \(13 rows\)"),
    ("rlnClassNumber=5:6", "no row has rlnClassNumber from 5 to 6; there are 1"),
    ("rlnFigure=2", "no row has the value 2 in rlnFigure; its values run from 0 to 0.975"),
    ("rlnOpticsGroupName=older", r"there are old \(25 rows\), new \(15 rows\)"),
    ("rlnClassNumber=1-2", r"no row has the value 1-2 .*\(ranges are written LOW:HIGH\)"),
    ("row=40", "no row has the value 40 in row; its values run from 0 to 39"),
    ("rlnMicrographName=@", "cannot read"),
])
def test_what_is_not_there_is_refused_with_what_is(tmp_path, value, message):
    refused(made(tmp_path)[0], message, "--select", value)


def test_selections_that_exclude_each_other(tmp_path):
    refused(made(tmp_path)[0], "no row is left by all of --select rlnClassNumber=1 --select rlnClassNumber=2",
            "--select", "rlnClassNumber=1", "--select", "rlnClassNumber=2")
    result = CliRunner().invoke(command, ["x.star", "-o", "y.h5", "--select", "rlnClassNumber"])
    assert result.exit_code == 2


def test_several_classes_are_reported_with_the_option(tmp_path):
    star, _ = made(tmp_path)
    _, text = run(star)
    assert ("Warning: rlnClassNumber has 3 classes (class 1: 14, class 2: 13, class 3: 13 particles): poses of "
            "different classes are relative to different "
            "maps" in text.replace("\n", " ")) and "--select 'rlnClassNumber=1'" in text
    assert "classes (" not in run(star, "--select", "rlnClassNumber=1", "--overwrite")[1]


def test_a_group_of_another_pixel_size_can_be_left_out(tmp_path):
    star = make(tmp_path, table(M, rlnOpticsGroup=1 + ROW // 25), {**TWO, "rlnImagePixelSize": [2.5, 2.6]})
    refused(star, "pixel size")
    np.testing.assert_array_equal(kept(run(star, "--select", "rlnOpticsGroup=2")[0]), ROW[25:])


def test_exports_have_the_selected_rows_and_the_half_sets_that_were_used(tmp_path):
    star, particles = made(tmp_path)
    particles["rlnRandomSubset"] = 1
    write_star(star, {"optics": pd.DataFrame(TWO), "particles": particles}, True)
    wanted = ROW % 3 == 1
    file, _ = run(star, "--select", "rlnClassNumber=2", "--new-halves")
    good = np.arange(wanted.sum()) % 4 > 0
    text = export(finish(file.path, tmp_path / "out", good), "--star", tmp_path / "k.star", "--discarded",
                  tmp_path / "d.star")
    assert "rlnRandomSubset is another than the source's" in text
    for name, some in (("k", good), ("d", ~good)):
        back = read_star(tmp_path / f"{name}.star")["particles"]
        assert list(back["rlnRandomSubset"].astype(int)) == list(file.halves()[some])
        for label in particles.columns.drop("rlnRandomSubset"):
            assert list(back[label]) == particles[label][wanted][some].astype(str).tolist()
    np.testing.assert_array_equal(run(tmp_path / "k.star", output=tmp_path / "k.h5")[0].halves(), file.halves()[good])


def test_cs_exports_have_the_selected_rows_and_the_half_sets_that_were_used(tmp_path):
    cs, given = cs_of(tmp_path)
    wanted = ROW % 3 == 1
    file, _ = run_cs(cs, "--select", "class=1", "--new-halves", "--seed", 3)
    good = np.arange(wanted.sum()) % 4 > 0
    assert (file.halves() != given["alignments3D/split"][wanted] + 1).any()
    text = export(finish(file.path, tmp_path / "out", good), "--cs", tmp_path / "k.cs")
    assert "alignments3D/split is that of the import" in text
    back = np.load(tmp_path / "k.cs")
    np.testing.assert_array_equal(back["alignments3D/split"] + 1, file.halves()[good])
    for name in given.keys() - {"alignments3D/split"}:
        np.testing.assert_array_equal(back[name], given[name][wanted][good])


def cs_of(tmp_path, **changes):
    save_stack(tmp_path / "J1" / "imported" / "a.mrcs", pixels(range(M)))
    given = columns(M, uid=np.uint64(2**63) + ROW.astype("u8"), **changes)
    given["alignments3D/class"] = (ROW % 3).astype("u4")
    given["alignments3D_multi/class_posterior"] = np.eye(2, dtype="f4")[ROW % 2]
    return save_cs(tmp_path / "p.cs", given), given


@pytest.mark.parametrize(("value", "wanted"), [
    ("alignments3D/class=0", ROW % 3 == 0), ("class=1,2", ROW % 3 != 0),
    ("alignments3D_multi/class_posterior[1]=0.5:", ROW % 2 == 1), ("class_posterior[0]=1", ROW % 2 == 0),
    (f"uid={2**63 + 5}", ROW == 5), ("ctf/df1_A=:10010", ROW <= 10), ("row=3:4", np.isin(ROW, [3, 4])),
    ("blob/path=a.mrcs", ROW >= 0), ("alignments3D/split=1", ROW % 2 == 1), ("ctf/amp_contrast=0.1", ROW >= 0),
])
def test_rows_of_a_cs_file(tmp_path, value, wanted):
    cs, given = cs_of(tmp_path)
    file, text = run_cs(cs, "--select", value)
    np.testing.assert_array_equal(file.images(slice(None))[:, 0, 0], ROW[wanted])
    assert f"{wanted.sum()} of {M} rows" in text
    back = file.source_arrays()["particles"]
    for name, values in given.items():
        np.testing.assert_array_equal(back[name], values[wanted])


def test_cs_files_by_passthrough_uids_and_classes(tmp_path):
    cs, given = cs_of(tmp_path)
    some = {name: values[10:20] for name, values in given.items()}
    other = save_cs(tmp_path / "some.cs", some)
    np.testing.assert_array_equal(run_cs(cs, "--select", f"uid=@{other}")[0].images(slice(None))[:, 0, 0], ROW[10:20])
    through = save_cs(tmp_path / "through.cs", {"uid": given["uid"], "extra/number": ROW.astype("f4") / 4})
    file, text = run_cs(cs, "--passthrough", through, "--select", "extra/number=2:3", "--overwrite")
    np.testing.assert_array_equal(file.images(slice(None))[:, 0, 0], ROW[8:13])
    assert "Warning: alignments3D/class has 3 classes" in text and "--select 'alignments3D/class=" in text
    del given["alignments3D/class"]
    _, text = run_cs(save_cs(cs, given), "--overwrite")
    assert "alignments3D_multi/class_posterior has 2 classes (class 0: 20, class 1: 20 particles)" in text
    assert "--select 'alignments3D_multi/class_posterior[0]=0.5:'" in text
    for value, message in (("blob/shape=6", r"blob/shape .* has 2 numbers a row; pick one with blob/shape\[0\]"),
                           ("alignments3D/pose[3]=1", "has 3 numbers a row"), ("clas=1", "no such column"),
                           ("uid=1", "no row has the value 1 in uid")):
        with pytest.raises(Exception, match=message):
            run_cs(cs, "--select", value, "--overwrite")


def test_poses_of_several_classes_are_refused_with_their_counts(tmp_path):
    cs, given = cs_of(tmp_path, alignments3D__pose=None)
    del given["alignments3D/class"]
    with pytest.raises(
        Exception,
        match=r"several classes \(alignments3D_multi; class 0: 20, class 1: 20 particles\); cryoSPARC also writes",
    ):
        run_cs(save_cs(cs, given))


def test_scripts_select_as_the_command_does(tmp_path):
    star, _ = made(tmp_path)
    for n, select in enumerate(("rlnClassNumber=1", ["rlnClassNumber=1"], [("rlnClassNumber", "1")])):
        report = import_particles(star, tmp_path / f"{n}.h5", ImportOptions(select=select, family="none"))
        assert report.particles == 14
    with pytest.raises(ValueError, match="expected COLUMN=VALUES"):
        parse_selection("rlnClassNumber=")


@pytest.mark.parametrize(("ranks", "options"), [
    (3, ["--select", "rlnClassNumber=1", "--select", "row=:30"]), (4, ["--select", "rlnMicrographName=m3.mrc,m9.mrc",
                                                                       "--new-halves"]),
    (2, ["--select", "row=35:", "--family", "rlnMicrographName"]),
])
def test_ranks_select_what_one_rank_does(cli, mpirun, tmp_path, ranks, options):
    star, _ = made(tmp_path)
    alone = cli("import", star, *options, "-o", tmp_path / "alone.h5")
    together = mpirun(ranks, ["-m", "mpirecon", "import", star, *options, "-o", tmp_path / "together.h5"])
    assert alone.returncode == together.returncode == 0, alone.stderr + together.stderr
    assert together.stdout.replace("together.h5", "alone.h5") == alone.stdout and together.stderr == alone.stderr
    assert same(tmp_path / "together.h5", tmp_path / "alone.h5")
    with ParticleFile(tmp_path / "together.h5") as file:
        kept(file)


def test_ranks_refuse_with_one_sentence(cli, mpirun, tmp_path):
    star, _ = made(tmp_path)
    for value in ("rlnClassNumber=7", "rlnNothing=1", "row=100:200", "rlnClassNumber=@gone"):
        alone = cli("import", star, "--select", value, "-o", tmp_path / "p.h5")
        together = mpirun(3, ["-m", "mpirecon", "import", star, "--select", value, "-o", tmp_path / "p.h5"])
        assert alone.returncode == 1 and together.returncode != 0 and "Traceback" not in together.stderr
        said = alone.stderr.strip().split("Error: ")[-1]
        assert together.stderr.count(said) == 1
    few = mpirun(3, ["-m", "mpirecon", "import", star, "--select", "row=1,2", "-o", tmp_path / "p.h5"])
    assert few.returncode != 0 and "2 particles are too few for 3 ranks" in few.stderr
