"""Iteration by iteration: what the half maps and the selection do, with the residuals of the last map."""

from matplotlib.figure import Figure

import mpirecon as mr

truth = mr.phantom(32, pixel_size=5.0)
particles = mr.simulate(truth, 600, snr=0.3, error_rate=0.3)
wrong = particles.truth["pose_error"]

run = mr.Reconstruction(particles, loss="sorted", keep=0.7, iterations=4)
first, second = Figure(figsize=(9, 3.4), layout="constrained").subplots(1, 2)
for state in run:
    print(f"iteration {state.iteration}: FSC 0.143 at {state.fsc.resolution:.2f} Å, kept {state.kept.sum()}, of them "
          f"wrong {(state.kept & wrong).sum()}")
    first.plot(state.fsc.frequency[1:], state.fsc.values[1:], label=f"iteration {state.iteration}")
first.set(xlabel="spatial frequency (1/Å)", ylabel="half-map FSC")
first.legend(frameon=False)

result = run.result()
power = mr.ForwardModel(particles).residual_power(result.volume)
for rows, name in ((~wrong, "right poses"), (wrong, "wrong poses")):
    second.plot(result.fsc.frequency[1:], power[rows].mean(axis=0)[1:], label=name)
second.set(xlabel="spatial frequency (1/Å)", ylabel="power of the residual images", yscale="log")
second.legend(frameon=False)
second.figure.savefig("step_by_hand.png", dpi=70)
