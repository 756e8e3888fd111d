// Bytes, varints and bits of a rANS stream: writers that append, readers that cannot overrun.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/span.h"
#include "rans/format.h"

namespace icmh::rans {

inline void append_varint(std::vector<std::uint8_t>* out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<std::uint8_t>(value | 0x80));
  out->push_back(static_cast<std::uint8_t>(value));
}

inline std::uint32_t load_u16(const std::uint8_t* p) {
  return static_cast<std::uint32_t>(p[0] | p[1] << 8);
}

// Takes a minimal LEB128 number below 2^35 from the front; false if there is none.
inline bool take_varint(Span<const std::uint8_t>* bytes, std::uint64_t* value) {
  *value = 0;
  for (std::size_t i = 0; i < 5 && i < bytes->size; ++i) {
    const std::uint8_t byte = (*bytes)[i];
    *value |= static_cast<std::uint64_t>(byte & 0x7F) << (7 * i);
    if ((byte & 0x80) == 0) {
      if (byte == 0 && i != 0) return false;  // a longer form of a shorter number
      *bytes = bytes->subspan(i + 1, bytes->size - (i + 1));
      return true;
    }
  }
  return false;
}

inline unsigned bit_length(std::uint64_t value) {
#ifdef __GNUC__
  return value == 0 ? 0 : 64 - static_cast<unsigned>(__builtin_clzll(value));
#else
  unsigned length = 0;
  for (; value != 0; value >>= 1) ++length;
  return length;
#endif
}

// Bits, the highest of each byte first; the last byte is filled up with zeros.
class BitWriter {
 public:
  explicit BitWriter(std::vector<std::uint8_t>* out) : out_(out) {}

  // The lowest `count` bits of `bits`.
  void put(std::uint64_t bits, unsigned count) {
    while (count != 0) {
      if (free_ == 0) {
        out_->push_back(0);
        free_ = 8;
      }
      const unsigned taken = count < free_ ? count : free_;
      count -= taken;
      free_ -= taken;
      const auto part = static_cast<unsigned>(bits >> count) & ((1u << taken) - 1);
      out_->back() = static_cast<std::uint8_t>(out_->back() | part << free_);
    }
  }

 private:
  std::vector<std::uint8_t>* out_;
  unsigned free_ = 0;  // bits of the last byte that are not taken yet
};

class BitReader {
 public:
  explicit BitReader(Span<const std::uint8_t> bytes) : bytes_(bytes) {}

  // The next bit; zero past the end, where failed() is true from then on.
  unsigned take() {
    if (position_ / 8 >= bytes_.size) {
      failed_ = true;
      return 0;
    }
    const unsigned bit = bytes_[position_ / 8] >> (7 - position_ % 8) & 1u;
    ++position_;
    return bit;
  }

  // The next `count` bits, the first one highest; at most 64.
  std::uint64_t take(unsigned count) {
    std::uint64_t bits = 0;
    while (count-- != 0) bits = bits << 1 | take();
    return bits;
  }

  bool failed() const { return failed_; }

  // The bytes after the one that was read last.
  Span<const std::uint8_t> rest() const {
    const std::size_t used_bytes = (position_ + 7) / 8;
    return bytes_.subspan(used_bytes, bytes_.size - used_bytes);
  }

  // True if the bits that fill the byte that was read last are zero.
  bool fill_is_zero() const {
    const unsigned used_bits = position_ % 8;
    return used_bits == 0 || (bytes_[position_ / 8] & (0xFFu >> used_bits)) == 0;
  }

 private:
  Span<const std::uint8_t> bytes_;
  std::size_t position_ = 0;
  bool failed_ = false;
};

// A value outside [offset, offset + count), as its distance from the nearer side of that range
// (0 = just outside) and the side.
struct Escape {
  std::uint64_t distance;
  bool below;

  static Escape of(std::int64_t value, std::int64_t offset, std::int64_t count) {
    if (value < offset) return {static_cast<std::uint64_t>(offset - 1 - value), true};
    return {static_cast<std::uint64_t>(value - (offset + count)), false};
  }

  std::int64_t value(std::int64_t offset, std::int64_t count) const {
    const auto signed_distance = static_cast<std::int64_t>(distance);
    return below ? offset - 1 - signed_distance : offset + count + signed_distance;
  }

  // Exponential-Golomb code of order 0 for the distance, then the side.
  unsigned num_bits() const { return 2 * bit_length(distance + 1); }

  void write(BitWriter* writer) const {
    const unsigned length = bit_length(distance + 1);
    writer->put(0, length - 1);
    writer->put(distance + 1, length);
    writer->put(below ? 1 : 0, 1);
  }

  // False if the bits are no such code.
  static bool read(BitReader* reader, Escape* escape) {
    unsigned zeros = 0;
    while (reader->take() == 0) {
      if (reader->failed() || ++zeros > kMaxEscapeZeros) return false;
    }
    escape->distance = (std::uint64_t{1} << zeros | reader->take(zeros)) - 1;
    escape->below = reader->take() != 0;
    return !reader->failed();
  }
};

}  // namespace icmh::rans
