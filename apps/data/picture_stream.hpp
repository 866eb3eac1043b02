#pragma once

#include <filesystem>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "data/ordered_stream.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/image.hpp"

namespace vlmzoo::app {

/// work(), with `name` in front of the message of what it throws, always an Error.
template <class Work>
auto naming(const std::string& name, const Work& work) {
  try {
    return work();
  } catch (const Error& error) {
    const std::string message = error.what();
    throw Error(error.code(), message.starts_with(name) ? message : name + ": " + message);
  } catch (const std::bad_alloc&) {
    throw Error(ErrorCode::kMemory, name + ": out of memory");
  } catch (const std::exception& error) {
    throw Error(ErrorCode::kInternal, name + ": " + error.what());
  }
}

/// Decodes the files on background threads and gives make(image, index) of each, run on those threads: resizing,
/// augmentation, tiling. next() throws load_image()'s errors, and what `make` throws, as an Error that names the file.
/// For batches, let the stream run at least two of them ahead.
template <class T>
OrderedStream<T> stream_pictures(std::vector<std::filesystem::path> files,
                                 std::function<T(Image, std::int64_t index)> make, StreamOptions options = {}) {
  const auto count = static_cast<std::int64_t>(files.size());
  return OrderedStream<T>(
      count,
      [files = std::move(files), make = std::move(make)](std::int64_t index) {
        const std::filesystem::path& file = files[static_cast<std::size_t>(index)];
        return naming(file.string(), [&] { return make(load_image(file), index); });
      },
      options);
}

/// The pictures themselves, resized with Pillow's bicubic filter to size x size; 0 leaves them as they are.
OrderedStream<Image> stream_pictures(std::vector<std::filesystem::path> files, std::int64_t size = 0,
                                     StreamOptions options = {});

}  // namespace vlmzoo::app
