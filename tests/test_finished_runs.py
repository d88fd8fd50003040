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
    mr.export(finished / "run", **names, stack=tmp_path / "all.mrcs", overwrite=True)


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
    with pytest.raises(mr.UserError, match="cannot draw .doc"):
        found.draw(tmp_path / "fsc.doc")
    with pytest.raises(mr.UserError, match="of no two maps"):
        mr.Result(finished / "run").fsc.draw(tmp_path / "other.svg")
    assert not (tmp_path / "fsc.doc").exists() and not (tmp_path / "other.svg").exists()


def _drawn(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("<path ")
