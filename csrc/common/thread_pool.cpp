// Read me first. A loop is a Job on its caller's stack. The caller links it into the pool's list of
// open jobs, wakes sleeping threads, and does tasks until all are claimed; threads that come in time
// join the job and do the same. Then the caller takes the job off the list, so that nobody joins any
// more, and waits for those inside.
//
// Nobody waits for a thread that has not joined, and who is inside a job waits only for jobs nested
// in its own tasks: nesting cannot deadlock, and a pool without a single thread would do.
#include "common/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <utility>

#include "common/text.h"

#ifdef __linux__
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#define ICMH_POSIX_THREADS 1
#include <pthread.h>
#include <signal.h>
#endif

namespace icmh {
namespace {

using Work = std::function<void(std::size_t)>;

// How long a caller looks for the end of its last helpers before it sleeps. A sleeper is woken some
// 20 to 50 us late, and helpers mostly end just after the caller.
constexpr std::chrono::microseconds kLookTime{50};

struct Job {
  Job(std::size_t task_count, unsigned helpers, const Work& task)
      : work(task), tasks(task_count), seats(helpers), wakes(helpers) {}

  const Work& work;
  const std::size_t tasks;
  std::atomic<std::size_t> claimed{0};  // may run past `tasks`

  // The rest belongs to the pool's mutex; `inside` may be looked at without it.
  unsigned seats;                   // threads that may still join
  unsigned wakes;                   // threads still to be woken for it
  std::atomic<unsigned> inside{0};  // threads that have joined and not left
  std::exception_ptr thrown;
  std::condition_variable left;  // told when nobody is inside any more
  bool open = false;             // linked into the list
  Job* previous = nullptr;
  Job* next = nullptr;
};

// Does tasks until none is left to claim; returns what a task threw.
std::exception_ptr do_tasks(Job& job) noexcept {
  try {
    for (;;) {
      // Relaxed: the mutex, taken before and after, orders what the tasks read and write.
      const std::size_t task = job.claimed.fetch_add(1, std::memory_order_relaxed);
      if (task >= job.tasks) return nullptr;
      job.work(task);
    }
  } catch (...) {
    job.claimed.store(job.tasks, std::memory_order_relaxed);
    return std::current_exception();
  }
}

// Waits until nobody is inside, or kLookTime is over. It yields, so that a helper which waits for
// this very CPU gets it.
void look_for_end(const Job& job) {
  const auto until = std::chrono::steady_clock::now() + kLookTime;
  while (job.inside != 0 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
}

// Blocks the signals that threads made in its scope should not receive: all but those that report
// a fault of the thread itself, which must reach their handlers (Python's faulthandler). Ctrl-C
// and timers stay with the threads of the program.
class SignalsBlocked {
 public:
#ifdef ICMH_POSIX_THREADS
  SignalsBlocked() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int fault : {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP}) {
      sigdelset(&blocked, fault);
    }
    pthread_sigmask(SIG_BLOCK, &blocked, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
#else
  SignalsBlocked() {}
#endif
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

#ifdef ICMH_POSIX_THREADS
 private:
  sigset_t before_;
#endif
};

class Pool {
 public:
  void run(Job& job) {
    std::unique_lock<std::mutex> lock(mutex_);
    hire(job.seats);
    link(job);
    const unsigned wakes = take_wakes(job);
    lock.unlock();
    wake(wakes);

    std::exception_ptr thrown = do_tasks(job);

    lock.lock();
    unlink(job);
    if (job.inside != 0) {
      lock.unlock();
      look_for_end(job);
      lock.lock();
      job.left.wait(lock, [&] { return job.inside == 0; });
    }
    if (thrown == nullptr) thrown = std::move(job.thrown);
    lock.unlock();
    if (thrown != nullptr) std::rethrow_exception(thrown);
  }

 private:
  // The pool grows to what the widest loop asked for, not to the sum of the loops that run at once:
  // those have their callers.
  void hire(unsigned helpers) {
    if (threads_ >= helpers) return;
    const SignalsBlocked blocked;
    try {
      for (; threads_ < helpers; ++threads_) std::thread(&Pool::serve, this).detach();
    } catch (const std::exception&) {
      // No more threads, or no memory for one: those there are do the work; the next loop asks again.
    }
  }

  void serve() {
#ifdef __linux__
    pthread_setname_np(pthread_self(), "icmh");
#endif
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      if (first_ == nullptr) {
        ++asleep_;
        work_to_do_.wait(lock);
        --asleep_;
        continue;
      }
      Job& job = *first_;
      ++job.inside;
      if (--job.seats == 0) unlink(job);
      const unsigned wakes = take_wakes(job);
      lock.unlock();
      wake(wakes);

      std::exception_ptr thrown = do_tasks(job);

      lock.lock();
      unlink(job);  // all of its tasks are claimed
      if (job.thrown == nullptr) job.thrown = std::move(thrown);
      // Under the mutex: once the caller can see 0, the job is gone.
      if (--job.inside == 0) job.left.notify_one();
    }
  }

  // How many threads to wake now, on behalf of `job`. Each that joins wakes two more, so nobody
  // pays for waking all; over its life a job wakes no more threads than it has seats.
  unsigned take_wakes(Job& job) {
    const unsigned wakes = std::min(job.wakes, 2u);
    job.wakes -= wakes;
    return std::min(wakes, asleep_);
  }

  // Without the mutex, which the woken threads want at once.
  void wake(unsigned count) {
    for (; count != 0; --count) work_to_do_.notify_one();
  }

  void link(Job& job) {
    job.open = true;
    job.previous = last_;
    (last_ != nullptr ? last_->next : first_) = &job;
    last_ = &job;
  }

  void unlink(Job& job) {
    if (!job.open) return;
    job.open = false;
    (job.previous != nullptr ? job.previous->next : first_) = job.next;
    (job.next != nullptr ? job.next->previous : last_) = job.previous;
  }

  std::mutex mutex_;
  std::condition_variable work_to_do_;
  Job* first_ = nullptr;  // open jobs, which have free seats, oldest first
  Job* last_ = nullptr;
  unsigned threads_ = 0;
  unsigned asleep_ = 0;
};

// The one pool; never destroyed. Its threads are detached and sleep on it until the process ends,
// which then neither waits for them nor pulls the mutex away from under them.
union Immortal {
  Immortal() : pool() {}
  ~Immortal() {}
  Pool pool;
} the;

#ifdef ICMH_POSIX_THREADS
// The child of a fork has only the forking thread, and the pool as some thread may just have been
// changing it. Nothing in it is of use: an empty pool takes its place, no lock of the old one is
// touched. Registered while loading, so no fork can come before it.
[[maybe_unused]] const int registered =
    pthread_atfork(nullptr, nullptr, [] { new (&the.pool) Pool; });
#endif

// Digits only; anything beyond kMaxThreads counts as kMaxThreads. 0 when there is none.
Status threads_of_environment(unsigned* threads) {
  *threads = 0;
  const char* const given = std::getenv("ICMH_NUM_THREADS");
  if (given == nullptr) return Status::ok();
  unsigned number = 0;
  for (const char* digit = given; *digit != '\0'; ++digit) {
    if (*digit < '0' || *digit > '9') {
      return Status::bad_argument("the environment variable ICMH_NUM_THREADS: " + quoted(given) +
                                  " is not a whole number; give 1 to " +
                                  std::to_string(kMaxThreads) +
                                  ", or 0 for as many threads as there are CPUs");
    }
    number = std::min(10 * number + static_cast<unsigned>(*digit - '0'), kMaxThreads);
  }
  *threads = number;
  return Status::ok();
}

unsigned available_cpus() {
#ifdef __linux__
  cpu_set_t cpus;  // of 1024 CPUs; the call fails on a machine with more
  if (sched_getaffinity(0, sizeof cpus, &cpus) == 0) return static_cast<unsigned>(CPU_COUNT(&cpus));
#endif
  return std::thread::hardware_concurrency();
}

std::atomic<unsigned> chosen_threads{0};

}  // namespace

void parallel_for(std::size_t tasks, unsigned threads, const Work& work) {
  if (threads == 0) threads = tasks > 1 ? num_threads() : 1;
  const std::size_t most = std::min<std::size_t>({tasks, threads, kMaxThreads});
  if (most <= 1) {
    for (std::size_t task = 0; task < tasks; ++task) work(task);
    return;
  }
  Job job(tasks, static_cast<unsigned>(most - 1), work);
  the.pool.run(job);
}

unsigned num_threads() {
  const unsigned chosen = chosen_threads.load(std::memory_order_relaxed);
  if (chosen != 0) return chosen;
  static const unsigned of_environment = [] {
    unsigned threads;
    (void)threads_of_environment(&threads).is_ok();
    return threads;
  }();
  if (of_environment != 0) return of_environment;
  return std::clamp(available_cpus(), 1u, kMaxThreads);
}

void set_num_threads(unsigned threads) {
  chosen_threads.store(std::min(threads, kMaxThreads), std::memory_order_relaxed);
}

Status check_threads_environment() {
  unsigned ignored;
  return threads_of_environment(&ignored);
}

}  // namespace icmh
