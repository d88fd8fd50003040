"""What a run warns of in its maps and its selection, and that nothing is said where there is nothing to say."""

import html
import json

import h5py
import numpy as np
import pytest
import scipy.fft
from scipy.special import j0

from mpirecon.cli import run
from mpirecon.io.family import Family, family_column
from mpirecon.io.mrc import read_map, write_map
from mpirecon.io.particle_file import ParticleFile
from mpirecon.model.optics import curvature_resolution, electron_wavelength
from mpirecon.report.verdict import bfactor_caution, verdict
from mpirecon.solvers.config import Config
from mpirecon.solvers.search_warnings import warnings_of
from mpirecon.validate import masks
from mpirecon.validate.directional import conical_fsc
from mpirecon.validate.map_warnings import (
    anisotropy_warning,
    curvature_warning,
    few_particles_warning,
    hard_mask_warning,
    no_agreement_warning,
    tight_mask_warning,
)
from mpirecon.validate.randomised import phase_randomised_fsc
from mpirecon.validate.separation import ScoredSelection, interval_in_words

BOX, PIXEL = 28, 5.0


def reconstruct(particles, out, *options):
    assert run(["reconstruct", str(particles), "-o", str(out), "-q", *map(str, options)]) == 0
    return json.loads((out / "summary.json").read_text())


def simulate(path, *options):
    assert run(["simulate", "--phantom", "--box", str(BOX), "--pixel-size", str(PIXEL), "-q", "-o", str(path),
                *map(str, options)]) == 0
    return path


# nothing in common


def test_half_maps_of_noise_agree_in_nothing_and_those_of_few_particles_in_something(tmp_path):
    junk = reconstruct(simulate(tmp_path / "junk.h5", "--particles", 300, "--junk-rate", 1.0), tmp_path / "junk")
    told = [text for text in junk["warnings"] if "the half maps agree in nothing" in text]
    assert len(told) == 1 and "Do the images show the particle" in told[0]
    few = reconstruct(simulate(tmp_path / "few.h5", "--particles", 100, "--snr", 0.1), tmp_path / "few")
    assert not any("agree in nothing" in text for text in few["warnings"])


@pytest.mark.parametrize("curve, warned", [
    ([1, 0.9, 0.4, 0.1, 0], True), ([1, 0.9, 0.6, 0.1, 0], False), ([1, 0.2, 0.1, 0.7, 0], False), ([1, 0.2], False),
])  # fmt: skip
def test_agreement_in_the_first_shell_alone_is_none(curve, warned):
    assert (no_agreement_warning(np.array(curve), 100.0) is not None) == warned


# outside of the mask


def test_a_particle_outside_of_the_mask_or_the_diameter(tmp_path):
    particles = simulate(tmp_path / "p.h5", "--particles", 400, "--snr", 0.3)
    ball = masks.soft_sphere(BOX, 8, 3).astype(np.float32)

    def told(*options):
        summary = reconstruct(particles, tmp_path / "run", "--overwrite", "--no-postprocess", *options)
        return [text for text in summary["warnings"] if "what the half maps share lies outside of" in text]

    for name, mask, warned in (("good", ball, False), ("inverted", 1 - ball, True),
                               ("corners", np.fft.ifftshift(ball), True), ("all", np.ones_like(ball), False)):
        write_map(tmp_path / "mask.mrc", mask, PIXEL, overwrite=True)
        assert bool(told("--mask", tmp_path / "mask.mrc")) == warned, name
    assert "of --diameter 20 Å" in told("--diameter", 20)[0] and not told("--diameter", 90) and not told()


# directions


