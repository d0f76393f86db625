#!/bin/sh
# run.sh TEST...: run test programs one after the other and add up their closing lines `N passed, N failed`. A program
# that ends in any other way (a crash, a sanitizer's report) counts as one failure. Logs lie beside the programs.
passed=0 failed=0 LOGS=${LOGS:-build/logs}
mkdir -p "$LOGS"
for t; do
    name=${t##*/}; log=$LOGS/$name.log; start=$(date +%s)
    "$t" >"$log" 2>&1
    status=$?
    last=$(tail -n 1 "$log")
    p=$(expr "$last" : '\([0-9][0-9]*\) passed, [0-9][0-9]* failed$')
    f=$(expr "$last" : '[0-9][0-9]* passed, \([0-9][0-9]*\) failed$')
    if [ -z "$p" ]; then
        p=0 f=1 last="no closing line, exit status $status"
    elif [ $status -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1 last="$last, but exit status $status"
    fi
    if [ "$f" -ne 0 ]; then tail -n 60 "$log"; else grep '^ *skipped' "$log"; fi
    printf '%-24s %s  (%d s)\n' "$name" "$last" $(($(date +%s) - start))
    passed=$((passed + p)) failed=$((failed + f))
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
