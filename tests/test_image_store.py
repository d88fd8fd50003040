"""What an image store owes, whatever the backend:
the images that are asked for, at their poses, read as seldom as can be.

The CUDA backends run on the host through the stand-in for CuPy, or, marked `gpu`, on a GPU.
"""

import threading
from dataclasses import replace

import numpy as np
import pytest
from test_backends import BOX, backend, fake_cupy, images, particles, plain_bands, volume  # noqa: F401 (fixtures)

from mpirecon.backend.cpu import CpuBackend
from mpirecon.backend.memory import Plan
from mpirecon.backend.resident import KeptSamples
from mpirecon.backend.store import ImageStore
from mpirecon.errors import UserError
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.particle_writer import ParticleWriter
from mpirecon.model.aberrations import Aberrations
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.parallel.threads import Threads
from mpirecon.solvers.slab_data import ParticleSlab, batch_length
from mpirecon.solvers.timing import Timings


class Slab:
    """Twenty particles as a store visits them; counts what is read."""

    def __init__(self, m=20):
        self.metadata, self.pixels, self.noise_group, self.reads = particles(m), images(m), np.zeros(m, np.int64), []
        self.pose = self.metadata.pose

    def __len__(self):
        return len(self.metadata)

    def order(self):
        return np.arange(len(self))

    def batches(self, rows):
        return (rows[first : first + 7] for first in range(0, len(rows), 7))

    def read(self, rows):
        self.reads.extend(rows.tolist())
        return self.pixels[rows]


def test_a_visit_brings_every_row_once_and_in_order(backend):
    made, slab = backend(), Slab()
    store = ImageStore(made, slab)
    rows = np.array([3, 4, 5, 9, 11, 12, 13, 17, 19])
    reference, bands = made.reference(volume()), plain_bands(made)
    parts, sums = [], []
    for part, batch in store.visit(rows, slab.read, Timings()):
        parts.append(part)
        sums.append(made.statistics(reference, batch, bands))
    np.testing.assert_array_equal(np.concatenate(parts), rows)
    directly = made.statistics(reference, made.prepare(slab.pixels[rows], slab.metadata[rows]), bands)
    np.testing.assert_allclose(np.concatenate(sums), directly, rtol=1e-5, atol=1e-6 * np.abs(directly).max())
    store.make_room()
    assert sum(len(part) for part, _ in store.visit(rows, slab.read, Timings())) == len(rows)


def test_images_that_are_kept_are_read_once():
    slab = Slab()
    store = ImageStore(CpuBackend(BOX, 2.0, memory=1e9), slab)
    assert store.keeps_all and not ImageStore(CpuBackend(BOX, 2.0), slab).keeps_all
    for _ in range(2):
        list(store.visit(np.arange(20), slab.read, Timings()))
    assert sorted(slab.reads) == list(range(20))
    store.make_room()
    list(store.visit(np.arange(20), slab.read, Timings()))
    assert len(slab.reads) == 40


def test_room_is_made_for_a_solution_where_there_is_not_room_for_both(backend):
    """A GPU's plan has room for the images and a solution; host memory is the solution's."""
    made, slab = backend(on_cpu={"memory": 1e9}), Slab()
    store = ImageStore(made, slab)
    for _ in range(2):
        list(store.visit(np.arange(20), slab.read, Timings()))
        store.make_room()
    assert len(slab.reads) == (20 if made.name == "cuda" else 40)


def test_nothing_asked_for_is_nothing(backend):
    slab = Slab()
    store = ImageStore(backend(), slab)
    assert [part for part, _ in store.visit(np.zeros(0, np.int64), slab.read, Timings())] == [] == slab.reads


