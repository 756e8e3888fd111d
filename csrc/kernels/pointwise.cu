// A block computes 64 channels of 128 positions ("tokens"): it walks along K in steps, holds the
// next step's values in registers while it multiplies the present one from shared memory, and
// leaves through shared memory, so that every access to global memory is coalesced in both layouts.
//
// Half precision multiplies on tensor cores (wmma, float accumulators). Float multiplies with plain
// FMAs: TF32 would lose 13 bits.
#include "kernels/cuda/pointwise.h"

#include <type_traits>

#include "kernels/cuda/device.cuh"

namespace icmh::kernels {
namespace {

namespace wmma = nvcuda::wmma;

constexpr int kRows = 64;      // output channels of a block
constexpr int kTokens = 128;   // positions of a block
constexpr int kThreads = 256;  // 2 x 4 warps of 32 channels x 32 tokens
constexpr int kPitchPad = 8;   // 16 bytes: neighbouring rows start in different banks

// The block's result. By rows of tokens (NCHW) or of channels (NHWC), with a pitch of +4.
constexpr int kResultFloats = (kRows + 4) * (kTokens + 4);
// A bias is the same for all tokens: 16 columns of it are what an accumulator starts from.
constexpr int kBiasPitch = 20;

// A value converted only where it has to be.
template <typename To, typename From>
struct Converted {
  static __device__ To of(From value) { return from_float<To>(to_float(value)); }
};
template <typename T>
struct Converted<T, T> {
  static __device__ T of(T value) { return value; }
};

// sum += weights x tokens on tensor cores.
template <typename Operand, bool kLast, int kMatrices>
struct Multiplier {
  static constexpr int kDepth = 32;
  static constexpr int kWeightPitch = kDepth + kPitchPad;
  static constexpr int kTokenPitch = (kLast ? kDepth : kTokens) + kPitchPad;
  struct alignas(128) Steps {
    Operand weights[kMatrices][kRows * kWeightPitch];                // [channel][k]
    Operand tokens[kTokenPitch * (kLast ? kTokens : kDepth)];  // [token][k] or [k][token]
  };
  using Order = typename std::conditional<kLast, wmma::col_major, wmma::row_major>::type;
  using Sum = wmma::fragment<wmma::accumulator, 16, 16, 16, float>;

  Sum sums[kMatrices][2][2];

  static __device__ int first_row() { return threadIdx.x / 32 % 2 * 32; }
  static __device__ int first_token() { return threadIdx.x / 64 * 32; }

  __device__ void start(const float (*bias)[kRows * kBiasPitch]) {
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int t = 0; t < 2; ++t) {
          wmma::load_matrix_sync(sums[m][r][t], bias[m] + (first_row() + 16 * r) * kBiasPitch,
                                 kBiasPitch, wmma::mem_row_major);
        }
      }
    }
  }

  static __device__ void put_weight(Steps& steps, int matrix, int row, int k, Operand value) {
    steps.weights[matrix][row * kWeightPitch + k] = value;
  }
  static __device__ void put_token(Steps& steps, int token, int k, Operand value) {
    steps.tokens[kLast ? token * kTokenPitch + k : k * kTokenPitch + token] = value;
  }

  __device__ void multiply(const Steps& steps) {
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      wmma::fragment<wmma::matrix_b, 16, 16, 16, Operand, Order> tokens[2];
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        const int token = first_token() + 16 * t;
        wmma::load_matrix_sync(
            tokens[t],
            steps.tokens + (kLast ? token * kTokenPitch + k : k * kTokenPitch + token),
            kTokenPitch);
      }
#pragma unroll
      for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          wmma::fragment<wmma::matrix_a, 16, 16, 16, Operand, wmma::row_major> weights;
          wmma::load_matrix_sync(
              weights, steps.weights[m] + (first_row() + 16 * r) * kWeightPitch + k, kWeightPitch);
