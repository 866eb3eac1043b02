#include "report/page.hpp"

#include <fmt/format.h>

#include <utility>

#include "report/style.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"

namespace vlmzoo::app::report {
namespace {

const char* class_of(Tone tone) {
  switch (tone) {
    case Tone::kNeutral:
      return "";
    case Tone::kGood:
      return " good";
    case Tone::kWarning:
      return " warning";
    case Tone::kBad:
      return " bad";
  }
  return "";
}

/// Length of the UTF-8 character at the front of `text`; 0 when there is none.
std::size_t character_length(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text.front());
  const std::size_t length = lead < 0x80 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  return length <= text.size() && is_utf8(text.substr(0, length)) ? length : 0;
}

std::string cell(const std::string& text, bool heading, bool right) {
  const char* tag = heading ? "th" : "td";
  return fmt::format("<{}{}{}>{}</{}>", tag, heading ? " scope=\"row\"" : "", right ? " class=\"right\"" : "",
                     escaped(text), tag);
}

}  // namespace

std::string escaped(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const std::size_t length = character_length(text);
    const char c = text.front();
    if (length == 0) {
      result += "\xEF\xBF\xBD";
    } else if (length > 1) {
      result += text.substr(0, length);
    } else if (c == '&') {
      result += "&amp;";
    } else if (c == '<') {
      result += "&lt;";
    } else if (c == '>') {
      result += "&gt;";
    } else if (c == '"') {
      result += "&quot;";
    } else if (c == '\'') {
      result += "&#39;";
    } else if (static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t') {
      if (c != 0x7F) result += c;
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return result;
}

Page::Page(std::string title, std::string subtitle) : title_(std::move(title)), subtitle_(std::move(subtitle)) {}

void Page::close_figures() {
  if (in_figures_) body_ += "</div>\n";
  in_figures_ = false;
}

void Page::verdict(const std::string& headline, const std::string& text, Tone tone) {
  close_figures();
  body_ += fmt::format("<div class=\"verdict{}\"><strong>{}</strong><p>{}</p></div>\n", class_of(tone),
                       escaped(headline), escaped(text));
}

void Page::section(const std::string& heading) {
  close_figures();
  body_ += fmt::format("<h2>{}</h2>\n", escaped(heading));
}

void Page::paragraph(const std::string& text) {
  close_figures();
  body_ += fmt::format("<p>{}</p>\n", escaped(text));
}

void Page::table(const std::vector<std::string>& headers, const std::vector<std::vector<std::string>>& rows,
                 const std::string& caption) {
  close_figures();
  body_ += "<div class=\"wide\"><table>";
  if (!caption.empty()) body_ += fmt::format("<caption>{}</caption>", escaped(caption));
  body_ += "<thead><tr>";
  for (const std::string& header : headers) {
    const bool right = header.starts_with('>');
    body_ += fmt::format("<th scope=\"col\"{}>{}</th>", right ? " class=\"right\"" : "",
                         escaped(std::string_view(header).substr(right ? 1 : 0)));
  }
  body_ += "</tr></thead>\n<tbody>";
  for (const auto& row : rows) {
    body_ += "<tr>";
    for (std::size_t i = 0; i < headers.size(); ++i) {
      body_ += cell(i < row.size() ? row[i] : "", /*heading=*/i == 0, headers[i].starts_with('>'));
    }
    body_ += "</tr>\n";
  }
  body_ += "</tbody></table></div>\n";
}

void Page::figure(const Svg& svg, const std::string& caption) {
  if (!in_figures_) body_ += "<div class=\"figures\">\n";
  in_figures_ = true;
  body_ += "<figure>" + svg.markup;
  if (!caption.empty()) body_ += fmt::format("<figcaption>{}</figcaption>", escaped(caption));
  body_ += "</figure>\n";
}

void Page::thumbnails(std::span<const Thumbnail> pictures) {
  close_figures();
  body_ += "<div class=\"pictures\">\n";
  for (const Thumbnail& picture : pictures) {
    body_ += fmt::format("<div class=\"picture{}\">", class_of(picture.tone));
    try {
      body_ += fmt::format("<img src=\"{}\" alt=\"{}\">", thumbnail_url(picture.image), escaped(picture.title));
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kInterrupted) throw;
      body_ += fmt::format("<span class=\"missing\">not readable: {}</span>", escaped(picture.image.string()));
    }
    body_ += fmt::format("<strong>{}</strong>", escaped(picture.title));
    for (const std::string& line : picture.lines) body_ += fmt::format("<span>{}</span>", escaped(line));
    body_ += "</div>\n";
  }
  body_ += "</div>\n";
}

void Page::details(const std::string& summary, const std::string& text) {
  close_figures();
  body_ += fmt::format("<details><summary>{}</summary><pre>{}</pre></details>\n", escaped(summary), escaped(text));
}

std::string Page::html() const {
  // The policy makes "asks for nothing else" a rule of the page itself.
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src "
      "'unsafe-inline'\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<link rel=\"icon\" href=\"data:,\">\n<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n<main>\n"
      "<h1>{0}</h1>\n{2}{3}{4}</main>\n</body>\n</html>\n",
      escaped(title_), kStyle,
      subtitle_.empty() ? "" : fmt::format("<p class=\"subtitle\">{}</p>\n", escaped(subtitle_)), body_,
      in_figures_ ? "</div>\n" : "");
}

void Page::write(const std::filesystem::path& file) const { write_file(file, html()); }

}  // namespace vlmzoo::app::report
