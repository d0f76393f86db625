#!/bin/sh
# examples/lab: every exercise compiles without a warning and runs empty ("not done", no points, the net learns
# without it); every blank can be filled (cnn.h's own kernels, tests/lab/answers.h, are worth all points), trains inside
# cnn_fit and is told its speed; every judge can fail (five typical mistakes in each function, each by itself). Run from the top of the repository; CC,
# MPICC, BUILD, INC and OBJECT (an implementation that is compiled already) may be set. Ends with `N passed, N failed`.
CC=${CC:-cc} MPICC=${MPICC:-mpicc} BUILD=${BUILD:-build}/lab_test INC=${INC:-.}
. tests/report.sh

# Exercises may use OpenMP.
echo 'int main(void) { return 0; }' >/tmp/lab.$$.c
$CC -fopenmp /tmp/lab.$$.c -o /tmp/lab.$$ >/dev/null 2>&1 && OPENMP=-fopenmp
rm -f /tmp/lab.$$ /tmp/lab.$$.c
export OMP_NUM_THREADS=1                        # CPU time is scarce where tests run side by side
unset LAB_MISTAKE LAB_ONLY LAB_JSON LAB_CL
rm -rf "$BUILD" && mkdir -p "$BUILD/examples/lab" || exit 1
ln -s "$PWD/examples/data" "$BUILD/examples/data"
cp "$INC/cnn.h" "$BUILD" && cp examples/lab/* "$BUILD/examples/lab" && cp tests/lab/answers.h "$BUILD/examples/lab"
if [ -z "$OBJECT" ] || [ ! -f "$OBJECT" ]; then
    OBJECT=$BUILD/cnn.o
    $CC -std=c99 -O1 $OPENMP -DCNN_IMPLEMENTATION -x c -c "$INC/cnn.h" -o "$OBJECT" || { fail 'cnn.h does not compile'; end; }
fi
WARN='-Wall -Wextra -Wpedantic -Wshadow -Wconversion' QUICK='-DLAB_LINKED -DLAB_PATIENCE=0.02'

# Fill the blanks of a file; print the names of its functions.
fill() { awk '/^(static )?lab_answer [a-z_0-9]+\(/ { name = $0; sub(/\(.*/, "", name); sub(/.* /, "", name) }
              /^    return NOT_DONE;/ { print "    ANSWER_" name ";"; next }
              { print } /^#include "lab.h"/ { print "#include \"answers.h\"" }' "$1"; }
names() { sed -n 's/^static lab_answer \([a-z_0-9]*\)(.*/\1/p' "$1"; }

# exercise NUMBER: the three things above. COMPILE, RUN and LIBS are for MPI and OpenCL.
exercise() {
    file=$(ls "$BUILD/examples/lab/$1"_*.c) name=$(basename "$file" .c) bin=$BUILD/$1
    compile=${COMPILE:-$CC}
    out=$($compile -std=c99 -O1 $WARN $QUICK "$file" "$OBJECT" -o "$bin" -lm $OPENMP $LIBS 2>&1)
    if [ $? -eq 0 ] && [ -z "$out" ]; then pass; else fail "$name does not compile without a warning" "$out"; return; fi

    line=$(sed -n 's/^ *\([a-z]*cc .*\) && .*/\1/p' "$file" | head -n 1 | sed 's/-O[23]/-fsyntax-only/; s/-o .*//')
    if [ -n "$line" ] && out=$(cd "$BUILD" && $line 2>&1) && [ -z "$out" ]; then pass; else fail "$name: its own line: $line" "$out"; fi
    text=$file && [ "$1" != 11 ] || text=$BUILD/examples/lab/lab.cl
    if grep -q 'Task\. ' "$text" && grep -q 'A good answer' "$text"; then pass; else fail "$name does not say what is to be done"; fi

    out=$($RUN "$bin" 2>&1)
    if printf '%s\n' "$out" | grep -q ': 0 of 100 points$' && printf '%s\n' "$out" | grep -q 'not done'; then pass
    else fail "$name, empty, does not say: not done, 0 of 100 points" "$out"; fi

    functions=conv2d
    if [ "$1" = 11 ]; then
        { echo '#ifndef MISTAKE'; echo '#define MISTAKE 0'; echo '#endif'; sed '/your code/{r tests/lab/answer.cl
d
}' examples/lab/lab.cl; } >"$BUILD/0.cl"
        for i in 1 2 3 4 5; do { echo "#define MISTAKE $i"; cat "$BUILD/0.cl"; } >"$BUILD/$i.cl"; done
        cp "$bin" "$bin.filled"
    else
        functions=$(names "$file")
        fill "$file" >"$BUILD/examples/lab/filled_$name.c"
        out=$($compile -std=c99 -O1 -w $QUICK "$BUILD/examples/lab/filled_$name.c" "$OBJECT" -o "$bin.filled" -lm $OPENMP $LIBS 2>&1) ||
            { fail "$name, filled, does not compile" "$out"; return; }
    fi
    out=$(LAB_CL=$BUILD/0.cl $RUN "$bin.filled" 2>&1)
    case $1 in 09|10) want='right' ;; *) want=': 100 of 100 points$' ;; esac        # speed depends on the machine
    if printf '%s\n' "$out" | grep -q "$want" && ! printf '%s\n' "$out" | grep -q 'WRONG\|not done'; then pass
    else fail "$name: cnn.h's own kernels are not right" "$out"; fi
    if printf '%s\n' "$out" | grep -q '^  speed .* ms, [^ ]* G[BF]' &&
        printf '%s\n' "$out" | grep -q '^ *[^ ]* x .* ms), [^ ]* % of .* ms)$'; then pass
    else fail "$name does not say how fast it is" "$out"; fi
    if printf '%s\n' "$out" | grep -q 'inside cnn_fit'; then pass; else fail "$name does not run inside cnn_fit" "$out"; fi

    for only in $functions; do
        for mistake in 1 2 3 4 5; do
            out=$(LAB_CL=$BUILD/$mistake.cl LAB_MISTAKE=$mistake LAB_ONLY=$only $RUN "$bin.filled" judge "${only##*_}" 2>&1)
            if printf '%s\n' "$out" | grep -q '^  WRONG' && printf '%s\n' "$out" | grep -q '[0-9]\] is [^ ]*, right is '; then pass
            else fail "$name: mistake $mistake in $only is not found" "$out"; fi
        done
    done
}
# LAB="03 grade" runs these parts alone.
wanted() { case " ${LAB:-$1} " in *" $1 "*) ;; *) return 1 ;; esac; }
for number in 01 02 03 04 05 06 07 08 09 10; do wanted $number && exercise $number; done

