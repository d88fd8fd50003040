// Translation: phase ramps on half-plane samples, picked from or put into an image's real FFT. Twin: translate.py.
#include "common.cuh"

// out[row[i], s] = scale * spectra[i](k_s) * exp(+2 pi i k.position_i / n): the image moved so that its position, pixel
// n / 2 plus the shift, becomes the origin. spectra: (m, n, n / 2 + 1) · shift: (m, 4) as ramp_at takes it.
extern "C" __global__ void gather_translated(const float2* spectra, const float* shift, int box, const Frequency* k,
                                             int samples, int particles, float scale, const int* row, float2* out)
{
    const long long total = (long long)particles * samples;
    for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < total; j += (long long)gridDim.x * blockDim.x) {
        const int i = (int)(j / samples), s = (int)(j % samples);
        const float2 value = centred_sample(spectra + (long long)i * box * (box / 2 + 1), shift + 4 * i, box, k[s]);
        out[(long long)row[i] * samples + s] = make_float2(scale * value.x, scale * value.y);
    }
}

// The transpose's twin: spectra[i](k_s) = samples[i, s] * exp(-2 pi i k.position_i / n); spectra are zero before. On the
// column kx = 0 the mirrored sample is written as well, so that an inverse real FFT gives the real image.
extern "C" __global__ void scatter_translated(const float2* samples_in, const float* shift, int box, const Frequency* k,
                                              int samples, int particles, float2* spectra)
{
    const long long total = (long long)particles * samples;
    for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < total; j += (long long)gridDim.x * blockDim.x) {
        const int i = (int)(j / samples), s = (int)(j % samples);
        const Frequency at = k[s];
        const float2 ramp = ramp_at(shift + 4 * i, at, box), value = samples_in[j];
        const float2 moved = make_float2(value.x * ramp.x + value.y * ramp.y, value.y * ramp.x - value.x * ramp.y);
        const int y = at.y < 0 ? at.y + box : at.y;
        float2* image = spectra + (long long)i * box * (box / 2 + 1);
        image[y * (box / 2 + 1) + at.x] = moved;
        if (at.x == 0 && at.y != 0) image[(box - y) % box * (box / 2 + 1)] = make_float2(moved.x, -moved.y);
    }
}
