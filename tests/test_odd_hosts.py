"""Terminals, file systems and limits that are not as at home: what was asked is done, or one sentence says why not."""

import errno
import fcntl
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from command_lines import run_here
from fuzzing import _save_stack, _star

from mpirecon.cli import options
from mpirecon.cli.streams import SPELLED, ascii_of
from mpirecon.errors import UserError
from mpirecon.io import atomic, hdf5
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.relion import read_relion

#: characters of tables and charts, and how they must read where there is ASCII alone
SPELLINGS = {"4 Å/px": "4 A/px", "−1": "-1", "0…7": "0...7", "é": "e", "a → b": "a -> b", "10⁻³": "10-3", "x²": "x2",
             "½": "1/2", "σ ≥ 2 µm": "sigma >= 2 um",
             "Müller": "Muller", "日": "?"}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A STAR file and its stack in a folder whose name is not ASCII, and one whose name is not even text."""
    base = tmp_path_factory.mktemp("odd")
    _star(base)
    _save_stack(base / "q" / "é" / "s.mrcs")  # with none of that name beside the table
    (base / "q" / "q.star").write_text((base / "p.star").read_text().replace("s.mrcs", "é/s.mrcs"), encoding="utf-8")
    return base


def run(*arguments, cwd, **environment):
    """The command in a process of its own: exit code, output as bytes."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    command = [sys.executable, "-m", "mpirecon", *arguments]
    done = subprocess.run(command, cwd=cwd, env={**env, **environment}, capture_output=True, stdin=subprocess.DEVNULL,
                          timeout=120)
    return done.returncode, done.stdout, done.stderr


NARROW = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}


@pytest.mark.parametrize("name", NARROW)
def test_commands_speak_to_narrow_terminals(folder, tmp_path, name):
    code, out, err = run("import", folder / "q" / "q.star", "-o", tmp_path / "é.h5", cwd=tmp_path, **NARROW[name])
    assert code == 0, err
    assert ("2.5 Å/px".encode("latin-1") if name == "latin-1" else b"2.5 A/px") in out
    with ParticleFile(tmp_path / "é.h5") as file:
        assert len(file) == 12
    if name == "C":
        code, out, err = run("import", "--help", cwd=tmp_path, **NARROW[name])
        assert code == 0 and b"Usage" in out and out.isascii()
    code, out, err = run("import", folder / "no-é.star", "-o", tmp_path / "b.h5", cwd=tmp_path, **NARROW[name])
    assert code == 2 and b"Traceback" not in err and b"no-" in err


def test_names_that_are_no_text_are_printed_and_written_as_they_are(folder, tmp_path):
    name = os.fsdecode(b"n\xe9\xff.h5")
    code, out, err = run("import", folder / "p.star", "-o", tmp_path / name, cwd=tmp_path, PYTHONUTF8="1")
    assert code == 0 and b"n\xe9\xff.h5: 12 particles" in out, err
    code, out, err = run("import", folder / "p.star", "-o", tmp_path / name, cwd=tmp_path)
    assert code == 1 and b"n\xe9\xff.h5 exists already" in err and b"Traceback" not in err


def test_spellings():
    for text, spelled in SPELLINGS.items():
        assert text.encode("ascii", SPELLED).decode() == spelled
        assert "".join(letter if letter.isascii() else ascii_of(letter) for letter in text) == spelled
    assert "Å ≥".encode("latin-1", SPELLED) == b"\xc5 >="
    assert "a\udcffé".encode("utf-8", SPELLED) == b"a\xff\xc3\xa9"


