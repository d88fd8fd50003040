"""Imports by several ranks write what one rank writes, and fail with the same words."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from importing import OPTICS, make, pixels, save_stack, table

from mpirecon.io.particle_file import ParticleFile


def odd_set(tmp_path, m=23):
    """Rows over three stacks in disorder, half sets partly drawn, tilt images of one particle, a bad image,
    two groups."""
    rng = np.random.default_rng(7)
    stacks = [f"stacks/{name}.mrcs" for name in "abc"]
    images = {name: pixels(range(100 * i, 100 * i + m)) for i, name in enumerate(stacks)}
    images[stacks[1]][4] = 3.0
    where = rng.permutation([(section, name) for section in range(8) for name in stacks])[:m]
    particles = table(
        m, rlnImageName=[f"{int(section) + 1}@{name}" for section, name in where],
        rlnRandomSubset=rng.integers(0, 3, m), rlnOpticsGroup=rng.integers(1, 3, m),
        rlnTomoParticleName=[f"tomo {i // 3}" for i in range(m)], rlnMicrographName=[f"m{i // 5}" for i in range(m)],
        rlnMaxValueProbDistribution=rng.integers(0, 2, m),
    )
    optics = {label: values * 2 for label, values in OPTICS.items()} | {"rlnOpticsGroup": [2, 1]}
    return make(tmp_path, particles, optics, images)


def same(one, other) -> bool:
    """Whether two files have the same datasets and attributes; sines of poses may differ in their last bit, by how many
    are computed at a time."""

    def everything(path) -> dict:
        found = {}

        def visit(name, item):
            found[name] = {key: np.asarray(value).tolist() for key, value in item.attrs.items()}
            if isinstance(item, h5py.Dataset):
                close = "quaternion" in name
                found[name]["values"] = np.round(item[()], 13).tolist() if close else item[()].tobytes()
                found[name]["type"] = str(item.dtype)

        with h5py.File(path) as file:
            file.visititems(visit)
        return found

    return everything(one) == everything(other)


@pytest.mark.parametrize(("ranks", "options"), [(2, []), (3, ["--plant-errors", "0.5", "--offset-error", "4",
                                                              "--plant-by", "TomoParticleName"])])
def test_ranks_write_what_one_rank_writes(cli, mpirun, tmp_path, ranks, options):
    star = odd_set(tmp_path)
    arguments = ["import", star, "--skip-bad", "--max-bad", "0.2", *options]
    alone = cli(*arguments, "-o", tmp_path / "alone.h5")
    together = mpirun(ranks, ["-m", "mpirecon", *arguments, "-o", tmp_path / "together.h5"])
    assert alone.returncode == together.returncode == 0, alone.stderr + together.stderr
    assert together.stdout.replace("together.h5", "alone.h5") == alone.stdout
    assert together.stderr == alone.stderr and "is constant" in alone.stderr
    assert same(tmp_path / "together.h5", tmp_path / "alone.h5")
    with ParticleFile(tmp_path / "together.h5") as file:
        assert len(file) == 22 and set(file.halves()) == {1, 2}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("20@stacks", "99@stacks", "image 99 is past the end of"),
        ("12@stacks/a.mrcs", "12@stacks/b.mrcs", "stack stacks/b.mrcs is not there"),
        ("13@stacks/a.mrcs", "", "fields in a table of"),
    ],
)
def test_what_one_rank_finds_wrong_ends_all_with_its_words(cli, mpirun, tmp_path, old, new, message):
    star = make(tmp_path, table(24))
    star.write_text(star.read_text().replace(f"0000{old}", f"0000{new}" if new else ""))
    alone = cli("import", star, "-o", tmp_path / "p.h5")
    together = mpirun(3, ["-m", "mpirecon", "import", star, "-o", tmp_path / "p.h5"])
    assert alone.returncode == together.returncode != 0
    assert message in alone.stderr and "Traceback" not in together.stderr
    said = alone.stderr.strip().split("Error: ")[-1]
    assert together.stderr.count(said) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.star", "stacks"]


def test_more_ranks_than_particles_are_refused(mpirun, tmp_path):
    star = make(tmp_path, table(3))
    result = mpirun(4, ["-m", "mpirecon", "import", star, "-o", tmp_path / "p.h5"])
    assert result.returncode != 0 and "3 particles are too few for 4 ranks; use 3 at most" in result.stderr


def test_pixel_sizes_that_only_another_rank_sees_are_refused(mpirun, tmp_path):
    optics = {label: values * 2 for label, values in OPTICS.items()} | {
        "rlnOpticsGroup": [1, 2],
        "rlnImagePixelSize": [2.5, 2.6],
    }
    star = make(tmp_path, table(8, rlnOpticsGroup=[1] * 4 + [2] * 4), optics)
    result = mpirun(2, ["-m", "mpirecon", "import", star, "-o", tmp_path / "p.h5"])
    assert result.returncode != 0 and "the pixel size is 2.5 from line" in result.stderr and "2.6" in result.stderr
    assert not list(tmp_path.glob("*.h5")) and not list(tmp_path.glob(".*"))


def test_a_full_disk_met_by_one_rank_ends_all(mpirun, tmp_path):
    star = make(tmp_path, table(3000), stacks={"stacks/a.mrcs": pixels(range(3000))})
    program = ("import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
               "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); from mpirecon.cli import main; main()")
    result = mpirun(3, ["-c", program, "import", star, "-o", tmp_path / "p.h5"])
    assert result.returncode != 0 and "the file size limit is reached; nothing was left behind" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.star", "stacks"]


def test_cryosparc_files_by_ranks(cli, mpirun, tmp_path):
    m = 17
    rng = np.random.default_rng(3)
    save_stack(tmp_path / "a.mrcs", pixels(range(m)))
    kinds = [
        ("uid", "u8"),
        ("blob/path", "S20"),
        ("blob/idx", "u4"),
        ("blob/psize_A", "f4"),
        ("blob/sign", "f4"),
        ("alignments3D/pose", "f4", 3),
        ("alignments3D/shift", "f4", 2),
        ("alignments3D/psize_A", "f4"),
        *[(f"ctf/{name}", "f4") for name in ("accel_kv", "cs_mm", "amp_contrast", "df1_A", "df2_A", "df_angle_rad")],
    ]
    rows = np.zeros(m, kinds)
    rows["uid"], rows["blob/path"], rows["blob/idx"] = rng.permutation(m), "a.mrcs", rng.permutation(m)
    rows["blob/psize_A"] = rows["alignments3D/psize_A"] = 1.5
    rows["blob/sign"] = np.where(rng.random(m) < 0.5, 1, -1)
    rows["alignments3D/pose"] = rng.normal(size=(m, 3))
    rows["ctf/accel_kv"], rows["ctf/cs_mm"], rows["ctf/amp_contrast"] = 300, 2.7, 0.1
    rows["ctf/df1_A"] = rows["ctf/df2_A"] = 1e4
    with open(tmp_path / "p.cs", "wb") as file:
        np.save(file, rows)
    alone = cli("import", tmp_path / "p.cs", "-o", tmp_path / "alone.h5")
    together = mpirun(3, ["-m", "mpirecon", "import", tmp_path / "p.cs", "-o", tmp_path / "together.h5"])
    assert alone.returncode == together.returncode == 0, alone.stderr + together.stderr
    assert same(tmp_path / "together.h5", tmp_path / "alone.h5")
