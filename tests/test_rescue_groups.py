"""--poses rescue with --group-by: the tilt images of a particle are searched together, by one turn and one move."""

import mrcfile
import numpy as np
import pytest

import mpirecon as mr
from mpirecon.model.pose import Pose, angular_distance, matrix_from_quaternion
from mpirecon.model.pose_state import FOUND
from mpirecon.model.symmetry import point_group
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.parallel.threads import Threads
from mpirecon.search.acceptance import Amplitudes
from mpirecon.search.fine import turned
from mpirecon.search.group_acceptance import GroupAcceptance
from mpirecon.search.group_search import GroupPeaks, GroupSearch, composed, evidence_of
from mpirecon.search.slices import cut, slice_grid

BOX, SIZE = 20, 7.0
TRUTH = mr.phantom(BOX, SIZE)
TILTS = np.array([-45.0, 0.0, 45.0])
IDENTITY = np.array([1.0, 0, 0, 0])


def random_quaternions(m, seed=0):
    q = np.random.default_rng(seed).standard_normal((m, 4))
    return q / np.linalg.norm(q, axis=1, keepdims=True)


def tilted(particles):
    """Poses of the tilt images of particles (g, 4), (g · tilts, 4): the stage turns about y."""
    stage = np.stack([turned(IDENTITY, np.array([0, np.radians(a), 0])) for a in TILTS])
    return np.concatenate([composed(stage, q) for q in particles])


def images_at(q, move, box=BOX):
    """Samples of the phantom at orientations, moved by the x and y of what each shows of `move`, (k, s)."""
    plane = HalfPlane.of(box)
    model = np.empty((len(q), len(plane)), np.complex64)
    cut(slice_grid(TRUTH.array, box // 2), matrix_from_quaternion(q), plane.kx, plane.ky, model)
    return plane, model * np.exp(-2j * np.pi / box * (move[:, :1] * plane.kx + move[:, 1:] * plane.ky)).astype(
        np.complex64
    )


def test_a_turn_stands_before_the_given_orientation():
    q, turn = random_quaternions(5), random_quaternions(1, 1)[0]
    together = matrix_from_quaternion(q) @ matrix_from_quaternion(turn[None])[0]
    np.testing.assert_allclose(matrix_from_quaternion(composed(q, turn)), together, atol=1e-12)


@pytest.fixture(scope="module")
def case():
    """(search, given orientations, samples, weights, the turn and the move that they are off by)"""
    rng, given = np.random.default_rng(0), tilted(random_quaternions(1, 3))
    turn, move = random_quaternions(1, 4)[0], np.array([0.8, -1.1, 0.6])
    relation = matrix_from_quaternion(given)
    plane, data = images_at(composed(given, turn), move @ relation[:, :2].swapaxes(1, 2))
    sigma = 1.5 * np.sqrt((np.abs(data) ** 2).mean())
    data = (
        data + sigma * (rng.standard_normal(data.shape) + 1j * rng.standard_normal(data.shape)) / np.sqrt(2)
    ).astype(np.complex64)
    search = GroupSearch(TRUTH.array, plane, 14.0, 8, point_group("C1"), 1.0)
    return search, relation, data, np.full(data.shape, 2 / sigma**2, np.float32), turn, move


def test_images_of_a_group_find_their_turn_and_move(case):
    search, relation, data, weight, turn, move = case
    peaks = search.search(data, weight, weight, relation)
    spread = np.sqrt(np.diag(np.linalg.inv(peaks.curvature[0])))
    assert angular_distance(peaks.turn[:1], turn[None])[0] < 4 * np.degrees(spread[:3].max())
    assert (np.abs(peaks.move[0] - move) < 4 * spread[3:]).all()
    assert (np.diff(peaks.cross / np.sqrt(peaks.power)) <= 0).all() and peaks.distinct[0]
    evidence, share = evidence_of(peaks, Amplitudes(1.0, 0.1), 1.0, point_group("C1"), 0.0)
    assert evidence > 5 and share > 0.9
    # images that have nothing to do with each other have no such turn
    shuffled = search.search(data, weight, weight, relation[::-1].copy())
    assert evidence_of(shuffled, Amplitudes(1.0, 0.1), 1.0, point_group("C1"), 0.0)[0] < evidence - 5


def test_threads_share_a_group_and_find_the_same_bits(case):
    class Counted(Threads):
        def over(self, length, function, smallest=1):
            pieces = []
            super().over(length, lambda a, b: (pieces.append((a, b)), function(a, b)), smallest)
            shared.append(len(pieces))

    search, relation, data, weight, *_ = case
    one, shared = search.search(data, weight, weight, relation), []
    three = search.search(data, weight, weight, relation, threads=Counted(3))
    assert shared == [3, 3, 3, 3]  # all turns, and what is climbed from in three bands
    for name in one.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))


