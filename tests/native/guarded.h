// Memory that ends the program when it is read or written past its end.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

// `bytes` bytes that end where a page without access begins.
class Guarded {
  public:
    explicit Guarded(size_t bytes) {
        const size_t page = (size_t)sysconf(_SC_PAGESIZE);
        const size_t used = (bytes + page - 1) / page * page;
        size = used + page;
        void* all = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (all == MAP_FAILED || mprotect((char*)all + used, page, PROT_NONE) != 0) abort();
        start = (uint8_t*)all;
        data = start + used - bytes;
    }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;
    ~Guarded() { munmap(start, size); }
    uint8_t* data;

  private:
    uint8_t* start;
    size_t size;
};
