//go:build !unix

package bench

import "time"

// cpuTime is not known here, and the metric is left out.
func cpuTime() time.Duration { return 0 }
