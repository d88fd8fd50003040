// Cubic B-splines in real space. Twin: spline.py. Coefficients outside the array are zero.

__device__ inline void spline_weights(float t, float* w)
{
    const float s = 1.0f - t;
    w[0] = s * s * s * (1.0f / 6.0f);
    w[1] = (4.0f + t * t * fmaf(3.0f, t, -6.0f)) * (1.0f / 6.0f);
    w[2] = (4.0f + s * s * fmaf(3.0f, s, -6.0f)) * (1.0f / 6.0f);
    w[3] = t * t * t * (1.0f / 6.0f);
}

// the first of 4 x 4 x 4 coefficients about a point, and their weights; false when all of them lie outside
struct SplinePoint {
    int z, y, x;
    float wz[4], wy[4], wx[4];
};

__device__ inline bool spline_point(float z, float y, float x, int nz, int ny, int nx, SplinePoint& p)
{
    const float fz = floorf(z), fy = floorf(y), fx = floorf(x);
    p.z = (int)fz - 1;
    p.y = (int)fy - 1;
    p.x = (int)fx - 1;
    if (p.z <= -4 || p.y <= -4 || p.x <= -4 || p.z >= nz || p.y >= ny || p.x >= nx) return false;
    spline_weights(z - fz, p.wz);
    spline_weights(y - fy, p.wy);
    spline_weights(x - fx, p.wx);
    return true;
}

__device__ inline float spline_value(const float* c, int nz, int ny, int nx, float z, float y, float x)
{
    SplinePoint p;
    float total = 0.0f;
    if (!spline_point(z, y, x, nz, ny, nx, p)) return total;
#pragma unroll
    for (int jz = 0; jz < 4; ++jz) {
        if (p.z + jz < 0 || p.z + jz >= nz) continue;
#pragma unroll
        for (int jy = 0; jy < 4; ++jy) {
            if (p.y + jy < 0 || p.y + jy >= ny) continue;
            const float w = p.wz[jz] * p.wy[jy];
            const float* row = c + ((long long)(p.z + jz) * ny + (p.y + jy)) * nx;
#pragma unroll
            for (int jx = 0; jx < 4; ++jx) {
                if (p.x + jx >= 0 && p.x + jx < nx) total = fmaf(w * p.wx[jx], __ldg(row + p.x + jx), total);
            }
        }
    }
    return total;
}

// the adjoint of spline_value
__device__ inline void spline_add(float* c, int nz, int ny, int nx, float z, float y, float x, float value)
{
    SplinePoint p;
    if (!spline_point(z, y, x, nz, ny, nx, p)) return;
    for (int jz = 0; jz < 4; ++jz) {
        if (p.z + jz < 0 || p.z + jz >= nz) continue;
        for (int jy = 0; jy < 4; ++jy) {
            if (p.y + jy < 0 || p.y + jy >= ny) continue;
            const float w = p.wz[jz] * p.wy[jy] * value;
            float* row = c + ((long long)(p.z + jz) * ny + (p.y + jy)) * nx;
            for (int jx = 0; jx < 4; ++jx) {
                if (p.x + jx >= 0 && p.x + jx < nx) atomicAdd(row + p.x + jx, w * p.wx[jx]);
            }
        }
    }
}

// R^T (a, b, c) about the centre o, for rotation: 9 floats, rows of R
__device__ inline void turned_back(const float* r, float a, float b, float c, int o, float& z, float& y, float& x)
{
    x = fmaf(r[0], a, fmaf(r[3], b, r[6] * c)) + o;
    y = fmaf(r[1], a, fmaf(r[4], b, r[7] * c)) + o;
    z = fmaf(r[2], a, fmaf(r[5], b, r[8] * c)) + o;
}
