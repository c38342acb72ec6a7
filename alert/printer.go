package alert

import (
	"context"
	"fmt"
	"io"
	"sync"
)

// Printer is a Sink that writes alerts, for people or, one per line, for
// machines. It is safe for concurrent use; its fields are set before the first use.
type Printer struct {
	W io.Writer
	// JSON writes the JSON rendering instead of the text.
	JSON bool

	mu sync.Mutex
}

// Publish writes the alert.
func (p *Printer) Publish(_ context.Context, a Alert) error {
	out := []byte(a.Text())
	if p.JSON {
		var err error
		if out, err = a.JSON(); err != nil {
			return fmt.Errorf("encode alert: %w", err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.W.Write(append(out, '\n')); err != nil {
		return fmt.Errorf("print alert: %w", err)
	}
	return nil
}
