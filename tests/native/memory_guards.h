// Memory that tells: arrays between pages that cannot be touched, and an operator new that counts
// and, when asked, puts every allocation before such a page. They find what AddressSanitizer cannot
// see (gathers, masked loads) and work where it is not to be had (qemu).
//
// Include in one source file of a program only: it defines the global operator new and delete.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "common/span.h"

namespace icmh::tests {

inline std::size_t page_bytes() {
  static const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

inline void* map_untouchable(std::size_t bytes) {
  void* const memory =
      mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("mmap");
    std::abort();
  }
  return memory;
}

inline void make_touchable(void* memory, std::size_t bytes) {
  if (mprotect(memory, bytes, PROT_READ | PROT_WRITE) != 0) {
    std::perror("mprotect");
    std::abort();
  }
}

// Where in its pages a guarded array lies: the page after its last or before its first element
// cannot be touched.
enum class GuardSide { end, start };
constexpr GuardSide kGuardSides[] = {GuardSide::end, GuardSide::start};

// Room for `capacity` elements, of which place() uses some, against the guarded side.
template <typename T>
class GuardedArray {
 public:
  explicit GuardedArray(std::size_t capacity) {
    const std::size_t page = page_bytes();
    inside_bytes_ = (capacity * sizeof(T) + page - 1) / page * page;
    memory_ = static_cast<std::uint8_t*>(map_untouchable(inside_bytes_ + 2 * page));
    if (inside_bytes_ != 0) make_touchable(memory_ + page, inside_bytes_);
  }
  ~GuardedArray() { munmap(memory_, inside_bytes_ + 2 * page_bytes()); }
  GuardedArray(const GuardedArray&) = delete;
  GuardedArray& operator=(const GuardedArray&) = delete;

  Span<T> room(std::size_t count, GuardSide side) const {
    std::uint8_t* first = memory_ + page_bytes();
    if (side == GuardSide::end) first += inside_bytes_ - count * sizeof(T);
    return {reinterpret_cast<T*>(first), count};
  }

  Span<const T> place(const T* values, std::size_t count, GuardSide side) const {
    const Span<T> span = room(count, side);
    if (count != 0) std::memcpy(span.data, values, count * sizeof(T));
    return {span.data, count};
  }
  Span<const T> place(const std::vector<T>& values, GuardSide side) const {
    return place(values.data(), values.size(), side);
  }

 private:
  std::uint8_t* memory_;
  std::size_t inside_bytes_;
};

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAddressSanitizer = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#endif
#else
constexpr bool kAddressSanitizer = false;
#endif

// Bytes that operator new has given out: now, and at most since reset().
struct AllocatedBytes {
  static inline std::atomic<std::size_t> now{0};
  static inline std::atomic<std::size_t> most{0};

  static std::size_t reset() {
    const std::size_t start = now;
    most = start;
    return start;
  }
  static void add(std::size_t bytes) {
    const std::size_t sum = now += bytes;
    std::size_t seen = most;
    while (seen < sum && !most.compare_exchange_weak(seen, sum)) {
    }
  }
};

// While one of these lives, every allocation lies against an untouchable page, ending there as near
// as its alignment lets it or starting there, and becomes untouchable when it is freed. Off under
// AddressSanitizer, which does the same for allocations from malloc.
class FencedAllocations {
 public:
  explicit FencedAllocations(GuardSide guarded_side) {
    if (in_use == 0) used = page_bytes();  // the first page stays untouchable
    side = guarded_side;
    if (!kAddressSanitizer) active = true;
  }
  ~FencedAllocations() { active = false; }
  FencedAllocations(const FencedAllocations&) = delete;
  FencedAllocations& operator=(const FencedAllocations&) = delete;

  static inline std::atomic<bool> active{false};

  static bool holds(const std::uint8_t* place) {
    const std::uint8_t* const first = arena;
    return first != nullptr && place >= first && place < first + kArenaBytes;
  }

  static std::uint8_t* take(std::size_t bytes, std::size_t alignment) {
    static const bool mapped = [] {
      arena = static_cast<std::uint8_t*>(map_untouchable(kArenaBytes));
      return true;
    }();
    (void)mapped;
    const std::size_t page = page_bytes();
    const std::size_t inside = (bytes / page + 1) * page;
    const std::size_t first = used.fetch_add(inside + page);
    if (first + inside + page > kArenaBytes) {
      std::fprintf(stderr, "memory_guards.h: the arena is used up\n");
      std::abort();
    }
    ++in_use;
    std::uint8_t* place = arena + first;
    make_touchable(place, inside);
    if (side == GuardSide::end) {
      place += inside - bytes;
      place -= reinterpret_cast<std::uintptr_t>(place) % alignment;
    }
    size_of(place) = bytes;
    return place;
  }

