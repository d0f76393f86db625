#!/bin/sh
# tasks.sh: examples/folder.c, signals.c, regress.c and custom_op.c by the cc line that each opens with, on data made here.
# Run from the top of the repository; CC, BUILD and OBJECT (the implementation, compiled) may be set. Ends with `N passed, N failed`.
CC=${CC:-cc} BUILD=${BUILD:-build}
top=$PWD
case $BUILD in /*) dir=$BUILD/tasks_sh;; *) dir=$top/$BUILD/tasks_sh;; esac
. tests/report.sh
mkdir -p "$dir"
THREADS=-pthread; printf 'int main(void) { return 0; }\n' | $CC -x c - -pthread -o "$dir/probe" 2>/dev/null || THREADS=

# The implementation is compiled once for all, as that takes ten seconds.
[ -f "$OBJECT" ] || { OBJECT=$dir/cnn.o; $CC -std=c99 -O1 $THREADS -I. -c tests/switches/impl.c -o "$OBJECT"; }
# linked FILE PROGRAM EDITS...: PROGRAM, of an example without its implementation, after sed's EDITS.
linked() {
    file=$1 program=$2; shift 2
    sed -e '/^#define CNN_STATIC/d' -e '/^#define CNN_IMPLEMENTATION/d' -e 's|"../cnn.h"|"cnn.h"|' "$@" "$file" >"$dir/$program.c"
    $CC -std=c99 -O1 $THREADS -include math.h -include stdlib.h -include string.h -I. "$dir/$program.c" "$OBJECT" -o "$dir/$program" -lm 2>&1
}

# example NAME ARGUMENTS...: its own cc line is right, and it runs in $dir; what it writes is in $dir/out.
example() {
    name=$1; shift
    line=$(sed -n "s|^ *cc \(.*examples/$name.c\) -o $name -lm.*|\1|p" examples/$name.c)
    [ -n "$line" ] || { fail "examples/$name.c has no cc line"; return 1; }
    line=$(echo "$line" | sed "s/-O2/-fsyntax-only/")
    if out=$($CC $line 2>&1; linked "examples/$name.c" "$name") && [ -z "$out" ]; then pass; else fail "cc $line" "$out"; return 1; fi
    (cd "$dir" && OMP_NUM_THREADS=2 ./$name "$@" >out 2>err) && pass || { fail "$name $*" "$(tail -3 "$dir/err")"; return 1; }
}

# Pictures of 20x16 pixels, all bytes of them printable: a bright bar, upright in one class, lying in the other.
for class in lying upright; do
    mkdir -p "$dir/pictures/$class"
    for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24; do
        awk -v n=$n -v lying=$([ $class = lying ] && echo 1 || echo 0) 'BEGIN {
            srand(n + 100 * lying); at = 4 + int(rand() * 8); printf "P6\n20 16\n255\n"
            for (y = 0; y < 16; y++) for (x = 0; x < 20; x++) for (c = 0; c < 3; c++)
                printf "%c", ((lying ? y : x) >= at && (lying ? y : x) < at + 3 ? 80 : 40) + int(rand() * 40)
        }' >"$dir/pictures/$class/$n.ppm"
    done
done
if example folder pictures 12; then
    grep -q '^48 pictures of 2 classes' "$dir/out" && awk '/precision/ && $5 < 0.7 { bad = 1 } END { exit bad }' "$dir/out" &&
        grep -q 'cnn.data.* lying upright' "$dir/folder.safetensors" && pass || fail 'folder: it has not learned, or the names are not in the file' "$(cat "$dir/out")"
fi
# predict.c prints the names that a model file has: that of folder.c with grey pictures.
for e in folder predict; do linked examples/$e.c grey_$e -e 's/3, SIZE, SIZE/1, SIZE, SIZE/'; done
awk 'BEGIN { printf "P5\n20 16\n255\n"; for (i = 0; i < 320; i++) printf("%c", (i % 20 > 8 && i % 20 < 12) ? 120 : 40) }' >"$dir/bar.pgm"
out=$(cd "$dir" && mkdir -p grey && cd grey && ../grey_folder ../pictures 2 2>&1 >/dev/null && ../grey_predict folder.safetensors ../bar.pgm 2>&1)
printf '%s\n' "$out" | grep -q '^ *upright  *[0-9.]* %' && printf '%s\n' "$out" | grep -q '^ *lying  *[0-9.]* %' && pass ||
    fail 'predict does not print the names of the classes' "$out"
(cd "$dir" && ./folder nowhere >/dev/null 2>err); [ $? -eq 1 ] && grep -q 'nowhere: No such file' "$dir/err" && pass || fail 'folder nowhere' "$(cat "$dir/err")"
if example custom_op; then
    grep -q '^  snake .*-> right$' "$dir/out" && grep -q '^  wrong snake .*-> wrong$' "$dir/out" && grep -q '(2,4,1,1) for an output (2,3,1,1)' "$dir/out" &&
        pass || fail 'custom_op: a derivative is not judged as it is' "$(cat "$dir/out")"
fi
if example signals; then
    awk '/taken for/ { n++; if ($(n + 3) < 60) bad = 1 } END { exit bad || n != 3 }' "$dir/out" && pass || fail 'signals: it has not learned' "$(cat "$dir/out")"
fi
if example regress 2; then
    awk '/R2/ { good = $NF > 0.5 } END { exit !good }' "$dir/out" && [ -s "$dir/regress.svg" ] && pass || fail 'regress: it has not learned' "$(cat "$dir/out")"
fi
end
