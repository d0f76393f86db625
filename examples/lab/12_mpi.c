/* Exercise 12: data-parallel training with MPI.

     mpicc -std=c99 -O2 examples/lab/12_mpi.c -o lab12 -lm && mpirun -n 2 ./lab12    (faster: see lab.h)

   Task. R processes (ranks) hold the same weights; each has its part of every batch, and the gradients of its
   own samples. Before the update, make them the gradient of the whole batch, on every rank:

     grads[i] <- sum over ranks r of  share[r] grads[r][i]       i = 0 .. count-1

   share[r] = samples of rank r / samples of the batch: each rank knows its own, and the shares add up to 1.
   The last batch of an epoch may leave a rank without samples: then its share is 0 and its grads are not
   numbers.

   A good answer is one loop and one call of MPI, and after ten updates the weights are those of a single
   process to rounding. Why is the sum not divided by R? */
#include <mpi.h>
#define LAB_MPI
#include "lab.h"

static lab_answer add_gradients(float *grads, int count, float share)
{
    return NOT_DONE;        /* your code; at its end: return DONE; */
}

int main(int argc, char **argv) { return lab_mpi(argc, argv, add_gradients); }
