#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>

#include "commands.hpp"
#include "output.hpp"
#include "session.hpp"
#include "table.hpp"
#include "vlmzoo/checkpoint.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/progress.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {
namespace {

struct FileRow {
  std::filesystem::path path;
  std::uint64_t bytes = 0;
  std::string sha256;  ///< empty: not asked for
};

/// What one setting of `precision` comes to on this machine.
struct MemoryRow {
  std::string asked;
  std::optional<RolePrecision> precision;  ///< empty: it doesn't work here, `reason` says why
  std::string reason;
  std::uint64_t bytes = 0;  ///< weights and working memory
};

/// All that `info` tells.
struct Report {
  std::string model;
  const PluginInfo* plugin = nullptr;
  ModelInfo info;
  Parameters parameters;
  RolePrecision configured;
  std::vector<FileRow> files;
  std::vector<MemoryRow> memory;
  std::uint64_t available = 0;
};

std::vector<FileRow> list_files(const ModelConfig& config, bool checksums) {
  const std::filesystem::path folder = resolve_pretrained_path(config.pretrained_path);
  std::vector<FileRow> result;
  for (const char* name :
       {"config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
        "tokenizer_config.json", "chat_template.json", "chat_template.jinja", "vocab.json", "merges.txt",
        "added_tokens.json", "special_tokens_map.json", "model.safetensors.index.json"}) {
    if (std::filesystem::is_regular_file(folder / name)) result.push_back({folder / name, 0, ""});
  }
  if (config.pretrained) {
    const Checkpoint checkpoint(folder);
    for (const SafetensorsFile& file : checkpoint.files()) result.push_back({file.path(), 0, ""});
  }
  std::uint64_t total = 0;
  for (FileRow& file : result) total += file.bytes = std::filesystem::file_size(file.path);
  if (checksums) {
    Progress progress("checksums", total, "B");
    for (FileRow& file : result) {
      check_interrupt();
      file.sha256 = sha256_of_file(file.path);
      progress.advance(file.bytes);
    }
  }
  return result;
}

/// As it is configured, and for each word of `precision`.
std::vector<MemoryRow> memory_table(const Model& model, const RolePrecision& configured, ModelConfig config) {
  const RoleSet roles = config.multimodal ? RoleSet::all() : RoleSet::vision_only();
  const auto bytes = [&](const RolePrecision& precision) {
    return model.parameters().bytes(precision, roles) + model.info().working_memory;
  };
  std::vector<MemoryRow> result = {{"configured", configured, "", bytes(configured)}};
  config.use_8bit = false;
  for (const Precision asked :
       {Precision::kAuto, Precision::kFp32, Precision::kBf16, Precision::kFp16, Precision::kInt8}) {
    MemoryRow row{to_string(asked), RolePrecision{asked, asked, asked}, "", 0};
    config.precision = *row.precision;
    try {
      // Asking for bf16 where it is slow would warn about what nobody wants to run.
      if (asked != Precision::kBf16) row.precision = resolve_precision(config, resolve_device(config.device));
      row.bytes = bytes(*row.precision);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnsupported) throw;
      row.precision.reset();
      row.reason = error.what();
    }
    result.push_back(std::move(row));
  }
  return result;
}

/// Rows that the table and the JSON share: a name for people, the key, the value.
std::vector<std::tuple<std::string, std::string, std::int64_t>> sizes(const ModelInfo& info) {
  return {{"width of vision features", "num_features", info.num_features},
          {"text width", "text_hidden_size", info.text_hidden_size},
          {"vocabulary", "vocab_size", info.vocab_size},
          {"context, tokens", "context_length", info.context_length},
          {"image size", "image_size", info.image_size},
          {"most tiles", "max_tiles", info.max_tiles},
          {"tokens per tile", "tokens_per_tile", info.tokens_per_tile}};
}

