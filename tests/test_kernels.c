/* test_kernels.c - GEMM and convolution: every micro-kernel that this machine can run, and every algorithm of
   convolution forced in turn, against float64 loops written here, on random awkward shapes. Outputs are poisoned
   with NaN (y =) or filled with random numbers (+=), the scratch is poisoned and has a guard behind it, and 1, 2, 3
   and 8 threads must give equal bits. */
#ifndef MOST_WORK                       /* shapes of more multiply-adds are left out: tests/emulated.sh */
#define IN_TEST_KERNELS                 /* the tests of the threads share this implementation */
#include "test_threads.c"
#define MOST_WORK INFINITY
#else
#define CNN__SERIAL_WORK 0.0            /* every kernel with as many threads as it is told */
#define CNN_IMPLEMENTATION
#include "cnn.h"
#include "test.h"
#endif

static const struct { cnn_isa isa; const char *name; } isas[] = {
    { CNN_ISA_C, "c" }, { CNN_ISA_NEON, "neon" }, { CNN_ISA_AVX2, "avx2" }, { CNN_ISA_AVX512, "avx512" },
    { CNN_ISA_WASM, "wasm" } };
static const int team[] = { 1, 2, 3, 8 };
/* So many threads, whose team stays until the program ends. */
static cnn__cpu cpu_of(cnn_isa isa, int threads)
{
    static cnn__team *one[9];
    cnn__cpu cpu = { isa, threads, false, one[threads] };
    if (threads > 1 && !cpu.team && CNN__TEAMS && !cnn__open_team(&cpu)) exit(2);
    one[threads] = cpu.team;
    return cpu;
}
static const cnn__cpu plain = { CNN_ISA_PLAIN, 1, false, NULL };     /* the loops that students read */

/* A buffer with 16 guard floats behind it, filled with NaN. */
enum { GUARD = 16 };
static float *poisoned(size_t n)
{
    float *p = NULL;
    size_t bytes = ((n + GUARD) * sizeof *p + 63) / 64 * 64;
    void *raw = malloc(bytes + 64 + sizeof(void *));
    if (!raw) exit(2);
    p = (float *)(void *)((char *)raw + 64 - (uintptr_t)raw % 64 + 0);
    if ((char *)p - (char *)raw < (ptrdiff_t)sizeof(void *)) p += 16;
    memcpy((char *)p - sizeof raw, &raw, sizeof raw);
    for (size_t i = 0; i < n; i++) p[i] = NAN;
    for (size_t i = 0; i < GUARD; i++) p[n + i] = 12345.0f + (float)i;
    return p;
}
static bool guarded(const float *p, size_t n)
{
    for (size_t i = 0; i < GUARD; i++)
        if (p[n + i] != 12345.0f + (float)i) return false;
    return true;
}
static void drop(float *p)
{
    void *raw;
    memcpy(&raw, (char *)p - sizeof raw, sizeof raw);
    free(raw);
}
static float *random_floats(size_t n)
{
    float *p = poisoned(n);
    test_fill(p, n, -1, 1);
    return p;
}

/* value against want, where size is the sum of the magnitudes of the terms. */
static void compare(const char *what, const float *value, const double *want, const double *size, size_t n, double tolerance)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)value[i] - want[i]) <= tolerance * size[i] + 1e-30)) {
            CHECK_MSG(false, "%s[%zu] is %.9g, not %.9g", what, i, (double)value[i], want[i]);
            return;
        }
    CHECK(true);
}

/* The largest error against the largest of want: what cnn.h promises of Winograd. */
static void compare_largest(const char *what, const float *value, const double *want, size_t n, double tolerance)
{
    double error = 0, most = 0;
    for (size_t i = 0; i < n; i++) error = fmax(error, fabs((double)value[i] - want[i])), most = fmax(most, fabs(want[i]));
    CHECK_MSG(error <= tolerance * most, "%s: the largest error is %.2g of the largest value", what, error / most);
}

/* ---- GEMM ---- */

static void check_gemm(cnn_isa isa, int m, int n, int k, bool ta, bool tb, float beta)
{
    if ((double)m * n * k > (double)MOST_WORK) return;
    const int lda = (ta ? m : k) + test_int(0, 3), ldb = (tb ? k : n) + test_int(0, 3), ldc = n + test_int(0, 3);
    const size_t an = (size_t)lda * (size_t)(ta ? k : m), bn = (size_t)ldb * (size_t)(tb ? n : k), cn = (size_t)ldc * (size_t)m;
    float *a = random_floats(an), *b = random_floats(bn), *c0 = random_floats(cn), *first = NULL;
    double *want = test_alloc(cn * sizeof *want), *size = test_alloc(cn * sizeof *size);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < ldc; j++) {
            const size_t at = (size_t)i * (size_t)ldc + (size_t)j;
            if (j >= n) { want[at] = (double)c0[at], size[at] = 0; continue; }
            want[at] = beta != 0.0f ? (double)beta * (double)c0[at] : 0, size[at] = fabs(want[at]);
            for (int p = 0; p < k; p++) {
                double term = (double)a[ta ? p * lda + i : i * lda + p] * (double)b[tb ? j * ldb + p : p * ldb + j];
                want[at] += term, size[at] += fabs(term);
            }
        }
    for (int t = 0; t < 4; t++) {
        const cnn__cpu cpu = cpu_of(isa, team[t]);
        const size_t bytes = cnn__gemm_scratch(&cpu, m, n, k), sn = (bytes + 3) / 4;
        float *scratch = poisoned(sn), *c = poisoned(cn);
        memcpy(c, c0, cn * sizeof *c);
        for (int i = 0; i < m && beta == 0.0f; i++)
            for (int j = 0; j < n; j++) c[i * ldc + j] = NAN;
        cnn__gemm(&cpu, c, ldc, beta, a, lda, ta, b, ldb, tb, m, n, k, scratch);
        CHECK(guarded(scratch, sn) && guarded(c, cn));
        if (!t) compare("c", c, want, size, cn, 3e-6);
        if (!t && m * n * k <= 1 << 16) {
            float *slow = random_floats(cn);
            memcpy(slow, c0, cn * sizeof *slow);
            cnn__gemm(&plain, slow, ldc, beta, a, lda, ta, b, ldb, tb, m, n, k, NULL);
            compare("the reference's c", slow, want, size, cn, 3e-6);
            drop(slow);
        }
        if (!t) first = c;
        else {
            CHECK_MSG(!memcmp(first, c, cn * sizeof *c), "%d threads change the bits of gemm", team[t]);
            drop(c);
        }
        drop(scratch);
    }
    if (test__bad) CHECK_MSG(false, "... in gemm m %d n %d k %d ta %d tb %d beta %g", m, n, k, ta, tb, (double)beta);
    drop(first), drop(a), drop(b), drop(c0), free(want), free(size);
}