  // Returns the size that was asked for.
  static std::size_t give_back(std::uint8_t* place) {
    const std::size_t bytes = size_of(place);
    const std::size_t page = page_bytes();
    std::uint8_t* const first = place - reinterpret_cast<std::uintptr_t>(place) % page;
    const std::size_t size = (bytes / page + 1) * page;
    // A new mapping over the old one gives the memory back, too.
    if (mmap(first, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0) == MAP_FAILED) {
      std::perror("mmap");
      std::abort();
    }
    --in_use;
    return bytes;
  }

 private:
  static constexpr std::size_t kArenaBytes = std::size_t{1} << 34;  // addresses, not memory
  static constexpr std::size_t kSmallestPage = 4096;

  // An allocation has its pages for itself: its size is kept by the number of the first.
  static std::size_t& size_of(const std::uint8_t* place) {
    static std::size_t sizes[kArenaBytes / kSmallestPage];
    return sizes[static_cast<std::size_t>(place - arena.load()) / page_bytes()];
  }

  static inline std::atomic<GuardSide> side{GuardSide::end};
  static inline std::atomic<std::uint8_t*> arena{nullptr};
  static inline std::atomic<std::size_t> used{0};
  static inline std::atomic<std::size_t> in_use{0};
};

inline void* allocate_counted(std::size_t bytes, std::size_t alignment) {
  // A block outside the arena is a header that holds its size, as long as the alignment, and then
  // the bytes.
  const std::size_t header = alignment < 16 ? 16 : alignment;
  if (FencedAllocations::active) {
    // A type's size is a multiple of its alignment: the size tells how aligned it must be.
    std::size_t needed = bytes & (~bytes + 1);
    if (needed == 0 || needed > header || alignment > 16) needed = header;
    std::uint8_t* const place = FencedAllocations::take(bytes, needed);
    AllocatedBytes::add(bytes);
    return place;
  }
  const std::size_t whole = (header + bytes + header - 1) / header * header;
  auto* const block = static_cast<std::uint8_t*>(
      header == 16 ? std::malloc(header + bytes) : std::aligned_alloc(header, whole));
  if (block == nullptr) throw std::bad_alloc();
  std::uint8_t* const place = block + header;
  std::memcpy(place - sizeof bytes, &bytes, sizeof bytes);
  AllocatedBytes::add(bytes);
  return place;
}

inline void free_counted(void* memory, std::size_t alignment) {
  if (memory == nullptr) return;
  auto* const place = static_cast<std::uint8_t*>(memory);
  if (FencedAllocations::holds(place)) {
    AllocatedBytes::now -= FencedAllocations::give_back(place);
    return;
  }
  std::size_t bytes = 0;
  std::memcpy(&bytes, place - sizeof bytes, sizeof bytes);
  AllocatedBytes::now -= bytes;
  std::free(place - (alignment < 16 ? 16 : alignment));
}

}  // namespace icmh::tests

void* operator new(std::size_t bytes) { return icmh::tests::allocate_counted(bytes, 1); }
void* operator new[](std::size_t bytes) { return icmh::tests::allocate_counted(bytes, 1); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return icmh::tests::allocate_counted(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return icmh::tests::allocate_counted(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { icmh::tests::free_counted(memory, 1); }
void operator delete[](void* memory) noexcept { icmh::tests::free_counted(memory, 1); }
void operator delete(void* memory, std::size_t) noexcept { icmh::tests::free_counted(memory, 1); }
void operator delete[](void* memory, std::size_t) noexcept {
  icmh::tests::free_counted(memory, 1);
}
void operator delete(void* memory, std::align_val_t alignment) noexcept {
  icmh::tests::free_counted(memory, static_cast<std::size_t>(alignment));
}
void operator delete[](void* memory, std::align_val_t alignment) noexcept {
  icmh::tests::free_counted(memory, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory, std::size_t, std::align_val_t alignment) noexcept {
  icmh::tests::free_counted(memory, static_cast<std::size_t>(alignment));
}
void operator delete[](void* memory, std::size_t, std::align_val_t alignment) noexcept {
  icmh::tests::free_counted(memory, static_cast<std::size_t>(alignment));
}
