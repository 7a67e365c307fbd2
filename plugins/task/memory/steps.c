/* The Neural Turing Machine over a whole sequence, forward and backward: what machine.py does, in C.

   A step on sizes such as 128 x 20 is a few microseconds of arithmetic, and calling some forty operations for it takes
   many times as long. Here the memory of an example lies transposed, [M, N], so that loops run over N numbers side by
   side; and all that the weights' gradients need is kept, for one product over all steps afterwards. Each f_back takes
   the gradient of f's result and adds to the gradients of f's arguments; d_x is the gradient of x. */

#include "arithmetic.h"

#include <stdlib.h>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

#define TINY 1e-30f  /* added to a weight before its logarithm, as in the attention `ntm` */
#define EPS 1.1920929e-07f  /* the least length of a vector, as in the scoring function `cosine` */

/* T steps, B examples, D numbers in the controller's state, N rows of M numbers in the memory, R heads that read and W
   that write, H of them in all, each with S shifts to choose from. A head has M + 3 + S parameters: k, beta, g, s,
   gamma; then each writer 2 M: erase, add; O in all. The first of T + 1 steps is the state before the first step. */
typedef struct {
    int64_t T, B, D, N, M, R, W, S;
    int64_t write_first;
    int64_t keep;  /* each step, for the backward pass; else memory and norm hold two steps, the rest one */
    const float *x;  /* [T, B, 4D], the input's share of the gates */
    const float *gate_w, *gate_w_t;  /* [4D, R M + D], of reads and h; and transposed */
    const float *head_w, *head_w_t, *bias;  /* [O, D]; [D, O]; [O] */
    const float *strength;  /* [H], the scoring function's own factor on beta */
    float *reads, *h, *c;  /* [T + 1, B, R M], [T + 1, B, D] twice */
    float *weights, *memory, *norm;  /* [T + 1, B, H, N], [T + 1, B, M, N], [T + 1, B, N]: the lengths of the rows */
    float *gates, *params;  /* [T, B, 4D], [T, B, O], after tanh, sigmoid ... */
    float *similarity, *content, *shifted;  /* [T, B, H, N] */
    const float *d_h, *d_reads;  /* arguments of backward: [T, B, D], [T, B, R M] */
    float *d_gates, *d_params, *d_strength;  /* results: [T, B, 4D], [T, B, O], [H] of log strength */
    float *d_reads_0, *d_h_0, *d_c_0, *d_weights_0, *d_memory_0;  /* of the first state; zero at the call */
} Sequence;

static inline float clamp_norm(float length) { return length < EPS ? EPS : length; }  /* NaN stays */

/* One example at one step: where its numbers lie. */
typedef struct {
    const Sequence *of;
    const float *before, *norm_before;  /* the memory before the step */
    float *after, *norm_after;
    const float *previous;  /* [H, N], the weights of the step before */
    float *weights, *params, *similarity, *content, *shifted, *reads;
} Step;

static Step at(const Sequence *q, int64_t t, int64_t b) {
    int64_t H = q->R + q->W, O = H * (q->M + 3 + q->S) + 2 * q->W * q->M;
    int64_t now = (q->keep ? t : 0) * q->B + b, old = (q->keep ? t : t % 2) * q->B + b,
            new = (q->keep ? t + 1 : (t + 1) % 2) * q->B + b;
    return (Step){
        .of = q,
        .before = q->memory + old * q->M * q->N, .norm_before = q->norm + old * q->N,
        .after = q->memory + new * q->M * q->N, .norm_after = q->norm + new * q->N,
        .previous = q->weights + (t * q->B + b) * H * q->N, .weights = q->weights + ((t + 1) * q->B + b) * H * q->N,
        .params = q->params + now * O, .similarity = q->similarity + now * H * q->N,
        .content = q->content + now * H * q->N, .shifted = q->shifted + now * H * q->N,
        .reads = q->reads + ((t + 1) * q->B + b) * q->R * q->M,
    };
}

/* A head's parameters. */
typedef struct { float *k, *beta, *g, *s, *gamma; } Head;