static void gemm(cnn_isa isa)
{
    static const float betas[] = { 0, 1, 0.5f };
    for (int mode = 0; mode < 12; mode++) {
        const bool ta = mode & 1, tb = mode & 2;
        const float beta = betas[mode / 4];
        for (int i = 0; i < 12; i++) check_gemm(isa, test_int(1, 40), test_int(1, 70), test_int(1, 40), ta, tb, beta);
        for (int n = 8; n <= 66; n++) check_gemm(isa, test_int(1, 30), n, test_int(1, 9), ta, tb, beta);     /* all tails */
        check_gemm(isa, 1, test_int(1, 90), test_int(1, 300), ta, tb, beta);
        check_gemm(isa, test_int(1, 90), 1, test_int(1, 300), ta, tb, beta);
        check_gemm(isa, test_int(1, 12), test_int(500, 1100), test_int(1, 30), ta, tb, beta);
        check_gemm(isa, test_int(90, 230), test_int(90, 130), test_int(200, 600), ta, tb, beta);
        check_gemm(isa, 1 + mode % 5, test_int(1, 9), test_int(1025, 2600), ta, tb, beta);      /* long rows */
    }
    for (int m = 1; m <= 13; m++) check_gemm(isa, m, 33, 7, false, false, 0);       /* tails of every height ... */
    for (int n = 1; n <= 65; n++) check_gemm(isa, 12, n, 5, false, true, 1);        /* ... and width */
    check_gemm(isa, 3, 5, 0, false, false, 0.5f);
}

/* ---- Convolution ---- */

enum { FORWARD = CNN__FORWARD, BACKWARD_DATA = CNN__BACKWARD_DATA, BACKWARD_WEIGHTS = CNN__BACKWARD_WEIGHTS };
static const char *const passes[] = { "forward", "backward-data", "backward-weights" };

/* The float64 reference of all three passes: out += (or = b +) the terms of the formula; magnitudes into size. */
static void reference(const cnn__conv *t, int pass, double *out, double *size, const float *x, const float *w, const float *dy)
{
    const int icg = t->ic / t->groups, ocg = t->oc / t->groups;
    for (int n = 0; n < t->n; n++)
        for (int g = 0; g < t->groups; g++)
            for (int o = g * ocg; o < (g + 1) * ocg; o++)
                for (int c = 0; c < icg; c++)
                    for (int i = 0; i < t->kh; i++)
                        for (int j = 0; j < t->kw; j++)
                            for (int r = 0; r < t->oh; r++) {
                                const int y = r * t->sh + i * t->dh - t->ph, z = j * t->dw - t->pw;
                                if (y < 0 || y >= t->h) continue;
                                const ptrdiff_t xi = ((ptrdiff_t)(n * t->ic + g * icg + c) * t->h + y) * t->w + z;
                                const ptrdiff_t wi = ((o * icg + c) * t->kh + i) * t->kw + j;
                                const ptrdiff_t yi = ((ptrdiff_t)(n * t->oc + o) * t->oh + r) * t->ow;
                                const int first = z < 0 ? (-z + t->sw - 1) / t->sw : 0;
                                const int fits = z < t->w ? (t->w - z + t->sw - 1) / t->sw : 0, last = fits < t->ow ? fits : t->ow;
                                if (pass == BACKWARD_WEIGHTS) {
                                    double sum = out[wi], terms = size[wi];
                                    for (int s = first; s < last; s++) {
                                        const double term = (double)dy[yi + s] * (double)x[xi + s * t->sw];
                                        sum += term, terms += fabs(term);
                                    }
                                    out[wi] = sum, size[wi] = terms;
                                    continue;
                                }
                                const float    *from = pass == FORWARD ? x : dy;
                                const ptrdiff_t at = pass == FORWARD ? yi : xi, in = pass == FORWARD ? xi : yi;
                                const int       to_step = pass == FORWARD ? 1 : t->sw, in_step = pass == FORWARD ? t->sw : 1;
                                const double    v = (double)w[wi];
                                for (int s = first; s < last; s++) {
                                    const double term = v * (double)from[in + s * in_step];
                                    out[at + s * to_step] += term, size[at + s * to_step] += fabs(term);
                                }
                            }
}

/* oh and ow from the rest, and the padding below and on the right; false if the kernel does not fit. */
static bool complete_to(cnn__conv *t, int eh, int ew)
{
    const int h = t->h + t->ph + eh - (t->kh - 1) * t->dh - 1, w = t->w + t->pw + ew - (t->kw - 1) * t->dw - 1;
    if (h < 0 || w < 0) return false;
    t->oh = h / t->sh + 1, t->ow = w / t->sw + 1;
    return true;
}
static bool complete(cnn__conv *t) { return complete_to(t, t->ph, t->pw); }

static cnn__conv shape(int n, int ic, int h, int w, int oc, int kernel, int stride, int pad, int dilation, int groups)
{
    cnn__conv t = { n, ic, h, w, oc, 0, 0, kernel, kernel, stride, stride, pad, pad, dilation, dilation, groups };
    if (!complete(&t)) CHECK_MSG(false, "bad shape in the test");
    return t;
}

