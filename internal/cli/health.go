package cli

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
)

type healthCommand struct {
	Addr  string        `help:"Address of the worker's HTTP server; by default CMKEEPER_HTTP_ADDR, else ${default}." default:":8080" placeholder:"HOST:PORT"`
	Ready bool          `help:"Ask whether it has begun to receive, too."`
	After time.Duration `help:"Give up after this long." name:"timeout" default:"3s"`
}

// Run asks the worker over HTTP, so that a process that hangs is not taken for a healthy one.
func (c healthCommand) Run(ctx context.Context, p *process) error {
	if addr := p.environment[envPrefix+"HTTP_ADDR"]; addr != "" && c.Addr == ":8080" {
		c.Addr = addr
	}
	host, port, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return usageError{fmt.Errorf("address %q: %w", c.Addr, err)}
	}
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	path := "/healthz"
	if c.Ready {
		path = "/readyz"
	}
	ctx, cancel := context.WithTimeout(ctx, c.After)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+path, nil)
	if err != nil {
		return usageError{err}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no answer from the worker: %w", err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the worker answered %s to %s", resp.Status, path)
	}
	return nil
}
