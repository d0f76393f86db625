/* Transfer learning: what is frozen, by name, below a tensor, by options, keeps its values, needs no backward and
   says so; weights of a file under other names, or a part of them; a refusal leaves the net as it was. */
#include "cnn.h"
#include "alloc.h"
#include "test.h"

static const char *no_null(const char *s) { return s ? s : "(no error)"; }

/* A body of two blocks and a head, with PyTorch's kind of names. */
typedef struct { cnn_graph *g; cnn_tensor *x, *t, *body, *logits, *loss; } net;
enum { BATCH = 4, PIXELS = 2 * 6 * 6 };
static net record(int classes, cnn_config c)
{
    net n = { .g = cnn_new_(c) };
    cnn_tensor *h = n.x = cnn_input(n.g, 2, 6, 6);
    h = cnn_conv2d(h, 4, 3, .no_bias = 1, .name = "features.0.0");
    h = cnn_relu(cnn_batch_norm(h, .name = "features.0.1"));
    h = cnn_conv2d(h, 5, 3, .no_bias = 1, .name = "features.1.0");
    n.body = cnn_relu(cnn_batch_norm(h, .name = "features.1.1"));
    n.logits = cnn_dense(n.body, classes, .name = "classifier");
    n.loss = cnn_softmax_cross_entropy(n.logits, n.t = cnn_labels(n.g));
    return n;
}
static net made(int classes, uint64_t seed)
{
    net n = record(classes, (cnn_config){ .max_batch = BATCH, .seed = seed, .threads = 1 });
    CHECK_MSG(cnn_compile(n.g, n.loss), "%s", no_null(cnn_error(n.g)));
    return n;
}
static void feed(const net *n)
{
    float x[BATCH * PIXELS];
    const int t[BATCH] = { 0, 1, 1, 0 };
    test_fill(x, BATCH * PIXELS, -1, 1);
    CHECK(cnn_set(n->x, x, BATCH * PIXELS) && cnn_set_labels(n->t, t, BATCH));
}
static void train(const net *n, int steps)
{
    for (int i = 0; i < steps; i++) {
        feed(n);
        cnn_forward(n->loss, CNN_TRAIN), cnn_backward(n->loss);
        CHECK_MSG(cnn_step(n->g, .lr = 0.1f, .momentum = 0.9f), "%s", no_null(cnn_error(n->g)));
    }
}

/* All parameters and statistics as one list of floats, by name; -1 for none of that name. */
static double at_of(const net *n, const char *name)
{
    const float *v = cnn_map_read(cnn_find(n->g, name));
    return v ? (double)v[0] : -1e9;
}
static const char *const body_names[] = { "features.0.0.weight", "features.0.1.weight", "features.0.1.bias",
    "features.0.1.running_mean", "features.0.1.running_var", "features.1.0.weight", "features.1.1.weight",
    "features.1.1.bias", "features.1.1.running_mean", "features.1.1.running_var" };
enum { BODY = sizeof body_names / sizeof *body_names };

/* ---- Freezing ---- */

/* How often a convolution's backward runs, by a row that only counts. */
static int backwards;
static bool count_back(cnn_backend *none, cnn_tensor *y) { return (void)none, backwards++, cnn_op_conv2d.backward(y), true; }

/* By name, below a tensor, or each layer by an option: the same net, to the same bits. */
static void three_ways(void)
{
    double head[3] = { 0 }, loss[3] = { 0 };
    size_t memory[4] = { 0 };
    for (int way = 0; way < 4; way++) {
        const cnn_kernel rows[] = { { .op = &cnn_op_conv2d, .backward = count_back }, { NULL } };
        net n = record(3, (cnn_config){ .max_batch = BATCH, .seed = 5, .threads = 1, .rows = way == 1 ? rows : NULL });
        if (way == 0) CHECK(cnn_freeze_names(n.g, "nothing|features.*") && cnn_freeze_names(n.g, "features.0.0.weight"));
        if (way == 1 || way == 2) CHECK(cnn_freeze(n.body) == n.body);
        CHECK_MSG(cnn_compile(n.g, n.loss), "%s", no_null(cnn_error(n.g)));
        memory[way] = cnn_plan(n.g, n.loss).total;
        double before[BODY];
        for (int i = 0; i < BODY; i++) before[i] = at_of(&n, body_names[i]);
        test__state = 7, backwards = 0;
        train(&n, 5);
        CHECK_INT(backwards, 0);
        for (int i = 0; i < BODY && way < 3; i++)
            CHECK_MSG(at_of(&n, body_names[i]) == before[i], "way %d: %s changed", way, body_names[i]);
        if (way == 3) CHECK(at_of(&n, body_names[0]) != before[0] && at_of(&n, body_names[3]) != before[3]);
        if (way < 3) head[way] = at_of(&n, "classifier.weight"), loss[way] = (double)cnn_forward(n.loss, CNN_EVAL);
        if (way < 3) CHECK(!n.body->needs_grad && cnn_find(n.g, "features.0.0.weight")->frozen && n.logits->needs_grad);
        CHECK_MSG(!cnn_error(n.g), "%s", no_null(cnn_error(n.g)));
        cnn_free(n.g);
    }
    CHECK(head[0] == head[1] && head[1] == head[2] && loss[0] == loss[1] && loss[1] == loss[2]);
    CHECK(memory[0] == memory[2] && memory[0] < memory[3]);            /* no gradients, no values kept for them */
}