def test_an_error_in_the_reading_thread_arrives_and_the_store_goes_on(backend):
    """So does a visit that is left before its end."""
    slab, made = Slab(), backend()
    store, rows = ImageStore(made, slab), np.arange(20)

    def broken(part):
        assert threading.current_thread() is not threading.main_thread()
        raise UserError("the image of particle 3 contains NaN")

    with pytest.raises(UserError, match="particle 3"):
        list(store.visit(rows, broken, Timings()))
    next(visit := store.visit(rows, slab.read, Timings()))
    visit.close()
    found = [made.power(batch) for _, batch in store.visit(rows, slab.read, Timings())]
    np.testing.assert_allclose(np.concatenate(found), made.power(made.prepare(slab.pixels, slab.metadata)), rtol=1e-5)


# poses that change: what a ParticleSlab's move owes, over every backend


class Rank(SerialCommunicator):
    """One of several, that says nothing to the others."""

    def __init__(self, rank, size):
        super().__init__()
        self.rank, self.size = rank, size


@pytest.fixture
def slabs(tmp_path):
    """ParticleSlabs of so many ranks, of twenty particles of optics groups 3 and 7 in all."""
    about = particles(20)
    about.optics_group[:] = 3 + 4 * (np.arange(20) % 2)
    with ParticleWriter(tmp_path / "p.h5", 20, BOX, 2.0, overwrite=False) as writer:
        writer.write_metadata(about)
        writer.write_images(0, images(20))

    def make(size):
        found = [ParticleSlab(Rank(rank, size), file, 2, 0) for rank in range(size)]
        for one in found:
            one.agree_on_noise_groups(SerialCommunicator())
        return found

    with ParticleFile(tmp_path / "p.h5") as file:
        yield make


@pytest.fixture
def slab(slabs):
    return slabs(1)[0]


def bands_of(made):
    return made.bands(np.ones((2, made.plane.shells)), 0, made.plane.shells - 1, True)


def seen(store, slab, rows=np.arange(20), reads=None):
    """All that a visit's batches give: statistics, power and, with all rows, the sums."""
    made = store.backend
    reference, bands = made.reference(volume()), bands_of(made)
    accumulator, sums, power = made.accumulator(), [], []

    def read(part):
        if reads is not None:
            reads.extend(part.tolist())
        return slab.images(part)

    for part, batch in store.visit(rows, read, Timings()):
        one = np.ones(len(part))
        sums.append(made.statistics(reference, batch, bands))
        power.append(made.power(batch))
        made.accumulate(accumulator, batch, one, one, one)
    return np.concatenate(sums), np.concatenate(power), np.asarray(made.folded(accumulator))


def seen_from_the_start(made, slab, rows=np.arange(20)):
    """The same of images that were prepared at the slab's poses of now."""
    at = replace(slab.metadata, pose=slab.pose)[rows]
    reference, bands = made.reference(volume()), bands_of(made)
    batch = made.prepare(slab.images(rows), at, slab.noise_group[rows])
    accumulator, one = made.accumulator(), np.ones(len(rows))
    made.accumulate(accumulator, batch, one, one, one)
    return made.statistics(reference, batch, bands), made.power(batch), np.asarray(made.folded(accumulator))


def assert_same(found, expected, close):
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=0, atol=close * np.abs(b).max())


def somewhere_else(m, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, 4)), rng.uniform(-9, 9, (m, 2))


SOME = np.array([0, 3, 4, 11, 17, 19])


