/* cnn.h - convolutional neural networks in one C99 header: tensors, layers, reverse-mode autodiff, SGD.

   >>usage ---- Usage ---------------------------------------------------------------------------------------

       #define CNN_IMPLEMENTATION                       in ONE .c file of the program, before the include
       #include "cnn.h"

       int main(void)                                   XOR: cc -std=c99 -O2 xor.c -lm
       {
           float in[4][2] = { {0,0}, {0,1}, {1,0}, {1,1} }, out[4] = { 0, 1, 1, 0 };
           cnn_graph  *g = cnn_new(.max_batch = 4, .seed = 1);
           cnn_tensor *x = cnn_input(g, 2, 1, 1), *t = cnn_input(g, 1, 1, 1);
           cnn_tensor *y = cnn_dense(cnn_tanh(cnn_dense(x, 8)), 1), *loss = cnn_mse(y, t);
           if (!cnn_compile(g, loss)) return fprintf(stderr, "%s\n", cnn_error(g)), 1;
           cnn_set(x, in[0], 8), cnn_set(t, out, 4);
           for (int i = 0; i < 500; i++)
               cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_step(g, .lr = 0.1f, .momentum = 0.9f);
           printf("loss %g\n", (double)cnn_forward(loss, CNN_EVAL));
           cnn_free(g);
       }

   No other flag is needed: the instruction set is chosen at run time, and the threads are the header's own
   (before glibc 2.34 and on BSD: with -pthread).

   What it does not do: shapes that depend on data, recurrent networks, several devices for one graph.

   >>manual ---- Manual -------------------------------------------------------------------------------------

   A graph is recorded once and replayed many times. Calls such as cnn_conv2d record a node and return its
   tensor; cnn_compile puts the nodes in order, plans every byte and sets the initial weights; cnn_forward,
   cnn_backward and cnn_step then run without allocating.

   Shapes are (N,C,H,W), w fastest. N is the batch. Inputs are declared without it and planned for .max_batch;
   a smaller batch is a prefix of every buffer. A vector of K features is (N,K,1,1). All values are float;
   class labels are small whole numbers kept as floats (exact up to 2^24), so that every tensor is one kind of
   array.

   Options. What is required comes first, by position; what is optional follows, by name:
       cnn_conv2d(x, 16, 5, .pad = 2, .name = "conv1")
   An option that is not given has the default that stands beside it below; one that is given counts, also as
   0: the macros hand over the text of their arguments. (Without the macros, 0 means the default.) In C++,
   from C++11 on, an option is a word of namespace cnn; the implementation stays in a .c file:
       cnn_conv2d(x, 16, 5, cnn::pad(2), cnn::name("conv1"))

   Errors. Nothing here prints, exits or aborts. The first failure writes one message on the graph, with the
   place of layer and call, the operation, the shapes and the rule: cnn_error(g). While recording, builders
   then return a nil tensor, so that chains need no checks, and cnn_compile returns false. After cnn_compile a
   call that is refused changes nothing and returns false (or NAN, NULL, 0), and nothing runs any more until
   cnn_clear_error(g); but values can be read, and the net can be saved and exported: what was learned is not
   lost to a wrong call. cnn_free is always right, also for NULL.

   Modes. CNN_TRAIN keeps what backward needs, drops out, and uses the statistics of the batch in batch norm.
   CNN_EVAL reuses memory as soon as a value is dead, so that afterwards only these can be read: the tensor
   asked for, what a loss judges (the logits), and those marked with cnn_keep.

   Threads. A graph belongs to one thread at a time; different graphs may run in different threads at once, as
   there is no mutable global; cnn_share gives each thread its view of one net. One graph uses .threads
   threads: its caller and helpers, which the first large piece of work starts and cnn_free ends. The same
   seed gives the same bits for any number of threads: work is divided by the problem, never by the number of
   threads. A helper that cannot be started is missed, no more. After a fork, a graph that has run in the
   parent runs in the child on one thread. Where several processes share a machine, say .threads or set
   OMP_NUM_THREADS.

   Numbers. All arithmetic is float, as it is written, whatever options the compiler is given (-Ofast,
   -mfpmath=387): for one instruction set gcc and clang give the same bits. Long sums are made in double or in
   parts. 3x3 and 5x5 convolutions of many channels take Winograd's algorithm, which errs by up to 1e-5 of the
   largest output, against 5e-7, and whose sums exceed the result some 100 times, so that values above 1e36
   overflow; .exact = 1 does without. An infinity makes NaN of more elements than the formula does in three
   cases: of all of its tile in Winograd's algorithm; as a weight, of what meets the padding; and of gradients
   of weights that two layers share or cnn_backward_add adds to. Denormal numbers, below 1.2e-38, count,
   though many CPUs take 100 times as long for them: to flush them to 0 is a mode of each thread, and the
   program's to set.

   Names. `.name = "conv1"` gives the parameters conv1.weight and conv1.bias, as in PyTorch; batch norm adds
   running_mean and running_var. Without a name, layers are numbered at compile in the order of the post-order
   walk from the loss: conv2d1, conv2d2, dense1, ... Nothing depends on the order in which nodes were created,
   because C leaves the order of evaluation of arguments open.

   Switches, to be defined before the include that has CNN_IMPLEMENTATION:
       CNN_STATIC                     every function is static: the library is private to one .c file, which
                                      compiles in two thirds of the time: what it does not use is left out
       CNN_MALLOC(bytes)              all three or none: your allocator
       CNN_REALLOC(p, bytes)
       CNN_FREE(p)
       CNN_NO_STDIO                   no FILE and no files: no load, save, summary; memory versions remain
       CNN_NO_SIMD                    plain C99, for any compiler

   >>map ---- Map: search for a tag; minutes of a reader who knows C -----------------------------------------

   >>usage >>manual >>map >>api: to use the library, 70 minutes of reference
   Part I, the net
       >>base 11          configuration, sizes, shapes, bits, random numbers
       >>graph 34         what a graph is made of: nodes, errors, leaves, options
       >>kernels 15       what rooms call: formulas of one number, sums, the contracts of all kernels
       >>hour 40          START HERE: record, order, forward, backward, three rooms, SGD
       >>rooms 118        all other operations, by chapters    >>loops 25    the plain loops that they run on
       >>optim 21         Adam and the others, clipping, averages
       >>plan 30          names, the memory plan, cnn_compile  >>values 12   set, get, map; views
       >>data 87          >>train 52          >>files 90       >>inspect 48
   Part II, the engine    >>threads 11        >>simd 56        >>gemm 8      >>conv 95
                          >>elementwise 23    >>fusion 3
   Part III               >>devices 18        >>licence

   Words. Room: all about one operation: formula, shape rule, forward, backward. Row: a struct of functions
   and data that stands for an operation (cnn_op), an optimizer, a kernel of a device. Kernel: a function of
   plain pointers that does the arithmetic. Leaf: a tensor that no operation computes. Node: a tensor and what
   the executor knows of it. Arena: a block of memory for all arrays of a kind. Span: the time from the first
   write of an array to its last read. Scratch: workspace of a kernel while it runs. Saved: what
   forward keeps for backward. Formula: an operation element by element. Tail: formulas that are applied to a
   result in the pass that computes it. Probe: who looks on while a graph runs. View: a second graph on the
   same weights. Spread: laid out with its padding, so that a convolution becomes a matrix product.

   Letters. g graph, v node, y the tensor computed, x w b its operands, dx dw db dy gradients; N C H W, OC IC
   KH KW OH OW extents; m n k lda ldb ldc mr nr mc nc kc of matrix products; f a file or a function.

   >>api ---- API ---------------------------------------------------------------------------------------- */
#ifndef CNN_H_INCLUDED
#define CNN_H_INCLUDED

#include <math.h>                        /* INFINITY, for options */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifndef CNN_NO_STDIO
#include <stdio.h>
#endif

#define CNN_VERSION_MAJOR 0
#define CNN_VERSION_MINOR 1
#define CNN_VERSION_PATCH 0
#define CNN_VERSION "0.1.0"

#if defined(CNN_STATIC) && defined(__GNUC__)
#define CNN_API __attribute__((unused)) static /* a program need not use everything */
#elif defined(CNN_STATIC)
#define CNN_API static
#else
#define CNN_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cnn_graph     cnn_graph;     /* owns every tensor, parameter and byte below */
typedef struct cnn_tensor    cnn_tensor;    /* one node of the graph and the array that it computes */
typedef struct cnn_op        cnn_op;        /* the rules of one operation: see "Your own operations" */
typedef struct cnn_optimizer cnn_optimizer; /* a rule for updating weights: see "Optimizer" */
typedef struct cnn_kernel    cnn_kernel;    /* a function that replaces one of an operation's */
typedef struct cnn_backend   cnn_backend;   /* a device; NULL = the CPU code in the rooms */
typedef struct { int n, c, h, w; } cnn_shape;                                      /* (N,C,H,W), w fastest */
typedef enum { CNN_EVAL, CNN_TRAIN } cnn_mode;
typedef enum { CNN_ISA_AUTO, CNN_ISA_PLAIN, CNN_ISA_C, CNN_ISA_NEON, CNN_ISA_AVX2, CNN_ISA_AVX512,
               CNN_ISA_WASM } cnn_isa;
typedef enum { CNN_NODE, CNN_INPUT, CNN_LABELS, CNN_CONST, CNN_PARAM, CNN_BUFFER } cnn_kind;
enum { CNN_N = 1, CNN_C = 2, CNN_H = 4, CNN_W = 8 };                               /* axes */
enum { CNN_MAX_INPUTS = 8, CNN_MAX_SLOTS = 3, CNN_ERROR_SIZE = 512 };

/* A function with the arguments of printf: argument number format_at is the format. */
#if defined(__MINGW32__) && !defined(__clang__)          /* there printf means that of an old C library */
#define CNN__PRINTF(format_at, first) __attribute__((format(gnu_printf, format_at, first)))
#elif defined(__GNUC__)
#define CNN__PRINTF(format_at, first) __attribute__((format(printf, format_at, first)))
#else
#define CNN__PRINTF(format_at, first)
#endif

/* Where a call was made, for error messages: "lenet.c:14". The macros below put it into `at`. */
#define CNN_STR_(x) #x
#define CNN_STR(x)  CNN_STR_(x)
#define CNN_HERE    __FILE__ ":" CNN_STR(__LINE__)
/* A call with options calls a function that takes one struct. Its first two members are where the call is and
   the text of its arguments, by which an option that is given as 0 is told from one that is not given. first:
   the member of the first argument. CNN_OPTIONS: all arguments are options. C++: see the end of the API. */
#define CNN_SAID(...) .at = CNN_HERE, .said = #__VA_ARGS__
#ifdef __cplusplus
#define CNN_CALL(function, args, first, ...) function(cnn::call<args>(CNN_HERE)(__VA_ARGS__))
#define CNN_OPTIONS(function, args, ...)     function(cnn::call<args>(CNN_HERE)(__VA_ARGS__))
#define CNN_OPTION(word, value)              cnn::word(value)
#define CNN_TENSORS(...)                     { __VA_ARGS__ }
#else
#define CNN_CALL(function, args, first, ...) function((args){ CNN_SAID(__VA_ARGS__), .first = __VA_ARGS__ })
#define CNN_OPTIONS(function, args, ...)     function((args){ CNN_SAID(__VA_ARGS__), __VA_ARGS__ })
#define CNN_OPTION(word, value)              .word = value
#define CNN_TENSORS(...) (cnn_tensor *[]){ __VA_ARGS__ }, \
    (int)(sizeof (cnn_tensor *[]){ __VA_ARGS__ } / sizeof(cnn_tensor *))
#endif

/* ---- Graph ---- */

typedef struct {
    const char  *at, *said;
    int          max_batch;         /* the largest N; default 1 */
    uint64_t     seed;              /* of initial weights and dropout; every value, 0 too, is a seed */
    int          threads;           /* at most 1024; default OMP_NUM_THREADS in the environment, else the
                                       processors that this process may use; 1 where there are no threads */
    cnn_isa      isa;               /* default: the environment variable CNN_ISA (plain, c, neon, avx2,
                                       avx512, wasm) if set, else the best that this CPU has; one that it
                                       lacks is an error. plain: each kernel is a loop, see >>loops */
    cnn_backend *backend;           /* default: none, everything on the CPU */
    const cnn_optimizer *optimizer; /* default cnn_sgd(); decides how much memory its state takes */
    int          exact;             /* 1: 3x3 and 5x5 convolutions by the direct sum: slower, rounded less */
    int          inference;         /* 1: plan no gradients and no optimizer state; only CNN_EVAL runs */
    int          no_packed;         /* 1: a graph for inference takes no memory for weights that are packed
                                       once, with batch norm in them (cnn_memory.packed): slower, but the
                                       bits are those of a graph for training */
    int          keep_grads;        /* 1: activations' gradients stay readable after cnn_backward */
    const cnn_kernel *rows;         /* functions of yours that replace CPU functions, ended by { NULL }: see
                                       cnn_kernel; not together with a backend; must outlive the graph */
} cnn_config;
/* A new, empty graph. NULL only if the graph object itself cannot be allocated; every function below accepts
   that NULL, and cnn_error(NULL) is its message. */
CNN_API cnn_graph  *cnn_new_(cnn_config);
#define cnn_new(...) CNN_OPTIONS(cnn_new_, cnn_config, __VA_ARGS__)
CNN_API void        cnn_free(cnn_graph *);
/* The first error's message. Without one, why the last cnn_save, cnn_save_memory or export failed: that stops
   nothing, and the next one that succeeds clears it. Else NULL. */
CNN_API const char *cnn_error(const cnn_graph *);
/* For companions of this header: make text the message of such a failure; NULL after a success. */
CNN_API void        cnn_notice(cnn_graph *, const char *text);
/* After cnn_compile: forget the error, so that runs go on. False, and the error stays, while recording: what
   could not be recorded is missing. */
CNN_API bool        cnn_clear_error(cnn_graph *);

/* The bytes that cnn_compile will take, known before any of them is allocated. */
typedef struct {
    size_t params, grads, optimizer; /* flat vectors; each tensor in them starts on a multiple of 64 bytes */
    size_t buffers;                  /* constants and running statistics */
    size_t inputs;                   /* inputs and labels */
    size_t activations;              /* values, gradients and saved state of nodes, sharing by liveness */
    size_t activations_eval;         /* what CNN_EVAL alone needs; part of activations, not added to total */
    size_t packed;                   /* for inference: weights as the kernels want them, made by the first run
                                        and again after the weights were written */
    size_t scratch;                  /* workspace of the kernels */
    size_t total;
} cnn_memory;
/* Put the nodes in order and plan memory without allocating it; cnn_compile does this first. loss: a tensor
   of shape (1,1,1,1) to be minimised, or any tensor if the graph is for inference. Errors: an earlier one; a
   tensor of another graph; for training, a loss that is not one number or that no operation computes, or an
   operation without backward on the way to a parameter; two tensors with one name; a total over SIZE_MAX. */
CNN_API cnn_memory  cnn_plan(cnn_graph *, cnn_tensor *loss);
/* Plan, allocate (or use the caller's memory of at least cnn_plan(...).total bytes, aligned to 64, which must
   outlive the graph), and set the initial weights. A graph is compiled once. False after an error. */
CNN_API bool        cnn_compile(cnn_graph *, cnn_tensor *loss);
CNN_API bool        cnn_compile_in(cnn_graph *, cnn_tensor *loss, void *memory, size_t bytes);

/* A second view of a compiled net, for inference in another thread at the same time. Parameters, running
   statistics and constants are g's own, only read; inputs, values, workspace and, unless g has .no_packed,
   packed weights are the view's, in one allocation. A view is a graph with .inference = 1 and g's .rows:
   cnn_find(view, x->name) is its x, and cnn_output, cnn_set, cnn_forward, cnn_get, cnn_predict and
   cnn_evaluate work on it as on any graph, to the same bits. There are no locks, as nothing shared is
   written: while views run, g and other views may run CNN_EVAL, but g must not be trained or loaded into. g
   outlives its views; each is freed with cnn_free. A view has its own error, from the start if g is not
   compiled, has an error, or is on a device. NULL as for cnn_new. */
typedef struct { const char *at, *said; const cnn_graph *g; /* required */
                 int max_batch, threads; } cnn_share_args; /* default: that of g; 1, a thread for each view */
CNN_API cnn_graph  *cnn_share_(cnn_share_args);
#define cnn_share(...) CNN_CALL(cnn_share_, cnn_share_args, g, __VA_ARGS__)

/* Compute t and what it depends on, nothing more: without labels, logits can be computed and the loss cannot.
   Returns the value of t if it is one number (the loss), else 0; NAN after an error. */
CNN_API float       cnn_forward(cnn_tensor *t, cnn_mode);
/* Set the gradients of all parameters to dloss/dparam, by reverse-mode accumulation (Linnainmaa 1970;
   Rumelhart, Hinton, Williams 1986). loss must be the compiled loss, just computed by cnn_forward(loss,
   CNN_TRAIN), no tensor written since. cnn_backward_add adds to the gradients that are there. */
CNN_API void        cnn_backward(cnn_tensor *loss);
CNN_API void        cnn_backward_add(cnn_tensor *loss);

/* ---- Leaves ---- */

/* Data, (N,c,h,w), written by cnn_set or cnn_feed. */
typedef struct { const char *at, *said; cnn_graph *g; int c, h, w; /* required: g, c; h and w default to 1 */
                 int grad;                                  /* 1: dloss/dinput can be read */
                 const char *name; } cnn_input_args;        /* default "input", "input2", ... */
CNN_API cnn_tensor *cnn_input_(cnn_input_args);
#define cnn_input(...) CNN_CALL(cnn_input_, cnn_input_args, g, __VA_ARGS__)

/* Classes, (N,1,h,w), whole numbers from 0: one for each sample, or for each pixel. */
typedef struct { const char *at, *said; cnn_graph *g; int h, w; /* required: g; h and w default to 1 */
                 const char *name; } cnn_labels_args;    /* default "labels", "labels2", ... */
CNN_API cnn_tensor *cnn_labels_(cnn_labels_args);
#define cnn_labels(...) CNN_CALL(cnn_labels_, cnn_labels_args, g, __VA_ARGS__)

/* A parameter, trained by cnn_step. */
typedef enum { CNN_INIT_DEFAULT, /* what the layer asks for; zero for a bare cnn_param */
               CNN_INIT_HE,      /* U(-a,a), a = gain sqrt(6 / fan_in) (He et al. 2015) */
               CNN_INIT_GLOROT,  /* U(-a,a), a = gain sqrt(6 / (fan_in + fan_out)) (Glorot, Bengio 2010) */
               CNN_INIT_LECUN,   /* U(-a,a), a = gain sqrt(3 / fan_in) (LeCun et al. 1998) */
               CNN_INIT_UNIFORM, /* U(-a,a), a = gain */
               CNN_INIT_CONSTANT /* gain everywhere */ } cnn_init;
typedef struct { const char *at, *said; cnn_graph *g; const char *name; cnn_shape shape; /* required */
                 cnn_init init; float gain;             /* gain: default 1 (0 for CONSTANT) */
                 int fan_in, fan_out; } cnn_param_args; /* default shape.n and shape.c */
CNN_API cnn_tensor *cnn_param_(cnn_param_args);
#define cnn_param(...) CNN_CALL(cnn_param_, cnn_param_args, g, __VA_ARGS__)

/* A constant: n*c*h*w values, copied. */
CNN_API cnn_tensor *cnn_const_(const char *at, cnn_graph *, cnn_shape, const float *values);
#define cnn_const(...) cnn_const_(CNN_HERE, __VA_ARGS__)

/* Before cnn_compile; each returns its tensor. */
CNN_API cnn_tensor *cnn_name  (cnn_tensor *, const char *name); /* of a node; copied */
CNN_API cnn_tensor *cnn_keep  (cnn_tensor *);                   /* its value stays readable in CNN_EVAL too */
/* Freeze a parameter: cnn_step leaves it alone. Freeze the running statistics of a batch norm: in CNN_TRAIN,
   too, it normalises by them, and they stay (PyTorch: eval()). Freeze what an operation computed: all
   parameters and statistics below it. Backward, its time and its memory end above what is frozen.
   conv1->in[1] is conv1's weight. By name: at compile, what matches the pattern, see cnn_set_lr_scale:
   "features.*". */
CNN_API cnn_tensor *cnn_freeze(cnn_tensor *);
CNN_API bool        cnn_freeze_names(cnn_graph *, const char *pattern);

/* ---- Values ---- */

CNN_API cnn_tensor *cnn_find  (const cnn_graph *, const char *name); /* after cnn_compile; NULL if none */
/* After cnn_compile: number i, from 0, in the order of execution: operands first, leaves such as parameters
   included; its index is i. NULL past the end. */
CNN_API cnn_tensor *cnn_node  (const cnn_graph *, int i);
CNN_API cnn_tensor *cnn_params(const cnn_graph *, int i); /* of these the parameters: number i, NULL past the
                                                            end; its ->name, ->shape, ->frozen */
CNN_API cnn_tensor *cnn_loss  (const cnn_graph *); /* what cnn_compile was given; before that, nil */
/* What the loss judges: its first operand. cnn_loss itself if that is no loss. */
CNN_API cnn_tensor *cnn_output(const cnn_graph *);

/* Read and write values. count is the number of floats, checked: for a tensor with a batch it must be a
   multiple of C*H*W, and writing an input sets the graph's current batch to count/(C*H*W), at most max_batch;
   all inputs of one run must agree. False after an error, which is the graph's. */
CNN_API bool         cnn_set        (cnn_tensor *, const float *values, size_t count);
CNN_API bool         cnn_set_labels (cnn_tensor *, const int *classes, size_t count);
CNN_API bool         cnn_get        (cnn_tensor *, float *values, size_t count);
CNN_API bool         cnn_get_grad   (cnn_tensor *, float *values, size_t count);
CNN_API size_t       cnn_count      (const cnn_tensor *);     /* floats at the current batch */
CNN_API int          cnn_batch      (const cnn_graph *);      /* the current batch */
CNN_API bool         cnn_set_batch  (cnn_graph *, int batch); /* 1 to max_batch, without writing an input */

/* Mapped: a host pointer, up to date, good until the graph runs again; NULL after an error. map_write also
   says that the host copy is now the newest (an input takes the current batch: cnn_set_batch first). The flat
   vectors hold all parameters that are trained, and their gradients, in the same order, with zeros in the
   gaps; both are mapped for reading and writing. With MPI: one MPI_Allreduce on the gradient. */
CNN_API const float *cnn_map_read   (cnn_tensor *);
CNN_API float       *cnn_map_write  (cnn_tensor *);
CNN_API const float *cnn_map_grad   (cnn_tensor *);
CNN_API float       *cnn_flat_params(cnn_graph *, size_t *count);
CNN_API float       *cnn_flat_grads (cnn_graph *, size_t *count);

/* ---- Operations: linear ----

   Each operation records a node and returns its tensor y, or, after an error (the graph's), the nil tensor.
   Unless its block says otherwise, y has the shape of x and a field defaults to 0; what is required comes
   first, by position. eps, softplus's beta, lrn's k and huber's delta must be positive, other factors not
   negative. A weight or bias of NULL is a new parameter; one that is given is used as it is: shared or
   constant. */

/* Cross-correlation with learned kernels (LeCun et al. 1989): (N,C,H,W) -> (N,channels,OH,OW),
   OH = floor((H + pad_top + pad_bottom - dilation_h (kernel_h - 1) - 1) / stride_h) + 1, OW likewise.
   weight (channels,C/groups,kernel_h,kernel_w), bias (1,channels,1,1). */
typedef struct { const char *at, *said; cnn_tensor *x; int channels, kernel; /* required: channels of y */
                 int kernel_h, kernel_w;               /* default kernel */
                 int stride, stride_h, stride_w;       /* default 1; _h and _w default to stride */
                 int pad, pad_h, pad_w;                /* zeros per side; _h and _w default to pad, */
                 int pad_top, pad_bottom, pad_left, pad_right; /* two default to pad_h, two to pad_w */
                 int dilation, dilation_h, dilation_w; /* default 1 */
                 int causal;       /* 1: W is time, and no y sees a later x: pad_left becomes dilation_w
                                      (kernel_w - 1), pad_right 0 */
                 int groups, no_bias;                  /* groups: default 1 */
                 int one_d;        /* set by cnn_conv1d */
                 cnn_tensor *weight, *bias;
                 cnn_init init; float gain; /* of the weight; default: He if a rectifier such as relu reads
                                               the layer, else LeCun; gain 1. The bias starts at zero. */
                 const char *name; } cnn_conv2d_args;
CNN_API cnn_tensor *cnn_conv2d_(cnn_conv2d_args);
#define cnn_conv2d(...) CNN_CALL(cnn_conv2d_, cnn_conv2d_args, x, __VA_ARGS__)
/* The same along W alone, for signals (N,C,1,W), with the options of conv2d; kernel_h is 1. In files the
   weight is that of PyTorch's Conv1d, (channels,C/groups,kernel). */
#define cnn_conv1d(...) cnn_conv2d(__VA_ARGS__, CNN_ALONG_W, CNN_OPTION(one_d, 1))
#define CNN_ALONG_W \
    CNN_OPTION(kernel_h, 1), CNN_OPTION(stride_h, 1), CNN_OPTION(pad_h, 0), CNN_OPTION(dilation_h, 1)

/* The same connections walked backwards (Zeiler et al. 2010): y is about stride times as large as x, OH =
   (H - 1) stride_h - pad_top - pad_bottom + dilation_h (kernel_h - 1) + output_pad_h + 1. Options as in
   conv2d, but weight (C,channels/groups,kernel_h,kernel_w); pad is what the convolution back to x would pad,
   cut off here. */
typedef struct { const char *at, *said; cnn_tensor *x; int channels, kernel, kernel_h, kernel_w;
                 int stride, stride_h, stride_w, dilation, dilation_h, dilation_w;
                 int pad, pad_h, pad_w, pad_top, pad_bottom, pad_left, pad_right;
                 int output_pad, output_pad_h, output_pad_w; /* less than the stride or the dilation */
                 int groups, no_bias; cnn_tensor *weight, *bias; cnn_init init; float gain;
                 const char *name; } cnn_conv_transpose2d_args;
CNN_API cnn_tensor *cnn_conv_transpose2d_(cnn_conv_transpose2d_args);
#define cnn_conv_transpose2d(...) CNN_CALL(cnn_conv_transpose2d_, cnn_conv_transpose2d_args, x, __VA_ARGS__)

/* y = W x + b (Rosenblatt 1958): (N,...), flattened to (N,K,1,1), -> (N,units,1,1). weight (units,K,1,1),
   bias (1,units,1,1); init and gain as in conv2d. */
typedef struct { const char *at, *said; cnn_tensor *x; int units; /* required */
                 int no_bias; cnn_tensor *weight, *bias;
                 cnn_init init; float gain; const char *name; } cnn_dense_args;
CNN_API cnn_tensor *cnn_dense_(cnn_dense_args);
#define cnn_dense(...) CNN_CALL(cnn_dense_, cnn_dense_args, x, __VA_ARGS__)

/* The matrix product: (M,K,1,1) (K,P,1,1) -> (M,P,1,1); M may be N, the batch. */
CNN_API cnn_tensor *cnn_matmul_(const char *at, cnn_tensor *a, cnn_tensor *b);
#define cnn_matmul(a, b) cnn_matmul_(CNN_HERE, a, b)

/* ---- Pooling ---- */

/* The largest of each window (Ranzato et al. 2007), or its mean (LeCun et al. 1989): (N,C,H,W) ->
   (N,C,OH,OW), with OH and OW as in conv2d. */
typedef struct { const char *at, *said; cnn_tensor *x; int kernel; /* required */
                 int kernel_h, kernel_w;               /* default kernel */
                 int stride, stride_h, stride_w;       /* default: the kernel */
                 int pad, pad_h, pad_w, pad_top, pad_bottom, pad_left, pad_right; /* as in conv2d; every
                                                          window must see a part of x */
                 int dilation, dilation_h, dilation_w; /* default 1 */
                 int ceil_mode;    /* 1: a window that starts inside the input or its left padding counts */
                 int no_count_pad; /* avg_pool; 1: divide by what lies inside x (count_include_pad = False) */
                 const char *name; } cnn_pool_args;
CNN_API cnn_tensor *cnn_max_pool_(cnn_pool_args);
#define cnn_max_pool(...) CNN_CALL(cnn_max_pool_, cnn_pool_args, x, __VA_ARGS__)
CNN_API cnn_tensor *cnn_avg_pool_(cnn_pool_args);
#define cnn_avg_pool(...) CNN_CALL(cnn_avg_pool_, cnn_pool_args, x, __VA_ARGS__)
/* Along W alone, for signals (N,C,1,W). */
#define cnn_max_pool1d(...) cnn_max_pool(__VA_ARGS__, CNN_ALONG_W)
#define cnn_avg_pool1d(...) cnn_avg_pool(__VA_ARGS__, CNN_ALONG_W)
/* (N,C,height,width): row i of y is the mean of rows floor(i H / height) to ceil((i + 1) H / height) - 1 of
   x, and so are columns (PyTorch's bins). */
typedef struct { const char *at, *said; cnn_tensor *x;
                 int height, width; /* of y: height required; width: height */
                 const char *name; } cnn_adaptive_avg_pool_args;
CNN_API cnn_tensor *cnn_adaptive_avg_pool_(cnn_adaptive_avg_pool_args);
#define cnn_adaptive_avg_pool(...) \
    CNN_CALL(cnn_adaptive_avg_pool_, cnn_adaptive_avg_pool_args, x, __VA_ARGS__)
CNN_API cnn_tensor *cnn_global_avg_pool_(const char *at, cnn_tensor *x); /* (N,C,1,1) (Lin et al. 2013) */
#define cnn_global_avg_pool(x) cnn_global_avg_pool_(CNN_HERE, x)
CNN_API cnn_tensor *cnn_global_max_pool_(const char *at, cnn_tensor *x); /* (N,C,1,1) */
#define cnn_global_max_pool(x) cnn_global_max_pool_(CNN_HERE, x)

/* ---- Normalisation: X = (x - mean) / sqrt(variance + eps), y = weight X + bias; eps: default 1e-5 ---- */

/* Per channel over (N,H,W) (Ioffe, Szegedy 2015). weight, bias, running_mean, running_var (1,C,1,1). */
typedef struct { const char *at, *said; cnn_tensor *x;
                 float momentum; /* of the running statistics, in [0,1]; default 0.1, as PyTorch's */
                 float eps; int no_affine; /* 1: no weight and bias */
                 int eval;       /* 1: its running statistics are frozen, see cnn_freeze */
                 int frozen;     /* 1: so are weight and bias */
                 const char *name; } cnn_batch_norm_args;
CNN_API cnn_tensor *cnn_batch_norm_(cnn_batch_norm_args);
#define cnn_batch_norm(...) CNN_CALL(cnn_batch_norm_, cnn_batch_norm_args, x, __VA_ARGS__)
/* Over the last axes of each sample (Ba et al. 2016), PyTorch's normalized_shape. weight, bias: one for each
   element of these, (1,C,H,W), (1,1,H,W) or (1,1,1,W). */
typedef struct { const char *at, *said; cnn_tensor *x;
                 unsigned axes; /* CNN_C | CNN_H | CNN_W, the default; CNN_H | CNN_W; or CNN_W */
                 float eps;     /* rms_norm: default 1.19e-7, FLT_EPSILON, as PyTorch */
                 int no_affine; /* layer_norm, rms_norm; 1: no weight and bias */
                 int affine;    /* instance_norm; 1: weight and bias; default none, as PyTorch */
                 const char *name; } cnn_norm_args;
CNN_API cnn_tensor *cnn_layer_norm_(cnn_norm_args);
#define cnn_layer_norm(...) CNN_CALL(cnn_layer_norm_, cnn_norm_args, x, __VA_ARGS__)
/* y = weight x / sqrt(mean x^2 + eps) over the same axes (Zhang, Sennrich 2019); no bias. */
CNN_API cnn_tensor *cnn_rms_norm_(cnn_norm_args);
#define cnn_rms_norm(...) CNN_CALL(cnn_rms_norm_, cnn_norm_args, x, __VA_ARGS__)
/* Over C/groups channels of each sample (Wu, He 2018). groups: required. weight, bias (1,C,1,1). */
typedef struct { const char *at, *said; cnn_tensor *x; int groups; float eps; int no_affine; /* as above */
                 const char *name; } cnn_group_norm_args;
CNN_API cnn_tensor *cnn_group_norm_(cnn_group_norm_args);
#define cnn_group_norm(...) CNN_CALL(cnn_group_norm_, cnn_group_norm_args, x, __VA_ARGS__)
/* Over each channel of each sample (Ulyanov et al. 2016). weight, bias (1,C,1,1). */
CNN_API cnn_tensor *cnn_instance_norm_(cnn_norm_args);
#define cnn_instance_norm(...) CNN_CALL(cnn_instance_norm_, cnn_norm_args, x, __VA_ARGS__)
/* Between neighbouring channels: y = x / (k + alpha/size sum x^2)^beta (Krizhevsky et al. 2012). */
typedef struct { const char *at, *said;
                 cnn_tensor *x; int size; /* required: channels in a window, 5 in AlexNet */
                 float alpha, beta, k; /* default 1e-4, 0.75, 1; alpha is divided by size, as in PyTorch */
                 const char *name; } cnn_lrn_args;
CNN_API cnn_tensor *cnn_lrn_(cnn_lrn_args);
#define cnn_lrn(...) CNN_CALL(cnn_lrn_, cnn_lrn_args, x, __VA_ARGS__)

/* ---- Activations ---- */

CNN_API cnn_tensor *cnn_relu_(const char *at, cnn_tensor *x); /* max(x, 0) (Nair, Hinton 2010) */
#define cnn_relu(x) cnn_relu_(CNN_HERE, x)
/* x for x > 0, else slope x; slope: default 0.01 (Maas et al. 2013). */
typedef struct { const char *at, *said; cnn_tensor *x; float slope; const char *name; } cnn_leaky_relu_args;
CNN_API cnn_tensor *cnn_leaky_relu_(cnn_leaky_relu_args);
#define cnn_leaky_relu(...) CNN_CALL(cnn_leaky_relu_, cnn_leaky_relu_args, x, __VA_ARGS__)
CNN_API cnn_tensor *cnn_sigmoid_(const char *at, cnn_tensor *x); /* 1 / (1 + e^-x) */
#define cnn_sigmoid(x) cnn_sigmoid_(CNN_HERE, x)
CNN_API cnn_tensor *cnn_tanh_(const char *at, cnn_tensor *x);
#define cnn_tanh(x) cnn_tanh_(CNN_HERE, x)
/* min(max(x, low), high); default 0, but not both; +-INFINITY: no bound. relu6: Howard et al. 2017. */
typedef struct { const char *at, *said; cnn_tensor *x; float low, high; const char *name; } cnn_clamp_args;
CNN_API cnn_tensor *cnn_clamp_(cnn_clamp_args);
#define cnn_clamp(...) CNN_CALL(cnn_clamp_, cnn_clamp_args, x, __VA_ARGS__)
#define cnn_relu6(x)   cnn_clamp(x, 0, 6)
/* x for x > 0, else alpha (e^x - 1); alpha: default 1 (Clevert et al. 2015). */
typedef struct { const char *at, *said; cnn_tensor *x; float alpha; const char *name; } cnn_elu_args;
CNN_API cnn_tensor *cnn_elu_(cnn_elu_args);
#define cnn_elu(...) CNN_CALL(cnn_elu_, cnn_elu_args, x, __VA_ARGS__)
/* x P(x), P the normal distribution function; tanh = 1: by a tanh, as GPT-2 (Hendrycks, Gimpel 2016). */
typedef struct { const char *at, *said; cnn_tensor *x; int tanh; const char *name; } cnn_gelu_args;
CNN_API cnn_tensor *cnn_gelu_(cnn_gelu_args);
#define cnn_gelu(...) CNN_CALL(cnn_gelu_, cnn_gelu_args, x, __VA_ARGS__)
CNN_API cnn_tensor *cnn_silu_(const char *at, cnn_tensor *x); /* swish, x sigmoid(x) (Elfwing et al. 2017) */
#define cnn_silu(x) cnn_silu_(CNN_HERE, x)
/* log(1 + e^(beta x)) / beta, or x where beta x > threshold; default 1 and 20 (Dugas et al. 2001). */
typedef struct { const char *at, *said; cnn_tensor *x; float beta, threshold;
                 const char *name; } cnn_softplus_args;
CNN_API cnn_tensor *cnn_softplus_(cnn_softplus_args);
#define cnn_softplus(...) CNN_CALL(cnn_softplus_, cnn_softplus_args, x, __VA_ARGS__)
CNN_API cnn_tensor *cnn_hard_swish_(const char *at, cnn_tensor *x); /* x relu6(x+3)/6 (Howard et al. 2019) */
#define cnn_hard_swish(x) cnn_hard_swish_(CNN_HERE, x)
/* 1.0507 x for x > 0, else 1.7581 (e^x - 1), which keeps mean 0 and variance 1 (Klambauer et al. 2017). */
CNN_API cnn_tensor *cnn_selu_(const char *at, cnn_tensor *x);
#define cnn_selu(x) cnn_selu_(CNN_HERE, x)
CNN_API cnn_tensor *cnn_mish_(const char *at, cnn_tensor *x); /* x tanh(log(1 + e^x)) (Misra 2019) */
#define cnn_mish(x) cnn_mish_(CNN_HERE, x)
CNN_API cnn_tensor *cnn_hard_sigmoid_(const char *at, cnn_tensor *x); /* relu6(x+3)/6 (Howard et al. 2019) */
#define cnn_hard_sigmoid(x) cnn_hard_sigmoid_(CNN_HERE, x)
CNN_API cnn_tensor *cnn_softsign_(const char *at, cnn_tensor *x); /* x / (1 + |x|) */
#define cnn_softsign(x) cnn_softsign_(CNN_HERE, x)
/* x for x > 0, else w x, w learned (He et al. 2015). weight (1,1,1,1), or (1,C,1,1) if per_channel. */
typedef struct { const char *at, *said; cnn_tensor *x; int per_channel;
                 float start; /* of slopes; default 0.25 */
                 cnn_tensor *weight; const char *name; } cnn_prelu_args;
CNN_API cnn_tensor *cnn_prelu_(cnn_prelu_args);
#define cnn_prelu(...) CNN_CALL(cnn_prelu_, cnn_prelu_args, x, __VA_ARGS__)
CNN_API cnn_tensor *cnn_exp_(const char *at, cnn_tensor *x);
#define cnn_exp(x) cnn_exp_(CNN_HERE, x)
CNN_API cnn_tensor *cnn_log_(const char *at, cnn_tensor *x);
#define cnn_log(x) cnn_log_(CNN_HERE, x)
CNN_API cnn_tensor *cnn_sqrt_(const char *at, cnn_tensor *x);
#define cnn_sqrt(x) cnn_sqrt_(CNN_HERE, x)
CNN_API cnn_tensor *cnn_abs_(const char *at, cnn_tensor *x);
#define cnn_abs(x) cnn_abs_(CNN_HERE, x)
CNN_API cnn_tensor *cnn_erf_(const char *at, cnn_tensor *x); /* 2/sqrt(pi) integral of e^-t^2 from 0 to x */
#define cnn_erf(x) cnn_erf_(CNN_HERE, x)
/* x^exponent, required: one number; NaN for x < 0 unless it is whole. By a tensor: cnn_pow. */
typedef struct { const char *at, *said; cnn_tensor *x; float exponent; const char *name; } cnn_power_args;
CNN_API cnn_tensor *cnn_power_(cnn_power_args);
#define cnn_power(...) CNN_CALL(cnn_power_, cnn_power_args, x, __VA_ARGS__)
/* An operation of your own: its API block here. */
/* e^x_k / sum e^x along an axis (Bridle 1990), and its logarithm. */
typedef struct { const char *at, *said; cnn_tensor *x; unsigned axis; /* CNN_H or CNN_W; default CNN_C */
                 const char *name; } cnn_softmax_args;
CNN_API cnn_tensor *cnn_softmax_(cnn_softmax_args);
#define cnn_softmax(...) CNN_CALL(cnn_softmax_, cnn_softmax_args, x, __VA_ARGS__)
CNN_API cnn_tensor *cnn_log_softmax_(cnn_softmax_args);
#define cnn_log_softmax(...) CNN_CALL(cnn_log_softmax_, cnn_softmax_args, x, __VA_ARGS__)
/* 0 with probability p (required, 0 <= p < 1), else x/(1-p); in CNN_EVAL x (Srivastava et al. 2014). */
typedef struct { const char *at, *said; cnn_tensor *x; float p; const char *name; } cnn_dropout_args;
CNN_API cnn_tensor *cnn_dropout_(cnn_dropout_args);
#define cnn_dropout(...) CNN_CALL(cnn_dropout_, cnn_dropout_args, x, __VA_ARGS__)

/* ---- Shapes ---- */

/* The same values as (N,c,h,w), c*h*w as before; each defaults to 1. */
typedef struct { const char *at, *said; cnn_tensor *x; int c, h, w; const char *name; } cnn_reshape_args;
CNN_API cnn_tensor *cnn_reshape_(cnn_reshape_args);
#define cnn_reshape(...) CNN_CALL(cnn_reshape_, cnn_reshape_args, x, __VA_ARGS__)
CNN_API cnn_tensor *cnn_flatten_(const char *at, cnn_tensor *x); /* (N,C*H*W,1,1) */
#define cnn_flatten(x) cnn_flatten_(CNN_HERE, x)
/* cnn_concat(a, b, ...): one behind the other along C, at most CNN_MAX_INPUTS. cnn_concat_along(CNN_W, a, b,
   ...): along that axis, C, H or W. */
CNN_API cnn_tensor *cnn_concat_(const char *at, cnn_tensor *const *x, int n);
#define cnn_concat(...) cnn_concat_(CNN_HERE, CNN_TENSORS(__VA_ARGS__))
CNN_API cnn_tensor *cnn_concat_along_(const char *at, unsigned axis, cnn_tensor *const *x, int n);
#define cnn_concat_along(axis, ...) cnn_concat_along_(CNN_HERE, axis, CNN_TENSORS(__VA_ARGS__))
typedef struct { const char *at, *said; unsigned axis; } cnn_concat_args;          /* in y->args */
/* Columns, rows and channels added: (N,C+front+back,H+top+bottom,W+left+right). REFLECT: x in the mirror,
   without the edge itself: 2 1 0 1 2; REPLICATE (numpy's and ONNX's "edge"): 0 0 0 1 2. */
enum { CNN_PAD_CONSTANT, CNN_PAD_REFLECT, CNN_PAD_REPLICATE };
typedef struct { const char *at, *said; cnn_tensor *x; int left, right, top, bottom, front, back;
                 int mode;    /* default CNN_PAD_CONSTANT: all are `value` */
                 float value; const char *name; } cnn_pad_args;
CNN_API cnn_tensor *cnn_pad_(cnn_pad_args);
#define cnn_pad(...) CNN_CALL(cnn_pad_, cnn_pad_args, x, __VA_ARGS__)
/* Every step-th (default 1) of [from,to) along one axis. Negative: from the end; `to` defaults to the end. */
typedef struct { const char *at, *said; cnn_tensor *x;
                 unsigned axis; /* required: CNN_C, CNN_H or CNN_W; CNN_N if x has no batch */
                 int from, to /* required */, step; const char *name; } cnn_slice_args;
CNN_API cnn_tensor *cnn_slice_(cnn_slice_args);
#define cnn_slice(...) CNN_CALL(cnn_slice_, cnn_slice_args, x, __VA_ARGS__)
/* Axes C, H and W of y are the axes c, h and w of x: cnn_permute(x, CNN_H, CNN_W, CNN_C) is (N,H,W,C). */
typedef struct { const char *at, *said; cnn_tensor *x; unsigned c, h, w; /* required */
                 const char *name; } cnn_permute_args;
CNN_API cnn_tensor *cnn_permute_(cnn_permute_args);
#define cnn_permute(...) CNN_CALL(cnn_permute_, cnn_permute_args, x, __VA_ARGS__)
/* Two axes change places. */
CNN_API cnn_tensor *cnn_transpose_(const char *at, cnn_tensor *x, unsigned a, unsigned b);
#define cnn_transpose(x, a, b) cnn_transpose_(CNN_HERE, x, a, b)
/* Channels become blocks of pixels, with r = block: y[n, c, r h + i, r w + j] = x[n, (c r + i) r + j, h, w],
   (N,C/r^2,r H,r W) (PyTorch's pixel_shuffle: Shi et al. 2016); and back, x and y exchanged. */
typedef struct { const char *at, *said; cnn_tensor *x; int block; /* required */
                 const char *name; } cnn_block_args;
CNN_API cnn_tensor *cnn_depth_to_space_(cnn_block_args);
#define cnn_depth_to_space(...) CNN_CALL(cnn_depth_to_space_, cnn_block_args, x, __VA_ARGS__)
CNN_API cnn_tensor *cnn_space_to_depth_(cnn_block_args);
#define cnn_space_to_depth(...) CNN_CALL(cnn_space_to_depth_, cnn_block_args, x, __VA_ARGS__)
/* Channel i of group g becomes channel i groups + g (Zhang et al. 2018). */
typedef struct { const char *at, *said; cnn_tensor *x; int groups; /* required; divides C */
                 const char *name; } cnn_channel_shuffle_args;
CNN_API cnn_tensor *cnn_channel_shuffle_(cnn_channel_shuffle_args);
#define cnn_channel_shuffle(...) CNN_CALL(cnn_channel_shuffle_, cnn_channel_shuffle_args, x, __VA_ARGS__)
/* (N,C,height,width): each pixel repeated, or interpolated if bilinear. */
typedef struct { const char *at, *said; cnn_tensor *x;
                 int scale, scale_h, scale_w; /* required unless y's size is; _h, _w: scale */
                 int bilinear, align_corners; /* 1, of bilinear: the corner pixels' centres coincide */
                 int height, width;           /* of y; default H*scale_h and W*scale_w */
                 const char *name; } cnn_upsample_args;
CNN_API cnn_tensor *cnn_upsample_(cnn_upsample_args);
#define cnn_upsample(...) CNN_CALL(cnn_upsample_, cnn_upsample_args, x, __VA_ARGS__)

/* ---- Arithmetic: operations of two operands broadcast, so an extent of 1 stretches ---- */

CNN_API cnn_tensor *cnn_add_(const char *at, cnn_tensor *a, cnn_tensor *b);
#define cnn_add(a, b) cnn_add_(CNN_HERE, a, b)
CNN_API cnn_tensor *cnn_sub_(const char *at, cnn_tensor *a, cnn_tensor *b);
#define cnn_sub(a, b) cnn_sub_(CNN_HERE, a, b)
CNN_API cnn_tensor *cnn_mul_(const char *at, cnn_tensor *a, cnn_tensor *b);
#define cnn_mul(a, b) cnn_mul_(CNN_HERE, a, b) /* element by element (Hadamard) */
CNN_API cnn_tensor *cnn_div_(const char *at, cnn_tensor *a, cnn_tensor *b);
#define cnn_div(a, b) cnn_div_(CNN_HERE, a, b)
/* The larger and the smaller of the two; where they are equal each has half of the gradient. */
CNN_API cnn_tensor *cnn_maximum_(const char *at, cnn_tensor *a, cnn_tensor *b);
#define cnn_maximum(a, b) cnn_maximum_(CNN_HERE, a, b)
CNN_API cnn_tensor *cnn_minimum_(const char *at, cnn_tensor *a, cnn_tensor *b);
#define cnn_minimum(a, b) cnn_minimum_(CNN_HERE, a, b)
/* a^b; the exponent may be learned where a > 0. One number as the exponent: cnn_power. */
CNN_API cnn_tensor *cnn_pow_(const char *at, cnn_tensor *a, cnn_tensor *b);
#define cnn_pow(a, b) cnn_pow_(CNN_HERE, a, b)
/* factor x + offset; factor: default 1. */
typedef struct { const char *at, *said; cnn_tensor *x; float factor, offset;
                 const char *name; } cnn_scale_args;
CNN_API cnn_tensor *cnn_scale_(cnn_scale_args);
#define cnn_scale(...) CNN_CALL(cnn_scale_, cnn_scale_args, x, __VA_ARGS__)
/* The sum, the mean, the largest and the smallest over axes, CNN_N | CNN_C | CNN_H | CNN_W, default all; they
   stay with extent 1. Several that are largest share the gradient equally. */
typedef struct { const char *at, *said; cnn_tensor *x; unsigned axes; const char *name; } cnn_reduce_args;
CNN_API cnn_tensor *cnn_sum_(cnn_reduce_args);
#define cnn_sum(...) CNN_CALL(cnn_sum_, cnn_reduce_args, x, __VA_ARGS__)
CNN_API cnn_tensor *cnn_mean_(cnn_reduce_args);
#define cnn_mean(...) CNN_CALL(cnn_mean_, cnn_reduce_args, x, __VA_ARGS__)
CNN_API cnn_tensor *cnn_amax_(cnn_reduce_args);
#define cnn_amax(...) CNN_CALL(cnn_amax_, cnn_reduce_args, x, __VA_ARGS__)
CNN_API cnn_tensor *cnn_amin_(cnn_reduce_args);
#define cnn_amin(...) CNN_CALL(cnn_amin_, cnn_reduce_args, x, __VA_ARGS__)

/* ---- Losses: one number, (1,1,1,1), unless .reduction is CNN_NONE ---- */

/* .reduction, what becomes of the terms. CNN_MEAN: their mean (with class weights: sum / the sum of the
   labels' weights); CNN_SUM: their sum; CNN_NONE: y has them all, one for each element or label, 0 where that
   is ignored. */
enum { CNN_MEAN, CNN_SUM, CNN_NONE };
/* -log softmax(logits) at the label, the mean over the labels (Bridle 1990). An input (N,C,H,W) gives soft
   labels, the probabilities p of the C classes: - sum p log softmax(logits). */
typedef struct { const char *at, *said; cnn_tensor *logits, *labels; /* required: (N,C,H,W) and (N,1,H,W) */
                 float smoothing;  /* label smoothing in [0,1) (Szegedy et al. 2016) */
                 cnn_tensor *class_weights; /* (1,C,1,1), a constant: a weighted mean; default none */
                 int ignore_index; /* labels with this value do not count (PyTorch's is -100); default none */
                 int reduction;
                 const char *name; } cnn_softmax_cross_entropy_args;
CNN_API cnn_tensor *cnn_softmax_cross_entropy_(cnn_softmax_cross_entropy_args);
#define cnn_softmax_cross_entropy(...) \
    CNN_CALL(cnn_softmax_cross_entropy_, cnn_softmax_cross_entropy_args, logits, __VA_ARGS__)
/* The same after log_softmax, with the same options. */
typedef struct { const char *at, *said; cnn_tensor *log_probabilities, *labels, *class_weights;
                 int ignore_index, reduction;
                 const char *name; } cnn_nll_args;
CNN_API cnn_tensor *cnn_nll_(cnn_nll_args);
#define cnn_nll(...) CNN_CALL(cnn_nll_, cnn_nll_args, log_probabilities, __VA_ARGS__)
/* The mean of (y - target)^2, and of |y - target|. */
typedef struct { const char *at, *said; cnn_tensor *y, *target; int reduction;
                 const char *name; } cnn_distance_args;
CNN_API cnn_tensor *cnn_mse_(cnn_distance_args);
#define cnn_mse(...) CNN_CALL(cnn_mse_, cnn_distance_args, y, __VA_ARGS__)
CNN_API cnn_tensor *cnn_l1_(cnn_distance_args);
#define cnn_l1(...) CNN_CALL(cnn_l1_, cnn_distance_args, y, __VA_ARGS__)
/* The mean of d^2/2 for |d| <= delta, else delta (|d| - delta/2), d = y - target; delta: default 1 (Huber
   1964). smooth_l1: divided by delta, which PyTorch calls beta (Girshick 2015). */
typedef struct { const char *at, *said; cnn_tensor *y, *target; float delta; int smooth_l1;
                 int reduction; const char *name; } cnn_huber_args;
CNN_API cnn_tensor *cnn_huber_(cnn_huber_args);
#define cnn_huber(...) CNN_CALL(cnn_huber_, cnn_huber_args, y, __VA_ARGS__)
#define cnn_smooth_l1(...) cnn_huber(__VA_ARGS__, CNN_OPTION(smooth_l1, 1))
/* Mean binary cross-entropy of sigmoid(logits). pos_weight and weight: (1,C,1,1), constants; default none. */
typedef struct { const char *at, *said;
                 cnn_tensor *logits, *target; /* required, of one shape; targets in 0..1 */
                 cnn_tensor *pos_weight; /* a yes of channel c counts pos_weight[c] times */
                 cnn_tensor *weight;     /* so does each element; the mean still divides by their number */
                 int reduction; const char *name; } cnn_bce_with_logits_args;
CNN_API cnn_tensor *cnn_bce_with_logits_(cnn_bce_with_logits_args);
#define cnn_bce_with_logits(...) CNN_CALL(cnn_bce_with_logits_, cnn_bce_with_logits_args, logits, __VA_ARGS__)
/* Focal loss (Lin et al. 2017), torchvision's sigmoid_focal_loss: bce_with_logits times (1 - p)^gamma, where
   p is the probability given to the truth, times alpha for yes, 1 - alpha for no. (There the default is no
   reduction.) */
typedef struct { const char *at, *said; cnn_tensor *logits, *target; /* as for bce_with_logits */
                 float alpha, gamma; /* default 0.25 and 2; alpha below 0: without it */
                 int reduction; const char *name; } cnn_sigmoid_focal_args;
CNN_API cnn_tensor *cnn_sigmoid_focal_(cnn_sigmoid_focal_args);
#define cnn_sigmoid_focal(...) CNN_CALL(cnn_sigmoid_focal_, cnn_sigmoid_focal_args, logits, __VA_ARGS__)
/* Soft dice loss, for segmentation (Milletari et al. 2016; as MONAI's DiceLoss): the mean over samples and
   channels of 1 - (2 sum p t + smooth) / (sum p + sum t + smooth), sums over the pixels. */
typedef struct { const char *at, *said;
                 cnn_tensor *y;      /* probabilities p, (N,C,H,W), of a softmax or sigmoid */
                 cnn_tensor *target; /* masks t in 0..1 of this shape, or labels (N,1,H,W), classes */
                 float smooth;       /* default 1e-5 */
                 int ignore_index;   /* pixels with this label do not count; default none */
                 int reduction;      /* CNN_NONE: (N,C,1,1) */
                 const char *name; } cnn_dice_args;
CNN_API cnn_tensor *cnn_dice_(cnn_dice_args);
#define cnn_dice(...) CNN_CALL(cnn_dice_, cnn_dice_args, y, __VA_ARGS__)

/* ---- Optimizer ---- */

typedef struct { const char *at, *said; cnn_graph *g; float lr; /* required; lr > 0: no default is sensible */
                 float momentum;     /* of cnn_sgd and both RMSprops; default 0 */
                 float weight_decay; /* default 0, added to the gradient (L2); cnn_adamw: default 0.01, taken
                                        off the weights */
                 int   nesterov;     /* of cnn_sgd; 1: Nesterov momentum (Sutskever et al. 2013) */
                 float beta1, beta2; /* of cnn_adam and cnn_adamw; default 0.9 and 0.999 */
                 float alpha;        /* of both RMSprops; default 0.99 */
                 float eps;          /* of all but cnn_sgd; default 1e-8; cnn_adagrad: 1e-10 */
                 float dampening;    /* of cnn_sgd with momentum, not Nesterov's; default 0 */
               } cnn_step_args;
/* One update of all parameters that are not frozen. False after an error, such as an option that the graph's
   optimizer does not take. */
CNN_API bool cnn_step_(cnn_step_args);
#define cnn_step(...) CNN_CALL(cnn_step_, cnn_step_args, g, __VA_ARGS__)

/* For cnn_new(.optimizer = cnn_adam()). Formulas, defaults and state are PyTorch's. Each word is a function:
   cnn_sgd(), cnn_adam(), ...; rmsprop_centered is PyTorch's centered = True. cnn_optimizers lists all. */
#define CNN_OPTIMIZERS(X) X(sgd) X(adam) X(adamw) X(rmsprop) X(rmsprop_centered) X(adagrad)
#define CNN_OPTIMIZER_(name) CNN_API const cnn_optimizer *cnn_##name(void);
CNN_OPTIMIZERS(CNN_OPTIMIZER_)
CNN_API const cnn_optimizer *const *cnn_optimizers(int *count);
struct cnn_optimizer { /* or your own */
    const char *name;
    int         slots; /* flat vectors of state, each as long as the parameters: 0..CNN_MAX_SLOTS */
    /* Update w[0..n) by the gradients dw. slot: CNN_MAX_SLOTS pointers, NULL beyond those that it has; zero
       before the first update. The options have their defaults filled in. step: how many updates these slots
       have seen. */
    void (*update)(float *w, const float *dw, float *const *slot, size_t n, const cnn_step_args *, long step);
    const struct cnn_field *fields; /* the options that it takes beside lr: members of cnn_step_args, with
                                       defaults and ranges, ended by { 0 }; NULL = none */
    const char *(*wrong)(const cnn_step_args *); /* why these options do not go together; NULL = they do */
};

/* Between cnn_backward and cnn_step: scale all gradients so that their Euclidean length, over all parameters
   together, is at most max_norm (Pascanu, Mikolov, Bengio 2013). Parameters whose cnn_set_lr_scale is 0
   neither count nor change. Returns the length before: if not finite, nothing changed; NAN after an error. */
CNN_API double cnn_clip_grads(cnn_graph *, float max_norm);

/* From now on the parameters whose names match learn at lr * factor; 0 leaves them as they are. In a pattern,
   '*' stands for any characters: "conv1.*", "*.bias". After cnn_compile; the last call that matches counts;
   neither model files nor checkpoints keep it. Parameters that never learn are better frozen with cnn_freeze,
   which saves their gradients. Running statistics are not parameters: they go on, as PyTorch's. In any
   pattern, '|' stands between alternatives: "conv1.*|fc.bias".
   cnn_set_decay_scale likewise: weight_decay * factor; 0 turns it off. */
CNN_API bool cnn_set_lr_scale(cnn_graph *, const char *pattern, float factor);
CNN_API bool cnn_set_decay_scale(cnn_graph *, const char *pattern, float factor);

/* The moving average of everything that training changes: a = decay a + (1 - decay) w (Polyak, Juditsky
   1992). Call cnn_average after each cnn_step; the first call starts at w. cnn_swap_average exchanges weights
   and averages: once before evaluating or saving, and once more before training goes on. cnn_save writes what
   is in the net, cnn_save_checkpoint both; cnn_load_weights leaves the averages as they are. */
CNN_API bool cnn_average(cnn_graph *, float decay);
CNN_API bool cnn_swap_average(cnn_graph *);

/* ---- Data ---- */

typedef enum { CNN_NOTHING, CNN_U8, CNN_I32, CNN_F32 } cnn_type;
/* What a stream is asked for: n samples by their numbers, 0..count-1, in the order of feeding. Their values
   go, one behind the other, to bytes or floats, their targets to labels or targets: what is not NULL. */
typedef struct { const int *index; int n; long epoch;
                 unsigned char *bytes; float *floats; int *labels; float *targets;
                 char error[128]; } cnn_request;               /* room for a reason */
typedef bool (*cnn_fill)(cnn_request *, void *user);           /* false after an error */
/* Samples, and of each what is to be learned, its target: whole numbers, such as a class for each sample or
   for each pixel, or floats of any shape, such as a measured value, another picture, or 0 and 1 for each of
   several properties. Pixels that came as bytes stay bytes, and become (byte/255 - mean[c]) / deviation[c]
   when fed (a deviation that is not positive counts as 1). A value, not a pointer: the loaders return it. If
   loading failed, count is 0 and error says why (cnn_fit passes that on to the graph); it still has to be
   given to cnn_dataset_free. Only mean, deviation and names may be written, as for a net that was trained
   elsewhere with others. */
typedef struct cnn_dataset {
    int                  count, classes;        /* samples; classes = largest label + 1 */
    cnn_shape            shape, target;         /* of one sample, and of one target: n = 1 */
    cnn_type             type, target_type;     /* CNN_U8 or CNN_F32; CNN_I32, CNN_F32 or CNN_NOTHING */
    const unsigned char *bytes;                 /* count*c*h*w, or NULL */
    const float         *floats;                /* count*c*h*w, or NULL */
    const int           *labels;                /* count * target.c*h*w, or NULL; within +-2^24 */
    const float         *targets;               /* count * target.c*h*w, or NULL */
    cnn_fill             fill; void *user;      /* a stream: it has none of these arrays */
    int                 *order;                 /* the order in which samples are fed: a permutation */
    float                mean[4], deviation[4]; /* per channel (the last entry serves all further channels) */
    const char *const   *names;                 /* of the classes, ended by NULL; or NULL */
    void                *own[4];                /* what cnn_dataset_free releases */
    char                 error[256];
} cnn_dataset;
CNN_API void        cnn_dataset_free(cnn_dataset *);
/* Samples of shape (c,h,w) in memory, and their targets; nothing is copied. Or a stream, for data that are
   larger than memory or made when needed: `fill` is called for each batch. It is shuffled, split, changed and
   resumed as any data set, as the numbers of the samples are drawn here. cnn_fit and cnn_evaluate read one
   batch ahead in a second thread, while the net computes, where there are threads; each thread of the program
   that uses the data set calls fill, too. */
typedef struct { const char *at, *said; int count, c, h, w;       /* required: count, c; h and w: 1 */
                 const unsigned char *bytes; const float *floats; /* required: one of these, or fill */
                 const int *labels; const float *targets;         /* one of these, or none */
                 int target_c, target_h, target_w;                /* of a target; default 1 */
                 cnn_fill fill; void *user;
                 cnn_type type, target_type; } cnn_data_args; /* of a stream; default CNN_F32, CNN_NOTHING */
CNN_API cnn_dataset cnn_data_(cnn_data_args);
#define cnn_data(...) CNN_CALL(cnn_data_, cnn_data_args, count, __VA_ARGS__)
/* The same for n samples of one class each, if there are at most 256: these labels are copied. */
CNN_API cnn_dataset cnn_bytes (const unsigned char *pixels, const unsigned char *labels, int n, int c, int h,
                               int w);
CNN_API cnn_dataset cnn_floats(const float *values, const unsigned char *labels, int n, int c, int h, int w);

/* CSV: numbers, one sample a line; a decimal point in every locale; quotes are allowed; blank lines do not
   count. Errors: a cell that is empty or not a finite number, lines of different length. */
typedef struct { const char *at, *said;
                 const char *path; /* required; of cnn_csv_memory: only for messages */
                 int   label;      /* the column of the class: 1 the first, -1 the last; default none */
                 int   target;     /* or the first column of a target of floats, counted so; default none */
                 int   target_c, target_h, target_w; /* columns of either: their product; default 1 */
                 int   skip;       /* lines before the first sample: 1 for a heading */
                 float scale;      /* of the values: 1 / 255.0f for pixels; default 1 */
                 int   c, h, w;    /* of a sample; default (values of a line, 1, 1) */
                 char  separator; } cnn_csv_args; /* default ',' */
/* IDX: MNIST, Fashion-MNIST; not gzipped. CIFAR-10 and CIFAR-100 in their binary version (Krizhevsky 2009):
   bytes of shape (3,32,32); classes says which: 10, or 100 for its fine labels. Without a header, a file that
   ends between two records looks whole. NPY: arrays saved by numpy.save, versions 1 to 3: integers, floats
   and bools of either byte order, in C's order or Fortran's (which pandas often has). Values (N), (N,C),
   (N,H,W) or (N,C,H,W): uint8 stay bytes, all others become floats as they are. labels: NULL, or targets of
   such shapes: integers and bools become labels, floats stay floats. All are copied from memory: */
CNN_API cnn_dataset cnn_idx_memory(const void *images, size_t bytes, const void *labels, size_t label_bytes);
CNN_API cnn_dataset cnn_cifar_memory(const void *records, size_t bytes, int classes);
CNN_API cnn_dataset cnn_csv_memory(const void *text, size_t bytes, cnn_csv_args);
CNN_API cnn_dataset cnn_npy_memory(const void *values, size_t bytes, const void *labels, size_t label_bytes);
#ifndef CNN_NO_STDIO
CNN_API cnn_dataset cnn_load_idx  (const char *images, const char *labels);
/* One data set in the order of the paths, such as data_batch_1.bin ... data_batch_5.bin. */
CNN_API cnn_dataset cnn_load_cifar(const char *const *paths, int n_paths, int classes);
CNN_API cnn_dataset cnn_load_csv_ (cnn_csv_args);
#define cnn_load_csv(...) CNN_CALL(cnn_load_csv_, cnn_csv_args, path, __VA_ARGS__)
CNN_API cnn_dataset cnn_load_npy  (const char *values, const char *labels);

/* Pictures in folders: each folder in `path` is a class, and each file in it a picture of that class; both in
   the order of their names, which the data set keeps (d.names). Names that begin with a point do not count. A
   decoder makes a file h x w pixels of `channels` bytes, row by row; it returns NULL, or why it cannot. By
   itself the library reads binary PPM and PGM; with stb_image.h it reads JPEG and PNG, too:

       static const char *decode(cnn_picture *p, const char *path, int channels, void *user)
       {
           p->pixels = stbi_load(path, &p->w, &p->h, NULL, channels), p->release = stbi_image_free;
           return (void)user, p->pixels ? NULL : stbi_failure_reason();
       }

   Resizing is bilinear with antialiasing, to the byte as Pillow's (where that resizes columns before rows,
   some bytes differ by 1). Errors name the folder or the file. */
typedef struct { int h, w; unsigned char *pixels; void (*release)(void *pixels); } cnn_picture;
typedef const char *(*cnn_decode)(cnn_picture *, const char *path, int channels, void *user);
typedef struct { const char *at, *said;
                 const char *path; int c, h, w; /* required; c: 1, grey, or 3, colour */
                 int shorter;      /* default 0: each picture is stretched to h x w. Else its shorter side
                                      gets so many pixels, and h x w are cut out of the middle */
                 cnn_decode decode; void *user; /* default: PPM and PGM */
                 int stream;       /* 1: pictures are decoded whenever they are fed, not kept in memory */
               } cnn_folder_args;
CNN_API cnn_dataset cnn_load_folder_(cnn_folder_args);
#define cnn_load_folder(...) CNN_CALL(cnn_load_folder_, cnn_folder_args, path, __VA_ARGS__)
#endif

/* Fisher-Yates from the identity: same seed, same order. */
CNN_API void        cnn_shuffle(cnn_dataset *, uint64_t seed);
/* A view of count samples from first on, in the present order; the source must outlive it. */
CNN_API cnn_dataset cnn_split(const cnn_dataset *, int first, int count);
/* What a net has to know of its data when it is used: mean and deviation, and the names of the classes.
   cnn_fit takes them over; else cnn_remember does. They go into model files, and cnn_load remembers them.
   cnn_recall gives them to a data set, which names them no longer than the graph lives. Class name: NULL if
   none is known. */
CNN_API bool        cnn_remember(cnn_graph *, const cnn_dataset *);
CNN_API void        cnn_recall(const cnn_graph *, cnn_dataset *);
CNN_API const char *cnn_class_name(const cnn_graph *, int k);
/* Set mean and deviation per channel to those of `as`. Errors, in .error: `as` has one, is empty, has another
   number of channels, or values that are not finite. */
CNN_API void        cnn_standardize(cnn_dataset *, const cnn_dataset *as);
/* Copy samples first, first+1, ... (at most max_batch) to x, and their targets to `target` (may be NULL): a
   tensor made by cnn_labels or cnn_input, of the shape (N,c,h,w) of the targets. One made by cnn_input(g, C,
   h, w) also takes labels (1,h,w): as C numbers of which that of the class is 1 and the others 0. Returns how
   many: 0 at the end of the data or after an error. */
CNN_API int         cnn_feed(cnn_tensor *x, cnn_tensor *target, const cnn_dataset *, int first);

/* As cnn_feed, with changes drawn anew for each sample and epoch. The draw is a function of the graph's seed,
   the epoch and the place of the sample in its data set alone: threads, batches and the order of the samples
   make no difference. Outside the picture is 0, after normalisation. A target of the sample's height and
   width, a mask, is shifted and flipped with it; others stay as they are. */
enum { CNN_FLIP_RANDOM = 1, CNN_FLIP_ALTERNATE = 2 };
typedef struct { int shift;   /* by -shift..shift pixels down and right: the same as padding each side by that
                                 many and cutting out a window at a random place */
                 int reflect; /* 1: outside is the picture mirrored at its edge pixels */
                 int flip;    /* default none; RANDOM: left and right change places with probability 1/2;
                                 ALTERNATE: so in the first epoch, then in every other one (Jordan 2024) */
                 int cutout;  /* a square of this side of x, around a random pixel, becomes 0 (DeVries, Taylor
                                 2017) */
                 float outside; /* of a mask: its value outside, such as a void label; default 0 */
                 float mixup;  /* x becomes l x + (1-l) x', the target likewise: x' another sample, of
                                  a stream one of its batch; l drawn from Beta(mixup, mixup) (Zhang et al.
                                  2018) */
                 float cutmix; /* a rectangle of x, of 1-l of its area, becomes that of x', and that
                                  share of the target, too (Yun et al. 2019); of a mask, the rectangle.
                                  With mixup: each sample takes one of the two. Labels then go to an input
                                  of C channels. */
               } cnn_augment;
CNN_API int         cnn_feed_augmented(cnn_tensor *x, cnn_tensor *target, const cnn_dataset *, int first,
                                       cnn_augment, long epoch);
/* How many of the batch have their largest logit at the label; 0 after an error. */
CNN_API int         cnn_correct(cnn_tensor *logits, cnn_tensor *labels);

/* ---- Training loop ---- */

typedef struct { int epoch, epochs;     /* from 1 */
                 int batch, batches;    /* within the epoch */
                 double loss, accuracy; /* running means over the epoch; accuracy in 0..1 */
                 double validation_loss, validation_accuracy; /* at the end of an epoch; else NAN */
                 double samples_per_second, seconds, seconds_left;
                 int epoch_done;
                 double mae, r2, validation_mae, validation_r2; } cnn_progress; /* as in cnn_score */
typedef bool (*cnn_progress_fn)(const cnn_progress *, void *user); /* return false to stop training */
typedef struct { double loss, accuracy, validation_loss, validation_accuracy, seconds;
                 double mae, r2, validation_mae, validation_r2; } cnn_epoch;
typedef struct { double loss, lr; } cnn_update; /* the mean loss of its samples, before it */
typedef struct { cnn_epoch  *epoch;  int count, capacity; /* starts as { 0 } */
                 cnn_update *update; int updates, update_capacity; } cnn_history; /* if asked: .per_update */
CNN_API void  cnn_history_free(cnn_history *);

/* The shape of the learning rate over a training: progress p goes from 0 (first update) to 1 (last one).
   Write your own, or take one of these; user is .schedule_user. */
typedef float (*cnn_schedule)(float progress, void *user);
CNN_API float cnn_linear   (float progress, void *user); /* 1 to 0 */
CNN_API float cnn_cosine   (float progress, void *user); /* (1 + cos(pi p)) / 2 (Loshchilov, Hutter 2017) */
/* 1/25 up to 1 at p = 0.3, down to 0, both by cosine (Smith, Topin 2019) */
CNN_API float cnn_one_cycle(float progress, void *user);
CNN_API float cnn_staircase(float progress, void *user); /* 1, 0.1, 0.01 in three equal parts */

typedef struct { const char *at, *said; cnn_tensor *loss, *logits; cnn_dataset *train; /* required */
    int   epochs;           /* default 1 */
    float lr, momentum, weight_decay; int nesterov; /* as in cnn_step; lr is required */
    float beta1, beta2, alpha, eps, dampening;      /* as in cnn_step */
    float lr_end;           /* the rate goes from lr to lr_end: linearly if there is no schedule, */
    cnn_schedule schedule; void *schedule_user; /* else lr_end + (lr-lr_end) schedule(p); default constant */
    int   warmup;           /* update k of the first `warmup` takes k/warmup of that (Goyal et al. 2017) */
    float clip;             /* default none; else cnn_clip_grads to this length before each step */
    int   patience;         /* default 0: off. Else stop after so many epochs without a lower validation loss,
                               with the weights and running statistics of the best epoch */
    int   no_shuffle;
    cnn_dataset *validation;              /* evaluated after each epoch */
    cnn_progress_fn progress; void *user; /* default: silent; cnn_print_progress writes to stderr */
    cnn_history *history;
    int   per_update;       /* 1: the history also has each update */
    cnn_augment augment;    /* of the training samples, never of the others; default none */
    int   accumulate;       /* batches to one update, by the mean gradient of all their samples, weighted as
                               the loss weights them; default 1 */
    int   drop_last;        /* 1: samples that do not fill a last batch are left out of their epoch */
    float average;          /* default 0: off. Else the decay of cnn_average after each update; the averages
                               are evaluated, and what patience ends with */
    int   flips;            /* 1: validation as in cnn_evaluate_flipped */
    const char *checkpoint; /* default none. Else the file that is written after each epoch, when progress
                               stops the training, and at the end: beside, then renamed. If that fails,
                               cnn_error says so, but training goes on */
    int   checkpoint_every; /* also after so many batches, with the next update; default 0: no */
    int   resume;           /* 1: continue from .checkpoint if there is such a file. Weights, averages,
                               optimizer, history and all draws go on as if there had been no break, to the
                               bit. It must be the same training: net, seed, optimizer, batch, samples and
                               accumulate are compared; rates and schedule are yours; more epochs extend it */
} cnn_fit_args;
/* Train. Samples go to the one input that the logits come from, targets to the one other leaf that the loss
   comes from, made by cnn_labels or cnn_input; a loss without one, such as an autoencoder's, compares with
   the input. logits: what the net answers, logits or values. False after an error (the graph's): a wrong
   option, data that do not fit, a loss that is not finite; true if progress or patience stopped it. */
CNN_API bool      cnn_fit_(cnn_fit_args);
#define cnn_fit(...) CNN_CALL(cnn_fit_, cnn_fit_args, loss, __VA_ARGS__)

/* All samples of a data set in CNN_EVAL, batch by batch: loss, the mean over all samples, weighted as the
   loss weights them (of a loss that is a sum, such as CNN_SUM: the sum of all, divided by the samples);
   count, the samples. Where the target is classes, or answers yes and no: accuracy, 0..1, of all labels but
   those that the loss ignores; else NAN. Where it is values: the mean absolute error, and
   R2 = 1 - sum (y-t)^2 / sum (t-mean t)^2, the mean over the channels, as scikit-learn's r2_score; else NAN.
   { NAN, NAN, 0, NAN, NAN } after an error. Flipped: each sample also in the mirror, judged by the mean of
   both logits (N,C,1,1), the loss the mean of both. */
typedef struct { double loss, accuracy; int count; double mae, r2; } cnn_score;
CNN_API cnn_score cnn_evaluate(cnn_tensor *loss, cnn_tensor *logits, const cnn_dataset *);
CNN_API cnn_score cnn_evaluate_flipped(cnn_tensor *loss, cnn_tensor *logits, const cnn_dataset *);
/* Count which class was taken for which: matrix[label * C + predicted], C = channels of the logits (N,C,1,1);
   needs no loss and no labels in the net. Then, from the matrix, precision and recall of one class: 0 where
   nothing was counted, or where there is no such class. cnn_top_k: the share of samples whose label is among
   the k largest logits, the label coming last among equals. False or NAN after an error. */
typedef struct { double precision, recall, f1; int count; } cnn_class_score; /* count: samples of the class */
CNN_API bool      cnn_confusion(cnn_tensor *logits, const cnn_dataset *, int *matrix);
CNN_API cnn_class_score cnn_precision_recall(const int *matrix, int classes, int of);
CNN_API double    cnn_top_k(cnn_tensor *logits, const cnn_dataset *, int k);
/* Softmax of one sample, C*H*W floats. Returns the most probable class, -1 after an error. */
CNN_API int       cnn_predict(cnn_tensor *x, cnn_tensor *logits, const float *values, float *probabilities);
#ifndef CNN_NO_STDIO
/* user: a FILE *, default stderr. A bar if that is stderr on a terminal; else a line for each epoch, and one
   every ten seconds. */
CNN_API bool      cnn_print_progress(const cnn_progress *, void *user);
/* Loss and accuracy, or else R2, over the epochs; loss and rate over the updates. False if the file cannot be
   written: errno says why. */
CNN_API bool      cnn_history_csv(const cnn_history *, const char *path);
CNN_API bool      cnn_history_svg(const cnn_history *, const char *path);
CNN_API bool      cnn_history_updates_csv(const cnn_history *, const char *path);
#endif

/* ---- Model files: safetensors with PyTorch's names and layouts; the architecture in the metadata ---- */

/* cnn_save: parameters and running statistics; in the metadata the net with its constants, the seed and the
   numbers of updates and training forwards. PyTorch: load_state_dict(safetensors.torch.load_file(path)). Each
   batch norm has its num_batches_tracked (int64), so strict loading succeeds.
   cnn_save_checkpoint: also what continues the training to the bit, as tensors "cnn.slot0.conv1.weight" (the
   optimizer's vectors) and "cnn.average.conv1.weight", which PyTorch's strict loading refuses. cnn_fit's
   .checkpoint is such a file that knows its place in the training, too. cnn_load takes all that a file has of
   these, with .inference = 1 only the net and its weights; without vectors the optimizer starts from zero.
   cnn_load_weights takes weights from any of them. Other tensors that are not floats are ignored, and not
   written again by saving. */
typedef struct { const char *at, *said, *path; /* path: required; of cnn_load_memory: only for messages */
                 int max_batch, threads, exact, inference, keep_grads; /* as in cnn_new */
                 uint64_t seed; cnn_isa isa; cnn_backend *backend; /* too; seed: default the saved one */
                 const cnn_optimizer *optimizer; /* default: that of the training (your own must be given);
                                                    another one starts without a state */
                 const cnn_op *const *ops; int n_ops; /* the program's own operations, known by their names */
                 size_t max_bytes; /* a file whose net takes more is refused; default 2 GiB for each sample of
                                      max_batch */
               } cnn_load_args;
typedef struct { const char *at, *said; cnn_graph *g;
                 const char *path; /* required; of cnn_load_weights_memory: only for messages */
                 const char *prefix; /* "module.": cut off the file's names; others do not count */
                 const char *const *renames; /* then pairs, ended by NULL, "backbone.*", "features.*": the
                                        file's name becomes the other one, each '*' what it stood for, by
                                        the first pair that fits */
                 const char *only, *skip; /* names in the net, as patterns: what does not match `only`, or
                                        matches `skip`, stays as it is, and does not count in the file */
                 int missing_ok;    /* 1: what the file lacks stays as it is */
                 int extra_ok;      /* 1: tensors that the net lacks, such as another head's, are left out */
                 char *report; size_t report_size; /* text, always ended by 0: the names of what was loaded,
                                        skipped, missing, extra, a line for each; what does not fit is cut */
               } cnn_load_weights_args;
/* Load: rebuild the net from the file alone, compiled; see cnn_error. Load weights: fill a compiled graph by
   name; every parameter must be there, and every tensor of floats of the file in the net, unless an option
   says otherwise, and something must be loaded. A file that is refused leaves the net as it was. Save:
   written beside, then renamed, so there is never half a file; in memory, at most `capacity` bytes go to out
   (NULL to ask for the size), and the size is returned. False, or 0, after an error. */
CNN_API cnn_graph  *cnn_load_memory(const void *file, size_t bytes, cnn_load_args);
CNN_API bool        cnn_load_weights_memory(const void *file, size_t bytes, cnn_load_weights_args);
CNN_API size_t      cnn_save_memory(cnn_graph *, void *out, size_t capacity);
CNN_API size_t      cnn_save_checkpoint_memory(cnn_graph *, void *out, size_t capacity);
#ifndef CNN_NO_STDIO
CNN_API cnn_graph  *cnn_load_(cnn_load_args);
#define cnn_load(...) CNN_CALL(cnn_load_, cnn_load_args, path, __VA_ARGS__)
CNN_API bool        cnn_load_weights_(cnn_load_weights_args);
#define cnn_load_weights(...) CNN_CALL(cnn_load_weights_, cnn_load_weights_args, g, __VA_ARGS__)
CNN_API bool        cnn_save(cnn_graph *, const char *path);
CNN_API bool        cnn_save_checkpoint(cnn_graph *, const char *path);
/* What cnn_save does, for a file of your own: let `write` write it beside, then rename it; all of it or,
   where `write` or the disk fails, none. False: errno says why; it is 0 where only `write` knows. */
CNN_API bool        cnn_write_file(const char *path, bool (*write)(FILE *, void *user), void *user);
#endif

/* ---- Inspection ---- */

CNN_API size_t      cnn_param_count(const cnn_graph *);   /* trained and frozen, without buffers */
CNN_API double      cnn_multiply_adds(const cnn_graph *); /* of convolutions and products, for one sample */
/* Compare backward with central differences of the loss on up to `samples` elements (0: 20) of each parameter
   and of each input that wants its gradient, with the batch that the inputs now hold. worst: of each leaf the
   largest difference over its largest gradient (but at least 0.001 (1 + |loss|), below which float's rounding
   rules), and of these the worst, with its leaf and element. 1e-2 is good for smooth nets; kinks (relu, max)
   near the point may give more. report: a line for each leaf; and where one is wrong, the suspect: the node
   whose backward makes the first wrong gradient, by the gradients of what lies between. It lives until the
   next check. NAN after an error. Parameters, running statistics and dropout's draws stay; gradients are of
   this batch. */
typedef struct { double worst; const char *param; int index; double analytic, numeric; int checked;
                 const char *report, *suspect; /* suspect: its name; NULL: none */ } cnn_check;
CNN_API cnn_check   cnn_gradient_check(cnn_tensor *loss, int samples);
/* What an array looks like. min, max, mean and deviation are those of its finite values; 0 if it has none. */
typedef struct { size_t count, nans, infs, zeros; double min, max, mean, deviation; } cnn_stats;
CNN_API cnn_stats   cnn_stats_of(const float *values, size_t count);

/* The doctor. Once on, it looks at the result of every operation forward and backward and at the weights
   after every update (one pass over each; off, the default, costs nothing). At the first NaN or Inf the run
   ends there: the graph's error names the layer, the place of its call, the operation, the phase and one
   hint, and cnn_doctor_report gives all of it, with the statistics of output, inputs, weights and gradients,
   as text that lives as long as the graph; till then "healthy so far". After cnn_compile; also under cnn_fit.
   Labels out of range need no doctor: the losses refuse them. */
CNN_API bool        cnn_doctor(cnn_graph *, int on);
CNN_API const char *cnn_doctor_report(const cnn_graph *);
/* The slow diseases: runs the batch that the inputs hold forward and backward once, and writes one line for
   each finding, with a hint, to text (room bytes, always ended by 0; what does not fit is left out): data not
   normalised; one class only; a loss that is given probabilities; rectifier channels that are zero for every
   sample; vanishing, exploding or missing gradients; and, if the doctor has been on for 40 updates, a loss
   that does not move. Returns how many, -1 after an error. loss: the compiled loss of a graph for training.
   Nothing but the gradients is changed. */
CNN_API int         cnn_checkup(cnn_tensor *loss, char *text, size_t room);

#ifndef CNN_NO_STDIO
/* Per node: shape, parameters, multiply-adds, bytes, place; totals. And the graph for Graphviz. */
CNN_API void        cnn_summary(cnn_graph *, FILE *);
CNN_API void        cnn_dot(cnn_graph *, FILE *);
/* Time every operation with the batch that the inputs hold, over `runs` runs (0: 10) after one to warm up,
   and print milliseconds per run, GFLOP/s (two for each multiply-add) and share, in the order of execution;
   at the end the total, and the time spent outside of the operations. loss: the compiled loss, run forward
   and backward; in a graph for inference any tensor, run forward. Returns the seconds of a run, NAN after an
   error. On a device that tells (seconds in cnn_backend; OpenCL does) they are the times of its kernels, else
   of the calls, which may return before the work is done; what a usual run does in one kernel for several
   operations is done by one for each. */
CNN_API double      cnn_profile(cnn_tensor *loss, int runs, FILE *);
/* Run once, as cnn_profile does, and print the values of each node as it is computed, then the gradients in
   reverse order, each with the node that it came from: at most `most` (0: 8) numbers of a tensor. */
CNN_API bool        cnn_trace(cnn_tensor *loss, int most, FILE *);

/* Write n pictures of c = 1 (grey) or 3 (colour) planes as one grid: ".png" (not compressed), ".pgm" or
   ".ppm", by the end of the path. False if it cannot be written or is no picture by its shape: see errno. */
typedef struct { const char *at, *said; const char *path; const float *values; cnn_shape shape; /* required */
                 int columns; /* default: as square as possible */
                 int scale;   /* default 1: a value becomes scale x scale pixels */
                 int raw; } cnn_write_image_args; /* 1: 0 is black, 1 white, beyond is cut off; default: each
                                                     picture from its least value to its largest */
CNN_API bool        cnn_write_image_(cnn_write_image_args);
#define cnn_write_image(...) CNN_CALL(cnn_write_image_, cnn_write_image_args, path, __VA_ARGS__)
/* The filters of a layer, from its weight (O,I,h,w): one colour picture for each filter if I = 3, else one
   grey picture for each h x w slice, a row for each filter. The weight of a dense layer that flattens
   (N,I,h,w) is read as such filters. cnn_write_maps: the channels of one sample of a tensor that has been
   computed (cnn_keep it). scale 0: 1. Errors: as cnn_write_image for the file; the graph's for the tensor. */
CNN_API bool        cnn_write_filters(cnn_tensor *layer, const char *path, int scale);
CNN_API bool        cnn_write_maps(cnn_tensor *, int sample, const char *path, int scale);
#endif

/* ---- Your own operations, with the same struct as the library's: see examples/custom_op.c ---- */

struct cnn_tensor {
    const char   *name;        /* "conv1"; after compile never NULL */
    const char   *at;          /* "lenet.c:14": where it was recorded; may be NULL */
    const cnn_op *op;          /* NULL for leaves */
    cnn_graph    *graph;
    cnn_kind      kind;
    cnn_tensor   *in[CNN_MAX_INPUTS]; /* operands, in the order of the formula */
    int           n_in;
    cnn_shape     shape;       /* n is max_batch while recording, the current batch while running */
    bool          batched;     /* shape.n is the batch */
    bool          needs_grad;  /* it is a parameter, not frozen, or depends on one */
    bool          frozen, kept;
    const void   *args;        /* the op's option struct, copied */
    int           index;       /* place in the order of execution */
    /* valid while the rules of the op run: */
    float        *data, *grad; /* N*C*H*W floats; grad is NULL unless needs_grad */
    void         *saved;       /* op->saved(y) bytes, kept from forward to backward; NULL in CNN_EVAL */
    /* where the same places are in their arenas, in floats: what a device uses; see "Backends" */
    size_t        data_at[2], grad_at, saved_at; /* data_at[CNN_EVAL], data_at[CNN_TRAIN] */
};

/* One option of an operation: checked and filled in when a node is recorded, so that y->args holds plain
   values; shown in summaries, written to model files. An option that is not given takes the value of the
   first option named in `like` (words, which stand before it) that is, else `preset`. Given is what is not 0,
   or stands in the text `said`: ".slope = 0", or as argument number `nth`. */
typedef struct cnn_field {
    const char *name;
    char        type;                    /* 'i' int, 'u' unsigned, 'f' float */
    size_t      offset;
    double      preset;
    const char *like;                    /* names of options that stand before it: "stride kernel_h" */
    const char *range;                   /* "[0,1)", "(0,inf)": what it may be; NULL: any number */
    const char *what;                    /* for the message of the range: "the probability of a zero" */
    int         nth;                     /* 2: the second argument, where that is usual; 0: by name only */
} cnn_field;
/* CNN_FIELD('f', my_args, slope, .preset = 0.01, .range = "(0,inf)"); the last row of a list is { 0 } */
#define CNN_REQUIRED 1e300               /* a preset: there is no default */
#define CNN_FIELD(letter, args, ...) CNN_FIELD_(letter, args, __VA_ARGS__, )
#define CNN_FIELD_(letter, args, member, ...) \
    { .name = #member, .type = letter, .offset = offsetof(args, member), __VA_ARGS__ }

/* A parameter or buffer of an operation: cnn_layer makes it, with the name y.suffix. These operands follow
   in[0] in the order of the list. */
typedef struct {
    const char *suffix;                  /* "weight"; the last row of a list is { 0 } */
    cnn_kind    kind;                    /* CNN_PARAM or CNN_BUFFER */
    cnn_shape (*shape)(const cnn_tensor *y); /* by y's options, its shape and that of in[0] */
    /* the numbers of inputs that an output sees, and of outputs that an input reaches, for random initial
       values; NULL: it is `start` everywhere */
    void      (*fan)(const cnn_tensor *y, double *in, double *out);
    float       start;
    unsigned    axes;                    /* its dimensions in files, CNN_N | CNN_C ...; 0: as few as it has */
    /* places in the option struct, offsetof, or 0: */
    size_t      one_d;                   /* int: 1: CNN_H is none of them */
    size_t      given;                   /* cnn_tensor *: taken instead of a new one */
    size_t      axes_at;                 /* unsigned: axes, by an option of the operation */
    size_t      unless;                  /* int: 1 leaves it out (no_bias) */
    size_t      init, gain;              /* cnn_init; float, of a constant too */
} cnn_owned;

/* Element by element: v[i] changes, for i < n, given a[i] and constants k. */
typedef void cnn_each(float *v, const float *a, const float *b, const float *k, ptrdiff_t n);
/* What an operation does with each element. With it, y needs no pass over memory of its own where it can run
   in place of batch_norm, add or another operation of two operands. */
typedef struct {
    cnn_each *forward[2];   /* v is x and becomes y; a is in[1], of two operands, shaped as y. [1]: the same
                               compiled for AVX2; may be NULL */
    cnn_each *backward[2];  /* v is dy and becomes dx; a is y (CNN_READS_Y) or x (CNN_READS_X). Of two
                               operands: v becomes the gradient of in[0], that of the formula behind this one
                               the gradient of in[1]; a is in[0], and b is in[1] */
    size_t    k[2];         /* k[0] and k[1] are these options, offsetof a float; 0: none */
    size_t    variant;      /* an option, offsetof an int: 1 takes the formula behind this one; 0: none */
} cnn_formula;

/* An operation that only moves numbers. Element (n,c,h,w) of y or, with `into`, of operand k, lies in the
   other one at the place  at + sum over its four indices i of (i / div) step + (i % div) within. */
typedef struct { bool into; int at, div[4], step[4], within[4]; } cnn_move;

enum { CNN_READS_X = 1,         /* backward reads in[i]->data */
       CNN_READS_Y = 2,         /* backward reads y->data */
       CNN_INPLACE = 4,         /* forward may run with y->data == in[0]->data: y[i] needs only in[0][i] */
       CNN_RANDOM  = 8,         /* CNN_TRAIN draws random numbers: cnn_gradient_check keeps them fixed */
       CNN_LOSS    = 16,        /* y is a loss: in[0] is what it judges */
       CNN_RECTIFIER = 32,      /* about half of y is zero, as for relu: weights before it start larger (He et
                                   al. 2015) */
       CNN_INPLACE_GRAD = 64,   /* backward may be run with in[0]->grad == y->grad: it sets then, not adds */
       CNN_CLEARS_GRAD = 128,   /* backward clears in[0]->grad itself, or sets it, before it adds to another
                                   operand's, where cnn_grad_is_new(y) */
       CNN_PROBABILITIES = 256, /* y holds probabilities, which a loss of logits must not be given */
       CNN_JOINABLE = 512,      /* forward also applies the formulas of the nodes that run in place of y */
       CNN_BATCH_STATISTICS = 1024, /* CNN_TRAIN takes mean and variance over the batch: one value has none;
                                   CNN_EVAL is a factor and a shift per channel, which conv2d can take over */
       CNN_ADDS_UP = 2048,      /* over the batch y is a sum, not a mean: twice the samples, about twice y */
       CNN_SELECTS = 4096 };    /* each element of y is one of in[0], which alone gets its gradient */

struct cnn_op {
    const char *name;
    bool   (*shape)(cnn_tensor *y);         /* check operands, set y->shape (and y->batched if it differs from
                                               "some operand is batched"); error: return cnn_fail(y, ...) */
    void   (*forward)(cnn_tensor *y, cnn_mode); /* y->data = f(in) */
    void   (*backward)(cnn_tensor *y);      /* in[i]->grad += (df/din_i)^T y->grad where in[i]->needs_grad */
    size_t (*scratch)(const cnn_tensor *y); /* bytes of workspace while it runs, cnn_scratch(y); NULL: none */
    size_t (*packed)(const cnn_tensor *y);  /* bytes of in[1] packed once, for inference; NULL: none */
    size_t (*saved)(const cnn_tensor *y);   /* bytes kept from forward to backward, y->saved; NULL: none */
    double (*macs)(const cnn_tensor *y);    /* multiply-adds for the whole batch shape.n; NULL: not counted */
    unsigned flags;                         /* CNN_READS_X | CNN_READS_Y | CNN_INPLACE ... */
    size_t args_size;        /* sizeof its option struct, which begins with const char *at, *said; 0: none */
    const cnn_field *fields; /* options that matter for the result, ended by { 0 }; NULL = none */
    /* each of these may be missing: */
    const cnn_owned *owned;  /* parameters and buffers, ended by { 0 }: for cnn_layer */
    const cnn_formula *formula; /* an element-wise operation */
    const char *expects;     /* a loss: what in[0] should be, said by cnn_checkup where that holds
                                probabilities: "logits: leave that out" */
    /* for the doctor: what to do when y (or, backward, the gradient of x) is NaN or Inf; x: of in[0] */
    const char *(*hint)(const cnn_tensor *y, const cnn_stats *x, bool backward);
    const char *(*algorithm)(const cnn_tensor *y); /* which one the CPU runs forward, for cnn_summary */
    double (*weight)(const cnn_tensor *y);  /* a loss divided by the sum of its labels' weights: that sum */
    bool (*move)(const cnn_tensor *y, int k, cnn_move *m); /* y only moves the elements of in[k]: where to;
                                                              false: not with these options */
};
/* Record y = op(in...), as every operation above does: cnn_apply with all operands, cnn_layer with those that
   the operation does not own. args are copied. nil after an error. */
CNN_API cnn_tensor *cnn_apply(const cnn_op *, cnn_tensor *const *in, int n_in, const void *args,
                              const char *at);
CNN_API cnn_tensor *cnn_layer(const cnn_op *, cnn_tensor *const *in, int n_in, const void *args,
                              const char *at, const char *name);
/* The operand of y that op->owned calls suffix; NULL if it was left out. */
CNN_API cnn_tensor *cnn_operand(const cnn_tensor *y, const char *suffix);
CNN__PRINTF(2, 3)
CNN_API bool        cnn_fail(cnn_tensor *y, const char *format, ...); /* keeps the first; returns false */
typedef struct { char s[64]; } cnn_text;
CNN_API cnn_text    cnn_shape_text(const cnn_tensor *);   /* .s is text such as (N,6,28,28) */
CNN_API void       *cnn_scratch(const cnn_tensor *y);     /* op->scratch(y) bytes, aligned to 64 */
CNN_API int         cnn_threads(const cnn_tensor *y);     /* how many threads a rule may use */
CNN_API bool        cnn_grad_is_new(const cnn_tensor *y); /* in backward: in[0]->grad holds nothing yet */
CNN_API bool        cnn_is_exact(const cnn_tensor *y);  /* .exact of cnn_new: no algorithm that rounds more */
/* Random bits for element i in this training step: the same forward and backward, on the CPU and a device. */
CNN_API uint32_t    cnn_random(const cnn_tensor *y, uint32_t i);
/* How a device draws them: word i % 4 of Philox4x32-10 with this key and the counter (i / 4, stream). */
CNN_API void        cnn_random_key(const cnn_tensor *y, uint64_t *key, uint64_t *stream);

/* ---- Backends: memory, plus rows that replace the CPU functions of the operations that they name ---- */

typedef enum { CNN_ARENA_PARAMS, CNN_ARENA_GRADS, CNN_ARENA_OPTIMIZER, CNN_ARENA_BUFFERS, CNN_ARENA_INPUTS,
               CNN_ARENA_ACTIVATIONS, CNN_ARENA_PACKED, CNN_ARENA_SCRATCH, CNN_ARENAS } cnn_arena;
/* A row replaces the CPU functions of one operation: on a device, or with cnn_new(.rows = ...) on the CPU, as
   a lab or a vendor's library wants it. There backend is NULL, and y's arrays overlap no others. As those of
   cnn_op, forward sets y->data, and backward adds to in[i]->grad, if that is not NULL; in[i]->data and
   y->data are there to be read. A function that is NULL replaces nothing; but where forward keeps
   something for backward (op->saved), a forward of your own needs a backward of your own. */
struct cnn_kernel {
    const cnn_op *op;
    bool (*accepts) (const cnn_backend *, const cnn_tensor *y); /* NULL = always */
    bool (*forward) (cnn_backend *, cnn_tensor *y, cnn_mode);   /* false after an error: backend->error, or
                                                                   cnn_fail(y, ...) */
    bool (*backward)(cnn_backend *, cnn_tensor *y);
};
/* Where an array of a tensor is on the device: the buffer of its arena, and an offset in floats. */
typedef struct { void *buffer; size_t at; } cnn_place;

struct cnn_backend {
    const char *name;
    void *(*alloc)   (cnn_backend *, size_t bytes); /* NULL after an error. These five and the name are
                                                       required */
    void  (*release) (cnn_backend *, void *buffer);
    /* at in bytes */
    bool  (*upload)  (cnn_backend *, void *buffer, size_t at, const void *from, size_t bytes);
    bool  (*download)(cnn_backend *, void *buffer, size_t at, void *to, size_t bytes);
    bool  (*clear)   (cnn_backend *, void *buffer, size_t at, size_t bytes); /* set to zero */
    size_t (*scratch)(const cnn_backend *, const cnn_tensor *y); /* bytes on the device; NULL = none */
    /* Training beside the rows; each may be NULL. update: n parameters w by their gradients; slot i lies
       slot_stride floats behind slot 0; options and step as for cnn_optimizer. False without an error: never
       for this optimizer, the CPU does it. */
    bool  (*update)  (cnn_backend *, const cnn_optimizer *, cnn_place w, cnn_place dw, cnn_place slots,
                      size_t n, size_t slot_stride, const cnn_step_args *, long step);
    bool  (*scale)   (cnn_backend *, cnn_place x, size_t n, float factor); /* x *= factor */
    bool  (*mix)     (cnn_backend *, cnn_place a, cnn_place x, size_t n, float share); /* a += share (x-a) */
    /* Two running sums, kept on the device: from 0 where `anew`, then read into *take unless that is NULL.
       squares: of x^2 (n = 0: read only), to clip with scale. correct: as cnn_correct, logits (N,C,H,W). */
    bool  (*squares) (cnn_backend *, cnn_place x, size_t n, bool anew, double *take);
    bool  (*correct) (cnn_backend *, cnn_place logits, cnn_shape, cnn_place labels, bool anew, int *take);
    /* For cnn_profile: seconds that its kernels have run since the measuring began, when all are done. go_on
       = false ends it. May be NULL. */
    double (*seconds)(cnn_backend *, bool go_on);
    void  (*close)   (cnn_backend *);               /* called by cnn_free; NULL = nothing to do */
    const cnn_kernel *kernels;
    int    n_kernels;
    bool   sets_grads;      /* rows set the gradient of operand i where cnn_grad_is_first(y, i), which is not
                               zeroed then; also in y's place, with CNN_INPLACE_GRAD */
    size_t max_bytes;       /* the largest buffer that alloc gives; 0: no limit. The activations take several
                               of them, where one would be larger. */
    const cnn_graph *graph; /* set by cnn_new, if there is a close, until that: one graph at a time */
    char   error[CNN_ERROR_SIZE];
};
CNN_API cnn_place   cnn_place_data (const cnn_tensor *); /* for the rows of a backend, while they run */
CNN_API cnn_place   cnn_place_grad (const cnn_tensor *);
CNN_API cnn_place   cnn_place_saved(const cnn_tensor *);
CNN_API cnn_place   cnn_place_scratch(const cnn_graph *);
CNN_API bool        cnn_grad_is_first(const cnn_tensor *y, int i); /* in backward: in[i]'s has nothing yet */
/* For these rows: what this run computes next, on the device and in y's place, so that nobody else reads y
   and y's row may do it too; NULL: nothing, or somebody looks at each value. */
CNN_API const cnn_tensor *cnn_next_in_place(const cnn_tensor *y);
/* Is each label of softmax_cross_entropy, nll or dice a class, as far as the host knows? Else y fails. */
CNN_API bool        cnn_check_labels(cnn_tensor *y);
typedef struct { long uploads, downloads, host_nodes; } cnn_traffic; /* host_nodes: without a row */
CNN_API cnn_traffic cnn_copies(const cnn_graph *);     /* since cnn_compile */
CNN_API bool        cnn_on_device(const cnn_tensor *); /* a row of the backend computes it */
/* Fetch all that training changes (parameters, running statistics, the optimizer's state), close the device
   and go on on the CPU. This rescues a training after an error of the device, such as a full memory: where
   the device still answers, it takes the graph's error away; gradients and values are to be computed again.
   False if there is no device, after an error that was not the device's, or if a copy fails. */
CNN_API bool        cnn_leave_device(cnn_graph *);

/* One word per operation, in the order of the chapters. The list feeds cnn_load and the tests. */
#define CNN_OPS(X) X(conv2d) X(conv_transpose2d) X(dense) X(matmul) \
    X(max_pool) X(avg_pool) X(adaptive_avg_pool) X(global_avg_pool) X(global_max_pool) \
    X(batch_norm) X(layer_norm) X(rms_norm) X(group_norm) X(instance_norm) X(lrn) \
    X(relu) X(leaky_relu) X(sigmoid) X(tanh) X(clamp) X(elu) X(gelu) X(silu) X(softplus) X(hard_swish) \
    X(selu) X(mish) X(hard_sigmoid) X(softsign) X(prelu) X(exp) X(log) X(sqrt) X(abs) X(erf) X(power) \
    X(softmax) X(log_softmax) X(dropout) \
    X(reshape) X(concat) X(pad) X(slice) X(permute) X(depth_to_space) X(space_to_depth) \
    X(channel_shuffle) X(upsample) X(add) X(sub) X(mul) X(div) X(maximum) X(minimum) X(pow) X(scale) X(sum) \
    X(mean) X(amax) X(amin) \
    X(softmax_cross_entropy) X(nll) X(mse) X(l1) X(huber) X(bce_with_logits) X(sigmoid_focal) X(dice)
/* Each is an object: cnn_op_conv2d, ... A backend's rows name them. cnn_ops lists them all. */
#if defined(CNN_STATIC) && !defined(__cplusplus)
#define CNN_OP_(name) static const cnn_op cnn_op_##name;
#else
#define CNN_OP_(name) extern const cnn_op cnn_op_##name;
#endif
CNN_OPS(CNN_OP_)
CNN_API const cnn_op *const *cnn_ops(int *count);

/* Calls without options say where they are, too: for messages of what went wrong in them. */
CNN_API cnn_tensor *cnn_at_tensor(const char *at, cnn_tensor *t);
CNN_API cnn_graph  *cnn_at_graph(const char *at, cnn_graph *g);
#define CNN_AT_(kind, x) cnn_at_##kind(CNN_HERE, x)
#define cnn_forward(t, ...) cnn_forward(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_backward(t) cnn_backward(CNN_AT_(tensor, t))
#define cnn_backward_add(t) cnn_backward_add(CNN_AT_(tensor, t))
#define cnn_set(t, ...) cnn_set(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_set_labels(t, ...) cnn_set_labels(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_get(t, ...) cnn_get(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_get_grad(t, ...) cnn_get_grad(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_map_read(t) cnn_map_read(CNN_AT_(tensor, t))
#define cnn_map_write(t) cnn_map_write(CNN_AT_(tensor, t))
#define cnn_map_grad(t) cnn_map_grad(CNN_AT_(tensor, t))
#define cnn_feed(t, ...) cnn_feed(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_feed_augmented(t, ...) cnn_feed_augmented(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_correct(t, ...) cnn_correct(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_evaluate(t, ...) cnn_evaluate(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_evaluate_flipped(t, ...) cnn_evaluate_flipped(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_confusion(t, ...) cnn_confusion(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_top_k(t, ...) cnn_top_k(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_predict(t, ...) cnn_predict(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_gradient_check(t, ...) cnn_gradient_check(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_checkup(t, ...) cnn_checkup(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_profile(t, ...) cnn_profile(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_trace(t, ...) cnn_trace(CNN_AT_(tensor, t), __VA_ARGS__)
#define cnn_compile(g, ...) cnn_compile(CNN_AT_(graph, g), __VA_ARGS__)
#define cnn_set_batch(g, ...) cnn_set_batch(CNN_AT_(graph, g), __VA_ARGS__)
#define cnn_flat_params(g, ...) cnn_flat_params(CNN_AT_(graph, g), __VA_ARGS__)
#define cnn_flat_grads(g, ...) cnn_flat_grads(CNN_AT_(graph, g), __VA_ARGS__)
#define cnn_clip_grads(g, ...) cnn_clip_grads(CNN_AT_(graph, g), __VA_ARGS__)
#define cnn_set_lr_scale(g, ...) cnn_set_lr_scale(CNN_AT_(graph, g), __VA_ARGS__)
#define cnn_set_decay_scale(g, ...) cnn_set_decay_scale(CNN_AT_(graph, g), __VA_ARGS__)
#define cnn_average(g, ...) cnn_average(CNN_AT_(graph, g), __VA_ARGS__)
#define cnn_swap_average(g) cnn_swap_average(CNN_AT_(graph, g))
#define cnn_doctor(g, ...) cnn_doctor(CNN_AT_(graph, g), __VA_ARGS__)

#ifdef __cplusplus
}
/* ---- C++, from C++11 on: the same calls, with options such as cnn::pad(2) for .pad = 2 ----

       cnn::graph  g(cnn_new(cnn::max_batch(64), cnn::seed(1)));          frees itself, as does cnn::dataset
       cnn_tensor *y = cnn_conv2d(x, 16, 5, cnn::pad(2), cnn::name("conv1"));

   From C++20 on also with designated initialisers, all of them, in the order of the struct:

       cnn_tensor *y = CNN_WITH(cnn_conv2d, .x = x, .channels = 16, .kernel = 5, .pad = 2, .name = "conv1");

   The words of all options; one that is missing here stops nobody from filling the struct. */
#define CNN_WITH(function, ...) /* a lambda, as a pragma must not stand within an expression */ \
    [&] { \
        _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wmissing-field-initializers\"") \
        return function##_({ CNN_SAID(__VA_ARGS__), __VA_ARGS__ }); \
        _Pragma("GCC diagnostic pop") \
    }()
#define CNN_WORDS(X) \
    X(max_batch) X(seed) X(threads) X(isa) X(backend) X(optimizer) X(exact) X(inference) X(no_packed) \
    X(keep_grads) X(rows) X(c) X(h) X(w) X(grad) X(name) X(shape) X(init) X(gain) X(fan_in) X(fan_out) \
    X(channels) X(kernel) X(kernel_h) X(kernel_w) X(stride) X(stride_h) X(stride_w) X(pad) X(pad_h) \
    X(pad_w) X(pad_top) X(pad_bottom) X(pad_left) X(pad_right) X(causal) X(one_d) X(mode) X(block) \
    X(dilation) X(dilation_h) X(dilation_w) X(groups) X(no_bias) X(weight) X(bias) X(output_pad) \
    X(output_pad_h) X(output_pad_w) X(units) X(ceil_mode) X(no_count_pad) X(momentum) X(eps) X(no_affine) \
    X(affine) X(size) X(alpha) X(beta) X(k) X(slope) X(low) X(high) X(tanh) X(threshold) X(per_channel) \
    X(start) X(p) X(left) X(right) X(top) X(bottom) X(front) X(back) X(value) X(axis) X(from) X(to) X(step) \
    X(scale) X(scale_h) X(scale_w) X(bilinear) X(align_corners) X(height) X(width) X(factor) X(offset) \
    X(smoothing) X(class_weights) X(ignore_index) X(delta) X(smooth_l1) X(pos_weight) X(lr) X(weight_decay) \
    X(nesterov) X(beta1) X(beta2) X(dampening) X(epochs) X(lr_end) X(schedule) X(schedule_user) X(warmup) \
    X(clip) X(patience) X(no_shuffle) X(validation) X(progress) X(user) X(history) X(augment) X(accumulate) \
    X(drop_last) X(average) X(flips) X(checkpoint) X(checkpoint_every) X(resume) X(ops) X(n_ops) \
    X(max_bytes) X(extra_ok) X(missing_ok) X(only) X(skip) X(renames) X(report) X(report_size) X(values) \
    X(columns) X(raw) X(device) X(type) X(gemm) X(workspace) X(no_check) X(without) X(cache) X(tune) \
    X(data) X(prefix) X(softmax) X(exponent) X(per_update) X(eval) X(frozen) X(bytes) X(floats) X(labels) \
    X(target) X(targets) X(target_c) X(target_h) X(target_w) X(fill) X(target_type) X(label) X(separator) \
    X(shorter) X(decode) X(stream) X(count) X(reduction) X(gamma) X(smooth) X(axes)
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#endif
#include <initializer_list>
inline cnn_tensor *cnn_concat_(const char *at, std::initializer_list<cnn_tensor *> x)
{
    return cnn_concat_(at, x.begin(), (int)x.size());
}
inline cnn_tensor *cnn_concat_along_(const char *at, unsigned axis, std::initializer_list<cnn_tensor *> x)
{
    return cnn_concat_along_(at, axis, x.begin(), (int)x.size());
}
namespace cnn {
template <class V> struct given {               /* an argument by position: it becomes what its member is */
    const V &v;
    template <class T> operator T() const { return static_cast<T>(v); }
};
template <class A, class V> auto put(A &a, const V &v, int) -> decltype(v.put(a)) { return v.put(a); }
template <class A, class V> const char *put(A &, const V &, long) { return "_,"; }
template <class A> class call {                 /* the struct of a call, and a text that names its options */
    A    args;
    char said[1024];
public:
    explicit call(const char *at) : args(), said() { args.at = at; }
    template <class... P> const A &operator()(const P &...p)
    {
        static_assert(sizeof...(P) < 45, "cnn.h: too many options");
        args = A{ args.at, said, given<P>{ p }... };      /* options, which come last, give zeros here */
        char *to = said;
        for (const char *text : std::initializer_list<const char *>{ put(args, p, 0)... })
            for (; *text && to < said + sizeof said - 1; text++) *to++ = *text;
        return args;
    }
};
#define CNN_WORD_(word) \
    template <class V> struct word##_ { \
        V v; \
        template <class T> operator T() const { return T(); } \
        template <class A> const char *put(A &a) const { \
            return a.word = static_cast<decltype(a.word)>(v), "." #word "=,"; \
        } \
    }; \
    template <class V> word##_<V> word(V v) { return word##_<V>{ v }; }
CNN_WORDS(CNN_WORD_)

class graph {                                   /* owns one, and moves; so does dataset */
    cnn_graph *g;
public:
    explicit graph(cnn_graph *made) : g(made) { }
    graph(graph &&from) noexcept : g(from.g) { from.g = nullptr; }
    graph &operator=(graph from) noexcept { cnn_graph *old = g; g = from.g, from.g = old; return *this; }
    ~graph() { cnn_free(g); }
    operator cnn_graph *() const { return g; }
};
struct dataset : cnn_dataset {
    dataset(const cnn_dataset &made) : cnn_dataset(made) { }
    dataset(dataset &&from) noexcept : cnn_dataset(from) { static_cast<cnn_dataset &>(from) = cnn_dataset(); }
    ~dataset() { cnn_dataset_free(this); }
};
}
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
#endif
#endif /* CNN_H_INCLUDED */

/* To USE the library stop here. To know how it works read on: it is in order. */

#if defined(CNN_IMPLEMENTATION) && defined(__cplusplus)
#error "cnn.h: the implementation is C: put CNN_IMPLEMENTATION and this include into a .c file, as C99"
#elif defined(CNN_IMPLEMENTATION) && !defined(CNN_IMPLEMENTATION_ONCE)
#define CNN_IMPLEMENTATION_ONCE
#undef  CNN_AT_                          /* in here the place stays that of the user's call */
#define CNN_AT_(kind, x) x

/* ===========================================================================================================

   Part I. The net: from the idea down to the plain loops.

   ======================================================================================================== */

/* ===========================================================================================================
   >>base ---- 1. Configuration, sizes, shapes, bits, random numbers
   ======================================================================================================== */

/* Arithmetic as it is written, from here to the end of the implementation, whatever options the program is
   compiled with: every operation rounds to its type, sums keep their order, NaN and infinity exist, and a
   product plus a sum is two operations. So any compiler gives the same bits, and -Ofast cannot spoil them. */
#if defined(__clang__) && (defined(__x86_64__) || defined(__i386__))
#pragma float_control(push)
#pragma float_control(precise, on)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("no-fast-math", "fp-contract=off")
#if (defined(__x86_64__) || defined(__i386__)) && !defined(__SSE2_MATH__)
#pragma GCC target("sse2,fpmath=sse")
#endif
/* gcc's pragma does not give back what -ffinite-math-only took from x86's comparisons: there x < c and
   isfinite(x) hold for NaN, x > c does not. So the bits are asked. */
#pragma push_macro("isfinite")
#pragma push_macro("isnan")
#pragma push_macro("isinf")
#undef isfinite
#undef isnan
#undef isinf
#define isfinite(x) (cnn__bits_of_size((double)(x)) < 0x7FF0000000000000u)
#define isnan(x)    (cnn__bits_of_size((double)(x)) > 0x7FF0000000000000u)
#define isinf(x)    (cnn__bits_of_size((double)(x)) == 0x7FF0000000000000u)
#elif defined(__FAST_MATH__)
#error "cnn.h: compile the file with CNN_IMPLEMENTATION without -ffast-math"
#elif defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#include <float.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef CNN_NO_STDIO
int vsnprintf(char *, size_t, const char *, va_list);      /* all that messages want of stdio */
#else
#include <errno.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#define CNN__POSIX 1
#include <dirent.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>
#define CNN__IS_TERMINAL(f) ((f) == stderr && isatty(2))
#elif defined(_WIN32)
#include <io.h>
#define CNN__IS_TERMINAL(f) ((f) == stderr && _isatty(2))
#else
#define CNN__IS_TERMINAL(f) false
#endif
/* Threads: where a program gets them unasked; before glibc 2.34 and on BSD, with -pthread. */
#if defined(_WIN32)
#include <process.h>
#define CNN__WIN32 1
struct _RTL_SRWLOCK;
struct _RTL_CONDITION_VARIABLE;
__declspec(dllimport) unsigned long __stdcall WaitForSingleObject(void *, unsigned long);
__declspec(dllimport) int __stdcall CloseHandle(void *);
__declspec(dllimport) void __stdcall AcquireSRWLockExclusive(struct _RTL_SRWLOCK *);
__declspec(dllimport) void __stdcall ReleaseSRWLockExclusive(struct _RTL_SRWLOCK *);
__declspec(dllimport) int __stdcall SleepConditionVariableSRW(struct _RTL_CONDITION_VARIABLE *,
                                                              struct _RTL_SRWLOCK *, unsigned long,
                                                              unsigned long);
__declspec(dllimport) void __stdcall WakeConditionVariable(struct _RTL_CONDITION_VARIABLE *);
#elif defined(__APPLE__) || (defined(__unix__) && (defined(_REENTRANT) || defined(_OPENMP))) || \
      (defined(__linux__) && (!defined(__GLIBC__) || __GLIBC__ > 2 || __GLIBC_MINOR__ >= 34))
#include <pthread.h>
#define CNN__PTHREADS 1
#endif
#if (defined(CNN__WIN32) || defined(CNN__PTHREADS)) && defined(__GCC_HAVE_SYNC_COMPARE_AND_SWAP_4)
#define CNN__TEAMS 1                    /* and the atomic counters that C99 lacks */
#else
#define CNN__TEAMS 0
#endif
#if defined(__unix__) || defined(__APPLE__)
#define CNN__PROCESS ((long)getpid())   /* fork copies a process, but not its threads */
#else
#define CNN__PROCESS 1L
#endif

#if defined(CNN_MALLOC) && defined(CNN_REALLOC) && defined(CNN_FREE)
#define CNN__ARENAS(bytes)    CNN_MALLOC(bytes)
#define CNN__ARENAS_ARE_ZERO  false
#elif !defined(CNN_MALLOC) && !defined(CNN_REALLOC) && !defined(CNN_FREE)
#define CNN_MALLOC(bytes)     malloc(bytes)
#define CNN_REALLOC(p, bytes) realloc(p, bytes)
#define CNN_FREE(p)           free(p)
#define CNN__ARENAS(bytes)    calloc(1, bytes)     /* what a device leaves untouched takes no memory */
#define CNN__ARENAS_ARE_ZERO  true
#else
#error "cnn.h: define all of CNN_MALLOC, CNN_REALLOC and CNN_FREE, or none"
#endif

/* Which instruction sets this translation unit can hold; which one runs is decided in cnn_new. */
#if !defined(CNN_NO_SIMD) && (defined(__x86_64__) || defined(__amd64__)) && \
    (defined(__GNUC__) || defined(__clang__))
#define CNN__X86 1
#include <immintrin.h>
#else
#define CNN__X86 0
#endif
#if !defined(CNN_NO_SIMD) && defined(__aarch64__) && defined(__ARM_NEON)
#define CNN__ARM 1
#include <arm_neon.h>
#else
#define CNN__ARM 0
#endif
#if !defined(CNN_NO_SIMD) && defined(__wasm_simd128__)
#define CNN__WASM 1
#include <wasm_simd128.h>
#else
#define CNN__WASM 0
#endif

#ifdef __GNUC__                         /* with CNN_STATIC a program need not use everything */
#define CNN__UNUSED      __attribute__((unused))
#define CNN__COLD        __attribute__((cold, noinline))       /* compiled small: plans */
#define CNN__NOINLINE    __attribute__((noinline))
#define CNN__INLINE      __attribute__((always_inline)) inline
#define CNN__PREFETCH(p) __builtin_prefetch(p)
#define CNN__PREFETCH_L2(p) __builtin_prefetch(p, 0, 2)
#else
#define CNN__UNUSED
#define CNN__COLD
#define CNN__NOINLINE
#define CNN__INLINE      inline
#define CNN__PREFETCH(p) ((void)0)
#define CNN__PREFETCH_L2(p) ((void)0)
#endif

enum { CNN__ALIGN = 64,                 /* bytes: a cache line, and the widest vector */
       CNN__MOST_THREADS = 1024 };

typedef struct cnn__team cnn__team;                                  /* of threads: see >>threads */
typedef struct { cnn_isa isa; int threads; bool exact; struct cnn__team *team; } cnn__cpu;

/* ---- Sizes that cannot overflow ---- */

/* Sizes saturate at SIZE_MAX, which no allocation grants: so one check at the end covers a whole
   computation. */
static size_t cnn__add_size(size_t a, size_t b) { return a > SIZE_MAX - b ? SIZE_MAX : a + b; }
static size_t cnn__mul_size(size_t a, size_t b) { return b && a > SIZE_MAX / b ? SIZE_MAX : a * b; }
static size_t cnn__round_up(size_t n, size_t to)
{
    return n > SIZE_MAX - (to - 1) ? SIZE_MAX : (n + to - 1) / to * to;
}

static ptrdiff_t cnn__min(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static ptrdiff_t cnn__ceil(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }

/* ---- Shapes ---- */

/* Elements. cnn_apply has checked that they fit an int at max_batch, so rooms may use int. */
static int cnn__len(cnn_shape s)    { return s.n * s.c * s.h * s.w; }
static int cnn__sample(cnn_shape s) { return s.c * s.h * s.w; }      /* elements of one sample */
static int cnn__plane(cnn_shape s)  { return s.h * s.w; }            /* of one channel of one sample */

static size_t cnn__checked_len(cnn_shape s)    /* SIZE_MAX: an extent < 1, or over INT_MAX elements */
{
    if (s.n < 1 || s.c < 1 || s.h < 1 || s.w < 1) return SIZE_MAX;
    size_t n = cnn__mul_size(cnn__mul_size((size_t)s.n, (size_t)s.c),
                             cnn__mul_size((size_t)s.h, (size_t)s.w));
    return n > INT_MAX ? SIZE_MAX : n;
}

/* ---- Bits and bytes ---- */

static inline float cnn__float_of_bits(uint32_t bits)
{
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
static inline uint32_t cnn__bits_of_float(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}
CNN__UNUSED static uint64_t cnn__bits_of_size(double v)                /* without the sign */
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits & (UINT64_MAX >> 1);
}

/* Little-endian, as all files are that are written here. */
static uint32_t cnn__le32(const unsigned char *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static uint64_t cnn__le64(const unsigned char *p) { return cnn__le32(p) | (uint64_t)cnn__le32(p + 4) << 32; }
static void cnn__put_le(unsigned char *to, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) to[i] = (unsigned char)(v >> 8 * i & 255);
}

/* ---- Random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011), a counter-based generator ----

   Number i of a stream is a function of (key, i) alone. So any thread or device can draw any number in any
   order and get the same bits, and nothing has to be stored between forward and backward. */

/* Counters i .. i+lanes: each round waits for the one before it, so several counters side by side, which a
   known number of lanes makes vectors of, take hardly longer than one. */
enum { CNN__COUNTERS = 16 };
static CNN__INLINE void cnn__philox_some(const int lanes, uint32_t *out, uint64_t key, uint64_t stream,
                                         uint64_t i)
{
    uint32_t c0[CNN__COUNTERS], c1[CNN__COUNTERS], c2[CNN__COUNTERS], c3[CNN__COUNTERS];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int l = 0; l < lanes; l++) {
        const uint64_t c = i + (uint64_t)l;
        c0[l] = (uint32_t)c, c1[l] = (uint32_t)(c >> 32);
        c2[l] = (uint32_t)stream, c3[l] = (uint32_t)(stream >> 32);
    }
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
        for (int l = 0; l < lanes; l++) {
            const uint64_t p0 = (uint64_t)0xD2511F53u * c0[l], p1 = (uint64_t)0xCD9E8D57u * c2[l];
            c0[l] = (uint32_t)(p1 >> 32) ^ c1[l] ^ k0, c2[l] = (uint32_t)(p0 >> 32) ^ c3[l] ^ k1;
            c1[l] = (uint32_t)p1, c3[l] = (uint32_t)p0;
        }
    for (int l = 0; l < lanes; l++, out += 4) out[0] = c0[l], out[1] = c1[l], out[2] = c2[l], out[3] = c3[l];
}
static void cnn__philox(uint32_t out[4], uint64_t key, uint64_t stream, uint64_t i)
{
    cnn__philox_some(1, out, key, stream, i);
}

/* Random bits number i of a stream: four numbers come from one counter. */
static uint32_t cnn__random_bits(uint64_t key, uint64_t stream, uint64_t i)
{
    uint32_t r[4];
    cnn__philox(r, key, stream, i / 4);
    return r[i % 4];
}

/* Uniform in [0,1): 24 bits, exact in float. */
static float cnn__uniform(uint32_t bits) { return (float)(bits >> 8) * (1.0f / 16777216.0f); }

/* ===========================================================================================================
   >>graph ---- 2. The graph: record, order, run forward, run backward
   ======================================================================================================== */

/* The head of each piece; what follows it is aligned for all that is kept there. */
typedef union cnn__block { union cnn__block *next; double d; void *p; long long l; } cnn__block;

/* What the library knows of a tensor beyond what rooms may see. Every cnn_tensor is the head of one of
   these. */
typedef struct cnn__node {
    cnn_tensor t;
    struct cnn__node *owner;            /* a parameter or buffer that a layer made: the layer's node ... */
    const char       *suffix;           /* ... and "weight": together its name, owner.suffix */
    bool              named;            /* by the user */
    cnn_init          init;             /* parameters and buffers: initial values */
    float             gain;
    float             lr_scale;         /* parameters: the factor of the learning rate ... */
    float             decay_scale;      /* ... and of the weight decay */
    long              steps;            /* parameters: updates that their optimizer vectors have seen */
    int               fan_in, fan_out;
    bool              rectified;        /* a rectifier such as relu reads it */
    bool              total;            /* a sum over the batch: see cnn__is_total */
    const float      *values;           /* CNN_CONST: the initial values */
    int               max_n;            /* shape.n as recorded */
    uint64_t          mark;             /* walks: the last walk that saw it */
    uint64_t          stamp;            /* the last run that computed it */
    int               next_in;          /* walks: the operand to visit next ... */
    struct cnn__node *up;               /* ... and the node to return to */
    int               fed;              /* inputs and labels: how many samples were written */
    bool              wants_grad;       /* inputs: the gradient is asked for */
    int               last[2];          /* memory plan, per mode: the time of the last read of the value */
    int               span_last;        /* memory plan: the last read of the place, by it or who runs in place
                                           of it */
    int               grad_first;       /* index of the user whose backward is the first to write it */
    struct cnn__node *alias[2];         /* memory plan, per mode: it runs in place of this operand */
    struct cnn__node *joined[2];        /* memory plan, per mode: this one runs in place of it */
    int               users;            /* memory plan: how often it is an operand */
    const struct cnn__tail *tail;       /* while it runs: what is computed in place of it in the same pass */
    struct cnn__node *grad_alias;       /* memory plan: its gradient takes the place of this user's */
    struct cnn__node *gate;             /* memory plan: the user that does its backward too, or NULL */
    int               grad_last;        /* memory plan: the last read of the gradient's place */
    const cnn_kernel *kernel;           /* the row that replaces its functions, or NULL: the room */
    unsigned char     data_on, grad_on; /* CNN__HOST | CNN__DEVICE: where the newest copy is */
    unsigned char     saved_on;
    uint64_t          batches;          /* batch norm: num_batches_tracked as loaded, less g->draw then */
    size_t            packed_at;        /* memory plan: place of its packed weights; SIZE_MAX: none */
    uint64_t          packed_when;      /* g->written when they were packed; 0 = never */
    int               packed_n;         /* the batch that they were packed for: it decides the algorithm */
    const cnn_tensor *packed_norm;      /* the batch norm that they hold, or NULL */
    unsigned          axes;             /* while a file is written: its dimensions there, cnn_owned.axes */
} cnn__node;
enum { CNN__HOST = 1, CNN__DEVICE = 2 };

/* Who looks on while a graph runs, for profile, trace and doctor: called before and after each operation. */
typedef enum { CNN__BEFORE_FORWARD, CNN__AFTER_FORWARD, CNN__BEFORE_BACKWARD, CNN__AFTER_BACKWARD,
               CNN__AFTER_UPDATE } cnn__moment;
typedef struct cnn__probe {
    void (*see)(struct cnn__probe *, cnn_tensor *y, cnn__moment);    /* y: the node; the loss for an update */
} cnn__probe;

typedef struct cnn__pattern {            /* a list of names */
    const char          *text;
    struct cnn__pattern *next;
} cnn__pattern;

struct cnn_graph {
    char         error[CNN_ERROR_SIZE];
    const char  *call;                  /* where the last call was made, for the message */
    cnn_config   config;                /* with the defaults filled in */
    cnn__cpu     cpu;
    cnn__block  *blocks;                /* every small piece of memory */
    cnn__node  **node;                  /* all nodes, as recorded */
    int          n_nodes, node_capacity;
    cnn__node  **order;                 /* those that matter, operands first: the order of execution */
    int          n_order;
    cnn__node  **by_name;               /* the same, sorted by their names */
    cnn__node  **param;                 /* of these the parameters, in the order of execution */
    int          n_params;
    cnn__pattern *freeze;               /* names of what is frozen at compile */
    cnn_tensor  *loss;
    bool         batch_unsaid;          /* max_batch is a default: cnn_fit wants to hear it */
    bool         planned, compiled;
    const cnn_graph *shares;            /* a view: parameters and buffers are this graph's, only read */
    uint64_t     written;               /* how often parameters, buffers or constants were written, from 1 */
    cnn_memory   memory;
    void        *base;                  /* the one allocation behind the arenas; NULL: the caller's memory */
    float       *arena[CNN_ARENAS];
    size_t       arena_bytes[CNN_ARENAS];
    void        *buffer[CNN_ARENAS];    /* the same arenas on the device, but for the activations, ... */
    void       **chunk;                 /* ... which are in n_chunks buffers there */
    int          n_chunks;
    size_t       n_trained;             /* floats in the flat vectors, with gaps; what is frozen comes last */
    int          batch;                 /* the current N */
    uint64_t     walk, run;             /* counters behind mark and stamp; 64 bits never wrap */
    cnn_mode     mode;                  /* of the last run */
    int          ran_batch;             /* N of the last run */
    int          reached;               /* how far the last run went in the time of the memory plan */
    bool         can_backward;          /* the last run was a forward of the loss for training */
    bool         from_zero;             /* backward runs, and the gradients of parameters began at 0 */
    bool         has_grads;             /* some backward has run */
    unsigned char optimizer_on;         /* CNN__HOST | CNN__DEVICE: where the newest optimizer state is; 0 =
                                           all zero */
    long         step;                  /* updates so far */
    float       *average;               /* of parameters and running statistics; NULL = none: cnn_average */
    void        *average_buffer;        /* the same on the device, which mixes it; NULL = none */
    unsigned char average_on;           /* CNN__HOST | CNN__DEVICE: where the newest average is */
    uint32_t     draw;                  /* training forwards so far: no two runs drop out the same */
    cnn_traffic  traffic;
    struct cnn__probe  *probe;          /* sees every operation run; NULL = nobody looks */
    struct cnn__doctor *doctor;         /* NULL until cnn_doctor */
    char        *check;                 /* what the last cnn_gradient_check found */
    char         notice[CNN_ERROR_SIZE]; /* why the last save failed: it stops nothing */
    struct cnn__about  *about;          /* what it knows of its data; NULL: nothing. See cnn_remember */
};

static cnn__node *cnn__of(const cnn_tensor *t) { return (cnn__node *)(uintptr_t)t; }

/* Which operand of y is x, the first if it is several? -1: none. */
static int cnn__which_operand(const cnn_tensor *y, const cnn_tensor *x)
{
    for (int k = 0; k < y->n_in; k++) if (y->in[k] == x) return k;
    return -1;
}

/* ---- Errors: the first message stays, everything after it does nothing ---- */

/* The nil tensor: what builders return after an error, and what every builder skips. */
static const cnn_tensor cnn__nil = { .name = "nil", .kind = CNN_CONST };
static cnn_tensor *cnn__nil_tensor(void) { return (cnn_tensor *)(uintptr_t)&cnn__nil; }
static bool        cnn__is_nil(const cnn_tensor *t) { return !t || t == &cnn__nil; }

/* Messages have a fixed size, and the end of a long path says more than its beginning. */
enum { CNN__SHOWN = 100 };
static const char *cnn__path_end(const char *path)
{
    size_t n = path ? strlen(path) : 0;
    return n > CNN__SHOWN ? path + (n - CNN__SHOWN) : path ? path : "memory";
}

CNN_API cnn_tensor *cnn_at_tensor(const char *at, cnn_tensor *t)
{
    if (t && t->graph) t->graph->call = at;
    return t;
}
CNN_API cnn_graph *cnn_at_graph(const char *at, cnn_graph *g)
{
    if (g) g->call = at;
    return g;
}

static int cnn__format(char *out, size_t room, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(out, room, format, ap);
    va_end(ap);
    return n;
}

/* Text that is written line after line into memory of a given size. said: how often. */
typedef struct { char *text; size_t room, used; int said; } cnn__page;
CNN__PRINTF(2, 3)
static void cnn__say(cnn__page *p, const char *format, ...)
{
    p->said++;
    if (!p->text || p->used >= p->room) return;
    va_list ap;
    va_start(ap, format);
    const int n = vsnprintf(p->text + p->used, p->room - p->used, format, ap);
    va_end(ap);
    if (n > 0) p->used = (size_t)n < p->room - p->used ? p->used + (size_t)n : p->room;
}

/* lenet.c:14: conv2d "c3": ... Each part has a limit, so that there is always room for what went wrong. Once
   the net is compiled, the call may be far from the layer: then its place stands at the end. */
static void cnn__vfail(cnn_graph *g, const char *at, const char *what, const char *name, const char *call,
                       const char *format, va_list ap)
{
    if (!g || g->error[0]) return;
    size_t       k = 0;
    const size_t room = sizeof g->error - (call ? CNN__SHOWN + 16 : 0);
    const char *part[] = { at ? cnn__path_end(at) : NULL, at ? ": " : NULL, what, name ? " \"" : NULL, name,
                           name ? "\"" : NULL, what || name ? ": " : NULL };
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        for (size_t n = 0; part[i] && part[i][n] && n < CNN__SHOWN; n++) g->error[k++] = part[i][n];
    vsnprintf(g->error + k, room - k, format, ap);
    k = strlen(g->error);
    if (call) cnn__format(g->error + k, sizeof g->error - k, " (called at %s)", cnn__path_end(call));
    for (char *c = g->error; *c; c++)                  /* a name from a file must not command a terminal */
        if (((unsigned char)*c < ' ' && *c != '\n') || *c == 127) *c = '?';
    if (!g->error[0]) g->error[0] = '?';
}

/* A failure that belongs to the graph. what: the call, "compile". */
CNN__PRINTF(4, 5)
static bool cnn__fail(cnn_graph *g, const char *at, const char *what, const char *format, ...)
{
    va_list ap;
    if (g && g->call && (!at || at == g->config.at)) at = g->call;
    va_start(ap, format);
    cnn__vfail(g, at, what, NULL, NULL, format, ap);
    va_end(ap);
    return false;
}

/* A failure that belongs to a node: lenet.c:14: conv2d "c3": ... */
CNN_API bool cnn_fail(cnn_tensor *y, const char *format, ...)
{
    if (cnn__is_nil(y)) return false;
    va_list     ap;
    const char *call = y->graph->compiled ? y->graph->call : NULL;
    if (call && y->at && strcmp(call, y->at) == 0) call = NULL;
    va_start(ap, format);
    cnn__vfail(y->graph, y->at, y->op ? y->op->name : "tensor", y->name, call, format, ap);
    va_end(ap);
    return false;
}

static bool cnn__no_memory(cnn_graph *g, const char *at, const char *what, size_t bytes)
{
    return cnn__fail(g, at, what, "out of memory: %zu bytes", bytes);
}

/* Not inlined: gcc would see the NULL and warn about each printf("%s") of it after a call that failed. */
CNN__NOINLINE CNN_API const char *cnn_error(const cnn_graph *g)
{
    if (!g) return "cnn_new: out of memory";
    return g->error[0] ? g->error : g->notice[0] ? g->notice : NULL;
}

CNN_API bool cnn_clear_error(cnn_graph *g)
{
    if (!g || (!g->compiled && g->error[0])) return false;
    g->error[0] = g->notice[0] = 0;
    g->can_backward = false;                        /* a run may have been cut short */
    return true;
}

/* A zeroed piece of memory that lives as long as the graph. NULL after writing the error. */
static void *cnn__alloc(cnn_graph *g, size_t bytes)
{
    size_t whole = cnn__add_size(bytes, sizeof(cnn__block));
    cnn__block *b = whole == SIZE_MAX ? NULL : CNN_MALLOC(whole);
    if (!b) return cnn__no_memory(g, NULL, "graph", bytes), NULL;
    memset(b, 0, whole);
    b->next = g->blocks, g->blocks = b;
    return b + 1;
}

static const char *cnn__copy_string(cnn_graph *g, const char *s)
{
    size_t n = strlen(s) + 1;
    char  *p = cnn__alloc(g, n);
    return p ? memcpy(p, s, n) : NULL;
}

/* For messages: "(N,6,28,28)", or "(4,6,1,1)" for a tensor without a batch. */
typedef cnn_text cnn__text;
static cnn__text cnn__shape_text(const cnn_tensor *t)
{
    cnn__text r;
    if (t->batched) cnn__format(r.s, sizeof r.s, "(N,%d,%d,%d)", t->shape.c, t->shape.h, t->shape.w);
    else            cnn__format(r.s, sizeof r.s, "(%d,%d,%d,%d)", t->shape.n, t->shape.c, t->shape.h,
                                t->shape.w);
    return r;
}
CNN_API cnn_text cnn_shape_text(const cnn_tensor *t)
{
    return cnn__shape_text(cnn__is_nil(t) ? &cnn__nil : t);
}

CNN_API void cnn_notice(cnn_graph *g, const char *text)
{
    if (g) cnn__format(g->notice, sizeof g->notice, "%s", text ? text : "");
}

/* Formulas to apply to a result, one after the other, while it is in the L1 cache: see cnn__join. norm: for a
   convolution, the batch norm that its packed weights and bias hold already, or NULL. */
typedef struct cnn__tail {
    const cnn_tensor *norm;
    int steps;
    struct { cnn_each *f; const float *a; float k[2]; } step[4];
} cnn__tail;

/* ---- What is defined below its first use, or in a later section ---- */

static bool  cnn__said(const char *text, const cnn_field *f);
static void  cnn__by_row(bool done, cnn_tensor *y);
static bool  cnn__begin_forward(cnn_tensor *t, cnn_mode mode);
static bool  cnn__forward_node(cnn__node *v, cnn_mode mode);
static bool  cnn__backward_node(cnn__node *v);
static void  cnn__start_grad(const cnn__node *v, const cnn__node *x);
static bool  cnn__usable(cnn_tensor *t, const char *what);
static bool  cnn__placed(cnn_tensor *t, const char *what);
static float cnn__no_result(void);
static bool  cnn__resolve_step(cnn_graph *g, const char *what, cnn_step_args *a);         /* >>optim */
static bool  cnn__update(cnn_graph *g, const cnn_step_args *a, unsigned side);
static void  cnn__seen(cnn_tensor *y, cnn__moment moment);

static int       cnn__processors(void);                                /* >>threads */
static size_t    cnn__team_bytes(int threads);
static bool      cnn__open_team(cnn__cpu *cpu);
static void      cnn__close_team(cnn__cpu *cpu);
static bool      cnn__has_isa(cnn_isa isa);                            /* >>simd */
static cnn_isa   cnn__best_isa(void);
static cnn_isa   cnn__isa_named(const char *name, char *names, size_t room);
CNN__UNUSED static const char *cnn__isa_name(cnn_isa isa);
static void      cnn__bind(cnn__node *v, cnn_mode mode);               /* >>plan */
static cnn__tail cnn__join(cnn__node *v, cnn_mode mode);               /* >>fusion */
static void      cnn__gate(const cnn__node *v);
static bool      cnn__can_gate(const cnn__node *v);
static bool      cnn__folds(const cnn__node *v);

typedef enum { CNN__DATA, CNN__GRAD, CNN__SAVED } cnn__part;           /* >>devices */
static bool cnn__open_backend(cnn_graph *g);
static void cnn__close_backend(cnn_graph *g);
static void cnn__device_forward(cnn__node *v, cnn_mode mode);
static bool cnn__device_backward(cnn__node *v);
static void cnn__device_clear_grads(cnn_graph *g);
static bool cnn__sync(cnn_tensor *t, cnn__part part, unsigned side);
static void cnn__wrote(cnn_tensor *t, cnn__part part, unsigned side);
static bool cnn__sync_params(cnn_graph *g, cnn__part part, unsigned side);
static void cnn__wrote_params(cnn_graph *g, cnn__part part, unsigned side);
static bool cnn__sync_optimizer(cnn_graph *g, unsigned side);
static bool cnn__sync_average(cnn_graph *g, unsigned side);
static bool cnn__update_on_device(cnn_graph *g, const cnn_step_args *a, size_t from, size_t n, long step);
static bool cnn__mix_on_device(cnn_graph *g, float share);
static const char *cnn__device_error(cnn_graph *g);
static double cnn__squares_on_device(cnn_graph *g);
static bool cnn__shorten_on_device(cnn_graph *g, float factor);

CNN_API cnn_graph *cnn_new_(cnn_config config)
{
    cnn_backend *dev = config.backend;
    cnn_graph   *g = CNN_MALLOC(sizeof *g);
    if (!g) {
        if (dev && dev->close && !dev->graph) dev->close(dev);
        return NULL;
    }
    memset(g, 0, sizeof *g);
    const bool unsaid = !config.max_batch;
    if (unsaid) config.max_batch = 1;
#define CNN__IS_FUNCTION(name) || (uintptr_t)config.optimizer == (uintptr_t)cnn_##name
    const bool function = false CNN_OPTIMIZERS(CNN__IS_FUNCTION);
    if (!config.optimizer || function) config.optimizer = cnn_sgd();
    if (!config.threads) config.threads = cnn__processors();
    if (!CNN__TEAMS && config.threads > 0 && config.threads <= CNN__MOST_THREADS) config.threads = 1;
    g->config = config;
    g->batch = config.max_batch, g->batch_unsaid = unsaid;
    g->run = g->written = 1;            /* nodes start with stamp 0: nothing has computed them */
    g->cpu.threads = config.threads;
    g->cpu.isa = config.isa, g->cpu.exact = config.exact != 0;
    const char *wish = config.isa == CNN_ISA_AUTO ? getenv("CNN_ISA") : NULL;
    char        names[80];
    if (wish && *wish && !(g->cpu.isa = cnn__isa_named(wish, names, sizeof names)))
        cnn__fail(g, config.at, "cnn_new", "CNN_ISA=%.20s: not one of %s", wish, names);
    if (g->cpu.isa == CNN_ISA_AUTO) g->cpu.isa = cnn__best_isa();
    if (!cnn__has_isa(g->cpu.isa))
        cnn__fail(g, config.at, "cnn_new",
                  "this CPU or this build lacks the instruction set asked for (.isa = %d)", (int)g->cpu.isa);
    if (function)
        cnn__fail(g, config.at, "cnn_new", "the optimizer is a function: call it, .optimizer = cnn_adam()");
    if (config.max_batch < 1)
        cnn__fail(g, config.at, "cnn_new", "max_batch is %d: it must be positive", config.max_batch);
    if (config.threads < 0 || config.threads > CNN__MOST_THREADS)
        cnn__fail(g, config.at, "cnn_new", "threads is %d: it must be 1 to %d, or 0 for the default",
                  config.threads, (int)CNN__MOST_THREADS);
    if (dev && dev->error[0]) cnn__fail(g, config.at, "cnn_new", "%s", dev->error);
    if (dev && dev->close && dev->graph) {
        cnn__fail(g, config.at, "cnn_new", "the backend belongs to another graph");
        g->config.backend = NULL;
    } else if (dev && dev->close) dev->graph = g;
    if (dev && !(dev->name && dev->alloc && dev->release && dev->upload && dev->download && dev->clear))
        cnn__fail(g, config.at, "cnn_new", "a backend has a name, alloc, release, upload, download and "
                  "clear: one of these is NULL");
    if (dev && config.rows)
        cnn__fail(g, config.at, "cnn_new", ".rows are for the CPU: those of a device belong to its backend");
    if (config.optimizer->slots < 0 || config.optimizer->slots > CNN_MAX_SLOTS)
        cnn__fail(g, config.at, "cnn_new", "optimizer %s wants %d slots: at most %d", config.optimizer->name,
                  config.optimizer->slots, CNN_MAX_SLOTS);
    return g;
}

CNN_API void cnn_free(cnn_graph *g)
{
    if (!g) return;
    CNN_FREE(g->about);
    cnn__close_team(&g->cpu);
    cnn__close_backend(g);
    while (g->blocks) {
        cnn__block *next = g->blocks->next;
        CNN_FREE(g->blocks);
        g->blocks = next;
    }
    CNN_FREE(g->node);
    CNN_FREE(g->order);
    CNN_FREE(g->base);
    CNN_FREE(g);
}

/* ---- Recording ---- */

static cnn__node *cnn__new_node(cnn_graph *g, cnn_kind kind, const char *at, const char *name)
{
    if (!g || g->error[0]) return NULL;
    if (g->compiled) {
        cnn__fail(g, at, "graph", "it is compiled already: no more nodes can be recorded");
        return NULL;
    }
    if (g->n_nodes == g->node_capacity) {
        size_t      capacity = g->node_capacity ? 2 * (size_t)g->node_capacity : 64;
        cnn__node **more = capacity < INT_MAX ? CNN_REALLOC(g->node, capacity * sizeof *more) : NULL;
        if (!more) {
            cnn__no_memory(g, at, "graph", capacity * sizeof *more);
            return NULL;
        }
        g->node = more, g->node_capacity = (int)capacity;
    }
    cnn__node *v = cnn__alloc(g, sizeof *v);
    if (!v) return NULL;
    v->t.graph = g, v->t.kind = kind, v->t.at = at, v->t.index = -1;
    v->data_on = v->grad_on = v->saved_on = CNN__HOST;
    v->lr_scale = v->decay_scale = 1;
    g->node[g->n_nodes++] = v;
    g->planned = false;
    if (name) {
        v->t.name = cnn__copy_string(g, name);
        if (!v->t.name) return NULL;
        v->named = true;
    }
    return v;
}

/* A leaf of any kind; shape.n is ignored for inputs and labels, which take the batch. nil after an error. */
static cnn_tensor *cnn__leaf(cnn_graph *g, cnn_kind kind, const char *at, const char *name, cnn_shape shape)
{
    cnn__node *v = cnn__new_node(g, kind, at, name);
    if (!v) return cnn__nil_tensor();
    cnn_tensor *t = &v->t;
    t->batched = kind == CNN_INPUT || kind == CNN_LABELS;
    if (t->batched) shape.n = g->config.max_batch;
    t->shape = shape, v->max_n = shape.n;
    if (cnn__checked_len(shape) == SIZE_MAX) {
        cnn_fail(t, "shape %s: every extent must be at least 1, and a tensor holds at most 2^31 - 1 "
                    "elements (N = %d)", cnn__shape_text(t).s, shape.n);
        return cnn__nil_tensor();
    }
    return t;
}

/* How its first values are drawn. said: the text of the arguments: a gain of 0 that was given makes zeros. */
static bool cnn__set_init(cnn_tensor *t, cnn_init init, float gain, const char *said)
{
    static const cnn_field row = { .name = "gain" };
    const bool zero = gain == 0 && cnn__said(said, &row);
    cnn__of(t)->init = zero ? CNN_INIT_CONSTANT : init, cnn__of(t)->gain = gain;
    if ((int)init < CNN_INIT_DEFAULT || (int)init > CNN_INIT_CONSTANT)
        return cnn_fail(t, "init is %d: it must be one of CNN_INIT_...", (int)init);
    return isfinite(gain) || cnn_fail(t, "gain is %g: it must be a finite number", (double)gain);
}

CNN_API cnn_tensor *cnn_input_(cnn_input_args a)
{
    cnn_shape   s = { 0, a.c, a.h ? a.h : 1, a.w ? a.w : 1 };
    cnn_tensor *t = cnn__leaf(a.g, CNN_INPUT, a.at, a.name, s);
    if (!cnn__is_nil(t)) cnn__of(t)->wants_grad = a.grad != 0;
    return t;
}

CNN_API cnn_tensor *cnn_labels_(cnn_labels_args a)
{
    cnn_shape s = { 0, 1, a.h ? a.h : 1, a.w ? a.w : 1 };
    return cnn__leaf(a.g, CNN_LABELS, a.at, a.name, s);
}

CNN_API cnn_tensor *cnn_param_(cnn_param_args a)
{
    cnn_tensor *t = cnn__leaf(a.g, CNN_PARAM, a.at, a.name, a.shape);
    if (cnn__is_nil(t)) return t;
    cnn__node *v = cnn__of(t);
    if (a.init == CNN_INIT_DEFAULT) a.init = CNN_INIT_CONSTANT;
    if (a.fan_in < 0 || a.fan_out < 0)
        return cnn_fail(t, "fan_in %d, fan_out %d: they must not be negative", a.fan_in, a.fan_out),
               cnn__nil_tensor();
    v->fan_in = a.fan_in, v->fan_out = a.fan_out;
    return cnn__set_init(t, a.init, a.gain, a.said) ? t : cnn__nil_tensor();
}

CNN_API cnn_tensor *cnn_const_(const char *at, cnn_graph *g, cnn_shape shape, const float *values)
{
    cnn_tensor *t = cnn__leaf(g, CNN_CONST, at, NULL, shape);
    if (cnn__is_nil(t)) return t;
    if (!values) return cnn_fail(t, "no values were given"), cnn__nil_tensor();
    size_t bytes = cnn__mul_size(cnn__checked_len(shape), sizeof(float));
    float *copy = cnn__alloc(g, bytes);
    if (!copy) return cnn__nil_tensor();
    cnn__of(t)->values = memcpy(copy, values, bytes);
    return t;
}

CNN_API cnn_tensor *cnn_name(cnn_tensor *t, const char *name)
{
    if (cnn__is_nil(t) || !name) return t;
    if (t->graph->compiled) return cnn_fail(t, "cannot be named \"%s\": the graph is compiled", name), t;
    const char *copy = cnn__copy_string(t->graph, name);
    if (copy) t->name = copy, cnn__of(t)->named = true, t->graph->planned = false;
    return t;
}

CNN_API cnn_tensor *cnn_keep(cnn_tensor *t)
{
    if (cnn__is_nil(t)) return t;
    if (t->graph->compiled) cnn_fail(t, "cannot be kept: the graph is compiled");
    else t->kept = true, t->graph->planned = false;
    return t;
}

/* A parameter, or a buffer with all the buffers of its layer. Returns how many. */
static int cnn__freeze_leaf(cnn_tensor *t)
{
    const cnn__node *owner = cnn__of(t)->owner;
    if (t->kind != CNN_PARAM && t->kind != CNN_BUFFER) return 0;
    t->frozen = true;
    for (int k = 0; t->kind == CNN_BUFFER && owner && k < owner->t.n_in; k++)
        if (owner->t.in[k]->kind == CNN_BUFFER) owner->t.in[k]->frozen = true;
    return 1;
}

CNN_API cnn_tensor *cnn_freeze(cnn_tensor *t)
{
    if (cnn__is_nil(t)) return t;
    cnn_graph *g = t->graph;
    if (g->compiled)
        return cnn_fail(t, "cannot be frozen: the graph is compiled; cnn_set_lr_scale with 0 can"), t;
    int found = cnn__freeze_leaf(t), i = g->n_nodes;
    while (i > 0 && &g->node[i - 1]->t != t) i--;
    g->planned = false, cnn__of(t)->mark = ++g->walk;
    for (; i-- > 0; )                                   /* users before their operands: down from t */
        for (int k = 0; g->node[i]->mark == g->walk && k < g->node[i]->t.n_in; k++) {
            found += cnn__freeze_leaf(g->node[i]->t.in[k]);
            cnn__of(g->node[i]->t.in[k])->mark = g->walk;
        }
    if (!found) cnn_fail(t, "cannot be frozen: it is no parameter, and has none below it");
    return t;
}

CNN_API bool cnn_freeze_names(cnn_graph *g, const char *pattern)
{
    if (!g || g->error[0]) return false;
    if (g->compiled || !pattern)
        return cnn__fail(g, g->config.at, "freeze_names", !pattern ? "no pattern was given"
                         : "the graph is compiled; cnn_set_lr_scale with 0 can");
    cnn__pattern *p = cnn__alloc(g, sizeof *p);
    if (!p || !(p->text = cnn__copy_string(g, pattern))) return false;
    p->next = g->freeze, g->freeze = p, g->planned = false;
    return true;
}

/* ---- Options: filled in and checked once, when a node is recorded ---- */

/* "(0,1]": reads "0" or "inf" and moves on; no locale can interfere. */
static double cnn__bound(const char **range)
{
    const bool minus = **range == '-';
    double     value = 0, unit = 1;
    *range += minus;
    if (strncmp(*range, "inf", 3) == 0) value = (double)INFINITY, *range += 3;
    for (; **range >= '0' && **range <= '9'; ++*range) value = 10 * value + (**range - '0');
    if (**range == '.')
        while (*++*range >= '0' && **range <= '9') value += (unit /= 10) * (**range - '0');
    return minus ? -value : value;
}

static bool cnn__in_range(const char *range, double value)
{
    if (!range) return !isnan(value);
    const bool from = *range++ == '[';
    const double least = cnn__bound(&range);
    if (*range++ != ',') return false;
    const double most = cnn__bound(&range);
    return (from ? value >= least : value > least) && (*range == ']' ? value <= most : value < most);
}

static double cnn__option(const cnn_field *f, const void *args)
{
    const char *at = (const char *)args + f->offset;
    int         i;
    unsigned    u;
    float       v;
    switch (f->type) {
    case 'i': return memcpy(&i, at, sizeof i), i;
    case 'u': return memcpy(&u, at, sizeof u), u;
    default:  return memcpy(&v, at, sizeof v), (double)v;
    }
}

static void cnn__set_option(const cnn_field *f, void *args, double value)
{
    char *at = (char *)args + f->offset;
    const int      i = f->type == 'i' ? (int)value : 0;
    const unsigned u = f->type == 'u' ? (unsigned)value : 0;
    const float    v = (float)value;
    memcpy(at, f->type == 'i' ? (const void *)&i : f->type == 'u' ? (const void *)&u : &v, sizeof i);
}

/* Is this option among the arguments, by the text of these: under its name, or as the nth of them? */
static bool cnn__said(const char *text, const cnn_field *f)
{
    const size_t n = strlen(f->name);
    int  depth = 0, argument = 1;
    bool begins = true;                  /* an argument, outside of all brackets */
    for (const char *c = text; c && *c; c++) {
        if (begins && *c != ' ') {
            const char *name = c + 1 + strspn(c + 1, " ");
            if (*c != '.' && argument == f->nth) return true;
            if (*c == '.' && strncmp(name, f->name, n) == 0 && strchr(" =", name[n])) return true;
            begins = false;
        }
        if (*c == '"' || *c == '\'')      /* a string or a character: to its end */
            for (const char quote = *c++; *c && *c != quote; c++) c += *c == '\\' && c[1];
        else if (strchr("([{", *c)) depth++;
        else if (strchr(")]}", *c)) depth--;
        else if (*c == ',' && depth == 0) argument++, begins = true;
        if (!*c) break;
    }
    return false;
}

/* The value of an option by its name; 0 if y's operation has none such. */
static double cnn__option_named(const cnn_tensor *y, const char *name)
{
    for (const cnn_field *f = y->op->fields; f && f->name; f++)
        if (strcmp(f->name, name) == 0) return cnn__option(f, y->args);
    return 0;
}

/* Was the option given? The one place that says what "given" means. Every option struct begins with `const
   char *at, *said`. */
static bool cnn__given(const cnn_field *f, const void *args)
{
    return cnn__option(f, args) != 0 || cnn__said(((const char *const *)args)[1], f);
}

/* The value of an option that is not given; *from: the option that it comes from. */
static double cnn__default(const cnn_field *fields, const cnn_field *f, const void *args,
                           const cnn_field **from)
{
    *from = f;
    for (const char *word = f->like; word && *word; word += *word == ' ') {
        const size_t n = strcspn(word, " ");
        for (const cnn_field *like = fields; like != f; like++) {
            if (strlen(like->name) != n || memcmp(like->name, word, n) != 0) continue;
            *from = like;
            if (cnn__given(like, args)) return cnn__option(like, args);
        }
        word += n;
    }
    return f->preset;
}

/* Is its value the one that it would have if it were not given? */
static bool cnn__is_default(const cnn_tensor *y, const cnn_field *f)
{
    const cnn_field *from;
    const double     value = cnn__option(f, y->args);
    const double     otherwise = cnn__default(y->op->fields, f, y->args, &from);
    return f->type == 'f' ? cnn__bits_of_float((float)value) == cnn__bits_of_float((float)otherwise)
                          : value == otherwise;
}

/* After this, args are plain values, and `said` is NULL. False, and why, if one is out of its range. */
static bool cnn__resolve(const cnn_field *fields, void *args, char why[CNN_ERROR_SIZE])
{
    for (const cnn_field *f = fields; f && f->name; f++) {
        const cnn_field *from = f;
        const double value = cnn__given(f, args) ? cnn__option(f, args)
                                                 : cnn__default(fields, f, args, &from);
        if (value != CNN_REQUIRED && cnn__in_range(f->range, value)) {
            cnn__set_option(f, args, value);
            continue;
        }
        char text[32] = "missing";
        if (value != CNN_REQUIRED) cnn__format(text, sizeof text, f->type == 'f' ? "%g" : "%.0f", value);
        cnn__format(why, CNN_ERROR_SIZE, "%s is %s: it must be %s%sin %s", from->name, text,
                    from->what ? from->what : "", from->what ? ", " : "", f->range ? f->range : "[-inf,inf]");
        return false;
    }
    if (fields) ((const char **)args)[1] = NULL;
    return true;
}

/* ===========================================================================================================
   >>kernels ---- 3. What rooms call: formulas element by element, sums, and the contracts of all kernels

   Plain pointers and sizes, output first. Where many threads share a loop, every element is computed by one
   of them, with its sums in the order that is written here: the bits do not depend on the number of threads.
   ======================================================================================================== */

/* ---- Exponential and hyperbolic tangent ----

   Those of libm are calls, one number at a time, and would take a third of LeNet's training. These are a few
   operations without a branch, so that the loops around them become vectors.

   e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln(2)/2; the difference is exact, since ln 2 is split in
   two (Cody, Waite 1980); e^r - 1 = r + r^2/2 + ... + r^7/7!, the Taylor series, whose next term is below
   6e-9. Keeping e^r - 1 rather than e^r is what makes tanh exact to the last bits near zero. */
/* yes ? a : b, by masks: a branch would keep the loop around it from becoming vectors. */
static CNN__INLINE float cnn__select(bool yes, float a, float b)
{
    const uint32_t mask = 0u - (uint32_t)yes;
    return cnn__float_of_bits((cnn__bits_of_float(a) & mask) | (cnn__bits_of_float(b) & ~mask));
}

/* x, but in low..high. */
static CNN__INLINE float cnn__within(float low, float x, float high)
{
    return cnn__select(low - x > 0, low, cnn__select(x > high, high, x));      /* not x < low: see >>base */
}

/* 2^n for -127 < n < 128: its exponent. */
static CNN__INLINE float cnn__power_of_2(uint32_t n) { return cnn__float_of_bits((n + 127u) << 23); }

/* e^x = (1 + the result) 2^n; |x| <= 104, or x is not a number, and neither is the result then. */
static CNN__INLINE float cnn__exp_parts(float x, uint32_t *n)
{
    float shifted = x * 1.44269504f + 12582912.0f, m = shifted - 12582912.0f;      /* 1.5 * 2^23: rounds */
    float r = (x - m * 0.693359375f) + m * 2.12194440e-4f;
    *n = cnn__bits_of_float(shifted) - cnn__bits_of_float(12582912.0f);
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720, p = p * r + 1.0f / 120, p = p * r + 1.0f / 24, p = p * r + 1.0f / 6,
    p = p * r + 0.5f;
    return r + r * r * p;
}

/* Relative error below 2e-7 where e^x is at least FLT_MIN; denormal from there to e^-103.9, then 0; infinite
   above e^88.7, FLT_MAX. 2^n is two factors, since it may be too large, or too small, for one. */
static CNN__INLINE float cnn__exp(float x)
{
    uint32_t       n;
    const float    y = 1 + cnn__exp_parts(cnn__within(-104, x, 89), &n);
    const uint32_t half = ((n + 256u) >> 1) - 128u;
    return y * cnn__power_of_2(half) * cnn__power_of_2(n - half);
}

/* e^x - 1 for |x| <= 87, without cancellation near 0. */
static CNN__INLINE float cnn__exp_less_one(float x)
{
    uint32_t    n;
    const float e = cnn__exp_parts(x, &n), power = cnn__power_of_2(n);
    return e * power + (power - 1);
}

/* tanh x = (e^2x - 1) / (e^2x + 1). Relative error below 3e-7; beyond |x| = 10 it is 1 in float. */
static CNN__INLINE float cnn__tanh(float x)
{
    const float e = cnn__exp_less_one(2 * cnn__within(-10, x, 10));
    return e / (e + 2);
}

static CNN__INLINE float cnn__sigmoid(float x) { return 1 / (1 + cnn__exp(-x)); }

/* log(1 + e^x), which cannot overflow. */
static CNN__INLINE float cnn__softplus(float x) { return (x < 0 ? 0.0f : x) + log1pf(cnn__exp(-fabsf(x))); }

/* ---- Element by element ----

   A formula becomes a function that changes v[i] for i < n, given a[i], b[i] and constants k. In the formula
   of an operation v is x and becomes y; in that of its derivative v is dy and becomes dx, and a is y or x.
   Sixteen elements at a time, because a loop of known length is what gcc -O2 makes into vectors. On x86 it is
   compiled a second time, for AVX2: without fused multiply-adds, so that both give the same bits. */

#define CNN__EACH_TEXT(name, ...)                                                                            \
    static void name(float *restrict v, const float *restrict a, const float *restrict b,                    \
                     const float *restrict k, ptrdiff_t n)                                                   \
    {                                                                                                        \
        ptrdiff_t from = 0;                                                                                  \
        for (; from + 16 <= n; from += 16)                                                                   \
            for (int j = 0; j < 16; j++) { const ptrdiff_t i = from + j; __VA_ARGS__; }                      \
        for (ptrdiff_t i = from; i < n; i++) { __VA_ARGS__; }                                                \
        (void)a, (void)b, (void)k;                                                                           \
    }
#if CNN__X86
#define CNN__LOOP(name, ...)                                                                                 \
    CNN__EACH_TEXT(name##_c, __VA_ARGS__)                                                                    \
    __attribute__((target("avx2"))) CNN__EACH_TEXT(name##_avx2, __VA_ARGS__)
#define CNN__LOOPS(name) { name##_c, name##_avx2 }
#else
#define CNN__LOOP(name, ...) CNN__EACH_TEXT(name##_c, __VA_ARGS__)
#define CNN__LOOPS(name) { name##_c, NULL }
#endif
static inline bool cnn__loops_avx2(const cnn__cpu *cpu)
{
    return cpu->isa == CNN_ISA_AVX2 || cpu->isa == CNN_ISA_AVX512;
}
static cnn_each *cnn__loop(const cnn__cpu *cpu, cnn_each *const loop[2])
{
    return cnn__loops_avx2(cpu) && loop[1] ? loop[1] : loop[0];
}
/* The formulas that kernels use, picked by the instruction set: cnn__each_add(cpu). */
#define CNN__EACH(name, ...)                                                                                 \
    CNN__LOOP(name, __VA_ARGS__)                                                                             \
    static cnn_each *name(const cnn__cpu *cpu)                                                               \
    {                                                                                                        \
        static cnn_each *const loop[2] = CNN__LOOPS(name);                                                   \
        return cnn__loop(cpu, loop);                                                                         \
    }

CNN__EACH(cnn__each_scale,            v[i] = v[i] * k[0] + k[1])
CNN__EACH(cnn__each_add,              v[i] += a[i])
CNN__EACH(cnn__each_sub,              v[i] -= a[i])
CNN__EACH(cnn__each_mul,              v[i] *= a[i])
CNN__EACH(cnn__each_equal,            v[i] = v[i] == a[i] ? 1.0f : 0.0f)
CNN__EACH(cnn__each_maximum,          float x = v[i], z = x != x ? x : a[i]; v[i] = x > z ? x : z)
CNN__EACH(cnn__each_minimum,          float x = v[i], z = x != x ? x : a[i]; v[i] = x < z ? x : z)
CNN__EACH(cnn__each_add_scaled,       v[i] += a[i] * k[0])
CNN__EACH(cnn__each_add_product,      v[i] += a[i] * b[i] * k[0])
CNN__EACH(cnn__each_add_difference,   v[i] += (a[i] - b[i]) * k[0])
CNN__EACH(cnn__each_keep,             v[i] = cnn__select(a[i] >= k[0], v[i] * k[1], 0.0f))
CNN__EACH(cnn__each_keep_add,         v[i] += cnn__select(a[i] >= k[0], b[i] * k[1], 0.0f))
CNN__EACH(cnn__each_standardize,      v[i] = (v[i] - k[0]) * k[1] + k[2])
CNN__EACH(cnn__each_standardize_back, v[i] = ((v[i] - k[0]) - (a[i] - k[1]) * k[2]) * k[3])

/* ---- Sums ---- */

/* The sum of the terms for i < n: sixteen partial sums, which become vectors, gathered in double every 1024
   terms, so that the error is that of sums of 64 numbers however long the array is. On x86 also for AVX2,
   with the same bits. */
#define CNN__SUM_TEXT(name, ...)                                                                             \
    static double name(const float *x, const float *a, float m, ptrdiff_t n)                                 \
    {                                                                                                        \
        double sum = 0;                                                                                      \
        for (ptrdiff_t from = 0; from < n; from += 1024) {                                                   \
            const ptrdiff_t end = n - from < 1024 ? n : from + 1024;                                         \
            float           part[16] = { 0 };                                                                \
            ptrdiff_t       at = from;                                                                       \
            for (; at + 16 <= end; at += 16)                                                                 \
                for (int j = 0; j < 16; j++) { const ptrdiff_t i = at + j; part[j] += (__VA_ARGS__); }       \
            for (int j = 0; j < 16; j++) sum += (double)part[j];                                             \
            for (ptrdiff_t i = at; i < end; i++) sum += (double)(__VA_ARGS__);                               \
        }                                                                                                    \
        (void)a, (void)m;                                                                                    \
        return sum;                                                                                          \
    }
#if CNN__X86
#define CNN__SUM(name, ...)                                                                                  \
    CNN__SUM_TEXT(name##_c, __VA_ARGS__)                                                                     \
    __attribute__((target("avx2"))) CNN__SUM_TEXT(name##_avx2, __VA_ARGS__)                                  \
    static double name(const cnn__cpu *cpu, const float *x, const float *a, float m, ptrdiff_t n)            \
    {                                                                                                        \
        return cnn__loops_avx2(cpu) ? name##_avx2(x, a, m, n) : name##_c(x, a, m, n);                    \
    }
#else
#define CNN__SUM(name, ...)                                                                                  \
    CNN__SUM_TEXT(name##_c, __VA_ARGS__)                                                                     \
    static double name(const cnn__cpu *cpu, const float *x, const float *a, float m, ptrdiff_t n)            \
    {                                                                                                        \
        return (void)cpu, name##_c(x, a, m, n);                                                              \
    }
#endif
CNN__SUM(cnn__sum,             x[i])
CNN__SUM(cnn__sum_products,    x[i] * a[i])
CNN__SUM(cnn__sum_squares,     (x[i] - m) * (x[i] - m))                  /* about m */
CNN__SUM(cnn__sum_moments,     (x[i] - m) * a[i])
CNN__SUM(cnn__sum_differences, (x[i] - a[i]) * (x[i] - a[i]))

/* The padding above is PH, on the left PW; below and on the right it is what (OH,OW) asks for. */
typedef struct { int n, ic, h, w, oc, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw, groups; } cnn__conv;

/* ---- Pooling ----

   A window (KH,KW) at every SH-th row and SW-th column, on planes (H,W) padded by PH above, PW on the left,
   EH below and EW on the right: "planes" is N*C. Window (oy,ox) begins at (oy SH - PH, ox SW - PW), takes
   every DH-th row and DW-th column, and has at least one element inside the plane. */
typedef struct {
    int planes, h, w, oh, ow, kh, kw, sh, sw, ph, pw, eh, ew, dh, dw;
    bool count_pad;
} cnn__pool;

/* What the labels ask for: for class k of pixel i, q_k = v_k ((1-e) p_k + e/C), p_k = [k = label] or, where
   labels are soft, label[k]; v_k the weight of class k, or 1 without weights. Where the label is `ignore`
   every q_k is 0; none is CNN__NO_LABEL, which lies beyond all that can be one. */
#define CNN__NO_LABEL INT_MIN
#define CNN__IGNORES(args) CNN_FIELD('i', args, ignore_index, .preset = CNN__NO_LABEL)
typedef struct { const float *label, *weight; float e; int ignore; bool soft; } cnn__target;

static bool cnn__ignored(const cnn__target *target, ptrdiff_t i)
{
    return !target->soft && target->label[i] == (float)target->ignore;
}
static float cnn__label_weight(const cnn__target *target, ptrdiff_t i)
{
    return cnn__ignored(target, i) ? 0.0f : target->weight ? target->weight[(int)target->label[i]] : 1.0f;
}

/* ---- The kernels, by the chapters of the rooms ----

   cpu says how many threads may share the work and which instruction set runs. x, w, b are operands and y the
   result; dx, dw, db, dy are their gradients. Gradients are added to. scratch is workspace, aligned to 64.

   CNN__KERNEL declares a kernel twice: cnn__NAME, which rooms call, its plain loop in >>loops; and its fast
   twin cnn__fast_NAME in Part II. */
#define CNN__KERNEL(name, ...) static void cnn__##name(__VA_ARGS__), cnn__fast_##name(__VA_ARGS__)

/* Work is shared among threads in one place, see >>threads: job is done for the units 0 .. units-1, in ranges
   from <= i < to; no two threads do one range at a time with the same number `thread`. work: multiply-adds; a
   simple step of a loop, which waits for memory, counts as CNN__SIMPLE. */
#define CNN__SIMPLE 4.0
typedef void cnn__job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread);
static void  cnn__share_out(const cnn__cpu *cpu, double work, ptrdiff_t units, cnn__job *job, const void *of);

/* Of a room whose one loop goes forward, y from x, if dx is NULL, else backward, dx from y->grad. */
typedef struct { cnn_tensor *y; float *dx; } cnn__pass;
static void cnn__share_pass(cnn_tensor *y, float *dx, double steps, ptrdiff_t units, cnn__job *job)
{
    cnn__share_out(&y->graph->cpu, CNN__SIMPLE * steps, units, job, &(cnn__pass){ y, dx });
}

/* C (m,n) = op(A) op(B) + beta C, row-major: A is (m,k), or (k,m) if ta; B is (k,n), or (n,k) if tb; from row
   to row it is lda, ldb, ldc floats. beta 0 does not read C. Bytes of scratch: cnn__gemm_scratch. */
CNN__KERNEL(gemm, const cnn__cpu *cpu, float *c, int ldc, float beta, const float *a, int lda, bool ta,
                  const float *b, int ldb, bool tb, int m, int n, int k, void *scratch);
static size_t cnn__gemm_scratch(const cnn__cpu *cpu, int m, int n, int k);

/* y = conv(x, w) + b, where b may be NULL; dx += dy w, from zero if clear; dw += dy x and, unless it is NULL,
   db += sum dy: the formulas stand in the room of conv2d. Bytes of scratch for each: cnn__conv_scratch.
   packed: w as cnn__conv_pack has left it for this shape, or NULL; then the tail. cnn__conv_pack returns its
   floats, 0 where the kernel takes w as it lies, and packs if to is not NULL; cnn__conv_packed: the most for
   this batch or a smaller one. */
CNN__KERNEL(conv_forward, const cnn__cpu *cpu, const cnn__conv *conv, float *y, const float *x,
            const float *w,
                          const float *b, const float *packed, void *scratch, const cnn__tail *tail);
static size_t cnn__conv_pack(const cnn__cpu *cpu, const cnn__conv *conv, float *to, const float *w,
                             void *scratch);
static size_t cnn__conv_packed(const cnn__cpu *cpu, const cnn__conv *conv);
CNN__KERNEL(conv_backward_data, const cnn__cpu *cpu, const cnn__conv *conv, float *dx, const float *dy,
                                const float *w, bool clear, void *scratch);
CNN__KERNEL(conv_backward_weights, const cnn__cpu *cpu, const cnn__conv *conv, float *dw, float *db,
                                   const float *x, const float *dy, void *scratch);
static void cnn__conv_mend_weights(const cnn__conv *conv, float *dw, const float *x, const float *dy);
static size_t cnn__conv_scratch(const cnn__cpu *cpu, const cnn__conv *conv);
CNN__UNUSED static const char *cnn__conv_algorithm(const cnn__cpu *cpu, const cnn__conv *conv, int pass);

/* The part of window number i inside the plane, along one axis: *from, *from + d, ..., less than *to. */
static void cnn__window(int i, int size, int k, int s, int p, int d, int *from, int *to);

/* y = the largest of each window; at, if not NULL, its place in the plane. The first of equals wins, and NaN
   wins over every number, the last of several: a net that has gone wrong should show it. Back: dx[at] += dy.
   clear: dx is set to zero first. */
CNN__KERNEL(max_pool, const cnn__cpu *cpu, const cnn__pool *pool, float *y, int *at, const float *x);
static void cnn__max_pool_back(const cnn__cpu *cpu, const cnn__pool *pool, float *dx, const float *dy,
                               const int *at, bool clear);

/* y = the sum of each window (oy,ox) times share[oy] share[OH + ox], which cnn__pool_shares computes. */
static void cnn__pool_shares(const cnn__pool *pool, float *share);
CNN__KERNEL(avg_pool, const cnn__cpu *cpu, const cnn__pool *pool, float *restrict y, const float *restrict x,
                      const float *share);
CNN__KERNEL(avg_pool_back, const cnn__cpu *cpu, const cnn__pool *pool, float *restrict dx,
                           const float *restrict dy, const float *share, bool clear);

/* Per channel of (N,C,P), P = H*W: the mean, which is mean + rest, as one float may be too coarse for it
   (10^6 + 0.3), and the mean square of the distance from it, in two passes, as E[x^2] - E[x]^2 would
   cancel. */
CNN__KERNEL(channel_moments, const cnn__cpu *cpu, float *mean, float *rest, float *variance, const float *x,
                             int n, int c, ptrdiff_t plane);
/* y = (x - mean - rest) rstd w + b, then the tail; rest, w, b NULL count as 0, 1, 0; y may be x. */
CNN__KERNEL(normalize, const cnn__cpu *cpu, float *y, const float *x, const float *mean, const float *rest,
                       const float *rstd, const float *w, const float *b, int n, int c, ptrdiff_t plane,
                       const cnn__tail *tail);
/* With M = N*P and X = (x - mean - rest) rstd:  db += sum dy,  dw += sum dy X,
   dx += w rstd (dy - sum(dy)/M - X sum(dy X)/M), because mean and rstd depend on x too. Each of dx, dw, db
   may be NULL; where dx lies in the place of dy it is set. */
CNN__KERNEL(normalize_back, const cnn__cpu *cpu, float *dx, float *dw, float *db, const float *dy,
                            const float *x, const float *mean, const float *rest, const float *rstd,
                            const float *w, int n, int c, ptrdiff_t plane);

/* y[i] = f(x[i], a[i], b[i]; k) for i < n; y may be x; a and b may be NULL; f NULL: y = x. Back: dx[i] +=
   f(dy[i], a[i]; k), or, where dx lies in the place of dy, dx[i] = that. */
CNN__KERNEL(map, const cnn__cpu *cpu, cnn_each *f, float *y, const float *x, const float *a, const float *b,
                 const float *k, ptrdiff_t n);
CNN__KERNEL(map_back, const cnn__cpu *cpu, cnn_each *f, float *dx, const float *dy, const float *a,
                      const float *k, ptrdiff_t n);

/* Over the C classes of each of P pixels, x (N,C,P). */
static double cnn__exp_sum(float *most, float *e, const float *x, int c, ptrdiff_t plane);
static void   cnn__softmax(const cnn__cpu *cpu, float *y, const float *x, int n, int c, ptrdiff_t plane);
static void   cnn__softmax_back(const cnn__cpu *cpu, float *dx, const float *dy, const float *y, int n, int c,
                                ptrdiff_t plane);
static void   cnn__cross_entropy(const cnn__cpu *cpu, double *each, float *saved, const float *x,
                                 const cnn__target *target, int n, int c, ptrdiff_t plane);
static void   cnn__cross_entropy_back(const cnn__cpu *cpu, float *dx, const float *g, ptrdiff_t step,
                                      const float *saved, const float *x, const cnn__target *target, int n,
                                      int c,
                                      ptrdiff_t plane);

/* to (+)= from / (1-p) where element i is kept, as number i of the stream decides; to may be from. */
CNN__KERNEL(dropout, const cnn__cpu *cpu, float *to, const float *from, bool add, float p, uint64_t key,
                     uint64_t stream, ptrdiff_t n);

/* y = f(a; b), then the tail; with dy: y = f(dy; a, b). In a and b an extent of 1 stretches; y and dy have
   the full range. y may be a if a has its shape. */
CNN__KERNEL(broadcast, const cnn__cpu *cpu, cnn_each *f, float *y, const float *dy, const float *a,
                       const float *b, cnn_shape ys, cnn_shape as, cnn_shape bs, const cnn__tail *tail);
/* y = x_1 f x_2 f ... over the axes on which y has extent 1: for an f whose order does not matter. */
CNN__KERNEL(fold, const cnn__cpu *cpu, cnn_each *f, float *y, const float *x, cnn_shape ys, cnn_shape xs);
/* y += p a b, summed over the axes on which y has extent 1; b NULL counts as 1. */
CNN__KERNEL(add_product, const cnn__cpu *cpu, float *y, const float *a, const float *b, cnn_shape ys,
                         cnn_shape as, cnn_shape bs, float p);

/* ===========================================================================================================
   >>hour ---- 4. The first hour: record, order, forward, backward, three rooms, stochastic gradient descent

   One piece, to be read from top to bottom: how a net is recorded, put in order, run forward and backward,
   and improved. What follows is more rooms and rules of the same kind, comfort, and speed.
   ======================================================================================================== */

/* ---- Record: y = op(in...), its shape, and the parameters that it owns ---- */

/* How many operands it owns: at most, or at least. */
static int cnn__count_owned(const cnn_op *op, bool most)
{
    int n = 0;
    for (const cnn_owned *own = op->owned; own && own->suffix; own++) n += most || !own->unless;
    return n;
}

/* The operand in the place of a row of op->owned; NULL if it was left out. */
static cnn_tensor *cnn__owned(const cnn_tensor *y, const cnn_owned *row)
{
    const bool all = y->n_in - 1 == cnn__count_owned(y->op, true);
    int        i = 1;
    for (const cnn_owned *own = y->op->owned; own != row; own++) i += all || !own->unless;
    return i < y->n_in && (all || !row->unless) ? y->in[i] : NULL;
}

CNN_API cnn_tensor *cnn_operand(const cnn_tensor *y, const char *suffix)
{
    for (const cnn_owned *own = y && y->op && suffix ? y->op->owned : NULL; own && own->suffix; own++)
        if (strcmp(own->suffix, suffix) == 0) return cnn__owned(y, own);
    return NULL;
}

/* Make the parameter or buffer of this row, unless it is given or left out. said: the text of y's options. */
static bool cnn__make_owned(cnn_tensor *y, const cnn_owned *own, const char *said)
{
    const char *args = y->args;
    cnn_tensor *t = NULL;
    int         left_out = 0;
    cnn_init    init = own->fan ? CNN_INIT_DEFAULT : CNN_INIT_CONSTANT;
    float       gain = own->fan ? 0.0f : own->start;
    if (own->given)  memcpy(&t, args + own->given, sizeof t);
    if (own->unless) memcpy(&left_out, args + own->unless, sizeof left_out);
    if (own->init)   memcpy(&init, args + own->init, sizeof init);
    if (own->gain)   memcpy(&gain, args + own->gain, sizeof gain);
    if (!t && left_out) return true;
    if (y->n_in == CNN_MAX_INPUTS) return cnn_fail(y, "more than %d operands", (int)CNN_MAX_INPUTS);
    if (!t) {
        const cnn_shape s = own->shape(y);
        if (cnn__checked_len(s) == SIZE_MAX)
            return cnn_fail(y, "%s (%d,%d,%d,%d) would have more than 2^31 - 1 elements", own->suffix, s.n,
                            s.c, s.h, s.w);
        t = cnn__leaf(y->graph, own->kind, y->at, NULL, s);
        if (cnn__is_nil(t) || !cnn__set_init(t, init, gain, said)) return false;
        double in = 0, out = 0;
        if (own->fan) own->fan(y, &in, &out);
        cnn__node *v = cnn__of(t);
        v->fan_in = in < INT_MAX ? (int)in : INT_MAX, v->fan_out = out < INT_MAX ? (int)out : INT_MAX;
        v->suffix = own->suffix, v->owner = cnn__of(y);
    }
    if (t->graph != y->graph)
        return cnn_fail(y, "%s is not a tensor of this graph", own->suffix);
    y->in[y->n_in++] = t;
    return true;
}

static bool cnn__equal(cnn_shape a, cnn_shape b)
{
    return a.n == b.n && a.c == b.c && a.h == b.h && a.w == b.w;
}

/* The owned operands must have their shapes, and no batch. */
static bool cnn__check_owned(cnn_tensor *y)
{
    const int most = cnn__count_owned(y->op, true), least = cnn__count_owned(y->op, false), n = y->n_in - 1;
    if (n != most && n != least)
        return least == most ? cnn_fail(y, "%d operands: it takes %d", y->n_in, most + 1)
             : cnn_fail(y, "%d operands: it takes %d or %d", y->n_in, least + 1, most + 1);
    for (const cnn_owned *own = y->op->owned; own->suffix; own++) {
        const cnn_tensor *t = cnn__owned(y, own);
        const cnn_shape   must = own->shape(y);
        if (t && (t->batched || !cnn__equal(t->shape, must)))
            return cnn_fail(y, "%s %s does not fit input %s: it must be (%d,%d,%d,%d)", own->suffix,
                            cnn__shape_text(t).s, cnn__shape_text(y->in[0]).s, must.n, must.c, must.h,
                            must.w);
        if (t && own->kind == CNN_BUFFER && t->kind != CNN_BUFFER)
            return cnn_fail(y, "%s must be a buffer", own->suffix);
        for (const cnn_owned *other = y->op->owned; other != own && t && own->kind == CNN_BUFFER; other++)
            if (cnn__owned(y, other) == t)
                return cnn_fail(y, "%s and %s are one buffer", other->suffix, own->suffix);
    }
    return true;
}

/* The shape of y by the rule of its room, and what holds for all operations. */
static bool cnn__set_shape(cnn_tensor *y)
{
    for (int i = 0; i < y->n_in; i++) y->batched = y->batched || y->in[i]->batched;
    if (!y->op->shape(y)) return cnn_fail(y, "its shape rule failed");
    cnn__of(y)->max_n = y->shape.n;
    if (cnn__checked_len(y->shape) == SIZE_MAX)
        return cnn_fail(y, "result %s is empty or larger than 2^31 - 1 elements (N = %d)",
                        cnn__shape_text(y).s, y->shape.n);
    if (y->batched && y->shape.n != y->graph->config.max_batch)
        return cnn_fail(y, "the shape rule gave %d samples, the batch is %d", y->shape.n,
                        y->graph->config.max_batch);
    return true;
}

/* Record y = op(in...), with options and shape; build: and what it owns. */
static cnn_tensor *cnn__record(const cnn_op *op, cnn_tensor *const *in, int n_in, const void *args,
                               const char *at, const char *name, bool build)
{
    cnn_graph  *g = NULL;
    const char *said = NULL;
    for (int i = 0; in && i < n_in && i < CNN_MAX_INPUTS && !g; i++)
        if (!cnn__is_nil(in[i])) g = in[i]->graph;
    cnn__node *v = cnn__new_node(g, CNN_NODE, at, name);
    if (!v) return cnn__nil_tensor();
    cnn_tensor *y = &v->t;
    y->op = op;
    if (!op) return cnn_fail(y, "the operation is NULL"), cnn__nil_tensor();
    if (n_in < 1 || n_in > CNN_MAX_INPUTS)
        return cnn_fail(y, "%d operands: there must be 1 to %d", n_in, CNN_MAX_INPUTS), cnn__nil_tensor();
    for (int i = 0; i < n_in; i++) {
        if (cnn__is_nil(in[i])) return cnn_fail(y, "operand %d is not a tensor", i + 1), cnn__nil_tensor();
        if (in[i]->graph != g)
            return cnn_fail(y, "operand %d belongs to another graph", i + 1), cnn__nil_tensor();
        y->in[i] = in[i];
    }
    y->n_in = n_in;
    if (op->args_size) {
        void *copy = cnn__alloc(g, op->args_size);
        if (!copy) return cnn__nil_tensor();
        y->args = args ? memcpy(copy, args, op->args_size) : copy;
        char why[CNN_ERROR_SIZE];
        if (op->fields) said = ((const char *const *)copy)[1];
        if (!cnn__resolve(op->fields, copy, why)) return cnn_fail(y, "%s", why), cnn__nil_tensor();
    }
    if (!cnn__set_shape(y)) return cnn__nil_tensor();
    for (const cnn_owned *own = op->owned; build && own && own->suffix; own++)
        if (!cnn__make_owned(y, own, said)) return cnn__nil_tensor();
    return !op->owned || cnn__check_owned(y) ? y : cnn__nil_tensor();
}

CNN_API cnn_tensor *cnn_apply(const cnn_op *op, cnn_tensor *const *in, int n_in, const void *args,
                              const char *at)
{
    return cnn__record(op, in, n_in, args, at, NULL, false);
}

CNN_API cnn_tensor *cnn_layer(const cnn_op *op, cnn_tensor *const *in, int n_in, const void *args,
                              const char *at, const char *name)
{
    return cnn__record(op, in, n_in, args, at, name, true);
}

/* ---- Order: the post-order walk from the loss, then from the tensors that are kept ----

   Post-order puts operands before their users, and depends on the formula alone: not on the order in which C
   happened to evaluate the arguments. The walk keeps its stack in the nodes, since a net may be deep. */

static void cnn__walk(cnn_graph *g, cnn__node *root)
{
    if (root->mark == g->walk) return;
    root->mark = g->walk, root->next_in = 0, root->up = NULL;
    for (cnn__node *v = root; v; ) {
        if (v->next_in < v->t.n_in) {
            cnn__node *x = cnn__of(v->t.in[v->next_in++]);
            if (x->mark == g->walk) continue;
            x->mark = g->walk, x->next_in = 0, x->up = v;
            v = x;
        } else {
            v->t.index = g->n_order;
            g->order[g->n_order++] = v;
            v = v->up;
        }
    }
}

/* Which nodes need gradients: parameters, and what is computed from them on the way to the loss. */
static bool cnn__mark_gradients(cnn_graph *g, int n_loss)
{
    for (int i = 0; i < g->n_order; i++) {
        cnn_tensor *t = &g->order[i]->t;
        t->needs_grad = false;
        if (i >= n_loss || g->config.inference) continue;
        t->needs_grad = t->kind == CNN_PARAM ? !t->frozen : t->kind == CNN_INPUT && g->order[i]->wants_grad;
        for (int k = 0; k < t->n_in; k++) t->needs_grad = t->needs_grad || t->in[k]->needs_grad;
        if (t->needs_grad && t->op && !t->op->backward)
            return cnn_fail(t, "the loss depends on parameters through it, and it has no backward");
    }
    return true;
}

/* ---- Forward: every node once, operands before their users ---- */

/* Compute t from the leaves below it. */
CNN_API float cnn_forward(cnn_tensor *t, cnn_mode mode)
{
    if (!cnn__begin_forward(t, mode)) return cnn__no_result();
    cnn_graph *g = t->graph;

    /* The order puts operands before their users: when a node's turn comes, all that it reads is there. */
    for (int i = 0; i <= t->index; i++) {
        cnn__node *v = g->order[i];
        const bool needed = v->mark == g->walk && v->t.op;           /* t depends on it, and it is no leaf */
        if (needed && !cnn__forward_node(v, mode)) return cnn__no_result();
    }

    /* Only from here can backward start: it needs what the loss just left behind. */
    g->can_backward = mode == CNN_TRAIN && t == g->loss;
    if (cnn__len(t->shape) != 1) return 0;
    return cnn__sync(t, CNN__DATA, CNN__HOST) ? t->data[0] : cnn__no_result();
}

/* Compute one node, y = op(x_1, x_2, ...), by its room. */
static bool cnn__forward_node(cnn__node *v, cnn_mode mode)
{
    cnn_tensor *y = &v->t;
    cnn_graph  *g = y->graph;
    if (v->stamp == g->run) return true;                /* fused: computed together with its operand */

    cnn__seen(y, CNN__BEFORE_FORWARD);
    const cnn__tail tail = cnn__join(v, mode);          /* what is computed in the same pass: see >>fusion */
    v->tail = tail.steps || tail.norm ? &tail : NULL;
    if (g->config.backend)                     cnn__device_forward(v, mode);            /* see >>devices */
    else if (v->kernel && v->kernel->forward)  cnn__by_row(v->kernel->forward(NULL, y, mode), y);
    else                                       y->op->forward(y, mode);
    v->stamp = g->run, v->tail = NULL;
    if (!g->error[0]) cnn__seen(y, CNN__AFTER_FORWARD);
    return !g->error[0];
}

/* After a row of the user's. */
static void cnn__by_row(bool done, cnn_tensor *y)
{
    if (!done) cnn_fail(y, "the row that replaces it failed");
}

/* Before a run: is t ready to be computed? Mark what it depends on, and show every tensor its memory. */
static bool cnn__begin_forward(cnn_tensor *t, cnn_mode mode)
{
    if (!cnn__usable(t, "forward")) return false;
    cnn_graph *g = t->graph;
    if (mode == CNN_TRAIN && g->config.inference)
        return cnn_fail(t, "forward: the graph is for inference: it runs CNN_EVAL only");
    g->run++, g->walk++;
    g->ran_batch = g->batch, g->mode = mode, g->reached = t->index;
    g->can_backward = false;
    if (mode == CNN_TRAIN) g->draw++, g->written++;     /* dropout draws other numbers each time, and batch
                                                           norm writes its running statistics */

    /* From t down, users before their operands. */
    cnn__of(t)->mark = g->walk;
    for (int i = t->index; i >= 0; i--) {
        cnn__node *v = g->order[i];
        cnn__bind(v, mode);
        if (v->mark != g->walk) continue;
        for (int k = 0; k < v->t.n_in; k++) cnn__of(v->t.in[k])->mark = g->walk;
        if (!v->t.batched || v->t.op) continue;
        if (!v->fed)
            return cnn_fail(&v->t, "it has no values yet: call cnn_set or cnn_feed before cnn_forward");
        if (v->fed != g->batch)
            return cnn_fail(&v->t, "it holds %d samples, but the batch is %d", v->fed, g->batch);
    }
    return true;
}

static float cnn__no_result(void) { return (float)NAN; }

/* May t be written or computed? Not after an error, until it is cleared. what: the call that asks. */
static bool cnn__usable(cnn_tensor *t, const char *what)
{
    return !cnn__is_nil(t) && !t->graph->error[0] && cnn__placed(t, what);
}

/* Does t have memory? That is enough to read it: an error after cnn_compile does not lock values up. */
static bool cnn__placed(cnn_tensor *t, const char *what)
{
    if (cnn__is_nil(t)) return false;
    if (!t->graph->compiled) return cnn_fail(t, "%s: call cnn_compile first", what);
    return t->index >= 0 || cnn_fail(t, "%s: neither the loss nor a kept tensor depends on it: cnn_keep it "
                                        "before cnn_compile", what);
}

static void cnn__seen(cnn_tensor *y, cnn__moment moment)
{
    cnn__probe *probe = y->graph->probe;
    if (probe) probe->see(probe, y, moment);
}

/* ---- Backward: the same nodes in reverse order ----

   y = f(x), and the loss J depends on y: if y->grad holds dJ/dy, the chain rule says dJ/dx = (df/dx)' dJ/dy,
   which the room of f adds to x->grad. It adds, since x may have other users, each with its part of dJ/dx. In
   reverse order all users of a node come before it, so its gradient is complete when its turn comes. The
   first gradient, dJ/dJ = 1, was written by cnn_compile. */

CNN_API void cnn_backward(cnn_tensor *loss)
{
    if (cnn__is_nil(loss) || loss->graph->error[0]) return;
    cnn_graph *g = loss->graph;
    if (g->can_backward) {                              /* from zero: dw += ... below then sets dJ/dw */
        if (g->config.backend)      cnn__device_clear_grads(g);
        else if (g->memory.grads)   memset(g->arena[CNN_ARENA_GRADS], 0, g->memory.grads);
    }
    g->from_zero = g->can_backward;
    cnn_backward_add(loss);
    g->from_zero = false;
}

CNN_API void cnn_backward_add(cnn_tensor *loss)
{
    if (cnn__is_nil(loss) || loss->graph->error[0]) return;
    cnn_graph *g = loss->graph;
    if (loss != g->loss || !g->can_backward) {
        cnn_fail(loss, "backward: it must be the compiled loss, just computed by cnn_forward(loss, "
                       "CNN_TRAIN), and no tensor written since");
        return;
    }
    g->can_backward = false;                            /* it uses up what forward left behind */
    g->reached = 2 * g->n_order;

    for (int i = loss->index; i >= 0; i--) {
        cnn__node *v = g->order[i];
        if (v->t.op && v->t.needs_grad && !cnn__backward_node(v)) return;
    }
    g->has_grads = true;
}

/* From dJ/dy to dJ/dx for each operand x of one node. */
static bool cnn__backward_node(cnn__node *v)
{
    cnn_tensor *y = &v->t;
    cnn_graph  *g = y->graph;
    if (g->config.backend) return cnn__device_backward(v);                              /* see >>devices */
    if (v->gate && !g->probe) return true;              /* fused: done by its user, see >>fusion */

    for (int k = 0; k < y->n_in; k++) cnn__start_grad(v, cnn__of(y->in[k]));
    cnn__seen(y, CNN__BEFORE_BACKWARD);

    cnn__gate(v);
    if (v->kernel && v->kernel->backward) cnn__by_row(v->kernel->backward(NULL, y), y);
    else                                  y->op->backward(y);       /* x->grad += (df/dx)' y->grad */

    if (!g->error[0]) cnn__seen(y, CNN__AFTER_BACKWARD);
    return !g->error[0];
}

/* The gradient of x starts at zero when the first of its users adds to it; not before, as until then other
   arrays may use its memory. Nothing is to be done for parameters (cnn_backward zeroes them all at once),
   where x->grad takes the place of v's own gradient (the room then sets it), and for rooms that clear it. */
static void cnn__zero_job(const void *x, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    memset(((const cnn_tensor *)x)->grad + from, 0, (size_t)(to - from) * sizeof(float));
}
static void cnn__start_grad(const cnn__node *v, const cnn__node *x)
{
    const bool first = x->t.needs_grad && x->t.kind != CNN_PARAM && x->grad_first == v->t.index;
    const bool clears = (v->t.op->flags & CNN_CLEARS_GRAD) && &x->t == v->t.in[0] &&
                        !(v->kernel && v->kernel->backward);
    const int n = cnn__len(x->t.shape);
    if (first && x->grad_alias != v && !clears)
        cnn__share_out(&x->t.graph->cpu, CNN__SIMPLE * n, n, cnn__zero_job, &x->t);
}

/* ---- Three rooms: dense, tanh, mse ----

   Above each stand its formula, its derivative, a source, and the choice made where the derivative does not
   exist. dx is dJ/dx, the gradient of the loss J with respect to x; gradients are added to, never set,
   because a tensor may have several users; grad is NULL where none is wanted. The rules take a tensor apart
   and call a kernel. */

#ifdef CNN_STATIC
#define CNN__ROOM static const cnn_op
#else
#define CNN__ROOM const cnn_op
#endif

static cnn_shape cnn__vector(int c) { return (cnn_shape){ 1, c, 1, 1 }; }
static bool cnn__same(const cnn_tensor *a, const cnn_tensor *b)
{
    return cnn__equal(a->shape, b->shape) && a->batched == b->batched;
}

static const float *cnn__data(const cnn_tensor *t) { return t ? t->data : NULL; }
static float       *cnn__grad(const cnn_tensor *t) { return t ? t->grad : NULL; }

static bool cnn__operands(cnn_tensor *y, int least, int most)
{
    if (y->n_in >= least && y->n_in <= most) return true;
    return least == most ? cnn_fail(y, "%d operands: it takes %d", y->n_in, least)
                         : cnn_fail(y, "%d operands: it takes %d to %d", y->n_in, least, most);
}

/* The shape rule of what keeps the shape of its one operand. */
static bool cnn__as_input(cnn_tensor *y)
{
    if (!y->op->owned && !cnn__operands(y, 1, 1)) return false;
    y->shape = y->in[0]->shape;
    return true;
}

/* The shape of a bias, and of the weights of most norms. */
static cnn_shape cnn__per_channel(const cnn_tensor *y) { return cnn__vector(y->shape.c); }

/* Layers and norms own these, which their options may leave out. */
#define CNN__WEIGHT_AND_BIAS(args, shape_rule, fan_rule, ...)                                                \
    { .suffix = "weight", .kind = CNN_PARAM, .shape = shape_rule, .fan = fan_rule, .axes = __VA_ARGS__,      \
      .given = offsetof(args, weight), .init = offsetof(args, init), .gain = offsetof(args, gain) },         \
    { .suffix = "bias", .kind = CNN_PARAM, .shape = cnn__per_channel, .given = offsetof(args, bias),         \
      .unless = offsetof(args, no_bias) }
#define CNN__AFFINE_PART(part, first, args, shape_rule, axes_option)                                         \
    { .suffix = part, .kind = CNN_PARAM, .shape = shape_rule, .start = first, .axes_at = axes_option,        \
      .unless = offsetof(args, no_affine) }
#define CNN__AFFINE(args, shape_rule, axes_option)                                                           \
    CNN__AFFINE_PART("weight", 1, args, shape_rule, axes_option),                                            \
    CNN__AFFINE_PART("bias",   0, args, shape_rule, axes_option)

/* ---- Builders: one line each, below their rooms ---- */

#define CNN__UNARY(call, op_name, args_type)                                                                 \
    CNN_API cnn_tensor *call(args_type a) { return cnn_layer(&cnn_op_##op_name, &a.x, 1, &a, a.at, a.name); }

#define CNN__PLAIN_1(call, op_name)                                                                          \
    CNN_API cnn_tensor *call(const char *at, cnn_tensor *x)                                                  \
    {                                                                                                        \
        return cnn_layer(&cnn_op_##op_name, &x, 1, NULL, at, NULL);                                          \
    }

#define CNN__PLAIN_2(call, op_name)                                                                          \
    CNN_API cnn_tensor *call(const char *at, cnn_tensor *a, cnn_tensor *b)                                   \
    {                                                                                                        \
        cnn_tensor *in[2] = { a, b };                                                                        \
        return cnn_layer(&cnn_op_##op_name, in, 2, NULL, at, NULL);                                          \
    }

/* ---- Element by element: operations that are a formula (op->formula) ----

   The legend of v, a, k is that of cnn_formula. Derivatives are written in y where that will do, so that x
   need not be kept and forward may run in place; else in x (CNN_READS_X). */

/* The formula of y and its constants. */
static const cnn_formula *cnn__formula(const cnn_tensor *y, float k[2])
{
    const cnn_formula *f = y->op->formula;
    const char        *args = y->args;
    int                variant = 0;
    k[0] = k[1] = 0;
    for (int i = 0; i < 2; i++)
        if (f->k[i]) memcpy(&k[i], args + f->k[i], sizeof k[i]);
    if (f->variant) memcpy(&variant, args + f->variant, sizeof variant);
    return variant ? f + 1 : f;
}
static void cnn__elementwise_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    const cnn__cpu *cpu = &y->graph->cpu;
    float           k[2];
    cnn_each       *f = cnn__loop(cpu, cnn__formula(y, k)->forward);
    cnn__map(cpu, f, y->data, y->in[0]->data, NULL, NULL, k, cnn__len(y->shape));
}
static void cnn__elementwise_backward(cnn_tensor *y)
{
    const cnn__cpu *cpu = &y->graph->cpu;
    const float    *a = y->op->flags & CNN_READS_X ? y->in[0]->data : y->data;
    float           k[2];
    cnn_each       *f = cnn__loop(cpu, cnn__formula(y, k)->backward);
    if (y->in[0]->grad) cnn__map_back(cpu, f, y->in[0]->grad, y->grad, a, k, cnn__len(y->shape));
}

/* The row of an operation with the loops cnn__each_NAME and cnn__each_NAME_back, without options, and with;
   k0, k1: see cnn_formula. Each with its builder. */
#define CNN__ELEMENTWISE(op_name, op_flags, k0, k1, ...)                                                     \
    static const cnn_formula cnn__##op_name##_formula = {                                                    \
        CNN__LOOPS(cnn__each_##op_name), CNN__LOOPS(cnn__each_##op_name##_back), { k0, k1 }, 0 };            \
    CNN__ROOM cnn_op_##op_name = {                                                                           \
        .name = #op_name, .forward = cnn__elementwise_forward, .backward = cnn__elementwise_backward,        \
        .flags = CNN_INPLACE | CNN_INPLACE_GRAD | (op_flags), .formula = &cnn__##op_name##_formula,          \
        __VA_ARGS__ };
#define CNN__FORMULA(op_name, op_flags, doctor)                                                             \
    CNN__ELEMENTWISE(op_name, op_flags, 0, 0, .shape = cnn__as_input, .hint = doctor)                        \
    CNN__PLAIN_1(cnn_##op_name##_, op_name)
#define CNN__FORMULA_OF(op_name, op_flags, shape_rule, k0, k1)                                              \
    CNN__ELEMENTWISE(op_name, op_flags, k0, k1, .shape = shape_rule,                                         \
                     .args_size = sizeof(cnn_##op_name##_args), .fields = cnn__##op_name##_fields)           \
    CNN__UNARY(cnn_##op_name##_, op_name, cnn_##op_name##_args)

/* ---- dense ------------------------------------------------------------------------------------------------
 *   Y = X W' + 1 b'                  every output sees every input; X is (N,C,H,W) read as (N,K), K = C H W
 *   dX = dY W,   dW = dY' X,   db = sum over the samples of dY
 *   X (N,K), W (units,K,1,1), b (1,units,1,1), Y (N,units,1,1).                        (Rosenblatt 1958)
 * -------------------------------------------------------------------------------------------------------- */
static bool cnn__dense_shape(cnn_tensor *y)
{
    y->shape = (cnn_shape){ y->in[0]->shape.n, ((const cnn_dense_args *)y->args)->units, 1, 1 };
    return true;
}
static cnn_shape cnn__dense_weight(const cnn_tensor *y)
{
    return (cnn_shape){ y->shape.c, cnn__sample(y->in[0]->shape), 1, 1 };
}
static void cnn__dense_fan(const cnn_tensor *y, double *in, double *out)
{
    *in = cnn__sample(y->in[0]->shape), *out = y->shape.c;
}
static void cnn__dense_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    const int n = y->shape.n, units = y->shape.c, k = cnn__sample(y->in[0]->shape);
    const float *b = cnn__data(cnn_operand(y, "bias"));
    for (ptrdiff_t i = 0; b && i < n; i++) memcpy(y->data + i * units, b, (size_t)units * sizeof *b);
    cnn__gemm(&y->graph->cpu, y->data, units, b ? 1.0f : 0.0f, y->in[0]->data, k, false,
              y->in[1]->data, k, true, n, units, k, cnn_scratch(y));
}
static void cnn__dense_backward(cnn_tensor *y)
{
    const int       n = y->shape.n, units = y->shape.c, k = cnn__sample(y->in[0]->shape);
    const cnn__cpu *cpu = &y->graph->cpu;
    cnn_tensor     *x = y->in[0], *w = y->in[1], *b = cnn_operand(y, "bias");
    if (x->grad)
        cnn__gemm(cpu, x->grad, k, cnn_grad_is_new(y) ? 0.0f : 1.0f, y->grad, units, false, w->data, k, false,
                  n, k, units, cnn_scratch(y));
    if (w->grad)
        cnn__gemm(cpu, w->grad, k, 1, y->grad, units, true, x->data, k, false, units, k, n, cnn_scratch(y));
    if (b && b->grad) cnn__add_product(cpu, b->grad, y->grad, NULL, b->shape, y->shape, y->shape, 1);
}
/* forward, and one for each operand */
static size_t cnn__three_products(const cnn_tensor *y, int m, int n, int k)
{
    const cnn__cpu *cpu = &y->graph->cpu;
    size_t a = cnn__gemm_scratch(cpu, m, n, k), b = cnn__gemm_scratch(cpu, m, k, n),
           c = cnn__gemm_scratch(cpu, n, k, m);
    size_t d = cnn__gemm_scratch(cpu, k, n, m);
    a = a > b ? a : b, c = c > d ? c : d;
    return a > c ? a : c;
}
static size_t cnn__dense_scratch(const cnn_tensor *y)
{
    return cnn__three_products(y, y->shape.n, y->shape.c, cnn__sample(y->in[0]->shape));
}
static double cnn__dense_macs(const cnn_tensor *y)
{
    return (double)cnn__len(y->shape) * cnn__sample(y->in[0]->shape);
}
static const cnn_field cnn__dense_fields[] = {
    CNN_FIELD('i', cnn_dense_args, units, .range = "[1,2147483647]", .what = "the number of outputs"),
    { 0 } };
static const cnn_owned cnn__dense_owned[] = {
    CNN__WEIGHT_AND_BIAS(cnn_dense_args, cnn__dense_weight, cnn__dense_fan, CNN_N | CNN_C), { 0 } };
CNN__ROOM cnn_op_dense = {
    .name = "dense", .shape = cnn__dense_shape, .forward = cnn__dense_forward,
    .backward = cnn__dense_backward, .scratch = cnn__dense_scratch, .macs = cnn__dense_macs,
    .flags = CNN_READS_X | CNN_CLEARS_GRAD, .args_size = sizeof(cnn_dense_args), .fields = cnn__dense_fields,
    .owned = cnn__dense_owned };

CNN__UNARY(cnn_dense_, dense, cnn_dense_args)

/* ---- tanh -------------------------------------------------------------------------------------------------
 *   y = tanh x,   dx = dy (1 - y^2)
 * -------------------------------------------------------------------------------------------------------- */
CNN__LOOP(cnn__each_tanh,      v[i] = cnn__tanh(v[i]))
CNN__LOOP(cnn__each_tanh_back, v[i] *= 1 - a[i] * a[i])
CNN__FORMULA(tanh, CNN_READS_Y, NULL)

/* ---- mse --------------------------------------------------------------------------------------------------
 *   J = 1/K sum (x - t)^2 over all K elements,   dx = dJ 2/K (x - t),   dt = -dx
 * -------------------------------------------------------------------------------------------------------- */
/* A loss has terms f_i, and its option .reduction says what becomes of them. J = sum of f_i / count with
   CNN_MEAN, where count is their number or weight; J = sum of f_i with CNN_SUM; J_i = f_i with CNN_NONE. */
typedef double cnn__term(const cnn_tensor *y, ptrdiff_t i);

static int  cnn__reduction(const cnn_tensor *y) { return (int)cnn__option_named(y, "reduction"); }
static bool cnn__reduced_shape(cnn_tensor *y, cnn_shape terms)
{
    const bool each = cnn__reduction(y) == CNN_NONE;
    y->shape = each ? terms : cnn__vector(1);
    y->batched = y->batched && each;
    return true;
}
static void cnn__reduce_terms(cnn_tensor *y, cnn__term *f, ptrdiff_t n, double count)
{
    const int how = cnn__reduction(y);
    double    sum = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const double term = f(y, i);
        sum += term;
        if (how == CNN_NONE) y->data[i] = (float)term;
    }
    if (how == CNN_MEAN) y->data[0] = (float)(count > 0 ? sum / count : 0);
    if (how == CNN_SUM)  y->data[0] = (float)sum;
}
/* The gradients of the terms: number i is at [i * step]; where all have the same, that is *one. */
static const float *cnn__term_grads(const cnn_tensor *y, double count, float *one, ptrdiff_t *step)
{
    const int how = cnn__reduction(y);
    *step = how == CNN_NONE;
    *one = how == CNN_SUM ? y->grad[0] : count > 0 ? (float)((double)y->grad[0] / count) : 0.0f;
    return how == CNN_NONE ? y->grad : one;
}

static bool cnn__target_shape(cnn_tensor *y)         /* of every loss that has a term for each element */
{
    if (!cnn__same(y->in[0], y->in[1]))
        return cnn_fail(y, "target %s must have the shape of the output, %s", cnn__shape_text(y->in[1]).s,
                        cnn__shape_text(y->in[0]).s);
    return cnn__reduced_shape(y, y->in[0]->shape);
}
static bool cnn__mse_shape(cnn_tensor *y) { return cnn__operands(y, 2, 2) && cnn__target_shape(y); }
static double cnn__mse_term(const cnn_tensor *y, ptrdiff_t i)
{
    const double d = (double)y->in[0]->data[i] - (double)y->in[1]->data[i];
    return d * d;
}
static void cnn__mse_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    const int       n = cnn__len(y->in[0]->shape), how = cnn__reduction(y);
    const float    *x = y->in[0]->data, *t = y->in[1]->data;
    if (how == CNN_NONE) cnn__reduce_terms(y, cnn__mse_term, n, n);
    else y->data[0] = (float)(cnn__sum_differences(&y->graph->cpu, x, t, 0, n) / (how == CNN_MEAN ? n : 1));
}
static void cnn__mse_backward(cnn_tensor *y)
{
    const cnn__cpu *cpu = &y->graph->cpu;
    const int       n = cnn__len(y->in[0]->shape);
    cnn_tensor     *x = y->in[0], *t = y->in[1];
    float           one;
    ptrdiff_t       step;
    const float    *g = cnn__term_grads(y, n, &one, &step), k = 2 * one;
    for (int i = 0; step && i < n; i++) {
        const float f = 2 * g[i] * (x->data[i] - t->data[i]);
        if (x->grad) x->grad[i] += f;
        if (t->grad) t->grad[i] -= f;
    }
    if (step) return;
    if (x->grad) cnn__map(cpu, cnn__each_add_difference(cpu), x->grad, x->grad, x->data, t->data, &k, n);
    if (t->grad) cnn__map(cpu, cnn__each_add_difference(cpu), t->grad, t->grad, t->data, x->data, &k, n);
}
#define CNN__REDUCTION(args)                                                                                 \
    CNN_FIELD('i', args, reduction, .range = "[0,2]", .what = "CNN_MEAN, CNN_SUM or CNN_NONE")
static const cnn_field cnn__distance_fields[] = { CNN__REDUCTION(cnn_distance_args), { 0 } };
CNN__ROOM cnn_op_mse = {
    .name = "mse", .shape = cnn__mse_shape, .forward = cnn__mse_forward, .backward = cnn__mse_backward,
    .flags = CNN_READS_X | CNN_LOSS, .args_size = sizeof(cnn_distance_args), .fields = cnn__distance_fields };

#define CNN__PAIR(op_name, args_type, first, second)                                                         \
    CNN_API cnn_tensor *cnn_##op_name##_(args_type a)                                                        \
    {                                                                                                        \
        cnn_tensor *in[2] = { a.first, a.second };                                                           \
        return cnn_layer(&cnn_op_##op_name, in, 2, &a, a.at, a.name);                                        \
    }
CNN__PAIR(mse, cnn_distance_args, y, target)

/* ---- Stochastic gradient descent, and one update ---- */

/* The rules below update a run of 16 elements: a constant length becomes vector code at -O2. `slot` are the
   optimizer's vectors, zero before the first update; `r` are the numbers that all elements share. */
enum { CNN__RUN_OF = 16 };
typedef struct { float lr, decay, keep, momentum, share, cd, cb, beta1, beta2, scale, alpha, eps;
               } cnn__rates;
typedef void cnn__rule(float *restrict w, const float *restrict dw, float *const *slot, cnn__rates r);

/* n elements, run by run; a shorter rest in copies of full length. */
static void cnn__in_runs(cnn__rule *rule, float *w, const float *dw, float *const *slot, size_t n,
                         cnn__rates r)
{
    float        rest[2 + CNN_MAX_SLOTS][CNN__RUN_OF] = { { 0 } };
    float       *v[CNN_MAX_SLOTS] = { NULL }, *copy[CNN_MAX_SLOTS] = { NULL };
    const size_t left = n % CNN__RUN_OF * sizeof(float);
    int          slots = 0;
    for (; slots < CNN_MAX_SLOTS && slot[slots]; slots++) v[slots] = slot[slots];
    for (; n >= CNN__RUN_OF; n -= CNN__RUN_OF, w += CNN__RUN_OF, dw += CNN__RUN_OF) {
        rule(w, dw, v, r);
        for (int s = 0; s < slots; s++) v[s] += CNN__RUN_OF;
    }
    if (n == 0) return;
    memcpy(rest[0], w, left), memcpy(rest[1], dw, left);
    for (int s = 0; s < slots; s++) copy[s] = memcpy(rest[2 + s], v[s], left);
    rule(rest[0], rest[1], copy, r);
    memcpy(w, rest[0], left);
    for (int s = 0; s < slots; s++) memcpy(v[s], copy[s], left);
}

/* An option that an optimizer takes: its default, and the values that it may have. */
#define CNN__TAKES(member, otherwise, values)                                                                \
    CNN_FIELD('f', cnn_step_args, member, .preset = otherwise, .range = values)

/* Stochastic gradient descent with momentum (Polyak 1964; Nesterov 1983, after Sutskever et al. 2013), in
   PyTorch's form. Per element, with the momentum buffer b:
       d  = dw + weight_decay w
       b  = momentum b + d              with dampening: after the first update momentum b + (1 - dampening) d
       w -= lr b                        heavy ball
       w -= lr (d + momentum b)         Nesterov: looks at the gradient where the momentum is about to lead
   Both are w -= lr (cd d + cb b), with (cd,cb) = (0,1) or (1,momentum). Without momentum, b is left alone. */
static void cnn__sgd_run(float *restrict w, const float *restrict dw, float *const *slot, cnn__rates r)
{
    float *restrict b = slot[0];
    if (r.momentum == 0) {
        for (int i = 0; i < CNN__RUN_OF; i++) w[i] -= r.lr * (dw[i] + r.decay * w[i]);
        return;
    }
    for (int i = 0; i < CNN__RUN_OF; i++) {
        float d = dw[i] + r.decay * w[i];
        b[i] = r.momentum * b[i] + r.share * d;
        w[i] -= r.lr * (r.cd * d + r.cb * b[i]);
    }
}
static void cnn__sgd_update(float *w, const float *dw, float *const *slot, size_t n, const cnn_step_args *a,
                            long step)
{
    const cnn__rates r = { .lr = a->lr, .decay = a->weight_decay, .momentum = a->momentum,
                           .share = step == 0 ? 1 : 1 - a->dampening,
                           .cd = a->nesterov ? 1.0f : 0.0f, .cb = a->nesterov ? a->momentum : 1.0f };
    cnn__in_runs(cnn__sgd_run, w, dw, slot, n, r);
}

static const char *cnn__sgd_wrong(const cnn_step_args *a)
{
    if (a->nesterov && a->momentum == 0) return "nesterov needs a momentum, such as .momentum = 0.9f";
    if (a->dampening != 0 && (a->momentum == 0 || a->nesterov))
        return "dampening is for sgd with a momentum, not Nesterov's";
    return NULL;
}
static const cnn_field cnn__sgd_fields[] = {
    CNN__TAKES(momentum, 0, "[0,1)"), CNN__TAKES(weight_decay, 0, "[0,inf)"),
    CNN__TAKES(dampening, 0, "[0,1]"), CNN_FIELD('i', cnn_step_args, nesterov), { 0 } };
static const cnn_optimizer cnn__sgd = { "sgd", 1, cnn__sgd_update, cnn__sgd_fields, cnn__sgd_wrong };

/* Floats from, from + 1, ... of the flat vectors. The update is element by element, so cutting the vectors
   into blocks for threads cannot change a bit. */
typedef struct { cnn_graph *g; const cnn_step_args *a; size_t from, n; long step; } cnn__updating;
enum { CNN__UPDATED = 1 << 14 };                      /* floats of a block */
static void cnn__update_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn__updating *u = of;
    const cnn_optimizer *o = u->g->config.optimizer;
    for (; from < to; from++) {
        const size_t first = (size_t)from * CNN__UPDATED, rest = u->n - first, at = u->from + first;
        float       *slot[CNN_MAX_SLOTS] = { NULL };
        for (int s = 0; s < o->slots && s < CNN_MAX_SLOTS; s++)
            slot[s] = u->g->arena[CNN_ARENA_OPTIMIZER] + (size_t)s * u->g->n_trained + at;
        o->update(u->g->arena[CNN_ARENA_PARAMS] + at, u->g->arena[CNN_ARENA_GRADS] + at, slot,
                  rest < CNN__UPDATED ? rest : CNN__UPDATED, u->a, u->step);
    }
}
static void cnn__update_on_host(cnn_graph *g, const cnn_step_args *a, size_t from, size_t n, long step)
{
    const cnn__updating u = { g, a, from, n, step };
    cnn__share_out(&g->cpu, CNN__SIMPLE * (double)n, (ptrdiff_t)(n + CNN__UPDATED - 1) / CNN__UPDATED,
                   cnn__update_job, &u);
}

CNN_API bool cnn_step_(cnn_step_args a)
{
    cnn_graph *g = cnn_at_graph(a.at, a.g);
    if (!g || g->error[0]) return false;
    cnn_backend *device = g->config.backend;
    if (!cnn__resolve_step(g, "step", &a)) return false;
    if (!g->compiled) return cnn__fail(g, a.at, "step", "the graph is not compiled");
    if (g->config.inference)
        return cnn__fail(g, a.at, "step", "the graph was made with .inference = 1: it has no gradients");
    if (!g->has_grads)
        return cnn__fail(g, a.at, "step", "no gradients yet: call cnn_forward(loss, CNN_TRAIN) and "
                         "cnn_backward(loss) first");
    if (g->n_trained == 0 && g->memory.params)
        return cnn__fail(g, a.at, "step", "there is nothing to train: every parameter is frozen");
    if (g->n_trained == 0) return g->step++, true;

    if (device && device->update) {
        if (cnn__update(g, &a, CNN__DEVICE)) return true;
        if (device->error[0]) cnn__fail(g, a.at, "step", "%s: %s", device->name, device->error);
        if (g->error[0]) return false;
    }
    return cnn__update(g, &a, CNN__HOST);
}

/* ===========================================================================================================
   >>rooms ---- 5. More rooms, by chapters

   dense stands in chapter 1 of the API, tanh in 4, mse in 7: their rooms are in >>hour.
   ======================================================================================================== */

/* ---- What rooms may ask while they run ---- */

CNN_API void *cnn_scratch(const cnn_tensor *y)  { return y->graph->arena[CNN_ARENA_SCRATCH]; }
CNN_API int   cnn_threads(const cnn_tensor *y)  { return y->graph->cpu.threads; }
CNN_API bool  cnn_grad_is_first(const cnn_tensor *y, int i)
{
    const cnn_tensor *x = y->in[i];
    return x->kind != CNN_PARAM && cnn__of(x)->grad_first == y->index && cnn__which_operand(y, x) == i;
}
CNN_API bool  cnn_grad_is_new(const cnn_tensor *y) { return cnn_grad_is_first(y, 0); }
CNN_API bool  cnn_is_exact(const cnn_tensor *y)    { return y->graph->cpu.exact; }

/* The stream of a node in this training step. */
static uint64_t cnn__stream(const cnn_tensor *y)
{
    return ((uint64_t)(y->graph->draw + 1u) << 32) | (uint32_t)y->index;
}

CNN_API uint32_t cnn_random(const cnn_tensor *y, uint32_t i)
{
    return cnn__random_bits(y->graph->config.seed, cnn__stream(y), i);
}
CNN_API void cnn_random_key(const cnn_tensor *y, uint64_t *key, uint64_t *stream)
{
    *key = y->graph->config.seed, *stream = cnn__stream(y);
}

/* ---- Windows: what convolution and pooling share, along one axis ---- */

/* Padded by `pad` before and `end` behind it. */
typedef struct { int size, kernel, stride, pad, end, dilation; bool ceil_mode; } cnn__slide;

/* The extent of a dilated kernel. */
static int cnn__reach(const cnn__slide *slide) { return slide->dilation * (slide->kernel - 1) + 1; }

/* How many windows: floor((size + pad + end - reach) / stride) + 1. With ceil_mode rounded up, but a window
   must start inside the input or its left padding. */
static int cnn__count_windows(const cnn__slide *slide)
{
    const int room = slide->size + slide->pad + slide->end - cnn__reach(slide);
    int       n = (slide->ceil_mode ? room + slide->stride - 1 : room) / slide->stride + 1;
    return slide->ceil_mode && (n - 1) * slide->stride >= slide->size + slide->pad ? n - 1 : n;
}

/* The largest kernel, stride, pad, dilation, window or result of upsample, and the widest input: so the sums
   above fit an int. */
#define CNN__FROM_1 "[1,16777216]"
#define CNN__FROM_0 "[0,16777216]"
enum { CNN__LARGEST_OPTION = 1 << 24, CNN__WIDEST = 1 << 29 };

/* What the option structs of convolution and pooling have in common: `kernel` serves both axes, and so on.
   Readers of y->args take the values of the axes and sides, kernel_h and pad_top. */
#define CNN__WINDOW(args, like_h, like_w)                                                                    \
    CNN_FIELD('i', args, kernel, .what = "the size of the window"),                                          \
    CNN_FIELD('i', args, kernel_h, .like = "kernel", .range = CNN__FROM_1),                                  \
    CNN_FIELD('i', args, kernel_w, .like = "kernel", .range = CNN__FROM_1),                                  \
    CNN_FIELD('i', args, stride),                                                                            \
    CNN_FIELD('i', args, stride_h, .like = like_h, .preset = 1, .range = CNN__FROM_1),                       \
    CNN_FIELD('i', args, stride_w, .like = like_w, .preset = 1, .range = CNN__FROM_1),                       \
    CNN_FIELD('i', args, pad),                                                                               \
    CNN_FIELD('i', args, pad_h, .like = "pad", .range = CNN__FROM_0),                                        \
    CNN_FIELD('i', args, pad_w, .like = "pad", .range = CNN__FROM_0),                                        \
    CNN_FIELD('i', args, pad_top, .like = "pad_h", .range = CNN__FROM_0),                                    \
    CNN_FIELD('i', args, pad_bottom, .like = "pad_h", .range = CNN__FROM_0),                                 \
    CNN_FIELD('i', args, pad_left, .like = "pad_w", .range = CNN__FROM_0),                                   \
    CNN_FIELD('i', args, pad_right, .like = "pad_w", .range = CNN__FROM_0),                                  \
    CNN_FIELD('i', args, dilation),                                                                          \
    CNN_FIELD('i', args, dilation_h, .like = "dilation", .preset = 1, .range = CNN__FROM_1),                 \
    CNN_FIELD('i', args, dilation_w, .like = "dilation", .preset = 1, .range = CNN__FROM_1)
/* The same as windows that slide over x, along h and w. */
#define CNN__SLIDES(a, x, up)                                                                                \
    { { (x).h, (a)->kernel_h, (a)->stride_h, (a)->pad_top, (a)->pad_bottom, (a)->dilation_h, up },           \
      { (x).w, (a)->kernel_w, (a)->stride_w, (a)->pad_left, (a)->pad_right, (a)->dilation_w, up } }

/* Is there a window? */
static bool cnn__check_slide(cnn_tensor *y, const cnn__slide *slide)
{
    if (slide->size > CNN__WIDEST) return cnn_fail(y, "input %s is too wide", cnn__shape_text(y->in[0]).s);
    long long reach = (long long)slide->dilation * (slide->kernel - 1) + 1;
    if (reach <= slide->size + slide->pad + slide->end + (slide->ceil_mode ? slide->stride - 1
                                                          : 0)) return true;
    char dilated[32] = "";
    if (slide->dilation > 1) cnn__format(dilated, sizeof dilated, " with dilation %d", slide->dilation);
    return cnn_fail(y, "kernel %d%s does not fit input %s with pad %d,%d: (%d + %d + %d - %lld)/%d + 1 < 1",
                    slide->kernel, dilated, cnn__shape_text(y->in[0]).s, slide->pad, slide->end, slide->size,
                    slide->pad, slide->end,
                    reach, slide->stride);
}

/* The kernels of convolution lay the channels of a group out in memory with the padding around them, see
   cnn__spread: so that, too, is an array. */
static bool cnn__check_padded(cnn_tensor *y, int channels, const cnn__slide slide[2])
{
    const double high = (double)slide[0].size + slide[0].pad + slide[0].end;
    const double wide = (double)slide[1].size + slide[1].pad + slide[1].end;
    return channels * high * wide <= INT_MAX
        || cnn_fail(y, "%d channels of (%d,%d), padded to (%.0f,%.0f), have more than 2^31 - 1 elements",
                    channels, slide[0].size, slide[1].size, high, wide);
}

/* -----------------------------------------------------------------------------------------------------------
   Chapter 1. Linear: conv2d, conv_transpose2d, dense, matmul
   -------------------------------------------------------------------------------------------------------- */

/* ---- conv2d -----------------------------------------------------------------------------------------------
 *   y[n,o,i,j]  = b[o] + sum_{c,k,l} w[o,c,k,l] x[n, c, i SH - PH + k DH, j SW - PW + l DW]  (x is 0 outside)
 *   dw[o,c,k,l] = sum_{n,i,j} dy[n,o,i,j] x[...],   db[o] = sum_{n,i,j} dy[n,o,i,j]
 *   dx[...]     = sum_{o,k,l} w[o,c,k,l] dy[n,o,i,j]            the same connections, walked backwards
 *   With G groups, output channel o sees the C/G input channels of its own group. Strictly this is
 *   correlation: the kernel is not mirrored.                                              (LeCun et al. 1989)
 *   x (N,C,H,W), w (O,C/G,KH,KW), b (1,O,1,1), y (N,O,OH,OW).
 * -------------------------------------------------------------------------------------------------------- */
static bool cnn__check_channels(cnn_tensor *y, int channels, int groups)
{
    const int c = y->in[0]->shape.c;
    if (c % groups == 0 && channels % groups == 0) return true;
    return cnn_fail(y, "groups %d must divide the %d channels of input %s and the %d of the output", groups,
                    c, cnn__shape_text(y->in[0]).s, channels);
}
static bool cnn__conv2d_shape(cnn_tensor *y)
{
    cnn_conv2d_args *a = (cnn_conv2d_args *)(uintptr_t)y->args;
    const cnn_shape  x = y->in[0]->shape;
    if (a->one_d && (x.h != 1 || a->pad_top || a->pad_bottom))
        return cnn_fail(y, "input %s: a signal is (N,C,1,W), from cnn_input(g, C, 1, W), padded along W "
                        "alone", cnn__shape_text(y->in[0]).s);
    const long long reach = (long long)a->dilation_w * (a->kernel_w - 1);
    if (a->causal && reach > CNN__LARGEST_OPTION)
        return cnn_fail(y, "causal: pad_left would be %lld: at most %d", reach, (int)CNN__LARGEST_OPTION);
    if (a->causal && (a->pad_left != reach || a->pad_right)) a->pad_left = (int)reach, a->pad_right = 0;
    const cnn__slide slide[2] = CNN__SLIDES(a, x, false);
    if (!cnn__check_channels(y, a->channels, a->groups) || !cnn__check_slide(y, &slide[0])
        || !cnn__check_slide(y, &slide[1]) || !cnn__check_padded(y, x.c / a->groups, slide)) return false;
    y->shape = (cnn_shape){ x.n, a->channels, cnn__count_windows(&slide[0]), cnn__count_windows(&slide[1]) };
    return true;
}
static cnn_shape cnn__conv2d_weight(const cnn_tensor *y)
{
    const cnn_conv2d_args *a = y->args;
    return (cnn_shape){ a->channels, y->in[0]->shape.c / a->groups, a->kernel_h, a->kernel_w };
}
static void cnn__conv2d_fan(const cnn_tensor *y, double *in, double *out)
{
    const cnn_shape w = cnn__conv2d_weight(y);
    const double    taps = (double)w.h * w.w;
    *in = w.c * taps, *out = w.n * taps / ((const cnn_conv2d_args *)y->args)->groups;
}
/* For the kernels: the convolution from `from` to `to`, by options a. */
#define CNN__CONV_OF(a, from, to)                                                                            \
    (cnn__conv){ (from).n, (from).c, (from).h, (from).w, (to).c, (to).h, (to).w, (a)->kernel_h,              \
                 (a)->kernel_w, (a)->stride_h, (a)->stride_w, (a)->pad_top, (a)->pad_left, (a)->dilation_h,  \
                 (a)->dilation_w, (a)->groups }
static cnn__conv cnn__conv_of(const cnn_tensor *y)
{
    const cnn_conv2d_args *a = y->args;
    return CNN__CONV_OF(a, y->in[0]->shape, y->shape);
}
/* Batch norm in evaluation is y = (x - m) f + c with f = gamma / sqrt(v + eps). Behind a convolution that is
   the convolution with weights f w and bias (b - m) f + c. Rounded otherwise than in two
   steps: the tests allow 1e-5 of the largest output. */
static void cnn__conv2d_fold(const cnn_tensor *y, const cnn_tensor *norm, float *w, float *b)
{
    const float    *gamma = cnn__data(cnn_operand(norm, "weight"));
    const float    *beta = cnn__data(cnn_operand(norm, "bias"));
    const float    *mean = cnn_operand(norm, "running_mean")->data;
    const float    *var = cnn_operand(norm, "running_var")->data;
    const float    *bias = cnn__data(cnn_operand(y, "bias")), *from = y->in[1]->data;
    const double    eps = (double)((const cnn_batch_norm_args *)norm->args)->eps;
    const ptrdiff_t k = cnn__len(y->in[1]->shape) / y->shape.c;
    for (int o = 0; o < y->shape.c; o++) {
        const double f = (gamma ? (double)gamma[o] : 1.0) / sqrt((double)var[o] + eps);
        const double c = beta ? (double)beta[o] : 0.0;
        b[o] = (float)(((bias ? (double)bias[o] : 0.0) - (double)mean[o]) * f + c);
        for (ptrdiff_t i = 0; i < k; i++) w[o * k + i] = (float)f * from[o * k + i];
    }
}
/* The weights and the bias that y runs with: its own or, kept since they were last written, packed ones. In
   their place: the bias with a batch norm in it, if one may be; then the weights. */
typedef struct { const float *w, *b, *packed; } cnn__conv_weights;
static size_t cnn__conv2d_floats(const cnn_tensor *y) { return (size_t)cnn__len(y->in[1]->shape); }
static size_t cnn__conv2d_before(const cnn_tensor *y)
{
    return cnn__folds(cnn__of(y)) ? cnn__round_up((size_t)y->shape.c, CNN__ALIGN / sizeof(float)) : 0;
}
static cnn__conv_weights cnn__conv2d_weights(cnn_tensor *y, const cnn__conv *conv)
{
    cnn_graph        *g = y->graph;
    cnn__node        *v = cnn__of(y);
    cnn__conv_weights r = { y->in[1]->data, cnn__data(cnn_operand(y, "bias")), NULL };
    if (v->packed_at == SIZE_MAX) return r;
    const cnn_tensor *norm = v->tail ? v->tail->norm : NULL;
    const uint64_t written = (g->shares ? g->shares : g)->written;
    const bool     old = v->packed_when != written || v->packed_n != conv->n || v->packed_norm != norm;
    const bool     packs = cnn__conv_pack(&g->cpu, conv, NULL, NULL, NULL) > 0;
    float         *b = g->arena[CNN_ARENA_PACKED] + v->packed_at, *to = b + cnn__conv2d_before(y);
    float         *scratch = cnn_scratch(y), *w = packs ? scratch : to;        /* with the norm, not packed */
    if (norm && old) cnn__conv2d_fold(y, norm, w, b);
    if (norm) r.w = w, r.b = b, scratch += cnn__round_up(cnn__conv2d_floats(y), CNN__ALIGN / sizeof *w);
    if (packs && old) cnn__conv_pack(&g->cpu, conv, to, r.w, scratch);
    if (packs) r.packed = to;
    v->packed_when = written, v->packed_n = conv->n, v->packed_norm = norm;
    return r;
}
static void cnn__conv2d_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    const cnn__conv         conv = cnn__conv_of(y);
    const cnn__conv_weights p = cnn__conv2d_weights(y, &conv);
    cnn__conv_forward(&y->graph->cpu, &conv, y->data, y->in[0]->data, p.w, p.b, p.packed, cnn_scratch(y),
                      cnn__of(y)->tail);
}
/* dw, and db unless it is NULL; then dw is mended if it began at 0. */
static void cnn__conv_gradient(cnn_tensor *y, const cnn__conv *conv, float *db, const float *x,
                               const float *dy,
                               void *scratch)
{
    const cnn__cpu *cpu = &y->graph->cpu;
    cnn_tensor     *w = y->in[1];
    const bool      alone = y->graph->from_zero && cnn__of(w)->grad_first == y->index;
    cnn__conv_backward_weights(cpu, conv, w->grad, db, x, dy, scratch);
    if (alone) cnn__conv_mend_weights(conv, w->grad, x, dy);
}
static void cnn__conv2d_backward(cnn_tensor *y)
{
    const cnn__conv conv = cnn__conv_of(y);
    const cnn__cpu *cpu = &y->graph->cpu;
    cnn_tensor     *x = y->in[0], *w = y->in[1], *b = cnn_operand(y, "bias");
    if (x->grad)
        cnn__conv_backward_data(cpu, &conv, x->grad, y->grad, w->data, cnn_grad_is_new(y), cnn_scratch(y));
    if (w->grad) cnn__conv_gradient(y, &conv, cnn__grad(b), x->data, y->grad, cnn_scratch(y));
    else if (b && b->grad) cnn__add_product(cpu, b->grad, y->grad, NULL, b->shape, y->shape, y->shape, 1);
}
static size_t cnn__conv2d_scratch(const cnn_tensor *y)
{
    const cnn__conv conv = cnn__conv_of(y);
    const size_t    folded = cnn__conv2d_before(y) ? cnn__conv2d_floats(y) * sizeof(float) + CNN__ALIGN : 0;
    return cnn__add_size(cnn__conv_scratch(&y->graph->cpu, &conv), folded);
}
static size_t cnn__conv2d_packed(const cnn_tensor *y)
{
    const cnn__conv conv = cnn__conv_of(y);
    size_t floats = cnn__conv_packed(&y->graph->cpu, &conv);
    if (cnn__conv2d_before(y) && floats < cnn__conv2d_floats(y)) floats = cnn__conv2d_floats(y);
    return cnn__mul_size(cnn__add_size(cnn__conv2d_before(y), floats), sizeof(float));
}
static double cnn__conv2d_macs(const cnn_tensor *y)
{
    const cnn_shape w = y->in[1]->shape;
    return (double)cnn__len(y->shape) * w.c * w.h * w.w;
}
static const char *cnn__conv2d_algorithm(const cnn_tensor *y)
{
    cnn__conv conv = cnn__conv_of(y);
    conv.n = cnn__of(y)->max_n;
    return cnn__conv_algorithm(&y->graph->cpu, &conv, 0);
}
static const cnn_field cnn__conv2d_fields[] = {
    CNN_FIELD('i', cnn_conv2d_args, channels, .range = "[1,2147483647]", .what = "the number of outputs"),
    CNN__WINDOW(cnn_conv2d_args, "stride", "stride"), CNN_FIELD('i', cnn_conv2d_args, causal),
    CNN_FIELD('i', cnn_conv2d_args, groups, .preset = 1, .range = "[1,2147483647]"),
    CNN_FIELD('i', cnn_conv2d_args, one_d), { 0 } };
static const cnn_owned cnn__conv2d_owned[] = {
    CNN__WEIGHT_AND_BIAS(cnn_conv2d_args, cnn__conv2d_weight, cnn__conv2d_fan, CNN_N | CNN_C | CNN_H | CNN_W,
                         .one_d = offsetof(cnn_conv2d_args, one_d)), { 0 } };
CNN__ROOM cnn_op_conv2d = {
    .name = "conv2d", .shape = cnn__conv2d_shape, .forward = cnn__conv2d_forward,
    .backward = cnn__conv2d_backward, .scratch = cnn__conv2d_scratch, .packed = cnn__conv2d_packed,
    .macs = cnn__conv2d_macs,
    .flags = CNN_READS_X | CNN_JOINABLE | CNN_CLEARS_GRAD, .args_size = sizeof(cnn_conv2d_args),
    .fields = cnn__conv2d_fields, .owned = cnn__conv2d_owned, .algorithm = cnn__conv2d_algorithm };

CNN__UNARY(cnn_conv2d_, conv2d, cnn_conv2d_args)

/* ---- conv_transpose2d ------------------------------------------------------------------------------------
 *   y[n, o, i SH - PH + k DH, j SW - PW + l DW] += sum_c w[c,o,k,l] x[n,c,i,j],   then y += b[o]
 *   It is the gradient of a convolution from y to x, run forwards: so the three kernels of conv2d do all the
 *   work, each in another's place.
 *   dx = conv(dy, w),   dw = the gradient of that convolution's weight,   db[o] = sum dy[n,o,:,:]
 *   OH = (H-1) SH - PH - EH + DH (KH-1) + output_pad + 1, EH the padding below; output_pad < stride says
 *   which of the extents that the convolution would take to H is meant; a larger one, below the dilation,
 *   adds what no window meets.
 *   x (N,C,H,W), w (C,O/G,KH,KW), b (1,O,1,1), y (N,O,OH,OW).  (Zeiler et al. 2010; Dumoulin, Visin 2016)
 * ------------------------------------------------------------------------------------------------------- */
/* What is slid over is y: sets its size. */
static bool cnn__transpose_extent(cnn_tensor *y, cnn__slide *slide, int in, int output_pad)
{
    if (output_pad >= slide->stride && output_pad >= slide->dilation)
        return cnn_fail(y, "output_pad is %d: it must be less than the stride, %d, or the dilation, %d",
                        output_pad, slide->stride, slide->dilation);
    const long long size = (long long)(in - 1) * slide->stride - slide->pad - slide->end
                         + (long long)slide->dilation * (slide->kernel - 1) + output_pad + 1;
    if (size < 1 || size > CNN__WIDEST)
        return cnn_fail(y, "input %s: (%d - 1)*%d - %d - %d + %d*(%d - 1) + %d + 1 = %lld is no extent",
                        cnn__shape_text(y->in[0]).s, in, slide->stride, slide->pad, slide->end,
                        slide->dilation, slide->kernel,
                        output_pad, size);
    slide->size = (int)size;
    return true;
}
static bool cnn__conv_transpose2d_shape(cnn_tensor *y)
{
    const cnn_conv_transpose2d_args *a = y->args;
    const cnn_shape                  x = y->in[0]->shape;
    cnn__slide                       slide[2] = CNN__SLIDES(a, x, false);
    if (!cnn__check_channels(y, a->channels, a->groups)
        || !cnn__transpose_extent(y, &slide[0], x.h, a->output_pad_h)
        || !cnn__transpose_extent(y, &slide[1], x.w, a->output_pad_w)
        || !cnn__check_padded(y, a->channels / a->groups, slide)) return false;
    y->shape = (cnn_shape){ x.n, a->channels, slide[0].size, slide[1].size };
    return true;
}
static cnn_shape cnn__transpose_weight(const cnn_tensor *y)
{
    const cnn_conv_transpose2d_args *a = y->args;
    return (cnn_shape){ y->in[0]->shape.c, a->channels / a->groups, a->kernel_h, a->kernel_w };
}
static void cnn__transpose_fan(const cnn_tensor *y, double *in, double *out)
{
    const cnn_conv_transpose2d_args *a = y->args;
    const cnn_shape                  w = cnn__transpose_weight(y);
    const double taps = (double)w.h * w.w, reach = taps / ((double)a->stride_h * a->stride_w);
    *in = (double)w.n / a->groups * (reach < 1 ? 1 : reach);    /* every stride-th tap reaches a pixel */
    *out = w.c * taps;
}
static cnn__conv cnn__transpose_of(const cnn_tensor *y)      /* the convolution from y to x */
{
    const cnn_conv_transpose2d_args *a = y->args;
    return CNN__CONV_OF(a, y->shape, y->in[0]->shape);
}
static void cnn__conv_transpose2d_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    const cnn__conv conv = cnn__transpose_of(y);
    const int       plane = cnn__plane(y->shape);
    const float    *bias = cnn__data(cnn_operand(y, "bias"));
    for (int i = 0; bias && i < y->shape.n * y->shape.c; i++)
        for (ptrdiff_t j = (ptrdiff_t)i * plane, end = j + plane; j < end; j++)
            y->data[j] = bias[i % y->shape.c];
    cnn__conv_backward_data(&y->graph->cpu, &conv, y->data, y->in[0]->data, y->in[1]->data, !bias,
                            cnn_scratch(y));
}
/* cnn__conv_forward sets, but gradients are added: so there is a place between. */
static size_t cnn__transpose_dx_bytes(const cnn_tensor *y)
{
    return cnn__round_up((size_t)cnn__len(y->in[0]->shape) * sizeof(float), CNN__ALIGN);
}
static void cnn__conv_transpose2d_backward(cnn_tensor *y)
{
    const cnn__conv conv = cnn__transpose_of(y);
    const cnn__cpu *cpu = &y->graph->cpu;
    cnn_tensor     *x = y->in[0], *w = y->in[1], *b = cnn_operand(y, "bias");
    float          *dx = cnn_scratch(y);
    void           *scratch = (char *)cnn_scratch(y) + cnn__transpose_dx_bytes(y);
    if (x->grad) {
        cnn__conv_forward(cpu, &conv, dx, y->grad, w->data, NULL, NULL, scratch, NULL);
        cnn__map_back(cpu, NULL, x->grad, dx, NULL, NULL, cnn__len(x->shape));
    }
    if (w->grad)      cnn__conv_gradient(y, &conv, NULL, y->grad, x->data, scratch);
    if (b && b->grad) cnn__add_product(cpu, b->grad, y->grad, NULL, b->shape, y->shape, y->shape, 1);
}
static size_t cnn__conv_transpose2d_scratch(const cnn_tensor *y)
{
    const cnn__conv conv = cnn__transpose_of(y);
    return cnn__add_size(cnn__transpose_dx_bytes(y), cnn__conv_scratch(&y->graph->cpu, &conv));
}
static double cnn__conv_transpose2d_macs(const cnn_tensor *y)
{
    const cnn_shape w = y->in[1]->shape;
    return (double)cnn__len(y->in[0]->shape) * w.c * w.h * w.w;
}
static const cnn_field cnn__conv_transpose2d_fields[] = {
    CNN_FIELD('i', cnn_conv_transpose2d_args, channels, .range = "[1,2147483647]",
              .what = "the number of outputs"),
    CNN__WINDOW(cnn_conv_transpose2d_args, "stride", "stride"),
    CNN_FIELD('i', cnn_conv_transpose2d_args, output_pad),
    CNN_FIELD('i', cnn_conv_transpose2d_args, output_pad_h, .like = "output_pad", .range = CNN__FROM_0),
    CNN_FIELD('i', cnn_conv_transpose2d_args, output_pad_w, .like = "output_pad", .range = CNN__FROM_0),
    CNN_FIELD('i', cnn_conv_transpose2d_args, groups, .preset = 1, .range = "[1,2147483647]"), { 0 } };
static const cnn_owned cnn__conv_transpose2d_owned[] = {
    CNN__WEIGHT_AND_BIAS(cnn_conv_transpose2d_args, cnn__transpose_weight, cnn__transpose_fan,
                         CNN_N | CNN_C | CNN_H | CNN_W), { 0 } };
CNN__ROOM cnn_op_conv_transpose2d = {
    .name = "conv_transpose2d", .shape = cnn__conv_transpose2d_shape,
    .forward = cnn__conv_transpose2d_forward, .backward = cnn__conv_transpose2d_backward,
    .scratch = cnn__conv_transpose2d_scratch, .macs = cnn__conv_transpose2d_macs, .flags = CNN_READS_X,
    .args_size = sizeof(cnn_conv_transpose2d_args), .fields = cnn__conv_transpose2d_fields,
    .owned = cnn__conv_transpose2d_owned };

CNN__UNARY(cnn_conv_transpose2d_, conv_transpose2d, cnn_conv_transpose2d_args)

/* ---- matmul -----------------------------------------------------------------------------------------------
 *   Y = A B,   dA = dY B',   dB = A' dY             A (M,K,1,1), M may be the batch; B (K,P,1,1); Y (M,P,1,1)
 * -------------------------------------------------------------------------------------------------------- */
static bool cnn__matmul_shape(cnn_tensor *y)
{
    if (!cnn__operands(y, 2, 2)) return false;
    const cnn_tensor *a = y->in[0], *b = y->in[1];
    if (cnn__plane(a->shape) != 1 || cnn__plane(b->shape) != 1 || b->batched || b->shape.n != a->shape.c)
        return cnn_fail(y, "%s times %s: it must be (M,K,1,1) times (K,P,1,1), the second without the batch",
                        cnn__shape_text(a).s, cnn__shape_text(b).s);
    y->shape = (cnn_shape){ a->shape.n, b->shape.c, 1, 1 };
    return true;
}
static void cnn__matmul_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    const int m = y->shape.n, p = y->shape.c, k = y->in[0]->shape.c;
    cnn__gemm(&y->graph->cpu, y->data, p, 0, y->in[0]->data, k, false, y->in[1]->data, p, false, m, p, k,
              cnn_scratch(y));
}
static void cnn__matmul_backward(cnn_tensor *y)
{
    const int       m = y->shape.n, p = y->shape.c, k = y->in[0]->shape.c;
    const cnn__cpu *cpu = &y->graph->cpu;
    cnn_tensor     *a = y->in[0], *b = y->in[1];
    if (a->grad) cnn__gemm(cpu, a->grad, k, 1, y->grad, p, false, b->data, p, true, m, k, p, cnn_scratch(y));
    if (b->grad) cnn__gemm(cpu, b->grad, p, 1, a->data, k, true, y->grad, p, false, k, p, m, cnn_scratch(y));
}
static size_t cnn__matmul_scratch(const cnn_tensor *y)
{
    return cnn__three_products(y, y->shape.n, y->shape.c, y->in[0]->shape.c);
}
static double cnn__matmul_macs(const cnn_tensor *y) { return (double)cnn__len(y->shape) * y->in[0]->shape.c; }
CNN__ROOM cnn_op_matmul = {
    .name = "matmul", .shape = cnn__matmul_shape, .forward = cnn__matmul_forward,
    .backward = cnn__matmul_backward, .scratch = cnn__matmul_scratch, .macs = cnn__matmul_macs,
    .flags = CNN_READS_X };

CNN__PLAIN_2(cnn_matmul_, matmul)

/* -----------------------------------------------------------------------------------------------------------
   Chapter 2. Pooling: max_pool, avg_pool, global_max_pool
   -------------------------------------------------------------------------------------------------------- */

/* ---- max_pool ---------------------------------------------------------------------------------------------
 *   y = max of the window,   dx += dy at the place of the maximum: the first of equals in reading order.
 *   Padding never wins; NaN does. A dilation D takes every D-th element, as in conv2d. The places are kept
 *   from forward to backward.                                                     (Ranzato et al. 2007)
 * -------------------------------------------------------------------------------------------------------- */
static cnn__pool cnn__pool_of(const cnn_tensor *y)
{
    const cnn_pool_args *a = y->args;
    const cnn_shape      x = y->in[0]->shape;
    if (!a) return (cnn__pool){ x.n * x.c, x.h, x.w, 1, 1, x.h, x.w, 1, 1, .dh = 1, .dw = 1 };   /* global */
    return (cnn__pool){ x.n * x.c, x.h, x.w, y->shape.h, y->shape.w, a->kernel_h, a->kernel_w, a->stride_h,
                        a->stride_w, a->pad_top, a->pad_left, a->pad_bottom, a->pad_right, a->dilation_h,
                        a->dilation_w, !a->no_count_pad };
}
/* Does every window see a part of the input? Those that start before it need not: with a pad as wide as they
   are, or with a dilation wider than the input; nor does a last one that starts behind it. */
static bool cnn__sees_input(const cnn__slide *slide)
{
    const int n = cnn__count_windows(slide);
    bool      sees = slide->pad < cnn__reach(slide) && (n - 1) * slide->stride < slide->size + slide->pad;
    for (int i = 0, from, to; sees && i < n && i * slide->stride < slide->pad; i++) {
        cnn__window(i, slide->size, slide->kernel, slide->stride, slide->pad, slide->dilation, &from, &to);
        sees = from < to;
    }
    return sees;
}
static bool cnn__pool_shape(cnn_tensor *y)
{
    if (!cnn__operands(y, 1, 1)) return false;
    const cnn_pool_args *a = y->args;
    const cnn_shape      x = y->in[0]->shape;
    const cnn__slide     slide[2] = CNN__SLIDES(a, x, a->ceil_mode != 0);
    if (!cnn__check_slide(y, &slide[0]) || !cnn__check_slide(y, &slide[1])) return false;
    if (!cnn__sees_input(&slide[0]) || !cnn__sees_input(&slide[1]))
        return cnn_fail(y, "input %s, kernel %d,%d, dilation %d,%d, pad %d,%d above and below, %d,%d beside: "
                        "a window would see nothing but padding", cnn__shape_text(y->in[0]).s, a->kernel_h,
                        a->kernel_w, a->dilation_h, a->dilation_w, a->pad_top, a->pad_bottom, a->pad_left,
                        a->pad_right);
    y->shape = (cnn_shape){ x.n, x.c, cnn__count_windows(&slide[0]), cnn__count_windows(&slide[1]) };
    return true;
}
static void cnn__max_pool_forward(cnn_tensor *y, cnn_mode mode)
{
    const cnn__pool pool = cnn__pool_of(y);
    cnn__max_pool(&y->graph->cpu, &pool, y->data, mode == CNN_TRAIN ? y->saved : NULL, y->in[0]->data);
}
static void cnn__max_pool_backward(cnn_tensor *y)
{
    const cnn__pool pool = cnn__pool_of(y);
    if (y->in[0]->grad) cnn__max_pool_back(&y->graph->cpu, &pool, y->in[0]->grad, y->grad, y->saved,
                                            cnn_grad_is_new(y));
}
static size_t cnn__max_pool_saved(const cnn_tensor *y) { return (size_t)cnn__len(y->shape) * sizeof(int); }
static const cnn_field cnn__pool_fields[] = {
    CNN__WINDOW(cnn_pool_args, "stride kernel_h", "stride kernel_w"),
    CNN_FIELD('i', cnn_pool_args, ceil_mode), CNN_FIELD('i', cnn_pool_args, no_count_pad), { 0 } };
CNN__ROOM cnn_op_max_pool = {
    .name = "max_pool", .shape = cnn__pool_shape, .forward = cnn__max_pool_forward,
    .backward = cnn__max_pool_backward, .saved = cnn__max_pool_saved, .flags = CNN_CLEARS_GRAD | CNN_SELECTS,
    .args_size = sizeof(cnn_pool_args), .fields = cnn__pool_fields };

CNN__UNARY(cnn_max_pool_,   max_pool,   cnn_pool_args)

/* ---- avg_pool ---------------------------------------------------------------------------------------------
 *   y = (sum of the window) / D,   dx += dy / D for each element of the window            (LeCun et al. 1989)
 *   D counts the padding, as in PyTorch; with no_count_pad only the elements inside the input.
 * -------------------------------------------------------------------------------------------------------- */
static void cnn__avg_pool_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    const cnn__pool pool = cnn__pool_of(y);
    float          *share = cnn_scratch(y);
    cnn__pool_shares(&pool, share);
    cnn__avg_pool(&y->graph->cpu, &pool, y->data, y->in[0]->data, share);
}
static void cnn__avg_pool_backward(cnn_tensor *y)
{
    const cnn__pool pool = cnn__pool_of(y);
    float          *share = cnn_scratch(y);
    if (!y->in[0]->grad) return;
    cnn__pool_shares(&pool, share);
    cnn__avg_pool_back(&y->graph->cpu, &pool, y->in[0]->grad, y->grad, share, cnn_grad_is_new(y));
}
static size_t cnn__avg_pool_scratch(const cnn_tensor *y)
{
    return cnn__mul_size(cnn__add_size((size_t)y->shape.h, (size_t)y->shape.w), sizeof(float));
}
CNN__ROOM cnn_op_avg_pool = {
    .name = "avg_pool", .shape = cnn__pool_shape, .forward = cnn__avg_pool_forward,
    .backward = cnn__avg_pool_backward, .scratch = cnn__avg_pool_scratch, .flags = CNN_CLEARS_GRAD,
    .args_size = sizeof(cnn_pool_args), .fields = cnn__pool_fields };

CNN__UNARY(cnn_avg_pool_,   avg_pool,   cnn_pool_args)

/* ---- adaptive_avg_pool ------------------------------------------------------------------------------------
 *   y[i,j] = mean of x over rows floor(i H/OH) .. ceil((i+1) H/OH) - 1, and columns likewise: PyTorch's bins,
 *   which may overlap.   dx += dy / (elements of the bin) for each of its elements
 * -------------------------------------------------------------------------------------------------------- */
static bool cnn__adaptive_avg_pool_shape(cnn_tensor *y)
{
    if (!cnn__operands(y, 1, 1)) return false;
    const cnn_adaptive_avg_pool_args *a = y->args;
    y->shape = (cnn_shape){ y->in[0]->shape.n, y->in[0]->shape.c, a->height, a->width };
    return true;
}
static void cnn__bin(int i, int size, int bins, int *from, int *to)
{
    *from = (int)((int64_t)i * size / bins), *to = (int)(((int64_t)(i + 1) * size + bins - 1) / bins);
}
static void cnn__adaptive_pool_job(const void *of, ptrdiff_t first, ptrdiff_t last, int thread CNN__UNUSED)
{
    const cnn_tensor *y = ((const cnn__pass *)of)->y;
    float            *dx = ((const cnn__pass *)of)->dx;
    const cnn_shape   in = y->in[0]->shape, out = y->shape;
    for (ptrdiff_t plane = first; plane < last; plane++)
        for (int i = 0; i < cnn__plane(out); i++) {
            const ptrdiff_t at = plane * cnn__plane(in), to = plane * cnn__plane(out) + i;
            int             y0, y1, x0, x1;
            double          sum = 0;
            cnn__bin(i / out.w, in.h, out.h, &y0, &y1), cnn__bin(i % out.w, in.w, out.w, &x0, &x1);
            const double size = (double)(y1 - y0) * (x1 - x0);
            const float  share = dx ? (float)((double)y->grad[to] / size) : 0.0f;
            for (int r = y0; r < y1; r++)
                for (ptrdiff_t q = at + (ptrdiff_t)r * in.w + x0, end = q + x1 - x0; q < end; q++)
                    if (dx) dx[q] += share;
                    else    sum += (double)y->in[0]->data[q];
            if (!dx) y->data[to] = (float)(sum / size);
        }
}
static void cnn__adaptive_avg_pool_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    const cnn_shape s = y->in[0]->shape;
    cnn__share_pass(y, NULL, cnn__len(s), s.n * s.c, cnn__adaptive_pool_job);
}
static void cnn__adaptive_avg_pool_backward(cnn_tensor *y)
{
    const cnn_shape s = y->in[0]->shape;
    float *dx = y->in[0]->grad;
    if (dx) cnn__share_pass(y, dx, cnn__len(s), s.n * s.c, cnn__adaptive_pool_job);
}
static const cnn_field cnn__adaptive_avg_pool_fields[] = {
    CNN_FIELD('i', cnn_adaptive_avg_pool_args, height, .range = CNN__FROM_1),
    CNN_FIELD('i', cnn_adaptive_avg_pool_args, width, .like = "height", .range = CNN__FROM_1), { 0 } };
CNN__ROOM cnn_op_adaptive_avg_pool = {
    .name = "adaptive_avg_pool", .shape = cnn__adaptive_avg_pool_shape,
    .forward = cnn__adaptive_avg_pool_forward, .backward = cnn__adaptive_avg_pool_backward,
    .args_size = sizeof(cnn_adaptive_avg_pool_args), .fields = cnn__adaptive_avg_pool_fields };

CNN__UNARY(cnn_adaptive_avg_pool_, adaptive_avg_pool, cnn_adaptive_avg_pool_args)

static bool cnn__global_max_pool_shape(cnn_tensor *y)
{
    if (!cnn__as_input(y)) return false;
    y->shape.h = y->shape.w = 1;
    return true;
}
CNN__ROOM cnn_op_global_max_pool = {
    .name = "global_max_pool", .shape = cnn__global_max_pool_shape, .forward = cnn__max_pool_forward,
    .backward = cnn__max_pool_backward, .saved = cnn__max_pool_saved,
    .flags = CNN_CLEARS_GRAD | CNN_SELECTS };

CNN__PLAIN_1(cnn_global_max_pool_, global_max_pool)

/* -----------------------------------------------------------------------------------------------------------
   Chapter 3. Normalisation: batch_norm, layer_norm, rms_norm, group_norm, instance_norm, lrn
   -------------------------------------------------------------------------------------------------------- */

/* ---- batch_norm -------------------------------------------------------------------------------------------
 *   X = (x - m) / sqrt(v + eps),   y = w X + b             per channel                  (Ioffe, Szegedy 2015)
 *   training:    m, v = mean and variance over (N,H,W), M elements;
 *      running = (1 - momentum) running + momentum (m, v M/(M-1)): unbiased, as PyTorch's
 *   evaluation, and training if the running ones are frozen: m, v = the running ones
 *   db = sum dy,   dw = sum dy X,   dx = w / sqrt(v + eps) (dy - mean(dy) - X mean(dy X)); frozen, without
 *   the means, since m and v do not depend on x
 *   Operands x, w, b, running_mean, running_var or, with no_affine, x, running_mean, running_var; each
 *   (1,C,1,1).
 * -------------------------------------------------------------------------------------------------------- */
static bool cnn__keeps_statistics(const cnn_tensor *y)
{
    const cnn_tensor *mean = cnn_operand(y, "running_mean");
    return mean && mean->frozen;
}
static void cnn__batch_norm_forward(cnn_tensor *y, cnn_mode mode)
{
    const cnn_batch_norm_args *a = y->args;
    const int    n = y->shape.n, c = y->shape.c, plane = cnn__plane(y->shape);
    float       *running_mean = cnn_operand(y, "running_mean")->data;
    float       *running_var = cnn_operand(y, "running_var")->data;
    const float *x = y->in[0]->data, *mean = running_mean, *rest = NULL, *var = running_var;
    float       *rstd = cnn_scratch(y);
    if (mode == CNN_TRAIN && !cnn__keeps_statistics(y)) {
        float       *m = y->saved, *v = m + c, *more = v + c;
        const double count = (double)n * plane;
        if (count < 2) {
            cnn_fail(
                y,
                "input %s with N = %d has one value per channel: training needs at least two for a variance",
                cnn__shape_text(y).s, n);
            return;
        }
        cnn__channel_moments(&y->graph->cpu, m, more, v, x, n, c, plane);
        for (int i = 0; i < c; i++) {
            const float unbiased = (float)((double)v[i] * count / (count - 1));
            running_mean[i] = (1 - a->momentum) * running_mean[i] + a->momentum * m[i];
            running_var[i] = (1 - a->momentum) * running_var[i] + a->momentum * unbiased;
        }
        mean = m, rest = more, var = v, rstd = v;
    }
    for (int i = 0; i < c; i++) rstd[i] = 1 / sqrtf(var[i] + a->eps);
    cnn__normalize(&y->graph->cpu, y->data, x, mean, rest, rstd, cnn__data(cnn_operand(y, "weight")),
                   cnn__data(cnn_operand(y, "bias")), n, c, plane, cnn__of(y)->tail);
}
static void cnn__batch_norm_backward(cnn_tensor *y)
{
    const cnn_tensor *w = cnn_operand(y, "weight"), *b = cnn_operand(y, "bias");
    const int         c = y->shape.c;
    const float      *mean = y->saved, *rstd = mean + c, *rest = rstd + c;
    if (cnn__keeps_statistics(y)) {
        const float *var = cnn_operand(y, "running_var")->data;
        float       *r = cnn_scratch(y);
        for (int i = 0; i < c; i++) r[i] = 1 / sqrtf(var[i] + ((const cnn_batch_norm_args *)y->args)->eps);
        mean = cnn_operand(y, "running_mean")->data, rstd = r, rest = NULL;
    }
    cnn__normalize_back(&y->graph->cpu, y->in[0]->grad, cnn__grad(w), cnn__grad(b), y->grad, y->in[0]->data,
                        mean, rest, rstd, cnn__data(w), y->shape.n, c, cnn__plane(y->shape));
}
static size_t cnn__batch_norm_saved(const cnn_tensor *y)   { return 3 * (size_t)y->shape.c * sizeof(float); }
static size_t cnn__batch_norm_scratch(const cnn_tensor *y) { return (size_t)y->shape.c * sizeof(float); }
static const cnn_field cnn__batch_norm_fields[] = {
    CNN_FIELD('f', cnn_batch_norm_args, momentum, .preset = 0.1, .range = "[0,1]", .nth = 2),
    CNN_FIELD('f', cnn_batch_norm_args, eps, .preset = 1e-5, .range = "(0,inf)"), { 0 } };
static const cnn_owned cnn__batch_norm_owned[] = {
    CNN__AFFINE(cnn_batch_norm_args, cnn__per_channel, 0),
    { .suffix = "running_mean", .kind = CNN_BUFFER, .shape = cnn__per_channel },
    { .suffix = "running_var", .kind = CNN_BUFFER, .shape = cnn__per_channel, .start = 1 }, { 0 } };
CNN__ROOM cnn_op_batch_norm = {
    .name = "batch_norm", .shape = cnn__as_input, .forward = cnn__batch_norm_forward,
    .backward = cnn__batch_norm_backward, .scratch = cnn__batch_norm_scratch, .saved = cnn__batch_norm_saved,
    .flags = CNN_READS_X | CNN_INPLACE | CNN_INPLACE_GRAD | CNN_JOINABLE | CNN_BATCH_STATISTICS,
    .args_size = sizeof(cnn_batch_norm_args), .fields = cnn__batch_norm_fields,
    .owned = cnn__batch_norm_owned };

CNN_API cnn_tensor *cnn_batch_norm_(cnn_batch_norm_args a)
{
    cnn_tensor *y = cnn_layer(&cnn_op_batch_norm, &a.x, 1, &a, a.at, a.name);
    for (int k = 1; k < y->n_in; k++)
        if (a.frozen || (a.eval && y->in[k]->kind == CNN_BUFFER)) cnn__freeze_leaf(y->in[k]);
    return y;
}

/* ---- layer_norm, rms_norm, group_norm, instance_norm -----------------------------------------------------
 *   X = (x - m) / sqrt(v + eps),   y = w X + b;   m, v = mean and variance over K elements of one sample: all
 *   along the last axes (layer_norm: Ba, Kiros, Hinton 2016), the C/G channels of a group (group_norm: Wu, He
 *   2018), or one channel (instance_norm: Ulyanov et al. 2016). rms_norm is layer_norm with m = 0 and without
 *   b (Zhang, Sennrich 2019). No batch, so training and evaluation are the same.
 *   With D = dy w:  dx = (D - mean D - X mean(D X)) / sqrt(v + eps),   dw = sum dy X,   db = sum dy;
 *   rms_norm: without mean D
 *   w, b: one for each of the K elements in layer_norm; else one for each channel, (1,C,1,1).
 * ------------------------------------------------------------------------------------------------------- */
/* Groups of a sample; elements of a group; how many neighbours share one weight; after how many elements the
   weights begin anew. */
typedef struct {
    int         groups;
    ptrdiff_t   k, share, period;
    bool        centred;
    float       eps;
    cnn_tensor *w, *b;
} cnn__sample_norm;
static cnn__sample_norm cnn__sample_norm_of(const cnn_tensor *y)
{
    const cnn_shape            x = y->in[0]->shape;
    const bool                 rms = y->op == &cnn_op_rms_norm, layer = rms || y->op == &cnn_op_layer_norm;
    const cnn_group_norm_args *group = y->op == &cnn_op_group_norm ? y->args : NULL;
    const cnn_norm_args       *a = y->args;
    const int groups = group ? group->groups : (a->axes & CNN_C ? 1 : x.c) * (a->axes & CNN_H ? 1 : x.h);
    const int k = cnn__sample(x) / groups;
    return (cnn__sample_norm){ groups, k, layer ? 1 : cnn__plane(x), layer ? k : cnn__sample(x), !rms,
                               group ? group->eps : a->eps,
                               cnn_operand(y, "weight"), cnn_operand(y, "bias") };
}
static bool cnn__layer_norm_shape(cnn_tensor *y)
{
    const unsigned axes = ((const cnn_norm_args *)y->args)->axes;
    if (axes == CNN_W || axes == (CNN_H | CNN_W) || axes == (CNN_C | CNN_H | CNN_W)) return cnn__as_input(y);
    return cnn_fail(y, "axes is %u: it must be the last ones, CNN_C | CNN_H | CNN_W, CNN_H | CNN_W or CNN_W",
                    axes);
}
static bool cnn__group_norm_shape(cnn_tensor *y)
{
    const int groups = ((const cnn_group_norm_args *)y->args)->groups;
    if (y->in[0]->shape.c % groups)
        return cnn_fail(y, "groups is %d: it must divide the %d channels of input %s", groups,
                        y->in[0]->shape.c, cnn__shape_text(y->in[0]).s);
    return cnn__as_input(y);
}
static void cnn__sample_norm_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn_tensor      *y = ((const cnn__pass *)of)->y;
    const cnn__sample_norm norm = cnn__sample_norm_of(y);
    const float *w = cnn__data(norm.w), *b = cnn__data(norm.b);
    float       *saved = y->graph->mode == CNN_TRAIN ? y->saved : NULL;
    const ptrdiff_t rows = (ptrdiff_t)y->shape.n * norm.groups;
    const cnn__cpu one = { y->graph->cpu.isa, 1, false, NULL };
    for (ptrdiff_t row = from; row < to; row++) {
        const float *x = y->in[0]->data + row * norm.k;
        float        mean = 0, rest = 0, variance = 0;
        if (norm.centred) cnn__fast_channel_moments(&one, &mean, &rest, &variance, x, 1, 1, norm.k);
        else           variance = (float)(cnn__sum_squares(&one, x, NULL, 0, norm.k) / (double)norm.k);
        const float rstd = 1 / sqrtf(variance + norm.eps);
        if (saved) saved[2 * row] = mean, saved[2 * row + 1] = rstd, saved[2 * rows + row] = rest;
        ptrdiff_t weight = row * norm.k % norm.period / norm.share;
        for (ptrdiff_t i = 0; i < norm.k; weight++) {
            const float factor = w ? rstd * w[weight] : rstd;
            const float offset = (b ? b[weight] : 0.0f) - rest * factor;
            for (ptrdiff_t end = i + norm.share; i < end; i++)
                y->data[row * norm.k + i] = (x[i] - mean) * factor + offset;
        }
    }
}
static void cnn__sample_norm_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    const int groups = cnn__sample_norm_of(y).groups;
    cnn__share_pass(y, NULL, cnn__len(y->shape), y->shape.n * groups, cnn__sample_norm_job);
}
/* sum[0] = sum dy, sum[1] = sum dy (x - mean - rest), over n elements: often one, in layer_norm. */
static void cnn__moments_of(const cnn__cpu *cpu, double sum[2], const float *x, const float *dy, float mean,
                            float rest, ptrdiff_t n)
{
    sum[0] = n < 32 ? 0 : cnn__sum(cpu, dy, NULL, 0, n);
    sum[1] = n < 32 ? 0 : cnn__sum_moments(cpu, x, dy, mean, n);
    for (ptrdiff_t i = 0; n < 32 && i < n; i++)
        sum[0] += (double)dy[i], sum[1] += (double)(dy[i] * (x[i] - mean));
    sum[1] -= (double)rest * sum[0];
}
static void cnn__sample_norm_dx_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn_tensor      *y = ((const cnn__pass *)of)->y;
    const cnn__sample_norm norm = cnn__sample_norm_of(y);
    const float *saved = y->saved, *rest = saved + 2 * (ptrdiff_t)y->shape.n * norm.groups;
    const float *w = cnn__data(norm.w), *x = y->in[0]->data, *dy = y->grad;
    float       *dx = y->in[0]->grad;
    for (ptrdiff_t row = from; row < to; row++) {
        const float     mean = saved[2 * row], rstd = saved[2 * row + 1];
        const ptrdiff_t at = row * norm.k, weight = at % norm.period / norm.share;
        double          sum = 0, moment = 0;
        for (ptrdiff_t i = 0; i < norm.k; i += norm.share) {
            const double factor = w ? (double)w[weight + i / norm.share] : 1.0;
            double       part[2];
            cnn__moments_of(&y->graph->cpu, part, x + at + i, dy + at + i, mean, rest[row], norm.share);
            sum += factor * part[0], moment += factor * part[1];
        }
        const double slope = moment * (double)rstd * (double)rstd / (double)norm.k;
        const double middle = norm.centred ? sum / (double)norm.k - (double)rest[row] * slope : 0;
        const float  m = (float)slope, d = (float)middle;
        for (ptrdiff_t i = 0; i < norm.k; ) {
            const float factor = w ? w[weight + i / norm.share] : 1.0f;
            for (ptrdiff_t end = i + norm.share; i < end; i++)
                dx[at + i] += (factor * dy[at + i] - d - (x[at + i] - mean) * m) * rstd;
        }
    }
}
static void cnn__sample_norm_dw_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn_tensor      *y = ((const cnn__pass *)of)->y;
    const cnn__sample_norm norm = cnn__sample_norm_of(y);
    const float *saved = y->saved, *rest = saved + 2 * (ptrdiff_t)y->shape.n * norm.groups;
    float       *dw = cnn__grad(norm.w), *db = cnn__grad(norm.b);
    for (ptrdiff_t i = from; i < to; i++) {
        double sum = 0, moment = 0;
        for (ptrdiff_t at = i * norm.share, all = cnn__len(y->shape); at < all; at += norm.period) {
            const ptrdiff_t row = at / norm.k;
            double          part[2];
            cnn__moments_of(&y->graph->cpu, part, y->in[0]->data + at, y->grad + at, saved[2 * row],
                            rest[row], norm.share);
            sum += part[0], moment += (double)saved[2 * row + 1] * part[1];
        }
        if (dw) dw[i] += (float)moment;
        if (db) db[i] += (float)sum;
    }
}
static void cnn__sample_norm_backward(cnn_tensor *y)
{
    const cnn__sample_norm norm = cnn__sample_norm_of(y);
    const int all = cnn__len(y->shape);
    if (y->in[0]->grad) cnn__share_pass(y, NULL, all, y->shape.n * norm.groups, cnn__sample_norm_dx_job);
    if (cnn__grad(norm.w) || cnn__grad(norm.b))
        cnn__share_pass(y, NULL, all, norm.period / norm.share, cnn__sample_norm_dw_job);
}
static size_t cnn__sample_norm_saved(const cnn_tensor *y)
{
    return 3 * (size_t)y->shape.n * (size_t)cnn__sample_norm_of(y).groups * sizeof(float);
}
static cnn_shape cnn__per_element(const cnn_tensor *y)
{
    const unsigned axes = ((const cnn_norm_args *)y->args)->axes;
    return (cnn_shape){ 1, axes & CNN_C ? y->shape.c : 1, axes & CNN_H ? y->shape.h : 1, y->shape.w };
}
#define CNN__SAMPLE_NORM(op_name, shape_rule, args, options, weights)                                        \
    CNN__ROOM cnn_op_##op_name = {                                                                           \
        .name = #op_name, .shape = shape_rule, .forward = cnn__sample_norm_forward,                          \
        .backward = cnn__sample_norm_backward, .saved = cnn__sample_norm_saved, .flags = CNN_READS_X,        \
        .args_size = sizeof(args), .fields = cnn__##options##_fields, .owned = cnn__##weights##_owned };
#define CNN__NORM_FIELDS(op_name, last, values, least)                                                       \
    static const cnn_field cnn__##op_name##_fields[] = {                                                     \
        CNN_FIELD('u', cnn_norm_args, axes, .preset = last, .range = values),                                \
        CNN_FIELD('f', cnn_norm_args, eps, .preset = least, .range = "(0,inf)"), { 0 } };
CNN__NORM_FIELDS(layer_norm,    CNN_C | CNN_H | CNN_W, NULL,      1e-5)
CNN__NORM_FIELDS(rms_norm,      CNN_C | CNN_H | CNN_W, NULL,      FLT_EPSILON)
CNN__NORM_FIELDS(instance_norm, CNN_H | CNN_W,         "[12,12]", 1e-5)
static const cnn_field cnn__group_norm_fields[] = {
    CNN_FIELD('i', cnn_group_norm_args, groups, .range = "[1,2147483647]", .what = "the number of groups"),
    CNN_FIELD('f', cnn_group_norm_args, eps, .preset = 1e-5, .range = "(0,inf)"), { 0 } };
static const cnn_owned cnn__layer_norm_owned[] = {
    CNN__AFFINE(cnn_norm_args, cnn__per_element, offsetof(cnn_norm_args, axes)), { 0 } };
static const cnn_owned cnn__rms_norm_owned[] = {
    CNN__AFFINE_PART("weight", 1, cnn_norm_args, cnn__per_element, offsetof(cnn_norm_args, axes)), { 0 } };
static const cnn_owned cnn__group_norm_owned[] = {
    CNN__AFFINE(cnn_group_norm_args, cnn__per_channel, 0), { 0 } };
static const cnn_owned cnn__instance_norm_owned[] = {
    CNN__AFFINE(cnn_norm_args, cnn__per_channel, 0), { 0 } };
CNN__SAMPLE_NORM(layer_norm,    cnn__layer_norm_shape, cnn_norm_args,       layer_norm,    layer_norm)
CNN__SAMPLE_NORM(rms_norm,      cnn__layer_norm_shape, cnn_norm_args,       rms_norm,      rms_norm)
CNN__SAMPLE_NORM(group_norm,    cnn__group_norm_shape, cnn_group_norm_args, group_norm,    group_norm)
CNN__SAMPLE_NORM(instance_norm, cnn__as_input,         cnn_norm_args,       instance_norm, instance_norm)

CNN__UNARY(cnn_layer_norm_, layer_norm, cnn_norm_args)
CNN__UNARY(cnn_rms_norm_,   rms_norm,   cnn_norm_args)
CNN__UNARY(cnn_group_norm_, group_norm, cnn_group_norm_args)

CNN_API cnn_tensor *cnn_instance_norm_(cnn_norm_args a)
{
    a.no_affine = !a.affine;
    return cnn_layer(&cnn_op_instance_norm, &a.x, 1, &a, a.at, a.name);
}

/* ---- lrn: local response normalisation -------------------------------------------------------------------
 *   s_c = k + alpha/size sum of x_j^2 for j = c - size/2 .. c + (size-1)/2 (within the channels),
 *   y_c = x_c s_c^-beta
 *   dx_c = dy_c s_c^-beta - 2 alpha beta / size x_c sum of dy_j y_j / s_j over all j whose window holds c
 *   At each pixel. Krizhevsky, Sutskever, Hinton 2012: size 5, beta 0.75, k 2, alpha/size 1e-4; the defaults
 *   are PyTorch's.
 * ------------------------------------------------------------------------------------------------------- */
/* s^-beta; three quarters, everybody's choice, is two square roots. */
static float cnn__lrn_power(float s, float beta)
{
    if (beta != 0.75f) return powf(s, -beta);
    const float root = sqrtf(s);
    return 1 / (root * sqrtf(root));
}
/* sum[i] += a_i b_i (/ s_i) over the channels [from,to] of one sample that exist, for m pixels; s may be
   NULL. */
static void cnn__lrn_sum(float *sum, const float *a, const float *b, const float *s, int from, int to, int c,
                         ptrdiff_t plane, ptrdiff_t m)
{
    for (int j = from < 0 ? 0 : from; j <= to && j < c; j++) {
        const ptrdiff_t at = j * plane;
        if (s) for (ptrdiff_t i = 0; i < m; i++) sum[i] += a[at + i] * b[at + i] / s[at + i];
        else   for (ptrdiff_t i = 0; i < m; i++) sum[i] += a[at + i] * b[at + i];
    }
}
enum { CNN__LRN_PIXELS = 256 };
static void cnn__lrn_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn_tensor   *y = ((const cnn__pass *)of)->y;
    const cnn_lrn_args *t = y->args;
    float          *dx = ((const cnn__pass *)of)->dx, *s = y->graph->mode == CNN_TRAIN ? y->saved : NULL;
    const int       c = y->shape.c, left = t->size / 2, right = (t->size - 1) / 2;
    const ptrdiff_t plane = cnn__plane(y->shape);
    const float    *x = y->in[0]->data, factor = 2 * t->alpha * t->beta / (float)t->size;
    for (ptrdiff_t row = from; row < to; row++)
        for (ptrdiff_t p = 0; p < plane; p += CNN__LRN_PIXELS) {
            const ptrdiff_t m = plane - p < CNN__LRN_PIXELS ? plane - p : CNN__LRN_PIXELS;
            const ptrdiff_t at = row * plane + p;
            const ptrdiff_t first = row / c * c * plane + p;                 /* the same pixel in channel 0 */
            float           sum[CNN__LRN_PIXELS] = { 0 };
            const int       ch = (int)(row % c);
            if (dx) cnn__lrn_sum(sum, y->grad + first, y->data + first, s + first, ch - right, ch + left, c,
                                 plane, m);
            else    cnn__lrn_sum(sum, x + first, x + first, NULL, ch - left, ch + right, c, plane, m);
            for (ptrdiff_t i = 0; i < m; i++) {
                const float base = dx ? s[at + i] : t->k + t->alpha / (float)t->size * sum[i];
                const float power = cnn__lrn_power(base, t->beta);
                if (dx) dx[at + i] += y->grad[at + i] * power - factor * x[at + i] * sum[i];
                else    y->data[at + i] = x[at + i] * power;
                if (!dx && s) s[at + i] = base;
            }
        }
}
static void cnn__lrn_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    cnn__share_pass(y, NULL, cnn__len(y->shape), y->shape.n * y->shape.c, cnn__lrn_job);
}
static void cnn__lrn_backward(cnn_tensor *y)
{
    float *dx = y->in[0]->grad;
    if (dx) cnn__share_pass(y, dx, cnn__len(y->shape), y->shape.n * y->shape.c, cnn__lrn_job);
}
static size_t cnn__lrn_saved(const cnn_tensor *y) { return (size_t)cnn__len(y->shape) * sizeof(float); }
static const cnn_field cnn__lrn_fields[] = {
    CNN_FIELD('i', cnn_lrn_args, size, .range = CNN__FROM_1, .what = "the channels of a window"),
    CNN_FIELD('f', cnn_lrn_args, alpha, .preset = 1e-4, .range = "[0,inf)"),
    CNN_FIELD('f', cnn_lrn_args, beta, .preset = 0.75, .range = "[0,inf)"),
    CNN_FIELD('f', cnn_lrn_args, k, .preset = 1, .range = "(0,inf)"), { 0 } };
CNN__ROOM cnn_op_lrn = {
    .name = "lrn", .shape = cnn__as_input, .forward = cnn__lrn_forward, .backward = cnn__lrn_backward,
    .saved = cnn__lrn_saved, .flags = CNN_READS_X | CNN_READS_Y, .args_size = sizeof(cnn_lrn_args),
    .fields = cnn__lrn_fields };

CNN__UNARY(cnn_lrn_,        lrn,        cnn_lrn_args)

/* -----------------------------------------------------------------------------------------------------------
   Chapter 4. Activations
   -------------------------------------------------------------------------------------------------------- */

/* ---- relu -------------------------------------------------------------------------------------------------
 *   y = max(0, x),   dx = dy, but 0 for y = 0           at x = 0 we take 0 (Nair, Hinton 2010); NaN stays NaN
 * -------------------------------------------------------------------------------------------------------- */
CNN__LOOP(cnn__each_relu,      float x = v[i]; v[i] = x < 0 ? 0.0f : x)
CNN__LOOP(cnn__each_relu_back, float dy = v[i]; v[i] = a[i] <= 0 ? 0.0f : dy)
CNN__FORMULA(relu, CNN_READS_Y | CNN_RECTIFIER, NULL)

/* ---- leaky_relu -------------------------------------------------------------------------------------------
 *   y = x for x > 0, else slope x;   dx = dy for y > 0, else slope dy                      (Maas et al. 2013)
 *   slope must not be negative, so that y has the sign of x; at x = 0 we take slope.
 * -------------------------------------------------------------------------------------------------------- */
CNN__LOOP(cnn__each_leaky_relu,      float x = v[i], z = x * k[0]; v[i] = x < 0 ? z : x)
CNN__LOOP(cnn__each_leaky_relu_back, float dy = v[i], z = dy * k[0]; v[i] = a[i] > 0 ? dy : z)
static const cnn_field cnn__leaky_relu_fields[] = {
    CNN_FIELD('f', cnn_leaky_relu_args, slope, .preset = 0.01, .range = "[0,inf)", .nth = 2), { 0 } };
CNN__FORMULA_OF(leaky_relu, CNN_READS_Y | CNN_RECTIFIER, cnn__as_input, offsetof(cnn_leaky_relu_args, slope),
                 0)

/* ---- sigmoid ----------------------------------------------------------------------------------------------
 *   y = 1 / (1 + e^-x),   dx = dy y (1 - y)
 * -------------------------------------------------------------------------------------------------------- */
CNN__LOOP(cnn__each_sigmoid,      v[i] = cnn__sigmoid(v[i]))
CNN__LOOP(cnn__each_sigmoid_back, v[i] = v[i] * a[i] * (1 - a[i]))
CNN__FORMULA(sigmoid, CNN_READS_Y | CNN_PROBABILITIES, NULL)

/* ---- clamp (relu6 is clamp from 0 to 6) -------------------------------------------------------------------
 *   y = min(max(x, low), high),   dx = dy [low < y < high];   at the two kinks 0, as for relu; NaN stays NaN;
 *   where low > high, high wins, as in numpy
 *   relu6: Howard et al. 2017.
 * -------------------------------------------------------------------------------------------------------- */
CNN__LOOP(cnn__each_clamp,      float x = v[i], z = x < k[0] ? k[0] : x; v[i] = z > k[1] ? k[1] : z)
CNN__LOOP(cnn__each_clamp_back, float dy = v[i], z = a[i] > k[0] ? dy : 0.0f; v[i] = a[i] < k[1] ? z : 0.0f)
static bool cnn__clamp_shape(cnn_tensor *y)
{
    const cnn_clamp_args *a = y->args;
    if (a->low != 0 || a->high != 0) return cnn__as_input(y);
    return cnn_fail(y, "low and high are missing");
}
static const cnn_field cnn__clamp_fields[] = {
    CNN_FIELD('f', cnn_clamp_args, low,  .range = "[-inf,inf]"),
    CNN_FIELD('f', cnn_clamp_args, high, .range = "[-inf,inf]"), { 0 } };
CNN__FORMULA_OF(clamp, CNN_READS_Y | CNN_RECTIFIER, cnn__clamp_shape, offsetof(cnn_clamp_args, low),
                 offsetof(cnn_clamp_args, high))

/* ---- elu --------------------------------------------------------------------------------------------------
 *   y = x for x > 0, else alpha (e^x - 1);   dx = dy for y > 0, else dy (y + alpha)   (Clevert et al. 2015)
 *   alpha must not be negative, so that y has the sign of x; at x = 0 we take alpha.
 * -------------------------------------------------------------------------------------------------------- */
CNN__LOOP(cnn__each_elu,      float x = v[i], z = k[0] * cnn__exp_less_one(cnn__within(-87, x, 0));
                              v[i] = x <= 0 ? z : x)
CNN__LOOP(cnn__each_elu_back, float dy = v[i], z = dy * (a[i] + k[0]); v[i] = a[i] > 0 ? dy : z)
static const cnn_field cnn__elu_fields[] = {
    CNN_FIELD('f', cnn_elu_args, alpha, .preset = 1, .range = "[0,inf)", .nth = 2), { 0 } };
CNN__FORMULA_OF(elu, CNN_READS_Y | CNN_RECTIFIER, cnn__as_input, offsetof(cnn_elu_args, alpha), 0)

/* ---- gelu -------------------------------------------------------------------------------------------------
 *   y = x P(x),   dx = dy (P(x) + x p(x))            P(x) = erfc(-x / sqrt 2) / 2, the normal distribution
 *   function, and p(x) = e^(-x^2/2) / sqrt(2 pi), its density                  (Hendrycks, Gimpel 2016)
 *   tanh:  P(x) is about (1 + tanh u) / 2 = s = 1 / (1 + e^-2u),   u = sqrt(2/pi) (x + 0.044715 x^3),
 *          y = x s,   dx = dy (s + x s (1 - s) 2 du/dx)                        (the same)
 * -------------------------------------------------------------------------------------------------------- */
CNN__LOOP(cnn__each_gelu,      float x = v[i]; v[i] = 0.5f * x * erfcf(x * -0.707106781f))
CNN__LOOP(cnn__each_gelu_back, float x = a[i];
                               v[i] *= 0.5f * erfcf(x * -0.707106781f) +
                                       x * 0.398942280f * cnn__exp(-0.5f * x * x))
CNN__LOOP(cnn__each_gelu_tanh,      float x = v[i];
                                    v[i] = x * cnn__sigmoid(1.59576912f * x * (1 + 0.044715f * x * x)))
CNN__LOOP(cnn__each_gelu_tanh_back, float x = a[i], q = x * x;
                                    float s = cnn__sigmoid(1.59576912f * x * (1 + 0.044715f * q));
                                    float z = s * (1 - s), u = 1 + 0.134145f * q;
                                    v[i] *= s + (z == 0 ? 0.0f : x * z * 1.59576912f * u))
static const cnn_field cnn__gelu_fields[] = { CNN_FIELD('i', cnn_gelu_args, tanh), { 0 } };
static const cnn_formula cnn__gelu_formulas[] = {
    { CNN__LOOPS(cnn__each_gelu), CNN__LOOPS(cnn__each_gelu_back), { 0, 0 }, offsetof(cnn_gelu_args, tanh) },
    { CNN__LOOPS(cnn__each_gelu_tanh), CNN__LOOPS(cnn__each_gelu_tanh_back), { 0, 0 }, 0 } };
CNN__ROOM cnn_op_gelu = {
    .name = "gelu", .shape = cnn__as_input, .forward = cnn__elementwise_forward,
    .backward = cnn__elementwise_backward,
    .flags = CNN_READS_X | CNN_INPLACE | CNN_INPLACE_GRAD | CNN_RECTIFIER, .args_size = sizeof(cnn_gelu_args),
    .fields = cnn__gelu_fields, .formula = cnn__gelu_formulas };

CNN__UNARY(cnn_gelu_, gelu, cnn_gelu_args)

/* ---- silu (swish) -----------------------------------------------------------------------------------------
 *   y = x s,   dx = dy s (1 + x (1 - s)),   s = 1 / (1 + e^-x)
 *   (Elfwing et al. 2017; Ramachandran et al. 2017)
 * -------------------------------------------------------------------------------------------------------- */
CNN__LOOP(cnn__each_silu,      v[i] *= cnn__sigmoid(v[i]))
CNN__LOOP(cnn__each_silu_back, float x = a[i], s = cnn__sigmoid(x); v[i] = v[i] * s * (1 + x * (1 - s)))
CNN__FORMULA(silu, CNN_READS_X | CNN_RECTIFIER, NULL)

/* ---- softplus ---------------------------------------------------------------------------------------------
 *   y = log(1 + e^(beta x)) / beta = max(x, 0) + log(1 + e^-|beta x|) / beta, which cannot overflow;
 *   dx = dy / (1 + e^(-beta x));   where beta x > threshold, y = x and dx = dy          (Dugas et al. 2001)
 *   At a low threshold y jumps and has values twice, so that the derivative needs x.
 * -------------------------------------------------------------------------------------------------------- */
CNN__LOOP(cnn__each_softplus,      float x = v[i], u = log1pf(cnn__exp(-fabsf(k[0] * x))) / k[0];
                                   float z = (x < 0 ? 0.0f : x) + u;
                                   v[i] = k[0] * x > k[1] ? x : z)
CNN__LOOP(cnn__each_softplus_back, float dy = v[i], x = k[0] * a[i], z = dy * cnn__sigmoid(x);
                                   v[i] = x > k[1] ? dy : z)
static const cnn_field cnn__softplus_fields[] = {
    CNN_FIELD('f', cnn_softplus_args, beta, .preset = 1, .range = "(0,inf)", .nth = 2),
    CNN_FIELD('f', cnn_softplus_args, threshold, .preset = 20, .range = "[0,inf]"), { 0 } };
CNN__FORMULA_OF(softplus, CNN_READS_X, cnn__as_input, offsetof(cnn_softplus_args, beta),
                 offsetof(cnn_softplus_args, threshold))

/* ---- hard_swish -------------------------------------------------------------------------------------------
 *   y = x min(max(x + 3, 0), 6) / 6;   dx = 0 for x <= -3, dy for x >= 3, else dy (2x + 3) / 6
 *   (Howard et al. 2019)
 * -------------------------------------------------------------------------------------------------------- */
CNN__LOOP(cnn__each_hard_swish,      float x = v[i], z = x < -3 ? -3.0f : x;
                                     v[i] = x * ((z > 3 ? 3.0f : z) + 3) / 6)
CNN__LOOP(cnn__each_hard_swish_back, float dy = v[i], x = a[i], z = dy * (2 * x + 3) / 6, u = x >= 3 ? dy : z;
                                     v[i] = x <= -3 ? 0.0f : u)
CNN__FORMULA(hard_swish, CNN_READS_X | CNN_RECTIFIER, NULL)

/* ---- selu, mish, hard_sigmoid, softsign -------------------------------------------------------------------
 *   selu:          y = k x for x > 0, else k alpha (e^x - 1),   dx = k dy for y > 0, else dy (y + k alpha)
 *                  alpha = 1.67326324, k = 1.05070099                               (Klambauer et al. 2017)
 *   mish:          y = x t,   dx = dy (t + x (1 - t^2) / (1 + e^-x)),   t = tanh(log(1 + e^x))  (Misra 2019)
 *   hard_sigmoid:  y = min(max(x + 3, 0), 6) / 6,   dx = dy/6 for 0 < y < 1, else 0     (Howard et al. 2019)
 *   softsign:      y = x / (1 + |x|),   dx = dy / (1 + |x|)^2
 * -------------------------------------------------------------------------------------------------------- */
CNN__LOOP(cnn__each_selu,      float x = v[i], z = 1.75809934f * cnn__exp_less_one(cnn__within(-87, x, 0));
                               float u = 1.05070099f * x; v[i] = x <= 0 ? z : u)
CNN__LOOP(cnn__each_selu_back, float dy = v[i], z = dy * (a[i] + 1.75809934f), u = dy * 1.05070099f;
                               v[i] = a[i] > 0 ? u : z)
CNN__LOOP(cnn__each_mish,      float x = v[i]; v[i] = x * cnn__tanh(cnn__softplus(x)))
CNN__LOOP(cnn__each_mish_back, float x = a[i], t = cnn__tanh(cnn__softplus(x));
                               v[i] *= t + x * (1 - t * t) * cnn__sigmoid(x))
CNN__LOOP(cnn__each_hard_sigmoid,      float x = v[i], z = x < -3 ? -3.0f : x;
                                       v[i] = ((z > 3 ? 3.0f : z) + 3) / 6)
CNN__LOOP(cnn__each_hard_sigmoid_back, float dy = v[i], z = a[i] > 0 ? dy / 6 : 0.0f;
                                       v[i] = a[i] < 1 ? z : 0.0f)
CNN__LOOP(cnn__each_softsign,      float x = v[i]; v[i] = x / (1 + fabsf(x)))
CNN__LOOP(cnn__each_softsign_back, float u = 1 / (1 + fabsf(a[i])); v[i] = v[i] * u * u)
CNN__FORMULA(selu,         CNN_READS_Y, NULL)
CNN__FORMULA(mish,         CNN_READS_X | CNN_RECTIFIER, NULL)
CNN__FORMULA(hard_sigmoid, CNN_READS_Y | CNN_PROBABILITIES, NULL)
CNN__FORMULA(softsign,     CNN_READS_X, NULL)

/* ---- An operation of your own: its room here --------------------------------------------------------------
   Its API block stands in the API, its word in CNN_OPS: these are all places.
 * -------------------------------------------------------------------------------------------------------- */

/* ---- exp, log, sqrt, abs, erf, power ----------------------------------------------------------------------
 *   y = e^x, dx = dy y     y = ln x, dx = dy / x     y = sqrt x, dx = dy / (2y)     y = |x|, dx = dy sign x
 *   y = erf x, dx = dy 2/sqrt(pi) e^(-x^2)           y = x^k, dx = dy k x^(k-1), 0 for k = 0
 *   Outside their domain log, sqrt and power are NaN, as the functions of math.h; at 0 the derivatives of log
 *   and sqrt are infinite, and that of |x| is 0.
 * -------------------------------------------------------------------------------------------------------- */
static const char *cnn__exp_hint(const cnn_tensor *y, const cnn_stats *x, bool backward)
{
    (void)y;
    return backward || !(x->max > 88.7) ? NULL
         : "exp overflows above 88.7: clamp its input, or use cnn_log_softmax or cnn_softmax_cross_entropy, "
           "which take logits";
}
static const char *cnn__log_hint(const cnn_tensor *y, const cnn_stats *x, bool backward)
{
    (void)y;
    return !backward ? "the log of a number that is not positive: keep it above 0 (cnn_clamp), or use "
                       "cnn_log_softmax or cnn_softmax_cross_entropy, which take logits"
         : x->min < 1e-30 ? "the derivative of log, 1 / x, is too large near 0: keep x away from it "
                            "(cnn_clamp), or use cnn_log_softmax or cnn_softmax_cross_entropy" : NULL;
}
static const char *cnn__sqrt_hint(const cnn_tensor *y, const cnn_stats *x, bool backward)
{
    (void)y;
    return !backward ? "the square root of a negative number: cnn_clamp it at 0"
         : x->zeros ? "the derivative of sqrt, 1 / (2 sqrt x), divides by zero at 0: add a small constant "
                      "before it" : NULL;
}
CNN__LOOP(cnn__each_exp,       v[i] = cnn__exp(v[i]))
CNN__LOOP(cnn__each_exp_back,  v[i] *= a[i])
CNN__LOOP(cnn__each_log,       v[i] = logf(v[i]))
CNN__LOOP(cnn__each_log_back,  v[i] /= a[i])
CNN__LOOP(cnn__each_sqrt,      v[i] = sqrtf(v[i]))
CNN__LOOP(cnn__each_sqrt_back, v[i] /= 2 * a[i])
CNN__LOOP(cnn__each_abs,       v[i] = fabsf(v[i]))
CNN__LOOP(cnn__each_abs_back,  float dy = v[i], z = a[i] < 0 ? -dy : 0.0f; v[i] = a[i] > 0 ? dy : z)
CNN__LOOP(cnn__each_erf,       v[i] = erff(v[i]))
CNN__LOOP(cnn__each_erf_back,  float x = a[i]; v[i] *= 1.12837917f * cnn__exp(-x * x))
CNN__LOOP(cnn__each_power,     v[i] = powf(v[i], k[0]))
CNN__LOOP(cnn__each_power_back, v[i] = k[0] == 0 ? 0.0f : v[i] * (k[0] * powf(a[i], k[0] - 1)))
CNN__FORMULA(exp,  CNN_READS_Y, cnn__exp_hint)
CNN__FORMULA(log,  CNN_READS_X, cnn__log_hint)
CNN__FORMULA(sqrt, CNN_READS_Y, cnn__sqrt_hint)
CNN__FORMULA(abs,  CNN_READS_X, NULL)
CNN__FORMULA(erf,  CNN_READS_X, NULL)
static const cnn_field cnn__power_fields[] = {
    CNN_FIELD('f', cnn_power_args, exponent, .preset = CNN_REQUIRED, .range = "(-inf,inf)", .nth = 2),
    { 0 } };
CNN__FORMULA_OF(power, CNN_READS_X, cnn__as_input, offsetof(cnn_power_args, exponent), 0)

/* ---- prelu -----------------------------------------------------------------------------------------------
 *   y = x for x > 0, else w x;   dx = dy for x > 0, else w dy;   dw = sum of dy x where x <= 0
 *   One w for all, (1,1,1,1), or one a channel, (1,C,1,1). It may become negative, so x is kept; at x = 0 we
 *   take w. (He et al. 2015)
 * ------------------------------------------------------------------------------------------------------- */
static cnn_shape cnn__prelu_weight(const cnn_tensor *y)         /* a given one may have either shape */
{
    const bool one = y->n_in > 1 ? y->in[1]->shape.c == 1 : !((const cnn_prelu_args *)y->args)->per_channel;
    return cnn__vector(one ? 1 : y->shape.c);
}
static void cnn__prelu_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn_tensor *y = ((const cnn__pass *)of)->y;
    const ptrdiff_t plane = cnn__plane(y->shape);
    const int       c = y->shape.c, step = y->in[1]->shape.c == 1 ? 0 : 1;
    const float    *x = y->in[0]->data, *w = y->in[1]->data;
    for (ptrdiff_t row = from; row < to; row++)
        for (ptrdiff_t i = row * plane; i < (row + 1) * plane; i++)
            y->data[i] = x[i] > 0 ? x[i] : w[row % c * step] * x[i];
}
static void cnn__prelu_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    cnn__share_pass(y, NULL, cnn__len(y->shape), y->shape.n * y->shape.c, cnn__prelu_job);
}
static void cnn__prelu_back_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn_tensor *y = ((const cnn__pass *)of)->y;
    const ptrdiff_t plane = cnn__plane(y->shape);
    const int       n = y->shape.n, c = y->shape.c, step = y->in[1]->shape.c == 1 ? 0 : 1;
    const float    *x = y->in[0]->data, *w = y->in[1]->data, *dy = y->grad;
    float          *dx = y->in[0]->grad;
    double         *sum = cnn_scratch(y);
    for (ptrdiff_t ch = from; ch < to; ch++) {
        sum[ch] = 0;
        for (int s = 0; s < n; s++)
            for (ptrdiff_t i = ((ptrdiff_t)s * c + ch) * plane, end = i + plane; i < end; i++) {
                if (dx) dx[i] += x[i] > 0 ? dy[i] : w[ch * step] * dy[i];
                if (!(x[i] > 0)) sum[ch] += (double)(dy[i] * x[i]);
            }
    }
}
static void cnn__prelu_backward(cnn_tensor *y)
{
    const int c = y->shape.c, weights = y->in[1]->shape.c;
    float    *dw = y->in[1]->grad;
    double   *sum = cnn_scratch(y);
    cnn__share_pass(y, NULL, cnn__len(y->shape), c, cnn__prelu_back_job);
    for (int ch = 1; ch < c && weights == 1; ch++) sum[0] += sum[ch];
    for (int ch = 0; dw && ch < weights; ch++) dw[ch] += (float)sum[ch];
}
static size_t cnn__prelu_scratch(const cnn_tensor *y) { return (size_t)y->shape.c * sizeof(double); }
static const cnn_field cnn__prelu_fields[] = {
    CNN_FIELD('f', cnn_prelu_args, start, .preset = 0.25), { 0 } };
static const cnn_owned cnn__prelu_owned[] = {
    { .suffix = "weight", .kind = CNN_PARAM, .shape = cnn__prelu_weight,
      .given = offsetof(cnn_prelu_args, weight), .gain = offsetof(cnn_prelu_args, start) }, { 0 } };
CNN__ROOM cnn_op_prelu = {
    .name = "prelu", .shape = cnn__as_input, .forward = cnn__prelu_forward, .backward = cnn__prelu_backward,
    .scratch = cnn__prelu_scratch, .flags = CNN_READS_X | CNN_INPLACE | CNN_RECTIFIER,
    .args_size = sizeof(cnn_prelu_args), .fields = cnn__prelu_fields, .owned = cnn__prelu_owned };

CNN__UNARY(cnn_prelu_, prelu, cnn_prelu_args)

/* ---- softmax, log_softmax ---------------------------------------------------------------------------------
 *   softmax:      y_k = e^x_k / sum_j e^x_j,                      dx_k = y_k (dy_k - sum_j dy_j y_j)
 *   log_softmax:  y_k = x_k - max - log sum_j e^(x_j - max),      dx_k = dy_k - e^y_k sum_j dy_j
 *   along C, H or W. For training, softmax_cross_entropy from the logits is more exact.         (Bridle 1990)
 * -------------------------------------------------------------------------------------------------------- */
/* Axis CNN_C is number 1 of N, C, H, W; 4: it is none of C, H, W. */
static int cnn__axis_number(unsigned axis)
{
    int i = 1;
    while (i < 4 && axis != 1u << i) i++;
    return i;
}
static void cnn__extents(cnn_shape s, int e[4]) { e[0] = s.n, e[1] = s.c, e[2] = s.h, e[3] = s.w; }

/* y as (n,c,plane), c being the axis. */
typedef struct { int n, c; ptrdiff_t plane; } cnn__lines;
static cnn__lines cnn__lines_of(const cnn_tensor *y)
{
    const cnn_softmax_args *a = y->args;
    const int axis = cnn__axis_number(a->axis);
    cnn__lines r = { 1, 1, 1 };
    int        e[4];
    cnn__extents(y->shape, e);
    for (int i = 0; i < axis; i++)     r.n *= e[i];
    for (int i = axis + 1; i < 4; i++) r.plane *= e[i];
    return r.c = e[axis], r;
}
static bool cnn__softmax_shape(cnn_tensor *y)
{
    const unsigned axis = ((const cnn_softmax_args *)y->args)->axis;
    if (cnn__axis_number(axis) > 3) return cnn_fail(y, "axis is %u: it must be CNN_C, CNN_H or CNN_W", axis);
    return cnn__as_input(y);
}
static void cnn__softmax_forward(cnn_tensor *y, cnn_mode m CNN__UNUSED)
{
    const cnn__lines r = cnn__lines_of(y);
    cnn__softmax(&y->graph->cpu, y->data, y->in[0]->data, r.n, r.c, r.plane);
}
static void cnn__softmax_backward(cnn_tensor *y)
{
    const cnn__lines r = cnn__lines_of(y);
    float *dx = y->in[0]->grad;
    if (dx) cnn__softmax_back(&y->graph->cpu, dx, y->grad, y->data, r.n, r.c, r.plane);
}
static void cnn__log_softmax_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn_tensor *y = ((const cnn__pass *)of)->y;
    float            *dx = ((const cnn__pass *)of)->dx;
    const cnn__lines  r = cnn__lines_of(y);
    for (ptrdiff_t i = from; i < to; i++) {
        const ptrdiff_t first = i / r.plane * r.c * r.plane + i % r.plane, end = first + r.c * r.plane;
        const float    *x = y->in[0]->data;
        float           most, rest = 0;
        double          sum = 0;
        if (!dx) rest = (float)log(cnn__exp_sum(&most, NULL, x + first, r.c, r.plane));
        for (ptrdiff_t at = first; at < end; at += r.plane)
            if (dx) sum += (double)y->grad[at];
            else    y->data[at] = (x[at] - most) - rest;
        for (ptrdiff_t at = first; dx && at < end; at += r.plane)
            dx[at] += y->grad[at] - cnn__exp(y->data[at]) * (float)sum;
    }
}
static void cnn__log_softmax_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    const cnn__lines r = cnn__lines_of(y);
    cnn__share_pass(y, NULL, 8.0 * cnn__len(y->shape), r.n * r.plane, cnn__log_softmax_job);
}
static void cnn__log_softmax_backward(cnn_tensor *y)
{
    const cnn__lines r = cnn__lines_of(y);
    float *dx = y->in[0]->grad;
    if (dx) cnn__share_pass(y, dx, 8.0 * cnn__len(y->shape), r.n * r.plane, cnn__log_softmax_job);
}
static const cnn_field cnn__softmax_fields[] = {
    CNN_FIELD('u', cnn_softmax_args, axis, .preset = CNN_C), { 0 } };
CNN__ROOM cnn_op_softmax = {
    .name = "softmax", .shape = cnn__softmax_shape, .forward = cnn__softmax_forward,
    .backward = cnn__softmax_backward, .flags = CNN_READS_Y | CNN_PROBABILITIES,
    .args_size = sizeof(cnn_softmax_args), .fields = cnn__softmax_fields };
CNN__ROOM cnn_op_log_softmax = {
    .name = "log_softmax", .shape = cnn__softmax_shape, .forward = cnn__log_softmax_forward,
    .backward = cnn__log_softmax_backward, .flags = CNN_READS_Y,
    .args_size = sizeof(cnn_softmax_args), .fields = cnn__softmax_fields };

CNN__UNARY(cnn_softmax_,     softmax,     cnn_softmax_args)
CNN__UNARY(cnn_log_softmax_, log_softmax, cnn_softmax_args)

/* ---- dropout ----------------------------------------------------------------------------------------------
 *   training:    y = x m / (1-p),   dx = dy m / (1-p),   m = 0 with probability p, else 1
 *   evaluation:  y = x         the factor above keeps the expected value     (Srivastava et al. 2014)
 *   m_i is random number i of this node and step: backward draws it again, so nothing has to be kept.
 * -------------------------------------------------------------------------------------------------------- */
static void cnn__dropout_forward(cnn_tensor *y, cnn_mode mode)
{
    const cnn_tensor *x = y->in[0];
    const float       p = ((const cnn_dropout_args *)y->args)->p;
    if (mode == CNN_TRAIN)
        cnn__dropout(&y->graph->cpu, y->data, x->data, false, p, y->graph->config.seed, cnn__stream(y),
                     cnn__len(y->shape));
    else cnn__map(&y->graph->cpu, NULL, y->data, x->data, NULL, NULL, NULL, cnn__len(y->shape));
}
static void cnn__dropout_backward(cnn_tensor *y)
{
    const float p = ((const cnn_dropout_args *)y->args)->p;
    float      *dx = y->in[0]->grad;
    if (dx)
        cnn__dropout(&y->graph->cpu, dx, y->grad, dx != y->grad, p, y->graph->config.seed, cnn__stream(y),
                     cnn__len(y->shape));
}
static const cnn_field cnn__dropout_fields[] = {
    CNN_FIELD('f', cnn_dropout_args, p, .preset = CNN_REQUIRED, .range = "[0,1)", .nth = 2,
              .what = "the probability of a zero"), { 0 } };
CNN__ROOM cnn_op_dropout = {
    .name = "dropout", .shape = cnn__as_input, .forward = cnn__dropout_forward,
    .backward = cnn__dropout_backward, .flags = CNN_INPLACE | CNN_INPLACE_GRAD | CNN_RANDOM,
    .args_size = sizeof(cnn_dropout_args), .fields = cnn__dropout_fields };

CNN__UNARY(cnn_dropout_,    dropout,    cnn_dropout_args)

/* -----------------------------------------------------------------------------------------------------------
   Chapter 5. Shapes: reshape, flatten, concat, pad, slice, permute, depth_to_space, upsample
   -------------------------------------------------------------------------------------------------------- */

/* ---- reshape (flatten is reshape to (N,C*H*W,1,1)) --------------------------------------------------------
 *   y = x,   dx = dy                                   the same numbers in the same order, with other extents
 * -------------------------------------------------------------------------------------------------------- */
static bool cnn__reshape_shape(cnn_tensor *y)
{
    if (!cnn__operands(y, 1, 1)) return false;
    const cnn_reshape_args *a = y->args;
    const cnn_tensor       *x = y->in[0];
    y->shape = (cnn_shape){ 1, a->c, a->h, a->w };
    if (cnn__checked_len(y->shape) != (size_t)cnn__sample(x->shape))
        return cnn_fail(y, "(%d,%d,%d) does not have the %d elements that a sample of %s has", y->shape.c,
                        y->shape.h, y->shape.w, cnn__sample(x->shape), cnn__shape_text(x).s);
    y->shape.n = x->shape.n;
    return true;
}
static void cnn__reshape_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    cnn__map(&y->graph->cpu, NULL, y->data, y->in[0]->data, NULL, NULL, NULL, cnn__len(y->shape));
}
static void cnn__reshape_backward(cnn_tensor *y)
{
    float *dx = y->in[0]->grad;
    if (dx) cnn__map_back(&y->graph->cpu, NULL, dx, y->grad, NULL, NULL, cnn__len(y->shape));
}
static const cnn_field cnn__reshape_fields[] = {
    CNN_FIELD('i', cnn_reshape_args, c, .preset = 1), CNN_FIELD('i', cnn_reshape_args, h, .preset = 1),
    CNN_FIELD('i', cnn_reshape_args, w, .preset = 1), { 0 } };
CNN__ROOM cnn_op_reshape = {
    .name = "reshape", .shape = cnn__reshape_shape, .forward = cnn__reshape_forward,
    .backward = cnn__reshape_backward, .flags = CNN_INPLACE | CNN_INPLACE_GRAD,
    .args_size = sizeof(cnn_reshape_args), .fields = cnn__reshape_fields };

CNN__UNARY(cnn_reshape_,    reshape,    cnn_reshape_args)

CNN_API cnn_tensor *cnn_flatten_(const char *at, cnn_tensor *x)
{
    if (cnn__is_nil(x)) return cnn__nil_tensor();
    return cnn_reshape_((cnn_reshape_args){ .at = at, .x = x, .c = cnn__sample(x->shape) });
}

/* ---- Moves: concat, pad, slice, permute, depth_to_space, space_to_depth, channel_shuffle ------------------
 *   y holds the elements of its operands at other places, which op->move tells: cnn_move.
 *   dx = dy at these places
 * -------------------------------------------------------------------------------------------------------- */

/* Element (n,c,h,w) of an array in its place in one of shape s. */
static cnn_move cnn__move_in(cnn_shape s, bool into)
{
    return (cnn_move){ into, 0, { 1, 1, 1, 1 }, { cnn__sample(s), cnn__plane(s), s.w, 1 }, { 0, 0, 0, 0 } };
}
static ptrdiff_t cnn__moved(const cnn_move *m, int axis, ptrdiff_t i)
{
    const int div = m->div[axis];
    return div == 1 ? i * m->step[axis] : i / div * m->step[axis] + i % div * m->within[axis];
}
/* n runs, copied or, with `add`, added: number i from from[i * from_step] to to[i * to_step]. */
static void cnn__copy_runs(float *to, ptrdiff_t to_step, const float *from, ptrdiff_t from_step, ptrdiff_t n,
                           ptrdiff_t run, cnn_each *add)
{
    for (ptrdiff_t i = 0; run > 1 && i < n; i++, to += to_step, from += from_step) {
        if (add) add(to, from, NULL, NULL, run);
        else     memcpy(to, from, (size_t)run * sizeof *to);
    }
    if (run > 1) return;
    if (add) for (ptrdiff_t i = 0; i < n; i++, to += to_step, from += from_step) *to += *from;
    else     for (ptrdiff_t i = 0; i < n; i++, to += to_step, from += from_step) *to = *from;
}
/* Between a, of shape s, and the places of its elements in b: a (+)= b or, with `into`, b (+)= a. What stays
   in order is one run; of the axis above it, each div-th run is `step` from the one before. */
typedef struct {
    const cnn_move *m;
    float *a, *b;
    bool into;
    cnn_each *add;
    int e[4], last;
    ptrdiff_t run;
} cnn__moving;
static void cnn__move_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn__moving *q = of;
    const cnn_move    *m = q->m;
    const ptrdiff_t    run = q->run, n = q->e[q->last], div = m->div[q->last], step = m->step[q->last];
    for (ptrdiff_t row = from; row < to; row++) {
        ptrdiff_t at = m->at, rest = row;
        for (int i = q->last - 1; i >= 0; rest /= q->e[i--]) at += cnn__moved(m, i, rest % q->e[i]);
        for (ptrdiff_t i = 0; i < div && i < n; i++) {
            float          *mine = q->a + (row * n + i) * run, *other = q->b + at + i * m->within[q->last];
            const ptrdiff_t count = (n - i + div - 1) / div;
            if (q->into) cnn__copy_runs(other, step, mine, div * run, count, run, q->add);
            else         cnn__copy_runs(mine, div * run, other, step, count, run, q->add);
        }
    }
}
static void cnn__move(const cnn__cpu *cpu, const cnn_move *m, cnn_shape s, float *a, float *b, bool into,
                      bool adds)
{
    cnn__moving q = { m, a, b, into, adds ? cnn__each_add(cpu) : NULL, { 0 }, 3, 1 };
    int         last = 3;
    ptrdiff_t   rows = 1;
    cnn__extents(s, q.e);
    for (; last > 0 && m->div[last] == 1 && (q.e[last] == 1 || m->step[last] == q.run); last--)
        q.run *= q.e[last];
    for (int i = 0; i < last; i++) rows *= q.e[i];
    q.last = last;
    cnn__share_out(cpu, CNN__SIMPLE * cnn__len(s), rows, cnn__move_job, &q);
}
static void cnn__move_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    cnn_move m;
    for (int k = 0; k < y->n_in && y->op->move(y, k, &m); k++) {
        cnn_tensor *x = y->in[k];
        if (m.into) cnn__move(&y->graph->cpu, &m, x->shape, x->data, y->data, true, false);
        else        cnn__move(&y->graph->cpu, &m, y->shape, y->data, x->data, false, false);
    }
}
static void cnn__move_backward(cnn_tensor *y)
{
    cnn_move m;
    for (int k = 0; k < y->n_in && y->op->move(y, k, &m); k++) {
        cnn_tensor *x = y->in[k];
        if (!x->grad)    continue;
        else if (m.into) cnn__move(&y->graph->cpu, &m, x->shape, x->grad, y->grad, false, true);
        else             cnn__move(&y->graph->cpu, &m, y->shape, y->grad, x->grad, true, true);
    }
}
#define CNN__MOVE(op_name, args)                                                                             \
    CNN__ROOM cnn_op_##op_name = {                                                                           \
        .name = #op_name, .shape = cnn__##op_name##_shape, .forward = cnn__move_forward,                     \
        .backward = cnn__move_backward, .move = cnn__##op_name##_move, .args_size = sizeof(args),            \
        .fields = cnn__##op_name##_fields };

/* ---- concat: one behind the other along an axis ---- */

static bool cnn__concat_shape(cnn_tensor *y)
{
    const cnn_tensor *first = y->in[0];
    const unsigned    axis = ((const cnn_concat_args *)y->args)->axis;
    const int         which = cnn__axis_number(axis);
    long long         all = 0;
    if (which > 3) return cnn_fail(y, "axis is %u: it must be CNN_C, CNN_H or CNN_W", axis);
    int e[4] = { 0 };
    for (int i = 0; i < y->n_in; i++) {
        const cnn_tensor *x = y->in[i];
        int               own[4];
        cnn__extents(x->shape, own);
        if (i == 0) memcpy(e, own, sizeof e);
        all += own[which], own[which] = e[which];
        if (memcmp(own, e, sizeof e) != 0 || x->batched != first->batched)
            return cnn_fail(y, "operand %d is %s, the first is %s: they may differ in %c only", i + 1,
                            cnn__shape_text(x).s, cnn__shape_text(first).s, "NCHW"[which]);
    }
    e[which] = all > INT_MAX ? 0 : (int)all;         /* cnn_apply refuses 0 as too large */
    y->shape = (cnn_shape){ e[0], e[1], e[2], e[3] };
    return true;
}
static bool cnn__concat_move(const cnn_tensor *y, int k, cnn_move *m)
{
    const int which = cnn__axis_number(((const cnn_concat_args *)y->args)->axis);
    *m = cnn__move_in(y->shape, true);
    for (int i = 0, e[4]; i < k; i++) cnn__extents(y->in[i]->shape, e), m->at += e[which] * m->step[which];
    return true;
}
static const cnn_field cnn__concat_fields[] = {
    CNN_FIELD('u', cnn_concat_args, axis, .preset = CNN_C), { 0 } };
CNN__MOVE(concat, cnn_concat_args)

CNN_API cnn_tensor *cnn_concat_along_(const char *at, unsigned axis, cnn_tensor *const *x, int n)
{
    return cnn_layer(&cnn_op_concat, x, n, &(cnn_concat_args){ at, ".axis", axis }, at, NULL);
}
CNN_API cnn_tensor *cnn_concat_(const char *at, cnn_tensor *const *x, int n)
{
    return cnn_concat_along_(at, CNN_C, x, n);
}

/* ---- pad --------------------------------------------------------------------------------------------------
 *   y = x with something around it: `value`, or elements of x; dx = the sum of dy over the places where it is
 *   The order of the sides is that of PyTorch's F.pad.
 * -------------------------------------------------------------------------------------------------------- */
static bool cnn__pad_shape(cnn_tensor *y)
{
    if (!cnn__operands(y, 1, 1)) return false;
    const cnn_pad_args *a = y->args;
    const cnn_shape     x = y->in[0]->shape;
    const int           limit = CNN__LARGEST_OPTION;
    if (x.c > INT_MAX - 2 * limit || x.h > INT_MAX - 2 * limit || x.w > INT_MAX - 2 * limit)
        return cnn_fail(y, "input %s is too large", cnn__shape_text(y->in[0]).s);
    if (a->mode == CNN_PAD_REFLECT && (a->front >= x.c || a->back >= x.c || a->top >= x.h || a->bottom >= x.h
                                       || a->left >= x.w || a->right >= x.w))
        return cnn_fail(y, "input %s in the mirror, without its edge, is less than what is added at a side",
                        cnn__shape_text(y->in[0]).s);
    y->shape = (cnn_shape){ x.n, x.c + a->front + a->back, x.h + a->top + a->bottom,
                            x.w + a->left + a->right };
    return true;
}
static bool cnn__pad_move(const cnn_tensor *y, int k, cnn_move *m)
{
    const cnn_pad_args *a = y->args;
    *m = cnn__move_in(y->shape, true);
    m->at = a->front * m->step[1] + a->top * m->step[2] + a->left;
    return k == 0 && a->mode == CNN_PAD_CONSTANT;
}
/* Place i of y along an axis is this place of x, of `size`, which begins at place `first`. */
static int cnn__pad_source(int mode, int i, int first, int size)
{
    const int k = i - first, last = size - 1;
    if (mode == CNN_PAD_REFLECT) return k < 0 ? -k : k > last ? 2 * last - k : k;
    return k < 0 ? 0 : k > last ? last : k;
}
static void cnn__pad_job(const void *of, ptrdiff_t first, ptrdiff_t end, int thread CNN__UNUSED)
{
    const cnn_tensor   *y = ((const cnn__pass *)of)->y;
    float              *dx = ((const cnn__pass *)of)->dx;
    const cnn_pad_args *a = y->args;
    const cnn_shape     x = y->in[0]->shape, s = y->shape;
    for (ptrdiff_t n = first; n < end; n++)
        for (ptrdiff_t i = 0; i < (ptrdiff_t)s.c * s.h; i++) {
            const int       c = cnn__pad_source(a->mode, (int)(i / s.h), a->front, x.c);
            const int       h = cnn__pad_source(a->mode, (int)(i % s.h), a->top, x.h);
            const ptrdiff_t row = ((n * x.c + c) * x.h + h) * x.w, to = (n * s.c * s.h + i) * s.w;
            for (int j = 0; j < s.w; j++) {
                const ptrdiff_t from = row + cnn__pad_source(a->mode, j, a->left, x.w);
                if (dx) dx[from] += y->grad[to + j];
                else    y->data[to + j] = y->in[0]->data[from];
            }
        }
}
static void cnn__pad_forward(cnn_tensor *y, cnn_mode mode)
{
    const cnn_pad_args *a = y->args;
    if (a->mode != CNN_PAD_CONSTANT) {
        cnn__share_pass(y, NULL, cnn__len(y->shape), y->shape.n, cnn__pad_job);
        return;
    }
    for (int i = 0; i < cnn__len(y->shape); i++) y->data[i] = a->value;
    cnn__move_forward(y, mode);
}
static void cnn__pad_backward(cnn_tensor *y)
{
    float *dx = y->in[0]->grad;
    if (((const cnn_pad_args *)y->args)->mode == CNN_PAD_CONSTANT) cnn__move_backward(y);
    else if (dx) cnn__share_pass(y, dx, cnn__len(y->shape), y->shape.n, cnn__pad_job);
}
static const cnn_field cnn__pad_fields[] = {
    CNN_FIELD('i', cnn_pad_args, left, .range = CNN__FROM_0),
    CNN_FIELD('i', cnn_pad_args, right, .range = CNN__FROM_0),
    CNN_FIELD('i', cnn_pad_args, top, .range = CNN__FROM_0),
    CNN_FIELD('i', cnn_pad_args, bottom, .range = CNN__FROM_0),
    CNN_FIELD('i', cnn_pad_args, front, .range = CNN__FROM_0),
    CNN_FIELD('i', cnn_pad_args, back, .range = CNN__FROM_0),
    CNN_FIELD('i', cnn_pad_args, mode, .range = "[0,2]"), CNN_FIELD('f', cnn_pad_args, value), { 0 } };
CNN__ROOM cnn_op_pad = {
    .name = "pad", .shape = cnn__pad_shape, .forward = cnn__pad_forward, .backward = cnn__pad_backward,
    .move = cnn__pad_move, .args_size = sizeof(cnn_pad_args), .fields = cnn__pad_fields };

CNN__UNARY(cnn_pad_, pad, cnn_pad_args)

/* ---- slice: the places from, from + step, ... below to, along one axis ----

   As in Python a negative place counts from the end; without `to` it goes on to the end. */
typedef struct { int axis, extent[4], from, to, step, count; } cnn__slice;
static cnn__slice cnn__slice_of(const cnn_tensor *y)
{
    const cnn_slice_args *a = y->args;
    cnn__slice            slice = { a->axis == CNN_N ? 0 : cnn__axis_number(a->axis), { 0 }, a->from, a->to,
                                a->step, 0 };
    const int             end = INT_MAX;
    cnn__extents(y->in[0]->shape, slice.extent);
    if (slice.axis == 4) return slice;
    if (slice.from < 0) slice.from += slice.extent[slice.axis];
    if (slice.to < 0 || slice.to == end) slice.to = slice.extent[slice.axis] + (slice.to < 0 ? slice.to : 0);
    if (slice.from >= 0 && slice.to > slice.from) slice.count = (slice.to - 1 - slice.from) / slice.step + 1;
    return slice;
}
static bool cnn__slice_shape(cnn_tensor *y)
{
    if (!cnn__operands(y, 1, 1)) return false;
    cnn__slice              slice = cnn__slice_of(y);
    const cnn_tensor       *x = y->in[0];
    const cnn_slice_args   *a = y->args;
    if (slice.axis == 4 || (slice.axis == 0 && x->batched))
        return cnn_fail(y, "axis is %u: it must be one of CNN_C, CNN_H, CNN_W, or CNN_N without a batch",
                        a->axis);
    if (slice.from < 0 || slice.to > slice.extent[slice.axis] || slice.to <= slice.from)
        return cnn_fail(y, "from %d to %d of input %s holds nothing, or leaves the extent %d of its axis",
                        a->from, a->to, cnn__shape_text(x).s, slice.extent[slice.axis]);
    slice.extent[slice.axis] = slice.count;
    y->shape = (cnn_shape){ slice.extent[0], slice.extent[1], slice.extent[2], slice.extent[3] };
    return true;
}
static bool cnn__slice_move(const cnn_tensor *y, int k CNN__UNUSED, cnn_move *m)
{
    const cnn__slice slice = cnn__slice_of(y);
    *m = cnn__move_in(y->in[0]->shape, false);
    m->at = slice.from * m->step[slice.axis];
    if (slice.count > 1) m->step[slice.axis] *= slice.step;
    return true;
}
static const cnn_field cnn__slice_fields[] = {
    CNN_FIELD('u', cnn_slice_args, axis), CNN_FIELD('i', cnn_slice_args, from),
    CNN_FIELD('i', cnn_slice_args, to, .preset = INT_MAX, .nth = 4),
    CNN_FIELD('i', cnn_slice_args, step, .preset = 1, .range = "[1,2147483647]"), { 0 } };
CNN__MOVE(slice, cnn_slice_args)

CNN__UNARY(cnn_slice_, slice, cnn_slice_args)

/* ---- permute, transpose: axes C, H, W in another order ---- */

static bool cnn__permute_shape(cnn_tensor *y)
{
    if (!cnn__operands(y, 1, 1)) return false;
    const cnn_permute_args *a = y->args;
    int                     e[5] = { 0 };
    if ((a->c | a->h | a->w) != (CNN_C | CNN_H | CNN_W) || a->c + a->h + a->w != (CNN_C | CNN_H | CNN_W))
        return cnn_fail(y, "axes %u, %u, %u: they must be CNN_C, CNN_H and CNN_W in some order", a->c, a->h,
                        a->w);
    cnn__extents(y->in[0]->shape, e);
    y->shape = (cnn_shape){ e[0], e[cnn__axis_number(a->c)], e[cnn__axis_number(a->h)],
                            e[cnn__axis_number(a->w)] };
    return true;
}
static bool cnn__permute_move(const cnn_tensor *y, int k CNN__UNUSED, cnn_move *m)
{
    const cnn_permute_args *a = y->args;
    const cnn_move          x = cnn__move_in(y->in[0]->shape, false);
    *m = x;
    m->step[1] = x.step[cnn__axis_number(a->c)];
    m->step[2] = x.step[cnn__axis_number(a->h)];
    m->step[3] = x.step[cnn__axis_number(a->w)];
    return true;
}
static const cnn_field cnn__permute_fields[] = {
    CNN_FIELD('u', cnn_permute_args, c), CNN_FIELD('u', cnn_permute_args, h),
    CNN_FIELD('u', cnn_permute_args, w), { 0 } };
CNN__MOVE(permute, cnn_permute_args)

CNN__UNARY(cnn_permute_, permute, cnn_permute_args)

CNN_API cnn_tensor *cnn_transpose_(const char *at, cnn_tensor *x, unsigned a, unsigned b)
{
    unsigned axis[3] = { CNN_C, CNN_H, CNN_W };
    for (int i = 0; i < 3; i++) axis[i] = axis[i] == a ? b : axis[i] == b ? a : axis[i];
    return cnn_permute_((cnn_permute_args){ .at = at, .x = x, .c = axis[0], .h = axis[1], .w = axis[2] });
}

/* ---- depth_to_space, space_to_depth: from the side of the array with fewer channels, and the other ---- */

static bool cnn__depth_to_space_shape(cnn_tensor *y)
{
    if (!cnn__operands(y, 1, 1)) return false;
    const int       r = ((const cnn_block_args *)y->args)->block;
    const cnn_shape x = y->in[0]->shape;
    if ((int64_t)r * r > x.c || x.c % (r * r) != 0)
        return cnn_fail(y, "block %d: its square must divide the %d channels of input %s", r, x.c,
                        cnn__shape_text(y->in[0]).s);
    y->shape = (cnn_shape){ x.n, x.c / (r * r), x.h * r, x.w * r };
    return true;
}
static bool cnn__space_to_depth_shape(cnn_tensor *y)
{
    if (!cnn__operands(y, 1, 1)) return false;
    const int       r = ((const cnn_block_args *)y->args)->block;
    const cnn_shape x = y->in[0]->shape;
    if (x.h % r != 0 || x.w % r != 0)
        return cnn_fail(y, "block %d must divide the rows and columns of input %s", r,
                        cnn__shape_text(y->in[0]).s);
    y->shape = (cnn_shape){ x.n, x.c * r * r, x.h / r, x.w / r };
    return true;
}
/* Element (n,c,h,w) of the flat array in the deep one, of shape s. */
static bool cnn__block_move(const cnn_tensor *y, cnn_shape s, bool into, cnn_move *m)
{
    const int r = ((const cnn_block_args *)y->args)->block, plane = cnn__plane(s);
    *m = cnn__move_in(s, into);
    m->step[1] = r * r * plane;
    m->div[2] = m->div[3] = r, m->within[2] = r * plane, m->within[3] = plane;
    return true;
}
static bool cnn__depth_to_space_move(const cnn_tensor *y, int k CNN__UNUSED, cnn_move *m)
{
    return cnn__block_move(y, y->in[0]->shape, false, m);
}
static bool cnn__space_to_depth_move(const cnn_tensor *y, int k CNN__UNUSED, cnn_move *m)
{
    return cnn__block_move(y, y->shape, true, m);
}
static const cnn_field cnn__depth_to_space_fields[] = {
    CNN_FIELD('i', cnn_block_args, block, .range = "[1,32768]"), { 0 } };
#define cnn__space_to_depth_fields cnn__depth_to_space_fields
CNN__MOVE(depth_to_space, cnn_block_args)
CNN__MOVE(space_to_depth, cnn_block_args)

CNN__UNARY(cnn_depth_to_space_, depth_to_space, cnn_block_args)
CNN__UNARY(cnn_space_to_depth_, space_to_depth, cnn_block_args)

/* ---- channel_shuffle: channels read as (groups, C/groups) and written as (C/groups, groups) ---- */

static bool cnn__channel_shuffle_shape(cnn_tensor *y)
{
    const int groups = ((const cnn_channel_shuffle_args *)y->args)->groups;
    if (!cnn__as_input(y)) return false;
    return y->shape.c % groups == 0
        || cnn_fail(y, "groups %d must divide the %d channels of input %s", groups, y->shape.c,
                    cnn__shape_text(y->in[0]).s);
}
static bool cnn__channel_shuffle_move(const cnn_tensor *y, int k CNN__UNUSED, cnn_move *m)
{
    const int groups = ((const cnn_channel_shuffle_args *)y->args)->groups;
    *m = cnn__move_in(y->shape, false);
    m->div[1] = groups, m->within[1] = y->shape.c / groups * m->step[1];
    return true;
}
static const cnn_field cnn__channel_shuffle_fields[] = {
    CNN_FIELD('i', cnn_channel_shuffle_args, groups, .range = "[1,2147483647]"), { 0 } };
CNN__MOVE(channel_shuffle, cnn_channel_shuffle_args)

CNN__UNARY(cnn_channel_shuffle_, channel_shuffle, cnn_channel_shuffle_args)

/* ---- upsample --------------------------------------------------------------------------------------------
 *   nearest:   y[i,j] = x[floor(i/S), floor(j/S)],   dx = the sum of dy over the copies,   S = height / H
 *   bilinear:  y[i,j] = (1-t)(1-u) x[a,b] + (1-t) u x[a,b+1] + t (1-u) x[a+1,b] + t u x[a+1,b+1],
 *              dx: the same shares of dy
 *   with a + t = (i + 1/2)/S - 1/2, at least 0, and rows beyond the last taken as the last: pixels are
 *   squares, and the corners of the images, not the centres of their corner pixels, lie on each other. With
 *   align_corners the centres do: a + t = i (H - 1) / (height - 1), 0 if the height is 1.
 *   x (N,C,H,W), y (N,C,height,width).
 * ------------------------------------------------------------------------------------------------------- */
typedef struct { int a, b; float t; } cnn__between;      /* (1-t) x[a] + t x[b] */
typedef enum { CNN__NEAREST, CNN__BILINEAR, CNN__ALIGNED } cnn__filter;
static cnn__filter cnn__filter_of(const cnn_tensor *y)
{
    const cnn_upsample_args *a = y->args;
    return !a->bilinear ? CNN__NEAREST : a->align_corners ? CNN__ALIGNED : CNN__BILINEAR;
}
static cnn__between cnn__source(int i, int in, int out, cnn__filter filter)      /* i of `out` among `in` */
{
    if (filter == CNN__NEAREST) {
        const int a = (int)((int64_t)i * in / out);
        return (cnn__between){ a, a, 0 };
    }
    float at = ((float)i + 0.5f) * (float)in / (float)out - 0.5f;
    if (filter == CNN__ALIGNED) at = out > 1 ? (float)i * (float)(in - 1) / (float)(out - 1) : 0.0f;
    if (at < 0) at = 0;
    const int a = (int)at < in - 1 ? (int)at : in - 1;
    return (cnn__between){ a, a + 1 < in ? a + 1 : a, at - (float)a };
}
static bool cnn__upsample_shape(cnn_tensor *y)
{
    if (!cnn__operands(y, 1, 1)) return false;
    const cnn_upsample_args *a = y->args;
    const cnn_shape          x = y->in[0]->shape;
    const int                h = a->height ? 1 : a->scale_h;
    const int                w = a->width ? 1 : a->scale_w;
    if (a->align_corners && !a->bilinear)
        return cnn_fail(y, "align_corners is for bilinear; nearest has no corners to align");
    if (h < 1 || w < 1 || x.h > CNN__LARGEST_OPTION / h || x.w > CNN__LARGEST_OPTION / w)
        return cnn_fail(y, "scale %d,%d of input %s: it must be positive, and no extent larger than 2^24", h,
                        w, cnn__shape_text(y->in[0]).s);
    y->shape = (cnn_shape){ x.n, x.c, a->height ? a->height : x.h * h, a->width ? a->width : x.w * w };
    return true;
}
static void cnn__upsample_job(const void *of, ptrdiff_t first, ptrdiff_t end, int thread CNN__UNUSED)
{
    const cnn_tensor   *y = ((const cnn__pass *)of)->y;
    float              *dx = ((const cnn__pass *)of)->dx;
    const cnn_shape     in = y->in[0]->shape, out = y->shape;
    const cnn__filter   filter = cnn__filter_of(y);
    const bool          bilinear = filter != CNN__NEAREST;
    const cnn__between *column = cnn_scratch(y);
    for (ptrdiff_t plane = first; plane < end; plane++)
        for (int i = 0; i < out.h; i++) {
            const cnn__between r = cnn__source(i, in.h, out.h, filter);
            const ptrdiff_t    a = (plane * in.h + r.a) * in.w, b = (plane * in.h + r.b) * in.w;
            const ptrdiff_t    to = (plane * out.h + i) * out.w;
            if (!dx) {
                const float *up = y->in[0]->data + a, *down = y->in[0]->data + b;
                for (int j = 0; j < out.w; j++) {
                    const cnn__between between = column[j];
                    y->data[to + j] = bilinear ? (1 - r.t) * ((1 - between.t) * up[between.a] + between.t
                                                              * up[between.b])
                                               + r.t * ((1 - between.t) * down[between.a] + between.t
                                                        * down[between.b]) : up[between.a];
                }
            } else {
                for (int j = 0; j < out.w; j++) {
                    const cnn__between between = column[j];
                    const float        dy = y->grad[to + j];
                    dx[a + between.a] += (1 - r.t) * (1 - between.t) * dy;
                    if (!bilinear) continue;
                    dx[a + between.b] += (1 - r.t) * between.t * dy;
                    dx[b + between.a] += r.t * (1 - between.t) * dy, dx[b + between.b] += r.t * between.t
                                         * dy;
                }
            }
        }
}
/* The places along a row are the same for all rows. */
static void cnn__upsample_run(cnn_tensor *y, float *dx)
{
    cnn__between *column = cnn_scratch(y);
    for (int j = 0; j < y->shape.w; j++)
        column[j] = cnn__source(j, y->in[0]->shape.w, y->shape.w, cnn__filter_of(y));
    cnn__share_pass(y, dx, cnn__len(y->shape), y->shape.n * y->shape.c, cnn__upsample_job);
}
static void cnn__upsample_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED) { cnn__upsample_run(y, NULL); }
static void cnn__upsample_backward(cnn_tensor *y)
{
    if (y->in[0]->grad) cnn__upsample_run(y, y->in[0]->grad);
}
static size_t cnn__upsample_scratch(const cnn_tensor *y) { return (size_t)y->shape.w * sizeof(cnn__between); }
static const cnn_field cnn__upsample_fields[] = {
    CNN_FIELD('i', cnn_upsample_args, scale), CNN_FIELD('i', cnn_upsample_args, scale_h, .like = "scale"),
    CNN_FIELD('i', cnn_upsample_args, scale_w, .like = "scale"), CNN_FIELD('i', cnn_upsample_args, bilinear),
    CNN_FIELD('i', cnn_upsample_args, align_corners),
    CNN_FIELD('i', cnn_upsample_args, height, .range = CNN__FROM_0),
    CNN_FIELD('i', cnn_upsample_args, width, .range = CNN__FROM_0), { 0 } };
CNN__ROOM cnn_op_upsample = {
    .name = "upsample", .shape = cnn__upsample_shape, .forward = cnn__upsample_forward,
    .backward = cnn__upsample_backward, .scratch = cnn__upsample_scratch,
    .args_size = sizeof(cnn_upsample_args), .fields = cnn__upsample_fields };

CNN__UNARY(cnn_upsample_,   upsample,   cnn_upsample_args)

/* -----------------------------------------------------------------------------------------------------------
   Chapter 6. Arithmetic: add, sub, mul, div, maximum, minimum, pow, scale, sum, mean, amax, amin
   -------------------------------------------------------------------------------------------------------- */

/* ---- add, sub, mul, div, maximum, minimum, pow ------------------------------------------------------------
 *   add: y = a + b, da = dy, db = dy    sub: y = a - b, da = dy, db = -dy  mul: y = a b, da = dy b, db = dy a
 *   div: y = a / b,   da = dy / b,   db = -dy a / b^2
 *   maximum:  da = dy [a > b] + dy/2 [a = b],   db = dy - da;   minimum: the same with a < b; NaN wins
 *   pow: y = a^b,   da = dy b a^(b-1), 0 for b = 0;   db = dy y log a, 0 for a = 0 <= b
 *   Broadcasting: an extent of 1 stretches to that of the other operand, the batch too; the gradient of what
 *   was stretched is summed over the copies.
 * -------------------------------------------------------------------------------------------------------- */
static bool cnn__stretch(int *y, int a, int b)
{
    *y = a == 1 ? b : a;
    return a == b || a == 1 || b == 1;
}
static bool cnn__binary_shape(cnn_tensor *y)
{
    if (!cnn__operands(y, 2, 2)) return false;
    const cnn_tensor *a = y->in[0], *b = y->in[1];
    bool fits = cnn__stretch(&y->shape.c, a->shape.c, b->shape.c);
    fits = cnn__stretch(&y->shape.h, a->shape.h, b->shape.h) && fits;
    fits = cnn__stretch(&y->shape.w, a->shape.w, b->shape.w) && fits;
    /* the batch has no fixed size: only a single sample stretches to it */
    if (a->batched != b->batched) {
        fits = (a->batched ? b : a)->shape.n == 1 && fits;
        y->shape.n = (a->batched ? a : b)->shape.n;
    } else {
        fits = cnn__stretch(&y->shape.n, a->shape.n, b->shape.n) && fits;
    }
    return fits
           || cnn_fail(y, "%s and %s do not fit: each extent must be equal, or 1 in one of them",
                       cnn__shape_text(a).s, cnn__shape_text(b).s);
}
static void cnn__binary_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    const cnn_tensor *a = y->in[0], *b = y->in[1];
    const cnn__cpu   *cpu = &y->graph->cpu;
    cnn__broadcast(cpu, cnn__loop(cpu, y->op->formula->forward), y->data, NULL, a->data, b->data, y->shape,
                   a->shape, b->shape, cnn__of(y)->tail);
}
/* A product's gradients need no array between: the sum over the copies takes two operands. */
static void cnn__binary_backward(cnn_tensor *y)
{
    const cnn__cpu *cpu = &y->graph->cpu;
    cnn_tensor     *a = y->in[0], *b = y->in[1];
    for (int i = 0; i < 2; i++) {
        const cnn_tensor *x = y->in[i], *other = y->in[1 - i];
        const float      *factor = y->op == &cnn_op_mul ? other->data : NULL;
        cnn_each         *f = cnn__loop(cpu, y->op->formula[i].backward);
        float            *d = f ? cnn_scratch(y) : y->grad;
        if (!x->grad || x->grad == y->grad) continue;
        if (f) cnn__broadcast(cpu, f, d, y->grad, a->data, b->data, y->shape, a->shape, b->shape, NULL);
        cnn__add_product(cpu, x->grad, d, factor, x->shape, y->shape, other->shape,
                         i == 1 && y->op == &cnn_op_sub ? -1.0f : 1.0f);
    }
}
static size_t cnn__binary_scratch(const cnn_tensor *y)
{
    return y->op->formula->backward[0] ? (size_t)cnn__len(y->shape) * sizeof(float) : 0;
}
static const char *cnn__div_hint(const cnn_tensor *y, const cnn_stats *x, bool backward)
{
    (void)y, (void)x, (void)backward;
    return "a division by zero, or nearly: keep the divisor away from 0 (cnn_clamp)";
}
static const char *cnn__pow_hint(const cnn_tensor *y, const cnn_stats *x, bool backward)
{
    (void)y, (void)backward;
    return x->min > 0 ? NULL : "a power of a number that is not positive: keep it above 0 (cnn_clamp)";
}
CNN__LOOP(cnn__each_div,            v[i] /= a[i])
CNN__LOOP(cnn__each_div_by,         v[i] /= b[i])
CNN__LOOP(cnn__each_div_back,       v[i] = -v[i] * (a[i] / b[i]) / b[i])
CNN__LOOP(cnn__each_if_larger,      float dy = v[i], z = a[i] == b[i] ? dy * 0.5f : dy;
                                    v[i] = a[i] < b[i] ? 0.0f : z)
CNN__LOOP(cnn__each_if_smaller,     float dy = v[i], z = a[i] == b[i] ? dy * 0.5f : dy;
                                    v[i] = a[i] > b[i] ? 0.0f : z)
CNN__LOOP(cnn__each_pow,            v[i] = powf(v[i], a[i]))
CNN__LOOP(cnn__each_pow_base,       v[i] = b[i] == 0 ? 0.0f : v[i] * (b[i] * powf(a[i], b[i] - 1)))
CNN__LOOP(cnn__each_pow_exponent,   const float z = v[i] * (powf(a[i], b[i]) * logf(a[i]));
                                    v[i] = a[i] == 0 && b[i] >= 0 ? 0.0f : z)
/* to_a, to_b: the loops of da and db; { NULL }: dy itself, but for the sign of sub and the factor of mul. */
#define CNN__BINARY(op_name, op_flags, to_a, to_b, doctor)                                                   \
    static const cnn_formula cnn__##op_name##_formula[] = {                                                  \
        { CNN__LOOPS(cnn__each_##op_name), to_a, { 0, 0 }, 0 },                                              \
        { CNN__LOOPS(cnn__each_##op_name), to_b, { 0, 0 }, 0 } };                                            \
    CNN__ROOM cnn_op_##op_name = {                                                                           \
        .name = #op_name, .shape = cnn__binary_shape, .forward = cnn__binary_forward,                        \
        .backward = cnn__binary_backward, .scratch = cnn__binary_scratch,                                    \
        .flags = CNN_INPLACE | CNN_JOINABLE | (op_flags), .formula = cnn__##op_name##_formula,               \
        .hint = doctor };                                                                                    \
    CNN__PLAIN_2(cnn_##op_name##_, op_name)
CNN__BINARY(add, CNN_INPLACE_GRAD, { NULL }, { NULL }, NULL)
CNN__BINARY(sub, CNN_INPLACE_GRAD, { NULL }, { NULL }, NULL)
CNN__BINARY(mul, CNN_READS_X,      { NULL }, { NULL }, NULL)
CNN__BINARY(div, CNN_READS_X, CNN__LOOPS(cnn__each_div_by), CNN__LOOPS(cnn__each_div_back), cnn__div_hint)
CNN__BINARY(maximum, CNN_READS_X, CNN__LOOPS(cnn__each_if_larger), CNN__LOOPS(cnn__each_if_smaller), NULL)
CNN__BINARY(minimum, CNN_READS_X, CNN__LOOPS(cnn__each_if_smaller), CNN__LOOPS(cnn__each_if_larger), NULL)
CNN__BINARY(pow, CNN_READS_X, CNN__LOOPS(cnn__each_pow_base), CNN__LOOPS(cnn__each_pow_exponent),
            cnn__pow_hint)

/* ---- scale ------------------------------------------------------------------------------------------------
 *   y = factor x + offset,   dx = factor dy
 * -------------------------------------------------------------------------------------------------------- */
CNN__LOOP(cnn__each_scale_back, v[i] *= k[0])
static const cnn_field cnn__scale_fields[] = {
    CNN_FIELD('f', cnn_scale_args, factor, .preset = 1, .nth = 2),
    CNN_FIELD('f', cnn_scale_args, offset), { 0 } };
CNN__FORMULA_OF(scale, 0, cnn__as_input, offsetof(cnn_scale_args, factor), offsetof(cnn_scale_args, offset))

/* ---- sum, mean, global_avg_pool ---------------------------------------------------------------------------
 *   y = s * sum of x over some axes,   dx = s dy for each element of the sum
 *   s = 1 for sum, 1/(elements) for mean; global_avg_pool is the mean over H and W (Lin et al. 2013).
 *   Reduced axes stay with extent 1; a sum over N is no longer batched.
 * -------------------------------------------------------------------------------------------------------- */
static bool cnn__reduce_shape(cnn_tensor *y)
{
    if (!cnn__operands(y, 1, 1)) return false;
    const unsigned  axes = ((const cnn_reduce_args *)y->args)->axes;
    const cnn_shape x = y->in[0]->shape;
    y->shape = (cnn_shape){ axes & CNN_N ? 1 : x.n, axes & CNN_C ? 1 : x.c, axes & CNN_H ? 1 : x.h,
                            axes & CNN_W ? 1 : x.w };
    if (axes & CNN_N) y->batched = false;
    return true;
}
static float cnn__reduce_factor(const cnn_tensor *y)
{
    return y->op == &cnn_op_sum ? 1.0f : (float)cnn__len(y->shape) / (float)cnn__len(y->in[0]->shape);
}
static void cnn__reduce_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    const cnn_tensor *x = y->in[0];
    memset(y->data, 0, (size_t)cnn__len(y->shape) * sizeof *y->data);
    cnn__add_product(&y->graph->cpu, y->data, x->data, NULL, y->shape, x->shape, x->shape,
                     cnn__reduce_factor(y));
}
static void cnn__reduce_backward(cnn_tensor *y)
{
    cnn_tensor *x = y->in[0];
    if (x->grad)
        cnn__add_product(&y->graph->cpu, x->grad, y->grad, NULL, x->shape, y->shape, y->shape,
                         cnn__reduce_factor(y));
}
static const cnn_field cnn__reduce_fields[] = {
    CNN_FIELD('u', cnn_reduce_args, axes, .preset = CNN_N | CNN_C | CNN_H | CNN_W, .range = "[1,15]",
              .what = "made of CNN_N | CNN_C | CNN_H | CNN_W"), { 0 } };
static const cnn_field cnn__global_fields[] = {
    CNN_FIELD('u', cnn_reduce_args, axes, .preset = CNN_H | CNN_W, .range = "[12,12]"), { 0 } };
/* ---- amax, amin -------------------------------------------------------------------------------------------
 *   y = the largest (smallest) x over some axes; NaN wins.   dx = dy / M where x = y, M of them, else 0
 * -------------------------------------------------------------------------------------------------------- */
static void cnn__most_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    const cnn__cpu *cpu = &y->graph->cpu;
    cnn_each       *f = y->op == &cnn_op_amax ? cnn__each_maximum(cpu) : cnn__each_minimum(cpu);
    cnn__fold(cpu, f, y->data, y->in[0]->data, y->shape, y->in[0]->shape);
}
static void cnn__most_backward(cnn_tensor *y)
{
    const cnn__cpu   *cpu = &y->graph->cpu;
    const cnn_tensor *x = y->in[0];
    const int         n = cnn__len(y->shape);
    float            *equal = cnn_scratch(y), *share = equal + cnn__len(x->shape);
    if (!x->grad) return;
    cnn__broadcast(cpu, cnn__each_equal(cpu), equal, NULL, x->data, y->data, x->shape, x->shape, y->shape,
                   NULL);
    memset(share, 0, (size_t)n * sizeof *share);
    cnn__add_product(cpu, share, equal, NULL, y->shape, x->shape, x->shape, 1);
    for (int i = 0; i < n; i++) share[i] = y->grad[i] / share[i];
    cnn__add_product(cpu, x->grad, equal, share, x->shape, x->shape, y->shape, 1);
}
static size_t cnn__most_scratch(const cnn_tensor *y)
{
    return ((size_t)cnn__len(y->shape) + (size_t)cnn__len(y->in[0]->shape)) * sizeof(float);
}

#define CNN__REDUCE(op_name, rule, options, ...)                                                             \
    CNN__ROOM cnn_op_##op_name = {                                                                           \
        .name = #op_name, .shape = cnn__reduce_shape, .forward = cnn__##rule##_forward,                      \
        .backward = cnn__##rule##_backward, .args_size = sizeof(cnn_reduce_args),                            \
        .fields = cnn__##options##_fields, __VA_ARGS__ };
CNN__REDUCE(sum,             reduce, reduce, .flags = CNN_ADDS_UP)
CNN__REDUCE(mean,            reduce, reduce, .flags = 0)
CNN__REDUCE(global_avg_pool, reduce, global, .flags = 0)
CNN__REDUCE(amax, most, reduce, .flags = CNN_READS_X | CNN_READS_Y, .scratch = cnn__most_scratch)
CNN__REDUCE(amin, most, reduce, .flags = CNN_READS_X | CNN_READS_Y, .scratch = cnn__most_scratch)

CNN__UNARY(cnn_sum_,  sum,  cnn_reduce_args)
CNN__UNARY(cnn_mean_, mean, cnn_reduce_args)
CNN__UNARY(cnn_amax_, amax, cnn_reduce_args)
CNN__UNARY(cnn_amin_, amin, cnn_reduce_args)
CNN__PLAIN_1(cnn_global_avg_pool_, global_avg_pool)

/* -----------------------------------------------------------------------------------------------------------
   Chapter 7. Losses: softmax_cross_entropy, nll, l1, huber, bce_with_logits, sigmoid_focal, dice
   -------------------------------------------------------------------------------------------------------- */

/* ---- softmax_cross_entropy --------------------------------------------------------------------------------
 *   J = 1/M sum over the labels of  - sum_k q_k log softmax(x)_k,    q_k = v_k ((1-e) p_k + e/C)
 *   dx = dJ/M (softmax(x) sum q - q),   e = smoothing, 0 for none     (Bridle 1990; Szegedy et al. 2016)
 *   p_k = [k = label], or that of soft labels. v_k, the weight of class k, is 1 without class weights, and
 *   then sum q = 1. M = sum of v_label over the labels, which is their number then, as it always is for soft
 *   ones. A label that is ignored counts neither in J nor in M; if all are, J is 0 (PyTorch: NaN).
 *   From logits: log softmax(x)_k = x_k - max - log sum_j e^(x_j - max), without overflow or log 0.
 *   x (N,C,H,W), labels (N,1,H,W), whole numbers from 0 to C-1, or soft, (N,C,H,W); dp = - dJ/M v (1-e) log
 *   softmax(x).
 * -------------------------------------------------------------------------------------------------------- */
/* Operand i must be a constant, one number for each channel of operand 0. what: "weight". */
static bool cnn__check_constant(cnn_tensor *y, int i, const char *what)
{
    const cnn_tensor *w = y->in[i];
    const int         c = y->in[0]->shape.c;
    if (w->batched || !cnn__equal(w->shape, cnn__vector(c)))
        return cnn_fail(y, "%s %s does not fit input %s: it must be (1,%d,1,1)", what, cnn__shape_text(w).s,
                        cnn__shape_text(y->in[0]).s, c);
    return (!w->op && w->kind != CNN_PARAM)
           || cnn_fail(y, "%s must not be learned: use cnn_const", what);
}
static bool cnn__labelled_shape(cnn_tensor *y)       /* of every loss that compares classes with labels */
{
    if (!cnn__operands(y, 2, 3)) return false;
    const cnn_tensor *x = y->in[0], *label = y->in[1];
    const bool may_be_soft = y->op == &cnn_op_softmax_cross_entropy && label->kind != CNN_LABELS;
    cnn_shape  must = x->shape;
    must.c = may_be_soft && label->shape.c == x->shape.c ? x->shape.c : 1;
    if (!cnn__equal(label->shape, must) || label->batched != x->batched)
        return cnn_fail(
            y,
            "labels %s do not fit logits %s: there must be one label per sample and pixel, so C is 1 and the "
            "rest is equal",
            cnn__shape_text(label).s, cnn__shape_text(x).s);
    if (x->shape.c == 1)
        return cnn_fail(y, "logits %s are of one class, whose probability is always 1: yes or no is "
                        "cnn_bce_with_logits, or two classes", cnn__shape_text(x).s);
    if (y->n_in == 3 && !cnn__check_constant(y, 2, "class weights")) return false;
    return cnn__reduced_shape(y, (cnn_shape){ x->shape.n, 1, x->shape.h, x->shape.w });
}
static cnn__target cnn__target_of(const cnn_tensor *y)
{
    return (cnn__target){ y->in[1]->data, y->n_in == 3 ? y->in[2]->data : NULL,
                          (float)cnn__option_named(y, "smoothing"), (int)cnn__option_named(y, "ignore_index"),
                          y->in[1]->shape.c > 1 };
}
/* How many labels there are: one for each sample and pixel. */
static ptrdiff_t cnn__label_count(const cnn_tensor *y)
{
    return cnn__len(y->in[1]->shape) / y->in[1]->shape.c;
}
static double cnn__labels_weigh(const cnn_tensor *y)
{
    const cnn__target target = cnn__target_of(y);
    double            sum = 0;
    if (target.soft) return (double)cnn__label_count(y);
    for (int i = 0; i < cnn__len(y->in[1]->shape); i++) sum += (double)cnn__label_weight(&target, i);
    return sum;
}
CNN_API bool cnn_check_labels(cnn_tensor *y)
{
    if (!(cnn__of(y->in[1])->data_on & CNN__HOST)) return true;
    const cnn_tensor *label = y->in[1];
    const cnn__target target = cnn__target_of(y);
    const int         classes = y->in[0]->shape.c, plane = cnn__plane(label->shape);
    for (int i = 0, n = target.soft ? 0 : cnn__len(label->shape); i < n; i++) {
        const float k = label->data[i];
        if (cnn__ignored(&target, i)) continue;
        if (!(k >= 0 && k < (float)classes) || k != floorf(k))
            return cnn_fail(y, "label %g of sample %d is not a class: logits %s have the classes 0 to %d",
                            (double)k, i / plane, cnn__shape_text(y->in[0]).s, classes - 1);
    }
    return true;
}
static double cnn__label_term(const cnn_tensor *y, ptrdiff_t i)
{
    return ((const double *)cnn_scratch(y))[i];
}
static void cnn__cross_entropy_forward(cnn_tensor *y, cnn_mode mode)
{
    const cnn_tensor *x = y->in[0];
    const cnn__target target = cnn__target_of(y);
    if (!cnn_check_labels(y)) return;
    cnn__cross_entropy(&y->graph->cpu, cnn_scratch(y), mode == CNN_TRAIN ? y->saved : NULL, x->data, &target,
                       x->shape.n, x->shape.c, cnn__plane(x->shape));
    cnn__reduce_terms(y, cnn__label_term, cnn__label_count(y), cnn__labels_weigh(y));
}
static void cnn__cross_entropy_backward(cnn_tensor *y)
{
    const cnn_tensor *x = y->in[0];
    const cnn__target target = cnn__target_of(y);
    float             one;
    ptrdiff_t         step;
    const float      *g = cnn__term_grads(y, cnn__labels_weigh(y), &one, &step);
    if (x->grad)
        cnn__cross_entropy_back(&y->graph->cpu, x->grad, g, step, y->saved, x->data, &target, x->shape.n,
                                x->shape.c, cnn__plane(x->shape));
    const ptrdiff_t plane = cnn__plane(x->shape), c = x->shape.c;
    float          *dp = target.soft ? y->in[1]->grad : NULL;
    for (ptrdiff_t i = 0; dp && i < cnn__len(x->shape); i++) {
        const ptrdiff_t row = i / plane / c * plane + i % plane;
        const float    *s = (const float *)y->saved + 2 * row;
        const float     v = target.weight ? target.weight[i / plane % c] : 1;
        dp[i] -= g[row * step] * v * (1 - target.e) * ((x->data[i] - s[0]) - s[1]);
    }
}
static size_t cnn__cross_entropy_saved(const cnn_tensor *y)
{
    return (size_t)cnn__label_count(y) * 2 * sizeof(float);
}
static size_t cnn__cross_entropy_scratch(const cnn_tensor *y)
{
    return (size_t)cnn__label_count(y) * sizeof(double);
}
static const cnn_field cnn__cross_entropy_fields[] = {
    CNN_FIELD('f', cnn_softmax_cross_entropy_args, smoothing, .range = "[0,1)"),
    CNN__IGNORES(cnn_softmax_cross_entropy_args),
    CNN__REDUCTION(cnn_softmax_cross_entropy_args), { 0 } };
CNN__ROOM cnn_op_softmax_cross_entropy = {
    .name = "softmax_cross_entropy", .shape = cnn__labelled_shape, .forward = cnn__cross_entropy_forward,
    .backward = cnn__cross_entropy_backward, .scratch = cnn__cross_entropy_scratch,
    .saved = cnn__cross_entropy_saved, .flags = CNN_READS_X | CNN_LOSS,
    .args_size = sizeof(cnn_softmax_cross_entropy_args), .fields = cnn__cross_entropy_fields,
    .expects = "logits: leave that out", .weight = cnn__labels_weigh };

CNN_API cnn_tensor *cnn_softmax_cross_entropy_(cnn_softmax_cross_entropy_args a)
{
    cnn_tensor *in[3] = { a.logits, a.labels, a.class_weights };
    return cnn_layer(&cnn_op_softmax_cross_entropy, in, in[2] ? 3 : 2, &a, a.at, a.name);
}

/* ---- nll: negative log-likelihood -------------------------------------------------------------------------
 *   J = - 1/M sum of v_label x_label,   dx_label = - dJ v_label / M
 *   x: log-probabilities, as from log_softmax;   v, M, ignored labels: as for softmax_cross_entropy
 * ------------------------------------------------------------------------------------------------------- */
/* Where the element of x that label i names is. */
static ptrdiff_t cnn__at_label(const cnn_tensor *y, ptrdiff_t i)
{
    const cnn_shape x = y->in[0]->shape;
    const ptrdiff_t plane = cnn__plane(x);
    return (i / plane * x.c + (ptrdiff_t)y->in[1]->data[i]) * plane + i % plane;
}
static void cnn__nll_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    const cnn__target target = cnn__target_of(y);
    double           *each = cnn_scratch(y);
    if (!cnn_check_labels(y)) return;
    for (ptrdiff_t i = 0; i < cnn__label_count(y); i++)
        each[i] = cnn__ignored(&target, i) ? 0
                : -(double)cnn__label_weight(&target, i) * (double)y->in[0]->data[cnn__at_label(y, i)];
    cnn__reduce_terms(y, cnn__label_term, cnn__label_count(y), cnn__labels_weigh(y));
}
static void cnn__nll_backward(cnn_tensor *y)
{
    const cnn__target target = cnn__target_of(y);
    float            *dx = y->in[0]->grad, one;
    ptrdiff_t         step;
    const float      *g = cnn__term_grads(y, cnn__labels_weigh(y), &one, &step);
    for (ptrdiff_t i = 0; dx && i < cnn__label_count(y); i++)
        if (!cnn__ignored(&target, i)) dx[cnn__at_label(y, i)] -= g[i * step] * cnn__label_weight(&target, i);
}
static const cnn_field cnn__nll_fields[] = {
    CNN__IGNORES(cnn_nll_args), CNN__REDUCTION(cnn_nll_args), { 0 } };
CNN__ROOM cnn_op_nll = {
    .name = "nll", .shape = cnn__labelled_shape, .forward = cnn__nll_forward, .backward = cnn__nll_backward,
    .scratch = cnn__cross_entropy_scratch, .flags = CNN_READS_X | CNN_LOSS,
    .args_size = sizeof(cnn_nll_args), .fields = cnn__nll_fields,
    .expects = "log-probabilities: use cnn_log_softmax", .weight = cnn__labels_weigh };

CNN_API cnn_tensor *cnn_nll_(cnn_nll_args a)
{
    cnn_tensor *in[3] = { a.log_probabilities, a.labels, a.class_weights };
    return cnn_layer(&cnn_op_nll, in, in[2] ? 3 : 2, &a, a.at, a.name);
}

/* ---- l1, huber, bce_with_logits, sigmoid_focal -----------------------------------------------------------
 *   J = 1/K sum of f over all K elements,   d = x - t
 *   l1:               f = |d|,   df/dx = sign d, 0 at 0,   df/dt = -df/dx
 *   huber:            f = d^2/2 for |d| <= delta, else delta (|d| - delta/2);   df/dx = d, cut to
 *                     -delta..delta (Huber 1964);   smooth_l1: f / delta (Girshick 2015)
 *   bce_with_logits:  f = w (-p t log s - (1-t) log(1-s)) = w ((1-t) x + (1 + (p-1) t) L),
 *                     df/dx = w (s - t - (p-1) t (1 - s)),   df/dt = w ((p-1) L - x)
 *                     with s = 1 / (1 + e^-x), L = -log s = max(-x,0) + log(1 + e^-|x|), and t in 0..1:
 *                     binary cross-entropy, one independent yes or no per element. p (pos_weight) and w
 *                     (weight) are of the element's channel, or 1.
 *   sigmoid_focal:    f = a c m^gamma,   a = alpha t + (1-alpha) (1-t), or 1,   c = (1-t) x + L,
 *                     m = s (1-t) + (1-s) t:  1 - the probability of the truth          (Lin et al. 2017)
 *                     df/dx = a ((s-t) m^gamma + c gamma m^(gamma-1) (1-2t) s (1-s)),
 *                     df/dt = a (-x m^gamma + c gamma m^(gamma-1) (1-2s)) + (2 alpha - 1) c m^gamma
 * ------------------------------------------------------------------------------------------------------- */
typedef struct { float x, t; } cnn__slope;                                         /* df/dx, df/dt */
typedef cnn__slope cnn__slopes(const cnn_tensor *y, ptrdiff_t i);

typedef struct { const cnn_tensor *y; cnn__slopes *f; const float *g; ptrdiff_t step; } cnn__sloping;
static void cnn__slopes_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn__sloping *q = of;
    float              *dx = q->y->in[0]->grad, *dt = q->y->in[1]->grad;
    for (ptrdiff_t i = from; i < to; i++) {
        const cnn__slope s = q->f(q->y, i);
        if (dx) dx[i] += q->g[i * q->step] * s.x;
        if (dt) dt[i] += q->g[i * q->step] * s.t;
    }
}
static void cnn__add_slopes(cnn_tensor *y, cnn__slopes *f)
{
    const int    n = cnn__len(y->in[0]->shape);
    float        one;
    cnn__sloping q = { .y = y, .f = f };
    q.g = cnn__term_grads(y, n, &one, &q.step);
    cnn__share_out(&y->graph->cpu, 8 * CNN__SIMPLE * n, n, cnn__slopes_job, &q);
}
static bool cnn__huber_shape(cnn_tensor *y)
{
    const cnn_huber_args *a = y->args;
    return a->delta > 0 || a->smooth_l1 ? cnn__mse_shape(y) : cnn_fail(y, "delta is 0: it must be positive");
}
/* l1 is smooth_l1 of delta 0. */
static double cnn__delta(const cnn_tensor *y, double *factor)
{
    const cnn_huber_args *a = y->op == &cnn_op_huber ? y->args : NULL;
    *factor = a && a->delta > 0 && a->smooth_l1 ? 1 / (double)a->delta : 1;
    return a ? (double)a->delta : 0;
}
static double cnn__huber_term(const cnn_tensor *y, ptrdiff_t i)
{
    const double d = fabs((double)y->in[0]->data[i] - (double)y->in[1]->data[i]);
    double       factor;
    const double delta = cnn__delta(y, &factor);
    return delta == 0 ? d : factor * (d <= delta ? d * d / 2 : delta * (d - delta / 2));
}
static cnn__slope cnn__huber_slope(const cnn_tensor *y, ptrdiff_t i)
{
    double      factor;
    const float delta = (float)cnn__delta(y, &factor), d = y->in[0]->data[i] - y->in[1]->data[i];
    const float cut = d > delta ? delta : d < -delta ? -delta : d;
    const float f = delta > 0 ? (float)factor * cut : (float)((d > 0) - (d < 0));
    return (cnn__slope){ f, -f };
}
/* The operands after the target are p and w. */
static bool cnn__bce_shape(cnn_tensor *y)
{
    static const char *const name[] = { "pos_weight", "weight" };
    if (!cnn__operands(y, 2, 4)) return false;
    for (int i = 2; i < y->n_in; i++)
        if (!cnn__check_constant(y, i, name[i - 2])) return false;
    return cnn__target_shape(y);
}
static float cnn__bce_factor(const cnn_tensor *y, int operand, ptrdiff_t i)
{
    const cnn_shape s = y->in[0]->shape;
    return y->n_in > operand ? y->in[operand]->data[i / cnn__plane(s) % s.c] : 1.0f;
}
/* L above */
static double cnn__log_sigmoid(double x) { return (x < 0 ? -x : 0) + log1p(exp(-fabs(x))); }

static double cnn__bce_term(const cnn_tensor *y, ptrdiff_t i)
{
    const double x = (double)y->in[0]->data[i], t = (double)y->in[1]->data[i];
    const double p = (double)cnn__bce_factor(y, 2, i), w = (double)cnn__bce_factor(y, 3, i);
    return w * ((1 - t) * x + (1 + (p - 1) * t) * cnn__log_sigmoid(x));
}
static cnn__slope cnn__bce_slope(const cnn_tensor *y, ptrdiff_t i)
{
    const float x = y->in[0]->data[i], t = y->in[1]->data[i], s = cnn__sigmoid(x);
    const float more = cnn__bce_factor(y, 2, i) - 1, w = cnn__bce_factor(y, 3, i);
    return (cnn__slope){ w * (s - t - more * t * (1 - s)), w * (more * cnn__softplus(-x) - x) };
}
/* f, and its derivatives to x and t. */
static void cnn__focal(const cnn_tensor *y, ptrdiff_t i, double f[3])
{
    const cnn_sigmoid_focal_args *o = y->args;
    const double x = (double)y->in[0]->data[i], t = (double)y->in[1]->data[i];
    const double alpha = (double)o->alpha, gamma = (double)o->gamma;
    const double s = 1 / (1 + exp(-x)), no = 1 / (1 + exp(x)), m = s * (1 - t) + no * t;
    const double c = (1 - t) * x + cnn__log_sigmoid(x), a = alpha < 0 ? 1 : alpha * t + (1 - alpha) * (1 - t);
    const double power = pow(m, gamma), slope = m > 0 ? gamma * power / m : 0;
    f[0] = a * c * power;
    f[1] = a * ((s - t) * power + c * slope * (1 - 2 * t) * s * no);
    f[2] = a * (c * slope * (no - s) - x * power) + (alpha < 0 ? 0 : 2 * alpha - 1) * c * power;
}
static double cnn__focal_term(const cnn_tensor *y, ptrdiff_t i)
{
    double f[3];
    return cnn__focal(y, i, f), f[0];
}
static cnn__slope cnn__focal_slope(const cnn_tensor *y, ptrdiff_t i)
{
    double f[3];
    return cnn__focal(y, i, f), (cnn__slope){ (float)f[1], (float)f[2] };
}
static const cnn_field cnn__huber_fields[] = {
    CNN_FIELD('f', cnn_huber_args, delta, .preset = 1, .range = "[0,inf]", .nth = 3),
    CNN_FIELD('i', cnn_huber_args, smooth_l1), CNN__REDUCTION(cnn_huber_args), { 0 } };
static const cnn_field cnn__bce_fields[] = { CNN__REDUCTION(cnn_bce_with_logits_args), { 0 } };
static const cnn_field cnn__focal_fields[] = {
    CNN_FIELD('f', cnn_sigmoid_focal_args, alpha, .preset = 0.25, .range = "(-inf,1]", .nth = 3),
    CNN_FIELD('f', cnn_sigmoid_focal_args, gamma, .preset = 2, .range = "[0,inf)", .nth = 4),
    CNN__REDUCTION(cnn_sigmoid_focal_args), { 0 } };
#define CNN__PAIR_LOSS(op_name, shape_rule, rule, args, options, expected)                                   \
    static void cnn__##op_name##_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)                           \
    {                                                                                                        \
        const int n = cnn__len(y->in[0]->shape);                                                             \
        cnn__reduce_terms(y, cnn__##rule##_term, n, n);                                                      \
    }                                                                                                        \
    static void cnn__##op_name##_backward(cnn_tensor *y) { cnn__add_slopes(y, cnn__##rule##_slope); }        \
    CNN__ROOM cnn_op_##op_name = {                                                                           \
        .name = #op_name, .shape = cnn__##shape_rule##_shape, .forward = cnn__##op_name##_forward,           \
        .backward = cnn__##op_name##_backward, .flags = CNN_READS_X | CNN_LOSS, .args_size = sizeof(args),   \
        .fields = cnn__##options##_fields, .expects = expected };
CNN__PAIR_LOSS(l1,              mse,   huber, cnn_distance_args,        distance, NULL)
CNN__PAIR_LOSS(huber,           huber, huber, cnn_huber_args,           huber,    NULL)
CNN__PAIR_LOSS(bce_with_logits, bce,   bce,   cnn_bce_with_logits_args, bce,      "logits: leave that out")
CNN__PAIR_LOSS(sigmoid_focal,   mse,   focal, cnn_sigmoid_focal_args,   focal,    "logits: leave that out")

CNN__PAIR(l1,            cnn_distance_args,      y,      target)
CNN__PAIR(huber,         cnn_huber_args,         y,      target)
CNN__PAIR(sigmoid_focal, cnn_sigmoid_focal_args, logits, target)

CNN_API cnn_tensor *cnn_bce_with_logits_(cnn_bce_with_logits_args a)
{
    cnn_tensor *in[4] = { a.logits, a.target, a.pos_weight, a.weight };
    if (a.weight && !a.pos_weight) {            /* a weight alone: each yes counts once */
        if (cnn__is_nil(a.logits)) return cnn__nil_tensor();
        cnn_graph *g = a.logits->graph;
        const int  c = a.logits->shape.c;
        float     *ones = cnn__alloc(g, (size_t)c * sizeof *ones);
        for (int i = 0; ones && i < c; i++) ones[i] = 1;
        in[2] = ones ? cnn_const_(a.at, g, cnn__vector(c), ones) : cnn__nil_tensor();
    }
    return cnn_layer(&cnn_op_bce_with_logits, in, in[3] ? 4 : in[2] ? 3 : 2, &a, a.at, a.name);
}

/* ---- dice -------------------------------------------------------------------------------------------------
 *   f = 1 - (2 I + s) / (S + s),   I = sum p t,   S = sum p + sum t  over the pixels of each channel (n,c),
 *   df/dp = - (2 t - (2 I + s) / (S + s)) / (S + s),   df/dt likewise with 2 p
 *   s = smooth; J = the mean of f. Labels are t = [label = c]; an ignored pixel counts neither in I nor in S.
 *   (Milletari et al. 2016, with S of p and t instead of their squares; MONAI's DiceLoss)
 * -------------------------------------------------------------------------------------------------------- */
static bool cnn__dice_shape(cnn_tensor *y)
{
    if (!cnn__operands(y, 2, 2)) return false;
    const cnn_tensor *p = y->in[0], *t = y->in[1];
    cnn_shape         labels = p->shape;
    labels.c = t->shape.c == 1 ? 1 : p->shape.c;
    if (!cnn__equal(t->shape, labels) || t->batched != p->batched)
        return cnn_fail(y, "target %s does not fit %s: it must have the same shape, or be labels with C = 1",
                        cnn__shape_text(t).s, cnn__shape_text(p).s);
    return cnn__reduced_shape(y, (cnn_shape){ p->shape.n, p->shape.c, 1, 1 });
}
static bool cnn__dice_labels(const cnn_tensor *y) { return y->in[1]->shape.c != y->in[0]->shape.c; }

/* Of channel i of N*C and a pixel: where p is, and t; -1 if it is ignored. */
static double cnn__dice_target(const cnn_tensor *y, ptrdiff_t i, ptrdiff_t pixel)
{
    const ptrdiff_t plane = cnn__plane(y->in[0]->shape), c = y->in[0]->shape.c;
    const int       ignore = ((const cnn_dice_args *)y->args)->ignore_index;
    const float     t = y->in[1]->data[(cnn__dice_labels(y) ? i / c : i) * plane + pixel];
    if (t == (float)ignore) return -1;
    return cnn__dice_labels(y) ? t == (float)(i % c) : (double)t;
}
/* (2 I + s) / (S + s); *under: S + s */
static double cnn__dice_overlap(const cnn_tensor *y, ptrdiff_t i, double *under)
{
    const double smooth = (double)((const cnn_dice_args *)y->args)->smooth;
    double       product = 0, sum = 0;
    for (ptrdiff_t j = 0, plane = cnn__plane(y->in[0]->shape); j < plane; j++) {
        const double p = (double)y->in[0]->data[i * plane + j], t = cnn__dice_target(y, i, j);
        if (t >= 0) product += p * t, sum += p + t;
    }
    *under = sum + smooth;
    return (2 * product + smooth) / *under;
}
static double cnn__dice_term(const cnn_tensor *y, ptrdiff_t i)
{
    double under;
    return 1 - cnn__dice_overlap(y, i, &under);
}
static void cnn__dice_forward(cnn_tensor *y, cnn_mode mode CNN__UNUSED)
{
    const int n = y->in[0]->shape.n * y->in[0]->shape.c;
    if (!cnn__dice_labels(y) || cnn_check_labels(y)) cnn__reduce_terms(y, cnn__dice_term, n, n);
}
static void cnn__dice_backward(cnn_tensor *y)
{
    const ptrdiff_t plane = cnn__plane(y->in[0]->shape), n = (ptrdiff_t)y->in[0]->shape.n * y->in[0]->shape.c;
    float          *dp = y->in[0]->grad, *dt = cnn__dice_labels(y) ? NULL : y->in[1]->grad, one;
    ptrdiff_t       step;
    const float    *g = cnn__term_grads(y, (double)n, &one, &step);
    for (ptrdiff_t i = 0; i < n; i++) {
        double       under;
        const double overlap = cnn__dice_overlap(y, i, &under);
        for (ptrdiff_t j = 0; j < plane; j++) {
            const double t = cnn__dice_target(y, i, j), p = (double)y->in[0]->data[i * plane + j];
            if (t < 0) continue;
            if (dp) dp[i * plane + j] -= g[i * step] * (float)((2 * t - overlap) / under);
            if (dt) dt[i * plane + j] -= g[i * step] * (float)((2 * p - overlap) / under);
        }
    }
}
static const cnn_field cnn__dice_fields[] = {
    CNN_FIELD('f', cnn_dice_args, smooth, .preset = 1e-5, .range = "[0,inf)", .nth = 3),
    CNN__IGNORES(cnn_dice_args), CNN__REDUCTION(cnn_dice_args), { 0 } };
CNN__ROOM cnn_op_dice = {
    .name = "dice", .shape = cnn__dice_shape, .forward = cnn__dice_forward, .backward = cnn__dice_backward,
    .flags = CNN_READS_X | CNN_LOSS, .args_size = sizeof(cnn_dice_args), .fields = cnn__dice_fields };

CNN__PAIR(dice, cnn_dice_args, y, target)

/* ---- All of them ---- */

CNN_API const cnn_op *const *cnn_ops(int *count)
{
#define CNN__OP_ADDRESS(name) &cnn_op_##name,
    static const cnn_op *const all[] = { CNN_OPS(CNN__OP_ADDRESS) NULL };
    if (count) *count = (int)(sizeof all / sizeof *all) - 1;
    return all;
}

/* ===========================================================================================================
   >>loops ---- 6. The plain loops: what every kernel computes

   Each kernel is its formula, as a loop that a debugger can step through. With CNN_ISA=plain nets run on
   them; otherwise a kernel hands on to its fast twin in Part II, cnn__fast_..., and the tests hold one to the
   other. Sums are made in double.
   ======================================================================================================== */

/* ---- Linear ---- */

static void cnn__gemm(const cnn__cpu *cpu, float *c, int ldc, float beta, const float *a, int lda, bool ta,
                      const float *b, int ldb, bool tb, int m, int n, int k, void *scratch)
{
    if (cpu->isa != CNN_ISA_PLAIN) {
        cnn__fast_gemm(cpu, c, ldc, beta, a, lda, ta, b, ldb, tb, m, n, k, scratch);
        return;
    }
    for (ptrdiff_t i = 0; i < m; i++)
        for (ptrdiff_t j = 0; j < n; j++) {
            double sum = 0;
            for (ptrdiff_t p = 0; p < k; p++) {
                const float left  = ta ? a[p * lda + i] : a[i * lda + p];
                const float right = tb ? b[j * ldb + p] : b[p * ldb + j];
                sum += (double)left * (double)right;
            }
            float *to = c + i * ldc + j;
            *to = (beta != 0 ? beta * *to : 0.0f) + (float)sum;
        }
}

/* Where element (n,c,h,w) of an array (N,C,H,W) is. */
static ptrdiff_t cnn__at(int n, int c, int h, int w, int C, int H, int W)
{
    return (((ptrdiff_t)n * C + c) * H + h) * W + w;
}

/* Output pixel (oy,ox) meets input pixel (oy SH - PH + i DH, ox SW - PW + j DW) at tap (i,j) of the kernel.
   In all three passes the loops visit every such meeting once; around the image x is zero. */
static void cnn__conv_forward(const cnn__cpu *cpu, const cnn__conv *conv, float *y, const float *x,
                              const float *w, const float *b, const float *packed, void *scratch,
                              const cnn__tail *tail)
{
    if (cpu->isa != CNN_ISA_PLAIN) {
        cnn__fast_conv_forward(cpu, conv, y, x, w, b, packed, scratch, tail);
        return;
    }
    /* channels of one group */
    const int in = conv->ic / conv->groups, out = conv->oc / conv->groups;
    for (int n = 0; n < conv->n; n++)
    for (int o = 0; o < conv->oc; o++)
    for (int oy = 0; oy < conv->oh; oy++)
    for (int ox = 0; ox < conv->ow; ox++) {
        double sum = b ? (double)b[o] : 0;
        for (int c = 0; c < in; c++)
        for (int i = 0; i < conv->kh; i++)
        for (int j = 0; j < conv->kw; j++) {
            const int iy = oy * conv->sh - conv->ph + i * conv->dh, ix = ox * conv->sw - conv->pw + j
                           * conv->dw;
            if (iy < 0 || iy >= conv->h || ix < 0 || ix >= conv->w) continue;
            sum += (double)w[cnn__at(o, c, i, j, in, conv->kh, conv->kw)]
                 * (double)x[cnn__at(n, o / out * in + c, iy, ix, conv->ic, conv->h, conv->w)];
        }
        y[cnn__at(n, o, oy, ox, conv->oc, conv->oh, conv->ow)] = (float)sum;
    }
}

static void cnn__conv_backward_data(const cnn__cpu *cpu, const cnn__conv *conv, float *dx, const float *dy,
                                    const float *w, bool clear, void *scratch)
{
    if (cpu->isa != CNN_ISA_PLAIN) {
        cnn__fast_conv_backward_data(cpu, conv, dx, dy, w, clear, scratch);
        return;
    }
    const int in = conv->ic / conv->groups, out = conv->oc / conv->groups;
    for (int n = 0; n < conv->n; n++)
    for (int c = 0; c < conv->ic; c++)
    for (int iy = 0; iy < conv->h; iy++)
    for (int ix = 0; ix < conv->w; ix++) {
        const int group = c / in;
        double    sum = 0;
        for (int o = group * out; o < (group + 1) * out; o++)
        for (int i = 0; i < conv->kh; i++)
        for (int j = 0; j < conv->kw; j++) {
            /* (oy SH, ox SW) */
            const int y = iy + conv->ph - i * conv->dh, x = ix + conv->pw - j * conv->dw;
            if (y < 0 || y % conv->sh || y / conv->sh >= conv->oh) continue;
            if (x < 0 || x % conv->sw || x / conv->sw >= conv->ow) continue;
            sum += (double)w[cnn__at(o, c % in, i, j, in, conv->kh, conv->kw)]
                 * (double)dy[cnn__at(n, o, y / conv->sh, x / conv->sw, conv->oc, conv->oh, conv->ow)];
        }
        float *to = &dx[cnn__at(n, c, iy, ix, conv->ic, conv->h, conv->w)];
        *to = (clear ? 0 : *to) + (float)sum;
    }
}

/* db[o] += sum over images and pixels of dy */
static void cnn__bias_gradient(const cnn__cpu *cpu, const cnn__conv *conv, float *db, const float *dy)
{
    cnn__add_product(cpu, db, dy, NULL, (cnn_shape){ 1, conv->oc, 1, 1 },
                     (cnn_shape){ conv->n, conv->oc, conv->oh, conv->ow }, (cnn_shape){ 1, 1, 1, 1 }, 1);
}

/* One tap, w[o][c][i][j]: what it was multiplied by, times dy. Once NaN the sum stays NaN. */
static float cnn__tap_gradient(const cnn__conv *conv, const float *x, const float *dy, int o, int c, int i,
                               int j)
{
    const int in = conv->ic / conv->groups, out = conv->oc / conv->groups;
    double    sum = 0;
    for (int n = 0; n < conv->n && !isnan(sum); n++)
    for (int oy = 0; oy < conv->oh; oy++)
    for (int ox = 0; ox < conv->ow; ox++) {
        const int iy = oy * conv->sh - conv->ph + i * conv->dh, ix = ox * conv->sw - conv->pw + j * conv->dw;
        if (iy < 0 || iy >= conv->h || ix < 0 || ix >= conv->w) continue;
        sum += (double)x[cnn__at(n, o / out * in + c, iy, ix, conv->ic, conv->h, conv->w)]
             * (double)dy[cnn__at(n, o, oy, ox, conv->oc, conv->oh, conv->ow)];
    }
    return (float)sum;
}
static void cnn__conv_backward_weights(const cnn__cpu *cpu, const cnn__conv *conv, float *dw, float *db,
                                       const float *x, const float *dy, void *scratch)
{
    if (cpu->isa != CNN_ISA_PLAIN) {
        cnn__fast_conv_backward_weights(cpu, conv, dw, db, x, dy, scratch);
        return;
    }
    const int in = conv->ic / conv->groups;
    for (int o = 0; o < conv->oc; o++)
    for (int c = 0; c < in; c++)
    for (int i = 0; i < conv->kh; i++)
    for (int j = 0; j < conv->kw; j++)
        dw[cnn__at(o, c, i, j, in, conv->kh, conv->kw)] += cnn__tap_gradient(conv, x, dy, o, c, i, j);
    if (db) cnn__bias_gradient(cpu, conv, db, dy);
}

/* Fast kernels also multiply by zeros between and around the images, and zero times infinity is NaN. In dw,
   which began at 0, what is not finite is summed again by the formula. What is not finite in channel c of x
   shows in dw[o][c] for every o, and in channel o of dy for every c: so one o and one c tell whether there is
   any, and where there is none the look costs nothing. */
static void cnn__conv_mend_weights(const cnn__conv *conv, float *dw, const float *x, const float *dy)
{
    const ptrdiff_t in = conv->ic / conv->groups, out = conv->oc / conv->groups,
                    taps = (ptrdiff_t)conv->kh * conv->kw;
    bool            fine = true;
    for (ptrdiff_t o = 0; o < conv->oc; o++)
        for (ptrdiff_t k = 0; k < (o % out ? taps : in * taps); k++)
            fine = isfinite(dw[o * in * taps + k]) && fine;
    if (fine) return;
    for (ptrdiff_t o = 0; o < conv->oc; o++)
        for (ptrdiff_t k = 0; k < in * taps; k++) {
            const int tap = (int)(k % taps);
            float    *to = dw + o * in * taps + k;
            if (!isfinite(*to))
                *to = cnn__tap_gradient(conv, x, dy, (int)o, (int)(k / taps), tap / conv->kw, tap % conv->kw);
        }
}

/* ---- Pooling ---- */

static void cnn__window(int i, int size, int k, int s, int p, int d, int *from, int *to)
{
    const int start = i * s - p, reach = d * (k - 1) + 1;
    *from = start < 0 ? start + (d - 1 - start) / d * d : start;
    *to = reach < size - start ? start + reach : size;
}

static void cnn__max_pool(const cnn__cpu *cpu, const cnn__pool *pool, float *y, int *at, const float *x)
{
    if (cpu->isa != CNN_ISA_PLAIN) {
        cnn__fast_max_pool(cpu, pool, y, at, x);
        return;
    }
    for (int plane = 0; plane < pool->planes; plane++, x += (ptrdiff_t)pool->h * pool->w)
    for (int oy = 0; oy < pool->oh; oy++)
    for (int ox = 0; ox < pool->ow; ox++) {
        int y0, y1, x0, x1;
        cnn__window(oy, pool->h, pool->kh, pool->sh, pool->ph, pool->dh, &y0, &y1);
        cnn__window(ox, pool->w, pool->kw, pool->sw, pool->pw, pool->dw, &x0, &x1);
        int best = y0 * pool->w + x0;
        for (int iy = y0; iy < y1; iy += pool->dh)
            for (int i = iy * pool->w + x0; i < iy * pool->w + x1; i += pool->dw)
                if (x[i] > x[best] || x[i] != x[i]) best = i;
        *y++ = x[best];
        if (at) *at++ = best;
    }
}

typedef struct { const cnn__pool *pool; float *dx; const float *dy; const int *at; bool clear; } cnn__chosen;
static void cnn__max_pool_back_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn__chosen *q = of;
    const ptrdiff_t in = (ptrdiff_t)q->pool->h * q->pool->w, out = (ptrdiff_t)q->pool->oh * q->pool->ow;
    for (; from < to; from++) {
        float *dx = q->dx + from * in;
        if (q->clear) memset(dx, 0, (size_t)in * sizeof *dx);  /* now, so that it is in the L1 cache below */
        for (ptrdiff_t i = from * out; i < (from + 1) * out; i++) dx[q->at[i]] += q->dy[i];
    }
}
static void cnn__max_pool_back(const cnn__cpu *cpu, const cnn__pool *pool, float *dx, const float *dy,
                               const int *at, bool clear)
{
    cnn__share_out(cpu, CNN__SIMPLE * pool->planes * pool->oh * pool->ow, pool->planes,
                   cnn__max_pool_back_job, &(cnn__chosen){ pool, dx, dy, at, clear });
}

/* An average is divided by the part of its window inside the plane or, with count_pad, inside the padded
   plane (a last window of ceil_mode may reach beyond even that). That is rows times columns, so 1/that is
   share[oy] times share[OH + ox]. */
static void cnn__pool_shares(const cnn__pool *pool, float *share)
{
    const bool pad = pool->count_pad;
    const int  h = pool->h + (pad ? pool->ph + pool->eh : 0), w = pool->w + (pad ? pool->pw + pool->ew : 0);
    for (int i = 0; i < pool->oh + pool->ow; i++) {
        int       from, to;
        const int d = i < pool->oh ? pool->dh : pool->dw;
        if (i < pool->oh) cnn__window(i, h, pool->kh, pool->sh, pad ? 0 : pool->ph, d, &from, &to);
        else           cnn__window(i - pool->oh, w, pool->kw, pool->sw, pad ? 0 : pool->pw, d, &from, &to);
        share[i] = 1.0f / (float)cnn__ceil(to - from, d);
    }
}

static void cnn__avg_pool(const cnn__cpu *cpu, const cnn__pool *pool, float *restrict y,
                          const float *restrict x,
                          const float *share)
{
    if (cpu->isa != CNN_ISA_PLAIN) {
        cnn__fast_avg_pool(cpu, pool, y, x, share);
        return;
    }
    for (int plane = 0; plane < pool->planes; plane++, x += (ptrdiff_t)pool->h * pool->w)
    for (int oy = 0; oy < pool->oh; oy++)
    for (int ox = 0; ox < pool->ow; ox++) {
        int    y0, y1, x0, x1;
        double sum = 0;
        cnn__window(oy, pool->h, pool->kh, pool->sh, pool->ph, pool->dh, &y0, &y1);
        cnn__window(ox, pool->w, pool->kw, pool->sw, pool->pw, pool->dw, &x0, &x1);
        for (int iy = y0; iy < y1; iy += pool->dh)
            for (int ix = x0; ix < x1; ix += pool->dw) sum += (double)x[(ptrdiff_t)iy * pool->w + ix];
        *y++ = (float)sum * share[oy] * share[pool->oh + ox];
    }
}

static void cnn__avg_pool_back(const cnn__cpu *cpu, const cnn__pool *pool, float *restrict dx,
                               const float *restrict dy, const float *share, bool clear)
{
    if (cpu->isa != CNN_ISA_PLAIN) {
        cnn__fast_avg_pool_back(cpu, pool, dx, dy, share, clear);
        return;
    }
    const size_t plane_bytes = (size_t)pool->h * (size_t)pool->w * sizeof *dx;
    for (int plane = 0; plane < pool->planes; plane++, dx += (ptrdiff_t)pool->h * pool->w) {
        if (clear) memset(dx, 0, plane_bytes);
        for (int oy = 0; oy < pool->oh; oy++)
        for (int ox = 0; ox < pool->ow; ox++, dy++) {
            int y0, y1, x0, x1;
            cnn__window(oy, pool->h, pool->kh, pool->sh, pool->ph, pool->dh, &y0, &y1);
            cnn__window(ox, pool->w, pool->kw, pool->sw, pool->pw, pool->dw, &x0, &x1);
            for (int iy = y0; iy < y1; iy += pool->dh)
                for (int ix = x0; ix < x1; ix += pool->dw)
                    dx[(ptrdiff_t)iy * pool->w + ix] += *dy * share[oy] * share[pool->oh + ox];
        }
    }
}

/* ---- Normalisation: per channel of (N,C,P) ---- */

static void cnn__channel_moments(const cnn__cpu *cpu, float *mean, float *rest, float *variance,
                                 const float *x, int n, int c, ptrdiff_t plane)
{
    if (cpu->isa != CNN_ISA_PLAIN) {
        cnn__fast_channel_moments(cpu, mean, rest, variance, x, n, c, plane);
        return;
    }
    const double count = (double)n * (double)plane;
    for (int ch = 0; ch < c; ch++) {
        double sum = 0, squares = 0;
        for (int s = 0; s < n; s++)
            for (ptrdiff_t i = 0; i < plane; i++) sum += (double)x[(s * (ptrdiff_t)c + ch) * plane + i];
        mean[ch] = (float)(sum / count), rest[ch] = (float)(sum / count - (double)mean[ch]);
        for (int s = 0; s < n; s++)
            for (ptrdiff_t i = 0; i < plane; i++) {
                const double d = (double)x[(s * (ptrdiff_t)c + ch) * plane + i] - sum / count;
                squares += d * d;
            }
        variance[ch] = (float)(squares / count);
    }
}

static void cnn__normalize(const cnn__cpu *cpu, float *y, const float *x, const float *mean,
                           const float *rest, const float *rstd, const float *w, const float *b, int n, int c,
                           ptrdiff_t plane, const cnn__tail *tail)
{
    if (cpu->isa != CNN_ISA_PLAIN) {
        cnn__fast_normalize(cpu, y, x, mean, rest, rstd, w, b, n, c, plane, tail);
        return;
    }
    for (int s = 0; s < n; s++)
    for (int ch = 0; ch < c; ch++)
    for (ptrdiff_t i = 0; i < plane; i++) {
        const ptrdiff_t at = (s * (ptrdiff_t)c + ch) * plane + i;
        const float     d = x[at] - mean[ch] - (rest ? rest[ch] : 0.0f);
        y[at] = d * rstd[ch] * (w ? w[ch] : 1.0f) + (b ? b[ch] : 0.0f);
    }
}

static void cnn__normalize_back(const cnn__cpu *cpu, float *dx, float *dw, float *db, const float *dy,
                                const float *x, const float *mean, const float *rest, const float *rstd,
                                const float *w, int n, int c, ptrdiff_t plane)
{
    if (cpu->isa != CNN_ISA_PLAIN) {
        cnn__fast_normalize_back(cpu, dx, dw, db, dy, x, mean, rest, rstd, w, n, c, plane);
        return;
    }
    const double count = (double)n * (double)plane;
    for (int ch = 0; ch < c; ch++) {
        const double m = (double)mean[ch] + (rest ? (double)rest[ch] : 0), r = (double)rstd[ch];
        double       sum = 0, moment = 0;                    /* of dy, and of dy X with X = (x - m) r */
        for (int s = 0; s < n; s++)
            for (ptrdiff_t at = (s * (ptrdiff_t)c + ch) * plane, end = at + plane; at < end; at++) {
                sum += (double)dy[at];
                moment += (double)dy[at] * ((double)x[at] - m) * r;
            }
        if (dw) dw[ch] += (float)moment;
        if (db) db[ch] += (float)sum;
        for (int s = 0; dx && s < n; s++)
            for (ptrdiff_t at = (s * (ptrdiff_t)c + ch) * plane, end = at + plane; at < end; at++) {
                const double X = ((double)x[at] - m) * r;
                const double d = (double)dy[at] - (rest ? sum / count + X * moment / count : 0);
                dx[at] = (dx == dy ? 0.0f : dx[at]) + (float)((w ? (double)w[ch] : 1) * r * d);
            }
    }
}

/* ---- Element by element ---- */

static void cnn__map(const cnn__cpu *cpu, cnn_each *f, float *y, const float *x, const float *a,
                     const float *b, const float *k, ptrdiff_t n)
{
    if (cpu->isa != CNN_ISA_PLAIN) {
        cnn__fast_map(cpu, f, y, x, a, b, k, n);
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++) {
        y[i] = x[i];
        if (f) f(y + i, a ? a + i : NULL, b ? b + i : NULL, k, 1);
    }
}

static void cnn__map_back(const cnn__cpu *cpu, cnn_each *f, float *dx, const float *dy, const float *a,
                          const float *k, ptrdiff_t n)
{
    if (cpu->isa != CNN_ISA_PLAIN) {
        cnn__fast_map_back(cpu, f, dx, dy, a, k, n);
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++) {
        float v = dy[i];
        if (f) f(&v, a ? a + i : NULL, NULL, k, 1);
        dx[i] = dx == dy ? v : dx[i] + v;
    }
}

static void cnn__dropout(const cnn__cpu *cpu, float *to, const float *from, bool add, float p, uint64_t key,
                         uint64_t stream, ptrdiff_t n)
{
    if (cpu->isa != CNN_ISA_PLAIN) {
        cnn__fast_dropout(cpu, to, from, add, p, key, stream, n);
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++) {
        const bool  keep = cnn__uniform(cnn__random_bits(key, stream, (uint64_t)i)) >= p;
        const float value = keep ? from[i] * (1 / (1 - p)) : 0.0f;
        to[i] = add ? to[i] + value : value;
    }
}

/* ---- Broadcasting: an axis of extent 1 stretches ---- */

static ptrdiff_t cnn__stretched(cnn_shape s, int n, int c, int h, int w)
{
    return cnn__at(s.n == 1 ? 0 : n, s.c == 1 ? 0 : c, s.h == 1 ? 0 : h, s.w == 1 ? 0 : w, s.c, s.h, s.w);
}

static void cnn__broadcast(const cnn__cpu *cpu, cnn_each *f, float *y, const float *dy, const float *a,
                           const float *b, cnn_shape ys, cnn_shape as, cnn_shape bs, const cnn__tail *tail)
{
    if (cpu->isa != CNN_ISA_PLAIN) {
        cnn__fast_broadcast(cpu, f, y, dy, a, b, ys, as, bs, tail);
        return;
    }
    for (int n = 0; n < ys.n; n++)
    for (int c = 0; c < ys.c; c++)
    for (int h = 0; h < ys.h; h++)
    for (int w = 0; w < ys.w; w++) {
        const float *left = a + cnn__stretched(as, n, c, h, w), *right = b + cnn__stretched(bs, n, c, h, w);
        float        v = dy ? *dy++ : *left;
        if (dy) f(&v, left, right, NULL, 1);
        else    f(&v, right, NULL, NULL, 1);
        *y++ = v;
    }
}

static void cnn__fold(const cnn__cpu *cpu, cnn_each *f, float *y, const float *x, cnn_shape ys, cnn_shape xs)
{
    if (cpu->isa != CNN_ISA_PLAIN) {
        cnn__fast_fold(cpu, f, y, x, ys, xs);
        return;
    }
    for (int n = 0; n < xs.n; n++)
    for (int c = 0; c < xs.c; c++)
    for (int h = 0; h < xs.h; h++)
    for (int w = 0; w < xs.w; w++, x++) {
        float *to = y + cnn__stretched(ys, n, c, h, w);
        const bool first = (n == 0 || ys.n > 1) && (c == 0 || ys.c > 1) && (h == 0 || ys.h > 1)
                           && (w == 0 || ys.w > 1);
        if (first) *to = *x;
        else       f(to, x, NULL, NULL, 1);
    }
}

/* Each element of y is the sum over the axes on which y has extent 1 and a or b has more. */
static void cnn__add_product(const cnn__cpu *cpu, float *y, const float *a, const float *b, cnn_shape ys,
                             cnn_shape as, cnn_shape bs, float p)
{
    if (cpu->isa != CNN_ISA_PLAIN) {
        cnn__fast_add_product(cpu, y, a, b, ys, as, bs, p);
        return;
    }
    if (!b) bs = (cnn_shape){ 1, 1, 1, 1 };
    const int ns = ys.n > 1 ? 1 : as.n > bs.n ? as.n : bs.n, cs = ys.c > 1 ? 1 : as.c > bs.c ? as.c : bs.c;
    const int hs = ys.h > 1 ? 1 : as.h > bs.h ? as.h : bs.h, ws = ys.w > 1 ? 1 : as.w > bs.w ? as.w : bs.w;
    for (int n = 0; n < ys.n; n++)
    for (int c = 0; c < ys.c; c++)
    for (int h = 0; h < ys.h; h++)
    for (int w = 0; w < ys.w; w++) {
        double sum = 0;
        for (int i = n; i < n + ns; i++)
        for (int j = c; j < c + cs; j++)
        for (int k = h; k < h + hs; k++)
        for (int l = w; l < w + ws; l++)
            sum += (double)a[cnn__stretched(as, i, j, k, l)]
                 * (b ? (double)b[cnn__stretched(bs, i, j, k, l)] : 1);
        *y++ += (float)((double)p * sum);
    }
}

/* ---- Softmax over the C classes of each of P pixels: x (C,P) ---- */

/* e^(x - most) cannot overflow, and the largest term is 1: log sum e^x = most + log(sum of them). They are
   kept in e unless it is NULL; e may be x. */
static double cnn__exp_sum(float *most, float *e, const float *x, int c, ptrdiff_t plane)
{
    float  m = x[0];
    double sum = 0;
    for (int i = 1; i < c; i++) m = x[i * plane] > m ? x[i * plane] : m;
    for (int i = 0; i < c; i++) {
        const float t = cnn__exp(x[i * plane] - m);
        if (e) e[i * plane] = t;
        sum += (double)t;
    }
    *most = m;
    return sum;
}

/* Softmax and cross-entropy: a unit is a pixel, and all its channels. */
typedef struct {
    int c;
    ptrdiff_t plane, step;
    float *y, *dx, *keeps;                         /* keeps: saved, where it is written */
    double *each;
    const float *x, *dy, *g, *saved;
    const cnn__target *target;
} cnn__pixels;
static void cnn__share_pixels(const cnn__cpu *cpu, int n, cnn__job *job, const cnn__pixels *q)
{
    cnn__share_out(cpu, 8 * CNN__SIMPLE * n * (double)q->plane * q->c, n * q->plane, job, q);
}

static void cnn__softmax_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn__pixels *q = of;
    for (ptrdiff_t i = from; i < to; i++) {
        const ptrdiff_t at = i / q->plane * q->c * q->plane + i % q->plane;
        float           most;
        const float     share = (float)(1 / cnn__exp_sum(&most, q->y + at, q->x + at, q->c, q->plane));
        for (int k = 0; k < q->c; k++) q->y[at + k * q->plane] *= share;
    }
}
static void cnn__softmax(const cnn__cpu *cpu, float *y, const float *x, int n, int c, ptrdiff_t plane)
{
    cnn__share_pixels(cpu, n, cnn__softmax_job, &(cnn__pixels){ .c = c, .plane = plane, .y = y, .x = x });
}

static void cnn__softmax_back_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn__pixels *q = of;
    const float       *y = q->x, *dy = q->dy;
    for (ptrdiff_t i = from; i < to; i++) {
        const ptrdiff_t first = i / q->plane * q->c * q->plane + i % q->plane, end = first + q->c * q->plane;
        double          dot = 0;
        for (ptrdiff_t at = first; at < end; at += q->plane) dot += (double)dy[at] * (double)y[at];
        for (ptrdiff_t at = first; at < end; at += q->plane) q->dx[at] += y[at] * (dy[at] - (float)dot);
    }
}
static void cnn__softmax_back(const cnn__cpu *cpu, float *dx, const float *dy, const float *y, int n, int c,
                              ptrdiff_t plane)
{
    cnn__share_pixels(cpu, n, cnn__softmax_back_job,
                      &(cnn__pixels){ .c = c, .plane = plane, .dx = dx, .dy = dy, .x = y });
}

/* The cross-entropy of each pixel, sum_k q_k (log sum e^x - x_k); saved: for each pixel, most and log sum of
   the above. */
static void cnn__cross_entropy_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn__pixels *q = of;
    const cnn__target *target = q->target;
    const float       *x = q->x;
    const int          c = q->c;
    const ptrdiff_t    plane = q->plane;
    for (ptrdiff_t i = from; i < to; i++) {
        const float *at = x + i / plane * c * plane + i % plane;
        float        most;
        const double rest = log(cnn__exp_sum(&most, NULL, at, c, plane));
        const double e = (double)target->e;
        double       spread = 0;
        if (q->keeps) q->keeps[2 * i] = most, q->keeps[2 * i + 1] = (float)rest;
        q->each[i] = 0;
        for (int k = 0; k < c && target->soft; k++) {
            const double v = target->weight ? (double)target->weight[k] : 1;
            const double p = v * ((1 - e) * (double)target->label[at - x + k * plane] + e / c);
            if (p != 0) q->each[i] += p * (rest + (double)(most - at[k * plane]));
        }
        if (target->soft || cnn__ignored(target, i)) continue;
        for (int k = 0; k < c && e > 0; k++)
            spread += (target->weight ? (double)target->weight[k] : 1.0)
                      * (rest + (double)(most - at[k * plane])) / c;
        q->each[i] = (1 - e) * (double)cnn__label_weight(target, i)
                         * (rest + (double)(most - at[(ptrdiff_t)target->label[i] * plane]))
                     + e * spread;
    }
}
static void cnn__cross_entropy(const cnn__cpu *cpu, double *each, float *saved, const float *x,
                               const cnn__target *target, int n, int c, ptrdiff_t plane)
{
    cnn__share_pixels(cpu, n, cnn__cross_entropy_job,
                      &(cnn__pixels){ .c = c, .plane = plane, .each = each, .keeps = saved, .x = x,
                                      .target = target });
}

/* dx_k += g (softmax(x)_k sum_j q_j - q_k), where g of pixel i is at [i * step] */
static void cnn__cross_entropy_back_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn__pixels *pixels = of;
    const cnn__target *target = pixels->target;
    const float       *x = pixels->x, *saved = pixels->saved;
    const int          c = pixels->c;
    const ptrdiff_t    plane = pixels->plane;
    for (ptrdiff_t i = from; i < to; i++) {
        const ptrdiff_t at = i / plane * c * plane + i % plane;
        if (cnn__ignored(target, i)) continue;
        const float  own = target->soft ? 0 : (1 - target->e) * cnn__label_weight(target, i);
        const float *p = target->label + (target->soft ? at : i);
        float        all = 1;
        if (target->soft || target->weight) all = own;
        for (int k = 0; target->soft && k < c; k++)
            all += (1 - target->e) * p[k * plane] * (target->weight ? target->weight[k] : 1.0f);
        for (int k = 0; (target->soft || target->weight) && k < c; k++)
            all += target->e / (float)c * (target->weight ? target->weight[k] : 1.0f);
        for (int k = 0; k < c; k++) {
            const float v = target->weight ? target->weight[k] : 1.0f;
            const float q = target->e / (float)c * v + (target->soft ? (1 - target->e) * p[k * plane] * v
                                                   : k == (int)*p ? own : 0.0f);
            pixels->dx[at + k * plane] += pixels->g[i * pixels->step]
                * (cnn__exp((x[at + k * plane] - saved[2 * i]) - saved[2 * i + 1]) * all - q);
        }
    }
}
static void cnn__cross_entropy_back(const cnn__cpu *cpu, float *dx, const float *g, ptrdiff_t step,
                                    const float *saved, const float *x, const cnn__target *target, int n,
                                    int c, ptrdiff_t plane)
{
    cnn__share_pixels(cpu, n, cnn__cross_entropy_back_job,
                      &(cnn__pixels){ .c = c, .plane = plane, .dx = dx, .g = g, .step = step,
                                      .saved = saved, .x = x, .target = target });
}

/* ===========================================================================================================
   >>optim ---- 7. Optimizers: one loop over the flat vectors of parameters and gradients
   ======================================================================================================== */

/* The others divide by a root. C's sqrtf may set errno, which keeps compilers from making vector code of it;
   the vector instructions give the same bits. */
static void cnn__roots(float root[CNN__RUN_OF], const float *x)
{
#if CNN__X86
    for (int i = 0; i < CNN__RUN_OF; i += 4) _mm_storeu_ps(root + i, _mm_sqrt_ps(_mm_loadu_ps(x + i)));
#elif CNN__ARM
    for (int i = 0; i < CNN__RUN_OF; i += 4) vst1q_f32(root + i, vsqrtq_f32(vld1q_f32(x + i)));
#else
    for (int i = 0; i < CNN__RUN_OF; i++) root[i] = sqrtf(x[i]);
#endif
}

/* Adam (Kingma, Ba 2015) and AdamW (Loshchilov, Hutter 2019), in PyTorch's form. Update number t = 1, 2, ...:
       Adam:   d = dw + weight_decay w          AdamW:  w = (1 - lr weight_decay) w,  d = dw
       m  = beta1 m + (1 - beta1) d             mean of the gradient
       v  = beta2 v + (1 - beta2) d^2           mean of its square
       w -= lr / (1 - beta1^t)  m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
   Both means start at zero; dividing by 1 - beta^t makes up for that. */
static void cnn__adam_run(float *restrict w, const float *restrict dw, float *const *slot, cnn__rates r)
{
    float *restrict m = slot[0], *restrict v = slot[1], root[CNN__RUN_OF];
    for (int i = 0; i < CNN__RUN_OF; i++) {
        float d = dw[i] + r.decay * w[i];
        m[i] = r.beta1 * m[i] + (1 - r.beta1) * d;
        v[i] = r.beta2 * v[i] + (1 - r.beta2) * d * d;
    }
    cnn__roots(root, v);
    for (int i = 0; i < CNN__RUN_OF; i++) w[i] = r.keep * w[i] - r.lr * (m[i] / (root[i] * r.scale + r.eps));
}
static cnn__rates cnn__adam_rates(const cnn_step_args *a, long step)
{
    const double t = (double)step + 1;
    return (cnn__rates){ .lr = (float)((double)a->lr / (1 - pow((double)a->beta1, t))),
                         .scale = (float)(1 / sqrt(1 - pow((double)a->beta2, t))),
                         .beta1 = a->beta1, .beta2 = a->beta2, .eps = a->eps, .keep = 1 };
}
static void cnn__adam_update(float *w, const float *dw, float *const *slot, size_t n, const cnn_step_args *a,
                             long step)
{
    cnn__rates r = cnn__adam_rates(a, step);
    r.decay = a->weight_decay;
    cnn__in_runs(cnn__adam_run, w, dw, slot, n, r);
}
static void cnn__adamw_update(float *w, const float *dw, float *const *slot, size_t n, const cnn_step_args *a,
                              long step)
{
    cnn__rates r = cnn__adam_rates(a, step);
    r.keep = 1 - a->lr * a->weight_decay;
    cnn__in_runs(cnn__adam_run, w, dw, slot, n, r);
}

static const cnn_field cnn__adam_fields[] = {
    CNN__TAKES(beta1, 0.9, "[0,1)"), CNN__TAKES(beta2, 0.999, "[0,1)"), CNN__TAKES(eps, 1e-8, "[0,inf)"),
    CNN__TAKES(weight_decay, 0, "[0,inf)"), { 0 } };
static const cnn_field cnn__adamw_fields[] = {
    CNN__TAKES(beta1, 0.9, "[0,1)"), CNN__TAKES(beta2, 0.999, "[0,1)"), CNN__TAKES(eps, 1e-8, "[0,inf)"),
    CNN__TAKES(weight_decay, 0.01, "[0,inf)"), { 0 } };
static const cnn_optimizer cnn__adam  = { "adam",  2, cnn__adam_update,  cnn__adam_fields,  NULL };
static const cnn_optimizer cnn__adamw = { "adamw", 2, cnn__adamw_update, cnn__adamw_fields, NULL };

/* RMSprop (Tieleman, Hinton 2012), in PyTorch's form:
       d  = dw + weight_decay w
       v  = alpha v + (1 - alpha) d^2                 mean of the square
       b  = momentum b + d / (sqrt(v) + eps)
       w -= lr b
   Centred (Graves 2013), the mean of the gradient is kept too, m = alpha m + (1 - alpha) d, and the root is
   of the variance v - m^2, where rounding below 0 counts as 0. */
static void cnn__rmsprop_run(float *restrict w, const float *restrict dw, float *const *slot, cnn__rates r)
{
    float *restrict v = slot[0], *restrict b = slot[1], *restrict m = slot[2];
    float root[CNN__RUN_OF], variance[CNN__RUN_OF];
    for (int i = 0; i < CNN__RUN_OF; i++) {
        float d = dw[i] + r.decay * w[i];
        v[i] = r.alpha * v[i] + (1 - r.alpha) * d * d;
    }
    for (int i = 0; m && i < CNN__RUN_OF; i++) {
        m[i] = r.alpha * m[i] + (1 - r.alpha) * (dw[i] + r.decay * w[i]);
        variance[i] = v[i] > m[i] * m[i] ? v[i] - m[i] * m[i] : 0;
    }
    cnn__roots(root, m ? variance : v);
    for (int i = 0; i < CNN__RUN_OF; i++) {
        float d = dw[i] + r.decay * w[i];
        b[i] = r.momentum * b[i] + d / (root[i] + r.eps);
        w[i] -= r.lr * b[i];
    }
}
static void cnn__rmsprop_update(float *w, const float *dw, float *const *slot, size_t n,
                                const cnn_step_args *a, long step)
{
    (void)step;
    cnn__in_runs(cnn__rmsprop_run, w, dw, slot, n, (cnn__rates){ .lr = a->lr, .decay = a->weight_decay,
                 .momentum = a->momentum, .alpha = a->alpha, .eps = a->eps });
}
static const cnn_field cnn__rmsprop_fields[] = {
    CNN__TAKES(alpha, 0.99, "[0,1)"), CNN__TAKES(momentum, 0, "[0,1)"), CNN__TAKES(eps, 1e-8, "[0,inf)"),
    CNN__TAKES(weight_decay, 0, "[0,inf)"), { 0 } };
static const cnn_optimizer cnn__rmsprop = { "rmsprop", 2, cnn__rmsprop_update, cnn__rmsprop_fields, NULL };
static const cnn_optimizer cnn__rmsprop_centered = { "rmsprop_centered", 3, cnn__rmsprop_update,
                                                     cnn__rmsprop_fields, NULL };

/* AdaGrad (Duchi, Hazan, Singer 2011):
       d  = dw + weight_decay w
       s += d^2
       w -= lr d / (sqrt(s) + eps) */
static void cnn__adagrad_run(float *restrict w, const float *restrict dw, float *const *slot, cnn__rates r)
{
    float *restrict s = slot[0], root[CNN__RUN_OF];
    for (int i = 0; i < CNN__RUN_OF; i++) {
        float d = dw[i] + r.decay * w[i];
        s[i] += d * d;
    }
    cnn__roots(root, s);
    for (int i = 0; i < CNN__RUN_OF; i++) w[i] -= r.lr * ((dw[i] + r.decay * w[i]) / (root[i] + r.eps));
}
static void cnn__adagrad_update(float *w, const float *dw, float *const *slot, size_t n,
                                const cnn_step_args *a, long step)
{
    (void)step;
    cnn__in_runs(cnn__adagrad_run, w, dw, slot, n,
                 (cnn__rates){ .lr = a->lr, .decay = a->weight_decay, .eps = a->eps });
}
static const cnn_field cnn__adagrad_fields[] = {
    CNN__TAKES(eps, 1e-10, "[0,inf)"), CNN__TAKES(weight_decay, 0, "[0,inf)"), { 0 } };
static const cnn_optimizer cnn__adagrad = { "adagrad", 1, cnn__adagrad_update, cnn__adagrad_fields, NULL };

/* An optimizer of your own: its row here, cnn__NAME, and NAME in CNN_OPTIMIZERS. */

#define CNN__OPTIMIZER(name) CNN_API const cnn_optimizer *cnn_##name(void) { return &cnn__##name; }
CNN_OPTIMIZERS(CNN__OPTIMIZER)

CNN_API const cnn_optimizer *const *cnn_optimizers(int *count)
{
#define CNN__OPTIMIZER_ADDRESS(name) &cnn__##name,
    static const cnn_optimizer *const all[] = { CNN_OPTIMIZERS(CNN__OPTIMIZER_ADDRESS) NULL };
    if (count) *count = (int)(sizeof all / sizeof *all) - 1;
    return all;
}

/* ---- One update ---- */

static bool cnn__takes(const cnn_optimizer *o, const char *option)
{
    const cnn_field *f = o->fields;
    while (f && f->name && strcmp(f->name, option) != 0) f++;
    return f && f->name;
}

/* "sgd, rmsprop, rmsprop_centered" */
static cnn_text cnn__takers(const char *option)
{
    cnn_text r = { "" };
    int      n;
    const cnn_optimizer *const *all = cnn_optimizers(&n);
    for (int i = 0; i < n; i++) {
        const size_t k = cnn__takes(all[i], option) ? strlen(r.s) : sizeof r.s;
        if (k < sizeof r.s) cnn__format(r.s + k, sizeof r.s - k, "%s%s", k ? ", " : "", all[i]->name);
    }
    return r;
}

/* Fill in the defaults. Errors: no learning rate; an option that this graph's optimizer does not take, or
   that is out of its range. */
static bool cnn__resolve_step(cnn_graph *g, const char *what, cnn_step_args *a)
{
    const cnn_optimizer *o = g->config.optimizer;
    char why[CNN_ERROR_SIZE];
    int  n;
    const cnn_optimizer *const *all = cnn_optimizers(&n);
    if (!(a->lr > 0) || isinf(a->lr))
        return cnn__fail(g, a->at, what, "lr %g: the learning rate is required and must be positive, such as "
                         ".lr = 0.01f", (double)a->lr);
    for (int i = 0; i < n; i++)
        for (const cnn_field *f = all[i]->fields; f->name; f++)
            if (cnn__option(f, a) != 0 && !cnn__takes(o, f->name))
                return cnn__fail(g, a->at, what, "%s is for %s; this graph's optimizer is %s", f->name,
                                 cnn__takers(f->name).s, o->name);
    if (!cnn__resolve(o->fields, a, why)) return cnn__fail(g, a->at, what, "%s", why);
    const char *wrong = o->wrong ? o->wrong(a) : NULL;
    return !wrong || cnn__fail(g, a->at, what, "%s", wrong);
}

static bool cnn__is_trained(const cnn_tensor *t) { return t->kind == CNN_PARAM && t->needs_grad; }
static bool cnn__learns(const cnn__node *v) { return cnn__is_trained(&v->t) && v->lr_scale > 0; }

static bool cnn__same_update(const cnn__node *a, const cnn__node *b)
{
    return a->lr_scale == b->lr_scale && a->decay_scale == b->decay_scale && a->steps == b->steps;
}

/* Parameters that follow each other with the same factors and as many updates behind them are one update: all
   of them, as a rule. False if the device refuses. */
static bool cnn__update_groups(cnn_graph *g, const cnn_step_args *a, unsigned side)
{
    const cnn__node *first = NULL;                             /* of the group */
    for (int i = 0; i <= g->n_order; i++) {
        const cnn__node *v = i < g->n_order ? g->order[i] : NULL;
        if (v && (!cnn__is_trained(&v->t) || (first && cnn__same_update(first, v)))) continue;
        if (first && first->lr_scale > 0) {
            size_t        from = first->t.grad_at, n = (v ? v->t.grad_at : g->n_trained) - from;
            cnn_step_args scaled = *a;
            scaled.lr *= first->lr_scale, scaled.weight_decay *= first->decay_scale;
            if (side == CNN__HOST) cnn__update_on_host(g, &scaled, from, n, first->steps);
            else if (!cnn__update_on_device(g, &scaled, from, n, first->steps)) return false;
        }
        first = v;
    }
    return true;
}

/* Does the name match the pattern, in which '*' stands for any characters, or one of those between '|'? Each
   star stands for as little as it can, but the last, and stars->begin[k] to end[k] is what it stood for. */
enum { CNN__STARS = 8 };
typedef struct { int n; const char *begin[CNN__STARS + 1], *end[CNN__STARS + 1]; } cnn__stars;
static bool cnn__match_stars(const char *pattern, const char *name, cnn__stars *stars)
{
    const char *star = NULL, *at = name;
    int         k = -1;
    while (*at || *pattern == '*') {
        if (*pattern == '*') {
            star = pattern++, k += k < CNN__STARS;
            stars->begin[k] = stars->end[k] = at;
        }
        else if (*pattern == *at && *at != '|') pattern++, at++;
        else if (star) pattern = star + 1, at = ++stars->end[k];
        else break;
    }
    stars->n = k + 1;
    if (!*at && (!*pattern || *pattern == '|')) return true;
    const char *next = strchr(pattern, '|');
    return next && cnn__match_stars(next + 1, name, stars);
}
static bool cnn__matches(const char *pattern, const char *name)
{
    cnn__stars stars;
    return cnn__match_stars(pattern, name, &stars);
}

static bool cnn__set_scale(cnn_graph *g, const char *what, const char *pattern, float factor, bool decay)
{
    int found = 0;
    if (!g || g->error[0]) return false;
    if (!g->compiled) return cnn__fail(g, g->config.at, what, "call cnn_compile first: it gives the names");
    if (!(factor >= 0) || isinf(factor))
        return cnn__fail(g, g->config.at, what, "factor %g is not a number from 0", (double)factor);
    for (int i = 0; pattern && i < g->n_order; i++) {
        cnn__node *v = g->order[i];
        if (!cnn__is_trained(&v->t) || !cnn__matches(pattern, v->t.name)) continue;
        *(decay ? &v->decay_scale : &v->lr_scale) = factor, found++;
    }
    return found || cnn__fail(g, g->config.at, what, "no parameter that is trained has a name like \"%.80s\"",
                              pattern ? pattern : "");
}

CNN_API bool cnn_set_lr_scale(cnn_graph *g, const char *pattern, float factor)
{
    return cnn__set_scale(g, "lr_scale", pattern, factor, false);
}
CNN_API bool cnn_set_decay_scale(cnn_graph *g, const char *pattern, float factor)
{
    return cnn__set_scale(g, "decay_scale", pattern, factor, true);
}

/* All updates on one side. False after an error, or without one if the device refuses this optimizer. */
static bool cnn__update(cnn_graph *g, const cnn_step_args *a, unsigned side)
{
    if (!cnn__sync_params(g, CNN__DATA, side) || !cnn__sync_params(g, CNN__GRAD, side) ||
        !cnn__sync_optimizer(g, side) || !cnn__update_groups(g, a, side))
        return false;
    cnn__wrote_params(g, CNN__DATA, side);
    g->optimizer_on = (unsigned char)side;
    for (int i = 0; i < g->n_order; i++) g->order[i]->steps += cnn__learns(g->order[i]);
    g->step++;
    cnn__seen(g->loss, CNN__AFTER_UPDATE);
    return !g->error[0];
}

/* ---- Clipping ---- */

/* The sum of x^2 in float64, as 64 partial sums of equal parts: the same bits for any number of threads. */
enum { CNN__PARTS = 64 };
typedef struct { const float *x; size_t n; double *part; } cnn__squares;
static void cnn__squares_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn__squares *q = of;
    for (ptrdiff_t k = from; k < to; k++) {
        const size_t each = q->n / CNN__PARTS, first = each * (size_t)k;
        const size_t end = first + each + (k == CNN__PARTS - 1 ? q->n % CNN__PARTS : 0);
        double       sum = 0;
        for (size_t i = first; i < end; i++) sum += (double)q->x[i] * (double)q->x[i];
        q->part[k] = sum;
    }
}
static double cnn__sum_of_squares(const cnn__cpu *cpu, const float *x, size_t n)
{
    double part[CNN__PARTS], sum = 0;
    cnn__share_out(cpu, CNN__SIMPLE * (double)n, CNN__PARTS, cnn__squares_job,
                   &(cnn__squares){ x, n, part });
    for (int k = 0; k < CNN__PARTS; k++) sum += part[k];
    return sum;
}

static double cnn__squares_on_host(const cnn_graph *g)
{
    double sum = 0;
    for (int i = 0; i < g->n_order; i++)
        if (cnn__learns(g->order[i]))
            sum += cnn__sum_of_squares(&g->cpu, g->order[i]->t.grad, cnn_count(&g->order[i]->t));
    return sum;
}
static bool cnn__shorten_on_host(cnn_graph *g, float factor)
{
    for (int i = 0; i < g->n_order; i++) {
        const cnn_tensor *t = &g->order[i]->t;
        for (size_t k = 0, n = cnn__learns(g->order[i]) ? cnn_count(t) : 0; k < n; k++) t->grad[k] *= factor;
    }
    return true;
}

static bool cnn__scale_grads(cnn_graph *g, double by)
{
    const bool     there = g->config.backend && g->config.backend->scale;
    const unsigned side = there ? CNN__DEVICE : CNN__HOST;
    const float    factor = (float)by;
    if (by == 1) return true;
    if (!cnn__sync_params(g, CNN__GRAD, side)) return false;
    if (!(there ? cnn__shorten_on_device(g, factor) : cnn__shorten_on_host(g, factor))) return false;
    return cnn__wrote_params(g, CNN__GRAD, side), true;
}

/* As PyTorch's clip_grad_norm_: dw *= min(1, max_norm / (|dw| + 1e-6)). Parameters that cnn_set_lr_scale has
   stopped neither count nor change. A length that is not finite changes nothing: there is no direction to
   keep. */
CNN_API double cnn_clip_grads(cnn_graph *g, float max_norm)
{
    if (!g || g->error[0]) return NAN;
    if (!(max_norm > 0))
        return cnn__fail(g, g->config.at, "clip", "max_norm %g must be positive", (double)max_norm), NAN;
    if (!g->compiled || !g->has_grads)
        return cnn__fail(g, g->config.at, "clip", "no gradients yet: call cnn_forward(loss, CNN_TRAIN) and "
                         "cnn_backward(loss) first"), NAN;
    const bool     there = g->config.backend && g->config.backend->squares && g->config.backend->scale;
    const unsigned side = there ? CNN__DEVICE : CNN__HOST;
    if (!cnn__sync_params(g, CNN__GRAD, side)) return NAN;
    double norm = sqrt(there ? cnn__squares_on_device(g) : cnn__squares_on_host(g));
    const bool clips = isfinite(norm) && norm > (double)max_norm;
    return clips && !cnn__scale_grads(g, (double)max_norm / (norm + 1e-6)) ? NAN : norm;
}

/* ---- Copies of what training changes: parameters that are trained, and running statistics ---- */

static bool cnn__trains(const cnn_tensor *t)
{
    return t->kind == CNN_BUFFER ? !t->frozen : cnn__is_trained(t);
}

/* Laid out as the arenas are: trained parameters, then buffers; so a device mixes them in two pieces. */
static size_t cnn__trained_floats(const cnn_graph *g)
{
    return g->n_trained + g->memory.buffers / sizeof(float);
}
static size_t cnn__store_at(const cnn_tensor *t)
{
    return t->kind == CNN_BUFFER ? t->graph->n_trained + t->data_at[CNN_TRAIN] : t->grad_at;
}

/* From the net to store, from store to the net, both at once, or mixed into store (cnn_average). */
typedef enum { CNN__SAVE, CNN__RESTORE, CNN__EXCHANGE, CNN__MIX } cnn__way;
static bool cnn__copy_trained(cnn_graph *g, float *store, cnn__way way, float decay)
{
    for (int i = 0; i < g->n_order; i++) {
        cnn_tensor *t = &g->order[i]->t;
        if (!cnn__trains(t)) continue;
        size_t n = cnn_count(t);
        float *w = way == CNN__RESTORE || way == CNN__EXCHANGE ? cnn_map_write(t)
            : (float *)(uintptr_t)cnn_map_read(t);
        float *copy = store + cnn__store_at(t);
        if (!w) return false;
        if (way == CNN__SAVE)         memcpy(copy, w, n * sizeof *w);
        else if (way == CNN__RESTORE) memcpy(w, copy, n * sizeof *w);
        else if (way == CNN__MIX)
            for (size_t k = 0; k < n; k++) copy[k] += (1 - decay) * (w[k] - copy[k]);
        else for (size_t k = 0; k < n; k++) {
            float old = w[k];
            w[k] = copy[k], copy[k] = old;
        }
    }
    return true;
}

CNN_API bool cnn_average(cnn_graph *g, float decay)
{
    if (!g || g->error[0]) return false;
    if (!g->compiled) return cnn__fail(g, g->config.at, "average", "call cnn_compile first");
    if (!(decay >= 0 && decay < 1))
        return cnn__fail(g, g->config.at, "average", "decay %g is outside [0,1)", (double)decay);
    unsigned side = g->config.backend && g->config.backend->mix ? CNN__DEVICE : CNN__HOST;
    if (!g->average) {
        float *first = cnn__alloc(g, cnn__trained_floats(g) * sizeof *first);
        if (!first || !cnn__copy_trained(g, first, CNN__SAVE, 0)) return false;
        g->average = first, g->average_on = CNN__HOST;
        return true;
    }
    if (!cnn__sync_average(g, side)) return false;
    g->average_on = (unsigned char)side;
    return side == CNN__DEVICE ? cnn__mix_on_device(g, 1 - decay)
                               : cnn__copy_trained(g, g->average, CNN__MIX, decay);
}

CNN_API bool cnn_swap_average(cnn_graph *g)
{
    if (!g || g->error[0]) return false;
    if (!g->average)
        return cnn__fail(g, g->config.at, "swap_average",
                         "there is no average: call cnn_average after each cnn_step");
    if (!cnn__sync_average(g, CNN__HOST)) return false;
    g->average_on = CNN__HOST;
    return cnn__copy_trained(g, g->average, CNN__EXCHANGE, 0);
}

/* ===========================================================================================================
   >>plan ---- 8. The memory plan, and cnn_compile
   ======================================================================================================== */

/* ---- Names, and whose parameter is whose ---- */

/* A parameter may be borrowed from a layer that is not part of the net; then its first reader owns it. */
static void cnn__adopt(cnn_graph *g)
{
    for (int i = 0; i < g->n_order; i++)
        if (g->order[i]->owner && g->order[i]->owner->t.index < 0) g->order[i]->owner = NULL;
    for (int i = 0; i < g->n_order; i++)
        for (int k = 0; k < g->order[i]->t.n_in; k++) {
            cnn__node *x = cnn__of(g->order[i]->t.in[k]);
            if (x->suffix && !x->owner) x->owner = g->order[i];
        }
}

/* Names for what the user left unnamed: conv2d1, conv2d2, ...; then parameters of layers: conv2d1.weight. */
static const char *const cnn__kind_names[] = { "op", "input", "labels", "const", "param", "buffer" };

static int cnn__by_index(const cnn__node *a, const cnn__node *b) { return a->t.index < b->t.index ? -1 : 1; }
static int cnn__compare_kinds(const void *a, const void *b)
{
    const cnn__node *v = *(cnn__node *const *)a, *u = *(cnn__node *const *)b;
    if (v->t.kind != u->t.kind) return v->t.kind < u->t.kind ? -1 : 1;
    const int order = v->t.op ? strcmp(v->t.op->name, u->t.op->name) : 0;
    return order ? order : cnn__by_index(v, u);
}
static int cnn__compare_nodes(const void *a, const void *b)
{
    const cnn__node *v = *(cnn__node *const *)a, *u = *(cnn__node *const *)b;
    const int order = strcmp(v->t.name, u->t.name);
    return order ? order : cnn__by_index(v, u);
}

static bool cnn__number_nodes(cnn_graph *g)
{
    cnn__node **list = g->by_name;
    int n = 0, number = 0;
    for (int i = 0; i < g->n_order; i++)
        if (!g->order[i]->named && !g->order[i]->owner) list[n++] = g->order[i];
    qsort(list, (size_t)n, sizeof *list, cnn__compare_kinds);
    for (int i = 0; i < n; i++) {
        const cnn_tensor *t = &list[i]->t;
        const char *base = t->op ? t->op->name : cnn__kind_names[t->kind];
        size_t room = strlen(base) + 16;
        char  *name = cnn__alloc(g, room);
        if (!name) return false;
        const cnn_tensor *last = i && list[i - 1]->t.kind == t->kind ? &list[i - 1]->t : NULL;
        number = last && (!t->op || strcmp(last->op->name, base) == 0) ? number + 1 : 1;
        bool single = number == 1 && (t->kind == CNN_INPUT || t->kind == CNN_LABELS);
        cnn__format(name, room, single ? "%s" : "%s%d", base, number);
        list[i]->t.name = name;
    }
    return true;
}

/* Names go into files and onto terminals: UTF-8 (no overlong forms, no surrogates), no control characters,
   and not the one name that safetensors keeps for itself. */
static bool cnn__check_name(cnn_tensor *t)
{
    static const uint32_t least[] = { 0, 0x80, 0x800, 0x10000 };
    for (const unsigned char *s = (const unsigned char *)t->name; *s; ) {
        const int more = *s < 0x80 ? 0 : *s >= 0xC0 && *s < 0xE0 ? 1 : *s >= 0xE0 && *s < 0xF0 ? 2
                       : *s >= 0xF0 && *s < 0xF8 ? 3 : -1;
        uint32_t code = more > 0 ? *s & (0x3Fu >> more) : *s;
        for (int k = 1; k <= more; k++) {
            if ((s[k] & 0xC0) != 0x80) return cnn_fail(t, "its name is not UTF-8");
            code = code << 6 | (s[k] & 0x3F);
        }
        if (more < 0 || code < least[more] || code > 0x10FFFF || (code & 0xFFFFF800) == 0xD800)
            return cnn_fail(t, "its name is not UTF-8");
        if (code < 0x20 || (code >= 0x7F && code < 0xA0))
            return cnn_fail(t, "its name has a control character");
        s += more + 1;
    }
    return strcmp(t->name, "__metadata__") != 0 || cnn_fail(t, "files keep this name for themselves");
}

/* All names, and the list by which they are found. */
static bool cnn__name_nodes(cnn_graph *g)
{
    const cnn__node *twin = NULL, *first = NULL;
    if (!cnn__number_nodes(g)) return false;
    for (int i = 0; i < g->n_order; i++) {
        cnn__node *v = g->by_name[i] = g->order[i];
        if (!v->named && v->owner) {
            size_t room = strlen(v->owner->t.name) + strlen(v->suffix) + 2;
            char  *name = cnn__alloc(g, room);
            if (!name) return false;
            cnn__format(name, room, "%s.%s", v->owner->t.name, v->suffix);
            v->t.name = name;
        }
        if (!cnn__check_name(&v->t)) return false;
    }
    qsort(g->by_name, (size_t)g->n_order, sizeof *g->by_name, cnn__compare_nodes);
    for (int i = 1; i < g->n_order; i++) {
        const cnn__node *v = g->by_name[i], *u = g->by_name[i - 1];
        if (strcmp(v->t.name, u->t.name) == 0 && (!twin || v->t.index < twin->t.index)) twin = v, first = u;
    }
    return !twin || cnn_fail(&g->order[twin->t.index]->t, "another node has the same name%s%s",
                             first->t.at ? ", recorded at " : "", first->t.at ? first->t.at : "");
}

/* A name in two parts, so that none has to be put together: "conv1" ".weight". */
typedef struct { const char *prefix, *name; } cnn__key;
static int cnn__compare_name(const cnn__key *key, const char *name)
{
    const size_t n = strlen(key->prefix);
    const int    order = strncmp(key->prefix, name, n);
    return order ? order : strcmp(key->name, name + n);
}
static int cnn__compare_key(const void *key, const void *node)
{
    return cnn__compare_name(key, (*(cnn__node *const *)node)->t.name);
}

/* The node of this name, or NULL. */
static cnn_tensor *cnn__find_name(const cnn_graph *g, const char *prefix, const char *name)
{
    const cnn__key key = { prefix, name };
    cnn__node *const *v = g->n_order ? bsearch(&key, g->by_name, (size_t)g->n_order, sizeof *g->by_name,
                                               cnn__compare_key) : NULL;
    return v ? &(*v)->t : NULL;
}

/* ---- The memory plan ----

   Time runs from 0 to 2n: the forward of node i happens at time i, its backward at 2n-1-i, and 2n is the end.
   Every value, gradient and saved state of a node is a span of that time, from its first write to its last
   read; two arrays may share memory if their spans do not meet. Take three nodes, h = dense(x, w), y = tanh h
   and J = mse(y, t), and count only them, n = 3 (the leaves x, w, t have arenas of their own):

       time            0        1        2        3        4        5        6
                     h = xw  y = tanh h  J      J back   y back   h back    end
       value of h      |--------|                                                  y is computed in its place
       value of y               |--------------------------------------------|     logits stay readable
       gradient of y                              |--------|                       tanh's backward reads y,
       gradient of h                                       |--------|              and writes in place of dy

   tanh may run in place, since nobody else reads h and its backward needs y alone: so h and y are one array.
   Likewise h's gradient takes the place of y's. In CNN_EVAL nothing is read after n, so spans are shorter. */

typedef struct { size_t bytes, at; int first, last; size_t *result; } cnn__span;

static int cnn__larger_span(const void *a, const void *b)
{
    const cnn__span *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x->first != y->first ? (x->first < y->first ? -1 : 1) : (x->last > y->last) - (x->last < y->last);
}

/* A device that has no buffer as large as the arena keeps it in chunks of so many bytes, the last one
   smaller, and no array lies in two of them. */
static size_t cnn__chunk_bytes(const cnn_graph *g)
{
    const size_t most = g->config.backend ? g->config.backend->max_bytes : 0;
    return !most ? SIZE_MAX : most < CNN__ALIGN ? CNN__ALIGN : most - most % CNN__ALIGN;
}
/* The first place from `at` on where they lie in one. */
static size_t cnn__in_one_chunk(size_t at, size_t bytes, size_t chunk)
{
    const size_t left = chunk - at % chunk;
    return bytes > left ? cnn__add_size(at, left) : at;
}

/* Give each span its place; returns the size of the arena in bytes. Placed spans are kept sorted by place, so
   that the gaps are met from low to high. That is quadratic: the spans of a very large net are placed in
   groups, the next one behind all of the last, which takes a little more memory. */
static size_t cnn__place_spans(cnn__span *span, int n, int *by_place, size_t chunk)
{
    enum { GROUP = 8192 };
    size_t arena = 0, behind = 0;
    qsort(span, (size_t)n, sizeof *span, cnn__larger_span);
    for (int i = 0; i < n; i++) {
        const int first = i - i % GROUP;
        if (i == first) behind = arena;
        size_t at = cnn__in_one_chunk(behind, span[i].bytes, chunk);
        int    k = first;
        for (int j = first; j < i; j++) {
            const cnn__span *other = &span[by_place[j]];
            if (other->last < span[i].first || span[i].last < other->first) continue;
            if (other->at >= cnn__add_size(at, span[i].bytes)) break;
            if (other->at + other->bytes > at)
                at = cnn__in_one_chunk(other->at + other->bytes, span[i].bytes, chunk);
        }
        span[i].at = at;
        while (k < i && span[by_place[k]].at <= at) k++;
        memmove(by_place + k + 1, by_place + k, (size_t)(i - k) * sizeof *by_place);
        by_place[k] = i;
        if (cnn__add_size(at, span[i].bytes) > arena) arena = cnn__add_size(at, span[i].bytes);
        *span[i].result = at / sizeof(float);
    }
    return arena;
}

static size_t cnn__bytes_of(const cnn__node *v)       /* at max_batch, rounded to the alignment */
{
    cnn_shape s = v->t.shape;
    s.n = v->max_n;
    return cnn__round_up(cnn__mul_size(cnn__checked_len(s), sizeof(float)), CNN__ALIGN);
}

/* Is x exactly one of v's operands, with as many elements as v? */
static bool cnn__same_elements(const cnn__node *v, const cnn__node *x)
{
    int times = 0;
    for (int k = 0; k < v->t.n_in; k++) times += v->t.in[k] == &x->t;
    return times == 1 && x->max_n == v->max_n && x->t.batched == v->t.batched
        && cnn__sample(x->t.shape) == cnn__sample(v->t.shape);
}

/* The step of backward that belongs to step i of forward. */
static int cnn__backward_time(const cnn_graph *g, int i) { return 2 * g->n_order - 1 - i; }

/* What does backward of v read? A row of the user's may read all. */
static unsigned cnn__reads(const cnn__node *v)
{
    return v->kernel && v->kernel->backward ? CNN_READS_X | CNN_READS_Y : v->t.op->flags;
}

/* When is each value read for the last time? By its users, and by the backward of those that read it. What
   can be read after the run lives to the end: the root with its operands, what the losses below it judge (the
   logits), and what is kept. Also: how many users has a node, and which of them comes first in backward? */
static void cnn__plan_lifetimes(cnn_graph *g, cnn_mode mode)
{
    const int end = 2 * g->n_order;
    for (int i = 0; i < g->n_order; i++) {
        cnn__node *v = g->order[i];
        const bool back = mode == CNN_TRAIN && v->t.needs_grad && v->t.op;
        v->last[mode] = v->t.kept || &v->t == g->loss ? end : i;
        if (back && ((cnn__reads(v) & CNN_READS_Y) || cnn__can_gate(v)) && v->last[mode] < end)
            v->last[mode] = cnn__backward_time(g, i);
        v->grad_first = i, v->users = 0;
        v->alias[mode] = v->joined[mode] = NULL;
        for (int k = 0; k < v->t.n_in; k++) {
            cnn__node *x = cnn__of(v->t.in[k]);
            int        until = back && (cnn__reads(v) & CNN_READS_X) ? cnn__backward_time(g, i) : i;
            if (&v->t == g->loss || (v->t.op->flags & CNN_LOSS)) until = end;
            if (x->last[mode] < until) x->last[mode] = until;
            if (v->t.needs_grad) x->grad_first = i;        /* the highest such i: its backward comes first */
            x->users++;
        }
    }
}

/* In place: y may overwrite its first operand if it is the last to read it. */
static void cnn__plan_in_place(cnn_graph *g, cnn_mode mode)
{
    for (int i = 0; i < g->n_order; i++) {
        cnn__node *v = g->order[i], *x = v->t.n_in ? cnn__of(v->t.in[0]) : NULL;
        if (!x || !x->t.op || !(v->t.op->flags & CNN_INPLACE) || x->last[mode] != i) continue;
        if (v->kernel || !cnn__same_elements(v, x)) continue;
        v->alias[mode] = x, x->joined[mode] = v;
        x->last[mode] = i - 1;
    }
}

/* Gradients in place: that of y is done with when y's backward has run, so that of its first operand may take
   its place if y's backward is the first to write it. On a device only where rows set gradients. */
static void cnn__plan_gradients_in_place(cnn_graph *g, cnn_mode mode)
{
    const cnn_backend *device = g->config.backend;
    const bool may = mode == CNN_TRAIN && (!device || device->sets_grads) && !g->config.keep_grads;
    for (int i = 0; i < g->n_order; i++)
        g->order[i]->grad_alias = g->order[i]->gate = NULL, g->order[i]->grad_last = cnn__backward_time(g, i);
    for (int i = 0; i < g->n_order && may; i++) {
        cnn__node *v = g->order[i], *x = v->t.n_in ? cnn__of(v->t.in[0]) : NULL;
        if (!x || !x->t.op || !x->t.needs_grad || !(v->t.op->flags & CNN_INPLACE_GRAD) || v->kernel) continue;
        if (&v->t != g->loss && x->grad_first == i && cnn__same_elements(v, x)) x->grad_alias = v;
    }
    for (int i = 0; i < g->n_order && may; i++) {
        cnn__node *v = g->order[i], *x = v->t.n_in ? cnn__of(v->t.in[0]) : NULL;
        if (cnn__can_gate(v) && x->users == 1 && cnn__of(x->t.in[0])->grad_alias == x) x->gate = v;
    }
    for (int i = 0; i < g->n_order; i++) {                          /* operands first */
        cnn__node *v = g->order[i], *y = v->grad_alias;
        if (y && y->grad_last < v->grad_last) y->grad_last = v->grad_last;
    }
}

/* Where several nodes share one place, it is taken until the last of them has been read: span_last, for the
   first of them. From the last user back to the first. On a device the row of the first may do the backward
   of all, and reads then what the last one left. */
static void cnn__plan_shared_places(cnn_graph *g, cnn_mode mode)
{
    const bool device = g->config.backend && mode == CNN_TRAIN;
    for (int i = 0; i < g->n_order; i++) g->order[i]->span_last = 0;
    for (int i = g->n_order; i-- > 0; ) {
        cnn__node *v = g->order[i], *x = v->alias[mode];
        if (v->span_last < v->last[mode]) v->span_last = v->last[mode];
        if (!x) continue;
        if (x->span_last < v->span_last) x->span_last = v->span_last;
        if (device && v->span_last >= g->n_order && x->span_last < cnn__backward_time(g, x->t.index))
            x->span_last = cnn__backward_time(g, x->t.index);
    }
}

/* A place for every value, saved state and gradient in this mode; returns the bytes that they take. */
static size_t cnn__plan_activations(cnn_graph *g, cnn_mode mode, cnn__span *span, int *by_place)
{
    const int n = g->n_order, end = 2 * n;
    int       n_spans = 0;
    cnn__plan_lifetimes(g, mode);
    cnn__plan_in_place(g, mode);
    cnn__plan_gradients_in_place(g, mode);
    cnn__plan_shared_places(g, mode);

    /* The spans. */
    for (int i = 0; i < n; i++) {
        cnn__node  *v = g->order[i];
        cnn_tensor *t = &v->t;
        const int   back = cnn__backward_time(g, i);
        if (t->op && !v->alias[mode])
            span[n_spans++] = (cnn__span){ cnn__bytes_of(v), 0, i, v->span_last, &t->data_at[mode] };
        if (mode == CNN_EVAL) continue;
        if (t->op && t->op->saved)
            span[n_spans++] = (cnn__span){ cnn__round_up(t->op->saved(t), CNN__ALIGN), 0, i,
                                           t->needs_grad ? back : i, &t->saved_at };
        if (t->needs_grad && t->kind != CNN_PARAM && t != g->loss && !v->grad_alias) {
            const bool keep = g->config.keep_grads || t->kind == CNN_INPUT;
            span[n_spans++] = (cnn__span){ cnn__bytes_of(v), 0, cnn__backward_time(g, v->grad_first),
                                           keep ? end : v->grad_last, &t->grad_at };
        }
    }
    const size_t bytes = cnn__place_spans(span, n_spans, by_place, cnn__chunk_bytes(g));

    /* Those in place of another: operands first for values, users first for gradients. */
    for (int i = 0; i < n; i++) {
        cnn__node *v = g->order[i];
        if (v->alias[mode]) v->t.data_at[mode] = v->alias[mode]->t.data_at[mode];
    }
    for (int i = n; mode == CNN_TRAIN && i-- > 0; ) {
        cnn__node *v = g->order[i];
        if (v->grad_alias) v->t.grad_at = v->grad_alias->t.grad_at;
    }
    return bytes;
}

/* Places of the leaves: parameters that are trained first, so that the optimizer is one loop over a
   prefix. */
static void cnn__plan_leaves(cnn_graph *g)
{
    size_t trained = 0, frozen = 0, buffers = 0, inputs = 0;
    g->n_params = 0;
    for (int i = 0; i < g->n_order; i++) {
        cnn_tensor *t = &g->order[i]->t;
        if (t->kind == CNN_PARAM) g->param[g->n_params++] = g->order[i];
        size_t     *at = t->kind == CNN_PARAM ? (t->needs_grad ? &trained : &frozen)
                       : t->kind == CNN_INPUT || t->kind == CNN_LABELS ? &inputs : &buffers;
        if (t->op) continue;
        t->data_at[CNN_EVAL] = t->data_at[CNN_TRAIN] = *at / sizeof(float);
        if (t->kind == CNN_PARAM) t->grad_at = *at / sizeof(float);
        *at = cnn__add_size(*at, cnn__bytes_of(g->order[i]));
    }
    for (int i = 0; i < g->n_order; i++) {
        cnn_tensor *t = &g->order[i]->t;
        if (t->kind == CNN_PARAM && !t->needs_grad)
            t->data_at[CNN_EVAL] = t->data_at[CNN_TRAIN] = t->data_at[CNN_EVAL] + trained / sizeof(float);
    }
    g->n_trained = trained / sizeof(float);
    g->memory.params = cnn__add_size(trained, frozen);
    g->memory.grads = trained;
    g->memory.optimizer = cnn__mul_size(trained, (size_t)g->config.optimizer->slots);
    g->memory.buffers = buffers;
    g->memory.inputs = inputs;
}

/* May y keep packed weights? In a graph for inference, where the kernel is this library's and the weights are
   leaves, so that g->written tells when they change. */
static bool cnn__packs(const cnn__node *v)
{
    const cnn_tensor *y = &v->t;
    const cnn_config *c = &y->graph->config;
    if (!c->inference || c->no_packed || c->backend || v->kernel) return false;
    if (y->graph->cpu.isa == CNN_ISA_PLAIN || !y->op || !y->op->packed) return false;
    return !y->in[1]->op && !y->in[1]->batched;
}

/* Does every array fit into the device's largest buffer? */
static bool cnn__arrays_fit(cnn_graph *g)
{
    const size_t most = cnn__chunk_bytes(g);
    for (int i = 0; i < g->n_order; i++) {
        cnn_tensor  *t = &g->order[i]->t;
        const size_t saved = t->op && t->op->saved && !g->config.inference ? t->op->saved(t) : 0;
        const size_t own = cnn__bytes_of(g->order[i]), bytes = own > saved ? own : saved;
        if (bytes > most)
            return cnn_fail(t, "with max_batch %d it has an array of %zu bytes, and the largest buffer of %s "
                            "has %zu", g->config.max_batch, bytes, g->config.backend->name, most);
    }
    return true;
}

/* Places of all that is computed, and the sum of the arenas. */
static bool cnn__plan_spans(cnn_graph *g)
{
    const size_t most = 3 * (size_t)g->n_order;          /* value, gradient and saved state of each node */
    cnn_memory  *m = &g->memory;
    cnn__span   *span = CNN_MALLOC(most * sizeof *span);
    int         *by_place = CNN_MALLOC(most * sizeof *by_place);
    if (!span || !by_place) {
        CNN_FREE(span);
        CNN_FREE(by_place);
        return cnn__no_memory(g, NULL, "compile", most * (sizeof *span + sizeof *by_place));
    }
    m->activations = m->activations_eval = cnn__plan_activations(g, CNN_EVAL, span, by_place);
    if (!g->config.inference) {
        size_t train = cnn__plan_activations(g, CNN_TRAIN, span, by_place);
        if (train > m->activations) m->activations = train;
        g->loss->grad_at = m->activations / sizeof(float);     /* always 1, in both modes */
        m->activations = cnn__add_size(m->activations, CNN__ALIGN);
    }
    CNN_FREE(span);
    CNN_FREE(by_place);
    for (int i = 0; i < g->n_order; i++) {
        const cnn_tensor *t = &g->order[i]->t;
        size_t            s = t->op && t->op->scratch ? cnn__round_up(t->op->scratch(t), CNN__ALIGN) : 0;
        if (s > m->scratch) m->scratch = s;
    }
    m->packed = 0;
    for (int i = 0; i < g->n_order; i++) {
        const cnn_tensor *y = &g->order[i]->t;
        const size_t bytes = cnn__packs(g->order[i]) ? cnn__round_up(y->op->packed(y), CNN__ALIGN) : 0;
        g->order[i]->packed_at = bytes ? m->packed / sizeof(float) : SIZE_MAX;
        m->packed = cnn__add_size(m->packed, bytes);
    }
    const size_t part[CNN_ARENAS] = { m->params, m->grads, m->optimizer, m->buffers, m->inputs,
        m->activations, m->packed, m->scratch };
    m->total = 0;
    for (int i = 0; i < CNN_ARENAS; i++) m->total = cnn__add_size(m->total, g->arena_bytes[i] = part[i]);
    return m->total < SIZE_MAX - CNN__ALIGN
           || cnn__fail(g, NULL, "compile", "the memory plan is larger than this machine can address");
}

/* Is a tensor that the user hands in one of this graph? */
static bool cnn__check_root(cnn_graph *g, const cnn_tensor *t, const char *what)
{
    if (!g || g->error[0]) return false;
    if (cnn__is_nil(t))
        return cnn__fail(g, g->config.at, what, "the loss is NULL or nil: a call that records it was given "
                         "NULL for a tensor");
    if (t->graph != g) return cnn__fail(g, g->config.at, what, "the loss is not a tensor of this graph");
    if (!g->config.inference && !t->op)
        return cnn__fail(g, t->at, what, "no operation computes the loss: there is nothing to train");
    if (!g->config.inference && (t->batched || cnn__checked_len(t->shape) != 1))
        return cnn__fail(g, t->at, what, "the loss has shape %s: it must be one number, (1,1,1,1); "
                         "for prediction alone say cnn_new(.inference = 1)", cnn__shape_text(t).s);
    return true;
}

/* The user's rows for the CPU. */
static bool cnn__find_rows(cnn_graph *g)
{
    for (int i = 0; i < g->n_order; i++)
        for (const cnn_kernel *row = g->config.rows; row && row->op; row++) {
            cnn_tensor *y = &g->order[i]->t;
            if (row->op != y->op || (row->accepts && !row->accepts(NULL, y))) continue;
            g->order[i]->kernel = row;
            if (row->forward && !row->backward && y->op->saved && y->needs_grad)
                return cnn_fail(y, "its forward keeps something for backward: a row that replaces forward "
                                   "must replace backward as well");
        }
    return true;
}

/* What cnn_freeze_names asked for. */
static bool cnn__freeze_matches(cnn_graph *g)
{
    for (const cnn__pattern *p = g->freeze; p; p = p->next) {
        int found = 0;
        for (int i = 0; i < g->n_order; i++)
            if (cnn__matches(p->text, g->order[i]->t.name)) found += cnn__freeze_leaf(&g->order[i]->t);
        if (!found)
            return cnn__fail(g, g->config.at, "freeze_names", "no parameter has a name like \"%.80s\"",
                             p->text);
    }
    return true;
}

/* Order, gradients, names, places: all that can be known before memory is taken. */
CNN_API cnn_memory cnn_plan(cnn_graph *g, cnn_tensor *loss)
{
    const cnn_memory none = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 };
    if (!cnn__check_root(g, loss, "compile")) return none;
    if (g->planned && g->loss == loss) return g->memory;
    if (g->compiled)
        return cnn__fail(g, loss->at, "compile", "the graph is compiled already, for another loss"), none;
    g->memory = none;
    CNN_FREE(g->order);
    g->n_order = 0;
    const size_t bytes = 3 * (size_t)g->n_nodes * sizeof *g->order;
    g->order = CNN_MALLOC(bytes);
    if (!g->order) return cnn__no_memory(g, NULL, "compile", bytes), none;
    g->by_name = g->order + g->n_nodes, g->param = g->by_name + g->n_nodes;

    /* The order of execution: what the loss depends on, then what else is kept. */
    g->loss = loss, g->walk++;
    for (int i = 0; i < g->n_nodes; i++) g->node[i]->t.index = -1, g->node[i]->t.needs_grad = false;
    cnn__walk(g, cnn__of(loss));
    const int n_loss = g->n_order;
    for (int i = 0; i < g->n_nodes; i++)
        if (g->node[i]->t.kept) cnn__walk(g, g->node[i]);

    /* Whose parameter is it, what is everything called, which gradients are wanted, and where does it lie? */
    cnn__adopt(g);
    if (cnn__name_nodes(g) && cnn__freeze_matches(g) && cnn__mark_gradients(g, n_loss) &&
        cnn__find_rows(g) && cnn__arrays_fit(g)) {
        cnn__plan_leaves(g);
        g->planned = cnn__plan_spans(g);
    }
    return g->planned ? g->memory : none;
}

/* ---- Compile ---- */

/* The rule for the weight of a layer that was given none: He if a rectifier reads what the layer computes,
   for half of that will be zero (He et al. 2015), else LeCun (LeCun et al. 1998). */
static cnn_init cnn__default_init(const cnn__node *v)
{
    if (!v->owner) return CNN_INIT_CONSTANT;
    return v->owner->rectified ? CNN_INIT_HE : CNN_INIT_LECUN;
}

/* Initial values: number i of parameter p is drawn from the stream p of the seed, p counting along the
   order. */
static void cnn__init_leaf(const cnn__node *v)
{
    const cnn_tensor *t = &v->t;
    cnn_init          init = v->init == CNN_INIT_DEFAULT ? cnn__default_init(v) : v->init;
    size_t n = (size_t)cnn__len(t->shape);
    double in  = v->fan_in  ? v->fan_in  : t->shape.n;
    double out = v->fan_out ? v->fan_out : t->shape.c;
    double gain = v->gain != 0 ? (double)v->gain : init == CNN_INIT_CONSTANT ? 0.0 : 1.0, a = 0;
    switch (init) {
    case CNN_INIT_HE:      a = gain * sqrt(6.0 / in);         break;
    case CNN_INIT_GLOROT:  a = gain * sqrt(6.0 / (in + out)); break;
    case CNN_INIT_LECUN:   a = gain * sqrt(3.0 / in);         break;
    case CNN_INIT_UNIFORM: a = gain;                          break;
    case CNN_INIT_DEFAULT: case CNN_INIT_CONSTANT:            break;
    }
    if (v->values) memcpy(t->data, v->values, n * sizeof(float));
    else if (init == CNN_INIT_CONSTANT) for (size_t i = 0; i < n; i++) t->data[i] = (float)gain;
    else for (size_t i = 0; i < n; i++) {
        float u = cnn__uniform(cnn__random_bits(t->graph->config.seed, (uint64_t)(unsigned)t->index, i));
        t->data[i] = (float)a * (2 * u - 1);
    }
}

static cnn_arena cnn__arena_of(const cnn_tensor *t)
{
    switch (t->kind) {
    case CNN_PARAM:                   return CNN_ARENA_PARAMS;
    case CNN_CONST: case CNN_BUFFER:  return CNN_ARENA_BUFFERS;
    case CNN_INPUT: case CNN_LABELS:  return CNN_ARENA_INPUTS;
    case CNN_NODE:                    break;
    }
    return CNN_ARENA_ACTIVATIONS;
}

/* Point a tensor to where its arrays are in this mode, and give it the current batch. */
static void cnn__bind(cnn__node *v, cnn_mode mode)
{
    cnn_tensor *t = &v->t;
    cnn_graph  *g = t->graph;
    float      *act = g->arena[CNN_ARENA_ACTIVATIONS];
    t->shape.n = t->batched ? g->batch : v->max_n;
    t->data = g->arena[cnn__arena_of(t)] + t->data_at[mode];
    t->grad = !t->needs_grad ? NULL : t->kind == CNN_PARAM ? g->arena[CNN_ARENA_GRADS] + t->grad_at
            : mode == CNN_TRAIN ? act + t->grad_at : NULL;
    t->saved = mode == CNN_TRAIN && t->op && t->op->saved ? act + t->saved_at : NULL;
}

/* Lay the arenas out in `memory`, or in an allocation of the graph's own. */
static bool cnn__place_arenas(cnn_graph *g, const char *what, void *memory)
{
    const bool zero = !memory && CNN__ARENAS_ARE_ZERO;
    if (g->cpu.threads > 1 && !cnn__open_team(&g->cpu))
        return cnn__no_memory(g, g->config.at, what, cnn__team_bytes(g->cpu.threads));
    if (!memory) {
        memory = g->base = CNN__ARENAS(g->memory.total + CNN__ALIGN);
        if (!g->base) return cnn__no_memory(g, g->config.at, what, g->memory.total + CNN__ALIGN);
    }
    char *p = (char *)memory + (CNN__ALIGN - (uintptr_t)memory % CNN__ALIGN) % CNN__ALIGN;
    for (int i = 0; i < CNN_ARENAS; i++) {
        g->arena[i] = (float *)(void *)p;
        if (i < CNN_ARENA_ACTIVATIONS && !zero) memset(p, 0, g->arena_bytes[i]);      /* the rest is written
                                                                                         before it is read */
        p += g->arena_bytes[i];
    }
    return true;
}

CNN_API bool cnn_compile(cnn_graph *g, cnn_tensor *loss) { return cnn_compile_in(g, loss, NULL, 0); }

CNN_API bool cnn_compile_in(cnn_graph *g, cnn_tensor *loss, void *memory, size_t bytes)
{
    const cnn_memory m = cnn_plan(g, loss);
    if (!g || g->error[0]) return false;
    if (g->compiled) return cnn__fail(g, g->config.at, "compile", "the graph is compiled already");
    if (memory && ((uintptr_t)memory % CNN__ALIGN || bytes < m.total))
        return cnn__fail(g, g->config.at, "compile",
                         "the memory given has %zu bytes at an address of alignment %d: %zu bytes, aligned "
                         "to %d, are needed", bytes, (int)((uintptr_t)memory % CNN__ALIGN ? 1 : CNN__ALIGN),
                         m.total, CNN__ALIGN);

    /* One block of memory for all arenas; each tensor learns its place; parameters get their first values. */
    if (!cnn__place_arenas(g, "compile", memory)) return false;
    for (int i = 0; i <= loss->index; i++) {                        /* kept tensors do not count */
        const cnn_tensor *y = &g->order[i]->t;
        if (y->op && (y->op->flags & CNN_RECTIFIER)) cnn__of(y->in[0])->rectified = true;
    }
    for (int i = 0; i < g->n_order; i++) {
        cnn__node *v = g->order[i];
        cnn__bind(v, g->config.inference ? CNN_EVAL : CNN_TRAIN);
        v->stamp = 0;
        if (v->t.kind == CNN_PARAM || v->t.kind == CNN_BUFFER || v->t.kind == CNN_CONST) cnn__init_leaf(v);
    }

    /* Where backward starts: dJ/dJ = 1. */
    if (!g->config.inference && loss->needs_grad) loss->grad[0] = 1;
    g->compiled = cnn__open_backend(g);
    return g->compiled;
}

/* ===========================================================================================================
   >>values ---- 9. Values: set, get, map; views
   ======================================================================================================== */

/* ---- Values ---- */

/* May the value of t be read? A node's value is there from its run until something else takes its memory. */
static bool cnn__readable(cnn_tensor *t, const char *what)
{
    if (!cnn__placed(t, what)) return false;
    cnn_graph *g = t->graph;
    cnn__node *v = cnn__of(t);
    if (!t->op) return true;
    if (v->stamp != g->run) return cnn_fail(t, "%s: the last cnn_forward did not compute it", what);
    if (t->batched && g->ran_batch != g->batch)
        return cnn_fail(t, "%s: it was computed for %d samples, and now the batch is %d", what, g->ran_batch,
                        g->batch);
    if (v->last[g->mode] < g->reached)
        return cnn_fail(t, "%s: its memory has been used again; cnn_keep it before cnn_compile, or forward "
                           "it itself", what);
    return true;
}

static bool cnn__check_count(cnn_tensor *t, const char *what, size_t count)
{
    if (count == cnn_count(t)) return true;
    return cnn_fail(t, "%s: %zu values were given for shape %s, which has %zu", what, count,
                    cnn__shape_text(t).s, cnn_count(t));
}

/* So many values come for t: an input takes the batch that they make. */
static bool cnn__take_batch(cnn_tensor *t, const char *what, size_t count)
{
    const size_t sample = (size_t)cnn__sample(t->shape), most = (size_t)t->graph->config.max_batch;
    if (t->op) return true;                                     /* cnn_map_write refuses it */
    if (!t->batched) return cnn__check_count(t, what, count);
    if (count == 0 || count % sample || count / sample > most)
        return cnn_fail(t, "%s: %zu values: shape %s takes a multiple of %zu, up to max_batch = %zu samples",
                        what, count, cnn__shape_text(t).s, sample, most);
    return cnn_set_batch(t->graph, (int)(count / sample));
}

CNN_API size_t cnn_count(const cnn_tensor *t)
{
    if (cnn__is_nil(t)) return 0;
    return (size_t)(t->batched ? t->graph->batch : cnn__of(t)->max_n) * (size_t)cnn__sample(t->shape);
}

CNN_API int cnn_batch(const cnn_graph *g) { return g ? g->batch : 0; }

CNN_API bool cnn_set_batch(cnn_graph *g, int batch)
{
    if (!g || g->error[0]) return false;
    if (batch < 1 || batch > g->config.max_batch)
        return cnn__fail(g, g->config.at, "batch", "%d samples: the batch must be 1 to max_batch = %d", batch,
                         g->config.max_batch);
    g->batch = batch;
    return true;
}

CNN_API const float *cnn_map_read(cnn_tensor *t)
{
    return cnn__readable(t, "read") && cnn__sync(t, CNN__DATA, CNN__HOST) ? t->data : NULL;
}

CNN_API float *cnn_map_write(cnn_tensor *t)
{
    if (!cnn__usable(t, "write")) return NULL;
    if (t->op)
        return cnn_fail(t, "write: it is computed by the graph; only inputs, labels, parameters, buffers "
                           "and constants can be written"), NULL;
    if (t->graph->shares && !t->batched)
        return cnn_fail(t, "write: it belongs to the net that this view shares"), NULL;
    if (!t->batched && !cnn__sync(t, CNN__DATA, CNN__HOST)) return NULL;
    cnn__wrote(t, CNN__DATA, CNN__HOST);
    if (t->batched) t->shape.n = cnn__of(t)->fed = t->graph->batch;
    t->graph->can_backward = false;                 /* forward saw, and checked, what was there before */
    return t->data;
}

CNN_API bool cnn_set(cnn_tensor *t, const float *values, size_t count)
{
    if (!cnn__usable(t, "set")) return false;
    if (!values) return cnn_fail(t, "set: no values were given: the pointer is NULL");
    float *data = cnn__take_batch(t, "set", count) ? cnn_map_write(t) : NULL;
    if (data) memcpy(data, values, count * sizeof(float));
    return data != NULL;
}

CNN_API bool cnn_set_labels(cnn_tensor *t, const int *classes, size_t count)
{
    if (!cnn__usable(t, "set_labels")) return false;
    if (!classes) return cnn_fail(t, "set_labels: no classes were given: the pointer is NULL");
    if (t->kind != CNN_LABELS) return cnn_fail(t, "set_labels: it was not made by cnn_labels");
    float *data = cnn__take_batch(t, "set_labels", count) ? cnn_map_write(t) : NULL;
    for (size_t i = 0; data && i < count; i++) data[i] = (float)classes[i];
    return data != NULL;
}

static bool cnn__copy_out(cnn_tensor *t, const char *what, const float *from, float *values, size_t count)
{
    if (!from || !cnn__check_count(t, what, count)) return false;
    if (!values) return cnn_fail(t, "%s: there is nowhere to write to: the pointer is NULL", what);
    memcpy(values, from, count * sizeof(float));
    return true;
}
CNN_API bool cnn_get(cnn_tensor *t, float *values, size_t count)
{
    return cnn__copy_out(t, "get", cnn_map_read(t), values, count);
}

CNN_API const float *cnn_map_grad(cnn_tensor *t)
{
    if (cnn__is_nil(t)) return NULL;
    cnn_graph *g = t->graph;
    if (!g->compiled || !t->needs_grad)
        return cnn_fail(t, "gradient: %s", !g->compiled ? "call cnn_compile first"
                        : t->kind == CNN_INPUT && !cnn__of(t)->wants_grad
                        ? "it was not asked for: say cnn_input(..., .grad = 1)"
                        : "no gradient flows to it (frozen, constant, or not on the way to the loss)"), NULL;
    if (t->kind != CNN_PARAM && t != g->loss) {
        if (g->reached != 2 * g->n_order)
            return cnn_fail(t, "gradient: the last call was not cnn_backward"), NULL;
        if (t->batched && g->ran_batch != g->batch)
            return cnn_fail(t, "gradient: it was computed for %d samples, and now the batch is %d",
                            g->ran_batch, g->batch), NULL;
        if (t->op && !g->config.keep_grads)
            return cnn_fail(t, "gradient: it is not kept; say cnn_new(.keep_grads = 1)"), NULL;
    }
    return cnn__sync(t, CNN__GRAD, CNN__HOST) ? t->grad : NULL;
}

CNN_API bool cnn_get_grad(cnn_tensor *t, float *values, size_t count)
{
    return cnn__copy_out(t, "get_grad", cnn_map_grad(t), values, count);
}

static float *cnn__flat(cnn_graph *g, size_t *count, cnn__part part)
{
    if (count) *count = 0;
    if (!g) return NULL;
    if (!g->compiled) return cnn__fail(g, g->config.at, "flat vector", "call cnn_compile first"), NULL;
    if (!cnn__sync_params(g, part, CNN__HOST)) return NULL;
    cnn__wrote_params(g, part, CNN__HOST);
    if (count) *count = g->n_trained;
    return g->arena[part == CNN__DATA ? CNN_ARENA_PARAMS : CNN_ARENA_GRADS];
}
CNN_API float *cnn_flat_params(cnn_graph *g, size_t *count) { return cnn__flat(g, count, CNN__DATA); }
CNN_API float *cnn_flat_grads (cnn_graph *g, size_t *count) { return cnn__flat(g, count, CNN__GRAD); }

/* ---- Views: the nodes once more, with places of their own for all but parameters and buffers ---- */

static bool cnn__copy_nodes(cnn_graph *view, const cnn_graph *g)
{
    const size_t n = (size_t)g->n_order;
    cnn__node   *node = cnn__alloc(view, n * sizeof *node);
    view->order = node ? CNN_MALLOC(3 * n * sizeof *view->order) : NULL;
    if (!view->order) return cnn__no_memory(view, NULL, "share", 3 * n * sizeof *view->order);
    view->by_name = view->order + n, view->param = view->by_name + n;
    for (size_t i = 0; i < n; i++) {
        const cnn__node  *from = g->order[i];       /* only what a run of g leaves alone is read: no race */
        const cnn_tensor *t = &from->t;
        cnn__node        *v = &node[i];
        v->t.name = t->name, v->t.at = t->at, v->t.op = t->op, v->t.args = t->args;
        v->t.graph = view, v->t.kind = t->kind, v->t.index = t->index;
        v->t.frozen = t->frozen, v->t.kept = t->kept;
        v->owner = from->owner ? &node[from->owner->t.index] : NULL, v->suffix = from->suffix;
        v->named = from->named;
        v->data_on = v->grad_on = v->saved_on = CNN__HOST, v->lr_scale = v->decay_scale = 1;
        v->t.n_in = t->n_in;
        for (int k = 0; k < t->n_in; k++) v->t.in[k] = &node[t->in[k]->index].t;
        view->order[view->n_order++] = v;
        if (t->op) {
            if (!cnn__set_shape(&v->t)) return false;
            continue;
        }
        v->t.batched = t->batched;
        v->max_n = t->batched ? view->config.max_batch : from->max_n;
        v->t.shape = (cnn_shape){ v->max_n, t->shape.c, t->shape.h, t->shape.w };
        if (cnn__checked_len(v->t.shape) == SIZE_MAX)
            return cnn_fail(&v->t, "shape %s holds more than 2^31 - 1 elements (N = %d)",
                            cnn__shape_text(&v->t).s, v->max_n);
    }
    return true;
}

CNN_API cnn_graph *cnn_share_(cnn_share_args a)
{
    const cnn_graph *g = a.g;
    if (!g) return NULL;
    const cnn_config config = { .at = a.at, .max_batch = a.max_batch ? a.max_batch : g->config.max_batch,
                                .seed = g->config.seed, .threads = a.threads ? a.threads : 1,
                                .isa = g->cpu.isa, .optimizer = g->config.optimizer, .exact = g->config.exact,
                                .inference = 1, .no_packed = g->config.no_packed, .rows = g->config.rows };
    cnn_graph *view = cnn_new_(config);
    if (!view || view->error[0]) return view;
    view->shares = g->shares ? g->shares : g;
    if (!g->compiled && g->error[0]) cnn__fail(view, a.at, "share", "the net has an error: %.400s", g->error);
    else if (!g->compiled)           cnn__fail(view, a.at, "share", "the net is not compiled");
    else if (g->config.backend)
        cnn__fail(view, a.at, "share", "the net is on a device: only nets in the host's memory are shared");
    if (view->error[0] || !cnn__copy_nodes(view, g) || !cnn__find_rows(view)) return view;
    for (int i = 0; i < g->n_order; i++) view->by_name[i] = view->order[g->by_name[i]->t.index];
    view->loss = &view->order[g->loss->index]->t;
    cnn__plan_leaves(view);
    for (int i = 0; i < g->n_order; i++) {
        cnn_arena arena = cnn__arena_of(&g->order[i]->t);
        if (arena != CNN_ARENA_PARAMS && arena != CNN_ARENA_BUFFERS) continue;
        memcpy(view->order[i]->t.data_at, g->order[i]->t.data_at, sizeof g->order[i]->t.data_at);
    }
    view->memory.params = view->memory.buffers = 0;
    view->planned = cnn__plan_spans(view);
    if (!view->planned || !cnn__place_arenas(view, "share", NULL)) return view;
    view->arena[CNN_ARENA_PARAMS]  = g->arena[CNN_ARENA_PARAMS];
    view->arena[CNN_ARENA_BUFFERS] = g->arena[CNN_ARENA_BUFFERS];
    for (int i = 0; i < view->n_order; i++) cnn__bind(view->order[i], CNN_EVAL);
    view->compiled = true;
    return view;
}

CNN_API cnn_tensor *cnn_find(const cnn_graph *g, const char *name)
{
    return g && g->planned && name ? cnn__find_name(g, "", name) : NULL;
}
CNN_API cnn_tensor *cnn_params(const cnn_graph *g, int i)
{
    return g && g->compiled && i >= 0 && i < g->n_params ? &g->param[i]->t : NULL;
}
CNN_API cnn_tensor *cnn_node(const cnn_graph *g, int i)
{
    return g && g->compiled && i >= 0 && i < g->n_order ? &g->order[i]->t : NULL;
}

/* ===========================================================================================================
   >>data ---- 10. Data: samples and targets, files, folders, streams, shuffling, splits, batches

   A data set never belongs to a graph. So its errors are its own: a message in d.error, and count 0. Files
   are hostile: nothing that a header promises is used before it is compared with the bytes that are there.
   ======================================================================================================== */

CNN__PRINTF(2, 3)
static bool cnn__data_fail(cnn_dataset *d, const char *format, ...)
{
    va_list ap;
    d->count = 0;
    if (d->error[0]) return false;
    va_start(ap, format);
    vsnprintf(d->error, sizeof d->error, format, ap);
    va_end(ap);
    return false;
}

#ifndef CNN_NO_STDIO
/* The rest of a file, at most `most` bytes of it, followed by a 0, to be given to CNN_FREE; NULL after
   writing a message. It is read, not asked for its size: so pipes work too, a file that grows meanwhile does
   no harm, and the memory grows with what is there, not with what a header promised. */
static void *cnn__read_stream(FILE *f, size_t most, size_t *bytes, char *error, size_t room)
{
    char  *data = NULL, *more = NULL;
    size_t size = 0, capacity = 0, got = 1;
    while (got && size < most) {
        if (size == capacity) {
            const size_t twice = capacity ? cnn__mul_size(capacity, 2) : 1u << 16;
            capacity = twice < most ? twice : most;
            more = capacity == SIZE_MAX ? NULL : CNN_REALLOC(data, capacity);
            if (!more) break;
            data = more;
        }
        errno = 0;
        got = fread(data + size, 1, capacity - size, f);
        size += got;
    }
    if (ferror(f)) {
        cnn__format(error, room, "it cannot be read: %s", errno ? strerror(errno) : "unknown reason");
    } else if ((more || size == most) && (more = CNN_REALLOC(data, size + 1)) != NULL) {
        more[size] = 0, *bytes = size;
        return more;
    } else {
        cnn__format(error, room, "out of memory: %zu bytes", capacity ? capacity : size + 1);
    }
    CNN_FREE(data);
    return NULL;
}

static FILE *cnn__open_to_read(const char *path, char *error, size_t room)
{
    errno = 0;
    FILE *f = path ? fopen(path, "rb") : NULL;
    if (!f) cnn__format(error, room, "%s", !path ? "no path was given"
                        : errno ? strerror(errno) : "it cannot be opened");
    return f;
}

/* A whole file in memory, as from cnn__read_stream. */
static unsigned char *cnn__read_file(const char *path, size_t *bytes, char *error, size_t room)
{
    *bytes = 0;
    FILE *f = cnn__open_to_read(path, error, room);
    if (!f) return NULL;
    void *data = cnn__read_stream(f, SIZE_MAX, bytes, error, room);
    fclose(f);
    return data;
}
#endif

/* ---- What all data sets share: the order of the samples, the number of classes, the defaults ---- */

/* Allocate array k of the data set's own memory. */
static bool cnn__own(cnn_dataset *d, int k, size_t bytes)
{
    d->own[k] = bytes == SIZE_MAX ? NULL : CNN_MALLOC(bytes);
    return d->own[k] || cnn__data_fail(d, "data set: out of memory: %zu bytes", bytes);
}

/* d->order is followed by as many indices again: the order from which cnn_shuffle starts. Only the order is
   owned; the samples lie elsewhere, so that a split costs eight bytes a sample and a data set may be copied
   and moved. */
static bool cnn__set_order(cnn_dataset *d, int count, const int *from)
{
    size_t n = (size_t)count, bytes = cnn__mul_size(n, 2 * sizeof *d->order);
    if (!cnn__own(d, 2, bytes)) return false;
    d->order = d->own[2];
    for (size_t i = 0; i < n; i++) d->order[i] = d->order[n + i] = from ? from[i] : (int)i;
    d->count = count;
    return true;
}

static bool cnn__check_sample(cnn_dataset *d, const char *what, cnn_shape s)
{
    return cnn__checked_len(s) < SIZE_MAX ||
           cnn__data_fail(d, "data set: %s of (%d,%d,%d): every extent must be at least 1, and the product "
                             "at most 2^31 - 1", what, s.c, s.h, s.w);
}

static bool cnn__set_samples(cnn_dataset *d, const unsigned char *bytes, const float *floats, int count,
                             cnn_shape shape)
{
    d->type = bytes ? CNN_U8 : floats ? CNN_F32 : d->type;
    if (count < 1) return cnn__data_fail(d, "data set: %d samples: there must be at least one", count);
    if (!cnn__check_sample(d, "samples", shape)) return false;
    if (!d->type) return cnn__data_fail(d, "data set: the values are NULL");
    if (!cnn__set_order(d, count, NULL)) return false;
    d->shape = shape, d->bytes = bytes, d->floats = floats;
    for (int k = 0; k < 4; k++) d->deviation[k] = 1;
    return true;
}

enum { CNN__MOST_LABEL = 1 << 24 };                    /* whole numbers up to here are floats, too */
static bool cnn__is_label(double v) { return fabs(v) <= CNN__MOST_LABEL && v == floor(v); }

/* After cnn__set_samples. */
static bool cnn__set_targets(cnn_dataset *d, const int *labels, const float *targets, cnn_shape shape)
{
    d->target_type = labels ? CNN_I32 : targets ? CNN_F32 : d->target_type;
    if (d->error[0] || !d->target_type) return !d->error[0];
    if (!cnn__check_sample(d, "targets", shape)) return false;
    d->target = shape, d->labels = labels, d->targets = targets;
    const size_t each = (size_t)cnn__sample(shape);
    for (size_t i = 0; labels && i < (size_t)d->count * each; i++) {
        if (!cnn__is_label(labels[i]))
            return cnn__data_fail(d, "data set: label %d of sample %zu: it must be within +-2^24", labels[i],
                                  i / each);
        if (labels[i] >= d->classes) d->classes = labels[i] + 1;
    }
    return true;
}

/* Own `count` labels that came as bytes. */
static int *cnn__own_labels(cnn_dataset *d, const unsigned char *labels, size_t count)
{
    if (!cnn__own(d, 1, cnn__mul_size(count, sizeof(int)))) return NULL;
    int *to = d->own[1];
    for (size_t i = 0; i < count; i++) to[i] = labels[i];
    return to;
}

static int cnn__or_1(int extent) { return extent ? extent : 1; }

CNN_API cnn_dataset cnn_data_(cnn_data_args a)
{
    cnn_dataset     d = { 0 };
    const cnn_shape sample = { 1, a.c, cnn__or_1(a.h), cnn__or_1(a.w) };
    const cnn_shape target = { 1, cnn__or_1(a.target_c), cnn__or_1(a.target_h), cnn__or_1(a.target_w) };
    if (a.fill) {
        d.type = a.type ? a.type : CNN_F32, d.target_type = a.target_type, d.fill = a.fill, d.user = a.user;
        a.bytes = NULL, a.floats = NULL, a.labels = NULL, a.targets = NULL;
    }
    if ((a.bytes && a.floats) || (a.labels && a.targets))
        cnn__data_fail(&d, "data set: samples are bytes or floats, and targets labels or floats, not both");
    else if ((unsigned)d.type > CNN_F32 || d.type == CNN_I32 || (unsigned)d.target_type > CNN_F32 ||
             d.target_type == CNN_U8)
        cnn__data_fail(&d, "data set: a stream has samples of type CNN_U8 or CNN_F32, and targets of type "
                           "CNN_I32, CNN_F32 or CNN_NOTHING");
    else if (cnn__set_samples(&d, a.bytes, a.floats, a.count, sample))
        cnn__set_targets(&d, a.labels, a.targets, target);
    return d;
}

static cnn_dataset cnn__classified(cnn_data_args a, const unsigned char *labels)
{
    cnn_dataset d = cnn_data_(a);
    const int  *own = labels && d.count ? cnn__own_labels(&d, labels, (size_t)d.count) : NULL;
    cnn__set_targets(&d, own, NULL, cnn__vector(1));
    return d;
}
CNN_API cnn_dataset cnn_bytes(const unsigned char *pixels, const unsigned char *labels, int n, int c, int h,
                              int w)
{
    return cnn__classified((cnn_data_args){ .count = n, .bytes = pixels, .c = c, .h = h, .w = w }, labels);
}
CNN_API cnn_dataset cnn_floats(const float *values, const unsigned char *labels, int n, int c, int h, int w)
{
    return cnn__classified((cnn_data_args){ .count = n, .floats = values, .c = c, .h = h, .w = w }, labels);
}

CNN_API void cnn_dataset_free(cnn_dataset *d)
{
    if (!d) return;
    for (int i = 0; i < 4; i++) CNN_FREE(d->own[i]);
    memset(d, 0, sizeof *d);
}

/* ---- Formats. Each has a function that checks n files, or arrays, and copies what they hold. ---- */

typedef struct { const char *name; const unsigned char *p; size_t bytes; void *own; } cnn__input;
typedef bool cnn__format_reader(cnn_dataset *d, const cnn__input *from, int n, const void *options);

static cnn_dataset cnn__read_inputs(const cnn__input *from, int n, cnn__format_reader *read,
                                    const void *options)
{
    cnn_dataset d = { 0 };
    for (int i = 0; i < n; i++)
        if (from[i].bytes >= 2 && from[i].p[0] == 0x1f && from[i].p[1] == 0x8b)
            cnn__data_fail(&d, "%s is gzipped: gunzip it first", from[i].name);
    if (!d.error[0]) read(&d, from, n, options);
    return d;
}

static cnn__input cnn__memory(const char *name, const void *p, size_t bytes)
{
    const cnn__input from = { name, p ? p : "", p ? bytes : 0, NULL };
    return from;
}

#ifndef CNN_NO_STDIO
static cnn_dataset cnn__read_paths(const char *call, const char *const *path, int n, cnn__format_reader *read,
                                   const void *options)
{
    cnn_dataset d = { 0 };
    cnn__input *from = path && n > 0 ? CNN_MALLOC((size_t)n * sizeof *from) : NULL;
    char        why[128];
    int         opened = 0;
    if (!from) cnn__data_fail(&d, "%s: %s", call, path && n > 0 ? "out of memory" : "no path was given");
    for (; opened < n && !d.error[0]; opened++) {
        cnn__input *to = &from[opened];
        to->name = path[opened] ? cnn__path_end(path[opened]) : call;
        to->p = to->own = cnn__read_file(path[opened], &to->bytes, why, sizeof why);
        if (!to->p) cnn__data_fail(&d, "%s: %s", to->name, why);
    }
    if (!d.error[0]) d = cnn__read_inputs(from, n, read, options);
    while (opened-- > 0) CNN_FREE(from[opened].own);
    CNN_FREE(from);
    return d;
}
#endif

/* ---- IDX, the format of MNIST (LeCun, Cortes, Burges 1998) ----

   Two zero bytes; the type of the elements (8 = unsigned byte); the number of dimensions; each dimension in
   four bytes, highest first; the elements and nothing behind them. Images (count,H,W), (count,C,H,W) or
   (count,C); labels (count). */

static uint32_t cnn__be32(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Copy the elements of one file to own[k], after every check that one file allows. k: 0 pixels, 1 labels. */
static bool cnn__read_idx(cnn_dataset *d, const cnn__input *from, int k, int *rank, int dim[4])
{
    const char          *name = from->name, *what = k ? "label" : "pixel", *ranks = k ? "1" : "2 to 4";
    const unsigned char *p = from->p;
    const size_t         bytes = from->bytes;
    if (bytes < 4)
        return cnn__data_fail(d, "%s: truncated: an IDX file begins with 4 bytes, the file has %zu", name,
                              bytes);
    if (p[0] || p[1])
        return cnn__data_fail(d, "%s: not an IDX file: it begins with %02x %02x, not with 00 00", name, p[0],
                              p[1]);
    if (p[2] != 8)
        return cnn__data_fail(d, "%s: elements of type 0x%02x: only unsigned bytes, 0x08, can be read", name,
                              p[2]);
    if (k ? p[3] != 1 : p[3] < 2 || p[3] > 4)
        return cnn__data_fail(d, "%s: %d dimensions: %s files have %s", name, p[3], what, ranks);
    size_t header = 4 + 4 * (size_t)p[3], total = 1;
    if (bytes < header)
        return cnn__data_fail(d, "%s: truncated: the header has %zu bytes, the file has %zu", name, header,
                              bytes);
    *rank = p[3];
    for (int i = 0; i < *rank; i++) {
        uint32_t extent = cnn__be32(p + 4 + 4 * i);
        if (extent < 1 || extent > INT_MAX)
            return cnn__data_fail(d, "%s: dimension %d is %lu: it must be 1 to %d", name, i + 1,
                                  (unsigned long)extent, INT_MAX);
        dim[i] = (int)extent;
        total = cnn__mul_size(total, extent);
    }
    if (bytes - header < total)
        return cnn__data_fail(d, "%s: truncated: the header promises %zu %s bytes, the file has %zu", name,
                              total, what, bytes - header);
    if (bytes - header > total)
        return cnn__data_fail(d, "%s: the header promises %zu %s bytes, the file has %zu more", name, total,
                              what, bytes - header - total);
    if (k == 1) return cnn__own_labels(d, p + header, total) != NULL;
    return cnn__own(d, k, total) && memcpy(d->own[k], p + header, total);
}

static bool cnn__set_idx(cnn_dataset *d, const cnn__input *from, int n, const void *options)
{
    int dim[4], label_dim[4], rank, one;
    (void)options;
    if (!cnn__read_idx(d, from, 0, &rank, dim)) return false;
    if (n > 1 && !cnn__read_idx(d, from + 1, 1, &one, label_dim)) return false;
    if (n > 1 && label_dim[0] != dim[0])
        return cnn__data_fail(d, "%s has %d images, but %s has %d labels", from[0].name, dim[0], from[1].name,
                              label_dim[0]);
    cnn_shape s = { 1, rank == 3 ? 1 : dim[1], rank > 2 ? dim[rank - 2] : 1, rank > 2 ? dim[rank - 1] : 1 };
    return cnn__set_samples(d, d->own[0], NULL, dim[0], s) &&
           cnn__set_targets(d, d->own[1], NULL, cnn__vector(1));
}

CNN_API cnn_dataset cnn_idx_memory(const void *images, size_t image_bytes, const void *labels,
                                   size_t label_bytes)
{
    const cnn__input from[2] = { cnn__memory("images", images, image_bytes),
                                 cnn__memory("labels", labels, label_bytes) };
    return cnn__read_inputs(from, labels ? 2 : 1, cnn__set_idx, NULL);
}

/* ---- CIFAR-10 and CIFAR-100, binary version (Krizhevsky 2009) ----

   Records and nothing else. One byte of label (CIFAR-100: the coarse class, then the fine one), then 3072
   bytes: the red, green and blue plane of 32x32 pixels, row by row. */

static bool cnn__set_cifar(cnn_dataset *d, const cnn__input *from, int n, const void *options)
{
    const int    classes = *(const int *)options;
    const size_t pixels = 3 * 32 * 32, head = classes == 100 ? 2 : 1, record = head + pixels;
    size_t       count = 0;
    if (classes != 10 && classes != 100)
        return cnn__data_fail(d, "cifar: %d classes: there are CIFAR-10 and CIFAR-100", classes);
    for (int k = 0; k < n; k++) {
        if (from[k].bytes == 0 || from[k].bytes % record)
            return cnn__data_fail(d, "%s: %zu bytes are not a whole number of CIFAR-%d records of %zu bytes",
                                  from[k].name, from[k].bytes, classes, record);
        count = cnn__add_size(count, from[k].bytes / record);
        if (count > INT_MAX) return cnn__data_fail(d, "%s: more than %d samples", from[k].name, INT_MAX);
    }
    if (!cnn__own(d, 0, cnn__mul_size(count, pixels)) ||
        !cnn__own(d, 1, cnn__mul_size(count, sizeof(int)))) return false;
    unsigned char *to = d->own[0];
    int           *label = d->own[1];
    for (int k = 0; k < n; k++)
        for (size_t i = 0; i < from[k].bytes / record; i++, to += pixels) {
            const unsigned char *p = from[k].p + i * record;
            if (p[head - 1] >= classes || (head == 2 && p[0] >= 20))
                return cnn__data_fail(d, "%s: record %zu begins with %d, %d: these are no labels of CIFAR-%d",
                                      from[k].name, i + 1, p[0], p[1], classes);
            *label++ = p[head - 1];
            memcpy(to, p + head, pixels);
        }
    return cnn__set_samples(d, d->own[0], NULL, (int)count, (cnn_shape){ 1, 3, 32, 32 }) &&
           cnn__set_targets(d, d->own[1], NULL, cnn__vector(1));
}

CNN_API cnn_dataset cnn_cifar_memory(const void *records, size_t bytes, int classes)
{
    const cnn__input from = cnn__memory("cifar", records, bytes);
    return cnn__read_inputs(&from, 1, cnn__set_cifar, &classes);
}

/* ---- CSV ---- */

/* The number at p, such as -12.5e-3; returns where it ends, or NULL if there is none. strtod would look for
   the decimal sign of the program's locale, and beyond the end. 19 digits fill 64 bits; of those that
   follow only the number counts, so the result is right to about 1e-15. */
static const char *cnn__read_decimal(const char *p, const char *end, double *v)
{
    uint64_t digits = 0;
    int      power = 0, n = 0, e = 0;
    bool     minus = p < end && *p == '-', point = false, shrinks = false;
    if (p < end && (*p == '-' || *p == '+')) p++;
    for (; p < end && ((*p >= '0' && *p <= '9') || (*p == '.' && !point)); p++) {
        if (*p == '.') { point = true; continue; }
        bool kept = digits < UINT64_MAX / 10 - 1;
        if (kept) digits = digits * 10 + (uint64_t)(*p - '0');
        if (kept && point && power > -9999) power--;
        if (!kept && !point && power < 9999) power++;
        n = 1;
    }
    if (!n) return NULL;
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '-' || *p == '+')) shrinks = *p++ == '-';
        if (p == end || *p < '0' || *p > '9') return NULL;
        for (; p < end && *p >= '0' && *p <= '9'; p++) if (e < 9999) e = e * 10 + (*p - '0');
        power += shrinks ? -e : e;
    }
    double size = (double)digits;
    if (digits) size = power < 0 ? size / pow(10, -power) : size * pow(10, power);
    *v = minus ? -size : size;
    return p;
}

/* The next line that is not blank: from *line to the pointer returned, without the end of the line; NULL at
   the end of the text. */
static const char *cnn__next_line(const char **p, const char *end, const char **line, int *number)
{
    while (*p < end) {
        const char *stop = memchr(*p, '\n', (size_t)(end - *p)), *to = stop ? stop : end, *q = *p;
        *line = *p, *p = stop ? stop + 1 : end;
        if (*number < INT_MAX) ++*number;
        while (q < to && (*q == ' ' || *q == '\t' || *q == '\r')) q++;
        if (q == to) continue;
        return to[-1] == '\r' ? to - 1 : to;
    }
    return NULL;
}

/* The cell from p to `to`: a number, perhaps in quotes or between blanks. */
static bool cnn__read_cell(const char *p, const char *to, double *v)
{
    while (p < to && (*p == ' ' || *p == '\t')) p++;
    while (p < to && (to[-1] == ' ' || to[-1] == '\t')) to--;
    if (to - p >= 2 && *p == '"' && to[-1] == '"') p++, to--;
    return cnn__read_decimal(p, to, v) == to;
}

/* What a cell that is no number may be instead. */
static const char *cnn__cell_hint(const char *cell, size_t n, char separator, bool first)
{
    if (memchr(cell, ';', n))  return "; is that the separator? .separator = ';'";
    if (memchr(cell, '\t', n)) return "; is the tab the separator? .separator = '\\t'";
    if (separator != ',' && memchr(cell, ',', n)) return "; a decimal comma? Only a point can be read";
    return first ? "; is it a heading? .skip = 1 leaves it out" : "";
}

/* How the columns of a CSV file are read: targets stand in [from,to), the values of the sample elsewhere. */
typedef struct { const char *name; char separator; float scale; bool labels;
                 size_t columns, from, to; cnn_shape sample, target; } cnn__csv;

static bool cnn__csv_columns(cnn_dataset *d, const cnn_csv_args *a, const char *hint, cnn__csv *t)
{
    const int    column = a->label ? a->label : a->target;
    const size_t distance = column < 0 ? 0 - (size_t)column : (size_t)column;
    t->target = (cnn_shape){ 1, cnn__or_1(a->target_c), cnn__or_1(a->target_h), cnn__or_1(a->target_w) };
    if (a->label && a->target)
        return cnn__data_fail(d, "%s: label and target are both given: a sample has one of them", t->name);
    if (distance > t->columns)
        return cnn__data_fail(d, "%s: %s is column %d, but the first line has %zu columns%s", t->name,
                              a->label ? "label" : "target", column, t->columns, hint);
    if (!cnn__check_sample(d, "targets", t->target)) return false;
    const size_t wide = column ? (size_t)cnn__sample(t->target) : 0;
    t->labels = a->label != 0;
    t->from = !column ? 0 : column > 0 ? distance - 1 : t->columns - distance, t->to = t->from + wide;
    if (t->to > t->columns)
        return cnn__data_fail(d, "%s: targets of %zu columns from column %d on, but the first line has %zu%s",
                              t->name, wide, column, t->columns, hint);
    const size_t values = t->columns - wide;
    t->sample = (cnn_shape){ 1, cnn__or_1(a->c), cnn__or_1(a->h), cnn__or_1(a->w) };
    if (!a->c && !a->h && !a->w) t->sample.c = values > INT_MAX ? 0 : (int)values;
    return (cnn__checked_len(t->sample) == values && values > 0) ||
           cnn__data_fail(d, "%s: samples of (%d,%d,%d), but the first line has %zu values between '%c'%s",
                          t->name, t->sample.c, t->sample.h, t->sample.w, values, t->separator, hint);
}

/* One line, from `line` to `end`: the values of a sample and its target. */
static bool cnn__read_csv_line(cnn_dataset *d, const cnn__csv *t, const char *line, const char *end,
                               int number, float **values, int **labels, float **targets)
{
    size_t cells = 1;
    for (const char *q = line; q < end; q++) cells += *q == t->separator;
    if (cells != t->columns)
        return cnn__data_fail(d, "%s, line %d: %zu columns, the first line has %zu", t->name, number, cells,
                              t->columns);
    for (size_t k = 0; k < t->columns; k++) {
        const char  *cell = line, *stop = memchr(cell, t->separator, (size_t)(end - cell));
        const bool   target = k >= t->from && k < t->to;
        const double scale = target ? 1 : (double)t->scale;
        double       v = 0;
        const bool   good = cnn__read_cell(cell, stop ? stop : end, &v);
        ptrdiff_t    shown = (stop ? stop : end) - cell;
        line = stop ? stop + 1 : end;
        if (!good || fabs(v) > (double)FLT_MAX || fabs(v * scale) > (double)FLT_MAX)
            return cnn__data_fail(d, "%s, line %d, column %zu: \"%.*s\" is no number that fits%s", t->name,
                                  number, k + 1, (int)(shown < 20 ? shown : 20), cell,
                                  cnn__cell_hint(cell, (size_t)shown, t->separator, d->own[0] == *values));
        if (target && t->labels && !cnn__is_label(v))
            return cnn__data_fail(d, "%s, line %d: label %g is no whole number within +-2^24", t->name,
                                  number, v);
        if (!target)        *(*values)++ = (float)(v * scale);
        else if (t->labels) *(*labels)++ = (int)v;
        else                *(*targets)++ = (float)v;
    }
    return true;
}

/* Two passes: count lines and columns, which bounds the memory by the size of the file; then read. */
static bool cnn__set_csv(cnn_dataset *d, const cnn__input *from, int n, const void *options)
{
    const cnn_csv_args *a = options;
    const char *begin = (const char *)from->p, *end = begin + from->bytes, *p, *line, *to, *hint = "";
    cnn__csv    t = { .name = from->name, .separator = a->separator ? a->separator : ',',
                      .scale = a->scale != 0 ? a->scale : 1, .columns = 1 };
    size_t      rows = 0;
    int         number = 0;
    (void)n;
    if (a->skip < 0) return cnn__data_fail(d, "%s: skip is %d: it must not be negative", t.name, a->skip);
    if (!isfinite(t.scale)) return cnn__data_fail(d, "%s: scale %g is no number", t.name, (double)t.scale);
    if (from->bytes >= 3 && memcmp(begin, "\xEF\xBB\xBF", 3) == 0) begin += 3;   /* byte order mark */
    for (int i = 0; i < a->skip && begin < end; i++, number++) {
        const char *stop = memchr(begin, '\n', (size_t)(end - begin));
        begin = stop ? stop + 1 : end;
    }
    const int first = number;
    for (p = begin; (to = cnn__next_line(&p, end, &line, &number)) != NULL; rows++) {
        for (const char *q = line; rows == 0 && q < to; q++) t.columns += *q == t.separator;
        if (rows == 0) hint = cnn__cell_hint(line, (size_t)(to - line), t.separator, false);
    }
    if (rows == 0) return cnn__data_fail(d, "%s: there is no line with numbers", t.name);
    if (rows > INT_MAX) return cnn__data_fail(d, "%s: more than %d samples", t.name, INT_MAX);

    if (!cnn__csv_columns(d, a, hint, &t)) return false;
    const size_t wide = t.to - t.from, size = t.labels ? sizeof(int) : sizeof(float);
    if (!cnn__own(d, 0, cnn__mul_size(cnn__mul_size(rows, t.columns - wide), sizeof(float)))) return false;
    if (wide && !cnn__own(d, 1, cnn__mul_size(cnn__mul_size(rows, wide), size))) return false;
    float *values = d->own[0], *targets = d->own[1];
    int   *labels = d->own[1];
    number = first, p = begin;
    while ((to = cnn__next_line(&p, end, &line, &number)) != NULL)
        if (!cnn__read_csv_line(d, &t, line, to, number, &values, &labels, &targets)) return false;
    return cnn__set_samples(d, NULL, d->own[0], (int)rows, t.sample) &&
           cnn__set_targets(d, t.labels ? d->own[1] : NULL, t.labels ? NULL : d->own[1], t.target);
}

CNN_API cnn_dataset cnn_csv_memory(const void *text, size_t bytes, cnn_csv_args a)
{
    const cnn__input from = cnn__memory(a.path ? cnn__path_end(a.path) : "csv", text, bytes);
    return cnn__read_inputs(&from, 1, cnn__set_csv, &a);
}

/* ---- .npy (NumPy Enhancement Proposal 1, 2007) ----

   "\x93NUMPY"; two bytes of version; the length of the header, lowest byte first, in two bytes (from version
   2 on four); the header, a Python dictionary; the elements and nothing behind them. */

typedef struct {
    const unsigned char *data;
    char   kind;                               /* 'f' float, 'i' integer, 'u' without a sign, 'b' bool */
    size_t size;                               /* bytes of an element */
    bool   big, fortran;                       /* highest byte first; first index fastest, not the last */
    int    rank, dim[4];
    size_t count;                              /* elements */
} cnn__npy;

static const char *cnn__npy_word(const char *p, const char *end, const char *word)   /* behind it, or NULL */
{
    size_t n = strlen(word);
    while (p && p < end && *p == ' ') p++;
    return p && (size_t)(end - p) >= n && memcmp(p, word, n) == 0 ? p + n : NULL;
}

/* Where the value of a key begins that the dictionary has once; else NULL. */
static const char *cnn__npy_value(const char *p, const char *end, const char *key)
{
    const char *value = NULL;
    for (; p < end; p++) {
        const char *next = *p == '\'' ? cnn__npy_word(p, end, key) : NULL;
        if (next && value) return NULL;
        if (next) value = next;
    }
    return value;
}

/* '<f4' */
static bool cnn__npy_type(cnn__npy *a, const char *p, const char *end)
{
    static const char *const types[] = { "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8",
        "b1" };
    p = cnn__npy_word(p, end, "'");
    if (!p || end - p < 4 || !memchr("<>|=", *p, 4) || p[3] != '\'') return false;
    a->kind = p[1], a->size = (size_t)(p[2] - '0'), a->big = *p == '>';
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (memcmp(p + 1, types[i], 2) == 0) return true;
    return false;
}

/* (60000, 28, 28) */
static bool cnn__npy_shape(cnn__npy *a, const char *p, const char *end)
{
    p = cnn__npy_word(p, end, "(");
    for (a->rank = 0, a->count = 1; p && !cnn__npy_word(p, end, ")"); ) {
        if (a->rank == 4) return false;
        long long v = -1;
        while (p < end && *p == ' ') p++;
        for (; p < end && *p >= '0' && *p <= '9' && v <= INT_MAX; p++) v = (v < 0 ? 0 : v) * 10 + (*p - '0');
        if (v < 1 || v > INT_MAX) return false;
        a->dim[a->rank++] = (int)v;
        a->count = cnn__mul_size(a->count, (size_t)v);
        if (!cnn__npy_word(p, end, ")")) p = cnn__npy_word(p, end, ",");
    }
    return p != NULL;
}

/* Read a header and check it against the bytes that are there. */
static bool cnn__open_npy(cnn_dataset *d, const cnn__input *from, cnn__npy *a)
{
    const char          *name = from->name;
    const unsigned char *p = from->p;
    const size_t         bytes = from->bytes;
    memset(a, 0, sizeof *a);
    if (bytes >= 4 && memcmp(p, "PK\3\4", 4) == 0)
        return cnn__data_fail(d, "%s is a zip, perhaps of numpy.savez: save each array by numpy.save", name);
    if (bytes < 10 || memcmp(p, "\x93NUMPY", 6) != 0)
        return cnn__data_fail(d, "%s: %s", name, bytes < 10 ? "truncated: a .npy file begins with 10 bytes"
                              : "not a .npy file: it does not begin with \\x93NUMPY");
    size_t head = p[6] == 1 ? 10 : 12, length = (size_t)p[8] | (size_t)p[9] << 8;
    if (p[6] < 1 || p[6] > 3)
        return cnn__data_fail(d, "%s: version %d of .npy: 1 to 3 can be read", name, p[6]);
    if (p[6] > 1 && bytes >= 12) length |= (size_t)p[10] << 16 | (size_t)p[11] << 24;
    if (bytes < head || bytes - head < length)
        return cnn__data_fail(d, "%s: truncated: the header has %zu bytes, the file has %zu", name,
                              cnn__add_size(head, length), bytes);
    const char *q = (const char *)p + head, *end = q + length;
    const char *type = cnn__npy_value(q, end, "'descr':"), *shape = cnn__npy_value(q, end, "'shape':");
    const char *order = cnn__npy_value(q, end, "'fortran_order':");
    a->fortran = cnn__npy_word(order, end, "True") != NULL;
    if (type && !cnn__npy_type(a, type, end))
        return cnn__data_fail(d, "%s: elements of type %.*s: integers, floats and bools can be read", name,
                              (int)(end - type < 20 ? end - type : 20), type);
    if (shape && !cnn__npy_shape(a, shape, end))
        return cnn__data_fail(d, "%s: shape %.*s: 1 to 4 extents from 1 to %d can be read", name,
                              (int)(end - shape < 40 ? end - shape : 40), shape, INT_MAX);
    if (shape && a->rank < 1)
        return cnn__data_fail(d, "%s holds one number, of shape (): samples need an axis", name);
    if (!type || !shape || !(a->fortran || cnn__npy_word(order, end, "False")))
        return cnn__data_fail(d, "%s: the header is not the dictionary of a .npy file", name);
    size_t need = cnn__mul_size(a->count, a->size), there = bytes - head - length;
    a->data = p + head + length;
    return need == there || cnn__data_fail(d, "%s: %sthe header promises %zu bytes of elements, the file has "
                                           "%zu", name, there < need ? "truncated: " : "", need, there);
}

static float cnn__float_of_half(uint32_t half);
/* The place of element i, counted with the last index fastest. */
static size_t cnn__npy_place(const cnn__npy *a, size_t i)
{
    size_t at = 0, stride = a->count;
    if (!a->fortran) return i;
    for (int k = a->rank - 1; k >= 0; k--) {
        const size_t n = (size_t)a->dim[k];
        stride /= n, at += i % n * stride, i /= n;
    }
    return at;
}
static double cnn__npy_element(const cnn__npy *a, size_t i)
{
    const unsigned char *p = a->data + cnn__npy_place(a, i) * a->size;
    uint64_t bits = 0;
    for (size_t k = 0; k < a->size; k++) bits |= (uint64_t)p[a->big ? a->size - 1 - k : k] << 8 * k;
    if (a->kind == 'f' && a->size == 2) return (double)cnn__float_of_half((uint32_t)bits);
    if (a->kind == 'f' && a->size == 4) return (double)cnn__float_of_bits((uint32_t)bits);
    if (a->kind == 'f') {
        double v;
        memcpy(&v, &bits, sizeof v);
        return v;
    }
    if (a->kind == 'i' && bits >> (8 * a->size - 1))          /* negative: -1 is all ones */
        return -1 - (double)(~bits & (UINT64_MAX >> (64 - 8 * a->size)));
    return (double)bits;
}

/* (N), (N,C), (N,H,W) or (N,C,H,W) */
static cnn_shape cnn__npy_sample(const cnn__npy *a)
{
    const int r = a->rank;
    return (cnn_shape){ 1, r == 2 || r == 4 ? a->dim[1] : 1, r > 2 ? a->dim[r - 2] : 1,
                        r > 2 ? a->dim[r - 1] : 1 };
}

/* All elements to own[k]: as bytes, whole numbers, or else floats. */
static bool cnn__read_npy(cnn_dataset *d, const char *name, const cnn__npy *a, int k, bool bytes, bool whole)
{
    const size_t each = bytes ? 1 : whole ? sizeof(int) : sizeof(float);
    if (!cnn__own(d, k, cnn__mul_size(a->count, each))) return false;
    for (size_t i = 0; i < a->count; i++) {
        const double v = cnn__npy_element(a, i);
        if (isfinite(v) && fabs(v) > (double)FLT_MAX)
            return cnn__data_fail(d, "%s: element %zu is %g: too large for a float", name, i, v);
        if (whole && !cnn__is_label(v))
            return cnn__data_fail(d, "%s: label %zu is %.15g: it must be within +-2^24", name, i, v);
        if (bytes)      ((unsigned char *)d->own[k])[i] = (unsigned char)v;
        else if (whole) ((int *)d->own[k])[i] = (int)v;
        else            ((float *)d->own[k])[i] = (float)v;
    }
    return true;
}

static bool cnn__set_npy(cnn_dataset *d, const cnn__input *from, int n, const void *options)
{
    cnn__npy a, b = { .count = 0 };
    (void)options;
    if (!cnn__open_npy(d, from, &a) || (n > 1 && !cnn__open_npy(d, from + 1, &b))) return false;
    if (n > 1 && b.dim[0] != a.dim[0])
        return cnn__data_fail(d, "%s has %d samples, but %s has %d targets", from[0].name, a.dim[0],
                              from[1].name, b.dim[0]);
    const bool bytes = a.kind == 'u' && a.size == 1, whole = b.kind != 'f';
    if (!cnn__read_npy(d, from[0].name, &a, 0, bytes, false)) return false;
    if (n > 1 && !cnn__read_npy(d, from[1].name, &b, 1, false, whole)) return false;
    return cnn__set_samples(d, bytes ? d->own[0] : NULL, bytes ? NULL : d->own[0], a.dim[0],
                            cnn__npy_sample(&a)) &&
           cnn__set_targets(d, whole ? d->own[1] : NULL, whole ? NULL : d->own[1], cnn__npy_sample(&b));
}

CNN_API cnn_dataset cnn_npy_memory(const void *values, size_t value_bytes, const void *labels,
                                   size_t label_bytes)
{
    const cnn__input from[2] = { cnn__memory("values", values, value_bytes),
                                 cnn__memory("labels", labels, label_bytes) };
    return cnn__read_inputs(from, labels ? 2 : 1, cnn__set_npy, NULL);
}

#ifndef CNN_NO_STDIO
CNN_API cnn_dataset cnn_load_idx(const char *images, const char *labels)
{
    const char *path[2] = { images, labels };
    return cnn__read_paths("cnn_load_idx", path, labels ? 2 : 1, cnn__set_idx, NULL);
}
CNN_API cnn_dataset cnn_load_cifar(const char *const *paths, int n_paths, int classes)
{
    return cnn__read_paths("cnn_load_cifar", paths, n_paths, cnn__set_cifar, &classes);
}
CNN_API cnn_dataset cnn_load_csv_(cnn_csv_args a)
{
    return cnn__read_paths("cnn_load_csv", &a.path, 1, cnn__set_csv, &a);
}
CNN_API cnn_dataset cnn_load_npy(const char *values, const char *labels)
{
    const char *path[2] = { values, labels };
    return cnn__read_paths("cnn_load_npy", path, labels ? 2 : 1, cnn__set_npy, NULL);
}
#endif

/* ---- Pictures in folders ---- */

#ifndef CNN_NO_STDIO
static void cnn__free_pixels(void *pixels) { CNN_FREE(pixels); }

static bool cnn__is_blank(unsigned char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
/* A number of the header of a PNM file, and the blank behind it; -1: none. Comments reach from # to the end
   of the line. */
static int cnn__pnm_number(const unsigned char **p, const unsigned char *end)
{
    int n = -1;
    while (*p < end && (cnn__is_blank(**p) || **p == '#')) {
        if (**p == '#') while (*p < end && **p != '\n') ++*p;
        if (*p < end) ++*p;
    }
    for (; *p < end && **p >= '0' && **p <= '9' && n < 65536; ++*p) n = (n < 0 ? 0 : 10 * n) + **p - '0';
    if (*p == end || !cnn__is_blank(**p)) return -1;
    ++*p;
    return n;
}

/* Binary PPM (P6) and PGM (P5), of one or two bytes a value. Grey of colour as Pillow and BT.601 make it. */
static const char *cnn__decode_pnm(cnn_picture *to, const unsigned char *p, size_t bytes, int channels)
{
    const unsigned char *end = p + bytes;
    const int colour = bytes > 2 && p[1] == '6', has = colour ? 3 : 1;
    if (bytes < 3 || p[0] != 'P' || (p[1] != '5' && p[1] != '6'))
        return "not a binary PPM or PGM: other formats need a .decode";
    p += 2;
    const int w = cnn__pnm_number(&p, end), h = cnn__pnm_number(&p, end), top = cnn__pnm_number(&p, end);
    if (w < 1 || h < 1 || w > 65535 || h > 65535 || top < 1 || top > 65535) return "bad PNM header";
    const size_t wide = top > 255 ? 2 : 1, n = (size_t)h * (size_t)w;
    if ((size_t)(end - p) / wide / (size_t)has < n) return "truncated: pixels are missing";
    to->pixels = CNN_MALLOC(cnn__mul_size(n, (size_t)channels));
    if (!to->pixels) return "out of memory";
    to->h = h, to->w = w, to->release = cnn__free_pixels;
    for (size_t i = 0; i < n; i++) {
        unsigned v[3];
        for (int c = 0; c < 3; c++) {
            const unsigned char *at = p + (i * (size_t)has + (size_t)(colour ? c : 0)) * wide;
            v[c] = wide == 2 ? (unsigned)at[0] << 8 | at[1] : *at;
            if (v[c] > (unsigned)top) v[c] = (unsigned)top;
            if (top != 255) v[c] = (v[c] * 255 + (unsigned)top / 2) / (unsigned)top;
        }
        if (channels == 1 && colour) v[0] = (v[0] * 19595 + v[1] * 38470 + v[2] * 7471 + 0x8000) >> 16;
        for (int c = 0; c < channels; c++) to->pixels[i * (size_t)channels + (size_t)c] = (unsigned char)v[c];
    }
    return NULL;
}

/* Bilinear, with antialiasing: a value is the mean under a triangle that is as wide as two pixels of the
   smaller picture. Weights are whole numbers of 2^-22, and the rows are rounded to bytes before the columns,
   as in Pillow's resize. */
typedef struct { int first, count; int *weight; } cnn__resample;
static double cnn__triangle(double x) { return fabs(x) < 1 ? 1 - fabs(x) : 0; }

static void cnn__find_weights(cnn__resample *taps, int *weights, int room, int in, int out, int from, int n)
{
    const double scale = (double)in / out, support = scale < 1 ? 1 : scale;
    for (int i = 0; i < n; i++, weights += room) {
        const double center = (from + i + 0.5) * scale;
        int    first = (int)(center - support + 0.5), end = (int)(center + support + 0.5);
        double sum = 0;
        first = first < 0 ? 0 : first, end = end > in ? in : end;
        for (int x = first; x < end; x++) sum += cnn__triangle((x - center + 0.5) * (1 / support));
        for (int x = first; x < end; x++)
            weights[x - first] =
                (int)(0.5 + cnn__triangle((x - center + 0.5) * (1 / support)) / sum * (1 << 22));
        taps[i] = (cnn__resample){ first, end - first, weights };
    }
}
static unsigned char cnn__weighted(const cnn__resample *taps, const unsigned char *p, size_t stride)
{
    int sum = 1 << 21;
    for (int k = 0; k < taps->count; k++) sum += p[(size_t)k * stride] * taps->weight[k];
    return (unsigned char)(sum >> 22 > 255 ? 255 : sum >> 22);
}

/* Half of a difference, to the even one of two. */
static int cnn__half(int d) { return d / 2 + (d % 2 && d / 2 % 2); }

/* The picture as (channels,h,w): resized so that it is h x w or, with `shorter`, so that its shorter side has
   that many pixels and h x w are cut out of its middle. */
static const char *cnn__fit_picture(unsigned char *to, const cnn_picture *p, int channels, int h, int w,
                                    int shorter)
{
    int high = h, wide = w;                            /* the whole picture, resized */
    if (shorter) {
        const double longer = p->h < p->w ? (double)shorter * p->w / p->h : (double)shorter * p->h / p->w;
        if (longer > 1 << 24) return "its sides are too unequal to be resized";
        high = p->h < p->w ? shorter : (int)longer, wide = p->h < p->w ? (int)longer : shorter;
    }
    const int    room = 2 * (int)ceil(fmax(1, fmax((double)p->h / high, (double)p->w / wide))) + 1;
    const size_t n = (size_t)(h + w), weights = cnn__mul_size(cnn__mul_size(n, (size_t)room), sizeof(int));
    const size_t rows = cnn__mul_size((size_t)p->h, (size_t)w * (size_t)channels);
    const size_t bytes = cnn__add_size(cnn__add_size(weights, rows), n * sizeof(cnn__resample));
    cnn__resample   *taps = bytes == SIZE_MAX ? NULL : CNN_MALLOC(bytes);
    if (!taps) return "out of memory";
    int           *weight = (int *)(taps + n);
    unsigned char *row = (unsigned char *)(weight + n * (size_t)room);
    cnn__find_weights(taps, weight, room, p->w, wide, cnn__half(wide - w), w);
    cnn__find_weights(taps + w, weight + (size_t)w * (size_t)room, room, p->h, high, cnn__half(high - h), h);
    for (int c = 0; c < channels; c++) {
        for (size_t y = 0; y < (size_t)p->h; y++)
            for (int x = 0; x < w; x++)
                row[y * (size_t)w + (size_t)x] = cnn__weighted(&taps[x], p->pixels + (y * (size_t)p->w
                    + (size_t)taps[x].first) * (size_t)channels + c, (size_t)channels);
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++)
                *to++ = cnn__weighted(&taps[w + y], row + (size_t)taps[w + y].first * (size_t)w + x,
                                      (size_t)w);
    }
    CNN_FREE(taps);
    return NULL;
}

/* ---- Folders: sorted names of what is in them ---- */

typedef struct { char **name; int count, capacity; size_t text; } cnn__list;    /* text: bytes, with ends */

static void cnn__free_list(cnn__list *l)
{
    for (int i = 0; i < l->count; i++) CNN_FREE(l->name[i]);
    CNN_FREE(l->name);
    memset(l, 0, sizeof *l);
}
static int cnn__by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Take up "dir/name". */
static bool cnn__list_add(cnn_dataset *d, cnn__list *l, const char *dir, const char *name)
{
    const size_t n = strlen(dir), m = strlen(name), slash = n > 0 && dir[n - 1] != '/';
    if (l->count == l->capacity) {
        const int capacity = l->capacity ? 2 * l->capacity : 16;
        char    **more = l->capacity > INT_MAX / 16 ? NULL
                       : CNN_REALLOC(l->name, (size_t)capacity * sizeof *more);
        if (!more) return cnn__data_fail(d, "folder: out of memory: %d names", capacity);
        l->name = more, l->capacity = capacity;
    }
    char *path = CNN_MALLOC(n + m + 2);
    if (!path) return cnn__data_fail(d, "folder: out of memory: %zu bytes", n + m + 2);
    memcpy(path, dir, n), path[n] = '/', memcpy(path + n + slash, name, m + 1);
    l->name[l->count++] = path, l->text += n + slash + m + 1;
    return true;
}

#if defined(CNN__WIN32)
/* What a path is: 'd' a folder, 'f' a file, '?' something else, 0: it cannot be looked at. */
static char cnn__kind_of(const char *path)
{
    struct _finddata_t found;
    const intptr_t       search = _findfirst(path, &found);
    if (search == -1) return 0;
    _findclose(search);
    return found.attrib & _A_SUBDIR ? 'd' : 'f';
}
static bool cnn__read_folder(cnn_dataset *d, cnn__list *l, const char *dir)
{
    struct _finddata_t found;
    cnn__list            pattern = { NULL, 0, 0, 0 };
    bool                 good = cnn__list_add(d, &pattern, dir, "*");
    const intptr_t       search = good ? _findfirst(pattern.name[0], &found) : -1;
    cnn__free_list(&pattern);
    if (search == -1) return cnn__data_fail(d, "folder %s: it cannot be opened", cnn__path_end(dir));
    do good = found.name[0] == '.' || cnn__list_add(d, l, dir, found.name);
    while (good && _findnext(search, &found) == 0);
    _findclose(search);
    return good;
}
#elif defined(CNN__POSIX)
static char cnn__kind_of(const char *path)
{
    struct stat s;
    if (stat(path, &s) != 0) return 0;
    return S_ISDIR(s.st_mode) ? 'd' : S_ISREG(s.st_mode) ? 'f' : '?';
}
static bool cnn__read_folder(cnn_dataset *d, cnn__list *l, const char *dir)
{
    errno = 0;
    DIR *open = opendir(dir);
    bool good = true;
    if (!open) return cnn__data_fail(d, "folder %s: %s", cnn__path_end(dir), strerror(errno));
    for (struct dirent *e; good && (e = readdir(open)) != NULL; )
        good = e->d_name[0] == '.' || cnn__list_add(d, l, dir, e->d_name);
    closedir(open);
    return good;
}
#else
static char cnn__kind_of(const char *path) { return (void)path, 0; }
static bool cnn__read_folder(cnn_dataset *d, cnn__list *l, const char *dir)
{
    return (void)l, cnn__data_fail(d, "folder %s: this system's folders cannot be read", cnn__path_end(dir));
}
#endif

/* Add the entries of a folder, in the order of their bytes; names that begin with a point do not count. */
static bool cnn__list_folder(cnn_dataset *d, cnn__list *l, const char *dir)
{
    const int before = l->count;
    if (!cnn__read_folder(d, l, dir)) return false;
    const size_t n = (size_t)(l->count - before);
    if (n > 0) qsort(l->name + before, n, sizeof *l->name, cnn__by_bytes);
    return true;
}

/* ---- A folder as a stream: pictures are decoded when they are wanted ---- */

/* One block, with all that it points to. */
typedef struct {
    cnn_folder_args a;
    size_t          skip;                      /* so many bytes of a path are the folder's own */
    const char    **file, **names;             /* "dir/class/file"; of the classes, ended by NULL */
    int            *label;                     /* of each file */
} cnn__folder;

static const char *cnn__decode_file(cnn_picture *p, const char *path, int channels, char *why, size_t room)
{
    size_t         bytes;
    unsigned char *file = cnn__read_file(path, &bytes, why, room);
    const char    *wrong = file ? cnn__decode_pnm(p, file, bytes, channels) : why;
    CNN_FREE(file);
    return wrong;
}

static bool cnn__fill_folder(cnn_request *want, void *user)
{
    const cnn__folder     *f = user;
    const cnn_folder_args *a = &f->a;
    const size_t           each = (size_t)a->c * (size_t)a->h * (size_t)a->w;
    for (int i = 0; i < want->n; i++) {
        const char *path = f->file[want->index[i]], *shown = path + f->skip;
        const size_t n = strlen(shown);
        cnn_picture p = { 0, 0, NULL, NULL };
        char        why[60];
        const char *wrong = a->decode ? a->decode(&p, path, a->c, a->user)
                                      : cnn__decode_file(&p, path, a->c, why, sizeof why);
        if (!wrong && (!p.pixels || p.h < 1 || p.w < 1 || p.h > 65535 || p.w > 65535))
            wrong = "the decoder gave no picture with sides of 1 to 65535";
        if (!wrong)
            wrong = cnn__fit_picture(want->bytes + (size_t)i * each, &p, a->c, a->h, a->w, a->shorter);
        if (p.pixels && p.release) p.release(p.pixels);
        if (wrong) {
            cnn__format(want->error, sizeof want->error, "%s: %.70s", n > 50 ? shown + n - 50 : shown, wrong);
            return false;
        }
        want->labels[i] = f->label[want->index[i]];
    }
    return true;
}

/* List the classes, and the files of each: those of class k end at end[k]. */
static bool cnn__list_classes(cnn_dataset *d, const char *path, cnn__list *class, cnn__list *file, int **end)
{
    int classes = 0;
    if (!cnn__list_folder(d, class, path)) return false;
    class->text = 0;
    for (int i = 0; i < class->count; i++) {           /* files beside the folders do not count */
        if (cnn__kind_of(class->name[i]) != 'd') { CNN_FREE(class->name[i]); continue; }
        class->text += strlen(class->name[i]) + 1, class->name[classes++] = class->name[i];
    }
    class->count = classes;
    if (classes == 0)
        return cnn__data_fail(d, "folder %s: it holds no folders: each class is one", cnn__path_end(path));
    *end = CNN_MALLOC((size_t)classes * sizeof **end);
    if (!*end) return cnn__data_fail(d, "folder: out of memory: %d classes", classes);
    for (int k = 0; k < classes; k++) {
        int i = file->count;
        if (!cnn__list_folder(d, file, class->name[k])) return false;
        if (file->count == i)
            return cnn__data_fail(d, "folder %s: it holds no pictures", cnn__path_end(class->name[k]));
        for (; i < file->count; i++)
            if (cnn__kind_of(file->name[i]) != 'f')
                return cnn__data_fail(d, "folder: %s is no file: a class holds nothing else",
                                      cnn__path_end(file->name[i]));
        (*end)[k] = file->count;
    }
    return true;
}

/* Everything into the one block of the data set. */
static cnn__folder *cnn__pack_folder(cnn_dataset *d, const cnn_folder_args *a, const cnn__list *class,
                                     const cnn__list *file, const int *end)
{
    const size_t files = (size_t)file->count, classes = (size_t)class->count;
    const size_t numbers = cnn__round_up(files * sizeof(int), sizeof(char *));
    const size_t bytes = sizeof(cnn__folder) + numbers + (files + classes + 1) * sizeof(char *);
    if (!cnn__own(d, 3, cnn__add_size(bytes, cnn__add_size(class->text, file->text)))) return NULL;
    cnn__folder *f = d->own[3];
    memset(f, 0, sizeof *f);
    f->a = *a, f->skip = strlen(a->path);
    f->label = (int *)(f + 1), f->file = (const char **)(void *)((char *)(f + 1) + numbers);
    f->names = f->file + files;
    char *text = (char *)(f->names + classes + 1);
    for (size_t i = 0, k = 0; i < files; i++) {
        while ((int)i >= end[k]) k++;
        const size_t n = strlen(file->name[i]) + 1;
        f->file[i] = memcpy(text, file->name[i], n), text += n, f->label[i] = (int)k;
    }
    for (size_t k = 0; k < classes; k++) {
        const char  *name = strrchr(class->name[k], '/') + 1;
        const size_t n = strlen(name) + 1;
        f->names[k] = memcpy(text, name, n), text += n;
    }
    f->names[classes] = NULL;
    if (f->file[0][f->skip] == '/') f->skip++;
    return f;
}

static bool cnn__check_folder(cnn_dataset *d, const cnn_folder_args *a)
{
    const int least = a->h < a->w ? a->w : a->h;
    if (!a->path) return cnn__data_fail(d, "cnn_load_folder: no path was given");
    if ((a->c != 1 && a->c != 3) || a->h < 1 || a->w < 1 || least > 65535 ||
        cnn__checked_len((cnn_shape){ 1, a->c, a->h, a->w }) == SIZE_MAX)
        return cnn__data_fail(d, "folder: pictures of (%d,%d,%d): they have 1 channel or 3, and sides of 1 "
                                 "to 65535", a->c, a->h, a->w);
    return !a->shorter || (a->shorter >= least && a->shorter <= 65535) ||
           cnn__data_fail(d, "folder: shorter is %d: it must be %d to 65535, to cut out %dx%d pixels",
                          a->shorter, least, a->h, a->w);
}

CNN_API cnn_dataset cnn_load_folder_(cnn_folder_args a)
{
    cnn_dataset     d = { 0 };
    cnn__list       class = { NULL, 0, 0, 0 }, file = { NULL, 0, 0, 0 };
    const cnn_shape s = { 1, a.c, a.h, a.w };
    int            *end = NULL;
    cnn__folder    *f = NULL;
    if (cnn__check_folder(&d, &a) && cnn__list_classes(&d, a.path, &class, &file, &end))
        f = cnn__pack_folder(&d, &a, &class, &file, end);
    const int files = file.count, classes = class.count;
    cnn__free_list(&class), cnn__free_list(&file), CNN_FREE(end);
    d.type = CNN_U8, d.target_type = CNN_I32;
    if (!f || !cnn__set_samples(&d, NULL, NULL, files, s)) return d;
    d.names = f->names, d.classes = classes, d.target = cnn__vector(1);
    d.fill = cnn__fill_folder, d.user = f;
    if (a.stream) return d;

    cnn_request want = { .index = d.order, .n = d.count };
    if (!cnn__own(&d, 0, cnn__mul_size((size_t)files, (size_t)cnn__sample(s)))) return d;
    if (!cnn__own(&d, 1, (size_t)files * sizeof(int))) return d;
    want.bytes = d.own[0], want.labels = d.own[1];
    if (!cnn__fill_folder(&want, f)) return cnn__data_fail(&d, "%s", want.error), d;
    d.bytes = want.bytes, d.labels = want.labels, d.fill = NULL;
    return d;
}
#endif

/* ---- What a net knows of its data ---- */

/* One allocation, with the names behind it. */
struct cnn__about { float mean[4], deviation[4]; int classes; const char *name[1]; };

/* What channel k is divided by. */
static float cnn__divisor(const cnn_dataset *d, int k) { return d->deviation[k] > 0 ? d->deviation[k] : 1; }

CNN_API bool cnn_remember(cnn_graph *g, const cnn_dataset *d)
{
    if (!g || !d || g->error[0]) return false;
    if (d->error[0]) return cnn__fail(g, NULL, "remember", "data set: %s", d->error);
    size_t n = 0, text = 0;
    for (; d->names && d->names[n]; n++) text = cnn__add_size(text, strlen(d->names[n]) + 1);
    const size_t head = sizeof *g->about + n * sizeof(char *), bytes = cnn__add_size(head, text);
    bool         known = n > 0;
    for (int k = 0; k < 4; k++) {
        if (!isfinite(d->mean[k]) || !isfinite(cnn__divisor(d, k)))
            return cnn__fail(g, NULL, "remember", "channel %d has mean %g and deviation %g: they must be "
                             "finite numbers", k, (double)d->mean[k], (double)d->deviation[k]);
        known = known || d->mean[k] != 0 || cnn__divisor(d, k) != 1;
    }
    if (!known) return CNN_FREE(g->about), g->about = NULL, true;
    struct cnn__about *about = n > INT_MAX ? NULL : CNN_MALLOC(bytes);
    if (!about) return cnn__no_memory(g, NULL, "remember", bytes);
    memset(about, 0, head);
    about->classes = (int)n;
    char *to = (char *)about + head;
    for (size_t k = 0; k < n; k++) {
        const size_t length = strlen(d->names[k]) + 1;
        about->name[k] = memcpy(to, d->names[k], length), to += length;
    }
    for (int k = 0; k < 4; k++) about->mean[k] = d->mean[k], about->deviation[k] = cnn__divisor(d, k);
    CNN_FREE(g->about);
    g->about = about;
    return true;
}

static const struct cnn__about *cnn__about(const cnn_graph *g)         /* of a view: the net's */
{
    return !g ? NULL : g->shares ? g->shares->about : g->about;
}
CNN_API void cnn_recall(const cnn_graph *g, cnn_dataset *d)
{
    const struct cnn__about *about = cnn__about(g);
    if (!about || !d) return;
    memcpy(d->mean, about->mean, sizeof d->mean), memcpy(d->deviation, about->deviation, sizeof d->deviation);
    d->names = about->classes ? (const char *const *)about->name : NULL;
}
CNN_API const char *cnn_class_name(const cnn_graph *g, int k)
{
    const struct cnn__about *about = cnn__about(g);
    return about && k >= 0 && k < about->classes ? about->name[k] : NULL;
}

/* ---- Order and scale ---- */

/* A whole number in [0,n), each equally likely: bits that fall into the incomplete last interval are drawn
   again. */
static uint32_t cnn__below(uint32_t n, uint64_t key, uint64_t stream, uint64_t *drawn)
{
    uint32_t bits, end = UINT32_MAX - UINT32_MAX % n;
    do bits = cnn__random_bits(key, stream, (*drawn)++); while (bits >= end);
    return bits % n;
}

/* Fisher and Yates 1938, after Durstenfeld 1964: each of the n! orders is equally likely. It starts from the
   order that the data set was made with, so the result depends on the seed alone and not on earlier
   shuffles. */
CNN_API void cnn_shuffle(cnn_dataset *d, uint64_t seed)
{
    const uint64_t stream = 0x73687566u;               /* "shuf": not a stream of weights or dropout */
    if (!d || !d->order || d->count < 1) return;
    uint64_t drawn = 0;
    memcpy(d->order, d->order + d->count, (size_t)d->count * sizeof *d->order);
    for (uint32_t n = (uint32_t)d->count; n > 1; n--) {
        uint32_t k = cnn__below(n, seed, stream, &drawn);
        int      swap = d->order[n - 1];
        d->order[n - 1] = d->order[k], d->order[k] = swap;
    }
}

CNN_API cnn_dataset cnn_split(const cnn_dataset *source, int first, int count)
{
    cnn_dataset d = { 0 };
    if (source) d = *source;
    d.order = NULL, memset(d.own, 0, sizeof d.own);
    if (!source) cnn__data_fail(&d, "split: the data set is NULL");
    if (d.error[0]) return d;
    if (first < 0 || count < 1 || first > source->count - count)
        cnn__data_fail(&d, "split: %d samples from sample %d on: the data set has %d", count, first,
                       source->count);
    else
        cnn__set_order(&d, count, source->order + first);
    return d;
}

/* ---- Threads, where there are any; a lock; a bell, which wakes one of those that wait for it ---- */

#if defined(CNN__WIN32)
typedef struct { void *p; } cnn__lock, cnn__bell;                   /* an SRWLOCK, a CONDITION_VARIABLE */
#define CNN__SRW(l) ((struct _RTL_SRWLOCK *)(void *)(l))
#define CNN__INIT_LOCK(l)       ((l)->p = NULL)
#define CNN__INIT_BELL(b)       ((b)->p = NULL)
#define CNN__LOCK(l)            AcquireSRWLockExclusive(CNN__SRW(l))
#define CNN__UNLOCK(l)          ReleaseSRWLockExclusive(CNN__SRW(l))
#define CNN__WAIT(b, l)         SleepConditionVariableSRW((struct _RTL_CONDITION_VARIABLE *)(void *)(b), \
                                                          CNN__SRW(l), 0xFFFFFFFF, 0)
#define CNN__RING(b)            WakeConditionVariable((struct _RTL_CONDITION_VARIABLE *)(void *)(b))
typedef struct { uintptr_t handle; void (*run)(void *); void *with; } cnn__thread;
static unsigned __stdcall cnn__run_thread(void *thread)
{
    cnn__thread *t = thread;
    t->run(t->with);
    return 0;
}
static bool cnn__start_thread(cnn__thread *t, void (*run)(void *), void *with)
{
    t->run = run, t->with = with;
    return (t->handle = _beginthreadex(NULL, 0, cnn__run_thread, t, 0, NULL)) != 0;
}
static void cnn__join_thread(cnn__thread *t)
{
    WaitForSingleObject((void *)t->handle, 0xFFFFFFFF);
    CloseHandle((void *)t->handle);
}
#elif defined(CNN__PTHREADS)
typedef pthread_mutex_t cnn__lock;
typedef pthread_cond_t  cnn__bell;
#define CNN__INIT_LOCK(l)       pthread_mutex_init(l, NULL)
#define CNN__INIT_BELL(b)       pthread_cond_init(b, NULL)
#define CNN__LOCK(l)            pthread_mutex_lock(l)
#define CNN__UNLOCK(l)          pthread_mutex_unlock(l)
#define CNN__WAIT(b, l)         pthread_cond_wait(b, l)
#define CNN__RING(b)            pthread_cond_signal(b)
typedef struct { pthread_t id; void (*run)(void *); void *with; } cnn__thread;
static void *cnn__run_thread(void *thread)
{
    cnn__thread *t = thread;
    t->run(t->with);
    return NULL;
}
static bool cnn__start_thread(cnn__thread *t, void (*run)(void *), void *with)
{
    t->run = run, t->with = with;
    return pthread_create(&t->id, NULL, cnn__run_thread, t) == 0;
}
static void cnn__join_thread(cnn__thread *t) { pthread_join(t->id, NULL); }
#else
typedef struct { int none; } cnn__thread;
static bool cnn__start_thread(cnn__thread *t, void (*run)(void *), void *with)
{
    return (void)t, (void)run, (void)with, false;
}
static void cnn__join_thread(cnn__thread *t) { (void)t; }
#endif

/* ---- Batches: read, then fed ----

   The samples of a batch, where they lie: in the arrays of the data set or, for a stream, in a slot that
   holds one batch. Sample i is the at[i]-th of the arrays, and has number[i] in its data set. What may be
   mixed with it is one of `others`. */
typedef struct {
    const unsigned char *bytes; const float *floats;
    const int *labels; const float *targets;
    const int *at, *number;
    struct { const int *at, *number; int n; } others;
    int n;
} cnn__batch;

/* A pass over a data set. A stream is read into slots, in turn: while the net computes with one of them, a
   thread fills the other. */
typedef struct { cnn_request want; const cnn_dataset *d; int first; bool good; } cnn__slot;
typedef struct {
    const cnn_dataset *d;
    int         most, until, slots, now; /* samples of a batch; of the pass; one or two; that in use */
    long        epoch;
    cnn__slot   slot[2];
    int        *places;                  /* 0, 1, 2, ...: the samples of a slot */
    bool        running;                 /* the thread fills the other slot */
    cnn__thread thread;
    char        error[192];
} cnn__reader;

static size_t cnn__target_size(const cnn_dataset *d)
{
    return d->target_type ? (size_t)cnn__sample(d->target) : 0;
}

/* most: samples of a batch; until: where the pass ends. Not copied or moved while it is open. */
static bool cnn__open_reader(cnn__reader *r, const cnn_dataset *d, int most, int until, long epoch,
                             bool ahead)
{
    memset(r, 0, sizeof *r);
    r->d = d, r->most = most < until ? most : until, r->until = until, r->epoch = epoch;
    if (!d->fill || r->most < 1) return true;
    r->slots = ahead && most < until ? 2 : 1;
    const size_t n = (size_t)r->most, value = d->type == CNN_U8 ? 1 : sizeof(float);
    const size_t targets = cnn__mul_size(cnn__mul_size(n, cnn__target_size(d)), sizeof(float));
    const size_t values = cnn__round_up(cnn__mul_size(cnn__mul_size(n, (size_t)cnn__sample(d->shape)), value),
                                        sizeof(float));
    const size_t slot = cnn__add_size(targets, values);
    const size_t bytes = cnn__add_size(n * sizeof(int), cnn__mul_size(slot, (size_t)r->slots));
    r->places = bytes == SIZE_MAX ? NULL : CNN_MALLOC(bytes);
    if (!r->places) return cnn__format(r->error, sizeof r->error, "out of memory: %zu bytes", bytes), false;
    for (int i = 0; i < r->most; i++) r->places[i] = i;
    for (int k = 0; k < r->slots; k++) {
        unsigned char *at = (unsigned char *)(r->places + n) + (size_t)k * slot;
        cnn_request   *want = &r->slot[k].want;
        if (d->target_type == CNN_I32) want->labels = (void *)at;
        if (d->target_type == CNN_F32) want->targets = (void *)at;
        if (d->type == CNN_U8) want->bytes = at + targets;
        else                   want->floats = (void *)(at + targets);
        want->epoch = epoch, r->slot[k].d = d, r->slot[k].first = -1;
    }
    return true;
}

static void cnn__close_reader(cnn__reader *r)
{
    if (r->running) cnn__join_thread(&r->thread);
    CNN_FREE(r->places);
    r->places = NULL, r->running = false;
}

static void cnn__fill_slot(void *slot)
{
    cnn__slot *s = slot;
    s->good = s->d->fill(&s->want, s->d->user);
}
static void cnn__aim_slot(cnn__reader *r, int k, int first)
{
    cnn__slot *s = &r->slot[k];
    s->first = first, s->good = false, s->want.error[0] = 0;
    s->want.index = r->d->order + first;
    s->want.n = r->until - first < r->most ? r->until - first : r->most;
}

static bool cnn__read_stream_batch(cnn__reader *r, int first, cnn__batch *b)
{
    int k = r->running ? !r->now : r->now;
    if (r->running) cnn__join_thread(&r->thread);
    r->running = false;
    if (r->slot[k].first != first) cnn__aim_slot(r, k, first), cnn__fill_slot(&r->slot[k]);
    cnn__slot *s = &r->slot[r->now = k];
    if (!s->good) {
        const char *why = s->want.error[0] ? s->want.error : "the stream cannot fill this batch";
        return cnn__format(r->error, sizeof r->error, "%.120s", why), false;
    }
    const int next = first + s->want.n;
    if (r->slots > 1 && next < r->until) {
        cnn__aim_slot(r, !k, next);
        r->running = cnn__start_thread(&r->thread, cnn__fill_slot, &r->slot[!k]);
        if (!r->running) r->slot[!k].first = -1;
    }
    b->bytes = s->want.bytes, b->floats = s->want.floats, b->labels = s->want.labels;
    b->targets = s->want.targets, b->at = b->others.at = r->places;
    b->number = b->others.number = s->want.index, b->n = b->others.n = s->want.n;
    return true;
}

/* The batch that begins at `first`. Returns how many samples; 0 at the end, or after an error: r->error. */
static int cnn__read_batch(cnn__reader *r, int first, cnn__batch *b)
{
    const cnn_dataset *d = r->d;
    memset(b, 0, sizeof *b);
    if (first >= r->until) return 0;
    if (d->fill) return cnn__read_stream_batch(r, first, b) ? b->n : 0;
    b->bytes = d->bytes, b->floats = d->floats, b->labels = d->labels, b->targets = d->targets;
    b->at = b->number = d->order + first;
    b->others.at = b->others.number = d->order + d->count, b->others.n = d->count;
    return b->n = r->until - first < r->most ? r->until - first : r->most;
}

/* Per channel, over all samples and pixels: mean = sum v / n, deviation^2 = sum (v - mean)^2 / n, in double
   and in two passes, so that nothing cancels. A constant channel keeps deviation 1. */
CNN_API void cnn_standardize(cnn_dataset *d, const cnn_dataset *as)
{
    if (!d || !as || d->error[0]) return;
    if (as->error[0] || as->count < 1)
        cnn__data_fail(d, "standardize: %s", as->error[0] ? as->error : "the other data set is empty");
    else if (d->shape.c != as->shape.c)
        cnn__data_fail(d, "standardize: %d channels, the other data set has %d", d->shape.c, as->shape.c);
    if (d->error[0]) return;
    size_t plane = (size_t)cnn__plane(as->shape), channels = (size_t)as->shape.c;
    double sum[2][4] = { { 0 } }, mean[4] = { 0 }, n[4] = { 0 };
    cnn_dataset sorted = *as;
    sorted.order += as->count;                         /* the sums do not depend on a shuffle */
    for (int pass = 0; pass < 2; pass++) {
        cnn__reader r;
        cnn__batch  b;
        if (!cnn__open_reader(&r, &sorted, 64, as->count, 0, true))
            cnn__data_fail(d, "standardize: %s", r.error);
        for (int first = 0; !d->error[0] && cnn__read_batch(&r, first, &b) > 0; first += b.n)
            for (size_t i = 0; i < (size_t)b.n * channels; i++) {
                size_t c = i % channels, k = c < 3 ? c : 3;
                size_t at = ((size_t)b.at[i / channels] * channels + c) * plane;
                double s = 0;
                for (size_t j = 0; j < plane; j++) {
                    double v = (b.bytes ? (double)b.bytes[at + j] : (double)b.floats[at + j]) - mean[k];
                    s += pass == 0 ? v : v * v;
                }
                sum[pass][k] += s;
                if (pass == 0) n[k] += (double)plane;
            }
        if (r.error[0]) cnn__data_fail(d, "standardize: %s", r.error);
        cnn__close_reader(&r);
        for (size_t k = 0; k < 4 && k < channels; k++) mean[k] = sum[0][k] / n[k];
    }
    for (size_t k = 0; k < 4 && k < channels && !d->error[0]; k++)
        if (!isfinite(sum[1][k])) cnn__data_fail(d, "standardize: channel %d holds NaN or Inf", (int)k);
    if (d->error[0]) return;
    double unit = as->type == CNN_U8 ? 1.0 / 255 : 1;
    for (size_t k = 0; k < 4 && k < channels; k++) {
        double deviation = sqrt(sum[1][k] / n[k]) * unit;
        d->mean[k] = (float)(mean[k] * unit);
        d->deviation[k] = (float)deviation > 0 ? (float)deviation : 1;
    }
}

/* ---- Augmentation ---- */

/* How one sample is seen: pixel (y,x) of the input is pixel (y + down, x + right) of the sample, mirrored
   first or not, and 0 in the square. */
typedef struct { int top, left, bottom, end; } cnn__box;
typedef struct { int down, right; bool mirror, reflect; cnn__box cut; } cnn__view;

/* One Philox block per sample: flip; right; down; centre of the square. n b / 2^32 is b scaled to [0,n). */
static cnn__view cnn__draw_view(uint64_t seed, cnn_shape s, const cnn_augment *a, long epoch, int sample)
{
    const uint64_t stream = (uint64_t)0x6175676D << 32;        /* "augm": not a stream of dropout */
    cnn__view v = { 0, 0, false, a->reflect != 0, { 0, 0, 0, 0 } };
    uint32_t  r[4], first[4];
    cnn__philox(r, seed, stream | (uint32_t)epoch, (uint64_t)sample);
    const uint64_t way = 2 * (uint64_t)a->shift + 1;
    v.right = (int)(way * r[1] >> 32) - a->shift, v.down = (int)(way * r[2] >> 32) - a->shift;
    if (a->flip == CNN_FLIP_ALTERNATE) {
        cnn__philox(first, seed, stream | UINT32_MAX, (uint64_t)sample);
        v.mirror = ((uint32_t)epoch ^ first[0]) & 1;
    } else if (a->flip) v.mirror = r[0] & 1;
    if (a->cutout > 0) {
        v.cut.top  = (int)((uint64_t)s.h * (r[3] >> 16) >> 16) - a->cutout / 2;
        v.cut.left = (int)((uint64_t)s.w * (r[3] & 0xFFFF) >> 16) - a->cutout / 2;
        v.cut.bottom = v.cut.top + a->cutout, v.cut.end = v.cut.left + a->cutout;
    }
    return v;
}

/* What is mixed into a sample: that at `at`, of which the sample keeps `share` or, in cutmix, all but a box.
   */
typedef struct { int at; cnn__view view; bool boxed; float share; cnn__box box; } cnn__mix;

/* Beta(alpha, alpha): for alpha <= 1 by Johnk (1964), else by von Neumann's rejection. Block k of the stream
   belongs to attempt k; if all are in vain, alpha is so small that it is 0 or 1, or so large that it is 1/2.
   */
static double cnn__draw_beta(double alpha, uint64_t seed, uint64_t stream, uint64_t block)
{
    uint32_t r[4] = { 0 };
    for (uint64_t k = 1; k < 256; k++) {
        cnn__philox(r, seed, stream, block + k);
        const double u = ((double)r[0] + 0.5) / 4294967296.0, v = ((double)r[1] + 0.5) / 4294967296.0;
        if (alpha > 1 && v < pow(4 * u * (1 - u), alpha - 1)) return u;
        const double a = pow(u, 1 / alpha), b = pow(v, 1 / alpha);
        if (alpha <= 1 && a + b <= 1 && a + b > 0) return a / (a + b);
    }
    return alpha > 1 ? 0.5 : r[0] & 1;
}

static cnn__mix cnn__draw_mix(uint64_t seed, const cnn_dataset *d, const cnn__batch *b, const cnn_augment *a,
                              long epoch, int sample)
{
    const uint64_t stream = (uint64_t)0x6D697875 << 32 | (uint32_t)epoch;      /* "mixu" */
    const uint64_t block = (uint64_t)sample << 8;
    const int      h = d->shape.h, w = d->shape.w;
    uint32_t       r[4];
    cnn__philox(r, seed, stream, block);
    const int k = (int)((uint64_t)b->others.n * r[0] >> 32);
    cnn__mix  m = { .at = b->others.at[k], .boxed = a->cutmix > 0 && (!(a->mixup > 0) || (r[1] & 1)) };
    double    keep = cnn__draw_beta((double)(m.boxed ? a->cutmix : a->mixup), seed, stream, block);
    m.view = cnn__draw_view(seed, d->shape, a, epoch, b->others.number[k]);
    if (m.boxed) {                             /* a box of sides sqrt(1-l) h and w around a pixel, clipped */
        const double side = sqrt(1 - keep);
        const int bh = (int)(h * side), bw = (int)(w * side);
        const int top  = (int)((uint64_t)h * r[2] >> 32) - bh / 2;
        const int left = (int)((uint64_t)w * r[3] >> 32) - bw / 2;
        m.box = (cnn__box){ top < 0 ? 0 : top, left < 0 ? 0 : left, top + bh < h ? top + bh : h,
                            left + bw < w ? left + bw : w };
        keep = 1 - (double)(m.box.bottom - m.box.top) * (m.box.end - m.box.left) / ((double)h * w);
    }
    m.share = (float)keep;
    return m;
}

/* The pixel i of n that is seen at i; -1: none, a zero. */
static int cnn__pixel_at(int i, int n, bool reflect)
{
    if (i >= 0 && i < n) return i;
    return !reflect ? -1 : i < 0 ? -i : 2 * (n - 1) - i;
}

static bool cnn__check_augment(cnn_graph *g, const char *at, const char *what, const cnn_augment *a,
                               const cnn_dataset *d, const cnn_tensor *target)
{
    const cnn_shape s = d->shape;
    int most = a->reflect ? (s.h < s.w ? s.h : s.w) - 1 : s.h > s.w ? s.h : s.w;
    if (a->shift < 0 || a->shift > most)
        return cnn__fail(g, at, what, "augment.shift is %d: samples of %dx%d pixels allow 0 to %d", a->shift,
                         s.h, s.w, most);
    if (a->flip < 0 || a->flip > CNN_FLIP_ALTERNATE)
        return cnn__fail(g, at, what, "augment.flip is %d: CNN_FLIP_RANDOM or CNN_FLIP_ALTERNATE", a->flip);
    if (a->cutout < 0 || a->cutout > 2 * (s.h > s.w ? s.h : s.w) || s.h > 65535 || s.w > 65535)
        return cnn__fail(g, at, what, "augment.cutout is %d: too large for samples of %dx%d pixels",
                         a->cutout, s.h, s.w);
    if (!(a->mixup >= 0) || isinf(a->mixup) || !(a->cutmix >= 0) || isinf(a->cutmix))
        return cnn__fail(g, at, what, "augment.mixup is %g, augment.cutmix %g: they must not be negative",
                         (double)a->mixup, (double)a->cutmix);
    const bool mask = d->target.h == s.h && d->target.w == s.w && cnn__plane(s) > 1;
    if (target && target->kind == CNN_LABELS && (a->mixup > 0 || (a->cutmix > 0 && !mask)))
        return cnn__fail(g, at, what, "augment.mixup and .cutmix mix labels: they must go to a tensor made "
                         "by cnn_input with a channel for each class, not by cnn_labels");
    return true;
}

/* ---- Feeding ---- */

/* Do the samples and targets fit x and `target`? at, what: the call that asks, for its message. */
static bool cnn__check_feed(const char *at, const char *what, const cnn_tensor *x, const cnn_tensor *target,
                            const cnn_dataset *d, int first)
{
    cnn_graph *g = x->graph;
    if (!d)           return cnn__fail(g, at, what, "the data set is NULL");
    if (d->error[0])  return cnn__fail(g, at, what, "data set: %s", d->error);
    if (first < 0)    return cnn__fail(g, at, what, "first is %d: samples are counted from 0", first);
    if (!x->batched || x->op)
        return cnn__fail(g, at, what, "samples go to a tensor made by cnn_input");
    if (x->shape.c != d->shape.c || x->shape.h != d->shape.h || x->shape.w != d->shape.w)
        return cnn__fail(g, at, what, "the samples have shape (%d,%d,%d), the input has %s%s", d->shape.c,
                         d->shape.h, d->shape.w, cnn__shape_text(x).s, x->shape.c == d->shape.h &&
                         x->shape.w == 1 ? ": cnn_input takes channels, height, width" : "");
    if (!target)      return true;
    if (target->graph != g || target == x || target->op || !target->batched)
        return cnn__fail(g, at, what, "targets go to a tensor made by cnn_labels or by another cnn_input in "
                         "the graph of the input");
    if (!d->target_type)
        return cnn__fail(g, at, what, "the data set has no %s",
                         target->kind == CNN_LABELS ? "labels" : "targets");
    const cnn_shape t = target->shape, s = d->target;
    if (t.h != s.h || t.w != s.w || (t.c != s.c && !(d->target_type == CNN_I32 && s.c == 1)))
        return cnn__fail(g, at, what, "the targets have shape (%d,%d,%d), \"%s\" has %s", s.c, s.h, s.w,
                         target->name, cnn__shape_text(target).s);
    return true;
}

/* Where the values of samples, or of targets, come from. */
typedef struct {
    const unsigned char *bytes; const float *floats; const int *labels;    /* one of them */
    cnn_shape    shape;
    bool         moves, cuts;                  /* seen through a view; 0 in its square */
    bool         hot;                          /* channel c is 1 where the label is c, else 0 */
    float        outside;
    float        mean[4], by[4];               /* channel by channel; the last serves the rest */
    float        table[4][256];                /* what each byte becomes */
} cnn__planes;

/* Which places of a plane are seen at row y, from x0 on, in n <= CNN__SEEN columns; -1: none. */
enum { CNN__SEEN = 64 };
static void cnn__look(int *at, const cnn__planes *s, const cnn__view *v, int y, int x0, int n)
{
    const int  w = s->shape.w, sy = s->moves ? cnn__pixel_at(y + v->down, s->shape.h, v->reflect) : y;
    const bool cut = s->cuts && y >= v->cut.top && y < v->cut.bottom;
    for (int j = 0; j < n; j++) {
        int x = s->moves ? cnn__pixel_at(x0 + j + v->right, w, v->reflect) : x0 + j;
        if (s->moves && v->mirror && x >= 0) x = w - 1 - x;
        at[j] = x < 0 || sy < 0 || (cut && x0 + j >= v->cut.left && x0 + j < v->cut.end) ? -1 : sy * w + x;
    }
}

/* The values at these places of a plane that begins at `from`, as those of channel c. */
static void cnn__gather(float *out, const cnn__planes *s, size_t from, int c, const int *at, int n)
{
    const int   k = c < 3 ? c : 3;
    const float mean = s->mean[k], by = s->by[k], outside = s->hot ? s->outside == (float)c : s->outside;
    const unsigned char *bytes = s->bytes ? s->bytes + from : NULL;
    const float         *floats = s->floats ? s->floats + from : NULL, *table = s->table[k];
    const int           *labels = s->labels ? s->labels + from : NULL;
    if (bytes)       for (int j = 0; j < n; j++) out[j] = at[j] < 0 ? outside : table[bytes[at[j]]];
    else if (floats) for (int j = 0; j < n; j++) out[j] = at[j] < 0 ? outside : (floats[at[j]] - mean) / by;
    else if (s->hot) for (int j = 0; j < n; j++) out[j] = at[j] < 0 ? outside : labels[at[j]] == c;
    else             for (int j = 0; j < n; j++) out[j] = at[j] < 0 ? outside : (float)labels[at[j]];
}

/* All channels of one sample as they are. */
static void cnn__feed_plain(float *out, const cnn__planes *s, int channels, size_t from)
{
    const size_t plane = (size_t)cnn__plane(s->shape);
    for (int c = 0; c < channels; c++, out += plane, from += plane) {
        const int k = c < 3 ? c : 3;
        if (s->bytes)       for (size_t j = 0; j < plane; j++) out[j] = s->table[k][s->bytes[from + j]];
        else if (s->labels) for (size_t j = 0; j < plane; j++) out[j] = (float)s->labels[from + j];
        else for (size_t j = 0; j < plane; j++) out[j] = (s->floats[from + j] - s->mean[k]) / s->by[k];
    }
}

/* All channels of one sample, seen through v, and mixed with another one unless m is NULL. */
static void cnn__feed_seen(float *out, const cnn__planes *s, int channels, size_t from, const cnn__view *v,
                           const cnn__mix *m)
{
    const size_t plane = (size_t)cnn__plane(s->shape), sample = (size_t)s->shape.c * plane;
    const int    w = s->shape.w;
    const bool   boxed = m && m->boxed && s->moves;
    float        other[CNN__SEEN];
    int          at[2][CNN__SEEN];
    for (int y = 0; y < s->shape.h; y++)
        for (int x0 = 0; x0 < w; x0 += CNN__SEEN) {
            const int  n = w - x0 < CNN__SEEN ? w - x0 : CNN__SEEN;
            const bool mixed = m && (!boxed || (y >= m->box.top && y < m->box.bottom));
            cnn__look(at[0], s, v, y, x0, n);
            if (mixed) cnn__look(at[1], s, &m->view, y, x0, n);
            for (int c = 0; c < channels; c++) {
                const size_t of = s->hot ? 0 : (size_t)c * plane;
                float       *to = out + (size_t)c * plane + (size_t)y * (size_t)w + x0;
                cnn__gather(to, s, from + of, c, at[0], n);
                if (!mixed) continue;
                cnn__gather(other, s, (size_t)m->at * sample + of, c, at[1], n);
                for (int j = 0; j < n; j++)
                    if (!boxed) to[j] = m->share * to[j] + (1 - m->share) * other[j];
                    else if (x0 + j >= m->box.left && x0 + j < m->box.end) to[j] = other[j];
            }
        }
}

/* v: NULL, or how it is seen; m: NULL, or what is mixed with it. */
static void cnn__feed_one(float *out, const cnn__planes *s, int channels, int at, const cnn__view *v,
                          const cnn__mix *m)
{
    static const cnn__view still = { .mirror = false };
    const size_t from = (size_t)at * (size_t)cnn__sample(s->shape);
    if (v || s->hot) cnn__feed_seen(out, s, channels, from, v ? v : &still, m);
    else             cnn__feed_plain(out, s, channels, from);
}

static cnn__planes cnn__samples_of(const cnn_dataset *d, const cnn__batch *b)
{
    cnn__planes s = { .bytes = b->bytes, .floats = b->floats, .shape = d->shape, .moves = true,
                      .cuts = true };
    for (int k = 0; k < 4; k++) {
        s.mean[k] = d->mean[k], s.by[k] = cnn__divisor(d, k);
        for (int v = 0; v < 256 && b->bytes; v++) s.table[k][v] = ((float)v / 255.0f - s.mean[k]) / s.by[k];
    }
    return s;
}
static cnn__planes cnn__targets_of(const cnn_dataset *d, const cnn__batch *b, const cnn_tensor *to)
{
    return (cnn__planes){ .floats = b->targets, .labels = b->labels, .shape = d->target, .by = { 1, 1, 1, 1 },
                          .moves = d->target.h == d->shape.h && d->target.w == d->shape.w &&
                                   cnn__plane(d->shape) > 1,
                          .hot = d->target_type == CNN_I32 && to->shape.c != d->target.c };
}

static bool cnn__is_changed(const cnn_augment *a)
{
    return a->shift || a->flip || a->cutout || a->mixup > 0 || a->cutmix > 0;
}

/* Are the labels of a batch, which become channels, classes? */
static bool cnn__check_hot(const cnn_tensor *target, const cnn__planes *s, const cnn__batch *b)
{
    const size_t each = (size_t)cnn__plane(s->shape);
    for (size_t i = 0; s->hot && i < (size_t)b->n * each; i++) {
        const int label = s->labels[(size_t)b->at[i / each] * each + i % each];
        if (label < 0 || label >= target->shape.c)
            return cnn__fail(target->graph, NULL, "feed", "label %d of sample %d is none of the %d channels "
                             "of \"%s\"", label, b->number[i / each], target->shape.c, target->name);
    }
    return true;
}

typedef struct {
    const cnn_dataset *d;
    long epoch;
    uint64_t seed;
    cnn__batch batch;
    cnn__planes samples, targets;
    int channels;                            /* of a target */
    size_t each, wide;                       /* values of a sample, of its target */
    float *values, *wanted;
    const cnn_augment *a;
    bool mirror;
} cnn__feeding;
static void cnn__feed_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn__feeding *q = of;
    const cnn__batch   *b = &q->batch;
    const cnn_augment  *a = q->a;
    const bool          mixed = a && (a->mixup > 0 || a->cutmix > 0);
    for (size_t i = (size_t)from; i < (size_t)to; i++) {
        cnn__view view = { .mirror = q->mirror };
        cnn__mix  mix;
        if (a) view = cnn__draw_view(q->seed, q->d->shape, a, q->epoch, b->number[i]);
        if (mixed) mix = cnn__draw_mix(q->seed, q->d, b, a, q->epoch, b->number[i]);
        const cnn__view *v = a || q->mirror ? &view : NULL;
        const cnn__mix  *m = mixed ? &mix : NULL;
        cnn__feed_one(q->values + i * q->each, &q->samples, q->d->shape.c, b->at[i], v, m);
        if (q->wanted) cnn__feed_one(q->wanted + i * q->wide, &q->targets, q->channels, b->at[i], v, m);
    }
}

/* x = (value - mean[c]) / deviation[c]; bytes have only 256 values, so theirs come from a table. a: NULL, or
   what is drawn; mirror: flip every sample. */
static int cnn__feed(cnn__reader *r, cnn_tensor *x, cnn_tensor *target, int first, const cnn_augment *a,
                     bool mirror)
{
    const cnn_dataset *d = r->d;
    cnn_graph         *g = x->graph;
    cnn__feeding       q = { .d = d, .epoch = r->epoch, .seed = g->config.seed, .mirror = mirror };
    const int          n = cnn__read_batch(r, first, &q.batch);
    if (r->error[0]) cnn__fail(g, NULL, "feed", "data set: %s", r->error);
    if (n == 0) return 0;
    if (a && cnn__is_changed(a)) q.a = a;
    q.samples = cnn__samples_of(d, &q.batch), q.each = (size_t)cnn__sample(d->shape);
    if (target) {
        q.targets = cnn__targets_of(d, &q.batch, target);
        q.channels = target->shape.c, q.wide = (size_t)cnn__sample(target->shape);
    }
    if (q.a) q.targets.outside = a->outside;
    if ((target && !cnn__check_hot(target, &q.targets, &q.batch)) || !cnn_set_batch(g, n)) return 0;
    if (!(q.values = cnn_map_write(x)) || (target && !(q.wanted = cnn_map_write(target)))) return 0;
    cnn__share_out(&g->cpu, 8.0 * (double)q.each * n, n, cnn__feed_job, &q);
    return n;
}

static int cnn__feed_once(cnn_tensor *x, cnn_tensor *target, const cnn_dataset *d, int first,
                          const cnn_augment *a, long epoch)
{
    if (cnn__is_nil(x) || x->graph->error[0]) return 0;
    if (target && cnn__is_nil(target)) target = NULL;
    cnn_graph  *g = x->graph;
    cnn__reader r;
    if (!cnn__check_feed(NULL, "feed", x, target, d, first) || first >= d->count) return 0;
    if (a && !cnn__check_augment(g, NULL, "feed", a, d, target)) return 0;
    int n = 0;
    if (!cnn__open_reader(&r, d, g->config.max_batch, d->count, epoch, false))
        cnn__fail(g, NULL, "feed", "data set: %s", r.error);
    else n = cnn__feed(&r, x, target, first, a, false);
    cnn__close_reader(&r);
    return n;
}
CNN_API int cnn_feed(cnn_tensor *x, cnn_tensor *target, const cnn_dataset *d, int first)
{
    return cnn__feed_once(x, target, d, first, NULL, 0);
}
CNN_API int cnn_feed_augmented(cnn_tensor *x, cnn_tensor *target, const cnn_dataset *d, int first,
                               cnn_augment a, long epoch)
{
    return cnn__feed_once(x, target, d, first, &a, epoch);
}

static bool cnn__same_rows(const cnn_tensor *logits, const cnn_tensor *labels)
{
    cnn_shape z = logits->shape, t = labels->shape;
    return labels->graph == logits->graph && logits->batched == labels->batched && t.c == 1 && z.h == t.h &&
           z.w == t.w;
}

/* Is score k of `classes` the largest, and the first of equals? So a NaN is never right. */
static bool cnn__is_largest(const float *s, size_t plane, int classes, int k)
{
    const float best = k < 0 ? 0 : s[(size_t)k * plane];
    bool        right = k >= 0;
    for (int c = 0; c < classes && right; c++)
        right = c < k ? s[(size_t)c * plane] < best : s[(size_t)c * plane] <= best;
    return right;
}
/* ignored: a label that does not count. */
static int cnn__correct(const float *score, cnn_shape z, const float *label, int ignored)
{
    int    correct = 0;
    size_t plane = (size_t)cnn__plane(z);
    for (size_t i = 0; i < (size_t)z.n * plane; i++) {
        const int k = label[i] >= 0 && label[i] < (float)z.c ? (int)label[i] : -1;
        correct += cnn__is_largest(score + i / plane * (size_t)z.c * plane + i % plane, plane, z.c,
                                   k == ignored ? -1 : k);
    }
    return correct;
}
static int cnn__correct_but(cnn_tensor *logits, cnn_tensor *labels, int ignored)
{
    if (cnn__is_nil(logits) || cnn__is_nil(labels) || logits->graph->error[0]) return 0;
    if (!cnn__same_rows(logits, labels)) {
        cnn__fail(logits->graph, NULL, "correct",
                  "logits %s and labels %s: they must be (N,C,H,W) and (N,1,H,W)", cnn__shape_text(logits).s,
                  cnn__shape_text(labels).s);
        return 0;
    }
    const float *score = cnn_map_read(logits), *label = score ? cnn_map_read(labels) : NULL;
    return label ? cnn__correct(score, logits->shape, label, ignored) : 0;
}
CNN_API int cnn_correct(cnn_tensor *logits, cnn_tensor *labels)
{
    return cnn__correct_but(logits, labels, CNN__NO_LABEL);
}

/* The same over a pass, into *right. On a device only the sum is read, at the end or where it is shown, so
   that the logits need not come down with every batch: unless a class is ignored, which it would count. */
static void cnn__count_correct(cnn_tensor *logits, cnn_tensor *labels, int ignored, bool anew, bool show,
                               double *right)
{
    cnn_backend *dev = logits->graph->config.backend;
    int          count = 0;
    if (!dev || !dev->correct || (ignored >= 0 && ignored < logits->shape.c) ||
        !(cnn__of(logits)->data_on & cnn__of(labels)->data_on & CNN__DEVICE) ||
        !cnn__readable(logits, "correct") || !cnn__same_rows(logits, labels)) {
        *right += cnn__correct_but(logits, labels, ignored);
        return;
    }
    logits->graph->traffic.downloads += show;
    if (!dev->correct(dev, cnn_place_data(logits), logits->shape, cnn_place_data(labels), anew,
                      show ? &count : NULL))
        cnn_fail(logits, "%s", cnn__device_error(logits->graph));
    *right += count;
}

/* ===========================================================================================================
   >>train ---- 11. Training loop: fit, evaluate, predict, progress and history
   ======================================================================================================== */

/* Seconds from some moment, for speeds and times left. C99 knows only time(), in whole seconds, and clock(),
   the processor time of all threads, which stands still while a device works. So: C11's
   clock or POSIX's where the system declares it, and clock() for the rest (on Windows it is the wall's). */
static double cnn__seconds(void)
{
#if defined(TIME_UTC)
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#elif defined(CNN__POSIX)
    struct timeval t;
    gettimeofday(&t, NULL);
    return (double)t.tv_sec + 1e-6 * (double)t.tv_usec;
#elif defined(__wasi__)                         /* has no clock() */
    return (double)time(NULL);
#else
    return (double)clock() / (double)CLOCKS_PER_SEC;
#endif
}

/* ---- What to feed: the leaves below a tensor ---- */

/* The leaf of this kind among the ancestors of t, and how many there are. Operands stand before what uses
   them, so one walk backwards through the order of execution meets every ancestor after its last user. */
static cnn_tensor *cnn__leaf_below(cnn_tensor *t, cnn_kind kind, int *count)
{
    cnn_graph  *g = t->graph;
    cnn_tensor *leaf = NULL;
    uint64_t    mark = ++g->walk;
    *count = 0;
    cnn__of(t)->mark = mark;
    for (int i = t->index; i >= 0; i--) {
        cnn__node *node = g->order[i];
        if (node->mark != mark) continue;
        if (node->t.kind == kind) leaf = &node->t, ++*count;
        for (int k = 0; k < node->t.n_in; k++) cnn__of(node->t.in[k])->mark = mark;
    }
    return leaf;
}

/* The input and target that a data set is fed to (target NULL: the loss has none, as an autoencoder's), the
   truth that the loss compares with (the target, else the input), the loss that reads it (NULL: there is more
   between), and how the net's answers are judged. */
typedef enum { CNN__NOT_JUDGED,
               CNN__BY_CLASS,                  /* the largest logit is at the label */
               CNN__BY_SIGN,                   /* each logit is above 0 where its target is above 1/2 */
               CNN__BY_ERROR } cnn__metric;    /* mean absolute error and R2 */
typedef struct {
    cnn_graph  *g;
    cnn_tensor *x, *target, *truth, *judge, *logits;
    cnn__metric metric;
    bool        total;              /* the loss is a sum over the batch, not a mean */
} cnn__feed_to;

/* The loss among the nodes of the last walk that compares something with this leaf. */
static cnn_tensor *cnn__judge_of(const cnn_graph *g, const cnn_tensor *leaf)
{
    for (int i = 0; i < g->n_order; i++) {
        cnn_tensor *y = &g->order[i]->t;
        if (g->order[i]->mark == g->walk && y->op && (y->op->flags & CNN_LOSS) && y->n_in > 1 &&
            y->in[1] == leaf) return y;
    }
    return NULL;
}

/* What a loss expects tells what it judges: logits, or the values themselves. */
static cnn__metric cnn__metric_of(const cnn__feed_to *to)
{
    const cnn_tensor *truth = to->truth, *y = to->logits;
    if (truth->kind == CNN_LABELS && y->shape.c > 1) return CNN__BY_CLASS;
    if (!y->batched || !cnn__equal(y->shape, truth->shape)) return CNN__NOT_JUDGED;
    if (!to->judge || !to->judge->op->expects) return CNN__BY_ERROR;
    return to->judge->op == &cnn_op_softmax_cross_entropy ? CNN__BY_CLASS : CNN__BY_SIGN;
}

/* Is y, of the batch, a sum (CNN_SUM, or cnn_sum over the terms of CNN_NONE)? Its operands are known. */
static bool cnn__is_total(const cnn_tensor *y)
{
    bool reduces = false, total = false;
    for (int k = 0; k < y->n_in; k++)
        reduces = reduces || y->in[k]->batched, total = total || cnn__of(y->in[k])->total;
    if (y->batched) return false;
    return reduces ? y->op->flags & CNN_ADDS_UP || cnn__reduction(y) == CNN_SUM : total;
}

/* By how much a batch of n counts in a mean over several: by the weights of its labels, else its samples. */
static double cnn__batch_weight(const cnn__feed_to *to, int n)
{
    const cnn_tensor *judge = to->judge;
    const bool        weighs = judge && cnn__reduction(judge) == CNN_MEAN && judge->op->weight;
    return weighs && cnn_map_read(to->truth) ? judge->op->weight(judge) : n;
}

/* The label that the loss leaves out. */
static int cnn__void_label(const cnn_tensor *judge)
{
    for (const cnn_field *f = judge ? judge->op->fields : NULL; f && f->name; f++)
        if (strcmp(f->name, "ignore_index") == 0) return (int)cnn__option(f, judge->args);
    return CNN__NO_LABEL;
}

/* Is each label a class that the logits tell apart, or left out? Those of a stream are seen when they come.
   */
static bool cnn__check_classes(cnn_graph *g, const char *at, const char *what, const cnn_tensor *logits,
                               const cnn_dataset *d, int ignored)
{
    const size_t each = cnn__target_size(d);
    int          least = 0, most = 0;
    for (size_t i = 0; d->labels && i < (size_t)d->count * each; i++) {
        const int k = d->labels[(size_t)d->order[i / each] * each + i % each];
        if (k == ignored) continue;
        if (k < least) least = k;
        if (k > most)  most = k;
    }
    return (least == 0 && most < logits->shape.c) ||
           cnn__fail(g, at, what, "the data set has labels %d..%d, but the logits %s tell only %d classes "
                     "apart", least, most, cnn__shape_text(logits).s, logits->shape.c);
}

/* The leaf below the loss that is not below the logits: what a target is fed to. */
static bool cnn__find_target(cnn__feed_to *to, const char *at, const char *what, cnn_tensor *loss)
{
    int inputs, labels;
    cnn_tensor *label = cnn__leaf_below(loss, CNN_LABELS, &labels), *input = NULL;
    cnn__leaf_below(loss, CNN_INPUT, &inputs);
    for (int i = 0; i <= loss->index; i++) {
        cnn__node *v = to->g->order[i];
        if (v->mark == to->g->walk) v->total = cnn__is_total(&v->t);
        if (v->mark != to->g->walk || v->t.kind != CNN_INPUT) continue;
        if (&v->t == to->x) inputs--;
        else input = &v->t;
    }
    if (labels + inputs > 1)
        return cnn__fail(to->g, at, what, "the loss comes from %d targets, and a data set feeds at most one: "
                         "write the loop with cnn_set, cnn_forward, cnn_backward, cnn_step", labels + inputs);
    to->target = labels ? label : input, to->truth = to->target ? to->target : to->x;
    to->judge = cnn__judge_of(to->g, to->truth);
    to->metric = cnn__metric_of(to);
    to->total = cnn__of(loss)->total;
    return true;
}

/* The checks that fit and evaluate share. what: "fit". */
static bool cnn__find_feed(cnn__feed_to *to, const char *at, const char *what, cnn_tensor *loss,
                           cnn_tensor *logits, const cnn_dataset *data)
{
    cnn_graph *g = !cnn__is_nil(loss) ? loss->graph : !cnn__is_nil(logits) ? logits->graph : NULL;
    int inputs;
    to->g = g, to->logits = logits;
    if (!g || g->error[0]) return false;
    if (cnn__is_nil(loss) || cnn__is_nil(logits))
        return cnn__fail(g, at, what, "loss or logits is NULL or nil");
    if (logits->graph != g) return cnn__fail(g, at, what, "loss and logits belong to two graphs");
    if (!g->compiled) return cnn__fail(g, at, what, "the graph is not compiled");
    if (!cnn__usable(loss, what) || !cnn__usable(logits, what)) return false;
    if (loss->batched && !logits->batched && cnn__len(logits->shape) == 1)
        return cnn__fail(g, at, what, "loss and logits are swapped: the loss comes first");
    to->x = cnn__leaf_below(logits, CNN_INPUT, &inputs);
    if (inputs != 1)
        return cnn__fail(g, at, what, "the logits come from %d inputs, and a data set feeds exactly one: "
                         "write the loop with cnn_set, cnn_forward, cnn_backward, cnn_step", inputs);
    if (!cnn__find_target(to, at, what, loss)) return false;
    if (!data) return cnn__fail(g, at, what, "the data set is NULL");
    if (data->error[0]) return cnn__fail(g, at, what, "data set: %s", data->error);
    if (data->count < 1) return cnn__fail(g, at, what, "the data set is empty");
    if (!cnn__check_feed(at, what, to->x, to->target, data, 0)) return false; /* now, not after hours */
    return to->metric != CNN__BY_CLASS || !to->target ||
           cnn__check_classes(g, at, what, logits, data, cnn__void_label(to->judge));
}

/* ---- How good is it? ---- */

/* Sums over a pass. R2 = 1 - sum (y-t)^2 / sum (t-mean)^2, per channel; mean and sum of squares are kept as
   Chan, Golub, LeVeque (1983) do: batches are joined without cancellation. */
typedef struct { double mean, squares, error; } cnn__moments;
typedef struct {
    double right, judged;                      /* labels, or answers */
    double n, absolute;                        /* values of a channel; the sum of |y-t| over all */
    cnn__moments *channel;                      /* NULL unless CNN__BY_ERROR */
} cnn__sums;

static bool cnn__open_sums(cnn__sums *s, const cnn__feed_to *to)
{
    const size_t bytes = cnn__mul_size((size_t)to->logits->shape.c, sizeof *s->channel);
    *s = (cnn__sums){ 0, 0, 0, 0, NULL };
    if (to->metric != CNN__BY_ERROR) return true;
    s->channel = bytes == SIZE_MAX ? NULL : CNN_MALLOC(bytes);
    if (!s->channel) return cnn__no_memory(to->g, NULL, "metrics", bytes);
    memset(s->channel, 0, bytes);
    return true;
}
static void cnn__clear_sums(cnn__sums *s, int channels)
{
    cnn__moments *channel = s->channel;
    *s = (cnn__sums){ 0, 0, 0, 0, channel };
    for (int c = 0; channel && c < channels; c++) channel[c] = (cnn__moments){ 0, 0, 0 };
}

static void cnn__add_errors(cnn__sums *s, const float *y, const float *t, cnn_shape z)
{
    const size_t plane = (size_t)cnn__plane(z), channels = (size_t)z.c, count = (size_t)z.n * plane;
    const double n = (double)count, all = s->n + n;
    for (size_t c = 0; c < channels; c++) {
        cnn__moments *to = &s->channel[c];
        double       mean = 0, squares = 0;
        for (int pass = 0; pass < 2; pass++) {
            double sum = 0;
            for (size_t i = 0; i < count; i++) {
                const size_t at = (i / plane * channels + c) * plane + i % plane;
                const double v = (double)t[at], d = (double)y[at] - v;
                sum += pass == 0 ? v : (v - mean) * (v - mean);
                if (pass == 0) s->absolute += fabs(d), to->error += d * d;
            }
            if (pass == 0) mean = sum / n;
            else           squares = sum;
        }
        const double shift = mean - to->mean;
        to->squares += squares + shift * shift * s->n * n / all, to->mean += shift * n / all;
    }
    s->n = all;
}

static double cnn__accuracy(const cnn__sums *s) { return s->judged > 0 ? s->right / s->judged : NAN; }
static double cnn__mae(const cnn__sums *s, int channels)
{
    return s->n > 0 ? s->absolute / (s->n * channels) : NAN;
}
/* The mean over the channels; of a constant channel 1 if it is met, else 0. */
static double cnn__r2(const cnn__sums *s, int channels)
{
    double sum = 0;
    if (!(s->n > 0)) return NAN;
    for (int c = 0; c < channels; c++) {
        const cnn__moments *t = &s->channel[c];
        sum += t->squares > 0 ? 1 - t->error / t->squares : t->error > 0 ? 0 : 1;
    }
    return sum / channels;
}

/* How many labels are not left out: those that count. */
static double cnn__count_judged(const cnn__feed_to *to)
{
    const size_t n = cnn_count(to->truth);
    const int    ignored = cnn__void_label(to->judge);
    const float *label = ignored == CNN__NO_LABEL ? NULL : cnn_map_read(to->truth);
    double       count = label ? 0 : (double)n;
    for (size_t i = 0; label && i < n; i++) count += label[i] != (float)ignored;
    return count;
}

/* Add the batch that was just computed, with the answers y. */
static void cnn__add_batch(cnn__sums *s, const cnn__feed_to *to, const float *y)
{
    const cnn_shape z = to->logits->shape;
    const float    *truth = cnn_map_read(to->truth);
    const size_t    plane = (size_t)cnn__plane(z), channels = (size_t)z.c, rows = (size_t)z.n * plane;
    if (!truth || !y || to->metric == CNN__NOT_JUDGED) return;
    if (to->metric == CNN__BY_ERROR) {
        cnn__add_errors(s, y, truth, z);
    } else if (to->metric == CNN__BY_SIGN) {
        for (size_t i = 0; i < rows * channels; i++) s->right += (y[i] > 0) == (truth[i] > 0.5f);
        s->judged += (double)(rows * channels);
    } else if (to->truth->shape.c == 1) {
        s->right += cnn__correct(y, z, truth, cnn__void_label(to->judge));
        s->judged += cnn__count_judged(to);
    } else {                                               /* soft labels: the likeliest class */
        for (size_t i = 0; i < rows; i++) {
            const size_t at = i / plane * channels * plane + i % plane;
            int          best = 0;
            for (int c = 1; c < z.c; c++)
                if (truth[at + (size_t)c * plane] > truth[at + (size_t)best * plane]) best = c;
            s->right += cnn__is_largest(y + at, plane, z.c, best);
        }
        s->judged += (double)rows;
    }
}

/* The same for the logits, where they are: see cnn__count_correct. */
static void cnn__judge_batch(cnn__sums *s, const cnn__feed_to *to, bool anew, bool show)
{
    if (to->metric == CNN__BY_CLASS && to->truth->shape.c == 1) {
        const int ignored = cnn__void_label(to->judge);
        cnn__count_correct(to->logits, to->truth, ignored, anew, show, &s->right);
        s->judged += cnn__count_judged(to);
    } else if (to->metric != CNN__NOT_JUDGED) cnn__add_batch(s, to, cnn_map_read(to->logits));
}

/* ---- Evaluate and predict ---- */

static const cnn_score cnn__no_score = { NAN, NAN, 0, NAN, NAN };

/* One batch in the mirror: `both` becomes the mean of its logits and of those that stand. Returns its loss.
   */
static double cnn__evaluate_mirror(const cnn__feed_to *to, cnn_tensor *loss, cnn__reader *r, int first,
                                   float *both)
{
    const float *z = cnn_map_read(to->logits);
    size_t       n = cnn_count(to->logits);
    if (z) memcpy(both, z, n * sizeof *z);
    if (!z || !cnn__feed(r, to->x, to->target, first, NULL, true)) return NAN;
    double value = (double)cnn_forward(loss, CNN_EVAL);
    z = cnn_map_read(to->logits);
    for (size_t i = 0; z && i < n; i++) both[i] = (both[i] + z[i]) / 2;
    return value;
}

/* All batches of an open reader. both: NULL, or room for the logits of a batch. */
static cnn_score cnn__evaluate_all(const cnn__feed_to *to, cnn_tensor *loss, cnn__reader *r, cnn__sums *sums,
                                   float *both)
{
    cnn_graph *g = to->g;
    double     sum = 0, weight, weights = 0;
    int        n, count = 0;
    for (; (n = cnn__feed(r, to->x, to->target, count, NULL, false)) > 0; count += n) {
        double value = (double)cnn_forward(loss, CNN_EVAL);
        if (both) {
            value = (value + cnn__evaluate_mirror(to, loss, r, count, both)) / 2;
            if (!g->error[0]) cnn__add_batch(sums, to, both);
        } else
            cnn__judge_batch(sums, to, count == 0, count + n == r->until);
        if (g->error[0]) break;
        weights += weight = to->total ? n : cnn__batch_weight(to, n);
        sum += to->total ? value : weight * value;
    }
    if (g->error[0] || count == 0) return cnn__no_score;
    const int channels = to->logits->shape.c;
    return (cnn_score){ weights > 0 ? sum / weights : 0, cnn__accuracy(sums), count, cnn__mae(sums, channels),
                        cnn__r2(sums, channels) };
}

static cnn_score cnn__evaluate(const cnn__feed_to *to, cnn_tensor *loss, const cnn_dataset *data, bool flips)
{
    cnn_graph       *g = to->g;
    const cnn_shape  z = to->logits->shape;
    cnn_score        score = cnn__no_score;
    cnn__reader      r;
    cnn__sums        sums;
    const size_t     bytes = cnn__mul_size((size_t)g->config.max_batch, (size_t)z.c * sizeof(float));
    float           *both = NULL;
    if (flips && (!to->logits->batched || cnn__plane(z) != 1))
        return cnn__fail(g, NULL, "evaluate", "logits %s: flips need one class for a sample, (N,classes,1,1)",
                         cnn__shape_text(to->logits).s), score;
    if (flips && !(both = bytes == SIZE_MAX ? NULL : CNN_MALLOC(bytes)))
        return cnn__no_memory(g, NULL, "evaluate", bytes), score;
    const bool open = cnn__open_sums(&sums, to);
    if (!cnn__open_reader(&r, data, g->config.max_batch, data->count, 0, !flips))
        cnn__fail(g, NULL, "evaluate", "data set: %s", r.error);
    else if (open) score = cnn__evaluate_all(to, loss, &r, &sums, both);
    cnn__close_reader(&r);
    CNN_FREE(sums.channel), CNN_FREE(both);
    return score;
}

CNN_API cnn_score cnn_evaluate(cnn_tensor *loss, cnn_tensor *logits, const cnn_dataset *data)
{
    cnn__feed_to to;
    const bool   good = cnn__find_feed(&to, NULL, "evaluate", loss, logits, data);
    return good ? cnn__evaluate(&to, loss, data, false) : cnn__no_score;
}
CNN_API cnn_score cnn_evaluate_flipped(cnn_tensor *loss, cnn_tensor *logits, const cnn_dataset *data)
{
    cnn__feed_to to;
    const bool   good = cnn__find_feed(&to, NULL, "evaluate", loss, logits, data);
    return good ? cnn__evaluate(&to, loss, data, true) : cnn__no_score;
}

CNN_API int cnn_predict(cnn_tensor *x, cnn_tensor *logits, const float *values, float *probabilities)
{
    if (cnn__is_nil(x) || cnn__is_nil(logits) || x->graph->error[0]) return -1;
    cnn_graph *g = x->graph;
    if (!values) return cnn__fail(g, NULL, "predict", "the values are NULL"), -1;
    if (logits->graph != g) return cnn__fail(g, NULL, "predict", "x and logits belong to two graphs"), -1;
    if (!logits->batched || cnn__plane(logits->shape) != 1)
        return cnn__fail(g, NULL, "predict", "logits %s: one class for a sample needs the shape "
                         "(N,classes,1,1)", cnn__shape_text(logits).s), -1;
    if (!cnn_set(x, values, (size_t)cnn__sample(x->shape))) return -1;
    cnn_forward(logits, CNN_EVAL);
    const float *z = cnn_map_read(logits);
    if (!z || g->error[0]) return -1;

    int classes = logits->shape.c, best = 0;
    for (int c = 1; c < classes; c++) if (z[c] > z[best]) best = c;
    if (probabilities) {                       /* softmax: exp(z_c - max) / sum_k exp(z_k - max) */
        double sum = 0;
        for (int c = 0; c < classes; c++) sum += exp((double)z[c] - (double)z[best]);
        for (int c = 0; c < classes; c++)
            probabilities[c] = (float)(exp((double)z[c] - (double)z[best]) / sum);
    }
    return best;
}

/* ---- Which class for which? ---- */

/* Run all samples and call each with its logits and label. Returns how many; 0 after an error. */
typedef void (*cnn__judge)(const float *z, int classes, int label, void *user);
static int cnn__judge_all(cnn_tensor *logits, const cnn_dataset *data, const char *what, cnn__judge judge,
                          void *user)
{
    int inputs, n, count = 0;
    if (!cnn__usable(logits, what)) return 0;
    cnn_graph  *g = logits->graph;
    cnn_tensor *x = cnn__leaf_below(logits, CNN_INPUT, &inputs);
    if (inputs != 1)
        return cnn__fail(g, NULL, what, "the logits come from %d inputs, and a data set feeds exactly one",
                         inputs), 0;
    if (!data || data->error[0] || data->count < 1)
        return cnn__fail(g, NULL, what, "data set: %s", !data ? "it is NULL" : data->error[0] ? data->error
                         : "it is empty"), 0;
    if (data->target_type != CNN_I32 || cnn__sample(data->target) != 1)
        return cnn__fail(g, NULL, what, "the data set has no labels, one for each sample"), 0;
    if (data->classes > logits->shape.c || !logits->batched || cnn__plane(logits->shape) != 1)
        return cnn__fail(g, NULL, what,
                         "logits %s and %d classes: one label for a sample needs the shape (N,classes,1,1)",
                         cnn__shape_text(logits).s, data->classes), 0;
    cnn__reader r;
    if (!cnn__check_feed(NULL, what, x, NULL, data, 0)) return 0;
    if (!cnn__open_reader(&r, data, g->config.max_batch, data->count, 0, true))
        cnn__fail(g, NULL, what, "data set: %s", r.error);
    for (; !g->error[0] && (n = cnn__feed(&r, x, NULL, count, NULL, false)) > 0; count += n) {
        cnn_forward(logits, CNN_EVAL);
        const float *z = cnn_map_read(logits);
        const int   *label = data->fill ? r.slot[r.now].want.labels : NULL;
        for (int i = 0; z && i < n; i++) {
            const int k = label ? label[i] : data->labels[data->order[count + i]];
            if (k < 0 || k >= logits->shape.c) continue;               /* left out */
            judge(z + (size_t)i * (size_t)logits->shape.c, logits->shape.c, k, user);
        }
    }
    cnn__close_reader(&r);
    return g->error[0] ? 0 : count;
}

static void cnn__judge_confusion(const float *z, int classes, int label, void *user)
{
    int best = 0;
    for (int c = 1; c < classes; c++) if (z[c] > z[best]) best = c;
    ((int *)user)[(size_t)label * (size_t)classes + (size_t)best]++;
}
CNN_API bool cnn_confusion(cnn_tensor *logits, const cnn_dataset *data, int *matrix)
{
    if (cnn__is_nil(logits) || logits->graph->error[0]) return false;
    if (!matrix) return cnn__fail(logits->graph, NULL, "confusion", "the matrix is NULL");
    memset(matrix, 0, (size_t)logits->shape.c * (size_t)logits->shape.c * sizeof *matrix);
    return cnn__judge_all(logits, data, "confusion", cnn__judge_confusion, matrix) > 0;
}

CNN_API cnn_class_score cnn_precision_recall(const int *matrix, int classes, int of)
{
    cnn_class_score s = { 0, 0, 0, 0 };
    if (!matrix || of < 0 || of >= classes) return s;
    const size_t n = (size_t)classes, c = (size_t)of;
    double right = matrix[c * n + c], said = 0, are = 0;
    for (size_t k = 0; k < n; k++) said += matrix[k * n + c], are += matrix[c * n + k];
    s.precision = said > 0 ? right / said : 0, s.recall = are > 0 ? right / are : 0, s.count = (int)are;
    if (right > 0) s.f1 = 2 * s.precision * s.recall / (s.precision + s.recall);
    return s;
}

/* Among equal logits the label comes last, so that a net that tells nothing apart scores nothing. */
static void cnn__judge_top_k(const float *z, int classes, int label, void *user)
{
    int *k = user, before = 0;
    for (int c = 0; c < classes; c++) before += c != label && !(z[c] < z[label]);
    k[1] += before < k[0];
}
CNN_API double cnn_top_k(cnn_tensor *logits, const cnn_dataset *data, int k)
{
    int state[2] = { k, 0 };
    if (!cnn__is_nil(logits) && k < 1)
        cnn__fail(logits->graph, NULL, "top_k", "k is %d: it must be positive", k);
    int count = cnn__judge_all(logits, data, "top_k", cnn__judge_top_k, state);
    return count > 0 ? (double)state[1] / count : NAN;
}

/* ---- History ---- */

CNN_API void cnn_history_free(cnn_history *h)
{
    if (!h) return;
    CNN_FREE(h->epoch), CNN_FREE(h->update);
    memset(h, 0, sizeof *h);
}

/* Room for one more than `count` elements of `each` bytes. */
static bool cnn__grow(cnn_graph *g, const char *at, void *array, int count, int *capacity, size_t each)
{
    void *old, *more;
    if (count < *capacity) return true;
    const int    twice = *capacity < 8 ? 8 : *capacity > INT_MAX / 2 ? INT_MAX : 2 * *capacity;
    const size_t bytes = cnn__mul_size((size_t)twice, each);
    memcpy(&old, array, sizeof old);
    more = count == INT_MAX || bytes == SIZE_MAX ? NULL : CNN_REALLOC(old, bytes);
    if (!more) return cnn__no_memory(g, at, "fit", bytes);
    memcpy(array, &more, sizeof more), *capacity = twice;
    return true;
}
static bool cnn__history_add(cnn_graph *g, const char *at, cnn_history *h, cnn_epoch e)
{
    if (!cnn__grow(g, at, &h->epoch, h->count, &h->capacity, sizeof e)) return false;
    return h->epoch[h->count++] = e, true;
}
static bool cnn__history_add_update(cnn_graph *g, const char *at, cnn_history *h, cnn_update u)
{
    if (!cnn__grow(g, at, &h->update, h->updates, &h->update_capacity, sizeof u)) return false;
    return h->update[h->updates++] = u, true;
}

/* ---- Schedules ---- */

CNN_API float cnn_linear(float progress, void *user) { return (void)user, 1 - progress; }
CNN_API float cnn_cosine(float progress, void *user)
{
    (void)user;
    return (float)(0.5 + 0.5 * cos(3.14159265358979323846 * (double)progress));
}
CNN_API float cnn_one_cycle(float progress, void *user)
{
    const float top = 0.3f, low = 1.0f / 25;
    if (progress < top) return 1 - (1 - low) * cnn_cosine(progress / top, user);
    return cnn_cosine((progress - top) / (1 - top), user);
}
CNN_API float cnn_staircase(float progress, void *user)
{
    (void)user;
    return progress * 3 < 1 ? 1.0f : progress * 3 < 2 ? 0.1f : 0.01f;
}

/* ---- Fit ----

   For every epoch: shuffle; for every batch: feed, forward, backward; for every `accumulate` batches: step.
   The order of the samples follows from the graph's seed and its number of updates so far, and what augment
   draws from the seed and the number of epochs that these updates make, so that two calls of one epoch are
   one call of two. A loss that is not finite ends the training with an error: no later step could mend the
   parameters. */

/* A training under way. What a checkpoint has to hold beside the graph stands in `at`. */
typedef struct {
    uint64_t epochs, fed, updates, best_epoch; /* finished epochs; samples of the present one; updates */
    uint64_t epoch_step;                       /* the graph's updates when the present epoch began */
    double   sum, best_loss;                   /* of the losses of this epoch; the least of an epoch */
} cnn__fit_place;
typedef struct {
    cnn_fit_args   a;
    cnn_step_args  step;
    cnn__feed_to   to, test;
    cnn_graph     *g;
    int            epochs, per_update;         /* in all; batches to an update */
    int            batches, samples;           /* of an epoch */
    int            since;                      /* batches since the last checkpoint */
    int            history_from, updates_from; /* entries that are not of this training */
    float         *best;                       /* NULL, or where the weights of the best epoch are kept */
    cnn__fit_place at;
    cnn__sums      sums;                       /* over the present epoch */
} cnn__run;

#ifdef CNN_NO_STDIO
static bool cnn__no_files(cnn__run *run)
{
    return cnn__fail(run->g, run->a.at, "fit", "checkpoint: this program was built with CNN_NO_STDIO");
}
static bool cnn__save_run(cnn__run *run)   { return cnn__no_files(run); }
static bool cnn__resume_run(cnn__run *run) { return cnn__no_files(run); }
#else
static bool cnn__save_run(cnn__run *run);                        /* see "Checkpoints" at the end of >>files */
static bool cnn__resume_run(cnn__run *run);
#endif

static double cnn__updates_of_epoch(const cnn__run *run)
{
    return (run->batches - 1) / run->per_update + 1;
}

/* The learning rate of update number `done` (from 0) of `steps`. */
static float cnn__scheduled(const cnn_fit_args *a, double done, double steps)
{
    static const cnn_field lr_end = CNN_FIELD('f', cnn_fit_args, lr_end);
    float  progress = steps > 1 ? (float)(done / (steps - 1)) : 0;
    double end = (double)a->lr_end, part = 1;
    if (a->schedule) part = (double)a->schedule(progress, a->schedule_user);
    else if (cnn__given(&lr_end, a)) part = 1 - (steps > 1 ? done / (steps - 1) : 0);
    double lr = end + ((double)a->lr - end) * part;
    return (float)(done < a->warmup ? lr * (done + 1) / a->warmup : lr);
}

/* One update with the gradients that are there, and what belongs to it. */
static bool cnn__fit_update(cnn__run *run)
{
    cnn_graph *g = run->g;
    if (run->a.clip > 0) cnn_clip_grads(g, run->a.clip);
    if (!(run->step.lr >= 0) || isinf(run->step.lr))
        return cnn__fail(g, run->a.at, "fit", "the schedule gave the learning rate %g in epoch %d, batch %d",
                         (double)run->step.lr, (int)run->at.epochs + 1,
                         (int)(run->at.fed / (uint64_t)g->config.max_batch) + 1);
    if (run->step.lr > 0) { if (!cnn_step_(run->step)) return false; }
    else g->step++;                                            /* a rate of 0 moves nothing */
    run->at.updates++;
    return !(run->a.average > 0) || cnn_average(g, run->a.average);
}

/* The loss is not finite: because of the data, of the weights before any update, or of the training? */
static bool cnn__fit_diverged(cnn__run *run, double loss)
{
    const cnn_stats x = cnn_stats_of(cnn_map_read(run->to.x), cnn_count(run->to.x));
    char why[160];
    if (x.nans || x.infs)
        cnn__format(why, sizeof why, "the data of this batch hold %zu NaN and %zu Inf", x.nans, x.infs);
    else if (run->g->step == 0)
        cnn__format(why, sizeof why, "no weight was updated yet; inputs of smaller range (now %g to %g) may "
                    "help", x.min, x.max);
    else
        cnn__format(why, sizeof why, "training diverged; a smaller .lr (now %g) or inputs of smaller range "
                    "may help", (double)run->step.lr);
    return cnn__fail(run->g, run->a.at, "fit",
                     "the loss became %s in epoch %d, batch %d: %s; cnn_doctor says "
                     "where it began", isnan(loss) ? "NaN" : "infinite", (int)run->at.epochs + 1,
                     (int)run->at.fed / run->g->config.max_batch + 1, why);
}

/* The rest of the present epoch. Sets *go to false if progress stops the training; false after an error.

   A batch's gradient is the mean over its n_i samples, or over their weights, whose sum is n_i then. With G =
   n_(i-1)/n_i G + dw_i, and at the end G n_k / sum n_i, that is the mean over all k batches, and nothing is
   multiplied while they are equal. A batch whose labels are all ignored adds nothing. */
static bool cnn__fit_epoch(cnn__run *run, cnn__reader *data, cnn_progress *p, double start, bool *go)
{
    const cnn_fit_args *a = &run->a;
    cnn__fit_place     *at = &run->at;
    cnn_graph          *g = run->g;
    const int    count = run->samples, max_batch = g->config.max_batch;
    const double each = cnn__updates_of_epoch(run), updates = each * run->epochs, began = (double)at->updates;
    const double epoch_start = cnn__seconds(), fed_before = (double)at->fed;
    const bool   show = a->progress || a->checkpoint, total = run->to.total;
    int          n, in_group = 0;
    double       last = 0, group = 0;                      /* n_(i-1), and the sum so far */
    double       loss_sum = 0, loss_n = 0;                 /* of an update */
    while (*go && (int)at->fed < count &&
           (n = cnn__feed(data, run->to.x, run->to.target, (int)at->fed, &a->augment, false)) > 0) {
        double loss = (double)cnn_forward(a->loss, CNN_TRAIN);
        cnn__judge_batch(&run->sums, &run->to, at->fed == 0 || show, (int)at->fed + n == count || show);
        const double weight = total ? 1 : cnn__batch_weight(&run->to, n), part = total ? loss : loss * n;
        if (group > 0 && weight > 0 && !cnn__scale_grads(g, last / weight)) return false;
        if (group > 0) cnn_backward_add(a->loss);
        else           cnn_backward(a->loss);
        run->step.lr = cnn__scheduled(a, (double)at->updates, updates);
        if (g->error[0]) return false;
        if (!isfinite(loss)) return cnn__fit_diverged(run, loss);
        group += weight, in_group++;
        if (weight > 0) last = weight;
        bool update = in_group == run->per_update || (int)at->fed + n == count;
        if (update && group > 0 && !total && !cnn__scale_grads(g, last / group)) return false;
        if (update && !cnn__fit_update(run)) return false;
        at->sum += part, at->fed += (uint64_t)n, run->since++, loss_sum += part, loss_n += n;
        if (!update) continue;
        const cnn_update mean = { loss_sum / loss_n, (double)run->step.lr };
        if (a->history && a->per_update && !cnn__history_add_update(g, a->at, a->history, mean)) return false;
        group = last = loss_sum = loss_n = 0, in_group = 0;
        if (a->checkpoint_every && run->since >= a->checkpoint_every) cnn__save_run(run);
        if (!a->progress || g->error[0]) continue;

        double now = cnn__seconds(), done = (double)at->updates;
        p->batch = (int)((at->fed - 1) / (uint64_t)max_batch) + 1;
        p->loss = at->sum / (double)at->fed, p->accuracy = cnn__accuracy(&run->sums);
        p->mae = cnn__mae(&run->sums, a->logits->shape.c), p->r2 = cnn__r2(&run->sums, a->logits->shape.c);
        p->validation_loss = p->validation_accuracy = p->validation_mae = p->validation_r2 = NAN;
        p->seconds = now - start;
        p->samples_per_second = now > epoch_start ? ((double)at->fed - fed_before) / (now - epoch_start) : 0;
        p->seconds_left = (now - epoch_start) / (done - began) * (updates - done);
        *go = a->progress(p, a->user);
    }
    p->samples_per_second = cnn__seconds() > epoch_start
                          ? ((double)at->fed - fed_before) / (cnn__seconds() - epoch_start) : 0;
    return !g->error[0];
}

/* Evaluate, with the averages where there are any, and keep the weights if they are the best so far. */
static bool cnn__fit_validate(cnn__run *run, cnn_score *score)
{
    bool average = run->a.average > 0;
    if (average && !cnn_swap_average(run->g)) return false;
    *score = cnn__evaluate(&run->test, run->a.loss, run->a.validation, run->a.flips != 0);
    if (run->g->error[0]) return false;
    if (run->best && score->loss < run->at.best_loss) {
        run->at.best_loss = score->loss, run->at.best_epoch = run->at.epochs + 1;
        if (!cnn__copy_trained(run->g, run->best, CNN__SAVE, 0)) return false;
    }
    if (average && !cnn_swap_average(run->g)) return false;
    return isfinite(score->loss) ||
           cnn__fail(run->g, run->a.at, "fit", "the validation loss is %s after epoch %d: NaN or Inf in the "
                     "validation data, or in what CNN_EVAL makes of them; cnn_doctor says where it began",
                     isnan(score->loss) ? "NaN" : "infinite", (int)run->at.epochs + 1);
}

/* The batches of an epoch; and what is known of the last one before the first. */
static bool cnn__count_batches(cnn__run *run)
{
    cnn_graph *g = run->g;
    const int  count = run->a.train->count, batch = g->config.max_batch, rest = count % batch;
    run->samples = run->a.drop_last ? count - rest : count;
    run->batches = run->samples / batch + (run->samples % batch > 0);
    if (run->batches == 0)
        return cnn__fail(g, run->a.at, "fit",
                         "drop_last leaves nothing: %d samples do not fill a batch of %d",
                         count, batch);
    for (int i = 0; (run->samples - 1) % batch == 0 && i <= run->a.loss->index; i++) {
        const cnn_tensor *y = &g->order[i]->t;
        if (y->op && y->op->flags & CNN_BATCH_STATISTICS && y->batched && cnn__plane(y->shape) == 1
            && !cnn__keeps_statistics(y))
            return cnn__fail(g, run->a.at, "fit",
                             "%d samples in batches of %d: the last batch has one sample, "
                             "of which %s \"%s\" has no variance: say .drop_last = 1 or another max_batch",
                             count, batch, y->op->name, y->name);
    }
    return true;
}

static bool cnn__fit(cnn__run *run)
{
    const cnn_fit_args *a = &run->a;
    cnn__fit_place     *at = &run->at;
    cnn_graph          *g = run->g;
    const double start = cnn__seconds();
    const int    channels = a->logits->shape.c;
    bool   go = true, tired = false;
    while ((int)at->epochs < run->epochs && go && !tired) {
        double epoch_start = cnn__seconds();
        cnn_progress p = { 0 };
        p.epoch = (int)at->epochs + 1, p.epochs = run->epochs, p.batches = run->batches;
        if (at->fed == 0) {
            at->epoch_step = (uint64_t)g->step, at->sum = 0;
            cnn__clear_sums(&run->sums, channels);
        }
        if (!a->no_shuffle) cnn_shuffle(a->train, g->config.seed + at->epoch_step);
        const long  round = (long)((double)at->epoch_step / cnn__updates_of_epoch(run));
        cnn__reader data;
        if (!cnn__open_reader(&data, a->train, g->config.max_batch, run->samples, round, true))
            return cnn__fail(g, a->at, "fit", "data set: %s", data.error);
        const bool fine = cnn__fit_epoch(run, &data, &p, start, &go);
        cnn__close_reader(&data);
        if (!fine) return false;
        if ((int)at->fed < run->samples || (!go && a->checkpoint)) break;   /* stopped within the epoch */

        cnn_score score = cnn__no_score;
        if (a->validation && go && !cnn__fit_validate(run, &score)) return false;
        const cnn_epoch e = { at->sum / (double)at->fed, cnn__accuracy(&run->sums), score.loss,
                             score.accuracy,
                              cnn__seconds() - epoch_start, cnn__mae(&run->sums, channels),
                              cnn__r2(&run->sums, channels), score.mae, score.r2 };
        if (a->history && !cnn__history_add(g, a->at, a->history, e)) return false;
        at->epochs++, at->fed = 0;
        tired = run->best && at->epochs - at->best_epoch >= (uint64_t)a->patience;
        if (a->checkpoint && go && !tired && (int)at->epochs < run->epochs) cnn__save_run(run);
        if (!a->progress || !go) continue;
        p.loss = e.loss, p.accuracy = e.accuracy, p.validation_loss = e.validation_loss;
        p.validation_accuracy = e.validation_accuracy, p.epoch_done = 1, p.batch = run->batches;
        p.mae = e.mae, p.r2 = e.r2, p.validation_mae = e.validation_mae, p.validation_r2 = e.validation_r2;
        p.seconds = cnn__seconds() - start;
        p.seconds_left = e.seconds * (run->epochs - (int)at->epochs);
        go = a->progress(&p, a->user);
    }
    bool over = tired || (int)at->epochs == run->epochs;         /* else it may be resumed where it stands */
    if (a->checkpoint && !over) cnn__save_run(run);
    if (at->best_epoch && !cnn__copy_trained(g, run->best, CNN__RESTORE, 0)) return false;
    if (over) at->epochs = (uint64_t)run->epochs, at->best_epoch = 0;
    if (a->checkpoint && over) cnn__save_run(run);
    return !g->error[0];
}

/* Are the validation data fed as the training data are? */
static bool cnn__check_normalised(const cnn__feed_to *to, const char *at, const cnn_dataset *d,
                                  const cnn_dataset *as)
{
    for (int k = 0; k < 4 && k < d->shape.c; k++)
        if (d->mean[k] != as->mean[k] || d->deviation[k] != as->deviation[k])
            return cnn__fail(to->g, at, "fit", "channel %d of the validation data has mean %g and deviation "
                             "%g, of the training data %g and %g: say cnn_standardize(&validation, &train)",
                             k, (double)d->mean[k], (double)d->deviation[k], (double)as->mean[k],
                             (double)as->deviation[k]);
    return true;
}

/* The options that are not the optimizer's. */
#define CNN__FIT_INT(member, least, values)                                                                  \
    CNN_FIELD('i', cnn_fit_args, member, .preset = least, .range = values)
static const cnn_field cnn__fit_fields[] = {
    CNN__FIT_INT(epochs, 1, "[1,2147483647]"), CNN__FIT_INT(accumulate, 1, "[1,2147483647]"),
    CNN__FIT_INT(warmup, 0, "[0,2147483647]"), CNN__FIT_INT(patience, 0, "[0,2147483647]"),
    CNN__FIT_INT(checkpoint_every, 0, "[0,2147483647]"),
    CNN_FIELD('f', cnn_fit_args, lr_end, .range = "[0,inf)"),
    CNN_FIELD('f', cnn_fit_args, clip, .range = "[0,inf)"),
    CNN_FIELD('f', cnn_fit_args, average, .range = "[0,1)"), { 0 } };

CNN_API bool cnn_fit_(cnn_fit_args a)
{
    cnn__run r;
    char     why[CNN_ERROR_SIZE];
    memset(&r, 0, sizeof r);
    cnn_step_args s = { .at = a.at, .said = a.said, .lr = a.lr, .momentum = a.momentum,
                        .weight_decay = a.weight_decay,
                        .nesterov = a.nesterov, .beta1 = a.beta1, .beta2 = a.beta2, .alpha = a.alpha,
                        .eps = a.eps, .dampening = a.dampening }, resolved;
    if (!cnn__find_feed(&r.to, a.at, "fit", a.loss, a.logits, a.train)) return false;
    cnn_graph *g = r.g = s.g = cnn_at_graph(a.at, r.to.g);
    resolved = s;
    if (a.validation && (!cnn__find_feed(&r.test, a.at, "fit, validation", a.loss, a.logits, a.validation) ||
                         !cnn__check_normalised(&r.test, a.at, a.validation, a.train))) return false;
    if (g->batch_unsaid && a.train->count > 1)
        return cnn__fail(g, a.at, "fit", "max_batch was not said in cnn_new: each batch would be one sample; "
                         "if that is meant, say .max_batch = 1");
    if (!cnn__resolve_step(g, "fit", &resolved)) return false; /* each cnn_step does it again */
    if (!cnn__resolve(cnn__fit_fields, &a, why)) return cnn__fail(g, a.at, "fit", "%s", why);
    a.said = s.said;                                           /* cnn__scheduled asks it, too */
    if ((a.resume || a.checkpoint_every) && !a.checkpoint)
        return cnn__fail(g, a.at, "fit", "%s needs .checkpoint = \"path\"",
                         a.resume ? "resume" : "checkpoint_every");
    if (!cnn__check_augment(g, a.at, "fit", &a.augment, a.train, r.to.target)) return false;
    if (a.patience && !a.validation)
        return cnn__fail(g, a.at, "fit", "patience needs a validation set: .validation = &data");
    r.a = a, r.step = s, r.epochs = a.epochs, r.per_update = a.accumulate;
    if (!cnn__count_batches(&r)) return false;
    r.history_from = a.history ? a.history->count : 0, r.updates_from = a.history ? a.history->updates : 0;
    r.at.best_loss = INFINITY;
    size_t bytes = (cnn__trained_floats(g) + 1) * sizeof(float);
    if (a.patience && !(r.best = CNN_MALLOC(bytes))) return cnn__no_memory(g, a.at, "fit", bytes);
    bool fine = cnn_remember(g, a.train) && cnn__open_sums(&r.sums, &r.to) &&
                (!a.resume || cnn__resume_run(&r)) && cnn__fit(&r);
    CNN_FREE(r.best), CNN_FREE(r.sums.channel);
    return fine;
}

#ifndef CNN_NO_STDIO
/* ---- Progress on a terminal, history as files ---- */

/* A number with a decimal point in every locale: printf's %f would write 0,5 where the program has set a
   locale, and neither CSV nor SVG may have that. Empty for what is not a finite number. */
static cnn__text cnn__decimal(double v, int digits)
{
    cnn__text r = { "" };
    char     *to = r.s;
    if (!isfinite(v)) return r;
    cnn__format(r.s, sizeof r.s, "%.*f", digits, fmax(-1e15, fmin(v, 1e15)));
    const bool minus_zero = r.s[0] == '-' && !strpbrk(r.s, "123456789");
    for (const char *from = r.s + minus_zero; *from; from++)
        if (*from == '-' || (*from >= '0' && *from <= '9')) *to++ = *from;
        else if (to[-1] != '.') *to++ = '.';                  /* some locales have a point of several bytes */
    *to = 0;
    return r;
}

static cnn__text cnn__clock_text(double seconds)               /* 0:07, 12:34, 1:02:03 */
{
    cnn__text r;
    double whole = seconds > 0 ? seconds < 3.6e8 ? seconds + 0.5 : 3.6e8 : 0;
    int s = (int)whole;
    if (s < 3600) cnn__format(r.s, sizeof r.s, "%d:%02d", s / 60, s % 60);
    else cnn__format(r.s, sizeof r.s, "%d:%02d:%02d", s / 3600, s / 60 % 60, s % 60);
    return r;
}

/* "  loss 0.4231  accuracy 87.12 %", or what else is known. */
static void cnn__put_score(FILE *f, const char *set, double loss, double accuracy, double mae, double r2)
{
    fprintf(f, "  %sloss %.4f", set, loss);
    if (isfinite(accuracy)) fprintf(f, "  accuracy %.2f %%", 100 * accuracy);
    else if (isfinite(mae)) fprintf(f, "  error %.4g  R2 %.4f", mae, r2);
}
static void cnn__put_epoch(FILE *f, const cnn_progress *p, const char *end)
{
    cnn__put_score(f, "", p->loss, p->accuracy, p->mae, p->r2);
    if (!isnan(p->validation_loss))
        cnn__put_score(f, "validation ", p->validation_loss, p->validation_accuracy, p->validation_mae,
                       p->validation_r2);
    fprintf(f, "  %.0f samples/s  %s%s\n", p->samples_per_second, cnn__clock_text(p->seconds).s, end);
}

/* Is it time to show a batch? About every `seconds`, told from the mean time of a batch, since nothing may be
   remembered here. */
static bool cnn__is_due(const cnn_progress *p, double seconds)
{
    const int    all = p->batches > 0 ? p->batches : 1;
    const double batches = (double)(p->epoch - 1) * all + p->batch;
    const double every = p->seconds > 0 ? seconds * batches / p->seconds : 1;
    return every <= 1 || p->batch % (every < all ? (int)every : all) == 0;
}

static void cnn__print_bar(FILE *f, const cnn_progress *p)
{
    static const char full[] = "########################", empty[] = "........................";
    int of = p->epochs, all = p->batches > 0 ? p->batches : 1, cells = (int)sizeof full - 1;
    if (p->epoch_done) {
        fprintf(f, "\repoch %d/%d", p->epoch, of);
        cnn__put_epoch(f, p, "        ");
        return;
    }
    if (p->batch < all && !cnn__is_due(p, 0.1)) return;
    const int done = (int)ceil(fmin(1, (double)p->batch / all) * cells);
    fprintf(f, "\repoch %d/%d [%.*s%s] %3.0f %%", p->epoch, of, done, full, empty + done,
            100.0 * p->batch / all);
    cnn__put_score(f, "", p->loss, p->accuracy, p->mae, p->r2);
    fprintf(f, "  %.0f samples/s  left %s   ", p->samples_per_second, cnn__clock_text(p->seconds_left).s);
    fflush(f);
}
static void cnn__print_line(FILE *f, const cnn_progress *p)
{
    if (!p->epoch_done && (p->batch >= p->batches || !cnn__is_due(p, 10))) return;
    fprintf(f, "epoch %d/%d", p->epoch, p->epochs);
    if (!p->epoch_done) fprintf(f, " %3.0f %%", 100.0 * p->batch / p->batches);
    cnn__put_epoch(f, p, "");
    fflush(f);
}

CNN_API bool cnn_print_progress(const cnn_progress *p, void *user)
{
    FILE *f = user ? (FILE *)user : stderr;
    if (!p) return false;
    if (CNN__IS_TERMINAL(f)) cnn__print_bar(f, p);
    else                     cnn__print_line(f, p);
    return true;
}

static bool cnn__write_csv(FILE *f, void *history)
{
    const cnn_history *h = history;
    fprintf(f, "epoch,loss,accuracy,validation_loss,validation_accuracy,seconds,mae,r2,validation_mae,"
               "validation_r2\n");
    for (int i = 0; i < h->count; i++) {
        const cnn_epoch *e = &h->epoch[i];
        const double     v[] = { e->loss, e->accuracy, e->validation_loss, e->validation_accuracy, e->seconds,
                                 e->mae, e->r2, e->validation_mae, e->validation_r2 };
        fprintf(f, "%d", i + 1);
        for (int k = 0; k < 9; k++) fprintf(f, ",%s", cnn__decimal(v[k], k == 4 ? 3 : 6).s);
        fprintf(f, "\n");
    }
    return !ferror(f);
}
static bool cnn__write_updates_csv(FILE *f, void *history)
{
    const cnn_history *h = history;
    fprintf(f, "update,loss,lr\n");
    for (int i = 0; i < h->updates; i++)
        fprintf(f, "%d,%s,%s\n", i + 1, cnn__decimal(h->update[i].loss, 6).s,
                cnn__decimal(h->update[i].lr, 9).s);
    return !ferror(f);
}

static void cnn__svg_line(FILE *f, double x1, double y1, double x2, double y2, int width, const char *colour)
{
    fprintf(f, "<line x1=\"%s\" y1=\"%s\" x2=\"%s\" y2=\"%s\" stroke-width=\"%d\" stroke=\"%s\"/>\n",
            cnn__decimal(x1, 2).s, cnn__decimal(y1, 2).s, cnn__decimal(x2, 2).s, cnn__decimal(y2, 2).s,
            width, colour);
}
static void cnn__svg_text(FILE *f, double x, double y, const char *style, const char *text, const char *more)
{
    fprintf(f, "<text x=\"%s\" y=\"%s\" %s>%s%s</text>\n", cnn__decimal(x, 2).s, cnn__decimal(y, 2).s, style,
            text, more);
}

/* The distance of ticks: 1, 2 or 5 times a power of ten, so that at most `most` of them cover the range. */
static double cnn__tick(double range, int most)
{
    double unit = pow(10, floor(log10(range / most))), m = range / most / unit;
    return unit * (m <= 1 ? 1 : m <= 2 ? 2 : m <= 5 ? 5 : 10);
}

/* Column 0: loss, 1: accuracy in percent, 2: R2. Set 0: training, 1: validation. NAN if there is none. */
static double cnn__history_value(const cnn_history *h, int i, int column, int set)
{
    const cnn_epoch *e = &h->epoch[i];
    const double v[3][2] = { { e->loss, e->validation_loss },
                             { 100 * e->accuracy, 100 * e->validation_accuracy },
                             { e->r2, e->validation_r2 } };
    return isfinite(v[column][set]) ? v[column][set] : NAN;
}

/* One coordinate system of 370 x 260 pixels: grid, ticks, curves, and a legend with the last values. */
static void cnn__svg_panel(FILE *f, const cnn_history *h, int column, double left)
{
    static const char *const title[3] = { "loss", "accuracy", "R2" }, *const unit[3] = { "", " %", "" };
    static const char *const set[2] = { "training ", "validation " };
    static const char *const colour[2] = { "#2563b0", "#d9580d" };
    const double top = 60, bottom = top + 260, right = left + 370;
    double y0 = INFINITY, y1 = -INFINITY, last[2] = { NAN, NAN };
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < h->count; i++) {
            const double v = cnn__history_value(h, i, column, k);
            if (!isnan(v)) y0 = fmin(y0, v), y1 = fmax(y1, v), last[k] = v;
        }
    if (y0 > y1) y0 = 0, y1 = 1;                                       /* nothing to draw */
    if (column > 0)  y1 = fmax(y1, column == 1 ? 100 : 1);             /* accuracy is read from the top, */
    else if (y0 > 0) y0 = 0;                                           /* loss from zero */
    if (y1 - y0 < 1e-6 * (1 + fabs(y1))) y0 -= fmax(1, 1e-3 * fabs(y1));
    const double dy = cnn__tick(y1 - y0, 6), dx = fmax(1, cnn__tick(fmax(1, h->count - 1), 10));
    y0 = floor(y0 / dy) * dy, y1 = ceil(y1 / dy) * dy;
    const double x0 = h->count > 1, x_scale = 370 / (fmax(2, h->count) - x0), y_scale = 260 / (y1 - y0);

    const int digits = dy >= 1 ? 0 : (int)ceil(-log10(dy) - 1e-9), lines = (int)((y1 - y0) / dy + 0.5);
    for (int k = 0; k <= lines; k++) {                             /* the grid and the numbers at its lines */
        const double y = bottom - k * dy * y_scale;
        cnn__svg_line(f, left, y, right, y, 1, k ? "#e4e4e0" : "#55555a");
        cnn__svg_text(f, left - 8, y + 4, "text-anchor=\"end\"", cnn__decimal(y0 + k * dy, digits).s,
                      unit[column]);
    }
    for (double epoch = dx; epoch <= h->count; epoch += dx) {
        const double x = left + (epoch - x0) * x_scale;
        cnn__svg_line(f, x, bottom, x, bottom + 5, 1, "#55555a");
        cnn__svg_text(f, x, bottom + 20, "text-anchor=\"middle\"", cnn__decimal(epoch, 0).s, "");
    }
    cnn__svg_text(f, left + 370 / 2, bottom + 40, "text-anchor=\"middle\"", "epoch", "");
    cnn__svg_text(f, left, top - 20, "font-size=\"15\" font-weight=\"bold\"", title[column], "");

    for (int k = 0; k < 2; k++) {
        double x_old = NAN, y_old = NAN;
        for (int i = 0; i < h->count; i++) {
            const double v = cnn__history_value(h, i, column, k);
            const double x = left + (i + 1 - x0) * x_scale, y = bottom - (v - y0) * y_scale;
            if (isnan(v)) continue;
            if (!isnan(x_old)) cnn__svg_line(f, x_old, y_old, x, y, 2, colour[k]);
            if (h->count <= 40) cnn__svg_line(f, x, y, x, y, 6, colour[k]);       /* with round ends: a dot */
            x_old = x, y_old = y;
        }
        if (isnan(last[k])) continue;
        const double x = right - (k == 0 && !isnan(last[1]) ? 272 : 132);
        cnn__text    value = cnn__decimal(last[k], column == 1 ? 2 : 4), legend;
        cnn__svg_line(f, x, top - 24, x + 18, top - 24, 3, colour[k]);
        cnn__format(legend.s, sizeof legend.s, "%s%.40s", set[k], value.s);
        cnn__svg_text(f, x + 24, top - 20, "", legend.s, unit[column]);
    }
}

static bool cnn__write_svg(FILE *f, void *history)
{
    fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 920 380\" width=\"920\" "
               "height=\"380\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#333338\" "
               "stroke-linecap=\"round\">\n"
               "<rect width=\"920\" height=\"380\" fill=\"#fcfcfa\"/>\n");
    const cnn_history *h = history;
    const bool         classes = h->count == 0 || isfinite(h->epoch[0].accuracy) || !isfinite(h->epoch[0].r2);
    cnn__svg_panel(f, h, 0, 60);
    cnn__svg_panel(f, h, classes ? 1 : 2, 520);
    fprintf(f, "</svg>\n");
    return !ferror(f);
}

CNN_API bool cnn_history_csv(const cnn_history *h, const char *path)
{
    return h && cnn_write_file(path, cnn__write_csv, (void *)(uintptr_t)h);
}
CNN_API bool cnn_history_updates_csv(const cnn_history *h, const char *path)
{
    return h && cnn_write_file(path, cnn__write_updates_csv, (void *)(uintptr_t)h);
}
CNN_API bool cnn_history_svg(const cnn_history *h, const char *path)
{
    return h && cnn_write_file(path, cnn__write_svg, (void *)(uintptr_t)h);
}
#endif /* CNN_NO_STDIO */

/* ===========================================================================================================
   >>files ---- 12. Model files: safetensors (Hugging Face 2022), with PyTorch's names and layouts

       8 bytes      the length of the header, lowest byte first
       header       JSON: { "__metadata__": { "format": "pt", "cnn.graph": "...", ... }, "conv1.weight":
                            { "dtype": "F32", "shape": [6,1,5,5], "data_offsets": [0,600] }, ... }
       data         the tensors, without gap or overlap; the offsets count from here

   Parameters and running statistics are stored. PyTorch sees a state_dict, which strict loading takes: so
   constants, which it does not know, stand in the metadata, which say how to rebuild the net, one line per
   node in the order of execution; operands are numbers of earlier lines:

       cnn 1                                        the version of this text
       input input 1,28,28                          kind, name, extents (without N where N is the batch)
       param conv1.weight 6,1,5,5                   then perhaps: frozen (buffers, too), grad, kept
       const const1 1,2,1,1 x3f80000040000000       its values 1 and 2
       op conv1 conv2d 0,1,2 channels=6 kernel=5    name, operation, operands, options that are not zero
       root 9                                       what was compiled

   Words are escaped like URLs, and floats are written as their bits in hexadecimal: no locale can interfere.

   What the net knows of its data is a line of metadata, too, if it was told (cnn_remember): "cnn.data", four
   means, four deviations, the names of the classes.

   A checkpoint is the same file and all that it takes to continue the training bit for bit, as tensors named
   after the weights they belong to, and as numbers in the metadata:

       cnn.slot0.conv1.weight, cnn.slot1...         the optimizer's vectors; none if they are all zero
       cnn.steps.conv1.weight                       I64: the updates that these vectors have seen
       cnn.average.conv1.weight                     the moving average, if there is one (cnn_average)
       cnn.best.conv1.weight                        of cnn_fit with .patience: the best weights so far
       cnn.history, cnn.fit                         of cnn_fit: F64 [epochs,5], and the sums of the epoch
       "cnn.step": "12", ...                        see cnn__numbers

   Each batch norm has a num_batches_tracked in the file, as in PyTorch: what was loaded plus the training
   forwards since. Other tensors that are not floats are skipped.
   ======================================================================================================== */

enum { CNN__MOST_HEADER = 100000000,           /* bytes: the limit of the reference implementation */
       CNN__MOST_NODES  = 1 << 16 };
static const size_t CNN__MOST_PLAN = (size_t)1 << 31;  /* bytes for each sample: the default of .max_bytes */

/* The numbers of the metadata and their limits. The first three are in every file, "slots" (how many vectors
   of the optimizer it has) in every checkpoint, the others in those of cnn_fit. */
enum { CNN__SEED, CNN__STEP, CNN__DRAW, CNN__SLOTS, CNN__MAX_BATCH, CNN__SAMPLES, CNN__ACCUMULATE,
       CNN__EPOCHS, CNN__DONE, CNN__FED, CNN__UPDATES, CNN__BEST_EPOCH, CNN__EPOCH_STEP, CNN__NUMBERS };
static const struct { const char *key; uint64_t most; } cnn__numbers[CNN__NUMBERS] = {
    { "cnn.seed", UINT64_MAX }, { "cnn.step", LONG_MAX / 2 }, { "cnn.draw", UINT32_MAX },
    { "cnn.slots", CNN_MAX_SLOTS }, { "cnn.max_batch", INT_MAX }, { "cnn.samples", INT_MAX },
    { "cnn.accumulate", INT_MAX }, { "cnn.epochs", INT_MAX }, { "cnn.epochs_done", INT_MAX },
    { "cnn.samples_fed", INT_MAX }, { "cnn.updates", LONG_MAX / 2 }, { "cnn.best_epoch", INT_MAX },
    { "cnn.epoch_step", LONG_MAX / 2 } };

/* Element types and their bits. The first four become floats. */
static const struct { const char *name; unsigned bits; } cnn__dtypes[] = {
    { "F32", 32 }, { "F64", 64 }, { "F16", 16 }, { "BF16", 16 },
    { "BOOL", 8 }, { "U8", 8 }, { "I8", 8 }, { "U16", 16 }, { "I16", 16 }, { "U32", 32 }, { "I32", 32 },
    { "U64", 64 }, { "I64", 64 }, { "C64", 64 }, { "F8_E4M3", 8 }, { "F8_E5M2", 8 }, { "F8_E8M0", 8 },
    { "F6_E2M3", 6 }, { "F6_E3M2", 6 }, { "F4", 4 } };
enum { CNN__F32, CNN__F64, CNN__F16, CNN__BF16, CNN__FLOAT_TYPES, CNN__I64 = 12 };

/* One tensor of an open file. */
typedef struct {
    const char *name, *shape;                  /* shape: the text, for messages */
    int         shape_length;
    size_t      extent[4];                     /* those that are not 1 */
    int         extents;                       /* how many; 5 = more than four */
    int         dtype;
    size_t      count, begin, end;             /* elements; bytes from the beginning of the data */
    bool        known;                         /* the graph has something of this name */
} cnn__entry;

/* An open file. The header is a copy, in which strings are decoded where they lie. */
typedef struct {
    cnn_graph           *g;
    const char          *at, *what, *path;     /* for messages: main.c:7: load "net.safetensors": ... */
    char                *header, *end, *p;     /* p: where the reader is */
    cnn__entry          *entry;                /* sorted by name */
    size_t               n, capacity;
    const unsigned char *data;
    size_t               bytes;                /* of data; SIZE_MAX while they are not read yet */
    void                *own;                  /* the data, if it was read from a path */
    char                *names;                /* other ones than the file's, by .renames */
    char                *graph, *optimizer, *about; /* from the metadata, or NULL; also: */
    uint64_t             number[CNN__NUMBERS];
    unsigned             has;                  /* bit k: number k is there */
} cnn__file;

static cnn__file cnn__file_of(cnn_graph *g, const char *at, const char *what, const char *path)
{
    cnn__file f = { .g = g, .at = at, .what = what, .path = path };
    return f;
}

CNN__PRINTF(2, 3)
static bool cnn__file_fail(const cnn__file *f, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    cnn__vfail(f->g, f->at, f->what, f->path ? cnn__path_end(f->path) : NULL, NULL, format, ap);
    va_end(ap);
    return false;
}

/* CNN_REALLOC that says why it failed. */
static void *cnn__file_realloc(const cnn__file *f, void *old, size_t bytes)
{
    void *more = bytes == SIZE_MAX ? NULL : CNN_REALLOC(old, bytes);
    if (!more) cnn__file_fail(f, "out of memory: %zu bytes", bytes);
    return more;
}

/* ---- Reading: numbers and words ---- */

/* IEEE 754 half: 1 sign, 5 exponent, 10 fraction bits; value = fraction 2^-24 if the exponent is 0, else
   (1024 + fraction) 2^(exponent - 25). */
static float cnn__float_of_half(uint32_t half)
{
    uint32_t e = half >> 10 & 31, m = half & 1023;
    float    v = e ? ldexpf((float)(1024 + m), (int)e - 25) : ldexpf((float)m, -24);
    if (e == 31) v = m ? (float)NAN : (float)INFINITY;
    return half >> 15 & 1 ? -v : v;
}

/* Element i of a tensor of floats. bfloat16 is the upper half of a float. */
static double cnn__element(const cnn__file *f, const cnn__entry *e, size_t i)
{
    const unsigned char *p = f->data + e->begin + i * (cnn__dtypes[e->dtype].bits / 8);
    double         v;
    const uint64_t bits = e->dtype == CNN__F64 ? cnn__le64(p) : 0;
    switch (e->dtype) {
    case CNN__F64:  memcpy(&v, &bits, sizeof v);
                    return v;
    case CNN__F16:  return (double)cnn__float_of_half(p[0] | (uint32_t)p[1] << 8);
    case CNN__BF16: return (double)cnn__float_of_bits((uint32_t)p[0] << 16 | (uint32_t)p[1] << 24);
    default:        return (double)cnn__float_of_bits(cnn__le32(p));
    }
}

static int cnn__hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}
static bool cnn__read_hex(const char *s, int digits, uint32_t *value)
{
    *value = 0;
    for (int i = 0; i < digits; i++) {
        if (cnn__hex_digit(s[i]) < 0) return false;
        *value = *value << 4 | (uint32_t)cnn__hex_digit(s[i]);
    }
    return true;
}

/* A whole number as one would write it: no sign, no leading zero, at most `most`. Returns what follows, or
   NULL. */
static const char *cnn__read_whole(const char *s, uint64_t most, uint64_t *value)
{
    *value = 0;
    if (*s < '0' || *s > '9' || (*s == '0' && s[1] >= '0' && s[1] <= '9')) return NULL;
    for (; *s >= '0' && *s <= '9'; s++) {
        uint64_t digit = (uint64_t)(*s - '0');
        if (digit > most || *value > (most - digit) / 10) return NULL;
        *value = *value * 10 + digit;
    }
    return s;
}
/* "1,28,28": how many there are; -1 for anything else, or for too many. */
static int cnn__read_ints(const char *s, int *value, int room)
{
    for (int n = 0; n < room; s++) {
        const bool minus = *s == '-';
        uint64_t   size;
        s = cnn__read_whole(s + minus, INT_MAX, &size);
        value[n++] = minus ? -(int)size : (int)size;
        if (!s || (*s && *s != ',')) return -1;
        if (!*s) return n;
    }
    return -1;
}

/* ---- Reading: the header. JSON as far as the format uses it: three deep, so that nothing recurses. After an
   error the reader stands at the end, where every further step finds nothing. ---- */

static bool cnn__json_fail(cnn__file *f, const char *what)
{
    cnn__file_fail(f, "header, byte %zu: %s", (size_t)(f->p - f->header), what);
    f->p = f->end;
    return false;
}

static void cnn__json_space(cnn__file *f)
{
    while (*f->p == ' ' || *f->p == '\t' || *f->p == '\n' || *f->p == '\r') f->p++;
}
static bool cnn__json_is(cnn__file *f, char c)                       /* if c comes next, step over it */
{
    cnn__json_space(f);
    if (*f->p != c) return false;
    f->p++;
    return true;
}
static bool cnn__json_take(cnn__file *f, char c)
{
    const char what[] = { '\'', c, '\'', ' ', 'e', 'x', 'p', 'e', 'c', 't', 'e', 'd', 0 };
    return cnn__json_is(f, c) || cnn__json_fail(f, what);
}

/* Whether element n of a list between brackets, "[]" or "{}", follows. */
static bool cnn__json_next(cnn__file *f, const char *brackets, size_t n)
{
    if (n == 0) return cnn__json_take(f, brackets[0]) && !cnn__json_is(f, brackets[1]);
    if (cnn__json_is(f, ',')) return true;
    cnn__json_take(f, brackets[1]);
    return false;
}

/* The code behind \u, which for characters above U+FFFF comes in two; 0 after an error. */
static uint32_t cnn__json_code(cnn__file *f)
{
    uint32_t code, low;
    if (!cnn__read_hex(f->p, 4, &code) || (code & 0xFC00) == 0xDC00) return 0;
    f->p += 4;
    if ((code & 0xFC00) != 0xD800) return code;
    if (f->p[0] != '\\' || f->p[1] != 'u' || !cnn__read_hex(f->p + 2, 4, &low) || (low & 0xFC00) != 0xDC00)
        return 0;
    f->p += 6;
    return 0x10000 + ((code & 0x3FF) << 10) + (low & 0x3FF);
}

/* A string, decoded in its place, which is never shorter; "" after an error. */
static char *cnn__json_string(cnn__file *f)
{
    static const char escape[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
    static const unsigned char first[] = { 0, 0xC0, 0xE0, 0xF0 };    /* of UTF-8, by the bytes behind it */
    if (!cnn__json_take(f, '"')) return f->end;
    char *s = f->p, *out = s;
    while (*f->p != '"') {
        if ((unsigned char)*f->p < 0x20) return cnn__json_fail(f, "control character in a string"), f->end;
        if (*f->p != '\\') {
            *out++ = *f->p++;
            continue;
        }
        char        c = *++f->p;
        const char *k = c ? strchr(escape, c) : NULL;
        if (k || c == 'u') f->p++;
        uint32_t code = k ? (uint32_t)meaning[k - escape] : c == 'u' ? cnn__json_code(f) : 0;
        if (!code) return cnn__json_fail(f, "bad escape in a string"), f->end;
        int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
        *out++ = (char)(unsigned char)(first[more] | code >> 6 * more);
        while (more-- > 0) *out++ = (char)(unsigned char)(0x80 | (code >> 6 * more & 0x3F));
    }
    f->p++;
    *out = 0;
    return s;
}
static char *cnn__json_key(cnn__file *f)
{
    char *key = cnn__json_string(f);
    return cnn__json_take(f, ':') ? key : f->end;
}

static size_t cnn__json_size(cnn__file *f)
{
    uint64_t v;
    cnn__json_space(f);
    const char *end = cnn__read_whole(f->p, SIZE_MAX, &v);
    if (!end) return cnn__json_fail(f, "whole number expected"), 0;
    f->p += end - f->p;
    return (size_t)v;
}

static bool cnn__read_number(cnn__file *f, const char *key, const char *value)
{
    int k = 0;
    while (k < CNN__NUMBERS && strcmp(key, cnn__numbers[k].key) != 0) k++;
    if (k == CNN__NUMBERS) return true;                              /* somebody else's */
    if (f->has >> k & 1) return cnn__file_fail(f, "the metadata has \"%s\" twice", key);
    const char *end = cnn__read_whole(value, cnn__numbers[k].most, &f->number[k]);
    if (!end || *end) return cnn__file_fail(f, "%s: bad number \"%.40s\"", key, value);
    f->has |= 1u << k;
    return true;
}

/* "__metadata__": strings by strings. */
static bool cnn__read_metadata(cnn__file *f)
{
    for (size_t n = 0; cnn__json_next(f, "{}", n); n++) {
        char  *key = cnn__json_key(f), *value = cnn__json_string(f);
        char **keep = strcmp(key, "cnn.graph") == 0 ? &f->graph
                    : strcmp(key, "cnn.optimizer") == 0 ? &f->optimizer
                    : strcmp(key, "cnn.data") == 0 ? &f->about : NULL;
        if (keep && *keep) return cnn__file_fail(f, "the metadata has \"%s\" twice", key);
        if (keep) *keep = value;
        else if (!cnn__read_number(f, key, value)) return false;
    }
    return !f->g->error[0];
}

static void cnn__read_shape(cnn__file *f, cnn__entry *e)
{
    cnn__json_space(f);
    e->shape = f->p, e->count = 1;
    for (size_t n = 0; cnn__json_next(f, "[]", n); n++) {
        const size_t extent = cnn__json_size(f);
        e->count = cnn__mul_size(e->count, extent);
        if (extent != 1 && e->extents < 4) e->extent[e->extents++] = extent;
        else if (extent != 1) e->extents = 5;
    }
    e->shape_length = f->p - e->shape < 60 ? (int)(f->p - e->shape) : 60;
}

static bool cnn__read_dtype(cnn__file *f, cnn__entry *e)
{
    const char *name = cnn__json_string(f);
    const int   types = (int)(sizeof cnn__dtypes / sizeof *cnn__dtypes);
    while (e->dtype < types && strcmp(name, cnn__dtypes[e->dtype].name) != 0) e->dtype++;
    return e->dtype < types ||
           cnn__file_fail(f, "tensor \"%.60s\": unknown dtype \"%.20s\"", e->name, name);
}
static bool cnn__read_entry(cnn__file *f, cnn__entry *e)
{
    static const char *const keys[] = { "dtype", "shape", "data_offsets" };
    unsigned seen = 0;
    for (size_t n = 0; cnn__json_next(f, "{}", n); n++) {
        const char *key = cnn__json_key(f);
        unsigned    k = 0;
        while (k < 3 && strcmp(key, keys[k]) != 0) k++;
        if (k == 3 || (seen >> k & 1))
            return cnn__file_fail(f, "tensor \"%.60s\": key \"%.40s\" is unknown or there twice", e->name,
                                  key);
        seen |= 1u << k;
        if (k == 0 && !cnn__read_dtype(f, e)) return false;
        if (k == 1) cnn__read_shape(f, e);
        if (k != 2) continue;
        cnn__json_take(f, '[');
        e->begin = cnn__json_size(f);
        cnn__json_take(f, ',');
        e->end = cnn__json_size(f);
        cnn__json_take(f, ']');
    }
    if (f->g->error[0]) return false;
    if (seen != 7)
        return cnn__file_fail(f, "tensor \"%.60s\": it needs dtype, shape and data_offsets", e->name);
    if (e->begin > e->end || e->end > f->bytes)
        return cnn__file_fail(f, "tensor \"%.60s\": bytes %zu to %zu are not within the %zu bytes of data: "
                                 "truncated or damaged", e->name, e->begin, e->end, f->bytes);
    size_t bits = cnn__mul_size(e->count, cnn__dtypes[e->dtype].bits);
    if (bits == SIZE_MAX || bits % 8 || bits / 8 != e->end - e->begin)
        return cnn__file_fail(f, "tensor \"%.60s\": shape %.*s of %s does not fill bytes %zu to %zu", e->name,
                              e->shape_length, e->shape, cnn__dtypes[e->dtype].name, e->begin, e->end);
    return true;
}

static int cnn__by_place(const void *a, const void *b)
{
    const cnn__entry *x = a, *y = b;
    return x->begin != y->begin ? (x->begin < y->begin ? -1 : 1) : (x->end > y->end) - (x->end < y->end);
}
static int cnn__by_name(const void *a, const void *b)
{
    return strcmp(((const cnn__entry *)a)->name, ((const cnn__entry *)b)->name);
}

static bool cnn__sort_entries(cnn__file *f)
{
    if (f->n) qsort(f->entry, f->n, sizeof *f->entry, cnn__by_name);
    for (size_t i = 1; i < f->n; i++)
        if (strcmp(f->entry[i - 1].name, f->entry[i].name) == 0)
            return cnn__file_fail(f, "tensor \"%.60s\" is there twice%s", f->entry[i].name,
                                  f->names ? ", by .renames" : "");
    return true;
}

/* Tensors must cover the data without gap or overlap (so says the format: else one file could be read as
   two), and have different names. */
static bool cnn__check_entries(cnn__file *f)
{
    size_t at = 0;
    if (f->n) qsort(f->entry, f->n, sizeof *f->entry, cnn__by_place);
    for (size_t i = 0; i < f->n; i++) {
        const cnn__entry *e = &f->entry[i];
        if (e->begin < at)
            return cnn__file_fail(f, "tensors \"%.60s\" and \"%.60s\" overlap", f->entry[i - 1].name,
                                  e->name);
        if (e->begin > at)
            return cnn__file_fail(f, "bytes %zu to %zu of the data belong to no tensor", at, e->begin);
        at = e->end;
    }
    if (f->bytes == SIZE_MAX) f->bytes = at;
    if (at < f->bytes)
        return cnn__file_fail(f, "bytes %zu to %zu of the data belong to no tensor", at, f->bytes);
    return cnn__sort_entries(f);
}

static bool cnn__read_header(cnn__file *f)
{
    bool metadata = false;
    for (size_t n = 0; cnn__json_next(f, "{}", n); n++) {
        const char *name = cnn__json_key(f);
        if (strcmp(name, "__metadata__") == 0) {
            if (metadata) return cnn__file_fail(f, "the header has \"__metadata__\" twice");
            metadata = true;
            if (!cnn__read_metadata(f)) return false;
            continue;
        }
        if (f->n == f->capacity) {
            const size_t capacity = f->capacity ? 2 * f->capacity : 32;
            void *more = cnn__file_realloc(f, f->entry, cnn__mul_size(capacity, sizeof *f->entry));
            if (!more) return false;
            f->entry = more, f->capacity = capacity;
        }
        cnn__entry *e = &f->entry[f->n];
        memset(e, 0, sizeof *e);
        e->name = name;
        if (!cnn__read_entry(f, e)) return false;
        f->n++;
    }
    cnn__json_space(f);
    return !f->g->error[0] && (*f->p == 0 || cnn__json_fail(f, "the end of the header expected"));
}

static void cnn__close_file(cnn__file *f)
{
    CNN_FREE(f->header);
    CNN_FREE(f->entry);
    CNN_FREE(f->names);
    CNN_FREE(f->own);
}

/* The length of the header, by the first bytes of a file; 0 after an error. Most wrong files end here. */
static size_t cnn__header_length(const cnn__file *f, const unsigned char *p, size_t bytes)
{
    static const struct { const char *start, *what; } other[] = {
        { "PK\3\4", "a zip, perhaps of torch.save: use safetensors.torch.save_file" },
        { "\200\2\212\n", "a pickle, perhaps of torch.save: use safetensors.torch.save_file" },
        { "\037\213\b", "gzipped: gunzip it first" }, { "\211HDF", "HDF5, perhaps of Keras" } };
    if (bytes < 8)
        return cnn__file_fail(f, "truncated: a safetensors file begins with 8 bytes, this has %zu", bytes), 0;
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        if (memcmp(p, other[i].start, strlen(other[i].start)) == 0)
            return cnn__file_fail(f, "not a safetensors file but %s", other[i].what), 0;
    const uint64_t length = cnn__le64(p);
    if (length >= 2 && length <= CNN__MOST_HEADER) return (size_t)length;
    const char *end = f->path ? strrchr(f->path, '.') : NULL;
    return cnn__file_fail(f, "not a safetensors file%s%.20s: its header would have %llu bytes, and 2 to %d "
                             "are allowed", end ? " but perhaps a " : "", end ? end : "",
                          (unsigned long long)length, (int)CNN__MOST_HEADER), 0;
}

/* Read and check all of the header, of whose length `got` bytes are there. It belongs to f from now on. */
static bool cnn__check_header(cnn__file *f, char *header, size_t length, size_t got)
{
    f->p = f->header = header;
    if (!header) return false;
    if (got < length)
        return cnn__file_fail(f, "truncated: the header should have %zu bytes, the file has %zu", length,
                              got);
    f->end = header + length;
    *f->end = 0;
    return cnn__read_header(f) && cnn__check_entries(f);
}

/* f is to be closed by cnn__close_file, after an error, too. */
static bool cnn__open_file(cnn__file *f, const void *file, size_t bytes)
{
    const unsigned char *p = file;
    const size_t length = cnn__header_length(f, p, p ? bytes : 0);
    if (!length) return false;
    const size_t got = length < bytes - 8 ? length : bytes - 8;
    char *header = cnn__file_realloc(f, NULL, got + 1);
    if (header) memcpy(header, p + 8, got);
    f->data = p + 8 + got, f->bytes = bytes - 8 - got;
    return cnn__check_header(f, header, length, got);
}

/* ---- Reading: tensors into the graph ---- */

static int cnn__compare_entry(const void *key, const void *entry)
{
    return cnn__compare_name(key, ((const cnn__entry *)entry)->name);
}
static cnn__entry *cnn__lookup(const cnn__file *f, const char *prefix, const char *name)
{
    const cnn__key key = { prefix, name };
    return f->n ? bsearch(&key, f->entry, f->n, sizeof *f->entry, cnn__compare_entry) : NULL;
}

/* The first entry whose name ends in this one, as behind a prefix; NULL: none. */
static const cnn__entry *cnn__longer_name(const cnn__file *f, const char *name)
{
    const size_t n = strlen(name);
    for (size_t i = 0; i < f->n; i++) {
        const size_t more = strlen(f->entry[i].name);
        if (more > n && strcmp(f->entry[i].name + (more - n), name) == 0) return &f->entry[i];
    }
    return NULL;
}

/* The entry that fits a tensor of this name and shape, whose extents of 1 may stand anywhere: (6,) is
   (1,6,1,1). */
static const cnn__entry *cnn__find_entry(const cnn__file *f, const char *prefix, const char *name,
                                         cnn_shape s)
{
    cnn__entry *e = cnn__lookup(f, prefix, name);
    if (!e) {
        char list[160] = "none";
        int  n = 0;
        for (size_t i = 0; i < f->n && i < 3; i++)
            n += cnn__format(list + n, sizeof list - (size_t)n, "%s\"%.40s\"", i ? ", " : "",
                             f->entry[i].name);
        const cnn__entry *like = *prefix ? NULL : cnn__longer_name(f, name);
        const int n_like = like ? (int)(strlen(like->name) - strlen(name)) : 0;
        cnn__file_fail(f, "there is no tensor \"%s%.60s\"; the file has %zu: %s%s%s%.*s%s", prefix, name,
                       f->n, list, f->n > 3 ? ", ..." : "", like ? " (.prefix = \"" : "",
                       n_like > 40 ? 40 : n_like, like ? like->name : "", like ? "\"?)" : "");
        return NULL;
    }
    const int extent[4] = { s.n, s.c, s.h, s.w };
    int  k = 0;
    bool same = e->extents <= 4;
    for (int i = 0; i < 4 && same; i++)
        if (extent[i] != 1) same = k < e->extents && e->extent[k++] == (size_t)extent[i];
    if (!same || k != e->extents)
        return cnn__file_fail(f, "tensor \"%.60s\" has shape %.*s in the file and (%d,%d,%d,%d) in the graph",
                              e->name, e->shape_length, e->shape, s.n, s.c, s.h, s.w), NULL;
    if (e->dtype >= CNN__FLOAT_TYPES)
        return cnn__file_fail(f, "tensor \"%.60s\" has dtype %s: only F32, F64, F16 and BF16 become floats",
                              e->name, cnn__dtypes[e->dtype].name), NULL;
    e->known = true;
    return e;
}

static bool cnn__is_learned(const cnn_tensor *t) { return t->kind == CNN_PARAM || t->kind == CNN_BUFFER; }

/* The count of a batch norm's batches, "bn1" ".num_batches_tracked". The graph keeps it as the difference
   from its own number of training forwards, which do not count while the statistics are frozen. */
static const char cnn__count_suffix[] = ".num_batches_tracked";
static bool cnn__has_count(const cnn_tensor *y)                      /* and no parameter took its name */
{
    return cnn_operand(y, "running_mean") && !cnn__find_name(y->graph, y->name, cnn__count_suffix);
}
static uint64_t cnn__counted(const cnn_tensor *y) { return cnn__keeps_statistics(y) ? 0 : y->graph->draw; }
static void cnn__read_count(const cnn__file *f, cnn_tensor *y)
{
    cnn__entry *e = cnn__has_count(y) ? cnn__lookup(f, y->name, cnn__count_suffix) : NULL;
    if (!e || e->dtype != CNN__I64 || e->count != 1) return;
    e->known = true;
    cnn__of(y)->batches = cnn__le64(f->data + e->begin) - cnn__counted(y);
}

/* Is the tensor of this name asked for? a = NULL: every one is. */
static bool cnn__is_asked(const cnn_load_weights_args *a, const char *name)
{
    return !a || ((!a->only || cnn__matches(a->only, name)) && (!a->skip || !cnn__matches(a->skip, name)));
}

/* Whether the file has all that is asked for. Nothing is taken yet. */
static bool cnn__check_weights(const cnn__file *f, const cnn_load_weights_args *a)
{
    for (int i = 0; i < f->g->n_order; i++) {
        const cnn_tensor *y = &f->g->order[i]->t;
        if (cnn__is_learned(y) && cnn__is_asked(a, y->name) &&
            !(a && a->missing_ok && !cnn__lookup(f, "", y->name)) &&
            !cnn__find_entry(f, "", y->name, y->shape)) return false;
        const cnn_tensor *variance = cnn_operand(y, "running_var");
        const cnn__entry *e = variance ? cnn__lookup(f, "", variance->name) : NULL;
        for (size_t k = 0; e && e->known && k < e->count; k++)
            if (cnn__element(f, e, k) < 0)
                return cnn__file_fail(f, "tensor \"%.60s\": a variance is negative", variance->name);
    }
    return true;
}

/* Take the weights, after cnn__check_weights: a file that does not fit leaves them all as they were. */
static bool cnn__fill_weights(const cnn__file *f)
{
    for (int i = 0; i < f->g->n_order; i++) cnn__read_count(f, &f->g->order[i]->t);
    for (int i = 0; i < f->g->n_order; i++) {
        cnn_tensor *t = &f->g->order[i]->t;
        if (!cnn__is_learned(t)) continue;
        const cnn__entry *e = cnn__lookup(f, "", t->name);
        if (!e || !e->known) continue;
        float *w = cnn_map_write(t);
        if (!w) return false;
        for (size_t k = 0; k < e->count; k++) w[k] = (float)cnn__element(f, e, k);
    }
    return true;
}

/* What a checkpoint has beside the weights. */
static bool cnn__is_state(const cnn__file *f, const cnn__entry *e)
{
    return (f->has >> CNN__SLOTS & 1) && strncmp(e->name, "cnn.", 4) == 0;
}
/* A float tensor that the net has no use for: a bias or a layer was forgotten, or left out on purpose. */
static bool cnn__is_extra(const cnn__file *f, const cnn__entry *e)
{
    return e->dtype < CNN__FLOAT_TYPES && !e->known && !cnn__is_state(f, e) &&
           !cnn__find_name(f->g, "", e->name);
}
static bool cnn__check_extra(const cnn__file *f)
{
    char list[160] = "";
    int  n = 0, extra = 0;
    for (size_t i = 0; i < f->n; i++)
        if (cnn__is_extra(f, &f->entry[i]) && extra++ < 3)
            n += cnn__format(list + n, sizeof list - (size_t)n, "%s\"%.40s\"", n ? ", " : "",
                             f->entry[i].name);
    return !extra || cnn__file_fail(f, "the net has nothing for %d tensors of the file: %s%s (.extra_ok = 1 "
                                       "leaves them out)", extra, list, extra > 3 ? ", ..." : "");
}

/* The name of an entry by the first pair of renames that fits, written at *at, which moves on: at most the
   letters of e->name and of the second of the pair, and the 0. */
static bool cnn__rename(const cnn__file *f, cnn__entry *e, const char *const *pair, char **at)
{
    cnn__stars stars;
    while (*pair && !cnn__match_stars(*pair, e->name, &stars)) pair += 2;
    if (!*pair) return true;
    char *to = *at;
    int   k = 0;
    for (const char *c = pair[1]; *c; c++) {
        if (*c != '*') *to++ = *c;
        else if (k == stars.n)
            return cnn__file_fail(f, ".renames: \"%.60s\" has more stars than \"%.60s\"", pair[1], *pair);
        else {
            const size_t n = (size_t)(stars.end[k] - stars.begin[k]);
            memcpy(to, stars.begin[k++], n), to += n;
        }
    }
    *to++ = 0;
    e->name = *at, *at = to;
    return true;
}

/* Keep the entries that are asked for, under their names in the net. */
static bool cnn__choose_entries(cnn__file *f, const cnn_load_weights_args *a)
{
    static const char *const none[] = { NULL };
    const char *const *pair = a->renames ? a->renames : none;
    const size_t prefix = a->prefix ? strlen(a->prefix) : 0;
    size_t kept = 0, longest = 0, bytes = 1;
    for (size_t i = 0; pair[i]; i += 2) {
        if (!pair[i + 1]) return cnn__file_fail(f, ".renames: \"%.60s\" has no other name", pair[i]);
        if (strlen(pair[i + 1]) > longest) longest = strlen(pair[i + 1]);
    }
    for (size_t i = 0; i < f->n && pair[0]; i++)
        bytes = cnn__add_size(bytes, cnn__add_size(strlen(f->entry[i].name) + 1, longest));
    char *at = f->names = pair[0] ? cnn__file_realloc(f, NULL, bytes) : NULL;
    if (pair[0] && !at) return false;
    for (size_t i = 0; i < f->n; i++) {
        cnn__entry e = f->entry[i];
        if (prefix && strncmp(e.name, a->prefix, prefix) != 0) continue;
        e.name += prefix;
        if (!cnn__is_state(f, &e) && !cnn__rename(f, &e, pair, &at)) return false;
        if (cnn__is_asked(a, e.name)) f->entry[kept++] = e;
    }
    f->n = kept;
    return cnn__sort_entries(f);
}

/* What becomes of a tensor of the net; NULL: it learns nothing. */
static const char *const cnn__fates[] = { "skipped", "missing", "extra", "loaded" };
static const char *cnn__fate(const cnn__file *f, const cnn_load_weights_args *a, const cnn_tensor *t)
{
    if (!cnn__is_learned(t))          return NULL;
    if (!cnn__is_asked(a, t->name))   return cnn__fates[0];
    const cnn__entry *e = cnn__lookup(f, "", t->name);
    return cnn__fates[e && e->known ? 3 : 1];
}

/* The names of all that has this fate; returns how many. */
static int cnn__say_fate(cnn__page *p, const cnn__file *f, const cnn_load_weights_args *a, const char *fate)
{
    int n = 0;
    for (int i = 0; i < f->g->n_order; i++)
        if (cnn__fate(f, a, &f->g->order[i]->t) == fate)
            cnn__say(p, "%s%s", n++ ? ", " : ": ", f->g->order[i]->t.name);
    for (size_t i = 0; fate == cnn__fates[2] && i < f->n; i++)
        if (cnn__is_extra(f, &f->entry[i])) cnn__say(p, "%s%s", n++ ? ", " : ": ", f->entry[i].name);
    return n;
}

static bool cnn__load_weights(cnn__file *f, bool opened, const cnn_load_weights_args *a)
{
    cnn__page report = { a->report, a->report ? a->report_size : 0, 0, 0 }, none = { NULL, 0, 0, 0 };
    if (report.room) a->report[0] = 0;
    bool done = opened && cnn__choose_entries(f, a) && cnn__check_weights(f, a) &&
                (a->extra_ok || cnn__check_extra(f));
    if (done && !cnn__say_fate(&none, f, a, cnn__fates[3]))
        done = cnn__file_fail(f, "it has nothing of what is asked for: see .prefix, .only, .skip");
    done = done && cnn__fill_weights(f);
    for (int k = 0; k < 4 && done && report.room; k++) {
        cnn__say(&report, "%s %d", cnn__fates[k], cnn__say_fate(&none, f, a, cnn__fates[k]));
        cnn__say_fate(&report, f, a, cnn__fates[k]);
        cnn__say(&report, "\n");
    }
    cnn__close_file(f);
    return done;
}

static bool cnn__begin_load_weights(cnn__file *f, const cnn_load_weights_args *a)
{
    if (!a->g || a->g->error[0]) return false;
    *f = cnn__file_of(a->g, a->at, "load_weights", a->path);
    return a->g->compiled || cnn__file_fail(f, "call cnn_compile first");
}
CNN_API bool cnn_load_weights_memory(const void *file, size_t bytes, cnn_load_weights_args a)
{
    cnn__file f;
    return cnn__begin_load_weights(&f, &a) && cnn__load_weights(&f, cnn__open_file(&f, file, bytes), &a);
}

/* ---- Reading: the graph. Nothing is trusted: every word is checked here, every shape by its room. ---- */

/* The next word, ended in its place; NULL at the end of the line. */
static char *cnn__word(char **line)
{
    char *word = *line;
    if (!word || !*word) return NULL;
    char *space = strchr(word, ' ');
    if (space) *space = 0;
    *line = space ? space + 1 : NULL;
    return word;
}

/* Undo %41 in a word. "%" alone is the empty word. */
static bool cnn__unescape(char *word)
{
    char *out = word;
    if (strcmp(word, "%") == 0) return *word = 0, true;
    for (; *word; word++) {
        uint32_t code = (unsigned char)*word;
        if (*word == '%') {
            if (!cnn__read_hex(word + 1, 2, &code) || code == 0) return false;
            word += 2;
        }
        *out++ = (char)(unsigned char)code;
    }
    *out = 0;
    return true;
}

static cnn_tensor *cnn__line_fail(const cnn__file *f, int line, const char *what, const char *word)
{
    cnn__file_fail(f, "cnn.graph, line %d: %s%s%.60s%s", line, what, word ? " \"" : "", word ? word : "",
                   word ? "\"" : "");
    return cnn__nil_tensor();
}

/* "kernel=5" into the option struct of the operation, once. seen: bit i for its option i. */
static bool cnn__read_option(const cnn_op *op, char *args, const char *word, uint64_t *seen)
{
    const char *value = strchr(word, '=');
    if (!value) return false;
    size_t n = (size_t)(value++ - word);
    const cnn_field *k = op->fields;
    while (k && k->name && (strlen(k->name) != n || memcmp(k->name, word, n) != 0)) k++;
    if (!k || !k->name) return false;
    const uint64_t bit = (uint64_t)1 << ((k - op->fields) & 63);
    if (*seen & bit) return false;
    *seen |= bit;
    uint64_t    size = 0;
    uint32_t    bits = 0;
    const bool  minus = k->type == 'i' && *value == '-';
    const char *end = k->type == 'i' ? cnn__read_whole(value + minus, INT_MAX, &size)
                    : k->type == 'u' ? cnn__read_whole(value, UINT_MAX, &size)
                    : *value == 'x' && cnn__read_hex(value + 1, 8, &bits) ? value + 9 : NULL;
    cnn__set_option(k, args, k->type == 'f' ? (double)cnn__float_of_bits(bits)
                             : minus ? -(double)size : (double)size);
    return end && !*end && (bits & 0x7fffffff) <= 0x7f800000;      /* no NaN; but clamp to an Inf */
}

static const cnn_op *cnn__find_op(const cnn_load_args *a, const char *name)
{
    int n;
    for (int i = 0; a->ops && i < a->n_ops; i++)
        if (strcmp(a->ops[i]->name, name) == 0) return a->ops[i];
    const cnn_op *const *ops = cnn_ops(&n);
    for (int i = 0; i < n; i++)
        if (strcmp(ops[i]->name, name) == 0) return ops[i];
    return NULL;
}

/* Flags behind a node. */
static bool cnn__read_flag(cnn_tensor *t, const char *word)
{
    if      (strcmp(word, "frozen") == 0 && cnn__is_learned(t))   t->frozen = true;
    else if (strcmp(word, "grad") == 0 && t->kind == CNN_INPUT)   cnn__of(t)->wants_grad = true;
    else if (strcmp(word, "kept") == 0)                           t->kept = true;
    else return false;
    return true;
}

/* op NAME OPERATION OPERANDS OPTIONS... */
static cnn_tensor *cnn__read_op(const cnn__file *f, const cnn_load_args *a, const char *at,
                                cnn_tensor *const *node, int n, const char *name, char *rest)
{
    cnn_tensor *nil = cnn__nil_tensor(), *in[CNN_MAX_INPUTS];
    char       *type = cnn__word(&rest), *operands = cnn__word(&rest), *word;
    int         id[CNN_MAX_INPUTS], n_in = operands ? cnn__read_ints(operands, id, CNN_MAX_INPUTS) : -1;
    if (!type || !cnn__unescape(type) || n_in < 1)
        return cnn__line_fail(f, n + 2, "operation or operands missing", NULL);
    const cnn_op *op = cnn__find_op(a, type);
    if (!op)
        return cnn__line_fail(f, n + 2, "unknown operation (your own: hand it to cnn_load in .ops)", type);
    for (int i = 0; i < n_in; i++) {
        if (id[i] < 0 || id[i] >= n)
            return cnn__line_fail(f, n + 2, "operands that are no earlier lines", operands);
        in[i] = node[id[i]];
    }
    /* The option struct, and behind it the options as the text of a call's arguments: ".pad=1,.pad_h=0". */
    const size_t bytes = op->args_size + (rest ? 2 * strlen(rest) : 0) + 2;
    char *args = op->args_size ? CNN_MALLOC(bytes) : NULL, *said = args ? args + op->args_size : NULL;
    if (op->args_size && !args) return cnn__file_fail(f, "out of memory: %zu bytes", bytes), nil;
    if (args) memset(args, 0, bytes);
    if (args && op->fields) memcpy(args + sizeof said, &said, sizeof said);
    for (const char *c = rest; said && c && *c; c++) {
        if (c == rest || c[-1] == ' ') *said++ = '.';
        *said++ = (char)(*c == ' ' ? ',' : *c);
    }
    bool     kept = false;
    uint64_t seen = 0;
    while (!f->g->error[0] && (word = cnn__word(&rest)) != NULL)
        if (strcmp(word, "kept") == 0) kept = true;
        else if (!args || !cnn__read_option(op, args, word, &seen))
            cnn__line_fail(f, n + 2, "bad option", word);
    cnn_tensor *y = f->g->error[0] ? nil : cnn__record(op, in, n_in, args, at, name, false);
    CNN_FREE(args);
    if (!cnn__is_nil(y)) y->kept = kept;
    return y;
}

/* A constant takes its values where they are recorded: x3f80000040000000; NULL: of an older file, from the
   tensor of its name. */
static bool cnn__read_values(const cnn__file *f, cnn_tensor *t, const char *word)
{
    const size_t      n = cnn__checked_len(t->shape);
    const cnn__entry *e = word ? NULL : cnn__find_entry(f, "", t->name, t->shape);
    if (word ? strlen(word) != 1 + 8 * n : !e) return false;
    float *values = cnn__alloc(f->g, n * sizeof *values);
    for (size_t i = 0; values && i < n; i++) {
        uint32_t bits = 0;
        if (word && !cnn__read_hex(word + 1 + 8 * i, 8, &bits)) return false;
        values[i] = word ? cnn__float_of_bits(bits) : (float)cnn__element(f, e, i);
    }
    cnn__of(t)->values = values;
    return values != NULL;
}

/* KIND NAME EXTENTS FLAGS... */
static cnn_tensor *cnn__read_leaf(const cnn__file *f, cnn_kind kind, const char *at, int line,
                                  const char *name, char *rest)
{
    cnn_tensor *nil = cnn__nil_tensor();
    char       *word = cnn__word(&rest);
    int         s[4] = { 0 }, batched = kind == CNN_INPUT || kind == CNN_LABELS;
    if (!word || cnn__read_ints(word, s + batched, 4 - batched) != 4 - batched)
        return cnn__line_fail(f, line, "bad extents", word);
    cnn_shape shape = { s[0], s[1], s[2], s[3] };
    if (!batched && kind != CNN_CONST && !cnn__find_entry(f, "", name, shape)) return nil;
    cnn_tensor *t = cnn__leaf(f->g, kind, at, name, shape);
    if (cnn__is_nil(t)) return nil;
    cnn__of(t)->init = CNN_INIT_CONSTANT;                   /* its values come from the file */
    if (kind == CNN_CONST && !cnn__read_values(f, t, rest && *rest == 'x' ? cnn__word(&rest) : NULL))
        return cnn__line_fail(f, line, "bad values", NULL);
    while ((word = cnn__word(&rest)) != NULL)
        if (!cnn__read_flag(t, word)) return cnn__line_fail(f, line, "bad word", word);
    return t;
}

/* conv1.weight belongs to its operation conv1, as when it was recorded. */
static void cnn__own_operands(cnn_tensor *y)
{
    size_t n = strlen(y->name);
    for (int i = 0; i < y->n_in; i++) {
        cnn__node *x = cnn__of(y->in[i]);
        if (cnn__is_learned(&x->t) && strncmp(x->t.name, y->name, n) == 0 && x->t.name[n] == '.')
            x->owner = cnn__of(y), x->suffix = x->t.name + n + 1;
    }
}

/* The nodes of one line after another, until the root, which is returned. node has room for one a line. */
static cnn_tensor *cnn__read_nodes(const cnn__file *f, const cnn_load_args *a, cnn_tensor **node)
{
    cnn_tensor *nil = cnn__nil_tensor();
    const char *at = cnn__copy_string(f->g, f->path ? cnn__path_end(f->path) : "model");
    char       *text = f->graph;
    for (int n = -1; at; n++) {                                      /* the first line is no node */
        char *line = text, *end = strchr(line, '\n');
        if (!end) return cnn__line_fail(f, n + 2, *line ? "it is cut off" : "the root is missing", NULL);
        *end = 0, text = end + 1;
        if (n < 0 && strcmp(line, "cnn 1") != 0)
            return cnn__file_fail(f, "cnn.graph has version \"%.20s\", not \"cnn 1\"", line), nil;
        if (n < 0) continue;
        char *kind = cnn__word(&line), *name = cnn__word(&line);
        int   k = 0, root;
        if (!kind || !name) return cnn__line_fail(f, n + 2, "kind and name expected", NULL);
        if (strcmp(kind, "root") == 0) {
            bool good = !line && !*text && cnn__read_ints(name, &root, 1) == 1 && root >= 0 && root < n;
            return good ? node[root] : cnn__line_fail(f, n + 2, "bad root", name);
        }
        while (k <= CNN_BUFFER && strcmp(kind, cnn__kind_names[k]) != 0) k++;
        if (k > CNN_BUFFER)          return cnn__line_fail(f, n + 2, "unknown kind", kind);
        if (n >= CNN__MOST_NODES)    return cnn__line_fail(f, n + 2, "too many nodes", NULL);
        if (!cnn__unescape(name))    return cnn__line_fail(f, n + 2, "bad name", name);
        node[n] = k == CNN_NODE ? cnn__read_op(f, a, at, node, n, name, line)
                                : cnn__read_leaf(f, (cnn_kind)k, at, n + 2, name, line);
        if (cnn__is_nil(node[n])) return nil;
        cnn__own_operands(node[n]);
    }
    return nil;
}

/* ---- The state of a training, beside the weights ---- */

/* Call use with each array of the state. average, best: as cnn__copy_trained lays them out, or NULL. */
typedef bool cnn__use_vector(void *user, const char *prefix, const cnn_tensor *t, float *values);
static bool cnn__each_state(cnn_graph *g, int slots, float *average, float *best, cnn__use_vector *use,
                            void *user)
{
    static const char *const slot[CNN_MAX_SLOTS] = { "cnn.slot0.", "cnn.slot1.", "cnn.slot2." };
    float *vectors = g->arena[CNN_ARENA_OPTIMIZER];
    for (int i = 0; i < g->n_order; i++) {
        const cnn_tensor *t = &g->order[i]->t;
        if (!cnn__trains(t)) continue;
        for (int s = 0; s < slots && t->kind == CNN_PARAM; s++)
            if (!use(user, slot[s], t, vectors + (size_t)s * g->n_trained + t->grad_at)) return false;
        if (average && !use(user, "cnn.average.", t, average + cnn__store_at(t))) return false;
        if (best && !use(user, "cnn.best.", t, best + cnn__store_at(t))) return false;
    }
    return true;
}

static bool cnn__check_vector(void *user, const char *prefix, const cnn_tensor *t, float *values)
{
    (void)values;
    return cnn__find_entry(user, prefix, t->name, t->shape) != NULL;
}
static bool cnn__fill_vector(void *user, const char *prefix, const cnn_tensor *t, float *values)
{
    const cnn__file  *f = user;
    const cnn__entry *e = cnn__lookup(f, prefix, t->name);
    for (size_t k = 0; e && k < e->count; k++) values[k] = (float)cnn__element(f, e, k);
    return e != NULL;
}

static bool cnn__has_prefix(const cnn__file *f, const char *prefix)
{
    for (int i = 0; i < f->g->n_order; i++) {
        const cnn_tensor *t = &f->g->order[i]->t;
        if (cnn__trains(t)) return cnn__lookup(f, prefix, t->name) != NULL;
    }
    return false;
}

/* The parameters' counts of updates, checked, or taken too. */
static bool cnn__read_steps(const cnn__file *f, bool same, bool take)
{
    for (int i = 0; i < f->g->n_order; i++) {
        cnn__node *v = f->g->order[i];
        if (!cnn__is_trained(&v->t)) continue;
        const cnn__entry *e = same ? cnn__lookup(f, "cnn.steps.", v->t.name) : NULL;
        if (same && (!e || e->dtype != CNN__I64 || e->count != 1 ||
                     cnn__le64(f->data + e->begin) > f->number[CNN__STEP]))
            return cnn__file_fail(f, "there is no count \"cnn.steps.%.60s\" of at most cnn.step", v->t.name);
        if (take) v->steps = e ? (long)cnn__le64(f->data + e->begin) : 0;
    }
    return true;
}

/* Take weights and state, all or nothing. best: NULL, or where to put the best weights. Without vectors in
   the file, or with those of another optimizer, the graph's starts from zero. */
static bool cnn__fill_state(cnn__file *f, float *best)
{
    cnn_graph  *g = f->g;
    const cnn_optimizer *o = g->config.optimizer;
    float      *average = NULL;
    const bool  same = !g->config.inference && (f->has >> CNN__SLOTS & 1) && f->optimizer &&
                       strcmp(f->optimizer, o->name) == 0;
    const int   slots = same ? (int)f->number[CNN__SLOTS] : 0;
    if (slots && slots != o->slots)
        return cnn__file_fail(f, "it has %d vectors of the optimizer %.40s, which keeps %d", slots, o->name,
                              o->slots);
    if (!g->config.inference && cnn__has_prefix(f, "cnn.average.")) {
        average = g->average ? g->average : cnn__alloc(g, cnn__trained_floats(g) * sizeof *average);
        if (!average) return false;
    }
    if (!cnn__check_weights(f, NULL) || !cnn__read_steps(f, same, false)) return false;
    if (!cnn__each_state(g, slots, average, best, cnn__check_vector, f)) return false;
    g->step = (long)f->number[CNN__STEP], g->draw = (uint32_t)f->number[CNN__DRAW];
    if (!cnn__fill_weights(f) || !cnn__read_steps(f, same, true)) return false;
    if (g->arena_bytes[CNN_ARENA_OPTIMIZER])
        memset(g->arena[CNN_ARENA_OPTIMIZER], 0, g->arena_bytes[CNN_ARENA_OPTIMIZER]);
    g->optimizer_on = slots ? CNN__HOST : 0;
    g->average = average, g->average_on = CNN__HOST;
    return cnn__each_state(g, slots, average, best, cnn__fill_vector, f);
}

/* If the program names no optimizer, the one in the file continues. */
static bool cnn__choose_optimizer(const cnn__file *f, const cnn_load_args *a)
{
    int n;
    const cnn_optimizer *const *known = cnn_optimizers(&n);
    if (!f->optimizer || a->optimizer || f->g->config.inference) return true;
    for (int i = 0; i < n; i++)
        if (strcmp(known[i]->name, f->optimizer) == 0) return f->g->config.optimizer = known[i], true;
    return !(f->has >> CNN__SLOTS & 1) ||              /* a plain file may start with another one */
           cnn__file_fail(f, "it was trained by the optimizer \"%.40s\": hand it to cnn_load in .optimizer",
                          f->optimizer);
}

/* ---- Writing: the header ---- */

typedef struct { char *s; size_t n, capacity; cnn_graph *g; } cnn__string;       /* g has its errors */

static void cnn__put(cnn__string *to, const char *s, size_t n)
{
    if (to->g->error[0]) return;
    if (n >= to->capacity - to->n) {
        size_t capacity = cnn__add_size(cnn__mul_size(to->capacity, 2), cnn__add_size(n, 1024));
        char  *more = capacity == SIZE_MAX ? NULL : CNN_REALLOC(to->s, capacity);
        if (!more) {
            cnn__no_memory(to->g, NULL, "save", capacity);
            return;
        }
        to->s = more, to->capacity = capacity;
    }
    memcpy(to->s + to->n, s, n);
    to->n += n;
}

CNN__PRINTF(2, 3)
static void cnn__putf(cnn__string *to, const char *format, ...)     /* at most 127 characters */
{
    char    text[128];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    cnn__put(to, text, strlen(text));
}

/* A word of cnn.graph: all but plain characters become %41. */
static void cnn__put_word(cnn__string *to, const char *s)
{
    if (!*s) cnn__put(to, "%", 1);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c > ' ' && c < 127 && !strchr("\"\\%=", c)) cnn__put(to, s, 1);
        else cnn__putf(to, "%%%02X", (unsigned)c);
    }
}

static void cnn__put_json(cnn__string *to, const char *s)               /* without the quotes */
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '\n')                   cnn__put(to, "\\n", 2);
        else if (c < 0x20)               cnn__putf(to, "\\u%04X", (unsigned)c);
        else if (c == '"' || c == '\\')  cnn__putf(to, "\\%c", *s);
        else                             cnn__put(to, s, 1);
    }
}

static void cnn__put_options(cnn__string *to, const cnn_tensor *y)
{
    for (const cnn_field *k = y->args ? y->op->fields : NULL; k && k->name; k++) {
        const double value = cnn__option(k, y->args);
        if (cnn__is_default(y, k)) continue;
        if (k->type == 'f')
            cnn__putf(to, " %s=x%08lx", k->name, (unsigned long)cnn__bits_of_float((float)value));
        else cnn__putf(to, " %s=%.0f", k->name, value);
    }
}

static void cnn__put_values(cnn__string *to, cnn_tensor *t)
{
    const float *v = cnn_map_read(t);
    cnn__put(to, " x", 2);
    for (int i = 0; v && i < cnn__len(t->shape) && !to->g->error[0]; i++)
        cnn__putf(to, "%08lx", (unsigned long)cnn__bits_of_float(v[i]));
}
static void cnn__put_graph(cnn__string *to)
{
    const cnn_graph *g = to->g;
    cnn__putf(to, "cnn 1\n");
    for (int i = 0; i < g->n_order; i++) {
        const cnn_tensor *t = &g->order[i]->t;
        cnn__putf(to, "%s ", cnn__kind_names[t->kind]);
        cnn__put_word(to, t->name);
        if (t->op) {
            cnn__put(to, " ", 1);
            cnn__put_word(to, t->op->name);
            for (int k = 0; k < t->n_in; k++) cnn__putf(to, "%c%d", k ? ',' : ' ', t->in[k]->index);
            cnn__put_options(to, t);
        } else {
            cnn__put(to, " ", 1);
            if (!t->batched) cnn__putf(to, "%d,", t->shape.n);
            cnn__putf(to, "%d,%d,%d", t->shape.c, t->shape.h, t->shape.w);
        }
        if (t->kind == CNN_CONST) cnn__put_values(to, &g->order[i]->t);
        if (t->frozen)                  cnn__putf(to, " frozen");
        if (g->order[i]->wants_grad)    cnn__putf(to, " grad");
        if (t->kept)                    cnn__putf(to, " kept");
        cnn__put(to, "\n", 1);
    }
    cnn__putf(to, "root %d\n", g->loss->index);
}

/* The dimensions of a tensor in the file: their extents, and how many. As PyTorch: those that the row of its
   owner says, except that a vector stays one: four for the weight of a convolution, two for that of a dense
   layer, (C,H,W) for layer norm's. Else down to the last extent that is not 1; one for a vector. */
static int cnn__file_extents(const cnn_tensor *t, int extent[4])
{
    const int full[4] = { t->shape.n, t->shape.c, t->shape.h, t->shape.w };
    unsigned  axes = cnn__of(t)->axes;
    int       n = 0, above_one = 0;
    if (!axes || (!(axes & CNN_N) && cnn__plane(t->shape) == 1)) {
        for (int i = 0; i < 4; i++)
            if (full[i] > 1) axes = (2u << i) - 1, above_one++;
        if (above_one < 2) return extent[0] = cnn__len(t->shape), 1;
    }
    for (int i = 0; i < 4; i++)
        if (axes >> i & 1) extent[n++] = full[i];
    return n;
}
static cnn__text cnn__file_shape(const cnn_tensor *t)
{
    cnn__text text;
    int n = 0, extent[4], rank = cnn__file_extents(t, extent);
    for (int k = 0; k < rank; k++)
        n += cnn__format(text.s + n, sizeof text.s - (size_t)n, "%c%d", k ? ',' : '[', extent[k]);
    cnn__format(text.s + n, sizeof text.s - (size_t)n, "]");
    return text;
}

/* The dimensions of each tensor by the row of its owner: the first in the order of execution. */
static void cnn__find_axes(cnn_graph *g)
{
    for (int i = 0; i < g->n_order; i++) g->order[i]->axes = 0;
    for (int i = 0; i < g->n_order; i++) {
        const cnn_tensor *y = &g->order[i]->t;
        for (const cnn_owned *own = y->op ? y->op->owned : NULL; own && own->suffix; own++) {
            cnn_tensor *t = cnn__owned(y, own);
            int         one_d = 0;
            unsigned    axes = own->axes;
            if (own->axes_at) memcpy(&axes, (const char *)y->args + own->axes_at, sizeof axes);
            if (own->one_d) memcpy(&one_d, (const char *)y->args + own->one_d, sizeof one_d);
            if (t && !cnn__of(t)->axes) cnn__of(t)->axes = axes & (one_d ? ~(unsigned)CNN_H : ~0u);
        }
    }
}

/* ---- Writing: twice over the same tensors, first for the header, then for the data ---- */

typedef bool (*cnn__sink)(void *to, const void *bytes, size_t n);
typedef struct {
    const cnn__file *f;                        /* for messages */
    bool             state;                    /* a checkpoint */
    cnn__run        *run;                      /* of cnn_fit, or NULL */
    cnn__string      header;
    size_t           bytes;                    /* of data so far */
    cnn__sink        sink;                     /* NULL in the first pass */
    void            *to;
} cnn__writer;

/* An entry of the header, or count numbers of four or eight bytes, lowest byte first in the file. */
static bool cnn__put_tensor(cnn__writer *w, int dtype, const char *prefix, const char *name,
                            const char *shape, const void *values, size_t count)
{
    enum { PIECE = 4096 };
    unsigned char piece[PIECE];
    const size_t  width = cnn__dtypes[dtype].bits / 8;
    if (!w->sink) {
        const size_t end = cnn__add_size(w->bytes, cnn__mul_size(count, width));
        cnn__put(&w->header, ",\"", 2);
        cnn__put_json(&w->header, prefix);
        cnn__put_json(&w->header, name);
        cnn__putf(&w->header, "\":{\"dtype\":\"%s\",\"shape\":", cnn__dtypes[dtype].name);
        cnn__put(&w->header, shape, strlen(shape));
        cnn__putf(&w->header, ",\"data_offsets\":[%zu,%zu]}", w->bytes, end);
        w->bytes = end;
        return !w->f->g->error[0];
    }
    const unsigned char *from = values;
    bool good = true;
    for (size_t k = 0; k < count && good; ) {
        size_t n = 0;
        for (; k < count && n < PIECE; k++, n += width, from += width) {
            uint64_t v8;
            uint32_t v4;
            if (width == 8) memcpy(&v8, from, 8);
            else            memcpy(&v4, from, 4), v8 = v4;
            cnn__put_le(piece + n, v8, (int)width);
        }
        good = w->sink(w->to, piece, n);
    }
    return good;
}

static bool cnn__put_vector(void *user, const char *prefix, const cnn_tensor *t, float *values)
{
    cnn_tensor *same = cnn__find_name(t->graph, prefix, t->name);
    if (same && cnn__is_learned(same)) return cnn_fail(same, "a checkpoint has another tensor of this name");
    return cnn__put_tensor(user, CNN__F32, prefix, t->name, cnn__file_shape(t).s, values, cnn_count(t));
}

/* How many vectors of the optimizer are written: none while they are all zero. */
static int cnn__slots_of(const cnn_graph *g)
{
    const float *v = g->arena[CNN_ARENA_OPTIMIZER];
    const size_t n = g->config.inference ? 0 : g->arena_bytes[CNN_ARENA_OPTIMIZER] / sizeof *v;
    size_t i = 0;
    while (i < n && cnn__bits_of_float(v[i]) == 0) i++;
    return i < n ? g->config.optimizer->slots : 0;
}

/* The numbers of a training: its sums, and those of each epoch of its history. */
enum { CNN__FIT_SUMS = 6, CNN__EPOCH_NUMBERS = sizeof(cnn_epoch) / sizeof(double) };

static bool cnn__put_fit(cnn__writer *w)
{
    const cnn__run    *r = w->run;
    const cnn_history *h = r->a.history;
    const double       sums[CNN__FIT_SUMS] = { r->at.sum, r->at.best_loss, r->sums.right, r->sums.judged,
                                               r->sums.n, r->sums.absolute };
    const int          epochs = h ? h->count - r->history_from : 0, numbers = (int)CNN__EPOCH_NUMBERS;
    const int          updates = h ? h->updates - r->updates_from : 0;
    const size_t       spreads = r->sums.channel ? 3 * (size_t)r->to.logits->shape.c : 0;
    cnn__text          shape, spread, pairs;
    cnn__format(pairs.s, sizeof pairs.s, "[%d,2]", updates);
    cnn__format(shape.s, sizeof shape.s, "[%d,%d]", epochs, numbers);
    cnn__format(spread.s, sizeof spread.s, "[%zu]", spreads);
    return cnn__put_tensor(w, CNN__F64, "cnn.", "fit", "[6]", sums, CNN__FIT_SUMS) &&
           cnn__put_tensor(w, CNN__F64, "cnn.", "errors", spread.s, r->sums.channel, spreads) &&
           cnn__put_tensor(w, CNN__F64, "cnn.", "updates", pairs.s,
                           updates ? h->update + r->updates_from : NULL, 2 * (size_t)updates) &&
           cnn__put_tensor(w, CNN__F64, "cnn.", "history", shape.s,
                           epochs ? h->epoch + r->history_from : NULL, CNN__EPOCH_NUMBERS * (size_t)epochs);
}

/* The tensors stand in the order of their elements' widths, so that each lies at a multiple of it. */
static bool cnn__put_tensors(cnn__writer *w)
{
    cnn_graph *g = w->f->g;
    bool       good = true;
    for (int i = 0; i < g->n_order && good; i++) {
        const cnn_tensor *y = &g->order[i]->t;
        const bool        counts = cnn__has_count(y);
        const uint64_t    count = counts ? g->order[i]->batches + cnn__counted(y) : 0;
        good = !counts ||
               cnn__put_tensor(w, CNN__I64, y->name, cnn__count_suffix, "[]", &count, 1);
    }
    for (int i = 0; i < g->n_order && good && w->state; i++) {
        const uint64_t steps = (uint64_t)g->order[i]->steps;
        good = !cnn__is_trained(&g->order[i]->t) ||
               cnn__put_tensor(w, CNN__I64, "cnn.steps.", g->order[i]->t.name, "[]", &steps, 1);
    }
    good = good && (!w->run || cnn__put_fit(w));
    for (int i = 0; i < g->n_order && good; i++) {
        cnn_tensor *t = &g->order[i]->t;
        if (!cnn__is_learned(t)) continue;
        const float *v = w->sink ? cnn_map_read(t) : NULL;
        good = (v || !w->sink) &&
               cnn__put_tensor(w, CNN__F32, "", t->name, cnn__file_shape(t).s, v, cnn_count(t));
    }
    return good && (!w->state ||
           cnn__each_state(g, cnn__slots_of(g), g->config.inference ? NULL : g->average,
                           w->run && w->run->at.best_epoch ? w->run->best : NULL, cnn__put_vector, w));
}

static void cnn__numbers_of_run(const cnn__run *run, uint64_t number[CNN__NUMBERS])
{
    number[CNN__MAX_BATCH] = (uint64_t)run->g->config.max_batch;
    number[CNN__SAMPLES] = (uint64_t)run->samples;
    number[CNN__ACCUMULATE] = (uint64_t)run->per_update;
    number[CNN__EPOCHS] = (uint64_t)run->epochs;
    number[CNN__DONE] = run->at.epochs, number[CNN__FED] = run->at.fed,
        number[CNN__UPDATES] = run->at.updates;
    number[CNN__BEST_EPOCH] = run->at.best_epoch, number[CNN__EPOCH_STEP] = run->at.epoch_step;
}
static void cnn__put_numbers(cnn__writer *w)
{
    const cnn_graph *g = w->f->g;
    const cnn__run  *r = w->run;
    uint64_t number[CNN__NUMBERS] = { g->config.seed, (uint64_t)g->step, g->draw };
    number[CNN__SLOTS] = w->state ? (uint64_t)cnn__slots_of(g) : 0;
    if (r) cnn__numbers_of_run(r, number);
    for (int k = 0; k < (r ? CNN__NUMBERS : w->state ? CNN__MAX_BATCH : CNN__SLOTS); k++)
        cnn__putf(&w->header, ",\"%s\":\"%llu\"", cnn__numbers[k].key, (unsigned long long)number[k]);
}

static void cnn__put_about(cnn__string *to)
{
    const struct cnn__about *a = cnn__about(to->g);
    if (!a) return;
    cnn__putf(to, ",\"cnn.data\":\"");
    for (int k = 0; k < 8; k++)
        cnn__putf(to, k ? " %08lx" : "%08lx",
                  (unsigned long)cnn__bits_of_float(k < 4 ? a->mean[k] : a->deviation[k - 4]));
    for (int k = 0; k < a->classes; k++) cnn__put(to, " ", 1), cnn__put_word(to, a->name[k]);
    cnn__putf(to, "\"");
}

static bool cnn__put_header(cnn__writer *w)
{
    cnn__string *to = &w->header, graph = { .g = to->g };
    cnn__put_graph(&graph);
    cnn__put(&graph, "", 1);
    cnn__putf(to, "{\"__metadata__\":{\"format\":\"pt\",\"cnn.version\":\"" CNN_VERSION "\",");
    cnn__putf(to, "\"cnn.graph\":\"");
    if (!to->g->error[0]) cnn__put_json(to, graph.s);
    CNN_FREE(graph.s);
    cnn__putf(to, "\",\"cnn.optimizer\":\"");
    cnn__put_json(to, to->g->config.optimizer->name);
    cnn__putf(to, "\"");
    cnn__put_about(to);
    cnn__put_numbers(w);
    cnn__putf(to, "}");
    const bool good = cnn__put_tensors(w);
    cnn__putf(to, "}");
    while (to->n % 8 && !to->g->error[0]) cnn__put(to, " ", 1);      /* the data begins at a multiple of 8 */
    return good && !to->g->error[0];
}

/* Returns the size of the file, 0 after an error; if the sink failed, the graph has no message yet. */
static size_t cnn__write_model(cnn__writer *w, cnn__sink sink, void *to)
{
    const cnn__file *f = w->f;
    cnn_graph       *g = w->header.g = f->g;
    unsigned char    length[8];
    if (!g->compiled) return cnn__file_fail(f, "call cnn_compile first"), 0;
    if (g->n_order > CNN__MOST_NODES)
        return cnn__file_fail(f, "%d nodes: at most %d can be read", g->n_order, (int)CNN__MOST_NODES), 0;
    if (w->state && (!cnn__sync_optimizer(g, CNN__HOST) || !cnn__sync_average(g, CNN__HOST))) return 0;
    cnn__find_axes(g);
    bool   good = cnn__put_header(w);
    size_t n = w->header.n, total = cnn__add_size(cnn__add_size(8, n), w->bytes);
    if (n > CNN__MOST_HEADER)
        cnn__file_fail(f, "the header would have %zu bytes, above the limit of %d", n, (int)CNN__MOST_HEADER);
    if (total == SIZE_MAX) cnn__file_fail(f, "the file would be larger than this machine can address");
    cnn__put_le(length, n, 8);
    w->sink = sink, w->to = to;
    good = good && !g->error[0] && sink(to, length, 8) && sink(to, w->header.s, n) && cnn__put_tensors(w);
    CNN_FREE(w->header.s);
    return good ? total : 0;
}

typedef struct { unsigned char *out; size_t at, capacity; } cnn__memory_sink;
static bool cnn__to_memory(void *to, const void *bytes, size_t n)
{
    cnn__memory_sink *m = to;
    size_t room = m->capacity - m->at, part = n < room ? n : room;
    if (part) memcpy(m->out + m->at, bytes, part);
    m->at += part;
    return true;
}

/* A save is not a run: an error of the graph does not prevent it, and a save that fails does not end a
   training. Its message becomes the graph's notice, not its error. */
typedef struct { char error[CNN_ERROR_SIZE]; } cnn__aside;
static cnn__aside cnn__begin_save(cnn_graph *g)
{
    cnn__aside before;
    memcpy(before.error, g->error, sizeof before.error);
    g->error[0] = 0;
    return before;
}
static bool cnn__saved(cnn_graph *g, const cnn__aside *before, bool good)
{
    memcpy(g->notice, g->error, sizeof g->notice);
    memcpy(g->error, before->error, sizeof g->error);
    return good;
}

static size_t cnn__save_memory(cnn_graph *g, const char *what, bool state, void *out, size_t capacity)
{
    if (!g) return 0;
    const cnn__file  f = cnn__file_of(g, NULL, what, NULL);
    const cnn__aside before = cnn__begin_save(g);
    cnn__writer      w = { .f = &f, .state = state };
    cnn__memory_sink m = { out, 0, out ? capacity : 0 };
    size_t bytes = cnn__write_model(&w, cnn__to_memory, &m);
    return cnn__saved(g, &before, bytes > 0), bytes;
}
CNN_API size_t cnn_save_memory(cnn_graph *g, void *out, size_t capacity)
{
    return cnn__save_memory(g, "save", false, out, capacity);
}
CNN_API size_t cnn_save_checkpoint_memory(cnn_graph *g, void *out, size_t capacity)
{
    return cnn__save_memory(g, "save_checkpoint", true, out, capacity);
}

/* ---- Loading a net ---- */

/* "cnn.data": means and deviations of the data, then the names of the classes. */
static bool cnn__read_about(cnn__file *f)
{
    cnn_dataset d = { 0 };
    char       *line = f->about, *word;
    uint32_t    bits[8];
    size_t      n = 1;
    if (!line) return true;
    for (const char *s = line; *s; s++) n += *s == ' ';
    const char **names = CNN_MALLOC(n * sizeof *names);
    if (!names) return cnn__file_fail(f, "out of memory: %zu bytes", n * sizeof *names);
    bool good = n >= 8;
    for (size_t k = 0; k < n && good; k++) {
        word = cnn__word(&line);
        good = word && (k < 8 ? cnn__read_hex(word, 8, &bits[k]) && !word[8] : cnn__unescape(word));
        if (k < 8) continue;
        names[k - 8] = word;
    }
    for (int k = 0; k < 4 && good; k++) {
        d.mean[k] = cnn__float_of_bits(bits[k]), d.deviation[k] = cnn__float_of_bits(bits[4 + k]);
        good = isfinite(d.mean[k]) && isfinite(d.deviation[k]) && d.deviation[k] > 0;
    }
    if (good) names[n - 8] = NULL, d.names = names;
    good = good ? cnn_remember(f->g, &d)
                : cnn__file_fail(f, "cnn.data: mean, deviation and classes expected");
    CNN_FREE(names);
    return good;
}

static bool cnn__load(cnn__file *f, const cnn_load_args *a)
{
    static const cnn_field seed = { .name = "seed" };
    cnn_graph *g = f->g;
    if (!f->graph)
        return cnn__file_fail(f, "it has weights but no \"cnn.graph\" in its metadata: build the net, then "
                                 "cnn_load_weights");
    size_t lines = 1;
    for (const char *s = f->graph; *s; s++) lines += *s == '\n';
    size_t       bytes = cnn__mul_size(lines, sizeof(cnn_tensor *));
    cnn_tensor **node = bytes == SIZE_MAX ? NULL : CNN_MALLOC(bytes);
    if (!node) return cnn__file_fail(f, "out of memory: %zu bytes", bytes);
    cnn_tensor *root = cnn__read_nodes(f, a, node);
    CNN_FREE(node);
    if (g->error[0]) return false;
    if (root->batched || cnn__len(root->shape) != 1) g->config.inference = 1;      /* not a loss */
    const bool given = a->seed || cnn__said(a->said, &seed);
    if (!given && f->has >> CNN__SEED & 1) g->config.seed = f->number[CNN__SEED];
    if (!cnn__choose_optimizer(f, a)) return false;
    const size_t plan = cnn_plan(g, root).total, most = a->max_bytes ? a->max_bytes
                      : cnn__mul_size(CNN__MOST_PLAN, (size_t)g->config.max_batch);
    if (!g->error[0] && plan > most)
        return cnn__file_fail(f, "the net takes %zu bytes, above the limit of %zu: .max_bytes", plan, most);
    return cnn_compile(g, root) && cnn__fill_state(f, NULL) && cnn__read_about(f);
}

/* A graph to load into, and f to load it from; false if there is none. */
static bool cnn__begin_load(cnn__file *f, cnn_load_args a)
{
    const cnn_config config = { .at = a.at, .max_batch = a.max_batch, .seed = a.seed, .threads = a.threads,
                                .isa = a.isa, .backend = a.backend, .optimizer = a.optimizer,
                                .exact = a.exact, .inference = a.inference, .keep_grads = a.keep_grads };
    *f = cnn__file_of(cnn_new_(config), a.at, "load", a.path);
    return f->g && !f->g->error[0];
}

CNN_API cnn_graph *cnn_load_memory(const void *file, size_t bytes, cnn_load_args a)
{
    cnn__file f;
    if (cnn__begin_load(&f, a) && cnn__open_file(&f, file, bytes)) cnn__load(&f, &a);
    return cnn__close_file(&f), f.g;
}

CNN_API cnn_tensor *cnn_loss(const cnn_graph *g) { return g && g->loss ? g->loss : cnn__nil_tensor(); }

/* Follow the first operands down to a loss: that works for a sum of losses and penalties, too. */
CNN_API cnn_tensor *cnn_output(const cnn_graph *g)
{
    for (cnn_tensor *t = cnn_loss(g); t->op; t = t->in[0])
        if (t->op->flags & CNN_LOSS) return t->in[0];
    return cnn_loss(g);
}

/* ---- Files. A save writes beside the old file and then takes its name, in one step of the file system: a
   process that is killed in between leaves the old file intact, and cnn-save-PROCESS-0.tmp, which a later
   save into the folder removes. ---- */

#ifndef CNN_NO_STDIO

static void *cnn__file_part(const cnn__file *f, FILE *file, size_t most, size_t *got)
{
    char  why[128];
    void *part = cnn__read_stream(file, most, got, why, sizeof why);
    if (!part) cnn__file_fail(f, "%s", why);
    return part;
}

/* What the header promises, and not more. */
static bool cnn__read_data(cnn__file *f, FILE *file)
{
    const size_t promised = f->bytes;
    f->data = f->own = cnn__file_part(f, file, promised, &f->bytes);
    if (!f->own) return false;
    if (f->bytes < promised)
        return cnn__file_fail(f, "truncated: its tensors have %zu bytes, and %zu are there", promised,
                              f->bytes);
    return fgetc(file) == EOF ||
           cnn__file_fail(f, "the data from byte %zu on belong to no tensor", promised);
}

/* As cnn__open_file. Of a file that is not a model, only the first bytes are read. */
static bool cnn__open_path(cnn__file *f)
{
    char   why[128];
    size_t got;
    FILE  *file = cnn__open_to_read(f->path, why, sizeof why);
    if (!file) return cnn__file_fail(f, "%s", why);
    void        *start = cnn__file_part(f, file, 8, &got);
    const size_t length = start ? cnn__header_length(f, start, got) : 0;
    char        *header = length ? cnn__file_part(f, file, length, &got) : NULL;
    f->bytes = SIZE_MAX;
    const bool good = cnn__check_header(f, header, length, got) && cnn__read_data(f, file);
    CNN_FREE(start);
    fclose(file);
    return good;
}

CNN_API cnn_graph *cnn_load_(cnn_load_args a)
{
    cnn__file f;
    if (cnn__begin_load(&f, a) && cnn__open_path(&f)) cnn__load(&f, &a);
    return cnn__close_file(&f), f.g;
}

CNN_API bool cnn_load_weights_(cnn_load_weights_args a)
{
    cnn__file f;
    return cnn__begin_load_weights(&f, &a) && cnn__load_weights(&f, cnn__open_path(&f), &a);
}

static bool cnn__to_file(void *to, const void *bytes, size_t n) { return fwrite(bytes, 1, n, to) == n; }

/* POSIX knows what C99 does not: processes, links, rights, devices, folders, and how to get bytes onto the
   disk before the name. Windows replaces a file only when asked to. */
#if defined(CNN__POSIX)
#include <fcntl.h>
int (fileno)(FILE *);
int (fsync)(int);
int (fchmod)(int, mode_t);
int (kill)(pid_t, int);
char *(realpath)(const char *, char *);
static const char cnn__slashes[] = "/";
static unsigned long cnn__process(const void *any) { return (void)any, (unsigned long)getpid(); }
static bool  cnn__flush(FILE *f) { return fflush(f) == 0 && (fsync(fileno(f)) == 0 || errno == EINVAL); }
static bool  cnn__replace(const char *from, const char *to) { return rename(from, to) == 0; }
#ifndef PATH_MAX
#define PATH_MAX 4096
#endif
static char *cnn__real_path(const char *path)           /* NULL: errno says why; ENOENT: a new file */
{
    char *real = CNN_MALLOC(PATH_MAX + 1);
    if (real && realpath(path, real)) return real;
    if (!real) errno = ENOMEM;
    CNN_FREE(real);
    return NULL;
}
static bool  cnn__is_special(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && !S_ISREG(s.st_mode);
}
static void cnn__keep_rights(FILE *file, const char *old)
{
    struct stat s;
    if (stat(old, &s) == 0 && fchmod(fileno(file), s.st_mode & 07777) != 0) { }    /* as good as it gets */
}

/* The new name onto the disk. And remove what killed processes left: files of our name that no process of
   this machine owns, and that none of another one, on a shared disk, has written to for a minute. */
static void cnn__tidy_folder(char *folder)
{
    int fd = open(folder, O_RDONLY);
    if (fd >= 0) fsync(fd), close(fd);
    DIR    *all = opendir(folder);
    size_t  n = strlen(folder);
    struct  dirent *one;
    while (all && (one = readdir(all)) != NULL) {
        unsigned long process;
        int           number, end = 0;
        struct stat   s;
        if (sscanf(one->d_name, "cnn-save-%lu-%d.tmp%n", &process, &number, &end) != 2 || !end ||
            one->d_name[end] || !(kill((pid_t)process, 0) != 0 && errno == ESRCH)) continue;
        cnn__format(folder + n, 64, "/%s", one->d_name);
        if (stat(folder, &s) == 0 && difftime(time(NULL), s.st_mtime) > 60) remove(folder);
        folder[n] = 0;
    }
    if (all) closedir(all);
}
#else
#ifdef _WIN32
__declspec(dllimport) int __stdcall MoveFileExA(const char *, const char *, unsigned long);
static bool  cnn__replace(const char *from, const char *to) { return MoveFileExA(from, to, 1) != 0; }
#else
static bool  cnn__replace(const char *from, const char *to) { return rename(from, to) == 0; }
#endif
static const char cnn__slashes[] = "/\\";
static unsigned long cnn__process(const void *any)
{
    uint32_t unique[4];
    cnn__philox(unique, (uint64_t)(uintptr_t)any, (uint64_t)time(NULL),
                (uint64_t)(1e6 * cnn__seconds()));
    return unique[0];
}
static bool  cnn__flush(FILE *f) { return fflush(f) == 0; }
static char *cnn__real_path(const char *path) { return (void)path, NULL; }
static bool  cnn__is_special(const char *path) { return (void)path, false; }
static void  cnn__keep_rights(FILE *file, const char *old) { (void)file, (void)old; }
static void  cnn__tidy_folder(char *folder) { (void)folder; }
#endif

static bool cnn__write_and_close(FILE *file, bool (*write)(FILE *, void *), void *what)
{
    errno = 0;
    bool good = write(file, what) && cnn__flush(file);
    int  reason = errno;
    if (fclose(file) != 0 && good) good = false, reason = errno;
    errno = reason;
    return good;
}

/* Write beside path and take its name. temporary: room for a name of its folder. */
static bool cnn__write_beside(const char *path, char *temporary, size_t room, bool (*write)(FILE *, void *),
                              void *what)
{
    FILE *file = NULL;
    int   folder = (int)strlen(path);                   /* letters up to the name of the file */
    while (folder && !strchr(cnn__slashes, path[folder - 1])) folder--;
    for (int k = 0; !file && k < 1000 && (k == 0 || errno == EEXIST); k++) {
        cnn__format(temporary, room, "%.*scnn-save-%lu-%d.tmp", folder, path, cnn__process(what), k);
        file = fopen(temporary, "wbx");                /* a file of its own, whoever else saves now */
    }
    if (!file) return false;
    cnn__keep_rights(file, path);
    const bool good = cnn__write_and_close(file, write, what) && cnn__replace(temporary, path);
    const int  reason = errno;
    if (!good) remove(temporary);
    cnn__format(temporary, room, "%.*s", folder ? folder : 1, folder ? path : ".");
    if (good) cnn__tidy_folder(temporary);
    errno = reason;
    return good;
}

CNN_API bool cnn_write_file(const char *path, bool (*write)(FILE *, void *), void *user)
{
    if (!path || !write) return errno = EINVAL, false;
    if (cnn__is_special(path)) {
        FILE *file = fopen(path, "wb");
        return file && cnn__write_and_close(file, write, user);
    }
    errno = 0;
    char *real = cnn__real_path(path);                  /* a link stays one */
    if (!real && errno == ENOMEM) return false;
    const size_t room = strlen(real ? real : path) + 400;
    char        *temporary = CNN_MALLOC(room);
    const bool   good = temporary && cnn__write_beside(real ? real : path, temporary, room, write, user);
    const int    reason = temporary ? errno : ENOMEM;
    CNN_FREE(temporary);
    CNN_FREE(real);
    errno = reason;
    return good;
}

static bool cnn__save_model(FILE *file, void *what)
{
    return cnn__write_model(what, cnn__to_file, file) != 0;
}
static bool cnn__save(cnn_graph *g, cnn__file f, bool state, cnn__run *run)
{
    if (!g) return false;
    const cnn__aside before = cnn__begin_save(g);
    cnn__writer w = { .f = &f, .state = state, .run = run };
    bool good = f.path && cnn_write_file(f.path, cnn__save_model, &w);
    if (!good) cnn__file_fail(&f, "%s", !f.path ? "no path was given" : errno == ENOMEM ? "out of memory"
                                        : errno ? strerror(errno) : "it cannot be written");
    return cnn__saved(g, &before, good);
}
CNN_API bool cnn_save(cnn_graph *g, const char *path)
{
    return cnn__save(g, cnn__file_of(g, NULL, "save", path), false, NULL);
}
CNN_API bool cnn_save_checkpoint(cnn_graph *g, const char *path)
{
    return cnn__save(g, cnn__file_of(g, NULL, "save_checkpoint", path), true, NULL);
}

/* ---- Checkpoints of cnn_fit ---- */

static bool cnn__save_run(cnn__run *run)
{
    if (run->g->error[0]) return false;
    run->since = 0;
    return cnn__save(run->g, cnn__file_of(run->g, run->a.at, "fit, checkpoint", run->a.checkpoint), true,
                     run);
}

/* Does the file belong to this training? Its net, optimizer, seed, batch, samples and accumulation. */
static bool cnn__check_run(const cnn__run *run, const cnn__file *f)
{
    uint64_t    is[CNN__NUMBERS] = { run->g->config.seed };
    cnn__string graph = { .g = run->g };
    if (!f->graph || !f->optimizer || f->has != (1u << CNN__NUMBERS) - 1)
        return cnn__file_fail(f, "it is not a checkpoint of cnn_fit");
    cnn__put_graph(&graph);
    cnn__put(&graph, "", 1);
    const bool same = !run->g->error[0] && strcmp(graph.s, f->graph) == 0;
    CNN_FREE(graph.s);
    if (!same) return cnn__file_fail(f, "it is of a training with another net");
    if (strcmp(f->optimizer, run->g->config.optimizer->name) != 0)
        return cnn__file_fail(f, "it is of a training with another optimizer");
    cnn__numbers_of_run(run, is);
    static const int compared[] = { CNN__SEED, CNN__MAX_BATCH, CNN__SAMPLES, CNN__ACCUMULATE };
    for (size_t k = 0; k < sizeof compared / sizeof *compared; k++) {
        const int i = compared[k];
        if (f->number[i] != is[i])
            return cnn__file_fail(f, "it is of a training with %s %llu, not %llu", cnn__numbers[i].key + 4,
                                  (unsigned long long)f->number[i], (unsigned long long)is[i]);
    }
    return true;
}

/* A tensor of count doubles (0: any number) in rows of `row`; NULL after an error. */
static const cnn__entry *cnn__find_doubles(const cnn__file *f, const char *name, size_t count, size_t row)
{
    const cnn__entry *e = cnn__lookup(f, "cnn.", name);
    if (e && e->dtype == CNN__F64 && e->count % row == 0 && (!count || e->count == count)) return e;
    return cnn__file_fail(f, "there is no tensor \"cnn.%s\" of a checkpoint", name), NULL;
}
/* Check everything before taking anything. */
static bool cnn__read_run(cnn__run *run, cnn__file *f)
{
    const uint64_t *n = f->number;
    if (!cnn__check_run(run, f)) return false;
    const size_t      numbers = CNN__EPOCH_NUMBERS;
    const size_t      spreads = run->sums.channel ? 3 * (size_t)run->to.logits->shape.c : 0;
    const cnn__entry *sums = cnn__find_doubles(f, "fit", CNN__FIT_SUMS, 1);
    const cnn__entry *errors = cnn__find_doubles(f, "errors", spreads, 1);
    const cnn__entry *history = cnn__find_doubles(f, "history", 0, numbers);
    const cnn__entry *updates = cnn__find_doubles(f, "updates", 0, 2);
    if (!sums || !errors || !history || !updates) return false;
    if (n[CNN__DONE] > n[CNN__EPOCHS] || n[CNN__FED] > n[CNN__SAMPLES] || n[CNN__BEST_EPOCH] > n[CNN__DONE] ||
        n[CNN__EPOCH_STEP] > n[CNN__STEP] || history->count / numbers > n[CNN__DONE])
        return cnn__file_fail(f, "its numbers contradict each other");
    if (n[CNN__DONE] > (uint64_t)run->epochs)
        return cnn__file_fail(f, "it has %d epochs already, and %d are asked for", (int)n[CNN__DONE],
                              run->epochs);
    if (n[CNN__BEST_EPOCH] && !run->best) return cnn__file_fail(f, "it is of a training with .patience");
    if (!cnn__fill_state(f, n[CNN__BEST_EPOCH] ? run->best : NULL)) return false;
    for (size_t i = 0; i < history->count && run->a.history; i += numbers) {
        double    v[CNN__EPOCH_NUMBERS];
        cnn_epoch e;
        for (size_t k = 0; k < numbers; k++) v[k] = cnn__element(f, history, i + k);
        memcpy(&e, v, sizeof e);
        if (!cnn__history_add(run->g, run->a.at, run->a.history, e)) return false;
    }
    for (size_t i = 0; i < updates->count && run->a.history; i += 2) {
        const cnn_update u = { cnn__element(f, updates, i), cnn__element(f, updates, i + 1) };
        if (!cnn__history_add_update(run->g, run->a.at, run->a.history, u)) return false;
    }
    run->at.epochs = n[CNN__DONE], run->at.fed = n[CNN__FED], run->at.updates = n[CNN__UPDATES];
    run->at.best_epoch = n[CNN__BEST_EPOCH], run->at.epoch_step = n[CNN__EPOCH_STEP];
    run->at.sum = cnn__element(f, sums, 0), run->at.best_loss = cnn__element(f, sums, 1);
    run->sums.right = cnn__element(f, sums, 2), run->sums.judged = cnn__element(f, sums, 3);
    run->sums.n = cnn__element(f, sums, 4), run->sums.absolute = cnn__element(f, sums, 5);
    for (size_t i = 0; i < spreads; i += 3)
        run->sums.channel[i / 3] = (cnn__moments){ cnn__element(f, errors, i), cnn__element(f, errors, i + 1),
                                                cnn__element(f, errors, i + 2) };
    if (!run->best || run->at.best_epoch || !isfinite(run->at.best_loss)) return true;
    run->at.best_epoch = run->at.epochs;           /* it was over, and goes on from the best weights */
    return cnn__copy_trained(run->g, run->best, CNN__SAVE, 0);
}

static bool cnn__resume_run(cnn__run *run)
{
    cnn__file f = cnn__file_of(run->g, run->a.at, "fit, resume", run->a.checkpoint);
    errno = 0;
    FILE *there = fopen(run->a.checkpoint, "rb");
    if (!there && errno == ENOENT) return true;                /* the first start */
    if (there) fclose(there);
    bool good = cnn__open_path(&f) && cnn__read_run(run, &f);
    cnn__close_file(&f);
    return good;
}

#endif

/* ===========================================================================================================
   >>inspect ---- 13. Inspection: counts, summary, Graphviz, profile, trace, doctor, pictures, gradient check
   ======================================================================================================== */

/* Node i of those that matter once the order is known, of all recorded before that; NULL behind the last. Of
   a net that could not be recorded, the last has no shape, and perhaps no operands: then there is none. */
static cnn__node *cnn__nth(const cnn_graph *g, int i)
{
    if (!g || (!g->planned && g->error[0]) || i >= (g->planned ? g->n_order : g->n_nodes)) return NULL;
    return g->planned ? g->order[i] : g->node[i];
}

static double cnn__node_macs(const cnn_tensor *y)              /* for one sample */
{
    return y->op && y->op->macs ? y->op->macs(y) / (y->batched ? y->shape.n : 1) : 0;
}

static size_t cnn__count_params(const cnn_graph *g, bool frozen_too)
{
    const cnn__node *v;
    size_t count = 0;
    for (int i = 0; (v = cnn__nth(g, i)) != NULL; i++)
        if (v->t.kind == CNN_PARAM && (frozen_too || !v->t.frozen)) count += (size_t)cnn__len(v->t.shape);
    return count;
}
CNN_API size_t cnn_param_count(const cnn_graph *g) { return cnn__count_params(g, true); }

CNN_API double cnn_multiply_adds(const cnn_graph *g)
{
    const cnn__node *v;
    double sum = 0;
    for (int i = 0; (v = cnn__nth(g, i)) != NULL; i++) sum += cnn__node_macs(&v->t);
    return sum;
}

#ifndef CNN_NO_STDIO
static cnn__text cnn__grouped(double whole)                    /* 61706 -> "61,706" */
{
    cnn__text r;
    char digits[32];
    int n = cnn__format(digits, sizeof digits, "%.0f", whole < 1e20 ? whole : 1e20), k = 0;
    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0) r.s[k++] = ',';
        r.s[k++] = digits[i];
    }
    r.s[k] = 0;
    return r;
}

/* The operation and those of its options that were said, and what is frozen of what it owns: "conv2d kernel=5
   pad=2", "batch_norm, frozen", "batch_norm, frozen running_mean running_var". */
typedef struct { char s[160]; } cnn__long_text;
static cnn__long_text cnn__op_text(const cnn_tensor *t)
{
    cnn__long_text r;
    const int room = (int)sizeof r.s;
    int all = t->frozen, frozen = t->frozen;
    int k = cnn__format(r.s, sizeof r.s, "%s", t->op ? t->op->name : cnn__kind_names[t->kind]);
    for (const cnn_field *f = t->op && t->args ? t->op->fields : NULL; f && f->name; f++) {
        if (k < 0 || k >= room) break;
        if (cnn__is_default(t, f)) continue;
        k += cnn__format(r.s + k, (size_t)(room - k), f->type == 'f' ? " %s=%g" : " %s=%.0f", f->name,
                         cnn__option(f, t->args));
    }
    for (int i = 0; i < t->n_in; i++)
        if (cnn__of(t->in[i])->owner == cnn__of(t)) all++, frozen += t->in[i]->frozen;
    if (frozen && k < room) k += cnn__format(r.s + k, (size_t)(room - k), ", frozen");
    for (int i = 0; i < t->n_in && frozen < all && k < room; i++)
        if (cnn__of(t->in[i])->owner == cnn__of(t) && t->in[i]->frozen)
            k += cnn__format(r.s + k, (size_t)(room - k), " %s", cnn__of(t->in[i])->suffix);
    return r;
}

/* A table. Without a file its columns grow to what is put into a line; then it is written. The first columns
   are flush left, and so is the last, which needs no width. */
enum { CNN__COLUMNS = 7 };
typedef struct { FILE *f; int left, width[CNN__COLUMNS]; } cnn__table;
static void cnn__put_line(cnn__table *table, const char *const cell[CNN__COLUMNS])
{
    for (int k = 0; k < CNN__COLUMNS; k++) {
        const int n = (int)strlen(cell[k]), last = k == CNN__COLUMNS - 1;
        if (!table->f && !last && table->width[k] < n) table->width[k] = n;
        if (table->f) fprintf(table->f, "%s%*s", k && !(last && !n) ? "  " : "",
                          k < table->left ? -table->width[k] : table->width[k], cell[k]);
    }
    if (table->f) fputc('\n', table->f);
}

/* Where a node runs: the device's name or "cpu", with the instruction set of the fast kernels, and what the
   rule of the convolutions picked for a whole batch: "cpu avx2, winograd 4x4". */
static cnn__text cnn__runs_on_text(const cnn_tensor *t)
{
    const cnn_graph *g = t->graph;
    const bool  there = cnn_on_device(t), yours = !there && cnn__of(t)->kernel;
    const bool  fast = !there && !yours && t->op && t->op->macs;
    const char *how = yours ? "by a row of yours" : fast && t->op->algorithm ? t->op->algorithm(t) : "";
    cnn__text   r = { "" };
    if (!t->op) return r;
    cnn__format(r.s, sizeof r.s, "%s%s%s%s%s", there ? g->config.backend->name : "cpu", fast ? " " : "",
                fast ? cnn__isa_name(g->cpu.isa) : "", *how ? ", " : "", how);
    return r;
}

/* A layer with its parameters and buffers, or a leaf of its own. */
static void cnn__put_node(cnn__table *table, const cnn__node *v)
{
    const cnn_tensor *t = &v->t;
    double    params = t->kind == CNN_PARAM ? cnn__len(t->shape) : 0, macs = cnn__node_macs(t);
    cnn_shape max = t->shape;
    max.n = v->max_n;
    for (int k = 0; k < t->n_in; k++)
        if (cnn__of(t->in[k])->owner == v && t->in[k]->kind == CNN_PARAM) params += cnn__len(t->in[k]->shape);
    const cnn__long_text op = cnn__op_text(t);
    const cnn__text shape = cnn__shape_text(t), runs_on = cnn__runs_on_text(t), param = cnn__grouped(params);
    const cnn__text mac = cnn__grouped(macs), bytes = cnn__grouped(4 * (double)cnn__checked_len(max));
    const char *const cell[CNN__COLUMNS] = { t->name, op.s, shape.s, params > 0 ? param.s : "",
                                             macs > 0 ? mac.s : "", bytes.s, runs_on.s };
    cnn__put_line(table, cell);
}

CNN_API void cnn_summary(cnn_graph *g, FILE *f)
{
    static const char *const head[CNN__COLUMNS] = { "layer", "operation", "output", "parameters",
                                                    "multiply-adds", "bytes", "runs on" };
    cnn__table table = { NULL, 3, { 0 } };
    if (!f) return;
    if (!g || g->error[0] || !g->planned) {
        const char *why = cnn_error(g);
        fprintf(f, "%s\n", why ? why : "the graph has no plan yet: call cnn_plan or cnn_compile first");
        return;
    }
    for (int pass = 0; pass < 2; pass++, table.f = f) {
        cnn__put_line(&table, head);
        for (int i = 0; i < g->n_order; i++)
            if (!g->order[i]->owner) cnn__put_node(&table, g->order[i]);
    }
    const size_t trained = cnn__count_params(g, false);
    fprintf(f, "\nparameters     %s", cnn__grouped((double)cnn_param_count(g)).s);
    if (trained != cnn_param_count(g))
        fprintf(f, ", of which %s are trained", cnn__grouped((double)trained).s);
    fprintf(f, "\nmultiply-adds  %s per sample\n", cnn__grouped(cnn_multiply_adds(g)).s);
    fprintf(f, "batch          up to %d; bytes are for a whole batch\n", g->config.max_batch);
    const cnn_memory *m = &g->memory;
    const struct { const char *name; size_t bytes; } part[] = {
        { "parameters", m->params }, { "gradients", m->grads }, { "optimizer", m->optimizer },
        { "buffers", m->buffers }, { "inputs", m->inputs }, { "activations", m->activations },
        { "packed", m->packed }, { "scratch", m->scratch } };
    cnn__text total = cnn__grouped((double)m->total);
    int width = (int)strlen(total.s);
    fprintf(f, "memory         %s bytes (%.1f MiB)\n", total.s, (double)m->total / 1048576.0);
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        fprintf(f, "  %-13s%*s", part[i].name, width, cnn__grouped((double)part[i].bytes).s);
        fprintf(f, i == 5 ? "  (evaluation alone: %s)\n" : "\n", cnn__grouped((double)m->activations_eval).s);
    }
    const cnn_backend *device = g->config.backend;
    if (!device) return;
    cnn_traffic c = cnn_copies(g);
    fprintf(f, "backend        %s; %ld of the operations fall back to the cpu\n", device->name, c.host_nodes);
    if (g->step > 0)
        fprintf(f, "copies         %.1f up and %.1f down per step, over %ld steps\n",
                (double)c.uploads / (double)g->step, (double)c.downloads / (double)g->step, g->step);
}

static void cnn__dot_text(FILE *f, const char *s)              /* inside a quoted label */
{
    for (; s && *s; s++) {
        if (*s == '"' || *s == '\\') fputc('\\', f);
        fputc(*s, f);
    }
}

/* Layers as boxes, leaves as ellipses. A layer's own parameters are part of its box; one that it borrows from
   another layer is a dashed edge from there. */
CNN_API void cnn_dot(cnn_graph *g, FILE *f)
{
    if (!f) return;
    fprintf(f, "digraph cnn {\n    rankdir=TB;\n    node [shape=box, style=\"rounded,filled\", "
               "fillcolor=\"#eef3fa\", fontname=\"sans-serif\", fontsize=11];\n"
               "    edge [color=\"#555555\"];\n");
    for (int i = 0; g && g->planned && i < g->n_order; i++) {
        cnn__node  *v = g->order[i];
        cnn_tensor *t = &v->t;
        if (v->owner) continue;
        fprintf(f, "    n%d [label=\"", t->index);
        cnn__dot_text(f, t->name);
        fprintf(f, "\\n");
        cnn__dot_text(f, cnn__op_text(t).s);
        fprintf(f, "\\n%s\"%s];\n", cnn__shape_text(t).s, t == g->loss ? ", fillcolor=\"#fbe3e0\""
                : t->op ? "" : ", shape=ellipse, fillcolor=\"#f6f1e1\"");
        for (int k = 0; k < t->n_in; k++) {
            cnn__node *x = cnn__of(t->in[k]);
            if (x->owner == v) continue;
            fprintf(f, "    n%d -> n%d%s;\n", (x->owner ? x->owner : x)->t.index, t->index,
                    x->owner ? " [style=dashed]" : "");
        }
    }
    fprintf(f, "}\n");
}
#endif /* CNN_NO_STDIO */

/* ---- Visits: run the batch that the inputs hold once more, and leave no trace but gradients ----

   Dropout draws what it drew, since the count of runs is set back, and what training changes (batch norm's
   running statistics) is put back at the end. */

typedef struct {
    cnn_tensor *loss;
    double      value;                                 /* the loss */
    float      *state;                                 /* what training changes; inference changes nothing */
    uint32_t    draw;
    cnn__probe *before;
} cnn__visit;

/* loss: the compiled loss of a graph for training, or, unless `trains`, a tensor of one for inference. */
static bool cnn__begin_visit(cnn__visit *v, cnn_tensor *loss, const char *what, bool trains,
                             cnn__probe *probe)
{
    if (cnn__is_nil(loss) || loss->graph->error[0]) return false;
    cnn_graph *g = loss->graph;
    const bool infers = g->config.inference != 0;
    if (!g->compiled || (infers ? trains : loss != g->loss))
        return cnn_fail(loss, "%s: it must be the compiled loss of a graph for training%s", what,
                        trains ? "" : ", or a tensor of a compiled graph for inference");
    const size_t bytes = infers ? 0 : (cnn__trained_floats(g) + 1) * sizeof(float);
    *v = (cnn__visit){ loss, NAN, infers ? NULL : CNN_MALLOC(bytes), g->draw, g->probe };
    if (!infers && !v->state) return cnn__no_memory(g, loss->at, what, bytes);
    if (v->state) cnn__copy_trained(g, v->state, CNN__SAVE, 0);
    g->probe = probe;
    return true;
}

static void cnn__end_visit(cnn__visit *v)
{
    cnn_graph *g = v->loss->graph;
    const cnn__aside error = cnn__begin_save(g);            /* after an error, too */
    if (v->state) cnn__copy_trained(g, v->state, CNN__RESTORE, 0);
    if (error.error[0]) memcpy(g->error, error.error, sizeof g->error);
    g->draw = v->draw, g->can_backward = false, g->probe = v->before;
    CNN_FREE(v->state);
}

/* Forward, and backward where there is one. */
static bool cnn__visit_once(cnn__visit *v)
{
    cnn_graph *g = v->loss->graph;
    g->draw = v->draw;
    v->value = (double)cnn_forward(v->loss, g->config.inference ? CNN_EVAL : CNN_TRAIN);
    if (!g->config.inference) cnn_backward(v->loss);
    return !g->error[0];
}

/* ---- Statistics ---- */

CNN_API cnn_stats cnn_stats_of(const float *x, size_t n)
{
    cnn_stats s = { 0, 0, 0, 0, 0, 0, 0, 0 };
    double squares = 0;
    s.count = x ? n : 0;
    for (size_t i = 0, k = 0; i < s.count; i++) {
        const double v = (double)x[i];
        if (isnan(x[i]))      s.nans++;
        else if (isinf(x[i])) s.infs++;
        else {                                             /* the running mean of Welford (1962) */
            const double off = v - s.mean;
            s.mean  += off / (double)++k;
            squares += off * (v - s.mean);
            s.min = k == 1 || v < s.min ? v : s.min;
            s.max = k == 1 || v > s.max ? v : s.max;
            s.zeros += v == 0;
        }
    }
    const size_t finite = s.count - s.nans - s.infs;
    s.deviation = finite ? sqrt(squares / (double)finite) : 0;
    return s;
}

static bool   cnn__sick(const cnn_stats *s) { return s->nans + s->infs > 0; }
static double cnn__largest(const cnn_stats *s) { return fmax(fabs(s->min), fabs(s->max)); }
static double cnn__rms(const cnn_stats *s) { return hypot(s->mean, s->deviation); }

/* ---- The doctor ---- */

enum { CNN__REPORT = 4096, CNN__FEW = 20 };           /* bytes; updates over which losses are averaged */

typedef struct cnn__doctor {
    cnn__probe probe;
    cnn_stats *value, *grad;                           /* of each node when it was last seen, by t.index */
    int       *dead;                                   /* of a rectifier: channels that are zero throughout */
    double     first, late;                            /* mean of the first CNN__FEW losses; a running mean */
    long       losses;
    char       report[CNN__REPORT];
} cnn__doctor;

/* The one hint. culprit: the array that is ill; y: the operation that made it, or read it if it is a
   leaf. */
static const char *cnn__hint(const cnn__doctor *doctor, const cnn_tensor *y, const cnn_tensor *culprit,
                             cnn__moment when)
{
    const cnn_stats *x = y->n_in ? &doctor->value[y->in[0]->index] : &doctor->value[y->index];
    const char      *hint = y->op && y->op->hint ? y->op->hint(y, x, when == CNN__AFTER_BACKWARD) : NULL;
    double           largest = 0;
    for (int k = 0; k < y->n_in; k++) largest = fmax(largest, cnn__largest(&doctor->value[y->in[k]->index]));
    if (when == CNN__AFTER_UPDATE)
        return "the update was too large: lower the learning rate to a tenth, or clip the gradients "
               "(cnn_clip_grads, .clip)";
    if (when == CNN__AFTER_BACKWARD)
        return hint ? hint
             : "the gradients explode: clip them (cnn_clip_grads, .clip), lower the learning rate, or put "
               "batch norm between the layers";
    if (!culprit->op && culprit->kind == CNN_PARAM)
        return "the weight was ill before this run: it was written, loaded or updated while the doctor was "
               "off, or the learning rate is too high";
    if (!culprit->op)
        return "the data are ill: look at the loader and at the normalisation (a deviation of 0 divides by "
               "zero)";
    if (hint) return hint;
    if (largest > 1e15)
        return "the values explode: normalise the data, lower the learning rate, or put batch norm between "
               "the layers";
    return "the operation made it of finite numbers: look for a division by zero or an overflow in its rule";
}

static void cnn__say_stats(cnn__page *p, const char *role, const cnn_tensor *t, const cnn_stats *all)
{
    const cnn_stats *s = &all[t->index];
    if (s->count)
        cnn__say(p, "  %-9s %s %s: %zu values, %zu NaN, %zu Inf; min %.6g, max %.6g, mean %.6g, deviation "
                    "%.6g\n", role, t->name, cnn_shape_text(t).s, s->count, s->nans, s->infs, s->min, s->max,
                 s->mean, s->deviation);
}

static void cnn__diagnose(cnn__doctor *doctor, cnn_tensor *y, cnn_tensor *culprit, const cnn_stats *ill,
                          cnn__moment when)
{
    cnn_graph  *g = y->graph;
    const char *phase = when == CNN__AFTER_FORWARD ? "forward" : when == CNN__AFTER_BACKWARD ? "backward"
                      : "update";
    const char *what = ill->nans ? "NaN" : "Inf", *hint = cnn__hint(doctor, y, culprit, when);
    const char *array = when == CNN__AFTER_BACKWARD ? "gradient" : culprit->op ? "output" : "value";
    cnn__page p = { doctor->report, sizeof doctor->report, 0, 0 };
    cnn__say(&p, "%s in the %s of %s \"%s\"%s%s%s, after %ld updates: the %s of \"%s\"\n", what, phase,
             y->op ? y->op->name : "parameter", y->name, y->at ? " (" : "", y->at ? y->at : "",
             y->at ? ")" : "", g->step, array, culprit->name);
    if (y->op) cnn__say_stats(&p, "output", y, doctor->value);
    for (int k = 0; k < y->n_in; k++)
        cnn__say_stats(&p, y->in[k]->kind == CNN_PARAM ? "weight" : y->in[k]->kind == CNN_BUFFER ? "buffer"
                       : "input", y->in[k], doctor->value);
    cnn__say_stats(&p, "gradient", y, doctor->grad);
    for (int k = 0; k < y->n_in; k++) cnn__say_stats(&p, "gradient", y->in[k], doctor->grad);
    cnn__say(&p, "  hint      %s\n", hint);
    cnn_fail(y, "doctor: %s in the %s of \"%s\" (%s, after %ld updates): %s", what, array, culprit->name,
             phase, g->step, hint);
}

static int cnn__dead_channels(const cnn_tensor *y)
{
    const int plane = cnn__plane(y->shape);
    int dead = 0;
    for (int c = 0; c < y->shape.c; c++) {
        bool zero = true;
        for (int n = 0; zero && n < y->shape.n; n++) {
            const float *v = y->data + ((ptrdiff_t)n * y->shape.c + c) * plane;
            for (int i = 0; zero && i < plane; i++) zero = v[i] == 0;
        }
        dead += zero;
    }
    return dead;
}

/* Take the statistics of an array; true if it is ill. */
static bool cnn__examine(cnn_stats *to, cnn_tensor *t, cnn__part part)
{
    if (!cnn__sync(t, part, CNN__HOST)) return false;
    *to = cnn_stats_of(part == CNN__DATA ? t->data : t->grad, (size_t)cnn__len(t->shape));
    return cnn__sick(to);
}

static void cnn__doctor_sees(cnn__probe *probe, cnn_tensor *y, cnn__moment when)
{
    cnn__doctor *doctor = (cnn__doctor *)probe;
    cnn_graph   *g = y->graph;
    if (when == CNN__AFTER_FORWARD) {
        cnn_tensor *ill = NULL;                        /* a leaf that is ill explains its user */
        for (int k = 0; k < y->n_in; k++) {
            cnn_tensor *x = y->in[k];
            if (!x->op && cnn__examine(&doctor->value[x->index], x, CNN__DATA) && !ill) ill = x;
        }
        if (cnn__examine(&doctor->value[y->index], y, CNN__DATA) && !ill) ill = y;
        if (ill) cnn__diagnose(doctor, y, ill, &doctor->value[ill->index], when);
        else if ((y->op->flags & CNN_RECTIFIER)
                 && !g->error[0]) doctor->dead[y->index] = cnn__dead_channels(y);
    } else if (when == CNN__AFTER_BACKWARD) {
        if (y == g->loss) {
            const double loss = doctor->value[y->index].mean, few = (double)++doctor->losses;
            if (doctor->losses <= CNN__FEW) doctor->late = doctor->first += (loss - doctor->first) / few;
            else                       doctor->late += (loss - doctor->late) / CNN__FEW;
            cnn__examine(&doctor->grad[y->index], y, CNN__GRAD);
        }
        for (int k = 0; k < y->n_in && !g->error[0]; k++) {
            cnn_tensor *x = y->in[k];
            if (x->needs_grad && cnn__examine(&doctor->grad[x->index], x, CNN__GRAD))
                cnn__diagnose(doctor, y, x, &doctor->grad[x->index], when);
        }
    } else if (when == CNN__AFTER_UPDATE) {
        for (int i = 0; i < g->n_order && !g->error[0]; i++) {
            cnn_tensor *t = &g->order[i]->t;
            if (t->kind == CNN_PARAM && t->needs_grad && cnn__examine(&doctor->value[i], t, CNN__DATA)) {
                cnn__node *owner = g->order[i]->owner;
                cnn__diagnose(doctor, owner ? &owner->t : t, t, &doctor->value[i], when);
            }
        }
    }
}

CNN_API bool cnn_doctor(cnn_graph *g, int on)
{
    if (!g || g->error[0]) return false;
    if (!g->compiled) return cnn__fail(g, g->config.at, "doctor", "call cnn_compile first");
    if (on && !g->doctor) {
        const size_t n = (size_t)g->n_order;
        cnn__doctor *d = cnn__alloc(g, sizeof *d + n * (2 * sizeof(cnn_stats) + sizeof(int)));
        if (!d) return false;
        d->probe.see = cnn__doctor_sees;
        d->value = (cnn_stats *)(d + 1), d->grad = d->value + n, d->dead = (int *)(d->grad + n);
        g->doctor = d;
    }
    g->probe = on ? &g->doctor->probe : NULL;
    return true;
}

CNN_API const char *cnn_doctor_report(const cnn_graph *g)
{
    if (!g || !g->doctor) return "the doctor is not on: cnn_doctor(g, 1)";
    return g->doctor->report[0] ? g->doctor->report : "healthy so far";
}

/* ---- Checkup: what is not wrong but will not learn. The limits are rules of thumb. ---- */

static void cnn__check_leaf(cnn__page *p, const cnn_tensor *t, const cnn_stats *s)
{
    const bool same = s->count > 1 && s->deviation == 0, input = t->kind == CNN_INPUT && t->batched;
    if (input && cnn__largest(s) > 20)
        cnn__say(p, "%s: values from %g to %g: normalise them to about -1 to 1 (cnn_standardize)\n", t->name,
                 s->min, s->max);
    else if (input && same)
        cnn__say(p, "%s: all %zu values are %g: has the batch been fed?\n", t->name, s->count, s->min);
    else if (t->kind == CNN_LABELS && same)
        cnn__say(p, "%s: all %zu labels of this batch are %g: shuffle the data (cnn_shuffle)\n", t->name,
                 s->count, s->min);
}

static void cnn__check_node(cnn__page *p, const cnn_tensor *t, int dead)
{
    const cnn_op *maker = t->n_in ? t->in[0]->op : NULL;
    const char   *at = t->at ? t->at : "?";
    if (t->op->expects && maker && (maker->flags & CNN_PROBABILITIES))
        cnn__say(p, "%s (%s): %s gets the output of %s, but expects %s\n", t->name, at, t->op->name,
                 maker->name, t->op->expects);
    else if (2 * dead > t->shape.c)
        cnn__say(p, "%s (%s): %d of %d channels are zero for the whole batch: dead; lower the learning rate, "
                    "or use cnn_leaky_relu\n", t->name, at, dead, t->shape.c);
}

static const cnn_tensor *cnn__zero_weight(const cnn_graph *g, const cnn__doctor *doctor)
{
    for (int i = 0; i < g->n_order; i++) {
        const cnn_tensor *t = &g->order[i]->t;
        const cnn_stats  *s = &doctor->value[i];
        if (t->kind == CNN_PARAM && t->shape.n > 1 && s->count && s->zeros == s->count) return t;
    }
    return NULL;
}

/* How the gradients of the layers' weights compare, each as root mean square. */
static void cnn__check_gradients(cnn__page *p, const cnn_graph *g, const cnn__doctor *doctor)
{
    const char *least = "", *most = "";
    double      low = INFINITY, high = 0, squares = 0;
    for (int i = 0; i < g->n_order; i++) {
        const cnn_tensor *t = &g->order[i]->t;
        const double      rms = cnn__rms(&doctor->grad[i]);
        if (t->kind != CNN_PARAM || !t->needs_grad) continue;
        squares += rms * rms * (double)doctor->grad[i].count;
        const cnn_tensor *zero = rms == 0 ? cnn__zero_weight(g, doctor) : NULL;
        if (rms == 0)
            cnn__say(p, "%s: its gradient is zero: %s%s\n", t->name, zero ? zero->name : "everything",
                     zero ? " is zero everywhere: weights start at random, as with CNN_INIT_HE"
                          : " behind it is dead or saturated");
        else if (rms < low) low = rms, least = t->name;
        if (rms > high) high = rms, most = t->name;
    }
    if (low < 1e-4 * high)
        cnn__say(p, "%s: the gradients vanish: root mean square %.3g, against %.3g of %s; use relu, batch "
                    "norm or shortcuts\n", least, low, high, most);
    if (sqrt(squares) > 1e3)
        cnn__say(p, "%s: the gradients explode: all together have length %.3g; clip them (cnn_clip_grads, "
                    ".clip)\n", most, sqrt(squares));
}

CNN_API int cnn_checkup(cnn_tensor *loss, char *text, size_t room)
{
    if (text && room) text[0] = 0;
    if (cnn__is_nil(loss) || loss->graph->error[0]) return -1;
    cnn_graph  *g = loss->graph;
    const bool  on = g->probe != NULL;
    cnn__visit  visit;
    if (!cnn_doctor(g, 1)) return -1;
    cnn__doctor *d = g->doctor;
    const double first = d->first, late = d->late;
    const long   losses = d->losses;
    if (cnn__begin_visit(&visit, loss, "checkup", true, &d->probe))
        cnn__visit_once(&visit), cnn__end_visit(&visit);
    d->first = first, d->late = late, d->losses = losses;      /* a visit is no update */
    if (!on) g->probe = NULL;
    if (g->error[0]) return -1;

    cnn__page p = { text, text ? room : 0, 0, 0 };
    for (int i = 0; i < g->n_order; i++) {
        const cnn_tensor *t = &g->order[i]->t;
        if (t->op) cnn__check_node(&p, t, d->dead[i]);
        else       cnn__check_leaf(&p, t, &d->value[i]);
    }
    cnn__check_gradients(&p, g, d);
    if (losses >= 2 * CNN__FEW && fabs(late - first) < 0.01 * fabs(first))
        cnn__say(&p, "%s: the loss does not move: %.4g over the first %d updates, %.4g over the last of %ld; "
                     "try ten times the learning rate, or a tenth of it\n", loss->name, first, (int)CNN__FEW,
                 late, losses);
    return p.said;
}

#ifndef CNN_NO_STDIO
/* ---- Profile ---- */

typedef struct { cnn__probe probe; double start, (*spent)[2]; } cnn__stopwatch;  /* [t.index][backward] */

static void cnn__stopwatch_sees(cnn__probe *probe, cnn_tensor *y, cnn__moment when)
{
    cnn__stopwatch *w = (cnn__stopwatch *)probe;
    cnn_backend    *device = cnn_on_device(y) ? y->graph->config.backend : NULL; /* which runs behind us */
    const double    now = device && device->seconds ? device->seconds(device, true) : cnn__seconds();
    if (when == CNN__AFTER_FORWARD || when == CNN__AFTER_BACKWARD)
        w->spent[y->index][when == CNN__AFTER_BACKWARD] += now - w->start;
    w->start = device ? now : cnn__seconds();
}

/* Multiply-adds of the current batch. Backward computes a product of the same size for each operand that
   wants its gradient. */
static double cnn__batch_macs(const cnn_tensor *y, int backward)
{
    const double macs = cnn__node_macs(y) * (y->batched ? y->graph->batch : 1);
    int products = 0;
    for (int k = 0; k < y->n_in && k < 2; k++) products += y->in[k]->needs_grad;
    return macs * (backward ? products : 1);
}

static void cnn__put_times(cnn__table *table, const char *name, const char *op, const double spent[2],
                           const double macs[2], double whole)
{
    cnn__text c[5] = { { "" } };
    for (int b = 0; b < 2; b++) {
        cnn__format(c[2 * b].s, sizeof c->s, "%.3f", 1e3 * spent[b]);
        if (macs[b] > 0 && spent[b] > 0)
            cnn__format(c[2 * b + 1].s, sizeof c->s, "%.2f", 2e-9 * macs[b] / spent[b]);
    }
    cnn__format(c[4].s, sizeof c->s, "%.1f %%", 100 * (spent[0] + spent[1]) / whole);
    const char *const cell[CNN__COLUMNS] = { name, op, c[0].s, c[1].s, c[2].s, c[3].s, c[4].s };
    cnn__put_line(table, cell);
}

/* spent: of each node, in all runs; whole: of one run. */
static void cnn__print_profile(const cnn_graph *g, double (*spent)[2], int runs, double whole, FILE *f)
{
    static const char *const head[CNN__COLUMNS] = { "layer", "operation", "forward", "GFLOP/s", "backward",
                                                    "GFLOP/s", "share" };
    cnn__table table = { NULL, 2, { 0, 0, 9, 8, 9, 8, 7 } };
    double     sum[2], macs[2];
    for (int pass = 0; pass < 2; pass++, table.f = f) {
        cnn__put_line(&table, head);
        sum[0] = sum[1] = macs[0] = macs[1] = 0;
        for (int i = 0; i < g->n_order; i++) {
            const cnn_tensor *t = &g->order[i]->t;
            double here[2], m[2];
            for (int b = 0; b < 2; b++) {
                here[b] = spent[i][b] / runs, m[b] = here[b] > 0 ? cnn__batch_macs(t, b) : 0;
                sum[b] += here[b], macs[b] += m[b];
            }
            if (here[0] > 0 || here[1] > 0) cnn__put_times(&table, t->name, t->op->name, here, m, whole);
        }
        cnn__put_times(&table, "all", "", sum, macs, whole);
    }
    fprintf(f, "one run of %d samples takes %.3f ms, %.3f ms of it outside of the operations\n", g->batch,
            1e3 * whole, 1e3 * (whole - sum[0] - sum[1]));
}

CNN_API double cnn_profile(cnn_tensor *loss, int runs, FILE *f)
{
    if (!f || cnn__is_nil(loss)) return NAN;
    cnn_graph     *g = loss->graph;
    const size_t   bytes = (size_t)g->n_order * 2 * sizeof(double);
    cnn__stopwatch w = { { cnn__stopwatch_sees }, 0, CNN_MALLOC(bytes) };
    cnn__visit     visit;
    double         whole = NAN;
    if (!w.spent) return cnn__no_memory(g, loss->at, "profile", bytes), NAN;
    if (runs < 1) runs = 10;
    if (cnn__begin_visit(&visit, loss, "profile", false, &w.probe)) {
        bool done = true;
        double start = 0;
        for (int r = -1; r < runs && done; r++) {      /* once to warm up: forgotten */
            if (r <= 0) memset(w.spent, 0, bytes), start = cnn__seconds();
            done = cnn__visit_once(&visit);
        }
        whole = done ? (cnn__seconds() - start) / runs : NAN;
        cnn__end_visit(&visit);
        if (g->config.backend && g->config.backend->seconds)
            g->config.backend->seconds(g->config.backend, false);
        if (done) cnn__print_profile(g, w.spent, runs, whole, f);
    }
    CNN_FREE(w.spent);
    return whole;
}

/* ---- Trace ---- */

typedef struct { cnn__probe probe; FILE *file; int most; } cnn__tracer;

/* "  y = op(x) (N,1,2,2): 1 2 3 4", or of a gradient "  d_x from y: 1 2 3 4". */
static void cnn__trace_array(const cnn__tracer *w, cnn_tensor *t, cnn__part part, const cnn_tensor *from)
{
    const int    n = cnn__len(t->shape);
    const float *v = part == CNN__GRAD ? t->grad : t->data;
    if (!cnn__sync(t, part, CNN__HOST)) return;
    fprintf(w->file, part == CNN__GRAD ? "  d_%s" : "  %s", t->name);
    if (from) fprintf(w->file, " from %s", from->name);
    if (part == CNN__DATA && t->op) {
        fprintf(w->file, " = %s(", cnn__op_text(t).s);
        for (int k = 0; k < t->n_in; k++) fprintf(w->file, "%s%s", k ? ", " : "", t->in[k]->name);
        fprintf(w->file, ")");
    }
    if (part == CNN__DATA) fprintf(w->file, " %s", cnn_shape_text(t).s);
    fprintf(w->file, ":");
    for (int i = 0; i < n && i < w->most; i++) fprintf(w->file, " %.6g", (double)v[i]);
    fprintf(w->file, n > w->most ? " ... (%d in all)\n" : "\n", n);
}

static void cnn__tracer_sees(cnn__probe *probe, cnn_tensor *y, cnn__moment when)
{
    const cnn__tracer *w = (cnn__tracer *)probe;
    if (when == CNN__AFTER_FORWARD) cnn__trace_array(w, y, CNN__DATA, NULL);
    if (when == CNN__BEFORE_BACKWARD && y == y->graph->loss) {
        fprintf(w->file, "backward: d_x is dJ/dx, J = %s; a gradient that comes from several nodes is their "
                         "sum so far\n", y->name);
        cnn__trace_array(w, y, CNN__GRAD, NULL);
    }
    if (when != CNN__AFTER_BACKWARD) return;
    for (int k = 0; k < y->n_in; k++)
        if (y->in[k]->needs_grad && cnn__which_operand(y, y->in[k]) == k)
            cnn__trace_array(w, y->in[k], CNN__GRAD, y);
}

CNN_API bool cnn_trace(cnn_tensor *loss, int most, FILE *f)
{
    if (!f || cnn__is_nil(loss)) return false;
    cnn_graph  *g = loss->graph;
    cnn__tracer w = { { cnn__tracer_sees }, f, most > 0 ? most : 8 };
    cnn__visit  visit;
    if (!cnn__begin_visit(&visit, loss, "trace", false, &w.probe)) return false;
    fprintf(f, "given\n");
    for (int i = 0; i < g->n_order; i++) {
        cnn__node  *v = g->order[i];
        if (v->t.op || (v->t.batched && v->fed != g->batch)) continue;
        cnn__bind(v, g->config.inference ? CNN_EVAL : CNN_TRAIN);
        cnn__trace_array(&w, &v->t, CNN__DATA, NULL);
    }
    fprintf(f, "forward\n");
    const bool done = cnn__visit_once(&visit);
    cnn__end_visit(&visit);
    return done;
}

/* ---- Pictures ---- */

typedef struct { unsigned char *pixel; size_t h, w, c; bool png; } cnn__picture;   /* c bytes a pixel */

static unsigned char *cnn__put_be32(unsigned char to[4], uint32_t v)
{
    for (int i = 0; i < 4; i++) to[i] = (unsigned char)(v >> (24 - 8 * i));
    return to;
}

/* A chunk is length, type, data and the CRC-32 (ISO 15948, annex D) of type and data, here bit by bit. */
static void cnn__put_chunk(FILE *f, const char *type, const unsigned char *data, size_t n)
{
    unsigned char word[4];
    uint32_t      crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < 4 + n; i++) {
        crc ^= i < 4 ? (unsigned char)type[i] : data[i - 4];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    fwrite(cnn__put_be32(word, (uint32_t)n), 1, 4, f), fwrite(type, 1, 4, f), fwrite(data, 1, n, f);
    fwrite(cnn__put_be32(word, ~crc), 1, 4, f);
}

/* zlib (RFC 1950) around stored blocks (RFC 1951, 3.2.4): one block for each row, which begins with a filter
   byte of 0. cnn_write_image_ keeps rows below the limit of 65535 bytes. */
static bool cnn__write_png(FILE *f, const cnn__picture *im)
{
    const size_t   row = 1 + im->w * im->c, bytes = 2 + im->h * (5 + row) + 4;
    unsigned char  head[13] = { 0, 0, 0, 0, 0, 0, 0, 0, 8, im->c == 3 ? 2 : 0, 0, 0, 0 };
    unsigned char *data = CNN_MALLOC(bytes), *p = data;
    uint32_t       a = 1, b = 0;                       /* Adler-32 */
    if (!data) return errno = ENOMEM, false;
    *p++ = 0x78, *p++ = 0x01;
    for (size_t y = 0; y < im->h; y++, p += 5 + row) {
        const unsigned char low = (unsigned char)(row & 255), high = (unsigned char)(row >> 8);
        const unsigned char block[6] = { y + 1 == im->h, low, high, (unsigned char)(255 - low),
                                         (unsigned char)(255 - high), 0 };
        memcpy(p, block, 6), memcpy(p + 6, im->pixel + y * (row - 1), row - 1);
        for (size_t i = 5; i < 5 + row; i++) a = (a + p[i]) % 65521, b = (b + a) % 65521;
    }
    cnn__put_be32(p, b << 16 | a);
    cnn__put_be32(head, (uint32_t)im->w), cnn__put_be32(head + 4, (uint32_t)im->h);
    fwrite("\x89PNG\r\n\x1a\n", 1, 8, f);
    cnn__put_chunk(f, "IHDR", head, 13);
    cnn__put_chunk(f, "IDAT", data, bytes);
    cnn__put_chunk(f, "IEND", data, 0);
    CNN_FREE(data);
    return !ferror(f);
}

static bool cnn__write_picture(FILE *f, void *what)
{
    const cnn__picture *im = what;
    if (im->png) return cnn__write_png(f, im);
    fprintf(f, "P%d\n%zu %zu\n255\n", im->c == 3 ? 6 : 5, im->w, im->h);
    return fwrite(im->pixel, im->c, im->w * im->h, f) == im->w * im->h;
}

/* Picture k of the grid, into its cell: each value becomes a square of scale x scale pixels. */
static void cnn__draw_cell(const cnn__picture *im, const cnn_write_image_args *a, int k)
{
    const size_t h = (size_t)a->shape.h, w = (size_t)a->shape.w, scale = (size_t)a->scale, n = h * w * im->c;
    const float *v = a->values + (size_t)k * n;
    const cnn_stats s = cnn_stats_of(v, n);
    const double low = a->raw ? 0 : s.min, range = a->raw ? 1 : s.max > s.min ? s.max - s.min : 1;
    const size_t y0 = (size_t)(k / a->columns) * (h * scale + 1);
    const size_t x0 = (size_t)(k % a->columns) * (w * scale + 1);
    for (size_t y = 0; y < h * scale; y++)
        for (size_t x = 0; x < w * scale; x++)
            for (size_t c = 0; c < im->c; c++) {       /* planes there, interleaved here; NaN is black */
                const double x01 = ((double)v[(c * h + y / scale) * w + x / scale] - low) / range;
                im->pixel[((y0 + y) * im->w + x0 + x) * im->c + c] =
                    (unsigned char)(x01 > 0 ? x01 < 1 ? 255 * x01 + 0.5 : 255 : 0);
            }
}

CNN_API bool cnn_write_image_(cnn_write_image_args a)
{
    const cnn_shape s = a.shape;
    const char *end = a.path ? strrchr(a.path, '.') : NULL;
    const bool  png = end && !strcmp(end, ".png");
    errno = EINVAL;
    if (!a.values || cnn__checked_len(s) == SIZE_MAX || (s.c != 1 && s.c != 3)) return false;
    if (a.scale < 0 || a.columns < 0 || !end) return false;
    if (!png && strcmp(end, s.c == 3 ? ".ppm" : ".pgm") != 0) return false;
    if (!a.scale) a.scale = 1;
    for (int k = 1; !a.columns; k++) if ((int64_t)k * k >= s.n) a.columns = k;
    if (a.columns > s.n) a.columns = s.n;
    /* cells have a line of one pixel between them */
    const size_t rows = ((size_t)s.n + (size_t)a.columns - 1) / (size_t)a.columns, scale = (size_t)a.scale;
    const size_t cell_h = cnn__add_size(cnn__mul_size((size_t)s.h, scale), 1);
    const size_t cell_w = cnn__add_size(cnn__mul_size((size_t)s.w, scale), 1);
    const size_t high = cnn__mul_size(rows, cell_h) - 1, wide = cnn__mul_size((size_t)a.columns, cell_w) - 1;
    const size_t bytes = cnn__mul_size(cnn__mul_size(high, wide), (size_t)s.c);
    if (wide > 65534 / (size_t)s.c || bytes > INT_MAX / 2) return false;
    cnn__picture im = { CNN_MALLOC(bytes), high, wide, (size_t)s.c, png };
    if (!im.pixel) return errno = ENOMEM, false;
    memset(im.pixel, 128, bytes);
    for (int k = 0; k < s.n; k++) cnn__draw_cell(&im, &a, k);
    const bool good = cnn_write_file(a.path, cnn__write_picture, &im);
    const int  reason = errno;
    CNN_FREE(im.pixel);
    errno = reason;
    return good;
}

CNN_API bool cnn_write_filters(cnn_tensor *layer, const char *path, int scale)
{
    if (cnn__is_nil(layer) || layer->graph->error[0]) return false;
    cnn_tensor  *w = layer->kind == CNN_PARAM ? layer : NULL;
    for (int k = 1; k < layer->n_in && !w; k++) if (!layer->in[k]->batched) w = layer->in[k];
    if (!w) return cnn_fail(layer, "filters: it has no weight");
    const float *v = cnn_map_read(w);
    if (!v) return false;
    cnn_shape s = w->shape;
    if (layer->op && cnn__plane(s) == 1 && s.c == cnn__sample(layer->in[0]->shape)) {
        const cnn_tensor *x = layer->in[0];            /* of a dense layer: as the picture that it sees */
        while (x->n_in == 1 && cnn__plane(x->shape) == 1 && cnn__sample(x->in[0]->shape) == s.c) x = x->in[0];
        s = (cnn_shape){ s.n, x->shape.c, x->shape.h, x->shape.w };
    }
    const bool colour = s.c == 3;
    return cnn_write_image_((cnn_write_image_args){ .at = layer->at, .path = path, .values = v,
               .shape = { colour ? s.n : s.n * s.c, colour ? 3 : 1, s.h, s.w },
               .columns = colour || s.c == 1 ? 0 : s.c, .scale = scale });
}

CNN_API bool cnn_write_maps(cnn_tensor *t, int sample, const char *path, int scale)
{
    const float *v = cnn_map_read(t);
    if (!v) return false;
    if (sample < 0 || sample >= t->shape.n)
        return cnn_fail(t, "maps: sample %d is not within %s", sample, cnn_shape_text(t).s);
    return cnn_write_image_((cnn_write_image_args){ .at = t->at, .path = path,
               .values = v + (ptrdiff_t)sample * cnn__sample(t->shape),
               .shape = { t->shape.c, 1, t->shape.h, t->shape.w }, .scale = scale });
}
#endif /* CNN_NO_STDIO */

/* ---- Gradient check ----

   The central difference (J(w + h) - J(w - h)) / 2h misses dJ/dw by h^2 J'''/6 as the loss is curved, and by
   about e |J| / h because it is rounded, with e a few times float's 6e-8. h = 0.01 keeps both near 1e-5 for
   weights and losses of usual size; weights above 1 take 0.01 |w|. Where that disagrees with backward, the
   step may have crossed a kink (relu, max), and shorter ones are tried: one of them agrees if backward is
   right, and none if it is wrong. Nothing else may differ between the runs: see "Visits".

   If a leaf is wrong, which backward is to blame? dJ/dy of every node can be checked as well, since a probe
   can move y after its room has computed it. Back from the loss, the first gradient that is wrong comes from
   users whose own gradients are right: the error is made on the way from there. */

enum { CNN__DRAWINGS = 3 };
static const double cnn__right = 3e-2;            /* of the largest gradient */

/* A direction in which the loss is differentiated: one element of a leaf; or all elements of a node, since
   one of thousands would move the loss by less than its rounding. Each grows or shrinks, as a drawn sign
   says, by a share of itself: so the zeros that relu made stay equal, for a max pool that reads them. */
typedef struct {
    cnn__probe  probe;
    cnn__visit *visit;
    cnn_tensor *t;
    size_t      i;                                /* the element, or the number of the drawing */
    float      *along;                            /* of a node: the direction */
    float       step;
    double      moved, slope;                     /* what float made of step; the slope that backward gives */
} cnn__nudge;

static void cnn__nudge_sees(cnn__probe *probe, cnn_tensor *y, cnn__moment when)
{
    cnn__nudge    *n = (cnn__nudge *)probe;
    const size_t   count = (size_t)cnn__len(y->shape);
    const uint64_t seed = y->graph->config.seed, stream = UINT64_MAX - (uint64_t)y->index;
    if (y != n->t) return;
    if (when == CNN__AFTER_FORWARD && cnn__sync(y, CNN__DATA, CNN__HOST)) {
        for (size_t k = 0; k < count; k++) {
            const bool up = cnn__random_bits(seed, stream, ((uint64_t)n->i << 32) + k) & 1;
            if (n->step == 0) n->along[k] = up ? y->data[k] : -y->data[k];
            else              y->data[k] += n->step * n->along[k];
        }
        cnn__wrote(y, CNN__DATA, CNN__HOST);
    }
    if (when == CNN__BEFORE_BACKWARD && cnn__sync(y, CNN__GRAD, CNN__HOST))
        for (size_t k = 0; k < count; k++) n->slope += (double)y->grad[k] * (double)n->along[k];
}

/* The loss one step along the direction. A leaf is put back bit by bit. */
static double cnn__loss_beside(cnn__nudge *n, float step)
{
    float *w = n->t->op ? NULL : cnn_map_write(n->t), keep = w ? w[n->i] : 0;
    n->moved = (double)(n->step = step * fmaxf(1, fabsf(keep)));
    if (w) w[n->i] = keep + n->step, n->moved = (double)w[n->i] - (double)keep;
    n->t->graph->draw = n->visit->draw;
    const double j = (double)cnn_forward(n->visit->loss, CNN_TRAIN);
    if (w) cnn_map_write(n->t), w[n->i] = keep;
    return j;
}

/* Check up to `samples` elements of a leaf, one from each of as many equal parts; or a node. */
static cnn_check cnn__check_gradient(cnn__visit *visit, cnn_tensor *t, int samples)
{
    cnn_graph   *g = t->graph;
    cnn__nudge   n = { .probe = { cnn__nudge_sees }, .visit = visit, .t = t };
    cnn_check    c = { .param = t->name };
    const size_t count = cnn_count(t), most = t->op ? CNN__DRAWINGS : (size_t)samples;
    const size_t some = count < most && !t->op ? count : most;
    double       largest = 1e-3 * (1 + fabs(visit->value));    /* smaller ones drown in the loss's rounding */
    if (t->op && !(n.along = CNN_MALLOC(count * sizeof(float))))
        return cnn__no_memory(g, t->at, "gradient check", count * sizeof(float)), c;
    g->probe = t->op ? &n.probe : NULL;
    for (size_t s = 0; s < some && !isnan(c.worst); s++) {
        const size_t from = count * s / some, part = count * (s + 1) / some - from;
        n.i = s, n.step = 0, n.slope = 0;
        if (t->kind != CNN_PARAM) cnn__visit_once(visit);      /* its gradient does not outlive a forward */
        if (!t->op) {
            const float *grad = cnn_map_grad(t);
            n.i = from + cnn__random_bits(g->config.seed, UINT64_MAX - (uint64_t)t->index, s) % part;
            n.slope = grad ? (double)grad[n.i] : NAN;
        }
        double numeric = NAN, error = INFINITY;
        for (float h = 1e-2f; h > 1e-4f && error > 2e-3 * largest; h /= 4) {
            const double low = cnn__loss_beside(&n, -h), at = n.moved, high = cnn__loss_beside(&n, h);
            const double d = (high - low) / (n.moved - at);
            if (isnan(d) || fabs(n.slope - d) < error) numeric = d, error = fabs(n.slope - d);
        }
        largest = fmax(largest, fmax(fabs(n.slope), fabs(numeric)));
        c.checked++;
        if (!(error <= c.worst))
            c.worst = error, c.index = (int)n.i, c.analytic = n.slope, c.numeric = numeric;
    }
    c.worst /= largest, g->probe = NULL;
    CNN_FREE(n.along);
    return c;
}

/* Say whose backward made the first wrong gradient. Returns its name. */
static const char *cnn__find_suspect(cnn__visit *visit, int samples, cnn__page *p)
{
    const cnn_graph *g = visit->loss->graph;
    const char      *name = NULL;
    for (int i = visit->loss->index - 1; i >= 0 && !name; i--) {
        cnn_tensor *x = &g->order[i]->t;
        if (!x->needs_grad || cnn__check_gradient(visit, x, samples).worst <= cnn__right) continue;
        for (int j = i + 1; j < g->n_order; j++) {
            const cnn_tensor *y = &g->order[j]->t;
            if (cnn__which_operand(y, x) < 0) continue;
            if (name) cnn__say(p, ", or of %s", y->name);
            else cnn__say(p, "suspect: the gradient of %s is right, that of %s is wrong: look at the "
                             "backward of %s (%s%s%s) to its %s", y->name, x->name, y->name, y->op->name,
                          y->at ? ", " : "", y->at ? y->at : "",
                          cnn__of(x)->owner == cnn__of(y) ? cnn__of(x)->suffix : "input");
            name = name ? name : y->name;
        }
    }
    return cnn__say(p, "\n"), name;
}

CNN_API cnn_check cnn_gradient_check(cnn_tensor *loss, int samples)
{
    cnn_check  c = { .worst = NAN, .analytic = NAN, .numeric = NAN };
    cnn__visit visit;
    if (!cnn__begin_visit(&visit, loss, "gradient check", true, NULL)) return c;
    cnn_graph *g = loss->graph;
    const size_t room = 160 * (size_t)g->n_order + 1024;
    if (!g->check && !(g->check = cnn__alloc(g, room))) return cnn__end_visit(&visit), c;
    cnn__page p = { g->check, room, 0, 0 };
    if (samples < 1) samples = 20;
    cnn__visit_once(&visit);
    int checked = 0;
    for (int k = 0; k < g->n_order && !g->error[0]; k++) {
        cnn_tensor *t = &g->order[k]->t;
        if (t->kind == CNN_INPUT && !t->needs_grad)
            cnn__say(&p, "%s: not checked: it wants no gradient (.grad = 1)\n", t->name);
        if (t->op || !t->needs_grad) continue;
        const cnn_check here = cnn__check_gradient(&visit, t, samples);
        cnn__say(&p, "%s: %s: worst difference %.2g, at [%d]: backward %.6g, numeric %.6g; %d of %zu "
                     "checked\n", t->name, here.worst <= cnn__right ? "right" : "wrong", here.worst,
                 here.index, here.analytic, here.numeric, here.checked, cnn_count(t));
        checked += here.checked;
        if (!c.param || (!isnan(c.worst) && !(here.worst <= c.worst))) c = here;
    }
    if (c.worst > cnn__right) c.suspect = cnn__find_suspect(&visit, samples, &p);
    g->draw = visit.draw;
    cnn_forward(loss, CNN_TRAIN);                          /* leave values that belong to these parameters */
    cnn__end_visit(&visit);
    if (g->error[0]) c.worst = NAN;
    c.report = g->check, c.checked = checked;
    return c;
}

/* ===========================================================================================================

   Part II. The engine: how the plain loops became fast. It knows no tensor and no graph.

   ======================================================================================================== */

/* ===========================================================================================================
   >>threads ---- 14. Threads
   ======================================================================================================== */

/* The work of all kernels is divided here, in cnn__share_out. It has units, numbered from 0, that follow from
   the problem alone and are computed alike in whatever range they fall. So the same seed gives the same bits
   for any number of threads, whoever does what.

   A graph has a team: its caller, number 0, and helpers, started by the first work that is large enough. The
   units are cut into ranges, one a thread. Each thread takes its own range, then those that others have not
   begun. So the caller never waits for a helper that has not come, but does the work itself; in the end it
   waits for those that are at work. (Ranges cut finer, into 2 or 4, cost 5 to 20 %: kernels pack for each.)
   Helpers wait for new work awake for a while, then asleep. */

/* A thread is worth so many multiply-adds: 2 to 4 us, where work costs 0.5 us to share with helpers that are
   awake, and 20 us with one that sleeps. At 2.5e5 LeNet-5 (batch 64) and MobileNetV2 are 15 % slower on two
   threads; at 5e4 LeNet-5 (batch 1) is. (The tests set 0.) */
#ifndef CNN__SERIAL_WORK
#define CNN__SERIAL_WORK 1.25e5
#endif

#if CNN__TEAMS
#define CNN__READ(p)     __atomic_load_n(p, __ATOMIC_SEQ_CST)
#define CNN__WRITE(p, v) __atomic_store_n(p, v, __ATOMIC_SEQ_CST)
#define CNN__ADD(p, v)   __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST)           /* returns what was there */
#define CNN__AND(p, v)   __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST)
#define CNN__SWAP(p, old, to) \
    __atomic_compare_exchange_n(p, old, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)
#if defined(__x86_64__) || defined(__i386__)
#define CNN__PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define CNN__PAUSE() __asm__ __volatile__("yield")
#else
#define CNN__PAUSE() ((void)0)
#endif

enum { CNN__SPINS = 4000,                    /* pauses, some 200 us in all, before a thread sleeps */
       CNN__SEAT = 1 << 16, CNN__OVER = 1 << 30 };
typedef struct {
    cnn__team  *team;
    cnn__thread thread;
    int         number;
    long        taken;                       /* not 0: this thread's range is */
    char        apart[CNN__ALIGN];           /* from the next one's cache line */
} cnn__member;
struct cnn__team {
    cnn__job   *job;                         /* the work, or NULL: written while nobody is in */
    const void *of;
    ptrdiff_t   units;
    int         ranges;
    long        open;                        /* helpers that are in, + CNN__SEAT for each that may come in */
    long        asleep, waiting;             /* helpers; 1: the caller */
    int         threads, helpers;            /* wanted; started */
    long        process;                     /* that started them */
    cnn__lock   lock;
    cnn__bell   come, done;
    cnn__member member[];
};

/* Do ranges until all are taken, one's own first. */
static void cnn__take_ranges(cnn__team *team, int number)
{
    const ptrdiff_t each = team->units / team->ranges, more = team->units % team->ranges;
    for (int i = 0; i < team->ranges; i++) {
        const int       k = (number + i) % team->ranges;
        const ptrdiff_t from = each * k + cnn__min(k, more);
        if (!CNN__READ(&team->member[k].taken) && !CNN__ADD(&team->member[k].taken, 1))
            team->job(team->of, from, from + each + (k < more), number);
    }
}

/* Wake two helpers, if any sleep: each wakes two more. In the child of a fork there are none. */
static void cnn__call_helpers(cnn__team *team)
{
    if (!CNN__READ(&team->asleep) || team->process != CNN__PROCESS) return;
    CNN__LOCK(&team->lock);
    CNN__RING(&team->come);
    CNN__RING(&team->come);
    CNN__UNLOCK(&team->lock);
}

/* Wait for work, or for the end. */
static long cnn__await_work(cnn__team *team)
{
    long open;
    for (int i = 0; i < CNN__SPINS; i++) {
        if ((open = CNN__READ(&team->open)) >= CNN__SEAT) return open;
        CNN__PAUSE();
    }
    CNN__LOCK(&team->lock);
    CNN__ADD(&team->asleep, 1);
    while ((open = CNN__READ(&team->open)) < CNN__SEAT) CNN__WAIT(&team->come, &team->lock);
    CNN__ADD(&team->asleep, -1);
    CNN__UNLOCK(&team->lock);
    return open;
}

static void cnn__help(void *member)
{
    cnn__member *me = member;
    cnn__team   *team = me->team;
    for (long open; (open = cnn__await_work(team)) < CNN__OVER; ) {
        if (!CNN__SWAP(&team->open, &open, open - CNN__SEAT + 1)) continue;
        if (open >= 2 * CNN__SEAT) cnn__call_helpers(team);
        cnn__take_ranges(team, me->number);
        CNN__AND(&team->open, CNN__SEAT - 1);                    /* nothing is left: nobody need come in */
        if (CNN__ADD(&team->open, -1) > 1 || !CNN__READ(&team->waiting)) continue;
        CNN__LOCK(&team->lock);
        CNN__RING(&team->done);
        CNN__UNLOCK(&team->lock);
    }
    cnn__call_helpers(team);
}

/* Are there helpers? The first time they are started; one that cannot be is missed. */
static bool cnn__has_helpers(cnn__team *team)
{
    for (int i = 1; i < team->threads && !team->process; i++) {
        cnn__member *m = &team->member[i];
        m->team = team, m->number = i;
        if (!cnn__start_thread(&m->thread, cnn__help, m)) break;
        team->helpers++;
    }
    if (!team->process) team->process = CNN__PROCESS;
    return team->helpers > 0;
}

static size_t cnn__team_bytes(int threads)
{
    return sizeof(cnn__team) + (size_t)threads * sizeof(cnn__member);
}
static bool cnn__open_team(cnn__cpu *cpu)
{
    const size_t bytes = cnn__team_bytes(cpu->threads);
    if (!(cpu->team = CNN_MALLOC(bytes))) return false;
    memset(cpu->team, 0, bytes);
    cpu->team->threads = cpu->threads;
    CNN__INIT_LOCK(&cpu->team->lock);
    CNN__INIT_BELL(&cpu->team->come), CNN__INIT_BELL(&cpu->team->done);
    return true;
}
static void cnn__close_team(cnn__cpu *cpu)
{
    cnn__team *team = cpu->team;
    if (!team) return;
    CNN__WRITE(&team->open, (long)CNN__OVER);
    cnn__call_helpers(team);
    for (int i = 1; i <= team->helpers && team->process == CNN__PROCESS; i++)
        cnn__join_thread(&team->member[i].thread);
    CNN_FREE(team);
}

/* With the helpers, if there are any; not within a job, which the thread that does it then does alone. */
static bool cnn__shared(cnn__team *team, int threads, ptrdiff_t units, cnn__job *job, const void *of)
{
    if (!team || team->job || !cnn__has_helpers(team)) return false;
    team->job = job, team->of = of, team->units = units, team->ranges = threads;
    for (int i = 0; i < threads; i++) team->member[i].taken = 0;
    CNN__WRITE(&team->open, (threads - 1L) * CNN__SEAT);
    cnn__call_helpers(team);
    cnn__take_ranges(team, 0);
    CNN__AND(&team->open, CNN__SEAT - 1);
    for (int i = 0; CNN__READ(&team->open) && i < CNN__SPINS; i++) CNN__PAUSE();
    if (CNN__READ(&team->open)) {
        CNN__LOCK(&team->lock);
        CNN__WRITE(&team->waiting, 1L);
        while (CNN__READ(&team->open)) CNN__WAIT(&team->done, &team->lock);
        CNN__WRITE(&team->waiting, 0L);
        CNN__UNLOCK(&team->lock);
    }
    team->job = NULL;
    return true;
}
#else
static size_t cnn__team_bytes(int threads) { return (void)threads, 0; }
static bool cnn__open_team(cnn__cpu *cpu) { return !cpu->team; }
static void cnn__close_team(cnn__cpu *cpu) { (void)cpu; }
static bool cnn__shared(cnn__team *team, int threads, ptrdiff_t units, cnn__job *job, const void *of)
{
    return (void)team, (void)threads, (void)units, (void)job, (void)of, false;
}
#endif

static void cnn__share_out(const cnn__cpu *cpu, double work, ptrdiff_t units, cnn__job *job, const void *of)
{
    ptrdiff_t threads = cnn__min(cpu->threads, units);
    if (CNN__SERIAL_WORK > 0 && work < (double)threads * CNN__SERIAL_WORK)
        threads = (ptrdiff_t)(work / CNN__SERIAL_WORK);
    if (threads < 2 || !cnn__shared(cpu->team, (int)threads, units, job, of)) job(of, 0, units, 0);
}

/* The default of .threads: what OpenMP's variable says, for those who set it, else what the system has. */
#if defined(__linux__) && defined(__GNUC__)
int cnn__affinity(int process, size_t bytes, void *set) __asm__("sched_getaffinity"); /* -std=c99 hides it */
#endif
static int cnn__processors(void)
{
    const char *wish = getenv("OMP_NUM_THREADS");
    long        n = wish ? strtol(wish, NULL, 10) : 0;
    if (n > 0) return (int)cnn__min(n, CNN__MOST_THREADS);
#if defined(__linux__) && defined(__GNUC__)
    unsigned char set[CNN__MOST_THREADS / 8] = { 0 };
    if (cnn__affinity(0, sizeof set, set) == 0)
        for (size_t i = 0; i < 8 * sizeof set; i++) n += set[i / 8] >> i % 8 & 1;
#endif
#if defined(CNN__POSIX) && defined(_SC_NPROCESSORS_ONLN)
    if (n < 1) n = sysconf(_SC_NPROCESSORS_ONLN);
#elif defined(CNN__WIN32)
    wish = getenv("NUMBER_OF_PROCESSORS"), n = wish ? strtol(wish, NULL, 10) : 0;
#endif
    return n < 1 ? 1 : (int)cnn__min(n, CNN__MOST_THREADS);
}

/* ===========================================================================================================
   >>simd ---- 15. Instruction sets: found at run time, one micro-kernel for each
   ======================================================================================================== */

#if CNN__X86
#define CNN__TARGET_avx2   __attribute__((target("avx2,fma")))
#define CNN__TARGET_avx512 __attribute__((target("avx512f,avx2,fma")))
#endif
#if defined(__GNUC__) && !defined(__clang__)
#define CNN__UNROLL _Pragma("GCC unroll 16")        /* gcc -O2 would keep the accumulators below in memory */
#else
#define CNN__UNROLL
#endif
#if CNN__X86                                /* gcc would load it from memory again wherever it is used */
#define CNN__IN_REGISTER(v) __asm__("" : "+v"(v))
#else
#define CNN__IN_REGISTER(v) (void)(v)
#endif

/* The kernels that are written for each instruction set. One text serves all: CNN__MICRO(avx2) is the
   micro-kernel for AVX2, written in the words that the section "AVX2" below defines, which end in _avx2:

   CNN__TARGET_   how the compiler is told;  CNN__W_, _MR_, _NV_: floats in a vector; tiles of micro have MR
                  rows and NV vectors;  _TALL_: the most rows that registers hold;  _DEEP_: rows of depth
   cnn__v_        a vector;  set(a): a in all lanes;  load(p), store(p, v), add(a, b);  fma(a, b, c) = a b + c
   cnn__few_      load(p) where only n < W floats may be read, then zeros;  sum4(s, a, b, c, d): s[0] = the
                  sum of the lanes of a, ...
   cnn__gather4_  four floats of each of W rows, transposed to four vectors:
                  r[e] lane l = x[l][i row[l] + j + e]
   cnn__scatter4_ its inverse, y[l][i row[l] + e] = or, with add, += r[e] lane l
   cnn__clip_     (v, low, high): low where v < low, then high where that is more; NaN stays NaN
   cnn__even_     a[0], a[2] ... b[0], b[2] ...;  zip(t, a, b): a[0], b[0], a[1], b[1] ... in two vectors
   cnn__split_    v[0] = p[0], p[2] ...; v[1] = p[1], p[3] ...
   cnn__larger_   lanes where v > most, or v is NaN, take v and its tag
   cnn__m_        a mask;  mask(lanes);  masked(p, m): load, zeros elsewhere;  put(p, m, v): store those */
enum { CNN__MAX_MR = 14, CNN__MAX_NR = 32, CNN__MAX_LANES = 16 };
typedef struct { int images; ptrdiff_t length, lda, a_image, b_image; } cnn__runs;
typedef struct { int h, w, oh, ow, ph, pw, s; } cnn__image;   /* of x (h,w), of y (oh,ow); padding, stride */
/* What follows a sum, each NULL if it does not: + bias[i], of row i; + more[0], then + more[1], laid out as
   the result, which may be one of them; at least clip[0], at most clip[1]. */
typedef struct { const float *bias, *more[2], *clip; } cnn__ends;

/* Lanes of a vector: bit l is set if lane l is one of them. From <= l < to: */
typedef unsigned cnn__lanes;
static inline cnn__lanes cnn__run_of(int from, int to) { return from < to ? (1u << to) - (1u << from) : 0; }

typedef struct {
    cnn_isa     isa;
    const char *name;                   /* in CNN_ISA and in messages */
    bool      (*has)(void);             /* has this CPU got it? */
    int         lanes, mr, nr, tall;

    /* A tile of mr rows and nr columns, in registers while p runs over k terms:
           c[i][j] = (add ? c[i][j] : 0) + (bias ? bias[i] : 0) + sum_p a[p*mr + i] b[at[p] + j]
       and ahead[p*step] is fetched to the L2 cache, for the tiles to come (NULL: nothing is).
       a is packed; row p of b starts at at[p], which serves packed panels, rows of a matrix and windows of an
       image alike. Whole vectors are stored: nr or, where nr is no more than half, half as many columns.
       Lower bound: mr*nr*k multiply-adds. Two can start in a cycle and take four: at least 8 accumulators.
       micro_then: the same with a[p*lda + i], and all that may follow a sum. If col is not NULL, a is read
       at a[col[p] + i]: then mr must be `tall`, and nr columns are stored. */
    void (*micro)(int mr, int nr, ptrdiff_t k, const float *a, const float *b, const ptrdiff_t *at, float *c,
                  ptrdiff_t ldc, const float *bias, bool add, const float *ahead, ptrdiff_t step);
    void (*micro_then)(int mr, int nr, ptrdiff_t k, const float *a, ptrdiff_t lda, const ptrdiff_t *col,
                       const float *b, const ptrdiff_t *at, float *c, ptrdiff_t ldc, const cnn__ends *,
                       const float *ahead, ptrdiff_t step);
    /* A tile of n rows t[i][0..m), ld from row to row, turned: y[c*step + i] = t[i][c] (+ bias[c]). */
    void (*turn)(int n, int m, const float *t, ptrdiff_t ld, float *y, ptrdiff_t step, const float *bias);
    /* Rows of a matrix side by side, as micro wants a: to[p*r + q] = x[q*si + p], q < r, p < np; with at, row
       q starts at at[q]. */
    void (*pack)(float *to, int r, const float *x, ptrdiff_t si, const ptrdiff_t *at, ptrdiff_t np);
    /* Rows of nr floats one after the other, as micro wants b: to[p*nr + j] = x[at[p] + j], j < nr. */
    void (*panel)(float *to, const float *x, const ptrdiff_t *at, ptrdiff_t np);
    /* to[i] = x[2*i], i < n; and its transpose, to[2*i] += v[i]. */
    void (*take_even)(float *to, const float *x, ptrdiff_t n);
    void (*add_even)(float *to, const float *v, ptrdiff_t n);
    /* rows <= 3 by cols <= 4 sums along the vectors: over images n and q < length
           c[i][j] += sum_n,q a[n*a_image + i*lda + q] b[n*b_image + at[j] + q]
       at has four entries whatever cols is. Lower bound: 12 multiply-adds for 7 loads. */
    void (*dot)(int rows, int cols, const cnn__runs *, const float *a, const float *b, const ptrdiff_t *at,
                float *c, ptrdiff_t ldc);
    /* One row, few taps: y[q] = bias + sum_t w[t] x[at[t] + q], q < length. Lower bound: a load for each
       multiply-add. */
    void (*fir)(ptrdiff_t length, ptrdiff_t taps, const float *w, const float *x, const ptrdiff_t *at,
                float bias, float *y);
    /* Winograd's transforms of W tiles side by side: of kernels (w), of input (x), back to output (y); of dy
       and back to dw. See >>conv. */
    void (*winograd_w)(int k, const float *g, ptrdiff_t from, float *u, ptrdiff_t step);
    void (*winograd_x)(const float *const *x, const ptrdiff_t *row, float *v, ptrdiff_t step);
    void (*winograd_y)(int side, const float *m, ptrdiff_t step, float bias, const float *clip,
                       float *const *y, const ptrdiff_t *row, bool add);
    void (*winograd_dy)(const float *const *dy, const ptrdiff_t *row, float *m, ptrdiff_t step);
    void (*winograd_dw)(const float *u, ptrdiff_t step, float *g);
    /* W windows of a pooling side by side, the first at x, each sw <= 2 further, with kw > 1 if sw is 2.
       at NULL: y[l] = their sums, row by row. Otherwise y[l] = the largest, the first of equals, the last NaN
       if there is one, and the bits of at[l] are its distance from the start of window l. Reads nothing
       beyond the last window. */
    void (*windows)(int kh, int kw, int sw, const float *x, ptrdiff_t w, float *y, float *at);
    /* Windows of 3x3 on one plane, with stride 1 or 2: y = the largest of each, NaN if there is one. */
    void (*largest)(const cnn__image *, float *y, const float *x);
    /* 3x3 depthwise on one plane: y (+)= b + x * w with stride 1 or 2, then, if clip is not NULL, at least
       clip[0] and at most clip[1]; and dw += dy * x with stride 1. Lanes outside the image are loaded as
       zeros, rows outside are left out. bits: see cnn__flat; NULL: a vector is of one row. Lower bound: 9
       multiply-adds for each output. */
    void (*depth)(const cnn__image *, const cnn__lanes (*bits)[10], float *y, const float *x, const float *w,
                  float b, bool add, const float *clip);
    void (*depth_w)(const cnn__image *, float *dw, const float *x, const float *dy);
} cnn__kernels;

/* ---- The texts of the kernels ---- */

/* memcpy for runs that are mostly short: whole vectors, the last one overlapping. */
static inline void cnn__copy(float *to, const float *from, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    for (; i + 8 <= n; i += 8) memcpy(to + i, from + i, 8 * sizeof *to);
    if (i < n && n >= 8) memcpy(to + n - 8, from + n - 8, 8 * sizeof *to);
    else if (i < n && n >= 4)
        memcpy(to, from, 4 * sizeof *to), memcpy(to + n - 4, from + n - 4, 4 * sizeof *to);
    else for (; i < n; i++) to[i] = from[i];
}

/* micro: the tile of c is fetched into the cache while p runs. */
#define CNN__TILE(isa)                                                                                       \
    CNN__TARGET_##isa static CNN__INLINE                                                                     \
    void cnn__tile_##isa(const int mr, const int nv, ptrdiff_t k, const float *a, ptrdiff_t lda,             \
                         const ptrdiff_t *col, const float *b, const ptrdiff_t *at, float *c, ptrdiff_t ldc, \
                         const cnn__ends *ends, ptrdiff_t i0, const float *ahead, ptrdiff_t step)            \
    {                                                                                                        \
        enum { W = CNN__W_##isa };                                                                           \
        cnn__v_##isa t[CNN__MAX_MR][CNN__NV_##isa], v[CNN__NV_##isa];                                        \
        CNN__UNROLL for (int i = 0; i < mr; i++) {                                                           \
            CNN__PREFETCH(c + i * ldc);                                                                      \
            CNN__PREFETCH(c + i * ldc + nv * W - 1);                                                         \
            v[0] = cnn__set_##isa(ends->bias ? ends->bias[i0 + i] : 0.0f);                                   \
            CNN__UNROLL for (int j = 0; j < nv; j++) t[i][j] = v[0];                                         \
        }                                                                                                    \
        for (; k > 0; k--, a += lda, ahead += step) {                                                        \
            const float *row = b + *at++, *terms = col ? a + *col++ : a;                                     \
            CNN__PREFETCH_L2(ahead);                                                                         \
            CNN__UNROLL for (int j = 0; j < nv; j++) v[j] = cnn__load_##isa(row + j * W);                    \
            CNN__UNROLL for (int i = 0; i < mr; i++) {                                                       \
                const cnn__v_##isa s = cnn__set_##isa(terms[i]);                                             \
                CNN__UNROLL for (int j = 0; j < nv; j++) t[i][j] = cnn__fma_##isa(s, v[j], t[i][j]);         \
            }                                                                                                \
        }                                                                                                    \
        for (int e = 0; e < 2; e++) {                                                                        \
            const float *more = ends->more[e] ? ends->more[e] + i0 * ldc : NULL;                             \
            if (more) CNN__UNROLL for (int i = 0; i < mr; i++)                                               \
                CNN__UNROLL for (int j = 0; j < nv; j++)                                                     \
                    t[i][j] = cnn__add_##isa(cnn__load_##isa(more + i * ldc + j * W), t[i][j]);              \
        }                                                                                                    \
        if (ends->clip) {                                                                                    \
            const cnn__v_##isa low = cnn__set_##isa(ends->clip[0]), high = cnn__set_##isa(ends->clip[1]);    \
            CNN__UNROLL for (int i = 0; i < mr; i++)                                                         \
                CNN__UNROLL for (int j = 0; j < nv; j++) t[i][j] = cnn__clip_##isa(t[i][j], low, high);      \
        }                                                                                                    \
        CNN__UNROLL for (int i = 0; i < mr; i++)                                                             \
            CNN__UNROLL for (int j = 0; j < nv; j++) cnn__store_##isa(c + i * ldc + j * W, t[i][j]);         \
    }

/* Tiles of 14, 12, 8, 7, 6, 4, 3, 2 and 1 rows have code of their own; 5 rows are tiles of 3 and 2. */
#define CNN__MICRO(isa)                                                                                      \
    CNN__TARGET_##isa static void cnn__micro_then_##isa(int mr, int nr, ptrdiff_t k, const float *a,         \
                                                        ptrdiff_t lda, const ptrdiff_t *col,                 \
                                                        const float *b, const ptrdiff_t *at, float *c,       \
                                                        ptrdiff_t ldc, const cnn__ends *ends,                \
                                                        const float *ahead, ptrdiff_t step)                  \
    {                                                                                                        \
        enum { NV = CNN__NV_##isa };                                                                         \
        if (!ahead) ahead = a, step = 0;                                                                     \
        if (col) {                                                                                           \
            cnn__tile_##isa(CNN__TALL_##isa, NV, k, a, 0, col, b, at, c, ldc, ends, 0, ahead, step);         \
            return;                                                                                          \
        }                                                                                                    \
        for (int i = 0, rows; i < mr; i += rows, a += rows, c += rows * ldc) {                               \
            rows = cnn__tile_rows(mr - i, CNN__TALL_##isa);                                                  \
            if (nr > NV / 2 * CNN__W_##isa) switch (rows) { CNN__TILES(isa, NV) default: break; }            \
            else                            switch (rows) { CNN__TILES(isa, NV / 2) default: break; }        \
        }                                                                                                    \
    }                                                                                                        \
    static void cnn__micro_##isa(int mr, int nr, ptrdiff_t k, const float *a, const float *b,                \
                                 const ptrdiff_t *at, float *c, ptrdiff_t ldc, const float *bias, bool add,  \
                                 const float *ahead, ptrdiff_t step)                                         \
    {                                                                                                        \
        const cnn__ends ends = { bias, { add ? c : NULL, NULL }, NULL };                                     \
        cnn__micro_then_##isa(mr, nr, k, a, mr, NULL, b, at, c, ldc, &ends, ahead, step);                    \
    }

#define CNN__TILES(isa, nv) CNN__CASE(isa, 14, nv) CNN__CASE(isa, 12, nv) CNN__CASE(isa, 8, nv)              \
    CNN__CASE(isa, 7, nv) CNN__CASE(isa, 6, nv) CNN__CASE(isa, 4, nv) CNN__CASE(isa, 3, nv)                  \
    CNN__CASE(isa, 2, nv) CNN__CASE(isa, 1, nv)

#define CNN__CASE(isa, r, nv)                                                                                \
    case r:                                                                                                  \
        if (r <= CNN__TALL_##isa)                                                                            \
            cnn__tile_##isa(r, nv, k, a, lda, NULL, b, at, c, ldc, ends, i, ahead, step);                    \
        break;

/* Rows of the next tile, at most tall, of those that are left: cut so that none is of one or two rows, which
   would wait for each other's sums. */
static inline int cnn__tile_rows(int left, int tall)
{
    static const unsigned char rows[CNN__MAX_MR + 1] = { 0, 1, 2, 3, 4, 3, 6, 7, 8, 6, 6, 7, 12, 7, 14 };
    if (left > tall) return left < tall + 4 ? (tall + 2) / 2 : tall;
    return rows[left];
}

#define CNN__TURN(isa)                                                                                       \
    CNN__TARGET_##isa static void cnn__turn_##isa(int n, int m, const float *t, ptrdiff_t ld, float *y,      \
                                                  ptrdiff_t step, const float *bias)                         \
    {                                                                                                        \
        enum { W = CNN__W_##isa };                                                                           \
        const ptrdiff_t none[W] = { 0 };                                                                     \
        cnn__v_##isa r[4];                                                                                   \
        int c = 0;                                                                                           \
        for (; c + W <= m && n >= 4; c += W) {                                                               \
            const cnn__v_##isa b = bias ? cnn__load_##isa(bias + c) : cnn__set_##isa(0.0f);                  \
            float *to[W];                                                                                    \
            for (int l = 0; l < W; l++) to[l] = y + (c + l) * step;                                          \
            for (int i = 0, at; i < n; i += 4) {                                                             \
                at = i + 4 <= n ? 0 : i + 4 - n;            /* some rows again: the same values */           \
                CNN__UNROLL for (int e = 0; e < 4; e++)                                                      \
                    r[e] = cnn__add_##isa(cnn__load_##isa(t + (i - at + e) * ld + c), b);                    \
                for (int l = 0; l < W && at; l++) to[l] -= at;                                               \
                cnn__scatter4_##isa(r, to, none, 0, false);                                                  \
                for (int l = 0; l < W; l++) to[l] += 4;                                                      \
            }                                                                                                \
        }                                                                                                    \
        for (; c < m; c++)                                                                                   \
            for (int i = 0; i < n; i++) y[c * step + i] = t[i * ld + c] + (bias ? bias[c] : 0.0f);           \
    }

#define CNN__PACK_ROWS(isa)                                                                                  \
    CNN__TARGET_##isa static void cnn__pack_##isa(float *to, int r, const float *x, ptrdiff_t si,            \
                                                  const ptrdiff_t *at, ptrdiff_t np)                         \
    {                                                                                                        \
        enum { W = CNN__W_##isa };                                                                           \
        const ptrdiff_t none[W] = { 0 };                                                                     \
        cnn__v_##isa t[4];                                                                                   \
        float few[4 * W];                                                                                    \
        for (int q = (r - 1) / W * W; q >= 0; q -= W) {                                                      \
            const float *row[W];                                                                             \
            const int lanes = (int)cnn__min(W, r - q);                                                       \
            for (int l = 0; l < W; l++)                                                                      \
                row[l] = x + (at ? at[q + cnn__min(l, lanes - 1)] : (q + cnn__min(l, lanes - 1)) * si);      \
            for (ptrdiff_t p = 0; p < np; p += 4) {                                                          \
                if (p + 4 > np && np < 4) {                                                                  \
                    for (; p < np; p++)                                                                      \
                        for (int l = 0; l < lanes; l++) to[p * r + q + l] = row[l][p];                       \
                    break;                                                                                   \
                }                                                                                            \
                p = cnn__min(p, np - 4);        /* some twice */                                             \
                cnn__gather4_##isa(t, row, none, 0, (int)p);                                                 \
                /* whole vectors where the next one overwrites the excess lanes */                           \
                const bool whole = lanes == W || (np - p - 4) * r >= q + W - r;                              \
                CNN__UNROLL for (int e = 0; e < 4; e++)                                                      \
                    cnn__store_##isa(whole ? to + (p + e) * r + q : few + e * W, t[e]);                      \
                for (int e = 0; e < 4 && !whole; e++) cnn__copy(to + (p + e) * r + q, few + e * W, lanes);   \
            }                                                                                                \
        }                                                                                                    \
    }

#define CNN__PANEL(isa)                                                                                      \
    CNN__TARGET_##isa static void cnn__panel_##isa(float *to, const float *x, const ptrdiff_t *at,           \
                                                   ptrdiff_t np)                                             \
    {                                                                                                        \
        enum { W = CNN__W_##isa, NV = CNN__NV_##isa };                                                       \
        for (ptrdiff_t p = 0; p < np; p++, to += NV * W) {                                                   \
            const float *row = x + at[p];                                                                    \
            CNN__PREFETCH(row + NV * W), CNN__PREFETCH(row + 2 * NV * W - 1);       /* the next panel */     \
            CNN__UNROLL for (int j = 0; j < NV; j++)                                                         \
                cnn__store_##isa(to + j * W, cnn__load_##isa(row + j * W));                                  \
        }                                                                                                    \
    }

#define CNN__TAKE_EVEN(isa)                                                                                  \
    CNN__TARGET_##isa static void cnn__take_even_##isa(float *to, const float *x, ptrdiff_t n)               \
    {                                                                                                        \
        enum { W = CNN__W_##isa };                                                                           \
        cnn__v_##isa a, b = cnn__set_##isa(0.0f);                                                            \
        float last[W];                                                                                       \
        ptrdiff_t i = 0;                                                                                     \
        for (; i + W < n; i += W)                                                                            \
            cnn__store_##isa(to + i, cnn__even_##isa(cnn__load_##isa(x + 2 * i),                             \
                                                     cnn__load_##isa(x + 2 * i + W)));                       \
        if (i == n) return;                                                                                  \
        const int left = (int)(2 * (n - i) - 1);        /* a whole vector would read one float too many */   \
        if (left < W) a = cnn__few_##isa(x + 2 * i, left);                                                   \
        else          a = cnn__load_##isa(x + 2 * i);                                                        \
        if (left > W) b = cnn__few_##isa(x + 2 * i + W, left - W);                                           \
        cnn__store_##isa(last, cnn__even_##isa(a, b));                                                       \
        for (int e = 0; i < n; i++, e++) to[i] = last[e];                                                    \
    }

#define CNN__ADD_EVEN(isa)                                                                                   \
    CNN__TARGET_##isa static void cnn__add_even_##isa(float *to, const float *v, ptrdiff_t n)                \
    {                                                                                                        \
        enum { W = CNN__W_##isa };                                                                           \
        ptrdiff_t i = 0;            /* zeros are added between; the last vector would write one too many */  \
        for (; i + W < n; i += W) {                                                                          \
            cnn__v_##isa t[2];                                                                               \
            cnn__zip_##isa(t, cnn__load_##isa(v + i), cnn__set_##isa(0.0f));                                 \
            for (int e = 0; e < 2; e++) {                                                                    \
                float *at = to + 2 * i + e * W;                                                              \
                cnn__store_##isa(at, cnn__add_##isa(cnn__load_##isa(at), t[e]));                             \
            }                                                                                                \
        }                                                                                                    \
        for (; i < n; i++) to[2 * i] += v[i];                                                                \
    }

/* dot: the accumulators t[rows][4] stay in registers. */
#define CNN__DOTS(isa)                                                                                       \
    CNN__TARGET_##isa static CNN__INLINE                                                                     \
    void cnn__dots_##isa(const int rows, int cols, const cnn__runs *r, const float *a, const float *b,       \
                         const ptrdiff_t *at, float *c, ptrdiff_t ldc)                                       \
    {                                                                                                        \
        cnn__v_##isa t[3][4], u[3];                                                                          \
        CNN__UNROLL for (int i = 0; i < rows; i++)                                                           \
            CNN__UNROLL for (int j = 0; j < 4; j++) t[i][j] = cnn__set_##isa(0.0f);                          \
        enum { W = CNN__W_##isa };                                                                           \
        const ptrdiff_t whole = r->length / W * W, b0 = at[0], b1 = at[1], b2 = at[2], b3 = at[3];           \
        const int few = (int)(r->length - whole);                                                            \
        for (int n = 0; n < r->images; n++) {                                                                \
            const float *p = a + n * r->a_image, *q = b + n * r->b_image;                                    \
            for (const float *end = p + whole; p < end; p += W, q += W) {                                    \
                CNN__UNROLL for (int i = 0; i < rows; i++) u[i] = cnn__load_##isa(p + i * r->lda);           \
                CNN__DOT_STEP(isa, cnn__load_##isa(q + b0), cnn__load_##isa(q + b1),                         \
                              cnn__load_##isa(q + b2), cnn__load_##isa(q + b3))                              \
            }                                                                                                \
            if (!few) continue;                                                                              \
            CNN__UNROLL for (int i = 0; i < rows; i++) u[i] = cnn__few_##isa(p + i * r->lda, few);           \
            CNN__DOT_STEP(isa, cnn__few_##isa(q + b0, few), cnn__few_##isa(q + b1, few),                     \
                          cnn__few_##isa(q + b2, few), cnn__few_##isa(q + b3, few))                          \
        }                                                                                                    \
        CNN__UNROLL for (int i = 0; i < rows; i++) {                                                         \
            float sum[4];                                                                                    \
            cnn__sum4_##isa(sum, t[i][0], t[i][1], t[i][2], t[i][3]);                                        \
            for (int j = 0; j < cols; j++) c[i * ldc + j] += sum[j];                                         \
        }                                                                                                    \
    }

#define CNN__DOT_STEP(isa, v0, v1, v2, v3)                                                                   \
    CNN__DOT_COLUMN(isa, 0, v0) CNN__DOT_COLUMN(isa, 1, v1)                                                  \
    CNN__DOT_COLUMN(isa, 2, v2) CNN__DOT_COLUMN(isa, 3, v3)

#define CNN__DOT_COLUMN(isa, j, v) {                                                                         \
        cnn__v_##isa column = v;                                                                             \
        CNN__IN_REGISTER(column);                                                                            \
        CNN__UNROLL for (int i = 0; i < rows; i++) t[i][j] = cnn__fma_##isa(u[i], column, t[i][j]);          \
    }

#define CNN__DOT(isa)                                                                                        \
    CNN__TARGET_##isa static                                                                                 \
    void cnn__dot_##isa(int rows, int cols, const cnn__runs *r, const float *a, const float *b,              \
                        const ptrdiff_t *at, float *c, ptrdiff_t ldc)                                        \
    {                                                                                                        \
        if (rows == 3)      cnn__dots_##isa(3, cols, r, a, b, at, c, ldc);                                   \
        else if (rows == 2) cnn__dots_##isa(2, cols, r, a, b, at, c, ldc);                                   \
        else                cnn__dots_##isa(1, cols, r, a, b, at, c, ldc);                                   \
    }

#define CNN__FIR(isa)                                                                                        \
    CNN__TARGET_##isa static void cnn__fir_##isa(ptrdiff_t length, ptrdiff_t taps, const float *w,           \
                                                 const float *x, const ptrdiff_t *at, float bias, float *y)  \
    {                                                                                                        \
        enum { W = CNN__W_##isa };                                                                           \
        ptrdiff_t q = 0;                                                                                     \
        for (; q + 4 * W <= length; q += 4 * W) {                                                            \
            cnn__v_##isa t[4];                                                                               \
            CNN__UNROLL for (int j = 0; j < 4; j++) t[j] = cnn__set_##isa(bias);                             \
            for (ptrdiff_t p = 0; p < taps; p++) {                                                           \
                const cnn__v_##isa s = cnn__set_##isa(w[p]);                                                 \
                const float *from = x + at[p] + q;                                                           \
                CNN__UNROLL for (int j = 0; j < 4; j++)                                                      \
                    t[j] = cnn__fma_##isa(s, cnn__load_##isa(from + j * W), t[j]);                           \
            }                                                                                                \
            CNN__UNROLL for (int j = 0; j < 4; j++) cnn__store_##isa(y + q + j * W, t[j]);                   \
        }                                                                                                    \
        for (; q < length; q++) {                                                                            \
            float sum = bias;                                                                                \
            for (ptrdiff_t p = 0; p < taps; p++) sum += w[p] * x[at[p] + q];                                 \
            y[q] = sum;                                                                                      \
        }                                                                                                    \
    }

/* Winograd: the matrices Bt, At, G, A and Gt times a vector of six or fewer, whose elements are s apart. Each
   transform applies its matrix to the columns of a 6x6 tile t, then to the rows. */
#define CNN__WINOGRAD_X(isa)                                                                                 \
    CNN__TARGET_##isa static CNN__INLINE void cnn__times_bt_##isa(cnn__v_##isa *d, int s)                    \
    {                                                                                                        \
        const cnn__v_##isa d1 = d[s], d2 = d[2 * s], d3 = d[3 * s], d4 = d[4 * s];                           \
        const cnn__v_##isa two = cnn__set_##isa(2), four = cnn__set_##isa(4), minus = cnn__set_##isa(-1),    \
            minus2 = cnn__set_##isa(-2), minus4 = cnn__set_##isa(-4), minus5 = cnn__set_##isa(-5);           \
        const cnn__v_##isa p = cnn__fma_##isa(minus4, d2, d4), q = cnn__fma_##isa(minus4, d1, d3),           \
            r = cnn__fma_##isa(minus, d2, d4), u = cnn__fma_##isa(minus, d1, d3);                            \
        d[0]     = cnn__fma_##isa(four, d[0], cnn__fma_##isa(minus5, d2, d4));                               \
        d[s]     = cnn__add_##isa(p, q);                                                                     \
        d[2 * s] = cnn__fma_##isa(minus, q, p);                                                              \
        d[3 * s] = cnn__fma_##isa(two, u, r);                                                                \
        d[4 * s] = cnn__fma_##isa(minus2, u, r);                                                             \
        d[5 * s] = cnn__fma_##isa(four, d1, cnn__fma_##isa(minus5, d3, d[5 * s]));                           \
    }                                                                                                        \
    CNN__TARGET_##isa static                                                                                 \
    void cnn__winograd_x_##isa(const float *const *x, const ptrdiff_t *row, float *v, ptrdiff_t step)        \
    {                                                                                                        \
        cnn__v_##isa t[36];                                                                                  \
        for (int i = 0; i < 6; i++) {                                                                        \
            cnn__gather4_##isa(t + 6 * i + 2, x, row, i, 2);        /* columns 2 to 5, then 0 to 3 */        \
            const cnn__v_##isa last[2] = { t[6 * i + 4], t[6 * i + 5] };                                     \
            cnn__gather4_##isa(t + 6 * i, x, row, i, 0);                                                     \
            t[6 * i + 4] = last[0], t[6 * i + 5] = last[1];                                                  \
        }                                                                                                    \
        for (int j = 0; j < 6; j++) cnn__times_bt_##isa(t + j, 6);                                           \
        for (int i = 0; i < 6; i++) cnn__times_bt_##isa(t + 6 * i, 1);                                       \
        for (int i = 0; i < 36; i++) cnn__store_##isa(v + i * step, t[i]);                                   \
    }

#define CNN__WINOGRAD_Y(isa)                                                                                 \
    CNN__TARGET_##isa static CNN__INLINE void cnn__times_at_##isa(const int side, cnn__v_##isa *m, int s)    \
    {                                                                                                        \
        const cnn__v_##isa minus = cnn__set_##isa(-1);                                                       \
        const cnn__v_##isa p = cnn__add_##isa(m[s], m[2 * s]), q = cnn__fma_##isa(minus, m[2 * s], m[s]);    \
        const cnn__v_##isa u = cnn__add_##isa(m[3 * s], m[4 * s]),                                           \
            v = cnn__fma_##isa(minus, m[4 * s], m[3 * s]);                                                   \
        m[0] = cnn__add_##isa(cnn__add_##isa(m[0], p), u);                                                   \
        m[s] = cnn__fma_##isa(cnn__set_##isa(2), v, q);                                                      \
        if (side == 4) {                                                                                     \
            m[2 * s] = cnn__fma_##isa(cnn__set_##isa(4), u, p);                                              \
            m[3 * s] = cnn__fma_##isa(cnn__set_##isa(8), v, q);                                              \
        }                                                                                                    \
        m[(side - 1) * s] = cnn__add_##isa(m[(side - 1) * s], m[5 * s]);                                     \
    }                                                                                                        \
    CNN__TARGET_##isa static CNN__INLINE                                                                     \
    void cnn__winograd_at_##isa(const int side, const float *m, ptrdiff_t step, float bias,                  \
                                const float *clip, float *const *y, const ptrdiff_t *row, bool add)          \
    {                                                                                                        \
        cnn__v_##isa t[36];                                                                                  \
        for (int i = 0; i < 36; i++) t[i] = cnn__load_##isa(m + i * step);                                   \
        for (int j = 0; j < 6; j++) cnn__times_at_##isa(side, t + j, 6);                                     \
        for (int i = 0; i < side; i++) {                                                                     \
            cnn__times_at_##isa(side, t + 6 * i, 1);                                                         \
            for (int j = 0; j < side; j++)                                                                   \
                t[6 * i + j] = cnn__add_##isa(t[6 * i + j], cnn__set_##isa(bias));                           \
            for (int j = 0; clip && j < side; j++)                                                           \
                t[6 * i + j] = cnn__clip_##isa(t[6 * i + j], cnn__set_##isa(clip[0]),                        \
                                               cnn__set_##isa(clip[1]));                                     \
            cnn__scatter4_##isa(t + 6 * i, y, row, i, add);                                                  \
        }                                                                                                    \
    }                                                                                                        \
    CNN__TARGET_##isa static                                                                                 \
    void cnn__winograd_y_##isa(int side, const float *m, ptrdiff_t step, float bias, const float *clip,      \
                               float *const *y, const ptrdiff_t *row, bool add)                              \
    {                                                                                                        \
        if (side == 4) cnn__winograd_at_##isa(4, m, step, bias, clip, y, row, add);                          \
        else           cnn__winograd_at_##isa(2, m, step, bias, clip, y, row, add);                          \
    }

#define CNN__WINOGRAD_W(isa)                                                                                 \
    CNN__TARGET_##isa static CNN__INLINE                                                                     \
    void cnn__times_g_##isa(const int k, cnn__v_##isa *o, int s, const cnn__v_##isa *g, int gs)              \
    {                                                                                                        \
        const cnn__v_##isa none = cnn__set_##isa(0), c = cnn__set_##isa(-1 / 6.f),                           \
            d = cnn__set_##isa(1 / 24.f);                                                                    \
        const cnn__v_##isa first = g[0], one = g[gs], two = g[2 * gs], last = g[(k - 1) * gs];               \
        cnn__v_##isa even = cnn__add_##isa(first, two), odd = one;                                           \
        cnn__v_##isa even2 = cnn__fma_##isa(cnn__set_##isa(4), two, first),                                  \
            odd2 = cnn__fma_##isa(cnn__set_##isa(2), one, none);                                             \
        if (k == 5) {                                                                                        \
            even  = cnn__add_##isa(even, last);                                                              \
            even2 = cnn__fma_##isa(cnn__set_##isa(16), last, even2);                                         \
            odd   = cnn__add_##isa(odd, g[3 * gs]);                                                          \
            odd2  = cnn__fma_##isa(cnn__set_##isa(8), g[3 * gs], odd2);                                      \
        }                                                                                                    \
        const cnn__v_##isa p = cnn__fma_##isa(c, even, none), q = cnn__fma_##isa(d, even2, none);            \
        o[0]     = cnn__fma_##isa(cnn__set_##isa(0.25f), first, none);                                       \
        o[s]     = cnn__fma_##isa(c, odd, p);                                                                \
        o[2 * s] = cnn__fma_##isa(cnn__set_##isa(1 / 6.f), odd, p);                                          \
        o[3 * s] = cnn__fma_##isa(d, odd2, q);                                                               \
        o[4 * s] = cnn__fma_##isa(cnn__set_##isa(-1 / 24.f), odd2, q);                                       \
        o[5 * s] = last;                                                                                     \
    }                                                                                                        \
    CNN__TARGET_##isa static CNN__INLINE                                                                     \
    void cnn__winograd_g_##isa(const int k, const float *g, ptrdiff_t from, float *u, ptrdiff_t step)        \
    {                                                                                                        \
        cnn__v_##isa t[36], w[25];                                                                           \
        CNN__UNROLL for (int i = 0; i < k * k; i++) w[i] = cnn__load_##isa(g + i * from);                    \
        CNN__UNROLL for (int j = 0; j < k; j++) cnn__times_g_##isa(k, t + j, 6, w + j, k);                   \
        CNN__UNROLL for (int i = 0; i < 6; i++) cnn__times_g_##isa(k, t + 6 * i, 1, t + 6 * i, 1);           \
        for (int i = 0; i < 36; i++) cnn__store_##isa(u + i * step, t[i]);                                   \
    }                                                                                                        \
    CNN__TARGET_##isa static void cnn__winograd_w_##isa(int k, const float *g, ptrdiff_t from, float *u,     \
                                                        ptrdiff_t step)                                      \
    {                                                                                                        \
        if (k == 3) cnn__winograd_g_##isa(3, g, from, u, step);                                              \
        else        cnn__winograd_g_##isa(5, g, from, u, step);                                              \
    }

#define CNN__WINOGRAD_DY(isa)                                                                                \
    CNN__TARGET_##isa static CNN__INLINE void cnn__times_a_##isa(cnn__v_##isa *d, int s)                     \
    {                                                                                                        \
        const cnn__v_##isa d0 = d[0], d1 = d[s], d2 = d[2 * s], d3 = d[3 * s];                               \
        const cnn__v_##isa minus = cnn__set_##isa(-1), four = cnn__set_##isa(4);                             \
        const cnn__v_##isa p = cnn__add_##isa(d0, d2), q = cnn__add_##isa(d1, d3);                           \
        const cnn__v_##isa r = cnn__fma_##isa(four, d2, d0), u = cnn__fma_##isa(four, d3, d1);               \
        d[s]     = cnn__add_##isa(p, q);                                                                     \
        d[2 * s] = cnn__fma_##isa(minus, q, p);                                                              \
        d[3 * s] = cnn__fma_##isa(cnn__set_##isa(2), u, r);                                                  \
        d[4 * s] = cnn__fma_##isa(cnn__set_##isa(-2), u, r);                                                 \
        d[5 * s] = d3;                                                                                       \
    }                                                                                                        \
    CNN__TARGET_##isa static                                                                                 \
    void cnn__winograd_dy_##isa(const float *const *dy, const ptrdiff_t *row, float *m, ptrdiff_t step)      \
    {                                                                                                        \
        cnn__v_##isa t[36];                                                                                  \
        for (int i = 0; i < 4; i++) cnn__gather4_##isa(t + 6 * i, dy, row, i, 0);                            \
        for (int j = 0; j < 4; j++) cnn__times_a_##isa(t + j, 6);                                            \
        for (int i = 0; i < 6; i++) cnn__times_a_##isa(t + 6 * i, 1);                                        \
        for (int i = 0; i < 36; i++) cnn__store_##isa(m + i * step, t[i]);                                   \
    }

#define CNN__WINOGRAD_DW(isa)                                                                                \
    CNN__TARGET_##isa static CNN__INLINE void cnn__times_gt_##isa(cnn__v_##isa *u, int s)                    \
    {                                                                                                        \
        const cnn__v_##isa minus = cnn__set_##isa(-1), none = cnn__set_##isa(0),                             \
            sixth = cnn__set_##isa(1 / 6.f);                                                                 \
        const cnn__v_##isa p = cnn__add_##isa(u[s], u[2 * s]), q = cnn__fma_##isa(minus, u[s], u[2 * s]);    \
        const cnn__v_##isa r = cnn__add_##isa(u[3 * s], u[4 * s]),                                           \
            v = cnn__fma_##isa(minus, u[4 * s], u[3 * s]);                                                   \
        const cnn__v_##isa c = cnn__fma_##isa(cnn__set_##isa(-1 / 6.f), p, none);                            \
        u[0] = cnn__fma_##isa(cnn__set_##isa(0.25f), u[0], cnn__fma_##isa(cnn__set_##isa(1 / 24.f), r, c));  \
        u[s] = cnn__fma_##isa(sixth, q, cnn__fma_##isa(cnn__set_##isa(1 / 12.f), v, none));                  \
        u[2 * s] = cnn__add_##isa(cnn__fma_##isa(sixth, r, c), u[5 * s]);                                    \
    }                                                                                                        \
    CNN__TARGET_##isa static void cnn__winograd_dw_##isa(const float *u, ptrdiff_t step, float *g)           \
    {                                                                                                        \
        cnn__v_##isa t[36];                                                                                  \
        for (int i = 0; i < 36; i++) t[i] = cnn__load_##isa(u + i * step);                                   \
        for (int j = 0; j < 6; j++) cnn__times_gt_##isa(t + j, 6);                                           \
        for (int i = 0; i < 3; i++) {                                                                        \
            cnn__times_gt_##isa(t + 6 * i, 1);                                                               \
            for (int j = 0; j < 3; j++) cnn__store_##isa(g + (3 * i + j) * CNN__MAX_LANES, t[6 * i + j]);    \
        }                                                                                                    \
    }

#define CNN__WINDOWS(isa)                                                                                    \
    CNN__TARGET_##isa static CNN__INLINE                                                                     \
    void cnn__window_##isa(const int kh, const int kw, const int sw, const bool sum, const float *x,         \
                           ptrdiff_t w, float *y, float *at)                                                 \
    {                                                                                                        \
        cnn__v_##isa r = cnn__set_##isa(0.0f), which = r, v[2];                                              \
        CNN__UNROLL for (int i = 0; i < kh; i++)                                                             \
            CNN__UNROLL for (int j = 0, n; j < kw; j += n) {                                                 \
                n = sw == 2 && (kw - j) % 2 == 0 ? 2 : 1;                                                    \
                if (sw == 2) cnn__split_##isa(v, x + i * w + j);                                             \
                else         v[0] = cnn__load_##isa(x + i * w + j);                                          \
                CNN__UNROLL for (int e = 0; e < n; e++) {                                                    \
                    if (sum) { r = cnn__add_##isa(r, v[e]); continue; }                                      \
                    const cnn__v_##isa tag = cnn__set_##isa(cnn__float_of_bits((uint32_t)(i * w + j + e)));  \
                    if (i + j + e == 0) r = v[e], which = tag;                                               \
                    else                cnn__larger_##isa(&r, &which, v[e], tag);                            \
                }                                                                                            \
            }                                                                                                \
        cnn__store_##isa(y, r);                                                                              \
        if (!sum) cnn__store_##isa(at, which);                                                               \
    }                                                                                                        \
    CNN__TARGET_##isa static void cnn__windows_##isa(int kh, int kw, int sw, const float *x, ptrdiff_t w,    \
                                                     float *y, float *at)                                    \
    {                                                                                                        \
        if (kh == 2 && kw == 2 && sw == 2 && at)      cnn__window_##isa(2, 2, 2, false, x, w, y, at);        \
        else if (kh == 3 && kw == 3 && sw == 2 && at) cnn__window_##isa(3, 3, 2, false, x, w, y, at);        \
        else if (kh == 2 && kw == 2 && sw == 2)       cnn__window_##isa(2, 2, 2, true, x, w, y, at);         \
        else                                          cnn__window_##isa(kh, kw, sw, !at, x, w, y, at);       \
    }

/* A block of R rows of W windows of 3x3, stride s, at output (oy,ox): t = first + the sums with k or, most,
   the largest of first and the window. m are the lanes inside the image of the three taps and, for s 2, of
   the W behind them; outside: -inf where lanes are not, else -0. With stride 1, 9 R multiply-adds in 3 R + 6
   loads. */
#define CNN__SLIDE(isa)                                                                                      \
    CNN__TARGET_##isa static CNN__INLINE                                                                     \
    void cnn__slide_##isa(const int s, const bool most, const bool inside, const cnn__image *p,              \
                          const cnn__v_##isa *k, cnn__v_##isa first, const cnn__m_##isa *m,                  \
                          const cnn__v_##isa *outside, int oy, int ox, const float *x, cnn__v_##isa *t)      \
    {                                                                                                        \
        enum { W = CNN__W_##isa, R = CNN__DEEP_##isa };                                                      \
        const int iy = oy * s - p->ph;                                                                       \
        const float *row = x + (ptrdiff_t)iy * p->w + ox * s - p->pw;                                        \
        CNN__UNROLL for (int e = 0; e < R; e++) t[e] = first;                                                \
        CNN__UNROLL for (int r = 0; r < (R - 1) * s + 3; r++, row += p->w) {                                 \
            if ((unsigned)(iy + r) >= (unsigned)p->h) continue;                                              \
            cnn__v_##isa line;                      /* most: of the three of this row */                     \
            CNN__UNROLL for (int j = 0; j < 3; j++) {                                                        \
                cnn__v_##isa v = inside ? cnn__load_##isa(row + j) : cnn__masked_##isa(row + j, m[j]);       \
                if (s == 2)                                                                                  \
                    v = cnn__even_##isa(v, inside ? cnn__load_##isa(row + j + W)                             \
                                                  : cnn__masked_##isa(row + j + W, m[3 + j]));               \
                if (most && !inside) v = cnn__add_##isa(v, outside[j]);                                      \
                if (most && j) cnn__larger_##isa(&line, &first, v, first);                                   \
                else           line = v;                                                                     \
                if (most && j < 2) continue;                                                                 \
                CNN__UNROLL for (int i = 0; i < 3; i++) {                                                    \
                    const int e = (r - i + s) / s - 1;                                                       \
                    if (e < 0 || e >= R || e * s + i != r) continue;                                         \
                    if (most) cnn__larger_##isa(&t[e], &first, line, first);                                 \
                    else      t[e] = cnn__fma_##isa(k[3 * i + j], v, t[e]);                                  \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
    }

/* The blocks of a plane, from left to right, then down. What lies some blocks further is fetched meanwhile:
   the next planes, in the end. */
#define CNN__STRIPS(isa)                                                                                     \
    CNN__TARGET_##isa static CNN__INLINE                                                                     \
    void cnn__strips_##isa(const int s, const bool most, const cnn__image *p, float *y, const float *x,      \
                           const cnn__v_##isa *k, cnn__v_##isa first, bool add, const float *clip)           \
    {                                                                                                        \
        enum { W = CNN__W_##isa, R = CNN__DEEP_##isa };                                                      \
        const cnn__v_##isa low  = cnn__set_##isa(clip ? clip[0] : -INFINITY);                                \
        const cnn__v_##isa high = cnn__set_##isa(clip ? clip[1] : INFINITY);                                 \
        cnn__v_##isa t[R], outside[3];                                                                       \
        for (int oy = 0; oy < p->oh; oy += R) for (int ox = 0; ox < p->ow; ox += W) {                        \
            const int ix = ox * s - p->pw, whole = ox + W <= p->ow;                                          \
            const bool inside = ix >= 0 && ix + 2 + s * W <= p->w;                                           \
            const cnn__m_##isa some = cnn__mask_##isa(cnn__run_of(0, cnn__clamp(p->ow - ox, W)));            \
            if (inside) cnn__slide_##isa(s, most, true, p, k, first, NULL, outside, oy, ox, x, t);           \
            else {                                                                                           \
                cnn__m_##isa m[6];                                                                           \
                CNN__UNROLL for (int j = 0; j < 3 * s; j++) {                                                \
                    const int from = ix + j % 3 + j / 3 * W;                                                 \
                    m[j] = cnn__mask_##isa(cnn__run_of(cnn__clamp(-from, W), cnn__clamp(p->w - from, W)));   \
                }                                                                                            \
                if (most) cnn__outside_##isa(s, p, ix, outside);                                             \
                cnn__slide_##isa(s, most, false, p, k, first, m, outside, oy, ox, x, t);                     \
            }                                                                                                \
            float *to = y + (ptrdiff_t)oy * p->ow + ox;                                                      \
            for (ptrdiff_t e = 0; e < R * s; e++) {                                                          \
                const float *next = x + ((ptrdiff_t)(oy + 2 * R) * s + e) * p->w + ox * s;                   \
                CNN__PREFETCH(next);                                                                         \
                if (s == 2) CNN__PREFETCH(next + W);                                                         \
                if (e < R)  CNN__PREFETCH(to + (R + e) * p->ow);                                             \
            }                                                                                                \
            CNN__UNROLL for (int e = 0; e < R; e++, to += p->ow) {                                           \
                if (oy + e >= p->oh) break;                                                                  \
                if (add) t[e] = cnn__add_##isa(cnn__masked_##isa(to, some), t[e]);                           \
                t[e] = cnn__clip_##isa(t[e], low, high);                                                     \
                if (whole) cnn__store_##isa(to, t[e]);                                                       \
                else       cnn__put_##isa(to, some, t[e]);                                                   \
            }                                                                                                \
        }                                                                                                    \
    }

#define CNN__OUTSIDE(isa)                                                                                    \
    CNN__TARGET_##isa static void cnn__outside_##isa(int s, const cnn__image *p, int ix, cnn__v_##isa *v)    \
    {                                                                                                        \
        float edge[CNN__W_##isa];                                                                            \
        for (int j = 0; j < 3; j++) {                                                                        \
            for (int l = 0; l < CNN__W_##isa; l++)                                                           \
                edge[l] = (unsigned)(ix + j + l * s) < (unsigned)p->w ? -0.0f : -INFINITY;                   \
            v[j] = cnn__load_##isa(edge);                                                                    \
        }                                                                                                    \
    }

/* Stride 1, y as wide as x, at most half a vector: vectors of several rows. Those number n have bits[n]: the
   lanes of the nine taps that are inside, then the lanes of y. */
#define CNN__FLAT(isa)                                                                                       \
    CNN__TARGET_##isa static CNN__INLINE                                                                     \
    void cnn__flat_##isa(const cnn__image *p, const cnn__lanes (*bits)[10], float *y, const float *x,        \
                         const cnn__v_##isa *k, cnn__v_##isa first, bool add, const float *clip)             \
    {                                                                                                        \
        const cnn__v_##isa low  = cnn__set_##isa(clip ? clip[0] : -INFINITY);                                \
        const cnn__v_##isa high = cnn__set_##isa(clip ? clip[1] : INFINITY);                                 \
        const int rows = CNN__W_##isa / p->w;                                                                \
        x -= p->ph * p->w + p->pw;                                                                           \
        for (int oy = 0; oy < p->oh; oy += rows, bits++, x += rows * p->w, y += rows * p->w) {               \
            cnn__v_##isa t = first;                                                                          \
            const cnn__m_##isa to = cnn__mask_##isa((*bits)[9]);                                             \
            CNN__UNROLL for (int i = 0; i < 3; i++)                                                          \
                CNN__UNROLL for (int j = 0; j < 3; j++) {                                                    \
                    const cnn__m_##isa m = cnn__mask_##isa((*bits)[3 * i + j]);                              \
                    t = cnn__fma_##isa(k[3 * i + j], cnn__masked_##isa(x + i * p->w + j, m), t);             \
                }                                                                                            \
            if (add) t = cnn__add_##isa(cnn__masked_##isa(y, to), t);                                        \
            cnn__put_##isa(y, to, cnn__clip_##isa(t, low, high));                                            \
        }                                                                                                    \
    }

#define CNN__DEPTH(isa)                                                                                      \
    CNN__TARGET_##isa static void cnn__depth_##isa(const cnn__image *p, const cnn__lanes (*bits)[10],        \
                                                   float *y, const float *x, const float *w, float b,        \
                                                   bool add, const float *clip)                              \
    {                                                                                                        \
        cnn__v_##isa k[9], first = cnn__set_##isa(b);                                                        \
        CNN__UNROLL for (int i = 0; i < 9; i++) k[i] = cnn__set_##isa(w[i]);                                 \
        if (bits)           cnn__flat_##isa(p, bits, y, x, k, first, add, clip);                             \
        else if (p->s == 1) cnn__strips_##isa(1, false, p, y, x, k, first, add, clip);                       \
        else                cnn__strips_##isa(2, false, p, y, x, k, first, add, clip);                       \
    }                                                                                                        \
    CNN__TARGET_##isa static void cnn__largest_##isa(const cnn__image *p, float *y, const float *x)          \
    {                                                                                                        \
        const cnn__v_##isa first = cnn__set_##isa(-INFINITY);                                                \
        if (p->s == 1) cnn__strips_##isa(1, true, p, y, x, NULL, first, false, NULL);                        \
        else           cnn__strips_##isa(2, true, p, y, x, NULL, first, false, NULL);                        \
    }

#define CNN__DEPTH_SUMS(isa)                                                                                 \
    CNN__TARGET_##isa static CNN__INLINE                                                                     \
    void cnn__depth_sums_##isa(const int rows, const bool inside, const cnn__image *p, cnn__v_##isa *t,      \
                               const cnn__m_##isa *m, int oy, int ox, const float *x, const float *dy)       \
    {                                                                                                        \
        cnn__v_##isa d[4];                                                                                   \
        const int iy = oy - p->ph;                                                                           \
        const ptrdiff_t w = p->w, step = p->ow;                                                              \
        const float *row = x + iy * w + ox - p->pw;                                                          \
        dy += oy * step + ox;                                                                                \
        CNN__UNROLL for (int r = 0; r < rows; r++, dy += step)                                               \
            d[r] = inside ? cnn__load_##isa(dy) : cnn__masked_##isa(dy, m[3]);                               \
        CNN__UNROLL for (int r = 0; r < rows + 2; r++, row += w) {                                           \
            if ((unsigned)(iy + r) >= (unsigned)p->h) continue;                                              \
            CNN__UNROLL for (int j = 0; j < 3; j++) {                                                        \
                const cnn__v_##isa v = inside ? cnn__load_##isa(row + j)                                     \
                                              : cnn__masked_##isa(row + j, m[j]);                            \
                CNN__UNROLL for (int i = 0, e = r; i < 3; i++, e--)                                          \
                    if (e >= 0 && e < rows) t[3 * i + j] = cnn__fma_##isa(d[e], v, t[3 * i + j]);            \
            }                                                                                                \
        }                                                                                                    \
    }

#define CNN__DEPTH_W(isa)                                                                                    \
    CNN__TARGET_##isa static void cnn__depth_w_##isa(const cnn__image *p, float *dw, const float *x,         \
                                                     const float *dy)                                        \
    {                                                                                                        \
        enum { W = CNN__W_##isa };                                                                           \
        cnn__v_##isa t[9];              /* the nine sums */                                                  \
        CNN__UNROLL for (int i = 0; i < 9; i++) t[i] = cnn__set_##isa(0.0f);                                 \
        for (int ox = 0; ox < p->ow; ox += W) {                                                              \
            const int ix = ox - p->pw;                                                                       \
            const bool inside = ix >= 0 && ix + 2 + W <= p->w && ox + W <= p->ow;                            \
            cnn__m_##isa m[4];                                                                               \
            CNN__UNROLL for (int j = 0; j < 3; j++)                                                          \
                m[j] = cnn__mask_##isa(cnn__run_of(cnn__clamp(-ix - j, W), cnn__clamp(p->w - ix - j, W)));   \
            m[3] = cnn__mask_##isa(cnn__run_of(0, cnn__clamp(p->ow - ox, W)));                               \
            int oy = 0;                                                                                      \
            for (; oy + 4 <= p->oh; oy += 4)                                                                 \
                if (inside) cnn__depth_sums_##isa(4, true, p, t, m, oy, ox, x, dy);                          \
                else        cnn__depth_sums_##isa(4, false, p, t, m, oy, ox, x, dy);                         \
            for (; oy < p->oh; oy++) cnn__depth_sums_##isa(1, false, p, t, m, oy, ox, x, dy);                \
        }                                                                                                    \
        CNN__UNROLL for (int i = 0; i < 3; i++) {       /* all of t stays in registers */                    \
            float sum[4];                                                                                    \
            cnn__sum4_##isa(sum, t[3 * i], t[3 * i + 1], t[3 * i + 2], t[3 * i]);                            \
            for (int j = 0; j < 3; j++) dw[3 * i + j] += sum[j];                                             \
        }                                                                                                    \
    }

static inline int cnn__clamp(int v, int most) { return v < 0 ? 0 : v > most ? most : v; }

/* All kernels of an instruction set, and its row of the table. */
#define CNN__ISA_KERNELS(isa)                                                                                \
    CNN__TILE(isa) CNN__MICRO(isa) CNN__TURN(isa) CNN__PACK_ROWS(isa) CNN__PANEL(isa) CNN__TAKE_EVEN(isa)    \
    CNN__ADD_EVEN(isa) CNN__DOTS(isa) CNN__DOT(isa) CNN__FIR(isa)                                            \
    CNN__WINOGRAD_W(isa) CNN__WINOGRAD_X(isa) CNN__WINOGRAD_Y(isa) CNN__WINOGRAD_DY(isa)                     \
    CNN__WINOGRAD_DW(isa) CNN__WINDOWS(isa) CNN__SLIDE(isa) CNN__OUTSIDE(isa) CNN__STRIPS(isa)               \
    CNN__FLAT(isa) CNN__DEPTH(isa)                                                                           \
    CNN__DEPTH_SUMS(isa) CNN__DEPTH_W(isa)

#define CNN__ISA_ROW(number, isa)                                                                            \
    { number, #isa, cnn__has_##isa, CNN__W_##isa, CNN__MR_##isa, CNN__NV_##isa * CNN__W_##isa,               \
      CNN__TALL_##isa, cnn__micro_##isa, cnn__micro_then_##isa, cnn__turn_##isa, cnn__pack_##isa,            \
      cnn__panel_##isa, cnn__take_even_##isa, cnn__add_even_##isa, cnn__dot_##isa, cnn__fir_##isa,           \
      cnn__winograd_w_##isa, cnn__winograd_x_##isa, cnn__winograd_y_##isa, cnn__winograd_dy_##isa,           \
      cnn__winograd_dw_##isa, cnn__windows_##isa, cnn__largest_##isa, cnn__depth_##isa, cnn__depth_w_##isa }

#if CNN__X86
/* ---- AVX2 ---- */

static bool cnn__has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
enum { CNN__W_avx2 = 8, CNN__MR_avx2 = 6, CNN__NV_avx2 = 2, CNN__TALL_avx2 = 6, CNN__DEEP_avx2 = 4 };
typedef __m256  cnn__v_avx2;
typedef __m256i cnn__m_avx2;
#define cnn__set_avx2    _mm256_set1_ps
#define cnn__load_avx2   _mm256_loadu_ps
#define cnn__store_avx2  _mm256_storeu_ps
#define cnn__add_avx2    _mm256_add_ps
#define cnn__fma_avx2    _mm256_fmadd_ps
#define cnn__masked_avx2 _mm256_maskload_ps
#define cnn__put_avx2    _mm256_maskstore_ps
#define cnn__clip_avx2(v, low, high) _mm256_min_ps(high, _mm256_max_ps(low, v)) /* NaN: the second operand */
/* Inlined: gcc 12 leaves vzeroupper out behind a call that is given vectors, and SSE code waits for it. */
CNN__TARGET_avx2 static CNN__INLINE
void cnn__sum4_avx2(float *sum, __m256 a, __m256 b, __m256 c, __m256 d)
{
    const __m256 t = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(sum, _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1)));
}
/* n < 8 values, then zeros */
CNN__TARGET_avx2 static CNN__INLINE __m256 cnn__few_avx2(const float *p, int n)
{
    static const int mask[16] = { -1, -1, -1, -1, -1, -1, -1, -1 };
    return _mm256_maskload_ps(p, _mm256_loadu_si256((const __m256i *)(const void *)(mask + 8 - n)));
}
/* even: a[0], a[2] ... b[0], b[2] ...; zip: a[0], b[0], a[1], b[1] ... in two vectors */
CNN__TARGET_avx2 static CNN__INLINE __m256 cnn__even_avx2(__m256 a, __m256 b)
{
    const __m256d t = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(t, 0xD8));
}
CNN__TARGET_avx2 static CNN__INLINE
void cnn__zip_avx2(__m256 *t, __m256 a, __m256 b)
{
    const __m256 low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
    t[0] = _mm256_permute2f128_ps(low, high, 0x20), t[1] = _mm256_permute2f128_ps(low, high, 0x31);
}
/* Within each quarter of four floats: r[j] quarter q = row 4q+j -> element j of rows 4q .. 4q+3. */
#define CNN__TRANSPOSE(V, p)                                                                                 \
    const V a = p##_unpacklo_ps(r[0], r[1]), b = p##_unpackhi_ps(r[0], r[1]);                                \
    const V c = p##_unpacklo_ps(r[2], r[3]), d = p##_unpackhi_ps(r[2], r[3]);                                \
    r[0] = p##_shuffle_ps(a, c, 0x44), r[1] = p##_shuffle_ps(a, c, 0xEE);                                    \
    r[2] = p##_shuffle_ps(b, d, 0x44), r[3] = p##_shuffle_ps(b, d, 0xEE);
CNN__TARGET_avx2 static CNN__INLINE
void cnn__gather4_avx2(__m256 *r, const float *const *x, const ptrdiff_t *row, int i, int j)
{
    CNN__UNROLL for (int l = 0; l < 4; l++)
        r[l] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(x[l] + i * row[l] + j)),
                                    _mm_loadu_ps(x[l + 4] + i * row[l + 4] + j), 1);
    CNN__TRANSPOSE(__m256, _mm256)
}
CNN__TARGET_avx2 static CNN__INLINE void cnn__put4_avx2(float *y, __m128 v, bool add)
{
    _mm_storeu_ps(y, add ? _mm_add_ps(_mm_loadu_ps(y), v) : v);
}
CNN__TARGET_avx2 static CNN__INLINE
void cnn__scatter4_avx2(__m256 *r, float *const *y, const ptrdiff_t *row, int i, bool add)
{
    CNN__TRANSPOSE(__m256, _mm256)
    CNN__UNROLL for (int l = 0; l < 4; l++) {
        cnn__put4_avx2(y[l] + i * row[l], _mm256_castps256_ps128(r[l]), add);
        cnn__put4_avx2(y[l + 4] + i * row[l + 4], _mm256_extractf128_ps(r[l], 1), add);
    }
}
CNN__TARGET_avx2 static CNN__INLINE __m256i cnn__mask_avx2(cnn__lanes lanes)
{
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)lanes), bit), bit);
}
/* v[0] = p[0], p[2], p[4] ...;  v[1] = p[1], p[3], p[5] ... */
CNN__TARGET_avx2 static CNN__INLINE void cnn__split_avx2(__m256 *v, const float *p)
{
    const __m256 a = _mm256_loadu_ps(p), b = _mm256_loadu_ps(p + 8);
    const __m256 c = _mm256_permute2f128_ps(a, b, 0x20), d = _mm256_permute2f128_ps(a, b, 0x31);
    v[0] = _mm256_shuffle_ps(c, d, 0x88), v[1] = _mm256_shuffle_ps(c, d, 0xDD);
}
/* Where v > *most, or v is NaN, take v and its tag. */
CNN__TARGET_avx2 static CNN__INLINE
void cnn__larger_avx2(__m256 *most, __m256 *which, __m256 v, __m256 tag)
{
    const __m256 take = _mm256_or_ps(_mm256_cmp_ps(v, *most, _CMP_GT_OQ), _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    *most = _mm256_blendv_ps(*most, v, take), *which = _mm256_blendv_ps(*which, tag, take);
}
CNN__ISA_KERNELS(avx2)

/* ---- AVX-512 ---- */

static bool cnn__has_avx512(void) { return __builtin_cpu_supports("avx512f"); }
enum { CNN__W_avx512 = 16, CNN__MR_avx512 = 12, CNN__NV_avx512 = 2, CNN__TALL_avx512 = 14,
       CNN__DEEP_avx512 = 8 };
typedef __m512    cnn__v_avx512;
typedef __mmask16 cnn__m_avx512;
#define cnn__set_avx512          _mm512_set1_ps
#define cnn__load_avx512         _mm512_loadu_ps
#define cnn__store_avx512        _mm512_storeu_ps
#define cnn__add_avx512          _mm512_add_ps
#define cnn__fma_avx512          _mm512_fmadd_ps
#define cnn__masked_avx512(p, m) _mm512_maskz_loadu_ps(m, p)
#define cnn__put_avx512          _mm512_mask_storeu_ps
#define cnn__mask_avx512(lanes)  (__mmask16)(lanes)
#define cnn__clip_avx512(v, low, high) _mm512_min_ps(high, _mm512_max_ps(low, v))
CNN__TARGET_avx512 static CNN__INLINE
void cnn__sum4_avx512(float *sum, __m512 a, __m512 b, __m512 c, __m512 d)
{
    sum[0] = _mm512_reduce_add_ps(a), sum[1] = _mm512_reduce_add_ps(b);
    sum[2] = _mm512_reduce_add_ps(c), sum[3] = _mm512_reduce_add_ps(d);
}
CNN__TARGET_avx512 static CNN__INLINE __m512 cnn__few_avx512(const float *p, int n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
}
CNN__TARGET_avx512 static CNN__INLINE __m512 cnn__even_avx512(__m512 a, __m512 b)
{
    const __m512i at = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(a, at, b);
}
CNN__TARGET_avx512 static CNN__INLINE
void cnn__zip_avx512(__m512 *t, __m512 a, __m512 b)
{
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    t[0] = _mm512_permutex2var_ps(a, low, b);
    t[1] = _mm512_permutex2var_ps(a, _mm512_add_epi32(low, _mm512_set1_epi32(8)), b);
}
CNN__TARGET_avx512 static CNN__INLINE
void cnn__gather4_avx512(__m512 *r, const float *const *x, const ptrdiff_t *row, int i, int j)
{
    CNN__UNROLL for (int l = 0; l < 4; l++) {
        r[l] = _mm512_castps128_ps512(_mm_loadu_ps(x[l] + i * row[l] + j));
        r[l] = _mm512_insertf32x4(r[l], _mm_loadu_ps(x[l + 4] + i * row[l + 4] + j), 1);
        r[l] = _mm512_insertf32x4(r[l], _mm_loadu_ps(x[l + 8] + i * row[l + 8] + j), 2);
        r[l] = _mm512_insertf32x4(r[l], _mm_loadu_ps(x[l + 12] + i * row[l + 12] + j), 3);
    }
    CNN__TRANSPOSE(__m512, _mm512)
}
CNN__TARGET_avx512 static CNN__INLINE
void cnn__scatter4_avx512(__m512 *r, float *const *y, const ptrdiff_t *row, int i, bool add)
{
    CNN__TRANSPOSE(__m512, _mm512)
    CNN__UNROLL for (int l = 0; l < 4; l++) {
        cnn__put4_avx2(y[l] + i * row[l], _mm512_castps512_ps128(r[l]), add);
        cnn__put4_avx2(y[l + 4] + i * row[l + 4], _mm512_extractf32x4_ps(r[l], 1), add);
        cnn__put4_avx2(y[l + 8] + i * row[l + 8], _mm512_extractf32x4_ps(r[l], 2), add);
        cnn__put4_avx2(y[l + 12] + i * row[l + 12], _mm512_extractf32x4_ps(r[l], 3), add);
    }
}
CNN__TARGET_avx512 static CNN__INLINE void cnn__split_avx512(__m512 *v, const float *p)
{
    const __m512 a = _mm512_loadu_ps(p), b = _mm512_loadu_ps(p + 16);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    v[0] = _mm512_permutex2var_ps(a, even, b);
    v[1] = _mm512_permutex2var_ps(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
}
CNN__TARGET_avx512 static CNN__INLINE
void cnn__larger_avx512(__m512 *most, __m512 *which, __m512 v, __m512 tag)
{
    const __mmask16 take = (__mmask16)(_mm512_cmp_ps_mask(v, *most, _CMP_GT_OQ)
                                       | _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q));
    *most = _mm512_mask_blend_ps(take, *most, v), *which = _mm512_mask_blend_ps(take, *which, tag);
}
CNN__ISA_KERNELS(avx512)
#endif

#if CNN__ARM || CNN__WASM
/* ---- Vectors of four floats, by four words of the sections below: low(a, b) = a[0], b[0], a[1], b[1];
        high: a[2], b[2], a[3], b[3];  evens: a[0], a[2], b[0], b[2];  odds: a[1], a[3], b[1], b[3] ---- */

#define CNN__FOUR_LANES(isa)                                                                                 \
    static inline void cnn__transpose_##isa(cnn__v_##isa *r)                                                 \
    {                                                                                                        \
        const cnn__v_##isa a = cnn__low_##isa(r[0], r[2]), b = cnn__low_##isa(r[1], r[3]);                   \
        const cnn__v_##isa c = cnn__high_##isa(r[0], r[2]), d = cnn__high_##isa(r[1], r[3]);                 \
        r[0] = cnn__low_##isa(a, b), r[1] = cnn__high_##isa(a, b);                                           \
        r[2] = cnn__low_##isa(c, d), r[3] = cnn__high_##isa(c, d);                                           \
    }                                                                                                        \
    static inline void cnn__gather4_##isa(cnn__v_##isa *r, const float *const *x, const ptrdiff_t *row,      \
                                          int i, int j)                                                      \
    {                                                                                                        \
        for (int l = 0; l < 4; l++) r[l] = cnn__load_##isa(x[l] + i * row[l] + j);                           \
        cnn__transpose_##isa(r);                                                                             \
    }                                                                                                        \
    static inline void cnn__scatter4_##isa(cnn__v_##isa *r, float *const *y, const ptrdiff_t *row, int i,    \
                                           bool add)                                                         \
    {                                                                                                        \
        cnn__transpose_##isa(r);                                                                             \
        for (int l = 0; l < 4; l++) {                                                                        \
            float *to = y[l] + i * row[l];                                                                   \
            cnn__store_##isa(to, add ? cnn__add_##isa(cnn__load_##isa(to), r[l]) : r[l]);                    \
        }                                                                                                    \
    }                                                                                                        \
    static inline void cnn__zip_##isa(cnn__v_##isa *t, cnn__v_##isa a, cnn__v_##isa b)                       \
    {                                                                                                        \
        t[0] = cnn__low_##isa(a, b), t[1] = cnn__high_##isa(a, b);                                           \
    }                                                                                                        \
    static inline void cnn__split_##isa(cnn__v_##isa *v, const float *p)                                     \
    {                                                                                                        \
        const cnn__v_##isa a = cnn__load_##isa(p), b = cnn__load_##isa(p + 4);                               \
        v[0] = cnn__even_##isa(a, b), v[1] = cnn__odd_##isa(a, b);                                           \
    }
#define CNN__FOUR_MASKED(isa)                                                                                \
    static inline cnn__v_##isa cnn__masked_##isa(const float *p, cnn__lanes m)                               \
    {                                                                                                        \
        float part[4];                                                                                       \
        for (int l = 0; l < 4; l++) part[l] = m >> l & 1 ? p[l] : 0.0f;                                      \
        return cnn__load_##isa(part);                                                                        \
    }                                                                                                        \
    static inline void cnn__put_##isa(float *p, cnn__lanes m, cnn__v_##isa v)                                \
    {                                                                                                        \
        float part[4];                                                                                       \
        cnn__store_##isa(part, v);                                                                           \
        for (int l = 0; l < 4; l++) if (m >> l & 1) p[l] = part[l];                                          \
    }                                                                                                        \
    static inline cnn__v_##isa cnn__few_##isa(const float *p, int n)                                         \
    {                                                                                                        \
        const float few[4] = { p[0], n > 1 ? p[1] : 0.0f, n > 2 ? p[2] : 0.0f, 0.0f };                       \
        return cnn__load_##isa(few);                                                                         \
    }
#endif

#if CNN__ARM
/* ---- NEON ---- */

static bool cnn__has_neon(void) { return true; }
enum { CNN__W_neon = 4, CNN__MR_neon = 6, CNN__NV_neon = 4, CNN__TALL_neon = 6, CNN__DEEP_neon = 4 };
typedef float32x4_t cnn__v_neon;
typedef cnn__lanes  cnn__m_neon;
#define CNN__TARGET_neon
#define cnn__set_neon   vdupq_n_f32
#define cnn__load_neon  vld1q_f32
#define cnn__store_neon vst1q_f32
#define cnn__add_neon   vaddq_f32
#define cnn__mask_neon(lanes) (lanes)
#define cnn__low_neon   vzip1q_f32
#define cnn__high_neon  vzip2q_f32
#define cnn__even_neon  vuzp1q_f32
#define cnn__odd_neon   vuzp2q_f32
#define cnn__fma_neon(a, b, c) vfmaq_f32(c, a, b)
#define cnn__sum4_neon(sum, a, b, c, d) vst1q_f32(sum, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)))
static inline float32x4_t cnn__clip_neon(float32x4_t v, float32x4_t low, float32x4_t high)
{
    v = vbslq_f32(vcltq_f32(v, low), low, v);
    return vbslq_f32(vcgtq_f32(v, high), high, v);
}
static inline void cnn__larger_neon(float32x4_t *most, float32x4_t *which, float32x4_t v, float32x4_t tag)
{
    const uint32x4_t take = vorrq_u32(vcgtq_f32(v, *most), vmvnq_u32(vceqq_f32(v, v)));
    *most = vbslq_f32(take, v, *most), *which = vbslq_f32(take, tag, *which);
}
CNN__FOUR_LANES(neon)
CNN__FOUR_MASKED(neon)
CNN__ISA_KERNELS(neon)
#endif

#if CNN__WASM
/* ---- WebAssembly, -msimd128: without a fused multiply-add, so it has the bits of "c" ---- */

static bool cnn__has_wasm(void) { return true; }
enum { CNN__W_wasm = 4, CNN__MR_wasm = 6, CNN__NV_wasm = 2, CNN__TALL_wasm = 6, CNN__DEEP_wasm = 4 };
typedef v128_t     cnn__v_wasm;
typedef cnn__lanes cnn__m_wasm;
#define CNN__TARGET_wasm
#define cnn__set_wasm   wasm_f32x4_splat
#define cnn__load_wasm  wasm_v128_load
#define cnn__store_wasm wasm_v128_store
#define cnn__add_wasm   wasm_f32x4_add
#define cnn__mask_wasm(lanes) (lanes)
#define cnn__low_wasm(a, b)    wasm_i32x4_shuffle(a, b, 0, 4, 1, 5)
#define cnn__high_wasm(a, b)   wasm_i32x4_shuffle(a, b, 2, 6, 3, 7)
#define cnn__even_wasm(a, b)   wasm_i32x4_shuffle(a, b, 0, 2, 4, 6)
#define cnn__odd_wasm(a, b)    wasm_i32x4_shuffle(a, b, 1, 3, 5, 7)
#define cnn__fma_wasm(a, b, c) wasm_f32x4_add(wasm_f32x4_mul(a, b), c)
#define cnn__clip_wasm(v, low, high) wasm_f32x4_pmin(wasm_f32x4_pmax(v, low), high)
static inline void cnn__larger_wasm(v128_t *most, v128_t *which, v128_t v, v128_t tag)
{
    const v128_t take = wasm_v128_or(wasm_f32x4_gt(v, *most), wasm_f32x4_ne(v, v));
    *most = wasm_v128_bitselect(v, *most, take), *which = wasm_v128_bitselect(tag, *which, take);
}
CNN__FOUR_LANES(wasm)
CNN__FOUR_MASKED(wasm)
static inline void cnn__sum4_wasm(float *sum, v128_t a, v128_t b, v128_t c, v128_t d)
{
    v128_t r[4] = { a, b, c, d };
    cnn__transpose_wasm(r);
    wasm_v128_store(sum, wasm_f32x4_add(wasm_f32x4_add(r[0], r[2]), wasm_f32x4_add(r[1], r[3])));
}
CNN__ISA_KERNELS(wasm)
#endif

/* ---- Portable C: a vector is four floats, which the compiler maps to registers if it can ---- */

static bool cnn__has_c(void) { return true; }
enum { CNN__W_c = 4, CNN__MR_c = 4, CNN__NV_c = 2, CNN__TALL_c = 4, CNN__DEEP_c = 4 };
typedef cnn__lanes cnn__m_c;
#define CNN__TARGET_c
#define cnn__mask_c(lanes) (lanes)
#if defined(__GNUC__) && defined(__SSE2__)              /* the same arithmetic; it compiles sooner */
typedef float cnn__v_c __attribute__((vector_size(16)));
#define CNN__LANE(v, l) (v)[l]
static inline cnn__v_c cnn__set_c(float a) { return (cnn__v_c){ a, a, a, a }; }
#define cnn__add_c(a, b)    ((a) + (b))
#define cnn__fma_c(a, b, c) ((a) * (b) + (c))
#else
typedef struct { float v[4]; } cnn__v_c;
#define CNN__LANE(a, l) (a).v[l]
static inline cnn__v_c cnn__set_c(float a) { return (cnn__v_c){ { a, a, a, a } }; }
static inline cnn__v_c cnn__add_c(cnn__v_c a, cnn__v_c b)
{
    for (int l = 0; l < 4; l++) a.v[l] += b.v[l];
    return a;
}
static inline cnn__v_c cnn__fma_c(cnn__v_c a, cnn__v_c b, cnn__v_c c)
{
    for (int l = 0; l < 4; l++) c.v[l] = a.v[l] * b.v[l] + c.v[l];
    return c;
}
#endif
static inline cnn__v_c cnn__load_c(const float *p)
{
    cnn__v_c v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void cnn__store_c(float *p, cnn__v_c v) { memcpy(p, &v, sizeof v); }
static inline cnn__v_c cnn__clip_c(cnn__v_c v, cnn__v_c low, cnn__v_c high)
{
    for (int l = 0; l < 4; l++) {
        const float a = CNN__LANE(v, l) < CNN__LANE(low, l) ? CNN__LANE(low, l) : CNN__LANE(v, l);
        CNN__LANE(v, l) = a > CNN__LANE(high, l) ? CNN__LANE(high, l) : a;
    }
    return v;
}
static CNN__NOINLINE cnn__v_c cnn__masked_c(const float *p, cnn__lanes m)
{
    float part[4];
    for (int l = 0; l < 4; l++) part[l] = m >> l & 1 ? p[l] : 0.0f;
    return cnn__load_c(part);
}
static CNN__NOINLINE void cnn__put_c(float *p, cnn__lanes m, cnn__v_c v)
{
    for (int l = 0; l < 4; l++) if (m >> l & 1) p[l] = CNN__LANE(v, l);
}
static inline cnn__v_c cnn__few_c(const float *p, int n) { return cnn__masked_c(p, cnn__run_of(0, n)); }
static CNN__NOINLINE void cnn__sum4_c(float *sum, cnn__v_c a, cnn__v_c b, cnn__v_c c, cnn__v_c d)
{
    const cnn__v_c t[4] = { a, b, c, d };
    for (int i = 0; i < 4; i++)
        sum[i] = (CNN__LANE(t[i], 0) + CNN__LANE(t[i], 2)) + (CNN__LANE(t[i], 1) + CNN__LANE(t[i], 3));
}
static inline void cnn__gather4_c(cnn__v_c *r, const float *const *x, const ptrdiff_t *row, int i, int j)
{
    for (int l = 0; l < 4; l++)
        for (int e = 0; e < 4; e++) CNN__LANE(r[e], l) = x[l][i * row[l] + j + e];
}
static inline void cnn__scatter4_c(const cnn__v_c *r, float *const *y, const ptrdiff_t *row, int i, bool add)
{
    for (int l = 0; l < 4; l++)
        for (int e = 0; e < 4; e++) {
            float *to = &y[l][i * row[l] + e];
            *to = add ? *to + CNN__LANE(r[e], l) : CNN__LANE(r[e], l);
        }
}
static inline cnn__v_c cnn__even_c(cnn__v_c a, cnn__v_c b)
{
    const float even[4] = { CNN__LANE(a, 0), CNN__LANE(a, 2), CNN__LANE(b, 0), CNN__LANE(b, 2) };
    return cnn__load_c(even);
}
static inline void cnn__zip_c(cnn__v_c *t, cnn__v_c a, cnn__v_c b)
{
    for (int l = 0; l < 4; l++) {
        CNN__LANE(t[l / 2], l % 2 * 2) = CNN__LANE(a, l);
        CNN__LANE(t[l / 2], l % 2 * 2 + 1) = CNN__LANE(b, l);
    }
}
static inline void cnn__split_c(cnn__v_c *v, const float *p)
{
    for (int l = 0; l < 4; l++) CNN__LANE(v[0], l) = p[2 * l], CNN__LANE(v[1], l) = p[2 * l + 1];
}
static inline void cnn__larger_c(cnn__v_c *most, cnn__v_c *which, cnn__v_c v, cnn__v_c tag)
{
    float old[4], value[4], place[4], own[4];           /* copies of bytes keep the bits of any NaN and tag */
    cnn__store_c(old, *most), cnn__store_c(value, v), cnn__store_c(place, *which), cnn__store_c(own, tag);
    for (int l = 0; l < 4; l++)
        if (value[l] > old[l] || value[l] != value[l])
            memcpy(old + l, value + l, sizeof *old), memcpy(place + l, own + l, sizeof *place);
    *most = cnn__load_c(old), *which = cnn__load_c(place);
}
CNN__ISA_KERNELS(c)

/* An instruction set of your own: its section here. */

/* ---- The table: the best first ---- */

static const cnn__kernels cnn__isa_table[] = {
#if CNN__X86
    CNN__ISA_ROW(CNN_ISA_AVX512, avx512),
    CNN__ISA_ROW(CNN_ISA_AVX2, avx2),
#elif CNN__ARM
    CNN__ISA_ROW(CNN_ISA_NEON, neon),
#elif CNN__WASM
    CNN__ISA_ROW(CNN_ISA_WASM, wasm),
#endif
    /* An instruction set of your own: its row here. */
    CNN__ISA_ROW(CNN_ISA_C, c),
    { .isa = CNN_ISA_PLAIN, .name = "plain", .has = cnn__has_c }       /* the loops of Part I */
};
enum { CNN__ISA_ROWS = sizeof cnn__isa_table / sizeof *cnn__isa_table };

/* The row of an instruction set; NULL: this build has none. */
static const cnn__kernels *cnn__isa_row(cnn_isa isa)
{
    for (int i = 0; i < CNN__ISA_ROWS; i++)
        if (cnn__isa_table[i].isa == isa) return &cnn__isa_table[i];
    return NULL;
}
static const cnn__kernels *cnn__kernels_of(const cnn__cpu *cpu)
{
    const cnn__kernels *row = cnn__isa_row(cpu->isa);
    return row && row->micro ? row : cnn__isa_row(CNN_ISA_C);
}
static const char *cnn__isa_name(cnn_isa isa)
{
    const cnn__kernels *row = cnn__isa_row(isa);
    return row ? row->name : "?";
}

static bool cnn__has_isa(cnn_isa isa)
{
    const cnn__kernels *row = cnn__isa_row(isa);
    return row && row->has();
}

static cnn_isa cnn__best_isa(void)
{
    int i = 0;
    while (!cnn__isa_table[i].has()) i++;
    return cnn__isa_table[i].isa;
}

/* The instruction set of that name. CNN_ISA_AUTO: there is none, and names[room] says which there are. */
static cnn_isa cnn__isa_named(const char *name, char *names, size_t room)
{
    names[0] = 0;
    for (int i = 0; i < CNN__ISA_ROWS; i++) {
        const size_t used = strlen(names);
        if (strcmp(name, cnn__isa_table[i].name) == 0) return cnn__isa_table[i].isa;
        cnn__format(names + used, room - used, "%s%s", i ? ", " : "", cnn__isa_table[i].name);
    }
    return CNN_ISA_AUTO;
}

/* ===========================================================================================================
   >>gemm ---- 16. Matrix multiplication (Goto, van de Geijn 2008; BLIS: Van Zee, van de Geijn 2015)
   ======================================================================================================== */

/* Blocks: a panel of b (KC, nr) stays in the L1 cache, the block of a (MC, KC) in L2, the block of b (KC, NC)
   in L2 or L3: with AVX2, where mr is 6 and nr 16, these are 18 KB, 108 KB and 1.1 MB. k is cut into equal
   blocks, each at most KC. */
enum { CNN__KC = 288, CNN__MC_PANELS = 16, CNN__NC_PANELS = 64 };

static ptrdiff_t cnn__k_block(ptrdiff_t k) { return cnn__ceil(k, cnn__ceil(k, CNN__KC)); }

/* Pack elements (i, p) = x[i*si + p*sp], i < ni, p < np, of a matrix, si or sp 1: to[p][0..r), from ni to r
   numbers that nobody uses. */
typedef struct { const float *x; ptrdiff_t si, sp; } cnn__matrix;
static void cnn__pack(const cnn__kernels *isa, float *to, int r, const float *x, ptrdiff_t si, ptrdiff_t sp,
                      int ni, ptrdiff_t np)
{
    if (si == 1 && ni == r) {
        /* Eight for six, where the next row of both is there to be overrun. */
        const bool wide = r < 8 && 2 * r >= 8 && sp + r >= 8;
        for (; np > 0; np--, x += sp, to += r) {
            CNN__PREFETCH(x + r), CNN__PREFETCH(x + 2 * r - 1);         /* the next panel */
            if (wide && np > 1) memcpy(to, x, 8 * sizeof *to);
            else                cnn__copy(to, x, r);
        }
    } else if (si == 1) {
        for (; np > 0; np--, x += sp, to += r) memset(to, 0, (size_t)r * sizeof *to), cnn__copy(to, x, ni);
    } else {
        ptrdiff_t at[CNN__MAX_NR];
        for (int q = 0; q < r && ni < r; q++) at[q] = cnn__min(q, ni - 1) * si;
        isa->pack(to, r, x, si, ni < r ? at : NULL, np);
    }
}

/* Bytes of packed blocks for one thread. */
static size_t cnn__part_scratch(const cnn__cpu *cpu, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k)
{
    const cnn__kernels *isa = cnn__kernels_of(cpu);
    size_t mc = (size_t)cnn__min(cnn__ceil(m, isa->mr), CNN__MC_PANELS) * (size_t)isa->mr;
    size_t nc = (size_t)cnn__min(cnn__ceil(n, isa->nr), CNN__NC_PANELS) * (size_t)isa->nr;
    return cnn__round_up((size_t)cnn__min(k, CNN__KC) * (mc + nc) * sizeof(float), CNN__ALIGN);
}

/* C += A B where A has few rows and the rows of both lie in one piece along k, as a dense layer has it: no
   packing. Rows of A are taken by three. Where they are no more, each weight is met once and memory decides:
   four whole rows of B are read side by side, as pieces of 4 KB stop the processor's prefetching (36 MB by
   one thread of a Zen 3: 24 GB/s, and 14 in pieces). Otherwise such a piece stays in the L1 cache for the
   next three rows. */
enum { CNN__DOT_WORK = 256,             /* rows times lanes, at most: more repay packing */
       CNN__DOT_RUN = 1024 };
static void cnn__gemm_dots(const cnn__kernels *isa, float *c, ptrdiff_t ldc, cnn__matrix a, cnn__matrix b,
                           ptrdiff_t m, ptrdiff_t n, ptrdiff_t k)
{
    const ptrdiff_t run = m <= 3 ? k : CNN__DOT_RUN;
    for (ptrdiff_t p = 0; p < k; p += run)
        for (ptrdiff_t j = 0; j < n; j += 4) {
            const cnn__runs r = { 1, cnn__min(run, k - p), a.si, 0, 0 };
            const ptrdiff_t last = n - j - 1, at[4] = { 0, cnn__min(1, last) * b.si,
                                                        cnn__min(2, last) * b.si, cnn__min(3, last) * b.si };
            for (ptrdiff_t i = 0; i < m; i += 3)
                isa->dot((int)cnn__min(3, m - i), (int)cnn__min(4, n - j), &r, a.x + i * a.si + p,
                       b.x + j * b.si + p, at, c + i * ldc + j, ldc);
        }
}

/* Rows and columns of C = A B (+ C if add), by one thread. A few rows do not repay packing b. */
static void cnn__gemm_part(const cnn__kernels *isa, float *c, ptrdiff_t ldc, bool accumulate, cnn__matrix a,
                           cnn__matrix b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, float *pack)
{
    const int mr = isa->mr, nr = isa->nr;
    const ptrdiff_t mc = mr * CNN__MC_PANELS, nc = nr * CNN__NC_PANELS, kb = cnn__k_block(k);
    const bool in_place = b.si == 1 && m <= 3 * mr;
    float tile[CNN__MAX_MR * CNN__MAX_NR], *pb = pack, *pa = pack + kb * cnn__min(cnn__ceil(n, nr) * nr, nc);
    ptrdiff_t packed[CNN__KC], rows[CNN__KC];
    for (ptrdiff_t p = 0; p < kb; p++) packed[p] = p * nr, rows[p] = p * b.sp;
    for (ptrdiff_t jc = 0; jc < n; jc += nc)
        for (ptrdiff_t p = 0; p < k; p += kb) {
            const ptrdiff_t jn = cnn__min(nc, n - jc), kc = cnn__min(kb, k - p);
            const bool add = accumulate || p > 0;
            for (ptrdiff_t j = 0; j < jn; j += nr)
                if (b.si == 1 && j + nr <= jn) {
                    if (!in_place) isa->panel(pb + j * kc, b.x + jc + j + p * b.sp, rows, kc);
                } else
                    cnn__pack(isa, pb + j * kc, nr, b.x + (jc + j) * b.si + p * b.sp, b.si, b.sp,
                              (int)cnn__min(nr, jn - j), kc);
            for (ptrdiff_t ic = 0; ic < m; ic += mc) {
                const ptrdiff_t in = cnn__min(mc, m - ic);
                for (ptrdiff_t i = 0; i < in; i += mr) {
                    const int ni = (int)cnn__min(mr, in - i);
                    cnn__pack(isa, pa + i * kc, ni, a.x + (ic + i) * a.si + p * a.sp, a.si, a.sp, ni, kc);
                }
                for (ptrdiff_t j = 0; j < jn; j += nr) {
                    const bool whole = j + nr <= jn, direct = in_place && whole;
                    const float *from = direct ? b.x + jc + j + p * b.sp : pb + j * kc;
                    for (ptrdiff_t i = 0; i < in; i += mr) {
                        const int ni = (int)cnn__min(mr, in - i);
                        float *y = c + (ic + i) * ldc + jc + j;
                        isa->micro(ni, (int)cnn__min(nr, jn - j), kc, pa + i * kc, from,
                                   direct ? rows : packed,
                                 whole ? y : tile, whole ? ldc : nr, NULL, whole && add, NULL, 0);
                        for (ptrdiff_t s = 0; !whole && s < ni; s++)
                            for (ptrdiff_t q = 0; q < jn - j; q++)
                                y[s * ldc + q] = add ? y[s * ldc + q] + tile[s * nr + q] : tile[s * nr + q];
                    }
                }
            }
        }
}

static size_t cnn__gemm_scratch(const cnn__cpu *cpu, int m, int n, int k)
{
    return cnn__mul_size((size_t)cpu->threads, cnn__part_scratch(cpu, m, n, k));
}

/* cnn__gemm, fast: the units are row panels or column panels. Every element is summed over p in the same
   order in whatever range it falls. */
typedef struct {
    const cnn__kernels *u;
    cnn__matrix a, b;
    float *c;
    ptrdiff_t ldc, m, n, k;
    bool accumulate, dots, by_row;
    char *scratch;
    size_t each;
} cnn__product;

static void cnn__gemm_job(const void *job, ptrdiff_t from, ptrdiff_t to, int thread)
{
    const cnn__product *q = job;
    float *pack = (float *)(void *)(q->scratch + (size_t)thread * q->each);
    cnn__matrix a = q->a, b = q->b;
    if (q->by_row) {
        from *= q->u->mr, to = cnn__min(to * q->u->mr, q->m), a.x += from * a.si;
        cnn__gemm_part(q->u, q->c + from * q->ldc, q->ldc, q->accumulate, a, b, to - from, q->n, q->k, pack);
        return;
    }
    from *= q->u->nr, to = cnn__min(to * q->u->nr, q->n), b.x += from * b.si;
    if (q->dots) cnn__gemm_dots(q->u, q->c + from, q->ldc, a, b, q->m, to - from, q->k);
    else cnn__gemm_part(q->u, q->c + from, q->ldc, q->accumulate, a, b, q->m, to - from, q->k, pack);
}

static void cnn__fast_gemm(const cnn__cpu *cpu, float *c, int ldc, float beta, const float *a, int lda,
                           bool ta, const float *b, int ldb, bool tb, int m, int n, int k, void *scratch)
{
    const bool dots = !ta && tb && m * cnn__kernels_of(cpu)->lanes <= CNN__DOT_WORK;
    if (k < 1 || (beta != 0.0f ? beta != 1.0f : dots))
        for (ptrdiff_t i = 0; i < m; i++)
            for (ptrdiff_t j = 0; j < n; j++) c[i * ldc + j] = beta != 0.0f ? beta * c[i * ldc + j] : 0.0f;
    if (m < 1 || n < 1 || k < 1) return;
    cnn__product q = { .u = cnn__kernels_of(cpu), .a = { a, ta ? 1 : lda, ta ? lda : 1 },
                       .b = { b, tb ? ldb : 1, tb ? 1 : ldb }, .c = c, .ldc = ldc, .m = m, .n = n, .k = k,
                       .accumulate = beta != 0.0f, .dots = dots, .scratch = scratch,
                       .each = cnn__part_scratch(cpu, m, n, k) };
    const ptrdiff_t rows = cnn__ceil(m, q.u->mr), columns = cnn__ceil(n, q.u->nr);
    q.by_row = !dots && rows > columns;
    cnn__share_out(cpu, (m + 16.0) * n * k, q.by_row ? rows : columns, cnn__gemm_job, &q);
}

/* ===========================================================================================================
   >>conv ---- 17. Convolution

   y[n][oc][oy][ox] = b[oc] + sum over c, i, j of  w[oc][c][i][j] x[n][g IC/G + c][oy SH - PH + i DH][ox SW -
                                                   PW + j DW]
   with g = oc / (OC/G), x zero outside the image, x (N,IC,H,W), w (OC,IC/G,KH,KW), y (N,OC,OH,OW).

   A NaN or Inf in x, or in dy on the way back, reaches the elements that the formula gives it to and no
   other, with two exceptions: Winograd may make NaN of all elements of the tiles that hold it, and in the
   gradient of the weights it may make NaN of any, which cnn__conv_mend_weights then sums again.
   ======================================================================================================== */

/* ---- Spread planes: a convolution without borders, strides and im2col ----

   The part of the image that a block of output rows needs is copied once, with its zeros, into planes split
   by the stride: S[c][a][b][y][x] = x[c][y0 + y SH + a][x0 + x SW + b]. Then the values that tap (c,i,j) of
   the kernel meets, for output pixel oy*width + ox, form one run of contiguous floats: S[at(c,i,j) + oy*width
   + ox]. So any convolution is a matrix product whose b has rows that start at at(c,i,j): nothing is
   unfolded. Pixels with ox >= OW, a few at the end of each row, are computed and dropped.

   One axis as an example: an input of 7, kernel 3, stride 2, padding 1, so y[o] = w0 x[2o-1] + w1 x[2o] +
   w2 x[2o+1] for four o. S has two planes of 5, one for each residue; a dot is a zero:

       x      . x0 x1 x2 x3 x4 x5 x6 .           tap 0 meets S[0] from 0 on:    .  x1 x3 x5
       S[0]   .     x1    x3    x5    .          tap 1 meets S[1] from 0 on:   x0  x2 x4 x6
       S[1]      x0    x2    x4    x6  .         tap 2 meets S[0] from 1 on:   x1  x3 x5  .

   Backward-data spreads dy instead: dx[0], dx[2], ... (residue 0) meet w1 alone, dx[1], dx[3], ... meet w2
   and w0. Each residue is a product of its own (cnn__phase); cnn__axis says which taps it meets on an axis.

   forward           Y = W S(X)
   backward-data     dX = W^T S(dY), one product for each residue r of the input row modulo SH (and column
                     modulo SW):
                     row r + SH t gets from row i of the kernel the gradient of row (r + SH t + PH - i DH)/SH
                     where that is whole, which is every q-th i, q = SH/gcd(SH,DH), from the first one on. So
                     it reads dY with stride 1, from row t + (r + PH - i DH)/SH, and no term is a
                     multiplication by zero.
   backward-weights  dW = dY S(X)^T, sums along the contiguous floats: cnn__dot. */
typedef struct {
    const float *x;                     /* the image or images, (N, planes, h, w) */
    ptrdiff_t planes;
    int h, w, c;                        /* c planes of it are used */
    int sh, sw, a, b;                   /* stride; residues that a tap meets */
    int y0, x0;                         /* of the row and column that output row 0 and column 0 meet first */
    int halo;                           /* rows of S beyond the number of output rows */
    int width, gap;                     /* of a row of S; zeros behind each plane */
} cnn__spread;

/* Floats of one plane of S and of all, for so many output rows. */
static ptrdiff_t cnn__spread_plane(const cnn__spread *spread, ptrdiff_t rows)
{
    return (rows + spread->halo) * spread->width + spread->gap;
}
static ptrdiff_t cnn__spread_size(const cnn__spread *spread, ptrdiff_t rows)
{
    return spread->c * spread->a * spread->b * cnn__spread_plane(spread, rows);
}

/* S for output rows from .. from+rows of so many planes of image n, from plane first on. */
static void cnn__spread_copy(const cnn__kernels *isa, const cnn__spread *spread, float *to, ptrdiff_t n,
                             ptrdiff_t first, int planes, int from, int rows)
{
    const ptrdiff_t size = cnn__spread_plane(spread, rows);
    memset(to, 0, (size_t)(planes * spread->a * spread->b * size) * sizeof *to);
    for (ptrdiff_t e = 0; e < (ptrdiff_t)planes * spread->a * spread->b; e++, to += size) {
        const int y0 = spread->y0 + from * spread->sh + (int)(e / spread->b % spread->a),
                  x0 = spread->x0 + (int)(e % spread->b);
        const float *plane = spread->x + (n * spread->planes + first + e / spread->b / spread->a) * spread->h
                             * spread->w;
        const int left = x0 >= 0 ? 0 : (-x0 + spread->sw - 1) / spread->sw;
        const int right = x0 >= spread->w ? 0 : (int)cnn__min((spread->w - x0 + spread->sw - 1) / spread->sw,
                                                              spread->width);
        for (int r = 0; r < rows + spread->halo; r++) {
            const int y = y0 + r * spread->sh;
            if (y < 0 || y >= spread->h || left >= right) continue;
            const float *row = plane + (ptrdiff_t)y * spread->w + x0 + left * spread->sw;
            float *start = to + (ptrdiff_t)r * spread->width + left;
            if (spread->sw == 1)      cnn__copy(start, row, right - left);
            else if (spread->sw == 2) isa->take_even(start, row, right - left);
            else for (int x = 0; x < right - left; x++) start[x] = row[x * spread->sw];
        }
    }
}

/* One product: forward has one, backward-data one for each residue. Output rows 0..ny, columns 0..nx of
   it. */
typedef struct {
    int ny, nx;
    ptrdiff_t k, base;                  /* terms of the sum; place of row 0, column 0 in the output plane */
    float *a;                           /* packed weights of all groups */
    ptrdiff_t *at, *wat;                /* k places in S; in the weights */
    int y0, dy, rows;                   /* row i of the kernel meets image row y SH + y0 + i dy; rows: how
                                           many can be left out, see rows_first */
    ptrdiff_t row;                      /* terms of one row of the kernel */
} cnn__phase;

/* One axis of backward-data for residue r: kernel taps first, first + q, ... (count of them), the first one
   reads from start, each next one step further. */
typedef struct { int first, q, count, start, step, n; } cnn__axis;
CNN__COLD static cnn__axis cnn__axis_of(int r, int size, int k, int s, int p, int d)
{
    int g = s, rest = d;
    while (rest) { int swap = g % rest; g = rest, rest = swap; }
    cnn__axis f = { 0, s / g, 0, 0, -d / g, (size - r + s - 1) / s };
    while (f.first < k && f.first < f.q && (r + p - f.first * d) % s) f.first++;
    if (f.first < k && f.first < f.q) {
        f.count = (k - f.first + f.q - 1) / f.q;
        f.start = (r + p - f.first * d) / s;
    }
    return f;
}

/* Rows of output that share one S: so many that S stays in the L2 cache and rows are not copied too often.
   Places in a plane are ints: no more rows than that allows. */
enum { CNN__SPREAD_FLOATS = 49152,      /* 192 KB */
       CNN__PLANE_FLOATS = 6144 };      /* 24 KB, of the L1 cache: where each plane is met but once */
static int cnn__block_rows(const cnn__spread *spread, int rows, ptrdiff_t floats)
{
    const ptrdiff_t fit = floats / ((ptrdiff_t)spread->c * spread->a * spread->b * spread->width)
                          - spread->halo;
    const ptrdiff_t wish = fit < 2 * spread->halo + 1 ? 2 * spread->halo + 1 : fit;
    const ptrdiff_t most = cnn__min(cnn__min(rows, wish), 1 + INT_MAX / 4 / spread->width);
    return (int)cnn__ceil(rows, cnn__ceil(rows, most));
}

CNN__COLD static cnn__spread cnn__spread_forward(const cnn__conv *conv, const float *x)
{
    const int y = (conv->kh - 1) * conv->dh, z = (conv->kw - 1) * conv->dw;
    return (cnn__spread){ x, conv->ic, conv->h, conv->w, conv->ic / conv->groups, conv->sh, conv->sw,
                         (int)cnn__min(conv->sh, y + 1),
                          (int)cnn__min(conv->sw, z + 1), -conv->ph, -conv->pw, y / conv->sh,
                          conv->ow + z / conv->sw, 0 };
}
CNN__COLD static cnn__spread cnn__spread_backward(const cnn__conv *conv, const float *dy)
{
    int low[2] = { INT_MAX, INT_MAX }, high[2] = { INT_MIN, INT_MIN }, most = 1;
    for (int axis = 0; axis < 2; axis++)
        for (int r = 0; r < (axis ? conv->sw : conv->sh) && r < (axis ? conv->w : conv->h); r++) {
            const cnn__axis f = axis ? cnn__axis_of(r, conv->w, conv->kw, conv->sw, conv->pw, conv->dw)
                                     : cnn__axis_of(r, conv->h, conv->kh, conv->sh, conv->ph, conv->dh);
            if (!f.count) continue;
            const int end = f.start + (f.count - 1) * f.step;
            if (end < low[axis]) low[axis] = end;
            if (f.start > high[axis]) high[axis] = f.start;
            if (axis && f.n > most) most = f.n;
        }
    if (low[0] > high[0] || low[1] > high[1]) low[0] = low[1] = high[0] = high[1] = 0;
    return (cnn__spread){ dy, conv->oc, conv->oh, conv->ow, conv->oc / conv->groups, 1, 1, 1, 1, low[0],
                         low[1],
                          high[0] - low[0], most + high[1] - low[1], 0 };
}

/* Where input pixel (y,x) of plane c, counted from the first that output (0,0) meets, lies in S. There are
   thousands: without division where the stride is 1. */
static inline ptrdiff_t cnn__along(int v, int stride, ptrdiff_t residue, ptrdiff_t step)
{
    return stride == 1 ? v * step : v % stride * residue + v / stride * step;
}
static inline ptrdiff_t cnn__place(const cnn__spread *spread, ptrdiff_t plane, int c, int y, int x)
{
    return c * (spread->a * spread->b * plane) + cnn__along(y, spread->sh, spread->b * plane, spread->width)
        + cnn__along(x, spread->sw, plane, 1);
}

/* The places of all taps (c,i,j) of a forward window. */
static void cnn__taps(const cnn__conv *conv, const cnn__spread *spread, ptrdiff_t plane, ptrdiff_t *at)
{
    for (int c = 0; c < spread->c; c++)
        for (int i = 0; i < conv->kh; i++)
            for (int j = 0; j < conv->kw; j++) *at++ = cnn__place(spread, plane, c, i * conv->dh,
                                                                  j * conv->dw);
}

/* With stride and dilation 1: no padding; less than a kernel of it on each side, so that each window meets
   the image. */
static bool cnn__unpadded(const cnn__conv *conv)
{
    return !conv->ph && !conv->pw && conv->oh == conv->h - conv->kh + 1 && conv->ow == conv->w - conv->kw + 1;
}
static bool cnn__all_meet(const cnn__conv *conv)
{
    return conv->ph < conv->kh && conv->pw < conv->kw && conv->oh <= conv->h + conv->ph && conv->ow <= conv->w
        + conv->pw;
}

static bool cnn__pointwise_fits(const cnn__cpu *cpu, const cnn__conv *conv, int pass)
{                                       /* S would be the image itself */
    return (void)cpu, (void)pass, conv->kh == 1 && conv->kw == 1 && conv->sh == 1 && conv->sw == 1
        && cnn__unpadded(conv);
}

/* Scratch is handed out from front to back; with a NULL base this counts the bytes. */
CNN__COLD static void *cnn__take(char *base, size_t *used, size_t count, size_t size)
{
    void *p = base ? base + *used : NULL;
    *used = cnn__add_size(*used, cnn__round_up(cnn__mul_size(count, size), CNN__ALIGN));
    return p;
}

/* What a pass reads and writes: to is y, dx or dw; packed: w, packed for this shape, or NULL. The tail is for
   y, or NULL; clear is for dx: it begins at zero. */
typedef struct {
    float *to;
    const float *x, *w, *b, *dy;
    float *packed;
    const cnn__tail *tail;
    bool clear;
} cnn__arrays;
static void cnn__apply(cnn_each *f, float *y, const float *x, const float *a, const float *b, const float *k,
                       ptrdiff_t from, ptrdiff_t to, const cnn__tail *tail);
static void cnn__map_then(const cnn__cpu *cpu, cnn_each *f, float *y, const float *x, const float *a,
                          const float *b, const float *k, ptrdiff_t n, const cnn__tail *tail);

/* A tail that is at most an addition, then relu or clamp, can be done in registers: to. */
static bool cnn__ends_of(const cnn__cpu *cpu, const cnn__tail *tail, cnn__ends *to)
{
    static cnn_each *const relu[2] = CNN__LOOPS(cnn__each_relu);
    static cnn_each *const clamp[2] = CNN__LOOPS(cnn__each_clamp);
    static const float positive[2] = { 0.0f, INFINITY };
    int s = 0;
    *to = (cnn__ends){ .clip = NULL };
    if (!tail) return false;
    if (s < tail->steps && tail->step[s].f == cnn__each_add(cpu)) to->more[1] = tail->step[s++].a;
    if (s < tail->steps && tail->step[s].f == cnn__loop(cpu, relu)) to->clip = positive, s++;
    else if (s < tail->steps && tail->step[s].f == cnn__loop(cpu, clamp)) to->clip = tail->step[s++].k;
    return s == tail->steps;
}

/* Elements y[from] .. y[to] are what they should be: now the tail. */
static inline void cnn__complete(const cnn__tail *tail, float *y, ptrdiff_t from, ptrdiff_t to)
{
    if (tail) cnn__apply(NULL, y, y, NULL, NULL, NULL, from, to, tail);
}
/* The same of n elements in each of so many rows, step floats apart. */
static void cnn__complete_rows(const cnn__tail *tail, float *y, ptrdiff_t at, ptrdiff_t n, ptrdiff_t rows,
                               ptrdiff_t step)
{
    if (!tail) return;
    if (n == step) n *= rows, rows = 1;
    for (ptrdiff_t r = 0; r < rows; r++, at += step) {
        for (int s = 0; s < tail->steps && r + 2 < rows; s++)   /* the operand of a row to come */
            for (ptrdiff_t e = 0; e < n && tail->step[s].a; e += CNN__ALIGN / (int)sizeof *y)
                CNN__PREFETCH(tail->step[s].a + at + 2 * step + e);
        cnn__complete(tail, y, at, at + n);
    }
}
enum { CNN__FORWARD, CNN__BACKWARD_DATA, CNN__BACKWARD_WEIGHTS };       /* a pass */

/* forward and backward-data. */
typedef struct {
    const cnn__kernels *u;
    const cnn__conv *t;
    cnn__spread s;
    bool backward, borrow;              /* borrow: S would be the image itself (1x1, stride 1, no padding) */
    bool clear, add;                    /* each block begins at zero; sums are added to what is there */
    bool rows_first;                    /* the order of k is (i,c,j), not (c,i,j) as the weights lie: rows of
                                           the kernel that fall outside the image can be left out, where a
                                           panel of pixels is no longer than a row */
    bool turned;                        /* vectors run along the channels of y, see "Channels in vectors" */
    bool packed;                        /* the weights are packed already */
    bool once;                          /* one block meets each weight: it packs those that it needs next, and
                                           they stay in the L2 cache; else all are packed before */
    int n_phases, rows, block, blocks, high;    /* high: rows of a panel of packed weights, mr or nr */
    ptrdiff_t m, all, out_plane, out_planes, row, col, plane;
    cnn__phase *phase;
    ptrdiff_t *at, *wat;                /* terms: places in S, places in w */
    float *a, *work;
    size_t panel, spread, each;         /* floats of work for one thread: a packed panel, S, packed weights */
    float *y;
    const float *w, *bias;
    const cnn__tail *tail;
    bool fits;                          /* the tail is done in registers where it can: */
    cnn__ends ends;
} cnn__shifted;

enum { CNN__TURNED_KC = 512, CNN__TURNED_PIXELS = 256 };

/* The k block: where b is read from S itself, whose rows overlap, more of it fits the cache. */
static ptrdiff_t cnn__shifted_k(const cnn__shifted *shifted, ptrdiff_t k)
{
    if (shifted->turned) return cnn__ceil(k, cnn__ceil(k, CNN__TURNED_KC));
    return !shifted->borrow && shifted->m <= 3 * shifted->u->mr && k <= 2 * CNN__KC ? k : cnn__k_block(k);
}

/* Rows of the weights that stay in the L2 cache, a k block of each. */
static ptrdiff_t cnn__shifted_rows(const cnn__shifted *shifted)
{
    return cnn__ceil(2 * shifted->u->mr * CNN__MC_PANELS, shifted->high) * shifted->high;
}

/* Multiply-adds. */
static double cnn__conv_work(const cnn__conv *conv)
{
    return (double)conv->n * conv->oh * conv->ow * conv->oc * (conv->ic / conv->groups) * conv->kh * conv->kw;
}

/* Rows of the output that are worked on at a time, at most so many: fewer if there would be too few units for
   the threads. Where S is the image itself, they fill vectors. */
static int cnn__unit_rows(const cnn__shifted *shifted, ptrdiff_t most)
{
    const ptrdiff_t least = cnn__conv_work(shifted->t) < 2 * CNN__SERIAL_WORK ? 1 : shifted->borrow
                            && !shifted->turned ? 8 : 4;
    const ptrdiff_t units = (ptrdiff_t)shifted->t->n * shifted->t->groups * cnn__ceil(shifted->m,
                                                                                      shifted->high);
    ptrdiff_t fair = cnn__ceil(shifted->rows, cnn__ceil(least, units)), step = 1;
    while (shifted->borrow && !shifted->turned && step * shifted->t->ow % shifted->u->nr) step++;
    fair = cnn__ceil(fair, step) * step;
    most = cnn__min(most < 1 ? 1 : most, fair);
    return step > 1 ? (int)cnn__min(shifted->rows, most) : (int)cnn__ceil(shifted->rows,
                                                                          cnn__ceil(shifted->rows, most));
}

/* Turned: pixels whose sums are kept: of a tile or, where the terms come in blocks, of the rows. */
static ptrdiff_t cnn__turned_pixels(const cnn__shifted *shifted, ptrdiff_t k)
{
    return k > cnn__shifted_k(shifted, k) ? (ptrdiff_t)shifted->block * shifted->t->ow : shifted->u->tall;
}

/* Turned: the pixels of each tile lie in one row of S, nx to a row, so that they need not be packed. */
static bool cnn__pixels_lie(const cnn__shifted *shifted, ptrdiff_t nx)
{
    return shifted->borrow || nx % shifted->u->tall == 0;
}

CNN__COLD static cnn__shifted cnn__shifted_plan(const cnn__cpu *cpu, const cnn__conv *conv, bool backward,
                                                bool turned, const cnn__arrays *arrays, char *base,
                                                size_t *used)
{
    cnn__shifted shifted = { .u = cnn__kernels_of(cpu), .t = conv, .backward = backward, .turned = turned,
                       .packed = arrays->packed, .y = arrays->to, .w = arrays->w, .bias = arrays->b,
                       .tail = arrays->tail,
                       .s = backward ? cnn__spread_backward(conv, arrays->dy) : cnn__spread_forward(conv,
                           arrays->x) };
    shifted.fits = cnn__ends_of(cpu, arrays->tail, &shifted.ends);
    const size_t k = (size_t)shifted.s.c * (size_t)conv->kh * (size_t)conv->kw;
    shifted.m = (backward ? conv->ic : conv->oc) / conv->groups;
    shifted.high = turned ? shifted.u->nr : shifted.u->mr, shifted.all = turned ? cnn__ceil(shifted.m,
        shifted.high) * shifted.high : shifted.m;
    shifted.n_phases = backward ? (int)(cnn__min(conv->sh, conv->h) * cnn__min(conv->sw, conv->w)) : 1;
    shifted.rows = backward ? (conv->h + conv->sh - 1) / conv->sh : conv->oh;
    shifted.borrow = cnn__pointwise_fits(cpu, conv, 0);
    shifted.rows_first = backward || (conv->ow >= shifted.u->nr && !turned);
    /* in the order (c,i,j) it is the planes of one k block that should stay in the cache */
    const ptrdiff_t k_blocks = shifted.rows_first ? 1 : cnn__ceil((ptrdiff_t)k, CNN__KC);
    const ptrdiff_t cached = shifted.m > 1 ? k_blocks * CNN__SPREAD_FLOATS : CNN__PLANE_FLOATS;
    shifted.block = cnn__unit_rows(&shifted, !shifted.borrow ? cnn__block_rows(&shifted.s, shifted.rows,
                                                                               cached)
                                 : turned ? CNN__TURNED_PIXELS / conv->ow : shifted.rows);
    shifted.blocks = (int)cnn__ceil(shifted.rows, shifted.block);
    shifted.once = !shifted.packed && !backward && shifted.m > 1 && conv->n == 1 && shifted.blocks == 1;
    shifted.plane = shifted.borrow ? (ptrdiff_t)conv->h * conv->w : cnn__spread_plane(&shifted.s,
                                                                                      shifted.block);
    shifted.out_plane = backward ? (ptrdiff_t)conv->h * conv->w : (ptrdiff_t)conv->oh * conv->ow;
    shifted.out_planes = backward ? conv->ic : conv->oc;
    shifted.row = backward ? (ptrdiff_t)conv->sh * conv->w : conv->ow, shifted.col = backward ? conv->sw : 1;
    shifted.phase = cnn__take(base, used, (size_t)shifted.n_phases, sizeof *shifted.phase);
    shifted.at = cnn__take(base, used, k, sizeof *shifted.at);
    shifted.wat = cnn__take(base, used, k, sizeof *shifted.wat);
    const size_t weights = cnn__mul_size((size_t)conv->groups, cnn__mul_size((size_t)shifted.all, k));
    shifted.a = shifted.packed ? arrays->packed : cnn__take(base, used, shifted.once ? 0 : weights,
                                                            sizeof *shifted.a);
    const ptrdiff_t kb = cnn__shifted_k(&shifted, (ptrdiff_t)k),
                    most = cnn__min(shifted.all, cnn__shifted_rows(&shifted));
    shifted.panel = (size_t)cnn__round_up(turned ? (size_t)(kb * shifted.block * conv->ow + 16
                                                      + cnn__turned_pixels(&shifted, (ptrdiff_t)k) * most)
                                    : shifted.m == 1 ? (size_t)shifted.block * (size_t)shifted.s.width
                                    : (size_t)((CNN__KC + 1) * shifted.u->nr), 16);
    shifted.spread = shifted.borrow ? 0
        : cnn__round_up((size_t)(cnn__spread_size(&shifted.s, shifted.block) + shifted.u->nr), 16);
    shifted.each = shifted.panel + shifted.spread + (shifted.once ? cnn__round_up((size_t)(most * kb), 16)
                                                     : 0);
    shifted.work = cnn__take(base, used, cnn__mul_size((size_t)cpu->threads, shifted.each),
                             sizeof *shifted.work);
    return shifted;
}

/* forward: kc terms from b on of ni rows of the weights, side by side. Where they lie in the order (c,i,j)
   and are wanted in the order (i,c,j), a few channels are packed as they lie, then a row of the kernel is
   picked. */
static void cnn__pack_taps(const cnn__shifted *shifted, float *to, int ni, const float *w, ptrdiff_t b,
                           ptrdiff_t kc)
{
    enum { FLOATS = 1024 };
    const int kh = shifted->t->kh, kw = shifted->t->kw, taps = kh * kw, few = FLOATS / (CNN__MAX_MR * taps);
    const ptrdiff_t row = (ptrdiff_t)shifted->s.c * taps, line = (ptrdiff_t)shifted->s.c * kw;
    float all[FLOATS];
    if (shifted->turned) { cnn__pack(shifted->u, to, shifted->high, w + b, row, 1, ni, kc); return; }
    if (kh == 1 || !shifted->rows_first) { shifted->u->pack(to, ni, w + b, row, NULL, kc); return; }
    for (ptrdiff_t k = b, n; k < b + kc; k += n) {
        const ptrdiff_t i = k / line, c = k % line / kw, j = k % kw;
        if (j || !few || b + kc - k < kw) {                     /* part of a row, or a large kernel */
            n = 1;
            for (ptrdiff_t r = 0; r < ni; r++) *to++ = w[r * row + c * taps + i * kw + j];
            continue;
        }
        const ptrdiff_t planes = cnn__min(cnn__min(few, shifted->s.c - c), (b + kc - k) / kw);
        shifted->u->pack(all, ni, w + c * taps + i * kw, row, NULL, (planes - 1) * taps + kw);
        for (ptrdiff_t e = 0; e < planes; e++, to += kw * ni)
            memcpy(to, all + e * taps * ni, (size_t)(kw * ni) * sizeof *to);
        n = planes * kw;
    }
}

/* Phase f, whose terms start at number done of all: its places in S and in the weights. */
static void cnn__phase_of(const cnn__shifted *shifted, cnn__phase *p, int f, ptrdiff_t done)
{
    const cnn__conv *conv = shifted->t;
    const cnn__spread *spread = &shifted->s;
    const int sx = (int)cnn__min(conv->sw, conv->w);
    const ptrdiff_t taps = (ptrdiff_t)conv->kh * conv->kw, w_plane = shifted->backward ? shifted->m * taps
                           : taps;
    cnn__axis v = { 0, 1, conv->kh, -conv->ph, conv->dh, conv->oh },
              h = { 0, 1, conv->kw, -conv->pw, conv->dw, conv->ow };
    if (shifted->backward) {
        v = cnn__axis_of(f / sx, conv->h, conv->kh, conv->sh, conv->ph, conv->dh);
        h = cnn__axis_of(f % sx, conv->w, conv->kw, conv->sw, conv->pw, conv->dw);
    }
    *p = (cnn__phase){ v.n, h.n, (ptrdiff_t)spread->c * v.count * h.count,
                       shifted->backward ? (ptrdiff_t)(f / sx) * conv->w + f % sx : 0,
                       shifted->a + done * shifted->all * conv->groups, shifted->at + done,
                       shifted->wat + done, v.start, v.step,
                       shifted->rows_first ? v.count : 1, (ptrdiff_t)spread->c * h.count };
    const int outer = p->k ? (shifted->rows_first ? v.count : spread->c) : 0, inner = shifted->rows_first
                      ? spread->c : v.count;
    ptrdiff_t *at = p->at, *wat = p->wat;
    for (int o = 0; o < outer; o++)
        for (int n = 0; n < inner; n++)
            for (int j = 0; j < h.count; j++) {
                const int i = shifted->rows_first ? o : n, c = shifted->rows_first ? n : o;
                const int y = v.start + i * v.step - spread->y0, x = h.start + j * h.step - spread->x0;
                *at++ = cnn__place(spread, shifted->plane, c, y, x);
                *wat++ = c * w_plane + (v.first + (ptrdiff_t)i * v.q) * conv->kw + h.first + j * h.q;
            }
}

/* The weights of a phase, packed k block after k block, row panel after row panel: a panel of r rows is a run
   of kc*r floats. A unit is a row panel of a group. */
typedef struct { const cnn__shifted *q; const cnn__phase *p; } cnn__packing;
static void cnn__shifted_pack_job(const void *job, ptrdiff_t from, ptrdiff_t to, int thread)
{
    const cnn__shifted *shifted = ((const cnn__packing *)job)->q;
    const cnn__phase *p = ((const cnn__packing *)job)->p;
    const int mr = shifted->high;
    const ptrdiff_t taps = (ptrdiff_t)shifted->t->kh * shifted->t->kw, panels = cnn__ceil(shifted->m, mr);
    const ptrdiff_t w_row = shifted->backward ? taps : shifted->s.c * taps,
                    kb = cnn__shifted_k(shifted, p->k);
    (void)thread;
    for (; from < to; from++) {
        const ptrdiff_t g = from / panels, i = from % panels * mr, ni = cnn__min(mr, shifted->m - i);
        const float *w = shifted->w + g * shifted->m * shifted->s.c * taps + i * w_row;
        for (ptrdiff_t b = 0; b < p->k; b += kb) {
            const ptrdiff_t kc = cnn__min(kb, p->k - b);
            float *a = p->a + g * shifted->all * p->k + b * shifted->all + i * kc;
            if (!shifted->backward) {
                cnn__pack_taps(shifted, a, (int)ni, w, b, kc);
                continue;
            }
            for (ptrdiff_t k = 0; k < kc; k++, a += ni)
                for (ptrdiff_t r = 0; r < ni; r++) a[r] = w[p->wat[b + k] + r * w_row];
        }
    }
}

static void cnn__shifted_pack(const cnn__cpu *cpu, const cnn__shifted *shifted)
{
    ptrdiff_t done = 0;
    for (int f = 0; f < shifted->n_phases; f++) {
        cnn__phase *p = &shifted->phase[f];
        const cnn__packing job = { shifted, p };
        cnn__phase_of(shifted, p, f, done);
        done += p->k;
        if (shifted->once || shifted->packed || !p->k) continue;
        /* a float that is packed counts as 16 multiply-adds */
        cnn__share_out(cpu, 16.0 * (double)p->k * (double)shifted->m * shifted->t->groups,
                       cnn__ceil(shifted->m, shifted->high) * shifted->t->groups, cnn__shifted_pack_job,
                       &job);
    }
}

static inline void cnn__add(float *to, const float *v, ptrdiff_t n)
{
    for (; n >= 8; n -= 8, to += 8, v += 8) {
        float a[8], b[8];               /* copies: the compiler need not fear that to and v overlap */
        memcpy(a, to, sizeof a), memcpy(b, v, sizeof b);
        for (int e = 0; e < 8; e++) a[e] += b[e];
        memcpy(to, a, sizeof a);
    }
    for (; n > 0; n--) *to++ += *v++;
}

/* Put the valid pixels of a tile: columns j .. j+nr of the block, width to a row of S. */
static void cnn__put_tile(float *y, const float *tile, int nr, int ni, const cnn__shifted *shifted, int j,
                          int width, int nx, int end, bool add)
{
    const int last = (int)cnn__min(j + nr, end);
    for (int from = j, r = j / width; from < last; from = ++r * width) {
        const int x = from - r * width, n = (int)cnn__min(nx, last - r * width) - x;
        for (int s = 0; s < ni; s++) {
            float *to = y + s * shifted->out_plane + r * shifted->row + x * shifted->col;
            const float *v = tile + s * nr + from - j;
            if (shifted->col == 2 && add) shifted->u->add_even(to, v, n);
            else if (shifted->col != 1)
                for (int e = 0; e < n; e++) to[e * shifted->col] = add ? to[e * shifted->col] + v[e] : v[e];
            else if (add) cnn__add(to, v, n);
            else          cnn__copy(to, v, n);
        }
    }
}

/* A panel of nr pixels from j on, nx to a row of the image and width to a row of S. Full-vector stores:
   the next one overwrites the excess lanes, or they lie behind the panel. */
static void cnn__fill_pixels(float *to, int nr, const float *s, const ptrdiff_t *at, ptrdiff_t np, int j,
                             int nx, int width, int end)
{
    int place[CNN__MAX_NR], from[CNN__MAX_NR], runs = 0;
    for (int z = j; z < j + nr && z < end; z = (z / nx + 1) * nx)
        place[runs] = z - j, from[runs++] = z / nx * width + z % nx;
    for (ptrdiff_t p = 0; p < np; p++, to += nr)
        for (int r = 0; r < runs; r++)
            for (int e = 0; e < nr; e += 8)
                memcpy(to + place[r] + e, s + at[p] + from[r] + e, 8 * sizeof *to);
}

/* A tile of n pixels from j on, nx to a row of the image and width to a row of S: to[p*n + z]. */
static void cnn__fill_tile(float *to, int n, const float *s, const ptrdiff_t *at, ptrdiff_t np, int j, int nx,
                           int width)
{
    int place[CNN__MAX_MR + 1], from[CNN__MAX_MR], runs = 0;
    for (int z = j; z < j + n; z = (z / nx + 1) * nx)
        place[runs] = z - j, from[runs++] = z / nx * width + z % nx;
    place[runs] = n;
    for (ptrdiff_t p = 0; p < np; p++, to += n)
        for (int r = 0; r < runs; r++)
            cnn__copy(to + place[r], s + at[p] + from[r], place[r + 1] - place[r]);
}

/* The pixels of a block of output rows are the columns of a product: pixel (r, x) is column r*step + x. They
   are cut into panels of nr columns in one of four ways. */
typedef enum {
    CNN__FLAT,                          /* S is as wide as the output: tiles go straight to it */
    CNN__ACROSS,                        /* panels run on over what lies between rows of S; it is dropped */
    CNN__BY_ROW,                        /* no panel crosses the end of a row */
    CNN__PIXELS                         /* a panel is a copy of pixels alone, of one row or several */
} cnn__cut;
typedef struct {
    const cnn__shifted *q;
    const cnn__phase *p;
    cnn__cut cut;
    bool overlap;                       /* by row: the last panel ends where the row does; */
    bool spill;                         /* or goes on in the rows below it, which come later */
    bool ends;                          /* these are the last terms, and the tail is done in registers */
    int from;                           /* the first output row of the block */
    int nx, ny, step, end;              /* pixels of a row; rows; columns of a row and in all */
    const float *s;                     /* S, or the image itself */
    float *y, *panel, *mine;            /* pixel (0, 0) of row 0; one panel of S; packed weights (once) */
    ptrdiff_t g;
    const ptrdiff_t *packed;            /* places in a packed panel */
} cnn__area;

/* How the block from output row `from` on is cut. By row: where that takes no more panels, or sums are short.
   Pixels alone: for many sums only, as this copy takes longer. */
enum { CNN__FEW_PANELS = 3,             /* row panels of weights that do not repay copying a panel of S */
       CNN__SHORT_SUM = 64 };           /* terms */
static void cnn__cut_block(cnn__area *d)
{
    const cnn__shifted *shifted = d->q;
    const cnn__phase *p = d->p;
    const int rows = (int)cnn__min(p->ny - d->from, shifted->block), nr = shifted->u->nr;
    const int width = shifted->borrow ? rows * p->nx : shifted->s.width;
    d->nx = shifted->borrow ? width : p->nx, d->ny = shifted->borrow ? 1 : rows;
    const bool dense = shifted->col == 1;
    const bool sets = dense && !shifted->add && cnn__shifted_k(shifted, p->k) == p->k;
    if (shifted->turned) d->cut = CNN__PIXELS;
    else if (dense && width == d->nx && (shifted->row == width || d->ny == 1)) d->cut = CNN__FLAT;
    else if (dense && shifted->row == d->nx && shifted->m > CNN__FEW_PANELS * shifted->u->mr
             && p->k > CNN__KC)
        d->cut = CNN__PIXELS;
    else if (cnn__ceil(d->nx, nr) * nr <= width || (p->k <= CNN__SHORT_SUM && sets
                                                    && cnn__ceil(d->nx, nr / 2) * nr * 3 <= d->nx * 8))
        d->cut = CNN__BY_ROW;
    else d->cut = CNN__ACROSS;
    const bool free = d->cut == CNN__BY_ROW && sets;
    d->overlap = free && d->nx >= nr, d->spill = free && d->nx < nr && shifted->row == d->nx;
    d->step = d->cut == CNN__PIXELS ? d->nx : width, d->end = (d->ny - 1) * d->step + d->nx;
}

/* Of the terms *k0 .. *k1, leave out the first and last rows of the kernel that meet nothing but zeros in all
   output rows first .. last. */
static void cnn__skip_rows(const cnn__area *d, int first, int last, ptrdiff_t *k0, ptrdiff_t *k1)
{
    const cnn__phase *p = d->p;
    const int top = (d->from + first) * d->q->s.sh + p->y0, bottom = (d->from + last) * d->q->s.sh + p->y0;
    const int h = d->q->s.h;
    int c0 = 0, c1 = p->rows;
    while (c0 < c1 && (bottom + c0 * p->dy < 0 || top + c0 * p->dy >= h)) c0++;
    while (c1 > c0 && (bottom + (c1 - 1) * p->dy < 0 || top + (c1 - 1) * p->dy >= h)) c1--;
    const ptrdiff_t none = *k0;
    if (c0 * p->row > *k0) *k0 = c0 * p->row;
    *k1 = cnn__min(*k1, c1 * p->row);
    if (*k1 < *k0) *k0 = *k1 = none;
}

/* Copy terms k0 .. k1 of the columns from j on to the panel if rows of the weights, so many, repay that or if
   they cannot be read where they lie. */
static bool cnn__copy_panel(const cnn__area *d, int j, ptrdiff_t k0, ptrdiff_t k1, ptrdiff_t rows)
{
    const cnn__shifted *shifted = d->q;
    const int nr = shifted->u->nr;
    const ptrdiff_t *at = d->p->at + k0, n = k1 - k0;
    if (shifted->borrow && j + nr > d->end) {                 /* the image ends here */
        memset(d->panel, 0, (size_t)(n * nr) * sizeof *d->panel);
        for (ptrdiff_t e = 0; e < n; e++) cnn__copy(d->panel + e * nr, d->s + at[e] + j, d->end - j);
        return true;
    }
    if (d->cut == CNN__PIXELS) {
        cnn__fill_pixels(d->panel, nr, d->s, at, n, j, d->nx, shifted->s.width, d->end);
        return true;
    }
    const bool pays = rows > CNN__FEW_PANELS * shifted->u->mr && (shifted->borrow || d->p->k > CNN__KC);
    if (pays) shifted->u->panel(d->panel, d->s + j, at, n);
    return pays;
}

/* One panel, from pixel (r, x) on: terms b0 .. b0+kc of rows ic .. ic+in of the weights, packed in a. */
static void cnn__shifted_panel(const cnn__area *d, int r, int x, ptrdiff_t b0, ptrdiff_t kc, ptrdiff_t ic,
                               ptrdiff_t in, const float *a)
{
    const cnn__shifted *shifted = d->q;
    const int mr = shifted->u->mr, nr = shifted->u->nr, j = r * d->step + x;
    const int stop = (int)cnn__min(j + nr, d->cut == CNN__BY_ROW ? r * d->step + d->nx : d->end);
    const bool straight = d->cut == CNN__FLAT || d->cut == CNN__PIXELS;
    const int place = straight ? j : r * (int)shifted->row + x;
    const bool direct = d->spill ? place + nr <= d->ny * d->nx
                      : j + nr <= stop && (straight || (shifted->col == 1 && x + nr <= d->nx));
    const bool add = shifted->add || b0 > 0;
    float tile[CNN__MAX_MR * CNN__MAX_NR];
    ptrdiff_t k0 = b0, k1 = b0 + kc;
    if (d->p->rows > 1) cnn__skip_rows(d, r, d->cut == CNN__BY_ROW ? r : (stop - 1) / d->step, &k0, &k1);
    const bool copied = cnn__copy_panel(d, j, k0, k1, in);
    float *y = d->y + ic * shifted->out_plane;
    const float *next = shifted->borrow && k1 > k0 && j + nr < d->end ? d->s + j + nr + d->p->at[k0] : NULL;
    for (ptrdiff_t i = 0; i < in; i += mr, y += mr * shifted->out_plane) {
        const int ni = (int)cnn__min(mr, in - i);
        float *to = direct ? y + place : tile;
        cnn__ends ends = { .bias = shifted->bias && b0 == 0 ? shifted->bias + d->g * shifted->m + ic + i
                          : NULL,
                           .more = { direct && add ? to : NULL } };
        if (direct && d->ends && shifted->ends.more[1]) ends.more[1] = shifted->ends.more[1]
            + (to - shifted->y);
        if (direct && d->ends) ends.clip = shifted->ends.clip;
        shifted->u->micro_then(ni, direct && !d->spill ? nr : stop - j, k1 - k0, a + i * kc + (k0 - b0) * ni,
                         ni, NULL, copied ? d->panel : d->s + j, copied ? d->packed : d->p->at + k0, to,
                         direct ? shifted->out_plane : nr, &ends,
                         next && i < 2 * mr ? next + i / mr * shifted->u->lanes : NULL, shifted->plane);
        if (direct) continue;
        cnn__put_tile(y, tile, nr, ni, shifted, j, d->step, d->nx, stop, add);
        if (d->ends) cnn__complete_rows(shifted->tail, shifted->y, y - shifted->y + place, stop - j, ni,
                                        shifted->out_plane);
    }
}

/* ---- Channels in vectors ----

   A small image fills vectors of pixels badly: 7x7 is 49 of 64. So the parts are exchanged: the broadcast
   operand of micro is a tile of up to `tall` pixels, packed, and its vectors are the weights of nr output
   channels. Each tile is turned when its last terms are in. Lower bound: the multiply-adds of the formula, m
   rounded up to a vector; turning takes some 3 operations for each vector of y. The weights of the next nr
   channels come from memory meanwhile. */
static void cnn__turned_terms(const cnn__area *d, ptrdiff_t b0, ptrdiff_t kc, ptrdiff_t ic, ptrdiff_t in,
                              const float *a)
{
    const cnn__shifted *shifted = d->q;
    const int nr = shifted->u->nr, tall = shifted->u->tall;
    const bool last = b0 + kc == d->p->k;
    const bool kept = d->p->k > cnn__shifted_k(shifted, d->p->k);
    float *y = d->y + ic * shifted->out_plane;
    const bool lie = cnn__pixels_lie(shifted, d->nx);
    float *tile = d->panel + (lie ? 0 : cnn__round_up((size_t)(cnn__shifted_k(shifted, d->p->k) * d->end),
                                                      16));
    ptrdiff_t packed[CNN__TURNED_KC];
    for (ptrdiff_t p = 0; p < kc; p++) packed[p] = p * nr;
    ptrdiff_t tiles = 0;
    for (int j = 0, n; j < d->end; j += n, tiles++) {
        n = cnn__tile_rows(d->end - j, tall);
        if (!lie) cnn__fill_tile(d->panel + j * kc, n, d->s, d->p->at + b0, kc, j, d->nx, shifted->s.width);
    }
    const ptrdiff_t step = cnn__ceil(nr, tiles);
    for (ptrdiff_t i = 0; i < in; i += nr, a += nr * kc) {
        const int ni = (int)cnn__min(nr, in - i);
        const float *ahead = a + nr * kc;
        for (int j = 0, n; j < d->end; j += n, ahead += kc * step) {
            float *sums = kept ? tile + i * d->end + j * nr : tile;
            n = cnn__tile_rows(d->end - j, tall);
            const cnn__ends ends = { .more = { b0 > 0 ? sums : NULL } };
            const float *pixels = d->panel + j * kc;
            /* planes are evenly far apart */
            if (shifted->borrow) pixels = d->s + d->p->at[b0] + j;
            else if (lie)  pixels = d->s + j / d->nx * shifted->s.width + j % d->nx;
            shifted->u->micro_then(n, ni, kc, pixels, shifted->borrow ? shifted->plane : n,
                             lie && !shifted->borrow ? d->p->at + b0 : NULL, a, packed, sums, nr, &ends,
                             ahead,
                             step);
            if (last) shifted->u->turn(n, ni, sums, nr, y + i * shifted->out_plane + j, shifted->out_plane,
                                 shifted->bias ? shifted->bias + d->g * shifted->m + ic + i : NULL);
        }
        if (last) cnn__complete_rows(shifted->tail, shifted->y, y + i * shifted->out_plane - shifted->y,
                                     d->end, ni, shifted->out_plane);
    }
}

/* All panels of the block, terms b0 .. b0+kc of rows ic .. ic+in of the weights. With the last terms the tail
   follows, some pixels of all rows at a time. */
enum { CNN__TAIL_PIXELS = 256 };
static void cnn__shifted_terms(const cnn__area *d, ptrdiff_t b0, ptrdiff_t kc, ptrdiff_t ic, ptrdiff_t in)
{
    const cnn__shifted *shifted = d->q;
    const int nr = shifted->u->nr;
    const float *a = shifted->once ? d->mine : d->p->a + d->g * shifted->all * d->p->k + b0 * shifted->all
                     + ic * kc;
    for (ptrdiff_t i = 0; i < in && shifted->once; i += shifted->high)
        cnn__pack_taps(shifted, d->mine + i * kc, (int)cnn__min(shifted->high, in - i),
                       shifted->w + (d->g * shifted->m + ic + i) * d->p->k, b0, kc);
    if (shifted->turned) { cnn__turned_terms(d, b0, kc, ic, in, a); return; }
    const bool straight = d->cut == CNN__FLAT || d->cut == CNN__PIXELS, last = b0 + kc == d->p->k;
    cnn__area block = *d;
    block.ends = shifted->fits && last && (straight || d->overlap || d->spill);
    ptrdiff_t done = 0;
    for (int r = 0, x = 0; r * d->step + x < d->end; ) {
        if (d->overlap && x + nr > d->nx) x = d->nx - nr;       /* some pixels twice: the same values */
        cnn__shifted_panel(&block, r, x, b0, kc, ic, in, a);
        x += nr;
        if (d->cut != CNN__BY_ROW) r += x / d->step, x %= d->step;
        else if (x >= d->nx)       r++, x = 0;
        if (!shifted->tail || !last || block.ends) continue;
        const bool      all = r * d->step + x >= d->end;
        const ptrdiff_t ready = all ? (d->ny - 1) * shifted->row + d->nx : straight ? r * d->step + x
                                : r * shifted->row;
        if (ready - done < CNN__TAIL_PIXELS && !all) continue;
        cnn__complete_rows(shifted->tail, shifted->y, d->y - shifted->y + ic * shifted->out_plane + done,
                           ready - done, in,
                           shifted->out_plane);
        done = ready;
    }
}

/* A block of output rows of one group of one image, rows i0..i1 of the weights. */
static void cnn__shifted_block(const cnn__shifted *shifted, ptrdiff_t n, ptrdiff_t g, int from, ptrdiff_t i0,
                               ptrdiff_t i1, float *work)
{
    const ptrdiff_t mc = cnn__shifted_rows(shifted);
    ptrdiff_t packed[CNN__KC];
    float *copy = work + shifted->panel, *y = shifted->y + (n * shifted->out_planes + g * shifted->m)
                  * shifted->out_plane + from * shifted->row;
    cnn__area d = { .q = shifted, .from = from, .s = copy, .panel = work, .mine = copy + shifted->spread,
                   .g = g,
                     .packed = packed };
    for (int p = 0; p < CNN__KC && shifted->m > 1; p++) packed[p] = p * shifted->u->nr;
    if (shifted->borrow) d.s = shifted->s.x + (n * shifted->s.planes + g * shifted->s.c) * shifted->plane
                               + from * shifted->row;
    else           cnn__spread_copy(shifted->u, &shifted->s, copy, n, g * shifted->s.c, shifted->s.c, from,
                                    shifted->block);
    const ptrdiff_t out = cnn__min(shifted->block * shifted->row, shifted->out_plane - from * shifted->row);
    for (ptrdiff_t i = i0; i < i1 && shifted->clear; i++)
        memset(y + i * shifted->out_plane, 0, (size_t)out * sizeof *y);
    for (int f = 0; f < shifted->n_phases; f++) {
        const cnn__phase *p = d.p = &shifted->phase[f];
        if (!p->k || p->ny <= from) continue;
        const ptrdiff_t kb = cnn__shifted_k(shifted, p->k);
        d.y = y + p->base;
        cnn__cut_block(&d);
        if (shifted->m == 1) {                /* one output: a filter along the rows */
            const int width = shifted->borrow ? d.nx : shifted->s.width, end = (d.ny - 1) * width + d.nx;
            shifted->u->fir(end, p->k, p->a + g * p->k, d.s, p->at, shifted->bias ? shifted->bias[g] : 0.0f,
                            d.panel);
            cnn__put_tile(d.y, d.panel, end, 1, shifted, 0, width, d.nx, end, shifted->add);
            cnn__complete(shifted->tail, shifted->y, d.y - shifted->y, d.y - shifted->y + (d.ny - 1)
                          * shifted->row + d.nx);
            continue;
        }
        const ptrdiff_t rows = shifted->turned ? mc : i1 - i0;        /* turned: the sums of these are kept */
        for (ptrdiff_t r = i0; r < i1; r += rows)
            for (ptrdiff_t b = 0; b < p->k; b += kb)
                for (ptrdiff_t i = r; i < cnn__min(r + rows, i1); i += mc)
                    cnn__shifted_terms(&d, b, cnn__min(kb, p->k - b), i, cnn__min(mc, i1 - i));
    }
}

/* A unit is a row panel of the weights in a block of a group of an image. */
static void cnn__shifted_job(const void *job, ptrdiff_t from, ptrdiff_t to, int thread)
{
    const cnn__shifted *shifted = job;
    const ptrdiff_t mr = shifted->high, panels = cnn__ceil(shifted->m, mr);
    for (ptrdiff_t end; from < to; from = end) {
        const ptrdiff_t block = from / panels, image = block / shifted->blocks;
        end = cnn__min(to, (block + 1) * panels);
        cnn__shifted_block(shifted, image / shifted->t->groups, image % shifted->t->groups,
                           (int)(block % shifted->blocks) * shifted->block,
                           (from - block * panels) * mr, cnn__min((end - block * panels) * mr, shifted->m),
                           shifted->work + (size_t)thread * shifted->each);
    }
}

static void cnn__shifted_run(const cnn__cpu *cpu, cnn__shifted *shifted, bool clear)
{
    const cnn__conv *conv = shifted->t;
    cnn__shifted_pack(cpu, shifted);
    /* a single phase meets each pixel once, and sets it */
    shifted->clear = clear && !(shifted->n_phases == 1 && shifted->phase->k);
    shifted->add = shifted->backward && (!clear || shifted->clear);
    cnn__share_out(cpu, cnn__conv_work(conv), (ptrdiff_t)conv->n * conv->groups * shifted->blocks
                   * cnn__ceil(shifted->m, shifted->high),
                   cnn__shifted_job, shifted);
}

/* backward-data with stride 1, as a convolution from dy to dx; its kernel is turned by 180 degrees. */
static cnn__conv cnn__turned(const cnn__conv *conv)
{
    cnn__conv p = *conv;
    p.ic = conv->oc, p.oc = conv->ic, p.h = conv->oh, p.w = conv->ow, p.oh = conv->h, p.ow = conv->w;
    p.ph = conv->kh - 1 - conv->ph, p.pw = conv->kw - 1 - conv->pw;
    return p;
}

/* ---- Small images, several side by side: forward and backward-data with stride 1 ----

   A row of ten pixels fills 16 lanes badly. So nr images of a batch lie side by side, X[c][y][x][image], and
   an output pixel of all of them is one tile of cnn__micro: its b are rows of nr floats, and taps that meet
   padding are left out pixel by pixel, so that no multiplication is by zero. backward-data is forward from dy
   with the kernel turned by 180 degrees and padding K - 1 - P. Lower bound: the multiply-adds of the formula;
   the two transpositions move each float twice. */
typedef struct {
    const cnn__kernels *u;
    bool backward, add;
    int c, m, h, w, oh, ow, kh, kw, ph, pw;         /* of the pass */
    ptrdiff_t blocks, in, out, k;       /* floats of an image, of its result; terms of a sum */
    ptrdiff_t *at;                      /* of terms, in the order (i,j,c), from the first one met on */
    float *a, *work, *y;
    const float *x, *bias;
    const cnn__tail *tail;
    size_t each;
} cnn__side;

static bool cnn__side_fits(const cnn__cpu *cpu, const cnn__conv *conv, int pass)
{
    return conv->groups == 1 && conv->sh == 1 && conv->sw == 1 && conv->dh == 1 && conv->dw == 1
        && cnn__all_meet(conv)
        && conv->n % cnn__kernels_of(cpu)->nr == 0 && pass != CNN__BACKWARD_WEIGHTS;
}

CNN__COLD static cnn__side cnn__side_plan(const cnn__cpu *cpu, const cnn__conv *conv, bool backward,
                                          const cnn__arrays *arrays, char *base, size_t *used)
{
    const cnn__conv p = backward ? cnn__turned(conv) : *conv;
    cnn__side side = { .u = cnn__kernels_of(cpu), .backward = backward, .add = backward && !arrays->clear,
                      .c = p.ic, .m = p.oc, .h = p.h,
                      .w = p.w,
                    .oh = p.oh, .ow = p.ow, .kh = p.kh, .kw = p.kw, .ph = p.ph, .pw = p.pw,
                    .y = arrays->to, .x = backward ? arrays->dy : arrays->x, .bias = arrays->b,
                    .tail = arrays->tail };
    side.in = (ptrdiff_t)side.c * side.h * side.w, side.out = (ptrdiff_t)side.m * side.oh * side.ow;
    side.k = (ptrdiff_t)side.c * side.kh * side.kw, side.blocks = conv->n / side.u->nr;
    side.at = cnn__take(base, used, (size_t)side.k, sizeof *side.at);
    side.a = arrays->packed ? arrays->packed : cnn__take(base, used,
        cnn__mul_size((size_t)side.m, (size_t)side.k), sizeof *side.a);
    side.each = cnn__mul_size((size_t)(side.in > side.out ? side.in : side.out) + (size_t)side.out,
                              (size_t)side.u->nr);
    side.work = cnn__take(base, used, cnn__mul_size((size_t)cpu->threads, side.each), sizeof *side.work);
    return side;
}

/* Weights in the order (i,j,c), row panel after row panel. */
static void cnn__side_pack(const cnn__side *side, const float *w)
{
    const int taps = side->kh * side->kw;
    for (int r = 0; r < side->m; r++) {
        const int first = r / side->u->mr * side->u->mr, ni = (int)cnn__min(side->u->mr, side->m - first);
        float *to = side->a + first * side->k + (r - first);
        for (int tap = 0; tap < taps; tap++)
            for (int c = 0; c < side->c; c++, to += ni)
                *to = side->backward ? w[((ptrdiff_t)c * side->m + r) * taps + taps - 1 - tap]
                                  : w[((ptrdiff_t)r * side->c + c) * taps + tap];
    }
}

/* Rows i0 .. i1 of the weights, for one block of images. The terms of a sum are of one piece where no column
   of the kernel is left out, otherwise they are of one piece for each row of it. */
static void cnn__side_block(const cnn__side *side, ptrdiff_t block, ptrdiff_t i0, ptrdiff_t i1, float *work)
{
    const int nr = side->u->nr, mr = side->u->mr;
    const ptrdiff_t plane = (ptrdiff_t)side->oh * side->ow, part = (i1 - i0) * plane;
    float *sums = work, *s = work + side->out * nr;
    side->u->pack(s, nr, side->x + block * nr * side->in, side->in, NULL, side->in);
    for (ptrdiff_t p = 0; p < plane; p++) {
        const ptrdiff_t y0 = p / side->ow - side->ph, x0 = p % side->ow - side->pw;
        const ptrdiff_t top = y0 < 0 ? -y0 : 0, bottom = cnn__min(side->kh, side->h - y0);
        const ptrdiff_t left = x0 < 0 ? -x0 : 0, right = cnn__min(side->kw, side->w - x0);
        const ptrdiff_t step = right - left == side->kw ? bottom - top : 1;
        for (ptrdiff_t i = i0; i < i1; i += mr) {
            const int ni = (int)cnn__min(mr, i1 - i);
            for (ptrdiff_t r = top; r < bottom; r += step)
                side->u->micro(ni, nr, (step > 1 ? step * side->kw : right - left) * side->c,
                            side->a + i * side->k + (r * side->kw + left) * side->c * ni,
                            s + ((y0 + r) * side->w + x0 + left) * nr, side->at,
                            sums + ((i - i0) * plane + p) * nr, plane * nr,
                            side->bias && r == top ? side->bias + i : NULL, r > top, NULL, 0);
        }
    }
    /* turned back, in the place of the images */
    side->u->pack(s, (int)part, sums, nr, NULL, nr);
    for (ptrdiff_t n = 0; n < nr; n++, s += part) {
        float *to = side->y + (block * nr + n) * side->out + i0 * plane;
        if (side->add) cnn__add(to, s, part);
        else           cnn__copy(to, s, part);
        cnn__complete(side->tail, side->y, to - side->y, to - side->y + part);
    }
}

/* A unit is a row panel of the weights in a block of images. */
static void cnn__side_job(const void *job, ptrdiff_t from, ptrdiff_t to, int thread)
{
    const cnn__side *side = job;
    const ptrdiff_t mr = side->u->mr, panels = cnn__ceil(side->m, mr);
    for (ptrdiff_t end; from < to; from = end) {
        const ptrdiff_t block = from / panels;
        end = cnn__min(to, (block + 1) * panels);
        cnn__side_block(side, block, (from - block * panels) * mr,
                        cnn__min((end - block * panels) * mr, side->m),
                        side->work + (size_t)thread * side->each);
    }
}

static void cnn__side_run(const cnn__cpu *cpu, const cnn__side *side)
{
    const int taps = side->kh * side->kw;
    for (int tap = 0; tap < taps; tap++)                        /* the terms, in the order of the weights */
        for (int c = 0; c < side->c; c++)
            side->at[tap * side->c + c] = (((ptrdiff_t)c * side->h + tap / side->kw) * side->w
                                           + tap % side->kw) * side->u->nr;
    cnn__share_out(cpu, (double)side->blocks * side->u->nr * (double)side->out * (double)side->k,
                   side->blocks * cnn__ceil(side->m, side->u->mr), cnn__side_job, side);
}

/* ---- backward-data as columns: channels along the vectors ----

       D (pixels, C KH KW) = dY^T (pixels, OC) W (OC, C KH KW)
       dx[c][oy SH - PH + i DH][ox SW - PW + j DW] += D

   The weights are taken as they lie, the pixels of several images together, so that neither strides nor small
   planes leave lanes empty. Pixels are packed in row panels; each tile of D is added to dx at once. Lower
   bound: the multiply-adds of the formula; each number of D is moved to its place by itself, for OC of them,
   so this pays for many output channels. */
typedef struct {
    const cnn__kernels *u;
    const cnn__conv *t;
    int images, channels;               /* images at a time; channels of a unit */
    ptrdiff_t pixels, k, kb;            /* pixels of so many images; OC, some at a time */
    ptrdiff_t *at;                      /* places in a packed panel */
    float *work, *dx;
    const float *dy, *w;
    bool clear;
    size_t each;
} cnn__columns;

static bool cnn__columns_fit(const cnn__cpu *cpu, const cnn__conv *conv, int pass)
{
    return (void)cpu, pass == CNN__BACKWARD_DATA && conv->groups == 1;
}

CNN__COLD static cnn__columns cnn__columns_plan(const cnn__cpu *cpu, const cnn__conv *conv,
                                                const cnn__arrays *arrays, char *base, size_t *used)
{
    enum { PIXELS = 384, TERMS = 512 };         /* for which a panel of the weights is copied; of a sum */
    cnn__columns q = { .u = cnn__kernels_of(cpu), .t = conv, .k = conv->oc, .dy = arrays->dy, .w = arrays->w,
                      .dx = arrays->to, .clear = arrays->clear };
    q.channels = (int)cnn__min(q.u->nr, conv->ic), q.kb = cnn__min(q.k, TERMS);
    q.images = (int)cnn__min(conv->n, cnn__ceil(PIXELS, (ptrdiff_t)conv->oh * conv->ow));
    q.pixels = (ptrdiff_t)q.images * conv->oh * conv->ow;
    q.at = cnn__take(base, used, (size_t)q.kb, sizeof *q.at);
    q.each = cnn__mul_size((size_t)q.k, (size_t)(q.pixels + q.u->nr));
    q.each = cnn__round_up(q.each, 16);
    q.work = cnn__take(base, used, cnn__mul_size((size_t)cpu->threads, q.each), sizeof *q.work);
    return q;
}

/* So many pixels of images from n on, in row panels: a[oc][pixel]. */
static void cnn__columns_pack(const cnn__columns *q, float *a, ptrdiff_t n, ptrdiff_t pixels)
{
    const ptrdiff_t plane = (ptrdiff_t)q->t->oh * q->t->ow, mr = q->u->mr;
    const float *dy = q->dy + n * q->k * plane;
    for (ptrdiff_t p = 0; p < pixels; p += mr) {
        const ptrdiff_t ni = cnn__min(mr, pixels - p);
        for (ptrdiff_t r = 0, run; r < ni; r += run) {          /* of one image */
            const ptrdiff_t e = (p + r) / plane, in = (p + r) % plane;
            const float *from = dy + e * q->k * plane + in;
            float *to = a + p * q->k + r;
            run = cnn__min(ni - r, plane - in);
            for (ptrdiff_t k = 0; k < q->k; k++, from += plane, to += ni)
                for (ptrdiff_t z = 0; z < run; z++) to[z] = from[z];
        }
    }
}

/* Tile of D: ni pixels from p on, taps j .. j+nj of all taps of an image; to its place in dx, run of pixels
   of a row by run. */
static void cnn__columns_put(const cnn__columns *q, const float *tile, ptrdiff_t n, ptrdiff_t p, int ni,
                             ptrdiff_t j, int nj)
{
    const cnn__conv *conv = q->t;
    const ptrdiff_t plane = (ptrdiff_t)conv->oh * conv->ow, in = (ptrdiff_t)conv->h * conv->w;
    const int taps = conv->kh * conv->kw, sw = conv->sw;
    const bool flat = cnn__pointwise_fits(NULL, conv, 0);          /* a row may go on in the next one */
    struct { float *dx; int y, x, first, end; } run[CNN__MAX_MR];
    float turned[CNN__MAX_MR * CNN__MAX_NR];
    int runs = 0;
    q->u->pack(turned, ni, tile, q->u->nr, NULL, nj);
    for (int r = 0; r < ni; r = run[runs++].end) {
        const ptrdiff_t at = (p + r) % plane, left = flat ? plane - at : conv->ow - at % conv->ow;
        run[runs].y = (int)(at / conv->ow) * conv->sh - conv->ph, run[runs].x = (int)(at % conv->ow) * sw
                      - conv->pw;
        run[runs].dx = q->dx + (n + (p + r) / plane) * conv->ic * in;
        run[runs].first = r, run[runs].end = (int)cnn__min(ni, r + left);
    }
    for (int l = 0; l < nj; l++) {
        const int tap = (int)((j + l) % taps), i = tap / conv->kw * conv->dh, z = tap % conv->kw * conv->dw;
        for (int r = 0; r < runs; r++) {
            const int y = run[r].y + i, x = run[r].x + z;
            int first = run[r].first, end = run[r].end;
            float *to = run[r].dx + (j + l) / taps * in + (ptrdiff_t)y * conv->w + x - (ptrdiff_t)first * sw;
            const float *v = turned + l * ni;
            if (y < 0 || y >= conv->h) continue;
            if (flat) { cnn__add(to + first, v + first, end - first); continue; }
            /* pixels before the border */
            const int inside = x >= conv->w ? 0 : (conv->w - 1 - x) / sw + 1;
            end = (int)cnn__min(end, run[r].first + inside);
            if (x < 0) first += (-x + sw - 1) / sw;
            for (int e = first; e < end; e++) to[e * sw] += v[e];
        }
    }
}

/* A unit is nr channels of the images that are taken together. */
static void cnn__columns_job(const void *job, ptrdiff_t from, ptrdiff_t to, int thread)
{
    const cnn__columns *q = job;
    const cnn__conv *conv = q->t;
    const ptrdiff_t parts = cnn__ceil(conv->ic, q->channels), taps = (ptrdiff_t)conv->kh * conv->kw;
    const int mr = q->u->mr, nr = q->u->nr;
    float tile[CNN__MAX_MR * CNN__MAX_NR], *b = q->work + (size_t)thread * q->each, *a = b + q->k * nr;
    for (ptrdiff_t packed = -1; from < to; from++) {
        const ptrdiff_t n = from / parts * q->images, c = from % parts * q->channels;
        const ptrdiff_t pixels = cnn__min(q->images, conv->n - n) * conv->oh * conv->ow;
        const ptrdiff_t end = cnn__min(c + q->channels, conv->ic) * taps;
        const ptrdiff_t in = (ptrdiff_t)conv->h * conv->w;
        for (ptrdiff_t e = n; e < n + q->images && e < conv->n && q->clear; e++)
            memset(q->dx + (e * conv->ic + c) * in, 0, (size_t)((end / taps - c) * in) * sizeof *q->dx);
        if (packed != n) cnn__columns_pack(q, a, packed = n, pixels);
        for (ptrdiff_t j = c * taps; j < end; j += nr) {
            const int nj = (int)cnn__min(nr, end - j);
            cnn__pack(q->u, b, nr, q->w + j, 1, conv->ic * taps, nj, q->k);
            for (ptrdiff_t p = 0; p < pixels; p += mr) {
                const int ni = (int)cnn__min(mr, pixels - p);
                for (ptrdiff_t k = 0; k < q->k; k += q->kb)
                    q->u->micro(ni, nj, cnn__min(q->kb, q->k - k), a + p * q->k + k * ni, b + k * nr, q->at,
                                tile, nr, NULL, k > 0, NULL, 0);
                cnn__columns_put(q, tile, n, p, ni, j, nj);
            }
        }
    }
}

static void cnn__columns_run(const cnn__cpu *cpu, const cnn__columns *q)
{
    const cnn__conv *conv = q->t;
    for (ptrdiff_t k = 0; k < q->kb; k++) q->at[k] = k * q->u->nr;
    cnn__share_out(cpu, (double)conv->n * conv->oh * conv->ow * conv->oc * conv->ic * conv->kh * conv->kw,
                   cnn__ceil(conv->n, q->images) * cnn__ceil(conv->ic, q->channels), cnn__columns_job, q);
}

/* ---- backward-weights: a product whose sums run over the pixels of dy ----

       dW (OC, taps) += dY (OC, pixels) S(X)^T

   Pixels are taken some hundreds at a time, of several images where these are small: dY is packed in row
   panels, then nr rows of the kernel, of one channel or several, are copied from S, transposed:
   X[pixel][row]. With stride and dilation 1 the KW taps of these rows are KW pixels that follow each other
   in X: pixel p meets them all in X[p], X[p+1], ...; otherwise each tap counts as a row. So taps lie along
   the vectors of cnn__micro, and no sum runs along a row of the image. Lower bound: the multiply-adds of the
   formula; a float of S is moved KH times for KW OC of them.

   Images are taken in chunks, fixed by the problem; the sums of each chunk but the first go to an array of
   its own and are added in order. Where the weights are many there is one chunk, and threads share
   its rows, panel by panel. Where KW taps lie side by side, the sums are in the order (rows, KW, row) and all
   go to such arrays; they are put in order at the end.

   Few taps make small tiles and much copying: those of one to three channels are summed along the rows of the
   image, see cnn__weights_dots. */
typedef struct {
    const cnn__kernels *u;
    const cnn__conv *t;
    cnn__spread s, d;                   /* of x; of dy, with rows as wide, for one output channel */
    bool borrow;                        /* S would be the image itself (1x1, stride 1, no padding) */
    bool dots;                          /* sums along the rows of the image, see cnn__weights_dots */
    int block, blocks, width;           /* rows of dy at a time, and pixels of a row; borrow: rows of one */
    int side, wide;                     /* taps side by side in X; pixels of a row of X */
    int images, chunks;                 /* images at a time, if these are one block */
    float *dw;
    const float *dy;
    ptrdiff_t m, k, panel;              /* panel: floats of X */
    ptrdiff_t *at, *whole, *last;       /* places of rows in S; of pixels in X of nr rows, of the last ones */
    float *partial, *work;
    size_t each;
} cnn__weights;

CNN__COLD static cnn__weights cnn__weights_plan(const cnn__cpu *cpu, const cnn__conv *conv, const float *x,
                                                const float *dy, char *base, size_t *used)
{
    enum { LENGTH = 512,                /* pixels: a panel of taps and one of dy stay in the L2 cache; */
           DOTS_LENGTH = 1024,          /* a plane of x and three of dy in L1 */
           CHUNKED = 1 << 17 };         /* weights: with more, the sums of chunks take too long to add */
    cnn__weights q = { .u = cnn__kernels_of(cpu), .t = conv, .s = cnn__spread_forward(conv, x), .dy = dy };
    q.m = conv->oc / conv->groups, q.k = (ptrdiff_t)q.s.c * conv->kh * conv->kw;
    q.borrow = cnn__pointwise_fits(cpu, conv, 0), q.width = q.borrow ? 1 : conv->ow;
    const int rows = q.borrow ? conv->oh * conv->ow : conv->oh;
    q.dots = q.m == 1 || (q.k <= q.u->nr && conv->ow >= q.u->lanes);
    const int length = q.dots ? DOTS_LENGTH : LENGTH;
    q.blocks = (int)cnn__ceil(rows, length > q.width ? length / q.width : 1);
    q.block = (int)cnn__ceil(rows, q.blocks);
    const size_t weights = (size_t)conv->oc * (size_t)q.k;
    q.chunks = weights <= CHUNKED ? (int)cnn__min(cnn__ceil(conv->n, 4), 8) : 1;
    q.images = q.blocks > 1 ? 1 : (int)cnn__min(cnn__ceil(conv->n, q.chunks),
                                                cnn__ceil(LENGTH, (ptrdiff_t)rows * q.width));
    q.side = !q.dots && conv->sw == 1 && conv->dw == 1 ? conv->kw : 1, q.wide = q.width + q.side - 1;
    const size_t lines = (size_t)q.images * (size_t)q.block, pixels = lines * (size_t)q.width;
    const ptrdiff_t nr = q.u->nr, window = (ptrdiff_t)conv->kh * conv->kw / q.side;
    const ptrdiff_t planes = cnn__min(cnn__ceil(nr - 1, window) + 1, q.s.c);
    q.panel = (ptrdiff_t)cnn__round_up((lines * (size_t)q.wide + 1) * (size_t)nr, 16);
    q.at = cnn__take(base, used, (size_t)q.k, sizeof *q.at);
    q.whole = cnn__take(base, used, pixels, sizeof *q.whole);
    q.last = cnn__take(base, used, pixels, sizeof *q.last);
    q.partial = cnn__take(base, used, cnn__mul_size(weights, (size_t)(q.chunks - (q.side == 1))),
                          sizeof *q.partial);
    q.each = cnn__add_size((size_t)q.panel, cnn__mul_size(pixels, (size_t)q.m));
    const ptrdiff_t spread = q.borrow ? 0 : q.s.a * q.s.b * cnn__spread_plane(&q.s, q.block);
    if (!q.borrow && cnn__ceil(conv->ow, q.u->lanes) * q.u->lanes * 10 > conv->ow * 11)
        q.d = (cnn__spread){ dy, conv->oc, conv->oh, conv->ow, (int)q.m, 1, 1, 1, 1, 0, 0, 0, q.s.width, 0 };
    if (q.dots) q.each = (size_t)(spread + cnn__spread_size(&q.d, q.block));
    else        q.each += (size_t)(planes * spread);
    q.each = cnn__round_up(q.each, 16);
    q.work = cnn__take(base, used, cnn__mul_size((size_t)cpu->threads, q.each), sizeof *q.work);
    return q;
}

/* X for rows r .. r+n of the kernel and the output rows from .. from+rows of so many images. */
static void cnn__weights_panel(const cnn__weights *weights, float *to, float *s, ptrdiff_t image, int images,
                               ptrdiff_t g, ptrdiff_t r, int n, int from, int rows)
{
    const cnn__conv *conv = weights->t;
    const ptrdiff_t in = (ptrdiff_t)conv->h * conv->w, window = (ptrdiff_t)conv->kh
                         * conv->kw / weights->side, c = r / window;
    const int planes = (int)(cnn__ceil(r + n, window) - c);
    for (int e = 0; e < images; e++) {
        if (weights->borrow) {
            weights->u->pack(to, n, weights->s.x + ((image + e) * conv->ic + g * weights->s.c + r) * in
                             + from, in, NULL, rows);
            to += (ptrdiff_t)rows * n;
            continue;
        }
        cnn__spread_copy(weights->u, &weights->s, s, image + e, g * weights->s.c + c, planes, from,
                         weights->block);
        for (int y = 0; y < rows; y++, to += (ptrdiff_t)weights->wide * n)
            weights->u->pack(to, n, s + (ptrdiff_t)y * weights->s.width, 0, weights->at + r - c * window,
                             weights->wide);
    }
}

/* The same by dot products: the sums run along the pixels of dy where they lie, three output channels by four
   taps at a time. A run is a row of an image; or, where these fill vectors badly, all of them, dy copied with
   zeros between its rows. */
static void cnn__weights_dots(const cnn__weights *weights, float *dw, ptrdiff_t n, int images, ptrdiff_t g,
                              int from, int rows, ptrdiff_t k0, ptrdiff_t k1, float *work)
{
    const cnn__conv *conv = weights->t;
    const ptrdiff_t in = (ptrdiff_t)conv->h * conv->w, out = (ptrdiff_t)conv->oh * conv->ow,
                    window = conv->kh * conv->kw;
    const ptrdiff_t plane = weights->d.width ? cnn__spread_plane(&weights->d, weights->block) : out;
    cnn__runs r = { 1, rows, plane, 0, 0 };                         /* borrow: one run */
    if (weights->d.width)      r.length = (rows - 1) * weights->s.width + conv->ow;
    else if (!weights->borrow) r = (cnn__runs){ rows, conv->ow, out, conv->ow, weights->s.width };
    for (ptrdiff_t e = n; e < n + images; e++) {
        const float *x = work, *dy = weights->dy + (e * conv->oc + g * weights->m) * out + (ptrdiff_t)from
                         * weights->width;
        float *copy = work + weights->s.a * weights->s.b * cnn__spread_plane(&weights->s, weights->block);
        if (weights->d.width)
            cnn__spread_copy(weights->u, &weights->d, copy, e, g * weights->m, (int)weights->m, from,
                             weights->block), dy = copy;
        if (weights->borrow) x = weights->s.x + (e * conv->ic + g * weights->s.c) * in + from;
        for (ptrdiff_t k = k0, end; k < k1; k = end) {
            const ptrdiff_t c = weights->borrow ? 0 : k / window;
            end = weights->borrow ? k1 : cnn__min(k1, (c + 1) * window);
            if (!weights->borrow) cnn__spread_copy(weights->u, &weights->s, work, e, g * weights->s.c + c, 1,
                                                   from, weights->block);
            for (ptrdiff_t j = k; j < end; j += 4) {
                ptrdiff_t at[4];        /* the last tap again, where no more are left: it is dropped */
                for (ptrdiff_t z = 0; z < 4; z++) {
                    const ptrdiff_t tap = cnn__min(j + z, end - 1);
                    at[z] = weights->borrow ? tap * in : weights->at[tap - c * window];
                }
                for (ptrdiff_t i = 0; i < weights->m; i += 3)
                    weights->u->dot((int)cnn__min(3, weights->m - i), (int)cnn__min(4, end - j), &r,
                                    dy + i * plane, x,
                              at, dw + i * weights->k + j, weights->k);
            }
        }
    }
}

/* dw += the terms of output rows from .. of images n .. n+images, group g, rows r0 .. r1 of the kernel. */
static void cnn__weights_block(const cnn__weights *weights, float *dw, ptrdiff_t n, int images, ptrdiff_t g,
                               int from, ptrdiff_t r0, ptrdiff_t r1, float *work)
{
    const cnn__conv *conv = weights->t;
    const ptrdiff_t out = (ptrdiff_t)conv->oh * conv->ow;
    const int mr = weights->u->mr, nr = weights->u->nr,
              rows = (int)cnn__min(weights->block, out / weights->width - from);
    const ptrdiff_t run = (ptrdiff_t)rows * weights->width, pixels = images * run;
    if (rows <= 0) return;
    if (weights->dots) { cnn__weights_dots(weights, dw, n, images, g, from, rows, r0, r1, work); return; }
    const float *dy = weights->dy + (ptrdiff_t)from * weights->width;
    float tile[CNN__MAX_MR * CNN__MAX_NR], *a = work + weights->panel, *s = a + pixels * weights->m;
    for (ptrdiff_t i = 0, ni; i < weights->m; i += ni) {
        ni = cnn__tile_rows((int)cnn__min(weights->m - i, 2 * mr), mr);
        for (int e = 0; e < images; e++)
            weights->u->pack(a + i * pixels + e * run * ni, (int)ni,
                       dy + ((n + e) * conv->oc + g * weights->m + i) * out, out, NULL, run);
    }
    for (ptrdiff_t r = r0; r < r1; r += nr) {
        const int lines = (int)cnn__min(nr, r1 - r), columns = lines * weights->side;
        cnn__weights_panel(weights, work, s, n, images, g, r, lines, from, rows);
        for (int j = 0, taps; j < columns; j += taps) {
            taps = (int)cnn__min(nr, columns - j);
            for (ptrdiff_t i = 0, ni; i < weights->m; i += ni) {
                ni = cnn__tile_rows((int)cnn__min(weights->m - i, 2 * mr), mr);
                float *to = dw + i * weights->k + r * weights->side + j;
                weights->u->micro((int)ni, taps, pixels, a + i * pixels, work + j,
                                  lines == nr ? weights->whole : weights->last,
                            taps == nr ? to : tile, taps == nr ? weights->k : nr, NULL, taps == nr, NULL, 0);
                for (int e = 0; e < ni && taps < nr; e++) cnn__add(to + e * weights->k, tile + e * nr, taps);
            }
        }
    }
}

/* A unit is a panel of rows of the kernel in a group of a chunk of images. */
static void cnn__weights_job(const void *job, ptrdiff_t from, ptrdiff_t to, int thread)
{
    const cnn__weights *q = job;
    const cnn__conv *conv = q->t;
    const ptrdiff_t nr = q->u->nr, rows = q->k / q->side, panels = cnn__ceil(rows, nr);
    const ptrdiff_t weights = conv->oc * q->k, own = q->side == 1;         /* chunks that go to dw */
    float *work = q->work + (size_t)thread * q->each;
    for (ptrdiff_t end; from < to; from = end) {
        const ptrdiff_t e = from / panels, g = e % conv->groups, chunk = e / conv->groups;
        const ptrdiff_t n0 = conv->n * chunk / q->chunks, n1 = conv->n * (chunk + 1) / q->chunks;
        end = cnn__min(to, (e + 1) * panels);
        const ptrdiff_t r0 = (from - e * panels) * nr, r1 = cnn__min((end - e * panels) * nr, rows);
        float *dw = (chunk < own ? q->dw : q->partial + (chunk - own) * weights) + g * q->m * q->k;
        for (ptrdiff_t n = n0; n < n1; n += q->images)
            for (int block = 0; block < q->blocks; block++)
                cnn__weights_block(q, dw, n, (int)cnn__min(q->images, n1 - n), g, block * q->block, r0, r1,
                                   work);
    }
}

static void cnn__weights_run(const cnn__cpu *cpu, const cnn__weights *q)
{
    const cnn__conv *conv = q->t;
    const ptrdiff_t nr = q->u->nr, rows = q->k / q->side, last = (rows - 1) % nr + 1, side = q->side;
    const ptrdiff_t weights = conv->oc * q->k, parts = q->chunks - (side == 1);
    if (!q->borrow) cnn__taps(conv, &q->s, cnn__spread_plane(&q->s, q->block), q->at);
    for (ptrdiff_t r = 1; r < rows && side > 1; r++) q->at[r] = q->at[r * side];
    for (ptrdiff_t p = 0; p < (ptrdiff_t)q->images * q->block * q->width; p++) {
        const ptrdiff_t at = p / q->width * q->wide + p % q->width;
        q->whole[p] = at * nr, q->last[p] = at * last;
    }
    memset(q->partial, 0, (size_t)(weights * parts) * sizeof *q->partial);
    cnn__share_out(cpu, (double)conv->n * conv->oh * conv->ow * (double)weights,
                   (ptrdiff_t)q->chunks * conv->groups * cnn__ceil(rows, nr), cnn__weights_job, q);
    for (ptrdiff_t c = side > 1; c < parts; c++)
        cnn__add(side > 1 ? q->partial : q->dw, q->partial + c * weights, weights);
    const float *sums = q->partial;
    float *to = q->dw;
    for (ptrdiff_t r = 0, n; r < conv->oc * rows && side > 1; r += n, sums += n * side) {
        n = cnn__min(nr, rows - r % rows);                      /* the rows that were together in X */
        for (ptrdiff_t e = 0; e < n; e++)
            for (ptrdiff_t j = 0; j < side; j++) *to++ += sums[j * n + e];
    }
}

/* ---- Winograd F(4x4,3x3) and F(2x2,5x5): forward and backward-data, stride 1 (Lavin, Gray 2015) ----

       Y = At [ sum_c (G w Gt) o (Bt x B) ] A        for each tile Y of output and 6x6 tile x of input

   In one dimension, x and w are the coefficients of polynomials, whose product is known by its values at six
   points, 0, 1, -1, 2, -2 and infinity: G takes w there, At comes back, and Bt does what is left. Six points
   tell 4 outputs of 3 weights as well as 2 outputs of 5, and Bt is the same for both. So 36 products of
   matrices (OC,C)(C,tiles) do the work of 144 (3x3, a quarter of the multiply-adds) or 100 (5x5). The
   transforms hold factors of up to 16, and so the rounding errors grow: largest seen against float64, for 512
   channels, 1e-5 of the largest output (5e-7 by the direct sum). .exact does without.
   backward-data is the same with dy for x, the kernel turned by 180 degrees, and padding K - 1 - P. */
typedef struct {
    const cnn__kernels *u;
    bool backward, add, once;           /* once: all tiles are one block, which meets each weight once */
    const float *packed;                /* the weights, transformed already, or NULL */
    int k, side;                        /* kernels (k,k), tiles of output (side,side) */
    int c, m, h, w, oh, ow, ph, pw, th, tw;     /* tiles of an image: (th, tw) */
    ptrdiff_t tiles, block, rows;       /* rows of the weights that are transformed at a time */
    ptrdiff_t as, vs, ms;               /* from one of the 36 matrices of weights, input, sums to the next: a
                                           cache line more than they have, else all meet in one set of it */
    float *shared, *work;               /* shared: the weights or, if once, the input; work: the rest */
    float *y;
    const float *x, *weights, *bias;
    const cnn__tail *tail;              /* but one that is a clip: that is done in registers */
    const float *clip;
    size_t each;
} cnn__wino;

CNN__UNUSED static bool cnn__winograd_fits(const cnn__conv *conv, int pass)
{
    return (conv->kh == 3 || (conv->kh == 5 && pass < 2)) && conv->kw == conv->kh && conv->sh == 1
        && conv->sw == 1
        && conv->dh == 1 && conv->dw == 1 && conv->groups == 1 && cnn__all_meet(conv);
}

CNN__COLD static cnn__wino cnn__winograd_plan(const cnn__cpu *cpu, const cnn__conv *conv, bool backward,
                                              const cnn__arrays *arrays, char *base, size_t *used)
{
    enum { PANELS = 4 };
    const cnn__conv p = backward ? cnn__turned(conv) : *conv;
    cnn__wino wino = { .u = cnn__kernels_of(cpu), .backward = backward, .add = backward && !arrays->clear,
                      .k = p.kh, .side = 7 - p.kh, .c = p.ic,
                    .m = p.oc, .h = p.h, .w = p.w, .oh = p.oh, .ow = p.ow, .ph = p.ph, .pw = p.pw,
                    .y = arrays->to, .x = backward ? arrays->dy : arrays->x, .weights = arrays->w,
                    .bias = arrays->b,
                    .tail = arrays->tail };
    cnn__ends ends;
    if (cnn__ends_of(cpu, arrays->tail, &ends) && !ends.more[1]) wino.clip = ends.clip, wino.tail = NULL;
    wino.th = (int)cnn__ceil(wino.oh, wino.side), wino.tw = (int)cnn__ceil(wino.ow, wino.side);
    wino.tiles = (ptrdiff_t)conv->n * wino.th * wino.tw;
    wino.block = cnn__min(64, cnn__ceil(wino.tiles, wino.u->nr) * wino.u->nr);
    wino.once = wino.tiles <= wino.block, wino.rows = wino.once ? cnn__min(PANELS * wino.u->mr, wino.m)
                : wino.m;
    wino.packed = arrays->packed;
    wino.as = (wino.packed ? wino.m : wino.rows) * wino.c + CNN__MAX_LANES, wino.vs = wino.c * wino.block
              + CNN__MAX_LANES,
        wino.ms = wino.rows * wino.block + CNN__MAX_LANES;
    wino.shared = wino.packed && !wino.once ? arrays->packed
             : cnn__take(base, used, cnn__mul_size(36, (size_t)(wino.once ? wino.vs : wino.as)),
                         sizeof *wino.shared);
    wino.each = cnn__mul_size(36, (size_t)((!wino.once ? wino.vs : wino.packed ? 0 : wino.as) + wino.ms));
    wino.work = cnn__take(base, used, cnn__mul_size((size_t)cpu->threads, wino.each), sizeof *wino.work);
    return wino;
}

/* G w Gt for row panel i to a, packed as cnn__micro wants it: 36 matrices, each panel after panel. The
   kernels are first brought side by side, those of a few channels at a time. */
static void cnn__winograd_weights(const cnn__wino *wino, float *a, const float *w, ptrdiff_t i)
{
    enum { L = CNN__MAX_LANES, FLOATS = 288 };
    const int mr = (int)cnn__min(wino->u->mr, wino->m - i), lanes = wino->u->lanes;
    const int kk = wino->k * wino->k, few = FLOATS / kk;
    const ptrdiff_t step = wino->backward ? -mr : mr;      /* backward: the kernel turned by 180 degrees */
    float g[FLOATS * CNN__MAX_MR + L] = { 0 }, o[36 * L];
    for (int c = 0; c < wino->c; c++, a += mr) {
        const int now = (int)cnn__min(few, wino->c - c);
        if (c % few == 0 && !wino->backward)
            wino->u->pack(g, mr, w + (i * wino->c + c) * kk, (ptrdiff_t)wino->c * kk, NULL,
                          (ptrdiff_t)now * kk);
        for (int e = 0; c % few == 0 && wino->backward && e < now; e++)
            wino->u->pack(g + e * kk * mr, mr, w + ((ptrdiff_t)(c + e) * wino->m + i) * kk, kk, NULL, kk);
        const float *from = g + (c % few * kk + (wino->backward ? kk - 1 : 0)) * mr;
        /* Straight to its place, where the next c will overwrite the lanes beyond mr. */
        const bool direct = (ptrdiff_t)(wino->c - c) * mr >= cnn__ceil(mr, lanes) * lanes;
        for (int r = 0; r < mr; r += lanes)
            wino->u->winograd_w(wino->k, from + r, step, direct ? a + r : o + r, direct ? wino->as : L);
        for (int e = 0; e < 36 && !direct; e++)
            for (int r = 0; r < mr; r++) a[e * wino->as + r] = o[e * L + r];
    }
}

/* What lies inside the plane (h,w) of the tile at (y0,x0), of side <= 8 rows and columns. The rest of the
   patch is left as it is. */
static inline void cnn__patch(float *patch, int side, const float *plane, int h, int w, int y0, int x0)
{
    const int top = y0 < 0 ? -y0 : 0, bottom = (int)cnn__min(side, h - y0), left = x0 < 0 ? -x0 : 0;
    const ptrdiff_t n = cnn__min(side, w - x0) - left;
    for (int a = top; a < bottom; a++) {
        const float *from = plane + (ptrdiff_t)(y0 + a) * w + x0 + left;
        float *to = patch + a * side + left;
        if (n >= 4) memcpy(to, from, 4 * sizeof *to), memcpy(to + n - 4, from + n - 4, 4 * sizeof *to);
        else for (ptrdiff_t b = 0; b < n; b++) to[b] = from[b];
    }
}

/* Tiles number first .. first+lanes, one to a lane: where they begin in a plane, and the plane of channel 0
   of their image. Tiles lie side by side, side pixels apart, the first at (-ph, -pw). */
typedef struct { ptrdiff_t image[CNN__MAX_LANES]; int y[CNN__MAX_LANES], x[CNN__MAX_LANES]; } cnn__tiles;
static void cnn__tiles_of(cnn__tiles *at, const cnn__wino *wino, ptrdiff_t first, ptrdiff_t size, int ph,
                          int pw)
{
    const ptrdiff_t plane = (ptrdiff_t)wino->th * wino->tw;
    for (int l = 0; l < wino->u->lanes; l++) {
        const ptrdiff_t e = first + l;
        at->y[l] = (int)(e % plane / wino->tw) * wino->side - ph;
        at->x[l] = (int)(e % plane % wino->tw) * wino->side - pw;
        at->image[l] = e / plane * size;
    }
}

/* Bt x B for tiles from .. from+count, channels c0 .. c1: 36 matrices as panels of nr tiles. A tile that
   sticks out of the image goes through a little patch; one beyond count is a patch of zeros. */
static void cnn__winograd_tiles(const cnn__wino *wino, float *v, const float *x, ptrdiff_t from,
                                ptrdiff_t count,
                                int c0, int c1)
{
    enum { L = CNN__MAX_LANES };
    const cnn__kernels *isa = wino->u;
    const ptrdiff_t in = (ptrdiff_t)wino->h * wino->w, padded = cnn__ceil(count, isa->nr) * isa->nr;
    cnn__tiles at;
    for (ptrdiff_t j = 0; j < padded; j += isa->lanes) {
        float patch[L][36] = { { 0 } };
        const float *tile[L];
        ptrdiff_t row[L];
        cnn__tiles_of(&at, wino, from + j, wino->c * in, wino->ph, wino->pw);
        for (int l = 0; l < isa->lanes; l++) {
            const bool inside = at.y[l] >= 0 && at.x[l] >= 0 && at.y[l] + 6 <= wino->h
                                && at.x[l] + 6 <= wino->w;
            tile[l] = patch[l], row[l] = 6;
            if (j + l >= count || !inside) continue;
            tile[l] = x + at.image[l] + c0 * in + (ptrdiff_t)at.y[l] * wino->w + at.x[l], row[l] = wino->w;
        }
        float *to = v + (j / isa->nr * wino->c + c0) * isa->nr + j % isa->nr;
        for (int c = c0; c < c1; c++, to += isa->nr) {
            for (int l = 0; l < isa->lanes && j + l < count; l++)
                if (tile[l] == patch[l])
                    cnn__patch(patch[l], 6, x + at.image[l] + c * in, wino->h, wino->w, at.y[l], at.x[l]);
            isa->winograd_x(tile, row, to, wino->vs);
            for (int l = 0; l < isa->lanes; l++)
                if (tile[l] != patch[l]) tile[l] += in;
        }
    }
}

/* The 36 products: rows of the weights, transformed in a, times the tiles in v, to m: panels of nr tiles. */
static void cnn__winograd_products(const cnn__wino *wino, const float *a, ptrdiff_t rows, const float *v,
                                   ptrdiff_t count, float *m)
{
    const cnn__kernels *isa = wino->u;
    const ptrdiff_t padded = cnn__ceil(count, isa->nr) * isa->nr;
    const ptrdiff_t kb = cnn__k_block(wino->c);
    ptrdiff_t at[CNN__KC];
    for (int p = 0; p < CNN__KC; p++) at[p] = (ptrdiff_t)p * isa->nr;
    for (int e = 0; e < 36; e++)
        for (ptrdiff_t p = 0; p < wino->c; p += kb)
            for (ptrdiff_t j = 0; j < padded; j += isa->nr)
                for (ptrdiff_t i = 0; i < rows; i += isa->mr) {
                    const int mr = (int)cnn__min(isa->mr, rows - i);
                    const float *first = a + e * wino->as + i * wino->c + p * mr;
                    const float *ahead = i + isa->mr < rows ? first + mr * wino->c : a + (e + 1) * wino->as;
                    isa->micro(mr, (int)cnn__min(isa->nr, count - j), cnn__min(kb, wino->c - p), first,
                             v + e * wino->vs + j * wino->c + p * isa->nr, at,
                             m + e * wino->ms + j * rows + i * isa->nr, isa->nr, NULL, p > 0, ahead, mr);
                }
}

/* The part of a patch that lies inside the image, to its place there. */
static void cnn__put_patch(const cnn__wino *wino, float *y, const float *patch, int y0, int x0)
{
    const int high = (int)cnn__min(wino->side, wino->oh - y0),
              wide = (int)cnn__min(wino->side, wino->ow - x0);
    y += (ptrdiff_t)y0 * wino->ow + x0;
    for (int r = 0; r < high; r++, y += wino->ow, patch += 4)
        for (int z = 0; z < wide; z++) y[z] = wino->add ? y[z] + patch[z] : patch[z];
}

/* Rows i0 .. i1 of the weights, transformed in a, times the tiles in v, and transformed back. */
static void cnn__winograd_rows(const cnn__wino *wino, const float *a, ptrdiff_t i0, ptrdiff_t i1,
                               const float *v,
                               ptrdiff_t from, ptrdiff_t count, float *m)
{
    enum { L = CNN__MAX_LANES };
    const cnn__kernels *isa = wino->u;
    const ptrdiff_t rows = i1 - i0, out = (ptrdiff_t)wino->oh * wino->ow;
    cnn__tiles at;
    cnn__winograd_products(wino, a, rows, v, count, m);
    for (ptrdiff_t j = 0; j < count; j += isa->lanes) {
        const float *sums = m + j / isa->nr * isa->nr * rows + j % isa->nr;
        float patch[L][36] = { { 0 } }, *tile[L];
        ptrdiff_t row[L];
        cnn__tiles_of(&at, wino, from + j, wino->m * out, 0, 0);
        for (int l = 0; l < isa->lanes; l++) {
            /* Rows are written four by four: those of a tile of two go through the patch. */
            const bool inside = wino->side == 4 && j + l < count && at.y[l] + 4 <= wino->oh
                                && at.x[l] + 4 <= wino->ow;
            at.image[l] += i0 * out;
            tile[l] = inside ? wino->y + at.image[l] + (ptrdiff_t)at.y[l] * wino->ow + at.x[l] : patch[l];
            row[l] = inside ? wino->ow : 4;
        }
        for (ptrdiff_t c = 0; c < rows; c++, sums += isa->nr) {
            isa->winograd_y(wino->side, sums, wino->ms, wino->bias ? wino->bias[i0 + c] : 0.0f, wino->clip,
                            tile, row, wino->add);
            for (int l = 0; l < isa->lanes; l++) {
                if (tile[l] != patch[l]) { tile[l] += out; continue; }
                if (j + l < count)
                    cnn__put_patch(wino, wino->y + at.image[l] + c * out, patch[l], at.y[l], at.x[l]);
                if (wino->add) memset(patch[l], 0, 16 * sizeof **patch);
            }
        }
    }
}

/* What all need is transformed first: the input, a unit being 16 channels, if all tiles are one block;
   otherwise the weights, a unit being a row panel. */
enum { CNN__WINOGRAD_PART = 16 };
static void cnn__winograd_shared_job(const void *job, ptrdiff_t from, ptrdiff_t to, int thread)
{
    const cnn__wino *wino = job;
    const ptrdiff_t mr = wino->u->mr, part = CNN__WINOGRAD_PART;
    (void)thread;
    if (wino->once)
        cnn__winograd_tiles(wino, wino->shared, wino->x, 0, wino->tiles, (int)(from * part),
                            (int)cnn__min(to * part, wino->c));
    else for (; from < to; from++)
        cnn__winograd_weights(wino, wino->shared + from * mr * wino->c, wino->weights, from * mr);
}

/* Then the rest: a unit is a row panel (once) or a vector of tiles; some at a time. */
static void cnn__winograd_job(const void *job, ptrdiff_t from, ptrdiff_t to, int thread)
{
    const cnn__wino *wino = job;
    const ptrdiff_t mr = wino->u->mr, lanes = wino->u->lanes;
    const ptrdiff_t most = wino->once ? cnn__ceil(wino->rows, mr) : wino->block / lanes;
    float *mine = wino->work + (size_t)thread * wino->each;
    float *m = mine + 36 * (!wino->once ? wino->vs : wino->packed ? 0 : wino->as);
    const ptrdiff_t steps = cnn__ceil(to - from, most);
    for (ptrdiff_t e = 0; e < steps; e++) {
        const ptrdiff_t first = from + (to - from) * e / steps, last = from + (to - from) * (e + 1) / steps;
        if (wino->once) {
            const ptrdiff_t i0 = first * mr, i1 = cnn__min(last * mr, wino->m);
            for (ptrdiff_t i = i0; i < i1 && !wino->packed; i += mr)
                cnn__winograd_weights(wino, mine + (i - i0) * wino->c, wino->weights, i);
            cnn__winograd_rows(wino, wino->packed ? wino->packed + i0 * wino->c : mine, i0, i1, wino->shared,
                               0, wino->tiles,
                               m);
            const ptrdiff_t out = (ptrdiff_t)wino->oh * wino->ow,
                            images = wino->tiles / ((ptrdiff_t)wino->th * wino->tw);
            for (ptrdiff_t n = 0; n < images; n++)
                cnn__complete(wino->tail, wino->y, (n * wino->m + i0) * out, (n * wino->m + i1) * out);
        } else {
            const ptrdiff_t count = cnn__min(last * lanes, wino->tiles) - first * lanes;
            cnn__winograd_tiles(wino, mine, wino->x, first * lanes, count, 0, wino->c);
            cnn__winograd_rows(wino, wino->shared, 0, wino->m, mine, first * lanes, count, m);
        }
    }
}

static void cnn__winograd_shared(const cnn__cpu *cpu, const cnn__wino *wino)
{
    /* operations of the transforms, roughly: 144 for a tile of input, 40 for a kernel */
    cnn__share_out(cpu, wino->once ? 144.0 * (double)wino->tiles * wino->c : 40.0 * wino->m * wino->c,
                   wino->once ? cnn__ceil(wino->c, CNN__WINOGRAD_PART) : cnn__ceil(wino->m, wino->u->mr),
                   cnn__winograd_shared_job, wino);
}

static void cnn__winograd_run(const cnn__cpu *cpu, const cnn__wino *wino)
{
    const ptrdiff_t panels = cnn__ceil(wino->m, wino->u->mr);
    if (wino->once || !wino->packed) cnn__winograd_shared(cpu, wino);
    cnn__share_out(cpu, 36.0 * (double)wino->tiles * wino->m * wino->c,
                   wino->once ? panels : cnn__ceil(wino->tiles, wino->u->lanes), cnn__winograd_job, wino);
    if (wino->once || !wino->tail) return;
    const ptrdiff_t images = wino->tiles / ((ptrdiff_t)wino->th * wino->tw),
                    out = (ptrdiff_t)wino->oh * wino->ow;
    cnn__map_then(cpu, NULL, wino->y, wino->y, NULL, NULL, NULL, images * wino->m * out, wino->tail);
}

/* ---- Winograd, backward-weights: F(3x3,4x4), the same with the parts exchanged (Lavin, Gray 2015) ----

       dw += Gt [ sum_tiles (A dY At) o (Bt x B) ] G        for each 4x4 tile dY of dy and 6x6 tile x of input

   Here the sum runs over the tiles: 36 products (OC,tiles)(tiles,C). So channels lie side by side in the
   vectors, and the tiles come in chunks: x of a chunk is transformed once, for all; then threads
   share the row panels of output channels. Where all tiles are one chunk, a block is brought back as
   soon as it is summed, and each thread keeps the sums of one block alone. A and G hold the same six points
   as above. Rounding errors: largest seen against float64, for 64 channels and 8192 tiles, 8e-6 of the
   largest dw (5e-7 by the direct sum). Lower bound: 36 multiply-adds for 16 outputs and a pair of channels,
   not 144. */
typedef struct {
    const cnn__kernels *u;
    const cnn__conv *t;
    bool once;                          /* all tiles are one chunk */
    int th, tw;
    ptrdiff_t tiles, chunk, wide, rows; /* wide: C rounded up to nr; rows: the most of a block */
    ptrdiff_t ss, vs, ms;               /* from one matrix to the next, of sums, v and m: as in cnn__wino */
    cnn__spread s_x, s_dy;              /* a row of tiles */
    float *dw;
    ptrdiff_t from, count;              /* the chunk that is worked on */
    float *sums, *v, *m;                /* (36,OC,wide), or (36,rows,wide) for each thread if once;
                                           (36,wide/nr,chunk,nr); for each thread (36,rows/mr,chunk,mr) and
                                           a row of tiles */
    size_t sums_each, m_each;           /* from one thread to the next, of sums (once) and m */
} cnn__wino_w;

CNN__COLD static cnn__wino_w cnn__winograd_weights_plan(const cnn__cpu *cpu, const cnn__conv *conv,
                                                        const cnn__arrays *arrays, char *base, size_t *used)
{
    enum { PANELS = 4, CACHED = 1 << 19 };      /* floats of a transformed chunk that stay near */
    cnn__wino_w wino = { .u = cnn__kernels_of(cpu), .t = conv, .th = (conv->oh + 3) / 4,
                        .tw = (conv->ow + 3) / 4 };
    wino.tiles = (ptrdiff_t)conv->n * wino.th * wino.tw, wino.wide = cnn__ceil(conv->ic, wino.u->nr)
                 * wino.u->nr;
    wino.chunk = CACHED / 36 / wino.wide;
    wino.chunk = cnn__min(wino.tiles, wino.chunk < 128 ? 128 : cnn__min(wino.chunk, CNN__KC));
    wino.once = wino.tiles == wino.chunk, wino.rows = PANELS * wino.u->mr;
    /* a store at the end may go beyond */
    wino.ms = wino.rows * wino.chunk + CNN__MAX_LANES;
    wino.ss = (wino.once ? wino.rows : conv->oc) * wino.wide + CNN__MAX_LANES,
        wino.vs = wino.chunk * wino.wide + CNN__MAX_LANES;
    wino.s_x = (cnn__spread){ arrays->x, conv->ic, conv->h, conv->w, 1, 1, 1, 1, 1, -conv->ph, -conv->pw, 5,
                             4 * wino.tw + 2, 0 };
    wino.s_dy = (cnn__spread){ arrays->dy, conv->oc, conv->oh, conv->ow, 1, 1, 1, 1, 1, 0, 0, 3, 4 * wino.tw,
                              0 };
    wino.sums_each = wino.once ? cnn__mul_size(36, (size_t)wino.ss) : 0;
    wino.m_each = cnn__add_size(cnn__mul_size(36, (size_t)wino.ms),
                             cnn__round_up((size_t)((wino.u->nr + wino.u->mr) * cnn__spread_plane(&wino.s_x,
                                                                                                  1)), 16));
    wino.sums = cnn__take(base, used, cnn__mul_size(wino.once ? (size_t)cpu->threads : 1,
                                                 cnn__mul_size(36, (size_t)wino.ss)), sizeof *wino.sums);
    wino.v = cnn__take(base, used, cnn__mul_size(36, (size_t)wino.vs), sizeof *wino.v);
    wino.m = cnn__take(base, used, cnn__mul_size((size_t)cpu->threads, wino.m_each), sizeof *wino.m);
    return wino;
}

/* Transform the tiles of the chunk in channels c .. c+n of x or dy to panels of n: to[tile][channel], the
   last channel again beyond the end. Where tiles stick out of the image, a row of them is copied first, with
   zeros around it. */
static void cnn__winograd_transform(const cnn__wino_w *wino, const cnn__spread *spread,
                                    void (*f)(const float *const *, const ptrdiff_t *, float *, ptrdiff_t),
                                    int c, int n, float *to, ptrdiff_t step, float *strip)
{
    enum { L = CNN__MAX_LANES };
    const int lanes = wino->u->lanes, planes = (int)cnn__min(cnn__ceil(n, lanes) * lanes, spread->planes - c);
    const bool inside = !spread->y0 && !spread->x0 && 4 * wino->th + spread->halo - 3 <= spread->h
                        && spread->width <= spread->w;
    const ptrdiff_t image = (ptrdiff_t)wino->th * wino->tw, in = (ptrdiff_t)spread->h * spread->w;
    const ptrdiff_t plane = inside ? in : cnn__spread_plane(spread, 1);
    const float *tile[L];
    ptrdiff_t    row[L];
    for (int l = 0; l < L; l++) row[l] = inside ? spread->w : spread->width;
    for (ptrdiff_t e = 0; e < wino->count; e++, to += n) {
        const ptrdiff_t at = wino->from + e, n0 = at / image, y = at % image / wino->tw * 4,
                        x = at % wino->tw * 4;
        const float *from = inside ? spread->x + (n0 * spread->planes + c) * in + y * spread->w : strip;
        if (!inside && (x == 0 || e == 0)) cnn__spread_copy(wino->u, spread, strip, n0, c, planes, (int)y, 1);
        for (int r = 0; r < n; r += lanes) {        /* the next tile overwrites the lanes beyond n */
            for (int l = 0; l < lanes; l++) tile[l] = from + x + cnn__min(r + l, planes - 1) * plane;
            f(tile, row, to + r, step);
        }
    }
}

/* sums += (A dY At) v for the tiles of the chunk, output channels i .. end. sums starts at row i. */
static void cnn__winograd_sums(const cnn__wino_w *wino, float *sums, int i, int end, float *m)
{
    const cnn__kernels *isa = wino->u;
    ptrdiff_t at[CNN__KC];
    for (int p = 0; p < CNN__KC; p++) at[p] = (ptrdiff_t)p * isa->nr;
    for (int c = i; c < end; c += isa->mr)                        /* m = A dY At */
        cnn__winograd_transform(wino, &wino->s_dy, isa->winograd_dy, c, (int)cnn__min(isa->mr, end - c),
                                m + (c - i) * wino->chunk, wino->ms, m + 36 * wino->ms);
    for (int e = 0; e < 36; e++)
        for (ptrdiff_t j = 0; j < wino->wide; j += isa->nr)
            for (int c = i; c < end; c += isa->mr)
                isa->micro((int)cnn__min(isa->mr, end - c), isa->nr, wino->count,
                           m + e * wino->ms + (c - i) * wino->chunk,
                         wino->v + e * wino->vs + j * wino->chunk, at, sums + e * wino->ss + (c - i)
                         * wino->wide + j,
                         wino->wide, NULL, wino->from > 0, NULL, 0);
}

/* dw += Gt sums G for output channels i .. end. sums starts at row i. */
static void cnn__winograd_gradient(const cnn__wino_w *wino, const float *sums, ptrdiff_t i, ptrdiff_t end)
{
    const int ic = wino->t->ic, lanes = wino->u->lanes;
    float g[9 * CNN__MAX_LANES], *to = wino->dw + i * ic * 9;
    for (; i < end; i++, sums += wino->wide)
        for (int c = 0; c < ic; c += lanes) {
            wino->u->winograd_dw(sums + c, wino->ss, g);
            for (int l = 0; l < lanes && c + l < ic; l++, to += 9)
                for (int e = 0; e < 9; e++) to[e] += g[e * CNN__MAX_LANES + l];
        }
}

/* The three steps. A unit is a panel of nr input channels; a row panel of output channels; one of them. */
static void cnn__winograd_inputs_job(const void *job, ptrdiff_t from, ptrdiff_t to, int thread)
{
    const cnn__wino_w *wino = job;
    const int nr = wino->u->nr;
    for (; from < to; from++)                                   /* v = Bt x B */
        cnn__winograd_transform(wino, &wino->s_x, wino->u->winograd_x, (int)from * nr, nr,
                                wino->v + from * nr * wino->chunk, wino->vs,
                                wino->m + (size_t)thread * wino->m_each + 36 * wino->ms);
}
static void cnn__winograd_sums_job(const void *job, ptrdiff_t from, ptrdiff_t to, int thread)
{
    const cnn__wino_w *wino = job;
    const int mr = wino->u->mr, last = (int)cnn__min(to * mr, wino->t->oc), rows = (int)wino->rows;
    for (int i = (int)from * mr, end; i < last; i = end) {
        end = (int)cnn__min(i + rows, last);
        float *sums = wino->sums + (wino->once ? (size_t)thread * wino->sums_each : (size_t)(i * wino->wide));
        cnn__winograd_sums(wino, sums, i, end, wino->m + (size_t)thread * wino->m_each);
        if (wino->once) cnn__winograd_gradient(wino, sums, i, end);
    }
}
static void cnn__winograd_gradient_job(const void *job, ptrdiff_t from, ptrdiff_t to, int thread)
{
    const cnn__wino_w *wino = job;
    (void)thread;
    cnn__winograd_gradient(wino, wino->sums + from * wino->wide, from, to);
}

static void cnn__winograd_weights_run(const cnn__cpu *cpu, cnn__wino_w *wino)
{
    const double work = 36.0 * wino->t->oc * wino->t->ic;
    for (wino->from = 0; wino->from < wino->tiles; wino->from += wino->chunk) {
        wino->count = cnn__min(wino->chunk, wino->tiles - wino->from);
        cnn__share_out(cpu, work * (double)wino->chunk, wino->wide / wino->u->nr, cnn__winograd_inputs_job,
                       wino);
        cnn__share_out(cpu, work * (double)wino->chunk, cnn__ceil(wino->t->oc, wino->u->mr),
                       cnn__winograd_sums_job,
                       wino);
    }
    if (!wino->once) cnn__share_out(cpu, work, wino->t->oc, cnn__winograd_gradient_job, wino);
}

/* ---- Depthwise 3x3: plane by plane, in place, with u->depth; stride 1 or 2 ----

   backward-data is forward from dy, with the kernel turned by 180 degrees and padding 2 - P. With stride 2,
   both backward passes are those of stride 1 with zeros between the numbers of dy: four times the
   multiply-adds, in a kernel that has lanes for them. Lower bound: with 18 operations for a float read and
   one written (two, where dx is added to), memory beyond the caches decides. */
static bool cnn__rows_fit(const cnn__cpu *cpu, const cnn__conv *conv, int pass)
{
    (void)cpu, (void)pass;
    return conv->groups == conv->ic && conv->ic == conv->oc && conv->kh == 3 && conv->kw == 3
        && conv->sh == conv->sw
        && conv->sh <= 2 && conv->dh == 1 && conv->dw == 1 && cnn__all_meet(conv);
}

/* Fetch the next plane while this one is worked on: the hardware prefetcher does not recognise strips of
   columns. */
static inline void cnn__prefetch_plane(const float *p, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n && i < 4096; i += CNN__ALIGN / (int)sizeof *p) CNN__PREFETCH(p + i);
    (void)p;
}

/* forward and backward-data: a unit is a plane. backward-weights: a unit is a channel, whose images are taken
   one after the other. */
enum { CNN__ROWS_FLAT = 16 };
typedef struct {
    const cnn__kernels *u;
    const cnn__conv *t;
    int pass;
    cnn__image image;
    float *to;
    const float *from, *dy, *w, *b;
    const cnn__tail *tail;
    bool add, flat, ends;               /* vectors of several rows; the tail is a clip, done in registers */
    const float *clip;
    cnn__lanes bits[CNN__ROWS_FLAT][10];
    float *work;                        /* stride 2, backward: for each thread a plane of dy, zeros between */
    ptrdiff_t each;
} cnn__rows;

/* dy, or the copy of it that has zeros between. */
static const float *cnn__rows_dy(const cnn__rows *q, const float *dy, int thread)
{
    const cnn__conv *conv = q->t;
    float *to = q->work + thread * q->each;
    if (!q->each) return dy;
    for (int y = 0; y < conv->oh; y++, to += 4 * conv->ow - 2, dy += conv->ow)
        for (int x = 0; x < conv->ow; x++) to[2 * x] = dy[x];
    return q->work + thread * q->each;
}

/* Vectors of several rows, where they are many enough: see cnn__flat. */
static bool cnn__rows_flat(cnn__rows *q)
{
    const cnn__image *p = &q->image;
    const int rows = q->u->lanes / p->w;
    if (rows < 2 || p->s > 1 || p->ow != p->w || cnn__ceil(p->oh, rows) > CNN__ROWS_FLAT) return false;
    for (int n = 0; n * rows < p->oh; n++) {
        const int oy = n * rows, count = (int)cnn__min(rows, p->oh - oy);
        for (int e = 0; e < 9; e++) {
            cnn__lanes in = 0;
            for (int l = 0; l < count * p->w; l++) {
                const int iy = oy + l / p->w + e / 3 - p->ph, ix = l % p->w + e % 3 - p->pw;
                if (iy >= 0 && iy < p->h && ix >= 0 && ix < p->w) in |= 1u << l;
            }
            q->bits[n][e] = in;
        }
        q->bits[n][9] = cnn__run_of(0, count * p->w);
    }
    return true;
}

static void cnn__rows_job(const void *job, ptrdiff_t first, ptrdiff_t last, int thread)
{
    const cnn__rows *q = job;
    const bool back = q->pass == CNN__BACKWARD_DATA;
    const ptrdiff_t in = back ? (ptrdiff_t)q->t->oh * q->t->ow : (ptrdiff_t)q->t->h * q->t->w;
    const ptrdiff_t out = (ptrdiff_t)q->image.oh * q->image.ow;
    for (ptrdiff_t i = first; i < last; i++) {
        float k[9];
        const ptrdiff_t c = i % q->t->ic;
        const float *from = q->from + i * in;
        for (int e = 0; e < 9; e++) k[e] = q->w[c * 9 + (back ? 8 - e : e)];
        if (back) from = cnn__rows_dy(q, from, thread);
        q->u->depth(&q->image, q->flat ? q->bits : NULL, q->to + i * out, from, k,
                    q->b ? q->b[c] : 0.0f, q->add, q->clip);
        if (!q->ends) cnn__complete(q->tail, q->to, i * out, (i + 1) * out);
    }
}

static void cnn__rows_weights_job(const void *job, ptrdiff_t first, ptrdiff_t last, int thread)
{
    const cnn__rows *q = job;
    const ptrdiff_t in = (ptrdiff_t)q->t->h * q->t->w, out = (ptrdiff_t)q->t->oh * q->t->ow;
    for (ptrdiff_t n = 0; n < q->t->n; n++)
        for (ptrdiff_t c = first; c < last; c++) {
            const ptrdiff_t i = n * q->t->ic + c;
            if (c + 1 < last) {
                cnn__prefetch_plane(q->from + (i + 1) * in, in);
                cnn__prefetch_plane(q->dy + (i + 1) * out, out);
            }
            q->u->depth_w(&q->image, q->to + c * 9, q->from + i * in,
                          cnn__rows_dy(q, q->dy + i * out, thread));
        }
}

/* ---- The algorithms: a table, and the rule that picks one from the shape ---- */

/* Each runs a pass. Without a place for the result it only adds the bytes of scratch that the pass needs to
   *used. Beside it, what packs the weights for forward: returns their floats and, if to is not NULL, does. */
static void cnn__run_direct(const cnn__cpu *cpu, const cnn__conv *conv, int pass, const cnn__arrays *arrays,
                            char *scratch, size_t *used)
{
    if (pass == CNN__BACKWARD_WEIGHTS) {
        cnn__weights q = cnn__weights_plan(cpu, conv, arrays->x, arrays->dy, scratch, used);
        if (arrays->to) q.dw = arrays->to, cnn__weights_run(cpu, &q);
        return;
    }
    cnn__shifted q = cnn__shifted_plan(cpu, conv, pass == CNN__BACKWARD_DATA, false, arrays, scratch, used);
    if (arrays->to) cnn__shifted_run(cpu, &q, arrays->clear);
}
static size_t cnn__pack_shifted(const cnn__cpu *cpu, const cnn__conv *conv, bool turned, float *to,
                                const float *w, char *scratch)
{
    const cnn__arrays arrays = { .w = w, .packed = to };
    size_t used = 0;
    cnn__shifted shifted = cnn__shifted_plan(cpu, conv, false, turned, &arrays, scratch, &used);
    shifted.packed = false;
    if (to) cnn__shifted_pack(cpu, &shifted);
    return (size_t)(conv->groups * shifted.all * shifted.s.c) * (size_t)conv->kh * (size_t)conv->kw;
}
static size_t cnn__pack_direct(const cnn__cpu *cpu, const cnn__conv *conv, float *to, const float *w,
                               char *scratch)
{
    return cnn__pack_shifted(cpu, conv, false, to, w, scratch);
}

static void cnn__run_turned(const cnn__cpu *cpu, const cnn__conv *conv, int pass, const cnn__arrays *arrays,
                            char *scratch, size_t *used)
{
    (void)pass;                                         /* forward */
    cnn__shifted shifted = cnn__shifted_plan(cpu, conv, false, true, arrays, scratch, used);
    if (arrays->to) cnn__shifted_run(cpu, &shifted, false);
}
static size_t cnn__pack_turned(const cnn__cpu *cpu, const cnn__conv *conv, float *to, const float *w,
                               char *scratch)
{
    return cnn__pack_shifted(cpu, conv, true, to, w, scratch);
}

static void cnn__run_side(const cnn__cpu *cpu, const cnn__conv *conv, int pass, const cnn__arrays *arrays,
                          char *scratch, size_t *used)
{
    const cnn__side side = cnn__side_plan(cpu, conv, pass == CNN__BACKWARD_DATA, arrays, scratch, used);
    if (!arrays->to) return;
    if (!arrays->packed) cnn__side_pack(&side, arrays->w);
    cnn__side_run(cpu, &side);
}
static size_t cnn__pack_side(const cnn__cpu *cpu, const cnn__conv *conv, float *to, const float *w,
                             char *scratch)
{
    size_t used = 0;
    const cnn__side side = cnn__side_plan(cpu, conv, false, &(cnn__arrays){ .packed = to }, scratch, &used);
    if (to) cnn__side_pack(&side, w);
    return (size_t)(side.m * side.k);
}

static void cnn__run_columns(const cnn__cpu *cpu, const cnn__conv *conv, int pass, const cnn__arrays *arrays,
                             char *scratch, size_t *used)
{
    const cnn__columns q = cnn__columns_plan(cpu, conv, arrays, scratch, used);
    (void)pass;
    if (arrays->to) cnn__columns_run(cpu, &q);
}

static void cnn__run_winograd(const cnn__cpu *cpu, const cnn__conv *conv, int pass, const cnn__arrays *arrays,
                              char *scratch, size_t *used)
{
    if (pass == CNN__BACKWARD_WEIGHTS) {
        cnn__wino_w q = cnn__winograd_weights_plan(cpu, conv, arrays, scratch, used);
        if (arrays->to) q.dw = arrays->to, cnn__winograd_weights_run(cpu, &q);
        return;
    }
    const cnn__wino q = cnn__winograd_plan(cpu, conv, pass == CNN__BACKWARD_DATA, arrays, scratch, used);
    if (arrays->to) cnn__winograd_run(cpu, &q);
}
static size_t cnn__pack_winograd(const cnn__cpu *cpu, const cnn__conv *conv, float *to, const float *w,
                                 char *scratch)
{
    size_t used = 0;
    cnn__wino wino = cnn__winograd_plan(cpu, conv, false, &(cnn__arrays){ .w = w, .packed = to }, scratch,
                                        &used);
    wino.once = false, wino.shared = to, wino.as = wino.m * wino.c + CNN__MAX_LANES;
    if (to) cnn__winograd_shared(cpu, &wino);
    return cnn__mul_size(36, (size_t)wino.as);
}

static void cnn__run_rows(const cnn__cpu *cpu, const cnn__conv *conv, int pass, const cnn__arrays *arrays,
                          char *scratch, size_t *used)
{
    const bool backward = pass == CNN__BACKWARD_DATA, weights = pass == CNN__BACKWARD_WEIGHTS;
    const int s = pass ? conv->sh : 1, oh = s * (conv->oh - 1) + 1, ow = s * (conv->ow - 1) + 1;
    const double work = 36.0 * conv->n * conv->ic * (backward ? (double)conv->h * conv->w : (double)oh * ow);
    const cnn__image image = { conv->h, conv->w, oh, ow, conv->ph, conv->pw, pass ? 1 : conv->sh },
        turned = { oh, ow, conv->h, conv->w, 2 - conv->ph, 2 - conv->pw, 1 };
    const ptrdiff_t each = s > 1 ? cnn__ceil((ptrdiff_t)oh * ow, 16) * 16 : 0;
    const size_t floats = cnn__mul_size((size_t)cpu->threads, (size_t)each);
    float *zeros = cnn__take(scratch, used, floats, sizeof *zeros);
    if (!arrays->to) return;
    if (floats) memset(zeros, 0, floats * sizeof *zeros);
    cnn__rows q = { .u = cnn__kernels_of(cpu), .t = conv, .pass = pass, .image = backward ? turned : image,
                    .to = arrays->to, .from = backward ? arrays->dy : arrays->x, .dy = arrays->dy,
                    .w = arrays->w, .b = arrays->b,
                    .tail = arrays->tail, .add = backward && !arrays->clear, .work = zeros, .each = each };
    cnn__ends ends;
    q.ends = cnn__ends_of(cpu, arrays->tail, &ends) && !ends.more[1], q.clip = q.ends ? ends.clip : NULL;
    q.flat = !weights && cnn__rows_flat(&q);
    cnn__share_out(cpu, work, weights ? conv->ic : (ptrdiff_t)conv->n * conv->ic,
                   weights ? cnn__rows_weights_job : cnn__rows_job, &q);
}

/* The limits of the rule, as tuned on AVX2 (LeNet, ResNet); tests/bench has the programs that measure them.
   Ratios are of the pixels of all tiles to those of the output. */
enum { CNN__WINOGRAD_LEAST = 16,        /* channels: fewer do not repay the transforms */
       CNN__WINOGRAD_MANY = 32,         /* channels that repay even backward-weights on narrow planes */
       CNN__WINOGRAD_TILES = 16,        /* tiles of a batch, at least; */
       CNN__WINOGRAD_TILES_MANY = 4,    /* of backward-weights with many channels */
       CNN__COLUMNS_TERMS = 256,        /* of a sum, at least; */
       CNN__COLUMNS_PIXELS = 256,       /* of a plane of dy, at most: where strides or ends of planes leave
                                           lanes of the direct sum empty; a quarter of that with stride 1 */
       CNN__SIDE_TERMS = 64,            /* of a sum, at least: worth two transpositions */
       CNN__SIDE_FLOATS = 1 << 17 };    /* of a block of nr images, which should stay in the L2 cache */
#define CNN__WINOGRAD_WASTE      1.8    /* the largest ratio, */
#define CNN__WINOGRAD_WASTE_FEW  1.1    /* of backward-weights with few channels (13x13, 26x26 lose) */
#define CNN__WINOGRAD_WASTE_MANY 4.0    /* with many: the direct sum is slow on narrow planes */

/* Vectors of the pixels of a row would be less than 8/9 full. */
CNN__COLD static bool cnn__side_pays(const cnn__cpu *cpu, const cnn__conv *conv, int pass)
{
    const ptrdiff_t nr = cnn__kernels_of(cpu)->nr, pixels = pass == CNN__BACKWARD_DATA ? conv->w : conv->ow;
    const double terms = (double)(pass == CNN__BACKWARD_DATA ? conv->oc : conv->ic) * conv->kh * conv->kw;
    const double floats = (double)conv->ic * conv->h * conv->w + (double)conv->oc * conv->oh * conv->ow;
    return cnn__side_fits(cpu, conv, pass) && conv->kh * conv->kw > 1 && terms >= CNN__SIDE_TERMS
        && floats * (double)nr <= CNN__SIDE_FLOATS && cnn__ceil(pixels, nr) * nr * 8 > pixels * 9;
}

/* In planes of one row or column some weights meet nothing but padding: the direct sum adds exactly 0 to
   their gradient, Winograd rounding errors. */
CNN__COLD static bool cnn__winograd_pays(const cnn__cpu *cpu, const cnn__conv *conv, int pass)
{
    if (cpu->exact) return false;
    const int h = pass == CNN__BACKWARD_DATA ? conv->h : conv->oh, w = pass == CNN__BACKWARD_DATA ? conv->w
                  : conv->ow;
    const int side = 7 - conv->kh, channels = conv->ic < conv->oc ? conv->ic : conv->oc;
    const bool weights = pass == CNN__BACKWARD_WEIGHTS, many = channels >= CNN__WINOGRAD_MANY;
    const double tiles = (double)conv->n * (double)(cnn__ceil(h, side) * cnn__ceil(w, side));
    double waste = CNN__WINOGRAD_WASTE;
    if (weights && !many) waste = CNN__WINOGRAD_WASTE_FEW;
    if (weights && many && !cnn__side_pays(cpu, conv, pass)) waste = CNN__WINOGRAD_WASTE_MANY;
    return channels >= CNN__WINOGRAD_LEAST && h > 1 && w > 1
        && tiles >= (weights && many ? CNN__WINOGRAD_TILES_MANY : CNN__WINOGRAD_TILES)
        && tiles * side * side <= waste * conv->n * h * w;
}

CNN__COLD static bool cnn__columns_pay(const cnn__cpu *cpu, const cnn__conv *conv, int pass)
{
    const bool strided = conv->sh > 1 || conv->sw > 1;
    return cnn__columns_fit(cpu, conv, pass) && conv->oc >= CNN__COLUMNS_TERMS
        && (ptrdiff_t)conv->oh * conv->ow <= (strided ? CNN__COLUMNS_PIXELS : CNN__COLUMNS_PIXELS / 4);
}

static bool cnn__winograd4_fits(const cnn__cpu *cpu, const cnn__conv *conv, int pass)
{
    return (void)cpu, conv->kh == 3 && cnn__winograd_fits(conv, pass);
}
static bool cnn__winograd2_fits(const cnn__cpu *cpu, const cnn__conv *conv, int pass)
{
    return (void)cpu, conv->kh == 5 && cnn__winograd_fits(conv, pass);
}
static bool cnn__turned_fits(const cnn__cpu *cpu, const cnn__conv *conv, int pass)
{
    return (void)cpu, pass == CNN__FORWARD && conv->oc > conv->groups;
}
/* The lanes of vectors of pixels would be emptier, and there are terms and channels enough to repay turning
   and the copies of pixels. */
CNN__COLD static bool cnn__turned_pays(const cnn__cpu *cpu, const cnn__conv *conv, int pass)
{
    const cnn__kernels *isa = cnn__kernels_of(cpu);
    (void)pass;
    const double m = conv->oc / conv->groups, k = (double)(conv->ic / conv->groups) * conv->kh * conv->kw;
    const double n = (double)conv->ow * conv->oh;
    const double channels = (double)cnn__ceil((ptrdiff_t)m, isa->lanes) * isa->lanes / m;
    /* pixels are read where they lie, by half panels */
    if (cnn__pointwise_fits(cpu, conv, pass)) {
        const double pixels = (double)cnn__ceil((ptrdiff_t)n, isa->nr / 2) * isa->nr / 2 / n;
        const double lanes = isa->lanes, cost = 1 + 1.25 * lanes / k + 0.3 / lanes;
        return n <= CNN__TURNED_PIXELS && channels * cost < pixels * (1 + lanes / 2 / m);
    }
    const double pixels = (double)cnn__ceil((ptrdiff_t)n, isa->nr) * isa->nr / n;
    return n < 1024 && channels * (1 + 32 / k + 8 / m) < pixels + 0.12;
}
static bool cnn__depthwise_fits(const cnn__cpu *cpu, const cnn__conv *conv, int pass)
{
    return (void)cpu, (void)pass, conv->groups == conv->ic && conv->ic == conv->oc && conv->ic > 1;
}
static bool cnn__always(const cnn__cpu *cpu, const cnn__conv *conv, int pass)
{
    return (void)cpu, (void)conv, (void)pass, true;
}

/* An algorithm of convolution is a row; the first that fits a shape and pays for it runs. The last three are
   one algorithm, whose name says what it is for this shape. */
typedef bool cnn__shape_rule(const cnn__cpu *, const cnn__conv *, int pass);
typedef struct {
    const char *name;
    cnn__shape_rule *fits, *pays;
    void (*run)(const cnn__cpu *, const cnn__conv *, int pass, const cnn__arrays *, char *scratch,
                size_t *used);
    size_t (*pack)(const cnn__cpu *, const cnn__conv *, float *to, const float *w, char *scratch);
} cnn__algorithm;                       /* pack: NULL if it takes the weights as they lie */
static const cnn__algorithm cnn__algorithms[] = {
    /* An algorithm of your own: its row here. */
    { "winograd 4x4", cnn__winograd4_fits, cnn__winograd_pays, cnn__run_winograd, cnn__pack_winograd },
    { "winograd 2x2", cnn__winograd2_fits, cnn__winograd_pays, cnn__run_winograd, cnn__pack_winograd },
    { "depthwise rows", cnn__rows_fit, cnn__always, cnn__run_rows, NULL },
    { "direct, images side by side", cnn__side_fits, cnn__side_pays, cnn__run_side, cnn__pack_side },
    { "direct, channels in vectors", cnn__turned_fits, cnn__turned_pays, cnn__run_turned, cnn__pack_turned },
    { "direct, channels along the vectors", cnn__columns_fit, cnn__columns_pay, cnn__run_columns, NULL },
    { "1x1 gemm", cnn__pointwise_fits, cnn__always, cnn__run_direct, cnn__pack_direct },
    { "depthwise", cnn__depthwise_fits, cnn__always, cnn__run_direct, cnn__pack_direct },
    { "direct", cnn__always, cnn__always, cnn__run_direct, cnn__pack_direct }
};

static const cnn__algorithm *cnn__conv_rule(const cnn__cpu *cpu, const cnn__conv *conv, int pass)
{
    const cnn__algorithm *a = cnn__algorithms;
    while (!a->fits(cpu, conv, pass) || !a->pays(cpu, conv, pass)) a++;
    return a;
}

/* The name of the algorithm that a pass of this shape runs, for the summary. */
CNN__UNUSED static const char *cnn__conv_algorithm(const cnn__cpu *cpu, const cnn__conv *conv, int pass)
{
    return cnn__conv_rule(cpu, conv, pass)->name;
}

/* The most that a pass needs, with this batch or a smaller one, which may be cut into larger pieces. Beyond
   8192 images no piece grows: backward-weights takes at most 8 chunks, 1024 images at a time. */
CNN__COLD static size_t cnn__conv_scratch(const cnn__cpu *cpu, const cnn__conv *conv)
{
    size_t most = 0;
    cnn__conv part = *conv;
    for (; part.n > 0; part.n = part.n > 8192 ? 8192 : part.n - 1)
        for (int pass = 0; pass < 3; pass++) {
            size_t used = 0;
            cnn__conv_rule(cpu, &part, pass)->run(cpu, &part, pass, &(cnn__arrays){ .to = NULL }, NULL,
                                                  &used);
            if (used > most) most = used;
        }
    return most;
}

/* Likewise of floats of packed weights. */
CNN__COLD static size_t cnn__conv_packed(const cnn__cpu *cpu, const cnn__conv *conv)
{
    size_t most = 0;
    cnn__conv part = *conv;
    for (; part.n > 0; part.n = part.n > 8192 ? 8192 : part.n - 1) {
        const size_t floats = cnn__conv_pack(cpu, &part, NULL, NULL, NULL);
        if (floats > most) most = floats;
    }
    return most;
}

static size_t cnn__conv_pack(const cnn__cpu *cpu, const cnn__conv *conv, float *to, const float *w,
                             void *scratch)
{
    const cnn__algorithm *a = cnn__conv_rule(cpu, conv, CNN__FORWARD);
    return a->pack ? a->pack(cpu, conv, to, w, scratch) : 0;
}

static void cnn__conv_run(const cnn__cpu *cpu, const cnn__conv *conv, int pass, const cnn__arrays *arrays,
                          void *scratch)
{
    size_t used = 0;
    cnn__conv_rule(cpu, conv, pass)->run(cpu, conv, pass, arrays, scratch, &used);
}

static void cnn__fast_conv_forward(const cnn__cpu *cpu, const cnn__conv *conv, float *y, const float *x,
                                   const float *w, const float *b, const float *packed, void *scratch,
                                   const cnn__tail *tail)
{
    const cnn__arrays arrays = { .to = y, .x = x, .w = w, .b = b, .packed = (float *)(uintptr_t)packed,
                            .tail = tail };
    cnn__conv_run(cpu, conv, CNN__FORWARD, &arrays, scratch);
}

static void cnn__fast_conv_backward_data(const cnn__cpu *cpu, const cnn__conv *conv, float *dx,
                                         const float *dy, const float *w, bool clear, void *scratch)
{
    const cnn__arrays arrays = { .to = dx, .dy = dy, .w = w, .clear = clear };
    cnn__conv_run(cpu, conv, CNN__BACKWARD_DATA, &arrays, scratch);
}

static void cnn__fast_conv_backward_weights(const cnn__cpu *cpu, const cnn__conv *conv, float *dw, float *db,
                                            const float *x, const float *dy, void *scratch)
{
    const cnn__arrays arrays = { .to = dw, .x = x, .dy = dy };
    cnn__conv_run(cpu, conv, CNN__BACKWARD_WEIGHTS, &arrays, scratch);
    if (db) cnn__bias_gradient(cpu, conv, db, dy);
}

/* ===========================================================================================================
   >>elementwise ---- 18. Element by element, broadcasting, pooling, normalisation, dropout
   ======================================================================================================== */

enum { CNN__PIECE = 2048 };              /* elements that stay in the L1 cache, with two operands */

/* Apply them to y[i] for from <= i < from + n; tail may be NULL. */
static void cnn__finish(const cnn__tail *tail, float *y, ptrdiff_t from, ptrdiff_t n)
{
    for (int s = 0; tail && s < tail->steps; s++)
        tail->step[s].f(y + from, tail->step[s].a ? tail->step[s].a + from : NULL, NULL, tail->step[s].k, n);
}

/* y[i] = f(x[i], a[i], b[i]; k) for from <= i < to, then the tail. y may be x; a, b, tail may be NULL. */
static void cnn__apply(cnn_each *f, float *y, const float *x, const float *a, const float *b, const float *k,
                       ptrdiff_t from, ptrdiff_t to, const cnn__tail *tail)
{
    for (ptrdiff_t i = from; i < to; i += CNN__PIECE) {
        const ptrdiff_t m = to - i < CNN__PIECE ? to - i : CNN__PIECE;
        if (y != x) memcpy(y + i, x + i, (size_t)m * sizeof *y);
        if (f) f(y + i, a ? a + i : NULL, b ? b + i : NULL, k, m);
        cnn__finish(tail, y, i, m);
    }
}

/* The same for all i < n. A unit is a piece. */
typedef struct {
    const cnn__cpu *cpu;
    cnn_each *f;
    float *y;
    const float *x, *a, *b, *k;
    ptrdiff_t n;
    const cnn__tail *tail;
} cnn__mapping;
static void cnn__map_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn__mapping *q = of;
    cnn__apply(q->f, q->y, q->x, q->a, q->b, q->k, from * CNN__PIECE, cnn__min(q->n, to * CNN__PIECE),
               q->tail);
}
static void cnn__map_then(const cnn__cpu *cpu, cnn_each *f, float *y, const float *x, const float *a,
                          const float *b, const float *k, ptrdiff_t n, const cnn__tail *tail)
{
    cnn__share_out(cpu, CNN__SIMPLE * (double)n, cnn__ceil(n, CNN__PIECE), cnn__map_job,
                   &(cnn__mapping){ cpu, f, y, x, a, b, k, n, tail });
}
static void cnn__fast_map(const cnn__cpu *cpu, cnn_each *f, float *y, const float *x, const float *a,
                          const float *b, const float *k, ptrdiff_t n)
{
    cnn__map_then(cpu, f, y, x, a, b, k, n, NULL);
}

/* dx[i] += f(dy[i], a[i]; k), or, where dx lies in the place of dy, dx[i] = that. f NULL: dy as it is. */
static void cnn__apply_back(const cnn__cpu *cpu, cnn_each *f, float *dx, const float *dy, const float *a,
                            const float *k, ptrdiff_t from, ptrdiff_t to)
{
    cnn_each *add = cnn__each_add(cpu);
    for (ptrdiff_t i = from; i < to; i += CNN__PIECE) {
        const ptrdiff_t m = to - i < CNN__PIECE ? to - i : CNN__PIECE;
        float           copy[CNN__PIECE], *v = dx == dy ? dx + i : copy;
        if (dx != dy) memcpy(copy, dy + i, (size_t)m * sizeof *copy);
        if (f) f(v, a ? a + i : NULL, NULL, k, m);
        if (dx != dy) add(dx + i, copy, NULL, NULL, m);
    }
}
static void cnn__map_back_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn__mapping *q = of;
    cnn__apply_back(q->cpu, q->f, q->y, q->x, q->a, q->k, from * CNN__PIECE, cnn__min(q->n, to * CNN__PIECE));
}
static void cnn__fast_map_back(const cnn__cpu *cpu, cnn_each *f, float *dx, const float *dy, const float *a,
                               const float *k, ptrdiff_t n)
{
    cnn__share_out(cpu, CNN__SIMPLE * (double)n, cnn__ceil(n, CNN__PIECE), cnn__map_back_job,
                   &(cnn__mapping){ cpu, f, dx, dy, a, NULL, k, n, NULL });
}

/* ---- Broadcasting ----

   Three arrays over one range of indices (N,C,H,W): y, a and b. An array that has extent 1 on an axis where
   the range is longer stays where it is along that axis: its step is 0. Read, that is broadcasting; written
   with +=, it is the sum over the axis. The two are each other's derivative, so these few loops serve add,
   mul, sum, mean and biases. */
typedef struct { ptrdiff_t n[4], y[4], a[4], b[4]; } cnn__range;

static void cnn__steps(ptrdiff_t step[4], cnn_shape s)
{
    const int extent[4] = { s.n, s.c, s.h, s.w };
    for (ptrdiff_t i = 3, size = 1; i >= 0; size *= extent[i--]) step[i] = extent[i] == 1 ? 0 : size;
}

/* Neighbouring axes that all three arrays cross in one stride become one, so that rows are long. They are
   moved to the back: the last axis is the row. */
static cnn__range cnn__range_of(cnn_shape y, cnn_shape a, cnn_shape b)
{
    const int  extent[3][4] = { { y.n, y.c, y.h, y.w }, { a.n, a.c, a.h, a.w }, { b.n, b.c, b.h, b.w } };
    cnn__range r, m = { { 1, 1, 1, 1 }, { 0 }, { 0 }, { 0 } };
    cnn__steps(r.y, y), cnn__steps(r.a, a), cnn__steps(r.b, b);
    int to = 4;
    for (int i = 3; i >= 0; i--) {
        r.n[i] = extent[0][i] > extent[1][i] ? extent[0][i] : extent[1][i];
        if (extent[2][i] > r.n[i]) r.n[i] = extent[2][i];
        if (r.n[i] == 1) continue;
        if (to < 4 && r.y[i] == m.y[to] * m.n[to] && r.a[i] == m.a[to] * m.n[to]
            && r.b[i] == m.b[to] * m.n[to]) {
            m.n[to] *= r.n[i];
            continue;
        }
        to--;
        m.n[to] = r.n[i], m.y[to] = r.y[i], m.a[to] = r.a[i], m.b[to] = r.b[i];
    }
    return m;
}

/* n numbers: those from x on, or, where that is one number, n copies of it. */
static const float *cnn__row_of(const float *x, bool row, float *copy, ptrdiff_t n)
{
    if (row) return x;
    copy[0] = *x;
    for (ptrdiff_t j = 1; j < n; j *= 2) memcpy(copy + j, copy, (size_t)cnn__min(j, n - j) * sizeof *copy);
    return copy;
}

typedef struct { cnn__mapping map; cnn__range range; } cnn__broadcasting;    /* x: dy, or NULL */
static void cnn__broadcast_job(const void *of, ptrdiff_t first, ptrdiff_t end, int thread CNN__UNUSED)
{
    const cnn__mapping *q = &((const cnn__broadcasting *)of)->map;
    const cnn__range    r = ((const cnn__broadcasting *)of)->range;
    const cnn__cpu     *cpu = q->cpu;
    cnn_each           *f = q->f, *scale = cnn__each_scale(cpu);
    float              *y = q->y;
    const float        *dy = q->x;
    const ptrdiff_t     n = r.n[3], pieces = cnn__ceil(n, CNN__PIECE);
    const bool          sub = f == cnn__each_sub(cpu), mul = f == cnn__each_mul(cpu);
    const bool          turned = !r.a[3], one = turned != !r.b[3];
    const bool          linear = !dy && one && (sub || mul || f == cnn__each_add(cpu));
    for (ptrdiff_t i = first; i < end; i++) {
        const ptrdiff_t row = pieces == 1 ? i : i / pieces, from = (i - row * pieces) * CNN__PIECE;
        const ptrdiff_t plane = row / r.n[2], i2 = row - plane * r.n[2];     /* division takes as long as */
        const ptrdiff_t i0 = plane / r.n[1], i1 = plane - i0 * r.n[1];       /* a dozen elements */
        const ptrdiff_t m = cnn__min(CNN__PIECE, n - from), at = row * n + from;
        const float    *u = q->a + i0 * r.a[0] + i1 * r.a[1] + i2 * r.a[2] + from * r.a[3];
        const float    *v = q->b + i0 * r.b[0] + i1 * r.b[1] + i2 * r.b[2] + from * r.b[3];
        float           left[CNN__PIECE], right[CNN__PIECE];
        if (linear) {                                       /* of a row x and one number: k[0] x + k[1] */
            const float *x = turned ? v : u, number = turned ? *u : *v;
            const float  k[2] = { mul ? number : sub && turned ? -1.0f : 1.0f,
                                  mul ? 0.0f : sub && !turned ? -number : number };
            if (y + at != x) memcpy(y + at, x, (size_t)m * sizeof *y);
            scale(y + at, NULL, NULL, k, m);
        } else {
            u = cnn__row_of(u, r.a[3], left, m), v = cnn__row_of(v, r.b[3], right, m);
            if (dy || y + at != u) memcpy(y + at, dy ? dy + at : u, (size_t)m * sizeof *y);
            f(y + at, dy ? u : v, dy ? v : NULL, NULL, m);
        }
        cnn__finish(q->tail, y, at, m);
    }
}
static void cnn__fast_broadcast(const cnn__cpu *cpu, cnn_each *f, float *y, const float *dy, const float *a,
                                const float *b, cnn_shape ys, cnn_shape as, cnn_shape bs,
                                const cnn__tail *tail)
{
    const cnn__range r = cnn__range_of(ys, as, bs);
    const ptrdiff_t  n = r.n[3], rows = r.n[0] * r.n[1] * r.n[2];
    cnn__share_out(cpu, CNN__SIMPLE * (double)(rows * n), rows * cnn__ceil(n, CNN__PIECE),
                   cnn__broadcast_job, &(cnn__broadcasting){ { cpu, f, y, dy, a, b, NULL, n, tail }, r });
}

/* Where a step leads for one index over the outer axes that y crosses, and one over those that are summed. */
static ptrdiff_t cnn__offset(const cnn__range *r, const ptrdiff_t step[4], ptrdiff_t own, ptrdiff_t term)
{
    ptrdiff_t offset = 0;
    for (int i = 2; i >= 0; i--) {
        ptrdiff_t *at = r->y[i] ? &own : &term;
        if (r->n[i] == 1) continue;
        offset += *at % r->n[i] * step[i], *at /= r->n[i];
    }
    return offset;
}

typedef struct {
    const cnn__cpu *cpu;
    cnn__range range;
    float *y;
    const float *a, *b;
    float p;
    ptrdiff_t own, terms;                                 /* rows or numbers of y; what is summed for each */
} cnn__products;

/* Term number `term` of the sums in row `own` of y. If they are over the row, *sum += it; else for n columns
   from `from`, to[j] += it. */
static void cnn__add_term(const cnn__products *q, ptrdiff_t own, ptrdiff_t term, ptrdiff_t from, ptrdiff_t n,
                          float *to, double *sum)
{
    const cnn__range *r = &q->range;
    const bool   a_row = r->a[3] != 0, b_row = q->b && r->b[3] != 0;
    const float *u = q->a + cnn__offset(r, r->a, own, term) + (a_row ? from : 0);
    const float *v = q->b ? q->b + cnn__offset(r, r->b, own, term) + (b_row ? from : 0) : NULL;
    const float *row = a_row ? u : b_row ? v : NULL;                  /* the only row, times a number ... */
    const float  k[2] = { 1, q->p * (a_row ? 1.0f : *u) * (q->b && !b_row ? *v : 1.0f) };
    if (a_row && b_row) {                                             /* ... unless both are rows */
        if (sum) *sum += (double)q->p * cnn__sum_products(q->cpu, u, v, 0, n);
        else     cnn__each_add_product(q->cpu)(to, u, v, &q->p, n);
    } else if (row) {
        if (sum) *sum += (double)k[1] * cnn__sum(q->cpu, row, NULL, 0, n);
        else     cnn__each_add_scaled(q->cpu)(to, row, NULL, k + 1, n);
    } else {
        if (sum) *sum += (double)k[1] * (double)n;
        else     cnn__each_scale(q->cpu)(to, NULL, NULL, k, n);
    }
}

/* Sums over outer axes, element by element: TERMS rows in float, those in double. */
static void cnn__add_terms(const cnn__products *q, ptrdiff_t own, ptrdiff_t terms, ptrdiff_t from,
                           ptrdiff_t n, float *to)
{
    enum { TERMS = 16 };
    double sum[CNN__PIECE];
    float  part[CNN__PIECE];
    for (ptrdiff_t j = 0; j < n; j++) sum[j] = 0;
    for (ptrdiff_t term = 0; term < terms; term += TERMS) {
        for (ptrdiff_t j = 0; j < n; j++) part[j] = 0;
        for (ptrdiff_t i = term; i < terms && i < term + TERMS; i++)
            cnn__add_term(q, own, i, from, n, part, NULL);
        for (ptrdiff_t j = 0; j < n; j++) sum[j] += (double)part[j];
    }
    for (ptrdiff_t j = 0; j < n; j++) to[j] += (float)sum[j];
}

static void cnn__add_product_job(const void *of, ptrdiff_t first, ptrdiff_t end, int thread CNN__UNUSED)
{
    const cnn__products *q = of;
    const cnn__range    *r = &q->range;
    const bool           rows = r->y[3] != 0;             /* y is made of rows, or of sums of rows */
    const ptrdiff_t      n = r->n[3], piece = rows ? CNN__PIECE : n, pieces = cnn__ceil(n, piece);
    for (ptrdiff_t i = first; i < end; i++) {
        const ptrdiff_t at = i / pieces, from = i % pieces * piece, m = cnn__min(piece, n - from);
        float          *to = q->y + cnn__offset(r, r->y, at, 0) + (rows ? from : 0);
        double          sum = 0;
        for (ptrdiff_t t = 0; t < q->terms && !rows; t++) cnn__add_term(q, at, t, 0, n, NULL, &sum);
        if (!rows)              *to += (float)sum;
        else if (q->terms == 1) cnn__add_term(q, at, 0, from, m, to, NULL);
        else                    cnn__add_terms(q, at, q->terms, from, m, to);
    }
}
static void cnn__fast_add_product(const cnn__cpu *cpu, float *y, const float *a, const float *b, cnn_shape ys,
                                  cnn_shape as, cnn_shape bs, float p)
{
    cnn__products   q = { cpu, cnn__range_of(ys, as, b ? bs : as), y, a, b, p, 1, 1 };
    const ptrdiff_t n = q.range.n[3];
    for (int i = 0; i < 3; i++) *(q.range.y[i] ? &q.own : &q.terms) *= q.range.n[i];
    cnn__share_out(cpu, CNN__SIMPLE * (double)(q.own * q.terms * n),
                   q.own * (q.range.y[3] ? cnn__ceil(n, CNN__PIECE) : 1), cnn__add_product_job, &q);
}

/* y of rows: row upon row. Else all rows that become one number are folded into a piece, that by halves. */
typedef struct { cnn_each *f; float *y; const float *x; cnn__range range; ptrdiff_t terms; } cnn__folding;
static void cnn__fold_job(const void *of, ptrdiff_t begin, ptrdiff_t end, int thread CNN__UNUSED)
{
    const cnn__folding *q = of;
    const cnn__range    r = q->range;
    const bool          rows = r.y[3] != 0;
    const ptrdiff_t     n = r.n[3], piece = cnn__min(CNN__PIECE, n), pieces = cnn__ceil(n, piece);
    for (ptrdiff_t i = begin; i < end; i++) {
        const ptrdiff_t at = rows ? i / pieces : i, first = rows ? i % pieces * piece : 0;
        ptrdiff_t       width = cnn__min(piece, n - first);
        float           part[CNN__PIECE];
        for (ptrdiff_t k = 0; k < q->terms; k++) {
            const ptrdiff_t from = rows ? first : k % pieces * piece, m = cnn__min(width, n - from);
            const float    *u = q->x + cnn__offset(&r, r.a, at, rows ? k : k / pieces) + from;
            if (k == 0) memcpy(part, u, (size_t)m * sizeof *part);
            else        q->f(part, u, NULL, NULL, m);
        }
        for (; !rows && width > 1; width -= width / 2)
            q->f(part, part + width - width / 2, NULL, NULL, width / 2);
        memcpy(q->y + cnn__offset(&r, r.y, at, 0) + first, part, (size_t)width * sizeof *part);
    }
}
static void cnn__fast_fold(const cnn__cpu *cpu, cnn_each *f, float *y, const float *x, cnn_shape ys,
                           cnn_shape xs)
{
    cnn__folding    q = { f, y, x, cnn__range_of(ys, xs, xs), 1 };
    const ptrdiff_t n = q.range.n[3], piece = cnn__min(CNN__PIECE, n), pieces = cnn__ceil(n, piece);
    ptrdiff_t       own = 1;
    *(q.range.y[3] ? &own : &q.terms) = pieces;
    for (int i = 0; i < 3; i++) *(q.range.y[i] ? &own : &q.terms) *= q.range.n[i];
    cnn__share_out(cpu, CNN__SIMPLE * (double)(own * q.terms * piece), own, cnn__fold_job, &q);
}

/* A pass over all windows; a unit is a plane. */
typedef struct {
    const cnn__cpu *cpu;
    const cnn__pool *pool;
    float *to;
    int *at;
    const float *from, *share;
    bool clear;
} cnn__pooling;
static void cnn__share_planes(cnn__job *job, const cnn__pooling *q)
{
    const cnn__pool *pool = q->pool;
    cnn__share_out(q->cpu, CNN__SIMPLE * pool->planes * pool->oh * pool->ow * pool->kh * pool->kw,
                   pool->planes, job, q);
}

/* Windows ox .. ox+n of a row, as many as one vector holds, if they lie inside the plane from left to right:
   their sums, or with at the largest elements and the places of these. Returns n, or 0 if this cannot be
   done, as with a dilation. A vector that is not full goes on into the next row of windows, as far as the
   array x reaches. */
static int cnn__pool_some(const cnn__kernels *isa, const cnn__pool *pool, const float *plane,
                          const float *end,
                          int y0, int y1, int ox, float *v, float *at)
{
    const int x0 = ox * pool->sw - pool->pw, rest = pool->w - x0 - pool->kw;
    if (x0 < 0 || rest < 0 || pool->sw > 2 || (pool->sw == 2 && pool->kw < 2)) return 0;
    if (pool->dh > 1 || pool->dw > 1) return 0;
    const int n = (int)cnn__min(cnn__min(isa->lanes, (rest >> (pool->sw - 1)) + 1), pool->ow - ox);
    const ptrdiff_t last = (ptrdiff_t)(y1 - 1) * pool->w + x0 + (isa->lanes - 1) * pool->sw + pool->kw - 1;
    if (last >= end - plane) return 0;
    isa->windows(y1 - y0, pool->kw, pool->sw, plane + (ptrdiff_t)y0 * pool->w + x0, pool->w, v, at);
    return n;
}

static void cnn__max_pool_job(const void *of, ptrdiff_t first_plane, ptrdiff_t planes, int thread CNN__UNUSED)
{
    const cnn__pooling *q = of;
    const cnn__pool    *pool = q->pool;
    float              *y = q->to;
    int                *at = q->at;
    const float        *x = q->from;
    const cnn__kernels *isa = cnn__kernels_of(q->cpu);
    const float *end = x + (ptrdiff_t)pool->planes * pool->h * pool->w;
    const cnn__image image = { pool->h, pool->w, pool->oh, pool->ow, pool->ph, pool->pw, pool->sh };
    const bool all = !at && pool->kh == 3 && pool->kw == 3 && pool->sh == pool->sw && pool->sh <= 2
                     && pool->dh * pool->dw == 1;
    for (ptrdiff_t plane = first_plane; plane < planes; plane++) {
        const float *in = x + plane * pool->h * pool->w;
        if (all) {
            isa->largest(&image, y + plane * pool->oh * pool->ow, in);
            continue;
        }
        ptrdiff_t    to = plane * pool->oh * pool->ow;
        float        v[CNN__MAX_LANES], which[CNN__MAX_LANES];
        for (int oy = 0; oy < pool->oh; oy++) {
            int y0, y1, x0, x1;
            cnn__window(oy, pool->h, pool->kh, pool->sh, pool->ph, pool->dh, &y0, &y1);
            for (int ox = 0, n; ox < pool->ow; ox += n, to += n) {
                n = cnn__pool_some(isa, pool, in, end, y0, y1, ox, v, which);
                cnn__copy(y + to, v, n);
                for (int i = 0, first = y0 * pool->w + ox * pool->sw - pool->pw; at && i < n; i++,
                     first += pool->sw) {
                    at[to + i] = first + (int)cnn__bits_of_float(which[i]);
                }
                if (n) continue;
                n = 1;
                cnn__window(ox, pool->w, pool->kw, pool->sw, pool->pw, pool->dw, &x0, &x1);
                int   best = y0 * pool->w + x0;
                float most = in[best];
                for (int iy = y0; iy < y1; iy += pool->dh)
                    for (int i = iy * pool->w + x0; i < iy * pool->w + x1; i += pool->dw)
                        if (in[i] > most || in[i] != in[i]) best = i, most = in[i];
                y[to] = most;
                if (at) at[to] = best;
            }
        }
    }
}
static void cnn__fast_max_pool(const cnn__cpu *cpu, const cnn__pool *pool, float *y, int *at, const float *x)
{
    cnn__share_planes(cnn__max_pool_job, &(cnn__pooling){ cpu, pool, y, at, x, NULL, false });
}

/* What lies j columns behind the start of its window: inside the plane for the windows *from <= ox < *to. */
static void cnn__column(const cnn__pool *pool, int j, int *from, int *to)
{
    const int last = pool->w - 1 + pool->pw - j;              /* ox sw <= last */
    *from = j >= pool->pw ? 0 : (pool->pw - j + pool->sw - 1) / pool->sw;
    *to = last >= (pool->ow - 1) * pool->sw ? pool->ow : last < 0 ? 0 : last / pool->sw + 1;
}

/* The sum of a window, however large it is. */
static double cnn__window_sum(const cnn__cpu *cpu, const cnn__pool *pool, const float *in, int y0, int y1,
                              int x0, int x1)
{
    double sum = 0;
    for (int iy = y0; iy < y1; iy += pool->dh) {
        const float *row = in + (ptrdiff_t)iy * pool->w;
        if (pool->dw == 1) sum += cnn__sum(cpu, row + x0, NULL, 0, x1 - x0);
        for (int ix = x0; pool->dw > 1 && ix < x1; ix += pool->dw) sum += (double)row[ix];
    }
    return sum;
}

static void cnn__avg_pool_job(const void *of, ptrdiff_t first, ptrdiff_t planes, int thread CNN__UNUSED)
{
    const cnn__pooling *q = of;
    const cnn__pool    *pool = q->pool;
    const float        *x = q->from, *share = q->share;
    const bool few = (double)pool->kh * pool->kw <= 256;              /* few enough for a sum in float */
    const cnn__kernels *isa = cnn__kernels_of(q->cpu);
    const float *end = x + (ptrdiff_t)pool->planes * pool->h * pool->w;
    for (ptrdiff_t plane = first; plane < planes; plane++)
        for (int oy = 0; oy < pool->oh; oy++) {
            float *restrict to = q->to + (plane * pool->oh + oy) * pool->ow;
            float  v[CNN__MAX_LANES];
            int    y0, y1, x0, x1;
            cnn__window(oy, pool->h, pool->kh, pool->sh, pool->ph, pool->dh, &y0, &y1);
            const float *restrict in = x + plane * pool->h * pool->w;
            for (int ox = 0, n; ox < pool->ow; ox += n) {
                n = few ? cnn__pool_some(isa, pool, in, end, y0, y1, ox, v, NULL) : 0;
                cnn__copy(to + ox, v, n);
                if (n) continue;
                n = 1, to[ox] = 0;
                cnn__window(ox, pool->w, pool->kw, pool->sw, pool->pw, pool->dw, &x0, &x1);
                if (!few) to[ox] = (float)cnn__window_sum(q->cpu, pool, in, y0, y1, x0, x1);
                for (int iy = y0; few && iy < y1; iy += pool->dh)
                    for (int ix = x0; ix < x1; ix += pool->dw) to[ox] += in[(ptrdiff_t)iy * pool->w + ix];
            }
            for (int ox = 0; ox < pool->ow; ox++) to[ox] *= share[oy] * share[pool->oh + ox];
        }
}
static void cnn__fast_avg_pool(const cnn__cpu *cpu, const cnn__pool *pool, float *restrict y,
                               const float *restrict x, const float *share)
{
    cnn__share_planes(cnn__avg_pool_job, &(cnn__pooling){ cpu, pool, y, NULL, x, share, false });
}

static void cnn__avg_pool_back_job(const void *of, ptrdiff_t first, ptrdiff_t planes, int thread CNN__UNUSED)
{
    const cnn__pooling *q = of;
    const cnn__pool    *pool = q->pool;
    const float        *share = q->share;
    const ptrdiff_t in = (ptrdiff_t)pool->h * pool->w;
    /* columns that meet the plane in some window */
    const int reach = pool->pw - (pool->ow - 1) * pool->sw;
    const int j0 = reach > 0 ? (int)cnn__ceil(reach, pool->dw) : 0;
    const int j1 = (int)cnn__min(pool->kw, cnn__ceil(pool->w + pool->pw, pool->dw));
    for (ptrdiff_t plane = first; plane < planes; plane++) {
        float *dx = q->to + plane * in;
        if (q->clear) memset(dx, 0, (size_t)in * sizeof *dx);
        for (int oy = 0; oy < pool->oh; oy++) {
            const float *restrict from = q->from + (plane * pool->oh + oy) * pool->ow;
            const float          *across = share + pool->oh;
            int          y0, y1, x0, x1;
            cnn__window(oy, pool->h, pool->kh, pool->sh, pool->ph, pool->dh, &y0, &y1);
            for (int iy = y0; iy < y1; iy += pool->dh)
                for (int j = j0; j < j1; j++) {
                    cnn__column(pool, j * pool->dw, &x0, &x1);
                    float *restrict to = dx + (ptrdiff_t)iy * pool->w + x0 * pool->sw - pool->pw
                                         + j * pool->dw;
                    for (int ox = x0, step = pool->sw; ox < x1; ox++, to += step)
                        *to += from[ox] * share[oy] * across[ox];
                }
        }
    }
}
static void cnn__fast_avg_pool_back(const cnn__cpu *cpu, const cnn__pool *pool, float *restrict dx,
                                    const float *restrict dy, const float *share, bool clear)
{
    cnn__share_planes(cnn__avg_pool_back_job, &(cnn__pooling){ cpu, pool, dx, NULL, dy, share, clear });
}

/* ---- Batch normalisation: per channel of (N,C,P), P = H*W ---- */

typedef struct {
    const cnn__cpu *cpu;
    int n, c;
    ptrdiff_t plane;
    float *moment[3], *y, *dw, *db;           /* moment: mean, rest, variance, to be computed */
    const float *x, *dy, *mean, *rest, *rstd, *w, *b;
    const cnn__tail *tail;
} cnn__channels;
static void cnn__share_channels(ptrdiff_t units, cnn__job *job, const cnn__channels *q)
{
    cnn__share_out(q->cpu, CNN__SIMPLE * q->n * q->c * (double)q->plane, units, job, q);
}

/* About mean, as a float, the squares are larger by rest^2, and the moments below by rest sum dy. */
static void cnn__moments_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn__channels *q = of;
    const double count = (double)q->n * (double)q->plane;
    for (ptrdiff_t i = from; i < to; i++) {
        const float *x = q->x + i * q->plane;
        double       sum = 0, squares = 0;
        for (int s = 0; s < q->n; s++) sum += cnn__sum(q->cpu, x + s * q->c * q->plane, NULL, 0, q->plane);
        const float  mean = q->moment[0][i] = (float)(sum / count);
        const double r = sum / count - (double)mean;
        for (int s = 0; s < q->n; s++)
            squares += cnn__sum_squares(q->cpu, x + s * q->c * q->plane, NULL, mean, q->plane);
        q->moment[1][i] = (float)r, squares = squares / count - r * r;
        q->moment[2][i] = squares < 0 ? 0.0f : (float)squares;
    }
}
static void cnn__fast_channel_moments(const cnn__cpu *cpu, float *mean, float *rest, float *variance,
                                      const float *x, int n, int c, ptrdiff_t plane)
{
    cnn__share_channels(c, cnn__moments_job, &(cnn__channels){ .cpu = cpu, .n = n, .c = c, .plane = plane,
                                                               .moment = { mean, rest, variance }, .x = x });
}

static void cnn__normalize_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn__channels *q = of;
    cnn_each *f = cnn__each_standardize(q->cpu);
    for (ptrdiff_t i = from; i < to; i++) {
        const ptrdiff_t ch = i % q->c;
        const float     factor = q->w ? q->rstd[ch] * q->w[ch] : q->rstd[ch];
        const float     k[3] = { q->mean[ch], factor, (q->b ? q->b[ch] : 0.0f)
                                                      - (q->rest ? q->rest[ch] * factor : 0.0f) };
        cnn__apply(f, q->y, q->x, NULL, NULL, k, i * q->plane, (i + 1) * q->plane, q->tail);
    }
}
static void cnn__fast_normalize(const cnn__cpu *cpu, float *y, const float *x, const float *mean,
                                const float *rest, const float *rstd, const float *w, const float *b, int n,
                                int c, ptrdiff_t plane, const cnn__tail *tail)
{
    cnn__share_channels((ptrdiff_t)n * c, cnn__normalize_job,
                        &(cnn__channels){ .cpu = cpu, .n = n, .c = c, .plane = plane, .y = y, .x = x,
                                          .mean = mean, .rest = rest, .rstd = rstd, .w = w, .b = b,
                                          .tail = tail });
}

static void cnn__normalize_back_job(const void *of, ptrdiff_t from, ptrdiff_t to, int thread CNN__UNUSED)
{
    const cnn__channels *q = of;
    const double count = (double)q->n * (double)q->plane;
    cnn_each    *f = q->rest ? cnn__each_standardize_back(q->cpu) : cnn__each_scale(q->cpu);  /* no 0 Inf */
    for (ptrdiff_t i = from; i < to; i++) {
        double sum = 0, moment = 0;
        for (int s = 0; s < q->n; s++) {
            const ptrdiff_t at = ((ptrdiff_t)s * q->c + i) * q->plane;
            sum += cnn__sum(q->cpu, q->dy + at, NULL, 0, q->plane);
            moment += cnn__sum_moments(q->cpu, q->x + at, q->dy + at, q->mean[i], q->plane);
        }
        const double r = (double)q->rstd[i], more = q->rest ? (double)q->rest[i] : 0;
        moment -= isfinite(sum) ? more * sum : 0;
        if (q->dw) q->dw[i] += (float)(moment * r);
        if (q->db) q->db[i] += (float)sum;
        const double slope = moment * r * r / count;
        const float  factor = q->w ? q->w[i] * q->rstd[i] : q->rstd[i], once[2] = { factor, 0 };
        const float  k[4] = { (float)(sum / count - more * slope), q->mean[i], (float)slope, factor };
        for (int s = 0; q->y && s < q->n; s++) {
            const ptrdiff_t at = ((ptrdiff_t)s * q->c + i) * q->plane;
            cnn__apply_back(q->cpu, f, q->y, q->dy, q->x, q->rest ? k : once, at, at + q->plane);
        }
    }
}
static void cnn__fast_normalize_back(const cnn__cpu *cpu, float *dx, float *dw, float *db, const float *dy,
                                     const float *x, const float *mean, const float *rest,
                                     const float *rstd, const float *w, int n, int c, ptrdiff_t plane)
{
    cnn__share_channels(c, cnn__normalize_back_job,
                        &(cnn__channels){ .cpu = cpu, .n = n, .c = c, .plane = plane, .y = dx, .dw = dw,
                                          .db = db, .dy = dy, .x = x, .mean = mean, .rest = rest,
                                          .rstd = rstd, .w = w });
}

/* ---- Dropout ---- */

/* The random numbers are the cost: four take ten rounds of two 32x32-bit products, so five products for each
   8 bytes moved. */
typedef struct { cnn__mapping map; bool add; uint64_t key, stream; } cnn__dropping;
static void cnn__dropout_job(const void *of, ptrdiff_t first, ptrdiff_t end, int thread CNN__UNUSED)
{
    enum { DRAWN = 4 * CNN__COUNTERS };
    const cnn__dropping *q = of;
    float               *to = q->map.y;
    const float         *from = q->map.x;
    for (ptrdiff_t i = first * CNN__PIECE; i < q->map.n && i < end * CNN__PIECE; i += CNN__PIECE) {
        const ptrdiff_t m = cnn__min(CNN__PIECE, q->map.n - i);
        float           number[CNN__PIECE];
        for (ptrdiff_t j = 0; j < m; j += DRAWN) {
            uint32_t bits[DRAWN];
            cnn__philox_some(CNN__COUNTERS, bits, q->key, q->stream, (uint64_t)(i + j) / 4);
            for (int e = 0; e < DRAWN; e++) number[j + e] = cnn__uniform(bits[e]);
        }
        if (!q->add && to != from) memcpy(to + i, from + i, (size_t)m * sizeof *to);
        q->map.f(to + i, number, from + i, q->map.k, m);
    }
}
static void cnn__fast_dropout(const cnn__cpu *cpu, float *to, const float *from, bool add, float p,
                              uint64_t key, uint64_t stream, ptrdiff_t n)
{
    cnn_each           *f = add ? cnn__each_keep_add(cpu) : cnn__each_keep(cpu);
    const float         k[2] = { p, 1 / (1 - p) };
    const cnn__dropping q = { { cpu, f, to, from, NULL, NULL, k, n, NULL }, add, key, stream };
    cnn__share_out(cpu, 8 * CNN__SIMPLE * (double)n, cnn__ceil(n, CNN__PIECE), cnn__dropout_job, &q);
}

/* ===========================================================================================================
   >>fusion ---- 19. Fusion: batch norm, add, relu in one pass over memory

   Nodes with a formula that run in place of conv2d, batch_norm or an operation of two operands (CNN_JOINABLE)
   join it: their formulas are applied to each piece of its result while that is in the L1 cache, and their
   rooms are skipped. Each must be the only user of the node before it; a second operand must have y's shape
   and be there already. What can be read stays readable: the memory plan runs in place only of
   values that nobody reads again, so never of what is kept. The bits are those of the rooms. Nodes are not
   joined on a device, on the plain loops, nor while profile, trace or doctor look on.
   A batch norm behind a convolution that keeps packed weights is folded into these: other bits, see
   cnn__conv2d_fold. What joins it joins the convolution then.
   In backward, a max pooling does the work of a relu before it: what it selects are elements of the relu's y,
   so that dz = relu'(y) dy over its own y, a quarter of the elements and fewer, leaves nothing to do there.
   ======================================================================================================== */

/* Add the formula of y to the tail behind `head`, or say no. */
static bool cnn__joins(const cnn_tensor *y, const cnn_tensor *head, cnn__tail *tail)
{
    const int s = tail->steps;
    if (!y->op->formula || s == (int)(sizeof tail->step / sizeof *tail->step)) return false;
    if (y->n_in == 2 && !(cnn__same(y, y->in[1]) && y->in[1]->index < head->index)) return false;
    tail->step[s].f = cnn__loop(&y->graph->cpu, cnn__formula(y, tail->step[s].k)->forward);
    tail->step[s].a = y->n_in == 2 ? y->in[1]->data : NULL;
    tail->steps++;
    return true;
}

/* Is a batch norm folded into v's packed weights? Not where v is read elsewhere; nor in the view of a graph
   that is trained, which shows its bits. */
static bool cnn__folds(const cnn__node *v)
{
    const cnn_graph  *net = v->t.graph->shares;
    const cnn__node  *y = v->joined[CNN_EVAL];
    const cnn_tensor *b = cnn_operand(&v->t, "bias");
    return cnn__packs(v) && v->users == 1 && y && y->t.op->flags & CNN_BATCH_STATISTICS && !y->kernel
        && (!b || (!b->op && !b->batched)) && (!net || net->config.inference);
}

/* May v, which selects elements of x, do x's backward too, if nobody else uses x? A rectifier without
   constants that needs its y alone passes a gradient or does not, so that the sums of windows that overlap
   keep their bits. (silu needs its x, which is not what v selects.) Not the loss: its gradient is a
   constant. */
static bool cnn__can_gate(const cnn__node *v)
{
    const cnn_graph  *g = v->t.graph;
    const cnn_tensor *x = v->t.n_in ? v->t.in[0] : NULL;
    return x && v->t.op->flags & CNN_SELECTS && x->op && x->op->formula && !x->op->formula->k[0]
        && (x->op->flags & (CNN_RECTIFIER | CNN_READS_X)) == CNN_RECTIFIER && &v->t != g->loss && !v->kernel
        && !cnn__of(x)->kernel && !g->config.backend && !g->config.keep_grads && g->cpu.isa != CNN_ISA_PLAIN;
}
static void cnn__gate(const cnn__node *v)
{
    const cnn__cpu   *cpu = &v->t.graph->cpu;
    const cnn_tensor *y = &v->t, *x = y->in[0];
    float             k[2];
    if (v->t.graph->probe || cnn__of(y->in[0])->gate != v) return;
    cnn_each *f = cnn__loop(cpu, cnn__formula(x, k)->backward);
    cnn__map_back(cpu, f, y->grad, y->grad, y->data, k, cnn__len(y->shape));
}

/* The tail behind v in this run; its nodes count as run. */
static cnn__tail cnn__join(cnn__node *v, cnn_mode mode)
{
    cnn_graph *g = v->t.graph;
    cnn__tail  tail = { .steps = 0 };
    if (g->config.backend || g->probe || g->cpu.isa == CNN_ISA_PLAIN || v->kernel) return tail;
    if (!(v->t.op->flags & CNN_JOINABLE)) return tail;
    cnn__node *x = v;
    if (mode == CNN_EVAL && cnn__folds(v) && v->joined[mode]->mark == g->walk)
        x = v->joined[mode], x->stamp = g->run, tail.norm = &x->t;
    for (cnn__node *y; x->users == 1; x = y) {
        y = x->joined[mode];
        if (!y || y->kernel || y->mark != g->walk || !cnn__joins(&y->t, &v->t, &tail)) break;
        y->stamp = g->run;
    }
    return tail;
}

/* ===========================================================================================================

   Part III. Devices: the same arenas elsewhere.

   ======================================================================================================== */

/* ===========================================================================================================
   >>devices ---- 20. Devices: where the newest copy is, rows that replace rooms, leaving
   ======================================================================================================== */

/* ---- Where the newest copy is: host, device, or both ----

   Only the executor moves arrays; rooms never know. */

static unsigned char *cnn__part_on(cnn__node *v, cnn__part part)
{
    return part == CNN__DATA ? &v->data_on : part == CNN__GRAD ? &v->grad_on : &v->saved_on;
}

/* What the device says of its failure. One that says nothing has failed all the same, see cnn_leave_device;
   but where its row said why with cnn_fail, that stands. */
static const char *cnn__device_error(cnn_graph *g)
{
    cnn_backend *dev = g->config.backend;
    if (!dev->error[0] && !g->error[0])
        cnn__format(dev->error, sizeof dev->error, "the device failed and does not say why");
    return dev->error;
}

/* Make one array of a tensor valid on `side`. Copies only if it is not. */
static bool cnn__sync(cnn_tensor *t, cnn__part part, unsigned side)
{
    cnn__node     *v = cnn__of(t);
    cnn_graph     *g = t->graph;
    cnn_backend   *dev = g->config.backend;
    unsigned char *on = cnn__part_on(v, part);
    if (*on & side) return true;
    cnn_place place = part == CNN__DATA ? cnn_place_data(t) : part == CNN__GRAD ? cnn_place_grad(t)
        : cnn_place_saved(t);
    void     *host = part == CNN__DATA ? (void *)t->data : part == CNN__GRAD ? (void *)t->grad : t->saved;
    size_t    bytes = part == CNN__SAVED ? t->op->saved(t) : (size_t)cnn__len(t->shape) * sizeof(float);
    bool      done = side == CNN__DEVICE ? dev->upload(dev, place.buffer, place.at * sizeof(float), host,
                                                       bytes)
                                         : dev->download(dev, place.buffer, place.at * sizeof(float), host,
                                                         bytes);
    if (side == CNN__DEVICE) g->traffic.uploads++;
    else g->traffic.downloads++;
    if (!done) return cnn_fail(t, "%s", cnn__device_error(g));
    *on = (unsigned char)(CNN__HOST | CNN__DEVICE);
    return true;
}

static void cnn__wrote(cnn_tensor *t, cnn__part part, unsigned side)
{
    *cnn__part_on(cnn__of(t), part) = (unsigned char)side;
    if (part == CNN__DATA && !t->op && !t->batched) t->graph->written++;    /* packed copies are old now */
}

/* ---- Running on a device: a node by its row, or by its room where it has none ---- */

/* Operands are copied to the side that computes y; y's newest copy is there then. */
static void cnn__device_forward(cnn__node *v, cnn_mode mode)
{
    cnn_tensor    *y = &v->t;
    cnn_backend   *dev = y->graph->config.backend;
    const bool     row = v->kernel && v->kernel->forward;
    const unsigned side = row ? CNN__DEVICE : CNN__HOST;
    for (int k = 0; k < y->n_in; k++)
        if (!cnn__sync(y->in[k], CNN__DATA, side)) return;
    cnn__wrote(y, CNN__DATA, side);
    cnn__wrote(y, CNN__SAVED, side);
    if (!row) y->op->forward(y, mode);
    else if (!v->kernel->forward(dev, y, mode)) cnn_fail(y, "%s", cnn__device_error(y->graph));
    for (int k = 0; k < y->n_in && mode == CNN_TRAIN; k++)           /* running statistics were written */
        if (y->in[k]->kind == CNN_BUFFER) cnn__wrote(y->in[k], CNN__DATA, side);
}

/* Zero an array of gradients on the side where it will be written next. */
static bool cnn__zero_grad(cnn_tensor *t, unsigned side)
{
    cnn_backend *dev = t->graph->config.backend;
    size_t       bytes = (size_t)cnn__len(t->shape) * sizeof(float);
    cnn_place    place = cnn_place_grad(t);
    cnn__wrote(t, CNN__GRAD, side);
    if (side == CNN__HOST) memset(t->grad, 0, bytes);
    else if (!dev->clear(dev, place.buffer, place.at * sizeof(float), bytes))
        return cnn_fail(t, "%s", cnn__device_error(t->graph));
    return true;
}

/* What backward of y reads is copied to the side that runs it; the gradients that it adds to are there. */
static bool cnn__gather_for_backward(cnn__node *v, unsigned side)
{
    cnn_tensor *y = &v->t;
    if (!cnn__sync(y, CNN__GRAD, side)) return false;
    if ((y->op->flags & CNN_READS_Y) && !cnn__sync(y, CNN__DATA, side)) return false;
    if (y->op->saved && !cnn__sync(y, CNN__SAVED, side)) return false;
    for (int k = 0; k < y->n_in; k++) {
        cnn_tensor *x = y->in[k];
        if (cnn__which_operand(y, x) < k) continue;                  /* it was here before */
        if ((y->op->flags & CNN_READS_X) && !cnn__sync(x, CNN__DATA, side)) return false;
        if (!x->needs_grad) continue;
        const bool clears = k == 0 && (y->op->flags & CNN_CLEARS_GRAD);
        const bool first = cnn_grad_is_first(y, k), sets = cnn__of(x)->grad_alias == v
            || (side == CNN__HOST ? clears : y->graph->config.backend->sets_grads);
        if (first && sets) cnn__wrote(x, CNN__GRAD, side);
        else if (!(first ? cnn__zero_grad(x, side) : cnn__sync(x, CNN__GRAD, side))) return false;
    }
    return true;
}

static bool cnn__device_backward(cnn__node *v)
{
    cnn_tensor    *y = &v->t;
    cnn_backend   *dev = y->graph->config.backend;
    const bool     row = v->kernel && v->kernel->backward;
    const unsigned side = row ? CNN__DEVICE : CNN__HOST;
    if (!cnn__gather_for_backward(v, side)) return false;
    cnn__seen(y, CNN__BEFORE_BACKWARD);
    if (!row) y->op->backward(y);
    else if (!v->kernel->backward(dev, y)) return cnn_fail(y, "%s", cnn__device_error(y->graph));
    for (int k = 0; k < y->n_in; k++)
        if (y->in[k]->needs_grad) cnn__wrote(y->in[k], CNN__GRAD, side);
    if (!y->graph->error[0]) cnn__seen(y, CNN__AFTER_BACKWARD);
    return !y->graph->error[0];
}

static void cnn__device_clear_grads(cnn_graph *g)
{
    cnn_backend *dev = g->config.backend;
    if (!g->memory.grads) return;
    if (!dev->clear(dev, g->buffer[CNN_ARENA_GRADS], 0, g->memory.grads))
        cnn__fail(g, NULL, "backward", "%s", cnn__device_error(g));
    for (int i = 0; i < g->n_order; i++)
        if (g->order[i]->t.kind == CNN_PARAM) cnn__wrote(&g->order[i]->t, CNN__GRAD, CNN__DEVICE);
}

/* Make all parameters, or all their gradients, valid on one side; and say that they were written there. */
static bool cnn__sync_params(cnn_graph *g, cnn__part part, unsigned side)
{
    for (int i = 0; i < g->n_order; i++) {
        cnn_tensor *t = &g->order[i]->t;
        if (t->kind == CNN_PARAM && t->needs_grad && !cnn__sync(t, part, side)) return false;
    }
    return true;
}
static void cnn__wrote_params(cnn_graph *g, cnn__part part, unsigned side)
{
    for (int i = 0; i < g->n_order; i++) {
        cnn_tensor *t = &g->order[i]->t;
        if (t->kind == CNN_PARAM && t->needs_grad) cnn__wrote(t, part, side);
    }
}

/* ---- Training there ---- */

/* Bring a whole array, newest on *on, to the side where it is wanted. */
static bool cnn__sync_array(cnn_graph *g, const char *what, unsigned char *on, unsigned side, void *buffer,
                            float *host, size_t bytes)
{
    cnn_backend *device = g->config.backend;
    if (*on & side) return true;
    g->traffic.uploads += side == CNN__DEVICE, g->traffic.downloads += side == CNN__HOST;
    if (!(side == CNN__DEVICE ? device->upload(device, buffer, 0, host, bytes)
                              : device->download(device, buffer, 0, host, bytes)))
        return cnn__fail(g, NULL, what, "%s: %s", device->name, cnn__device_error(g));
    *on = CNN__HOST | CNN__DEVICE;
    return true;
}

/* The optimizer's state, to where the update will run. Zero everywhere needs no copy. */
static bool cnn__sync_optimizer(cnn_graph *g, unsigned side)
{
    size_t bytes = g->arena_bytes[CNN_ARENA_OPTIMIZER];
    return !g->optimizer_on || !bytes ||
           cnn__sync_array(g, "optimizer", &g->optimizer_on, side, g->buffer[CNN_ARENA_OPTIMIZER],
                           g->arena[CNN_ARENA_OPTIMIZER], bytes);
}

/* A buffer of the device for an array that stays in one piece, or a chunk; NULL after an error. */
static void *cnn__device_buffer(cnn_graph *g, const char *call, const char *what, size_t bytes)
{
    cnn_backend *dev = g->config.backend;
    const size_t most = cnn__chunk_bytes(g);
    void        *buffer = bytes <= most ? dev->alloc(dev, bytes) : NULL;
    if (bytes > most)
        cnn__fail(g, g->config.at, call, "%s: %zu bytes for %s, and its largest buffer has %zu", dev->name,
                  bytes, what, most);
    else if (!buffer)
        cnn__fail(g, g->config.at, call, "%s: %zu bytes for %s: %s", dev->name, bytes, what,
                  dev->error[0] ? dev->error : "the device has no such memory");
    return buffer;
}

/* The averages, to where they are mixed or read. */
static bool cnn__sync_average(cnn_graph *g, unsigned side)
{
    size_t bytes = cnn__trained_floats(g) * sizeof(float);
    if (!g->average || !bytes) return true;
    if (side == CNN__DEVICE && !g->average_buffer
        && !(g->average_buffer = cnn__device_buffer(g, "average", "the average", bytes))) return false;
    return cnn__sync_array(g, "average", &g->average_on, side, g->average_buffer, g->average, bytes);
}

static bool cnn__mix_on_device(cnn_graph *g, float share)
{
    cnn_backend *device = g->config.backend;
    const size_t n[2] = { g->n_trained, g->memory.buffers / sizeof(float) };
    cnn_place    a = { g->average_buffer, 0 };
    for (int i = 0; i < g->n_order; i++)
        if (cnn__trains(&g->order[i]->t) && !cnn__sync(&g->order[i]->t, CNN__DATA, CNN__DEVICE)) return false;
    for (int i = 0; i < 2; a.at += n[i++]) {
        const cnn_place x = { g->buffer[i ? CNN_ARENA_BUFFERS : CNN_ARENA_PARAMS], 0 };
        if (n[i] && !device->mix(device, a, x, n[i], share))
            return cnn__fail(g, g->config.at, "average", "%s: %s", device->name, cnn__device_error(g));
    }
    return true;
}

static bool cnn__update_on_device(cnn_graph *g, const cnn_step_args *a, size_t from, size_t n, long step)
{
    cnn_backend *device = g->config.backend;
    cnn_place    w = { g->buffer[CNN_ARENA_PARAMS], from }, dw = { g->buffer[CNN_ARENA_GRADS], from };
    cnn_place    slots = { g->buffer[CNN_ARENA_OPTIMIZER], from };
    return device->update(device, g->config.optimizer, w, dw, slots, n, g->n_trained, a, step);
}

/* From node *i on, the next gradients that are updated and follow each other, gaps of zeros between them. */
static size_t cnn__next_learned(const cnn_graph *g, int *i, cnn_place *at)
{
    size_t end = 0;
    for (; *i < g->n_order; ++*i) {
        const cnn_tensor *t = &g->order[*i]->t;
        if (!cnn__is_trained(t)) continue;
        if (!cnn__learns(g->order[*i])) {
            if (end) break;
            continue;
        }
        if (!end) *at = cnn_place_grad(t);
        end = t->grad_at + cnn_count(t);
    }
    return end ? end - at->at : 0;
}

/* Squares of gradients, and gradients times a factor; NAN and false after an error. */
static double cnn__squares_on_device(cnn_graph *g)
{
    cnn_backend    *device = g->config.backend;
    const cnn_place none = { NULL, 0 };
    cnn_place       at = none;
    double          sum = 0;
    bool            anew = true, done = true;
    int             i = 0;
    for (size_t n; done && (n = cnn__next_learned(g, &i, &at)) > 0; anew = false)
        done = device->squares(device, at, n, anew, NULL);
    if (done && !anew) done = device->squares(device, none, 0, false, &sum), g->traffic.downloads++;
    if (done) return sum;
    return cnn__fail(g, g->config.at, "clip", "%s: %s", device->name, cnn__device_error(g)), NAN;
}
static bool cnn__shorten_on_device(cnn_graph *g, float factor)
{
    cnn_backend *device = g->config.backend;
    cnn_place    at = { NULL, 0 };
    int          i = 0;
    for (size_t n; (n = cnn__next_learned(g, &i, &at)) > 0; )
        if (!device->scale(device, at, n, factor))
            return cnn__fail(g, g->config.at, "clip", "%s: %s", device->name, cnn__device_error(g));
    return true;
}

/* ---- Opening and closing ---- */

static void cnn__close_backend(cnn_graph *g)
{
    cnn_backend *dev = g->config.backend;
    for (int i = 0; dev && i < CNN_ARENAS; i++) {
        if (g->buffer[i]) dev->release(dev, g->buffer[i]);
        g->buffer[i] = NULL;
    }
    for (int i = 0; dev && i < g->n_chunks; i++) if (g->chunk[i]) dev->release(dev, g->chunk[i]);
    g->n_chunks = 0;
    if (dev && g->average_buffer) dev->release(dev, g->average_buffer);
    g->average_buffer = NULL;
    if (dev && dev->close) dev->graph = NULL, dev->close(dev);
    g->config.backend = NULL;
}

/* The row that computes y on the device, or NULL: then the room does, on the host. */
static const cnn_kernel *cnn__find_kernel(const cnn_backend *dev, const cnn_tensor *y)
{
    const cnn_kernel *row = dev ? dev->kernels : NULL;
    for (int i = 0; row && i < dev->n_kernels; i++, row++)
        if (row->op == y->op && (!row->accepts || row->accepts(dev, y))) return row;
    return NULL;
}

/* A device buffer for each arena, or several. */
static bool cnn__device_arenas(cnn_graph *g, size_t scratch)
{
    static const char *const names[] = { "the parameters", "the gradients", "the optimizer's state",
        "constants and running statistics", "the inputs", "activations", "packed weights", "scratch" };
    const size_t all = g->arena_bytes[CNN_ARENA_ACTIVATIONS], most = cnn__chunk_bytes(g);
    g->chunk = cnn__alloc(g, (all / most + 1) * sizeof *g->chunk);
    if (!g->chunk) return false;
    for (size_t at = 0; at < all; at += most, g->n_chunks++)
        if (!(g->chunk[g->n_chunks] = cnn__device_buffer(g, "compile", names[CNN_ARENA_ACTIVATIONS],
                                                         all - at < most ? all - at : most))) return false;
    for (int i = 0; i < CNN_ARENAS; i++) {
        const size_t bytes = i == CNN_ARENA_SCRATCH ? scratch : g->arena_bytes[i];
        if (!bytes || i == CNN_ARENA_ACTIVATIONS) continue;
        if (!(g->buffer[i] = cnn__device_buffer(g, "compile", names[i], bytes))) return false;
    }
    return true;
}

/* Resolved once, in compile: a row or none for each node, and where its arrays are. */
static bool cnn__open_backend(cnn_graph *g)
{
    cnn_backend *dev = g->config.backend;
    if (!dev) return true;
    size_t scratch = 0;
    for (int i = 0; i < g->n_order; i++) {
        cnn__node *v = g->order[i];
        if (!v->t.op) continue;
        v->kernel = cnn__find_kernel(dev, &v->t);
        if (!cnn_on_device(&v->t)) g->traffic.host_nodes++;
        size_t s = v->kernel && dev->scratch ? dev->scratch(dev, &v->t) : 0;
        if (s > scratch) scratch = s;
    }
    if (!cnn__device_arenas(g, scratch)) return false;
    /* updates run over the gaps */
    static const cnn_arena flat[] = { CNN_ARENA_PARAMS, CNN_ARENA_OPTIMIZER };
    for (int i = 0; i < 2; i++)
        if (g->buffer[flat[i]] && !dev->clear(dev, g->buffer[flat[i]], 0, g->arena_bytes[flat[i]]))
            return cnn__fail(g, g->config.at, "compile", "%s: %s", dev->name, cnn__device_error(g));
    return true;
}

static cnn_place cnn__place_in(const cnn_graph *g, cnn_arena arena, size_t at)
{
    const size_t chunk = cnn__chunk_bytes(g) / sizeof(float);
    return arena != CNN_ARENA_ACTIVATIONS ? (cnn_place){ g->buffer[arena], at }
                                          : (cnn_place){ g->chunk[at / chunk], at % chunk };
}
CNN_API cnn_place cnn_place_data(const cnn_tensor *t)
{
    return cnn__place_in(t->graph, cnn__arena_of(t), t->data_at[t->graph->mode]);
}
CNN_API cnn_place cnn_place_grad(const cnn_tensor *t)
{
    return cnn__place_in(t->graph, t->kind == CNN_PARAM ? CNN_ARENA_GRADS : CNN_ARENA_ACTIVATIONS,
                         t->grad_at);
}
CNN_API cnn_place cnn_place_saved(const cnn_tensor *t)
{
    return cnn__place_in(t->graph, CNN_ARENA_ACTIVATIONS, t->saved_at);
}
CNN_API cnn_place cnn_place_scratch(const cnn_graph *g) { return cnn__place_in(g, CNN_ARENA_SCRATCH, 0); }
CNN_API const cnn_tensor *cnn_next_in_place(const cnn_tensor *y)
{
    const cnn_graph *g = y->graph;
    const cnn__node *v = y->index + 1 < g->n_order ? g->order[y->index + 1] : NULL;
    return v && cnn_on_device(&v->t) && cnn_on_device(y) && v->mark == g->walk && !g->probe &&
           v->alias[g->mode] == cnn__of(y) ? &v->t : NULL;
}
CNN_API cnn_traffic cnn_copies(const cnn_graph *g)
{
    const cnn_traffic none = { 0, 0, 0 };
    return g ? g->traffic : none;
}
CNN_API bool cnn_on_device(const cnn_tensor *t)
{
    return !cnn__is_nil(t) && t->graph->config.backend && cnn__of(t)->kernel && cnn__of(t)->kernel->forward;
}

/* ---- Leaving the device ---- */

CNN_API bool cnn_leave_device(cnn_graph *g)
{
    char error[CNN_ERROR_SIZE];
    if (!g || !g->config.backend || !g->compiled) return false;
    if (g->error[0] && !g->config.backend->error[0]) return false;
    memcpy(error, g->error, sizeof error);
    g->error[0] = 0;
    bool came = cnn__sync_optimizer(g, CNN__HOST) && cnn__sync_average(g, CNN__HOST);
    for (int i = 0; i < g->n_order && came; i++)
        if (!g->order[i]->t.op) came = cnn__sync(&g->order[i]->t, CNN__DATA, CNN__HOST);
    if (!came) {
        if (error[0]) memcpy(g->error, error, sizeof error);      /* the first message stays */
        return false;
    }
    cnn__close_backend(g);
    for (int i = 0; i < g->n_order; i++) {
        cnn__node *v = g->order[i];
        v->kernel = NULL, v->data_on = v->grad_on = v->saved_on = CNN__HOST;
    }
    g->run++, g->traffic = (cnn_traffic){ 0, 0, 0 };
    g->optimizer_on = g->optimizer_on ? CNN__HOST : 0, g->average_on = CNN__HOST;
    g->can_backward = g->has_grads = false;
    return true;
}

#undef  CNN_AT_
#define CNN_AT_(kind, x) cnn_at_##kind(CNN_HERE, x)
#if defined(__clang__) && (defined(__x86_64__) || defined(__i386__))
#pragma float_control(pop)
#elif defined(__clang__)
#pragma STDC FP_CONTRACT DEFAULT
#elif defined(__GNUC__)
#pragma GCC pop_options
#pragma pop_macro("isfinite")
#pragma pop_macro("isnan")
#pragma pop_macro("isinf")
#endif
#endif /* CNN_IMPLEMENTATION */

/* >>licence ---- Licence -----------------------------------------------------------------------------------

   This file is available under two licences. Choose whichever you prefer.

   ALTERNATIVE A - MIT License

   Copyright (c) 2026 cnn.h contributors

   Permission is hereby granted, free of charge, to any person obtaining a copy of
   this software and associated documentation files (the "Software"), to deal in
   the Software without restriction, including without limitation the rights to
   use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies
   of the Software, and to permit persons to whom the Software is furnished to do
   so, subject to the following conditions:

   The above copyright notice and this permission notice shall be included in all
   copies or substantial portions of the Software.

   THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
   IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
   FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
   AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
   LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
   OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
   SOFTWARE.

   ----------------------------------------------------------------------------
   ALTERNATIVE B - Public Domain (www.unlicense.org)

   This is free and unencumbered software released into the public domain.

   Anyone is free to copy, modify, publish, use, compile, sell, or distribute this
   software, either in source code form or as a compiled binary, for any purpose,
   commercial or non-commercial, and by any means.

   In jurisdictions that recognize copyright laws, the author or authors of this
   software dedicate any and all copyright interest in the software to the public
   domain. We make this dedication for the benefit of the public at large and to
   the detriment of our heirs and successors. We intend this dedication to be an
   overt act of relinquishment in perpetuity of all present and future rights to
   this software under copyright law.

   THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
   IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
   FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
   AUTHORS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN
   ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION
   WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.

   For more information, please refer to <https://unlicense.org>
*/
