// Statistics: yy, yp and pp of every particle in one pass that never stores a projection. Twin: statistics.py.
//
// A thread adds some tens of float32 terms of a band (a relative error of 1e-7); what threads found is added in float64.
#include "common.cuh"

// yy, yp, pp, and the sums of gain and gain C^2 that premultiplied data need
#define SUMS 5

// One block a particle: project, CTF, shift, sums.
// gain: (groups, count) multiplicity over noise power, in the order of `index` · index: (count,) samples by band, those
// of band b at first[b] .. first[b + 1] · out: (m, BANDS, 3) float64, overwritten.
// Where GIVEN, `grid` holds the projections themselves, (m, samples), and rotation is not looked at.
template <bool GIVEN>
__device__ inline void compare(const float2* grid, const Extent& n, const float* rotation, const float* ctf,
                               const Images& images, const Optics& optics, const Frequency* k, const int* index,
                               const int* first, const float* gain, const int* group, int count, int mode, double* out)
{
    __shared__ double found[WARPS][BANDS * SUMS];
    const int i = blockIdx.x;
    const int lane = threadIdx.x % LANES, member = threadIdx.x / LANES;
    const OwnTaps own(lane);
    rotation += 12 * i;
    ctf += 16 * i;
    gain += (long long)group[i] * count;
    for (int band = 0; band < BANDS; ++band) {
        float yy = 0.0f, yp = 0.0f, pp = 0.0f, flat = 0.0f, squared = 0.0f;
        const int end = first[band + 1];
        for (int base = first[band]; base < end; base += THREADS / LANES) {
            const int q = min(base + member, end - 1);
            const int s = index[q];
            const Frequency at = k[s];
            const float2 p = GIVEN ? __ldg(grid + (long long)i * optics.samples + s)
                                   : gather(grid, n, locate(rotation, at), own, lane);
            if (lane == 0 && base + member < end) {
                const float2 y = image_sample(images, optics, i, s, at);
                const float c = ctf_at(ctf, optics, i, s, at);
                const float g = gain[q], c2 = c * c;
                // as in statistics.py: the residual of plain images, of premultiplied ones whitened, and raw
                const float on_data = g;
                const float on_cross = mode == PLAIN ? g * c : mode == PREMULTIPLIED_WHITENED ? g : g * c2;
                const float on_model = mode == PLAIN || mode == PREMULTIPLIED_WHITENED ? g * c2 : g * c2 * c2;
                yy = fmaf(on_data, fmaf(y.x, y.x, y.y * y.y), yy);
                yp = fmaf(on_cross, fmaf(p.x, y.x, p.y * y.y), yp);
                pp = fmaf(on_model, fmaf(p.x, p.x, p.y * p.y), pp);
                flat += g;
                squared = fmaf(g, c2, squared);
            }
        }
        const double sums[SUMS] = {warp_sum(yy), warp_sum(yp), warp_sum(pp), warp_sum(flat), warp_sum(squared)};
        if (threadIdx.x % 32 == 0) {
#pragma unroll
            for (int j = 0; j < SUMS; ++j) found[threadIdx.x / 32][band * SUMS + j] = sums[j];
        }
    }
    __syncthreads();
    if (threadIdx.x < BANDS) {
        double total[SUMS] = {0.0, 0.0, 0.0, 0.0, 0.0};
        for (int warp = 0; warp < WARPS; ++warp) {
#pragma unroll
            for (int j = 0; j < SUMS; ++j) total[j] += found[warp][threadIdx.x * SUMS + j];
        }
        if (mode == PREMULTIPLIED_WHITENED) total[0] *= total[4] > 0.0 ? total[3] / total[4] : 0.0;
        double* mine = out + ((long long)i * BANDS + threadIdx.x) * 3;
        for (int j = 0; j < 3; ++j) mine[j] = total[j];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
statistics(ARGUMENTS_statistics)
{
    compare<false>(grid, Extent{nz, ny, nx}, rotation, ctf, Images{data, row, shift, stride, data_scale, box},
                   Optics{on_data, turns, on_ctf, optics_row, samples}, k, index, first, gain, group, count, mode, out);
}

// As `statistics`, of projections that real space made: model (m, samples).
extern "C" __global__ void __launch_bounds__(THREADS)
statistics_of(ARGUMENTS_statistics_of)
{
    compare<true>(model, Extent{0, 0, 0}, ctf, ctf, Images{data, row, shift, stride, data_scale, box},
                  Optics{on_data, turns, on_ctf, optics_row, samples}, k, index, first, gain, group, count, mode, out);
}

// out[i] = mean power of image i over its samples, (m,) float64. Of premultiplied images, whose noise has the variance
// C^2, the mean is over the sum of C^2.
extern "C" __global__ void __launch_bounds__(THREADS)
image_power(ARGUMENTS_image_power)
{
    __shared__ double found[WARPS][2];
    const int i = blockIdx.x;
    const Images images = {data, row, shift, stride, data_scale, box};
    const Optics optics = {on_data, turns, on_ctf, optics_row, samples};
    float power = 0.0f, count = 0.0f;
    for (int s = threadIdx.x; s < samples; s += THREADS) {
        const float2 value = image_sample(images, optics, i, s, k[s]);
        const float m = multiplicity[s], c = premultiplied ? ctf_at(ctf + 16 * i, optics, i, s, k[s]) : 1.0f;
        power = fmaf(m, fmaf(value.x, value.x, value.y * value.y), power);
        count = fmaf(m, c * c, count);
    }
    const double power_sum = warp_sum(power), count_sum = warp_sum(count);
    if (threadIdx.x % 32 == 0) {
        found[threadIdx.x / 32][0] = power_sum;
        found[threadIdx.x / 32][1] = count_sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double total = 0.0, weight = 0.0;
        for (int warp = 0; warp < WARPS; ++warp) {
            total += found[warp][0];
            weight += found[warp][1];
        }
        out[i] = weight > 0.0 ? total / weight : 0.0;
    }
}

// Adds each sample's weighted power to power[shell] and what it is worth to count[shell], both float64: one block a
// shell, in a fixed order. shell_index: samples by shell, those of shell b at first[b] .. first[b + 1] · weight: (m,)
// float64, an image of weight 0 is left out · worth 1, or C^2 where premultiplied; multiplicities count.
extern "C" __global__ void __launch_bounds__(THREADS)
shell_power(ARGUMENTS_shell_power)
{
    __shared__ double found[WARPS][2];
    const Images images = {data, row, shift, stride, data_scale, box};
    const Optics optics = {on_data, turns, on_ctf, optics_row, samples};
    const int shell = blockIdx.x;
    const int begin = first[shell], length = first[shell + 1] - begin;
    double total = 0.0, worth = 0.0;
    for (int i = 0; i < particles; ++i) {
        if (!(weight[i] > 0.0)) continue;
        double image = 0.0, weigh = 0.0;
        for (int q = threadIdx.x; q < length; q += THREADS) {
            const int s = shell_index[begin + q];
            const float2 value = image_sample(images, optics, i, s, k[s]);
            const float m = multiplicity[s], c = premultiplied ? ctf_at(ctf + 16 * i, optics, i, s, k[s]) : 1.0f;
            image += m * fmaf(value.x, value.x, value.y * value.y);
            weigh += m * c * c;
        }
        total += weight[i] * image;
        worth += weigh;
    }
    total = warp_sum(total);
    worth = warp_sum(worth);
    if (threadIdx.x % 32 == 0) {
        found[threadIdx.x / 32][0] = total;
        found[threadIdx.x / 32][1] = worth;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 0; warp < WARPS; ++warp) {
            power[shell] += found[warp][0];
            count[shell] += found[warp][1];
        }
    }
}
