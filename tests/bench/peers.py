#!/usr/bin/env python3
"""peers.py [--rounds N] [--threads 1,2] [--only PART] [--engines torch,...] - cnn.h beside its peers, on this machine.

Run by `make bench-peers`, which builds what it needs in build/ (PEERS='--only resnet50' hands options on). Peers:
OpenBLAS (scipy-openblas32, or any libopenblas.so.0) for products of matrices, oneDNN in its own blocked formats for
convolutions, PyTorch (its fastest format) for whole networks and their peak of memory, ONNX Runtime, OpenVINO and ncnn
for inference: see peer_torch.py for what to install. What is not installed is left out and said. Case by case, cnn.h
and the peer run alternately, N rounds (default 3); each run gives a median; the table shows the medians of the rounds
and the median of the rounds' ratios, cnn.h / peer. More than 1 is faster than the peer; for memory, less than 1 is
smaller. For speed, glibc's malloc is told to keep PyTorch's memory, which is its best case; for memory it is left
alone. BENCH_SECONDS is the time per run (default 0.2 here)."""
import argparse
import datetime
import os
import platform
import shutil
import statistics
import subprocess
import sys

BUILD = os.environ.get("BUILD", "build")
NETS = ("lenet_train_b64", "keras_train_b128", "cifar18_train_b32", "resnet50_train_b8", "mobilenet_train_b8",
        "lenet_infer_b1", "lenet_infer_b128", "cifar18_infer_b32", "resnet50_infer_b1", "mobilenet_infer_b1",
        "googlenet_infer_b1", "resnet18_infer_b1", "vgg16_infer_b1", "alexnet_infer_b1", "resnet50_infer_b32",
        "mobilenet_infer_b32")
ENGINES = ("torch", "onnxruntime", "openvino", "ncnn")
PEAKS = ("lenet_train_b64", "cifar18_train_b32", "vgg16_infer_b1")
KEEP = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "67108864"}
os.environ.setdefault("BENCH_SECONDS", "0.2")


def lines(command, threads, **more):
    """name -> value of a program's lines"""
    env = {**os.environ, **more, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env, check=False)
    return {f[0].split("_", 1)[1]: float(f[2]) for f in map(str.split, run.stdout.splitlines()) if len(f) == 4}


class Engine:
    """One process that answers case after case, so that its start is not timed."""
    def __init__(self, engine, threads, keep=KEEP):
        self.child = subprocess.Popen(
            [sys.executable, os.path.join(os.path.dirname(__file__), "peer_torch.py"), str(threads), engine],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **keep})
        self.name = self.child.stdout.readline().strip()                 # it is ready; empty: not installed

    @staticmethod
    def version(engine):
        e = Engine(engine, 1)
        e.close()
        return e.name

    def __call__(self, name):
        self.child.stdin.write(name + "\n")
        self.child.stdin.flush()
        value = float(self.child.stdout.readline().split()[2])
        return value if value == value else None

    def peak(self, name):
        """MiB at the end of a process that ran this case alone"""
        self(name)
        with open(f"/proc/{self.child.pid}/status", encoding="ascii") as f:
            return int(next(s for s in f if s.startswith("VmHWM")).split()[1]) / 1024

    def close(self):
        self.child.stdin.close()
        self.child.wait()


def compare(name, threads, who, unit, ours, peer, rounds):
    pairs = []
    for _ in range(rounds):
        a, b = ours(), peer()
        if not a or not b:
            return
        pairs.append((a, b))
    a, b = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    ratios = sorted(x / y for x, y in pairs)
    print(f"| {name} | {threads} | {who} | {a:.4g} | {b:.4g} | {unit} | {statistics.median(ratios):.2f} |"
          f" {ratios[0]:.2f}-{ratios[-1]:.2f} |", flush=True)


