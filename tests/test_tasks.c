/* Your own data, your own task: targets of every type and shape in cnn_fit and cnn_evaluate, from memory, CSV and .npy;
   masks that move with their pictures, mixup, cutmix; streams, one batch ahead; pictures in folders, resized as Pillow
   does; what a net remembers of its data; 1,000 classes; a training that is resumed. */
#include "test.h"
#include "alloc.h"
#include "cnn.h"
#include "inside.h"
#include <sys/stat.h>
#include <unistd.h>

typedef cnn_tensor T;
enum { COUNT = 44, BATCH = 8, SIDE = 6, PIXELS = SIDE * SIDE, CLASSES = 4 };

/* ---- Data: pictures with a target of each kind ---- */

typedef struct { unsigned char pixel[COUNT * PIXELS]; int label[COUNT], mask[COUNT * PIXELS]; float value[COUNT * 3], soft[COUNT * PIXELS];
                 float many[COUNT * CLASSES]; } samples;

static samples *new_samples(void)
{
    samples *s = calloc(1, sizeof *s);
    for (int i = 0; i < COUNT; i++) {
        const int k = s->label[i] = i % CLASSES;
        for (int j = 0; j < PIXELS; j++) {
            const bool lit = j / SIDE / 3 == k / 2 && j % SIDE / 3 == k % 2;
            s->pixel[i * PIXELS + j] = (unsigned char)((i * 37 + j * j * 11) % 80 + (lit ? 150 : 0));
            s->mask[i * PIXELS + j] = lit ? 1 + k : 0;
            s->soft[i * PIXELS + j] = (float)lit;
        }
        for (int c = 0; c < 3; c++) s->value[i * 3 + c] = (float)(k * (c + 1)) - 2.5f + 0.25f * (float)(i % 5);
        for (int c = 0; c < CLASSES; c++) s->many[i * CLASSES + c] = (float)(c <= k);
    }
    return s;
}

typedef enum { BY_LABEL, BY_MASK, BY_VALUE, BY_SOFT_MASK, BY_MANY, BY_SOFT_LABEL, TASKS } task;
static cnn_dataset data_of(const samples *s, task t)
{
    cnn_data_args a = { .count = COUNT, .c = 1, .h = SIDE, .w = SIDE, .bytes = s->pixel };
    if (t == BY_LABEL || t == BY_SOFT_LABEL) a.labels = s->label;
    if (t == BY_MASK)      a.labels = s->mask, a.target_h = a.target_w = SIDE;
    if (t == BY_VALUE)     a.targets = s->value, a.target_c = 3;
    if (t == BY_SOFT_MASK) a.targets = s->soft, a.target_h = a.target_w = SIDE;
    if (t == BY_MANY)      a.targets = s->many, a.target_c = CLASSES;
    return cnn_data_(a);
}

typedef struct { cnn_graph *g; T *x, *t, *y, *loss; } net;
static net net_of(task k, int threads)
{
    net n;
    n.g = cnn_new(.max_batch = BATCH, .seed = 5, .threads = threads, .optimizer = cnn_adam());
    n.x = cnn_input(n.g, 1, SIDE, SIDE);
    T *h = cnn_tanh(cnn_dropout(cnn_batch_norm(cnn_conv2d(n.x, 6, 3, .pad = 1)), 0.1f));
    const bool pixels = k == BY_MASK || k == BY_SOFT_MASK;
    const int  wide = k == BY_MASK ? CLASSES + 1 : k == BY_SOFT_MASK ? 1 : k == BY_VALUE ? 3 : CLASSES;
    n.t = k == BY_LABEL ? cnn_labels(n.g) : k == BY_MASK ? cnn_labels(n.g, SIDE, SIDE)
        : pixels ? cnn_input(n.g, 1, SIDE, SIDE, .name = "t") : cnn_input(n.g, wide, .name = "t");
    n.y = pixels ? cnn_conv2d(h, wide, 3, .pad = 1) : cnn_dense(cnn_max_pool(h, 2), wide);
    n.loss = k == BY_LABEL || k == BY_MASK || k == BY_SOFT_LABEL ? cnn_softmax_cross_entropy(n.y, n.t, .ignore_index = k == BY_MASK ? 255 : -1)
           : k == BY_VALUE ? cnn_mse(n.y, n.t) : cnn_bce_with_logits(n.y, n.t);
    CHECK_STR(cnn_compile(n.g, n.loss) ? NULL : cnn_error(n.g), NULL);
    return n;
}

/* Weights, running statistics and the optimizer's vectors. */
static float *state_of(cnn_graph *g, size_t *n)
{
    const size_t floats = cnn__trained_floats(g), slots = g->arena_bytes[CNN_ARENA_OPTIMIZER] / sizeof(float);
    float *p = calloc(floats + slots + 1, sizeof *p);
    cnn__copy_trained(g, p, CNN__SAVE, 0);
    memcpy(p + floats, g->arena[CNN_ARENA_OPTIMIZER], slots * sizeof(float));
    return *n = floats + slots, p;
}
static bool same_nets(cnn_graph *a, cnn_graph *b)
{
    size_t n, m;
    float *p = state_of(a, &n), *q = state_of(b, &m);
    const bool same = n == m && memcmp(p, q, n * sizeof *p) == 0;
    free(p), free(q);
    return same;
}

/* ---- cnn_fit is the loop of cnn_set, cnn_forward, cnn_backward, cnn_step; it learns each task ---- */

static void tasks_are_learned(void)
{
    samples *s = new_samples();
    for (int k = 0; k < TASKS; k++) {
        cnn_dataset d = data_of(s, k), part = cnn_split(&d, 8, 16);
        net a = net_of(k, 1), b = net_of(k, 1);
        cnn_history h = { .count = 0 };
        CHECK_STR(d.error, "");
        CHECK(cnn_fit(a.loss, a.y, &d, .lr = 0.02f, .history = &h));
        cnn_shuffle(&d, 5);
        double loss = 0;
        for (int first = 0, n; first < COUNT; first += n) {                     /* by hand, without the data set */
            float x[BATCH * PIXELS], t[BATCH * PIXELS];
            n = COUNT - first < BATCH ? COUNT - first : BATCH;
            int wide = 0;
            for (int i = 0; i < n; i++) {
                const int at = d.order[first + i];
                for (int j = 0; j < PIXELS; j++) x[i * PIXELS + j] = (float)s->pixel[at * PIXELS + j] / 255.0f;
                wide = k == BY_LABEL ? 1 : k == BY_MASK || k == BY_SOFT_MASK ? PIXELS : k == BY_VALUE ? 3 : CLASSES;
                for (int j = 0; j < wide; j++)
                    t[i * wide + j] = k == BY_LABEL ? (float)s->label[at] : k == BY_MASK ? (float)s->mask[at * PIXELS + j]
                                    : k == BY_SOFT_MASK ? s->soft[at * PIXELS + j] : k == BY_VALUE ? s->value[at * 3 + j]
                                    : k == BY_MANY ? s->many[at * CLASSES + j] : (float)(s->label[at] == j);
            }
            CHECK(cnn_set(b.x, x, (size_t)(n * PIXELS)) && cnn_set(b.t, t, (size_t)(n * wide)));
            loss += n * (double)cnn_forward(b.loss, CNN_TRAIN);
            cnn_backward(b.loss), cnn_step(b.g, .lr = 0.02f);
        }
        CHECK_MSG(same_nets(a.g, b.g), "task %d", k);
        CHECK_NEAR(h.epoch[0].loss, loss / COUNT, 1e-12);
        CHECK(cnn_fit(a.loss, a.y, &d, .epochs = 40, .lr = 0.02f, .history = &h, .validation = &part));
        const cnn_epoch e = h.epoch[40];
        const cnn_score v = cnn_evaluate(a.loss, a.y, &part);
        CHECK_MSG(e.loss < 0.5 * h.epoch[0].loss, "task %d: loss %g after %g", k, e.loss, h.epoch[0].loss);
        if (k == BY_VALUE) CHECK_MSG(isnan(e.accuracy) && e.r2 > 0.8 && e.mae < 1 && v.mae == e.validation_mae && v.r2 > 0.9,
                                     "R2 %g, error %g; %g", e.r2, e.mae, v.r2);
        else CHECK_MSG(isnan(e.mae) && isnan(e.r2) && e.accuracy > 0.9 && v.accuracy == e.validation_accuracy && v.accuracy > 0.9,
                       "task %d: accuracy %g, %g", k, e.accuracy, v.accuracy);
        cnn_history_free(&h), cnn_free(a.g), cnn_free(b.g), cnn_dataset_free(&part), cnn_dataset_free(&d);
    }
    free(s);
}

