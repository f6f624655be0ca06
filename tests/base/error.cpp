#include "base/error.h"

#include <gtest/gtest.h>

#include <string>

namespace dsv4 {
namespace {

template <typename Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Error, FailFormatsItsLine) {
  EXPECT_EQ(message_of([] { fail("{}: shape [{},{}], expected [{},{}]", "layers.3.attn.wq_b.scale", 256, 7, 256, 8); }),
            "layers.3.attn.wq_b.scale: shape [256,7], expected [256,8]");
}

TEST(Error, RequireThrowsOnlyWhenTheConditionFails) {
  EXPECT_EQ(message_of([] { require(true, "never {}", 1); }), "no error");
  EXPECT_EQ(message_of([] { require(false, "got {}", std::string("x")); }), "got x");
}

TEST(Error, IsAStandardException) {
  EXPECT_THROW(fail("x"), std::runtime_error);
}

}  // namespace
}  // namespace dsv4
