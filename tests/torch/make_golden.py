"""Writes the golden files of tests/test_torch.c, which needs no Python. To write them anew:

    pip install torch safetensors numpy
    python3 tests/torch/make_golden.py

ops.safetensors      for each case of an operation: operands x, x2, labels t, parameters, the output y, a random
                     gradient gy of it, and the gradients of sum(y gy): grad.x, grad.l.weight, ...
arithmetic.safetensors  the same for more operations, as
shapes.safetensors   for signals, uneven padding, and what moves numbers
NET.safetensors      save_file(state_dict()) of a net in nets.py
nets.safetensors     for each net: x, logits in evaluation, and of one training forward: loss, grad.*, after.*
optim.safetensors    for each optimizer: start w0, ten gradients g, and the ten weights w after each

PyTorch computes in float64 from operands that are floats; results are stored rounded to float."""
import os

import torch
from safetensors.torch import save_file
from torch import nn
import torch.nn.functional as F

import nets

here = os.path.dirname(os.path.abspath(__file__))
torch.set_default_dtype(torch.float64)
random = torch.Generator().manual_seed(20261121)
ops = {}


def rand(*shape):
    """Floats of about unit size, none near the kinks at 0 and 1."""
    v = torch.randn(*shape, generator=random).float().double()
    for kink in (0.0, 1.0, -1.0, 3.0, -3.0):
        v = torch.where((v - kink).abs() < 1e-3, v + 4e-3, v)
    return v.float().double()


def store(out, name, v):
    out[name] = v.detach().float().contiguous().clone()


def case(name, f, x, x2=None, t=None, module=None, params=None):
    """f(x[, x2][, t]) is the output; module's parameters are l.weight, ..., unless params says else."""
    x = rand(*x) if isinstance(x, tuple) else x
    args = [x.requires_grad_()]
    store(ops, name + "/x", x)
    if x2 is not None:
        x2 = rand(*x2) if isinstance(x2, tuple) else x2
        args.append(x2.requires_grad_())
        store(ops, name + "/x2", x2)
    if t is not None:
        args.append(t)
        store(ops, name + "/t", t)
    params = dict(params or {})
    if module is not None:
        module.double()
        for key, p in module.named_parameters():
            p.data = rand(*p.shape) * 0.5
            params["l." + key] = p
        for key, b in module.named_buffers():
            if b.dtype == torch.float64:
                b.data = rand(*b.shape).abs() + 0.5
                store(ops, name + "/l." + key, b)
    for key, p in params.items():
        store(ops, name + "/" + key, p)
    y = f(*args)
    gy = rand(*y.shape) if y.dim() else torch.tensor(1.0)
    (y * gy).sum().backward()
    store(ops, name + "/y", y)
    store(ops, name + "/gy", gy)
    store(ops, name + "/grad.x", x.grad)
    if x2 is not None and x2.grad is not None:
        store(ops, name + "/grad.x2", x2.grad)
    for key, p in params.items():
        store(ops, name + "/grad." + key, p.grad)
    if module is not None:
        for key, b in module.named_buffers():
            if b.dtype == torch.float64:
                store(ops, name + "/after.l." + key, b)


def layer(name, module, x):
    case(name, module, x, module=module)


# ---- Layers ----

layer("conv", nn.Conv2d(3, 5, 3), (2, 3, 7, 6))
layer("conv_1x1", nn.Conv2d(4, 3, 1, bias=False), (3, 4, 5, 3))
layer("conv_stride", nn.Conv2d(2, 4, (3, 5), stride=(2, 3), padding=(1, 2)), (2, 2, 9, 11))
layer("conv_dilation", nn.Conv2d(2, 3, 3, padding=(2, 1), dilation=(2, 1)), (2, 2, 8, 5))
layer("conv_groups", nn.Conv2d(6, 9, 3, padding=1, groups=3), (2, 6, 5, 4))
layer("conv_depthwise", nn.Conv2d(5, 5, 3, stride=2, padding=1, groups=5, bias=False), (2, 5, 7, 9))
layer("conv_all", nn.Conv2d(4, 6, (2, 3), stride=(1, 2), padding=(1, 2), dilation=(3, 2), groups=2), (2, 4, 9, 10))
layer("conv_transpose", nn.ConvTranspose2d(3, 4, 3), (2, 3, 4, 5))
layer("conv_transpose_stride", nn.ConvTranspose2d(4, 2, (3, 4), stride=(2, 3), padding=(1, 2),
                                                  output_padding=(1, 2)), (2, 4, 3, 4))
