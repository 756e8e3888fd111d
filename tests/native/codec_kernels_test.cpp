// The CPU kernels of quantize_index, image_in, image_out, the depth-conv block and GDN at every level
// against plain double-precision (or byte by byte) twins, on ugly sizes, in pieces, and with all maps
// between pages that cannot be touched.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "common/simd.h"
#include "kernels/convolution_cpu.h"
#include "kernels/depth_conv_block_cpu.h"
#include "kernels/gdn_cpu.h"
#include "kernels/images_cpu.h"
#include "kernels/level.h"
#include "kernels/quantize_index_cpu.h"
#include "memory_guards.h"
#include "random.h"

namespace icmh::tests {
namespace {

using kernels::KernelLevel;
using kernels::Precision;
using Floats = std::vector<float>;

float uniform(Random* random, float low, float high) {
  return low + (high - low) * static_cast<float>(random->below(1u << 24)) / 16777216.0f;
}

Floats uniforms(Random* random, std::int64_t count, float low, float high) {
  Floats values(static_cast<std::size_t>(count));
  for (float& value : values) value = uniform(random, low, high);
  return values;
}

// -- quantize_index --------------------------------------------------------------------------------

std::int32_t plain_symbol(float value) {
  if (std::isnan(value)) return 0;
  const double clamped = std::min(131072.0, std::max(-131072.0, static_cast<double>(value)));
  const double down = std::floor(clamped), rest = clamped - down;
  const bool up = rest > 0.5 || (rest == 0.5 && std::fmod(down, 2.0) != 0.0);
  return static_cast<std::int32_t>(down) + (up ? 1 : 0);
}

float ugly_float(Random* random) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float choices[] = {0.0f, -0.0f, 0.5f, -0.5f, 1.5f, 2.5f, -2.5f, 131072.0f, -131072.5f,
                           131071.5f, 1e9f, -1e30f, 1e-40f, infinity, -infinity,
                           std::numeric_limits<float>::quiet_NaN()};
  if (random->one_in(3)) return random->of(choices);
  return uniform(random, -20.0f, 20.0f);
}

void test_quantize_index() {
  Random random(1);
  GuardedArray<float> latents(4000), means(4000), scale_maps(4000);
  GuardedArray<std::int32_t> symbol_maps(4000);
  GuardedArray<std::uint8_t> index_maps(4000);
  for (int number = 0; number < 400; ++number) {
    const std::int64_t length = random.between(1, 130), rows = random.between(1, 30);
    const auto size = static_cast<std::size_t>(length * rows);
    const bool has_mean = !random.one_in(4), mean_of_row = random.one_in(3);
    const bool has_gain = !random.one_in(4), gain_of_row = random.one_in(2);
    const bool has_scales = !random.one_in(4);
    const std::int64_t period = gain_of_row ? random.between(1, 5) : 0;
    Floats latent(size), scales(size);
    Floats mean = uniforms(&random, mean_of_row ? length : length * rows, -5.0f, 5.0f);
    for (float& value : latent) value = ugly_float(&random);
    for (float& value : scales) value = ugly_float(&random);
    const Floats gain = uniforms(&random, gain_of_row ? period : length, 0.5f, 2.0f);
    Floats thresholds = uniforms(&random, random.between(0, 255), -3.0f, 9.0f);
    std::sort(thresholds.begin(), thresholds.end());
    if (!thresholds.empty()) scales[0] = thresholds[thresholds.size() / 2];

    std::vector<std::int32_t> symbols(size);
    std::vector<std::uint8_t> indexes(size);
    std::int64_t bad = 0;
    for (std::size_t i = 0; i < size; ++i) {
      const auto row = static_cast<std::int64_t>(i) / length;
      const auto column = static_cast<std::int64_t>(i) % length;
      volatile float value = latent[i];  // every operation rounded to float
      if (has_gain) value = value * gain[static_cast<std::size_t>(gain_of_row ? row % period : column)];
      if (has_mean) value = value - mean[mean_of_row ? static_cast<std::size_t>(column) : i];
      const float result = value;
      bad += std::isfinite(result) ? 0 : 1;
      symbols[i] = plain_symbol(result);
      if (!has_scales) continue;
      bad += std::isnan(scales[i]) ? 1 : 0;
      std::size_t below = 0;
      for (const float threshold : thresholds) below += std::isnan(scales[i]) || threshold < scales[i];
      indexes[i] = static_cast<std::uint8_t>(below);
    }
    for (const GuardSide side : kGuardSides) {
      for (const SimdLevel level : kSimdLevels) {
        if (!simd_level_supported(level)) continue;
        current_case() = std::string("quantize_index ") + simd_level_name(level) + ", case " +
                         std::to_string(number);
        kernels::QuantizeIndex maps{};
        maps.length = length;
        maps.latent = latents.place(latent, side).data;
        if (has_mean) maps.mean = means.place(mean, side).data;
        maps.mean_stride = mean_of_row ? 0 : length;
        if (has_gain) maps.gain = gain.data();
        maps.gain_period = period;
        if (has_scales) maps.scales = scale_maps.place(scales, side).data;
        maps.thresholds = thresholds.data();
        maps.num_thresholds = static_cast<std::int64_t>(thresholds.size());
        const auto found = symbol_maps.room(size, side);
        const auto found_indexes = index_maps.room(size, side);
        maps.symbols = found.data;
        maps.indexes = found_indexes.data;
        const std::int64_t middle = random.between(0, rows);
        const std::int64_t found_bad = kernels::quantize_index(maps, 0, middle, level) +
                                       kernels::quantize_index(maps, middle, rows, level);
        ICMH_CHECK(found_bad == bad, std::to_string(found_bad) + " for " + std::to_string(bad));
        ICMH_CHECK(std::equal(symbols.begin(), symbols.end(), found.begin()), "symbols");
        ICMH_CHECK(!has_scales || std::equal(indexes.begin(), indexes.end(), found_indexes.begin()),
                   "indexes");
      }
    }
  }
}

// -- images ----------------------------------------------------------------------------------------

void test_image_in() {
  Random random(2);
  Floats table(256);
  for (float& value : table) value = uniform(&random, -1.0f, 1.0f);
  GuardedArray<std::uint8_t> images(20000);
  GuardedArray<float> outputs(60000);
  for (int number = 0; number < 200; ++number) {
    const std::int64_t patches[] = {1, 2, 3, 8};
    const std::int64_t patch = random.of(patches), count = random.between(1, 2);
    kernels::ImageIn maps{};
    maps.image_height = random.between(1, 40);
    maps.image_width = random.between(1, 40);
    maps.top = random.one_in(2) ? 0 : random.between(0, 9);
    maps.left = random.one_in(2) ? 0 : random.between(0, 9);
    maps.height = (maps.top + maps.image_height + random.between(0, 9) + patch - 1) / patch * patch;
    maps.width = (maps.left + maps.image_width + random.between(0, 9) + patch - 1) / patch * patch;
    maps.edge = random.one_in(2);
    maps.patch = patch;
    maps.table = table.data();
    maps.bytes_of_value = 4;
    maps.channels_last = random.one_in(2);
    std::vector<std::uint8_t> image(
        static_cast<std::size_t>(count * maps.image_height * maps.image_width * 3));
    for (auto& value : image) value = static_cast<std::uint8_t>(random.below(256));
    const std::int64_t rows = maps.height / patch, columns = maps.width / patch;
    const std::int64_t channels = 3 * patch * patch;
    Floats expected(static_cast<std::size_t>(count * channels * rows * columns));
    for (std::int64_t n = 0; n < count; ++n) {
      for (std::int64_t y = 0; y < maps.height; ++y) {
        for (std::int64_t x = 0; x < maps.width; ++x) {
          for (std::int64_t c = 0; c < 3; ++c) {
            const std::int64_t line = y - maps.top, column = x - maps.left;
            const std::int64_t near_line =
                std::min(maps.image_height - 1, std::max<std::int64_t>(0, line));
            const std::int64_t near_column =
                std::min(maps.image_width - 1, std::max<std::int64_t>(0, column));
            const bool inside = near_line == line && near_column == column;
            const auto from = static_cast<std::size_t>(
                ((n * maps.image_height + near_line) * maps.image_width + near_column) * 3 + c);
            const std::uint8_t byte = inside || maps.edge ? image[from] : std::uint8_t{0};
            const std::int64_t channel = (c * patch + y % patch) * patch + x % patch;
            const std::int64_t position = y / patch * columns + x / patch;
            const std::int64_t to =
                n * channels * rows * columns +
                (maps.channels_last ? position * channels + channel
                                    : channel * rows * columns + position);
            expected[static_cast<std::size_t>(to)] = table[byte];
          }
        }
      }
    }
    for (const GuardSide side : kGuardSides) {
      current_case() = "image_in, case " + std::to_string(number);
      maps.image = images.place(image, side).data;
      const auto found = outputs.room(expected.size(), side);
      maps.planes = found.data;
      const std::int64_t middle = random.between(0, count * rows);
      kernels::image_in(maps, 0, middle);
      kernels::image_in(maps, middle, count * rows);
      ICMH_CHECK(std::equal(expected.begin(), expected.end(), found.begin()), "planes");
    }
  }
}

void test_image_out() {
  Random random(3);
  GuardedArray<float> inputs(60000);
  GuardedArray<std::uint8_t> images(60000);
  for (int number = 0; number < 200; ++number) {
    const std::int64_t patches[] = {1, 2, 3, 8};
    const std::int64_t patch = random.of(patches), count = random.between(1, 2);
    kernels::ImageOut maps{};
    maps.patch = patch;
    maps.rows = random.between(1, 40 / patch + 1);
    maps.columns = random.between(1, 70 / patch + 1);
    maps.top = random.between(0, maps.rows * patch - 1);
    maps.left = random.between(0, maps.columns * patch - 1);
    maps.height = random.between(1, maps.rows * patch - maps.top);
    maps.width = random.between(1, maps.columns * patch - maps.left);
    maps.offset = random.one_in(2) ? 0.5f : 0.0f;
    maps.channels_last = random.one_in(2);
    const std::int64_t channels = 3 * patch * patch;
    Floats planes(static_cast<std::size_t>(count * channels * maps.rows * maps.columns));
    for (float& value : planes) {
      value = random.one_in(9) ? ugly_float(&random)
                               : (static_cast<float>(random.below(280)) - 9.5f) / 255.0f - maps.offset;
    }
    std::vector<std::uint8_t> expected(
        static_cast<std::size_t>(count * maps.height * maps.width * 3));
    for (std::int64_t n = 0; n < count; ++n) {
      for (std::int64_t i = 0; i < maps.height; ++i) {
        for (std::int64_t j = 0; j < maps.width; ++j) {
          for (std::int64_t c = 0; c < 3; ++c) {
            const std::int64_t y = maps.top + i, x = maps.left + j;
            const std::int64_t channel = (c * patch + y % patch) * patch + x % patch;
            const std::int64_t position = y / patch * maps.columns + x / patch;
            const std::int64_t from =
                n * channels * maps.rows * maps.columns +
                (maps.channels_last ? position * channels + channel
                                    : channel * maps.rows * maps.columns + position);
            volatile float value = planes[static_cast<std::size_t>(from)] + maps.offset;
            value = value * 255.0f;
            const float scaled = value;
            const std::int32_t rounded =
                std::isnan(scaled) ? 0 : plain_symbol(std::min(255.0f, std::max(0.0f, scaled)));
            expected[static_cast<std::size_t>(((n * maps.height + i) * maps.width + j) * 3 + c)] =
                static_cast<std::uint8_t>(rounded);
          }
        }
      }
    }
    for (const GuardSide side : kGuardSides) {
      for (const SimdLevel level : kSimdLevels) {
        if (!simd_level_supported(level)) continue;
        current_case() = std::string("image_out ") + simd_level_name(level) + ", case " +
                         std::to_string(number);
        maps.planes = inputs.place(planes, side).data;
        const auto found = images.room(expected.size(), side);
        maps.image = found.data;
        const std::int64_t middle = random.between(0, count * maps.height);
        kernels::image_out(maps, 0, middle, level);
        kernels::image_out(maps, middle, count * maps.height, level);
        ICMH_CHECK(std::equal(expected.begin(), expected.end(), found.begin()), "pixels");
      }
    }
  }
}

// -- matrix products -------------------------------------------------------------------------------

using Doubles = std::vector<double>;

// Relative L2 error of what lies as `channels_last` says against (positions, channels).
double relative_error(const float* found, const Doubles& expected, std::int64_t channels,
                      std::int64_t positions, bool channels_last) {
  double error = 0.0, norm = 0.0;
  for (std::int64_t p = 0; p < positions; ++p) {
    for (std::int64_t c = 0; c < channels; ++c) {
      const double value = expected[static_cast<std::size_t>(p * channels + c)];
      const double difference =
          static_cast<double>(found[channels_last ? p * channels + c : c * positions + p]) - value;
      error += difference * difference;
      norm += value * value;
    }
  }
  return norm == 0.0 ? error : std::sqrt(error / norm);
}

Floats laid_out(const Floats& tokens, std::int64_t channels, bool channels_last) {
  if (channels_last) return tokens;
  const auto positions = static_cast<std::int64_t>(tokens.size()) / channels;
  Floats planes(tokens.size());
  for (std::int64_t p = 0; p < positions; ++p) {
    for (std::int64_t c = 0; c < channels; ++c) {
      planes[static_cast<std::size_t>(c * positions + p)] =
          tokens[static_cast<std::size_t>(p * channels + c)];
    }
  }
  return planes;
}

struct Matrix {
  std::int64_t channels, stride;
  Floats weight, bias;

