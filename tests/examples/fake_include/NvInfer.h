// As much of TensorRT's C++ interface as examples/cpp uses, for running it without TensorRT. A
// "plan" is a list of tensors: what the engine has to be given, and what it then gives back.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <sstream>
#include <string>

namespace nvinfer1 {

struct Dims {
  static constexpr int32_t MAX_DIMS = 8;
  int32_t nbDims;
  int64_t d[MAX_DIMS];
};

class ILogger {
 public:
  enum class Severity : int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
  virtual void log(Severity severity, const char* message) noexcept = 0;
  virtual ~ILogger() = default;
};

struct FakeTensor {
  Dims shape{};
  std::string bytes;
};

class IExecutionContext {
 public:
  explicit IExecutionContext(const std::map<std::string, FakeTensor>& tensors)
      : tensors_(tensors) {}

  bool setInputShape(const char* name, const Dims& shape) noexcept {
    const Dims& wanted = tensors_.at(name).shape;
    shaped_ = shape.nbDims == wanted.nbDims &&
              !std::memcmp(shape.d, wanted.d, sizeof(int64_t) * shape.nbDims);
    return shaped_;
  }
  bool setTensorAddress(const char* name, void* address) noexcept {
    addresses_[name] = address;
    return tensors_.count(name) != 0;
  }
  Dims getTensorShape(const char* name) const noexcept {
    Dims shape = tensors_.at(name).shape;
    if (!shaped_) shape.d[0] = -1;
    return shape;
  }
  bool enqueueV3(cudaStream_t stream) noexcept {
    if (!stream || !shaped_ || addresses_.size() != tensors_.size()) return false;
    for (const auto& [name, tensor] : tensors_) {
      void* address = addresses_.at(name);
      const bool given = name == "image" || name == "quality";
      if (given && std::memcmp(address, tensor.bytes.data(), tensor.bytes.size())) return false;
      if (!given) std::memcpy(address, tensor.bytes.data(), tensor.bytes.size());
    }
    return true;
  }

 private:
  const std::map<std::string, FakeTensor>& tensors_;
  std::map<std::string, void*> addresses_;
  bool shaped_ = false;
};

class ICudaEngine {
 public:
  std::map<std::string, FakeTensor> tensors;
  IExecutionContext* createExecutionContext() noexcept { return new IExecutionContext(tensors); }
};

class IRuntime {
 public:
  explicit IRuntime(ILogger& log) : log_(log) {}

  // "fake plan", then for each tensor a line "NAME SIZE SIDES SIDE..." and SIZE bytes.
  ICudaEngine* deserializeCudaEngine(const void* data, std::size_t size) noexcept {
    std::istringstream plan(std::string(static_cast<const char*>(data), size));
    std::string line;
    if (!std::getline(plan, line) || line != "fake plan") {
      log_.log(ILogger::Severity::kERROR, "this is no plan");
      return nullptr;
    }
    auto* engine = new ICudaEngine;
    while (std::getline(plan, line)) {
      std::istringstream words(line);
      std::string name;
      std::size_t bytes = 0;
      FakeTensor tensor;
      words >> name >> bytes >> tensor.shape.nbDims;
      for (int i = 0; i < tensor.shape.nbDims; ++i) words >> tensor.shape.d[i];
      tensor.bytes.resize(bytes);
      plan.read(&tensor.bytes[0], static_cast<std::streamsize>(bytes));
      engine->tensors[name] = tensor;
    }
    return engine;
  }

 private:
  ILogger& log_;
};

inline IRuntime* createInferRuntime(ILogger& log) { return new IRuntime(log); }

}  // namespace nvinfer1
