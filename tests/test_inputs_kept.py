"""No command destroys what it reads: every output option of every command,
pointed at every input by every kind of name."""

import hashlib
import os
import shutil

import click
import mrcfile
import numpy as np
import pandas as pd
import pytest

import mpirecon as mr
from mpirecon.cli import COMMANDS, group, run
from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_files, atomic_path, refuse_existing, write_failed
from mpirecon.io.inputs import Input, refuse_inputs, refuse_twice
from mpirecon.io.star import write_star

BOX, PIXEL, COUNT = 24, 6.0, 60


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A folder with a project: stack, table, particle files (copied and linked), a run of each, maps and masks."""
    folder = tmp_path_factory.mktemp("inputs")
    before = os.getcwd()
    os.chdir(folder)
    for words in (["simulate", "--phantom", "--particles", COUNT, "--box", BOX, "--pixel-size", PIXEL, "--snr", "2",
                   "-o", "made.h5"],
                  ["reconstruct", "made.h5", "-o", "first"],
                  ["export", "first", "--star", "p.star", "--stack", "s.mrcs"]):  # fmt: skip
        assert run([*map(str, words), "-q"]) == 0
    for name, source in (("given", "mask"), ("reference", "volume")):
        shutil.copy(f"first/{source}.mrc", f"{name}.mrc")
    write_star("mtf.star", {"": pd.DataFrame({"rlnResolutionInversePixel": ["0", "0.5"], "rlnMtfValue": ["1", "0.4"]})},
               False)
    for words in (["import", "p.star", "-o", "p.h5"], ["import", "p.star", "--link", "-o", "linked.h5"],
                  ["reconstruct", "p.h5", "-o", "run", "--loss", "sorted", "--keep", "0.5", "--iterations", "2",
                   "--mask", "given.mrc", "--reference", "reference.mrc"],
                  ["reconstruct", "linked.h5", "-o", "of_links"]):  # fmt: skip
        assert run([*words, "-q"]) == 0
    shutil.copy("run/mask.mrc", "mask.mrc")
    os.chdir(before)
    return folder


def content(folder):
    """Path → what every file holds, and where links lead."""
    return {
        path.relative_to(folder): os.readlink(path) if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def project(ready, monkeypatch):
    """The project itself, as files are recorded in it; what a test adds is removed."""
    monkeypatch.chdir(ready)
    there = set(ready.iterdir())
    yield ready
    for entry in set(ready.iterdir()) - there:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@pytest.fixture
def copied(ready, tmp_path, monkeypatch):
    """A copy, to be written into."""
    shutil.copytree(ready, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


#: (command, option that writes) → the command with {} for the file to write, and the files that it reads
WRITERS = {
    ("simulate", "output"): ("simulate --map run/volume.mrc --particles 8 --no-ctf -o {}", ["run/volume.mrc"]),
    ("simulate", "truth_map"): (
        "simulate --map run/volume.mrc --particles 8 -o new.h5 --truth-map {}",
        ["run/volume.mrc"],
    ),
    ("import", "output"): ("import p.star -o {}", ["p.star", "s.mrcs"]),
    # by its ending it cannot be a map
    ("fsc", "plot"): ("fsc run/half1.mrc run/half2.mrc --mask mask.mrc --plot {}", []),
    ("fsc", "csv_path"): (
        "fsc run/half1.mrc run/half2.mrc --mask mask.mrc --csv {}",
        ["run/half1.mrc", "run/half2.mrc", "mask.mrc"],
    ),
    ("mask", "output"): ("mask run/half1.mrc --half run/half2.mrc -o {}", ["run/half1.mrc", "run/half2.mrc"]),
    ("view", "output"): ("view run/volume.mrc -o {}", ["run/volume.mrc"]),
    ("project", "output"): (
        "project run/volume.mrc linked.h5 -o {}",
        ["run/volume.mrc", "linked.h5", "s.mrcs", "p.star"],
    ),
    ("score", "output"): (
        "score run/half1.mrc run/half2.mrc linked.h5 --mask mask.mrc -o {}",
        ["run/half1.mrc", "run/half2.mrc", "linked.h5", "s.mrcs", "p.star", "mask.mrc"],
    ),
    ("score", "star"): (
        "score run/half1.mrc run/half2.mrc p.h5 -o new.csv --star {}",
        ["run/half1.mrc", "p.h5", "p.star"],
    ),
    ("score", "cs_table"): (
        "score run/half1.mrc run/half2.mrc p.h5 -o new.csv --cs {}",
        ["run/half2.mrc", "p.h5", "p.star"],
    ),
    ("compare", "output"): (
        "compare run of_links -o {}",
        ["p.h5", "run/summary.json", "of_links/particles.h5", "run/volume.mrc", "linked.h5", "p.star", "s.mrcs",
         "given.mrc"],
    ),
    ("export", "star"): (
        "export run --star {}",
        ["p.h5", "p.star", "s.mrcs", "run/particles.h5", "run/summary.json", "run/logs/rank0000.jsonl", "given.mrc"],
    ),
    # by its ending a table
    ("export", "discarded"): ("export of_links --star new.star --stack new.mrcs --discarded {}", []),
    ("export", "cs"): ("export run --cs {}", ["p.h5", "run/summary.json"]),
    ("export", "stack"): ("export run --star new.star --stack {}", ["s.mrcs"]),
    ("report", "output"): (
        "report run -o {}",
        ["p.h5", "run/summary.json", "run/particles.h5", "run/volume.mrc", "run/logs/rank0000.jsonl", "p.star",
         "s.mrcs", "given.mrc", "reference.mrc"],
    ),
    ("logs", "csv_path"): ("logs run --csv {}", ["run/logs/rank0000.jsonl", "run/summary.json", "p.h5", "p.star"]),
    ("aberrations", "star"): ("aberrations run --band 100:40 --star {}", ["p.star", "p.h5", "s.mrcs", "run/half1.mrc",
                                                                        "given.mrc"]),
}
#: those that write folders, tried below, and what only tries whether a folder can be written
FOLDERS = {*((name, "output") for name in ("reconstruct", "null", "path", "postprocess", "check", "job")),
           ("relion", "o")}


def test_every_option_that_names_an_output_is_tried():
    """A new command or option must be added above."""
    found = set()
    for name in COMMANDS:
        for option in group.get_command(click.Context(group), name).params:
            writes = isinstance(option, click.Option) and isinstance(option.type, click.Path) and not option.type.exists
            if writes and option.name not in ("mask", "map_path", "second_map", "model_path"):  # which are read
                found.add((name, option.name))
    assert found == set(WRITERS) | FOLDERS


def by_another_name(read, kind, suffix=None):
    """A name that leads to the file `read` of the current folder."""
    if kind in ("symbolic link", "hard link"):
        target = f"another{suffix or os.path.splitext(read)[1]}"
        (os.symlink if kind == "symbolic link" else os.link)(os.path.abspath(read), target)
        return target
    return {"itself": read, "other spelling": f"run/../{read}", "from elsewhere": os.path.abspath(read)}[kind]


@pytest.mark.parametrize("kind", ["itself", "symbolic link", "hard link", "other spelling"])
@pytest.mark.parametrize(("writer", "read"), [(writer, read) for writer,
                                              (_, reads) in WRITERS.items() for read in reads])
def test_an_output_that_is_an_input_is_refused(project, capsys, writer, read, kind):
    target = by_another_name(read, kind, {"export.stack": ".mrcs", "fsc.plot": ".png"}.get(".".join(writer)))
    before = content(project)
    code = run([*WRITERS[writer][0].format(target).split(), "--overwrite", "-q"] if writer[0] != "logs" else
               [*WRITERS[writer][0].format(target).split(), "--overwrite"])
    said = capsys.readouterr().err
    assert content(project) == before
    assert code == 1 and "would replace what it is made from" in said and target in said, said


def poses():
    """For two particles."""
    table = np.zeros(2, [("id", "i8"), ("quaternion", "f8", 4), ("shift", "f8", 2)])
    table["id"], table["quaternion"][:, 0] = [0, 1], 1
    return table


#: of the Python interface: what writes → (how, with the file to write, and the files that it reads)
FUNCTIONS = {
    "Particles.save": (
        lambda target: mr.open("linked.h5").save(target, overwrite=True),
        ["linked.h5", "s.mrcs", "p.star"],
    ),
    "Particles.with_poses": (
        lambda target: mr.open("linked.h5").with_poses(poses(), target, overwrite=True),
        ["linked.h5", "s.mrcs", "p.star"],
    ),
    "Particles.with_poses, of images copied": (
        lambda target: mr.open("p.h5").with_poses(poses(), target, overwrite=True),
        ["p.h5", "p.star", "s.mrcs"],
    ),
    "of a table": (lambda target: mr.read_star("p.star").save(target, overwrite=True), ["p.star", "s.mrcs"]),
    "read_star": (lambda target: mr.read_star("p.star", output=target, overwrite=True), ["p.star", "s.mrcs"]),
    "ForwardModel.write": (
        lambda target: mr.ForwardModel(mr.open("linked.h5")).write("run/volume.mrc", target, overwrite=True),
        ["run/volume.mrc", "linked.h5", "s.mrcs", "p.star"],
    ),
    "compare": (
        lambda target: mr.compare("run", "of_links").write(target, overwrite=True),
        ["run/volume.mrc", "p.h5", "given.mrc", "of_links/summary.json", "linked.h5", "s.mrcs", "p.star"],
    ),
    "write_report": (
        lambda target: mr.write_report("run", target, overwrite=True),
        ["run/volume.mrc", "p.h5", "p.star", "s.mrcs", "given.mrc", "reference.mrc"],
    ),
    "fsc": (
        lambda target: mr.fsc("run/half1.mrc", "run/half2.mrc", "mask.mrc").comparison.write(target, overwrite=True),
        ["run/half1.mrc", "run/half2.mrc", "mask.mrc"],
    ),
    "export": (lambda target: mr.export("run", star=target, overwrite=True), ["run/fsc.csv", "p.h5", "p.star",
                                                                             "given.mrc"]),
    "view": (lambda target: mr.view("run/volume.mrc", target, overwrite=True), ["run/volume.mrc"]),
    "simulate": (
        lambda target: mr.simulate("run/volume.mrc", 8, target, overwrite=True),
        ["run/volume.mrc"],
    ),
    "score": (
        lambda target: mr.score("run/half1.mrc", "run/half2.mrc", "linked.h5", target, overwrite=True),
        ["run/half1.mrc", "linked.h5", "s.mrcs", "p.star"],
    ),
}


@pytest.mark.parametrize("kind", ["itself", "symbolic link", "hard link", "other spelling", "from elsewhere"])
@pytest.mark.parametrize(("name", "read"), [(name, read) for name, (_, reads) in FUNCTIONS.items() for read in reads])
def test_a_function_does_not_replace_what_it_reads(project, name, read, kind):
    target = by_another_name(read, kind)
    before = content(project)
    with pytest.raises(UserError, match="would replace what it is made from") as met:
        FUNCTIONS[name][0](target)
    assert content(project) == before and target in str(met.value)


def test_a_figure_does_not_replace_a_map(project):
    shutil.copy("run/half1.mrc", "in.png")
    before = content(project)
    with pytest.raises(UserError, match="in.png is the first map"):
        mr.fsc("in.png", "run/half2.mrc").draw("in.png", overwrite=True)
    assert run(["fsc", "in.png", "run/half2.mrc", "--plot", "in.png", "--overwrite"]) == 1
    assert content(project) == before


def test_what_a_run_was_made_from_is_found_from_another_folder(project, tmp_path, monkeypatch):
    """summary.json names the particles and the mask as they were given, from the folder of the command."""
    before = content(project)
    monkeypatch.chdir(tmp_path)
    for name in ("p.h5", "p.star", "given.mrc", "reference.mrc"):
        with pytest.raises(UserError, match="would replace what it is made from"):
            mr.write_report(project / "run", project / name, overwrite=True)
    assert content(project) == before


@pytest.mark.parametrize(("words", "name", "source"), [
    ("postprocess run -o out", "mask.mrc", "given.mrc"), ("reconstruct p.h5 -o out", "fsc.csv", "p.star"),
    ("reconstruct p.star -o out", "volume.mrc", "s.mrcs"),
])
def test_no_file_of_a_folder_is_one_that_the_run_was_made_from(project, words, name, source):
    os.mkdir("out")
    os.link(source, f"out/{name}")
    before = content(project)
    assert run([*words.split(), "--overwrite", "-q"]) == 1
    assert content(project) == before


def test_a_saved_result_or_a_local_resolution_replaces_no_origin(copied):
    os.mkdir("out")
    os.link("given.mrc", "out/sharpened.mrc")
    os.link("given.mrc", "run/locres.mrc")
    before = content(copied)
    with pytest.raises(UserError, match="out/sharpened.mrc is the mask"):
        mr.Result("run").save("out", overwrite=True)
    assert run("postprocess run --local-resolution --overwrite -q".split()) == 1
    assert content(copied) == before


def test_a_list_of_rows_is_kept(project):
    (project / "list.txt").write_text("000001@s.mrcs\n000002@s.mrcs\n")
    before = content(project)
    with pytest.raises(UserError, match="list.txt is the list of rows"):
        mr.read_star("p.star", select="rlnImageName=@list.txt", output="list.txt", overwrite=True)
    assert content(project) == before
    made = mr.read_star("p.star", select="rlnImageName=@list.txt")
    with pytest.raises(UserError, match="list.txt is the file that these particles were imported from"):
        made.save("list.txt", overwrite=True)
    assert content(project) == before


@pytest.mark.parametrize("words", [
    "reconstruct p.h5 -o {} --overwrite", "null p.h5 -o {} --overwrite", "path p.h5 -o {} --overwrite",
    "reconstruct p.h5 -o {}",
])
@pytest.mark.parametrize("link", [os.symlink, os.link, shutil.copy])
def test_a_run_refuses_a_folder_whose_files_are_its_particles(project, capsys, words, link):
    os.mkdir("out")
    name = "fsc.csv" if words.startswith("null") else "particles.h5"
    link(os.path.abspath("p.h5"), f"out/{name}")
    words = words.replace("p.h5", f"out/{name}")
    before = content(project)
    assert run(words.format("out").split()) == 1
    assert (
        content(project) == before and f"out/{name} is the particle file that this run reads" in capsys.readouterr().err
    )


def test_a_linked_stack_is_not_replaced_by_a_map(project, capsys):
    os.mkdir("out")
    os.link("s.mrcs", "out/volume.mrc")
    before = content(project)
    assert run(["reconstruct", "linked.h5", "-o", "out", "--overwrite"]) == 1
    assert (
        content(project) == before
        and "out/volume.mrc is the stack of images that linked.h5 refers to" in capsys.readouterr().err
    )


@pytest.mark.parametrize("how", ["mask.mrc", "symbolic link", "half1.mrc", "unfinished/mask.mrc"])
def test_the_mask_of_the_run_before_is_kept(copied, capsys, how):
    """The tutorial's next step: the same again with the mask that the first run made."""
    mask = {"symbolic link": "mine.mrc"}.get(how, f"run/{how}")
    if how == "symbolic link":
        os.symlink("run/mask.mrc", mask)
    if how == "unfinished/mask.mrc":
        os.mkdir("run/unfinished")
        shutil.copy("mask.mrc", mask)
    given = open(mask, "rb").read()
    before = content(copied)
    code = run(["reconstruct", "p.h5", "-o", "run", "--mask", mask, "--overwrite", "-q"])
    assert open(mask, "rb").read() == given
    if how in ("half1.mrc", "unfinished/mask.mrc"):  # a run writes one of its own
        assert (
            code == 1
            and content(copied) == before
            and f"run/{how} is the mask that this run reads" in capsys.readouterr().err
        )
    else:
        assert code == 0 and np.array_equal(mrcfile.read("run/mask.mrc"), mrcfile.read(mask))
        assert sorted(os.listdir("run")) == sorted(set(os.listdir("of_links")) - {"detection.csv"})


