#!/usr/bin/env python3
"""opencl_model.py [COUNTS] [NET GPU] - which share of a GPU's fp32 peak a training step should reach, by a
model: no GPU is asked.

COUNTS (build/opencl_counts) makes a dry run of cnn_opencl.h and prints every launch: its groups,
operations and bytes. A kernel takes the longer of its operations and its bytes, and a start; a step takes
the longer of all kernels and of all launches on the host. With NET and GPU: the time by kernel. The first
run on a GPU can be held to it (make bench-opencl, cnn_profile).

The share is operations by the definition of a convolution (forward, and backward to what wants a gradient)
over time and peak: Winograd computes a 3x3 layer with a quarter of them, so a share may exceed what a tile
can reach."""
import math
import subprocess
import sys

# Peak (FLOP/s, fp32 without tensor cores) and memory (B/s) as the makers give them, written down from memory;
# compute units, and the cache in bytes that OpenCL should report; seconds of the host for a launch, assumed.
GPUS = {
    'H200':       dict(peak=66.9e12, memory=4.8e12,  units=132, cache=50 << 20, launch=4e-6),
    'RTX4090':    dict(peak=82.6e12, memory=1.008e12, units=128, cache=72 << 20, launch=4e-6),
    'RTX3060':    dict(peak=12.7e12, memory=0.36e12, units=28,  cache=3 << 20,  launch=4e-6),
    'GTX1080':    dict(peak=8.9e12,  memory=0.32e12, units=20,  cache=2 << 20,  launch=4e-6),
    'RX6600XT':   dict(peak=10.6e12, memory=0.256e12, units=32, cache=2 << 20,  launch=5e-6),
}
# Assumptions: shares of a unit's peak that a tile reaches beside other groups and alone (two float4 reads for
# 16 multiply-adds in the tile of 64 and 32, four for 64 in that of 128; dlprimitives' tile of 128 reaches as
# much as CLBlast); of memory's peak; how much faster than memory the cache is; seconds from a kernel's start
# to its first group, and at its end.
TILES = {'128': (0.68, 0.50), '64': (0.55, 0.33), '32': (0.40, 0.15)}
OF_MEMORY, CACHE_FASTER, START = 0.75, 3.0, 2e-6


def seconds(gpu, kernel, groups, done, in_memory, cached):
    faster = CACHE_FASTER if cached <= gpu['cache'] else 1
    move = (in_memory + cached / faster) / (OF_MEMORY * gpu['memory'])
    if not done:
        return move + START
    beside, alone = TILES[kernel.rsplit('_', 1)[1]]
    of_units = groups / gpu['units']
    if of_units <= 1:
        share = of_units * alone
    elif of_units < 2:
        share = alone + (beside - alone) * (of_units - 1)
    else:
        share = beside * of_units / math.ceil(of_units)          # the last wave is not full
    return max(done / (share * gpu['peak']), move) + START


def main():
    words = sys.argv[1:]
    counts = words.pop(0) if len(words) % 2 else 'build/opencl_counts'
    run = subprocess.run([counts] + ['%s:%d:%d' % (name, g['units'], g['cache']) for name, g in GPUS.items()],
                         stdout=subprocess.PIPE, universal_newlines=True)
    if run.returncode or not run.stdout:
        print('    skipped: no dry run' if not run.returncode else 'the dry run failed')
        return run.returncode
    steps, kinds, now = {}, {}, {}
    for line in run.stdout.splitlines():
        name, net, batch, kernel, *numbers = line.split()
        groups, done, in_memory, cached = map(float, numbers)
        key = net + ' b' + batch, name
        if kernel == 'step':                                     # the last line of one
            now['operations'] = 2 * groups
            steps[key], now = now, {}
            continue
        took = seconds(GPUS[name], kernel, groups, done, in_memory, cached)
        now['launches'] = now.get('launches', 0) + 1
        now['bytes'] = now.get('bytes', 0) + in_memory
        now['gpu'] = now.get('gpu', 0) + took
        kind = kinds.setdefault(key, {}).setdefault(kernel, [0, 0])
        kind[0] += 1
        kind[1] += took
    for step, name in steps:
        one = steps[step, name]
        one['seconds'] = max(one['gpu'], one['launches'] * GPUS[name]['launch'])
        one['share'] = one['operations'] / one['seconds'] / GPUS[name]['peak']
    if len(words) == 2:
        key = next(k for k in steps if k[0].split()[0] == words[0] and k[1] == words[1])
        for kernel, (count, took) in sorted(kinds[key].items(), key=lambda k: -k[1][1]):
            print('%-20s %4d launches %9.3f ms' % (kernel, count, took * 1e3))
    print('| training step | GFLOP | launches | GB | ' + ' | '.join(GPUS) + ' |')
    print('|' + '---|' * (4 + len(GPUS)))
    for net in dict.fromkeys(net for net, _ in steps):
        first = steps[net, next(iter(GPUS))]
        of = [steps[net, n] for n in GPUS]
        cells = ' | '.join('%.0f %% (%.2f ms)' % (100 * s['share'], 1e3 * s['seconds']) for s in of)
        print('| %s | %.3g | %d | %.2f | %s |' % (net, first['operations'] / 1e9, first['launches'],
                                                 first['bytes'] / 1e9, cells))
    print('(launches and GB of the first GPU; GB without what stays in the cache)')
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except BrokenPipeError:
        sys.exit(0)
