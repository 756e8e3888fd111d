// The loops of image_out, included once for each instruction set inside a namespace of its own,
// with ICMH_TARGET (the functions' target attribute) defined. They are plain: a compiler makes
// vectors of them, and calls no function of the library, which could be compiled for another
// instruction set. No include guard: several inclusions are the point.

// `count` values, `stride` apart, to bytes.
ICMH_TARGET inline void to_bytes(const float* values, std::int64_t stride, std::int64_t count,
                                 float offset, std::uint8_t* bytes) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = (values[i * stride] + offset) * 255.0f;
    // By the bits: comparisons of floats may trap, so compilers leave them out of vectors. As
    // integers, floats from 0 to infinity are in order; below are negative ones, above is NaN.
    std::int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const std::int32_t counts = bits > 0 && bits <= kInfinity ? ~0 : 0;
    const std::int32_t large = bits >= kWhite ? ~0 : 0;
    bits = ((bits & ~large) | (kWhite & large)) & counts;
    float clamped;
    std::memcpy(&clamped, &bits, sizeof clamped);
    // The last place of the sum is one: it rounds half to even.
    bytes[i] = static_cast<std::uint8_t>(static_cast<std::int32_t>((clamped + kRounder) - kRounder));
  }
}

// Three rows of bytes to pixels.
ICMH_TARGET inline void interleave(const std::uint8_t* __restrict red,
                                   const std::uint8_t* __restrict green,
                                   const std::uint8_t* __restrict blue, std::int64_t count,
                                   std::uint8_t* __restrict pixels) {
  for (std::int64_t i = 0; i < count; ++i) {
    pixels[3 * i] = red[i];
    pixels[3 * i + 1] = green[i];
    pixels[3 * i + 2] = blue[i];
  }
}

// A row of pixels, by way of `bytes`, with room for its whole patches three times, and `run`, once.
template <std::int64_t kPatch>
ICMH_TARGET void pixels_out(const ImageOut& maps, std::int64_t row, std::uint8_t* bytes,
                            float* run) {
  const std::int64_t patch = kPatch == 0 ? maps.patch : kPatch;
  const std::int64_t y = maps.top + row % maps.height;
  const std::int64_t first = maps.left / patch;
  const std::int64_t patches = (maps.left + maps.width - 1) / patch + 1 - first;
  const std::int64_t room = patches * patch;
  // A channel's values of this row of pixels, one patch after the other.
  const std::int64_t value_stride = maps.channels_last ? 1 : maps.rows * maps.columns;
  const std::int64_t patch_stride = maps.channels_last ? 3 * patch * patch : 1;
  const float* const values =
      maps.planes + row / maps.height * maps.rows * maps.columns * 3 * patch * patch +
      (y / patch * maps.columns + first) * patch_stride + y % patch * patch * value_stride;
  for (std::int64_t c = 0; c < 3; ++c) {
    const float* const channel = values + c * patch * patch * value_stride;
    std::uint8_t* const target = bytes + c * room;
    if (patch == 1) {
      to_bytes(channel, patch_stride, patches, maps.offset, target);
      continue;
    }
    for (std::int64_t j = 0; j < patches; ++j) {
      const float* const part = channel + j * patch_stride;
      for (std::int64_t dx = 0; dx < patch; ++dx) run[j * patch + dx] = part[dx * value_stride];
    }
    to_bytes(run, 1, room, maps.offset, target);
  }
  const std::int64_t skip = maps.left - first * patch;
  interleave(bytes + skip, bytes + room + skip, bytes + 2 * room + skip, maps.width,
             maps.image + row * maps.width * 3);
}

ICMH_TARGET inline void rows_out(const ImageOut& maps, std::int64_t begin, std::int64_t end,
                                 std::uint8_t* bytes, float* run) {
  for (std::int64_t row = begin; row < end; ++row) {
    if (maps.patch == 8) {
      pixels_out<8>(maps, row, bytes, run);
    } else if (maps.patch == 1) {
      pixels_out<1>(maps, row, bytes, run);
    } else {
      pixels_out<0>(maps, row, bytes, run);
    }
  }
}