layer("conv_transpose_all", nn.ConvTranspose2d(4, 6, (2, 3), stride=(2, 1), padding=(1, 0), dilation=(2, 3),
                                               output_padding=(1, 0), groups=2, bias=False), (2, 4, 4, 5))
linear = nn.Linear(12, 7)
case("dense", lambda x: linear(x.flatten(1)), (5, 3, 2, 2), module=linear)
bare = nn.Linear(6, 4, bias=False)
case("dense_no_bias", lambda x: bare(x.flatten(1)), (3, 6, 1, 1), module=bare)
layer("batch_norm", nn.BatchNorm2d(5), (3, 5, 4, 3))
layer("batch_norm_options", nn.BatchNorm2d(4, eps=0.01, momentum=0.25, affine=False), (4, 4, 1, 3))
layer("layer_norm", nn.LayerNorm([3, 4, 5]), (3, 3, 4, 5))
layer("layer_norm_plain", nn.LayerNorm([6, 1, 1], eps=0.01, elementwise_affine=False), (4, 6, 1, 1))
layer("group_norm", nn.GroupNorm(3, 6), (2, 6, 3, 4))
layer("group_norm_plain", nn.GroupNorm(2, 4, eps=0.01, affine=False), (3, 4, 2, 2))
layer("instance_norm", nn.InstanceNorm2d(3), (2, 3, 5, 4))
layer("instance_norm_affine", nn.InstanceNorm2d(4, eps=0.01, affine=True), (2, 4, 3, 3))
layer("prelu", nn.PReLU(), (2, 3, 4, 3))
layer("prelu_channels", nn.PReLU(4), (2, 4, 3, 3))

# ---- Pooling and shapes ----

layer("max_pool", nn.MaxPool2d(2), (2, 3, 6, 8))
layer("max_pool_options", nn.MaxPool2d((3, 2), stride=(2, 3), padding=(1, 1)), (2, 2, 8, 9))
layer("max_pool_ceil", nn.MaxPool2d(3, stride=2, ceil_mode=True), (2, 2, 8, 6))
layer("avg_pool", nn.AvgPool2d(2), (2, 3, 6, 8))
layer("avg_pool_pad", nn.AvgPool2d(3, stride=2, padding=1), (2, 2, 7, 6))
layer("avg_pool_no_count_pad", nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), (2, 2, 7, 6))
layer("avg_pool_ceil", nn.AvgPool2d((3, 2), stride=2, padding=(1, 0), ceil_mode=True), (2, 2, 8, 7))
layer("avg_pool_ceil_no_count_pad", nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True,
                                                 count_include_pad=False), (2, 2, 8, 6))
case("global_avg_pool", lambda x: F.adaptive_avg_pool2d(x, 1), (2, 3, 5, 7))
case("global_max_pool", lambda x: F.adaptive_max_pool2d(x, 1), (2, 3, 5, 7))
layer("upsample_nearest", nn.Upsample(scale_factor=(3, 2)), (2, 3, 3, 4))
layer("upsample_bilinear", nn.Upsample(scale_factor=(2, 3), mode="bilinear"), (2, 2, 4, 3))
case("pad", lambda x: F.pad(x, (1, 2, 3, 0, 1, 0), value=0.5), (2, 2, 3, 4))
case("slice", lambda x: x[:, :, 1:8:3], (2, 3, 9, 2))
case("concat", lambda x, x2: torch.cat([x, x2], 1), (2, 3, 2, 3), (2, 1, 2, 3))
layer("lrn", nn.LocalResponseNorm(5, alpha=0.3, beta=0.6, k=1.5), (2, 7, 3, 2))
layer("lrn_even", nn.LocalResponseNorm(4, alpha=0.3), (2, 6, 3, 2))

# ---- Element by element ----

for name, f in {
    "relu": F.relu, "leaky_relu": lambda x: F.leaky_relu(x, 0.2), "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "elu": lambda x: F.elu(x, 0.7), "gelu": F.gelu, "silu": F.silu, "softplus": F.softplus,
    "hard_swish": F.hardswish, "exp": torch.exp, "abs": torch.abs, "clamp": lambda x: torch.clamp(x, -0.5, 1.2),
    "relu6": F.relu6, "softmax": lambda x: F.softmax(x, 1), "log_softmax": lambda x: F.log_softmax(x, 1),
    "scale": lambda x: 1.5 * x - 0.25, "sum_hw": lambda x: x.sum((2, 3), keepdim=True),
    "mean_c": lambda x: x.mean(1, keepdim=True),
}.items():
    case(name, f, 2.5 * rand(3, 4, 3, 5))
