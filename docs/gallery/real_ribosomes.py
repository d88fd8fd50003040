"""Real ribosomes with simulated errors in some poses: python real_ribosomes.py ribo70s_real/particles.star"""

import sys

import numpy as np

import mpirecon as mr

# every fifth ribosome gets a wrong pose, the same for all of its tilt images; RELION's poses are kept as the truth
particles = mr.read_star(sys.argv[1], error_rate=0.2, error_by="rlnTomoParticleName", seed=2)
print(particles)
plain = mr.reconstruct(particles, diameter=270)
robust = mr.reconstruct(particles, diameter=270, loss="posterior", group_by="rlnTomoParticleName")
wrong = particles.truth["pose_error"]
print(f"kept {robust.kept.sum()} of {len(particles)}; wrong ones among them {(robust.kept & wrong).sum()} of "
      f"{wrong.sum()}")
print(f"half-map FSC 0.143: L2 {plain.resolution:.1f} Å, posterior {robust.resolution:.1f} Å")
names, which = np.unique(particles.column("rlnTomoParticleName"), return_inverse=True)
print(f"{len(names)} ribosomes; estimated fraction of correct images {robust.keep:.2f}, truly {1 - wrong.mean():.2f}")
robust.plot().savefig("real_ribosomes.png", dpi=70)
