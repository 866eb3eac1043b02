#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include "clock.hpp"
#include "commands.hpp"
#include "measure.hpp"
#include "output.hpp"
#include "session.hpp"
#include "table.hpp"
#include "vlmzoo/log.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {
namespace {

constexpr std::int64_t kMostTokens = 1'000'000, kMostRepeats = 1000;

struct BenchOptions {
  std::int64_t repeats = 3, prompt_tokens = 320, decode_tokens = 32;

  void add_to(Options& options);
  void check() const;
};

struct BenchReport {
  Series load_s;
  Speed speed;
  std::int64_t prompt_tokens = 0;
  std::uint64_t peak_memory = 0, weight_bytes = 0, decode_bytes = 0;
  std::uint64_t kept_memory = 0;  ///< of the process after the model is gone, beyond what it had before it came
  RolePrecision precision;

  /// How much of the memory bandwidth measured around it decoding made use of.
  Series bandwidth_share() const {
    Series result;
    for (std::size_t i = 0; i < speed.bandwidth.values.size(); ++i) {
      const double read = static_cast<double>(decode_bytes) * speed.decode_tok_per_s.values[i];
      result.values.push_back(read / speed.bandwidth.values[i]);
    }
    return result;
  }
};

void BenchOptions::add_to(Options& options) {
  options.add()("repeats", po::value(&repeats)->value_name("N"), "repeats of each measurement; default 3")(
      "prompt-tokens", po::value(&prompt_tokens)->value_name("N"),
      "length of the prompt, picture included; default 320")(
      "decode-tokens", po::value(&decode_tokens)->value_name("N"), "tokens to decode; default 32");
}

void BenchOptions::check() const {
  require_range("repeats", repeats, 1, kMostRepeats);
  require_range("prompt-tokens", prompt_tokens, 1, kMostTokens);
  require_range("decode-tokens", decode_tokens, 1, kMostTokens);
}

BenchReport measure(const Session& session, const BenchOptions& bench) {
  BenchReport report;
  const std::uint64_t resident = resident_memory();
  std::unique_ptr<Model> model;
  const auto unload = [&] {
    model.reset();
    release_freed_memory();
  };
  const auto load = [&] {
    const auto start = Clock::now();
    model = session.create({});
    report.load_s.values.push_back(seconds_since(start));
  };
  load();
  const BenchPrompt prompt = make_bench_prompt(*model, bench.prompt_tokens, bench.decode_tokens);
  report.prompt_tokens = prompt.tokens;
  measure_speed(*model, prompt, bench.decode_tokens, /*repeats=*/1, /*memory=*/nullptr);  // warms up
  report.peak_memory = peak_memory();
  report.speed =
      measure_speed(*model, prompt, bench.decode_tokens, bench.repeats, std::make_unique<MemoryReader>().get());
  report.precision = session.precision();
  report.weight_bytes = model->parameters().bytes(report.precision);
  report.decode_bytes = decode_bytes_per_token(*model, report.precision);
  for (std::int64_t repeat = 1; repeat < bench.repeats; ++repeat) {
    unload();
    load();
  }
  unload();
  const std::uint64_t left = resident_memory();
  report.kept_memory = left > resident ? left - resident : 0;
  return report;
}

OrderedJson document(const BenchReport& report) {
  const auto series = [](const Series& values) {
    return OrderedJson{{"min", values.min()}, {"median", values.median()}};
  };
  return {{"load_s", series(report.load_s)},
          {"vision_ms_per_tile", series(report.speed.vision_ms_per_tile)},
          {"prefill_s", series(report.speed.prefill_s)},
          {"prefill_tok_per_s", series(report.speed.prefill_tok_per_s)},
          {"decode_tok_per_s", series(report.speed.decode_tok_per_s)},
          {"peak_memory_bytes", report.peak_memory},
          {"kept_memory_bytes", report.kept_memory},
          {"weight_bytes", report.weight_bytes},
          {"decode_bytes_per_token", report.decode_bytes},
          {"memory_bandwidth_gb_s", report.speed.bandwidth.median() / 1e9},
          {"decode_bandwidth_share", report.bandwidth_share().median()},
          {"precision", to_json(report.precision)},
          {"threads", at::get_num_threads()},
          {"cpu", describe_cpu()}};
}

/// Three digits, and no exponent for large values.
std::string shown(double value) { return value < 100 ? fmt::format("{:.3g}", value) : fmt::format("{:.0f}", value); }

std::string to_table(const BenchReport& report) {
  Table table({"measured", ">min", ">median"});
  const auto add = [&](const std::string& name, const Series& series) {
    table.add({name, shown(series.min()), shown(series.median())});
  };
  add("load, s", report.load_s);
  add("vision, ms per tile", report.speed.vision_ms_per_tile);
  add(fmt::format("prefill of {} tokens, s", report.prompt_tokens), report.speed.prefill_s);
  add("prefill, tokens/s", report.speed.prefill_tok_per_s);
  add("decode, tokens/s", report.speed.decode_tok_per_s);
  Table rest({"peak memory", format_bytes(report.peak_memory)});
  rest.add({"kept after unloading", format_bytes(report.kept_memory)});
  rest.add({"weights", format_bytes(report.weight_bytes)});
  rest.add({"weights read per token", format_bytes(report.decode_bytes)});
  rest.add({"memory bandwidth", fmt::format("{:.1f} GB/s", report.speed.bandwidth.median() / 1e9)});
  rest.add({"of it used by decode", fmt::format("{:.0f} %", report.bandwidth_share().median() * 100)});
  rest.add({"precision", describe(report.precision)});
  rest.add({"threads", std::to_string(at::get_num_threads())});
  rest.add({"processor", describe_cpu()});
  return table.text() + '\n' + rest.text();
}

}  // namespace

int run_bench(Arguments arguments) {
  HostOptions host;
  ModelOptions model_options;
  ThreadOption threads;
  BenchOptions bench;
  bool json = false;
  Options options(
      {"bench", "[options]",
       "Measures load time, memory, vision, prefill and decode, and the memory bandwidth beside them.\n"
       "The picture is made here and fills one tile; min is the smallest value of the repeats, of rates too.",
       "vlmzoo bench --config configs/internvl.yaml --threads 2"});
  bench.add_to(options);
  options.add()("json", po::bool_switch(&json), "print JSON");
  model_options.add_to(options);
  threads.add_to(options);
  host.add_to(options);
  if (!options.parse(arguments)) return 0;
  bench.check();
  host.apply();
  threads.apply(options);
  keep_freed_memory();

  const Session session(host, model_options, options);
  const at::NoGradGuard no_grad;
  const BenchReport report = measure(session, bench);
  if (json) {
    print_json(document(report));
  } else {
    print(to_table(report));
  }
  return 0;
}

}  // namespace vlmzoo::app
