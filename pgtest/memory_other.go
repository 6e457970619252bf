//go:build !linux

package pgtest

// memoryDir: only Linux has a folder in memory that everybody may use.
const memoryDir = ""

func hasRoom(string) bool { return false }