/* PyTorch 2.15, float64: BatchNorm2d(3).eval(), y = bn(x), (y^3).mean().backward(), x = linspace(-1, 2, 24). */
static void evaluation_statistics(void)
{
    static const double y_want[24] = { -0.783874636, -0.691644239, -0.599413842, -0.507183445, -0.176942231, -0.0385955977,
        0.0997510353, 0.238097668, 1.25652056, 1.12608594, 0.995651316, 0.865216697, 0.322890128, 0.415120525, 0.507350922,
        0.599581318, 1.48321737, 1.621564, 1.75991063, 1.89825727, -0.308694879, -0.439129499, -0.569564119, -0.699998738 };
    static const double dx_want[24] = { 0.054310512, 0.0422820661, 0.0317573465, 0.0227363534, 0.00415095653, 0.000197497104,
        0.00131922846, 0.0075161506, -0.197355242, -0.158508494, -0.123915038, -0.0935748746, 0.00921510324, 0.0152313741,
        0.0227513714, 0.031775095, 0.291672035, 0.348620865, 0.410644886, 0.477744097, -0.0119115512, -0.0241043095,
        -0.0405503599, -0.0612497026 };
    static const double dw_want[3] = { -0.241824434, 1.84605979, -0.168615333 }, db_want[3] = { 0.325356125, 1.45368857, 0.71117046 };
    static const float values[4][3] = { { 0.5f, 1.5f, -2 }, { 0.1f, -0.2f, 0.3f }, { 0.25f, -0.5f, 1 }, { 0.5f, 2, 4 } };
    for (int way = 0; way < 4; way++) {                                /* the fast kernel and the loop; x read twice, or once */
        cnn_graph  *g = cnn_new(.max_batch = 2, .isa = way & 1 ? CNN_ISA_PLAIN : CNN_ISA_AUTO);
        cnn_tensor *x = cnn_input(g, 3, 2, 2, .grad = 1), *in = way & 2 ? cnn_scale(x, 1) : x;
        cnn_tensor *bn = cnn_batch_norm(in, .eval = 1, .name = "bn"), *loss = cnn_mean(cnn_mul(bn, cnn_mul(bn, bn)));
        if (way & 2) loss = cnn_add(loss, cnn_scale(cnn_sum(in), 0));
        float v[24], got[24];
        for (int i = 0; i < 24; i++) v[i] = (float)(-1 + 3.0 * i / 23);
        CHECK_MSG(cnn_compile(g, loss), "%s", no_null(cnn_error(g)));
        CHECK(!bn->in[1]->frozen && bn->in[3]->frozen && bn->in[4]->frozen && cnn_set(x, v, 24));
        for (int k = 0; k < 4; k++) CHECK(cnn_set(bn->in[k + 1], values[k], 3));
        cnn_forward(loss, CNN_TRAIN);
        CHECK(cnn_get(bn, got, 24));
        for (int i = 0; i < 24; i++) CHECK_NEAR(got[i], y_want[i], 1e-6);
        cnn_backward(loss);
        CHECK(cnn_get_grad(x, got, 24));
        for (int i = 0; i < 24; i++) CHECK_NEAR(got[i], dx_want[i], 1e-6);
        CHECK(cnn_get_grad(bn->in[1], got, 3) && cnn_get_grad(bn->in[2], got + 3, 3));
        for (int i = 0; i < 3; i++) CHECK_NEAR(got[i], dw_want[i], 1e-5), CHECK_NEAR(got[3 + i], db_want[i], 1e-5);
        CHECK(cnn_get(bn->in[3], got, 3) && memcmp(got, values[2], sizeof values[2]) == 0);
        CHECK(cnn_gradient_check(loss, 0).worst < 1e-2);
        cnn_free(g);
    }
}

