"""What only one rank was given, or meets in a function of the script's: differing_ranks.py PARTICLES.

Each case must end with an error on all ranks, and none of them wait for another.
"""

import sys
from pathlib import Path

import numpy as np

import mpirecon as mr

sys.path.insert(0, str(Path(__file__).resolve().parent))
from on_ranks import said_on_ranks  # noqa: E402

comm = mr.world()
second = comm.rank == 1
particles = mr.open(sys.argv[1])
box, m = particles.box, len(particles)


def weight(d):
    return np.full_like(d, np.nan) if comm.rank == 1 and len(calls) > 1 else 1 / (calls.append(1) or 1 + d)


def raising(d):
    if comm.rank == 1:
        raise ValueError("of this script's")
    return 1 / (1 + d)


def distance(s, sigma, typical):
    if comm.rank == 1:
        raise mr.UserError("no distance")
    return s.residual


if second:
    mr.distances.register(mr.distances.Distance(f"seconds{len(sys.argv)}", True, lambda s, *_: s.residual, None))
else:
    mr.losses.register("firsts", lambda d: 1 / (1 + d))
calls, mask = [], np.ones((box,) * 3, np.float32)
own = mr.distances.Distance(f"own{len(sys.argv)}", True, distance, lambda s, typical: np.sqrt(s.residual))
power = 2 + second
random = np.random.default_rng(comm.rank).uniform(0.5, 1, m)
run, path = mr.reconstruct, mr.path
about, pixels = particles.metadata(), particles.images()


def arrays(p, comm, **given):
    """Particles of the arrays of others, or of those given."""
    mr.Particles(**{"images": pixels, "pose": about.pose, "ctf": about.ctf, "pixel_size": p.pixel_size, **given},
                 comm=comm)


cases = {
    "a loss that returns NaN": (run, {"loss": weight}, "the function returned the weight nan"),
    "among many": (run, {"loss": weight, "sort_scope": "global", "deterministic": False}, "returned the weight nan"),
    "a loss that raises": (run, {"loss": raising}, ("rank 1 on host", "of this script's")),
    "a distance": (run, {"loss": "sorted", "keep": 0.7, "distance": own}, "no distance"),
    "a share that is none": (run, {"loss": "sorted", "keep": 7 if second else 0.7}, "keep is 0.7 on rank 0 and 7 on"),
    "an option that is none": (run, {"kep": 1} if second else {}, "kep is not given on rank 0 and 1 on rank 1"),
    "two shares": (run, {"loss": "sorted", "keep": 0.8 if second else 0.5}, "keep is 0.5 on rank 0 and 0.8 on rank 1"),
    "two losses": (run, {"loss": lambda d: 1 / (1 + d**power)}, "loss is another function on rank 0 than on rank 1"),
    "a loss that one registered": (run, {"loss": "firsts"}, "loss 'firsts' is registered on rank 0 and not on rank 1"),
    "a distance that one registered": (run, {"loss": "sorted", "keep": 0.7, "distance": f"seconds{len(sys.argv)}"},
                                       "is registered on rank 1 and not on rank 0"),
    "own and built in": (run, {"loss": "l1" if second else "firsts"}, "loss is firsts on rank 0 and l1 on rank 1"),
    "random weights": (run, {"weights": random}, "weights is another array on rank 0 than on rank 1"),
    "starting weights": (run, {"start_weights": list(random)}, "start_weights is another array on rank 0 than on"),
    "two masks": (run, {"mask": mask / (1 + second)}, "mask is another array on rank 0 than on rank 1"),
    "a mask that is none": (run, {"mask": mask[1:] if second else mask}, "mask is another array on rank 0"),
    "two paths": (path, {"steps": (1, 0.7 - 0.2 * second)}, "steps is another array on rank 0 than on rank 1"),
    "two tests": (mr.null, {"seed": comm.rank}, "seed is 0 on rank 0 and 1 on rank 1"),
    "maps": (lambda p, comm: mr.score(mr.Volume(mask, 3.0 + second), mr.Volume(mask, 3.0), p, comm=comm), {},
             "half1 is another map on rank 0 than on rank 1"),
    "simulations": (lambda p, comm: mr.simulate(mr.phantom(16), 10, snr=0.5 + second, comm=comm), {},
                    "snr is 0.5 on rank 0 and 1.5 on rank 1"),
    "local resolution": (lambda p, comm: mr.local_resolution(mr.Volume(mask, 3.0), mr.Volume(mask, 3.0), comm=comm,
                                                             radius=9.0 * (1 + second)), {}, "radius is 9.0 on rank 0"),
    "images": (arrays, {"images": pixels + np.float32(second)}, "images is another array on rank 0 than on rank 1"),
    "parts of images": (arrays, {"images": pixels[second:]}, "images is another array on rank 0 than on rank 1"),
    "images of one rank": (arrays, {"images": None if comm.rank == 0 else pixels}, "images is not given on rank 0"),
    "poses": (arrays, {"pose": mr.Pose(about.pose.quaternion, about.pose.shift + second)}, "pose is another Pose on"),
    "CTFs": (arrays, {"ctf": None if second else about.ctf}, "ctf is array on rank 0 and not given on rank 1"),
    "defoci": (arrays, {"ctf": mr.make_ctf(m, defocus_u=1e4 + 1e3 * second)}, "ctf is another array on rank 0 than on"),
    "half sets": (arrays, {"half": np.roll(about.half, second)}, "half is another array on rank 0 than on rank 1"),
    "stepping": (mr.Reconstruction, {"folds": 2 + second}, "folds is 2 on rank 0 and 3 on rank 1"),
}  # fmt: skip
if len(sys.argv) > 2:  # decided by messages between the ranks
    from mpirecon.robust import jointly

    jointly.FEW = 0
    cases = {name: case for name, case in cases.items() if name.startswith(("a loss", "a distance"))}
for name, (call, options, words) in cases.items():
    calls.clear()
    seen = said_on_ranks(comm, lambda call=call, options=options: call(particles, comm=comm, **options))
    wanted = (words,) * 2 if isinstance(words, str) else words
    assert all(word in text for word, text in zip(wanted, seen)), (name, seen)
    assert not isinstance(words, str) or seen[0] == seen[1] and "rank 1" in seen[0] or "nan" in seen[0], (name, seen)
taken = mr.Particles(*(None, None) if second else (pixels, about.pose), pixel_size=particles.pixel_size, comm=comm)
np.testing.assert_array_equal(taken.images(), pixels)  # rank 0's
assert taken.warnings == comm.bcast(taken.warnings)
same = mr.reconstruct(particles, weights=np.ones(m), loss=lambda d: 1 / (1 + d**2), comm=comm, threads=1 + second)
assert same.summary["ranks"][1]["rank"] == 1
if comm.rank == 0:
    print("every case was refused by all")
