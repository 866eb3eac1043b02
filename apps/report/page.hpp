#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// One HTML file that opens anywhere and asks for nothing else: no script, no network, pictures and charts inside. It
/// reads on a phone and on paper, in light and in dark. All text is escaped here; callers pass plain text.
namespace vlmzoo::app::report {

/// A drawing of charts.hpp, as markup.
struct Svg {
  std::string markup;
};

enum class Tone { kNeutral, kGood, kWarning, kBad };

/// A picture that is shown small.
struct Thumbnail {
  std::filesystem::path image;
  std::string title;               ///< below it, in bold; also what a screen reader says
  std::vector<std::string> lines;  ///< below that
  Tone tone = Tone::kNeutral;
};

/// Text for HTML: markup escaped, control characters left out, bytes that are no UTF-8 replaced by U+FFFD.
std::string escaped(std::string_view text);

/// "data:image/jpeg;base64,…" of the picture, no side longer than `side` pixels. Errors: as load_image().
std::string thumbnail_url(const std::filesystem::path& image, int side = 160);

class Page {
 public:
  explicit Page(std::string title, std::string subtitle = "");

  /// A box that stands out, for what the report comes to.
  void verdict(const std::string& headline, const std::string& text, Tone tone);
  void section(const std::string& heading);
  void paragraph(const std::string& text);
  /// A header that begins with '>' makes its column right-aligned, as in Table. The first column heads its row.
  void table(const std::vector<std::string>& headers, const std::vector<std::vector<std::string>>& rows,
             const std::string& caption = "");
  /// Figures that follow each other stand side by side where there is room.
  void figure(const Svg& svg, const std::string& caption = "");
  /// A picture that can't be read is shown as its name alone.
  void thumbnails(std::span<const Thumbnail> pictures);
  /// Text in a fixed pitch, folded away until it is asked for.
  void details(const std::string& summary, const std::string& text);

  std::string html() const;
  void write(const std::filesystem::path& file) const;  ///< Errors: as write_file()

 private:
  void close_figures();

  std::string title_, subtitle_, body_;
  bool in_figures_ = false;
};

}  // namespace vlmzoo::app::report
