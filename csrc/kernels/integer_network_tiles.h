// The inner loops of integer_network.cpp, included once for each instruction set.
//
// The including namespace defines ICMH_TARGET (the function attribute that enables the instruction
// set), kLanes (8 or 16), kTilePixels and kMaxVectors (how many sums fit its registers), and struct
// Isa with the types and operations used below. No include guard: several inclusions are the point.

// What every output row needs after its sum; pointers to the first of kLanes rows.
struct Post {
  const std::int32_t* shift;
  const std::int32_t* low;
  const std::int32_t* high;
};

ICMH_TARGET ICMH_INLINE Isa::V rescale(Isa::V sum, const Post& post) {
  return Isa::clamp(Isa::shift_right(sum, Isa::load(post.shift)), Isa::load(post.low),
                    Isa::load(post.high));
}

// Writes kLanes results of one pixel to where the next stage wants them.
struct StoreHidden {
  const PackedLayer& layer;
  ICMH_TARGET ICMH_INLINE void operator()(const PixelTarget& target, std::int64_t row,
                                          Isa::V sum) const {
    const Post post{layer.shift.data() + row, layer.low.data() + row, layer.high.data() + row};
    Isa::store16(target.hidden + layer.offset(row, target.row_stride), rescale(sum, post));
  }
};

struct StoreMean {
  const PackedLayer& layer;
  const HeadTables& tables;
  ICMH_TARGET ICMH_INLINE void operator()(const PixelTarget& target, std::int64_t row,
                                          Isa::V sum) const {
    const Post post{layer.shift.data() + row, layer.low.data() + row, layer.high.data() + row};
    Isa::V value = Isa::mul(rescale(sum, post), Isa::load(tables.multiplier + row));
    value = Isa::shift_right(Isa::add(value, Isa::load(tables.half + row)),
                             Isa::load(tables.shift + row));
    value = Isa::clamp(value, Isa::splat(-tables.mean_limit), Isa::splat(tables.mean_limit));
    if (row + kLanes <= tables.channels) {
      Isa::store32(target.mean + row, value);
    } else if (row < tables.channels) {
      std::int32_t lanes[kLanes];
      Isa::store32(lanes, value);
      std::memcpy(target.mean + row, lanes,
                  static_cast<std::size_t>(tables.channels - row) * sizeof(std::int32_t));
    }
  }
};

struct StoreIndex {
  const PackedLayer& layer;
  const HeadTables& tables;
  ICMH_TARGET ICMH_INLINE void operator()(const PixelTarget& target, std::int64_t row,
                                          Isa::V sum) const {
    const Post post{layer.shift.data() + row, layer.low.data() + row, layer.high.data() + row};
    Isa::V value = Isa::add(rescale(sum, post), Isa::load(tables.index_offset + row));
    value = Isa::shift_right(value, Isa::splat(tables.index_bits));
    value = Isa::clamp(value, Isa::splat(0), Isa::splat(tables.scales - 1));
    if (row + kLanes <= tables.channels) {
      Isa::store8(target.index + row, value);
    } else if (row < tables.channels) {
      std::uint8_t lanes[kLanes];
      Isa::store8(lanes, value);
      std::memcpy(target.index + row, lanes, static_cast<std::size_t>(tables.channels - row));
    }
  }
};

// Sums kTilePixels pixels times VECTORS * kLanes rows in registers, then stores the first `pixels`.
// sources[p] points at the pixel's inputs: `segments` runs of `pairs` pairs of int16, a
// segment_stride apart. (For conv3x3 on a padded map a run is the 3 * channels values of one row.)
template <int VECTORS, class Store>
ICMH_TARGET void tile(const PackedLayer& layer, const std::int16_t* const* sources,
                      std::int64_t segment_stride, const PixelTarget* targets, int pixels,
                      std::int64_t row, const Store& store) {
  Isa::V sum[kTilePixels][VECTORS];
#pragma GCC unroll 8
  for (int v = 0; v < VECTORS; ++v) {
    const Isa::V bias = Isa::load(layer.bias.data() + row + v * kLanes);
#pragma GCC unroll 8
    for (int p = 0; p < kTilePixels; ++p) sum[p][v] = bias;
  }
  const std::int16_t* weights[VECTORS];
#pragma GCC unroll 8
  for (int v = 0; v < VECTORS; ++v) {
    const std::int64_t first = row + v * kLanes;
    weights[v] = layer.packed.data() + first / kBlock * layer.block_stride + first % kBlock * 2;
  }
  for (std::int64_t segment = 0; segment < layer.segments; ++segment) {
    const std::int16_t* x[kTilePixels];
#pragma GCC unroll 8
    for (int p = 0; p < kTilePixels; ++p) x[p] = sources[p] + segment * segment_stride;
    for (std::int64_t pair = 0; pair < layer.pairs; ++pair) {
      Isa::W w[VECTORS];
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) w[v] = Isa::load_weights(weights[v] + pair * 2 * kBlock);
#pragma GCC unroll 8
      for (int p = 0; p < kTilePixels; ++p) {
        const Isa::X value = Isa::broadcast_pair(x[p] + pair * 2);
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) sum[p][v] = Isa::dot(sum[p][v], w[v], value);
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) weights[v] += layer.pairs * 2 * kBlock;
  }