static cnn__conv random_shape(void)
{
    for (;;) {
        const int kind = test_int(0, 5), g = kind == 1 ? test_int(2, 4) : kind == 2 ? test_int(1, 20) : 1;
        cnn__conv t = { test_int(1, 4), g * (kind == 2 || test_chance(20) ? 1 : test_int(1, 9)), test_int(1, 17), test_int(1, 37),
                        g * (kind == 2 && test_chance(70) ? 1 : test_int(1, 14)), 0, 0, test_int(1, 5), test_int(1, 5), 1, 1, 0, 0,
                        1, 1, g };
        if (test_chance(20)) t.kh = t.kw = 1;
        if (test_chance(30)) t.kh = t.kw = 3;
        if (test_chance(60)) t.ph = test_int(0, t.kh), t.pw = test_int(0, t.kw);        /* also wider than useful */
        if (test_chance(50)) t.sh = test_int(1, 3), t.sw = test_int(1, 3);
        if (test_chance(25)) t.dh = test_int(1, 3), t.dw = test_int(1, 3);
        const int e = test_chance(40) ? 1 : 0;                                          /* unevenly padded */
        if (complete_to(&t, e ? test_int(0, t.kh + 1) : t.ph, e ? test_int(0, t.kw + 1) : t.pw)) return t;
    }
}

/* The references that stand above the fast kernels of cnn.h are right, too. */
static void references(void)
{
    for (int i = 0; i < 40; i++) {
        const cnn__conv t = random_shape();
        const size_t plane = (size_t)(t.oh * t.ow), yn = (size_t)(t.n * t.oc) * plane, xn = (size_t)(t.n * t.ic * t.h * t.w);
        const size_t oc = (size_t)t.oc, wn = oc * (size_t)(t.ic / t.groups * t.kh * t.kw), ns[3] = { yn, xn, wn };
        float *x = random_floats(xn), *w = random_floats(wn), *dy = random_floats(yn), *b = random_floats(oc), *db = random_floats(oc);
        double *db_want = test_alloc(oc * sizeof *db_want), *db_size = test_alloc(oc * sizeof *db_size);
        for (size_t c = 0; c < oc; c++) db_want[c] = (double)db[c], db_size[c] = fabs(db_want[c]);
        for (size_t k = 0; k < yn; k++)
            db_want[k / plane % oc] += (double)dy[k], db_size[k / plane % oc] += fabs((double)dy[k]);
        for (int pass = FORWARD; pass <= BACKWARD_WEIGHTS; pass++) {
            const size_t n = ns[pass];
            float *out = random_floats(n);
            double *want = test_alloc(n * sizeof *want), *size = test_alloc(n * sizeof *size);
            for (size_t k = 0; k < n; k++)
                want[k] = pass == BACKWARD_DATA && i % 2 ? 0 : pass ? (double)out[k] : i % 2 ? (double)b[k / plane % oc] : 0,
                size[k] = fabs(want[k]);
            reference(&t, pass, want, size, x, w, dy);
            if (pass == FORWARD)            cnn__conv_forward(&plain, &t, out, x, w, i % 2 ? b : NULL, NULL, NULL, NULL);
            else if (pass == BACKWARD_DATA) cnn__conv_backward_data(&plain, &t, out, dy, w, i % 2, NULL);
            else                            cnn__conv_backward_weights(&plain, &t, out, i % 2 ? db : NULL, x, dy, NULL);
            compare(passes[pass], out, want, size, n, 1e-5);
            drop(out), free(want), free(size);
        }
        if (i % 2) compare("db", db, db_want, db_size, oc, 1e-5);
        drop(x), drop(w), drop(dy), drop(b), drop(db), free(db_want), free(db_size);
    }
}

/* A formula for a tail, and what it makes of each element. */
static void doubled(float *v, const float *a, const float *b, const float *k, ptrdiff_t n)
{
    (void)b;
    for (ptrdiff_t i = 0; i < n; i++) v[i] = k[0] * v[i] + (a ? a[i] : 0.0f);
}

#define RECTIFY(cpu, name) cnn__loop(cpu, (cnn_each *const[2])CNN__LOOPS(cnn__each_##name))

/* Weights that are packed once give the bits of those that are packed in every pass, in no more scratch; and a tail is
   applied to each element once, when it is complete. */
static void check_packed(const cnn__cpu *cpu, const cnn__conv *t, const cnn__algorithm *by, const float *want,
                         float *x, float *w, float *b, float *scratch, size_t sn)
{
    const size_t n = by->pack ? by->pack(cpu, t, NULL, NULL, NULL) : 0, on = (size_t)(t->n * t->oc * t->oh * t->ow);
    float *packed = n ? poisoned(n) : NULL, *out = poisoned(on);
    size_t used = 0, bytes = 0;
    if (n) by->pack(cpu, t, packed, w, (char *)scratch);
    const cnn__arrays o = { .to = out, .x = x, .w = n ? NULL : w, .b = b, .packed = packed };
    by->run(cpu, t, FORWARD, &(cnn__arrays){ .packed = packed }, NULL, &bytes);
    by->run(cpu, t, FORWARD, &o, (char *)scratch, &used);
    CHECK(!memcmp(out, want, on * sizeof *out) && guarded(out, on) && guarded(scratch, sn));
    CHECK(used == bytes && bytes <= sn * sizeof *scratch && (!n || guarded(packed, n)));
    float *a = poisoned(on);                            /* drawing no random number: other tests would change */
    for (size_t i = 0; i < on; i++) a[i] = (float)(i % 13) - 6;
    const cnn__tail tails[] = {                         /* those behind the first may be done in registers */
        { .steps = 2, .step = { { doubled, a, { 2, 0 } }, { doubled, NULL, { 0.5f, 0 } } } },
        { .steps = 2, .step = { { cnn__each_add(cpu), a, { 0, 0 } }, { RECTIFY(cpu, relu), NULL, { 0, 0 } } } },
        { .steps = 1, .step = { { RECTIFY(cpu, clamp), NULL, { -0.5f, 0.25f } } } },
        { .steps = 1, .step = { { cnn__each_add(cpu), a, { 0, 0 } } } },
        { .steps = 2, .step = { { RECTIFY(cpu, relu), NULL, { 0, 0 } }, { cnn__each_add(cpu), a, { 0, 0 } } } } };
    for (int k = 0; k < (cpu->threads == 3 ? 2 * (int)(sizeof tails / sizeof *tails) : 2); k++) {
        const cnn__tail *tail = &tails[k / 2];
        cnn__arrays then = o;
        then.tail = tail, used = 0;
        if (k % 2) then.w = w, then.packed = NULL;
        for (size_t i = 0; i < on; i++) out[i] = NAN;
        by->run(cpu, t, FORWARD, &then, (char *)scratch, &used);
        size_t wrong = 0;
        for (size_t i = 0; i < on; i++) {
            float v = want[i];
            for (int s = 0; s < tail->steps; s++) tail->step[s].f(&v, tail->step[s].a ? a + i : NULL, NULL, tail->step[s].k, 1);
            wrong += k < 2 ? !(fabs((double)v - (double)out[i]) <= 1e-6 * fmax(1, fabs((double)v))) : memcmp(&v, out + i, sizeof v) != 0;
        }
        CHECK_MSG(wrong == 0, "tail %d: %d elements of %d are wrong", k, (int)wrong, (int)on);
    }
    CHECK(guarded(out, on) && guarded(scratch, sn));
    if (n) drop(packed);
    drop(out), drop(a);
}

