// Foreign text inside our one-line messages.
#pragma once

#include <string>

namespace icmh {

// `text` in quotes, fit for one line of ASCII: other bytes become '?', the rest of a long text "...".
inline std::string quoted(const std::string& text) {
  constexpr std::size_t kLongest = 40;
  std::string line = "'";
  for (const char c : text.substr(0, kLongest)) line += c >= ' ' && c <= '~' ? c : '?';
  return line + (text.size() > kLongest ? "...'" : "'");
}

}  // namespace icmh
