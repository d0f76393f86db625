/* Exercise 7: softmax with cross-entropy.

     cc -std=c99 -O2 examples/lab/07_softmax_cross_entropy.c -o lab07 -lm && ./lab07 (faster: see lab.h)

   Task. Make probabilities of the C numbers (logits) of each of N samples, and the loss: how surprised they
   are by the labels, on average. Then the gradient, in which logarithm and exponential cancel.

     p[n][c]   = exp(z[n][c]) / sum over d of exp(z[n][d])
     J         = -1/N sum over n of  log p[n][label[n]]
     dz[n][c] += (p[n][c] - (1 if c = label[n], else 0)) / N

   Shapes: z, p, dz (N,C)   label (N), in 0..C-1   J (1)
   exp(89) is no float any more, and logits of 1,000 are among the tests: what can be taken off all z[n][c] of
   a sample without changing p? And log p where p is 0: take the logarithm of the formula, not of the number.

   A good answer needs one exp for each logit and one log for each sample. */
#include "lab.h"

static lab_answer softmax_cross_entropy_forward(float *J, float *p, const float *z, const int *label, int N,
                                                int C)
{
    return NOT_DONE;        /* your code; at its end: return DONE; */
}

static lab_answer softmax_cross_entropy_backward(float *dz, const float *p, const int *label, int N, int C)
{
    return NOT_DONE;
}

int main(int argc, char **argv)
{
    return lab_softmax_cross_entropy(argc, argv, softmax_cross_entropy_forward,
                                     softmax_cross_entropy_backward);
}
