//go:build !linux

package pgkeel_test

func init() { shownElsewhere = append(shownElsewhere, "WithKeepAlive", "WithTCPUserTimeout") }
