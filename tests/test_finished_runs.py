"""What scripts make of finished runs and of maps is what the commands make: export, the report, pages and figures."""

from pathlib import Path

import pytest

import mpirecon as mr

pytestmark = pytest.mark.in_python


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    particles = mr.simulate(mr.phantom(24, 5.0), 120, folder / "particles.h5", snr=0.5, error_rate=0.3, seed=4)
    mr.reconstruct(particles, folder / "run", loss="sorted", keep=0.7, iterations=1)
    return folder


def test_exported_particles_are_those_of_the_command(finished, tmp_path, cli):
    names = {name: tmp_path / f"{name}.star" for name in ("star", "discarded")}
    found = mr.export(finished / "run", **names, stack=tmp_path / "all.mrcs", poses="used")
    assert {path.name for path, _ in found.files} == {"star.star", "discarded.star", "all.mrcs"} and found.notes
    there = tmp_path / "command"
    there.mkdir()
    done = cli("export", finished / "run", "--star", there / "star.star", "--discarded", there / "discarded.star",
               "--stack", there / "all.mrcs", "--poses", "used")
    assert done.returncode == 0
    for path, what in found.files:
        ours, theirs = (file.read_bytes() for file in (path, there / path.name))
        assert ours.replace(str(tmp_path).encode(), b"") == theirs.replace(str(there).encode(), b"")
        assert what in done.stdout
    with pytest.raises(mr.UserError, match="star.star exists"):
        mr.export(finished / "run", **names, stack=tmp_path / "all.mrcs")
    again = mr.export(finished / "run", **names, stack=tmp_path / "all.mrcs", overwrite=True)
    assert any("(poses used writes" in note for note in again.notes)


@pytest.mark.parametrize("words", [
    {"poses": "Used"}, {"poses": None}, {"poses": 5}, {"poses": ""}, {"coordinates": "flip"}, {"coordinates": ""},
])
def test_a_word_that_an_export_does_not_know_is_refused(finished, tmp_path, words):
    """It was taken for the default."""
    (name, word), = words.items()
    with pytest.raises(mr.UserError, match=f"^{name}[ =]{word}: choose one of" if isinstance(word, str)
                       else f"^{name}={word}: expected text"):
        mr.export(finished / "run", star=tmp_path / "k.star", stack=tmp_path / "k.mrcs", **words)
    assert not list(tmp_path.iterdir())


def test_the_path_of_one_mtf_is_no_list_of_letters(finished, tmp_path):
    mtf = tmp_path / "mtf.star"
    mtf.write_text("data_\nloop_\n_rlnResolutionInversePixel\n_rlnMtfValue\n0 1\n0.5 0.4\n")
    for given in (str(mtf), mtf, [(None, mtf)]):
        with pytest.raises(mr.UserError, match="mtf: RELION takes MTFs by"):  # it was read
            mr.export(finished / "run", star=tmp_path / "k.star", stack=tmp_path / "k.mrcs", mtf=given)


class Named:
    """What names a file, and is neither str nor Path."""

    def __init__(self, path):
        self.path = str(path)

    def __fspath__(self):
        return self.path


@pytest.mark.parametrize("kind", [str, Path, Named])
def test_a_file_is_named_by_any_kind_of_path(finished, tmp_path, kind):
    there, new = (lambda name: kind(finished / name)), (lambda name: kind(tmp_path / name))
    assert mr.write_report(there("run")) == finished / "run" / "report.html"
    assert mr.write_report(there("run"), new("r.html")) == tmp_path / "r.html"
    assert mr.view(there("run/volume.mrc"), new("v.html")) == tmp_path / "v.html"
    assert mr.compare(there("run"), there("run"), particles1=there("particles.h5")).write(new("c.html")).is_file()
    mr.export(there("run"), star=new("k.star"), discarded=new("d.star"), stack=new("k.mrcs"),
              particles=there("particles.h5"))
    found = mr.fsc(there("run/half1.mrc"), there("run/half2.mrc"), there("run/mask.mrc"))
    assert found.comparison.first == str(finished / "run/half1.mrc")
    found.draw(new("f.svg"))
    found.comparison.write(new("f.csv"))
    linked = mr.read_star(new("k.star"), data_dir=new(""), stack=new("k.mrcs"), output=new("l.h5"))
    mr.ForwardModel(linked.save(new("again.h5")), slice(4)).write(there("run/volume.mrc"), new("p.mrcs"))
    mr.simulate(there("run/volume.mrc"), 8, new("s.h5"), second=there("run/volume.mrc"), second_fraction=0.2,
                truth_map=new("t.mrc"))
    mr.automatic_mask(there("run/volume.mrc")).write(new("m.mrc"))
    assert mr.read_map(new("m.mrc")).box == mr.open(new("again.h5")).box == 24
    scores = mr.score(there("run/half1.mrc"), there("run/half2.mrc"), new("k.star"), new("s.csv"), star=new("s.star"),
                      mask=there("run/mask.mrc"))
    assert len(scores) == len(linked) and (tmp_path / "s.star").is_file()
    result = mr.reconstruct(there("particles.h5"), new("run"), iterations=1, mask=there("run/mask.mrc"),
                            reference=there("run/volume.mrc"))
    assert result.summary["configuration"]["mask"] == str(finished / "run/mask.mrc")
    mr.Result(new("run")).save(new("saved"))