/* One sample a batch has no variance, and needs none; options freeze weight and bias, too. */
static void one_sample(void)
{
    float v[2] = { 1, 2 }, w[2];
    for (int frozen = 0; frozen < 2; frozen++) {
        cnn_graph  *g = cnn_new(.seed = 1);
        cnn_tensor *x = cnn_input(g, 2), *bn = cnn_batch_norm(x, .frozen = frozen, .name = "bn"), *loss = cnn_mean(cnn_dense(bn, 1));
        CHECK(cnn_compile(g, loss) && cnn_set(x, v, 2));
        CHECK(isfinite(cnn_forward(loss, CNN_TRAIN)) == frozen);
        CHECK(frozen || strstr(no_null(cnn_error(g)), "at least two for a variance"));
        if (frozen) cnn_backward(loss), CHECK(cnn_step(g, .lr = 1) && cnn_get(bn->in[1], w, 2) && w[0] == 1 && w[1] == 1);
        cnn_free(g);
    }
}

static void walking(void)
{
    net n = record(3, (cnn_config){ .max_batch = BATCH });
    static const char *const names[] = { "features.0.0.weight", "features.0.1.weight", "features.0.1.bias", "features.1.0.weight",
                                         "features.1.1.weight", "features.1.1.bias", "classifier.weight", "classifier.bias" };
    size_t count = 0;
    int    i = 0;
    CHECK(!cnn_params(n.g, 0) && !cnn_params(NULL, 0));
    CHECK(cnn_freeze_names(n.g, "*.bias") && cnn_compile(n.g, n.loss));
    for (cnn_tensor *t; (t = cnn_params(n.g, i)) != NULL; i++) {
        CHECK_STR(t->name, names[i]);
        CHECK(t->kind == CNN_PARAM && t->frozen == (strstr(t->name, "bias") != NULL) && t->needs_grad == !t->frozen);
        count += cnn_count(t);
    }
    CHECK(i == 8 && count == cnn_param_count(n.g) && !cnn_params(n.g, -1) && !cnn_params(n.g, 9));
    cnn_graph *view = cnn_share(n.g);
    CHECK_STR(cnn_params(view, 7)->name, "classifier.bias");
    cnn_free(view), cnn_free(n.g);
}

/* The summary, a model file and a resumed training know what is frozen. */
static void said_and_kept(void)
{
    net n = record(3, (cnn_config){ .max_batch = BATCH, .seed = 2, .threads = 1 });
    CHECK(cnn_freeze_names(n.g, "features.0.*|features.1.1.running_mean"));
    CHECK(cnn_compile(n.g, n.loss));
    static char text[8000];
    FILE *f = tmpfile();
    if (f) {
        cnn_summary(n.g, f), rewind(f);
        text[fread(text, 1, sizeof text - 1, f)] = 0, fclose(f);
        CHECK_MSG(strstr(text, "conv2d channels=4 kernel=3, frozen ") && strstr(text, "batch_norm, frozen  ") &&
                  strstr(text, "batch_norm, frozen running_mean running_var ") && strstr(text, "of which"), "%s", text);
    }
    train(&n, 3);
    CHECK(cnn_average(n.g, 0.5f));
    const size_t more = cnn_save_checkpoint_memory(n.g, NULL, 0);
    void        *file = test_alloc(more);
    CHECK(cnn_save_checkpoint_memory(n.g, file, more) == more);
    net m = { .g = cnn_load_memory(file, more, (cnn_load_args){ .max_batch = BATCH, .threads = 1 }) };
    CHECK_MSG(!cnn_error(m.g), "%s", no_null(cnn_error(m.g)));
    m.loss = cnn_loss(m.g), m.x = cnn_find(m.g, n.x->name), m.t = cnn_find(m.g, n.t->name);
    CHECK(cnn_find(m.g, "features.0.0.weight")->frozen && cnn_find(m.g, "features.1.1.running_var")->frozen &&
          !cnn_find(m.g, "features.1.1.weight")->frozen);
    test__state = 3, train(&n, 3), cnn_average(n.g, 0.5f), cnn_swap_average(n.g);
    test__state = 3, train(&m, 3), cnn_average(m.g, 0.5f), cnn_swap_average(m.g);
    for (int i = 0; i < BODY; i++) CHECK(at_of(&n, body_names[i]) == at_of(&m, body_names[i]));
    CHECK(at_of(&n, "classifier.weight") == at_of(&m, "classifier.weight"));
    CHECK(at_of(&n, "features.0.1.running_mean") == 0 && at_of(&n, "features.1.1.running_var") == 1);
    free(file), cnn_free(n.g), cnn_free(m.g);
}

