"""Weights of the second stage for Chinese (WORDS, SENTENCES and PAIRS of src/rag/retrieve/chinese.rs), fitted on training questions.

    python chinese_weights.py --limit 1500 RAG_TRAIN/drcd_dev+RAG/drcd RAG_TRAIN/cmrc2018_trial+RAG/cmrc2018 RAG_TRAIN/xquad_zh

A SET is a folder with `corpus.jsonl[.gz]`, `queries.jsonl[.gz]` and `qrels.tsv[.gz]` (score above 0 is relevant); `+CORPUS` adds the passages of
further folders as distractors, less those that are in the set itself. Questions of a distractor are not read. No gateway is asked: terms, BM25 and
the three measures are computed here as src/rag/terms.rs and chinese.rs do, but for English endings, which stay on, and for passages
of more than 800 characters, which are cut at ends of sentences by simpler rules.

The score of a passage is the weighted sum of its measures. The weights are fitted as a softmax over the 50 best passages by BM25 of each question: how
much of it falls on right ones. Sets count alike; L2 on standardised weights, none below 0. The order depends on the ratios of the weights alone.

Prints the loss (with the penalty), R@2 and MRR@10 in percent of each set in the order by BM25, by the fitted weights, and by weights fitted on the
other sets, and the constants to paste.
"""

import argparse
import gzip
import itertools
import json
import pathlib
import re
import unicodedata

import jieba
import numpy as np
import scipy.sparse
from scipy.optimize import minimize

NAMES = ["WORDS", "SENTENCES", "PAIRS"]
DEPTH = 50
SPACED, WORD, PART = 3.0, 1.0, 0.5
# k1 and b of the search before, and of the second stage.
FIRST, SECOND = (1.2, 0.75), (0.9, 0.4)
ENDS = re.compile("[。!?;\n]")
CHUNK, OVERLAP = 800, 120
SENTENCE = re.compile(rf"[^。！？；!?]{{1,{CHUNK}}}[。！？；!?]*|[。！？；!?]+")
L2 = 1e-3
LETTERS = str.maketrans(dict(zip("ßæœøłđðþı\u2018\u2019\u02bc", ["ss", "ae", "oe", "o", "l", "d", "d", "th", "i", "'", "'", "'"])))
# Without spaces between words: Han; kana, Thai, Lao, Burmese, Khmer and hangul.
HAN_RANGES = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
RANGES = HAN_RANGES + "\u3041-\u30ff\u31f0-\u31ff\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\uac00-\ud7af"
HAN, UNSPACED, RUNS = re.compile(f"[{HAN_RANGES}]+"), re.compile(f"[{RANGES}]"), re.compile(f"[{RANGES}]+|[^{RANGES}]+")
# Letters joined by . ' : and digits by . , ' are one word: near enough to Unicode's rules.
SPACED_WORD = re.compile(r"\w+(?:(?:(?<=[^\W\d_])[.':·](?=[^\W\d_])|(?<=\d)[.,'](?=\d))\w+)*")
ENGLISH_STOP_WORDS = frozenset("""
    a an and are as at be been being but by for if in into is it its no not of on or such than that the their then there these they this to was were will with am do does
    did has have had he her his him i me my our she so we you your from can could should would about how what when where which who whom whose why""".split())
CHINESE_STOP_WORDS = frozenset("""
    的 了 吗 嗎 呢 吧 啊 是 在 有 和 与 與 及 或 也 都 就 被 把 将 將 为 為 以 于 於 之 其 这 這 那 个 個 我 你 他 她 它 们 們 而 但 我们 我們 你们 你們 他们 他們 它们 它們
    这个 這個 那个 那個 一个 一個 一种 一種 可以 因为 因為 所以 但是 以及 及其 什么 什麼 甚麼 怎么 怎麼 怎样 怎樣 怎么样 怎麼樣 如何 为什么 為什麼 为何 為何 哪 哪个 哪個 哪些 哪里
    哪裡 哪种 哪種 谁 誰 几 幾 多少 何 何时 何時 何种 何種 何者 是否 请问 請問""".split())


def lines(folder, name):
    path = folder / name
    path = path if path.exists() else path.with_name(path.name + ".gz")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        yield from file


def fold(text):
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not 0x300 <= ord(c) <= 0x36F)
    return "".join(c.lower() for c in unicodedata.normalize("NFC", plain)).translate(LETTERS)


def spaced_terms(word):
    if "_" in word:
        return [term for part in word.split("_") for term in spaced_terms(part)]
    parts = word.split(".") if any(c.isalpha() for c in word) else [word]
    if all(len(part) <= 1 for part in parts):
        parts = [word.replace(".", "")]
    return [part[:64] for part in parts if part and part not in ENGLISH_STOP_WORDS]


