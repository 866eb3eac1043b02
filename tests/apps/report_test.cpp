#include <fmt/format.h>

#include <algorithm>
#include <boost/archive/iterators/binary_from_base64.hpp>
#include <boost/archive/iterators/transform_width.hpp>
#include <boost/property_tree/ptree.hpp>
#include <boost/property_tree/xml_parser.hpp>
#include <cmath>
#include <limits>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "evaluation/evaluation_report.hpp"
#include "report/charts.hpp"
#include "report/page.hpp"
#include "support.hpp"
#include "training/training_report.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/image.hpp"

#undef CHECK  // LibTorch's aborts
#include <doctest/doctest.h>

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;
using namespace report;

const fs::path kImages = fs::path(VLMZOO_TEST_DATA) / "data" / "images";
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

/// Throws unless the drawing is well-formed XML. Says whether it has a title and is told as a picture.
bool well_formed(const Svg& svg) {
  std::istringstream stream(svg.markup);
  boost::property_tree::ptree tree;
  boost::property_tree::read_xml(stream, tree);
  const auto& root = tree.get_child("svg");
  return !root.get<std::string>("title").empty() && root.get<std::string>("<xmlattr>.role") == "img" &&
         !root.get<std::string>("<xmlattr>.aria-label").empty() && !contains(svg.markup, "nan") &&
         !contains(svg.markup, "inf");
}

/// Nothing in the page is run or fetched.
void check_self_contained(const std::string& html) {
  CHECK_FALSE(contains(html, "<script"));
  CHECK(contains(html, "default-src 'none'"));
  CHECK_FALSE(std::regex_search(html, std::regex("(src|href)=\"(?!data:)")));
  CHECK_FALSE(contains(html, "@import"));
  CHECK_FALSE(contains(html, "url("));
  CHECK(contains(html, "prefers-color-scheme:dark"));
  CHECK(contains(html, "@media print"));
  CHECK(contains(html, "width=device-width"));
}

/// The picture in a data URL.
Image decoded(const std::string& url) {
  using namespace boost::archive::iterators;
  using Decode = transform_width<binary_from_base64<std::string::const_iterator>, 8, 6>;
  const std::string prefix = "data:image/jpeg;base64,";
  REQUIRE(url.starts_with(prefix));
  std::string digits = url.substr(prefix.size());
  const auto padding = static_cast<std::size_t>(std::count(digits.begin(), digits.end(), '='));
  std::replace(digits.begin(), digits.end(), '=', 'A');
  const std::string text = digits;
  std::vector<std::uint8_t> bytes{Decode(text.begin()), Decode(text.end())};
  bytes.resize(bytes.size() - padding);
  return decode_image(bytes, "thumbnail");
}

ModelRun run_with_pictures() {
  ModelRun run;
  run.name = "tiny <model>";
  run.model_type = "tiny";
  run.class_names = {"none", "one & only", "several"};
  run.resolved_config = "model: {pretrained_path: \"a<b\"}\n";
  for (int i = 0; i < 12; ++i) {
    Prediction p;
    p.sample_id = fmt::format("picture {}", i);
    p.image = kImages / "square.png";
    p.label = i % 3;
    p.logits = {i == 5 ? 9.0 : 0.0, i % 3 == 1 ? 2.0 : 0.0, i % 3 == 2 ? 3.0 : 0.5};
    p.latency_ms = 5 + i;
    run.predictions.push_back(p);
  }
  return run;
}

}  // namespace

