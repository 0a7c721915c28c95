"""Holds Halve's training on a GPU against PyTorch's, step by step, on a machine with an NVIDIA GPU.

    python3 benchmarks/torch_curve.py FOLDER

FOLDER is what dev.halve.engine.TorchLossCurve, among the tests, wrote: the initial weights, and for every
step the rows, the learning rate and the loss that Halve found before the step. transformers' model takes
the same steps from the same weights (AdamW, clipping at 1, no dropout), once in fp32 and once under
autocast to bf16. The noise is what bf16 changes in PyTorch: the mean over the steps of the difference
between its two losses. Prints the losses every twentieth step and the differences, and ends with 1 where
Halve is further from fp32 than 1.5 times the noise.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForQuestionAnswering


def padded(rows, length):
    return torch.tensor([row + [0] * (length - len(row)) for row in rows]).cuda()


def losses(folder, steps, bf16):
    weights = load_file(folder / "model.safetensors")
    layers = 1 + max(int(name.split(".")[3]) for name in weights if ".layer." in name)
    vocabulary, hidden = weights["bert.embeddings.word_embeddings.weight"].shape
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=weights["bert.encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_position_embeddings=weights["bert.embeddings.position_embeddings.weight"].shape[0],
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
    )
    model = BertForQuestionAnswering(config)
    left = model.load_state_dict(weights, strict=False)
    assert not left.missing_keys and not left.unexpected_keys, left
    model = model.cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0, weight_decay=0, fused=True)
    found = []
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = step["learningRate"]
        length = max(len(row) for row in step["ids"])
        mask = padded([[1] * len(row) for row in step["ids"]], length)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=bf16):
            out = model(
                input_ids=padded(step["ids"], length),
                token_type_ids=padded(step["types"], length),
                attention_mask=mask,
            )
        loss = 0
        for logits, answers in ((out.start_logits, "starts"), (out.end_logits, "ends")):
            # transformers' own loss is over the padding too.
            inside = logits.float().masked_fill(mask == 0, float("-inf"))
            loss = loss + torch.nn.functional.cross_entropy(inside, torch.tensor(step[answers]).cuda()) / 2
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found.append(loss.detach())
    return torch.stack(found).float().cpu()


def main():
    folder = pathlib.Path(sys.argv[1])
    steps = json.loads((folder / "steps.json").read_text())
    halve = torch.tensor([step["loss"] for step in steps])
    exact, rounded = losses(folder, steps, False), losses(folder, steps, True)
    print("step   Halve bf16   PyTorch bf16   PyTorch fp32")
    for at in [0, *range(19, len(steps), 20)]:
        print("%4d %12.4f %14.4f %14.4f" % (at + 1, halve[at], rounded[at], exact[at]))
    noise = (rounded - exact).abs().mean().item()
    distance = (halve - exact).abs().mean().item()
    print("mean distance from PyTorch's fp32: Halve %.4f, PyTorch's bf16 %.4f" % (distance, noise))
    sys.exit(0 if distance <= 1.5 * noise else 1)


if __name__ == "__main__":
    main()
