// A persistent pool of threads, one for the whole process.
#pragma once

#include <functional>

// Threads that work on one job, the caller's own included.
int pool_threads();

// Restart the pool with `count` >= 1 threads.
void set_pool_threads(int count);

// Run job(start, stop) over 0..items in parallel, one contiguous part for each thread, on fewer
// threads when parts would be shorter than `least`. Returns when all are done. `job` may not throw.
void run_parallel(int items, int least, const std::function<void(int, int)>& job);
