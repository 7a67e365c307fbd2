/* The Neural Turing Machine over a whole sequence, forward and backward: what _memory_by_hand.py does, in C.

   A step on sizes such as 128 x 20 is a few microseconds of arithmetic, and calling some forty operations for it takes
   many times as long. Here the memory of an example lies transposed, [M, N], so that loops run over N numbers side by
   side, and all that the weights' gradients need is kept, for one product over all steps afterwards. Each f_back takes
   the gradient to what f gave, and adds to those of what f took. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

#define NOTHING 1e-30f  /* as in the attention `ntm` */
#define LEAST 1.1920929e-07f  /* length of a vector, as in the scoring function `cosine` */
#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* T steps, B examples, D numbers in the controller's state, N rows of M numbers in the memory, R heads that read and W
   that write, H of them in all, each with S shifts to choose from. A head is told M + 3 + S numbers: k, beta, g, s,
   gamma; then each writer 2 M: what to erase, what to add; O in all. */
typedef struct {
    int64_t T, B, D, N, M, R, W, S;
    int64_t write_first;
    int64_t every;  /* whether each step is kept, for the backward pass; else memory and norm hold two, the rest one */
    const float *x;  /* [T, B, 4D], the input's share of the gates */
    const float *gating, *gating_t;  /* [4D, R M + D], of what was read and h; and transposed */
    const float *telling, *telling_t, *bias;  /* [O, D]; [D, O]; [O] */
    const float *strength;  /* [H], multiplies beta */
    float *reads, *h, *c;  /* [T + 1, B, R M], [T + 1, B, D] twice; the first is given, as of the next two */
    float *looked, *memory, *norm;  /* [T + 1, B, H, N], [T + 1, B, M, N], [T + 1, B, N]: the lengths of the rows */
    float *gates, *told;  /* [T, B, 4D], [T, B, O], both as they are after tanh, sigmoid ... */
    float *likeness, *content, *shifted;  /* [T, B, H, N] */
    const float *to_h, *to_reads;  /* the gradients that are given: [T, B, D], [T, B, R M] */
    float *to_gates, *to_told, *to_strength;  /* and found: [T, B, 4D], [T, B, O], [H], of log strength */
    float *to_reads_0, *to_h_0, *to_c_0, *to_looked_0, *to_memory_0;  /* to the first state; all zero when given */
} Sequence;

static inline float exponential(float x) {  /* of at least e^-87; relative error 1e-7 */
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

static inline float logarithm(float x) {  /* of a positive number; relative error 1e-7 */
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

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

static inline float tangent(float x) {
    float z = x * x, far = 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f);
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    return z < 0.39f ? p * z * x + x : far;
}

static inline float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

static inline float at_least(float length) { return length < LEAST ? LEAST : length; }  /* NaN stays */

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
    for (int64_t i = 0; i < n; i++) sum += out[i] = exponential(factor * in[i] - most);
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

/* One example at one step: where its numbers lie. */
typedef struct {
    const Sequence *of;
    const float *before, *norm_before;  /* the memory before the step */
    float *after, *norm_after;
    const float *was;  /* [H, N], where the heads looked before */
    float *looked, *told, *likeness, *content, *shifted, *reads;
} Step;

static Step at(const Sequence *q, int64_t t, int64_t b) {
    int64_t H = q->R + q->W, O = H * (q->M + 3 + q->S) + 2 * q->W * q->M;
    int64_t now = (q->every ? t : 0) * q->B + b, old = (q->every ? t : t % 2) * q->B + b,
            new = (q->every ? t + 1 : (t + 1) % 2) * q->B + b;
    return (Step){
        .of = q,
        .before = q->memory + old * q->M * q->N, .norm_before = q->norm + old * q->N,
        .after = q->memory + new * q->M * q->N, .norm_after = q->norm + new * q->N,
        .was = q->looked + (t * q->B + b) * H * q->N, .looked = q->looked + ((t + 1) * q->B + b) * H * q->N,
        .told = q->told + now * O, .likeness = q->likeness + now * H * q->N, .content = q->content + now * H * q->N,
        .shifted = q->shifted + now * H * q->N, .reads = q->reads + ((t + 1) * q->B + b) * q->R * q->M,
    };
}

/* What a head is told. */
typedef struct { float *k, *beta, *g, *s, *gamma; } Head;

static Head head(const Sequence *q, float *told, int64_t number) {
    float *k = told + number * (q->M + 3 + q->S);
    return (Head){k, k + q->M, k + q->M + 1, k + q->M + 2, k + q->M + 2 + q->S};
}

static float *erase(const Sequence *q, float *told, int64_t writer) {  /* what to add lies M further on */
    return told + (q->R + q->W) * (q->M + 3 + q->S) + 2 * writer * q->M;
}

static void lengths(int64_t M, int64_t N, const float *restrict memory, float *restrict norm) {
    memset(norm, 0, N * sizeof *norm);
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) norm[n] += memory[m * N + n] * memory[m * N + n];
    for (int64_t n = 0; n < N; n++) norm[n] = at_least(sqrtf(norm[n]));
}

