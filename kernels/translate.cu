// Translation: phase ramps on half-plane samples, picked from or put into an image's real FFT. Twin: translate.py.
#include "common.cuh"

// out[to[i], s] = image i's sample s as image_sample gives it: moved so that its position, pixel n / 2 plus the shift,
// becomes the origin, odd phases undone, scaled. data: transforms (rows, n, n / 2 + 1) · shift: (m, 4) as ramp_at takes it
extern "C" __global__ void gather_translated(ARGUMENTS_gather_translated)
{
    const Images images = {data, row, shift, stride, data_scale, box};
    const Optics optics = {on_data, turns, on_ctf, optics_row, samples};
    const long long total = (long long)particles * samples;
    for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < total; j += (long long)gridDim.x * blockDim.x) {
        const int i = (int)(j / samples), s = (int)(j % samples);
        out[(long long)to[i] * samples + s] = image_sample(images, optics, i, s, k[s]);
    }
}

// The transpose's twin: spectra[i](k_s) = samples[i, s] * exp(-2 pi i k.position_i / n); spectra are zero before. On the
// column kx = 0 the mirrored sample is written as well, so that an inverse real FFT gives the real image.
extern "C" __global__ void scatter_translated(ARGUMENTS_scatter_translated)
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
