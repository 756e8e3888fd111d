// How the Python-free code reports: a kind for the caller to act on, a line for a person to read.
#pragma once

#include <string>
#include <utility>

namespace icmh {

enum class StatusKind {
  kOk,
  kBadArgument,  // the caller's arrays or options are wrong
  kCorrupt,      // the data is not a stream that this code writes
};

class [[nodiscard]] Status {
 public:
  static Status ok() { return Status(StatusKind::kOk, {}); }
  static Status bad_argument(std::string message) {
    return Status(StatusKind::kBadArgument, std::move(message));
  }
  static Status corrupt(std::string message) {
    return Status(StatusKind::kCorrupt, std::move(message));
  }

  bool is_ok() const { return kind_ == StatusKind::kOk; }
  StatusKind kind() const { return kind_; }
  const std::string& message() const { return message_; }

 private:
  Status(StatusKind kind, std::string message) : kind_(kind), message_(std::move(message)) {}

  StatusKind kind_;
  std::string message_;
};

}  // namespace icmh
