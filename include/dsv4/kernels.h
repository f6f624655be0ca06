/* dsv4: the attention kernels of DeepSeek-V4 one by one, on raw device memory, for engines other than dsv4's own.
 *
 * Memory. Every pointer inside these structs is memory of the current CUDA device, unless it says "host". The structs themselves are
 * host memory and are read during the call alone. Nothing is allocated, copied or kept. Tensors are dense and row-major; the last dim of
 * a shape is the contiguous one.
 * Streams. A call enqueues its kernels on `stream` (a cudaStream_t or CUstream of the current device; NULL is the default stream) and
 * returns: it never waits, so calls may be captured into a CUDA graph, which then reads positions, lists and tables anew at every
 * replay; numbers of rows and sequences are fixed by the capture. Constants of the model (sink, freqs, weight, ape) must be there before
 * the kernel that precedes the call on the stream starts; everything else may be that kernel's output.
 * Errors. A call returns a dsv4_status. When it fails, one line says what was wrong, with the values: it is written to `error`, cut to
 * error_bytes with its terminating zero; NULL and 0 refuse it. Arguments are checked before CUDA is asked for anything, and a failed
 * call has enqueued nothing, unless its status is DSV4_ERROR_DEVICE. What stands in device memory cannot be checked: rows and indices
 * out of range are undefined behaviour.
 * Versions. Set struct_size to the sizeof of the struct. Fields that a caller's older header did not have are 0.
 * Devices. Compute capability 9.0 (Hopper). Calls of several threads are independent.
 *
 * Caches. An entry is one vector of D = head_dim values, key and value at once (multi-query attention). Its value part has the first D −
 * 64 dims as e4m3 codes, a byte each, then the last 64 dims (those that carry RoPE) as bf16. Its scale part has one ue8m0 byte per 64
 * codes, value 2^(byte − 127), then zero bytes up to a multiple of 4. D = 512: 448 + 128 = 576 bytes of values, 7 + 1 bytes of scales. A
 * page of P entries has the value parts first, entry j at byte j·576, and the scale parts behind them, entry j at byte P·576 + j·8. The
 * next page begins dsv4_kv_page_bytes(D, P) bytes after it: its bytes rounded up to a whole number of value parts (37,440 for P = 64).
 * The ring is one page of ring_size entries per slot, with the last positions of a sequence: position p is entry p mod ring_size of the
 * sequence's slot. Compressed entries are pages of entries_per_page: entry c of a sequence is entry c mod entries_per_page of physical
 * page page_table[sequence, c / entries_per_page]. Bytes of both that no row attends to are never used, whatever they are.
 */
#ifndef DSV4_KERNELS_H
#define DSV4_KERNELS_H

#include "dsv4/dsv4.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The rows of a step: tokens of any number of sequences, prompt chunks and single tokens mixed. The rows of one sequence stand together, in
 * ascending and consecutive positions. Row pointers: 4-byte aligned. */
typedef struct dsv4_batch {
  size_t struct_size;       /* sizeof(dsv4_batch) */
  const int32_t* positions; /* [num_tokens] 0-based position of the row's token; −1: padding, a row whose results are zeros */
  const int32_t* seq_idx;   /* [num_tokens] which of the step's sequences the row belongs to, 0 … num_seqs − 1 */
  const int32_t* row_begin; /* [num_seqs + 1] first row of each sequence; the last is num_tokens. Not read by dsv4_kv_store */
  const int32_t* slots;     /* [num_seqs] the sequence's page of the ring, and its state of a compressor; −1 where all rows are padding */
  const int32_t* page_table; /* [num_seqs, page_table_stride] physical pages of `entries`; NULL where there are none */
  int32_t page_table_stride; /* elements from one sequence's row of page_table to the next */
  int32_t num_tokens;        /* rows, 0 … 1,048,576; with 0 a call does nothing */
  int32_t num_seqs;          /* 1 … num_tokens */
  int32_t max_new_tokens;    /* the longest run of one sequence's rows, to check rings with; 0: not known */
} dsv4_batch;

/* What dsv4_attention writes. B: values that share a scale. */
typedef enum dsv4_attention_output {
  DSV4_ATTENTION_BF16 = 0, /* bf16, rounded before and after the rotation: the model's own numerics */
  DSV4_ATTENTION_FP32 = 1, /* fp32, nothing rounded */
  DSV4_ATTENTION_FP8 = 2,  /* the bf16 result as e4m3 codes, B = min(128, head_dim): scale 2^⌈log2(max(amax, 1e-4) / 448)⌉ */
  DSV4_ATTENTION_FP4 = 3   /* the bf16 result as e2m1 codes, even dim in the low nibble, B = 32: 2^⌈log2(max(amax, 6·2^-126) / 6)⌉ */
} dsv4_attention_output;

