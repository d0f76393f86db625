/* An allocator of the program's own, for CNN_MALLOC and its kin. */
#include <stddef.h>
void *mine_malloc(size_t);
void *mine_realloc(void *, size_t);
void  mine_free(void *);
