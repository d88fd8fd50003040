"""Masks, FSC corrected for them, cones and B-factor: against known maps, and against relion_postprocess."""

import json
import re
import shutil
import subprocess

import mrcfile
import numpy as np
import pandas as pd
import pytest
import scipy.fft

import mpirecon as mr
from mpirecon.cli import run
from mpirecon.errors import UserError
from mpirecon.io.mrc import read_map, write_map
from mpirecon.io.star import write_star
from mpirecon.validate import automask
from mpirecon.validate.automask import automatic_mask
from mpirecon.validate.directional import conical_fsc, sphericity
from mpirecon.validate.fsc import crossing, fsc, shell_index, shell_sum
from mpirecon.validate.guinier import guinier, sharpen_transform
from mpirecon.validate.masks import radius_grid, soft_sphere
from mpirecon.validate.postprocess import postprocess
from mpirecon.validate.randomised import phase_randomised_fsc, randomise_phases

BOX, PIXEL = 64, 1.5


def blob(box=BOX, seed=0):
    """A lumpy particle in the middle of the box, and where it is (bool)."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:box, :box, :box] - box // 2
    inside = (x / 1.3) ** 2 + (y - 2) ** 2 + (z * 1.2) ** 2 < (box / 5) ** 2
    return np.float32(inside * (1 + 0.7 * rng.standard_normal(inside.shape))), inside


def fall_off(volume, bfactor, pixel_size=PIXEL):
    """Amplitudes times exp(−B k²/4)."""
    k = shell_index(volume.shape[0]) / (volume.shape[0] * pixel_size)
    f = scipy.fft.rfftn(volume) * np.exp(-bfactor * k**2 / 4)
    return scipy.fft.irfftn(f, s=volume.shape).astype(np.float32)


def halves(volume, noise, seed=1):
    rng = np.random.default_rng(seed)
    return [volume + np.float32(noise) * rng.standard_normal(volume.shape, np.float32) for _ in range(2)]


# masks


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_the_automatic_mask_is_around_the_particle(noise):
    volume, inside = blob()
    mask = automatic_mask(volume + noise * halves(np.zeros_like(volume), 1)[0], PIXEL, 8.0).mask
    assert mask.dtype == np.float32 and mask.min() == 0 and mask.max() == 1
    assert mask[inside].mean() > 0.99
    assert mask.sum() < 4 * inside.sum() and mask[0].max() == mask[:, 0].max() == mask[..., 0].max() == 0
    assert 0.02 < ((mask > 0.01) & (mask < 0.99)).mean()  # soft


def test_a_particle_in_two_pieces_keeps_both_and_dust_goes():
    volume = np.zeros((BOX,) * 3, np.float32)
    volume[28:36, 28:36, 14:24] = volume[28:36, 28:36, 40:50] = 1
    volume[32, 10, 32] = 3
    made = automatic_mask(volume, PIXEL, 5.0)
    assert made.pieces == 2 and made.mask[32, 32, 18] == made.mask[32, 32, 45] == 1 and made.mask[32, 10, 32] == 0


def test_a_mask_made_on_fewer_voxels_is_the_same(monkeypatch):
    volume = halves(blob(96)[0], 0.3)[0]
    fine = automatic_mask(volume, PIXEL, 8.0).mask
    monkeypatch.setattr(automask, "COARSEST", 48)
    coarse = automatic_mask(volume, PIXEL, 8.0).mask
    assert coarse.shape == fine.shape and np.abs(coarse - fine).mean() < 0.01
    assert not np.array_equal(coarse, fine)  # it was made on fewer


def test_noise_has_no_mask():
    for seed in range(3):
        with pytest.raises(UserError, match="stands out"):
            automatic_mask(np.random.default_rng(seed).standard_normal((32,) * 3, np.float32), PIXEL, 10.0)


# phase-randomised FSC


def test_random_phases_keep_amplitudes_and_the_low_shells():
    volume = blob()[0]
    changed = randomise_phases(volume, 8, np.random.default_rng(0))
    before, after = scipy.fft.rfftn(volume), scipy.fft.rfftn(changed)
    np.testing.assert_allclose(np.abs(after), np.abs(before), atol=2e-2)
    low = shell_index(BOX) < 8
    np.testing.assert_allclose(after[low], before[low], atol=2e-2)
    assert abs(fsc(volume, changed)[10:30].mean()) < 0.02


def test_the_correlation_that_a_tight_mask_makes_of_noise_is_taken_off():
    volume, _ = blob()
    low = fall_off(volume, 3000)  # hardly anything beyond 12 Å
    a, b = halves(low, 0.2)
    tight = soft_sphere(BOX, 8, 2)
    found = phase_randomised_fsc(a, b, tight)
    noise = slice(22, 32)  # finer than 4.4 Å there is noise alone
    assert np.abs(found.true[noise]).mean() < 0.06 and abs(found.true[noise].mean()) < 0.03
    assert np.abs(fsc(low, low * 0 + a, tight)[2] - 1) < 0.1  # the mask holds signal at low resolution
    # structure beyond the randomisation survives the correction
    a, b = halves(fall_off(volume, 100), 0.2)
    found = phase_randomised_fsc(a, b, soft_sphere(BOX, 16, 6))
    assert found.shell > 3 and found.true[found.shell + 3] > 0.7


def test_a_sharp_mask_correlates_noise_and_the_correction_sees_it():
    volume, inside = blob()
    a, b = halves(np.float32(inside * 2.0), 0.3)
    found = phase_randomised_fsc(a, b, inside.astype(np.float32))
    beyond = slice(found.shell + 3, BOX // 2)
    assert found.masked[beyond].mean() > 0.15  # no structure but the outline there, and what the mask makes of it
    assert found.randomised[beyond].mean() > 0.5 * found.masked[beyond].mean()


# cones


def test_isotropic_maps_have_a_ball():
    ball = np.random.default_rng(5).standard_normal((BOX,) * 3, np.float32) * soft_sphere(BOX, 20, 6)
    a, b = halves(fall_off(ball, 200), 0.1)
    found = conical_fsc(a, b, PIXEL)
    at = crossing(fsc(a, b), 0.143, BOX, PIXEL)
    assert found.sphericity > 0.94 and abs(np.median(found.resolution) / at - 1) < 0.03
    assert found.resolution.std() < 0.05 * at


def test_a_direction_without_signal_is_found():
    volume = blob()[0]
    k = np.stack(np.meshgrid(*[np.fft.fftfreq(BOX)] * 2, np.fft.rfftfreq(BOX), indexing="ij"))
    along_z = np.abs(k[0]) / np.maximum(np.linalg.norm(k, axis=0), 1e-9)
    f = scipy.fft.rfftn(volume) * (1 - 0.95 * (along_z > np.cos(np.radians(40))) * (shell_index(BOX) > 8))
    a, b = halves(scipy.fft.irfftn(f, s=volume.shape).astype(np.float32), 0.15)
    found = conical_fsc(a, b, PIXEL)
    worst = found.direction[found.resolution.argmax()]
    assert abs(worst[2]) > np.cos(np.radians(30))
    assert found.resolution.max() > 1.5 * found.resolution.min() and found.sphericity < 0.9


def test_sphericity_of_known_bodies():
    from mpirecon.validate.coverage import bin_centres, view_bins

    top, rings = view_bins(300)
    directions = bin_centres(top, rings)
    assert sphericity(directions, rings, np.ones(len(directions))) == 1.0
    # an ellipsoid of half axes 1, 1, 2: area 21.479, volume 8π/3 (Wadell's formula gives 0.9288)
    radius = 1 / np.sqrt(directions[:, 0] ** 2 + directions[:, 1] ** 2 + directions[:, 2] ** 2 / 4)
    assert abs(sphericity(directions, rings, radius) - 0.9288) < 0.01


# B-factor


def test_the_bfactor_of_a_map_that_was_blurred():
    rng = np.random.default_rng(3)
    flat = rng.standard_normal((BOX,) * 3).astype(np.float32)  # a flat spectrum
    blurred = fall_off(flat, 150)
    curve = np.ones(BOX // 2 + 1)
    found = guinier(blurred, PIXEL, curve, None)
    assert abs(found.bfactor + 150) < 5 and found.used[0] <= 10 and found.note is None
    back = sharpen_transform(scipy.fft.rfftn(blurred), PIXEL, curve, found.bfactor, None)
    assert abs(guinier(back, PIXEL, curve, None).bfactor) < 5
    np.testing.assert_allclose(fsc(back, flat)[1:], 1, atol=1e-3)


def test_no_bfactor_without_resolution():
    curve = np.ones(BOX // 2 + 1)
    found = guinier(blob()[0], PIXEL, curve, 12.0)
    assert found.bfactor is None and "12.0 Å" in found.note
    assert "shells" in guinier(blob(24)[0], 3.0, np.ones(13), 8.0).note


# relion_postprocess


@pytest.fixture(scope="module")
def relion(tmp_path_factory, shared_data):
    """Half maps of haemoglobin with noise and a B-factor, a mask, and what relion_postprocess says of them."""
    if shutil.which("relion_postprocess") is None:
        pytest.skip("needs relion_postprocess: apt-get install relion")
    folder = tmp_path_factory.mktemp("relion")
    truth = read_map(shared_data / "maps" / "emd_3488.mrc")
    volume = fall_off(np.asarray(truth.array, np.float32), 100, truth.pixel_size)
    a, b = halves(volume, volume.std())
    mask = automatic_mask((a + b) / 2, truth.pixel_size, 3.4).mask
    for name, array in (("h1", a), ("h2", b), ("mask", mask)):
        write_map(folder / f"{name}.mrc", array, truth.pixel_size, overwrite=True)
    at = crossing(phase_randomised_fsc(a, b, mask).true, 0.143, truth.box, truth.pixel_size)
    found = []
    for seed in range(6):
        done = subprocess.run(
            ["relion_postprocess", "--i", "h1.mrc", "--i2", "h2.mrc", "--mask", "mask.mrc", "--auto_bfac",
             "--random_seed",
             f"{seed}", "--autob_highres", f"{at}", "--angpix", f"{truth.pixel_size}", "--o", f"pp{seed}"],
            cwd=folder, capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert (folder / f"pp{seed}.star").is_file(), done.stdout + done.stderr
        found.append((folder / f"pp{seed}.star").read_text())
    return folder, a, b, mask, truth.pixel_size, found


def table(star: str) -> dict[str, np.ndarray]:
    """The columns of data_fsc."""
    block = star.split("data_fsc")[1].split("data_")[0]
    labels = re.findall(r"^_rln(\w+)", block, flags=re.MULTILINE)
    rows = [line.split() for line in block.splitlines() if len(line.split()) == len(labels)]
    return dict(zip(labels, np.array(rows, float).T))


def test_curves_agree_with_relion_postprocess(relion):
    """RELION draws random phases once, which scatters its curve by 0.02 in the worst shell:
    its mean over seeds is taken."""
    _, a, b, mask, _, stars = relion
    tables, ours = [table(star) for star in stars], phase_randomised_fsc(a, b, mask, draws=8)
    theirs = {label: np.mean([t[label] for t in tables], axis=0) for label in tables[0]}
    for label, curve in (("UnmaskedMaps", ours.unmasked), ("MaskedMaps", ours.masked)):
        assert np.abs(theirs[f"FourierShellCorrelation{label}"] - curve)[1:].max() < 0.005
    randomised = theirs["CorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"]
    assert np.abs(randomised - ours.randomised)[1:].max() < 0.02
    difference = theirs["FourierShellCorrelationCorrected"] - ours.true
    assert np.abs(difference)[1:].max() < 0.02 and np.sqrt(np.mean(difference[1:] ** 2)) < 0.006
    assert float(re.search(r"rlnRandomiseFrom\s+(\S+)", stars[0])[1]) == pytest.approx(
        len(mask) * read_map(relion[0] / "mask.mrc").pixel_size / ours.shell, rel=1e-3)


def test_the_bfactor_agrees_with_relion_postprocess(relion, shared_data):
    _, a, b, mask, pixel_size, stars = relion
    true = phase_randomised_fsc(a, b, mask).true
    theirs = float(re.search(r"rlnBfactorUsedForSharpening\s+(\S+)", stars[0])[1])
    at = crossing(true, 0.143, len(a), pixel_size)
    # RELION fits the unmasked map, whose solvent noise hides part of the fall; ours is that of the masked one
    bare, masked = (guinier((a + b) / 2 * m, pixel_size, true, at).bfactor for m in (1, mask))
    clean = np.asarray(read_map(shared_data / "maps" / "emd_3488.mrc").array, np.float32)
    known = guinier(fall_off(clean, 100, pixel_size), pixel_size, true, at).bfactor
    print(f"B-factors: RELION {theirs:.1f}, here unmasked {bare:.1f}, masked {masked:.1f}, without noise {known:.1f} "
          f"Å²")
    assert bare == pytest.approx(theirs, rel=0.05)
    assert abs(masked - known) < abs(bare - known)


# the commands


def command(capsys, *words):
    code = run([str(w) for w in words])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_fsc_and_mask_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a, b = halves(fall_off(blob(48)[0], 100), 0.2)
    for name, array in (("a", a), ("b", b)):
        write_map(f"{name}.mrc", array, PIXEL, overwrite=True)
    code, out, _ = command(capsys, "mask", "a.mrc", "--half", "b.mrc", "-o", "m.mrc")
    assert code == 0 and "wrote m.mrc" in out and "soft edge" in out
    assert command(capsys, "mask", "a.mrc", "-o", "m.mrc")[0] == 1  # exists
    words = ["fsc", "a.mrc", "b.mrc", "--phase-randomise", "--cones", "--csv", "f.csv", "--json"]
    code, out, _ = command(capsys, *words, "--mask", "m.mrc")
    by_file = json.loads(out)
    code, out, _ = command(capsys, *words, "--mask", "auto", "--overwrite")
    assert code == 0
    by_itself = json.loads(out)
    np.testing.assert_allclose(by_file["fsc_true"], by_itself["fsc_true"], atol=1e-5)
    assert by_itself["mask"].startswith("automatic") and 0.5 < by_itself["cones"]["sphericity"] <= 1
    assert open("f.csv").readline() == "shell,resolution,fsc,fsc_masked,fsc_randomised,fsc_true\n"
    code, out, _ = command(capsys, "fsc", "a.mrc", "b.mrc", "--mask", "auto", "--phase-randomise", "--cones")
    assert "corrected for the mask: FSC 0.5 at" in out and "sphericity" in out
    code, _, err = command(capsys, "fsc", "a.mrc", "b.mrc", "--phase-randomise")
    assert code == 1 and "--mask auto" in err
    write_map("noise.mrc", np.random.default_rng(0).standard_normal((48,) * 3, np.float32), PIXEL, overwrite=True)
    code, _, err = command(capsys, "mask", "noise.mrc", "-o", "n.mrc")
    assert code == 1 and "stands out" in err and not (tmp_path / "n.mrc").exists()


def test_reconstruct_reports_which_mask_its_resolution_is_of(tmp_path, cli):
    assert cli("simulate", "--phantom", "--particles", 300, "--box", 32, "--pixel-size", 4, "--snr", 0.5,
               "-o", tmp_path / "p.h5").returncode == 0  # fmt: skip
    runs = {}
    for name, words in {"sphere": [], "auto": ["--mask", "auto"], "none": ["--no-postprocess"]}.items():
        result = cli("reconstruct", tmp_path / "p.h5", "-o", tmp_path / name, *words)
        assert result.returncode == 0, result.stderr
        runs[name] = json.loads((tmp_path / name / "summary.json").read_text())
    assert (runs["sphere"]["resolution_of"]["mask"].startswith("sphere of")
            and not runs["sphere"]["resolution_of"]["corrected"])
    assert runs["auto"]["resolution_of"]["mask"].startswith("automatic") and runs["auto"]["resolution_of"]["corrected"]
    assert runs["auto"]["resolution_0143"] == runs["sphere"]["postprocess"]["resolution_0143"]
    assert runs["none"]["postprocess"] is None and runs["none"]["resolution_0143"] == runs["sphere"]["resolution_0143"]
    assert not (tmp_path / "none" / "mask.mrc").exists()
    mask = np.asarray(read_map(tmp_path / "auto" / "mask.mrc").array)
    assert not np.asarray(read_map(tmp_path / "auto" / "volume.mrc").array)[mask == 0].any()
    half = np.asarray(read_map(tmp_path / "auto" / "half1.mrc").array)
    assert half[(mask == 0) & (radius_grid(32) < 15)].any()  # half maps stay unmasked
    assert cli("reconstruct", tmp_path / "p.h5", "-o", tmp_path / "no", "--mask", "auto",
               "--no-postprocess").returncode == 1


def test_the_postprocess_command_writes_what_reconstruct_does(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a, b = halves(fall_off(blob(48)[0], 100), 0.2)
    for name, array in (("a", a), ("b", b)):
        write_map(f"{name}.mrc", array, PIXEL, overwrite=True)
    code, out, _ = command(capsys, "postprocess", "a.mrc", "b.mrc", "-o", "post")
    assert (code == 0 and "corrected for the mask: FSC 0.5 at" in out and "B-factor" in out
            and "sharpened_masked.mrc" in out)
    told = json.load(open("post/postprocess.json"))
    bare = postprocess(a, b, PIXEL, unmasked=fsc(a, b))
    assert (told["bfactor"] == pytest.approx(bare.guinier.bfactor)
            and told["resolution_0143"] == pytest.approx(bare.resolution))
    sharpened, mask = (np.asarray(read_map(f"post/{n}.mrc").array) for n in ("sharpened", "mask"))
    np.testing.assert_allclose(sharpened, bare.sharpened, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(read_map("post/sharpened_masked.mrc").array, sharpened * mask, rtol=1e-5, atol=1e-6)
    header = open("post/fsc.csv").readline()
    assert header == "shell,resolution,fsc,fsc_masked,fsc_randomised,fsc_true\n"
    code, out, _ = command(capsys, "postprocess", "a.mrc", "b.mrc", "-o", "mine", "--mask", "post/mask.mrc",
                           "--bfactor", "-50",
                           "--lowpass", 6, "--json")
    assert code == 0 and json.loads(out)["bfactor_given"] == -50 and json.loads(out)["mask"] == "post/mask.mrc"
    k = np.abs(scipy.fft.rfftn(np.asarray(read_map("mine/sharpened.mrc").array)))
    assert k[shell_index(48) > 48 * PIXEL / 6 + 2].max() < 1e-3 * k.max()


def test_a_pixel_size_is_that_of_maps_whose_headers_have_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arrays = halves(blob(48)[0], 0.2)
    for name, array in zip("ab", arrays):
        write_map(f"{name}.mrc", array, PIXEL, overwrite=True)
    write_map("mask.mrc", soft_sphere(48, 16, 5.0), PIXEL, overwrite=True)
    words = ["a.mrc", "b.mrc", "--mask", "mask.mrc"]
    assert command(capsys, "postprocess", *words, "-o", "right")[0] == 0
    for number, (name, cell) in enumerate({"a": (0, 0, 0), "b": (128, 72, 72), "mask": (48, 48, 48)}.items()):
        with mrcfile.open(f"{name}.mrc", "r+") as file:
            file.header.cella = cell
        code, _, err = command(capsys, "postprocess", *words, "-o", f"wrong{number}")
        assert code == 1 and "a.mrc: the header gives no pixel size" in err
    assert command(capsys, "postprocess", *words, "--pixel-size", PIXEL, "-o", "told")[0] == 0
    assert (tmp_path / "told/fsc.csv").read_text() == (tmp_path / "right/fsc.csv").read_text()
    assert mr.read_map("b.mrc", PIXEL).pixel_size == read_map("told/sharpened.mrc").pixel_size == PIXEL
    with pytest.raises(UserError, match="differs between x, y and z .* set one for all"):
        mr.read_map("b.mrc")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.mrc", "small.mrc"], "a box of 48 pixels, small.mrc 24"),
        (["a.mrc", "b.mrc", "--mask", "a.mrc"], "a.mrc: mask values run from"),
        (["a.mrc", "b.mrc", "--mtf-pixel-size", "1"], "give that with --mtf FILE"),
        (["a.mrc", "b.mrc", "--mtf", "mtf.star", "--mtf-pixel-size", "9"],
         "mtf.star ends at 0.5 .*--mtf-pixel-size, 9 Å"),
        (["a.mrc", "b.mrc", "--mtf", "bad.star"], "bad.star is no MTF"),
        (["n1.mrc", "n2.mrc"], "stands out from the solvent.*--mask FILE"),
        (["flat.mrc", "b.mrc"], "flat.mrc: the map is constant"),
        (["a.mrc", "b.mrc", "-o", "there"], "there/fsc.csv exists already"),
    ],
)
def test_what_postprocess_refuses(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)
    maps = dict(zip("ab", halves(blob(48)[0], 0.2)))
    maps |= {"small": maps["a"][:24, :24, :24], "flat": np.zeros((48,) * 3, np.float32)}
    maps |= {name: rng.standard_normal((48,) * 3, np.float32) for name in ("n1", "n2")}
    for name, array in maps.items():
        write_map(f"{name}.mrc", array, PIXEL, overwrite=True)
    write_star("mtf.star", {"": pd.DataFrame({"rlnResolutionInversePixel": ["0", "0.5"], "rlnMtfValue": ["1", "0.4"]})},
               False)
    write_star("bad.star", {"": pd.DataFrame({"rlnOther": ["0", "0.5"]})}, False)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "fsc.csv").touch()
    out = [] if "-o" in words else ["-o", "out"]
    code, _, err = command(capsys, "postprocess", *words, *out)
    assert code == 1 and re.search(message, err.replace("\n", " ")), err
    assert not (tmp_path / "out").exists()


def test_the_sharpened_map_is_that_of_relion_postprocess(relion, monkeypatch):
    """With the same B-factor, MTF, mask and end; RELION's noisier random phases weigh shells a little differently."""
    folder, a, _, mask, pixel_size, _ = relion
    monkeypatch.chdir(folder)
    at = np.linspace(0, 0.5, 501)  # as densely as curves of detectors are: RELION looks shells up
    curve = pd.DataFrame({"rlnResolutionInversePixel": at, "rlnMtfValue": 1 - 1.2 * at}).astype(str)
    write_star("mtf.star", {"": curve}, True)
    subprocess.run(["relion_postprocess", "--i", "h1.mrc", "--i2", "h2.mrc", "--mask", "mask.mrc", "--adhoc_bfac",
                    "-60", "--low_pass",
                    "4", "--angpix", f"{pixel_size}", "--mtf", "mtf.star", "--mtf_angpix", f"{pixel_size}", "--o",
                    "sharp"],
                   capture_output=True, timeout=200, stdin=subprocess.DEVNULL)  # fmt: skip
    words = ["postprocess", "h1.mrc", "h2.mrc", "--mask", "mask.mrc", "--bfactor", -60, "--lowpass", 4, "--mtf",
             "mtf.star", "-o", "ours"]
    assert run([str(word) for word in words] + ["-q", "--overwrite"]) == 0
    theirs, ours = (np.asarray(read_map(name).array) for name in ("sharp.mrc", "ours/sharpened.mrc"))
    last = int(len(a) * pixel_size / 4) - 2
    k = [np.sqrt(shell_sum(np.abs(scipy.fft.rfftn(volume)) ** 2, len(a))) for volume in (theirs, ours)]
    assert fsc(theirs, ours)[1:last].min() > 0.995  # RELION's gain changes within a shell, ours from shell to shell
    np.testing.assert_allclose(k[1][1:last] / k[0][1:last], 1, atol=0.03)


