#include "backend/cpu/rope.h"

#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

// One row: its angles, then the rotation of its heads.
void rope(benchmark::State& state) {
  const int num_heads = static_cast<int>(state.range(0));
  const std::vector<float> freqs(kRopeDim / 2, 0.013f);
  std::vector<float> x(static_cast<size_t>(num_heads) * kRopeDim, 1.0f);
  for (auto _ : state) {
    const cpu::Rotation rotation = cpu::make_rotation(123456, freqs.data(), kRopeDim);
    for (int head = 0; head < num_heads; ++head) cpu::rotate(rotation, kRopeDim, x.data() + head * kRopeDim);
    benchmark::DoNotOptimize(x.data());
  }
  report(state, 2 * x.size() * sizeof(float), 3.0 * static_cast<double>(x.size()), Operands::kWarm);
}
BENCHMARK(rope)->ArgName("heads")->Arg(8)->Arg(64)->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
