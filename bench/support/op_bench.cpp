#include "support/op_bench.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "backend/cpu/parallel.h"

namespace dsv4::bench {
namespace {

// splitmix64
uint64_t mix(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

}  // namespace

std::vector<uint8_t> fill_bytes(size_t count) {
  std::vector<uint8_t> bytes(count + 8);
  uint64_t state = count;
  for (size_t i = 0; i < count; i += 8) {
    const uint64_t word = mix(state);
    std::memcpy(&bytes[i], &word, 8);
  }
  bytes.resize(count);
  return bytes;
}

std::vector<uint8_t> fill_e4m3(size_t count) {
  auto codes = fill_bytes(count);
  for (uint8_t& code : codes) code &= 0xf7;  // exponents stay even: no NaN
  return codes;
}

std::vector<uint8_t> fill_scales(size_t count) {
  auto codes = fill_bytes(count);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(115 + code % 8);
  return codes;
}

std::vector<Bf16> fill_bf16(size_t count) {
  std::vector<Bf16> values(count);
  uint64_t state = count;
  for (Bf16& value : values) value = to_bf16(static_cast<float>(static_cast<int64_t>(mix(state) >> 32) - (int64_t{1} << 31)) * 0x1p-30f);
  return values;
}

int num_copies(size_t bytes) {
  return bytes < kWarmBytes ? 1 : static_cast<int>((kColdBytes + bytes - 1) / bytes);
}

double read_ceiling() {
  static const double ceiling = [] {
    const std::vector<uint64_t> buffer(kColdBytes / 8, 1);
    double best = 0.0;
    for (int repeat = 0; repeat < 5; ++repeat) {
      const auto begin = std::chrono::steady_clock::now();
      cpu::parallel_for(static_cast<int64_t>(buffer.size()), 1, [&](int64_t first, int64_t last) {
        uint64_t sums[8] = {};
        for (int64_t i = first; i + 8 <= last; i += 8) {
          for (int j = 0; j < 8; ++j) sums[j] += buffer[static_cast<size_t>(i + j)];
        }
        benchmark::DoNotOptimize(sums);
      });
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      best = std::max(best, static_cast<double>(kColdBytes) / seconds * 1e-9);
    }
    return best;
  }();
  return ceiling;
}

void report(benchmark::State& state, size_t bytes_per_iteration, double flop_per_iteration, Operands operands) {
  using benchmark::Counter;
  const double iterations = static_cast<double>(state.iterations());
  const double bytes = static_cast<double>(bytes_per_iteration) * iterations;
  state.counters["GB/s"] = Counter(bytes * 1e-9, Counter::kIsRate);
  if (flop_per_iteration > 0.0) state.counters["GFLOP/s"] = Counter(flop_per_iteration * iterations * 1e-9, Counter::kIsRate);
  if (operands == Operands::kWarm) {
    state.SetLabel("warm");
  } else {
    state.counters["of read ceiling"] = Counter(bytes * 1e-9 / read_ceiling(), Counter::kIsRate);
  }
}

}  // namespace dsv4::bench
