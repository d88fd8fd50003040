"""One rank of a host compiles the kernels, and the others wait for it."""

import numba
import numpy as np
import pytest

from mpirecon.backend import warm
from mpirecon.backend.cpu import CpuBackend
from mpirecon.model import make_ctf
from mpirecon.model.particles import ParticleSet
from mpirecon.model.pose import Pose
from mpirecon.parallel.comm import SerialCommunicator

BOX = 12


def particles(m=1):
    pose = Pose(np.tile([1.0, 0, 0, 0], (m, 1)), np.zeros((m, 2)))
    return ParticleSet(BOX, 1.0, pose, make_ctf(m, voltage_kv=300.0, defocus_u=1e4, defocus_v=1e4), np.ones(m), np.ones(m))


class OneOfTwo(SerialCommunicator):
    """A rank of two that hears from the other what it says itself."""

    def __init__(self, local_rank):
        super().__init__()
        self.size, self.local_rank = 2, local_rank

    def allgather(self, value):
        return [value, value]


@pytest.fixture
def tried(monkeypatch, tmp_path):
    """Calls that would compile, with an empty cache."""
    calls = []
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(warm, "_try_kernels", lambda *arguments: calls.append(arguments))
    return calls


def test_the_first_rank_of_a_host_compiles_once_for_each_kind_of_run(tried):
    def start(taps=4, exact=False, local_rank=0, threads=1):
        warm.compile_once(OneOfTwo(local_rank), CpuBackend(BOX, 1.0, taps=taps, threads=threads), particles(), False, exact)
        return len(tried)

    assert start(local_rank=1) == 0
    assert start() == start() == 1
    assert start(taps=3) == start(taps=3) == 2
    assert start(exact=True) == 3
    assert start(threads=2) == start(threads=5) == 4 and tried[-1][0].threads.count > 1  # which take kernels of their own


def test_a_rank_alone_compiles_as_it_goes(tried):
    warm.compile_once(SerialCommunicator(), CpuBackend(BOX, 1.0), particles(), False, False)
    assert not tried


def test_a_failure_leaves_no_mark(tried, monkeypatch, tmp_path):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(warm, "_try_kernels", fail)
    with pytest.raises(Exception, match="disk full"):
        warm.compile_once(OneOfTwo(0), CpuBackend(BOX, 1.0), particles(), False, False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("taps, premultiplied", [(3, False), (4, True)])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_step_can_be_tried(taps, premultiplied, threads):
    backend = CpuBackend(warm._BOX, 1.0, taps=taps, premultiplied=premultiplied, threads=threads)
    warm._try_kernels(backend, particles(), True, True)
