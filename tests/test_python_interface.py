"""What scripts and notebooks use: `import mpirecon`."""

import runpy
from pathlib import Path

import numpy as np
import pytest

import mpirecon as mr
from mpirecon.io.particle_file import ParticleFile
from mpirecon.solvers.config import Config
from mpirecon.solvers.mask import make_mask
from mpirecon.validate.fsc import fsc
from mpirecon.validate.masks import soft_sphere

pytestmark = pytest.mark.in_python


@pytest.fixture(scope="module")
def particles():
    return mr.simulate(mr.phantom(24, 5.0), 240, snr=0.3, error_rate=0.3, junk_rate=0.05, seed=4)


@pytest.fixture(scope="module")
def result(particles):
    return mr.reconstruct(particles, loss="huber", iterations=2)


def test_every_public_name_is_documented():
    page = (Path(__file__).parent.parent / "docs" / "python.md").read_text(encoding="utf-8")
    for name in mr.__all__:
        assert f"`{name}" in page or f"mr.{name}" in page or name == "__version__", name
        assert getattr(mr, name).__doc__ or name == "__version__", name


def test_unknown_names_and_options_are_named(particles):
    with pytest.raises(TypeError, match="no setting 'iteration'; did you mean 'iterations'"):
        mr.reconstruct(particles, iteration=3)
    with pytest.raises(TypeError, match="no setting 'eror_rate'; did you mean 'error_rate'"):
        mr.simulate(eror_rate=0.3)
    with pytest.raises(mr.UserError, match="there is no file"):
        mr.reconstruct("nothing.h5")
    with pytest.raises(AttributeError, match="no attribute 'recontruct'; it has .*reconstruct"):
        mr.recontruct


def test_noise_in_a_script_is_that_of_the_command(particles, tmp_path, cli):
    ours = mr.null(particles, loss="sorted", keep=0.7, iterations=1)
    done = cli("null", particles.path, "-o", tmp_path / "null", "--loss", "sorted", "--keep", 0.7, "--iterations", 1)
    theirs = mr.NullTest(tmp_path / "null")
    assert done.returncode == (0 if ours.passed else 1) and theirs.passed == ours.passed
    assert ours.passed or ours.mean_fsc > ours.limit
    np.testing.assert_array_equal(ours.fsc.values, theirs.fsc.values)
    assert ours.folder.is_dir() and ours.summary["verdict"] in repr(ours)
    with pytest.raises(mr.UserError, match="no null.json"):
        mr.NullTest(tmp_path)


def test_a_run_in_a_script_is_the_run_of_the_command(particles, tmp_path, cli):
    ours = mr.reconstruct(particles, loss="sorted", keep=0.7, iterations=2, diameter=80)
    done = cli("reconstruct", particles.path, "-o", tmp_path / "run", "--loss", "sorted", "--keep", 0.7, "--iterations",
               2,
               "--diameter", 80)
    assert done.returncode == 0, done.stderr
    theirs = mr.Result(tmp_path / "run")
    for name in ("volume", "mask", "sharpened"):
        np.testing.assert_array_equal(getattr(ours, name).array, getattr(theirs, name).array)
    for name in theirs.particles.dtype.names:
        np.testing.assert_array_equal(ours.particles[name], theirs.particles[name])
    assert [r["loss"] for r in ours.iterations] == [r["loss"] for r in theirs.iterations]
    assert (
        ours.resolution == theirs.resolution == ours.fsc.resolution or abs(ours.fsc.resolution - ours.resolution) < 1e-3
    )
    assert ours.kept.sum() == theirs.summary["kept"] and ours.detection == theirs.detection


