package cli

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

type healthCommand struct {
	addr    string
	ready   bool
	timeout time.Duration
}

func newHealthCommand(p *process) *cobra.Command {
	var c healthCommand
	command := &cobra.Command{
		Use: "health", Short: "Ask the worker of this container whether it is well; for health checks", Args: cobra.NoArgs,
		RunE: p.action(c.run),
	}
	addr := p.environment[envPrefix+"HTTP_ADDR"]
	if addr == "" {
		addr = ":8080"
	}
	flags := command.Flags()
	flags.StringVar(&c.addr, "addr", addr, "`address` of the worker's HTTP server: CMKEEPER_HTTP_ADDR or")
	flags.BoolVar(&c.ready, "ready", false, "ask whether it has begun to receive, too")
	flags.DurationVar(&c.timeout, "timeout", 3*time.Second, "give up after this long")
	return command
}

// run asks the worker over HTTP, so that a process that hangs is not taken for a healthy one.
func (c *healthCommand) run(ctx context.Context, _ *process) error {
	host, port, err := net.SplitHostPort(c.addr)
	if err != nil {
		return usageError{fmt.Errorf("address %q: %w", c.addr, err)}
	}
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	path := "/healthz"
	if c.ready {
		path = "/readyz"
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
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