static void refused_freezing(void)
{
    net n = made(3, 1);
    cnn_freeze(n.body);
    CHECK(strstr(no_null(cnn_error(n.g)), "the graph is compiled; cnn_set_lr_scale with 0 can"));
    CHECK(cnn_clear_error(n.g) && !cnn_freeze_names(n.g, "features.*") && strstr(no_null(cnn_error(n.g)), "compiled"));
    cnn_free(n.g);
    n = record(3, (cnn_config){ .max_batch = BATCH });
    CHECK(!cnn_freeze_names(n.g, NULL) && strstr(no_null(cnn_error(n.g)), "no pattern was given"));
    CHECK(!cnn_freeze_names(n.g, "x") && !cnn_freeze_names(NULL, "x"));
    cnn_free(n.g);
    n = record(3, (cnn_config){ .max_batch = BATCH });
    CHECK(cnn_freeze_names(n.g, "layer*") && !cnn_compile(n.g, n.loss));
    CHECK_MSG(strstr(no_null(cnn_error(n.g)), "freeze_names: no parameter has a name like \"layer*\""), "%s", no_null(cnn_error(n.g)));
    cnn_free(n.g);
    n = record(3, (cnn_config){ .max_batch = BATCH });
    cnn_freeze(n.x);
    CHECK(strstr(no_null(cnn_error(n.g)), "it is no parameter, and has none below it"));
    cnn_free(n.g);
}

/* ---- Weights of a file ---- */

typedef struct { void *p; size_t n; } bytes;
static bytes saved(const net *n)
{
    bytes b = { NULL, cnn_save_memory(n->g, NULL, 0) };
    b.p = test_alloc(b.n);
    CHECK(cnn_save_memory(n->g, b.p, b.n) == b.n);
    return b;
}

/* The file of another net whose names are written over: the same length, so that the header stays whole. */
static void replace(bytes b, const char *from, const char *to)
{
    const size_t n = strlen(from);
    for (size_t i = 0; i + n <= b.n; i++)
        if (memcmp((char *)b.p + i, from, n) == 0) memcpy((char *)b.p + i, to, n);
}

static void parts(void)
{
    char report[2000], small[20];
    net  from = made(3, 1), to = made(5, 2);
    train(&from, 2);
    bytes        b = saved(&from);
    const double head = at_of(&to, "classifier.weight"), body = at_of(&to, "features.0.0.weight");
    CHECK(!cnn_load_weights_memory(b.p, b.n, (cnn_load_weights_args){ .g = to.g, .report = report, .report_size = sizeof report }));
    CHECK(strstr(no_null(cnn_error(to.g)), "\"classifier.weight\" has shape [3,20] in the file and (5,20,1,1)") && !report[0]);
    CHECK(at_of(&to, "features.0.0.weight") == body);                  /* nothing was taken */
    CHECK(cnn_clear_error(to.g));
    cnn_load_weights_args a = { .g = to.g, .skip = "classifier.*", .report = report, .report_size = sizeof report };
    CHECK_MSG(cnn_load_weights_memory(b.p, b.n, a), "%s", no_null(cnn_error(to.g)));
    for (int i = 0; i < BODY; i++) CHECK(at_of(&to, body_names[i]) == at_of(&from, body_names[i]));
    CHECK(at_of(&to, "classifier.weight") == head);
    CHECK_STR(report, "skipped 2: classifier.weight, classifier.bias\nmissing 0\nextra 0\nloaded 10: features.0.0.weight, "
                      "features.0.1.weight, features.0.1.bias, features.0.1.running_mean, features.0.1.running_var, "
                      "features.1.0.weight, features.1.1.weight, features.1.1.bias, features.1.1.running_mean, "
                      "features.1.1.running_var\n");
    a.report = small, a.report_size = sizeof small;
    CHECK(cnn_load_weights_memory(b.p, b.n, a));
    CHECK_STR(small, "skipped 2: classifi");
    net third = made(5, 3);
    const double conv1 = at_of(&third, "features.1.0.weight");
    CHECK(cnn_load_weights_memory(b.p, b.n, (cnn_load_weights_args){ .g = third.g, .only = "features.0.*|none" }));
    CHECK(at_of(&third, "features.0.1.running_mean") == at_of(&from, "features.0.1.running_mean"));
    CHECK(at_of(&third, "features.1.0.weight") == conv1);
    CHECK(!cnn_load_weights_memory(b.p, b.n, (cnn_load_weights_args){ .g = third.g, .only = "layer*" }));
    CHECK(strstr(no_null(cnn_error(third.g)), "it has nothing of what is asked for"));
    free(b.p), cnn_free(from.g), cnn_free(to.g), cnn_free(third.g);
}

