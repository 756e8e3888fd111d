#include "trt/frequency_gate_plugin.h"

#include <initializer_list>
#include <new>

#include "kernels/cuda/frequency_gate.h"

namespace icmh::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

constexpr int32_t kInputs = 5, kOutputs = 1;
constexpr int kSpectrum = 0, kDwWeight = 1, kDwBias = 2, kMixWeight = 3, kMixBias = 4;
constexpr int32_t kOk = 0, kWrong = 1;

// As kernels/cuda/device.cuh numbers them.
constexpr int kFloat32 = 0, kFloat16 = 1, kNchw = 0;

const nvinfer1::PluginFieldCollection kNoFields{0, nullptr};

bool shape_is(const Dims& dims, std::initializer_list<int64_t> sides) {
  if (dims.nbDims != static_cast<int32_t>(sides.size())) return false;
  int i = 0;
  for (const int64_t side : sides) {
    const int64_t found = dims.d[i++];
    // -1: not known yet, while an engine is built.
    if (found != side && found != -1 && side != -1) return false;
  }
  return true;
}

bool shapes_fit(const PluginTensorDesc& spectrum, const PluginTensorDesc& dw_weight,
                const PluginTensorDesc& dw_bias, const PluginTensorDesc& mix_weight,
                const PluginTensorDesc& mix_bias) {
  if (spectrum.dims.nbDims != 5) return false;
  const int64_t channels = spectrum.dims.d[1];
  return shape_is(spectrum.dims, {-1, -1, -1, -1, 2}) &&
         shape_is(dw_weight.dims, {channels, 1, 3, 3}) && shape_is(dw_bias.dims, {channels}) &&
         shape_is(mix_weight.dims, {channels, channels}) && shape_is(mix_bias.dims, {channels});
}

}  // namespace

nvinfer1::IPluginCapability* FrequencyGatePlugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* FrequencyGatePlugin::clone() noexcept {
  return new (std::nothrow) FrequencyGatePlugin;
}

const char* FrequencyGatePlugin::getPluginName() const noexcept { return kGateName; }
const char* FrequencyGatePlugin::getPluginVersion() const noexcept { return kPluginVersion; }
const char* FrequencyGatePlugin::getPluginNamespace() const noexcept { return kPluginNamespace; }
int32_t FrequencyGatePlugin::getNbOutputs() const noexcept { return kOutputs; }

int32_t FrequencyGatePlugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs,
                                             const DynamicPluginTensorDesc*,
                                             int32_t outputs) noexcept {
  if (inputs != kInputs || outputs != kOutputs) return kWrong;
  const bool fit = shapes_fit(in[kSpectrum].desc, in[kDwWeight].desc, in[kDwBias].desc,
                              in[kMixWeight].desc, in[kMixBias].desc);
  return fit ? kOk : kWrong;
}

int32_t FrequencyGatePlugin::getOutputDataTypes(DataType* out, int32_t outputs, const DataType* in,
                                                int32_t inputs) const noexcept {
  if (inputs != kInputs || outputs != kOutputs) return kWrong;
  out[0] = in[kSpectrum];
  return kOk;
}

int32_t FrequencyGatePlugin::getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs,
                                             const nvinfer1::DimsExprs*, int32_t shape_inputs,
                                             nvinfer1::DimsExprs* out, int32_t outputs,
                                             nvinfer1::IExprBuilder&) noexcept {
  if (inputs != kInputs || outputs != kOutputs || shape_inputs != 0) return kWrong;
  out[0] = in[kSpectrum];
  return kOk;
}

bool FrequencyGatePlugin::supportsFormatCombination(int32_t position,
                                                    const DynamicPluginTensorDesc* all,
                                                    int32_t inputs, int32_t outputs) noexcept {
  if (inputs != kInputs || outputs != kOutputs || position < 0 || position >= inputs + outputs) {
    return false;
  }
  const PluginTensorDesc& tensor = all[position].desc;
  if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
  if (position == kSpectrum || position == kInputs) return tensor.type == DataType::kFLOAT;
  if (position == kDwWeight) {
    return tensor.type == DataType::kFLOAT || tensor.type == DataType::kHALF;
  }
  return tensor.type == all[kDwWeight].desc.type;
}

int32_t FrequencyGatePlugin::onShapeChange(const PluginTensorDesc* in, int32_t inputs,
                                           const PluginTensorDesc*, int32_t outputs) noexcept {
  if (inputs != kInputs || outputs != kOutputs) return kWrong;
  const bool fit = shapes_fit(in[kSpectrum], in[kDwWeight], in[kDwBias], in[kMixWeight],
                              in[kMixBias]);
  return fit ? kOk : kWrong;
}

int32_t FrequencyGatePlugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*,
                                     const void* const* inputs, void* const* outputs, void*,
                                     cudaStream_t stream) noexcept {
  const Dims& dims = in[kSpectrum].dims;
  for (int i = 0; i < 4; ++i) {
    if (dims.d[i] == 0) return kOk;
  }
  const int dtype = in[kDwWeight].type == DataType::kHALF ? kFloat16 : kFloat32;
  return icmh_cuda_frequency_gate(inputs[kSpectrum], inputs[kDwWeight], inputs[kDwBias],
                                  inputs[kMixWeight], inputs[kMixBias], outputs[0], dims.d[0],
                                  dims.d[1], dims.d[2], dims.d[3], dtype, kNchw, stream);
}

nvinfer1::IPluginV3* FrequencyGatePlugin::attachToContext(
    nvinfer1::IPluginResourceContext*) noexcept {
  return clone();
}

const nvinfer1::PluginFieldCollection* FrequencyGatePlugin::getFieldsToSerialize() noexcept {
  return &kNoFields;
}

nvinfer1::IPluginV3* FrequencyGateCreator::createPlugin(const char*,
                                                        const nvinfer1::PluginFieldCollection*,
                                                        nvinfer1::TensorRTPhase) noexcept {
  return new (std::nothrow) FrequencyGatePlugin;
}

const nvinfer1::PluginFieldCollection* FrequencyGateCreator::getFieldNames() noexcept {
  return &kNoFields;
}

const char* FrequencyGateCreator::getPluginName() const noexcept { return kGateName; }
const char* FrequencyGateCreator::getPluginVersion() const noexcept { return kPluginVersion; }
const char* FrequencyGateCreator::getPluginNamespace() const noexcept { return kPluginNamespace; }

}  // namespace icmh::trt

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const*
getCreators(int32_t& count) {
  static icmh::trt::FrequencyGateCreator gate;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&gate};
  count = 1;
  return creators;
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(
    nvinfer1::ILoggerFinder*) {}  // it has nothing to say
