"""Features of the second hop for labelled questions, asked of a running gateway: the input of hop_weights.py.

    python hop_features.py --gateway http://127.0.0.1:8001 --token TOKEN --out FEATURES.npz SET[+CORPUS]...

A SET is a folder with `corpus.jsonl.gz`, `queries.jsonl[.gz]` and `qrels.tsv[.gz]` (score above 0 is relevant); `+CORPUS` adds the passages of
further folders as distractors. Each becomes a knowledge base `hop-NAME`, ingested once. Passages of a distractor that are in the set
itself are left out: they would be right answers counted as wrong.
"""

import argparse
import gzip
import json
import pathlib
import random
import urllib.error
import urllib.request

import numpy as np

STEPS = {"dense": True, "lexical": True, "fusion": "weighted", "hop": True, "rerank": False, "correct": False, "compress": False}
BATCH = 500


def lines(folder, name):
    path = pathlib.Path(folder) / name
    path = path if path.exists() else path.with_name(path.name + ".gz")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        yield from file


def rows(folder, name):
    return [json.loads(line) for line in lines(folder, name)]


class Gateway:
    def __init__(self, base, token):
        self.base, self.token = base.rstrip("/") + "/v1/rag/knowledge-bases/", token

    def ask(self, method, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        request = urllib.request.Request(self.base + path, data, headers, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)


def key(passage):
    return passage.get("title", ""), " ".join(passage["text"].split())


def ingest(gateway, base, corpora):
    try:
        gateway.ask("GET", base)
    except urllib.error.HTTPError:
        gateway.ask("PUT", base, {})
    seen, documents = set(), []
    for n, corpus in enumerate(corpora):
        for passage in rows(corpus, "corpus.jsonl"):
            if key(passage) not in seen:
                seen.add(key(passage))
                documents.append({"id": f"{n}/{passage['id']}", "title": passage.get("title", ""), "text": passage["text"]})
    for at in range(0, len(documents), BATCH):
        report = gateway.ask("POST", f"{base}/documents", {"documents": documents[at : at + BATCH]})
        for error in report["errors"]:
            print(f"{base}: {error}", flush=True)
    print(f"{base}: {len(documents)} passages", flush=True)


def features(gateway, base, folder, limit):
    """Per question: names, pool x feature matrix, gold flags of the pool, number of gold passages."""
    gold = {}
    for line in list(lines(folder, "qrels.tsv")):
        query, passage, score = line.rstrip("\n").split("\t")
        if score.lstrip("-").isdigit() and int(score) > 0:
            gold.setdefault(query, set()).add("0/" + passage)
    queries = [query for query in rows(folder, "queries.jsonl") if query["id"] in gold]
    if limit and len(queries) > limit:
        queries = random.Random(0).sample(queries, limit)
    groups = []
    for query in queries:
        body = {"query": query["question"], "top_k": 100, "steps": STEPS, "explain": True}
        results = gateway.ask("POST", f"{base}/search", body)["results"]
        pool = [result for result in results if "features" in result]
        names = list(pool[0]["features"])
        groups.append({
            "names": names,
            "x": np.array([[result["features"][name] for name in names] for result in pool], np.float32),
            "gold": np.array([result["document"] in gold[query["id"]] for result in pool]),
            "documents": [result["document"] for result in pool],
            "n_gold": len(gold[query["id"]]),
            "question": query["question"],
        })
    return groups


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--limit", type=int, default=0, help="questions of a set, drawn at random")
    parser.add_argument("sets", nargs="+")
    args = parser.parse_args()
    gateway, found = Gateway(args.gateway, args.token), {}
    for spec in args.sets:
        corpora = spec.split("+")
        name = pathlib.Path(corpora[0]).name
        base = "hop-" + "-".join(pathlib.Path(corpus).name for corpus in corpora)
        ingest(gateway, base, corpora)
        found[name] = features(gateway, base, corpora[0], args.limit)
        print(f"{name}: {len(found[name])} questions", flush=True)
        np.savez_compressed(args.out, **{name: np.array(groups, object) for name, groups in found.items()})


if __name__ == "__main__":
    main()
