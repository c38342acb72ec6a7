package awsclient

// Roomy returns f, which calls AWS, for a goroutine of its own, whose stack is then large
// enough from the beginning. A call of the SDK goes through some sixty functions: the
// stack would be grown four times on the way down, and each time everything on it has to
// be found and moved. Of a worker's start that is a tenth.
func Roomy(f func()) func() {
	return func() {
		grow(false)
		f()
	}
}

// grow has a frame of half the stack that a call needs, and touches none of it.
//
//go:noinline
func grow(touch bool) {
	if touch {
		var room [20 << 10]byte
		fill(room[:])
	}
}

//go:noinline
func fill(room []byte) { clear(room) }
