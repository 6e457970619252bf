#!/usr/bin/env bash
# What CI runs: lint, the tests, the benchmarks once through and the demo, each
# with its time. All of it runs even if a part fails, and a failure of any fails
# the whole.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"
scripts/setup.sh

grace=20 # the tests take up to 10 s of it
report=() failed=0
part() {
	local name=$1 from=$SECONDS result=ok
	shift
	say "$name"
	guarded "$@" || { result=FAILED failed=1; }
	report+=("$(printf '%-18s %4d s  %s' "$name" $((SECONDS - from)) "$result")")
}

mapfile -t patterns < <(scripts/modules.sh --patterns)
part lint scripts/lint.sh
part test scripts/test.sh
part benchmarks go test -run '^$' -bench . -benchtime 1x -p 1 -timeout 5m "${patterns[@]}"
if [ -e cmd/pgkeel/go.mod ]; then
	part 'pgkeel bench' scripts/pgkeel.sh bench -rounds 1 -duration 50ms
	part demo scripts/pgkeel.sh demo
fi

say 'check'
printf '%s\n' "${report[@]}"
exit "$failed"
