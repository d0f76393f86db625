/* alloc.h - the library's memory in the tests: what lives is counted, and allocations fail when told to. Include it
   before cnn.h's implementation. */
#include <stdlib.h>

static long   alloc_count, alloc_live;      /* allocations so far; blocks in use */
static long   alloc_fail;                   /* number alloc_fail fails, that one alone; 0: none */
static long   alloc_left = -1;              /* after so many more all fail; -1: none */
static size_t alloc_most = (size_t)1 << 28; /* a larger request fails: a hostile shape must not eat the machine */
static size_t alloc_largest;                /* the largest request */

static void *alloc_resize(void *p, size_t bytes)
{
    if (bytes > alloc_largest) alloc_largest = bytes;
    if (++alloc_count == alloc_fail || alloc_left == 0 || bytes > alloc_most) return NULL;
    if (alloc_left > 0) alloc_left--;
    void *q = realloc(p, bytes ? bytes : 1);
    if (q && !p) alloc_live++;
    return q;
}
static void alloc_free(void *p)
{
    if (p) alloc_live--;
    free(p);
}
#define CNN_MALLOC(bytes)     alloc_resize(NULL, bytes)
#define CNN_REALLOC(p, bytes) alloc_resize(p, bytes)
#define CNN_FREE(p)           alloc_free(p)
