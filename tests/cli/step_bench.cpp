#include "cli/step_bench.h"

#include <gtest/gtest.h>

#include "support/error_of.h"

namespace dsv4 {
namespace {

using test::error_of;

EngineOptions mini_options(int max_sequences) {
  EngineOptions options;
  options.model_dir = DSV4_SOURCE_DIR "/tests/data/mini";
  options.max_sequences = max_sequences;
  options.step_tokens = 64;
  return options;
}

StepBenchOptions bench_options(const Engine& engine) {
  StepBenchOptions options;
  options.machine = "a machine";
  options.command = "a command";
  options.model_name = "mini";
  options.full_config = engine.config();
  options.num_steps = 5;
  return options;
}

TEST(StepBench, ADecodeStepIsHeldAgainstItsFloor) {
  Engine engine(mini_options(3));
  StepBench bench(engine, bench_options(engine));
  const BenchResult result = bench.decode(3, 100);
  EXPECT_EQ(result.bench, "decode");
  EXPECT_EQ(result.setup.at("batch"), 3);
  EXPECT_EQ(result.setup.at("context"), 100);
  EXPECT_EQ(result.setup.at("cache"), "computed");
  const auto figure = [&](const char* key) { return result.figures.at(key).get<double>(); };
  const StepCost cost = decode_costs(engine.config(), model_weight_bytes(engine.config()), 3, 100).total();
  EXPECT_NEAR(figure("weight_bytes"), cost.weight_bytes, 1.0);
  EXPECT_NEAR(figure("kv_bytes"), cost.kv_bytes, 1.0);
  EXPECT_NEAR(figure("floor_ms"), 1e-6 * cost.bytes() / figure("copy_gb_per_second"), 1e-3 * figure("floor_ms"));
  EXPECT_NEAR(figure("times_floor"), figure("step_ms") / figure("floor_ms"), 1e-3 * figure("times_floor"));
  EXPECT_NEAR(figure("tokens_per_second"), 3e3 / figure("step_ms"), 1e-3 * figure("tokens_per_second"));
  EXPECT_LE(figure("step_ms_p10"), figure("step_ms"));
  EXPECT_LE(figure("step_ms"), figure("step_ms_p90"));
  EXPECT_EQ(figure("allocations"), 0.0);
  EXPECT_GT(figure("copy_gb_per_second"), 0.1);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(engine.open_sequence(), i) << "sequences were left open";
}

TEST(StepBench, MeasurementsFollowEachOtherOnOneEngine) {
  Engine engine(mini_options(2));
  StepBench bench(engine, bench_options(engine));
  for (int batch : {2, 1}) {
    for (int context : {15, 256}) EXPECT_GT(bench.decode(batch, context).figures.at("step_ms").get<double>(), 0.0);
  }
  EXPECT_EQ(error_of([&] { bench.decode(1, 14); }), "context 14: 5 steps and 9 before them need at least 15 tokens");
  EXPECT_EQ(error_of([&] { bench.decode(1, 257); }), "context 257: the engine holds 256");
}

TEST(StepBench, APromptIsComputedInChunks) {
  Engine engine(mini_options(1));
  StepBench bench(engine, bench_options(engine));
  const BenchResult result = bench.prefill(40, 100, 48);
  EXPECT_EQ(result.setup.at("chunk"), 48);
  const auto figure = [&](const char* key) { return result.figures.at(key).get<double>(); };
  EXPECT_NEAR(figure("tokens_per_second"), 1e5 / figure("ms"), 1e-3 * figure("tokens_per_second"));
  // Weights once per chunk, operations once per token.
  const ModelWeightBytes weights = model_weight_bytes(engine.config());
  double weight_bytes = 0.0;
  for (int tokens : {48, 48, 4}) weight_bytes += prefill_costs(engine.config(), weights, 0, tokens).total().weight_bytes;
  EXPECT_NEAR(figure("weight_bytes"), weight_bytes, 1.0);
  const double flop = prefill_costs(engine.config(), weights, 40, 100).total().flop;
  EXPECT_NEAR(figure("flop"), flop, 1e-6 * flop);
  EXPECT_TRUE(result.figures.at("full_ms").is_null()) << "the CPU has no launches to tell layers apart by";
  EXPECT_EQ(error_of([&] { bench.prefill(0, 10, 65); }), "chunk 65: expected 1 to 64");
}

TEST(StepBench, AResultIsALineOfAResultsFile) {
  Engine engine(mini_options(1));
  StepBench bench(engine, bench_options(engine));
  const BenchResult result = bench.decode(1, 30);
  const nlohmann::ordered_json json = result.json();
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"bench", "machine", "date", "command", "setup", "figures", "ops", "parts"}));
  EXPECT_EQ(json.at("machine"), "a machine");
  EXPECT_EQ(json.at("command"), "a command");
  EXPECT_EQ(json.at("date").get<std::string>().size(), 10u);
  const std::string text = result_text(result);
  EXPECT_NE(text.find("decode, batch 1, context 30 (computed), 4 layers"), std::string::npos) << text;
  EXPECT_NE(text.find("times the floor"), std::string::npos) << text;
}

// What a device's profile becomes, in numbers of one's own.
TEST(StepBench, OpsAndPartsArePrintedWithTheirRates) {
  BenchResult result;
  result.bench = "prefill";
  result.setup = {{"tokens", 8}, {"context", 0}, {"chunk", 4}, {"layers", 2}, {"full_layers", 43}};
  result.figures = {{"ms", 2.0},       {"tokens_per_second", 4000.0},    {"tflops", 1.5}, {"copy_gb_per_second", 4000.0},
                    {"full_ms", 50.0}, {"full_tokens_per_second", 160.0}};
  result.ops = {{{"op", "experts"}, {"launches", 3}, {"us", 100.0}, {"share", 0.25}}};
  result.parts = {{{"part", "experts"}, {"us", 100.0}, {"bytes", 2e8}, {"flop", 3e9}},
                  {{"part", "other"}, {"us", 10.0}, {"bytes", 2e8}, {"flop", 0.0}}};
  const std::string text = result_text(result);
  EXPECT_NE(text.find("scaled to 43 layers: 50.00 ms, 160.0 tokens/s"), std::string::npos) << text;
  EXPECT_NE(text.find("100.0   25.0%"), std::string::npos) << text;
  EXPECT_NE(text.find("2000.0     50.0%      30.00"), std::string::npos) << text;
  EXPECT_EQ(text.find("20000.0"), std::string::npos) << "a rate for ops whose bytes are not known:\n" << text;
}

}  // namespace
}  // namespace dsv4
