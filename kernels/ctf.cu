// Contrast-transfer function on half-plane samples. Twin: ctf.py. The fused kernels evaluate it themselves.
#include "common.cuh"

// out[i, s] = CTF of particle i at sample s; coefficients: (m, 12) as ctf_at takes them.
extern "C" __global__ void evaluate_ctf(const float* coefficients, const Frequency* k, int samples, int particles, float* out)
{
    const long long total = (long long)particles * samples;
    for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < total; j += (long long)gridDim.x * blockDim.x) {
        out[j] = ctf_at(coefficients + 12 * (j / samples), k[j % samples]);
    }
}
