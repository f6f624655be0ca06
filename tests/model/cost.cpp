#include "model/cost.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

namespace dsv4 {
namespace {

ModelConfig published_config(const char* file) {
  return load_config(std::filesystem::path(DSV4_SOURCE_DIR) / "models" / "configs" / file);
}

// A column of the first table of spec section 8. `layer` is a scored layer of its kind, but for Flash's SWA layers, which all are hash
// layers.
struct LayerColumn {
  const char* file;
  int layer;
  double linear_gflop;
  double attention_mflop[3];  // at 4096, 131072 and 1048576 tokens
  double index_mflop[3];
  int64_t weight_bytes;
  int64_t core;
  int64_t six_experts;
  int64_t shared;
  int64_t compressor;
  int64_t indexer;
  int64_t mhc;
  int64_t router;  // the gate's matrix and bias; a hash layer has no bias
  int64_t norms;
  int64_t kv_bytes[3];
};

constexpr int64_t kContexts[] = {4096, 131072, 1048576};

const LayerColumn kLayers[] = {
    {"flash.json",
     0,
     0.5703,
     {16.8, 16.8, 16.8},
     {0, 0, 0},
     217'607'560,
     106'964'608,
     80'216'064,
     25'167'360,
     0,
     0,
     3'145'944,
     2'097'152,
     16'384,
     {74'752, 74'752, 74'752}},
    {"flash.json",
     4,
     0.6086,
     {83.9, 83.9, 83.9},
     {16.8, 536.9, 4295.0},
     247'515'224,
     106'964'608,
     80'216'064,
     25'167'360,
     16'794'624,
     13'112'064,
     3'145'944,
     2'098'176,
     16'384,
     {443'392, 2'601'984, 18'199'552}},
    {"flash.json",
     3,
     0.5787,
     {21.0, 151.0, 1090.5},
     {0, 0, 0},
     226'260'312,
     106'964'608,
     80'216'064,
     25'167'360,
     8'651'776,
     0,
     3'145'944,
     2'098'176,
     16'384,
     {93'440, 672'768, 4'858'880}},
    {"pro.json",
     4,
     1.5964,
     {302.0, 302.0, 302.0},
     {16.8, 536.9, 4295.0},
     637'810'712,
     299'915'648,
     210'567'168,
     66'064'320,
     29'377'536,
     20'845'568,
     5'505'240,
     5'506'560,
     28'672,
     {742'400, 2'900'992, 18'498'560}},
    {"pro.json",
     3,
     1.5483,
     {41.9, 302.0, 2181.0},
     {0, 0, 0},
     602'530'840,
     299'915'648,
     210'567'168,
     66'064'320,
     14'943'232,
     0,
     5'505'240,
     5'506'560,
     28'672,
     {93'440, 672'768, 4'858'880}},
};

TEST(Cost, LayersAreThoseOfTheSpecification) {
  for (const LayerColumn& column : kLayers) {
    SCOPED_TRACE(std::string(column.file) + " layer " + std::to_string(column.layer));
    const ModelConfig config = published_config(column.file);
    const LayerWeightBytes bytes = model_weight_bytes(config).layers.at(static_cast<size_t>(column.layer));
    EXPECT_EQ(bytes.core, column.core);
    EXPECT_EQ(6 * bytes.expert, column.six_experts);
    EXPECT_EQ(bytes.shared, column.shared);
    EXPECT_EQ(bytes.compressor, column.compressor);
    EXPECT_EQ(bytes.indexer, column.indexer);
    EXPECT_EQ(bytes.mhc, column.mhc);
    EXPECT_EQ(bytes.router, column.router);
    EXPECT_EQ(bytes.router_row, column.layer < 3 ? 48 : 0);
    EXPECT_EQ(bytes.norms, column.norms);
    for (int i = 0; i < 3; ++i) {
      const LayerFlop flop = layer_flop(config, column.layer, kContexts[i]);
      EXPECT_NEAR(flop.linear * 1e-9, column.linear_gflop, 0.00005);
      EXPECT_NEAR(flop.attention * 1e-6, column.attention_mflop[i], 0.05);
      EXPECT_NEAR(flop.index * 1e-6, column.index_mflop[i], 0.05);
      EXPECT_EQ(layer_kv_bytes(config, column.layer, kContexts[i]), column.kv_bytes[i]);
      const StepCost step = decode_layer_costs(config, bytes, column.layer, 1, kContexts[i]).total();
      EXPECT_NEAR(step.weight_bytes, static_cast<double>(column.weight_bytes), 0.5);
      EXPECT_EQ(step.kv_bytes, static_cast<double>(column.kv_bytes[i]));
      EXPECT_NEAR(step.flop, flop.total(), 1e-9 * flop.total());
    }
  }
}

struct ModelColumn {
  const char* file;
  double gflop[3];
  int64_t weight_bytes;
  int64_t kv_bytes[3];
  double milliseconds[3];  // at 4.3e12 bytes a second
};

TEST(Cost, WholeModelsAreThoseOfTheSpecification) {
  const ModelColumn columns[] = {
      {"flash.json", {29.12, 42.64, 140.35}, 11'217'580'396, {11'329'536, 68'246'528, 479'517'696}, {2.611, 2.625, 2.720}},
      {"pro.json", {108.60, 132.27, 303.26}, 39'666'618'460, {25'168'640, 107'885'568, 705'582'080}, {9.231, 9.250, 9.389}},
  };
  for (const ModelColumn& column : columns) {
    SCOPED_TRACE(column.file);
    const ModelConfig config = published_config(column.file);
    const ModelWeightBytes weights = model_weight_bytes(config);
    for (int i = 0; i < 3; ++i) {
      const StepCost cost = decode_costs(config, weights, 1, kContexts[i]).total();
      EXPECT_NEAR(cost.weight_bytes, static_cast<double>(column.weight_bytes), 0.5);
      EXPECT_EQ(cost.kv_bytes, static_cast<double>(column.kv_bytes[i]));
      EXPECT_NEAR(cost.flop * 1e-9, column.gflop[i], 0.005);
      EXPECT_NEAR(cost.bytes() / 4.3e12 * 1e3, column.milliseconds[i], 0.0005);
    }
  }
}

TEST(Cost, ShortContextsReadWhatThereIs) {
  const ModelConfig config = published_config("flash.json");
  EXPECT_EQ(layer_kv_bytes(config, 0, 1), 584);
  EXPECT_EQ(layer_kv_bytes(config, 2, 3), 3 * 584);
  EXPECT_EQ(layer_kv_bytes(config, 2, 8), 10 * 584 + 2 * 68);
  EXPECT_EQ(layer_kv_bytes(config, 3, 127), 127 * 584);
  EXPECT_EQ(layer_kv_bytes(config, 3, 128), 129 * 584);
  EXPECT_EQ(layer_flop(config, 0, 5).attention, 2.0 * 2 * 64 * 512 * 5);
}

// The mean over every way to let two tokens choose 2 of 4 experts.
TEST(Cost, ExpectedExpertsIsTheMeanOverAllChoices) {
  std::vector<int> choices;  // bit sets
  for (int a = 0; a < 4; ++a) {
    for (int b = a + 1; b < 4; ++b) choices.push_back(1 << a | 1 << b);
  }
  double sum = 0.0;
  for (int first : choices) {
    for (int second : choices) sum += __builtin_popcount(static_cast<unsigned>(first | second));
  }
  EXPECT_NEAR(expected_experts(4, 2, 2), sum / static_cast<double>(choices.size() * choices.size()), 1e-12);
  EXPECT_EQ(expected_experts(256, 6, 0), 0.0);
  EXPECT_NEAR(expected_experts(256, 6, 1), 6.0, 1e-12);
  EXPECT_NEAR(expected_experts(8, 8, 3), 8.0, 1e-12);
  EXPECT_NEAR(expected_experts(256, 6, 100000), 256.0, 1e-9);
}

TEST(Cost, ABatchReadsMoreExpertsAndEveryCache) {
  const ModelConfig config = published_config("flash.json");
  const ModelWeightBytes weights = model_weight_bytes(config);
  const StepCost one = decode_costs(config, weights, 1, 4096).total();
  const StepCost many = decode_costs(config, weights, 64, 4096).total();
  EXPECT_EQ(many.kv_bytes, 64 * one.kv_bytes);
  EXPECT_NEAR(many.flop, 64 * one.flop, 1e-6 * many.flop);
  const double experts = 256.0 * (1.0 - std::pow(1.0 - 6.0 / 256.0, 64)) - 6.0;
  const double rows = 63.0 * (4096 * 2 + 3 * 48);
  EXPECT_NEAR(many.weight_bytes - one.weight_bytes, 43 * experts * 80'216'064.0 / 6.0 + rows, 1.0);
}

TEST(Cost, APromptCostsItsTokensOneByOne) {
  const ModelConfig config = published_config("flash.json");
  const ModelWeightBytes weights = model_weight_bytes(config);
  for (int layer : {0, 2, 3}) {
    const LayerWeightBytes& bytes = weights.layers[static_cast<size_t>(layer)];
    double flop = 0.0;
    for (int64_t context = 101; context <= 400; ++context) flop += decode_layer_costs(config, bytes, layer, 1, context).total().flop;
    const StepCost prompt = prefill_layer_costs(config, bytes, layer, 100, 300).total();
    EXPECT_NEAR(prompt.flop, flop, 1e-9 * flop);
    EXPECT_EQ(prompt.kv_bytes, static_cast<double>(layer_kv_bytes(config, layer, 400)));
    EXPECT_NEAR(prompt.weight_bytes, decode_layer_costs(config, bytes, layer, 300, 1).total().weight_bytes, 1e-3);
    EXPECT_EQ(prefill_layer_costs(config, bytes, layer, 100, 0).total().flop, 0.0);
  }
}

// "Weight bytes by part" of spec section 8, and what the parts of a step are.
TEST(Cost, PartsOfAStepAreThoseOfTheSpecification) {
  const ModelConfig config = published_config("flash.json");
  const StepCosts costs = decode_costs(config, model_weight_bytes(config), 1, 4096);
  EXPECT_NEAR(costs.of(CostPart::kExperts).weight_bytes, 3'449'290'752.0 + 1'082'196'480.0, 0.5);
  EXPECT_EQ(costs.of(CostPart::kMhc).weight_bytes, 135'537'756.0);  // spec 5.3: the head's included
  EXPECT_EQ(costs.of(CostPart::kRouter).weight_bytes, 90'218'640.0);
  const double wo_a = 43.0 * (8192.0 * 4096.0 + 64.0 * 32.0);
  EXPECT_EQ(costs.of(CostPart::kGrouped).weight_bytes, wo_a);
  EXPECT_EQ(costs.of(CostPart::kProducts).weight_bytes, 4'599'478'144.0 - wo_a + 525'722'624.0 + 275'353'344.0 + 1'059'061'760.0);
  EXPECT_EQ(costs.of(CostPart::kOther).weight_bytes, 712'704.0 + 8192.0);
  EXPECT_EQ(costs.of(CostPart::kIndexScores).kv_bytes, 21.0 * 68 * 1024);
  EXPECT_EQ(costs.of(CostPart::kAttention).kv_bytes, 584.0 * (2 * 128 + 21 * 640 + 20 * 160));
  EXPECT_NEAR(costs.of(CostPart::kGrouped).flop, 43.0 * 2 * 8192 * 4096, 1.0);
  EXPECT_NEAR(costs.of(CostPart::kRouter).flop, 43.0 * 2 * 256 * 4096, 1.0);
}

TEST(Cost, APromptReadsWeightsOnceAndMakesNoLogits) {
  const ModelConfig config = published_config("flash.json");
  const ModelWeightBytes weights = model_weight_bytes(config);
  const StepCosts prompt = prefill_costs(config, weights, 0, 1);
  const StepCosts step = decode_costs(config, weights, 1, 1);
  EXPECT_EQ(prompt.of(CostPart::kExperts).weight_bytes, step.of(CostPart::kExperts).weight_bytes);
  EXPECT_EQ(step.of(CostPart::kProducts).weight_bytes - prompt.of(CostPart::kProducts).weight_bytes, 1'059'061'760.0);
  EXPECT_EQ(step.of(CostPart::kProducts).flop - prompt.of(CostPart::kProducts).flop, 2.0 * 129280 * 4096);
  EXPECT_EQ(prompt.total().kv_bytes, step.total().kv_bytes);
}

}  // namespace
}  // namespace dsv4
