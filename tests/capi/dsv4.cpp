// The C interface as a program outside the project sees it.
#include "dsv4/dsv4.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

namespace {

constexpr const char* kTiny = DSV4_SOURCE_DIR "/models/tiny";

struct EngineHandle {
  EngineHandle() {
    char message[512];
    const dsv4_options options{sizeof(dsv4_options), 2, 64, 16, 0, nullptr};
    EXPECT_EQ(dsv4_open(kTiny, &options, &engine, message, sizeof message), DSV4_OK) << message;
  }
  ~EngineHandle() { dsv4_close(engine); }
  dsv4_engine* engine = nullptr;
};

struct SessionHandle {
  explicit SessionHandle(dsv4_engine* engine) { EXPECT_EQ(dsv4_session_open(engine, &session), DSV4_OK); }
  ~SessionHandle() { dsv4_session_close(session); }
  dsv4_session* session = nullptr;
};

TEST(CApi, GreedySamplingIsTheArgmaxOfTheLogits) {
  EngineHandle engine;
  SessionHandle session(engine.engine);
  const std::vector<int32_t> prompt{dsv4_bos_token(engine.engine), 100, 200, 300};
  ASSERT_EQ(dsv4_session_feed(session.session, prompt.data(), prompt.size()), DSV4_OK);
  EXPECT_EQ(dsv4_session_length(session.session), 4u);
  std::vector<float> logits(static_cast<size_t>(dsv4_vocab_size(engine.engine)));
  ASSERT_EQ(dsv4_session_logits(session.session, logits.data(), logits.size()), DSV4_OK);
  dsv4_sampling sampling = dsv4_sampling_default();
  sampling.temperature = 0.0f;
  int32_t token_id = -1;
  float logprob = 1.0f;
  ASSERT_EQ(dsv4_session_sample(session.session, &sampling, &token_id, &logprob), DSV4_OK);
  size_t argmax = 0;
  double sum = 0.0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > logits[argmax]) argmax = i;
    sum += std::exp(static_cast<double>(logits[i]));
  }
  EXPECT_EQ(token_id, static_cast<int32_t>(argmax));
  EXPECT_NEAR(logprob, logits[argmax] - std::log(sum), 1e-4);
  EXPECT_EQ(dsv4_session_length(session.session), 4u);
}

TEST(CApi, TheDeviceIsChosenByName) {
  char message[512];
  dsv4_engine* engine = nullptr;
  dsv4_options options{sizeof(dsv4_options), 1, 64, 16, 0, "cpu"};
  EXPECT_EQ(dsv4_open(kTiny, &options, &engine, message, sizeof message), DSV4_OK) << message;
  dsv4_close(engine);
  options.device = "tpu";
  EXPECT_NE(dsv4_open(kTiny, &options, &engine, message, sizeof message), DSV4_OK);
  EXPECT_NE(std::string(message).find("device \"tpu\", expected cpu, cuda or cuda:N"), std::string::npos) << message;
  // A caller built with the header before `device` was there.
  options.struct_size = offsetof(dsv4_options, device);
  EXPECT_EQ(dsv4_open(kTiny, &options, &engine, message, sizeof message), DSV4_OK) << message;
  dsv4_close(engine);
}

TEST(CApi, TextGoesThroughTheTokenizerAndBack) {
  EngineHandle engine;
  const std::string text = "In the beginning was the Word. \xc3\xa9\xf0\x9f\x99\x82 <｜User｜>";
  std::array<int32_t, 256> ids{};
  size_t num_ids = 0;
  ASSERT_EQ(dsv4_tokenize(engine.engine, text.data(), text.size(), 0, ids.data(), ids.size(), &num_ids), DSV4_OK);
  size_t num_special = 0;
  std::array<int32_t, 256> special_ids{};
  ASSERT_EQ(dsv4_tokenize(engine.engine, text.data(), text.size(), 1, special_ids.data(), special_ids.size(), &num_special), DSV4_OK);
  EXPECT_LT(num_special, num_ids) << "the special token is one id only when it may be matched";
  std::array<char, 256> bytes{};
  size_t length = 0;
  ASSERT_EQ(dsv4_detokenize(engine.engine, ids.data(), num_ids, bytes.data(), bytes.size(), &length), DSV4_OK);
  EXPECT_EQ(std::string(bytes.data(), length), text);

  size_t needed = 0;
  EXPECT_EQ(dsv4_tokenize(engine.engine, text.data(), text.size(), 0, ids.data(), 2, &needed), DSV4_ERROR_CAPACITY);
  EXPECT_EQ(needed, num_ids);
  EXPECT_EQ(dsv4_tokenize(engine.engine, "\xff", 1, 0, ids.data(), ids.size(), &needed), DSV4_ERROR_INVALID_ARGUMENT);
}

