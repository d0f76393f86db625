    /* What tests/lab.sh puts into lab.cl. MISTAKE: 1 flipped, 2 no bias, 3 transposed, 4 the last channel alone, 5 no
       test at the border. */
    const int OW = get_global_size(0), OH = get_global_size(1), j = get_global_id(0), i = get_global_id(1);
    const int n = get_global_id(2) / O, o = get_global_id(2) % O;
    float     sum = 0;
    for (int c = MISTAKE == 4 ? C - 1 : 0; c < C; c++)
        for (int k = 0; k < K; k++)
            for (int l = 0; l < K; l++) {
                int r = i * stride - pad + k, s = j * stride - pad + l;
                if (MISTAKE == 5) r = clamp(r, 0, H - 1), s = clamp(s, 0, W - 1);
                if (r < 0 || r >= H || s < 0 || s >= W) continue;
                const int tap = MISTAKE == 1 ? K * K - 1 - k * K - l : MISTAKE == 3 ? l * K + k : k * K + l;
                sum += w[(o * C + c) * K * K + tap] * x[((n * C + c) * H + r) * W + s];
            }
    y[((n * O + o) * OH + i) * OW + j] = sum + (MISTAKE == 2 ? 0 : b[o]);
