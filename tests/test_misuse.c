/* test_misuse.c - every function called at every wrong time: without a graph, after an error, before cnn_compile, before
   any data, without memory, on nets that it cannot serve. Nothing crashes or leaks, no message is empty, and after
   cnn_clear_error a compiled net runs on. */
#include "cnn.h"
#include "alloc.h"
#include "test.h"

static const unsigned char idx[20] = { 0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3, 4 };
static const unsigned char idx_labels[9] = { 0, 0, 8, 1, 0, 0, 0, 1, 1 }, gzip[20] = { 0x1f, 0x8b, 8 }, record[3073] = { 3 };
static const char          npy[] = "\x93NUMPY\1\0\x46\0{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 1, 1), }      \n12341234";

typedef struct { cnn_graph *g; cnn_tensor *x, *t, *w, *y, *loss; } net;
typedef enum { NOTHING, ILL, RECORDED, COMPILED, RUN, STEPPED, INFERENCE, PIXELS, TWO_INPUTS, STATES } state;

static const float         values[2 * 36];
static const unsigned char classes[4] = { 0, 1, 1, 0 };
static const float         images[4 * 36] = { 1, 2, 3 };

static net new_net(state s)
{
    net n = { 0 };
    if (s == NOTHING) return n;
    n.g = cnn_new(.max_batch = 2, .seed = 1, .inference = s == INFERENCE);
    n.x = cnn_input(n.g, 1, 6, 6, .grad = s == RUN);
    n.t = s == PIXELS ? cnn_labels(n.g, .h = 4, .w = 4) : cnn_labels(n.g);
    cnn_tensor *h = cnn_relu(cnn_batch_norm(cnn_conv2d(n.x, 2, 3, .name = "c")));
    n.y = s == PIXELS ? cnn_keep(h) : cnn_dense(s == TWO_INPUTS ? cnn_add(h, cnn_input(n.g, 2, 4, 4)) : h, 2);
    if (s == ILL) cnn_dense(n.x, 0);
    n.loss = s == INFERENCE ? n.y : cnn_softmax_cross_entropy(n.y, n.t);
    if (s >= COMPILED) CHECK(cnn_compile(n.g, n.loss));
    n.w = cnn_find(n.g, "c.weight");
    if (s >= RUN && s != TWO_INPUTS) {
        int label[2 * 16] = { 0, 1 };
        CHECK(cnn_set(n.x, values, 72) && (s == INFERENCE || cnn_set_labels(n.t, label, s == PIXELS ? 32 : 2)));
        cnn_forward(n.loss, s == INFERENCE ? CNN_EVAL : CNN_TRAIN);
        if (s != INFERENCE) cnn_backward(n.loss);
        if (s == STEPPED) cnn_step(n.g, .lr = 0.1f), cnn_average(n.g, 0.5f), cnn_forward(n.loss, CNN_EVAL);
    }
    return n;
}

static bool stop(const cnn_progress *p, void *user) { return (void)p, (void)user, false; }
static float no_rate(float progress, void *user) { return (void)user, progress < 0 ? 1 : NAN; }
static bool write_nothing(FILE *f, void *user) { return (void)f, (void)user, false; }