def test_one_map_as_both_half_maps_is_warned_of_by_what_it_holds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    volume = blob()[0]
    noise = np.random.default_rng(3).standard_normal((2, *volume.shape)).astype(np.float32) / 10
    for name, array in (("h1.mrc", volume + noise[0]), ("copy.mrc", volume + noise[0]), ("h2.mrc", volume + noise[1])):
        write_map(name, array, PIXEL, overwrite=False)
    said = "Warning: the two half maps are the same map"
    for other, warned in (("h1.mrc", True), ("copy.mrc", True), ("h2.mrc", False)):
        for words in (f"mask h1.mrc --half {other} -o m.mrc", f"postprocess h1.mrc {other} -o post"):
            assert run([*words.split(), "--overwrite"]) == 0
            assert capsys.readouterr().err.count(said) == warned, words
    assert run(["mask", "h1.mrc", "-o", "m.mrc", "--overwrite"]) == 0 and said not in capsys.readouterr().err


def test_half_maps_on_a_level_are_warned_of(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    volume = blob()[0]
    noise = np.random.default_rng(3).standard_normal((2, *volume.shape)).astype(np.float32) / 10
    write_map("mask.mrc", soft_sphere(len(volume), len(volume) // 4, 3), PIXEL, overwrite=False)
    for level in (0.0, 5.0):
        for name, some in zip(("h1.mrc", "h2.mrc"), noise):
            write_map(name, volume + some + np.float32(level), PIXEL, overwrite=True)
        words = "postprocess h1.mrc h2.mrc -o post --overwrite --mask".split()
        for mask, warned in (("mask.mrc", level > 0), ("none", False)):
            assert run([*words, mask]) == 0
            assert ("the maps stand on a level of" in capsys.readouterr().err) == warned, (level, mask)
