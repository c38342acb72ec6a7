package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// rateWindow is the time that the rate of a watched job is an average of.
const rateWindow = 30 * time.Second

type reencryptWatchCommand struct {
	jobFlags
	interval time.Duration
	looks    []reencrypt.Status // of this pass, not much older than rateWindow
}

func newReencryptWatchCommand(p *process) *cobra.Command {
	var c reencryptWatchCommand
	command := &cobra.Command{
		Use: "watch JOB", Short: "Follow a job until it ends",
		Long: `Follows a job until it ends: on a terminal in one line that changes, else in a line for each change.

Exit code 0 says that the job is complete and moved every version under the old keys; 1 that it ended otherwise, or that some are left.`,
		Args: cobra.ExactArgs(1),
		RunE: p.onJob(c.run),
	}
	c.add(command, "each look at the job, one per line,")
	command.Flags().DurationVar(&c.interval, "interval", 2*time.Second, "how often to look")
	return command
}

// run looks at the job until it has ended, and then prints what it came to.
func (c *reencryptWatchCommand) run(ctx context.Context, p *process, e *reencrypt.Engine, job string) error {
	if c.interval < 100*time.Millisecond {
		return usageError{errors.New("--interval must be at least 100ms")}
	}
	watch := e.Watch(job)
	tick := time.NewTicker(c.interval)
	defer tick.Stop()
	out := newLine(p.stdout)
	for {
		s, err := watch.Look(ctx)
		if err != nil {
			return err
		}
		if c.json {
			err = printJSON(p.stdout, s)
		} else {
			err = out.show(watchText(s, c.rate(s)))
		}
		if err != nil {
			return err
		}
		if ended(s.State) {
			return c.end(p.stdout, out, s)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ended reports whether a job does no more work unless it is resumed.
func ended(s reencrypt.State) bool {
	return s != reencrypt.StateRunning && s != reencrypt.StatePaused
}

// end says how the job ended.
func (c *reencryptWatchCommand) end(w io.Writer, out *line, s reencrypt.Status) error {
	if !c.json {
		if err := out.end(); err != nil {
			return err
		}
		if err := printStatus(w, s); err != nil {
			return err
		}
	}
	if s.State != reencrypt.StateComplete || s.Refused+s.Failed > 0 {
		return errSilent
	}
	return nil
}

// rate returns how many object versions a second the job went through lately.
func (c *reencryptWatchCommand) rate(s reencrypt.Status) float64 {
	if n := len(c.looks); n > 0 && (c.looks[n-1].Passes != s.Passes || c.looks[n-1].State != s.State || c.looks[n-1].InPass > s.InPass) {
		c.looks = nil
	}
	c.looks = append(slices.DeleteFunc(c.looks, func(old reencrypt.Status) bool { return s.At.Sub(old.At) > rateWindow }), s)
	first := c.looks[0]
	if took := s.At.Sub(first.At).Seconds(); took > 0 {
		return float64(s.InPass-first.InPass) / took
	}
	return s.Rate()
}

// watchText is a job's status in one line.
func watchText(s reencrypt.Status, rate float64) string {
	text := fmt.Sprintf("%s, pass %s: %s", s.State, passText(s), countsText(s.Counts))
	if s.State == reencrypt.StateRunning {
		text += fmt.Sprintf("; %.0f/s%s; in work: %s", rate, leftText(s, rate), workText(s))
	}
	for _, b := range s.Batch {
		text += "; S3 Batch job " + alert.Escape(b.String())
	}
	if s.Cause != "" {
		text += "; " + alert.Escape(s.Cause)
	}
	var refused []string
	for _, reason := range slices.Sorted(maps.Keys(s.ByReason)) {
		if !reason.Skips() {
			refused = append(refused, fmt.Sprintf("%s %d", reason, s.ByReason[reason]))
		}
	}
	if len(refused) > 0 {
		text += "; not moved: " + strings.Join(refused, ", ")
	}
	if s.EnvelopesIn != "" {
		text += "; " + strings.TrimSuffix(strings.Join(s.ClientSide(false), " "), ".")
	}
	return text
}

// line shows texts that replace each other: in place on a terminal, else one below
// the other where they differ.
type line struct {
	w        io.Writer
	terminal *os.File // nil where it is none
	last     string
}

func newLine(w io.Writer) *line {
	l := &line{w: w}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		l.terminal = f
	}
	return l
}

// show shows a text in place of the one before.
func (l *line) show(text string) (err error) {
	switch {
	case l.terminal != nil:
		// What is longer than the line would break, and could not be replaced.
		if width, _, err := term.GetSize(int(l.terminal.Fd())); err == nil && len(text) >= width {
			text = text[:max(width-1, 0)]
		}
		_, err = fmt.Fprintf(l.w, "\r\x1b[K%s", text)
	case text != l.last:
		_, err = fmt.Fprintln(l.w, text)
	}
	l.last = text
	return err
}

// say shows a text that stays.
func (l *line) say(text string) {
	if l.terminal != nil {
		fmt.Fprint(l.w, "\r\x1b[K")
	}
	fmt.Fprint(l.w, wrapTo(columns, alert.Escape(text), "", "  "))
	l.last = ""
}

// end ends the show.
func (l *line) end() error {
	if l.terminal == nil {
		return nil
	}
	_, err := fmt.Fprintln(l.w)
	return err
}
