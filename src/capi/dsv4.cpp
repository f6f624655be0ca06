// The public C interface over Engine and Tokenizer: checks arguments, turns exceptions into a status and a message.
#include "dsv4/dsv4.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "capi/status.h"
#include "runtime/engine.h"
#include "text/tokenizer.h"

struct dsv4_engine {
  explicit dsv4_engine(const dsv4::EngineOptions& options) : engine(options) {}

  dsv4::Engine engine;
  std::optional<dsv4::Tokenizer> tokenizer;
  std::string message;
};

struct dsv4_session {
  dsv4_session(dsv4_engine* owning_engine, int id)
      : owner(owning_engine), sequence_id(id), sampler(dsv4::SamplingParams{}, owning_engine->engine.config().vocab_size) {}

  dsv4_engine* owner;
  int sequence_id;
  dsv4::Sampler sampler;
  std::optional<int32_t> drawn;  // sampled and counted as completion, not yet fed
};

namespace {

using dsv4::capi::expect;
using dsv4::capi::guarded;
using dsv4::capi::read_struct;

dsv4::EngineOptions engine_options(const char* model_dir, const dsv4_options& options) {
  dsv4::EngineOptions result;
  result.model_dir = model_dir;
  if (options.max_sessions != 0) result.max_sequences = options.max_sessions;
  if (options.max_context != 0) result.max_context = options.max_context;
  if (options.step_tokens != 0) result.step_tokens = options.step_tokens;
  if (options.num_threads != 0) result.num_threads = options.num_threads;
  if (options.device != nullptr) result.device = options.device;
  return result;
}

dsv4::SamplingParams sampling_params(const dsv4_sampling& sampling) {
  dsv4::SamplingParams params;
  params.temperature = sampling.temperature;
  params.top_k = sampling.top_k;
  params.top_p = sampling.top_p;
  params.min_p = sampling.min_p;
  params.repetition_penalty = sampling.repetition_penalty;
  params.presence_penalty = sampling.presence_penalty;
  params.frequency_penalty = sampling.frequency_penalty;
  params.seed = sampling.seed;
  return params;
}

const dsv4::Tokenizer& tokenizer_of(const dsv4_engine* engine) {
  expect(engine->tokenizer.has_value(), DSV4_ERROR_STATE, "{} has no tokenizer.json", engine->engine.options().model_dir.string());
  return *engine->tokenizer;
}

// Steps until the session's tokens are computed.
void compute(dsv4_session* session) {
  dsv4::Engine& engine = session->owner->engine;
  expect(!engine.tokens(session->sequence_id).empty(), DSV4_ERROR_STATE, "the session was fed no tokens");
  while (!engine.ready(session->sequence_id)) engine.step();
}

}  // namespace

const char* dsv4_version(void) {
  return DSV4_VERSION;
}

dsv4_status dsv4_open(const char* model_dir, const dsv4_options* options, dsv4_engine** engine, char* message, size_t message_size) {
  std::string line;
  if (engine != nullptr) *engine = nullptr;
  const dsv4_status status = guarded(line, DSV4_ERROR_MODEL, [&] {
    expect(model_dir != nullptr && engine != nullptr, DSV4_ERROR_INVALID_ARGUMENT, "dsv4_open: model_dir and engine must not be NULL");
    const dsv4_options given = read_struct(options, dsv4_options{sizeof(dsv4_options), 0, 0, 0, 0, nullptr}, "dsv4_options");
    auto opened = std::make_unique<dsv4_engine>(engine_options(model_dir, given));
    const std::filesystem::path tokenizer_file = opened->engine.options().model_dir / "tokenizer.json";
    if (std::filesystem::exists(tokenizer_file)) opened->tokenizer = dsv4::Tokenizer::from_file(tokenizer_file);
    *engine = opened.release();
  });
  dsv4::capi::write_line(line, message, message_size);
  return status;
}

void dsv4_close(dsv4_engine* engine) {
  delete engine;
}

const char* dsv4_error_message(const dsv4_engine* engine) {
  return engine == nullptr ? "" : engine->message.c_str();
}

int32_t dsv4_vocab_size(const dsv4_engine* engine) {
  return engine->engine.config().vocab_size;
}
int32_t dsv4_max_context(const dsv4_engine* engine) {
  return engine->engine.max_context();
}
int32_t dsv4_bos_token(const dsv4_engine* engine) {
  return engine->engine.config().bos_token_id;
}
int32_t dsv4_eos_token(const dsv4_engine* engine) {
  return engine->engine.config().eos_token_id;
}

dsv4_status dsv4_tokenize(dsv4_engine* engine, const char* text, size_t length, int match_special, int32_t* ids, size_t capacity,
                          size_t* num_ids) {
  if (engine == nullptr) return DSV4_ERROR_INVALID_ARGUMENT;
  return guarded(engine->message, DSV4_ERROR_INVALID_ARGUMENT, [&] {
    expect((text != nullptr || length == 0) && (ids != nullptr || capacity == 0) && num_ids != nullptr, DSV4_ERROR_INVALID_ARGUMENT,
           "dsv4_tokenize: text, ids and num_ids must not be NULL");
    const auto mode = match_special != 0 ? dsv4::SpecialTokens::kMatch : dsv4::SpecialTokens::kPlain;
    const std::vector<int32_t> encoded = tokenizer_of(engine).encode(std::string_view(text, length), mode);
    *num_ids = encoded.size();
    expect(encoded.size() <= capacity, DSV4_ERROR_CAPACITY, "dsv4_tokenize: {} ids, the array holds {}", encoded.size(), capacity);
    std::copy(encoded.begin(), encoded.end(), ids);
  });
}

