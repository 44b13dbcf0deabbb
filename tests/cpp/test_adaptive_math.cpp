// adam_math.h, adagrad_math.h and ftrl_math.h against their definitions, written out by hand in small integers and powers of two, so
// that every expected number is exact.
#include <cmath>
#include <limits>

#include "adagrad_math.h"
#include "adam_math.h"
#include "check.h"
#include "ftrl_math.h"

using airank_fast::Adagrad;
using airank_fast::AdagradOptions;
using airank_fast::Adam;
using airank_fast::AdamOptions;
using airank_fast::FtrlOf;
using airank_fast::FtrlOptions;

// beta1 is 1/2 and beta2 3/4, so that in step 1 1 - beta is 1/2 and 1/4, and sqrt(v) is divided by 1/2.
template <typename T>
void adam() {
  AdamOptions o{0.5, 0.75, 0, 0, false, true, false};
  T m = 0, v = 0;
  T param = Adam::step(T(3), T(4), m, v, Adam::scalars<T>(o, 0.5, 1, 1));
  CHECK(m == 2 && v == 4, "4 / 2 and 16 / 4, got %g %g", double(m), double(v));
  CHECK(param == 2.5, "3 - 0.5 / 0.5 * 2 / (2 * 2), got %g", double(param));

  m = v = 0, o.maximize = true;
  param = Adam::step(T(3), T(4), m, v, Adam::scalars<T>(o, 0.5, 1, 2));
  CHECK(m == -1 && v == 1 && param == 3.5, "-4 / 2 is the gradient, got %g %g %g", double(m), double(v), double(param));

  m = v = 0, o.maximize = false, o.weight_decay = 0.5;
  param = Adam::step(T(4), T(2), m, v, Adam::scalars<T>(o, 0.5, 1, 1));
  CHECK(m == 2 && param == 3.5, "2 + 0.5 * 4 is the gradient, got %g %g", double(m), double(param));

  m = v = 0, o.decoupled_weight_decay = true;
  param = Adam::step(T(4), T(4), m, v, Adam::scalars<T>(o, 0.5, 1, 1));
  CHECK(m == 2 && param == 2.5, "4 - 0.5 - 0.5 * 0.5 * 4, got %g %g", double(m), double(param));

  m = v = 0, o.weight_decay = 0, o.bias_correction = false, o.eps = 2;
  param = Adam::step(T(3), T(4), m, v, Adam::scalars<T>(o, 0.5, 1, 1));
  CHECK(param == 2.75, "3 - 0.5 * 2 / (2 + 2), got %g", double(param));
}

template <typename T>
void adagrad() {
  AdagradOptions o{0.5, 0, 1, false};
  T sum = 16, none = -7;
  T param = Adagrad::step(T(1), T(3), sum, none, Adagrad::scalars<T>(o, 1, 3, 1));
  CHECK(sum == 25 && param == 0.75, "1 - 1 / (1 + 2 * 0.5) * 3 / (5 + 1), got %g %g", double(sum), double(param));
  CHECK(none == -7, "there is no second state, got %g", double(none));

  sum = 16, o.weight_decay = 1, o.maximize = true;
  param = Adagrad::step(T(1), T(8), sum, none, Adagrad::scalars<T>(o, 1, 1, 2));
  CHECK(sum == 25 && param == 1.5, "-8 / 2 + 1 is the gradient, got %g %g", double(sum), double(param));
}

// The accumulator is 9 and the gradient 4, so that the root grows from 3 to 5.
template <typename T, typename Formula>
void ftrl() {
  FtrlOptions o{-0.5, 0, 0, 0, 0, false};
  T n = 9, z = 1;
  T param = Formula::step(T(2), T(4), n, z, Formula::template scalars<T>(o, 0.5, 1, 1));
  CHECK(n == 25 && z == -3, "1 + 4 - (5 - 3) / 0.5 * 2, got %g %g", double(n), double(z));
  CHECK(param == T(3) / T(10), "3 / (5 / 0.5), got %g", double(param));

  n = 9, z = 1, o = {-0.5, 1, 2, 0.5, 3, false};
  param = Formula::step(T(2), T(8), n, z, Formula::template scalars<T>(o, 0.5, 1, 2));
  CHECK(z == -1 && param == 0, "1 + 4 + 2 * 0.5 * 2 - 8 is not above l1, got %g %g", double(z), double(param));
  n = 9, z = -1;
  param = Formula::step(T(2), T(8), n, z, Formula::template scalars<T>(o, 0.5, 1, 2));
  CHECK(z == -3 && param == T(0.1), "(3 - 1) / ((5 + 3) / 0.5 + 2 * 2), got %g %g", double(z), double(param));

  n = 9, z = 1, o = {-0.5, 0, 0, 0, 0, true};
  param = Formula::step(T(2), T(4), n, z, Formula::template scalars<T>(o, 0.5, 1, 1));
  CHECK(z == -11, "1 - 4 - 8, got %g", double(z));
}

template <typename T>
void ftrl_of_other_powers() {
  T n = 9, z = 1;
  const FtrlOptions o{-1, 0, 0, 0, 0, false};
  const T param = FtrlOf<false>::step(T(0.5), T(4), n, z, FtrlOf<false>::scalars<T>(o, 0.5, 1, 1));
  CHECK(n == 25 && z == -11, "1 + 4 - 16 / 0.5 * 0.5, got %g %g", double(n), double(z));
  CHECK(param == T(11) / T(50), "11 / (25 / 0.5), got %g", double(param));
}

template <typename T>
void special_values() {
  const T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  const auto of_adam = Adam::scalars<T>({0.5, 0.75, 1e-8, 0, true, true, false}, 0.5, 1, 1);
  T m = 0, v = 0;
  CHECK(Adam::step(inf, T(1), m, v, of_adam) == inf, "no decay: an infinite parameter stays infinite");
  CHECK(std::isnan(Adam::step(T(1), nan, m, v, of_adam)) && std::isnan(m) && std::isnan(v), "NaN reaches all");
  const auto of_adagrad = Adagrad::scalars<T>({0, 0, 1e-8, false}, 0.5, 1, 1);
  T sum = 0;
  CHECK(Adagrad::step(inf, T(1), sum, m, of_adagrad) == inf, "no decay: an infinite parameter stays infinite");
  CHECK(std::isnan(Adagrad::step(T(1), nan, sum, m, of_adagrad)) && std::isnan(sum), "NaN reaches both");
  const FtrlOptions o{-0.5, 1, 0, 0, 0, false};
  using Ftrl = FtrlOf<false>;
  T n = 0, z = 0;
  CHECK(Ftrl::step(T(1), T(0), n, z, Ftrl::scalars<T>(o, 0.5, 1, 1)) == 0, "0 / 0 is 0, got n %g", double(n));
  CHECK(Ftrl::step(T(7), inf, n, z, Ftrl::scalars<T>(o, 0, 1, 1)) == 7 && n == 0 && z == 0, "rate 0: %g", double(z));
  CHECK(std::isnan(Ftrl::step(T(1), nan, n, z, Ftrl::scalars<T>(o, 0.5, 1, 1))) && std::isnan(z), "NaN reaches z");
}

template <typename T>
void all() {
  adam<T>();
  adagrad<T>();
  ftrl<T, FtrlOf<true>>();
  ftrl<T, FtrlOf<false>>();
  ftrl_of_other_powers<T>();
  special_values<T>();
}

int main() {
  all<float>();
  all<double>();
}
