#include "text/chat_messages.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"

namespace dsv4 {
namespace {

// "role[blocks]" of every message; a block is t:TEXT or r:RESULT.
std::string outline(const std::vector<ChatMessage>& messages) {
  std::string text;
  for (const ChatMessage& message : messages) {
    if (!text.empty()) text += " ";
    text += message.role;
    if (message.blocks.empty()) continue;
    text += "[";
    for (const ContentBlock& block : message.blocks) {
      if (&block != message.blocks.data()) text += ",";
      text += (block.is_tool_result ? "r:" : "t:") + (block.content == nullptr ? "-" : block.content->string());
    }
    text += "]";
  }
  return text;
}

std::string merged(const char* json) {
  const Json messages = Json::parse(json);
  return outline(merge_messages(messages, "messages"));
}

TEST(ChatMessages, MergesUserAndToolMessages) {
  EXPECT_EQ(merged(R"([{"role":"user","content":"a"},{"role":"user","content":"b"}])"), "user[t:a,t:b]");
  EXPECT_EQ(merged(R"([{"role":"tool","content":"a"},{"role":"tool"},{"role":"user","content":"b"}])"), "user[r:a,r:-,t:b]");
  EXPECT_EQ(merged(R"([{"role":"user","content":"a"},{"role":"system"},{"role":"user","content":"b"}])"), "user[t:a] system user[t:b]");
  EXPECT_EQ(merged("[]"), "");
}

TEST(ChatMessages, ATaskEndsAUserTurnForUserMessagesOnly) {
  EXPECT_EQ(merged(R"([{"role":"user","content":"a","task":"query"},{"role":"user","content":"b"}])"), "user[t:a] user[t:b]");
  EXPECT_EQ(merged(R"([{"role":"user","content":"a","task":null},{"role":"user","content":"b"}])"), "user[t:a,t:b]");
  EXPECT_EQ(merged(R"([{"role":"user","content":"a","task":"query"},{"role":"tool","content":"b"}])"), "user[t:a,r:b]");
}

TEST(ChatMessages, UserTurnsKeepOnlyTheirTask) {
  const Json messages = Json::parse(
      R"([{"role":"user","content":"a","task":"query","tools":[1],"response_format":{"a":1}},{"role":"assistant","tools":[1]}])");
  const auto turns = merge_messages(messages, "messages");
  EXPECT_TRUE(turns[0].has_value("task"));
  EXPECT_FALSE(turns[0].has_truthy("tools"));
  EXPECT_FALSE(turns[0].has_truthy("response_format"));
  EXPECT_TRUE(turns[1].has_truthy("tools"));
  EXPECT_FALSE(turns[1].has_value("task"));
}

TEST(ChatMessages, RefusesWhatIsNoListOfObjects) {
  for (const char* json : {"{}", "null", "[1]", "[[]]", "\"x\""})
    EXPECT_THROW(merge_messages(Json::parse(json), "messages"), Error) << json;
}

std::string ordered(const std::string& calls, const std::string& results) {
  const Json messages = Json::parse(R"([{"role":"assistant","tool_calls":)" + calls + "}," + results + "]");
  auto turns = merge_messages(messages, "messages");
  CallOrder order;
  order_tool_results(turns, order);
  return outline(turns);
}

TEST(ChatMessages, OrdersToolResultsByTheirCalls) {
  const std::string results = R"({"role":"tool","tool_call_id":"3","content":"c"},{"role":"user","content":"x"},
                                 {"role":"tool","tool_call_id":"1","content":"a"},{"role":"tool","tool_call_id":"2","content":"b"})";
  // Texts stay where they are; results fill the places of results.
  EXPECT_EQ(ordered(R"([{"id":"1"},{"id":"2"},{"id":"3"}])", results), "assistant user[r:a,t:x,r:b,r:c]");
  // Unknown ids count as the first call; equals keep their order.
  EXPECT_EQ(ordered(R"([{"id":"9"},{"id":"1"}])", results), "assistant user[r:c,t:x,r:b,r:a]");
  // The id may be on the function; an empty id is none.
  EXPECT_EQ(ordered(R"([{"id":"","function":{"id":"1"}},{"id":null,"function":{"id":"2"}},{"function":{"id":"3"}}])", results),
            "assistant user[r:a,t:x,r:b,r:c]");
  // Without ids nothing moves.
  EXPECT_EQ(ordered(R"([{"id":""},{}])", results), "assistant user[r:c,t:x,r:a,r:b]");
  // Of a repeated id the last index counts.
  EXPECT_EQ(ordered(R"([{"id":"1"},{"id":"2"},{"id":"1"},{"id":"3"}])", results), "assistant user[r:b,t:x,r:a,r:c]");
}

TEST(ChatMessages, CallsOfTheContextCount) {
  const Json context = Json::parse(R"([{"role":"assistant","tool_calls":[{"id":"1"},{"id":"2"}]}])");
  const Json messages =
      Json::parse(R"([{"role":"tool","tool_call_id":"2","content":"b"},{"role":"tool","tool_call_id":"1","content":"a"}])");
  CallOrder order;
  note_tool_calls(context, order);
  auto turns = merge_messages(messages, "messages");
  order_tool_results(turns, order);
  EXPECT_EQ(outline(turns), "user[r:a,r:b]");
}

TEST(ChatMessages, DropRemovesDeveloperAndUnknownBeforeTheLastUser) {
  const Json messages =
      Json::parse(R"([{"role":"system"},{"role":"developer"},{"role":"odd"},{"role":"assistant"},{"role":"latest_reminder"},
                                        {"role":"direct_search_results"},{"role":"user","content":"a"},{"role":"odd"},
                                        {"role":"assistant"}])");
  const auto turns = merge_messages(messages, "messages");
  EXPECT_EQ(last_user_index(turns), 6);
  EXPECT_EQ(outline(drop_messages(turns)), "system assistant latest_reminder direct_search_results user[t:a] odd assistant");
}

TEST(ChatMessages, DropWithoutUserKeepsAll) {
  const Json messages = Json::parse(R"([{"role":"odd"},{"role":"assistant"}])");
  const auto turns = merge_messages(messages, "messages");
  EXPECT_EQ(last_user_index(turns), -1);
  EXPECT_EQ(outline(drop_messages(turns)), "odd assistant");
}

}  // namespace
}  // namespace dsv4
