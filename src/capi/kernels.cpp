// The C interface of single kernels: checks what the host can see, fills the op's params.
#include "dsv4/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "capi/status.h"
#include "ops/kv_layout.h"
#include "runtime/kernels.h"

namespace {

using dsv4::capi::expect;
using dsv4::capi::guarded;
using dsv4::capi::read_struct;

constexpr int32_t kMaxTokens = 1 << 20;
constexpr int32_t kMaxHeads = 128;
constexpr int32_t kMaxEntries = 1 << 20;  // of a page, of a list, of a window: far above any model, far below overflow
constexpr int32_t kMaxIndexDim = 256;
constexpr size_t kVectorBytes = 16;  // of the widest access

// Alignments that the kernels rely on beside kVectorBytes.
constexpr size_t kWorkspaceAlignment = 256;
constexpr size_t kCountsAlignment = 8;

// What the checks of one call share: its name, for their lines.
struct Checker {
  const char* call;

  void number(const char* field, int64_t value, int64_t low, int64_t high) const {
    expect(value >= low && value <= high, DSV4_ERROR_INVALID_ARGUMENT, "{}: {} {}, expected {} to {}", call, field, value, low, high);
  }
  void head_dim(const char* field, int32_t value) const {
    expect(value == 64 || value == 128 || value == 256 || value == 512, DSV4_ERROR_INVALID_ARGUMENT,
           "{}: {} {}, expected 64, 128, 256 or 512", call, field, value);
  }
  void eps(float value) const {
    expect(value >= 0.0f && std::isfinite(value), DSV4_ERROR_INVALID_ARGUMENT, "{}: eps {}, expected a finite number from 0 on", call,
           value);
  }
  // A pointer that must be there.
  void pointer(const char* field, const void* value, size_t alignment) const {
    expect(value != nullptr, DSV4_ERROR_INVALID_ARGUMENT, "{}: {} is NULL", call, field);
    aligned(field, value, alignment);
  }
  // One that may be NULL.
  void aligned(const char* field, const void* value, size_t alignment) const {
    const auto address = reinterpret_cast<uintptr_t>(value);
    expect(address % alignment == 0, DSV4_ERROR_INVALID_ARGUMENT, "{}: {} at address {:#x}, expected a multiple of {} bytes", call, field,
           address, alignment);
  }
};

// Which arrays of a batch a call reads.
struct BatchNeeds {
  bool row_begin, page_table;
};

// The batch's numbers, which count even where there are no rows.
dsv4_batch read_batch(const Checker& check, const dsv4_batch* given) {
  expect(given != nullptr, DSV4_ERROR_INVALID_ARGUMENT, "{}: batch is NULL", check.call);
  const dsv4_batch batch = read_struct(given, dsv4_batch{}, "dsv4_batch");
  check.number("batch.num_tokens", batch.num_tokens, 0, kMaxTokens);
  if (batch.num_tokens == 0) return batch;
  check.number("batch.num_seqs", batch.num_seqs, 1, batch.num_tokens);
  check.number("batch.max_new_tokens", batch.max_new_tokens, 0, batch.num_tokens);
  return batch;
}

dsv4::BatchView batch_view(const Checker& check, const dsv4_batch& batch, const BatchNeeds& needs) {
  check.pointer("batch.positions", batch.positions, alignof(int32_t));
  check.pointer("batch.seq_idx", batch.seq_idx, alignof(int32_t));
  check.pointer("batch.slots", batch.slots, alignof(int32_t));
  if (needs.row_begin) check.pointer("batch.row_begin", batch.row_begin, alignof(int32_t));
  if (needs.page_table) {
    check.pointer("batch.page_table", batch.page_table, alignof(int32_t));
    check.number("batch.page_table_stride", batch.page_table_stride, 1, INT32_MAX);
  }
  dsv4::BatchView view;
  view.num_tokens = batch.num_tokens;
  view.num_seqs = batch.num_seqs;
  view.positions = batch.positions;
  view.seq_idx = batch.seq_idx;
  view.row_begin = batch.row_begin;
  view.slots = batch.slots;
  if (needs.page_table) {
    view.page_table = batch.page_table;
    view.page_table_stride = batch.page_table_stride;
  }
  return view;
}

// The interface's constants are the op's.
static_assert(DSV4_ATTENTION_BF16 == static_cast<int>(dsv4::AttentionOutput::kBf16));
static_assert(DSV4_ATTENTION_FP32 == static_cast<int>(dsv4::AttentionOutput::kFp32));
static_assert(DSV4_ATTENTION_FP8 == static_cast<int>(dsv4::AttentionOutput::kFp8));
static_assert(DSV4_ATTENTION_FP4 == static_cast<int>(dsv4::AttentionOutput::kFp4));
static_assert(DSV4_ENTRY_FP8 == static_cast<int>(dsv4::EntryFormat::kFp8));
static_assert(DSV4_ENTRY_INDEX == static_cast<int>(dsv4::EntryFormat::kFp4Hadamard));

void check_attention_dims(const Checker& check, const dsv4_attention_args& args, const dsv4_batch& batch) {
  check.number("num_heads", args.num_heads, 1, kMaxHeads);
  check.head_dim("head_dim", args.head_dim);
  check.number("ring_size", args.ring_size, 1, kMaxEntries);
  check.number("window", args.window, 1, args.ring_size);
  const int32_t longest = std::max(batch.max_new_tokens, 1);
  expect(args.ring_size >= args.window - 1 + longest, DSV4_ERROR_INVALID_ARGUMENT,
         "{}: ring_size {} for window {} and runs of up to {} rows, expected at least {}", check.call, args.ring_size, args.window, longest,
         args.window - 1 + longest);
  check.number("output", args.output, DSV4_ATTENTION_BF16, DSV4_ATTENTION_FP4);
  expect(args.softmax_scale >= 0.0f && std::isfinite(args.softmax_scale), DSV4_ERROR_INVALID_ARGUMENT,
         "{}: softmax_scale {}, expected a positive number, or 0 for 1/√head_dim", check.call, args.softmax_scale);
  if (args.entries == nullptr) {
    expect(args.selected == nullptr && args.num_selected == 0, DSV4_ERROR_INVALID_ARGUMENT, "{}: a list of {} entries, but entries is NULL",
           check.call, args.num_selected);
    return;
  }
  check.number("ratio", args.ratio, 1, kMaxEntries);
  check.number("entries_per_page", args.entries_per_page, 1, kMaxEntries);
  if (args.selected == nullptr) {
    expect(args.num_selected == 0, DSV4_ERROR_INVALID_ARGUMENT, "{}: num_selected {}, but selected is NULL", check.call, args.num_selected);
  } else {
    check.number("num_selected", args.num_selected, 1, kMaxEntries);
  }
}

void check_attention_pointers(const Checker& check, const dsv4_attention_args& args) {
  check.pointer("q", args.q, kVectorBytes);
  check.pointer("ring", args.ring, kVectorBytes);
  check.aligned("entries", args.entries, kVectorBytes);
  check.aligned("selected", args.selected, alignof(int32_t));
  check.aligned("key_counts", args.key_counts, kCountsAlignment);
  check.pointer("sink", args.sink, alignof(float));
  check.pointer("freqs", args.freqs, alignof(float));
  check.pointer("out", args.out, kVectorBytes);
  if (args.output == DSV4_ATTENTION_FP8 || args.output == DSV4_ATTENTION_FP4) check.pointer("out_scales", args.out_scales, kVectorBytes);
  check.aligned("lse", args.lse, alignof(float));
  check.aligned("workspace", args.workspace, kWorkspaceAlignment);
  const size_t needed = dsv4_attention_workspace_bytes(&args);
  expect(args.workspace_bytes >= needed && (args.workspace != nullptr || needed == 0), DSV4_ERROR_INVALID_ARGUMENT,
         "{}: workspace of {} bytes, expected at least {}", check.call, args.workspace == nullptr ? 0 : args.workspace_bytes, needed);
}

// The op's params do not say that they read a cache only.
uint8_t* cache_bytes(const void* cache) {
  return static_cast<uint8_t*>(const_cast<void*>(cache));
}

dsv4::AttentionParams attention_params(const dsv4_attention_args& args, const dsv4::BatchView& view) {
  dsv4::AttentionParams params{};
  params.q = static_cast<const dsv4::Bf16*>(args.q);
  params.batch = view;
  params.ring = {cache_bytes(args.ring), args.ring_size};
  if (args.entries != nullptr) {
    params.entries = {cache_bytes(args.entries), args.entries_per_page};
    params.ratio = args.ratio;
  }
  params.selected = args.selected;
  params.sink = args.sink;
  params.freqs = args.freqs;
  params.out = args.out;
  params.num_heads = args.num_heads;
  params.head_dim = args.head_dim;
  params.window = args.window;
  params.num_selected = args.num_selected;
  params.softmax_scale =
      args.softmax_scale > 0.0f ? args.softmax_scale : static_cast<float>(1.0 / std::sqrt(static_cast<double>(args.head_dim)));
  params.output = static_cast<dsv4::AttentionOutput>(args.output);
  params.out_scales = args.out_scales;
  params.lse = args.lse;
  params.key_counts = args.key_counts;
  params.scratch = args.workspace;
  params.scratch_bytes = args.workspace == nullptr ? 0 : static_cast<int64_t>(args.workspace_bytes);
  return params;
}

// Runs a call: the struct first, then what `body` does with it. Errors that are no StatusErrors come from the device.
template <typename Args, typename Body>
dsv4_status run_call(const char* call, const char* struct_name, const Args* given, char* error, size_t error_bytes, Body&& body) {
  std::string line;
  const dsv4_status status = guarded(line, DSV4_ERROR_DEVICE, [&] {
    expect(given != nullptr, DSV4_ERROR_INVALID_ARGUMENT, "{}: args is NULL", call);
    body(Checker{call}, read_struct(given, Args{}, struct_name));
  });
  dsv4::capi::write_line(line, error, error_bytes);
  return status;
}

bool is_head_dim(int32_t dim) {
  return dim == 64 || dim == 128 || dim == 256 || dim == 512;
}

}  // namespace

