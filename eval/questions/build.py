#!/usr/bin/env python3
"""Builds the question set this repository may redistribute: train.jsonl and verify.jsonl.

    build.py SHARED_DIR   rebuild both files (and the counts in README.md) from the full router question set
                          (SHARED_DIR/train.jsonl, SHARED_DIR/verify.jsonl) and from own_prompts/*.jsonl
    build.py --check      verify the committed files; needs nothing but this folder, and is run by the tests

Both are deterministic: every choice is ordered by a hash of SEED and the row's id. Standard library only.
Which sources may be shipped, and why the others may not, is told in README.md.
"""

import argparse
import hashlib
import json
import sys
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = "weirgate-questions-1"
CLASSES = ("math", "code", "medicine", "writing", "generic")
LANGS = ("zh", "en")
SPLITS = ("train", "verify")
FIELDS = ("id", "question", "domain", "lang", "difficulty", "source", "license")
OWN_FIELDS = ("id", "question", "domain", "lang", "source", "license")
OWN_SOURCE = "weirgate:own"

CAP = {"train": 400, "verify": 100}  # rows per class
FLOOR = {"train": 300, "verify": 75}  # below this a class would no longer be measured
OWN_FLOOR = {"writing": 240, "generic": 400, "code": 120, "medicine": 80, "math": 80}
OWN_VERIFY_SHARE = 0.2
MAX_CHARS = 1200
MAX_BYTES = 1_500_000  # all JSONL files together
NEAR_DUPLICATE = 0.6  # Jaccard similarity of character 4-grams

# What may be shipped: start of `source` -> the `license` it must carry. Anything else is left out.
SHIPPABLE = {
    OWN_SOURCE: "Apache-2.0",
    "SCNU203/Math23k:": "MIT",
    "openai/grade-school-math:": "MIT",
    "Snailclimb/JavaGuide:": "Apache-2.0",
    "codefuse-ai/codefuse-evaluation:": "Apache-2.0",
    "deepseek-ai/DeepSeek-Coder:Evaluation/MBPP/": "MIT (MBPP: CC-BY-4.0)",
    "SupritYoung/Zhongjing:": "Apache-2.0",
    "pubmedqa/pubmedqa:": "MIT",
    "X-PLUG/WritingBench:": "Apache-2.0",
    "hikariming/chat-dataset-baseline:history/其他中文问题补充/": "MIT",
}

