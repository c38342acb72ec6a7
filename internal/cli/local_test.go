package cli

import (
	"context"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

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