static void wrap(int64_t N, int64_t most, float *ring) {  /* ring[most .. most + N] is set; let it go on at both ends */
    memcpy(ring, ring + N, most * sizeof *ring);
    memcpy(ring + most + N, ring + most, most * sizeof *ring);
}

static void gate(int64_t N, int64_t most, float g, const float *restrict content, const float *restrict was,
                 float *restrict ring) {
    for (int64_t n = 0; n < N; n++) ring[most + n] = was[n] + g * (content[n] - was[n]);
    wrap(N, most, ring);
}

static void look(Step e, int64_t number, const float *restrict memory, const float *restrict norm, float *scratch) {
    const Sequence *q = e.of;
    int64_t N = q->N, M = q->M, S = q->S, most = S / 2;
    Head d = head(q, e.told, number);
    float *restrict likeness = e.likeness + number * N, *restrict content = e.content + number * N;
    float *restrict shifted = e.shifted + number * N, *restrict looked = e.looked + number * N;
    for (int64_t m = 0; m < M; m++) d.k[m] = tangent(d.k[m]);
    *d.beta = softplus(*d.beta), *d.g = sigmoid(*d.g), *d.gamma = softplus(*d.gamma);
    softmax(S, d.s, 1.0f, d.s);
    memset(likeness, 0, N * sizeof *likeness);
    for (int64_t m = 0; m < M; m++) add(N, likeness, d.k[m], memory + m * N);
    for (int64_t n = 0; n < N; n++) likeness[n] /= norm[n];
    softmax(N, content, *d.beta * q->strength[number] / at_least(sqrtf(dot(M, d.k, d.k))), likeness);
    gate(N, most, *d.g, content, e.was + number * N, scratch);
    for (int64_t n = 0; n < N; n++) shifted[n] = NOTHING;
    for (int64_t j = 0; j < S; j++) add(N, shifted, d.s[j], scratch + j);
    for (int64_t n = 0; n < N; n++) scratch[n] = logarithm(shifted[n]);
    softmax(N, looked, 1.0f + *d.gamma, scratch);
}

