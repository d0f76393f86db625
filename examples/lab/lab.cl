/* lab.cl - exercise 11: conv2d as an OpenCL kernel. The judge is 11_opencl.c; nothing there is to be changed.

   Task. Exercise 3 again, same formula, same shapes: one work item computes one element of y. Item (j, i, n O
   + o) is

     y[n][o][i][j] = b[o] + sum over c, k, l of  w[o][c][k][l] x[n][c][i stride - pad + k][j stride - pad + l]

   x (N,C,H,W)   w (O,C,K,K)   b (O)   y (N,O,OH,OW), OW = get_global_size(0) and OH = get_global_size(1)

   A good answer is right first. Then: the tile of x that a work group reads, in __local memory; w too; or
   several outputs for each item. On a CPU (PoCL) none of this pays, and the simple kernel is the good answer.
   */
__kernel void conv2d(__global float *y, __global const float *x, __global const float *w,
                     __global const float *b, int N, int C, int H, int W, int O, int K, int stride, int pad)
{
    /* your code */
}
