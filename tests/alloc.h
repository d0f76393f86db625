/* alloc.h - the library's memory in the tests: what lives is counted, and allocations fail when told to. tests/cnn.c
   holds it; a test with an implementation of its own defines ALLOC_HERE, and includes this before it. */
#ifndef CNN_ALLOC_H
#define CNN_ALLOC_H
#include <stdlib.h>

extern long   alloc_count, alloc_live;  /* allocations so far; blocks in use */
extern long   alloc_fail;               /* number alloc_fail fails, that one alone; 0: none */
extern long   alloc_left;               /* after so many more all fail; -1: none */
extern size_t alloc_most;               /* a larger request fails: a hostile shape must not eat the machine */
extern size_t alloc_largest;            /* the largest request */
void *alloc_resize(void *p, size_t bytes);
void  alloc_free(void *p);
#define CNN_MALLOC(bytes)     alloc_resize(NULL, bytes)
#define CNN_REALLOC(p, bytes) alloc_resize(p, bytes)
#define CNN_FREE(p)           alloc_free(p)

#ifdef ALLOC_HERE
long   alloc_count, alloc_live, alloc_fail, alloc_left = -1;
size_t alloc_most = (size_t)1 << 28, alloc_largest;

void *alloc_resize(void *p, size_t bytes)
{
    if (bytes > alloc_largest) alloc_largest = bytes;
    if (++alloc_count == alloc_fail || alloc_left == 0 || bytes > alloc_most) return NULL;
    if (alloc_left > 0) alloc_left--;
    void *q = realloc(p, bytes ? bytes : 1);
    if (q && !p) alloc_live++;
    return q;
}
void alloc_free(void *p)
{
    if (p) alloc_live--;
    free(p);
}
#endif
#endif
