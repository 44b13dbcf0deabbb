"""Building BERT's training samples: C++ (csrc/host) against the Python reference, on one core.

    python bench/prepare.py [--save] [--rounds N]

Documents of random tokens with Wikipedia's proportions (a document has about 20 sentences, a sentence about 27
tokens, both log-normally distributed), 512 tokens with at most 76 masked and 128 with at most 20. Both contestants get
the same tokens and must make the same samples, which is checked first; times are per sample. Padding to NVIDIA's padded
form is timed separately, against a vectorised NumPy version.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import fields

import harness
import numpy as np
import torch

from airank_fast.data.host import host
from airank_fast.data.text.samples import Samples, pad_rows, pad_rows_reference
from airank_fast.data.text.sentence_pairs import Documents, PairOptions, build_samples, build_samples_reference

VOCAB_SIZE = 30522


def made_up_documents(num_documents: int) -> Documents:
    """Log-normal lengths, uniform tokens."""
    rng = np.random.default_rng(0)
    num_sentences = np.ceil(rng.lognormal(2.4, 1.1, num_documents)).astype(np.int64)
    lengths = np.ceil(rng.lognormal(3.1, 0.6, num_sentences.sum())).astype(np.int64)
    tokens = rng.integers(999, VOCAB_SIZE, lengths.sum()).astype(np.int32)
    zero = np.zeros(1, np.int64)
    return Documents(tokens, np.concatenate([zero, lengths.cumsum()]), np.concatenate([zero, num_sentences.cumsum()]))


def check(ours: Samples, theirs: Samples) -> None:
    """The samples must be equal in every bit."""
    for field in fields(Samples):
        np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="append the results to bench/results/prepare.jsonl")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    if host is None:
        raise SystemExit("airank_fast._host: must be built, got none (python setup.py build_ext --inplace)")
    torch.set_num_threads(1)
    documents = made_up_documents(2000)
    for length, predictions in ((512, 76), (128, 20)):
        options = PairOptions(length, predictions, VOCAB_SIZE, cls_id=101, sep_id=102, mask_id=103)
        samples = build_samples(documents, options)
        check(samples, build_samples_reference(documents, options))
        facts = {"num_samples": len(samples), "mean_length": samples.lengths.mean(), "threads": 1}
        building = {
            "C++": lambda options=options: build_samples(documents, options),
            "Python reference": lambda options=options: build_samples_reference(documents, options),
        }
        report(arguments, f"build samples of {length} tokens", building, len(samples), facts)
        rows = samples.input_ids, samples.token_offsets, length
        np.testing.assert_array_equal(pad_rows(*rows), pad_rows_reference(*rows))
        padding = {"C++": lambda rows=rows: pad_rows(*rows), "NumPy": lambda rows=rows: pad_rows_reference(*rows)}
        report(arguments, f"pad input_ids to {length} tokens", padding, len(samples), facts)


def report(arguments, case: str, contestants: dict, num_samples: int, facts: dict) -> None:
    """Time and print one case; save it on request."""
    times = harness.time_rounds(contestants, num_rounds=arguments.rounds)
    rates = {name: round(num_samples / statistics.median(values)) for name, values in times.items()}
    print(harness.as_text(case, times, "C++"))
    print("  samples/s: " + ", ".join(f"{name} {rate:,}" for name, rate in rates.items()))
    if arguments.save:
        harness.save("prepare", case, times, "C++", samples_per_s=rates, **facts)


if __name__ == "__main__":
    main()
