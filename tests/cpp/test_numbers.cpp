// cpu/numbers.h: every 16-bit value to float and back, and rounding against a slow definition.
#include "cpu/numbers.h"

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include "check.h"

using airank_fast::bits_as;
using airank_fast::load;
using airank_fast::store;

// The value of a 16-bit pattern by its definition. `mantissa_bits` 7: bfloat16, 10: float16.
double value_of(uint16_t bits, int mantissa_bits) {
  const int exponent_bits = 15 - mantissa_bits, bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits & 0x7fff) >> mantissa_bits, mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  }
  const double scaled = exponent ? mantissa + (1 << mantissa_bits) : mantissa;
  return sign * std::ldexp(scaled, (exponent ? exponent : 1) - bias - mantissa_bits);
}

template <typename Half>
void there_and_back(int mantissa_bits) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const double expected = value_of(uint16_t(bits), mantissa_bits);
    const float loaded = load(Half{uint16_t(bits)});
    Half stored;
    store(&stored, loaded);
    if (std::isnan(expected)) {
      CHECK(std::isnan(loaded) && std::isnan(value_of(stored.bits, mantissa_bits)), "NaN %04x", bits);
    } else {
      CHECK(double(loaded) == expected && std::signbit(loaded) == std::signbit(expected), "load %04x", bits);
      CHECK(stored.bits == bits, "store gave %04x for %04x", stored.bits, bits);
    }
  }
}

// Between each two neighbours of the 16-bit type: just below the middle, the middle (ties to even), just above.
template <typename Half>
void rounds_to_nearest_even(int mantissa_bits, uint32_t infinity) {
  for (uint32_t bits = 0; bits < infinity; ++bits) {
    const double below = value_of(uint16_t(bits), mantissa_bits);
    // Past the largest finite value the next step would have been one more of the same size.
    const double step = bits + 1 < infinity ? value_of(uint16_t(bits + 1), mantissa_bits) - below
                                            : below - value_of(uint16_t(bits - 1), mantissa_bits);
    const float middle = float(below + step / 2);
    if (double(middle) != below + step / 2) continue;   // float itself has no such number
    const uint32_t even = bits % 2 ? bits + 1 : bits;
    const uint32_t expected[] = {bits, even, bits + 1};
    const float inputs[] = {std::nextafter(middle, 0.0f), middle, std::nextafter(middle, INFINITY)};
    for (int i = 0; i < 3; ++i) {
      for (const uint32_t sign : {0u, 0x8000u}) {
        Half stored;
        store(&stored, sign ? -inputs[i] : inputs[i]);
        CHECK(stored.bits == (expected[i] | sign), "%a gave %04x, expected %04x", double(inputs[i]), stored.bits,
              expected[i] | sign);
      }
    }
  }
}

int main() {
  there_and_back<airank_fast::bfloat16>(7);
  there_and_back<airank_fast::float16>(10);
  rounds_to_nearest_even<airank_fast::bfloat16>(7, 0x7f80);
  rounds_to_nearest_even<airank_fast::float16>(10, 0x7c00);
}
