#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace vlmzoo {

using Columns = std::vector<std::int64_t>;  ///< of a matrix, ascending

/// int8 weights [out, in] with a scale per output, in the order of one processor's product, and that product. Filled
/// once, then immutable.
class Int8Product {
 public:
  Int8Product(std::int64_t in, std::int64_t out) : in_(in), out_(out) {}
  virtual ~Int8Product() = default;
  Int8Product(const Int8Product&) = delete;
  Int8Product& operator=(const Int8Product&) = delete;

  std::int64_t in_features() const { return in_; }
  std::int64_t out_features() const { return out_; }

  /// Output n: int8 [in]; its weights are these times `scale`. Several outputs at once are fine.
  virtual void put(std::int64_t n, const std::int8_t* row, float scale) = 0;
  /// Weights of one input, fp32, of the outputs [begin, end).
  virtual void column(std::int64_t k, std::int64_t begin, std::int64_t end, float* to) const = 0;
  /// y [M, out] = x Wᵀ + bias, x [M, in] and y fp32 contiguous, bias [out] or null. Outliers of x count as zeros;
  /// returns which they are, for each row.
  virtual std::vector<Columns> multiply(const at::Tensor& x, const float* bias, at::Tensor& y) const = 0;
  virtual std::uint64_t bytes() const = 0;
  virtual const char* name() const = 0;

 private:
  std::int64_t in_, out_;
};

/// FBGEMM's, with 8-bit activations (two sets of them for few rows): for processors with VNNI.
std::shared_ptr<Int8Product> make_fbgemm_product(std::int64_t in, std::int64_t out);
/// Our own with 16-bit activations, for AVX2: there FBGEMM's saturates.
std::shared_ptr<Int8Product> make_avx2_product(std::int64_t in, std::int64_t out);

struct Magnitude {
  float largest = 0, mean = 0;
};
// These need AVX2.
Magnitude magnitude(const float* x, std::int64_t count);
/// round(x · factor) + zero of each number, which must fit into a byte.
void quantize_to_bytes(const float* x, std::int64_t count, float factor, int zero, std::uint8_t* to);

/// A token's activations as they are quantised.
struct Inliers {
  const float* row;  ///< the token's own, or the buffer
  float largest;     ///< magnitude, above 0
  bool finite;       ///< else quantised numbers would hide a NaN or an infinity
};
/// Adds the columns of outliers to `outliers` and zeroes them in a copy, in `buffer`.
Inliers split_outliers(const float* row, std::int64_t in, std::vector<float>& buffer, Columns& outliers);

}  // namespace vlmzoo
