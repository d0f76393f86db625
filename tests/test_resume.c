/* cnn_fit beyond the plain loop: augmentation, accumulation, averages, and checkpoints. A training that is
   killed at any moment and resumed must end in the same bits as one without a break.

       cc -std=c99 -O2 -I. -o build/test_resume tests/test_resume.c -lm && build/test_resume */

#define _POSIX_C_SOURCE 200809L                 /* for the test that kills */
#include "cnn.h"
#include "alloc.h"
#include "inside.h"
#include "test.h"

#ifdef __unix__
#include <errno.h>
#include <signal.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#endif

/* ---- Data and nets ---- */

enum { CLASSES = 3, SIDE = 6, PIXELS = SIDE * SIDE, SAMPLES = 75, BATCH = 8, EPOCHS = 4 };
static unsigned char pixels[SAMPLES * PIXELS], labels[SAMPLES];

static cnn_dataset new_data(void)
{
    for (int i = 0; i < SAMPLES; i++) {
        labels[i] = (unsigned char)(i % CLASSES);
        for (int k = 0; k < PIXELS; k++)
            pixels[i * PIXELS + k] =
                (unsigned char)((i * 37 + k * k * 11) % 90 + (k / 12 == labels[i] ? 120 : 0));
    }
    return cnn_bytes(pixels, labels, SAMPLES, 1, SIDE, SIDE);
}

typedef struct { cnn_graph *g; cnn_tensor *x, *t, *logits, *loss; } net;
static net new_net(const cnn_optimizer *o, int batch, int threads, bool noisy)
{
    net n;
    n.g = cnn_new(.max_batch = batch, .seed = 5, .threads = threads, .optimizer = o);
    n.x = cnn_input(n.g, 1, SIDE, SIDE), n.t = cnn_labels(n.g);
    cnn_tensor *h = cnn_conv2d(n.x, 4, 3, .pad = 1);
    if (noisy) h = cnn_dropout(cnn_batch_norm(h), 0.25f);
    n.logits = cnn_dense(cnn_max_pool(cnn_tanh(h), 2), CLASSES);
    n.loss = cnn_softmax_cross_entropy(n.logits, n.t);
    CHECK_STR(cnn_compile(n.g, n.loss) ? NULL : cnn_error(n.g), NULL);
    return n;
}

/* Everything that training changes, as one array: weights and running statistics, averages, optimizer. */
typedef struct { float *p; size_t n; } state;
static state state_of(cnn_graph *g)
{
    size_t floats = cnn__trained_floats(g), slots = g->arena_bytes[CNN_ARENA_OPTIMIZER] / sizeof(float);
    state s = { test_floats(2 * floats + slots + 2), 2 * floats + slots + 2 };
    memset(s.p, 0, s.n * sizeof *s.p);
    cnn__copy_trained(g, s.p, CNN__SAVE, 0);
    if (g->average) memcpy(s.p + floats, g->average, floats * sizeof(float));
    if (slots) memcpy(s.p + 2 * floats, g->arena[CNN_ARENA_OPTIMIZER], slots * sizeof(float));
    s.p[s.n - 2] = (float)g->step, s.p[s.n - 1] = (float)g->draw;
    return s;
}
static bool same_state(state a, state b) { return a.n == b.n && memcmp(a.p, b.p, a.n * sizeof *a.p) == 0; }

/* ---- Accumulation, augmentation, averages, mirrors ---- */