#pragma GCC unroll 8
  for (int p = 0; p < kTilePixels; ++p) {
    if (p >= pixels) break;
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) store(targets[p], row + v * kLanes, sum[p][v]);
  }
}

// All rows of a dense layer for pixels [begin, end) of the output grid before the shuffle.
template <class Store>
ICMH_TARGET void dense(const PackedLayer& layer, const Map& input, const Output& output,
                       std::int64_t begin, std::int64_t end, const Store& store) {
  const std::int64_t vectors = layer.rows / kLanes;
  // As few groups as the registers allow, of equal size: a lone last vector would wait on latency.
  const std::int64_t groups = (vectors + kMaxVectors - 1) / kMaxVectors;
  const std::int64_t origin = layer.op == IntegerOp::conv3x3 ? input.at(-1, -1) : input.at(0, 0);
  for (std::int64_t chunk = begin; chunk < end; chunk += kChunkPixels) {
    const std::int64_t chunk_end = chunk + kChunkPixels < end ? chunk + kChunkPixels : end;
    for (std::int64_t group = 0; group < groups; ++group) {
      const std::int64_t first = vectors * group / groups;
      const std::int64_t count = vectors * (group + 1) / groups - first;
      for (std::int64_t pixel = chunk; pixel < chunk_end; pixel += kTilePixels) {
        const std::int16_t* sources[kTilePixels];
        PixelTarget targets[kTilePixels];
        const int pixels =
            static_cast<int>(chunk_end - pixel < kTilePixels ? chunk_end - pixel : kTilePixels);
        for (int p = 0; p < kTilePixels; ++p) {
          // Past the end the last pixel is computed again and not stored.
          const std::int64_t at = pixel + (p < pixels ? p : pixels - 1);
          const std::int64_t y = at / input.width;
          const std::int64_t x = at % input.width;
          sources[p] =
              input.data + origin + (y * input.row_pixels() + x) * input.channels;
          targets[p] = output.target(y, x, at, layer.shuffle);
        }
        const std::int64_t row = first * kLanes;
        switch (count) {
          case 1:
            tile<1>(layer, sources, input.row_stride(), targets, pixels, row, store);
            break;
          case 2:
            tile<2>(layer, sources, input.row_stride(), targets, pixels, row, store);
            break;
#if ICMH_WIDE_TILES
          case 3:
            tile<3>(layer, sources, input.row_stride(), targets, pixels, row, store);
            break;
          case 4:
            tile<4>(layer, sources, input.row_stride(), targets, pixels, row, store);
            break;
#endif
          default:
            break;
        }
      }
    }
  }
}

template <class Store>
ICMH_TARGET void depthwise(const PackedLayer& layer, const Map& input, const Output& output,
                           std::int64_t begin, std::int64_t end, const Store& store) {
  for (std::int64_t pixel = begin; pixel < end; ++pixel) {
    const std::int64_t y = pixel / input.width;
    const std::int64_t x = pixel % input.width;
    const std::int16_t* source = input.data + input.at(y - 1, x - 1);
    const PixelTarget target = output.target(y, x, pixel, layer.shuffle);
    for (std::int64_t row = 0; row < layer.rows; row += kLanes) {
      Isa::V sum = Isa::load(layer.bias.data() + row);
      for (int tap = 0; tap < 9; ++tap) {
        const std::int16_t* at = source + tap / 3 * input.row_stride() + tap % 3 * input.channels;
        sum = Isa::add(sum, Isa::mul(Isa::widen(at + row),
                                     Isa::load(layer.taps.data() + tap * layer.rows + row)));
      }
      store(target, row, sum);
    }
  }
}

ICMH_TARGET void hidden_layer(const PackedLayer& layer, const Map& input, const Output& output,
                              const HeadTables&, std::int64_t begin, std::int64_t end) {
  if (layer.op == IntegerOp::depthwise3x3) {
    depthwise(layer, input, output, begin, end, StoreHidden{layer});
  } else {
    dense(layer, input, output, begin, end, StoreHidden{layer});
  }
}

ICMH_TARGET void mean_layer(const PackedLayer& layer, const Map& input, const Output& output,
                            const HeadTables& tables, std::int64_t begin, std::int64_t end) {
  dense(layer, input, output, begin, end, StoreMean{layer, tables});
}

ICMH_TARGET void index_layer(const PackedLayer& layer, const Map& input, const Output& output,
                             const HeadTables& tables, std::int64_t begin, std::int64_t end) {
  dense(layer, input, output, begin, end, StoreIndex{layer, tables});
}
