// What the kernels share: interpolation taps, where a sample lies on the grid, its CTF and its phase ramp.
//
// kernels/cuda_source.py writes in front of this text: TAPS, DEGREE, MARGIN, LANES, BANDS, THREADS and
// TABLE[COLUMNS * LANES][DEGREE + 1], the tap polynomials of kernels/gridding.py, and zeros for the taps that fill up the lanes.
//
// Arithmetic is float32. What would lose digits in it, a coordinate of hundreds of grid points or a CTF phase of
// hundreds of turns, comes in two parts, high + low, whose products with the integers kx and ky are kept exact.

#define ALL_LANES 0xffffffffu
#define WARPS (THREADS / 32)

// x taps of each of the threads that share a sample
#define COLUMNS ((TAPS + LANES - 1) / LANES)

// as first_tap() of gridding.py: an odd number of taps lies about the nearest grid point
#define REACH ((TAPS - 1) / 2)
#define BESIDE (0.5f * (TAPS % 2))

// how data and model are multiplied, as in statistics.py
#define PLAIN 0
#define PREMULTIPLIED_WHITENED 1

// A sample of the half plane: kx >= 0 and ky, in pixels of the image's transform.
struct __align__(4) Frequency {
    short x, y;
};

// ---------------------------------------------------------------- interpolation

struct Place {
    int x, y, z;           // the grid point REACH behind the first tap, x counted from zero frequency
    float tx, ty, tz;      // where in its cell the sample is, in [-1/2, 1/2]
    bool mirrored;         // the stored half holds the conjugate sample at -k
};

// high is exact, low below it; t must not suffer from the rounding of their sum. Below 1e-13 a coordinate is a whole number
// to the CPU's float64, too: which taps count must not differ there.
__device__ inline void divide_into_cell(float high, float low, int& cell, float& t)
{
    high += BESIDE;  // exact: high is a multiple of 2^-12
    float whole = floorf(high + low);
    t = (high - whole) + low;
    if (t < -1e-13f) {
        whole -= 1.0f;
        t += 1.0f;
    }
    cell = (int)whole;
    t = fmaxf(t, 0.0f) - 0.5f;
}

// rotation: 12 floats, the first two rows of ratio * R; six high parts (multiples of 2^-12), then six low parts
__device__ inline Place locate(const float* rotation, Frequency k)
{
    const float kx = k.x, ky = k.y;
    float high[3], low[3];
#pragma unroll
    for (int a = 0; a < 3; ++a) {
        high[a] = fmaf(rotation[a], kx, rotation[3 + a] * ky);
        low[a] = fmaf(rotation[6 + a], kx, rotation[9 + a] * ky);
    }
    Place place;
    place.mirrored = high[0] + low[0] < 0.0f;
    const float sign = place.mirrored ? -1.0f : 1.0f;
    divide_into_cell(sign * high[0], sign * low[0], place.x, place.tx);
    divide_into_cell(sign * high[1], sign * low[1], place.y, place.ty);
    divide_into_cell(sign * high[2], sign * low[2], place.z, place.tz);
    return place;
}

__device__ inline float tap_weight(int j, float t)
{
    float w = TABLE[j][DEGREE];
#pragma unroll
    for (int d = DEGREE - 1; d >= 0; --d) w = fmaf(w, t, TABLE[j][d]);
    return w;
}

// Shape of an extended grid in points. Zero frequency is at [nz / 2, ny / 2, MARGIN].
struct Extent {
    int nz, ny, nx;
};

// index of the first of TAPS^3 points
__device__ inline long long corner(Extent n, const Place& p)
{
    return ((long long)(p.z + n.nz / 2 - REACH) * n.ny + (p.y + n.ny / 2 - REACH)) * n.nx + (p.x + MARGIN - REACH);
}

// Polynomials of the x taps that are this thread's own, LANES * c + lane: looked up once, then in registers.
struct OwnTaps {
    float table[COLUMNS][DEGREE + 1];