dsv4_status dsv4_attention(const dsv4_attention_args* args, void* stream, char* error, size_t error_bytes) {
  return run_call("dsv4_attention", "dsv4_attention_args", args, error, error_bytes,
                  [&](const Checker& check, const dsv4_attention_args& given) {
                    const dsv4_batch batch = read_batch(check, given.batch);
                    check_attention_dims(check, given, batch);
                    if (batch.num_tokens == 0) return;
                    check_attention_pointers(check, given);
                    const dsv4::BatchView view = batch_view(check, batch, {.row_begin = true, .page_table = given.entries != nullptr});
                    const dsv4::AttentionParams params = attention_params(given, view);
                    check.number("keys of a row", dsv4::attention_key_bound(params), 1, dsv4::kAttentionMaxKeys);
                    dsv4::run_attention(stream, params);
                  });
}

size_t dsv4_attention_workspace_bytes(const dsv4_attention_args* args) {
  size_t bytes = 0;
  std::string line;
  guarded(line, DSV4_ERROR_INVALID_ARGUMENT, [&] {
    const dsv4_attention_args given = read_struct(args, dsv4_attention_args{}, "dsv4_attention_args");
    const dsv4_batch batch = read_struct(given.batch, dsv4_batch{}, "dsv4_batch");
    if (batch.num_tokens < 1 || given.num_heads < 1 || !is_head_dim(given.head_dim)) return;
    bytes = static_cast<size_t>(dsv4::attention_scratch_bytes(batch.num_tokens, given.num_heads, given.head_dim));
  });
  return bytes;
}

