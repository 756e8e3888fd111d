// Runs the CUDA kernels of csrc/kernels on a CPU, to test what does not depend on the hardware:
// index arithmetic, bounds, alignment, barriers, the mathematics.
//
// A block's threads are fibres; __syncthreads switches to the next one. The order in which they run
// between two barriers can be chosen: a result that depends on it betrays a race. Shared
// memory starts as NaN in every block. nvcuda::wmma is imitated by its documentation: the first
// lane of a warp holds the whole matrix.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __forceinline__ inline

constexpr int cudaSuccess = 0;
constexpr int cudaErrorInvalidValue = 1;

struct dim3 {
  unsigned x = 0, y = 0, z = 0;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

// Number types: stored in 16 bits, widened to compute.
struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 value) {
  const uint32_t wide = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &wide, sizeof result);
  return result;
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  uint32_t wide;
  std::memcpy(&wide, &value, sizeof wide);
  if (value != value) return {0x7fff};
  return {static_cast<uint16_t>((wide + 0x7fff + ((wide >> 16) & 1)) >> 16)};
}
struct __half {
  uint16_t bits;
};
inline float __half2float(__half value) {
  const int exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
  float result = exponent == 31 ? (fraction != 0 ? NAN : INFINITY)
                 : exponent == 0
                     ? std::ldexp(static_cast<float>(fraction), -24)
                     : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return std::copysign(result, value.bits & 0x8000 ? -1.0f : 1.0f);
}
inline __half __float2half_rn(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (size != size) return {0x7fff};
  if (size == 0.0f) return {sign};
  if (size >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
  int exponent = 0;
  std::frexp(size, &exponent);
  // The spacing of half-precision numbers around `size`; nearbyint rounds half to even.
  const int unit = std::max(exponent - 11, -24);
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(size, -unit)));
  const int bits = unit == -24 ? steps : steps + ((unit + 24) << 10);
  return {static_cast<uint16_t>(sign | bits)};
}

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
using std::isfinite;

inline int atomicAdd(int* address, int value) {
  const int before = *address;
  *address += value;
  return before;
}

namespace cuda_on_host {

constexpr std::size_t kStackBytes = 1 << 18;
constexpr std::size_t kSharedBytes = 48 * 1024;  // the limit without asking the driver for more

struct Fibre {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  bool done = false;
};

struct Machine {
  ucontext_t main;
  std::vector<Fibre> fibres;
  unsigned current = 0;
  int order = 0;  // 0: ascending, 1: descending, else the seed of shuffles
  unsigned long barriers = 0;
  std::function<void()> kernel;
  alignas(128) char shared[kSharedBytes];
};
inline Machine machine;

inline void fail(const char* what) {
  std::fprintf(stderr, "cuda_on_host: %s\n", what);
  std::abort();
}

inline void body() {
  machine.kernel();
  machine.fibres[machine.current].done = true;
}

inline void barrier() {
  swapcontext(&machine.fibres[machine.current].context, &machine.main);
}

inline void run_block(unsigned threads) {
  std::memset(machine.shared, 0xff, sizeof machine.shared);
  if (machine.fibres.size() < threads) machine.fibres.resize(threads);
  std::vector<unsigned> turns(threads);
  for (unsigned i = 0; i < threads; ++i) {
    Fibre& fibre = machine.fibres[i];
    fibre.done = false;
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = kStackBytes;
    fibre.context.uc_link = &machine.main;
    makecontext(&fibre.context, body, 0);
    turns[i] = machine.order == 1 ? threads - 1 - i : i;
  }
  unsigned state = static_cast<unsigned>(machine.order);
  for (unsigned done = 0; done < threads;) {
    for (unsigned i = threads - 1; machine.order > 1 && i > 0; --i) {
      state = state * 1664525u + 1013904223u;
      std::swap(turns[i], turns[(state >> 8) % (i + 1)]);
    }
    for (unsigned turn : turns) {
      machine.current = turn;
      threadIdx = {turn, 0, 0};
      swapcontext(&machine.main, &machine.fibres[turn].context);
      done += machine.fibres[turn].done;
    }
    if (done != 0 && done != threads) fail("some threads left while others wait at a barrier");
    ++machine.barriers;
  }
}

template <typename Type>
Type& shared() {
  static_assert(sizeof(Type) <= kSharedBytes, "more shared memory than a block has");
  return *reinterpret_cast<Type*>(machine.shared);
}

}  // namespace cuda_on_host

