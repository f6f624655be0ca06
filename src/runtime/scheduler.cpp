#include "runtime/scheduler.h"

#include <algorithm>

namespace dsv4 {

std::vector<Scheduled> schedule_step(std::span<const Waiting> waiting, int max_tokens) {
  std::vector<Scheduled> step;
  int room = max_tokens;
  const auto admit = [&](const Waiting& sequence) {
    if (room == 0) return;
    const int num_tokens = std::min(sequence.num_pending, room);
    step.push_back({sequence.sequence_id, num_tokens});
    room -= num_tokens;
  };
  for (const Waiting& sequence : waiting) {
    if (sequence.num_pending == 1) admit(sequence);
  }
  for (const Waiting& sequence : waiting) {
    if (sequence.num_pending > 1) admit(sequence);
  }
  return step;
}

}  // namespace dsv4
