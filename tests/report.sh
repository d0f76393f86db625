# report.sh: what the shell tests share; sourced from the top of the repository. Each ends with `N passed, N failed`.
passed=0 failed=0
have() { command -v "$1" >/dev/null 2>&1; }
skip() { echo "    skipped: $1"; }
pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "    FAILED: $1"; [ -z "$2" ] || printf '%s\n' "$2" | head -n 20 | sed 's/^/        /'; }
end()  { echo "$passed passed, $failed failed"; [ $failed -eq 0 ]; exit $?; }