/* Mean absolute error and R2 beside their formulas in double, over batches of unequal size; constant channels. */
static void errors_and_r2(void)
{
    enum { N = 21 };
    float x[N * 3], t[N * 3];
    double absolute = 0, r2 = 0, loss = 0;
    for (int i = 0; i < N; i++)
        for (int c = 0; c < 3; c++) {
            x[i * 3 + c] = (float)test_uniform(-1, 1), t[i * 3 + c] = c == 2 ? 7 : (float)(1e4 + 3 * (double)x[i * 3 + c] + test_uniform(-1, 1));
            if (c == 0) x[i * 3] += 1e4f;
        }
    cnn_dataset d = cnn_data(N, 3, .floats = x, .targets = t, .target_c = 3);
    cnn_graph  *g = cnn_new(.max_batch = 8);
    T *in = cnn_input(g, 3), *want = cnn_input(g, 3), *y = cnn_scale(in, 1.0f), *J = cnn_l1(y, want);
    CHECK(cnn_compile(g, cnn_add(J, cnn_scale(cnn_sum(cnn_param(g, "unused", ((cnn_shape){ 1, 1, 1, 1 }))), 0.0f))));
    for (int c = 0; c < 3; c++) {
        double mean = 0, squares = 0, error = 0;
        for (int i = 0; i < N; i++) mean += (double)t[i * 3 + c] / N;
        for (int i = 0; i < N; i++) {
            const double v = (double)t[i * 3 + c], e = (double)x[i * 3 + c] - v;
            squares += (v - mean) * (v - mean), error += e * e, absolute += fabs(e) / (3 * N);
        }
        r2 += (c == 2 ? 0 : 1 - error / squares) / 3;
    }
    loss = absolute;
    cnn_score s = cnn_evaluate(cnn_loss(g), y, &d);
    CHECK_STR(cnn_error(g), NULL);
    CHECK_NEAR(s.mae, absolute, 1e-9), CHECK_NEAR(s.r2, r2, 1e-6), CHECK_NEAR(s.loss, loss, 1e-5);
    CHECK(isnan(s.accuracy) && s.count == N);
    cnn_free(g), cnn_dataset_free(&d);
}

/* An autoencoder compares with its input: the data set needs no target. Denoising has one. */
static void autoencoder(void)
{
    samples *s = new_samples();
    cnn_dataset d = cnn_data(COUNT, 1, SIDE, SIDE, .bytes = s->pixel);
    cnn_graph  *g = cnn_new(.max_batch = BATCH, .seed = 1, .optimizer = cnn_adam());
    T *x = cnn_input(g, 1, SIDE, SIDE), *y = cnn_reshape(cnn_dense(cnn_tanh(cnn_dense(x, 8)), PIXELS), 1, SIDE, SIDE), *J = cnn_mse(y, x);
    CHECK(cnn_compile(g, J));
    cnn_history h = { .count = 0 };
    CHECK(cnn_fit(J, y, &d, .epochs = 30, .lr = 0.01f, .history = &h));
    CHECK(h.count == 30 && h.epoch[29].loss < 0.3 * h.epoch[0].loss && h.epoch[29].mae > 0 && h.epoch[29].r2 > h.epoch[0].r2);
    cnn_history_free(&h), cnn_free(g), cnn_dataset_free(&d), free(s);
}

static void thousand_classes(void)
{
    enum { K = 1000, N = 2000 };
    static float x[N * 32];
    static int   label[N];
    for (int i = 0; i < N; i++) {
        label[i] = i % K;
        for (int j = 0; j < 32; j++) x[i * 32 + j] = i < K ? (float)test_int(0, 1) * 2 - 1 : x[(i - K) * 32 + j];
    }
    cnn_dataset d = cnn_data(N, 32, .floats = x, .labels = label);
    cnn_graph  *g = cnn_new(.max_batch = 50, .seed = 3, .threads = 1, .optimizer = cnn_adam());
    T *y = cnn_dense(cnn_input(g, 32), K), *J = cnn_softmax_cross_entropy(y, cnn_labels(g));
    CHECK(cnn_compile(g, J));
    CHECK_INT(d.classes, K);
    CHECK(cnn_fit(J, y, &d, .epochs = 10, .lr = 0.05f));
    const cnn_score s = cnn_evaluate(J, y, &d);
    CHECK_MSG(s.accuracy > 0.9, "accuracy %g, loss %g", s.accuracy, s.loss);
    CHECK_NEAR(cnn_top_k(y, &d, 1), s.accuracy, 1e-12);
    int *matrix = calloc((size_t)K * K, sizeof *matrix), right = 0;
    CHECK(cnn_confusion(y, &d, matrix));
    for (int k = 0; k < K; k++) right += matrix[k * K + k];
    CHECK_NEAR(right, s.accuracy * N, 1e-9);
    label[1999] = 1000;
    cnn_dataset wrong = cnn_data(N, 32, .floats = x, .labels = label);
    CHECK(!cnn_fit(J, y, &wrong, .lr = 1));
    CHECK_STR(test_words(cnn_error(g)), "fit: the data set has labels 0..1000, but the logits (N,1000,1,1) tell only 1000 classes apart");
    free(matrix), cnn_free(g), cnn_dataset_free(&d), cnn_dataset_free(&wrong);
}

/* A void label passes through cnn_fit, and counts neither in the loss nor in the accuracy. */
static void void_labels(void)
{
    samples *s = new_samples(), *o = new_samples();
    double right = 0, judged = 0, sum = 0;
    for (int i = 0; i < COUNT * PIXELS; i += 3) s->mask[i] = 255;
    cnn_dataset d = data_of(s, BY_MASK);
    CHECK_INT(d.classes, 256);
    net n = net_of(BY_MASK, 1);
    CHECK(cnn_fit(n.loss, n.y, &d, .epochs = 5, .lr = 0.01f));
    const cnn_score v = cnn_evaluate(n.loss, n.y, &d);
    for (int i = 0; i < COUNT; i++) {
        float x[PIXELS], z[PIXELS * (CLASSES + 1)];
        for (int j = 0; j < PIXELS; j++) x[j] = (float)s->pixel[i * PIXELS + j] / 255.0f;
        cnn_set(n.x, x, PIXELS), cnn_forward(n.y, CNN_EVAL), cnn_get(n.y, z, PIXELS * (CLASSES + 1));
        for (int j = 0; j < PIXELS; j++) {
            double all = 0;
            int    best = 0, k = s->mask[i * PIXELS + j];
            if (k == 255) continue;
            for (int c = 0; c <= CLASSES; c++) all += exp((double)z[c * PIXELS + j]), best = z[c * PIXELS + j] > z[best * PIXELS + j] ? c : best;
            sum += log(all) - (double)z[k * PIXELS + j], right += best == k, judged++;
        }
    }
    CHECK_NEAR(v.accuracy, right / judged, 1e-12), CHECK_NEAR(v.loss, sum / judged, 1e-5);
    s->mask[5] = -1;
    CHECK(!cnn_fit(n.loss, n.y, &d, .lr = 0.01f));
    CHECK_STR(test_words(cnn_error(n.g)), "fit: the data set has labels -1..4, but the logits (N,5,6,6) tell only 5 classes apart");
    cnn_free(n.g), cnn_dataset_free(&d), free(s), free(o);
}

/* So does one that is a class: of two classes, the second is ignored and always guessed right. */
static void void_class(void)
{
    const float values[8] = { 1, 0, 0, 1, 0, 1, 2, 3 };
    const int   label[4] = { 0, 1, 1, 0 };
    cnn_graph  *g = cnn_new(.max_batch = 3);
    T *x = cnn_input(g, 2), *t = cnn_labels(g), *loss = cnn_softmax_cross_entropy(x, t, .ignore_index = 1);
    cnn_compile(g, loss);
    cnn_dataset d = cnn_data(4, 2, .floats = values, .labels = label);
    CHECK_NEAR(cnn_evaluate(loss, x, &d).accuracy, 0.5, 0);
    CHECK_NEAR(cnn_evaluate_flipped(loss, x, &d).accuracy, 0.5, 0);
    CHECK_STR(cnn_error(g), NULL);
    cnn_free(g), cnn_dataset_free(&d);
}

