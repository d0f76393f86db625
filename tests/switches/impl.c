/* The one .c file that holds the implementation, and nothing else. */
#define CNN_IMPLEMENTATION
#include "cnn.h"
