/* Exercise 8: SGD with momentum, then Adam.

     cc -std=c99 -O2 examples/lab/08_sgd_adam.c -o lab08 -lm && ./lab08              (faster: see lab.h)

   Task. Update n weights w by their gradients dw. What an optimizer remembers lies in v (and m), zero before
   the first update and yours from then on.

     SGD with momentum (PyTorch's form)       Adam (Kingma, Ba 2015); t = 1, 2, ... counts the updates
       v <- momentum v + dw                     m <- beta1 m + (1 - beta1) dw
       w <- w - lr v                            v <- beta2 v + (1 - beta2) dw^2
                                             w <- w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

   Shapes: w, v, m, dw (n). lr changes from update to update in the tests, as under a schedule.

   A good answer is one loop each, with the powers of beta outside of it. */
#include "lab.h"

static lab_answer sgd(float *w, float *v, const float *dw, int n, float lr, float momentum)
{
    return NOT_DONE;        /* your code; at its end: return DONE; */
}

static lab_answer adam(float *w, float *m, float *v, const float *dw, int n, float lr, float beta1,
                       float beta2, float eps, int t)
{
    return NOT_DONE;
}

int main(int argc, char **argv) { return lab_optimizers(argc, argv, sgd, adam); }
