// Ctrl-C as something to ask for, not something that happens.
#pragma once

namespace dsv4 {

// While it lives, SIGINT neither ends nor interrupts anything but waits here until it is taken. To be made before the process starts its
// threads: they inherit the signal mask.
class Interrupt {
 public:
  // Throws Error where the system has no descriptor left.
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  // True if SIGINT came since the last call.
  bool take();

  // Readable, as poll() sees it, while a SIGINT waits to be taken.
  int descriptor() const { return descriptor_; }

 private:
  int descriptor_;
};

}  // namespace dsv4
