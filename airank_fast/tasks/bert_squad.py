"""BERT that answers questions: SQuAD 1.1, the network of MLPerf's and AI-Rank's inference. No training book has it.

Its bounds in inference are in rules/inference_profiles.py. Evaluation counts questions, of which a long paragraph's
have several windows: 10,833 windows of 10,570 questions with Google's uncased vocabulary (MLPerf, language/bert).
"""

from airank_fast.tasks import Metric, Task

TASK = Task(
    name="bert_squad",
    model="BERT, question answering",
    title={"zh": "阅读理解", "en": "question answering, BERT"},
    metrics=(Metric("f1"), Metric("exact_match")),
    network="bert_squad_large",
    data_set="SQuAD 1.1",
    eval_samples=10_833,
    least_samples=80_000,
)
