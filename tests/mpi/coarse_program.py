"""The middle of a map's groups, summed over ranks, is the middle of their sum; also of sums kept in a sphere alone."""

import numpy as np

from mpirecon.kernels.sphere import Sphere, add_middle, rows_of
from mpirecon.parallel.comm import get_communicator
from mpirecon.solvers.groups import GroupStore, half_map, held_out_map

comm = get_communicator()
shape, side = (10, 10, 6, 3), 6
groups = [(half, fold) for half in (1, 2) for fold in range(3)]
k = np.fft.fftfreq(10, 1 / 10)
radius = np.sqrt(k[:, None, None, None] ** 2 + k[:, None, None] ** 2 + np.arange(6)[:, None] ** 2)
for sphere in (None, Sphere.of(10, 4.6)):
    inside = 1 if sphere is None else radius <= 4.6
    parts = {g: (np.random.default_rng(k).standard_normal((comm.size, *shape)) * inside).astype(np.float32) for k,
             g in enumerate(groups)}
    store = GroupStore(comm, shape, sphere=sphere)
    for group in groups:
        store.put(group, parts[group][comm.rank].copy())
    for root, made_of in enumerate([half_map(1), held_out_map((2, 1)), held_out_map((1, 0)), half_map(2)]):
        expected = np.zeros((side, side, side // 2 + 1, 3), np.float32)
        for group in filter(made_of.contains, groups):
            for part in parts[group]:
                add_middle(part, expected)
        found = store.collect(made_of, root % comm.size, side=side)
        whole = store.collect(made_of, root % comm.size)
        assert (found is not None) == (whole is not None) == (comm.rank == root % comm.size)
        if found is not None:
            np.testing.assert_allclose(found, expected, atol=1e-5)
            total = sum(part for group in filter(made_of.contains, groups) for part in parts[group])
            np.testing.assert_allclose(rows_of(whole, 0, 10), total, atol=1e-5)
