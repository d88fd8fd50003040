"""A script of a user's, on several ranks: python_interface.py PARTICLES FOLDER."""

import sys

import numpy as np

import mpirecon as mr

comm = mr.world()
particles, folder = sys.argv[1], sys.argv[2]
result = mr.reconstruct(particles, f"{folder}/run", loss="sorted", keep=0.7, iterations=2, comm=comm)

run = mr.Reconstruction(particles, loss="sorted", keep=0.7, iterations=2, comm=comm)
for state in run:
    seen = comm.allgather((float(state.half_maps[0].array.sum()), state.fsc.resolution))
    assert all(one == seen[0] for one in seen), seen
assert sum(comm.allgather(len(state.ids))) == len(mr.open(particles))
stepped = run.result()  # its folder lasts until the last rank has let go
np.testing.assert_array_equal(stepped.volume.array, result.volume.array)

made = mr.simulate(mr.phantom(20, 5.0), 50, comm=comm)
about = made.metadata()
arrays = mr.Particles(made.images(), about.pose, about.ctf, pixel_size=5.0, half=about.half, comm=comm)
np.testing.assert_array_equal(arrays.images(), made.images())

from mpi4py import MPI  # noqa: E402

part = MPI.COMM_WORLD.Split(comm.rank == 0)  # a run of some ranks by themselves
several = mr.reconstruct(particles, comm=part)
alone = mr.reconstruct(particles)
np.testing.assert_allclose(several.volume.array, alone.volume.array, atol=1e-5 * np.abs(alone.volume.array).max())
comm.barrier()
if comm.rank == 0:
    print("ranks agree")
