"""Which rows show one particle: by the file of the image and every column that says so,
never by chance or by a micrograph's name."""

from __future__ import annotations

import os

import numpy as np
import pytest
from importing import OPTICS, make, pixels, refused, run, save_stack, table
from test_cryosparc import columns, save_cs
from test_cryosparc import run as run_cs
from test_import_mpi import same

from mpirecon.io.families import pairs, tilt_series
from mpirecon.model.components import joined

M = 60  # particles, of which each test makes copies


def together(halves, names) -> bool:
    """Whether rows of one name are in one half, and both halves are there."""
    return set(halves) == {1, 2} and all(len(set(halves[names == name])) == 1 for name in np.unique(names))


def read(star, *args):
    """(half sets, families or None, what was printed) of an import."""
    file, text = run(star, *args, "--overwrite") if star.suffix == ".star" else run_cs(star, *args, "--overwrite")
    return file.halves(), file.extra("family"), text


def copies(count=2, **changes):
    """Two (or more) rows of each particle, in an order of their own, images of their own; and who shows whom."""
    who = np.random.default_rng(1).permutation(np.tile(np.arange(M), count))
    return table(len(who), rlnRandomSubset=None, **{label: value(who) for label, value in changes.items()}), who


def order_within(who) -> np.ndarray:
    """How many rows of the same particle come before each row."""
    return np.array([(who[:i] == name).sum() for i, name in enumerate(who)])


SCHEME = np.array([-12.0, -24, -36, -48])