/* Call number `call`; false behind the last. */
static bool make_call(int call, net n, cnn_dataset *d, cnn_dataset *ill, FILE *f)
{
    float       v[128] = { 0 };
    int         label[32] = { 0 };
    size_t      count;
    char        text[300];
    cnn_dataset copy = *d;
    cnn_history h = { .count = 0 };
    switch (call) {
#define COPY(made) copy = made, cnn_dataset_free(&copy)
#define FIT(...) cnn_fit(n.loss, n.y, d, .lr = 0.1f, __VA_ARGS__)
    case 0: cnn_forward(n.loss, CNN_TRAIN), cnn_backward(n.loss); break;
    case 1: cnn_backward_add(n.loss), cnn_backward(n.y); break;
    case 2: cnn_step(n.g, .lr = 0.1f); break;
    case 3: cnn_step(n.g, .lr = NAN); break;
    case 4: cnn_step(n.g, .lr = 1, .dampening = 0.5f); break;
    case 5: cnn_step(n.g, .lr = 1, .dampening = 0.5f, .nesterov = 1, .momentum = 0.9f); break;
    case 6: cnn_set_lr_scale(n.g, "*", NAN); break;
    case 7: cnn_set_lr_scale(n.g, "*", INFINITY); break;
    case 8: cnn_set_lr_scale(n.g, NULL, 1); break;
    case 9: cnn_set_decay_scale(n.g, "nothing", 1); break;
    case 10: cnn_set_lr_scale(n.g, "c.*", 0), cnn_step(n.g, .lr = 0.1f); break;
    case 11: cnn_clip_grads(n.g, 0); break;
    case 12: cnn_clip_grads(n.g, 1e-6f); break;
    case 13: cnn_average(n.g, 1); break;
    case 14: cnn_average(n.g, NAN); break;
    case 15: cnn_average(n.g, 0.5f), cnn_average(n.g, 0.5f), cnn_swap_average(n.g), cnn_swap_average(n.g); break;
    case 16: cnn_set_batch(n.g, 0); break;
    case 17: cnn_set_batch(n.g, 3); break;
    case 18: cnn_set(n.x, v, 35); break;
    case 19: cnn_set(n.x, v, 36), cnn_forward(n.loss, CNN_TRAIN); break;
    case 20: cnn_set(n.y, v, 4); break;
    case 21: cnn_set_labels(n.t, label, 0); break;
    case 22: cnn_set_labels(n.t, label, 32), cnn_set_labels(n.t, label, 31); break;
    case 23: cnn_set_labels(n.x, label, 2); break;
    case 24: cnn_get(n.y, v, 4); break;
    case 25: cnn_get(n.y, v, 3); break;
    case 26: cnn_get_grad(n.w, v, 18), cnn_get_grad(n.x, v, 72), cnn_get_grad(n.loss, v, 1); break;
    case 27: cnn_get_grad(n.x, v, 72); break;
    case 28: cnn_get_grad(n.t, v, 2); break;
    case 29: cnn_get_grad(n.y, v, 4); break;
    case 30: cnn_get_grad(n.w, v, 17); break;
    case 31: cnn_flat_params(n.g, NULL), cnn_flat_grads(n.g, &count); break;
    case 32: cnn_evaluate(n.loss, n.y, d); break;
    case 33: cnn_evaluate(n.loss, n.y, ill); break;
    case 34: cnn_evaluate(n.loss, NULL, d); break;
    case 35: cnn_evaluate_flipped(n.loss, n.y, d); break;
    case 36: cnn_evaluate_flipped(n.loss, n.y, NULL); break;
    case 37: cnn_confusion(n.y, d, label); break;
    case 38: cnn_confusion(n.y, ill, label); break;
    case 39: cnn_confusion(n.y, NULL, label); break;
    case 40: cnn_confusion(n.y, d, NULL); break;
    case 41: cnn_top_k(n.y, d, 1); break;
    case 42: cnn_top_k(n.y, d, 0); break;
    case 43: cnn_predict(n.x, n.y, images, v); break;
    case 44: cnn_predict(n.x, n.y, NULL, v); break;
    case 45: cnn_predict(n.w, n.y, images, NULL); break;
    case 46: cnn_correct(n.y, n.t); break;
    case 47: cnn_correct(n.y, n.w); break;
    case 48: cnn_correct(NULL, n.t), cnn_correct(n.x, n.t); break;
    case 49: cnn_feed(n.x, n.t, d, 0); break;
    case 50: cnn_feed(n.x, n.x, d, 0); break;
    case 51: cnn_feed(n.w, n.t, d, 0); break;
    case 52: cnn_feed(n.y, n.t, d, 0); break;
    case 53: cnn_feed(n.x, n.t, ill, 0); break;
    case 54: cnn_feed(NULL, n.t, d, 0), cnn_feed(n.x, NULL, d, 3), cnn_feed(n.x, NULL, d, 9); break;
    case 55: FIT(.epochs = 2, .validation = d, .patience = 1, .history = &h, .average = 0.5f); break;
    case 56: FIT(.epochs = -1); break;
    case 57: FIT(.lr_end = NAN); break;
    case 58: FIT(.lr_end = INFINITY); break;
    case 59: FIT(.clip = NAN); break;
    case 60: FIT(.clip = INFINITY); break;
    case 61: FIT(.average = 1); break;
    case 62: FIT(.average = -1); break;
    case 63: FIT(.resume = 1); break;
    case 64: FIT(.patience = 1); break;
    case 65: FIT(.patience = -1); break;
    case 66: FIT(.augment = { .cutout = -1 }); break;
    case 67: FIT(.augment = { .cutout = 13 }); break;
    case 68: FIT(.augment = { .flip = 9 }); break;
    case 69: FIT(.augment = { .cutout = 2, .flip = CNN_FLIP_ALTERNATE, .shift = 1 }); break;
    case 70: FIT(.schedule = no_rate); break;
    case 71: FIT(.progress = stop, .epochs = 3); break;
    case 72: FIT(.accumulate = 2, .clip = 1, .lr_end = 0.01f, .warmup = 1); break;
    case 73: FIT(.checkpoint = "no/such/folder/x", .checkpoint_every = 1, .epochs = 2); break;
    case 74: cnn_fit(n.loss, n.y, ill, .lr = 1); break;
    case 75: cnn_fit(n.y, n.loss, d, .lr = 1); break;
    case 76: cnn_fit(n.loss, n.y, d, .lr = 1e30f, .epochs = 3); break;
    case 77: cnn_summary(n.g, f), cnn_dot(n.g, f); break;
    case 78: cnn_summary(n.g, NULL), cnn_dot(n.g, NULL); break;
    case 79: cnn_doctor(n.g, 1), cnn_doctor_report(n.g), cnn_forward(n.loss, CNN_TRAIN), cnn_doctor(n.g, 0); break;
    case 80: cnn_checkup(n.loss, text, sizeof text); break;
    case 81: cnn_checkup(n.y, text, 0); break;
    case 82: cnn_profile(n.loss, 0, f); break;
    case 83: cnn_profile(n.y, 1, f); break;
    case 84: cnn_trace(n.loss, 0, f); break;
    case 85: cnn_trace(n.y, 0, f); break;
    case 86: cnn_gradient_check(n.loss, 1); break;
    case 87: cnn_gradient_check(n.y, 1); break;
    case 88: cnn_write_filters(n.w, "build/misuse.pgm", 1), cnn_write_filters(n.y, "build/misuse.pgm", 0); break;
    case 89: cnn_write_filters(n.x, "build/misuse.pgm", 1); break;
    case 90: cnn_write_maps(n.y, 0, "build/misuse.pgm", 1); break;
    case 91: cnn_write_maps(n.x, 2, "build/misuse.pgm", -1); break;
    case 92: cnn_write_maps(n.x, 1, "build/misuse.png", 2); break;
    case 93: cnn_write_image("build/misuse.png", images, { 4, 1, 6, 6 }, .columns = -1); break;
    case 94: cnn_write_image("build/misuse.pgm", images, { 4, 1, 6, 6 }, .columns = 9); break;
    case 95: cnn_write_image("build/misuse.pgm", images, { 4, 1, 6, 6 }, .scale = 1 << 30); break;
    case 96: cnn_save(n.g, "no/such/folder/x"), cnn_save_checkpoint(n.g, NULL); break;
    case 97: cnn_save_memory(n.g, NULL, 0), cnn_save_checkpoint_memory(n.g, text, sizeof text); break;
    case 98: cnn_load_weights_memory("ill", 3, (cnn_load_weights_args){ .g = n.g, .path = "text" }); break;
    case 99: cnn_load_weights(n.g, NULL); break;
    case 100: cnn_load_weights(n.g, "no/such/file"); break;
    case 101: cnn_find(n.g, NULL), cnn_find(n.g, "nothing"), cnn_node(n.g, -1), cnn_node(n.g, 999), cnn_output(n.g); break;
    case 102: cnn_name(n.x, NULL), cnn_name(n.x, "late"); break;
    case 103: cnn_freeze(n.w); break;
    case 104: cnn_keep(n.y); break;
    case 105: cnn_compile(n.g, n.y); break;
    case 106: cnn_compile(n.g, NULL); break;
    case 107: cnn_plan(n.g, n.loss), cnn_plan(n.g, n.y), cnn_plan(n.g, n.x); break;
    case 108: cnn_free(cnn_share(n.g, .max_batch = 1)); break;
    case 109: cnn_leave_device(n.g), cnn_copies(n.g), cnn_on_device(n.y); break;
    case 110: cnn_param_count(n.g), cnn_multiply_adds(n.g), cnn_batch(n.g), cnn_count(n.y), cnn_notice(n.g, NULL); break;
    case 111: cnn_shuffle(&copy, 1), cnn_shuffle(NULL, 1); break;
    case 112: copy = cnn_split(d, 3, 2), cnn_dataset_free(&copy), copy = cnn_split(d, -1, 2), cnn_dataset_free(&copy); break;
    case 113: copy = cnn_split(NULL, 0, 1), cnn_dataset_free(&copy), copy = cnn_split(d, 0, 0), cnn_dataset_free(&copy); break;
    case 114: copy = cnn_split(d, 0, 2), cnn_standardize(&copy, ill), cnn_dataset_free(&copy), cnn_standardize(NULL, d); break;
    case 115: cnn_write_file("build/misuse", write_nothing, NULL), cnn_write_file(NULL, write_nothing, NULL); break;
    case 116: cnn_write_file("/dev/full", write_nothing, NULL), cnn_history_csv(&h, "/dev/full"); break;
    case 117: FIT(.epochs = 2, .checkpoint = "build/misuse.safetensors", .checkpoint_every = 1), FIT(.epochs = 3,
                  .checkpoint = "build/misuse.safetensors", .resume = 1, .history = &h); break;
    case 118: cnn_free(cnn_load("build/misuse.safetensors")), cnn_free(cnn_load("build/misuse.safetensors", .inference = 1)); break;
    case 119: cnn_load_weights(n.g, "build/misuse.safetensors"); break;
    case 120: COPY(cnn_bytes(NULL, NULL, 1, 1, 1, 1)); COPY(cnn_bytes(classes, classes, 4, 1, 1, 1)); break;
    case 121: COPY(cnn_floats(NULL, NULL, 1, 1, 1, 1)); COPY(cnn_floats(images, NULL, 0, 1, 1, 1)); break;
    case 122: COPY(cnn_idx_memory(idx, 20, idx_labels, 9)); COPY(cnn_idx_memory(idx, 20, NULL, 0)); break;
    case 123: COPY(cnn_idx_memory(NULL, 0, idx_labels, 9)); COPY(cnn_idx_memory(gzip, 20, NULL, 0)); break;
    case 124: COPY(cnn_cifar_memory(record, 3073, 10)); COPY(cnn_cifar_memory(NULL, 0, 10)); COPY(cnn_cifar_memory(gzip, 20, 10)); break;
    case 125: COPY(cnn_csv_memory("1,2,3\n0,5,6\n", 12, (cnn_csv_args){ .path = "x" })); break;
    case 126: COPY(cnn_csv_memory("1,2,1e40\n", 9, (cnn_csv_args){ .path = NULL })); COPY(cnn_csv_memory(gzip, 20, (cnn_csv_args){ .path = "x" })); break;
    case 127: COPY(cnn_csv_memory("1,2,3\n", 6, (cnn_csv_args){ .path = "x", .c = 7 })); COPY(cnn_csv_memory(NULL, 0, (cnn_csv_args){ .path = "x" })); break;
    case 128: COPY(cnn_npy_memory(NULL, 0, NULL, 0)); COPY(cnn_npy_memory(gzip, 20, NULL, 0)); COPY(cnn_npy_memory(npy, sizeof npy - 1, NULL, 0)); break;
    case 129: COPY(cnn_load_idx("build", NULL)); COPY(cnn_load_idx("no/such", "file")); COPY(cnn_load_idx(NULL, NULL)); break;
    case 130: COPY(cnn_load_csv("build")); COPY(cnn_load_csv("no/such")); COPY(cnn_load_csv(NULL)); COPY(cnn_load_csv("README.md")); break;
    case 131: COPY(cnn_load_npy("build", NULL)); COPY(cnn_load_npy("no/such", "file")); COPY(cnn_load_npy(NULL, NULL)); break;
    case 132: COPY(cnn_load_cifar(NULL, 1, 10)); COPY(cnn_load_cifar((const char *[]){ "no/such", NULL }, 2, 10)); COPY(cnn_load_cifar((const char *[]){ NULL }, 1, 10)); break;
    case 133: cnn_free(cnn_load("build")), cnn_free(cnn_load("/dev/null")), cnn_free(cnn_load(NULL)); break;
    case 134: {
        static char file[1 << 16];
        const size_t n_bytes = cnn_save_checkpoint_memory(n.g, file, sizeof file);
        cnn_free(cnn_load_memory(n_bytes ? file : NULL, n_bytes, (cnn_load_args){ .path = "memory" }));
        cnn_load_weights_memory(file, n_bytes, (cnn_load_weights_args){ .g = n.g });
        break;
    }
    default: return false;
    }
    cnn_history_free(&h);
    return true;
}

