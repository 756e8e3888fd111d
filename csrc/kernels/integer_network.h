// The integer hyper-synthesis: which rows of the CDF table code a latent, and its mean, in integers.
// docs/integer_hyper_synthesis.md is normative. After Ballé, Johnston, Minnen, "Integer networks for
// data compression with latent-variable models", ICLR 2019.
//
// Read me first: feature maps are channels-last, (height, width, channels). Hidden values are int16,
// weights int16, accumulators int32. Every layer computes, for each output channel o,
//     y = clamp((acc[o] + half(shift[o])) >> shift[o], lo[o], hi[o]),  half(s) = s ? 1 << (s - 1) : 0
// with >> rounding towards minus infinity. The caller has proven that |acc + half| and every partial
// sum of it stay below 2^24 (icmh_rt/models/integer_network.py does), so nothing here can overflow,
// and integer arithmetic makes the result independent of instruction set, tiling and threads.
#pragma once

#include <cstdint>
#include <memory>

namespace icmh {

enum class IntegerOp : std::int32_t {
  conv1x1 = 0,       // weight (out, in)
  conv3x3 = 1,       // weight (out, 3, 3, in), zero padding of 1
  depthwise3x3 = 2,  // weight (out, 3, 3), in == out, zero padding of 1
};

// A layer as the caller has it: views of C-contiguous arrays with `out_channels` rows.
struct IntegerLayerView {
  IntegerOp op;
  std::int32_t in_channels;
  std::int32_t out_channels;  // before the shuffle
  bool shuffle;               // then (H, W, 4C) -> (2H, 2W, C), channel c * 4 + dy * 2 + dx
  const std::int16_t* weight;
  const std::int32_t* bias;
  const std::uint8_t* shift;  // 0..23
  const std::int32_t* low;    // the clamp, inside int16
  const std::int32_t* high;
};

// The whole network. Tables have one row a quality, `qualities` rows.
struct IntegerNetworkView {
  const IntegerLayerView* trunk;
  std::int32_t trunk_layers;
  IntegerLayerView mean_head;   // conv1x1, no shuffle
  IntegerLayerView scale_head;  // conv1x1, no shuffle
  std::int32_t qualities;
  // Input: clamp((clamp(z, -z_limit, z_limit) * z_multiplier + half) >> z_shift, +-input_limit).
  const std::int32_t* z_multiplier;  // (qualities, z channels)
  const std::int32_t* z_limit;       // (qualities, z channels)
  std::int32_t z_shift;
  std::int32_t input_limit;
  // Mean: clamp((mean_head * mean_multiplier + half(mean_shift)) >> mean_shift, +-mean_limit).
  const std::int32_t* mean_multiplier;  // (qualities, latent channels)
  const std::uint8_t* mean_shift;       // (qualities, latent channels)
  std::int32_t mean_limit;
  // Scale: clamp((scale_head + index_offset + half(index_bits)) >> index_bits, 0, scales - 1).
  const std::int32_t* index_offset;  // (qualities, latent channels)
  std::int32_t index_bits;
  std::int32_t scales;  // 1..256
};

// How to compute it. `scalar` is the definition; the others reproduce it.
enum class IntegerLevel : std::int32_t { scalar = 0, portable, avx2, avx512, avx512vnni };
constexpr std::int32_t kIntegerLevels = 5;
const char* integer_level_name(IntegerLevel level);
bool integer_level_supported(IntegerLevel level);  // compiled in, and this CPU has it
IntegerLevel integer_level_best();  // the fastest supported one that simd_level() allows

class IntegerNetwork;  // weights packed once; immutable, so threads may share one
struct IntegerNetworkDeleter {
  void operator()(IntegerNetwork* network) const;
};
using IntegerNetworkPointer = std::unique_ptr<IntegerNetwork, IntegerNetworkDeleter>;

// Packs a network, copying all of it. Null when its layers do not fit together: channel counts that
// do not chain, a head that is not conv1x1, a shift above 23, or a clamp or table out of range.
IntegerNetworkPointer integer_network_pack(const IntegerNetworkView& view);

std::int32_t integer_network_z_channels(const IntegerNetwork& network);
std::int32_t integer_network_latent_channels(const IntegerNetwork& network);
std::int32_t integer_network_qualities(const IntegerNetwork& network);
std::int32_t integer_network_upsampling(const IntegerNetwork& network);  // 2^shuffles

// Runs it. z (height, width, z channels) -> mean and index, each
// (upsampling * height, upsampling * width, latent channels). quality_row is 0-based; threads >= 1
// are at most used, of the pool that the library shares.
// False when an argument is out of range or the level is not supported; nothing is written then.
bool integer_network_run(const IntegerNetwork& network, const std::int32_t* z, std::int64_t height,
                         std::int64_t width, std::int32_t quality_row, IntegerLevel level,
                         std::int32_t threads, std::int32_t* mean, std::uint8_t* index);

}  // namespace icmh