def test_an_output_that_cannot_be_is_refused_before_anything_is_computed(particles, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for output, words in (("out", "is not empty; choose another, or pass overwrite=True"), ("file", "is not a folder"),
                          ("file/in", "is a file")):
        with pytest.raises(mr.UserError, match=words):
            mr.Reconstruction(particles, tmp_path / output, iterations=1)
    run = mr.Reconstruction(particles, tmp_path / "new", iterations=1)
    (tmp_path / "new").write_text("another's, meanwhile")
    for _ in range(2):
        with pytest.raises(mr.UserError, match="is not a folder"):
            run.result()
    (tmp_path / "new").unlink()
    assert run.result().folder == tmp_path / "new" and run.result() is run.result()
    again = mr.Reconstruction(particles, tmp_path / "new", iterations=1, overwrite=True)
    assert again.result().folder == tmp_path / "new"
    assert (tmp_path / "out" / "notes.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def test_stepping_makes_the_same_run(particles, result):
    run = mr.Reconstruction(particles, loss="huber", iterations=2)
    states = list(run)
    assert [s.iteration for s in states] == [1, 2]
    np.testing.assert_array_equal(run.result().volume.array, result.volume.array)
    assert run.result() is run.result()
    assert states[0].weights.std() < states[1].weights.std()  # everybody alike, then by influence
    # the state's FSC is that of its half maps, in the mask
    with ParticleFile(particles.path) as file:
        scored = mr.fsc(*states[1].half_maps, make_mask(file, Config()).array)
    np.testing.assert_allclose(scored.values, states[1].fsc.values, atol=1e-5)
    assert states[0].record["loss"] == result.iterations[0]["loss"]
    wrong = particles.truth["pose_error"]
    assert np.median(states[1].explained[wrong]) > np.median(states[1].explained[~wrong])
    first = states[0]
    for array in (first.weights, first.kept, first.pose.quaternion, first.pose.shift, first.residual):
        with pytest.raises(ValueError, match="read-only"):  # the run would not notice
            array[:] = 0


def test_stopping_half_way_leaves_the_rest_to_result(particles, result):
    run = mr.Reconstruction(particles, loss="huber", iterations=2)
    next(iter(run))
    np.testing.assert_array_equal(run.result().volume.array, result.volume.array)


def test_a_function_of_the_distance_is_a_loss(particles, result):
    own = mr.reconstruct(particles, loss=lambda d: 1 / np.maximum(d, 1e-6), iterations=2)
    built_in = mr.reconstruct(particles, loss="l1", iterations=2)
    np.testing.assert_allclose(own.volume.array, built_in.volume.array, atol=1e-6 * np.abs(built_in.volume.array).max())
    assert own.iterations[-1]["loss"] == pytest.approx(built_in.iterations[-1]["loss"], rel=1e-4)
    assert own.summary["configuration"]["loss"] == "own"


def test_a_textbook_loss_of_the_excess(particles):
    def biweight(u):
        return np.maximum(1 - u**2, 0) ** 2

    own = mr.reconstruct(particles, loss=mr.losses.of_excess(biweight, tuning=4.685), iterations=2)
    tukey = mr.reconstruct(particles, loss="tukey", iterations=2)
    np.testing.assert_array_equal(own.particles["weight"], tukey.particles["weight"])
    assert own.iterations[-1]["loss"] == pytest.approx(tukey.iterations[-1]["loss"], rel=1e-5)
    assert own.summary["configuration"]["loss"] == "biweight"


def test_a_class_of_losses_is_calibrated_anew(particles):
    seen = []

    class Half(mr.losses.Loss):
        name = "half"

        def __init__(self, centre, scale):
            seen.append((centre, scale))
            self.centre = centre

        def weight(self, d):
            return np.where(d > self.centre, 0.5, 1.0)

        def rho(self, d):
            return d**2 / 2

    weight = mr.reconstruct(particles, loss=Half, iterations=2).particles["weight"]
    assert len(set(np.round(weight / weight.max(), 6))) == 2 and len(set(seen)) > 1


@pytest.mark.parametrize("function, message", [
    (lambda d: -d, "weight -.*not negative"),
    (lambda d: np.full_like(d, np.nan), "weight nan"),
    (lambda d: d[:3], r"shape \(3,\)"),
])
def test_a_loss_that_returns_nonsense_is_refused(particles, function, message):
    with pytest.raises(mr.UserError, match=message):
        mr.reconstruct(particles, loss=function, iterations=2)


def test_a_loss_may_not_take_a_built_in_name():
    with pytest.raises(mr.UserError, match="built-in"):
        mr.losses.register("huber", lambda d: d)
    with pytest.raises(mr.UserError, match="expected a function"):
        mr.losses.register("mine", 3)


def test_rho_is_the_integral_of_the_influence():
    loss = mr.losses.FunctionLoss(lambda d: 1 / (1 + d**2))
    d = np.linspace(0, 7, 50)
    np.testing.assert_allclose(loss.rho(d), np.log1p(d**2) / 2, atol=1e-5)
    np.testing.assert_array_equal(loss.rho(np.zeros(0)), np.zeros(0))


def test_a_distance_of_ones_own(particles):
    twice = mr.distances.Distance("twice", True, lambda s, sigma, typical: 2 * s.residual, None)
    ours = mr.reconstruct(particles, loss="sorted", keep=0.7, distance=twice, iterations=2)
    plain = mr.reconstruct(particles, loss="sorted", keep=0.7, distance="whitened", iterations=2)
    np.testing.assert_array_equal(ours.kept, plain.kept)
    np.testing.assert_allclose(ours.particles["distance"], 2 * plain.particles["distance"], rtol=1e-12)
    with pytest.raises(mr.UserError, match="already"):
        mr.distances.register(mr.distances.Distance("raw", False, twice.score, None))


def test_starting_weights_make_the_map(particles):
    """L2 of the correct half of the particles is that of a set without the others."""
    good = ~particles.truth["pose_error"]
    weighted = mr.reconstruct(particles, start_weights=good.astype(float), seed=1)
    about = particles.metadata(good)
    alone = mr.reconstruct(
        mr.Particles(particles.images(good), about.pose, about.ctf, pixel_size=particles.pixel_size, half=about.half)
    )
    a, b = (r.half_maps[0].array for r in (weighted, alone))
    assert np.abs(a - b).max() < 2e-3 * np.abs(b).max()
    everybody = mr.reconstruct(particles).half_maps[0].array
    assert np.abs(a - everybody).max() > 0.05 * np.abs(a).max()
    for wrong, message in ((np.ones(3), "shape"), (-np.ones(240), "negative"), (np.zeros(240), "all 0")):
        with pytest.raises(mr.UserError, match=message):
            mr.reconstruct(particles, start_weights=wrong)


def test_a_mask_may_be_an_array(particles, tmp_path):
    z, y, x = np.indices((24, 24, 24)) - 12
    mask = mr.Volume(np.clip(9 - np.sqrt(x**2 + y**2 + z**2), 0, 1).astype(np.float32), 5.0)
    mask.write(tmp_path / "mask.mrc")
    of_array = mr.reconstruct(particles, mask=mask.array)
    of_file = mr.reconstruct(particles, mask=tmp_path / "mask.mrc")
    np.testing.assert_array_equal(of_array.volume.array, of_file.volume.array)
    assert not of_array.volume.array[0].any()


def test_arrays_become_particles(particles):
    about = particles.metadata()
    copy = mr.Particles(particles.images(), about.pose, about.ctf, pixel_size=5.0, half=about.half)
    np.testing.assert_array_equal(copy.images(), particles.images())
    np.testing.assert_allclose(copy.table["quaternion"], particles.table["quaternion"], atol=1e-15)
    drawn = mr.Particles(particles.images()[:40], about.pose[:40], pixel_size=5.0, seed=3)
    assert set(drawn.table["half"]) == {1, 2}
    np.testing.assert_allclose(mr.project(mr.phantom(24, 5.0), drawn).array,
                               mr.project(mr.phantom(24, 5.0), drawn, use_ctf=False).array, rtol=1e-5, atol=1e-5)
    with pytest.raises(mr.UserError, match="40 images, but 39 poses|40 rows for 39"):
        mr.Particles(particles.images()[:40], about.pose[:39], pixel_size=5.0)
    with pytest.raises(mr.UserError, match="expected axes"):
        mr.Particles(particles.images()[0], about.pose[:1], pixel_size=5.0)


def test_rows_of_images(particles):
    everything = particles.images()
    np.testing.assert_array_equal(particles.images([7, 3, 7, -1]), everything[[7, 3, 7, -1]])
    np.testing.assert_array_equal(particles.images(5), everything[5])
    np.testing.assert_array_equal(particles.images(np.arange(240) % 2 == 0), everything[::2])
    with pytest.raises(mr.UserError, match="0 to 239"):
        particles.images([240])


def test_saved_particles_are_the_same(particles, tmp_path):
    saved = particles.save(tmp_path / "copy.h5")
    np.testing.assert_array_equal(mr.open(tmp_path / "copy.h5").table, particles.table)
    with pytest.raises(mr.UserError, match="exists"):
        particles.save(tmp_path / "copy.h5")
    with pytest.raises(mr.UserError, match="would replace what it is made from"):
        saved.save(tmp_path / "copy.h5")


@pytest.mark.parametrize("premultiplied", [False, True])
def test_forward_and_adjoint_are_transposes(premultiplied):
    some = mr.simulate(mr.phantom(20, 5.0), 30, snr=1, ctf_premultiplied=premultiplied)
    model, rng = mr.ForwardModel(some, slice(3, 17)), np.random.default_rng(0)
    x, y = rng.standard_normal((20, 20, 20)).astype("f4"), rng.standard_normal((14, 20, 20)).astype("f4")
    forward, back = model.forward(x).array, model.adjoint(y).array
    scale = np.linalg.norm(forward) * np.linalg.norm(y)
    assert abs(np.vdot(forward.astype(float), y) - np.vdot(x.astype(float), back)) < 1e-5 * scale
    with pytest.raises(mr.UserError, match=r"shape \(14, 20, 20\)"):
        model.adjoint(y[:3])


@pytest.mark.parametrize("premultiplied", [False, True])
def test_residuals_of_the_true_map_are_the_noise(premultiplied):
    truth = mr.phantom(20, 5.0)
    clean = mr.simulate(truth, 30, snr=np.inf, ctf_premultiplied=premultiplied)
    assert np.abs(mr.ForwardModel(clean).residuals(truth).array).max() < 2e-5 * np.abs(clean.images()).max()
    noisy = mr.simulate(truth, 60, snr=0.5, ctf_premultiplied=False)
    power = mr.ForwardModel(noisy).residual_power(truth)
    assert power.shape == (60, 11)
    sigma = noisy.truth["true_sigma"].mean()
    np.testing.assert_allclose(power[:, 2:].mean(), sigma**2, rtol=0.05)
    # Parseval: all shells together hold what the pixels hold
    signal = mr.ForwardModel(noisy).power(truth)
    assert signal.shape == power.shape and (signal[:, 8:].mean() < power[:, 8:].mean())


def test_maps_are_compared_and_written(result, tmp_path):
    first, second = result.half_maps
    curve = mr.fsc(first, second)
    np.testing.assert_allclose(curve.values, result.curve("fsc_unmasked").values, atol=1e-5)
    assert curve.frequency[-1] == pytest.approx(1 / (2 * 5.0)) and "0.143" in repr(curve)
    first.write(tmp_path / "a.mrc")
    np.testing.assert_array_equal(mr.read_map(tmp_path / "a.mrc").array, first.array)
    assert mr.fsc(tmp_path / "a.mrc", second).values == pytest.approx(curve.values)
    with pytest.raises(mr.UserError, match="exists"):
        first.write(tmp_path / "a.mrc")
    with pytest.raises(mr.UserError, match="no pixel size"):
        mr.fsc(first.array, second.array)
    found = mr.fsc(tmp_path / "a.mrc", second, "auto", phase_randomise=True, cones=True)
    compared = found.comparison
    assert list(compared.curves) == ["fsc", "fsc_masked", "fsc_randomised", "fsc_true"] and compared.cones is not None
    np.testing.assert_array_equal(found.values, compared.curves["fsc_true"])
    np.testing.assert_array_equal(compared.curves["fsc"], curve.values)
    compared.write(tmp_path / "fsc.csv")
    table = np.genfromtxt(tmp_path / "fsc.csv", delimiter=",", names=True)
    np.testing.assert_allclose(table["fsc_true"], found.values, atol=1e-6)
    sphere = soft_sphere(24, 8, 3)
    np.testing.assert_array_equal(mr.fsc(first, second, sphere).values, fsc(first.array, second.array, sphere))
    assert mr.fsc(first.array, second.array, pixel_size=5.0).resolution == curve.resolution
    with pytest.raises(mr.UserError, match="box of 24 pixels.*16"):
        mr.fsc(first, mr.phantom(12 + 4, 5.0))


def test_masks_and_postprocessing(result):
    again = mr.postprocess(*result.half_maps)
    np.testing.assert_allclose(again.fsc.true, result.curve("fsc_true").values, atol=0.05)
    mask = mr.automatic_mask(result.volume, result.half_maps)
    assert 0 < mask.array.mean() < 0.5 and mask.array.max() == 1
    of_mean = mr.automatic_mask(half_maps=result.half_maps)
    both = sum(half.array for half in result.half_maps) / 2
    np.testing.assert_array_equal(of_mean.array, mr.automatic_mask(both, result.half_maps, pixel_size=5.0).array)
    wide = mr.automatic_mask(half_maps=result.half_maps, extend=of_mean.made.extend + 5)
    assert wide.made.share > of_mean.made.share and wide.made.threshold == of_mean.made.threshold


def test_notebooks_show_maps_and_results(result):
    html = result._repr_html_()
    assert html.count("<img") == 3 and "data:image/png;base64" in html and "Result(" in html
    figure = result.plot()
    assert len(figure.axes) == 2 + (~result.kept).any()


def test_a_result_outlives_its_folder_only_when_saved(particles, tmp_path):
    made = mr.reconstruct(particles)
    folder = made.folder
    kept = made.save(tmp_path / "kept")
    del made
    assert not folder.exists()
    assert kept.volume.box == 24 and kept.report.exists()
    with pytest.raises(mr.UserError, match="not empty"):
        kept.save(tmp_path / "kept")


def test_real_star_files_are_read_where_they_lie(shared_data, tmp_path, capsys):
    star = shared_data / "ribo70s_real" / "particles.star"
    real = mr.read_star(star)
    assert len(real) == 1430 and real.attributes["ctf_premultiplied"]
    assert real.path.stat().st_size < 3e6  # the images are 5.9 MB
    assert len(np.unique(real.column("rlnTomoParticleName"))) < 1430
    with pytest.raises(TypeError, match="no setting 'data_folder'"):
        mr.read_star(star, data_folder="x")
    assert capsys.readouterr().out == ""
    copy = mr.read_star(star, output=tmp_path / "p.h5", first=40, verbose=True)  # as the import command
    assert f"{tmp_path / 'p.h5'}: 40 particles" in capsys.readouterr().out
    assert copy.path == tmp_path / "p.h5" and copy.path.stat().st_size > 40 * real.box**2 * 2
    np.testing.assert_array_equal(copy.images(), real.images(slice(40)))
    with pytest.raises(mr.UserError, match="p.h5 exists already"):
        mr.read_star(star, output=tmp_path / "p.h5", first=40)


def test_a_script_under_mpirun_makes_the_same_map(particles, mpi_program, tmp_path):
    alone = mr.reconstruct(particles, loss="sorted", keep=0.7, iterations=2)
    done = mpi_program(3, "python_interface.py", particles.path, tmp_path)
    together = mr.Result(tmp_path / "run")
    np.testing.assert_allclose(together.volume.array, alone.volume.array, atol=2e-6 * np.abs(alone.volume.array).max())
    np.testing.assert_array_equal(together.kept, alone.kept)
    assert done.stdout.count("ranks agree") == 1


@pytest.mark.parametrize("how", [[], ["by messages"]])
def test_what_one_rank_was_given_is_refused_by_all(particles, mpi_program, how):
    """Else the others would wait for it until the watchdog ends them, or one run would be of two settings."""
    assert "every case was refused by all" in mpi_program(2, "differing_ranks.py", particles.path, *how).stdout


GALLERY = sorted((Path(__file__).parent.parent / "docs" / "gallery").glob("*.py"))


@pytest.mark.parametrize("script", GALLERY, ids=lambda script: script.stem)
def test_scripts_of_the_gallery_run(script, tmp_path, shared_data, monkeypatch):
    """On small sets, where they simulate them, and with few iterations, where they do not say how many."""
    phantom, simulate, reconstruct = mr.phantom, mr.simulate, mr.reconstruct
    monkeypatch.setattr(mr, "phantom", lambda box, **options: phantom(min(box, 24), **options))
    monkeypatch.setattr(mr, "simulate", lambda volume, count, **options: simulate(volume, min(count, 300), **options))
    monkeypatch.setattr(mr, "reconstruct", lambda particles, *given, loss="l2", **options: reconstruct(
        particles, *given, loss=loss, **({} if loss == "l2" else {"iterations": 2}) | options))
    arguments = [shared_data / "ribo70s_real" / "particles.star"] if script.stem == "real_ribosomes" else []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(script), *map(str, arguments)])
    runpy.run_path(str(script), run_name="__main__")
    assert (tmp_path / f"{script.stem}.png").stat().st_size > 5000
    page = (script.parent.parent / "python.md").read_text(encoding="utf-8")
    assert f"gallery/{script.name}" in page and f"img/gallery_{script.stem}.png" in page


def test_tables_are_data_frames(particles, result):
    """Columns of several numbers too, such as quaternions, which pandas itself refuses."""
    frame = mr.data_frame(particles.table)
    assert len(frame) == 240 and {"quaternion_w", "shift_y", "defocus_u", "true_quaternion_z"} <= set(frame)
    np.testing.assert_array_equal(frame[["shift_x", "shift_y"]], particles.table["shift"])
    kept = mr.data_frame(result.particles).query("kept")
    np.testing.assert_array_equal(kept["id"], np.flatnonzero(result.kept))
    with pytest.raises(mr.UserError, match="expected a structured array, such as result.particles, got Result"):
        mr.data_frame(result)
