"""What scripts get wrong is one UserError, before work is done: which parameter, what it is, what it must be."""

import numpy as np
import pytest

import mpirecon as mr
from mpirecon.model import CTF_DTYPE

pytestmark = pytest.mark.in_python

M, BOX, SIZE = 100, 24, 5.0


@pytest.fixture(scope="module")
def particles():
    return mr.simulate(mr.phantom(BOX, SIZE), M, snr=0.3, seed=4)


@pytest.fixture(scope="module")
def parts(particles):
    """Images, poses and CTFs of ten particles."""
    about = particles.metadata(slice(0, 10))
    return particles.images(slice(0, 10)), about.pose, about.ctf


def refused(function, said, *given, **named):
    """That a call is refused as the caller's mistake, in these words (a regular expression)."""
    with pytest.raises(mr.UserError, match=said):
        function(*given, **named)


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


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize("options, said", [
    (dict(keep="70%"), "keep[= ]'70%': expected a number or 'auto' or None"),
    (dict(iterations="3"), "iterations[= ]'3': expected a whole number"),
    (dict(iterations=2.5), "iterations[= ]2.5: expected a whole number"),
    (dict(folds=2.5), "folds[= ]2.5: expected a whole number"),
    (dict(diameter="x"), "diameter[= ]'x': expected a number above 0"),
    (dict(symmetry=5), "symmetry[= ]5: expected text"),
    (dict(symmetry=None), "symmetry[= ]None: expected text"),
    (dict(max_resolution=np.nan), "max_resolution[= ]nan: expected a number above 0"),
    (dict(threads=0), "threads[= ]0: expected a whole number of at least 1"),
    (dict(threads=2.5), "threads[= ]2.5: expected a whole number"),
    (dict(seed=-1), "seed[= ]-1: expected a whole number of at least 0"),
    (dict(seed=None), "seed[= ]None: expected a whole number"),
    (dict(memory=-1), "memory[= ]-1: expected a whole number of at least 0"),
    (dict(memory="lots"), "memory[= ]lots: expected an amount with its unit"),
    (dict(solve_iterations=-1), "solve_iterations[= ]-1: expected a whole number of at least 0"),
    (dict(score_resolution=(60,)), "score_resolution[= ].*: expected 2 values"),
    (dict(score_resolution="60:12"), "score_resolution[= ]'60:12': expected 2 values"),
    (dict(score_resolution=(12, 60)), "score_resolution[= ]12:60: expected the coarser resolution first"),
    (dict(score_resolution=(60, np.nan)), "score_resolution[= ].*: expected 2 values"),
    (dict(grace="x"), "grace='x': expected a number of at least 0"),
    (dict(checkpoint_every=None), "checkpoint_every=None: expected a whole number of at least 1 or text"),
    (dict(checkpoint_signal=5), "checkpoint_signal=5: expected text"),
    (dict(stall_timeout="x"), "stall_timeout='x': expected a number"),
    (dict(reference=mr.phantom(BOX, SIZE)), r"reference=Volume\(…\): expected a path"),
    (dict(mask=5), "mask=5: expected a path"),
    (dict(loss=5), "loss=5: expected the name of a loss, a function"),
    (dict(distance=len), "distance=builtin_function_or_method.*: expected the name of a distance"),
    (dict(output=5), "output=5: expected a path"),
    (dict(overwrite="yes"), "overwrite='yes': expected True or False"),
    (dict(start_weights="nosuch"), "starting weights: they must be an array of numbers, got str"),
    (dict(start_weights=["a"] * M), "starting weights: they must be an array of numbers, got list of <U1"),
    (dict(weights=["a"] * M), "weights"),
    (dict(weights=5), "weights"),
    (dict(particles=None), "particles=None: expected Particles, or the path"),
    (dict(particles=[1, 2]), r"particles=\[1, 2\]: expected Particles"),
    (dict(particles=np.zeros((2, 4, 4))), r"particles=ndarray\(…\): expected Particles"),
])  # fmt: skip
def test_options_of_runs_say_what_is_wrong(particles, options, said):
    refused(mr.reconstruct, said, **{"particles": particles, **options})


def test_memory_may_be_given_as_to_the_command(particles):
    assert mr.Reconstruction(particles, memory="1G").config.memory == 2**30


