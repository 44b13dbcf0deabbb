// sgd_math.h against its definition, written out by hand in small integers and powers of two, so that every
// expected number is exact.
#include "sgd_math.h"

#include <cmath>
#include <limits>

#include "check.h"

using airank_fast::sgd_step;
using airank_fast::SgdScalars;

template <typename T>
void plain() {
  T buffer = -7;
  SgdScalars<T> s{/*lr=*/T(0.5), /*factor=*/1, /*momentum=*/0, /*undampened=*/1, /*weight_decay=*/0, false};
  CHECK((sgd_step<false>(T(3), T(4), buffer, s)) == 1, "3 - 0.5 * 4");
  CHECK(buffer == -7, "without momentum the buffer is left alone, got %g", double(buffer));
  s.weight_decay = T(0.25);
  CHECK((sgd_step<false>(T(8), T(4), buffer, s)) == 5, "8 - 0.5 * (4 + 0.25 * 8)");
  s.factor = T(-0.5);
  CHECK((sgd_step<false>(T(8), T(4), buffer, s)) == 8, "8 - 0.5 * (-0.5 * 4 + 0.25 * 8)");
}

template <typename T>
void with_momentum() {
  SgdScalars<T> s{T(0.5), 1, T(0.5), 1, 0, false};
  T buffer = 0;
  T param = sgd_step<true>(T(3), T(4), buffer, s);
  CHECK(buffer == 4 && param == 1, "the first step takes the gradient, got %g %g", double(buffer), double(param));
  param = sgd_step<true>(param, T(2), buffer, s);
  CHECK(buffer == 4 && param == -1, "0.5 * 4 + 2, got %g %g", double(buffer), double(param));
  s.undampened = T(0.25);
  param = sgd_step<true>(param, T(8), buffer, s);
  CHECK(buffer == 4 && param == -3, "0.5 * 4 + 0.25 * 8, got %g %g", double(buffer), double(param));
  s.nesterov = true;
  s.undampened = 1;
  param = sgd_step<true>(param, T(2), buffer, s);
  CHECK(buffer == 4 && param == -5, "2 + 0.5 * 4, got %g %g", double(buffer), double(param));
}

template <typename T>
void special_values() {
  const T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  SgdScalars<T> s{T(0.5), 1, T(0.5), 1, 0, false};
  T buffer = 0;
  CHECK(std::isnan(sgd_step<true>(T(1), nan, buffer, s)) && std::isnan(buffer), "NaN reaches both");
  buffer = 0;
  CHECK((sgd_step<true>(T(1), inf, buffer, s)) == -inf && buffer == inf, "inf reaches both");
  buffer = 0;
  CHECK((sgd_step<true>(inf, T(1), buffer, s)) == inf, "no decay: an infinite parameter stays infinite");
}

template <typename T>
void all() {
  plain<T>();
  with_momentum<T>();
  special_values<T>();
}

int main() {
  all<float>();
  all<double>();
}