/* Four batches of 4 are one of 16, also where the last ones are smaller: 75 = 4 * 16 + 4 + 4 + 3. */
static void accumulation(void)
{
    cnn_dataset d = new_data();
    net a = new_net(NULL, 4, 1, false), b = new_net(NULL, 16, 1, false);
    size_t n;
    CHECK(cnn_fit(a.loss, a.logits, &d, .epochs = 3, .lr = 0.05f, .momentum = 0.9f, .accumulate = 4,
        .lr_end = 0.01f));
    CHECK(cnn_fit(b.loss, b.logits, &d, .epochs = 3, .lr = 0.05f, .momentum = 0.9f, .lr_end = 0.01f));
    CHECK_INT(a.g->step, 15), CHECK_INT(b.g->step, 15);
    const float *p = cnn_flat_params(a.g, &n), *q = cnn_flat_params(b.g, &n);
    CHECK_ALL_NEAR(p, q, n, 2e-6);
    cnn_free(a.g), cnn_free(b.g), cnn_dataset_free(&d);
}

/* What is fed is what cnn_feed_augmented feeds; the validation set stays as it is; threads do not matter; two
   calls of one epoch are one call of two. */
static void augmented_training(void)
{
    cnn_dataset d = new_data(), v = new_data();
    const cnn_augment how = { .shift = 1, .flip = CNN_FLIP_ALTERNATE, .cutout = 2 };
    cnn_history h = { 0 };
    net a = new_net(NULL, BATCH, 1, true), b = new_net(NULL, BATCH, 3, true);
    net c = new_net(NULL, BATCH, 1, true);
    net plain = new_net(NULL, BATCH, 1, true);
    CHECK(cnn_fit(a.loss, a.logits, &d, .epochs = 2, .lr = 0.05f, .augment = how, .validation = &v,
        .history = &h));
    cnn_score s = cnn_evaluate(a.loss, a.logits, &v);
    CHECK(h.count == 2 && h.epoch[1].validation_loss == s.loss);
    for (int i = 0; i < 2; i++) CHECK(cnn_fit(b.loss, b.logits, &d, .lr = 0.05f, .augment = how));
    for (int epoch = 0; epoch < 2; epoch++) {
        cnn_shuffle(&d, 5 + (uint64_t)c.g->step);
        for (int i = 0, n; (n = cnn_feed_augmented(c.x, c.t, &d, i, how, epoch)) > 0; i += n)
            cnn_forward(c.loss, CNN_TRAIN), cnn_backward(c.loss), cnn_step(c.g, .lr = 0.05f);
    }
    CHECK(cnn_fit(plain.loss, plain.logits, &d, .epochs = 2, .lr = 0.05f));
    state p = state_of(a.g), q = state_of(b.g), r = state_of(c.g), o = state_of(plain.g);
    CHECK(same_state(p, q)), CHECK(same_state(p, r)), CHECK(!same_state(p, o));
    free(p.p), free(q.p), free(r.p), free(o.p), cnn_history_free(&h);
    cnn_free(a.g), cnn_free(b.g), cnn_free(c.g), cnn_free(plain.g), cnn_dataset_free(&d),
        cnn_dataset_free(&v);
}

static void averages(void)
{
    cnn_dataset d = new_data(), v = new_data();
    cnn_history h = { 0 };
    net a = new_net(NULL, BATCH, 1, true), b = new_net(NULL, BATCH, 1, true);
    CHECK(cnn_fit(a.loss, a.logits, &d, .lr = 0.1f, .average = 0.9f, .validation = &v, .history = &h));
    cnn_shuffle(&d, 5);
    for (int i = 0, n; (n = cnn_feed(b.x, b.t, &d, i)) > 0; i += n) {
        cnn_forward(b.loss, CNN_TRAIN), cnn_backward(b.loss), cnn_step(b.g, .lr = 0.1f);
        cnn_average(b.g, 0.9f);
    }
    state p = state_of(a.g), q = state_of(b.g);
    CHECK(same_state(p, q));
    CHECK(cnn_evaluate(a.loss, a.logits, &v).loss != h.epoch[0].validation_loss);
    CHECK(cnn_swap_average(a.g) && cnn_evaluate(a.loss, a.logits, &v).loss == h.epoch[0].validation_loss);
    free(p.p), free(q.p), cnn_history_free(&h), cnn_free(a.g), cnn_free(b.g), cnn_dataset_free(&d),
        cnn_dataset_free(&v);
}

