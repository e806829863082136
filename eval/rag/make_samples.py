#!/usr/bin/env python3
"""Cuts the small sets in this folder from larger ones in the same format; standard library only.

  eval/rag/make_samples.py --source FOLDER            # FOLDER/<set>/{corpus.jsonl.gz,queries.jsonl,qrels.tsv}
  eval/rag/make_samples.py --source FOLDER --check    # do the committed files equal what this script writes?

Questions are chosen by a hash of their text. Of the passages all gold ones stay; the others are those that share most rare words
with the chosen questions, in turn, so that the small sets are not trivially easy. The same source gives the same bytes.
"""
import argparse
import gzip
import hashlib
import io
import json
import math
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
# Questions, passages, the `src` that passages must have, and the fields of a question that are kept.
SAMPLES = {
    "hotpotqa": {"questions": 60, "passages": 400, "src": "pool500", "fields": ["answers", "type"]},
    "nq": {"questions": 60, "passages": 400, "fields": ["answers", "same_article"]},
    "clapnq": {"questions": 60, "passages": 120, "balance": "unanswerable", "fields": ["answers", "unanswerable", "selected_sentences"]},
    "drcd": {"questions": 40, "passages": 160, "fields": ["answers"]},
}
MAX_TOTAL_BYTES = 600_000


def read_lines(path):
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
    with opened as lines:
        return [json.loads(line) for line in lines if line.strip()]


def read_qrels(path):
    gold = {}
    for at, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        query, document, score = line.split("\t")
        if at > 0 and int(score) > 0:
            gold.setdefault(query, {})[document] = int(score)
    return gold


def words(text):
    """Lower-case words; pairs of neighbouring characters where there are no spaces."""
    found = set()
    for word in re.findall(r"\w+", text.lower()):
        if re.search(r"[\u3400-\u9fff]", word):
            found.update(word[at:at + 2] for at in range(len(word) - 1))
        else:
            found.add(word)
    return found


def by_hash(rows, key):
    return sorted(rows, key=lambda row: hashlib.sha256(row[key].encode()).digest())


def choose_questions(queries, gold, documents, sample):
    usable = by_hash([query for query in queries if gold.get(query["id"]) and set(gold[query["id"]]) <= documents], "question")
    if "balance" not in sample:
        return usable[:sample["questions"]]
    half = sample["questions"] // 2
    of = lambda value: [query for query in usable if bool(query[sample["balance"]]) == value][:half]
    return by_hash(of(False) + of(True), "question")


def choose_passages(corpus, questions, gold, n_passages):
    kept = {document for query in questions for document in gold[query["id"]]}
    texts = {row["id"]: words(f"{row.get('title') or ''} {row['text']}") for row in corpus}
    frequency = {}
    for text in texts.values():
        for word in text:
            frequency[word] = frequency.get(word, 0) + 1
    rarity = {word: math.log(len(texts) / count) for word, count in frequency.items()}
    rankings = []
    for query in questions:
        asked = words(query["question"])
        # Rounded, so that the order does not hang on the order of a sum.
        score = {id: round(math.fsum(rarity[word] for word in asked & text), 6) for id, text in texts.items()}
        rankings.append(iter(sorted(texts, key=lambda id: (-score[id], id))))
    while len(kept) < min(n_passages, len(corpus)):
        for ranking in rankings:
            if len(kept) < n_passages:
                kept.update([next((id for id in ranking if id not in kept), next(iter(kept)))])
    return [row for row in by_hash(corpus, "id") if row["id"] in kept]


def cut(source, sample):
    corpus = read_lines(source / "corpus.jsonl.gz")
    corpus = [row for row in corpus if "src" not in sample or row.get("src") == sample["src"]]
    gold = read_qrels(source / "qrels.tsv")
    questions = choose_questions(read_lines(source / "queries.jsonl"), gold, {row["id"] for row in corpus}, sample)
    passages = choose_passages(corpus, questions, gold, sample["passages"])
    line = lambda row, keys: json.dumps({key: row[key] for key in keys if row.get(key) not in (None, "")}, ensure_ascii=False) + "\n"
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=9) as packed:
        packed.write("".join(line(row, ["id", "title", "text"]) for row in passages).encode())
    judged = [f"{query['id']}\t{document}\t{score}\n" for query in questions for document, score in gold[query["id"]].items()]
    return {
        "corpus.jsonl.gz": buffer.getvalue(),
        "queries.jsonl": "".join(line(query, ["id", "question", *sample["fields"]]) for query in questions).encode(),
        "qrels.tsv": ("query-id\tcorpus-id\tscore\n" + "".join(judged)).encode(),
    }


def unpacked(name, data):
    """Compressed bytes differ between versions of zlib; what they hold does not."""
    return gzip.decompress(data) if name.endswith(".gz") else data


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    total = 0
    for name, sample in SAMPLES.items():
        for file, data in cut(arguments.source / name, sample).items():
            path = HERE / name / file
            total += len(data)
            if not arguments.check:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
            elif not path.exists() or unpacked(file, path.read_bytes()) != unpacked(file, data):
                sys.exit(f"{path} is not what this script writes")
    if total > MAX_TOTAL_BYTES:
        sys.exit(f"{total} bytes are more than the {MAX_TOTAL_BYTES} meant for samples")
    print(f"{total} bytes in {len(SAMPLES)} sets")


if __name__ == "__main__":
    main()
