/* Exercise 4: conv2d, backward.

     cc -std=c99 -O2 examples/lab/04_conv2d_backward.c -o lab04 -lm && ./lab04       (faster: see lab.h)

   Task. From dy, the gradient of the loss J by y, compute those by x, w and b. Every term w x of exercise 3
   sends its dy to both of its factors:

     dx[n][c][r][s] += w[o][c][k][l] dy[n][o][i][j]      for every (o,i,j,k,l) with r = i stride - pad + k,
     dw[o][c][k][l] += x[n][c][r][s] dy[n][o][i][j]      s = j stride - pad + l inside of the picture
     db[o]          += dy[n][o][i][j]

   Shapes: dx as x (N,C,H,W), dw as w (O,C,K,K), db (O), dy as y (N,O,OH,OW), as in exercise 3.
   ADD to dx, dw and db: they may hold the gradient that came over another arrow of the graph.

   A good answer is the loops of exercise 3 with another line in the middle, in each of the two functions. */
#include "lab.h"

static lab_answer conv2d_backward_data(float *dx, const float *dy, const float *w, int N, int C, int H, int W,
                                       int O, int K, int stride, int pad)
{
    return NOT_DONE;        /* your code; at its end: return DONE; */
}

static lab_answer conv2d_backward_weights(float *dw, float *db, const float *dy, const float *x, int N, int C,
                                          int H, int W, int O, int K, int stride, int pad)
{
    return NOT_DONE;
}

int main(int argc, char **argv)
{
    return lab_conv2d_backward(argc, argv, conv2d_backward_data, conv2d_backward_weights);
}