# Shippable rows whose class is wrong or cannot be told from the text; they teach and measure nothing.
DOUBTFUL = {
    "train-0414",  # medicine: a title with no medical word
    "train-0960",  # writing: asks for a philosophical question
    "train-1340",  # writing: asks who a singer is
    "train-1731",  # generic: an intermediate language of hardware compilers
    "train-2457",  # generic: encapsulation in programming
    "train-2615",  # generic: foreign keys in databases
    "train-3665",  # generic: software requirements
    "verify-0483",  # generic: deep learning
    "verify-0632",  # medicine: names for babies
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shared", nargs="?", type=Path, help="folder of the full set: train.jsonl and verify.jsonl")
    parser.add_argument("--check", action="store_true", help="only verify the committed files")
    args = parser.parse_args()
    if args.check == bool(args.shared):
        parser.error("give either the folder of the full question set or --check")
    if args.shared and not build(args.shared):
        return 1
    return check()


# --- build ----------------------------------------------------------------------------------------------------------


def build(shared: Path) -> bool:
    """Writes train.jsonl, verify.jsonl and README's counts; False when an own prompt repeats another."""
    seen = NearDuplicates()
    pools = {split: defaultdict(list) for split in SPLITS}
    repeated = []
    for row, split in split_own(read_own()):
        if twin := seen.find_or_add(row):
            repeated.append(f"own prompt {row['id']} repeats {twin}: reword or delete one of them")
        pools[split][row["domain"]].append(row)
    if repeated:
        print(*repeated, sep="\n", file=sys.stderr)
        return False

    left_out = Counter()
    for split in reversed(SPLITS):  # verify first: of two near-duplicates the verify row stays
        for row in read_jsonl(shared / f"{split}.jsonl"):
            if not shippable(row):
                left_out[f"not shippable: {repository(row)}, {row['license']}"] += 1
            elif row["id"] in DOUBTFUL:
                left_out["doubtful label"] += 1
            elif seen.find_or_add(row):
                left_out["near-duplicate"] += 1
            else:
                pools[split][row["domain"]].append(row)

    for split in SPLITS:
        rows = [row for domain in CLASSES for row in take(pools[split][domain], CAP[split])]
        rows.sort(key=order)  # mixes the classes
        write_jsonl(HERE / f"{split}.jsonl", [{field: row.get(field) for field in FIELDS} for row in rows])
    write_counts(counts_table(load_splits()))
    for reason, number in sorted(left_out.items()):
        print(f"left out {number:5}  {reason}")
    return True


def split_own(rows: list) -> list:
    """Pairs each own prompt with its file: OWN_VERIFY_SHARE of every (class, language) goes to verify."""
    strata = defaultdict(list)
    for row in rows:
        strata[row["domain"], row["lang"]].append(row)
    pairs = []
    for stratum in strata.values():
        verify = round(len(stratum) * OWN_VERIFY_SHARE)
        for rank, row in enumerate(sorted(stratum, key=order)):
            pairs.append((row, "verify" if rank < verify else "train"))
    return pairs


def take(rows: list, cap: int) -> list:
    """At most `cap` rows: all own prompts, then an equal share from each source, large sources filling what small ones leave."""
    taken = [row for row in rows if row["source"] == OWN_SOURCE]
    queues = defaultdict(list)
    for row in sorted(rows, key=order):
        if row["source"] != OWN_SOURCE:
            queues[repository(row)].append(row)
    while len(taken) < cap and any(queues.values()):
        for name in sorted(queues):
            if queues[name] and len(taken) < cap:
                taken.append(queues[name].pop(0))
    return taken


# --- check ----------------------------------------------------------------------------------------------------------


def check() -> int:
    """Prints the counts and every problem of the committed files; 0 when there is none."""
    splits, own = load_splits(), read_own()
    problems = list(row_problems(splits, own))
    if not problems:  # the rest relies on whole rows
        problems = [*set_problems(splits, own), *folder_problems(splits)]
        print(counts_table(splits))
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


def row_problems(splits: dict, own: list):
    named = [(f"{split}.jsonl", FIELDS, row) for split in SPLITS for row in splits[split]]
    named += [("own_prompts", OWN_FIELDS, row) for row in own]
    for file, fields, row in named:
        where = f"{file}: {row.get('id', 'row without id')}"
        if tuple(row) != fields:
            yield f"{where}: fields are {tuple(row)}, expected {fields}"
            continue
        if not all(isinstance(row[field], str) for field in OWN_FIELDS):
            yield f"{where}: every field but difficulty must be text"
            continue
        question = row["question"]
        if question != question.strip() or not 0 < len(question) <= MAX_CHARS:
            yield f"{where}: question must be trimmed text of 1 to {MAX_CHARS} characters"
        if row["domain"] not in CLASSES:
            yield f"{where}: unknown domain {row['domain']!r}, expected one of {CLASSES}"
        if row["lang"] not in LANGS:
            yield f"{where}: unknown lang {row['lang']!r}, expected one of {LANGS}"
        if row.get("difficulty") not in (None, "easy", "medium", "hard"):
            yield f"{where}: unknown difficulty {row['difficulty']!r}"
        if not shippable(row):
            yield f"{where}: source {row['source']!r} under {row['license']!r} may not be shipped (see SHIPPABLE)"


def set_problems(splits: dict, own: list):
    ids = Counter(row["id"] for split in SPLITS for row in splits[split])
    yield from (f"id {name} occurs {number} times in train and verify" for name, number in ids.items() if number > 1)
    seen = NearDuplicates()
    for split in SPLITS:
        for row in splits[split]:
            if twin := seen.find_or_add(row):
                yield f"{split}.jsonl: {row['id']} is a near-duplicate of {twin}"

    placed = {row["id"]: (split, row["question"]) for split in SPLITS for row in splits[split] if row["source"] == OWN_SOURCE}
    expected = {row["id"]: (split, row["question"]) for row, split in split_own(own)}
    for name in sorted(placed.keys() | expected.keys()):
        if placed.get(name) != expected.get(name):
            yield f"own prompt {name}: own_prompts and the built files differ; run build.py with the full set again"

    for split in SPLITS:
        classes = Counter(row["domain"] for row in splits[split])
        for domain in CLASSES:
            if not FLOOR[split] <= classes[domain] <= CAP[split]:
                yield f"{split}.jsonl: {classes[domain]} rows of {domain}, expected {FLOOR[split]} to {CAP[split]}"
    for domain in CLASSES:
        langs = Counter(row["lang"] for row in own if row["domain"] == domain)
        if langs.total() < OWN_FLOOR[domain]:
            yield f"own_prompts: {langs.total()} prompts of {domain}, expected at least {OWN_FLOOR[domain]}"
        if not 0.4 <= langs["zh"] / max(1, langs.total()) <= 0.6:
            yield f"own_prompts: {domain} should be about half Chinese, half English, but is {dict(langs)}"


def folder_problems(splits: dict):
    size = sum(file.stat().st_size for file in HERE.rglob("*.jsonl"))
    if size > MAX_BYTES:
        yield f"the JSONL files take {size} bytes together, more than {MAX_BYTES}"
    if counts_table(splits) not in (HERE / "README.md").read_text(encoding="utf-8"):
        yield "README.md: the counts do not match the files; run build.py with the full set again"
    notice = (HERE / "LICENSES" / "NOTICE").read_text(encoding="utf-8")
    for name in sorted({repository(row) for split in SPLITS for row in splits[split]} - {OWN_SOURCE}):
        if name not in notice:
            yield f"LICENSES/NOTICE: no attribution for {name}, of which rows are shipped"


# --- rows -----------------------------------------------------------------------------------------------------------


def shippable(row: dict) -> bool:
    return any(row["source"].startswith(start) and row["license"] == name for start, name in SHIPPABLE.items())


def repository(row: dict) -> str:
    """`owner/name` of a row's source, or OWN_SOURCE."""
    return row["source"] if row["source"] == OWN_SOURCE else row["source"].split(":")[0]


def order(row: dict) -> str:
    return hashlib.sha256(f"{SEED}/{row['id']}".encode()).hexdigest()


class NearDuplicates:
    """Finds an earlier row whose character 4-grams overlap a row's by NEAR_DUPLICATE or more."""

    def __init__(self):
        self.ids, self.sizes, self.postings = [], [], defaultdict(list)

    def find_or_add(self, row: dict):
        """Id of an earlier near-duplicate; None, and the row is remembered, when there is none."""
        grams = shingles(row["question"])
        shared = Counter(earlier for gram in grams for earlier in self.postings.get(gram, ()))
        for earlier, common in shared.items():
            if common >= NEAR_DUPLICATE * (len(grams) + self.sizes[earlier] - common):
                return self.ids[earlier]
        for gram in grams:
            self.postings[gram].append(len(self.ids))
        self.ids.append(row["id"])
        self.sizes.append(len(grams))
        return None


def shingles(text: str) -> set:
    """Character 4-grams after dropping everything but letters and digits; a shorter text is its own gram."""
    folded = "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())
    return {folded[i : i + 4] for i in range(max(1, len(folded) - 3))}


# --- files ----------------------------------------------------------------------------------------------------------


def load_splits() -> dict:
    return {split: read_jsonl(HERE / f"{split}.jsonl") for split in SPLITS}


def read_own() -> list:
    return [row for domain in CLASSES for row in read_jsonl(HERE / "own_prompts" / f"{domain}.jsonl")]


def read_jsonl(path: Path) -> list:
    rows = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if line:
                rows.append(json.loads(line))
                if not isinstance(rows[-1], dict):
                    raise ValueError("the line is no object")
    except OSError as error:
        sys.exit(f"cannot read {path}: {error.strerror}")
    except ValueError as error:
        sys.exit(f"{path}, line {number}: not a JSON object ({error})")
    return rows


def write_jsonl(path: Path, rows: list) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def counts_table(splits: dict) -> str:
    """Markdown: rows per class, language, source and licence, one column per file."""
    lines = ["| Class | Source | License | Language | train | verify |", "|---|---|---|---|---|---|"]
    keyed = {
        split: Counter((row["domain"], repository(row), row["license"], row["lang"]) for row in splits[split])
        for split in SPLITS
    }
    for domain in CLASSES:
        keys = sorted(key for key in keyed["train"].keys() | keyed["verify"].keys() if key[0] == domain)
        lines += [f"| {' | '.join(key)} | {keyed['train'][key]} | {keyed['verify'][key]} |" for key in keys]
        for lang in LANGS:
            sums = [sum(n for key, n in keyed[s].items() if key[0] == domain and key[3] == lang) for s in SPLITS]
            lines.append(f"| **{domain}** | all | | {lang} | {sums[0]} | {sums[1]} |")
        sums = [sum(n for key, n in keyed[s].items() if key[0] == domain) for s in SPLITS]
        lines.append(f"| **{domain}** | **all** | | all | **{sums[0]}** | **{sums[1]}** |")
    lines.append(f"| **all** | **all** | | all | **{len(splits['train'])}** | **{len(splits['verify'])}** |")
    return "\n".join(lines)


def write_counts(table: str) -> None:
    """Replaces what stands between the two marks of README.md."""
    readme = HERE / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split("<!-- counts: written by build.py -->\n")
    after = rest.split("<!-- end of counts -->")[1]
    readme.write_text(
        f"{before}<!-- counts: written by build.py -->\n{table}\n<!-- end of counts -->{after}", encoding="utf-8"
    )


if __name__ == "__main__":
    sys.exit(main())
