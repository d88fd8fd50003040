"""Commands that a signal ends: one line, the code of the signal, and no file that is half-written."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import _SMALL_MACHINE, _clean_environment, find_mpirun

from mpirecon.cli.ending import Ended, ended_by_signals, outcome
from mpirecon.io.atomic import atomic_path, temporary_name


def by_default() -> None:
    """Have signals as a terminal gives them to a command: nohup, and shells for what they run behind, have some
    ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


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
