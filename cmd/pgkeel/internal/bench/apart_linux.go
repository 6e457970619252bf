package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// keepApart gives this process one half of the processors it may use and the
// servers, by the ids of their main processes, the other. Where the scheduler
// chooses, what it costs to wake the server differs by a tenth from one connection
// to the next, whoever made them: more than what is to be measured. undo gives
// everything back.
func keepApart(servers []int) (undo func() error, err error) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return nil, fmt.Errorf("sched_getaffinity: %w", err)
	}
	if all.Count() < 2 {
		return nil, errors.New("there is one processor for all")
	}
	client, server := halves(&all)
	was := runtime.GOMAXPROCS(client.Count())
	undo = func() error {
		runtime.GOMAXPROCS(was)
		return place(servers, &all, &all)
	}
	if err := place(servers, &client, &server); err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

// halves splits a set of processors, which has at least two.
func halves(all *unix.CPUSet) (first, second unix.CPUSet) {
	half := all.Count() / 2
	for cpu := 0; second.Count() < all.Count()-half; cpu++ {
		switch {
		case !all.IsSet(cpu):
		case first.Count() < half:
			first.Set(cpu)
		default:
			second.Set(cpu)
		}
	}
	return first, second
}

// place moves this process and the servers with all that they started.
func place(servers []int, client, server *unix.CPUSet) error {
	err := placeTasks(os.Getpid(), client)
	for _, pid := range servers {
		err = errors.Join(err, placeTree(pid, server))
	}
	return err
}

func placeTree(pid int, set *unix.CPUSet) error {
	err := placeTasks(pid, set)
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		children, _ := os.ReadFile(list) //nolint:gosec // of /proc; a process that has ended has none
		for field := range strings.FieldsSeq(string(children)) {
			if child, parseErr := strconv.Atoi(field); parseErr == nil {
				err = errors.Join(err, placeTree(child, set))
			}
		}
	}
	return err
}

// placeTasks moves every thread. Those to come follow the thread that makes them.
func placeTasks(pid int, set *unix.CPUSet) error {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if errors.Is(err, os.ErrNotExist) {
		return nil // it has ended
	}
	for _, task := range tasks {
		id, parseErr := strconv.Atoi(task.Name())
		if parseErr != nil {
			continue
		}
		if setErr := unix.SchedSetaffinity(id, set); setErr != nil && !errors.Is(setErr, unix.ESRCH) {
			err = errors.Join(err, fmt.Errorf("sched_setaffinity of %d: %w", id, setErr))
		}
	}
	return err
}
