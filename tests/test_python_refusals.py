"""What scripts get wrong of runs, tables and pages is one UserError, before work is done, that names the parameter."""

import numpy as np
import pytest

import mpirecon as mr

pytestmark = pytest.mark.in_python

M, BOX, SIZE = 100, 24, 5.0


@pytest.fixture(scope="module")
def particles():
    return mr.simulate(mr.phantom(BOX, SIZE), M, snr=0.3, seed=4)


def refused(function, said, *given, **named):
    """That a call is refused as the caller's mistake, in these words (a regular expression)."""
    with pytest.raises(mr.UserError, match=said):
        function(*given, **named)


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
    (dict(weights=np.ma.masked_less(np.arange(M), 2)), "weights: they are a masked array"),
    (dict(start_weights=np.ma.masked_less(np.arange(M), 2)), "starting weights: they are a masked array"),
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
    (mr.losses.FunctionLoss, "FunctionLoss is made of a function of the distances; give that function itself"),
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