/* grad [N] is that to the weights, and then that to those of the step before. */
static void look_back(Step e, int64_t number, const float *restrict memory, const float *restrict norm,
                      float *restrict grad, float *restrict to_memory, float *to_told, float *to_strength,
                      float *scratch) {
    const Sequence *q = e.of;
    int64_t N = q->N, M = q->M, S = q->S, most = S / 2;
    Head d = head(q, e.told, number), to = head(q, to_told, number);
    const float *restrict likeness = e.likeness + number * N, *restrict content = e.content + number * N;
    const float *restrict shifted = e.shifted + number * N, *restrict was = e.was + number * N;
    float *restrict ring = scratch, *restrict moved = scratch + N + 2 * most, *restrict product = moved + N + 2 * most;
    float *restrict rows = product + N;
    float to_gamma = 0.0f, to_g = 0.0f, to_scale = 0.0f;

    softmax_back(N, grad, e.looked + number * N);
#pragma omp simd reduction(+ : to_gamma)
    for (int64_t n = 0; n < N; n++) {
        to_gamma += grad[n] * logarithm(shifted[n]);
        moved[most + n] = grad[n] * (1.0f + *d.gamma) / shifted[n];
    }
    wrap(N, most, moved);
    gate(N, most, *d.g, content, was, ring);
    for (int64_t j = 0; j < S; j++) to.s[j] = dot(N, moved + most, ring + j);
    memset(ring, 0, N * sizeof *ring);
    for (int64_t j = 0; j < S; j++) add(N, ring, d.s[j], moved + 2 * most - j);
    for (int64_t n = 0; n < N; n++) product[n] = ring[n] * *d.g;
#pragma omp simd reduction(+ : to_g)
    for (int64_t n = 0; n < N; n++) {
        to_g += ring[n] * (content[n] - was[n]);
        grad[n] = ring[n] - product[n];
    }
    softmax_back(N, product, content);
    float length = at_least(sqrtf(dot(M, d.k, d.k))), rate = q->strength[number] / length, scale = *d.beta * rate;
#pragma omp simd reduction(+ : to_scale)
    for (int64_t n = 0; n < N; n++) {
        to_scale += product[n] * likeness[n];
        product[n] = product[n] * scale / norm[n];
        rows[n] = norm[n] > LEAST ? product[n] * likeness[n] / norm[n] : 0.0f;
    }
    *to_strength += to_scale * scale;
    float shorter = length > LEAST ? to_scale * scale / (length * length) : 0.0f;
    for (int64_t m = 0; m < M; m++) {
        const float *restrict from = memory + m * N;
        float *restrict into = to_memory + m * N, k = d.k[m], sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t n = 0; n < N; n++) {
            sum += product[n] * from[n];
            into[n] += product[n] * k - rows[n] * from[n];
        }
        to.k[m] = (sum - k * shorter) * (1.0f - k * k);
    }
    *to.beta = to_scale * rate * (1.0f - expf(-*d.beta));
    *to.gamma = to_gamma * (1.0f - expf(-*d.gamma));
    *to.g = to_g * *d.g * (1.0f - *d.g);
    softmax_back(S, to.s, d.s);
}

/* memory Π_w (1 - p_w e_wᵀ) + Σ_w p_w a_wᵀ, p where a head writes, e what it erases and a what it adds. */
static void write(Step e) {
    const Sequence *q = e.of;
    int64_t N = q->N, M = q->M, W = q->W;
    for (int64_t w = 0; w < W; w++) {
        float *to_erase = erase(q, e.told, w), *to_add = to_erase + M;
        for (int64_t m = 0; m < M; m++) to_erase[m] = sigmoid(to_erase[m]);
        for (int64_t m = 0; m < M; m++) to_add[m] = tangent(to_add[m]);
    }
    for (int64_t m = 0; m < M; m++) {
        float *restrict row = e.after + m * N;
        memcpy(row, e.before + m * N, N * sizeof *row);
        for (int64_t w = 0; w < W; w++) {
            const float *restrict p = e.looked + (q->R + w) * N, one = erase(q, e.told, w)[m];
            for (int64_t n = 0; n < N; n++) row[n] *= 1.0f - p[n] * one;
        }
        for (int64_t w = 0; w < W; w++) add(N, row, erase(q, e.told, w)[M + m], e.looked + (q->R + w) * N);
    }
    lengths(M, N, e.after, e.norm_after);
}

/* grad [M, N] is that to the memory after, and then that to the one before. */
static void write_back(Step e, float *restrict grad, float *restrict to_looked, float *to_told, float *restrict left) {
    const Sequence *q = e.of;
    int64_t N = q->N, M = q->M, W = q->W;
    for (int64_t m = 0; m < M; m++) {
        float *restrict row = grad + m * N;
        for (int64_t w = 0; w < W; w++) {
            const float *restrict p = e.looked + (q->R + w) * N, *told = erase(q, e.told, w);
            float *to = erase(q, to_told, w), *restrict to_p = to_looked + (q->R + w) * N;
            float erased = told[m], added = told[M + m], to_erase = 0.0f, to_add = 0.0f;
            memcpy(left, e.before + m * N, N * sizeof *left);  /* of the row, by the other heads */
            for (int64_t other = 0; other < W; other++) {
                const float *restrict place = e.looked + (q->R + other) * N, one = erase(q, e.told, other)[m];
                for (int64_t n = 0; other != w && n < N; n++) left[n] *= 1.0f - place[n] * one;
            }
#pragma omp simd reduction(+ : to_erase, to_add)
            for (int64_t n = 0; n < N; n++) {
                float change = row[n] * left[n];
                to_p[n] += row[n] * added - change * erased;
                to_erase -= change * p[n];
                to_add += row[n] * p[n];
            }
            to[m] = to_erase * erased * (1.0f - erased);
            to[M + m] = to_add * (1.0f - added * added);
        }
        for (int64_t w = 0; w < W; w++) {
            const float *restrict p = e.looked + (q->R + w) * N, one = erase(q, e.told, w)[m];
            for (int64_t n = 0; n < N; n++) row[n] *= 1.0f - p[n] * one;
        }
    }
}

