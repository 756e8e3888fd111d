// Loops on an OpenMP runtime's threads: each task once, exceptions, nesting, many callers, fork, and
// the pool where there is no runtime.
//
// The runtime is GNU's, which comes with its compiler; where it is not installed, what needs it is
// left out, and says so. ICMH_TEST_NO_FORK=1 leaves the fork out, for qemu-user.
#include "common/openmp.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>
#define ICMH_TEST_POSIX 1
#endif

namespace {

bool each_once(std::size_t tasks, unsigned threads) {
  std::vector<int> count(tasks, 0);
  icmh::parallel_for_kernels(tasks, threads, [&](std::size_t task) { ++count.at(task); });
  for (const int c : count) {
    if (c != 1) return false;
  }
  return true;
}

void test_loops() {
  for (const std::size_t tasks : {0, 1, 2, 3, 17, 1000}) {
    for (const unsigned threads : {0u, 1u, 2u, 5u}) ICMH_CHECK(each_once(tasks, threads), "");
  }
}

void test_exceptions() {
  for (const unsigned threads : {1u, 3u}) {
    bool caught = false;
    try {
      icmh::parallel_for_kernels(100, threads, [](std::size_t task) {
        if (task % 7 == 3) throw std::runtime_error("of a task");
      });
    } catch (const std::runtime_error& error) {
      caught = std::string(error.what()) == "of a task";
    }
    ICMH_CHECK(caught, "");
    ICMH_CHECK(each_once(10, threads), "");  // and goes on
  }
}

void test_nesting() {
  std::atomic<int> count{0};
  icmh::parallel_for_kernels(4, 3, [&](std::size_t) {
    icmh::parallel_for_kernels(5, 3, [&](std::size_t) { ++count; });
  });
  ICMH_CHECK(count == 20, "");
}

void test_callers() {
  std::vector<std::thread> callers;
  for (int i = 0; i < 6; ++i) {
    callers.emplace_back([] {
      for (int round = 0; round < 50; ++round) ICMH_CHECK(each_once(23, 3), "");
    });
  }
  for (std::thread& caller : callers) caller.join();
}

void test_all() {
  test_loops();
  test_exceptions();
  test_nesting();
  test_callers();
}

#ifdef ICMH_TEST_POSIX
// The runtime's threads are not in the child: it must not wait for them.
void test_fork() {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    _exit(!icmh::openmp_in_use() && each_once(100, 3) ? 0 : 1);
  }
  int status = -1;
  ICMH_CHECK(waitpid(child, &status, 0) == child, "");
  ICMH_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "");
  ICMH_CHECK(icmh::openmp_in_use(), "");
}
#endif

}  // namespace

int main() {
  ICMH_CHECK(!icmh::openmp_in_use(), "");
  ICMH_CHECK(!icmh::use_openmp("libicmh_no_such_runtime.so"), "");
  test_all();
#ifdef ICMH_TEST_POSIX
  // Not loaded counts as not there.
  ICMH_CHECK(!icmh::use_openmp("libgomp.so.1"), "");
  if (dlopen("libgomp.so.1", RTLD_LAZY) == nullptr) {
    std::printf("libgomp.so.1 is not installed: its threads are left out\n");
  } else {
    ICMH_CHECK(!icmh::use_openmp("libc.so.6"), "");  // loaded, and no OpenMP
    ICMH_CHECK(icmh::use_openmp("libgomp.so.1"), "");
    ICMH_CHECK(icmh::openmp_in_use(), "");
    test_all();
    if (std::getenv("ICMH_TEST_NO_FORK") == nullptr) test_fork();
    test_all();
  }
#endif
  std::printf("openmp_test: all well\n");
  return 0;
}
