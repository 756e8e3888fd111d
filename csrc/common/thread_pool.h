// The threads that every parallel loop of the library shares: a bounded pool, made when first used.
#pragma once

#include <cstddef>
#include <functional>

namespace icmh {

// Runs work(0) ... work(tasks - 1), each once, and returns when all have run. The calling thread
// takes part; up to threads - 1 threads of the pool help (threads 0: as many as num_threads()
// says). Any number of callers at once share the pool; a call from within a task is allowed and
// never waits for a free thread. If tasks throw, one of the exceptions is rethrown here after all
// tasks that had started ended, and the tasks that had not started are dropped.
void parallel_for(std::size_t tasks, unsigned threads, const std::function<void(std::size_t)>& work);

// Threads that one loop may use, the caller's included: what set_num_threads gave, else the
// environment variable ICMH_NUM_THREADS, else the CPUs this process may run on; 1 to kMaxThreads.
unsigned num_threads();
void set_num_threads(unsigned threads);  // 0: back to the default

constexpr unsigned kMaxThreads = 64;

}  // namespace icmh
