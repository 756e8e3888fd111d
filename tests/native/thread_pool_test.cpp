// The pool: each task once, exceptions, nesting, many callers, fork.
// Its slow twin is the plain loop over the tasks, which parallel_for is for one thread.
//
// ThreadSanitizer cannot follow a fork of a process with threads, so built with it the fork checks
// are left out. qemu-user ends a forked child that makes a thread (an assertion of its own, in 7.2):
// ICMH_TEST_NO_FORK=1 leaves them out at run time.
#include "common/thread_pool.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "common/text.h"

#if defined(__SANITIZE_THREAD__)
#define ICMH_TEST_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ICMH_TEST_TSAN 1
#endif
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#define ICMH_TEST_POSIX 1
#ifndef ICMH_TEST_TSAN
#define ICMH_TEST_FORK 1
#endif
#endif

namespace {

using icmh::kMaxThreads;
using icmh::num_threads;
using icmh::parallel_for;
using icmh::set_num_threads;

// Runs a loop and says whether every task ran exactly once. The counts are plain integers: that
// the caller may read them, and two tasks write neighbours, is part of the promise.
bool each_once(std::size_t tasks, unsigned threads) {
  std::vector<int> count(tasks, 0);
  parallel_for(tasks, threads, [&](std::size_t task) { ++count.at(task); });
  for (const int c : count) {
    if (c != 1) return false;
  }
  return true;
}

// Two tasks that wait for each other: true only if two threads are in the loop at once.
bool two_at_once() {
  std::atomic<int> arrived{0};
  std::atomic<bool> met{true};
  parallel_for(2, 2, [&](std::size_t) {
    ++arrived;
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (arrived != 2) {
      if (std::chrono::steady_clock::now() > until) {
        met = false;
        return;
      }
      std::this_thread::yield();
    }
  });
  return met;
}

void check_each_task_once() {
  for (const std::size_t tasks : {0, 1, 2, 3, 7, 64, 1000}) {
    for (const unsigned threads : {0u, 1u, 2u, 3u, kMaxThreads, 4000000000u}) {
      ICMH_CHECK(each_once(tasks, threads), "");
    }
  }
  ICMH_CHECK(two_at_once(), "");
}

// How many threads take part in a loop of many short tasks.
std::size_t threads_in_loop(unsigned threads) {
  std::mutex mutex;
  std::set<std::thread::id> seen;
  parallel_for(500, threads, [&](std::size_t) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      seen.insert(std::this_thread::get_id());
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  });
  return seen.size();
}

void check_thread_counts() {
  // Never more threads than asked for, not even when others come free while the loop runs.
  for (const unsigned threads : {1u, 2u, 5u}) {
    ICMH_CHECK(threads_in_loop(threads) <= threads, "");
    parallel_for(9, 9, [threads](std::size_t task) {
      if (task == 0) ICMH_CHECK(threads_in_loop(threads) <= threads, "");
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    });
  }
  ICMH_CHECK(threads_in_loop(4000000000u) <= kMaxThreads, "");
  const unsigned before = num_threads();
  ICMH_CHECK(before >= 1 && before <= kMaxThreads, "");
  set_num_threads(1);
  ICMH_CHECK(num_threads() == 1, "");
  const auto caller = std::this_thread::get_id();
  parallel_for(100, 0, [&](std::size_t) { ICMH_CHECK(std::this_thread::get_id() == caller, ""); });
  set_num_threads(4000000000u);
  ICMH_CHECK(num_threads() == kMaxThreads, "");
  ICMH_CHECK(each_once(300, 0), "");
  set_num_threads(0);
  ICMH_CHECK(num_threads() == before, "");
}

