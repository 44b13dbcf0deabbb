// The update of a table's touched rows, for one element; one source for the CPU and the GPU.
//
//   g = factor * sum of the gradients of the row's look-ups       factor = 1 / grad_scale, negative to maximise
//
//   sgd                w = w - lr * g
//   adagrad            s = s + g * g                    w = w - lr / decay * g / (sqrt(s) + eps)
//   row_wise_adagrad   s = s + mean over the row of g * g, one s for a row; w as above
//   adam               m = m + (1 - beta1) * (g - m)    v = v + (1 - beta2) * (g * g - v)
//                      w = w - lr * sqrt(c2) / c1 * m / (sqrt(v) + eps)
//   ftrl               that of ftrl_math.h, of n and z
//
//   decay = 1 + (step - 1) * lr_decay                   c = 1 - beta^step
//
// Rows without a gradient keep their weights and their state: Adam is lazy. Sources: torch.optim.SGD, Adagrad and
// SparseAdam on sparse gradients; row-wise Adagrad as in FBGEMM and torchrec.
#pragma once

#include "ftrl_math.h"

namespace airank_fast {

// kRootFtrl is FTRL with n^(1/2) and a rate that is not 0, for loops of the CPU; see FtrlOf.
enum class TableRule { kSgd, kAdagrad, kRowWiseAdagrad, kAdam, kFtrl, kRootFtrl };

// How many tensors of state a rule has.
HOST_DEVICE constexpr int num_table_states(TableRule rule) {
  return rule == TableRule::kSgd ? 0 : rule == TableRule::kAdagrad || rule == TableRule::kRowWiseAdagrad ? 1 : 2;
}

// The options of a step that are on the host.
struct TableOptions {
  double beta1;
  double beta2;
  double eps;
  double lr_decay;
  bool maximize;
  FtrlOptions ftrl;  // with maximize false: `factor` has the sign
};

// T is the type of the arithmetic: float, or double for a double table.
template <typename T>
struct TableScalars {
  T factor;
  T rate;   // what multiplies the direction, bias corrections included
  T rest1;  // 1 - beta1
  T rest2;
  T eps;
  FtrlScalars<T> ftrl;
};

// `step` counts from 1.
template <typename T>
HOST_DEVICE TableScalars<T> table_scalars(TableRule rule, const TableOptions& o, double lr, double step,
                                          double grad_scale) {
  double rate = lr;
  if (rule == TableRule::kAdam) rate = lr * sqrt(1.0 - pow(o.beta2, step)) / (1.0 - pow(o.beta1, step));
  else if (rule != TableRule::kSgd) rate = lr / (1.0 + (step - 1.0) * o.lr_decay);
  return {T((o.maximize ? -1.0 : 1.0) / grad_scale),
          T(rate),
          T(1.0 - o.beta1),
          T(1.0 - o.beta2),
          T(o.eps),
          Ftrl::scalars<T>(o.ftrl, lr, step, 1.0)};
}

// Returns the new weight and updates the state, `first` (s, m or n) and `second` (v or z). `grad` is g. Of
// row_wise_adagrad `first` is the row's s, already updated.
template <TableRule kRule, typename T>
HOST_DEVICE T table_step(T weight, T grad, T& first, T& second, const TableScalars<T>& s) {
  if constexpr (kRule == TableRule::kFtrl) return FtrlOf<false>::step(weight, grad, first, second, s.ftrl);
  if constexpr (kRule == TableRule::kRootFtrl) return FtrlOf<true>::step(weight, grad, first, second, s.ftrl);
  if constexpr (kRule == TableRule::kSgd) return weight - s.rate * grad;
  if constexpr (kRule == TableRule::kAdam) {
    first += s.rest1 * (grad - first);
    second += s.rest2 * (grad * grad - second);
    return weight - s.rate * (first / (square_root(second) + s.eps));
  }
  if constexpr (kRule == TableRule::kAdagrad) first += grad * grad;
  return weight - s.rate * (grad / (square_root(first) + s.eps));
}

}  // namespace airank_fast
