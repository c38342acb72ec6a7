package cli

import (
	"context"
	"io"
	"maps"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

// TestLocal follows what the command prints: it exports the endpoint, switches
// rotation off and finds it on again.
func TestLocal(t *testing.T) {
	t.Parallel()
	var out, log logBuffer
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, []string{"local", "--addr", "127.0.0.1:0"}, nil, &out, &log) }()

	a := &account{t: t, box: &sandbox.Sandbox{}}
	a.eventually("it has swept", func() bool { return len(log.lines("sweep ended")) > 0 })
	told := regexp.MustCompile(`export AWS_ENDPOINT_URL=http://(\S+)[\s\S]*disable-key-rotation --key-id (\S+)`).FindStringSubmatch(out.String())
	if told == nil {
		t.Fatalf("nothing to export, or no key: %s", out.String())
	}
	address, key := told[1], told[2]
	a.box.Endpoint = "http://" + address
	a.kms = kms.NewFromConfig(a.box.Config("test"))
	a.disableRotation(key)
	a.eventually("rotation is on again", func() bool { return a.rotation(key) == 180 })
	a.eventually("the alert is printed", func() bool { return strings.Contains(out.String(), "WHAT HAPPENED\n") })
	if printed := regexp.MustCompile(`(?m)^\[[A-Z]+\] .*$`).FindString(out.String()); !strings.Contains(printed, "Rotation of alias/app was turned off") || strings.Contains(out.String(), `"schema":`) {
		t.Errorf("the first alert is %q, of:\n%s", printed, out.String())
	}
	a.box.Inbox = regexp.MustCompile(`receive-message --queue-url (\S+)`).FindStringSubmatch(out.String())[1]
	a.await("it is in the queue, too", tells(alert.KindRotation, "", alert.StatusDone))

	interrupt()
	if code := <-ended; code != exitOK {
		t.Errorf("exit code %d\n%s", code, log.String())
	}
	if conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address); err == nil {
		_ = conn.Close()
		t.Error("somebody still listens")
	}
	if strings.Contains(out.String(), "level=") {
		t.Errorf("the log is on standard output: %s", out.String())
	}
}

// TestLocalSettings has the environment change the worker's settings, but not what the
// worker is connected to.
func TestLocalSettings(t *testing.T) {
	t.Parallel()
	defaults := (&sandbox.Sandbox{EventsQueue: "http://127.0.0.1:1/e", JobsQueue: "http://127.0.0.1:1/j", Topic: "arn:aws:sns:us-east-1:000000000000:t"}).WorkerEnvironment("*")
	got, err := localEnvironment(defaults, map[string]string{
		"HOME": "/root", "CMKEEPER_POLICY_MODE": "observe", "CMKEEPER_CONTAIN_MODE": "enforce", "CMKEEPER_LOG_LEVEL": "",
		"CMKEEPER_EVENTS_QUEUE_URL": defaults["CMKEEPER_EVENTS_QUEUE_URL"], // as it is printed
	})
	want := maps.Clone(defaults)
	want["CMKEEPER_POLICY_MODE"], want["CMKEEPER_CONTAIN_MODE"] = "observe", "enforce"
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("error %v:\n%s", err, diff)
	}
	for _, name := range localResources {
		var out, log logBuffer
		code := run(t.Context(), []string{"local", "--addr", "127.0.0.1:0"}, []string{envPrefix + name + "=the-fleets-own", "CMKEEPER_POLICY_MODE=observe"}, &out, &log)
		if code != exitUsage || !strings.Contains(log.String(), envPrefix+name) || strings.Contains(log.String(), "POLICY_MODE") || out.String() != "" {
			t.Errorf("%s: exit code %d: %s", name, code, log.String())
		}
	}
	var out, log logBuffer
	if code := run(t.Context(), []string{"local", "--addr", "127.0.0.1:0"}, []string{"CMKEEPER_POLICY_MODE=perhaps"}, &out, &log); code != exitUsage || !strings.Contains(log.String(), "CMKEEPER_POLICY_MODE") {
		t.Errorf("a mode that does not exist: exit code %d: %s", code, log.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"local", "--observe", "--addr", "127.0.0.1:0"}, []string{"CMKEEPER_CONTAIN_MODE=enforce", "CMKEEPER_ROTATION_MODE=off"}, &out, &log)
	}()
	a := &account{t: t}
	a.eventually("it has said what it does", func() bool { return strings.Contains(out.String(), "Ctrl-C") })
	cancel()
	<-ended
	for _, want := range []string{"rotation off, policy observe, deletion observe, reencrypt observe, contain observe.", "CMKEEPER_CONTAIN_MODE, "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
}

// TestLocalScreen: what is on the topic and no alert is printed, and does nothing to the terminal.
func TestLocalScreen(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"a\x1b[2J\nb\n": "a\\x1b[2J\nb\n", `{"id":3}`: `{"id":3}` + "\n", `{"hello":"world"}`: `{"hello":"world"}` + "\n", "": "",
	} {
		if got := screen(body); got != want {
			t.Errorf("%q is printed as %q", body, got)
		}
	}
	if got := screen(`{"schema":"cmkeeper.alert.v1","id":"x","severity":"high","title":"a\u001b[2Jb"}`); !strings.HasPrefix(got, `[HIGH] a\x1b[2Jb`) {
		t.Errorf("an alert is printed as %q", got)
	}
}

