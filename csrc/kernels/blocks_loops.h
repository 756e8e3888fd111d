// All loops of kernels/blocks_level.h for one level of kernels/vector.h.
#pragma once

#include "kernels/blocks_level.h"
#include "kernels/convolution_loops.h"
#include "kernels/depth_conv_block_loops.h"
#include "kernels/gdn_loops.h"

namespace icmh::kernels {
namespace {

constexpr BlocksLevel kLevelBlocks = {
    level_depth_conv_packed_size,  level_depth_conv_pack,  level_depth_conv_scratch,
    level_depth_conv_rows,         level_gdn_packed_size,  level_gdn_pack,
    level_gdn_scratch,             level_gdn_positions,    level_convolution_packed_size,
    level_convolution_pack,        level_convolution_scratch, level_convolution_positions,
};

}  // namespace
}  // namespace icmh::kernels
