package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

// BenchmarkStart measures the binary as it is shipped, with the configuration's
// defaults, beside the floor (see testdata/floor): its size, and the time from exec to
// the first ReceiveMessage at the server. Each turn starts both; the figures are
// medians.
func BenchmarkStart(b *testing.B) {
	box := startSandbox(b)
	programs := floorAndShipped(b)
	var toReceive [2][]float64
	for turn := range b.N {
		for i := range programs {
			i = (i + turn) % len(programs)
			began := time.Now()
			p := spawn(b, box, programs[i])
			toReceive[i] = append(toReceive[i], float64(p.received(b).Sub(began).Microseconds())/1000)
			p.kill()
		}
	}
	for i, name := range []string{"floor", "cmkeeper"} {
		info, err := os.Stat(programs[i])
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(info.Size())/(1<<20), name+"-MiB-binary")
		b.ReportMetric(median(toReceive[i]), name+"-ms-to-receive")
	}
	b.ReportMetric(median(toReceive[1])/median(toReceive[0]), "start-ratio")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkIdle measures the resident memory of the same two when they have been idle
// for five seconds.
func BenchmarkIdle(b *testing.B) {
	box := startSandbox(b)
	programs := floorAndShipped(b)
	var idle [2][]float64
	for range b.N {
		for i, binary := range programs {
			p := spawn(b, box, binary)
			p.received(b)
			time.Sleep(5 * time.Second)
			idle[i] = append(idle[i], residentMB(b, p.command.Process.Pid))
			p.kill()
		}
	}
	b.ReportMetric(median(idle[0]), "floor-MB-idle")
	b.ReportMetric(median(idle[1]), "cmkeeper-MB-idle")
	b.ReportMetric(0, "ns/op") // the time of a turn is mostly the wait
}

func floorAndShipped(b *testing.B) []string {
	b.Helper()
	return []string{build(b, "./testdata/floor"), build(b, "../..")}
}

// BenchmarkDrain measures messages per second from a full queue on loopback: of the
// binary as it is shipped, with the configuration's defaults, beside a plain SDK
// loop (see testdata/plainloop) in a process of its own. Each turn drains one queue
// with each; the figures are medians, and the ratio is that of the pairs.
func BenchmarkDrain(b *testing.B) {
	box := startSandbox(b)
	plain, shipped := build(b, "./testdata/plainloop"), build(b, "../..")
	var speeds [2][]float64
	var ratios []float64
	for turn := range b.N {
		order := []int{0, 1}
		if turn%2 == 1 {
			slices.Reverse(order)
		}
		for _, i := range order {
			speeds[i] = append(speeds[i], drain(b, box, []string{plain, shipped}[i]))
		}
		ratios = append(ratios, speeds[1][turn]/speeds[0][turn])
	}
	b.Logf("worker beside plain loop: %.2f", ratios)
	b.ReportMetric(median(speeds[0]), "plain-msgs/s")
	b.ReportMetric(median(speeds[1]), "worker-msgs/s")
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(0, "ns/op")
}

