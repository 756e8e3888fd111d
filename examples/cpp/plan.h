// A TensorRT plan of the role "encoder" (icmh export tensorrt --role encoder), loaded and run.
#pragma once

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "stream.h"

namespace example {

class EncoderPlan {
 public:
  // Throws std::runtime_error if the plan cannot be loaded here.
  explicit EncoderPlan(const std::string& path);
  ~EncoderPlan();
  EncoderPlan(const EncoderPlan&) = delete;
  EncoderPlan& operator=(const EncoderPlan&) = delete;

  // pixels: RGB, height x width x 3. Memory is kept from call to call and grows with the image.
  Symbols run(const std::vector<std::uint8_t>& pixels, std::int64_t height, std::int64_t width,
              std::int64_t quality);

 private:
  class Log : public nvinfer1::ILogger {
   public:
    void log(Severity severity, const char* message) noexcept override;
  };
  struct Memory {
    void* address = nullptr;
    std::size_t size = 0;
  };

  void* reserve(const std::string& name, std::size_t size);
  template <typename T>
  std::vector<T> fetch(const char* name);

  Log log_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::map<std::string, Memory> memory_;  // on the device, by tensor
  cudaStream_t stream_ = nullptr;
};

}  // namespace example