static void other_names(void)
{
    char report[4000];
    net  from = made(3, 1), to = made(3, 2);
    bytes b = saved(&from);
    replace(b, "features.0.0", "module.x.a.a"), replace(b, "features.0.1", "module.x.a.b");
    replace(b, "features.1.0", "module.x.b.a"), replace(b, "features.1.1", "module.x.b.b");
    cnn_load_weights_args a = { .g = to.g, .report = report, .report_size = sizeof report };
    CHECK(!cnn_load_weights_memory(b.p, b.n, a));
    CHECK_MSG(strstr(no_null(cnn_error(to.g)), "there is no tensor \"features.0.0.weight\"; the file has 14: "), "%s", no_null(cnn_error(to.g)));
    static const char *const odd[] = { "x", NULL };
    CHECK(cnn_clear_error(to.g));
    a.prefix = "module.", a.renames = odd;
    CHECK(!cnn_load_weights_memory(b.p, b.n, a) && strstr(no_null(cnn_error(to.g)), ".renames: \"x\" has no other name"));
    CHECK(cnn_clear_error(to.g));
    static const char *const stars[] = { "x.a.*", "features.*.*", NULL }, *const same[] = { "x.*", "one", NULL };
    a.renames = stars;
    CHECK(!cnn_load_weights_memory(b.p, b.n, a) && strstr(no_null(cnn_error(to.g)), "has more stars than \"x.a.*\""));
    CHECK(cnn_clear_error(to.g));
    a.renames = same;
    CHECK(!cnn_load_weights_memory(b.p, b.n, a) && strstr(no_null(cnn_error(to.g)), "\"one\" is there twice, by .renames"));
    CHECK(cnn_clear_error(to.g));
    static const char *const letters[] = { "x.a.a.*", "features.0.0.*", "x.a.b.*", "features.0.1.*", "x.b.a.*", "features.1.0.*",
                                           "x.b.b.*", "features.1.1.*", NULL };
    a.renames = letters, a.missing_ok = 1;             /* the head has no prefix: it does not count, and is missing */
    CHECK_MSG(cnn_load_weights_memory(b.p, b.n, a), "%s", no_null(cnn_error(to.g)));
    for (int i = 0; i < BODY; i++) CHECK(at_of(&to, body_names[i]) == at_of(&from, body_names[i]));
    CHECK(strstr(report, "skipped 0\nmissing 2: classifier.weight, classifier.bias\nextra 0\nloaded 10: "));
    a.missing_ok = 0;
    CHECK(!cnn_load_weights_memory(b.p, b.n, a));
    cnn_clear_error(to.g);
    replace(b, "\"classifier.", "\"xlassifier.");
    a = (cnn_load_weights_args){ .g = to.g, .prefix = "module.", .renames = letters, .only = "features.*" };
    CHECK(cnn_load_weights_memory(b.p, b.n, a));
    free(b.p), cnn_free(from.g), cnn_free(to.g);
}

