"""Commands that a signal ends: one line, the code of the signal, and no file that is half-written."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import types
from contextlib import contextmanager

import h5py
import pytest
from conftest import _SMALL_MACHINE, _clean_environment, find_mpirun

from mpirecon.cli.ending import Ended, ended_by_signals, outcome
from mpirecon.io.atomic import atomic_files, atomic_path, new_temporary, temporary_name
from mpirecon.io.shared_hdf5 import SharedHdf5
from mpirecon.parallel.comm import SerialCommunicator


def by_default() -> None:
    """Have signals as a terminal gives them to a command: nohup, and shells for what they run behind, have some
    ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def met(number):
    """Meanwhile Python meets a signal as in a terminal; what runs behind a shell has SIGINT ignored."""
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


def simulate(target, count, before=(), preexec_fn=by_default) -> subprocess.Popen:
    """In the background, so that its file is there and far from complete."""
    words = [*before, sys.executable, "-m", "mpirecon", "simulate", "--phantom", "--particles", count, "--box", 64,
             "-o", target]
    process = subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=_clean_environment(**_SMALL_MACHINE), preexec_fn=preexec_fn)
    deadline = time.monotonic() + 60
    while not hidden(target.parent):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    return process


def hidden(folder) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".")]


@pytest.mark.parametrize(("name", "code", "said"), [("SIGTERM", 143, "Interrupted by SIGTERM."),
                                                    ("SIGHUP", 129, "Interrupted by SIGHUP."),
                                                    ("SIGINT", 130, "Interrupted.")])
def test_a_signal_ends_a_command_and_leaves_no_file(tmp_path, name, code, said):
    process = simulate(tmp_path / "p.h5", 20000)
    process.send_signal(signal.Signals[name])
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and err.strip().splitlines()[-1] == said and "Traceback" not in err, err
    assert not os.listdir(tmp_path)


def test_a_command_under_nohup_goes_on(tmp_path):
    process = simulate(tmp_path / "p.h5", 2000, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 0 and os.listdir(tmp_path) == ["p.h5"], err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_at_mpirun_leaves_no_file(tmp_path, mpirun, name):
    process = simulate(tmp_path / "p.h5", 20000, [find_mpirun(), "-n", 2])
    process.send_signal(signal.Signals[name])
    _, err = process.communicate(timeout=60)
    assert process.returncode and "Traceback" not in err and not os.listdir(tmp_path), err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_half_written_goes_before_a_long_call_comes_back(tmp_path, number):
    """mpirun kills its ranks a quarter of a second after the signal."""
    noted = []

    def strike() -> None:
        time.sleep(0.3)  # until the long call has begun
        os.kill(os.getpid(), number)
        while os.path.exists(path) and "back" not in noted:
            time.sleep(0.005)
        noted.append("gone")

    def works() -> int:
        threading.Thread(target=strike).start()
        try:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 4_000_000)  # Python meets signals when it comes back
        finally:
            noted.append("back")
        return 0

    path = new_temporary(tmp_path / "a.h5")
    path.write_text("half")
    with met(number), ended_by_signals():
        assert outcome(works).code == 128 + number
    assert noted == ["gone", "back"]


def test_a_signal_that_somebody_else_listens_to_leaves_what_is_half_written(tmp_path):
    heard = []
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with atomic_path(tmp_path / "a.txt", False) as path, ended_by_signals():
        path.write_text("all")
        before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        signal.signal(signal.SIGTERM, before)
    assert heard and (tmp_path / "a.txt").read_text() == "all"


def test_what_a_library_makes_of_it_is_the_end_all_the_same():
    def swallows():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Ended:
            raise OSError("driver write request failed") from None

    with ended_by_signals():
        found = outcome(swallows)
        assert (found.code, found.text) == (143, "Interrupted by SIGTERM.")
    with ended_by_signals():
        assert outcome(lambda: 1).code == 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_nothing_is_raised_in_the_midst_of_hdf5(tmp_path, number):
    """h5py's identifiers would be left half made, and HDF5 crash when the process ends."""
    done, raised = [], []

    def strike(frame, event, _):
        if frame.f_globals["__name__"] == "h5py._hl.attrs" and frame.f_code.co_name == "create":
            sys.setprofile(None)
            os.kill(os.getpid(), number)

    def writes():
        with h5py.File(tmp_path / "a.h5", "w") as file:
            sys.setprofile(strike)
            try:
                file.attrs.create("name", 1)
                done.append(file.attrs["name"])
            except BaseException as error:
                raised.extend(frame.filename for frame in traceback.extract_tb(error.__traceback__))
                assert file.attrs["name"] == 1
                raise
        return 0

    with met(number), ended_by_signals():
        assert outcome(writes).code == 128 + number
    assert raised and not done and not any("h5py" in name for name in raised) and sys.gettrace() is None


def struck(number, module: str, name: str = "any"):
    """A function of that name, of a module of that name, that is met by a signal; ``went_on`` says whether it went
    on."""
    def strikes():
        os.kill(os.getpid(), number)
        sum(range(1000))
        went_on.append(1)

    went_on = []
    code = strikes.__code__.replace(co_name=name)
    return types.FunctionType(code, {**globals(), "__name__": module}, name, None, strikes.__closure__), went_on


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("module", "name", "goes_on"), [
    ("h5py._hl.files", "any", True), ("importlib._bootstrap", "any", True), ("concurrent.futures.thread", "any", True),
    ("threading", "__exit__", True), ("logging", "any", True), ("threading", "wait", False), ("h5", "any", False)])