static void address(Step e, float *scratch) {
    const Sequence *q = e.of;
    int64_t N = q->N, M = q->M;
    const float *seen = q->write_first ? e.after : e.before, *norm = q->write_first ? e.norm_after : e.norm_before;
    for (int64_t w = q->R; w < q->R + q->W; w++) look(e, w, e.before, e.norm_before, scratch);
    write(e);
    for (int64_t r = 0; r < q->R; r++) {
        look(e, r, seen, norm, scratch);
        for (int64_t m = 0; m < M; m++) e.reads[r * M + m] = dot(N, e.looked + r * N, seen + m * N);
    }
}

static void read_back(Step e, const float *seen, const float *norm, const float *to_reads, float *to_looked,
                      float *to_memory, float *to_told, float *scratch) {
    const Sequence *q = e.of;
    int64_t N = q->N, M = q->M;
    for (int64_t r = 0; r < q->R; r++) {
        for (int64_t m = 0; m < M; m++) {
            add(N, to_looked + r * N, to_reads[r * M + m], seen + m * N);
            add(N, to_memory + m * N, to_reads[r * M + m], e.looked + r * N);
        }
        look_back(e, r, seen, norm, to_looked + r * N, to_memory, to_told, q->to_strength + r, scratch);
    }
}

static void address_back(Step e, const float *to_reads, float *to_looked, float *to_memory, float *to_told,
                         float *scratch) {
    const Sequence *q = e.of;
    if (q->write_first) read_back(e, e.after, e.norm_after, to_reads, to_looked, to_memory, to_told, scratch);
    write_back(e, to_memory, to_looked, to_told, scratch);
    if (!q->write_first) read_back(e, e.before, e.norm_before, to_reads, to_looked, to_memory, to_told, scratch);
    for (int64_t w = q->R; w < q->R + q->W; w++)
        look_back(e, w, e.before, e.norm_before, to_looked + w * q->N, to_memory, to_told, q->to_strength + w, scratch);
}

/* i, f, o = sigmoid, u = tanh; c = f c + i u; h = o tanh(c) */
static void cell(int64_t D, float *restrict gates, const float *restrict c, float *restrict new, float *restrict h) {
    for (int64_t d = 0; d < 3 * D; d++) gates[d] = sigmoid(gates[d]);
    for (int64_t d = 0; d < D; d++) {
        float u = gates[3 * D + d] = tangent(gates[3 * D + d]);
        new[d] = gates[D + d] * c[d] + gates[d] * u;
        h[d] = gates[2 * D + d] * tangent(new[d]);
    }
}

/* to_c is the gradient to the new c, and then that to the one before. */
static void cell_back(int64_t D, const float *restrict gates, const float *restrict c, const float *restrict new,
                      const float *restrict to_h, float *restrict to_c, float *restrict to) {
    for (int64_t d = 0; d < D; d++) {
        float i = gates[d], f = gates[D + d], o = gates[2 * D + d], u = gates[3 * D + d], bent = tangent(new[d]);
        float all = to_c[d] + to_h[d] * o * (1.0f - bent * bent);
        to[d] = all * u * i * (1.0f - i);
        to[D + d] = all * c[d] * f * (1.0f - f);
        to[2 * D + d] = to_h[d] * bent * o * (1.0f - o);
        to[3 * D + d] = all * i * (1.0f - u * u);
        to_c[d] = all * f;
    }
}

