//go:build !unix

package pgtest

import (
	"context"
	"errors"
	"os/exec"
	"syscall"
)

// Elsewhere than on unix there are no clusters, only outside servers: Start
// fails in serverAccount, and the rest is here for the compiler.

type account struct{}

func serverAccount() (*account, error) {
	return nil, errors.New("pgtest: clusters need a unix system; set " + outsideEnv + " to use a server that is already running")
}

func (*account) own(string) error                 { return nil }
func (*account) reaches(string) bool              { return true }
func (*account) attributes() *syscall.SysProcAttr { return nil }

type process struct{ pid int }

func newProcess(*exec.Cmd, string) *process { return &process{} }

func (*process) exited() bool  { return true }
func (*process) interrupt()    {}
func (*process) quit()         {}
func (*process) freeze() []int { return nil }
func (*process) thaw()         {}
func (*process) kill([]int)    {}

func dead(int) bool                               { return true }
func freezeServers(context.Context, string) []int { return nil }
func killAll([]int)                               {}
func wakeAll([]int)                               {}
func removeSharedMemory([]string)                 {}
