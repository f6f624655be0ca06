// The CUDA ops: the contracts of src/ops/<op>.h and ops/groups.h, on device memory. Each launches on the context's stream; none
// synchronises or allocates.
#pragma once

#include "backend/cuda/runtime/launch.h"
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

namespace dsv4::cuda {

void advance(Context& context, const AdvanceParams& params);
void embed(Context& context, const EmbedParams& params);
void gather_rows(Context& context, const GatherRowsParams& params);
void rms_norm(Context& context, const RmsNormParams& params);
void quantize(Context& context, const QuantizeParams& params);
void linear_fp8(Context& context, const LinearFp8Params& params);
void linear_bf16(Context& context, const LinearBf16Params& params);
void linear_fp32(Context& context, const LinearFp32Params& params);
void grouped_linear(Context& context, const GroupedLinearParams& params);
void mhc_pre(Context& context, const MhcPreParams& params);
void mhc_post(Context& context, const MhcPostParams& params);
void mhc_head(Context& context, const MhcHeadParams& params);
void query_norm(Context& context, const QueryNormParams& params);
void kv_store(Context& context, const KvStoreParams& params);
void compress(Context& context, const CompressParams& params);
void indexer_query(Context& context, const IndexerQueryParams& params);
void index_scores(Context& context, const IndexScoresParams& params);
void topk(Context& context, const TopkParams& params);
void attention(Context& context, const AttentionParams& params);
void router(Context& context, const RouterParams& params);
void experts(Context& context, const ExpertsParams& params);
void shared_expert(Context& context, const SharedExpertParams& params);
void combine(Context& context, const CombineParams& params);
void mtp_join(Context& context, const MtpJoinParams& params);
void sample(Context& context, const SampleParams& params);

void boundary(Context& context, const BoundaryParams& params);
void linear_group(Context& context, const LinearGroupParams& params);
void norm_quantize(Context& context, const NormQuantizeParams& params);
void head_norm(Context& context, const HeadNormParams& params);
void compress_group(Context& context, const CompressGroupParams& params);
void moe(Context& context, const MoeParams& params);

}  // namespace dsv4::cuda
