#include "ops/rms_norm.h"

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void rms_norm(benchmark::State& state) {
  const int num_rows = static_cast<int>(state.range(0)), dim = static_cast<int>(state.range(1));
  const auto x = fill_bf16(static_cast<size_t>(num_rows) * dim), weight = fill_bf16(dim);
  std::vector<Bf16> out(x.size());
  for (auto _ : state) cpu::rms_norm({x.data(), weight.data(), out.data(), num_rows, dim, 1e-6f});
  report(state, 2 * x.size() * sizeof(Bf16), 0.0, Operands::kWarm);
}
BENCHMARK(rms_norm)->ArgNames({"rows", "dim"})->ArgsProduct({{1, 64}, {256, 4096}})->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