#define ICMH_SHARED(Type, name) Type& name = cuda_on_host::shared<Type>()

inline void __syncthreads() { cuda_on_host::barrier(); }

namespace icmh::kernels {

template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), int64_t blocks, int threads, void*,
           Arguments... arguments) {
  if (blocks < 0 || blocks > INT32_MAX) return cudaErrorInvalidValue;
  gridDim = {static_cast<unsigned>(blocks), 1, 1};
  blockDim = {static_cast<unsigned>(threads), 1, 1};
  cuda_on_host::machine.kernel = [=] { kernel(static_cast<Parameters>(arguments)...); };
  for (int64_t block = 0; block < blocks; ++block) {
    blockIdx = {static_cast<unsigned>(block), 0, 0};
    cuda_on_host::run_block(static_cast<unsigned>(threads));
  }
  return cudaSuccess;
}

}  // namespace icmh::kernels

namespace nvcuda::wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };

inline float widened(float value) { return value; }
inline float widened(__half value) { return __half2float(value); }
inline float widened(__nv_bfloat16 value) { return __bfloat162float(value); }

inline bool first_lane() { return threadIdx.x % 32 == 0; }

template <typename Use, int kM, int kN, int kK, typename T, typename Order = void>
struct fragment {
  static_assert(kM == 16 && kN == 16 && kK == 16, "only this shape is imitated");
  static constexpr int num_elements = 256;
  float x[256];  // row * 16 + column
};

template <typename T>
void check(const T* pointer, unsigned pitch) {
  if (reinterpret_cast<uintptr_t>(pointer) % 32 != 0) cuda_on_host::fail("wmma: not aligned to 32");
  if (pitch * sizeof(T) % 16 != 0) cuda_on_host::fail("wmma: the pitch is not in 16 bytes");
}

template <typename Fragment>
void fill_fragment(Fragment& matrix, float value) {
  std::fill(matrix.x, matrix.x + 256, value);
}

template <typename Use, typename T, typename Order>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Order>& matrix, const T* from, unsigned pitch) {
  check(from, pitch);
  if (!first_lane()) return;
  constexpr bool kByRows = std::is_same<Order, row_major>::value;
  for (unsigned r = 0; r < 16; ++r) {
    for (unsigned c = 0; c < 16; ++c) {
      matrix.x[r * 16 + c] = widened(from[kByRows ? r * pitch + c : c * pitch + r]);
    }
  }
}

template <typename T>
void load_matrix_sync(fragment<accumulator, 16, 16, 16, T>& matrix, const T* from, unsigned pitch,
                      layout_t order) {
  check(from, pitch);
  if (!first_lane()) return;
  for (unsigned r = 0; r < 16; ++r) {
    for (unsigned c = 0; c < 16; ++c) {
      matrix.x[r * 16 + c] = from[order == mem_row_major ? r * pitch + c : c * pitch + r];
    }
  }
}

template <typename T>
void store_matrix_sync(T* to, const fragment<accumulator, 16, 16, 16, T>& matrix, unsigned pitch,
                       layout_t order) {
  check(to, pitch);
  if (!first_lane()) return;
  for (unsigned r = 0; r < 16; ++r) {
    for (unsigned c = 0; c < 16; ++c) {
      to[order == mem_row_major ? r * pitch + c : c * pitch + r] = matrix.x[r * 16 + c];
    }
  }
}

template <typename A, typename B, typename C>
void mma_sync(C& result, const A& a, const B& b, const C& sum) {
  if (!first_lane()) return;
  for (unsigned r = 0; r < 16; ++r) {
    for (unsigned c = 0; c < 16; ++c) {
      float total = sum.x[r * 16 + c];
      for (unsigned k = 0; k < 16; ++k) total += a.x[r * 16 + k] * b.x[k * 16 + c];
      result.x[r * 16 + c] = total;
    }
  }
}

}  // namespace nvcuda::wmma
