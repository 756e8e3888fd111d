// SFMA's frequency gate as a TensorRT plugin (IPluginV3) over the CUDA launcher.
#pragma once

#include <NvInfer.h>

namespace icmh::trt {

inline constexpr char kGateName[] = "IcmhFrequencyGate";
inline constexpr char kPluginVersion[] = "1";
inline constexpr char kPluginNamespace[] = "icmh";

// Inputs: spectrum float (N, C, H, W, 2), real and imaginary part last; dw_weight (C, 1, 3, 3),
// dw_bias (C), mix_weight (C, C) and mix_bias (C), all four float or all half. Output: spectrum
// times the gate (icmh_rt/kernels/frequency_gate.py), of the first input's type and shape. All are
// linear in memory. It has no fields, no state and no workspace.
class FrequencyGatePlugin final : public nvinfer1::IPluginV3,
                                  public nvinfer1::IPluginV3OneCore,
                                  public nvinfer1::IPluginV3OneBuild,
                                  public nvinfer1::IPluginV3OneRuntime {
 public:
  // IPluginV3
  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  // IPluginV3OneCore
  const char* getPluginName() const noexcept override;
  const char* getPluginVersion() const noexcept override;
  const char* getPluginNamespace() const noexcept override;

  // IPluginV3OneBuild
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out,
                          int32_t outputs) noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* out, int32_t outputs,
                             const nvinfer1::DataType* in, int32_t inputs) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs,
                          const nvinfer1::DimsExprs* shapes, int32_t shape_inputs,
                          nvinfer1::DimsExprs* out, int32_t outputs,
                          nvinfer1::IExprBuilder& expressions) noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* all,
                                 int32_t inputs, int32_t outputs) noexcept override;
  int32_t getNbOutputs() const noexcept override;

  // IPluginV3OneRuntime
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs,
                        const nvinfer1::PluginTensorDesc* out, int32_t outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                  const void* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;
};

class FrequencyGateCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  nvinfer1::IPluginV3* createPlugin(const char* name,
                                    const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override;
  const char* getPluginName() const noexcept override;
  const char* getPluginVersion() const noexcept override;
  const char* getPluginNamespace() const noexcept override;
};

}  // namespace icmh::trt

// What IPluginRegistry::loadLibrary() looks for. The library needs nothing of libnvinfer itself, so
// one file serves every TensorRT from 10.0 on that its headers' version promises.
extern "C" {
nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);
void setLoggerFinder(nvinfer1::ILoggerFinder* finder);
}
