// The set of ops a device offers, and its memory. The model talks to this interface alone; src/backend implements it.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "ops/advance.h"
#include "ops/attention.h"
#include "ops/combine.h"
#include "ops/compress.h"
#include "ops/embed.h"
#include "ops/experts.h"
#include "ops/gather_rows.h"
#include "ops/grouped_linear.h"
#include "ops/groups.h"
#include "ops/index_scores.h"
#include "ops/indexer_query.h"
#include "ops/kv_store.h"
#include "ops/linear_bf16.h"
#include "ops/linear_fp32.h"
#include "ops/linear_fp8.h"
#include "ops/mhc_head.h"
#include "ops/mhc_post.h"
#include "ops/mhc_pre.h"
#include "ops/mtp_join.h"
#include "ops/quantize.h"
#include "ops/query_norm.h"
#include "ops/rms_norm.h"
#include "ops/router.h"
#include "ops/sample.h"
#include "ops/shared_expert.h"
#include "ops/topk.h"

namespace dsv4 {

// Ops recorded once and run again on the same memory (a CUDA graph on a GPU).
class Recording {
 public:
  virtual ~Recording() = default;
  // Runs the recorded ops, asynchronously on a device.
  virtual void replay() = 0;
  // Kernels that one replay launches; 0 where nothing is launched.
  virtual int num_kernels() const = 0;
};

// One kernel launch of a profiled run.
struct ProfiledLaunch {
  const char* op = nullptr;
  double seconds = 0.0;
};

// A place in the order of a backend's work that the host can wait for.
class Marker {
 public:
  virtual ~Marker() = default;
  // Moves it behind everything that was asked of the backend so far. Not to be called while recording.
  virtual void set() = 0;
  // Returns once the backend is past it; at once where it was never set.
  virtual void wait() = 0;
};

// What a backend has done since it was made. Counts of what a backend does not have stay 0.
struct StepCounters {
  int64_t graph_launches = 0;    // replays of recordings
  int64_t kernel_launches = 0;   // one by one
  int64_t synchronizations = 0;  // times the host waited
  int64_t allocations = 0;       // of device and of host memory
  int64_t uploaded_bytes = 0;    // from the host
  int64_t downloaded_bytes = 0;  // to the host; a device does not count those of its recordings
};

// Pointers in params are the backend's own memory. Ops run in the order of the calls; on a device they may be asynchronous until
// synchronize(). Rows at a negative position are padding: no op touches a cache for them, and what it computes for them is unspecified but
// finite.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual const char* name() const = 0;

  // Zero-filled memory, at least 256-byte aligned; on the CPU pages are committed as they are touched. Throws Error when there is none.
  virtual void* allocate(size_t bytes) = 0;
  virtual void deallocate(void* memory, size_t bytes) = 0;
  // Bytes that can still be allocated where allocating commits memory; 0 where it does not (host memory is committed as it is touched).
  virtual size_t free_memory() const = 0;

  // Make weights usable by the ops for the life of the backend; host backends return the weight itself, so its owner must outlive them. The
  // data is there after finish_imports(), up to which the host's must stay. Matrices may come back in a layout of the backend's own, so
  // each is imported for the op that reads it:
  virtual const void* import_weight(const void* weight, size_t bytes) = 0;  // vectors, tables and the router's gate, as they are
  virtual Fp8Weight import_fp8(const Fp8Weight& weight) = 0;                // linear_fp8, grouped_linear, shared_expert
  virtual Bf16Weight import_bf16(const Bf16Weight& weight) = 0;             // linear_bf16, linear_fp32
  virtual ExpertMatrix import_expert(const ExpertMatrix& weight, ExpertFormat format, int rows, int cols) = 0;  // experts
  // Waits until every import is there. Throws Error for what went wrong in one of them.
  virtual void finish_imports() = 0;
  // Gives up imports that are not there yet; afterwards nothing reads host weights any more. Does not throw.
  virtual void cancel_imports() = 0;
  // `progress` is called from finish_imports(), some ten times a second, with the bytes that have arrived since it was set. Backends that
  // use weights in place never call it.
  virtual void set_import_progress(std::function<void(int64_t bytes_done)> progress) = 0;

