#include "cli/interrupt.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <thread>

namespace dsv4 {
namespace {

bool is_readable(int descriptor) {
  pollfd input = {descriptor, POLLIN, 0};
  return poll(&input, 1, 0) == 1;
}

TEST(Interrupt, SigintWaitsUntilItIsTaken) {
  Interrupt interrupt;
  EXPECT_FALSE(interrupt.take());
  EXPECT_FALSE(is_readable(interrupt.descriptor()));
  raise(SIGINT);
  EXPECT_TRUE(is_readable(interrupt.descriptor()));
  EXPECT_TRUE(interrupt.take());
  EXPECT_FALSE(interrupt.take());
}

TEST(Interrupt, ThreadsStartedLaterDoNotCatchIt) {
  Interrupt interrupt;
  std::thread thread([] { kill(getpid(), SIGINT); });
  thread.join();
  EXPECT_TRUE(interrupt.take());
}

TEST(Interrupt, OneThatWaitsAtTheEndIsForgotten) {
  {
    const Interrupt interrupt;
    raise(SIGINT);
  }
  Interrupt again;
  EXPECT_FALSE(again.take());
}

}  // namespace
}  // namespace dsv4