def test_images_that_take_too_much_memory_are_moved_as_they_are_needed(case):
    search, relation, data, weight, *_ = case
    other = GroupSearch(TRUTH.array, HalfPlane.of(BOX), 14.0, 8, point_group("C1"), 1.0, memory=0)
    one, two = (s.search(data, weight, weight, relation) for s in (search, other))
    for name in one.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_the_coarse_search_of_a_group_is_that_of_brute_force(case):
    search, relation, data, weight, *_ = case
    order = search.band.order
    data, weight = data[:, order], weight[:, order]
    where, moves = search.coarse(data, weight, weight, relation)
    p = search.band.coarse
    kx, ky = search.band.kx[:p], search.band.ky[:p]
    turns = matrix_from_quaternion(search.turns)
    cross, power = np.zeros((len(search.moves), len(turns))), np.zeros(len(turns))
    for r, image, w in zip(relation, data[:, :p], weight[:, :p]):
        model = np.empty((len(turns), p), np.complex64)
        cut(search.grid, r @ turns, kx, ky, model)
        power += (w * np.abs(model) ** 2).sum(axis=1)
        for number, (x, y) in enumerate(search.moves @ r[:2].T):
            cross[number] += (w * (model.conj() * image * np.exp(2j * np.pi / BOX * (x * kx + y * ky))).real).sum(
                axis=1
            )
    score = cross / np.sqrt(power)
    assert where[0] == score.max(axis=0).argmax()
    np.testing.assert_array_equal(moves[0], search.moves[score[:, where[0]].argmax()])


def test_evidence_of_a_group_is_the_integral_over_turn_and_move():
    law, curvature = Amplitudes(1.0, 0.2), np.diag([900.0, 400.0, 600.0, 30.0, 20.0, 25.0])
    peaks = GroupPeaks(
        IDENTITY[None], np.zeros((1, 3)), np.array([28.0]), np.array([30.0]), curvature[None], np.ones(1, bool)
    )
    found, share = evidence_of(peaks, law, 1.5, point_group("C2"), 0.1)
    best = float(law.best(np.array(28.0), np.array(30.0))) ** 2
    expected = float(law.log_ratio(28.0, 30.0))
    for axis, prior in enumerate([0.1] * 3 + [1.5] * 3):  # ∫ N(x; 0, prior²) exp(−h x²/2) dx
        expected -= 0.5 * np.log(1 + best * curvature[axis, axis] * prior**2)
    assert found == pytest.approx(expected) and share == 1


@pytest.mark.parametrize("name", ["C1", "C2", "D2", "T", "O", "I1"])
def test_copies_of_a_turn_by_the_symmetry_have_its_evidence(name):
    group, law = point_group(name), Amplitudes(1.0, 0.2)
    turn = np.array([[np.cos(0.03), *(np.sin(0.03) * np.array([0.6, 0, 0.8]))]])

    def found(quaternion):
        curvature = np.diag([900.0, 400.0, 600.0, 30.0, 20.0, 25.0])[None]
        peaks = GroupPeaks(quaternion, np.zeros((1, 3)), np.array([28.0]), np.array([30.0]), curvature,
                           np.ones(1, bool))
        return evidence_of(peaks, law, 1.5, group, 0.05)[0]

    np.testing.assert_allclose([found(copy) for copy in group.copies(turn)], found(turn), rtol=1e-9)
    if len(group) == 1:
        assert found(np.array([[0.0, 1, 0, 0]])) < found(turn) - 100


def test_groups_are_accepted_as_far_as_they_stand_out_among_decoys():
    rng = np.random.default_rng(1)
    right, wrong = rng.normal(12, 3, 40), rng.normal(2, 2, 100)
    known, back = np.concatenate([right[:20], wrong[:4]]), np.arange(24) < 20
    acceptance = GroupAcceptance.of(np.concatenate([right[20:], wrong[4:14]]), wrong[14:60], known, back)
    assert (acceptance(right[20:]) > 0.5).mean() > 0.9 and (acceptance(wrong[60:]) > 0.5).mean() < 0.05
    assert 0.4 < acceptance.share < 0.9 and (acceptance(right) <= 1 / (1 + np.exp(-right))).all()
    alike = GroupAcceptance.of(wrong[4:14], wrong[14:60], wrong[:20], back[:20])  # right ones look like decoys
    assert (alike(wrong[4:14]) > 0.9).sum() == 0
    # nothing is known of right ones
    assert GroupAcceptance.of(right[20:], wrong, known[:4], back[:4])(right).max() < 1e-6