TEST(CApi, ErrorsCarryAStatusAndOneLineAndChangeNothing) {
  char message[512] = "";
  dsv4_engine* none = nullptr;
  EXPECT_EQ(dsv4_open("/nonexistent", nullptr, &none, message, sizeof message), DSV4_ERROR_MODEL);
  EXPECT_EQ(none, nullptr);
  EXPECT_NE(std::string(message).find("/nonexistent"), std::string::npos);
  EXPECT_EQ(std::string(message).find('\n'), std::string::npos);
  EXPECT_EQ(dsv4_open(nullptr, nullptr, &none, nullptr, 0), DSV4_ERROR_INVALID_ARGUMENT);
  char four[4];
  EXPECT_EQ(dsv4_open("/nonexistent", nullptr, &none, four, sizeof four), DSV4_ERROR_MODEL);
  EXPECT_EQ(four[3], '\0');

  EngineHandle engine;
  SessionHandle first(engine.engine);
  SessionHandle second(engine.engine);
  dsv4_session* third = nullptr;
  EXPECT_EQ(dsv4_session_open(engine.engine, &third), DSV4_ERROR_CAPACITY);
  EXPECT_STREQ(dsv4_error_message(engine.engine), "all 2 sequences are open");
  int32_t token_id = 0;
  EXPECT_EQ(dsv4_session_sample(first.session, nullptr, &token_id, nullptr), DSV4_ERROR_STATE);
  const int32_t bad_id = dsv4_vocab_size(engine.engine);
  EXPECT_EQ(dsv4_session_feed(first.session, &bad_id, 1), DSV4_ERROR_INVALID_ARGUMENT);
  const std::vector<int32_t> long_prompt(65, 5);
  EXPECT_EQ(dsv4_session_feed(first.session, long_prompt.data(), long_prompt.size()), DSV4_ERROR_CAPACITY);
  EXPECT_STREQ(dsv4_error_message(engine.engine), "65 tokens do not fit: the context holds 64, 0 are used");
  EXPECT_EQ(dsv4_session_length(first.session), 0u);
  ASSERT_EQ(dsv4_session_feed(first.session, long_prompt.data(), 3), DSV4_OK);
  dsv4_sampling sampling = dsv4_sampling_default();
  sampling.top_p = 2.0f;
  EXPECT_EQ(dsv4_session_sample(first.session, &sampling, &token_id, nullptr), DSV4_ERROR_INVALID_ARGUMENT);
  sampling = dsv4_sampling_default();
  sampling.struct_size = 10000;
  EXPECT_EQ(dsv4_session_sample(first.session, &sampling, &token_id, nullptr), DSV4_ERROR_INVALID_ARGUMENT);
  float logit = 0.0f;
  EXPECT_EQ(dsv4_session_logits(first.session, &logit, 1), DSV4_ERROR_CAPACITY);
}

// The example is plain C; it must print the same text each time it runs.
TEST(CApi, TheExampleProgramContinuesAText) {
  const auto run = [] {
    FILE* pipe = popen(DSV4_BIN_DIR "/example_generate " DSV4_SOURCE_DIR "/models/tiny 'In the beginning' 20", "r");
    EXPECT_NE(pipe, nullptr);
    std::string output;
    std::array<char, 256> chunk{};
    size_t count = 0;
    while ((count = fread(chunk.data(), 1, chunk.size(), pipe)) > 0) output.append(chunk.data(), count);
    EXPECT_EQ(pclose(pipe), 0);
    return output;
  };
  const std::string output = run();
  EXPECT_GT(output.size(), 20u);
  EXPECT_EQ(output, run());
}

}  // namespace
