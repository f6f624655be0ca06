/* Calls the kernels of the C interface on a step of its own making and checks what they give against plain loops.
 *
 * One sequence, 24 tokens at positions 0 … 23, all in this step. dsv4_kv_store makes the window entries of the ring; a second call makes
 * compressed entries: a page of them has the bytes of a ring. dsv4_attention then attends to the last 8 positions and to a list. */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dsv4/kernels.h"

enum {
  kTokens = 24,
  kHeads = 8,
  kDim = 128,
  kRope = 64,
  kNope = kDim - kRope,
  kWindow = 8,
  kRing = 32, /* entries of a page of the ring, and of a page of compressed entries */
  kRatio = 4,
  kSelected = 6,
  kSlot = 1, /* the second of two slots, and of two pages */
  kSkipped = 77
};

/* The step on the host; `gpu` has the same layout on the device. Every array begins at a multiple of 16 bytes. */
typedef struct step {
  uint16_t q[kTokens][kHeads][kDim], kv[kTokens][kDim], weight[kDim];
  float freqs[kRope / 2], sink[kHeads];
  int32_t positions[kTokens], seq_idx[kTokens], selected[kTokens][kSelected];
  int32_t row_begin[4], slots[4], page_table[4];
  float out[kTokens][kHeads][kDim], lse[kTokens][kHeads];
} step;

static float from_bf16(uint16_t bits) {
  const uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return value;
}

/* A number in [−1, 1) that bf16 holds exactly. */
static uint16_t random_bf16(uint32_t* state) {
  *state = *state * 1664525u + 1013904223u;
  const float value = (float)((int)(*state >> 24) - 128) / 128.0f;
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (uint16_t)(bits >> 16);
}

static double from_e4m3(int code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const double magnitude = exponent == 0 ? ldexp(mantissa, -9) : ldexp(8 + mantissa, exponent - 10);
  return code >= 128 ? -magnitude : magnitude;
}

/* Turns the last dims of x by the angles of a position, or back. */
static void rotate(double* x, int position, const float* freqs, int direction) {
  for (int i = 0; i < kRope / 2; ++i) {
    const float angle = (float)position * freqs[i];
    const double c = cos(angle), s = direction * sin(angle), a = x[kNope + 2 * i], b = x[kNope + 2 * i + 1];
    x[kNope + 2 * i] = a * c - b * s;
    x[kNope + 2 * i + 1] = a * s + b * c;
  }
}

/* Entry `entry` of the page at `page`: its value part, then its scale from behind the value parts of the page. */
static void read_entry(const uint8_t* page, int entry, double* x) {
  const int value_bytes = kNope + 2 * kRope, scale_bytes = 4;
  const uint8_t* values = page + entry * value_bytes;
  const uint8_t* scales = page + kRing * value_bytes + entry * scale_bytes;
  for (int i = 0; i < kNope; ++i) x[i] = ldexp(from_e4m3(values[i]), scales[i / 64] - 127);
  for (int i = 0; i < kRope; ++i) {
    uint16_t bits;
    memcpy(&bits, values + kNope + 2 * i, sizeof bits);
    x[kNope + i] = from_bf16(bits);
  }
}

/* Largest error of the ring's entries over what the formats allow: half a step of e4m3 (or of its subnormal numbers), of bf16 what two
 * roundings of numbers below 4 leave. */
static double kv_error(const step* host, const uint8_t* page) {
  double worst = 0.0;
  for (int t = 0; t < kTokens; ++t) {
    double x[kDim], stored[kDim], squares = 0.0, amax = 0.0;
    for (int i = 0; i < kDim; ++i) squares += pow(from_bf16(host->kv[t][i]), 2.0);
    for (int i = 0; i < kDim; ++i) x[i] = from_bf16(host->kv[t][i]) / sqrt(squares / kDim + 1e-6) * from_bf16(host->weight[i]);
    rotate(x, host->positions[t], host->freqs, 1);
    read_entry(page, host->positions[t] % kRing, stored);
    for (int i = 0; i < kNope; ++i) amax = fmax(amax, fabs(x[i]));
    for (int i = 0; i < kDim; ++i) {
      const double allowed = i < kNope ? fabs(x[i]) * 0x1.1p-4 + amax * 0x1p-16 : 4.0 * 0x1p-8;
      worst = fmax(worst, fabs(stored[i] - x[i]) / allowed);
    }
  }
  return worst;
}

