// Package faulttests tries a handle over real servers against faults, and checks
// what it says against what the servers hold afterwards. PGKEEL_FAULT_RUNS is how
// many faults, or rounds of them, each test makes; `make test-faults` runs all.
package faulttests
