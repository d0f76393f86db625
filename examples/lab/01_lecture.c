/* Exercise 1: the lecture's graph by hand.

     cc -std=c99 -O2 examples/lab/01_lecture.c -o lab01 -lm && ./lab01               (faster: see lab.h)

   Task. A perceptron with one hidden layer, forward and backward, for one sample x with its target t.

     Z1 = W1 x + b1     h = s(Z1)     Z2 = W2 h + b2     o = s(Z2)     J = 1/2 sum over k of (t[k] - o[k])^2
     s(z) = 1 / (1 + exp(-z)), whose derivative is s(z) (1 - s(z))

   Backward, from J to the left: the gradient at a node is the gradient at the end of each arrow that leaves
   it, times the derivative of that arrow, summed over the arrows.

     d2[k] = (o[k] - t[k]) o[k] (1 - o[k])                      gW2[k][j] = d2[k] h[j]     gb2[k] = d2[k]
     d1[j] = (sum over k of d2[k] W2[k][j]) h[j] (1 - h[j])     gW1[j][i] = d1[j] x[i]     gb1[j] = d1[j]

   Shapes: x (I)   h, b1 (H)   o, t, b2 (O)   W1 (H,I)   W2 (O,H)   J (1); the last index is the fastest:
   W1[j][i] is W1[j*I + i]. Both functions set their results.

   A good answer gives the lecture's numbers (J = 0.298371 for its 2-2-2 perceptron), which you have on paper
   first. */
#include "lab.h"

static lab_answer lecture_forward(float *h, float *o, float *J, const float *x, const float *t,
                                  const float *W1, const float *b1, const float *W2, const float *b2, int I,
                                  int H, int O)
{
    return NOT_DONE;        /* your code; at its end: return DONE; */
}

static lab_answer lecture_backward(float *gW1, float *gb1, float *gW2, float *gb2, const float *x,
                                   const float *t, const float *h, const float *o, const float *W2, int I,
                                   int H, int O)
{
    return NOT_DONE;
}

int main(int argc, char **argv) { return lab_lecture(argc, argv, lecture_forward, lecture_backward); }
