"""What scripts get wrong of arrays, maps and simulations is one UserError: which parameter, and what it must be."""

import re

import numpy as np
import pytest
from test_python_refusals import BOX, M, SIZE, particles, refused  # noqa: F401 (a fixture)

import mpirecon as mr
from mpirecon.model import CTF_DTYPE

pytestmark = pytest.mark.in_python


@pytest.fixture(scope="module")
def parts(particles):
    """Images, poses and CTFs of ten particles."""
    about = particles.metadata(slice(0, 10))
    return particles.images(slice(0, 10)), about.pose, about.ctf


# ---------------------------------------------------------------- particles of arrays


def test_a_ctf_of_one_defocus_has_no_astigmatism():
    ctf = mr.make_ctf(2, voltage_kv=300, defocus_u=[1e4, 2e4])
    np.testing.assert_array_equal(ctf["defocus_v"], [1e4, 2e4])
    assert mr.make_ctf(1, defocus_u=1e4, defocus_v=9e3)["defocus_v"] == 9e3


@pytest.mark.parametrize("m, fields, said", [
    (2, dict(voltage=300), "no field 'voltage'; fields are voltage_kv"),
    (2, dict(voltage_kv=300_000), "particle 0: CTF voltage_kv is 300000 kV, outside 20"),
    (2, dict(defocus_u=[1e4, np.nan]), "particle 1: CTF defocus_u is nan"),
    (3, dict(defocus_u=[1e4, 2e4]), r"defocus_u has shape \(2,\) for 3 particles"),
    (2, dict(defocus_u="1e4"), "defocus_u must be an array of numbers, got str"),
    (2, dict(defocus_v=1e4), "defocus_v without defocus_u"),
    (2.5, dict(defocus_u=1e4), "m=2.5: expected a whole number"),
])  # fmt: skip
def test_ctfs_say_what_is_wrong(m, fields, said):
    refused(mr.make_ctf, said, m, **fields)


def test_fields_of_a_ctf_are_taken_by_their_names(parts):
    images, pose, ctf = parts
    turned = np.zeros(10, [(name, "f8") for name in reversed(CTF_DTYPE.names)])
    for name in CTF_DTYPE.names:
        turned[name] = ctf[name]
    made = mr.Particles(images, pose, turned, pixel_size=SIZE)
    np.testing.assert_array_equal(made.metadata().ctf, ctf)


def frame(parts):
    import pandas

    return pandas.DataFrame(parts[2])


@pytest.mark.parametrize("change, said", [
    (lambda p: dict(images=p[0][:0], pose=p[1][:0]), "0 images; at least 1"),
    (lambda p: dict(images=np.ma.masked_greater(p[0], 1)), "masked array"),
    (lambda p: dict(images=p[0] > 0), r"images.astype\('float32'\)"),
    (lambda p: dict(images=p[0].astype(complex)), r"got complex128; convert it"),
    (lambda p: dict(pose=None), "pose must be a Pose, got NoneType"),
    (lambda p: dict(pose=p[1].quaternion), "pose must be a Pose, got ndarray"),
    (lambda p: dict(ctf=frame(p)), "ctf: expected a structured array .*got DataFrame; make it by make_ctf"),
    (lambda p: dict(ctf=1.0), "ctf: expected a structured array .*got float"),
    (lambda p: dict(ctf=np.zeros((10, 9))), "ctf: expected a structured array"),
    (lambda p: dict(ctf=p[2][:9]), r"ctf: its shape is \(9,\) for 10 images"),
    (lambda p: dict(half="A"), "half must be 10 whole numbers"),
    (lambda p: dict(half=1), "half must be 10 whole numbers"),
    (lambda p: dict(half=[1.5] * 10), "half must be 10 whole numbers"),
    (lambda p: dict(half=[1] * 9 + [3]), "half of particle 9 is 3"),
    (lambda p: dict(optics_group="A"), "optics_group must be 10 whole numbers"),
    (lambda p: dict(pixel_size="x"), "pixel_size='x': expected a number above 0"),
    (lambda p: dict(pixel_size=None), "pixel_size=None: expected a number above 0"),
    (lambda p: dict(pixel_size=[3.0]), r"pixel_size=\[3.0\]: expected a number above 0"),
    (lambda p: dict(seed=-1), "seed=-1: expected a whole number of at least 0"),
])  # fmt: skip
def test_arrays_of_particles_say_what_is_wrong(parts, change, said):
    refused(mr.Particles, said, **{"images": parts[0], "pose": parts[1], "ctf": parts[2], "pixel_size": SIZE,
                                   **change(parts)})