TEST_CASE("text in a page is text: markup, control characters and broken UTF-8 do no harm") {
  CHECK(escaped("<b>\"a\" & 'b'</b>") == "&lt;b&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/b&gt;");
  CHECK(escaped("a\x01\x7F\tb\n") == "a\tb\n");
  CHECK(escaped("\xC3\xA4\xFF\xE2\x82") == "\xC3\xA4\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  Page page("<script>alert(1)</script>", "</p>");
  page.verdict("<i>", "<i>", Tone::kGood);
  page.section("<i>");
  page.paragraph("<i>");
  page.table({"<i>", "><i>"}, {{"<i>", "<i>"}, {"short row"}}, "<i>");
  page.figure(bar_chart({"<i>", "<i>", {{"<i>", 1, Interval{0.5, 1.5}, "<i>"}}, 0}), "<i>");
  page.thumbnails(std::vector<Thumbnail>{{"no/such/<i>.jpg", "<i>", {"<i>"}, Tone::kBad}});
  page.details("<i>", "</pre><i>");
  const std::string html = page.html();
  CHECK_FALSE(contains(html, "<i>"));
  check_self_contained(html);
}

TEST_CASE("a thumbnail is the picture, made small") {
  const Image original = load_image(kImages / "square.png");
  const Image small = decoded(thumbnail_url(kImages / "square.png", 20));
  CHECK(std::max(small.width, small.height) == 20);
  double mean = 0, expected = 0;
  for (const auto value : small.pixels) mean += value / static_cast<double>(small.pixels.size());
  for (const auto value : original.pixels) expected += value / static_cast<double>(original.pixels.size());
  CHECK(mean == doctest::Approx(expected).epsilon(0.1));                      // JPEG
  const Image same = decoded(thumbnail_url(kImages / "square.png", 10'000));  // never enlarged
  CHECK(same.width == original.width);
}

TEST_CASE("a picture that can't be read is named in its place") {
  const test::TemporaryFolder folder;
  write_file(folder / "broken.jpg", "no picture");
  Page page("title");
  page.thumbnails(std::vector<Thumbnail>{{folder / "broken.jpg", "a broken one", {"label: one"}, Tone::kBad}});
  CHECK(contains(page.html(), "not readable"));
  CHECK(contains(page.html(), "a broken one"));
}

TEST_CASE("charts are well-formed and described, with any data") {
  const std::vector<std::string> names = {"a<b", "c"};
  CHECK(well_formed(line_chart({"t", "x", "y", {{"s", {{1, 2}, {2, 3}}}, {"r", {{1, 3}, {2, kNaN}}}}})));
  CHECK(well_formed(line_chart({"one point", "x", "y", {{"s", {{7, 0}}}}})));
  CHECK(well_formed(line_chart({"log", "x", "y", {{"s", {{1, 1e-9}, {2, 1e9}, {3, 0}, {4, -1}}}}, /*log_y=*/true})));
  CHECK(well_formed(line_chart({"huge", "x", "y", {{"s", {{1, 1e300}, {2, -1e300}}}}})));
  CHECK(well_formed(bar_chart({"t", "ms", {{"a", 3, Interval{2, 4}, ""}, {"b", 0, {}, ""}, {"c", kNaN, {}, ""}}, 0})));
  CHECK(well_formed(histogram({"t", "ms", {{"a", {1, 2, 3, 1000, kNaN}}, {"b", {}}}})));
  CHECK(well_formed(histogram({"all alike", "ms", {{"a", {2, 2, 2}}}})));
  CHECK(well_formed(confusion_chart("t", {2, {3, 1, 0, 4}}, names)));
  CHECK(well_formed(reliability_diagram("t", std::vector<CalibrationBin>{{0, 0.5, 2, 0.4, 0.5}, {0.5, 1, 3, 0.9, 1}})));
  for (const Svg& empty : {line_chart({"t", "x", "y", {}}), line_chart({"t", "x", "y", {{"s", {{1, kNaN}}}}}),
                           bar_chart({"t", "u", {}, 0}), histogram({"t", "x", {}}), reliability_diagram("t", {}),
                           confusion_chart("t", {}, {})}) {
    CHECK(well_formed(empty));
    CHECK(contains(empty.markup, "no data"));
  }
}

TEST_CASE("a bar ends where its value lies, with its interval around it") {
  const Svg svg = bar_chart({"t", "share", {{"a", 0.5, Interval{0.25, 0.75}, ""}}, 1});
  CHECK(contains(svg.markup, "width=\"222.0\""));  // half of the axis, 12 to 456
  CHECK(contains(svg.markup, "x1=\"123.0\" y1=\"55.0\" x2=\"345.0\""));
  CHECK(contains(svg.markup, "0.500 [0.250, 0.750]"));
}

TEST_CASE("a curve of very many points stays small and keeps its ends") {
  Series series{"loss", {}};
  for (int i = 0; i <= 200'000; ++i) series.points.push_back({static_cast<double>(i), std::sin(i)});
  const Svg svg = line_chart({"t", "x", "y", {series}});
  CHECK(svg.markup.size() < 20'000);
  CHECK(contains(svg.markup, "468.0,"));
}

TEST_CASE("of many classes the chart shows those with the most mistakes") {
  ConfusionMatrix confusion{100, std::vector<std::int64_t>(10'000, 0)};
  std::vector<std::string> names;
  for (std::int64_t i = 0; i < 100; ++i) {
    names.push_back(fmt::format("class{}.", i));
    confusion.counts[static_cast<std::size_t>(i * 100 + i)] = 5;
  }
  confusion.counts[97 * 100 + 98] = 3;
  const Svg svg = confusion_chart("t", confusion, names);
  CHECK(well_formed(svg));
  CHECK(contains(svg.markup, "class97. taken for class98.: 3 of 8"));
  CHECK_FALSE(contains(svg.markup, "class50."));
}

TEST_CASE("the worst mistakes come first, and only mistakes") {
  const ModelRun run = run_with_pictures();
  const std::vector<Thumbnail> mistakes = worst_mistakes(run);
  REQUIRE(mistakes.size() == 5);  // the four of class none, and picture 5
  CHECK(mistakes.front().title == "picture 5");
  CHECK(mistakes.front().lines.front() == "label: several");
  CHECK(worst_mistakes(run, 2).size() == 2);
}

TEST_CASE("the report of an evaluation is one file with metrics, charts, mistakes and configuration") {
  const test::TemporaryFolder folder;
  ModelRun run = run_with_pictures();
  run.temperature = 1.5;
  run.temperature_source = "validation";
  run.predictions[0].question = "How many?";
  run.predictions[0].answer = "several <of them>";
  run.predictions[7].logits.clear();
  run.predictions[7].error = "picture 7: truncated";
  EvaluateOptions options;
  options.bootstrap.resamples = 200;
  write_evaluation_report(folder / "report.html", evaluate(run, options), run, "data, split test");
  const std::string html = read_file(folder / "report.html");
  check_self_contained(html);
  for (const char* part :
       {"Evaluation of tiny &lt;model&gt;", "one &amp; only", "picture 7: truncated", "Worst mistakes",
        "several &lt;of them&gt;", "a&lt;b", "Reliability after", "95 % interval"}) {
    CAPTURE(part);
    CHECK(contains(html, part));
  }
  CHECK(occurrences(html, "<svg") == 5);
  CHECK(occurrences(html, "<img") == 6);  // five mistakes and one answer
}

TEST_CASE("the report of a training run has its curves, the validation set and what was wrong") {
  const test::TemporaryFolder folder;
  TrainingReport report;
  report.title = "A run";
  report.resolved_config = "training: {}\n";
  write_training_report(folder / "empty.html", report);
  check_self_contained(read_file(folder / "empty.html"));
  CHECK(contains(read_file(folder / "empty.html"), "No step was taken yet"));

  for (int i = 1; i <= 100; ++i) {
    report.training.push_back({i, i / 50.0, 2.0 / i, 1.5 / i, i > 50 ? 0.5 / i : kNaN, 1e-3, 1 + 1.0 / i});
  }
  report.validation_points = {{50, 1, 0.7, 0.5, 0.4, 1.5, true}, {100, 2, 0.6, 0.75, 0.7, 2.5, false}};
  write_training_report(folder / "curves.html", report);
  CHECK(occurrences(read_file(folder / "curves.html"), "<svg") == 5);

  report.validation = run_with_pictures();
  write_training_report(folder / "report.html", report);
  const std::string html = read_file(folder / "report.html");
  check_self_contained(html);
  CHECK(occurrences(html, "<svg") == 7);
  CHECK(contains(html, "Kept is step 50: 50.0 % of the validation set right"));
  CHECK(contains(html, "language"));
  CHECK(contains(html, "Worst mistakes"));
  CHECK(contains(html, "100 steps, 2 epochs"));
}

}  // namespace vlmzoo::app