case("log", torch.log, rand(2, 3, 4, 2).abs() + 0.1)
case("sqrt", torch.sqrt, rand(2, 3, 4, 2).abs() + 0.1)
case("add", torch.add, (2, 3, 4, 2), (2, 3, 1, 1))
case("sub", torch.sub, (2, 3, 4, 2), (2, 1, 4, 2))
case("mul", torch.mul, (2, 3, 4, 2), (2, 3, 4, 1))

# ---- Losses ----


def classes(k, *shape):
    return torch.randint(0, k, shape, generator=random)


def some_ignored(t):
    flat = t.clone().flatten()
    flat[::3] = -100
    return flat.view(t.shape)


weights = (rand(6).abs() + 0.2).float().double()
case("cross_entropy", F.cross_entropy, (7, 6), t=classes(6, 7))
case("cross_entropy_pixels", F.cross_entropy, (2, 6, 3, 4), t=classes(6, 2, 3, 4))
case("cross_entropy_smoothing", lambda x, t: F.cross_entropy(x, t, label_smoothing=0.15), (7, 6), t=classes(6, 7))
case("cross_entropy_ignore", lambda x, t: F.cross_entropy(x, t, ignore_index=-100), (7, 6),
     t=some_ignored(classes(6, 7)))
case("cross_entropy_weights", lambda x, t: F.cross_entropy(x, t, weight=weights), (7, 6), t=classes(6, 7))
case("cross_entropy_all", lambda x, t: F.cross_entropy(x, t, weight=weights, label_smoothing=0.2), (2, 6, 3, 4),
     t=some_ignored(classes(6, 2, 3, 4)))
case("nll", F.nll_loss, (7, 6), t=classes(6, 7))
case("nll_all", lambda x, t: F.nll_loss(x, t, weight=weights), (2, 6, 3, 4), t=some_ignored(classes(6, 2, 3, 4)))
for name in ("cross_entropy_weights", "cross_entropy_all", "nll_all"):
    store(ops, name + "/weights", weights)
case("mse", F.mse_loss, (3, 2, 4, 2), (3, 2, 4, 2))
case("l1", F.l1_loss, (3, 2, 4, 2), (3, 2, 4, 2))
case("huber", lambda x, t: F.huber_loss(x, t, delta=0.7), (3, 2, 4, 2), (3, 2, 4, 2))
case("bce_with_logits", F.binary_cross_entropy_with_logits, (3, 2, 4, 2),
     torch.rand(3, 2, 4, 2, generator=random).float().double())


# ---- Options that came later: of a generator of their own, so that the rest keeps its numbers ----

first, random = random, torch.Generator().manual_seed(20261122)

for name, f in {
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "softplus_beta": lambda x: F.softplus(x, 1.7),
    "softplus_threshold": lambda x: F.softplus(x, 0.6, 1.1),
}.items():
    case(name, f, 2.5 * rand(3, 4, 3, 5))
pos_weight = (rand(6).abs() + 0.2).float().double()
bce = F.binary_cross_entropy_with_logits
for name, f in {
    "bce_pos_weight": lambda x, t: bce(x, t, pos_weight=pos_weight.view(6, 1, 1)),
    "bce_weight": lambda x, t: bce(x, t, weight=weights.view(6, 1, 1)),
    "bce_all": lambda x, t: bce(x, t, weight=weights.view(6, 1, 1), pos_weight=pos_weight.view(6, 1, 1)),
}.items():
    case(name, f, (3, 6, 4, 2), torch.rand(3, 6, 4, 2, generator=random).float().double())
    store(ops, name + "/weights", weights)
    store(ops, name + "/pos_weight", pos_weight)
case("smooth_l1", F.smooth_l1_loss, (3, 2, 4, 2), (3, 2, 4, 2))
case("smooth_l1_beta", lambda x, t: F.smooth_l1_loss(x, t, beta=0.4), (3, 2, 4, 2), (3, 2, 4, 2))
layer("upsample_nearest_to", nn.Upsample((7, 3)), (2, 2, 5, 4))
layer("upsample_bilinear_to", nn.Upsample((3, 11), mode="bilinear"), (2, 2, 5, 4))
layer("upsample_aligned", nn.Upsample(scale_factor=(2, 3), mode="bilinear", align_corners=True), (2, 2, 4, 3))
layer("max_pool_dilation", nn.MaxPool2d((3, 2), stride=(1, 2), padding=1, dilation=(2, 3), ceil_mode=True), (2, 3, 6, 8))
layer("upsample_aligned_to", nn.Upsample((1, 9), mode="bilinear", align_corners=True), (2, 2, 5, 4))
random = first

