#include "backend/cuda/runtime/backend.h"

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstring>
#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include "backend/cuda/ops.h"
#include "backend/cuda/runtime/device.h"
#include "backend/cuda/runtime/launch.h"
#include "backend/cuda/runtime/loader.h"
#include "backend/cuda/runtime/profile.h"
#include "backend/cuda/runtime/repack.h"
#include "base/error.h"

namespace dsv4 {
namespace {

using cuda::check;
using cuda::packed_bytes;
using cuda::WeightLayout;

// A CUDA graph.
class GraphRecording final : public Recording {
 public:
  GraphRecording(cudaGraph_t graph, cudaStream_t stream, StepCounters& counters) : stream_(stream), counters_(counters) {
    size_t num_nodes = 0;
    check(cudaGraphGetNodes(graph, nullptr, &num_nodes), "cudaGraphGetNodes");
    std::vector<cudaGraphNode_t> nodes(num_nodes);
    check(cudaGraphGetNodes(graph, nodes.data(), &num_nodes), "cudaGraphGetNodes");
    for (cudaGraphNode_t node : nodes) {
      cudaGraphNodeType type;
      check(cudaGraphNodeGetType(node, &type), "cudaGraphNodeGetType");
      if (type == cudaGraphNodeTypeKernel) ++num_kernels_;
    }
    check(cudaGraphInstantiate(&executable_, graph, 0), "cudaGraphInstantiate");
    check(cudaGraphUpload(executable_, stream_), "cudaGraphUpload");
  }
  ~GraphRecording() override { cudaGraphExecDestroy(executable_); }
  GraphRecording(const GraphRecording&) = delete;
  GraphRecording& operator=(const GraphRecording&) = delete;

  void replay() override {
    check(cudaGraphLaunch(executable_, stream_), "cudaGraphLaunch");
    ++counters_.graph_launches;
  }
  int num_kernels() const override { return num_kernels_; }

 private:
  cudaStream_t stream_;
  StepCounters& counters_;
  cudaGraphExec_t executable_ = nullptr;
  int num_kernels_ = 0;
};

// A CUDA event.
class EventMarker final : public Marker {
 public:
  EventMarker(cudaStream_t stream, StepCounters& counters) : stream_(stream), counters_(counters) {
    check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate");
  }
  ~EventMarker() override { cudaEventDestroy(event_); }
  EventMarker(const EventMarker&) = delete;
  EventMarker& operator=(const EventMarker&) = delete;

  void set() override {
    check(cudaEventRecord(event_, stream_), "cudaEventRecord");
    is_set_ = true;
  }
  void wait() override {
    if (!is_set_) return;
    check(cudaEventSynchronize(event_), "cudaEventSynchronize");
    ++counters_.synchronizations;
  }

 private:
  cudaStream_t stream_;
  StepCounters& counters_;
  cudaEvent_t event_ = nullptr;
  bool is_set_ = false;
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int device_idx) {
    const std::vector<CudaDevice> devices = cuda_devices();
    require(!devices.empty(), "device cuda:{}: {}", device_idx, why_no_device());
    require(device_idx >= 0 && device_idx < static_cast<int>(devices.size()), "device cuda:{}: this machine has cuda:0 to cuda:{}",
            device_idx, devices.size() - 1);
    const CudaDevice& device = devices[static_cast<size_t>(device_idx)];
    require(device.compute_capability == 90, "device cuda:{} ({}): compute capability {}, these kernels are for 90 (Hopper)", device_idx,
            device.name, device.compute_capability);
    check(cudaSetDevice(device_idx), "cudaSetDevice");
    check(cudaStreamCreateWithFlags(&context_.stream, cudaStreamNonBlocking), "cudaStreamCreate");
    context_.num_sms = device.num_multiprocessors;
    check(cudaMalloc(reinterpret_cast<void**>(&context_.arrivals), cuda::kNumArrivals * sizeof(uint32_t)), "cudaMalloc");
    check(cudaMemsetAsync(context_.arrivals, 0, cuda::kNumArrivals * sizeof(uint32_t), context_.stream), "cudaMemsetAsync");
    loader_.emplace(device_idx, device.num_multiprocessors);
  }
  ~CudaBackend() override {
    cudaStreamSynchronize(context_.stream);
    cudaFree(context_.arrivals);
    cudaStreamDestroy(context_.stream);
  }
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  const char* name() const override { return "cuda"; }

