"""Writes tests/goldens/metrics.json from scikit-learn, scipy, statsmodels and numpy.
Usage: make_metrics_goldens.py [OUTPUT]"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import scipy
import sklearn
import statsmodels
from scipy import optimize, special, stats
from sklearn import metrics
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

MASK = (1 << 64) - 1


class SplitMix64:
    """core/include/vlmzoo/random.hpp."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, count):
        return ((self.next() >> 32) * count) >> 32


def calibration_error(probabilities, labels, bins):
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.clip(np.digitize(confidence, np.linspace(0, 1, bins + 1), right=True) - 1, 0, bins - 1)
    parts = [(place == b) for b in range(bins)]
    return sum(abs(right[p].mean() - confidence[p].mean()) * p.sum() for p in parts if p.any()) / len(labels)


def classification_case(name, probabilities, labels, bins):
    classes = list(range(probabilities.shape[1]))
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0
    )
    return {
        "name": name,
        "classes": len(classes),
        "scores": probabilities.flatten().tolist(),
        "labels": labels.tolist(),
        "bin_count": bins,
        "accuracy": metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
        "macro_f1": metrics.f1_score(labels, predicted, average="macro", zero_division=0),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "support": support.tolist(),
        "confusion": metrics.confusion_matrix(labels, predicted, labels=classes).flatten().tolist(),
        "negative_log_likelihood": metrics.log_loss(labels, probabilities, labels=classes) if len(classes) > 1 else 0.0,
        "calibration_error": calibration_error(probabilities, labels, bins),
    }


def noisy_logits(rng, labels, classes, strength, noise):
    logits = noise * rng.standard_normal((len(labels), classes))
    logits[np.arange(len(labels)), labels] += strength
    return np.round(logits, 4)


def classification_cases(rng):
    labels = rng.integers(0, 3, 40)
    yield classification_case(
        "three classes", special.softmax(noisy_logits(rng, labels, 3, 1.5, 1.2), axis=1), labels, 15
    )

    labels = rng.choice([0, 2], 20)  # class 1 is only predicted, class 3 neither
    logits = noisy_logits(rng, labels, 4, 1.0, 1.5)
    logits[:, 3] = -9
    yield classification_case("absent classes", special.softmax(logits, axis=1), labels, 10)

    labels = np.ones(12, dtype=int)
    yield classification_case(
        "one class among the labels", special.softmax(noisy_logits(rng, labels, 3, 1, 1), axis=1), labels, 5
    )

    confidence = np.array([0.5, 0.6, 0.75, 0.75, 0.9, 1.0, 1.0, 0.55])  # on edges of four bins; ties; wrong at 1.0
    right = np.array([1, 0, 1, 0, 1, 1, 0, 1])
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    top = np.where(right, labels, 1 - labels)
    probabilities = np.stack(
        [np.where(top == 0, confidence, 1 - confidence), np.where(top == 1, confidence, 1 - confidence)], axis=1
    )
    yield classification_case("edges and certainty", probabilities, labels, 4)

    yield classification_case("one class at all", np.ones((3, 1)), np.zeros(3, dtype=int), 15)


def temperature_cases(rng):
    for name, strength, noise, scale in [
        ("overconfident", 2.0, 1.2, 4.0),
        ("underconfident", 3.0, 1.0, 0.3),
        ("sharp", 2.0, 1.0, 12.0),
    ]:
        labels = rng.integers(0, 3, 50)
        logits = np.round(scale * noisy_logits(rng, labels, 3, strength, noise), 4)

        def loss(log_temperature, logits=logits, labels=labels):
            return -special.log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(labels)), labels].mean()

        best = optimize.minimize_scalar(
            loss, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-11}
        )
        yield {
            "name": name,
            "classes": 3,
            "scores": logits.flatten().tolist(),
            "labels": labels.tolist(),
            "temperature": float(np.exp(best.x)),
            "negative_log_likelihood": float(best.fun),
        }


def bootstrap_case(correct, seed, resamples, level):
    random, shares = SplitMix64(seed), []
    for _ in range(resamples):
        shares.append(np.mean([correct[random.below(len(correct))] for _ in correct]))
    tail = 50 * (1 - level)
    scipys = stats.bootstrap(
        (correct,), np.mean, confidence_level=level, method="percentile", n_resamples=50_000, rng=1
    )
    return {
        "correct": correct.tolist(),
        "seed": seed,
        "resamples": resamples,
        "level": level,
        "interval": np.percentile(shares, [tail, 100 - tail]).tolist(),
        "scipy_interval": list(scipys.confidence_interval),
    }


def exact_case(right, n, level):
    interval = stats.binomtest(right, n).proportion_ci(level, method="exact")
    return {"right": right, "n": n, "level": level, "interval": [interval.low, interval.high]}


def agresti_min(both, b, c, neither, level):
    """From the four cells with ½ added, as the paper writes it; b: only the baseline right, c: only the candidate."""
    cells = np.array([both, b, c, neither]) + 0.5
    p = cells / cells.sum()
    difference = p[2] - p[1]
    error = np.sqrt((p[1] + p[2] - difference**2) / cells.sum())
    reach = stats.norm.ppf(1 - (1 - level) / 2) * error
    return [max(-1, difference - reach), min(1, difference + reach)]