def half_maps(missing, seed, noise=1.0, box=40):
    """Two half maps of a phantom with noise, which is all there is within `missing` degrees of the z axis."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:box, :box, :box] - box // 2
    blobs = rng.uniform(-box / 6, box / 6, (40, 3))
    volume = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 3) for a, b, c in blobs)
    k = np.stack(np.meshgrid(*[scipy.fft.fftfreq(box)] * 3, indexing="ij"))
    radius = np.sqrt((k**2).sum(axis=0))
    wedge = np.abs(k[0]) > np.cos(np.radians(missing)) * np.maximum(radius, 1e-9)
    wedge &= radius > 1.5 / box
    kept = scipy.fft.ifftn(np.where(wedge, 0, scipy.fft.fftn(volume))).real
    sigma = noise * kept.std()
    return [kept + sigma * rng.standard_normal(volume.shape) for _ in range(2)]


def cones_of(missing, seed, noise=1.0):
    mask = masks.soft_sphere(40, 14, 4)
    return conical_fsc(*half_maps(missing, seed, noise), 3.0, mask).as_dict()


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0, 10.0, 20.0])
def test_isotropic_maps_are_not_called_anisotropic_however_noisy(noise):
    for seed in range(3):
        cones = cones_of(0, seed, noise)
        assert anisotropy_warning(cones) is None, cones["area_ratio"]


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_a_missing_cone_is_reported_with_the_directions(noise):
    for seed in range(2):
        cones = cones_of(40, seed, noise)
        text = anisotropy_warning(cones)
        assert text and f"{cones['worst']:.1f} Å along the worst" in text and f"{cones['area_ratio']:.2f}" in text
        assert abs(cones["worst_direction"][2]) > np.cos(np.radians(40))  # along z


def test_the_ratio_of_areas_is_that_of_curves_up_to_the_resolution():
    found = conical_fsc(*half_maps(30, 1), 3.0, masks.soft_sphere(40, 14, 4))
    last = round(40 * 3.0 / float(np.median(found.resolution)))
    area = np.array([sum(max(0.0, min(1.0, v)) for v in curve[1 : last + 1]) for curve in found.curves])
    assert found.area_ratio == pytest.approx(area.min() / area.max()) and 0 < found.area_ratio < 0.6
    # of maps that are alike in all directions, the worst of some hundred lies two to four standard deviations below the
    # median
    assert all(0.2 < conical_fsc(*half_maps(0, seed, 2.0), 3.0, masks.soft_sphere(40, 14, 4)).unevenness < 4.5
               for seed in range(3))
    # runs of before: not known
    assert anisotropy_warning(None) is None and anisotropy_warning({"sphericity": 0.1}) is None


# masks


def test_masks_without_a_soft_edge_are_reported():
    ball = masks.soft_sphere(32, 9.3, 0)
    for edge in (2.5, 3, 5, 8):
        assert hard_mask_warning(masks.soft_sphere(32, 9.3, edge), "m.mrc") is None, edge
    assert "m.mrc has a hard edge" in hard_mask_warning(ball, "m.mrc")
    assert hard_mask_warning(0.5 * ball, "m.mrc") and hard_mask_warning(np.clip(ball, 0.02, 1), "m.mrc")  # not 0 and 1
    assert hard_mask_warning(np.ones((8, 8, 8)), "m.mrc") is None  # no edge at all
    odd = masks.soft_sphere(32, 9.3, 5)
    odd[16, 16, 16] = 0  # a hole of a voxel is no hard edge
    assert hard_mask_warning(odd, "m.mrc") is None


def test_what_a_tight_mask_makes_at_the_resolution_is_reported():
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((40, 40, 40)).astype(np.float32) for _ in range(2))
    wide, tight = masks.soft_sphere(40, 13, 5), masks.soft_sphere(40, 2.5, 0)
    at = {name: phase_randomised_fsc(a, b, mask, draws=4).at(8.5) for name, mask in (("wide", wide), ("tight", tight))}
    assert tight_mask_warning(at["wide"], "m.mrc") is None and "m.mrc is tight" in tight_mask_warning(at["tight"],
                                                                                                      "m.mrc")
    found = phase_randomised_fsc(a, b, wide)
    assert found.at(None) == found.randomised[-1] and found.at(7.5) == pytest.approx(found.randomised[7:9].mean())
    assert found.at(found.shell + 2) is None  # where phases are hardly random yet, the curve is the maps' own
    assert tight_mask_warning(None, "m.mrc") is None
    assert "agree in it by 0.31 at the resolution" in tight_mask_warning(0.31, "m.mrc")


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("warnings") / "p.h5", "--particles", 400, "--snr", 0.3)


def test_a_clean_set_has_nothing_to_warn_of_and_a_hard_mask_has(particles, tmp_path, capsys):
    plain = reconstruct(particles, tmp_path / "plain")
    assert plain["warnings"] == [] and capsys.readouterr().err == ""
    assert "No warnings." in (tmp_path / "plain" / "report.html").read_text(encoding="utf-8")
    write_map(tmp_path / "hard.mrc", masks.soft_sphere(BOX, 9, 0), PIXEL, overwrite=False)
    hard = reconstruct(particles, tmp_path / "hard", "--mask", tmp_path / "hard.mrc")
    told = capsys.readouterr().err
    assert any("hard.mrc has a hard edge" in text for text in hard["warnings"]) and "hard.mrc has a hard edge" in told
    page = (tmp_path / "hard" / "report.html").read_text(encoding="utf-8")
    assert "hard.mrc has a hard edge" in page and "No warnings." not in page


def test_few_particles_are_reported():
    assert few_particles_warning((100, 100)) is None
    assert "half sets of 10 and 7 particles are small" in few_particles_warning((10, 7))
    assert few_particles_warning((5000, 99))


@pytest.mark.parametrize("mask", ["hard", "soft"])
def test_commands_that_take_a_mask_report_hard_ones(mask, particles, tmp_path, capsys):
    out = tmp_path / "run"
    reconstruct(particles, out, "--no-postprocess")
    write_map(tmp_path / "m.mrc", masks.soft_sphere(BOX, 8, 4 * (mask == "soft")), PIXEL, overwrite=False)
    capsys.readouterr()
    halves = [str(out / "half1.mrc"), str(out / "half2.mrc")]
    assert run(["fsc", *halves, "--mask", str(tmp_path / "m.mrc")]) == 0
    first = capsys.readouterr().err
    assert run(["postprocess", *halves, "--mask", str(tmp_path / "m.mrc"), "-o", str(tmp_path / "post"), "--json"]) == 0
    second = capsys.readouterr().err
    assert ("hard edge" in first) == ("hard edge" in second) == (mask == "hard")


# selections


MIXTURE = {"keep": 0.8, "keep_interval": [0.7, 0.9], "separable": True, "separation": 5.0}
BLIND = {**MIXTURE, "separable": False, "separation": 1.36}


def selection(**changed):
    given = {"particles": 1000, "kept": 780, "scored": 1000, "kept_fraction": 0.78, "decided": MIXTURE, "last": MIXTURE}
    return ScoredSelection(**{**given, **changed})


def test_a_selection_that_agrees_with_its_estimate_is_not_warned_of():
    assert selection().warnings() == [] and selection(decided=None, last=None).warnings() == []
    narrow = {**MIXTURE, "keep": 0.79, "keep_interval": [0.785, 0.795]}
    assert selection(last=narrow).warnings() == []  # a percent off, in a set so large that the interval is narrower


def test_particles_that_cannot_be_distinguished_are_reported_with_the_remedy():
    (text,) = selection(kept=1000, kept_fraction=1.0, decided=BLIND, last=BLIND).warnings()
    assert "are not separable (1.4 standard deviations; 2.5 are required): all 1,000 were kept" in text
    assert "the map of --loss l2" in text and "--group-by with the column" in text
    family = Family("rlnTomoParticleName", 40, 36)
    (text,) = selection(kept=1000, kept_fraction=1.0, decided=BLIND, last=MIXTURE, family=family).warnings()
    assert "Try --group-by rlnTomoParticleName" in text and "40 particles of about 36 rows" in text
    (text,) = selection(kept=1000, decided=BLIND, last=BLIND, group_by="rlnTomoParticleName").warnings()
    assert "--group-by" not in text and "--diameter" in text
    (text,) = selection(unscored=True, last=MIXTURE, decided=None).warnings()
    assert "no particle was scored" in text and "--iterations 2" in text


def test_a_kept_fraction_outside_of_the_estimate_is_reported():
    (text,) = selection(kept=620, kept_fraction=0.62).warnings()
    assert "62.0 % of the particles were kept" in text
    assert "80.0 % (70.0–90.0 %): probably correct particles were rejected" in text
    (text,) = selection(kept=950, kept_fraction=0.95, group_by="name").warnings()
    assert "95.0 % of the groups of name" in text and "incorrect particles were kept" in text
    (text,) = selection(kept=620, kept_fraction=0.62, by_number=True).warnings()
    assert "As many were kept as the estimate" in text and "0.5 or more" not in text
    told = selection(last=BLIND, kept_fraction=0.78).warnings()
    assert len(told) == 1 and "are no longer separable" in told[0]


def test_where_poses_are_searched_the_kept_fraction_is_said_to_be_of_given_ones(tmp_path, capsys):
    """It was called that of the particles, beside another one in the last line."""
    (text,) = selection(kept=620, kept_fraction=0.62, kept_anywhere=0.98).warnings()
    assert "62.0 % of the particles were kept at their given poses (with those at found ones 98.0 % of all" in text
    assert "probably correct given poses were rejected. The given poses were kept whose probability" in text


def test_what_is_kept_at_given_poses_is_what_the_particle_table_says(tmp_path, capsys):
    """The warning's fractions are those of a run whose last line says another one."""
    path = tmp_path / "p.h5"
    assert run(f"simulate --phantom --particles 400 --box 32 --pixel-size 8 --snr 0.5 --error-rate 0.25 --seed 3 -q -o "
               f"{path}".split()) == 0
    summary = reconstruct(path, tmp_path / "out", "--loss", "posterior", "--poses", "rescue", "--symmetry", "C2",
                          "--iterations", 4, "--search-offset", 0)
    last, before = summary["iterations"][-1], summary["iterations"][-2]
    with h5py.File(tmp_path / "out" / "particles.h5") as file:
        state, kept = file["pose_state"][:], file["kept"][:]
    assert before["search"]["found"] > 100 and last["kept"] == kept.sum() == (state < 3).sum()
    (text,) = [text for text in summary["warnings"] if "outside the interval of the estimated" in text]
    assert text.startswith(f"{100 * (state == 0).mean():.1f} % of the particles were kept at their given poses (with "
                           f"those at found ones {100 * kept.mean():.1f} % of all particles)")