  void* allocate(size_t bytes) override {
    if (bytes == 0) return nullptr;
    void* memory = nullptr;
    ++counters_.allocations;
    const cudaError_t status = cudaMalloc(&memory, bytes);
    if (status != cudaSuccess) {
      cudaGetLastError();
      fail("cannot allocate {} bytes on the GPU: {}", bytes, cudaGetErrorString(status));
    }
    check(cudaMemsetAsync(memory, 0, bytes, context_.stream), "cudaMemsetAsync");
    return memory;
  }
  void deallocate(void* memory, size_t) override {
    cudaStreamSynchronize(context_.stream);
    cudaFree(memory);
  }

  const void* import_weight(const void* weight, size_t bytes) override { return loader_->import_array(weight, bytes); }
  Fp8Weight import_fp8(const Fp8Weight& weight) override { return import_codes(WeightLayout::kFp8Tile, weight); }
  Bf16Weight import_bf16(const Bf16Weight& weight) override {
    const uint8_t* tiles = loader_->import_matrix(WeightLayout::kBf16Tile, weight.data, nullptr, weight.rows, weight.cols);
    return {reinterpret_cast<const Bf16*>(tiles), weight.rows, weight.cols};
  }
  // FP4 tiles hold their scales.
  ExpertMatrix import_expert(const ExpertMatrix& weight, ExpertFormat format, int rows, int cols) override {
    if (format == ExpertFormat::kFp4) {
      return {loader_->import_matrix(WeightLayout::kFp4Tile, weight.codes, weight.scales, rows, cols), nullptr};
    }
    const Fp8Weight imported = import_fp8({weight.codes, weight.scales, rows, cols});
    return {imported.codes, imported.scales};
  }
  void finish_imports() override { loader_->finish(); }
  void cancel_imports() override { loader_->cancel(); }
  void set_import_progress(std::function<void(int64_t)> progress) override { loader_->set_progress(std::move(progress)); }

  const Bf16* random_table(int rows, int cols, double deviation, uint64_t seed) override {
    const size_t bytes = static_cast<size_t>(rows) * static_cast<size_t>(cols) * sizeof(Bf16);
    return reinterpret_cast<const Bf16*>(random_array(bytes, random_bf16_values(deviation), seed));
  }
  Fp8Weight random_fp8(int rows, int cols, uint64_t seed) override { return random_codes(WeightLayout::kFp8Tile, rows, cols, seed); }
  Bf16Weight random_bf16(int rows, int cols, uint64_t seed) override {
    const auto bytes = static_cast<size_t>(packed_bytes(WeightLayout::kBf16Tile, rows, cols));
    const RandomWords values = random_bf16_values(1.0 / std::sqrt(static_cast<double>(cols)));
    return {reinterpret_cast<const Bf16*>(random_array(bytes, values, seed)), rows, cols};
  }
  ExpertMatrix random_expert(ExpertFormat format, int rows, int cols, uint64_t seed) override {
    if (format == ExpertFormat::kFp8) {
      const Fp8Weight weight = random_fp8(rows, cols, seed);
      return {weight.codes, weight.scales};
    }
    const int64_t count = cuda::num_tiles(WeightLayout::kFp4Tile, rows, cols);
    uint8_t* tiles = loader_->arena().allocate(static_cast<size_t>(count) * cuda::kFp4TileBytes);
    cuda::fill_random_fp4_tiles(context_, tiles, count, random_scales(cols, kRandomFp4Deviation), seed);
    return {tiles, nullptr};
  }

