"""Holds the folders that Halve writes against transformers and PyTorch, on a machine with an NVIDIA GPU.

    python3 benchmarks/transformers_check.py FOLDER

FOLDER is what dev.halve.engine.TransformersFolders, among the tests, wrote: a folder for each family and
head. For each of them
  - transformers loads the dense folder, with no tensor missing or left over, and gives Halve's outputs,
    in double precision, so that the rounding found is Halve's alone;
  - of a pruned model every pruned weight has two of four zeros, and to_sparse_semi_structured takes it;
  - PyTorch's own CUTLASS layout of that weight is, bit for bit, the one that Halve wrote;
  - the bits of the sparse-24-bitmask folder say where the weight's values belong.
Ends with 0 if all that holds, and prints one line for each folder.
"""

import json
import pathlib
import sys
import warnings

import torch
import transformers
from safetensors.torch import load_file
from torch.sparse import SparseSemiStructuredTensorCUTLASS, to_sparse_semi_structured

HEADS = {
    "question-answering": transformers.AutoModelForQuestionAnswering,
    "text-classification": transformers.AutoModelForSequenceClassification,
    "token-classification": transformers.AutoModelForTokenClassification,
    "none": transformers.AutoModel,
}
TOLERANCE = 2e-4


def outputs(model, head, ids, types, typed):
    inputs = {"input_ids": torch.tensor([ids])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if typed:
        inputs["token_type_ids"] = torch.tensor([types])
    with torch.no_grad():
        result = model(**inputs)
    if head == "question-answering":
        return torch.stack([result.start_logits[0], result.end_logits[0]], dim=-1)
    if head == "none":
        return result.last_hidden_state[0]
    return result.logits[0] if head == "token-classification" else result.logits


def check_outputs(folder, expected):
    head = expected["head"]
    model, loading = HEADS[head].from_pretrained(folder / "dense", output_loading_info=True, dtype=torch.float64)
    model.eval()
    # A plain BERT has a pooler, which Halve's encoder neither has nor needs.
    missing = [name for name in loading["missing_keys"] if "pooler" not in name]
    assert not missing, f"missing: {missing}"
    assert not loading["unexpected_keys"], f"left over: {loading['unexpected_keys']}"
    typed = getattr(model.config, "type_vocab_size", 1) > 1
    worst = 0.0
    for ids, types, rows in zip(expected["input_ids"], expected["token_type_ids"], expected["outputs"]):
        found = outputs(model, head, ids, types, typed)
        worst = max(worst, (found - torch.tensor(rows, dtype=torch.float64)).abs().max().item())
    assert worst < TOLERANCE, f"outputs differ by {worst}"
    return worst


def check_weights(folder, pruned):
    if not pruned:
        return
    dense = load_file(folder / "dense" / "model.safetensors")
    cutlass = load_file(folder / "cutlass" / "model.safetensors")
    bitmask = load_file(folder / "bitmask" / "model.safetensors")
    for name in pruned:
        weight = dense[name]
        nonzeros = (weight.reshape(-1, 4) != 0).sum(dim=1)
        assert nonzeros.max() <= 2, f"{name} is not 2:4"
        half = weight.half().cuda()
        sparse = to_sparse_semi_structured(half)
        x = torch.randn(64, weight.shape[1], dtype=torch.float16, device="cuda")
        found = torch.nn.functional.linear(x, sparse)
        exact = torch.nn.functional.linear(x, half)
        assert torch.allclose(found, exact, rtol=1e-2, atol=1e-2), f"{name}: the product differs"
        own = SparseSemiStructuredTensorCUTLASS.from_dense(half)
        for field in ("packed", "meta"):
            ours = cutlass[f"{name}.{field}"].cuda()
            assert torch.equal(getattr(own, field), ours), f"{name}: {field} differs from PyTorch's"
        module = name.removesuffix(".weight")
        bits = bitmask[f"{module}.bitmask"]
        mask = (bits.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1
        mask = mask.reshape(weight.shape[0], -1)[:, : weight.shape[1]].bool()
        again = torch.zeros_like(weight)
        again[mask] = bitmask[f"{module}.compressed"].flatten()
        assert torch.equal(again, weight), f"{name}: the bitmask's weight differs"
        assert bitmask[f"{module}.shape"].flatten().tolist() == list(weight.shape)


def main(root):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", "The PyTorch API of SparseSemiStructuredTensor")
    folders = sorted(path.parent for path in pathlib.Path(root).glob("*/expected.json"))
    assert folders, f"no expected.json below {root}"
    failed = 0
    for folder in folders:
        expected = json.loads((folder / "expected.json").read_text())
        try:
            worst = check_outputs(folder, expected)
            check_weights(folder, expected["pruned"])
            print(f"ok    {folder.name}: largest difference {worst:.1e}, {len(expected['pruned'])} pruned weights")
        except Exception as wrong:
            failed += 1
            print(f"FAIL  {folder.name}: {type(wrong).__name__}: {wrong}")
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.cuda.get_device_name()}"
    print(f"{len(folders) - failed} of {len(folders)} folders hold; {versions}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