/* Each value becomes the largest of its tile, of side x side, in planes of h x w. */
static void largest_of_tile(double *v, size_t n, int h, int w, int side)
{
    for (double *plane = v; plane < v + n; plane += h * w)
        for (int y = 0; y < h; y += side)
            for (int x = 0; x < w; x += side) {
                double most = 0;
                for (int i = 0; i < side * side; i++)
                    if (y + i / side < h && x + i % side < w) most = fmax(most, plane[(y + i / side) * w + x + i % side]);
                for (int i = 0; i < side * side; i++)
                    if (y + i / side < h && x + i % side < w) plane[(y + i / side) * w + x + i % side] = most;
            }
}

/* The arrays of a pass, and what comes out of it: one for all algorithms. size: the magnitudes of the terms. */
typedef struct { size_t xn, wn, yn, on; float *x, *w, *dy, *out0, *b; double *want, *size, *db_want, *db_size; } trial;

static trial new_trial(const cnn__conv *t, int pass, bool bias)
{
    const size_t plane = (size_t)(t->oh * t->ow), oc = (size_t)t->oc;
    trial r = { .xn = (size_t)(t->n * t->ic * t->h * t->w), .wn = (size_t)(t->oc * (t->ic / t->groups) * t->kh * t->kw) };
    r.yn = (size_t)(t->n * t->oc) * plane, r.on = pass == FORWARD ? r.yn : pass == BACKWARD_DATA ? r.xn : r.wn;
    r.x = random_floats(r.xn), r.w = random_floats(r.wn), r.dy = random_floats(r.yn), r.out0 = random_floats(r.on);
    r.b = random_floats(oc);
    r.want = test_alloc(r.on * sizeof *r.want), r.size = test_alloc(r.on * sizeof *r.size);
    r.db_want = test_alloc(oc * sizeof *r.db_want), r.db_size = test_alloc(oc * sizeof *r.db_size);
    for (size_t i = 0; i < r.on; i++) {
        r.want[i] = pass == BACKWARD_DATA && bias ? 0 : pass != FORWARD ? (double)r.out0[i] : bias ? (double)r.b[i / plane % oc] : 0;
        r.size[i] = fabs(r.want[i]);
    }
    for (size_t i = 0; i < oc; i++) r.db_want[i] = (double)r.b[i], r.db_size[i] = fabs((double)r.b[i]);
    for (size_t i = 0; i < r.yn; i++)
        r.db_want[i / plane % oc] += (double)r.dy[i], r.db_size[i / plane % oc] += fabs((double)r.dy[i]);
    reference(t, pass, r.want, r.size, r.x, r.w, r.dy);
    return r;
}
static void drop_trial(trial r)
{
    drop(r.x), drop(r.w), drop(r.dy), drop(r.out0), drop(r.b);
    free(r.want), free(r.size), free(r.db_want), free(r.db_size);
}

/* by: NULL = what the rule picks, through the functions that rooms call. bias: with a bias or its gradient;
   backward-data, which has none, then sets dx. */
