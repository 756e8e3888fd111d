#include "stream.h"

#include <stdexcept>

#include "common/crc32c.h"
#include "rans/coder.h"

namespace example {
namespace {

template <typename T>
std::uint32_t checksum(const std::vector<T>& values, std::uint32_t before) {
  return icmh::crc32c(reinterpret_cast<const std::uint8_t*>(values.data()),
                      values.size() * sizeof(T), before);
}

std::vector<std::uint8_t> coded(const std::vector<std::int32_t>& symbols,
                                const std::vector<std::uint8_t>& indexes,
                                const icmh::rans::Tables& tables, std::uint32_t seal) {
  icmh::rans::EncodeOptions options;
  options.seal = static_cast<std::uint16_t>(seal);
  std::vector<std::uint8_t> section;
  const icmh::Status status = icmh::rans::encode<std::int32_t, std::uint8_t>(
      {symbols.data(), symbols.size()}, {indexes.data(), indexes.size()}, tables, options,
      &section);
  if (!status.is_ok()) throw std::runtime_error(status.message());
  return section;
}

void put_varint(std::uint64_t value, std::vector<std::uint8_t>* out) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<std::uint8_t>(value | 0x80));
  out->push_back(static_cast<std::uint8_t>(value));
}

}  // namespace

std::vector<std::uint8_t> write_stream(const Symbols& symbols, const Coding& coding,
                                       std::uint32_t height, std::uint32_t width) {
  // Which row codes a symbol of z depends on its channel alone.
  const std::size_t channels = coding.hyper_index.size();
  if (symbols.z.size() % channels || symbols.y.size() != symbols.indexes.size()) {
    throw std::runtime_error("the engine's outputs do not fit the bundle");
  }
  std::vector<std::uint8_t> rows(symbols.z.size());
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = coding.hyper_index[i % channels];

  // The decoder computes the indexes of y itself: the checksum tells it if they are the same.
  const std::uint32_t latents =
      checksum(symbols.indexes, checksum(symbols.y, checksum(symbols.z, 0)));
  const auto z = coded(symbols.z, rows, coding.tables, latents & 0xFFFF);
  const auto y = coded(symbols.y, symbols.indexes, coding.tables, latents >> 16);

  std::vector<std::uint8_t> out = {'I', 'C', 'M', 'H', /*version*/ 1, /*flags*/ 0};
  out.insert(out.end(), coding.fingerprint, coding.fingerprint + 4);
  out.insert(out.end(), {coding.width_id, /*task human*/ 0, coding.quality});
  put_varint(height, &out);
  put_varint(width, &out);
  put_varint(z.size(), &out);
  put_varint(y.size(), &out);
  out.insert(out.end(), z.begin(), z.end());
  out.insert(out.end(), y.begin(), y.end());
  const std::uint32_t whole = icmh::crc32c(out.data(), out.size(), 0);
  for (int shift = 0; shift < 32; shift += 8) {
    out.push_back(static_cast<std::uint8_t>(whole >> shift));
  }
  return out;
}

}  // namespace example
