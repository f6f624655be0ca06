#include "runtime/engine.h"

#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "model/dummy_weights.h"
#include "runtime/capacity.h"
#include "runtime/device.h"

namespace dsv4 {
namespace {

constexpr uint64_t kDummySeed = 1;
constexpr int kLogitsBuffers = 3;  // the model's, those kept, those drawn from

EngineOptions checked(EngineOptions options) {
  if (options.step_tokens == 0) options.step_tokens = default_step_tokens(options.device, options.max_sequences);
  require(options.max_sequences >= 1 && options.max_sequences <= 4096, "sequences: {}, expected 1 to 4096", options.max_sequences);
  require(options.step_tokens >= 1 && options.step_tokens <= 65536, "step tokens: {}, expected 1 to 65536", options.step_tokens);
  return options;
}

// Tokens of a sequence: as many as were asked for, or as fit. Throws Error where the device has no room for the model.
int context_limit(const EngineOptions& options, const ModelConfig& config, const std::optional<Checkpoint>& checkpoint,
                  const Backend& backend) {
  require(options.max_context >= 0 && options.max_context <= config.max_position_embeddings, "context: {} tokens, this model has {}",
          options.max_context, config.max_position_embeddings);
  const auto free_bytes = static_cast<int64_t>(backend.free_memory());
  if (free_bytes == 0) return options.max_context > 0 ? options.max_context : config.max_position_embeddings;
  MemoryRequest request;
  request.context = options.max_context;
  request.num_seqs = options.max_sequences;
  request.max_step_tokens = options.step_tokens;
  request.max_logits_rows = kLogitsBuffers * options.max_sequences;
  const std::vector<TensorSpec> specs = checkpoint ? tensor_specs(*checkpoint) : tensor_specs(config, false);
  return static_cast<int>(plan_device(config, specs, request, free_bytes).request.context);
}

KvCacheOptions cache_options(const EngineOptions& options, int max_context) {
  const int pages_per_sequence = (max_context + kPagePositions - 1) / kPagePositions;
  return {options.max_sequences, options.max_sequences * pages_per_sequence, options.step_tokens};
}

std::optional<Checkpoint> open_checkpoint(const EngineOptions& options) {
  if (options.dummy) return std::nullopt;
  return Checkpoint::open(options.model_dir);
}

// Random weights commit host memory, which a mapped checkpoint does not.
void require_host_memory(const ModelConfig& config) {
  int64_t needed = 0;
  for (const TensorSpec& spec : tensor_specs(config, false)) needed += spec.bytes();
  const int64_t there = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  require(needed < there, "random weights of {} do not fit in the {} of this machine; fewer layers would", size_text(needed),
          size_text(there));
}

ModelWeights make_weights(const EngineOptions& options, const std::optional<Checkpoint>& checkpoint, Backend& backend) {
  if (checkpoint) return load_weights(*checkpoint, backend, options.progress);
  if (backend.free_memory() == 0) require_host_memory(*options.dummy);
  return dummy_weights(*options.dummy, backend, kDummySeed);
}

size_t logits_bytes(const EngineOptions& options, const ModelConfig& config) {
  return static_cast<size_t>(options.max_sequences) * static_cast<size_t>(config.vocab_size) * sizeof(float);
}

}  // namespace

int default_step_tokens(const std::string& device, int max_sequences) {
  constexpr int kLeast = 512, kMostOnGpu = 4096;
  constexpr int kRingTokens = 65536;  // of all sequences
  if (device == "cpu") return kLeast;
  return std::clamp(kRingTokens / std::max(max_sequences, 1), kLeast, kMostOnGpu);
}

Engine::Engine(const EngineOptions& options)
    : options_(checked(options)),
      backend_(make_backend(options_.device, options_.num_threads)),
      checkpoint_(open_checkpoint(options_)),
      max_context_(context_limit(options_, config(), checkpoint_, *backend_)),
      model_(config(), make_weights(options_, checkpoint_, *backend_), *backend_,
             {options_.step_tokens, options_.max_sequences, options_.max_sequences, decode_size(options_.max_sequences), max_context_}),
      cache_(config(), cache_options(options_, max_context_), false, *backend_),
      pages_(cache_.options().num_pages),
      sequences_(static_cast<size_t>(options_.max_sequences)),
      kept_logits_(*backend_, logits_bytes(options_, config())),
      sample_logits_(*backend_, logits_bytes(options_, config())),
      rows_(*backend_, static_cast<size_t>(options_.max_sequences) * sizeof(int32_t)),
      sampler_(*backend_),
      decode_(model_, cache_, *backend_, kept_logits_.as<float>(), options_.max_sequences, max_context_) {}

Engine::Sequence& Engine::sequence(int sequence_id) {
  require(sequence_id >= 0 && sequence_id < options_.max_sequences && sequences_[static_cast<size_t>(sequence_id)].open,
          "sequence {} is not open", sequence_id);
  return sequences_[static_cast<size_t>(sequence_id)];
}

const Engine::Sequence& Engine::sequence(int sequence_id) const {
  return const_cast<Engine*>(this)->sequence(sequence_id);
}

int Engine::open_sequence() {
  const auto free = std::find_if(sequences_.begin(), sequences_.end(), [](const Sequence& candidate) { return !candidate.open; });
  require(free != sequences_.end(), "all {} sequences are open", options_.max_sequences);
  *free = Sequence{};
  free->open = true;
  return static_cast<int>(free - sequences_.begin());
}

void Engine::close_sequence(int sequence_id) {
  Sequence& closing = sequence(sequence_id);
  for (int32_t page : closing.pages) pages_.release(page);
  decode_.forget(sequence_id);
  closing = Sequence{};
}

void Engine::feed(int sequence_id, std::span<const int32_t> token_ids) {
  Sequence& fed = sequence(sequence_id);
  for (int32_t token_id : token_ids) {
    require(token_id >= 0 && token_id < config().vocab_size, "token id {}: expected 0 to {}", token_id, config().vocab_size - 1);
  }
  require(token_ids.size() <= static_cast<size_t>(max_context_) - fed.tokens.size(),
          "{} tokens do not fit: the context holds {}, {} are used", token_ids.size(), max_context_, fed.tokens.size());
  if (token_ids.empty()) return;
  if (fed.num_pending() == 0) fed.arrival = num_arrivals_++;
  fed.tokens.insert(fed.tokens.end(), token_ids.begin(), token_ids.end());
  fed.has_logits = false;
}

void Engine::skip_to(int sequence_id, int position) {
  Sequence& skipped = sequence(sequence_id);
  require(skipped.tokens.empty(), "sequence {} has {} tokens already, expected none", sequence_id, skipped.tokens.size());
  require(position >= 0 && position <= max_context_, "position {}, the context holds {}", position, max_context_);
  skipped.tokens.assign(static_cast<size_t>(position), 0);
  skipped.num_computed = position;
  skipped.num_written = position;
  while (static_cast<int>(skipped.pages.size()) * kPagePositions < position) skipped.pages.push_back(pages_.allocate());
}

int Engine::max_rewind(int sequence_id) const {
  const Sequence& asked = sequence(sequence_id);
  return static_cast<int>(asked.tokens.size()) - std::max(asked.num_written - kMaxRollback, 0);
}

void Engine::rewind(int sequence_id, int num_tokens) {
  Sequence& rewound = sequence(sequence_id);
  require(num_tokens >= 0 && num_tokens <= max_rewind(sequence_id),
          "rewind by {} tokens: of {} with {} computed at most {} can be taken back", num_tokens, rewound.tokens.size(),
          rewound.num_computed, max_rewind(sequence_id));
  if (num_tokens == 0) return;
  rewound.tokens.resize(rewound.tokens.size() - static_cast<size_t>(num_tokens));
  rewound.num_computed = std::min(rewound.num_computed, static_cast<int>(rewound.tokens.size()));
  rewound.has_logits = false;
}

bool Engine::step() {
  std::vector<int> order;
  for (int id = 0; id < options_.max_sequences; ++id) {
    if (sequences_[static_cast<size_t>(id)].num_pending() > 0) order.push_back(id);
  }
  if (order.empty()) return false;
  std::sort(order.begin(), order.end(),
            [&](int a, int b) { return sequences_[static_cast<size_t>(a)].arrival < sequences_[static_cast<size_t>(b)].arrival; });
  std::vector<Waiting> waiting;
  for (int id : order) waiting.push_back({id, sequences_[static_cast<size_t>(id)].num_pending()});

  const std::vector<Scheduled> scheduled = schedule_step(waiting, options_.step_tokens);
  const bool is_decode = scheduled.size() <= static_cast<size_t>(decode_.max_rows()) &&
                         std::all_of(waiting.begin(), waiting.end(), [](const Waiting& sequence) { return sequence.num_pending == 1; });
  if (is_decode) {
    decode(scheduled);
  } else {
    compute(scheduled);
  }
  return true;
}

// Pages for the next `num_tokens` tokens.
void Engine::append_pages(Sequence& sequence, int num_tokens) {
  const int64_t end = int64_t{sequence.num_computed} + num_tokens;
  while (static_cast<int64_t>(sequence.pages.size()) * kPagePositions < end) sequence.pages.push_back(pages_.allocate());
}

// A step of single tokens.
void Engine::decode(std::span<const Scheduled> scheduled) {
  std::vector<DecodeRow> rows;
  for (const Scheduled& share : scheduled) {
    Sequence& running = sequences_[static_cast<size_t>(share.sequence_id)];
    append_pages(running, 1);
    rows.push_back({share.sequence_id, running.tokens.back(), running.num_computed, running.pages, running.sampling});
  }
  decode_.run(rows);
  for (const Scheduled& share : scheduled) {
    Sequence& computed = sequences_[static_cast<size_t>(share.sequence_id)];
    ++computed.num_computed;
    computed.num_written = std::max(computed.num_written, computed.num_computed);
    computed.has_logits = true;
    computed.decode_run = decode_.num_runs();
  }
}

// Any other step.
void Engine::compute(std::span<const Scheduled> scheduled) {
  step_input_.clear();
  std::vector<int> finished_ids;
  std::vector<int32_t> rows;
  for (const auto& [id, num_tokens] : scheduled) {
    Sequence& running = sequences_[static_cast<size_t>(id)];
    append_pages(running, num_tokens);
    const auto token_ids =
        std::span<const int32_t>(running.tokens).subspan(static_cast<size_t>(running.num_computed), static_cast<size_t>(num_tokens));
    step_input_.add_sequence(id, running.num_computed, token_ids, running.pages);
    if (num_tokens == running.num_pending()) {
      finished_ids.push_back(id);
      rows.push_back(step_input_.last_row(step_input_.num_seqs() - 1));
    }
  }
  model_.forward(step_input_, cache_);
  for (const auto& [id, num_tokens] : scheduled) {
    Sequence& computed = sequences_[static_cast<size_t>(id)];
    computed.num_computed += num_tokens;
    computed.num_written = std::max(computed.num_written, computed.num_computed);
    computed.decode_run = 0;
  }
  keep_logits(finished_ids, rows);
}

// Computes the logits of finished sequences and puts each into its slot's row.
void Engine::keep_logits(std::span<const int> finished_ids, std::span<const int32_t> rows) {
  if (rows.empty()) return;
  const float* logits = model_.logits(rows);
  const int64_t row_bytes = int64_t{config().vocab_size} * static_cast<int64_t>(sizeof(float));
  const std::vector<int32_t> slots(finished_ids.begin(), finished_ids.end());
  backend_->copy_from_host(rows_.as<void>(), slots.data(), slots.size() * sizeof(int32_t));
  backend_->gather_rows({logits, nullptr, kept_logits_.as<void>(), static_cast<int>(slots.size()), row_bytes, rows_.as<int32_t>()});
  for (int id : finished_ids) sequences_[static_cast<size_t>(id)].has_logits = true;
}

void Engine::warm_up(int num_sequences) {
  require(num_sequences >= 1 && num_sequences <= options_.max_sequences, "warm-up for {} sequences, expected 1 to {}", num_sequences,
          options_.max_sequences);
  decode_.warm_up(num_sequences);
}

bool Engine::ready(int sequence_id) const {
  return sequence(sequence_id).has_logits;
}

std::span<const int32_t> Engine::tokens(int sequence_id) const {
  return sequence(sequence_id).tokens;
}

float* Engine::gather_logits(std::span<const int> sequence_ids) {
  for (int id : sequence_ids) require(ready(id), "sequence {} has no logits: feed it and step until it is ready", id);
  require(sequence_ids.size() <= static_cast<size_t>(options_.max_sequences), "{} sequences to sample, at most {} can be open",
          sequence_ids.size(), options_.max_sequences);
  std::vector<int32_t> rows(sequence_ids.begin(), sequence_ids.end());
  backend_->copy_from_host(rows_.as<void>(), rows.data(), rows.size() * sizeof(int32_t));
  const int64_t row_bytes = int64_t{config().vocab_size} * static_cast<int64_t>(sizeof(float));
  backend_->gather_rows(
      {kept_logits_.as<void>(), rows_.as<int32_t>(), sample_logits_.as<void>(), static_cast<int>(rows.size()), row_bytes});
  return sample_logits_.as<float>();
}

std::vector<float> Engine::logits(int sequence_id) {
  const float* gathered = gather_logits({&sequence_id, 1});
  std::vector<float> logits(static_cast<size_t>(config().vocab_size));
  backend_->copy_to_host(logits.data(), gathered, logits.size() * sizeof(float));
  return logits;
}

std::vector<SampledToken> Engine::sample(std::span<const int> sequence_ids, std::span<Sampler* const> samplers) {
  require(sequence_ids.size() == samplers.size(), "{} sequences with {} samplers", sequence_ids.size(), samplers.size());
  std::vector<SampledToken> sampled(sequence_ids.size());
  std::vector<size_t> undrawn;  // what no decode step has drawn with these settings
  std::vector<int> undrawn_ids;
  std::vector<SampleRow> undrawn_rows;
  for (size_t i = 0; i < sequence_ids.size(); ++i) {
    const Sequence& asked = sequence(sequence_ids[i]);
    const SampleRow row = samplers[i]->row();
    const std::optional<SampleRow> alone = self_contained(row);
    if (alone && asked.has_logits && asked.decode_run != 0 && asked.decode_run == decode_.num_runs()) {
      const std::optional<Drawn> drawn = decode_.drawn(sequence_ids[i]);
      if (drawn && drawn->sampling == *alone) {
        sampled[i] = {drawn->token_id, drawn->logprob, {}};
        continue;
      }
    }
    undrawn.push_back(i);
    undrawn_ids.push_back(sequence_ids[i]);
    undrawn_rows.push_back(alone.value_or(row));
  }
  if (!undrawn.empty()) {
    std::vector<SampledToken> drawn = sampler_.draw(gather_logits(undrawn_ids), config().vocab_size, undrawn_rows);
    for (size_t i = 0; i < undrawn.size(); ++i) sampled[undrawn[i]] = std::move(drawn[i]);
  }
  for (size_t i = 0; i < sampled.size(); ++i) {
    require(sampled[i].token_id >= 0, "sequence {}: no finite logit to draw from", sequence_ids[i]);
  }
  for (size_t i = 0; i < sampled.size(); ++i) {
    samplers[i]->observe_completion(sampled[i].token_id);
    sequence(sequence_ids[i]).sampling = self_contained(samplers[i]->row()).value_or(SampleRow{});
  }
  return sampled;
}

SampledToken Engine::sample(int sequence_id, Sampler& sampler) {
  Sampler* const samplers[] = {&sampler};
  return sample({&sequence_id, 1}, samplers).front();
}

}  // namespace dsv4