#pragma unroll
          for (int t = 0; t < 2; ++t) {
            wmma::mma_sync(sums[m][r][t], weights, tokens[t], sums[m][r][t]);
          }
        }
      }
    }
  }

  __device__ void finish(float* result) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        // Equal fragment types have their elements in the same places.
        if (kMatrices == 2) {
          for (int i = 0; i < Sum::num_elements; ++i) {
            sums[0][r][t].x[i] = silu(sums[0][r][t].x[i]) * sums[kMatrices - 1][r][t].x[i];
          }
        }
        const int row = first_row() + 16 * r, token = first_token() + 16 * t;
        if (kLast) {
          wmma::store_matrix_sync(result + token * (kRows + 4) + row, sums[0][r][t], kRows + 4,
                                  wmma::mem_col_major);
        } else {
          wmma::store_matrix_sync(result + row * (kTokens + 4) + token, sums[0][r][t],
                                  kTokens + 4, wmma::mem_row_major);
        }
      }
    }
  }
};

// The same in float: a thread has 4 channels of twice 4 tokens.
template <bool kLast, int kMatrices>
struct Multiplier<float, kLast, kMatrices> {
  static constexpr int kDepth = 16;
  static constexpr int kWeightPitch = kRows + 4;
  static constexpr int kTokenPitch = kTokens + 4;
  struct alignas(128) Steps {
    float weights[kMatrices][kDepth * kWeightPitch];  // [k][channel]
    float tokens[kDepth * kTokenPitch];               // [k][token]
  };

  float sums[kMatrices][4][8];

  static __device__ int first_row() { return threadIdx.x / 16 * 4; }
  static __device__ int token_of(int i) { return threadIdx.x % 16 * 4 + i % 4 + i / 4 * 64; }

  __device__ void start(const float (*bias)[kRows * kBiasPitch]) {
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
#pragma unroll
        for (int t = 0; t < 8; ++t) sums[m][r][t] = bias[m][(first_row() + r) * kBiasPitch];
      }
    }
  }

  static __device__ void put_weight(Steps& steps, int matrix, int row, int k, float value) {
    steps.weights[matrix][k * kWeightPitch + row] = value;
  }
  static __device__ void put_token(Steps& steps, int token, int k, float value) {
    steps.tokens[k * kTokenPitch + token] = value;
  }

  __device__ void multiply(const Steps& steps) {
    using Four = Pack<float, 4>;
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      const float* tokens = steps.tokens + k * kTokenPitch;
      const Four low = *reinterpret_cast<const Four*>(tokens + token_of(0));
      const Four high = *reinterpret_cast<const Four*>(tokens + token_of(4));
#pragma unroll
      for (int m = 0; m < kMatrices; ++m) {
        const Four weights =
            *reinterpret_cast<const Four*>(steps.weights[m] + k * kWeightPitch + first_row());
#pragma unroll
        for (int r = 0; r < 4; ++r) {
#pragma unroll
          for (int t = 0; t < 4; ++t) {
            sums[m][r][t] += weights.at[r] * low.at[t];
            sums[m][r][t + 4] += weights.at[r] * high.at[t];
          }
        }
      }
    }
  }

  __device__ void finish(float* result) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
#pragma unroll
      for (int t = 0; t < 8; ++t) {
        float sum = sums[0][r][t];
        if (kMatrices == 2) sum = silu(sum) * sums[kMatrices - 1][r][t];
        const int row = first_row() + r, token = token_of(t);
        result[kLast ? token * (kRows + 4) + row : row * (kTokens + 4) + token] = sum;
      }
    }
  }
};

// What a kernel is compiled for; each has code that the others would pay for with registers.
enum class Kind { kPlain, kSecond, kGated, kDepthwise };

// Where a block works. In NHWC all images are one long row of tokens.
struct Place {
  int64_t image, token;  // the first of each
  int row;
  int64_t tokens;  // of an image
};

