/* resident.c - a net on a device: the host's arenas are there, but take no memory before they are touched. Linux. */
#include "cnn.h"
#include <stdio.h>
#include <stdlib.h>

static void *none(cnn_backend *b, size_t bytes) { return (void)b, malloc(bytes); }
static void  gone(cnn_backend *b, void *buffer) { (void)b, free(buffer); }
static bool  up(cnn_backend *b, void *to, size_t at, const void *from, size_t n)
{
    return (void)b, (void)to, (void)at, (void)from, (void)n, true;
}
static bool  down(cnn_backend *b, void *from, size_t at, void *to, size_t n)
{
    return (void)b, (void)to, (void)at, (void)from, (void)n, true;
}
static bool  clear(cnn_backend *b, void *to, size_t at, size_t n) { return (void)b, (void)to, (void)at, (void)n, true; }

static long resident(void)                              /* pages */
{
    long all, mine = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%ld %ld", &all, &mine) != 2) exit(0);
    fclose(f);
    return mine;
}

int main(void)
{
    cnn_backend dev = { .name = "none", .alloc = none, .release = gone, .upload = up, .download = down, .clear = clear };
    cnn_graph  *g = cnn_new(.max_batch = 64, .backend = &dev, .optimizer = cnn_adam());
    cnn_tensor *x = cnn_input(g, 1024), *y = cnn_dense(cnn_dense(x, 2048), 4096);
    cnn_tensor *loss = cnn_softmax_cross_entropy(y, cnn_labels(g));
    const cnn_memory m = cnn_plan(g, loss);
    const long before = resident();
    if (!cnn_compile(g, loss)) return 1;
    const double taken = (double)(resident() - before) * 4096, needed = (double)(m.params + m.buffers + m.inputs);
    printf("%.1f MB of %.1f MB\n", taken / 1e6, (double)m.total / 1e6);
    cnn_free(g);
    return taken > 1.2 * needed + 4e6;
}