def test_groups_that_are_found_nowhere_are_not_said_to_be_left_out():
    """Rejected rows have the rest of their probability for a weight."""
    facts = {"searched": 40, "found": 0, "control": {"searched": 40, "came_back": 39},
             "groups": {"searched": 4, "accepted": 0}}
    (text,) = warnings_of(facts, Config(loss="posterior", poses="rescue"))
    assert "none of 4 groups" in text and "left out" not in text
    assert "rejected at their given poses, where they count by the weight that is left to them" in text


def test_an_interval_of_few_particles_is_not_called_one_of_95_percent():
    assert interval_in_words(MIXTURE, 100) == "95 %: 70.0–90.0 %" == interval_in_words(MIXTURE, None)
    assert interval_in_words(MIXTURE, 40) == "roughly 70.0–90.0 %, from 40 particles only"


@pytest.mark.parametrize("options", [("posterior",), ("sorted", "--keep", "auto")])
def test_a_run_that_distinguishes_nothing_says_so_in_every_place(options, tmp_path, capsys):
    path = simulate(tmp_path / "p.h5", "--particles", 300, "--snr", 0.001, "--error-rate", 0.3)
    summary = reconstruct(path, tmp_path / "out", "--loss", *options)
    assert summary["kept"] == 300 and not summary["iterations"][-1]["mixture"]["separable"]
    told = [text for text in summary["warnings"] if "are not separable" in text]
    assert len(told) == 1 and told[0] in capsys.readouterr().err
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert told[0][1:] in page and "not known" in page and "are not separable" in verdict(summary)
    assert page.count("Histogram of score") == page.count("Histogram of distance") == 1 or summary["detection"]


