"""What is concluded from a path's curves: the best step, its resolution, and whether the gain is more than chance."""

import numpy as np
import pytest

from mpirecon.validate.fsc import crossing
from mpirecon.validate.nested import assess, rosenthal_henderson
from mpirecon.validate.path_resolution import fit_resolutions

# resolutions of all curves together


def curves(seed, wrong, signal=1.0, noise=1.0, sharper=0.0, box=32, size=4.0):
    """Records of a path, of Fourier samples drawn shell by shell: tenths of a set, the correct ones first, each adds
    its noise to both half maps."""
    rng, shells = np.random.default_rng(seed), np.arange(1, box // 2 + 1)
    counts = np.rint(4 * np.pi * shells**2 / 2 * 0.2).astype(int)
    at = np.repeat(shells - 1, counts)
    # of the object, over the noise of all particles
    power = signal * np.exp(6.0 - 9.0 * (np.arange(1, box // 2 + 1) / (box // 2)))[at]

    def draw(*shape: int) -> np.ndarray:
        return (rng.normal(size=(*shape, len(at))) + 1j * rng.normal(size=(*shape, len(at)))) / np.sqrt(2)

    correct = np.clip((1 - wrong) * 10 - np.arange(10), 0, 1) / 10  # of all particles, in each tenth
    objects, tenths = np.sqrt(power) * draw(), noise * np.sqrt(0.1) * draw(10, 2)

    def record(fraction, share, noises):
        blur = np.exp(-sharper * (1 - fraction) * ((at + 1) / len(shells)) ** 2 / 2)
        a, b = share * blur * objects + noises
        sums = [np.bincount(at, values.real) for values in (a * b.conj(), abs(a) ** 2, abs(b) ** 2)]
        curve = np.concatenate([[1.0], sums[0] / np.sqrt(sums[1] * sums[2])]) if noise else np.concatenate(
            [[1.0], 1 / (1 + fraction / np.bincount(at, (share * blur) ** 2 * power) * counts)])
        return {"fraction": fraction, "particles": round(1500 * fraction), "fsc": curve.tolist(),
                "mean_fsc": float(curve[1:].mean()),
                "resolution_0143": crossing(curve, 0.143, box, size)}

    q = [k / 10 for k in range(10, 0, -1)]
    steps = [record(f, correct[: round(10 * f)].sum(), tenths[: round(10 * f)].sum(axis=0)) for f in q]
    return steps, [record(f, (1 - wrong) * f, noise * np.sqrt(f) * draw(2)) for f in q[1:]]


def told(steps, random):
    fitted = fit_resolutions(steps, random, 32, 4.0, 16, 0.2)
    return assess(steps, random, 8.0, fitted), fitted


@pytest.mark.parametrize("wrong", [0.2, 0.3, 0.4])
def test_the_best_resolution_is_within_one_step_of_the_correct_ones(wrong):
    """Of 20 paths each; the rule errs on the side of more particles, never of fewer."""
    found = np.array([told(*curves(seed, wrong))[0].best_resolution for seed in range(20)])
    assert (np.abs(found - (1 - wrong)) > 0.1 + 1e-9).sum() <= 2 and found.min() >= 1 - wrong - 0.1 - 1e-9


def test_of_a_clean_set_all_particles_are_the_finest():
    paths = [curves(seed, 0.0) for seed in range(20)]
    assert all(told(*path)[0].best_resolution == 1 for path in paths)
    assert any(assess(*path, 8.0).best_resolution < 1 for path in paths)  # as single curves would have it


def test_fitted_resolutions_are_those_of_the_curves_without_noise():
    steps, random = curves(0, 0.3, noise=0.0, sharper=1.5)
    verdict, fitted = told(steps, random)
    for records, at in ((steps, fitted.steps), (random, fitted.random)):
        for record, found in zip(records, at):
            assert found == pytest.approx(record["resolution_0143"], rel=0.02)
    assert fitted.threshold == 0.143
    records, draws = fitted.added_to(steps, random)
    assert [r["resolution_fitted"] for r in records] == fitted.steps and "resolution_error" not in draws[0]


def test_errors_of_fitted_resolutions_are_their_scatter():
    """The jackknife's error of the difference between two steps, beside the scatter of that difference over paths."""
    behind, errors = [], []
    for seed in range(60):
        steps, random = curves(seed, 0.3)
        fitted = fit_resolutions(steps, random, 32, 4.0, 16, 0.2)
        behind.append(1 / fitted.steps[3] - 1 / fitted.steps[0])
        errors.append(fitted.errors[0] / fitted.steps[0] ** 2)
    assert 0.5 < np.sqrt(np.mean(np.square(errors))) / np.std(behind) < 2


def test_curves_that_reach_nyquist_are_compared_at_half():
    steps, random = curves(1, 0.3, signal=8.0)
    verdict, fitted = told(steps, random)
    assert fitted.threshold == 0.5 and fitted.steps[3] is None and abs(verdict.best_resolution - 0.7) <= 0.1 + 1e-9
    steps, random = curves(1, 0.3, signal=1e4)
    verdict, fitted = told(steps, random)
    assert fitted.best is None and fitted.threshold is None and verdict.best_resolution == verdict.best
    silent = [{**record, "fsc": [1.0] + [0.0] * 16} for record in steps]
    assert all(np.isfinite(at) for at in fit_resolutions(silent, silent[1:], 32, 4.0, 16).steps)


# the verdict


def records(values, draws=2, seed=0, scatter=0.003, fall=0.05):
    """Steps with these mean FSCs, and random discards that fall by ln q and scatter as subsets do."""
    rng = np.random.default_rng(seed)
    q = np.arange(10, 0, -1) / 10
    steps = [{"fraction": f, "particles": int(1000 * f), "resolution_0143": 10 - v, "mean_fsc": v} for f,
             v in zip(q, values)]
    random = [{"fraction": f, "particles": int(1000 * f), "resolution_0143": 10.0,
               "mean_fsc": values[0] + fall * np.log(f) + scatter * np.sqrt(1 / f - 1) * rng.normal()} for f in q[1:]
               for _ in range(draws)]
    return steps, random


def test_a_gain_is_distinguished_from_chance():
    fall = 0.5 + 0.05 * np.log(np.arange(10, 0, -1) / 10)
    nothing = assess(*records(fall), 8.0)
    assert (
        nothing.best == 1
        and not nothing.pays
        and nothing.sentence.startswith("Nothing is gained by leaving particles out")
    )
    raised = fall.copy()
    raised[3] = 0.53
    real = assess(*records(raised), 8.0)
    assert (
        real.pays
        and real.best == 0.7
        and "It pays to keep the best-scored 70 % (700 of 1000 particles)" in real.sentence
    )
    raised[3] = 0.503
    weak = assess(*records(raised), 8.0)
    assert not weak.pays and weak.best == 0.7 and weak.sentence.startswith("Nothing is gained beyond chance")
    few = assess(
        *(part[:3] if k == 0 else part[:2] for k, part in enumerate(records(raised[[0, 3, 4, 5, 6, 7, 8, 9, 9, 9]]))),
        8.0,
    )
    assert not few.pays and "--random-draws" in few.sentence


def test_selections_at_random_seldom_seem_to_pay():
    """Paths that are random discards themselves, and would be found to pay by a looser limit."""
    paid = 0
    for seed in range(300):
        _, random = records(np.full(10, 0.5), draws=2, seed=seed, fall=0.0)
        own = [0.5] + [record["mean_fsc"] for record in random[::2]]
        steps, _ = records(own)
        paid += assess(steps, random[1::2], 8.0).pays
    assert paid <= 0.08 * 300
    assert paid > 0  # a limit that nothing reaches would tell nothing


def test_bfactor_of_random_discards():
    n = np.array([1000, 500, 200, 100])
    resolution = (2 / 120.0 * np.log(n / 20)) ** -0.5
    bfactor, intercept = rosenthal_henderson(
        [{"particles": int(a), "resolution_0143": d} for a, d in zip(n, resolution)]
    )
    assert bfactor == pytest.approx(120) and intercept == pytest.approx(np.log(20))
    assert rosenthal_henderson([{"particles": 10, "resolution_0143": None}] * 9) is None
