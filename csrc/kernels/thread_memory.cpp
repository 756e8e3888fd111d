#include "kernels/thread_memory.h"

#include <cstddef>
#include <vector>

namespace icmh::kernels {
namespace {

float* aligned(std::vector<float>& memory, std::int64_t floats) {
  constexpr std::size_t kLine = 64 / sizeof(float);
  if (memory.size() < static_cast<std::size_t>(floats) + kLine) {
    memory.resize(static_cast<std::size_t>(floats) + kLine);
  }
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  return memory.data() + (64 - address % 64) % 64 / sizeof(float);
}

}  // namespace

float* scratch(std::int64_t floats) {
  thread_local std::vector<float> memory;
  return aligned(memory, floats);
}

std::uint32_t* tile_memory(std::int64_t words) {
  thread_local std::vector<float> memory;
  return reinterpret_cast<std::uint32_t*>(aligned(memory, words));
}

}  // namespace icmh::kernels
