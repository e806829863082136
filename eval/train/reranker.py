#!/usr/bin/env python3
"""Trains the reranker: a cross-encoder over all-MiniLM-L6-v2 that also says whether a passage answers a question at all.

    reranker.py --backbone MINILM --data RAG_TRAIN DISTANT --mix taught --out RUN --pairs 200000
    reranker.py … --resume                      # goes on from RUN/checkpoint.pt, with the flags given now

Loss of a step: cross-entropy between the softmax of each question's logits and that of its candidates' log odds (one positive and the rest hard
negatives, or what a teacher thinks of each), plus --pointwise times the binary cross-entropy of every candidate, right ones weighted up so
that both classes count alike. Questions without an answer have only negatives and serve the second term. Learning rate: warm-up, constant, linear decay over the last quarter of --pairs, so a run
can be lengthened before it decays. Exported are the averaged weights (EMA), usable at any moment.

--minutes stops a run and writes its checkpoint; --pairs alone decides the schedule. Same seed, flags and machine: same weights.
Dev metrics are on a part of the training data split off by hash (`data.split`); the test sets are never read.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

import data
import export_reranker
import model as models


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--backbone", required=True, help="folder of all-MiniLM-L6-v2: config.json, tokenizer.json, model.safetensors")
    add("--data", required=True, nargs="+", help="folders with squad_dev, nq_qed, …; distant.py makes nq_distant, teacher.py nq_taught")
    add("--out", required=True, help="folder of the run: checkpoint.pt, log.jsonl, mined.json, export/")
    add("--mix", default="taught", choices=list(data.MIXES), help="shares of the sources, in data.py")
    add("--device", default="cpu", choices=["cpu", "cuda"])
    add("--threads", type=int, default=2, help="CPU threads, each with passes of its own: twice as fast as one pass on two")
    add("--bf16", action="store_true", help="autocast to bfloat16 (on GPUs, and CPUs with AMX)")
    add("--pooling", default="interaction", choices=models.POOLINGS)
    add("--frozen-layers", type=int, default=2, help="lowest layers left as they are; 0 also trains position and type embeddings")
    add("--pairs", type=int, default=80_000, help="pairs of the whole schedule")
    add("--minutes", type=float, default=1e9, help="stop after this time, checkpoint written")
    add("--groups", type=int, default=24, help="questions a step")
    add("--negatives", type=int, default=4, help="negatives a question")
    add("--tokens", type=int, default=3072, help="word pieces a forward pass")
    add("--rate", type=float, default=1e-4)
    add("--head-rate", type=float, default=1e-3)
    add("--pointwise", type=float, default=0.3, help="weight of the binary cross-entropy")
    add("--ema", type=float, default=0.99, help="decay of the averaged weights, a step")
    add("--seed", type=int, default=1)
    add("--resume", action="store_true")
    add("--dev-every", type=float, default=12, help="minutes between dev metrics and exports")
    add("--dev-queries", type=int, default=40, help="dev questions a source, for the metrics while training")
    return parser.parse_args()


def rate_at(pairs, total):
    """Share of the full learning rate after `pairs` pairs."""
    return min(1.0, (pairs + 1) / (0.05 * total), max(0.02, (total - pairs) / (0.25 * total)))


def listed(odds):
    """Whether a group says which of its candidates is better."""
    return len(odds) > 1 and odds.max() > -data.CERTAIN


def group_loss(logits, groups, totals, pointwise):
    """Part of the step's loss that some of its groups make. logits: [pairs of the pass], in the order of the groups; groups: log odds of
    each candidate; totals: of the step. Returns (listwise, pointwise) scalars; both summed over the step's passes are its means."""
    listwise = logits.sum() * 0.0
    for odds, scores in zip(groups, logits.split([len(odds) for odds in groups])):
        if listed(odds):
            listwise = listwise - F.softmax(odds.to(scores.device), dim=0) @ F.log_softmax(scores, dim=0)
    chance = torch.cat(groups).sigmoid().to(logits.device)
    right = chance * F.logsigmoid(logits) / max(1.0, totals["right"])
    wrong = (1 - chance) * F.logsigmoid(-logits) / max(1.0, totals["wrong"])
    return listwise / max(1, totals["lists"]), -0.5 * pointwise * (right + wrong).sum()


