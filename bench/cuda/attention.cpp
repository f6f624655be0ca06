// Times the attention kernel at the shapes of FlashMLA's published use: decode (one row per sequence) and prefill (many rows of one).
//
// graph: per call inside a recording of 10 calls, replayed; inputs are warm in the L2 where they fit. cold: one launch timed by events
// after 256 MiB were written. The floor is the larger of the bytes at the copy rate measured in the same run and of the products at
// kProductRate. A FLOP is counted once: 4 · heads · keys · head_dim per row.
#include <cuda_runtime.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/kv_codec.h"
#include "backend/cuda/runtime/backend.h"
#include "backend/cuda/runtime/device.h"
#include "base/date.h"
#include "base/error.h"
#include "ops/buffer.h"

namespace dsv4::bench {
namespace {

constexpr double kProductRate = 705e12;  // bf16 FLOP/s of a large product on an H200
constexpr int kHeadDim = 512;
constexpr int kWindow = 128;
constexpr int kCallsPerGraph = 10;
constexpr size_t kFlushBytes = size_t{256} << 20;
constexpr int kPatternPages = 16;  // of random entries, repeated over the cache

struct Shape {
  const char* name;
  int num_heads;
  int num_selected;  // 0: all entries, dense
  int num_entries;   // of each sequence
  int num_seqs;
  int rows_per_seq;
  double peer;   // FlashMLA: µs of decode shapes, TFLOPS of prefill shapes
  double limit;  // of the gate, in the same unit; 0: none

