#!/usr/bin/env python3
"""What the reranker's logit is worth beside the score of the search before it: `after_hop`, `after_hop_several`, `after_fusion` of its config.json.

    rerank_weights.py --gateway http://127.0.0.1:8001 --token TOKEN --config models/weirgate-reranker/config.json SET[=MASS]...

Asks a running gateway (which has the reranker) the questions of training sets that `reranker.py` kept for its own dev metrics, never those it trained on, and
one half (by hash) of the dev questions of test sets; the other half is only measured. The two
weights are fitted first, each right passage against the wrong ones of its question; then scale and constant, so that the score is how often a passage
with it is right. MASS says how much a set counts in all. `after_fusion` is for the fused score, the others for the log odds of the hop; what holds for a
question lies between them, as far as it looks like one that needs several passages (`several` of the answer).

SET is as in hop_features.py, whose knowledge bases are used where they are there.
"""
import argparse
import json
import pathlib

import numpy as np
from scipy.optimize import minimize

import data
from hop_features import STEPS, Gateway, ingest, lines, rows

DEPTH = 30
BLENDS = {"hop": ("after_hop", "after_hop_several"), "fused": ("after_fusion",)}
L2 = 1e-3


def held_out(folder):
    """Ids of the questions that were not trained on; everything where the set is no training set."""
    name = pathlib.Path(folder).name
    if not any(name in mix for mix in data.MIXES.values()):
        return None
    title = {row["id"]: row["title"].strip() for row in rows(folder, "corpus.jsonl")}
    first = {}
    for line in list(lines(folder, "qrels.tsv"))[1:]:
        query, passage, _ = line.rstrip("\n").split("\t")
        first.setdefault(query, passage)
    by_article = name.startswith("squad_") or name == "medquad"
    percent = 40 if name == "nq_qed" else 10
    asked = rows(folder, "queries.jsonl")
    keys = {q["id"]: (title.get(first.get(q["id"])) or q["question"]) if by_article else q["id"] for q in asked}
    return {query for query, key in keys.items() if data.in_dev(key, percent)}


def groups(gateway, base, folder, limit):
    """Per question and kind of search before: logits and scores before (after the hop weighted by 1 - several, then by several), gold flags,
    number of gold passages. One search answers for both kinds: the passages that the fusion had not found are left out of the second."""
    gold = {}
    for line in lines(folder, "qrels.tsv"):
        query, passage, score = line.rstrip("\n").split("\t")
        if score.lstrip("-").isdigit() and int(score) > 0:
            gold.setdefault(query, set()).add("0/" + passage)
    kept = held_out(folder)
    asked = [q for q in rows(folder, "queries.jsonl") if q["id"] in gold and (kept is None or q["id"] in kept)][: limit or None]
    found = {before: [] for before in BLENDS}
    for query in asked:
        body = {"query": query["question"], "top_k": DEPTH, "steps": {**STEPS, "rerank": True}}
        answer = gateway.ask("POST", f"{base}/search", body)
        several = answer.get("several") or 0.0
        for before in BLENDS:
            results = [r for r in answer["results"] if "rerank" in r["scores"] and before in r["scores"]]
            if not results:
                continue
            raw = np.array([[r["scores"]["rerank"], worth(r["scores"][before], before)] for r in results], float)
            found[before].append({
                "raw": raw,
                "x": np.concatenate([(1 - several) * raw, several * raw], axis=1) if before == "hop" else raw,
                "several": several,
                "gold": np.array([r["document"] in gold[query["id"]] for r in results]),
                "documents": [r["document"] for r in results],
                "n_gold": len(gold[query["id"]]),
                "fitted": kept is not None or data.in_dev(query["id"], 50),
            })
    return found


def worth(score, before):
    """As the product adds it to the logit: the hop's chance as log odds."""
    if before != "hop":
        return score
    chance = min(max(score, 1e-6), 1 - 1e-6)
    return np.log(chance / (1 - chance))


