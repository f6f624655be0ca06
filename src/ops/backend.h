// The set of ops a device offers, and its memory. The model talks to this interface alone; src/backend implements it.
#pragma once

#include <cstddef>
#include <memory>

#include "ops/attention.h"
#include "ops/combine.h"
#include "ops/compress.h"
#include "ops/embed.h"
#include "ops/experts.h"
#include "ops/gather_rows.h"
#include "ops/grouped_linear.h"
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

// Pointers in params are the backend's own memory. Ops run in the order of the calls; on a device they may be asynchronous until
// synchronize().
class Backend {
 public:
  virtual ~Backend() = default;

  virtual const char* name() const = 0;

  // Zero-filled memory, at least 256-byte aligned; on the CPU pages are committed as they are touched. Throws Error when there is none.
  virtual void* allocate(size_t bytes) = 0;
  virtual void deallocate(void* memory, size_t bytes) = 0;
  // Makes a weight usable by the ops for the life of the backend; host backends return `weight` itself, so its owner must outlive them.
  virtual const void* import_weight(const void* weight, size_t bytes) = 0;
  virtual void copy_from_host(void* destination, const void* source, size_t bytes) = 0;
  virtual void copy_to_host(void* destination, const void* source, size_t bytes) = 0;
  virtual void synchronize() = 0;

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
};

}  // namespace dsv4