/* T = num_tokens, H = num_heads, D = head_dim. Row t attends to
 *   window   positions max(0, p − window + 1) … p of its ring, p = positions[t];
 *   entries  those of its list: the places of selected[t] that are not −1; without a list all that it may see, c < ⌊(p + 1) / ratio⌋.
 * With the logits l_j = softmax_scale·(q·k_j) of these keys k_j, repeats counted as often as they stand there,
 *   o = Σ_j e^l_j · k_j / (Σ_j e^l_j + e^sink),   lse = ln(Σ_j e^l_j + e^sink).
 * Then the last 64 values of o are rotated back: pair i, values (a, b) at D − 64 + 2i, by the angle θ = fp32(p)·freqs[i] (an fp32 product)
 * to (a·cos θ + b·sin θ, b·cos θ − a·sin θ). A row without keys gives zeros and its sink; a padding row zeros (codes and scales too) and
 * −∞. A row's bytes do not depend on the other rows of the step, only on its own keys. q and the values of entries are taken as f16 (what
 * is above 65,504 is infinite, below 2^-14 it is off by up to 2^-25), everything else in fp32. A row may have up to 4,194,176 keys; what
 * counts is window + num_selected, or without a list window + page_table_stride · entries_per_page. */
typedef struct dsv4_attention_args {
  size_t struct_size;      /* sizeof(dsv4_attention_args) */
  const dsv4_batch* batch; /* host */
  const void* q;           /* [T, H, D] bf16, with RoPE on the last 64 dims; 16-byte aligned, dense */
  const void* ring;        /* the window cache; 16-byte aligned */
  const void* entries;     /* the compressed entries; 16-byte aligned; NULL: the window alone */
  const int32_t* selected; /* [T, num_selected] entry indices, −1 = none; NULL: all visible entries. The first ⌊(p + 1) / ratio⌋ places are
                              read: a list has no more entries than the row may see, the places behind them are −1 */
  const int32_t* key_counts; /* [T, 2] attend to the last key_counts[t][0] of the window's positions and to the first key_counts[t][1]
                                places of the list or visible entries only; larger counts mean all; NULL: all. 8-byte aligned */
  const float* sink;         /* [H] a logit that has no value; −∞: none */
  const float* freqs;        /* [32] RoPE frequencies, radians per position */
  void* out;                 /* [T, H, D] of the format `output`, [T, H, D / 2] bytes for FP4; 16-byte aligned, dense; must not overlap q */
  uint8_t* out_scales;       /* [T, H, D / B] ue8m0, for FP8 and FP4; 16-byte aligned; else not used */
  float* lse;                /* [T, H] natural logarithm; NULL: not wanted */
  void* workspace;           /* dsv4_attention_workspace_bytes(args) bytes, 256-byte aligned; NULL where that is 0 */
  size_t workspace_bytes;    /* of workspace */
  int32_t num_heads;         /* 1 … 128 */
  int32_t head_dim;          /* 64, 128, 256 or 512 */
  int32_t window;            /* positions of the window, the row's own included; 1 … ring_size */
  int32_t ring_size;         /* entries of a page of the ring; ≥ window − 1 + the longest run of one sequence's rows in a step */
  int32_t entries_per_page;  /* of `entries`, ≥ 1; the model has 256 / ratio */
  int32_t ratio;             /* positions per compressed entry, ≥ 1; the model has 4 and 128 */
  int32_t num_selected;      /* places of a row's list; 0 without one */
  int32_t output;            /* a dsv4_attention_output */
  float softmax_scale;       /* > 0; 0: 1/√head_dim */
} dsv4_attention_args;

DSV4_API dsv4_status dsv4_attention(const dsv4_attention_args* args, void* stream, char* error, size_t error_bytes);

/* Bytes of device memory that dsv4_attention needs beside its arguments, for this num_tokens and these dims and any contents of device
 * memory; pointers other than batch need not be set. At most 144 MiB; what it holds need not be kept from call to call, but calls on
 * different streams must not share it. 0 for arguments that dsv4_attention refuses. */
DSV4_API size_t dsv4_attention_workspace_bytes(const dsv4_attention_args* args);

