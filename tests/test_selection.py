"""Who counts, and how much: selection by every loss, schedules, images that contradict the map."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from mpirecon.errors import UserError
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.robust.contradiction import FALSE_DISCOVERY_RATE, contradicting, looks_inverted, significance
from mpirecon.robust.distances import DISTANCES, EXPLAINED, RAW, WHITENED
from mpirecon.robust.known_rules import loss_value, norms
from mpirecon.robust.losses import LOSSES, M_ESTIMATORS, REDESCENDING
from mpirecon.robust.particle_noise import particle_sigma
from mpirecon.robust.schedule import loosened, relaxation_at, widened
from mpirecon.robust.select import select
from mpirecon.robust.selection import Attenuation, RandomPoses, Selection, keep_count
from mpirecon.robust.statistics import Statistics
from mpirecon.validate.contradiction import Contradiction

COMM = SerialCommunicator()
from particle_statistics import at_random, random_statistics, statistics_like

COMM = SerialCommunicator()


def chosen(s, ids=None, valid=None, **options):
    m = len(s.yy)
    ids = np.arange(m) if ids is None else np.asarray(ids)
    valid = np.ones(m, bool) if valid is None else valid
    options = {"loss": "sorted", "distance": EXPLAINED, "random_poses": at_random(s), **options}
    return select(COMM, s, ids, valid, **options)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 100_000), st.integers(1, 100))
@example(100, 7)  # 0.07 · 100 is 7.000000000000001
def test_keep_count_is_the_share_rounded_up(m, percent):
    assert keep_count(percent / 100, m) == max(1, -(-percent * m // 100))


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("distance", DISTANCES.values(), ids=lambda d: d.name)
def test_sorted_keeps_the_nearest(distance, keep):
    s = random_statistics(40)
    selection = chosen(s, keep=keep, distance=distance)
    score = distance.score(s, particle_sigma(COMM, s, np.ones(40, bool)), np.median(s.yy))
    np.testing.assert_array_equal(selection.distance, score)
    assert set(np.flatnonzero(selection.kept)) == set(np.argsort(score)[: keep_count(keep, 40)])
    assert selection.keep_ == keep_count(keep, 40) / 40 and selection.n_iter_ == 0
    np.testing.assert_array_equal(selection.weight, selection.kept.astype(float))


def test_ties_go_to_the_smaller_id():
    s = statistics_like(np.ones(6), 0, [1.0, 1, 1, 1, 0.5, 1])
    ids = np.array([50, 10, 40, 20, 60, 30])
    assert set(ids[chosen(s, ids, keep=0.5).kept]) == {60, 10, 20}


def test_a_sort_within_the_batch_asks_no_other_rank():
    class Elsewhere(SerialCommunicator):
        """One of two ranks, whose sibling's particles are all nearer."""

        asked = 0

        def allreduce_scalar(self, value, op="sum"):
            type(self).asked += 1
            return super().allreduce_scalar(value, op)

    s = random_statistics(10)
    everybody = np.ones(10, bool)
    select(Elsewhere(), s, np.arange(10), everybody, loss="sorted", distance=RAW, keep=0.5, sort_scope="global")
    asked_global = Elsewhere.asked
    Elsewhere.asked = 0
    batch = select(Elsewhere(), s, np.arange(10), everybody, loss="sorted", distance=RAW, keep=0.5, sort_scope="batch")
    assert Elsewhere.asked < asked_global
    assert batch.kept.sum() == 5 and s.residual[batch.kept].max() <= s.residual[~batch.kept].min()


@pytest.mark.parametrize("loss", LOSSES)
def test_particles_left_out_have_no_say(loss):
    s, valid = random_statistics(20), np.arange(20) % 4 != 0
    s.sums[~valid] = 0.0
    random = at_random(s)
    selection = chosen(s, valid=valid, loss=loss, keep=0.6, distance=WHITENED, random_poses=random)
    assert not selection.kept[~valid].any() and not selection.weight[~valid].any()
    alone = Statistics(s.sums[valid], s.samples)
    random = RandomPoses(np.arange(valid.sum()), Statistics(random.statistics.sums[valid], s.samples))
    fewer = chosen(alone, np.flatnonzero(valid), loss=loss, keep=0.6, distance=WHITENED, random_poses=random)
    np.testing.assert_array_equal(selection.kept[valid], fewer.kept)
    np.testing.assert_allclose(selection.weight[valid], fewer.weight)
    np.testing.assert_array_equal(selection.distance[valid], fewer.distance)
    if loss == "sorted":
        assert selection.kept.sum() == keep_count(0.6, int(valid.sum()))


