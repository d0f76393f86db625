/* Exercise 2: a dense layer, forward and backward.

     cc -std=c99 -O2 examples/lab/02_dense.c -o lab02 -lm && ./lab02                 (faster: see lab.h)

   Task. M units, each a weighted sum of all K inputs, for each of N samples; then the three gradients.

     y[n][m]  = b[m] + sum over k of  w[m][k] x[n][k]         Y = X W^T + b
     dx[n][k] += sum over m of  dy[n][m] w[m][k]              dX += dY W
     dw[m][k] += sum over n of  dy[n][m] x[n][k]              dW += dY^T X
     db[m]    += sum over n of  dy[n][m]

   Shapes: x, dx (N,K)   w, dw (M,K)   b, db (M)   y, dy (N,M); the last index is the fastest: w[m][k] is
   w[m*K + k].
   Forward sets y. Backward ADDS: a gradient may already have come over another arrow of the graph. The sum
   over the samples is not divided by N: the loss has done that.

   A good answer is three nested loops for each function, and the derivation of each line on paper. */
#include "lab.h"

static lab_answer dense_forward(float *y, const float *x, const float *w, const float *b, int N, int K, int M)
{
    return NOT_DONE;        /* your code; at its end: return DONE; */
}

static lab_answer dense_backward_data(float *dx, const float *dy, const float *w, int N, int K, int M)
{
    return NOT_DONE;
}

static lab_answer dense_backward_weights(float *dw, float *db, const float *dy, const float *x, int N, int K,
                                         int M)
{
    return NOT_DONE;
}

int main(int argc, char **argv)
{
    return lab_dense(argc, argv, dense_forward, dense_backward_data, dense_backward_weights);
}