// The message that parallel_for throws when the given tasks do.
std::string thrown_message(std::size_t tasks, unsigned threads, const std::set<std::size_t>& bad) {
  try {
    parallel_for(tasks, threads, [&](std::size_t task) {
      if (bad.count(task) != 0) throw std::runtime_error("task " + std::to_string(task));
    });
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

void check_exceptions() {
  for (const unsigned threads : {1u, 2u, 8u}) {
    ICMH_CHECK(thrown_message(100, threads, {}) == "", "");
    for (const std::size_t bad : {0, 1, 50, 99}) {
      ICMH_CHECK(thrown_message(100, threads, {bad}) == "task " + std::to_string(bad), "");
    }
    const std::string one_of_many = thrown_message(3, threads, {0, 1, 2});
    ICMH_CHECK(one_of_many == "task 0" || one_of_many == "task 1" || one_of_many == "task 2", "");
  }
  // What has not started is dropped: the first task throws, the others would take minutes.
  std::atomic<int> ran{0};
  bool caught = false;
  try {
    parallel_for(1000000, 2, [&](std::size_t task) {
      if (task == 0) throw 7;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ++ran;
    });
  } catch (const int value) {
    caught = value == 7;
  }
  ICMH_CHECK(caught, "");
  ICMH_CHECK(ran < 10000, "");
  // Thrown by a helper, not by the caller.
  const auto caller = std::this_thread::get_id();
  std::atomic<bool> helper_came{false};
  caught = false;
  try {
    parallel_for(2, 2, [&](std::size_t) {
      if (std::this_thread::get_id() != caller) {
        helper_came = true;
        throw std::runtime_error("helper");
      }
      const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (!helper_came && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    });
  } catch (const std::runtime_error& error) {
    caught = std::string(error.what()) == "helper";
  }
  ICMH_CHECK(caught, "");
  ICMH_CHECK(each_once(100, 8), "");
}

void check_nesting() {
  std::atomic<int> leaves{0};
  const std::function<void(int)> descend = [&](int depth) {
    if (depth == 0) {
      ++leaves;
      return;
    }
    parallel_for(3, 3, [&](std::size_t) { descend(depth - 1); });
  };
  for (int round = 0; round < 20; ++round) descend(5);
  ICMH_CHECK(leaves == 20 * 3 * 3 * 3 * 3 * 3, "");
  // An exception passes through all levels.
  bool caught = false;
  try {
    parallel_for(4, 2, [&](std::size_t outer) {
      parallel_for(4, 2, [&](std::size_t inner) {
        if (outer == 2 && inner == 3) throw std::runtime_error("deep");
      });
    });
  } catch (const std::runtime_error&) {
    caught = true;
  }
  ICMH_CHECK(caught, "");
}

void check_many_callers() {
  std::vector<std::thread> callers;
  for (unsigned caller = 0; caller < 12; ++caller) {
    callers.emplace_back([caller] {
      for (std::size_t round = 0; round < 300; ++round) {
        ICMH_CHECK(each_once(round % 17, 1 + (caller + static_cast<unsigned>(round)) % 5), "");
        if (round % 50 == caller) {
          ICMH_CHECK(thrown_message(9, 3, {4}) == "task 4", "");
          parallel_for(3, 3, [](std::size_t) { ICMH_CHECK(each_once(5, 2), ""); });
        }
        if (round % 100 == 0) set_num_threads(1 + caller % 3);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  set_num_threads(0);
}

void check_tiny_tasks() {
  std::atomic<std::size_t> sum{0};
  for (int round = 0; round < 20000; ++round) {
    parallel_for(2, 2, [&](std::size_t task) { sum.fetch_add(task + 1); });
  }
  ICMH_CHECK(sum == 60000, "");
  sum = 0;
  parallel_for(300000, 4, [&](std::size_t task) { sum.fetch_add(task); });
  ICMH_CHECK(sum == std::size_t{300000} * 299999 / 2, "");
}

void check_signals() {
#ifdef ICMH_TEST_POSIX
  const auto caller = std::this_thread::get_id();
  std::atomic<bool> helper_came{false};
  parallel_for(2, 2, [&](std::size_t) {
    if (std::this_thread::get_id() == caller) {
      const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (!helper_came && std::chrono::steady_clock::now() < until) std::this_thread::yield();
      return;
    }
    sigset_t blocked;
    pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
    ICMH_CHECK(sigismember(&blocked, SIGINT) == 1 && sigismember(&blocked, SIGALRM) == 1, "");
    ICMH_CHECK(sigismember(&blocked, SIGSEGV) == 0, "");
    helper_came = true;
  });
  ICMH_CHECK(helper_came, "");
  sigset_t blocked;
  pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
  ICMH_CHECK(sigismember(&blocked, SIGINT) == 0, "");
#endif
}

#ifdef ICMH_TEST_FORK
// Runs `body` in a child; false when it fails, crashes, or hangs (SIGALRM ends it then). The
// child's verdict is its exit status: a string stream or a destructor may not outlive the fork.
bool child_succeeds(const std::function<bool()>& body) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    _exit(body() ? 0 : 1);
  }
  int status = 1;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
         WEXITSTATUS(status) == 0;
}

void check_fork() {
  ICMH_CHECK(two_at_once(), "");  // the parent has threads
  ICMH_CHECK(child_succeeds([] { return two_at_once() && each_once(100, 8); }), "");
  const bool grandchildren = child_succeeds([] {
    // And a grandchild, before and after the child's own first loop.
    const bool before = child_succeeds([] { return two_at_once(); });
    return before && two_at_once() && child_succeeds([] { return two_at_once(); });
  });
  ICMH_CHECK(grandchildren, "");
  set_num_threads(3);
  ICMH_CHECK(child_succeeds([] { return num_threads() == 3; }), "");
  set_num_threads(0);

#ifdef __GLIBC__
  // The system gives no threads, here for want of room for their stacks: the caller does it all.
  const bool without_threads = child_succeeds([] {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, std::size_t{1} << 46);
    if (pthread_setattr_default_np(&attributes) != 0) return false;
    bool alone = true;
    const auto caller = std::this_thread::get_id();
    parallel_for(100, 4, [&](std::size_t) { alone &= std::this_thread::get_id() == caller; });
    if (!alone || !each_once(100, 4)) return false;
    // And helps again when it can.
    pthread_attr_setstacksize(&attributes, std::size_t{1} << 20);
    return pthread_setattr_default_np(&attributes) == 0 && two_at_once();
  });
  ICMH_CHECK(without_threads, "");
#endif

  // Fork while other threads are anywhere inside the pool, its mutex held or not.
  std::atomic<bool> stop{false};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&] {
      while (!stop) parallel_for(4, 3, [](std::size_t) {});
    });
  }
  for (int round = 0; round < 50; ++round) {
    ICMH_CHECK(child_succeeds([] { return two_at_once() && each_once(20, 4); }), "");
  }
  stop = true;
  for (std::thread& caller : callers) caller.join();
  ICMH_CHECK(two_at_once(), "");
}
#endif

void check_environment_messages() {
#ifdef ICMH_TEST_POSIX
  for (const char* const good : {"", "0", "1", "64", "65", "99999999999999999999"}) {
    setenv("ICMH_NUM_THREADS", good, 1);
    ICMH_CHECK(icmh::check_threads_environment().is_ok(), "");
  }
  for (const char* const bad : {"two", "-1", "1.5", " 2", "2 ", "0x10", "+1", "\n", "\xff"}) {
    setenv("ICMH_NUM_THREADS", bad, 1);
    const icmh::Status status = icmh::check_threads_environment();
    ICMH_CHECK(!status.is_ok(), "");
    for (const char c : status.message()) ICMH_CHECK(c >= ' ' && c <= '~', "");
  }
  unsetenv("ICMH_NUM_THREADS");
#endif
  ICMH_CHECK(icmh::check_threads_environment().is_ok(), "");
  ICMH_CHECK(icmh::quoted("a\tb\x80") == "'a?b?'", "");
  ICMH_CHECK(icmh::quoted(std::string(41, 'x')) == "'" + std::string(40, 'x') + "...'", "");
}

}  // namespace

int main() {
  check_each_task_once();
  check_thread_counts();
  check_exceptions();
  check_nesting();
  check_many_callers();
  check_tiny_tasks();
  check_signals();
  check_environment_messages();
#ifdef ICMH_TEST_FORK
  if (std::getenv("ICMH_TEST_NO_FORK") == nullptr) {
    check_fork();
  } else {
    std::printf("the fork checks were left out\n");
  }
#endif
  return 0;
}