@pytest.mark.parametrize("words", [
    "postprocess run/half1.mrc run/half2.mrc --mask out/mask.mrc -o out",
    "postprocess run/half1.mrc run/half2.mrc -o run",
    "null p.h5 -o run", "postprocess out/mask.mrc run/half2.mrc -o out",
])
def test_folders_of_others_and_inputs_within_are_refused(project, capsys, words):
    os.mkdir("out")
    shutil.copy("mask.mrc", "out/mask.mrc")
    before = content(project)
    assert run([*words.split(), "--overwrite"]) == 1
    assert content(project) == before and "choose another" in capsys.readouterr().err


@pytest.mark.parametrize("words", [
    "simulate --phantom --particles 4 -o a.h5 --truth-map ./a.h5", "fsc run/half1.mrc run/half2.mrc --csv a.svg --plot "
    "./a.svg",
])
def test_two_outputs_of_one_name_are_refused(project, capsys, words):
    before = content(project)
    assert run(words.split()) == 1
    assert content(project) == before and "name the same file to write" in capsys.readouterr().err


def test_identity_is_the_files_not_the_names(tmp_path):
    (tmp_path / "a").write_text("a")
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").write_text("a")
    with pytest.raises(UserError, match="b is the table .*a.* that this command reads"):
        refuse_inputs([tmp_path / "b"], [Input("table", tmp_path / "a")])
    refuse_inputs([tmp_path / "c", tmp_path / "new"], [Input("table", tmp_path / "a"),
                                                       Input("table", tmp_path / "gone")])
    refuse_twice([tmp_path / "a", tmp_path / "b", None, None])
    with pytest.raises(UserError, match="same file to write"):
        refuse_twice([tmp_path / "a", None, tmp_path / "x" / ".." / "a"])


