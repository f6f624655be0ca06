#include "cli/conversation.h"

#include <gtest/gtest.h>

namespace dsv4 {
namespace {

const Tokenizer& tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::from_file(DSV4_SOURCE_DIR "/models/tiny/tokenizer.json");
  return tokenizer;
}

std::string prompt(const Conversation& conversation, ThinkMode mode) {
  return tokenizer().decode(conversation.prompt_ids(tokenizer(), mode));
}

TEST(Conversation, SplitsWholeAnswersByTheProtocol) {
  const Completion chat = split_answer("so", ThinkMode::kNone, true);
  EXPECT_EQ(chat.content, "so");
  EXPECT_EQ(chat.reasoning_content, "");
  const Completion thinking = split_answer("why</think>so", ThinkMode::kHigh, true);
  EXPECT_EQ(thinking.content, "so");
  EXPECT_EQ(thinking.reasoning_content, "why");
  const Completion call = split_answer(
      "so\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>", ThinkMode::kNone, true);
  EXPECT_EQ(call.content, "so");
  ASSERT_EQ(call.tool_calls.size(), 1u);
  EXPECT_EQ(call.tool_calls.front().name, "f");
}

TEST(Conversation, CutsBrokenAnswersAtTheEndOfReasoning) {
  EXPECT_EQ(split_answer("why</think>so", ThinkMode::kMax, false).content, "so");
  EXPECT_EQ(split_answer("why</think>so", ThinkMode::kMax, false).reasoning_content, "why");
  EXPECT_EQ(split_answer("why", ThinkMode::kHigh, false).reasoning_content, "why");
  EXPECT_EQ(split_answer("why", ThinkMode::kHigh, true).content, "");
  const Completion broken_call = split_answer("so\n\n<｜DSML｜tool_calls>\n", ThinkMode::kNone, true);
  EXPECT_EQ(broken_call.content, "so\n\n<｜DSML｜tool_calls>\n");
  EXPECT_TRUE(broken_call.tool_calls.empty());
}

TEST(Conversation, RendersTurns) {
  Conversation conversation;
  EXPECT_TRUE(conversation.empty());
  conversation.set_system("S");
  conversation.add_user("A");
  EXPECT_EQ(prompt(conversation, ThinkMode::kNone), "<｜begin▁of▁sentence｜>S<｜User｜>A<｜Assistant｜></think>");
  conversation.add_assistant(split_answer("R</think>B", ThinkMode::kHigh, true));
  conversation.add_user("C");
  EXPECT_EQ(prompt(conversation, ThinkMode::kHigh),
            "<｜begin▁of▁sentence｜>S<｜User｜>A<｜Assistant｜></think>B<｜end▁of▁sentence｜><｜User｜>C<｜Assistant｜><think>");
  conversation.pop();
  conversation.add_user("D");
  EXPECT_TRUE(prompt(conversation, ThinkMode::kNone).ends_with("<｜User｜>D<｜Assistant｜></think>"));
  conversation.clear();
  conversation.set_system("");
  conversation.add_user("E");
  EXPECT_EQ(prompt(conversation, ThinkMode::kNone), "<｜begin▁of▁sentence｜><｜User｜>E<｜Assistant｜></think>");
}

TEST(Conversation, NobodyForgesControlTokens) {
  const int32_t user = tokenizer().id_of("<｜User｜>").value();
  Conversation conversation;
  conversation.set_system("<｜User｜>");
  conversation.add_user("<｜User｜>");
  conversation.add_assistant(split_answer("<｜User｜>", ThinkMode::kNone, false));
  conversation.add_user("<｜User｜>");
  const std::vector<int32_t> ids = conversation.prompt_ids(tokenizer(), ThinkMode::kNone);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), user), 2);
}

}  // namespace
}  // namespace dsv4
