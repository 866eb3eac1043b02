#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <span>
#include <utility>

#include "commands.hpp"
#include "explain/drawing.hpp"
#include "explain/view.hpp"
#include "output.hpp"
#include "pictures.hpp"
#include "session.hpp"
#include "table.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/interrupt.hpp"
#include "zoo/zoo.hpp"

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;

struct ExplainOptions {
  std::vector<std::string> images;
  std::string baseline, candidate, prompt = "Describe the picture.", output;
  bool json = false;
  ModelOptions model;
  HostOptions host;

  void add_to(Options& options);
};

/// A model that looks at the pictures.
struct Viewer {
  std::string name;
  ModelInfo info;
  std::vector<PictureView> views;  ///< one per picture
};

void ExplainOptions::add_to(Options& options) {
  options.add()("image", po::value(&images)->value_name("FILE|FOLDER"), "picture or folder (repeatable)")(
      "baseline", po::value(&baseline)->value_name("FILE|NAME"),
      "configuration, or with --zoo the name of a model there")(
      "candidate", po::value(&candidate)->value_name("FILE|NAME"), "a second one, to look at beside")(
      "prompt", po::value(&prompt)->value_name("TEXT"), "question whose tokens are counted")(
      "output", po::value(&output)->value_name("FILE"), "PNG of what the models see")("json", po::bool_switch(&json),
                                                                                      "print JSON");
  options.positional("image");
  options.synonym("-p", "prompt");
  model.add_to(options);
  host.add_to(options);
}

/// Names and configurations of the models that are asked for; the one configured by options alone has no file.
std::vector<std::pair<std::string, fs::path>> find_models(const ExplainOptions& explain, const Options& options) {
  const bool zoo = options.given("zoo") && !options.typed("config");
  std::vector<std::pair<std::string, fs::path>> result;
  for (const std::string& which : {explain.baseline, explain.candidate}) {
    if (which.empty()) continue;
    if (options.typed("config")) {
      throw Error(ErrorCode::kUsage, "--config and --baseline or --candidate exclude each other");
    }
    const std::vector<std::string> names = zoo ? read_zoo(explain.model.zoo).names() : std::vector<std::string>();
    if (std::find(names.begin(), names.end(), which) != names.end()) {
      result.emplace_back(which, read_zoo(explain.model.zoo).config(which));
    } else {
      result.emplace_back(fs::path(which).stem().string(), which);
    }
  }
  if (!result.empty()) return result;
  if (zoo && !options.given("zoo-name")) return read_zoo(explain.model.zoo).models;
  const fs::path config = explain.model.config_file(options);
  return {{config.empty() ? explain.model.model : config.stem().string(), config}};
}

Viewer look(const ExplainOptions& explain, const Options& options, const std::string& name, const fs::path& config,
            std::span<const Image> images) {
  const std::vector<std::string> overrides = explain.model.overrides(options);
  const Session session =
      config.empty() ? Session(explain.host, explain.model, options) : Session(explain.host, config, overrides);
  const auto model = session.create({.plan_only = true});
  const bool with_text = session.config().model.multimodal && model->tokenizer() != nullptr;
  Viewer viewer{name, model->info(), {}};
  for (const Image& image : images) {
    check_interrupt();
    viewer.views.push_back(view_picture(*model, image, explain.prompt, with_text));
    if (!explain.output.empty()) continue;
    for (TileView& tile : viewer.views.back().tiles) tile.pixels = tile.valid = cv::Mat();  // only drawings need them
  }
  return viewer;
}

std::string percent(double share, int digits = 0) { return fmt::format("{:.{}f} %", 100 * share, digits); }

/// What the table and the drawing say of one view: a label for people, the value.
std::vector<std::pair<std::string, std::string>> facts(const ModelInfo& info, const PictureView& view) {
  const int side = view.side;
  const double stretch = view.scale_x / view.scale_y;
  std::vector<std::pair<std::string, std::string>> result = {
      {"tiles", fmt::format("{} of {}x{} in {}x{}{}{}", view.columns * view.rows, side, side, view.columns, view.rows,
                            view.has_overview() ? ", and an overview" : "",
                            view.empty_tiles > 0 ? fmt::format(" ({} places stay empty)", view.empty_tiles) : "")},
      {"resolution", fmt::format("{:.2f} x {:.2f} pixels for each of the picture", view.scale_x, view.scale_y)},
      {"ratio", std::abs(stretch - 1) < 0.02 ? "kept"
                : stretch > 1                ? fmt::format("stretched {:.2f} times in width", stretch)
                                             : fmt::format("stretched {:.2f} times in height", 1 / stretch)},
      {"padding", percent(view.padding)},
      {"cut off", percent(view.cut_off)},
      {"vision tokens", fmt::format("{} ({} tiles of {})", grouped(view.vision_tokens), view.tiles.size(),
                                    grouped(info.tokens_per_tile))}};
  if (!view.tokens) return result;
  const TokenBudget& tokens = *view.tokens;
  result.emplace_back("prompt",
                      fmt::format("{} tokens = {} template + {} question + {} picture", grouped(tokens.total()),
                                  grouped(tokens.prompt_template), grouped(tokens.question), grouped(tokens.pictures)));
  // Where the prompt holds fewer places than there are vision tokens, the text model reads these beside it.
  if (tokens.pictures < view.vision_tokens)
    result.emplace_back("beside the prompt", grouped(view.vision_tokens) + " tokens");
  const std::int64_t left = tokens.context_length - tokens.total();
  result.emplace_back("left of the context",
                      fmt::format("{} of {} tokens ({})", grouped(left), grouped(tokens.context_length),
                                  percent(static_cast<double>(left) / static_cast<double>(tokens.context_length), 1)));
  return result;
}

