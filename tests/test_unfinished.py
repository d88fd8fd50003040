"""What is said of a run that left no results, or only some."""

import pytest

import mpirecon as mr
from mpirecon.io.run_log import RankLog
from mpirecon.io.unfinished import state_of


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    return mr.simulate(mr.phantom(20, 5.0), 60, path=tmp_path_factory.mktemp("unfinished") / "p.h5", seed=3)


@pytest.mark.parametrize(("argv", "words"), [
    (["/usr/bin/mpirecon", "null", "p.h5"], "the same command begins again (it was: mpirecon null p.h5, on 2 ranks"),
    (["/x/mpirecon/__main__.py", "path", "a b.h5", "--resume"], "(it was: mpirecon path 'a b.h5', on 2 ranks"),
    (["/home/me/script.py", "3"], "the same call begins again (it was started by /home/me/script.py 3, on 2 ranks"),
    ([""], "the same call begins again (it was started by Python, on 2 ranks"),
    (["-c"], "(it was started by Python, on 2 ranks"),
    ([], "(it was started by Python, on 2 ranks"),
])
def test_how_a_run_was_started_is_said(tmp_path, argv, words):
    RankLog(tmp_path / "logs", size=2, argv=argv).close("UserError: none")
    assert words in state_of(tmp_path)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "summary.json").touch()
    again = "the same command with --resume" if "mpirecon" in words else "the same call with resume=True"
    assert f"are complete, but it was ended while they were put in their place; {again} does it" in state_of(tmp_path)


def test_a_run_whose_summary_is_gone_did_not_end_early(particles, tmp_path):
    mr.reconstruct(particles, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    for read in (mr.Result, mr.write_report):
        with pytest.raises(mr.UserError, match="run ended well at .* its last file, summary.json .* is not there"):
            read(tmp_path / "run")


@pytest.mark.parametrize(("call", "what", "options"), [
    (mr.reconstruct, "mpirecon.solvers.run.Reconstruction.finish", {"loss": "sorted", "keep": 0.7, "iterations": 2}),
    (mr.path, "mpirecon.solvers.walk.Walk.at_random", {"steps": (1, 0.9), "null": False}),
])
def test_a_temporary_folder_is_none_to_resume_from(particles, tmp_path, monkeypatch, call, what, options):
    """It goes with the call; where a folder was named, that is said."""
    def failing(*_):
        raise mr.UserError("it cannot go on")

    monkeypatch.setattr(what, failing)
    for output, words in ((None, "it cannot go on"), (tmp_path / "out", "it cannot go on. The state after ")):
        with pytest.raises(mr.UserError) as error:
            call(particles, output, **options)
        assert str(error.value).startswith(words) and (output is None) == (str(error.value) == words)
    assert (tmp_path / "out" / "checkpoint.h5").exists()