save_file(ops, os.path.join(here, "ops.safetensors"))

# ---- arithmetic.safetensors: more operations, of generators of their own ----

ops, random = {}, torch.Generator().manual_seed(20261130)
for name, f in {
    "selu": F.selu, "mish": F.mish, "hard_sigmoid": F.hardsigmoid, "softsign": F.softsign, "erf": torch.erf,
    "power_3": lambda x: x ** 3, "power_0": lambda x: x ** 0,
}.items():
    case(name, f, 2.5 * rand(3, 4, 3, 5))
case("power_root", lambda x: x ** -0.6, rand(2, 3, 4, 2).abs() + 0.1)
case("div", torch.div, (2, 3, 4, 2), (rand(2, 3, 1, 2).abs() + 0.3).float().double())
case("pow", torch.pow, (rand(2, 1, 4, 2).abs() + 0.1).float().double(), (2, 3, 4, 1))
case("maximum", torch.maximum, (rand(2, 3, 4, 2) * 2).round(), (rand(2, 3, 1, 2) * 2).round())
case("minimum", torch.minimum, (rand(2, 3, 4, 1) * 2).round(), (rand(2, 3, 1, 2) * 2).round())
case("amax", lambda x: x.amax((1, 3), keepdim=True), (rand(2, 3, 4, 2) * 2).round())
case("amin", lambda x: x.amin((2,), keepdim=True), (rand(2, 3, 7, 2) * 2).round())
layer("layer_norm_hw", nn.LayerNorm([4, 5], eps=0.01), (3, 3, 4, 5))
layer("layer_norm_w", nn.LayerNorm(7), (2, 3, 4, 7))
layer("rms_norm", nn.RMSNorm([3, 4, 5], eps=torch.finfo(torch.float32).eps), (3, 3, 4, 5))
layer("rms_norm_w", nn.RMSNorm(7, eps=0.01), (2, 3, 4, 7))
case("amax_all", lambda x: x.amax(), (rand(2, 3, 4, 2) * 2).round())
save_file(ops, os.path.join(here, "arithmetic.safetensors"))
random = first

# ---- shapes.safetensors ----

ops, random = {}, torch.Generator().manual_seed(20261201)


def signal(name, module, x, before=lambda x: x):
    case(name, lambda x: module(before(x.squeeze(2))).unsqueeze(2), x, module=module)


def padded(name, module, x, pad, value=0.0):
    case(name, lambda x: module(F.pad(x, pad, value=value)), x, module=module)


signal("conv1d", nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (2, 4, 1, 11))
signal("conv1d_causal", nn.Conv1d(3, 5, 3, dilation=2), (2, 3, 1, 9), lambda x: F.pad(x, (4, 0)))
signal("max_pool1d", nn.MaxPool1d(3, stride=2, padding=1), (2, 3, 1, 10))
signal("avg_pool1d", nn.AvgPool1d(4, stride=3, padding=2, ceil_mode=True), (2, 3, 1, 11))
padded("conv_uneven", nn.Conv2d(3, 4, 3), (2, 3, 5, 6), (1, 3, 0, 2))
padded("conv_uneven_1x1", nn.Conv2d(3, 4, 1), (2, 3, 5, 6), (0, 1, 0, 2))
padded("conv_uneven_depthwise", nn.Conv2d(3, 3, 3, groups=3), (2, 3, 7, 9), (0, 1, 2, 1))
padded("max_pool_uneven", nn.MaxPool2d(3, stride=2), (2, 3, 6, 7), (0, 1, 0, 2), -float("inf"))
padded("avg_pool_uneven", nn.AvgPool2d(3, stride=2), (2, 3, 6, 7), (1, 0, 0, 2))
transpose = nn.ConvTranspose2d(3, 4, 3, stride=2)
case("conv_transpose_uneven", lambda x: transpose(x)[:, :, 2:, :-1], (2, 3, 4, 5), module=transpose)
for name, f, shape in [
    ("softmax_w", lambda x: F.softmax(x, 3), (2, 3, 4, 5)), ("log_softmax_h", lambda x: F.log_softmax(x, 2), (2, 3, 4, 5)),
    ("transpose", lambda x: x.transpose(1, 3), (2, 3, 4, 5)), ("permute", lambda x: x.permute(0, 2, 3, 1), (2, 3, 4, 5)),
    ("depth_to_space", lambda x: F.pixel_shuffle(x, 3), (2, 18, 2, 3)),
    ("space_to_depth", lambda x: F.pixel_unshuffle(x, 2), (2, 3, 4, 6)),
    ("channel_shuffle", lambda x: F.channel_shuffle(x, 3), (2, 12, 2, 3)),
    ("pad_reflect", lambda x: F.pad(x, (2, 3, 1, 0), mode="reflect"), (2, 3, 4, 5)),
    ("pad_replicate", lambda x: F.pad(x, (2, 3, 1, 6), mode="replicate"), (2, 3, 4, 5)),
    ("pad_replicate_all", lambda x: F.pad(x[:, None], (2, 0, 1, 1, 2, 3), mode="replicate")[:, 0], (2, 3, 4, 5)),
    ("adaptive_avg_pool", lambda x: F.adaptive_avg_pool2d(x, 3), (2, 3, 7, 10)),
    ("adaptive_avg_pool_larger", lambda x: F.adaptive_avg_pool2d(x, (3, 8)), (2, 3, 7, 5)),
]:
    case(name, f, shape)