static unsigned flush_denormals(void) {  /* numbers next to nothing are nothing, and cost no more than others */
#ifdef __SSE__
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);
    return mode;
#else
    return 0;
#endif
}

static void restore(unsigned mode) {
#ifdef __SSE__
    _mm_setcsr(mode);
#endif
    (void)mode;
}

static int64_t told_numbers(const Sequence *q) { return (q->R + q->W) * (q->M + 3 + q->S) + 2 * q->W * q->M; }

static float *scratch_for(const Sequence *q) { return malloc((4 * q->N + 4 * q->S) * sizeof(float)); }

int forward(const Sequence *q) {
    int64_t B = q->B, D = q->D, RM = q->R * q->M, O = told_numbers(q);
    float *scratch = scratch_for(q);
    if (scratch == NULL) return 1;
    unsigned mode = flush_denormals();
    for (int64_t b = 0; b < B; b++) lengths(q->M, q->N, q->memory + b * q->M * q->N, q->norm + b * q->N);
    for (int64_t t = 0; t < q->T; t++) {
        float *gates = q->gates + (q->every ? t : 0) * B * 4 * D, *told = q->told + (q->every ? t : 0) * B * O;
        float *h = q->h + t * B * D, *c = q->c + t * B * D;
        memcpy(gates, q->x + t * B * 4 * D, B * 4 * D * sizeof *gates);
        multiply(B, RM, 4 * D, q->reads + t * B * RM, q->gating_t, gates);
        multiply(B, D, 4 * D, h, q->gating_t + RM * 4 * D, gates);
        for (int64_t b = 0; b < B; b++)
            cell(D, gates + b * 4 * D, c + b * D, c + (B + b) * D, h + (B + b) * D);
        for (int64_t b = 0; b < B; b++) memcpy(told + b * O, q->bias, O * sizeof *told);
        multiply(B, D, O, h + B * D, q->telling_t, told);
        for (int64_t b = 0; b < B; b++) address(at(q, t, b), scratch);
    }
    restore(mode);
    free(scratch);
    return 0;
}

int backward(const Sequence *q) {
    int64_t B = q->B, D = q->D, N = q->N, RM = q->R * q->M, H = q->R + q->W, O = told_numbers(q);
    float *scratch = scratch_for(q), *to_seen = malloc(B * (RM + D) * sizeof *to_seen);
    float *to_h = q->to_h_0, *to_c = q->to_c_0, *to_reads = q->to_reads_0;
    if (scratch == NULL || to_seen == NULL) return free(scratch), free(to_seen), 1;
    unsigned mode = flush_denormals();
    for (int64_t t = q->T - 1; t >= 0; t--) {
        float *to_gates = q->to_gates + t * B * 4 * D, *to_told = q->to_told + t * B * O;
        add(B * D, to_h, 1.0f, q->to_h + t * B * D);
        add(B * RM, to_reads, 1.0f, q->to_reads + t * B * RM);
        for (int64_t b = 0; b < B; b++)
            address_back(at(q, t, b), to_reads + b * RM, q->to_looked_0 + b * H * N, q->to_memory_0 + b * q->M * N,
                         to_told + b * O, scratch);
        multiply(B, O, D, to_told, q->telling, to_h);
        for (int64_t b = 0; b < B; b++)
            cell_back(D, q->gates + (t * B + b) * 4 * D, q->c + (t * B + b) * D, q->c + ((t + 1) * B + b) * D,
                      to_h + b * D, to_c + b * D, to_gates + b * 4 * D);
        memset(to_seen, 0, B * (RM + D) * sizeof *to_seen);
        multiply(B, 4 * D, RM + D, to_gates, q->gating, to_seen);
        for (int64_t b = 0; b < B; b++) {
            memcpy(to_reads + b * RM, to_seen + b * (RM + D), RM * sizeof *to_reads);
            memcpy(to_h + b * D, to_seen + b * (RM + D) + RM, D * sizeof *to_h);
        }
    }
    restore(mode);
    free(scratch);
    free(to_seen);
    return 0;
}
