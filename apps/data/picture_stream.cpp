#include "data/picture_stream.hpp"

#include <utility>

namespace vlmzoo::app {

OrderedStream<Image> stream_pictures(std::vector<std::filesystem::path> files, std::int64_t size,
                                     StreamOptions options) {
  const auto make = [size](Image image, std::int64_t) {
    return size == 0 ? std::move(image) : resize(image, size, size, Resample::kBicubic);
  };
  return stream_pictures<Image>(std::move(files), make, options);
}

}  // namespace vlmzoo::app
