// Rotation and translation in real space, of volumes and images. Twin: rotate.py.
#include "spline.cuh"

// out[i](r) = V(R^T r); coefficients: (n, n, n) spline coefficients; rotation: (m, 9); out: (m, n, n, n)
extern "C" __global__ void rotate_volumes(ARGUMENTS_rotate_volumes)
{
    const long long points = (long long)n * n * n, total = points * volumes;
    for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < total; j += (long long)gridDim.x * blockDim.x) {
        const long long q = j % points;
        const int o = n / 2;
        float z, y, x;
        turned_back(rotation + 9 * (j / points), (float)((int)(q % n) - o), (float)((int)(q / n % n) - o),
                    (float)((int)(q / n / n) - o), o, z, y, x);
        out[j] = spline_value(coefficients, n, n, n, z, y, x);
    }
}

// out[i](r) = I[i](turned back by the angle, of r - shift); motion: (m, 4) cosine, sine, shift x, shift y
extern "C" __global__ void move_images(ARGUMENTS_move_images)
{
    const long long points = (long long)n * n, total = points * images;
    for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < total; j += (long long)gridDim.x * blockDim.x) {
        const int i = (int)(j / points), o = n / 2;
        const float* m = motion + 4 * i;
        const float a = (float)((int)(j % n) - o) - m[2], b = (float)((int)(j / n % n) - o) - m[3];
        // one plane, where a spline weighs 4/6
        out[j] = 1.5f * spline_value(coefficients + i * points, 1, n, n, 0.0f, m[0] * b - m[1] * a + o, m[0] * a + m[1] * b + o);
    }
}
