"""Find the poses of rejected particles again, and reconstruct with what was found."""

import numpy as np
from matplotlib.figure import Figure

import mpirecon as mr
from mpirecon.model.pose import angular_distance

truth = mr.phantom(48, pixel_size=5.0)
particles = mr.simulate(truth, 2000, snr=0.1, error_rate=0.4, junk_rate=0.1, noise_cv=0.2, scale_cv=0.2)
first = mr.reconstruct(particles, loss="posterior")

table = mr.search_poses(particles, first)
accepted = table["probability"] > 0.9
error = angular_distance(table["quaternion"], particles.truth["true_quaternion"][table["id"]])
junk = particles.truth["junk"][table["id"]]
print(f"{len(table)} searched, {accepted.sum()} accepted, of them right (6°) {(error[accepted & ~junk] < 6).sum()}, "
      f"junk {(accepted & junk).sum()}")

found = particles.with_poses(table[accepted])
second = mr.reconstruct(found, loss="posterior")

never = np.flatnonzero(particles.truth["pose_error"] & ~particles.truth["junk"])
as_if = np.zeros(len(never), table.dtype)
as_if["id"], as_if["shift"] = never, particles.table["shift"][never]
as_if["quaternion"] = particles.truth["true_quaternion"][never]
best = mr.reconstruct(particles.with_poses(as_if), loss="posterior")

axes = Figure(figsize=(5, 3.4), layout="constrained").subplots()
for name, result in (("rejected", first), ("recovered", second), ("correct poses", best)):
    curve = mr.fsc(result.volume, truth)
    print(f"{name:18} {result.kept.sum()} kept, FSC with the truth, mean {curve.values[1:].mean():.4f}")
    axes.plot(curve.frequency[1:], curve.values[1:], label=name)
axes.set(xlabel="spatial frequency (1/Å)", ylabel="FSC with the truth")
axes.legend(frameon=False)
axes.figure.savefig("found_again.png", dpi=70)
