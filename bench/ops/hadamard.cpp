#include "backend/cpu/hadamard.h"

#include <bit>

#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void hadamard(benchmark::State& state) {
  const int dim = static_cast<int>(state.range(0));
  std::vector<float> x(dim, 1.0f);
  for (auto _ : state) {
    cpu::hadamard(x.data(), dim);
    benchmark::DoNotOptimize(x.data());
  }
  report(state, 2 * x.size() * sizeof(float), static_cast<double>(dim) * std::bit_width(static_cast<unsigned>(dim)), Operands::kWarm);
}
BENCHMARK(hadamard)->ArgName("dim")->Arg(64)->Arg(128)->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
