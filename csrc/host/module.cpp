// The extension module airank_fast._host: loops over samples that are too slow in Python. pybind11 and NumPy, no torch.
// Its callers, airank_fast/data/text/sentence_pairs.py and samples.py, airank_fast/data/images/png.py and
// run_lengths.py, airank_fast/quality/coco_match.py and airank_fast/sources/criteo_lines.py, check the arguments.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "criteo.h"
#include "masks.h"
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

py::tuple as_runs(std::vector<uint32_t>&& counts, std::vector<int64_t>&& offsets) {
  return py::make_tuple(as_array(std::move(counts)), as_array(std::move(offsets)));
}

// The counts of masks, of which each is the union of polygons, and where each mask's begin.
py::tuple draw_polygons(const Array<double>& points, const Array<int64_t>& polygon_offsets,
                        const Array<int64_t>& object_offsets, const Array<int64_t>& sizes) {
  const double* corners = points.data();
  const int64_t *polygon = polygon_offsets.data(), *object = object_offsets.data(), *size = sizes.data();
  const int64_t num = object_offsets.size() - 1;
  std::vector<uint32_t> counts;
  std::vector<int64_t> offsets{0};
  {
    py::gil_scoped_release others_may_run;
    PolygonDrawer drawer;
    Intervals mask;
    for (int64_t i = 0; i < num; ++i) {
      const int64_t height = size[2 * i], width = size[2 * i + 1];
      mask.clear();
      for (int64_t j = object[i]; j < object[i + 1]; ++j)
        drawer.append(corners + 2 * polygon[j], polygon[j + 1] - polygon[j], height, width, mask);
      unite(mask);
      append_counts(mask, height * width, counts);
      offsets.push_back(counts.size());
    }
  }
  return as_runs(std::move(counts), std::move(offsets));
}

// The counts of masks [n, side, side] that are pasted at boxes [n, 4] into a picture, and where each mask's begin.
py::tuple paste_masks(const Array<float>& masks, const Array<float>& boxes, int64_t height, int64_t width) {
  const float *mask = masks.data(), *box = boxes.data();
  const int64_t num = masks.shape(0), side = masks.shape(1);
  std::vector<uint32_t> counts;
  std::vector<int64_t> offsets{0};
  {
    py::gil_scoped_release others_may_run;
    MaskPaster paster;
    Intervals pasted;
    for (int64_t i = 0; i < num; ++i) {
      pasted.clear();
      paster.append(mask + i * side * side, side, box + 4 * i, height, width, pasted);
      append_counts(pasted, height * width, counts);
      offsets.push_back(counts.size());
    }
  }
  return as_runs(std::move(counts), std::move(offsets));
}

// Which of the grouped detections are matched, and which ignored: uint16 [ranges, detections], a bit a threshold.
template <typename Shapes>
py::tuple match(const Shapes& found, const Shapes& truth, const Array<double>& thresholds, const Array<double>& ranges,
                const Array<int64_t>& detections, const Array<int64_t>& detection_offsets,
                const Array<int64_t>& truths, const Array<int64_t>& truth_offsets, const Array<double>& truth_areas,
                const Array<uint8_t>& crowd) {
  const Matching matching{thresholds.data(),        ranges.data(),
                          thresholds.size(),        ranges.shape(0),
                          detections.data(),        detection_offsets.data(),
                          truths.data(),            truth_offsets.data(),
                          truth_offsets.size() - 1, truth_areas.data(),
                          crowd.data()};
  Array<uint16_t> matched({ranges.shape(0), detections.shape(0)}), ignored({ranges.shape(0), detections.shape(0)});
  uint16_t *const matched_bits = matched.mutable_data(), *const ignored_bits = ignored.mutable_data();
  std::fill_n(matched_bits, matched.size(), uint16_t{0});
  std::fill_n(ignored_bits, ignored.size(), uint16_t{0});
  {
    py::gil_scoped_release others_may_run;
    matching.match(found, truth, matched_bits, ignored_bits);
  }
  return py::make_tuple(matched, ignored);
}

template <typename... Rest>
py::tuple match_boxes(const Array<double>& found, const Array<double>& truth, const Rest&... rest) {
  return match(Boxes(found.data()), Boxes(truth.data()), rest...);
}

using Runs = std::tuple<Array<uint32_t>, Array<int64_t>, Array<int64_t>>;  // counts, offsets, heights of the pictures

Masks masks_of(const Runs& runs) {
  const auto& [counts, offsets, heights] = runs;
  return Masks(counts.data(), offsets.data(), heights.data(), heights.size());
}

template <typename... Rest>
py::tuple match_masks(const Runs& found, const Runs& truth, const Rest&... rest) {
  return match(masks_of(found), masks_of(truth), rest...);
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
  module.def("draw_polygons", &draw_polygons, as_is("points"), as_is("polygon_offsets"), as_is("object_offsets"),
             as_is("sizes"));
  module.def("paste_masks", &paste_masks, as_is("masks"), as_is("boxes"), py::arg("height"), py::arg("width"));
  using F = Array<double>;
  using I = Array<int64_t>;
  module.def("match_boxes", &match_boxes<F, F, I, I, I, I, F, Array<uint8_t>>);
  module.def("match_masks", &match_masks<F, F, I, I, I, I, F, Array<uint8_t>>);
  module.def("parse_criteo", &parse_criteo, py::arg("text"), py::arg("begin"), as_is("rows"), py::arg("first"));
}

}  // namespace airank_fast::host
