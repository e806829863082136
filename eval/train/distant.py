#!/usr/bin/env python3
"""Questions people typed, with passages found for them: a source of training groups called nq_distant.

    distant.py --questions RAG_TRAIN/nq_open_extra/questions.jsonl.gz --out FOLDER/nq_distant CORPUS…

`nq_open_extra` has questions and short answers but no passages. A passage among BM25's first three that holds an answer is taken as positive, the
first twelve that hold none as hard negatives. Of 25 groups read by hand about three in four were right. CORPUS: folders with corpus.jsonl.gz; their questions are never read.
"""
import argparse
import gzip
import json
import pathlib

import bm25s
import Stemmer

import data

DEPTH, FIRST, NEGATIVES = 40, 3, 12
# Of the normalised question's words, how many the passage and its title must hold: "2013" alone is in too many passages.
COVERED = 0.6
ASKING = {"who", "what", "when", "where", "which", "whose", "why", "how", "did", "does", "do", "was", "were", "many", "much"}
# BM25 score below which a passage that holds the answer holds it by chance.
MIN_SCORE = 8.0


def tokens(texts):
    return bm25s.tokenize(texts, stopwords="en", stemmer=Stemmer.Stemmer("english"), show_progress=False)


def covered(question, text):
    words = set(tokens([" ".join(word for word in question.split() if word not in ASKING)]).vocab) - {""}
    return len(words & set(tokens([text]).vocab)) / max(1, len(words))


def write(path, rows):
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.writelines(row + "\n" for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("corpora", nargs="+")
    args = parser.parse_args()
    passages = [
        {"id": f"{pathlib.Path(folder).name}-{row['id']}", "title": row["title"], "text": row["text"]}
        for folder in args.corpora
        for row in data.read_lines(pathlib.Path(folder) / "corpus.jsonl.gz")
    ]
    plain = [data.normalise(f"{p['title']} {p['text']}") for p in passages]
    index = bm25s.BM25()
    index.index(tokens([f"{p['title']}. {p['title']}. {p['text']}" for p in passages]), show_progress=False)
    asked = data.read_lines(args.questions)
    found, scores = index.retrieve(tokens([q["question"] for q in asked]), k=DEPTH, show_progress=False)
    queries, judged, used = [], [], set()
    for number, (question, top, score) in enumerate(zip(asked, found, scores)):
        answers = [a for a in map(data.normalise, question["answers"]) if a.strip()]
        holds = [any(answer in plain[i] for answer in answers) for i in top]
        positive = next((i for i, s, held in zip(top[:FIRST], score, holds) if held and s >= MIN_SCORE), None)
        if positive is None or covered(question["question"], plain[positive]) < COVERED:
            continue
        name = f"distant-{number}"
        queries.append({"id": name, "question": question["question"], "answers": question["answers"]})
        negatives = [i for i, held in zip(top, holds) if not held][:NEGATIVES]
        judged += [(name, positive, 1)] + [(name, i, 0) for i in negatives]
        used.update([positive, *negatives])
    folder = pathlib.Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "corpus.jsonl.gz", (json.dumps(passages[i], ensure_ascii=False) for i in sorted(used)))
    write(folder / "queries.jsonl.gz", (json.dumps(q, ensure_ascii=False) for q in queries))
    write(folder / "qrels.tsv.gz", ["query\tpassage\tscore", *(f"{q}\t{passages[i]['id']}\t{s}" for q, i, s in judged)])
    print(f"{len(queries)} of {len(asked)} questions have a passage, {len(used)} passages used")


if __name__ == "__main__":
    main()