# ---------------------------------------------------------------- numbers that are in another unit


def whole(particles, **change):
    """Particles of arrays: those of a set, with other shifts (Å), Euler angles or fields of the CTF."""
    about = particles.metadata()
    ctf = about.ctf.copy()
    for name in set(change) & set(CTF_DTYPE.names):
        ctf[name] = change[name](ctf[name])
    pose = mr.Pose(about.pose.quaternion, change.get("shift", lambda shift: shift)(about.pose.shift))
    if "angles" in change:
        pose = mr.Pose.from_euler(*change["angles"](about.pose.euler()).T, pose.shift)
    return mr.Particles(particles.images(), pose, ctf, pixel_size=change.get("pixel_size", SIZE))


@pytest.mark.parametrize("change, said", [
    (dict(shift=lambda shift: shift + BOX * SIZE), f"^Particles: shift puts {M} of {M} particles outside their images "
     rf".*from the centre of 120 Å; first: particle 0\).*in Å"),
    (dict(shift=lambda shift: shift + np.where(np.arange(M) > 40, -75.0, 0)[:, None]), f"shift puts 59 of {M} part"
     "icles.*first: particle 41"),
    (dict(defocus_u=lambda u: u / 1e4, defocus_v=lambda v: v / 1e4), f"defocus_u .* {M} of {M} .*looks like µm"),
    (dict(pixel_size=SIZE * 1e-10), "pixel_size is 5e-10 Å, outside 0.05 … 200 Å"),
])  # fmt: skip
def test_numbers_of_another_unit_are_refused(particles, change, said):
    """Of shifts beyond the image, the map wrapped round."""
    refused(whole, said, particles, **change)


@pytest.mark.parametrize("change, said", [
    (dict(shift=lambda shift: shift + np.where(np.arange(M) < 3, 70.0, 0)[:, None]), f"shift puts 3 of {M} particles"),
    (dict(defocus_u=lambda u: u / 10, defocus_v=lambda v: v / 10), "nearly all defoci are below 5000 Å"),
    (dict(defocus_u=lambda u: u * (u > np.median(u)), defocus_v=lambda v: v * (v > np.median(v))), "defocus is 0 for"),
    (dict(angles=lambda angles: angles * [1, 0, 1]), "seen from nearly one direction"),
    (dict(angles=np.radians), "Euler angles of pose are in degrees, but"),
    (dict(angles=lambda angles: angles * (np.arange(M) > 9)[:, None]), f"pose of 10 of {M} particles is exactly no"),
])  # fmt: skip
def test_odd_numbers_of_some_particles_are_warned_of(particles, change, said):
    made = whole(particles, **change)
    assert len([warning for warning in made.warnings if re.search(said, warning)]) == 1, made.warnings


def test_usual_numbers_are_not_odd(particles):
    assert whole(particles).warnings == []
    assert whole(particles, defocus_u=lambda u: 0 * u, cs_mm=lambda cs: 0 * cs, defocus_v=lambda v: 0 * v,
                 amplitude_contrast=lambda a: a**0).warnings == []


def test_new_poses_outside_their_images_are_refused(particles):
    table = {"id": [7, 3, 9], "quaternion": np.eye(4)[:3], "shift": np.full((3, 2), 61.0)}
    refused(particles.with_poses, "^with_poses: shift puts 3 of 3 particles outside.*first: particle 7", table)
    table["shift"][1:] = 1.0
    made = particles.with_poses(table)
    assert len(made.warnings) == 1 and "shift puts 1 of 3 particles outside" in made.warnings[0]


@pytest.mark.parametrize("dtype", ["i2", ">f4", "u1"])
def test_whole_numbers_and_other_byte_orders_are_images(parts, dtype):
    images = (40 + 10 * parts[0] / np.abs(parts[0]).max()).astype(dtype)
    made = mr.Particles(images, parts[1], pixel_size=SIZE)
    np.testing.assert_array_equal(made.images(), images.astype("f4"))


@pytest.mark.parametrize("angles, said", [
    (([1j], [0], [0]), "rot must be an array of numbers"),
    ((np.ma.masked_all(1), [0], [0]), "rot is a masked array"),
    (([0, 1], [0, 1, 2], [0, 1]), r"one length, got shapes rot \(2,\), tilt \(3,\)"),
    ((["a"], [0], [0]), "rot must be an array of numbers"),
])  # fmt: skip
def test_angles_say_what_is_wrong(angles, said):
    refused(mr.Pose.from_euler, said, *angles)