class Average:
    """Exponential moving average of the trained parameters."""

    def __init__(self, model, decay):
        self.decay, self.steps = decay, 0
        self.values = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model):
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, parameter in model.named_parameters():
            if name in self.values:
                self.values[name].lerp_(parameter.detach(), 1 - decay)

    @torch.no_grad()
    def swap(self, model):
        """Exchanges the model's weights with the averaged ones; twice is no change."""
        for name, parameter in model.named_parameters():
            if name in self.values:
                kept = parameter.detach().clone()
                parameter.copy_(self.values[name])
                self.values[name].copy_(kept)


def optimiser(model, args):
    head = [p for n, p in model.named_parameters() if n.startswith("classifier.")]
    decayed = [p for n, p in model.named_parameters() if p.requires_grad and p.ndim > 1 and not n.startswith("classifier.")]
    plain = [p for n, p in model.named_parameters() if p.requires_grad and p.ndim == 1 and not n.startswith("classifier.")]
    groups = [
        {"params": decayed, "weight_decay": 0.01, "peak": args.rate},
        {"params": plain, "weight_decay": 0.0, "peak": args.rate},
        {"params": head, "weight_decay": 0.0, "peak": args.head_rate},
    ]
    return torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98), eps=1e-8)


def mined(sources, args, backbone):
    """Dense negatives and cosines of SQuAD, nq_qed; computed once, then read from RUN/mined.json."""
    path = pathlib.Path(args.out) / "mined.json"
    names = [name for name in ("squad_dev", "squad_unanswerable", "nq_qed") if name in sources]
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        for name in names:
            for query in sources[name].queries:
                query.negatives = stored["negatives"][name][query.id]
        return {name: {tuple(key): value for key, value in stored["cosines"][name]} for name in names}
    cosines = {name: data.mine(sources[name], backbone, args.device) for name in names}
    stored = {
        "negatives": {name: {q.id: q.negatives for q in sources[name].queries} for name in names},
        "cosines": {name: [[list(key), round(value, 5)] for key, value in cosines[name].items()] for name in names},
    }
    path.write_text(json.dumps(stored), encoding="utf-8")
    return cosines


def dev_lists(dev, cosines, limit):
    """For each source {name: [(pairs, labels, cosines or None)]}; candidates are the retriever's top 15 where mined, else the judged ones. Of what a
    teacher judged, its best passage is the right one."""
    out = {}
    for name, source in dev.items():
        lists = []
        for query in sorted(source.queries, key=lambda q: hash_of(q.id))[:limit]:
            dense = {p: c for p, c in ((p, cosines.get(name, {}).get((query.id, p))) for p in range(len(source.passages))) if c is not None}
            if name == "squad_unanswerable":
                chosen = query.negatives[:1]
            elif dense:
                chosen = sorted(dense, key=lambda p: -dense[p])[:15]
            else:
                chosen = list(query.taught) or query.positives + query.negatives[:9]
            right = query.positives or [max(query.taught, key=query.taught.get, default=None)]
            pairs = [models.pair_ids(query.question, data.passage_input(source.passages[p]), 256) for p in chosen]
            lists.append((pairs, np.array([p in right for p in chosen]), np.array([dense.get(p, 0.0) for p in chosen]) if dense else None))
        out[name] = lists
    return out


def hash_of(text):
    return data.hashlib.sha256(text.encode()).digest()


def auc(labels, scores):
    """Area under the ROC curve, ties counted half."""
    _, inverse, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[inverse]
    positive = labels.sum()
    return float((rank[labels].sum() - positive * (positive + 1) / 2) / max(1, positive * (len(labels) - positive)))


def reciprocal(labels, scores):
    order = np.argsort(-scores, kind="stable")
    hit = np.flatnonzero(labels[order])
    return 1.0 / (hit[0] + 1) if len(hit) else 0.0


