// A persistent pool of threads, one for the whole process.
#pragma once

#include <algorithm>
#include <cstdint>

// Threads that work on one job, the caller's own included.
int pool_threads();

// Restart the pool with `count` >= 1 threads.
void set_pool_threads(int count);

// run_parallel without its type: call(work, start, stop).
void run_pieces(int items, int least, const void* work, void (*call)(const void*, int, int));

// Run work(start, stop) over 0..items in parallel, in pieces of at least `least` items that threads
// take as they come free: a thread may get several. Returns when all are done. `work` may not
// throw.
template <typename Work>
void run_parallel(int items, int least, const Work& work) {
    run_pieces(items, least, &work,
               [](const void* job, int start, int stop) { (*(const Work*)job)(start, stop); });
}

// Items of `cost` each that together cost `enough`: a `least` for run_parallel.
inline int least_items_of(int64_t cost, int64_t enough) {
    return (int)std::max<int64_t>(1, enough / std::max<int64_t>(1, cost));
}
