#!/bin/sh
# run.sh TEST...: run test programs, JOBS (2) at a time, and add up their closing lines `N passed, N failed`. A program
# that ends in any other way (a crash, a sanitizer's report) counts as one failure. Logs go to LOGS (build/logs).
export LOGS=${LOGS:-build/logs}
passed=0 failed=0
mkdir -p "$LOGS/pocl"
export POCL_CACHE_DIR="$(cd "$LOGS" && pwd)/pocl"     # what PoCL compiles for one test serves the next
printf '%s\n' "$@" | xargs -P "${JOBS:-2}" -I TEST sh -c '
    log=$LOGS/$(basename TEST).log start=$(date +%s)
    TEST >"$log" 2>&1
    echo "$? $(($(date +%s) - start))" >"$log.status"'
for t; do
    name=$(basename "$t") log=$LOGS/$(basename "$t").log
    read -r status seconds <"$log.status"
    last=$(tail -n 1 "$log")
    p=$(expr "$last" : '\([0-9][0-9]*\) passed, [0-9][0-9]* failed$')
    f=$(expr "$last" : '[0-9][0-9]* passed, \([0-9][0-9]*\) failed$')
    if [ -z "$p" ]; then
        p=0 f=1 last="no closing line, exit status $status"
    elif [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1 last="$last, but exit status $status"
    fi
    if [ "$f" -ne 0 ]; then tail -n 60 "$log"; else grep '^ *skipped' "$log"; fi
    printf '%-16s %s  (%s s)\n' "$name" "$last" "$seconds"
    passed=$((passed + p)) failed=$((failed + f))
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
