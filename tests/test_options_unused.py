"""Options that would be ignored without another one are refused, before anything is done."""

import pytest

from mpirecon.cli import run


@pytest.mark.parametrize(("words", "needed"), [
    (("simulate", "--phantom", "--preferred-angle", "20"), "--preferred-views"),
    (("simulate", "--phantom", "--defocus-error-kind", "fixed"), "--defocus-error"),
    (("simulate", "--phantom", "--error-kind", "10"), "--orientation-error-rate"),
    (("import", "p.star", "--max-bad", "0.2"), "--skip-bad"),
    (("import", "p.star", "--orientation-error", "10"), "--orientation-error-rate"),
    (("reconstruct", "p.star", "--step", "0.5"), "--solver gradient"),
    (("reconstruct", "p.star", "--momentum", "0.5", "--solver", "normal"), "--solver gradient"),
    (("postprocess", "p.star", "p.star", "--locres-threshold", "0.143"), "--local-resolution"),
    (("postprocess", "p.star", "p.star", "--threads", "2"), "--local-resolution"),
])  # fmt: skip
def test_options_that_need_another_one(tmp_path, monkeypatch, capsys, words, needed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.star").touch()
    assert run([*words, "-o", "out"]) == 1
    assert f" has no effect without {needed}: give that too, or leave " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["p.star"]


@pytest.mark.parametrize("words", [("simulate", "--phantom", "--no-ctf", "--defocus", "1:2"),
                                   ("simulate", "--phantom", "--bfactor", "50", "--no-ctf"),
                                   ("import", "p.star", "--no-ctf", "--cs", "2.7")])
def test_options_that_another_one_leaves_without_effect(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.star").touch()
    assert run([*words, "-o", "out"]) == 1
    assert " has no effect with --no-ctf: leave one of them out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["p.star"]


def test_with_the_other_one_they_are_taken(tmp_path, capsys):
    words = ["simulate", "--phantom", "--box", "16", "--particles", "10", "-q", "-o", str(tmp_path / "p.h5")]
    assert run([*words, "--preferred-views", "0", "--preferred-angle", "20", "--error-rate", "0", "--error-kind", "9",
                "--defocus-error-kind", "fixed", "--defocus-error", "-50"]) == 0
    assert run(["reconstruct", str(tmp_path / "p.h5"), "-o", str(tmp_path / "run"), "-q", "--solver", "gradient",
                "--step", "0.5", "--momentum", "0.2", "--iterations", "1"]) == 0
    assert run(["export", str(tmp_path / "run"), "--step", "0.5", "--star", str(tmp_path / "s.star")]) == 1
    assert "no effect" not in capsys.readouterr().err  # --step of a path, which has no --solver