case("concat_w", lambda x, x2: torch.cat([x, x2], 3), (2, 3, 4, 5), (2, 3, 4, 2))
save_file(ops, os.path.join(here, "shapes.safetensors"))
random = first

# ---- Nets ----

out = {}
for name, net in nets.nets.items():
    torch.manual_seed(7)
    if name == "signal":                    # it came later: the rest keeps its numbers
        random = torch.Generator().manual_seed(20261202)
    net = net()
    for key, p in net.named_parameters():
        if p.dim() == 1:                    # no bias or norm at 0 or 1: they must come from the file
            p.data += 0.2 * torch.randn(p.shape, generator=random)
    net.float()
    for _ in range(3):                      # running statistics and num_batches_tracked
        net(torch.randn(net.shape, generator=random).float())
    save_file(net.state_dict(), os.path.join(here, name + ".safetensors"))
    net.double()
    x, t = rand(*net.shape), classes(3, net.shape[0])
    net.eval()
    store(out, name + "/x", x)
    store(out, name + "/t", t)
    store(out, name + "/logits", net(x))
    net.train()
    for m in net.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    loss = F.cross_entropy(net(x), t)
    loss.backward()
    store(out, name + "/loss", loss)
    for key, p in net.named_parameters():
        if p.numel() <= 2500:               # else the files grow
            store(out, name + "/grad." + key, p.grad)
    for key, b in net.named_buffers():
        if b.dtype == torch.float64:
            store(out, name + "/after." + key, b)
save_file(out, os.path.join(here, "nets.safetensors"))
random = first

# ---- Optimizers ----

out = {}
for name, make in {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd_decay": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.03),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, weight_decay=0.02),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, weight_decay=0.02, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02),
    "adam_options": lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.7, 0.95), eps=1e-3, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02),
    "adamw_options": lambda p: torch.optim.AdamW(p, lr=0.02, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.02),
    "rmsprop_options": lambda p: torch.optim.RMSprop(p, lr=0.02, alpha=0.9, eps=1e-3, momentum=0.6,
                                                     weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "adagrad_options": lambda p: torch.optim.Adagrad(p, lr=0.1, eps=1e-3, weight_decay=0.1),
    "sgd_dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, weight_decay=0.02, dampening=0.3),
    "rmsprop_centered": lambda p: torch.optim.RMSprop(p, lr=0.02, centered=True),
    "rmsprop_centered_options": lambda p: torch.optim.RMSprop(p, lr=0.02, alpha=0.9, eps=1e-3, momentum=0.6,
                                                              weight_decay=0.1, centered=True),
}.items():
    w, g = rand(11).requires_grad_(), rand(10, 11)
    store(out, name + "/w0", w)
    store(out, name + "/g", g)
    optimizer, after = make([w]), []
    for step in range(10):
        w.grad = g[step].clone()
        optimizer.step()
        after.append(w.detach().clone())
    store(out, name + "/w", torch.stack(after))
save_file(out, os.path.join(here, "optim.safetensors"))
