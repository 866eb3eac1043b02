#pragma once

namespace vlmzoo {

/// Throws Error(kConfig) unless 0 <= label_smoothing < 1.
void check_smoothing(double label_smoothing);

/// Throws Error(kConfig) unless it is a finite number from 0 on.
void check_normalizer(double normalizer);

}  // namespace vlmzoo