dsv4_status dsv4_detokenize(dsv4_engine* engine, const int32_t* ids, size_t num_ids, char* text, size_t capacity, size_t* length) {
  if (engine == nullptr) return DSV4_ERROR_INVALID_ARGUMENT;
  return guarded(engine->message, DSV4_ERROR_INVALID_ARGUMENT, [&] {
    expect((ids != nullptr || num_ids == 0) && (text != nullptr || capacity == 0) && length != nullptr, DSV4_ERROR_INVALID_ARGUMENT,
           "dsv4_detokenize: ids, text and length must not be NULL");
    std::string decoded;
    for (int32_t id : std::span(ids, num_ids)) decoded += tokenizer_of(engine).token_bytes(id);
    *length = decoded.size();
    expect(decoded.size() <= capacity, DSV4_ERROR_CAPACITY, "dsv4_detokenize: {} bytes, the array holds {}", decoded.size(), capacity);
    std::copy(decoded.begin(), decoded.end(), text);
  });
}

dsv4_status dsv4_session_open(dsv4_engine* engine, dsv4_session** session) {
  if (session != nullptr) *session = nullptr;
  if (engine == nullptr) return DSV4_ERROR_INVALID_ARGUMENT;
  return guarded(engine->message, DSV4_ERROR_CAPACITY, [&] {
    expect(session != nullptr, DSV4_ERROR_INVALID_ARGUMENT, "dsv4_session_open: session must not be NULL");
    const int sequence_id = engine->engine.open_sequence();
    try {
      *session = new dsv4_session(engine, sequence_id);
    } catch (...) {
      engine->engine.close_sequence(sequence_id);
      throw;
    }
  });
}

void dsv4_session_close(dsv4_session* session) {
  if (session == nullptr) return;
  session->owner->engine.close_sequence(session->sequence_id);
  delete session;
}

dsv4_status dsv4_session_feed(dsv4_session* session, const int32_t* ids, size_t num_ids) {
  if (session == nullptr) return DSV4_ERROR_INVALID_ARGUMENT;
  dsv4::Engine& engine = session->owner->engine;
  return guarded(session->owner->message, DSV4_ERROR_INVALID_ARGUMENT, [&] {
    expect(ids != nullptr || num_ids == 0, DSV4_ERROR_INVALID_ARGUMENT, "dsv4_session_feed: ids must not be NULL");
    const size_t used = engine.tokens(session->sequence_id).size();
    expect(num_ids <= static_cast<size_t>(engine.max_context()) - used, DSV4_ERROR_CAPACITY,
           "{} tokens do not fit: the context holds {}, {} are used", num_ids, engine.max_context(), used);
    std::span<const int32_t> fed(ids, num_ids);
    engine.feed(session->sequence_id, fed);
    // A drawn token that comes back is part of the completion and already counted as such.
    if (!fed.empty() && session->drawn == fed.front()) fed = fed.subspan(1);
    session->drawn.reset();
    session->sampler.observe_prompt(fed);
  });
}

size_t dsv4_session_length(const dsv4_session* session) {
  return session == nullptr ? 0 : session->owner->engine.tokens(session->sequence_id).size();
}

dsv4_status dsv4_session_sample(dsv4_session* session, const dsv4_sampling* sampling, int32_t* token_id, float* logprob) {
  if (session == nullptr) return DSV4_ERROR_INVALID_ARGUMENT;
  return guarded(session->owner->message, DSV4_ERROR_INVALID_ARGUMENT, [&] {
    expect(token_id != nullptr, DSV4_ERROR_INVALID_ARGUMENT, "dsv4_session_sample: token_id must not be NULL");
    session->sampler.set_params(sampling_params(read_struct(sampling, dsv4_sampling_default(), "dsv4_sampling")),
                                session->owner->engine.config().vocab_size);
    compute(session);
    const dsv4::SampledToken token = session->owner->engine.sample(session->sequence_id, session->sampler);
    session->drawn = token.token_id;
    *token_id = token.token_id;
    if (logprob != nullptr) *logprob = token.logprob;
  });
}

dsv4_status dsv4_session_logits(dsv4_session* session, float* logits, size_t capacity) {
  if (session == nullptr) return DSV4_ERROR_INVALID_ARGUMENT;
  return guarded(session->owner->message, DSV4_ERROR_INTERNAL, [&] {
    const size_t vocab_size = static_cast<size_t>(session->owner->engine.config().vocab_size);
    expect(logits != nullptr, DSV4_ERROR_INVALID_ARGUMENT, "dsv4_session_logits: logits must not be NULL");
    expect(capacity >= vocab_size, DSV4_ERROR_CAPACITY, "dsv4_session_logits: {} logits, the array holds {}", vocab_size, capacity);
    compute(session);
    const std::vector<float> computed = session->owner->engine.logits(session->sequence_id);
    std::copy(computed.begin(), computed.end(), logits);
  });
}

dsv4_sampling dsv4_sampling_default(void) {
  return {sizeof(dsv4_sampling), 1.0f, 0, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f, 0};
}
