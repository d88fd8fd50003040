// Contrast-transfer function on half-plane samples. Twin: ctf.py. The fused kernels evaluate it themselves.
#include "common.cuh"

// out[i, s] = CTF of particle i at sample s; coefficients: (m, 16) as ctf_at takes them.
extern "C" __global__ void evaluate_ctf(ARGUMENTS_evaluate_ctf)
{
    const Optics optics = {on_data, turns, on_ctf, optics_row, samples};
    const long long total = (long long)particles * samples;
    for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < total; j += (long long)gridDim.x * blockDim.x) {
        const int i = (int)(j / samples), s = (int)(j % samples);
        out[j] = ctf_at(coefficients + 16 * i, optics, i, s, k[s]);
    }
}