  size_t free_memory() const override { return free_device_memory(); }

  void copy_from_host(void* destination, const void* source, size_t bytes) override {
    check(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyHostToDevice, context_.stream), "cudaMemcpyAsync");
    counters_.uploaded_bytes += static_cast<int64_t>(bytes);
  }
  void copy_to_host(void* destination, const void* source, size_t bytes) override {
    copy_to_host_async(destination, source, bytes);
    synchronize();
  }
  void synchronize() override {
    check(cudaStreamSynchronize(context_.stream), "cudaStreamSynchronize");
    ++counters_.synchronizations;
  }

  void* allocate_host(size_t bytes) override {
    if (bytes == 0) return nullptr;
    void* memory = nullptr;
    ++counters_.allocations;
    const cudaError_t status = cudaMallocHost(&memory, bytes);
    if (status != cudaSuccess) {
      cudaGetLastError();
      fail("cannot allocate {} bytes of pinned host memory: {}", bytes, cudaGetErrorString(status));
    }
    std::memset(memory, 0, bytes);
    return memory;
  }
  void deallocate_host(void* memory, size_t) override {
    cudaStreamSynchronize(context_.stream);
    cudaFreeHost(memory);
  }
  // From pinned memory the same call does not wait for the copy.
  void copy_from_host_async(void* destination, const void* source, size_t bytes) override { copy_from_host(destination, source, bytes); }
  void copy_to_host_async(void* destination, const void* source, size_t bytes) override {
    check(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDeviceToHost, context_.stream), "cudaMemcpyAsync");
    if (!capturing_) counters_.downloaded_bytes += static_cast<int64_t>(bytes);
  }
  std::unique_ptr<Marker> make_marker() override { return std::make_unique<EventMarker>(context_.stream, counters_); }
  StepCounters counters() const override {
    StepCounters counters = counters_;
    counters.kernel_launches = context_.launches.total() - num_captured_;
    return counters;
  }

  // The ops run once launch by launch, which also loads their kernels: that must not happen while a graph is being captured.
  std::unique_ptr<Recording> record(const std::function<void()>& ops) override {
    ops();
    const int64_t num_launched = context_.launches.total();
    check(cudaStreamBeginCapture(context_.stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    capturing_ = true;
    cudaGraph_t graph = nullptr;
    std::exception_ptr error;
    try {
      ops();
    } catch (...) {
      error = std::current_exception();
    }
    capturing_ = false;
    num_captured_ += context_.launches.total() - num_launched;
    const cudaError_t status = cudaStreamEndCapture(context_.stream, &graph);
    if (error != nullptr) {
      cudaGetLastError();
      if (graph != nullptr) cudaGraphDestroy(graph);
      std::rethrow_exception(error);
    }
    check(status, "cudaStreamEndCapture");
    const std::unique_ptr<CUgraph_st, decltype(&cudaGraphDestroy)> owner(graph, &cudaGraphDestroy);
    return std::make_unique<GraphRecording>(graph, context_.stream, counters_);
  }

  std::vector<ProfiledLaunch> profile(const std::function<void()>& ops) override { return cuda::profile_launches(context_, ops); }
  double measure_copy_rate() override { return cuda::measure_copy_rate(context_.stream); }

  void advance(const AdvanceParams& params) override { cuda::advance(context_, params); }
  void embed(const EmbedParams& params) override { cuda::embed(context_, params); }
  void gather_rows(const GatherRowsParams& params) override { cuda::gather_rows(context_, params); }
  void rms_norm(const RmsNormParams& params) override { cuda::rms_norm(context_, params); }
  void quantize(const QuantizeParams& params) override { cuda::quantize(context_, params); }
  void linear_fp8(const LinearFp8Params& params) override { cuda::linear_fp8(context_, params); }
  void linear_bf16(const LinearBf16Params& params) override { cuda::linear_bf16(context_, params); }
  void linear_fp32(const LinearFp32Params& params) override { cuda::linear_fp32(context_, params); }
  void grouped_linear(const GroupedLinearParams& params) override { cuda::grouped_linear(context_, params); }
  void mhc_pre(const MhcPreParams& params) override { cuda::mhc_pre(context_, params); }
  void mhc_post(const MhcPostParams& params) override { cuda::mhc_post(context_, params); }
  void mhc_head(const MhcHeadParams& params) override { cuda::mhc_head(context_, params); }
  void query_norm(const QueryNormParams& params) override { cuda::query_norm(context_, params); }
  void kv_store(const KvStoreParams& params) override { cuda::kv_store(context_, params); }
  void compress(const CompressParams& params) override { cuda::compress(context_, params); }
  void indexer_query(const IndexerQueryParams& params) override { cuda::indexer_query(context_, params); }
  void index_scores(const IndexScoresParams& params) override { cuda::index_scores(context_, params); }
  void topk(const TopkParams& params) override { cuda::topk(context_, params); }
  void attention(const AttentionParams& params) override { cuda::attention(context_, params); }
  void router(const RouterParams& params) override { cuda::router(context_, params); }
  void experts(const ExpertsParams& params) override { cuda::experts(context_, params); }
  void shared_expert(const SharedExpertParams& params) override { cuda::shared_expert(context_, params); }
  void combine(const CombineParams& params) override { cuda::combine(context_, params); }
  void mtp_join(const MtpJoinParams& params) override { cuda::mtp_join(context_, params); }
  void sample(const SampleParams& params) override { cuda::sample(context_, params); }

  void boundary(const BoundaryParams& params) override { cuda::boundary(context_, params); }
  void linear_group(const LinearGroupParams& params) override { cuda::linear_group(context_, params); }
  void norm_quantize(const NormQuantizeParams& params) override { cuda::norm_quantize(context_, params); }
  void head_norm(const HeadNormParams& params) override { cuda::head_norm(context_, params); }
  void compress_group(const CompressGroupParams& params) override { cuda::compress_group(context_, params); }
  void moe(const MoeParams& params) override { cuda::moe(context_, params); }

 private:
  static size_t scale_bytes(int rows, int cols) {
    return static_cast<size_t>(ceil_div(rows, kFp8Block)) * static_cast<size_t>(ceil_div(cols, kFp8Block));
  }

  Fp8Weight import_codes(WeightLayout layout, const Fp8Weight& weight) {
    const uint8_t* tiles = loader_->import_matrix(layout, weight.codes, nullptr, weight.rows, weight.cols);
    return {tiles, loader_->import_array(weight.scales, scale_bytes(weight.rows, weight.cols)), weight.rows, weight.cols};
  }

  // Tiles of random bytes are random tiles: no repacking.
  Fp8Weight random_codes(WeightLayout layout, int rows, int cols, uint64_t seed) {
    const uint8_t* tiles = random_array(static_cast<size_t>(packed_bytes(layout, rows, cols)), kRandomFp8Codes, seed);
    return {tiles, random_array(scale_bytes(rows, cols), random_scales(cols, kRandomFp8Deviation), ~seed), rows, cols};
  }
  const uint8_t* random_array(size_t bytes, RandomWords words, uint64_t seed) {
    uint8_t* memory = loader_->arena().allocate(bytes);
    cuda::fill_random(context_, memory, static_cast<int64_t>(cuda::arena_bytes(bytes)), words, seed);
    return memory;
  }

  cuda::Context context_;
  StepCounters counters_;     // kernel_launches are counted by the context
  int64_t num_captured_ = 0;  // launches that went into recordings
  bool capturing_ = false;
  std::optional<cuda::Loader> loader_;  // made once the device is known
};

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(int device_idx) {
  return std::make_unique<CudaBackend>(device_idx);
}

}  // namespace dsv4