/* Every name of a checkpoint renamed: what it has beside the weights is left alone. */
static void checkpoint_renamed(void)
{
    static const char *const into[] = { "*", "net.*", NULL };
    const float x[2] = { 1, 2 };
    cnn_graph  *g = cnn_new(.seed = 3), *h = cnn_new(.seed = 4);
    cnn_tensor *in = cnn_input(g, 2), *J = cnn_sum(cnn_dense(in, 2, .name = "fc"));
    CHECK(cnn_compile(g, J) && cnn_set(in, x, 2));
    CHECK(cnn_compile(h, cnn_sum(cnn_dense(cnn_input(h, 2), 2, .name = "net.fc"))));
    cnn_forward(J, CNN_TRAIN), cnn_backward(J), cnn_step(g, .lr = 0.1f, .momentum = 0.9f);
    const size_t n = cnn_save_checkpoint_memory(g, NULL, 0);
    void        *file = test_alloc(n);
    CHECK(cnn_save_checkpoint_memory(g, file, n) == n);
    CHECK_MSG(cnn_load_weights_memory(file, n, (cnn_load_weights_args){ .g = h, .renames = into }), "%s", no_null(cnn_error(h)));
    CHECK_SAME_BITS(cnn_map_read(cnn_find(g, "fc.weight")), cnn_map_read(cnn_find(h, "net.fc.weight")), 4);
    free(file), cnn_free(g), cnn_free(h);
}

/* A hint at the prefix; what is missing or too much, one by one and together. */
static void more_or_less(void)
{
    char  report[500];
    cnn_graph *g[2];
    for (int k = 0; k < 2; k++) {
        g[k] = cnn_new(.seed = (uint64_t)k + 1);
        cnn_tensor *x = cnn_input(g[k], 2);
        CHECK(cnn_compile(g[k], cnn_mean(cnn_dense(x, 2, .name = k ? "a" : "m.a", .no_bias = k))));
    }
    net   n = { .g = g[0] };
    bytes b = saved(&n);
    cnn_load_weights_args a = { .g = g[1], .report = report, .report_size = sizeof report };
    CHECK(!cnn_load_weights_memory(b.p, b.n, a));
    CHECK_MSG(strstr(no_null(cnn_error(g[1])), "the file has 2: \"m.a.bias\", \"m.a.weight\" (.prefix = \"m.\"?)"), "%s", no_null(cnn_error(g[1])));
    CHECK(cnn_clear_error(g[1]));
    a.missing_ok = 1, a.extra_ok = 1;
    CHECK(!cnn_load_weights_memory(b.p, b.n, a));                      /* a wrong prefix is never a success */
    CHECK(cnn_clear_error(g[1]));
    a.prefix = "m.", a.missing_ok = a.extra_ok = 0;
    CHECK(!cnn_load_weights_memory(b.p, b.n, a));
    CHECK(strstr(no_null(cnn_error(g[1])), "the net has nothing for 1 tensors of the file: \"a.bias\" (.extra_ok = 1 leaves them out)"));
    CHECK(cnn_clear_error(g[1]));
    a.extra_ok = 1;
    CHECK(cnn_load_weights_memory(b.p, b.n, a));
    CHECK_STR(report, "skipped 0\nmissing 0\nextra 1: a.bias\nloaded 1: a.weight\n");
    free(b.p), cnn_free(g[0]), cnn_free(g[1]);
}

/* Every allocation made to fail in turn: one message, and the net as it was. */
static void without_memory(void)
{
    static const char *const same[] = { "features.*", "features.*", NULL };
    net    from = made(3, 1), to = made(3, 2);
    bytes  b = saved(&from);
    bool   done = false;
    const double before = at_of(&to, "features.0.0.weight");
    for (long k = 1; k < 100 && !done; k++) {
        alloc_fail = alloc_count + k;
        done = cnn_load_weights_memory(b.p, b.n, (cnn_load_weights_args){ .g = to.g, .renames = same });
        alloc_fail = 0;
        CHECK(done || (strstr(no_null(cnn_error(to.g)), "out of memory") && cnn_clear_error(to.g)));
        CHECK(done || at_of(&to, "features.0.0.weight") == before);
    }
    CHECK(done && at_of(&to, "features.0.0.weight") == at_of(&from, "features.0.0.weight"));
    for (long k = 1; k < 100; k++) {                                   /* freezing */
        alloc_fail = alloc_count + k;
        net n = record(3, (cnn_config){ .max_batch = BATCH });
        const bool good = cnn_freeze_names(n.g, "features.*") && cnn_compile(n.g, n.loss);
        alloc_fail = 0;
        CHECK(good || !n.g || cnn_error(n.g));
        cnn_free(n.g);
        if (good) break;
    }
    free(b.p), cnn_free(from.g), cnn_free(to.g);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(three_ways);
    RUN(evaluation_statistics);
    RUN(one_sample);
    RUN(walking);
    RUN(said_and_kept);
    RUN(refused_freezing);
    RUN(parts);
    RUN(other_names); RUN(checkpoint_renamed);
    RUN(more_or_less);
    RUN(without_memory);
    return test_end();
}
