#!/bin/sh
# cpp.sh: cnn.h and its companions from C++, with every compiler and standard there is: tests/switches/cpp.cc against the
# implementation in C; every option has its word; the words of windows.h; examples/cpp.cc by the line that it opens with.
# Run from the top of the repository; CXX, CLANGXX, CC, BUILD, INC and OBJECT (the implementation, compiled) may be set.
CXX=${CXX:-c++} CLANGXX=${CLANGXX:-clang++} CC=${CC:-cc} BUILD=${BUILD:-build} INC=${INC:-.}
dir=$BUILD/cpp
STRICT="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -I$INC -I."
S=tests/switches
. tests/report.sh
mkdir -p "$dir"
# ok NAME COMMAND...: a test that passes if the command succeeds without a word.
ok() { name=$1; shift; if out=$("$@" 2>&1) && [ -z "$out" ]; then pass; else fail "$name: $*" "$out"; fi; }
takes() { printf 'int main() { return 0; }\n' | $1 $2 -x c++ - -o "$dir/probe" >/dev/null 2>&1; }
if [ ! -f "$OBJECT" ]; then OBJECT=$dir/cnn.o; $CC -std=c99 -O0 -I"$INC" -c $S/impl.c -o "$OBJECT"; fi
THREADS=; nm "$OBJECT" 2>/dev/null | grep -q pthread_create && THREADS=-pthread
OPENCL=; printf '#include <CL/cl.h>\n' | $CC -x c -fsyntax-only - >/dev/null 2>&1 && OPENCL=-DOPENCL

ran=0
for c in "$CXX" "$CLANGXX"; do
    takes "$c" || { skip "$c is not installed"; continue; }
    for std in c++11 c++14 c++17 c++20 c++23; do
        takes "$c" -std=$std || { [ $std = c++23 ] && takes "$c" -std=c++2b && std=c++2b; } || { skip "$c has no -std=$std"; continue; }
        if out=$($c -std=$std -O0 $STRICT -c $S/cpp.cc -o "$dir/cpp.o" 2>&1) && [ -z "$out" ] &&
           out=$($c "$dir/cpp.o" "$OBJECT" $THREADS -o "$dir/cpp" -lm 2>&1 && "$dir/cpp" 2>&1) && [ -z "$out" ]; then pass
        else fail "$c -std=$std" "$out"; fi
        [ -z "$OPENCL" ] || ok "$c -std=$std, cnn_opencl.h" $c -std=$std $STRICT $OPENCL -fsyntax-only $S/cpp.cc
    done
    sed -n '/^\/\* windef.h/,/^#define Yield/p' $S/names.c >"$dir/windows.h"
    printf '#include <initializer_list>\n#include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n' >"$dir/names.cc"
    printf '#include "windows.h"\n#include "cnn.h"\n#include "cnn_exchange.h"\n' >>"$dir/names.cc"
    ok "words of windows.h, $c" $c -std=c++11 $STRICT -I"$dir" -fsyntax-only "$dir/names.cc"
    ran=1
done
[ $ran = 1 ] || { skip 'no C++ compiler'; end; }

# Every option, which is a member of a struct that begins with at and said, has its word.
cat "$INC/cnn.h" cnn_exchange.h cnn_opencl.h | awk '
    /^typedef struct \{ const char \*at, \*said/ || /^    const char *\*at, \*said;/ { on = 1 }
    on { sub(/^.*\*said[,;]/, ""); text = text $0 "\n" }
    on && /\} cnn_[a-z0-9_]*;/ { sub(/\} cnn_[a-z0-9_]*;[^\n]*\n$/, "", text); on = 0 }
    END {
        gsub(/\/\*([^*]|\*+[^*\/])*\*+\//, "", text)
        n = split(text, part, /[;,]/)
        for (i = 1; i <= n; i++) if (match(part[i], /[a-z_0-9]+[ \n]*$/)) print substr(part[i], RSTART, RLENGTH)
    }' | grep . | sort -u >"$dir/members"
# What every call takes by position alone.
printf '%s\n' count g x y logits labels log_probabilities loss train path a b axis target | sort >"$dir/positions"
sed -n '/^#define CNN_WORDS(X)/,/[^\\]$/p' "$INC/cnn.h" | grep -o 'X([a-z_0-9]*)' | sed 's/X(\(.*\))/\1/' | sort >"$dir/words"
out=$(sort "$dir/words" | uniq -d; tr -d ' ' <"$dir/members" | sort -u | comm -23 - "$dir/words" | comm -23 - "$dir/positions")
[ "$(grep -c . "$dir/members")" -gt 100 ] && [ -z "$out" ] && pass || fail 'options without a word in CNN_WORDS, or with two' "$out"

# The example, by its own lines.
if [ -f examples/cpp.cc ]; then
    head -n 12 examples/cpp.cc | grep -q 'c++ .*examples/cpp.cc' && pass || fail 'examples/cpp.cc does not open with its c++ line'
    if out=$($CXX -std=c++11 $STRICT examples/cpp.cc "$OBJECT" $THREADS -o "$dir/example" -lm 2>&1) && [ -z "$out" ] &&
       out=$("$dir/example" 2>&1) && case $out in *'accuracy 97'*|*'accuracy 98'*) true;; *) false;; esac; then pass
    else fail 'examples/cpp.cc' "$out"; fi
fi
end
