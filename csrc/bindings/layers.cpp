// Layers of the default codec's transforms: each by itself, and chains of them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/addresses.h"
#include "bindings/gil.h"
#include "bindings/parts.h"
#include "common/openmp.h"
#include "kernels/convolution_cpu.h"
#include "kernels/depth_conv_block_cpu.h"
#include "kernels/layer_chain.h"
#include "kernels/layer_parts.h"
#include "kernels/level.h"

namespace py = pybind11;

namespace icmh::bindings {
namespace {

kernels::Precision precision_of(bool bfloat16) {
  return bfloat16 ? kernels::Precision::bfloat16 : kernels::Precision::float32;
}

template <typename AddParts>
std::vector<kernels::LayerPart> parts_of(AddParts add, std::int64_t images, std::int64_t length,
                                         unsigned threads) {
  std::vector<kernels::LayerPart> parts;
  for (std::int64_t image = 0; image < images; ++image) add(image, images, length, threads, &parts);
  return parts;
}

template <typename Work>
void run_parts(const std::vector<kernels::LayerPart>& parts, unsigned threads, const Work& work) {
  const GilReleased released;
  parallel_for_kernels(parts.size(), threads, [&](std::size_t i) {
    work(parts[i].image, parts[i].begin, parts[i].end);
  });
}

// The matrices' weights and biases in the order of the op, the distances between their rows, and
// the depthwise weights.
void run_depth_conv_pack(std::int64_t channels, const std::array<Address, 10>& matrices,
                         const std::array<std::int64_t, 5>& strides, Address spatial,
                         Address spatial_bias, Address packed, const std::string& level_name,
                        bool bfloat16) {
  const auto matrix = [&](std::size_t i) {
    return kernels::DepthConvMatrix{at<const float>(matrices[2 * i]), strides[i],
                                    at<const float>(matrices[2 * i + 1])};
  };
  const kernels::DepthConvWeights weights{matrix(0), matrix(1),
                                          matrix(2), matrix(3),
                                          matrix(4), at<const float>(spatial),
                                          at<const float>(spatial_bias)};
  const kernels::KernelLevel level = level_of(level_name);
  const GilReleased released;
  kernels::depth_conv_pack(level, precision_of(bfloat16), channels, weights, at<float>(packed));
}

void run_depth_conv_block(std::int64_t channels, std::int64_t height, std::int64_t width, Address x,
                          const MapStrides& x_strides, Address out, const MapStrides& out_strides,
                          Address packed, std::int64_t images, unsigned threads,
                          const std::string& level_name, bool bfloat16) {
  const kernels::KernelLevel level = level_of(level_name);
  const kernels::Precision precision = precision_of(bfloat16);
  const std::int64_t size = channels * height * width;
  const auto rows = parts_of(&kernels::add_depth_conv_parts, images, height, threads);
  run_parts(rows, threads, [&](std::int64_t image, std::int64_t begin, std::int64_t end) {
    const kernels::DepthConvMaps maps{
        channels,     height,       width,          at<const float>(x) + image * size,
        x_strides[0], x_strides[1], at<float>(out) + image * size,
        out_strides[0], out_strides[1]};
    kernels::depth_conv_block(level, precision, maps, at<const float>(packed), begin, end);
  });
}

// Channels, outputs, side and stride.
kernels::Convolution convolution_of(const std::array<std::int64_t, 4>& sizes) {
  return {sizes[0], sizes[1], sizes[2], sizes[3]};
}

void run_convolution_pack(const std::array<std::int64_t, 4>& sizes, Address weight, Address bias,
                          Address packed, const std::string& level_name, bool bfloat16) {
  const kernels::KernelLevel level = level_of(level_name);
  const GilReleased released;
  kernels::convolution_pack(level, precision_of(bfloat16), convolution_of(sizes),
                            at<const float>(weight), at<const float>(bias), at<float>(packed));
}

void run_convolution(const std::array<std::int64_t, 4>& sizes, std::int64_t height,
                     std::int64_t width, Address x, Address out, Address packed,
                     std::int64_t images, unsigned threads, const std::string& level_name,
                     bool bfloat16) {
  const kernels::KernelLevel level = level_of(level_name);
  const kernels::Precision precision = precision_of(bfloat16);
  const kernels::Convolution of = convolution_of(sizes);
  const std::int64_t x_size = height * width * of.channels;
  const std::int64_t out_size = of.length_of(height) * of.length_of(width) * of.outputs;
  const std::int64_t positions = of.length_of(height) * of.length_of(width);
  const auto parts = parts_of(&kernels::add_convolution_parts, images, positions, threads);
  run_parts(parts, threads, [&](std::int64_t image, std::int64_t begin, std::int64_t end) {
    const kernels::ConvolutionMaps maps{height, width, at<const float>(x) + image * x_size,
                                        at<float>(out) + image * out_size};
    kernels::convolution(level, precision, of, maps, at<const float>(packed), begin, end);
  });
}

// (height, width, address of what goes in, address of the result, rows and columns of a picture)
// each.
using Images = std::vector<
    std::tuple<std::int64_t, std::int64_t, Address, Address, std::int64_t, std::int64_t>>;

std::vector<kernels::ChainImage> images_of(const Images& images) {
  std::vector<kernels::ChainImage> found;
  found.reserve(images.size());
  for (const auto& [height, width, x, to, rows, columns] : images) {
    found.push_back({height, width, at<const void>(x), at<void>(to), rows, columns});
  }
  return found;
}

void run_chain(const kernels::LayerChain& chain, const Images& given, unsigned threads,
               Address memory) {
  const std::vector<kernels::ChainImage> images = images_of(given);
  const GilReleased released;
  chain.run(
      images, threads,
      [threads](std::size_t tasks, const std::function<void(std::size_t)>& work) {
        parallel_for_kernels(tasks, threads, work);
      },
      at<float>(memory));
}

}  // namespace

void bind_layers(py::module_& module) {
  module.def("depth_conv_packed_size",
             [](std::int64_t channels, const std::string& level, bool bfloat16) {
               return kernels::depth_conv_packed_size(level_of(level), precision_of(bfloat16),
                                                      channels);
             });
  module.def("depth_conv_pack", &run_depth_conv_pack);
  module.def("depth_conv_block", &run_depth_conv_block);
  module.def("convolution_packed_size", [](const std::array<std::int64_t, 4>& sizes,
                                           const std::string& level, bool bfloat16) {
    return kernels::convolution_packed_size(level_of(level), precision_of(bfloat16),
                                            convolution_of(sizes));
  });
  module.def("convolution_pack", &run_convolution_pack);
  module.def("convolution", &run_convolution);

  py::class_<kernels::LayerChain>(module, "LayerChain",
                                  "Layers one after the other, over several images at a time.")
      .def(py::init([](const std::string& level, bool bfloat16) {
        return kernels::LayerChain(level_of(level), precision_of(bfloat16));
      }))
      .def("add_patches",
           [](kernels::LayerChain& chain, std::int64_t patch, std::int64_t multiple,
              Address table) { chain.add_patches(patch, multiple, at<const float>(table)); })
      .def("add_extension", &kernels::LayerChain::add_extension)
      .def("add_convolution",
           [](kernels::LayerChain& chain, const std::array<std::int64_t, 4>& sizes, bool silu,
              Address packed, float bound) {
             kernels::Convolution of = convolution_of(sizes);
             of.silu = silu;
             chain.add_convolution(of, at<const float>(packed), bound);
           })
      .def("add_depth_conv",
           [](kernels::LayerChain& chain, std::int64_t channels, Address packed, float bound) {
             chain.add_depth_conv(channels, at<const float>(packed), bound);
           })
      .def("add_shuffle", &kernels::LayerChain::add_shuffle)
      .def("add_pixels", &kernels::LayerChain::add_pixels)
      .def("result",
           [](const kernels::LayerChain& chain, std::int64_t height, std::int64_t width) {
             const kernels::MapSize size = chain.result(height, width);
             return std::tuple(size.height, size.width, size.channels);
           })
      .def("memory", [](const kernels::LayerChain& chain,
                        const Images& images) { return chain.memory(images_of(images)); })
      .def("run", &run_chain);
}

}  // namespace icmh::bindings
