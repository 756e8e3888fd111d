#include "common/openmp.h"

#include <atomic>
#include <exception>
#include <mutex>

#include "common/thread_pool.h"

#if defined(__unix__) || defined(__APPLE__)
#define ICMH_HAS_OPENMP_LOOKUP 1
#include <dlfcn.h>
#include <pthread.h>
#endif

namespace icmh {
namespace {

// GOMP_parallel of libgomp, which LLVM's runtime has as well.
using RunTeam = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

std::atomic<RunTeam> run_team{nullptr};

#ifdef ICMH_HAS_OPENMP_LOOKUP
[[maybe_unused]] const int registered =
    pthread_atfork(nullptr, nullptr, [] { run_team.store(nullptr); });
#endif

struct Loop {
  const std::function<void(std::size_t)>& work;
  const std::size_t tasks;
  std::atomic<std::size_t> claimed{0};
  std::mutex mutex{};
  std::exception_ptr thrown{};

  static void run(void* loop) noexcept { static_cast<Loop*>(loop)->run_tasks(); }

  void run_tasks() noexcept {
    try {
      for (;;) {
        // Relaxed: the team's barriers order what tasks read and write.
        const std::size_t task = claimed.fetch_add(1, std::memory_order_relaxed);
        if (task >= tasks) return;
        work(task);
      }
    } catch (...) {
      claimed.store(tasks, std::memory_order_relaxed);
      const std::lock_guard<std::mutex> lock(mutex);
      if (thrown == nullptr) thrown = std::current_exception();
    }
  }
};

}  // namespace

bool use_openmp(const std::string& library) {
#ifdef ICMH_HAS_OPENMP_LOOKUP
  void* const handle = dlopen(library.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (handle == nullptr) return false;
  // The handle is kept: the runtime must not be unloaded under us.
  void* const entry = dlsym(handle, "GOMP_parallel");
  if (entry == nullptr) return false;
  run_team.store(reinterpret_cast<RunTeam>(entry));
  return true;
#else
  (void)library;
  return false;
#endif
}

bool openmp_in_use() { return run_team.load() != nullptr; }

void parallel_for_kernels(std::size_t tasks, unsigned threads,
                          const std::function<void(std::size_t)>& work) {
  const RunTeam run = run_team.load();
  if (run == nullptr || threads <= 1 || tasks <= 1) {
    parallel_for(tasks, threads < 1 ? 1 : threads, work);
    return;
  }
  Loop loop{work, tasks};
  run(&Loop::run, &loop, threads, 0);
  if (loop.thrown != nullptr) std::rethrow_exception(loop.thrown);
}

}  // namespace icmh
