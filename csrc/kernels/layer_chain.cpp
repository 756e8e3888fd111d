#include "kernels/layer_chain.h"

#include <algorithm>
#include <cstring>

#include "kernels/depth_conv_block_cpu.h"
#include "kernels/images_cpu.h"
#include "kernels/layer_parts.h"

namespace icmh::kernels {
namespace {

std::int64_t grown(std::int64_t length, std::int64_t multiple) {
  return (length + multiple - 1) / multiple * multiple;
}

// Rows [begin, end) of a map that repeats the border of `x` beyond it.
void extend(const float* x, const MapSize& from, const MapSize& to, std::int64_t begin,
            std::int64_t end, float* out) {
  const auto floats = [](std::int64_t n) { return static_cast<std::size_t>(n) * sizeof(float); };
  for (std::int64_t row = begin; row < end; ++row) {
    const float* const line = x + std::min(row, from.height - 1) * from.width * from.channels;
    float* place = out + row * to.width * to.channels;
    std::memcpy(place, line, floats(from.width * from.channels));
    place += from.width * from.channels;
    for (std::int64_t column = from.width; column < to.width; ++column, place += from.channels) {
      std::memcpy(place, line + (from.width - 1) * from.channels, floats(from.channels));
    }
  }
}

// Cuts values that were just computed, and are still in a cache; NaN stays.
void bound(float most, float* values, std::int64_t count) {
  if (most == LayerChain::kNoBound) return;
  for (std::int64_t i = 0; i < count; ++i) {
    const float low = values[i] < -most ? -most : values[i];
    values[i] = low > most ? most : low;
  }
}

// Rows [begin, end) of the shuffled map.
void shuffle(const float* x, const MapSize& from, const MapSize& to, std::int64_t factor,
             std::int64_t begin, std::int64_t end, float* out) {
  for (std::int64_t row = begin; row < end; ++row) {
    const float* place =
        x + row / factor * from.width * from.channels + row % factor * factor * to.channels;
    float* square = out + row * to.width * to.channels;
    // The squares' positions of one row lie side by side.
    const std::int64_t floats = factor * to.channels;
    for (std::int64_t column = 0; column < from.width; ++column) {
      std::memcpy(square, place, static_cast<std::size_t>(floats) * sizeof(float));
      place += from.channels;
      square += floats;
    }
  }
}

// The most that maps between the layers take, all images' together.
std::int64_t most_between(const std::vector<std::vector<MapSize>>& sizes) {
  std::int64_t most = 0;
  for (std::size_t layer = 1; layer + 1 < sizes.front().size(); ++layer) {
    std::int64_t sum = 0;
    for (const auto& image : sizes) sum += image[layer].floats();
    most = std::max(most, sum);
  }
  return most;
}

}  // namespace

void LayerChain::add_patches(std::int64_t patch, std::int64_t multiple, const float* table) {
  layers_.push_back({Layer::Kind::patches, {}, nullptr, kNoBound, patch, multiple, {table, table + 256}});
}

void LayerChain::add_extension(std::int64_t channels, std::int64_t multiple) {
  layers_.push_back({Layer::Kind::extension, {channels, channels, 1, 1}, nullptr, kNoBound, 1, multiple});
}

void LayerChain::add_convolution(const Convolution& of, const float* packed, float bound) {
  layers_.push_back({Layer::Kind::convolution, of, packed, bound});
}

void LayerChain::add_depth_conv(std::int64_t channels, const float* packed, float bound) {
  layers_.push_back({Layer::Kind::depth_conv, {channels, channels, 3, 1}, packed, bound});
}

void LayerChain::add_shuffle(std::int64_t factor) {
  layers_.push_back({Layer::Kind::shuffle, {}, nullptr, kNoBound, factor});
}

void LayerChain::add_pixels(std::int64_t patch, float offset) {
  layers_.push_back({Layer::Kind::pixels, {}, nullptr, kNoBound, patch, 1, {}, offset});
}

MapSize LayerChain::after(const Layer& layer, const MapSize& size) const {
  switch (layer.kind) {
    case Layer::Kind::patches:
      return {grown(size.height, layer.multiple) / layer.patch,
              grown(size.width, layer.multiple) / layer.patch, 3 * layer.patch * layer.patch};
    case Layer::Kind::extension:
      return {grown(size.height, layer.multiple), grown(size.width, layer.multiple),
              size.channels};
    case Layer::Kind::shuffle:
      return {size.height * layer.patch, size.width * layer.patch,
              size.channels / (layer.patch * layer.patch)};
    case Layer::Kind::pixels:
      return {size.height * layer.patch, size.width * layer.patch, 3};
    default:
      return {layer.convolution.length_of(size.height), layer.convolution.length_of(size.width),
              layer.convolution.outputs};
  }
}

std::vector<MapSize> LayerChain::sizes(std::int64_t height, std::int64_t width) const {
  const Layer& first = layers_.front();
  const bool pixels = first.kind == Layer::Kind::patches;
  std::vector<MapSize> found{{height, width, pixels ? 3 : first.convolution.channels}};
  for (const Layer& layer : layers_) found.push_back(after(layer, found.back()));
  return found;
}

std::vector<std::vector<MapSize>> LayerChain::sizes_of(
    const std::vector<ChainImage>& images) const {
  std::vector<std::vector<MapSize>> found;
  for (const ChainImage& image : images) found.push_back(sizes(image.height, image.width));
  return found;
}

MapSize LayerChain::result(std::int64_t height, std::int64_t width) const {
  return sizes(height, width).back();
}

std::int64_t LayerChain::memory(const std::vector<ChainImage>& images) const {
  return images.empty() ? 0 : 2 * most_between(sizes_of(images));
}

void LayerChain::run(const std::vector<ChainImage>& images, unsigned threads,
                     const ParallelFor& loop, float* memory) const {
  if (images.empty()) return;
  const auto count = static_cast<std::int64_t>(images.size());
  const std::vector<std::vector<MapSize>> maps = sizes_of(images);
  const std::int64_t half = most_between(maps);
  std::vector<const void*> from;
  for (const ChainImage& image : images) from.push_back(image.in);
  std::vector<LayerPart> parts;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    // Results lie in one half of the memory, what they are made of in the other.
    std::vector<void*> to;
    float* place = memory + (i % 2 == 0 ? 0 : half);
    parts.clear();
    for (std::int64_t image = 0; image < count; ++image) {
      const auto n = static_cast<std::size_t>(image);
      const MapSize& size = maps[n][i + 1];
      const bool last = i + 1 == layers_.size();
      to.push_back(last ? images[n].out : place);
      if (!last) place += size.floats();
      if (layer.kind == Layer::Kind::convolution) {
        add_convolution_parts(image, count, size.height * size.width, threads, &parts);
      } else {
        const bool pixels = layer.kind == Layer::Kind::pixels;
        add_depth_conv_parts(image, count, pixels ? images[n].rows : size.height, threads, &parts);
      }
    }
    loop(parts.size(), [&](std::size_t task) {
      const auto& [image, begin, end] = parts[task];
      const auto n = static_cast<std::size_t>(image);
      const MapSize &before = maps[n][i], &size = maps[n][i + 1];
      const auto* const x = static_cast<const float*>(from[n]);
      auto* const out = static_cast<float*>(to[n]);
      switch (layer.kind) {
        case Layer::Kind::patches:
          image_in({static_cast<const std::uint8_t*>(from[n]), before.height, before.width, 0, 0,
                    size.height * layer.patch, size.width * layer.patch, true, layer.patch,
                    layer.table.data(), sizeof(float), out, true},
                   begin, end);
          break;
        case Layer::Kind::extension:
          extend(x, before, size, begin, end, out);
          break;
        case Layer::Kind::convolution:
          convolution(level_, precision_, layer.convolution, {before.height, before.width, x, out},
                      layer.packed, begin, end);
          bound(layer.bound, out + begin * size.channels, (end - begin) * size.channels);
          break;
        case Layer::Kind::depth_conv:
          depth_conv_block(level_, precision_,
                           {size.channels, size.height, size.width, x, 1, size.channels, out, 1,
                            size.channels},
                           layer.packed, begin, end);
          bound(layer.bound, out + begin * size.width * size.channels,
                (end - begin) * size.width * size.channels);
          break;
        case Layer::Kind::shuffle:
          shuffle(x, before, size, layer.patch, begin, end, out);
          break;
        case Layer::Kind::pixels:
          image_out({x, true, before.height, before.width, 0, 0, images[n].rows,
                     images[n].columns, layer.patch, layer.offset,
                     static_cast<std::uint8_t*>(to[n])},
                    begin, end);
          break;
      }
    });
    from.assign(to.begin(), to.end());
  }
}

}  // namespace icmh::kernels