// drain fills the events queue and returns how many messages a second the program
// takes from it, from its first receive until the queue is empty. They are events
// that nothing reacts to, as most events of an account are.
func drain(b testing.TB, box *sandbox.Sandbox, binary string) float64 {
	b.Helper()
	const messages = 40_000
	event, err := os.ReadFile("../../events/testdata/describe-key.json")
	if err != nil {
		b.Fatal(err)
	}
	var compact bytes.Buffer // as EventBridge sends it
	if err := json.Compact(&compact, event); err != nil {
		b.Fatal(err)
	}
	entries := make([]types.SendMessageBatchRequestEntry, 10)
	for i := range entries {
		entries[i] = types.SendMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String(compact.String())}
	}
	client := sqs.NewFromConfig(box.Config(sandbox.WorkerKey)) // the queue takes messages of our role only
	for range messages / len(entries) {
		if _, err := client.SendMessageBatch(b.Context(), &sqs.SendMessageBatchInput{QueueUrl: &box.EventsQueue, Entries: entries}); err != nil {
			b.Fatal(err)
		}
	}
	p := spawn(b, box, binary)
	defer p.kill()
	began := p.received(b)
	for {
		time.Sleep(10 * time.Millisecond)
		out, err := client.GetQueueAttributes(b.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &box.EventsQueue, AttributeNames: []types.QueueAttributeName{
			types.QueueAttributeNameApproximateNumberOfMessages, types.QueueAttributeNameApproximateNumberOfMessagesNotVisible,
		}})
		if err != nil {
			b.Fatal(err)
		}
		if out.Attributes["ApproximateNumberOfMessages"] == "0" && out.Attributes["ApproximateNumberOfMessagesNotVisible"] == "0" {
			return messages / time.Since(began).Seconds()
		}
		if time.Since(began) > time.Minute {
			b.Fatalf("%s does not drain the queue: %v\n%s", binary, out.Attributes, p.logs.String())
		}
	}
}

func startSandbox(b testing.TB) *sandbox.Sandbox {
	b.Helper()
	box, err := sandbox.Start(b.Context(), "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(box.Close)
	return box
}

// build builds a program as it is shipped.
func build(b testing.TB, pkg string) string {
	b.Helper()
	binary := filepath.Join(b.TempDir(), filepath.Base(pkg))
	if pkg == "../.." {
		binary = filepath.Join(b.TempDir(), "cmkeeper")
	}
	command := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, pkg)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// program is a process that receives from the sandbox's events queue.
type program struct {
	command *exec.Cmd
	logs    *bytes.Buffer
	first   chan time.Time
	stop    func()
}

// spawn starts a program with what a worker must be given, and what else the environment is
// to say.
func spawn(b testing.TB, box *sandbox.Sandbox, binary string, environment ...string) program {
	b.Helper()
	p := program{command: exec.CommandContext(b.Context(), binary), logs: &bytes.Buffer{}, first: make(chan time.Time, 1)}
	if filepath.Base(binary) == "cmkeeper" {
		p.command.Args = append(p.command.Args, "worker")
	}
	p.command.Stderr = p.logs
	p.command.Env = []string{"AWS_ENDPOINT_URL=" + box.Endpoint, "AWS_REGION=" + sandbox.Region,
		"AWS_ACCESS_KEY_ID=" + sandbox.WorkerKey, "AWS_SECRET_ACCESS_KEY=x"}
	given := box.WorkerEnvironment("*")
	for _, name := range []string{"CMKEEPER_EVENTS_QUEUE_URL", "CMKEEPER_JOBS_QUEUE_URL", "CMKEEPER_ALERT_TOPIC_ARN", "CMKEEPER_STATE_BUCKET", "CMKEEPER_HTTP_ADDR"} {
		p.command.Env = append(p.command.Env, name+"="+given[name])
	}
	p.command.Env = append(p.command.Env, environment...)
	var once sync.Once
	p.stop = box.AWS.Observe(func(r localaws.Request) {
		if r.Operation == "ReceiveMessage" {
			once.Do(func() { p.first <- time.Now() })
		}
	})
	if err := p.command.Start(); err != nil {
		b.Fatal(err)
	}
	return p
}

// received waits for the program's first ReceiveMessage and returns when it was.
func (p program) received(b testing.TB) time.Time {
	b.Helper()
	select {
	case at := <-p.first:
		return at
	case <-time.After(10 * time.Second):
		p.kill()
		b.Fatalf("it does not receive:\n%s", p.logs.String())
		return time.Time{}
	}
}

func (p program) kill() {
	_ = p.command.Process.Kill()
	_ = p.command.Wait()
	p.stop()
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[len(sorted)/2] + sorted[(len(sorted)-1)/2]) / 2
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