template <bool kLast>
__device__ Place place_of_block(const Pointwise& task) {
  const int64_t row_blocks = ceil_div(task.channels_out, kRows);
  const int64_t pixels = task.height * task.width;
  const int64_t tokens = kLast ? task.images * pixels : pixels;
  const int64_t token_blocks = ceil_div(tokens, kTokens);
  // Blocks of the same tokens follow each other: all but the first find them in L2.
  const int64_t block = blockIdx.x;
  return {block / row_blocks / token_blocks, block / row_blocks % token_blocks * kTokens,
          static_cast<int>(block % row_blocks) * kRows, tokens};
}

// Neighbours in memory of the input: channels of a token in NHWC, tokens of a channel in NCHW.
template <typename T, bool kLast, Kind kKind>
struct Input {
  using Values = Pack<T>;
  static constexpr int kSize = 16 / sizeof(T);

  const Pointwise& task;
  const Place& place;
  bool aligned;         // x, and second where it lies as x does
  bool aligned_planes;  // second where it does not

  __device__ Values read(int64_t token, int k) const {
    if (kKind == Kind::kDepthwise) return convolved(token, k);
    const bool from_second = kKind == Kind::kSecond && k >= task.channels;
    const int channels = from_second ? task.second_channels : task.channels;
    const int channel = from_second ? k - task.channels : k;
    Values values;
    if (!kLast) {
      if (from_second && task.second_wide) return read_plane(token, channel);
      const T* data = static_cast<const T*>(from_second ? task.second : task.x);
      load(values, data + (place.image * channels + channel) * place.tokens + token,
           channel < channels ? place.tokens - token : 0, aligned);
      return values;
    }
    const int64_t count = token < place.tokens ? channels - channel : 0;
    if (kKind == Kind::kSecond && count > 0 && (from_second ? task.second_planes : count < kSize)) {
      // One by one: a pack that may reach from the first input into the second one, or across
      // planes.
      const T* first = static_cast<const T*>(task.x) + token * task.channels + k;
      const int64_t second = second_index(token, k - task.channels);
      const int64_t step = task.second_planes ? task.height * task.width : 1;
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        const int rest = task.channels - k - i;
        float value = 0.0f;
        if (rest > 0) {
          value = to_float(first[i]);
        } else if (rest > -task.second_channels) {
          value = second_at(second + i * step);
        }
        values.at[i] = from_float<T>(value);
      }
      return values;
    }
    const T* data = static_cast<const T*>(from_second ? task.second : task.x);
    load(values, data + token * channels + channel, count, aligned);
    return values;
  }

  // Neighbouring tokens of one channel of the second input, in NCHW also where T is in NHWC.
  __device__ Values read_plane(int64_t token, int channel) const {
    Values values;
    if (channel < task.second_channels && aligned_planes && token + kSize <= place.tokens) {
      const int64_t at = second_index(token, channel);
      if (task.second_wide) {
        Pack<float> parts[kSize * sizeof(float) / 16];
#pragma unroll
        for (int i = 0; i < kSize; i += 4) {
          const float* from = static_cast<const float*>(task.second) + at + i;
          parts[i / 4] = *reinterpret_cast<const Pack<float>*>(from);
        }
#pragma unroll
        for (int i = 0; i < kSize; ++i) values.at[i] = from_float<T>(parts[i / 4].at[i % 4]);
      } else {
        values = *reinterpret_cast<const Values*>(static_cast<const T*>(task.second) + at);
      }
      return values;
    }
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const bool inside = channel < task.second_channels && token + i < place.tokens;
      values.at[i] = from_float<T>(inside ? second_at(second_index(token + i, channel)) : 0.0f);
    }
    return values;
  }

  __device__ int64_t second_index(int64_t token, int channel) const {
    if (kLast && !task.second_planes) return token * task.second_channels + channel;
    const int64_t pixels = task.height * task.width;
    const int64_t image = kLast ? token / pixels : place.image;
    return (image * task.second_channels + channel) * pixels + (token - image * pixels * kLast);
  }

  __device__ float second_at(int64_t index) const {
    return task.second_wide ? static_cast<const float*>(task.second)[index]
                            : to_float(static_cast<const T*>(task.second)[index]);
  }

  // A depthwise 3x3 convolution at these places; zero outside the map.
  __device__ Values convolved(int64_t token, int k) const {
    const T* x = static_cast<const T*>(task.x);
    const T* weight = static_cast<const T*>(task.depthwise_weight);
    const T* bias = static_cast<const T*>(task.depthwise_bias);
    const int width = static_cast<int>(task.width), height = static_cast<int>(task.height);
    float sums[kSize] = {};
    const int64_t count = kLast ? (token < place.tokens ? task.channels - k : 0)
                                 : (k < task.channels ? place.tokens - token : 0);
    if (count > 0) {
      const int64_t pixel = kLast ? token % (task.height * task.width) : token;
      int row = static_cast<int>(pixel / width), column = static_cast<int>(pixel % width);
      if (kLast) {
#pragma unroll
        for (int i = 0; i < kSize; ++i) sums[i] = i < count ? to_float(bias[k + i]) : 0.0f;
        for (int tap = 0; tap < 9; ++tap) {
          const int u = tap / 3 - 1, v = tap % 3 - 1;
          if (row + u < 0 || row + u >= height || column + v < 0 || column + v >= width) continue;
          Values values;
          load(values, x + (token + u * width + v) * task.channels + k, count, aligned);
#pragma unroll
          for (int i = 0; i < kSize; ++i) {
            if (i < count) sums[i] += to_float(values.at[i]) * to_float(weight[(k + i) * 9 + tap]);
          }
        }
      } else {
        const T* plane = x + (place.image * task.channels + k) * place.tokens;
#pragma unroll
        for (int i = 0; i < kSize; ++i) {
          if (i < count) {
            float sum = to_float(bias[k]);
            for (int tap = 0; tap < 9; ++tap) {
              const int u = tap / 3 - 1, v = tap % 3 - 1;
              if (row + u < 0 || row + u >= height || column + v < 0 || column + v >= width) {
                continue;
              }
              sum += to_float(plane[(row + u) * static_cast<int64_t>(width) + column + v]) *
                     to_float(weight[k * 9 + tap]);
            }
            sums[i] = sum;
            if (++column == width) column = 0, ++row;
          }
        }
      }
    }
    Values values;
#pragma unroll
    for (int i = 0; i < kSize; ++i) values.at[i] = from_float<T>(sums[i]);
    return values;
  }
};

