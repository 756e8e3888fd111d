// Runs a fuzz target without libFuzzer: on every file of a folder, then on mutations of them.
//
//   <target>_fuzz_replay [--mutations N] FILE_OR_FOLDER...
//
// The mutations are the same in every run. A failing input is written to crash-replay.
#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "random.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

// A sanitizer that finds something raises SIGABRT, too. Nobody calls these in other builds.
extern "C" const char* __asan_default_options() { return "abort_on_error=1"; }
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

namespace {

using Bytes = std::vector<std::uint8_t>;
using icmh::tests::Random;

const Bytes* running = nullptr;

extern "C" void on_crash(int signal_number) {
  std::signal(signal_number, SIG_DFL);
  if (running != nullptr) {
    // Not what a signal handler may do, but the process ends here anyway.
    std::FILE* const file = std::fopen("crash-replay", "wb");
    if (file != nullptr) {
      std::fwrite(running->data(), 1, running->size(), file);
      std::fclose(file);
      std::fprintf(stderr, "fuzz_replay: the input is in crash-replay\n");
    }
  }
  std::raise(signal_number);
}

void run(const Bytes& input) {
  running = &input;
  // A copy of exactly this size, so that a sanitizer sees where it ends.
  const std::unique_ptr<std::uint8_t[]> data(new std::uint8_t[input.size()]);
  std::copy(input.begin(), input.end(), data.get());
  LLVMFuzzerTestOneInput(data.get(), input.size());
  running = nullptr;
}

Bytes mutated(Random* random, const std::vector<Bytes>& corpus) {
  constexpr std::uint8_t kSpecial[] = {0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF};
  Bytes bytes = corpus[random->below(corpus.size())];
  for (std::uint32_t changes = 1 + random->below(6); changes != 0; --changes) {
    const std::size_t place = random->below(bytes.size() + 1);
    const auto position = bytes.begin() + static_cast<std::ptrdiff_t>(place);
    switch (random->below(7)) {
      case 0:
        bytes.insert(position, static_cast<std::uint8_t>(random->next()));
        break;
      case 1:
        if (position != bytes.end()) bytes.erase(position);
        break;
      case 2:
        if (position != bytes.end()) *position = random->of(kSpecial);
        break;
      case 3:
        if (position != bytes.end()) *position = static_cast<std::uint8_t>(random->next());
        break;
      case 4: {  // the rest of another input
        const Bytes& other = corpus[random->below(corpus.size())];
        bytes.erase(position, bytes.end());
        const std::size_t from = std::min(place, other.size());
        bytes.insert(bytes.end(), other.begin() + static_cast<std::ptrdiff_t>(from), other.end());
        break;
      }
      case 5:
        if (random->one_in(8)) bytes.resize(place);
        break;
      default:
        if (position != bytes.end()) {
          *position = static_cast<std::uint8_t>(*position ^ 1u << random->below(8));
        }
    }
  }
  return bytes;
}

int usage() {
  std::fprintf(stderr, "usage: <target>_fuzz_replay [--mutations N] FILE_OR_FOLDER...\n");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  namespace fs = std::filesystem;
  for (const int signal_number : {SIGABRT, SIGSEGV, SIGFPE}) std::signal(signal_number, &on_crash);
  unsigned long mutations = 0;
  std::vector<fs::path> files;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--mutations") == 0) {
      if (++i == argc) return usage();
      mutations = std::strtoul(argv[i], nullptr, 10);
    } else if (fs::is_directory(argv[i])) {
      for (const auto& entry : fs::directory_iterator(argv[i])) files.push_back(entry.path());
    } else {
      files.emplace_back(argv[i]);
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<Bytes> corpus;
  for (const fs::path& path : files) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
      std::fprintf(stderr, "fuzz_replay: cannot read %s\n", path.c_str());
      return 2;
    }
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    run(corpus.back());
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "fuzz_replay: there is no input to run\n");
    return 2;
  }
  Random random(5);
  for (unsigned long i = 0; i < mutations; ++i) {
    const Bytes input = mutated(&random, corpus);
    run(input);
  }
  std::printf("fuzz_replay: ok, %zu files and %lu mutations\n", corpus.size(), mutations);
  return 0;
}
