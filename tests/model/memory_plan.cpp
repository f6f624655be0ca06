#include "model/memory_plan.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "support/checkpoint_writer.h"
#include "support/error_of.h"

namespace dsv4 {
namespace {

using test::error_of;
using test::small_config;

struct Planned {
  ModelConfig config;
  std::vector<TensorSpec> specs;

  MemoryPlan plan(const MemoryRequest& request) const { return plan_memory(config, specs, request); }
  std::string error(const MemoryRequest& request) const {
    return error_of([&] { plan_memory(config, specs, request); });
  }
};

Planned shipped(const std::string& name, bool with_mtp = true) {
  const ModelConfig config = load_config(std::filesystem::path(DSV4_SOURCE_DIR) / "models/configs" / name);
  return {config, tensor_specs(config, with_mtp)};
}

Planned small(std::span<const int> num_experts = {}) {
  return {small_config(), tensor_specs(small_config(), true, num_experts)};
}

TEST(MemoryPlan, WeightsOnOneGpuAreAllWeights) {
  EXPECT_EQ(shipped("flash.json").plan({}).weights(), 159'609'485'896);
  EXPECT_EQ(shipped("flash.json", false).plan({}).weights(), 156'015'698'140);
  EXPECT_EQ(shipped("pro.json").plan({}).weights(), 864'704'792'696);
}

// Spec 2.13: heads, wo_a groups, vocabulary, indexer heads and routed experts are divided, the rest is on every GPU.
TEST(MemoryPlan, FlashOnEightGpus) {
  const int64_t num_blocks = 44;
  const int64_t num_csa = 21;
  const int64_t attention = (32768 * 1024 + 256 * 8) + (8192 * 4096 + 64 * 32) + (4096 * 8192 + 32 * 64) + 64 * 4;
  const int64_t indexer = (8192 * 1024 + 64 * 8) + 64 * 4096 * 2;
  const int64_t tables = int64_t{2} * 129280 * 4096 * 2;
  const int64_t experts = 147'169'738'752 + 3'422'552'064;
  const int64_t split = num_blocks * attention + num_csa * indexer + tables + experts;
  const MemoryPlan plan = shipped("flash.json").plan({.num_gpus = 8});
  EXPECT_EQ(plan.split_weights * 8, split);
  EXPECT_EQ(plan.replicated_weights, 159'609'485'896 - split);
}

// Pages of 256 positions: 64 entries per CSA layer (37,440 bytes) and 64 indexer entries (4,352), 2 entries per HCA layer (1,728);
// spec 4.2, 4.3.
TEST(MemoryPlan, FlashCachesForAMillionPositions) {
  const MemoryPlan plan = shipped("flash.json").plan({.context = 1'048'576, .max_step_tokens = 512});
  const int64_t pages = 4096;
  EXPECT_EQ(plan.main_entries, pages * (21 * 37'440 + 20 * 1'728));
  EXPECT_EQ(plan.index_entries, pages * 21 * 4'352);
  // Without the padding of pages: all layers' entries and windows of spec 4.4, less the windows.
  const int64_t padding = pages * (21 * (37'440 - 64 * 584) + 20 * (1'728 - 2 * 584));
  EXPECT_EQ(plan.main_entries + plan.index_entries - padding, 3'688'172'544 - 3'214'336);
  // A window of 128, a step of 512 and 8 tokens of reserve: 648 entries of 584 bytes, rounded up to a multiple of 576.
  EXPECT_EQ(plan.rings, 44 * 657 * 576);
  // Two fp32 rows of every kept token: 8 + 8 tokens in CSA layers (1024 channels, indexer 256), 128 + 8 in HCA layers (512 channels).
  EXPECT_EQ(plan.states, 21 * (2 * 16 * 1024 * 4 + 2 * 16 * 256 * 4) + 20 * (2 * 136 * 512 * 4));
  EXPECT_EQ(plan.kv(), plan.main_entries + plan.index_entries + plan.rings + plan.states);
}

TEST(MemoryPlan, CachesGrowByPagesAndSequences) {
  const Planned flash = shipped("flash.json");
  const MemoryPlan one = flash.plan({.context = 256});
  EXPECT_EQ(flash.plan({.context = 1}).kv(), one.kv());
  EXPECT_EQ(flash.plan({.context = 257}).main_entries, 2 * one.main_entries);
  EXPECT_EQ(flash.plan({.context = 257}).rings, one.rings);
  const MemoryPlan five = flash.plan({.context = 256, .num_seqs = 5});
  EXPECT_EQ(five.kv(), 5 * one.kv());
  EXPECT_EQ(five.weights(), one.weights());
  EXPECT_EQ(flash.plan({.num_gpus = 4, .context = 256}).kv(), one.kv());
  EXPECT_EQ(flash.plan({}).request.context, 1'048'576);
}

TEST(MemoryPlan, WorkspaceGrowsWithTheStep) {
  const Planned flash = shipped("flash.json");
  const int64_t small_step = flash.plan({.max_step_tokens = 256}).workspace;
  const int64_t large_step = flash.plan({.max_step_tokens = 2048}).workspace;
  // At least streams, queries and attention outputs of every token, and the logits.
  const int64_t per_token = 4 * 4096 * 2 + 2 * 64 * 512 * 2;
  EXPECT_GE(large_step - small_step, (2048 - 256) * per_token);
  EXPECT_GE(small_step, 256 * per_token + int64_t{16} * 129280 * 4);
  EXPECT_EQ(flash.plan({.max_logits_rows = 17}).workspace - flash.plan({.max_logits_rows = 16}).workspace, 129280 * 4 + 6 * 4096 * 2);
}

TEST(MemoryPlan, UnevenSplitsAreRefused) {
  const Planned flash = shipped("flash.json");
  EXPECT_EQ(flash.error({.num_gpus = 3}), "num_attention_heads (64) cannot be divided evenly among 3 GPUs");
  EXPECT_EQ(flash.error({.num_gpus = 16}), "o_groups (8) cannot be divided evenly among 16 GPUs");
  EXPECT_EQ(shipped("pro.json").error({.num_gpus = 16}), "");
  EXPECT_EQ(shipped("pro.json").error({.num_gpus = 32}), "o_groups (16) cannot be divided evenly among 32 GPUs");
  EXPECT_EQ(small().error({.num_gpus = 2}),
            "num_attention_heads (2) among 2 GPUs: 64 matrix rows each, expected a multiple of 128, the block of FP8 scales");
  ModelConfig config = shipped("flash.json").config;
  std::vector<int> num_experts(44, 256);
  EXPECT_EQ(split_problem(config, num_experts, 8), "");
  num_experts[7] = 250;
  EXPECT_EQ(split_problem(config, num_experts, 8), "layers.7.ffn: 250 routed experts cannot be divided evenly among 8 GPUs");
  num_experts[7] = 256;
  num_experts[43] = 250;
  EXPECT_EQ(split_problem(config, num_experts, 8), "mtp.0.ffn: 250 routed experts cannot be divided evenly among 8 GPUs");
  config.vocab_size = 129281;
  EXPECT_EQ(split_problem(config, num_experts, 8), "vocab_size (129281) cannot be divided evenly among 8 GPUs");
  config.vocab_size = 129280;
  config.index_n_heads = 12;
  EXPECT_EQ(split_problem(config, num_experts, 8), "index_n_heads (12) cannot be divided evenly among 8 GPUs");
}

TEST(MemoryPlan, RequestsOutOfRange) {
  const Planned model = small();
  EXPECT_EQ(model.error({.num_gpus = 0}), "0 GPUs, expected 1 to 1024");
  EXPECT_EQ(model.error({.gpu_memory_gib = -1}), "-1 GiB of GPU memory, expected 0 to 1000000");
  EXPECT_EQ(model.error({.context = 1025}), "a context of 1025, expected 1 to 1024 (max_position_embeddings)");
  EXPECT_EQ(model.error({.context = -1}), "a context of -1, expected 1 to 1024 (max_position_embeddings)");
  EXPECT_EQ(model.error({.num_seqs = 0}), "0 sequences, expected 1 to 16384");
  EXPECT_EQ(model.error({.max_step_tokens = 1 << 20}), "steps of 1048576 tokens, expected 1 to 65536");
  EXPECT_EQ(model.error({.max_logits_rows = 0}), "logits of 0 rows, expected 1 to 65536");
}

TEST(MemoryPlan, WithoutAMemorySizeNothingIsCompared) {
  const MemoryPlan plan = shipped("pro.json").plan({});
  EXPECT_TRUE(plan.fits());
  EXPECT_EQ(plan.available, 0);
  EXPECT_FALSE(plan_json(plan).contains("fits"));
}

// What is offered instead fits, and a little more does not.
TEST(MemoryPlan, WhatWouldFitIsTheMost) {
  const Planned flash = shipped("flash.json");
  const MemoryRequest asked = {.num_gpus = 2, .gpu_memory_gib = 100.0, .context = 1'000'000, .num_seqs = 8};
  const MemoryPlan plan = flash.plan(asked);
  ASSERT_FALSE(plan.fits());
  const auto fits = [&](auto change) {
    MemoryRequest request = asked;
    change(request);
    return flash.plan(request).fits();
  };
  ASSERT_GT(plan.max_context, 0);
  EXPECT_EQ(plan.max_context % 256, 0);
  EXPECT_TRUE(fits([&](MemoryRequest& r) { r.context = plan.max_context; }));
  EXPECT_FALSE(fits([&](MemoryRequest& r) { r.context = plan.max_context + 1; }));
  ASSERT_GT(plan.max_seqs, 0);
  EXPECT_TRUE(fits([&](MemoryRequest& r) { r.num_seqs = plan.max_seqs; }));
  EXPECT_FALSE(fits([&](MemoryRequest& r) { r.num_seqs = plan.max_seqs + 1; }));
  EXPECT_EQ(plan.min_gpus, 4);
  EXPECT_TRUE(fits([&](MemoryRequest& r) { r.num_gpus = 4; }));
  EXPECT_EQ(plan_json(plan)["would_fit"],
            (nlohmann::ordered_json{{"context", plan.max_context}, {"num_seqs", plan.max_seqs}, {"num_gpus", 4}}));
}

TEST(MemoryPlan, LinesSayWhatFits) {
  const Planned flash = shipped("flash.json");
  const MemoryPlan large = flash.plan({.gpu_memory_gib = 160.0, .context = 4096});
  EXPECT_EQ(fit_line(large), "needs " + size_text(large.needed()) + " per GPU, fits in 160.00 GiB");
  const MemoryPlan one = flash.plan({.gpu_memory_gib = 141.0, .context = 4096});
  EXPECT_TRUE(fit_line(one).ends_with(" GiB per GPU, but there are 141.00 GiB; what would fit: 2 GPUs")) << fit_line(one);
  const MemoryPlan tiny = flash.plan({.gpu_memory_gib = 1.0, .context = 4096});
  EXPECT_TRUE(fit_line(tiny).ends_with("; what would fit: nothing on GPUs of this size")) << fit_line(tiny);
  EXPECT_EQ(plan_text(one).back(), '\n');
  EXPECT_NE(plan_text(one).find("memory per GPU: 1 GPU, 1 sequence of 4,096 positions, steps of 512 tokens, with MTP\n"),
            std::string::npos);
  EXPECT_NE(plan_text(one).find(fit_line(one)), std::string::npos);
}

TEST(MemoryPlan, Figures) {
  EXPECT_EQ(grouped_digits(0), "0");
  EXPECT_EQ(grouped_digits(999), "999");
  EXPECT_EQ(grouped_digits(1000), "1,000");
  EXPECT_EQ(grouped_digits(159'609'485'896), "159,609,485,896");
  EXPECT_EQ(grouped_digits(-123), "-123");
  EXPECT_EQ(grouped_digits(-1234), "-1,234");
  EXPECT_EQ(size_text(159'609'485'896), "148.65 GiB");
  EXPECT_EQ(size_text(864'704'792'696), "805.32 GiB");
  EXPECT_EQ(size_text(0), "0 bytes");
  EXPECT_EQ(size_text(1023), "1023 bytes");
  EXPECT_EQ(size_text(1024), "1.00 KiB");
  EXPECT_EQ(size_text(3 << 19), "1.50 MiB");
  EXPECT_EQ(size_text(1 << 30), "1.00 GiB");
}

}  // namespace
}  // namespace dsv4
