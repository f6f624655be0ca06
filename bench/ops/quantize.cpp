#include "ops/quantize.h"

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void quantize(benchmark::State& state) {
  const int num_rows = static_cast<int>(state.range(0)), dim = static_cast<int>(state.range(1));
  const auto x = fill_bf16(static_cast<size_t>(num_rows) * dim);
  std::vector<uint8_t> codes(x.size()), scales(static_cast<size_t>(num_rows) * ceil_div(dim, kFp8Block));
  for (auto _ : state) cpu::quantize({x.data(), codes.data(), scales.data(), num_rows, dim});
  report(state, x.size() * sizeof(Bf16) + codes.size() + scales.size(), 0.0, Operands::kWarm);
}
BENCHMARK(quantize)->ArgNames({"rows", "dim"})->ArgsProduct({{1, 64}, {512, 4096}})->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
