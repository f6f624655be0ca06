#include "cli/interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace dsv4 {
namespace {

sigset_t only_sigint() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  return signals;
}

}  // namespace

Interrupt::Interrupt() {
  const sigset_t signals = only_sigint();
  descriptor_ = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
  require(descriptor_ >= 0, "signalfd: {}", std::strerror(errno));
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

Interrupt::~Interrupt() {
  take();  // what waits now must not end the process
  const sigset_t signals = only_sigint();
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  close(descriptor_);
}

bool Interrupt::take() {
  signalfd_siginfo signal = {};
  return read(descriptor_, &signal, sizeof(signal)) == static_cast<ssize_t>(sizeof(signal));
}

}  // namespace dsv4
