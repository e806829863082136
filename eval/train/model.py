"""The BERT encoder of all-MiniLM-L6-v2 in plain torch, as a bi-encoder and as a cross-encoder for (question, passage) pairs.

Used by `data.py` (mining), `reranker.py` (training), `evaluate_reranker.py` and `export_reranker.py`. Nothing here knows where data
lies. Names of the parameters are those of Hugging Face's BertForSequenceClassification, so that files move both ways.

Shapes: B pairs, T word pieces, D = 384. A pair is `[CLS] question [SEP] title. passage [SEP]`, token types 0 and 1.
"""
import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

WORD_EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
# What the head sees. `interaction`: SCALE times the mean over the question's tokens of the best cosine with any token of the passage
# (last hidden states, both read jointly), SCALE times the cosine of the two mean vectors, and the first vector. The first of these
# ranks well before any training (README.md), so a small budget refines a judgement and need not learn one from chance.
POOLINGS = ("cls", "mean", "cls_mean", "interaction")
SCALE = 20.0


class Embeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config["hidden_size"]
        self.word_embeddings = nn.Embedding(config["vocab_size"], width)
        self.position_embeddings = nn.Embedding(config["max_position_embeddings"], width)
        self.token_type_embeddings = nn.Embedding(config["type_vocab_size"], width)
        self.LayerNorm = nn.LayerNorm(width, eps=config["layer_norm_eps"])

    def forward(self, ids, types):
        positions = self.position_embeddings.weight[: ids.shape[1]]
        return self.LayerNorm(self.word_embeddings(ids) + positions + self.token_type_embeddings(types))


class Named(nn.Module):
    """A module that only groups others under the names Hugging Face uses."""

    def __init__(this, /, **modules):  # noqa: N805, one of the names is `self`
        super().__init__()
        for name, module in modules.items():
            this.add_module(name, module)