static void check_conv(cnn_isa isa, const cnn__conv *t, int pass, bool bias, const cnn__algorithm *by, const trial *r)
{
    const cnn__algorithm *runs = by ? by : cnn__conv_rule(&(cnn__cpu){ isa, 1, false, NULL }, t, pass);
    const bool small = runs->run == cnn__run_winograd_small;
    const bool winograd = small || runs->run == cnn__run_winograd, ruled = !by && winograd, clear = pass == BACKWARD_DATA && bias;
    const double tolerance = small ? 4e-6 : winograd ? 2e-5 : 3e-6, *want = r->want, *db_want = r->db_want, *db_size = r->db_size;
    const size_t on = r->on;
    float *x = r->x, *w = r->w, *dy = r->dy, *out0 = r->out0, *b = r->b, *first = NULL, *first_db = NULL;
    double *size = test_alloc(on * sizeof *size);
    memcpy(size, r->size, on * sizeof *size);
    if (winograd)                       /* a tile rounds together, also its elements of few terms, at a border */
        largest_of_tile(size, on, pass == FORWARD ? t->oh : pass == BACKWARD_DATA ? t->h : t->kh,
                        pass == FORWARD ? t->ow : pass == BACKWARD_DATA ? t->w : t->kw,
                        pass == BACKWARD_WEIGHTS ? t->kh : t->kh == 3 && !small ? 4 : 2);
    for (int q = 0; q < 4; q++) {
        const cnn__cpu cpu = cpu_of(isa, team[q]);
        size_t bytes = 0, used = 0;                     /* what this pass has planned, so that no more is touched */
        runs->run(&cpu, t, pass, &(cnn__arrays){ .to = NULL }, NULL, &bytes);
        CHECK(by || bytes <= cnn__conv_scratch(&cpu, t));
        const size_t sn = (bytes + 3) / 4;
        float *scratch = poisoned(sn), *out = poisoned(on), *db = poisoned((size_t)t->oc);
        if (pass != FORWARD && !clear) memcpy(out, out0, on * sizeof *out);
        memcpy(db, b, (size_t)t->oc * sizeof *db);
        if (by) {
            const cnn__arrays arrays = { .to = out, .x = x, .w = w, .b = pass == FORWARD && bias ? b : NULL, .dy = dy,
                                         .db = pass == BACKWARD_WEIGHTS && bias ? db : NULL, .clear = clear };
            by->run(&cpu, t, pass, &arrays, (char *)scratch, &used);
        } else if (pass == FORWARD)     cnn__conv_forward(&cpu, t, out, x, w, bias ? b : NULL, NULL, scratch, NULL);
        else if (pass == BACKWARD_DATA) cnn__conv_backward_data(&cpu, t, out, dy, w, clear, scratch);
        else                            cnn__conv_backward_weights(&cpu, t, out, bias ? db : NULL, x, dy, scratch);
        CHECK(guarded(scratch, sn) && guarded(out, on) && guarded(db, (size_t)t->oc));
        if (!q) {
            compare(passes[pass], out, want, size, on, tolerance);
            if (ruled) compare_largest(passes[pass], out, want, on, small ? 4e-6 : 2e-5);
            if (pass == BACKWARD_WEIGHTS && bias) compare("db", db, db_want, db_size, (size_t)t->oc, 3e-6);
            first = out, first_db = db;
        } else {
            CHECK_MSG(!memcmp(first, out, on * sizeof *out) && !memcmp(first_db, db, (size_t)t->oc * sizeof *db),
                      "%d threads change the bits of %s", team[q], passes[pass]);
            drop(out), drop(db);
        }
        if (pass == FORWARD) check_packed(&cpu, t, runs, first, x, w, bias ? b : NULL, scratch, sn);
        drop(scratch);
    }
    if (test__bad)
        CHECK_MSG(false, "... in %s, %s: (%d,%d,%d,%d) oc %d kernel %dx%d stride %d,%d pad %d,%d dilation %d,%d groups %d bias %d",
                  passes[pass], runs->name, t->n, t->ic, t->h, t->w, t->oc, t->kh, t->kw,
                  t->sh, t->sw, t->ph, t->pw, t->dh, t->dw, t->groups, bias);
    drop(first), drop(first_db), free(size);
}

/* The rule's choice and every algorithm that can do the shape. */
static void check_all(cnn_isa isa, const cnn__conv *t, int pass, bool bias)
{
    const cnn__cpu cpu = cpu_of(isa, 1);
    const cnn__algorithm *rule = cnn__conv_rule(&cpu, t, pass);
    if ((double)t->n * t->oc * t->oh * t->ow * (t->ic / t->groups) * t->kh * t->kw > (double)MOST_WORK) return;
    const trial r = new_trial(t, pass, bias);
    check_conv(isa, t, pass, bias, NULL, &r);
    for (size_t i = 0; i < sizeof cnn__algorithms / sizeof *cnn__algorithms; i++) {
        const cnn__algorithm *a = &cnn__algorithms[i];
        if (a->run == cnn__run_winograd && (rule->run != cnn__run_direct || t->oh < 2 || t->ow < 2)) continue;    /* its sums are too short */
        if (a->run != rule->run && a->fits(&cpu, t, pass) && !(i > 0 && a->run == a[-1].run && a[-1].fits(&cpu, t, pass)))
            check_conv(isa, t, pass, bias, a, &r);
    }
    drop_trial(r);
}

/* A NaN in x (or dy) reaches the outputs that the formula gives it to and no other: not by what is computed and
   dropped, nor by the zeros of a padding. Winograd is left out, as it mixes whole tiles. */
static void check_stays(cnn_isa isa, const cnn__conv *t, int pass)
{
    const cnn__cpu cpu = cpu_of(isa, 2);
    const size_t xn = (size_t)(t->n * t->ic * t->h * t->w), wn = (size_t)(t->oc * (t->ic / t->groups) * t->kh * t->kw);
    const size_t yn = (size_t)(t->n * t->oc * t->oh * t->ow), in_n = pass ? yn : xn, out_n = pass ? xn : yn;
    float *in = random_floats(in_n), *w = random_floats(wn), *clean = random_floats(out_n), *out = random_floats(out_n);
    float *one = random_floats(in_n), *ones = random_floats(wn);
    float *scratch = poisoned((cnn__conv_scratch(&cpu, t) + 3) / 4);
    double *sum = test_alloc(out_n * sizeof *sum), *meets = test_alloc(out_n * sizeof *meets);
    const size_t at = (size_t)test_int(0, (int)in_n - 1);
    for (size_t i = 0; i < in_n; i++) one[i] = i == at;
    for (size_t i = 0; i < wn; i++) ones[i] = 1;
    for (size_t i = 0; i < out_n; i++) sum[i] = meets[i] = 0, out[i] = clean[i];
    reference(t, pass, sum, meets, one, ones, one);
    for (int k = 0; k < 2; k++) {
        if (pass) cnn__conv_backward_data(&cpu, t, k ? out : clean, in, w, false, scratch);
        else      cnn__conv_forward(&cpu, t, k ? out : clean, in, w, NULL, NULL, scratch, NULL);
        in[at] = NAN;
    }
    for (size_t i = 0; i < out_n; i++)
        if (!CHECK_MSG(meets[i] > 0 ? isnan(out[i]) : memcmp(&out[i], &clean[i], sizeof *out) == 0,
                       "NaN at %zu: element %zu of %s is %g, without it %g", at, i, passes[pass], (double)out[i],
                       (double)clean[i])) {
            CHECK_MSG(false, "... in %s: (%d,%d,%d,%d) oc %d kernel %dx%d stride %d,%d pad %d,%d dilation %d,%d groups %d",
                      passes[pass], t->n, t->ic, t->h, t->w, t->oc, t->kh, t->kw, t->sh, t->sw, t->ph, t->pw, t->dh, t->dw,
                      t->groups);
            break;
        }
    drop(in), drop(w), drop(clean), drop(out), drop(one), drop(ones), drop(scratch), free(sum), free(meets);
}

