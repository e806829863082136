#!/usr/bin/env python3
"""Scores a reranker on the dev halves of the retrieval sets: measuring only, nothing is chosen here.

    evaluate_reranker.py --backbone MINILM --reranker FOLDER --rag RAG --tools TOOLS --cache CACHE [--sample 300] [--weight W]

TOOLS holds rag_baselines.py, whose BM25, RRF and metrics are used, so that the rows compare with the data's README. Rankings are made
anew, vectors are kept in CACHE (`<set>.p.npy`, `<set>.q.npy`, rows in file order). --weight is that of `z(dense) + w * z(reranker)`
over a question's candidates, chosen on training data. Reported (JSON lines): nq, top 30 of dense reranked; hotpotqa, top 30 of RRF; the
evaluator's pairs (top 10 of RRF on nq, label = holds an answer string); clapnq refusal (best score of the dense top 5) at no more
than 5 % false refusals.
"""
import argparse
import json
import pathlib
import sys
import time

import numpy as np
import torch

import data
import model as models

DEPTH = 30


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--backbone", required=True)
    add("--reranker", required=True, help="folder as export_reranker.py writes it")
    add("--file", default="model.safetensors", help="or model.int8.safetensors")
    add("--rag", required=True, help="folder with nq, hotpotqa, clapnq")
    add("--tools", required=True, help="folder with rag_baselines.py")
    add("--cache", required=True)
    add("--device", default="cpu", choices=["cpu", "cuda"])
    add("--threads", type=int, default=2)
    add("--sample", type=int, default=0, help="only so many questions a set, always the same ones; 0: all")
    add("--weight", type=float, default=1.0)
    add("--limit", type=int, default=256, help="word pieces a pair")
    add("--sets", default="nq,evaluator,clapnq,hotpotqa")
    return parser.parse_args()


class Bench:
    """One set: corpus, dev questions, rankings; vectors come from the cache or are computed once."""

    def __init__(self, name, args, baselines, tok, bi_encoder):
        folder = pathlib.Path(args.rag) / name
        self.name, self.args, self.baselines = name, args, baselines
        corpus = baselines.rjsonl(str(folder / "corpus.jsonl.gz"))
        self.ids = [row["id"] for row in corpus]
        self.texts = [baselines.doc_text(row) for row in corpus]
        self.number = {one: i for i, one in enumerate(self.ids)}
        every = baselines.rjsonl(str(folder / "queries.jsonl"))
        self.queries = sampled(every, args.sample)
        self.qrels = baselines.rqrels(str(folder / "qrels.tsv"))
        self.question_pieces = models.pieces(tok, [q["question"] for q in self.queries])
        self.passage_pieces = models.pieces(tok, self.texts)
        vectors = self.vectors("p", self.passage_pieces, bi_encoder)
        at = {q["id"]: i for i, q in enumerate(every)}
        questions = self.vectors("q", models.pieces(tok, [q["question"] for q in every]), bi_encoder)
        self.cosine = questions[[at[q["id"]] for q in self.queries]] @ vectors.T
        self.dense = [np.argsort(-row, kind="stable")[:100].tolist() for row in self.cosine]

    def vectors(self, kind, pieces, bi_encoder):
        path = pathlib.Path(self.args.cache) / f"{self.name}.{kind}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, models.embed(bi_encoder, pieces, self.args.device))
        return np.load(path).astype(np.float32)

    def rrf(self):
        words = self.baselines.bm25_rank(self.texts, [q["question"] for q in self.queries], "en", 100)
        return self.baselines.rrf(words, self.dense)

    def pairs(self, lists):
        return [models.pair_ids(self.question_pieces[i], self.passage_pieces[p], self.args.limit) for i, row in enumerate(lists) for p in row]

    def score(self, ranked):
        return self.baselines.score(ranked, self.ids, self.queries, self.qrels)[0]


def sampled(queries, count):
    order = sorted(queries, key=lambda q: data.hashlib.sha256(("sample" + q["id"]).encode()).digest())
    return order[:count] if count else queries


def standard(x):
    x = np.asarray(x, float)
    return (x - x.mean()) / (x.std() + 1e-9)


def auc(labels, scores):
    _, inverse, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[inverse]
    positive = labels.sum()
    return float((rank[labels].sum() - positive * (positive + 1) / 2) / (positive * (len(labels) - positive)))


def balanced(labels, scores, threshold):
    said = scores >= threshold
    return float((said[labels].mean() + (~said[~labels]).mean()) / 2)


def emit(**fields):
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in fields.items()}), flush=True)