  bool is_prefill() const { return rows_per_seq > 1; }
  int num_rows() const { return num_seqs * rows_per_seq; }
  int ratio() const { return num_selected > 0 ? 4 : 128; }
  int entries_per_page() const { return kPagePositions / ratio(); }
  int num_keys() const { return kWindow + (num_selected > 0 ? num_selected : num_entries); }
  // The last row's position: it sees num_entries.
  int last_position() const { return num_entries * ratio() - 1 + (is_prefill() ? rows_per_seq : 0); }
  double flop() const { return 4.0 * num_rows() * num_heads * num_keys() * kHeadDim; }
  double bytes() const {
    const double entry = KvEntryLayout{kHeadDim}.entry_bytes();
    const double keys = is_prefill() ? kWindow + rows_per_seq + num_entries : static_cast<double>(num_rows()) * num_keys();
    return keys * entry + 4.0 * num_rows() * num_heads * kHeadDim;
  }
};

constexpr Shape kShapes[] = {
    {"flash_csa_b1", 64, 512, 4096, 1, 1, 12.3, 8.5},       {"flash_csa_b4", 64, 512, 4096, 4, 1, 13.3, 0},
    {"flash_csa_b16", 64, 512, 4096, 16, 1, 17.1, 12},      {"flash_csa_b64", 64, 512, 4096, 64, 1, 44.7, 22},
    {"flash_csa_b128", 64, 512, 4096, 128, 1, 46.7, 38},    {"flash_csa_b256", 64, 512, 4096, 256, 1, 89.5, 70},
    {"pro_csa_b1", 128, 1024, 4096, 1, 1, 14.6, 10.5},      {"pro_csa_b16", 128, 1024, 4096, 16, 1, 26.9, 20},
    {"pro_csa_b64", 128, 1024, 4096, 64, 1, 53.8, 46},      {"pro_csa_b256", 128, 1024, 4096, 256, 1, 204, 175},
    {"flash_hca_1m_b1", 64, 0, 8192, 1, 1, 28.1, 16},       {"flash_hca_1m_b16", 64, 0, 8192, 16, 1, 83.0, 60},
    {"flash_hca_1m_b64", 64, 0, 8192, 64, 1, 247, 190},     {"pro_hca_1m_b1", 128, 0, 8192, 1, 1, 25.8, 17},
    {"pro_hca_1m_b64", 128, 0, 8192, 64, 1, 332, 280},      {"flash_prefill_8k", 64, 512, 8192, 1, 4096, 525, 500},
    {"flash_prefill_64k", 64, 512, 65536, 1, 4096, 464, 0}, {"pro_prefill_8k", 128, 1024, 8192, 1, 4096, 566, 560},
    {"pro_prefill_64k", 128, 1024, 65536, 1, 4096, 520, 0},
};

template <typename T>
Buffer upload(Backend& gpu, const std::vector<T>& values) {
  Buffer buffer(gpu, values.size() * sizeof(T));
  gpu.copy_from_host(buffer.as<void>(), values.data(), buffer.bytes());
  gpu.synchronize();
  return buffer;
}

std::vector<Bf16> random_bf16(std::mt19937_64& random, size_t count) {
  std::normal_distribution<float> normal;
  std::vector<Bf16> values(count);
  for (Bf16& value : values) value = to_bf16(normal(random));
  return values;
}

// `num_pages` pages of entries: a pattern of random ones, repeated.
Buffer make_cache(Backend& gpu, std::mt19937_64& random, int num_pages, int entries_per_page) {
  const KvEntryLayout layout{kHeadDim};
  const int num_pattern = std::min(num_pages, std::max(1, kPatternPages * 64 / entries_per_page));
  std::vector<uint8_t> pattern(num_pattern * layout.page_bytes(entries_per_page));
  std::normal_distribution<float> normal;
  std::vector<float> values(kHeadDim);
  for (int i = 0; i < num_pattern * entries_per_page; ++i) {
    for (float& value : values) value = normal(random);
    cpu::pack_kv_entry(layout, values.data(),
                       cpu::entry_bytes(layout, pattern.data(), i / entries_per_page, entries_per_page, i % entries_per_page));
  }
  Buffer cache(gpu, num_pages * layout.page_bytes(entries_per_page));
  for (size_t begin = 0; begin < cache.bytes(); begin += pattern.size()) {
    gpu.copy_from_host(cache.as<uint8_t>() + begin, pattern.data(), std::min(pattern.size(), cache.bytes() - begin));
  }
  gpu.synchronize();
  return cache;
}

// A shape's step in device memory.
class Step {
 public:
  Step(Backend& gpu, const Shape& shape) : gpu_(gpu), shape_(shape) {
    std::mt19937_64 random(1);
    const int num_rows = shape.num_rows();
    const int pages_per_seq = shape.last_position() / kPagePositions + 1;
    const int ring_size = kWindow + shape.rows_per_seq;
    std::vector<int32_t> positions, seq_idx, row_begin{0}, slots, page_table(static_cast<size_t>(shape.num_seqs) * pages_per_seq);
    for (int seq = 0; seq < shape.num_seqs; ++seq) {
      for (int i = 0; i < shape.rows_per_seq; ++i) {
        positions.push_back(shape.last_position() - shape.rows_per_seq + 1 + i);
        seq_idx.push_back(seq);
      }
      row_begin.push_back(static_cast<int32_t>(positions.size()));
      slots.push_back(seq);
    }
    for (size_t i = 0; i < page_table.size(); ++i) page_table[i] = static_cast<int32_t>(i);
    std::shuffle(page_table.begin(), page_table.end(), random);
    std::vector<int32_t> selected;
    std::vector<int32_t> all(shape.num_entries);
    for (int i = 0; i < shape.num_entries; ++i) all[i] = i;
    for (int row = 0; row < num_rows && shape.num_selected > 0; ++row) {
      std::vector<int32_t> some;
      std::sample(all.begin(), all.end(), std::back_inserter(some), shape.num_selected, random);
      selected.insert(selected.end(), some.begin(), some.end());
    }
    const size_t num_values = static_cast<size_t>(num_rows) * shape.num_heads * kHeadDim;
    buffers_.push_back(upload(gpu, random_bf16(random, num_values)));
    params_.q = buffers_.back().as<Bf16>();
    buffers_.push_back(Buffer(gpu, num_values * sizeof(Bf16)));
    params_.out = buffers_.back().as<Bf16>();
    BatchView& batch = params_.batch;
    batch.num_tokens = num_rows;
    batch.num_seqs = shape.num_seqs;
    batch.positions = keep(positions);
    batch.seq_idx = keep(seq_idx);
    batch.row_begin = keep(row_begin);
    batch.slots = keep(slots);
    batch.page_table = keep(page_table);
    batch.page_table_stride = pages_per_seq;
    if (shape.num_selected > 0) params_.selected = keep(selected);
    buffers_.push_back(make_cache(gpu, random, shape.num_seqs, ring_size));
    params_.ring = {buffers_.back().as<uint8_t>(), ring_size};
    buffers_.push_back(make_cache(gpu, random, static_cast<int>(page_table.size()), shape.entries_per_page()));
    params_.entries = {buffers_.back().as<uint8_t>(), shape.entries_per_page()};
    params_.sink = keep(std::vector<float>(shape.num_heads, 0.5f));
    params_.freqs = keep(std::vector<float>(kRopeDim / 2, 0.01f));
    params_.num_heads = shape.num_heads;
    params_.head_dim = kHeadDim;
    params_.window = kWindow;
    params_.ratio = shape.ratio();
    params_.num_selected = shape.num_selected;
    params_.softmax_scale = static_cast<float>(1.0 / std::sqrt(kHeadDim));
    buffers_.push_back(Buffer(gpu, attention_scratch_bytes(num_rows, shape.num_heads, kHeadDim)));
    params_.scratch = buffers_.back().as<void>();
    params_.scratch_bytes = static_cast<int64_t>(buffers_.back().bytes());
    params_.max_visible = shape.num_entries + (shape.is_prefill() ? shape.rows_per_seq / shape.ratio() : 0);
  }

