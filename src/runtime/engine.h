// Many sequences over one model: ragged steps, paged caches, sampling.
//
//   Engine engine(options);
//   const int id = engine.open_sequence();
//   engine.feed(id, prompt_ids);
//   while (true) {
//     while (!engine.ready(id)) engine.step();
//     const SampledToken token = engine.sample(id, sampler);
//     …
//     engine.feed(id, {&token.token_id, 1});
//   }
//   engine.close_sequence(id);
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "model/decode.h"
#include "model/forward.h"
#include "runtime/device_sampler.h"
#include "runtime/pages.h"
#include "runtime/sampler.h"
#include "runtime/scheduler.h"

namespace dsv4 {

struct EngineOptions {
  std::filesystem::path model_dir;
  int max_sequences = 4;       // open at once
  int max_context = 0;         // tokens of one sequence, prompt and completion; 0: max_position_embeddings, or what fits on the device
  int step_tokens = 0;         // most tokens of one step: prompts are computed in chunks of this size; 0: default_step_tokens()
  int num_threads = 0;         // of the CPU backend; 0: every core
  std::string device = "cpu";  // "cpu", "cuda" or "cuda:N"
  std::optional<ModelConfig> dummy;  // a model of random weights (model/dummy_weights.h) without a checkpoint; model_dir is not used
  LoadProgress progress;             // of the weights; never called where they are used in place
};

// Chunks of prompts that suit a device: 512 tokens on the CPU; on a GPU 4096, which is within 5 % of the fastest (docs/gpu.md), less where
// the window rings of many sequences would take too much memory.
int default_step_tokens(const std::string& device, int max_sequences);

// Not thread-safe: one thread at a time. Results of a sequence do not depend on what else is open; on the CPU nor on step_tokens
// (bit-equal).
class Engine {
 public:
  // Opens the checkpoint, checks it, brings it to the device and allocates the caches. Throws Error.
  explicit Engine(const EngineOptions& options);

  const ModelConfig& config() const { return checkpoint_ ? checkpoint_->config() : *options_.dummy; }
  // nullptr: random weights.
  const Checkpoint* checkpoint() const { return checkpoint_ ? &*checkpoint_ : nullptr; }
  const EngineOptions& options() const { return options_; }
  // Tokens a sequence can hold.
  int max_context() const { return max_context_; }
  Model& model() { return model_; }
  Backend& backend() { return *backend_; }
  const KvCache& cache() const { return cache_; }

  // Throws Error when max_sequences are open.
  int open_sequence();
  // Its pages are free at once; pending tokens are dropped.
  void close_sequence(int sequence_id);

  // Appends tokens to be computed. Throws Error for ids outside the vocabulary and where the sequence would outgrow max_context; nothing is
  // appended then.
  void feed(int sequence_id, std::span<const int32_t> token_ids);
  // For benchmarks: tokens up to `position` count as fed and computed; caches hold whatever they hold (fill_random_cache). Only for a
  // sequence without tokens. Throws Error beyond max_context.
  void skip_to(int sequence_id, int position);
  // Takes back the last tokens, computed or not; the next logits need a feed() first. Throws Error beyond max_rewind().
  void rewind(int sequence_id, int num_tokens);
  // Caches reach kMaxRollback tokens back from the furthest that was ever computed.
  int max_rewind(int sequence_id) const;

  // Computes one ragged step of waiting tokens; false when none waits. A step of single tokens runs from a recording (model/decode.h), and
  // on a device returns before it has finished.
  bool step();
  // Makes the recordings for steps of up to `num_sequences` single tokens, which otherwise happens when the first such step comes.
  void warm_up(int num_sequences);
  // For profiles: whether steps of single tokens run from recordings, as they do from the start, or launch by launch.
  void use_recordings(bool use) { decode_.use_recordings(use); }
  // True when every token fed has been computed (and there is one): logits are there.
  bool ready(int sequence_id) const;

  // Tokens fed so far, in order.
  std::span<const int32_t> tokens(int sequence_id) const;
  // Logits [vocab_size] after the last token of a ready sequence, copied to the host.
  std::vector<float> logits(int sequence_id);

  // Draws the next token of ready sequences, one row each, and notes it in the samplers. Does not feed it.
  // A sequence that was sampled before with settings that need no history is drawn within its decode steps, as if with the same sampler
  // again; that draw is taken where the sampler still has those settings.
  std::vector<SampledToken> sample(std::span<const int> sequence_ids, std::span<Sampler* const> samplers);
  SampledToken sample(int sequence_id, Sampler& sampler);

  // What the device has done since the engine was made.
  StepCounters counters() const { return backend_->counters(); }
  // Kernels of the recording for steps of `num_sequences` single tokens; 0 before it was made, and on the CPU.
  int num_decode_kernels(int num_sequences) const { return decode_.num_kernels(num_sequences); }

 private:
  struct Sequence {
    bool open = false;
    bool has_logits = false;
    std::vector<int32_t> tokens;
    int num_computed = 0;
    int num_written = 0;   // the most tokens that were computed at any time: what rings and states have been written for
    uint64_t arrival = 0;  // order in which waiting sequences are served
    std::vector<int32_t> pages;
    SampleRow sampling;       // what its decode steps draw with
    uint64_t decode_run = 0;  // DecodeStep::num_runs() of the step that computed its last token; 0: another kind of step

    int num_pending() const { return static_cast<int>(tokens.size()) - num_computed; }
  };

  Sequence& sequence(int sequence_id);
  const Sequence& sequence(int sequence_id) const;
  void append_pages(Sequence& sequence, int num_tokens);
  void decode(std::span<const Scheduled> scheduled);
  void compute(std::span<const Scheduled> scheduled);
  void keep_logits(std::span<const int> finished_ids, std::span<const int32_t> rows);
  float* gather_logits(std::span<const int> sequence_ids);

  EngineOptions options_;
  std::unique_ptr<Backend> backend_;
  std::optional<Checkpoint> checkpoint_;
  int max_context_;
  Model model_;
  KvCache cache_;
  PageAllocator pages_;
  std::vector<Sequence> sequences_;  // the id is the slot
  uint64_t num_arrivals_ = 0;
  StepInput step_input_;
  Buffer kept_logits_;    // fp32 [max_sequences, vocab_size], by slot
  Buffer sample_logits_;  // fp32 [max_sequences, vocab_size], what sampling may change
  Buffer rows_;           // int32 [max_sequences]
  DeviceSampler sampler_;
  DecodeStep decode_;
};

}  // namespace dsv4
