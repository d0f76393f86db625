#!/usr/bin/env python3
"""peer_torch.py THREADS - the networks of bench_nets.c in PyTorch on the CPU; used by peers.py.

Reads names of cases from standard input (lenet_train_b64, vgg16_infer_b1, ...), one a line, and answers each with a
line `torch_NAME THREADS value img/s`: the median of up to 7 samples. BENCH_SECONDS is the time per case (default 0.4).
The batch is the same noise in every step, as in bench_nets.c: no loading is timed."""
import os
import statistics
import sys
import time

threads = int(sys.argv[1])
os.environ["OMP_NUM_THREADS"] = str(threads)
import torch
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(threads)
torch.manual_seed(1)
SECONDS = float(os.environ.get("BENCH_SECONDS", "0.4"))


def head(*units):
    layers = [nn.Flatten()]
    for k, (i, o) in enumerate(zip(units, units[1:])):
        layers += ([nn.ReLU()] if k else []) + [nn.Linear(i, o)]
    return layers


def lenet():
    return nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), *head(400, 120, 84, 10))


def keras():
    return nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Dropout(0.5), *head(1600, 10))


def conv_bn(i, o, kernel, stride=1):
    return [nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(o)]


class Residual(nn.Module):
    def __init__(self, i, o, stride, inner):
        super().__init__()
        self.inner = nn.Sequential(*inner)
        self.skip = nn.Sequential(*conv_bn(i, o, 1, stride)) if stride != 1 or i != o else nn.Identity()

    def forward(self, x):
        return F.relu(self.inner(x) + self.skip(x))


def resnet18():
    layers, i = [*conv_bn(3, 64, 3), nn.ReLU()], 64
    for k in range(8):
        o, s = 64 << k // 2, 2 if k % 2 == 0 and k > 0 else 1
        layers.append(Residual(i, o, s, [*conv_bn(i, o, 3, s), nn.ReLU(), *conv_bn(o, o, 3)]))
        i = o
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *head(512, 10))


def resnet50():
    layers, i = [*conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        m = 64 << stage
        for k in range(blocks):
            s = 2 if stage and k == 0 else 1
            inner = [*conv_bn(i, m, 1), nn.ReLU(), *conv_bn(m, m, 3, s), nn.ReLU(), *conv_bn(m, 4 * m, 1)]
            layers.append(Residual(i, 4 * m, s, inner))
            i = 4 * m
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *head(2048, 1000))


def alexnet():
    pool = nn.MaxPool2d(3, 2)
    return nn.Sequential(nn.Conv2d(3, 96, 11, 4), nn.ReLU(), pool, nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(), pool,
                         nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 384, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), pool, *head(9216, 4096, 4096, 1000))


def vgg16():
    layers, i = [], 3
    for channels, convs in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convs):
            layers += [nn.Conv2d(i, channels, 3, padding=1), nn.ReLU()]
            i = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, *head(25088, 4096, 4096, 1000))


INPUT = {"lenet": (1, 28), "keras": (1, 28), "resnet18": (3, 32), "alexnet": (3, 227), "vgg16": (3, 224), "resnet50": (3, 224)}


def case(name):
    """The step of a case, as a function."""
    net_name, mode, batch = name.split("_")
    n, net = int(batch[1:]), globals()[net_name]()
    c, h = INPUT[net_name]
    x, t = torch.rand(n, c, h, h), torch.arange(n) % 10
    if mode == "infer":
        net.eval()

        def step():
            with torch.inference_mode():
                net(x)
    else:
        adam = net_name == "keras"
        optimizer = torch.optim.Adam(net.parameters(), 1e-3) if adam else torch.optim.SGD(net.parameters(), 1e-3, 0.9)

        def step():
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(net(x), t).backward()
            optimizer.step()
    return step, n


def measure(step, per_call, samples=7):
    for _ in range(2):
        step()
    begin, times = time.perf_counter(), 1
    while True:
        t = time.perf_counter()
        for _ in range(times):
            step()
        t = time.perf_counter() - t
        if t > 0.5 * SECONDS / samples:
            break
        times = int(times * SECONDS / samples / max(t, 1e-5)) + 1
    rate = []
    while len(rate) < samples and (len(rate) < 3 or time.perf_counter() - begin < 5 * SECONDS):
        t = time.perf_counter()
        for _ in range(times):
            step()
        rate.append(per_call * times / (time.perf_counter() - t))
    return statistics.median(rate)


cache = {}
print("torch", torch.__version__, flush=True)
for line in sys.stdin:
    name = line.strip()
    if name not in cache:
        cache[name] = case(name)
    print(f"torch_{name} {threads} {measure(*cache[name]):.4g} img/s", flush=True)
