// What the fuzz targets make of their input's bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace icmh::tests {

// Takes bytes from the front; zeros after the end.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  std::uint32_t take(unsigned bytes) {
    std::uint32_t value = 0;
    for (unsigned i = 0; i < bytes; ++i) {
      value = value << 8 | (size_ == 0 ? 0u : *data_);
      if (size_ != 0) ++data_, --size_;
    }
    return value;
  }
  std::size_t left() const { return size_; }
  std::vector<std::uint8_t> rest() const { return {data_, data_ + size_}; }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

// Mostly few symbols, so that a million inputs do not take hours.
inline std::size_t count_of(std::uint32_t number) {
  return number % (number < 0xFC00 ? 130 : 4097);
}

// `count` rows. The pattern's low bits say how long a row stays, the step which one is next.
template <typename Index>
std::vector<Index> indexes_of(std::uint32_t pattern, std::uint32_t step, std::size_t num_rows,
                              std::size_t count) {
  const std::size_t rows = std::min<std::size_t>(num_rows, 256);
  std::vector<Index> indexes(count);
  for (std::size_t i = 0; i < count; ++i) {
    indexes[i] = static_cast<Index>((pattern / 8 + (i >> (pattern % 8)) * step) % rows);
  }
  return indexes;
}

// A byte is a value near the row's first; 255 announces four bytes of any value. After the end of
// the input come cheap values.
template <typename Symbol, typename Index>
std::vector<Symbol> symbols_of(Input* input, const std::vector<std::int32_t>& offsets,
                               const std::vector<Index>& indexes) {
  std::vector<Symbol> symbols(indexes.size());
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    const std::uint32_t byte =
        input->left() != 0 ? input->take(1) : static_cast<std::uint32_t>(8 + i % 2);
    const auto offset = static_cast<std::uint32_t>(offsets[static_cast<std::size_t>(indexes[i])]);
    symbols[i] = static_cast<Symbol>(byte == 255 ? input->take(4) : offset + byte - 8);
  }
  return symbols;
}

// Changes, shortens or extends a stream by what is left of the input.
inline void damage(Input* input, std::vector<std::uint8_t>* stream) {
  while (input->left() >= 3) {
    const std::uint32_t place = input->take(2);
    const auto change = static_cast<std::uint8_t>(input->take(1));
    if (place < stream->size()) {
      (*stream)[place] = static_cast<std::uint8_t>((*stream)[place] ^ change);
    } else if (place % 2 == 0 && !stream->empty()) {
      stream->pop_back();
    } else {
      stream->push_back(change);
    }
  }
  stream->shrink_to_fit();  // so that AddressSanitizer sees where it ends
}

}  // namespace icmh::tests
