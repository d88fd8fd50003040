"""The commands of README and docs run as written, in order, in a folder that holds the inputs they name.

Only sizes are cut: simulated sets to 80 images of 24², paths to two steps, runs to two iterations where the page does
not say how many, mpirun to 2 ranks in README's and the tutorial's first, to one process in the others. What needs a
cluster, a second machine, a browser, the network or many minutes is in NOT_RUN, and its options are checked.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import test_cryosparc
from conftest import CHECKOUT
from exporting import finish
from numpy.lib.recfunctions import repack_fields

from mpirecon import cli as command_line
from mpirecon.cli import COMMANDS, group
from mpirecon.io.export_tables import new_tables
from mpirecon.io.mrc import read_map, write_map, write_stack
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.star import write_star

PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]

#: whole stories: their commands follow from each other; elsewhere each section stands for itself
STORIES = {"tutorial.md", "simulate.md"}

#: pages whose first mpirun is mpirun here too
UNDER_MPI = {"README.md", "tutorial.md"}

#: first words of commands; other lines of a block are output, files or Python
FIRST = re.compile(
    r"(\./)?tools/\w+$|relion_\w+$|"
    r"(mpirecon|mpirun|srun|sbatch|pip|eval|xdg-open|export|time|kill|mkdir|cp|scp|ssh|python3?|git|mr)$"
)

#: what is not run → why
NOT_RUN = {
    r"(\./)?tools/(demo|test)\b": "installs environments of their own; test_packaging and the tests themselves do it",
    r"tools/(bench|soak|gpu_check|scaling --(keep|check)|selection_table|robust_table|detectability|figures)\b":
        "measures for minutes, or on a GPU",
    r"tools/(slurm_local|make_star)\b|eval .*tools/slurm_local": "starts a batch system, or makes a large file; "
    "test_slurm and test_scaling_tool do",
    r"tools/hosts_local\b|eval .*tools/hosts_local|mpirun .*--hostfile": "needs several hosts; test_hosts has two",
    r"(srun|sbatch)\b": "needs Slurm; test_slurm has one",
    r"tools/(docs|wheels)\b": "installs an environment of its own, or downloads; test_docs_site and "
    "test_offline_install do it",
    r"pip\b|python3 -m venv\b": "installs",
    r"mpirun .* apptainer exec\b": "needs Apptainer and an image",
    r"(xdg-open|kill|scp|ssh)\b": "needs a browser, a process or a second machine",
    r"python3 -m http\.server\b": "serves until it is stopped",
    r"mpirun .* python -m mpi4py script\.py": "runs a script of the reader's",
    r"mpirecon forecast --calibrate": "measures for minutes; test_calibration does it with stand-ins",
    r"mpirecon job .* --ranks 16 --memory 12G": "shows the error of a set that does not fit",
    r"export \w+=": "is for the shell of the user",
}


def blocks(page: Path) -> list[tuple[str, list[str]]]:
    """(heading above, lines) of each block of code that is not marked as Python."""
    found, heading, fence, lines = [], "", None, []
    for line in [*page.read_text(encoding="utf-8").splitlines(), "", "end"]:
        if line.startswith("```"):
            if fence is None:
                fence, lines = line.strip("` "), []
            else:
                found += [] if fence == "python" else [(heading, lines)]
                fence, lines = None, []
        elif fence is not None or line.startswith("    "):
            lines.append(line if fence is not None else line[4:])
        elif not line and lines:
            lines.append("")
        else:
            if lines:
                found.append((heading, lines))
            lines = []
            heading = line[3:] if line.startswith("## ") else heading
    return found


def scripts(page: Path) -> list[str]:
    """The blocks of Python that are whole scripts;
    those of python.md are excerpts, which test_python_interface has whole."""
    if page.name == "python.md":
        return []
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return fenced + [
        "\n".join(lines) for _, lines in blocks(page) if re.match(r"(from|import) mpirecon", "\n".join(lines))
    ]


def commands(lines: list[str]) -> list[str]:
    """The commands of a block, continuation lines joined, without comments."""
    joined = "\n".join(lines).replace("\\\n", " ")
    found = []
    for line in joined.splitlines():
        line = line.removeprefix("$ ").strip()
        if line and FIRST.match(line.split()[0]) and " = " not in line:
            found.append(re.sub(r"\s+#.*$", "", line))
    return found


def sections(page: Path) -> dict[str, list[str]]:
    """Heading → commands, in order; of a story, all under one."""
    found: dict[str, list[str]] = {}
    for heading, lines in blocks(page):
        found.setdefault("" if page.name in STORIES else heading, []).extend(commands(lines))
    return {heading: listed for heading, listed in found.items() if listed}


SECTIONS = [(page, heading) for page in PAGES for heading in sections(page)]


def reason(command: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, command)), None)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with everything that the pages take as given: tables, stacks, masks, a particle file, a run."""
    home = tmp_path_factory.mktemp("inputs")
    with (
        pytest.MonkeyPatch.context() as there,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        there.chdir(home)
        _relion_project(home)
        write_map(home / "emd_3488.mrc", _blob(32), 3.28, overwrite=False)
        (home / "J42").mkdir()
        _cryosparc_job(home / "J42")
        assert run(["import", "run_data.star", "-o", "particles.h5"]) == 0
        assert run(["reconstruct", "particles.h5", "-o", "run1", "--loss", "sorted", "--keep", "0.7", "--iterations",
                    "2"]) == 0
        shutil.copytree("run1", "run2")
        shutil.copy("particles.h5", "tilts.h5")
    return home


#: as it is, also while a tool runs whose commands are shortened
run_whole = command_line.run


def run(words: list[str]) -> int:
    return run_whole([str(word) for word in words])


def _blob(box: int) -> np.ndarray:
    z, y, x = np.mgrid[:box, :box, :box] - box // 2
    return (np.exp(-((x - 3) ** 2 + 2 * y**2 + z**2) / 20) + np.exp(-((x + 5) ** 2 + y**2 + (z - 3) ** 2) / 8)).astype(
        np.float32
    )


def _relion_project(home: Path, count: int = 130) -> None:
    """Simulated particles as a RELION project has them;
    tables of the same particles stand in for those of other names."""
    assert run(["simulate", "--phantom", "--particles", count, "--box", 24, "--pixel-size", 10.5, "--snr", 0.3, "-o",
                "simulated.h5"]) == 0
    with ParticleFile("simulated.h5") as file:
        particles, images = file.metadata(), file.images(slice(None))
        for folder, name in (("Extract/job010", "images.mrcs"), (".", "trpv1_small_stack.mrcs"),
                             ("ribo70s_real", "particles.mrcs")):
            (home / folder).mkdir(parents=True, exist_ok=True)
            with write_stack(home / folder / name, file.box, file.pixel_size, overwrite=False) as append:
                append(images)
    names = [f"{i + 1:06d}@Extract/job010/images.mrcs" for i in range(count)]
    tables = new_tables(particles, particles.pose, names)
    tables["particles"]["rlnMicrographName"] = [f"m{i % 7}.mrc" for i in range(count)]
    tables["particles"]["rlnClassNumber"] = [str(1 + i % 3) for i in range(count)]
    tables["particles"]["rlnTomoParticleName"] = [f"tomo/{i // 5}" for i in range(count)]
    for folder in ("Refine3D/job021", "MaskCreate/job012", "project"):
        (home / folder).mkdir(parents=True)
    for path in ("run_data.star", "Refine3D/job021/run_data.star", "trpv1_small_stack.star",
                 "ribo70s_real/particles.star"):
        write_star(home / path, tables, overwrite=False)
    (home / "project" / "Extract").symlink_to(home / "Extract")
    z, y, x = np.mgrid[:24, :24, :24] - 12
    write_map(home / "MaskCreate/job012/mask.mrc", np.clip((9 - np.sqrt(x**2 + y**2 + z**2)) / 3, 0, 1), 10.5,
              overwrite=False)


def _cryosparc_job(folder: Path) -> None:
    """A .cs file and a passthrough file of the same particles, with the columns divided between them."""
    path = test_cryosparc.make(folder)
    array = np.load(path)
    names = array.dtype.names
    first = [name for name in names if name == "uid" or name.startswith(("blob/", "alignments3D/"))]
    rest = [name for name in names if name == "uid" or name not in first]
    (folder.parent / "uids.txt").write_text("\n".join(map(str, array["uid"][: len(array) // 2])))
    for name, columns in (("J42_particles.cs", first), ("J42_passthrough_particles.cs", rest)):
        with open(folder / name, "wb") as file:
            np.save(file, repack_fields(array[columns]))
    path.unlink()


@pytest.fixture
def scratch(inputs, tmp_path, monkeypatch, shared_ribosomes):
    """A working folder with copies of all inputs; real ribosomes where there are any."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True, symlinks=True)
    if shared_ribosomes:
        shutil.rmtree(tmp_path / "ribo70s_real")
        (tmp_path / "ribo70s_real").symlink_to(shared_ribosomes)
    monkeypatch.chdir(tmp_path)
    for name in ("MPIRECON_SITE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr("webbrowser.open", lambda *_: True)
    yield tmp_path
    for name in ("OPENBLAS", "MKL", "BLIS"):  # of --deterministic
        os.environ.pop(f"{name}_NUM_THREADS", None)


@pytest.fixture(scope="session")
def shared_ribosomes():
    folder = CHECKOUT.parent / "shared" / "data" / "ribo70s_real"
    return folder if folder.is_dir() else None


@pytest.mark.parametrize(("page", "heading"), SECTIONS, ids=[f"{page.stem}: {heading}"[:60] for page,
                                                             heading in SECTIONS])
def test_commands_run_as_written(page, heading, scratch, mpirun):
    if page.name in STORIES:  # which make everything but real particles themselves
        for path in scratch.iterdir():
            if path.name != "ribo70s_real":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    given, launched_before = {path.name for path in scratch.iterdir()}, False
    if "Maps and masks" in heading:  # a B-factor needs what is finer than 10 Å
        shutil.rmtree("run1")
        assert run(["simulate", "--phantom", "--particles", 150, "--box", 32, "--pixel-size", 2, "--snr", 1, "-o",
                    "fine.h5", "-q"]) == 0
        assert run(["reconstruct", "fine.h5", "-o", "run1", "-q"]) == 0
    if heading == "Exporting particles":
        assert run(["import", "J42/J42_particles.cs", "--passthrough", "J42/J42_passthrough_particles.cs", "-o",
                    "j42.h5", "-q"]) == 0
        shutil.rmtree("run2")
        finish(Path("j42.h5").resolve(), scratch / "run2")
    for command in sections(page)[heading]:
        why = reason(command)
        if why is not None:
            check_options(command)
            continue
        words, target = shell_words(command)
        launcher = mpirun if words[0] == "mpirun" and page.name in UNDER_MPI and not launched_before else None
        launched_before = launched_before or launcher is not None
        if (
            page.name not in STORIES
            and words[:2] == ["mpirecon", "import"]
            and words[2].endswith(".star")
            and not Path(words[2]).exists()
        ):
            shutil.copy("run_data.star", words[2])  # a table of the reader's own
        with room_for(words, given):
            code, text = execute(words, target, launcher)
        assert code == 0, f"{page.name}: {command}\n{text}"


@pytest.mark.parametrize(("page", "number"), [(page, i) for page in PAGES if page.stem != "extending"
                                              for i in range(len(scripts(page)))], ids=lambda x: getattr(x, "stem", x))
def test_scripts_run_as_written(page, number, scratch, capsys):
    """Each by itself; those of docs/extending.md go on from each other: test_extending.py."""
    exec(compile(scripts(page)[number], page.name, "exec"), {})


def few_iterations(words: list[str]) -> list[str]:
    """A command of mpirecon's, with two iterations where it leaves their number open, or as many as a search of poses
    needs: what follows wants its files, not the best of maps."""
    default = {"reconstruct": "l2", "null": "l2", "relion": "l2", "path": "posterior"}.get(words[1])
    loss = words[words.index("--loss") + 1] if "--loss" in words else default
    if loss in (None, "l2") or {"--iterations", "--job-star", "rescore", "sieve"} & set(words):  # the last have none
        return words
    return [*words, "--iterations", "4" if "--poses" in words else "2"]


def shell_words(command: str) -> tuple[list[str], str | None]:
    """(words, file that stdout goes to), with the sizes of simulated sets cut."""
    words = shlex.split(command)
    target = words[words.index(">") + 1] if ">" in words else None
    words = words[: words.index(">")] if ">" in words else words
    words = words[1:] if words[0] == "time" else words
    if words[:2] == ["mpirecon", "simulate"]:
        for option, most in (("--particles", 80), ("--box", 24)):
            if option in words:
                at = words.index(option) + 1
                words[at] = str(min(int(words[at]), most))
    if words[0] == "tools/planted_table":
        words += ["--particles", "40", "--box", "16"]
    if words[0] == "tools/hard_table":
        words += ["--particles", "60", "--box", "16", "--cases", "views", "--seeds", "1", "--rounds", "1"]
    if "path" in words[:5] and "--steps" not in words:
        words += ["--steps", "1,0.5"]
    return words, target


@contextlib.contextmanager
def room_for(words: list[str], given: set[str]):
    """Without a stand-in that the command is about to make for real; of a job, until the job would have made it."""
    name = next((words[words.index(option) + 1] for option in ("-o", "--output") if option in words), "")
    if name not in given or "check" in words:
        yield
        return
    Path(name).rename(f"{name}.aside")
    try:
        yield
    finally:
        if "job" in words:
            Path(f"{name}.aside").rename(name)
        else:
            given.discard(name)


def execute(words: list[str], target: str | None, mpirun) -> tuple[int, str]:
    if words[0] == "mpirun":
        ranks, words = launched(words)
        if mpirun is not None:
            result = mpirun(min(ranks, 2), ["-m", *few_iterations(words)], cwd=Path.cwd())
            return result.returncode, result.stdout + result.stderr
    if words[0] == "mpirecon":
        words, out, err = few_iterations(words), io.StringIO(), io.StringIO()
        if target is not None:  # bytes go past sys.stdout
            result = subprocess.run([sys.executable, "-m", "mpirecon", *words[1:]], capture_output=True)
            Path(target).write_bytes(result.stdout)
            return result.returncode, result.stderr.decode()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(words[1:])
        return code, out.getvalue() + err.getvalue()
    if words[0] == "eval":
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        result = subprocess.run(["bash", "-c", f'eval "{words[-1]}" && complete -p mpirecon'], capture_output=True,
                                text=True,
                                env={**os.environ, "PATH": path})
        return result.returncode, result.stdout + result.stderr
    if words[0].startswith("tools/"):
        return execute_here(CHECKOUT / words[0], words[1:])
    elif words[0].startswith("relion_") and shutil.which(words[0]) is None:
        return 0, "no RELION here"
    result = subprocess.run(words, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


def execute_here(tool: Path, words: list[str]) -> tuple[int, str]:
    """Run a tool of Python's in this process; commands that it runs have few iterations, too."""
    said = io.StringIO()
    with (contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.MonkeyPatch.context() as there):
        there.setattr(sys, "argv", [str(tool), *words])
        there.syspath_prepend(str(tool.parent))
        there.setattr(command_line, "run", lambda words: run_whole(few_iterations(["mpirecon", *words])[1:]))
        try:
            runpy.run_path(str(tool), run_name="__main__")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None), f"{said.getvalue()}{end}"
    return 0, said.getvalue()


def launched(words: list[str]) -> tuple[int, list[str]]:
    """(ranks, the command that mpirun starts), its own options known."""
    own = words[1 : words.index("mpirecon")]
    ranks = int(own[own.index("-n") + 1])
    assert set(own) <= {"-n", str(ranks), "--oversubscribe"}, words
    return ranks, words[words.index("mpirecon") :]


def check_options(command: str) -> None:
    """Of a command that is not run: its program, files and options exist."""
    words = shlex.split(command.removeprefix('eval "$(').rstrip(')"') if "$(tools" in command else command)
    if "mpirecon" in words and words[0] != "pip":
        assert words[0] != "srun" or any(word.startswith("--mpi=")
                                         for word in words), f"{command}: PyPI's Open MPI needs --mpi=pmix"
        words = words[words.index("mpirecon") + 1 :]
        words = words[: words.index(">")] if ">" in words else words
        own, _, after = (
            (words, None, [])
            if "--" not in words
            else (words[: words.index("--")], None, words[words.index("--") + 1 :])
        )
        parsed = group.get_command(click.Context(group), words[0])
        parsed.make_context(words[0], [*own[1:], *(["--", *after] if after else [])])
    elif "tools/" in words[0]:
        program = CHECKOUT / words[0]
        assert program.is_file() and os.access(program, os.X_OK), command
        options = {word for word in words if word.startswith("--")}
        assert all(option in program.read_text(encoding="utf-8") for option in options), command
    elif words[0] == "pip":
        extras = re.findall(r"\[([\w,]+)\]", command)
        known = re.findall(r"^(\w+) =$", (CHECKOUT / "setup.cfg").read_text(), flags=re.MULTILINE)
        assert all(extra in known for listed in extras for extra in listed.split(",")), command
    elif words[0] == "xdg-open":
        assert Path(words[1]).exists(), f"{command}: the commands above make no such file"


def test_no_command_is_overlooked():
    """Each line of code that names a command of ours is taken for a command."""
    named = re.compile(
        rf"^(\$ )?((mpirun|srun|time|eval|\w+=\S+) .*)?\bmpirecon ({'|'.join(COMMANDS)})\b|"
        r"^(\./)?tools/\w+ |^relion_\w+ -"
    )
    for page in PAGES:
        for _, lines in blocks(page):
            taken = "\n".join(commands(lines))
            for line in lines:
                if named.match(line):
                    assert line.split("#")[0].removeprefix("$ ").removesuffix("\\").strip() in taken, (
                        f"{page.name}: {line}"
                    )


def test_what_is_not_run_is_in_the_docs():
    """A reason that no command needs any more goes."""
    every = [command for page in PAGES for listed in sections(page).values() for command in listed]
    for pattern in NOT_RUN:
        assert any(re.match(pattern, command) for command in every), pattern


def test_a_wrong_command_would_be_noticed(scratch):
    for command in ("mpirecon export run1 --star k.star --discards d.star", "mpirecon reconstruct ribo.h5 -o x",
                    "mpirecon logs run7", "tools/planted_table --partcles 10", "tools/scaling --predict some 512"):
        assert execute(*shell_words(command), None)[0] != 0
    with pytest.raises(click.ClickException):
        check_options("srun -n 4 --mpi=pmix mpirecon check --outputs run1")
    for command in ("tools/bench --partz peers", "srun -n 4 mpirecon check -o run1", "pip install '.[openmpy]'",
                    "xdg-open run7/report.html"):
        with pytest.raises(AssertionError):
            check_options(command)
    assert read_map("emd_3488.mrc").box == 32
