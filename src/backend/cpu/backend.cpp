#include "backend/cpu/backend.h"

#include <sys/mman.h>

#include <cerrno>
#include <cmath>
#include <cstring>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "backend/cpu/copy_rate.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/random.h"
#include "base/error.h"
#include "ops/buffer.h"

namespace dsv4 {
namespace {

// The ops themselves; replaying calls them again.
class CpuRecording final : public Recording {
 public:
  CpuRecording(std::function<void()> ops, StepCounters& counters) : ops_(std::move(ops)), counters_(counters) {}
  void replay() override {
    ops_();
    ++counters_.graph_launches;
  }
  int num_kernels() const override { return 0; }

 private:
  std::function<void()> ops_;
  StepCounters& counters_;
};

// The host is never behind.
class CpuMarker final : public Marker {
 public:
  void set() override {}
  void wait() override {}
};

class CpuBackend final : public Backend {
 public:
  const char* name() const override { return "cpu"; }

  // Anonymous mappings: zero-filled, page-aligned, committed when touched, so that a cache costs what it holds.
  void* allocate(size_t bytes) override {
    if (bytes == 0) return nullptr;
    ++counters_.allocations;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) fail("cannot allocate {} bytes: {}", bytes, std::strerror(errno));
    return memory;
  }
  void deallocate(void* memory, size_t bytes) override {
    if (memory != nullptr) munmap(memory, bytes);
  }
  size_t free_memory() const override { return 0; }
  const void* import_weight(const void* weight, size_t) override { return weight; }
  Fp8Weight import_fp8(const Fp8Weight& weight) override { return weight; }
  Bf16Weight import_bf16(const Bf16Weight& weight) override { return weight; }
  ExpertMatrix import_expert(const ExpertMatrix& weight, ExpertFormat, int, int) override { return weight; }
  void finish_imports() override {}
  void cancel_imports() override {}
  void set_import_progress(std::function<void(int64_t)>) override {}

  const Bf16* random_table(int rows, int cols, double deviation, uint64_t seed) override {
    return static_cast<const Bf16*>(random_memory(elements(rows, cols) * sizeof(Bf16), random_bf16_values(deviation), seed));
  }
  Fp8Weight random_fp8(int rows, int cols, uint64_t seed) override {
    const auto* codes = static_cast<const uint8_t*>(random_memory(elements(rows, cols), kRandomFp8Codes, seed));
    return {codes, random_scale_array(ceil_div(rows, kFp8Block), ceil_div(cols, kFp8Block), cols, kRandomFp8Deviation, seed), rows, cols};
  }
  Bf16Weight random_bf16(int rows, int cols, uint64_t seed) override {
    return {random_table(rows, cols, 1.0 / std::sqrt(static_cast<double>(cols)), seed), rows, cols};
  }
  ExpertMatrix random_expert(ExpertFormat format, int rows, int cols, uint64_t seed) override {
    if (format == ExpertFormat::kFp8) {
      const Fp8Weight weight = random_fp8(rows, cols, seed);
      return {weight.codes, weight.scales};
    }
    const auto* codes = static_cast<const uint8_t*>(random_memory(elements(rows, cols / 2), kRandomFp4Codes, seed));
    return {codes, random_scale_array(rows, cols / kFp4Block, cols, kRandomFp4Deviation, seed)};
  }

  void copy_from_host(void* destination, const void* source, size_t bytes) override {
    counters_.uploaded_bytes += static_cast<int64_t>(bytes);
    std::memcpy(destination, source, bytes);
  }
  void copy_to_host(void* destination, const void* source, size_t bytes) override {
    counters_.downloaded_bytes += static_cast<int64_t>(bytes);
    std::memcpy(destination, source, bytes);
  }
  void synchronize() override {}

  void* allocate_host(size_t bytes) override { return allocate(bytes); }
  void deallocate_host(void* memory, size_t bytes) override { deallocate(memory, bytes); }
  void copy_from_host_async(void* destination, const void* source, size_t bytes) override { copy_from_host(destination, source, bytes); }
  void copy_to_host_async(void* destination, const void* source, size_t bytes) override { copy_to_host(destination, source, bytes); }
  std::unique_ptr<Marker> make_marker() override { return std::make_unique<CpuMarker>(); }
  StepCounters counters() const override { return counters_; }

  std::unique_ptr<Recording> record(const std::function<void()>& ops) override {
    ops();
    return std::make_unique<CpuRecording>(ops, counters_);
  }

  std::vector<ProfiledLaunch> profile(const std::function<void()>& ops) override {
    ops();
    return {};
  }
  double measure_copy_rate() override { return cpu::measure_copy_rate(*this); }

  void advance(const AdvanceParams& params) override { cpu::advance(params); }
  void embed(const EmbedParams& params) override { cpu::embed(params); }
  void gather_rows(const GatherRowsParams& params) override { cpu::gather_rows(params); }
  void rms_norm(const RmsNormParams& params) override { cpu::rms_norm(params); }
  void quantize(const QuantizeParams& params) override { cpu::quantize(params); }
  void linear_fp8(const LinearFp8Params& params) override { cpu::linear_fp8(params); }
  void linear_bf16(const LinearBf16Params& params) override { cpu::linear_bf16(params); }
  void linear_fp32(const LinearFp32Params& params) override { cpu::linear_fp32(params); }
  void grouped_linear(const GroupedLinearParams& params) override { cpu::grouped_linear(params); }
  void mhc_pre(const MhcPreParams& params) override { cpu::mhc_pre(params); }
  void mhc_post(const MhcPostParams& params) override { cpu::mhc_post(params); }
  void mhc_head(const MhcHeadParams& params) override { cpu::mhc_head(params); }
  void query_norm(const QueryNormParams& params) override { cpu::query_norm(params); }
  void kv_store(const KvStoreParams& params) override { cpu::kv_store(params); }
  void compress(const CompressParams& params) override { cpu::compress(params); }
  void indexer_query(const IndexerQueryParams& params) override { cpu::indexer_query(params); }
  void index_scores(const IndexScoresParams& params) override { cpu::index_scores(params); }
  void topk(const TopkParams& params) override { cpu::topk(params); }
  void attention(const AttentionParams& params) override { cpu::attention(params); }
  void router(const RouterParams& params) override { cpu::router(params); }
  void experts(const ExpertsParams& params) override { cpu::experts(params); }
  void shared_expert(const SharedExpertParams& params) override { cpu::shared_expert(params); }
  void combine(const CombineParams& params) override { cpu::combine(params); }
  void mtp_join(const MtpJoinParams& params) override { cpu::mtp_join(params); }
  void sample(const SampleParams& params) override { cpu::sample(params); }

 private:
  static size_t elements(int rows, int cols) { return static_cast<size_t>(rows) * static_cast<size_t>(cols); }

  const void* random_memory(size_t bytes, RandomWords words, uint64_t seed) {
    const Buffer& memory = random_weights_.emplace_back(*this, bytes);
    cpu::fill_random(memory.as<void>(), bytes, words, seed);
    return memory.as<void>();
  }
  const uint8_t* random_scale_array(int rows, int blocks, int cols, double code_deviation, uint64_t seed) {
    return static_cast<const uint8_t*>(random_memory(elements(rows, blocks), random_scales(cols, code_deviation), ~seed));
  }

  StepCounters counters_;
  std::vector<Buffer> random_weights_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend() {
  return std::make_unique<CpuBackend>();
}

void set_cpu_threads([[maybe_unused]] int num_threads) {
#ifdef _OPENMP
  omp_set_num_threads(num_threads);
#endif
}

}  // namespace dsv4