  // Microseconds of a call in a graph.
  double time_graph() {
    const auto recording = gpu_.record([&] {
      for (int i = 0; i < kCallsPerGraph; ++i) gpu_.attention(params_);
    });
    require(recording->num_kernels() == kCallsPerGraph, "{}: {} kernels for {} calls, expected one each", shape_.name,
            recording->num_kernels(), kCallsPerGraph);
    double best = INFINITY;
    for (int repeat = 0; repeat < 5; ++repeat) {
      recording->replay();
      gpu_.synchronize();
      const int num_replays = std::clamp(static_cast<int>(best == INFINITY ? 1 : 20e3 / (best * kCallsPerGraph)), 1, 50);
      const auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < num_replays; ++i) recording->replay();
      gpu_.synchronize();
      const std::chrono::duration<double, std::micro> elapsed = std::chrono::steady_clock::now() - begin;
      best = std::min(best, elapsed.count() / (num_replays * kCallsPerGraph));
    }
    return best;
  }

  // Microseconds of a launch that finds nothing in the L2; median of 5.
  double time_cold() {
    Buffer flush(gpu_, kFlushBytes);
    std::vector<double> times;
    for (int i = 0; i < 5; ++i) {
      gpu_.synchronize();
      require(cudaMemset(flush.as<void>(), i, kFlushBytes) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess,
              "{}: the L2 could not be flushed", shape_.name);
      times.push_back(gpu_.profile([&] { gpu_.attention(params_); }).at(0).seconds * 1e6);
    }
    std::sort(times.begin(), times.end());
    return times[2];
  }

 private:
  template <typename T>
  const T* keep(const std::vector<T>& values) {
    buffers_.push_back(upload(gpu_, values));
    return buffers_.back().as<T>();
  }

  Backend& gpu_;
  const Shape& shape_;
  AttentionParams params_{};
  std::vector<Buffer> buffers_;
};

void append(std::ofstream& file, const std::string& machine, const std::string& gate, double value, const char* unit, double limit,
            const char* comparison) {
  const double rounded = std::round(value * 100) / 100;
  nlohmann::ordered_json line = {{"machine", machine}, {"date", today()}, {"gate", gate}, {"value", rounded}, {"unit", unit}};
  line["limit"] = limit > 0 ? nlohmann::ordered_json(limit) : nlohmann::ordered_json(nullptr);
  line["comparison"] = limit > 0 ? nlohmann::ordered_json(comparison) : nlohmann::ordered_json(nullptr);
  line["command"] = "dsv4_bench_attention";
  line["pass"] =
      limit > 0 ? nlohmann::ordered_json(comparison[0] == '<' ? rounded <= limit : rounded >= limit) : nlohmann::ordered_json(nullptr);
  file << line.dump() << '\n';
}

int run(int argc, char** argv) {
  CLI::App app("Times the attention kernel; figures of FlashMLA on an H200 beside it");
  std::string append_file, filter;
  app.add_option("--append", append_file, "Append the results to this file, as bench/results has them");
  app.add_option("--filter", filter, "Only shapes whose name contains this");
  CLI11_PARSE(app, argc, argv);
  const std::vector<CudaDevice> devices = cuda_devices();
  require(!devices.empty(), "{}", why_no_device());
  std::ofstream file;
  if (!append_file.empty()) {
    file.open(append_file, std::ios::app);
    require(file.is_open(), "{}: cannot be written", append_file);
  }
  const std::unique_ptr<Backend> gpu = make_cuda_backend(0);
  const double copy_rate = gpu->measure_copy_rate();
  std::printf("%s, copy %.2f TB/s, products %.0f TFLOPS\n", devices[0].name.c_str(), copy_rate / 1e12, kProductRate / 1e12);
  std::printf("%-20s %10s %10s %9s %9s %8s %12s %9s\n", "shape", "graph us", "cold us", "TFLOPS", "GB/s", "% floor", "FlashMLA", "gate");
  for (const Shape& shape : kShapes) {
    if (std::string(shape.name).find(filter) == std::string::npos) continue;
    Step step(*gpu, shape);
    const double graph = step.time_graph(), cold = step.time_cold();
    const double tflops = shape.flop() / graph / 1e6;
    const double floor = std::max(shape.bytes() / copy_rate, shape.flop() / kProductRate) * 1e6;
    std::printf("%-20s %10.2f %10.2f %9.1f %9.0f %8.1f %9.1f %s %9.1f\n", shape.name, graph, cold, tflops, shape.bytes() / graph / 1e3,
                100 * floor / graph, shape.peer, shape.is_prefill() ? "TF" : "us", shape.limit);
    std::fflush(stdout);
    if (!file.is_open()) continue;
    const std::string gate = std::string("attention.") + shape.name;
    if (shape.is_prefill()) {
      append(file, devices[0].name, gate + ".tflops", tflops, "TFLOPS", shape.limit, ">=");
    } else {
      append(file, devices[0].name, gate + ".graph_us", graph, "µs", shape.limit, "<=");
    }
    append(file, devices[0].name, gate + ".cold_us", cold, "µs", 0, "");
    append(file, devices[0].name, gate + ".floor_share", floor / graph, "", 0, "");
  }
  return 0;
}

}  // namespace
}  // namespace dsv4::bench

int main(int argc, char** argv) {
  try {
    return dsv4::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dsv4_bench_attention: %s\n", error.what());
    return 1;
  }
}