def unspaced_terms(run):
    spans, marks = set(), ["alone"] * len(run)
    for part in HAN.finditer(run):
        for word, start, end in jieba.tokenize(part.group(), mode="search"):
            start, end = part.start() + start, part.start() + end
            if word in CHINESE_STOP_WORDS:
                marks[start:end] = ["stopped"] * (end - start)
            elif end - start > 1:
                marks[start:end] = ["word"] * (end - start)
                spans |= {(start, end)} if end - start <= 64 else set()
        spans.update((i, i + 1) for i in range(*part.span()) if marks[i] != "stopped")
    spans.update((i, i + 2) for i, pair in enumerate(zip(marks, marks[1:])) if "stopped" not in pair and pair != ("word", "word"))
    spans |= {(0, 1)} if marks == ["alone"] else set()
    return [run[start:end] for start, end in sorted(spans)]


def terms(folded):
    found = []
    for run in RUNS.findall(folded):
        found += unspaced_terms(run) if UNSPACED.match(run) else [term for word in SPACED_WORD.findall(run) for term in spaced_terms(word)]
    return found


def worths(folded):
    """The terms of a question, each once, with what their kind is worth."""
    words = {word for run in HAN.findall(folded) for word in jieba.cut(run)}
    kinds = {term: WORD if term in words or len(term) == 1 else PART for term in terms(folded)}
    return {term: kind if UNSPACED.search(term) else SPACED for term, kind in kinds.items()}