  // Random weights (ops/random_weights.h) made where they lie, in the layout of the import of the same name, for the life of the backend.
  // Standard deviation: `deviation` for a table, about 1/√cols for the others.
  virtual const Bf16* random_table(int rows, int cols, double deviation, uint64_t seed) = 0;
  virtual Fp8Weight random_fp8(int rows, int cols, uint64_t seed) = 0;
  virtual Bf16Weight random_bf16(int rows, int cols, uint64_t seed) = 0;
  virtual ExpertMatrix random_expert(ExpertFormat format, int rows, int cols, uint64_t seed) = 0;

  virtual void copy_from_host(void* destination, const void* source, size_t bytes) = 0;
  virtual void copy_to_host(void* destination, const void* source, size_t bytes) = 0;
  virtual void synchronize() = 0;

  // Zero-filled host memory that a device copies from and to without a stop (pinned). Throws Error when there is none.
  virtual void* allocate_host(size_t bytes) = 0;
  virtual void deallocate_host(void* memory, size_t bytes) = 0;
  // Copies in the order of the ops; the host side is memory of allocate_host(), and must not be written, or read, before a marker behind
  // the copy was waited for. The copy to the host may be recorded.
  virtual void copy_from_host_async(void* destination, const void* source, size_t bytes) = 0;
  virtual void copy_to_host_async(void* destination, const void* source, size_t bytes) = 0;
  virtual std::unique_ptr<Marker> make_marker() = 0;
  virtual StepCounters counters() const = 0;

  // Runs `ops`, which may only call ops of this backend and copy_to_host_async(), and keeps them for replay. Their memory must stay. Where
  // they throw, nothing is kept.
  virtual std::unique_ptr<Recording> record(const std::function<void()>& ops) = 0;

  // For benchmarks. Runs `ops`, none of them in a recording, and times every launch by itself, in order: launches do not overlap then, and
  // each one's time has the cost of the timing in it. Empty where ops are no launches.
  virtual std::vector<ProfiledLaunch> profile(const std::function<void()>& ops) = 0;
  // Bytes a second that a large copy within the backend's memory reads and writes together: the ceiling of what ops can move.
  virtual double measure_copy_rate() = 0;

  virtual void advance(const AdvanceParams& params) = 0;
  virtual void embed(const EmbedParams& params) = 0;
  virtual void gather_rows(const GatherRowsParams& params) = 0;
  virtual void rms_norm(const RmsNormParams& params) = 0;
  virtual void quantize(const QuantizeParams& params) = 0;
  virtual void linear_fp8(const LinearFp8Params& params) = 0;
  virtual void linear_bf16(const LinearBf16Params& params) = 0;
  virtual void linear_fp32(const LinearFp32Params& params) = 0;
  virtual void grouped_linear(const GroupedLinearParams& params) = 0;
  virtual void mhc_pre(const MhcPreParams& params) = 0;
  virtual void mhc_post(const MhcPostParams& params) = 0;
  virtual void mhc_head(const MhcHeadParams& params) = 0;
  virtual void query_norm(const QueryNormParams& params) = 0;
  virtual void kv_store(const KvStoreParams& params) = 0;
  virtual void compress(const CompressParams& params) = 0;
  virtual void indexer_query(const IndexerQueryParams& params) = 0;
  virtual void index_scores(const IndexScoresParams& params) = 0;
  virtual void topk(const TopkParams& params) = 0;
  virtual void attention(const AttentionParams& params) = 0;
  virtual void router(const RouterParams& params) = 0;
  virtual void experts(const ExpertsParams& params) = 0;
  virtual void shared_expert(const SharedExpertParams& params) = 0;
  virtual void combine(const CombineParams& params) = 0;
  virtual void mtp_join(const MtpJoinParams& params) = 0;
  virtual void sample(const SampleParams& params) = 0;

  // Groups of ops (ops/groups.h): one after the other here, fewer launches on a device.
  virtual void boundary(const BoundaryParams& params);
  virtual void linear_group(const LinearGroupParams& params);
  virtual void norm_quantize(const NormQuantizeParams& params);
  virtual void head_norm(const HeadNormParams& params);
  virtual void compress_group(const CompressGroupParams& params);
  virtual void moe(const MoeParams& params);
};

}  // namespace dsv4