/* cnn_labels of 0 and 1 may also be the answers to one yes or no, and whole numbers the values of a regression. */
static void labels_of_one_channel(void)
{
    const float values[8] = { -4, -3, -2, -1, 1, 2, 3, 4 };
    const int   label[8] = { 0, 0, 0, 1, 1, 1, 1, 1 };
    for (int k = 0; k < 3; k++) {
        cnn_graph *g = cnn_new(.max_batch = 3);
        T *x = cnn_input(g, 1), *t = cnn_labels(g), *y = cnn_dense(x, 1);
        T *loss = k == 0 ? cnn_bce_with_logits(y, t) : k == 1 ? cnn_sigmoid_focal(y, t) : cnn_mse(y, t);
        cnn_compile(g, loss);
        cnn_dataset d = cnn_data(8, 1, .floats = values, .labels = label);
        CHECK(cnn_fit(loss, y, &d, .epochs = 50, .lr = 0.05f));
        const cnn_score v = cnn_evaluate(loss, y, &d);
        if (k < 2) CHECK_MSG(v.accuracy >= 7 / 8.0 && isnan(v.r2), "%d: accuracy %g", k, v.accuracy);
        else       CHECK_MSG(isnan(v.accuracy) && v.r2 > 0.5, "R2 %g", v.r2);
        CHECK_STR(cnn_error(g), NULL);
        cnn_free(g), cnn_dataset_free(&d);
    }
}

/* A net may have its input as soft labels: no target is fed, and labels of the data set do not count. */
static void input_as_soft_labels(void)
{
    const float values[12] = { 0.7f, 0.2f, 0.1f, 0, 1, 0, 0.1f, 0.1f, 0.8f, 0.3f, 0.4f, 0.3f };
    const int   label[4] = { 9, 9, 9, 9 };
    cnn_graph  *g = cnn_new(.max_batch = 3);
    T *x = cnn_input(g, 3), *y = cnn_scale(x, 3), *loss = cnn_softmax_cross_entropy(cnn_add(y, cnn_param(g, "b", { 1, 3, 1, 1 })), x);
    cnn_compile(g, loss);
    cnn_dataset d = cnn_data(4, 3, .floats = values, .labels = label);
    const cnn_score s = cnn_evaluate(loss, loss->in[0], &d);
    CHECK_NEAR(s.accuracy, 1, 0), CHECK_INT(s.count, 4);
    CHECK(cnn_fit(loss, loss->in[0], &d, .lr = 0.01f));
    CHECK_STR(cnn_error(g), NULL);
    cnn_free(g), cnn_dataset_free(&d);
}

/* PyTorch 2.15, F.cross_entropy with probabilities: the loss, dx, dp. */
static void soft_labels_as_pytorch(void)
{
    static const float x[12] = { 0.5f, -1.25f, 2, 0.25f, 1.5f, 0.75f, -0.5f, -2, 0, 3, -1, 1 };
    static const float p[12] = { 0.1f, 0.2f, 0.3f, 0.4f, 0.7f, 0, 0.25f, 0.05f, 0, 1, 0, 0 }, v[4] = { 0.5f, 1, 2, 1.5f };
    static const struct { float smoothing; bool weighted; double loss, dx[12], dp[12]; } want[3] = {
        { 0, false, 1.0717447793149435, { 0.018472645385787346, -0.057664137450335225, 0.13217828860364955, -0.09298679653910161,
          -0.0298206083834723, 0.09613260432349614, -0.05579088105998903, -0.01052111488003487, 0.013790232306986717, -0.056349113152016184,
          0.005073142954718644, 0.03748573789031085 }, { 0.6205458094736132, 1.2038791428069464, 0.12054580947361318, 0.7038791428069465,
          0.1644714856400594, 0.41447148564005937, 0.831138152306726, 1.331138152306726, 1.0617274842012707, 0.061727484201270805,
          1.395060817534604, 0.7283941508679375 } },
        { 0.2f, false, 1.2892447793149435, { 0.008472645385787344, -0.060997470783668566, 0.1355116219369829, -0.08298679653910163,
          0.0001793916165276982, 0.07946593765682948, -0.05579088105998903, -0.023854448213368205, -0.002876434359679949,
          -0.006349113152016191, -0.011593523711948023, 0.020819071223644185 }, { 0.49643664757889056, 0.9631033142455572,
          0.09643664757889055, 0.5631033142455573, 0.13157718851204753, 0.33157718851204754, 0.6649105218453809, 1.064910521845381,
          0.8493819873610167, 0.04938198736101665, 1.1160486540276833, 0.58271532069435 } },
        { 0.1f, true, 1.5470909596872595, { 0.05491588290167589, -0.05545971655397937, 0.13534828603655216, -0.13480445238424868,
          0.08569676747282529, 0.08371363530641424, -0.14029476861493947, -0.029115634164300058, 0.00996832144799472, -0.024424507647483263,
          -0.011466695138080057, 0.025922881337568624 }, { 0.27924561426312594, 1.083491228526252, 0.21698245705250374, 0.9502368427893779,
          0.07401216853802672, 0.3730243370760534, 1.4960486741521068, 1.7970365056140802, 0.47777736789057185, 0.05555473578114373,
          2.5111094715622873, 0.9833321036717156 } } };
    for (int k = 0; k < 3; k++) {
        cnn_graph *g = cnn_new(.max_batch = 3);
        T *in = cnn_input(g, 4, .grad = 1), *t = cnn_input(g, 4, .grad = 1);
        T *J = cnn_softmax_cross_entropy(in, t, .smoothing = want[k].smoothing,
                                         .class_weights = want[k].weighted ? cnn_const(g, ((cnn_shape){ 1, 4, 1, 1 }), v) : NULL);
        CHECK_STR(cnn_compile(g, J) ? NULL : cnn_error(g), NULL);
        float dx[12], dp[12];
        CHECK(cnn_set(in, x, 12) && cnn_set(t, p, 12));
        CHECK_NEAR(cnn_forward(J, CNN_TRAIN), want[k].loss, 1e-6);
        cnn_backward(J);
        CHECK(cnn_get_grad(in, dx, 12) && cnn_get_grad(t, dp, 12));
        for (int i = 0; i < 12; i++) CHECK_NEAR(dx[i], want[k].dx[i], 1e-6), CHECK_NEAR(dp[i], want[k].dp[i], 1e-6);
        cnn_free(g);
    }
}

/* ---- Files: several target columns, targets of several axes ---- */

static void targets_in_files(void)
{
    const char *text = "x,y,a,b,c\n1,2,0.5,-3,4\n3,4,1.5,7,-2e3\n";
    const size_t n = strlen(text);
    cnn_dataset d = cnn_csv_memory(text, n, (cnn_csv_args){ .skip = 1, .target = 3, .target_c = 3, .scale = 2 });
    CHECK_STR(d.error, "");
    CHECK(d.count == 2 && d.shape.c == 2 && d.target.c == 3 && d.target_type == CNN_F32 && d.classes == 0 && !d.labels);
    CHECK(d.floats[0] == 2 && d.floats[3] == 8 && d.targets[0] == 0.5f && d.targets[1] == -3 && d.targets[5] == -2000);
    cnn_dataset_free(&d);
    d = cnn_csv_memory(text, n, (cnn_csv_args){ .skip = 1, .target = -1 });
    CHECK(d.count == 2 && d.shape.c == 4 && d.target.c == 1 && d.targets[1] == -2000);
    cnn_dataset_free(&d);
    text = "1000,5,6,0,1,2,3\n-7,8,9,3,2,1,0\n";
    d = cnn_csv_memory(text, strlen(text), (cnn_csv_args){ .label = 1 });
    CHECK(d.count == 2 && d.classes == 1001 && d.labels[0] == 1000 && d.labels[1] == -7 && d.shape.c == 6);
    cnn_dataset_free(&d);
    d = cnn_csv_memory(text, strlen(text), (cnn_csv_args){ .label = -4, .target_h = 2, .target_w = 2 });       /* a label for each of 4 pixels */
    CHECK(d.count == 2 && d.classes == 4 && d.target.h == 2 && d.target.w == 2 && d.labels[4] == 3 && d.labels[7] == 0 && d.floats[0] == 1000);
    cnn_dataset_free(&d);
    static const struct { cnn_csv_args a; const char *why; } wrong[] = {
        { { .label = 1, .target = 2 }, "csv: label and target are both given: a sample has one of them" },
        { { .target = 9 }, "csv: target is column 9, but the first line has 7 columns" },
        { { .target = 6, .target_c = 3 }, "csv: targets of 3 columns from column 6 on, but the first line has 7" },
        { { .target = 1, .target_c = 7 }, "csv: samples of (0,1,1), but the first line has 0 values between ','" },
        { { .target = 1, .target_h = -1 }, "data set: targets of (1,-1,1): every extent must be at least 1, and the product at most 2^31 - 1" } };
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
        d = cnn_csv_memory(text, strlen(text), wrong[k].a);
        CHECK(d.count == 0);
        CHECK_STR(d.error, wrong[k].why);
        cnn_dataset_free(&d);
    }
    /* .npy: two samples with values (2,3); labels (2,2,2) of int32; targets (2,3) of float32 */
    unsigned char file[3][128 + 64];
    static const char *const head[3] = { "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 2, 2), }", "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }" };
    const int32_t ints[8] = { 0, 1, 999, -100, 4, 5, 6, 7 };
    const float   floats[6] = { 0.5f, -1, 2, 3e9f, 4, 5 };
    const void   *what[3] = { "\1\2\3\4\5\6", ints, floats };
    static const size_t bytes[3] = { 6, sizeof ints, sizeof floats };
    for (int k = 0; k < 3; k++) {
        memset(file[k], ' ', 128), memcpy(file[k], "\x93NUMPY\1\0\x76\0", 10), memcpy(file[k] + 10, head[k], strlen(head[k])), file[k][127] = '\n';
        memcpy(file[k] + 128, what[k], bytes[k]);
    }
    d = cnn_npy_memory(file[0], 134, file[1], 128 + 32);
    CHECK_STR(d.error, "");
    CHECK(d.type == CNN_U8 && d.target_type == CNN_I32 && d.target.h == 2 && d.target.w == 2 && d.classes == 1000 && d.labels[3] == -100);
    cnn_dataset_free(&d);
    d = cnn_npy_memory(file[0], 134, file[2], 128 + 24);
    CHECK(d.target_type == CNN_F32 && d.target.c == 3 && d.targets[3] == 3e9f && d.classes == 0);
    cnn_dataset_free(&d);
}