def optics():
    """Of groups 3 and 7: magnification, odd and even phases, a detector."""
    rng = np.random.default_rng(5)
    return Aberrations([3, 7], np.eye(2) + rng.uniform(-0.02, 0.02, (2, 2, 2)), rng.uniform(-3, 3, (2, 6)),
                       rng.uniform(-3, 3, (2, 9)), np.linspace(1, [0.5, 0.8], 8).T)  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"premultiplied": True}, {"aberrations": optics()}],
                         ids=["plain", "premultiplied", "aberrations"])  # fmt: skip
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "read anew"])
def test_moving_particles_is_preparing_them_at_their_new_poses(backend, slab, options, kept, monkeypatch):
    if not kept:  # a GPU that has room for one batch alone
        monkeypatch.setattr("mpirecon.backend.cuda.plan", lambda *_: Plan(False, 7, 0, 0))
    try:
        made, reads = backend(**options, on_cpu={"memory": 1e9 if kept else 0}), []
    except UserError as error:
        assert "aberrations" in options and "--space real" in str(error)
        return
    store = ImageStore(made, slab)
    at_home = seen(store, slab, reads=reads)
    assert_same(at_home, seen_from_the_start(made, slab), 3e-6)
    slab.move(SOME, *somewhere_else(6, seed=8))
    moved = seen(store, slab, reads=reads)
    assert sorted(reads) == sorted([*range(20)] * (1 if kept else 2)), "a move costs no reading"
    assert_same(moved, seen_from_the_start(made, slab), 3e-6)
    others = np.setdiff1d(np.arange(20), SOME)
    assert_same([moved[0][others]], [at_home[0][others]], 3e-6)
    assert all(np.abs(moved[0][i] - at_home[0][i]).max() > 1e-3 * np.abs(at_home[0]).max() for i in SOME)
    # again, others among them, and all the way back
    slab.move(np.array([4, 5]), *somewhere_else(2, seed=9))
    assert_same(seen(store, slab), seen_from_the_start(made, slab), 3e-6)
    assert_same(seen(store, slab, SOME), seen_from_the_start(made, slab, SOME), 3e-6)
    given = slab.metadata.pose
    slab.move(np.arange(20), given.quaternion, given.shift)
    assert_same(seen(store, slab)[:2], at_home[:2], 1e-15)


def test_particles_that_move_before_they_are_first_visited(backend, slab):
    made = backend(on_cpu={"memory": 1e9})
    store = ImageStore(made, slab)
    slab.move(SOME, *somewhere_else(6, seed=8))
    assert_same(seen(store, slab), seen_from_the_start(made, slab), 3e-6)
    assert_same(seen(store, slab, SOME), seen_from_the_start(made, slab, SOME), 3e-6)


def room_for(made, images):
    """Bytes of memory that so many prepared images take."""
    return 3 * 4 * len(made.plane) * images


@pytest.mark.parametrize(("room", "ranks"), [(20, 1), (5, 1), (0, 3)])
def test_neither_order_nor_ranks_nor_room_change_what_is_seen(backend, slabs, room, ranks, monkeypatch):
    """Visits of rows drawn at random, with moves in between: each gives what preparing them at their poses gives."""
    monkeypatch.setattr("mpirecon.backend.cuda.plan", lambda *_: Plan(room == 20, 4, 0, 0))
    made = backend(on_cpu={"memory": room_for(CpuBackend(BOX, 2.0), room)})
    rng = np.random.default_rng(room)
    for slab in slabs(ranks):
        store, reads, m = ImageStore(made, slab), [], len(slab)
        for _ in range(3):
            rows = rng.permutation(m)[: rng.integers(1, m + 1)]
            slab.move(rows[::3], *somewhere_else(len(rows[::3]), seed=int(rng.integers(1000))))
            found = seen(store, slab, rows, reads)
            assert_same(found, seen_from_the_start(made, slab, rows), 3e-6)
        seen(store, slab, np.arange(m), reads)
        reads.clear()
        slab.move(np.arange(0, m, 2), *somewhere_else(len(range(0, m, 2)), seed=room))
        assert_same(seen(store, slab, np.arange(m), reads), seen_from_the_start(made, slab, np.arange(m)), 3e-6)
        assert len(reads) == 0 if room == 20 else m - room <= len(reads) <= m, "what is kept is not read again"


def test_as_many_are_kept_as_there_is_room_for():
    slab, made = Slab(), CpuBackend(BOX, 2.0)
    store = ImageStore(CpuBackend(BOX, 2.0, memory=room_for(made, 10) + 1), slab)
    for _ in range(3):
        list(store.visit(np.arange(20), slab.read, Timings()))
    # pieces of 7: the first stays, 3 of the second, whose other images are wanted with them
    assert [slab.reads.count(row) for row in range(20)] == [1] * 7 + [3] * 13
    slab.reads.clear()
    list(store.visit(np.array([8, 2, 9]), slab.read, Timings()))
    assert slab.reads == []


