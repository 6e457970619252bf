# The work is in scripts/. ARGS goes to the command behind a target, as in
#   make bench ARGS='-only queryrow'
#   make test ARGS='-run TestOpen ./providers/...'
.DEFAULT_GOAL := help
.PHONY: help demo test test-faults lint bench check generate

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 20

demo: ## watch pgkeel work against a real PostgreSQL
	@scripts/pgkeel.sh demo $(ARGS)

test: ## every test, with the race detector (COVER=1 for coverage)
	@scripts/test.sh $(ARGS)

test-faults: ## failovers and faults by the dozen, with what they took
	@scripts/faults.sh $(ARGS)

lint: ## linters, generated code, snippets, known vulnerabilities
	@scripts/lint.sh $(ARGS)

bench: ## pgkeel against the bare driver, side by side
	@scripts/pgkeel.sh bench $(ARGS)

check: ## what CI runs: lint, tests, benchmarks once, demo
	@scripts/check.sh

generate: ## write the generated code anew
	@scripts/generate.sh
