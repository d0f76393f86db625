/* regress.c - regression: where is the disc, how large is it, and how bright?

     cc -std=c99 -O2 examples/regress.c -o regress -lm && ./regress [EPOCHS]

   The target of a picture is four numbers. The data set is a stream: no picture lies in memory; each is drawn
   when its batch is wanted, in a second thread, while the net computes with the batch before. A picture is a
   function of its number and the epoch, so no epoch repeats another, and a training that is resumed sees the
   same pictures. Judged are 512 pictures of another stream, by the mean absolute error, and by R2 = 1 - sum
   (y-t)^2 / sum (t-mean)^2: 1 is perfect, 0 what a constant would reach. */
#define CNN_STATIC                      /* the only file: what it does not use is not compiled */
#define CNN_IMPLEMENTATION
#include "../cnn.h"

enum { SIZE = 24, PIXELS = SIZE * SIZE, NUMBERS = 4 };
static const char *const what[NUMBERS] = { "x", "y", "radius", "brightness" };

static float roll(uint64_t *state)                 /* uniform in [0,1): splitmix64 (Steele et al. 2014) */
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (float)((z ^ (z >> 31)) >> 40) / 16777216.0f;
}

/* Picture number `index` of an epoch; user: the seed of the stream. All targets are about -1 to 1. */
static bool draw(cnn_request *want, void *user)
{
    for (int i = 0; i < want->n; i++) {
        uint64_t number = (uint64_t)want->epoch << 32 | (uint32_t)want->index[i];
        uint64_t s = *(const uint64_t *)user + number * 0xD1B54A32D192ED03u;
        float   *pixel = want->floats + i * PIXELS, *target = want->targets + i * NUMBERS;
        for (int k = 0; k < NUMBERS; k++) target[k] = 2 * roll(&s) - 1;
        float x = 12 + 6 * target[0], y = 12 + 6 * target[1], r = 4 + 2 * target[2];
        for (int k = 0; k < PIXELS; k++) {
            float dx = (float)(k % SIZE) - x, dy = (float)(k / SIZE) - y;
            float inside = fmaxf(0, fminf(1, r - sqrtf(dx * dx + dy * dy) + 0.5f));
            pixel[k] = (0.7f + 0.3f * target[3]) * inside + 0.2f * (roll(&s) - 0.5f);
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    int      epochs = argc > 1 ? atoi(argv[1]) : 10, status = 1;
    uint64_t seed[2] = { 1, 2 };
    cnn_dataset train = cnn_data(4096, 1, SIZE, SIZE, .fill = draw, .user = &seed[0], .target_type = CNN_F32,
                                 .target_c = NUMBERS);
    cnn_dataset test  = cnn_data(512, 1, SIZE, SIZE, .fill = draw, .user = &seed[1], .target_type = CNN_F32,
                                 .target_c = NUMBERS);
    cnn_standardize(&test, &train), cnn_standardize(&train, &train);

    cnn_graph  *g = cnn_new(.max_batch = 32, .seed = 1, .optimizer = cnn_adam());
    cnn_tensor *x = cnn_input(g, 1, SIZE, SIZE), *t = cnn_input(g, NUMBERS, .name = "target"), *h = x;
    for (int channels = 8; channels <= 32; channels *= 2)
        h = cnn_max_pool(cnn_relu(cnn_conv2d(h, channels, 3, .pad = 1)), 2);
    cnn_tensor *y = cnn_dense(cnn_relu(cnn_dense(h, 64)), NUMBERS), *loss = cnn_mse(y, t);
    cnn_compile(g, loss);
    cnn_history history = { 0 };
    cnn_fit(loss, y, &train, .epochs = epochs, .lr = 0.003f, .schedule = cnn_cosine, .validation = &test,
            .progress = cnn_print_progress, .history = &history);

    cnn_score s = cnn_evaluate(loss, y, &test);
    float     said[NUMBERS], is[NUMBERS];
    printf("%d new pictures: mean absolute error %.3f, R2 %.4f\n", s.count, s.mae, s.r2);
    cnn_feed(x, t, &test, 0), cnn_forward(y, CNN_EVAL);
    const float *all = cnn_map_read(y), *truth = all ? cnn_map_read(t) : NULL;
    if (truth) memcpy(said, all, sizeof said), memcpy(is, truth, sizeof is);
    for (int k = 0; truth && k < NUMBERS; k++)
        printf("first picture: %-10s %6.3f, is %6.3f\n", what[k], (double)said[k], (double)is[k]);
    cnn_history_svg(&history, "regress.svg");                      /* curves of loss and R2 */
    if (!cnn_error(g)) status = 0;
    else fprintf(stderr, "%s\n", cnn_error(g));
    cnn_history_free(&history), cnn_free(g), cnn_dataset_free(&train), cnn_dataset_free(&test);
    return status;
}
