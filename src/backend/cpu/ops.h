// The CPU ops, one per file of the same name: plain fp32 loops with OpenMP, the reference's rounding points, results independent of how a
// step is cut and of the number of threads. Contracts: src/ops/<op>.h.
#pragma once

#include "ops/backend.h"

namespace dsv4::cpu {

void advance(const AdvanceParams& params);
void embed(const EmbedParams& params);
void gather_rows(const GatherRowsParams& params);
void rms_norm(const RmsNormParams& params);
void quantize(const QuantizeParams& params);
void linear_fp8(const LinearFp8Params& params);
void linear_bf16(const LinearBf16Params& params);
void linear_fp32(const LinearFp32Params& params);
void grouped_linear(const GroupedLinearParams& params);
void mhc_pre(const MhcPreParams& params);
void mhc_post(const MhcPostParams& params);
void mhc_head(const MhcHeadParams& params);
void query_norm(const QueryNormParams& params);
void kv_store(const KvStoreParams& params);
void compress(const CompressParams& params);
void indexer_query(const IndexerQueryParams& params);
void index_scores(const IndexScoresParams& params);
void topk(const TopkParams& params);
void attention(const AttentionParams& params);
void router(const RouterParams& params);
void experts(const ExpertsParams& params);
void shared_expert(const SharedExpertParams& params);
void combine(const CombineParams& params);
void mtp_join(const MtpJoinParams& params);
void sample(const SampleParams& params);

}  // namespace dsv4::cpu
