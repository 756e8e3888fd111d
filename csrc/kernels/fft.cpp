#include "kernels/fft.h"

#include <cmath>
#include <cstddef>
#include <map>
#include <mutex>

namespace icmh::kernels {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr std::size_t kMaxPlans = 64;

void add_root(double turns, std::vector<float>& out) {
  out.push_back(static_cast<float>(std::cos(2.0 * kPi * turns)));
  out.push_back(static_cast<float>(-std::sin(2.0 * kPi * turns)));
}

std::shared_ptr<const FftPlan> make_plan(std::int64_t length) {
  auto plan = std::make_shared<FftPlan>();
  plan->length = length;
  std::int64_t left = length;
  for (const std::int32_t radix : {4, 2, 3, 5}) {
    while (left % radix == 0) {
      plan->radices.push_back(radix);
      left /= radix;
    }
  }
  for (std::int32_t radix = 7; left > 1 && radix <= kMaxFftFactor; radix += 2) {
    while (left % radix == 0) {
      plan->radices.push_back(radix);
      left /= radix;
    }
  }
  if (left > 1) return nullptr;
  std::int64_t n = length;
  for (const std::int32_t radix : plan->radices) {
    const std::int64_t step = n / radix;
    for (std::int64_t p = 0; p < step; ++p) {
      for (std::int64_t j = 1; j < radix; ++j) {
        add_root(static_cast<double>(p * j) / static_cast<double>(n), plan->twiddles);
      }
    }
    plan->root_places.push_back(static_cast<std::int64_t>(plan->roots.size()));
    if (radix > 5) {
      for (std::int32_t k = 0; k < radix; ++k) {
        add_root(static_cast<double>(k) / radix, plan->roots);
      }
    }
    n = step;
  }
  return plan;
}

}  // namespace

std::shared_ptr<const FftPlan> fft_plan(std::int64_t length) {
  if (length < 1 || length > kMaxFftLength) return nullptr;
  static std::mutex mutex;
  static auto& plans = *new std::map<std::int64_t, std::shared_ptr<const FftPlan>>;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = plans.find(length);
  if (found != plans.end()) return found->second;
  if (plans.size() >= kMaxPlans) plans.clear();
  return plans[length] = make_plan(length);
}

}  // namespace icmh::kernels
