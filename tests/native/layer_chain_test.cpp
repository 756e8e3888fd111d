// Chains of layers on several images at once, from pixels to pixels: every image as if alone, in
// any number of parts, with all maps and the memory between them ending where pages cannot be
// touched.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/convolution_cpu.h"
#include "kernels/depth_conv_block_cpu.h"
#include "kernels/layer_chain.h"
#include "kernels/level.h"
#include "memory_guards.h"
#include "random.h"

namespace icmh::tests {
namespace {

using kernels::KernelLevel;
using kernels::LayerChain;
using kernels::Precision;
using Floats = std::vector<float>;

Floats uniforms(Random* random, std::int64_t count) {
  Floats values(static_cast<std::size_t>(count));
  for (float& value : values) value = static_cast<float>(random->below(2001)) / 1000.0f - 1.0f;
  return values;
}

// A layer's weights, kept while its chain lives.
struct Weights {
  KernelLevel level;
  Random* random;
  std::vector<Floats> kept;

  void convolution(const kernels::Convolution& of, LayerChain* chain) {
    const Floats weight = uniforms(random, of.outputs * of.depth());
    const Floats bias = uniforms(random, of.outputs);
    kept.emplace_back(static_cast<std::size_t>(
        kernels::convolution_packed_size(level, Precision::float32, of)));
    kernels::convolution_pack(level, Precision::float32, of, weight.data(), bias.data(),
                              kept.back().data());
    chain->add_convolution(of, kept.back().data());
  }

  void depth_conv(std::int64_t channels, LayerChain* chain) {
    const Floats values = uniforms(random, channels * channels), bias = uniforms(random, channels);
    const Floats taps = uniforms(random, 9 * channels);
    const kernels::DepthConvMatrix matrix{values.data(), channels, bias.data()};
    kept.emplace_back(static_cast<std::size_t>(
        kernels::depth_conv_packed_size(level, Precision::float32, channels)));
    kernels::depth_conv_pack(level, Precision::float32, channels,
                             {matrix, matrix, matrix, matrix, matrix, taps.data(), bias.data()},
                             kept.back().data());
    chain->add_depth_conv(channels, kept.back().data());
  }
};

template <typename T>
using Guarded = std::vector<std::unique_ptr<GuardedArray<T>>>;

void test_every_image_is_as_if_alone() {
  constexpr std::int64_t kSizes[][2] = {{1, 1}, {3, 40}, {17, 8}, {50, 33}};
  Random random(11);
  Floats table(256);
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<float>(i) / 255.0f - 0.5f;
  for (const KernelLevel level : kernels::kKernelLevels) {
    if (!kernels::kernel_level_supported(level)) continue;
    current_case() = std::string("chain ") + kernel_level_name(level);
    Weights weights{level, &random, {}};
    LayerChain chain(level, Precision::float32);
    chain.add_patches(4, 8, table.data());
    kernels::Convolution stem{48, 20, 1, 1};
    stem.silu = true;
    weights.convolution(stem, &chain);
    weights.depth_conv(20, &chain);
    weights.convolution({20, 4 * 12, 3, 2}, &chain);
    chain.add_shuffle(2);
    weights.convolution({12, 48, 1, 1}, &chain);
    chain.add_pixels(4, 0.5f);

    for (const GuardSide side : kGuardSides) {
      Guarded<std::uint8_t> pixels, pictures;
      std::vector<kernels::ChainImage> images;
      for (const auto& [height, width] : kSizes) {
        std::vector<std::uint8_t> bytes(static_cast<std::size_t>(3 * height * width));
        for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random.below(256));
        pixels.push_back(std::make_unique<GuardedArray<std::uint8_t>>(bytes.size()));
        pictures.push_back(std::make_unique<GuardedArray<std::uint8_t>>(bytes.size()));
        images.push_back({height, width, pixels.back()->place(bytes, side).data,
                          pictures.back()->room(bytes.size(), side).data, height, width});
      }
      // The results of a run over some of the images, parts in any order.
      const auto run = [&](const std::vector<kernels::ChainImage>& some, unsigned threads) {
        const auto floats = static_cast<std::size_t>(chain.memory(some));
        const GuardedArray<float> memory(floats);
        const auto backwards = [](std::size_t tasks,
                                  const std::function<void(std::size_t)>& work) {
          for (std::size_t task = tasks; task-- > 0;) work(task);
        };
        chain.run(some, threads, backwards, memory.room(floats, side).data);
        std::vector<std::vector<std::uint8_t>> found;
        for (const kernels::ChainImage& image : some) {
          auto* const picture = static_cast<std::uint8_t*>(image.out);
          const auto bytes = static_cast<std::size_t>(3 * image.rows * image.columns);
          found.emplace_back(picture, picture + bytes);
          std::fill(picture, picture + bytes, std::uint8_t{0});
        }
        return found;
      };
      const auto together = run(images, 1);
      for (const unsigned threads : {2u, 7u}) {
        ICMH_CHECK(run(images, threads) == together, "threads " + std::to_string(threads));
      }
      for (std::size_t i = 0; i < images.size(); ++i) {
        ICMH_CHECK(run({images[i]}, 3).front() == together[i], "image " + std::to_string(i));
      }
      ICMH_CHECK(run({}, 2).empty(), "no images");
      // Of a picture also less than its map holds.
      kernels::ChainImage corner = images.back();
      corner.rows -= 3;
      corner.columns -= 5;
      const auto found = run({corner}, 1).front();
      for (std::int64_t row = 0; row < corner.rows; ++row) {
        const auto* const whole = together.back().data() + 3 * row * images.back().columns;
        const auto* const part = found.data() + 3 * row * corner.columns;
        ICMH_CHECK(std::equal(part, part + 3 * corner.columns, whole), "corner");
      }
    }
  }
}

}  // namespace
}  // namespace icmh::tests

int main() {
  icmh::tests::test_every_image_is_as_if_alone();
  std::printf("layer_chain_test: all is well\n");
  return 0;
}