static void nan_stays(cnn_isa isa)
{
    const cnn__cpu cpu = cpu_of(isa, 1);
    for (int pass = FORWARD; pass <= BACKWARD_DATA; pass++)
        for (int i = 0; i < 60; i++) {
            const cnn__conv side = shape(2 * cnn__kernels_of(&cpu)->nr, 6, 14, 14, 16, 5, 1, 0, 1, 1);
            const cnn__conv rows = shape(2, 3, 9, 4 + i, 3, 3, 1, i % 3, 1, 3);
            const cnn__conv t = i == 0 ? side : i % 4 == 0 ? rows : random_shape();
            const cnn__algorithm *rule = cnn__conv_rule(&cpu, &t, pass);
            if (rule->run != cnn__run_winograd && rule->run != cnn__run_winograd_small) check_stays(isa, &t, pass);
        }
}

/* What the rule picks, by the name that the summary gives it. */
static void names(cnn_isa isa)
{
    const cnn__cpu cpu = cpu_of(isa, 1);
    const int many = 2 * cnn__kernels_of(&cpu)->nr;
    const cnn__conv direct = shape(1, 3, 9, 9, 8, 3, 1, 1, 1, 1), pointwise = shape(1, 24, 28, 28, 8, 1, 1, 0, 1, 1);
    const cnn__conv wide = shape(1, 6, 9, 9, 6, 5, 1, 2, 1, 6), rows = shape(1, 6, 9, 9, 6, 3, 1, 1, 1, 6);
    const cnn__conv three = shape(4, 32, 16, 16, 32, 3, 1, 1, 1, 1), five = shape(4, 32, 16, 16, 32, 5, 1, 2, 1, 1);
    const cnn__conv side = shape(many, 6, 14, 14, 16, 5, 1, 0, 1, 1);
    CHECK_STR(cnn__conv_algorithm(&cpu, &direct, FORWARD), "direct");
    CHECK_STR(cnn__conv_algorithm(&cpu, &pointwise, FORWARD), "1x1 gemm");
    CHECK_STR(cnn__conv_algorithm(&cpu, &wide, FORWARD), "depthwise");
    CHECK_STR(cnn__conv_algorithm(&cpu, &rows, FORWARD), "depthwise rows");
    CHECK_STR(cnn__conv_algorithm(&cpu, &three, FORWARD), "winograd 4x4");
    const cnn__conv few = shape(1, 32, 14, 14, 32, 3, 1, 1, 1, 1);
    CHECK_STR(cnn__conv_algorithm(&cpu, &few, FORWARD), "winograd 2x2");
    CHECK(cnn__conv_rule(&cpu, &few, BACKWARD_DATA)->run == cnn__run_winograd_small);
    CHECK_STR(cnn__conv_algorithm(&cpu, &five, BACKWARD_DATA), "winograd 2x2");
    CHECK_STR(cnn__conv_algorithm(&cpu, &five, BACKWARD_WEIGHTS), "direct");
    CHECK_STR(cnn__conv_algorithm(&cpu, &side, FORWARD), "direct, images side by side");
}

