"""How the tests run command lines: in their process, or on ranks that wait for them,
as processes of their own would."""

import json
import os
import signal

import pytest


@pytest.fixture(scope="module")
def particles(tmp_path_factory, cli):
    path = tmp_path_factory.mktemp("commands") / "particles.h5"
    made = cli("simulate", "--phantom", "--particles", 40, "--box", 16, "--pixel-size", 8, "-o", path)
    assert made.returncode == 0, made.stderr
    return path


@pytest.mark.parametrize("words", [["--version"], ["reconstruct", "none.h5", "-o", "out"], ["recontruct"],
                                   ["fsc", "--help"]])
def test_in_the_tests_process_and_in_its_own_a_command_says_the_same(cli, tmp_path, words):
    surroundings, folder = dict(os.environ), os.getcwd()
    here, alone = cli(*words, cwd=tmp_path), cli(*words, cwd=tmp_path, env={})
    assert (here.returncode, here.stdout, here.stderr) == (alone.returncode, alone.stdout, alone.stderr)
    assert here.stdout + here.stderr and (os.environ, os.getcwd()) == (surroundings, folder)


def test_ranks_wait_for_the_next_command_and_are_replaced_when_they_died(mpirun, particles, tmp_path):
    def run(name, *options, **settings):
        done = mpirun(2, ["-m", "mpirecon", "reconstruct", particles, "-o", tmp_path / name, *options], **settings)
        logs = sorted((tmp_path / name / "logs").glob("rank*.jsonl")) if done.returncode == 0 else []
        return done, [json.loads(log.read_text().splitlines()[0])["pid"] for log in logs]

    def those_that_run(**settings):
        return list(map(int, mpirun(2, ["-m", "mpi4py", program], **settings).stdout.split()))

    program = tmp_path / "number.py"
    program.write_text("import os; os.write(1, f'{os.getpid()}\\n'.encode())")
    first, ranks = run("first")
    assert first.returncode == 0 and len(set(ranks)) == 2, first.stderr
    refused, _ = run("first")
    assert refused.returncode == 1 and refused.stderr.count("Error:") == 1 and not refused.stdout
    second, same = run("second", cwd=tmp_path)
    assert (same == ranks and f"wrote {tmp_path / 'second'}: volume.mrc" in second.stdout
            and "first" not in second.stdout)
    others = those_that_run(env={})
    assert len(others) == 2 and not set(others) & set(ranks) and set(those_that_run()) == set(ranks)
    os.kill(ranks[1], signal.SIGKILL)
    those_that_run()  # by which mpirun may have ended, or not yet
    new = those_that_run()
    assert len(new) == 2 and not set(new) & set(ranks)