static void mirrored_evaluation(void)
{
    cnn_dataset d = new_data();
    net n = new_net(NULL, BATCH, 1, true);
    CHECK(cnn_fit(n.loss, n.logits, &d, .lr = 0.02f));
    double loss = 0, right = 0, same = 0;
    for (int i = 0; i < SAMPLES; i++) {
        float z[2][CLASSES], in[PIXELS];
        for (int m = 0; m < 2; m++) {
            for (int k = 0; k < PIXELS; k++)
                in[k] = (float)pixels[i * PIXELS + (m ? k / SIDE * SIDE + SIDE - 1 - k % SIDE : k)] / 255.0f;
            int label = labels[i];
            cnn_set(n.x, in, PIXELS), cnn_set_labels(n.t, &label, 1);
            loss += (double)cnn_forward(n.loss, CNN_EVAL) / 2;
            cnn_get(n.logits, z[m], CLASSES);
        }
        int best = 0;
        for (int c = 1; c < CLASSES; c++) if (z[0][c] + z[1][c] > z[0][best] + z[1][best]) best = c;
        right += best == labels[i], same += z[0][0] == z[1][0];
    }
    CHECK(same < SAMPLES);
    cnn_score s = cnn_evaluate_flipped(n.loss, n.logits, &d);
    CHECK_INT(s.count, SAMPLES);
    CHECK_NEAR(s.loss, loss / SAMPLES, 1e-6);
    CHECK_NEAR(s.accuracy, right / SAMPLES, 0);
    cnn_history h = { 0 };
    CHECK(cnn_fit(n.loss, n.logits, &d, .lr = 1e-30f, .validation = &d, .flips = 1, .history = &h));
    CHECK_NEAR(h.epoch[0].validation_loss, cnn_evaluate_flipped(n.loss, n.logits, &d).loss, 0);
    cnn_history_free(&h);
    alloc_left = 0;
    s = cnn_evaluate_flipped(n.loss, n.logits, &d);
    alloc_left = -1;
    CHECK(isnan(s.loss) && cnn_error(n.g) && strstr(cnn_error(n.g), "out of memory"));
    cnn_free(n.g), cnn_dataset_free(&d);
}

/* Decay that is scaled is that of a call with the scaled decay; for AdamW, 0 is none and not its default. */
static void decay_by_name(void)
{
    const cnn_optimizer *const all[] = { cnn_sgd(), cnn_adamw() };
    cnn_dataset d = new_data();
    for (int k = 0; k < 2; k++)
        for (int zero = 0; zero < 2; zero++) {
            net a = new_net(all[k], BATCH, 1, false), b = new_net(all[k], BATCH, 1, false);
            CHECK(cnn_set_decay_scale(a.g, "*", zero ? 0 : 0.5f));
            CHECK(cnn_fit(a.loss, a.logits, &d, .lr = 0.01f, .weight_decay = 0.25f));
            CHECK(cnn_fit(b.loss, b.logits, &d, .lr = 0.01f, .weight_decay = zero ? 1e-35f : 0.125f));
            state p = state_of(a.g), q = state_of(b.g);
            CHECK(same_state(p, q));
            free(p.p), free(q.p), cnn_free(a.g), cnn_free(b.g);
        }
    net n = new_net(NULL, BATCH, 1, false);
    CHECK(!cnn_set_decay_scale(n.g, "nobody", 1));
    CHECK(strstr(cnn_error(n.g), "decay_scale: no parameter that is trained has a name like \"nobody\""));
    cnn_free(n.g), cnn_dataset_free(&d);
}

/* ---- Checkpoints ---- */

static const char path[] = "test_resume.checkpoint";

static bool stop_at(const cnn_progress *p, void *user)                 /* after so many calls */
{
    (void)p;
    return --*(int *)user != 0;
}

