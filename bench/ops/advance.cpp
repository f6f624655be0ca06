#include "ops/advance.h"

#include <algorithm>

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void advance(benchmark::State& state) {
  const int num_rows = static_cast<int>(state.range(0));
  const std::vector<int32_t> drawn(num_rows, 5);
  std::vector<int32_t> token_ids(num_rows), positions(num_rows);
  std::vector<SampleRow> rows(num_rows);
  for (auto _ : state) {
    std::fill(positions.begin(), positions.end(), 100);
    cpu::advance({drawn.data(), token_ids.data(), positions.data(), rows.data(), num_rows});
    benchmark::DoNotOptimize(positions.data());
  }
  report(state, static_cast<size_t>(num_rows) * 32, 0.0, Operands::kWarm);
}
BENCHMARK(advance)->ArgName("rows")->Arg(1)->Arg(256)->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
