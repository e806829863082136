#!/usr/bin/env python3
"""Questions people typed, with what a larger bi-encoder thinks of the passages found for them: a source of training groups called nq_taught.

    teacher.py --questions RAG_TRAIN/nq_open_extra/questions.jsonl.gz --backbone MINILM --teacher MPNET --out FOLDER/nq_taught CORPUS…

No passage is known to be right for these questions. How likely each candidate is to be, is what two witnesses say: the teacher (all-mpnet-base-v2: mean of the last
hidden states, normalised) by its cosine, and the question's short answers, which a right passage holds and a wrong one rarely does. Candidates are the first
of BM25 and of the backbone's cosines. CORPUS: folders with corpus.jsonl.gz; their questions are never read. Written: corpus.jsonl.gz, queries.jsonl.gz, taught.tsv.gz (query, passage, log odds).
"""
import argparse
import concurrent.futures
import gzip
import json
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from scipy.optimize import minimize

import data
import model as models
from distant import tokens, write

BM25_FIRST, DENSE_FIRST = 6, 9
# How often a right passage holds one of the answers given, which are not all there are, and how often a wrong one on the same matter does. By judgement:
# with three in a hundred a passage that holds an answer is right six times in ten at a cosine of 0.5, and nineteen in twenty at 0.7.
HELD, CHANCE = 0.9, 0.03
# The teacher was trained on more (384), its publisher cuts at so many; passages of the corpora are shorter.
MAX_PIECES = 192


class Teacher:
    """all-mpnet-base-v2. One pass of similar lengths at a time on each thread."""

    def __init__(self, folder, threads, bf16):
        self.tok = transformers.AutoTokenizer.from_pretrained(folder)
        self.net = transformers.AutoModel.from_pretrained(folder).eval()
        self.bf16 = bf16
        self.workers = concurrent.futures.ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    @torch.inference_mode()
    def batch(self, texts):
        batch = self.tok(texts, padding=True, truncation=True, max_length=MAX_PIECES, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            hidden = self.net(**batch).last_hidden_state.float()
        weight = batch["attention_mask"][:, :, None].float()
        return F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1).numpy()

    def embed(self, texts, per_batch=24):
        """Float32 [n, 768]."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        parts = [order[at : at + per_batch] for at in range(0, len(order), per_batch)]
        out, begun = np.zeros((len(texts), self.net.config.hidden_size), np.float32), time.monotonic()
        for number, (part, vectors) in enumerate(zip(parts, self.workers.map(lambda part: self.batch([texts[i] for i in part]), parts))):
            out[part] = vectors
            if number % 50 == 49:
                print(f"{(number + 1) * per_batch} of {len(texts)} texts, {(number + 1) * per_batch / (time.monotonic() - begun):.1f} a second", flush=True)
        return out


def log_odds(cosine, held):
    """How likely each candidate is to be right. cosine: [n] the teacher's; held: [n] whether it holds an answer.

    The cosine is right with sigmoid(slope (cosine - 0.5) + constant), the two being what makes `held` likeliest. Then `held` itself is evidence as well."""
    def loss(v):
        right = 1 / (1 + np.exp(-(v[0] * (cosine - 0.5) + v[1])))
        p = HELD * right + CHANCE * (1 - right)
        return -np.where(held, np.log(p), np.log(1 - p)).mean()

    slope, constant = minimize(loss, np.array([10.0, -2.0]), method="Nelder-Mead").x
    print(f"log odds = {slope:.2f} (cosine - 0.5) {constant:+.2f}", flush=True)
    return slope * (cosine - 0.5) + constant + np.where(held, np.log(HELD / CHANCE), np.log((1 - HELD) / (1 - CHANCE)))


def whole(row):
    return f"{row['title'].strip()}. {row['text']}" if row["title"].strip() else row["text"]


def candidates(passages, questions, args):
    """Per question the numbers of its candidates, BM25's first."""
    import bm25s

    index = bm25s.BM25()
    index.index(tokens([f"{p['title']}. {p['title']}. {p['text']}" for p in passages]), show_progress=False)
    words, _ = index.retrieve(tokens(questions), k=BM25_FIRST, show_progress=False)
    tok, encoder = models.tokenizer(args.backbone), models.from_backbone(args.backbone, "mean", 0)
    with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
        vectors = models.embed(encoder, models.pieces(tok, [whole(p) for p in passages]), "cpu")
        asked = models.embed(encoder, models.pieces(tok, questions), "cpu")
    print(f"{len(passages)} passages embedded", flush=True)
    return [
        list(dict.fromkeys([*map(int, row), *map(int, np.argsort(-(vectors @ vector), kind="stable")[:DENSE_FIRST])]))
        for row, vector in zip(words, asked)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--teacher", required=True, help="folder of all-mpnet-base-v2")
    parser.add_argument("--out", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--limit", type=int, default=0, help="questions, evenly spread; 0: all")
    parser.add_argument("corpora", nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    passages = [
        {"id": f"{pathlib.Path(folder).name}-{row['id']}", "title": row["title"], "text": row["text"]}
        for folder in args.corpora
        for row in data.read_lines(pathlib.Path(folder) / "corpus.jsonl.gz")
    ]
    asked = data.read_lines(args.questions)
    asked = asked[:: max(1, len(asked) // args.limit)] if args.limit else asked
    questions = [row["question"] for row in asked]
    teacher = Teacher(args.teacher, args.threads, args.bf16)
    found = candidates(passages, questions, args)
    used = sorted({i for row in found for i in row})
    print(f"{len(used)} of {len(passages)} passages for {len(questions)} questions", flush=True)
    vectors = dict(zip(used, teacher.embed([whole(passages[i]) for i in used])))
    cosine, held, of = [], [], []
    for number, (row, vector, candidates_of_it) in enumerate(zip(asked, teacher.embed(questions), found)):
        answers = [answer for answer in map(data.normalise, row["answers"]) if answer.strip()]
        for i in candidates_of_it:
            of.append(f"taught-{number}\t{passages[i]['id']}")
            cosine.append(float(vector @ vectors[i]))
            held.append(any(answer in data.normalise(whole(passages[i])) for answer in answers))
    rows = [f"{pair}\t{odds:.3f}" for pair, odds in zip(of, log_odds(np.array(cosine), np.array(held)))]
    folder = pathlib.Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "corpus.jsonl.gz", (json.dumps(passages[i], ensure_ascii=False) for i in used))
    write(folder / "queries.jsonl.gz", (json.dumps({"id": f"taught-{n}", "question": q}, ensure_ascii=False) for n, q in enumerate(questions)))
    write(folder / "taught.tsv.gz", ["query\tpassage\tlog_odds", *rows])


if __name__ == "__main__":
    main()
