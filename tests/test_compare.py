"""`mpirecon compare`: two runs beside each other, their particles matched by what they are."""

import json
import shutil

import numpy as np
import pytest
from test_cryosparc import make
from test_weights import star_file

import mpirecon as mr
from mpirecon.errors import UserError
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.particle_identity import match_particles, plain_image_names

COUNT, BOX, SIZE = 160, 24, 5.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Particles of a STAR file, and two runs of them."""
    folder = tmp_path_factory.mktemp("compare")
    particles = mr.simulate(mr.phantom(BOX, SIZE), COUNT, folder / "made.h5", snr=0.3, error_rate=0.3, seed=4)
    path = star_file(folder, particles, ["1"] * COUNT)
    mr.reconstruct(path, folder / "one", loss="sorted", keep=0.8, iterations=2)
    mr.reconstruct(path, folder / "two", loss="sorted", keep=0.5, iterations=2, diameter=90.0)
    mr.reconstruct(folder / "made.h5", folder / "made")
    return folder


def kept(folder):
    return mr.Result(folder).kept


def test_runs_of_one_file_are_compared_row_by_row(folder):
    found, a, b = mr.compare(folder / "one", folder / "two"), kept(folder / "one"), kept(folder / "two")
    assert found.counts == {"both": (a & b).sum(), "first": (a & ~b).sum(), "second": (b & ~a).sum(),
                            "neither": (~a & ~b).sum(),
                            "in_first_alone": 0, "in_second_alone": 0}
    assert (found.counts["both"] == 80 and found.same_half == 1
            and "both runs are of one particle file" in found.matched.by)
    assert [row[0] for row in found.settings] == ["keep", "mask", "diameter"] or [row[0] for row in found.settings] == [
        "keep",
        "diameter",
    ]
    assert found.settings[0] == ("keep", "0.8", "0.5")
    scores = [mr.Result(folder / name).particles["score"] for name in ("one", "two")]
    assert found.correlation == pytest.approx(np.corrcoef(*scores)[0, 1])
    # the FSC between the maps, by hand
    means = [np.mean([half.array for half in mr.Result(folder / name).half_maps], axis=0) for name in ("one", "two")]
    np.testing.assert_allclose(found.between["fsc_unmasked"], mr.fsc(*means, pixel_size=SIZE).values, atol=1e-6)
    mask = mr.Result(folder / "one").mask.array * mr.Result(folder / "two").mask.array
    np.testing.assert_allclose(found.between["fsc_masked"], mr.fsc(*means, mask=mask, pixel_size=SIZE).values,
                               atol=1e-6)
    assert found.between["fsc_masked"][3:6].mean() > 0.9 and found.notes == []


def test_a_run_compared_with_itself_has_no_differences(folder, tmp_path):
    shutil.copytree(folder / "one", tmp_path / "copy")
    found = mr.compare(mr.Result(folder / "one"), tmp_path / "copy")
    assert (found.settings == [] and found.correlation == pytest.approx(1) and found.counts["both"] == 128
            and found.counts["first"] == 0)
    assert found.between["fsc_unmasked"] == pytest.approx(1) and found.crossing(0.5) is None
    assert found.notes == []
    twice = mr.compare(folder / "one", folder / "two" / ".." / "one")  # one folder by two names
    assert len(twice.notes) == 1 and twice.notes[0].endswith("are one folder: this is a run beside itself")
    assert "No setting differs." in repr(found) and "The two maps agree up to Nyquist" in repr(found)


def test_runs_are_called_by_the_shortest_names_that_distinguish_them(folder, tmp_path, monkeypatch):
    for name in ("x/a/run", "x/b/run", "run", "run/run"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for file in (folder / "made").iterdir():
            if file.is_file():
                shutil.copy(file, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    here = tmp_path.name
    for first, second, names in (
        ("x/a/run", "x/b/run", ("a/run", "b/run")), (tmp_path / "x/a/run", "x/b/run", ("a/run", "b/run")),
        ("run", "run/run", (f"{here}/run", "run/run")), (folder / "made", "run", ("made", "run")),
        ("run", "x/../run", ("run (first)", "run (second)")),
    ):
        found = mr.compare(first, second, particles1=folder / "made.h5", particles2=folder / "made.h5")
        assert found.names == names and f"only {names[0]} 0, only {names[1]} 0" in repr(found)


def test_particles_of_another_file_are_found_by_their_image(folder, tmp_path):
    """A part of the set, shuffled: rows say nothing."""
    lines = (folder / "set.star").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if "@" in line)
    order = np.random.default_rng(1).permutation(COUNT)[:120]
    shuffled = [lines[first + i] for i in order]
    shuffled[0] = shuffled[0].replace("0000", "", 1)  # the same image, spelled otherwise
    (tmp_path / "part.star").write_text("\n".join([*lines[:first], *shuffled]) + "\n")
    mr.read_star(tmp_path / "part.star", folder).save(tmp_path / "part.h5")
    mr.reconstruct(tmp_path / "part.h5", tmp_path / "part", loss="sorted", keep=0.6, iterations=2)
    found, a, b = mr.compare(folder / "one", tmp_path / "part"), kept(folder / "one"), kept(tmp_path / "part")
    assert found.matched.by == "image name"
    np.testing.assert_array_equal(order[found.matched.second], found.matched.first)
    c = a[order]
    assert found.counts == {"both": (c & b).sum(), "first": (c & ~b).sum(), "second": (b & ~c).sum(),
                            "neither": (~c & ~b).sum(),
                            "in_first_alone": 40, "in_second_alone": 0}
    assert found.correlation > 0.8  # matched by row it would be none
    assert ("particles", "160", "120") in found.settings


def test_particles_of_cryosparc_are_found_by_uid(tmp_path):
    uid = np.arange(100, 108, dtype="u8")
    files = []
    for name, order in (("a", np.arange(8)), ("b", np.array([3, 1, 7, 0, 2, 6, 5, 4]))):
        (tmp_path / name).mkdir()
        path = make(tmp_path / name, uid=uid[order])
        files.append(tmp_path / f"{name}.h5")
        mr.read_cs(path, tmp_path / name).save(files[-1])
    with ParticleFile(files[0]) as first, ParticleFile(files[1]) as second:
        matched = match_particles(first, second)
    assert matched.by == "uid"
    np.testing.assert_array_equal(order[matched.second], matched.first)


def test_rows_of_one_image_are_distinguished_by_their_order(folder, tmp_path):
    lines = (folder / "set.star").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if "@" in line)
    (tmp_path / "twice.star").write_text(
        "\n".join([*lines[:first], *(line for line in lines[first:] for _ in range(2))]) + "\n"
    )
    mr.read_star(tmp_path / "twice.star", folder).save(tmp_path / "twice.h5")
    with ParticleFile(tmp_path / "twice.h5") as twice, ParticleFile(folder / "set.h5") as once:
        matched = match_particles(twice, once)
        assert len(match_particles(twice, twice).first) == 2 * COUNT
    np.testing.assert_array_equal(matched.first, 2 * np.arange(COUNT))
    np.testing.assert_array_equal(matched.second, np.arange(COUNT))


def test_image_names_are_compared_as_what_they_mean():
    names = plain_image_names(["000012@./a/../b/s.mrcs", "12@b/s.mrc:mrcs", "7@>J1/x.mrc", "000000@a.mrcs"])
    assert names.tolist() == ["12@b/s.mrcs", "12@b/s.mrc", "7@J1/x.mrc", "0@a.mrcs"]


def test_files_without_names_are_matched_by_their_images_or_not_at_all(folder, tmp_path):
    copy = mr.open(folder / "made.h5").save(tmp_path / "copy.h5")
    moved = copy.with_poses(np.zeros(0, [("id", "i8"), ("quaternion", "f8", 4), ("shift", "f8", 2)]),
                            tmp_path / "moved.h5")
    mr.reconstruct(moved, tmp_path / "moved")
    assert "the same images in the same order" in mr.compare(folder / "made", tmp_path / "moved").matched.by
    other = mr.simulate(mr.phantom(BOX, SIZE), COUNT, tmp_path / "other.h5", snr=0.3, seed=5)
    mr.reconstruct(other, tmp_path / "other")
    found = mr.compare(folder / "made", tmp_path / "other")
    assert (
        found.matched is None
        and found.counts is None
        and "cannot be matched: the particle files differ" in found.notes[0]
    )
    assert found.as_dict()["particles"] is None and found.between
    page = found.write(tmp_path / "c.html").read_text()
    assert "cannot be matched" in page and "<h2>Kept particles</h2>" not in page


def test_a_particle_file_that_is_gone(folder, tmp_path):
    shutil.copy(folder / "made.h5", tmp_path / "p.h5")
    mr.reconstruct(tmp_path / "p.h5", tmp_path / "a")
    mr.reconstruct(tmp_path / "p.h5", tmp_path / "b", diameter=90.0)
    (tmp_path / "p.h5").rename(tmp_path / "q.h5")
    found = mr.compare(tmp_path / "a", tmp_path / "b")
    assert found.counts["both"] == COUNT and "no longer exists" in found.matched.by
    assert mr.compare(folder / "made", tmp_path / "b").counts["both"] == COUNT  # a copy of the same particles
    mr.reconstruct(mr.simulate(mr.phantom(BOX, SIZE), COUNT, tmp_path / "r.h5", seed=77), tmp_path / "c")
    (tmp_path / "r.h5").unlink()
    found = mr.compare(folder / "made", tmp_path / "c")
    assert found.counts is None and "--particles1 or --particles2" in found.notes[0]
    assert mr.compare(folder / "made", tmp_path / "b", particles2=tmp_path / "q.h5").counts["both"] == COUNT
    with pytest.raises(mr.UserError, match="is not the particle file of the run"):
        small = mr.simulate(mr.phantom(BOX, SIZE), 20, tmp_path / "small.h5")
        mr.compare(folder / "made", tmp_path / "b", particles2=small.path)


def test_maps_of_other_boxes_are_not_compared(folder, tmp_path):
    mr.reconstruct(mr.simulate(mr.phantom(32, SIZE), 100, tmp_path / "p.h5", snr=1.0), tmp_path / "large")
    found = mr.compare(folder / "made", tmp_path / "large")
    assert (found.between == {} and "24 pixels of 5 Å and 32 pixels of 5 Å" in found.notes[-1]
            and found.as_dict()["between_05"] is None)
    assert found.write(tmp_path / "c.html").read_text().count("Half-map FSC of both runs") == 2


def test_maps_of_a_binned_set_are_compared_on_its_grid(folder, tmp_path):
    """36 pixels of 10/3 Å and 24 of 5 Å are one field of view: shells are the same, as far as both have them."""
    mr.reconstruct(mr.simulate(mr.phantom(36, 10 / 3), COUNT, tmp_path / "p.h5", snr=0.3, seed=4), tmp_path / "fine",
                   postprocess=False)
    for pair in ((folder / "made", tmp_path / "fine"), (tmp_path / "fine", folder / "made")):
        found = mr.compare(*pair)
        assert found.grid == (24, 5.0) and len(found.between["fsc_unmasked"]) == 13
        assert found.between["fsc_unmasked"][1:5].min() > 0.8 and 9 < (found.crossing(0.5) or 10) < 60
        assert any("on the coarser grid, 24 pixels of 5 Å" in note for note in found.notes)
        assert "FSC between the maps" in found.write(tmp_path / "c.html", overwrite=True).read_text()
    fine = np.mean([half.array for half in mr.Result(tmp_path / "fine").half_maps], axis=0)
    from mpirecon.report.comparison import to_box

    spectrum, cropped = np.fft.fftn(fine), np.fft.fftn(to_box(fine, 24))
    for at in ((0, 0, 0), (3, 0, 5), (-4, 7, 2)):
        assert cropped[at] == pytest.approx(
            spectrum[at] * (24 / 36) ** 3, rel=1e-4, abs=1e-3 * float(abs(spectrum).max())
        )


def test_the_command_reports_and_writes_one_page(folder, tmp_path, cli):
    page = tmp_path / "compare.html"
    done = cli("compare", folder / "one", folder / "two", "-o", page)
    assert done.returncode == 0, done.stderr
    counts = mr.compare(folder / "one", folder / "two").counts
    assert (
        f"Of 160 particles that both had, both kept 80, only one {counts['first']}, only two {counts['second']}, "
        "neither"
        in done.stdout
    )
    assert "keep" in done.stdout and "0.8 | 0.5" in done.stdout
    text = page.read_text()
    for title in ("Half-map FSC", "FSC between the maps", "Kept particles", "Scores of both runs",
                  "Settings that differ",
                  "The runs", "Maps"):
        assert f"<h2>{title}</h2>" in text, title
    assert "http" not in text.replace("http://www.w3.org/2000/svg",
                                      "") and "kept by both" in text and "mpirecon compare ·" in text
    done = cli("compare", folder / "one", folder / "two", "-o", page)
    assert done.returncode == 1 and "exists already" in done.stderr
    told = json.loads(cli("compare", folder / "one", folder / "two", "--json").stdout)
    assert told["particles"]["both"] == 80 and told["settings"][0] == {"name": "keep", "first": "0.8", "second": "0.5"}
    assert [run["kept"] for run in told["runs"]] == [128, 80] and len(told["between"]["fsc_unmasked"]) == 13
    done = cli("compare", folder / "one", folder)
    assert done.returncode == 1 and "not the folder of a finished run" in done.stderr and "Traceback" not in done.stderr


def test_the_page_has_no_trouble(folder, tmp_path, browser):
    mr.compare(folder / "one", folder / "two").write(tmp_path / "c.html")
    told = browser(tmp_path / "c.html", "tell({failed: window.failed, wide: document.documentElement.scrollWidth});",
                   1200, 900)
    assert told["failed"] == [] and told["wide"] <= 1200


def test_planted_errors_are_counted_by_who_kept_them(folder, tmp_path):
    mr.reconstruct(folder / "made.h5", tmp_path / "sorted", loss="sorted", keep=0.7, iterations=3)
    found = mr.compare(folder / "made", tmp_path / "sorted")
    wrong, right = mr.open(folder / "made.h5").truth["pose_error"], kept(tmp_path / "sorted")
    assert found.wrong == {"both": (wrong & right).sum(), "first": (wrong & ~right).sum(), "second": 0, "neither": 0}
    assert f"{(wrong & ~right).sum()} with a simulated error" in found.write(tmp_path / "c.html").read_text()


@pytest.mark.parametrize("name", [
    "particles", "particles.file", "particles.count", "particles.box", "particles.pixel_size", "version", "started",
    "seconds", "warnings", "configuration", "ranks", "resolution_0143", "resolution_05", "nyquist", "kept",
    "keep_estimate", "iterations", "resolution_of.mask", "resolution_of.corrected"])
def test_a_summary_of_another_version_is_named_with_what_it_lacks(folder, tmp_path, name):
    """Whether a field is not there or is something else."""
    shutil.copytree(folder / "one", tmp_path / "one")
    marker, words = tmp_path / "one" / "summary.json", name.split(".")
    for found in ("is missing", "is '<', and should be"):
        about = summary = json.loads((folder / "one" / "summary.json").read_text())
        for word in words[:-1]:
            about = about[word]
        text = isinstance(about[words[-1]], str)
        about[words[-1]] = 7 if text else "<"
        if found == "is missing":
            del about[words[-1]]
        marker.write_text(json.dumps(summary))
        for runs in ((folder / "two", tmp_path / "one"), (tmp_path / "one", folder / "two")):
            with pytest.raises(UserError, match=rf"one/summary\.json: {name} {found.replace('<', '7' if text else '<')}"
                                                ".*another version of mpirecon"):
                mr.compare(*runs)
        if name in ("particles", "configuration", "warnings", "iterations", "resolution_0143", "keep_estimate"):
            with pytest.raises(UserError, match=rf"summary\.json: {name} is"):
                mr.Result(tmp_path / "one")


def test_a_path_is_no_run_to_compare(folder, tmp_path):
    mr.path(folder / "made.h5", tmp_path / "path", steps=(1, 0.6), null=False)
    for read in (mr.Result, lambda path: mr.compare(folder / "one", path), lambda path: mr.compare(path, path)):
        with pytest.raises(UserError, match="path holds a path of selections, not a reconstruction"):
            read(tmp_path / "path")
    summary = json.loads((tmp_path / "path" / "summary.json").read_text())
    steps = [{**step, "fsc": "none"} for step in summary["steps"]]
    for changed, words in (({"verdict": {}}, "verdict.best is missing"), ({"random": None}, "random is null"),
                           ({"steps": steps}, r"steps\[0\].fsc is 'none', and should be a list")):
        (tmp_path / "path" / "summary.json").write_text(json.dumps({**summary, **changed}))
        with pytest.raises(UserError, match=words):
            mr.SelectionPath(tmp_path / "path")
