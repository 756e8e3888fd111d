// Where a thread keeps a panel while it lies as tiles.
#pragma once

#include <cstdint>

namespace icmh::kernels {

// So many words of the calling thread, aligned to 64 bytes; the same ones at the next call.
std::uint32_t* tile_memory(std::int64_t words);

}  // namespace icmh::kernels
