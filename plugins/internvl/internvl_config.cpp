#include "internvl_config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

#include "vlmzoo/error.hpp"

namespace vlmzoo::internvl {
namespace {

constexpr PixelScale kImageNetScale = {{0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}};

// OpenGVLab/InternVL, internvl/conversation.py.
constexpr const char* kSystem2_5 =
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。";
constexpr const char* kSystemHermes =
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。";

[[noreturn]] void unsupported(const std::string& where, const std::string& got, const std::string& supported) {
  throw Error(ErrorCode::kUnsupported, fmt::format("{} is {}; supported: {}", where, got, supported));
}

VisionConfig read_vision(const JsonView& view, bool hf) {
  VisionConfig vision;
  vision.hidden_size = view.integer("hidden_size", 1, 1 << 16);
  vision.layers = view.integer("num_hidden_layers", 1, 1024);
  vision.heads = view.integer("num_attention_heads", 1, 4096);
  vision.intermediate_size = view.integer("intermediate_size", 1, 1 << 18);
  vision.image_size = square_side(view, "image_size", 1 << 14);
  vision.patch_size = square_side(view, "patch_size", 1 << 12);
  vision.norm_eps = view.number_or("layer_norm_eps", 1e-6);
  vision.qkv_bias = view.boolean_or(hf ? "attention_bias" : "qkv_bias", false);
  vision.qk_norm = view.boolean_or(hf ? "use_qk_norm" : "qk_normalization", !hf);
  const std::string norm = view.text_or("norm_type", hf ? "layer_norm" : "rms_norm");
  if (norm != "layer_norm" && norm != "rms_norm")
    unsupported(view.at("norm_type"), "'" + norm + "'", "layer_norm, rms_norm");
  vision.rms_norm = norm == "rms_norm";
  vision.final_norm = hf && !view.boolean_or("use_mean_pooling", true);
  vision.activation = parse_activation(view.text_or("hidden_act", "gelu"), view.at("hidden_act"));
  if (vision.hidden_size % vision.heads != 0) {
    throw Error(ErrorCode::kConfig, fmt::format("{} is {}, which does not divide hidden_size {}",
                                                view.at("num_attention_heads"), vision.heads, vision.hidden_size));
  }
  return vision;
}

DecoderConfig read_text(const JsonView& view) {
  const std::string type = view.text_or("model_type", "");
  const bool named = view.has("architectures") && view.json().at("architectures").is_array() &&
                     !view.json().at("architectures").empty();
  const std::string architecture = named ? view.json().at("architectures")[0].dump() : "";
  if (type != "qwen2" && architecture != "\"Qwen2ForCausalLM\"") {
    unsupported(view.at("model_type"), fmt::format("'{}'", type.empty() ? architecture : type),
                "qwen2 (InternVL2.5-1B's language model)");
  }
  if (view.boolean_or("use_sliding_window", false)) unsupported(view.at("use_sliding_window"), "true", "false");
  return DecoderConfig::parse(view, /*qkv_bias=*/true);
}

PromptTemplate read_template(const JsonView& view, bool hf) {
  const std::string name = hf ? "internvl2_5" : view.text_or("template", "internvl2_5");
  if (name == "internvl2_5") return {view.text_or("system_message", kSystem2_5), "<|im_end|>\n"};
  if (name == "Hermes-2") return {view.text_or("system_message", kSystemHermes), "<|im_end|>"};
  unsupported(view.at("template"), "'" + name + "'", "internvl2_5, Hermes-2");
}

TensorNames release_names() {
  const std::string vision = "vision_model.";
  return {.class_embedding = vision + "embeddings.class_embedding",
          .position_embedding = vision + "embeddings.position_embedding",
          .patch_embedding = vision + "embeddings.patch_embedding",
          .layers = vision + "encoder.layers.",
          .final_norm = "",
          .norm1 = "norm1",
          .norm2 = "norm2",
          .scale1 = "ls1",
          .scale2 = "ls2",
          .query_norm = "attn.q_norm",
          .key_norm = "attn.k_norm",
          .attention_output = "attn.proj",
          .qkv = {"attn.qkv"},
          .connector_norm = "mlp1.0",
          .connector_in = "mlp1.1",
          .connector_out = "mlp1.3",
          .text = "language_model.model.",
          .lm_head = "language_model.lm_head"};
}

/// Released -hf folders say `vision_tower.…` and `language_model.model.…`; transformers ≥ 4.52 may write them as
/// `model.vision_tower.…`, `model.language_model.…` and `lm_head`.
TensorNames hf_names(const Checkpoint* checkpoint) {
  const bool nested = checkpoint != nullptr && checkpoint->find("model.vision_tower.embeddings.cls_token") != nullptr;
  const std::string root = nested ? "model." : "", vision = root + "vision_tower.",
                    connector = root + "multi_modal_projector.";
  return {.class_embedding = vision + "embeddings.cls_token",
          .position_embedding = vision + "embeddings.position_embeddings",
          .patch_embedding = vision + "embeddings.patch_embeddings.projection",
          .layers = vision + "encoder.layer.",
          .final_norm = vision + "layernorm",
          .norm1 = "layernorm_before",
          .norm2 = "layernorm_after",
          .scale1 = "lambda_1",
          .scale2 = "lambda_2",
          .query_norm = "attention.q_norm",
          .key_norm = "attention.k_norm",
          .attention_output = "attention.projection_layer",
          .qkv = {"attention.q_proj", "attention.k_proj", "attention.v_proj"},
          .connector_norm = connector + "layer_norm",
          .connector_in = connector + "linear_1",
          .connector_out = connector + "linear_2",
          .text = nested ? "model.language_model." : "language_model.model.",
          .lm_head = nested ? "lm_head" : "language_model.lm_head"};
}

/// True when both tensors hold the same bytes. transformers 5 ties what is equal and keeps an lm_head that differs.
bool same_tensor(const Checkpoint& checkpoint, const std::string& a, const std::string& b) {
  const TensorEntry *first = checkpoint.find(a), *second = checkpoint.find(b);
  if (first == nullptr || second == nullptr || first->dtype != second->dtype || first->shape != second->shape)
    return false;
  constexpr std::uint64_t kPiece = 1 << 22;
  std::vector<std::byte> left(kPiece), right(kPiece);
  for (std::uint64_t offset = 0; offset < first->bytes(); offset += kPiece) {
    const auto size = static_cast<std::size_t>(std::min(kPiece, first->bytes() - offset));
    checkpoint.read(a, offset, std::span(left).first(size));
    checkpoint.read(b, offset, std::span(right).first(size));
    if (!std::equal(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(size), right.begin())) return false;
  }
  return true;
}

void read_release(InternVlConfig& result, const ModelFolder& folder) {
  const JsonView view = folder.config();
  result.vision = read_vision(view.child("vision_config"), /*hf=*/false);
  result.text = read_text(view.child("llm_config"));
  result.names = release_names();
  if (const auto version = view.text_or("ps_version", "v1"); version != "v2")
    unsupported(view.at("ps_version"), "'" + version + "'", "v2");
  if (const auto layer = view.integer_or("select_layer", -1024, 1024, -1); layer != -1)
    unsupported(view.at("select_layer"), std::to_string(layer), "-1");
  ImageConfig& image = result.image;
  image.tile_size = view.integer_or("force_image_size", 1, 1 << 14, result.vision.image_size);
  image.min_tiles = view.integer_or("min_dynamic_patch", 1, 64, 1);
  image.max_tiles = view.boolean_or("dynamic_image_size", true) ? view.integer_or("max_dynamic_patch", 1, 64, 6) : 1;
  image.thumbnail = view.boolean_or("use_thumbnail", false);
}

void read_hf(InternVlConfig& result, const ModelFolder& folder, const JsonView& processor) {
  const JsonView view = folder.config();
  result.vision = read_vision(view.child("vision_config"), /*hf=*/true);
  result.text = read_text(view.child("text_config"));
  result.names = hf_names(folder.checkpoint());
  // Since transformers 5 the outer key decides; older folders have it in text_config only.
  result.text.tie_word_embeddings = view.boolean_or("tie_word_embeddings", result.text.tie_word_embeddings);
  const Checkpoint* checkpoint = folder.checkpoint();
  if (result.text.tie_word_embeddings && checkpoint != nullptr &&
      checkpoint->find(result.names.lm_head + ".weight") != nullptr) {
    result.text.tie_word_embeddings =
        same_tensor(*checkpoint, result.names.text + "embed_tokens.weight", result.names.lm_head + ".weight");
  }
  result.connector_activation =
      parse_activation(view.text_or("projector_hidden_act", "gelu"), view.at("projector_hidden_act"));
  if (const auto layer = view.integer_or("vision_feature_layer", -1024, 1024, -1); layer != -1)
    unsupported(view.at("vision_feature_layer"), std::to_string(layer), "-1");
  result.image_token_id = view.integer_or("image_token_id", 0, 1 << 22, -1);
  ImageConfig& image = result.image;
  image.tile_size =
      processor.has("size") ? processor.child("size").integer("height", 1, 1 << 14) : result.vision.image_size;
  image.min_tiles = processor.integer_or("min_patches", 1, 64, 1);
  image.max_tiles = processor.integer_or("max_patches", 1, 64, 12);
}

void apply_pipeline(ImageConfig& image, const ModelConfig& config) {
  if (config.max_tiles) image.max_tiles = *config.max_tiles;
  image.min_tiles = std::min(image.min_tiles, image.max_tiles);
  if (!wants_clip_pipeline(config, image.tile_size)) return;
  image.clip_pipeline = true;
  image.max_tiles = 1;
  image.scale = kClipScale;
}

void check_grid(const InternVlConfig& config, const JsonView& view) {
  const std::int64_t tile = config.image.tile_size, patch = config.vision.patch_size;
  if (tile % patch != 0 || tile / patch % config.downsample != 0) {
    throw Error(ErrorCode::kConfig, fmt::format("{}: tiles of {} pixels do not divide into patches of {}, {} to a side",
                                                view.at("vision_config"), tile, patch, config.downsample));
  }
}

}  // namespace

InternVlConfig InternVlConfig::read(const ModelFolder& folder, const ModelConfig& config) {
  const JsonView view = folder.config();
  const std::string type = view.text_or("model_type", "(none)");
  if (type != "internvl" && type != "internvl_chat") {
    throw Error(
        ErrorCode::kMismatch,
        fmt::format(
            "{} holds a model of type '{}', not an InternVL one (internvl, internvl_chat); set model.model_type "
            "to the adapter for it",
            folder.path().string(), type));
  }
  const bool hf = view.has("text_config") && !view.has("llm_config");
  InternVlConfig result;
  result.architecture = hf ? "InternVLForConditionalGeneration" : "InternVLChatModel";
  const Json processor_json = folder.image_processor();
  const JsonView processor(processor_json, (folder.path() / "preprocessor_config.json").string());
  if (hf) {
    read_hf(result, folder, processor);
  } else {
    read_release(result, folder);
  }
  const double ratio = view.number_or("downsample_ratio", 0.5);
  if (ratio <= 0 || ratio > 1 || std::abs(1 / ratio - std::round(1 / ratio)) > 1e-9)
    unsupported(view.at("downsample_ratio"), std::to_string(ratio), "1/n");
  result.downsample = std::lround(1 / ratio);
  result.image.scale = PixelScale::read(processor_json, kImageNetScale, "preprocessor_config.json");
  result.prompt = read_template(view, hf);
  if (config.system_prompt) result.prompt.system = *config.system_prompt;
  apply_pipeline(result.image, config);
  check_grid(result, view);
  const std::int64_t side = result.image.tile_size / result.vision.patch_size / result.downsample;
  result.tokens_per_tile = side * side;
  return result;
}

}  // namespace vlmzoo::internvl