static Head head(const Sequence *q, float *params, int64_t number) {
    float *k = params + number * (q->M + 3 + q->S);
    return (Head){k, k + q->M, k + q->M + 1, k + q->M + 2, k + q->M + 2 + q->S};
}

static float *erase(const Sequence *q, float *params, int64_t writer) {  /* add lies M further on */
    return params + (q->R + q->W) * (q->M + 3 + q->S) + 2 * writer * q->M;
}

static void row_norms(int64_t M, int64_t N, const float *restrict memory, float *restrict norm) {
    memset(norm, 0, N * sizeof *norm);
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) norm[n] += memory[m * N + n] * memory[m * N + n];
    for (int64_t n = 0; n < N; n++) norm[n] = clamp_norm(sqrtf(norm[n]));
}

static void wrap(int64_t N, int64_t most, float *ring) {  /* continue ring[most .. most + N] at both ends */
    memcpy(ring, ring + N, most * sizeof *ring);
    memcpy(ring + most + N, ring + most, most * sizeof *ring);
}

static void gate(int64_t N, int64_t most, float g, const float *restrict content, const float *restrict previous,
                 float *restrict ring) {
    for (int64_t n = 0; n < N; n++) ring[most + n] = previous[n] + g * (content[n] - previous[n]);
    wrap(N, most, ring);
}

static void address(Step e, int64_t number, const float *restrict memory, const float *restrict norm, float *scratch) {
    const Sequence *q = e.of;
    int64_t N = q->N, M = q->M, S = q->S, most = S / 2;
    Head p = head(q, e.params, number);
    float *restrict similarity = e.similarity + number * N, *restrict content = e.content + number * N;
    float *restrict shifted = e.shifted + number * N, *restrict weights = e.weights + number * N;
    for (int64_t m = 0; m < M; m++) p.k[m] = fast_tanh(p.k[m]);
    *p.beta = softplus(*p.beta), *p.g = sigmoid(*p.g), *p.gamma = softplus(*p.gamma);
    softmax(S, p.s, 1.0f, p.s);
    memset(similarity, 0, N * sizeof *similarity);
    for (int64_t m = 0; m < M; m++) add(N, similarity, p.k[m], memory + m * N);
    for (int64_t n = 0; n < N; n++) similarity[n] /= norm[n];
    softmax(N, content, *p.beta * q->strength[number] / clamp_norm(sqrtf(dot(M, p.k, p.k))), similarity);
    gate(N, most, *p.g, content, e.previous + number * N, scratch);
    for (int64_t n = 0; n < N; n++) shifted[n] = TINY;
    for (int64_t j = 0; j < S; j++) add(N, shifted, p.s[j], scratch + j);
    for (int64_t n = 0; n < N; n++) scratch[n] = fast_log(shifted[n]);
    softmax(N, weights, 1.0f + *p.gamma, scratch);
}

