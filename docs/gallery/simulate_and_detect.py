"""Simulate particles of which 30 % have wrong poses, and see how well they are found."""

import mpirecon as mr

truth = mr.phantom(48, pixel_size=4.0)
particles = mr.simulate(truth, 1500, snr=0.1, error_rate=0.3, junk_rate=0.05, noise_cv=0.15)

plain = mr.reconstruct(particles)
robust = mr.reconstruct(particles, loss="posterior")

for name, result in (("L2", plain), ("posterior", robust)):
    print(f"{name}: FSC with the truth is 0.5 at {mr.fsc(result.volume, truth).crossing(0.5):.2f} Å")
found = robust.detection
print(f"wrong ones found: AUC {found['auc']:.4f}; estimated fraction of correct particles {robust.keep:.3f}, truly "
      f"{1 - particles.truth['pose_error'].mean():.3f}")
robust.plot().savefig("simulate_and_detect.png", dpi=70)
