#include "training/feature_table.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <fmt/format.h>

#include <cstring>
#include <optional>
#include <span>
#include <string_view>

#include "data/picture_stream.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/progress.hpp"
#include "vlmzoo/run_head.hpp"

namespace vlmzoo::app {
namespace {

/// A picture on its way to its features. Of one that the cache has, the pixels aren't decoded.
struct Waiting {
  RecordKey key{};
  std::optional<std::string> record;
  Image image;
  std::string problem;
  ErrorCode code = ErrorCode::kInternal;
};

RecordKey key_of(const std::filesystem::path& picture, const std::string& pooling) {
  const std::string parts[] = {"pooled features", pooling, picture_hash(picture)};
  return record_key(parts);
}

Waiting prepare(const Sample& sample, const std::string& pooling, const RecordStore* cache) {
  Waiting waiting;
  try {
    if (cache != nullptr) {
      waiting.key = key_of(sample.image, pooling);
      waiting.record = cache->get(waiting.key);
    }
    if (!waiting.record) waiting.image = naming(sample.image.string(), [&] { return load_image(sample.image); });
  } catch (const Error& error) {
    waiting.problem = error.what();
    waiting.code = error.code();
  }
  return waiting;
}

at::Tensor compute(const Model& model, const Head& head, const Image& image) {
  const at::NoGradGuard no_graph;
  return pooled_features(model, head, head_inputs(model, head, {&image, 1}))[0].cpu().contiguous();
}

at::Tensor parse(const std::string& record) {
  const at::Tensor features = at::empty({static_cast<std::int64_t>(record.size() / sizeof(float))}, at::kFloat);
  std::memcpy(features.mutable_data_ptr<float>(), record.data(), features.nbytes());
  return features;
}

}  // namespace

FeatureTable make_feature_table(const Dataset& data, const Head& head, RecordStore* cache,
                                const std::function<const Model&()>& model, bool skip_bad) {
  FeatureTable table;
  std::vector<at::Tensor> rows;
  const std::int64_t count = std::ssize(data.samples);
  Progress progress("features", static_cast<std::uint64_t>(count), "pictures");
  const std::string pooling = head.pooled_name();
  OrderedStream<Waiting> stream(count, [&](std::int64_t index) {
    return prepare(data.samples[static_cast<std::size_t>(index)], pooling, cache);
  });
  for (std::int64_t index = 0; auto waiting = stream.next(); ++index, progress.advance(1)) {
    if (!waiting->problem.empty()) {
      if (!skip_bad || waiting->code == ErrorCode::kInterrupted) throw Error(waiting->code, waiting->problem);
      table.skipped.push_back(waiting->problem);
      continue;
    }
    table.samples.push_back(index);
    if (waiting->record) {
      rows.push_back(parse(*waiting->record));
      continue;
    }
    rows.push_back(compute(model(), head, waiting->image));
    ++table.computed;
    if (cache != nullptr) {
      cache->put(waiting->key,
                 {reinterpret_cast<const char*>(rows.back().const_data_ptr<float>()), rows.back().nbytes()});
    }
  }
  if (rows.empty()) throw Error(ErrorCode::kMismatch, "no picture could be read");
  table.pooled = at::stack(rows);
  return table;
}

}  // namespace vlmzoo::app