if wanted 03; then
    out=$(LAB_MISTAKE=6 "$BUILD/03.filled" judge 2>&1)
    if printf '%s\n' "$out" | grep -q 'y is right, but you also wrote behind it'; then pass
    else fail '03: an element too many is not found' "$out"; fi
fi

# 12: where mpirun starts two ranks (Open MPI counts cores, and asks root whether it is sure).
if wanted 12; then
    RUN='mpirun -n 2'
    if mpirun --version 2>&1 | grep -q 'Open MPI'; then
        RUN='mpirun --oversubscribe -n 2'
        [ "$(id -u)" -ne 0 ] || RUN="$RUN --allow-run-as-root"
    fi
    printf '#include <mpi.h>\nint main(int n, char **v) { MPI_Init(&n, &v); MPI_Finalize(); return 0; }\n' >"$BUILD/probe.c"
    if $MPICC "$BUILD/probe.c" -o "$BUILD/probe" >"$BUILD/probe.log" 2>&1 && $RUN "$BUILD/probe" >>"$BUILD/probe.log" 2>&1
    then COMPILE=$MPICC exercise 12
    else echo '    skipped: examples/lab/12_mpi.c: mpicc or mpirun is missing, or starts no two ranks'; fi
fi

# The autograder: all blanks empty but exercise 8, which is filled, and exercise 5, which crashes, and 7, which does
# not compile.
if wanted grade; then
    lab=$BUILD/examples/lab
    fill "$lab/08_sgd_adam.c" >"$BUILD/8.c" && cp "$BUILD/8.c" "$lab/08_sgd_adam.c"
    sed 's/^    return NOT_DONE;.*/    return *(volatile int *)0 ? DONE : NOT_DONE;/' "$lab/05_max_pool.c" >"$BUILD/5.c"
    cp "$BUILD/5.c" "$lab/05_max_pool.c"
    echo 'a "blank" that is no C' >>"$lab/07_softmax_cross_entropy.c"
    out=$(CC=$CC BUILD=$BUILD/grade OBJECT=$OBJECT OPENMP=$OPENMP sh "$lab/grade.sh" 01 05 07 08 2>&1)
    line() { if printf '%s\n' "$out" | grep -q "$1"; then pass; else fail "grade.sh prints no line with $1" "$out"; fi; }
    line '^01 lecture  *0 of 100'
    line '^05 max_pool  *0 of 100 .*stopped'
    line '^07 softmax_cross_entropy  *0 of 100 .*does not compile'
    line '^08 sgd_adam  *100 of 100'
    line '^in all  *100 of 400'
    if ! command -v python3 >/dev/null 2>&1; then echo '    skipped: results.json: python3 is not installed'
    elif out=$(python3 - "$BUILD/grade/results.json" 2>&1 <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
assert r["score"] == 100 and r["execution_time"] >= 0, r
assert sum(t["score"] for t in r["tests"]) == 100 and sum(t["max_score"] for t in r["tests"]) == 400, r["tests"]
assert all(t["status"] in ("passed", "failed") and t["name"] for t in r["tests"])
assert any('"blank"' in t["output"] for t in r["tests"])
PY
    ); then pass; else fail 'results.json is not what an autograder reads' "$out"; fi
fi

# 11: where OpenCL and a device are. At the end, when test_opencl, running beside this, has compiled most of the kernels.
if wanted 11; then
    export POCL_CACHE_DIR="${POCL_CACHE_DIR:-$PWD/$BUILD/pocl}" && mkdir -p "$POCL_CACHE_DIR"
    probe=examples/lab/11_opencl.c RUN=
    if ! $CC -std=c99 -w -DLAB_LINKED "$BUILD/$probe" "$OBJECT" -o "$BUILD/probe" -lm $OPENMP -lOpenCL >"$BUILD/probe.log" 2>&1; then
        echo "    skipped: $probe: no headers or library of OpenCL"
    elif "$BUILD/probe" judge 2>&1 | grep -q 'skipped: no OpenCL device'; then
        echo "    skipped: $probe: no OpenCL device"
    else LIBS=-lOpenCL; exercise 11; LIBS=; fi
fi
end