def test_output_that_is_not_read(folder, tmp_path):
    """As in ``| head -0``: what was asked is made all the same."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mpirecon", "import", folder / "p.star", "-o", tmp_path / "p.h5"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=120)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"") and (tmp_path / "p.h5").exists()


def test_no_standard_streams_at_all(folder, tmp_path):
    """Their numbers must not be given to the files that are written."""
    command = [sys.executable, "-m", "mpirecon", "import", folder / "p.star", "-o", tmp_path / "p.h5"]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *map(str, command)], timeout=120)
    assert done.returncode == 0
    with ParticleFile(tmp_path / "p.h5") as file:
        assert file.images(slice(None)).shape == (12, 16, 16)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_is_lost_is_a_failure(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "mpirecon", "--help"], stdout=full, stderr=subprocess.PIPE,
                              timeout=60)
    assert done.returncode == 1 and done.stderr.startswith(b"Error: ") and b"no space left" in done.stderr


# locks


def refusing(number, real):
    def File(path, mode="r", **options):
        if options.get("locking") is not False:
            raise OSError(number, f"Unable to synchronously open file (unable to lock file, errno = {number}, error "
                          f"message = 'x')")
        return real(path, mode, **options)

    return File


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EIO, errno.EROFS, errno.EACCES,
                                    errno.EBADF, 524])
def test_files_are_read_and_written_without_locks_where_there_are_none(tmp_path, monkeypatch, number):
    monkeypatch.setattr(h5py, "File", refusing(number, h5py.File))
    with hdf5.create_hdf5(tmp_path / "a.h5") as file:
        hdf5.store_checked(file, "x", np.arange(3))
    with hdf5.open_hdf5(tmp_path / "a.h5", "table") as file:
        assert hdf5.read_all(file["x"]).tolist() == [0, 1, 2]


def test_a_file_that_another_program_writes_is_not_read(tmp_path):
    with hdf5.create_hdf5(tmp_path / "a.h5") as file:
        file["x"] = 1
    with open(tmp_path / "a.h5", "rb+") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"a\.h5: another program has it open for writing"):
            hdf5.open_hdf5(tmp_path / "a.h5", "table")
    hdf5.open_hdf5(tmp_path / "a.h5", "table").close()


def test_damage_of_stored_values_is_met(tmp_path):
    values = np.random.default_rng(1).normal(size=1000)
    with hdf5.create_hdf5(tmp_path / "a.h5") as file:
        hdf5.store_checked(file, "x", values)
    data = bytearray((tmp_path / "a.h5").read_bytes())
    at = data.index(values[400:410].tobytes())
    data[at + 3] ^= 1
    (tmp_path / "a.h5").write_bytes(data)
    with (
        hdf5.open_hdf5(tmp_path / "a.h5", "table") as file,
        pytest.raises(UserError, match=r"a\.h5: x cannot be read, the file is damaged"),
    ):
        with hdf5.reading(tmp_path / "a.h5", "x"):
            hdf5.read_all(file["x"])


# targets that are no files


def test_odd_targets_are_refused(folder, tmp_path):
    os.symlink("self", tmp_path / "self")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    why = {"self": "links to itself", "fifo": "is a pipe", "folder": "is a folder", "/dev/null": "is a device",
           "self/x": "links to itself"}
    for refuse in (atomic.refuse_existing, options.refuse_existing):
        for name, told in why.items():
            for overwrite in (False, True):
                if refuse is options.refuse_existing and name == "folder":
                    continue  # folders are what it is for
                with pytest.raises(UserError, match=told):
                    refuse(tmp_path / name, overwrite)
    code, out, err = run("import", folder / "p.star", "-o", "self", "--overwrite", cwd=tmp_path)
    assert (
        code == 1
        and err.decode() == "Error: cannot write self: it links to itself; remove the link, or choose another name\n"
    )


def test_a_full_disk_leaves_what_was_there(folder, tmp_path):
    """A limit on the size of files stands for a quota."""
    assert run_here(["import", folder / "p.star", "-o", tmp_path / "p.h5"], {}).returncode == 0
    before = (tmp_path / "p.h5").read_bytes()
    limit = f'ulimit -f 8; trap "" XFSZ; exec "{sys.executable}" -m mpirecon "$@"'
    done = subprocess.run(["bash", "-c", limit, "bash", "import", str(folder / "p.star"), "-o", "p.h5", "--overwrite"],
                          cwd=tmp_path,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(
        "Error: cannot write p.h5: the file size limit is reached"
    )
    assert ("Traceback" not in done.stderr and (tmp_path / "p.h5").read_bytes() == before
            and os.listdir(tmp_path) == ["p.h5"])


def test_whole_numbers_have_a_size(folder, tmp_path):
    text = (folder / "p.star").read_text()
    (folder / "big.star").write_text(text.replace("\n1 a ", "\n99999999999 a "))
    with pytest.raises(UserError, match="rlnOpticsGroup is '99999999999', expected a whole number"):
        read_relion(folder / "big.star")


def test_a_heap_of_texts_without_end_is_refused(tmp_path):
    """HDF5 itself never comes back from it."""
    with hdf5.create_hdf5(tmp_path / "a.h5") as file:
        file.attrs["text"] = "x" * 100
        file["v"] = 1
    hdf5.attributes_of(hdf5.open_hdf5(tmp_path / "a.h5", "table"), tmp_path / "a.h5")
    data = bytearray((tmp_path / "a.h5").read_bytes())
    heap = data.index(b"GCOL")
    data[heap + 16 : heap + 32] = bytes(16)
    (tmp_path / "b.h5").write_bytes(data)
    with (
        hdf5.open_hdf5(tmp_path / "b.h5", "table") as file,
        pytest.raises(UserError, match=r"b\.h5: the attributes of / cannot be read"),
    ):
        hdf5.attributes_of(file, tmp_path / "b.h5")


def test_quaternions_that_are_none_any_more_are_refused(folder, tmp_path):
    assert run_here(["import", folder / "p.star", "-o", tmp_path / "p.h5"], {}).returncode == 0
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        file["quaternion"][3, 1] = 2.0
    with ParticleFile(tmp_path / "p.h5") as file, pytest.raises(UserError,
                                                                match=r"p\.h5.* quaternion of particle 3 .*length 1"):
        file.metadata()
