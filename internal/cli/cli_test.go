package cli

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

func TestCommandLine(t *testing.T) {
	tests := map[string]struct {
		args []string
		code int
		want string // in what is printed
	}{
		"nothing is a cry for help":    {nil, exitOK, "Available Commands"},
		"help":                         {[]string{"--help"}, exitOK, "Exit codes"},
		"help of a command":            {[]string{"reencrypt", "run", "--help"}, exitOK, "--dry-run"},
		"version":                      {[]string{"version"}, exitOK, "cmkeeper "},
		"unknown command":              {[]string{"frobnicate"}, exitUsage, "frobnicate"},
		"unknown flag":                 {[]string{"demo", "--fast"}, exitUsage, "--fast"},
		"worker without settings":      {[]string{"worker"}, exitUsage, "CMKEEPER_EVENTS_QUEUE_URL is not set"},
		"help of the worker":           {[]string{"worker", "--help"}, exitOK, "Work on the queues until SIGTERM"},
		"a flag that it does not have": {[]string{"worker", "--fast"}, exitUsage, "--fast"},
		"local in public":              {[]string{"local", "--addr", "0.0.0.0:0"}, exitUsage, "--beyond-loopback"},
		"health of nobody":             {[]string{"health", "--addr", "127.0.0.1:1"}, exitError, "no answer"},
		"help of the policy commands":  {[]string{"policy", "--help"}, exitOK, "2 the command line is wrong"},
		"replay of no file":            {[]string{"replay", "does-not-exist.json"}, exitUsage, "does-not-exist.json"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			if code := run(t.Context(), tt.args, nil, &out, &errs); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if all := out.String() + errs.String(); !strings.Contains(all, tt.want) {
				t.Errorf("%q is not in:\n%s", tt.want, all)
			}
			if tt.code != exitOK && out.Len() > 0 {
				t.Errorf("a failure printed on standard output: %s", out.String())
			}
		})
	}
}

func TestHealthAsksTheWorker(t *testing.T) {
	var why atomic.Value
	why.Store("not receiving yet")
	server := httptest.NewServer(healthServer("", func() string { return why.Load().(string) }, func() http.Handler { return nil }).Handler)
	defer server.Close()
	addr := strings.TrimPrefix(server.URL, "http://")
	health := func(environ []string, args ...string) int {
		return run(t.Context(), append([]string{"health"}, args...), environ, &bytes.Buffer{}, &bytes.Buffer{})
	}
	if code := health(nil, "--addr", addr); code != exitOK {
		t.Errorf("healthy, and the exit code is %d", code)
	}
	if code := health([]string{"CMKEEPER_HTTP_ADDR=" + addr}); code != exitOK {
		t.Errorf("the address of the environment is not used: exit code %d", code)
	}
	if code := health(nil, "--addr", addr, "--ready"); code != exitError {
		t.Errorf("not ready, and the exit code is %d", code)
	}
	why.Store("")
	if code := health(nil, "--addr", addr, "--ready"); code != exitOK {
		t.Errorf("ready, and the exit code is %d", code)
	}
}

func TestReadEvents(t *testing.T) {
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "events.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, tt := range map[string]struct {
		text string
		want int
		err  string
	}{
		"one":        {`{"id":"1"}`, 1, ""},
		"lines":      {"{\"id\":\"1\"}\n{\"id\":\"2\"}\n", 2, ""},
		"array":      {`[{"id":"1"},{"id":"2"}]`, 2, ""},
		"cloudtrail": {`{"Records":[{"a":1},{"a":2},{"a":3}]}`, 3, ""},
		"empty":      {"", 0, ""},
		"broken":     {`{"id":"1"} {`, 0, "value 2 is not JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readEvents([]string{write(tt.text)})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || len(got) != tt.want {
				t.Errorf("%d events, %v; want %d", len(got), err, tt.want)
			}
		})
	}
}
