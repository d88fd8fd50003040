"""Local resolution: against a brute-force definition, maps of known resolution, noise,
and relion_postprocess --locres."""

import shutil
import subprocess

import numpy as np
import pytest
import scipy.fft

from mpirecon.io.mrc import read_map, write_map
from mpirecon.validate.automask import automatic_mask
from mpirecon.validate.fsc import fsc, shell_index, shell_sum
from mpirecon.validate.local_files import sharpening
from mpirecon.validate.local_resolution import local_resolution
from mpirecon.validate.masks import radius_grid, soft_sphere
from mpirecon.validate.randomised import randomise_phases
from mpirecon.validate.windows import WindowOptions, Windows

PIXEL = 2.0


def noise(box: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((box,) * 3, np.float32)


def below(volume: np.ndarray, resolution: float, pixel_size: float = PIXEL) -> np.ndarray:
    """What of a map is coarser than a resolution, with a sharp end."""
    keep = shell_index(len(volume)) <= len(volume) * pixel_size / resolution
    return scipy.fft.irfftn(scipy.fft.rfftn(volume) * keep, s=volume.shape).astype(np.float32)


def agreeing_to(box: int, resolution: float, seed: int = 0) -> list[np.ndarray]:
    """Two half maps of white noise that is one and the same down to a resolution, and unrelated beyond."""
    common = below(noise(box, seed), resolution)
    return [common + other - below(other, resolution) for other in (noise(box, seed + 1), noise(box, seed + 2))]


def two_regions(box: int, first: float, second: float) -> list[np.ndarray]:
    """Half maps that agree to one resolution where z is low, and to another where it is high."""
    high = 1 / (1 + np.exp(-(np.arange(box, dtype=np.float32) - box / 2)))[:, None, None]
    return [(1 - high) * a + high * b for a, b in zip(agreeing_to(box, first), agreeing_to(box, second, 10))]


# the definition


def by_definition(a, b, options: WindowOptions, seed: int) -> tuple[list, np.ndarray]:
    """Resolution of every window (centre, Å) and the map, in double precision over the whole box, voxel by voxel."""
    n = len(a)
    step, radius, edge = (
        int(np.floor(length / PIXEL + 0.5)) for length in (options.sampling, options.radius, options.edge)
    )
    shell = int(n * PIXEL / options.randomise_from)
    rng = np.random.default_rng([seed, 0x10C])
    copies = [[randomise_phases(half, shell, rng).astype(float) for _ in range(2)] for half in (a, b)]
    at = [i for i in range(0, n, step)]
    z, y, x = np.mgrid[:n, :n, :n]
    k = np.fft.fftfreq(n, 1 / n)
    shells = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int)
    found, total, weights = [], np.zeros((n,) * 3), np.zeros((n,) * 3)
    for cz, cy, cx in ((i, j, k) for i in at for j in at for k in at):
        if (cz - n // 2) ** 2 + (cy - n // 2) ** 2 + (cx - n // 2) ** 2 >= (n // 2 - radius) ** 2:
            continue
        r = np.sqrt((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2)
        w = np.where(r <= radius, 1, np.where(r >= radius + edge, 0, 0.5 + 0.5 * np.cos(np.pi * (r - radius) / edge)))
        first, second = ([transformed(p, w) for p in (half, *of)] for half, of in zip((a, b), copies))
        plain = curve(first.pop(0), second.pop(0), shells)
        random = np.mean([curve(p, q, shells) for p in first for q in second], axis=0)
        true = plain.copy()
        true[shell + 2 :] = (plain[shell + 2 :] - random[shell + 2 :]) / (1 - random[shell + 2 :])
        true[0] = 1
        s = int(np.flatnonzero(true < options.threshold)[0])
        resolution = n * PIXEL / (s - 1 + (true[s - 1] - options.threshold) / (true[s - 1] - true[s]))
        found.append(((cz, cy, cx), resolution))
        total += w / min(resolution, options.min_resolution)
        weights += w
    return found, np.divide(weights, total, out=np.zeros_like(total), where=total > 0)


def transformed(volume, w) -> np.ndarray:
    """Of a map in a window, less its mean there."""
    return np.fft.fftn(w * (volume - (w * volume).sum() / w.sum()))


def curve(fa, fb, shells) -> np.ndarray:
    """FSC by the full transforms' samples."""
    values = ((fa * fb.conj()).real, np.abs(fa) ** 2, np.abs(fb) ** 2)
    cross, pa, pb = (np.bincount(shells.ravel(), v.ravel())[: len(fa) // 2 + 1] for v in values)
    return cross / np.sqrt(np.maximum(pa * pb, 1e-300))


@pytest.mark.parametrize("box", [32, 33])
def test_every_window_is_what_the_definition_says(box):
    a, b = two_regions(box, 14.0, 8.0)
    options = WindowOptions(10.0, 8.0, 22.0, 20.0, 50.0, 0.3)
    assert Windows.of(box, PIXEL, options).size == box  # no piece of it
    found = local_resolution(a, b, PIXEL, options=options, seed=5)
    told, volume = by_definition(a, b, options, seed=5)
    assert found.centres.tolist() == [list(centre) for centre, _ in told] and len(told) > 15
    assert not np.isnan(found.resolution).any()
    np.testing.assert_allclose(found.resolution, [at for _, at in told], rtol=1e-4)
    np.testing.assert_allclose(found.map, volume, rtol=1e-4)


def test_pieces_of_the_box_give_what_the_whole_box_gives():
    """The transform of a small piece has fewer shells, between which curves are read."""
    a, b = two_regions(54, 14.0, 8.0)
    options = WindowOptions(20.0, 8.0, 14.0, 20.0, 50.0, 0.3)
    found = local_resolution(a, b, PIXEL, options=options)
    told, volume = by_definition(a, b, options, seed=1)
    assert found.windows.size < 30
    ratio = found.resolution / [at for _, at in told]
    assert abs(np.median(ratio) - 1) < 0.03 and np.percentile(np.abs(ratio - 1), 90) < 0.12
    inside = radius_grid(54) < 20
    assert np.corrcoef(found.map[inside], volume[inside])[0, 1] > 0.98


# maps of known resolution


@pytest.mark.parametrize("box", [80, 81])
def test_two_regions_have_their_resolutions(box):
    """A sharp end is blurred by the window: half of it is left at the resolution itself, and 0.143 a little beyond."""
    halves, middle, z = two_regions(box, 16.0, 8.0), radius_grid(box) < 25, np.arange(box) - box // 2
    for threshold, finer in ((0.5, 1.0), (0.143, 1 / 1.12)):
        found = local_resolution(*halves, PIXEL, options=WindowOptions(20.0, threshold=threshold))
        assert found.without == 0 and not found.warnings
        low, high = (np.median(found.map[there][middle[there]]) for there in (z < -15, z > 15))
        assert low == pytest.approx(16.0 * finer, rel=0.09) and high == pytest.approx(8.0 * finer, rel=0.09)
    profile = [np.median(found.map[i][middle[i]]) for i in range(box // 2 - 20, box // 2 + 20)]
    assert (np.diff(profile) < 0.1).all()  # from one to the other without a way back


def test_the_filtered_map_has_what_agrees_and_nothing_else():
    a, b = two_regions(80, 16.0, 8.0)
    found = local_resolution(a, b, PIXEL, options=WindowOptions(20.0))
    for at, resolution in ((-18, 16.0), (18, 8.0)):
        window = np.roll(soft_sphere(80, 6, 10), at, axis=0)
        power = np.abs(scipy.fft.rfftn(found.filtered * window)) ** 2
        whole = np.abs(scipy.fft.rfftn((a + b) / 2 * window)) ** 2
        k = 80 * PIXEL / np.maximum(shell_index(80), 1)
        kept = [
            power[band].sum() / whole[band].sum() for band in ((k > 1.3 * resolution) & (k < 100), k < resolution / 1.4)
        ]
        assert kept[0] > 0.85 and kept[1] < 0.02, (at, kept)
    a = below(noise(80, 20), 5.0)
    same = local_resolution(a, a, PIXEL)  # of what agrees everywhere nothing is taken away
    inside = radius_grid(80) < 25
    assert np.corrcoef(same.filtered[inside], a[inside])[0, 1] > 0.999


def test_the_filtered_map_ends_at_the_resolution():
    """Half maps of FSC 0.4 at all frequencies have no resolution at 0.5:
    nothing finer than the minimum resolution is left."""
    common = noise(64, 0)
    halves = [common + np.float32(1.5**0.5) * noise(64, seed) for seed in (1, 2)]
    k = 64 * PIXEL / np.maximum(shell_index(64), 1)
    left = {}
    for threshold in (0.5, 0.143):
        found = local_resolution(*halves, PIXEL, options=WindowOptions(min_resolution=40.0, threshold=threshold))
        power = np.abs(scipy.fft.rfftn(found.filtered * soft_sphere(64, 10, 16))) ** 2
        left[threshold] = power[k < 25].sum() / power.sum()
        assert np.isnan(found.resolution).mean() > 0.9 or threshold < 0.5
    assert left[0.5] < 0.1 and left[0.143] > 0.9, left


def test_the_filtered_map_is_sharpened():
    a = below(noise(64, 0), 4.5)
    gain = sharpening(64, PIXEL, -100.0)
    plain, sharp = (local_resolution(a, a, PIXEL, gain=by).filtered * soft_sphere(64, 12, 10) for by in (None, gain))
    amplitude = [np.sqrt(shell_sum(np.abs(scipy.fft.rfftn(volume)) ** 2, 64)) for volume in (plain, sharp)]
    shells = np.arange(3, 26)
    expected = np.exp(100 * (shells / (64 * PIXEL)) ** 2 / 4)
    np.testing.assert_allclose((amplitude[1] / amplitude[0])[shells], expected, rtol=0.06)


@pytest.mark.parametrize(("box", "pixel_size", "sampling"), [(32, 4.0, None), (64, 2.0, None), (65, 1.2, 15.0),
                                                             (96, 1.0, 20.0)])
def test_noise_has_no_resolution(box, pixel_size, sampling):
    for seed in range(3 if box < 96 else 1):
        found = local_resolution(noise(box, seed), noise(box, 100 + seed), pixel_size, options=WindowOptions(sampling))
        assert np.isnan(found.resolution).mean() > 0.98 and found.without > 0.9
        assert not len(found.values) or found.values[0] > 12 * pixel_size
    assert "none in the box" in found.lines()[0] or "has none" in found.lines()[0]


def test_a_common_level_of_noise_is_no_structure():
    found = local_resolution(noise(48, 0) + 100, noise(48, 1) + 100, PIXEL)
    assert np.isnan(found.resolution).all()


def test_half_maps_that_were_masked_are_warned_of():
    ball = soft_sphere(48, 12, 4)
    assert (
        "both half maps are 0 in 49 % of the sphere"
        in local_resolution((noise(48, 0) + 3) * ball, (noise(48, 1) + 3) * ball, PIXEL).warnings[0]
    )
    whole = soft_sphere(48, 21, 3)  # as reconstruct cuts them
    assert not local_resolution(noise(48, 0) * whole, noise(48, 1) * whole, PIXEL).warnings


def test_identical_half_maps_are_reported():
    a = noise(48, 0)
    found = local_resolution(a, a.copy(), PIXEL)
    assert np.unique(found.resolution) == pytest.approx([2 * PIXEL]) and "the same map" in found.warnings[0]
    assert not local_resolution(a, noise(48, 1), PIXEL).warnings


# how it is shared out


def test_a_mask_changes_nothing_inside():
    a, b = two_regions(72, 16.0, 8.0)
    mask = np.roll(soft_sphere(72, 8, 4), 10, axis=2)
    options = WindowOptions(14.0)
    whole, part = (
        local_resolution(a, b, PIXEL, options=options),
        local_resolution(a, b, PIXEL, mask=mask, options=options),
    )
    assert len(part.centres) < 0.5 * len(whole.centres)
    inside = mask > 0
    np.testing.assert_allclose(part.map[inside], whole.map[inside], rtol=1e-5)
    np.testing.assert_allclose(part.filtered[inside], (whole.filtered * mask)[inside], atol=1e-5)
    assert not part.map[~inside].any() and not part.filtered[~inside].any()


def test_threads_change_no_bit():
    a, b = two_regions(48, 16.0, 8.0)
    one, three = (local_resolution(a, b, PIXEL, threads=count) for count in (1, 3))
    assert np.array_equal(one.map, three.map) and np.array_equal(one.filtered, three.filtered)


# relion_postprocess


@pytest.fixture(scope="module")
def relion(tmp_path_factory, shared_data):
    """Half maps of haemoglobin that fades out towards low z, and what relion_postprocess --locres makes of them."""
    if shutil.which("relion_postprocess") is None:
        pytest.skip("needs relion_postprocess: apt-get install relion")
    folder = tmp_path_factory.mktemp("relion")
    truth = read_map(shared_data / "maps" / "emd_3488.mrc")
    clean, n, pixel_size = np.asarray(truth.array, np.float32), truth.box, truth.pixel_size
    k2 = (shell_index(n) / (n * pixel_size)) ** 2
    fine, coarse = (scipy.fft.irfftn(scipy.fft.rfftn(clean) * np.exp(-bfactor * k2 / 4), s=clean.shape)
                    for bfactor in (100, 300))
    high = 1 / (1 + np.exp(-(np.arange(n) - n // 2) / 4))[:, None, None]
    volume = np.float32(high * fine + (1 - high) * coarse)
    halves = [volume + np.float32(4 * volume.std()) * noise(n, seed) for seed in (1, 2)]
    for name, array in zip(("h1", "h2"), halves):
        write_map(folder / f"{name}.mrc", array, pixel_size, overwrite=True)
    done = subprocess.run(["relion_postprocess", "--i", "h1.mrc", "--i2", "h2.mrc", "--locres", "--angpix",
                           f"{pixel_size}", "--o", "r"],
                          cwd=folder, capture_output=True, text=True, timeout=200,
                          stdin=subprocess.DEVNULL)  # fmt: skip
    assert (folder / "r_locres.mrc").is_file(), done.stdout + done.stderr
    mask = automatic_mask((halves[0] + halves[1]) / 2, pixel_size, 4.0).mask
    theirs = [np.asarray(read_map(folder / f"r_{name}.mrc").array) for name in ("locres", "locres_filtered")]
    return halves, pixel_size, mask, theirs


def test_the_map_agrees_with_relion_postprocess(relion):
    """RELION tells the last shell above the threshold;
    here it is read between shells, half a shell finer on average."""
    (a, b), pixel_size, mask, (theirs, filtered) = relion
    found = local_resolution(a, b, pixel_size, threads=2)
    inside = mask >= 0.5
    assert ((found.map > 0) == (theirs > 0))[radius_grid(len(a)) < 45].all()
    ours, theirs = found.map[inside], theirs[inside]
    apart = np.median(np.abs(ours - theirs))
    likeness = np.corrcoef(ours, theirs)[0, 1], np.corrcoef(found.filtered[inside], filtered[inside])[0, 1]
    print(f"median {np.median(ours):.3f} Å, RELION {np.median(theirs):.3f} Å; median difference {apart:.3f} Å, "
          f"correlation {likeness[0]:.4f}, of the filtered maps {likeness[1]:.5f}")
    assert np.ptp(theirs) > 2.0
    shell = np.median(theirs) ** 2 / (len(a) * pixel_size)  # Å between shells there
    assert apart < shell and apart < 0.04 * np.median(theirs)
    assert likeness[0] > 0.99 and likeness[1] > 0.995
    assert fsc(found.filtered * mask, filtered * mask)[1 : int(len(a) * pixel_size / 4)].min() > 0.99
