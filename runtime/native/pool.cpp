#include "pool.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

struct Pool {
    std::mutex one_job;  // held by the thread whose job runs: jobs of several callers wait in line
    std::mutex guard;    // of everything below
    std::condition_variable changed, finished;
    std::vector<std::thread> workers;
    const std::function<void(int, int)>* job = nullptr;
    int items = 0;
    int parts = 0;
    int running = 0;         // workers that have not finished the present job
    unsigned long round = 0;  // number of the present job
    bool stopping = false;

    void run_part(int part) {
        const int start = (int)((long)items * part / parts);
        const int stop = (int)((long)items * (part + 1) / parts);
        (*job)(start, stop);
    }

    // Worker `index` does part index + 1 of every job that has one; the caller does part 0.
    void work(int index, unsigned long seen) {
        std::unique_lock<std::mutex> lock(guard);
        while (true) {
            changed.wait(lock, [&] { return stopping || round != seen; });
            if (stopping) return;
            seen = round;
            if (index + 1 >= parts) continue;
            lock.unlock();
            run_part(index + 1);
            lock.lock();
            if (--running == 0) finished.notify_one();
        }
    }

    void start(int threads) {
        stopping = false;
        for (int index = 0; index < threads - 1; index++) {
            workers.emplace_back([this, index, seen = round] { work(index, seen); });
        }
    }

    void stop() {
        {
            std::lock_guard<std::mutex> lock(guard);
            stopping = true;
        }
        changed.notify_all();
        for (std::thread& worker : workers) worker.join();
        workers.clear();
    }
};

// The pool is never destroyed: its threads end with the process. A forked child has none of its
// parent's threads, so it leaves the inherited pool alone and starts its own.
Pool& pool() {
    static std::mutex guard;
    static Pool* instance = nullptr;
    static pid_t owner = 0;
    std::lock_guard<std::mutex> lock(guard);
    if (instance == nullptr || owner != getpid()) {
        instance = new Pool;
        owner = getpid();
        instance->start(std::max(1u, std::thread::hardware_concurrency()));
    }
    return *instance;
}

}  // namespace

int pool_threads() {
    Pool& shared = pool();
    std::lock_guard<std::mutex> turn(shared.one_job);
    return (int)shared.workers.size() + 1;
}

void set_pool_threads(int count) {
    Pool& shared = pool();
    std::lock_guard<std::mutex> turn(shared.one_job);
    shared.stop();
    shared.start(count);
}

void run_parallel(int items, int least, const std::function<void(int, int)>& job) {
    if (items < 2 * least) {
        job(0, items);
        return;
    }
    Pool& shared = pool();
    std::lock_guard<std::mutex> turn(shared.one_job);
    {
        std::lock_guard<std::mutex> lock(shared.guard);
        shared.job = &job;
        shared.items = items;
        shared.parts = std::min((int)shared.workers.size() + 1, items / least);
        shared.running = shared.parts - 1;
        shared.round++;
    }
    shared.changed.notify_all();
    shared.run_part(0);
    std::unique_lock<std::mutex> lock(shared.guard);
    shared.finished.wait(lock, [&] { return shared.running == 0; });
}