static cnn_fit_args training(net n, cnn_dataset *d, cnn_dataset *v, cnn_history *h)
{
    cnn_fit_args a = { .at = "here.c:3", .loss = n.loss, .logits = n.logits, .train = d, .epochs = EPOCHS,
        .lr = 0.02f,
        .schedule = cnn_one_cycle, .augment = { .shift = 1, .flip = 1 }, .accumulate = 3, .average = 0.8f,
            .clip = 1,
        .validation = v, .patience = 3, .history = h, .checkpoint = path, .checkpoint_every = 1,
            .resume = 1 };
    return a;
}

/* Stopped after k calls of progress, again and again, each time going on in a new graph. */
static void resumed_to_the_bit(void)
{
    const cnn_optimizer *const all[] = { cnn_sgd(), cnn_adam(), cnn_adamw(), cnn_rmsprop(),
                                         cnn_rmsprop_centered(), cnn_adagrad() };
    cnn_dataset d = new_data(), v = new_data();
    for (int o = 0; o < 6; o++) {
        cnn_history h = { 0 };
        net n = new_net(all[o], BATCH, 1, true);
        cnn_fit_args a = training(n, &d, &v, &h);
        a.checkpoint = NULL, a.checkpoint_every = a.resume = 0;
        CHECK(cnn_fit_(a));
        state want = state_of(n.g);
        for (int k = 1; k <= 6; k++) {
            remove(path);
            cnn_history again = { 0 };
            int  rounds = 0, calls;
            bool over = false;
            while (!over && rounds++ < 100) {
                net m = new_net(all[o], BATCH, 1 + rounds % 2, true);
                cnn_history_free(&again);
                a = training(m, &d, &v, &again);
                calls = k, a.progress = stop_at, a.user = &calls;
                CHECK(cnn_fit_(a));
                CHECK_STR(cnn_error(m.g), NULL);
                over = calls > 0;
                state got = state_of(m.g);
                if (over) CHECK(same_state(got, want));
                free(got.p), cnn_free(m.g);
            }
            CHECK(over && rounds > (k < 6 ? 3 : 1));
            CHECK_INT(again.count, h.count);
            for (int i = 0; i < h.count && i < again.count; i++)
                CHECK(memcmp(&h.epoch[i], &again.epoch[i], offsetof(cnn_epoch, seconds)) == 0);
            cnn_history_free(&again);
        }
        free(want.p), cnn_history_free(&h), cnn_free(n.g);
    }
    remove(path), cnn_dataset_free(&d), cnn_dataset_free(&v);
    CHECK_INT(alloc_live, 0);
}

/* Without .resume a training begins anew and replaces the file; a finished one that is resumed has nothing
   to do. */
static void begin_anew(void)
{
    cnn_dataset d = new_data(), v = new_data();
    state s[3];
    remove(path);
    for (int run = 0; run < 3; run++) {
        net n = new_net(NULL, BATCH, 1, true);
        cnn_fit_args a = training(n, &d, &v, NULL);
        a.resume = run != 1;
        CHECK(cnn_fit_(a));
        if (run == 2) CHECK_INT(n.g->draw, 40);
        s[run] = state_of(n.g), cnn_free(n.g);
    }
    CHECK(same_state(s[0], s[1])), CHECK(same_state(s[0], s[2]));
    for (int run = 0; run < 3; run++) free(s[run].p);
    remove(path), cnn_dataset_free(&d), cnn_dataset_free(&v);
}

/* A checkpoint that cannot be written stops nothing, but is told. */
static void no_place_for_it(void)
{
    cnn_dataset d = new_data();
    net n = new_net(NULL, BATCH, 1, true);
    CHECK(cnn_fit(n.loss, n.logits, &d, .lr = 0.1f, .checkpoint = "no/such/directory/x"));
    CHECK_INT(n.g->step, 10);
    CHECK(cnn_error(n.g) && strstr(cnn_error(n.g),
        "fit, checkpoint \"no/such/directory/x\": No such file or directory"));
    CHECK(cnn_fit(n.loss, n.logits, &d, .lr = 0.1f));
    cnn_free(n.g), cnn_dataset_free(&d);
}