@pytest.mark.parametrize("rows", [np.ones(50, bool), [1.7], [M], [-M - 1], "abc", None, [[1, 2]]], ids=str)
@pytest.mark.parametrize("use", [
    lambda particles, rows: particles.images(rows),
    lambda particles, rows: particles.metadata(rows),
    lambda particles, rows: mr.ForwardModel(particles, rows),
    lambda particles, rows: mr.project(mr.phantom(BOX, SIZE), particles, rows),
], ids=["images", "metadata", "ForwardModel", "project"])  # fmt: skip
def test_rows_say_what_is_wrong(particles, use, rows):
    refused(use, f"rows: expected row numbers from 0 to {M - 1}, or {M} times True or False", particles, rows)


@pytest.mark.parametrize("change, said", [
    (dict(id=[3, 3]), "particle 3 is in the table 2 times"),
    (dict(id=[3, M]), f"row {M} is none of them"),
    (dict(id=[3]), "1 ids, but 2 poses"),
    (dict(id=None), r"expected a structured array .* with \['quaternion', 'shift'\]"),
])  # fmt: skip
def test_new_poses_say_what_is_wrong(particles, change, said):
    table = {"id": [1, 2], "quaternion": np.eye(4)[:2], "shift": np.zeros((2, 2)), **change}
    refused(particles.with_poses, said, {name: values for name, values in table.items() if values is not None})
    refused(particles.with_poses, "expected a structured array .* got NoneType", None)


# ---------------------------------------------------------------- maps and masks


@pytest.fixture(scope="module")
def halves():
    """Two half maps, and a mask for them."""
    density, rng = mr.phantom(BOX, SIZE).array, np.random.default_rng(3)
    noise = (density.std() * rng.standard_normal((2, *density.shape))).astype("f4")
    first, second = (mr.Volume(density + some, SIZE) for some in noise)
    return first, second, mr.automatic_mask(mr.phantom(BOX, SIZE), resolution=20.0)


MASKS = [
    (lambda mask: 0 * mask, "the mask: mask values run from 0 to 0, it is zero everywhere"),
    (lambda mask: np.where(mask > 0.5, np.nan, mask), "the mask: the mask holds .* NaN or infinite voxels"),
    (lambda mask: mask - 1, "the mask: mask values run from -1 to 0"),
    (lambda mask: 3 * mask, "the mask: mask values run from 0 to 3"),
    (lambda mask: mask[1:-1, 1:-1, 1:-1], "the mask 22; crop or pad"),
    (lambda mask: mr.Volume(mask, 3.0), "the mask of 3 Å; rescale"),
    (lambda mask: 5, "the mask: expected a Volume, the path of a map, or an .* got int"),
]


@pytest.mark.parametrize("change, said", MASKS)
@pytest.mark.parametrize("function", [mr.fsc, mr.postprocess, mr.local_resolution])
def test_masks_say_what_is_wrong(halves, function, change, said):
    first, second, mask = halves
    refused(function, said, first, second, change(mask.array))


@pytest.mark.parametrize("options, said", [
    (dict(lowpass=-1), "lowpass=-1: expected a number above 0 or None"),
    (dict(extend=-10), "extend=-10: expected a number of at least 0 or None"),
    (dict(edge="x"), "edge='x': expected a number of at least 0"),
    (dict(resolution=np.nan), "resolution=nan: expected a number above 0"),
    (dict(threshold=np.inf), "threshold=inf: expected a number or None"),
    (dict(lowpass=1e9), "the map is constant once it is filtered"),
    (dict(volume=mr.Volume(np.zeros((BOX,) * 3, "f4"), SIZE)), "the map is constant once it is filtered"),
    (dict(pixel_size=3.0), "pixel_size=3: the map has pixels of 5 Å; leave it out"),
    (dict(half_maps=["a.mrc"]), "half_maps: expected two maps, .* got 1"),
    (dict(half_maps=mr.phantom(BOX, SIZE)), "half_maps: expected two maps, .* got Volume"),
    (dict(half_maps=(mr.phantom(16, SIZE),) * 2), "the map has a box of 24 pixels, half map 1 16"),
    (dict(volume=None), "give a map, or half_maps"),
])  # fmt: skip
def test_automatic_masks_say_what_is_wrong(options, said):
    refused(mr.automatic_mask, said, **{"volume": mr.phantom(BOX, SIZE), **options})


