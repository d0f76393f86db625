#!/bin/sh
# examples/web: the page is built and stays small, and in a headless Chromium one draws digits and the net learns to
# read them (tests/web.py). Run from the top of the repository; CLANG, BUILD, INC and BROWSER may be set; PICTURE=FILE
# leaves pictures of the page. Ends with `N passed, N failed`.
CLANG=${CLANG:-clang} BUILD=${BUILD:-build} INC=${INC:-.}
. tests/report.sh

for browser in "$BROWSER" chromium chromium-browser google-chrome; do
    [ -n "$browser" ] && have "$browser" && break
done
if ! printf '#include <math.h>\nint main(void) { return 0; }\n' |
        $CLANG --target=wasm32-wasi -msimd128 -x c - -o "$BUILD/web_probe.wasm" >/dev/null 2>&1; then
    skip 'the page: clang for WebAssembly is missing (clang lld wasi-libc libclang-rt-14-dev-wasm32)'
    end
fi
if out=$(make web CLANG="$CLANG" INC="$INC" B="$BUILD" 2>&1); then pass; else fail 'make web' "$out"; end; fi
size=$(sed '/<script .*id="t[a-z]*-/,/<\/script>/d' "$BUILD/web.html" | wc -c)
if [ "$size" -le 300000 ]; then pass; else fail "the page without its digits has $size bytes, more than 300,000"; fi

if ! have "$browser" || ! have python3; then skip 'the page in a browser: chromium or python3 is not installed'
else
    out=$(timeout 400 python3 tests/web.py "$browser" "$BUILD/web.html" ${PICTURE:+"$PICTURE"} 2>&1)
    printf '%s\n' "$out" | grep -v ' passed, '
    passed=$((passed + $(printf '%s\n' "$out" | sed -n 's/^\([0-9]*\) passed, .*/\1/p' | grep . || echo 0)))
    failed=$((failed + $(printf '%s\n' "$out" | sed -n 's/.* passed, \([0-9]*\) failed$/\1/p' | grep . || echo 1)))
fi
end
