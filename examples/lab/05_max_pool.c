/* Exercise 5: max pooling, and ties.

     cc -std=c99 -O2 examples/lab/05_max_pool.c -o lab05 -lm && ./lab05              (faster: see lab.h)

   Task. The largest element of each K x K window; and, for backward, where it was. Where several are equally
   large, the first of them in reading order counts (row by row): so does PyTorch on a CPU.

     y[n][c][i][j]     = max over k, l of  x[n][c][i stride + k][j stride + l]
     where[n][c][i][j] = r*W + s of that element, r and s its row and column within its plane (H,W)
     dx[n][c][r][s]   += dy[n][c][i][j]   at r*W + s = where[n][c][i][j]

   Shapes: x, dx (N,C,H,W)   y, dy, where (N,C,OH,OW)      OH = (H - K) / stride + 1, OW likewise
   Windows overlap where stride < K: then one element may be the largest of several, and collects all their
   gradients. Values may all be negative. Forward sets y and where; backward ADDS to dx.

   A good answer has no division in its inner loops, and backward has no search. */
#include "lab.h"

static lab_answer max_pool_forward(float *y, int *where, const float *x, int N, int C, int H, int W, int K,
                                   int stride)
{
    return NOT_DONE;        /* your code; at its end: return DONE; */
}

static lab_answer max_pool_backward(float *dx, const float *dy, const int *where, int N, int C, int H, int W,
                                    int K, int stride)
{
    return NOT_DONE;
}

int main(int argc, char **argv) { return lab_max_pool(argc, argv, max_pool_forward, max_pool_backward); }