@pytest.mark.parametrize("function", [mr.fsc, mr.postprocess, mr.local_resolution])
@pytest.mark.parametrize("options, said", [
    (dict(seed=-1), "seed=-1: expected a whole number of at least 0"), (dict(seed=1.5), "seed=1.5: expected a whole"),
    (dict(pixel_size=3.0), "pixel_size=3: half map 1 has pixels of 5|pixel_size=3: the first map has pixels of 5"),
])  # fmt: skip
def test_what_half_maps_are_compared_with_says_what_is_wrong(halves, function, options, said):
    refused(function, said, *halves[:2], **options)


def test_no_map_is_given_twice_without_a_word(halves, particles):
    scores = mr.score(halves[0], halves[0], particles)
    assert any("same map" in text for text in scores.about["warnings"])
    assert any("same map" in text for text in mr.fsc(halves[0], halves[0]).comparison.warnings)
    assert not mr.fsc(*halves[:2]).comparison.warnings


def test_maps_say_what_is_wrong():
    refused(mr.read_map, "path='': expected a path that is not empty", "")
    refused(mr.fsc, "the first map: expected a Volume, the path of a map, or an .* got NoneType", None, None)
    masked = np.ma.masked_less(mr.phantom(BOX).array, 0.1)
    refused(mr.fsc, "this is a masked array", masked, masked, pixel_size=3.0)


# ---------------------------------------------------------------- simulations


@pytest.mark.parametrize("options, said", [
    (dict(defocus=(0.8, 2.5)), "defocus is 0.8 … 2.5 Å, which no microscope is set to; settings are in Å"),
    (dict(phase_shift=15), r"phase_shift is 859\.437° \(15 radians\), more than half a turn; .*, a script in radians"),
    (dict(defocus=1.5), "defocus[= ]1.5: expected 2 values, a number and a number"),
    (dict(defocus=(1e4,)), "defocus[= ].*: expected 2 values"),
    (dict(defocus=None), "defocus[= ]None: expected 2 values"),
    (dict(snr="0.1"), "snr[= ]'0.1': expected a number"),
    (dict(snr=None), "snr[= ]None: expected a number"),
    (dict(error_rate="x"), "error_rate[= ]'x': expected a number"),
    (dict(particles=2.5), "particles=2.5: expected a whole number"),
    (dict(particles=None), "particles=None: expected a whole number"),
    (dict(particles=10, seed=1.5), "seed[= ]1.5: expected a whole number"),
    (dict(micrographs=2.5), "micrographs[= ]2.5: expected a whole number"),
    (dict(use_ctf="no"), "use_ctf[= ]'no': expected True or False"),
    (dict(box=16.5), "box=16.5: expected a whole number"),
    (dict(path=5), "path=5: expected a path or None"),
    (dict(model=5), "model=5: expected a path"),
    (dict(truth_map=5), "truth_map=5: expected a path"),
    (dict(volume=mr.phantom(BOX, SIZE), pixel_size=3.0), "pixel_size=3: the map has pixels of 5 Å"),
    (dict(volume=mr.phantom(BOX, SIZE), pixel_size=-1), "pixel_size=-1: expected a number above 0"),
    (dict(volume=5, pixel_size=1), "the map: expected a Volume"),
])  # fmt: skip
def test_simulations_say_what_is_wrong(options, said):
    refused(mr.simulate, said, **{"particles": 10, **options})


@pytest.mark.parametrize("name, said", [
    ("orientation_error_rate", "in Python it is error_rate"), ("no_ctf", "in Python it is use_ctf=False"),
])  # fmt: skip
def test_names_of_the_command_are_translated(name, said):
    with pytest.raises(TypeError, match=said):
        mr.simulate(particles=10, **{name: 0.3})


@pytest.mark.parametrize("box", [0, -4, "x", 16.5])
def test_boxes_of_the_phantom_say_what_is_wrong(box):
    refused(mr.phantom, f"box={box!r}: expected a whole number of at least 4 and at most 2048", box)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u8"])
def test_row_numbers_may_be_of_any_size(dtype):
    particles = mr.simulate(mr.phantom(8, 5.0), 300, snr=1.0)
    rows = np.array([5, 120] if dtype[0] == "u" else [5, -1, -128], dtype)
    wanted = particles.images()[rows.astype(int)]
    np.testing.assert_array_equal(particles.images(rows), wanted)
    np.testing.assert_array_equal(particles.images(rows[1]), wanted[1])
    if dtype == "u8":
        refused(particles.images, "is none of them", np.array([2**64 - 1], dtype))
