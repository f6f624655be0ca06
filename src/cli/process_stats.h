// What this process has used.
#pragma once

#include <cstdint>

namespace dsv4 {

// Wall time since the system started this process, to 10 ms.
double seconds_since_process_start();

// The most memory that was resident at once.
int64_t peak_resident_bytes();

}  // namespace dsv4
