"""User-defined weights: those of the known truth, and three others."""

import numpy as np
from matplotlib.figure import Figure

import mpirecon as mr

truth = mr.phantom(32, pixel_size=5.0)
particles = mr.simulate(truth, 800, snr=0.3, error_rate=0.4, noise_cv=0.5)
correct = ~particles.truth["pose_error"]
noise = particles.truth["true_sigma"] / particles.truth["true_sigma"].mean()
random = np.random.default_rng(0).permutation(correct)

weights = {"all": np.ones(len(particles)), "as many at random": random, "correct": correct,
           "correct / σ²": correct / noise**2}
axes = Figure(figsize=(5, 3.4), layout="constrained").subplots()
for name, weight in weights.items():
    curve = mr.fsc(mr.reconstruct(particles, start_weights=weight.astype(float)).volume, truth)
    print(f"{name:18} FSC with the truth, mean {curve.values[1:].mean():.4f}")
    axes.plot(curve.frequency[1:], curve.values[1:], label=name)
axes.set(xlabel="spatial frequency (1/Å)", ylabel="FSC with the truth")
axes.legend(frameon=False)
axes.figure.savefig("own_weights.png", dpi=70)
