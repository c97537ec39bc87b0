// A token takes some 200 jobs, so what a job costs beside its work counts: 2 microseconds here (25
// when the threads sleep), against 60 with a lock and a signal for each job (Sapphire Rapids, 2
// idle cores). Threads take pieces from one counter, and nobody waits for a thread that comes late:
// what it would have done is done. A thread that finds nothing to do looks again for SPIN before it
// sleeps, which lasts from one job to the next within a token, and not from one token to the next
// while a program does something else.
#include "pool.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace {

constexpr int PIECES = 4;  // of a job for each thread: who is held up leaves the rest to others
constexpr int MOST_PIECES = 0xffff;
constexpr std::chrono::microseconds SPIN(20);

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Look until `ready()`, at most for SPIN. Returns what it said last.
template <typename Ready>
bool spin_until(const Ready& ready) {
    const auto start = std::chrono::steady_clock::now();
    do {
        for (int turn = 0; turn < 16; turn++) {
            if (ready()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() - start < SPIN);
    return ready();
}

// Where a job stands: its number (32 bits), its pieces and the next piece to take (16 bits each).
struct Ticket {
    uint64_t bits;

    int pieces() const { return (int)(bits >> 16 & 0xffff); }
    int next() const { return (int)(bits & 0xffff); }
    bool open() const { return next() < pieces(); }
    Ticket taken() const { return {bits + 1}; }
    Ticket new_job(int pieces) const { return {((bits >> 32) + 1) << 32 | (uint64_t)pieces << 16}; }
};

struct Pool {
    std::mutex one_job;  // held by the thread whose job runs: jobs of several callers wait in line
    std::mutex guard;    // of going to sleep
    std::condition_variable opened, finished;
    std::vector<std::thread> workers;
    std::atomic<uint64_t> ticket{0};
    std::atomic<int> done{0};      // pieces of the present job
    std::atomic<int> sleepers{0};  // workers that only `opened` wakes
    std::atomic<bool> caller_sleeps{false};
    std::atomic<bool> stopping{false};
    // The present job. Only who has taken a piece may read it: then it cannot change.
    void (*call)(const void*, int, int) = nullptr;
    const void* work = nullptr;
    int items = 0;

    bool open() const { return Ticket{ticket.load()}.open(); }

    // Do one piece; false when none is left.
    bool do_piece() {
        uint64_t seen = ticket.load();
        do {
            if (!Ticket{seen}.open()) return false;
        } while (!ticket.compare_exchange_weak(seen, Ticket{seen}.taken().bits));
        const long piece = Ticket{seen}.next(), pieces = Ticket{seen}.pieces();
        call(work, (int)(items * piece / pieces), (int)(items * (piece + 1) / pieces));
        if (done.fetch_add(1) + 1 == pieces && caller_sleeps.load()) {
            std::lock_guard<std::mutex> lock(guard);
            finished.notify_one();
        }
        return true;
    }

    void serve() {
        const auto called = [this] { return stopping.load() || open(); };
        while (!stopping.load()) {
            while (do_piece()) {
            }
            if (spin_until(called)) continue;
            std::unique_lock<std::mutex> lock(guard);
            sleepers.fetch_add(1);  // before the last look: who opens a job later sees a sleeper
            opened.wait(lock, called);
            sleepers.fetch_sub(1);
        }
    }

    void start(int threads) {
        stopping = false;
        for (int index = 0; index < threads - 1; index++) {
            workers.emplace_back([this] { serve(); });
        }
    }

    void wake_all() {
        {  // a worker between look and sleep goes first
            std::lock_guard<std::mutex> lock(guard);
        }
        opened.notify_all();
    }

    void stop() {
        stopping = true;
        wake_all();
        for (std::thread& worker : workers) worker.join();
        workers.clear();
    }

    void run(int pieces) {
        done = 0;
        ticket = Ticket{ticket.load()}.new_job(pieces).bits;
        if (sleepers.load() > 0) wake_all();
        while (do_piece()) {
        }
        const auto finished_all = [&] { return done.load() == pieces; };
        if (spin_until(finished_all)) return;
        std::unique_lock<std::mutex> lock(guard);
        caller_sleeps = true;
        finished.wait(lock, finished_all);
        caller_sleeps = false;
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
        instance->start((int)std::max(1u, std::thread::hardware_concurrency()));
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

void run_pieces(int items, int least, const void* work, void (*call)(const void*, int, int)) {
    if (items < 2 * least) {
        if (items > 0) call(work, 0, items);
        return;
    }
    Pool& shared = pool();
    std::lock_guard<std::mutex> turn(shared.one_job);
    if (shared.workers.empty()) {
        call(work, 0, items);
        return;
    }
    shared.call = call;
    shared.work = work;
    shared.items = items;
    const int most = std::min(MOST_PIECES, PIECES * ((int)shared.workers.size() + 1));
    shared.run(std::min(most, items / least));
}
