"""Writes zoo.npy, what tests/test_zoo.c holds examples/zoo.c to: logits of torchvision's nets. To write it anew:

    pip install torch torchvision numpy
    python3 tests/torch/make_zoo.py

The weights are a function of their names, which C computes too; so a name that differs shows in the logits, and the
file holds nothing else. PyTorch computed in float64."""
import os

import numpy
import torch
from torchvision import models


def fill(name, shape):
    """Floats in [-1,1): a mix (Wellons 2018, "lowbias32") of the FNV-1a hash of the name and the index."""
    seed = 2166136261
    for byte in name.encode():
        seed = (seed ^ byte) * 16777619 % 2**32
    z = (numpy.arange(numpy.prod(shape), dtype="uint64") + seed).astype("uint32")
    for shift, factor in (16, 0x7FEB352D), (15, 0x846CA68B):
        z = (z ^ z >> numpy.uint32(shift)) * numpy.uint32(factor)
    z ^= z >> numpy.uint32(16)
    return torch.from_numpy((z >> numpy.uint32(8)) / 8388608.0 - 1.0).view(*shape)


def value(name, shape):
    u = fill(name, shape)
    if len(shape) > 1:                       # of a convolution or a dense layer: keeps the variance under relu
        u *= (6.0 / shape[1:].numel()) ** 0.5
    elif name.endswith("running_var"):
        u = 1 + 0.5 * u
    elif name.endswith("weight"):            # of a batch norm
        u = 0.75 + 0.25 * u
    else:
        u *= 0.1
    return u.float().double()


def logits(net):
    state = {name: v if v.dtype == torch.int64 else value(name, v.shape) for name, v in net.state_dict().items()}
    net.double().load_state_dict(state)
    with torch.no_grad():
        return net.eval()(fill("x", (1, 3, 224, 224)))[0]


nets = [models.googlenet(aux_logits=False, transform_input=False, init_weights=False), models.resnet18(),
        models.resnet50(), models.mobilenet_v2()]
here = os.path.dirname(os.path.abspath(__file__))
numpy.save(os.path.join(here, "zoo.npy"), torch.stack([logits(net) for net in nets]).float().numpy())
