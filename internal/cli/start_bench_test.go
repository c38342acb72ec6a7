package cli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

// BenchmarkStart measures the binary as it is shipped beside the floor (see
// testdata/floor): its size, the time from exec to the first ReceiveMessage at
// the server, and its resident memory when it has been idle for five seconds.
func BenchmarkStart(b *testing.B) {
	for _, program := range []struct{ name, pkg string }{{"floor", "./testdata/floor"}, {"cmkeeper", "../.."}} {
		b.Run(program.name, func(b *testing.B) {
			binary := filepath.Join(b.TempDir(), program.name)
			build := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, program.pkg)
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				b.Fatalf("%v\n%s", err, out)
			}
			info, err := os.Stat(binary)
			if err != nil {
				b.Fatal(err)
			}
			box, err := sandbox.Start(b.Context(), "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer box.Close()
			environ := append(os.Environ(), "AWS_ENDPOINT_URL="+box.Endpoint, "AWS_REGION="+sandbox.Region, "AWS_ACCESS_KEY_ID="+sandbox.WorkerKey, "AWS_SECRET_ACCESS_KEY=x")
			for name, value := range box.WorkerEnvironment("*") {
				environ = append(environ, name+"="+value)
			}
			var toReceive time.Duration
			var idle float64
			for range b.N {
				received := make(chan struct{})
				var once sync.Once
				stop := box.AWS.Observe(func(r localaws.Request) {
					if r.Operation == "ReceiveMessage" {
						once.Do(func() { close(received) })
					}
				})
				var logs bytes.Buffer
				command := exec.CommandContext(b.Context(), binary)
				if program.name == "cmkeeper" {
					command.Args = append(command.Args, "worker")
				}
				command.Env, command.Stderr = environ, &logs
				began := time.Now()
				if err := command.Start(); err != nil {
					b.Fatal(err)
				}
				select {
				case <-received:
				case <-time.After(10 * time.Second):
					b.Fatalf("it does not receive:\n%s", logs.String())
				}
				toReceive += time.Since(began)
				time.Sleep(5 * time.Second)
				idle += residentMB(b, command.Process.Pid)
				_ = command.Process.Kill()
				_ = command.Wait()
				stop()
			}
			b.ReportMetric(0, "ns/op") // the time of a turn is mostly the wait
			b.ReportMetric(float64(info.Size())/(1<<20), "MiB-binary")
			b.ReportMetric(float64(toReceive.Microseconds())/1000/float64(b.N), "ms-to-receive")
			b.ReportMetric(idle/float64(b.N), "MB-idle")
		})
	}
}

// residentMB returns a process's resident memory, as Linux counts it.
func residentMB(b *testing.B, pid int) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Skipf("no /proc here: %v", err)
	}
	for line := range bytes.Lines(status) {
		if fields := bytes.Fields(line); len(fields) > 1 && string(fields[0]) == "VmRSS:" {
			kb, err := strconv.ParseFloat(string(fields[1]), 64)
			if err != nil {
				b.Fatal(err)
			}
			return kb / 1000
		}
	}
	b.Fatal("no VmRSS")
	return 0
}