def attend(q, k, v, mask):
    """q, k, v: [B, heads, T, D / heads]. On CPUs written out: torch's fused kernel takes thrice as long backwards in bfloat16."""
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q @ k.transpose(2, 3)) * q.shape[3] ** -0.5
    return torch.softmax(scores if mask is None else scores.masked_fill(~mask, -1e4), dim=-1) @ v


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, inner, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.heads = config["num_attention_heads"]
        self.attention = Named(
            self=Named(query=nn.Linear(width, width), key=nn.Linear(width, width), value=nn.Linear(width, width)),
            output=Named(dense=nn.Linear(width, width), LayerNorm=nn.LayerNorm(width, eps=eps)),
        )
        self.intermediate = Named(dense=nn.Linear(width, inner))
        self.output = Named(dense=nn.Linear(inner, width), LayerNorm=nn.LayerNorm(width, eps=eps))

    def forward(self, x, mask):
        """x: [B, T, D]; mask: [B, 1, 1, T] of bool, or None if nothing is padding."""
        batch, length, width = x.shape
        projections = self.attention.get_submodule("self")
        q, k, v = (
            getattr(projections, name)(x).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        context = attend(q, k, v, mask).transpose(1, 2).reshape(batch, length, width)
        x = self.attention.output.LayerNorm(x + self.attention.output.dense(context))
        return self.output.LayerNorm(x + self.output.dense(F.gelu(self.intermediate.dense(x))))


class CrossEncoder(nn.Module):
    """Logit of "this passage answers this question"."""

    def __init__(self, config, pooling="cls_mean", frozen_layers=0):
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling {pooling!r} is none of {POOLINGS}")
        self.config, self.pooling, self.frozen_layers = config, pooling, frozen_layers
        layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.bert = Named(embeddings=Embeddings(config), encoder=Named(layer=layers))
        width = config["hidden_size"]
        self.classifier = nn.Linear({"cls_mean": 2 * width, "interaction": 2 + width}.get(pooling, width), 1)
        nn.init.normal_(self.classifier.weight, std=0.005)
        nn.init.zeros_(self.classifier.bias)
        if pooling == "interaction":
            with torch.no_grad():
                self.classifier.weight[0, :2] = torch.tensor([1.0, 0.0])

    def freeze(self):
        """The word embeddings are the embedder's own, in one copy, so they never learn. Other embeddings and the first
        `frozen_layers` layers are left alone to save their backward pass, if any layer is to be."""
        self.bert.embeddings.requires_grad_(False)
        if not self.frozen_layers:
            for part in (self.bert.embeddings.position_embeddings, self.bert.embeddings.token_type_embeddings, self.bert.embeddings.LayerNorm):
                part.requires_grad_(True)
        for layer in self.bert.encoder.layer[: self.frozen_layers]:
            layer.requires_grad_(False)
        return self

    def hidden(self, ids, types, mask):
        """ids, types: int64 [B, T]; mask: bool [B, T]. Last hidden states [B, T, D]."""
        attend = None if bool(mask.all()) else mask[:, None, None, :]
        x = self.bert.embeddings(ids, types)
        for layer in self.bert.encoder.layer:
            x = layer(x, attend)
        return x

    def forward(self, ids, types, mask):
        """Logits [B]."""
        x = self.hidden(ids, types, mask)
        with torch.autocast(x.device.type, enabled=False):  # the cosines of good passages differ in the third digit
            return self.classifier(self.pool(x.float(), types, mask)).squeeze(-1)

    def pool(self, x, types, mask):
        """x: [B, T, D] -> [B, D or 2 D]."""
        if self.pooling == "cls":
            return x[:, 0]
        if self.pooling == "interaction":
            return torch.cat([interaction(x, types.bool(), mask), x[:, 0]], dim=1)
        weight = mask.to(x.dtype)[:, :, None]
        mean = (x * weight).sum(1) / weight.sum(1)
        return mean if self.pooling == "mean" else torch.cat([x[:, 0], mean], dim=1)


def interaction(x, second, mask):
    """[B, 2]: SCALE times (mean over the tokens of type 0 of the best cosine with a token of type 1; cosine of the means of both).
    x: [B, T, D]; second, mask: bool [B, T]. [CLS] and both [SEP] take part."""
    first = mask & ~second
    unit = F.normalize(x, dim=2)
    n_first = int(first.sum(1).max())  # tokens of type 0 stand in front
    similarity = unit[:, :n_first] @ unit.transpose(1, 2)
    best = similarity.masked_fill(~second[:, None, :], -1.0).amax(2)
    weight = first[:, :n_first].to(x.dtype)
    late = (best * weight).sum(1) / weight.sum(1)
    means = [F.normalize((x * part.to(x.dtype)[:, :, None]).sum(1), dim=1) for part in (first, second)]
    return SCALE * torch.stack([late, (means[0] * means[1]).sum(1)], dim=1)


def read_config(backbone):
    return json.loads((pathlib.Path(backbone) / "config.json").read_text(encoding="utf-8"))


def from_backbone(backbone, pooling, frozen_layers):
    """A cross-encoder with a fresh head over all-MiniLM-L6-v2 (folder with config.json, tokenizer.json, model.safetensors)."""
    model = CrossEncoder(read_config(backbone), pooling, frozen_layers)
    weights = load_file(str(pathlib.Path(backbone) / "model.safetensors"))
    own = model.state_dict()
    found = {"bert." + name: tensor for name, tensor in weights.items() if "bert." + name in own}
    missing = [name for name in own if name not in found and not name.startswith("classifier.")]
    if missing:
        raise ValueError(f"{backbone}/model.safetensors lacks {missing[0]} and {len(missing) - 1} more")
    model.load_state_dict(found, strict=False)
    return model.freeze()


def from_export(folder, backbone, file="model.safetensors"):
    """A trained cross-encoder as `export_reranker.py` writes it; word embeddings come from the backbone. int8 files are widened."""
    config = read_config(folder)
    model = from_backbone(backbone, config["pooling"], config.get("frozen_layers", 0))
    weights = load_file(str(pathlib.Path(folder) / file))
    widened = {}
    for name, tensor in weights.items():
        if name.endswith("_scale"):
            continue
        tensor = tensor.float()
        scale = weights.get(name + "_scale")
        widened[name] = tensor if scale is None else tensor * scale.float()[:, None]
    result = model.load_state_dict(widened, strict=False)
    if result.unexpected_keys or result.missing_keys != [WORD_EMBEDDINGS]:
        raise ValueError(f"{folder}/{file}: missing {result.missing_keys}, unknown {result.unexpected_keys}")
    return model


def tokenizer(backbone):
    """The backbone's own (it lower-cases), with neither padding nor truncation."""
    tok = Tokenizer.from_file(str(pathlib.Path(backbone) / "tokenizer.json"))
    tok.no_padding()
    tok.no_truncation()
    return tok


def pieces(tok, texts):
    """Word pieces without [CLS] and [SEP], one int32 array a text."""
    return [np.asarray(e.ids, np.int32) for e in tok.encode_batch(list(texts), add_special_tokens=False)]


CLS, SEP = 101, 102


def pair_ids(question, passage, limit=512):
    """`[CLS] question [SEP] passage [SEP]`: (ids, number of ids of type 0). The passage is cut to fit `limit`."""
    question = question[: limit // 2]
    passage = passage[: limit - len(question) - 3]
    ids = np.concatenate([[CLS], question, [SEP], passage, [SEP]]).astype(np.int64)
    return ids, len(question) + 2


def collate(pairs, device, multiple=4):
    """Pads (ids, first) pairs to one length, rounded up. Returns int64 ids, int64 types, bool mask, each [B, T]."""
    length = -(-max(len(ids) for ids, _ in pairs) // multiple) * multiple
    ids = np.zeros((len(pairs), length), np.int64)
    types = np.zeros_like(ids)
    mask = np.zeros(ids.shape, bool)
    for row, (one, first) in enumerate(pairs):
        ids[row, : len(one)] = one
        types[row, first : len(one)] = 1
        mask[row, : len(one)] = True
    return tuple(torch.from_numpy(x).to(device) for x in (ids, types, mask))


def by_length(pairs, tokens_per_batch):
    """Index lists of similar length, at most about `tokens_per_batch` word pieces each, padding included."""
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]))
    batch = []
    for i in order:
        if batch and (len(batch) + 1) * len(pairs[i][0]) > tokens_per_batch:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@torch.inference_mode()
def score_pairs(model, pairs, device, tokens_per_batch=4096):
    """Logits of (ids, first) pairs, float32 [len(pairs)]."""
    model.eval()
    out = np.zeros(len(pairs), np.float32)
    for batch in by_length(pairs, tokens_per_batch):
        out[batch] = model(*collate([pairs[i] for i in batch], device)).float().cpu().numpy()
    return out


@torch.inference_mode()
def embed(model, texts, device, tokens_per_batch=4096):
    """Sentence vectors as all-MiniLM-L6-v2 makes them: [CLS] text [SEP] (int arrays without specials, cut at 254), mean, L2. [n, D]."""
    rows = [(np.concatenate([[CLS], t[:254], [SEP]]).astype(np.int64), 256) for t in texts]
    out = np.zeros((len(texts), model.config["hidden_size"]), np.float32)
    for batch in by_length(rows, tokens_per_batch):
        ids, types, mask = collate([rows[i] for i in batch], device)
        x = model.hidden(ids, types, mask)
        weight = mask.to(x.dtype)[:, :, None]
        out[batch] = F.normalize((x * weight).sum(1) / weight.sum(1), dim=1).float().cpu().numpy()
    return out
