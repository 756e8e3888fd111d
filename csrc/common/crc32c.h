// CRC-32C (Castagnoli; RFC 3720 section 12.1), the checksum of bitstream v1.
#pragma once

#include <cstddef>
#include <cstdint>

namespace icmh {

// The CRC of `size` bytes at `data`, continued from `initial` (0 to start): for any split,
// crc32c(b, nb, crc32c(a, na, 0)) is the CRC of a followed by b.
std::uint32_t crc32c(const std::uint8_t* data, std::size_t size, std::uint32_t initial);

// The table-driven definition that the hardware path must equal; exposed for the tests.
std::uint32_t crc32c_portable(const std::uint8_t* data, std::size_t size, std::uint32_t initial);

}  // namespace icmh
