// What this process has used.
#pragma once

#include <cstdint>

namespace dsv4 {

// Wall time since the system started this process, to 10 ms. A process that became dsv4 by exec() counts from its own start.
double seconds_since_process_start();

// The most memory that was resident at once.
int64_t peak_resident_bytes();

}  // namespace dsv4