def test_what_holds_a_lock_goes_on_before_a_signal_is_met(number, module, name, goes_on):
    within, went_on = struck(number, module, name)
    with met(number), ended_by_signals():
        assert outcome(lambda: within() or 0).code == 128 + number
    assert bool(went_on) == goes_on


def test_what_calls_back_goes_on_to_its_own_end():
    """Such as visititems of h5py, whose callback reads."""
    within, _ = struck(signal.SIGTERM, "h5py.inner")
    ended = []

    def visits(callback):
        callback()
        ended.append(1)

    visit = types.FunctionType(visits.__code__, {"__name__": "h5py.outer"}, "visits", None, visits.__closure__)
    with ended_by_signals():
        assert outcome(lambda: visit(lambda: within()) or 0).code == 143
    assert ended


def test_the_second_signal_is_met_at_once(monkeypatch):
    within, went_on = struck(signal.SIGTERM, "h5py.any")
    inner = within.__globals__["os"].kill
    monkeypatch.setattr(os, "kill", lambda *which: [inner(*which), sum(range(1000)), inner(*which)])
    with ended_by_signals():
        assert outcome(lambda: within() or 0).code == 143
    assert not went_on


def test_one_more_signal_as_the_process_ends_shows_nothing(tmp_path):
    program = ("import atexit, os, signal, sys, threading, time\n"
               "from mpirecon.cli import main\n"
               "atexit.register(lambda: [os.kill(os.getpid(), signal.SIGINT), time.sleep(0.01)])\n"
               "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
               "main()")
    words = [sys.executable, "-c", program, "simulate", "--phantom", "--particles", "50000", "--box", "64", "-o",
             tmp_path / "p.h5"]
    done = subprocess.run(words, capture_output=True, text=True, env=_clean_environment(**_SMALL_MACHINE),
                          preexec_fn=by_default)
    assert done.returncode == 143 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1] == "Interrupted by SIGTERM."


def test_files_that_a_signal_left_go_as_the_command_ends(tmp_path):
    def leaves():
        new_temporary(tmp_path / "a.h5").write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    with ended_by_signals():
        assert outcome(leaves).code == 143
    assert not os.listdir(tmp_path)


def test_a_file_that_was_not_wholly_opened_is_closed(tmp_path, monkeypatch):
    """HDF5 would close it when Python has ended, through an object of Python, and crash."""
    def interrupted(*_):
        raise KeyboardInterrupt

    before = h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
    monkeypatch.setattr("mpirecon.io.shared_hdf5.os.open", interrupted)
    with pytest.raises(KeyboardInterrupt) as kept:
        SharedHdf5(tmp_path / "a.h5", SerialCommunicator())
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == before and kept


def test_a_signal_that_somebody_else_listens_to_stays_theirs():
    met = []
    before = signal.signal(signal.SIGTERM, lambda *_: met.append(1))
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGTERM)
        assert met == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_a_killed_process_left_goes_when_the_same_file_is_written_and_nothing_else_does(tmp_path):
    program = ("import sys, pathlib; from mpirecon.io.atomic import temporary_name; "
               "temporary_name(pathlib.Path(sys.argv[1])).write_text('half')")
    for name in ("a.mrc", "b.mrc", "a.mrc.mrc"):
        subprocess.run([sys.executable, "-c", program, tmp_path / name], check=True)
    stale = next(name for name in hidden(tmp_path) if name.startswith(".a.mrc.") and ".mrc.mrc." not in name)
    process, where = stale.removeprefix(".a.mrc.").removesuffix(".tmp").split("-")
    living = temporary_name(tmp_path / "a.mrc").name.replace(str(os.getpid()), str(os.getppid()))
    others = {f".a.mrc.{process}.tmp", f".a.mrc.{process}-{int(where, 16) ^ 1:08x}.tmp", living}
    for name in others:
        (tmp_path / name).write_text("somebody's")
    kept = set(hidden(tmp_path)) - {stale}
    assert others < kept and len(kept) == 5
    with atomic_path(tmp_path / "a.mrc", overwrite=False) as temporary:
        temporary.write_text("whole")
    assert set(os.listdir(tmp_path)) == kept | {"a.mrc"}


def test_the_folder_that_a_killed_process_left_goes_when_its_files_are_made_again(tmp_path):
    program = ("import os, sys; from mpirecon.io.atomic import atomic_files\n"
               "with atomic_files(sys.argv[1]) as staging:\n"
               "    (staging / 'a').write_text('half')\n"
               "    os.kill(os.getpid(), 9)")
    assert subprocess.run([sys.executable, "-c", program, tmp_path]).returncode == -9
    (stale,) = hidden(tmp_path)
    others = {stale.replace("unfinished", "mine"), f".unfinished-{os.getppid()}-{stale.split('-', 2)[2]}"}
    for name in others:
        (tmp_path / name).mkdir()
    with atomic_files(tmp_path) as staging:
        (staging / "a").write_text("whole")
    assert set(os.listdir(tmp_path)) == others | {"a"} and (tmp_path / "a").read_text() == "whole"


def test_a_signal_that_meets_a_callback_of_python_is_not_lost():
    class Gone:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            sum(range(1000))

    def drops():
        Gone()
        time.sleep(5)
        return 0

    with ended_by_signals():
        assert outcome(drops).code == 143
