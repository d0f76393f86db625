/* Print a hash of the weights of four nets after 20 training steps: one line a net, for the instruction set in
   the environment variable CNN_ISA and the number of threads given (default 1).
       ./bits [threads [net]]
   Two builds that print the same lines compute the same bits. See tests/bits.sh. */
#define main zoo_main
#include "examples/zoo.c"
#undef main

static uint64_t hash(uint64_t h, const void *p, size_t bytes)            /* FNV-1a */
{
    for (const unsigned char *b = p; bytes-- > 0; b++) h = (h ^ *b) * 1099511628211u;
    return h;
}

static uint64_t state = 1;
static uint32_t draw(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static int train(const char *name, T *(*build)(T *), cnn_shape s, int head, const cnn_optimizer *rule, float lr,
                 int threads)
{
    cnn_graph *g = cnn_new(.max_batch = s.n, .seed = 7, .threads = threads, .optimizer = rule);
    T *x = cnn_input(g, s.c, s.h, s.w), *t = cnn_labels(g), *y = build(x);
    if (head) y = cnn_dense(cnn_dropout(y, .p = 0.2f), 10);
    T *loss = cnn_softmax_cross_entropy(y, t, .smoothing = 0.1f);
    if (!cnn_compile(g, loss)) return fail(g);
    float total = 0;
    state = 1;
    for (int step = 0; step < 20; step++) {
        cnn_set_batch(g, step % 5 == 4 ? s.n - 1 : s.n);                    /* a smaller batch now and then */
        float *pixel = cnn_map_write(x), *label = cnn_map_write(t);
        if (!pixel || !label) return fail(g);
        for (size_t i = 0, n = cnn_count(x); i < n; i++) pixel[i] = (float)(draw() >> 7) / 8388608.0f - 1;
        for (size_t i = 0, n = cnn_count(t); i < n; i++) label[i] = (float)(draw() % 10);
        total += cnn_forward(loss, CNN_TRAIN);
        cnn_backward(loss);
        cnn_clip_grads(g, 5);
        cnn_step(g, .lr = lr, .momentum = rule == cnn_sgd() ? 0.9f : 0.0f, .weight_decay = 1e-4f);
    }
    float        eval = cnn_forward(loss, CNN_EVAL);
    size_t       n;
    const float *w = cnn_flat_params(g, &n);
    if (!w) return fail(g);
    uint64_t h = hash(hash(hash(14695981039346656037u, w, n * sizeof *w), &total, sizeof total), &eval, sizeof eval);
    printf("%-12s %016llx  loss %.4f %.4f\n", name, (unsigned long long)h, (double)total / 20, (double)eval);
    cnn_free(g);
    return 0;
}

int main(int argc, char **argv)
{
    const int threads = argc > 1 ? atoi(argv[1]) : 1, all = argc < 3;
    int       bad = 0;
    if (all || !strcmp(argv[2], "lenet5"))
        bad |= train("lenet5", lenet5, (cnn_shape){ 16, 1, 28, 28 }, 0, cnn_sgd(), 0.05f, threads);
    if (all || !strcmp(argv[2], "keras"))
        bad |= train("keras", keras_mnist, (cnn_shape){ 16, 1, 28, 28 }, 0, cnn_adamw(), 0.002f, threads);
    if (all || !strcmp(argv[2], "resnet20"))
        bad |= train("resnet20", resnet20, (cnn_shape){ 8, 3, 32, 32 }, 0, cnn_adam(), 0.002f, threads);
    if (all || !strcmp(argv[2], "mobilenet_v2"))
        bad |= train("mobilenet_v2", mobilenet_v2, (cnn_shape){ 4, 3, 64, 64 }, 1, cnn_rmsprop_centered(), 1e-4f,
                     threads);
    return bad;
}
