// Running without Python's lock.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

namespace icmh::bindings {

// Releases the GIL for its scope, like py::gil_scoped_release, but lets the process end under it.
//
// Until Python 3.14, which does the same by itself, a daemon thread that asks for the GIL when the
// interpreter has ended is ended by pthread_exit, which with glibc unwinds the stack like an
// exception: through a destructor, that is std::terminate. It is held here instead, for as long as
// the process still lives.
class GilReleased {
 public:
  GilReleased() : state_(PyEval_SaveThread()) {}
  ~GilReleased() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace icmh::bindings
