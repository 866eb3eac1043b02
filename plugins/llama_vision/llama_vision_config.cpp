#include "llama_vision_config.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>

#include "vlmzoo/error.hpp"

namespace vlmzoo::llama_vision {
namespace {

// transformers, configuration_mllama.py: what save_pretrained leaves out.
constexpr const char* kVisionDefaults = R"json({
  "hidden_size": 1280, "hidden_act": "gelu", "num_hidden_layers": 32, "num_global_layers": 8, "num_channels": 3,
  "intermediate_size": 5120, "image_size": 448, "patch_size": 14, "norm_eps": 1e-5, "max_num_tiles": 4,
  "intermediate_layers_indices": [3, 7, 15, 23, 30]})json";
constexpr const char* kTextDefaults = R"json({
  "vocab_size": 128256, "hidden_size": 4096, "hidden_act": "silu", "num_hidden_layers": 40, "num_attention_heads": 32,
  "num_key_value_heads": 8, "intermediate_size": 14336, "rope_theta": 500000.0, "rms_norm_eps": 1e-5,
  "max_position_embeddings": 131072, "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38]})json";

[[noreturn]] void unsupported(const std::string& where, const std::string& got, const std::string& supported) {
  throw Error(ErrorCode::kUnsupported, fmt::format("{} is {}; supported: {}", where, got, supported));
}

[[noreturn]] void wrong(const std::string& message) { throw Error(ErrorCode::kConfig, message); }

/// `given` over `defaults`; null counts as left out.
Json complete(const char* defaults, const Json& given) {
  Json result = Json::parse(defaults);
  for (const auto& [key, value] : given.items()) {
    if (!value.is_null()) result[key] = value;
  }
  return result;
}

/// Places of layers, each below `layers`, in ascending order.
std::vector<std::int64_t> layer_list(const JsonView& view, const std::string& key, std::int64_t layers) {
  const Json& list = view.json().at(key);
  std::vector<std::int64_t> result;
  bool fits = list.is_array() && !list.empty();
  for (std::size_t i = 0; fits && i < list.size(); ++i) {
    fits = list[i].is_number_unsigned() && list[i].get<std::uint64_t>() < static_cast<std::uint64_t>(layers);
    if (fits) result.push_back(list[i].get<std::int64_t>());
    fits = fits && (i == 0 || result[i] > result[i - 1]);
  }
  if (!fits)
    wrong(fmt::format("{} must be a list of layers from 0 to {} in ascending order", view.at(key), layers - 1));
  return result;
}

/// The ids of a checkpoint's tile embeddings follow its list of grids; the image processor numbers them by itself.
void check_grids(const JsonView& view, std::int64_t max_tiles) {
  if (!view.has("supported_aspect_ratios")) return;
  Json expected = Json::array();
  for (const Grid& grid : supported_grids(max_tiles)) expected.push_back({grid.rows, grid.columns});
  const Json& given = view.json().at("supported_aspect_ratios");
  if (given == expected) return;
  std::string text = given.dump();
  if (text.size() > 200) text = text.substr(0, 200) + "…";
  unsupported(view.at("supported_aspect_ratios"), text,
              fmt::format("every grid of at most max_num_tiles tiles, {}", expected.dump()));
}

VisionConfig read_vision(const JsonView& view) {
  VisionConfig vision;
  vision.hidden_size = view.integer("hidden_size", 1, 1 << 16);
  vision.layers = view.integer("num_hidden_layers", 1, 1024);
  vision.global_layers = view.integer("num_global_layers", 0, 1024);
  const char* heads = view.has("attention_heads") ? "attention_heads" : "num_attention_heads";
  vision.heads = view.integer_or(heads, 1, 4096, 16);
  vision.intermediate_size = view.integer("intermediate_size", 1, 1 << 18);
  vision.image_size = square_side(view, "image_size", 1 << 14);
  vision.patch_size = square_side(view, "patch_size", 1 << 12);
  vision.max_tiles = view.integer("max_num_tiles", 1, 64);
  vision.norm_eps = view.number("norm_eps");
  vision.activation = parse_activation(view.text("hidden_act"), view.at("hidden_act"));
  vision.intermediate_layers = layer_list(view, "intermediate_layers_indices", vision.layers);
  if (const auto channels = view.integer("num_channels", 1, 1024); channels != 3)
    unsupported(view.at("num_channels"), std::to_string(channels), "3");
  check_grids(view, vision.max_tiles);
  if (vision.hidden_size % vision.heads != 0) {
    wrong(fmt::format("{} is {}, which does not divide hidden_size {}", view.at(heads), vision.heads,
                      vision.hidden_size));
  }
  if (vision.image_size % vision.patch_size != 0) {
    wrong(fmt::format("{} is {}, which does not divide image_size {}", view.at("patch_size"), vision.patch_size,
                      vision.image_size));
  }
  const std::int64_t output = vision.output_size();
  if (const auto given = view.integer_or("vision_output_dim", 1, 1 << 24, output); given != output) {
    wrong(fmt::format("{} is {}; the final state and {} intermediate ones of {} make {}", view.at("vision_output_dim"),
                      given, vision.intermediate_layers.size(), vision.hidden_size, output));
  }
  return vision;
}

/// "MllamaForConditionalGeneration", or "" when the file names none.
std::string architecture_of(const Json& config) {
  const auto found = config.find("architectures");
  const bool named = found != config.end() && found->is_array() && !found->empty() && (*found)[0].is_string();
  return named ? (*found)[0].get<std::string>() : "";
}

