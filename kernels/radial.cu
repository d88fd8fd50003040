// Kernels over a padded half grid (p, p, p / 2 + 1) whose factors depend on the radius only. Twin: radial.py.
#include "common.cuh"

// float64, so that a point on a shell's edge falls on the side where the CPU puts it
__device__ inline int shell_of(long long j, int p, double ratio, int last)
{
    const int kx = (int)(j % (p / 2 + 1));
    int ky = (int)(j / (p / 2 + 1) % p), kz = (int)(j / (p / 2 + 1) / p);
    if (ky > p / 2) ky -= p;
    if (kz > p / 2) kz -= p;
    const int shell = (int)(sqrt((double)((long long)kz * kz + (long long)ky * ky + (long long)kx * kx)) / ratio + 0.5);
    return shell < last ? shell : last;
}

// total, count: (p, shells) float64, overwritten: the sums of a component of (p, p, p / 2 + 1, stride) over each plane kz,
// one block a plane; dynamic shared memory holds 2 * shells float64
extern "C" __global__ void radial_sum(ARGUMENTS_radial_sum)
{
    extern __shared__ double sums[];
    for (int s = threadIdx.x; s < 2 * shells; s += blockDim.x) sums[s] = 0.0;
    __syncthreads();
    const int plane = p * (p / 2 + 1);
    for (int q = threadIdx.x; q < plane; q += blockDim.x) {
        const long long j = (long long)blockIdx.x * plane + q;
        const int kx = q % (p / 2 + 1);
        const int s = shell_of(j, p, ratio, shells - 1);
        const double friedel = kx == 0 || 2 * kx == p ? 1.0 : 2.0;
        atomicAdd(&sums[s], friedel * values[j * stride + component]);
        atomicAdd(&sums[shells + s], friedel);
    }
    __syncthreads();
    for (int s = threadIdx.x; s < shells; s += blockDim.x) {
        total[(long long)blockIdx.x * shells + s] = sums[s];
        count[(long long)blockIdx.x * shells + s] = sums[shells + s];
    }
}

// out = numerator / (weight + ridge[shell]) of a folded (p, p, p / 2 + 1, 3) accumulator; 0 where 0 / 0
extern "C" __global__ void divide_regularised(ARGUMENTS_divide_regularised)
{
    const long long total = (long long)p * p * (p / 2 + 1);
    for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < total; j += (long long)gridDim.x * blockDim.x) {
        const double w = folded[3 * j + 2] + ridge[shell_of(j, p, ratio, shells - 1)];
        out[j] = w > 0.0 ? make_float2((float)(folded[3 * j] / w), (float)(folded[3 * j + 1] / w)) : make_float2(0.0f, 0.0f);
    }
}

// spectrum /= weight + ridge[shell], in place; zero where that is not positive
extern "C" __global__ void precondition(ARGUMENTS_precondition)
{
    const long long total = (long long)p * p * (p / 2 + 1);
    for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < total; j += (long long)gridDim.x * blockDim.x) {
        const double w = folded[3 * j + 2] + ridge[shell_of(j, p, ratio, shells - 1)];
        const float inverse = w > 0.0 ? (float)(1.0 / w) : 0.0f;
        spectrum[j] = make_float2(spectrum[j].x * inverse, spectrum[j].y * inverse);
    }
}

// spectrum *= transfer + ridge[shell], in place; transfer: (p, p, p / 2 + 1)
extern "C" __global__ void multiply_regularised(ARGUMENTS_multiply_regularised)
{
    const long long total = (long long)p * p * (p / 2 + 1);
    for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < total; j += (long long)gridDim.x * blockDim.x) {
        const float w = (float)(transfer[j] + ridge[shell_of(j, p, ratio, shells - 1)]);
        spectrum[j] = make_float2(spectrum[j].x * w, spectrum[j].y * w);
    }
}
