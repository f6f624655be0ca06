// Decode steps: one token each of many sequences, embedding to drawn token, run from recordings on state that stays in the backend's
// memory.
//
// A recording exists per batch size; a step takes the next larger one and fills it up with padding. What a row drew is its next input, so
// that a step of the same sequences that are fed what they drew uploads nothing, launches one recording and waits for nothing.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "model/forward.h"
#include "model/kv_cache.h"
#include "ops/buffer.h"
#include "ops/sample.h"

namespace dsv4 {

// Batch sizes that are recorded.
inline constexpr std::array kDecodeSizes = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256};
inline constexpr int kMaxDecodeRows = kDecodeSizes.back();

// The recorded size that holds `num_seqs` sequences, kMaxDecodeRows where none does.
int decode_size(int num_seqs);

// A sequence's share of a decode step.
struct DecodeRow {
  int slot;  // stands in a step once
  int32_t token_id;
  int32_t position;
  std::span<const int32_t> pages;  // of positions 0 … position; only appended to while the slot belongs to the sequence
  SampleRow sampling;              // how the next token is drawn: no bias, no history, no alternatives
};

// What a row drew.
struct Drawn {
  int32_t token_id;  // −1: there was no finite logit
  float logprob;
  SampleRow sampling;  // what it was drawn with
};

class DecodeStep {
 public:
  // For up to `max_seqs` sequences of `max_context` tokens; the model's options must allow for decode_size(max_seqs) rows of it. After each
  // step the logits of slot s stand in kept_logits[s] ([num_slots, vocab_size], backend memory). Everything must outlive the object.
  DecodeStep(Model& model, const KvCache& cache, Backend& backend, float* kept_logits, int max_seqs, int max_context);

  // Memory in the backend, and pinned.
  static int64_t bytes_needed(const ModelConfig& config, int64_t max_seqs, int64_t max_context);

  // Sequences of one step.
  int max_rows() const { return max_rows_; }

  // Records the sizes up to that of `num_seqs` sequences, running each on padding. Otherwise a size is recorded when it is first needed.
  void warm_up(int num_seqs);

  // Whether steps run from recordings (as they do from the start) or launch by launch, to be looked at by a profile or an observer.
  void use_recordings(bool use) { use_recordings_ = use; }

  // Runs one step, asynchronously on a device. Throws Error where rows do not fit; what the device holds is then uploaded anew next time.
  void run(std::span<const DecodeRow> rows);

  // What `slot` drew in the last run(), which is waited for; nothing if the slot was not part of it.
  std::optional<Drawn> drawn(int slot);

  // The slot's sequence has ended: its pages may become those of another.
  void forget(int slot);

  // Steps that were run.
  uint64_t num_runs() const { return num_runs_; }
  // Kernels of the recording for `num_seqs` sequences; 0 where there is no such recording or it launches none.
  int num_kernels(int num_seqs) const;

 private:
  // A row as the host knows it to stand, or wants it to stand, on the device.
  struct Row {
    int slot = -1;  // −1: padding; kUnknown
    int32_t token_id = 0;
    int32_t position = -1;
    SampleRow sampling;

    bool operator==(const Row&) const = default;
  };
  // Whose pages stand in a row of the page table, and how many of them.
  struct PageRow {
    int slot = -1;
    int num_pages = 0;
  };
  // The arrays that are uploaded together, on either side.
  struct RowArrays {
    SampleRow* sampling;  // [capacity]
    int32_t* token_ids;   // [capacity]
    int32_t* positions;   // [capacity]
    int32_t* slots;       // [capacity]

    RowArrays(uint8_t* base, int capacity);
    static size_t bytes(int capacity);
  };
  // Pinned memory of one upload, free again once the device has passed the marker.
  struct Staging {
    HostBuffer memory;  // row arrays, then the page table
    std::unique_ptr<Marker> copied;
  };
  static constexpr int kUnknown = -2;
  static constexpr int kNumStagings = 4;

  void place(std::span<const DecodeRow> rows, int size);
  void upload(std::span<const DecodeRow> rows, int size);
  void execute(int size);
  void record_ops(int size);
  void wait_for_drawn();
  void forget_all();

  Model& model_;
  const KvCache& cache_;
  Backend& backend_;
  float* kept_logits_;
  int max_rows_;
  int capacity_;   // rows of every array: the size recorded for max_rows
  int max_pages_;  // of one sequence

  Buffer rows_memory_;
  RowArrays rows_;
  Buffer page_table_;      // int32 [capacity, max_pages]
  Buffer constant_;        // int32 [capacity] seq_idx, [capacity + 1] row_begin
  Buffer logits_;          // fp32 [capacity, vocab_size]
  Buffer drawn_;           // int32 [capacity] ids, fp32 [capacity] log-probabilities
  HostBuffer drawn_host_;  // the same
  std::vector<Staging> stagings_;
  size_t next_staging_ = 0;
  std::unique_ptr<Marker> finished_;  // the last run
  std::array<std::unique_ptr<Recording>, kDecodeSizes.size()> recordings_;

  std::vector<Row> device_;       // what the device holds; ids that were drawn are only known once they were waited for
  std::vector<Row> wanted_;       // what it is to hold
  std::vector<int> row_idx_;      // of the DecodeRow in each row of the step; −1: padding
  std::vector<PageRow> pages_;    // what the page table holds
  std::vector<int> row_of_slot_;  // where the slot's pages stand; −1: nowhere
  std::vector<SampleRow> used_;   // what each row of the last run was drawn with
  std::vector<size_t> unplaced_;
  int last_size_ = 0;
  bool drawn_known_ = true;
  uint64_t num_runs_ = 0;
  bool use_recordings_ = true;
};

}  // namespace dsv4
