#include <ATen/Context.h>
#include <fmt/format.h>

#include "vlmzoo/error.hpp"
#include "vlmzoo/log.hpp"
#include "vlmzoo/system.hpp"
#include "vlmzoo/weights.hpp"

namespace vlmzoo {
namespace {

/// The ranking of LibTorch's kernels turns over between processors (docs/precision.md has the measurements): bf16
/// products are the fastest with avx512_bf16 or AMX and eight times slower than fp32 without; there FBGEMM's 16-bit
/// weights win.
Precision automatic(const at::Device& device) {
  if (device.is_cuda()) return Precision::kBf16;
  const CpuFeatures& cpu = cpu_features();
  if (cpu.avx512_bf16 || cpu.amx_bf16) return Precision::kBf16;
  if (cpu.fbgemm()) return Precision::kFp16;
  return Precision::kFp32;
}

Precision resolve(Precision asked, bool int8, const at::Device& device, Role role) {
  const Precision chosen = int8 && asked == Precision::kAuto ? Precision::kInt8 : asked;
  if (chosen == Precision::kAuto) return automatic(device);
  if (chosen == Precision::kInt8 && device.is_cuda()) {
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("precision int8 of the {} works on the CPU only; on CUDA use bf16, fp16 or fp32", to_string(role)));
  }
  const bool packed = chosen == Precision::kInt8 || (chosen == Precision::kFp16 && device.is_cpu());
  if (packed && !cpu_features().fbgemm()) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("precision {} needs a processor with AVX2; use fp32 or bf16 here", to_string(chosen)));
  }
  if (chosen == Precision::kBf16 && device.is_cpu() && !cpu_features().avx512_bf16 && !cpu_features().amx_bf16) {
    warn_once(
        "precision bf16 is slow on this processor (no avx512_bf16, no AMX); fp16 has the same size and fp32's speed");
  }
  return chosen;
}

}  // namespace

at::Device resolve_device(const std::string& device) {
  if (device == "cpu" || (device == "auto" && !at::hasCUDA())) return at::kCPU;
  if (!at::hasCUDA()) {
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("model.device is '{}', but this LibTorch has no CUDA or no GPU is there; use cpu or auto", device));
  }
  return at::Device(device == "auto" ? "cuda" : device);
}

RolePrecision resolve_precision(const ModelConfig& config, const at::Device& device) {
  RolePrecision result;
  result.vision = resolve(config.precision.vision, false, device, Role::kVision);
  result.connector = resolve(config.precision.connector, config.use_8bit, device, Role::kConnector);
  result.language = resolve(config.precision.language, config.use_8bit, device, Role::kLanguage);
  return result;
}

RolePrecision training_precision(RolePrecision precision, const RoleSet& trained) {
  if (trained.vision) precision.vision = Precision::kFp32;
  if (trained.vision || trained.connector) precision.connector = Precision::kFp32;
  if (trained.any()) precision.language = Precision::kFp32;
  return precision;
}

}  // namespace vlmzoo