def test_no_particle_left_is_nothing_to_mix():
    with pytest.raises(UserError, match="nothing to fit"):
        chosen(random_statistics(4), valid=np.zeros(4, bool), loss="posterior")


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "posterior"])
def test_no_particle_left_is_none_chosen(loss):
    selection = chosen(random_statistics(4), valid=np.zeros(4, bool), loss=loss, keep=0.5)
    assert not selection.kept.any() and not selection.weight.any()


def test_l2_weighs_all_particles_alike():
    selection = chosen(random_statistics(7), loss="l2", keep=0.2)
    assert selection.kept.all() and (selection.weight == 1).all()


@pytest.mark.parametrize("loss", M_ESTIMATORS)
@pytest.mark.parametrize("distance", [RAW, WHITENED, EXPLAINED], ids=lambda d: d.name)
def test_weights_are_the_losses_own_relative_to_the_typical(loss, distance):
    s = random_statistics(41)
    selection = chosen(s, loss=loss, distance=distance)
    d = distance.norm(s, np.median(s.yy))
    np.testing.assert_array_equal(norms(COMM, distance, s, np.ones(41, bool)), d)
    centre, mad = np.median(d), np.median(np.abs(d - np.median(d)))
    assert selection.centre_ == pytest.approx(centre) and selection.scale_ == pytest.approx(1.4826 * mad)
    excess = np.maximum(d - centre, 0) / (1.4826 * mad)
    weight = {
        "l1": 1 / d,
        "huber": np.minimum(1, (centre + 1.345 * 1.4826 * mad) / d),
        "cauchy": 1 / (1 + (excess / 2.385) ** 2),
        "geman-mcclure": 1 / (1 + (excess / 3.787) ** 2) ** 2,
        "welsch": np.exp(-((excess / 2.985) ** 2)),
        "tukey": np.where(excess < 4.685, (1 - (excess / 4.685) ** 2) ** 2, 0),
    }[loss]
    np.testing.assert_allclose(selection.weight, weight / np.median(weight), atol=1e-15)
    np.testing.assert_array_equal(selection.kept, weight > 0)
    assert np.median(selection.weight) == pytest.approx(1)
    order = np.argsort(d)
    assert (np.diff(selection.weight[order]) <= 0).all() and selection.weight[order[-1]] < 1


def test_loss_value_is_the_mean_of_twice_rho():
    d, kept = np.array([1.0, 2.0, 5.0, 100.0]), np.array([True, True, True, False])
    everyone = np.ones(4, bool)
    some = Selection(kept.astype(float), kept, d, centre_=2.0, scale_=1.0)
    everybody = Selection(np.ones(4), np.ones(4, bool), d, centre_=2.0, scale_=1.0)
    assert loss_value(COMM, "l2", d, everybody, everyone) == pytest.approx(np.mean(d**2))
    assert loss_value(COMM, "sorted", d, some, everyone) == pytest.approx(np.mean(d[:3] ** 2))
    assert loss_value(COMM, "l1", d, everybody, everyone) == pytest.approx(2 * np.mean(d))
    delta = 2 + 1.345
    huber = np.where(d <= delta, d**2, delta * (2 * d - delta))
    assert loss_value(COMM, "huber", d, everybody, everyone) == pytest.approx(np.mean(huber))
    # whoever is given no weight by tukey still adds its ρ, the same for all so far away; bad images do not
    u2 = ((5 - 2) / 4.685) ** 2
    rho = [0.5, 2, 2 + 2 * 4.685 * (np.sqrt(u2) - 2 / 3 * u2**1.5 + u2**2.5 / 5) + 4.685**2 * (1 - (1 - u2) ** 3) / 6]
    far = 2 + 2 * 4.685 * 8 / 15 + 4.685**2 / 6
    assert loss_value(COMM, "tukey", d, some, everyone) == pytest.approx(2 * np.mean([*rho, far]))
    assert loss_value(COMM, "tukey", d, some, kept) == pytest.approx(2 * np.mean(rho))
    weighted = Selection(np.array([2.0, 1, 1, 0]), kept, d)
    assert loss_value(COMM, "posterior", d, weighted, everyone) == pytest.approx((2 * 1 + 4 + 25) / 4)
    nobody = Selection(np.zeros(4), np.zeros(4, bool), d, centre_=2.0, scale_=1.0)
    assert loss_value(COMM, "l2", d, nobody, ~everyone) == 0


# ---------------------------------------------------------------- contrast that depends on frequency