def chunks(text):
    """About even parts of whole sentences, each with the end of the one before."""
    text = " ".join(text.split())
    target = len(text) / max(1, -(-len(text) // CHUNK))
    sentences = [match.span() for match in SENTENCE.finditer(text)]
    parts, start, fresh = [], 0, 0
    for at, end in sentences:
        if at > fresh and (end - start > CHUNK or (at + end) / 2 - start > target):
            parts.append((start, at))
            start, fresh = next(first for first, _ in sentences if first >= at - OVERLAP), at
    if parts and len(text) - fresh < CHUNK // 4 and len(text) - parts[-1][0] <= CHUNK:
        start = parts.pop()[0]
    return [text[start:end] for start, end in [*parts, (start, len(text))]]


class Base:
    """The passages of a knowledge base and what is counted in them."""

    def __init__(self, corpora):
        seen, self.ids, self.document, self.texts = set(), {}, [], []
        for n, corpus in enumerate(corpora):
            for passage in map(json.loads, lines(corpus, "corpus.jsonl")):
                key = passage.get("title", ""), " ".join(passage["text"].split())
                if key in seen:
                    continue
                seen.add(key)
                self.ids[n, passage["id"]] = len(self.ids)
                parts = [fold(f"{key[0]}\n{chunk}") for chunk in chunks(passage["text"])]
                self.texts += parts
                self.document += [len(self.ids) - 1] * len(parts)
        counted = [terms(text) for text in self.texts]
        self.vocabulary = {term: at for at, term in enumerate(dict.fromkeys(itertools.chain(*counted)))}
        self.lengths = np.array([len(row) for row in counted], float)
        columns = [self.vocabulary[term] for row in counted for term in row]
        places = np.repeat(np.arange(len(counted)), self.lengths.astype(int)), columns
        self.counts = scipy.sparse.coo_matrix((np.ones(len(columns)), places)).tocsr()
        frequencies = np.bincount(self.counts.indices)
        self.rarity = np.log(1 + (len(counted) - frequencies + 0.5) / (frequencies + 0.5))
        self.bm25 = {which: self.saturated(*which) for which in (FIRST, SECOND)}

    def saturated(self, k1, b):
        """Of BM25, what a term counts in a passage before how rare it is: below 1."""
        m = self.counts.tocoo()
        m.data = m.data / (m.data + k1 * (1 - b + b * self.lengths / self.lengths.mean())[m.row])
        return m.tocsc()

    def idf(self, term):
        at = self.vocabulary.get(term)
        return np.log(1 + (len(self.texts) + 0.5) / 0.5) if at is None else self.rarity[at]

    def group(self, question, gold):
        """The candidates of a question with BM25 and the three measures."""
        folded = fold(question)
        weights = {term: worth * self.idf(term) for term, worth in worths(folded).items()}
        known = [term for term in weights if term in self.vocabulary]
        columns, whole = [self.vocabulary[term] for term in known], sum(weights.values())
        first = self.bm25[FIRST][:, columns] @ self.rarity[columns]
        top = np.argsort(-first, kind="stable")[:DEPTH]
        top = top[first[top] > 0]
        words = self.bm25[SECOND][:, columns] @ np.array([weights[term] for term in known])
        pairs = {a + b for word in re.findall(r"[^\W_]+", folded) for a, b in zip(word, word[1:]) if not (a + b).isascii()}
        x = np.zeros((len(top), 4))
        for row, at, text in zip(x, top, (self.texts[at] for at in top)):
            present = [term for term in weights if term in text]
            before, best = set(), 0.0
            for sentence in filter(None, ENDS.split(text)):
                here = {term for term in present if term in sentence}
                best = max(best, sum(weights[term] for term in present if term in here or term in before))
                before = here
            common = sum(pair in text for pair in pairs) / len(pairs) if pairs else sum(weights[term] for term in present) / whole
            row[:] = words[at] / whole, best / whole, common, first[at] / sum(map(self.idf, weights))
        documents = np.array([self.document[at] for at in top], int)
        return {"x": x, "gold": np.isin(documents, gold), "documents": documents, "n_gold": len(gold)}


def load(spec, limit):
    corpora = [pathlib.Path(folder) for folder in spec.split("+")]
    base, gold = Base(corpora), {}
    for line in lines(corpora[0], "qrels.tsv"):
        query, passage, score = line.rstrip("\n").split("\t")
        if score.lstrip("-").isdigit() and int(score) > 0:
            gold.setdefault(query, []).append(base.ids[0, passage])
    queries = [query for query in map(json.loads, lines(corpora[0], "queries.jsonl")) if query["id"] in gold]
    chosen = np.sort(np.random.default_rng(1).permutation(len(queries))[: limit or None])
    groups = [base.group(queries[at]["question"], gold[queries[at]["id"]]) for at in chosen]
    found = np.mean([group["gold"].any() for group in groups])
    print(f"{corpora[0].name}: {len(groups)} questions, {len(base.texts)} passages, right ones among the candidates of {found:.2%}", flush=True)
    return groups


def fit(sets, columns):
    """Weights of raw columns, and the loss."""
    usable = [[group for group in groups if group["gold"].any()] for groups in sets]
    std = np.concatenate([group["x"] for groups in usable for group in groups]).std(0)[columns] + 1e-9

    def loss(w):
        value, slope = L2 * w @ w, 2 * L2 * w
        for groups in usable:
            for group in groups:
                x = group["x"][:, columns] / std
                scores = x @ w
                e = np.exp(scores - scores.max())
                share, right = e / e.sum(), e * group["gold"] / e[group["gold"]].sum()
                value -= np.log(share[group["gold"]].sum()) / len(groups) / len(usable)
                slope = slope + (share - right) @ x / len(groups) / len(usable)
        return value, slope

    result = minimize(loss, np.ones(len(columns)), jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(columns))
    return result.x / std, result.fun


def show(name, groups, columns, weights):
    """R@2 and MRR@10; a document of several passages stands where its best one does."""
    values = []
    for group in groups:
        order = np.argsort(-(group["x"][:, columns] @ weights), kind="stable")
        gold = np.array(list({group["documents"][at]: group["gold"][at] for at in order}.values()), bool)
        hits = np.flatnonzero(gold[:10])
        values.append([gold[:2].sum() / group["n_gold"], 1 / (hits[0] + 1) if len(hits) else 0])
    mean, error = 100 * np.mean(values, 0), 100 * np.std(values, 0) / len(values) ** 0.5
    print(f"{name:40} R@2 {mean[0]:5.2f} +-{error[0]:.2f}  MRR@10 {mean[1]:5.2f} +-{error[1]:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=0, help="questions of a set, drawn at random")
    parser.add_argument("sets", nargs="+", metavar="SET[+CORPUS]")
    args = parser.parse_args()
    jieba.setLogLevel("ERROR")
    sets = {pathlib.Path(spec.split("+")[0]).name: load(spec, args.limit) for spec in args.sets}
    before, measures = [3], [0, 1, 2]
    (_, loss_before), (weights, loss) = fit(sets.values(), before), fit(sets.values(), measures)
    print(f"loss: {loss_before:.4f} BM25 with the best scale, {loss:.4f} the three measures")
    for name, groups in sets.items():
        show(f"{name}: BM25", groups, before, np.ones(1))
        show(f"{name}: fitted", groups, measures, weights)
        others = [other for other in sets.values() if other is not groups]
        if others:
            show(f"{name}: fitted on the others", groups, measures, fit(others, measures)[0])
    for name, value in zip(NAMES, weights):
        print(f"const {name}: f32 = {value:.2f};    // {value / weights[0]:.3f} of {NAMES[0]}")


if __name__ == "__main__":
    main()
