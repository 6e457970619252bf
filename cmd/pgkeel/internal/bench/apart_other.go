//go:build !linux

package bench

import "errors"

// keepApart is for Linux.
func keepApart([]int) (undo func() error, err error) {
	return nil, errors.ErrUnsupported
}