def test_expected_contrasts_are_means_over_the_components():
    """E[s·h(k)] and E[s²·h(k)²], summed component by component in plain loops."""
    rng = np.random.default_rng(0)
    share, s, variance = rng.dirichlet([1, 1, 1], 7), rng.normal(1, 0.2, (7, 3)), rng.uniform(0, 0.1, (7, 3))
    h = rng.uniform(0, 1, (3, 5))
    attenuation = Attenuation(h, share * s, share * (s**2 + variance))
    chosen = Selection(np.ones(7), np.ones(7, bool), np.zeros(7), attenuation=attenuation)
    rows = np.array([5, 2])
    first, second = chosen.expected_contrast(rows)
    for out, i in enumerate(rows):
        for k in range(5):
            mean = sum(share[i, c] * s[i, c] * h[c, k] for c in range(3))
            square = sum(share[i, c] * (s[i, c] ** 2 + variance[i, c]) * h[c, k] ** 2 for c in range(3))
            assert first[out, k] == pytest.approx(mean) and second[out, k] == pytest.approx(square)


def test_without_attenuation_the_contrast_is_one_number():
    chosen = Selection(np.ones(4), np.ones(4, bool), np.zeros(4), contrast=np.arange(4.0),
                       contrast2=np.arange(4.0) ** 2)
    first, second = chosen.expected_contrast(np.array([3, 1]))
    np.testing.assert_array_equal(first, [3, 1])
    np.testing.assert_array_equal(second, [9, 1])


# ---------------------------------------------------------------- graduated schedules


@pytest.mark.parametrize("rounds", [1, 2, 5, 8])
def test_a_schedule_ends_with_the_loss_itself(rounds):
    relaxation = [relaxation_at(iteration, rounds) for iteration in range(1, rounds + 1)]
    assert relaxation[-1] == 0 and (rounds == 1 or relaxation[0] == 1) and (np.diff(relaxation) < 0).all()
    assert loosened(0.3, 0) == 0.3 and loosened(0.3, 1) == 1 and widened(0.2, 0) == 0.2
    assert widened(0.2, 1) > widened(0.2, 0.5) > 0.2


def test_mild_selections_keep_more_and_weigh_more_evenly():
    s = random_statistics(60)
    shares = [chosen(s, keep=0.4, relaxation=relaxation).kept.mean() for relaxation in (0, 0.5, 1)]
    assert shares == pytest.approx([0.4, 0.7, 1])
    for loss in REDESCENDING:
        spread = [np.ptp(chosen(s, loss=loss, relaxation=relaxation).weight) for relaxation in (0, 0.5, 1)]
        assert spread[0] > spread[1] > spread[2] and spread[2] < 0.2
    assert chosen(s, loss="huber", relaxation=0.5).scale_ == pytest.approx(8**0.5 * chosen(s, loss="huber").scale_)


# ---------------------------------------------------------------- images that contradict the map


def images_like(rng, contrast, m=400, strength=1.0, samples=(40, 120, 200), noise=(1.0, 4.0, 0.3)):
    """Statistics of images: `contrast` (m,) times a random projection plus noise, uneven between bands and images."""
    level = rng.uniform(0.5, 2, (m, 1))
    sums = []
    for n, power in zip(samples, noise):
        p = strength * rng.normal(size=(m, n))
        y = contrast[:, None] * p + level * np.sqrt(power) * rng.normal(size=(m, n))
        sums.append(np.stack([(y**2).sum(1), (y * p).sum(1), (p**2).sum(1)], axis=1))
    return Statistics(np.stack(sums, axis=1), np.array(samples, float))


def test_noise_alone_is_as_significant_as_chance():
    rng, m = np.random.default_rng(1), 4000
    z = significance(images_like(rng, np.zeros(m), m))
    assert abs(z.mean()) < 4 / np.sqrt(m) and z.std() == pytest.approx(1, abs=4 / np.sqrt(2 * m))
    bright = images_like(np.random.default_rng(1), np.zeros(m), m)
    bright.sums[:, :, 0] *= 1e8
    bright.sums[:, :, 1] *= 1e4
    np.testing.assert_allclose(significance(bright), z)  # an image ten thousand times too bright is no more significant
    assert not significance(Statistics.empty(2, np.ones(3))).any()


def test_inverted_images_contradict_the_map_and_hardly_any_other():
    contrast = np.where(np.arange(400) % 20 == 0, -1.0, 1.0) * (np.arange(400) % 3 > 0)  # a third shows nothing
    s = images_like(np.random.default_rng(2), contrast)
    against = contradicting(COMM, s, np.ones(400, bool))
    assert against[contrast < 0].all() and against[contrast >= 0].sum() <= 1
    assert looks_inverted(s)[contrast < 0].all() and not (looks_inverted(s) & against)[contrast >= 0].any()
    assert not contradicting(COMM, s, contrast >= 0)[contrast < 0].any()  # bad images are not asked