/* ---- A mask moves with its picture ---- */

static void masks_move(void)
{
    samples *s = new_samples();
    for (int i = 0; i < COUNT * PIXELS; i++) s->mask[i] = s->pixel[i], s->soft[i] = (float)s->pixel[i] / 255.0f;
    cnn_dataset ints = data_of(s, BY_MASK), floats = data_of(s, BY_SOFT_MASK), values = data_of(s, BY_VALUE);
    cnn_graph *g = cnn_new(.max_batch = COUNT, .seed = 7);
    T *x = cnn_input(g, 1, SIDE, SIDE), *t = cnn_labels(g, SIDE, SIDE), *f = cnn_input(g, 1, SIDE, SIDE), *v = cnn_input(g, 3);
    T *hot = cnn_input(g, 256, SIDE, SIDE);
    CHECK(cnn_compile(g, cnn_add(cnn_mse(f, x), cnn_add(cnn_scale(cnn_mean(cnn_add(cnn_mean(t, CNN_C), cnn_mean(v, CNN_C))), 0.0f),
                                                        cnn_mse(cnn_param(g, "p", ((cnn_shape){ 1, 1, 1, 1 })), cnn_mean(hot))))));
    static float a[COUNT * PIXELS], b[COUNT * PIXELS], c[COUNT * PIXELS], w[COUNT * 3];
    const cnn_augment how = { .shift = 2, .flip = CNN_FLIP_RANDOM, .outside = 255 };
    int outside = 0;
    CHECK_INT(cnn_feed_augmented(x, t, &ints, 0, how, 3), COUNT);
    CHECK(cnn_get(x, a, COUNT * PIXELS) && cnn_get(t, b, COUNT * PIXELS));
    for (int i = 0; i < COUNT * PIXELS; i++) {
        if (b[i] == 255) { outside++; CHECK(a[i] == 0); continue; }
        CHECK(b[i] / 255.0f == a[i]);
    }
    CHECK(outside > COUNT);
    CHECK_INT(cnn_feed_augmented(x, f, &floats, 0, how, 3), COUNT);
    CHECK(cnn_get(f, c, COUNT * PIXELS));
    for (int i = 0; i < COUNT * PIXELS; i++) CHECK(b[i] == 255 ? c[i] == 255 : c[i] == a[i]);
    CHECK_INT(cnn_feed_augmented(x, v, &values, 0, how, 3), COUNT);             /* what is no mask stays */
    CHECK(cnn_get(v, w, COUNT * 3) && memcmp(w, s->value, sizeof w) == 0);
    CHECK_INT(cnn_feed_augmented(x, hot, &ints, 0, how, 3), COUNT);
    const float *h = cnn_map_read(hot);
    for (int i = 0; h && i < COUNT * PIXELS; i++)
        for (int k = 0; k < 256; k++) if ((h[(i / PIXELS * 256 + k) * PIXELS + i % PIXELS] == 1) != (k == (int)b[i])) { CHECK(!"one-hot"); break; }
    CHECK_INT(cnn_feed(x, hot, &ints, 0), COUNT);                               /* and without any change */
    h = cnn_map_read(hot);
    for (int i = 0; h && i < COUNT * PIXELS; i++) CHECK(h[(i / PIXELS * 256 + s->mask[i]) * PIXELS + i % PIXELS] == 1);
    CHECK_INT(cnn_feed_augmented(x, t, &ints, 0, (cnn_augment){ .cutout = 3 }, 1), COUNT);     /* a square of the picture alone */
    CHECK(cnn_get(x, a, COUNT * PIXELS) && cnn_get(t, b, COUNT * PIXELS));
    for (int i = 0; i < COUNT * PIXELS; i++) CHECK(b[i] == (float)s->mask[i] && (a[i] == 0 || a[i] == b[i] / 255.0f));
    CHECK_STR(cnn_error(g), NULL);
    cnn_free(g), cnn_dataset_free(&ints), cnn_dataset_free(&floats), cnn_dataset_free(&values), free(s);
}

/* ---- mixup and cutmix ---- */

/* Of each mixed sample: which share is it of its own, and which of one other? Labels say the same as pixels. */
static void mixed_samples(void)
{
    enum { N = 40, K = 40 };
    static float x[N * PIXELS], y[N * PIXELS], t[N * K], again[N * PIXELS];
    int label[N], boxed = 0, mixed = 0;
    double keep = 0, squares = 0;
    for (int i = 0; i < N; i++) {
        label[i] = i;
        for (int j = 0; j < PIXELS; j++) x[i * PIXELS + j] = (float)(1 << (i % 20)) * (i < 20 ? 1 : 3);   /* one value in a picture */
    }
    cnn_dataset d = cnn_data(N, 1, SIDE, SIDE, .floats = x, .labels = label);
    for (int threads = 1; threads <= 3; threads += 2) {
        cnn_graph *g = cnn_new(.max_batch = N, .seed = 11, .threads = threads);
        T *in = cnn_input(g, 1, SIDE, SIDE), *to = cnn_input(g, K), *J = cnn_softmax_cross_entropy(cnn_dense(in, K), to);
        CHECK(cnn_compile(g, J));
        for (int way = 0; way < 3; way++)
            for (int epoch = 0; epoch < 50; epoch++) {
                const cnn_augment how = { .mixup = way == 1 ? 0 : 0.4f, .cutmix = way == 0 ? 0 : 1.0f };
                CHECK_INT(cnn_feed_augmented(in, to, &d, 0, how, epoch), N);
                CHECK(cnn_get(in, y, N * PIXELS) && cnn_get(to, t, N * K));
                for (int i = 0; i < N; i++) {
                    double own = (double)t[i * K + i], all = 0;
                    int    other = i, n = 0;
                    for (int k = 0; k < K; k++) { all += (double)t[i * K + k]; if (k != i && t[i * K + k] > 0) other = k; }
                    CHECK_NEAR(all, 1, 1e-6);
                    for (int j = 0; j < PIXELS; j++) n += y[i * PIXELS + j] == x[i * PIXELS];
                    if (other == i) continue;
                    const bool box = n > 0 && n < PIXELS;                        /* some pixels are its own, others the other's */
                    for (int j = 0; j < PIXELS; j++) {
                        const double a = (double)x[i * PIXELS], b = (double)x[other * PIXELS], v = (double)y[i * PIXELS + j];
                        if (way == 0 || (way == 2 && !box && v != b)) CHECK_NEAR(v, own * a + (1 - own) * b, 1e-5);
                        else                                          CHECK(v == a || v == b);
                    }
                    if (box) CHECK_NEAR(own, (double)n / PIXELS, 1e-6);
                    boxed += box, mixed++;
                    if (way == 0 && threads == 1) keep += own, squares += own * own;
                }
                if (way == 2 && epoch == 7) {                                    /* threads, batches and order make no difference */
                    if (threads == 1) memcpy(again, y, sizeof y);
                    else CHECK_SAME_BITS(again, y, N * PIXELS);
                }
            }
        cnn_free(g);
    }
    CHECK(boxed > 2000 && mixed > 9000);
    /* Beta(a,a): mean 1/2, variance 1 / (4 (2 a + 1)), here 0.1389; of 1,950 draws */
    const double mean = keep / 1950, variance = squares / 1950 - mean * mean;
    CHECK_MSG(fabs(mean - 0.5) < 0.05 && fabs(variance - 0.1389) < 0.02, "mean %g, variance %g", mean, variance);
    cnn_dataset_free(&d);
}

