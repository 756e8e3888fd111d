// SFMA's passes at every level this CPU can run, against the formulas in double precision: layouts,
// channel counts and sizes that fill no vector, parts of few rows, guarded memory.
#include "kernels/sfma.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/fft.h"
#include "kernels/level.h"

namespace {

using icmh::kernels::KernelLevel;
using icmh::kernels::SfmaSizes;
using icmh::tests::current_case;

using Values = std::vector<double>;
using Complex = std::complex<double>;

// Uniform in [-1, 1): the same on every machine.
class Numbers {
 public:
  double next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(state_ >> 40) / static_cast<double>(1u << 23) - 1.0;
  }
  std::vector<float> floats(std::int64_t count, double scale) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = static_cast<float>(scale * next());
    return values;
  }

 private:
  std::uint64_t state_ = 1;
};

struct Weights {
  std::vector<std::vector<float>> values;  // in the order of SfmaWeights

  Weights(const SfmaSizes& s, Numbers& numbers) {
    const std::int64_t fan_ins[] = {s.channels, s.channels, s.channels, 25, 9, s.middle, s.middle,
                                    s.middle};
    const std::int64_t outs[] = {s.middle, s.middle,   s.middle,   s.middle,
                                 s.middle, s.middle,   s.channels, s.channels};
    for (int i = 0; i < 8; ++i) {
      values.push_back(numbers.floats(outs[i] * fan_ins[i],
                                      1.7 / std::sqrt(static_cast<double>(fan_ins[i]))));
      values.push_back(numbers.floats(outs[i], 0.3));
    }
  }
  icmh::kernels::SfmaWeights view() const {
    const auto p = [&](int i) { return values[static_cast<std::size_t>(i)].data(); };
    return {p(0), p(1), p(2),  p(3),  p(4),  p(5),  p(6),  p(7),
            p(8), p(9), p(10), p(11), p(12), p(13), p(14), p(15)};
  }
};

// out (outputs, positions) of in (inputs, positions).
Values pointwise(const float* weight, const float* bias, const Values& in, std::int64_t outputs,
                 std::int64_t inputs) {
  const std::int64_t positions = static_cast<std::int64_t>(in.size()) / inputs;
  Values out(static_cast<std::size_t>(outputs * positions));
  for (std::int64_t o = 0; o < outputs; ++o) {
    for (std::int64_t p = 0; p < positions; ++p) {
      double sum = bias[o];
      for (std::int64_t i = 0; i < inputs; ++i) {
        sum += static_cast<double>(weight[o * inputs + i]) *
               in[static_cast<std::size_t>(i * positions + p)];
      }
      out[static_cast<std::size_t>(o * positions + p)] = sum;
    }
  }
  return out;
}

Values depthwise(const float* weight, const float* bias, const Values& in, std::int64_t channels,
                 std::int64_t height, std::int64_t width, std::int64_t reach) {
  const std::int64_t side = 2 * reach + 1;
  Values out(in.size());
  for (std::int64_t c = 0; c < channels; ++c) {
    for (std::int64_t i = 0; i < height; ++i) {
      for (std::int64_t j = 0; j < width; ++j) {
        double sum = bias[c];
        for (std::int64_t u = -reach; u <= reach; ++u) {
          for (std::int64_t v = -reach; v <= reach; ++v) {
            if (i + u < 0 || i + u >= height || j + v < 0 || j + v >= width) continue;
            sum += static_cast<double>(weight[(c * side + u + reach) * side + v + reach]) *
                   in[static_cast<std::size_t>((c * height + i + u) * width + j + v)];
          }
        }
        out[static_cast<std::size_t>((c * height + i) * width + j)] = sum;
      }
    }
  }
  return out;
}

// The transform by its definition along rows (stride 1) or columns of (count, length) values.
void transform(std::vector<Complex>& values, std::int64_t length, std::int64_t stride, double sign) {
  const double turn = sign * 2.0 * std::acos(-1.0) / static_cast<double>(length);
  std::vector<Complex> line(static_cast<std::size_t>(length));
  const auto total = static_cast<std::int64_t>(values.size());
  for (std::int64_t start = 0; start < total; ++start) {
    if (start / stride % length != 0) continue;
    for (std::int64_t k = 0; k < length; ++k) {
      Complex sum = 0;
      for (std::int64_t n = 0; n < length; ++n) {
        sum += values[static_cast<std::size_t>(start + n * stride)] *
               std::polar(1.0, turn * static_cast<double>(n * k % length));
      }
      line[static_cast<std::size_t>(k)] = sum;
    }
    for (std::int64_t k = 0; k < length; ++k) {
      values[static_cast<std::size_t>(start + k * stride)] = line[static_cast<std::size_t>(k)];
    }
  }
}