typedef struct { unsigned char *p; size_t n; } bytes;
static bytes read_whole(void)
{
    bytes b = { NULL, 0 };
    char  why[128];
    unsigned char *p = cnn__read_file(path, &b.n, why, sizeof why);
    if (p) b.p = test_alloc(b.n), memcpy(b.p, p, b.n);
    CNN_FREE(p);
    return b;
}
static void write_whole(bytes b)
{
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(b.p, 1, b.n, f) == b.n);
    if (f) fclose(f);
}
/* Resume from the file with some options changed: fails with this message. */
typedef struct { const cnn_optimizer *o; int batch; uint64_t seed; int epochs, accumulate, noisy,
    no_patience; } change;
static void resume_says(const char *message, change c)
{
    cnn_dataset d = new_data(), v = new_data();
    net n = new_net(c.o, c.batch ? c.batch : BATCH, 1, c.noisy >= 0);
    if (c.seed) n.g->config.seed = c.seed;
    cnn_fit_args a = training(n, &d, &v, NULL);
    if (c.epochs) a.epochs = c.epochs;
    if (c.accumulate) a.accumulate = c.accumulate;
    if (c.no_patience) a.patience = 0;
    char want[300];
    snprintf(want, sizeof want, "here.c:3: fit, resume \"%s\": %s", path, message);
    state before = state_of(n.g);
    CHECK(!cnn_fit_(a));
    CHECK_STR(cnn_error(n.g), want);
    n.g->error[0] = 0;
    state after = state_of(n.g);
    CHECK(same_state(before, after));                                    /* nothing was taken */
    free(before.p), free(after.p), cnn_free(n.g), cnn_dataset_free(&d), cnn_dataset_free(&v);
}
/* A training that is over is extended by more epochs: without a schedule it is the longer one, to the bit. */
static void extended(void)
{
    cnn_dataset d = new_data(), v = new_data();
    state s[2];
    remove(path);
    for (int way = 0; way < 2; way++) {
        cnn_history h = { 0 };
        for (int part = way ? 2 : 5; part <= 5; part += 3) {
            net n = new_net(cnn_adam(), BATCH, 1, true);
            cnn_fit_args a = training(n, &d, &v, &h);
            a.epochs = part, a.schedule = NULL, a.patience = 0, h.count = 0;
            if (!way) a.checkpoint = NULL, a.checkpoint_every = a.resume = 0;
            CHECK(cnn_fit_(a));
            CHECK_STR(cnn_error(n.g), NULL);
            CHECK_INT(h.count, part);
            if (part == 5) s[way] = state_of(n.g);
            cnn_free(n.g);
        }
        cnn_history_free(&h);
    }
    CHECK(same_state(s[0], s[1]));
    resume_says("it has 5 epochs already, and 4 are asked for", (change){ .o = cnn_adam() });

    /* With patience: it goes on from the best weights, and ends with them if nothing better comes. */
    remove(path);
    for (int part = 0; part < 2; part++) {
        net n = new_net(NULL, BATCH, 1, true);
        cnn_fit_args a = training(n, &d, &v, NULL);
        a.epochs = part ? 8 : 3, a.schedule = NULL, a.lr = part ? 100 : 0.02f, a.clip = a.average = 0;
        a.patience = 2;
        CHECK(cnn_fit_(a));
        free(s[part].p), s[part] = state_of(n.g);
        if (part) CHECK(cnn_find(n.g, "conv2d1.weight") && n.g->step == 3 * 4 + 2 * 4);
        CHECK(memcmp(s[0].p, s[part].p, cnn__trained_floats(n.g) * sizeof(float)) == 0);
        cnn_free(n.g);
    }
    free(s[0].p), free(s[1].p), remove(path), cnn_dataset_free(&d), cnn_dataset_free(&v);
}

