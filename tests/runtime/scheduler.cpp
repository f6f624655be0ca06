#include "runtime/scheduler.h"

#include <gtest/gtest.h>

namespace dsv4 {
namespace {

std::vector<std::pair<int, int>> plan(const std::vector<Waiting>& waiting, int max_tokens) {
  std::vector<std::pair<int, int>> shares;
  for (const Scheduled& scheduled : schedule_step(waiting, max_tokens)) shares.emplace_back(scheduled.sequence_id, scheduled.num_tokens);
  return shares;
}

using Shares = std::vector<std::pair<int, int>>;

TEST(Scheduler, DecodeTokensComeBeforePrompts) {
  EXPECT_EQ(plan({{7, 100}, {3, 1}, {5, 1}}, 10), (Shares{{3, 1}, {5, 1}, {7, 8}}));
}

TEST(Scheduler, PromptsAreCutWhereTheStepIsFull) {
  EXPECT_EQ(plan({{1, 6}, {2, 6}}, 10), (Shares{{1, 6}, {2, 4}}));
  EXPECT_EQ(plan({{1, 20}, {2, 6}}, 10), (Shares{{1, 10}}));
}

TEST(Scheduler, NeverMoreThanTheStepHolds) {
  EXPECT_EQ(plan({{1, 1}, {2, 1}, {3, 1}}, 2), (Shares{{1, 1}, {2, 1}}));
  EXPECT_TRUE(plan({}, 4).empty());
}

}  // namespace
}  // namespace dsv4