// Two blocks share a multiprocessor, one loads while the other multiplies, where that leaves enough
// registers: not for two matrices, nor for two inputs in half precision.
template <typename T, Kind kKind>
constexpr int blocks_together() {
  return kKind == Kind::kGated || (kKind == Kind::kSecond && sizeof(T) == 2) ? 1 : 2;
}

template <typename T, typename Operand, bool kLast, Kind kKind>
__global__ void __launch_bounds__(kThreads, (blocks_together<T, kKind>()))
    pointwise_kernel(Pointwise task, bool aligned_in, bool aligned_planes, bool aligned_weights,
                     bool aligned_out) {
  constexpr int kMatrices = kKind == Kind::kGated ? 2 : 1;
  using Math = Multiplier<Operand, kLast, kMatrices>;
  constexpr int kPack = 16 / sizeof(T);
  constexpr int kPacksOfDepth = Math::kDepth / kPack;
  constexpr int kTokenPacks = kTokens * kPacksOfDepth / kThreads;  // a thread reads
  static_assert(kRows * kPacksOfDepth == kThreads, "a thread reads one pack of each matrix");
  union alignas(128) Shared {
    float bias[kMatrices][kRows * kBiasPitch];
    typename Math::Steps steps;
    float result[kResultFloats];
  };
  ICMH_SHARED(Shared, shared);

  const Place place = place_of_block<kLast>(task);
  const int depth = task.channels + task.second_channels;
  const int thread = threadIdx.x;

  for (int i = thread; i < kMatrices * kRows * 16; i += kThreads) {
    const int matrix = i / (kRows * 16), row = i / 16 % kRows;
    const T* bias = static_cast<const T*>(matrix == 0 ? task.bias : task.value_bias);
    shared.bias[matrix][row * kBiasPitch + i % 16] =
        place.row + row < task.channels_out ? to_float(bias[place.row + row]) : 0.0f;
  }
  __syncthreads();
  Math math;
  math.start(shared.bias);

  const Input<T, kLast, kKind> input{task, place, aligned_in, aligned_planes};
  Pack<T> weights[kMatrices], tokens[kTokenPacks];
  const int weight_row = thread / kPacksOfDepth, weight_k = thread % kPacksOfDepth * kPack;
  // Which pack of a step: along tokens in NCHW, along channels in NHWC; but along tokens as well
  // where a whole step of NHWC comes from planes.
  const auto turned = [&](int k) {
    return kLast && kKind == Kind::kSecond && task.second_planes && k >= task.channels;
  };
  const auto token_of = [&](int p, bool along_channels) {
    const int pack = thread + p * kThreads;
    return along_channels ? pack / kPacksOfDepth : pack % (kTokens / kPack) * kPack;
  };
  const auto k_of = [&](int p, bool along_channels) {
    const int pack = thread + p * kThreads;
    return along_channels ? pack % kPacksOfDepth * kPack : pack / (kTokens / kPack);
  };
  const auto read = [&](int k) {
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
      const Matrix& matrix = m == 0 ? task.weight : task.value_weight;
      const int row = place.row + weight_row;
      load(weights[m], static_cast<const T*>(matrix.data) + row * matrix.pitch + k + weight_k,
           row < task.channels_out ? depth - k - weight_k : 0, aligned_weights);
    }
#pragma unroll
    for (int p = 0; p < kTokenPacks; ++p) {
      if (turned(k)) {
        tokens[p] = input.read_plane(place.token + token_of(p, false),
                                     k + k_of(p, false) - task.channels);
      } else {
        tokens[p] = input.read(place.token + token_of(p, kLast), k + k_of(p, kLast));
      }
    }
  };

  const auto put = [&](int k) {
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        Math::put_weight(shared.steps, m, weight_row, weight_k + i,
                         Converted<Operand, T>::of(weights[m].at[i]));
      }
    }
