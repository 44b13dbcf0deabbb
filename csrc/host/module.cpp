// The extension module airank_fast._host: loops over samples that are too slow in Python. pybind11 and NumPy, no torch.
// Its callers, airank_fast/data/text/sentence_pairs.py and samples.py, airank_fast/data/images/png.py and
// airank_fast/sources/criteo_lines.py, check the arguments.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <stdexcept>
#include <utility>

#include "criteo.h"
#include "png.h"
#include "samples.h"

namespace py = pybind11;

namespace airank_fast::host {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// A NumPy array that owns the vector's memory.
template <typename T>
py::array as_array(std::vector<T>&& values) {
  auto kept = std::make_unique<std::vector<T>>(std::move(values));
  kept->shrink_to_fit();
  auto* raw = kept.get();
  py::capsule owner(kept.release(), [](void* pointer) { delete static_cast<std::vector<T>*>(pointer); });
  return py::array_t<T>(raw->size(), raw->data(), owner);
}

py::tuple build(const Array<int32_t>& tokens, const Array<int64_t>& sentences, const Array<int64_t>& documents,
                const Array<int32_t>& num_masked, int32_t cls, int32_t sep, int32_t mask, int32_t vocab_size,
                uint64_t short_threshold, uint64_t seed, uint64_t block, int64_t num_duplicates) {
  const Documents from{tokens.data(), sentences.data(), documents.data(), documents.size() - 1};
  const Options options{num_masked.size() - 1, num_masked.data(), cls,   sep,           mask, vocab_size,
                        short_threshold,       seed,              block, num_duplicates};
  Samples out;
  {
    py::gil_scoped_release others_may_run;
    out = Builder(from, options).build();
  }
  return py::make_tuple(as_array(std::move(out.input_ids)), as_array(std::move(out.segment_ids)),
                        as_array(std::move(out.token_offsets)), as_array(std::move(out.masked_lm_positions)),
                        as_array(std::move(out.masked_lm_ids)), as_array(std::move(out.masked_offsets)),
                        as_array(std::move(out.next_sentence_labels)));
}

// Rows `indices` of a ragged array, end to end in a new one of `size` elements.
template <typename T>
Array<T> take_rows(const Array<T>& values, const Array<int64_t>& offsets, const Array<int64_t>& indices,
                   int64_t size) {
  Array<T> out(size);
  const T* from = values.data();
  T* to = out.mutable_data();
  const int64_t *offset = offsets.data(), *index = indices.data();
  const int64_t num = indices.size();
  py::gil_scoped_release others_may_run;
  for (int64_t i = 0; i < num; ++i) to = std::copy(from + offset[index[i]], from + offset[index[i] + 1], to);
  return out;
}

// A ragged array as rows of `width` elements, zeros after the end of each; no row may be longer.
template <typename T>
Array<T> pad_rows(const Array<T>& values, const Array<int64_t>& offsets, int64_t width) {
  const int64_t num = offsets.size() - 1;
  Array<T> out({num, width});
  const T* from = values.data();
  const int64_t* offset = offsets.data();
  T* to = out.mutable_data();
  py::gil_scoped_release others_may_run;
  for (int64_t i = 0; i < num; ++i, to += width)
    std::fill(std::copy(from + offset[i], from + offset[i + 1], to), to + width, T(0));
  return out;
}

// Rows from `text` of whole lines, from byte `begin` on: (rows written to `rows` from row `first` on, where they end).
py::tuple parse_criteo(const py::bytes& text, int64_t begin, Array<int32_t>& rows, int64_t first) {
  static const CriteoParser parser;
  char* from;
  Py_ssize_t size;
  if (PyBytes_AsStringAndSize(text.ptr(), &from, &size) != 0) throw py::error_already_set();
  int32_t* to = rows.mutable_data() + first * CriteoParser::kColumns;
  const int64_t most = rows.shape(0) - first;
  CriteoParser::Result result;
  {
    py::gil_scoped_release others_may_run;
    result = parser.parse(from + begin, size - begin, to, most);
  }
  return py::make_tuple(result.rows, begin + result.end);
}

// uint8 [num_rows, width, 3], or [num_rows, width] with one channel, of a PNG's filtered rows; None for an unknown filter.
py::object unfilter_png(const py::bytes& filtered, int64_t num_rows, int64_t width, int64_t channels) {
  py::array::ShapeContainer shape{num_rows, width};
  if (channels == 3) shape->push_back(channels);
  Array<uint8_t> out(shape);
  const auto* rows = reinterpret_cast<const uint8_t*>(PyBytes_AsString(filtered.ptr()));
  uint8_t* to = out.mutable_data();
  const std::vector<uint8_t> zeros(width * channels);
  bool known;
  {
    py::gil_scoped_release others_may_run;
    known = channels == 3 ? unfilter<3>(rows, num_rows, width, zeros.data(), to)
                          : unfilter<1>(rows, num_rows, width, zeros.data(), to);
  }
  return known ? py::object(out) : py::none();
}

}  // namespace

PYBIND11_MODULE(_host, module) {
  module.doc() = "What runs on the host and is too slow in Python; see airank_fast.data and airank_fast.sources.";
  module.def("build", &build);
  // Without conversion: another dtype is an error, not a copy.
  const auto as_is = [](const char* name) { return py::arg(name).noconvert(); };
  module.def("take_rows", &take_rows<int32_t>, as_is("values"), as_is("offsets"), as_is("indices"), py::arg("size"));
  module.def("take_rows", &take_rows<int8_t>, as_is("values"), as_is("offsets"), as_is("indices"), py::arg("size"));
  module.def("pad_rows", &pad_rows<int32_t>, as_is("values"), as_is("offsets"), py::arg("width"));
  module.def("pad_rows", &pad_rows<int8_t>, as_is("values"), as_is("offsets"), py::arg("width"));
  module.def("unfilter_png", &unfilter_png);
  module.def("parse_criteo", &parse_criteo, py::arg("text"), py::arg("begin"), as_is("rows"), py::arg("first"));
}

}  // namespace airank_fast::host
