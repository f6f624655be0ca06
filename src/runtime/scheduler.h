// Which waiting tokens go into the next step.
#pragma once

#include <span>
#include <vector>

namespace dsv4 {

// A sequence with tokens to compute; order of arrival.
struct Waiting {
  int sequence_id = 0;
  int num_pending = 0;  // ≥ 1
};

// A sequence's share of a step.
struct Scheduled {
  int sequence_id = 0;
  int num_tokens = 0;
};

// Sequences with a single waiting token (decode) come first, so that long prompts do not hold them up; what room is left goes to prompts in
// order of arrival, cut where the step is full. Never more than max_tokens tokens; at least one token whenever any waits and max_tokens
// ≥ 1.
std::vector<Scheduled> schedule_step(std::span<const Waiting> waiting, int max_tokens);

}  // namespace dsv4