func TestLocalAddress(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]struct{ alone, beyond bool }{
		"127.0.0.1:4566": {true, true}, "[::1]:4566": {true, true}, "127.9.9.9:0": {true, true},
		":4566": {false, true}, "0.0.0.0:4566": {false, true}, "[::]:0": {false, true}, "192.0.2.1:4566": {false, true}, "localhost:4566": {false, true},
		"4566": {}, "": {},
	} {
		alone, beyond := localCommand{addr: addr}, localCommand{addr: addr, beyondLoopback: true}
		if got := alone.address() == nil; got != want.alone {
			t.Errorf("%q: accepted %t", addr, got)
		}
		if got := beyond.address() == nil; got != want.beyond {
			t.Errorf("%q beyond loopback: accepted %t", addr, got)
		}
	}
}

// TestLocalWithoutAWorker has only the AWS run, as a container does: the image's health
// check finds it where the environment says, and nothing is repaired.
func TestLocalWithoutAWorker(t *testing.T) {
	t.Parallel()
	listener := must(new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0"))(t)
	health := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	environ := []string{"CMKEEPER_HTTP_ADDR=" + health}
	var out, log logBuffer
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"local", "--beyond-loopback", "--no-worker", "--addr", "127.0.0.1:0"}, environ, &out, &log)
	}()
	a := &account{t: t, box: &sandbox.Sandbox{}}
	a.eventually("it is healthy", func() bool {
		return run(t.Context(), []string{"health", "--ready"}, environ, io.Discard, io.Discard) == exitOK
	})
	a.eventually("it has said where it is", func() bool { return strings.Contains(out.String(), "No worker runs beside them") })
	told := regexp.MustCompile(`AWS_ENDPOINT_URL=(http://\S+)`).FindStringSubmatch(out.String())
	if told == nil {
		t.Fatalf("nothing to export: %s", out.String())
	}
	a.box.Endpoint = told[1]
	must(sqs.NewFromConfig(a.box.Config("test")).GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("cmkeeper-events")}))(t)
	interrupt()
	if code := <-ended; code != exitOK || log.String() != "" { // a worker would log
		t.Errorf("exit code %d\n%s", code, log.String())
	}
}

// TestLocalWithAWorkerElsewhere starts the worker of another process with the environment
// that the command prints, which has the setting that the command was given.
func TestLocalWithAWorkerElsewhere(t *testing.T) {
	const setting = "CMKEEPER_EXEMPTIONS=rotation of alias/legacy-* until 2099-03-31: the vendor's"
	var out, log, workerLog logBuffer
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	ended, worked := make(chan int, 1), make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"local", "--no-worker", "--addr", "127.0.0.1:0"}, []string{setting, "CMKEEPER_HTTP_ADDR=127.0.0.1:0"}, &out, &log)
	}()
	a := &account{t: t}
	a.eventually("it has said what to do", func() bool { return strings.Contains(out.String(), "Ctrl-C") })
	lines, _, found := strings.Cut(out.String(), "  cmkeeper worker\n")
	if !found {
		t.Fatalf("no worker is to be started: %s", out.String())
	}
	var environ []string
	for _, m := range regexp.MustCompile(`(?m)(?:^  export|\b) ([A-Z_]+)=((?:'[^']*'|\\'|[^' \n])*)`).FindAllStringSubmatch(lines, -1) {
		value := strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(m[2], `'\''`, "\x00"), "'", ""), "\x00", "'")
		if environ = append(environ, m[1]+"="+value); strings.HasPrefix(m[1], "AWS_") {
			t.Setenv(m[1], value)
		}
	}
	environ = append(environ, "GOGC=100", "GOMEMLIMIT=off") // or a worker would adapt the tests' collector
	if !slices.Contains(environ, setting) {
		t.Errorf("the setting is not among %q", environ)
	}
	working, dismiss := context.WithCancel(ctx)
	go func() { worked <- run(working, []string{"worker"}, environ, io.Discard, &workerLog) }()
	a.eventually("the worker has swept", func() bool {
		select {
		case code := <-worked:
			t.Fatalf("the worker has ended, exit code %d: %s", code, workerLog.String())
		default:
		}
		return len(workerLog.lines("sweep ended")) > 0
	})
	a.box = &sandbox.Sandbox{Endpoint: os.Getenv("AWS_ENDPOINT_URL")}
	a.kms = kms.NewFromConfig(a.box.Config("test"))
	key := regexp.MustCompile(`disable-key-rotation --key-id (\S+)`).FindStringSubmatch(out.String())[1]
	a.disableRotation(key)
	a.eventually("its alert is printed", func() bool { return strings.Contains(out.String(), "WHAT HAPPENED\n") })
	a.eventually("rotation is on again", func() bool { return a.rotation(key) == 180 })
	dismiss()
	if code := <-worked; code != exitOK {
		t.Errorf("exit code %d of the worker\n%s", code, workerLog.String())
	}
	interrupt()
	if code := <-ended; code != exitOK {
		t.Errorf("exit code %d\n%s", code, log.String())
	}
}