def verdict(cells, margin, alpha):
    (low, high), (narrow_low, narrow_high) = agresti_min(*cells, 1 - alpha), agresti_min(*cells, 1 - 2 * alpha)
    if -margin < narrow_low and narrow_high < margin:
        result = "equivalent"
    else:
        result = "better" if low > 0 else "worse" if high < 0 else "undecided"
    replace = "yes" if narrow_low > -margin else "no" if narrow_high < -margin else "undecided"
    return result, replace


def needed(cells, margin, alpha, power):
    """The first n, tried one by one, that decides the shares themselves and, with this power, an estimate of them."""
    padded = np.array(cells) + 0.5
    p = padded / padded.sum()
    difference = p[2] - p[1]
    n = np.arange(1, 2_000_001)
    error = np.sqrt((p[1] + p[2] - difference**2) / (n + 2))
    narrow, wide = stats.norm.ppf(1 - alpha) * error, stats.norm.ppf(1 - alpha / 2) * error
    itself = (abs(difference) + narrow < margin) | (abs(difference) > wide)

    def between(low, high):
        return np.maximum(0, stats.norm.cdf(high, difference, error) - stats.norm.cdf(low, difference, error))

    equivalent = between(narrow - margin, np.maximum(margin - narrow, narrow - margin))
    # Better or worse, unless equivalent comes first.
    better = stats.norm.sf(np.maximum(wide, margin - narrow), difference, error)
    worse = stats.norm.cdf(np.minimum(-wide, narrow - margin), difference, error)
    enough = itself & (equivalent + better + worse >= power)
    return int(n[enough.argmax()]) if enough.any() else 0


def paired_case(both, b, c, neither, margin=0.02, alpha=0.05, power=0.8):
    cells = (both, b, c, neither)
    result, replace = verdict(cells, margin, alpha)
    exact = mcnemar([[both, b], [c, neither]], exact=True).pvalue if b + c else 1.0
    return {
        "cells": cells,
        "margin": margin,
        "alpha": alpha,
        "interval": agresti_min(*cells, 1 - alpha),
        "narrow_interval": agresti_min(*cells, 1 - 2 * alpha),
        "mcnemar_p": float(exact),
        "verdict": result,
        "replace": replace,
        "power": power,
        "needed": needed(cells, margin, alpha, power),
    }


def paired_cases():
    yield paired_case(794, 86, 150, 570)  # Agresti, Min 2005: approval ratings
    yield paired_case(100, 40, 20, 0)
    yield paired_case(930, 12, 15, 43)
    yield paired_case(1900, 9, 11, 80)
    yield paired_case(900, 60, 20, 20)
    yield paired_case(10, 0, 0, 0)
    yield paired_case(1, 0, 0, 0)
    yield paired_case(0, 8, 0, 0)
    yield paired_case(0, 0, 3, 0)
    yield paired_case(50, 5, 5, 40, margin=0.1)
    yield paired_case(500, 30, 45, 25, margin=0.05, alpha=0.01, power=0.9)


def kappa_case(first, second, classes):
    confusion = metrics.confusion_matrix(first, second, labels=range(classes))
    return {
        "classes": classes,
        "counts": confusion.flatten().tolist(),
        "kappa": metrics.cohen_kappa_score(first, second),
    }


def main():
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "goldens" / "metrics.json"
    warnings.filterwarnings("ignore", category=UserWarning)  # absent classes, meant here
    rng = np.random.default_rng(20261124)
    raters = rng.integers(0, 3, (2, 60))
    raters[1, :35] = raters[0, :35]
    p = [0.01, 0.04, 0.03, 0.04, 0.5, 0.0]
    values = np.round(rng.gamma(2.0, 30.0, 23), 3)
    goldens = {
        "made_with": f"numpy {np.__version__}, scipy {scipy.__version__}, scikit-learn {sklearn.__version__}, "
        f"statsmodels {statsmodels.__version__}",
        "classification": list(classification_cases(rng)),
        "temperature": list(temperature_cases(rng)),
        "bootstrap": [
            bootstrap_case((rng.random(40) < 0.8).astype(int), seed, 600, level)
            for seed, level in [(0, 0.95), (7, 0.9)]
        ],
        "exact": [exact_case(*case) for case in [(0, 10, 0.95), (10, 10, 0.95), (37, 40, 0.95), (950, 1000, 0.99)]],
        "percentiles": {
            "values": values.tolist(),
            "percent": [0, 2.5, 50, 95, 99, 100],
            "results": np.percentile(values, [0, 2.5, 50, 95, 99, 100]).tolist(),
            "mean": values.mean(),
        },
        "paired": list(paired_cases()),
        "kappa": [kappa_case(*raters, 3), kappa_case([0, 0, 1, 1], [1, 1, 0, 0], 2)],
        "holm": {"p": p, "adjusted": multipletests(p, method="holm")[1].tolist()},
    }
    text = json.dumps(goldens)
    for key in ["classification", "temperature", "bootstrap", "exact", "percentiles", "paired", "kappa", "holm"]:
        text = text.replace(f'"{key}":', f'\n"{key}":')
    output.write_text(text + "\n")
    print(f"{output}: {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