static void conv(cnn_isa isa, int pass)
{
    const cnn__conv fixed[] = {
        shape(3, 1, 28, 28, 6, 5, 1, 2, 1, 1),   shape(3, 6, 14, 14, 16, 5, 1, 0, 1, 1),   shape(2, 16, 5, 5, 20, 5, 1, 0, 1, 1),
        shape(2, 3, 33, 31, 10, 7, 2, 3, 1, 1),  shape(2, 8, 9, 9, 8, 3, 1, 1, 1, 8),      shape(1, 12, 17, 19, 12, 3, 2, 1, 1, 12),
        shape(2, 20, 13, 13, 33, 3, 1, 1, 1, 1), shape(1, 64, 7, 7, 70, 3, 1, 1, 1, 1),    shape(5, 40, 6, 6, 20, 1, 1, 0, 1, 1),
        shape(2, 24, 9, 11, 12, 1, 2, 0, 1, 1),  shape(1, 1, 1, 1, 1, 1, 1, 0, 1, 1),      shape(1, 1, 1, 1, 1, 3, 1, 1, 1, 1),
        shape(2, 6, 12, 12, 9, 3, 3, 4, 2, 3),   shape(9, 2, 40, 40, 3, 3, 1, 1, 1, 1),    shape(1, 70, 9, 9, 35, 3, 1, 2, 2, 1),
        shape(2, 4, 10, 10, 8, 2, 3, 0, 1, 2),   shape(1, 2, 6, 5, 3, 2, 4, 3, 3, 1),      shape(64, 1, 8, 8, 4, 3, 1, 1, 1, 1),
        shape(3, 16, 16, 21, 17, 3, 1, 1, 1, 1), shape(1, 300, 9, 12, 18, 3, 1, 0, 1, 1),  shape(2, 17, 15, 14, 30, 3, 1, 2, 1, 1),
        shape(1, 16, 13, 19, 40, 5, 1, 2, 1, 1), shape(2, 40, 15, 9, 45, 3, 2, 1, 1, 1),   shape(1, 48, 9, 35, 38, 3, 1, 0, 2, 1),
        shape(1, 40, 7, 7, 210, 3, 1, 1, 1, 1),  shape(1, 130, 9, 8, 20, 3, 2, 1, 1, 1),   shape(1, 80, 7, 6, 90, 3, 1, 1, 1, 2),
        shape(1, 300, 7, 7, 200, 1, 1, 0, 1, 1), shape(2, 21, 40, 37, 19, 1, 1, 0, 1, 1),  /* 1x1: planes in two blocks */
        /* channels in vectors: two blocks of terms, two of rows; less than a tile of pixels */
        shape(1, 520, 5, 7, 420, 1, 1, 0, 1, 1), shape(2, 530, 2, 2, 40, 1, 1, 0, 1, 1),
        shape(1, 300, 23, 29, 26, 1, 1, 0, 1, 1), shape(1, 30, 11, 13, 1, 1, 1, 0, 1, 1),      /* 1x1: blocks of pixels, a tail */
        shape(1, 8, 5, 1000, 3, 3, 1, 1, 1, 1),         /* backward-weights: a row is more than it takes at a time */
        shape(5, 9, 30, 33, 13, 3, 2, 1, 1, 1),  shape(3, 40, 17, 21, 37, 1, 2, 0, 1, 1),  shape(9, 7, 9, 10, 1, 3, 2, 1, 1, 1),
        shape(6, 10, 23, 25, 10, 5, 2, 2, 1, 10), shape(3, 33, 20, 19, 1, 1, 1, 0, 1, 1),
        shape(3, 35, 11, 12, 33, 5, 1, 4, 1, 1), shape(1, 24, 27, 25, 19, 5, 1, 1, 1, 1),
        /* backward-weights by rows of dy: one or two channels and taps over, a tail of a row, blocks of rows */
        shape(6, 3, 37, 35, 11, 3, 2, 1, 1, 1),  shape(3, 1, 30, 61, 7, 3, 1, 0, 1, 1),    shape(2, 4, 20, 40, 8, 3, 1, 1, 1, 4),
        shape(5, 33, 2, 3, 40, 3, 1, 1, 1, 1),   shape(4, 32, 5, 5, 37, 3, 1, 1, 1, 1),    shape(16, 32, 1, 4, 32, 3, 1, 1, 1, 1),
        /* Winograd with all tiles in one block: tails of tiles of 2 and 4 in both directions, of vectors of channels, two
           blocks of terms, several images */
        shape(1, 16, 14, 14, 16, 3, 1, 1, 1, 1), shape(1, 18, 10, 14, 37, 3, 1, 1, 1, 1),  shape(2, 300, 9, 6, 50, 3, 1, 1, 1, 1),
        shape(1, 17, 26, 22, 33, 3, 1, 1, 1, 1), shape(3, 33, 7, 8, 65, 3, 1, 2, 1, 1),    shape(1, 19, 13, 16, 21, 3, 1, 0, 1, 1),
        shape(7, 32, 29, 27, 50, 3, 1, 1, 1, 1) };      /* the last: Winograd's backward-weights in several chunks and blocks */
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) check_all(isa, &fixed[i], pass, i % 3 > 0);
    for (int w = 3; w < 40; w++) {                      /* depthwise, stride 2: all tails */
        const cnn__conv t = shape(2, 3, 4 + w % 9, w, 3, 3, 2, w % 3, 1, 3);
        check_all(isa, &t, pass, w % 2);
    }
    for (int i = 0; i < 60; i++) {
        const cnn__conv t = random_shape();
        check_all(isa, &t, pass, test_chance(60));
    }
    const cnn__cpu cpu = cpu_of(isa, 1);
    const int nr = cnn__kernels_of(&cpu)->nr;
    const cnn__conv lenet = shape(2 * nr, 6, 14, 14, 16, 5, 1, 0, 1, 1);
    const cnn__algorithm *side = cnn__conv_rule(&cpu, &lenet, pass);
    CHECK(side->run == cnn__run_side);
    check_all(isa, &lenet, pass, true);
    for (int i = 0; i < 30; i++) {                  /* images side by side */
        cnn__conv t = { nr * test_int(1, 3), test_int(1, 5), test_int(1, 9), test_int(1, 12), test_int(1, 2 * CNN__MAX_MR), 0, 0,
                        test_int(1, 5), test_int(1, 5), 1, 1, 0, 0, 1, 1, 1 };
        t.ph = test_int(0, t.kh - 1), t.pw = test_int(0, t.kw - 1);
        const int uneven = test_chance(40);
        if (!complete_to(&t, uneven ? test_int(0, t.kh - 1) : t.ph, uneven ? test_int(0, t.kw - 1) : t.pw)) continue;
        const bool  bias = test_chance(60);
        const trial r = new_trial(&t, pass, bias);
        check_conv(isa, &t, pass, bias, side, &r), drop_trial(r);
    }
    for (int w = 1; w <= 40; w++) {                 /* depthwise rows: tails of every width and height */
        const int c = test_int(1, 5);
        for (int stride = 1; stride < 3; stride++) {
            const cnn__conv t = shape(test_int(1, 3), c, w < 3 ? w : test_int(3, 12), w, c, 3, stride, test_int(w < 3, 2), 1, c);
            check_all(isa, &t, pass, test_chance(60));
        }
    }
    for (int w = 1; w <= 9; w++)                    /* ... and where a vector may hold several rows */
        for (int h = 1; h <= 40; h += h < 9 ? 1 : 15) {
            const cnn__conv t = shape(2, 3, h, w, 3, 3, 1, 1, 1, 3);
            check_all(isa, &t, pass, h % 2);
        }
}

/* ---- Pooling ---- */

