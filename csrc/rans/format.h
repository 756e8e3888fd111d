// Constants of the rANS stream, their only home in C++. docs/rans.md is the normative text.
#pragma once

#include <cstddef>
#include <cstdint>

namespace icmh::rans {

constexpr unsigned kMinPrecision = 12;
constexpr unsigned kMaxPrecision = 16;

// States live in [2^16, 2^32) and move 16-bit words. A symbol of frequency >= 1 at precision <= 16
// leaves a state of at least 1, so one word always brings it back: every lane reads at most one
// word per symbol, which is what lets a vector of lanes renormalise in one step.
constexpr unsigned kWordBits = 16;
constexpr std::uint32_t kStateLow = std::uint32_t{1} << kWordBits;

constexpr unsigned kMaxLanesLog2 = 6;
constexpr unsigned kMaxLanes = 1u << kMaxLanesLog2;

// First byte of a stream: bits 0-2 log2(lanes), bit 3 several chunks, bits 4-7 zero.
constexpr std::uint8_t kLanesMask = 0x07;
constexpr std::uint8_t kChunkedFlag = 0x08;
constexpr std::uint8_t kReservedMask = 0xF0;

// A state is stored as the position of its highest bit above kWordBits, in this many bits, and the
// bits below it.
constexpr unsigned kStateLengthBits = 4;

// The choices of the encoder; a decoder accepts any. A lane costs about half a byte, so 1024 bytes
// of payload a lane keep the cost near 0.05 %.
constexpr std::uint64_t kPayloadBytesPerLane = 1024;
// Chunks are a power of two, so that 2, 4 or 8 threads get equal work, of at least this payload. A
// chunk costs about 40 bytes: 0.06 % of 64 KiB. Below 2^17 symbols a thread costs more than it saves.
constexpr std::uint64_t kPayloadBytesPerChunk = 64 * 1024;
constexpr std::uint64_t kSymbolsPerChunk = 1u << 17;
// The serial tail stops here even if lanes stay empty: speed before a few bytes.
constexpr std::size_t kMaxTailSymbolsPerLane = 256;

// The payload is estimated from about this many symbols, evenly spread, ...
constexpr std::uint64_t kEstimateSymbols = 1u << 12;
// ... in integers of 1/1024 bit, so that every machine makes the same choice, ...
constexpr unsigned kCostUnitsPerBit = 1024;
// ... which is made again if the stream shows that this many times too many lanes were chosen.
constexpr std::uint64_t kTooManyLanes = 4;

// Values outside a table: at most 32 zeros, 33 bits and a sign.
constexpr unsigned kMaxEscapeZeros = 32;

}  // namespace icmh::rans
