#!/usr/bin/env python3
"""Writes a trained reranker as files that Weirgate reads: config.json, tokenizer.json, model.safetensors, model.int8.safetensors.

    export_reranker.py --backbone MINILM --run RUN... --out FOLDER      # from RUN/export, written while training; of several runs the average

Word embeddings are left out of both files: they are the backbone's, unchanged. In the int8 file every weight matrix of the layers is
int8 [out, in] with `<name>_scale` float32 [out]; weight = int8 * scale. Embeddings are float16; biases, norms, head: float32.
config.json also says which weights these are (`version`); what the search before is worth beside the logit is added by rerank_weights.py.
"""
import argparse
import hashlib
import json
import pathlib
import shutil

import torch
from safetensors.torch import load_file, save_file

import model as models


def write(model, backbone, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: t.detach().cpu().float().contiguous() for name, t in model.state_dict().items() if name != models.WORD_EMBEDDINGS}
    config = {key: value for key, value in model.config.items() if not key.startswith("_") and key != "transformers_version"}
    config.update(
        architectures=["BertForSequenceClassification"], num_labels=1, pooling=model.pooling, frozen_layers=model.frozen_layers,
        word_embeddings="sentence-transformers/all-MiniLM-L6-v2", input="[CLS] question [SEP] title. passage [SEP]",
    )
    shutil.copyfile(pathlib.Path(backbone) / "tokenizer.json", folder / "tokenizer.json")
    save_file(weights, str(folder / "model.safetensors"), {"format": "pt"})
    save_file(quantised(weights), str(folder / "model.int8.safetensors"), {"format": "pt"})
    # Thresholds that `weirgate rag calibrate` finds are kept under this name: they hold for these weights only.
    config["version"] = hashlib.sha256((folder / "model.int8.safetensors").read_bytes()).hexdigest()[:12]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)


def quantised(weights):
    """Symmetric, one scale an output channel (row). The largest weight of a row is 127."""
    out = {}
    for name, tensor in weights.items():
        if ".encoder.layer." in name and tensor.ndim == 2:
            scale = tensor.abs().amax(dim=1).clamp(min=1e-8) / 127
            out[name] = (tensor / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
            out[name + "_scale"] = scale
        elif ".embeddings." in name and tensor.ndim == 2:
            out[name] = tensor.half()
        else:
            out[name] = tensor
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--run", required=True, nargs="+", help="runs from the same backbone with the same head and frozen layers")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    runs = [models.from_export(pathlib.Path(run) / "export", args.backbone) for run in args.run]
    weights = [run.state_dict() for run in runs]
    runs[0].load_state_dict({name: torch.stack([one[name].float() for one in weights]).mean(0) for name in weights[0]})
    write(runs[0], args.backbone, args.out)
    for name in ("model.safetensors", "model.int8.safetensors"):
        path = pathlib.Path(args.out) / name
        print(path, path.stat().st_size, "bytes,", len(load_file(str(path))), "tensors")


if __name__ == "__main__":
    main()