static void mixing_is_refused(void)
{
    samples *s = new_samples();
    for (int k = 0; k < 5; k++) {
        const task  t = k == 3 ? BY_SOFT_LABEL : k == 4 ? BY_MASK : BY_LABEL;
        cnn_dataset d = data_of(s, t);
        net n = net_of(t, 1);
        if (k == 3) s->label[3] = 9;
        const cnn_augment how = { .mixup = k == 1 ? -1 : k != 4, .cutmix = k == 4 };
        const bool done = cnn_fit(n.loss, n.y, &d, .lr = 0.01f, .augment = how);
        CHECK(done == (k == 4));                                                /* a mask is cut and pasted */
        if (k == 0) CHECK_STR(test_words(cnn_error(n.g)), "fit: augment.mixup and .cutmix mix labels: they must go to a tensor made by cnn_input "
                                                          "with a channel for each class, not by cnn_labels");
        if (k == 1) CHECK_STR(test_words(cnn_error(n.g)), "fit: augment.mixup is -1, augment.cutmix 0: they must not be negative");
        if (k == 3) CHECK_STR(test_words(cnn_error(n.g)), "fit: the data set has labels 0..9, but the logits (N,4,1,1) tell only 4 classes apart");
        if (k == 3) CHECK((cnn_clear_error(n.g), cnn_feed(n.x, n.t, &d, 0)) == 0 && cnn_error(n.g));
        if (k == 3) CHECK_STR(test_words(cnn_error(n.g)), "feed: label 9 of sample 3 is none of the 4 channels of \"t\"");
        if (k == 3) s->label[3] = 3;
        cnn_free(n.g), cnn_dataset_free(&d);
    }
    free(s);
}

/* ---- Streams ---- */

typedef struct { const samples *s; task t; int calls, wrong_at; const char *why; long epochs; } stream;
static bool fill(cnn_request *want, void *user)
{
    stream *u = user;
    u->calls++, u->epochs |= 1L << want->epoch;
    if (u->wrong_at && u->calls == u->wrong_at) return snprintf(want->error, sizeof want->error, "%s", u->why), false;
    for (int i = 0; i < want->n; i++) {
        const int at = want->index[i];
        memcpy(want->bytes + i * PIXELS, u->s->pixel + at * PIXELS, PIXELS);
        if (want->labels && u->t == BY_MASK) memcpy(want->labels + i * PIXELS, u->s->mask + at * PIXELS, PIXELS * sizeof(int));
        else if (want->labels) want->labels[i] = u->s->label[at];
        if (want->targets) memcpy(want->targets + i * 3, u->s->value + at * 3, 3 * sizeof(float));
    }
    return true;
}
static cnn_dataset stream_of(stream *u)
{
    return cnn_data(COUNT, 1, SIDE, SIDE, .fill = fill, .user = u, .type = CNN_U8, .target_type = u->t == BY_VALUE ? CNN_F32 : CNN_I32,
                    .target_c = u->t == BY_VALUE ? 3 : 1, .target_h = u->t == BY_MASK ? SIDE : 1, .target_w = u->t == BY_MASK ? SIDE : 1);
}

/* The same bits as from memory, with augmentation, splits, evaluation and standardizing, one batch ahead or not. */
static void streams(void)
{
    samples *s = new_samples();
    for (task t = BY_LABEL; t <= BY_VALUE; t++) {
        stream u = { .s = s, .t = t };
        cnn_dataset d = data_of(s, t), f = stream_of(&u), part = cnn_split(&d, 4, 20), cut = cnn_split(&f, 4, 20);
        CHECK_STR(f.error, ""), CHECK_STR(cut.error, "");
        cnn_standardize(&part, &d), cnn_standardize(&cut, &f), cnn_standardize(&d, &d), cnn_standardize(&f, &f);
        CHECK(memcmp(d.mean, f.mean, sizeof d.mean) == 0 && memcmp(d.deviation, f.deviation, sizeof d.mean) == 0);
        net a = net_of(t, 1), b = net_of(t, 2);
        const cnn_augment how = { .shift = 1, .flip = CNN_FLIP_RANDOM, .cutout = 1, .outside = 0 };
        u.calls = 0, u.epochs = 0;
        CHECK(cnn_fit(a.loss, a.y, &d, .epochs = 3, .lr = 0.01f, .augment = how, .validation = &part, .drop_last = 1));
        CHECK(cnn_fit(b.loss, b.y, &f, .epochs = 3, .lr = 0.01f, .augment = how, .validation = &cut, .drop_last = 1));
        CHECK_STR(cnn_error(b.g), NULL);
        CHECK(same_nets(a.g, b.g));
        CHECK_INT(u.calls, 3 * (5 + 3));                                        /* batches of training, and of validation */
        CHECK_INT(u.epochs, 7);
        const cnn_score p = cnn_evaluate(a.loss, a.y, &d), q = cnn_evaluate(b.loss, b.y, &f);
        CHECK(p.loss == q.loss && p.count == q.count && (t == BY_VALUE ? p.r2 == q.r2 && p.mae == q.mae : p.accuracy == q.accuracy));
        if (t == BY_LABEL) {
            int m[2][CLASSES * CLASSES];
            CHECK(cnn_top_k(a.y, &d, 1) == cnn_top_k(b.y, &f, 1) && cnn_confusion(a.y, &d, m[0]) && cnn_confusion(b.y, &f, m[1]));
            CHECK(memcmp(m[0], m[1], sizeof m[0]) == 0);
            CHECK(cnn_evaluate_flipped(a.loss, a.y, &d).loss == cnn_evaluate_flipped(b.loss, b.y, &f).loss);
        }
        cnn_free(a.g), cnn_free(b.g), cnn_dataset_free(&d), cnn_dataset_free(&f), cnn_dataset_free(&part), cnn_dataset_free(&cut);
    }
    stream soft = { .s = s, .t = BY_LABEL };                                    /* mixed within a batch */
    cnn_dataset f = stream_of(&soft);
    net n = net_of(BY_SOFT_LABEL, 1);
    CHECK(cnn_fit(n.loss, n.y, &f, .epochs = 3, .lr = 0.01f, .augment = { .mixup = 0.5f, .cutmix = 0.5f }));
    cnn_free(n.g), cnn_dataset_free(&f), free(s);
}

static void streams_fail(void)
{
    samples *s = new_samples();
    for (int k = 1; k <= 8; k++) {
        stream u = { .s = s, .t = BY_LABEL, .wrong_at = k, .why = k & 1 ? "" : "the disk is gone" };
        cnn_dataset f = stream_of(&u);
        net n = net_of(BY_LABEL, 1);
        CHECK(!cnn_fit(n.loss, n.y, &f, .epochs = 2, .lr = 0.01f));
        CHECK_STR(test_words(cnn_error(n.g)), k & 1 ? "feed: data set: the stream cannot fill this batch" : "feed: data set: the disk is gone");
        cnn_clear_error(n.g);
        u.calls = 0;
        if (k <= 6) CHECK(cnn_evaluate(n.loss, n.y, &f).count == 0 && cnn_error(n.g));
        u.calls = 0;
        if (k == 2) { cnn_standardize(&f, &f); CHECK_STR(f.error, "standardize: the disk is gone"); }
        cnn_free(n.g), cnn_dataset_free(&f);
    }
    cnn_dataset bad[4] = { cnn_data(4, 1, .fill = fill, .type = CNN_I32), cnn_data(4, 1, .fill = fill, .target_type = CNN_U8),
                           cnn_data(4, 1, .fill = fill, .target_type = CNN_I32, .target_c = -1), cnn_data(4, 1, .labels = s->label) };
    for (int k = 0; k < 4; k++) CHECK(bad[k].error[0] && bad[k].count == 0), cnn_dataset_free(&bad[k]);
    free(s);
}

