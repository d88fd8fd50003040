"""Threads of a rank, the memory it keeps, and runs that must not depend on either."""

import itertools
import platform
import subprocess
import sys
import time

import mrcfile
import numpy as np
import pytest

from mpirecon.cli import run
from mpirecon.errors import UserError
from mpirecon.io.run_output import read_particle_table
from mpirecon.model.pose import matrix_from_quaternion, view_order
from mpirecon.parallel.threads import Threads, default_threads
from mpirecon.solvers import slab_data
from mpirecon.solvers.config import Config
from mpirecon.validate.fsc import fsc

# ---------------------------------------------------------------- threads


def test_all_pieces_are_done_once_and_an_error_waits_for_the_others():
    for count, length in itertools.product((1, 2, 3, 8), (0, 1, 5, 17)):
        seen = np.zeros(length, int)

        def add(a, b, seen=seen):
            seen[a:b] += 1

        Threads(count).over(length, add)
        np.testing.assert_array_equal(seen, 1)

    done = []

    def fails():
        raise UserError("the first")

    def takes_longer():
        time.sleep(0.1)
        done.append(1)

    with pytest.raises(UserError, match="the first"):
        Threads(2).run([fails, takes_longer])
    assert done == [1]


def test_threads_of_a_rank_where_none_are_given(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert default_threads(3) == 5
    for useless in ("", "0", "many", "2,1"):
        monkeypatch.setenv("OMP_NUM_THREADS", useless)
        assert default_threads(10**6) == 1 and default_threads(1) >= 1


# ---------------------------------------------------------------- whole runs

COLUMNS = ("distance", "score", "weight", "posterior", "scale", "sigma")


@pytest.fixture(scope="module")
def reconstructed(tmp_path_factory):
    """``reconstructed(options…)``: volume and particle table of a short run, made once for each set of options."""
    folder, made = tmp_path_factory.mktemp("runs"), {}
    simulated = "--phantom --particles 240 --box 20 --pixel-size 6 --snr 0.4 --error-rate 0.3 --noise-cv 0.2 -q -o"
    assert run(["simulate", *simulated.split(), str(folder / "p.h5")]) == 0
    small = pytest.MonkeyPatch()
    small.setattr(slab_data, "BATCH_BYTES", 50 * 20 * 20**2)  # several batches a pass

    def call(*options):
        if options not in made:
            out = folder / str(len(made))
            common = "--loss posterior --iterations 2 --no-postprocess --padding 1.5 -q -o".split()
            given = options if "--threads" in options else (*options, "--threads", "1")
            assert run(["reconstruct", str(folder / "p.h5"), *common, str(out), *given]) == 0
            made[options] = mrcfile.read(out / "volume.mrc"), read_particle_table(out / "particles.h5")
        return made[options]

    yield call
    small.undo()


def assert_same(one, other):
    np.testing.assert_array_equal(one[0], other[0])
    for name in one[1]:
        np.testing.assert_array_equal(one[1][name], other[1][name], err_msg=name)


def apart(one, other):
    return np.linalg.norm(one[0].astype(float) - other[0]) / np.linalg.norm(one[0])


@pytest.mark.parametrize("memory", ["90K", "1K"])
def test_images_kept_in_memory_change_nothing(reconstructed, memory):
    """Some of them, and none: those that are not kept are read anew in each pass."""
    assert_same(reconstructed("--memory", memory), reconstructed("--memory", "0"))


def test_images_that_are_all_kept_are_added_in_another_order(reconstructed):
    by_view, by_file = reconstructed("--memory", "1G"), reconstructed("--memory", "0")
    assert 0 < apart(by_file, by_view) < 2e-6
    for name in COLUMNS:
        np.testing.assert_allclose(by_view[1][name], by_file[1][name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_half_precision_changes_the_map_by_little_and_only_when_asked(reconstructed):
    plain, half = reconstructed("--memory", "1G"), reconstructed("--memory", "1G", "--half-precision")
    assert 0 < apart(plain, half) < 3e-4  # measured: 7e-5, and 1 − FSC 4e-8
    assert fsc(plain[0], half[0]).min() > 0.999
    np.testing.assert_allclose(half[1]["distance"], plain[1]["distance"], rtol=5e-3, atol=5e-3)
    # nothing kept, nothing rounded
    assert_same(reconstructed("--memory", "0", "--half-precision"), reconstructed("--memory", "0"))


def test_threads_change_a_run_by_rounding_only(reconstructed):
    one, two = reconstructed("--memory", "0"), reconstructed("--memory", "0", "--threads", "2")
    assert apart(one, two) < 1e-5
    for name in COLUMNS:
        np.testing.assert_allclose(two[1][name], one[1][name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_deterministic_threads_change_no_bit(reconstructed):
    one, two = (reconstructed("--deterministic", "--threads", str(count)) for count in (1, 2))
    assert_same(one, two)
    assert apart(one, reconstructed("--memory", "0")) < 1e-5


@pytest.mark.parametrize("option, value, told", [
    ("--threads", "0", "0 is out of range; expected at least 1"),
    ("--threads", "two", "'two' is not a whole number"),
    ("--memory", "8", "expected an amount with its unit, e.g. 64G or 512M"),
    ("--memory", "-1G", "expected an amount with its unit, e.g. 64G or 512M"),
    ("--memory", "much", "--memory much: expected an amount with its unit"),
    ("--padding", "1", "1 is out of range; expected at least 1.25 and at most 2"),
    ("--padding", "2.5", "2.5 is out of range; expected at least 1.25 and at most 2"),
    ("--padding", "nan", "nan is out of range; expected at least 1.25 and at most 2"),
])  # fmt: skip
def test_what_cannot_be_is_refused_by_name(tmp_path, capsys, option, value, told):
    (tmp_path / "p.h5").touch()
    assert run(["reconstruct", str(tmp_path / "p.h5"), "-o", str(tmp_path / "out"), option, value]) != 0
    message = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert option in message and told in message and "Traceback" not in message
    assert not (tmp_path / "out").exists()


def test_a_padding_out_of_range_is_refused_by_the_configuration_too():
    with pytest.raises(UserError, match="--padding 3: expected 1.25 to 2"):
        Config(padding=3.0)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again_without_new_pages():
    program = """if True:
        import resource, sys
        import numpy as np
        from mpirecon.parallel.threads import keep_freed_memory
        if sys.argv[1] == "keep":
            keep_freed_memory()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(40):
            several = [np.ones(2_000_000, np.uint8) for _ in range(8)]
            del several
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", program, how], capture_output=True, text=True, check=True).stdout)
        for how in ("give back", "keep")
    )
    assert kept < given_back / 5


def test_neighbours_in_the_order_of_views_look_from_close_by():
    q = np.random.default_rng(0).standard_normal((2000, 4))
    order = view_order(q / np.linalg.norm(q, axis=1, keepdims=True))
    assert sorted(order) == list(range(2000))
    view = matrix_from_quaternion(q / np.linalg.norm(q, axis=1, keepdims=True))[:, 2]
    apart = [np.degrees(np.arccos(np.clip(np.abs((view[o][1:] * view[o][:-1]).sum(axis=1)), 0, 1)))
             for o in (order, np.arange(2000))]
    assert np.median(apart[0]) < 6 < 45 < np.median(apart[1])
