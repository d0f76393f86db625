/* Exercise 3: conv2d, forward.

     cc -std=c99 -O2 examples/lab/03_conv2d_forward.c -o lab03 -lm && ./lab03        (faster: see lab.h)

   Task. Slide O kernels of C x K x K over N pictures of C channels. Cross-correlation, as in every library:
   the kernel is not flipped.

     y[n][o][i][j] = b[o] + sum over c, k, l of  w[o][c][k][l] x[n][c][i stride - pad + k][j stride - pad + l]

   Outside of the picture x is 0.

   Shapes, each in one block of memory, the last index fastest:
     x (N,C,H,W)   w (O,C,K,K)   b (O)   y (N,O,OH,OW)      OH = (H + 2 pad - K) / stride + 1, OW likewise
   so that x[n][c][r][s] is x[((n*C + c)*H + r)*W + s]. y is not cleared before the call.

   A good answer is seven loops in about 15 lines, right on all shapes, at about the speed of the plain loops.
   */
#include "lab.h"

static lab_answer conv2d_forward(float *y, const float *x, const float *w, const float *b, int N, int C,
                                 int H, int W, int O, int K, int stride, int pad)
{
    return NOT_DONE;        /* your code; at its end: return DONE; */
}

int main(int argc, char **argv) { return lab_conv2d_forward(argc, argv, conv2d_forward); }
