"""What `export --cs` writes, as cryosparc-tools takes it:
its own Dataset class reads it, and `save_external_result` accepts it."""

from __future__ import annotations

import io
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from exporting import export, finish
from test_cryosparc import run as import_cs
from test_cryosparc import M, columns, make

from mpirecon.io.cs_file import read_cs

dataset = pytest.importorskip("cryosparc.dataset", reason="needs cryosparc-tools: pip install 'mpirecon[test]'")

KEPT = np.arange(M) % 3 > 0


@pytest.fixture
def exported(tmp_path):
    """(source array, kept.cs, rest.cs) of a run that kept some."""
    particles, source = import_cs_of(tmp_path)
    folder = finish(particles, tmp_path / "run", KEPT, score=np.linspace(3, 9, M), posterior=np.linspace(0, 1, M))
    export(folder, "--cs", tmp_path / "kept.cs", "--discarded", tmp_path / "rest.cs")
    return read_cs(source), tmp_path / "kept.cs", tmp_path / "rest.cs"


def import_cs_of(tmp_path, **changes):
    source = make(tmp_path, **changes)
    file, _ = import_cs(source, output=tmp_path / "p.h5")
    file.close()
    return file.path, source


def test_the_dataset_class_reads_every_field_as_it_was(exported):
    source, kept, rest = exported
    for path, rows in ((kept, KEPT), (rest, ~KEPT)):
        found = dataset.Dataset.load(str(path))
        assert len(found) == rows.sum() and found.fields()[0] == "uid"
        for name in source.dtype.names:
            values = source[name][rows]
            values = values.astype(str) if values.dtype.kind == "S" else values
            np.testing.assert_array_equal(np.array(found[name].tolist()), values, err_msg=name)
            if values.dtype.kind != "U":
                assert found[name].dtype == values.dtype, name
        np.testing.assert_allclose(found["mpirecon/score"], np.linspace(3, 9, M)[rows], rtol=1e-6)
    # kept and rest are the set, no uid twice
    both = dataset.Dataset.load(str(kept)).union(dataset.Dataset.load(str(rest)))
    assert sorted(both["uid"].tolist()) == sorted(source["uid"].tolist())


def test_what_it_saves_again_is_imported_as_the_same(exported, tmp_path):
    source, kept, _ = exported
    loaded = dataset.Dataset.load(str(kept))
    loaded.save(str(tmp_path / "again.cs"), format=dataset.NUMPY_FORMAT)
    ours, theirs = read_cs(kept), read_cs(tmp_path / "again.cs")
    assert set(ours.dtype.names) == set(theirs.dtype.names)
    for name in ours.dtype.names:
        np.testing.assert_array_equal(ours[name], theirs[name])
    stream = io.BytesIO(b"".join(loaded.stream()))  # as it goes to the server
    assert dataset.Dataset.load(stream) == loaded


def slots_of(path):
    """The slots of an exported file that a server knows: all but our own."""
    return [prefix for prefix in dataset.Dataset.load(str(path)).prefixes() if prefix != "mpirecon"]


def saved(monkeypatch, kept, **options):
    """What the method of the package hands to a server, which here only notes it."""
    from cryosparc.tools import CryoSPARC

    calls = {}

    def create(project, workspace, spec):
        calls["spec"] = spec
        return SimpleNamespace(uid="J99")

    class Job:
        def __init__(self, server, made):
            self.uid, self.run = made.uid, nullcontext

        def save_output(self, name, dataset):
            calls["name"], calls["dataset"] = name, dataset

    server = object.__new__(CryoSPARC)
    server.api = SimpleNamespace(jobs=SimpleNamespace(create_external_result=create))
    monkeypatch.setattr("cryosparc.tools.ExternalJobController", Job)
    assert server.save_external_result("P1", "W1", dataset=kept, type="particle", **options) == "J99"
    return calls


def test_save_external_result_takes_the_kept_particles(exported, monkeypatch):
    """The two ways of docs/files.md: a selection of the job that the particles come from, and a result of its own."""
    source, kept, _ = exported
    loaded = dataset.Dataset.load(str(kept))
    # a selection: uids alone, all the rest is passed through from the job
    calls = saved(monkeypatch, loaded.filter_fields(["uid"], copy=True), name="kept", slots=[],
                  passthrough=("J12", "particles"), title="mpirecon: kept")
    assert calls["dataset"].fields() == ["uid"] and set(calls["dataset"]["uid"]) == set(source["uid"][KEPT])
    assert (calls["spec"].spec.slots == [] and calls["spec"].connection.job_uid == "J12"
            and calls["spec"].connection.output == "particles")
    # everything, as a result that stands for itself
    slots = slots_of(kept)
    assert sorted(slots) == ["alignments3D", "blob", "ctf"]
    calls = saved(monkeypatch, loaded.filter_prefixes(slots, copy=True), name="kept", slots=slots)
    assert calls["dataset"].fields()[0] == "uid" and set(calls["dataset"].prefixes()) == set(slots)
    with pytest.raises(ValueError, match="missing required slots: location"):
        saved(monkeypatch, loaded, slots=["location"])


def test_without_uids_there_is_nothing_to_pass_through(tmp_path):
    """Dataset draws uids where a file has none, and a passthrough by them would find other particles."""
    particles, _ = import_cs_of(tmp_path, uid=None)
    folder = finish(particles, tmp_path / "run", KEPT)
    text = export(folder, "--cs", tmp_path / "kept.cs")
    assert (
        "the .cs file has no column uid, as its source: save_external_result cannot pass its particles through" in text
    )


def test_uids_that_come_twice_are_named(tmp_path):
    uid = columns()["uid"]
    uid[3] = uid[1]
    particles, _ = import_cs_of(tmp_path, uid=uid)
    folder = finish(particles, tmp_path / "run", np.ones(M, bool))
    assert f"the uid {uid[1]} occurs twice" in export(folder, "--cs", tmp_path / "kept.cs")


def test_planted_duplicates_have_uids_of_their_own(tmp_path):
    """By uid the package tells particles apart; all else of a copy is its particle's."""
    uid = columns()["uid"]
    source = make(tmp_path)
    file, _ = import_cs(source, "--duplicate-rate", 0.6, "--seed", 3, output=tmp_path / "p.h5")
    with file:
        copy = file.metadata().duplicate_of >= 0
        array = file.source_arrays()["particles"]
        m = len(file)
    assert 0 < copy.sum() < M and m == M + copy.sum() and len(set(array["uid"])) == m
    np.testing.assert_array_equal(array["uid"][~copy], uid)
    for name in set(array.dtype.names) - {"uid"}:
        np.testing.assert_array_equal(array[name][copy], array[name][np.flatnonzero(copy) - 1], err_msg=name)
    folder = finish(file.path, tmp_path / "run", np.ones(m, bool))
    assert "comes twice" not in export(folder, "--cs", tmp_path / "kept.cs")
    loaded = dataset.Dataset.load(str(tmp_path / "kept.cs"))
    assert len(set(loaded["uid"].tolist())) == m
