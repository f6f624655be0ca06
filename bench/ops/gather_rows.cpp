#include "ops/gather_rows.h"

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void gather_rows(benchmark::State& state) {
  const int num_rows = static_cast<int>(state.range(0));
  const int64_t row_bytes = state.range(1);
  constexpr int kRows = 512;
  const auto x = fill_bytes(static_cast<size_t>(kRows * row_bytes));
  std::vector<int32_t> rows(num_rows);
  for (int i = 0; i < num_rows; ++i) rows[i] = i * 37 % kRows;
  std::vector<uint8_t> out(static_cast<size_t>(num_rows * row_bytes));
  for (auto _ : state) cpu::gather_rows({x.data(), rows.data(), out.data(), num_rows, row_bytes});
  report(state, 2 * out.size(), 0.0, Operands::kWarm);
}
BENCHMARK(gather_rows)->ArgNames({"rows", "row_bytes"})->ArgsProduct({{1, 64}, {512, 8192}})->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
