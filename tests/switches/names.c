/* names.c - all headers with every word taken that <windows.h>, <dlgs.h> and their like define as macros, so that
   no name of ours is one of them. What the headers include is included before. */
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__unix__) || defined(__APPLE__)
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#ifdef OPENCL
#include <dlfcn.h>
#endif
#endif
#if !defined(CNN_NO_SIMD) && defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#ifdef OPENCL
#define CL_TARGET_OPENCL_VERSION 120
#ifdef __APPLE__
#include <OpenCL/cl.h>
#else
#include <CL/cl.h>
#endif
#endif

/* windef.h, minwindef.h, rpcndr.h, winnt.h, wingdi.h, winuser.h, winbase.h, dlgs.h, commdlg.h, objbase.h */
#define near
#define far
#define NEAR
#define FAR
#define pascal
#define cdecl
#define small    char
#define hyper    long long
#define interface struct
#define min(a, b) (((a) < (b)) ? (a) : (b))
#define max(a, b) (((a) > (b)) ? (a) : (b))
#define IN
#define OUT
#define OPTIONAL
#define CONST      const
#define VOID       void
#define TRUE       1
#define FALSE      0
#define THIS       @
#define THIS_      @
#define PURE       @
#define STRICT     1
#define ERROR      0
#define NO_ERROR   0L
#define DELETE     0x00010000L
#define IGNORE     0
#define INFINITE   0xFFFFFFFF
#define MAX_PATH   260
#define ABSOLUTE   1
#define RELATIVE   2
#define ALTERNATE  1
#define WINDING    2
#define TRANSPARENT 1
#define OPAQUE     2
#define PASSTHROUGH 19
#define DIFFERENCE 11
#define CALLBACK   @
#define WINAPI     @
#define APIENTRY   @
#define EVENT_MIN  1
#define GetObject   GetObjectA
#define DrawText    DrawTextA
#define LoadImage   LoadImageA
#define LoadLibrary LoadLibraryA
#define CopyFile    CopyFileA
#define CreateFile  CreateFileA
#define DeleteFile  DeleteFileA
#define MoveFile    MoveFileA
#define GetMessage  GetMessageA
#define SendMessage SendMessageA
#define rad1 0x0420
#define rad2 0x0421
#define rad3 0x0422
#define chx1 0x0410
#define chx2 0x0411
#define edt1 0x0480
#define edt2 0x0481
#define psh1 0x0400
#define psh2 0x0401
#define lst1 0x0460
#define lst2 0x0461
#define cmb1 0x0470
#define stc1 0x0440
#define stc2 0x0441
#define grp1 0x0430
#define frm1 0x0434
#define rct1 0x0438
#define ico1 0x043c
#define scr1 0x0490
#define ctl1 0x04A0
#define s_addr S_un.S_addr
#define s_host S_un.S_un_b.s_b2
#define h_addr h_addr_list[0]
#define Yield()

#define CNN_IMPLEMENTATION
#include "cnn.h"
#include "cnn_exchange.h"
#ifdef OPENCL
#define CNN_OPENCL_IMPLEMENTATION
#include "cnn_opencl.h"
#endif
