// Plays TensorRT for the plugins of csrc/trt: makes one through the entry point that TensorRT looks
// up, asks it what TensorRT asks, and runs it on tensors on the host, where tests link it with the
// CUDA kernel built for this CPU (tests/kernels/cuda_on_host).
#include <cstring>
#include <initializer_list>
#include <memory>

#include "trt/frequency_gate_plugin.h"

using namespace nvinfer1;

namespace {

constexpr int kTensors = 6;  // five inputs and the output

Dims dims(std::initializer_list<int64_t> sides) {
  Dims made{};
  for (const int64_t side : sides) made.d[made.nbDims++] = side;
  return made;
}

void describe(int64_t n, int64_t c, int64_t h, int64_t w, bool half, PluginTensorDesc* out) {
  const DataType weights = half ? DataType::kHALF : DataType::kFLOAT;
  const Dims shapes[kTensors] = {dims({n, c, h, w, 2}), dims({c, 1, 3, 3}), dims({c}),
                                 dims({c, c}),          dims({c}),          dims({n, c, h, w, 2})};
  for (int i = 0; i < kTensors; ++i) {
    out[i] = PluginTensorDesc{};
    out[i].dims = shapes[i];
    out[i].type = i == 0 || i == 5 ? DataType::kFLOAT : weights;
    out[i].format = TensorFormat::kLINEAR;
  }
}

}  // namespace

// The line in which something is not as it should be; 0 if nothing.
#define EXPECT(condition) \
  if (!(condition)) return __LINE__

extern "C" int run_gate(const void* const* inputs, void* output, int64_t n, int64_t c, int64_t h,
                        int64_t w, int half) {
  int32_t count = 0;
  IPluginCreatorInterface* const* creators = getCreators(count);
  EXPECT(count == 1);
  EXPECT(!std::strcmp(creators[0]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE"));
  auto* creator = static_cast<IPluginCreatorV3One*>(creators[0]);
  EXPECT(!std::strcmp(creator->getPluginName(), "IcmhFrequencyGate"));
  EXPECT(!std::strcmp(creator->getPluginNamespace(), "icmh"));
  EXPECT(creator->getFieldNames()->nbFields == 0);
  std::unique_ptr<IPluginV3> plugin(
      creator->createPlugin("gate", creator->getFieldNames(), TensorRTPhase::kBUILD));
  EXPECT(plugin);

  const auto capability = [&](PluginCapabilityType type) {
    return plugin->getCapabilityInterface(type);
  };
  auto* core = static_cast<IPluginV3OneCore*>(capability(PluginCapabilityType::kCORE));
  auto* build = static_cast<IPluginV3OneBuild*>(capability(PluginCapabilityType::kBUILD));
  EXPECT(!std::strcmp(core->getPluginVersion(), "1"));
  EXPECT(build->getNbOutputs() == 1);

  PluginTensorDesc tensors[kTensors];
  describe(n, c, h, w, half != 0, tensors);
  DynamicPluginTensorDesc dynamic[kTensors]{};
  for (int i = 0; i < kTensors; ++i) {
    dynamic[i].desc = tensors[i];
    EXPECT(build->supportsFormatCombination(i, dynamic, 5, 1));
  }
  // Of each tensor another type or another layout is refused.
  for (int i = 0; i < kTensors; ++i) {
    dynamic[i].desc.type = DataType::kINT32;
    EXPECT(!build->supportsFormatCombination(i, dynamic, 5, 1));
    dynamic[i].desc = tensors[i];
    dynamic[i].desc.format = TensorFormat::kCHW32;
    EXPECT(!build->supportsFormatCombination(i, dynamic, 5, 1));
    dynamic[i].desc = tensors[i];
  }
  EXPECT(!build->supportsFormatCombination(6, dynamic, 5, 1));
  EXPECT(!build->supportsFormatCombination(0, dynamic, 4, 1));
  EXPECT(build->configurePlugin(dynamic, 5, dynamic + 5, 1) == 0);
  dynamic[0].desc.dims.d[2] = dynamic[0].desc.dims.d[3] = -1;  // while an engine is built
  EXPECT(build->configurePlugin(dynamic, 5, dynamic + 5, 1) == 0);
  dynamic[3].desc.dims.d[1] += 1;
  EXPECT(build->configurePlugin(dynamic, 5, dynamic + 5, 1) != 0);
  dynamic[3].desc = tensors[3];
  dynamic[0].desc.dims.d[4] = 1;
  EXPECT(build->configurePlugin(dynamic, 5, dynamic + 5, 1) != 0);

  DataType types[kTensors], type{};
  for (int i = 0; i < kTensors; ++i) types[i] = tensors[i].type;
  EXPECT(build->getOutputDataTypes(&type, 1, types, 5) == 0 && type == DataType::kFLOAT);
  EXPECT(build->getOutputDataTypes(&type, 1, types, 3) != 0);

  std::unique_ptr<IPluginV3> copy(plugin->clone());
  auto* runtime = static_cast<IPluginV3OneRuntime*>(
      copy->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  EXPECT(runtime->getFieldsToSerialize()->nbFields == 0);
  std::unique_ptr<IPluginV3> attached(runtime->attachToContext(nullptr));
  runtime = static_cast<IPluginV3OneRuntime*>(
      attached->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  EXPECT(runtime->onShapeChange(tensors, 5, tensors + 5, 1) == 0);
  void* outputs[] = {output};
  EXPECT(runtime->enqueue(tensors, tensors + 5, inputs, outputs, nullptr, nullptr) == 0);
  return 0;
}