dsv4_status dsv4_kv_store(const dsv4_kv_store_args* args, void* stream, char* error, size_t error_bytes) {
  return run_call("dsv4_kv_store", "dsv4_kv_store_args", args, error, error_bytes,
                  [&](const Checker& check, const dsv4_kv_store_args& given) {
                    const dsv4_batch batch = read_batch(check, given.batch);
                    check.head_dim("head_dim", given.head_dim);
                    check.number("ring_size", given.ring_size, std::max(batch.max_new_tokens, 1), kMaxEntries);
                    check.eps(given.eps);
                    if (batch.num_tokens == 0) return;
                    check.pointer("kv", given.kv, kVectorBytes);
                    check.pointer("weight", given.weight, kVectorBytes);
                    check.pointer("freqs", given.freqs, alignof(float));
                    check.pointer("ring", given.ring, kVectorBytes);
                    dsv4::KvStoreParams params{};
                    params.kv = static_cast<const dsv4::Bf16*>(given.kv);
                    params.weight = static_cast<const dsv4::Bf16*>(given.weight);
                    params.freqs = given.freqs;
                    params.batch = batch_view(check, batch, {.row_begin = false, .page_table = false});
                    params.ring = {static_cast<uint8_t*>(given.ring), given.ring_size};
                    params.head_dim = given.head_dim;
                    params.eps = given.eps;
                    dsv4::run_kv_store(stream, params);
                  });
}