def test_files_of_one_command_appear_together_or_not_at_all(tmp_path):
    (tmp_path / "one").write_text("old")
    with pytest.raises(KeyError), atomic_files(tmp_path) as staging:
        (staging / "one").write_text("new")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["one"] and (tmp_path / "one").read_text() == "old"
    with atomic_files(tmp_path) as staging:
        for name in ("one", "two"):
            (staging / name).write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"one": "new", "two": "new"}
    with pytest.raises(UserError,
                       match=f"cannot write {tmp_path}/two: the disk is full"), atomic_files(tmp_path) as staging:
        raise write_failed(staging / ".two.1.tmp", OSError(28, "No space left"))


def test_a_failed_export_leaves_the_older_table_and_its_stack(copied, capsys, monkeypatch):
    from mpirecon.io import export_star

    words = ["export", "run", "--star", "kept.star", "--stack", "kept.mrcs", "-q"]
    assert run(words) == 0
    before = content(copied)

    def fails(*_, **__):
        raise UserError("as if the disk were full")

    monkeypatch.setattr(export_star, "write_star", fails)
    assert run([*words, "--overwrite"]) == 1 and content(copied) == before


def test_tables_in_the_folder_of_a_run_are_written_again(copied):
    for words in ("export run --star run/kept.star", "logs run --csv run/sorts.csv", "view run/volume.mrc",
                  "report run -o run/page.html"):
        assert run(words.split()) == 0 and run([*words.split(), "--overwrite"]) == 0


