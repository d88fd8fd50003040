"""A user-defined loss (a plain function of the distance), compared with built-in ones."""

import numpy as np
from matplotlib.figure import Figure

import mpirecon as mr

truth = mr.phantom(32, pixel_size=5.0)
particles = mr.simulate(truth, 800, snr=0.5, error_rate=0.3)


def logistic(u):
    """Full weight up to two standard deviations beyond the typical distance, then a soft step."""
    return 1 / (1 + np.exp(4 * (u - 2)))


losses = {"l2": "l2", "huber": "huber", "tukey": "tukey", "own": mr.losses.of_excess(logistic)}
axes = Figure(figsize=(5, 3.4), layout="constrained").subplots()
for name, loss in losses.items():
    result = mr.reconstruct(particles, loss=loss)
    curve = mr.fsc(result.volume, truth)
    weight, wrong = result.particles["weight"], particles.truth["pose_error"]
    print(f"{name:6} FSC with the truth, mean {curve.values[1:].mean():.4f}; fraction of the weight of wrong poses: "
          f"{weight[wrong].sum() / weight.sum():.3f}")
    axes.plot(curve.frequency[1:], curve.values[1:], label=name)
axes.set(xlabel="spatial frequency (1/Å)", ylabel="FSC with the truth")
axes.legend(frameon=False)
axes.figure.savefig("own_loss.png", dpi=70)
