"""The coarse search of poses on a GPU: the host's, product by product. With a stand-in for CuPy."""

import json

import numpy as np
import pytest
from test_cuda_backend import fake_cupy, needs_compiler  # noqa: F401 - fixtures

import mpirecon as mr
from mpirecon.backend.arrays import HOST, DeviceArrays
from mpirecon.backend.gpu import Gpu
from mpirecon.model.pose import matrix_from_quaternion
from mpirecon.model.symmetry import point_group
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.search.group_search import GroupSearch
from mpirecon.search.pose_search import PoseSearch

BOX = 32
PLANE = HalfPlane.of(BOX)


class Log:
    """The events that a run's log would have."""

    def __init__(self) -> None:
        self.events = []

    def event(self, name, **facts) -> None:
        self.events.append((name, facts))


def images(m: int):
    """(data, on_cross, on_model) of noise, weighed as by a CTF, and (m, 4) quaternions."""
    rng = np.random.default_rng(3)
    data = rng.standard_normal((m, len(PLANE), 2)).astype(np.float32).view(np.complex64)[..., 0]
    ctf = rng.uniform(-1, 1, (m, len(PLANE))).astype(np.float32)
    q = rng.standard_normal((m, 4))
    return data, ctf, ctf**2, q / np.linalg.norm(q, axis=1, keepdims=True)


def searches(cls, group: str, offset: float, where) -> tuple:
    volume = mr.phantom(BOX, 4.0).array
    return tuple(cls(volume, PLANE, 19.0, 12, point_group(group), offset, 0.0, arrays) for arrays in (HOST, where))


@pytest.mark.parametrize("group, offset", [("C1", 1.0), ("C1", 0.0), ("D2", 1.0)])
def test_single_images_are_searched_as_on_the_host(fake_cupy, group, offset):  # noqa: F811
    fake_cupy()
    host, device = searches(PoseSearch, group, offset, DeviceArrays(Gpu(), log := Log()))
    *some, given = images(3)
    p, order = host.band.coarse, host.band.order
    data, on_cross, on_model = (a[:, order] for a in some)
    (best, which), power = host.slices(lambda s: (s.best(data[:, :p] * on_cross[:, :p], host.ramps),
                                                  s.power(on_model[:, :p])))  # fmt: skip
    (best2, which2), power2 = device.slices(lambda s: (s.best(data[:, :p] * on_cross[:, :p], host.ramps),
                                                       s.power(on_model[:, :p])))  # fmt: skip
    assert [a.dtype for a in (best2, which2, power2)] == [a.dtype for a in (best, which, power)]
    np.testing.assert_allclose(best2, best, atol=1e-4 * best.std())
    np.testing.assert_allclose(power2, power, rtol=1e-4)
    assert (which2 == which).mean() > 0.999  # but for ties
    one, other = (search.search(*some, given) for search in (host, device))
    np.testing.assert_allclose(other.score, one.score, rtol=1e-3)
    np.testing.assert_allclose(other.quaternion[:, 0], one.quaternion[:, 0], atol=1e-3)
    assert not log.events


@pytest.mark.parametrize("offset", [1.0, 0.0])
def test_groups_are_searched_as_on_the_host(fake_cupy, offset):  # noqa: F811
    fake_cupy()
    *some, given = images(3)
    one, other = (search.search(*some, matrix_from_quaternion(given))
                  for search in searches(GroupSearch, "C1", offset, DeviceArrays(Gpu())))  # fmt: skip
    np.testing.assert_allclose(other.cross, one.cross, rtol=1e-3)
    np.testing.assert_allclose(other.turn[0], one.turn[0], atol=1e-3)


@pytest.mark.parametrize("cls", [PoseSearch, GroupSearch])
def test_a_search_goes_on_on_the_host_where_the_device_has_no_room(fake_cupy, cls):  # noqa: F811
    cupy = fake_cupy(memory=2**18)
    host, device = searches(cls, "C1", 1.0, DeviceArrays(Gpu(), log := Log()))
    *some, given = images(2)
    given = given if cls is PoseSearch else matrix_from_quaternion(given)
    for _ in range(2):
        np.testing.assert_array_equal(device.search(*some, given).cross, host.search(*some, given).cross)
    assert [name for name, _ in log.events] == ["matrix products on the host"] and cupy.MEMORY.used == 0


def test_other_errors_of_a_device_are_not_hidden(fake_cupy, monkeypatch):  # noqa: F811
    cupy = fake_cupy()

    def broken(*_, **__):
        raise RuntimeError("cublasStatus: CUBLAS_STATUS_EXECUTION_FAILED")

    monkeypatch.setattr(cupy, "matmul", broken)
    _, device = searches(PoseSearch, "C1", 0.0, DeviceArrays(Gpu()))
    with pytest.raises(RuntimeError, match="EXECUTION_FAILED"):
        device.search(*images(1))


@needs_compiler
def test_a_run_on_a_gpu_finds_what_one_on_cpus_finds(cli, tmp_path, fake_cupy):  # noqa: F811
    cupy = fake_cupy()
    products, matmul = [], cupy.matmul
    cupy.matmul = lambda *a, **options: products.append(1) or matmul(*a, **options)
    cli("simulate", "--phantom", "--particles", 150, "--box", 16, "--pixel-size", 8, "--snr", 1, "--seed", 3,
        "--orientation-error-rate", 0.3, "-o", tmp_path / "p.h5")  # fmt: skip
    found = {}
    for name in ("cpu", "cuda"):
        result = cli("reconstruct", tmp_path / "p.h5", "-o", tmp_path / name, "--loss", "posterior", "--poses",
                     "rescue", "--search-offset", 0, "--backend", name, "--folds", 2, "--iterations", 3,
                     "--no-postprocess")  # fmt: skip
        assert result.returncode == 0, result.stderr
        found[name] = json.loads((tmp_path / name / "summary.json").read_text())["search"]
        assert bool(products) == (name == "cuda")
    assert found["cpu"]["found"] > 25
    for key in ("searched", "found"):
        assert abs(found["cuda"][key] - found["cpu"][key]) <= 2
