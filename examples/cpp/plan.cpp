#include "plan.h"

#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace example {
namespace {

void check(cudaError_t code, const char* what) {
  if (code != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(code));
  }
}

void check(bool done, const std::string& what) {
  if (!done) throw std::runtime_error("TensorRT could not " + what);
}

}  // namespace

void EncoderPlan::Log::log(Severity severity, const char* message) noexcept {
  if (severity <= Severity::kWARNING) std::fprintf(stderr, "TensorRT: %s\n", message);
}

EncoderPlan::EncoderPlan(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string plan(std::istreambuf_iterator<char>(file), {});
  check(!plan.empty(), "read " + path);
  runtime_.reset(nvinfer1::createInferRuntime(log_));
  check(runtime_ != nullptr, "start");
  engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
  check(engine_ != nullptr, "load " + path + ": it is of another version or GPU");
  context_.reset(engine_->createExecutionContext());
  check(context_ != nullptr, "make an execution context");
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
}

EncoderPlan::~EncoderPlan() {
  context_.reset();
  for (const auto& [name, memory] : memory_) cudaFree(memory.address);
  if (stream_) cudaStreamDestroy(stream_);
}

void* EncoderPlan::reserve(const std::string& name, std::size_t size) {
  Memory& memory = memory_[name];
  if (memory.size < size) {
    cudaFree(memory.address);
    memory = {};
    check(cudaMalloc(&memory.address, size), "cudaMalloc");
    memory.size = size;
  }
  check(context_->setTensorAddress(name.c_str(), memory.address), "take an address for " + name);
  return memory.address;
}

Symbols EncoderPlan::run(const std::vector<std::uint8_t>& pixels, std::int64_t height,
                         std::int64_t width, std::int64_t quality) {
  check(pixels.size() == static_cast<std::size_t>(height * width * 3), "take that many pixels");
  nvinfer1::Dims shape{};
  shape.nbDims = 4;
  shape.d[0] = 1;
  shape.d[1] = height;
  shape.d[2] = width;
  shape.d[3] = 3;
  check(context_->setInputShape("image", shape), "take an image of that size");
  check(cudaMemcpyAsync(reserve("image", pixels.size()), pixels.data(), pixels.size(),
                        cudaMemcpyHostToDevice, stream_),
        "cudaMemcpyAsync");
  check(cudaMemcpyAsync(reserve("quality", sizeof quality), &quality, sizeof quality,
                        cudaMemcpyHostToDevice, stream_),
        "cudaMemcpyAsync");
  for (const char* name : {"symbols_z", "symbols_y", "indexes_y"}) {
    const nvinfer1::Dims sides = context_->getTensorShape(name);
    std::size_t size = name[0] == 'i' ? 1 : sizeof(std::int32_t);
    for (int i = 0; i < sides.nbDims; ++i) {
      check(sides.d[i] > 0, std::string("tell the shape of ") + name);
      size *= static_cast<std::size_t>(sides.d[i]);
    }
    reserve(name, size);
  }
  check(context_->enqueueV3(stream_), "run the engine");
  Symbols symbols;
  symbols.z = fetch<std::int32_t>("symbols_z");
  symbols.y = fetch<std::int32_t>("symbols_y");
  symbols.indexes = fetch<std::uint8_t>("indexes_y");
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  return symbols;
}

// Queues the copy; it is there when the stream has been waited for.
template <typename T>
std::vector<T> EncoderPlan::fetch(const char* name) {
  const nvinfer1::Dims sides = context_->getTensorShape(name);
  std::size_t count = 1;
  for (int i = 0; i < sides.nbDims; ++i) count *= static_cast<std::size_t>(sides.d[i]);
  std::vector<T> values(count);
  check(cudaMemcpyAsync(values.data(), memory_.at(name).address, count * sizeof(T),
                        cudaMemcpyDeviceToHost, stream_),
        "cudaMemcpyAsync");
  return values;
}

}  // namespace example
