// Projection: central slices gathered from an extended, deapodised Fourier grid. Twin: project.py.
#include "common.cuh"

// One block a particle. grid: extended half grid of complex numbers. out: (m, s), overwritten.
extern "C" __global__ void __launch_bounds__(THREADS)
project(ARGUMENTS_project)
{
    const Extent n = {nz, ny, nx};
    const int lane = threadIdx.x % LANES, member = threadIdx.x / LANES;
    const OwnTaps own(lane);
    rotation += 12 * blockIdx.x;
    out += (long long)blockIdx.x * samples;
    for (int base = 0; base < samples; base += THREADS / LANES) {
        const int s = min(base + member, samples - 1);
        const float2 value = gather(grid, n, locate(rotation, k[s]), own, lane);
        if (lane == 0 && base + member < samples) out[s] = value;
    }
}