def package(part):
    """name and version of Debian's package, where there is one"""
    try:
        out = subprocess.run(["dpkg-query", "-W", part + "*"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    except OSError:
        return ""
    return next((" ".join(s.split()) for s in out.stdout.splitlines() if len(s.split()) == 2), "")


def openblas():
    """the newest that pip installed (scipy-openblas32), or the system's"""
    try:
        import scipy_openblas32
        return os.path.join(scipy_openblas32.get_lib_dir(), "libscipy_openblas.so")
    except ImportError:
        return "libopenblas.so.0"


def cpu():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            text = f.read()
        name = next(s.split(":")[1].strip() for s in text.splitlines() if s.startswith("model name"))
        wide = "AVX-512" if " avx512f" in text else "AVX2" if " avx2" in text else "neither AVX2 nor AVX-512"
        return f"{name}, {wide}, {os.cpu_count()} cores"
    except (OSError, StopIteration):
        return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", default="1,2")
    p.add_argument("--only", default="")
    p.add_argument("--engines", default="")
    a = p.parse_args()
    cases = [s.split() for s in subprocess.run([f"{BUILD}/bench_kernels", "list"], stdout=subprocess.PIPE, text=True,
                                               check=True).stdout.splitlines()]
    engines = [e for e in ENGINES if (not a.engines or e in a.engines.split(",")) and Engine.version(e)]
    peers = {"gemm": shutil.which(f"{BUILD}/peer_blas"), "conv": shutil.which(f"{BUILD}/peer_onednn")}
    blas = os.environ.get("BLAS", openblas())
    if peers["gemm"] and not lines([peers["gemm"], blas, "8x8x8", "8", "8", "8", "1"], 1):
        peers["gemm"] = None
    versions = [v for v in (package("libopenblas0"), package("libdnnl2"), *map(Engine.version, engines)) if v]
    print(f"{cpu()}; {datetime.date.today()}; {'; '.join(versions)}; {a.rounds} rounds of {os.environ['BENCH_SECONDS']} s\n")
    for threads in a.threads.split(","):
        peak = lines([f"{BUILD}/peer_peak", threads], threads)
        print(f"{threads} threads: {peak.get('fma_peak', 0):.4g} GFLOP/s, {peak.get('read_peak', 0):.4g} GB/s read")
    for who, there in (("OpenBLAS", peers["gemm"]), ("oneDNN", peers["conv"]), *((e, e in engines) for e in ENGINES)):
        if not there:
            print(f"\nskipped: {who}")
    print("\n| case | threads | peer | cnn.h | peer | unit | ratio | of the rounds |\n|---|---|---|---|---|---|---|---|")
    for threads in map(int, a.threads.split(",")):
        for kind, name, *size in cases:
            if a.only not in name or not peers[kind]:
                continue
            command = [peers["gemm"], blas, name, *size] if kind == "gemm" else [peers["conv"], name, *size, "16"]
            compare(name, threads, "OpenBLAS" if kind == "gemm" else "oneDNN", "GFLOP/s",
                    lambda: lines([f"{BUILD}/bench_kernels", str(threads), "=" + name], threads).get(name),
                    lambda: lines([*command, str(threads)], threads).get(name), a.rounds)
        for engine in engines:
            peer = Engine(engine, threads)
            for name in [n for n in NETS if a.only in n and (engine == "torch" or "_infer_" in n)]:
                compare(name, threads, engine, "img/s",
                        lambda: lines([f"{BUILD}/bench_nets", str(threads), "=" + name], threads).get(name),
                        lambda: peer(name), a.rounds)
            peer.close()
    for name in [n for n in PEAKS if "torch" in engines and a.only in n]:
        peer = Engine("torch", 1, {"PEER_TORCH": "eager"})
        compare(name + "_peak_rss", 1, "torch", "MiB",
                lambda: lines([f"{BUILD}/bench_nets", "1", "=" + name], 1).get(name + "_peak_rss"),
                lambda: peer.peak(name), 1)
        peer.close()


if __name__ == "__main__":
    main()
