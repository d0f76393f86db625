#!/bin/sh
# README.md keeps its word: every ```sh block is run as it stands and every ```c block is compiled and run, in
# a copy of the checkout; a ```text block after one is compared with what it printed. A comment before a block
# says more:
#   <!-- not run: REASON -->   the block needs what this test does not have; also for other languages
#   <!-- in: main -->          a fragment: tests/readme.c has it in an empty main
#   <!-- in: lenet -->         ... or after a small net with its data
# In a text block `...` is any number of lines; decimal fractions, bytes, speeds and what follows "cpu" vary
# by machine and are masked. Run from the top of the repository; CC, BUILD, INC (where cnn.h is) and OBJECT (the
# implementation, compiled) may be set. Ends with `N passed, N failed`.
CC=${CC:-cc} BUILD=${BUILD:-build} INC=${INC:-.}
case $OBJECT in ''|/*) ;; *) OBJECT=$PWD/$OBJECT ;; esac
. tests/report.sh
fail() {
    failed=$((failed + 1)); echo "    FAILED: README.md:$1"
    [ -z "$2" ] || printf '%s\n' "$2" | head -n 20 | sed 's/^/        /'
}

top=$PWD
rm -rf "$BUILD/readme" && mkdir -p "$BUILD/readme/blocks" "$BUILD/readme/bin" || exit 1
work=$(cd "$BUILD/readme" && pwd)
cp -R cnn*.h LICENSE Makefile README.md examples tests "$work" && cp "$INC/cnn.h" "$work" || exit 1

# `cc` in README is the compiler under test, which optimises a little less, as this test is to be quick. The first
# program with an implementation is compiled whole; of the others each line is checked, and then the program is linked
# with OBJECT.
set -- $CC
CC=$(command -v "$1") || exit 1
shift
if [ ! -f "$OBJECT" ]; then
    OBJECT=$work/object.o
    $CC "$@" -std=c99 -O1 -I"$INC" -c tests/switches/impl.c -o "$OBJECT" || fail '1: the implementation does not compile'
fi
OPENMP=; nm "$OBJECT" 2>/dev/null | grep -q GOMP && OPENMP=-fopenmp
export OBJECT OPENMP WHOLE="$work/whole"
cat >"$work/bin/cc" <<END
#!/bin/sh
cc='$CC $*'
END
cat >>"$work/bin/cc" <<'END'
for word; do case $word in *.c) file=$word ;; esac; done
if ! grep -qs '^#define CNN_IMPLEMENTATION' "$file"; then :
elif [ ! -f "$WHOLE" ]; then : >"$WHOLE"
else
    $cc "$@" -fsyntax-only || exit 1
    sed -e '/^#define CNN_IMPLEMENTATION/d' -e '/^#define CNN_STATIC/d' "$file" >"${file%.c}_linked.c"
    for n in errno float limits math stdarg stdlib string time; do cc="$cc -include $n.h"; done
    for word; do
        shift
        if [ "$word" = "$file" ]; then set -- "$@" "${file%.c}_linked.c" "$OBJECT" $OPENMP; else set -- "$@" "$word"; fi
    done
fi
exec $cc "$@" -O1
END
chmod +x "$work/bin/cc"
PATH=$work/bin:$PATH CC=cc
cd "$work" || exit 1

# ---- Blocks: blocks/LINE.sh or .c, LINE.mark (the comment before it), LINE.text (what it prints) ----
awk -v at=blocks '
    /^<!-- .* -->$/  { mark = substr($0, 6, length($0) - 9); next }
    fence && /^```$/ { close(file); fence = 0; next }
    fence            { print >file; next }
    /^```text$/      { file = at "/" last ".text"; fence = 1; printf "" >file; next }
    /^```/           { last = NR; file = at "/" NR "." substr($0, 4); fence = 1; printf "" >file
                       print mark >(at "/" NR ".mark"); close(at "/" NR ".mark"); mark = ""; next }
    /^    /          { print NR ": an indented block is not run: use a fence" }' README.md >indented
[ -s indented ] && fail "$(cat indented)" || pass

# shown FILE: as on a terminal: what is left of a line that is overwritten; what varies by machine is masked.
cr=$(printf '\r')
shown() {
    sed -e "s/.*$cr//" -e 's/[0-9][0-9]*\.[0-9][0-9]*/#/g' -e 's/[0-9#]* samples\/s.*/# samples\/s/' \
        -e 's/[0-9,]* bytes (.*/# bytes/' -e 's/  cpu.*/  cpu/' -e 's/  */ /g' -e 's/ $//' "$1"
}
# compare LINE: blocks/LINE.text, line by line, with blocks/LINE.out.
compare() {
    shown "blocks/$1.text" >want && shown "blocks/$1.out" >got
    if out=$(awk 'NR == FNR { got[++n] = $0; next }
                  $0 == "..." { any = 1; next }
                  { do at++; while (any && at <= n && got[at] != $0)
                    if (at > n || got[at] != $0) {
                        print "README says: " $0 (any ? "" : "\nthe program: " got[at])
                        bad = 1; exit }
                    any = 0 }
                  END { if (!bad && !any && at < n) { print "it goes on: " got[at + 1]; bad = 1 }
                        exit bad }' got want)
    then pass; else fail "$1: what it prints is not what stands there" "$out"; fi
}

# ---- Run them ----
impl=                                                      # compiled once, for all fragments
for block in $(ls blocks | grep -v 'mark$\|text$' | sort -n); do
    line=${block%%.*} kind=${block##*.} mark=$(cat "blocks/${block%%.*}.mark")
    case $kind:$mark in
    *:'not run: '*) echo "    skipped: README.md:$line: ${mark#not run: }"; continue ;;
    sh:*) sh -e "blocks/$block" >"blocks/$line.out" 2>&1 </dev/null ;;
    c:'in: '*)
        if [ -z "$impl" ]; then                            # with the companion for files, where it is
            impl=$OBJECT more=
            if [ -f cnn_exchange.h ]; then
                impl="exchange.o $OBJECT" more='-include cnn_exchange.h'
                printf '#define CNN_EXCHANGE_IMPLEMENTATION\n#include "cnn_exchange.h"\n' >exchange.c
                cc -std=c99 -I. -c exchange.c -o exchange.o || fail "$line: cnn_exchange.h does not compile"
            fi
        fi
        cp "blocks/$block" net.c && cp tests/readme.c .          # side by side, so that __FILE__ is "net.c"
        cc -std=c99 -Wall -Wextra -Werror "-DIN_${mark#in: }" '-DFRAGMENT="net.c"' $more readme.c $impl $OPENMP \
            -o net -lm >"blocks/$line.out" 2>&1 && ./net >"blocks/$line.out" 2>&1 </dev/null ;;
    c:) if grep -q '^int main(' "blocks/$block"; then
            cc -std=c99 -Wall -Wextra -Werror -I. "blocks/$block" -o net -lm >"blocks/$line.out" 2>&1 &&
                ./net >"blocks/$line.out" 2>&1 </dev/null
        else echo 'a fragment needs <!-- in: main --> or <!-- in: lenet -->' >"blocks/$line.out"; false; fi ;;
    *) echo "$kind: only sh and c are run; others need <!-- not run: REASON -->" >"blocks/$line.out"; false ;;
    esac
    status=$?
    if [ $status -ne 0 ]; then fail "$line: exit status $status" "$(tail -n 20 "blocks/$line.out")"
    else pass; [ ! -f "blocks/$line.text" ] || compare "$line"; fi
