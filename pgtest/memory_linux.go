package pgtest

import "syscall"

// memoryDir is a file system in memory.
const memoryDir = "/dev/shm"

// memoryNeeded is what must be free there, in bytes: containers often have only
// 64 MiB, with which a cluster would start and fail later.
const memoryNeeded = 2 << 30

func hasRoom(dir string) bool {
	var fs syscall.Statfs_t
	return syscall.Statfs(dir, &fs) == nil && fs.Bavail*uint64(fs.Bsize) >= memoryNeeded
}
