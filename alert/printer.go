package alert

import (
	"context"
	"fmt"
	"io"
	"sync"
)

// Printer is a Sink that writes alerts, each with a line break at its end. It is safe
// for concurrent use; its fields are set before the first use.
type Printer struct {
	W io.Writer
	// Format is FormatText for people, FormatJSON for machines.
	Format Format

	mu sync.Mutex
}

// Publish writes the alert.
func (p *Printer) Publish(_ context.Context, a Alert) error {
	out, err := p.Format.renderer().render(a)
	if err != nil {
		return fmt.Errorf("render alert: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.W.Write(append(out, '\n')); err != nil {
		return fmt.Errorf("print alert: %w", err)
	}
	return nil
}