@pytest.mark.parametrize("options, said", [
    (dict(steps="1,0.9"), "steps='1,0.9': expected a list or tuple, of number"),
    (dict(steps=0.5), "steps=0.5: expected a list or tuple"),
    (dict(random_draws=1.5), "random_draws=1.5: expected a whole number of at least 1"),
    (dict(high_pass=(50, "x")), "high_pass=.*: expected 2 values"),
])  # fmt: skip
def test_options_of_paths_say_what_is_wrong(particles, options, said):
    refused(mr.path, said, particles, **options)


class NoRho(mr.losses.Loss):
    """A loss without one of its functions."""

    def weight(self, d):
        """All alike."""
        return np.ones_like(d)


class Uncalibrated(NoRho):
    """A loss that takes neither the centre nor the spread."""

    def rho(self, d):
        """Least squares'."""
        return d**2 / 2


class WordsForRho(NoRho):
    """A loss whose value is no number."""

    def __init__(self, centre, scale):
        pass

    def rho(self, d):
        """No number."""
        return "much"


@pytest.mark.parametrize("loss, said", [
    (lambda d: 0 * d, "it gave all 100 particles the weight 0"),
    (lambda d: d + 1j, "returned values of complex128; it must return an array of numbers"),
    (lambda d: ["a"] * len(d), "returned values of <U1"),
    (lambda d: None, "returned NoneType"),
    (NoRho, "the class has no rho"),
    (Uncalibrated, r"it is called with the centre and the spread .*\(centre, scale\): too many"),
    (mr.losses.calibrated(lambda centre, scale: 5), "expected a Loss for this centre and scale, got int"),
    (WordsForRho, r"loss WordsForRho: rho returned str; expected numbers of shape \(100,\)"),
])  # fmt: skip
def test_losses_say_what_is_wrong(particles, loss, said):
    refused(mr.reconstruct, said, particles, loss=loss, iterations=1, postprocess=False)


def test_a_loss_may_write_into_its_argument(particles):
    def plain(d):
        return 1 / np.maximum(d, 1)

    def writing(d):
        d[d < 1] = 1
        return 1 / d

    runs = [mr.reconstruct(particles, loss=loss, iterations=1, postprocess=False) for loss in (plain, writing)]
    assert runs[0].iterations[0]["loss"] == runs[1].iterations[0]["loss"]


@pytest.mark.parametrize("number, score, said", [
    (0, lambda s, sigma, typical: 1.0, r"score returned float; expected numbers of shape \(100,\)"),
    (1, lambda s, sigma, typical: s.yy[:5], r"score returned an array of float64 of shape \(5,\)"),
    (2, lambda s, sigma, typical: None, "score returned NoneType"),
])  # fmt: skip
def test_distances_say_what_is_wrong(particles, number, score, said):
    distance = mr.distances.Distance(f"odd{number}", True, score, None)
    refused(mr.reconstruct, said, particles, loss="sorted", keep=0.7, distance=distance, iterations=1)
    refused(mr.distances.Distance, "score must be a function", "text", True, "x", None)


def test_a_run_that_has_ended_says_so(particles):
    run = mr.Reconstruction(particles)
    run.close()
    refused(run.result, "this run was closed")

    def failing(d):
        raise ZeroDivisionError

    run = mr.Reconstruction(particles, loss=failing)
    with pytest.raises(ZeroDivisionError):
        next(iter(run))
    refused(run.result, "this run has failed in an iteration")


@pytest.mark.parametrize("call, said", [
    (lambda: mr.losses.of_excess("x"), "weight='x': expected a function"),
    (lambda: mr.losses.of_excess(np.exp, tuning=0), "tuning=0: expected a number above 0"),
    (lambda: mr.losses.register(5, np.ones_like), "name=5: expected text"),
    (lambda: mr.weiszfeld(["a", "b"]), "weiszfeld: points must be an array of numbers"),
    (lambda: mr.weiszfeld(np.eye(3), iterations=1.5), "iterations=1.5: expected a whole number"),
    (lambda: mr.Volume(mr.phantom(BOX).array, "x"), "the pixel size must be a positive number of Å, got 'x'"),
    (lambda: mr.phantom(BOX).write(5), "path=5: expected a path"),
])  # fmt: skip
def test_small_helpers_say_what_is_wrong(call, said):
    refused(call, said)