KINDS = {
    "tomo particle name": dict(rlnTomoParticleName=lambda who: [f"TS_1/{i}" for i in who]),
    "tomo particle id": dict(rlnTomoParticleId=lambda who: who + 1),
    "id within a tomogram": dict(rlnTomoParticleId=lambda who: who // 2,
                                 rlnTomoName=lambda who: [f"TS_{i % 2}" for i in who]),
    "original image": dict(rlnImageOriginalName=lambda who: [f"{i + 1:06d}@Extract/gone.mrcs" for i in who]),
    "original image, spelled": dict(rlnImageOriginalName=lambda who: [
        f"{i + 1:06d}@{'./' if k % 2 else ''}Extract/{'/' if k % 3 else ''}gone.mrcs" for k, i in enumerate(who)]),
    "original particle": dict(rlnOriginalParticleName=lambda who: [f"{i + 1}@Extract/gone.mrcs" for i in who]),
    "uid": dict(ucsfUid=lambda who: [str(2**63 + int(i)) for i in who]),
    "tilts by group name": dict(rlnGroupName=lambda who: [f"000_{i:06d}" for i in who],
                                rlnCtfBfactor=lambda who: SCHEME[order_within(who)]),
    "tilts by group number": dict(rlnGroupNumber=lambda who: who, rlnTiltIndex=lambda who: order_within(who)),
    "pick": dict(rlnMicrographName=lambda who: [f"m{i % 3}.mrc" for i in who],
                 rlnCoordinateX=lambda who: 37.0 * who, rlnCoordinateY=lambda who: 5000 - 41.0 * who),
    "place in a tomogram": dict(rlnTomoName=lambda who: [f"TS_{i % 2}" for i in who],
                                rlnCoordinateZ=lambda who: 3.5 * (who % 7),
                                rlnCoordinateX=lambda who: 100.0 + who // 7, rlnCoordinateY=lambda who: 50.0 + who % 2),
    "filament": dict(rlnMicrographName=lambda who: [f"m{i % 3}.mrc" for i in who],
                     rlnHelicalTubeID=lambda who: who // 3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_one_particle_stay_together(tmp_path, kind):
    particles, who = copies(4, **KINDS[kind])
    star = make(tmp_path, particles)
    halves, family, text = read(star)
    assert together(halves, who) and f"({M} particles)" in text
    first = np.array([np.flatnonzero(who == i)[0] for i in who])
    np.testing.assert_array_equal(family, first)
    halves, family, _ = read(star, "--family", "none")
    assert family is None and not together(halves, who)  # so it was the column


def test_micrograph_groups_of_single_particles_are_no_families(tmp_path):
    """Group names that thousands share: a B factor of 0, one for each micrograph, or one for each particle."""
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(20), 15)
    for values in (np.zeros(300), 10.0 * group, rng.uniform(0, 100, 300), rng.integers(0, 30, 300)):
        names = dict(rlnGroupName=[f"group_{i}" for i in group], rlnGroupNumber=group, rlnCtfBfactor=values,
                     rlnCtfScalefactor=1.0)
        halves, family, text = read(make(tmp_path, table(300, rlnRandomSubset=None, **names)))
        assert family is None and "stay together" not in text


@pytest.mark.parametrize("seed", range(5))
def test_tilt_series_are_distinguished_from_chance(seed):
    """Every image of a series has an exposure of its own, the same in all;
    some are missing, and copies are no pairs."""
    rng = np.random.default_rng(seed)
    group, dose = np.repeat(np.arange(1, 41), 30), np.tile(np.arange(30.0), 40)
    image = np.arange(len(group))
    some = rng.random(len(group)) < 0.8
    assert tilt_series(group[some], dose[some], image[some])
    twice = np.repeat(np.flatnonzero(some), 2)
    assert tilt_series(group[twice], dose[twice], image[twice])
    assert tilt_series(group, np.cos(np.radians(2 * dose - 29)).round(3), image) is True  # ± tilts: equal by twos
    assert not tilt_series(group, rng.permutation(dose), image)
    assert not tilt_series(group, rng.normal(size=len(group)), image)
    assert not tilt_series(group, group.astype(float), image)
    assert not tilt_series(np.ones(30), dose[:30], image[:30])  # a single group says nothing


def spellings(tmp_path) -> dict[str, str]:
    """Ways to one stack."""
    stack = save_stack(tmp_path / "real" / "a.mrcs", pixels(range(M)))
    (tmp_path / "stacks").mkdir()
    os.symlink(stack, tmp_path / "stacks" / "soft.mrcs")
    os.link(stack, tmp_path / "stacks" / "hard.mrcs")
    os.symlink(tmp_path / "real", tmp_path / "folder")
    return {"plain": "real/a.mrcs", "dots": "./real/../real//a.mrcs", "absolute": str(stack),
            "soft": "stacks/soft.mrcs",
            "hard": "stacks/hard.mrcs", "folder": "folder/a.mrcs", "format": "real/a.mrcs:mrcs"}


@pytest.mark.parametrize("other", ["dots", "absolute", "soft", "hard", "folder", "format"])
def test_one_file_is_one_stack_however_it_is_written(tmp_path, other):
    ways = spellings(tmp_path)
    names = [f"{i + 1:06d}@{ways[way]}" for way in ("plain", other) for i in range(M)]
    half = np.repeat([1, 2], M)
    star = make(tmp_path, table(2 * M, rlnImageName=names, rlnRandomSubset=half), stacks={})
    halves, _, text = read(star)
    np.testing.assert_array_equal(halves, half)
    assert f"Warning: {M} images are in both half sets" in text and "--new-halves" in text
    for option in ([], ["--link"]):
        halves, _, text = read(star, "--new-halves", *option)
        assert together(halves, np.tile(np.arange(M), 2)) and "both half sets" not in text
        assert f"Warning: {M} of {2 * M} rows repeat an image (0 with the same pose, {M} with another" in text


def test_equal_content_and_case_are_no_identity(tmp_path):
    stacks = {name: pixels(range(M)) for name in ("stacks/a.mrcs", "stacks/A.mrcs", "stacks/a.mrc")}
    names = [f"{i + 1}@{name}" for name in stacks for i in range(M)]
    star = make(tmp_path, table(3 * M, rlnImageName=names, rlnRandomSubset=None), stacks=stacks)
    _, family, text = read(star)
    assert family is None and "Warning" not in text


def test_repeated_images_in_one_half_are_counted(tmp_path):
    names = [f"{i % 30 + 1}@stacks/a.mrcs" for i in range(40)]
    same = {label: np.arange(40) % 30 * 5.0 for label in
            ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")}
    same["rlnAngleRot"][35:] += 90
    half = 1 + np.arange(40) % 30 % 2
    _, _, text = read(make(tmp_path, table(40, rlnImageName=names, rlnRandomSubset=half, **same)))
    assert ("Warning: 10 of 40 rows repeat an image (5 with the same pose, 5 with another" in text
            and "both half sets" not in text)


def test_a_copy_of_an_original_that_is_there_is_its_family(tmp_path):
    """Subtracted images beside those that they were made from, which the table names in another way."""
    save_stack(tmp_path / "stacks" / "sub.mrcs", pixels(range(M)))
    names = [f"{i + 1}@stacks/a.mrcs" for i in range(M)] + [f"{i + 1}@stacks/sub.mrcs" for i in range(M)]
    origin = ["None"] * M + [f"{i + 1:06d}@./stacks/a.mrcs" for i in range(M)]
    star = make(tmp_path, table(2 * M, rlnImageName=names, rlnImageOriginalName=origin, rlnRandomSubset=None),
                stacks={"stacks/a.mrcs": pixels(range(M))})
    halves, family, _ = read(star)
    np.testing.assert_array_equal(family, np.tile(np.arange(M), 2))
    assert together(halves, family)


def test_a_micrograph_is_no_original_of_its_particles(tmp_path):
    names = [f"m{i // 10}.mrc" for i in range(M)]
    star = make(tmp_path, table(M, rlnRandomSubset=None, rlnMicrographName=names, rlnImageOriginalName=names))
    assert read(star)[1] is None


def test_recentred_copies_are_one_particle(tmp_path):
    """An extraction that moves the pick by whole pixels, and the origin back; neighbours stay apart."""
    rng = np.random.default_rng(4)
    x, y = np.meshgrid(np.arange(10) * 40.0, np.arange(6) * 40.0)
    pick = np.stack([x.ravel(), y.ravel()], axis=1) + 100
    origin = rng.uniform(-20, 20, (M, 2))  # Å; the particle sits at pick − origin / 0.8
    moved = np.rint(origin / 0.8)
    particles = table(
        2 * M, rlnRandomSubset=None, rlnMicrographName="m.mrc",
        rlnCoordinateX=np.concatenate([pick[:, 0], pick[:, 0] - moved[:, 0]]),
        rlnCoordinateY=np.concatenate([pick[:, 1], pick[:, 1] - moved[:, 1]]),
        rlnOriginXAngst=np.concatenate([origin[:, 0], origin[:, 0] - 0.8 * moved[:, 0] + rng.uniform(-1, 1, M)]),
        rlnOriginYAngst=np.concatenate([origin[:, 1], origin[:, 1] - 0.8 * moved[:, 1] + rng.uniform(-1, 1, M)]),
    )
    star = make(tmp_path, particles, {**OPTICS, "rlnMicrographOriginalPixelSize": [0.8]})
    halves, family, text = read(star)
    np.testing.assert_array_equal(family, np.tile(np.arange(M), 2))
    assert together(halves, family) and "places on the micrograph" in text
    unset = particles.assign(rlnCoordinateX=0.0, rlnCoordinateY=0.0, rlnOriginXAngst=0.0, rlnOriginYAngst=0.0)
    assert read(make(tmp_path, unset))[1] is None  # a converter's zeros are no place


def test_tilt_images_that_lie_behind_each_other_are_other_particles(tmp_path):
    """Places on a tilted image, without a depth, are no identity."""
    particles, who = copies(4, rlnTomoParticleName=lambda who: [f"TS_1/{i}" for i in who],
                            rlnMicrographName=lambda who: "TS_1",
                            rlnCoordinateX=lambda who: who // 6 + 1.0, rlnCoordinateY=lambda who: 5.0)
    _, family, text = read(make(tmp_path, particles))
    assert len(set(family)) == M and "places" not in text


def test_families_that_given_halves_part_are_counted(tmp_path):
    names = [f"p{i // 3}" for i in range(30)]
    half = np.repeat([1, 2], 15)
    half[[1, 4, 5]] = 2  # p0 and p1 are parted
    star = make(tmp_path, table(30, rlnTomoParticleName=names, rlnRandomSubset=half))
    halves, _, text = read(star)
    np.testing.assert_array_equal(halves, half)
    assert "Warning: 2 particles (by rlnTomoParticleName) have rows in both half sets (6 of 30 rows; first: " in text
    assert "--new-halves" in text
    halves, _, text = read(star, "--new-halves")
    assert together(halves, np.array(names)) and "both half sets" not in text


def test_a_column_that_the_user_names(tmp_path):
    particles, who = copies(3, myParticle=lambda who: [f"x{i}" for i in who])
    star = make(tmp_path, particles)
    assert read(star)[1] is None
    halves, family, _ = read(star, "--family", "myParticle")
    assert together(halves, who) and family is not None
    refused(star, "--family yours: .* has no such column; it has rlnImageName", "--family", "yours")


@pytest.mark.parametrize("kind", ["src_uid", "uid", "filament", "mixed", "pick", "fraction", "mark"])
def test_families_of_cs_files(tmp_path, kind):
    rng = np.random.default_rng(5)
    who = rng.permutation(np.tile(np.arange(M), 3))
    m = len(who)
    uid = rng.integers(2**62, 2**64 - 1, M, dtype=np.uint64)
    given = columns(m, alignments3D__split=None, blob__path=np.array([b">J1/a.mrcs"] * m))
    if kind == "src_uid":
        given["sym_expand/src_uid"] = uid[who]
    elif kind == "uid":
        given["uid"] = uid[who]
    elif kind == "filament":
        given["filament/filament_uid"] = uid[who]
    elif kind == "mixed":  # the particle itself, beside copies that name it
        first = np.array([np.flatnonzero(who == i)[0] == k for k, i in enumerate(who)])
        given["uid"] = np.where(first, uid[who], given["uid"])
        given["sym_expand/src_uid"] = np.where(first, 0, uid[who])
    elif kind in ("pick", "fraction"):
        given["location/micrograph_uid"] = (who % 4 + 1).astype("u8")
        if kind == "pick":  # without it, fractions of the micrograph are all that is known
            given["location/micrograph_shape"] = np.full((m, 2), 4000, "u4")
        given["location/center_x_frac"], given["location/center_y_frac"] = (
            ((who + 1) / 70).astype("f4"),
            ((who * 7 % M) / 70).astype("f4"),
        )
    else:
        given["blob/idx"] = who.astype("u4")
        given["blob/path"] = np.where(rng.random(m) < 0.5, b">J1/a.mrcs", b"./J1//a.mrcs")
    save_stack(tmp_path / "J1" / "a.mrcs", pixels(range(m)))
    halves, family, text = read(save_cs(tmp_path / "p.cs", given))
    assert together(halves, who) and f"({M} particles)" in text
    np.testing.assert_array_equal(family, [np.flatnonzero(who == i)[0] for i in who])


def test_few_families_are_dealt_evenly_and_one_cannot_be(tmp_path):
    for seed in range(8):
        star = make(tmp_path, table(40, rlnRandomSubset=None, rlnTomoParticleName=[f"p{i // 10}" for i in range(40)]))
        halves, family, _ = read(star, "--seed", seed)
        assert together(halves, family) and 10 <= (halves == 1).sum() <= 30
    star = make(tmp_path, table(12, rlnRandomSubset=None, rlnTomoParticleName="p"))
    _, _, text = read(star)
    assert "Warning: all 12 images show one particle (by rlnTomoParticleName)" in text and "--family none" in text
    assert set(read(star, "--family", "none")[0]) == {1, 2}


def test_half_sets_of_other_values(tmp_path):
    star = make(tmp_path, table(40, rlnRandomSubset=[0, 1] * 20))
    halves, _, text = read(star)
    np.testing.assert_array_equal(halves, [1, 2] * 20)
    assert "0 for 20 and 1 for 20 images, and never 2: they are taken as half sets counted from 0" in text
    _, _, text = read(make(tmp_path, table(40, rlnRandomSubset=[0, 1, 1, 1] * 10)))
    assert "never 2: 0 is taken as not set" in text
    _, _, text = read(make(tmp_path, table(40, rlnRandomSubset=[2] + [1] * 39)))
    assert "Warning: the half sets have 39 and 1 images" in text
    star = make(tmp_path, table(40, rlnRandomSubset=[-1, 1] * 20))
    with pytest.raises(Exception, match="rlnRandomSubset is -1, expected 1, 2 or 0 .*--new-halves"):
        read(star)
    assert set(read(star, "--new-halves")[0]) == {1, 2}


def test_components_against_a_walk():
    rng = np.random.default_rng(6)
    for count, edges in ((30, 0), (30, 10), (30, 40)):
        links = rng.integers(0, count, (2, edges))
        name = np.arange(count)
        while True:
            new = name.copy()
            for a, b in links.T:
                new[[a, b]] = min(new[a], new[b])
            if (new == name).all():
                break
            name = new
        np.testing.assert_array_equal(joined(count, links), name)
    key = rng.integers(0, 9, 40)
    found = joined(40, pairs(key))
    np.testing.assert_array_equal(found, [i if k == 0 else np.flatnonzero(key == k)[0] for i, k in enumerate(key)])


@pytest.mark.parametrize("kind", ["tilts by group name", "everything"])
def test_ranks_find_the_families_that_one_rank_finds(cli, mpirun, tmp_path, kind):
    """Relations that cross the ranks' slabs, of columns that some slabs know nothing of."""
    kinds = {label: value for name in (["original image", "uid", "pick", "filament"] if kind == "everything"
                                       else [kind])
             for label, value in KINDS[name].items()}
    particles, who = copies(4, **kinds)
    m, rng = len(particles), np.random.default_rng(8)
    if kind == "everything":  # each relation knows of some rows, and only all together join the copies
        particles.loc[rng.random(m) < 0.5, "rlnImageOriginalName"] = "None"
        particles.loc[: m // 2, "ucsfUid"] = "None"
        particles.loc[rng.random(m) < 0.5, ["rlnCoordinateX", "rlnCoordinateY"]] = 0.0
        particles["rlnHelicalTubeID"] = np.arange(m) // 5 + 1
        particles["rlnRandomSubset"] = rng.integers(0, 3, m)
    star = make(tmp_path, particles)
    alone = cli("import", star, "-o", tmp_path / "alone.h5")
    together_ = mpirun(3, ["-m", "mpirecon", "import", star, "-o", tmp_path / "together.h5"])
    assert alone.returncode == together_.returncode == 0, alone.stderr + together_.stderr
    assert together_.stdout.replace("together.h5", "alone.h5") == alone.stdout and together_.stderr == alone.stderr
    assert same(tmp_path / "together.h5", tmp_path / "alone.h5")