/* ---- Pictures ---- */

static uint64_t hash_of(const unsigned char *p, size_t n)                      /* FNV-1a */
{
    uint64_t h = 14695981039346656037u;
    while (n--) h = (h ^ *p++) * 1099511628211u;
    return h;
}
static unsigned char pixel_at(int y, int x, int c) { return (unsigned char)(y * 37 + x * 11 + c * 71 + x * y); }

/* Pillow 13.0.0 (resize, BILINEAR; convert "L") and torchvision 0.29.2 (Resize, CenterCrop) made these bytes; those of
   200x3 by two calls, as one call resizes the columns first. */
static void pictures_as_pillow(void)
{
    static const struct { int h, w, has, c, oh, ow, shorter; uint64_t hash; } want[] = {
        { 13, 17, 3, 3, 5, 7, 0, 0x170ccb69eb5ece68 }, { 13, 17, 3, 3, 20, 30, 0, 0xe66975a4bd0db0fd },
        { 13, 17, 3, 3, 13, 8, 0, 0x21779da5acafcd9f }, { 13, 17, 1, 1, 40, 5, 0, 0xf6e847b22eaf22a8 },
        { 200, 3, 3, 3, 7, 7, 0, 0xc80a964be32bdb70 }, { 64, 48, 3, 3, 64, 48, 0, 0x864e6c5f443302a5 },
        { 301, 517, 3, 3, 64, 64, 0, 0x090ed909fd01bc89 }, { 1, 1, 3, 3, 4, 4, 0, 0xa2669a0e03cb15f5 },
        { 13, 17, 3, 1, 5, 7, 0, 0x8829bd311090d5c8 }, { 30, 20, 3, 1, 9, 9, 0, 0x8ac797e6fd9023f6 },
        { 13, 17, 3, 3, 7, 7, 10, 0x25380a7f4f128773 }, { 30, 20, 3, 3, 15, 11, 16, 0x7b4a3888af667c56 },
        { 37, 90, 3, 3, 32, 32, 32, 0x3398c14e25821b3b }, { 41, 41, 3, 3, 13, 18, 20, 0xfaefe4c564c655b0 },
        { 97, 64, 3, 3, 35, 35, 40, 0xe4df7cfab2e3efc3 } };
    for (size_t k = 0; k < sizeof want / sizeof *want; k++) {
        const int h = want[k].h, w = want[k].w, has = want[k].has;
        mkdir("build/tasks", 0777), mkdir("build/tasks/one", 0777);
        FILE *f = fopen("build/tasks/one/a.ppm", "wb");
        if (!f) { test_skip("build/ cannot be written"); return; }
        fprintf(f, "P%d\n# a comment 7\n%d %d\n255\n", has == 3 ? 6 : 5, w, h);
        for (int y = 0; y < h; y++) for (int x = 0; x < w; x++) for (int c = 0; c < has; c++) fputc(pixel_at(y, x, c), f);
        fclose(f);
        cnn_dataset d = cnn_load_folder("build/tasks", want[k].c, want[k].oh, want[k].ow, .shorter = want[k].shorter);
        CHECK_STR(d.error, "");
        CHECK_MSG(d.bytes && hash_of(d.bytes, (size_t)(want[k].c * want[k].oh * want[k].ow)) == want[k].hash, "case %zu", k);
        cnn_dataset_free(&d);
    }
    remove("build/tasks/one/a.ppm"), rmdir("build/tasks/one"), rmdir("build/tasks");
}

static void write_file(const char *path, const char *text, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (f) fwrite(text, 1, n, f), fclose(f);
}
/* A folder as a user has it: files beside the classes, names that begin with a point, and any order on the disk. */
static const char *const made[] = { "build/tasks/zebra/2.pgm", "build/tasks/zebra/1.pgm", "build/tasks/ape/10.pgm", "build/tasks/ape/9.pgm",
                                    "build/tasks/caf\xc3\xa9 %\"/x.pgm" };
static void make_folder(void)
{
    mkdir("build/tasks", 0777), mkdir("build/tasks/zebra", 0777), mkdir("build/tasks/ape", 0777), mkdir("build/tasks/caf\xc3\xa9 %\"", 0777);
    for (int i = 0; i < 5; i++) {
        char text[32] = "P5 2 2 255\n";
        for (int k = 0; k < 4; k++) text[11 + k] = (char)(10 * i + k);
        write_file(made[i], text, 15);
    }
    write_file("build/tasks/readme.txt", "x", 1), write_file("build/tasks/ape/.hidden", "x", 1);
}
static void remove_folder(void)
{
    for (int i = 0; i < 5; i++) remove(made[i]);
    remove("build/tasks/readme.txt"), remove("build/tasks/ape/.hidden");
    rmdir("build/tasks/zebra"), rmdir("build/tasks/ape"), rmdir("build/tasks/caf\xc3\xa9 %\""), rmdir("build/tasks");
}

static const char *decode(cnn_picture *to, const char *path, int channels, void *user)
{
    static unsigned char grey[4] = { 9, 9, 9, 9 };
    if (strstr(path, "zebra/2")) return "zebras are too fast";
    *(int *)user += channels;
    to->h = strstr(path, "caf") ? 0 : 1, to->w = 4 / channels, to->pixels = grey;
    return NULL;
}

static void folders(void)
{
    make_folder();
    for (int way = 0; way < 4; way++) {                                         /* with and without / at the end, in memory and not */
        cnn_dataset d = cnn_load_folder(way & 1 ? "build/tasks/" : "build/tasks", 1, 2, 2, .stream = way / 2);
        CHECK_STR(d.error, "");
        CHECK(d.count == 5 && d.classes == 3 && d.type == CNN_U8 && (d.fill != NULL) == (way > 1) && (d.bytes != NULL) == (way < 2));
        CHECK_STR(d.names[0], "ape"), CHECK_STR(d.names[1], "caf\xc3\xa9 %\""), CHECK_STR(d.names[2], "zebra"), CHECK(!d.names[3]);
        cnn_graph *g = cnn_new(.max_batch = 5);
        T *x = cnn_input(g, 1, 2, 2), *t = cnn_labels(g), *y = cnn_dense(x, 3), *J = cnn_softmax_cross_entropy(y, t);
        float v[20], k[5];
        CHECK(cnn_compile(g, J));
        CHECK_INT(cnn_feed(x, t, &d, 0), 5);
        CHECK(cnn_get(x, v, 20) && cnn_get(t, k, 5));
        static const float first[5] = { 20, 30, 40, 10, 0 }, label[5] = { 0, 0, 1, 2, 2 };       /* 10.pgm, 9.pgm; x.pgm; 1.pgm, 2.pgm */
        for (int i = 0; i < 20; i++) CHECK(v[i] == (first[i / 4] + (float)(i % 4)) / 255.0f && k[i / 4] == label[i / 4]);
        CHECK(cnn_fit(J, y, &d, .epochs = 2, .lr = 0.1f));
        CHECK_STR(cnn_class_name(g, 1), "caf\xc3\xa9 %\"");
        cnn_free(g), cnn_dataset_free(&d);
    }
    int seen = 0;
    cnn_dataset d = cnn_load_folder("build/tasks", 1, 2, 2, .decode = decode, .user = &seen);
    CHECK_STR(d.error, "caf\xc3\xa9 %\"/x.pgm: the decoder gave no picture with sides of 1 to 65535");
    CHECK_INT(seen, 3);
    cnn_dataset_free(&d);
    for (long k = 1; k < 60; k++) {                                             /* each allocation fails once */
        const long before = alloc_live;
        alloc_fail = alloc_count + k;
        d = cnn_load_folder("build/tasks", 1, 2, 2);
        const bool failed = alloc_count >= alloc_fail;
        alloc_fail = 0;
        CHECK(failed == (d.error[0] != 0) && (d.count == 0) == failed);
        if (failed) CHECK_MSG(strstr(d.error, "out of memory") != NULL, "%s", d.error);
        cnn_dataset_free(&d);
        CHECK_INT(alloc_live, before);
    }
    remove_folder();
}