def test_the_report_is_written_again(finished, tmp_path, cli):
    own = finished / "run" / "report.html"
    before = own.read_bytes()
    assert mr.write_report(finished / "run") == own
    page = mr.write_report(finished / "run", tmp_path / "page.html")
    assert cli("report", finished / "run", "-o", tmp_path / "command.html").returncode == 0
    assert page.read_bytes() == (tmp_path / "command.html").read_bytes()
    assert abs(len(own.read_bytes()) - len(before)) < 0.01 * len(before)
    for taken in (page, finished / "run" / "volume.mrc", finished / "particles.h5"):
        held = taken.read_bytes()
        with pytest.raises(mr.UserError, match=taken.name):
            mr.write_report(finished / "run", taken)
        assert taken.read_bytes() == held
    with pytest.raises(mr.UserError, match="nothing-here"):
        mr.write_report(tmp_path / "nothing-here")


def test_a_map_is_viewed(finished, tmp_path, cli):
    volume = tmp_path / "volume.mrc"
    volume.write_bytes((finished / "run" / "volume.mrc").read_bytes())
    assert mr.view(volume, size=16, level=0.1) == tmp_path / "volume.html"
    assert cli("view", volume, "-o", tmp_path / "other.html", "--size", 16, "--level", 0.1).returncode == 0
    assert (tmp_path / "volume.html").read_bytes() == (tmp_path / "other.html").read_bytes()
    with pytest.raises(mr.UserError, match="volume.html exists"):
        mr.view(volume)
    with pytest.raises(mr.UserError, match="volume.mrc"):
        mr.view(volume, volume, overwrite=True)
    with pytest.raises(mr.UserError, match="size 300: a page shows 16 to 256"):
        mr.view(volume, size=300, overwrite=True)
    assert len(mr.read_map(volume).array) == 24


def test_a_comparison_is_drawn(finished, tmp_path, cli):
    halves = [finished / "run" / f"half{k}.mrc" for k in (1, 2)]
    found = mr.fsc(*halves, "auto", phase_randomise=True)
    found.draw(tmp_path / "fsc.svg")
    done = cli("fsc", *halves, "--mask", "auto", "--phase-randomise", "--plot", tmp_path / "command.svg")
    assert done.returncode == 0
    assert _drawn(tmp_path / "fsc.svg") == _drawn(tmp_path / "command.svg") > 5
    with pytest.raises(mr.UserError, match="fsc.svg exists"):
        found.draw(tmp_path / "fsc.svg")
    for ending in (".doc", ".jpg", ".gif", ".eps"):
        with pytest.raises(mr.UserError, match=f"cannot draw {ending}; use .png, .svg or .pdf"):
            found.draw(tmp_path / f"fsc{ending}")
        done = cli("fsc", *halves, "--plot", tmp_path / f"fsc{ending}")
        assert done.returncode == 1 and f"cannot draw {ending}; use .png, .svg or .pdf" in done.stderr
        assert not (tmp_path / f"fsc{ending}").exists()
    for ending, start in ((".PNG", b"\x89PNG"), (".pdf", b"%PDF")):
        found.draw(tmp_path / f"fsc{ending}")
        assert (tmp_path / f"fsc{ending}").read_bytes().startswith(start)
    with pytest.raises(mr.UserError, match="of no two maps"):
        mr.Result(finished / "run").fsc.draw(tmp_path / "other.svg")
    assert not (tmp_path / "other.svg").exists()


def _drawn(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("<path ")


@pytest.mark.parametrize("name, use", [
    ("fsc.csv", lambda result: result.fsc),
    ("fsc.csv", lambda result: result.plot()),
    ("mask.mrc", lambda result: result.mask),
    ("sharpened.mrc", lambda result: result.sharpened),
    ("volume.mrc", lambda result: result.volume),
    ("particles.h5", lambda result: result.particles),
])  # fmt: skip
def test_a_file_that_was_removed_from_a_run_is_named(finished, tmp_path, name, use):
    copy = mr.Result(finished / "run").save(tmp_path / "copy")
    assert copy.mask is not None and copy.sharpened is not None
    copy = mr.Result(tmp_path / "copy")
    (tmp_path / "copy" / name).unlink()
    with pytest.raises(mr.UserError, match=f"copy/{name}"):
        use(copy)


@pytest.mark.parametrize("content", [b"", b"fsc\n", b"fsc\nmuch\n", b"\xff\xfe\x00"],
                         ids=["empty", "head", "words", "bytes"])
def test_curves_that_are_damaged_are_named(finished, tmp_path, content):
    copy = mr.Result(finished / "run").save(tmp_path / "copy")
    (tmp_path / "copy" / "fsc.csv").write_bytes(content)
    with pytest.raises(mr.UserError, match="copy/fsc.csv is damaged"):
        copy.curve("fsc")


def test_a_removed_run_is_not_saved(finished, tmp_path):
    copy = mr.Result(finished / "run").save(tmp_path / "copy")
    (tmp_path / "copy").rename(tmp_path / "moved")
    with pytest.raises(mr.UserError, match="copy: no such folder, which the run wrote"):
        copy.save(tmp_path / "again")
    assert not (tmp_path / "again").exists()
