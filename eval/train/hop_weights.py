"""Weights of the second hop (src/rag/retrieve/hop/weights.rs), fitted on training questions.

    python hop_weights.py FEATURES.npz --train hotpotqa_train100=1 musique_train100=0.5 nq_qed=1 squad_dev=0.7 --show hotpotqa nq

The score of a passage is `one . f + g * (hops . f)`: what counts for every question, and what counts more the more the question looks
like one that needs several passages; g, between 0 and 1, is a logistic function of the question. The parts are fitted together: each
right passage against the wrong ones of its question, softmax, with L2 on standardised weights; g begins as a classifier of the sets
in MULTI_HOP against the others and may move a little. `NAME=MASS` says how much a set counts in all, however many questions it has.

Prints five-fold cross-validation on the training sets, the sets in --show (which are not fitted), and the tables to paste.
"""

import argparse
import random

import numpy as np
from scipy.optimize import minimize

FOLDS = 5
MULTI_HOP = {"hotpotqa_train100", "musique_train100"}
# What counts for every question: no links, or questions of one passage suffer.
ONE = {"own", "cos", "best", "sent", "cov", "bi", "lex"}
L2, L2_GATE = 0.02, 0.05
GATE = ["bias", "words", "need", "cos", "lgain", "gain1", "sent"]


def question(group, names):
    """What g is a function of, in the order of GATE."""
    x = group["x"]
    of = {name: x[:, at] for at, name in enumerate(names)}
    best = int(np.argmax(of["own"]))
    words = np.log(max(len(group["question"].split()), 1))
    return np.array([1, words, 1 - of["cov"][best], *(of[name].max() for name in ["cos", "lgain", "gain1", "sent"])], float)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def classifier(h, is_multi):
    """A logistic regression in which both kinds of questions count alike."""
    weight = np.where(is_multi, 0.5 / is_multi.sum(), 0.5 / (~is_multi).sum())

    def loss(v):
        p = sigmoid(h @ v)
        value = -(weight * np.where(is_multi, np.log(p + 1e-9), np.log(1 - p + 1e-9))).sum() + 0.005 * v @ v
        return value, -(h * (weight * (is_multi - p))[:, None]).sum(0) + 0.01 * v

    return minimize(loss, np.zeros(h.shape[1]), jac=True).x


