// The threads that every parallel loop of the library shares: a bounded pool, made when first used.
#pragma once

#include <cstddef>
#include <functional>

#include "common/status.h"

namespace icmh {

constexpr unsigned kMaxThreads = 64;

// Runs work(0) ... work(tasks - 1), each once, and returns when all have run. The calling thread
// takes part; up to threads - 1 threads of the pool help (threads 0: as many as num_threads()
// says; never more than kMaxThreads in all). Any number of callers at once share the pool; a call
// from within a task is allowed and never waits for a free thread. If tasks throw, one of the
// exceptions is rethrown here after all tasks that had started ended, and the tasks that had not
// started are dropped.
//
// What the tasks wrote is visible to the caller on return. A task must leave big buffers on the
// heap: a thread of the pool has the system's default stack, 128 KiB with musl. It must not fork
// and go on in the child (elsewhere fork is safe: the child's pool starts empty).
void parallel_for(std::size_t tasks, unsigned threads, const std::function<void(std::size_t)>& work);

// Threads that one loop may use, the caller's included: what set_num_threads gave, else the
// environment variable ICMH_NUM_THREADS (read at the first call), else the CPUs that the calling
// thread may run on; 1 to kMaxThreads, larger values count as kMaxThreads.
unsigned num_threads();
void set_num_threads(unsigned threads);  // 0: back to the default

// Whether ICMH_NUM_THREADS is a whole number, 0 or nothing for the default; num_threads() ignores
// a value that is not.
Status check_threads_environment();

}  // namespace icmh
