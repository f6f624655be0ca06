#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/mhc_mix.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/parallel.h"
#include "base/error.h"

namespace dsv4::cpu {
namespace {

void softmax_rows(int n, float* a) {
  for (int i = 0; i < n; ++i) {
    float* row = a + i * n;
    const float max = *std::max_element(row, row + n);
    float sum = 0.0f;
    for (int j = 0; j < n; ++j) {
      row[j] = std::exp(row[j] - max);
      sum += row[j];
    }
    for (int j = 0; j < n; ++j) row[j] /= sum;
  }
}

void divide_rows_by_sum(int n, float eps, float* a) {
  for (int i = 0; i < n; ++i) {
    float sum = 0.0f;
    for (int j = 0; j < n; ++j) sum += a[i * n + j];
    for (int j = 0; j < n; ++j) a[i * n + j] /= sum + eps;
  }
}

void divide_columns_by_sum(int n, float eps, float* a) {
  for (int j = 0; j < n; ++j) {
    float sum = 0.0f;
    for (int i = 0; i < n; ++i) sum += a[i * n + j];
    for (int i = 0; i < n; ++i) a[i * n + j] /= sum + eps;
  }
}

// Spec 2.3 step 4: the first iteration is a softmax over rows plus eps; the last operation is a column step.
void sinkhorn(int n, int iterations, float eps, float* a) {
  softmax_rows(n, a);
  for (int k = 0; k < n * n; ++k) a[k] += eps;
  divide_columns_by_sum(n, eps, a);
  for (int iteration = 1; iteration < iterations; ++iteration) {
    divide_rows_by_sum(n, eps, a);
    divide_columns_by_sum(n, eps, a);
  }
}

}  // namespace

void mhc_pre(const MhcPreParams& params) {
  const int hc = params.hc_mult;
  const int dim = params.hidden_size;
  const int num_mixes = hc * (2 + hc);
  require(hc >= 1 && hc <= kMaxHcMult, "mhc_pre: hc_mult {}, expected 1 to {}", hc, kMaxHcMult);
  parallel_for(params.num_tokens, int64_t{num_mixes} * hc * dim, [&](int64_t begin, int64_t end) {
    std::vector<float> v(static_cast<size_t>(hc) * dim);
    for (int64_t token = begin; token < end; ++token) {
      const Bf16* streams = params.streams + token * hc * dim;
      for (int k = 0; k < hc * dim; ++k) v[k] = to_float(streams[k]);
      float m[kMaxMixes];
      mhc_mixes(v.data(), params.fn, num_mixes, hc * dim, params.norm_eps, m);

      float pre[kMaxHcMult];
      float* post = params.post + token * hc;
      float* comb = params.comb + token * hc * hc;
      for (int i = 0; i < hc; ++i) pre[i] = sigmoid(m[i] * params.scale[0] + params.base[i]) + params.hc_eps;
      for (int i = 0; i < hc; ++i) post[i] = 2.0f * sigmoid(m[hc + i] * params.scale[1] + params.base[hc + i]);
      for (int k = 0; k < hc * hc; ++k) comb[k] = m[2 * hc + k] * params.scale[2] + params.base[2 * hc + k];
      sinkhorn(hc, params.sinkhorn_iters, params.hc_eps, comb);
      mhc_collapse(v.data(), pre, hc, dim, params.x + token * dim);
    }
  });
}

}  // namespace dsv4::cpu
