"""Parallel equals serial, under a real mpirun."""

import json

import h5py
import mrcfile
import numpy as np
import pytest


def simulate(cli, path, count, *options):
    result = cli("simulate", "--phantom", "--particles", count, "--box", 24, "--pixel-size", 6, "--snr", 0.2,
                 "--error-rate", 0.3, "--seed", 5, "-o", path, *options)
    assert result.returncode == 0, result.stderr
    return path


@pytest.fixture(scope="module")
def particles(tmp_path_factory, cli):
    # 301: slabs are uneven on 2, 3 and 4 ranks
    return simulate(cli, tmp_path_factory.mktemp("mpi") / "particles.h5", 301)


RUNS = {
    "sorted": ("--loss", "sorted", "--keep", "0.7", "--iterations", "3"),
    "huber": ("--loss", "huber", "--iterations", "2"),
    "gradient": ("--solver", "gradient", "--loss", "sorted", "--keep", "0.7", "--iterations", "3", "--batch-size",
                 "150"),
}


@pytest.fixture(scope="module")
def serial(particles, cli):
    done = {}

    def call(name):
        if name not in done:
            out = particles.parent / f"{name}-serial"
            result = cli("reconstruct", particles, "-o", out, *RUNS[name])
            assert result.returncode == 0, result.stderr
            done[name] = out
        return done[name]

    return call


def run(mpirun, n, particles, out, *options, env=None):
    result = mpirun(n, ["-m", "mpirecon", "reconstruct", particles, "-o", out, *options], timeout=120, env=env)
    assert result.returncode == 0, result.stderr
    return out


def assert_same(a, b, volume=1e-5):
    for name in ("volume", "half1", "half2"):
        x, y = (mrcfile.read(folder / f"{name}.mrc").astype(float) for folder in (a, b))
        assert np.linalg.norm(x - y) <= volume * np.linalg.norm(x), name
    with h5py.File(a / "particles.h5") as x, h5py.File(b / "particles.h5") as y:
        for name in ("id", "half", "kept", "pose_error", "skipped"):
            np.testing.assert_array_equal(x[name], y[name], err_msg=name)
        for name in ("distance", "weight", "score", "sigma", "scale"):
            np.testing.assert_allclose(x[name], y[name], rtol=1e-4, atol=1e-5, err_msg=name)
    x, y = (json.loads((folder / "summary.json").read_text()) for folder in (a, b))
    assert x["kept"] == y["kept"] and x["detection"]["wrong_among_kept"] == y["detection"]["wrong_among_kept"]
    assert x["resolution_0143"] == pytest.approx(y["resolution_0143"], rel=1e-4)
    for r, s in zip(x["iterations"], y["iterations"], strict=True):
        assert r.keys() == s.keys()
        for key in ("loss", "loss_l2", "loss_heldout", "loss_l2_heldout"):
            assert r[key] == pytest.approx(s[key], rel=1e-5), key
        assert (r["kept"], r["wrong_among_kept"]) == (s["kept"], s["wrong_among_kept"])


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_any_number_of_ranks_gives_the_serial_result(mpirun, serial, particles, n):
    out = run(mpirun, n, particles, particles.parent / f"sorted-{n}", *RUNS["sorted"])
    assert_same(serial("sorted"), out)
    ranks = json.loads((out / "summary.json").read_text())["ranks"]
    assert [r["rank"] for r in ranks] == list(range(n))
    assert sum(r["particles"] for r in ranks) == 301
    assert len(list((out / "logs").glob("rank*.jsonl"))) == n


@pytest.mark.parametrize("name", ["huber", "gradient"])
def test_other_losses_and_solvers_too(mpirun, serial, particles, name):
    out = run(mpirun, 3, particles, particles.parent / f"{name}-3", *RUNS[name])
    assert_same(serial(name), out)


def test_more_ranks_than_particles(mpirun, cli, tmp_path):
    path = simulate(cli, tmp_path / "few.h5", 6)
    with h5py.File(path, "r+") as file:
        file["half"][...] = [1, 2, 1, 2, 1, 2]
    options = ("--loss", "sorted", "--keep", "0.5", "--iterations", "2", "--folds", "3")
    done = cli("reconstruct", path, "-o", tmp_path / "one", *options)
    assert done.returncode == 0, done.stderr
    # of their own: eight that wait would have those of all other numbers end, and start again
    assert_same(tmp_path / "one", run(mpirun, 8, path, tmp_path / "eight", *options, env={}))


def test_every_rank_logs_what_it_was_given_and_sorted(mpirun, particles, serial, cli):
    out = particles.parent / "sorted-4"
    if not out.exists():
        run(mpirun, 4, particles, out, *RUNS["sorted"])
    seen = []
    for rank in range(4):
        lines = [json.loads(line) for line in (out / "logs" / f"rank{rank:04d}.jsonl").read_text().splitlines()]
        assert lines[0]["event"] == "start" and lines[0]["rank"] == rank and lines[0]["size"] == 4
        assert "--keep" in lines[0]["argv"]
        (last,) = [line for line in lines if line["event"] == "sort_particles" and line["iteration"] == 3]
        seen += last["ids_after"]
        assert len(last["kept_after"]) == len(last["pose_error_after"]) == len(last["ids_after"])
    assert sorted(seen) == list(range(301))
    joined = cli("logs", out, "--json")
    assert joined.returncode == 0, joined.stderr


def one_message(result, *parts):
    assert result.returncode != 0
    text = result.stderr
    assert text.count("Error:") == 1, text
    assert "Traceback" not in text
    for part in parts:
        assert part in text, text


def test_a_bad_image_met_by_one_rank_ends_all_with_one_message(mpirun, cli, tmp_path):
    path = simulate(cli, tmp_path / "nan.h5", 60)
    with h5py.File(path, "r+") as file:
        file["images"][47, 3, 4] = np.nan
    out = tmp_path / "out"
    command = ["-m", "mpirecon", "reconstruct", path, "-o", out]
    one_message(mpirun(3, command), "nan.h5", "particle 47", "NaN", "--skip-bad")
    assert not (out / "summary.json").exists() and not (out / "volume.mrc").exists()
    result = mpirun(3, [*command, "--skip-bad", "--overwrite"])
    assert result.returncode == 0, result.stderr
    assert "47" in result.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["particles"]["skipped"] == [47] and summary["kept"] == 59
    assert np.isfinite(mrcfile.read(out / "volume.mrc")).all()


def test_a_missing_file_ends_all_ranks_with_one_message(mpirun, tmp_path):
    result = mpirun(2, ["-m", "mpirecon", "reconstruct", tmp_path / "none.h5", "-o", tmp_path / "out"])
    assert result.returncode != 0
    assert result.stderr.count("none.h5") == 1 and "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_existing_output_folder_is_refused_by_all_ranks(mpirun, particles, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep me")
    command = ["-m", "mpirecon", "reconstruct", particles, "-o", tmp_path / "out"]
    one_message(mpirun(2, command), "out", "--overwrite")
    assert mpirun(2, [*command, "--overwrite"]).returncode == 0
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep me"
