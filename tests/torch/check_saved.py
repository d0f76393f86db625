"""Loads into PyTorch what `build/test_torch --save DIR` wrote, strictly, and compares. Run by tests/torch.sh.

    python3 tests/torch/check_saved.py DIR

NET.safetensors          a net trained in C for one step; NET.x and NET.y: a batch and its logits in C
NET.through.safetensors  PyTorch's own state_dict after it went through C: the same bits

Ends with `N passed, N failed`."""
import os
import sys

import numpy
import torch
from safetensors.torch import load_file

import nets

there, here = sys.argv[1], os.path.dirname(os.path.abspath(__file__))
passed = failed = 0


def check(ok, what):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print("    FAILED:", what)


for name, make in nets.nets.items():
    path, net = os.path.join(there, name), make()
    x = torch.from_numpy(numpy.fromfile(path + ".x", "float32")).view(net.shape)
    y = torch.from_numpy(numpy.fromfile(path + ".y", "float32")).view(net.shape[0], -1)
    net.load_state_dict(load_file(path + ".safetensors"), strict=True)
    counts = [b.item() for key, b in net.named_buffers() if key.endswith("num_batches_tracked")]
    check(all(c == 1 for c in counts), f"{name}: num_batches_tracked is {counts}, not 1 everywhere")
    with torch.no_grad():
        off = (net.double().eval()(x.double()) - y).abs().max() / y.abs().max()
    check(off <= 1e-5, f"{name}: the logits are {off:.1e} of the largest apart")

    net = make()
    through, own = load_file(path + ".through.safetensors"), load_file(os.path.join(here, name + ".safetensors"))
    net.load_state_dict(through, strict=True)
    check(through.keys() == own.keys(), f"{name}: other tensors came through: {through.keys() ^ own.keys()}")
    for key in through.keys() & own.keys():
        a, b = through[key], own[key]
        check(a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b), f"{name}: {key} came through changed")
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
