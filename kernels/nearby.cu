// One look at the images from poses that were turned a little: yp and pp by band, the slope of L = sum of yp - pp / 2 over
// turns, and its curvature. Twin: nearby.py, which takes the steps between looks.
#include "common.cuh"

// a tap's polynomial and its derivative, one step behind
__device__ inline void tap_and_slope(const float* table, float t, float& w, float& d)
{
    w = table[DEGREE];
    d = 0.0f;
#pragma unroll
    for (int j = DEGREE - 1; j >= 0; --j) {
        d = fmaf(d, t, w);
        w = fmaf(w, t, table[j]);
    }
}

// re, im of a sample, then of its derivatives along x, y and z of the grid
struct Slopes {
    float v[8];
};

// As `gather`, with derivatives; of the stored half, conjugation is the caller's.
__device__ inline Slopes gather_slopes(const float2* grid, Extent n, const Place& place, const OwnTaps& own, int lane)
{
    float wy[TAPS], dy[TAPS], wz[TAPS], dz[TAPS];
#pragma unroll
    for (int j = 0; j < TAPS; ++j) {
        tap_and_slope(TABLE[j], place.ty, wy[j], dy[j]);
        tap_and_slope(TABLE[j], place.tz, wz[j], dz[j]);
    }
    const float2* first = grid + corner(n, place) + lane;
    Slopes out = {{0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}};
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
        float re = 0.0f, im = 0.0f, y_re = 0.0f, y_im = 0.0f, z_re = 0.0f, z_im = 0.0f;
#pragma unroll
        for (int jz = 0; jz < TAPS; ++jz) {
            float row_re = 0.0f, row_im = 0.0f, slope_re = 0.0f, slope_im = 0.0f;
#pragma unroll
            for (int jy = 0; jy < TAPS; ++jy) {
                const float2 value = __ldg(first + (jz * n.ny + jy) * n.nx + LANES * c);
                row_re = fmaf(wy[jy], value.x, row_re);
                row_im = fmaf(wy[jy], value.y, row_im);
                slope_re = fmaf(dy[jy], value.x, slope_re);
                slope_im = fmaf(dy[jy], value.y, slope_im);
            }
            re = fmaf(wz[jz], row_re, re);
            im = fmaf(wz[jz], row_im, im);
            y_re = fmaf(wz[jz], slope_re, y_re);
            y_im = fmaf(wz[jz], slope_im, y_im);
            z_re = fmaf(dz[jz], row_re, z_re);
            z_im = fmaf(dz[jz], row_im, z_im);
        }
        float wx, dx;
        tap_and_slope(own.table[c], place.tx, wx, dx);
        const float terms[8] = {wx * re, wx * im, dx * re, dx * im, wx * y_re, wx * y_im, wx * z_re, wx * z_im};
#pragma unroll
        for (int j = 0; j < 8; ++j) out.v[j] += terms[j];
    }
#pragma unroll
    for (int d = 1; d < LANES; d *= 2) {
#pragma unroll
        for (int j = 0; j < 8; ++j) out.v[j] += __shfl_xor_sync(ALL_LANES, out.v[j], d);
    }
    return out;
}

#define LOOK (2 * BANDS + 9)

// One block a particle. rotation: (m, 12) of the turned poses, as for `statistics`; matrix: (m, 9), their ratio * R ·
// used: bands that this look uses · out: (m, 2 BANDS + 9) float64, overwritten: yp and pp of each band, slope, curvature
extern "C" __global__ void __launch_bounds__(THREADS)
look_nearby(ARGUMENTS_look_nearby)
{
    __shared__ double found[WARPS][LOOK];
    const int i = blockIdx.x, warp = threadIdx.x / 32;
    const Extent n = {nz, ny, nx};
    const Images images = {data, row, shift, stride, data_scale, box};
    const Optics optics = {on_data, turns, on_ctf, optics_row, samples};
    const int lane = threadIdx.x % LANES, member = threadIdx.x / LANES;
    const OwnTaps own(lane);
    rotation += 12 * i;
    ctf += 16 * i;
    gain += (long long)group[i] * count;
    const float* r = matrix + 9 * i;
    float g[3] = {0.0f, 0.0f, 0.0f}, h[6] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    for (int band = 0; band < BANDS; ++band) {
        float yp = 0.0f, pp = 0.0f;
        const int end = band < used ? first[band + 1] : first[band];
        for (int base = first[band]; base < end; base += THREADS / LANES) {
            const int q = min(base + member, end - 1);
            const int s = index[q];
            const Frequency at = k[s];
            const Place place = locate(rotation, at);
            const Slopes p = gather_slopes(grid, n, place, own, lane);
            if (lane == 0 && base + member < end) {
                const float sign = place.mirrored ? -1.0f : 1.0f, u = at.x, v = at.y;
                // the other half is the complex conjugate: its real part's slope changes sign, the imaginary's does not
                const float re = p.v[0], im = sign * p.v[1];
                const float out_re = sign * (r[6] * p.v[2] + r[7] * p.v[4] + r[8] * p.v[6]);
                const float out_im = r[6] * p.v[3] + r[7] * p.v[5] + r[8] * p.v[7];
                const float ax = r[0] * v - r[3] * u, ay = r[1] * v - r[4] * u, az = r[2] * v - r[5] * u;
                const float in_re = sign * (ax * p.v[2] + ay * p.v[4] + az * p.v[6]);
                const float in_im = ax * p.v[3] + ay * p.v[5] + az * p.v[7];
                const float2 y = image_sample(images, optics, i, s, at);
                const float c = ctf_at(ctf, optics, i, s, at);
                const float e = gain[q], c2 = c * c;
                const float on_cross = mode == PLAIN ? e * c : mode == PREMULTIPLIED_WHITENED ? e : e * c2;
                const float on_model = mode == PLAIN || mode == PREMULTIPLIED_WHITENED ? e * c2 : e * c2 * c2;
                float d_re = on_cross * y.x, d_im = on_cross * y.y;
                yp += re * d_re + im * d_im;
                pp += on_model * (re * re + im * im);
                d_re -= on_model * re;
                d_im -= on_model * im;
                const float across = out_re * d_re + out_im * d_im;
                const float steep = on_model * (out_re * out_re + out_im * out_im);
                const float mixed = on_model * (out_re * in_re + out_im * in_im);
                g[0] -= v * across;
                g[1] += u * across;
                g[2] += in_re * d_re + in_im * d_im;
                h[0] += v * v * steep;
                h[1] -= u * v * steep;
                h[2] -= v * mixed;
                h[3] += u * u * steep;
                h[4] += u * mixed;
                h[5] += on_model * (in_re * in_re + in_im * in_im);
            }
        }
        const double yp_sum = warp_sum(yp), pp_sum = warp_sum(pp);
        if (threadIdx.x % 32 == 0) {
            found[warp][2 * band] = yp_sum;
            found[warp][2 * band + 1] = pp_sum;
        }
    }
#pragma unroll
    for (int j = 0; j < 9; ++j) {
        const double sum = warp_sum(j < 3 ? g[j % 3] : h[(j + 3) % 6]);
        if (threadIdx.x % 32 == 0) found[warp][2 * BANDS + j] = sum;
    }
    __syncthreads();
    for (int j = threadIdx.x; j < LOOK; j += THREADS) {
        double total = 0.0;
        for (int w = 0; w < WARPS; ++w) total += found[w][j];
        out[(long long)i * LOOK + j] = total;
    }
}
