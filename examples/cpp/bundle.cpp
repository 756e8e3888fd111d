#include "bundle.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace example {
namespace {

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(path + " cannot be opened");
  return {std::istreambuf_iterator<char>(file), {}};
}

// The text between the bracket or quote after `key` in `json` and its end. Enough for the flat JSON
// of a safetensors header, whose names are unique.
std::string value_of(const std::string& json, const std::string& key, char open, char close) {
  const std::size_t at = json.find("\"" + key + "\":");
  if (at == std::string::npos) fail("there is no " + key);
  const std::size_t first = json.find(open, at + key.size() + 3);
  const std::size_t last = json.find(close, first + 1);
  if (first == std::string::npos || last == std::string::npos) fail(key + " is damaged");
  return json.substr(first + 1, last - first - 1);
}

class Tensors {
 public:
  explicit Tensors(const std::string& path) : data_(read_file(path)) {
    std::uint64_t size = 0;
    if (data_.size() >= 8) std::memcpy(&size, data_.data(), 8);
    if (data_.size() < 8 || size > data_.size() - 8) fail(path + " is no safetensors file");
    header_ = data_.substr(8, size);
    start_ = 8 + size;
  }

  // A tensor as it lies in the file; `shape` gets its sides.
  template <typename T>
  std::vector<T> get(const std::string& name, std::vector<std::uint64_t>* shape = nullptr) const {
    const std::string entry = value_of(header_, name, '{', '}');
    const std::vector<std::uint64_t> place = numbers(value_of(entry, "data_offsets", '[', ']'));
    if (shape) *shape = numbers(value_of(entry, "shape", '[', ']'));
    if (place.size() != 2 || place[0] > place[1] || place[1] > data_.size() - start_ ||
        (place[1] - place[0]) % sizeof(T)) {
      fail(name + " is damaged");
    }
    std::vector<T> values((place[1] - place[0]) / sizeof(T));
    std::memcpy(values.data(), data_.data() + start_ + place[0], place[1] - place[0]);
    return values;
  }

 private:
  static std::vector<std::uint64_t> numbers(const std::string& text) {
    std::vector<std::uint64_t> found;
    for (std::size_t at = 0; at < text.size();) {
      std::size_t used = 0;
      found.push_back(std::stoull(text.substr(at), &used));
      at += used;
      while (at < text.size() && (text[at] == ',' || text[at] == ' ')) ++at;
    }
    return found;
  }

  std::string data_, header_;
  std::size_t start_ = 0;
};

}  // namespace

Coding read_coding(const std::string& folder, double width, int quality) {
  if (quality < 1 || quality > 100) fail("quality must be 1 to 100");
  Coding coding;
  const std::string manifest = read_file(folder + "/bundle.json");
  const std::string hex = value_of(manifest, "fingerprint", '"', '"');
  if (hex.size() != 8) fail("the bundle's fingerprint is damaged");
  for (int i = 0; i < 4; ++i) {
    coding.fingerprint[i] =
        static_cast<std::uint8_t>(std::stoul(hex.substr(2 * i, 2), nullptr, 16));
  }
  coding.width_id = static_cast<std::uint8_t>(std::lround(100 * width));
  coding.quality = static_cast<std::uint8_t>(quality);

  const Tensors tensors(folder + "/model.safetensors");
  std::vector<std::uint64_t> shape;
  const auto cdfs = tensors.get<std::uint32_t>("tables.cdfs", &shape);
  const auto lengths = tensors.get<std::int32_t>("tables.lengths");
  const auto offsets = tensors.get<std::int32_t>("tables.offsets");
  const auto precision = tensors.get<std::int32_t>("tables.precision");
  if (shape.size() != 2 || precision.size() != 1) fail("the bundle's tables are damaged");
  const icmh::Status status = icmh::rans::Tables::build(
      {cdfs.data(), cdfs.size()}, shape[1], {lengths.data(), lengths.size()},
      {offsets.data(), offsets.size()}, static_cast<unsigned>(precision[0]), &coding.tables);
  if (!status.is_ok()) fail(status.message());

  const std::string name = "width." + std::to_string(coding.width_id) + ".hyper_index";
  const auto rows = tensors.get<std::uint8_t>(name, &shape);
  if (shape.size() != 2 || shape[0] != 100) fail(name + " is damaged");
  const auto first = rows.begin() + static_cast<std::ptrdiff_t>((quality - 1) * shape[1]);
  coding.hyper_index.assign(first, first + static_cast<std::ptrdiff_t>(shape[1]));
  return coding;
}

}  // namespace example
