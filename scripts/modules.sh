#!/usr/bin/env bash
# Lists the folders of the repository's modules, the root first, one a line.
# With --patterns: package patterns for a go command in the workspace.
# With --check: fails unless go.work names exactly these.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"

# From the files rather than from git, so that it works in a source archive and
# sees a module before its first commit. Folders that go ignores are left out.
modules() {
	find . \( -name '.?*' -o -name '_?*' -o -name testdata -o -name node_modules -o -name vendor \) -prune \
		-o -name go.mod -print | sed 's,/go\.mod$,,; s,^\./,,' | LC_ALL=C sort
}

case ${1:-} in
'') modules ;;
--patterns) modules | sed 's,^\.$,,; s,^\(..*\)$,/\1,; s,^,.,; s,$,/...,' ;;
--check)
	diff -u --label go.work --label 'the modules of the tree' \
		<(go work edit -json | sed -n 's/.*"DiskPath": "\(.*\)".*/\1/p' | sed 's,^\./,,' | LC_ALL=C sort) \
		<(modules) || die 'go.work is out of step with the tree: run  go work use -r .'
	;;
*) die "usage: $0 [--patterns | --check]" ;;
esac
