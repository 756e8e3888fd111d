// What a level's source file gives to kernels/adapter_ops.cpp.
#pragma once

#include <cstdint>

#include "kernels/adapter_ops.h"

namespace icmh::kernels {

struct AdapterOpsLevel {
  std::int64_t (*project_packed_size)(const Projection&);
  void (*project_pack)(const Projection&, float* packed);
  std::int64_t (*project_scratch)(const Projection&);
  void (*project)(const Projection&, const float* packed, std::int64_t begin, std::int64_t end,
                  float* scratch);
  std::int64_t (*modulate_scratch)(const Modulation&);
  void (*modulate)(const Modulation&, std::int64_t begin, std::int64_t end, float* scratch);
  std::int64_t (*gate_scratch)(const FrequencyGate&);
  void (*gate)(const FrequencyGate&, std::int64_t begin, std::int64_t end, float* scratch);
};

extern const AdapterOpsLevel kAdapterOpsScalar, kAdapterOpsNeon, kAdapterOpsAvx2, kAdapterOpsAvx512,
    kAdapterOpsAmx;

}  // namespace icmh::kernels
