#include "backend/cuda/tune/linear.h"

namespace dsv4::cuda {
namespace {

constexpr int kMaxSplits = 8;           // the largest portable cluster
constexpr int kMinBlocksPerSplit = 2;   // fewer leave the pipeline empty
constexpr int kMaxBlocksPerSplit = 64;  // what a CTA has room for scales of

int tile_tokens(int num_tokens) {
  if (num_tokens <= 8) return 8;
  if (num_tokens <= 32) return 32;
  return num_tokens <= 64 ? 64 : 128;
}

}  // namespace

LinearTune tune_linear(int num_row_tiles, int max_blocks, int num_tokens, int num_sms) {
  int splits = 1;
  // Few rows: more CTAs along K, until nine tenths of the multiprocessors have one.
  while (splits < kMaxSplits && num_row_tiles * splits * 10 < num_sms * 9 && max_blocks >= 2 * splits * kMinBlocksPerSplit) splits *= 2;
  while (splits < kMaxSplits && max_blocks > splits * kMaxBlocksPerSplit) splits *= 2;
  return {tile_tokens(num_tokens), splits};
}

int tune_expert_tokens(int num_pairs, int num_experts) {
  // A second tile of an expert reads its weights again (from the L2); a half-empty tile wastes tensor cores: twice the average fits.
  return tile_tokens(2 * num_pairs / (num_experts > 0 ? num_experts : 1));
}

}  // namespace dsv4::cuda
