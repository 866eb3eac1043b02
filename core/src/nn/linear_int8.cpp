// int8 weights made trustworthy: a scale per output channel and per token, and outliers of the activations kept out of
// the int8 product (Dettmers et al., "LLM.int8()", 2022).
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "int8_product.hpp"
#include "linear_kernel.hpp"
#include "vlmzoo/system.hpp"

#if defined(__x86_64__)
#include <fbgemm/Utils.h>
#endif

namespace vlmzoo {

#if defined(__x86_64__)
namespace {

constexpr std::int64_t kElements = 65536;  // work that is worth a thread
constexpr std::int64_t kTogether = 32;     // outputs that a thread packs: they may share cache lines
constexpr std::int64_t kColumns = 256;     // of outliers that are widened to fp32 at once
constexpr float kSteps = 127;              // of weights, either way from 0

bool fbgemm_has_vnni() {
  static const fbgemm::inst_set_t kernels = fbgemm::fbgemmInstructionSet();
  return kernels == fbgemm::inst_set_t::avx512_vnni || kernels == fbgemm::inst_set_t::avx512_vnni_ymm;
}

class Int8Kernel final : public Linear::Kernel {
 public:
  using Kernel::run;

  Int8Kernel(std::shared_ptr<const Int8Product> product, at::Tensor bias)
      : Kernel(product->in_features(), product->out_features()), product_(std::move(product)), bias_(std::move(bias)) {}

  at::Tensor run(const at::Tensor& x) const override {
    const at::Tensor wide = x.to(at::kFloat);
    at::Tensor y = at::empty({x.size(0), out_features()}, wide.options());
    if (x.size(0) == 0) return y.to(x.scalar_type());
    const float* bias = bias_.defined() ? bias_.const_data_ptr<float>() : nullptr;
    add_outliers(wide, product_->multiply(wide, bias, y), y);
    return y.to(x.scalar_type());
  }
  std::uint64_t bytes() const override { return product_->bytes() + (bias_.defined() ? bias_.nbytes() : 0); }
  const char* name() const override { return product_->name(); }

 private:
  static void pick(const at::Tensor& x, const std::vector<Columns>& outliers, const Columns& inputs,
                   at::Tensor& picked) {
    for (std::size_t m = 0; m < outliers.size(); ++m) {
      const float* row = x.const_data_ptr<float>() + static_cast<std::int64_t>(m) * x.size(1);
      float* to = picked.mutable_data_ptr<float>() + static_cast<std::int64_t>(m) * picked.size(1);
      for (const std::int64_t k : outliers[m])
        to[std::lower_bound(inputs.begin(), inputs.end(), k) - inputs.begin()] = row[k];
    }
  }

  void add_outliers(const at::Tensor& x, const std::vector<Columns>& outliers, at::Tensor& y) const {
    Columns inputs;
    for (const Columns& row : outliers) inputs.insert(inputs.end(), row.begin(), row.end());
    if (inputs.empty()) return;
    std::sort(inputs.begin(), inputs.end());
    inputs.erase(std::unique(inputs.begin(), inputs.end()), inputs.end());
    const auto count = static_cast<std::int64_t>(inputs.size()), out = out_features();
    at::Tensor picked = at::zeros({x.size(0), count}, at::kFloat);
    pick(x, outliers, inputs, picked);
    at::Tensor weights = at::empty({std::min(count, kColumns), out}, at::kFloat);
    float* to = weights.mutable_data_ptr<float>();
    for (std::int64_t first = 0; first < count; first += kColumns) {
      const std::int64_t columns = std::min(kColumns, count - first);
      const std::int64_t grain = std::max<std::int64_t>(1, kElements / columns);
      at::parallel_for(0, out, grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = 0; i < columns; ++i)
          product_->column(inputs[static_cast<std::size_t>(first + i)], begin, end, to + i * out + begin);
      });
      y.addmm_(picked.narrow(1, first, columns), weights.narrow(0, 0, columns));
    }
  }

  std::shared_ptr<const Int8Product> product_;
  at::Tensor bias_;
};

class Int8Packer final : public RowPacker {
 public:
  Int8Packer(std::int64_t in, std::int64_t out)
      : product_(fbgemm_has_vnni() ? make_fbgemm_product(in, out) : make_avx2_product(in, out)) {}

  bool add(std::int64_t first, const at::Tensor& rows) override {
    const float* values = rows.const_data_ptr<float>();
    const std::int64_t in = product_->in_features(), grain = std::max<std::int64_t>(kTogether, kElements / in);
    at::parallel_for(0, rows.size(0), grain, [&](std::int64_t begin, std::int64_t end) {
      std::vector<std::int8_t> row(static_cast<std::size_t>(in));
      for (std::int64_t n = begin; n < end; ++n) put(first + n, values + n * in, row);
    });
    return true;
  }
  std::shared_ptr<const Linear::Kernel> finish(const at::Tensor& bias) override {
    return std::make_shared<Int8Kernel>(product_, bias);
  }

 private:
  /// One row of the matrix, fp32 [in], symmetric. `row` is a buffer.
  void put(std::int64_t n, const float* weights, std::vector<std::int8_t>& row) {
    const auto in = static_cast<std::int64_t>(row.size());
    const Magnitude size = magnitude(weights, in);
    if (!std::isfinite(size.mean)) {  // bytes hide it
      std::fill(row.begin(), row.end(), std::int8_t{0});
      return product_->put(n, row.data(), std::numeric_limits<float>::quiet_NaN());
    }
    const float largest = std::max(size.largest, 1e-30F);
    quantize_to_bytes(weights, in, kSteps / largest, /*zero=*/0, reinterpret_cast<std::uint8_t*>(row.data()));
    product_->put(n, row.data(), largest / kSteps);
  }

  std::shared_ptr<Int8Product> product_;
};

}  // namespace

std::unique_ptr<RowPacker> make_int8_packer(std::int64_t in, std::int64_t out) {
  // FBGEMM counts the elements of a packed matrix, which is a little larger, in 32 bits.
  const bool countable = in <= std::numeric_limits<std::int32_t>::max() / (out + 1024);
  return cpu_features().fbgemm() && (countable || !fbgemm_has_vnni()) ? std::make_unique<Int8Packer>(in, out) : nullptr;
}
#else
std::unique_ptr<RowPacker> make_int8_packer(std::int64_t, std::int64_t) { return nullptr; }
#endif

}  // namespace vlmzoo