def standard(x):
    return (x - x.mean()) / (x.std() + 1e-9)


def dev_metrics(model, lists, args):
    """MRR of the reranked lists (alone, and added to the cosine), pair AUC, and how well answered and unanswered SQuAD pairs part."""
    result, best, failing = {}, [], []
    for name, rows in lists.items():
        if not rows:
            continue
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            scores = models.score_pairs(model, [p for pairs, _, _ in rows for p in pairs], args.device, args.tokens)
        parts = np.split(scores, np.cumsum([len(pairs) for pairs, _, _ in rows])[:-1])
        if name == "squad_unanswerable":
            failing = scores
            continue
        labels = np.concatenate([row[1] for row in rows])
        result[name + ".mrr"] = float(np.mean([reciprocal(row[1], s) for row, s in zip(rows, parts)]))
        result[name + ".auc"] = auc(labels, scores)
        if rows[0][2] is not None:
            result[name + ".mrr_dense"] = float(np.mean([reciprocal(row[1], row[2]) for row in rows]))
            for weight in (0.5, 1.0, 2.0):
                mixed = [reciprocal(row[1], standard(row[2]) + weight * standard(s)) for row, s in zip(rows, parts)]
                result[f"{name}.mrr_mix{weight:g}"] = float(np.mean(mixed))
        if name == "squad_dev":
            best = scores[labels]
    if len(best) and len(failing):
        result["squad.answerable_auc"] = auc(np.r_[np.ones(len(best), bool), np.zeros(len(failing), bool)], np.r_[best, failing])
    return {name: round(value, 4) for name, value in result.items()}


