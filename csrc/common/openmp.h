// Loops on the threads of an OpenMP runtime that the process has loaded for another library.
//
// PyTorch's threads spin for some milliseconds after each of its loops, in case another follows: a
// pool of our own would meet them on every core. A loop between two of PyTorch's runs on those very
// threads instead. Nothing here links to OpenMP: a process without it uses common/thread_pool.h.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

namespace icmh {

// Uses the runtime of that name or path from now on, if the process has it loaded and it has GNU's
// entry point; false, and nothing changes, if not. The child of a fork uses none: its parent's
// threads are not there, and GNU's runtime would wait for them.
bool use_openmp(const std::string& library);

// Whether parallel_for_kernels runs on such threads.
bool openmp_in_use();

// parallel_for of common/thread_pool.h, on OpenMP's threads where there is a runtime to use. With
// OpenMP always a team of `threads`, however few tasks: a smaller team would end the others' threads.
void parallel_for_kernels(std::size_t tasks, unsigned threads,
                          const std::function<void(std::size_t)>& work);

}  // namespace icmh
