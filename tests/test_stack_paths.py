"""Where stacks are looked for, and what is said when they are not there."""

from __future__ import annotations

import os

import numpy as np
import pytest
from importing import make, pixels, refused, run, save_stack, table


@pytest.fixture
def project(tmp_path):
    """A project whose table names stacks from its folder."""
    save_stack(tmp_path / "proj" / "stacks" / "a.mrcs", pixels(range(8)))
    return tmp_path / "proj"


@pytest.mark.parametrize("place", ["elsewhere", "proj/External/job9/deep/deeper/deepest"])
@pytest.mark.parametrize("where", ["proj", "proj/External"])
def test_names_start_from_the_working_folder_or_any_folder_above_the_table(project, monkeypatch, place, where):
    (project / "External").mkdir()
    (project.parent / place).mkdir(parents=True, exist_ok=True)
    star = make(project.parent / place, stacks={})
    monkeypatch.chdir(project.parent / where)
    if place == "elsewhere" and where != "proj":
        message = refused(star, "the stack stacks/a.mrcs is not there, neither relative to the STAR file, a folder "
                          "above it or the working folder .*External, nor beside it; give its folder with --data-dir")
        assert "\n" not in message
        return
    file, text = run(star)
    np.testing.assert_array_equal(file.images(slice(None)), pixels(range(8)))
    assert "mapped" not in text


def test_the_table_s_own_folder_comes_first_and_the_other_file_is_named(project, monkeypatch):
    star = make(project.parent / "other", stacks={"stacks/a.mrcs": pixels(range(100, 108))})
    monkeypatch.chdir(project)
    file, text = run(star)
    np.testing.assert_array_equal(file.images(slice(None)), pixels(range(100, 108)))
    assert (
        f"the working folder has another file of that path, {project}/stacks/a.mrcs, which RELION would read: "
        "--map-stack"
        in text
    )
    file, text = run(star, "--map-stack", "stacks/a.mrcs=stacks/a.mrcs", "--overwrite")
    np.testing.assert_array_equal(file.images(slice(None)), pixels(range(8)))
    monkeypatch.chdir(project.parent / "other")
    assert "another file" not in run(star, "--overwrite")[1]


@pytest.mark.parametrize("broken", ["file", "folder", "loop"])
def test_links_to_nothing_are_named_with_their_target(tmp_path, broken):
    star = make(tmp_path, stacks={})
    if broken == "file":
        (tmp_path / "stacks").mkdir()
        os.symlink("/nonexistent/raw.mrcs", tmp_path / "stacks" / "a.mrcs")
        told = "stacks/a.mrcs is a link to /nonexistent/raw.mrcs, which is not there"
    elif broken == "folder":
        os.symlink("../gone", tmp_path / "stacks")
        told = "stacks is a link to ../gone, which is not there"
    else:
        os.symlink("stacks", tmp_path / "stacks")
        told = "stacks is a link to stacks, which is not there"
    refused(star, f"the stack stacks/a.mrcs is not there: {tmp_path}/{told}; .*--data-dir")


def test_each_of_two_links_may_be_mapped_to_one_file(tmp_path):
    """Two jobs that imported one stack; the links are gone, and each is mapped by its name."""
    real = save_stack(tmp_path / "real.mrcs", pixels(range(8)))
    names = [f"{i + 1}@{'J1/one' if i < 4 else 'J2/two'}.mrcs" for i in range(8)]
    star = make(tmp_path, table(rlnImageName=names), stacks={})
    file, _ = run(star, "--map-stack", f"one.mrcs={real}", "--map-stack", f"J2/two.mrcs={real}")
    np.testing.assert_array_equal(file.images(slice(None)), pixels(range(8)))
    spelled = [f"{i % 4 + 1}@{'J1/a' if i < 4 else './J1//a'}.mrcs" for i in range(8)]
    star = make(tmp_path, table(rlnImageName=spelled), stacks={})
    assert len(run(star, "--stack", real, "--overwrite")[0]) == 8


def test_one_mapping_by_the_last_name_is_not_for_two_stacks(tmp_path):
    real = save_stack(tmp_path / "real.mrcs", pixels(range(8)))
    names = [f"{i % 4 + 1}@J{1 + i // 4}/a.mrcs" for i in range(8)]
    star = make(tmp_path, table(rlnImageName=names), stacks={})
    refused(star, "the stacks J1/a.mrcs and J2/a.mrcs would both be read from", "--map-stack", f"a.mrcs={real}")
