// What the system is told about large memory.
#pragma once

#include <cstddef>

namespace icmh {

// Asks for huge pages where whole ones lie within these bytes, before they are first touched: a
// wish, without an effect where the system has none. Never fails.
void advise_huge_pages(void* data, std::size_t size);

}  // namespace icmh