  Matrix(Random* random, std::int64_t size, std::int64_t row)
      : channels(size), stride(row), bias(uniforms(random, size, -1.0f, 1.0f)) {
    const float reach = 1.7f / std::sqrt(static_cast<float>(size));
    weight = uniforms(random, size * row, -reach, reach);
  }
  kernels::DepthConvMatrix view() const { return {weight.data(), stride, bias.data()}; }

  Doubles of(const Doubles& tokens) const {
    Doubles out(tokens.size());
    const auto count = static_cast<std::int64_t>(tokens.size()) / channels;
    for (std::int64_t p = 0; p < count; ++p) {
      for (std::int64_t o = 0; o < channels; ++o) {
        double sum = bias[static_cast<std::size_t>(o)];
        for (std::int64_t c = 0; c < channels; ++c) {
          sum += static_cast<double>(weight[static_cast<std::size_t>(o * stride + c)]) *
                 tokens[static_cast<std::size_t>(p * channels + c)];
        }
        out[static_cast<std::size_t>(p * channels + o)] = sum;
      }
    }
    return out;
  }
};

double silu(double x) { return x / (1.0 + std::exp(-x)); }

struct Shape {
  std::int64_t channels, height, width;
};

struct ProductCase {
  KernelLevel level;
  Precision precision;