/* One row and head by the formula: out [kDim] and the LSE. */
static double attend(const step* host, const uint8_t* ring, const uint8_t* entries, int t, int head, double* out) {
  double denominator = exp(host->sink[head]);
  memset(out, 0, kDim * sizeof *out);
  for (int place = 0; place < kWindow + kSelected; ++place) {
    const int position = t - kWindow + 1 + place, entry = place < kWindow ? position : host->selected[t][place - kWindow];
    if (entry < 0) continue;
    double key[kDim], logit = 0.0;
    read_entry(place < kWindow ? ring : entries, entry % kRing, key);
    for (int i = 0; i < kDim; ++i) logit += from_bf16(host->q[t][head][i]) * key[i];
    const double weight = exp(logit / sqrt(kDim));
    denominator += weight;
    for (int i = 0; i < kDim; ++i) out[i] += weight * key[i];
  }
  for (int i = 0; i < kDim; ++i) out[i] /= denominator;
  rotate(out, t, host->freqs, -1);
  return log(denominator);
}

static void fill(step* host) {
  uint32_t state = 1;
  for (int t = 0; t < kTokens; ++t) {
    host->positions[t] = t;
    for (int i = 0; i < kHeads * kDim; ++i) host->q[t][i / kDim][i % kDim] = random_bf16(&state);
    for (int i = 0; i < kDim; ++i) host->kv[t][i] = random_bf16(&state);
    /* Every entry that the row may see, one place left out. */
    for (int i = 0; i < kSelected; ++i) host->selected[t][i] = i < (t + 1) / kRatio && i != t % 4 ? i : -1;
  }
  for (int i = 0; i < kDim; ++i) host->weight[i] = random_bf16(&state);
  for (int i = 0; i < kRope / 2; ++i) host->freqs[i] = (float)pow(10000.0, -2.0 * i / kRope);
  for (int i = 0; i < kHeads; ++i) host->sink[i] = from_bf16(random_bf16(&state));
  host->row_begin[1] = kTokens;
  host->slots[0] = kSlot;
  host->page_table[0] = kSlot;
}

static int failed(const char* what, const char* message) {
  fprintf(stderr, "attention: %s: %s\n", what, message);
  return 1;
}

/* Makes the caches and the outputs on the device. */
static int run(step* gpu, uint8_t* ring, uint8_t* entries) {
  char error[256];
  dsv4_batch batch = {.struct_size = sizeof batch,
                      .positions = gpu->positions,
                      .seq_idx = gpu->seq_idx,
                      .row_begin = gpu->row_begin,
                      .slots = gpu->slots,
                      .page_table = gpu->page_table,
                      .page_table_stride = 1,
                      .num_tokens = kTokens,
                      .num_seqs = 1};
  dsv4_kv_store_args store = {.struct_size = sizeof store,
                              .batch = &batch,
                              .kv = gpu->kv,
                              .weight = gpu->weight,
                              .freqs = gpu->freqs,
                              .ring = ring,
                              .head_dim = kDim,
                              .ring_size = kRing,
                              .eps = 1e-6f};
  if (dsv4_kv_store(&store, NULL, error, sizeof error) != DSV4_OK) return failed("window entries", error);
  store.ring = entries;
  store.kv = gpu->q; /* other numbers */
  if (dsv4_kv_store(&store, NULL, error, sizeof error) != DSV4_OK) return failed("compressed entries", error);
  dsv4_attention_args attention = {.struct_size = sizeof attention,
                                   .batch = &batch,
                                   .q = gpu->q,
                                   .ring = ring,
                                   .entries = entries,
                                   .selected = &gpu->selected[0][0],
                                   .sink = gpu->sink,
                                   .freqs = gpu->freqs,
                                   .out = gpu->out,
                                   .lse = &gpu->lse[0][0],
                                   .num_heads = kHeads,
                                   .head_dim = kDim,
                                   .window = kWindow,
                                   .ring_size = kRing,
                                   .entries_per_page = kRing,
                                   .ratio = kRatio,
                                   .num_selected = kSelected,
                                   .output = DSV4_ATTENTION_FP32};
  attention.workspace_bytes = dsv4_attention_workspace_bytes(&attention);
  if (cudaMalloc(&attention.workspace, attention.workspace_bytes) != cudaSuccess) {
    return failed("cudaMalloc", cudaGetErrorString(cudaGetLastError()));
  }
  const dsv4_status status = dsv4_attention(&attention, NULL, error, sizeof error);
  cudaFree(attention.workspace); /* waits for the kernels */
  if (status != DSV4_OK) return failed("attention", error);
  return 0;
}

