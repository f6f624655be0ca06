// The params that src/capi/kernels.cpp fills, seen by functions that stand in for those of src/runtime/kernels.cpp.
#include "runtime/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "base/error.h"
#include "dsv4/kernels.h"

namespace {

struct Calls {
  void* stream = nullptr;
  std::optional<dsv4::AttentionParams> attention;
  std::optional<dsv4::KvStoreParams> kv_store;
  std::optional<dsv4::CompressParams> compress;
  bool fails = false;
};

// The stream of a call is the place where it is recorded.
Calls& calls_of(void* stream) {
  Calls& calls = *static_cast<Calls*>(stream);
  calls.stream = stream;
  dsv4::require(!calls.fails, "launch: refused");
  return calls;
}

}  // namespace

namespace dsv4 {

void run_attention(void* stream, const AttentionParams& params) {
  calls_of(stream).attention = params;
}
void run_kv_store(void* stream, const KvStoreParams& params) {
  calls_of(stream).kv_store = params;
}
void run_compress(void* stream, const CompressParams& params) {
  calls_of(stream).compress = params;
}

namespace {

// Addresses that differ in every field.
template <typename T>
T* at(uintptr_t number) {
  return reinterpret_cast<T*>(number * 0x1000);
}

dsv4_batch make_batch() {
  dsv4_batch batch{};
  batch.struct_size = sizeof batch;
  batch.positions = at<int32_t>(101);
  batch.seq_idx = at<int32_t>(102);
  batch.row_begin = at<int32_t>(103);
  batch.slots = at<int32_t>(104);
  batch.page_table = at<int32_t>(105);
  batch.page_table_stride = 106;
  batch.num_tokens = 50;
  batch.num_seqs = 11;
  batch.max_new_tokens = 7;
  return batch;
}

void expect_batch(const BatchView& view, bool page_table) {
  EXPECT_EQ(view.positions, at<int32_t>(101));
  EXPECT_EQ(view.seq_idx, at<int32_t>(102));
  EXPECT_EQ(view.row_begin, at<int32_t>(103));
  EXPECT_EQ(view.slots, at<int32_t>(104));
  EXPECT_EQ(view.page_table, page_table ? at<int32_t>(105) : nullptr);
  EXPECT_EQ(view.page_table_stride, page_table ? 106 : 0);
  EXPECT_EQ(view.num_tokens, 50);
  EXPECT_EQ(view.num_seqs, 11);
}

dsv4_attention_args make_attention(const dsv4_batch& batch) {
  dsv4_attention_args args{};
  args.struct_size = sizeof args;
  args.batch = &batch;
  args.q = at<void>(1);
  args.ring = at<void>(2);
  args.entries = at<void>(3);
  args.selected = at<int32_t>(4);
  args.key_counts = at<int32_t>(5);
  args.sink = at<float>(6);
  args.freqs = at<float>(7);
  args.out = at<void>(8);
  args.out_scales = at<uint8_t>(9);
  args.lse = at<float>(10);
  args.workspace = at<void>(11);
  args.workspace_bytes = 1000000000;
  args.num_heads = 20;
  args.head_dim = 256;
  args.window = 21;
  args.ring_size = 40;
  args.entries_per_page = 22;
  args.ratio = 23;
  args.num_selected = 24;
  args.output = DSV4_ATTENTION_FP4;
  args.softmax_scale = 0.75f;
  return args;
}

TEST(CKernelParams, Attention) {
  const dsv4_batch batch = make_batch();
  const dsv4_attention_args args = make_attention(batch);
  Calls calls;
  ASSERT_EQ(dsv4_attention(&args, &calls, nullptr, 0), DSV4_OK);
  ASSERT_TRUE(calls.attention.has_value());
  const AttentionParams& params = *calls.attention;
  expect_batch(params.batch, true);
  EXPECT_EQ(params.q, at<const Bf16>(1));
  EXPECT_EQ(params.ring.data, at<uint8_t>(2));
  EXPECT_EQ(params.ring.ring_size, 40);
  EXPECT_EQ(params.entries.data, at<uint8_t>(3));
  EXPECT_EQ(params.entries.entries_per_page, 22);
  EXPECT_EQ(params.selected, at<int32_t>(4));
  EXPECT_EQ(params.key_counts, at<int32_t>(5));
  EXPECT_EQ(params.sink, at<float>(6));
  EXPECT_EQ(params.freqs, at<float>(7));
  EXPECT_EQ(params.out, at<void>(8));
  EXPECT_EQ(params.out_scales, at<uint8_t>(9));
  EXPECT_EQ(params.lse, at<float>(10));
  EXPECT_EQ(params.scratch, at<void>(11));
  EXPECT_EQ(params.scratch_bytes, 1000000000);
  EXPECT_EQ(params.num_heads, 20);
  EXPECT_EQ(params.head_dim, 256);
  EXPECT_EQ(params.window, 21);
  EXPECT_EQ(params.ratio, 23);
  EXPECT_EQ(params.num_selected, 24);
  EXPECT_EQ(params.output, AttentionOutput::kFp4);
  EXPECT_EQ(params.softmax_scale, 0.75f);
}

TEST(CKernelParams, AttentionToTheWindowAlone) {
  const dsv4_batch batch = make_batch();
  dsv4_attention_args args = make_attention(batch);
  args.entries = nullptr;
  args.selected = nullptr;
  args.num_selected = 0;
  args.softmax_scale = 0.0f;
  Calls calls;
  ASSERT_EQ(dsv4_attention(&args, &calls, nullptr, 0), DSV4_OK);
  ASSERT_TRUE(calls.attention.has_value());
  expect_batch(calls.attention->batch, false);
  EXPECT_EQ(calls.attention->entries.data, nullptr);
  EXPECT_EQ(calls.attention->softmax_scale, 0.0625f);
}

TEST(CKernelParams, KvStore) {
  const dsv4_batch batch = make_batch();
  dsv4_kv_store_args args{};
  args.struct_size = sizeof args;
  args.batch = &batch;
  args.kv = at<void>(1);
  args.weight = at<void>(2);
  args.freqs = at<float>(3);
  args.ring = at<void>(4);
  args.head_dim = 128;
  args.ring_size = 12;
  args.eps = 0.5f;
  Calls calls;
  ASSERT_EQ(dsv4_kv_store(&args, &calls, nullptr, 0), DSV4_OK);
  ASSERT_TRUE(calls.kv_store.has_value());
  const KvStoreParams& params = *calls.kv_store;
  expect_batch(params.batch, false);
  EXPECT_EQ(params.kv, at<const Bf16>(1));
  EXPECT_EQ(params.weight, at<const Bf16>(2));
  EXPECT_EQ(params.freqs, at<float>(3));
  EXPECT_EQ(params.ring.data, at<uint8_t>(4));
  EXPECT_EQ(params.ring.ring_size, 12);
  EXPECT_EQ(params.head_dim, 128);
  EXPECT_EQ(params.eps, 0.5f);
}

TEST(CKernelParams, Compress) {
  const dsv4_batch batch = make_batch();
  dsv4_compress_args args{};
  args.struct_size = sizeof args;
  args.batch = &batch;
  args.kv = at<float>(1);
  args.gate = at<float>(2);
  args.ape = at<float>(3);
  args.weight = at<void>(4);
  args.freqs = at<float>(5);
  args.state = at<float>(6);
  args.entries = at<void>(7);
  args.entries_per_page = 2;
  args.format = DSV4_ENTRY_INDEX;
  args.ratio = 128;
  args.dim = 64;
  args.state_tokens = 136;
  args.eps = 0.25f;
  Calls calls;
  ASSERT_EQ(dsv4_compress(&args, &calls, nullptr, 0), DSV4_OK);
  ASSERT_TRUE(calls.compress.has_value());
  const CompressParams& params = *calls.compress;
  expect_batch(params.batch, true);
  EXPECT_EQ(params.kv, at<float>(1));
  EXPECT_EQ(params.gate, at<float>(2));
  EXPECT_EQ(params.ape, at<float>(3));
  EXPECT_EQ(params.weight, at<const Bf16>(4));
  EXPECT_EQ(params.freqs, at<float>(5));
  EXPECT_EQ(params.state, at<float>(6));
  EXPECT_EQ(params.entries.data, at<uint8_t>(7));
  EXPECT_EQ(params.entries.entries_per_page, 2);
  EXPECT_EQ(params.format, EntryFormat::kFp4Hadamard);
  EXPECT_EQ(params.ratio, 128);
  EXPECT_EQ(params.dim, 64);
  EXPECT_EQ(params.state_tokens, 136);
  EXPECT_EQ(params.eps, 0.25f);
}

TEST(CKernelParams, WhatTheDeviceRefusesIsAnErrorOfTheDevice) {
  const dsv4_batch batch = make_batch();
  const dsv4_attention_args args = make_attention(batch);
  Calls calls;
  calls.fails = true;
  char message[64];
  EXPECT_EQ(dsv4_attention(&args, &calls, message, sizeof message), DSV4_ERROR_DEVICE);
  EXPECT_STREQ(message, "launch: refused");
}

TEST(CKernelParams, NothingRunsWithoutRowsOrAfterAnError) {
  dsv4_batch batch = make_batch();
  dsv4_attention_args args = make_attention(batch);
  Calls calls;
  batch.num_tokens = 0;
  EXPECT_EQ(dsv4_attention(&args, &calls, nullptr, 0), DSV4_OK);
  batch = make_batch();
  args.out = nullptr;
  EXPECT_EQ(dsv4_attention(&args, &calls, nullptr, 0), DSV4_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(calls.stream, nullptr);
}

}  // namespace
}  // namespace dsv4