#pragma unroll
    for (int p = 0; p < kTokenPacks; ++p) {
      const bool along_channels = kLast && !turned(k);
      const int first_token = token_of(p, along_channels), first_k = k_of(p, along_channels);
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        const int token = first_token + (along_channels ? 0 : i);
        const int k_in_step = first_k + (along_channels ? i : 0);
        Operand operand = Converted<Operand, T>::of(tokens[p].at[i]);
        if (kKind == Kind::kPlain && task.prologue == Prologue::kSquare) {
          const float value = to_float(tokens[p].at[i]);
          operand = from_float<Operand>(value * value);
        } else if (kKind == Kind::kSecond && k + k_in_step >= task.channels) {
          operand = from_float<Operand>(relu(to_float(tokens[p].at[i])));
        }
        Math::put_token(shared.steps, token, k_in_step, operand);
      }
    }
  };

  // The next step's values are on their way while the present one is multiplied.
  for (int k = -Math::kDepth; k < depth; k += Math::kDepth) {
    if (k >= 0) {
      __syncthreads();
      put(k);
      __syncthreads();
    }
    if (k + Math::kDepth < depth) read(k + Math::kDepth);
    if (k >= 0) math.multiply(shared.steps);
  }
  __syncthreads();
  math.finish(shared.result);
  __syncthreads();

  constexpr int kPacksOfLine = (kLast ? kRows : kTokens) / kPack;
  constexpr int kPitch = (kLast ? kRows : kTokens) + 4;
  for (int pack = thread; pack < kRows * kTokens / kPack; pack += kThreads) {
    const int line = pack / kPacksOfLine, first = pack % kPacksOfLine * kPack;
    const int row = place.row + (kLast ? first : line);
    const int64_t token = place.token + (kLast ? line : first);
    if (row >= task.channels_out || token >= place.tokens) continue;
    const int64_t count = kLast ? task.channels_out - row : place.tokens - token;
    const int64_t offset = kLast
                               ? token * task.channels_out + row
                               : (place.image * task.channels_out + row) * place.tokens + token;
    Pack<T> other, out;
    if (task.epilogue >= Epilogue::kAddScaled) {
      load(other, static_cast<const T*>(task.other) + offset, count, aligned_out);
    }
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      float sum = shared.result[line * kPitch + first + i];
      switch (task.epilogue) {
        case Epilogue::kPlain: break;
        case Epilogue::kSilu: sum = silu(sum); break;
        case Epilogue::kAddScaled: sum = to_float(other.at[i]) + task.factor * sum; break;
        case Epilogue::kTimesRsqrt: sum = to_float(other.at[i]) * rsqrtf(sum); break;
        case Epilogue::kTimesSqrt: sum = to_float(other.at[i]) * sqrtf(sum); break;
      }
      out.at[i] = from_float<T>(sum);
    }
    store(out, static_cast<T*>(task.out) + offset, count, aligned_out);
  }
}

