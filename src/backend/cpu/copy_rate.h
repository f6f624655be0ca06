// How fast this machine copies memory.
#pragma once

#include "ops/backend.h"

namespace dsv4::cpu {

// Bytes a second read and written together, by every thread of the ops at once, through more memory than caches hold; the best of a few
// runs. Takes a fraction of a second and, for that long, 512 MiB.
double measure_copy_rate(Backend& backend);

}  // namespace dsv4::cpu