@pytest.fixture(scope="module")
def tilt_series(tmp_path_factory):
    """(Particles of 40 particles with three tilt images each, a third turned; number of each image's particle; which
    are turned; the true orientations)"""
    folder, groups = tmp_path_factory.mktemp("tilts"), 40
    rng, k = np.random.default_rng(5), len(TILTS)
    true, number = tilted(random_quaternions(groups, 6)), np.repeat(np.arange(groups), k)
    wrong = np.arange(groups) % 3 == 0
    turns = np.where(wrong[:, None], random_quaternions(groups, 7), IDENTITY)
    given = np.concatenate([composed(true[number == g], turns[g]) for g in range(groups)])
    about = mr.simulate(TRUTH, len(true), snr=1.0, seed=8).metadata()
    half = 1 + number % 2
    model = mr.Particles(
        np.zeros((len(true), BOX, BOX), np.float32),
        Pose(true, np.zeros((len(true), 2))),
        about.ctf,
        pixel_size=SIZE,
        half=half,
    )
    images = mr.project(TRUTH, model).to_numpy()
    images = images + 0.8 * images.std() * rng.standard_normal(images.shape)
    mrcfile.write(folder / "tilts.mrcs", images.astype(np.float32), voxel_size=SIZE)
    rot, tilt, psi = Pose(given, np.zeros((len(true), 2))).euler().T
    names = ("ImageName", "TomoParticleName", "RandomSubset", "OpticsGroup", "AngleRot", "AngleTilt", "AnglePsi",
        "OriginXAngst", "OriginYAngst",
             "DefocusU", "DefocusV", "DefocusAngle")  # fmt: skip
    rows = [
        f"{i + 1}@tilts.mrcs p{number[i]:02d} {half[i]} 1 {rot[i]:.6f} {tilt[i]:.6f} {psi[i]:.6f} 0 0 "
        f"{about.ctf['defocus_u'][i]:.2f} {about.ctf['defocus_v'][i]:.2f} {np.degrees(about.ctf['astigmatism'][i]):.3f}"
        for i in range(len(true))
    ]
    first = about.ctf[0]
    optics = (
        f"data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
        "_rlnImagePixelSize\n"
        f"_rlnImageSize\n_rlnImageDimensionality\n"
        f"1 {first['voltage_kv']} {first['cs_mm']} {first['amplitude_contrast']} {SIZE} {BOX} 2\n\n"
    )
    loop = "data_particles\n\nloop_\n" + "".join(f"_rln{name}\n" for name in names) + "\n".join(rows) + "\n"
    (folder / "tilts.star").write_text(optics + loop)
    return mr.read_star(folder / "tilts.star"), number, wrong, true


def test_turned_particles_are_found_by_all_of_their_images(tilt_series, cli, mpirun, tmp_path):
    particles, number, wrong, true = tilt_series
    options = dict(
        loss="posterior",
        poses="rescue",
        group_by="rlnTomoParticleName",
        search_offset=0.0,
        diameter=84.0,
        iterations=3,
        deterministic=True,
    )
    named = [
        text for name, value in options.items() if value is not True for text in (f"--{name.replace('_', '-')}", value)
    ]
    # processes of their own, which take the same compiled kernels
    words = ["reconstruct", particles.path, *named, "--deterministic", "-o"]
    for done in (cli(*words, tmp_path / "one", env={}),
                 mpirun(2, ["-m", "mpirecon", *words, tmp_path / "two"], env={})):  # fmt: skip
        assert done.returncode == 0, done.stderr
    run, together = mr.Result(tmp_path / "one"), mr.Result(tmp_path / "two")
    table, search = run.particles, run.summary["search"]
    off, found = angular_distance(table["quaternion"], true), table["pose_state"] == FOUND
    for group in range(len(wrong)):
        rows = number == group
        assert len(set(found[rows])) == len(set(table["posterior"][rows].round(9))) == 1 and np.ptp(off[rows]) < 0.01
    one = np.unique(number, return_index=True)[1]
    assert found[one][wrong].mean() > 0.8 and (off[one][found[one]] < 8).mean() > 0.95
    assert (table["posterior"][found] >= 0.9).all()  # probabilities of few groups are not known well
    # shells count as far as the half maps agree by 0.143, more than single images are searched with
    record = next(record for record in run.summary["iterations"] if "search_fsc" in record)
    fsc = np.minimum.accumulate(record["search_fsc"]["all"][1:])
    assert (fsc > 0.143).sum() > (fsc > 0.3).sum()
    assert (
        search["groups"]["searched"] >= wrong.sum()
        and search["control"]["came_back"] > 0.8 * search["control"]["searched"] > 10
    )
    given = particles.table["quaternion"]  # what the tilts are to each other stays
    turn = matrix_from_quaternion(given).swapaxes(1, 2) @ matrix_from_quaternion(table["quaternion"])
    for group in np.flatnonzero(wrong):
        assert np.abs(np.diff(turn[number == group], axis=0)).max() < 1e-6
    # the same bits on two ranks
    np.testing.assert_array_equal(together.volume.to_numpy(), run.volume.to_numpy())
    np.testing.assert_array_equal(together.particles["quaternion"], table["quaternion"])
