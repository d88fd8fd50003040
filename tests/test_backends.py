"""What every backend owes, whichever device it computes on: one contract, asked of all of them.
Of their images, see test_image_store.py.

The CUDA backends run on the host through the stand-in for CuPy, or, marked `gpu`, on a GPU.
"""

import inspect

import numpy as np
import pytest
from adjoint import random_like
from test_cuda_backend import fake_cupy, needs_compiler  # noqa: F401 (a fixture)

from mpirecon.backend import get_backend
from mpirecon.backend.protocol import Ability, Backend
from mpirecon.backend.real_space import RealSpaceCpuBackend
from mpirecon.model import ParticleSet, Pose, make_ctf
from mpirecon.model.symmetry import point_group
from mpirecon.operators.equations import Equations
from mpirecon.operators.fixed_point import FixedPoint
from mpirecon.operators.symmetry import Symmetry

BOX = 12

KINDS = {
    "cpu": ("cpu", "fourier"),
    "real space": ("cpu", "real"),
    "cuda on the host": ("cuda", "fourier"),
    "cuda in real space on the host": ("cuda", "real"),
    "gpu": ("cuda", "fourier"),
    "gpu in real space": ("cuda", "real"),
}


@pytest.fixture(params=[
    pytest.param(kind, marks=[pytest.mark.gpu] if kind.startswith("gpu") else [needs_compiler] if "host" in kind
                 else [])
    for kind in KINDS
])  # fmt: skip
def backend(request):
    """A backend of each kind; ``backend(premultiplied=True)`` makes it with options."""
    name, space = KINDS[request.param]
    if "host" in request.param:
        request.getfixturevalue("fake_cupy")()
    elif request.param.startswith("gpu"):
        pytest.importorskip("cupy")
    if request.param == "real space":  # a run gives it no memory for images, which would save it nothing
        return lambda on_cpu={}, **options: RealSpaceCpuBackend(BOX, 2.0, **options, **on_cpu)
    return lambda **options: get_backend(name, BOX, 2.0, space=space, **options)


def particles(m=9, seed=0):
    rng = np.random.default_rng(seed)
    pose = Pose(rng.standard_normal((m, 4)), rng.uniform(-6, 6, (m, 2)))
    ctf = make_ctf(m, voltage_kv=300, defocus_u=rng.uniform(5e3, 2e4, m), defocus_v=1e4, cs_mm=2.7,
                   amplitude_contrast=0.1,
                   astigmatism=rng.uniform(-3, 3, m))  # fmt: skip
    return ParticleSet(BOX, 2.0, pose, ctf, 1 + np.arange(m) % 2, np.ones(m))


def images(m=9, seed=1):
    return random_like((m, BOX, BOX), np.float32, seed)


def volume(seed=3):
    """A smooth map, zero near the faces: what every interpolation can follow."""
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    rng, out = np.random.default_rng(seed), np.zeros((BOX,) * 3)
    for cx, cy, cz, weight in rng.uniform((-2, -2, -2, 0.5), (2, 2, 2, 1.5), (5, 4)):
        out += weight * np.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / 3)
    return out.astype(np.float32)


def plain_bands(of, whitened=False):
    return of.bands(np.ones((1, of.plane.shells)), 0, of.plane.shells - 1, whitened)


def test_every_backend_is_one_and_keeps_its_signatures(backend):
    made = backend()
    assert isinstance(made, Backend) and made.can <= frozenset(Ability)
    for name in dir(Backend):
        method = getattr(Backend, name)
        if not name.startswith("_") and inspect.isfunction(method):
            theirs = list(inspect.signature(getattr(type(made), name)).parameters)
            assert theirs == list(inspect.signature(method).parameters), name


def test_abilities_are_what_is_declared(backend):
    made, batch = backend(), None
    calls = {
        Ability.PAIRS: lambda: made.pair(),
        Ability.NEARBY: lambda: made.nearby(made.reference(volume()), batch, plain_bands(made), np.array([2]), 1.0),
        Ability.EXACT_SUMS: lambda: (made.largest(batch), made.use_units(FixedPoint(1.0, 1.0))),
    }
    batch = made.prepare(images(2), particles(2))
    for ability, call in calls.items():
        if ability in made.can:
            call()
        else:
            with pytest.raises(NotImplementedError, match=ability.name):
                call()
    made.use_units(None)