template <typename T, typename Operand, bool kLast, Kind kKind>
int queue(const Pointwise& task, void* stream) {
  constexpr int kPack = 16 / sizeof(T);
  const int64_t pixels = task.height * task.width;
  const int64_t tokens = kLast ? task.images * pixels : pixels;
  const int64_t blocks = (kLast ? 1 : task.images) * ceil_div(tokens, kTokens) *
                         ceil_div(task.channels_out, kRows);
  const auto multiple = [](int64_t size) { return size % kPack == 0; };
  const bool second_alike = !task.second_wide && !task.second_planes;
  const bool aligned_in =
      aligned_to(task.x, 16) && (aligned_to(task.second, 16) || !second_alike) &&
      (kLast ? multiple(task.channels) && (multiple(task.second_channels) || !second_alike)
             : multiple(pixels));
  const bool aligned_planes = aligned_to(task.second, 16) && multiple(pixels);
  const bool aligned_weights =
      aligned_to(task.weight.data, 16) && multiple(task.weight.pitch) &&
      aligned_to(task.value_weight.data, 16) && multiple(task.value_weight.pitch);
  const bool aligned_out = aligned_to(task.out, 16) && aligned_to(task.other, 16) &&
                           multiple(kLast ? task.channels_out : pixels);
  return launch(pointwise_kernel<T, Operand, kLast, kKind>, blocks, kThreads, stream, task,
                aligned_in, aligned_planes, aligned_weights, aligned_out);
}

template <typename T, typename Operand, Kind kKind>
int queue(const Pointwise& task, void* stream) {
  return task.layout == kNhwc ? queue<T, Operand, true, kKind>(task, stream)
                              : queue<T, Operand, false, kKind>(task, stream);
}

}  // namespace

int pointwise(const Pointwise& task, void* stream) {
  if (task.dtype == kFloat16 && task.prologue == Prologue::kSquare) {
    return queue<__half, __nv_bfloat16, Kind::kPlain>(task, stream);
  }
  return with_dtype(task.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (task.value_weight.data != nullptr) return queue<T, T, Kind::kGated>(task, stream);
    if (task.second != nullptr) return queue<T, T, Kind::kSecond>(task, stream);
    if (task.prologue == Prologue::kDepthwise) return queue<T, T, Kind::kDepthwise>(task, stream);
    return queue<T, T, Kind::kPlain>(task, stream);
  });
}

}  // namespace icmh::kernels
