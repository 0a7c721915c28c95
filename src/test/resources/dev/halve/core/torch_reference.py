"""Writes torch_reference.json: what PyTorch itself makes of weights that the tests make too.

Run with PyTorch 2.13 and NumPy: python torch_reference.py > torch_reference.json
"""

import json
import sys

import numpy
import torch
from torch.ao.pruning import WeightNormSparsifier
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass as from_dense,
)


def weight(rows, columns, seed):
    """Distinct magnitudes of both signs, the same in any language."""
    i = torch.arange(rows * columns, dtype=torch.int64)
    spread = (i * 7919 + seed * 104729) % 65521
    sign = 1 - 2 * ((i * 31 + seed) % 2)
    return ((spread + 1) * sign).to(torch.float32).div(65536).reshape(rows, columns)


def small_weight(rows, columns, seed):
    """Whole numbers that half precision holds, distinct among neighbours."""
    i = torch.arange(rows * columns, dtype=torch.int64)
    sign = 1 - 2 * ((i * 31 + seed) % 2)
    return (((i * 7919 + seed) % 2039 + 1) * sign).to(torch.float32).reshape(rows, columns)


def text(bits):
    return "".join(str(int(bit)) for bit in bits.flatten())


def mask(rows, columns, seed, level, block, zeros, norm):
    linear = torch.nn.Linear(columns, rows, bias=False)
    with torch.no_grad():
        linear.weight.copy_(weight(rows, columns, seed))
    model = torch.nn.Sequential(linear)
    sparsifier = WeightNormSparsifier(
        sparsity_level=level, sparse_block_shape=block, zeros_per_block=zeros, norm=norm
    )
    sparsifier.prepare(model, config=[{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    return text(linear.parametrizations.weight[0].mask)


reference = {"torch": torch.__version__, "masks": [], "cutlass": [], "bitmasks": []}
for seed, (rows, columns, level, block, zeros, norm) in enumerate(
    [
        (8, 64, 1.0, (1, 4), 2, 2),
        (8, 64, 1.0, (1, 4), 1, 1),
        (8, 64, 1.0, (1, 8), 5, 2),
        (8, 64, 0.5, (1, 4), 2, 2),
        (8, 64, 0.3, (1, 4), 4, 1),
        (16, 16, 0.7, (4, 4), 16, 2),
        (16, 16, 0.6, (4, 4), 10, 1),
        (16, 16, 1.0, (4, 4), 10, 2),
        (12, 20, 0.45, (1, 1), 1, 1),
        (13, 18, 0.6, (4, 4), 16, 2),
    ]
):
    reference["masks"].append(
        {
            "rows": rows,
            "columns": columns,
            "seed": seed,
            "level": level,
            "block": block,
            "zeros": zeros,
            "norm": norm,
            "mask": mask(rows, columns, seed, level, block, zeros, norm),
        }
    )
for seed, (rows, columns) in enumerate([(32, 64), (64, 64), (32, 128), (96, 64)]):
    dense = small_weight(rows, columns, seed).half()
    groups = dense.view(-1, 4)
    groups.scatter_(1, groups.abs().topk(2, dim=1, largest=False).indices, 0)
    # Some groups with fewer nonzeros than two.
    dense[::5, ::3] = 0
    values, meta = from_dense(dense)
    reference["cutlass"].append(
        {
            "rows": rows,
            "columns": columns,
            "seed": seed,
            "values": values.view(torch.int16).flatten().tolist(),
            "meta": meta.flatten().tolist(),
        }
    )
for seed, (rows, columns) in enumerate([(3, 4), (5, 12), (4, 64)]):
    dense = weight(rows, columns, seed)
    kept = torch.zeros_like(dense, dtype=torch.bool).view(-1, 4)
    kept.scatter_(1, dense.view(-1, 4).abs().topk(2, dim=1).indices, True)
    kept = kept.view(rows, columns)
    reference["bitmasks"].append(
        {
            "rows": rows,
            "columns": columns,
            "seed": seed,
            "bitmask": numpy.packbits(kept.numpy(), axis=-1, bitorder="little")
            .flatten()
            .tolist(),
        }
    )
json.dump(reference, sys.stdout, separators=(",", ":"))
