#include "kernels/images_cpu.h"

#include <cstddef>
#include <cstring>
#include <vector>

namespace icmh::kernels {
namespace {

// Bits of floats.
constexpr std::int32_t kInfinity = 0x7F800000;
constexpr std::int32_t kWhite = 0x437F0000;  // 255
constexpr float kRounder = 12582912.0f;      // 1.5 * 2^23

namespace portable {
#define ICMH_TARGET
#include "kernels/images_loops.h"
#undef ICMH_TARGET
}  // namespace portable

#ifdef ICMH_SIMD_X86
namespace avx2 {
#define ICMH_TARGET __attribute__((target("avx2")))
#include "kernels/images_loops.h"
#undef ICMH_TARGET
}  // namespace avx2

namespace avx512 {
#define ICMH_TARGET __attribute__((target("avx2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")))
#include "kernels/images_loops.h"
#undef ICMH_TARGET
}  // namespace avx512
#endif

std::int64_t clamp(std::int64_t value, std::int64_t last) {
  return value < 0 ? 0 : value > last ? last : value;
}

// Row y of the padded map, 3 * width bytes; `room` is for as many. Null for black.
const std::uint8_t* padded_row(const ImageIn& maps, std::int64_t image, std::int64_t y,
                               std::uint8_t* room) {
  const std::int64_t line = y - maps.top;
  const std::int64_t source = clamp(line, maps.image_height - 1);
  if (source != line && !maps.edge) return nullptr;
  const std::uint8_t* const pixels =
      maps.image + (image * maps.image_height + source) * maps.image_width * 3;
  if (maps.left <= 0 && maps.width - maps.left <= maps.image_width) return pixels - 3 * maps.left;
  const std::int64_t last = maps.image_width - 1;
  for (std::int64_t x = 0; x < maps.width; ++x) {
    const std::int64_t from = clamp(x - maps.left, last);
    const bool black = from != x - maps.left && !maps.edge;
    if (from == x - maps.left) {
      // The whole of the image's row at once.
      const std::int64_t left = maps.image_width - from;
      const std::int64_t count = left < maps.width - x ? left : maps.width - x;
      std::memcpy(room + 3 * x, pixels + 3 * from, static_cast<std::size_t>(3 * count));
      x += count - 1;
      continue;
    }
    for (int c = 0; c < 3; ++c) room[3 * x + c] = black ? std::uint8_t{0} : pixels[3 * from + c];
  }
  return room;
}

template <std::int64_t kPatch, typename Value>
void patches_in(const ImageIn& maps, std::int64_t row, std::uint8_t* room,
                const std::uint8_t* black) {
  const std::int64_t patch = kPatch == 0 ? maps.patch : kPatch;
  const std::int64_t area = patch * patch;
  const std::int64_t columns = maps.width / patch, rows = maps.height / patch;
  const std::int64_t image = row / rows, i = row % rows;
  const auto* const table = static_cast<const Value*>(maps.table);
  auto* const planes = static_cast<Value*>(maps.planes) + image * 3 * area * rows * columns;
  for (std::int64_t dy = 0; dy < patch; ++dy) {
    const std::uint8_t* pixels = padded_row(maps, image, i * patch + dy, room);
    if (pixels == nullptr) pixels = black;
    if (maps.channels_last) {
      Value* out = planes + i * columns * 3 * area + dy * patch;
      for (std::int64_t j = 0; j < columns; ++j, out += 3 * area, pixels += 3 * patch) {
        for (std::int64_t c = 0; c < 3; ++c) {
          for (std::int64_t dx = 0; dx < patch; ++dx) {
            out[c * area + dx] = table[pixels[3 * dx + c]];
          }
        }
      }
      continue;
    }
    for (std::int64_t c = 0; c < 3; ++c) {
      for (std::int64_t dx = 0; dx < patch; ++dx) {
        Value* const out =
            planes + (c * area + dy * patch + dx) * rows * columns + i * columns;
        for (std::int64_t j = 0; j < columns; ++j) {
          out[j] = table[pixels[3 * (j * patch + dx) + c]];
        }
      }
    }
  }
}

template <typename Value>
void rows_in(const ImageIn& maps, std::int64_t begin, std::int64_t end) {
  std::vector<std::uint8_t> memory(static_cast<std::size_t>(6 * maps.width));
  std::uint8_t* const room = memory.data();
  const std::uint8_t* const black = room + 3 * maps.width;
  for (std::int64_t row = begin; row < end; ++row) {
    if (maps.patch == 8) {
      patches_in<8, Value>(maps, row, room, black);
    } else {
      patches_in<0, Value>(maps, row, room, black);
    }
  }
}

}  // namespace

void image_in(const ImageIn& maps, std::int64_t begin, std::int64_t end) {
  if (maps.bytes_of_value == 2) {
    rows_in<std::uint16_t>(maps, begin, end);
  } else {
    rows_in<std::uint32_t>(maps, begin, end);
  }
}

void image_out(const ImageOut& maps, std::int64_t begin, std::int64_t end, SimdLevel level) {
  // As many whole patches as can touch the window.
  const auto room = static_cast<std::size_t>(maps.width + 2 * maps.patch);
  std::vector<std::uint8_t> bytes(3 * room);
  std::vector<float> run(room);
  switch (level) {
#ifdef ICMH_SIMD_X86
    case SimdLevel::avx512:
      return avx512::rows_out(maps, begin, end, bytes.data(), run.data());
    case SimdLevel::avx2:
      return avx2::rows_out(maps, begin, end, bytes.data(), run.data());
#endif
    default:
      return portable::rows_out(maps, begin, end, bytes.data(), run.data());
  }
}

}  // namespace icmh::kernels
