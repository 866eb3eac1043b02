"""Writes tests/goldens/comparison.json: what SQuAD's scores (Rajpurkar et al. 2016, section 6.1) are of answers, and what
scikit-learn, scipy and statsmodels say of two models' classes. Usage: make_comparison_goldens.py [OUTPUT]"""

import json
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import scipy
import sklearn
import statsmodels
from scipy import special, stats
from sklearn import metrics
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests

ANSWERS = [
    ("There are two receipts.", "two receipts"),
    ("The  Answer: an apple!", "answer apple"),
    ("a an the", ""),
    ("", ""),
    ("", "none"),
    ("two two receipts", "two receipts two cards"),
    ("$5.00 + tax", "500 tax"),
    ("it's theatre, another day", "its theatre another day"),
    ("\u00c4rzte\u2014f\u00fcr \u201eSTRASSE\u201c", "\u00e4rztef\u00fcr stra\u00dfe"),
    ("\uff11\uff12 \uff52eceipts\u3002", "12 receipts"),
    ("line\nbreak\ttab\u00a0space", "line break tab space"),
    ("e\u0301t\u00e9", "\u00e9te\u0301"),
    ("none", "several"),
]


def normalized(text):
    """Folded; then, as in SQuAD, without punctuation and articles, blanks as one space."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    symbols = set("$+<=>^`|~")
    text = "".join(c for c in text if not (unicodedata.category(c).startswith("P") or c in symbols))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def token_f1(answer, expected):
    got, wanted = normalized(answer).split(), normalized(expected).split()
    if not got or not wanted:
        return float(got == wanted)
    shared = sum((Counter(got) & Counter(wanted)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(got), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def comparison_case(rng, n, strengths, classes=3):
    labels = rng.integers(0, classes, n)
    common = rng.standard_normal((n, classes))  # what is hard for one is hard for the other
    logits = []
    for strength in strengths:
        one = 0.8 * common + 0.6 * rng.standard_normal((n, classes))
        one[np.arange(n), labels] += strength
        logits.append(np.round(one, 4))
    first, second = (one.argmax(axis=1) for one in logits)
    right = np.stack([first == labels, second == labels])
    table = [[int(((right[0] == a) & (right[1] == b)).sum()) for b in (True, False)] for a in (True, False)]
    confusion = metrics.confusion_matrix(first, second, labels=range(classes))
    per_class = []
    for k in range(classes):
        one, other = right[0][labels == k], right[1][labels == k]
        b, c = int((one & ~other).sum()), int((~one & other).sum())
        per_class.append(stats.binomtest(min(b, c), b + c).pvalue if b + c else 1.0)
    bootstrap = stats.bootstrap(
        tuple(right.astype(float)),
        lambda one, other, axis: (other - one).mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=50_000,
        rng=1,
    )
    return {
        "labels": labels.tolist(),
        "baseline_logits": logits[0].flatten().tolist(),
        "candidate_logits": logits[1].flatten().tolist(),
        "baseline_accuracy": metrics.accuracy_score(labels, first),
        "candidate_accuracy": metrics.accuracy_score(labels, second),
        "candidate_nll": metrics.log_loss(labels, special.softmax(logits[1], axis=1), labels=range(classes)),
        "mcnemar_p": float(mcnemar(table, exact=True).pvalue),
        "flips": [table[0][1], table[1][0]],
        "agreement": metrics.accuracy_score(first, second),
        "kappa": float(cohens_kappa(confusion).kappa),
        "bootstrap": list(bootstrap.confidence_interval),
        "class_p": per_class,
        "class_holm_p": multipletests(per_class, method="holm")[1].tolist(),
    }


def main():
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "goldens" / "comparison.json"
    rng = np.random.default_rng(20261124)
    goldens = {
        "made_with": f"numpy {np.__version__}, scipy {scipy.__version__}, scikit-learn {sklearn.__version__}, "
        f"statsmodels {statsmodels.__version__}",
        "answers": [
            {"answer": a, "expected": b, "normalized": normalized(a), "token_f1": token_f1(a, b)} for a, b in ANSWERS
        ],
        "comparisons": [comparison_case(rng, 120, (1.2, 2.0)), comparison_case(rng, 90, (2.0, 1.9))],
    }
    text = json.dumps(goldens)
    for key in ["answers", "comparisons"]:
        text = text.replace(f'"{key}":', f'\n"{key}":')
    output.write_text(text + "\n")
    print(f"{output}: {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
