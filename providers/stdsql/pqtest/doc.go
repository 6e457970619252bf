// Package pqtest runs the conformance suite over lib/pq. It holds tests only, in
// a module of its own, so that nobody's build carries lib/pq because of pgkeel.
package pqtest
