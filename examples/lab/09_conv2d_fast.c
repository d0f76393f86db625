/* Exercise 9: conv2d, fast.

     cc -std=c99 -O3 -march=native -fopenmp examples/lab/09_conv2d_fast.c -o lab09 -lm && ./lab09

   Task. Exercise 3 again, same formula, same shapes, in as little time as you can.

     y[n][o][i][j] = b[o] + sum over c, k, l of  w[o][c][k][l] x[n][c][i stride - pad + k][j stride - pad + l]

     x (N,C,H,W)   w (O,C,K,K)   b (O)   y (N,O,OH,OW)      OH = (H + 2 pad - K) / stride + 1, OW likewise

   In this order: no test for the border in the inner loop; the inner loop along j, so that the compiler makes
   vectors; a block of output channels and columns in registers, so that each value that is loaded is used
   several times; #pragma omp parallel for over n and o. Or unfold x into a matrix (im2col), and use exercise
   10.

   A good answer: 60 of 100 points are for speed. None at 4 times cnn.h's plain loops, all at 64 times. A loop
   nest written down as it comes is at about 4 times; cnn.h's own kernel, which is the last number shown, at
   some hundreds. */
#include "lab.h"

static lab_answer conv2d_fast(float *y, const float *x, const float *w, const float *b, int N, int C, int H,
                              int W, int O, int K, int stride, int pad)
{
    return NOT_DONE;        /* your code; at its end: return DONE; */
}

int main(int argc, char **argv) { return lab_conv2d_fast(argc, argv, conv2d_fast); }
