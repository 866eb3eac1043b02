#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "evaluation/evaluation.hpp"
#include "report/page.hpp"

namespace vlmzoo::app {

/// -ln(probability of the label) at the run's temperature.
double loss_of(const Prediction& prediction, double temperature);

/// The pictures whose class is wrong, highest loss first, with label, prediction and its probability.
std::vector<report::Thumbnail> worst_mistakes(const ModelRun& run, std::size_t most = 24);

/// Adds the section "Worst mistakes" to a page; it says so where there are none.
void add_worst_mistakes(report::Page& page, const ModelRun& run);

/// Precision, recall, F1 and number of each class.
void add_class_table(report::Page& page, const Evaluation& evaluation);

/// "vlmzoo 0.1, LibTorch 2.x, AMD EPYC …: avx2 …"
std::string describe_program();

/// The report of one evaluated run. `data`: what was evaluated, in words. Errors: as write_file().
void write_evaluation_report(const std::filesystem::path& file, const Evaluation& evaluation, const ModelRun& run,
                             const std::string& data);

}  // namespace vlmzoo::app