/* The number behind key in the metadata becomes another one with as many digits. */
static void lie_about(bytes b, const char *key, const char *value)
{
    char  *at = NULL;
    size_t n = strlen(key);
    for (size_t i = 8; i + n < b.n && !at; i++)
        if (memcmp(b.p + i, key, n) == 0) at = (char *)b.p + i + n + 3;
    if (CHECK_MSG(at && at[strlen(value)] == '"', "%s", key)) memcpy(at, value, strlen(value));
}

static void hostile_checkpoints(void)
{
    cnn_dataset d = new_data(), v = new_data();
    cnn_history h = { 0 };
    int calls = 7;
    net n = new_net(NULL, BATCH, 1, true);
    cnn_fit_args a = training(n, &d, &v, &h);
    remove(path), a.progress = stop_at, a.user = &calls;
    CHECK(cnn_fit_(a));
    bytes b = read_whole();
    CHECK(b.n > 300);
    for (size_t k = 0; k < b.n; k += 1 + k / 200) {
        write_whole((bytes){ b.p, k });
        net m = new_net(NULL, BATCH, 1, true);
        cnn_fit_args c = training(m, &d, &v, NULL);
        CHECK(!cnn_fit_(c) && cnn_error(m.g));
        cnn_free(m.g);
    }
    write_whole(b);
    cnn_graph *g = cnn_load(path, .inference = 1);                       /* it is a model, too */
    CHECK_STR(cnn_error(g), NULL);
    CHECK(isfinite(cnn_map_read(cnn_find(g, "conv2d1.weight"))[0]) && g->draw > 7);
    cnn_free(g), cnn_free(n.g);

    resume_says("it is of a training with another optimizer", (change){ .o = cnn_adam() });
    resume_says("it is of a training with another net", (change){ .noisy = -1 });
    resume_says("it is of a training with seed 5, not 6", (change){ .seed = 6 });
    resume_says("it is of a training with max_batch 8, not 4", (change){ .batch = 4 });
    resume_says("it is of a training with accumulate 3, not 2", (change){ .accumulate = 2 });
    resume_says("it is of a training with .patience", (change){ .no_patience = 1 });
    static const struct { const char *key, *value; } lies[] = { { "cnn.epochs_done", "9" },
        { "cnn.samples_fed", "99" }, { "cnn.best_epoch", "9" }, { "cnn.epoch_step", "9" }, { "cnn.epochs_done", "0" } };
    for (size_t k = 0; k < sizeof lies / sizeof *lies; k++) {
        bytes bad = { test_alloc(b.n), b.n };
        memcpy(bad.p, b.p, b.n);
        lie_about(bad, lies[k].key, lies[k].value), write_whole(bad), free(bad.p);
        resume_says("its numbers contradict each other", (change){ 0 });
    }
    for (size_t i = 8; i + 9 < b.n; i++) if (memcmp(b.p + i, "cnn.best.c", 10) == 0) b.p[i + 9] = 'x';
    write_whole(b);
    net m = new_net(NULL, BATCH, 1, true);
    a = training(m, &d, &v, NULL);
    CHECK(!cnn_fit_(a));
    CHECK(strstr(cnn_error(m.g), "there is no tensor \"cnn.best.conv2d1"));
    cnn_free(m.g), m = new_net(NULL, BATCH, 1, true);
    CHECK(cnn_save_checkpoint(m.g, path));
    resume_says("it is not a checkpoint of cnn_fit", (change){ 0 });
    cnn_free(m.g), free(b.p), remove(path);
    cnn_history_free(&h), cnn_dataset_free(&d), cnn_dataset_free(&v);
    CHECK_INT(alloc_live, 0);
}