def test_images_of_half_precision_move_as_often_as_one_likes(slab):
    made = CpuBackend(BOX, 2.0, memory=1e9, half_precision=True)
    store = ImageStore(made, slab)
    seen(store, slab)  # the first visit is of what was read; the next are of what is kept
    at_home = seen(store, slab)
    for seed in range(8):
        slab.move(SOME, *somewhere_else(6, seed=seed))
        assert_same(seen(store, slab), seen_from_the_start(made, slab), 1e-3)
    slab.move(SOME, slab.metadata.pose.quaternion[SOME], slab.metadata.pose.shift[SOME])
    for a, b in zip(seen(store, slab), at_home):
        np.testing.assert_array_equal(a, b)


def test_kept_or_read_anew_moved_images_are_the_same_bits(slab):
    slab.move(SOME, *somewhere_else(6, seed=8))
    for a, b in zip(*(seen(ImageStore(CpuBackend(BOX, 2.0, memory=memory), slab), slab) for memory in (1e9, 0))):
        np.testing.assert_array_equal(a, b)


def test_a_move_to_nowhere_is_refused(slab):
    nowhere = ([[0.0, 0, 0, 0]], [[0.0, 0]]), ([[1.0, 0, 0, 0]], [[np.nan, 0]]), ([[1.0, 0, 0]], [[0.0, 0]])
    for quaternion, shift in nowhere:
        with pytest.raises(UserError, match="Pose"):
            slab.move(np.array([3]), np.array(quaternion), np.array(shift))
    assert slab.pose is slab.metadata.pose


# host memory


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("half_precision", [False, True])
def test_samples_kept_in_pieces_are_those_that_came(threads, half_precision):
    rng = np.random.default_rng(4)
    data, ctf = rng.standard_normal((40, 10)).astype("f4").view("c8"), rng.random((40, 5)).astype("f4")
    kept, place = KeptSamples(40, 5, half_precision, Threads(threads)), rng.permutation(40)
    for rows in np.array_split(rng.permutation(40), 3):
        some = np.flatnonzero(rows % 2)
        kept.put(place[rows[some]], data[rows], ctf[rows], some)
        some = np.flatnonzero(rows % 2 == 0)
        kept.put(place[rows[some]], data[rows], ctf[rows], some)
    close = {"rtol": 0, "atol": 2e-3} if half_precision else {"rtol": 0}
    for rows in (np.arange(40), np.arange(0, 40, 3), np.argsort(place)[5:30]):
        found, also = kept.get(place[rows])
        np.testing.assert_allclose(found, data[rows], **close)
        np.testing.assert_allclose(also, ctf[rows], **close)


def test_images_lie_side_by_side_in_the_order_of_visits_to_come():
    slab = Slab()
    order = np.random.default_rng(3).permutation(20)
    slab.order = lambda: order
    store = ImageStore(CpuBackend(BOX, 2.0, memory=1e9), slab)
    list(store.visit(np.arange(20), slab.read, Timings()))
    batches = [batch for _, batch in store.visit(order, slab.read, Timings())]
    again = [batch for _, batch in store.visit(order, slab.read, Timings())]
    for one, other in zip(batches, again):
        assert np.shares_memory(one.data, other.data) and np.shares_memory(one.ctf, other.ctf), "they are not copied"
    elsewhere = [batch for _, batch in store.visit(np.arange(20), slab.read, Timings())]
    assert not any(np.shares_memory(one.data, other.data) for one in batches for other in elsewhere)


def test_batches_of_small_images_are_short_and_grow_with_threads():
    assert [batch_length(box) for box in (32, 64, 128, 256, 512, 4096)] == [512, 195, 64, 48, 12, 1]
    assert [batch_length(128, threads) for threads in (1, 2, 16)] == [64, 97, 195]
