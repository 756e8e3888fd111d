// What coding needs of a bundle (model.safetensors and bundle.json): the tables, and which of their
// rows code the hyper-latent.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "rans/tables.h"

namespace example {

struct Coding {
  std::uint8_t fingerprint[4];
  std::uint8_t width_id;                  // round(100 * width)
  std::uint8_t quality;                   // 1 to 100
  std::vector<std::uint8_t> hyper_index;  // the row of each channel of z at this quality
  icmh::rans::Tables tables;
};

// Reads the bundle in `folder`. Throws std::runtime_error, whose message says what is wrong.
Coding read_coding(const std::string& folder, double width, int quality);

}  // namespace example
