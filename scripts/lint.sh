#!/usr/bin/env bash
# Everything that can be said about the code without running it. Each check runs
# even if an earlier one fails; arguments name the checks to run (default: all).
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"

checks=(workspace modules golangci tests generated snippets vulnerabilities shell)
mapfile -t modules < <(scripts/modules.sh)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# each COMMAND...: the command in the folder of every module, on its own, as its
# users have it.
each() {
	local module status=0
	for module in "${modules[@]}"; do
		(cd "$module" && GOWORK=off "$@") || {
			printf '%s: %s failed\n' "$module" "$*" >&2
			status=1
		}
	done
	return "$status"
}

workspace() { scripts/modules.sh --check; }

# Every module builds alone, is tidy, and passes vet.
modules() {
	local status=0
	each go vet ./... || status=1
	GOFLAGS="$GOFLAGS -mod=mod" each go mod tidy -diff || status=1
	return "$status"
}

golangci() {
	local bin
	bin=$(scripts/tools.sh golangci-lint)
	each "$bin" run --allow-parallel-runners --config "$root/.golangci.yml" ./...
}

# A skipped test proves nothing, and one that sleeps is slow when it holds and
# flaky when it does not: wait for a condition, or use testing/synctest (where
# <-time.After(d) moves the clock).
tests() {
	! git ls-files -co --exclude-standard -- '*_test.go' | sort -u | while read -r file; do
		[ ! -e "$file" ] || grep -nHE '\b[a-z]+\.Skip(f|Now)?\(|\btime\.Sleep\(' "$file" || true
	done | grep .
}

# Generates in a copy of the tree, and compares only generated files: the tree
# need not be clean, and stays as it is.
generated() {
	local copy=$tmp/copy file status=0
	mkdir "$copy"
	# A file that was deleted and not yet committed is listed, too.
	git ls-files -co --exclude-standard -z | tar -c --null -T - --ignore-failed-read 2>/dev/null | tar -x -C "$copy"
	(cd "$copy" && git init -q && scripts/generate.sh) || return 1
	while read -r file; do
		diff -uN --label "$file" --label "$file, generated anew" "$file" "$copy/$file" || status=1
	done < <({
		generated_files .
		generated_files "$copy"
	} | sort -u)
	[ "$status" = 0 ] || echo 'generated code is out of step with its source: run  make generate' >&2
	return "$status"
}

generated_files() {
	(
		cd "$1"
		git ls-files -co --exclude-standard -z -- '*.go' |
			xargs -0 -r grep -lsE '^// Code generated .* DO NOT EDIT\.$' || true # none is no failure
	)
}

# The Go code in README.md and docs/ compiles.
snippets() { go run ./internal/tools/snippets; }

# Known vulnerabilities that the code reaches. The database: PGKEEL_VULNDB, an
# archive beside the repository, or the public one. Being offline is said, and
# is no failure.
vulnerabilities() {
	local bin archive=${PGKEEL_VULNDB:-../shared/vulndb/osv.tgz} db=() status=0
	bin=$(scripts/tools.sh govulncheck)
	if [[ $archive == *://* ]]; then
		db=(-db "$archive")
	elif [ -d "$archive" ]; then
		db=(-db "file://$(realpath "$archive")")
	elif [ -f "$archive" ]; then
		mkdir "$tmp/vulndb" && tar -xzf "$archive" -C "$tmp/vulndb"
		db=(-db "file://$(dirname "$(find "$tmp/vulndb" -name 'GO-*.json' -print -quit)")")
	elif [ -n "${PGKEEL_VULNDB:-}" ]; then
		die "PGKEEL_VULNDB is $PGKEEL_VULNDB, which is neither a folder, an archive nor an address"
	fi
	each "$bin" "${db[@]}" ./... >"$tmp/vulns" 2>&1 || status=$?
	if [ "$status" != 0 ] && [ ${#db[@]} = 0 ] && ! grep -q '^Vulnerability #' "$tmp/vulns" && grep -q 'vuln\.go\.dev' "$tmp/vulns"; then
		say 'NOT CHECKED for vulnerabilities: the public database cannot be reached; PGKEEL_VULNDB may name a copy of it'
		return 0
	fi
	cat "$tmp/vulns"
	return "$status"
}

shell() {
	if command -v shellcheck >/dev/null; then
		shellcheck -x scripts/*.sh .ci/run
	else
		say 'shellcheck is not here: the scripts are not looked at'
	fi
}

failed=()
for check in "${@:-${checks[@]}}"; do
	[[ " ${checks[*]} " == *" $check "* ]] || die "no such check: $check (there are: ${checks[*]})"
	say "lint: $check"
	"$check" || failed+=("$check")
done
[ ${#failed[@]} = 0 ] || die "lint failed: ${failed[*]}"
say 'lint: all well'
