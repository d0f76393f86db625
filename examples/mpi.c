/* mpi.c - one network learns on several machines: each rank takes its part of every batch, and one
   MPI_Allreduce adds the gradients.

     mpicc -std=c99 -O2 examples/mpi.c -o mpi -lm && mpirun -n 2 ./mpi [EPOCHS [BATCH]]

   All ranks hold the same weights at all times: the same seed gives all of them the same first ones, and
   each update is the same function of the same sum. So R ranks with BATCH/R samples each follow one rank with
   BATCH samples up to rounding, because the gradient of a mean over the batch is the weighted mean of the
   gradients over its parts. (Behind relu or max pooling a rounding error can tip a kink, and the runs part
   slowly; this net is smooth.) Batch norm would see the statistics of the rank's part alone, as it does in
   PyTorch's DistributedDataParallel, and running statistics would have to be averaged, too. Dropout would
   draw the same zeros on each rank, for different samples.

   The data are the digits in examples/data, which each rank reads. Ends with the accuracy on the test set. */
#define CNN_STATIC                      /* the only file: what it does not use is not compiled */
#define CNN_IMPLEMENTATION
#include "../cnn.h"
#include <mpi.h>

static void stop(const char *message)
{
    fprintf(stderr, "%s\n", message);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

/* The digits in examples/data, seen from the root of the repository, or else beside this source file. */
static cnn_dataset load_sample(const char *set)
{
    const char *slash = strrchr(__FILE__, '/'), *place[2] = { "examples/", __FILE__ };
    int         length[2] = { 9, slash ? (int)(slash - __FILE__) + 1 : 0 };
    cnn_dataset d = { 0 };
    for (int i = 0; i < 2 && !d.count; i++) {
        char images[600], labels[600];
        snprintf(images, sizeof images, "%.*sdata/%s-images-idx3-ubyte", length[i], place[i], set);
        snprintf(labels, sizeof labels, "%.*sdata/%s-labels-idx1-ubyte", length[i], place[i], set);
        d = cnn_load_idx(images, labels);
    }
    if (!d.count) stop(d.error);
    return d;
}

/* Make the gradient that of the whole batch: the sum over all ranks of share times their own. */
static void add_gradients(cnn_graph *g, float share)
{
    size_t n;
    float *grads = cnn_flat_grads(g, &n);
    for (size_t i = 0; i < n; i++) grads[i] = share > 0 ? share * grads[i] : 0;  /* 0: it had no samples */
    MPI_Allreduce(MPI_IN_PLACE, grads, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank), MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    const int epochs = argc > 1 ? atoi(argv[1]) : 5, batch = argc > 2 ? atoi(argv[2]) : 32;
    const int part = batch / ranks;
    if (epochs < 1) stop("usage: mpi [EPOCHS [BATCH]], both at least 1");
    if (part < 1 || batch % ranks) stop("the batch must be a multiple of the number of ranks");

    cnn_dataset train = load_sample("train"), test = load_sample("test");
    cnn_standardize(&test, &train), cnn_standardize(&train, &train);

    cnn_graph  *g = cnn_new(.max_batch = part, .seed = 1, .threads = 1);      /* a rank for each core */
    cnn_tensor *x = cnn_input(g, 1, 28, 28), *t = cnn_labels(g), *h = x;
    h = cnn_avg_pool(cnn_tanh(cnn_conv2d(h,  6, 5, .pad = 2)), 2);
    h = cnn_avg_pool(cnn_tanh(cnn_conv2d(h, 16, 5)), 2);
    cnn_tensor *logits = cnn_dense(cnn_tanh(cnn_dense(h, 84)), 10);
    cnn_tensor *loss = cnn_softmax_cross_entropy(logits, t);
    if (!cnn_compile(g, loss)) stop(cnn_error(g));

    for (int epoch = 0; epoch < epochs && !cnn_error(g); epoch++) {
        double sum = 0;                                                /* of the losses of its samples */
        cnn_shuffle(&train, (uint64_t)epoch + 1);                      /* the same order on all ranks */
        for (int first = 0; first < train.count && !cnn_error(g); first += batch) {
            const int whole = train.count - first < batch ? train.count - first : batch;
            const int n = cnn_feed(x, t, &train, first + rank * part); /* 0: the last batch ends before */
            if (n > 0) sum += n * (double)cnn_forward(loss, CNN_TRAIN), cnn_backward(loss);
            if (cnn_error(g)) break;
            add_gradients(g, (float)n / (float)whole);
            cnn_step(g, .lr = 0.02f, .momentum = 0.9f);
        }
        if (cnn_error(g)) break;
        MPI_Allreduce(MPI_IN_PLACE, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
        if (rank == 0) printf("epoch %d/%d: loss %.7f\n", epoch + 1, epochs, sum / train.count);
        fflush(stdout);
    }
    if (rank == 0 && !cnn_error(g))
        printf("%d ranks: test accuracy %.2f %%\n", ranks, 100 * cnn_evaluate(loss, logits, &test).accuracy);
    if (cnn_error(g)) stop(cnn_error(g));
    cnn_free(g), cnn_dataset_free(&train), cnn_dataset_free(&test);
    MPI_Finalize();
    return 0;
}