dsv4_status dsv4_compress(const dsv4_compress_args* args, void* stream, char* error, size_t error_bytes) {
  return run_call("dsv4_compress", "dsv4_compress_args", args, error, error_bytes,
                  [&](const Checker& check, const dsv4_compress_args& given) {
                    const dsv4_batch batch = read_batch(check, given.batch);
                    expect(given.ratio == 4 || given.ratio == 128, DSV4_ERROR_INVALID_ARGUMENT, "{}: ratio {}, expected 4 or 128",
                           check.call, given.ratio);
                    check.number("format", given.format, DSV4_ENTRY_FP8, DSV4_ENTRY_INDEX);
                    check.head_dim("dim", given.dim);
                    if (given.format == DSV4_ENTRY_INDEX) check.number("dim of index entries", given.dim, 64, kMaxIndexDim);
                    check.number("entries_per_page", given.entries_per_page, 1, kMaxEntries);
                    check.number("state_tokens", given.state_tokens, given.ratio == 4 ? 8 : 128, kMaxEntries);
                    check.eps(given.eps);
                    if (batch.num_tokens == 0) return;
                    check.pointer("kv", given.kv, kVectorBytes);
                    check.pointer("gate", given.gate, kVectorBytes);
                    check.pointer("ape", given.ape, kVectorBytes);
                    check.pointer("weight", given.weight, kVectorBytes);
                    check.pointer("freqs", given.freqs, alignof(float));
                    check.pointer("state", given.state, kVectorBytes);
                    check.pointer("entries", given.entries, kVectorBytes);
                    dsv4::CompressParams params{};
                    params.kv = given.kv;
                    params.gate = given.gate;
                    params.ape = given.ape;
                    params.weight = static_cast<const dsv4::Bf16*>(given.weight);
                    params.freqs = given.freqs;
                    params.batch = batch_view(check, batch, {.row_begin = true, .page_table = true});
                    params.state = given.state;
                    params.entries = {static_cast<uint8_t*>(given.entries), given.entries_per_page};
                    params.format = static_cast<dsv4::EntryFormat>(given.format);
                    params.ratio = given.ratio;
                    params.dim = given.dim;
                    params.state_tokens = given.state_tokens;
                    params.eps = given.eps;
                    dsv4::run_compress(stream, params);
                  });
}

size_t dsv4_kv_page_bytes(int32_t head_dim, int32_t num_entries) {
  return is_head_dim(head_dim) && num_entries >= 1 ? dsv4::KvEntryLayout{head_dim}.page_bytes(num_entries) : 0;
}

size_t dsv4_index_page_bytes(int32_t dim, int32_t num_entries) {
  return is_head_dim(dim) && dim <= kMaxIndexDim && num_entries >= 1 ? dsv4::IndexEntryLayout{dim}.page_bytes(num_entries) : 0;
}