/* Some numbers equal, now and then one that is none or infinite. */
static void check_pool(cnn_isa isa, const cnn__pool *t, bool strange)
{
    const size_t xn = (size_t)(t->planes * t->h * t->w), yn = (size_t)(t->planes * t->oh * t->ow);
    float *x = random_floats(xn), *share = poisoned((size_t)(t->oh + t->ow));
    double *want = test_alloc(yn * sizeof *want), *size = test_alloc(yn * sizeof *size);
    for (size_t i = 0; i < xn; i++) {
        if (test_chance(50)) x[i] = (float)test_int(-2, 2);
        if (strange && test_chance(5)) x[i] = test_chance(50) ? NAN : -INFINITY;
    }
    cnn__pool_shares(t, share);
    for (int q = 0; q < 4; q++) {
        const cnn__cpu cpu = cpu_of(isa, team[q]);
        float *most = poisoned(yn), *alone = poisoned(yn), *mean = poisoned(yn);
        int *at = test_alloc(yn * sizeof *at);
        cnn__max_pool(&cpu, t, most, at, x), cnn__max_pool(&cpu, t, alone, NULL, x);
        cnn__avg_pool(&cpu, t, mean, x, share);
        CHECK(guarded(most, yn) && guarded(alone, yn) && guarded(mean, yn));
        CHECK_MSG(!memcmp(most, alone, yn * sizeof *most), "max_pool differs without places");
        bool right = true;
        for (size_t i = 0; i < yn; i++) {
            const int plane = (int)i / (t->oh * t->ow), oy = (int)i / t->ow % t->oh, ox = (int)i % t->ow;
            const float *in = x + plane * t->h * t->w;
            int best = -1;
            want[i] = size[i] = 0;
            for (int y = oy * t->sh - t->ph; y < oy * t->sh - t->ph + t->kh * t->dh; y += t->dh)
                for (int z = ox * t->sw - t->pw; z < ox * t->sw - t->pw + t->kw * t->dw; z += t->dw) {
                    if (y < 0 || z < 0 || y >= t->h || z >= t->w) continue;
                    const int e = y * t->w + z;
                    const double term = (double)in[e] * (double)share[oy] * (double)share[t->oh + ox];
                    if (best < 0 || isnan(in[e]) || in[e] > in[best]) best = e;
                    want[i] += term, size[i] += fabs(term);
                }
            right = right && at[i] == best && !memcmp(&most[i], &in[best], sizeof *in);
        }
        CHECK_MSG(right, "the largest or its place");
        if (!strange && t->dh == 1 && t->dw == 1) compare("mean", mean, want, size, yn, 1e-6);
        drop(most), drop(alone), drop(mean), free(at);
    }
    if (test__bad)
        CHECK_MSG(false, "... in pooling of %d planes (%d,%d), window %dx%d stride %d,%d pad %d,%d dilation %d,%d",
                  t->planes, t->h, t->w, t->kh, t->kw, t->sh, t->sw, t->ph, t->pw, t->dh, t->dw);
    drop(x), drop(share), free(want), free(size);
}

static void pooling(cnn_isa isa)
{
    for (int i = 0; i < 400; i++) {
        cnn__pool t = { test_int(1, 5), test_int(1, 40), test_int(1, 40), 0, 0, test_int(1, 4), test_int(1, 4), test_int(1, 3),
                        test_int(1, 3), 0, 0, 0, 0, 1, 1, test_chance(50) };
        if (i % 2) t.kh = t.kw = test_int(2, 3), t.sh = t.sw = test_int(1, 2);           /* those with code of their own */
        if (test_chance(40)) t.ph = t.eh = test_int(0, t.kh / 2), t.pw = t.ew = test_int(0, t.kw / 2);
        if (test_chance(40)) t.eh = test_int(0, t.kh / 2), t.ew = test_int(0, t.kw / 2);
        if (test_chance(25)) t.dh = test_int(1, 3), t.dw = test_int(1, 3);
        const int h = t.h + t.ph + t.eh - (t.kh - 1) * t.dh - 1, w = t.w + t.pw + t.ew - (t.kw - 1) * t.dw - 1;
        if (h < 0 || w < 0 || (t.ph && t.h < t.dh) || (t.pw && t.w < t.dw)) continue;     /* a window might see nothing */
        t.oh = h / t.sh + 1, t.ow = w / t.sw + 1;
        check_pool(isa, &t, i % 3 == 0);
    }
}

/* Windows far larger than the planes (1,1): kernel and planes multiplied are more than a ptrdiff_t holds. */
static void vast_windows(cnn_isa isa)
{
    const cnn__pool t = { 1 << 18, 1, 1, 2, 2, 1 << 24, 1 << 24, 1, 1, 1 << 23, 1 << 23, 1 << 23, 1 << 23, 1, 1, false };
    const cnn__cpu cpu = cpu_of(isa, 2);
    float *x = random_floats((size_t)t.planes), *most = poisoned(4 * (size_t)t.planes), *mean = poisoned(4 * (size_t)t.planes);
    float share[4], *dx = poisoned((size_t)t.planes);
    cnn__pool_shares(&t, share);
    cnn__max_pool(&cpu, &t, most, NULL, x), cnn__avg_pool(&cpu, &t, mean, x, share);
    bool right = true;
    for (int i = 0; i < 4 * t.planes; i++) right = right && most[i] == x[i / 4] && mean[i] == x[i / 4];
    CHECK_MSG(right, "a window over one element is not that element");
    cnn__avg_pool_back(&cpu, &t, dx, mean, share, true);
    for (int i = 0; i < t.planes; i++) right = right && dx[i] == 4 * x[i];
    CHECK_MSG(right, "its gradient is not the sum over the four windows");
    drop(x), drop(most), drop(mean), drop(dx);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
#ifdef IN_TEST_KERNELS
    all_of_the_threads();
#endif
    RUN(references);
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        if (!cnn__has_isa(isas[i].isa)) {
            if (test_begin("%s", isas[i].name)) test_skip("this machine lacks it");
            continue;
        }
        if (test_begin("%s gemm", isas[i].name)) gemm(isas[i].isa);
        if (test_begin("%s pooling", isas[i].name)) pooling(isas[i].isa);
        if (test_begin("%s pooling with vast windows", isas[i].name)) vast_windows(isas[i].isa);
        if (test_begin("%s names of the algorithms", isas[i].name)) names(isas[i].isa);
        if (test_begin("%s NaN stays in its place", isas[i].name)) nan_stays(isas[i].isa);
        for (int pass = FORWARD; pass <= BACKWARD_WEIGHTS; pass++)
            if (test_begin("%s convolution %s", isas[i].name, passes[pass])) conv(isas[i].isa, pass);
    }
    return test_end();
}
