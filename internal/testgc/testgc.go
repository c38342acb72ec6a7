// Package testgc has the garbage of a test binary collected less often: whole accounts
// that live for one test are garbage soon, and collecting them is up to a seventh of what
// such tests cost. A test file imports it for that effect alone. GOGC in the environment
// is obeyed instead.
package testgc

import (
	"os"
	"runtime/debug"
)

func init() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}