/* grad [N]: in, of the weights; out, of the weights of the step before. */
static void address_back(Step e, int64_t number, const float *restrict memory, const float *restrict norm,
                         float *restrict grad, float *restrict d_memory, float *d_params, float *d_strength,
                         float *scratch) {
    const Sequence *q = e.of;
    int64_t N = q->N, M = q->M, S = q->S, most = S / 2;
    Head p = head(q, e.params, number), d = head(q, d_params, number);
    const float *restrict similarity = e.similarity + number * N, *restrict content = e.content + number * N;
    const float *restrict shifted = e.shifted + number * N, *restrict previous = e.previous + number * N;
    float *restrict ring = scratch, *restrict moved = scratch + N + 2 * most, *restrict product = moved + N + 2 * most;
    float *restrict rows = product + N;
    float d_gamma = 0.0f, d_g = 0.0f, d_scale = 0.0f;

    softmax_back(N, grad, e.weights + number * N);
#pragma omp simd reduction(+ : d_gamma)
    for (int64_t n = 0; n < N; n++) {
        d_gamma += grad[n] * fast_log(shifted[n]);
        moved[most + n] = grad[n] * (1.0f + *p.gamma) / shifted[n];
    }
    wrap(N, most, moved);
    gate(N, most, *p.g, content, previous, ring);
    for (int64_t j = 0; j < S; j++) d.s[j] = dot(N, moved + most, ring + j);
    memset(ring, 0, N * sizeof *ring);
    for (int64_t j = 0; j < S; j++) add(N, ring, p.s[j], moved + 2 * most - j);
    for (int64_t n = 0; n < N; n++) product[n] = ring[n] * *p.g;
#pragma omp simd reduction(+ : d_g)
    for (int64_t n = 0; n < N; n++) {
        d_g += ring[n] * (content[n] - previous[n]);
        grad[n] = ring[n] - product[n];
    }
    softmax_back(N, product, content);
    float length = clamp_norm(sqrtf(dot(M, p.k, p.k))), rate = q->strength[number] / length, scale = *p.beta * rate;
#pragma omp simd reduction(+ : d_scale)
    for (int64_t n = 0; n < N; n++) {
        d_scale += product[n] * similarity[n];
        product[n] = product[n] * scale / norm[n];
        rows[n] = norm[n] > EPS ? product[n] * similarity[n] / norm[n] : 0.0f;
    }
    *d_strength += d_scale * scale;
    float shorter = length > EPS ? d_scale * scale / (length * length) : 0.0f;
    for (int64_t m = 0; m < M; m++) {
        const float *restrict from = memory + m * N;
        float *restrict into = d_memory + m * N, k = p.k[m], sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t n = 0; n < N; n++) {
            sum += product[n] * from[n];
            into[n] += product[n] * k - rows[n] * from[n];
        }
        d.k[m] = (sum - k * shorter) * (1.0f - k * k);
    }
    *d.beta = d_scale * rate * (1.0f - expf(-*p.beta));
    *d.gamma = d_gamma * (1.0f - expf(-*p.gamma));
    *d.g = d_g * *p.g * (1.0f - *p.g);
    softmax_back(S, d.s, p.s);
}

/* memory Π_w (1 - p_w e_wᵀ) + Σ_w p_w a_wᵀ; p: weights, e: erase, a: add, of each write head (eqs. 3 and 4). */
static void write(Step e) {
    const Sequence *q = e.of;
    int64_t N = q->N, M = q->M, W = q->W;
    for (int64_t w = 0; w < W; w++) {
        float *erased = erase(q, e.params, w), *added = erased + M;
        for (int64_t m = 0; m < M; m++) erased[m] = sigmoid(erased[m]);
        for (int64_t m = 0; m < M; m++) added[m] = fast_tanh(added[m]);
    }
    for (int64_t m = 0; m < M; m++) {
        float *restrict row = e.after + m * N;
        memcpy(row, e.before + m * N, N * sizeof *row);
        for (int64_t w = 0; w < W; w++) {
            const float *restrict p = e.weights + (q->R + w) * N, one = erase(q, e.params, w)[m];
            for (int64_t n = 0; n < N; n++) row[n] *= 1.0f - p[n] * one;
        }
        for (int64_t w = 0; w < W; w++) add(N, row, erase(q, e.params, w)[M + m], e.weights + (q->R + w) * N);
    }
    row_norms(M, N, e.after, e.norm_after);
}

/* grad [M, N]: in, of the memory after; out, of the memory before. */
static void write_back(Step e, float *restrict grad, float *restrict d_weights, float *d_params, float *restrict left) {
    const Sequence *q = e.of;
    int64_t N = q->N, M = q->M, W = q->W;
    for (int64_t m = 0; m < M; m++) {
        float *restrict row = grad + m * N;
        for (int64_t w = 0; w < W; w++) {
            const float *restrict p = e.weights + (q->R + w) * N, *params = erase(q, e.params, w);
            float *d = erase(q, d_params, w), *restrict d_p = d_weights + (q->R + w) * N;
            float erased = params[m], added = params[M + m], d_erase = 0.0f, d_add = 0.0f;
            memcpy(left, e.before + m * N, N * sizeof *left);  /* of the row, after the other heads' erasing */
            for (int64_t other = 0; other < W; other++) {
                const float *restrict place = e.weights + (q->R + other) * N, one = erase(q, e.params, other)[m];
                for (int64_t n = 0; other != w && n < N; n++) left[n] *= 1.0f - place[n] * one;
            }
#pragma omp simd reduction(+ : d_erase, d_add)
            for (int64_t n = 0; n < N; n++) {
                float change = row[n] * left[n];
                d_p[n] += row[n] * added - change * erased;
                d_erase -= change * p[n];
                d_add += row[n] * p[n];
            }
            d[m] = d_erase * erased * (1.0f - erased);
            d[M + m] = d_add * (1.0f - added * added);
        }
        for (int64_t w = 0; w < W; w++) {
            const float *restrict p = e.weights + (q->R + w) * N, one = erase(q, e.params, w)[m];
            for (int64_t n = 0; n < N; n++) row[n] *= 1.0f - p[n] * one;
        }
    }
}