  double bound() const {
    return level == KernelLevel::amx && precision == Precision::bfloat16 ? 1e-2 : 1e-5;
  }
};
constexpr ProductCase kProductCases[] = {
    {KernelLevel::scalar, Precision::float32}, {KernelLevel::neon, Precision::float32},
    {KernelLevel::avx2, Precision::float32},   {KernelLevel::avx512, Precision::float32},
    {KernelLevel::amx, Precision::float32},    {KernelLevel::scalar, Precision::bfloat16},
    {KernelLevel::avx2, Precision::bfloat16},  {KernelLevel::amx, Precision::bfloat16},
};

void test_depth_conv_block() {
  Random random(4);
  constexpr Shape kShapes[] = {{1, 1, 1},   {3, 5, 1},   {5, 1, 7},   {16, 4, 4},  {17, 9, 13},
                               {32, 3, 96}, {33, 7, 97}, {20, 2, 200}, {64, 6, 48}, {40, 150, 3},
                               {7, 13, 31}, {96, 4, 25}, {100, 3, 11}};
  for (const Shape& shape : kShapes) {
    const std::int64_t channels = shape.channels, height = shape.height, width = shape.width;
    const std::int64_t positions = height * width, size = positions * channels;
    std::vector<Matrix> matrices;
    for (int i = 0; i < 5; ++i) matrices.emplace_back(&random, channels, channels + 3 * (i % 2));
    const Floats spatial = uniforms(&random, 9 * channels, -0.5f, 0.5f);
    const Floats spatial_bias = uniforms(&random, channels, -1.0f, 1.0f);
    const Floats x = uniforms(&random, size, -2.0f, 2.0f);

    const Doubles start(x.begin(), x.end());
    Doubles mixed = matrices[0].of(start);
    for (double& value : mixed) value = silu(value);
    Doubles smooth(mixed.size());
    for (std::int64_t i = 0; i < height; ++i) {
      for (std::int64_t j = 0; j < width; ++j) {
        for (std::int64_t c = 0; c < channels; ++c) {
          double sum = spatial_bias[static_cast<std::size_t>(c)];
          for (std::int64_t u = 0; u < 9; ++u) {
            const std::int64_t row = i + u / 3 - 1, column = j + u % 3 - 1;
            if (row < 0 || row >= height || column < 0 || column >= width) continue;
            sum += static_cast<double>(spatial[static_cast<std::size_t>(c * 9 + u)]) *
                   mixed[static_cast<std::size_t>((row * width + column) * channels + c)];
          }
          smooth[static_cast<std::size_t>((i * width + j) * channels + c)] = sum;
        }
      }
    }
    Doubles near = matrices[1].of(smooth);
    for (std::size_t i = 0; i < near.size(); ++i) near[i] += start[i];
    Doubles gated = matrices[2].of(near);
    const Doubles value = matrices[3].of(near);
    for (std::size_t i = 0; i < gated.size(); ++i) gated[i] = silu(gated[i]) * value[i];
    Doubles expected = matrices[4].of(gated);
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += near[i];

    const kernels::DepthConvWeights weights{matrices[0].view(), matrices[1].view(),
                                            matrices[2].view(), matrices[3].view(),
                                            matrices[4].view(), spatial.data(),
                                            spatial_bias.data()};
    GuardedArray<float> inputs(x.size()), outputs(x.size());
    for (const ProductCase& product : kProductCases) {
      const auto& [level, precision] = product;
      if (!kernels::kernel_level_supported(level)) continue;
      const std::int64_t packed_size =
          kernels::depth_conv_packed_size(level, precision, channels);
      GuardedArray<float> packing(static_cast<std::size_t>(packed_size));
      for (const GuardSide side : kGuardSides) {
        float* const packed = packing.room(static_cast<std::size_t>(packed_size), side).data;
        kernels::depth_conv_pack(level, precision, channels, weights, packed);
        for (const bool channels_last : {false, true}) {
          current_case() = std::string("depth_conv_block ") + kernel_level_name(level) +
                           (precision == Precision::bfloat16 ? " bfloat16 C" : " C") +
                           std::to_string(channels) + " " + std::to_string(height) + "x" +
                           std::to_string(width) + (channels_last ? " channels last" : "");
          const Floats map = laid_out(x, channels, channels_last);
          const auto found = outputs.room(x.size(), side);
          std::fill(found.begin(), found.end(), 1e30f);
          const std::int64_t channel = channels_last ? 1 : positions;
          const std::int64_t position = channels_last ? channels : 1;
          const kernels::DepthConvMaps maps{
              channels, height,     width,   inputs.place(map, side).data, channel,
              position, found.data, channel, position};
          const std::int64_t middle = random.between(0, height);
          kernels::depth_conv_block(level, precision, maps, packed, middle, height);
          kernels::depth_conv_block(level, precision, maps, packed, 0, middle);
          const double error =
              relative_error(found.data, expected, channels, positions, channels_last);
          ICMH_CHECK(error <= product.bound(),
                     "relative error " + std::to_string(error * 1e6) + "e-6");
        }
      }
    }
  }
}

void test_convolution() {
  Random random(6);
  struct Case {
    kernels::Convolution of;
    std::int64_t height, width;
  };
  constexpr Case kCases[] = {
      {{1, 1, 1, 1}, 1, 1},    {{3, 5, 1, 1}, 4, 7},    {{32, 64, 1, 1}, 3, 65},
      {{33, 48, 1, 1}, 9, 5},  {{1, 3, 3, 1}, 1, 1},    {{5, 7, 3, 1}, 6, 4},
      {{16, 32, 3, 2}, 30, 26}, {{20, 33, 3, 2}, 7, 9}, {{12, 40, 3, 2}, 1, 12},
      {{8, 8, 3, 2}, 13, 1},
  };
  for (const auto& [of, height, width] : kCases) {
    const std::int64_t positions = of.length_of(height) * of.length_of(width);
    const Floats x = uniforms(&random, height * width * of.channels, -2.0f, 2.0f);
    const Floats weight = uniforms(&random, of.outputs * of.depth(), -0.5f, 0.5f);
    const Floats bias = uniforms(&random, of.outputs, -1.0f, 1.0f);
    Doubles expected;
    for (std::int64_t p = 0; p < positions; ++p) {
      const std::int64_t top = p / of.length_of(width) * of.stride - of.side / 2;
      const std::int64_t left = p % of.length_of(width) * of.stride - of.side / 2;
      for (std::int64_t o = 0; o < of.outputs; ++o) {
        double sum = bias[static_cast<std::size_t>(o)];
        for (std::int64_t k = 0; k < of.depth(); ++k) {
          const std::int64_t tap = k / of.channels;
          const std::int64_t row = top + tap / of.side, column = left + tap % of.side;
          if (row < 0 || row >= height || column < 0 || column >= width) continue;
          sum += static_cast<double>(weight[static_cast<std::size_t>(o * of.depth() + k)]) *
                 x[static_cast<std::size_t>((row * width + column) * of.channels +
                                            k % of.channels)];
        }
        expected.push_back(sum);
      }
    }
    GuardedArray<float> inputs(x.size()), outputs(expected.size());
    for (const ProductCase& product : kProductCases) {
      const auto& [level, precision] = product;
      if (!kernels::kernel_level_supported(level)) continue;
      const std::int64_t packed_size = kernels::convolution_packed_size(level, precision, of);
      GuardedArray<float> packing(static_cast<std::size_t>(packed_size));
      for (const GuardSide side : kGuardSides) {
        current_case() = std::string("convolution ") + kernel_level_name(level) + " " +
                         std::to_string(of.side) + "x" + std::to_string(of.side) + " C" +
                         std::to_string(of.channels) + " O" + std::to_string(of.outputs) + " " +
                         std::to_string(height) + "x" + std::to_string(width);
        float* const packed = packing.room(static_cast<std::size_t>(packed_size), side).data;
        kernels::convolution_pack(level, precision, of, weight.data(), bias.data(), packed);
        const auto found = outputs.room(expected.size(), side);
        std::fill(found.begin(), found.end(), 1e30f);
        const kernels::ConvolutionMaps maps{height, width, inputs.place(x, side).data, found.data};
        const std::int64_t middle = random.between(0, positions);
        kernels::convolution(level, precision, of, maps, packed, middle, positions);
        kernels::convolution(level, precision, of, maps, packed, 0, middle);
        const double error = relative_error(found.data, expected, of.outputs, positions, true);
        ICMH_CHECK(error <= product.bound(),
                   "relative error " + std::to_string(error * 1e6) + "e-6");
      }
    }
  }
}

void test_gdn() {
  Random random(5);
  constexpr Shape kShapes[] = {{1, 1, 1}, {3, 1, 5}, {16, 1, 95}, {17, 1, 97}, {33, 1, 200},
                               {64, 1, 31}, {100, 1, 300}};
  for (const Shape& shape : kShapes) {
    const std::int64_t channels = shape.channels, positions = shape.width;
    Matrix matrix(&random, channels, channels + 2);
    for (float& value : matrix.weight) value = std::fabs(value);
    for (float& value : matrix.bias) value = std::fabs(value) + 1e-6f;
    const Floats x = uniforms(&random, positions * channels, -9.0f, 9.0f);
    Doubles squares(x.begin(), x.end());
    for (double& value : squares) value *= value;
    const Doubles energy = matrix.of(squares);
    GuardedArray<float> inputs(x.size()), outputs(x.size());
    for (const bool inverse : {false, true}) {
      Doubles expected(x.size());
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double root = std::sqrt(energy[i]);
        expected[i] = inverse ? x[i] * root : x[i] / root;
      }
      for (const KernelLevel level : kernels::kKernelLevels) {
        if (!kernels::kernel_level_supported(level)) continue;
        Floats packed(static_cast<std::size_t>(kernels::gdn_packed_size(level, channels)));
        kernels::gdn_pack(level, channels, matrix.weight.data(), matrix.stride, matrix.bias.data(),
                          packed.data());
        for (const GuardSide side : kGuardSides) {
          for (const bool channels_last : {false, true}) {
            current_case() = std::string("gdn ") + kernel_level_name(level) + " C" +
                             std::to_string(channels) + (inverse ? " inverse" : "") +
                             (channels_last ? " channels last" : "");
            const std::int64_t channel = channels_last ? 1 : positions;
            const std::int64_t position = channels_last ? channels : 1;
            const Floats map = laid_out(x, channels, channels_last);
            const auto found = outputs.room(x.size(), side);
            const kernels::GdnMaps maps{channels,   inputs.place(map, side).data, channel, position,
                                        found.data, channel,                      position, inverse};
            const std::int64_t middle = random.between(0, positions);
            kernels::gdn(level, maps, packed.data(), 0, middle);
            kernels::gdn(level, maps, packed.data(), middle, positions);
            const double error =
                relative_error(found.data, expected, channels, positions, channels_last);
            ICMH_CHECK(error <= 1e-5, "relative error " + std::to_string(error * 1e6) + "e-6");
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace icmh::tests

int main() {
  icmh::tests::test_quantize_index();
  icmh::tests::test_image_in();
  icmh::tests::test_image_out();
  icmh::tests::test_depth_conv_block();
  icmh::tests::test_convolution();
  icmh::tests::test_gdn();
  std::printf("codec_kernels_test: all is well\n");
  return 0;
}