# ---------------------------------------------------------------- tables, finished runs, pages


@pytest.mark.parametrize("options, said", [
    (dict(select="x"), "select[= ]'x': expected COLUMN=VALUES"),
    (dict(select=[("a", 1)]), "select[= ].*: expected text or a list"),
    (dict(cs_aberrations="x"), "cs_aberrations[= ]'x': expected"),
    (dict(rescale="x"), "rescale[= ]'x': expected 'common' or 2 values, a whole number of at least 4"),
    (dict(rescale=(16,)), "rescale[= ].*: expected 'common' or 2 values"),
    (dict(rescale=(0, 1)), "rescale[= ].*: expected 'common' or 2 values"),
    (dict(units="shift=A"), "units[= ]'shift=A': expected a dict"),
    (dict(mapping="x"), "mapping[= ]'x': expected a dict"),
    (dict(first="x"), "first[= ]'x': expected a whole number"),
    (dict(first=1.5), "first[= ]1.5: expected a whole number"),
    (dict(pixel_size="x"), "pixel_size[= ]'x': expected a number above 0"),
    (dict(voltage=300_000), "voltage[= ]300000: expected a number of at least 20 and at most 2000"),
    (dict(max_bad="x"), "max_bad[= ]'x': expected a number"),
    (dict(data_dir=5), "data_dir=5: expected a path"),
])  # fmt: skip
@pytest.mark.parametrize("read", [mr.read_star, mr.read_cs])
def test_what_is_said_of_tables_says_what_is_wrong(read, options, said):
    refused(read, said, "particles.star", **options)


def test_a_selection_is_a_column_and_its_values():
    from mpirecon.io.import_options import ImportOptions

    for select in (("rlnRandomSubset", "1"), "rlnRandomSubset=1", [("rlnRandomSubset", "1")]):
        assert ImportOptions(select=select).selections == (("rlnRandomSubset", "1"),)
    assert len(ImportOptions(select=("a=1", "b=2")).selections) == 2


@pytest.fixture(scope="module")
def run(particles):
    return mr.reconstruct(particles, loss="posterior")


@pytest.mark.parametrize("call, said", [
    (lambda run, p: mr.search_poses(p.path, run), r"particles=\w+Path\(…\): expected Particles"),
    (lambda run, p: mr.search_poses(p, run.folder), r"result=\w+Path\(…\): expected Result"),
    (lambda run, p: mr.search_poses(p, run, offset_sigma=1e9), "offset_sigma is 1e.09 Å, expected 0 or more"),
    (lambda run, p: mr.ForwardModel(str(p.path)), "particles='.*': expected Particles"),
    (lambda run, p: mr.project(run.volume, str(p.path)), "particles='.*': expected Particles"),
    (lambda run, p: mr.ForwardModel(p).adjoint("path"), "adjoint: images must be an array of numbers, got str"),
    (lambda run, p: mr.view(run.folder / "volume.mrc", level=np.nan), "level=nan: expected a number"),
    (lambda run, p: mr.view(run.folder / "volume.mrc", size=16.5), "size=16.5: expected a whole number"),
    (lambda run, p: mr.view(""), "volume='': expected a path that is not empty"),
    (lambda run, p: mr.view(run.volume), r"volume=Volume\(…\): expected a path"),
    (lambda run, p: mr.export(run, step="x"), "step='x': expected a number or None"),
    (lambda run, p: mr.export(run, mtf={1: "x.star"}), "mtf=.*: expected a"),
    (lambda run, p: mr.export(run, mtf=["x.star"]), "mtf=.*: expected a"),
    (lambda run, p: mr.Result(5), "folder=5: expected a path"),
    (lambda run, p: mr.compare(run, 5), "run2=5: expected a path or Result"),
])  # fmt: skip
def test_finished_runs_and_pages_say_what_is_wrong(run, particles, call, said):
    refused(call, said, run, particles)


def test_a_result_stands_for_its_folder(run, tmp_path):
    assert mr.write_report(run, tmp_path / "page.html").exists()