std::string to_table(const std::vector<Viewer>& viewers, std::size_t picture, const std::string& title) {
  std::vector<std::string> headers = {title};
  std::vector<std::vector<std::pair<std::string, std::string>>> columns;
  std::vector<std::string> labels;
  for (const Viewer& viewer : viewers) {
    headers.push_back(harmless(viewer.name));
    columns.push_back(facts(viewer.info, viewer.views[picture]));
    for (const auto& [label, value] : columns.back()) {
      // What only a later model has goes last.
      if (std::find(labels.begin(), labels.end(), label) == labels.end()) labels.push_back(label);
    }
  }
  Table table(headers);
  for (const std::string& label : labels) {
    std::vector<std::string> cells = {label};
    for (const auto& column : columns) {
      const auto found =
          std::find_if(column.begin(), column.end(), [&](const auto& fact) { return fact.first == label; });
      cells.push_back(found == column.end() ? "-" : found->second);
    }
    table.add(std::move(cells));
  }
  return table.text();
}

OrderedJson to_json(const Viewer& viewer, const PictureView& view) {
  OrderedJson regions = OrderedJson::array();
  for (const TileView& tile : view.tiles) {
    const auto whole = [](double value) { return std::llround(value); };
    regions.push_back({{"left", whole(tile.region.left)},
                       {"top", whole(tile.region.top)},
                       {"right", whole(tile.region.right)},
                       {"bottom", whole(tile.region.bottom)},
                       {"overview", tile.overview}});
  }
  OrderedJson json = {{"name", viewer.name},
                      {"model_type", viewer.info.model_type},
                      {"tile_size", view.side},
                      {"columns", view.columns},
                      {"rows", view.rows},
                      {"overview", view.has_overview()},
                      {"empty_tiles", view.empty_tiles},
                      {"scale_x", view.scale_x},
                      {"scale_y", view.scale_y},
                      {"padding", view.padding},
                      {"cut_off", view.cut_off},
                      {"tiles", std::move(regions)},
                      {"tokens_per_tile", viewer.info.tokens_per_tile},
                      {"vision_tokens", view.vision_tokens}};
  json["prompt_tokens"] = nullptr;
  if (view.tokens) {
    json["prompt_tokens"] = {{"template", view.tokens->prompt_template},
                             {"question", view.tokens->question},
                             {"pictures", view.tokens->pictures},
                             {"total", view.tokens->total()},
                             {"context_length", view.tokens->context_length}};
  }
  return json;
}

std::vector<PictureRow> drawing_rows(const std::vector<Viewer>& viewers, const std::vector<fs::path>& files,
                                     const std::vector<Image>& images) {
  std::vector<PictureRow> rows;
  for (std::size_t i = 0; i < images.size(); ++i) {
    PictureRow row{
        fmt::format("{} ({}x{})", files[i].filename().string(), images[i].width, images[i].height), images[i], {}};
    for (const Viewer& viewer : viewers) {
      Panel panel{fmt::format("{} ({})", viewer.name, viewer.info.model_type), viewer.views[i], {}};
      for (const auto& [label, value] : facts(viewer.info, viewer.views[i]))
        panel.lines.push_back(label + ": " + value);
      row.panels.push_back(std::move(panel));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace

int run_explain(Arguments arguments) {
  ExplainOptions explain;
  Options options(
      {"explain", "[options] FILE|FOLDER…",
       "Shows what a model really sees of pictures: tiles, overview, padding, and where its tokens go. With\n"
       "--baseline and --candidate two models side by side, with --zoo all models of the file. Loads no weights.",
       "vlmzoo explain picture.jpg --baseline internvl.yaml --candidate llama_vision.yaml --output seen.png"});
  explain.add_to(options);
  if (!options.parse(arguments)) return 0;
  if (explain.images.empty()) throw Error(ErrorCode::kUsage, "no picture is named");
  require_utf8("prompt", explain.prompt);
  explain.host.apply();

  const std::vector<fs::path> files = collect_pictures(explain.images);
  const auto models = find_models(explain, options);
  std::optional<AtomicFile> output;
  if (!explain.output.empty()) output.emplace(explain.output);
  std::vector<Image> images;
  for (const fs::path& file : files) images.push_back(load_image(file));
  std::vector<Viewer> viewers;
  for (const auto& [name, config] : models) viewers.push_back(look(explain, options, name, config, images));

  if (output) {
    const std::vector<std::uint8_t> png = draw(drawing_rows(viewers, files, images));
    output->write(std::as_bytes(std::span(png)));
    output->commit();
  }
  OrderedJson pictures = OrderedJson::array();
  std::string tables;
  for (std::size_t i = 0; i < files.size(); ++i) {
    OrderedJson seen = OrderedJson::array();
    for (const Viewer& viewer : viewers) seen.push_back(to_json(viewer, viewer.views[i]));
    pictures.push_back({{"image", files[i].string()},
                        {"width", images[i].width},
                        {"height", images[i].height},
                        {"models", std::move(seen)}});
    tables += (i == 0 ? "" : "\n") +
              to_table(viewers, i, fmt::format("{} {}x{}", files[i].string(), images[i].width, images[i].height));
  }
  if (explain.json) {
    print_json({{"prompt", explain.prompt}, {"pictures", std::move(pictures)}});
  } else {
    print(tables);
  }
  return 0;
}

}  // namespace vlmzoo::app
