/* Arithmetic on float32 that compilers vectorise: exp, log, tanh, softmax, products. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define MIN(a, b) ((a) < (b) ? (a) : (b))

static inline float fast_exp(float x) {  /* of at least e^-87; relative error 1e-7 */
    union { int32_t i; float f; } power;
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    float n = rintf(x * 1.44269504f), r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    power.i = ((int32_t)n + 127) << 23;
    return (p * r * r + r + 1.0f) * power.f;
}

static inline float fast_log(float x) {  /* of a positive number; relative error 1e-7 */
    union { int32_t i; float f; } part = {.f = x};
    int32_t e = (part.i - 0x3f3504f3) >> 23;  /* the mantissa then lies around 1, from sqrt(1/2) */
    part.i -= e << 23;
    float r = part.f - 1.0f, z = r * r, n = (float)e;
    float p = 7.0376836292e-2f;
    p = p * r - 1.1514610310e-1f;
    p = p * r + 1.1676998740e-1f;
    p = p * r - 1.2420140846e-1f;
    p = p * r + 1.4249322787e-1f;
    p = p * r - 1.6668057665e-1f;
    p = p * r + 2.0000714765e-1f;
    p = p * r - 2.4999993993e-1f;
    p = p * r + 3.3333331174e-1f;
    return r + (p * r * z - 0.5f * z - n * 2.12194440e-4f) + n * 0.693359375f + 0.0f * x;  /* NaN stays */
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

static inline float fast_tanh(float x) {
    float z = x * x, far = 1.0f - 2.0f / (fast_exp(2.0f * x) + 1.0f);
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    return z < 0.39f ? p * z * x + x : far;
}

static inline float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

static float dot(int64_t n, const float *restrict a, const float *restrict b) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void add(int64_t n, float *restrict out, float factor, const float *restrict a) {
    for (int64_t i = 0; i < n; i++) out[i] += factor * a[i];
}

static void softmax(int64_t n, float *out, float factor, const float *in) {  /* of factor in */
    float most = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++) most = factor * in[i] > most ? factor * in[i] : most;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += out[i] = fast_exp(factor * in[i] - most);
    sum = 1.0f / sum;
    for (int64_t i = 0; i < n; i++) out[i] *= sum;
}

static void softmax_back(int64_t n, float *restrict grad, const float *restrict out) {  /* in place */
    float mean = dot(n, grad, out);
    for (int64_t i = 0; i < n; i++) grad[i] = out[i] * (grad[i] - mean);
}

/* out [rows, cols] += in [rows, inner] w [inner, cols], in tiles that stay in registers. */
#define TALL 4
#define WIDE 32
static inline __attribute__((always_inline)) void tile(
    int rows, int64_t inner, const float *restrict in, int64_t stride, const float *restrict w, int64_t cols,
    float *restrict out) {
    float sum[TALL][WIDE];
    for (int r = 0; r < rows; r++) memcpy(sum[r], out + r * cols, sizeof sum[r]);
    for (int64_t k = 0; k < inner; k++)
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < WIDE; j++) sum[r][j] += in[r * stride + k] * w[k * cols + j];
    for (int r = 0; r < rows; r++) memcpy(out + r * cols, sum[r], sizeof sum[r]);
}

static void multiply(
    int64_t rows, int64_t inner, int64_t cols, const float *in, const float *w, float *restrict out) {
    for (int64_t j = 0; j < cols; j += WIDE) {
        int64_t wide = MIN(WIDE, cols - j), r = 0;
        for (; wide == WIDE && r + TALL <= rows; r += TALL)
            tile(TALL, inner, in + r * inner, inner, w + j, cols, out + r * cols + j);
        for (; wide == WIDE && r < rows; r++) tile(1, inner, in + r * inner, inner, w + j, cols, out + r * cols + j);
        for (; r < rows; r++)
            for (int64_t k = 0; k < inner; k++) add(wide, out + r * cols + j, in[r * inner + k], w + k * cols + j);
    }
}