/* Hostile folders and files: one message each. */
static void folders_fail(void)
{
    cnn_dataset d;
    make_folder();
    static const struct { cnn_folder_args a; const char *why; } wrong[] = {
        { { .path = NULL, .c = 1, .h = 2, .w = 2 }, "cnn_load_folder: no path was given" },
        { { .path = "build/none", .c = 1, .h = 2, .w = 2 }, "folder build/none: No such file or directory" },
        { { .path = "README.md", .c = 1, .h = 2, .w = 2 }, "folder README.md: Not a directory" },
        { { .path = "build/tasks/ape", .c = 1, .h = 2, .w = 2 }, "folder build/tasks/ape: it holds no folders: each class is one" },
        { { .path = "build/tasks", .c = 2, .h = 2, .w = 2 }, "folder: pictures of (2,2,2): they have 1 channel or 3, and sides of 1 to 65535" },
        { { .path = "build/tasks", .c = 1, .h = 0, .w = 2 }, "folder: pictures of (1,0,2): they have 1 channel or 3, and sides of 1 to 65535" },
        { { .path = "build/tasks", .c = 1, .h = 65536, .w = 2 }, "folder: pictures of (1,65536,2): they have 1 channel or 3, and sides of 1 to 65535" },
        { { .path = "build/tasks", .c = 1, .h = 2, .w = 3, .shorter = 2 }, "folder: shorter is 2: it must be 3 to 65535, to cut out 2x3 pixels" } };
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
        d = cnn_load_folder_(wrong[k].a);
        CHECK(d.count == 0);
        CHECK_STR(d.error, wrong[k].why);
        cnn_dataset_free(&d);
    }
    static const struct { const char *text; size_t n; const char *why; } bad[] = {
        { "", 0, "not a binary PPM or PGM: other formats need a .decode" }, { "P4 2 2 1\n\1", 10, "not a binary PPM or PGM: other formats need a .decode" },
        { "P5", 2, "not a binary PPM or PGM: other formats need a .decode" }, { "P5 2 2 25", 9, "bad PNM header" }, { "P5 0 2 255\n....", 15, "bad PNM header" },
        { "P5 99999999999 2 255\n....", 25, "bad PNM header" }, { "P5 2 2 70000\n....", 17, "bad PNM header" }, { "P5 # no end", 11, "bad PNM header" },
        { "P5 2 2 255\n...", 14, "truncated: pixels are missing" }, { "P6 2 2 255\n...........", 22, "truncated: pixels are missing" },
        { "P5 2 2 256\n.......", 18, "truncated: pixels are missing" }, { "P6 65535 65535 65535\n", 21, "truncated: pixels are missing" },
        { "P5 -2 2 255\n....", 16, "bad PNM header" }, { "P5 2 2 0\n....", 13, "bad PNM header" } };
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        char message[200];
        write_file(made[0], bad[k].text, bad[k].n);
        d = cnn_load_folder("build/tasks", 3, 2, 2);
        snprintf(message, sizeof message, "zebra/2.pgm: %s", bad[k].why);
        CHECK_STR(d.error, message);
        cnn_dataset_free(&d);
    }
    write_file(made[0], "P5 2 1 1023\n\3\377\2\0", 16);                           /* two bytes a value */
    d = cnn_load_folder("build/tasks", 3, 1, 2);
    CHECK(d.bytes && d.bytes[4 * 6] == 255 && d.bytes[4 * 6 + 1] == (512 * 255 + 511) / 1023 && d.bytes[4 * 6 + 5] == d.bytes[4 * 6 + 1]);
    cnn_dataset_free(&d);
    for (int i = 0; i < 3000; i++) {                                            /* broken at random */
        char file[40] = "P6\n3 2\n255\n", c = "P56# \n0129"[test_int(0, 9)];
        for (int k = 11; k < 40; k++) file[k] = (char)test_int(0, 255);
        file[test_int(0, 12)] = test_chance(50) ? c : (char)test_int(0, 255);
        write_file(made[0], file, (size_t)test_int(20, 40));
        d = cnn_load_folder("build/tasks", 3, 2, 2);
        CHECK((d.count == 5) == (d.error[0] == 0));
        cnn_dataset_free(&d);
    }
    mkdir("build/tasks/zebra/deep", 0777);
    d = cnn_load_folder("build/tasks", 1, 2, 2);
    CHECK_STR(d.error, "folder: build/tasks/zebra/deep is no file: a class holds nothing else");
    rmdir("build/tasks/zebra/deep"), remove(made[4]), cnn_dataset_free(&d);
    d = cnn_load_folder("build/tasks", 1, 2, 2);
    CHECK_STR(d.error, "folder build/tasks/caf\xc3\xa9 %\": it holds no pictures");
    cnn_dataset_free(&d), remove_folder();
}

/* ---- What a net remembers of its data ---- */

static void remembered(void)
{
    static const char *const names[] = { "", "two words", "caf\xc3\xa9 % \" \\ \n", "d", NULL };
    static unsigned char file[1 << 16], bad[1 << 16];
    samples *s = new_samples();
    cnn_dataset d = data_of(s, BY_LABEL), r = data_of(s, BY_LABEL);
    net n = net_of(BY_LABEL, 1);
    cnn_standardize(&d, &d), d.names = names;
    CHECK(!cnn_class_name(n.g, 0));
    CHECK(cnn_fit(n.loss, n.y, &d, .lr = 0.01f));
    CHECK_STR(cnn_class_name(n.g, 2), names[2]), CHECK(!cnn_class_name(n.g, 4) && !cnn_class_name(n.g, -1) && !cnn_class_name(NULL, 0));
    const size_t bytes = cnn_save_memory(n.g, file, sizeof file);
    CHECK(bytes > 0 && bytes < sizeof file);
    cnn_graph *g = cnn_load_memory(file, bytes, (cnn_load_args){ .max_batch = 2, .inference = 1 }), *view = cnn_share(g);
    CHECK_STR(cnn_error(g), NULL);
    for (int k = 0; k < 4; k++) CHECK_STR(cnn_class_name(g, k), names[k]), CHECK_STR(cnn_class_name(view, k), names[k]);
    cnn_recall(view, &r), cnn_recall(NULL, &r), cnn_recall(g, NULL);
    CHECK(memcmp(r.mean, d.mean, sizeof d.mean) == 0 && memcmp(r.deviation, d.deviation, sizeof d.mean) == 0);
    CHECK_STR(r.names[1], names[1]), CHECK(!r.names[4]);
    cnn_free(view), cnn_free(g);
    char *at = NULL;                                                            /* broken at random: loaded or refused */
    for (size_t i = 0; i + 8 < bytes && !at; i++) if (memcmp(file + i, "cnn.data", 8) == 0) at = (char *)file + i;
    CHECK(at != NULL);
    for (int i = 0; at && i < 500; i++) {
        memcpy(bad, file, bytes);
        bad[(size_t)(at - (char *)file) + (size_t)test_int(11, 110)] = (unsigned char)" %0f\"x"[test_int(0, 5)];
        g = cnn_load_memory(bad, bytes, (cnn_load_args){ .max_batch = 2 });
        cnn_free(g);
    }
    d.names = NULL, cnn_dataset_free(&r), r = data_of(s, BY_LABEL);
    CHECK(cnn_remember(n.g, &r) && !cnn_class_name(n.g, 0) && cnn_save_memory(n.g, NULL, 0) < bytes);
    CHECK(!cnn_remember(NULL, &d) && !cnn_remember(n.g, NULL));
    r.deviation[0] = 0, r.mean[0] = 0.5f;                                       /* as it is fed: divided by 1 */
    CHECK(cnn_remember(n.g, &r));
    const size_t again = cnn_save_memory(n.g, file, sizeof file);
    g = cnn_load_memory(file, again, (cnn_load_args){ .max_batch = 2 }), cnn_recall(g, &r);
    CHECK_STR(cnn_error(g), NULL), CHECK(r.deviation[0] == 1 && r.mean[0] == 0.5f);
    cnn_free(g), r.mean[2] = NAN;
    CHECK(!cnn_remember(n.g, &r));
    CHECK_STR(test_words(cnn_error(n.g)), "remember: channel 2 has mean nan and deviation 1: they must be finite numbers");
    cnn_free(n.g), cnn_dataset_free(&d), cnn_dataset_free(&r), free(s);
}

/* ---- Resuming: float targets, masks, mixup, streams; the history of epochs and of updates ---- */

typedef struct { int batch, epoch; } stop;
static bool stops(const cnn_progress *p, void *user)
{
    const stop *s = user;
    return !(p->epoch == s->epoch && p->batch == s->batch && !p->epoch_done);
}

