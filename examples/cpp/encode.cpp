// Encodes a picture with a TensorRT plan and csrc/rans: no Python, no torch.
//
//     encode BUNDLE PLAN WIDTH QUALITY IN.ppm OUT.icmh
//
// BUNDLE is the folder of model.safetensors, WIDTH that of the plan.
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "bundle.h"
#include "plan.h"
#include "stream.h"

namespace {

struct Picture {
  std::uint32_t height = 0, width = 0;
  std::vector<std::uint8_t> pixels;
};

// A binary PPM (P6) of 8 bits, without comments.
Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  Picture picture;
  unsigned most = 0;
  file >> magic >> picture.width >> picture.height >> most;
  file.get();
  const bool sound = file && magic == "P6" && most == 255 && picture.width && picture.height &&
                     picture.width <= 1u << 16 && picture.height <= 1u << 16;
  if (!sound) throw std::runtime_error(path + " is no binary PPM of 8 bits");
  picture.pixels.resize(std::size_t{3} * picture.width * picture.height);
  file.read(reinterpret_cast<char*>(picture.pixels.data()),
            static_cast<std::streamsize>(picture.pixels.size()));
  if (!file) throw std::runtime_error(path + " ends too early");
  return picture;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 7) {
    std::cerr << "usage: encode BUNDLE PLAN WIDTH QUALITY IN.ppm OUT.icmh\n";
    return 2;
  }
  try {
    const int quality = std::atoi(arguments[4]);
    const example::Coding coding =
        example::read_coding(arguments[1], std::atof(arguments[3]), quality);
    example::EncoderPlan plan(arguments[2]);
    const Picture picture = read_ppm(arguments[5]);
    const example::Symbols symbols =
        plan.run(picture.pixels, picture.height, picture.width, quality);
    const std::vector<std::uint8_t> stream =
        example::write_stream(symbols, coding, picture.height, picture.width);
    std::ofstream out(arguments[6], std::ios::binary);
    out.write(reinterpret_cast<const char*>(stream.data()),
              static_cast<std::streamsize>(stream.size()));
    if (!out.flush()) throw std::runtime_error(std::string(arguments[6]) + " cannot be written");
    std::cout << arguments[6] << ": " << stream.size() << " bytes\n";
  } catch (const std::exception& error) {
    std::cerr << "encode: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
