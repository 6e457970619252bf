#!/usr/bin/env bash
# The pinned tools. "scripts/tools.sh NAME" prints the path of the tool, and
# builds it first where it is missing. They live outside the tree and are keyed
# by version and Go release, so every clone on a machine shares them.
# gofumpt, staticcheck and gosec come inside golangci-lint.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "$0")/env.sh"

case ${1:-} in
golangci-lint) package=github.com/golangci/golangci-lint/v2/cmd/golangci-lint version=v2.15.0 ;;
govulncheck) package=golang.org/x/vuln/cmd/govulncheck version=v1.9.0 ;;
# The generator at the version of the library that its output is compiled with.
mockgen) package=go.uber.org/mock/mockgen version=$(go list -m -f '{{.Version}}' go.uber.org/mock) ;;
*) die "usage: $0 golangci-lint|govulncheck|mockgen" ;;
esac

dir=${XDG_CACHE_HOME:-$HOME/.cache}/pgkeel/bin/$1-$version-$(go env GOVERSION)
if [ ! -x "$dir/$1" ]; then
	say "building $1 $version (once)"
	mkdir -p "$dir"
	# Into a folder of its own first: an interrupted or parallel build leaves
	# nothing half made.
	tmp=$(mktemp -d "$dir/build.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	(cd / && GOWORK=off GOFLAGS='' GOBIN=$tmp go install "$package@$version") >&2
	mv -f "$tmp/$1" "$dir/$1"
fi
echo "$dir/$1"
