#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "compare/comparison.hpp"
#include "compare/gates.hpp"
#include "output.hpp"
#include "report/page.hpp"

/// A Comparison for programs, for people, for pull requests and for browsers.
namespace vlmzoo::app {

/// A table of any of these. A header that begins with '>' makes its column right-aligned.
struct ReportTable {
  std::string title;
  std::vector<std::string> headers;
  std::vector<std::vector<std::string>> rows;
};

/// What is reported.
struct ComparisonReport {
  Comparison comparison;
  std::vector<GateResult> gates;
  std::vector<std::pair<std::string, std::string>> facts;  ///< of data, program and machine
  std::filesystem::path folder;                            ///< of the report; empty: none

  bool gates_hold() const;
};

/// n, verdict, baseline, candidate, accuracy_difference, …: docs/compare.md has them all.
OrderedJson to_json(const ComparisonReport& report);

/// "equivalent (replace: yes)"
std::string headline(const Comparison& comparison);

/// Tables of metrics, paired statistics, classes, answers and gates; those without rows are left out.
std::vector<ReportTable> comparison_tables(const ComparisonReport& report);
/// Keys whose values differ between two resolved configurations.
ReportTable configuration_table(const std::string& baseline, const std::string& candidate);

/// For a terminal: verdict, warnings, tables, rule.
std::string to_text(const ComparisonReport& report);
/// The same for a pull request, with the flips by name.
std::string to_markdown(const ComparisonReport& report);
std::string to_markdown(const ReportTable& table);
/// The whole report.
report::Page to_page(const ComparisonReport& report);

/// report.html, report.md, comparison.json, and of each model its predictions and configuration, into `folder`, which
/// exists. Errors: kIo.
void write_report(const ComparisonReport& report, const std::filesystem::path& folder);

}  // namespace vlmzoo::app
