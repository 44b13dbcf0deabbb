"""Word2Vec: word vectors of the One Billion Word corpus, evaluated by analogies.

`analogy_accuracy` is by AI-Rank's own rule, which its target is of; `usual_accuracy` is by that of word2vec.c and
gensim, `family_accuracy` that of the section `family`: see airank_fast/quality/analogies.py. AI-Rank's own run keeps
30,294,863 of the 30,301,028 sentences.
"""

from airank_fast.tasks import AIRANK_2021, BLANK_2020, Metric, Target, Task

TASK = Task(
    name="word2vec",
    model="Word2Vec",
    title={"zh": "语义表示", "en": "word vectors"},
    unit="words",
    metrics=(Metric("analogy_accuracy"), Metric("usual_accuracy"), Metric("family_accuracy")),
    names={"airank": "Word2Vec"},
    data_set="One Billion Word",
    eval_samples=19_544,
    least_samples=30_294_863,
    targets={"airank 2020-12": BLANK_2020, "airank 2021-05": Target({"analogy_accuracy": 0.6}, AIRANK_2021)},
)