    __device__ inline explicit OwnTaps(int lane)
    {
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
#pragma unroll
            for (int d = 0; d <= DEGREE; ++d) table[c][d] = TABLE[LANES * c + lane][d];
        }
    }

    __device__ inline float weight(int c, float t) const
    {
        float w = table[c][DEGREE];
#pragma unroll
        for (int d = DEGREE - 1; d >= 0; --d) w = fmaf(w, t, table[c][d]);
        return w;
    }
};

// One sample of the grid. LANES neighbouring threads share it, each reading every LANES-th x tap, so that they read
// neighbouring addresses; all of them get the sum, and all threads of the warp must come here together.
__device__ inline float2 gather(const float2* grid, Extent n, const Place& place, const OwnTaps& own, int lane)
{
    float wy[TAPS], wz[TAPS];
#pragma unroll
    for (int j = 0; j < TAPS; ++j) {
        wy[j] = tap_weight(j, place.ty);
        wz[j] = tap_weight(j, place.tz);
    }
    const float2* first = grid + corner(n, place) + lane;
    float re = 0.0f, im = 0.0f;
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
        float column_re = 0.0f, column_im = 0.0f;
#pragma unroll
        for (int jz = 0; jz < TAPS; ++jz) {
#pragma unroll
            for (int jy = 0; jy < TAPS; ++jy) {
                const float2 value = __ldg(first + (jz * n.ny + jy) * n.nx + LANES * c);
                const float w = wz[jz] * wy[jy];
                column_re = fmaf(w, value.x, column_re);
                column_im = fmaf(w, value.y, column_im);
            }
        }
        const float wx = own.weight(c, place.tx);
        re = fmaf(wx, column_re, re);
        im = fmaf(wx, column_im, im);
    }
#pragma unroll
    for (int d = 1; d < LANES; d *= 2) {
        re += __shfl_xor_sync(ALL_LANES, re, d);
        im += __shfl_xor_sync(ALL_LANES, im, d);
    }
    return make_float2(re, place.mirrored ? -im : im);
}

// ---------------------------------------------------------------- CTF and phase ramp

// coefficient (high + low) times a whole number, less the whole turns; __fmul_rn, so that the remainder that fmaf finds
// is that of this very product
__device__ inline float part_of_turn(float high, float low, float factor)
{
    const float product = __fmul_rn(high, factor);
    return (product - rintf(product)) + fmaf(low, factor, fmaf(high, factor, -product));
}

// sin(2 pi turns) to 2e-7: reduced to a quarter turn, then an odd polynomial
__device__ inline float sine_of_turns(float turns)
{
    float u = turns - floorf(turns + 0.5f);
    if (u > 0.25f)
        u = 0.5f - u;
    else if (u < -0.25f)
        u = -0.5f - u;
    const float a = 6.283185307179586f * u;
    const float b = a * a;
    float p = -2.5052108e-8f;
    p = fmaf(p, b, 2.7557319e-6f);
    p = fmaf(p, b, -1.9841270e-4f);
    p = fmaf(p, b, 8.3333333e-3f);
    p = fmaf(p, b, -1.6666667e-1f);
    return fmaf(a * b, p, a);
}

// What optics groups add, planes of (groups, samples); `on_data` is null where there are no aberrations.
struct Optics {
    const float2* on_data;  // odd phases, multiplied onto the images
    const float* turns;     // even phases, added to that of the CTF
    const float* on_ctf;    // the detector's transfer, multiplied onto the CTF
    const int* row;         // each particle's group, in the order of the batch
    int samples;
};

