package worker_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/worker"
)

func TestProtection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var got []string
		var blocked atomic.Bool
		agent := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			got = append(got, fmt.Sprintf("%s %s %s %s", time.Since(start), r.Method, r.URL, body))
			if blocked.Load() {
				fmt.Fprint(w, `{"failure":{"Arn":"…","Reason":"TASK_NOT_VALID"}}`)
				return
			}
			fmt.Fprintf(w, `{"protection":{"ProtectionEnabled":%t}}`, string(body) != `{"ProtectionEnabled":false}`)
		})
		var log records
		p := worker.NewProtection("http://169.254.170.2/api/x", inprocess.Client{Handler: agent}, slog.New(&log))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { p.Run(ctx); close(done) }()

		at := func(d time.Duration) { // sleeps until d after the start
			time.Sleep(d - time.Since(start))
			synctest.Wait()
		}
		at(time.Minute) // nothing to protect
		p.InFlight(10)  // on at 1m
		at(2 * time.Minute)
		p.InFlight(-10) // idle, but only for half a minute
		at(2*time.Minute + 30*time.Second)
		p.InFlight(3) // renewed at 6m
		at(7 * time.Minute)
		p.InFlight(-1)
		p.InFlight(-2) // off at 8m
		blocked.Store(true)
		at(10 * time.Minute) // tried again every 30 s until it works
		blocked.Store(false)
		at(20 * time.Minute)
		p.InFlight(1) // on at 20m
		at(21 * time.Minute)
		stop()
		<-done // off at 21m

		const put, on, off = " PUT http://169.254.170.2/api/x/task-protection/v1/state ", `{"ProtectionEnabled":true,"ExpiresInMinutes":10}`, `{"ProtectionEnabled":false}`
		want := []string{
			"1m0s" + put + on,
			"6m0s" + put + on,
			"8m0s" + put + off, "8m30s" + put + off, "9m0s" + put + off, "9m30s" + put + off, "10m0s" + put + off, "10m30s" + put + off,
			"20m0s" + put + on,
			"21m0s" + put + off,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("requests to the agent (-want +got):\n%s", diff)
		}
		if got := log.with("WARN", "cannot change ECS task protection", "TASK_NOT_VALID"); len(got) != 1 {
			t.Errorf("logged %q", log.lines)
		}
	})
}

func TestProtectionAnswers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ answer, want string }{
		"error":         {`{"error":{"Arn":"…","Code":"AccessDeniedException","Message":"not authorized"}}`, "AccessDeniedException: not authorized"},
		"failure":       {`{"failure":{"Reason":"DEPLOYMENT_BLOCKED"}}`, "DEPLOYMENT_BLOCKED"},
		"no protection": {`{"protection":{"ProtectionEnabled":false}}`, "did not confirm"},
		"nothing":       {`{}`, "did not confirm"},
		"no JSON":       {`404 page not found`, "status 200"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				agent := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, test.answer) })
				var log records
				p := worker.NewProtection("http://agent", inprocess.Client{Handler: agent}, slog.New(&log))
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { p.Run(ctx); close(done) }()
				p.InFlight(1)
				synctest.Wait()
				if got := log.with("WARN", test.want); len(got) != 1 {
					t.Errorf("logged %q, want %q", log.lines, test.want)
				}
				stop()
				<-done
			})
		})
	}
}
