/* places.c - for tests/places.sh: the operation, the optimizer and the instruction set that it put into a copy of
   cnn.h work wherever those of the library do. CNN_ISA is c4 in the environment. */
#include "cnn.h"
#include "test.h"

static void operation(void)                      /* gradient, fusion behind batch norm, model file */
{
    cnn_graph  *g = cnn_new(.max_batch = 4, .seed = 2);
    cnn_tensor *x = cnn_input(g, 2, 5, 5), *t = cnn_input(g, 3);
    cnn_tensor *y = cnn_dense(cnn_snake(cnn_batch_norm(cnn_conv2d(x, 4, 3))), 3), *loss = cnn_mse(y, t);
    float       in[200], out[12];
    test_fill(in, 200, -1, 1), test_fill(out, 12, -1, 1);
    CHECK_MSG(cnn_compile(g, loss) && cnn_set(x, in, 200) && cnn_set(t, out, 12), "%s", cnn_error(g));
    CHECK(cnn_gradient_check(loss, 0).worst < 1e-2);
    const float before = cnn_forward(loss, CNN_EVAL);
    size_t      bytes = cnn_save_memory(g, NULL, 0);
    void       *file = test_alloc(bytes);
    CHECK(cnn_save_memory(g, file, bytes) == bytes);
    cnn_graph *h = cnn_load_memory(file, bytes, (cnn_load_args){ .max_batch = 4 });
    CHECK_MSG(!cnn_error(h), "%s", cnn_error(h));
    CHECK(cnn_set(cnn_find(h, x->name), in, 200) && cnn_set(cnn_find(h, t->name), out, 12));
    CHECK(cnn_forward(cnn_loss(h), CNN_EVAL) == before);
    cnn_free(g), cnn_free(h), free(file);
}

static void optimizer(void)                      /* in the list, by its formula, with its options */
{
    int  n, found = 0;
    const cnn_optimizer *const *all = cnn_optimizers(&n);
    for (int i = 0; i < n; i++) found += strcmp(all[i]->name, "lion") == 0;
    CHECK_INT(found, 1);
    cnn_graph  *g = cnn_new(.optimizer = cnn_lion());
    cnn_tensor *w = cnn_param(g, "w", { 1, 1, 1, 1 }, CNN_INIT_CONSTANT, 2), *x = cnn_input(g, 1);
    cnn_tensor *loss = cnn_sum(cnn_mul(x, w));
    const float dw[3] = { 3, -0.01f, -9 };
    double      want = 2, m = 0;
    float       got;
    CHECK(cnn_compile(g, loss));
    for (int i = 0; i < 3; i++) {
        cnn_set(x, dw + i, 1), cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
        CHECK_MSG(cnn_step(g, .lr = 0.1f, .weight_decay = 0.5f), "%s", cnn_error(g));
        const double c = 0.9 * m + 0.1 * (double)dw[i];
        want -= 0.1 * ((c > 0) - (c < 0) + 0.5 * want);
        m = 0.99 * m + 0.01 * (double)dw[i];
    }
    CHECK(cnn_get(w, &got, 1));
    CHECK_NEAR(got, want, 1e-6);
    CHECK(!cnn_step(g, .lr = 0.1f, .momentum = 0.9f) && strstr(cnn_error(g), "lion"));
    cnn_free(g);
}

static float lenet_loss(cnn_isa isa, char *summary, size_t room)
{
    cnn_graph  *g = cnn_new(.max_batch = 4, .seed = 3, .isa = isa);
    cnn_tensor *x = cnn_input(g, 1, 28, 28), *t = cnn_labels(g), *h = x;
    h = cnn_avg_pool(cnn_tanh(cnn_conv2d(h, 6, 5, .pad = 2)), 2);
    h = cnn_avg_pool(cnn_tanh(cnn_conv2d(h, 16, 5)), 2);
    h = cnn_dense(cnn_tanh(cnn_dense(cnn_tanh(cnn_dense(h, 120)), 84)), 10);
    cnn_tensor *loss = cnn_softmax_cross_entropy(h, t);
    static float pixels[4 * 784];
    const int    labels[4] = { 1, 2, 3, 4 };
    test__state = 4, test_fill(pixels, 4 * 784, -1, 1);
    CHECK_MSG(cnn_compile(g, loss) && cnn_set(x, pixels, 4 * 784) && cnn_set_labels(t, labels, 4), "%s", cnn_error(g));
    for (int i = 0; i < 5; i++) cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_step(g, .lr = 0.1f);
    FILE *f = tmpfile();
    if (f) {
        cnn_summary(g, f), rewind(f);
        summary[fread(summary, 1, room - 1, f)] = 0, fclose(f);
    }
    const float last = cnn_forward(loss, CNN_EVAL);
    cnn_free(g);
    return last;
}

static void instruction_set(void)                /* picked by its name, shown in the summary */
{
    static char text[8000] = "";
    const float plain = lenet_loss(CNN_ISA_PLAIN, text, sizeof text);
    CHECK(!text[0] || strstr(text, "plain"));
    CHECK_NEAR(lenet_loss(CNN_ISA_AUTO, text, sizeof text), plain, 1e-5);
    CHECK(!text[0] || strstr(text, "cpu c4"));
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(operation);
    RUN(optimizer);
    RUN(instruction_set);
    return test_end();
}
