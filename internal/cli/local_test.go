package cli

import (
	"context"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

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
	a.eventually("it has said where it is", func() bool { return strings.Contains(out.String(), "no worker runs beside them") })
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
