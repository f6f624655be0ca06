#include <signal.h>

#include "cli/conversation.h"
#include "cli/dsv4.h"

namespace dsv4::test {
namespace {

const std::vector<std::string> kGreedy = {"chat", "--temperature", "0", "-n", "24"};

// The answer to the last of these messages, by generate's way of encoding.
std::string answer_alone(const std::string& message, const std::string& mode) {
  return dsv4_output({"generate", "-q", "--temperature", "0", "-n", "24", "--think", mode, message});
}

TEST(Chat, AScriptedConversation) {
  const std::string script =
      "Who was Moses?\n\n   \n/think high\nWho was Noah?\n/reset\nWho was Noah?\n/think none\n/reset\nWho was Noah?\r\n/quit\r\nnever "
      "sent\n";
  const ProcessResult result = run_dsv4(kGreedy, script);
  EXPECT_EQ(result.exit_status, 0) << result.err;
  const std::string first = answer_alone("Who was Moses?", "none");
  const std::string thinking = answer_alone("Who was Noah?", "high");
  const std::string last = answer_alone("Who was Noah?", "none");
  EXPECT_TRUE(result.out.starts_with(first)) << result.out;
  EXPECT_TRUE(result.out.ends_with(thinking + last)) << result.out;
  EXPECT_NE(result.err.find("dsv4: think high\n"), std::string::npos);
  EXPECT_NE(result.err.find("dsv4: a new conversation\n"), std::string::npos);
}

// The second turn continues the first one's sequence. It must say what a fresh sequence says after the same conversation.
TEST(Chat, ASecondTurnSeesTheFirst) {
  EngineOptions engine_options;
  engine_options.model_dir = kTinyModel;
  engine_options.num_threads = 1;
  Engine engine(engine_options);
  const Tokenizer tokenizer = load_tokenizer(kTinyModel);
  GenerationOptions options;
  options.sampling.temperature = 0.0f;
  options.max_tokens = 24;
  Conversation conversation;
  std::string expected;
  std::string script;
  for (const char* message : {"Who was Moses?", "And who was Noah?", "Tell me of the ark."}) {
    script += std::string(message) + "\n";
    conversation.add_user(message);
    const int id = engine.open_sequence();
    Generation generation(engine, tokenizer, id, conversation.prompt_ids(tokenizer, ThinkMode::kNone), options);
    while (!generation.done()) expected += generation.next();
    expected += "\n";
    conversation.add_assistant(split_answer(generation.answer().text(), ThinkMode::kNone, generation.answer().ended_by_eos()));
    engine.close_sequence(id);
  }
  const ProcessResult result = run_dsv4(kGreedy, script);
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_EQ(result.out, expected);
}

TEST(Chat, UnknownCommandsAndBadLinesAreNotesThatEndNothing) {
  const ProcessResult result = run_dsv4(kGreedy, "/frobnicate\n/think deeply\n/think\nbad \xff line\n/help\n/system \xff\n");
  EXPECT_EQ(result.exit_status, 0);
  EXPECT_EQ(result.out, "");
  for (const char* part : {"unknown command /frobnicate", "/think \"deeply\": expected none, high or max", "/think \"\"",
                           "invalid UTF-8 at byte 4", "/system TEXT", "/system: invalid UTF-8"}) {
    EXPECT_NE(result.err.find(part), std::string::npos) << part << ": " << result.err;
  }
}

TEST(Chat, AFullContextIsReportedAndLeft) {
  const ProcessResult result =
      run_dsv4({"chat", "--temperature", "0", "--ignore-eos", "--context", "24"},
               "In the beginning God created the heaven and the earth and the earth was without form and void\nHi\n/reset\nHi\n");
  EXPECT_EQ(result.exit_status, 0);
  EXPECT_NE(result.err.find("dsv4: the context is full: "), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("24 fit; /reset starts a new conversation"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("dsv4: the context of 24 tokens is full, the answer is cut"), std::string::npos) << result.err;
  EXPECT_EQ(lines(result.out).size(), 2u) << result.out;
}

TEST(Chat, InterruptStopsTheAnswerAndNotTheProgram) {
  InteractiveProcess chat({kBinary, "chat", "--temperature", "0", "-n", "0", "--ignore-eos", "--threads", "1"});
  chat.write("Tell me everything about Moses.\n");
  chat.read_until(" ");
  chat.send_signal(SIGINT);
  chat.read_until("\n");
  chat.write("/quit\n");
  const ProcessResult result = chat.finish();
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_EQ(result.signal, 0);
  EXPECT_NE(result.err.find("dsv4: stopped\n"), std::string::npos) << result.err;
}

TEST(Chat, RefusesBadOptions) {
  expect_usage_error({"chat", "--think", "low"}, "--think: \"low\"");
  expect_usage_error({"chat", "extra"}, "extra");
  expect_failure({"chat", "--system", "\xff"}, "--system: invalid UTF-8 at byte 0");
  expect_failure({"chat", "--temperature", "inf"}, "temperature: inf");
}

}  // namespace
}  // namespace dsv4::test
