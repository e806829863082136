"""Question-passage groups for the reranker: reading, splitting, mining, sampling.

A source is a folder with corpus.jsonl.gz, queries.jsonl.gz and qrels.tsv.gz (score 1 positive, 0 hard negative) or, where a teacher
judged the passages, taught.tsv.gz (log odds). Called by `reranker.py`; it never reads the test sets. Sampling depends on (seed, number of the group) alone, so a resumed run sees what an unbroken one would.
"""
import collections
import dataclasses
import gzip
import hashlib
import json
import pathlib
import re
import unicodedata

import numpy as np

import model as models

# Shares of the groups drawn from each source. SQuAD is the only large source with annotated positives of Wikipedia passages; nq_qed and nq_distant are tiny but annotated,
# or nearly, and of the kind that people type; nq_taught has thousands of those with a teacher's opinion of their passages; medquad teaches that the
# right disease is not yet the right answer. Models of the two mixes are averaged: each is better than the other at what it saw most of.
MIXES = {
    "labelled": {
        "squad_dev": 0.40,
        "squad_unanswerable": 0.09,
        "squad_sentences": 0.11,
        "nq_qed": 0.10,
        "nq_distant": 0.13,
        "hotpotqa_train100": 0.06,
        "musique_train100": 0.05,
        "medquad": 0.06,
    },
    "taught": {
        "nq_taught": 0.50,
        "squad_dev": 0.15,
        "squad_unanswerable": 0.05,
        "squad_sentences": 0.07,
        "nq_qed": 0.07,
        "nq_distant": 0.05,
        "hotpotqa_train100": 0.04,
        "musique_train100": 0.03,
        "medquad": 0.04,
    },
}
# Sources with answer strings and passages longer than a window: their candidates are cut around, or away from, the answer.
WINDOWED = ("squad_dev", "nq_qed", "nq_distant")
# Word pieces kept of every passage of a group, and how often. One length for the whole group: length must not tell the label.
WINDOWS = ((48, 0.35), (80, 0.35), (128, 0.30))
# A teacher read the whole passage.
TAUGHT_WINDOW = 144
TITLE_DROPPED = 0.15
# Log odds of what somebody annotated: certain, as far as a float32 loss can tell.
CERTAIN = 20.0


@dataclasses.dataclass
class Passage:
    title: np.ndarray  # word pieces, may be empty
    text: np.ndarray
    plain: str  # normalised text, to look answers up in


@dataclasses.dataclass
class Query:
    id: str
    source: str
    question: np.ndarray
    answers: list  # word pieces of every answer
    plain_answers: list  # normalised
    positives: list  # indices of passages
    negatives: list
    taught: dict  # index of a passage -> log odds, where a teacher judged; positives and negatives are empty then
    group: str  # article title or the question: what the split hashes


@dataclasses.dataclass
class Source:
    name: str
    passages: list
    queries: list


