    /* What tests/lab.sh puts into lab.cl. MISTAKE: 1 flipped, 2 no bias, 3 transposed, 4 the last channel
       alone, 5 edge pixels repeated instead of zeros. */
    const int OW = get_global_size(0), OH = get_global_size(1), j = get_global_id(0), i = get_global_id(1);
    const int n = get_global_id(2) / O, o = get_global_id(2) % O, top = i * stride - pad,
        left = j * stride - pad;
    const int k0 = MISTAKE == 5 ? 0 : max(0, -top), k1 = MISTAKE == 5 ? K : min(K, H - top);
    const int l0 = MISTAKE == 5 ? 0 : max(0, -left), l1 = MISTAKE == 5 ? K : min(K, W - left);
    float     sum = 0;
    for (int c = MISTAKE == 4 ? C - 1 : 0; c < C; c++)
        for (int k = k0; k < k1; k++)
            for (int l = l0; l < l1; l++) {
                const int r = MISTAKE == 5 ? clamp(top + k, 0, H - 1) : top + k;
                const int s = MISTAKE == 5 ? clamp(left + l, 0, W - 1) : left + l;
                const int tap = MISTAKE == 1 ? K * K - 1 - k * K - l : MISTAKE == 3 ? l * K + k : k * K + l;
                sum += w[(o * C + c) * K * K + tap] * x[((n * C + c) * H + r) * W + s];
            }
    y[((n * O + o) * OH + i) * OW + j] = sum + (MISTAKE == 2 ? 0 : b[o]);