OrderedJson document(const Report& report) {
  OrderedJson result = {
      {"model", report.model},
      {"model_type", report.info.model_type},
      {"architecture", report.info.architecture},
      {"plugin",
       {{"name", report.plugin->name}, {"version", report.plugin->version}, {"file", report.plugin->file.string()}}}};
  for (const auto& [label, key, value] : sizes(report.info)) result[key] = value;
  result["stop_ids"] = report.info.stop_ids;
  result["facts"] = OrderedJson::object();
  for (const auto& [name, value] : report.info.facts) result["facts"][name] = value;
  std::int64_t total = 0;
  for (const Role role : kRoles) {
    result["parameters"][to_string(role)] = report.parameters.count(role);
    total += report.parameters.count(role);
  }
  result["parameters"]["total"] = total;
  result["precision"] = to_json(report.configured);
  result["available_memory_bytes"] = report.available;
  result["memory"] = OrderedJson::array();
  for (const MemoryRow& row : report.memory) {
    OrderedJson entry = {{"precision", row.asked}};
    if (row.precision) {
      entry["roles"] = to_json(*row.precision);
      entry["bytes"] = row.bytes;
      entry["fits"] = row.bytes <= report.available;
    } else {
      entry["unsupported"] = row.reason;
    }
    result["memory"].push_back(std::move(entry));
  }
  result["files"] = OrderedJson::array();
  for (const FileRow& file : report.files) {
    OrderedJson entry = {{"file", file.path.string()}, {"bytes", file.bytes}};
    if (!file.sha256.empty()) entry["sha256"] = file.sha256;
    result["files"].push_back(std::move(entry));
  }
  result["cpu"] = describe_cpu();
  return result;
}

std::string describe_model(const Report& report) {
  Table table({"model", report.model});
  table.add({"model type", report.info.model_type});
  table.add({"architecture", report.info.architecture});
  table.add({"plugin", fmt::format("{} {}", report.plugin->name, report.plugin->version)});
  for (const auto& [label, key, value] : sizes(report.info)) {
    if (value > 0) table.add({label, grouped(value)});
  }
  for (const auto& [name, value] : report.info.facts) table.add({name, value});
  table.add({"processor", describe_cpu()});
  table.add({"precision here", describe(report.configured)});
  return table.text();
}

std::string describe_parameters(const Report& report) {
  Table table({"role", ">parameters", ">bytes here"});
  for (const Role role : kRoles) {
    const RoleSet alone{role == Role::kVision, role == Role::kConnector, role == Role::kLanguage};
    table.add({to_string(role), grouped(report.parameters.count(role)),
               format_bytes(report.parameters.bytes(report.configured, alone))});
  }
  return table.text();
}

std::string describe_memory(const Report& report) {
  Table table({"precision", ">needs", "fits", "roles"});
  for (const MemoryRow& row : report.memory) {
    if (row.precision) {
      table.add(
          {row.asked, format_bytes(row.bytes), row.bytes <= report.available ? "yes" : "no", describe(*row.precision)});
    } else {
      table.add({row.asked, "", "-", row.reason});
    }
  }
  return fmt::format("{}free memory: {}\n", table.text(), format_bytes(report.available));
}

std::string describe_files(const Report& report) {
  const bool checksums =
      std::any_of(report.files.begin(), report.files.end(), [](const FileRow& file) { return !file.sha256.empty(); });
  Table table({"file", ">size", checksums ? "SHA-256" : ""});
  for (const FileRow& file : report.files) table.add({file.path.string(), format_bytes(file.bytes), file.sha256});
  return table.text();
}

}  // namespace

int run_info(Arguments arguments) {
  HostOptions host;
  ModelOptions model_options;
  bool checksums = false, json = false;
  Options options({"info", "[options]",
                   "Describes a model before it is loaded: architecture, parameters by role, files, and the memory it\n"
                   "needs in each precision against what is free.",
                   "vlmzoo info --model OpenGVLab/InternVL2_5-1B"});
  options.add()("checksums", po::bool_switch(&checksums), "SHA-256 of every file")("json", po::bool_switch(&json),
                                                                                   "print JSON");
  model_options.add_to(options);
  host.add_to(options);
  if (!options.parse(arguments)) return 0;
  host.apply();

  const Session session(host, model_options, options);
  const ModelConfig& config = session.config().model;
  const auto model = session.create({.plan_only = true});
  Report report{config.pretrained_path,
                &session.plugin(),
                model->info(),
                model->parameters(),
                session.precision(),
                list_files(config, checksums),
                memory_table(*model, session.precision(), config),
                available_memory()};
  if (json) {
    print_json(document(report));
  } else {
    print(fmt::format("{}\n{}\n{}\n{}", describe_model(report), describe_parameters(report), describe_memory(report),
                      describe_files(report)));
  }
  return 0;
}

}  // namespace vlmzoo::app