def main():
    args = arguments()
    start = time.monotonic()
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    n_workers = args.threads if args.device == "cpu" else 1
    workers = concurrent.futures.ThreadPoolExecutor(n_workers, initializer=torch.set_num_threads, initargs=(1,))
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    tok = models.tokenizer(args.backbone)
    model = models.from_backbone(args.backbone, args.pooling, args.frozen_layers).to(args.device)
    sources = data.load(args.data, tok, tuple(data.MIXES[args.mix]))
    with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
        cosines = mined(sources, args, model)
    train, dev = data.split(sources)
    lists = dev_lists(dev, cosines, args.dev_queries)
    sampler = data.Sampler(train, data.MIXES[args.mix], args.negatives, args.seed)
    adam, average = optimiser(model, args), Average(model, args.ema)
    state = {"step": 0, "pairs": 0, "counts": {}, "seconds": 0.0}
    checkpoint = out / "checkpoint.pt"
    if args.resume and checkpoint.exists():
        stored = torch.load(checkpoint, map_location=args.device, weights_only=True)
        model.load_state_dict(stored["model"])
        adam.load_state_dict(stored["adam"])
        average.values, average.steps, state = stored["average"], stored["average_steps"], stored["state"]
        for group, peak in zip(adam.param_groups, (args.rate, args.rate, args.head_rate)):
            group["peak"] = peak

    def log(**fields):
        line = json.dumps({"pairs": state["pairs"], "step": state["step"], "minutes": round(state["seconds"] / 60, 2), **fields})
        print(line, flush=True)
        with open(out / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def save():
        stored = {"model": model.state_dict(), "adam": adam.state_dict(), "average": average.values,
                  "average_steps": average.steps, "state": state, "flags": vars(args)}
        torch.save(stored, str(checkpoint) + ".new")
        os.replace(str(checkpoint) + ".new", checkpoint)

    def examine():
        average.swap(model)
        export_reranker.write(model, args.backbone, out / "export")
        log(dev=dev_metrics(model, lists, args))
        average.swap(model)

    log(train={n: len(s.queries) for n, s in train.items()}, dev={n: len(s.queries) for n, s in dev.items()}, load=round(time.monotonic() - start))
    if state["step"] == 0:
        centre(model, sampler, args)
    begun = last_examined = last_saved = time.monotonic()
    running = []
    while state["pairs"] < args.pairs and (time.monotonic() - start) / 60 < args.minutes:
        step_begun = time.monotonic()
        running.append(train_step(model, adam, average, sampler, state, args, workers))
        state["seconds"] += time.monotonic() - step_begun
        if state["step"] % 20 == 0:
            recent = np.mean(running[-20:], axis=0)
            log(listwise=round(float(recent[0]), 4), pointwise=round(float(recent[1]), 4), first=round(float(recent[2]), 3),
                rate=round(recent[3] / (time.monotonic() - begun) * len(running[-20:]), 1))
            begun = time.monotonic()
            running = []
        if time.monotonic() - last_saved > 240:
            save()
            last_saved = time.monotonic()
        if time.monotonic() - last_examined > args.dev_every * 60:
            save()
            examine()
            begun = last_examined = last_saved = time.monotonic()
            running = []
    save()
    examine()


@torch.no_grad()
def centre(model, sampler, args):
    """Sets the head's bias so that the first step's logits have mean -1: the binary cross-entropy begins near its classes' odds."""
    pairs = [pair for one, _ in sampler.groups(0, args.groups, {}) for pair in one]
    model.classifier.bias -= float(np.mean(models.score_pairs(model, pairs, args.device, args.tokens))) + 1.0


def passes(groups, tokens):
    """Lists of groups of similar length, each of about `tokens` word pieces: one forward and backward pass."""
    longest = lambda group: max(len(ids) for ids, _ in group[0])
    out, room = [], 0
    for group in sorted(groups, key=longest, reverse=True):
        needed = longest(group) * len(group[0])
        if not out or room < needed:
            out.append([])
            room = tokens
        out[-1].append(group)
        room -= needed
    return out


def gradients(model, groups, totals, parameters, args):
    """Of one pass. Returns (gradients, listwise loss, pointwise loss, groups whose best candidate came first)."""
    odds = [torch.from_numpy(one) for _, one in groups]
    batch = models.collate([pair for pairs, _ in groups for pair in pairs], args.device)
    with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
        logits = model(*batch).float()
    listwise, binary = group_loss(logits, odds, totals, args.pointwise)
    found = torch.autograd.grad(listwise + binary, parameters)
    scores = logits.detach().cpu().split([len(one) for one in odds])
    firsts = sum(int(s.argmax() == one.argmax()) for s, one in zip(scores, odds) if listed(one))
    return found, listwise.item(), binary.item(), firsts


def train_step(model, adam, average, sampler, state, args, workers):
    """One optimiser step. Returns (listwise loss, pointwise loss, share of groups whose best candidate came first, pairs)."""
    model.train()
    share = rate_at(state["pairs"], args.pairs)
    for group in adam.param_groups:
        group["lr"] = group["peak"] * share
    groups = sampler.groups(state["step"], args.groups, state["counts"])
    n_pairs, n_lists = sum(len(pairs) for pairs, _ in groups), sum(listed(odds) for _, odds in groups)
    right = sum(float((1 / (1 + np.exp(-odds))).sum()) for _, odds in groups)
    totals = {"right": right, "wrong": n_pairs - right, "lists": n_lists}
    parameters = [p for p in model.parameters() if p.requires_grad]
    # Threads take passes as they become free; sums are made in the order of the passes, so that a run can be repeated.
    run = lambda some: gradients(model, some, totals, parameters, args)
    done = list(workers.map(run, passes(groups, args.tokens)))
    with torch.no_grad():
        for parameter, *parts in zip(parameters, *(found for found, _, _, _ in done)):
            parameter.grad = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
    listwise, binary, firsts = (sum(one[at] for one in done) for at in (1, 2, 3))
    if not np.isfinite(listwise + binary):
        sys.exit(f"the loss is {listwise + binary} at step {state['step']}: lower --rate")
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    adam.step()
    average.update(model)
    state["step"] += 1
    state["pairs"] += n_pairs
    return listwise, binary, firsts / max(1, n_lists), n_pairs


if __name__ == "__main__":
    main()