def read_lines(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def normalise(text):
    text = unicodedata.normalize("NFD", text).lower()
    return " " + " ".join(re.findall(r"\w+", text)) + " "


def in_dev(key, percent):
    """A fixed pseudo-random `percent` of the keys."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100 < percent


def read_source(roots, name, tok):
    folder = next((folder for folder in (pathlib.Path(one) / name for one in roots) if folder.is_dir()), None)
    if folder is None:
        raise SystemExit(f"{name} is in none of {', '.join(map(str, roots))}: give its folder with --data, or leave it out with --sources")
    rows = read_lines(folder / "corpus.jsonl.gz")
    titles = models.pieces(tok, [(row["title"].strip() + ".") if row["title"].strip() else "" for row in rows])
    texts = models.pieces(tok, [row["text"] for row in rows])
    passages = [Passage(title, text[:400], normalise(row["text"])) for title, text, row in zip(titles, texts, rows)]
    number = {row["id"]: i for i, row in enumerate(rows)}
    judged = collections.defaultdict(lambda: ([], [], {}))
    by_teacher = (folder / "taught.tsv.gz").exists()
    with gzip.open(folder / ("taught.tsv.gz" if by_teacher else "qrels.tsv.gz"), "rt", encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            query, passage, score = line.rstrip("\n").split("\t")
            if by_teacher:
                judged[query][2][number[passage]] = float(score)
            else:
                judged[query][int(score) == 0].append(number[passage])
    asked = [row for row in read_lines(folder / "queries.jsonl.gz") if row["id"] in judged]
    questions = models.pieces(tok, [row["question"] for row in asked])
    spellings = sorted({answer for row in asked for answer in row.get("answers") or []})
    spelled = dict(zip(spellings, models.pieces(tok, spellings)))
    queries = []
    for row, question in zip(asked, questions):
        positives, negatives, taught = judged[row["id"]]
        answers = row.get("answers") or []
        first = (positives or negatives or list(taught))[0]
        article = rows[first]["title"].strip()
        queries.append(
            Query(row["id"], name, question, [spelled[a] for a in answers if len(spelled[a])],
                  [n for n in map(normalise, answers) if n.strip()], positives, negatives, taught, article or row["question"])
        )
    return Source(name, passages, queries)


def load(roots, tok, names):
    """The sources called `names`, in their order, each from the first of the folders `roots` that has it; `squad_unanswerable` comes with `squad_dev` and shares its passages."""
    sources = {}
    for name in names:
        if name == "squad_unanswerable":
            continue
        source = read_source(roots, name, tok)
        if name == "squad_dev":
            without = [q for q in source.queries if not q.positives]
            source.queries = [q for q in source.queries if q.positives]
            sources["squad_unanswerable"] = Source("squad_unanswerable", source.passages, without)
        sources[name] = source
    return {name: sources[name] for name in names if name in sources}


def split(sources):
    """(train, dev) by hash: SQuAD and medquad by article, so that no dev passage is trained on; the others by question.
    40 % of the few nq_qed questions, as they also choose the weight of the interpolation."""
    train, dev = {}, {}
    for name, source in sources.items():
        percent = 40 if name == "nq_qed" else 10
        by_article = name.startswith("squad_") or name == "medquad"
        keys = [q.group if by_article else q.id for q in source.queries]
        train[name] = Source(name, source.passages, [q for q, k in zip(source.queries, keys) if not in_dev(k, percent)])
        dev[name] = Source(name, source.passages, [q for q, k in zip(source.queries, keys) if in_dev(k, percent)])
    return train, dev


def passage_input(passage):
    return np.concatenate([passage.title, passage.text])


def mine(source, encoder, device, depth=30, keep=12):
    """Adds to the negatives what the dense retriever ranks high though it holds no answer string and is not judged positive.
    Returns cosines as a dict (query id, passage index) -> float for the top `depth`."""
    passages = models.embed(encoder, [passage_input(p) for p in source.passages], device)
    questions = models.embed(encoder, [q.question for q in source.queries], device)
    cosines = {}
    for query, vector in zip(source.queries, questions):
        similarity = passages @ vector
        top = np.argsort(-similarity, kind="stable")[:depth]
        cosines.update({(query.id, int(i)): float(similarity[i]) for i in top})
        found = [
            int(i) for i in top
            if i not in query.positives and not any(a in source.passages[i].plain for a in query.plain_answers)
        ]
        query.negatives = list(dict.fromkeys(query.negatives[:1] * (not query.positives) + found[:keep] + query.negatives))
    return cosines


def find(needle, haystack):
    """Start of the first occurrence of one int array in another, or -1."""
    width = len(needle)
    for start in np.flatnonzero(haystack[: len(haystack) - width + 1] == needle[0]):
        if np.array_equal(haystack[start : start + width], needle):
            return int(start)
    return -1


def window(text, budget, rng, span=None):
    """`budget` consecutive word pieces, holding `span` (start, end) if given and if it fits; else from anywhere."""
    room = len(text) - budget
    if room <= 0:
        return text
    low, high = 0, room
    if span and span[1] - span[0] <= budget:
        low, high = max(0, span[1] - budget), min(room, span[0])
    start = int(rng.integers(low, high + 1))
    return text[start : start + budget]


def candidate(query, passage, budget, rng, positive, titled):
    """Word pieces of the passage as one candidate sees them. None if a positive's window cannot be shown to hold the answer."""
    text = passage.text
    if query.source in WINDOWED and len(text) > budget:
        span = None
        if positive:
            spans = [(at, at + len(a)) for a in query.answers if (at := find(a, text)) >= 0]
            if not spans:
                return None
            span = spans[0]
        text = window(text, budget, rng, span)
    else:
        text = text[:budget]
    return np.concatenate([passage.title, text]) if titled else text


class Sampler:
    """Draws groups (pairs, log odds of each that it is right): one question, its first candidate positive (if it has any), the others negative,
    or passages that a teacher judged."""

    def __init__(self, train, mix, negatives, seed):
        self.sources = {name: source for name, source in train.items() if source.queries}
        self.negatives, self.seed = negatives, seed
        self.names = list(self.sources)
        self.shares = np.array([mix[name] for name in self.names]) / sum(mix[name] for name in self.names)
        self.permutations = {}

    def query(self, name, count):
        """The `count`-th question drawn of a source: each once before any comes again."""
        queries = self.sources[name].queries
        epoch, at = divmod(count, len(queries))
        if self.permutations.get(name, (-1,))[0] != epoch:
            order = np.random.default_rng([self.seed, epoch, self.names.index(name)]).permutation(len(queries))
            self.permutations[name] = (epoch, order)
        return queries[self.permutations[name][1][at]]

    def groups(self, step, per_step, counts):
        """`per_step` groups; `counts` (questions drawn of each source) is moved on in place."""
        rng = np.random.default_rng([self.seed, 1_000_003, step])
        budgets, odds = zip(*WINDOWS)
        out = []
        for name in rng.choice(self.names, size=per_step, p=self.shares):
            name = str(name)
            query = self.query(name, counts.get(name, 0))
            counts[name] = counts.get(name, 0) + 1
            out.append(self.group(query, self.sources[name].passages, int(rng.choice(budgets, p=odds)), rng))
        return out

    def group(self, query, passages, budget, rng):
        titled = rng.random() >= TITLE_DROPPED
        question = query.question
        if rng.random() < 0.5 and len(question) > 3 and question[-1] == 1029:  # typed questions have no "?"
            question = question[:-1]
        if query.taught:
            return self.taught_group(query, question, passages, rng, titled)
        texts = []
        if query.positives:
            at = query.positives[int(rng.integers(len(query.positives)))]
            text = candidate(query, passages[at], budget, rng, True, titled)
            if text is None:
                text = candidate(query, passages[at], 10_000, rng, True, titled)
            texts.append(text)
            texts += self.same_passage(query, passages[at], budget, rng, titled)
        pool = query.negatives
        wanted = (self.negatives + 1 - len(texts)) if query.positives else 2
        if query.positives:
            # The front of the list is harder; half of the draws come from its first six.
            weight = np.where(np.arange(len(pool)) < 6, 2.0, 1.0)
            picked = rng.choice(len(pool), size=min(wanted, len(pool)), replace=False, p=weight / weight.sum()) if pool else []
        else:
            picked = [0] + ([int(rng.integers(1, len(pool)))] if len(pool) > 1 else [])
        for i in picked:
            texts.append(candidate(query, passages[pool[int(i)]], budget if query.positives else 140, rng, False, titled))
        odds = np.full(len(texts), -CERTAIN, np.float32)
        odds[0] *= -1 if query.positives else 1
        return [models.pair_ids(question, text, 256) for text in texts], odds

    def taught_group(self, query, question, passages, rng, titled):
        """Half of the candidates from those that the teacher thinks best of: which of them is right is what there is to learn."""
        ranked = sorted(query.taught, key=lambda i: -query.taught[i])
        wanted = min(self.negatives + 1, len(ranked))
        best, rest = ranked[: wanted], ranked[wanted:]
        from_rest = min(wanted // 2, len(rest))
        picked = [best[i] for i in rng.choice(len(best), size=wanted - from_rest, replace=False)]
        picked += [rest[i] for i in rng.choice(len(rest), size=from_rest, replace=False)] if from_rest else []
        texts = [candidate(query, passages[i], TAUGHT_WINDOW, rng, False, titled) for i in picked]
        odds = np.array([query.taught[i] for i in picked], np.float32)
        return [models.pair_ids(question, text, 256) for text in texts], odds

    def same_passage(self, query, passage, budget, rng, titled):
        """Half of the time, the window of the right passage that lacks the answer: the hardest negative there is."""
        if query.source != "squad_dev" or len(passage.text) < budget + 24 or rng.random() < 0.5:
            return []
        for _ in range(4):
            text = window(passage.text, budget, rng)
            if all(find(a, text) < 0 for a in query.answers):
                return [np.concatenate([passage.title, text]) if titled else text]
        return []