static void heads_forward(Step e, float *scratch) {
    const Sequence *q = e.of;
    int64_t N = q->N, M = q->M;
    const float *seen = q->write_first ? e.after : e.before, *norm = q->write_first ? e.norm_after : e.norm_before;
    for (int64_t w = q->R; w < q->R + q->W; w++) address(e, w, e.before, e.norm_before, scratch);
    write(e);
    for (int64_t r = 0; r < q->R; r++) {
        address(e, r, seen, norm, scratch);
        for (int64_t m = 0; m < M; m++) e.reads[r * M + m] = dot(N, e.weights + r * N, seen + m * N);
    }
}

static void read_back(Step e, const float *seen, const float *norm, const float *d_reads, float *d_weights,
                      float *d_memory, float *d_params, float *scratch) {
    const Sequence *q = e.of;
    int64_t N = q->N, M = q->M;
    for (int64_t r = 0; r < q->R; r++) {
        for (int64_t m = 0; m < M; m++) {
            add(N, d_weights + r * N, d_reads[r * M + m], seen + m * N);
            add(N, d_memory + m * N, d_reads[r * M + m], e.weights + r * N);
        }
        address_back(e, r, seen, norm, d_weights + r * N, d_memory, d_params, q->d_strength + r, scratch);
    }
}

static void heads_back(Step e, const float *d_reads, float *d_weights, float *d_memory, float *d_params,
                         float *scratch) {
    const Sequence *q = e.of;
    if (q->write_first) read_back(e, e.after, e.norm_after, d_reads, d_weights, d_memory, d_params, scratch);
    write_back(e, d_memory, d_weights, d_params, scratch);
    if (!q->write_first) read_back(e, e.before, e.norm_before, d_reads, d_weights, d_memory, d_params, scratch);
    for (int64_t w = q->R; w < q->R + q->W; w++)
        address_back(e, w, e.before, e.norm_before, d_weights + w * q->N, d_memory, d_params, q->d_strength + w,
                     scratch);
}

/* i, f, o = sigmoid, u = tanh; c = f c + i u; h = o tanh(c) */
static void cell(int64_t D, float *restrict gates, const float *restrict c, float *restrict new, float *restrict h) {
    for (int64_t d = 0; d < 3 * D; d++) gates[d] = sigmoid(gates[d]);
    for (int64_t d = 0; d < D; d++) {
        float u = gates[3 * D + d] = fast_tanh(gates[3 * D + d]);
        new[d] = gates[D + d] * c[d] + gates[d] * u;
        h[d] = gates[2 * D + d] * fast_tanh(new[d]);
    }
}

/* d_c: in, of the new c; out, of the c before. */
static void cell_back(int64_t D, const float *restrict gates, const float *restrict c, const float *restrict new,
                      const float *restrict d_h, float *restrict d_c, float *restrict d_gates) {
    for (int64_t d = 0; d < D; d++) {
        float i = gates[d], f = gates[D + d], o = gates[2 * D + d], u = gates[3 * D + d], bent = fast_tanh(new[d]);
        float all = d_c[d] + d_h[d] * o * (1.0f - bent * bent);
        d_gates[d] = all * u * i * (1.0f - i);
        d_gates[D + d] = all * c[d] * f * (1.0f - f);
        d_gates[2 * D + d] = d_h[d] * bent * o * (1.0f - o);
        d_gates[3 * D + d] = all * i * (1.0f - u * u);
        d_c[d] = all * f;
    }
}

