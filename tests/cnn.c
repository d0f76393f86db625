/* The implementation, once for all tests: build/cnn.o. Its memory is alloc.h's, and inside.h names the doors to its
   private functions. test_kernels.c holds an implementation of its own. */
#define ALLOC_HERE
#include "alloc.h"
#define CNN_IMPLEMENTATION
#include "cnn.h"
#include "inside.h"

#define OPEN_DOOR(returns, type, name, parameters, arguments) \
    type inside_##name parameters; \
    type inside_##name parameters { returns cnn__##name arguments; }
INSIDE(OPEN_DOOR)

inside_dtype inside_dtype_of(int dtype);
inside_dtype inside_dtype_of(int dtype) { return (inside_dtype){ cnn__dtypes[dtype].name, cnn__dtypes[dtype].bits }; }
