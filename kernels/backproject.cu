// Backprojection: numerator and weight spread together onto an extended Fourier grid. Twin: backproject.py.
//
// A grid point is (re, im, weight, unused): 16 bytes, so that one vector reduction updates it where the chip has one.
#include "common.cuh"

__device__ inline void add_to(float4* at, float re, float im, float weight)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(at)),
                 "f"(re), "f"(im), "f"(weight), "f"(0.0f)
                 : "memory");
#else
    atomicAdd(&at->x, re);
    atomicAdd(&at->y, im);
    atomicAdd(&at->z, weight);
#endif
}

// The transpose of `gather`: LANES neighbouring threads share a sample and add to neighbouring points.
__device__ inline void spread(float4* grid, Extent n, const Place& place, const OwnTaps& own, int lane, float2 value, float weight)
{
    const float re = value.x, im = place.mirrored ? -value.y : value.y;
    float wy[TAPS], wz[TAPS];
#pragma unroll
    for (int j = 0; j < TAPS; ++j) {
        wy[j] = tap_weight(j, place.ty);
        wz[j] = tap_weight(j, place.tz);
    }
    float4* first = grid + corner(n, place) + lane;
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
        if (TAPS % LANES && LANES * c + lane >= TAPS) break;  // a lane without a tap here adds nothing
        const float wx = own.weight(c, place.tx);
#pragma unroll
        for (int jz = 0; jz < TAPS; ++jz) {
#pragma unroll
            for (int jy = 0; jy < TAPS; ++jy) {
                const float w = wz[jz] * wy[jy] * wx;
                add_to(first + (jz * n.ny + jy) * n.nx + LANES * c, w * re, w * im, w * weight);
            }
        }
    }
}

// One block a particle: numerator (m, s) complex and weight (m, s) onto the grid.
extern "C" __global__ void __launch_bounds__(THREADS)
backproject(ARGUMENTS_backproject)
{
    const Extent n = {nz, ny, nx};
    const int lane = threadIdx.x % LANES, member = threadIdx.x / LANES;
    const OwnTaps own(lane);
    const long long mine = (long long)blockIdx.x * samples;
    rotation += 12 * blockIdx.x;
    for (int s = member; s < samples; s += THREADS / LANES) {
        spread(grid, n, locate(rotation, k[s]), own, lane, numerator[mine + s], weight[mine + s]);
    }
}

// One block a particle: sum of w s C y and w s^2 C^2, straight from the images; CTF, shift and weights on the way.
// contrast, contrast2: E[s] and E[s^2], at [i * per_particle + shell * per_shell] · scale: box, back from orthonormal ·
// the sample k = 0 is its own Friedel mate; folding would count it twice, so it is halved.
extern "C" __global__ void __launch_bounds__(THREADS)
accumulate(ARGUMENTS_accumulate)
{
    const int i = blockIdx.x;
    const float w = weight[i];
    if (!(w > 0.0f)) return;
    const Extent n = {nz, ny, nx};
    const Images images = {data, row, shift, stride, data_scale, box};
    const Optics optics = {on_data, turns, on_ctf, optics_row, samples};
    const int lane = threadIdx.x % LANES, member = threadIdx.x / LANES;
    const OwnTaps own(lane);
    rotation += 12 * i;
    ctf += 16 * i;
    contrast += (long long)i * per_particle;
    contrast2 += (long long)i * per_particle;
    for (int s = member; s < samples; s += THREADS / LANES) {
        const Frequency at = k[s];
        const float c = ctf_at(ctf, optics, i, s, at);
        const float half = at.x == 0 && at.y == 0 ? 0.5f : 1.0f;
        const int place = shell[s] * per_shell;
        const float on_data = half * w * contrast[place] * scale * (premultiplied ? 1.0f : c);
        float2 value = image_sample(images, optics, i, s, at);
        value.x *= on_data;
        value.y *= on_data;
        spread(grid, n, locate(rotation, at), own, lane, value, half * w * contrast2[place] * c * c);
    }
}

// What real space backprojects: out[i, s] = w s C y of every image, as `accumulate` spreads it.
extern "C" __global__ void weighted_samples(ARGUMENTS_weighted_samples)
{
    const Images images = {data, row, shift, stride, data_scale, box};
    const Optics optics = {on_data, turns, on_ctf, optics_row, samples};
    const long long total = (long long)particles * samples;
    for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < total; j += (long long)gridDim.x * blockDim.x) {
        const int i = (int)(j / samples), s = (int)(j % samples);
        const float c = premultiplied ? 1.0f : ctf_at(ctf + 16 * i, optics, i, s, k[s]);
        const float factor = fmaxf(weight[i], 0.0f) * contrast[(long long)i * per_particle + shell[s] * per_shell] * scale * c;
        const float2 value = image_sample(images, optics, i, s, k[s]);
        out[j] = make_float2(factor * value.x, factor * value.y);
    }
}
