// The matrix product of a level: on tiles where it has them, else on vectors.
#pragma once

#ifdef ICMH_TILES
#include "kernels/gemm_tiles.h"
#else
#include "kernels/gemm.h"
#endif

namespace icmh::kernels {
namespace {

#ifdef ICMH_TILES

struct Product {
  using Session = Tiles;
  static constexpr auto size = packed_tiles_size;
  static constexpr auto pack = pack_tiles;
  static constexpr auto multiply = multiply_tiles;
};

#else

struct Product {
  struct Session {
    ~Session() {}  // not trivial, so that no compiler calls it unused
  };
  static constexpr auto size = packed_size;
  static constexpr auto pack = pack_rows;
  static constexpr auto multiply = multiply_panel;
};

#endif

}  // namespace
}  // namespace icmh::kernels
