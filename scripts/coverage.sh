#!/usr/bin/env bash
# Prints the statement coverage of a profile by package and in total, the blocks
# of all test programs merged, without generated files and mocks.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"

module=$(go list -m -f '{{.Path}}' | head -n 1)
{
	grep -rlE --include='*.go' '^// Code generated .* DO NOT EDIT\.$' . | sed "s,^\.,$module," || true
	echo --
	cat "$1"
} | awk '
	!profile { if ($0 == "--") profile = 1; else generated[$0] = 1; next }
	/^mode:/ { next }
	{
		file = $1; sub(/:[^:]*$/, "", file)
		if (file in generated || file ~ /\/mocks\//) next
		statements[$1] = $2
		if ($3 > 0) hit[$1] = 1
	}
	END {
		for (block in statements) {
			package = block; sub(/\/[^\/]*$/, "", package)
			of[package] += statements[block]; total += statements[block]
			if (block in hit) { done[package] += statements[block]; covered += statements[block] }
		}
		for (package in of)
			printf "coverage %6.1f%%  %s (%d of %d statements)\n", 100 * done[package] / of[package], package, done[package], of[package] | "sort -k3"
		close("sort -k3")
		if (total) printf "coverage %6.1f%%  total (%d of %d statements)\n", 100 * covered / total, covered, total
	}'
