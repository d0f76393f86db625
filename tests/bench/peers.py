#!/usr/bin/env python3
"""peers.py [--rounds N] [--threads 1,2] [--only PART] - cnn.h beside its peers, on this machine, now.

Run by `make bench-peers`, which builds what it needs in build/. Peers: OpenBLAS (any libopenblas.so.0) for products of
matrices, oneDNN in its own blocked formats for convolutions, PyTorch for whole networks (and their peak of memory).
What is not installed is left out and said. Case by case, cnn.h and the peer run alternately, N rounds (default 3); each
run gives a median; the table shows the medians of the rounds and the median of the rounds' ratios, cnn.h / peer. More than
1 is faster than the peer; for memory, less than 1 is smaller. For speed, glibc's malloc is told to keep PyTorch's
memory, which is its best case; for memory it is left alone. BENCH_SECONDS is the time per run (default 0.2 here)."""
import argparse
import datetime
import os
import platform
import shutil
import statistics
import subprocess
import sys

BUILD = os.environ.get("BUILD", "build")
NETS = ("lenet_train_b64", "lenet_infer_b1", "lenet_infer_b128", "keras_train_b128", "resnet18_train_b32",
        "resnet18_infer_b32", "alexnet_infer_b1", "vgg16_infer_b1", "resnet50_infer_b1")
PEAKS = ("lenet_train_b64", "resnet18_train_b32", "vgg16_infer_b1")
KEEP = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "67108864"}
os.environ.setdefault("BENCH_SECONDS", "0.2")


def lines(command, threads, **more):
    """name -> value of a program's lines"""
    env = {**os.environ, **more, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env, check=False)
    return {f[0].split("_", 1)[1]: float(f[2]) for f in map(str.split, run.stdout.splitlines()) if len(f) == 4}


class Torch:
    """One process that answers case after case, so that its start is not timed."""
    def __init__(self, threads, keep=KEEP):
        self.child = subprocess.Popen([sys.executable, os.path.join(os.path.dirname(__file__), "peer_torch.py"), str(threads)],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                      env={**os.environ, **keep})
        self.name = self.child.stdout.readline().strip()                 # it is ready

    @staticmethod
    def version():
        t = Torch(1)
        t.close()
        return t.name

    def __call__(self, name):
        self.child.stdin.write(name + "\n")
        self.child.stdin.flush()
        return float(self.child.stdout.readline().split()[2])

    def peak(self, name):
        """MiB at the end of a process that ran this case alone"""
        self(name)
        with open(f"/proc/{self.child.pid}/status", encoding="ascii") as f:
            return int(next(s for s in f if s.startswith("VmHWM")).split()[1]) / 1024

    def close(self):
        self.child.stdin.close()
        self.child.wait()


def compare(name, threads, unit, ours, peer, rounds):
    pairs = []
    for _ in range(rounds):
        a, b = ours(), peer()
        if not a or not b:
            return
        pairs.append((a, b))
    a, b = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    ratios = sorted(x / y for x, y in pairs)
    print(f"| {name} | {threads} | {a:.4g} | {b:.4g} | {unit} | {statistics.median(ratios):.2f} |"
          f" {ratios[0]:.2f}-{ratios[-1]:.2f} |", flush=True)


def package(part):
    """name and version of Debian's package, where there is one"""
    try:
        out = subprocess.run(["dpkg-query", "-W", part + "*"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    except OSError:
        return ""
    return next((" ".join(s.split()) for s in out.stdout.splitlines() if len(s.split()) == 2), "")


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
    a = p.parse_args()
    cases = [s.split() for s in subprocess.run([f"{BUILD}/bench_kernels", "list"], stdout=subprocess.PIPE, text=True,
                                               check=True).stdout.splitlines()]
    have_torch = subprocess.run([sys.executable, "-c", "import torch"], stderr=subprocess.DEVNULL, check=False).returncode == 0
    peers = {"gemm": shutil.which(f"{BUILD}/peer_blas"), "conv": shutil.which(f"{BUILD}/peer_onednn")}
    blas = os.environ.get("BLAS", "libopenblas.so.0")
    if peers["gemm"] and not lines([peers["gemm"], blas, "8x8x8", "8", "8", "8", "1"], 1):
        peers["gemm"] = None
    versions = [v for v in (package("libopenblas0"), package("libdnnl2"), Torch.version() if have_torch else "") if v]
    print(f"{cpu()}; {datetime.date.today()}; {'; '.join(versions)}; {a.rounds} rounds of {os.environ['BENCH_SECONDS']} s\n")
    for kind, what in (("gemm", "OpenBLAS"), ("conv", "oneDNN")):
        if not peers[kind]:
            print(f"skipped: {what} is not installed\n")
    if not have_torch:
        print("skipped: PyTorch is not installed\n")
    print("| case | threads | cnn.h | peer | unit | ratio | of the rounds |\n|---|---|---|---|---|---|---|")
    for threads in map(int, a.threads.split(",")):
        for kind, name, *size in cases:
            if a.only not in name or not peers[kind]:
                continue
            command = [peers["gemm"], blas, name, *size] if kind == "gemm" else [peers["conv"], name, *size, "16"]
            compare(name, threads, "GFLOP/s",
                    lambda: lines([f"{BUILD}/bench_kernels", str(threads), "=" + name], threads).get(name),
                    lambda: lines([*command, str(threads)], threads).get(name), a.rounds)
        nets = [n for n in NETS if have_torch and a.only in n]
        torch = Torch(threads) if nets else None
        for name in nets:
            compare(name, threads, "img/s", lambda: lines([f"{BUILD}/bench_nets", str(threads), "=" + name], threads).get(name),
                    lambda: torch(name), a.rounds)
        if torch:
            torch.close()
    for name in [n for n in PEAKS if have_torch and a.only in n]:
        torch = Torch(1, {})
        compare(name + "_peak_rss", 1, "MiB", lambda: lines([f"{BUILD}/bench_nets", "1", "=" + name], 1).get(name + "_peak_rss"),
                lambda: torch.peak(name), 1)
        torch.close()


if __name__ == "__main__":
    main()