def test_no_image_contradicts_a_map_by_chance_more_often_than_promised():
    alarms = [contradicting(COMM, images_like(np.random.default_rng(seed), np.zeros(60), 60), np.ones(60, bool)).any()
              for seed in range(300)]
    assert np.mean(alarms) < 0.03  # 0.01, and three standard deviations of 300 draws


@pytest.mark.parametrize("seed", range(5))
def test_false_discoveries_are_held_as_benjamini_and_hochberg_say(seed):
    rng = np.random.default_rng(seed)
    s = images_like(rng, np.where(rng.random(400) < 0.1, -0.6, 0.0), strength=0.5)
    chance = np.sort(ndtr(significance(s)))
    below = np.flatnonzero(chance <= FALSE_DISCOVERY_RATE * np.arange(1, 401) / 400)
    found = contradicting(COMM, s, np.ones(400, bool))
    assert found.sum() == (below[-1] + 1 if len(below) else 0) > 0
    np.testing.assert_array_equal(np.sort(ndtr(significance(s))[found]), chance[: found.sum()])


@pytest.mark.parametrize("loss", M_ESTIMATORS)
def test_what_contradicts_the_map_is_turned_or_gets_no_weight(loss):
    kind = np.arange(400) % 40
    s = images_like(np.random.default_rng(3), np.where(kind == 0, -1.0, np.where(kind == 1, -0.45, 1.0)), strength=4)
    selection, turned = (
        chosen(s, loss=loss, distance=WHITENED),
        chosen(s.inverted(kind == 0), loss=loss, distance=WHITENED),
    )
    np.testing.assert_array_equal(selection.contradicts, kind < 2)
    assert not selection.weight[kind == 1].any() and not selection.kept[kind == 1].any()
    assert (selection.contrast == np.where(kind == 0, -1, 1)).all() and (selection.contrast2 == 1).all()
    np.testing.assert_array_equal(selection.weight, turned.weight)  # as the image of the right sign would
    assert selection.weight[kind == 0].min() > 0 or loss == "tukey"


@pytest.mark.parametrize("loss", ["sorted", "posterior"])
def test_every_robust_loss_turns_what_is_upside_down(loss):
    kind = np.arange(400) % 40
    s = images_like(np.random.default_rng(3), np.where(kind == 0, -1.0, np.where(kind == 1, -0.45, 1.0)), strength=4)
    at_random = RandomPoses(np.arange(400), images_like(np.random.default_rng(4), np.zeros(400), strength=4))
    options = dict(loss=loss, keep=0.95, distance=WHITENED, random_poses=at_random)
    selection = chosen(s, **options)
    assert selection.kept[kind == 0].all() and (selection.contrast[kind == 0] < 0).all()
    assert (selection.contrast[kind != 0] >= 0).all() and (selection.contradicts == (kind < 2)).all()
    assert not (chosen(s, loss="l2", distance=WHITENED).contrast < 0).any()


def test_turning_reaches_what_depends_on_frequency():
    attenuation = Attenuation(np.ones((2, 5)), np.ones((3, 2)), np.ones((3, 2)))
    selection = Selection(np.ones(3), np.ones(3, bool), np.zeros(3), attenuation=attenuation)
    selection.invert(np.array([False, True, False]))
    e, e2 = selection.expected_contrast(slice(None))
    assert (e[1] < 0).all() and (e[[0, 2]] > 0).all() and (e2 > 0).all() and selection.contrast.tolist() == [1, -1, 1]


def test_those_that_contradict_are_named():
    def warnings(wrong, inverted, loss):
        return Contradiction(np.array(wrong, int), np.array(inverted, int), loss).warnings()

    assert warnings([], [], "huber") == warnings([4], [], "sorted") == warnings([4], [], "l2") == []
    inverted, wrong = warnings(range(12), [3], "huber")
    assert inverted.endswith("sign turned: 1 particle (3)")
    assert "have weight 0" in wrong and wrong.endswith("12 particles (0, 1, 2, 3, 4, 5, 6, 7, 8, 9 …)")
    assert "choose a robust --loss" in warnings([], [5, 6], "l2")[0]
    assert warnings([5], [5], "posterior") == [inverted.replace("3", "5")]
    told = Contradiction(np.array([1]), np.array([2, 3]), "cauchy").as_dict()
    assert told == {"wrong": [1], "inverted": [2, 3], "turned": True, "without_weight": True}


@pytest.mark.parametrize("n", [2, 3])
def test_ranks_decide_the_same_with_and_without_messages(mpi_program, n):
    assert f"ok {n}" in mpi_program(n, "select_ranks_program.py").stdout
