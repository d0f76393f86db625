#!/bin/sh
# grade.sh [NUMBER...]: compile and judge the exercises in this directory, all without arguments. One line for
# each; BUILD/results.json holds every test with its score, and the seconds, in the form that Gradescope and
# others read. `make grade` calls it. No network; the random shapes are the same in every run. CC, MPICC,
# OPENMP, BUILD (build/lab), OBJECT (cnn.h compiled) and LIMIT (seconds for an exercise, 300) may be set.
CC=${CC:-cc} MPICC=${MPICC:-mpicc} BUILD=${BUILD:-build/lab} LIMIT=${LIMIT:-300}
here=$(dirname "$0")
[ $# -gt 0 ] || set -- 01 02 03 04 05 06 07 08 09 10 11 12
mkdir -p "$BUILD" || exit 1
if [ -z "$OBJECT" ]; then
    OBJECT=$BUILD/cnn.o
    $CC -std=c99 -O2 $OPENMP -DCNN_IMPLEMENTATION -x c -c "$here/../../cnn.h" -o "$OBJECT" || exit 1
fi
command -v timeout >/dev/null 2>&1 && limit="timeout $LIMIT"
mpirun='mpirun -n 2'
if mpirun --version 2>&1 | grep -q 'Open MPI'; then
    mpirun='mpirun --oversubscribe -n 2'
    [ "$(id -u)" -ne 0 ] || mpirun="$mpirun --allow-run-as-root"
fi

# nothing NUMBER NAME WHY FILE: no points, and why: the first lines of FILE.
nothing() {
    text=$(head -n 12 "$4" | tr '\t\r' '  ' | sed 's/\\/\\\\/g; s/"/\\"/g' | awk '{ printf "%s\\n", $0 }')
    printf '{"name": "%s %s: %s", "score": 0, "max_score": 100, "status": "failed", "output": "%s"},\n' \
        "$1" "$2" "$3" "$text" >"$BUILD/$1.json"
    points=0 note=$3
}

start=$(date +%s) sum=0 most=0 seconds=''
: >"$BUILD/tests.json"
for number; do
    file=$(ls "$here/$number"_*.c 2>/dev/null) || { echo "$number: there is no such exercise"; continue; }
    name=$(basename "$file" .c | sed 's/^[0-9]*_//')
    compile=$CC flags=-O2 libs='' run='' note='' points=0 begin=$(date +%s)
    case $number in
    09|10) flags=-O3
           $CC -march=native -x c -fsyntax-only /dev/null 2>/dev/null && flags='-O3 -march=native' ;;
    11) libs=-lOpenCL
        echo '#include <CL/cl.h>' | $CC -x c -fsyntax-only - >/dev/null 2>&1 || note='skipped: no OpenCL' ;;
    12) compile=$MPICC run=$mpirun
        command -v "$MPICC" >/dev/null 2>&1 && command -v mpirun >/dev/null 2>&1 || note='skipped: no MPI' ;;
    esac
    rm -f "$BUILD/$number.json" && : >"$BUILD/$number.log"
    if [ -n "$note" ]; then :
    elif ! $compile -std=c99 $flags $OPENMP -w -DLAB_LINKED "$file" "$OBJECT" -o "$BUILD/$number" -lm $libs \
        >"$BUILD/$number.log" 2>&1
    then nothing "$number" "$name" 'does not compile' "$BUILD/$number.log"
    else
        LAB_JSON=$BUILD/$number.json $limit $run "$BUILD/$number" >"$BUILD/$number.log" 2>&1
        status=$?
        points=$(sed -n 's/^Exercise [0-9]*: \([0-9]*\) of [0-9]* points$/\1/p' "$BUILD/$number.log")
        if [ $status -eq 3 ] && grep -q skipped "$BUILD/$number.log"; then note='skipped: no OpenCL device'
        elif [ $status -eq 124 ]
        then nothing "$number" "$name" "stopped after $LIMIT seconds" "$BUILD/$number.log"
        elif [ -z "$points" ]; then nothing "$number" "$name" "stopped, status $status" "$BUILD/$number.log"
        else
            wrong=$(grep -c '^  WRONG' "$BUILD/$number.log")
            undone=$(grep -c '^  not done' "$BUILD/$number.log")
            [ "$wrong" -eq 0 ] || note="$wrong wrong"
            [ "$undone" -eq 0 ] || note="${note:+$note, }$undone not done"
        fi
    fi
    took=$(($(date +%s) - begin)) seconds="$seconds${seconds:+, }\"$number $name\": $took"
    case $note in skipped*) printf '%s %-26s %s\n' "$number" "$name" "$note"; continue ;; esac
    sum=$((sum + points)) most=$((most + 100))
    cat "$BUILD/$number.json" >>"$BUILD/tests.json"
    printf '%s %-26s %3d of 100 points %5d s   %s\n' "$number" "$name" "$points" "$took" "$note"
done
{
    printf '{"score": %d, "execution_time": %d, "extra_data": {"max_score": %d, "seconds": {%s}},\n' \
        "$sum" $(($(date +%s) - start)) "$most" "$seconds"
    printf '"tests": [\n'
    sed '$s/,$//' "$BUILD/tests.json"
    printf ']}\n'
} >"$BUILD/results.json"
printf '%-29s %3d of %d points; more in %s/NUMBER.log and %s/results.json\n' \
    'in all' "$sum" "$most" "$BUILD" "$BUILD"
