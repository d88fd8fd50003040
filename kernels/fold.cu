// Between a volume's real FFT and the extended half grid that gather and spread without wrapping round. Twin: fold.py.
#include "common.cuh"

__device__ inline int wrapped(int k, int p)
{
    return k < 0 ? k + p : k >= p ? k - p : k;
}

// half: (p, p, p / 2 + 1) complex -> out: extended grid of complex numbers, zero frequency in the middle. A point of the
// half grid's conjugate half is found at -k.
extern "C" __global__ void extend(ARGUMENTS_extend)
{
    const long long total = (long long)nz * ny * nx;
    for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < total; j += (long long)gridDim.x * blockDim.x) {
        int kx = (int)(j % nx) - MARGIN;
        int ky = (int)(j / nx % ny) - ny / 2;
        int kz = (int)(j / nx / ny) - nz / 2;
        const bool mate = kx < 0 || kx > p / 2;
        if (mate) {
            kx = kx < 0 ? -kx : p - kx;
            ky = -ky;
            kz = -kz;
        }
        const float2 value = half[((long long)wrapped(kz, p) * p + wrapped(ky, p)) * (p / 2 + 1) + kx];
        out[j] = make_float2(value.x, mate ? -value.y : value.y);
    }
}

// grid: extended grid of (re, im, weight, unused) -> out: (p, p, p / 2 + 1, 3), the sum over all samples and their Friedel
// mates. Each point gathers its at most 27 periodic copies and those of its mate: no atomics, a fixed order.
extern "C" __global__ void fold(ARGUMENTS_fold)
{
    const long long total = (long long)p * p * (p / 2 + 1);
    for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < total; j += (long long)gridDim.x * blockDim.x) {
        const int kx = (int)(j % (p / 2 + 1)), ky = (int)(j / (p / 2 + 1) % p), kz = (int)(j / (p / 2 + 1) / p);
        float re = 0.0f, im = 0.0f, weight = 0.0f;
        for (int side = 1; side >= -1; side -= 2) {
            for (int z = side * kz - p; z <= side * kz + p; z += p) {
                if (z < -(nz / 2) || z >= nz - nz / 2) continue;
                for (int y = side * ky - p; y <= side * ky + p; y += p) {
                    if (y < -(ny / 2) || y >= ny - ny / 2) continue;
                    for (int x = side * kx - p; x <= side * kx + p; x += p) {
                        if (x < -MARGIN || x >= nx - MARGIN) continue;
                        const float4 value = grid[((long long)(z + nz / 2) * ny + (y + ny / 2)) * nx + x + MARGIN];
                        re += value.x;
                        im += side * value.y;
                        weight += value.z;
                    }
                }
            }
        }
        out[3 * j] = re;
        out[3 * j + 1] = im;
        out[3 * j + 2] = weight;
    }
}
