/* readme.c - what stands around a fragment of README.md: tests/readme.sh compiles and runs this for each,
   with -DIN_main or -DIN_lenet and the fragment's file as FRAGMENT. */
#include "cnn.h"

int main(void)
{
#ifdef IN_lenet                                /* the names of README's LeNet-5 on a smaller, quicker net */
    cnn_dataset train = cnn_load_idx("examples/data/test-images-idx3-ubyte",
                                     "examples/data/test-labels-idx1-ubyte");
    cnn_graph  *g     = cnn_new(.max_batch = 16, .seed = 1);
    cnn_tensor *x     = cnn_input(g, 1, 28, 28), *t = cnn_labels(g);
    cnn_tensor *conv1 = cnn_conv2d(x, 6, 5, .pad = 2, .name = "conv1"), *maps = cnn_keep(conv1);
    cnn_tensor *h     = cnn_tanh(cnn_dense(cnn_avg_pool(cnn_tanh(conv1), 2), 16));
    cnn_tensor *logits = cnn_dense(h, 10), *loss = cnn_softmax_cross_entropy(logits, t);
    char        text[2000];
    if (!train.count || !cnn_compile(g, loss)) return puts(train.count ? cnn_error(g) : train.error), 1;
    cnn_feed(x, t, &train, 0);
    (void)maps, (void)text;
#endif
#include FRAGMENT
#ifdef IN_lenet
    if (cnn_error(g)) return puts(cnn_error(g)), 1;
    cnn_free(g), cnn_dataset_free(&train);
#endif
    return 0;
}