def rerank(bench, first_stage, scored, weight, label):
    """Emits the first stage, the reranker alone, and the interpolation, each over the same candidates."""
    emit(set=bench.name, run=label, queries=len(first_stage), **bench.score(first_stage))
    alone, mixed = [], []
    for i, (row, s) in enumerate(zip(first_stage, scored)):
        rest = row[len(s) :]
        row = row[: len(s)]
        alone.append([row[j] for j in np.argsort(-s, kind="stable")] + rest)
        total = standard(bench.cosine[i, row]) + weight * standard(s)
        mixed.append([row[j] for j in np.argsort(-total, kind="stable")] + rest)
    emit(set=bench.name, run=label + " > reranker", queries=len(first_stage), **bench.score(alone))
    emit(set=bench.name, run=f"{label} > z(dense) + {weight:g} z(reranker)", queries=len(first_stage), **bench.score(mixed))


def scores_of(model, bench, lists):
    begun = time.monotonic()
    flat = models.score_pairs(model, bench.pairs(lists), bench.args.device)
    emit(set=bench.name, scored=len(flat), pairs_per_second=len(flat) / max(1e-9, time.monotonic() - begun))
    return np.split(flat, np.cumsum([len(row) for row in lists])[:-1])


def evaluator(model, bench):
    """Does the passage hold an answer string? Pairs of the RRF top 10; the threshold is the best one on these same pairs, as in the README."""
    lists = [row[:10] for row in bench.rrf()]
    scores = np.concatenate(scores_of(model, bench, lists))
    normal = [bench.baselines.norm(text) for text in bench.texts]
    labels = []
    for query, row in zip(bench.queries, lists):
        answers = [a for a in map(bench.baselines.norm, query["answers"]) if a.strip()]
        labels += [any(a in normal[p] for a in answers) for p in row]
    labels = np.array(labels)
    cosines = np.concatenate([bench.cosine[i, row] for i, row in enumerate(lists)])
    for name, values in (("dense", cosines), ("reranker", scores), ("both", standard(cosines) + standard(scores))):
        threshold = max(np.quantile(values, np.linspace(0.01, 0.99, 99)), key=lambda t: balanced(labels, values, t))
        emit(test="nq evaluator", score=name, pairs=len(labels), positive=float(labels.mean()), auc=auc(labels, values),
             balanced_accuracy=balanced(labels, values, threshold), threshold=float(threshold))


def refusal(model, bench):
    """Refuse where no passage of the dense top 5 is good enough: share of unanswerable questions refused while at most 5 % of the
    answerable ones are."""
    lists = [row[:5] for row in bench.dense]
    scores = scores_of(model, bench, lists)
    hopeless = np.array([bool(q["unanswerable"]) for q in bench.queries])
    cosine = [bench.cosine[i, row] for i, row in enumerate(lists)]
    spread = np.concatenate(cosine).std(), np.concatenate(scores).std()
    both = [c / spread[0] + s / spread[1] for c, s in zip(cosine, scores)]
    for name, rows in (("dense", cosine), ("reranker", scores), ("both", both)):
        top = np.array([row.max() for row in rows])
        threshold = np.quantile(top[~hopeless], 0.05, method="lower")
        emit(test="clapnq refusal", score=name, questions=len(top), refused=float((top[hopeless] < threshold).mean()),
             false_refusals=float((top[~hopeless] < threshold).mean()), auc=auc(~hopeless, top))


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    sys.path.insert(0, args.tools)
    import rag_baselines

    tok = models.tokenizer(args.backbone)
    bi_encoder = models.from_backbone(args.backbone, "mean", 0).to(args.device)
    model = models.from_export(args.reranker, args.backbone, args.file).to(args.device)
    benches = {}

    def bench(name):
        if name not in benches:
            benches[name] = Bench(name, args, rag_baselines, tok, bi_encoder)
        return benches[name]

    for wanted in args.sets.split(","):
        if wanted == "nq":
            one = bench("nq")
            rerank(one, one.dense, scores_of(model, one, [row[:DEPTH] for row in one.dense]), args.weight, "dense")
        elif wanted == "hotpotqa":
            one = bench("hotpotqa")
            first = one.rrf()
            rerank(one, first, scores_of(model, one, [row[:DEPTH] for row in first]), args.weight, "rrf")
        elif wanted == "evaluator":
            evaluator(model, bench("nq"))
        elif wanted == "clapnq":
            refusal(model, bench("clapnq"))
        else:
            sys.exit(f"--sets knows nq, hotpotqa, evaluator, clapnq, not {wanted!r}")


if __name__ == "__main__":
    main()