// What the adapter adds to x (channels, height, width).
Values adapter(const SfmaSizes& s, const Weights& weights, const Values& x) {
  const auto w = weights.view();
  Values near = depthwise(w.s_dw, w.s_dw_bias,
                          pointwise(w.s_down1, w.s_down1_bias, x, s.middle, s.channels), s.middle,
                          s.height, s.width, 2);
  const Values other = pointwise(w.s_down2, w.s_down2_bias, x, s.middle, s.channels);
  for (std::size_t i = 0; i < near.size(); ++i) near[i] = std::fmax(0.0, near[i] * other[i]);

  const Values planes = pointwise(w.f_down, w.f_down_bias, x, s.middle, s.channels);
  const std::int64_t half = s.width / 2 + 1;
  std::vector<Complex> full(planes.begin(), planes.end());
  transform(full, s.width, 1, -1.0);
  transform(full, s.height, s.width, -1.0);
  std::vector<Complex> spectrum;
  Values amplitudes;
  for (std::int64_t row = 0; row < s.middle * s.height; ++row) {
    for (std::int64_t k = 0; k < half; ++k) {
      spectrum.push_back(full[static_cast<std::size_t>(row * s.width + k)]);
      amplitudes.push_back(std::abs(spectrum.back()));
    }
  }
  Values smooth = depthwise(w.f_dw, w.f_dw_bias, amplitudes, s.middle, s.height, half, 1);
  for (double& value : smooth) value = std::fmax(0.0, value);
  const Values gates = pointwise(w.f_inter, w.f_inter_bias, smooth, s.middle, s.middle);
  for (std::size_t i = 0; i < spectrum.size(); ++i) spectrum[i] /= 1.0 + std::exp(-gates[i]);
  transform(spectrum, s.height, half, 1.0);
  // The other half of every row is the conjugate; the first and the middle column count as real.
  Values filtered;
  for (std::int64_t row = 0; row < s.middle * s.height; ++row) {
    std::vector<Complex> line;
    for (std::int64_t k = 0; k < s.width; ++k) {
      const std::int64_t place = k < half ? k : s.width - k;
      Complex value = spectrum[static_cast<std::size_t>(row * half + place)];
      if (k == 0 || 2 * k == s.width) value = value.real();
      line.push_back(k < half ? value : std::conj(value));
    }
    transform(line, s.width, 1, 1.0);
    for (const Complex& value : line) {
      const double scale = static_cast<double>(s.height * s.width);
      filtered.push_back(std::fmax(0.0, value.real() / scale));
    }
  }
  Values sum = pointwise(w.s_up, w.s_up_bias, near, s.channels, s.middle);
  const Values more = pointwise(w.f_up, w.f_up_bias, filtered, s.channels, s.middle);
  for (std::size_t i = 0; i < sum.size(); ++i) {
    sum[i] = static_cast<double>(s.factor) * (sum[i] + more[i]);
  }
  return sum;
}

// Memory of exactly so many floats, so that a sanitizer or valgrind sees what reaches beyond.
using Buffer = std::vector<float>;
Buffer buffer(std::int64_t floats) { return Buffer(static_cast<std::size_t>(floats), NAN); }