static void allocations_fail(void)
{
    cnn_dataset d = new_data(), v = new_data();
    int calls = 7;
    net n = new_net(NULL, BATCH, 1, true);
    cnn_history h = { 0 };
    cnn_fit_args a = training(n, &d, &v, &h);
    remove(path), a.progress = stop_at, a.user = &calls;
    CHECK(cnn_fit_(a));
    cnn_history_free(&h), cnn_free(n.g);
    bytes b = read_whole();
    for (long k = 0, done = 0; !done; k++) {
        write_whole(b);
        net m = new_net(NULL, BATCH, 1, true);
        long before = alloc_live;
        a = training(m, &d, &v, &h), calls = 3, a.progress = stop_at, a.user = &calls;
        alloc_left = k;
        bool good = cnn_fit_(a);
        done = alloc_left > 0, alloc_left = -1;
        if (!good) CHECK_MSG(cnn_error(m.g) && strstr(cnn_error(m.g), "out of memory"), "allocation %ld", k);
        else CHECK(done || k > 4);                       /* one for a checkpoint stops nothing */
        cnn_history_free(&h);
        CHECK(alloc_live <= before + 1);                                  /* the averages are the graph's */
        cnn_free(m.g);
    }
    free(b.p), remove(path), cnn_dataset_free(&d), cnn_dataset_free(&v);
    CHECK_INT(alloc_live, 0);
}

/* A child trains and is killed at some moment, again and again, until one comes to the end. */
static void killed_at_any_moment(void)
{
#ifdef __unix__
    static const char result[] = "test_resume.result";
    cnn_dataset d = new_data(), v = new_data();
    net n = new_net(cnn_adam(), BATCH, 1, true);
    cnn_fit_args a = training(n, &d, &v, NULL);
    a.checkpoint = NULL, a.checkpoint_every = a.resume = 0, a.epochs = 60, a.patience = 60;
    double start = cnn__seconds();
    CHECK(cnn_fit_(a));
    double whole = cnn__seconds() - start;
    state want = state_of(n.g), got = { test_floats(want.n), want.n };
    int   killed = 0, rounds = 0, ended = 0;
    bool  rest = false;
    remove(path), remove(result), fflush(stdout);
    while (!ended && rounds++ < 400) {
        pid_t child = fork();
        if (child == 0) {
            net m = new_net(cnn_adam(), BATCH, 1, true);
            a = training(m, &d, &v, NULL), a.epochs = 60, a.patience = 60,
                a.checkpoint_every = 1 + rounds % 7;
            bool  good = cnn_fit_(a);
            state s = state_of(m.g);
            FILE *f = good ? fopen(result, "wb") : NULL;
            good = f && fwrite(s.p, sizeof *s.p, s.n, f) == s.n && fclose(f) == 0;
            _exit(good ? 0 : 1);
        }
        int status = 0;
        if (child < 0) break;
        /* later ones live longer, so that the end comes however slow the disk is */
        double wait = test_uniform(0, 0.4 * whole * (1 + rounds / 4.0)) + 0.003;
        struct timespec t = { (time_t)wait, (long)((wait - (double)(time_t)wait) * 1e9) };
        nanosleep(&t, NULL);
        kill(child, SIGKILL);
        while (waitpid(child, &status, 0) < 0 && errno == EINTR) { }
        if (WIFSIGNALED(status)) killed++, rest = rest || access(path, R_OK) == 0;
        else ended = CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0) ? 1 : -1;
    }
    CHECK_INT(ended, 1);
    CHECK_MSG(killed >= 3 && rest, "killed %d times only", killed);
    FILE *f = fopen(result, "rb");
    CHECK(f && fread(got.p, sizeof *got.p, got.n, f) == got.n);
    if (f) fclose(f);
    CHECK(same_state(got, want));
    free(want.p), free(got.p), cnn_free(n.g), cnn_dataset_free(&d), cnn_dataset_free(&v);
    remove(path), remove(result);
    if (system("rm -f cnn-save-*.tmp") != 0) { }