void check_kind(const ModelFolder& folder, const JsonView& view) {
  const std::string type = view.text_or("model_type", "(none)"), architecture = architecture_of(view.json());
  const std::string kind = fmt::format("{}model_type '{}'", architecture.empty() ? "" : architecture + ", ", type);
  if (!view.has("vision_config") && view.has("vocab_size")) {
    throw Error(ErrorCode::kMismatch,
                fmt::format("{} holds a text-only model ({}); a Llama-3.2-Vision checkpoint (mllama) has a "
                            "vision_config too; take the one whose name ends with -Vision or -Vision-Instruct",
                            folder.path().string(), kind));
  }
  if (type != "mllama") {
    throw Error(ErrorCode::kMismatch,
                fmt::format("{} holds another kind of model ({}), not a Llama-3.2-Vision one (mllama); set "
                            "model.model_type to the adapter for it",
                            folder.path().string(), kind));
  }
  if (view.has("quantization_config")) {
    unsupported(view.at("quantization_config"), "set, so its weights are quantized",
                "weights in fp32, bf16 or fp16; model.use_8bit quantizes while loading");
  }
}

ImageConfig read_image(const ModelFolder& folder, const VisionConfig& vision, const ModelConfig& config) {
  const Json json = folder.image_processor();
  const JsonView view(json, (folder.path() / "preprocessor_config.json").string());
  ImageConfig image;
  image.tile_size = vision.image_size;
  image.max_tiles = view.integer_or("max_image_tiles", 1, 64, vision.max_tiles);
  image.scale = PixelScale::read(json, kClipScale, "preprocessor_config.json");
  if (view.has("size")) {
    const JsonView size = view.child("size");
    for (const char* side : {"height", "width"}) {
      if (const auto given = size.integer(side, 1, 1 << 14); given != image.tile_size) {
        wrong(
            fmt::format("{} is {}, but config.json says vision_config.image_size {}; the files are of different "
                        "models",
                        size.at(side), given, image.tile_size));
      }
    }
  }
  if (image.max_tiles != vision.max_tiles) {
    wrong(
        fmt::format("{} is {}, but config.json says vision_config.max_num_tiles {}; the files are of different models",
                    view.at("max_image_tiles"), image.max_tiles, vision.max_tiles));
  }
  if (const auto filter = view.integer_or("resample", 0, 5, 2); filter != 2)
    unsupported(view.at("resample"), std::to_string(filter), "2 (bilinear)");
  if (config.max_tiles) {
    if (*config.max_tiles > vision.max_tiles) {
      wrong(fmt::format("model.max_tiles is {}; this checkpoint has embeddings for {} tiles at most", *config.max_tiles,
                        vision.max_tiles));
    }
    image.max_tiles = *config.max_tiles;
  }
  if (wants_clip_pipeline(config, image.tile_size)) {
    image.clip_pipeline = true;
    image.max_tiles = 1;
    image.scale = kClipScale;
  }
  return image;
}

/// Templates are looked for, not interpreted: only Instruct checkpoints carry one.
bool has_chat_template(const ModelFolder& folder) {
  for (const char* name : {"chat_template.json", "chat_template.jinja"}) {
    if (std::filesystem::exists(folder.path() / name)) return true;
  }
  const Json tokenizer = folder.optional_json("tokenizer_config.json");
  const auto found = tokenizer.find("chat_template");
  return found != tokenizer.end() && !found->is_null();
}

TensorNames tensor_names(const Checkpoint* checkpoint) {
  const bool nested = checkpoint != nullptr && checkpoint->find("model.vision_model.class_embedding") != nullptr;
  if (nested) return {"model.vision_model.", "model.multi_modal_projector", "model.language_model.", "lm_head"};
  return {"vision_model.", "multi_modal_projector", "language_model.model.", "language_model.lm_head"};
}

}  // namespace

std::vector<Grid> supported_grids(std::int64_t max_tiles) {
  std::vector<Grid> grids;
  for (std::int64_t rows = 1; rows <= max_tiles; ++rows) {
    for (std::int64_t columns = 1; rows * columns <= max_tiles; ++columns) grids.push_back({rows, columns});
  }
  return grids;
}

LlamaVisionConfig LlamaVisionConfig::read(const ModelFolder& folder, const ModelConfig& config) {
  const JsonView view = folder.config();
  check_kind(folder, view);
  const std::string where = (folder.path() / "config.json").string();
  LlamaVisionConfig result;
  result.architecture = "MllamaForConditionalGeneration";
  const Json vision_json = complete(kVisionDefaults, view.child("vision_config").json());
  result.vision = read_vision(JsonView(vision_json, where, "vision_config"));
  const Json text_json = complete(kTextDefaults, view.child("text_config").json());
  const JsonView text(text_json, where, "text_config");
  result.text = DecoderConfig::parse(text, /*qkv_bias=*/false);
  // The embedding has rows that lm_head lacks.
  if (result.text.tie_word_embeddings) unsupported(text.at("tie_word_embeddings"), "true", "false");
  result.cross_attention_layers = layer_list(text, "cross_attention_layers", result.text.layers);
  const char* image_token = view.has("image_token_index") ? "image_token_index" : "image_token_id";
  result.image_token_id = view.integer_or(image_token, 0, 1 << 22, 128256);
  result.image = read_image(folder, result.vision, config);
  result.instruct = has_chat_template(folder);
  result.system = config.system_prompt.value_or("");
  if (!result.instruct && !result.system.empty()) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("model.system_prompt is set, but {} holds a base model: it has no chat template "
                            "(tokenizer_config.json, chat_template.json or chat_template.jinja) and so no place for "
                            "one; remove the key, or put its text into the prompt",
                            folder.path().string()));
  }
  result.names = tensor_names(folder.checkpoint());
  return result;
}

}  // namespace vlmzoo::llama_vision
