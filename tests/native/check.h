// How the native tests fail: one line with the place, what did not hold and the case, then abort().
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

namespace icmh::tests {

// What is being tried right now; printed by a failing CHECK.
inline std::string& current_case() {
  static std::string text;
  return text;
}

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: %s\n  case: %s\n", file, line, what.c_str(),
               current_case().c_str());
  std::abort();
}

}  // namespace icmh::tests

// `detail` is a std::string expression, evaluated only on failure. Active in every build type.
#define ICMH_CHECK(condition, detail)                                                        \
  do {                                                                                       \
    if (!(condition)) {                                                                      \
      ::icmh::tests::fail(__FILE__, __LINE__, std::string(#condition " is false; ") + (detail)); \
    }                                                                                        \
  } while (false)