def test_one_iteration_of_a_robust_loss_weighs_all_alike(particles, tmp_path):
    for options in (("posterior",), ("sorted", "--keep", 0.7), ("tukey",)):
        summary = reconstruct(particles, tmp_path / "-".join(map(str, options)), "--loss", *options, "--iterations", 1)
        assert [text for text in summary["warnings"] if "no particle was scored" in text], options


class Table:
    """Stands for a particle file with an imported table."""

    def __init__(self, **columns):
        self.columns = columns

    def source_column(self, name):
        from mpirecon.errors import UserError

        if name not in self.columns:
            raise UserError("no such column")
        return np.array(self.columns[name], object)


def test_the_column_of_families_is_found():
    tilts = [f"{t}" for t in range(10)] * 4
    names = np.repeat(["a", "b", "c", "d"], 10)
    assert family_column(Table(rlnTomoParticleName=names)) == Family("rlnTomoParticleName", 4, 10)
    assert family_column(Table(rlnGroupName=names, rlnMicrographName=tilts)) == Family("rlnGroupName", 4, 10)
    # groups of a micrograph's particles
    assert family_column(Table(rlnGroupName=names, rlnMicrographName=names)) is None
    assert family_column(Table(rlnTomoParticleName=np.arange(40))) is None  # one row each
    assert family_column(Table(rlnTomoParticleName=["a"] * 40)) is None and family_column(Table()) is None


def test_tilt_series_are_recommended_their_column(shared_data, tmp_path):
    table = shared_data / "ribo70s_real" / "particles.star"
    assert run(["import", str(table), "-o", str(tmp_path / "p.h5"), "-q"]) == 0
    with ParticleFile(tmp_path / "p.h5") as file:
        assert family_column(file) == Family("rlnTomoParticleName", 40, 36)


# losses