// c: 16 floats of a particle: turns per kx^2, kx ky, ky^2 and |k|^4, each high and low; constant turns, scale, exponent
// per |k|^2; what a magnification adds to |k|^2 per kx^2, kx ky and ky^2; 1 where the image's phases were flipped; one unused
__device__ inline float ctf_at(const float* c, const Optics& optics, int i, int s, Frequency k)
{
    const float x = k.x, y = k.y;
    const float k2 = fmaf(x, x, y * y);  // a whole number below 2^24
    const float k4 = __fmul_rn(k2, k2);
    float turns = part_of_turn(c[0], c[1], x * x) + part_of_turn(c[2], c[3], x * y) + part_of_turn(c[4], c[5], y * y) +
                  part_of_turn(c[6], c[7], k4) + c[6] * fmaf(k2, k2, -k4) + c[8];
    float magnified = k2, transfer = c[9];
    if (optics.on_data != nullptr) {
        const long long at = (long long)optics.row[i] * optics.samples + s;
        const float more = fmaf(c[11], x * x, fmaf(c[12], x * y, c[13] * (y * y)));
        turns += c[6] * more * fmaf(2.0f, k2, more) + __ldg(optics.turns + at);
        magnified += more;
        transfer *= __ldg(optics.on_ctf + at);
    }
    const float sine = sine_of_turns(turns);
    float value = transfer * (c[14] != 0.0f ? fabsf(sine) : sine);
    if (c[10] != 0.0f) value *= expf(c[10] * magnified);
    return value;
}

// exp(2 pi i k.shift / n); shift: x and y over the box of n pixels, each high and low · turns: to begin with
__device__ inline float2 move_at(const float* shift, Frequency k, float turns = 0.0f)
{
    turns += part_of_turn(shift[0], shift[1], k.x) + part_of_turn(shift[2], shift[3], k.y);
    return make_float2(sine_of_turns(turns + 0.25f), sine_of_turns(turns));
}

// exp(2 pi i k.(n / 2 + shift) / n)
__device__ inline float2 ramp_at(const float* shift, Frequency k, int box)
{
    const int whole = ((k.x + k.y) * (box / 2)) % box;
    return move_at(shift, k, (float)whole / (float)box);
}

// ---------------------------------------------------------------- images

// Samples of images: either centred samples, (rows, s), odd phases undone; or the images' transforms as the FFT leaves
// them, (rows, n, n / 2 + 1), of which nothing is undone yet. A row's length shows which: the half plane has fewer samples.
struct Images {
    const float2* data;
    const int* row;        // which row each particle of the batch has
    const float* shift;    // (b, 4), in the order of the batch; of centred samples, from where they are: null where none moved
    long long stride;      // samples of a row
    float scale;
    int box;

    __device__ bool transforms() const { return stride == (long long)box * (box / 2 + 1); }
};

__device__ inline float2 product(float2 a, float2 b)
{
    return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}

// sample of an image's transform (n, n / 2 + 1), with the particle moved to the origin
__device__ inline float2 centred_sample(const float2* transform, const float* shift, int box, Frequency k)
{
    const int y = k.y < 0 ? k.y + box : k.y;
    const float2 raw = __ldg(transform + y * (box / 2 + 1) + k.x);
    const float2 ramp = ramp_at(shift, k, box);
    return product(raw, ramp);
}

__device__ inline float2 image_sample(const Images& images, const Optics& optics, int i, int s, Frequency k)
{
    const float2* row = images.data + (long long)images.row[i] * images.stride;
    float2 value;
    if (!images.transforms()) {
        value = __ldg(row + s);
        if (images.shift != nullptr) value = product(value, move_at(images.shift + 4 * i, k));
    } else {
        value = centred_sample(row, images.shift + 4 * i, images.box, k);
        if (optics.on_data != nullptr) value = product(value, __ldg(optics.on_data + (long long)optics.row[i] * optics.samples + s));
    }
    return make_float2(images.scale * value.x, images.scale * value.y);
}

// ---------------------------------------------------------------- sums

// the same value on every lane of the warp, added in a fixed order
__device__ inline double warp_sum(double value)
{
#pragma unroll
    for (int d = 16; d > 0; d /= 2) value += __shfl_xor_sync(ALL_LANES, value, d);
    return value;
}
