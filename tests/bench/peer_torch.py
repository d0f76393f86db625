#!/usr/bin/env python3
"""peer_torch.py THREADS [ENGINE] - the networks of bench_nets.c on the CPU in float32. ENGINE: torch (the default: the
fastest of eager, channels_last and compile, which PEER_TORCH=eager,channels_last can leave out), onnxruntime, openvino
or ncnn, which are given the same networks as ONNX and do inference alone. Needs: pip install torch torchvision, and
onnx onnxruntime openvino ncnn pnnx for the others.

Used by peers.py: reads names of cases, NET_train_bBATCH or NET_infer_bBATCH, one a line, and answers each with a
line `ENGINE_NAME THREADS value img/s`: the median of up to 7 samples, or nan. BENCH_SECONDS is the time per case
(default 0.4). The batch is the same noise in every step, as in bench_nets.c: no loading is timed."""
import copy
import os
import statistics
import subprocess
import sys
import tempfile
import time

threads = int(sys.argv[1])
engine = sys.argv[2] if len(sys.argv) > 2 else "torch"
os.environ["OMP_NUM_THREADS"] = str(threads)
import torch
import torchvision
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


def cifar18():
    layers, i = [*conv_bn(3, 64, 3), nn.ReLU()], 64
    for k in range(8):
        o, s = 64 << k // 2, 2 if k % 2 == 0 and k > 0 else 1
        layers.append(Residual(i, o, s, [*conv_bn(i, o, 3, s), nn.ReLU(), *conv_bn(o, o, 3)]))
        i = o
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *head(512, 10))


def alexnet():
    pool = nn.MaxPool2d(3, 2)
    return nn.Sequential(nn.Conv2d(3, 96, 11, 4), nn.ReLU(), pool, nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(), pool,
                         nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 384, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), pool, *head(9216, 4096, 4096, 1000))


ZOO = {"vgg16": "vgg16", "resnet18": "resnet18", "resnet50": "resnet50", "mobilenet": "mobilenet_v2",
       "googlenet": "googlenet"}
INPUT = {"lenet": (1, 28), "keras": (1, 28), "cifar18": (3, 32), "alexnet": (3, 227)}       # others: (3, 224)
FORMATS = os.environ.get("PEER_TORCH", "eager,channels_last,compile").split(",")


def network(name):
    if name not in ZOO:
        return globals()[name]()
    more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return getattr(torchvision.models, ZOO[name])(**more)


def torch_steps(net, x, train, adam):
    """The steps of PyTorch, one for each format."""
    for kind in FORMATS:
        m = copy.deepcopy(net)
        layout = torch.contiguous_format if kind == "eager" else torch.channels_last
        m, v, t = m.to(memory_format=layout), x.to(memory_format=layout), torch.arange(len(x)) % 10
        f = torch.compile(m) if kind == "compile" else m
        if not train:
            m.eval()
            yield torch.inference_mode()(lambda f=f, v=v: f(v))
            continue
        optimizer = torch.optim.Adam(m.parameters(), 1e-3) if adam else torch.optim.SGD(m.parameters(), 1e-3, 0.9)

        def step(f=f, v=v, optimizer=optimizer):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(f(v), t).backward()
            optimizer.step()
        yield step


def exported_step(net, x, folder):
    """The step of an engine that reads ONNX."""
    path, pixels = os.path.join(folder, "net.onnx"), x.numpy()
    torch.onnx.export(net.eval(), x, path, dynamo=False)
    if engine == "onnxruntime":
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: pixels})
    if engine == "openvino":
        import openvino
        core = openvino.Core()
        request = core.compile_model(core.read_model(path), "CPU", {
            "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
        return lambda: request.infer([pixels])
    import ncnn
    if len(x) > 1:
        raise ValueError("ncnn takes one image")
    subprocess.run(["pnnx", path, "inputshape=[" + ",".join(map(str, x.shape)) + "]", "fp16=0"], cwd=folder, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    net = ncnn.Net()
    net.opt.num_threads = threads
    for part in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, "use_" + part, False)
    net.load_param(path[:-5] + ".ncnn.param")
    net.load_model(path[:-5] + ".ncnn.bin")
    image = ncnn.Mat(pixels[0])

    def step():
        extractor = net.create_extractor()
        extractor.input("in0", image)
        return extractor.extract("out0")
    return step


def steps_of(name):
    """The steps of a case that compete, and its batch."""
    net_name, mode, batch = name.split("_")
    n, net = int(batch[1:]), network(net_name)
    c, h = INPUT.get(net_name, (3, 224))
    x = torch.rand(n, c, h, h)
    if engine == "torch":
        return list(torch_steps(net, x, mode == "train", net_name == "keras")), n
    with tempfile.TemporaryDirectory() as folder:
        return [exported_step(net, x, folder)], n


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
print(engine, torch.__version__ if engine == "torch" else __import__(engine).__version__, flush=True)
for line in sys.stdin:
    case = line.strip()
    try:
        if case not in cache:
            cache[case] = steps_of(case)
        steps, images = cache[case]
        rates = [measure(step, images) for step in steps]
        cache[case] = [steps[rates.index(max(rates))]], images          # next time the fastest alone
        value = max(rates)
    except Exception as e:                              # an engine that lacks something says so, and goes on
        print(e, file=sys.stderr)
        value = float("nan")
    print(f"{engine}_{case} {threads} {value:.4g} img/s", flush=True)