def fit(sets, masses, names):
    """Weights for raw features: `one`, `hops`, and those of the gate."""
    x = np.concatenate([group["x"] for groups in sets.values() for group in groups])
    mean, std = x.mean(0), x.std(0) + 1e-6
    h = np.array([group["h"] for groups in sets.values() for group in groups])
    h_mean, h_std = h.mean(0), h.std(0) + 1e-6
    h_mean[0], h_std[0] = 0, 1
    data, is_multi = [], []
    for name, groups in sets.items():
        usable = [group for group in groups if group["gold"].any() and not group["gold"].all()]
        n_gold = sum(int(group["gold"].sum()) for group in usable)
        for group in usable:
            data.append(((group["x"] - mean) / std, group["gold"], (group["h"] - h_mean) / h_std, masses[name] / n_gold))
            is_multi.append(name in MULTI_HOP)
    start = classifier(np.array([row[2] for row in data]), np.array(is_multi))
    n = len(names)
    allowed = np.array([name in ONE for name in names], float)

    def loss(p):
        one, hops, gate = p[:n] * allowed, p[n : 2 * n], p[2 * n :]
        value = 0.5 * L2 * (one @ one + hops @ hops) + 0.5 * L2_GATE * (gate - start) @ (gate - start)
        d_one, d_hops, d_gate = L2 * one, L2 * hops, L2_GATE * (gate - start)
        for x, gold, h, mass in data:
            g, a, b = sigmoid(h @ gate), x @ one, x @ hops
            scores = a + g * b
            e = np.exp(scores - scores.max())
            rest = e[~gold].sum()
            for at in np.flatnonzero(gold):
                z = rest + e[at]
                value -= mass * (scores[at] - scores.max() - np.log(z))
                share = np.where(gold, 0, e)
                share[at] = e[at]
                towards = -share / z
                towards[at] += 1
                pull = towards @ x
                d_one, d_hops = d_one - mass * pull, d_hops - mass * g * pull
                d_gate = d_gate - mass * (towards @ b) * g * (1 - g) * h
        return value, np.concatenate([d_one * allowed, d_hops, d_gate])

    p = minimize(loss, np.concatenate([np.zeros(2 * n), start]), jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    gate = p[2 * n :] / h_std
    gate[0] = p[2 * n] - (p[2 * n + 1 :] * h_mean[1:] / h_std[1:]).sum()
    return p[:n] * allowed / std, p[n : 2 * n] / std, gate


def score(group, weights, own):
    if weights is None:
        return group["x"][:, own]
    one, hops, gate = weights
    return group["x"] @ (one + sigmoid(group["h"] @ gate) * hops)


def chance(sets, masses, weights):
    """Constant, weight of the score and weight of g of the logistic function from a score to how often such a passage is right."""
    rows, right, mass = [], [], []
    for name, groups in sets.items():
        for group in groups:
            g = sigmoid(group["h"] @ weights[2])
            rows += [[1, value, g] for value in score(group, weights, None)]
            right += list(group["gold"])
            mass += [masses[name] / len(groups)] * len(group["gold"])
    x, y, m = np.array(rows), np.array(right, float), np.array(mass)

    def loss(v):
        p = sigmoid(x @ v)
        return -(m * (y * np.log(p + 1e-9) + (1 - y) * np.log(1 - p + 1e-9))).sum(), -(x * (m * (y - p))[:, None]).sum(0)

    v = minimize(loss, np.zeros(3), jac=True).x
    p = sigmoid(x @ v)
    for low in np.arange(0, 1, 0.2):
        inside = (p >= low) & (p < low + 0.2)
        print(f"chance {low:.1f} to {low + 0.2:.1f}: {inside.sum()} passages, told {p[inside].mean():.2f}, right {y[inside].mean():.2f}")
    return v


def measure(groups, weights, own):
    """R@2, R@5, all@5, MRR@10 in percent; passages outside the pool count as not found."""
    values = []
    for group in groups:
        # A document of several passages stands where its best one does.
        first_of = {}
        for at in np.argsort(-score(group, weights, own), kind="stable"):
            first_of.setdefault(group["documents"][at], at)
        gold = group["gold"][list(first_of.values())]
        n, hits = group["n_gold"], np.flatnonzero(gold[:10])
        values.append([gold[:2].sum() / n, gold[:5].sum() / n, gold[:5].sum() == n, 1 / (hits[0] + 1) if len(hits) else 0])
    return 100 * np.array(values, float)


def show(name, values):
    mean, error = values.mean(0), values.std(0) / len(values) ** 0.5
    columns = ["R@2", "R@5", "all@5", "MRR@10"]
    print(f"{name:45} " + "  ".join(f"{c} {m:5.1f} +-{e:4.1f}" for c, m, e in zip(columns, mean, error)), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", nargs="+")
    parser.add_argument("--train", nargs="+", required=True, metavar="NAME=MASS")
    parser.add_argument("--show", nargs="*", default=[])
    args = parser.parse_args()
    sets = {}
    for path in args.features:
        with np.load(path, allow_pickle=True) as file:
            sets.update({name: list(file[name]) for name in file.files})
    masses = {name: float(mass) for name, mass in (spec.split("=") for spec in args.train)}
    names = next(iter(sets.values()))[0]["names"]
    own = names.index("own")
    for groups in sets.values():
        for group in groups:
            group["h"] = question(group, names)
    train = {name: sets[name] for name in masses}

    order = {name: random.Random(1).sample(range(len(groups)), len(groups)) for name, groups in train.items()}
    held = {name: [] for name in train}
    for fold in range(FOLDS):
        part = {name: [groups[at] for n, at in enumerate(order[name]) if n % FOLDS != fold] for name, groups in train.items()}
        weights = fit(part, masses, names)
        for name, groups in train.items():
            held[name].append(measure([groups[at] for n, at in enumerate(order[name]) if n % FOLDS == fold], weights, own))
    for name, groups in train.items():
        show(f"{name}: first stage", measure(groups, None, own))
        show(f"{name}: cross-validated", np.concatenate(held[name]))
    weights = fit(train, masses, names)
    for name in args.show:
        before, after = measure(sets[name], None, own), measure(sets[name], weights, own)
        show(f"{name}: first stage", before)
        show(f"{name}: with the hop", after)
        show(f"{name}: difference", after - before)
    print("chance: " + ", ".join(f"{value:.3f}" for value in chance(train, masses, weights)))
    one, hops, gate = weights
    for name, a, b in zip(names, one, hops):
        print(f'    ("{name}", {a:.2f}, {b:.2f}),')
    print("\n".join(f'    ("{name}", {value:.2f}),' for name, value in zip(GATE, gate)))


if __name__ == "__main__":
    main()