done

# ---- The rest of the page ----
size=$(wc -c <README.md)
[ "$size" -le 12288 ] && pass || fail "1: $((size)) bytes; a front door has at most 12 KB"
for link in $(grep -o '](\([^):]*\))' README.md | sed 's/](\(.*\))/\1/; s/#.*//' | sort -u); do
    [ -e "$top/$link" ] && pass || fail "$(grep -n "]($link" README.md | head -n 1): there is no $link"
done
# The map for readers: `>>tag` with its minutes, at 20 lines a minute, within a quarter and five minutes.
absent= wrong=
for part in $(grep -o '`>>[a-z]*` [0-9][0-9]*' README.md | tr -d '`>' | tr ' ' ':'); do
    tag=${part%:*} minutes=${part#*:}
    real=$(awk -v tag=">>$tag" '/----/ && $1 == tag { from = NR; next }
                                from && /----/ && />>[a-z]+ / { exit }
                                { to = NR }
                                END { if (from) print int((to - from) / 20 + 0.5) }' cnn.h)
    if [ -z "$real" ]; then absent="$absent >>$tag"
    elif [ $((4 * (real > minutes ? real - minutes : minutes - real))) -gt $((real + 20)) ]; then
        wrong="$wrong >>$tag $real, not $minutes;"; fi
done
if [ -n "$absent" ]; then echo "    skipped: minutes of the map in README: cnn.h has no$absent"
elif [ -z "$wrong" ]; then pass
else fail "$(grep -n '>>graph`' README.md | cut -d: -f1): minutes:$wrong"; fi

end