def fit(sets, masses):
    """Rows (logit, before, bias) of the chance: one, or two of which the second is for several passages."""
    usable = {name: [g for g in some if g["gold"].any() and not g["gold"].all()] for name, some in sets.items()}
    every = np.concatenate([g["x"] for some in usable.values() for g in some])
    std = every.std(0) + 1e-9

    def listwise(w):
        value, slope = 0.5 * L2 * w @ w, L2 * w
        for name, some in usable.items():
            n = sum(int(g["gold"].sum()) for g in some)
            for g in some:
                x = g["x"] / std
                scores = x @ w
                e = np.exp(scores - scores.max())
                for at in np.flatnonzero(g["gold"]):
                    share = np.where(g["gold"], 0, e)
                    share[at] = e[at]
                    share = share / share.sum()
                    value -= masses[name] / n * np.log(share[at])
                    slope = slope - masses[name] / n * (x[at] - share @ x)
        return value, slope

    n = every.shape[1]
    w = minimize(listwise, np.zeros(n), jac=True, method="L-BFGS-B", bounds=[(0, None)] * n).x / std
    s = np.concatenate([np.stack([g["x"] @ w, np.ones(len(g["x"])), np.full(len(g["x"]), g["several"])], axis=1) for some in sets.values() for g in some])
    y = np.concatenate([g["gold"] for some in sets.values() for g in some]).astype(float)
    m = np.concatenate([np.full(len(g["gold"]), masses[name] / len(some)) for name, some in sets.items() for g in some])

    def logistic(v):
        p = 1 / (1 + np.exp(-s @ v))
        value = -(m * (y * np.log(p + 1e-9) + (1 - y) * np.log(1 - p + 1e-9))).sum() + L2 * v[2] ** 2
        return value, -s.T @ (m * (y - p)) + np.array([0, 0, 2 * L2 * v[2]])

    scale, bias, more = minimize(logistic, np.array([1.0, 0.0, 0.0]), jac=True).x
    one = (scale * w[0], scale * w[1], bias)
    return [one] if n == 2 else [one, (scale * w[2], scale * w[3], bias + more)]


def measure(some, score):
    """R@2, R@5, all@5, MRR@10 in percent, ordered by `score` of a group."""
    values = []
    for g in some:
        # A document of several passages stands where its best one does.
        first_of = {}
        for at in np.argsort(-score(g), kind="stable"):
            first_of.setdefault(g["documents"][at], at)
        hit = g["gold"][list(first_of.values())]
        at, n = np.flatnonzero(hit[:10]), g["n_gold"]
        values.append([hit[:2].sum() / n, hit[:5].sum() / n, hit[:5].sum() == n, 1 / (at[0] + 1) if len(at) else 0])
    return 100 * np.array(values, float)


def show(label, values):
    mean, error = values.mean(0), values.std(0) / len(values) ** 0.5
    print(f"{label:45} " + "  ".join(f"{c} {m:5.1f} +-{e:4.1f}" for c, m, e in zip(["R@2", "R@5", "all@5", "MRR@10"], mean, error)), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--config", required=True, help="the reranker's; its blends are written")
    parser.add_argument("--limit", type=int, default=0, help="questions of a set")
    parser.add_argument("sets", nargs="+", metavar="SET[=MASS]")
    args = parser.parse_args()
    gateway = Gateway(args.gateway, args.token)
    fitted = dict(spec.rsplit("=", 1) if "=" in spec else (spec, "1") for spec in args.sets)
    path = pathlib.Path(args.config)
    config = json.loads(path.read_text(encoding="utf-8"))
    asked, masses = {}, {}
    for spec, mass in fitted.items():
        corpora = spec.split("+")
        name = pathlib.Path(corpora[0]).name
        base = "hop-" + "-".join(pathlib.Path(corpus).name for corpus in corpora)
        ingest(gateway, base, corpora)
        asked[name], masses[name] = groups(gateway, base, corpora[0], args.limit), float(mass)
    for before, names in BLENDS.items():
        found = {name: some[before] for name, some in asked.items()}
        blends = fit({name: [g for g in some if g["fitted"]] for name, some in found.items()}, masses)
        for name, (logit, weight, bias) in zip(names, blends):
            config[name] = {"logit": round(logit, 4), "before": round(weight, 4), "bias": round(bias, 4)}
            print(name, config[name])
        both = np.concatenate([row[:2] for row in blends])
        for name, some in found.items():
            some = [g for g in some if not g["fitted"]] or some
            orders = ((before, lambda g: g["raw"][:, 1]), ("logit", lambda g: g["raw"][:, 0]), ("both", lambda g: g["x"] @ both))
            for label, score in orders:
                show(f"{name} ({len(some)}): {label}", measure(some, score))
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