@pytest.mark.parametrize("premultiplied", [False, True])
def test_the_right_hand_side_is_the_adjoint_of_the_projections(backend, premultiplied):
    """⟨Σ w s Aᴴŷ, x⟩ = Σ w s ⟨ŷ, A x⟩: what is accumulated and what statistics compare with are one operator.

    For premultiplied images Aᴴŷ has no further CTF, and ⟨ŷ, P x⟩ is the whitened cross term.
    """
    made = backend(premultiplied=premultiplied)
    m, x = 9, volume()
    batch = made.prepare(images(m), particles(m))
    weight, contrast = np.arange(m) % 3 / 2.0, 0.5 + np.arange(m) / m
    accumulator = made.accumulator()
    made.accumulate(accumulator, batch, weight, contrast, contrast**2)
    equations = made.normal_equations(made.folded(accumulator))
    sums = made.statistics(made.reference(x), batch, plain_bands(made, whitened=premultiplied)).sum(axis=1)
    left = float(np.vdot(np.asarray(equations.right_hand_side(), float), x))
    # transforms are orthonormal in the statistics, and data a factor of the box larger in the sums
    right = BOX**2 * float((weight * contrast * sums[:, 1]).sum())
    assert left == pytest.approx(right, rel=2e-3), f"ratio {left / right}"


def test_the_weights_are_the_power_of_the_projections(backend):
    """⟨x, Σ w s² AᴴA x⟩ = Σ w s² ‖A x‖²."""
    made = backend()
    m, x = 9, volume()
    batch = made.prepare(images(m), particles(m))
    weight, contrast = np.arange(m) % 3 / 2.0, 0.5 + np.arange(m) / m
    accumulator = made.accumulator()
    made.accumulate(accumulator, batch, weight, contrast, contrast**2)
    equations = made.normal_equations(made.folded(accumulator))
    left = float(np.vdot(np.asarray(equations.apply(x, np.zeros_like(equations.ridge())), float), x))
    sums = made.statistics(made.reference(x), batch, plain_bands(made)).sum(axis=1)
    right = BOX**2 * float((weight * contrast**2 * sums[:, 2]).sum())
    assert left == pytest.approx(right, rel=0.02), f"ratio {left / right}"


def test_what_sums_explain_is_that_of_the_equations(backend):
    """Of several sets of images and two maps, as from each one's right-hand side and matrix."""
    made = backend()
    m, several = 9, []
    for number in (0, 1):
        batch = made.prepare(images(m, seed=number), particles(m, seed=number))
        accumulator = made.accumulator()
        made.accumulate(accumulator, batch, np.ones(m), np.ones(m), np.ones(m))
        several.append(made.normal_equations(made.folded(accumulator)))
    on_data, on_map = volume(4), volume(5)
    nothing = np.zeros_like(several[0].ridge())
    expected = [[np.vdot(np.asarray(equations.right_hand_side(), float), on_data),
                 np.vdot(np.asarray(equations.apply(on_map, nothing), float), on_map)] for equations in several]
    found = several[0].explained(on_data, on_map, *several[1:])
    assert np.shape(found) == (2, 2) and abs(np.array(expected)).min() > 0
    np.testing.assert_allclose(found, expected, rtol=3e-4)
    np.testing.assert_allclose(several[1].explained(on_data, on_map), expected[1:], rtol=3e-4)


def test_sums_made_where_others_were_are_the_same(backend):
    """Also of whole numbers of a unit after those of none."""
    made, m = backend(), 6
    batches = [made.prepare(images(m, seed=k), particles(m, seed=k)) for k in (0, 1)]
    units = [None] + [FixedPoint.of(1e4, 1e2, m)] * (Ability.EXACT_SUMS in made.can)

    def folded(batch, unit, memory=None):
        made.use_units(unit) if len(units) > 1 else None
        accumulator = made.accumulator(memory)
        made.accumulate(accumulator, batch, np.ones(m), np.ones(m), np.ones(m))
        return made.folded(accumulator)

    for unit in units:
        expected = np.array(folded(batches[1], unit))
        for before in units:
            found = np.asarray(folded(batches[1], unit, folded(batches[0], before)))
            assert found.dtype == expected.dtype and np.abs(expected).max() > 0
            np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def test_images_add_up_and_those_without_weight_are_left_out(backend):
    made, m = backend(), 6
    batch, one = made.prepare(images(m), particles(m)), np.ones(m)

    def folded(*parts):
        accumulator = made.accumulator()
        for part, weight in parts:
            made.accumulate(accumulator, part, weight, np.ones(len(weight)), np.ones(len(weight)))
        return np.asarray(made.folded(accumulator))

    whole = folded((batch, one))
    scale = np.abs(whole).max()
    np.testing.assert_allclose(folded((batch[[0, 2]], one[:2]), (batch[[1, 3, 4, 5]], one[:4])), whole,
                               atol=1e-5 * scale)
    np.testing.assert_allclose(folded((batch, np.arange(m) % 2.0)), folded((batch[[1, 3, 5]], one[:3])),
                               atol=1e-5 * scale)
    np.testing.assert_array_equal(folded((batch, 0 * one)), 0 * whole)
    np.testing.assert_allclose(folded((batch, 3 * one)), 3 * whole, atol=1e-5 * scale)


