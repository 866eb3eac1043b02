#pragma once

#include <cstdint>
#include <string>

#include "vlmzoo/json.hpp"
#include "vlmzoo/model_folder.hpp"
#include "vlmzoo/nn/layers.hpp"
#include "vlmzoo/preprocessing.hpp"

namespace vlmzoo::internvl {

/// InternViT. Source: OpenGVLab/InternVL, configuration_intern_vit.py; transformers, configuration_internvl.py.
struct VisionConfig {
  std::int64_t hidden_size = 0, layers = 0, heads = 0, intermediate_size = 0, image_size = 0, patch_size = 0;
  double norm_eps = 1e-6;
  bool qkv_bias = true, qk_norm = false, rms_norm = false;
  bool final_norm = false;  ///< the -hf layout without mean pooling
  Activation activation = Activation::kGelu;
};

/// Pixels -> tiles.
struct ImageConfig {
  std::int64_t tile_size = 448, min_tiles = 1, max_tiles = 12;
  bool thumbnail = true, clip_pipeline = false;
  PixelScale scale;
};

/// Text around a question.
struct PromptTemplate {
  std::string system;    ///< "" leaves the system turn out
  std::string turn_end;  ///< "<|im_end|>\n" or "<|im_end|>"
};

/// Names of one layout's tensors, where they differ.
struct TensorNames {
  std::string class_embedding, position_embedding, patch_embedding, layers, final_norm;
  std::string norm1, norm2, scale1, scale2, query_norm, key_norm, attention_output;
  std::vector<std::string> qkv;
  std::string connector_norm, connector_in, connector_out;
  std::string text, lm_head;  ///< "language_model.model." and "language_model.lm_head"
};

struct InternVlConfig {
  std::string architecture;
  VisionConfig vision;
  DecoderConfig text;
  ImageConfig image;
  PromptTemplate prompt;
  TensorNames names;
  Activation connector_activation = Activation::kGelu;
  std::int64_t downsample = 2;  ///< patches merged per side
  std::int64_t tokens_per_tile = 0;
  std::int64_t image_token_id = -1;  ///< what config.json says it is; -1: nothing

  /// Reads both layouts: the release (`InternVLChatModel`) and the -hf conversion (`InternVLForConditionalGeneration`).
  /// Errors: kConfig, kUnsupported naming the key, kMismatch when the folder holds another kind of model.
  static InternVlConfig read(const ModelFolder& folder, const ModelConfig& config);
};

}  // namespace vlmzoo::internvl