static void every_call_in_every_state(void)
{
    cnn_dataset d = cnn_floats(images, classes, 4, 1, 6, 6), ill = cnn_idx_memory("ill", 3, NULL, 0);
    FILE       *f = tmpfile();
    bool        more = true;
    for (int call = 0; more; call++)
        for (int s = 0; s < STATES; s++)
            for (long memory = -1; memory < (s == RUN || s == RECORDED ? 30 : 4); memory++) {  /* -1: enough; else so many allocations */
                const long live = alloc_live;
                net        n = new_net((state)s);
                alloc_left = memory;
                more = make_call(call, n, &d, &ill, f);
                alloc_left = -1;
                const char *why = cnn_error(n.g);
                CHECK_MSG(!why || strlen(why) > 10, "call %d in state %d: \"%s\"", call, s, why ? why : "");
                if (s >= COMPILED && s != TWO_INPUTS) {                 /* nothing is trapped */
                    CHECK_MSG(!why || cnn_clear_error(n.g), "call %d in state %d: \"%s\"", call, s, why);
                    const int label[32] = { 0 };
                    CHECK(cnn_set(n.x, images, 72) && (s == INFERENCE || cnn_set_labels(n.t, label, s == PIXELS ? 32 : 2)));
                    cnn_forward(n.loss, CNN_EVAL);
                    CHECK_MSG(!cnn_error(n.g), "call %d in state %d: \"%s\"", call, s, cnn_error(n.g));
                }
                cnn_free(n.g);
                CHECK_MSG(alloc_live == live, "call %d in state %d with %ld allocations: %ld blocks left", call, s, memory,
                          alloc_live - live);
            }
    if (f) fclose(f);
    cnn_dataset_free(&d), cnn_dataset_free(&ill);
    remove("build/misuse.pgm"), remove("build/misuse.png"), remove("build/misuse.safetensors");
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(every_call_in_every_state);
    return test_end();
}
