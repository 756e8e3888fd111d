// Memory of the calling thread, kept until it ends: a part of a pass is short, and fresh pages would
// cost as much as it does. Aligned to 64 bytes; the same at the next call, and larger if asked for.
#pragma once

#include <cstdint>

namespace icmh::kernels {

// What a part of a pass works with.
float* scratch(std::int64_t floats);

// Where a panel lies while it is tiles.
std::uint32_t* tile_memory(std::int64_t words);

}  // namespace icmh::kernels