def test_statistics_know_the_image_the_projection_and_their_product(backend):
    """yy does not depend on the map; yp is linear in it and pp quadratic; against nothing both are 0."""
    made, m = backend(), 5
    batch, bands = made.prepare(images(m), particles(m)), plain_bands(made)
    nothing = made.statistics(made.reference(0 * volume()), batch, bands)
    once = made.statistics(made.reference(volume()), batch, bands)
    twice = made.statistics(made.reference(2 * volume()), batch, bands)
    assert not nothing[..., 1:].any()
    np.testing.assert_allclose(once[..., 0], nothing[..., 0], rtol=1e-6)
    np.testing.assert_allclose(twice, once * (1, 2, 4), rtol=1e-4, atol=1e-6 * np.abs(once).max())
    power = made.power(batch) * bands.samples.sum()
    np.testing.assert_allclose(once[..., 0].sum(axis=1), power, rtol=1e-5)


def test_turning_the_batch_is_turning_the_poses(backend):
    made, m = backend(), 5
    about = particles(m)
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    batch, bands, reference = made.prepare(images(m), about), plain_bands(made), made.reference(volume())
    turned = made.statistics(reference, made.turned(batch, quarter), bands)
    rotation = made.rotations(about.pose.quaternion, about.optics_group) @ quarter.T
    np.testing.assert_allclose(made.statistics(reference, batch, bands, rotation), turned, rtol=1e-6, atol=1e-9)
    at_home = made.statistics(reference, batch, bands)
    assert np.abs(turned - at_home).max() > 1e-3 * np.abs(at_home).max()


def test_a_shift_is_taken_out(backend):
    """An image moved by whole pixels, with the shift that says so, is the same particle."""
    made, about = backend(), particles(4)
    still = ParticleSet(BOX, 2.0, Pose(about.pose.quaternion, np.zeros((4, 2))), about.ctf, about.half,
                        about.optics_group)
    moved = ParticleSet(BOX, 2.0, Pose(about.pose.quaternion, np.tile([4.0, -2.0], (4, 1))), about.ctf, about.half,
                        about.optics_group)
    first = images(4)
    second = np.roll(first, (-1, 2), axis=(1, 2))  # 2 Å a pixel: +2 in x, −1 in y
    reference, bands = made.reference(volume()), plain_bands(made)
    a, b = (made.statistics(reference, made.prepare(i, p), bands) for i, p in ((first, still), (second, moved)))
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())


class OnDevice:
    """A transport that sums accumulators where they are."""

    on_device = True


@pytest.mark.parametrize("reduced", ["on the host", "on the device"])
def test_an_accumulator_is_summed_over_a_point_group_wherever_it_is(backend, reduced):
    made, symmetry, m = backend(), Symmetry(point_group("D2")), 6
    if reduced == "on the device" and made.name != "cuda":
        with pytest.raises(TypeError, match="summed by the communicator"):
            made.join(OnDevice())
        return
    if reduced == "on the device":
        made.join(OnDevice())
    accumulator, one = made.accumulator(), np.ones(m)
    made.accumulate(accumulator, made.prepare(images(m), particles(m)), one, one, one)
    folded = made.folded(accumulator)
    assert isinstance(folded, np.ndarray) == (reduced == "on the host")
    expected = folded.copy() if reduced == "on the host" else folded.get()
    symmetry.finish(expected)
    made.symmetrise(folded, symmetry)
    np.testing.assert_array_equal(folded if reduced == "on the host" else folded.get(), expected)


def test_equations_keep_their_signatures(backend):
    made = backend()
    equations = made.normal_equations(made.folded(made.accumulator()))
    assert isinstance(equations, Equations)
    for name in Equations.__abstractmethods__ - {"shells", "total_weight"}:
        theirs = list(inspect.signature(getattr(type(equations), name)).parameters)
        assert theirs == list(inspect.signature(getattr(Equations, name)).parameters), name


def test_no_code_asks_a_backend_what_it_is():
    """Abilities are declared; no code looks for attributes of a backend or compares its type."""
    import re
    from pathlib import Path

    import mpirecon

    folder = Path(mpirecon.__file__).parent
    asked = re.compile(r"(hasattr|getattr|type|isinstance)\([^)]*\bbackend\b")
    found = [f"{path.relative_to(folder)}: {line.strip()}" for path in folder.rglob("*.py")
             for line in path.read_text(encoding="utf-8").splitlines() if asked.search(line)]  # fmt: skip
    rooms = [folder / room for room in ("backend", "operators", "solvers")]
    found += [f"{path.name}: {word}" for room in rooms for path in room.rglob("*.py")
              for word in ("hasattr(", "__getattr__")
              if word in path.read_text(encoding="utf-8")]
    assert not found, found


def test_a_backend_that_lacks_a_method_cannot_be_made():
    class Half(Backend):
        name = "half"

    with pytest.raises(TypeError, match="abstract"):
        Half()
