// Projection in real space: line integrals through a volume, and their exact adjoint. Twin: line_integrals.py.
#include "spline.cuh"

// out[i](x, y) = sum over t of V(R^T (x, y, t)); coefficients: (n, n, n); rotation: (m, 9); out: (m, n, n). A line's terms
// are added in float64: hundreds of them, of both signs.
extern "C" __global__ void project_real(ARGUMENTS_project_real)
{
    const long long points = (long long)n * n, total = points * images;
    for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < total; j += (long long)gridDim.x * blockDim.x) {
        const float* r = rotation + 9 * (j / points);
        const int o = n / 2;
        const float a = (float)((int)(j % n) - o), b = (float)((int)(j / n % n) - o);
        double sum = 0.0;
        for (int t = 0; t < n; ++t) {
            float z, y, x;
            turned_back(r, a, b, (float)(t - o), o, z, y, x);
            sum += spline_value(coefficients, n, n, n, z, y, x);
        }
        out[j] = (float)sum;
    }
}

// images (m, n, n) added along their lines onto coefficients (n, n, n)
extern "C" __global__ void backproject_real(ARGUMENTS_backproject_real)
{
    const long long points = (long long)n * n, total = points * images;
    for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < total; j += (long long)gridDim.x * blockDim.x) {
        const float* r = rotation + 9 * (j / points);
        const int o = n / 2;
        const float a = (float)((int)(j % n) - o), b = (float)((int)(j / n % n) - o), value = values[j];
        for (int t = 0; t < n; ++t) {
            float z, y, x;
            turned_back(r, a, b, (float)(t - o), o, z, y, x);
            spline_add(coefficients, n, n, n, z, y, x, value);
        }
    }
}