/* Window entries, all rows in one launch: k = bf16(kv / √(mean(kv²) + eps) · weight), its last 64 dims rotated by the row's position p
 * (pair i: (a·cos θ − b·sin θ, a·sin θ + b·cos θ), θ as above) and rounded to bf16, its first D − 64 dims quantised in blocks of 64 to e4m3
 * with the scale 2^⌈log2(max(amax, 1e-4) / 448)⌉; stored as entry p mod ring_size of the sequence's slot. Padding rows store nothing. Of
 * the rows of one sequence no two may fall on the same entry: at most ring_size of them in a step. */
typedef struct dsv4_kv_store_args {
  size_t struct_size;      /* sizeof(dsv4_kv_store_args) */
  const dsv4_batch* batch; /* host; positions, seq_idx and slots are read */
  const void* kv;          /* [T, D] bf16, before the norm; 16-byte aligned */
  const void* weight;      /* [D] bf16, of the norm; 16-byte aligned */
  const float* freqs;      /* [32] RoPE frequencies */
  void* ring;              /* the window cache; 16-byte aligned */
  int32_t head_dim;        /* 64, 128, 256 or 512 */
  int32_t ring_size;       /* entries of a page of the ring */
  float eps;               /* of the norm, ≥ 0; the model has 1e-6 */
} dsv4_kv_store_args;

DSV4_API dsv4_status dsv4_kv_store(const dsv4_kv_store_args* args, void* stream, char* error, size_t error_bytes);

/* Formats of compressed entries. */
typedef enum dsv4_entry_format {
  DSV4_ENTRY_FP8 = 0,  /* the entries of dsv4_attention */
  DSV4_ENTRY_INDEX = 1 /* of the indexer: Hadamard rotation of all dims, then e2m1 in blocks of 32, even dim low. A page: P·dim/2 bytes of
                          codes, then P·dim/32 scale bytes, nothing between pages */
} dsv4_entry_format;

/* Compressed entries, all rows in one launch. Block c of a sequence, positions c·ratio … c·ratio + ratio − 1, becomes entry c when its last
 * row comes. Per channel e = Σ_s softmax_s(b_s)·a_s over its slots, a = kv and b = gate + ape[position mod ratio] of a token. Ratio 128:
 * the 128 tokens of the block. Ratio 4: channels [0, dim) of the 4 tokens of the block before, channels [dim, 2·dim) of the 4 of the block
 * itself. Then bf16, norm with weight, bf16, rotation by the block's first position, bf16, quantised and stored in the sequence's page.
 * `state` keeps (a, b) of the last tokens by position mod state_tokens, so that a block may be spread over steps and a sequence may go
 * back to an earlier position whose block the state still holds; a new sequence needs no reset. */
typedef struct dsv4_compress_args {
  size_t struct_size;       /* sizeof(dsv4_compress_args) */
  const dsv4_batch* batch;  /* host; all arrays are read */
  const float* kv;          /* [T, width], width = dim·(2 for ratio 4, else 1); 16-byte aligned */
  const float* gate;        /* [T, width]; 16-byte aligned */
  const float* ape;         /* [ratio, width]; 16-byte aligned */
  const void* weight;       /* [dim] bf16, of the norm; 16-byte aligned */
  const float* freqs;       /* [32] RoPE frequencies */
  float* state;             /* [num_slots, 2, state_tokens, width]; 16-byte aligned */
  void* entries;            /* the compressed entries; 16-byte aligned */
  int32_t entries_per_page; /* ≥ 1; the model has 256 / ratio */
  int32_t format;           /* a dsv4_entry_format */
  int32_t ratio;            /* 4 or 128 */
  int32_t dim;              /* 64, 128, 256 or 512; DSV4_ENTRY_INDEX: at most 256 */
  int32_t state_tokens;     /* ≥ 8 for ratio 4, ≥ 128 for ratio 128 */
  float eps;                /* of the norm, ≥ 0; the model has 1e-6 */
} dsv4_compress_args;

DSV4_API dsv4_status dsv4_compress(const dsv4_compress_args* args, void* stream, char* error, size_t error_bytes);

/* Bytes from one page of `num_entries` entries to the next; 0 for a head_dim or dim that there are no entries of, or num_entries < 1. */
DSV4_API size_t dsv4_kv_page_bytes(int32_t head_dim, int32_t num_entries);
DSV4_API size_t dsv4_index_page_bytes(int32_t dim, int32_t num_entries);

#ifdef __cplusplus
}
#endif

#endif
