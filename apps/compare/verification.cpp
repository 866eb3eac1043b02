#include "compare/verification.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "compare/comparison_output.hpp"
#include "table.hpp"
#include "vlmzoo/error.hpp"

namespace vlmzoo::app {
namespace {

std::int64_t count(const Verification& verification, CheckStatus status) {
  return std::count_if(verification.checks.begin(), verification.checks.end(),
                       [&](const Check& check) { return check.status == status; });
}

std::string summary(const Verification& verification) {
  return fmt::format("{}: {} passed, {} failed, {} skipped", verification.passed() ? "pass" : "fail",
                     count(verification, CheckStatus::kPass), count(verification, CheckStatus::kFail),
                     count(verification, CheckStatus::kSkipped));
}

}  // namespace

std::string to_string(CheckStatus status) {
  switch (status) {
    case CheckStatus::kPass:
      return "pass";
    case CheckStatus::kFail:
      return "fail";
    case CheckStatus::kSkipped:
      break;
  }
  return "skipped";
}

bool Verification::passed() const { return count(*this, CheckStatus::kFail) == 0; }

OrderedJson to_json(const Verification& verification) {
  OrderedJson checks = OrderedJson::array();
  for (const Check& check : verification.checks) {
    checks.push_back({{"name", check.name}, {"status", to_string(check.status)}, {"evidence", check.evidence}});
  }
  return {{"verdict", verification.passed() ? "pass" : "fail"},
          {"baseline", verification.baseline},
          {"candidate", verification.candidate},
          {"checks", std::move(checks)}};
}

std::string to_text(const Verification& verification) {
  std::string result;
  for (const Check& check : verification.checks) {
    result += fmt::format("{:<8} {}\n         {}\n", to_string(check.status), check.name, harmless(check.evidence));
  }
  return result + fmt::format("Verdict: {}\n", summary(verification));
}

std::string to_markdown(const Verification& verification) {
  ReportTable table{"", {"check", "status", "evidence"}, {}};
  for (const Check& check : verification.checks) {
    const std::string status = to_string(check.status);
    table.rows.push_back(
        {check.name, check.status == CheckStatus::kFail ? "**" + status + "**" : status, check.evidence});
  }
  return fmt::format("### {}\n\n`{}` → `{}`\n\n{}", summary(verification), harmless(verification.baseline),
                     harmless(verification.candidate), to_markdown(table));
}

Check guarded(const std::string& name, const std::function<Check()>& work) {
  try {
    Check check = work();
    check.name = name;
    return check;
  } catch (...) {
    const Error error = current_error();
    if (error.code() == ErrorCode::kInterrupted) throw error;
    return {name, CheckStatus::kFail, error.what()};
  }
}

}  // namespace vlmzoo::app