def test_messages_name_what_was_asked_for(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*/out\.h5: file too large; nothing") as met:
        with atomic_path(tmp_path / "out.h5", overwrite=False) as temporary:
            raise OSError(27 + 1000, "File too large", str(temporary))
    assert ".tmp" not in str(met.value)


def test_a_read_only_folder_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(UserError, match="a.mrc: the folder .* is read-only"):
        refuse_existing(tmp_path / "a.mrc", overwrite=False)


def test_from_python_too(copied):
    os.mkdir("out")
    os.link("p.h5", "out/particles.h5")
    before = content(copied)
    with pytest.raises(UserError, match="is the particle file"):
        mr.reconstruct("p.h5", "out", overwrite=True)
    with pytest.raises(UserError, match="is the particle file"):
        mr.Result("run").save("out", overwrite=True)
    with pytest.raises(UserError, match="would replace what it is made from"):
        mr.open("p.h5").save("out/particles.h5", overwrite=True)
    assert content(copied) == before


def test_saved_results_take_the_place_of_older_ones(copied):
    mr.Result("run").save("saved")
    for name in os.listdir("run"):
        assert os.path.isdir(f"run/{name}") or open(f"run/{name}", "rb").read() == open(f"saved/{name}", "rb").read()
    (copied / "saved" / "notes.txt").write_text("mine")
    assert mr.Result("of_links").save("saved", overwrite=True).summary["configuration"]["loss"] == "l2"
    assert set(os.listdir("saved")) == {*os.listdir("of_links"), "notes.txt"}