static unsigned flush_denormals(void) {  /* arithmetic on denormal numbers is many times slower */
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

static int64_t param_count(const Sequence *q) { return (q->R + q->W) * (q->M + 3 + q->S) + 2 * q->W * q->M; }

static float *scratch_for(const Sequence *q) { return malloc((4 * q->N + 4 * q->S) * sizeof(float)); }

int forward(const Sequence *q) {
    int64_t B = q->B, D = q->D, RM = q->R * q->M, O = param_count(q);
    float *scratch = scratch_for(q);
    if (scratch == NULL) return 1;
    unsigned mode = flush_denormals();
    for (int64_t b = 0; b < B; b++) row_norms(q->M, q->N, q->memory + b * q->M * q->N, q->norm + b * q->N);
    for (int64_t t = 0; t < q->T; t++) {
        float *gates = q->gates + (q->keep ? t : 0) * B * 4 * D, *params = q->params + (q->keep ? t : 0) * B * O;
        float *h = q->h + t * B * D, *c = q->c + t * B * D;
        memcpy(gates, q->x + t * B * 4 * D, B * 4 * D * sizeof *gates);
        multiply(B, RM, 4 * D, q->reads + t * B * RM, q->gate_w_t, gates);
        multiply(B, D, 4 * D, h, q->gate_w_t + RM * 4 * D, gates);
        for (int64_t b = 0; b < B; b++)
            cell(D, gates + b * 4 * D, c + b * D, c + (B + b) * D, h + (B + b) * D);
        for (int64_t b = 0; b < B; b++) memcpy(params + b * O, q->bias, O * sizeof *params);
        multiply(B, D, O, h + B * D, q->head_w_t, params);
        for (int64_t b = 0; b < B; b++) heads_forward(at(q, t, b), scratch);
    }
    restore(mode);
    free(scratch);
    return 0;
}

int backward(const Sequence *q) {
    int64_t B = q->B, D = q->D, N = q->N, RM = q->R * q->M, H = q->R + q->W, O = param_count(q);
    float *scratch = scratch_for(q), *d_seen = malloc(B * (RM + D) * sizeof *d_seen);
    float *d_h = q->d_h_0, *d_c = q->d_c_0, *d_reads = q->d_reads_0;
    if (scratch == NULL || d_seen == NULL) return free(scratch), free(d_seen), 1;
    unsigned mode = flush_denormals();
    for (int64_t t = q->T - 1; t >= 0; t--) {
        float *d_gates = q->d_gates + t * B * 4 * D, *d_params = q->d_params + t * B * O;
        add(B * D, d_h, 1.0f, q->d_h + t * B * D);
        add(B * RM, d_reads, 1.0f, q->d_reads + t * B * RM);
        for (int64_t b = 0; b < B; b++)
            heads_back(at(q, t, b), d_reads + b * RM, q->d_weights_0 + b * H * N, q->d_memory_0 + b * q->M * N,
                         d_params + b * O, scratch);
        multiply(B, O, D, d_params, q->head_w, d_h);
        for (int64_t b = 0; b < B; b++)
            cell_back(D, q->gates + (t * B + b) * 4 * D, q->c + (t * B + b) * D, q->c + ((t + 1) * B + b) * D,
                      d_h + b * D, d_c + b * D, d_gates + b * 4 * D);
        memset(d_seen, 0, B * (RM + D) * sizeof *d_seen);
        multiply(B, 4 * D, RM + D, d_gates, q->gate_w, d_seen);
        for (int64_t b = 0; b < B; b++) {
            memcpy(d_reads + b * RM, d_seen + b * (RM + D), RM * sizeof *d_reads);
            memcpy(d_h + b * D, d_seen + b * (RM + D) + RM, D * sizeof *d_h);
        }
    }
    restore(mode);
    free(scratch);
    free(d_seen);
    return 0;
}
