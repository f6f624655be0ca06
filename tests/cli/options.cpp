#include "cli/options.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"

namespace dsv4 {
namespace {

template <typename Function>
std::string error_of(Function&& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// What the validator makes of `text`; "refused" where it refuses.
std::string validated(const CLI::Validator& validator, std::string text) {
  return validator(text).empty() ? text : "refused";
}

TEST(Options, WholeNumbersAreDecimalAndInRange) {
  const CLI::Validator validator = whole_number(-5, 100);
  for (const char* good : {"0", "100", "-5", "42"}) EXPECT_EQ(validated(validator, good), good);
  EXPECT_EQ(validated(validator, "010"), "10");  // not octal
  for (const char* bad : {"", " 1", "1 ", "101", "-6", "+1", "1.0", "1e1", "0x1", "abc", "99999999999999999999", "-"}) {
    EXPECT_EQ(validated(validator, bad), "refused") << bad;
  }
}

TEST(Options, UnsignedNumbersReachTheLargest) {
  EXPECT_EQ(validated(unsigned_number(), "18446744073709551615"), "18446744073709551615");
  for (const char* bad : {"18446744073709551616", "-1", ""}) EXPECT_EQ(validated(unsigned_number(), bad), "refused") << bad;
}

TEST(Options, LogitBias) {
  EXPECT_EQ(parse_logit_bias("12=-3.5"), (std::pair<int32_t, float>{12, -3.5f}));
  EXPECT_TRUE(std::isinf(parse_logit_bias("0=-inf").second));
  for (const char* bad : {"", "12", "=1", "12=", "x=1", "1=y", "1=2z", "1=nan", "99999999999=1", " 1=1"}) {
    EXPECT_THROW(parse_logit_bias(bad), Error) << bad;
  }
}

TEST(Options, TokenIds) {
  EXPECT_EQ(parse_token_ids(" 1, 2,3\n4 ", 5), (std::vector<int32_t>{1, 2, 3, 4}));
  EXPECT_EQ(parse_token_ids("[0, 4]", 5), (std::vector<int32_t>{0, 4}));
  EXPECT_EQ(parse_token_ids(" ,\n", 5), std::vector<int32_t>{});
  for (const char* bad : {"5", "-1", "1.5", "a", "1x", "99999999999"}) {
    EXPECT_EQ(error_of([&] { parse_token_ids(bad, 5); }), fmt::format("\"{}\" is no token id, expected 0 to 4", bad));
  }
}

TEST(Options, ThinkModesHaveNames) {
  for (ThinkMode mode : {ThinkMode::kNone, ThinkMode::kHigh, ThinkMode::kMax}) EXPECT_EQ(parse_think_mode(think_mode_name(mode)), mode);
  EXPECT_EQ(parse_think_mode("low"), std::nullopt);
  EXPECT_EQ(parse_think_mode(""), std::nullopt);
}

TEST(Options, TheBundledModelIsTheDefault) {
  ModelArguments arguments;
  EXPECT_EQ(std::filesystem::canonical(arguments.model_dir()), std::filesystem::canonical(DSV4_SOURCE_DIR "/models/tiny"));
  EXPECT_TRUE(arguments.is_bundled());
  arguments.model = DSV4_SOURCE_DIR "/models/../models/tiny/";
  EXPECT_TRUE(arguments.is_bundled());
  arguments.model = DSV4_SOURCE_DIR "/tests/data/mini";
  EXPECT_FALSE(arguments.is_bundled());
  EXPECT_EQ(arguments.model_dir(), arguments.model);
}

TEST(Options, ThreadsComeFromTheOptionThenTheEnvironment) {
  Environment environment;
  ModelArguments arguments;
  EXPECT_EQ(arguments.threads(environment), 0);
  environment.num_threads = 3;
  EXPECT_EQ(arguments.threads(environment), 3);
  arguments.num_threads = 2;
  EXPECT_EQ(arguments.threads(environment), 2);
}

TEST(Options, SamplingDefaultsComeFromTheModel) {
  SamplingArguments arguments;
  const SamplingParams params = arguments.resolve(DSV4_SOURCE_DIR "/models/tiny", 100);
  const GenerationDefaults defaults = load_generation_defaults(DSV4_SOURCE_DIR "/models/tiny/generation_config.json");
  EXPECT_EQ(params.temperature, defaults.temperature);
  EXPECT_EQ(params.top_p, defaults.top_p);
  arguments.temperature = 0.5f;
  arguments.top_p = 0.25f;
  arguments.seed = 7;
  arguments.logit_bias = {"3=1", "4=-inf"};
  const SamplingParams given = arguments.resolve(DSV4_SOURCE_DIR "/models/tiny", 100);
  EXPECT_EQ(given.temperature, 0.5f);
  EXPECT_EQ(given.top_p, 0.25f);
  EXPECT_EQ(given.seed, 7u);
  EXPECT_EQ(given.logit_bias.size(), 2u);
  EXPECT_EQ(given.logit_bias.at(3), 1.0f);
}

TEST(Options, SeedsNotGivenDiffer) {
  const SamplingArguments arguments;
  EXPECT_NE(arguments.resolve(".", 10).seed, arguments.resolve(".", 10).seed);
}

}  // namespace
}  // namespace dsv4