static void resumed(void)
{
    samples *s = new_samples();
    const char *path = "build/test_tasks.safetensors";
    for (int k = 0; k < TASKS + 2; k++) {
        const task  t = k < TASKS ? (task)k : k == TASKS ? BY_SOFT_LABEL : BY_VALUE;
        stream      u = { .s = s, .t = t == BY_SOFT_LABEL ? BY_LABEL : t };
        cnn_dataset d = k < TASKS ? data_of(s, t) : stream_of(&u);
        const cnn_augment how = { .shift = 1, .flip = CNN_FLIP_RANDOM, .outside = 255, .mixup = t == BY_LABEL || t == BY_MASK ? 0 : 0.3f,
                                  .cutmix = t == BY_LABEL ? 0 : 0.7f };
        cnn_augment augment = how;
        if (t == BY_SOFT_MASK) augment.outside = 0;
        for (int at = 0; at < 2; at++) {
            stop st = { at ? 3 : 6, at ? 2 : 1 };
            cnn_history h = { .count = 0 }, once = { .count = 0 };
            net a = net_of(t, 1), b = net_of(t, 2), c = net_of(t, 1);
            remove(path);
            CHECK(cnn_fit(a.loss, a.y, &d, .epochs = 3, .lr = 0.01f, .augment = augment, .history = &once, .per_update = 1));
            CHECK(cnn_fit(b.loss, b.y, &d, .epochs = 3, .lr = 0.01f, .augment = augment, .history = &h, .per_update = 1, .checkpoint = path,
                          .progress = stops, .user = &st));
            CHECK(!same_nets(a.g, b.g));
            cnn_history_free(&h);
            CHECK(cnn_fit(c.loss, c.y, &d, .epochs = 3, .lr = 0.01f, .augment = augment, .history = &h, .per_update = 1, .checkpoint = path, .resume = 1));
            CHECK_STR(cnn_error(c.g), NULL);
            CHECK_MSG(same_nets(a.g, c.g), "task %d", k);
            CHECK(h.count == 3 && once.count == 3 && h.updates == 18 && once.updates == 18);
            for (int i = 0; i < 3 && h.count == 3; i++) {
                cnn_epoch p = once.epoch[i], q = h.epoch[i];
                p.seconds = q.seconds = 0;
                CHECK_MSG(memcmp(&p, &q, sizeof p) == 0, "task %d, epoch %d: %g %g %g; %g %g %g", k, i, p.loss, p.accuracy, p.r2, q.loss, q.accuracy, q.r2);
            }
            CHECK(h.updates == once.updates && memcmp(h.update, once.update, (size_t)h.updates * sizeof *h.update) == 0);
            cnn_history_free(&h), cnn_history_free(&once), cnn_free(a.g), cnn_free(b.g), cnn_free(c.g);
        }
        cnn_dataset_free(&d);
    }
    remove(path), free(s);
}

/* The loss and rate of each update; accumulated batches are one; as CSV. */
static void updates_in_history(void)
{
    samples *s = new_samples();
    cnn_dataset d = data_of(s, BY_VALUE);
    cnn_history h = { .count = 0 };
    net n = net_of(BY_VALUE, 1);
    char text[200] = "";
    CHECK(cnn_fit(n.loss, n.y, &d, .epochs = 2, .lr = 0.5f, .warmup = 4, .accumulate = 2, .history = &h, .per_update = 1));
    CHECK_INT(h.updates, 6);
    CHECK_NEAR((16 * (h.update[0].loss + h.update[1].loss) + 12 * h.update[2].loss) / 44, h.epoch[0].loss, 1e-12);
    CHECK(h.update[0].lr == 0.125 && h.update[3].lr == 0.5 && h.update[5].lr == 0.5);
    h.updates = 2, h.update[1].loss = 0.25;
    CHECK(cnn_history_updates_csv(&h, "build/test_tasks.csv"));
    FILE *f = fopen("build/test_tasks.csv", "r");
    if (f) text[fread(text, 1, sizeof text - 1, f)] = 0, fclose(f);
    CHECK(strncmp(text, "update,loss,lr\n1,", 17) == 0 && strstr(text, "\n2,0.250000,0.250000000\n"));
    CHECK(!cnn_history_updates_csv(NULL, "x") && !cnn_history_updates_csv(&h, "no/such/file"));
    remove("build/test_tasks.csv"), cnn_history_free(&h), cnn_free(n.g), cnn_dataset_free(&d), free(s);
}

/* ---- Faults ---- */

static void allocations_fail(void)
{
    samples *s = new_samples();
    for (long k = 1; k < 40; k++) {
        stream u = { .s = s, .t = BY_VALUE };
        net n = net_of(BY_VALUE, 1);
        cnn_dataset d = stream_of(&u);
        static const char *const names[] = { "a", "b", NULL };
        cnn_history h = { .count = 0 };
        d.names = names;
        alloc_fail = alloc_count + k;
        const bool good = cnn_fit(n.loss, n.y, &d, .epochs = 2, .lr = 0.01f, .validation = &d, .history = &h, .per_update = 1);
        const bool failed = alloc_count >= alloc_fail;
        alloc_fail = 0;
        CHECK_MSG(good == !failed, "allocation %ld", k);
        if (failed) CHECK_MSG(cnn_error(n.g) && strstr(cnn_error(n.g), "out of memory"), "%s", cnn_error(n.g) ? cnn_error(n.g) : "no error");
        d.names = NULL, cnn_history_free(&h), cnn_free(n.g), cnn_dataset_free(&d);
    }
    CHECK_INT(alloc_live, 0);
    free(s);
}

static void wrong_targets(void)
{
    samples *s = new_samples();
    for (int k = 0; k < 6; k++) {
        const task  has = k == 0 ? BY_VALUE : k == 1 ? BY_MASK : k == 2 ? BY_LABEL : k == 3 ? BY_MANY : BY_LABEL;
        const task  wants = k == 0 ? BY_LABEL : k == 1 ? BY_LABEL : k == 2 ? BY_MASK : k == 3 ? BY_VALUE : BY_VALUE;
        cnn_dataset d = data_of(s, has), bare = cnn_data(COUNT, 1, SIDE, SIDE, .bytes = s->pixel);
        net n = net_of(wants, 1);
        static const char *const why[6] = {
            "fit: the targets have shape (3,1,1), \"labels\" has (N,1,1,1)", "fit: the targets have shape (1,6,6), \"labels\" has (N,1,1,1)",
            "fit: the targets have shape (1,1,1), \"labels\" has (N,1,6,6)", "fit: the targets have shape (4,1,1), \"t\" has (N,3,1,1)",
            "fit: the data set has no targets", NULL };
        const bool good = cnn_fit(n.loss, n.y, k == 4 ? &bare : &d, .lr = 0.01f);
        if (k < 5) { CHECK(!good); CHECK_STR(test_words(cnn_error(n.g)), why[k]); }
        else CHECK_STR(test_words(cnn_error(n.g)), "feed: label 3 of sample 11 is none of the 3 channels of \"t\"");
        if (k == 5) {                                                           /* what is refused changes nothing */
            cnn_clear_error(n.g), cnn_set_batch(n.g, BATCH - 1);
            CHECK(!cnn_feed(n.x, n.t, &d, 0) && cnn_batch(n.g) == BATCH - 1);
        }
        cnn_free(n.g), cnn_dataset_free(&d), cnn_dataset_free(&bare);
    }
    cnn_dataset both = cnn_data(4, 1, .bytes = s->pixel, .floats = s->soft), two = cnn_data(4, 1, .bytes = s->pixel, .labels = s->label, .targets = s->soft);
    CHECK(both.error[0] && two.error[0]);
    s->label[1] = (1 << 24) + 1;
    cnn_dataset large = data_of(s, BY_LABEL);
    CHECK_STR(large.error, "data set: label 16777217 of sample 1: it must be within +-2^24");
    cnn_dataset_free(&large), free(s);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    mkdir("build", 0777);
    RUN(tasks_are_learned); RUN(errors_and_r2); RUN(autoencoder); RUN(thousand_classes); RUN(void_labels); RUN(void_class); RUN(labels_of_one_channel); RUN(input_as_soft_labels);
    RUN(soft_labels_as_pytorch);
    RUN(targets_in_files); RUN(masks_move); RUN(mixed_samples); RUN(mixing_is_refused); RUN(streams); RUN(streams_fail);
    RUN(pictures_as_pillow); RUN(folders); RUN(folders_fail); RUN(remembered); RUN(resumed); RUN(updates_in_history);
    RUN(allocations_fail); RUN(wrong_targets);
    return test_end();
}