void check(const SfmaSizes& s, std::int64_t part_rows, Numbers& numbers) {
  const Weights weights(s, numbers);
  const std::int64_t positions = s.height * s.width;
  const std::vector<float> x = numbers.floats(s.channels * positions, 1.7);
  const Values exact = adapter(s, weights, Values(x.begin(), x.end()));
  double norm = 0.0;
  for (const double value : exact) norm += value * value;
  for (const KernelLevel level : icmh::kernels::kKernelLevels) {
    if (!icmh::kernels::kernel_level_supported(level)) continue;
    for (const bool channels_last : {false, true}) {
      current_case() = std::string(kernel_level_name(level)) +
                       (channels_last ? " channels-last " : " planes ") +
                       std::to_string(s.channels) + "/" + std::to_string(s.middle) + " " +
                       std::to_string(s.height) + "x" + std::to_string(s.width) + " in parts of " +
                       std::to_string(part_rows);
      const std::int64_t channel = channels_last ? 1 : positions;
      const std::int64_t column = channels_last ? s.channels : 1;
      const std::int64_t row = s.width * column;
      Buffer in = buffer(s.channels * positions), out = buffer(s.channels * positions);
      for (std::int64_t c = 0; c < s.channels; ++c) {
        for (std::int64_t p = 0; p < positions; ++p) {
          in[static_cast<std::size_t>(c * channel + p * column)] =
              x[static_cast<std::size_t>(c * positions + p)];
        }
      }
      Buffer packed = buffer(sfma_packed_size(level, s));
      sfma_pack(level, s, weights.view(), packed.data());
      Buffer planes = buffer(s.middle * positions);
      Buffer spectrum = buffer(sfma_spectrum_size(level, s)), gated = spectrum;
      const icmh::kernels::ConstMap from = {in.data(), channel, row, column};
      for (std::int64_t i = 0; i < s.height; i += part_rows) {
        sfma_down(level, s, packed.data(), from, i, std::min(i + part_rows, s.height),
                  planes.data());
      }
      for (std::int64_t c = 0; c < s.middle; ++c) {
        ICMH_CHECK(sfma_analyse(level, s, planes.data(), c, c + 1, spectrum.data()), "no plan");
      }
      for (std::int64_t i = 0; i < s.height; i += part_rows) {
        sfma_gate(level, s, packed.data(), spectrum.data(), i, std::min(i + part_rows, s.height),
                  gated.data());
      }
      for (std::int64_t c = 0; c < s.middle; ++c) {
        ICMH_CHECK(sfma_synthesise(level, s, gated.data(), c, c + 1, planes.data()), "no plan");
      }
      for (std::int64_t i = 0; i < s.height; i += part_rows) {
        sfma_up(level, s, packed.data(), from, planes.data(), i, std::min(i + part_rows, s.height),
                {out.data(), channel, row, column});
      }
      double error = 0.0;
      for (std::int64_t c = 0; c < s.channels; ++c) {
        for (std::int64_t p = 0; p < positions; ++p) {
          const auto place = static_cast<std::size_t>(c * channel + p * column);
          const double found = static_cast<double>(out[place]) - static_cast<double>(in[place]);
          const double difference = found - exact[static_cast<std::size_t>(c * positions + p)];
          error += difference * difference;
        }
      }
      const double relative = std::sqrt(error / norm);
      const double bound = level == KernelLevel::amx ? 1e-5 : 2e-6;
      ICMH_CHECK(relative <= bound, "relative error " + std::to_string(relative * 1e6) + "e-6");
    }
  }
}

void plans() {
  using icmh::kernels::fft_plan;
  current_case() = "plans";
  for (const std::int64_t length : {0, -1, 37, 401, 2 * 37, 1 << 17}) {
    ICMH_CHECK(fft_plan(length) == nullptr, std::to_string(length));
  }
  for (const std::int64_t length : {1, 2, 31, 384, 544, 960, 1 << 16}) {
    const auto plan = fft_plan(length);
    ICMH_CHECK(plan != nullptr, std::to_string(length));
    std::int64_t product = 1;
    for (const std::int32_t radix : plan->radices) product *= radix;
    ICMH_CHECK(product == length, std::to_string(length));
  }
}

}  // namespace

int main() {
  plans();
  Numbers numbers;
  const std::int64_t sizes[][5] = {
      // channels, middle, height, width, rows of a part
      {1, 1, 1, 1, 1},   {3, 2, 2, 1, 1},     {5, 7, 1, 50, 1},   {4, 3, 35, 2, 8},
      {16, 8, 9, 48, 4}, {33, 17, 12, 49, 5}, {8, 40, 7, 33, 3},  {12, 10, 22, 26, 100},
      {2, 2, 31, 7, 2},  {2, 1, 3, 400, 2},   {64, 16, 6, 100, 6},
  };
  for (const auto& size : sizes) {
    check({size[0], size[1], size[2], size[3], 0.7f}, size[4], numbers);
  }
  std::puts("sfma_test: ok");
  return 0;
}
