/* Exercise 6: batch norm, backward.

     cc -std=c99 -O2 examples/lab/06_batch_norm_backward.c -o lab06 -lm && ./lab06   (faster: see lab.h)

   Task. Forward is X = (x - mean) rstd, y = w X + b, per channel, mean and rstd = 1 / sqrt(variance + eps)
   over the batch and the plane: M = N HW elements. They are computed already; but they depend on x, too, so
   that every x of a channel moves every y of it.

     db[c] += sum over n, i of  dy[n][c][i]
     dw[c] += sum over n, i of  dy[n][c][i] X[n][c][i]
     dx[n][c][i] += w[c] rstd[c] (dy[n][c][i] - mean(dy) - X[n][c][i] mean(dy X))   means over those M

   Derive the last line before you write it. Shapes: x, dx, dy (N,C,HW)   mean, rstd, w, dw, db (C)
   ADD to dx, dw and db.

   A good answer reads x and dy twice, and sums in double, or in blocks: M may be a million. */
#include "lab.h"

static lab_answer batch_norm_backward(float *dx, float *dw, float *db, const float *dy, const float *x,
                                      const float *mean, const float *rstd, const float *w, int N, int C,
                                      int HW)
{
    return NOT_DONE;        /* your code; at its end: return DONE; */
}

int main(int argc, char **argv) { return lab_batch_norm_backward(argc, argv, batch_norm_backward); }
