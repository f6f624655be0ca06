// The C interface of kernels as a program outside the project sees it: what it refuses, without a GPU. Results on a GPU are checked by
// examples/attention.c and tools/check_attention.py.
#include "dsv4/kernels.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>

namespace {

// An address that nobody may read: the checks look at pointers alone.
template <typename T>
T* fake(uintptr_t address = 0x10000) {
  return reinterpret_cast<T*>(address);
}

// One line without a newline, or "" after success. What a call says goes through a small buffer too.
template <typename Args>
std::string line_of(dsv4_status (*call)(const Args*, void*, char*, size_t), const Args& args, dsv4_status expected) {
  char message[512];
  std::memset(message, '#', sizeof message);
  EXPECT_EQ(call(&args, nullptr, message, sizeof message), expected) << message;
  const std::string line = message;
  EXPECT_EQ(line.find('\n'), std::string::npos);
  char cut[8];
  EXPECT_EQ(call(&args, nullptr, cut, sizeof cut), expected);
  EXPECT_EQ(cut, line.substr(0, sizeof cut - 1));
  EXPECT_EQ(call(&args, nullptr, nullptr, 0), expected);
  return line;
}

dsv4_batch decode_batch() {
  dsv4_batch batch{};
  batch.struct_size = sizeof batch;
  batch.positions = batch.seq_idx = batch.row_begin = batch.slots = batch.page_table = fake<const int32_t>();
  batch.page_table_stride = 16;
  batch.num_tokens = 8;
  batch.num_seqs = 8;
  batch.max_new_tokens = 1;
  return batch;
}

// Valid arguments of each call.
struct Attention {
  Attention() {
    args.struct_size = sizeof args;
    args.batch = &batch;
    args.q = args.ring = args.entries = fake<const void>();
    args.selected = fake<const int32_t>();
    args.sink = args.freqs = fake<const float>();
    args.out = fake<void>();
    args.num_heads = 64;
    args.head_dim = 512;
    args.window = 128;
    args.ring_size = 128;
    args.entries_per_page = 64;
    args.ratio = 4;
    args.num_selected = 512;
    args.workspace = fake<void>();
    args.workspace_bytes = dsv4_attention_workspace_bytes(&args);
  }
  dsv4_batch batch = decode_batch();
  dsv4_attention_args args{};
};

struct KvStore {
  KvStore() {
    args.struct_size = sizeof args;
    args.batch = &batch;
    args.kv = args.weight = fake<const void>();
    args.freqs = fake<const float>();
    args.ring = fake<void>();
    args.head_dim = 512;
    args.ring_size = 128;
    args.eps = 1e-6f;
  }
  dsv4_batch batch = decode_batch();
  dsv4_kv_store_args args{};
};

struct Compress {
  Compress() {
    args.struct_size = sizeof args;
    args.batch = &batch;
    args.kv = args.gate = args.ape = args.freqs = fake<const float>();
    args.weight = fake<const void>();
    args.state = fake<float>();
    args.entries = fake<void>();
    args.entries_per_page = 64;
    args.ratio = 4;
    args.dim = 512;
    args.state_tokens = 8;
    args.eps = 1e-6f;
  }
  dsv4_batch batch = decode_batch();
  dsv4_compress_args args{};
};

std::string attention_line(const std::function<void(dsv4_attention_args&, dsv4_batch&)>& change) {
  Attention call;
  change(call.args, call.batch);
  return line_of(dsv4_attention, call.args, DSV4_ERROR_INVALID_ARGUMENT);
}

std::string kv_store_line(const std::function<void(dsv4_kv_store_args&, dsv4_batch&)>& change) {
  KvStore call;
  change(call.args, call.batch);
  return line_of(dsv4_kv_store, call.args, DSV4_ERROR_INVALID_ARGUMENT);
}

std::string compress_line(const std::function<void(dsv4_compress_args&, dsv4_batch&)>& change) {
  Compress call;
  change(call.args, call.batch);
  return line_of(dsv4_compress, call.args, DSV4_ERROR_INVALID_ARGUMENT);
}

using AttentionArgs = dsv4_attention_args;
using Batch = dsv4_batch;

TEST(CKernels, AttentionChecksItsNumbers) {
  const auto line = [](auto change) { return attention_line([&](AttentionArgs& args, Batch&) { change(args); }); };
  const std::string name = "dsv4_attention: ";
  EXPECT_EQ(line([](auto& args) { args.num_heads = 0; }), name + "num_heads 0, expected 1 to 128");
  EXPECT_EQ(line([](auto& args) { args.num_heads = 129; }), name + "num_heads 129, expected 1 to 128");
  EXPECT_EQ(line([](auto& args) { args.head_dim = 96; }), name + "head_dim 96, expected 64, 128, 256 or 512");
  EXPECT_EQ(line([](auto& args) { args.window = 0; }), name + "window 0, expected 1 to 128");
  EXPECT_EQ(line([](auto& args) { args.window = 129; }), name + "window 129, expected 1 to 128");
  EXPECT_EQ(line([](auto& args) { args.ring_size = 0; }), name + "ring_size 0, expected 1 to 1048576");
  EXPECT_EQ(line([](auto& args) { args.ratio = 0; }), name + "ratio 0, expected 1 to 1048576");
  EXPECT_EQ(line([](auto& args) { args.entries_per_page = -1; }), name + "entries_per_page -1, expected 1 to 1048576");
  EXPECT_EQ(line([](auto& args) { args.num_selected = 0; }), name + "num_selected 0, expected 1 to 1048576");
  EXPECT_EQ(line([](auto& args) { args.selected = nullptr; }), name + "num_selected 512, but selected is NULL");
  EXPECT_EQ(line([](auto& args) { args.entries = nullptr; }), name + "a list of 512 entries, but entries is NULL");
  EXPECT_EQ(line([](auto& args) { args.output = 4; }), name + "output 4, expected 0 to 3");
  EXPECT_EQ(line([](auto& args) { args.output = -1; }), name + "output -1, expected 0 to 3");
  EXPECT_EQ(line([](auto& args) { args.softmax_scale = -1.0f; }),
            name + "softmax_scale -1, expected a positive number, or 0 for 1/√head_dim");
  EXPECT_EQ(line([](auto& args) { args.softmax_scale = std::numeric_limits<float>::infinity(); }),
            name + "softmax_scale inf, expected a positive number, or 0 for 1/√head_dim");
  EXPECT_NE(line([](auto& args) { args.softmax_scale = std::numeric_limits<float>::quiet_NaN(); }), "");
}

TEST(CKernels, AttentionChecksItsPointers) {
  const auto line = [](auto change) { return attention_line([&](AttentionArgs& args, Batch&) { change(args); }); };
  const std::string name = "dsv4_attention: ";
  EXPECT_EQ(line([](auto& args) { args.batch = nullptr; }), name + "batch is NULL");
  EXPECT_EQ(line([](auto& args) { args.q = nullptr; }), name + "q is NULL");
  EXPECT_EQ(line([](auto& args) { args.ring = nullptr; }), name + "ring is NULL");
  EXPECT_EQ(line([](auto& args) { args.sink = nullptr; }), name + "sink is NULL");
  EXPECT_EQ(line([](auto& args) { args.freqs = nullptr; }), name + "freqs is NULL");
  EXPECT_EQ(line([](auto& args) { args.out = nullptr; }), name + "out is NULL");
  EXPECT_EQ(line([](auto& args) { args.output = DSV4_ATTENTION_FP8; }), name + "out_scales is NULL");
  EXPECT_EQ(line([](auto& args) { args.output = DSV4_ATTENTION_FP4; }), name + "out_scales is NULL");
  const auto misaligned = [&](const char* field, const char* address, const char* multiple) {
    return name + field + " at address " + address + ", expected a multiple of " + multiple + " bytes";
  };
  EXPECT_EQ(line([](auto& args) { args.q = fake<const void>(0x10008); }), misaligned("q", "0x10008", "16"));
  EXPECT_EQ(line([](auto& args) { args.ring = fake<const void>(0x10004); }), misaligned("ring", "0x10004", "16"));
  EXPECT_EQ(line([](auto& args) { args.entries = fake<const void>(0x10001); }), misaligned("entries", "0x10001", "16"));
  EXPECT_EQ(line([](auto& args) { args.out = fake<void>(0x10002); }), misaligned("out", "0x10002", "16"));
  EXPECT_EQ(line([](auto& args) { args.key_counts = fake<const int32_t>(0x10004); }), misaligned("key_counts", "0x10004", "8"));
  EXPECT_EQ(line([](auto& args) { args.selected = fake<const int32_t>(0x10002); }), misaligned("selected", "0x10002", "4"));
  EXPECT_EQ(line([](auto& args) { args.lse = fake<float>(0x10002); }), misaligned("lse", "0x10002", "4"));
  EXPECT_EQ(line([](auto& args) { args.workspace = fake<void>(0x10080); }), misaligned("workspace", "0x10080", "256"));
}

TEST(CKernels, BatchesAreChecked) {
  const auto line = [](auto change) { return attention_line([&](AttentionArgs&, Batch& batch) { change(batch); }); };
  const std::string name = "dsv4_attention: ";
  EXPECT_EQ(line([](auto& batch) { batch.num_tokens = -1; }), name + "batch.num_tokens -1, expected 0 to 1048576");
  EXPECT_EQ(line([](auto& batch) { batch.num_tokens = 1 << 21; }), name + "batch.num_tokens 2097152, expected 0 to 1048576");
  EXPECT_EQ(line([](auto& batch) { batch.num_seqs = 0; }), name + "batch.num_seqs 0, expected 1 to 8");
  EXPECT_EQ(line([](auto& batch) { batch.num_seqs = 9; }), name + "batch.num_seqs 9, expected 1 to 8");
  EXPECT_EQ(line([](auto& batch) { batch.max_new_tokens = 9; }), name + "batch.max_new_tokens 9, expected 0 to 8");
  EXPECT_EQ(line([](auto& batch) { batch.max_new_tokens = 3; }),
            name + "ring_size 128 for window 128 and runs of up to 3 rows, expected at least 130");
  EXPECT_EQ(line([](auto& batch) { batch.positions = nullptr; }), name + "batch.positions is NULL");
  EXPECT_EQ(line([](auto& batch) { batch.seq_idx = nullptr; }), name + "batch.seq_idx is NULL");
  EXPECT_EQ(line([](auto& batch) { batch.slots = nullptr; }), name + "batch.slots is NULL");
  EXPECT_EQ(line([](auto& batch) { batch.row_begin = nullptr; }), name + "batch.row_begin is NULL");
  EXPECT_EQ(line([](auto& batch) { batch.page_table = nullptr; }), name + "batch.page_table is NULL");
  EXPECT_EQ(line([](auto& batch) { batch.page_table_stride = 0; }), name + "batch.page_table_stride 0, expected 1 to 2147483647");
  EXPECT_EQ(attention_line([](AttentionArgs& args, Batch& batch) {
              args.selected = nullptr;
              args.num_selected = 0;
              batch.page_table_stride = 1 << 16;
            }),
            name + "keys of a row 4194432, expected 1 to 4194176");
  EXPECT_EQ(line([](auto& batch) { batch.positions = fake<const int32_t>(0x10001); }),
            name + "batch.positions at address 0x10001, expected a multiple of 4 bytes");
}

TEST(CKernels, KvStoreChecksItsArguments) {
  const auto line = [](auto change) { return kv_store_line([&](dsv4_kv_store_args& args, Batch&) { change(args); }); };
  const std::string name = "dsv4_kv_store: ";
  EXPECT_EQ(line([](auto& args) { args.batch = nullptr; }), name + "batch is NULL");
  EXPECT_EQ(line([](auto& args) { args.kv = nullptr; }), name + "kv is NULL");
  EXPECT_EQ(line([](auto& args) { args.weight = nullptr; }), name + "weight is NULL");
  EXPECT_EQ(line([](auto& args) { args.freqs = nullptr; }), name + "freqs is NULL");
  EXPECT_EQ(line([](auto& args) { args.ring = nullptr; }), name + "ring is NULL");
  EXPECT_EQ(line([](auto& args) { args.kv = fake<const void>(0x10008); }), name + "kv at address 0x10008, expected a multiple of 16 bytes");
  EXPECT_EQ(line([](auto& args) { args.head_dim = 0; }), name + "head_dim 0, expected 64, 128, 256 or 512");
  EXPECT_EQ(line([](auto& args) { args.ring_size = 0; }), name + "ring_size 0, expected 1 to 1048576");
  EXPECT_EQ(line([](auto& args) { args.eps = -1.0f; }), name + "eps -1, expected a finite number from 0 on");
  EXPECT_EQ(kv_store_line([](dsv4_kv_store_args& args, Batch& batch) {
              args.ring_size = 4;
              batch.max_new_tokens = 5;
            }),
            name + "ring_size 4, expected 5 to 1048576");
  EXPECT_EQ(kv_store_line([](dsv4_kv_store_args&, Batch& batch) { batch.slots = nullptr; }), name + "batch.slots is NULL");
}

TEST(CKernels, CompressChecksItsArguments) {
  const auto line = [](auto change) { return compress_line([&](dsv4_compress_args& args, Batch&) { change(args); }); };
  const std::string name = "dsv4_compress: ";
  EXPECT_EQ(line([](auto& args) { args.ratio = 8; }), name + "ratio 8, expected 4 or 128");
  EXPECT_EQ(line([](auto& args) { args.format = 2; }), name + "format 2, expected 0 to 1");
  EXPECT_EQ(line([](auto& args) { args.dim = 32; }), name + "dim 32, expected 64, 128, 256 or 512");
  EXPECT_EQ(line([](auto& args) { args.format = DSV4_ENTRY_INDEX; }), name + "dim of index entries 512, expected 64 to 256");
  EXPECT_EQ(line([](auto& args) { args.state_tokens = 7; }), name + "state_tokens 7, expected 8 to 1048576");
  EXPECT_EQ(line([](auto& args) { args.ratio = 128; }), name + "state_tokens 8, expected 128 to 1048576");
  EXPECT_EQ(line([](auto& args) { args.entries_per_page = 0; }), name + "entries_per_page 0, expected 1 to 1048576");
  EXPECT_EQ(line([](auto& args) { args.kv = nullptr; }), name + "kv is NULL");
  EXPECT_EQ(line([](auto& args) { args.gate = nullptr; }), name + "gate is NULL");
  EXPECT_EQ(line([](auto& args) { args.ape = nullptr; }), name + "ape is NULL");
  EXPECT_EQ(line([](auto& args) { args.weight = nullptr; }), name + "weight is NULL");
  EXPECT_EQ(line([](auto& args) { args.freqs = nullptr; }), name + "freqs is NULL");
  EXPECT_EQ(line([](auto& args) { args.entries = nullptr; }), name + "entries is NULL");
  EXPECT_EQ(line([](auto& args) { args.state = fake<float>(0x10004); }),
            name + "state at address 0x10004, expected a multiple of 16 bytes");
  EXPECT_EQ(compress_line([](dsv4_compress_args&, Batch& batch) { batch.page_table = nullptr; }), name + "batch.page_table is NULL");
}

TEST(CKernels, StructsOfOtherVersions) {
  const auto sizes = [](size_t args_size, size_t batch_size) {
    return attention_line([&](AttentionArgs& args, Batch& batch) {
      args.struct_size = args_size;
      batch.struct_size = batch_size;
    });
  };
  const std::string largest = std::to_string(sizeof(AttentionArgs));
  EXPECT_EQ(sizes(0, sizeof(Batch)),
            "dsv4_attention_args: struct_size 0, expected at most " + largest + ": set it to sizeof(dsv4_attention_args)");
  EXPECT_EQ(sizes(sizeof(AttentionArgs) + 8, sizeof(Batch)), "dsv4_attention_args: struct_size " +
                                                                 std::to_string(sizeof(AttentionArgs) + 8) + ", expected at most " +
                                                                 largest + ": set it to sizeof(dsv4_attention_args)");
  EXPECT_EQ(sizes(sizeof(AttentionArgs), 4),
            "dsv4_batch: struct_size 4, expected at most " + std::to_string(sizeof(Batch)) + ": set it to sizeof(dsv4_batch)");
  // A field that the caller's struct does not have is 0, whatever stands there.
  EXPECT_EQ(sizes(offsetof(AttentionArgs, num_heads), sizeof(Batch)), "dsv4_attention: num_heads 0, expected 1 to 128");
  EXPECT_EQ(sizes(sizeof(AttentionArgs), offsetof(Batch, num_seqs)), "dsv4_attention: batch.num_seqs 0, expected 1 to 8");
  char message[64];
  EXPECT_EQ(dsv4_attention(nullptr, nullptr, message, sizeof message), DSV4_ERROR_INVALID_ARGUMENT);
  EXPECT_STREQ(message, "dsv4_attention: args is NULL");
}

TEST(CKernels, StepsWithoutRowsDoNothing) {
  Attention attention;
  KvStore kv_store;
  Compress compress;
  attention.batch = kv_store.batch = compress.batch = dsv4_batch{};
  attention.batch.struct_size = kv_store.batch.struct_size = compress.batch.struct_size = sizeof(dsv4_batch);
  attention.args.q = kv_store.args.kv = nullptr;
  compress.args.kv = nullptr;
  EXPECT_EQ(line_of(dsv4_attention, attention.args, DSV4_OK), "");
  EXPECT_EQ(line_of(dsv4_kv_store, kv_store.args, DSV4_OK), "");
  EXPECT_EQ(line_of(dsv4_compress, compress.args, DSV4_OK), "");
  // Numbers of the model count all the same.
  attention.args.head_dim = 500;
  EXPECT_EQ(line_of(dsv4_attention, attention.args, DSV4_ERROR_INVALID_ARGUMENT),
            "dsv4_attention: head_dim 500, expected 64, 128, 256 or 512");
}

TEST(CKernels, WorkspaceAndPageBytes) {
  Attention attention;
  EXPECT_EQ(dsv4_attention_workspace_bytes(&attention.args), 138952704u);
  attention.batch.num_tokens = 9;
  EXPECT_EQ(dsv4_attention_workspace_bytes(&attention.args), size_t{144} << 20);
  attention.batch.num_tokens = attention.batch.num_seqs = 0;
  EXPECT_EQ(dsv4_attention_workspace_bytes(&attention.args), 0u);
  attention.args.batch = nullptr;
  EXPECT_EQ(dsv4_attention_workspace_bytes(&attention.args), 0u);
  EXPECT_EQ(dsv4_attention_workspace_bytes(nullptr), 0u);
  EXPECT_EQ(dsv4_kv_page_bytes(512, 64), 37440u);
  EXPECT_EQ(dsv4_kv_page_bytes(512, 2), 1728u);
  EXPECT_EQ(dsv4_kv_page_bytes(512, 128), (128u * 584 + 575) / 576 * 576);
  EXPECT_EQ(dsv4_kv_page_bytes(64, 3), 384u);
  EXPECT_EQ(dsv4_kv_page_bytes(96, 64), 0u);
  EXPECT_EQ(dsv4_kv_page_bytes(512, 0), 0u);
  EXPECT_EQ(dsv4_index_page_bytes(128, 64), 4352u);
  EXPECT_EQ(dsv4_index_page_bytes(512, 64), 0u);
  EXPECT_EQ(dsv4_index_page_bytes(128, -5), 0u);
}

#ifndef DSV4_WITH_CUDA
TEST(CKernels, WithoutCudaTheySaySo) {
  const std::string text = ": this library was built without CUDA (preset cuda builds it where nvcc is found)";
  Attention attention;
  EXPECT_EQ(line_of(dsv4_attention, attention.args, DSV4_ERROR_DEVICE), "attention" + text);
  // Everything that may be left out.
  attention.args.entries = nullptr;
  attention.args.selected = nullptr;
  attention.args.num_selected = 0;
  attention.args.ratio = attention.args.entries_per_page = 0;
  attention.batch.page_table = nullptr;
  attention.batch.page_table_stride = 0;
  EXPECT_EQ(line_of(dsv4_attention, attention.args, DSV4_ERROR_DEVICE), "attention" + text);
  KvStore kv_store;
  kv_store.batch.row_begin = kv_store.batch.page_table = nullptr;
  EXPECT_EQ(line_of(dsv4_kv_store, kv_store.args, DSV4_ERROR_DEVICE), "kv_store" + text);
  const Compress compress;
  EXPECT_EQ(line_of(dsv4_compress, compress.args, DSV4_ERROR_DEVICE), "compress" + text);
}
#endif

}  // namespace