/* Compares what came back with the formulas and prints the errors. */
static int check(const step* host, const uint8_t* ring, const uint8_t* entries) {
  double worst_out = 0.0, worst_lse = 0.0;
  for (int t = 0; t < kTokens; ++t) {
    for (int head = 0; head < kHeads; ++head) {
      double expected[kDim];
      const double lse = attend(host, ring, entries, t, head, expected);
      /* Written so that NaN counts as an error. */
      for (int i = 0; i < kDim; ++i) {
        const double error = fabs(host->out[t][head][i] - expected[i]);
        if (!(error <= worst_out)) worst_out = error;
      }
      if (!(fabs(host->lse[t][head] - lse) <= worst_lse)) worst_lse = fabs(host->lse[t][head] - lse);
    }
  }
  const double worst_kv = kv_error(host, ring);
  printf("attention: %d rows, %d heads of %d: largest error %.1e, of the LSE %.1e, of an entry %.2f of what its format allows\n", kTokens,
         kHeads, kDim, worst_out, worst_lse, worst_kv);
  return worst_out <= 1e-4 && worst_lse <= 1e-5 && worst_kv <= 1.0 ? 0 : 1;
}

int main(void) {
  int num_devices = 0;
  if (cudaGetDeviceCount(&num_devices) != cudaSuccess || num_devices == 0) {
    fprintf(stderr, "attention: no CUDA device\n");
    return kSkipped;
  }
  const size_t page_bytes = dsv4_kv_page_bytes(kDim, kRing);
  step* host = calloc(1, sizeof *host);
  uint8_t* caches = malloc(4 * page_bytes);
  void *gpu = NULL, *gpu_caches = NULL;
  int status = 1;
  if (host == NULL || caches == NULL) {
    failed("memory", "none left");
  } else if (cudaMalloc(&gpu, sizeof *host) != cudaSuccess || cudaMalloc(&gpu_caches, 4 * page_bytes) != cudaSuccess) {
    failed("cudaMalloc", cudaGetErrorString(cudaGetLastError()));
  } else {
    fill(host);
    uint8_t *ring = gpu_caches, *entries = ring + 2 * page_bytes;
    cudaMemcpy(gpu, host, sizeof *host, cudaMemcpyHostToDevice);
    cudaMemset(gpu_caches, 0xff, 4 * page_bytes); /* NaN wherever nothing is stored */
    status = run(gpu, ring, entries);
    /* Copies wait for the kernels before them. */
    cudaMemcpy(host, gpu, sizeof *host, cudaMemcpyDeviceToHost);
    const cudaError_t copied = cudaMemcpy(caches, gpu_caches, 4 * page_bytes, cudaMemcpyDeviceToHost);
    if (copied != cudaSuccess) status = failed("CUDA", cudaGetErrorString(copied));
    if (status == 0) status = check(host, caches + kSlot * page_bytes, caches + (2 + kSlot) * page_bytes);
  }
  cudaFree(gpu_caches);
  cudaFree(gpu);
  free(caches);
  free(host);
  return status;
}
