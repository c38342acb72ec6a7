package inprocess_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

func do(ctx context.Context, t *testing.T, handler http.HandlerFunc) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, inprocess.Endpoint+"/path?q=1", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	return inprocess.Client{Handler: handler}.Do(r)
}

func TestRequestReachesTheHandler(t *testing.T) {
	resp, err := do(t.Context(), t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", r.Host+r.RequestURI)
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write(body)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "body" || resp.StatusCode != http.StatusTeapot || resp.Header.Get("X-Seen") != "localaws.internal/path?q=1" {
		t.Errorf("%d %q %v, %v", resp.StatusCode, body, resp.Header, err)
	}
}

func TestDroppedConnection(t *testing.T) {
	_, err := do(t.Context(), t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if !errors.Is(err, inprocess.ErrConnectionReset) {
		t.Errorf("error = %v, want %v", err, inprocess.ErrConnectionReset)
	}
}

func TestCancelledRequestReturnsAndTellsTheHandler(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan struct{})
	_, err := do(ctx, t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
		close(told)
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want %v", err, context.Canceled)
	}
	<-told
}

func TestHeadHasNoBody(t *testing.T) {
	r := httptest.NewRequestWithContext(t.Context(), http.MethodHead, "http://localaws.internal/", nil)
	resp, err := inprocess.Client{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "<Error/>")
	})}.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || len(body) > 0 || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%d %q, %v", resp.StatusCode, body, err)
	}
}