@pytest.mark.parametrize("premultiplied", [False, True])
@pytest.mark.parametrize("loss", ["l2", "sorted --keep 0.7", "l1", "huber", "tukey", "posterior", "l2 --distance raw"])
def test_one_is_the_loss_that_a_map_of_nothing_leaves(loss, premultiplied, tmp_path):
    """The images multiplied by any number, with noise that differs between them: noise alone leaves 1 or little
    less."""
    path = simulate(tmp_path / "p.h5", "--particles", 240, "--snr", 0.2, "--noise-cv", 0.4,
                    *["--ctf-premultiply"] * premultiplied)
    noise = tmp_path / "noise.h5"
    noise.write_bytes(path.read_bytes())
    with h5py.File(noise, "r+") as file:
        images = file["images"][...]
        np.random.default_rng(1).shuffle(images)  # no pose is right
        file["images"][...] = images * 1000
    # of four: the first, without weights, those in between, and the last, that makes the map
    few = [] if loss.startswith("l2") else ["--iterations", 4]
    for name, source in (("signal", path), ("noise", noise)):
        options = ["--loss", *loss.split(), *few, "--no-postprocess"]
        for record in reconstruct(source, tmp_path / name, *options)["iterations"]:
            held_out = record["loss_heldout"], record["loss_l2_heldout"]
            if name == "signal":
                assert record["loss"] < held_out[0] < 0.99 and record["loss_l2"] < held_out[1] < 0.99
            else:
                assert all(0.97 < value < 1.03 for value in held_out)
            assert record["loss_of_nothing"] > 0 and record["loss_l2_of_nothing"] > 0


def test_a_bfactor_that_no_map_has_is_reported():
    def summary(b):
        return {"postprocess": {"guinier": {"bfactor": b, "used": [9.6, 6.5]}}}

    assert (bfactor_caution(summary(-120.0)) is None and bfactor_caution(summary(None)) is None
            and bfactor_caution({}) is None)
    assert "−459 Å²" in bfactor_caution(summary(-459.2)) and "30 Å²" in bfactor_caution(summary(30.0))


def test_the_mask_is_read_as_it_was_written(tmp_path):
    write_map(tmp_path / "m.mrc", masks.soft_sphere(16, 5, 0), 2.0, overwrite=False)
    assert hard_mask_warning(read_map(tmp_path / "m.mrc").array, "m.mrc")


# curvature of the Ewald sphere


def test_the_limit_is_where_flat_slices_of_a_ball_agree_by_an_fsc_of_095():
    """J0(πλ|q|²ρ) is what flat slices leave of density at the distance ρ from the axis along q: drawn, not
    integrated."""
    diameter, voltage = 300.0, 200.0
    points = np.random.default_rng(1).standard_normal((400_000, 3))
    points *= (diameter / 2 * np.random.default_rng(2).random(len(points)) ** (1 / 3) / np.linalg.norm(points,
                                                                                                       axis=1))[:, None]
    at = curvature_resolution(diameter, voltage)
    left = j0(np.pi * electron_wavelength(voltage) / at**2 * np.hypot(points[:, 0], points[:, 1]))
    assert left.mean() / np.sqrt((left**2).mean()) == pytest.approx(0.95, abs=1e-3)
    assert curvature_resolution(2 * diameter, voltage) == pytest.approx(at * 2**0.5)


def test_the_report_names_the_limit_and_a_finer_map_warns(tmp_path):
    assert run(f"simulate --phantom --particles 60 --box 24 --pixel-size 3 --snr inf -q -o "
               f"{tmp_path / 'p.h5'}".split()) == 0
    summary = reconstruct(tmp_path / "p.h5", tmp_path / "out")
    # λ·D/d² = 1.287 with 0.6 of 72 Å at 300 kV
    assert summary["ewald_sphere"]["resolution"] == pytest.approx(np.sqrt(0.0196875 * 43.2 / 1.287), rel=1e-4)
    page = html.unescape((tmp_path / "out" / "report.html").read_text())
    line = "the curvature of the Ewald sphere matters beyond 0.81 Å for a particle of 43 Å at 300 kV"
    assert page.count(line) == 1 and not any("Ewald" in text for text in summary["warnings"])
    finer = summary | {"resolution_0143": 0.8}
    assert (f"reaches 0.80 Å, and {line}" in curvature_warning(finer)
            and "relion_reconstruct --ewald" in curvature_warning(finer))
    assert curvature_warning(summary | {"resolution_0143": None, "nyquist": 0.82}) is None