#else
    test_skip("no fork here");
#endif
}

/* ---- The optimizer of a model file goes on without being named; the program's own must be ---- */

static void own_update(float *w, const float *dw, float *const *slot, size_t n, const cnn_step_args *a,
    long step)
{
    (void)slot, (void)step;
    for (size_t i = 0; i < n; i++) w[i] -= a->lr * dw[i];
}
static void optimizer_from_the_file(void)
{
    static const cnn_optimizer own = { "own", 0, own_update, NULL, NULL };
    const cnn_optimizer *const all[] = { cnn_sgd(), cnn_adam(), cnn_adamw(), cnn_rmsprop(),
                                         cnn_rmsprop_centered(), cnn_adagrad(), &own };
    cnn_dataset d = new_data();
    for (int o = 0; o < 7; o++) {
        net n = new_net(all[o], BATCH, 1, true);
        CHECK(cnn_fit(n.loss, n.logits, &d, .lr = 0.01f));
        size_t size = cnn_save_checkpoint_memory(n.g, NULL, 0);
        char  *file = test_alloc(size);
        CHECK(cnn_save_checkpoint_memory(n.g, file, size) == size);
        cnn_graph *g = cnn_load_memory(file, size, (cnn_load_args){ .path = "m", .max_batch = BATCH });
        if (all[o] == &own)
            CHECK(cnn_error(g) && strstr(cnn_error(g),
                  "it was trained by the optimizer \"own\": hand it to cnn_load in .optimizer"));
        else {
            CHECK_STR(cnn_error(g), NULL);
            CHECK(cnn_fit(n.loss, n.logits, &d, .lr = 0.01f) && cnn_fit(cnn_loss(g), cnn_output(g), &d,
                .lr = 0.01f));
            state p = state_of(n.g), q = state_of(g);
            CHECK(same_state(p, q));
            free(p.p), free(q.p);
        }
        cnn_free(g), cnn_free(n.g), free(file);
    }
    cnn_dataset_free(&d);
}

static void new_errors(void)
{
    static const struct { cnn_fit_args a; const char *message; } bad[] = {
        { { .accumulate = -1 }, "h: fit: accumulate is -1: it must be in [1,2147483647]" },
        { { .checkpoint_every = -1 }, "h: fit: checkpoint_every is -1: it must be in [0,2147483647]" },
        { { .average = 1 }, "h: fit: average is 1: it must be in [0,1)" },
        { { .resume = 1 }, "h: fit: resume needs .checkpoint = \"path\"" },
        { { .checkpoint_every = 1 }, "h: fit: checkpoint_every needs .checkpoint = \"path\"" },
        { { .augment = { .shift = 7 } }, "h: fit: augment.shift is 7: samples of 6x6 pixels allow 0 to 6" } };
    cnn_dataset d = new_data();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        net n = new_net(NULL, BATCH, 1, false);
        cnn_fit_args a = bad[i].a;
        a.at = "h", a.loss = n.loss, a.logits = n.logits, a.train = &d, a.lr = 1;
        CHECK(!cnn_fit_(a));
        CHECK_STR(cnn_error(n.g), bad[i].message);
        cnn_free(n.g);
    }
    cnn_dataset_free(&d);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(accumulation);
    RUN(augmented_training);
    RUN(averages);
    RUN(mirrored_evaluation);
    RUN(decay_by_name);
    RUN(resumed_to_the_bit);
    RUN(begin_anew);
    RUN(extended);
    RUN(no_place_for_it);
    RUN(hostile_checkpoints);
    RUN(allocations_fail);
    RUN(killed_at_any_moment);
    RUN(optimizer_from_the_file);
    RUN(new_errors);
    return test_end();
}
